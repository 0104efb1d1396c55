// The frame pool: where frames and jobs come from, and that the steady state asks for no more. What is counted here is
// that freed blocks are used again: these cases stay away from a pool that gives everything back at once, with which
// .ci/run looks for uses of freed frames.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <new>
#include <optional>
#include <ringlet/timer.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "support.hpp"

using namespace std::chrono_literals;
using ringlet::frame_pool;
using ringlet::runnable;
using ringlet::sleep_for;
using ringlet::task;
using ringlet::virtual_time;
using ringlet::waker;
using support::counting_resource;
using support::drop;
using support::guard;
using support::history;
using support::loop;
using support::oops;

namespace {

// Not inlined: clang would put the frame of a call that it can see through into the caller's.
[[gnu::noinline]] task<int> give(int n) { co_return n; }
task<int> nap(std::chrono::nanoseconds d, int n) {
    co_await sleep_for(d);
    co_return n;
}
task<> rest(std::chrono::nanoseconds d) { co_await sleep_for(d); }
task<> nap_and_fail(std::chrono::nanoseconds d) {
    co_await sleep_for(d);
    throw oops("oops");
}

class pool_from {  // for one test
public:
    explicit pool_from(std::pmr::memory_resource& upstream) { frame_pool::use(&upstream); }
    pool_from(pool_from&&) = delete;
    ~pool_from() { frame_pool::use(nullptr); }
};

[[gnu::noinline]] task<int> first_of(std::vector<int> numbers, [[maybe_unused]] guard argument) {
    co_return numbers[0];
}

task<> sum_of_awaits(loop& l, int& sum) {
    for (int i = 0; i < 10; ++i) {
        int n = co_await give(i);
        sum += n;
        auto h = l.spawn(give(i));
        n = co_await std::move(h);
        sum += n;
        co_await ringlet::suspend([](waker w) { w.wake(); });
    }
}

}  // namespace

TEST_CASE("frame_pool: frames and jobs come from the resource, and go back to it") {
    counting_resource upstream;
    {
        pool_from here(upstream);
        int sum = 0;
        loop l;
        l.run(sum_of_awaits(l, sum));
        CHECK(sum == 90);
        CHECK(upstream.allocations > 0);
    }
    CHECK(upstream.live == 0);
    const int before = upstream.allocations;
    int sum = 0;
    loop l;
    l.run(sum_of_awaits(l, sum));
    CHECK(upstream.allocations == before);
}

TEST_CASE("frame_pool: in the steady state nothing is asked of the resource") {
    counting_resource upstream;
    pool_from here(upstream);
    int sum = 0;
    loop l;
    l.run(sum_of_awaits(l, sum));
    const int warm = upstream.allocations;
    for (int i = 0; i < 1'000; ++i) l.run(sum_of_awaits(l, sum));
    CHECK(sum == 90'090);
    CHECK(upstream.allocations == warm);
}

TEST_CASE("frame_pool: a spawned job is one allocation beside its frames") {
    counting_resource upstream;
    pool_from here(upstream);
    task<int> t = give(1);
    CHECK(upstream.allocations == 1);
    auto [r, h] = ringlet::spawn(std::move(t), [](runnable) {});
    CHECK(upstream.allocations == 2);
    std::move(r).run();
    CHECK(upstream.allocations == 2);
}

TEST_CASE("frame_pool: the resource cannot be changed while frames or jobs are alive") {
    counting_resource upstream;
    {
        task<int> t = give(1);
        CHECK_THROWS_AS(frame_pool::use(&upstream), std::logic_error);
        loop l;
        auto root = [&]() -> task<> {
            int one = co_await std::move(t);
            CHECK(one == 1);
        };
        l.run(root());
    }
    {
        waker last;
        auto [r, h] = ringlet::spawn(give(1), [](runnable) {});
        last = r.waker();
        std::move(r).run();
        h.detach();
        CHECK_THROWS_AS(frame_pool::use(&upstream), std::logic_error);
    }
    CHECK(upstream.allocations == 0);
    pool_from here(upstream);
    drop(give(1));
    CHECK(upstream.allocations == 1);
}

TEST_CASE("frame_pool: a static array; when it is used up, the call throws, nothing is lost") {
    alignas(std::max_align_t) static std::byte array[4096];
    std::pmr::monotonic_buffer_resource arena(
        array, sizeof array, std::pmr::null_memory_resource());
    pool_from here(arena);
    int arguments = 0;
    auto work = [](guard g) -> task<int> {
        guard mine = std::move(g);
        co_return 1;
    };
    std::size_t fitted = 0;
    for (int round = 1; round <= 3;
         ++round) {  // the array is never reset: freed frames are used again
        arguments = 0;
        int created = 0;
        std::vector<task<int>> tasks;
        try {
            for (;;) {
                ++created;
                tasks.push_back(work(guard(arguments)));
            }
        } catch (const std::bad_alloc&) {
            CHECK(arguments == 1);  // of the call that threw
        }
        CHECK(tasks.size() > 4);
        if (round > 1) CHECK(tasks.size() == fitted);
        fitted = tasks.size();
        tasks.clear();
        CHECK(arguments == created);
    }
}

TEST_CASE("frame_pool: bad_alloc leaves the call inside a coroutine, which can go on") {
    counting_resource upstream;
    pool_from here(upstream);
    int arguments = 0;
    history log;
    loop l;
    auto root = [&]() -> task<> {
        upstream.limit = 0;
        try {
            int n = co_await first_of(std::vector<int>(10, 3), guard(arguments));
            log.push_back(std::to_string(n));
        } catch (const std::bad_alloc&) { log.push_back("bad_alloc"); }
        CHECK(arguments == 1);
        upstream.limit = 100;
        int n = co_await first_of(std::vector<int>(10, 4), guard(arguments));
        log.push_back(std::to_string(n));
    };
    l.run(root());
    CHECK(arguments == 2);
    CHECK(log == history{"bad_alloc", "4"});
}

TEST_CASE("frame_pool: a spawn that gets no memory throws, and destroys what it was given") {
    counting_resource upstream;
    pool_from here(upstream);
    int frames = 0, functions = 0, polled = 0;
    auto work = [](int& n, [[maybe_unused]] guard frame) -> task<> {
        ++n;
        co_return;
    };
    upstream.limit = 1;
    task<> t = work(polled, guard(frames));
    CHECK(upstream.limit == 0);
    auto schedule = [alive = guard(functions)](runnable) {};
    CHECK_THROWS_AS(ringlet::spawn(std::move(t), std::move(schedule)), std::bad_alloc);
    drop(std::move(t));  // whether spawn took it or left it
    drop(std::move(schedule));
    CHECK(frames == 1);
    CHECK(functions == 1);
    CHECK(polled == 0);
}

TEST_CASE("frame_pool: frames with a buffer in them are used again too") {
    counting_resource upstream;
    pool_from here(upstream);
    loop l;
    auto large = []() -> task<int> {
        std::array<char, 40'000> buffer;
        buffer.front() = 'x';
        co_await ringlet::suspend([](waker w) { w.wake(); });
        co_return buffer.front();
    };
    auto work = [&]() -> task<> {
        for (int i = 0; i < 100; ++i) {
            const int c = co_await large();
            CHECK(c == 'x');
        }
    };
    l.run(work());
    CHECK(upstream.allocations < 10);
}

TEST_CASE("frame_pool: a resource that has come after the heap is not asked at the thread's end") {
    struct arena : std::pmr::memory_resource {
        void* do_allocate(std::size_t bytes, std::size_t alignment) override {
            return ++taken, blocks.allocate(bytes, alignment);
        }
        void do_deallocate(void*, std::size_t, std::size_t) override { ++returned; }
        bool do_is_equal(const memory_resource& other) const noexcept override {
            return this == &other;
        }
        std::pmr::monotonic_buffer_resource blocks;
        int taken = 0, returned = 0;
    } memory;
    std::thread([&] {
        loop l;
        int sum = 0;
        l.run(sum_of_awaits(l, sum));
        CHECK(sum == 90);
        frame_pool::use(&memory);
        l.run(sum_of_awaits(l, sum));
        CHECK(sum == 180);
    }).join();
    CHECK(memory.taken > 0);
    CHECK(memory.returned == 0);  // it may have been gone by then
}

TEST_CASE("frame_pool: each thread has its own") {
    counting_resource upstream;
    task<int> alive_here = give(1);
    int sum = 0;
    auto work = [&] {
        loop l;
        l.run(sum_of_awaits(l, sum));
    };
    std::thread from_the_heap(work);  // which has it all back when the thread has ended
    from_the_heap.join();
    CHECK(sum == 90);
    std::thread from_a_resource([&] {
        pool_from here(upstream);
        work();
    });
    from_a_resource.join();
    CHECK(sum == 180);
    CHECK(upstream.allocations > 0);
    CHECK(upstream.live == 0);
}

TEST_CASE("frame_pool: frames of all sizes, aligned to 16") {
    counting_resource upstream;
    int misaligned = 0;
    auto sized = [&]<std::size_t n>(std::integral_constant<std::size_t, n>) -> task<std::size_t> {
        alignas(16) char buffer[n];
        if (reinterpret_cast<std::uintptr_t>(buffer) % 16) ++misaligned;
        std::fill_n(buffer, n, 'x');
        co_await ringlet::suspend([](waker w) { w.wake(); });
        co_return static_cast<std::size_t>(std::count(buffer, buffer + n, 'x'));
    };
    {
        pool_from here(upstream);
        loop l;
        auto root = [&]() -> task<> {
            for (int round = 0; round < 3; ++round) {
                std::size_t n = co_await sized(std::integral_constant<std::size_t, 1>());
                CHECK(n == 1);
                n = co_await sized(std::integral_constant<std::size_t, 1'000>());
                CHECK(n == 1'000);
                n = co_await sized(std::integral_constant<std::size_t, 2'000>());
                CHECK(n == 2'000);
                n = co_await sized(std::integral_constant<std::size_t, 100'000>());
                CHECK(n == 100'000);
            }
        };
        l.run(root());
    }
    CHECK(misaligned == 0);
    CHECK(upstream.least_alignment == 16);
    CHECK(upstream.live == 0);
}

TEST_CASE("steady state: channels take no memory") {
    counting_resource upstream;
    pool_from here(upstream);
    int warm = 0, after = 0;
    long sum = 0;
    {
        ringlet::channel<int> a(0), b(1), c(8), d(1);
        auto pump = [](ringlet::channel<int>& from, ringlet::channel<int>& to) -> task<> {
            for (;;) {
                std::optional<int> v = co_await from.recv();
                if (!v) co_return;
                co_await to.send(*v);
            }
        };
        auto root = [&]() -> task<> {
            auto h = ringlet::spawn(pump(a, b));
            auto i = ringlet::spawn(pump(b, c));
            for (int n = 0; n < 1104; ++n) {
                if (n == 100) warm = upstream.allocations;
                co_await a.send(n);
                if (n % 8 == 7)
                    for (int k = 0; k < 8; ++k) {
                        std::optional<int> v = co_await c.recv();
                        sum += v.value_or(-1'000'000);
                    }
                CHECK(d.try_send(n));
                CHECK(d.try_recv() == n);
            }
            after = upstream.allocations;
        };
        ringlet::block_on(root());
    }
    CHECK(warm > 0);
    CHECK(after == warm);
    CHECK(sum == 1103 * 1104 / 2);
}

TEST_CASE("steady state: groups take no memory") {
    virtual_time clock;
    counting_resource upstream;
    pool_from here(upstream);
    int warm = 0, after = 0;
    long sum = 0;
    const auto body = [](ringlet::scope_ref s) -> task<int> {
        for (int i = 0; i < 4; ++i) s.spawn(rest(1ms));
        co_await ringlet::yield_now();
        co_return 1;
    };
    const auto round = [&](int n) -> task<int> {
        std::tuple<int, ringlet::detail::nothing> all = co_await ringlet::when_all(
            nap(1ms, n), ringlet::yield_now());
        int result = std::get<0>(all);
        std::vector<task<int>> work;
        for (int i = 0; i < 8; ++i) work.push_back(nap(i * 1ms, i));
        std::vector<std::optional<int>> first = co_await ringlet::when_any(std::move(work));
        result += first[0].value_or(100);
        auto any = co_await ringlet::when_any(give(1), rest(1h));
        result += std::get<0>(any).value_or(100);
        int scoped = co_await ringlet::scope(body);
        result += scoped;
        int v = co_await ringlet::timeout(1h, nap(1ms, 1));
        result += v;
        std::optional<int> none = co_await ringlet::try_timeout(1ms, nap(1h, 1));
        result += none.has_value();
        int shielded = co_await ringlet::shield(give(1));
        result += shielded;
        try {
            co_await ringlet::when_all(nap(1ms, 1), sleep_for(1h), nap_and_fail(1ms));
        } catch (const oops&) { ++result; }
        co_return result;
    };
    const auto root = [&]() -> task<> {
        for (int i = 0; i < 3; ++i) {
            int n = co_await round(i);
            sum += n;
        }
        warm = upstream.allocations;
        for (int i = 0; i < 100; ++i) {
            int n = co_await round(i);
            sum += n;
        }
        after = upstream.allocations;
    };
    ringlet::block_on(root());
    CHECK(warm > 0);
    CHECK(after == warm);
    CHECK(sum == 3 + 4950 + 103 * 5);
}

TEST_CASE("frame_pool: a block of no bytes has room for a link") {
    static std::size_t asked;
    struct resource final : std::pmr::memory_resource {
        void* do_allocate(std::size_t n, std::size_t alignment) override {
            asked = n;
            return std::pmr::new_delete_resource()->allocate(n, alignment);
        }
        void do_deallocate(void* p, std::size_t n, std::size_t alignment) override {
            CHECK(n == asked);
            std::pmr::new_delete_resource()->deallocate(p, n, alignment);
        }
        bool do_is_equal(const memory_resource& other) const noexcept override {
            return this == &other;
        }
    };
    resource upstream;
    {
        pool_from here(upstream);
        void* const p = frame_pool::allocate(0);
        CHECK(asked >= sizeof(void*));
        frame_pool::deallocate(p, 0);
        CHECK(frame_pool::allocate(0) == p);
        frame_pool::deallocate(p, 0);
    }
}
