// recipes/mutex.hpp: exclusion, order, and that no permit is lost, whoever is cancelled and when.
#include <doctest/doctest.h>

#include <new>
#include <ringlet/recipes/mutex.hpp>
#include <ringlet/timer.hpp>
#include <vector>

#include "support.hpp"

using namespace std::chrono_literals;
using ringlet::block_on;
using ringlet::executor;
using ringlet::join_handle;
using ringlet::mutex;
using ringlet::semaphore;
using ringlet::task;
using ringlet::yield_now;

namespace {

struct usage {
    int inside = 0, most = 0, done = 0;
    std::vector<int> order;
};

task<> works(semaphore& s, usage& u, int number, int turns) {
    auto permit = co_await s.acquire();
    u.order.push_back(number);
    u.most = std::max(u.most, ++u.inside);
    for (int i = 0; i < turns; ++i) co_await yield_now();
    --u.inside;
    ++u.done;
}

}  // namespace

TEST_CASE("a semaphore lets n in at a time, in the order of their coming") {
    for (std::size_t n = 1; n < 5; ++n) {
        usage u;
        semaphore s(n);
        executor ex;
        std::vector<join_handle<>> handles;
        for (int i = 0; i < 20; ++i) handles.push_back(ex.spawn(works(s, u, i, 3)));
        while (ex.try_tick()) {}
        CHECK(u.most == static_cast<int>(n));
        CHECK(u.done == 20);
        for (int i = 0; i < 20; ++i) CHECK(u.order[static_cast<std::size_t>(i)] == i);
    }
}

TEST_CASE("a permit may outlive its semaphore") {
    auto s = std::make_unique<semaphore>(2);
    auto first = s->try_acquire(), second = s->try_acquire();
    const auto moved = std::move(*first);
    s.reset();
    const auto later = std::move(*second);
    *first = std::move(*second);
}

TEST_CASE("who waits is told when a semaphore goes, also while its permits are out") {
    auto root = []() -> task<> {
        auto s = std::make_unique<semaphore>(1);
        auto out = s->try_acquire();
        REQUIRE(out);
        auto waits = ringlet::spawn(s->acquire());
        co_await yield_now();
        CHECK_FALSE(waits.done());
        s.reset();
        co_await yield_now();
        CHECK(waits.done());
        bool told = false;
        try {
            co_await std::move(waits);
        } catch (const ringlet::channel_closed&) { told = true; }
        CHECK(told);
        out.reset();  // to nobody
    };
    block_on(root());
}

TEST_CASE("connections that their server has spawned give permits back when it is gone") {
    usage u;
    const auto serves = [&u]() -> task<> {
        semaphore s(3);
        for (int i = 0; i < 5; ++i) ringlet::spawn(works(s, u, i, 1000)).detach();
        for (int i = 0; i < 2; ++i) co_await yield_now();
        CHECK(u.inside == 3);
    };
    block_on(serves());  // returns, and then the executor ends them
    CHECK(u.done == 0);
}

TEST_CASE("no permit is lost, whichever waiter or owner is cancelled at whichever moment") {
    for (int victim = 0; victim < 6; ++victim) {
        for (int moment = 0; moment < 30; ++moment) {
            usage u;
            semaphore s(2);
            executor ex;
            std::vector<join_handle<>> handles;
            for (int i = 0; i < 6; ++i) handles.push_back(ex.spawn(works(s, u, i, 2)));
            for (int i = 0; i < moment; ++i) ex.try_tick();
            handles[static_cast<std::size_t>(victim)] = join_handle<>();
            while (ex.try_tick()) {}
            CHECK(u.done >= 5);
            CHECK(ex.empty());
            auto first = s.try_acquire(), second = s.try_acquire(), third = s.try_acquire();
            CHECK(first.has_value());
            CHECK(second.has_value());
            CHECK_FALSE(third.has_value());
            second.reset();
            third = s.try_acquire();
            CHECK(third.has_value());
        }
    }
}

TEST_CASE("a mutex: one at a time, and it can be given up before the end of the scope") {
    mutex m;
    auto root = [&]() -> task<> {
        auto held = co_await m.lock();
        auto again = m.try_lock();
        CHECK_FALSE(again.has_value());
        auto waits = [](mutex& of) -> task<> { auto mine = co_await of.lock(); };
        auto waiter = ringlet::spawn(waits(m));
        co_await yield_now();
        CHECK_FALSE(waiter.done());
        held.reset();
        co_await std::move(waiter);
        again = m.try_lock();
        CHECK(again.has_value());
    };
    block_on(root());
}

TEST_CASE("a timeout on a lock leaves it to others; its end is told to who waits") {
    const ringlet::virtual_time clock;
    auto m = std::make_unique<mutex>();
    auto root = [&]() -> task<> {
        {
            auto held = co_await m->lock();
            auto none = co_await ringlet::try_timeout(1s, m->lock());
            CHECK_FALSE(none.has_value());
        }
        auto got = co_await ringlet::try_timeout(1s, m->lock());
        CHECK(got.has_value());
        auto waiter = ringlet::spawn(m->lock());
        co_await yield_now();
        got.reset();
        auto handed = co_await std::move(waiter);
        auto late = ringlet::spawn(m->lock());
        co_await yield_now();
        ringlet::mutex::lock_type kept = std::move(handed);
        kept.reset();
        auto last = co_await std::move(late);
        last.reset();
        auto stays = m->try_lock();
        auto stuck = ringlet::spawn(m->lock());
        co_await yield_now();
        semaphore gone(0);
        static_cast<void>(gone);
        bool ended = stuck.done();
        CHECK_FALSE(ended);
        auto nobody = co_await std::move(stuck).cancel();
        CHECK_FALSE(nobody.has_value());
    };
    block_on(root());
}

TEST_CASE("who waits for a semaphore that is destroyed gets channel_closed") {
    auto s = std::make_unique<semaphore>(0);
    int closed = 0;
    auto waits = [&]() -> task<> {
        try {
            auto permit = co_await s->acquire();
        } catch (const ringlet::channel_closed&) { ++closed; }
    };
    auto root = [&]() -> task<> {
        auto a = ringlet::spawn(waits()), b = ringlet::spawn(waits());
        co_await yield_now();
        s.reset();
        co_await std::move(a);
        co_await std::move(b);
    };
    block_on(root());
    CHECK(closed == 2);
}

TEST_CASE("to give a permit back takes no memory, even where there is none left") {
    support::counting_resource memory;
    ringlet::frame_pool::use(&memory);
    bool used_up = false;
    auto root = [&]() -> task<> {
        mutex m;
        ringlet::channel<char> filled(1'000'000);
        {
            auto lock = co_await m.lock();
            memory.limit = 0;
            try {
                for (;;) filled.try_send('x');
            } catch (const std::bad_alloc&) { used_up = true; }
        }
        memory.limit = 1'000'000;
        auto again = m.try_lock();
        CHECK(again.has_value());
    };
    block_on(root());
    CHECK(used_up);
    ringlet::frame_pool::use(nullptr);
}

TEST_CASE(
    "a loop over a mutex that is free lets the others run, and loses none if it is cancelled there") {
    mutex m;
    int rounds = 0, others = 0;
    auto loops = [&]() -> task<> {
        for (;;) {
            auto lock = co_await m.lock();
            ++rounds;
        }
    };
    auto root = [&]() -> task<> {
        auto h = ringlet::spawn(loops());
        for (; others < 5; ++others) co_await yield_now();
        CHECK(rounds >= 4 * 127);
        CHECK(rounds <= 6 * 128);
        // It yields in there, with the lock in its hands.
        auto nobody = co_await std::move(h).cancel();
        CHECK_FALSE(nobody);
        auto lock = m.try_lock();
        CHECK(lock.has_value());
    };
    block_on(root());
    CHECK(others == 5);
}

TEST_CASE("a permit that was handed to a task which never runs again is given on") {
    semaphore s(1);
    auto permit = s.try_acquire();
    usage u;
    {
        support::loop l;
        auto h = l.spawn(works(s, u, 1, 0));
        CHECK(l.drain() == 1);
        permit.reset();
        CHECK_FALSE(s.try_acquire());  // it is that task's
    }
    CHECK(u.done == 0);
    CHECK(s.try_acquire());
}
