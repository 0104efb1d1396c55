// task.hpp by itself: results, exceptions, nesting, cancelling, wakers, suspend and shield.
// (conformance_test.cpp walks through the life of one job; here is what tasks are made of.)
#include <doctest/doctest.h>

#include <algorithm>
#include <concepts>
#include <coroutine>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <ringlet/task.hpp>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "support.hpp"

using ringlet::join_handle;
using ringlet::runnable;
using ringlet::schedule_info;
using ringlet::task;
using ringlet::task_cancelled;
using ringlet::waker;

// ---- what the types promise --------------------------------------------------------------------

template <class T>
constexpr bool move_only =
    std::is_nothrow_move_constructible_v<
        T> && !std::is_copy_constructible_v<T> && !std::is_copy_assignable_v<T>;

static_assert(move_only<task<>> && move_only<task<int>> && move_only<task<int&>>);
static_assert(move_only<task<std::unique_ptr<int>>>);
static_assert(move_only<runnable> && std::is_nothrow_move_assignable_v<runnable>);
static_assert(move_only<join_handle<>> && move_only<join_handle<int&>>);
static_assert(std::is_nothrow_move_assignable_v<join_handle<int>>);
static_assert(std::is_default_constructible_v<join_handle<int>>);
static_assert(std::is_default_constructible_v<waker> && std::is_copy_constructible_v<waker>);
static_assert(std::is_copy_assignable_v<waker> && std::is_nothrow_move_constructible_v<waker>);
static_assert(
    std::is_same_v<task<>, task<void>> && std::is_same_v<join_handle<>, join_handle<void>>);
static_assert(std::is_base_of_v<std::exception, task_cancelled>);

// What is used up by its use is used as an rvalue.
template <class H> concept used_as_lvalue = requires(H& h) { h.cancel(); }
|| requires(H& h) { h.try_join(); }
|| requires(H& h) { h.operator co_await(); }
|| requires(H& h) { operator co_await(h); }
|| requires(H& h) { h.run(); }
|| requires(H& h) { h.release(); };
static_assert(
    !used_as_lvalue<join_handle<int>> && !used_as_lvalue<task<int>> && !used_as_lvalue<runnable>);

using support::drop;
using support::gate;
using support::guard;
using support::history;
using support::loop;
using support::oops;

namespace {

// ---- helpers -----------------------------------------------------------------------------------

class leaving {  // writes its name when it is destroyed
public:
    leaving(history& log, std::string name) : log_(log), name_(std::move(name)) {}
    leaving(leaving&&) = delete;
    ~leaving() { log_.push_back("~" + name_); }

private:
    history& log_;
    std::string name_;
};

// Not inlined: clang would put the frame of a call that it can see through into the caller's.
template <class T> [[gnu::noinline]] task<T> give(T value) { co_return std::forward<T>(value); }

task<int> fail(std::string what) {
    throw oops(what);
    co_return 0;
}

}  // namespace

// ---- results -----------------------------------------------------------------------------------

TEST_CASE("a task is lazy, and unawaited it gives its arguments back") {
    int polled = 0, arguments = 0;
    auto work = [](int& n, [[maybe_unused]] guard g) -> task<> {
        ++n;
        co_return;
    };
    {
        task<> t = work(polled, guard(arguments));
        task<> moved = std::move(t);
        CHECK(polled == 0);
        CHECK(arguments == 0);
    }
    CHECK(polled == 0);
    CHECK(arguments == 1);
}

TEST_CASE("results: void, values, move-only values, references") {
    struct no_default {
        explicit no_default(int n) : value(n) {}
        int value;
    };
    int number = 7;
    auto nothing = [](bool& ran) -> task<> {
        ran = true;
        co_return;
    };
    auto refer = [](int& n) -> task<int&> { co_return n; };
    auto refer_const = [](const int& n) -> task<const int&> { co_return n; };
    auto own = [](int n) -> task<std::unique_ptr<int>> { co_return std::make_unique<int>(n); };
    auto root = [&]() -> task<> {
        bool ran = false;
        co_await nothing(ran);
        CHECK(ran);
        std::string s = co_await give<std::string>(
            "a string that is not short enough to be stored in place");
        CHECK(s.size() == 55);
        int& r = co_await refer(number);
        CHECK(&r == &number);
        const int& cr = co_await refer_const(number);
        CHECK(&cr == &number);
        std::unique_ptr<int> p = co_await own(3);
        CHECK(*p == 3);
        no_default d = co_await give(no_default(4));
        CHECK(d.value == 4);
        task<int> later = give(5);
        int five = co_await std::move(later);
        CHECK(five == 5);
    };
    loop l;
    l.run(root());
}

TEST_CASE("locals go when the task ends, parameters when its frame goes") {
    int locals = 0, parameters = 0;
    loop l;
    auto work = [](int& n, [[maybe_unused]] guard parameter) -> task<> {
        guard local(n);
        co_return;
    };
    auto root = [&]() -> task<> {
        co_await work(locals, guard(parameters));
        CHECK(locals == 1);
        CHECK(parameters == 1);  // the task was a temporary
        task<> named = work(locals, guard(parameters));
        co_await std::move(named);  // which gives its frame to the await
        CHECK(locals == 2);
        CHECK(parameters == 2);
    };
    l.run(root());
    auto h = l.spawn(work(locals, guard(parameters)));
    l.drain();
    CHECK(locals == 3);
    CHECK(parameters == 3);
}

TEST_CASE("a task is awaited once") {
    loop l;
    gate g;
    auto work = [&]() -> task<int> {
        co_await g.wait();
        co_return 1;
    };
    int thrown = 0, sum = 0;
    auto root = [&]() -> task<> {
        task<int> t = work();
        task<int> moved_from = std::move(t);
        for (task<int>* again : {&moved_from, &moved_from, &t}) {
            try {
                int n = co_await std::move(*again);
                sum += n;
            } catch (const std::logic_error&) { ++thrown; }
        }
    };
    auto h = l.spawn(root());
    l.drain();
    g.open();
    l.drain();
    CHECK(h.done());
    CHECK(sum == 1);
    CHECK(thrown == 2);
}

namespace {

struct ready_awaiter {
    explicit ready_awaiter(int n) : value(n) {}
    ready_awaiter(ready_awaiter&&) = delete;
    bool await_ready() const { return true; }
    void await_suspend(std::coroutine_handle<>) const {}
    ready_awaiter* await_resume() { return this; }

    int value;
};
struct by_member {
    ready_awaiter operator co_await() const { return ready_awaiter(2); }
};
struct by_function {};
ready_awaiter operator co_await(by_function) { return ready_awaiter(3); }

}  // namespace

TEST_CASE("other awaitables that are ready: trivial, pinned, by operator co_await") {
    loop l;
    auto root = [&]() -> task<> {
        co_await std::suspend_never();
        ready_awaiter pinned(1);
        ready_awaiter* same = co_await pinned;
        CHECK(same == &pinned);
        by_member member;
        ready_awaiter* two = co_await member;
        CHECK(two != nullptr);
        ready_awaiter* three = co_await by_function();
        CHECK(three != nullptr);
    };
    l.run(root());
}

TEST_CASE("results through a join_handle: void, values, move-only values, references") {
    int number = 7;
    auto nothing = []() -> task<> { co_return; };
    auto refer = [](int& n) -> task<int&> { co_return n; };
    auto own = [](int n) -> task<std::unique_ptr<int>> { co_return std::make_unique<int>(n); };
    loop l;
    auto root = [&]() -> task<> {
        for (bool ended : {false, true}) {  // awaited before it ended, and after
            auto a = l.spawn(nothing());
            auto b = l.spawn(refer(number));
            auto c = l.spawn(own(3));
            auto d = l.spawn(give<std::string>("d"));
            if (ended) l.drain();
            CHECK(d.done() == ended);
            co_await std::move(a);
            int& r = co_await std::move(b);
            CHECK(&r == &number);
            std::unique_ptr<int> p = co_await std::move(c);
            CHECK(*p == 3);
            std::string s = co_await std::move(d);
            CHECK(s == "d");
            CHECK_FALSE(static_cast<bool>(d));
        }
    };
    l.run(root());
}

TEST_CASE("try_join and cancel: what they give for each kind of result") {
    int number = 7;
    gate never;
    auto nothing = []() -> task<> { co_return; };
    auto refer = [](int& n) -> task<int&> { co_return n; };
    auto own = [](int n) -> task<std::unique_ptr<int>> { co_return std::make_unique<int>(n); };
    auto block = [&]() -> task<> { co_await never.wait(); };
    auto block_ref = [&]() -> task<int&> {
        co_await never.wait();
        co_return number;
    };
    auto block_int = [&]() -> task<int> {
        co_await never.wait();
        co_return 1;
    };
    loop l;
    auto root = [&]() -> task<> {
        auto a = l.spawn(nothing());
        bool ended = co_await std::move(a).try_join();
        CHECK(ended);
        auto b = l.spawn(refer(number));
        int* r = co_await std::move(b).try_join();
        CHECK(r != nullptr);
        CHECK(r == &number);
        auto c = l.spawn(own(3));
        std::optional<std::unique_ptr<int>> p = co_await std::move(c).try_join();
        CHECK(p.has_value());
        CHECK(**p == 3);

        auto d = l.spawn(nothing());
        l.drain();
        bool had_ended = co_await std::move(d).cancel();
        CHECK(had_ended);
        auto e = l.spawn(refer(number));
        l.drain();
        int* r2 = co_await std::move(e).cancel();
        CHECK(r2 != nullptr);
        auto f = l.spawn(own(4));
        l.drain();
        std::optional<std::unique_ptr<int>> p2 = co_await std::move(f).cancel();
        CHECK(p2.has_value());
        CHECK(**p2 == 4);

        auto g = l.spawn(block());
        l.drain();
        bool g_ended = co_await std::move(g).cancel();
        CHECK_FALSE(g_ended);
        auto i = l.spawn(block_ref());
        int* none = co_await std::move(i).cancel();
        CHECK(none == nullptr);
        auto h = l.spawn(block_int());
        std::optional<int> h_value = co_await std::move(h).cancel();  // it has not even begun
        CHECK_FALSE(h_value.has_value());
    };
    l.run(root());
}

TEST_CASE("try_join gives nullopt for a cancelled job, and rethrows what the job threw") {
    loop l;
    auto never = []() -> task<int> {
        co_await ringlet::suspend([](waker) {});
        co_return 1;
    };
    auto root = [&]() -> task<> {
        auto [r, h] = ringlet::spawn(never(), [](runnable) {});
        drop(std::move(r));
        std::optional<int> v = co_await std::move(h).try_join();
        CHECK_FALSE(v.has_value());

        auto failed = l.spawn(fail("failed"));
        std::string what;
        try {
            co_await std::move(failed).try_join();
        } catch (const oops& e) { what = e.what(); }
        CHECK(what == "failed");

        auto nothing = [](std::string text) -> task<> {
            throw oops(text);
            co_return;
        };
        auto void_failed = l.spawn(nothing("failed, too"));
        try {
            co_await std::move(void_failed).try_join();
        } catch (const oops& e) { what = e.what(); }
        CHECK(what == "failed, too");
    };
    l.run(root());
}

TEST_CASE("done, and detach of a job that has ended") {
    int outputs = 0;
    loop l;
    gate g;
    auto work = [](gate& until, int& count) -> task<guard> {
        co_await until.wait();
        co_return guard(count);
    };
    auto h = l.spawn(work(g, outputs));
    CHECK(static_cast<bool>(h));
    CHECK_FALSE(h.done());
    l.drain();
    CHECK_FALSE(h.done());
    g.open();
    CHECK_FALSE(h.done());
    l.drain();
    CHECK(h.done());
    CHECK(outputs == 0);
    h.detach();
    CHECK(outputs == 1);
    CHECK_FALSE(static_cast<bool>(h));
    CHECK(h.done());
}

TEST_CASE("awaiting an empty handle throws std::logic_error") {
    loop l;
    auto nothing = []() -> task<> { co_return; };
    auto root = [&]() -> task<> {
        int thrown = 0;
        auto h = l.spawn(nothing());
        co_await std::move(h);
        try {
            co_await std::move(h);
        } catch (const std::logic_error&) { ++thrown; }
        join_handle<int> empty;
        try {
            co_await std::move(empty);
        } catch (const std::logic_error&) { ++thrown; }
        try {
            co_await std::move(empty).try_join();
        } catch (const std::logic_error&) { ++thrown; }
        auto moved_from = l.spawn(give(1));
        auto owner = std::move(moved_from);
        try {
            co_await std::move(moved_from);
        } catch (const std::logic_error&) { ++thrown; }
        CHECK(thrown == 4);
        int one = co_await std::move(owner);
        CHECK(one == 1);
    };
    l.run(root());
}

TEST_CASE("two jobs cannot await one handle; the first is not disturbed") {
    history log;
    loop l;
    gate g;
    auto child = [&]() -> task<int> {
        co_await g.wait();
        co_return 5;
    };
    auto h = l.spawn(child());
    auto wait_for_it = [&](std::string name) -> task<> {
        try {
            int n = co_await std::move(h);
            log.push_back(name + " got " + std::to_string(n));
        } catch (const std::logic_error&) { log.push_back(name + " refused"); }
    };
    auto first = l.spawn(wait_for_it("first")), second = l.spawn(wait_for_it("second"));
    l.drain();
    CHECK(log == history{"second refused"});
    g.open();
    l.drain();
    CHECK(log == history{"second refused", "first got 5"});
}

TEST_CASE("two jobs cannot await one handle, not even when the first has its value at hand") {
    history log;
    loop l;
    gate g;
    auto child = [&]() -> task<std::unique_ptr<int>> {
        co_await g.wait();
        co_return std::make_unique<int>(5);
    };
    auto h = l.spawn(child());
    auto wait_for_it = [&]() -> task<> {
        try {
            std::unique_ptr<int> n = co_await std::move(h);
            log.push_back("got " + std::to_string(*n));
        } catch (const std::logic_error&) { log.push_back("refused"); }
    };
    std::deque<runnable> later;
    auto [r, first] = ringlet::spawn(
        wait_for_it(), [&](runnable x) { later.push_back(std::move(x)); });
    l.drain();
    std::move(r).run();
    g.open();
    l.drain();
    REQUIRE(later.size() == 1);
    auto second = l.spawn(wait_for_it());
    l.drain();
    std::move(later.front()).run();
    l.drain();
    std::sort(log.begin(), log.end());  // either may be the one
    CHECK(log == history{"got 5", "refused"});
}

TEST_CASE("moving a handle keeps the job; assigning over one cancels what it held") {
    int frames = 0;
    loop l;
    gate a, b;
    auto work = [](gate& until, [[maybe_unused]] guard frame) -> task<int> {
        co_await until.wait();
        co_return 1;
    };
    auto h = l.spawn(work(a, guard(frames)));
    auto h2 = l.spawn(work(b, guard(frames)));
    l.drain();
    auto moved = std::move(h);
    CHECK(l.drain() == 0);
    moved = std::move(h2);
    CHECK(frames == 0);
    CHECK(l.drain() == 1);
    CHECK(frames == 1);
    b.open();
    l.drain();
    CHECK(moved.done());
}

// ---- exceptions and nesting --------------------------------------------------------------------

namespace {

task<int> level(int n, gate* wait_at_the_bottom, history& log) {
    leaving note(log, std::to_string(n));
    if (n == 0) {
        if (wait_at_the_bottom) co_await wait_at_the_bottom->wait();
        throw oops("from the bottom");
    }
    int below = co_await level(n - 1, wait_at_the_bottom, log);
    log.push_back("not reached");
    co_return below + 1;
}

}  // namespace

TEST_CASE("an exception leaves through the awaits, innermost frame first") {
    for (bool suspends : {false, true}) {
        history log;
        loop l;
        gate g;
        gate* bottom = suspends ? &g : nullptr;
        auto root = [&]() -> task<> {
            leaving note(log, "root");
            try {
                co_await level(2, bottom, log);
            } catch (const oops& e) { log.push_back(e.what()); }
            int after = co_await give(1);  // and life goes on
            log.push_back("after " + std::to_string(after));
        };
        auto h = l.spawn(root());
        l.drain();
        CHECK(h.done() == !suspends);
        g.open();
        l.drain();
        CHECK(h.done());
        CHECK(log == history{"~0", "~1", "~2", "from the bottom", "after 1", "~root"});
    }
}

TEST_CASE("an exception of a detached job leaves run(), after its frames are gone") {
    history log;
    auto [r, h] = ringlet::spawn(level(1, nullptr, log), [](runnable) {});
    h.detach();
    CHECK_THROWS_AS(std::move(r).run(), oops);
    CHECK(log == history{"~0", "~1"});
}

TEST_CASE("a job's exception is rethrown to whoever awaits the handle, with its type") {
    loop l;
    auto root = [&]() -> task<> {
        auto h = l.spawn(fail("lost"));
        l.drain();
        CHECK(h.done());
        std::string what;
        try {
            co_await std::move(h);
        } catch (const oops& e) { what = e.what(); }
        CHECK(what == "lost");

        auto c = l.spawn(fail("before the cancel"));
        l.drain();
        what.clear();
        try {
            co_await std::move(c).cancel();
        } catch (const oops& e) { what = e.what(); }
        CHECK(what == "before the cancel");
    };
    l.run(root());
}

namespace {

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)                            \
    || __has_feature(memory_sanitizer)
#define SANITIZED
#endif
#endif
#if defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)       \
    && !defined(SANITIZED)
constexpr int depth = 10'000;
#else
constexpr int depth = 1'000;
#endif

task<int> dive(int n, gate* bottom, bool throws, int& frames) {
    guard local(frames);
    if (n == 0) {
        if (bottom) co_await bottom->wait();
        if (throws) throw oops("deep");
        co_return 0;
    }
    int below = co_await dive(n - 1, bottom, throws, frames);
    co_return below + 1;
}

}  // namespace

TEST_CASE("awaiting is deep: up and down without a suspension") {
    int frames = 0;
    loop l;
    auto h = l.spawn(dive(depth, nullptr, false, frames));
    CHECK(l.drain() == 1);
    CHECK(frames == depth + 1);
    auto root = [&]() -> task<> {
        int n = co_await std::move(h);
        CHECK(n == depth);
    };
    l.run(root());
}

TEST_CASE("awaiting is deep: suspended at the bottom, then returning or throwing all the way") {
    for (bool throws : {false, true}) {
        int frames = 0;
        loop l;
        gate bottom;
        auto h = l.spawn(dive(depth, &bottom, throws, frames));
        l.drain();
        CHECK(frames == 0);
        bottom.open();
        CHECK(l.drain() == 1);
        CHECK(frames == depth + 1);
        auto root = [&]() -> task<> {
            int n = -1;
            try {
                n = co_await std::move(h);
            } catch (const oops&) { n = -2; }
            CHECK(n == (throws ? -2 : depth));
        };
        l.run(root());
    }
}

TEST_CASE("awaiting is deep: cancelled at the bottom") {
    int frames = 0;
    loop l;
    gate bottom;
    auto h = l.spawn(dive(depth, &bottom, false, frames));
    l.drain();
    drop(std::move(h));
    CHECK(frames == 0);
    CHECK(l.drain() == 1);
    CHECK(frames == depth + 1);
}

TEST_CASE("a million awaits that never suspend: one run, no stack") {
    loop l;
    gate g;
    auto child = [](gate* first) -> task<int> {
        if (first) co_await first->wait();
        co_return 1;
    };
    auto middle = [&](gate* first) -> task<int> {
        int n = co_await child(first);
        co_return n;
    };
    long sum = 0;
    auto root = [&]() -> task<> {
        for (int i = 0; i < 1'000'000; ++i) {
            int n = co_await child(nullptr);
            sum += n;
        }
        int slow = co_await middle(&g);  // the loop after it runs on the back of a resumed child
        sum += slow;
        for (int i = 0; i < 1'000'000; ++i) {
            int n = co_await middle(nullptr);
            sum += n;
        }
    };
    auto h = l.spawn(root());
    CHECK(l.drain() == 1);
    CHECK(sum == 1'000'000);
    g.open();
    CHECK(l.drain() == 1);
    CHECK(sum == 2'000'001);
    CHECK(h.done());
}

TEST_CASE("a million awaits of what is ready already: handles, exceptions, cancel_requested") {
    loop l;
    auto root = [&]() -> task<> {
        int sum = 0, caught = 0;
        for (int i = 0; i < 100'000; ++i) {
            auto [r, h] = ringlet::spawn(give(1), [](runnable) {});
            std::move(r).run();
            int n = co_await std::move(h);
            sum += n;
            bool stop = co_await ringlet::cancel_requested();
            sum += stop;
        }
        for (int i = 0; i < 1'000; ++i) {
            try {
                co_await fail("ready");
            } catch (const oops&) { ++caught; }
        }
        CHECK(sum == 100'000);
        CHECK(caught == 1'000);
    };
    l.run(root());
}

// ---- cancelling --------------------------------------------------------------------------------

TEST_CASE("a cancel destroys the frames innermost first, and runs no handler") {
    history log;
    loop l;
    gate g;
    auto inner = [&]() -> task<> {
        leaving a(log, "inner a"), b(log, "inner b");
        try {
            co_await g.wait();
        } catch (...) { log.push_back("a handler ran"); }
        log.push_back("not reached");
    };
    auto middle = [&](leaving&) -> task<> {
        leaving a(log, "middle");
        try {
            co_await inner();
        } catch (...) { log.push_back("a handler ran"); }
    };
    auto outer = [&]() -> task<> {
        leaving a(log, "outer");
        { leaving ended(log, "block"); }
        leaving argument(log, "argument");
        co_await middle(argument);
    };
    auto h = l.spawn(outer());
    l.drain();
    CHECK(log == history{"~block"});
    drop(std::move(h));
    CHECK(log == history{"~block"});  // never on the canceller's stack
    CHECK(l.schedules == 1);
    g.open();  // too late
    CHECK(l.schedules == 1);
    CHECK(l.drain() == 1);
    CHECK(log == history{"~block", "~inner b", "~inner a", "~middle", "~argument", "~outer"});
}

TEST_CASE("cancel() of a finished job gives its value") {
    loop l;
    auto root = [&]() -> task<> {
        auto h = l.spawn(give<std::string>("finished"));
        l.drain();
        std::optional<std::string> v = co_await std::move(h).cancel();
        CHECK(v == "finished");
    };
    l.run(root());
}

TEST_CASE("cancel() acts at once, and resolves when the frames are gone") {
    history log;
    loop l;
    gate g;
    auto victim = [&]() -> task<int> {
        leaving note(log, "victim");
        co_await g.wait();
        co_return 1;
    };
    auto h = l.spawn(victim());
    l.drain();
    auto root = [&]() -> task<> {
        auto cancelled = std::move(h).cancel();
        CHECK(l.schedules == 1);
        CHECK(log.empty());
        std::optional<int> v = co_await std::move(cancelled);
        CHECK_FALSE(v.has_value());
        log.push_back("resolved");
    };
    l.run(root());
    CHECK(log == history{"~victim", "resolved"});
}

TEST_CASE("a cancelled job lets go of its child; the child's handle decides about the child") {
    for (bool owns : {false, true}) {
        history log;
        loop l;
        gate g;
        auto child = [&]() -> task<int> {
            leaving note(log, "child");
            co_await g.wait();
            co_return 1;
        };
        auto elsewhere = l.spawn(child());
        auto parent = [&]() -> task<> {
            leaving note(log, "parent");
            join_handle<int> mine;
            if (owns) mine = std::move(elsewhere);
            join_handle<int>& which = owns ? mine : elsewhere;
            co_await std::move(which);
        };
        auto h = l.spawn(parent());
        l.drain();
        drop(std::move(h));
        CHECK(log.empty());
        CHECK(l.tick());
        CHECK(log == history{"~parent"});
        l.drain();
        if (owns) {
            CHECK(log == history{"~parent", "~child"});
        } else {
            CHECK(log == history{"~parent"});
            CHECK_FALSE(elsewhere.done());
            g.open();
            l.drain();
            CHECK(elsewhere.done());
        }
    }
}

TEST_CASE("a finished child beats the cancel: its value is taken, up to the next suspension") {
    history log;
    loop l;
    gate g, after;
    auto child = [&]() -> task<std::unique_ptr<int>> {
        co_await g.wait();
        co_return std::make_unique<int>(5);
    };
    auto parent = [&]() -> task<> {
        leaving note(log, "parent");
        auto c = l.spawn(child());
        std::unique_ptr<int> p = co_await std::move(c);
        log.push_back("got " + std::to_string(*p));
        co_await after.wait();
        log.push_back("not reached");
    };
    auto h = l.spawn(parent());
    l.drain();
    g.open();
    l.tick();  // the child ends, the parent is scheduled
    CHECK(log.empty());
    drop(std::move(h));
    l.drain();
    CHECK(log == history{"got 5", "~parent"});
}

TEST_CASE("a job cancelled with a result at hand that then returns: the value is delivered") {
    loop l;
    gate g;
    auto child = [&]() -> task<int> {
        co_await g.wait();
        co_return 5;
    };
    auto c = l.spawn(child());
    join_handle<int> h;
    auto parent = [&]() -> task<int> {
        int n = co_await std::move(c);
        [[maybe_unused]] auto again = std::move(h).cancel();
        co_return n + 1;
    };
    h = l.spawn(parent());
    l.drain();
    g.open();
    l.tick();
    auto cancelled = std::move(h).cancel();  // before it runs with the result
    std::optional<int> result;
    auto taker = [&]() -> task<> { result = co_await std::move(cancelled); };
    auto taker_handle = l.spawn(taker());
    l.drain();
    CHECK(result == 6);
}

TEST_CASE("a waiter that is destroyed with the value at hand leaves the handle as it was") {
    for (bool owns : {false, true}) {
        int outputs = 0;
        history log;
        loop l;
        gate g;
        auto child = [](gate& until, int& count) -> task<guard> {
            co_await until.wait();
            co_return guard(count);
        };
        auto h = l.spawn(child(g, outputs));
        auto wait_for_it = [&]() -> task<> {
            join_handle<guard> mine;
            if (owns) mine = std::move(h);
            join_handle<guard>& which = owns ? mine : h;
            guard value = co_await std::move(which);
            log.push_back("got it");
        };
        std::deque<runnable> queue;
        auto [r, first] = ringlet::spawn(
            wait_for_it(), [&](runnable x) { queue.push_back(std::move(x)); });
        std::move(r).run();
        l.drain();
        g.open();
        l.drain();
        REQUIRE(queue.size() == 1);
        CHECK(outputs == 0);
        queue.clear();
        CHECK(first.done());
        CHECK(outputs == (owns ? 1 : 0));
        CHECK(log.empty());
        if (owns) continue;
        l.run(wait_for_it());
        CHECK(log == history{"got it"});
        CHECK(outputs == 1);
    }
}

TEST_CASE("a plain wake is no result: the cancel wins, before and after") {
    for (bool wake_first : {true, false}) {
        history log;
        loop l;
        gate g;
        auto work = [&]() -> task<> {
            leaving note(log, "work");
            co_await g.wait();
            log.push_back("not reached");
        };
        auto h = l.spawn(work());
        l.drain();
        if (wake_first) g.open();
        drop(std::move(h));
        g.open();
        CHECK(l.schedules == 1);
        CHECK(l.drain() == 1);
        CHECK(log == history{"~work"});
    }
}

TEST_CASE("a job that cancels itself ends at its next suspension, not before") {
    history log;
    loop l;
    gate g;
    join_handle<> me;
    auto work = [&]() -> task<> {
        leaving note(log, "work");
        drop(std::move(me));
        int n = co_await give(3);  // nothing to wait for: no suspension
        log.push_back("ready " + std::to_string(n));
        bool cancelled = co_await ringlet::cancel_requested();
        log.push_back(cancelled ? "cancelled" : "forgotten");
        co_await g.wait();
        log.push_back("not reached");
    };
    me = l.spawn(work());
    CHECK(l.drain() == 1);
    CHECK(log == history{"ready 3", "cancelled", "~work"});
    CHECK_FALSE(static_cast<bool>(g.waiter));  // the wait has not even begun
    CHECK(l.schedules == 0);
}

TEST_CASE("cancelling twice is cancelling once; nobody has to await it") {
    history log;
    loop l;
    gate g;
    auto work = [&]() -> task<int> {
        leaving note(log, "work");
        co_await g.wait();
        co_return 1;
    };
    auto h = l.spawn(work());
    l.drain();
    {
        [[maybe_unused]] auto cancelled = std::move(h).cancel();
        CHECK(l.schedules == 1);
    }
    CHECK(l.schedules == 1);
    CHECK(log.empty());
    CHECK(l.drain() == 1);
    CHECK(log == history{"~work"});
}

TEST_CASE("whoever awaits a cancel may be cancelled too") {
    history log;
    loop l;
    gate g;
    auto stubborn = [&]() -> task<int> {
        leaving note(log, "inside");
        co_await g.wait();
        co_return 1;
    };
    auto victim = [&]() -> task<int> {
        leaving note(log, "victim");
        int n = co_await ringlet::shield(stubborn());
        co_return n;
    };
    auto h = l.spawn(victim());
    auto canceller = [&]() -> task<> {
        leaving note(log, "canceller");
        co_await std::move(h).cancel();
        log.push_back("not reached");
    };
    l.drain();
    auto c = l.spawn(canceller());
    l.drain();
    CHECK(log.empty());
    drop(std::move(c));
    l.drain();
    CHECK(log == history{"~canceller"});
    g.open();
    l.drain();
    CHECK(log == history{"~canceller", "~inside", "~victim"});
}

TEST_CASE("a detached job that waits for another job is not given up") {
    for (bool waker_goes_last : {false, true}) {
        history log;
        gate g;
        loop l;
        auto child = [&]() -> task<int> {
            co_await g.wait();
            co_return 5;
        };
        auto c = l.spawn(child());
        auto parent = [&]() -> task<> {
            int n = co_await std::move(c);
            log.push_back("got " + std::to_string(n));
        };
        std::deque<runnable> queue;
        auto [r, h] = ringlet::spawn(parent(), [&](runnable x) { queue.push_back(std::move(x)); });
        waker w;
        if (waker_goes_last) w = r.waker();
        std::move(r).run();
        l.drain();
        h.detach();
        drop(std::move(w));
        CHECK(queue.empty());
        g.open();
        l.drain();
        REQUIRE(queue.size() == 1);
        std::move(queue.front()).run();
        CHECK(log == history{"got 5"});
    }
}

TEST_CASE("a detached job is cancelled with its last waker, wherever that goes") {
    for (bool in_the_run : {false, true}) {
        history log;
        loop l;
        waker last;
        auto work = [&]() -> task<> {
            leaving note(log, "work");
            co_await ringlet::suspend([&](waker w) {
                if (!in_the_run) last = std::move(w);
            });
            log.push_back("not reached");
        };
        l.spawn(work()).detach();
        l.drain();
        if (!in_the_run) {
            CHECK(log.empty());
            drop(std::move(last));
            CHECK(log.empty());
            CHECK(l.schedules == 1);
            CHECK(l.drain() == 1);
        }
        CHECK(log == history{"~work"});
        if (in_the_run) {
            auto [r, h] = ringlet::spawn(work(), [](runnable) {});
            h.detach();
            CHECK_FALSE(std::move(r).run());  // nor is it scheduled again
        }
    }
}

TEST_CASE("cancel_requested: a long computation can end early; its value is dropped") {
    int outputs = 0;
    std::vector<bool> answers;
    loop l;
    join_handle<guard> me;
    auto work = [&]() -> task<guard> {
        bool before = co_await ringlet::cancel_requested();
        answers.push_back(before);
        [[maybe_unused]] auto cancelled = std::move(me).cancel();
        bool after = co_await ringlet::cancel_requested();
        answers.push_back(after);
        co_return guard(outputs);
    };
    me = l.spawn(work());
    CHECK(l.drain() == 1);
    CHECK(answers == std::vector<bool>{false, true});
    CHECK(outputs == 1);
}

// ---- shield ------------------------------------------------------------------------------------

TEST_CASE("shield passes values, references and exceptions on") {
    int number = 1;
    loop l;
    auto refer = [](int& n) -> task<int&> { co_return n; };
    auto nothing = []() -> task<> { co_return; };
    auto root = [&]() -> task<> {
        int v = co_await ringlet::shield(give(3));
        CHECK(v == 3);
        int& r = co_await ringlet::shield(refer(number));
        CHECK(&r == &number);
        co_await ringlet::shield(nothing());
        std::unique_ptr<int> p = co_await ringlet::shield(give(std::make_unique<int>(4)));
        CHECK(*p == 4);
        std::string what;
        try {
            co_await ringlet::shield(fail("shielded"));
        } catch (const oops& e) { what = e.what(); }
        CHECK(what == "shielded");
    };
    l.run(root());
}

namespace {

// Two waits; at the end 5 or an exception.
task<int> two_steps(gate& first, gate& second, history& log, bool throws = false) {
    leaving note(log, "inside");
    bool cancelled = co_await ringlet::cancel_requested();
    log.push_back(cancelled ? "cancelled before" : "begun");
    co_await first.wait();
    cancelled = co_await ringlet::cancel_requested();
    log.push_back(cancelled ? "cancelled meanwhile" : "half");
    co_await second.wait();
    if (throws) throw oops("thrown under the shield");
    co_return 5;
}

}  // namespace

TEST_CASE("a shielded task runs to its end; the cancel comes at the next suspension after it") {
    history log;
    loop l;
    gate a, b, after;
    auto work = [&]() -> task<> {
        leaving note(log, "outside");
        int v = co_await ringlet::shield(two_steps(a, b, log));
        log.push_back("got " + std::to_string(v));
        int ready = co_await ringlet::shield(give(6));
        log.push_back("ready " + std::to_string(ready));
        bool cancelled = co_await ringlet::cancel_requested();
        CHECK(cancelled);
        co_await after.wait();
        log.push_back("not reached");
    };
    auto h = l.spawn(work());
    l.drain();
    drop(std::move(h));
    l.drain();
    CHECK(log == history{"begun"});
    a.open();
    l.drain();
    CHECK(log == history{"begun", "cancelled meanwhile"});
    b.open();
    l.drain();
    CHECK(
        log == history{"begun", "cancelled meanwhile", "~inside", "got 5", "ready 6", "~outside"});
}

TEST_CASE("a job that is to stop goes on after a shield that is over on the spot") {
    history log;
    gate after;
    join_handle<> me;
    auto work = [&]() -> task<> {
        drop(std::move(me));
        int ready = co_await ringlet::shield(give(6));
        log.push_back("ready " + std::to_string(ready));
        co_await after.wait();
        log.push_back("not reached");
    };
    auto [r, h] = ringlet::spawn(work(), [](runnable x) { std::move(x).run(); });
    me = std::move(h);
    std::move(r).run();
    CHECK(log == history{"ready 6"});
}

TEST_CASE("a job cancelled under its shield that then returns: the value is delivered") {
    history log;
    loop l;
    gate a, b;
    auto work = [&]() -> task<int> {
        int v = co_await ringlet::shield(two_steps(a, b, log));
        co_return v + 1;
    };
    auto h = l.spawn(work());
    l.drain();
    std::optional<int> result;
    bool resolved = false;
    auto canceller = [&]() -> task<> {
        result = co_await std::move(h).cancel();
        resolved = true;
    };
    auto c = l.spawn(canceller());
    l.drain();
    a.open();
    l.drain();
    CHECK_FALSE(resolved);
    b.open();
    l.drain();
    CHECK(resolved);
    CHECK(result == 6);
}

TEST_CASE("after its shield or its result, a cancelled job whose handle is held ends as well") {
    for (bool shielded : {true, false}) {
        history log;
        loop l;
        gate g, after;
        auto child = [&]() -> task<int> {
            co_await g.wait();
            co_return 5;
        };
        auto c = l.spawn(child());
        auto work = [&]() -> task<int> {
            leaving note(log, "work");
            int n = 0;
            if (shielded) {
                int v = co_await ringlet::shield(child());
                n += v;
            } else {
                int v = co_await std::move(c);
                n += v;
            }
            log.push_back("got " + std::to_string(n));
            co_await after.wait();
            log.push_back("not reached");
            co_return n;
        };
        if (shielded) drop(std::move(c));
        auto h = l.spawn(work());
        l.drain();
        if (!shielded) {
            g.open();
            l.tick();  // the child ends, the job is scheduled with the result
        }
        auto cancelled = std::move(h).cancel();
        auto canceller = [&]() -> task<> {
            std::optional<int> v = co_await std::move(cancelled);
            log.push_back(v ? "delivered" : "nothing");
        };
        auto waiting = l.spawn(canceller());
        l.drain();
        g.open();
        l.drain();
        CHECK(log == history{"got 5", "~work", "nothing"});
    }
}

TEST_CASE("an exception from under the shield reaches the cancelled caller's handler") {
    history log;
    loop l;
    gate a, b, after;
    auto work = [&]() -> task<> {
        leaving note(log, "outside");
        try {
            co_await ringlet::shield(two_steps(a, b, log, true));
        } catch (const oops& e) { log.push_back(e.what()); }
        co_await after.wait();
        log.push_back("not reached");
    };
    auto h = l.spawn(work());
    l.drain();
    drop(std::move(h));
    l.drain();
    a.open();
    l.drain();
    b.open();
    l.drain();
    CHECK(log
        == history{
            "begun", "cancelled meanwhile", "~inside", "thrown under the shield", "~outside"});
}

TEST_CASE("an exception of a cancelled job that nobody holds a handle for ends with the job") {
    history log;
    loop l;
    gate a, b;
    auto work = [&]() -> task<> {
        leaving note(log, "outside");
        co_await ringlet::shield(two_steps(a, b, log, true));
        log.push_back("not reached");
    };
    auto h = l.spawn(work());
    l.drain();
    drop(std::move(h));
    a.open();
    l.drain();
    b.open();
    CHECK_NOTHROW(l.drain());
    CHECK(log == history{"begun", "cancelled meanwhile", "~inside", "~outside"});
}

TEST_CASE("nested shields: the outer one holds after the inner one has ended") {
    history log;
    loop l;
    gate a, b, c, after;
    auto middle = [&]() -> task<int> {
        leaving note(log, "middle");
        int v = co_await ringlet::shield(two_steps(a, b, log));
        log.push_back("inner ended");
        co_await c.wait();
        log.push_back("still shielded");
        co_return v;
    };
    auto work = [&]() -> task<> {
        leaving note(log, "outside");
        int v = co_await ringlet::shield(middle());
        log.push_back("got " + std::to_string(v));
        co_await after.wait();
        log.push_back("not reached");
    };
    auto h = l.spawn(work());
    l.drain();
    drop(std::move(h));
    l.drain();
    for (gate* g : {&a, &b, &c}) {
        CHECK(log.back() != "~outside");
        g->open();
        l.drain();
    }
    CHECK(log
        == history{"begun", "cancelled meanwhile", "~inside", "inner ended", "still shielded",
            "~middle", "got 5", "~outside"});
}

TEST_CASE("a job that was cancelled in this run can still shield its cleanup") {
    history log;
    loop l;
    gate a, b, after;
    join_handle<> me;
    auto work = [&]() -> task<> {
        leaving note(log, "outside");
        drop(std::move(me));
        int v = co_await ringlet::shield(two_steps(a, b, log));
        log.push_back("got " + std::to_string(v));
        co_await after.wait();
        log.push_back("not reached");
    };
    me = l.spawn(work());
    l.drain();
    CHECK(log == history{"cancelled before"});
    a.open();
    l.drain();
    b.open();
    l.drain();
    CHECK(
        log == history{"cancelled before", "cancelled meanwhile", "~inside", "got 5", "~outside"});
}

TEST_CASE("dropping the runnable of a shielded task cancels it, and its caller learns that") {
    loop l;
    gate a, b;
    history log;
    std::deque<runnable> queue;
    auto work = [&]() -> task<> {
        leaving note(log, "outside");
        int v = co_await ringlet::shield(two_steps(a, b, log));
        log.push_back("got " + std::to_string(v));
    };
    auto [r, h] = ringlet::spawn(work(), [&](runnable x) { queue.push_back(std::move(x)); });
    std::move(r).run();
    REQUIRE(queue.size() == 1);  // the child's
    runnable child = std::move(queue.front());
    queue.clear();
    std::move(child).run();
    a.open();
    REQUIRE(queue.size() == 1);
    child = std::move(queue.front());
    queue.clear();
    drop(std::move(child));
    CHECK(log == history{"begun", "~inside"});
    REQUIRE(queue.size() == 1);
    CHECK_FALSE(std::move(queue.front()).run());
    CHECK(log == history{"begun", "~inside", "~outside"});
    CHECK(h.done());
    l.run([](join_handle<> ended) -> task<> {
        CHECK_THROWS_AS(co_await std::move(ended), ringlet::task_cancelled);
    }(std::move(h)));
}

// ---- wakers ------------------------------------------------------------------------------------

TEST_CASE("an empty waker does nothing; wakes() tells jobs apart") {
    waker empty;
    empty.wake();
    CHECK_FALSE(static_cast<bool>(empty));
    loop l;
    gate a, b;
    auto work = [](gate& g) -> task<> { co_await g.wait(); };
    auto h1 = l.spawn(work(a)), h2 = l.spawn(work(b));
    l.drain();
    waker copy = a.waiter;
    CHECK(static_cast<bool>(copy));
    CHECK(copy.wakes(a.waiter));
    CHECK_FALSE(copy.wakes(b.waiter));
    CHECK_FALSE(copy.wakes(empty));
    waker moved = std::move(copy);
    CHECK_FALSE(static_cast<bool>(copy));
    copy.wake();
    CHECK(l.schedules == 0);
    moved.wake();
    CHECK(l.schedules == 1);
}

TEST_CASE("a waker is for one suspension: once the job has moved on, an old one does nothing") {
    int steps = 0;
    loop l;
    gate g;
    auto work = [&]() -> task<> {
        for (;; ++steps) co_await g.wait();
    };
    auto h = l.spawn(work());
    l.drain();
    waker old = g.waiter;
    old.wake();
    l.drain();
    CHECK(steps == 1);
    CHECK(l.schedules == 1);
    old.wake();
    CHECK(l.schedules == 1);
    CHECK(l.drain() == 0);
    CHECK(old.wakes(g.waiter));  // the same job all the same
    g.open();
    CHECK(l.schedules == 2);
    old.wake();
    l.drain();
    CHECK(steps == 2);
}

TEST_CASE("an old waker that is woken in the middle of a run does nothing either") {
    int steps = 0;
    loop l;
    gate g;
    waker old;
    auto work = [&]() -> task<> {
        for (;; ++steps) {
            old.wake();
            co_await g.wait();
        }
    };
    auto h = l.spawn(work());
    l.drain();
    for (int round = 1; round <= 3; ++round) {
        old = g.waiter;
        g.open();
        CHECK(l.drain() == 1);
        CHECK(steps == round);
    }
    CHECK(l.self_wakes == 0);
}

TEST_CASE("runnable::waker(): woken before, during and after the run that it is for") {
    std::deque<runnable> queue;
    gate g;
    waker w;
    bool during = false;
    int steps = 0;
    auto work = [&]() -> task<> {
        for (;; ++steps) {
            if (during) w.wake();
            co_await g.wait();
        }
    };
    auto [r, h] = ringlet::spawn(work(), [&](runnable x) { queue.push_back(std::move(x)); });
    w = r.waker();
    w.wake();  // scheduled already
    CHECK(queue.empty());
    CHECK_FALSE(std::move(r).run());
    w.wake();
    REQUIRE(queue.size() == 1);
    CHECK(steps == 0);
    w = queue.front().waker();
    during = true;
    runnable again = std::move(queue.front());
    queue.pop_front();
    CHECK(std::move(again).run());
    CHECK(steps == 1);
    REQUIRE(queue.size() == 1);
    during = false;
    again = std::move(queue.front());
    queue.pop_front();
    CHECK_FALSE(std::move(again).run());
    CHECK(steps == 2);
    w.wake();
    CHECK(queue.empty());
}

TEST_CASE("runnable::waker() cannot resume a job whose run ended in a wait of another kind") {
    for (bool during : {false, true}) {
        history log;
        loop l;
        gate g;
        waker w;
        std::deque<runnable> queue;
        auto child = [&]() -> task<int> {
            co_await g.wait();
            co_return 5;
        };
        auto c = l.spawn(child());
        l.drain();
        auto parent = [&]() -> task<> {
            if (during) w.wake();
            int v = co_await std::move(c);
            log.push_back("got " + std::to_string(v));
        };
        auto [r, h] = ringlet::spawn(parent(), [&](runnable x) { queue.push_back(std::move(x)); });
        w = r.waker();
        CHECK_FALSE(std::move(r).run());
        w.wake();
        CHECK(queue.empty());  // it waits for the child, and only for the child
        CHECK(log.empty());
        g.open();
        l.drain();
        REQUIRE(queue.size() == 1);
        runnable again = std::move(queue.front());
        queue.pop_front();
        std::move(again).run();
        CHECK(log == history{"got 5"});
    }
}

TEST_CASE("a result goes with the handle, also if a waker still keeps the job") {
    for (bool detaches : {false, true}) {
        int outputs = 0;
        auto work = [](int& count) -> task<guard> { co_return guard(count); };
        auto [r, h] = ringlet::spawn(work(outputs), [](runnable) {});
        waker w = r.waker();
        std::move(r).run();
        CHECK(outputs == 0);
        if (detaches) h.detach();
        else drop(std::move(h));
        CHECK(outputs == 1);
    }
}

TEST_CASE("a waker of a job that has ended keeps its memory, and nothing more") {
    int frames = 0, functions = 0;
    gate g;
    auto work = [](gate& until, [[maybe_unused]] guard frame) -> task<> { co_await until.wait(); };
    {
        auto [r, h] = ringlet::spawn(
            work(g, guard(frames)), [alive = guard(functions)](runnable) {});
        std::move(r).run();
        h.detach();
        waker w = g.waiter;
        g.open();  // S drops the runnable: the end
        CHECK(frames == 1);
        CHECK(functions == 0);
        w.wake();
    }
    CHECK(functions == 1);
}

// ---- suspend -----------------------------------------------------------------------------------

TEST_CASE("suspend calls its function once, when the job is suspended, and returns its result") {
    int calls = 0;
    loop l;
    gate g;
    auto work = [&]() -> task<> {
        int n = co_await ringlet::suspend([&](waker w) {
            ++calls;
            g.waiter = std::move(w);
            return 7;
        });
        CHECK(n == 7);
        std::unique_ptr<int> p = co_await ringlet::suspend([&](waker w) {
            ++calls;
            g.waiter = std::move(w);
            return std::make_unique<int>(8);
        });
        CHECK(*p == 8);
    };
    auto h = l.spawn(work());
    l.drain();
    CHECK(calls == 1);
    g.open();
    l.drain();
    CHECK(calls == 2);
    g.open();
    l.drain();
    CHECK(h.done());
    CHECK(calls == 2);
}

TEST_CASE("suspend: its function may return a reference") {
    int number = 7;
    loop l;
    auto work = [&]() -> task<> {
        int& r = co_await ringlet::suspend([&](waker w) -> int& {
            w.wake();
            return number;
        });
        CHECK(&r == &number);
    };
    l.run(work());
}

TEST_CASE("suspend: the result of its function dies with a cancelled job") {
    int results = 0;
    loop l;
    gate g;
    auto work = [&]() -> task<> {
        guard v = co_await ringlet::suspend([&](waker w) {
            g.waiter = std::move(w);
            return guard(results);
        });
    };
    auto h = l.spawn(work());
    l.drain();
    CHECK(results == 0);
    drop(std::move(h));
    CHECK(results == 0);
    l.drain();
    CHECK(results == 1);
}

TEST_CASE("suspend: a wake at once is one more run, through the schedule function") {
    loop l;
    auto work = []() -> task<> {
        for (int i = 0; i < 3; ++i) {
            co_await ringlet::suspend([](waker w) {
                w.wake();
                w.wake();
            });
        }
    };
    auto h = l.spawn(work());
    CHECK(l.drain() == 4);
    CHECK(l.schedules == 3);
    CHECK(l.self_wakes == 3);
    CHECK(h.done());
}

TEST_CASE("suspend: a function that throws does not suspend, and its waker is void") {
    for (bool wakes : {false, true}) {
        history log;
        loop l;
        gate g;
        waker kept;
        auto work = [&]() -> task<> {
            try {
                co_await ringlet::suspend([&](waker w) {
                    kept = w;
                    if (wakes) w.wake();
                    throw oops("no wait");
                });
            } catch (const oops& e) { log.push_back(e.what()); }
            co_await g.wait();
            log.push_back("resumed");
        };
        auto h = l.spawn(work());
        l.drain();
        CHECK(log == history{"no wait"});
        kept.wake();
        l.drain();
        CHECK(log == history{"no wait"});
        g.open();
        l.drain();
        CHECK(log == history{"no wait", "resumed"});
    }
}

TEST_CASE("suspend: whoever gets the waker may cancel the job from there") {
    history log;
    loop l;
    join_handle<> me;
    auto work = [&]() -> task<> {
        leaving note(log, "work");
        co_await ringlet::suspend([&](waker w) {
            drop(std::move(me));
            w.wake();
        });
        log.push_back("not reached");
    };
    me = l.spawn(work());
    CHECK(l.drain() == 1);
    CHECK(log == history{"~work"});
}

// ---- runnables and schedule functions ----------------------------------------------------------

TEST_CASE("release and from: the runnable as a plain pointer") {
    int frames = 0;
    auto work = [](int& polled, [[maybe_unused]] guard frame) -> task<> {
        ++polled;
        co_return;
    };
    int polled = 0;
    auto [r, h] = ringlet::spawn(work(polled, guard(frames)), [](runnable) {});
    CHECK(static_cast<bool>(r));
    void* p = std::move(r).release();
    CHECK_FALSE(static_cast<bool>(r));
    CHECK(frames == 0);
    runnable back = runnable::from(p);
    CHECK(static_cast<bool>(back));
    CHECK(std::move(back).release() == p);
    drop(runnable::from(p));  // dropped unrun: cancelled
    CHECK(frames == 1);
    CHECK(polled == 0);
    CHECK(h.done());
}

TEST_CASE("assigning over a runnable cancels what it held") {
    int frames = 0;
    auto work = []([[maybe_unused]] guard frame) -> task<> { co_return; };
    auto [r1, h1] = ringlet::spawn(work(guard(frames)), [](runnable) {});
    auto [r2, h2] = ringlet::spawn(work(guard(frames)), [](runnable) {});
    r1 = std::move(r2);
    CHECK(frames == 1);
    CHECK(h1.done());
    CHECK_FALSE(h2.done());
    std::move(r1).run();
    CHECK(frames == 2);
    CHECK(h2.done());
}

TEST_CASE("a schedule function may run the runnable on the spot") {
    int schedules = 0, functions = 0, steps = 0;
    gate g;
    auto work = [&]() -> task<> {
        co_await g.wait();
        ++steps;
        co_await ringlet::suspend(
            [](waker w) { w.wake(); });  // while running: at the end of the run
        ++steps;
        co_await g.wait();
        ++steps;
    };
    auto [r, h] = ringlet::spawn(work(), [&, alive = guard(functions)](runnable x) {
        ++schedules;
        std::move(x).run();
        CHECK(functions == 0);  // even if that was the job's end, and nobody else keeps it
    });
    h.detach();
    r.schedule();
    CHECK(schedules == 1);
    CHECK(steps == 0);
    g.open();
    CHECK(schedules == 3);
    CHECK(steps == 2);
    CHECK(functions == 0);
    g.open();
    CHECK(schedules == 4);
    CHECK(steps == 3);
    CHECK(functions == 1);
}

TEST_CASE("a schedule function that runs on the spot: the job that wakes goes on afterwards") {
    gate g;
    history log;
    auto now = [](runnable x) { std::move(x).run(); };
    auto sleeper = [&]() -> task<> {
        co_await g.wait();
        log.push_back("sleeper");
    };
    auto waking = [&]() -> task<> {
        log.push_back("before");
        g.open();
        log.push_back("after");
        bool cancelled = co_await ringlet::cancel_requested();
        log.push_back(cancelled ? "cancelled" : "not cancelled");
        co_await g.wait();
        log.push_back("woken");
    };
    auto [r1, h1] = ringlet::spawn(sleeper(), now);
    auto [r2, h2] = ringlet::spawn(waking(), now);
    std::move(r1).run();
    std::move(r2).run();
    CHECK(log == history{"before", "sleeper", "after", "not cancelled"});
    g.open();
    CHECK(log.back() == "woken");
    CHECK(h1.done());
    CHECK(h2.done());
}

TEST_CASE("a schedule function may drop the runnable: the job is cancelled on the spot") {
    history log;
    gate g;
    int functions = 0;
    auto work = [&]() -> task<> {
        leaving note(log, "work");
        co_await g.wait();
        log.push_back("not reached");
    };
    auto [r, h] = ringlet::spawn(work(), [alive = guard(functions)](runnable) {});
    std::move(r).run();
    g.open();
    CHECK(log == history{"~work"});
    CHECK(h.done());
    drop(std::move(h));
    CHECK(functions == 1);
}

TEST_CASE("a schedule function that drops the runnable of a job that woke itself") {
    history log;
    auto work = [&]() -> task<> {
        leaving note(log, "work");
        co_await ringlet::suspend([](waker w) { w.wake(); });
        log.push_back("not reached");
    };
    auto [r, h] = ringlet::spawn(
        work(), [&](runnable, schedule_info info) { CHECK(info.woken_while_running); });
    h.detach();
    CHECK(std::move(r).run());
    CHECK(log == history{"~work"});
}

TEST_CASE("jobs may be nested: run() inside a run() restores the outer job") {
    history log;
    loop l;
    join_handle<> outer;
    auto inner = [&]() -> task<> {
        log.push_back("inner");
        co_return;
    };
    auto work = [&]() -> task<> {
        auto [r, h] = ringlet::spawn(inner(), [](runnable) {});
        std::move(r).run();
        bool mine = co_await ringlet::cancel_requested();
        log.push_back(mine ? "cancelled" : "not cancelled");
        drop(std::move(outer));
        mine = co_await ringlet::cancel_requested();
        log.push_back(mine ? "cancelled" : "not cancelled");
    };
    outer = l.spawn(work());
    l.drain();
    CHECK(log == history{"inner", "not cancelled", "cancelled"});
}

TEST_CASE("a run that comes back with nothing waited for throws, and says what cures it") {
    for (bool nested : {false, true}) {
        history log;
        auto stuck = [&]() -> task<> {
            leaving note(log, "stuck");
            co_await std::
                suspend_always();  // as a coroutine that a compiler has got wrong comes back
        };
        auto caller = [&]() -> task<> {
            leaving note(log, "caller");
            co_await stuck();
        };
        auto [r, h] = ringlet::spawn(nested ? caller() : stuck(), [](runnable) {});
        std::string what;
        try {
            std::move(r).run();
        } catch (const std::logic_error& e) { what = e.what(); }
        CHECK(what.find("task_test.cpp") != std::string::npos);  // where it was spawned
        CHECK(what.find("co_await") != std::string::npos);
        CHECK(log == (nested ? history{"~stuck", "~caller"} : history{"~stuck"}));
        CHECK(h.done());
    }
}

// ---- spawning ----------------------------------------------------------------------------------

TEST_CASE("a schedule function that throws when it is moved: the spawn throws, the frame is gone") {
    struct copied {
        int* left;
        explicit copied(int& n) : left(&n) {}
        copied(const copied& other) : left(other.left) {
            if ((*left)-- == 0) throw oops("copied");
        }
        void operator()(runnable) const {}
    };
    auto work = []([[maybe_unused]] guard parameter) -> task<> { co_return; };
    int spawned = 0, thrown = 0, frames = 0;
    for (int copies = 0; spawned == 0; ++copies) {
        REQUIRE(copies < 10);
        int left = copies;
        try {
            auto [r, h] = ringlet::spawn(work(guard(frames)), copied(left));
            ++spawned;
        } catch (const oops&) { ++thrown; }
        CHECK(frames == copies + 1);
    }
    CHECK(thrown >= 2);
}

TEST_CASE("a detached job whose result holds its last waker ends once") {
    struct event {
        explicit event(int& n) : gone(n) {}
        waker w;
        guard gone;
    };
    loop l;
    int gone = 0;
    waker* last = nullptr;
    auto work = [&]() -> task<std::unique_ptr<event>> {
        auto e = std::make_unique<event>(gone);
        last = &e->w;
        co_await ringlet::suspend([&](waker w) { e->w = std::move(w); });
        co_return std::move(e);
    };
    l.spawn(work()).detach();
    l.drain();
    CHECK(gone == 0);
    last->wake();
    CHECK(l.drain() == 1);
    CHECK(gone == 1);
}

TEST_CASE("a handle that is detached, or given away, while it is awaited") {
    for (const bool cancels : {false, true})
        for (const bool detaches : {false, true}) {
            loop l;
            gate g;
            int gone = 0;
            std::string said;
            auto child = [&]([[maybe_unused]] guard parameter) -> task<> { co_await g.wait(); };
            join_handle<> handle = l.spawn(child(guard(gone)));
            auto joining = [&]() -> task<> {
                try {
                    co_await std::move(handle);
                } catch (const std::logic_error& e) { said = e.what(); }
            };
            join_handle<> joiner = l.spawn(joining());
            l.drain();
            join_handle<> other;
            if (detaches) handle.detach();
            else other = std::move(handle);
            CHECK_FALSE(handle);
            if (cancels) drop(std::move(joiner));
            l.drain();
            CHECK(gone == 0);
            g.open();
            l.drain();
            CHECK(gone == 1);
            CHECK(support::contains(said, "awaited that is empty") != cancels);
            if (!detaches) CHECK(other.done());
        }
}

TEST_CASE("a handle that gets another job while it is awaited has no result for that await") {
    loop l;
    gate first, second;
    std::string said;
    auto child = [](gate& g) -> task<std::string> {
        co_await g.wait();
        co_return std::string(100, 'x');
    };
    join_handle<std::string> handle = l.spawn(child(first));
    auto joining = [&]() -> task<> {
        try {
            said = co_await std::move(handle);
        } catch (const std::logic_error& e) { said = e.what(); }
    };
    l.spawn(joining()).detach();
    l.drain();
    handle = l.spawn(child(second));  // which drops the first, and so cancels it
    l.drain();
    CHECK(support::contains(said, "a join_handle is awaited"));
    second.open();
    l.drain();
    CHECK(handle.done());
    l.spawn(joining()).detach();
    l.drain();
    CHECK(said == std::string(100, 'x'));
}

TEST_CASE("a cancelled joiner is not resumed to learn that the other job was cancelled too") {
    loop l;
    gate g;
    history log;
    auto child = [](gate& at) -> task<> { co_await at.wait(); };
    join_handle<> handle = l.spawn(child(g));
    auto joining = [&]() -> task<> {
        try {
            co_await std::move(handle).cancel();
            log.push_back("resumed");
        } catch (const task_cancelled&) { log.push_back("handled"); }
    };
    join_handle<> joiner = l.spawn(joining());
    CHECK(l.tick());  // the child waits
    CHECK(l.tick());  // the joiner has cancelled it, and waits for its end
    CHECK(l.tick());  // the child's frames are gone, the joiner is scheduled
    drop(std::move(joiner));
    CHECK(l.drain() == 1);
    CHECK(log.empty());
}

TEST_CASE("references to what has an operator & of its own, and to what is about to go") {
    struct odd {
        int n = 7;
        void operator&() const = delete;
    };
    odd one;
    auto gives = [&]() -> task<odd&> { co_return one; };
    auto gives_up = [&]() -> task<odd&&> { co_return std::move(one); };
    loop l;
    auto root = [&]() -> task<> {
        auto a = l.spawn(gives());
        auto b = l.spawn(gives_up());
        odd* const first = co_await std::move(a).try_join();
        CHECK(first == std::addressof(one));
        odd* const second = co_await std::move(b).try_join();
        CHECK(second == std::addressof(one));
    };
    l.run(root());
}
