// ringlet/task.hpp: what a task is. The standard library only: no executor, no kernel.
//
// An asynchronous function may stop in the middle, give its thread back, and go on later. C++ calls
// it a coroutine. Its variables live in a *frame* beside the stack; where it stops is a co_await,
// in short an *await*; and to *yield* is to stop and be runnable again at once. C++ leaves open who
// resumes it, when, and what becomes of it if nobody does. The answer here is one object, the
// *job*, and three handles to it. The idea and the words are those of async-task
// (https://github.com/smol-rs/async-task).
//
//     #include <deque>
//     #include <ringlet/task.hpp>
//     ringlet::task<int> answer() { co_return 42; }
//     std::deque<ringlet::runnable> queue;
//     auto schedule = [&](ringlet::runnable r) { queue.push_back(std::move(r)); };
//     auto [r, handle] = ringlet::spawn(answer(), schedule);
//     std::move(r).run();  // to its end, or to its next suspension
//
//   runnable      the right to run the job once. It disappears when it has run, and appears again,
//                 in the hands of the schedule function, when a waker wakes the job.
//   waker         makes the job runnable again. Whoever is to wake it is handed one: see suspend.
//   join_handle   the job's result, and its life: dropping it cancels the job.
//
// A job's life:
//
//        (1)               (2)                (6)
//     ---------> SCHEDULED ---------> RUNNING ---------> ENDED
//                 |  ^  ^              |   |              ^
//                 |  |  |     (4)      |   | (3)          |
//                 |  |  +--------------+   v              |
//                 |  +-------------------IDLE             |
//                 |        (4), (5)                       |
//                 + - - - - - - - -(5)- - - - - - - - - - +
//
//     (1) spawn: the first runnable; it queues nothing    (2) runnable::run resumes the innermost
//     frame    (3) an await that has to wait suspends it    (4) the wait is over, or waker::wake: a
//     runnable goes to the schedule function; while the job runs, that is done at the end of the
//     run    (5) cancel, or a dropped handle: what the job waits for lets go, it is scheduled once
//     more, and run() destroys the frames, innermost first; dropping a runnable destroys them at
//     once    (6) the outermost frame has returned; its result lies with the handle. Or the job was
//     cancelled while it ran, and has come to an await that lets go: its frames go there and then
//
// All of this belongs to one thread: no field is atomic.
//
// The chapters: 1 memory, 2 the job, 3 the coroutine, 4 the handles, 5 awaits, 6 groups. What is in
// namespace detail is to be read, not used. Whoever only wants to use tasks reads the comments
// above the names outside of it; whoever writes an executor needs chapter 4, and
// examples/own_executor.cpp.
#pragma once

#include <bit>
#include <coroutine>
#include <cstdint>
#include <exception>
#include <memory>
#include <memory_resource>
#include <optional>
#include <source_location>
#include <stdexcept>
#include <string>
#include <utility>

namespace ringlet {

// What a schedule function may ask about the runnable that it is handed.
struct schedule_info {
    bool woken_while_running = false;  // a yield, say: a fair executor lets all others go first
};

// What the await of a join_handle throws if its job was cancelled.
struct task_cancelled : std::exception {
    const char* what() const noexcept override { return "ringlet: the task was cancelled"; }
};

// ---- 1. Memory ----------------------------------------------------------------------------------
//
// The variables of a coroutine live in a frame, which the compiler asks operator new for at each
// call. Tasks are called as often as functions. So freed frames are kept, in lists by size, and
// the next frame of that size is one of them: five instructions instead of the heap's hundred. A
// call takes 92 instructions that way, and 236 with operator new and delete; a spawn with its join
// 252 instead of 547 (g++ 12.2 -O3, both counted by callgrind).
//
//     allocate(200): list 13 of free[] --> block --> block --> nothing more: refill
//     deallocate(p, 200): p becomes the first of list 13
//
// The lists are the thread's own, so nothing is locked, and a frame must be destroyed on the thread
// that made it. Blocks are never split or joined: a program makes the same few kinds of frames over
// and over, so what it has freed once is what it wants next.

// Where the frames and jobs of this thread come from.
class frame_pool {
public:
    // From now on memory comes from `memory`; nullptr is the heap again. With a
    // monotonic_buffer_resource over a static array, and the null resource behind it, no frame, job
    // or operation ever takes from the heap (exceptions do, and vectors of tasks): when the array
    // is used up, std::bad_alloc leaves the call that creates the coroutine. The resource gets its
    // blocks back at the next call of use(): so it must live until then, or as long as the thread.
    // Throws std::logic_error while a block is in use.
    static void use(std::pmr::memory_resource* memory) {
        trim();
        if (taken) throw std::logic_error("ringlet::frame_pool::use: a frame or job is alive");
        upstream = memory;
    }
    // A block of n bytes, aligned to 16. Throws what the resource throws, std::bad_alloc as a rule.
    static void* allocate(std::size_t n) {
        const std::size_t list = list_of(n);
        if (list < lists && free[list]) [[likely]]
            return std::exchange(free[list], *static_cast<void**>(free[list]));
        return refill(list < lists ? size_of(list) : n);
    }
    // Keeps a block of allocate(n) for the next frame of its size, if it is not larger than 128 KB.
    static void deallocate(void* p, std::size_t n) noexcept {
        const std::size_t list = list_of(n);
        if (list >= lists) return give_back(p, n);
        *static_cast<void**>(p) = std::exchange(free[list], p);  // the first bytes link it
    }

private:
    // In steps of 16 bytes up to 2 KB; for frames with a buffer in them, 4, 8, 16 ... 128 KB: those
    // of 2^k bytes are list base + k. (In steps of 16 throughout the lists would take 64 KB of each
    // thread's stack.)
    static constexpr std::size_t step = 16, fine = 128, base = fine - 11, lists = base + 18;
    static constexpr std::size_t list_of(std::size_t n) {
        return n <= fine * step ? (n - (n > 0)) / step + 1 : base + unsigned(std::bit_width(n - 1));
    }
    static constexpr std::size_t size_of(std::size_t list) {
        return list <= fine ? list * step : std::size_t{1} << (list - base);
    }
    // Plain data: to reach it costs an instruction, and no test whether it has been constructed.
    inline static constinit thread_local void* free[lists]{};
    inline static constinit thread_local std::size_t taken = 0;  // blocks, those in lists included
    inline static constinit thread_local std::pmr::memory_resource* upstream = nullptr;

    static auto& origin() { return upstream ? *upstream : *std::pmr::new_delete_resource(); }
    // The heap's blocks go back when the thread ends, and with it an object of this class. To be
    // told of that takes a few bytes of the heap itself: so nobody is told where a resource is set,
    // which is not asked then either.
    ~frame_pool() { upstream ? void() : trim(); }
    [[gnu::noinline, gnu::cold]] static void* refill(std::size_t n) {
        if (!upstream) { [[maybe_unused]] static thread_local const frame_pool at_thread_exit; }
        void* const p = origin().allocate(n, step);
        return ++taken, p;
    }
    static void give_back(void* p, std::size_t n) { --taken, origin().deallocate(p, n, step); }
    static void trim() noexcept {
        for (std::size_t list = 0; list < lists; ++list)
            while (free[list]) give_back(allocate(size_of(list)), size_of(list));
    }
};

namespace detail {

using source = std::source_location;
struct nothing {};  // what a task<> gives where a value is expected
template <class F, class... A> concept callable = std::is_invocable_v<F&, A...>;

template <class T, bool Try> struct join_wait;

// What comes from the pool.
struct pooled {
    static void* operator new(std::size_t n) { return frame_pool::allocate(n); }
    static void operator delete(void* p, std::size_t n) noexcept { frame_pool::deallocate(p, n); }
};

// The same for containers.
template <class T> struct pool_allocator {
    using value_type = T;
    template <class... U> pool_allocator(const pool_allocator<U>&...) {}  // of one, or of none
    T* allocate(std::size_t n) { return static_cast<T*>(frame_pool::allocate(n * sizeof(T))); }
    void deallocate(T* p, std::size_t n) { frame_pool::deallocate(p, n * sizeof(T)); }
    bool operator==(const pool_allocator&) const { return true; }
};

// For std::unique_ptr: what the end of the pointer means. Every owner of a frame or a job is one,
// with a member function of the object in the place of delete: so an exception leaks neither.
template <auto Member> struct ends_with {
    void operator()(auto* p) const noexcept(noexcept((p->*Member)())) { (p->*Member)(); }
};

// Sets a variable for as long as this object lives.
template <class T> struct scoped {
    T& variable;
    T before;
    scoped(T& v, T value) : variable(v), before(std::exchange(v, value)) {}
    ~scoped() { variable = before; }
};

// ---- 2. The job ---------------------------------------------------------------------------------

// From here on `job` is the object behind the handles, `await` is what suspends it, and a *wait* is
// what it then waits for: another job, a timer, an operation of the kernel. A suspended job without
// one waits for a waker, and can be destroyed at any time; one with a wait asks it first.
//
// A job through one wait, say `co_await sleep_for(20ms)`:
//
//     run()            resumes the frame at `point`, which comes to the co_await
//     await_ready()    sets the timer (chapter 3 has these names)
//     await_suspend()  notes the frame, the place and the wait
//     run()            returns; the thread is the executor's again, which runs other jobs
//     let_go()         20 ms later, from the timer: the job is SCHEDULED, in the executor's queue
//     run()            resumes the frame after the co_await
//
// and if it is cancelled during those 20 ms:
//
//     cancel()         asks the wait: interrupt() unlinks the timer and says true, so let_go()
//     run()            destroys the outermost frame, and so all frames inside, instead of resuming
//
// It is destroyed in run(), and not in cancel(), so that destructors do not run on the stack of
// whoever cancels, who may be in the middle of something, or be a frame of that very job. (A
// schedule function that runs or drops the runnable on the spot gives that up.)
//
// Two waits that come later are spoken of here already: a group (chapter 6) waits for child jobs,
// and a channel (executor.hpp) is a queue between tasks.
struct job;

// A list that closes to a ring at its owner: so a member can leave without knowing whose it is.
//
//     list <-> first <-> second <-> last <-> list again
//
// The live jobs of an executor are in such a list, those of a group, and so are the tasks that wait
// at a channel. The links lie in the members: to join and to leave allocates nothing, and takes the
// same few instructions with a million members as with one. A member's links are set where it
// joins, and not before: most awaits at a channel never have to wait.
struct linked {
    linked *before, *after;  // from join() on
    void join(linked& list) {
        before = std::exchange(list.before, this);
        after = &list;
        before->after = std::launder(this);  // or g++ 12 warns of a ring that is a local variable
    }
    void unlink() { after->before = before, before->after = after; }
};
struct ring : linked {
    ring() { before = after = this; }
    ring(ring&& r) noexcept { join(r), r.unlink(), r.before = r.after = &r; }  // takes its members
    bool empty() const { return after == this; }
    // Calls f(member) for each that is here now. It must not throw. It may end any of them, and
    // with the last of them the owner of this ring; others may join. So all wait in another ring,
    // and come back one by one, each before f is called with it: their order stays.
    template <class Member> void each(auto f) {
        for (ring all(std::move(*this)); !all.empty();) {
            Member& first = static_cast<Member&>(*all.after);
            first.unlink(), first.join(*this), f(first);
        }
    }
};

// The one interface between a job and what it waits for. A sleep, a read, a channel, a group of
// children are all the same to the job: something that can be asked to let go of it.
struct wait {
    // The job is to stop. True: the wait has let go of it. False: it cannot yet (the kernel may
    // still write into a buffer), and calls job::let_go or job::fulfil later.
    virtual bool interrupt(job&) noexcept { return true; }
    virtual void finished(job&) noexcept {}                   // a child of this group has ended
    virtual std::string describe() const { return {}; }       // "sleep, 19988 us left"
    virtual const ring* children() const { return nullptr; }  // for those who list jobs
};

// A part of a job that can be stopped alone: the frames inside one await, such as those that a
// timeout waits for. A job may be in several, one inside the other, as its frames are. To stop one
// is a small cancel: the wait lets go, and run() destroys the section's frames in the place of all,
// and resumes the one that awaited it. (A child job would need no section, and timeouts were
// groups before: 733 instructions for one around a yield, where it is 371 now.)
//
// It is over when those frames have ended or are gone. That may be long before await_resume: where
// an expression has several co_awaits, g++ 12 calls that of each when the last has been waited for.
struct section {
    section* outer = nullptr;                // the one around it
    std::coroutine_handle<> caller, inside;  // the frame that awaits it, the outermost inside
    source where;                            // the place of that await
    bool stopped = false;
    bool over() const { return !inside || inside.done(); }
    virtual void drop() noexcept = 0;  // destroys the frames inside
    virtual std::string describe() const = 0;
};

// Where a job goes when it is to run: to the end of an executor's queue, which is so frequent that
// it is no virtual call; or to anybody's schedule function, where there is no queue. A job that was
// woken while it ran goes by schedule() (or run's `requeue`) in both cases: an executor has another
// place for it.
struct scheduler {
    job** tail;  // where the queue's next link goes; nullptr: there is no queue
    explicit scheduler(job** t = nullptr) : tail(t) {}
    virtual void schedule(job&, schedule_info) noexcept = 0;
};

inline std::string text_of(source at) { return at.file_name() + (':' + std::to_string(at.line())); }

// What every frame's promise (chapter 3) begins with, behind two pointers of the compiler's.
struct called {
    void* caller;  // the frame that waits for this one, once it does; of a root frame: its job
};

// A task that has been started. Its fields lie in an order in which a few stores set them all.
//
//   field       who writes it, and when
//   phase       whoever takes an arrow of the diagram; its bits are named below
//   left        counts down at each wait that is over at once (channels, sleeps of no time): the
//               129th finds none left, and the job yields; a wait that was not over sets it back
//   references  the handle and the wakers; the memory goes with the last, once the job has ended
//   detached    the handle, when it goes; a child of a scope has none
//   cancelled   cancel
//   stopping    cancel, and a section's stop: what runs now is to end at its next suspension; the
//               end of that section takes it back
//   lost        cancel, an early end, a group whose child failed: the result does not count; a run
//               that resumes the job for a result takes it back
//   next        the executor's queue, while the job is in it
//   by          spawn: where it runs; a child runs where its parent does
//   root        spawn: the outermost frame
//   point       the await that suspends, the innermost; what ends, a frame or a section: where the
//               job goes on
//   waiting     the await: what the job waits for; nullptr: a waker
//   group       the group: whose child it is
//   watcher     the await of the handle, or the group: the job that waits for the end of this one
//   inner       the await that is a section: the innermost one
//   runs        run; a waker is for the suspension that one run ends in, and knows which
//   where       the await that suspends: its place; spawned: the spawn's
struct job : pooled, linked {
    // The phase. SCHEDULED: a runnable exists, or the job is in the queue of an executor that needs
    // none; with `fulfilled`, the wait has a result, and even a cancelled job is resumed.
    // SUSPENDED: IDLE. ENDED: the frames are gone. None of these: RUNNING. Beside any of them,
    // `woken`: schedule at the end of the run; `look`: more is to be seen to there; `failed`: the
    // outermost frame has ended with an exception.
    static constexpr unsigned scheduled = 1, suspended = 2, ended = 4, fulfilled = 8;
    static constexpr unsigned woken = 16, look = 32, failed = 64, budget = 129;
    unsigned phase = scheduled, left = budget, references = 1;
    bool detached = false, cancelled = false, stopping = false, lost = false;
    scheduler& by;
    std::coroutine_handle<> root, point;
    wait *waiting = nullptr, *group = nullptr;
    job *next = nullptr, *watcher = nullptr;
    section* inner = nullptr;
    std::uint64_t runs = 0;
    source spawned, where;
    inline static constinit thread_local job* current = nullptr;  // that runs on this thread

    job(std::coroutine_handle<> frame, scheduler& s, source place, ring* list)
        : by(s), root(frame), point(frame), spawned(place), where(place) {
        if (list) join(*list);
        else before = after = this;  // so that it can be unlinked all the same
    }
    virtual ~job() = default;
    virtual std::exception_ptr discard() noexcept = 0;  // drops the result; gives the exception

    // Where it waits, and where it was spawned, for those who look. An await inside this file (in
    // as_task) is no place of the program's: that is the section's around it, or the spawn's, or,
    // of a child, the parent's. (One of read_exactly, in reactor.hpp, is shown.) Cold:
    // else it would be inlined into the executor's loop, for hooks.
    source awaits_at() const { return place_of(where, inner); }
    source place_of(source place, const section* around) const {
        for (; around && here(place); around = around->outer) place = around->where;
        return here(place) ? origin() : place;
    }
    // That of the running job, for spawns that cannot have their own.
    static source last_at() { return current ? current->awaits_at() : source(); }
    source origin() const { return here(spawned) && group ? watcher->awaits_at() : spawned; }
    [[gnu::cold]] static bool here(source place) {
        return std::string_view(place.file_name()) == source::current().file_name();
    }

    job* parent() const { return group ? watcher : nullptr; }
    bool is(unsigned phases) const { return phase & phases; }
    const ring* children() const { return waiting ? waiting->children() : nullptr; }

    // The three ends of a run, the cheapest first, which would feel another test the most: the job
    // has yielded (it says itself that it is scheduled and woken: yield_now in executor.hpp); it
    // waits (suspended); or there is something to be seen to: it has ended, a frame has returned to
    // one that waited for it, it was woken or cancelled while it ran. A cancelled job is resumed
    // only for a result: what was read or received is not thrown away. The caller of the outermost
    // frame is the job's own address, which no frame has.
    //
    // A frame that was resumed here and is done by now has returned. The one that awaited it goes
    // on, here in a loop and not by a call from within, so that the stack does not grow with the
    // depth. (One that has ended in another's resume, without waiting, is no concern of the loop.)
    // So a frame's end writes nothing down, which saves four instructions a call. (The phase is
    // read as the byte that clang writes: a load of more waits for that store, 3 ns of a yield.)
    //
    // Runs the job to its next suspension. If it was woken meanwhile it is scheduled again, and the
    // answer is true; `requeue` does that after a yield, and `returned` is told when the outermost
    // frame has returned: both are inlined into the executor's loop.
    [[gnu::always_inline]] bool run(auto requeue, auto returned) {
        if (stopping && !goes_on()) [[unlikely]]
            return false;
        ++runs;
        phase = 0;
        for (;;) {
            point.resume();
            if (std::uint8_t(phase) == (scheduled | woken)) [[likely]]
                return requeue(), true;
            if (std::uint8_t(phase) == suspended) return false;
            if (!point.done()) break;
            const auto frame = std::coroutine_handle<called>::from_address(point.address());
            if (frame.promise().caller == this) return end(), returned(), false;
            point = point.from_address(frame.promise().caller);
            if (stopping) recheck();
        }
        return settle();
    }

    // May a wait that is over at once go on without suspending? If not it suspends all the same.
    bool spend() { return --left; }

    // For waits: it is over, without a result or with one. The difference is what becomes of a
    // cancelled job: with a result, bytes that were read, say, it is resumed once more, without one
    // (a timer that was unlinked) it ends. While the job still runs, or its wait has only begun,
    // all of this is noted for the end of the run: nothing is scheduled before it has really
    // suspended.
    void let_go(unsigned result = 0) {
        if (is(suspended)) return resume_for(result);
        waiting = nullptr, phase |= woken | result;
    }
    void fulfil() { let_go(fulfilled); }
    // The same for those who know that the job has suspended: a channel, or the job that it joins.
    void resume_for(unsigned result) {
        waiting = nullptr, phase = scheduled | result;
        schedule();
    }
    // To the end of the queue, or to the schedule function.
    void schedule() {
        next = nullptr;
        by.tail ? void(*std::exchange(by.tail, &next) = this) : by.schedule(*this, {});
    }

    // For handles. A wake counts only while the job waits for a waker: who waits for a timer is not
    // woken by anything else. A cancel is noted at once, and works when the wait has let go; if the
    // job ends in the run that it is in, its value is lost all the same. Sections use stop() too.
    void wake() {
        if (!waiting && !is(scheduled | ended)) let_go();
    }
    void cancel() {
        if (!is(ended) && !std::exchange(cancelled, true)) lost = true, stop();
    }
    [[gnu::noinline]] void stop() {
        if (std::exchange(stopping, true)) return;  // what it waits for has been asked
        phase |= look;
        if (is(suspended) && (!waiting || waiting->interrupt(*this))) let_go();
    }
    // For awaits that are sections, when they go.
    void leave(const section& s) {
        for (section** place = &inner; *place; place = &(*place)->outer)
            if (*place == &s) return void(*place = s.outer);
    }
    void release() noexcept {
        if (--references) return;
        if (is(ended)) delete this;
        else if (is(suspended) && !waiting && !group) cancel();  // nobody is left to wake it
    }
    // The handle goes; the job goes on, or does not.
    void detach() noexcept {
        detached = true;
        if (references > 1 && is(ended)) discard();  // else it goes with the job
        release();
    }
    void forsake() noexcept { cancel(), detach(); }
    // Ends the job at once, whatever it waits for: as if it ran, since a last waker may go with the
    // frames.
    void abandon() { lost = true, phase &= failed, inner = nullptr, end(); }

private:
    section* outermost_stopped() const {
        section* found = nullptr;
        for (section* s = inner; s; s = s->outer)
            if (s->stopped && !s->over()) found = s;
        return found;
    }
    // Before the job goes on behind frames that have ended: perhaps only those were to stop.
    bool recheck() { return stopping = cancelled || outermost_stopped(), true; }
    // The job is to stop. Is it resumed all the same? For a result; or behind the section, if only
    // that is to stop. One that had used up its budget for the result gets no more: what it borrows
    // may be gone soon.
    [[gnu::noinline]] bool goes_on() {
        if (is(fulfilled)) return left = left < budget ? 1 : budget, lost = false, true;
        if (cancelled) return abandon(), false;
        inner = outermost_stopped();
        point = inner->caller;
        return inner->drop(), recheck();
    }
    // After a run that has neither simply suspended nor ended: a cancel, then a wake.
    [[gnu::noinline]] bool settle() {
        if (!is(scheduled | suspended)) complain();
        if (stopping && !is(fulfilled)) {
            if (waiting && !waiting->interrupt(*this)) return false;
            if (cancelled) return abandon(), false;
            waiting = nullptr;
            phase |= woken;  // the next run goes on behind the section
        }
        if (is(woken)) {
            phase = scheduled | (phase & fulfilled);
            return by.schedule(*this, schedule_info(true)), true;
        }
        if (!waiting && !references && !group) abandon();
        return false;
    }
    // The frames go: after the last return, or early, wherever they are suspended. To destroy the
    // outermost is enough: the awaiter in each owns the frame that it waits for, so the innermost
    // is the first to go, as with functions when an exception passes.
    [[gnu::noinline]] void end() {
        root.destroy();
        (detached | lost) ? bury() : finish(fulfilled);
    }
    // Out of the list before the watcher is told: a group asks whether this was the last. Who is
    // told may free the job.
    void finish(unsigned result) {
        unlink();
        phase |= ended;
        if (group) group->finished(*this);
        else if (watcher) watcher->resume_for(result);
    }
    // The end of a job whose result nobody takes. That goes first, since it may wake or end others,
    // or spawn some; an exception is left to the group, if there is one.
    [[gnu::noinline]] void bury() {
        const bool silent = cancelled || lost;
        ++references, phase |= look;  // the last waker may lie in the result
        std::exception_ptr error = group && is(failed) && !silent ? nullptr : discard();
        if (silent) error = nullptr;
        finish(lost ? 0 : fulfilled);
        release();
        if (error) std::rethrow_exception(error);
    }
    [[noreturn]] void complain() {
        const std::string place = text_of(origin());
        abandon();
        throw std::logic_error(
            "ringlet: a task came back without a wait: a co_await in a condition, with g++ 12.2 "
            "(write `auto x = co_await ...; if (x)`), or an awaiter that is not ringlet's (use "
            "ringlet::suspend). It was spawned at "
            + place);
    }
};

// ---- 3. The coroutine ---------------------------------------------------------------------------

// To the compiler a coroutine is a function that returns an object made by its promise_type, here a
// task, and a frame on the side with three things in it: the promise, the arguments, and the
// variables that are alive across a co_await. A coroutine_handle is a pointer to the frame, to
// resume it, to destroy it, to ask whether it is done, and to find the promise.
//
// What co_await does with the object behind it, the awaiter: it calls await_ready, and if that says
// false suspends the frame and calls await_suspend with its handle. Where await_ready says true, or
// await_suspend false, or when the frame is resumed, the co_await has the value of await_resume.
// The first and the last suspension of a coroutine are such awaits too.
//
//     task<int> inner();
//     task<int> outer() { co_return 1 + co_await inner(); }
//
//     frame of outer                     frame of inner
//     +--------------------------+       +-----------------------+
//     | promise: caller --> job  |   +-->| promise: caller ----------> frame of outer
//     |          outcome --> job |   |   |          outcome -----+---> the awaiter
//     | awaiter: callee ---------+---+   +-----------------------+
//     |          outcome: 1 int  |
//     +--------------------------+
//
// Where the outcome of a task lands: nothing yet, a value, or an exception. It lies with whoever
// waits for it, so that no frame is kept for the sake of its result.
template <class T> struct result {
    using slot = std::conditional_t<std::is_reference_v<T>, std::add_pointer_t<T>, std::decay_t<T>>;
    std::exception_ptr error;
    std::optional<std::conditional_t<std::is_void_v<T>, nothing, slot>> value;
    static_assert(alignof(decltype(value)) <= 16,
        "ringlet: no compiler aligns a coroutine's frame beyond 16 bytes; give a std::unique_ptr");

    template <class U> void set(U&& u) {
        if constexpr (std::is_reference_v<T>) value.emplace(std::addressof(u));
        else value.emplace(std::forward<U>(u));
    }
    T take() {
        if (error) std::rethrow_exception(std::move(error));
        return given();
    }
    T given() {
        if constexpr (std::is_reference_v<T>) return static_cast<T>(**value);
        else if constexpr (!std::is_void_v<T>) return std::move(*value);
    }
    // The same where there may be none.
    auto attempt(bool none) {
        if constexpr (std::is_void_v<T>) return !none && (take(), true);
        else if constexpr (std::is_reference_v<T>) return none ? nullptr : (void(take()), *value);
        else return none ? std::nullopt : std::optional<T>(take());
    }
    std::exception_ptr discard() noexcept { return value.reset(), std::exchange(error, nullptr); }
};

// What every frame of ours carries. A task is lazy: it suspends before its first line, and runs
// when it is awaited or spawned. At its end it suspends again, so that whoever owns the frame
// destroys it, and not the frame itself, in the middle of a resume.
template <class T> struct promise_base : called, pooled {
    result<T>* outcome;

    std::suspend_always initial_suspend() const noexcept { return {}; }
    // The job's run() finds that the frame is done, and goes on with the caller. A symmetric
    // transfer (await_suspend gives the handle that is to be resumed next) would do it too, but
    // costs more (117 instructions a call against 107, in a sketch with g++ 12.2; 77 against 73
    // with clang 19), and where it is no tail call (g++ without -O2, or with a sanitizer) a loop of
    // 10,000 to 260,000 awaits overflows the stack.
    std::suspend_always final_suspend() const noexcept { return {}; }
    void unhandled_exception() noexcept {
        outcome->error = std::current_exception();
        if (std::coroutine_handle<called>::from_promise(*this) == job::current->root)
            job::current->phase |= job::failed;
    }
};
template <class T> struct promise_of : promise_base<T> {
    template <class U = T>
    requires std::is_convertible_v<U, T>
    void return_value(U&& u) { this->outcome->set(std::forward<U>(u)); }
};
template <> struct promise_of<void> : promise_base<void> {
    void return_void() const noexcept {}
};

// The job of the coroutine that suspends.
template <class P> job& awaiting_job(std::coroutine_handle<P>) {
    static_assert(std::is_base_of_v<called, P>,
        "ringlet: this can only be awaited in a ringlet::task. Let the function return "
        "ringlet::task<...>, or start the task with ringlet::block_on from ordinary code");
    static_assert(alignof(P) <= 16, "ringlet: no compiler aligns a frame beyond 16 bytes");
    return *job::current;
}

}  // namespace detail

// A lazy coroutine: a description of work. Nothing runs until it is awaited, once, as an rvalue, or
// spawned. Move-only. Its parameters live until its frame goes, its locals until it ends. T may be
// void, a reference, or move-only. Its promise may be the first base of another, for coroutines
// that can do more than a task: recipes/generator.hpp adds co_yield.
template <class T = void> class [[nodiscard]] task {
public:
    struct promise_type : detail::promise_of<T> {
        task get_return_object() { return task(this); }
        auto frame() { return std::coroutine_handle<promise_type>::from_promise(*this); }
        void destroy() { frame().destroy(); }
    };
    // Runs the task as a part of the awaiting one; gives its value or rethrows its exception.
    // Throws std::logic_error if it has been awaited or spawned already.
    auto operator co_await() && {
        if (!frame) throw std::logic_error("ringlet: a task is awaited or spawned twice");
        return awaiter(std::move(frame));
    }
    void operator co_await() & = delete;  // it is used up: write co_await std::move(task)

private:
    using owner = std::unique_ptr<promise_type, detail::ends_with<&promise_type::destroy>>;

    // Resumes the callee on the caller's stack. If it ends without suspending, which is the common
    // case, the caller has not suspended either; only one that really waits is told its caller. So
    // a loop of a million calls that never wait uses the stack of one, in every build mode.
    struct awaiter : std::suspend_always {
        owner callee;
        detail::result<T> outcome;
        explicit awaiter(owner o) : callee(std::move(o)) {}
        bool await_suspend(auto caller) {
            detail::awaiting_job(caller);
            promise_type& p = *callee;
            p.outcome = &outcome;
            p.frame().resume();
            return !p.frame().done() && (p.caller = caller.address(), true);
        }
        T await_resume() { return outcome.take(); }
    };

    explicit task(promise_type* p) : frame(p) {}
    owner frame;
};

// ---- 4. The handles -----------------------------------------------------------------------------
//
// What everybody but the job itself sees of it. Who holds what:
//
//     the schedule function, then whose queue it fills    the runnable: at most one exists
//     whoever was handed one by suspend                   wakers: any number
//     the task that spawned it                            the join_handle: one, or none
//
// The frames live until the job has ended, whoever holds what. The job's memory, with the result
// and the schedule function, lives until handle and wakers are gone as well.

// Makes a job runnable again. It is for one suspension: once the job has gone on it does nothing,
// so no await is resumed by an old waker, and none has to check. Copyable, counted; may outlive the
// job. Dropping the last waker of a detached job that waits for nothing else cancels it. (A group's
// child waits on, and its parent with it, which an executor reports as a deadlock.)
class waker {
    std::unique_ptr<detail::job, detail::ends_with<&detail::job::release>> job;
    std::uint64_t run = 0;

public:
    waker() = default;
    waker(detail::job& j, std::uint64_t r) : job(&j), run(r) { ++j.references; }
    waker(const waker& other) : waker(other.job ? waker(*other.job, other.run) : waker()) {}
    waker(waker&&) = default;
    waker& operator=(waker other) noexcept { return job.swap(other.job), run = other.run, *this; }
    explicit operator bool() const { return job != nullptr; }

    // Schedules the job, if it is still in the suspension that this waker is for.
    void wake() const {
        if (job && job->runs == run) job->wake();
    }
    // Are they the same job's?
    bool wakes(const waker& other) const { return job == other.job; }
};

// The right to run a job once, up to its next suspension. At most one exists for a job. Move-only.
// Dropping it cancels the job, on the spot, which may schedule others: so a queue of them is
// emptied one by one.
class runnable {
    std::unique_ptr<detail::job, detail::ends_with<&detail::job::abandon>> job;

public:
    explicit runnable(detail::job& j) : job(&j) {}
    explicit operator bool() const { return job != nullptr; }

    // Hands itself to the schedule function.
    void schedule() { job.release()->schedule(); }
    // Runs the job to its next suspension. True: it was woken meanwhile, and has been scheduled
    // again. The exception of a detached job leaves here; so does std::logic_error, if the job has
    // come back without an await of this library.
    bool run() && {
        const detail::scoped here(detail::job::current, job.get());
        detail::job& j = *job.release();
        return j.run([&] { j.by.schedule(j, schedule_info(true)); }, [] {});
    }
    // A waker for the suspension that this run will end in.
    ringlet::waker waker() const { return ringlet::waker(*job, job->runs + 1); }

    // As a plain pointer, through an interface in C, and back. In between nobody owns it.
    void* release() && { return job.release(); }
    static runnable from(void* p) { return runnable(*static_cast<detail::job*>(p)); }
};

namespace detail {

// What a task would give its awaiter. It gives its frame away, as to an await, so it cannot be
// awaited as well; one that has none any more throws std::logic_error.
inline auto frame_of(auto& task) { return std::move(task).operator co_await().callee; }

// A job with a result: what spawn makes of a task. The result lies in the job, since the frames are
// gone by the time that somebody asks for it.
template <class T> struct job_of : job {
    result<T> outcome;
    job_of(auto* promise, scheduler& s, source place, ring* list)
        : job(promise->frame(), s, place, list) {
        promise->outcome = &outcome;
        promise->caller = static_cast<job*>(this);
    }
    std::exception_ptr discard() noexcept override { return outcome.discard(); }
    // Is there a value, and nobody but the handle? (A job that is lost or has failed shows another
    // phase.) Then its await may free the job without a virtual call: nothing but the value is to
    // be destroyed. A job that was in a list (its links are still those) is an executor's, and no
    // more than a job_of<T>. Saves 35 instructions a join, 30 of clang.
    bool plain() const { return phase == ended && references == 1 && after != this; }
    void free() noexcept {
        std::destroy_at(&outcome.value), job::operator delete(this, sizeof(job_of));
    }
    // The result; or, for those who try, what stands for none.
    T take(std::false_type = {}) { return lost ? throw task_cancelled() : outcome.take(); }
    auto take(std::true_type) { return outcome.attempt(lost); }
};

// A job that ends with its pointer: cancelled, and left to go on its own until it has let go.
template <class T> using owned = std::unique_ptr<job_of<T>, ends_with<&job::forsake>>;

// A job with a schedule function of its own, which lies in the job and may run or drop the runnable
// on the spot: so a reference keeps the job meanwhile. No job is the current one there: what is run
// may free the one that has just ended.
template <class T, class S> struct scheduled_job final : job_of<T>, scheduler {
    S function;
    scheduled_job(auto* promise, S s, source place)
        : job_of<T>(promise, *this, place, nullptr), function(std::move(s)) {}
    void schedule(job& which, schedule_info info) noexcept override {
        const waker stays(*this, 0);
        const scoped<job*> nobody(job::current, nullptr);
        if constexpr (callable<S, runnable, schedule_info>) function(runnable(which), info);
        else function(runnable(which));
    }
};

}  // namespace detail

// The result of a job, and its life: dropping the handle cancels the job, and waits for nothing.
// Move-only. The awaits refer to the handle while they wait, and leave it empty: so it must not go
// meanwhile (one in a container that others change is moved into a variable first). If the awaiting
// job is cancelled, nothing has happened to the handle. Awaiting an empty one throws
// std::logic_error.
template <class T = void> class [[nodiscard]] join_handle {
    detail::owned<T> job;

public:
    join_handle() = default;
    explicit join_handle(detail::job_of<T>& j) : job(&j) {}
    explicit operator bool() const { return job != nullptr; }

    // Has the job ended? An empty handle says so as well.
    bool done() const { return !job || job->is(detail::job::ended); }
    // Lets the job go on without a handle. An exception that comes later leaves run(); one that has
    // come already is dropped.
    void detach() {
        if (job) job.release()->detach();
    }
    // T: the value. Rethrows the job's exception; throws task_cancelled if it was cancelled.
    auto operator co_await() && { return detail::join_wait<T, false>(job); }
    void operator co_await() & = delete;  // it is used up: write co_await std::move(handle)
    // std::optional<T>: nullopt where the plain await throws task_cancelled. For void it is a bool,
    // for U& a U*.
    auto try_join() && { return detail::join_wait<T, true>(job); }
    // Cancels the job now; the await gives what try_join does, when the job's frames are gone.
    auto cancel() && {
        if (job) job->cancel();
        return std::move(*this).try_join();
    }
};

// Makes a job of the task. `schedule` is called as schedule(runnable) or schedule(runnable,
// schedule_info) each time the job becomes runnable; it lives until the job has ended and its
// handle and wakers are gone, and must not throw. This queues nothing: schedule or run the
// runnable. One allocation beside the task's frame. Throws std::bad_alloc, and std::logic_error for
// a task that has been awaited or spawned already.
template <class T, class S>
requires detail::callable<S, runnable> || detail::callable<S, runnable, schedule_info>
auto spawn(task<T> work, S schedule, detail::source place = detail::source::current()) {
    auto frame = detail::frame_of(work);
    auto& job = *new detail::scheduled_job<T, S>(frame.get(), std::move(schedule), place);
    frame.release();  // only now: to move the schedule function may throw
    return std::pair(runnable(job), join_handle<T>(job));
}

// ---- 5. Awaits ----------------------------------------------------------------------------------

namespace detail {

// Each await is [[nodiscard]]: `suspend(f);` without co_await does nothing, and compilers say so.
//
// An awaiter lives in the frame until its await is over: so it is the right place for everything a
// wait needs, links, a deadline, a buffer's address, and few waits allocate (a group its jobs).
//
// An await that is a wait: W::start() begins it, but not where the job is to end here. If that
// wakes the job again, it counts at the end of this run. What may fail, or finds that there is
// nothing to wait for, belongs in await_ready. The place is that of the co_await, where the
// compiler calls await_suspend and fills in its defaulted argument. (One of await_transform, a
// function of the promise that may exchange the awaiter, would give it too, at the price of a
// second awaiter type.)
template <class W, class Base = wait> struct waits : Base {
    job* owner;  // that waits, once it has suspended: until then there is none to be copied
    waits() = default;
    waits(const waits&) noexcept : Base() {}
    waits& operator=(const waits&) noexcept { return *this; }
    wait* what() { return this; }           // that the job waits for; nullptr: for a waker
    bool insists() const { return false; }  // begins even where the job is to stop
    void start(job&) {}                     // where await_ready has begun it
    bool await_ready() const noexcept { return false; }
    void await_suspend(auto h, source place = source::current()) noexcept {
        job& j = awaiting_job(h);
        W& self = static_cast<W&>(*this);
        wait* const w = self.what();
        j.point = h, j.where = place, j.left = job::budget;
        if (w) j.phase = 0;  // who woke the job before this has not ended the wait
        if (!j.stopping || self.insists()) j.waiting = w, self.start(j);
        if (j.stopping || !(w || j.references)) j.phase |= job::look;
        owner = &j, j.phase |= job::suspended;
    }
};

// Waits for the end of another job. A joiner that is cancelled only stops watching: the other job
// is cancelled by its handle, if that goes with the joiner's frame.
template <class T, bool Try> struct [[nodiscard]] join_wait final : waits<join_wait<T, Try>> {
    owned<T>& handle;
    job* other;  // from await_ready on: the handle may be detached or moved meanwhile
    explicit join_wait(owned<T>& h) : handle(h) {}
    bool await_ready() {
        other = handle.get();
        constexpr auto ended = job::ended;
        return (other && (other->is(ended) || !other->watcher)) || refuse(), other->is(ended);
    }
    [[noreturn]] static bool refuse() {
        throw std::logic_error("ringlet: a join_handle is awaited that is empty, or twice at once");
    }
    void start(job& j) { other->watcher = &j; }
    [[gnu::always_inline]] decltype(auto) await_resume() {
        if (!handle || !handle->plain()) return rare();
        const std::unique_ptr<job_of<T>, ends_with<&job_of<T>::free>> ended(handle.release());
        if constexpr (Try) return ended->outcome.attempt(false);
        else return ended->outcome.given();
    }
    [[gnu::noinline]] decltype(auto) rare() {
        if (!handle || !handle->is(job::ended)) refuse();  // taken meanwhile, or another has come
        const owned<T> ended(std::move(handle));
        return ended->take(std::bool_constant<Try>());
    }
    bool interrupt(job&) noexcept override { return other->watcher = nullptr, true; }
    std::string describe() const override { return "join"; }
};

// Waits for a waker, and is no wait to the job: there is nobody to ask whether it may be destroyed.
// An exception of hand_over is kept, and thrown in the job's next run, for which it is scheduled at
// once: it has properly suspended by then, and wakers that are in other hands already are void.
template <class F> struct [[nodiscard]] suspension : waits<suspension<F>, nothing> {
    using R = std::invoke_result_t<F&, waker>;
    F hand_over;
    result<R> given;

    explicit suspension(F f) : hand_over(std::move(f)) {}
    wait* what() { return nullptr; }
    void start(job& j) try {
        if constexpr (std::is_void_v<R>) hand_over(waker(j, j.runs));
        else given.set(hand_over(waker(j, j.runs)));
    } catch (...) { given.error = std::current_exception(), j.let_go(); }
    R await_resume() { return given.take(); }
};

// What co_await takes, and what it gives.
template <class A> decltype(auto) awaiter_of(A&& a) {
    if constexpr (requires { std::forward<A>(a).operator co_await(); })
        return std::forward<A>(a).operator co_await();
    else if constexpr (requires { operator co_await(std::forward<A>(a)); })
        return operator co_await(std::forward<A>(a));
    else return (a);
}
template <class A> concept awaitable = requires { awaiter_of(std::declval<A>()).await_ready(); };
template <awaitable A> using await_result = decltype(awaiter_of(std::declval<A>()).await_resume());

// Any awaitable as a task, for functions that need one: `timeout(1s, std::move(handle))` works as
// well as `timeout(1s, work())`, for the price of a frame.
template <class T> task<T> as_task(task<T> t) { return t; }
template <awaitable A> task<await_result<A>> as_task(A a) { co_return co_await std::move(a); }

// Calls f inside a task: f and its arguments live in the frame, as long as the task does. A
// lambda that is a coroutine keeps its captures in the lambda object, not in its frame: so somebody
// has to keep the lambda, and here it is a parameter. What an argument is converted to for the call
// has to live as long as the await, and would end with std::apply: so f is called in the co_await's
// own expression, and only pointers to members by way of that.
template <class F, class... A>
task<await_result<std::invoke_result_t<F&, A...>>> call(F f, A... args) {
    if constexpr (requires { f(std::move(args)...); }) co_return co_await f(std::move(args)...);
    else co_return co_await std::apply(f, std::forward_as_tuple(std::move(args)...));
}

// A child is to stop when its parent is, although it has not been cancelled itself yet.
struct [[nodiscard]] cancel_query : std::suspend_never {
    bool await_resume() const noexcept {
        const job* j = job::current;
        while (j && !j->stopping) j = j->parent();
        return j;
    }
};

// ---- 6. Groups ----------------------------------------------------------------------------------

// Children that one await waits for: the mechanism of everything that waits for several tasks, or
// for one in a way of its own: shield here, when_all, when_any and scope in executor.hpp. They
// differ in three answers: who must end well for a result, who is stopped when one ends, and
// whether the owner's cancel reaches the children.
//
//     (1) await_ready      (2) await_suspend          (3) finished, the last
//     children made ------> each has a runnable -----> the owner goes on: check(), and the results
//          |                     |      ^
//          |                     |      | (4) finished, not the last: may stop() the others
//          |                     +------+
//          +--- (5) before (2) something throws, or the owner is cancelled: destroyed, unrun
//
// A child is a job of its own. It is in the group's list and not in the executor's, and runs where
// its parent runs, through the parent's scheduler: so groups work with anybody's executor. The
// frame with the group stays until the last child has ended, whatever happens to the owner: a
// cancelled owner's group stops the children and waits for them. That is why children may borrow
// from the frame that waits for them, and why no cleanup is ever left to run on its own.
//
// A cancelled owner is resumed only by a full result, or by a shielded child's exception.
struct [[nodiscard]] group : waits<group> {
    // Who must end well for the group to have a result, and who stops the rest. all: every child;
    // the first that fails. any: one of them; the first that ends, well or not. shield: its one
    // child, which the owner's cancel does not reach.
    enum policy : std::uint8_t { all, any, shield };

    ring members;              // that have not ended
    int left = 0;              // how many that are
    std::exception_ptr error;  // the first
    const char* name;
    policy mode;
    bool stopping = false;
    int missing;  // results: of each child, or of one

    group(const char* n, policy p) : name(n), mode(p), missing(p != all) {}
    group(group&&) = default;
    ~group() {                    // of children that never began: (5)
        while (!members.empty())  // as they go they may add some
            members.each<job>([](job& j) { j.group = nullptr, j.watcher = nullptr, j.abandon(); });
    }
    // A child. Made in await_ready, if it can be: so what can fail fails before anything runs.
    // Throws std::bad_alloc.
    template <class T> owned<T> add(task<T>&& work) {
        owned<T> j(new job_of<T>(frame_of(work).release(), owner->by, owner->where, &members));
        j->watcher = owner, j->group = this;
        missing += mode == all, ++left;
        return j;
    }
    bool insists() const { return mode == shield; }
    void start(job&) {
        members.each<job>([this](job& j) { begin(j, owner->where); });
        if (stopping) members.each<job>([](job& j) { j.cancel(); });
        if (!left && missing <= 0) owner->spend(), owner->fulfil();  // there were none
    }
    // A child is spawned at `place`, and runnable.
    void begin(job& j, source place) {
        j.spawned = j.where = place;
        if (stopping) j.cancel();
        j.schedule();
    }
    // Cancels the children that have not ended. They end in their own runs, later: until the last
    // of them has, the group waits, and its owner with it. While start() is at work (the owner is
    // not suspended yet) this is left to it: no walk of the list goes on inside another.
    void stop() noexcept {
        if (std::exchange(stopping, true) || !owner->is(job::suspended)) return;
        members.each<job>([](job& j) { j.cancel(); });
    }
    // Throws what the owner is to learn when there is no result.
    void check() const {
        if (missing > 0) error ? std::rethrow_exception(error) : throw task_cancelled();
    }
    bool interrupt(job&) noexcept override { return mode != shield && (stop(), false); }
    void finished(job& j) noexcept override {
        // A child's exception may end other children as it goes: so it is the last to go.
        const std::exception_ptr e = j.is(job::failed) ? j.discard() : nullptr;
        if (!error) error = e;  // the first is the group's
        if (e) j.lost = true;
        missing -= !j.lost;
        if (--left == 0) {
            const bool result = missing <= 0 || (error && mode == shield);
            owner->let_go(result ? job::fulfilled : 0);  // which may be the end of this group
        } else if (j.lost || mode == any) stop();
    }
    std::string describe() const override { return name; }
    const ring* children() const override { return &members; }
};

// The group of those jobs that body(group) adds, which the await makes a value of by give(jobs).
// (Others may be added while it runs, whose values nobody takes: those of a scope.)
template <class F, class G> struct [[nodiscard]] led final : group {
    F body;
    G give;
    std::invoke_result_t<F&, group&> jobs;
    led(const char* n, policy p, F f, G g) : group(n, p), body(std::move(f)), give(std::move(g)) {}
    bool await_ready() {
        owner = job::current;  // already: add() asks it
        jobs = body(*this);
        return members.empty() && job::current->spend();
    }
    decltype(auto) await_resume() { return check(), give(jobs); }
};

// The value of a single one: for a shield, and for a scope, of the job that its body is.
inline constexpr auto value_of = [](auto& job) -> decltype(auto) { return job->take(); };

}  // namespace detail

// Waits for anything: once the job is suspended it calls f(waker), and goes on when that waker is
// woken. Gives what f returned, throws what it threw. In a job that is to stop f is not called.
template <detail::callable<waker> F> auto suspend(F f) { return detail::suspension(std::move(f)); }

// Runs a task, or another awaitable, to its end even if the awaiting job is cancelled meanwhile, or
// has been cancelled already; the cancel takes effect at the first suspension after it. For cleanup
// that has to await, and for what must be finished once it is begun. Gives the task's value, or
// rethrows its exception. Costs a job: it is a group of one. (Jobs that it spawns are not shielded:
// to share its work out it uses when_all or scope. And where it waits at an executor's end for what
// can never come, it is cancelled all the same.)
template <detail::awaitable A> auto shield(A work) {
    auto body = [work = detail::as_task(std::move(work))](
                    detail::group& g) mutable { return g.add(std::move(work)); };
    return detail::led("shield", detail::group::shield, std::move(body), detail::value_of);
}

// Is the running job, or one that waits for it as a child, to be stopped? For computations that
// take long, and under a shield. Never suspends.
inline auto cancel_requested() { return detail::cancel_query(); }

}  // namespace ringlet
