// executor.hpp: block_on, spawning, order, turns, deadlocks, hooks, cancelling, and the end of an executor.
// Time and I/O come in only where they could be starved or left behind.
#include <doctest/doctest.h>

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <ringlet/timer.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "support.hpp"

using namespace std::chrono_literals;
using ringlet::block_on;
using ringlet::deadlock;
using ringlet::executor;
using ringlet::executor_hooks;
using ringlet::job_info;
using ringlet::join_handle;
using ringlet::parker;
using ringlet::task;
using ringlet::task_cancelled;
using ringlet::waker;
using ringlet::yield_now;

using namespace support;

namespace {

// ---- helpers -----------------------------------------------------------------------------------

// A parker that does what the test says.
class scripted final : public parker {
public:
    explicit scripted(std::function<bool(std::int64_t)> f) : script_(std::move(f)) {}
    bool park(std::int64_t until) override { return script_(until); }

private:
    std::function<bool(std::int64_t)> script_;
};

// Does the text name this line of this file?
bool names(const std::string& text, int line) {
    const std::string place = std::string(__FILE__) + ":" + std::to_string(line);
    for (std::size_t at = text.find(place); at != std::string::npos;
         at = text.find(place, at + 1)) {
        const std::size_t after = at + place.size();
        if (after == text.size() || text[after] < '0' || text[after] > '9') return true;
    }
    return false;
}
// The line of a dump that names this line of this file, or nothing.
std::string line_naming(const std::string& text, int line) {
    for (const std::string& each : lines_of(text))
        if (names(each, line)) return each;
    return "";
}

task<> nothing() { co_return; }
task<> count(int& n) {
    ++n;
    co_return;
}
task<> note(history& log, std::string entry) {
    log.push_back(std::move(entry));
    co_return;
}
task<> wait_at(gate& g, [[maybe_unused]] guard parameter) { co_await g.wait(); }
// Not inlined: clang would put the frame of a call that it can see through into the caller's.
template <class T> [[gnu::noinline]] task<T> give(T value) { co_return std::forward<T>(value); }
task<int> fail(std::string what) {
    throw oops(what);
    co_return 0;
}
task<> fail_detached(std::string what) {
    throw oops(what);
    co_return;
}
// What a join gives, as a word.
task<std::string> outcome(join_handle<int>& h) {
    std::string text;
    try {
        int n = co_await std::move(h);
        text = std::to_string(n);
    } catch (const task_cancelled&) { text = "cancelled"; } catch (const oops& e) {
        text = e.what();
    } catch (const std::logic_error&) { text = "misuse"; }
    co_return text;
}

}  // namespace

// ---- block_on ----------------------------------------------------------------------------------

TEST_CASE("block_on: values, void, move-only values, references") {
    struct no_default {
        explicit no_default(int n) : value(n) {}
        no_default(no_default&&) = default;
        int value;
    };
    CHECK(block_on(give(7)) == 7);
    CHECK(block_on(give<std::string>("a string too long to be stored in place")).size() == 39);
    CHECK(block_on(give(no_default(4))).value == 4);
    std::unique_ptr<int> p = block_on(give(std::make_unique<int>(3)));
    CHECK(*p == 3);
    int ran = 0;
    block_on(count(ran));
    CHECK(ran == 1);
    static_assert(std::is_void_v<decltype(block_on(nothing()))>);

    int number = 7;
    auto refer = [](int& n) -> task<int&> { co_return n; };
    static_assert(std::is_same_v<decltype(block_on(refer(number))), int&>);
    CHECK(&block_on(refer(number)) == &number);
    executor ex;
    static_assert(std::is_same_v<decltype(ex.run(refer(number))), int&>);
    CHECK(&ex.run(refer(number)) == &number);
}

TEST_CASE("block_on: exceptions of the root, before and after a suspension") {
    int locals = 0;
    auto late = [](int& n) -> task<int> {
        guard local(n);
        co_await yield_now();
        throw oops("late");
    };
    CHECK_THROWS_WITH_AS(block_on(fail("at once")), "at once", oops);
    CHECK_THROWS_WITH_AS(block_on(late(locals)), "late", oops);
    CHECK(locals == 1);
    CHECK(executor::current() == nullptr);
}

namespace {

struct ready_awaiter {
    explicit ready_awaiter(int n) : value(n) {}
    bool await_ready() const { return true; }
    void await_suspend(std::coroutine_handle<>) const {}
    int await_resume() const { return value; }

    int value;
};
struct by_member {
    ready_awaiter operator co_await() const { return ready_awaiter(2); }
};
struct by_function {};
ready_awaiter operator co_await(by_function) { return ready_awaiter(3); }

}  // namespace

TEST_CASE("block_on: any awaitable") {
    CHECK(block_on(ready_awaiter(1)) == 1);
    CHECK(block_on(by_member()) == 2);
    CHECK(block_on(by_function()) == 3);
    block_on(yield_now());
    block_on(ringlet::sleep_for(1us));
    block_on(ringlet::io::nop());
    CHECK(block_on(ringlet::io::nop().result()) == 0);
    executor ex;
    auto h = ex.spawn(give(5));
    drain(ex);
    CHECK(block_on(std::move(h)) == 5);
}

TEST_CASE("block_on and run inside a running executor are refused, and nothing is lost") {
    executor other;
    int parameters = 0, refused = 0, after = 0;
    gate never;
    auto root = [&]() -> task<int> {
        auto child = ringlet::spawn(give(3));
        for (int i = 0; i < 2; ++i) {
            try {
                block_on(wait_at(never, guard(parameters)));
            } catch (const std::logic_error& e) {
                CHECK(contains(e.what(), "co_await"));  // the cure
                ++refused;
            }
            CHECK(parameters == 3 * i + 1);
            CHECK_THROWS_AS(
                executor::current()->run(wait_at(never, guard(parameters))), std::logic_error);
            CHECK(parameters == 3 * i + 2);
            CHECK_THROWS_AS(other.run(wait_at(never, guard(parameters))), std::logic_error);
            CHECK(parameters == 3 * i + 3);
        }
        co_await yield_now();  // the executor goes on
        ringlet::spawn(count(after)).detach();
        int n = co_await std::move(child);
        co_await yield_now();
        co_return n;
    };
    executor ex;
    CHECK(ex.run(root()) == 3);
    CHECK(refused == 2);
    CHECK(after == 1);
    CHECK(ex.empty());
    CHECK(other.empty());
    CHECK(other.run(give(4)) == 4);
    CHECK(block_on(give(5)) == 5);
}

TEST_CASE("executor::current is the one that runs, on this thread") {
    executor ex;
    std::vector<executor*> seen;
    auto look = [&]() -> task<> {
        seen.push_back(executor::current());
        co_await yield_now();
        seen.push_back(executor::current());
        std::thread([&] { seen.push_back(executor::current()); }).join();
    };
    CHECK(executor::current() == nullptr);
    ex.run(look());
    CHECK(executor::current() == nullptr);
    auto h = ex.spawn(look());
    while (ex.try_tick()) CHECK(executor::current() == nullptr);
    CHECK(seen == std::vector<executor*>{&ex, &ex, nullptr, &ex, &ex, nullptr});
}

// ---- spawning ----------------------------------------------------------------------------------

namespace {

struct copies {
    int copied = 0, moved = 0, destroyed = 0, constructed = 0;
};
class counting {
public:
    explicit counting(copies& c, int n) : number(n), c_(&c) { ++c_->constructed; }
    counting(const counting& o) : number(o.number), c_(o.c_) { ++c_->copied; }
    counting(counting&& o) noexcept : number(std::exchange(o.number, -1)), c_(o.c_) { ++c_->moved; }
    counting& operator=(const counting&) = delete;
    ~counting() { ++c_->destroyed; }
    int number;

private:
    copies* c_;
};
bool all_gone(const copies& c) { return c.constructed + c.copied + c.moved == c.destroyed; }

// A callable with a state, like a lambda with captures.
class adder {
public:
    adder(copies& c, int n) : state_(c, n) {}
    task<int> operator()(counting x) {
        co_await yield_now();
        co_return state_.number + x.number;
    }

private:
    counting state_;
};

}  // namespace

TEST_CASE("spawn(f, args...) copies f and its arguments, once") {
    copies f, x;
    auto root = [&]() -> task<int> {
        join_handle<int> h;
        {
            adder callable(f, 30);
            counting argument(x, 12);
            h = ringlet::spawn(callable, argument);
            CHECK(f.copied == 1);
            CHECK(x.copied == 1);
        }
        int n = co_await std::move(h);
        CHECK(all_gone(f));
        CHECK(all_gone(x));
        co_return n;
    };
    CHECK(block_on(root()) == 42);
    CHECK(f.copied == 1);
    CHECK(x.copied == 1);
    CHECK(f.moved > 0);
    CHECK(x.moved > 0);
}

TEST_CASE("spawn(f, args...): what std::invoke can call, members of a class too") {
    struct account {
        task<int> add(int n) { co_return sum += n; }
        int sum = 40;
    };
    auto root = []() -> task<int> {
        account a;
        auto h = ringlet::spawn(&account::add, &a, 2);
        int n = co_await std::move(h);
        CHECK(a.sum == 42);
        co_return n;
    };
    CHECK(block_on(root()) == 42);
}

TEST_CASE("spawn(f, args...): rvalues are not copied, captures and move-only arguments live on") {
    copies f, x;
    int sum = 0;
    auto root = [&]() -> task<> {
        auto h = ringlet::spawn(adder(f, 1), counting(x, 2));
        auto own = std::make_unique<int>(30);
        auto with_captures = [a = std::make_unique<int>(4), &sum](
                                 std::unique_ptr<int> b, int& c) -> task<> {
            co_await yield_now();
            sum += *a + *b + c;
            c = 0;
        };
        int outside = 500;
        auto i = ringlet::spawn(std::move(with_captures), std::move(own), std::ref(outside));
        int n = co_await std::move(h);
        sum += n;
        co_await std::move(i);
        CHECK(outside == 0);
    };
    block_on(root());
    CHECK(sum == 537);
    CHECK(f.copied == 0);
    CHECK(x.copied == 0);
    CHECK(all_gone(f));
    CHECK(all_gone(x));
}

TEST_CASE("spawn(f, args...), cancelled before it ran and while it waits: the copies go") {
    for (int runs : {0, 1}) {
        CAPTURE(runs);
        copies f, x;
        executor ex;
        join_handle<int> h;
        auto root = [&]() -> task<> {
            h = ringlet::spawn(adder(f, 1), counting(x, 2));
            co_return;
        };
        auto r = ex.spawn(root());
        for (int i = 0; i < runs + 1; ++i) CHECK(ex.try_tick());
        CHECK_FALSE(all_gone(f));
        CHECK_FALSE(h.done());
        h = join_handle<int>();
        drain(ex);
        CHECK(ex.empty());
        CHECK(all_gone(f));
        CHECK(all_gone(x));
    }
}

TEST_CASE("any awaitable can be spawned") {
    auto root = []() -> task<> {
        auto a = ringlet::spawn(yield_now());
        auto b = ringlet::spawn(ready_awaiter(4));
        auto c = ringlet::spawn(ringlet::sleep_for(1us));
        auto d = ringlet::spawn(ringlet::io::nop());
        co_await std::move(a);
        int n = co_await std::move(b);
        CHECK(n == 4);
        co_await std::move(c);
        co_await std::move(d);
    };
    block_on(root());
}

TEST_CASE("spawn where no executor runs throws, and the task goes") {
    int parameters = 0;
    gate g;
    CHECK_THROWS_AS(drop(ringlet::spawn(wait_at(g, guard(parameters)))), std::logic_error);
    CHECK(parameters == 1);
    copies f, x;
    CHECK_THROWS_AS(drop(ringlet::spawn(adder(f, 1), counting(x, 1))), std::logic_error);
    CHECK(all_gone(f));
    CHECK(all_gone(x));
    CHECK(executor::current() == nullptr);
    CHECK_THROWS_AS(executor::here(), std::logic_error);
    int thrown = 0;
    auto root = [&]() -> task<> {
        CHECK(&executor::here() == executor::current());
        std::thread([&] {  // the executor of another thread is none
            try {
                drop(ringlet::spawn(nothing()));
            } catch (const std::logic_error&) { ++thrown; }
        })
            .join();
        co_return;
    };
    block_on(root());
    CHECK(thrown == 1);
    CHECK_THROWS_AS(drop(ringlet::spawn(nothing())), std::logic_error);
}

// ---- order and fairness ------------------------------------------------------------------------

TEST_CASE("first come, first served: spawns, yields, wakes") {
    history log;
    gate x, y, z;
    auto yielding = [&](std::string name) -> task<> {
        for (char c : std::string("123")) {
            log.push_back(name + c);
            co_await yield_now();
        }
    };
    auto waiting = [&](std::string name, gate& g) -> task<> {
        co_await g.wait();
        log.push_back(name);
    };
    auto root = [&]() -> task<> {
        auto a = ringlet::spawn(yielding("a"));
        auto b = ringlet::spawn(yielding("b"));
        auto c = ringlet::spawn(yielding("c"));
        log.push_back("root");
        co_await std::move(a);
        co_await std::move(b);
        co_await std::move(c);
        CHECK(log == history{"root", "a1", "b1", "c1", "a2", "b2", "c2", "a3", "b3", "c3"});
        log.clear();
        auto d = ringlet::spawn(waiting("x", x));
        auto e = ringlet::spawn(waiting("y", y));
        auto f = ringlet::spawn(waiting("z", z));
        co_await yield_now();
        z.open();
        x.open();
        auto g = ringlet::spawn(note(log, "spawned"));
        y.open();
        log.push_back("root");
        co_await std::move(d);
        co_await std::move(e);
        co_await std::move(f);
        co_await std::move(g);
        CHECK(log == history{"root", "z", "x", "spawned", "y"});
    };
    block_on(root());
    CHECK(log.size() == 5);
}

TEST_CASE("a yield of a job with a schedule function is a wake in the run") {
    bool woken = false;
    std::vector<ringlet::runnable> queue;
    auto schedule = [&](ringlet::runnable r, ringlet::schedule_info info) {
        woken = info.woken_while_running;
        queue.push_back(std::move(r));
    };
    auto work = []() -> task<> { co_await yield_now(); };
    auto [r, h] = ringlet::spawn(work(), schedule);
    CHECK(std::move(r).run());
    CHECK(woken);
    CHECK_FALSE(std::move(queue.at(0)).run());
    CHECK(h.done());
}

TEST_CASE("a yield lets everything runnable go first, also what that makes runnable") {
    history log;
    auto root = [&]() -> task<> {
        auto chain = [](history& l, int n, auto& self) -> task<> {
            l.push_back("chain " + std::to_string(n));
            if (n > 0) ringlet::spawn(self(l, n - 1, self)).detach();
            co_return;
        };
        ringlet::spawn(chain(log, 2, chain)).detach();
        co_await yield_now();
        log.push_back("root");
    };
    block_on(root());
    CHECK(log == history{"chain 2", "chain 1", "chain 0", "root"});
}

namespace {

// Spawns itself again until n is zero; calls `last` then.
task<> chain(int& ran, int n, std::function<void()>& last) {
    ++ran;
    if (n > 0) ringlet::spawn(chain(ran, n - 1, last)).detach();
    else last();
    co_return;
}

}  // namespace

TEST_CASE("a turn is at most 64 jobs, then the parker is looked at") {
    int ran = 0;
    std::vector<int> looks;
    executor ex;
    ex.io = std::make_unique<scripted>([&](std::int64_t until) {
        CHECK(until == parker::now);  // something is runnable
        looks.push_back(ran);
        return true;
    });
    SUBCASE("that were queued before") {
        std::vector<join_handle<>> handles;
        for (int i = 0; i < 200; ++i) handles.push_back(ex.spawn(count(ran)));
        ex.run(nothing());
        CHECK(ran == 200);
        CHECK(looks == std::vector<int>{64, 128, 192});
    }
    SUBCASE("those queued meanwhile included") {
        gate g;
        std::function<void()> last = [&] { g.open(); };
        auto root = [&]() -> task<> {
            ++ran;
            ringlet::spawn(chain(ran, 197, last)).detach();
            co_await g.wait();
            ++ran;
        };
        ex.run(root());
        CHECK(ran == 200);
        CHECK(looks == std::vector<int>{64, 128, 192});
    }
}

TEST_CASE("an executor with nothing runnable sleeps in its parker") {
    gate g;
    std::vector<std::int64_t> asked;
    executor ex;
    auto root = [&]() -> task<int> {
        co_await g.wait();
        co_return 9;
    };
    SUBCASE("until something is") {
        ex.io = std::make_unique<scripted>([&](std::int64_t until) {
            asked.push_back(until);
            g.open();
            return true;
        });
        CHECK(ex.run(root()) == 9);
        CHECK(asked == std::vector<std::int64_t>{parker::never});
    }
    SUBCASE("and asks it again if nothing is") {
        ex.io = std::make_unique<scripted>([&](std::int64_t until) {
            asked.push_back(until);
            if (asked.size() == 3) g.open();
            return true;
        });
        CHECK(ex.run(root()) == 9);
        CHECK(asked == std::vector<std::int64_t>(3, parker::never));
    }
    SUBCASE("and goes on if it has no hope but has woken somebody") {
        ex.io = std::make_unique<scripted>([&](std::int64_t until) {
            asked.push_back(until);
            g.open();
            return false;
        });
        CHECK(ex.run(root()) == 9);
        CHECK(asked == std::vector<std::int64_t>{parker::never});
    }
    SUBCASE("and gives up if it has no hope") {
        ex.io = std::make_unique<scripted>([&](std::int64_t until) {
            asked.push_back(until);
            return asked.size() < 3;
        });
        CHECK_THROWS_AS(ex.run(root()), deadlock);
        CHECK(asked == std::vector<std::int64_t>(3, parker::never));
    }
}

TEST_CASE("yields and self-wakes do not starve the parker, nor run twice in a turn") {
    int looks = 0, runs = 0, most = 0;
    auto counting_looks = [&](std::int64_t until) {
        CHECK(until == parker::now);
        ++looks;
        most = std::max(most, std::exchange(runs, 0));
        return true;
    };
    auto self_wake = [] { return ringlet::suspend([](waker w) { w.wake(); }); };
    auto spin = [&](int n, bool wakes_itself) -> task<> {
        for (int i = 0; i < n; ++i) {
            ++runs;
            if (wakes_itself) {
                co_await self_wake();
            } else {
                co_await yield_now();
            }
        }
    };
    for (bool wakes_itself : {false, true}) {
        CAPTURE(wakes_itself);
        {  // alone: a look each
            looks = runs = most = 0;
            executor ex;
            ex.io = std::make_unique<scripted>(counting_looks);
            ex.run(spin(100, wakes_itself));
            CHECK(looks == 100);
            CHECK(most == 1);
        }
        {  // beside jobs that keep the queue full
            looks = runs = most = 0;
            int ran = 0;
            std::function<void()> last = [] {};
            auto root = [&]() -> task<> {
                ringlet::spawn(chain(ran, 64 * 150, last)).detach();
                co_await spin(100, wakes_itself);
                CHECK(ran < 64 * 101);
            };
            executor ex;
            ex.io = std::make_unique<scripted>(counting_looks);
            ex.run(root());
            CHECK(looks == 100);
            CHECK(most == 1);
        }
        {  // many of them: each once a round
            looks = runs = most = 0;
            executor ex;
            ex.io = std::make_unique<scripted>(counting_looks);
            std::vector<join_handle<>> handles;
            for (int i = 0; i < 10; ++i) handles.push_back(ex.spawn(spin(50, wakes_itself)));
            ex.run(spin(50, wakes_itself));
            CHECK(looks == 50);
            CHECK(most == 11);
        }
    }
}

TEST_CASE("what a look has made runnable goes before those that yielded") {
    history log;
    gate g, h;
    auto waiting = [&](gate& at, std::string name) -> task<> {
        co_await at.wait();
        log.push_back(name);
    };
    int looks = 0;
    executor ex;
    ex.io = std::make_unique<scripted>([&](std::int64_t) {
        if (++looks == 2) h.open();
        if (looks == 2) g.open();
        return true;
    });
    auto a = ex.spawn(waiting(g, "g"));
    auto b = ex.spawn(waiting(h, "h"));
    auto root = [&]() -> task<> {
        for (int i = 1; i <= 3; ++i) {
            co_await yield_now();
            log.push_back("root " + std::to_string(i));
        }
    };
    ex.run(root());
    CHECK(log == history{"root 1", "h", "g", "root 2", "root 3"});
    CHECK(a.done());
    CHECK(b.done());
}

TEST_CASE("a job that wakes itself twice in a run runs once more") {  // 59
    executor ex;
    gate g;
    int runs = 0;
    ex.hooks.context = &runs;
    ex.hooks.before_run = [](void* n, const job_info&) { ++*static_cast<int*>(n); };
    auto twice = [] {
        return ringlet::suspend([](waker w) {
            waker copy = w;
            w.wake();
            copy.wake();
            copy.wake();
        });
    };
    auto work = [&]() -> task<> {
        co_await twice();
        co_await g.wait();
    };
    auto h = ex.spawn(work());
    CHECK(drain(ex) == 2);
    CHECK(runs == 2);
    g.open();
    CHECK(drain(ex) == 1);
    CHECK(h.done());
}

TEST_CASE("a million awaits that never suspend") {  // 64
    auto tasks = []() -> task<int> {
        int sum = 0;
        for (int i = 0; i < 1'000'000; ++i) {
            int one = co_await give(1);
            sum += one;
        }
        co_return sum;
    };
    CHECK(block_on(tasks()) == 1'000'000);
    auto ready = []() -> task<int> {
        int sum = 0;
        for (int i = 0; i < 1'000'000; ++i) {
            int one = co_await ready_awaiter(1);
            sum += one;
        }
        co_return sum;
    };
    CHECK(block_on(ready()) == 1'000'000);
}

TEST_CASE("a million yields, and a million joins of jobs that have ended") {
    auto yields = []() -> task<int> {
        int n = 0;
        while (n < 1'000'000) {
            co_await yield_now();
            ++n;
        }
        co_return n;
    };
    CHECK(block_on(yields()) == 1'000'000);
    auto joins = []() -> task<int> {
        int sum = 0;
        for (int i = 0; i < 1'000; ++i) {
            std::vector<join_handle<int>> handles;
            for (int k = 0; k < 100; ++k) handles.push_back(ringlet::spawn(give(1)));
            co_await yield_now();
            for (auto& h : handles) {
                int one = co_await std::move(h);
                sum += one;
            }
        }
        co_return sum;
    };
    CHECK(block_on(joins()) == 100'000);
}

// A starved timer or read would leave these at their limit.
TEST_CASE("a loop of yields does not starve a timer") {  // 68
    bool rang = false;
    auto ring = [&]() -> task<> {
        co_await ringlet::sleep_for(1ms);
        rang = true;
    };
    auto spin = [&]() -> task<> {
        for (int i = 0; i < 10'000'000 && !rang; ++i) co_await yield_now();
    };
    auto root = [&]() -> task<> {
        ringlet::spawn(ring()).detach();
        auto other = ringlet::spawn(spin());
        co_await spin();
        CHECK(rang);
        co_await std::move(other);
    };
    block_on(root());
}

TEST_CASE("a loop of yields does not starve a read") {  // 68
    int ends[2];
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    ringlet::unique_fd out(ends[0]), in(ends[1]);
    int reads = 0;
    auto reader = [&]() -> task<> {
        std::byte buffer[8];
        for (int i = 0; i < 2; ++i) {
            std::size_t n = co_await ringlet::io::read(out, buffer);
            CHECK(n == 1);
            ++reads;
        }
    };
    auto root = [&]() -> task<> {
        REQUIRE(write(in, "a", 1) == 1);  // before the read
        auto h = ringlet::spawn(reader());
        for (int i = 0; i < 1'000'000 && reads < 1; ++i) co_await yield_now();
        CHECK(reads == 1);
        for (int i = 0; i < 10; ++i) co_await yield_now();
        REQUIRE(write(in, "b", 1) == 1);  // while it waits
        for (int i = 0; i < 1'000'000 && reads < 2; ++i) co_await yield_now();
        CHECK(reads == 2);
        co_await std::move(h);
    };
    block_on(root());
}

// ---- running in steps --------------------------------------------------------------------------

TEST_CASE("try_tick runs one job, in order, and says whether it did") {
    executor ex;
    history log;
    CHECK_FALSE(ex.try_tick());
    CHECK(ex.empty());
    CHECK(ex.idle());
    auto a = ex.spawn(note(log, "a"));
    auto twice = [&]() -> task<> {
        log.push_back("b1");
        co_await yield_now();
        log.push_back("b2");
        ringlet::spawn(note(log, "d")).detach();
    };
    auto b = ex.spawn(twice());
    auto c = ex.spawn(note(log, "c"));
    CHECK_FALSE(ex.empty());
    CHECK_FALSE(ex.idle());
    CHECK(log == history{});
    const history expected{"a", "b1", "c", "b2", "d"};
    for (std::size_t i = 0; i < expected.size(); ++i) {
        CHECK(ex.try_tick());
        CHECK(log == history(expected.begin(), expected.begin() + static_cast<int>(i) + 1));
    }
    CHECK_FALSE(ex.try_tick());
    CHECK(ex.empty());
    CHECK(ex.idle());
    CHECK(b.done());
}

TEST_CASE("empty and idle: a waiting job is alive and not runnable") {
    executor ex;
    gate g;
    int parameters = 0;
    auto h = ex.spawn(wait_at(g, guard(parameters)));
    CHECK_FALSE(ex.empty());
    CHECK_FALSE(ex.idle());
    drain(ex);
    CHECK_FALSE(ex.empty());
    CHECK(ex.idle());
    g.open();
    CHECK_FALSE(ex.idle());
    drain(ex);
    CHECK(ex.empty());
    CHECK(ex.idle());
    CHECK(parameters == 1);
}

TEST_CASE("try_tick never blocks, and looks at the parker now and then") {
    int looks = 0, ran = 0;
    gate g;
    executor ex;
    ex.io = std::make_unique<scripted>([&](std::int64_t until) {
        CHECK(until == parker::now);
        ++looks;
        return true;
    });
    CHECK_FALSE(ex.try_tick());
    CHECK(looks == 1);
    std::function<void()> last = [] {};
    auto h = ex.spawn(chain(ran, 999, last));
    CHECK(drain(ex) == 1000);
    CHECK(ran == 1000);
    CHECK(looks >= 1000 / 64);
    auto w = ex.spawn(wait_at(g, guard(ran)));
    drain(ex);
    for (int i = 0; i < 3; ++i) CHECK_FALSE(ex.try_tick());
    CHECK_FALSE(ex.empty());
}

TEST_CASE("try_tick inside the same executor is refused") {
    executor ex;
    int ran = 0;
    auto root = [&]() -> task<> {
        auto other = ringlet::spawn(count(ran));
        CHECK_THROWS_AS(ex.try_tick(), std::logic_error);
        CHECK(ran == 0);
        co_await std::move(other);
    };
    ex.run(root());
    CHECK(ran == 1);
}

TEST_CASE("tasks survive from one run to the next") {
    executor ex;
    gate g;
    int parameters = 0;
    history log;
    auto ticker = [&]() -> task<> {
        for (int i = 0; i < 6; ++i) {
            log.push_back("tick");
            co_await yield_now();
        }
    };
    auto h = ex.spawn(wait_at(g, guard(parameters)));
    auto t = ex.spawn(ticker());
    auto root = [&](std::string name) -> task<std::string> {
        co_await yield_now();
        log.push_back(name);
        co_return name;
    };
    CHECK(ex.run(root("one")) == "one");
    CHECK(log == history{"tick", "tick", "one"});
    CHECK_FALSE(h.done());
    CHECK(ex.run(root("two")) == "two");
    CHECK(log == history{"tick", "tick", "one", "tick", "two"});
    CHECK_FALSE(ex.empty());
    g.open();
    auto rest = [&]() -> task<> {
        co_await std::move(h);
        co_await std::move(t);
    };
    ex.run(rest());
    CHECK(parameters == 1);
    CHECK(log == history{"tick", "tick", "one", "tick", "two", "tick", "tick", "tick"});
    CHECK(ex.empty());
}

TEST_CASE("nobody runs behind the end of the root, with hooks or without") {
    for (bool hooked : {false, true}) {
        CAPTURE(hooked);
        int ran = 0;
        auto root = [&]() -> task<> {
            for (int i = 0; i < 5; ++i) ringlet::spawn(count(ran)).detach();
            co_return;
        };
        executor ex;
        if (hooked) ex.hooks.after_run = [](void*, const job_info&) {};
        ex.run(root());
        CHECK(ran == 0);
        ex.run(nothing());  // behind them in the queue
        CHECK(ran == 5);
    }
}

TEST_CASE("a join destroys the value that it has moved from") {
    struct item {
        explicit item(int& n) : alive(n) { ++alive; }
        item(item&& other) noexcept : item(other.alive) {}
        ~item() { --alive; }
        int& alive;
    };
    int alive = 0;
    auto work = [&]() -> task<item> { co_return item(alive); };
    auto root = [&]() -> task<> {
        auto h = ringlet::spawn(work());
        item i = co_await std::move(h);
        CHECK(alive == 1);
    };
    block_on(root());
    CHECK(alive == 0);
}

TEST_CASE("a waker may outlive its job's join: whoever has that memory next is not touched") {
    waker kept;
    auto first = [&]() -> task<int> {
        co_await ringlet::suspend([&](waker w) { kept = std::move(w); });
        co_return 1;
    };
    waker other;
    auto second = [&]() -> task<int> {
        co_await ringlet::suspend([&](waker w) { other = std::move(w); });
        co_return 2;
    };
    auto root = [&]() -> task<> {
        auto a = ringlet::spawn(first());
        co_await yield_now();
        kept.wake();
        const int one = co_await std::move(a);
        CHECK(one == 1);
        auto b = ringlet::spawn(second()), c = ringlet::spawn(second());
        co_await yield_now();
        CHECK_FALSE(kept.wakes(other));
        kept.wake();
        drop(std::move(kept));
        co_await yield_now();
        CHECK_FALSE(b.done());
        CHECK_FALSE(c.done());
        other.wake();
        const int two = co_await std::move(c);
        CHECK(two == 2);
        CHECK_FALSE(b.done());
    };
    block_on(root());
}

TEST_CASE("two executors take turns on one thread; a task of one joins a job of the other") {
    executor one, two;
    gate g;
    auto work = [&]() -> task<int> {
        CHECK(executor::current() == &one);
        co_await g.wait();
        CHECK(executor::current() == &one);
        co_return 5;
    };
    int got = 0;
    auto h = one.spawn(work());
    auto joining = [&]() -> task<> {
        CHECK(executor::current() == &two);
        int n = co_await std::move(h);
        CHECK(executor::current() == &two);
        got = n;
    };
    auto j = two.spawn(joining());
    drain(two);
    drain(one);
    g.open();
    CHECK(two.idle());
    CHECK(drain(one) == 1);
    CHECK(one.empty());
    CHECK(got == 0);
    CHECK_FALSE(two.idle());
    CHECK(drain(two) == 1);
    CHECK(got == 5);
}

// ---- deadlock and dump -------------------------------------------------------------------------

TEST_CASE("deadlock: the text names the line of the wait of every live task") {
    executor ex;
    gate g;
    int root_line = 0, join_line = 0, inner_line = 0, detached_line = 0;
    int spawn_line = 0, run_line = 0, gone = 0;
    std::string what;
    auto inner = [&]() -> task<> {
        guard local(gone);
        inner_line = __LINE__ + 1;
        co_await g.wait();
    };
    auto outer = [&]() -> task<> {
        guard local(gone);
        co_await yield_now();
        co_await inner();
    };
    gate h;
    auto detached = [&]() -> task<> {
        guard local(gone);
        detached_line = __LINE__ + 1;
        co_await h.wait();
    };
    auto middle = [&]() -> task<> {
        guard local(gone);
        spawn_line = __LINE__ + 1;
        auto child = ringlet::spawn(outer());
        join_line = __LINE__ + 1;
        co_await std::move(child);
    };
    auto root = [&]() -> task<> {
        guard local(gone);
        ringlet::spawn(detached()).detach();
        auto child = ringlet::spawn(middle());
        root_line = __LINE__ + 1;
        bool ended = co_await std::move(child).try_join();
        CHECK(ended);
    };
    try {
        run_line = __LINE__ + 1;
        ex.run(root());
    } catch (const deadlock& e) { what = e.what(); }
    INFO(what);
    CHECK(contains(what, "deadlock"));
    for (int line : {root_line, join_line, inner_line, detached_line, spawn_line, run_line}) {
        CAPTURE(line);
        CHECK(line != 0);
        CHECK(names(what, line));
    }
    // One line a task: where it was spawned, and where it waits.
    CHECK(line_naming(what, run_line) == line_naming(what, root_line));
    CHECK(line_naming(what, spawn_line) == line_naming(what, inner_line));
    int tasks = 0;
    for (const std::string& line : lines_of(what)) tasks += contains(line, __FILE__);
    CHECK(tasks == 4);

    // The root was cancelled; the executor goes on.
    CHECK(ex.run(give(3)) == 3);
    drain(ex);
    CHECK(gone == 4);  // the detached one waits on
    h.open();
    drain(ex);
    CHECK(gone == 5);
    CHECK(ex.empty());
}

TEST_CASE("deadlock out of block_on destroys everything") {
    gate g;
    int parameters = 0;
    auto root = [&]() -> task<> {
        auto child = ringlet::spawn(wait_at(g, guard(parameters)));
        co_await wait_at(g, guard(parameters));
    };
    CHECK_THROWS_AS(block_on(root()), deadlock);
    CHECK(parameters == 2);
    g.open();  // does nothing
}

TEST_CASE("deadlock: what is awaited is named by the program's lines, also if it is no task") {
    ringlet::channel<int> c(0);
    int in_groups = 0, spawned = 0, joined = 0, called = 0;
    const auto check_lines = [](const std::string& text, std::vector<int> spawns,
                                 std::vector<int> waits) {
        INFO(text);
        const std::vector<std::string> lines = lines_of(text);
        REQUIRE(lines.size() > spawns.size());
        for (std::size_t i = 0; i < spawns.size(); ++i) {
            const std::string& line = lines[i + 1];  // the first says what it is
            const std::size_t middle = line.find(" waits for ");
            REQUIRE(middle != std::string::npos);
            CHECK(names(line.substr(0, middle), spawns[i]));
            CHECK(names(line.substr(middle), waits[i]));
        }
    };
    const auto text_of = [](auto awaitable, int& line) {
        line = __LINE__ + 2;
        try {
            block_on(std::move(awaitable));
        } catch (const deadlock& d) { return std::string(d.what()); }
        return std::string();
    };
    auto groups = [&]() -> task<> {
        in_groups = __LINE__ + 1;
        co_await ringlet::when_all(c.recv(), ringlet::shield(c.recv()));
    };
    std::string text = text_of(groups(), called);
    check_lines(text, {called, in_groups, in_groups, in_groups},
        {in_groups, in_groups, in_groups, in_groups});
    auto spawns = [&]() -> task<> {
        spawned = __LINE__ + 1;
        auto h = ringlet::spawn(c.recv());
        joined = __LINE__ + 1;
        co_await std::move(h);
    };
    text = text_of(spawns(), called);
    check_lines(text, {called, spawned}, {joined, spawned});
    text = text_of(c.recv(), called);
    check_lines(text, {called}, {called});
    auto of_lambdas = [&]() -> task<> {
        auto waits = [&c]() -> task<> { co_await c.recv(); };
        const int inside = __LINE__ - 1;
        spawned = __LINE__ + 1;
        auto h = ringlet::spawn(waits);
        co_await yield_now();
        std::string all;
        executor::current()->dump(all);
        CHECK(names(line_naming(all, inside), spawned));
    };
    block_on(of_lambdas());
}

TEST_CASE("deadlock: a reactor or timers with nothing left in them give no hope") {
    gate g;
    auto root = [&]() -> task<> {
        co_await ringlet::io::nop();
        co_await ringlet::sleep_for(1us);
        auto sleeper = ringlet::spawn(ringlet::sleep_for(1h));
        co_await yield_now();
        bool ended = co_await std::move(sleeper).cancel();
        CHECK_FALSE(ended);
        co_await g.wait();
    };
    CHECK_THROWS_AS(block_on(root()), deadlock);
}

TEST_CASE("no deadlock while the root can be woken by a job that is itself waiting for I/O") {
    int ends[2];
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    ringlet::unique_fd out(ends[0]), in(ends[1]);
    gate g;
    auto reader = [&]() -> task<> {
        std::byte buffer[1];
        co_await ringlet::io::read(out, buffer);
        g.open();
    };
    auto writer = [&]() -> task<> {
        co_await ringlet::sleep_for(2ms);
        REQUIRE(write(in, "x", 1) == 1);
    };
    auto root = [&]() -> task<int> {
        ringlet::spawn(reader()).detach();
        ringlet::spawn(writer()).detach();
        co_await g.wait();
        co_return 1;
    };
    CHECK(block_on(root()) == 1);
}

TEST_CASE("two jobs that join each other are a deadlock, and go with the executor") {
    int gone = 0;
    join_handle<> a, b;
    auto work = [](join_handle<>& other, [[maybe_unused]] guard g) -> task<> {
        co_await yield_now();
        co_await std::move(other);
    };
    {
        executor ex;
        a = ex.spawn(work(b, guard(gone)));
        b = ex.spawn(work(a, guard(gone)));
        gate g;
        CHECK_THROWS_AS(ex.run(wait_at(g, guard(gone))), deadlock);
        CHECK(gone < 3);
    }
    CHECK(gone == 3);
    CHECK(a.done());
    CHECK(b.done());
}

TEST_CASE("dump appends a line for each live task: where spawned, its state, where it waits") {
    executor ex;
    int ends[2];
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    ringlet::unique_fd out(ends[0]), in(ends[1]);
    std::string text = "before\n";
    ex.dump(text);
    CHECK(text == "before\n");

    int sleep_line = 0, read_line = 0, join_line = 0, root_line = 0, new_line = 0;
    auto sleeper = [&]() -> task<> {
        sleep_line = __LINE__ + 1;
        co_await ringlet::sleep_for(1h);
    };
    auto reader = [&]() -> task<> {
        std::byte buffer[8];
        read_line = __LINE__ + 1;
        co_await ringlet::io::read(out, buffer);
    };
    auto joiner = [&]() -> task<> {
        auto h = ringlet::spawn(sleeper());
        join_line = __LINE__ + 1;
        co_await std::move(h);
    };
    auto root = [&]() -> task<> {
        auto r = ringlet::spawn(reader());
        auto j = ringlet::spawn(joiner());
        for (int i = 0; i < 2; ++i) co_await yield_now();
        root_line = __LINE__ + 1;
        co_await yield_now();
        new_line = __LINE__ + 1;
        auto fresh = ringlet::spawn(nothing());
        ex.dump(text);
    };
    ex.run(root());
    INFO(text);
    CHECK(text.substr(0, 7) == "before\n");
    CHECK(text.back() == '\n');
    CHECK(lines_of(text).size() == 6);
    CHECK(contains(line_naming(text, sleep_line), "sleep"));
    CHECK(contains(line_naming(text, read_line), "read"));
    CHECK(contains(line_naming(text, join_line), "join"));
    CHECK(contains(line_naming(text, new_line), "runnable"));
    CHECK(contains(line_naming(text, root_line), "runs"));
}

// ---- hooks -------------------------------------------------------------------------------------

namespace {

// Every hook of an executor, each job by the number of its spawn.
class tracer {
public:
    tracer() = default;
    void attach(executor& ex) {
        ex.hooks.context = this;
        ex.hooks.on_spawn = [](void* t, const job_info& j) {
            auto& self = *static_cast<tracer*>(t);
            CHECK(self.numbers_.count(j.id) == 0);
            self.numbers_[j.id] = ++self.spawned;
            self.add("spawn", j);
        };
        ex.hooks.before_run = [](void* t, const job_info& j) {
            static_cast<tracer*>(t)->add("run", j);
        };
        ex.hooks.after_run = [](void* t, const job_info& j) {
            static_cast<tracer*>(t)->add("ran", j);
        };
        ex.hooks.on_finish = [](void* t, const job_info& j) {
            auto& self = *static_cast<tracer*>(t);
            self.add("finish", j);
            CHECK(self.numbers_.erase(j.id) == 1);
            ++self.finished;
        };
    }
    tracer(tracer&&) = delete;
    history take() { return std::exchange(log, history()); }
    int spawned = 0, finished = 0;
    history log;
    std::map<int, job_info> last;  // of each job

private:
    void add(std::string what, const job_info& j) {
        CHECK(numbers_.count(j.id) == 1);
        const int number = numbers_[j.id];
        last.insert_or_assign(number, j);
        log.push_back(what + " " + std::to_string(number));
    }
    std::map<const void*, int> numbers_;
};

}  // namespace

TEST_CASE("hooks: spawn, each run, and the end, in order") {
    tracer t;
    gate g;
    executor ex;
    t.attach(ex);
    auto child = [&]() -> task<> {
        t.log.push_back("child");
        co_await g.wait();
        t.log.push_back("child again");
    };
    auto root = [&]() -> task<> {
        t.log.push_back("root");
        auto h = ringlet::spawn(child());
        co_await yield_now();
        t.log.push_back("root again");
        g.open();
        co_await std::move(h);
    };
    ex.run(root());
    CHECK(t.take()
        == history{"spawn 1", "run 1", "root", "spawn 2", "ran 1", "run 2", "child", "ran 2",
            "run 1", "root again", "ran 1", "run 2", "child again", "ran 2", "finish 2", "run 1",
            "ran 1", "finish 1"});
    CHECK(t.spawned == 2);
    CHECK(t.finished == 2);
}

TEST_CASE("hooks: cancelled jobs, exceptions, the end of the executor") {
    tracer t;
    gate g;
    int gone = 0;
    auto first = std::make_unique<executor>();
    executor& ex = *first;
    t.attach(ex);
    auto a = ex.spawn(wait_at(g, guard(gone)));  // 1, cancelled before it runs
    drop(std::move(a));
    drain(ex);
    CHECK(t.take() == history{"spawn 1", "run 1", "ran 1", "finish 1"});
    auto b = ex.spawn(wait_at(g, guard(gone)));  // 2, cancelled while it waits
    drain(ex);
    drop(std::move(b));
    drain(ex);
    CHECK(t.take() == history{"spawn 2", "run 2", "ran 2", "run 2", "ran 2", "finish 2"});
    CHECK(gone == 2);
    auto c = ex.spawn(fail("held"));  // 3
    drain(ex);
    CHECK(t.take() == history{"spawn 3", "run 3", "ran 3", "finish 3"});
    ex.spawn(fail_detached("detached")).detach();  // 4
    CHECK_THROWS_AS(ex.try_tick(), oops);
    CHECK(t.take() == history{"spawn 4", "run 4", "ran 4", "finish 4"});
    ex.spawn(wait_at(g, guard(gone))).detach();  // 5, left behind
    auto d = ex.spawn(wait_at(g, guard(gone)));  // 6
    drain(ex);
    auto e = ex.spawn(wait_at(g, guard(gone)));  // 7, has not run
    t.take();
    first.reset();
    CHECK(gone == 5);
    CHECK(t.spawned == 7);
    CHECK(t.finished == 7);
}

TEST_CASE("hooks: a job that waits forever under a shield finishes with its executor") {
    tracer t;
    gate g;
    int gone = 0;
    auto work = [&]() -> task<> { co_await ringlet::shield(wait_at(g, guard(gone))); };
    {
        executor ex;
        t.attach(ex);
        ex.spawn(work()).detach();
        drain(ex);
    }
    CHECK(gone == 1);
    CHECK(t.spawned == 2);
    CHECK(t.finished == 2);
}

TEST_CASE("hooks: each one alone; set and taken away between runs") {
    executor ex;
    int n = 0;
    ex.hooks.context = &n;
    const executor_hooks::hook counts = [](void* c, const job_info&) { ++*static_cast<int*>(c); };
    auto twice = []() -> task<> { co_await ringlet::when_all(nothing()); };  // its child once
    for (auto member : {&executor_hooks::on_spawn, &executor_hooks::on_finish}) {
        ex.hooks.*member = counts;
        ex.run(twice());
        CHECK(std::exchange(n, 0) == 2);
        ex.hooks.*member = nullptr;
    }
    for (auto member : {&executor_hooks::before_run, &executor_hooks::after_run}) {
        ex.hooks.*member = counts;
        ex.run(twice());
        CHECK(std::exchange(n, 0) == 3);
        ex.hooks.*member = nullptr;
    }
    ex.run(twice());
    CHECK(n == 0);
}

TEST_CASE("hooks: what they are told about a job") {
    tracer t;
    gate g;
    executor ex;
    t.attach(ex);
    int spawn_line = 0, wait_line = 0;
    auto work = [&]() -> task<> {
        co_await yield_now();
        wait_line = __LINE__ + 1;
        co_await g.wait();
    };
    spawn_line = __LINE__ + 1;
    auto h = ex.spawn(work());
    drain(ex);
    CHECK(t.last.at(1).spawned.line() == static_cast<unsigned>(spawn_line));
    CHECK(std::string(t.last.at(1).spawned.file_name()) == __FILE__);
    CHECK(t.last.at(1).where.line() == static_cast<unsigned>(wait_line));
    auto f = [](int n) -> task<int> { co_return n; };
    auto root = [&]() -> task<> {
        auto i = ringlet::spawn(f, 1);
        co_await std::move(i);
    };
    ex.run(root());
    CHECK(std::string(t.last.at(3).spawned.file_name()) == __FILE__);
    CHECK(t.last.at(3).parent == nullptr);  // who joins it is none
}

// ---- exceptions --------------------------------------------------------------------------------

TEST_CASE("an exception in one job does not stop the others") {  // 55
    int ran = 0;
    auto root = [&]() -> task<std::string> {
        auto a = ringlet::spawn(give(1));
        auto b = ringlet::spawn(fail("b"));
        auto c = ringlet::spawn(count(ran));
        auto d = ringlet::spawn(fail("d"));
        auto e = ringlet::spawn(give(5));
        std::string text;
        for (auto* h : {&a, &b, &d, &e}) {
            std::string one = co_await outcome(*h);
            text += one;
        }
        co_await std::move(c);
        co_return text;
    };
    CHECK(block_on(root()) == "1bd5");
    CHECK(ran == 1);
}

TEST_CASE("the exception of a detached job leaves run(), and the executor goes on") {
    executor ex;
    history log;
    gate g;
    int gone = 0;
    auto other = ex.spawn(wait_at(g, guard(gone)));
    auto a = ex.spawn(note(log, "a"));
    ex.spawn(fail_detached("first")).detach();
    auto b = ex.spawn(note(log, "b"));
    ex.spawn(fail_detached("second")).detach();
    auto c = ex.spawn(note(log, "c"));
    int roots = 0;
    CHECK_THROWS_WITH_AS(ex.run(wait_at(g, guard(roots))), "first", oops);
    CHECK(log == history{"a", "b", "c"});  // the others go on until the root is gone
    CHECK(roots == 1);                     // what run() waits for ends with it
    CHECK(executor::current() == nullptr);
    CHECK_THROWS_WITH_AS(ex.run(wait_at(g, guard(roots))), "second", oops);
    CHECK(roots == 2);
    ex.run(nothing());
    CHECK(log == history{"a", "b", "c"});
    CHECK(gone == 0);
    CHECK_FALSE(other.done());
    g.open();
    ex.run(nothing());
    CHECK(other.done());
    CHECK(gone == 1);
    CHECK(ex.empty());
}

TEST_CASE("exceptions that come while the root ends: the first waits for the next run") {
    executor ex;
    history log;
    auto slow = [&]() -> task<> {
        co_await ringlet::sleep_for(1ms);
        log.push_back("shielded");
    };
    auto third = []() -> task<> {  // when the others wait
        co_await yield_now();
        throw oops("third");
    };
    auto root = [&]() -> task<> {
        ringlet::spawn(fail_detached("first")).detach();
        ringlet::spawn(fail_detached("second")).detach();
        ringlet::spawn(third()).detach();
        co_await ringlet::shield(slow());
    };
    CHECK_THROWS_WITH_AS(ex.run(root()), "first", oops);
    CHECK(log == history{"shielded"});
    CHECK_THROWS_WITH_AS(ex.run(nothing()), "second", oops);
    ex.run(nothing());
}

TEST_CASE("a root ends with an exception though others never rest") {
    gate g;
    int gone = 0, messages = 0;
    ringlet::channel<int> a(1), b(1);
    auto echo = [&](ringlet::channel<int>& from, ringlet::channel<int>& to) -> task<> {
        while (messages < 10'000) {
            std::optional<int> n = co_await from.recv();
            ++messages;
            co_await to.send(*n);
        }
    };
    executor ex;
    ex.spawn(echo(a, b)).detach();
    ex.spawn(echo(b, a)).detach();
    ex.spawn(fail_detached("fails")).detach();
    a.try_send(1);
    CHECK_THROWS_AS(ex.run(wait_at(g, guard(gone))), oops);
    CHECK(gone == 1);
    CHECK(messages < 1'000);
}

TEST_CASE("a root that borrows from the caller of run() is gone when that throws") {
    int gone = 0;
    gate g;
    executor ex;
    join_handle<> other = ex.spawn(wait_at(g, guard(gone)));
    for (const bool stuck : {false, true}) {
        std::vector<int> borrowed{1, 2, 3};
        auto root = [&]() -> task<> {
            const at_end writes([&] { borrowed.push_back(4); });
            const at_end child_writes([&] { borrowed.push_back(5); });
            auto child = [&]() -> task<> {
                const at_end last([&] { borrowed.push_back(6); });
                gate never;
                co_await never.wait();
            };
            co_await ringlet::when_all(child(), child());
        };
        auto fails = []() -> task<> {
            co_await yield_now();
            throw oops("first");
        };
        if (!stuck) ex.spawn(fails()).detach();
        bool thrown = false;
        try {
            ex.run(root());
        } catch (const oops&) { thrown = !stuck; } catch (const deadlock&) {
            thrown = stuck;
        }
        CHECK(thrown);
        CHECK(borrowed == std::vector{1, 2, 3, 6, 6, 5, 4});
        CHECK_FALSE(ex.empty());
        CHECK_FALSE(other.done());
    }
}

TEST_CASE("the exception of a detached job leaves block_on") {
    int gone = 0;
    gate g;
    auto root = [&]() -> task<> {
        auto other = ringlet::spawn(wait_at(g, guard(gone)));
        ringlet::spawn(fail_detached("lost")).detach();
        co_await wait_at(g, guard(gone));
    };
    CHECK_THROWS_WITH_AS(block_on(root()), "lost", oops);
    CHECK(gone == 2);
}

TEST_CASE("yielding and newly queued jobs are still there after an exception") {
    executor ex;
    history log;
    auto yielding = [&]() -> task<> {
        log.push_back("y1");
        co_await yield_now();
        log.push_back("y2");
    };
    auto spawning = [&]() -> task<> {
        ringlet::spawn(note(log, "spawned")).detach();
        co_return;
    };
    auto y = ex.spawn(yielding());
    auto s = ex.spawn(spawning());
    ex.spawn(fail_detached("x")).detach();
    auto z = ex.spawn(note(log, "z"));
    CHECK_THROWS_AS(ex.run(nothing()), oops);
    CHECK(log == history{"y1", "z", "spawned"});
    drain(ex);
    CHECK(log == history{"y1", "z", "spawned", "y2"});
    CHECK(ex.empty());
}

TEST_CASE("a cancelled job's exception ends with the job") {
    executor ex;
    gate g;
    int thrown = 0;
    auto work = [&]() -> task<> {
        co_await g.wait();
        ++thrown;
        throw oops("never");
    };
    auto h = ex.spawn(work());
    drain(ex);
    drop(std::move(h));
    CHECK(drain(ex) == 1);
    CHECK(thrown == 0);
    join_handle<> self;
    auto cancels_itself = [&]() -> task<> {
        drop(std::move(self));
        ++thrown;
        throw oops("for nobody");
        co_return;
    };
    self = ex.spawn(cancels_itself());
    CHECK(drain(ex) == 1);
    CHECK(thrown == 1);
    CHECK(ex.empty());
}

// ---- awaiters of others ------------------------------------------------------------------------

TEST_CASE("a job that comes back without a wait of ours is an error with a cure, not a hang") {
    int gone = 0, spawn_line = 0;
    auto silent = [](int& n) -> task<> {
        guard local(n);
        co_await std::suspend_always();
    };
    SUBCASE("as the root") {
        std::string what;
        try {
            spawn_line = __LINE__ + 1;
            block_on(silent(gone));
        } catch (const std::logic_error& e) { what = e.what(); }
        INFO(what);
        CHECK(names(what, spawn_line));
        CHECK(contains(what, "auto"));
        CHECK(contains(what, "co_await"));
        CHECK(contains(what, "suspend"));
        CHECK(gone == 1);
    }
    SUBCASE("as a job with a handle, nested, after a proper suspension") {
        auto nested = [&](int& n) -> task<int> {
            guard local(n);
            co_await yield_now();
            co_await silent(n);
            co_return 1;
        };
        executor ex;
        auto h = ex.spawn(nested(gone));
        CHECK(ex.try_tick());
        CHECK_THROWS_AS(ex.try_tick(), std::logic_error);
        CHECK(gone == 2);
        CHECK(h.done());
        CHECK(ex.run(outcome(h)) == "cancelled");
        CHECK(ex.empty());
        CHECK(ex.run(give(2)) == 2);
    }
    SUBCASE("detached") {
        executor ex;
        ex.spawn(silent(gone)).detach();
        CHECK_THROWS_AS(ex.run(nothing()), std::logic_error);
        CHECK(gone == 1);
        drain(ex);
        CHECK(ex.empty());
    }
}

// ---- cancelling --------------------------------------------------------------------------------

TEST_CASE("cancelled while scheduled: never polled, and gone only at its turn") {
    executor ex;
    int polled = 0, gone = 0;
    auto work = [](int& n, [[maybe_unused]] guard g) -> task<> {
        ++n;
        co_return;
    };
    auto h = ex.spawn(work(polled, guard(gone)));
    drop(std::move(h));
    CHECK(gone == 0);
    CHECK_FALSE(ex.empty());
    CHECK(drain(ex) == 1);
    CHECK(gone == 1);
    CHECK(polled == 0);
    CHECK(ex.empty());
}

TEST_CASE("cancelled after it was woken, before it ran") {
    executor ex;
    gate g;
    int polled = 0, gone = 0;
    auto work = [&]([[maybe_unused]] guard p) -> task<> {
        co_await g.wait();
        ++polled;
    };
    auto h = ex.spawn(work(guard(gone)));
    drain(ex);
    g.open();
    drop(std::move(h));
    CHECK(gone == 0);
    CHECK(drain(ex) == 1);
    CHECK(gone == 1);
    CHECK(polled == 0);
}

TEST_CASE("cancelled by itself: it ends at its next suspension, or its value is dropped") {
    executor ex;
    join_handle<int> self;
    int locals = 0, after_wait = 0;
    gate g;
    auto work = [&](bool waits, bool yields) -> task<int> {
        guard local(locals);
        drop(std::move(self));
        bool asked = co_await ringlet::cancel_requested();
        CHECK(asked);
        CHECK(locals == 0);
        if (waits) {
            co_await g.wait();
            ++after_wait;
        }
        if (yields) {
            co_await yield_now();
            ++after_wait;
        }
        co_return 1;
    };
    for (int kind : {0, 1, 2}) {
        self = ex.spawn(work(kind == 0, kind == 1));
        CHECK(drain(ex) == 1);
        CHECK(std::exchange(locals, 0) == 1);
        CHECK(after_wait == 0);
        CHECK(ex.empty());
    }
}

TEST_CASE("cancelled from a destructor, also in a chain") {
    executor ex;
    gate g;
    int gone = 0;
    join_handle<> chained;
    auto holding = [](gate& at, [[maybe_unused]] guard p,
                       [[maybe_unused]] join_handle<> next) -> task<> { co_await at.wait(); };
    for (int i = 0; i < 10; ++i) chained = ex.spawn(holding(g, guard(gone), std::move(chained)));
    drain(ex);
    CHECK(gone == 0);
    for (int i = 1; i <= 10; ++i) {
        if (i == 1) drop(std::move(chained));
        CHECK(ex.try_tick());  // each on a run of its own, not on its owner's stack
        CHECK(gone == i);
    }
    CHECK_FALSE(ex.try_tick());
    CHECK(ex.empty());
}

TEST_CASE("a coroutine that owns its own handle") {
    int gone = 0, ended = 0;
    gate g;
    join_handle<> slot;
    auto work = [&](join_handle<>& own, [[maybe_unused]] guard p) -> task<> {
        join_handle<> mine = std::move(own);
        co_await g.wait();
        ++ended;
    };
    SUBCASE("runs to its end") {
        executor ex;
        slot = ex.spawn(work(slot, guard(gone)));
        drain(ex);
        g.open();
        CHECK(drain(ex) == 1);
        CHECK(ended == 1);
        CHECK(gone == 1);
        CHECK(ex.empty());
    }
    SUBCASE("as a parameter") {
        executor ex;
        auto take = [&]([[maybe_unused]] std::shared_ptr<join_handle<>> own,
                        [[maybe_unused]] guard p) -> task<> {
            co_await yield_now();
            ++ended;
        };
        auto own = std::make_shared<join_handle<>>();
        *own = ex.spawn(take(own, guard(gone)));
        own.reset();
        CHECK(drain(ex) == 2);
        CHECK(ended == 1);
        CHECK(gone == 1);
        CHECK(ex.empty());
    }
    SUBCASE("goes with the executor") {
        {
            executor ex;
            slot = ex.spawn(work(slot, guard(gone)));
            drain(ex);
            CHECK(gone == 0);
        }
        CHECK(gone == 1);
        CHECK(ended == 0);
        g.open();
    }
}

TEST_CASE("cancel() resolves when the frames are gone; a job that ended gives its value") {
    executor ex;
    gate g;
    int gone = 0;
    auto work = [&]([[maybe_unused]] guard p) -> task<int> {
        co_await g.wait();
        co_return 1;
    };
    auto root = [&]() -> task<> {
        auto a = ringlet::spawn(work(guard(gone)));
        co_await yield_now();
        std::optional<int> none = co_await std::move(a).cancel();
        CHECK_FALSE(none.has_value());
        CHECK(gone == 1);
        auto b = ringlet::spawn(give(2));
        co_await yield_now();
        std::optional<int> two = co_await std::move(b).cancel();
        CHECK(two == 2);
    };
    ex.run(root());
    CHECK(ex.empty());
}

// ---- the end of an executor --------------------------------------------------------------------

TEST_CASE("the end destroys pending jobs; handles outlive it") {  // 54
    join_handle<int> waiting, unrun, finished, failed, yielding;
    gate g;
    int gone = 0, polled = 0;
    waker left;
    auto wait = [&]([[maybe_unused]] guard p) -> task<int> {
        ++polled;
        co_await g.wait();
        ++polled;
        co_return 1;
    };
    auto yield = [&]([[maybe_unused]] guard p) -> task<int> {
        for (;;) co_await yield_now();
    };
    {
        executor ex;
        waiting = ex.spawn(wait(guard(gone)));
        finished = ex.spawn(give(42));
        failed = ex.spawn(fail("failed"));
        yielding = ex.spawn(yield(guard(gone)));
        ex.run(nothing());
        unrun = ex.spawn(wait(guard(gone)));
        CHECK(gone == 0);
        CHECK(polled == 1);
        left = g.waiter;
    }
    CHECK(gone == 3);
    CHECK(polled == 1);
    for (auto* h : {&waiting, &unrun, &finished, &failed, &yielding}) CHECK(h->done());
    left.wake();  // does nothing
    g.open();
    CHECK(block_on(outcome(waiting)) == "cancelled");
    CHECK(block_on(outcome(unrun)) == "cancelled");
    CHECK(block_on(outcome(yielding)) == "cancelled");
    CHECK(block_on(outcome(finished)) == "42");
    CHECK(block_on(outcome(failed)) == "failed");
    CHECK(block_on(outcome(finished)) == "misuse");  // a handle is awaited once
}

TEST_CASE("after the end: try_join and cancel of what is left") {
    join_handle<int> a, b, c, d;
    gate g;
    auto wait = [&]() -> task<int> {
        co_await g.wait();
        co_return 1;
    };
    {
        executor ex;
        a = ex.spawn(wait());
        b = ex.spawn(give(2));
        c = ex.spawn(wait());
        d = ex.spawn(give(4));
        drain(ex);
    }
    auto root = [&]() -> task<> {
        std::optional<int> one = co_await std::move(a).try_join();
        CHECK_FALSE(one.has_value());
        std::optional<int> two = co_await std::move(b).try_join();
        CHECK(two == 2);
        std::optional<int> three = co_await std::move(c).cancel();
        CHECK_FALSE(three.has_value());
        std::optional<int> four = co_await std::move(d).cancel();
        CHECK(four == 4);
    };
    block_on(root());
}

TEST_CASE("a detached sleeper at exit is cancelled, not waited for") {  // 58
    int gone = 0, woke = 0;
    auto sleeper = [&]([[maybe_unused]] guard p) -> task<> {
        co_await ringlet::sleep_for(24h);
        ++woke;
    };
    auto root = [&]() -> task<> {
        ringlet::spawn(sleeper(guard(gone))).detach();
        co_await yield_now();
        CHECK(gone == 0);
    };
    block_on(root());
    CHECK(gone == 1);
    CHECK(woke == 0);
}

TEST_CASE("the end: innermost frames first, the jobs in the order of their spawn") {
    history log;
    gate g, h;
    auto leaf = [&](std::string name, gate& at) -> task<> {
        at_end says([&log, name] { log.push_back(name + " leaf"); });
        co_await at.wait();
    };
    auto work = [&](std::string name, gate& at) -> task<> {
        at_end says([&log, name] { log.push_back(name); });
        co_await leaf(name, at);
    };
    {
        executor ex;
        ex.spawn(work("a", g)).detach();
        ex.spawn(work("b", h)).detach();
        drain(ex);
    }
    CHECK(log == history{"a leaf", "a", "b leaf", "b"});
}

TEST_CASE("a shielded task runs to its end though the executor ends") {
    history log;
    auto inner = [&]() -> task<> {
        log.push_back("begins");
        for (int i = 0; i < 3; ++i) co_await yield_now();
        co_await ringlet::sleep_for(10us);
        co_await ringlet::io::nop();
        auto child = ringlet::spawn(give(1));
        try {
            co_await std::move(child);
        } catch (const task_cancelled&) { log.push_back("no new jobs"); }
        log.push_back("ends");
    };
    auto work = [&]() -> task<> {
        at_end says([&] { log.push_back("destroyed"); });
        co_await ringlet::shield(inner());
        co_await yield_now();
        log.push_back("not reached");
    };
    auto root = [&]() -> task<> {
        ringlet::spawn(work()).detach();
        co_await yield_now();
        log.push_back("root ends");
    };
    block_on(root());
    CHECK(log.size() >= 4);
    CHECK(log[0] == "begins");
    CHECK(log[1] == "root ends");
    CHECK(log[log.size() - 2] == "ends");
    CHECK(log.back() == "destroyed");
}

TEST_CASE("what waits forever under a shield goes with the executor all the same") {
    int gone = 0;
    gate g;
    waker kept;
    join_handle<> a, b;
    auto shielded = [&]([[maybe_unused]] guard p) -> task<> {
        guard local(gone);
        co_await ringlet::shield(wait_at(g, guard(gone)));
    };
    auto joins = [](join_handle<>& other, [[maybe_unused]] guard p) -> task<> {
        co_await std::move(other);
    };
    auto shielded_join = [&](join_handle<>& other) -> task<> {
        co_await ringlet::shield(joins(other, guard(gone)));
    };
    auto never = [&]([[maybe_unused]] guard p) -> task<> {
        co_await ringlet::sleep_for(std::chrono::hours::max());
    };
    auto shielded_sleep = [&]() -> task<> { co_await ringlet::shield(never(guard(gone))); };
    {
        executor ex;
        ex.spawn(shielded(guard(gone))).detach();
        a = ex.spawn(shielded_join(b));
        b = ex.spawn(shielded_join(a));
        ex.spawn(shielded_sleep()).detach();
        drain(ex);
        CHECK(gone == 0);
        kept = g.waiter;
    }
    CHECK(gone == 6);
    for (auto* h : {&a, &b}) CHECK((!*h || h->done()));
    kept.wake();
}

TEST_CASE("spawned from a destructor while the executor ends: that goes, too") {
    int gone = 0;
    gate g;
    bool detached = false;
    SUBCASE("the handle dropped") { detached = false; }
    SUBCASE("detached") { detached = true; }
    std::function<void(int)> spawn_again;
    auto work = [&](int depth, [[maybe_unused]] guard p) -> task<> {
        at_end then([&spawn_again, depth] {
            if (depth > 0) spawn_again(depth - 1);
        });
        co_await g.wait();
    };
    int spawned = 0;
    spawn_again = [&](int depth) {
        ++spawned;
        auto h = ringlet::spawn(work(depth, guard(gone)));
        if (detached) h.detach();
    };
    {
        executor ex;
        auto h = ex.spawn(work(20, guard(gone)));
        drain(ex);
        h.detach();
        CHECK(gone == 0);
    }
    CHECK(spawned >= 1);
    CHECK(gone == spawned + 1);
}

TEST_CASE("the end sleeps in the parker only while a job has not let go") {
    std::vector<std::int64_t> asked;
    gate g;
    int gone = 0;
    auto watch = [&](std::int64_t until) {
        asked.push_back(until);
        return true;  // there is always something that might come
    };
    {
        executor ex;
        ex.io = std::make_unique<scripted>(watch);
    }
    {
        executor ex;
        ex.io = std::make_unique<scripted>(watch);
        ex.spawn(wait_at(g, guard(gone))).detach();
        drain(ex);
        ex.spawn(wait_at(g, guard(gone))).detach();
    }
    CHECK(gone == 2);
    for (std::int64_t until : asked) CHECK(until == parker::now);
}

TEST_CASE("a root that waits in vain under a shield ends alone") {
    gate g, never;
    int gone = 0;
    executor ex;
    auto other = ex.spawn(wait_at(g, guard(gone)));
    auto root = [&]() -> task<> { co_await ringlet::shield(never.wait()); };
    CHECK_THROWS_AS(ex.run(root()), deadlock);
    g.open();
    drain(ex);
    CHECK(other.done());
    bool ended = ex.run(std::move(other).try_join());
    CHECK(ended);
}

TEST_CASE("the end, with a parker that throws: those that have yielded go all the same") {
    int gone = 0;
    auto yields = [&]() -> task<> {
        guard local(gone);
        for (;;) co_await yield_now();
    };
    {
        executor ex;
        ex.io = std::make_unique<scripted>([](std::int64_t) -> bool { throw oops("no"); });
        ex.spawn(yields()).detach();
        CHECK_THROWS_AS(ex.run(yields()), oops);
        CHECK(gone == 1);
    }
    CHECK(gone == 2);
}

TEST_CASE("exceptions of detached jobs that end with the executor go nowhere") {
    int ran = 0;
    auto inner = [&]() -> task<> {
        co_await yield_now();
        co_await yield_now();
        ++ran;
        throw oops("for nobody");
    };
    auto work = [&]() -> task<> { co_await ringlet::shield(inner()); };
    {
        executor ex;
        ex.spawn(work()).detach();
        CHECK(ex.try_tick());
    }
    CHECK(ran == 1);
}

TEST_CASE("wakers and schedules after the end do nothing") {
    std::vector<waker> wakers;
    int gone = 0;
    auto wait = [&]([[maybe_unused]] guard p) -> task<> {
        auto keep = [&](waker w) { wakers.push_back(std::move(w)); };
        co_await ringlet::suspend(keep);
    };
    {
        executor ex;
        for (int i = 0; i < 10; ++i) ex.spawn(wait(guard(gone))).detach();
        drain(ex);
        CHECK(wakers.size() == 10);
        wakers[3].wake();
        wakers.erase(wakers.begin() + 5);
    }
    CHECK(gone == 10);
    for (waker& w : wakers) w.wake();
    CHECK(wakers[0].wakes(wakers[0]));
    CHECK_FALSE(wakers[0].wakes(wakers[1]));
}

// ---- arguments, parkers, threads ----------------------------------------------------------------

TEST_CASE("spawn(f, args...): what an argument is converted to lives as long as the task") {
    struct counts {
        int* gone;
        explicit counts(int& n) : gone(&n) {}
    };
    struct converted {  // no aggregate, which g++ 12 would destroy twice
        converted(counts c) : gone(c.gone) {}
        converted(const converted&) = delete;
        ~converted() { ++*gone; }
        int* gone;
    };
    int gone = 0;
    auto f = [](const converted& c, const std::string& s) -> task<std::size_t> {
        co_await yield_now();
        CHECK(*c.gone == 0);
        co_return s.size();
    };
    auto root = [&]() -> task<> {
        auto h = ringlet::spawn(f, counts(gone), "a literal of more than fifteen characters");
        const auto n = co_await std::move(h);
        CHECK(n == 41);
        CHECK(gone == 1);
    };
    block_on(root());
}

TEST_CASE("spawn(f, args...): member functions, and what stands for a reference") {
    struct server {
        task<int> serve(int n) {
            co_await yield_now();
            co_return served += n;
        }
        int served = 0;
    };
    server s;
    auto add = [](int& to, int n) -> task<> {
        co_await yield_now();
        to += n;
    };
    int sum = 0;
    auto root = [&]() -> task<> {
        auto h = ringlet::spawn(&server::serve, &s, 3);
        auto i = ringlet::spawn(add, std::ref(sum), 4);
        const int served = co_await std::move(h);
        co_await std::move(i);
        CHECK(served == 3);
    };
    block_on(root());
    CHECK(s.served == 3);
    CHECK(sum == 4);
}

TEST_CASE(
    "a parker that fails while a job yields: the run ends with it, and the next one goes on") {
    int fails = 0, rounds = 0, gone = 0;
    executor ex;
    ex.io = std::make_unique<scripted>([&](std::int64_t) {
        if (fails-- > 0) throw oops("the parker");
        return true;
    });
    auto yields = [&]([[maybe_unused]] guard parameter) -> task<> {
        for (;;) co_await yield_now();
    };
    auto rest = [&]() -> task<> {
        for (int i = 0; i < 9; ++i) {
            co_await yield_now();
            ++rounds;
        }
    };
    fails = 2;
    CHECK_THROWS_AS(ex.run(yields(guard(gone))), oops);
    CHECK(gone == 1);
    CHECK(ex.empty());
    CHECK_THROWS_AS(ex.run(rest()), oops);  // the second, which came as the root ended
    CHECK(rounds == 0);
    ex.run(rest());
    CHECK(rounds == 9);
    CHECK(ex.empty());
}

TEST_CASE("an executor that is thread_local gives every block back when its thread ends") {
    int gone = 0;
    std::thread([&] {
        static thread_local executor ex;
        auto work = [](guard) -> task<> { co_await yield_now(); };
        ex.spawn(work(guard(gone))).detach();
        CHECK(ex.try_tick());
    }).join();
    CHECK(gone == 1);  // and LeakSanitizer finds no block
}

TEST_CASE("a task that ticks another executor goes on as the running one") {
    int ran = 0;
    auto small = [&]() -> task<> {
        co_await yield_now();
        ++ran;
    };
    auto root = [&]() -> task<> {
        executor other;
        other.spawn(small()).detach();
        while (other.try_tick()) {}
        CHECK(ran == 1);
        co_await yield_now();
        co_await small();
    };
    block_on(root());
    CHECK(ran == 2);
}

TEST_CASE("a job that drops its own handle as it suspends, and a waker in a local that it wakes") {
    int gone = 0, handed = 0;
    auto sleeper = [&](join_handle<>& self, [[maybe_unused]] guard parameter) -> task<> {
        waker own;
        const at_end wakes([&] { own.wake(); });
        auto hand_over = [&](waker w) {
            own = std::move(w);
            ++handed;
            drop(std::move(self));
        };
        co_await ringlet::suspend(hand_over);
        ++handed;
    };
    auto root = [&]() -> task<> {
        join_handle<> h;
        h = ringlet::spawn(sleeper(h, guard(gone)));
        co_await yield_now();
        co_await yield_now();
        CHECK(gone == 1);
    };
    block_on(root());
    CHECK(gone == 1);
    CHECK(handed == 1);
}

TEST_CASE("hooks: a job that the end of its executor gives up is told as finished, once") {
    struct told {
        int spawned = 0, finished = 0;
    } n;
    {
        executor ex;
        ex.hooks.context = &n;
        ex.hooks.on_spawn = [](void* c, const job_info&) { ++static_cast<told*>(c)->spawned; };
        ex.hooks.on_finish = [](void* c, const job_info&) { ++static_cast<told*>(c)->finished; };
        struct [[nodiscard]] stubborn final : ringlet::detail::waits<stubborn> {
            bool interrupt(ringlet::detail::job&) noexcept override { return false; }
            std::string describe() const override { return "nothing that ever comes"; }
            void await_resume() const noexcept {}
        };
        auto inner = []() -> task<> { co_await stubborn(); };
        auto deep = [&]() -> task<> { co_await ringlet::shield(inner()); };
        ex.spawn(deep()).detach();
        drain(ex);
        CHECK(n.spawned == 2);
        CHECK(n.finished == 0);
    }
    CHECK(n.spawned == 2);
    CHECK(n.finished == 2);
}

namespace {

// Larger than what the pool keeps: so a sanitizer sees who uses it too long.
struct large {
    int n = 1;
    char rest[200'000];
};
// Spawns a task in the middle of something else, with arguments: the place is that of the job that
// runs here, if one does.
void spawn_another(int& ran) {
    auto another = [](int* n) -> task<> {
        ++*n;
        co_return;
    };
    ringlet::spawn(another, &ran).detach();
}

}  // namespace

TEST_CASE("the exception of a cancelled task without a handle goes before its job") {
    int ran = 0;
    struct error {
        std::shared_ptr<int> spawns;
    };
    auto cancels_itself = [&](join_handle<large>& own) -> task<large> {
        own = join_handle<large>();
        throw error{std::shared_ptr<int>(&ran, [](int* n) { spawn_another(*n); })};
        co_return large();
    };
    block_on([&]() -> task<> {
        join_handle<large> own;
        own = ringlet::spawn(cancels_itself(own));
        while (!ran) co_await yield_now();
    }());
    CHECK(ran == 1);
}

TEST_CASE(
    "a schedule function that runs a joiner on the spot may spawn, when the joined job is gone") {
    int ran = 0, joined = 0;
    auto value = []() -> task<large> {
        co_await yield_now();
        co_return large();
    };
    auto joins = [&](join_handle<large> h) -> task<> {
        const large l = co_await std::move(h);
        joined = l.n;
    };
    auto on_the_spot = [&](ringlet::runnable r) {
        std::move(r).run();
        spawn_another(ran);
    };
    block_on([&]() -> task<> {
        auto [r, h] = ringlet::spawn(joins(ringlet::spawn(value())), on_the_spot);
        std::move(r).run();
        while (!ran) co_await yield_now();
        CHECK(h.done());
    }());
    CHECK(joined == 1);
    CHECK(ran == 1);
}
