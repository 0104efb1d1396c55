// ringlet/executor.hpp: who runs tasks. One thread, first come first served.
//
//     #include <ringlet/executor.hpp>
//     ringlet::task<int> child(int n) { co_await ringlet::yield_now(); co_return n; }
//     ringlet::task<int> root() {
//         auto a = ringlet::spawn(child(1)), b = ringlet::spawn(child(2));  // both run from here
//         int sum = co_await std::move(a);
//         co_return sum + co_await std::move(b);
//     }
//     int main() { return ringlet::block_on(root()) - 3; }
//
// A turn of the loop:
//
//         +----------------------------------------------------------------------+
//         |                                                                      |
//         v   (1)               (2)                      (3)                     |  (4)
//     ready queue ---> run up to 64 jobs ---> look at the parker ---> append those that yielded
//         ^                  |                    |
//         +--- spawn, wake --+    what has come   |
//         |                                       |
//         +---------------------------------------+
//
//     (1) first in, first out    (2) those that become runnable meanwhile included    (3) if
//     nothing is runnable, sleep there until something is    (4) so a job that only yields cannot
//     starve I/O or timers
//
// Nothing here knows io_uring: a parker is whatever can sleep until something has come. The reactor
// is one, and timers are one in front of it. Without either an executor runs tasks that only
// compute and talk to each other.
//
// The chapters: 1 where an executor sleeps, 2 the executor, 3 what programs call, 4 waiting
// together, 5 channels. Chapters 1 and 2 are the loop; the rest is built on the jobs and groups of
// task.hpp.
#pragma once

#include "task.hpp"

#include <list>
#include <tuple>
#include <vector>

namespace ringlet {

// ---- 1. Where an executor sleeps ----------------------------------------------------------------

// What an executor asks of the world outside: to be woken when something has come. That is all that
// it knows of I/O and time. A program with a source of events of its own can put a parker of its
// own in executor::io, and end waits from it by waking wakers; the place is taken then: operations
// and timers, which look for the reactor there, are not for the tasks of that executor.
struct parker : detail::pooled {
    static constexpr std::int64_t now = 0, never = INT64_MAX;  // `until`: without blocking; no end

    // Ends the waits whose time has come, which makes their jobs runnable. Blocks until there is
    // one, but not past `until` on the monotonic clock, in nanoseconds (by more than the kernel's
    // own sleeps). False: there is nothing to wait for, now or ever (of `now` nobody asks that).
    // Runs no code of a task.
    virtual bool park(std::int64_t until) = 0;
    virtual ~parker() = default;
};

// ---- 2. The executor ----------------------------------------------------------------------------

// Leaves block_on and executor::run when the root, the task that they were called with, has not
// ended, nothing is runnable, and nothing can come any more. (While another task sleeps or reads, a
// root that waits in vain goes unnoticed: that one could still wake it.) what() lists every live
// task with the place where it waits.
struct deadlock : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// A job as the hooks see it. `id` is its own as long as it lives.
struct job_info {
    const void *id, *parent;       // parent: of a child in a group, else nullptr
    std::source_location spawned;  // the place of the spawn
    std::source_location where;    // that of the last co_await that suspended
};
// For tracers, counters and stall warnings. on_spawn: a task has been queued (a child in a group:
// it is about to run for the first time). before_run, after_run: around each run. on_finish: its
// frames are gone. Each is called with `context`, and must not throw. A program that wants to know
// who holds up the others:
//
//     ex.hooks.context = &began;
//     ex.hooks.before_run = [](void* c, const job_info&) { *static_cast<time_point*>(c) = now(); };
//     ex.hooks.after_run = [](void* c, const job_info& j) {
//         const auto took = now() - *static_cast<time_point*>(c);
//         if (took > 10ms) warn(j.where.file_name(), j.where.line());
//     };
struct executor_hooks {
    using hook = void (*)(void* context, const job_info&);
    void* context = nullptr;
    hook on_spawn = nullptr, before_run = nullptr, after_run = nullptr, on_finish = nullptr;
};

// Runs tasks, one at a time, on the thread that calls run() or try_tick(). Its end cancels all
// tasks and runs until the last has let go of what it waits for; shielded ones run to their end.
//
// Every top-level job is in the list `jobs` from its spawn to its end; a child is in its group's.
// One that can run is in one of two queues as well, linked by job::next. That is all there is: no
// map of tasks, no slot to be found again, nothing to allocate beside the jobs themselves. No
// runnables either: the executor is its jobs' scheduler itself, and calls job::run.
//
// FIFO, because it is the order in which nobody can be passed over, and the one that a reader of a
// log expects. Other runtimes run a woken task next (tokio's and Go's slot for it), which is faster
// for two tasks that talk to each other, and lets a third wait: so there is no slot here.
//
// Why at most 64 jobs between two looks at the parker: a look costs a system call if anything has
// been submitted, so it is shared by many runs; and 64 runs take some microseconds, by which I/O is
// late at most. What becomes runnable meanwhile runs before the look and not behind it: two tasks
// that wake each other would else cost a look for each message.
class executor final : detail::scheduler {
    using job = detail::job;

public:
    executor_hooks hooks;
    // What it waits with. The reactor puts itself here at the first operation, the timers at the
    // first timer; an executor that knows neither has none.
    std::unique_ptr<parker> io, clock;
    // Calls that other threads make for a task (recipes/unblock.hpp): until they are back, virtual
    // time (timer.hpp) stands still.
    unsigned outside = 0;

    // The pool of this thread is made first: an executor that is thread_local gives its frames back
    // to it.
    executor() : scheduler(&first) { frame_pool::deallocate(frame_pool::allocate(1), 1); }
    ~executor() {
        // Launder, here and below: or g++ 12 warns that `running` keeps a local variable's address.
        const detail::scoped here(running, std::launder(this));
        end(nullptr);
    }

    // The task, or another awaitable, goes to the end of the queue. Gives its handle. Throws
    // std::bad_alloc, and std::logic_error for a task that has been awaited or spawned already.
    template <detail::awaitable A>
    [[gnu::always_inline]] auto spawn(A work, detail::source place = detail::source::current()) {
        return join_handle(start(detail::as_task(std::move(work)), place));
    }
    // Runs until `root` has ended, and gives its value or rethrows its exception. The other tasks
    // stay, for the next call. The exception of a detached task leaves here too, when the root has
    // been cancelled for it and is gone; if more come until then, the first of those leaves at the
    // beginning of the next call. Throws deadlock; and std::logic_error inside a running executor.
    template <detail::awaitable A>
    detail::await_result<A> run(A root, detail::source place = detail::source::current()) {
        if (running)
            throw std::logic_error("ringlet: block_on, or executor::run, in a running executor "
                                   "would block it: co_await the task, or spawn it");
        const detail::scoped here(running, std::launder(this));
        if (late) std::rethrow_exception(std::exchange(late, nullptr));
        auto& main = start(detail::as_task(std::move(root)), place);
        const join_handle handle(main);
        try {
            drive(main);
        } catch (...) {
            end(&main);
            throw;
        }
        return main.take();
    }
    // Runs one job, if one is runnable or becomes so without blocking, and says whether. For the
    // loops of others: a program that has one already, a game or a window system, calls this from
    // there until it says false, and then sleeps in its own way: with poll(), say, on the
    // descriptor of a reactor that it has put into `io` for this (see reactor::descriptor), and
    // until the earliest deadline of the timers (`clock`);
    // tests/consumer/poll_loop.cpp does; and a few milliseconds at most while a cancelled operation
    // has not ended, which may have to be asked again. A virtual clock does not jump here. The
    // exception of a detached task leaves here; throws std::logic_error in a task of this executor.
    bool try_tick() {
        if (running == this) throw std::logic_error("ringlet: try_tick in the executor it ticks");
        const detail::scoped here(running, std::launder(this));
        if (none() || ++ticks % 64 == 0) look(false);
        return !none() && (turn(1), true);
    }
    // Has every task ended?
    bool empty() const { return jobs.empty(); }
    // Is none runnable? (That is not enough to sleep on: what has just run may have requests that a
    // look submits. Call try_tick until it says false.)
    bool idle() const { return none() && last == &later; }
    // Appends a line for each live task: where it was spawned, and what it waits for, and where.
    // (In reactor::on_submit some may be missing: those that are being asked to stop, one by one.)
    void dump(std::string& out) const { list(jobs, out, 1); }

    // The one that runs on this thread, or nullptr; or, where there is none, std::logic_error.
    static executor* current() { return running; }
    static executor& here() {
        if (running) return *running;
        throw std::logic_error("ringlet: no executor runs on this thread; start one with block_on");
    }

private:
    // Inlined where T is known, as both functions spawn() are: clang then sees the job it fills in,
    // which saves it a seventh of a spawn.
    template <class T>
    [[gnu::always_inline]] detail::job_of<T>& start(task<T>&& work, detail::source place) {
        auto& j = *new detail::job_of<T>(detail::frame_of(work).release(), *this, place, &jobs);
        *std::exchange(tail, &j.next) = &j;
        if (hooks.on_spawn) tell(hooks.on_spawn, j);
        return j;
    }
    // The two queues are linked by job::next. `tail` and `last` are where the next link goes: into
    // the last job, or, if there is none, into `first` or `later`; so to push needs no test, and
    // append is a few stores, however long the other queue is. In the queue that is popped from the
    // last job's link is nullptr: whoever wakes a job sees to that, and append.
    //
    //     first --> job --> job --> nullptr          tail --> the last job's next
    //
    // Into `later` go those that were woken while they ran; the others put themselves into the
    // queue, by its tail.
    void schedule(job& j, schedule_info) noexcept override { *std::exchange(last, &j.next) = &j; }
    bool none() const { return tail == &first; }
    void append() {
        if (last == &later) return;
        *last = nullptr;
        *tail = later;
        tail = std::exchange(last, &later);
    }
    // The loop: runs up to `limit` jobs, and none after the root has returned. A job that yields
    // goes to `later`; one that is woken goes to the queue, and is run in this turn if it has room.
    // What a yield costs is here and in job::run: 24 instructions, beside the coroutine's own 19. A
    // job may tick another executor: so the current job is set back at the end. There is a loop for
    // those who watch and one for the others, which so has no test for it in each run. (What either
    // does with a job was a lambda that the loop was given: in larger programs g++ called it, which
    // was a quarter of a yield's time.)
    [[gnu::always_inline]] void turn(int limit, const job* root = nullptr) {
        const detail::scoped restores(job::current, job::current);
        if (hooks.on_spawn || hooks.before_run || hooks.after_run || hooks.on_finish)
            run_some<true>(limit, root);
        else run_some<false>(limit, root);
    }
    template <bool Watched> [[gnu::always_inline]] void run_some(int limit, const job* root) {
        for (; limit && first; --limit) {
            job& j = *(job::current = first);
            if (!(first = j.next)) [[likely]]
                tail = &first;
            const auto requeue = [&] { schedule(j, {}); };
            const auto returned = [&] { limit = root == &j && j.is(j.ended) ? 1 : limit; };
            if constexpr (Watched) run_hooked(j, requeue, returned);
            else j.run(requeue, returned);
        }
    }
    // A run for those who watch. Unset hooks cost a test in each turn and one in each spawn. The
    // job is kept until the last of them has been told. The children of a group, which are not
    // spawned here, are told of at their first run.
    void run_hooked(job& j, auto requeue, auto returned) {
        const waker stays(j, 0);
        std::exception_ptr error;
        if (j.group && !j.runs) tell(hooks.on_spawn, j);
        tell(hooks.before_run, j);
        try {
            j.run(requeue, returned);
        } catch (...) { error = std::current_exception(); }
        tell(hooks.after_run, j);
        if (j.is(job::ended)) tell(hooks.on_finish, j);
        if (error) std::rethrow_exception(error);
    }
    void tell(executor_hooks::hook hook, const job& j) const {
        if (hook) hook(hooks.context, {&j, j.parent(), j.origin(), j.awaits_at()});
    }
    // The clock is asked before the ring because it stands in front of it: it lets the ring sleep,
    // but not past the next deadline. An executor with neither can only be idle for good.
    //
    // Looks at what has come; sleeps if nothing is runnable. Only then do those that yielded
    // follow: what came by I/O or time is before them. False: nothing is runnable, nor ever will
    // be.
    bool look(bool may_sleep = true) {
        parker* const p = clock ? clock.get() : io.get();
        const bool hope = p && p->park(may_sleep && idle() ? parker::never : parker::now);
        append();
        return hope || !idle();
    }
    // If the parker says that nothing will ever come while the root has not ended, the program is
    // stuck: two tasks that join each other, a receive from a channel that nobody will send to. A
    // loop that slept on would hang without a word, so this one throws, with the list of who waits
    // where.
    void drive(const job& root) {
        while (turn(64, &root), !root.is(job::ended)) {
            if (look()) continue;
            std::string text = "ringlet: deadlock, nothing can wake the root task. Live tasks:\n";
            dump(text);
            throw deadlock(text);
        }
    }
    // The end of all jobs. Everybody is asked to stop, and the loop goes on until all have: a read
    // in flight keeps its frame until the kernel has let go of the buffer, a shielded task runs to
    // its end, a detached one that it spawned meanwhile is cancelled in the next round, before
    // anybody sleeps. Then the members go: the clock, and the ring.
    //
    // Or that of one job, the root of a run that ends with an exception: the others go on
    // meanwhile, and if they fail as well the next run says so. At the executor's end nobody is
    // left to be told.
    void end(job* only) {
        while (only ? !only->is(job::ended) : !empty()) {
            if (only) only->cancel();
            else jobs.each<job>([](job& j) { j.cancel(); });
            const bool asked = none();  // nothing to run: all have been asked, and wait
            try {
                turn(only ? 64 : INT32_MAX);
                if ((only ? only->is(job::ended) : !asked) || look()) continue;
            } catch (...) {  // a task's, or look's: then nothing will come
                if (only && !late) late = std::current_exception();
                append();  // which look has not done
                if (!asked || !idle()) continue;
            }
            give_up(only ? only : static_cast<job*>(jobs.after));
        }
    }
    // Nothing can come any more: what is left waits in vain, under a shield, say. The innermost job
    // is cancelled, which a shield does not keep off; one that has been cancelled is ended.
    void give_up(job* stuck) {
        while (const detail::ring* inner = stuck->children())
            stuck = static_cast<job*>(inner->after);
        if (!stuck->cancelled) return stuck->cancel();
        tell(hooks.on_finish, *stuck);
        stuck->abandon();
    }
    static void list(const detail::ring& jobs, std::string& out, std::size_t depth) {
        const auto line = [&](const job& j) {  // in the loop itself g++ makes spawns slower
            out.append(2 * depth, ' ').append("task spawned at " + detail::text_of(j.origin()));
            if (j.waiting) out += " waits for " + j.waiting->describe();
            else if (j.is(job::suspended)) out += " waits for a waker";
            else out += j.is(job::scheduled) ? " is runnable" : " runs";
            out += " at " + detail::text_of(j.awaits_at());
            for (const detail::section* s = j.inner; s; s = s->outer) {
                const auto place = j.place_of(s->where, s->outer);
                if (!s->over()) out += ", in " + s->describe() + " at " + detail::text_of(place);
            }
            out += '\n';
            if (j.children()) list(*j.children(), out, depth + 1);
        };
        for (auto* j = jobs.after; j != &jobs; j = j->after) line(static_cast<const job&>(*j));
    }
    job *first = nullptr, *later = nullptr, **last = &later;
    detail::ring jobs;
    std::exception_ptr late;  // of a detached task, for the next run
    unsigned ticks = 0;
    inline static constinit thread_local executor* running = nullptr;
};

// ---- 3. What programs call ----------------------------------------------------------------------

// Where everything begins: main, a test, a thread of its own. Each call is a world of its own, with
// its executor, its queue, and a ring if a task needs one; nothing of it is left afterwards.
//
// Runs the root task, and what it spawns, on an executor of its own until the root has ended; gives
// the root's value or rethrows its exception. What is still alive then is cancelled. The exception
// of a detached task leaves here too, and cancels the root. Throws deadlock, and std::logic_error
// inside a running executor.
template <detail::awaitable A>
decltype(auto) block_on(A root, detail::source place = detail::source::current()) {
    return executor().run(std::move(root), place);
}

// Starts a task, at the end of the queue of the executor that runs here, and gives its handle:
// dropping that cancels the task, detach() lets it go on. Neither waits for it: its frame goes
// later, in a run of its own. So it should borrow nothing from this frame; children that do are for
// scope or when_all. Throws std::logic_error where no executor runs, and what executor::spawn
// throws.
template <detail::awaitable A>
[[gnu::always_inline]] inline auto spawn(A work, detail::source place = detail::source::current()) {
    return executor::here().spawn(std::move(work), place);
}
// Spawns f(args...), a task, with copies of f and of args in its frame: the safe way to spawn a
// lambda, whose captures would otherwise be gone at its first suspension. With arguments the place
// of the spawn is that of the running task's last co_await: they leave no room for a default. (With
// g++ 12 a default argument of f must not be an aggregate: it would be destroyed twice.)
template <detail::callable F> auto spawn(F f, detail::source place = detail::source::current()) {
    return spawn(detail::call(std::move(f)), place);
}
template <class A, class... B, detail::callable<A, B...> F> auto spawn(F f, A a, B... b) {
    return spawn(detail::call(std::move(f), std::move(a), std::move(b)...), detail::job::last_at());
}

// For a task that computes for long: a yield every few hundred microseconds keeps the others alive.
// Lets everything else that is runnable run first, and the executor look at I/O and timers.
//
// Not a wait, and no waker: the job says itself that it has been woken while it ran, which is all
// that a yield is. The run loop tests for that first, since a yield is the cheapest thing a task
// can do.
struct [[nodiscard]] yield_now : std::suspend_always {
    [[nodiscard]] yield_now() {}
    void await_suspend(auto h, detail::source place = detail::source::current()) const {
        detail::job& j = detail::awaiting_job(h);
        j.point = h, j.where = place;
        j.phase |= j.scheduled | j.woken;
    }
};

// ---- 4. Waiting together ------------------------------------------------------------------------

// when_all, when_any and scope are groups (task.hpp). The first two are one function: its group's
// body makes a job of each awaitable, and gives a tuple or a list of what the jobs gave.
//
//     when_all(a(), b())    add(a), add(b); both run; the group goes on when the last has ended
//     b throws              stop(): a is cancelled; its frames gone, b's exception is thrown
//     the owner is          stop(): both are cancelled; when the last is gone, the owner's
//     cancelled             frames go too, without having been resumed
//
// No child outlives the await, in any of these: what it borrows from the awaiting frame is there as
// long as it runs (Nathaniel J. Smith's structured concurrency; his nursery is `scope` here).

// Starts children in a scope, for as long as that lasts. Copyable; children may have it too, and
// spawn their siblings.
class scope_ref {
    detail::group* group;

public:
    explicit scope_ref(detail::group& g) : group(&g) {}
    // The child goes to the end of the queue; its value is dropped. Throws what executor::spawn
    // throws.
    template <detail::awaitable A>
    void spawn(A work, detail::source place = detail::source::current()) const {
        auto& j = *group->add(detail::as_task(std::move(work))).release();
        j.detach();
        // Before the scope has begun, start() does it.
        if (group->owner->waiting == group) group->begin(j, place);
    }
};

namespace detail {

// What f gives for each: a tuple for a tuple, a vector for a vector.
template <class... X> auto each(std::tuple<X...>& all, auto f) {
    return std::apply([&](auto&... x) { return std::tuple<decltype(f(x))...>{f(x)...}; }, all);
}
template <class X> auto each(std::vector<X>& all, auto f) {
    std::vector<std::decay_t<decltype(f(all[0]))>> out;
    for (auto& x : all) out.push_back(f(x));
    return out;
}

// A job for each, and then a part for each job: an optional for when_any, a value for when_all. (A
// vector holds no references: so there a part that is one is what who tries gets, a pointer.)
template <bool Any> auto join(auto all) {
    auto body = [all = std::move(all)](group& g) mutable {
        return each(all, [&](auto& one) { return g.add(as_task(std::move(one))); });
    };
    [[maybe_unused]] constexpr bool listed = requires { all.size(); };
    const auto part = []<class T>(owned<T>& j) -> decltype(auto) {
        const std::bool_constant<Any || (listed && std::is_reference_v<T>)> tries;
        if constexpr (!std::is_void_v<T>) return j->take(tries);
        else if constexpr (Any) return j->take(tries) ? std::optional(nothing()) : std::nullopt;
        else return j->take(), nothing();
    };
    const auto give = [=](auto& jobs) { return each(jobs, part); };
    return led(Any ? "when_any" : "when_all", Any ? group::any : group::all, std::move(body), give);
}

}  // namespace detail

// Runs the tasks side by side, and gives a tuple of their values (an empty struct for a task<>). At
// the first exception the others are cancelled; it is rethrown when they have ended. Takes tasks or
// other awaitables, or a vector of them, which gives a vector (of pointers, where they give
// references). Costs a job for each.
template <detail::awaitable... A> auto when_all(A... work) {
    return detail::join<false>(std::tuple<A...>(std::move(work)...));
}
template <detail::awaitable A> auto when_all(std::vector<A> work) {
    return detail::join<false>(std::move(work));
}
// The same until one has ended, well or not: then the others are cancelled, and waited for. Gives
// optionals (pointers, where they give references): whoever ended well has a value, which may be
// more than one. If nobody has, the first exception is rethrown: so one that fails first ends the
// race. Throws std::invalid_argument for an empty vector.
template <detail::awaitable... A> auto when_any(A... work) requires(sizeof...(A) > 0) {
    return detail::join<true>(std::tuple<A...>(std::move(work)...));
}
template <detail::awaitable A> auto when_any(std::vector<A> work) {
    if (work.empty()) throw std::invalid_argument("ringlet: when_any of no task");
    return detail::join<true>(std::move(work));
}

//     std::vector<page> pages(urls.size());
//     auto children = [&](ringlet::scope_ref s) -> ringlet::task<> {
//         for (std::size_t i = 0; i < urls.size(); ++i) s.spawn(get(urls[i], pages[i]));
//         co_return;
//     };
//     co_await ringlet::scope(children);  // here all pages are there, or an exception is thrown
//
// Runs the task f(scope_ref), and gives its value when it and all children that it spawned in the
// scope have ended: so they may borrow what lives in this frame. The first exception cancels the
// others, and is rethrown when they have ended.
template <detail::callable<scope_ref> F> auto scope(F f) {
    auto body = [f = std::move(f), s = std::optional<scope_ref>()](detail::group& g) mutable {
        return g.add(detail::as_task(f(std::move(s.emplace(g)))));  // kept: f may refer to it
    };
    return detail::led("scope", detail::group::all, std::move(body), detail::value_of);
}

// ---- 5. Channels --------------------------------------------------------------------------------

// Tasks of one executor may share variables: only one runs at a time, and nobody else runs between
// two awaits. What they cannot do with a variable is wait until it has changed; a channel is for
// that. A mutex and a semaphore are channels too: examples/recipes/mutex.hpp shows how.
//
// What a send on a closed channel throws.
struct channel_closed : std::exception {
    const char* what() const noexcept override { return "ringlet: the channel is closed"; }
};

//     ringlet::channel<std::string> lines(16);
//     co_await lines.send("one");                  // waits while 16 are in it
//     while (auto line = lines.try_recv()) ...     // without waiting
//     auto line = co_await lines.recv();           // nullopt after close(), when all are taken
//
// A value's way through it:
//
//                (1) a receiver waits
//     send ------------------------------------------------> recv
//       |  (2) there is room                  (4)             ^
//       +------------------------> items ---------------------+
//       |  (3) there is none                  ^
//       +------------------------> senders ---+
//                                   (5) one item was taken
//
//     (1) put into the receiver's frame, which then has a result: no cancel takes it away again
//     (2) pass; the item is a block of the pool    (3) the value waits in the sender's frame,
//     and goes with it    (4) try_recv    (5) the first that waits moves up, and its send is over
//
// A queue between tasks: at most `capacity` items wait in it, then senders wait; with capacity 0
// each waits for the other. First in, first out, for items and for those who wait. A cancelled recv
// loses nothing: its item was handed over, or is still there; a cancelled send that still waits
// takes its value along. Who waits when the channel is destroyed goes on as after close(); a sender
// gets channel_closed.
template <class T> class channel {
public:
    explicit channel(std::size_t n) : capacity(n) {}
    ~channel() { close(), detail::ring(std::move(senders)).each<sending>(dismiss); }

    // Waits for room. Throws channel_closed. (With g++ 12 no aggregate is made in the call, as in
    // `co_await c.send(message{1, text})`: it would be destroyed twice. Put it in a variable.)
    auto send(T value) { return sending(*this, std::move(value)); }
    // Waits for an item. nullopt: the channel is closed, and empty.
    auto recv() { return receiving(*this); }
    // Without waiting. False: there is no room, and `value` is untouched. Throws channel_closed.
    template <class U = T> [[gnu::always_inline]] bool try_send(U&& value) {
        return pass(std::forward<U>(value)) || (closed ? throw channel_closed() : false);
    }
    // The first item, without waiting. nullopt: there is none now, closed or not.
    [[gnu::always_inline]] std::optional<T> try_recv() {
        // Who sends waits only where it is full: so there are items then, or there is no room ever.
        return items.size() || !capacity ? take() : std::nullopt;
    }
    // Nothing more can be sent; what was sent before can be received, that of senders that wait now
    // as well: so a receiver that wants no more takes what is left, or destroys the channel.
    // Receivers that wait get nullopt.
    void close() { closed = true, detail::ring(std::move(receivers)).each<receiving>(dismiss); }

private:
    // A wait in one of the two lines. One that is over at once costs a unit of the job's budget;
    // where none is left the job yields, with its result: so a loop over a channel that is never
    // empty lets the others run behind every 128th item. Without budget, a job that is to stop
    // begins nothing, and takes nothing. What is inlined by order here saves clang a ninth of a
    // round trip.
    template <bool Sends>
    struct [[nodiscard]] in_line final : detail::waits<in_line<Sends>>, detail::linked {
        static_assert(alignof(T) <= 16, "ringlet: an item lies in frames; send a std::unique_ptr");
        channel& of;
        std::conditional_t<Sends, T, std::optional<T>> value;
        int over;  // from await_ready on. 1: it is; 2: and has been refused: the channel is closed
        explicit in_line(channel& c, auto&&... v) : of(c), value(std::move(v)...) {}
        in_line(in_line&& w) : in_line(w.of, std::move(w.value)) {}
        [[gnu::always_inline]] bool await_ready() {
            if (!detail::job::current->spend()) return pass_late(), false;
            return (over = pass()) != 0;
        }
        [[gnu::cold]] void pass_late() { over = detail::job::current->stopping ? 0 : pass(); }
        [[gnu::always_inline]] auto pass() {
            if constexpr (Sends) return of.pass(std::move(value)) ? 1 : 2 * of.closed;
            else if (auto v = of.try_recv()) return void(value.emplace(std::move(*v))), true;
            else return of.closed && (value.reset(), true);  // that of an await before
        }
        bool insists() const { return over; }
        void start(detail::job& j) {
            if (!over) return join(Sends ? of.senders : of.receivers);
            j.spend();  // from the next run's, which it is over in
            j.fulfil();
        }
        bool interrupt(detail::job&) noexcept override { return unlink(), true; }
        void leave(unsigned result) {  // which may run the job on the spot
            if constexpr (!Sends) result ? void() : value.reset();
            unlink(), this->owner->resume_for(result);
        }
        auto await_resume() {
            if constexpr (!Sends) return std::move(value);
            else if (over != 1) throw channel_closed();
        }
        std::string describe() const override { return Sends ? "send" : "recv"; }
    };
    using sending = in_line<true>;
    using receiving = in_line<false>;
    // Into the frame of who waits for it, or into the items. (Once it is closed no receiver waits.)
    template <class U> [[gnu::always_inline]] bool pass(U&& value) {
        if (receivers.empty()) {
            if (closed || items.size() >= capacity) return false;
            return items.push_back(std::forward<U>(value)), true;
        }
        auto& r = static_cast<receiving&>(*receivers.after);
        r.value.emplace(std::forward<U>(value));
        return r.leave(detail::job::fulfilled), true;
    }
    // The first item. Not inlined: most who come find none.
    [[gnu::noinline]] std::optional<T> take() {
        if (!senders.empty()) return take_and_move_up(static_cast<sending&>(*senders.after));
        if (items.empty()) return std::nullopt;
        std::optional<T> value(std::move(items.front()));
        items.pop_front();
        return value;
    }
    // And the first sender that waits moves up. It is told before anything is done with the item,
    // by which time neither is a concern of the channel: the sender may run on the spot, and take
    // items, or end the channel; and an item that ends may do as much.
    std::optional<T> take_and_move_up(sending& s) {
        items.push_back(std::move(s.value));
        decltype(items) taken;
        taken.splice(taken.begin(), items, items.begin());
        s.over = 1, s.leave(detail::job::fulfilled);
        return std::move(taken.front());
    }
    // May run a job on the spot, which may end the channel: so each is called of another ring.
    static constexpr auto dismiss = [](auto& w) { w.leave(0); };

    std::size_t capacity;
    bool closed = false;
    std::list<T, detail::pool_allocator<T>> items;
    detail::ring senders, receivers;
};

}  // namespace ringlet
