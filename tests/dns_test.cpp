// recipes/dns.hpp, recipes/happy_eyeballs.hpp: addresses without a thread; the first that answers wins.
#include <doctest/doctest.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/resource.h>

#include <filesystem>
#include <ringlet/recipes/happy_eyeballs.hpp>

#include "support.hpp"

using namespace std::chrono_literals;
using namespace std::string_literals;
using namespace ringlet;

namespace {

auto entries(const char* directory) {
    const std::filesystem::directory_iterator all(directory);
    return std::distance(begin(all), end(all));
}
auto threads() { return entries("/proc/self/task"); }
auto descriptors() { return entries("/proc/self/fd"); }

endpoint local(unsigned port, const char* host = "127.0.0.1") {
    endpoints list;
    REQUIRE(detail::look_up(host, std::to_string(port), AI_NUMERICHOST, list) == 0);
    return list.front();
}

// A listening port on 127.0.0.1; with `full`, one that answers nobody, until it accepts.
struct port {
    unique_fd listener{::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)};
    std::vector<unique_fd> queue;
    unsigned number = 0;

    explicit port(bool full = false) {
        sockaddr_in a{};
        socklen_t size = sizeof a;
        a.sin_family = AF_INET;
        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        auto* const generic = reinterpret_cast<sockaddr*>(&a);
        REQUIRE(::bind(listener, generic, size) == 0);
        REQUIRE(::listen(listener, full ? 0 : 100) == 0);
        REQUIRE(::getsockname(listener, generic, &size) == 0);
        number = ntohs(a.sin_port);
        for (int i = 0; full && i < 3; ++i) {
            queue.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
            ::connect(queue.back(), generic, size);
        }
    }
    endpoint at() const { return local(number); }
    // Has anybody connected?
    bool reached() const {
        pollfd p{listener, POLLIN, 0};
        return ::poll(&p, 1, 0) == 1;
    }
};
// A port that refuses: it has been free just now.
endpoint refusing() { return port().at(); }

unsigned peer_of(const unique_fd& fd) {
    sockaddr_in a{};
    socklen_t size = sizeof a;
    REQUIRE(::getpeername(fd, reinterpret_cast<sockaddr*>(&a), &size) == 0);
    return ntohs(a.sin_port);
}
auto now() { return std::chrono::steady_clock::now(); }

}  // namespace

TEST_CASE("an address is no question: no thread") {
    auto root = [&]() -> task<> {
        auto four = co_await resolve("127.0.0.1", "80");
        CHECK(four.size() == 1);
        CHECK(four[0].text() == "127.0.0.1 port 80");
        auto six = co_await resolve("::1", "http");
        CHECK(six.size() == 1);
        CHECK(six[0].text() == "::1 port 80");
        auto highest = co_await resolve("127.0.0.1", "65535");
        CHECK(highest.at(0).text() == "127.0.0.1 port 65535");
        int error = 0;
        try {
            co_await resolve("127.0.0.1", "no-such-service");
        } catch (const resolve_error& e) { error = e.code; }
        CHECK(error == EAI_SERVICE);
        CHECK(threads() == 1);
    };
    block_on(root());
}

TEST_CASE("a name is looked up on a thread, and the loop goes on") {
    auto root = [&]() -> task<> {
        int turns = 0;
        bool over = false;
        auto counts = [&]() -> task<> {
            while (!over) {
                ++turns;
                co_await yield_now();
            }
        };
        auto beside = spawn(counts());
        auto list = co_await resolve("localhost", "80");
        over = true;
        co_await std::move(beside);
        CHECK(turns > 0);
        CHECK(threads() == 2);
        bool loopback = false;
        for (const endpoint& e : list)
            loopback |= e.text() == "127.0.0.1 port 80" || e.text() == "::1 port 80";
        CHECK(loopback);
    };
    block_on(root());
}

TEST_CASE("what cannot be found is an error with the name in it") {
    for (const char* host : {"127.0.0.1", "localhost"}) {
        try {
            block_on(resolve(host, "no-such-service"));
            FAIL("found");
        } catch (const resolve_error& e) {
            CHECK(e.code == EAI_SERVICE);
            CHECK(support::contains(e.what(), "no-such-service"));
        }
    }
    // Which getaddrinfo would take for 80, 0, 1, 1, 80, 80 and 0.
    const std::string cut("80\0x", 4);
    for (const std::string& port : {"65616"s, "65536"s, "-18446744073709551615"s,
             " -18446744073709551615"s, "\t-4294967216"s, cut, ""s})
        CHECK_THROWS_AS(block_on(resolve("127.0.0.1", port)), resolve_error);
    // Not what the part before the zero byte is.
    CHECK_THROWS_AS(block_on(resolve("127.0.0.1\0.example.org"s, "80")), resolve_error);
    try {
        block_on(resolve("two words", "80"));
        FAIL("found");
    } catch (const resolve_error& e) { CHECK(e.what() == "two words: "s + ::gai_strerror(e.code)); }
    CHECK_THROWS_AS(block_on(connect_any({})), std::invalid_argument);
}

TEST_CASE("what the system refuses is told as its error") {
    rlimit before{};
    endpoints list;
    std::error_code why;
    std::string what;
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
    const rlimit none{0, before.rlim_max};  // so that the file of names cannot be opened
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &none) == 0);
    try {
        detail::look_up("localhost", "80", 0, list);
    } catch (const std::system_error& e) { why = e.code(), what = e.what(); }
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);
    CHECK(why.value() == EMFILE);
    CHECK(what.starts_with("localhost: "));
}

TEST_CASE("the families take turns, beginning with that of the first") {
    endpoints list;
    for (const char* host : {"::1", "::2", "::3", "1.0.0.1", "1.0.0.2"})
        list.push_back(local(1, host));
    std::string order;
    for (const endpoint& e : interleaved(list)) order += e.text() + ", ";
    CHECK(order == "::1 port 1, 1.0.0.1 port 1, ::2 port 1, 1.0.0.2 port 1, ::3 port 1, ");
    CHECK(interleaved({}).empty());
}

TEST_CASE("an address that refuses costs no time, one that is silent costs the stagger") {
    const port live, other, silent(true);
    const auto before = descriptors();
    const auto begin = now();
    for (const endpoints& list : {endpoints{live.at()}, endpoints{refusing(), live.at()},
             endpoints{refusing(), refusing(), refusing(), live.at(), silent.at()}})
        CHECK(peer_of(block_on(connect_any(list, 1h))) == live.number);
    CHECK(now() - begin < 10s);
    CHECK_FALSE(other.reached());

    const auto later = now();
    const endpoints list{silent.at(), silent.at(), refusing(), live.at(), other.at()};
    CHECK(peer_of(block_on(connect_any(list, 30ms))) == live.number);
    CHECK(now() - later >= 60ms);
    CHECK(now() - later < 900ms);  // before the silent one is asked again
    CHECK_FALSE(other.reached());
    CHECK(descriptors() == before);  // the losers are closed
}

TEST_CASE("when all fail, the first error is thrown, and names its address") {
    const endpoint first = refusing(), second = refusing();
    try {
        block_on(connect_any({first, second}, 1h));
        FAIL("connected");
    } catch (const std::system_error& e) {
        CHECK(e.code().value() == ECONNREFUSED);
        CHECK(support::contains(e.what(), "connect to " + first.text()));
    }
}

TEST_CASE("an attempt that is slow still wins when all others have failed") {
    port slow(true);
    bool decided = false;
    const endpoints list{slow.at(), refusing()};
    auto root = [&]() -> task<> {
        auto racing = spawn(connect_any(list, 1ms));
        co_await sleep_for(50ms);
        decided = racing.done();
        for (int i = 0; i < 3; ++i) {
            unique_fd taken(
                ::accept4(slow.listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
        }
        slow.queue.clear();
        auto s = co_await timeout(10s, std::move(racing));  // the kernel asks again after a second
        CHECK(peer_of(s) == slow.number);
    };
    block_on(root());
    CHECK_FALSE(decided);
}

TEST_CASE("a timeout ends the race, and nothing is left of it") {
    const port silent(true);
    const auto before = descriptors();
    const endpoints list{silent.at(), silent.at(), silent.at()};
    auto root = [&]() -> task<> {
        auto none = co_await try_timeout(50ms, connect_any(list, 10ms));
        CHECK_FALSE(none.has_value());
    };
    block_on(root());
    CHECK(descriptors() == before);
}

TEST_CASE("destroyed at each suspension, with or without anything to come") {
    const port silent(true), live;
    const auto before = descriptors();
    for (const endpoints& list :
        {endpoints{silent.at(), refusing(), live.at()}, endpoints{silent.at(), silent.at()}})
        for (int ticks = 0; ticks < 40; ++ticks) {
            executor ex;
            auto handle = ex.spawn(connect_any(list, 1ms));
            for (int i = 0; i < ticks; ++i) ex.try_tick();
            if (ticks % 2) handle = {};
            while (ticks % 4 == 1 && ex.try_tick()) {}
        }
    CHECK(descriptors() == before);
    for (int ticks = 0; ticks < 10; ++ticks) {
        executor ex;
        auto handle = ex.spawn(connect_to("localhost", std::to_string(live.number)));
        for (int i = 0; i < ticks; ++i) ex.try_tick();
    }
    CHECK(descriptors() == before);
}

TEST_CASE("a name, from end to end") {
    const port live;
    CHECK(peer_of(block_on(connect_to("localhost", std::to_string(live.number)))) == live.number);
}
