// The recipes between httpd and fetch: listen, open_beneath, send_file, partial_file, http1_path,
// http1_file, http1_io.
#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <ringlet/recipes/http1_file.hpp>
#include <ringlet/recipes/http1_io.hpp>
#include <ringlet/recipes/listen.hpp>
#include <ringlet/recipes/open_beneath.hpp>
#include <ringlet/recipes/partial_file.hpp>
#include <ringlet/recipes/send_file.hpp>
#include <ringlet/timer.hpp>

#include "support.hpp"

using namespace std::chrono_literals;
using namespace ringlet;
namespace fs = std::filesystem;

namespace {

struct directory {
    fs::path home = fs::temp_directory_path() / ("serving_test." + std::to_string(::getpid()));
    directory() { fs::create_directories(home / "root/sub"); }
    directory(directory&&) = delete;
    ~directory() { fs::remove_all(home); }
    std::string file(const char* name, std::size_t size) const {
        std::string text(size, ' ');
        for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>('a' + i % 23);
        std::ofstream(home / name) << text;
        return text;
    }
    std::string path(const char* name) const { return (home / name).string(); }
};
auto descriptors() {
    const fs::directory_iterator all("/proc/self/fd");
    return std::distance(begin(all), end(all));
}
std::string read_file(const std::string& path) {
    std::ifstream in(path);
    return {std::istreambuf_iterator<char>(in), {}};
}
// The error of an await, or 0.
template <class A> int error_of(A work) {
    auto root = [](A what) -> task<int> {
        int error = 0;
        try {
            co_await std::move(what);
        } catch (const std::system_error& e) { error = e.code().value(); }
        co_return error;
    };
    return block_on(root(std::move(work)));
}
// Runs make() again and again, and ends it after 0, 1, 2 and so on completions, until it gets to its end.
template <class Make> void destroyed_everywhere(Make make) {
    const auto before = descriptors();
    bool ended = false;
    int rounds = 0;
    for (; !ended; ++rounds) {
        REQUIRE(rounds < 200);
        executor ex;
        auto handle = ex.spawn(make());
        auto some = [&]() -> task<> {
            for (int i = 0; i < rounds && !handle.done(); ++i) {
                const auto seen = reactor::stats().completed;
                while (reactor::stats().completed == seen && !handle.done())
                    co_await sleep_for(20us);
            }
        };
        ex.run(some());
        ended = handle.done();
        if (rounds % 2) handle = {};
    }
    CHECK(rounds > 1);
    CHECK(descriptors() == before);
}

}  // namespace

TEST_CASE("open_beneath never leaves its directory") {
    const directory d;
    d.file("secret", 10), d.file("root/a", 10);
    fs::create_symlink("../secret", d.home / "root/out"),
        fs::create_symlink("a", d.home / "root/in");
    fs::create_symlink(d.home / "root/a", d.home / "root/absolute");
    const unique_fd root(::open(d.path("root").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    for (const char* good : {"a", "./a", "sub/../a", "in", "sub/.././/a"})
        CHECK_MESSAGE(error_of(open_beneath(root, good, O_RDONLY)) == 0, good);
    for (const char* bad :
        {"../secret", "..", "out", "sub/../../secret", "/etc/passwd", "absolute"})
        CHECK_MESSAGE(error_of(open_beneath(root, bad, O_RDONLY)) == EXDEV, bad);
    CHECK(error_of(open_beneath(root, std::string("a\0.txt", 6), O_RDONLY)) == EINVAL);
    CHECK(error_of(open_beneath(root, "none", O_RDONLY)) == ENOENT);
    CHECK(error_of(open_beneath(root, "new", O_WRONLY | O_CREAT, 0600)) == 0);
    CHECK(fs::exists(d.home / "root/new"));
    try {
        block_on(open_beneath(root, "none", O_RDONLY));
        FAIL("opened");
    } catch (const std::system_error& e) { CHECK(support::contains(e.what(), "openat2 none")); }
    destroyed_everywhere([&] { return open_beneath(root, "a", O_RDONLY); });
}

TEST_CASE("send_file: a head and any part of a file") {
    const directory d;
    const std::string text = d.file("big", 300'000);
    const unique_fd file(::open(d.path("big").c_str(), O_RDONLY | O_CLOEXEC));
    std::string got;
    std::size_t pieces = 0;
    const auto send = [&](std::span<const std::byte> all) -> task<> {
        got.append(reinterpret_cast<const char*>(all.data()), all.size());
        ++pieces;
        co_await yield_now();
    };
    const std::pair<long, long> parts[] = {
        {0, 300'000}, {0, 0}, {299'999, 300'000}, {5, 131'077}, {5, 131'078}, {1, 262'145}};
    for (const auto& [begin, end] : parts) {
        got.clear(), pieces = 0;
        block_on(send_file("head", file.get(), begin, end, send));
        CHECK(got
            == "head"
                + text.substr(
                    static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)));
        CHECK(pieces == static_cast<std::size_t>(std::max(1L, (end - begin + 131'071) / 131'072)));
    }
    got.clear();
    block_on(send_file("h", file.get(), 7, 7, send));
    CHECK(got == "h");
    got.clear(), pieces = 0;
    block_on(send_file("", file.get(), 7, 7, send));
    CHECK(pieces == 0);
    CHECK(error_of(send_file("head", file.get(), 0, 300'001, send)) == ENODATA);
    const unique_fd null(::open("/dev/null", O_WRONLY | O_CLOEXEC));
    const auto write = [&](std::span<const std::byte> all) { return io::write_all(null, all); };
    destroyed_everywhere([&] { return send_file("head", file.get(), 0, 300'000, write); });
}

TEST_CASE("a partial_file appears when it is kept, and leaves nothing if it is not") {
    const directory d;
    const std::string path = d.path("x");
    const auto partial = [&] {
        int n = 0;
        for (const auto& file : fs::directory_iterator(d.path("")))
            n += file.path().filename().string().starts_with("x.part-");
        return n;
    };
    const auto save = [&](std::string text, bool keep) -> task<> {
        partial_file f(path);
        co_await f.open();
        co_await io::write_all(f.fd(), std::as_bytes(std::span(text)));
        CHECK(partial() == 1);
        if (keep) co_await f.keep();
    };
    block_on(save("first", false));
    CHECK_FALSE(fs::exists(path));
    CHECK(partial() == 0);
    block_on(save("second", true));
    CHECK(read_file(path) == "second");
    block_on(save("third", false));
    CHECK(read_file(path) == "second");
    destroyed_everywhere([&] { return save("fourth", true); });
    CHECK(read_file(path) == "fourth");
    CHECK(partial() == 0);
    // Two at a time, under one name: neither writes into the other's. What is there already is left
    // alone, whatever it is: nothing is followed, nothing cut off.
    const auto both = [&]() -> task<> {
        partial_file a(path), b(path);
        co_await a.open();
        co_await b.open();
        CHECK(partial() == 2);
        co_await io::write_all(a.fd(), std::as_bytes(std::span("of a", 4)));
        co_await io::write_all(b.fd(), std::as_bytes(std::span("of b", 4)));
        co_await b.keep();
        CHECK(read_file(path) == "of b");
        co_await a.keep();
    };
    block_on(both());
    CHECK(read_file(path) == "of a");
    CHECK(partial() == 0);
    const auto nowhere = [&]() -> task<> {
        partial_file f(d.path("none/x"));
        co_await f.open();
    };
    CHECK(error_of(nowhere()) == ENOENT);
    // Some file systems tell only at its end that a file could not be written.
    const auto unwritten = [&]() -> task<> {
        partial_file f(path);
        co_await f.open();
        ::close(f.fd());
        co_await f.keep();
    };
    CHECK(error_of(unwritten()) == EBADF);
    CHECK(read_file(path) == "of a");
    CHECK(partial() == 0);
    const auto twice = [&]() -> task<> {
        partial_file f(path);
        co_await f.open();
        co_await f.open();
    };
    CHECK_THROWS_AS(block_on(twice()), std::logic_error);
    CHECK(partial() == 0);
}

TEST_CASE("a partial_file may have the longest of names, with a directory and without") {
    const directory d;
    const std::string name(255, 'n');
    const fs::path before = fs::current_path();
    const fs::path empty = d.home / "root/sub";
    fs::current_path(empty);
    for (const std::string& path : {name, "./" + name, (empty / name).string()}) {
        const auto save = [&]() -> task<> {
            partial_file f(path);
            co_await f.open();
            co_await f.keep();
        };
        block_on(save());
        CHECK(fs::remove(name));
        CHECK(fs::is_empty(empty));
    }
    fs::current_path(before);
}

TEST_CASE("listen_on: any free port, a shared one, one that is taken") {
    unsigned port = 0, again = 0, shared = 0;
    {
        const unique_fd a = listen_on("127.0.0.1", port);
        CHECK(port > 0);
        again = port;
        CHECK_THROWS_AS(listen_on("127.0.0.1", again), std::system_error);
        try {
            listen_on("127.0.0.1", again);
        } catch (const std::system_error& e) {
            CHECK(e.code().value() == EADDRINUSE);
            CHECK(support::contains(e.what(), "127.0.0.1 port " + std::to_string(port)));
        }
    }
    const unique_fd b = listen_on("127.0.0.1", again);
    CHECK(again == port);
    const unique_fd c = listen_on("127.0.0.1", shared, true),
                    e = listen_on("127.0.0.1", shared, true);
    CHECK(c.get() != e.get());
    unsigned any = 0;
    for (const char* bad : {"nowhere", "256.0.0.1", "1.2.3", "127.0.0.1x"})
        CHECK_THROWS_AS(listen_on(bad, any), std::system_error);
    unsigned wrapped = 65536 + port;
    CHECK_THROWS_AS(listen_on("127.0.0.1", wrapped), std::system_error);
}

TEST_CASE("paths and types") {
    using http1::path_of;
    const std::pair<const char*, const char*> good[] = {{"/", "./"}, {"/a/b?c/../d", "./a/b"},
        {"///a//b", "./a//b"}, {"/%41%2f%2E%2e", "./A/.."}, {"http://h/a", "./a"},
        {"/a%20b%25", "./a b%"}, {"/%c3%A9", "./\xc3\xa9"}, {"/?", "./"}, {"http://h", "./"},
        {"HTTP://h?a/b", "./"}};
    for (const auto& [target, path] : good) CHECK(path_of(target) == path);
    for (const char* bad : {"", "a", "*", "?", "http:", "ftp://h/a", "/%", "/%4", "/%4g", "/%-1",
             "/%+1", "/% 1", "/%00", "/a%00b"})
        CHECK_THROWS_AS(path_of(bad), http1::error);
    CHECK(http1::path_part("//evil.com?x") == "/evil.com");
    CHECK(http1::with_slash("//evil.com?x?/") == "/evil.com/?x?/");
    CHECK(std::string(http1::type_of("a.HTML")) == "text/html; charset=utf-8");
    for (const char* none : {"", "a.b/c", "a.", "a.html.x", "./html"})
        CHECK(std::string(http1::type_of(none)) == "application/octet-stream");
}

namespace {

// Gives the pieces of a text, each after a while.
struct trickle {
    std::string text;
    std::size_t at = 0, most = 1;
    task<std::size_t> read(std::span<std::byte> into) {
        co_await sleep_for(1ms);
        const std::size_t n = std::min({most, into.size(), text.size() - at});
        std::memcpy(into.data(), text.data() + at, n);
        at += n;
        co_return n;
    }
};
task<std::string> bodies_of(trickle& from, int messages) {
    const auto receive = [&](std::span<std::byte> into) { return from.read(into); };
    http1::reader<decltype(receive), 64> in(receive);
    static_assert(!std::is_move_constructible_v<decltype(in)>);  // it points into itself
    std::string all;
    for (int i = 0; i < messages; ++i) {
        http1::parser p(http1::parser::response);
        for (bool there = false; !there;) {  // with many timeouts on the way: nothing is lost
            auto got = co_await try_timeout(1500us, in.head(p));
            if (got) there = *got;
        }
        for (bool more = true; more;) {
            const std::string_view piece = co_await in.body(p);
            more = !piece.empty();
            all += piece;
        }
        all += '|';
    }
    co_return all;
}

}  // namespace

TEST_CASE("messages from a stream, however it is cut, and with timeouts in between") {
    const std::string one = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    const std::string two =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n";
    for (std::size_t most = 1; most < 70; ++most) {
        const virtual_time clock;
        trickle from{one + two + one, 0, most};
        CHECK(block_on(bodies_of(from, 3)) == "hello|abcdefg|hello|");
    }
    const virtual_time clock;
    trickle cut{one.substr(0, one.size() - 1), 0, 10};
    CHECK_THROWS_AS(block_on(bodies_of(cut, 1)), http1::error);
}

TEST_CASE("a reader destroyed at each suspension") {
    const std::string one = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    for (int ticks = 0; ticks < 300; ++ticks) {
        const virtual_time clock;
        trickle from{one, 0, 3};
        executor ex;
        auto handle = ex.spawn(bodies_of(from, 1));
        for (int i = 0; i < ticks; ++i) ex.try_tick();
        if (ticks % 2) handle = {};
    }
}

namespace {

// What is selected of a file of 1000 bytes: the status, from where to where, and the Content-Range.
std::string selected(std::vector<const char*> lines, const char* method = "GET") {
    struct stat file {};
    file.st_mtim = {1'000'000'000, 5};
    file.st_size = 1000;
    http1::head request;
    request.take_request(std::string(method) + " / HTTP/1.1");
    for (const char* line : lines) request.take_field(line);
    try {
        const http1::answer a = http1::select(request, file, "a.txt");
        const std::string range = "Content-Range: bytes ";
        const std::size_t at = a.fields.find(range);
        CHECK(a.fields.starts_with(
            "Content-Type: text/plain; charset=utf-8\r\nLast-Modified: Sun, 09 "
            "Sep 2001 01:46:40 GMT\r\nETag: \"1000000000-5-1000\"\r\n"
            "Accept-Ranges: bytes\r\n"));
        CHECK(a.fields.ends_with("\r\n"));
        return std::to_string(a.status) + " " + std::to_string(a.begin) + " "
            + std::to_string(a.end)
            + (at == a.fields.npos ? "" : " " + a.fields.substr(at + range.size()));
    } catch (const http1::error& e) { return std::to_string(e.status); }
}
std::string of_range(const std::string& range) { return selected({("Range: " + range).c_str()}); }
const std::string tag = "\"1000000000-5-1000\"", day = "Sun, 09 Sep 2001 01:46:40 GMT",
                  before = "Sun, 09 Sep 2001 01:46:39 GMT", after = "Sun, 09 Sep 2001 01:46:41 GMT";

}  // namespace

TEST_CASE("a range of a file") {
    CHECK(selected({}) == "200 0 1000");
    CHECK(of_range("bytes=0-0") == "206 0 1 0-0/1000\r\n");
    CHECK(of_range("Bytes=4-4") == "206 4 5 4-4/1000\r\n");
    CHECK(of_range("bytes=0-999") == "206 0 1000 0-999/1000\r\n");
    CHECK(of_range("bytes=10-5000") == "206 10 1000 10-999/1000\r\n");
    CHECK(of_range("bytes=999-") == "206 999 1000 999-999/1000\r\n");
    CHECK(of_range("bytes=-1") == "206 999 1000 999-999/1000\r\n");
    CHECK(of_range("bytes=-5000") == "206 0 1000 0-999/1000\r\n");
    CHECK(of_range("bytes=999999999999999999-") == "416 1000 1000 */1000\r\n");
    for (const char* none : {"bytes=1000-", "bytes=1000-1000", "bytes=-0"})
        CHECK_MESSAGE(of_range(none) == "416 1000 1000 */1000\r\n", none);
    for (const char* wrong : {"bytes=5-4", "bytes=", "bytes=-", "bytes", "bytes=5", "bytes=10",
             "lines=1-2", "bytes=1-2,4-5", "bytes=1-,", "bytes=a-", "bytes=1-b", "bytes=--1",
             "bytes=+1-2", "bytes=1--2", "bytes =1-2", "bytes= 1-2", "1-2", "",
             "bytes=1000000000000000000-", "bytes=0-1000000000000000000"})
        CHECK_MESSAGE(of_range(wrong) == "200 0 1000", wrong);
    CHECK(selected({"Range: bytes=1-2"}, "HEAD") == "200 0 1000");
    struct stat nothing {};
    http1::head request;
    request.take_request("GET / HTTP/1.1");
    request.take_field("Range: bytes=-5");
    CHECK(http1::select(request, nothing, "").status == 200);
    request.fields.clear();
    request.take_field("Range: bytes=0-");
    CHECK(http1::select(request, nothing, "").status == 416);
}

TEST_CASE("conditions, and their order") {
    const auto one = [](const std::string& line) { return selected({line.c_str()}); };
    const auto two = [](const std::string& a, const std::string& b) {
        return selected({a.c_str(), b.c_str()});
    };
    const std::string whole = "200 0 1000", none = "304 0 0", part = "206 1 3 1-2/1000\r\n";
    for (const std::string& tags : {tag, "W/" + tag, std::string("*"), "\"a\" , W/\"b\"," + tag})
        CHECK_MESSAGE(one("If-None-Match: " + tags) == none, tags);
    for (const char* tags : {"\"a\"", "", ",", "W/", "1000000000-5-1000"})
        CHECK_MESSAGE(one(std::string("If-None-Match: ") + tags) == whole, tags);
    for (const std::string& tags : {tag, std::string("*"), "\"a\", " + tag})
        CHECK_MESSAGE(one("If-Match: " + tags) == whole, tags);
    for (const std::string& tags : {"W/" + tag, std::string("\"a\""), std::string()})
        CHECK_MESSAGE(one("If-Match: " + tags) == "412", tags);
    CHECK(one("If-Modified-Since: " + day) == none);
    CHECK(one("If-Modified-Since: " + after) == none);
    CHECK(one("If-Modified-Since: " + before) == whole);
    CHECK(one("If-Modified-Since: " + after + " or so") == whole);
    CHECK(one("If-Modified-Since: Sunday, 09-Sep-01 01:46:41 GMT") == whole);
    CHECK(one("If-Unmodified-Since: " + day) == whole);
    CHECK(one("If-Unmodified-Since: " + before) == "412");
    CHECK(two("If-Match: " + tag, "If-Unmodified-Since: " + before) == whole);
    CHECK(two("If-Match: \"a\"", "If-Unmodified-Since: " + day) == "412");
    CHECK(two("If-None-Match: \"a\"", "If-Modified-Since: " + day) == whole);
    CHECK(two("If-None-Match: " + tag, "Range: bytes=1-2") == none);
    CHECK(two("If-Match: \"a\"", "If-None-Match: " + tag) == "412");
    CHECK(two("If-Range: " + tag, "Range: bytes=1-2") == part);
    CHECK(two("If-Range: " + day, "Range: bytes=1-2") == part);
    for (const std::string& other : {"W/" + tag, before, after, std::string("*")})
        CHECK_MESSAGE(two("If-Range: " + other, "Range: bytes=1-2") == whole, other);
}

TEST_CASE("the head of an answer") {
    http1::answer a;
    a.fields = "A: b\r\n";
    const auto lines_of = [&](std::int64_t length, bool keeps) {
        const std::string head = http1::head_of(a, length, keeps);
        const std::size_t date = head.find("Date: "), end = head.find("\r\n", date);
        CHECK(end - date == 35);  // Date: Sun, 09 Sep 2001 01:46:40 GMT
        return head.substr(0, date) + head.substr(end + 2);
    };
    CHECK(lines_of(7, true)
        == "HTTP/1.1 200 \r\nConnection: keep-alive\r\nA: b\r\nContent-Length: 7\r\n\r\n");
    a.status = 304;
    CHECK(lines_of(0, false) == "HTTP/1.1 304 \r\nConnection: close\r\nA: b\r\n\r\n");
    a.status = 405;
    CHECK(support::contains(lines_of(4, false), "\r\nAllow: GET, HEAD\r\n"));
    const std::pair<int, int> errors[] = {{EACCES, 403}, {EMFILE, 503}, {ENFILE, 503},
        {ENOMEM, 503}, {EAGAIN, 503}, {ENOENT, 404}, {EXDEV, 404}, {ELOOP, 404}};
    for (const auto& [error, status] : errors)
        CHECK(http1::status_of(std::error_code(error, std::system_category())) == status);
}

TEST_CASE("a file of a time that no calendar has is served like any other") {
    http1::head request;
    request.take_request("GET / HTTP/1.1");
    struct stat file {};
    for (const std::int64_t time : {INT64_MAX, INT64_MIN}) {
        file.st_mtim = {time, 0};
        const auto a = http1::select(request, file, "");
        CHECK(a.status == 200);
        CHECK(support::contains(a.fields, "Last-Modified: Thu, 01 Jan 1970 00:00:00 GMT\r\n"));
    }
}
