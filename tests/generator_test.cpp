// recipes/generator.hpp: values in order, laziness, exceptions, and its end, whoever ends it and when.
#include <doctest/doctest.h>

#include <memory>
#include <ringlet/recipes/generator.hpp>
#include <ringlet/timer.hpp>
#include <string>
#include <vector>

#include "support.hpp"

using namespace std::chrono_literals;
using ringlet::block_on;
using ringlet::executor;
using ringlet::generator;
using ringlet::task;
using ringlet::yield_now;

using namespace support;

namespace {

generator<int> numbers(int n, history& log, int& ended) {
    const guard counts(ended);
    for (int i = 0; i < n; ++i) {
        log.push_back("make " + std::to_string(i));
        co_yield i;
    }
    log.push_back("end");
}

task<int> later(int n) {
    co_await yield_now();
    co_await ringlet::io::nop();
    co_return n;
}

// Waits in every way there is before each value.
generator<int> waiting(int n, int& ended) {
    const guard counts(ended);
    for (int i = 0; i < n; ++i) {
        const guard inner(ended);
        co_await yield_now();
        co_await ringlet::io::nop();
        const int value = co_await later(i);
        auto [a, b] = co_await ringlet::when_all(later(value), later(0));
        co_await ringlet::shield(later(0));
        co_yield a + b;
    }
}

task<int> sum_of(generator<int> g) {
    int sum = 0;
    for (auto v = co_await g.next(); v; v = co_await g.next()) sum += *v;
    auto again = co_await g.next();
    CHECK_FALSE(again.has_value());
    co_return sum;
}

}  // namespace

TEST_CASE("values come one by one, and the body runs no further than it is asked to") {
    history log;
    int ended = 0;
    auto root = [&]() -> task<> {
        auto g = numbers(2, log, ended);
        CHECK(log.empty());
        auto v = co_await g.next();
        CHECK(v == 0);
        CHECK(log == history{"make 0"});
        v = co_await g.next();
        CHECK(v == 1);
        CHECK(log == history{"make 0", "make 1"});
        CHECK(ended == 0);
        v = co_await g.next();
        CHECK_FALSE(v.has_value());
        CHECK(ended == 1);
        v = co_await g.next();
        CHECK_FALSE(v.has_value());
        CHECK(log == history{"make 0", "make 1", "end"});
    };
    block_on(root());
}

TEST_CASE("a generator that is never asked, or not to its end, is destroyed with its object") {
    history log;
    int ended = 0;
    auto root = [&]() -> task<> {
        { auto g = numbers(5, log, ended); }
        CHECK(ended == 0);  // it has not begun
        auto g = numbers(5, log, ended);
        auto v = co_await g.next();
        CHECK(v == 0);
        auto moved = std::move(g);
        v = co_await moved.next();
        CHECK(v == 1);
        auto none = co_await g.next();
        CHECK_FALSE(none.has_value());
        moved = numbers(1, log, ended);
        CHECK(ended == 1);
    };
    block_on(root());
    CHECK(ended == 1);
}

TEST_CASE("the body awaits whatever a task awaits") {
    const ringlet::virtual_time clock;
    int ended = 0;
    CHECK(block_on(sum_of(waiting(10, ended))) == 45);
    CHECK(ended == 11);
}

TEST_CASE("many at once, in tasks of their own") {
    const ringlet::virtual_time clock;
    int ended = 0;
    std::vector<task<int>> all;
    for (int i = 0; i < 20; ++i) all.push_back(sum_of(waiting(i, ended)));
    const auto sums = block_on(ringlet::when_all(std::move(all)));
    for (int i = 0; i < 20; ++i) CHECK(sums[static_cast<std::size_t>(i)] == i * (i - 1) / 2);
}

TEST_CASE("an exception of the body leaves next(), once; one of the caller ends the body") {
    auto fails = [](int after) -> generator<int> {
        for (int i = 0; i < after; ++i) co_yield i;
        co_await yield_now();
        throw oops("after " + std::to_string(after));
    };
    auto root = [&]() -> task<> {
        for (int after = 0; after < 3; ++after) {
            auto g = fails(after);
            std::string what;
            int values = 0;
            try {
                for (auto v = co_await g.next(); v; v = co_await g.next()) ++values;
            } catch (const oops& e) { what = e.what(); }
            CHECK(values == after);
            CHECK(what == "after " + std::to_string(after));
            auto none = co_await g.next();
            CHECK_FALSE(none.has_value());
        }
    };
    block_on(root());
}

TEST_CASE("generators in generators, and values that can only be moved") {
    auto inner = [](int n) -> generator<std::unique_ptr<int>> {
        for (int i = 0; i < n; ++i) {
            co_await yield_now();
            auto p = std::make_unique<int>(i);
            co_yield std::move(p);
        }
    };
    auto outer = [&](int n) -> generator<std::string> {
        for (int i = 0; i < n; ++i) {
            auto g = inner(i);
            for (auto p = co_await g.next(); p; p = co_await g.next()) {
                auto text = std::to_string(i) + std::to_string(**p);
                co_yield text;
            }
        }
    };
    auto root = [&]() -> task<> {
        std::string all;
        auto g = outer(4);
        for (auto v = co_await g.next(); v; v = co_await g.next()) all += *v + ' ';
        CHECK(all == "10 20 21 30 31 32 ");
    };
    block_on(root());
}

TEST_CASE("a million values that are there at once do not use up the stack") {
    auto root = []() -> task<long> {
        auto endless = []() -> generator<int> {
            for (int i = 0;; ++i) co_yield i;
        };
        auto g = endless();
        long sum = 0;
        for (int i = 0; i < 1'000'000; ++i) {
            auto v = co_await g.next();
            sum += *v;
        }
        co_return sum;
    };
    CHECK(block_on(root()) == 499999500000);
}

TEST_CASE("a timeout around next() ends the generator; a value in time does not") {
    const ringlet::virtual_time clock;
    int ended = 0;
    auto sleeping = [&]() -> generator<int> {
        const guard counts(ended);
        for (int i = 0; i < 5; ++i) {
            co_await ringlet::sleep_for(1min);
            co_yield i;
        }
    };
    auto root = [&]() -> task<> {
        auto g = sleeping();
        auto v = co_await ringlet::try_timeout(1h, g.next());
        CHECK(v.has_value());
        CHECK(ended == 0);
        v = co_await ringlet::try_timeout(1s, g.next());
        CHECK_FALSE(v.has_value());
        CHECK(ended == 1);
        auto none = co_await g.next();
        CHECK_FALSE(none.has_value());
    };
    block_on(root());
}

TEST_CASE("two that await next() at once are told; the first gets its value") {
    const ringlet::virtual_time clock;
    int ended = 0;
    auto root = [&]() -> task<> {
        auto g = waiting(5, ended);
        auto first = ringlet::spawn(g.next());
        co_await yield_now();
        bool told = false;
        try {
            co_await g.next();
        } catch (const std::logic_error&) { told = true; }
        CHECK(told);
        auto v = co_await std::move(first);
        CHECK(v == 0);
    };
    block_on(root());
}

TEST_CASE(
    "destroyed at every suspension: the caller's task, the executor, with the body's frames") {
    for (const bool elsewhere : {false, true}) {
        for (const bool with_executor : {false, true}) {
            int moment = 0;
            for (bool over = false; !over; ++moment) {
                CAPTURE(moment);
                int ended = 0, got = 0;
                std::unique_ptr<generator<int>> outside;
                auto root = [&]() -> task<> {
                    auto g = waiting(3, ended);
                    if (elsewhere) outside = std::make_unique<generator<int>>(std::move(g));
                    generator<int>& source = elsewhere ? *outside : g;
                    for (auto v = co_await source.next(); v; v = co_await source.next()) ++got;
                };
                auto ex = std::make_unique<executor>();
                auto handle = ex->spawn(root());
                for (int i = 0; i < moment; ++i) ex->try_tick();
                over = handle.done();
                if (!with_executor) {
                    handle = ringlet::join_handle<>();
                    while (!ex->empty()) ex->try_tick();
                }
                handle = ringlet::join_handle<>();
                ex.reset();
                outside.reset();
                CHECK(ended <= 4);
                if (over) CHECK((got == 3 && ended == 4));
                else if (moment > 0) CHECK(ended >= 2);
                REQUIRE(moment < 100'000);
            }
            CHECK(moment > 20);
        }
    }
}

TEST_CASE("a value that is awaited under a timeout, in the expression that yields it") {
    // Each next() is of another job, and the generator lives on when that has ended.
    auto one = []() -> task<int> {
        co_await ringlet::yield_now();
        co_return 1;
    };
    auto numbers = [&]() -> generator<int> {
        for (int i = 0; i < 3; ++i)
            co_yield co_await ringlet::timeout(std::chrono::hours(1), one());
    };
    int sum = 0;
    auto take = [&](generator<int>& g) -> task<> {
        auto v = co_await g.next();
        sum += v.value_or(100);
    };
    auto root = [&]() -> task<> {
        auto g = numbers();
        using block = std::vector<unsigned char, ringlet::detail::pool_allocator<unsigned char>>;
        std::vector<block> where_jobs_lay;  // which is not touched
        for (int i = 0; i < 3; ++i) {
            co_await ringlet::when_all(take(g), one());
            for (std::size_t size = 64; size <= 512; size += 16)
                where_jobs_lay.insert(where_jobs_lay.end(), 4, block(size, 0xff));
        }
    };
    ringlet::block_on(root());
    CHECK(sum == 3);
}
