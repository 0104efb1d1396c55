// recipes/buffer_ring.hpp: every byte once and in order, back-pressure, all ends, and all of it
// stopped at every moment.
#include <doctest/doctest.h>

#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <iterator>
#include <memory>
#include <optional>
#include <random>
#include <ringlet/recipes/buffer_ring.hpp>
#include <ringlet/timer.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "inject.hpp"
#include "support.hpp"

using ringlet::block_on;
using ringlet::deadlock;
using ringlet::executor;
using ringlet::join_handle;
using ringlet::reactor;
using ringlet::spawn;
using ringlet::task;
using ringlet::unique_fd;
using ringlet::yield_now;
using ringlet::io::buffer_ring;
using ringlet::io::recv_many;
using support::drop;
using piece = buffer_ring::piece;

namespace {

auto open_files() {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
}
struct no_leak {
    const std::ptrdiff_t before = open_files();
    no_leak() = default;
    no_leak(no_leak&&) = delete;
    ~no_leak() { CHECK(open_files() == before); }
};

struct socket_pair {
    unique_fd a, b;
    socket_pair() {
        int ends[2];
        REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
        a.reset(ends[0]);
        b.reset(ends[1]);
    }
    void put(std::string_view text) const {
        REQUIRE(
            ::send(b, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size()));
    }
    int waiting() const {
        int n = 0;
        REQUIRE(::ioctl(a, FIONREAD, &n) == 0);
        return n;
    }
};
void bytes_taken(int fd) {
    char buffer[64];
    REQUIRE(::recv(fd, buffer, sizeof buffer, MSG_DONTWAIT) > 0);
}
// A TCP connection.
struct tcp_pair {
    unique_fd client, server;
    tcp_pair() {
        const unique_fd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_in address{};
        socklen_t size = sizeof address;
        auto* const at = reinterpret_cast<sockaddr*>(&address);
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        REQUIRE(::bind(listener, at, size) == 0);
        REQUIRE(::listen(listener, 1) == 0);
        REQUIRE(::getsockname(listener, at, &size) == 0);
        client.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        REQUIRE(::connect(client, at, size) == 0);
        server.reset(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
        REQUIRE(server.get() >= 0);
    }
    void put(std::string_view text) const {
        REQUIRE(::send(client, text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()));
    }
    void slam() {
        const linger at_once{1, 0};
        REQUIRE(::setsockopt(client, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once) == 0);
        client.reset();
    }
};
std::string noise(std::size_t size) {
    std::mt19937 random(static_cast<unsigned>(size));
    std::string text(size, '\0');
    for (char& c : text) c = static_cast<char>(random());
    return text;
}
std::string text_of(const piece& p) {
    return {reinterpret_cast<const char*>(p.data().data()), p.data().size()};
}

task<> turns(int n) {
    while (n--) co_await yield_now();
}
// Sends all, in parts of any size.
task<> send_all(int fd, std::string_view text, unsigned seed = 1) {
    std::mt19937 random(seed);
    while (!text.empty()) {
        const auto part = text.substr(0, 1 + random() % 40);
        text.remove_prefix(co_await ringlet::io::send(fd, std::as_bytes(std::span(part))));
        if (random() % 2) co_await yield_now();
    }
}
task<piece> next_piece(recv_many& from) { co_return co_await from.next(); }
task<std::string> next_text(recv_many& from) {
    const piece p = co_await from.next();
    co_return text_of(p);
}
// To the end of the stream.
task<std::string> all_of(recv_many& from) {
    std::string text;
    for (;;) {
        const std::string part = co_await next_text(from);
        if (part.empty()) co_return text;
        text += part;
    }
}
task<int> error_of(recv_many& from, std::string* what = nullptr) {
    int error = 0;
    try {
        drop(co_await from.next());
    } catch (const std::system_error& e) {
        error = e.code().value();
        if (what) *what = e.what();
    }
    co_return error;
}
unsigned in_flight() { return reactor::stats().in_flight; }

// Makes requests of this kind fail.
unsigned victim;
int injected;
class failing {
public:
    failing(unsigned opcode, int error) {
        victim = opcode;
        injected = error;
        reactor::on_submit = [](io_uring_sqe* s) {
            if (s->opcode == victim) support::inject(s, -injected);
        };
    }
    failing(failing&&) = delete;
    ~failing() { reactor::on_submit = nullptr; }
};

}  // namespace

TEST_CASE("each byte once and in order, in rings of any size, pieces given back in any order") {
    const no_leak checks;
    const std::string data = noise(5000);
    for (const unsigned entries : {64u, 1u}) {  // 1: there is room for 4 completions
        for (const int count : {1, 2, 7, 64}) {
            for (const int size : {1, 16, 300}) {
                CAPTURE(entries);
                CAPTURE(count);
                CAPTURE(size);
                auto root = [&]() -> task<> {
                    std::mt19937 random(7);
                    const socket_pair s;
                    std::string got;
                    reactor::here(reactor::options(entries));
                    buffer_ring buffers(count, size);
                    recv_many incoming(s.a);
                    auto sends = spawn(send_all(s.b, data));
                    std::deque<piece> held;
                    while (got.size() < data.size()) {
                        held.push_back(co_await incoming.next());
                        const std::string text = text_of(held.back());
                        CHECK(!text.empty());
                        CHECK(text.size() <= static_cast<std::size_t>(size));
                        got += text;
                        while (held.size() >= static_cast<std::size_t>(count)
                            || (!held.empty() && random() % 2)) {
                            const auto which = static_cast<std::ptrdiff_t>(random() % held.size());
                            held.erase(held.begin() + which);
                        }
                    }
                    CHECK(got == data);
                    co_await std::move(sends);
                    CHECK(s.waiting() == 0);
                };
                block_on(root());
            }
        }
    }
}

TEST_CASE("what lies in a piece stays as it is, for as long as it is held") {
    const no_leak checks;
    auto root = []() -> task<> {
        const socket_pair s;
        buffer_ring buffers(3, 8);
        recv_many incoming(s.a);
        s.put("aaaaaaaabbbbbbbbccccccccdddddddd");
        const piece a = co_await incoming.next();
        piece b = co_await incoming.next();
        {
            const piece c = co_await incoming.next();
            CHECK(text_of(c) == "cccccccc");
        }
        const piece d = co_await incoming.next();
        CHECK(text_of(a) == "aaaaaaaa");
        CHECK(text_of(b) == "bbbbbbbb");
        CHECK(text_of(d) == "dddddddd");
        const piece moved = std::move(b);
        CHECK(text_of(b).empty());
        CHECK(text_of(moved) == "bbbbbbbb");
    };
    block_on(root());
}

TEST_CASE("back-pressure: who holds all buffers receives no more; one given back, and it goes on") {
    const no_leak checks;
    auto root = []() -> task<> {
        const socket_pair s;
        const std::string data = noise(200);
        buffer_ring buffers(4, 16);
        recv_many incoming(s.a);
        std::deque<piece> held;
        std::string got;
        s.put(data);
        for (int i = 0; i < 4; ++i) {
            held.push_back(co_await incoming.next());
            got += text_of(held.back());
        }
        CHECK(got == data.substr(0, 64));
        while (got.size() < data.size()) {
            auto waits = spawn(next_piece(incoming));
            co_await turns(200);
            CHECK_FALSE(waits.done());
            CHECK(s.waiting() == static_cast<int>(data.size() - got.size()));
            CHECK(in_flight() == 0);  // nothing is asked of the kernel meanwhile
            held.pop_front();
            held.push_back(co_await std::move(waits));
            got += text_of(held.back());
            CHECK(got == data.substr(0, got.size()));
        }
        CHECK(s.waiting() == 0);
    };
    block_on(root());
}

namespace {

// One buffer, two who receive, and the buffer is held.
struct only_buffer {
    buffer_ring buffers;
    recv_many a, b;
    std::optional<piece> held;
    only_buffer(const socket_pair& silent, const socket_pair& talks)
        : buffers(1, 16), a(silent.a), b(talks.a) {}
    task<> take(const socket_pair& talks) {
        talks.put("1");
        held = co_await b.next();
    }
};

}  // namespace

TEST_CASE("a buffer given back reaches the one who has data, past those whose peers are silent") {
    const no_leak checks;
    auto root = []() -> task<> {
        const socket_pair silent, talks;
        only_buffer it(silent, talks);
        co_await it.take(talks);
        auto first = spawn(next_piece(it.a)), second = spawn(next_piece(it.b));
        co_await turns(100);
        talks.put("two");
        co_await turns(100);  // b is told that there is no buffer, and waits for one behind a
        it.held.reset();
        for (int i = 0; i < 10'000 && !second.done(); ++i) co_await yield_now();
        REQUIRE(second.done());
        const piece p = co_await std::move(second);
        CHECK(text_of(p) == "two");
        CHECK_FALSE(first.done());
    };
    block_on(root());
}

TEST_CASE("a buffer given back reaches the one who has data, past two who share a silent peer") {
    const no_leak checks;
    auto root = []() -> task<> {
        const socket_pair silent, talks;
        only_buffer it(silent, talks);
        co_await it.take(talks);
        talks.put("two");
        co_await turns(100);  // the request of b has ended, for want of a buffer
        auto first = spawn(next_piece(it.a)), other = spawn(next_piece(it.a));
        co_await turns(100);
        auto second = spawn(next_text(it.b));
        co_await turns(100);
        it.held.reset();
        co_await turns(1000);
        REQUIRE(second.done());
        const std::string text = co_await std::move(second);
        CHECK(text == "two");
        CHECK_FALSE(first.done());
        CHECK_FALSE(other.done());
    };
    block_on(root());
}

TEST_CASE("back-pressure reaches the sender") {
    const no_leak checks;
    auto root = []() -> task<> {
        const socket_pair s;
        const std::string data = noise(1'000'000);
        buffer_ring buffers(2, 100);
        recv_many incoming(s.a);
        auto sends = spawn(send_all(s.b, data));
        const piece a = co_await incoming.next();
        std::optional<piece> b = co_await incoming.next();
        std::string got = text_of(a) + text_of(*b);
        int before = -1;
        while (std::exchange(before, s.waiting()) != s.waiting()) co_await turns(1000);
        CHECK_FALSE(sends.done());
        b.reset();
        while (got.size() < data.size()) {
            const std::string text = co_await next_text(incoming);
            REQUIRE_FALSE(text.empty());
            got += text;
        }
        CHECK(got == data);
        co_await std::move(sends);
    };
    block_on(root());
}

TEST_CASE(
    "deadlock, and no busy waiting, where all buffers are held by the one who waits for more") {
    const no_leak checks;
    auto root = []() -> task<> {
        const socket_pair s;
        buffer_ring buffers(1, 4);
        recv_many incoming(s.a);
        s.put("abcdefgh");
        const piece p = co_await incoming.next();
        drop(co_await incoming.next());
    };
    CHECK_THROWS_AS(block_on(root()), deadlock);
}

TEST_CASE("many receivers share the buffers, and each gets its own stream") {
    const no_leak checks;
    for (const int count : {1, 3, 100}) {
        CAPTURE(count);
        auto root = [&]() -> task<> {
            constexpr std::size_t many = 20;
            std::deque<socket_pair> sockets(many);
            std::deque<std::string> sent;
            std::deque<recv_many> incoming;
            std::vector<task<std::string>> readers;
            std::vector<join_handle<>> senders;
            buffer_ring buffers(count, 16);
            for (std::size_t i = 0; i < many; ++i) {
                sent.push_back(noise(1000 + i));
                incoming.emplace_back(sockets[i].a);
                readers.push_back(all_of(incoming.back()));
                auto work = [](int fd, std::string_view text) -> task<> {
                    co_await send_all(fd, text);
                    ::shutdown(fd, SHUT_WR);
                };
                senders.push_back(spawn(work, sockets[i].b.get(), std::string_view(sent.back())));
            }
            const auto got = co_await ringlet::when_all(std::move(readers));
            CHECK(std::ranges::equal(got, sent));
            incoming.clear();
            co_await turns(5);  // the last buffers are given back
            CHECK(in_flight() == 0);
        };
        block_on(root());
    }
}

TEST_CASE("a buffer that one leaves is the next one's: cancelled, ended, reset") {
    const no_leak checks;
    enum { cancel, cancel_later, end, error };
    for (const int how : {cancel, cancel_later, end, error}) {
        CAPTURE(how);
        auto root = [&]() -> task<> {
            const socket_pair s, t, u;
            buffer_ring buffers(1, 8);
            std::optional<recv_many> holder(s.a), first(t.a);
            recv_many second(u.a);
            s.put("holds");
            std::optional<piece> held = co_await holder->next();
            t.put("first");
            u.put("second");
            auto a = spawn(next_text(*first));
            co_await turns(100);
            auto b = spawn(next_text(second));
            co_await turns(100);
            CHECK_FALSE(a.done());
            CHECK_FALSE(b.done());
            if (how == end || how == error) {  // what the first waits for is gone when it may go on
                bytes_taken(t.a);
                if (how == end) ::shutdown(t.b, SHUT_WR);
                else ::shutdown(t.a, SHUT_RD);
            }
            if (how == cancel) drop(std::move(a));
            held.reset();
            if (how == cancel_later) {
                drop(co_await std::move(a).cancel());
                first.reset();
            }
            const std::string text = co_await std::move(b);
            CHECK(text == "second");
        };
        block_on(root());
    }
}

TEST_CASE(
    "the end of the stream is an empty piece, as often as one asks; then half of it still sends") {
    const no_leak checks;
    auto root = []() -> task<> {
        const socket_pair s;
        buffer_ring buffers(2, 8);
        recv_many incoming(s.a);
        s.put("last");
        ::shutdown(s.b, SHUT_WR);
        const std::string text = co_await next_text(incoming);
        CHECK(text == "last");
        for (int i = 0; i < 3; ++i) {
            const piece p = co_await incoming.next();
            CHECK(p.data().empty());
        }
        CHECK(in_flight() == 0);
        CHECK(::send(s.a, "x", 1, 0) == 1);
    };
    block_on(root());
}

TEST_CASE("a schedule function that runs its job on the spot: every byte, and the end") {
    const no_leak checks;
    auto root = []() -> task<> {
        socket_pair s;
        std::string got;
        bool over = false;
        buffer_ring buffers(2, 4);
        auto reads = [&](int fd) -> task<> {
            recv_many incoming(fd);
            got = co_await all_of(incoming);
            over = true;
        };
        auto [r, h] = ringlet::spawn(reads(s.a), [](ringlet::runnable x) { std::move(x).run(); });
        std::move(r).run();
        s.put("more than the buffers hold");
        co_await turns(100);
        s.b.reset();
        for (int i = 0; i < 1000 && !over; ++i) co_await yield_now();
        CHECK(over);
        CHECK(got == "more than the buffers hold");
    };
    block_on(root());
}

TEST_CASE("reset by the peer: what came before is given, then the error, with its name") {
    const no_leak checks;
    auto root = [](bool waits, bool data) -> task<> {
        tcp_pair c;
        buffer_ring buffers(2, 8);
        recv_many incoming(c.server);
        std::string what;
        const std::string name = "recv on descriptor " + std::to_string(c.server.get());
        if (data) {
            c.put("abc");
            const std::string text = co_await next_text(incoming);
            CHECK(text == "abc");
        }
        join_handle<int> h;
        if (waits) {
            h = spawn(error_of(incoming, &what));
            co_await turns(100);
            CHECK_FALSE(h.done());
            c.slam();
        } else {
            c.slam();
            h = spawn(error_of(incoming, &what));
        }
        const int error = co_await std::move(h);
        CHECK(error == ECONNRESET);
        CHECK(what.starts_with(name + ": "));
        const piece p = co_await incoming.next();  // it is said once
        CHECK(p.data().empty());
        CHECK(in_flight() == 0);
    };
    for (const bool waits : {false, true}) {
        for (const bool data : {false, true}) block_on(root(waits, data));
    }
}

TEST_CASE("several tasks receive from one socket: each what it is given, and all the end") {
    const no_leak checks;
    auto root = []() -> task<> {
        socket_pair s, other;
        buffer_ring buffers(1, 16);
        recv_many in(s.a), holder(other.a);
        std::vector<std::size_t> sizes;
        auto reads = [&]() -> task<> {
            auto p = co_await in.next();
            sizes.push_back(p.data().size());
        };
        auto a = spawn(reads()), b = spawn(reads()), c = spawn(reads());
        other.put("x");
        {
            auto held = co_await holder.next();
            s.put("123");  // for which there is no buffer: the request ends
            for (int i = 0; i < 5; ++i) co_await ringlet::io::nop();
            CHECK(sizes.empty());
        }
        co_await std::move(a);
        CHECK(sizes == std::vector<std::size_t>{3});
        s.b.reset();
        co_await std::move(b);
        co_await std::move(c);
        CHECK(sizes == std::vector<std::size_t>{3, 0, 0});
    };
    block_on(root());
}

TEST_CASE("errors: one that could not be made is not there") {
    const no_leak checks;
    executor other;
    std::thread([&] { other.run(ringlet::io::nop()); }).join();
    auto root = []() -> task<> {
        buffer_ring buffers(1, 16);
        co_return;
    };
    CHECK_THROWS_AS(other.run(root()), std::logic_error);
    block_on(root());
}

TEST_CASE("errors: no socket, no ring, two rings") {
    const no_leak checks;
    auto root = []() -> task<> {
        int pipe[2];
        REQUIRE(::pipe2(pipe, O_CLOEXEC) == 0);
        const unique_fd out(pipe[0]), in(pipe[1]);
        recv_many without(out);
        bool thrown = false;
        try {
            drop(co_await without.next());
        } catch (const std::logic_error&) { thrown = true; }
        CHECK(thrown);
        buffer_ring buffers(2, 8);
        CHECK_THROWS_AS(buffer_ring(1, 1), std::logic_error);
        recv_many bad(-1), no_socket(out);
        int error = co_await error_of(bad);
        CHECK(error == EBADF);
        error = co_await error_of(no_socket);
        CHECK(error == ENOTSOCK);
    };
    block_on(root());
}

TEST_CASE("errors: a request that gives buffers and fails, and a receive that does") {
    if (!support::can_inject()) return;
    const no_leak checks;
    auto fails = []() -> task<> {
        const socket_pair s;
        recv_many incoming(s.a);
        const failing f(IORING_OP_PROVIDE_BUFFERS, ENOMEM);
        buffer_ring buffers(2, 8);
        s.put("abc");
        std::string what;
        const int error = co_await error_of(incoming, &what);
        CHECK(error == ENOMEM);
        CHECK(what.starts_with("provide_buffers: "));
    };
    block_on(fails());
    auto passing = []() -> task<> {  // an error that is not the stream's: it goes on afterwards
        const socket_pair s;
        buffer_ring buffers(2, 8);
        recv_many incoming(s.a);
        s.put("abc");
        {
            const failing f(IORING_OP_RECV, ENOMEM);
            const int error = co_await error_of(incoming);
            CHECK(error == ENOMEM);
        }
        const std::string text = co_await next_text(incoming);
        CHECK(text == "abc");
    };
    block_on(passing());
}

TEST_CASE(
    "a cancelled wait takes nothing; what came and was not taken goes back with the receiver") {
    const no_leak checks;
    auto root = []() -> task<> {
        const socket_pair s, t;
        buffer_ring buffers(2, 8);
        std::optional<recv_many> incoming(s.a);
        for (int i = 0; i < 100; ++i) {  // a cancel that comes as the bytes come
            auto waits = spawn(next_text(*incoming));
            co_await turns(i % 7);
            s.put("ab");
            co_await turns(i % 3);
            std::optional<std::string> text = co_await std::move(waits).cancel();
            if (!text) text = co_await next_text(*incoming);
            CHECK(*text == "ab");
        }
        co_await turns(5);  // the last buffer is the kernel's again
        s.put("abcdefghijklmnop");
        co_await turns(200);  // both buffers are in its line now
        CHECK(s.waiting() == 0);
        recv_many other(t.a);
        t.put("other");
        auto waits = spawn(next_text(other));
        co_await turns(200);
        CHECK_FALSE(waits.done());
        incoming.reset();
        const std::string text = co_await std::move(waits);
        CHECK(text == "other");
    };
    block_on(root());
}

TEST_CASE("stopped at each suspension: nothing is left, and nobody else is disturbed") {
    const no_leak checks;
    int longest = 0;
    for (int after = 0; after < 400; after += after < 60 ? 1 : 37) {
        CAPTURE(after);
        const socket_pair s, t;
        const std::string data = noise(300);
        bool over = false;
        auto receives = [&]() -> task<> {
            recv_many incoming(s.a);
            std::deque<piece> held;
            for (int i = 0;; ++i) {
                held.push_back(co_await incoming.next());
                if (held.back().data().empty()) break;
                if (held.size() == 3 || i % 4 == 0) held.pop_front();
                if (i % 5 == 0) held.clear();
            }
            over = true;
        };
        auto root = [&]() -> task<> {
            buffer_ring buffers(4, 8);
            recv_many other(t.a);
            auto sends = spawn(send_all(s.b, data));
            auto also = spawn(send_all(t.b, data));
            auto h = spawn(receives());
            co_await turns(after);
            drop(std::move(h));
            longest += !over;
            std::string got;
            while (got.size() < data.size()) got += co_await next_text(other);
            CHECK(got == data);
            co_await std::move(also);
            drop(std::move(sends));
        };
        block_on(root());
    }
    CHECK(longest > 20);
}

TEST_CASE("an executor ends in the middle of it: armed, with pieces in line, with pieces held") {
    const no_leak checks;
    for (int after = 0; after < 40; ++after) {
        CAPTURE(after);
        const socket_pair s;
        auto inner = [&]() -> task<> {
            buffer_ring buffers(4, 8);
            recv_many incoming(s.a);
            std::deque<piece> held;
            for (;;) {
                held.push_back(co_await incoming.next());
                if (held.size() == 3) held.pop_front();
            }
        };
        auto root = [&]() -> task<> {
            spawn(inner()).detach();
            s.put("abcdefghijklmnopq");
            co_await turns(after);
        };
        block_on(root());
    }
}

TEST_CASE("the buffers go before a task whose handle went with them: waiting, or holding a piece") {
    const no_leak checks;
    for (int after = 0; after < 40; ++after) {
        auto root = [&]() -> task<> {
            const socket_pair s;
            std::string seen;
            auto hold = [](int fd, std::string& all) -> task<> {
                recv_many incoming(fd);
                for (;;) {
                    const piece p = co_await incoming.next();
                    all += text_of(p);
                    co_await turns(3);
                }
            };
            {
                buffer_ring buffers(2, 4);
                s.put("0123456789abcdef");
                const join_handle<> one = spawn(hold(s.a, seen)), two = spawn(hold(s.b, seen));
                co_await turns(after);
            }
            std::optional<buffer_ring> next;  // a piece of the other one is not given to this
            if (after % 2) next.emplace(2, 4);
            co_await turns(20);
            CHECK(std::string("0123456789abcdef").starts_with(seen));
        };
        block_on(root());
    }
}

TEST_CASE("a piece of a ring that is gone gives nothing to the next one") {
    const no_leak checks;
    auto root = []() -> task<> {
        const socket_pair s, t;
        recv_many before(s.a), after(t.a);
        std::optional<buffer_ring> buffers(std::in_place, 1, 4);
        s.put("old");
        std::optional<piece> old = co_await before.next();
        buffers.reset();
        buffers.emplace(1, 4);
        t.put("1234more");
        std::optional<piece> held = co_await after.next();
        auto waits = spawn(next_text(after));
        old.reset();
        co_await turns(100);
        CHECK_FALSE(waits.done());
        held.reset();
        const std::string text = co_await std::move(waits);
        CHECK(text == "more");
    };
    block_on(root());
}

TEST_CASE("a buffer_ring is its executor's: one that another ticks is refused") {
    auto root = []() -> task<> {
        buffer_ring buffers(1, 1);
        executor other;
        auto receive = [](int fd) -> task<> {
            recv_many incoming(fd);
            co_await incoming.next();
        };
        const socket_pair s;
        const join_handle<> h = other.spawn(receive(s.a));
        for (int i = 0; i < 100 && !h.done(); ++i) other.try_tick();
        CHECK(h.done());
        co_return;
    };
    block_on(root());
}

TEST_CASE("one ring after the other, in one executor and in the next") {
    const no_leak checks;
    for (int executors = 0; executors < 3; ++executors) {
        auto root = []() -> task<> {
            const socket_pair s;
            for (int i = 1; i < 300; ++i) {
                buffer_ring buffers(1 + i % 9, i);
                recv_many incoming(s.a);
                s.put("abc");
                std::string got;
                while (got.size() < 3) got += co_await next_text(incoming);
                CHECK(got == "abc");
            }
            CHECK(in_flight() == 0);
        };
        block_on(root());
    }
}

TEST_CASE("a forked child ends what it has inherited, and disturbs nobody") {
    const no_leak checks;
    const socket_pair s;
    pid_t child = -1;
    auto root = [&]() -> task<> {
        buffer_ring buffers(3, 8);
        recv_many incoming(s.a);
        s.put("abcdefghij");
        const piece p = co_await incoming.next();
        co_await turns(100);
        child = ::fork();
        if (child) {
            int status = -1;
            CHECK(::waitpid(child, &status, 0) == child);
            CHECK(status == 0);
            s.put("kl");
            std::string got;
            while (got.size() < 4) got += co_await next_text(incoming);
            CHECK(got == "ijkl");
        }
    };
    try {
        block_on(root());
    } catch (...) {
        if (!child) ::_exit(1);
        throw;
    }
    if (!child) ::_exit(0);
}
