// Waiting together: when_all, when_any, scope, shield and timeout, in every combination, cancelled
// at every moment. Wherever time matters the clock is virtual.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <memory_resource>
#include <optional>
#include <ringlet/timer.hpp>
#include <stdexcept>
#include <string>
#include <system_error>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "support.hpp"

using namespace std::chrono_literals;
using ringlet::block_on;
using ringlet::channel;
using ringlet::deadlock;
using ringlet::executor;
using ringlet::frame_pool;
using ringlet::job_info;
using ringlet::join_handle;
using ringlet::runnable;
using ringlet::scope;
using ringlet::scope_ref;
using ringlet::shield;
using ringlet::sleep_for;
using ringlet::task;
using ringlet::task_cancelled;
using ringlet::timeout;
using ringlet::try_timeout;
using ringlet::virtual_time;
using ringlet::waker;
using ringlet::when_all;
using ringlet::when_any;
using ringlet::yield_now;
using std::chrono::nanoseconds;

using namespace support;

namespace {

// ---- helpers -----------------------------------------------------------------------------------

// A virtual clock, and how far it has gone.
class stopwatch {
public:
    nanoseconds passed() const { return nanoseconds(virtual_time::nanoseconds() - start_); }

private:
    virtual_time clock_;
    const std::int64_t start_ = virtual_time::nanoseconds();
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
std::size_t indent_of(const std::string& line) { return line.find_first_not_of(' '); }

task<> nothing() { co_return; }
task<> count(int& n) {
    ++n;
    co_return;
}
template <class T> [[gnu::noinline]] task<T> give(T value) { co_return std::forward<T>(value); }
task<int> fail(std::string what) {
    throw oops(what);
    co_return 0;
}
task<int> nap(nanoseconds d, int n) {
    co_await sleep_for(d);
    co_return n;
}
task<> rest(nanoseconds d) { co_await sleep_for(d); }
task<int> nap_and_fail(nanoseconds d, std::string what) {
    co_await sleep_for(d);
    throw oops(what);
    co_return 0;
}
// Cannot be cancelled.
task<int> stubborn(nanoseconds d, int n) {
    int v = co_await shield(nap(d, n));
    co_return v;
}
task<int> stubborn_and_fail(nanoseconds d, std::string what) {
    int v = co_await shield(nap_and_fail(d, what));
    co_return v;
}
task<> wait_at(gate& g, [[maybe_unused]] guard parameter) { co_await g.wait(); }
task<int> wait_for(gate& g, int n, int& gone) {
    guard local(gone);
    co_await g.wait();
    co_return n;
}
task<int> counted_nap(nanoseconds d, int n, int& gone) {
    guard local(gone);
    co_await sleep_for(d);
    co_return n;
}
task<int&> refer(nanoseconds d, int& n) {
    co_await sleep_for(d);
    co_return n;
}

// Values as words.
std::string say(const std::string& s) { return s; }
std::string say(int n) { return std::to_string(n); }
std::string say(bool b) { return b ? "true" : "false"; }
std::string say(ringlet::detail::nothing) { return "nothing"; }
template <class... T> std::string say(const std::tuple<T...>& list);
template <class T> std::string say(const std::optional<T>& v) { return v ? say(*v) : "-"; }
template <class T> std::string say(const std::vector<T>& list) {
    std::string text;
    for (const T& v : list) text += (text.empty() ? "" : " ") + say(v);
    return text;
}
template <class... T> std::string say(const std::tuple<T...>& list) {
    std::string text;
    std::apply([&](const T&... v) { ((text += (text.empty() ? "" : " ") + say(v)), ...); }, list);
    return text;
}
// What an await gives, as a word.
template <class A> task<std::string> word(A work) {
    std::string text;
    try {
        auto v = co_await std::move(work);
        text = say(v);
    } catch (const oops& e) { text = e.what(); } catch (const task_cancelled&) {
        text = "cancelled";
    } catch (const std::system_error& e) {
        text = e.code() == std::errc::timed_out ? "timed out" : "system error";
    } catch (const std::logic_error&) { text = "misuse"; }
    co_return text;
}

}  // namespace

// ---- when_all ----------------------------------------------------------------------------------

TEST_CASE("when_all: values of every kind, in the order of the arguments") {
    stopwatch time;
    int number = 5;
    auto root = [&]() -> task<> {
        auto all = co_await when_all(nap(20ms, 3), rest(10ms), give(std::make_unique<int>(4)),
            refer(30ms, number), yield_now());
        CHECK(time.passed() == 30ms);
        using expected = std::tuple<int, ringlet::detail::nothing, std::unique_ptr<int>, int&,
            ringlet::detail::nothing>;
        static_assert(std::is_same_v<decltype(all), expected>);
        CHECK(std::get<0>(all) == 3);
        CHECK(*std::get<2>(all) == 4);
        CHECK(&std::get<3>(all) == &number);

        auto [a, b] = co_await when_all(nap(2ms, 1), nap(1ms, 2));
        CHECK(a == 1);
        CHECK(b == 2);
        CHECK(time.passed() == 32ms);
    };
    block_on(root());
    CHECK(time.passed() == 32ms);
}

TEST_CASE("when_all: one, and none") {
    int ran = 0;
    auto root = [&]() -> task<> {
        std::tuple<> none = co_await when_all();
        CHECK(none == std::tuple<>());
        std::tuple<int> one = co_await when_all(give(7));
        CHECK(std::get<0>(one) == 7);
        std::vector<int> empty = co_await when_all(std::vector<task<int>>());
        CHECK(empty.empty());
        ++ran;
    };
    block_on(root());
    CHECK(ran == 1);
}

TEST_CASE("when_all: any awaitable, groups included") {
    stopwatch time;
    channel<int> in(1), out(0);
    int child_ran = 0;
    auto producer = [&]() -> task<int> {
        co_await sleep_for(5ms);
        co_await in.send(8);
        std::optional<int> v = co_await out.recv();
        co_return v.value_or(-1);
    };
    auto body = [&](scope_ref s) -> task<int> {
        s.spawn(count(child_ran));
        co_return 6;
    };
    auto root = [&]() -> task<> {
        auto h = ringlet::spawn(producer());
        auto all = co_await when_all(in.recv(), out.send(9), std::move(h), sleep_for(3ms),
            when_all(give(1), give(2)), when_any(give(3), rest(1h)), scope(body), shield(give(4)),
            timeout(1h, give(5)), try_timeout(1ms, rest(1h)), give(10));
        CHECK(say(all) == "8 nothing 9 nothing 1 2 3 - 6 4 5 false 10");
        CHECK(child_ran == 1);
    };
    block_on(root());
    CHECK(time.passed() == 5ms);
}

TEST_CASE("when_all over a vector: values in order, void, move-only") {
    stopwatch time;
    auto root = [&]() -> task<> {
        std::vector<task<int>> work;
        for (int i = 0; i < 100; ++i) work.push_back(nap((100 - i) * 1ms, i));
        std::vector<int> numbers = co_await when_all(std::move(work));
        CHECK(time.passed() == 100ms);
        REQUIRE(numbers.size() == 100);
        for (int i = 0; i < 100; ++i) CHECK(numbers[static_cast<std::size_t>(i)] == i);

        int ran = 0;
        std::vector<task<>> silent;
        for (int i = 0; i < 3; ++i) silent.push_back(count(ran));
        std::vector<ringlet::detail::nothing> none = co_await when_all(std::move(silent));
        CHECK(none.size() == 3);
        CHECK(ran == 3);

        std::vector<task<std::unique_ptr<int>>> makers;
        for (int i = 0; i < 3; ++i) makers.push_back(give(std::make_unique<int>(i)));
        std::vector<std::unique_ptr<int>> owned = co_await when_all(std::move(makers));
        REQUIRE(owned.size() == 3);
        for (int i = 0; i < 3; ++i) CHECK(*owned[static_cast<std::size_t>(i)] == i);
    };
    block_on(root());
    CHECK(time.passed() == 100ms);
}

TEST_CASE("when_all and when_any over a vector of other awaitables: handles, sleeps") {
    stopwatch time;
    auto root = [&]() -> task<> {
        std::vector<join_handle<int>> handles;
        for (int i = 0; i < 10; ++i) handles.push_back(ringlet::spawn(nap((10 - i) * 1ms, i)));
        std::vector<int> numbers = co_await when_all(std::move(handles));
        CHECK(time.passed() == 10ms);
        REQUIRE(numbers.size() == 10);
        for (int i = 0; i < 10; ++i) CHECK(numbers[static_cast<std::size_t>(i)] == i);

        std::vector<join_handle<int>> racers;
        for (int i = 0; i < 3; ++i) racers.push_back(ringlet::spawn(nap((3 - i) * 1ms, i)));
        std::vector<std::optional<int>> first = co_await when_any(std::move(racers));
        CHECK(time.passed() == 11ms);
        CHECK(first == std::vector<std::optional<int>>{std::nullopt, std::nullopt, 2});

        std::vector<decltype(sleep_for(1ms))> sleeps;
        for (int i = 1; i <= 3; ++i) sleeps.push_back(sleep_for(i * 1ms));
        std::vector<ringlet::detail::nothing> none = co_await when_all(std::move(sleeps));
        CHECK(none.size() == 3);
        CHECK(time.passed() == 14ms);
    };
    block_on(root());
}

TEST_CASE("when_all: the first exception cancels the others, waits for them, and is rethrown") {
    for (bool list : {false, true}) {
        CAPTURE(list);
        stopwatch time;
        int gone = 0;
        history log;
        auto late = [&]() -> task<int> {
            at_end says([&] { log.push_back("late gone"); });
            int v = co_await shield(nap(40ms, 1));
            log.push_back("late " + std::to_string(v));
            co_await yield_now();
            log.push_back("not reached");
            co_return v;
        };
        auto root = [&]() -> task<> {
            std::vector<task<int>> work;
            work.push_back(counted_nap(1h, 1, gone));
            work.push_back(late());
            work.push_back(nap_and_fail(10ms, "first"));
            work.push_back(counted_nap(5ms, 2, gone));
            work.push_back(stubborn_and_fail(20ms, "second"));
            try {
                if (list) co_await when_all(std::move(work));
                else
                    co_await when_all(std::move(work[0]), std::move(work[1]), std::move(work[2]),
                        std::move(work[3]), std::move(work[4]));
                log.push_back("no exception");
            } catch (const oops& e) { log.push_back(e.what()); }
            CHECK(time.passed() == 40ms);
            CHECK(gone == 2);
            CHECK(log == history{"late 1", "late gone", "first"});
        };
        block_on(root());
        CHECK(time.passed() == 40ms);
        CHECK(log.size() == 3);
    }
}

TEST_CASE("when_all: a child that fails at once, before the others have run") {
    int ran = 0, gone = 0;
    auto child = [&]([[maybe_unused]] guard parameter) -> task<> {
        ++ran;
        co_return;
    };
    auto root = [&]() -> task<> {
        std::string w = co_await word(
            when_all(child(guard(gone)), fail("at once"), child(guard(gone)), fail("never run")));
        CHECK(w == "at once");
        CHECK(ran == 1);  // the one before it
        CHECK(gone == 2);
    };
    block_on(root());
    CHECK(gone == 2);
}

TEST_CASE("when_all: a child that has handled an exception has not failed") {
    const std::string text = "an exception that the child has handled itself";
    CHECK(block_on(word(when_all(word(fail(text))))) == text);
}

// ---- when_any ----------------------------------------------------------------------------------

TEST_CASE("when_any: the first to end; the losers' frames are gone before it returns") {
    for (bool list : {false, true}) {
        CAPTURE(list);
        stopwatch time;
        int gone = 0;
        auto root = [&]() -> task<> {
            std::vector<task<int>> work;
            work.push_back(counted_nap(30ms, 1, gone));
            work.push_back(counted_nap(10ms, 2, gone));
            work.push_back(counted_nap(1h, 3, gone));
            std::string w;
            if (list) w = co_await word(when_any(std::move(work)));
            else
                w = co_await word(
                    when_any(std::move(work[0]), std::move(work[1]), std::move(work[2])));
            CHECK(w == "- 2 -");
            CHECK(gone == 3);
            CHECK(time.passed() == 10ms);
        };
        block_on(root());
        CHECK(time.passed() == 10ms);
    }
}

TEST_CASE("when_any: values of every kind") {
    stopwatch time;
    int number = 5;
    auto root = [&]() -> task<> {
        auto a = co_await when_any(rest(1ms), nap(1h, 1), refer(1h, number));
        using expected =
            std::tuple<std::optional<ringlet::detail::nothing>, std::optional<int>, int*>;
        static_assert(std::is_same_v<decltype(a), expected>);
        CHECK(std::get<0>(a).has_value());
        CHECK_FALSE(std::get<1>(a).has_value());
        CHECK(std::get<2>(a) == nullptr);

        auto b = co_await when_any(refer(1ms, number), give(std::make_unique<int>(1)));
        CHECK(std::get<0>(b) == nullptr);
        REQUIRE(std::get<1>(b).has_value());
        CHECK(**std::get<1>(b) == 1);

        auto c = co_await when_any(refer(1ms, number), rest(1h));
        CHECK(std::get<0>(c) == &number);

        std::vector<task<>> silent;
        silent.push_back(rest(1h));
        silent.push_back(nothing());
        auto d = co_await when_any(std::move(silent));
        REQUIRE(d.size() == 2);
        CHECK_FALSE(d[0].has_value());
        CHECK(d[1].has_value());

        std::vector<task<int&>> references;
        references.push_back(refer(1h, number));
        references.push_back(refer(1ms, number));
        std::vector<int*> e = co_await when_any(std::move(references));
        CHECK(e == std::vector<int*>{nullptr, &number});
    };
    block_on(root());
    CHECK(time.passed() == 3ms);
}

TEST_CASE("when_any: any awaitable; a joined loser is cancelled") {
    stopwatch time;
    channel<int> c(0);
    int gone = 0;
    auto root = [&]() -> task<> {
        auto loser = ringlet::spawn(counted_nap(1h, 1, gone));
        auto a = co_await when_any(c.recv(), std::move(loser), sleep_for(2ms), c.send(1));
        // The send and the recv found each other, though both are children here.
        CHECK(say(a) == "1 - - nothing");
        co_await yield_now();
        CHECK(gone == 1);
        auto winner = ringlet::spawn(nap(1ms, 7));
        auto b = co_await when_any(c.recv(), std::move(winner), sleep_for(2ms));
        CHECK(say(b) == "- 7 -");
        auto d = co_await when_any(yield_now(), c.recv());
        CHECK(say(d) == "nothing -");
        CHECK_FALSE(c.try_send(1));  // nobody waits there any more
    };
    block_on(root());
    CHECK(time.passed() == 1ms);
    CHECK(gone == 1);
}

TEST_CASE("when_any keeps everything that finished") {
    stopwatch time;
    channel<int> a(0), b(0), c(0);
    auto sender = [&]() -> task<> {
        co_await sleep_for(1ms);
        CHECK(a.try_send(1));
        CHECK(b.try_send(2));  // both are handed over before either receiver runs
        CHECK_FALSE(a.try_send(3));
    };
    auto root = [&]() -> task<> {
        auto h = ringlet::spawn(sender());
        std::string w = co_await word(when_any(c.recv(), a.recv(), rest(1h), b.recv()));
        CHECK(w == "- 1 - 2");
        co_await std::move(h);
        w = co_await word(when_any(stubborn(9ms, 4), nap(2ms, 5), nap(3ms, 6)));
        CHECK(w == "4 5 -");
        CHECK(time.passed() == 10ms);
    };
    block_on(root());
    CHECK(time.passed() == 10ms);
}

TEST_CASE("when_any rethrows only if nobody has a value") {
    stopwatch time;
    int gone = 0;
    auto root = [&]() -> task<> {
        // The first to end has failed: the rest is cancelled.
        std::string w = co_await word(
            when_any(counted_nap(2ms, 1, gone), nap_and_fail(1ms, "early"), rest(1h)));
        CHECK(w == "early");
        CHECK(gone == 1);
        CHECK(time.passed() == 1ms);
        // One that could not be cancelled has a value.
        w = co_await word(when_any(nap_and_fail(1ms, "early"), stubborn(5ms, 2), nap(2ms, 3)));
        CHECK(w == "- 2 -");
        CHECK(time.passed() == 6ms);
        // All fail: the first.
        w = co_await word(when_any(stubborn_and_fail(3ms, "late"), nap_and_fail(1ms, "early")));
        CHECK(w == "early");
        CHECK(time.passed() == 9ms);
        // The winner's value beats a later exception.
        w = co_await word(when_any(stubborn_and_fail(3ms, "late"), nap(1ms, 4)));
        CHECK(w == "- 4");
        CHECK(time.passed() == 12ms);
    };
    block_on(root());
    CHECK(gone == 1);
}

TEST_CASE("when_any of an empty vector is refused") {
    auto root = [&]() -> task<std::string> {
        std::string what;
        try {
            co_await when_any(std::vector<task<int>>());
        } catch (const std::invalid_argument& e) { what = e.what(); }
        co_return what;
    };
    CHECK(contains(block_on(root()), "when_any"));
}

// ---- the awaiters ------------------------------------------------------------------------------

TEST_CASE("nothing runs until the await; awaiters may be moved, or dropped") {
    int ran = 0, gone = 0;
    auto child = [&]([[maybe_unused]] guard parameter) -> task<int> { co_return ++ran; };
    auto body = [&](scope_ref s) -> task<int> {
        s.spawn(child(guard(gone)));
        co_return 1;
    };
    {
        auto a = when_all(child(guard(gone)), child(guard(gone)));
        auto b = when_any(child(guard(gone)));
        auto c = timeout(1h, child(guard(gone)));
        auto d = shield(child(guard(gone)));
        auto e = scope(body);
        auto f = try_timeout(1h, when_all(child(guard(gone))));
        CHECK(gone == 0);
    }
    CHECK(gone == 6);
    CHECK(ran == 0);
    auto root = [&]() -> task<> {
        auto a = when_all(child(guard(gone)), child(guard(gone)));
        auto b = when_any(child(guard(gone)));
        auto c = timeout(1h, child(guard(gone)));
        auto d = shield(child(guard(gone)));
        auto e = scope(body);
        auto f = try_timeout(1h, when_all(child(guard(gone))));
        CHECK(ran == 0);
        auto moved_a = std::move(a);
        auto moved_b = std::move(b);
        auto moved_c = std::make_unique<decltype(c)>(std::move(c));
        auto moved_d = std::move(d);
        auto moved_e = std::move(e);
        auto moved_f = std::move(f);
        auto again_a = std::move(moved_a);
        co_await yield_now();
        CHECK(ran == 0);
        std::string w = co_await word(std::move(again_a));
        CHECK(w == "1 2");
        w = co_await word(std::move(moved_b));
        CHECK(w == "3");
        w = co_await word(std::move(*moved_c));
        CHECK(w == "4");
        int n = co_await std::move(moved_d);
        CHECK(n == 5);
        n = co_await moved_e;
        CHECK(n == 1);
        CHECK(ran == 6);
        w = co_await word(std::move(moved_f));
        CHECK(w == "7");
    };
    block_on(root());
    CHECK(ran == 7);
    CHECK(gone == 13);
}

TEST_CASE("an empty task among others is misuse, and nothing is lost") {
    int gone = 0, ran = 0;
    auto child = [&]([[maybe_unused]] guard parameter) -> task<int> { co_return ++ran; };
    auto root = [&]() -> task<> {
        auto used = give(1);
        drop(std::move(used));
        std::string w = co_await word(
            when_all(child(guard(gone)), std::move(used), child(guard(gone))));
        CHECK(w == "misuse");
        CHECK(gone == 2);
        std::vector<task<int>> work;
        work.push_back(child(guard(gone)));
        work.push_back(std::move(used));
        w = co_await word(when_any(std::move(work)));
        CHECK(w == "misuse");
        CHECK(gone == 3);
        w = co_await word(shield(std::move(used)));
        CHECK(w == "misuse");
        CHECK_THROWS_AS(static_cast<void>(timeout(1ms, std::move(used))), std::logic_error);
    };
    executor ex;
    ex.run(root());
    CHECK(ex.empty());
    CHECK(ran == 0);
}

// ---- scope -------------------------------------------------------------------------------------

TEST_CASE("scope: children borrow from the frame, and end before it goes on") {
    stopwatch time;
    auto add = [](nanoseconds d, std::vector<int>& to, int n) -> task<> {
        co_await sleep_for(d);
        to.push_back(n);
    };
    auto root = [&]() -> task<> {
        std::vector<int> list;
        auto body = [&](scope_ref s) -> task<> {
            s.spawn(add(30ms, list, 3));
            s.spawn(add(10ms, list, 1));
            co_await sleep_for(20ms);
            list.push_back(2);
            s.spawn(sleep_for(25ms));
        };
        co_await scope(body);
        CHECK(list == std::vector<int>{1, 2, 3});
        CHECK(time.passed() == 45ms);
    };
    block_on(root());
    CHECK(time.passed() == 45ms);
}

TEST_CASE("scope: values of every kind") {
    stopwatch time;
    int number = 3, ran = 0;
    auto root = [&]() -> task<> {
        auto value = [&](scope_ref s) -> task<int> {
            s.spawn(nap(1ms, 5));  // its value is dropped
            co_return 1;
        };
        int a = co_await scope(value);
        CHECK(a == 1);
        CHECK(time.passed() == 1ms);
        auto reference = [&](scope_ref) -> task<int&> { co_return number; };
        int& b = co_await scope(reference);
        CHECK(&b == &number);
        auto owner = [&](scope_ref s) -> task<std::unique_ptr<int>> {
            s.spawn(count(ran));
            s.spawn(give(std::make_unique<int>(1)));
            co_return std::make_unique<int>(2);
        };
        std::unique_ptr<int> c = co_await scope(owner);
        CHECK(*c == 2);
        CHECK(ran == 1);
        auto none = [&](scope_ref s) -> task<> {
            for (int i = 0; i < 1000; ++i) s.spawn(count(ran));
            CHECK(ran == 1);
            co_return;
        };
        co_await scope(none);
        CHECK(ran == 1001);
        auto plain = [&](scope_ref) { return sleep_for(2ms); };  // any awaitable
        co_await scope(plain);
        CHECK(time.passed() == 3ms);
    };
    block_on(root());
    CHECK(ran == 1001);
}

TEST_CASE("scope: inner children end before the outer's locals die") {
    stopwatch time;
    history log;
    auto child = [&](std::string name, nanoseconds d, std::string& borrowed) -> task<> {
        at_end says([&log, &borrowed, name] { log.push_back(name + borrowed); });
        co_await sleep_for(d);
    };
    auto middle = [&](scope_ref outer, std::string& from_outer) -> task<> {
        std::string local = " sees middle";
        at_end says([&] { log.push_back("middle"); });
        outer.spawn(child("outer child", 30ms, from_outer));
        auto inner = [&](scope_ref s) -> task<> {
            std::string innermost = " sees inner";
            at_end gone([&] { log.push_back("inner"); });
            s.spawn(child("a", 20ms, local));
            s.spawn(child("b", 10ms, from_outer));
            auto third = [&](scope_ref t) -> task<> {
                t.spawn(child("c", 5ms, innermost));
                s.spawn(child("d", 6ms, local));
                co_return;
            };
            co_await scope(third);
        };
        co_await scope(inner);
    };
    auto root = [&]() -> task<> {
        std::string outermost = " sees root";
        auto body = [&](scope_ref s) -> task<> { co_await middle(s, outermost); };
        co_await scope(body);
        log.push_back("root");
    };
    block_on(root());
    CHECK(log
        == history{"c sees inner", "inner", "d sees middle", "b sees root", "a sees middle",
            "middle", "outer child sees root", "root"});
    CHECK(time.passed() == 30ms);
}

TEST_CASE("scope: children spawn children, also after the body has ended") {
    int leaves = 0, body_ended = 0, early = 0;
    std::function<task<>(scope_ref, int)> grow = [&](scope_ref s, int depth) -> task<> {
        co_await yield_now();
        early += !body_ended;
        if (depth == 0) ++leaves;
        else
            for (int i = 0; i < 2; ++i) s.spawn(grow(s, depth - 1));
    };
    auto root = [&]() -> task<> {
        auto body = [&](scope_ref s) -> task<> {
            at_end says([&] { ++body_ended; });
            s.spawn(grow(s, 9));
            co_return;
        };
        co_await scope(body);
        CHECK(leaves == 512);
        CHECK(body_ended == 1);
        CHECK(early == 0);
    };
    block_on(root());
    CHECK(leaves == 512);
}

TEST_CASE("scope: a job that is not its child spawns in it") {
    int ran = 0;
    gate g;
    std::optional<scope_ref> shared;
    auto outsider = [&]() -> task<> {
        CHECK(shared.has_value());
        shared->spawn(count(ran));
        g.open();
        co_return;
    };
    auto root = [&]() -> task<> {
        auto body = [&](scope_ref s) -> task<> {
            shared = s;
            ringlet::spawn(outsider()).detach();
            co_await g.wait();
        };
        co_await scope(body);
        CHECK(ran == 1);
    };
    block_on(root());
    CHECK(ran == 1);
}

TEST_CASE("scope: what is spawned when it is over never runs") {
    int ran = 0;
    gate g;
    std::optional<scope_ref> shared;
    auto root = [&]() -> task<> {
        auto body = [&](scope_ref s) -> task<> {
            shared = s;
            co_await g.wait();
        };
        co_await scope(body);
    };
    executor ex;
    auto h = ex.spawn(root());
    drain(ex);
    g.open();
    ex.try_tick();  // the body; the root is next
    CHECK_FALSE(h.done());
    shared->spawn(count(ran));
    drain(ex);
    CHECK(h.done());
    CHECK(ran == 0);
}

TEST_CASE("scope: a child's exception cancels the body and the others, then is rethrown") {
    stopwatch time;
    int gone = 0;
    history log;
    auto late = [&]() -> task<> {
        int v = co_await shield(nap(7ms, 1));
        log.push_back("late " + std::to_string(v));
    };
    auto root = [&]() -> task<> {
        guard local(gone);
        auto body = [&](scope_ref s) -> task<> {
            guard inner(gone);
            s.spawn(nap_and_fail(2ms, "child"));
            s.spawn(late());
            s.spawn(counted_nap(1h, 1, gone));
            s.spawn(stubborn_and_fail(5ms, "too late"));
            co_await sleep_for(1h);
            log.push_back("not reached");
        };
        try {
            co_await scope(body);
        } catch (const oops& e) { log.push_back(e.what()); }
        CHECK(gone == 2);
        CHECK(time.passed() == 7ms);
    };
    block_on(root());
    CHECK(log == history{"late 1", "child"});
    CHECK(gone == 3);
}

TEST_CASE("scope: the body's exception cancels the children; what is spawned then never runs") {
    stopwatch time;
    int gone = 0, ran = 0;
    history log;
    auto child = [&]([[maybe_unused]] guard parameter) -> task<> {
        ++ran;
        co_return;
    };
    auto root = [&]() -> task<> {
        auto body = [&](scope_ref s) -> task<> {
            auto late = [&, s]() -> task<> {
                co_await sleep_for(3ms);
                s.spawn(child(guard(gone)));
                s.spawn(yield_now());
                log.push_back("spawned");
            };
            auto holder = [&]() -> task<> { co_await shield(late()); };
            auto from_destructor = [&, s]() -> task<> {
                at_end says([&, s] { s.spawn(child(guard(gone))); });
                co_await sleep_for(1h);
            };
            s.spawn(holder());
            s.spawn(from_destructor());
            s.spawn(counted_nap(1h, 1, gone));
            co_await sleep_for(1ms);
            s.spawn(child(guard(gone)));
            co_await yield_now();
            s.spawn(fail("child"));
            co_await shield(rest(10ms));
            s.spawn(child(guard(gone)));
            throw oops("not the first");
        };
        try {
            co_await scope(body);
        } catch (const oops& e) { log.push_back(e.what()); }
        CHECK(log == history{"spawned", "child"});
        CHECK(time.passed() == 11ms);
    };
    block_on(root());
    CHECK(ran == 1);
    CHECK(gone == 5);

    auto failing = [&]() -> task<> {
        auto body = [&](scope_ref s) -> task<> {
            s.spawn(child(guard(gone)));
            s.spawn(counted_nap(1h, 1, gone));
            throw oops("at once");
            co_return;
        };
        co_await scope(body);
    };
    CHECK_THROWS_WITH_AS(block_on(failing()), "at once", oops);
    CHECK(ran == 1);
    CHECK(gone == 6);  // the nap had not begun
}

// ---- shield ------------------------------------------------------------------------------------

namespace {

// Groups around shields and shields around groups. The even ones have no full result once their
// owner was cancelled.
task<std::string> shielded_group(int kind, int& gone) {
    std::string w;
    const auto hour = [](scope_ref s) -> task<int> {
        s.spawn(stubborn(10ms, 1));
        int n = co_await nap(1h, 2);
        co_return n;
    };
    const auto both = [](scope_ref s) -> task<int> {
        s.spawn(stubborn(10ms, 1));
        int n = co_await shield(nap(5ms, 2));
        co_return n;
    };
    const auto plain = [&gone](scope_ref s) -> task<int> {
        s.spawn(counted_nap(10ms, 1, gone));
        int n = co_await nap(5ms, 3);
        co_return n;
    };
    switch (kind) {
        case 0: w = co_await word(when_all(stubborn(10ms, 1), counted_nap(1h, 2, gone))); break;
        case 1: w = co_await word(when_all(stubborn(10ms, 1), stubborn(5ms, 2))); break;
        case 2: w = co_await word(when_all(stubborn(10ms, 1), nap_and_fail(1h, "oops"))); break;
        case 3: w = co_await word(when_any(stubborn(10ms, 1), counted_nap(1h, 2, gone))); break;
        case 4: w = co_await word(scope(hour)); break;
        case 5: w = co_await word(scope(both)); break;
        case 6: w = co_await word(when_all(when_all(stubborn(10ms, 1)), rest(1h))); break;
        case 7: w = co_await word(timeout(1h, stubborn(10ms, 1))); break;
        case 9: w = co_await word(try_timeout(5ms, stubborn(10ms, 1))); break;
        case 11: w = co_await shield(word(when_all(nap(5ms, 1), nap(10ms, 2)))); break;
        case 13: w = co_await shield(word(scope(plain))); break;
        case 15: w = co_await shield(word(timeout(10ms, counted_nap(1h, 1, gone)))); break;
        case 17: w = co_await shield(word(when_any(nap(10ms, 1), rest(1h)))); break;
        case 19: w = co_await shield(word(when_all(nap(1h, 1), nap_and_fail(10ms, "oops")))); break;
    }
    co_return w;
}
constexpr std::array<const char*, 20> results{"", "1 2", "", "1 -", "", "2", "", "1", "", "1", "",
    "1 2", "", "3", "", "timed out", "", "1 -", "", "oops"};

}  // namespace

TEST_CASE("groups around shields, and shields around groups: the owner is cancelled") {
    for (int kind : {0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 15, 17, 19}) {
        CAPTURE(kind);
        stopwatch time;
        history log;
        int gone = 0, inner = 0;
        auto owner = [&]() -> task<int> {
            guard local(gone);
            std::string w = co_await shielded_group(kind, inner);
            log.push_back(w);
            co_await yield_now();
            log.push_back("not reached");
            co_return 1;
        };
        auto root = [&]() -> task<> {
            auto h = ringlet::spawn(owner());
            co_await sleep_for(1ms);
            CHECK(gone == 0);
            std::optional<int> v = co_await std::move(h).cancel();
            CHECK_FALSE(v.has_value());
            CHECK(gone == 1);
            CHECK(time.passed() == 10ms);
        };
        block_on(root());
        history expected;
        if (kind % 2) expected.push_back(results[static_cast<std::size_t>(kind)]);
        CHECK(log == expected);
        CHECK(inner == (kind == 0 || kind == 3 || kind == 13 || kind == 15));
    }
}

TEST_CASE("under a shield in a group, cancel_requested sees the cancel of any owner above") {
    history log;
    gate g;
    auto innermost = [&]() -> task<int> {
        bool before = co_await ringlet::cancel_requested();
        co_await g.wait();
        bool after = co_await ringlet::cancel_requested();
        log.push_back(say(before) + " " + say(after));
        co_return 1;
    };
    auto middle = [&]() -> task<> { co_await shield(word(when_all(innermost(), give(2)))); };
    auto outer = [&]() -> task<> { co_await when_any(middle(), rest(1h)); };
    executor ex;
    auto h = ex.spawn(outer());
    auto soon = [&]() -> task<> {
        for (int i = 0; i < 4; ++i) co_await yield_now();
        drop(std::move(h));
        for (int i = 0; i < 4; ++i) co_await yield_now();
        CHECK(log.empty());
        g.open();
        for (int i = 0; i < 4; ++i) co_await yield_now();
    };
    ex.run(soon());
    CHECK(log == history{"false true"});
    CHECK(ex.empty());
}

TEST_CASE("a cancelled owner does not begin a group, but a shield, and a timeout as any call") {
    int ran = 0, gone = 0;
    history log;
    auto child = [&]([[maybe_unused]] guard parameter) -> task<int> { co_return ++ran; };
    auto body = [&](scope_ref s) -> task<int> {
        s.spawn(child(guard(gone)));
        co_return 1;
    };
    for (int kind = 0; kind < 5; ++kind) {
        CAPTURE(kind);
        join_handle<> h;
        auto owner = [&]([[maybe_unused]] guard parameter) -> task<> {
            co_await yield_now();
            drop(std::move(h));  // cancelled while it runs
            log.push_back("cancelled");
            switch (kind) {
                case 0: co_await when_all(child(guard(gone)), child(guard(gone))); break;
                case 1: co_await when_any(child(guard(gone)), child(guard(gone))); break;
                case 2: co_await scope(body); break;
                case 3: co_await timeout(1h, child(guard(gone))); break;
                case 4: co_await shield(child(guard(gone))); break;
            }
            log.push_back("went on");
            co_await yield_now();
            log.push_back("not reached");
        };
        executor ex;
        h = ex.spawn(owner(guard(gone)));
        drain(ex);
        CHECK(ex.empty());
        if (kind < 3) CHECK(log == history{"cancelled"});
        else CHECK(log == history{"cancelled", "went on"});
        CHECK(ran == std::max(kind - 2, 0));
        constexpr std::array<int, 5> expected{3, 3, 1, 2, 2};
        CHECK(gone == expected[static_cast<std::size_t>(kind)]);
        log.clear();
        gone = 0;
    }
}

// ---- timeout -----------------------------------------------------------------------------------

TEST_CASE("timeout: in time, too late, an exception") {
    stopwatch time;
    int gone = 0;
    auto root = [&]() -> task<> {
        std::string w = co_await word(timeout(10ms, counted_nap(9ms, 1, gone)));
        CHECK(w == "1");
        CHECK(time.passed() == 9ms);
        CHECK(gone == 1);
        w = co_await word(timeout(10ms, counted_nap(11ms, 2, gone)));
        CHECK(w == "timed out");
        CHECK(time.passed() == 19ms);
        CHECK(gone == 2);
        w = co_await word(timeout(10ms, nap_and_fail(1ms, "oops")));
        CHECK(w == "oops");
        CHECK(time.passed() == 20ms);
        w = co_await word(try_timeout(10ms, nap(9ms, 3)));
        CHECK(w == "3");
        w = co_await word(try_timeout(10ms, nap(11ms, 4)));
        CHECK(w == "-");
        CHECK(time.passed() == 39ms);
        w = co_await word(try_timeout(10ms, nap_and_fail(1ms, "oops")));
        CHECK(w == "oops");
        CHECK(time.passed() == 40ms);
    };
    block_on(root());
    CHECK(time.passed() == 40ms);
    auto message = []() -> task<> { co_await timeout(1ms, rest(1h)); };
    std::string what;
    try {
        block_on(message());
    } catch (const std::system_error& e) {
        what = e.what();
        CHECK(e.code() == std::errc::timed_out);
        CHECK(e.code().category() == std::generic_category());
    }
    CHECK(contains(what, "timeout"));
}

TEST_CASE("timeout: void, move-only, optional values, any awaitable") {
    stopwatch time;
    channel<int> c(1);
    int number = 5;
    auto root = [&]() -> task<> {
        co_await timeout(2ms, rest(1ms));
        CHECK(time.passed() == 1ms);
        bool b = co_await try_timeout(2ms, rest(1ms));
        CHECK(b);
        b = co_await try_timeout(2ms, rest(3ms));
        CHECK_FALSE(b);
        CHECK(time.passed() == 4ms);
        std::unique_ptr<int> p = co_await timeout(1ms, give(std::make_unique<int>(3)));
        CHECK(*p == 3);
        std::optional<std::unique_ptr<int>> q = co_await try_timeout(
            1ms, give(std::make_unique<int>(4)));
        REQUIRE(q.has_value());
        CHECK(**q == 4);
        int* r = co_await try_timeout(2ms, refer(1ms, number));
        CHECK(r == &number);
        r = co_await try_timeout(1ms, refer(2ms, number));
        CHECK(r == nullptr);
        CHECK(time.passed() == 6ms);
    };
    block_on(root());
    CHECK(time.passed() == 6ms);
}

TEST_CASE("timeout: any awaitable") {
    stopwatch time;
    channel<int> c(1);
    auto root = [&]() -> task<> {
        std::string w = co_await word(timeout(1ms, c.recv()));
        CHECK(w == "timed out");
        w = co_await word(try_timeout(1ms, sleep_for(2ms)));
        CHECK(w == "false");
        w = co_await word(try_timeout(1ms, when_all(give(1), nap(2ms, 1))));
        CHECK(w == "-");
        CHECK(time.passed() == 3ms);
        CHECK(c.try_send(1));  // the receiver is gone, or it would have taken this
        w = co_await word(timeout(1ms, c.recv()));
        CHECK(w == "1");
        w = co_await word(try_timeout(1ms, c.send(2)));
        CHECK(w == "true");
        w = co_await word(try_timeout(1ms, c.send(3)));
        CHECK(w == "false");
        CHECK(c.try_recv() == 2);
        CHECK(c.try_recv() == std::nullopt);
        auto h = ringlet::spawn(nap(1ms, 8));
        w = co_await word(timeout(2ms, std::move(h)));
        CHECK(w == "8");
        int gone = 0;
        auto lost = ringlet::spawn(counted_nap(1h, 9, gone));
        w = co_await word(timeout(1ms, std::move(lost)));
        CHECK(w == "timed out");
        co_await yield_now();
        CHECK(gone == 1);
        co_await timeout(1ms, yield_now());
        c.close();
        w = co_await word(timeout(1ms, c.recv()));
        CHECK(w == "-");
        CHECK(time.passed() == 6ms);
    };
    block_on(root());
    CHECK(time.passed() == 6ms);
}

TEST_CASE("timeout: none, less than none, and more than can be counted") {
    using minutes_in_double = std::chrono::duration<double, std::ratio<60>>;
    stopwatch time;
    gate g;
    int gone = 0;
    auto root = [&]() -> task<> {
        std::string w = co_await word(timeout(0ns, wait_for(g, 1, gone)));
        CHECK(w == "timed out");
        w = co_await word(try_timeout(-1h, wait_for(g, 1, gone)));
        CHECK(w == "-");
        w = co_await word(timeout(std::chrono::hours::min(), wait_for(g, 1, gone)));
        CHECK(w == "timed out");
        w = co_await word(timeout(minutes_in_double(-1e300), wait_for(g, 1, gone)));
        CHECK(w == "timed out");
        CHECK(gone == 4);
        CHECK(time.passed() == 0ns);
        w = co_await word(timeout(std::chrono::hours::max(), nap(24h, 2)));
        CHECK(w == "2");
        w = co_await word(try_timeout(minutes_in_double(1e300), nap(24h, 3)));
        CHECK(w == "3");
        w = co_await word(timeout(nanoseconds::max(), nap(24h, 4)));
        CHECK(w == "4");
        CHECK(time.passed() == 72h);
        w = co_await word(timeout(minutes_in_double(0.5), nap(30s, 5)));
        CHECK(w == "timed out");
        w = co_await word(timeout(minutes_in_double(0.5), nap(30s - 1ns, 6)));
        CHECK(w == "6");
        CHECK(time.passed() == 72h + 1min - 1ns);
    };
    block_on(root());
    // A deadline that never comes gives no hope.
    auto hopeless = [&]() -> task<> {
        co_await timeout(std::chrono::hours::max(), wait_for(g, 1, gone));
    };
    CHECK_THROWS_AS(block_on(hopeless()), deadlock);
    CHECK(gone == 5);
}

TEST_CASE("timeout is counted from the call, not from the await") {
    stopwatch time;
    auto root = [&]() -> task<> {
        auto a = timeout(10ms, nap(1h, 1));
        auto b = timeout(5ms, nap(4ms, 2));
        auto c = timeout(5ms, nap(1h, 3));
        co_await sleep_for(3ms);
        auto moved = std::move(a);
        std::string w = co_await word(std::move(moved));
        CHECK(w == "timed out");
        CHECK(time.passed() == 10ms);
        w = co_await word(std::move(c));  // long past
        CHECK(w == "timed out");
        CHECK(time.passed() == 10ms);
        w = co_await word(std::move(b));
        CHECK(w == "timed out");
        CHECK(time.passed() == 10ms);
    };
    block_on(root());
    CHECK(time.passed() == 10ms);
}

TEST_CASE("timeout around a shield: the value, though it came too late to be stopped") {
    stopwatch time;
    int gone = 0;
    auto two_steps = [&](nanoseconds d) -> task<int> {
        guard local(gone);
        int n = co_await shield(nap(20ms, 1));
        co_await sleep_for(d);
        co_return n;
    };
    auto root = [&]() -> task<> {
        std::string w = co_await word(timeout(10ms, stubborn(20ms, 1)));
        CHECK(w == "1");
        CHECK(time.passed() == 20ms);
        w = co_await word(try_timeout(10ms, stubborn(20ms, 2)));
        CHECK(w == "2");
        CHECK(time.passed() == 40ms);
        w = co_await word(timeout(10ms, shield(nap(20ms, 3))));
        CHECK(w == "3");
        w = co_await word(timeout(10ms, stubborn_and_fail(20ms, "late")));
        CHECK(w == "late");
        CHECK(time.passed() == 80ms);
        // What suspends again after its shield has no value.
        w = co_await word(timeout(10ms, two_steps(1ms)));
        CHECK(w == "timed out");
        CHECK(gone == 1);
        CHECK(time.passed() == 100ms);
        w = co_await word(timeout(30ms, two_steps(1ms)));
        CHECK(w == "1");
        CHECK(gone == 2);
        CHECK(time.passed() == 121ms);
    };
    block_on(root());
    CHECK(time.passed() == 121ms);
}

TEST_CASE("nested timeouts") {
    stopwatch time;
    int gone = 0;
    auto root = [&]() -> task<> {
        std::string w = co_await word(timeout(5ms, try_timeout(10ms, counted_nap(1h, 1, gone))));
        CHECK(w == "timed out");
        CHECK(time.passed() == 5ms);
        w = co_await word(timeout(10ms, try_timeout(5ms, counted_nap(1h, 1, gone))));
        CHECK(w == "-");
        CHECK(time.passed() == 10ms);
        w = co_await word(try_timeout(10ms, timeout(5ms, counted_nap(1h, 1, gone))));
        CHECK(w == "timed out");
        CHECK(time.passed() == 15ms);
        w = co_await word(try_timeout(10ms, try_timeout(9ms, counted_nap(8ms, 1, gone))));
        CHECK(w == "1");
        CHECK(time.passed() == 23ms);
        CHECK(gone == 4);
        // At the same time: the outer one, which was set first.
        auto inner = try_timeout(5ms, counted_nap(1h, 1, gone));
        w = co_await word(timeout(5ms, std::move(inner)));
        CHECK(w == "timed out");
        CHECK(time.passed() == 28ms);
        CHECK(gone == 5);
        // The inner one of a shield is not reached by the outer.
        w = co_await word(timeout(1ms, shield(word(timeout(3ms, counted_nap(1h, 1, gone))))));
        CHECK(w == "timed out");
        CHECK(time.passed() == 31ms);
        CHECK(gone == 6);
        // A tower of them.
        task<int> tower = counted_nap(1h, 1, gone);
        const auto storey = [](nanoseconds d, task<int> below) -> task<int> {
            int n = co_await timeout(d, std::move(below));
            co_return n;
        };
        for (int i = 0; i < 100; ++i) tower = storey((200 - i) * 1ms, std::move(tower));
        w = co_await word(std::move(tower));
        CHECK(w == "timed out");
        CHECK(gone == 7);
    };
    block_on(root());
    CHECK(time.passed() == 31ms + 101ms);
}

// What a timeout is around is a part of its job: the frames inside the await, and no job.
TEST_CASE("a timeout that is over destroys its own frames, whatever their destructors do") {
    stopwatch time;
    executor ex;
    gate never;
    history log;
    join_handle<> own;
    int line = 0;
    struct at_end {
        std::function<void()> action;
        explicit at_end(std::function<void()> f) : action(std::move(f)) {}
        at_end(at_end&&) = delete;
        ~at_end() { action(); }
    };
    auto ending = [&](std::function<void()> f) -> task<int> {
        const at_end local(std::move(f));
        int n = co_await timeout(1h, wait_for(never, 1, line));
        co_return n;
    };
    const auto looks = [&] {
        std::string text;
        ex.dump(text);
        // In the one that is over, and not any more in the one inside.
        const std::size_t first = text.find("in timeout, "), last = text.rfind("in timeout, ");
        log.push_back(first == last && first != text.npos ? "dumped" : text);
    };
    const auto cancels = [&] { drop(std::move(own)); };
    auto root = [&]() -> task<> {
        std::string w = co_await word(try_timeout(5ms, ending(looks)));
        log.push_back(w);
        std::string text;
        ex.dump(text);
        CHECK_FALSE(contains(text, "timeout"));  // out of the one that is over, and of the other
        w = co_await word(timeout(5ms, ending(cancels)));
        log.push_back(w);  // it goes on to its next suspension
        co_await yield_now();
        log.push_back("not reached");
    };
    auto other = [&]() -> task<> {
        own = ringlet::spawn(root());
        co_await sleep_for(20ms);
    };
    ex.run(other());
    CHECK(log == history{"dumped", "-", "timed out"});
    CHECK(ex.empty());
    CHECK(line == 2);
    CHECK(time.passed() == 20ms);
    // The end of the job: none of its timeouts is there any more.
    std::string text;
    auto limited = [&]() -> task<> { co_await timeout(1h, ending([&] { ex.dump(text); })); };
    auto h = ex.spawn(limited());
    drain(ex);
    drop(std::move(h));
    drain(ex);
    CHECK(contains(text, "task spawned at"));
    CHECK_FALSE(contains(text, "timeout"));
    CHECK(line == 3);
}

TEST_CASE("timeouts in each other, over while what they wait for cannot let go") {
    stopwatch time;
    int gone = 0;
    history log;
    // Under the shield at 2 ms, at 4 ms; behind it at 10 ms, in the inner one, in the outer one.
    auto slow = [&](nanoseconds behind) -> task<int> {
        guard local(gone);
        int n = co_await shield(nap(10ms, 1));
        const bool late = co_await ringlet::cancel_requested();
        log.push_back(late ? "late" : "in time");
        if (behind > 0ns) co_await sleep_for(behind);
        co_return n;
    };
    auto middle = [&](nanoseconds inner, nanoseconds behind) -> task<std::string> {
        guard local(gone);
        std::string w = co_await word(timeout(inner, slow(behind)));
        log.push_back("inner " + w);
        const bool late = co_await ringlet::cancel_requested();
        log.push_back(late ? "late" : "in time");
        co_await sleep_for(1ms);
        log.push_back("slept");
        co_return w;
    };
    auto root = [&]() -> task<> {
        std::string w = co_await word(timeout(4ms, middle(2ms, 1ms)));
        log.push_back("outer " + w);
        CHECK(log == history{"late", "outer timed out"});  // the outermost that is over goes
        CHECK(gone == 2);
        CHECK(time.passed() == 10ms);
        log.clear();
        w = co_await word(timeout(4ms, middle(2ms, 0ms)));
        log.push_back("outer " + w);
        CHECK(log == history{"late", "inner 1", "late", "outer timed out"});
        CHECK(gone == 4);
        CHECK(time.passed() == 20ms);
        log.clear();
        w = co_await word(timeout(40ms, middle(2ms, 0ms)));
        log.push_back("outer " + w);
        CHECK(log == history{"late", "inner 1", "in time", "slept", "outer 1"});
        CHECK(time.passed() == 31ms);
        log.clear();
        w = co_await word(timeout(40ms, middle(2ms, 1ms)));
        log.push_back("outer " + w);
        CHECK(log == history{"late", "inner timed out", "in time", "slept", "outer timed out"});
        CHECK(gone == 8);
        CHECK(time.passed() == 42ms);
    };
    block_on(root());
    CHECK(gone == 8);
}

TEST_CASE("a timeout is no job: what hooks see, and what it adds to a job that is cancelled") {
    stopwatch time;
    int spawned = 0, finished = 0, gone = 0;
    executor ex;
    ex.hooks.context = &spawned;
    ex.hooks.on_spawn = [](void* n, const ringlet::job_info&) { ++*static_cast<int*>(n); };
    auto root = [&]() -> task<> {
        for (int i = 0; i < 3; ++i) {
            int n = co_await timeout(2ms, counted_nap(1ms, i, gone));
            finished += n == i;
            bool in_time = co_await try_timeout(1ms, rest(2ms));
            CHECK_FALSE(in_time);
        }
        auto h = ringlet::spawn(timeout(1h, timeout(2h, counted_nap(3h, 1, gone))));
        co_await sleep_for(1ms);
        const auto n = co_await std::move(h).cancel();
        CHECK_FALSE(n);
        CHECK(gone == 4);
    };
    ex.run(root());
    CHECK(finished == 3);
    CHECK(spawned == 2);  // the root, and what it has spawned
    CHECK(time.passed() == 7ms);
}

TEST_CASE("a timeout that was kept is over, however long its awaiter lives") {
    stopwatch time;
    auto slow = [](int n, int m) -> task<int> {
        co_await sleep_for(50ms);
        co_return 10 * n + m;
    };
    auto root = [&]() -> task<> {
        // The awaiter is a temporary of the whole expression, and so is there while the rest of it waits.
        const int n = co_await slow(co_await timeout(10ms, nap(1ms, 1)), 2);
        CHECK(n == 12);
        CHECK(time.passed() == 51ms);
        auto kept = try_timeout(10ms, give(3));
        const std::optional<int> v = co_await kept;
        co_await sleep_for(50ms);
        CHECK(v == 3);
        CHECK(time.passed() == 101ms);
        auto expired = try_timeout(10ms, nap(20ms, 4));
        const std::optional<int> none = co_await expired;
        CHECK_FALSE(none);
        CHECK(time.passed() == 111ms);
        co_await sleep_for(50ms);
    };
    block_on(root());
    CHECK(time.passed() == 161ms);
    gate never;
    auto stuck = [&]() -> task<> {
        auto kept = timeout(1h, nothing());
        co_await kept;
        co_await never.wait();
    };
    CHECK_THROWS_AS(block_on(stuck()), deadlock);  // at once, and not in an hour
    CHECK(time.passed() == 161ms);
}

TEST_CASE("timeouts in an expression with other awaits") {
    // Of those, g++ 12 calls each await_resume when the last has been waited for.
    stopwatch time;
    history log;
    auto slow = [&](nanoseconds d, int n) -> task<int> {
        co_await sleep_for(d);
        co_await sleep_for(d);
        log.push_back("slow ends");
        co_return n;
    };
    auto fails = [](nanoseconds d) -> task<int> {
        co_await sleep_for(d);
        throw oops("fails");
    };
    auto sum = [](std::optional<int> a, int b) -> task<int> { co_return a.value_or(100) + b; };
    auto none = [&]() -> task<int> {
        const int n = co_await timeout(1s, nap(1ms, 1)) + co_await timeout(1s, fails(1ms));
        co_return n;
    };
    auto refused = [&]() -> task<int> {
        join_handle<int> empty;
        const int n = co_await timeout(1s, nap(1ms, 1)) + co_await std::move(empty);
        co_return n;
    };
    auto root = [&]() -> task<> {
        int n = co_await timeout(10ms, nap(1ms, 1)) + co_await slow(25ms, 2);
        CHECK(n == 3);
        CHECK(time.passed() == 51ms);
        n = co_await sum(co_await try_timeout(5ms, nap(1h, 1)), co_await slow(10ms, 2));
        CHECK(n == 102);
        CHECK(time.passed() == 76ms);
        // Over while the second waits, whose own deadline is what stops it.
        // (A sum: the order of arguments is open, and g++ 16 awaits the second of these first.)
        n = (co_await try_timeout(5ms, nap(1ms, 1))).value_or(100)
            + (co_await try_timeout(10ms, slow(20ms, 2))).value_or(7);
        CHECK(n == 8);
        CHECK(time.passed() == 87ms);
        try {
            co_await none();
            log.push_back("not reached");
        } catch (const oops& e) { log.push_back(e.what()); }
        CHECK(time.passed() == 89ms);
        try {
            co_await refused();
            log.push_back("not reached");
        } catch (const std::logic_error&) { log.push_back("refused"); }
        CHECK(time.passed() == 90ms);
        // None of these is left.
        std::string text;
        executor::here().dump(text);
        CHECK(text.find("timeout") == std::string::npos);
        const std::optional<int> late = co_await try_timeout(10ms, nap(1h, 1));
        CHECK_FALSE(late);
        co_await sleep_for(2s);
        log.push_back("end");
    };
    block_on(root());
    CHECK(log == history{"slow ends", "slow ends", "fails", "refused", "end"});
    CHECK(time.passed() == 2100ms);
}

TEST_CASE("timeout: finishing at the very deadline") {
    stopwatch time;
    auto tie = []() -> task<std::string> {
        std::string w = co_await word(try_timeout(5ms, nap(5ms, 1)));
        co_return w;
    };
    CHECK(block_on(tie()) == "-");  // an expired sleep is no result
    CHECK(time.passed() == 5ms);
    // What is waited for has a result and has not run yet when the deadline expires. Another executor turns
    // the clock; which tick of this one looks at its timers is tried out.
    int looked_between = 0;
    for (int ticks = 0; ticks < 64; ++ticks) {
        CAPTURE(ticks);
        channel<int> c(0);
        history log;
        auto owner = [&]() -> task<> {
            auto receive = [&]() -> task<int> {
                std::optional<int> v = co_await c.recv();
                const bool late = co_await ringlet::cancel_requested();
                looked_between += late;
                co_return v.value_or(-1);
            };
            std::string w = co_await word(timeout(5ms, receive()));
            log.push_back(w);
        };
        auto sleeper = [&]() -> task<> {
            co_await sleep_for(5ms);
            log.push_back("sleeper");
        };
        executor ex, clock;
        auto h = ex.spawn(owner());
        auto i = ex.spawn(sleeper());
        drain(ex);
        for (int n = 0; n < ticks; ++n) {
            auto filler = ex.spawn(nothing());
            CHECK(ex.try_tick());
        }
        clock.run(rest(5ms));
        CHECK(c.try_send(7));
        drain(ex);
        CHECK(ex.empty());
        CHECK(log.size() == 2);
        CHECK(std::count(log.begin(), log.end(), "7") == 1);
    }
    CHECK(looked_between >= 1);
}

TEST_CASE("a cancelled timeout leaves no timer, and an expired one with its owner ends") {
    stopwatch time;
    int gone = 0, went_on = 0;
    auto owner = [&](nanoseconds d) -> task<> {
        guard local(gone);
        try {
            co_await timeout(d, stubborn(10ms, 1));
            co_await timeout(d, counted_nap(1h, 2, gone));
        } catch (const std::system_error&) {}
        ++went_on;
    };
    auto root = [&]() -> task<> {
        auto a = ringlet::spawn(owner(50ms));
        co_await sleep_for(20ms);
        bool ended = co_await std::move(a).cancel();
        CHECK_FALSE(ended);
        CHECK(gone == 2);
        CHECK(time.passed() == 20ms);
        auto b = ringlet::spawn(owner(5ms));
        co_await sleep_for(7ms);  // expired, under the shield
        ended = co_await std::move(b).cancel();
        CHECK_FALSE(ended);
        CHECK(time.passed() == 30ms);
        CHECK(gone == 4);  // its next wait has been begun, and not waited for
    };
    block_on(root());
    CHECK(went_on == 0);
    CHECK(time.passed() == 30ms);
}

TEST_CASE("ten minutes of retries with backoff, to the nanosecond") {
    stopwatch time;
    std::vector<nanoseconds> begun, failed;
    int gone = 0;
    auto attempt = [&](int n) -> task<int> {
        guard local(gone);
        begun.push_back(time.passed());
        if (n % 3 == 1) co_await sleep_for(123'456'789ns);
        if (n % 3) throw oops("refused");
        if (n < 12) co_await sleep_for(1h);
        co_return n;
    };
    auto retry = [&]() -> task<int> {
        nanoseconds pause = 250ms;
        for (int n = 0;; ++n) {
            std::optional<int> v;
            try {
                v = co_await try_timeout(1500ms + 1ns, attempt(n));
            } catch (const oops&) {}
            if (v && *v >= 12) co_return *v;
            failed.push_back(time.passed());
            co_await sleep_for(pause);
            pause = std::min<nanoseconds>(pause * 2, 5min);
        }
    };
    CHECK(block_on(retry()) == 12);
    REQUIRE(begun.size() == 13);
    REQUIRE(failed.size() == 12);
    nanoseconds at = 0ns, pause = 250ms;
    for (int n = 0; n < 12; ++n) {
        CAPTURE(n);
        const auto i = static_cast<std::size_t>(n);
        CHECK(begun[i] == at);
        at += n % 3 == 0 ? 1500ms + 1ns : n % 3 == 1 ? 123'456'789ns : 0ns;
        CHECK(failed[i] == at);
        at += pause;
        pause = std::min<nanoseconds>(pause * 2, 5min);
    }
    CHECK(begun[12] == at);
    CHECK(time.passed() == at);
    CHECK(at > 10min);
    CHECK(gone == 13);
}

TEST_CASE("a thousand overlapping timeouts, to the nanosecond") {
    stopwatch time;
    int gone = 0, late = 0, in_time = 0;
    auto one = [&](int i) -> task<> {
        const nanoseconds begin = i * 37us, limit = 1ms + (i * 7919 % 1000) * 1us + i * 1ns;
        const nanoseconds needs = 1ms + (i * 104729 % 1000) * 1us;
        co_await sleep_for(begin);
        std::optional<int> v = co_await try_timeout(limit, counted_nap(needs, i, gone));
        if (v) {
            ++in_time;
            CHECK(*v == i);
            CHECK(needs < limit);
            CHECK(time.passed() == begin + needs);
        } else {
            ++late;
            CHECK(needs >= limit);
            CHECK(time.passed() == begin + limit);
        }
    };
    auto root = [&]() -> task<> {
        std::vector<task<>> all;
        for (int i = 0; i < 1000; ++i) all.push_back(one(i));
        co_await when_all(std::move(all));
    };
    block_on(root());
    CHECK(gone == 1000);
    CHECK(late + in_time == 1000);
    CHECK(late > 300);
    CHECK(in_time > 300);
}

// ---- cancelling --------------------------------------------------------------------------------

TEST_CASE("the owner, cancelled at every moment: a completed group beats the cancel") {
    enum kinds { all, any, list, scoped, limited, none };
    for (int kind = all; kind < none; ++kind) {
        int went_on = 0, ended = 0;
        for (int ticks = 0; ticks < 20; ++ticks) {
            CAPTURE(kind);
            CAPTURE(ticks);
            int made = 0, gone = 0, finished = 0;
            bool resumed = false, reached = false;
            auto child = [&](int yields, [[maybe_unused]] guard parameter) -> task<int> {
                ++made;
                guard local(gone);
                for (int i = 0; i < yields; ++i) co_await yield_now();
                co_return ++finished;
            };
            auto two = [&](int n) {
                ++made;
                return child(n, guard(gone));
            };
            auto body = [&](scope_ref s) -> task<int> {
                s.spawn(two(3));
                co_await yield_now();
                co_return ++finished;
            };
            auto owner = [&]() -> task<> {
                std::vector<task<int>> work;
                if (kind == list)
                    for (int i = 0; i < 2; ++i) work.push_back(two(i + 2));
                switch (kind) {
                    case all: co_await when_all(two(1), two(3)); break;
                    case any: co_await when_any(two(4), two(2)); break;
                    case list: co_await when_all(std::move(work)); break;
                    case scoped: co_await scope(body); break;
                    case limited: co_await timeout(1h, two(3)); break;
                }
                resumed = true;
                co_await yield_now();
                reached = true;
            };
            executor ex;
            auto h = ex.spawn(owner());
            for (int i = 0; i < ticks; ++i) ex.try_tick();
            const bool complete = finished >= (kind == any || kind == limited ? 1 : 2);
            const bool done = h.done();
            drop(std::move(h));
            drain(ex);
            CHECK(ex.empty());
            CHECK(resumed == complete);
            CHECK(reached == done);
            CHECK(gone == made);
            went_on += resumed && !reached;
            ended += !resumed;
        }
        // Complete before the owner ran, which is no moment with a timeout; at its next suspension.
        CHECK(went_on >= (kind == limited ? 1 : 2));
        CHECK(ended >= 3);
    }
}

TEST_CASE("an owner cancelled after a child's exception is not resumed") {
    stopwatch time;
    int gone = 0, went_on = 0;
    auto owner = [&]() -> task<> {
        guard local(gone);
        std::string w = co_await word(when_all(nap_and_fail(1ms, "oops"), stubborn(10ms, 1)));
        ++went_on;
    };
    auto root = [&]() -> task<> {
        auto h = ringlet::spawn(owner());
        co_await sleep_for(5ms);
        bool ended = co_await std::move(h).cancel();
        CHECK_FALSE(ended);
        CHECK(time.passed() == 10ms);
    };
    block_on(root());
    CHECK(went_on == 0);
    CHECK(gone == 1);
}

TEST_CASE("run on the spot: an owner is cancelled, and its child fails, as the group begins") {
    int gone = 0, went_on = 0;
    join_handle<> self;
    auto child = [&]() -> task<> {
        drop(std::move(self));
        throw oops("fails");
        co_return;
    };
    auto owner = [&]() -> task<> {
        guard local(gone);
        std::string w = co_await word(when_all(child()));
        ++went_on;
    };
    auto [r, h] = ringlet::spawn(owner(), [](runnable x) { std::move(x).run(); });
    self = std::move(h);
    CHECK_FALSE(std::move(r).run());
    CHECK(went_on == 0);
    CHECK(gone == 1);
}

TEST_CASE("a child that cancels its own owner") {
    for (bool yields : {false, true}) {
        CAPTURE(yields);
        int gone = 0, went_on = 0, value = 0;
        join_handle<> h;
        auto child = [&]() -> task<int> {
            guard local(gone);
            drop(std::move(h));
            if (yields) co_await yield_now();
            co_return 1;
        };
        auto owner = [&]() -> task<> {
            guard local(gone);
            auto all = co_await when_all(child(), give(2));
            value = std::get<1>(all);
            ++went_on;
            co_await yield_now();
            ++went_on;
        };
        executor ex;
        h = ex.spawn(owner());
        drain(ex);
        CHECK(ex.empty());
        CHECK(gone == 2);
        CHECK(went_on == 0);  // both children were cancelled before they had ended
        CHECK(value == 0);
    }
}

TEST_CASE("the end of an executor while groups wait in groups") {
    gate a, b, c, d, e;
    history log;
    int gone = 0;
    auto leaf = [&](std::string name, gate& g) -> task<int> {
        at_end says([&log, name] { log.push_back(name); });
        co_await g.wait();
        log.push_back("not reached");
        co_return 1;
    };
    auto middle = [&]() -> task<int> {
        at_end says([&] { log.push_back("middle"); });
        co_await when_any(leaf("a", a), when_all(leaf("b", b), sleep_for(1h)));
        co_return 1;
    };
    auto inner = [&](scope_ref s) -> task<int> {
        at_end says([&] { log.push_back("inner"); });
        s.spawn(leaf("c", c));
        int n = co_await timeout(1h, leaf("d", d));
        co_return n;
    };
    auto owner = [&]([[maybe_unused]] guard parameter) -> task<> {
        at_end says([&] { log.push_back("owner"); });
        co_await when_all(middle(), scope(inner), shield(wait_for(e, 1, gone)));
        log.push_back("not reached");
    };
    {
        executor ex;
        ex.spawn(owner(guard(gone))).detach();
        drain(ex);
        CHECK(log.empty());
        CHECK(gone == 0);
        CHECK(e.waiter);
    }
    CHECK(gone == 2);
    auto at = [&](const char* name) {
        return std::find(log.begin(), log.end(), name) - log.begin();
    };
    CHECK(log.size() == 7);
    for (auto name : {"a", "b", "c", "d", "inner", "middle"}) CHECK(at(name) < at("owner"));
    CHECK(at("a") < at("middle"));
    CHECK(at("b") < at("middle"));
    CHECK(at("d") < at("inner"));
    CHECK(at("owner") == 6);
    for (auto* g : {&a, &b, &c, &d, &e}) g->open();
}

TEST_CASE("the end of an executor: a complete group, a shielded one, one that has not begun") {
    stopwatch time;
    history log;
    int gone = 0;
    auto complete = [&]() -> task<> {
        auto all = co_await when_all(give(1), give(2));
        log.push_back(say(all));
        co_await yield_now();
        log.push_back("not reached");
    };
    auto shielded = [&]() -> task<> {
        std::string w = co_await shield(word(when_all(nap(20ms, 3), timeout(10ms, nap(1ms, 4)))));
        log.push_back(w);
    };
    auto fresh = [&]([[maybe_unused]] guard parameter) -> task<> {
        co_await when_all(counted_nap(1ms, 1, gone));
        log.push_back("not reached");
    };
    {
        executor ex;
        ex.spawn(complete()).detach();
        ex.spawn(shielded()).detach();
        for (int i = 0; i < 4; ++i) CHECK(ex.try_tick());  // two owners, two children
        ex.spawn(fresh(guard(gone))).detach();
        CHECK(log.empty());
    }
    CHECK(log == history{"1 2", "3 4"});
    CHECK(gone == 1);
    CHECK(time.passed() == 20ms);
}

// ---- dump, deadlock, hooks ---------------------------------------------------------------------

namespace {

std::string place(int line) { return std::string(__FILE__) + ":" + std::to_string(line); }

}  // namespace

TEST_CASE("dump shows the tree: children under their parents, what each waits for, and where") {
    stopwatch time;
    executor ex;
    gate a, b, c;
    int owner_line = 0, body_line = 0, child_line = 0, any_line = 0, leaf_line = 0;
    int nap_line = 0, spawn_line = 0, yield_line = 0, limit_line = 0, shield_line = 0;
    auto leaf = [&]() -> task<> {
        leaf_line = __LINE__ + 1;
        co_await a.wait();
    };
    auto napping = [&]() -> task<> {
        nap_line = __LINE__ + 1;
        co_await sleep_for(1h);
    };
    auto limited = [&]() -> task<> {
        limit_line = __LINE__ + 1;
        co_await timeout(2h, napping());
    };
    auto shielding = [&]() -> task<> {
        shield_line = __LINE__ + 1;
        co_await shield(limited());
    };
    auto racing = [&]() -> task<> {
        any_line = __LINE__ + 1;
        co_await when_any(leaf(), shielding());
    };
    auto body = [&](scope_ref s) -> task<> {
        child_line = __LINE__ + 1;
        s.spawn(racing());
        body_line = __LINE__ + 1;
        co_await b.wait();
    };
    auto owner = [&]() -> task<> {
        owner_line = __LINE__ + 1;
        co_await scope(body);
    };
    spawn_line = __LINE__ + 1;
    auto h = ex.spawn(owner());
    auto i = ex.spawn(nothing());
    drain(ex);
    yield_line = __LINE__ + 1;
    auto j = ex.spawn(nothing());
    std::string text = "before\n";
    ex.dump(text);
    const std::string expected = "before\n"
                                 "  task spawned at "
        + place(spawn_line) + " waits for scope at " + place(owner_line)
        + "\n"
          "    task spawned at "
        + place(owner_line) + " waits for a waker at " + place(body_line)
        + "\n"
          "    task spawned at "
        + place(child_line) + " waits for when_any at " + place(any_line)
        + "\n"
          "      task spawned at "
        + place(any_line) + " waits for a waker at " + place(leaf_line)
        + "\n"
          "      task spawned at "
        + place(any_line) + " waits for shield at " + place(shield_line)
        + "\n"
          "        task spawned at "
        + place(shield_line) + " waits for sleep, 3600000000 us left at " + place(nap_line)
        + ", in timeout, 7200000000 us left at " + place(limit_line)
        + "\n"
          "  task spawned at "
        + place(yield_line) + " is runnable at " + place(yield_line) + "\n";
    CHECK(text == expected);
    // What has ended is not shown any more.
    b.open();
    drain(ex);
    text.clear();
    ex.dump(text);
    CHECK(lines_of(text).size() == 5);
    CHECK(names(text, owner_line));
    CHECK_FALSE(names(text, body_line));
    a.open();
    drain(ex);
    text.clear();
    ex.dump(text);
    CHECK(text.empty() == false);  // the shield holds
    CHECK(names(text, shield_line));
    CHECK_FALSE(names(text, leaf_line));
}

TEST_CASE("deadlock: cycles of joins and groups; the text shows each, and all of it goes") {
    int gone = 0, all_line = 0, any_line = 0, root_line = 0, join_line = 0, gate_line = 0;
    gate g;
    join_handle<> a, b;
    std::string what;
    auto joins = [&](join_handle<>& h, [[maybe_unused]] guard parameter) -> task<> {
        guard local(gone);
        join_line = __LINE__ + 1;
        co_await std::move(h);
    };
    auto waits = [&]() -> task<> {
        guard local(gone);
        gate_line = __LINE__ + 1;
        co_await g.wait();
    };
    auto first = [&]() -> task<> {
        guard local(gone);
        all_line = __LINE__ + 1;
        co_await when_all(joins(b, guard(gone)), nothing());
    };
    auto second = [&]() -> task<> {
        guard local(gone);
        any_line = __LINE__ + 1;
        co_await when_any(joins(a, guard(gone)), waits());
    };
    auto body = [&](scope_ref s) -> task<> {
        s.spawn(std::move(b));  // joins it as well, and owns it
        co_return;
    };
    auto root = [&]() -> task<> {
        guard local(gone);
        a = ringlet::spawn(first());
        b = ringlet::spawn(second());
        for (int i = 0; i < 3; ++i) co_await yield_now();
        root_line = __LINE__ + 1;
        co_await timeout(std::chrono::hours::max(), waits());
    };
    try {
        block_on(root());
        what = "no deadlock";
    } catch (const deadlock& e) { what = e.what(); }
    INFO(what);
    CHECK(gone == 9);
    CHECK(contains(what, "deadlock"));
    for (int line : {all_line, any_line, root_line, join_line, gate_line}) {
        CAPTURE(line);
        CHECK(line != 0);
        CHECK(names(what, line));
    }
    for (const char* wait : {"when_all", "when_any", "join", "a waker"})
        CHECK(contains(what, std::string(" waits for ") + wait));
    CHECK(contains(what, ", in timeout"));
    CHECK(lines_of(what).size() == 7);
    std::vector<std::size_t> indents;
    for (const std::string& line : lines_of(what)) indents.push_back(indent_of(line));
    CHECK(indents == std::vector<std::size_t>{0, 2, 2, 4, 2, 4, 4});
    CHECK((!a || a.done()));
    CHECK((!b || b.done()));
    drop(std::move(body));
}

TEST_CASE("deadlock: a task that waits for the group it is in") {
    int gone = 0;
    join_handle<> h;
    auto child = [&]() -> task<> {
        guard local(gone);
        co_await std::move(h);
    };
    auto owner = [&]() -> task<> {
        guard local(gone);
        co_await when_all(child(), nothing());
    };
    auto root = [&]() -> task<> {
        h = ringlet::spawn(owner());
        gate never;
        co_await never.wait();
    };
    CHECK_THROWS_AS(block_on(root()), deadlock);
    CHECK(gone == 2);
}

TEST_CASE("no deadlock while a child of a child has a timer") {
    stopwatch time;
    auto child = []() -> task<> { co_await when_any(rest(1h), when_all(rest(1min), rest(2h))); };
    auto body = [&](scope_ref s) -> task<> {
        s.spawn(child());
        co_return;
    };
    block_on(scope(body));
    CHECK(time.passed() == 1h);
}

namespace {

// The hooks of an executor: each job by the number of its spawn, children with their parent's.
class tracer {
public:
    explicit tracer(executor& ex) {
        ex.hooks.context = this;
        ex.hooks.on_spawn = [](void* t, const job_info& j) {
            auto& self = *static_cast<tracer*>(t);
            CHECK(self.numbers_.count(j.id) == 0);
            self.numbers_[j.id] = ++self.spawned;
            std::string text = "spawn " + self.number(j.id);
            if (j.parent) text += " of " + self.number(j.parent);
            self.log.push_back(text);
            self.lines.push_back(static_cast<int>(j.spawned.line()));
            CHECK(j.where.line() == j.spawned.line());
        };
        ex.hooks.before_run = [](void* t, const job_info& j) {
            auto& self = *static_cast<tracer*>(t);
            self.log.push_back("run " + self.number(j.id));
        };
        ex.hooks.on_finish = [](void* t, const job_info& j) {
            auto& self = *static_cast<tracer*>(t);
            self.log.push_back("finish " + self.number(j.id));
            CHECK(self.numbers_.erase(j.id) == 1);
            ++self.finished;
        };
    }
    tracer(tracer&&) = delete;
    int spawned = 0, finished = 0;
    history log;
    std::vector<int> lines;

private:
    std::string number(const void* id) {
        CHECK(numbers_.count(id) == 1);
        return std::to_string(numbers_[id]);
    }
    std::map<const void*, int> numbers_;
};

}  // namespace

TEST_CASE("hooks: children, from their first run to their end") {
    executor ex;
    tracer t(ex);
    gate g;
    int gone = 0, line = 0;
    auto root = [&]() -> task<> {
        line = __LINE__ + 1;
        co_await when_any(give(1), wait_for(g, 1, gone));
    };
    ex.run(root());
    // The second child is cancelled before it begins.
    CHECK(t.log
        == history{"spawn 1", "run 1", "spawn 2 of 1", "run 2", "finish 2", "spawn 3 of 1", "run 3",
            "finish 3", "run 1", "finish 1"});
    CHECK(t.lines[1] == line);
    CHECK(t.lines[2] == line);
    t.log.clear();
    auto body = [&](scope_ref s) -> task<> {
        line = __LINE__ + 1;
        s.spawn(word(when_all(give(1))));
        co_return;
    };
    auto scoped = [&]() -> task<> { co_await scope(body); };
    ex.run(scoped());
    CHECK(t.log
        == history{"spawn 4", "run 4", "spawn 5 of 4", "run 5", "finish 5", "spawn 6 of 4", "run 6",
            "spawn 7 of 6", "run 7", "finish 7", "run 6", "finish 6", "run 4", "finish 4"});
    CHECK(t.lines[5] == line);
    CHECK(t.spawned == 7);
    CHECK(t.finished == 7);
}

TEST_CASE("hooks: children that wait forever finish with their executor") {
    gate g;
    int gone = 0, spawned = 0, finished = 0;
    struct counts {
        int &spawned, &finished;
    } both{spawned, finished};
    auto owner = [&]() -> task<> {
        co_await when_all(shield(wait_for(g, 1, gone)), when_any(rest(1h), rest(2h)));
    };
    {
        executor ex;
        ex.hooks.context = &both;
        ex.hooks.on_spawn = [](void* c, const job_info&) { ++static_cast<counts*>(c)->spawned; };
        ex.hooks.on_finish = [](void* c, const job_info&) { ++static_cast<counts*>(c)->finished; };
        ex.spawn(owner()).detach();
        drain(ex);
        CHECK(spawned == 6);
        CHECK(finished == 0);
    }
    CHECK(gone == 1);
    CHECK(spawned == 6);
    CHECK(finished == 6);
}

// ---- other ways to be scheduled ----------------------------------------------------------------

namespace {

// Wakes who waits at a gate, when it goes.
class bell {
public:
    explicit bell(gate& g) : gate_(&g) {}
    bell(bell&& other) noexcept : gate_(std::exchange(other.gate_, nullptr)) {}
    ~bell() {
        if (gate_) gate_->open();
    }

private:
    gate* gate_;
};

task<> ring_at_end(gate& own, [[maybe_unused]] bell rings, [[maybe_unused]] guard parameter) {
    co_await own.wait();
}

}  // namespace

TEST_CASE("a child whose value spawns another child as it goes: the scope waits for that one too") {
    int ran = 0;
    auto late = [&]() -> task<> {
        co_await yield_now();
        ++ran;
    };
    auto child = [&](scope_ref s) -> task<std::unique_ptr<at_end>> {
        co_return std::make_unique<at_end>([&, s] { s.spawn(late()); });
    };
    auto body = [&](scope_ref s) -> task<> {
        s.spawn(child(s));
        co_return;
    };
    auto root = [&]() -> task<> {
        co_await scope(body);
        CHECK(ran == 1);
    };
    block_on(root());
    CHECK(ran == 1);
}

TEST_CASE("a loop over groups without members does not starve the others") {
    int rounds = 0;
    bool stop = false;
    auto loops = [&]() -> task<> {
        while (!stop && rounds < 100'000) {
            ++rounds;
            co_await when_all(std::vector<task<>>());
        }
    };
    auto root = [&]() -> task<> {
        auto h = ringlet::spawn(loops());
        co_await yield_now();
        co_await yield_now();
        stop = true;
        co_await std::move(h);
    };
    block_on(root());
    CHECK(rounds >= 128);
    CHECK(rounds < 600);
}

TEST_CASE("run on the spot: a child that ends may end the next one, and the group") {
    for (const bool in_scope : {false, true})
        for (const int children : {2, 3, 5}) {
            CAPTURE(in_scope);
            CAPTURE(children);
            std::vector<gate> gates(static_cast<std::size_t>(children) + 1);
            int gone = 0;
            // Each wakes the next one when it goes.
            const auto child = [&](std::size_t i) {
                return ring_at_end(gates[i], bell(gates[i + 1]), guard(gone));
            };
            auto body = [&](scope_ref s) -> task<> {
                for (std::size_t i = 0; i + 1 < gates.size(); ++i) s.spawn(child(i));
                co_return;
            };
            auto all = [&] {
                std::vector<task<>> tasks;
                for (std::size_t i = 0; i + 1 < gates.size(); ++i) tasks.push_back(child(i));
                return tasks;
            };
            auto owner = [&]([[maybe_unused]] guard parameter) -> task<> {
                if (in_scope) co_await scope(body);
                else co_await when_all(all());
            };
            auto [r, h] = ringlet::spawn(
                owner(guard(gone)), [](runnable x) { std::move(x).run(); });
            CHECK_FALSE(std::move(r).run());
            CHECK(gone == 0);
            drop(std::move(h));
            CHECK(gone == children + 1);
        }
}

TEST_CASE("run on the spot: an owner that goes on in the midst of a stop begins its next group") {
    gate first, second, third;
    int gone = 0;
    history log;
    auto fails = [&]() -> task<> {
        co_await first.wait();
        throw oops("fails");
    };
    auto owner = [&]() -> task<> {
        for (int round = 0; round < 2; ++round) {
            try {  // both groups are at one place in the frame
                co_await when_all(fails(), ring_at_end(second, bell(third), guard(gone)),
                    ring_at_end(third, bell(second), guard(gone)));
            } catch (const oops& e) { log.push_back(e.what()); }
        }
    };
    auto [r, h] = ringlet::spawn(owner(), [](runnable x) { std::move(x).run(); });
    CHECK_FALSE(std::move(r).run());
    first.open();
    CHECK(gone == 2);
    CHECK(log == history{"fails"});
    CHECK_FALSE(h.done());  // the second group waits, uncancelled
    first.open();
    CHECK(gone == 4);
    CHECK(log == history{"fails", "fails"});
    CHECK(h.done());
}

TEST_CASE("run on the spot: an owner that is a child itself goes in the midst of a stop") {
    gate first, second, third;
    int gone = 0;
    auto parent = [&]([[maybe_unused]] guard parameter) -> task<> {
        co_await when_all(when_any(wait_for(first, 1, gone),
            ring_at_end(second, bell(third), guard(gone)), wait_for(third, 3, gone)));
    };
    auto [r, h] = ringlet::spawn(parent(guard(gone)), [](runnable x) { std::move(x).run(); });
    std::move(r).run();
    first.open();
    CHECK(gone == 4);
    CHECK(h.done());
}

TEST_CASE("run on the spot: a value that nobody takes goes before the owner goes on") {
    gate first, second;
    history log;
    using value = std::unique_ptr<at_end>;
    auto late = [&]() -> task<value> {  // the other ends meanwhile, and so cancels it
        co_await first.wait();
        second.open();
        co_return std::make_unique<at_end>([&] { log.push_back("value"); });
    };
    auto winner = [&]() -> task<value> {
        co_await second.wait();
        co_return nullptr;
    };
    auto owner = [&]() -> task<> {
        auto both = co_await when_any(late(), winner());
        CHECK_FALSE(std::get<0>(both).has_value());
        log.push_back("owner");
    };
    auto [r, h] = ringlet::spawn(owner(), [](runnable x) { std::move(x).run(); });
    std::move(r).run();
    first.open();
    CHECK(log == history{"value", "owner"});
}

TEST_CASE("run on the spot: who wins while when_any begins waits for those that cannot let go") {
    gate g;
    int gone = 0;
    bool resumed = false;
    auto insists = [&]() -> task<int> {
        const guard local(gone);
        co_await shield(wait_for(g, 1, gone));
        co_return 1;
    };
    auto owner = [&]() -> task<> {
        auto [slow, quick] = co_await when_any(insists(), give(2));
        resumed = true;
        CHECK(quick == 2);
        CHECK(slow == 1);  // what it was kept for was a result, so it went on to its end
        CHECK(gone == 2);
    };
    auto [r, h] = ringlet::spawn(owner(), [](runnable x) { std::move(x).run(); });
    CHECK_FALSE(std::move(r).run());
    CHECK_FALSE(resumed);
    CHECK(gone == 0);
    g.open();
    CHECK(resumed);
    CHECK(gone == 2);
    CHECK(h.done());
}

TEST_CASE("run on the spot: a child that is spawned while its scope begins is scheduled once") {
    gate a, b;
    int gone = 0, begun = 0, woken = 0;
    auto grandchild = [&]([[maybe_unused]] guard parameter) -> task<> {
        ++begun;
        co_await a.wait();
        ++woken;
    };
    auto child = [&](scope_ref s) -> task<> {
        s.spawn(grandchild(guard(gone)));
        co_await b.wait();
    };
    // Not a coroutine: it spawns before the scope has begun.
    auto body = [&](scope_ref s) {
        s.spawn(child(s));
        return nothing();
    };
    auto owner = [&]() -> task<> { co_await scope(body); };
    auto [r, h] = ringlet::spawn(owner(), [](runnable x) { std::move(x).run(); });
    CHECK_FALSE(std::move(r).run());
    CHECK(begun == 1);
    CHECK(woken == 0);
    b.open();
    CHECK_FALSE(h.done());
    a.open();
    CHECK(woken == 1);
    CHECK(gone == 1);
    CHECK(h.done());
}

TEST_CASE(
    "a scope that never begins, because its job is to stop, takes those with it that come last") {
    int gone = 0, ran = 0;
    join_handle<> own;
    auto late = [&]([[maybe_unused]] guard parameter) -> task<> {
        ++ran;
        co_return;
    };
    auto child = [](std::unique_ptr<at_end>) -> task<> { co_return; };
    auto owner = [&]() -> task<> {
        drop(std::move(own));  // this very job
        auto body = [&](scope_ref s) {
            return child(std::make_unique<at_end>([&, s] { s.spawn(late(guard(gone))); }));
        };
        co_await scope(body);
    };
    auto root = [&]() -> task<> {
        own = ringlet::spawn(owner());
        co_await yield_now();
        co_await yield_now();
        CHECK(gone == 1);
    };
    block_on(root());
    CHECK(gone == 1);
    CHECK(ran == 0);
}

TEST_CASE("groups in a job whose schedule function runs it on the spot") {
    int runs = 0;
    const auto on_the_spot = [&](runnable r) {
        ++runs;
        std::move(r).run();
    };
    for (int kind = 0; kind < 4; ++kind) {
        CAPTURE(kind);
        gate a, b;
        int gone = 0;
        std::string result;
        auto fails = [&]() -> task<int> {
            guard local(gone);
            co_await a.wait();
            throw oops("fails");
        };
        auto body = [&](scope_ref s) -> task<int> {
            s.spawn(fails());
            co_await b.wait();
            co_return 1;
        };
        // A frame this large goes back to the heap as soon as it ends.
        auto owner = [&]([[maybe_unused]] guard parameter) -> task<> {
            std::array<char, 131072> large{};
            std::tuple<int, int> all;
            std::tuple<std::optional<int>, std::optional<int>> any;
            int n = 0;
            try {
                switch (kind) {
                    case 0:
                        all = co_await when_all(wait_for(a, 1, gone), wait_for(b, 2, gone));
                        result = say(all);
                        break;
                    case 1:
                        any = co_await when_any(wait_for(a, 1, gone), wait_for(b, 2, gone));
                        result = say(any);
                        break;
                    case 2: co_await when_all(fails(), wait_for(b, 2, gone)); break;
                    case 3: n = co_await scope(body); break;
                }
            } catch (const oops& e) { result = e.what(); }
            large[0] = static_cast<char>(n);
        };
        auto [r, h] = ringlet::spawn(owner(guard(gone)), on_the_spot);
        runs = 0;
        r.schedule();
        CHECK(runs == 3);
        CHECK(result.empty());
        a.open();
        if (kind == 0) {
            CHECK(gone == 1);
            b.open();
        }
        constexpr std::array<const char*, 4> expected{"1 2", "1 -", "fails", "fails"};
        CHECK(result == expected[static_cast<std::size_t>(kind)]);
        CHECK(h.done());
        CHECK(gone == (kind == 3 ? 2 : 3));
        CHECK(runs == 6);  // two children's ends, and the owner's
    }
    // Cancelled from outside.
    gate a, b;
    int gone = 0, went_on = 0;
    auto owner = [&]([[maybe_unused]] guard parameter) -> task<> {
        std::array<char, 131072> large{};
        co_await when_all(wait_for(a, 1, gone), wait_for(b, 2, gone));
        large[0] = static_cast<char>(++went_on);
    };
    auto [r, h] = ringlet::spawn(owner(guard(gone)), on_the_spot);
    r.schedule();
    drop(std::move(h));
    CHECK(gone == 3);
    CHECK(went_on == 0);
}

TEST_CASE("groups in a job whose schedule function drops its children's runnables") {
    bool dropping = false;
    int gone = 0, went_on = 0;
    std::vector<runnable> queue;
    auto schedule = [&](runnable r) {
        if (!dropping) queue.push_back(std::move(r));
    };
    const auto run_all = [&] {
        while (!queue.empty()) {
            runnable next = std::move(queue.front());
            queue.erase(queue.begin());
            std::move(next).run();
        }
    };
    for (int when = 0; when < 3; ++when) {
        CAPTURE(when);
        gate a, b;
        gone = 0;
        dropping = false;
        auto owner = [&]([[maybe_unused]] guard parameter) -> task<> {
            std::array<char, 131072> large{};  // goes back to the heap at once
            dropping = when == 0;
            co_await when_all(wait_at(a, guard(gone)), wait_at(b, guard(gone)));
            large[0] = static_cast<char>(++went_on);
        };
        auto [r, h] = ringlet::spawn(owner(guard(gone)), schedule);
        r.schedule();
        run_all();
        CHECK(h.done() == (when == 0));
        dropping = true;
        if (when == 1) a.open();
        if (when == 2) drop(std::move(h));
        CHECK(gone == 3);
        CHECK(queue.empty());
        CHECK(went_on == 0);
    }
}

// ---- memory ------------------------------------------------------------------------------------

TEST_CASE("memory that runs out at each allocation of a group in turn: nothing is lost") {
    stopwatch time;
    int refused = 0, went_well = 0;
    for (int limit = 0; limit < 100 && !went_well; ++limit) {
        CAPTURE(limit);
        counting_resource memory;
        memory.limit = limit;
        frame_pool::use(&memory);
        int gone = 0, made = 0;
        const auto make = [&] {
            ++made;
            return guard(gone);
        };
        const auto child = [&](nanoseconds d, [[maybe_unused]] guard parameter) -> task<int> {
            co_await sleep_for(d);
            co_return 1;
        };
        const auto body = [&](scope_ref s) -> task<> {
            for (int i = 0; i < 3; ++i) s.spawn(child(1ms, make()));
            co_await yield_now();
            s.spawn(child(1ms, make()));
        };
        const auto root = [&]() -> task<int> {
            co_await when_all(child(1ms, make()), child(2ms, make()), sleep_for(1ms));
            co_await when_any(child(1ms, make()), child(2ms, make()));
            co_await scope(body);
            std::optional<int> v = co_await try_timeout(1ms, child(2ms, make()));
            co_return !v;
        };
        try {
            went_well = block_on(root());
        } catch (const std::bad_alloc&) { ++refused; }
        CHECK(gone == made);
        frame_pool::use(nullptr);
        CHECK(memory.live == 0);
    }
    CHECK(refused > 10);
    CHECK(went_well == 1);
}

TEST_CASE("scope: a plain function that spawns, and gives a task") {
    int ran = 0, gone = 0, other = 0;
    auto child = [&]([[maybe_unused]] guard parameter) -> task<> {
        ++ran;
        co_await yield_now();
    };
    auto body = [&](scope_ref s) {
        s.spawn(child(guard(gone)));
        ringlet::spawn(count(other)).detach();
        s.spawn(child(guard(gone)));
        return give(3);
    };
    auto root = [&]() -> task<int> {
        int n = co_await scope(body);
        CHECK(ran == 2);
        CHECK(gone == 2);
        co_await yield_now();
        co_return n;
    };
    executor ex;
    CHECK(ex.run(root()) == 3);
    CHECK(ran == 2);
    CHECK(other == 1);
    CHECK(ex.empty());
}

TEST_CASE("timeout of a reference gives the reference") {
    int number = 1;
    auto limited = timeout(1ms, refer(1us, number));
    CHECK(std::is_same_v<decltype(limited.await_resume()), int&>);
}

TEST_CASE("a shield takes any awaitable") {
    const auto takes = [](auto a) {
        return requires { shield(std::move(a)); };
    };
    CHECK(takes(give(1)));
    CHECK(takes(yield_now()));
    CHECK(takes(sleep_for(1ms)));
}

// ---- what goes as a child ends -----------------------------------------------------------------

TEST_CASE("run on the spot: the value of a scope's child ends the last of the others as it goes") {
    gate last, first;
    int gone = 0;
    auto value = [&]() -> task<std::unique_ptr<at_end>> {
        co_await first.wait();
        co_return std::make_unique<at_end>([&] { last.open(); });
    };
    auto body = [&](scope_ref s) {
        s.spawn(wait_at(last, guard(gone)));
        s.spawn(value());
        return nothing();
    };
    bool went_on = false;
    auto owner = [&]() -> task<> {
        co_await scope(body);
        CHECK(gone == 1);
        went_on = true;
    };
    auto [r, h] = ringlet::spawn(owner(), [](runnable x) { std::move(x).run(); });
    CHECK_FALSE(std::move(r).run());
    CHECK_FALSE(went_on);
    first.open();
    CHECK(went_on);
    CHECK(h.done());
}

TEST_CASE(
    "run on the spot: the value of a cancelled child ends the last of the others as it goes") {
    gate first, last, failing;
    int gone = 0;
    auto value = [&]() -> task<std::unique_ptr<at_end>> {
        co_await first.wait();
        failing.open();
        co_return std::make_unique<at_end>([&] { last.open(); });
    };
    auto shielded = [&]() -> task<> { co_await shield(wait_at(last, guard(gone))); };
    auto fails = [&]() -> task<> {
        co_await failing.wait();
        throw oops("fails");
    };
    history log;
    auto owner = [&]() -> task<> {
        try {
            co_await when_all(value(), shielded(), fails());
        } catch (const oops& e) { log.push_back(e.what()); }
    };
    auto [r, h] = ringlet::spawn(owner(), [](runnable x) { std::move(x).run(); });
    CHECK_FALSE(std::move(r).run());
    CHECK(gone == 0);
    first.open();
    CHECK(gone == 1);
    CHECK(log == history{"fails"});
    CHECK(h.done());
}

TEST_CASE("run on the spot: an exception that is not the first ends the last of the others") {
    struct ringing : std::exception {
        explicit ringing(gate& g) : at(std::make_shared<at_end>([&g] { g.open(); })) {}
        std::shared_ptr<at_end> at;
    };
    gate first, last;
    int gone = 0;
    auto second_to_fail = [&]() -> task<> {
        int unused = 0;
        co_await shield(wait_at(first, guard(unused)));
        throw ringing(last);
    };
    auto shielded = [&]() -> task<> { co_await shield(wait_at(last, guard(gone))); };
    history log;
    auto owner = [&]() -> task<> {
        try {
            co_await when_all(second_to_fail(), shielded(), fail("first"));
        } catch (const oops& e) { log.push_back(e.what()); }
    };
    auto [r, h] = ringlet::spawn(owner(), [](runnable x) { std::move(x).run(); });
    CHECK_FALSE(std::move(r).run());
    CHECK(log.empty());
    first.open();
    CHECK(gone == 1);
    CHECK(log == history{"first"});
    CHECK(h.done());
}

TEST_CASE("run on the spot: a child fails while the group begins, and its end ends others") {
    gate ends_with_a, kept;
    int gone = 0, begun = 0;
    history log;
    auto a = [&]() -> task<> {
        const at_end opens([&] { ends_with_a.open(); });
        gate never;
        co_await never.wait();
    };
    auto shielded = [&]() -> task<> {
        ++begun;
        co_await shield(wait_at(kept, guard(gone)));
        CHECK(gone == 1);
        log.push_back("shielded");
    };
    auto late = [&]() -> task<> {
        log.push_back("late");
        co_return;
    };
    auto body = [&](scope_ref s) {
        s.spawn(a());
        s.spawn(wait_at(ends_with_a, guard(gone)));
        s.spawn(shielded());
        s.spawn(fail("fails"));
        s.spawn(late());
        return nothing();
    };
    auto owner = [&]() -> task<> {
        try {
            co_await scope(body);
        } catch (const oops& e) { log.push_back(e.what()); }
    };
    auto [r, h] = ringlet::spawn(owner(), [](runnable x) { std::move(x).run(); });
    CHECK_FALSE(std::move(r).run());
    CHECK(begun == 1);
    CHECK(gone == 1);
    CHECK(log.empty());  // who comes behind the one that fails does not begin
    CHECK_FALSE(h.done());
    gone = 0;
    kept.open();
    CHECK(log == history{"shielded", "fails"});
    CHECK(h.done());
}

// ---- forms -------------------------------------------------------------------------------------

TEST_CASE("a scope's body may take its scope_ref in any way") {
    int ran = 0;
    const auto by_value = [&](scope_ref s) -> task<> {
        co_await yield_now();
        s.spawn(count(ran));
    };
    const auto by_reference = [&](const scope_ref& s) -> task<> {
        co_await yield_now();
        s.spawn(count(ran));
    };
    const auto by_rvalue = [&](scope_ref&& s) -> task<> {
        co_await yield_now();
        s.spawn(count(ran));
    };
    const auto by_any = [&](auto&& s) -> task<> {
        co_await yield_now();
        s.spawn(count(ran));
    };
    auto root = [&]() -> task<> {
        co_await scope(by_value);
        CHECK(ran == 1);
        co_await scope(by_reference);
        CHECK(ran == 2);
        co_await scope(by_rvalue);
        CHECK(ran == 3);
        auto moved = scope(by_any);
        co_await std::move(moved);
        CHECK(ran == 4);
    };
    block_on(root());
}

TEST_CASE("a task of a constant") {
    const auto constant = []() -> task<const int> { co_return 5; };
    auto root = [&]() -> task<> {
        int sum = co_await shield(constant());
        int v = co_await timeout(1h, constant());
        sum += v;
        auto optional = co_await try_timeout(1h, constant());
        sum += optional.value_or(0);
        auto [a, b] = co_await when_all(constant(), constant());
        CHECK(sum + a + b == 25);
    };
    block_on(root());
}

TEST_CASE("constants of a class: in a list, and where they can only be moved") {
    const auto name = []() -> task<const std::string> { co_return "name"; };
    const auto owner = []() -> task<const std::unique_ptr<int>> {
        co_return std::make_unique<int>(5);
    };
    auto root = [&]() -> task<> {
        std::vector<task<const std::string>> all, some;
        all.push_back(name());
        all.push_back(name());
        some.push_back(name());
        const auto names = co_await when_all(std::move(all));
        CHECK(names.size() == 2);
        CHECK(names.back() == "name");
        const auto first = co_await when_any(std::move(some));
        CHECK(first.front() == "name");
        const auto called = co_await owner();
        auto handle = spawn(owner());
        const auto joined = co_await std::move(handle);
        const auto shielded = co_await shield(owner());
        const auto timed = co_await timeout(1h, owner());
        CHECK(*called + *joined + *shielded + *timed == 20);
    };
    block_on(root());
}

TEST_CASE("no line of a dump is of this library, however deep the waits lie in each other") {
    stopwatch time;
    gate g;
    int unused = 0, line = 0;
    executor ex;
    auto a = ex.spawn(timeout(1h, sleep_for(2h)));
    auto b = ex.spawn(timeout(1h, timeout(2h, when_any(sleep_for(3h), wait_at(g, guard(unused))))));
    auto c = ex.spawn(when_all(timeout(1h, shield(sleep_for(2h))), timeout(1h, sleep_for(1h))));
    auto waits = [&]() -> task<> {
        line = __LINE__ + 1;
        co_await timeout(1h, timeout(2h, sleep_for(3h)));
    };
    auto d = ex.spawn(waits());
    drain(ex);
    std::string text;
    ex.dump(text);
    INFO(text);
    const std::vector<std::string> lines = lines_of(text);
    CHECK(lines.size() == 9);
    CHECK(names(lines.back().substr(lines.back().find("waits")), line));
    CHECK(names(lines.back().substr(0, lines.back().find(", in")), line));
    CHECK_FALSE(contains(text, "task.hpp"));
    CHECK_FALSE(contains(text, "executor.hpp"));
    CHECK_FALSE(contains(text, "timer.hpp"));
}
