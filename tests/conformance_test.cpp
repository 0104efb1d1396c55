// What a job does at every corner of its life, seen through task.hpp alone: no executor, no kernel.
//
// The list is the one that async-task's own tests walk through, numbered 01 to 53. Every test counts
// what has happened so far at *every* step: runs of the body, calls of the schedule function, and
// the destructions of the frame (F), of the schedule function object (S) and of the output (T).
// Nothing here sleeps or starts a thread: what another thread would do in the middle of a run, the
// body itself does in the middle of its run (`probe::act`), and whoever would block on a handle is
// another job that awaits it (`other_job`).
#include <doctest/doctest.h>

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <ostream>
#include <ringlet/task.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "support.hpp"

using namespace support;

namespace {

using ringlet::join_handle;
using ringlet::runnable;
using ringlet::schedule_info;
using ringlet::task;
using ringlet::task_cancelled;
using ringlet::waker;

struct counts {
    int polls = 0;      // runs of the coroutine's body
    int schedules = 0;  // calls of S
    int queued = 0;     // runnables that S holds in its queue
    int F = 0;          // frames destroyed, seen by a parameter of the coroutine
    int L = 0;          // bodies left or destroyed, seen by its first local
    int S = 0;          // schedule function objects destroyed
    int T = 0;          // outputs destroyed

    bool operator==(const counts&) const = default;
    friend std::ostream& operator<<(std::ostream& out, const counts& c) {
        return out << "polls " << c.polls << ", schedules " << c.schedules << ", queued "
                   << c.queued << ", F " << c.F << ", L " << c.L << ", S " << c.S << ", T " << c.T;
    }
};

struct output {
    explicit output(int& count) : count_(count) {}
    guard count_;
};

struct panic : std::runtime_error {
    panic() : std::runtime_error("panic") {}
};

// What one job is watched with: its counters, the queue behind its schedule function, the waker of
// its last wait.
struct probe {
    counts n;
    std::deque<runnable> queue;
    std::function<void()> act;  // done in the middle of a run
    waker slot;
    bool woken_while_running = false;  // as the last call of S was told

    counts now() const {
        counts c = n;
        c.queued = static_cast<int>(queue.size());
        return c;
    }

    auto schedule() {
        return [this, alive = guard(n.S)](runnable r, schedule_info info) {
            ++n.schedules;
            woken_while_running = info.woken_while_running;
            queue.push_back(std::move(r));
        };
    }

    runnable pop() {
        runnable r = std::move(queue.front());
        queue.pop_front();
        return r;
    }

    void polled() {
        ++n.polls;
        if (act) act();
    }
};

// The four futures of the list.

task<output> ready(probe& p, [[maybe_unused]] guard frame) {
    guard local(p.n.L);
    p.polled();
    co_return output(p.n.T);
}

task<output> panicking(probe& p, [[maybe_unused]] guard frame) {
    guard local(p.n.L);
    p.polled();
    throw panic();
    co_return output(p.n.T);
}

task<output> pending(probe& p, [[maybe_unused]] guard frame) {
    guard local(p.n.L);
    for (;;) {
        p.polled();
        co_await ringlet::suspend([&p](waker w) { p.slot = std::move(w); });
    }
}

task<output> pending_then_ready(probe& p, [[maybe_unused]] guard frame) {
    guard local(p.n.L);
    p.polled();
    co_await ringlet::suspend([&p](waker w) { p.slot = std::move(w); });
    p.polled();
    co_return output(p.n.T);
}

task<output> pending_then_panicking(probe& p, [[maybe_unused]] guard frame) {
    guard local(p.n.L);
    p.polled();
    co_await ringlet::suspend([&p](waker w) { p.slot = std::move(w); });
    p.polled();
    throw panic();
    co_return output(p.n.T);
}

using future = task<output> (*)(probe&, guard);

// A job on its probe, not scheduled yet.
struct job : probe {
    explicit job(future f) : started(ringlet::spawn(f(*this, guard(n.F)), schedule())) {}
    job(job&&) = delete;

    std::pair<runnable, join_handle<output>> started;
    runnable& runner = started.first;
    join_handle<output>& handle = started.second;
};

// A job before its second run: the first one ended in a wait, which was woken.
struct woken_job : job {
    explicit woken_job(future f) : job(f) {
        CHECK_FALSE(std::move(runner).run());
        CHECK(now() == counts{.polls = 1});
        old = std::exchange(slot, waker());
        old.wake();
        CHECK(now() == counts{.polls = 1, .schedules = 1, .queued = 1});
        CHECK_FALSE(woken_while_running);
        runner = pop();
        current = runner.waker();
    }

    waker old;      // of the first wait
    waker current;  // of whatever wait the second run ends in
};

// Another job, which awaits the first one. Runs until it has to wait.
class other_job {
public:
    explicit other_job(task<> t) {
        auto [r, h] = ringlet::spawn(
            std::move(t), [this](runnable x) { queue_.push_back(std::move(x)); });
        handle_ = std::move(h);
        std::move(r).run();
    }
    other_job(other_job&&) = delete;
    ~other_job() { abandon(); }

    std::size_t queued() const { return queue_.size(); }
    void run() {
        while (!queue_.empty()) {
            runnable r = std::move(queue_.front());
            queue_.pop_front();
            std::move(r).run();
        }
    }
    void abandon() {
        handle_ = join_handle<>();
        run();
    }

private:
    std::deque<runnable> queue_;
    join_handle<> handle_;
};

enum class outcome { waiting, value, nothing, cancelled, panicked, misused };

doctest::String toString(outcome o) {
    constexpr const char* names[] = {
        "waiting", "value", "nothing", "cancelled", "panicked", "misused"};
    return names[static_cast<int>(o)];
}

task<> join(join_handle<output>& h, outcome& o) {
    try {
        [[maybe_unused]] output v = co_await std::move(h);
        o = outcome::value;
    } catch (const task_cancelled&) { o = outcome::cancelled; } catch (const panic&) {
        o = outcome::panicked;
    } catch (const std::logic_error&) { o = outcome::misused; }
}

task<> cancel(join_handle<output>& h, outcome& o) {
    std::optional<output> v = co_await std::move(h).cancel();
    o = v ? outcome::value : outcome::nothing;
}

// An await that is begun and given up: "poll once".
void try_await(join_handle<output>& h) {
    outcome o = outcome::waiting;
    other_job waiter(join(h, o));
    CHECK(o == outcome::waiting);
    waiter.abandon();
    CHECK(o == outcome::waiting);
}

outcome await(join_handle<output>& h) {
    outcome o = outcome::waiting;
    other_job waiter(join(h, o));
    return o;
}

}  // namespace

// ---- basic -------------------------------------------------------------------------------------

TEST_CASE("01 basic: drop_and_detach") {
    job j(ready);
    CHECK(j.now() == counts{});
    drop(std::move(j.runner));
    CHECK(j.now() == counts{.F = 1});
    j.handle.detach();
    CHECK(j.now() == counts{.F = 1, .S = 1});
}

TEST_CASE("02 basic: detach_and_drop") {
    job j(ready);
    j.handle.detach();
    CHECK(j.now() == counts{});
    drop(std::move(j.runner));
    CHECK(j.now() == counts{.F = 1, .S = 1});
}

TEST_CASE("03 basic: detach_and_run") {
    job j(ready);
    j.handle.detach();
    CHECK(j.now() == counts{});
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1, .S = 1, .T = 1});
}

TEST_CASE("04 basic: run_and_detach") {
    job j(ready);
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1});
    j.handle.detach();
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1, .S = 1, .T = 1});
}

TEST_CASE("05 basic: cancel_and_run") {
    job j(ready);
    drop(std::move(j.handle));
    CHECK(j.now() == counts{});
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.F = 1, .S = 1});
}

TEST_CASE("06 basic: run_and_cancel") {
    job j(ready);
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1});
    drop(std::move(j.handle));
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1, .S = 1, .T = 1});
}

TEST_CASE("07 basic: cancel_join") {
    job j(ready);
    try_await(j.handle);
    CHECK(j.now() == counts{});
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1});
    CHECK(await(j.handle)
        == outcome::value);  // a finished await leaves the handle empty: S goes with it
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1, .S = 1, .T = 1});
    drop(std::move(j.handle));
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1, .S = 1, .T = 1});
}

TEST_CASE("08 basic: schedule") {
    job j(pending);
    CHECK(j.queue.empty());
    j.runner.schedule();
    for (int round = 1; round <= 3; ++round) {
        CHECK(j.now() == counts{.schedules = round, .queued = 1});
        CHECK_FALSE(j.woken_while_running);
        runnable r = j.pop();
        CHECK(j.queue.empty());
        if (round < 3) r.schedule();
    }
    CHECK(j.now() == counts{.schedules = 3, .F = 1});
}

TEST_CASE("09 basic: schedule_counter") {
    job j(pending);
    j.runner.schedule();
    CHECK_FALSE(static_cast<bool>(j.runner));
    CHECK(j.now() == counts{.schedules = 1, .queued = 1});
    j.pop().schedule();
    CHECK(j.now() == counts{.schedules = 2, .queued = 1});
    j.pop().schedule();
    CHECK(j.now() == counts{.schedules = 3, .queued = 1});
    drop(j.pop());
    CHECK(j.now() == counts{.schedules = 3, .F = 1});
}

TEST_CASE("10 basic: drop_inside_schedule") {
    for (bool detached : {true, false}) {
        probe p;
        counts inside;
        auto [r, h] = ringlet::spawn(ready(p, guard(p.n.F)), [&, alive = guard(p.n.S)](runnable x) {
            ++p.n.schedules;
            inside = p.now();
            CHECK(inside == counts{.schedules = 1});
            drop(std::move(x));
            inside = p.now();  // S has lost its job, and still has its captures
            CHECK(inside == counts{.schedules = 1, .F = 1});
        });
        if (detached) h.detach();
        r.schedule();
        CHECK(p.now() == counts{.schedules = 1, .F = 1, .S = detached ? 1 : 0});
        drop(std::move(h));
        CHECK(p.now() == counts{.schedules = 1, .F = 1, .S = 1});
    }
}

TEST_CASE("11 basic: waker") {
    job j(pending);
    waker w = j.runner.waker();
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 1});
    w.wake();
    CHECK(j.now() == counts{.polls = 1, .schedules = 1, .queued = 1});

    runnable r = j.pop();
    waker w2 = r.waker();
    CHECK(w.wakes(w2));
    CHECK_FALSE(std::move(r).run());
    CHECK(j.now() == counts{.polls = 2, .schedules = 1});
    w.wake();  // it was for the first wait, which is over
    CHECK(j.now() == counts{.polls = 2, .schedules = 1});
    std::exchange(w2, waker()).wake();
    CHECK(j.now() == counts{.polls = 2, .schedules = 2, .queued = 1});
    drop(j.pop());
    CHECK(j.now() == counts{.polls = 2, .schedules = 2, .F = 1, .L = 1});
}

TEST_CASE("12 basic: raw") {
    struct callback {  // as a C library would keep it
        void (*function)(void*);
        void* argument;
    };
    probe p;
    callback later{nullptr, nullptr};
    auto schedule = [&, alive = guard(p.n.S)](runnable r) {
        ++p.n.schedules;
        later = {[](void* job) { runnable::from(job).run(); }, std::move(r).release()};
    };
    auto [r, h] = ringlet::spawn(ready(p, guard(p.n.F)), std::move(schedule));
    h.detach();
    r.schedule();
    CHECK_FALSE(static_cast<bool>(r));
    CHECK(p.now() == counts{.schedules = 1});
    later.function(later.argument);
    CHECK(p.now() == counts{.polls = 1, .schedules = 1, .F = 1, .L = 1, .S = 1, .T = 1});
}

// ---- cancel ------------------------------------------------------------------------------------

TEST_CASE("13 cancel: run_and_cancel") {
    job j(ready);
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1});
    outcome o = outcome::waiting;
    other_job waiter(cancel(j.handle, o));
    CHECK(o == outcome::value);
    drop(std::move(j.handle));
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1, .S = 1, .T = 1});
}

TEST_CASE("14 cancel: cancel_and_run") {
    job j(ready);
    outcome o = outcome::waiting;
    other_job waiter(cancel(j.handle, o));
    CHECK(j.now() == counts{});
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(o == outcome::waiting);
    CHECK(waiter.queued() == 1);
    CHECK(j.now() == counts{.F = 1});
    waiter.run();
    CHECK(o == outcome::nothing);
    drop(std::move(j.handle));
    CHECK(j.now() == counts{.F = 1, .S = 1});
}

TEST_CASE("15 cancel: cancel_during_run") {
    job j(ready);
    outcome o = outcome::waiting;
    std::optional<other_job> waiter;
    j.act = [&] {
        waiter.emplace(cancel(j.handle, o));
        CHECK(o == outcome::waiting);
        CHECK(waiter->queued() == 0);
        CHECK(j.now() == counts{.polls = 1});
    };
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1, .T = 1});
    CHECK(o == outcome::waiting);
    CHECK(waiter->queued() == 1);
    waiter->run();
    CHECK(o == outcome::nothing);
    drop(std::move(j.handle));
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1, .S = 1, .T = 1});
}

// ---- join --------------------------------------------------------------------------------------

TEST_CASE("16 join: drop_and_join") {
    job j(ready);
    drop(std::move(j.runner));
    CHECK(j.now() == counts{.F = 1});
    CHECK(await(j.handle) == outcome::cancelled);
    drop(std::move(j.handle));
    CHECK(j.now() == counts{.F = 1, .S = 1});
}

TEST_CASE("17 join: run_and_join") {
    job j(ready);
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1});
    CHECK(await(j.handle) == outcome::value);
    drop(std::move(j.handle));
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1, .S = 1, .T = 1});
}

TEST_CASE("18 join: detach_and_run") {
    job j(ready);
    j.handle.detach();
    j.act = [&] { CHECK(j.now() == counts{.polls = 1}); };
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1, .S = 1, .T = 1});
}

TEST_CASE("19 join: join_twice") {
    job j(ready);
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1});
    CHECK(await(j.handle) == outcome::value);
    const counts joined{.polls = 1, .F = 1, .L = 1, .S = 1, .T = 1};
    CHECK(j.now() == joined);
    CHECK(await(j.handle) == outcome::misused);
    CHECK(j.now() == joined);
    j.handle.detach();
    CHECK(j.now() == joined);
}

TEST_CASE("20 join: join_and_cancel") {
    job j(ready);
    outcome o = outcome::waiting;
    other_job waiter(join(j.handle, o));
    CHECK(o == outcome::waiting);
    CHECK(j.now() == counts{});
    drop(std::move(j.runner));
    CHECK(j.now() == counts{.F = 1});
    CHECK(o == outcome::waiting);
    CHECK(waiter.queued() == 1);
    waiter.run();
    CHECK(o == outcome::cancelled);
    drop(std::move(j.handle));
    CHECK(j.now() == counts{.F = 1, .S = 1});
}

TEST_CASE("21 join: join_and_run") {
    job j(ready);
    outcome o = outcome::waiting;
    other_job waiter(join(j.handle, o));
    CHECK(o == outcome::waiting);
    CHECK(waiter.queued() == 0);
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1});
    CHECK(o == outcome::waiting);
    CHECK(waiter.queued() == 1);
    waiter.run();
    CHECK(o == outcome::value);
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1, .S = 1, .T = 1});
}

TEST_CASE("22 join: try_join_and_run_and_join") {
    job j(ready);
    try_await(j.handle);
    CHECK(j.now() == counts{});
    outcome o = outcome::waiting;
    other_job waiter(join(j.handle, o));
    CHECK(o == outcome::waiting);
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1});
    waiter.run();
    CHECK(o == outcome::value);
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1, .S = 1, .T = 1});
}

TEST_CASE("23 join: try_join_and_cancel_and_run") {
    job j(ready);
    try_await(j.handle);
    CHECK(j.now() == counts{});
    drop(std::move(j.handle));
    CHECK(j.now() == counts{});
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.F = 1, .S = 1});
}

TEST_CASE("24 join: try_join_and_run_and_cancel") {
    job j(ready);
    try_await(j.handle);
    CHECK(j.now() == counts{});
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1});
    drop(std::move(j.handle));
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1, .S = 1, .T = 1});
}

namespace {

template <class T> task<T> give(T value) { co_return value; }

template <class T> task<> take(join_handle<T>& h, std::optional<T>& result) {
    result = co_await std::move(h);
}

template <class T> void comes_back_unchanged(T value) {
    auto [r, h] = ringlet::spawn(give<T>(value), [](runnable) { FAIL("nobody schedules it"); });
    CHECK_FALSE(std::move(r).run());
    CHECK(h.done());
    std::optional<T> result;
    other_job waiter(take(h, result));
    CHECK(result == value);
}

}  // namespace

TEST_CASE("25 join: await_output") {
    for (int i = 0; i < 10; ++i) comes_back_unchanged(i);
    for (std::size_t i = 0; i < 10; ++i) comes_back_unchanged(std::vector<int>(i, 7));
    comes_back_unchanged(std::string("foo"));
}

// ---- metadata ----------------------------------------------------------------------------------

namespace {

struct metadata {
    int scheduled = 0;
};

struct borrower {  // dies with the frame, and looks at the metadata once more
    ~borrower() { CHECK(data.scheduled == 5); }
    metadata& data;
};

task<int> until_scheduled_five_times(metadata& data) {
    borrower last{data};
    while (data.scheduled < 5) co_await ringlet::suspend([](waker w) { w.wake(); });
    co_return data.scheduled;
}

}  // namespace

TEST_CASE("26 metadata: metadata_use_case") {
    std::deque<runnable> queue;
    auto start = [&](metadata*& data) {
        auto owner = std::make_unique<metadata>();
        data = owner.get();
        auto [r, h] = ringlet::spawn(
            until_scheduled_five_times(*data), [&queue, owner = std::move(owner)](runnable x) {
                ++owner->scheduled;
                queue.push_back(std::move(x));
            });
        r.schedule();
        return std::move(h);
    };
    metadata *one = nullptr, *two = nullptr;
    join_handle<int> first = start(one), second = start(two);
    CHECK(one->scheduled == 1);
    CHECK(two->scheduled == 1);
    int runs = 0;
    for (; !queue.empty(); ++runs) {
        runnable r = std::move(queue.front());
        queue.pop_front();
        CHECK(std::move(r).run() == (runs < 8));  // the last run of each is not followed by another
    }
    CHECK(runs == 10);
    CHECK(one->scheduled == 5);
    CHECK(two->scheduled == 5);
    std::optional<int> a, b;
    other_job waiter(take(first, a)), waiter2(take(second, b));
    CHECK(a == 5);
    CHECK(b == 5);
}

// ---- panic: the body throws --------------------------------------------------------------------

TEST_CASE("27 panic: cancel_during_run") {
    job j(panicking);
    j.act = [&] {
        drop(std::move(j.handle));
        CHECK(j.now() == counts{.polls = 1});
    };
    CHECK_FALSE(
        std::move(j.runner)
            .run());  // nobody holds a handle of the cancelled job: the exception ends with it
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1, .S = 1});
}

TEST_CASE("28 panic: run_and_join") {
    job j(panicking);
    CHECK_FALSE(std::move(j.runner).run());  // it leaves through the handle, not here
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1});
    CHECK(await(j.handle) == outcome::panicked);
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1, .S = 1});
}

TEST_CASE("29 panic: try_join_and_run_and_join") {
    job j(panicking);
    try_await(j.handle);
    CHECK(j.now() == counts{});
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1});
    CHECK(await(j.handle) == outcome::panicked);
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1, .S = 1});
}

TEST_CASE("30 panic: join_during_run") {
    job j(panicking);
    outcome o = outcome::waiting;
    std::optional<other_job> waiter;
    j.act = [&] {
        waiter.emplace(join(j.handle, o));
        CHECK(o == outcome::waiting);
        CHECK(j.now() == counts{.polls = 1});
    };
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1});
    CHECK(o == outcome::waiting);
    waiter->run();
    CHECK(o == outcome::panicked);
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1, .S = 1});
}

TEST_CASE("31 panic: try_join_during_run") {
    job j(panicking);
    j.act = [&] {
        try_await(j.handle);
        CHECK(j.now() == counts{.polls = 1});
        drop(std::move(j.handle));
        CHECK(j.now() == counts{.polls = 1});
    };
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1, .S = 1});
}

TEST_CASE("32 panic: detach_during_run") {
    job j(panicking);
    j.act = [&] {
        j.handle.detach();
        CHECK(j.now() == counts{.polls = 1});
    };
    CHECK_THROWS_AS(std::move(j.runner).run(), panic);  // no other way out
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1, .S = 1});
}

// ---- ready: the body returns -------------------------------------------------------------------

TEST_CASE("33 ready: cancel_during_run") {
    job j(ready);
    j.act = [&] {
        drop(std::move(j.handle));
        CHECK(j.now() == counts{.polls = 1});
    };
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1, .S = 1, .T = 1});
}

TEST_CASE("34 ready: join_during_run") {
    job j(ready);
    outcome o = outcome::waiting;
    std::optional<other_job> waiter;
    j.act = [&] {
        waiter.emplace(join(j.handle, o));
        CHECK(o == outcome::waiting);
        CHECK(j.now() == counts{.polls = 1});
    };
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1});
    CHECK(o == outcome::waiting);
    CHECK(waiter->queued() == 1);
    waiter->run();
    CHECK(o == outcome::value);
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1, .S = 1, .T = 1});
}

TEST_CASE("35 ready: try_join_during_run") {
    job j(ready);
    j.act = [&] {
        try_await(j.handle);
        CHECK(j.now() == counts{.polls = 1});
        drop(std::move(j.handle));
        CHECK(j.now() == counts{.polls = 1});
    };
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1, .S = 1, .T = 1});
}

TEST_CASE("36 ready: detach_during_run") {
    job j(ready);
    j.act = [&] {
        j.handle.detach();
        CHECK(j.now() == counts{.polls = 1});
    };
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 1, .F = 1, .L = 1, .S = 1, .T = 1});
}

// ---- waker_panic: pending first, throws in its second run --------------------------------------

TEST_CASE("37 waker_panic: wake_during_run") {
    woken_job j(pending_then_panicking);
    j.act = [&] {
        j.old.wake();
        j.current.wake();
        CHECK(j.now() == counts{.polls = 2, .schedules = 1});
    };
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 2, .schedules = 1, .F = 1, .L = 1});
    drop(std::move(j.old));
    drop(std::move(j.current));
    CHECK(j.now() == counts{.polls = 2, .schedules = 1, .F = 1, .L = 1});
    drop(std::move(j.handle));
    CHECK(j.now() == counts{.polls = 2, .schedules = 1, .F = 1, .L = 1, .S = 1});
}

namespace {

// 38 to 40: whatever happens to the cancelled job while it throws, it ends with this run.
void ends_with_the_run(woken_job& j) {
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 2, .schedules = 1, .F = 1, .L = 1});
    drop(std::move(j.slot));
    drop(std::move(j.old));
    CHECK(j.now() == counts{.polls = 2, .schedules = 1, .F = 1, .L = 1});
    drop(std::move(j.current));
    CHECK(j.now() == counts{.polls = 2, .schedules = 1, .F = 1, .L = 1, .S = 1});
}

}  // namespace

TEST_CASE("38 waker_panic: cancel_during_run") {
    woken_job j(pending_then_panicking);
    j.act = [&] {
        drop(std::move(j.handle));
        CHECK(j.now() == counts{.polls = 2, .schedules = 1});
    };
    ends_with_the_run(j);
}

TEST_CASE("39 waker_panic: wake_and_cancel_during_run") {
    woken_job j(pending_then_panicking);
    j.act = [&] {
        j.current.wake();
        CHECK(j.now() == counts{.polls = 2, .schedules = 1});
        drop(std::move(j.handle));
        CHECK(j.now() == counts{.polls = 2, .schedules = 1});
    };
    ends_with_the_run(j);
}

TEST_CASE("40 waker_panic: cancel_and_wake_during_run") {
    woken_job j(pending_then_panicking);
    j.act = [&] {
        drop(std::move(j.handle));
        CHECK(j.now() == counts{.polls = 2, .schedules = 1});
        j.current.wake();
        CHECK(j.now() == counts{.polls = 2, .schedules = 1});
    };
    ends_with_the_run(j);
}

TEST_CASE("41 waker_panic: panic_and_poll") {
    woken_job j(pending_then_panicking);
    outcome o = outcome::waiting;
    other_job waiter(join(j.handle, o));
    CHECK(o == outcome::waiting);
    CHECK(j.now() == counts{.polls = 1, .schedules = 1});
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 2, .schedules = 1, .F = 1, .L = 1});
    CHECK(o == outcome::waiting);
    waiter.run();
    CHECK(o == outcome::panicked);
    drop(std::move(j.handle));
    drop(std::move(j.old));
    CHECK(j.now() == counts{.polls = 2, .schedules = 1, .F = 1, .L = 1});
    drop(std::move(j.current));
    CHECK(j.now() == counts{.polls = 2, .schedules = 1, .F = 1, .L = 1, .S = 1});
}

// ---- waker_pending: always pending -------------------------------------------------------------

TEST_CASE("42 waker_pending: wake_during_run") {
    woken_job j(pending);
    j.act = [&] {
        j.current.wake();
        CHECK(j.now() == counts{.polls = 2, .schedules = 1});
        j.current.wake();
        CHECK(j.now() == counts{.polls = 2, .schedules = 1});
    };
    CHECK(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 2, .schedules = 2, .queued = 1});
    CHECK(j.woken_while_running);
    j.current.wake();  // scheduled already
    CHECK(j.now() == counts{.polls = 2, .schedules = 2, .queued = 1});
    drop(j.pop());
    CHECK(j.now() == counts{.polls = 2, .schedules = 2, .F = 1, .L = 1});
}

TEST_CASE("43 waker_pending: cancel_during_run") {
    woken_job j(pending);
    j.act = [&] {
        drop(std::move(j.handle));
        CHECK(j.now() == counts{.polls = 2, .schedules = 1});
    };
    ends_with_the_run(j);
}

TEST_CASE("44 waker_pending: wake_and_cancel_during_run") {
    woken_job j(pending);
    j.act = [&] {
        j.current.wake();
        CHECK(j.now() == counts{.polls = 2, .schedules = 1});
        drop(std::move(j.handle));
        CHECK(j.now() == counts{.polls = 2, .schedules = 1});
    };
    ends_with_the_run(j);
}

TEST_CASE("45 waker_pending: cancel_and_wake_during_run") {
    woken_job j(pending);
    j.act = [&] {
        drop(std::move(j.handle));
        CHECK(j.now() == counts{.polls = 2, .schedules = 1});
        j.current.wake();
        CHECK(j.now() == counts{.polls = 2, .schedules = 1});
    };
    ends_with_the_run(j);
}

TEST_CASE("46 waker_pending: drop_last_waker") {
    job j(pending);
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 1});
    j.handle.detach();
    CHECK(j.now() == counts{.polls = 1});
    waker copy = j.slot;
    drop(std::move(j.slot));
    CHECK(j.now() == counts{.polls = 1});
    drop(std::move(copy));
    CHECK(j.now() == counts{.polls = 1, .schedules = 1, .queued = 1});
    CHECK_FALSE(j.pop().run());
    CHECK(j.now() == counts{.polls = 1, .schedules = 1, .F = 1, .L = 1, .S = 1});
}

TEST_CASE("47 waker_pending: cancel_last_task") {
    job j(pending);
    CHECK_FALSE(std::move(j.runner).run());
    drop(std::move(j.slot));
    CHECK(j.now() == counts{.polls = 1});
    drop(std::move(j.handle));
    CHECK(j.now() == counts{.polls = 1, .schedules = 1, .queued = 1});
    CHECK_FALSE(j.pop().run());
    CHECK(j.now() == counts{.polls = 1, .schedules = 1, .F = 1, .L = 1, .S = 1});
}

TEST_CASE("48 waker_pending: drop_last_task") {
    job j(pending);
    CHECK_FALSE(std::move(j.runner).run());
    drop(std::move(j.slot));
    CHECK(j.now() == counts{.polls = 1});
    j.handle.detach();
    CHECK(j.now() == counts{.polls = 1, .schedules = 1, .queued = 1});
    CHECK_FALSE(j.pop().run());
    CHECK(j.now() == counts{.polls = 1, .schedules = 1, .F = 1, .L = 1, .S = 1});
}

// ---- waker_ready: pending first, returns in its second run -------------------------------------

TEST_CASE("49 waker_ready: wake") {
    job j(pending_then_ready);
    j.handle.detach();
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 1});
    std::exchange(j.slot, waker()).wake();
    CHECK(j.now() == counts{.polls = 1, .schedules = 1, .queued = 1});
    runnable r = j.pop();
    waker w = r.waker();
    CHECK_FALSE(std::move(r).run());
    CHECK(j.now() == counts{.polls = 2, .schedules = 1, .F = 1, .L = 1, .T = 1});
    std::exchange(w, waker()).wake();
    CHECK(j.now() == counts{.polls = 2, .schedules = 1, .F = 1, .L = 1, .S = 1, .T = 1});
}

TEST_CASE("50 waker_ready: wake_by_ref") {
    job j(pending_then_ready);
    j.handle.detach();
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 1});
    const waker& by_ref = j.slot;
    by_ref.wake();
    CHECK(j.now() == counts{.polls = 1, .schedules = 1, .queued = 1});
    CHECK_FALSE(j.pop().run());
    CHECK(j.now() == counts{.polls = 2, .schedules = 1, .F = 1, .L = 1, .T = 1});
    by_ref.wake();
    CHECK(j.now() == counts{.polls = 2, .schedules = 1, .F = 1, .L = 1, .T = 1});
    drop(std::move(j.slot));
    CHECK(j.now() == counts{.polls = 2, .schedules = 1, .F = 1, .L = 1, .S = 1, .T = 1});
}

TEST_CASE("51 waker_ready: clone") {
    job j(pending_then_ready);
    j.handle.detach();
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 1});
    waker w2 = j.slot, w3 = w2, w4 = w3;
    std::exchange(w4, waker()).wake();
    CHECK(j.now() == counts{.polls = 1, .schedules = 1, .queued = 1});
    w3.wake();
    CHECK(j.now() == counts{.polls = 1, .schedules = 1, .queued = 1});
    CHECK_FALSE(j.pop().run());
    const counts done{.polls = 2, .schedules = 1, .F = 1, .L = 1, .T = 1};
    CHECK(j.now() == done);
    std::exchange(w3, waker()).wake();
    CHECK(j.now() == done);
    drop(std::move(w2));
    CHECK(j.now() == done);
    drop(std::move(j.slot));
    CHECK(j.now() == counts{.polls = 2, .schedules = 1, .F = 1, .L = 1, .S = 1, .T = 1});
}

TEST_CASE("52 waker_ready: wake_dropped") {
    job j(pending_then_ready);
    j.handle.detach();
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 1});
    waker w = std::exchange(j.slot, waker());
    w.wake();
    CHECK(j.now() == counts{.polls = 1, .schedules = 1, .queued = 1});
    drop(j.pop());
    CHECK(j.now() == counts{.polls = 1, .schedules = 1, .F = 1, .L = 1});
    w.wake();
    CHECK(j.now() == counts{.polls = 1, .schedules = 1, .F = 1, .L = 1});
    drop(std::move(w));
    CHECK(j.now() == counts{.polls = 1, .schedules = 1, .F = 1, .L = 1, .S = 1});
}

TEST_CASE("53 waker_ready: wake_completed") {
    job j(pending_then_ready);
    j.handle.detach();
    CHECK_FALSE(std::move(j.runner).run());
    CHECK(j.now() == counts{.polls = 1});
    waker w = j.slot;
    j.slot.wake();
    CHECK(j.now() == counts{.polls = 1, .schedules = 1, .queued = 1});
    CHECK_FALSE(j.pop().run());
    drop(std::move(j.slot));
    CHECK(j.now() == counts{.polls = 2, .schedules = 1, .F = 1, .L = 1, .T = 1});
    w.wake();
    CHECK(j.now() == counts{.polls = 2, .schedules = 1, .F = 1, .L = 1, .T = 1});
    drop(std::move(w));
    CHECK(j.now() == counts{.polls = 2, .schedules = 1, .F = 1, .L = 1, .S = 1, .T = 1});
}
