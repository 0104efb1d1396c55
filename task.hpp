// ringlet/task.hpp: what a task is. The standard library only; no executor, no kernel.
//
// An asynchronous function is an ordinary function that may stop in the middle, give its thread back, and go on later. C++
// calls it a coroutine and leaves open who resumes it, when, and what happens if nobody does. This header answers with three
// small handles around one object, the *job* (the idea and the words are async-task's, https://github.com/smol-rs/async-task):
//
//     #include <ringlet/task.hpp>
//     ringlet::task<int> answer() { co_return 42; }
//     std::deque<ringlet::runnable> queue;
//     auto [r, handle] = ringlet::spawn(answer(), [&](ringlet::runnable again) { queue.push_back(std::move(again)); });
//     std::move(r).run();   // runs it to its end, or to its next suspension
//
//   runnable      the right to run the job once. It disappears when it has run, and appears again, handed to the schedule
//                 function (the lambda above), when a waker wakes the job. That sentence is the whole model.
//   waker         makes the job runnable again. Whoever the job waits for holds one.
//   join_handle   the job's result, and its life: dropping it cancels the job.
//
// A job's life, with the functions that move it along:
//
//                              (1) spawn
//                                  |                            (1) spawn() gives out the first runnable; it queues nothing
//                                  v      (2) runnable::run     (2) run() resumes the innermost frame
//                        +--> SCHEDULED ---------> RUNNING      (3) an await that has to wait suspends
//          (4) waker::   |         |               |   |        (4) a wake hands a new runnable to the schedule function;
//              wake      |         |        (3)    |   | (6)        while RUNNING it is remembered, and run() does it
//                        +------ IDLE <------------+   |        (5) cancel(), or a dropped handle or runnable: the job is
//                        |         |                   |            scheduled once more, and run() destroys its frames
//              (5) cancel+         |                   v        (6) the outermost frame returned: the result lies with the
//                                  +-----(5)-------> ENDED          handle, all frames are gone
//
// Everything here belongs to one thread at a time: no field is atomic. Other threads come in by a door of the executor.
#pragma once

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <source_location>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

namespace ringlet {

template <class T> class task;
template <class T> class join_handle;

namespace detail {
template <class T> struct job_of;
template <class T, bool Try> class join_wait;
template <class T> class owned_join;
}  // namespace detail

// ---- 1. Memory: coroutine frames come from a recycling pool ---------------------------------------------------------------
//
// A coroutine's variables live in a frame that the compiler asks operator new for, once a call. Tasks are called as often as
// functions, so freed frames are kept in lists by size, sixteen bytes a step, and the next frame of that size is one of them:
// five instructions instead of the heap's hundred.

// Where the frames and jobs of this thread come from.
class frame_pool {
public:
    // From now on memory comes from `resource` (a std::pmr::memory_resource, or any type with its allocate and deallocate),
    // nullptr: the heap again. A monotonic_buffer_resource over a static array is the mode without a heap: when the array is
    // used up, std::bad_alloc leaves the call that creates the coroutine. The resource must outlive its last frame. Throws
    // std::logic_error while frames or jobs of this thread are alive, since they have to go back to where they came from.
    template <class R> static void use(R* resource) {
        use(resource, resource ? [](void* r, std::size_t n) { return static_cast<R*>(r)->allocate(n, step); } : nullptr,
            resource ? [](void* r, void* p, std::size_t n) { static_cast<R*>(r)->deallocate(p, n, step); } : nullptr);
    }
    static void use(std::nullptr_t) { use(nullptr, nullptr, nullptr); }

    // A block of at least n bytes, aligned to 16. Throws what the resource throws, std::bad_alloc as a rule.
    static void* allocate(std::size_t n) {
        const std::size_t c = (n + step - 1) / step;
        if (c >= classes || !lists.free[c]) return refill(n);
        return std::exchange(lists.free[c], lists.free[c]->next);
    }
    // Gives back a block of allocate(n). It is kept for the next frame of its size; large ones go back to the resource.
    static void deallocate(void* p, std::size_t n) noexcept {
        const std::size_t c = (n + step - 1) / step;
        if (c >= classes) return give_back(p, n);
        lists.free[c] = ::new (p) block{lists.free[c]};
    }

private:
    static constexpr std::size_t step = 16, classes = 128;
    struct block {
        block* next;
    };
    using allocate_from = void*(void* resource, std::size_t n);
    using deallocate_to = void(void* resource, void* p, std::size_t n);
    struct state {
        block* free[classes];
        std::size_t blocks;  // taken from the resource and not given back: alive or in a list
        void* resource;
        allocate_from* take;
        deallocate_to* give;
    };
    struct at_thread_exit {
        ~at_thread_exit() { trim(); }
    };
    // Plain data, so that reaching it costs one instruction and no test whether it has been constructed.
    inline static constinit thread_local state lists{};

    [[gnu::noinline]] static void* refill(std::size_t n) {
        static thread_local at_thread_exit trims;
        static_cast<void>(trims);
        n = (n + step - 1) / step * step;
        void* p = lists.take ? lists.take(lists.resource, n) : ::operator new(n);
        ++lists.blocks;
        return p;
    }
    static void give_back(void* p, std::size_t n) noexcept {
        n = (n + step - 1) / step * step;
        --lists.blocks;
        lists.give ? lists.give(lists.resource, p, n) : ::operator delete(p);
    }
    static void trim() noexcept {
        for (std::size_t c = 0; c < classes; ++c)
            while (block* b = lists.free[c]) {
                lists.free[c] = b->next;
                give_back(b, c * step);
            }
    }
    static void use(void* resource, allocate_from* take, deallocate_to* give) {
        trim();
        if (lists.blocks) throw std::logic_error("ringlet::frame_pool::use: frames or jobs are alive on this thread");
        lists.resource = resource;
        lists.take = take;
        lists.give = give;
    }
};

// ---- 2. The job -----------------------------------------------------------------------------------------------------------

// What a schedule function may ask about the runnable that it is handed.
struct schedule_info {
    // The job was woken while it ran (a yield, say). An executor that wants to be fair lets others go first.
    bool woken_while_running;
    explicit constexpr schedule_info(bool while_running = false) : woken_while_running(while_running) {}
};

// Thrown by the await of a join_handle whose job was cancelled.
struct task_cancelled : std::exception {
    const char* what() const noexcept override { return "ringlet: the awaited task was cancelled"; }
};

namespace detail {

class job;

// What a suspended job waits for: a child, a timer, an operation of the kernel. A suspended job with no wait can be destroyed
// at any time; one with a wait asks it first.
class wait {
public:
    // The job is to stop. True: the wait has let go of it. False: it cannot yet (the kernel still writes into a buffer), and
    // will call job::fulfil or job::let_go later.
    virtual bool interrupt(job&) noexcept = 0;
    virtual void finished(job&) noexcept {}           // a job that this wait watches has ended
    virtual void describe(std::string& out) const = 0;  // for the dump: "sleep, 20 ms left"
    virtual const struct ring* children() const { return nullptr; }

protected:
    ~wait() = default;
};

// A stretch of a job's chain of frames with its own answer to "stop": a shielded one goes on to its end, one with a time limit
// can be stopped alone, and the frame that awaits it goes on. Innermost first, they hang at the job.
class section {
public:
    section* outer = nullptr;
    std::coroutine_handle<> owner;  // the frame that awaits this section
    bool shields = false, stopped = false;
    virtual void drop() noexcept {}  // destroys the frames inside

protected:
    ~section() = default;
};

inline void append_place(std::string& out, std::source_location place) {
    out.append(place.file_name()).append(":").append(std::to_string(place.line()));
}

// A list that closes to a ring through its owner, so that a member can leave without knowing whose it is.
struct ring {
    ring *before, *after;
    ring() : before(this), after(this) {}
    explicit ring(ring& owner) : before(std::exchange(owner.before, this)), after(&owner) { before->after = this; }
    ring(ring&&) = delete;
    void unlink() {
        before->after = after;
        after->before = before;
    }
};

// A task that has been started. The three handles point here; nobody else sees it.
//
//   field      who writes it, and when
//   next       the queue that holds its runnable, while SCHEDULED
//   state      the flags below; the upper half counts what is left of this run's budget of waits that were ready at once
//   references the join handle and the wakers; the job's memory goes when it has ended and they are zero
//   runs       run() counts; a waker is for the suspension of one run, and knows which
//   point      the innermost suspended frame, which run() resumes; written by the await that suspends
//   root       the outermost frame; destroying it destroys all of them, innermost first
//   waiting    what that await waits for; nullptr: for a waker only
//   watcher    is told when the job has ended
//   sections   the shields and time limits around the innermost frame
//   before, after   the ring of jobs with the same owner: an executor, or a group of children
class job : public ring {
public:
    enum : std::uint8_t {   // phase; none of the first three: it runs, or is being destroyed
        scheduled = 1,  // a runnable exists
        suspended = 2,  // it waits
        ended = 4,      // the frames are gone
        woken = 8,      // while it runs: to be scheduled again
        returned = 16,  // while it runs: an awaited frame has ended, and `point` awaits it
        look = 32,      // while it runs: something else is to be seen to at the end of the run
        fulfilled = 64  // SCHEDULED, with a result: resume even if stopped
    };
    enum : std::uint8_t {   // traits
        held = 1,       // a join handle exists
        cancelled = 2,  // all of the job is to be stopped
        granted = 4,    // a run was granted although it is cancelled: what it returns counts
        lost = 8        // ended without a result: it was cancelled
    };
    static constexpr std::uint8_t full_budget = 128;

    job* next;
    std::uint64_t runs = 0;
    std::uint32_t references = 1;
    std::uint8_t phase = scheduled, traits = held, budget = full_budget;
    bool stop_asked = false;  // something is to be stopped: the job, or a section of it
    std::coroutine_handle<> point, root;
    wait* waiting = nullptr;
    wait* watcher = nullptr;
    section* sections = nullptr;
    std::source_location spawned, where;

    inline static constinit thread_local job* current = nullptr;  // the job that runs on this thread

    template <class... Owner>
    job(std::coroutine_handle<> frame, std::source_location place, Owner&... owner)
        : ring(owner...), point(frame), root(frame), spawned(place), where(place) {}
    static void* operator new(std::size_t n) { return frame_pool::allocate(n); }
    static void operator delete(void* p, std::size_t n) noexcept { frame_pool::deallocate(p, n); }

    virtual void schedule(schedule_info) noexcept = 0;       // makes a runnable and hands it on
    virtual std::exception_ptr discard() noexcept = 0;       // drops the result; the exception, if it was one
    virtual void destroy() noexcept = 0;                     // delete this

    bool is(std::uint8_t phases) const { return phase & phases; }
    bool has(std::uint8_t some) const { return traits & some; }

    // Runs the job to its next suspension. If it was woken meanwhile, it is scheduled again, and the answer is true; `requeue`
    // does that for a plain yield, so that an executor can have its queue inlined here.
    template <class Requeue> [[gnu::always_inline]] bool run(Requeue requeue) {
        if (stop_asked) [[unlikely]] {
            if (!admit()) return end(lost), false;
            phase = look;
        } else {
            phase = 0;
        }
        ++runs;
        point.resume();
        if (phase == (scheduled | woken)) [[likely]] return requeue(), true;
        if (phase == suspended) return false;
        if (phase == returned && point.address() == this) return end(0), false;
        return settle();
    }

    // The await in frame h suspends the job, to wait for w. False: do not begin to wait, the job is to stop here.
    bool suspend(std::coroutine_handle<> h, wait& w) {
        point = h;
        budget = full_budget;
        phase = suspended;
        if (stop_asked && stopping()) return phase |= look, false;
        waiting = &w;
        return true;
    }
    // The same, for a waker that has been handed out.
    void pause(std::coroutine_handle<> h) {
        point = h;
        phase |= references ? suspended : suspended | look;
    }
    // The same, for a turn of the others.
    void yield(std::coroutine_handle<> h) {
        point = h;
        phase |= scheduled | woken;
    }
    // May a wait that is over at once go on without suspending? If not, the job is to yield.
    bool spend() {
        if (budget) return --budget, true;
        budget = full_budget;
        return false;
    }
    // The awaited frame has ended; go on with its caller.
    void go_on(std::coroutine_handle<> caller) {
        point = caller;
        phase |= returned;
    }

    // The wait is over without a result, or with one.
    void let_go() {
        waiting = nullptr;
        phase = scheduled;
        schedule(schedule_info());
    }
    void fulfil() {
        waiting = nullptr;
        phase = scheduled | fulfilled;
        schedule(schedule_info());
    }
    void wake() {
        if (!is(scheduled | suspended | ended)) phase |= woken;
        else if (is(suspended) && !waiting) let_go();
    }

    void cancel() {
        if (has(cancelled) || is(ended)) return;
        traits = (traits & held) | cancelled;
        stop();
    }
    // The job, or one of its sections, was marked to be stopped: what it waits for lets go first.
    void stop() {
        stop_asked = true;
        phase |= look;
        if (is(suspended) && stopping() && (!waiting || waiting->interrupt(*this))) let_go();
    }
    bool stopping() const { return stop_asked && stop_target(); }

    // Ends the job at once, whatever it waits for.
    void abandon() {
        if (waiting) waiting->interrupt(*this);
        end(lost);
    }
    void release() {
        if (--references) return;
        if (is(ended)) destroy();
        else if (is(suspended) && forsaken()) give_up();
    }
    // Nobody can wake it: it is scheduled once more, to be destroyed. A shield is no help where nothing can happen.
    void give_up() {
        sections = nullptr;
        traits |= cancelled;
        stop();
    }

    void enter(section& s, std::coroutine_handle<> owner) {
        s.owner = owner;
        s.outer = std::exchange(sections, &s);
    }
    void leave(section& s) {
        sections = s.outer;
        bool any = has(cancelled);
        for (section* o = sections; o; o = o->outer) any |= o->stopped;
        stop_asked = any;
    }

private:
    // What is to be stopped: the outermost section that was marked and has no shield inside it, nullptr for all of the job,
    // nothing if there is a shield in the way.
    std::optional<section*> stop_target() const {
        std::optional<section*> target;
        for (section* s = sections; s; s = s->outer) {
            if (s->shields) return target;
            if (s->stopped) target = s;
        }
        return has(cancelled) ? nullptr : target;
    }
    // Before a run, something being marked: may `point` be resumed? A section that is stopped goes first.
    bool admit() {
        const auto target = stop_target();
        if (target && !is(fulfilled)) {
            if (!*target) return false;
            point = (*target)->owner;
            (*target)->drop();
            leave(**target);
        }
        traits |= granted;
        return true;
    }
    // After a run that did not simply end in an await.
    [[gnu::noinline]] bool settle() {
        while (is(returned)) {
            if (point.address() == this) return end(0), false;
            phase ^= returned;
            point.resume();
        }
        if (!is(scheduled | suspended)) complain();
        if (stopping()) {
            if (waiting && !waiting->interrupt(*this)) return false;
            waiting = nullptr;
            if (!*stop_target()) return end(lost), false;
            phase |= woken;  // to go on with the frame around the section
        } else if (!is(woken) && forsaken()) {
            return end(lost), false;
        }
        if (!is(woken)) return false;
        phase = scheduled;
        schedule(schedule_info(true));
        return true;
    }
    // Nobody is left who could wake the job: no handle, no waker, no wait, no time limit.
    bool forsaken() const {
        bool limited = false;
        for (section* s = sections; s; s = s->outer) limited |= !s->shields;
        return !references && !waiting && !limited;
    }
    // Ends the job: its frames go, whoever watches it is told, and its memory goes with the last handle or waker.
    [[gnu::noinline]] void end(std::uint8_t how) {
        if (has(cancelled) && !has(granted)) how = lost;
        if (how) traits |= how, phase = 0;
        root.destroy();
        unlink();
        phase = ended;
        if (watcher && !how) return watcher->finished(*this);  // may free the job
        if (!has(held) || how) finish();
    }
    [[gnu::noinline]] void finish() {
        const std::exception_ptr error = discard();
        const bool leaves = error && !has(lost | cancelled);
        if (watcher) watcher->finished(*this);
        else if (!references) destroy();
        if (leaves) std::rethrow_exception(error);
    }
    // run() came back, and no await has suspended the job.
    [[noreturn]] void complain() {
        std::string text = "ringlet: the task spawned at ";
        append_place(text, spawned);
        text += " came back without waiting for anything and without having ended. g++ 12.2 does "
                "that to a coroutine with a co_await inside a condition: write `auto x = co_await "
                "...; if (x)`. So does an awaiter that is not ringlet's: use ringlet::suspend.";
        end(lost);
        throw std::logic_error(text);
    }
};

// Marks the job as the one that runs on this thread, for as long as this object lives.
class running_job {
public:
    explicit running_job(job* j) : before(std::exchange(job::current, j)) {}
    running_job(running_job&&) = delete;
    ~running_job() { job::current = before; }

private:
    job* before;
};

// Where the outcome of a task lands: nothing yet, a value, or an exception. It lies with whoever waits for it, so that no frame
// is kept for its result.
template <class T> class result {
    struct nothing {};
    using stored = std::conditional_t<std::is_reference_v<T>, std::remove_reference_t<T>*, T>;

public:
    std::exception_ptr error;
    [[no_unique_address]] std::conditional_t<std::is_void_v<T>, nothing, std::optional<stored>> value;

    T take() {
        if (error) [[unlikely]] std::rethrow_exception(std::move(error));
        if constexpr (std::is_reference_v<T>) return static_cast<T>(**value);
        else if constexpr (!std::is_void_v<T>) return std::move(*value);
    }
    // Drops the value; hands out the exception, if there is one.
    std::exception_ptr discard() noexcept {
        value = {};
        return std::exchange(error, nullptr);
    }
    template <class U> void set(U&& u) {
        if constexpr (std::is_reference_v<T>) value.emplace(std::addressof(u));
        else value.emplace(std::forward<U>(u));
    }
};

// Refers to an awaiter that lives in the frame: g++ copies one that is returned by reference.
template <class A> class borrowed {
    A& awaiter;

public:
    explicit borrowed(A& a) : awaiter(a) {}
    decltype(auto) await_ready() { return awaiter.await_ready(); }
    template <class P> decltype(auto) await_suspend(std::coroutine_handle<P> h) { return awaiter.await_suspend(h); }
    decltype(auto) await_resume() { return awaiter.await_resume(); }
};

template <class A> auto awaiter_of(A&& a) {
    if constexpr (requires { std::forward<A>(a).operator co_await(); }) return std::forward<A>(a).operator co_await();
    else if constexpr (requires { operator co_await(std::forward<A>(a)); }) return operator co_await(std::forward<A>(a));
    else if constexpr (std::is_trivially_copyable_v<std::remove_cvref_t<A>>) return std::remove_cvref_t<A>(a);
    else return borrowed<std::remove_reference_t<A>>(a);
}

// ---- 3. The coroutine: task<T> --------------------------------------------------------------------------------------------

// What every frame of ours carries.
class promise_base {
public:
    std::coroutine_handle<> caller;  // awaits this frame, once it has really suspended; of a root frame: its job

    static void* operator new(std::size_t n) { return frame_pool::allocate(n); }
    static void operator delete(void* p, std::size_t n) noexcept { frame_pool::deallocate(p, n); }

    std::suspend_always initial_suspend() const noexcept { return {}; }
    struct last_suspend : std::suspend_always {
        template <class P> void await_suspend(std::coroutine_handle<P> h) const noexcept {
            if (const auto awaiting = h.promise().caller) job::current->go_on(awaiting);
        }
    };
    last_suspend final_suspend() const noexcept { return {}; }

    // Every co_await passes here, and the job learns the place in the source.
    template <class A> auto await_transform(A&& a, std::source_location where = std::source_location::current()) {
        job::current->where = where;
        return awaiter_of(std::forward<A>(a));
    }
};
// The job of a coroutine that is about to suspend.
template <class P> job& awaiting_job() {
    static_assert(std::is_base_of_v<promise_base, P>,
                  "ringlet: this can be awaited only inside a ringlet::task: make the function return ringlet::task<...>, "
                  "or start it with ringlet::block_on from ordinary code");
    return *job::current;
}

template <class T> class promise_of : public promise_base {
public:
    result<T>* outcome;
    void unhandled_exception() noexcept { outcome->error = std::current_exception(); }
    template <class U = T>
        requires std::is_convertible_v<U, T>
    void return_value(U&& u) {
        outcome->set(std::forward<U>(u));
    }
};
template <> class promise_of<void> : public promise_base {
public:
    result<void>* outcome;
    void unhandled_exception() noexcept { outcome->error = std::current_exception(); }
    void return_void() const noexcept {}
};

}  // namespace detail

// A lazy coroutine: a description of work. Nothing runs until it is awaited (once, as an rvalue) or spawned. Move-only; dropped
// before that, it takes its parameters with it. T may be void, a reference, or move-only.
template <class T = void> class [[nodiscard]] task {
public:
    struct promise_type : detail::promise_of<T> {
        task get_return_object() { return task(handle::from_promise(*this)); }
    };

    task(task&& other) noexcept : frame(std::exchange(other.frame, nullptr)) {}
    task& operator=(task other) noexcept { return std::swap(frame, other.frame), *this; }
    ~task() {
        if (frame) frame.destroy();
    }

    // Runs the task as a part of the awaiting one, and gives its value or rethrows its exception.
    auto operator co_await() && { return awaiter(frame); }

private:
    using handle = std::coroutine_handle<promise_type>;
    friend detail::job_of<T>;

    // The callee is resumed on the caller's stack. If it ends without suspending, the common case, the caller has not suspended
    // either; only a callee that really waits is told its caller.
    class awaiter {
    public:
        explicit awaiter(handle h) : callee(h) {}
        bool await_ready() const {
            if (!callee || callee.done()) [[unlikely]] throw std::logic_error("ringlet: this task was awaited before");
            return false;
        }
        template <class P> bool await_suspend(std::coroutine_handle<P> caller) {
            detail::awaiting_job<P>();
            callee.promise().outcome = &outcome;
            callee.resume();
            if (callee.done()) return false;
            callee.promise().caller = caller;
            return true;
        }
        T await_resume() { return outcome.take(); }

    private:
        handle callee;
        detail::result<T> outcome;
    };

    explicit task(handle h) : frame(h) {}
    handle frame;
};

// ---- 4. The handles: runnable, waker, join_handle ----------------------------------------------------------------------------

// Makes a job runnable again. Copyable, counted. It is for one suspension: once the job has moved on it does nothing, so no
// await is ever resumed by an old waker, and none has to check. Dropping the last waker of a detached job that waits for nothing
// else cancels the job. May outlive everything.
class waker {
public:
    waker() = default;
    waker(const waker& other) noexcept : job(other.job), run(other.run) {
        if (job) ++job->references;
    }
    waker(waker&& other) noexcept : job(std::exchange(other.job, nullptr)), run(other.run) {}
    waker& operator=(waker other) noexcept { return std::swap(job, other.job), std::swap(run, other.run), *this; }
    ~waker() {
        if (job) job->release();
    }
    explicit operator bool() const { return job; }

    // Schedules the job, if it is still in the suspension that this waker is for; while it runs, it is scheduled again after it.
    void wake() const {
        if (job && job->runs == run) job->wake();
    }
    // Is it the same job's?
    bool wakes(const waker& other) const { return job == other.job; }

    waker(detail::job& j, std::uint64_t r) : job(&j), run(r) { ++j.references; }

private:
    detail::job* job = nullptr;
    std::uint64_t run = 0;
};

// The right to run a job once, up to its next suspension. At most one exists for a job. Dropping it cancels the job, on the spot.
class runnable {
public:
    runnable(runnable&& other) noexcept : job(std::exchange(other.job, nullptr)) {}
    runnable& operator=(runnable other) noexcept { return std::swap(job, other.job), *this; }
    ~runnable() {
        if (job) job->abandon();
    }
    explicit operator bool() const { return job; }

    // Hands itself to the job's schedule function.
    void schedule() { std::exchange(job, nullptr)->schedule(schedule_info()); }

    // Runs the job to its next suspension. True: it was woken meanwhile and has been scheduled again. An exception of a detached
    // job leaves here.
    bool run() && {
        detail::job* const j = std::exchange(job, nullptr);
        const detail::running_job on_this_thread(j);
        return j->run([j] { j->schedule(schedule_info(true)); });
    }
    // A waker for the suspension that this run will end in.
    ringlet::waker waker() const { return ringlet::waker(*job, job->runs + 1); }

    // As a plain pointer, through a C interface, and back. In between nobody owns it.
    void* release() && { return std::exchange(job, nullptr); }
    static runnable from(void* p) { return runnable(*static_cast<detail::job*>(p)); }

    explicit runnable(detail::job& j) : job(&j) {}

private:
    detail::job* job;
};

namespace detail {

template <class T> struct job_of : job {
    result<T> outcome;
    template <class... Owner>
    job_of(task<T>& t, std::source_location place, Owner&... owner) : job(t.frame, place, owner...) {
        t.frame.promise().outcome = &outcome;
        t.frame.promise().caller = std::coroutine_handle<>::from_address(this);
        t.frame = nullptr;
    }
    std::exception_ptr discard() noexcept override { return outcome.discard(); }
};
template <class T, class S> struct scheduled_job final : job_of<T> {
    S function;
    scheduled_job(task<T>& t, S& s, std::source_location place) : job_of<T>(t, place), function(std::move(s)) {}
    void destroy() noexcept override { delete this; }
    void schedule(schedule_info info) noexcept override {
        ++this->references;  // the function may drop or run the runnable on the spot, and is itself a part of the job
        if constexpr (std::is_invocable_v<S&, runnable, schedule_info>) function(runnable(*this), info);
        else function(runnable(*this));
        this->release();
    }
};

}  // namespace detail

// The result of a job, and its life: dropping the handle cancels the job, without waiting for it. Move-only. The awaits below
// refer to the handle until they are over, and leave it empty; if the awaiting job is cancelled meanwhile, nothing has happened
// to it. Awaiting an empty handle throws std::logic_error.
template <class T = void> class [[nodiscard]] join_handle {
public:
    join_handle() = default;
    join_handle(join_handle&& other) noexcept : child(std::exchange(other.child, nullptr)) {}
    join_handle& operator=(join_handle other) noexcept { return std::swap(child, other.child), *this; }
    ~join_handle() { drop(); }
    explicit operator bool() const { return child; }

    // Has the job ended?
    bool done() const { return child->is(detail::job::ended); }
    // The job goes on without a handle; its exception, if it comes to that, leaves runnable::run().
    void detach() {
        if (!child) return;
        child->traits &= ~detail::job::held;
        if (done()) child->outcome.discard();
        std::exchange(child, nullptr)->release();
    }

    // T: the value; rethrows the job's exception; throws task_cancelled if it was cancelled.
    auto operator co_await() && { return detail::join_wait<T, false>(*this); }
    // std::optional<T>: nullopt where the plain await would throw task_cancelled. For void a bool, for U& a U*.
    auto try_join() && { return detail::join_wait<T, true>(*this); }
    // Cancels the job now; the await gives what try_join gives, once its frames are gone.
    auto cancel() && {
        if (child) child->cancel();
        return detail::owned_join<T>(std::move(*this));
    }

    explicit join_handle(detail::job_of<T>& j) : child(&j) {}

private:
    template <class U, bool Try> friend class detail::join_wait;
    void drop() {
        if (child && !done()) child->cancel();
        detach();
    }
    detail::job_of<T>* child = nullptr;
};

// Makes a job of the task. `schedule` is called as schedule(runnable) or schedule(runnable, schedule_info) each time the job
// becomes runnable, and lives as long as the job's handle and wakers; it must not throw. Queues nothing: schedule or run the
// runnable. One allocation beside the task's own frame. Throws std::bad_alloc.
template <class T, class S>
    requires(std::is_invocable_v<S&, runnable> || std::is_invocable_v<S&, runnable, schedule_info>)
std::pair<runnable, join_handle<T>> spawn(task<T> work, S schedule,
                                          std::source_location place = std::source_location::current()) {
    auto& job = *new detail::scheduled_job<T, S>(work, schedule, place);
    return {runnable(job), join_handle<T>(job)};
}

// ---- 5. Awaits: join, suspend, shield, cancel_requested ----------------------------------------------------------------------

namespace detail {

// What try_join gives for a job that has ended.
template <class T> auto take_unless_lost(job_of<T>& j) {
    const bool lost = j.has(job::lost);
    if constexpr (std::is_void_v<T>) {
        if (!lost) j.outcome.take();
        return !lost;
    } else if constexpr (std::is_reference_v<T>) {
        return lost ? nullptr : std::addressof(j.outcome.take());
    } else {
        return lost ? std::nullopt : std::optional<T>(j.outcome.take());
    }
}

// Waits for the end of another job. `Try`: a cancelled one is no exception.
template <class T, bool Try> class join_wait final : public wait {
public:
    explicit join_wait(join_handle<T>& h) : handle(h) {}
    bool await_ready() const {
        if (!handle) throw std::logic_error("ringlet: this join_handle was awaited before, detached, or moved from");
        if (handle.child->watcher) throw std::logic_error("ringlet: another task awaits this join_handle");
        return handle.done();
    }
    template <class P> void await_suspend(std::coroutine_handle<P> h) {
        parent = &awaiting_job<P>();
        if (parent->suspend(h, *this)) handle.child->watcher = this;
    }
    auto await_resume() {
        const join_handle<T> taken(std::move(handle));
        if constexpr (Try) return take_unless_lost(*taken.child);
        else return taken.child->has(job::lost) ? throw task_cancelled() : taken.child->outcome.take();
    }

    bool interrupt(job&) noexcept override {
        handle.child->watcher = nullptr;
        return true;
    }
    void finished(job&) noexcept override { parent->fulfil(); }
    void describe(std::string& out) const override { out += "join"; }

private:
    join_handle<T>& handle;
    job* parent = nullptr;
};
template <class T> class owned_join {
public:
    explicit owned_join(join_handle<T>&& h) : handle(std::move(h)) {}
    auto operator co_await() && { return join_wait<T, true>(handle); }

private:
    join_handle<T> handle;
};

template <class F> class suspension {
    using R = std::invoke_result_t<F&, waker>;

public:
    explicit suspension(F f) : hand_over(std::move(f)) {}
    bool await_ready() const noexcept { return false; }
    template <class P> void await_suspend(std::coroutine_handle<P> h) {
        job& j = awaiting_job<P>();
        try {
            if (j.stopping()) {
            } else if constexpr (std::is_void_v<R>) hand_over(waker(j, j.runs));
            else given.set(hand_over(waker(j, j.runs)));
        } catch (...) {
            ++j.runs;  // there is no suspension that this waker could end
            j.phase &= ~job::woken;
            throw;
        }
        j.pause(h);
    }
    R await_resume() { return given.take(); }

private:
    F hand_over;
    result<R> given;
};

template <class T> class shielded : public section {
public:
    explicit shielded(task<T> t) : work(std::move(t)), inner(std::move(work).operator co_await()) { shields = true; }
    bool await_ready() const { return inner.await_ready(); }
    template <class P> bool await_suspend(std::coroutine_handle<P> h) {
        job::current->enter(*this, h);
        return inner.await_suspend(h);
    }
    T await_resume() {
        job::current->leave(*this);
        return inner.await_resume();
    }

private:
    task<T> work;
    decltype(std::declval<task<T>>().operator co_await()) inner;
};

class cancel_query {
public:
    bool await_ready() const noexcept { return true; }
    template <class P> void await_suspend(std::coroutine_handle<P>) const noexcept {}
    bool await_resume() const noexcept { return job::current->stop_asked; }
};

}  // namespace detail

// Waits for anything: calls hand_over(waker) once the job is suspended, and goes on when that waker is woken. Gives what
// hand_over returned. If hand_over throws, so does the await.
template <class F>
    requires std::is_invocable_v<F&, waker>
auto suspend(F hand_over) {
    return detail::suspension<F>(std::move(hand_over));
}

// Runs the task to its end even if the awaiting job is cancelled meanwhile; the cancel takes effect at the first suspension after
// it. For cleanup that has to await.
template <class T> auto shield(task<T> work) { return detail::shielded<T>(std::move(work)); }

// Is the running job, or a part of it that this code belongs to, to be stopped? For long computations, and under a shield.
// Never suspends.
inline auto cancel_requested() { return detail::cancel_query(); }

}  // namespace ringlet
