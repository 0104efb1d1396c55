// ringlet/executor.hpp: who runs tasks. One thread, one queue, first come first served.
//
//     #include <ringlet/executor.hpp>
//     ringlet::task<int> child(int n) { co_await ringlet::yield_now(); co_return n; }
//     ringlet::task<int> root() {
//         auto a = ringlet::spawn(child(1)), b = ringlet::spawn(child(2));  // both run from here on
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
//     (1) first in, first out    (2) those that become runnable meanwhile included    (3) if nothing
//     is runnable, sleep there until something is    (4) so a job that only yields cannot starve I/O
//     or timers
//
// Nothing here knows io_uring: a parker is whatever can sleep until something has come. The reactor
// is one, and timers are one in front of it. Without either an executor runs tasks that only compute
// and talk to each other.
#pragma once

#include "task.hpp"

#include <tuple>

namespace ringlet {

// ---- 1. Where an executor sleeps ----------------------------------------------------------------

struct parker : detail::pooled {
    static constexpr std::int64_t now = 0, never = INT64_MAX;

    // Ends the waits whose time has come, which makes their jobs runnable. Blocks until there is
    // one, but not past `until` on the monotonic clock, in nanoseconds. False: there is nothing to
    // wait for, now or ever. Runs no code of a task.
    virtual bool park(std::int64_t until) = 0;
    virtual ~parker() = default;
};

// ---- 2. The executor ----------------------------------------------------------------------------

// Leaves block_on and executor::run when nothing can ever wake the root. what() lists every live
// task with the place where it waits.
struct deadlock : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// A job as the hooks see it. `id` is its own as long as it lives.
struct job_info {
    const void *id, *parent;  // parent: of a child in a group, else nullptr
    source spawned, where;    // the place of the spawn, and of the last co_await that suspended
    explicit job_info(const detail::job& j)
        : id(&j), parent(j.parent), spawned(j.spawned), where(j.where) {}
};
// For tracers, counters and stall warnings: each is called with `context`, and must not throw.
struct executor_hooks {
    using hook = void (*)(void* context, const job_info&);
    void* context = nullptr;
    hook on_spawn = nullptr, before_run = nullptr, after_run = nullptr, on_finish = nullptr;
};

namespace detail {

// First in, first out, linked by job::next; the last job's is written when its turn comes.
struct run_queue {
    job *first, **end = &first;
    bool empty() const { return end == &first; }
    void push(job& j) {
        *end = &j;
        end = &j.next;
    }
    void append(run_queue& other) {
        if (other.empty()) return;
        *end = other.first;
        end = std::exchange(other.end, &other.first);
    }
};
// All jobs of a queue, taken at once: so the next one is at hand without a look into the queue,
// which saves a tenth of a yield. Those that are not popped go back to the queue's front.
struct batch {
    run_queue& from;
    job *next = nullptr, **end = nullptr;
    explicit batch(run_queue& q) : from(q) {}
    batch(batch&&) = delete;
    ~batch() {
        if (!next) return;
        *end = from.first;
        from.first = next;
        if (from.empty()) from.end = end;
    }
    bool refill() {
        if (from.empty()) return false;
        next = from.first;
        end = std::exchange(from.end, &from.first);
        *end = nullptr;
        return true;
    }
    job& pop() { return *std::exchange(next, next->next); }
};

// Calls f inside the task: f and its arguments live in the frame, as long as the task does.
template <class F, class... A>
task<await_result<std::invoke_result_t<F&, A...>>> call(F f, A... args) {
    co_return co_await f(std::move(args)...);
}

}  // namespace detail

// Runs tasks, one at a time, on the thread that calls run() or try_tick(). Its end cancels all
// tasks and runs until the last has let go of what it waits for; shielded ones run to their end.
//
// Every top-level job is in the list `jobs` from its spawn to its end; a child is in its group's. One
// that can run is in one of two queues as well, linked by job::next. That is all there is: no map of
// tasks, no slot to be found again, nothing to allocate beside the jobs themselves.
class executor {
public:
    executor_hooks hooks;
    // What it waits with. The reactor puts itself here at the first operation, the timers at the
    // first timer; an executor that knows neither has none.
    std::unique_ptr<parker> io, clock;
    // Calls that other threads make for a task: until they are back, virtual time stands still.
    unsigned outside = 0;

    executor() = default;
    executor(executor&&) = delete;
    ~executor();

    // The task runs at the next turn. Throws std::bad_alloc.
    template <class T>
    [[gnu::always_inline]] join_handle<T> spawn(task<T> work, source place = source::current()) {
        return join_handle<T>(start(work, place));
    }
    // Runs until `root` has ended, and gives its value or rethrows its exception. The other tasks
    // stay, for the next call. Throws deadlock; and std::logic_error inside a running executor.
    template <class T> T run(task<T> root, source place = source::current());
    // Runs one job, if one is runnable or becomes so without blocking. For the loops of others.
    bool try_tick();
    // Has every task ended?
    bool empty() const { return jobs.empty(); }
    // Is none runnable?
    bool idle() const { return ready.empty() && later.empty(); }
    // Appends a line for each live task: where it was spawned, and what it waits for, and where.
    void dump(std::string& out) const;

    // The one that runs on this thread, or nullptr.
    static executor* current() { return running; }

private:
    // The job's schedule function is this executor's queue. Inlined where T is known: the compiler
    // then sees the job it fills in, which saves a tenth of a spawn.
    template <class T>
    [[gnu::always_inline]] detail::job_of<T>& start(task<T>& work, source place) {
        const auto enqueue = [this](detail::job& j, schedule_info info) {
            (info.woken_while_running ? later : ready).push(j);
        };
        using own_job = detail::scheduled_job<T, decltype(enqueue)>;
        auto& job = *new own_job(detail::job_of<T>::frame_of(work), enqueue, place, jobs);
        ready.push(job);
        if (hooks.on_spawn) tell(hooks.on_spawn, job);
        return job;
    }
    // The loop: runs up to `limit` jobs, and none after the root has ended. A job that yields goes
    // to `later`; one that is woken goes to `ready`, and is run in this turn if there is room. All
    // that a yield costs is here and in job::run: 24 instructions, beside the coroutine's own 19.
    [[gnu::always_inline]] void turn(int limit, const detail::job* root = nullptr) {
        const detail::scoped restores(detail::job::current, detail::job::current);
        const bool hooked = hooks.on_spawn || hooks.before_run || hooks.after_run
            || hooks.on_finish;
        detail::batch some(ready);
        for (; limit && (some.next || some.refill()); --limit) {
            detail::job& j = *(detail::job::current = &some.pop());
            const auto requeue = [&] { later.push(j); };
            const auto unless_idle = [&] {
                if (root && root->is(detail::job::ended)) limit = 1;
            };
            if (hooked) run_hooked(j, requeue, unless_idle);
            else j.run(requeue, unless_idle);
        }
    }
    // The same for those who watch. The children of a group are told at their first run.
    void run_hooked(detail::job& j, auto requeue, auto unless_idle) {
        const waker stays(j, 0);
        std::exception_ptr error;
        if (j.parent && !j.runs) tell(hooks.on_spawn, j);
        tell(hooks.before_run, j);
        try {
            j.run(requeue, unless_idle);
        } catch (...) { error = std::current_exception(); }
        tell(hooks.after_run, j);
        if (j.is(detail::job::ended)) tell(hooks.on_finish, j);
        if (error) std::rethrow_exception(error);
    }
    void tell(executor_hooks::hook hook, const detail::job& j) const {
        if (hook) hook(hooks.context, job_info(j));
    }
    // Looks at what has come; sleeps if nothing is runnable. Only then do those that yielded follow:
    // what came by I/O or time is before them. False: nothing is runnable, nor ever will be.
    bool look(bool may_sleep = true) {
        parker* const p = clock ? clock.get() : io.get();
        const bool hope = p && p->park(may_sleep && idle() ? parker::never : parker::now);
        ready.append(later);
        return hope || !idle();
    }
    void drive(const detail::job& root);
    void give_up();
    static void list(const detail::ring& jobs, std::string& out, std::size_t depth);
    // Or g++ 12 warns that `running` keeps the address of block_on's local variable.
    executor* self() { return std::launder(this); }

    detail::run_queue ready, later;  // later: those that were woken while they ran
    detail::ring jobs;
    unsigned ticks = 0;
    inline static constinit thread_local executor* running = nullptr;
};

template <class T> T executor::run(task<T> root, source place) {
    if (running)
        throw std::logic_error("ringlet: block_on, or executor::run, in a running executor would "
                               "block it: co_await the task, or spawn it");
    const detail::scoped here(running, self());
    auto& job = start(root, place);
    const join_handle<T> handle(job);
    drive(job);
    return job.take();
}
inline void executor::drive(const detail::job& root) {
    while (turn(64, &root), !root.is(detail::job::ended)) {
        if (look()) continue;
        std::string text = "ringlet: deadlock, nothing can wake the root task. Live tasks:\n";
        dump(text);
        throw deadlock(text);
    }
}

inline bool executor::try_tick() {
    if (running == this) throw std::logic_error("ringlet: try_tick in the executor that it ticks");
    const detail::scoped here(running, self());
    if (ready.empty() || ++ticks % 64 == 0) look(false);
    const bool any = !ready.empty();
    turn(1);
    return any;
}

inline executor::~executor() {
    const detail::scoped here(running, self());
    while (!empty()) {
        for (detail::ring* r = jobs.after; r != &jobs; r = r->after)
            static_cast<detail::job*>(r)->cancel();
        try {
            while (!ready.empty()) turn(64);
        } catch (...) { continue; }  // of a task; nobody is left to take it
        bool hope = false;
        try {
            hope = empty() || look();
        } catch (...) {}  // the kernel has given up on us
        if (!hope) give_up();
    }
}
// Nothing can come any more: what is left waits in vain, under a shield, say. The innermost job
// is cancelled, which a shield does not keep off; one that has been cancelled is ended.
inline void executor::give_up() {
    auto* stuck = static_cast<detail::job*>(jobs.after);
    while (const detail::ring* inner = stuck->waiting ? stuck->waiting->children() : nullptr)
        stuck = static_cast<detail::job*>(inner->after);
    if (!stuck->cancelled) return stuck->cancel();
    tell(hooks.on_finish, *stuck);
    stuck->abandon();
}

inline void executor::list(const detail::ring& jobs, std::string& out, std::size_t depth) {
    for (detail::ring* r = jobs.after; r != &jobs; r = r->after) {
        const auto& j = static_cast<const detail::job&>(*r);
        out.append(2 * depth, ' ').append("task spawned at ");
        detail::append_place(out, j.spawned);
        if (j.waiting) j.waiting->describe(out += " waits for ");
        else if (j.is(detail::job::suspended)) out += " waits for a waker";
        else out += j.is(detail::job::scheduled) ? " is runnable" : " runs";
        out += " at ";
        detail::append_place(out, j.where);
        out += '\n';
        const detail::ring* const children = j.waiting ? j.waiting->children() : nullptr;
        if (children) list(*children, out, depth + 1);
    }
}
inline void executor::dump(std::string& out) const { list(jobs, out, 1); }

// ---- 3. What programs call ----------------------------------------------------------------------

namespace detail {

inline executor& running_executor() {
    if (!executor::current())
        throw std::logic_error("ringlet: no executor runs on this thread; start one with block_on");
    return *executor::current();
}

// The place of the running task's last co_await: a pack of arguments leaves no room for a default.
inline source last_place() { return job::current ? job::current->where : source(); }

struct yield_awaiter {
    yield_awaiter() {}
    bool await_ready() const noexcept { return false; }
    template <class P>
    void await_suspend(std::coroutine_handle<P> h, source place = source::current()) const {
        job& j = awaiting_job<P>();
        j.where = place;
        j.leave_at(h, job::scheduled | job::woken);
    }
    void await_resume() const noexcept {}
};

}  // namespace detail

// Runs the root task, and what it spawns, on an executor of its own until the root has ended; gives
// the root's value or rethrows its exception. What is still alive then is cancelled. Throws
// deadlock, and std::logic_error inside a running executor.
template <detail::awaitable A> decltype(auto) block_on(A root, source place = source::current()) {
    executor ex;
    return ex.run(detail::as_task(std::move(root)), place);
}

// Starts a task on the executor of the running one, at its next turn. Dropping the handle cancels
// it; detach() lets it go on. Throws std::logic_error where no executor runs.
template <class T>
[[gnu::always_inline]] inline join_handle<T> spawn(task<T> work, source place = source::current()) {
    return detail::running_executor().spawn(std::move(work), place);
}
template <detail::awaitable A> auto spawn(A work, source place = source::current()) {
    return spawn(detail::as_task(std::move(work)), place);
}
// Spawns f(args...), a task, with copies of f and of args in its frame: the safe way to spawn a
// lambda, whose captures would otherwise be gone at its first suspension.
template <class F, class... A>
requires std::is_invocable_v<F&, A...>
auto spawn(F f, A... args) {
    return spawn(detail::call(std::move(f), std::move(args)...), detail::last_place());
}

// Lets everything else that is runnable run first, and the executor look at I/O and timers.
inline auto yield_now() { return detail::yield_awaiter(); }

// ---- 4. Waiting together ------------------------------------------------------------------------

// What a task<> gives where a value is expected.
struct nothing {};

class scope_ref;

namespace detail {

// when_all, when_any and scope are groups (task.hpp) that differ in what they hold: tasks before the
// await, jobs after it, and at the end a tuple or a list of what the jobs gave.

// What one child gives to when_any, an optional, or to when_all.
template <bool Any, class T> decltype(auto) part_of(job_of<T>& j) {
    if constexpr (!std::is_void_v<T>) {
        if constexpr (Any) return j.attempt();
        else return j.take();
    } else if constexpr (Any) return j.attempt() ? std::optional(nothing()) : std::nullopt;
    else return j.take(), nothing();
}

template <bool Any, class... T> struct joined final : group {
    std::tuple<task<T>...> work;
    std::tuple<owned<T>...> jobs;
    explicit joined(task<T>... t)
        : group(Any ? "when_any" : "when_all", Any ? any : all), work(std::move(t)...) {}
    bool await_ready() {
        std::apply([this](auto&... w) { jobs = {owned<T>(&add(w))...}; }, work);
        return sizeof...(T) == 0;
    }
    auto await_resume() {
        check();
        return std::apply(
            [](auto&... j) {
                return std::tuple<decltype(part_of<Any>(*j))...>{part_of<Any>(*j)...};
            },
            jobs);
    }
};
template <bool Any, template <class...> class List, class T> struct joined_list final : group {
    List<task<T>> work;
    List<owned<T>> jobs;
    explicit joined_list(List<task<T>> l)
        : group(Any ? "when_any" : "when_all", Any ? any : all), work(std::move(l)) {}
    bool await_ready() {
        if (Any && work.empty()) throw std::invalid_argument("ringlet: when_any of no task");
        for (auto& w : work) jobs.push_back(owned<T>(&add(w)));
        return work.empty();
    }
    auto await_resume() {
        check();
        constexpr bool points = Any || std::is_reference_v<T>;  // a list holds no references
        List<decltype(part_of<points>(*jobs.front()))> parts;
        for (auto& j : jobs) parts.push_back(part_of<points>(*j));
        return parts;
    }
};

template <class F> struct scoping final : group {
    using T = await_result<std::invoke_result_t<F&, scope_ref>>;
    F body;
    owned<T> main;
    explicit scoping(F f) : group("scope", all), body(std::move(f)) {}
    bool await_ready() {
        auto work = as_task(body(scope_ref(*this)));
        return main.reset(&add(work)), false;
    }
    T await_resume() { return check(), main->take(); }
    void finished(job& j) noexcept override {
        const bool child = &j != main.get();
        group::finished(j);
        if (child) j.detach();
    }
};

}  // namespace detail

// Runs the tasks side by side, and gives a tuple of their values, `nothing` for a task<>. The first
// exception cancels the others, waits for them, and is rethrown. Takes tasks or other awaitables,
// or a vector of tasks, which gives a vector. Costs a job for each.
template <detail::awaitable... A> auto when_all(A... work) {
    return detail::joined<false, detail::await_result<A>...>(detail::as_task(std::move(work))...);
}
template <template <class...> class List, class T> auto when_all(List<task<T>> work) {
    return detail::joined_list<false, List, T>(std::move(work));
}
// The same until one has ended: then the others are cancelled, and waited for. Gives optionals:
// whoever finished has a value, at least one does. If nobody has, the first exception is rethrown.
template <detail::awaitable... A>
requires(sizeof...(A) > 0) auto when_any(A... work) {
    return detail::joined<true, detail::await_result<A>...>(detail::as_task(std::move(work))...);
}
template <template <class...> class List, class T> auto when_any(List<task<T>> work) {
    return detail::joined_list<true, List, T>(std::move(work));
}

// Starts children in a scope, for as long as that lasts. Copyable.
class scope_ref {
public:
    explicit scope_ref(detail::group& g) : group(&g) {}
    // The child runs at the next turn; its value is dropped.
    template <detail::awaitable A> void spawn(A work, source place = source::current()) const {
        auto child = detail::as_task(std::move(work));
        auto& j = group->add(child);
        j.spawned = j.where = place;
        if (!group->owner) return;  // the group has yet to start
        if (group->stopping) j.cancel();
        j.schedule(j, schedule_info());
    }

private:
    detail::group* group;
};
// Runs the task f(scope_ref), and gives its value when it and all children that it spawned in the
// scope have ended: so they may borrow what lives in this frame. The first exception cancels the
// others, and is rethrown when they have ended.
template <class F>
requires std::is_invocable_v<F&, scope_ref>
auto scope(F f) { return detail::scoping<F>(std::move(f)); }

// ---- 5. Channels --------------------------------------------------------------------------------

// What a send on a closed channel throws.
struct channel_closed : std::exception {
    const char* what() const noexcept override { return "ringlet: the channel is closed"; }
};

// A value's way through it:
//
//                (1) a receiver waits
//     send ------------------------------------------------> recv
//       |  (2) there is room                  (4)             ^
//       +------------------------> items ---------------------+
//       |  (3) there is none                  ^               |
//       +------------------------> senders ---+               |
//                                   (5) one item was taken    |
//
//     (1) put into the receiver's frame, which then has a result: no cancel takes it away again
//     (2) try_send; the item is a block of the pool    (3) the value waits in the sender's frame,
//     and goes with it    (4) try_recv    (5) the first that waits moves up, and its send is over
//
// A queue between tasks: at most `capacity` items wait in it, then senders wait; with capacity 0
// each waits for the other. First in, first out, for items and for those who wait. A cancelled
// wait loses nothing: its item was handed over, or is still there. Who waits when the channel is
// destroyed goes on as after close(); a sender gets channel_closed. Items are kept in the pool.
template <class T> class channel {
public:
    explicit channel(std::size_t capacity) : room(capacity) {}
    channel(channel&&) = delete;
    ~channel() {
        close();
        dismiss<sending>(senders);
        while (try_recv()) {}
    }

    // Waits for room. Throws channel_closed.
    auto send(T value) { return sending(*this, std::move(value)); }
    // Waits for an item. nullopt: the channel is closed, and empty.
    auto recv() { return receiving(*this); }
    // Without waiting. False: there is no room, and `value` is untouched. Throws channel_closed.
    template <class U> bool try_send(U&& value) {
        if (closed) throw channel_closed();
        if (receivers.empty()) return room && (put(std::forward<U>(value)), true);
        receiving& r = first<receiving>(receivers);
        r.value.emplace(std::forward<U>(value));
        r.unlink();
        r.owner->fulfil();
        return true;
    }
    std::optional<T> try_recv() {
        std::optional<T> value;
        if (!senders.empty()) {
            sending& s = first<sending>(senders);
            put(std::move(s.value));
            s.unlink();
            s.sent = true;
            s.owner->fulfil();
        }
        if (items.empty()) return value;
        const std::unique_ptr<item> i(&first<item>(items));
        i->unlink();
        ++room;
        value.emplace(std::move(i->value));
        return value;
    }
    // Nothing more can be sent; what was sent before can be received, that of senders that wait now
    // as well. Receivers that wait get nullopt.
    void close() {
        closed = true;
        dismiss<receiving>(receivers);
    }

private:
    struct item : detail::pooled, detail::ring {
        T value;
        template <class U> explicit item(U&& u) : value(std::forward<U>(u)) {}
    };
    // A wait in one of the two lines. W::attempt() does without it, if that is possible and the job
    // has not had its share of waits that are over at once; then it waits, and attempts it there.
    template <class W> struct in_line : detail::waits<W>, detail::ring {
        bool yields = false;
        bool await_ready() {
            return !(yields = !detail::job::current->spend()) && self().attempt();
        }
        void start() { yields&& self().attempt() ? this->owner->fulfil() : join(self().line()); }
        bool interrupt(detail::job&) noexcept override { return unlink(), true; }
        W& self() { return static_cast<W&>(*this); }
    };
    struct sending final : in_line<sending> {
        channel& to;
        T value;
        bool sent = false;
        sending(channel& c, T v) : to(c), value(std::move(v)) {}
        bool attempt() { return sent = to.try_send(std::move(value)); }
        detail::ring& line() { return to.senders; }
        void await_resume() const { sent ? void() : throw channel_closed(); }
        void describe(std::string& out) const override { out += "send"; }
    };
    struct receiving final : in_line<receiving> {
        channel& from;
        std::optional<T> value;
        explicit receiving(channel& c) : from(c) {}
        bool attempt() {
            if (auto v = from.try_recv()) value.emplace(std::move(*v));
            return value || from.closed;
        }
        detail::ring& line() { return from.receivers; }
        std::optional<T> await_resume() { return std::move(value); }
        void describe(std::string& out) const override { out += "recv"; }
    };
    template <class N> static N& first(detail::ring& list) { return static_cast<N&>(*list.after); }
    template <class N> static void dismiss(detail::ring& list) {
        while (!list.empty()) {
            N& n = first<N>(list);
            n.unlink();
            n.owner->let_go();  // which may run the job on the spot
        }
    }
    void put(auto&& value) {
        (new item(std::forward<decltype(value)>(value)))->join(items);
        --room;
    }

    std::size_t room;
    bool closed = false;
    detail::ring items, senders, receivers;
};

}  // namespace ringlet
