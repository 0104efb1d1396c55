// recipes/buffered.hpp: the same lines and bytes, however the stream comes; nothing lost by a cancel.
#include <doctest/doctest.h>

#include <sys/ioctl.h>

#include <memory>
#include <random>
#include <ringlet/recipes/buffered.hpp>
#include <ringlet/timer.hpp>
#include <string>
#include <vector>

#include "support.hpp"

using namespace std::chrono_literals;
using namespace std::string_literals;
using ringlet::block_on;
using ringlet::buffered_reader;
using ringlet::executor;
using ringlet::task;
using ringlet::unique_fd;

namespace {

struct stream {
    unique_fd in, out;
    stream() {
        int ends[2];
        REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
        in.reset(ends[1]), out.reset(ends[0]);
    }
    void put(std::string_view text) {
        REQUIRE(::write(in, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
    }
};

std::string text_of(std::span<const std::byte> bytes) {
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

task<> read_lines(buffered_reader& from, support::history& lines) {
    for (auto line = co_await from.line(); line; line = co_await from.line()) {
        const std::string text(*line);
        lines.push_back(text);
    }
    const auto again = co_await from.line();
    CHECK_FALSE(again.has_value());
}

}  // namespace

TEST_CASE("lines: empty ones, binary ones, and the last one without an end") {
    stream s;
    s.put("one\n\nthree\0x\n\r\nlast"s);
    s.in.reset();
    support::history lines;
    buffered_reader from(s.out);
    block_on(read_lines(from, lines));
    CHECK(lines == support::history{"one", "", "three\0x"s, "\r", "last"});
}

TEST_CASE("lines with another end, each call its own") {
    stream s;
    s.put("a\nb;c;d\0e\n"s);
    s.in.reset();
    auto root = [&]() -> task<> {
        buffered_reader from(s.out);
        const auto list = co_await from.line(';');
        CHECK(*list == "a\nb");
        const auto none = co_await from.line('\0');
        CHECK(*none == "c;d");
        const auto last = co_await from.line(';');
        CHECK(*last == "e\n");
    };
    block_on(root());
}

TEST_CASE("an empty stream, and one that ends with an end of line") {
    for (const std::string text : {"", "\n", "x\n"}) {
        stream s;
        s.put(text);
        s.in.reset();
        support::history lines;
        buffered_reader from(s.out, 2);
        block_on(read_lines(from, lines));
        CHECK(lines.size() == (text.empty() ? 0 : 1));
    }
}

TEST_CASE("a bound of nothing is a bound of one byte") {
    stream s;
    s.put("\n\nx");
    buffered_reader from(s.out, 0);
    auto root = [&]() -> task<> {
        const auto line = co_await from.line();
        CHECK(line == "");
        const auto some = co_await from.some();
        CHECK(text_of(some) == "\n");
        const auto one = co_await from.exact(1);
        CHECK(text_of(one) == "x");
    };
    block_on(root());
}

TEST_CASE("split at every byte, with every size of the buffer that holds the longest line") {
    const std::string text = "a\nbc\n\ndefg\nhi";
    for (std::size_t bound = 5; bound < 20; ++bound) {
        for (std::size_t split = 0; split <= text.size(); ++split) {
            CAPTURE(bound);
            CAPTURE(split);
            stream s;
            support::history lines;
            buffered_reader from(s.out, bound);
            executor ex;
            auto handle = ex.spawn(read_lines(from, lines));
            s.put(text.substr(0, split));
            for (int left = 1; left > 0; ::ioctl(s.out, FIONREAD, &left)) ex.try_tick();
            s.put(text.substr(split));
            s.in.reset();
            while (!handle.done()) ex.try_tick();
            CHECK(lines == support::history{"a", "bc", "", "defg", "hi"});
        }
    }
}

TEST_CASE("a line of just the bound is a line; one byte more is an error that takes nothing") {
    stream s;
    s.put("12345678\n123456789\nrest\n");
    auto root = [&]() -> task<> {
        buffered_reader from(s.out, 9);
        const auto fits = co_await from.line();
        CHECK(*fits == "12345678");
        for (int turn = 0; turn < 2; ++turn) {
            std::string message;
            try {
                co_await from.line();
            } catch (const std::length_error& e) { message = e.what(); }
            CHECK(support::contains(message, "a line is longer than the bound, 9 bytes"));
        }
        CHECK(from.unread() == "123456789");
        const auto skipped = co_await from.exact(9);
        CHECK(text_of(skipped) == "123456789");
        const auto end = co_await from.line();
        CHECK(end->empty());
        const auto rest = co_await from.line();
        CHECK(*rest == "rest");
    };
    block_on(root());
}

TEST_CASE("exact numbers of bytes, the end before that, and more than the bound") {
    stream s;
    s.put("head 5\nhellotail");
    s.in.reset();
    auto root = [&]() -> task<> {
        buffered_reader from(s.out, 8);
        const auto head = co_await from.line();
        CHECK(*head == "head 5");
        const auto none = co_await from.exact(0);
        CHECK(none.empty());
        const auto body = co_await from.exact(5);
        CHECK(text_of(body) == "hello");
        int error = 0;
        std::string message;
        try {
            co_await from.exact(5);
        } catch (const std::system_error& e) { error = e.code().value(), message = e.what(); }
        CHECK(error == ENODATA);
        CHECK(message.starts_with("exact on descriptor " + std::to_string(s.out.get()) + ": "));
        try {
            co_await from.exact(9);
        } catch (const std::length_error& e) { message = e.what(); }
        CHECK(support::contains(message, "8 bytes, on descriptor"));
        const auto left = co_await from.some();
        CHECK(text_of(left) == "tail");
        const auto end = co_await from.some();
        CHECK(end.empty());
    };
    block_on(root());
}

TEST_CASE("an error of the kernel reaches the caller") {
    auto root = []() -> task<> {
        const unique_fd directory(::open("/", O_RDONLY | O_CLOEXEC));
        buffered_reader from(directory);
        int error = 0;
        try {
            co_await from.line();
        } catch (const std::system_error& e) { error = e.code().value(); }
        CHECK(error == EISDIR);
    };
    block_on(root());
}

TEST_CASE("a reader that is cancelled at any moment loses no byte") {
    const std::string text = "first line\nsecond\nthird and last";
    for (int moment = 0; moment < 12; ++moment) {
        for (const bool with_executor : {false, true}) {
            CAPTURE(moment);
            stream s;
            buffered_reader from(s.out, 15);
            support::history before, after;
            auto ex = std::make_unique<executor>();
            auto handle = ex->spawn(read_lines(from, before));
            std::size_t sent = 0;
            for (int i = 0; i < moment; ++i) {
                const std::size_t n = std::min<std::size_t>(5, text.size() - sent);
                s.put(text.substr(sent, n));
                sent += n;
                ex->try_tick();
            }
            if (!with_executor) {
                handle = ringlet::join_handle<>();
                while (!ex->empty()) ex->try_tick();
            }
            ex.reset();
            s.put(text.substr(sent));
            s.in.reset();
            block_on(read_lines(from, after));
            before.insert(before.end(), after.begin(), after.end());
            CHECK(before == support::history{"first line", "second", "third and last"});
        }
    }
}

TEST_CASE("a timeout takes nothing") {
    const ringlet::virtual_time clock;
    stream s;
    auto root = [&]() -> task<> {
        buffered_reader from(s.out);
        s.put("half of ");
        auto none = co_await ringlet::try_timeout(1h, from.line());
        CHECK_FALSE(none.has_value());
        s.put("a line\n");
        const auto line = co_await from.line();
        CHECK(*line == "half of a line");
    };
    block_on(root());
}

TEST_CASE("a megabyte of random lines, in random pieces") {
    std::mt19937 random(1);
    support::history sent, received;
    std::string all;
    while (all.size() < 1'000'000) {
        std::string line(random() % 200, ' ');
        for (char& c : line) c = static_cast<char>(random() % 256), c = c == '\n' ? 'n' : c;
        sent.push_back(line);
        all += line + '\n';
    }
    stream s;
    auto writes = [&]() -> task<> {
        for (std::size_t at = 0; at < all.size();) {
            const std::size_t n = std::min<std::size_t>(1 + random() % 5000, all.size() - at);
            co_await ringlet::io::write_all(s.in, std::as_bytes(std::span(all).subspan(at, n)));
            at += n;
        }
        s.in.reset();
    };
    auto root = [&]() -> task<> {
        buffered_reader from(s.out, 201);
        co_await ringlet::when_all(writes(), read_lines(from, received));
    };
    block_on(root());
    CHECK((received == sent));
}
