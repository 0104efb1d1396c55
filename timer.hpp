// ringlet/timer.hpp: when. Deadlines, and a clock that tests can turn.
//
//     #include <ringlet/timer.hpp>
//     using namespace std::chrono_literals;
//     ringlet::task<> slowly() { co_await ringlet::sleep_for(20ms); }
//
// A kernel timer for each sleep costs ten to a hundred times as much as what is here: one heap in
// user space, and its earliest deadline as the one timeout on the executor's sleep.
//
// A deadline's life:
//
//     (1) co_await                  (2) timer_heap::park             (3) timer_heap::park
//     computed ---> in the heap ---> the earliest bounds the sleep ---> the sleeper is runnable, or
//                       |                                       the timeout stops what it is around
//                       +--- (4) the job is cancelled, or the work is done: unlinked, at once
//
// A program with 10,000 connections has 10,000 timeouts, almost all of which are cancelled: so what
// counts is that to set and to cancel is cheap, and that nothing happens until one is really over.
//
//     read with a timeout of 10 s, the data is there after 1 ms: a place in the heap is taken and
//     given back, without a system call for either
//     nothing comes for 10 s: the loop's own sleep ends, since its limit was that deadline
//
// Deadlines are counted from the call, and kept as points on the monotonic clock: so a loop that
// takes its time does not add to them, and none is ever early. Late they are by 50 us and what it
// takes to wake up, as the thread's other sleeps (prctl(PR_SET_TIMERSLACK) before the ring is made,
// for other than 50): so those that lie close together end one sleep, not each its own. The clock
// is read once for each deadline that is computed, and once a look if nobody else has, or it slept:
// 30 ns, five yields.
#pragma once

#include "reactor.hpp"

namespace ringlet {

// ---- 1. The clock -------------------------------------------------------------------------------

//     ringlet::virtual_time clock;
//     auto begin = clock.now();
//     ringlet::block_on(retry_for_ten_minutes());  // at once
//     assert(clock.now() - begin == 10min);        // to the nanosecond, in every run
//
// While one exists, the timers of its thread run on a clock that stands still, and jumps to the
// next deadline when nothing is runnable and the ring has nothing to give: ten minutes of retries
// pass in microseconds, and always in the same way. (What takes real time outside is not waited
// for: files, which the kernel's workers look after, on older kernels pipes too; other processes.)
// It starts at the real time. One at a time: a second one on a thread is a std::logic_error.
class virtual_time {
    friend class timer_heap;
    std::int64_t time;
    inline static constinit thread_local virtual_time* active = nullptr;
    inline static constinit thread_local std::int64_t last_read = 0;  // since the last look, or 0

public:
    using time_point = std::chrono::steady_clock::time_point;
    virtual_time() : time(nanoseconds()) {
        if (active) throw std::logic_error("ringlet: a virtual_time exists on this thread");
        active = this;
    }
    virtual_time(virtual_time&&) = delete;
    ~virtual_time() { active = nullptr, last_read = 0; }

    // The virtual time while there is one, else the real.
    static time_point now() { return time_point(std::chrono::nanoseconds(nanoseconds())); }

    // As a number of nanoseconds.
    static std::int64_t nanoseconds() { return active ? active->time : detail::monotonic(); }
    // The same for who sets a deadline. The next look makes do with that reading: what has become
    // due since is found one look later, and a turn that sets a deadline reads the clock once.
    static std::int64_t read() { return last_read = nanoseconds(); }
};

// ---- 2. The heap --------------------------------------------------------------------------------

//                  3
//                  |
//        +-----+---+-+-----+
//        |     |     |     |
//        5     8     4     9
//        |
//     +--+--+--+
//     |  |  |  |
//     7  6  9  8
//
// Each deadline is no later than the four below it, so the first is the earliest. In an array:
// those below place i are at 4 i + 1 to 4 i + 4. To set one, it rises from the end past all that
// are later; where one leaves, the last takes its place, and rises or sinks from there.
//
// The timers of an executor, in front of its reactor: whoever parks, parks here first. Made by the
// first sleep or timeout; an executor without either has none.
//
// An array, because a deadline is compared with a dozen others on its way, and here they lie side
// by side: a tree with its links in the awaiters (a skew heap, a pairing heap) touches a cold line
// of memory for each, and took half as much again of CPU time for each of 100,000 sleepers. A
// wheel of slots was left out: it rounds deadlines to its slots, or needs several wheels. The array
// comes from the pool, and stays at the length it has needed: no timer allocates but those that are
// more than ever before.
class timer_heap final : public parker {
public:
    // A deadline in an awaiter, which is told when it is over. It knows its place in the heap, so
    // that it can leave from the middle.
    struct timer {
        std::int64_t deadline;       // nanoseconds on the monotonic clock; 0: over already
        timer_heap* heap = nullptr;  // while in it
        std::size_t place = 0;

        explicit timer(std::int64_t at) : deadline(at) {}
        virtual void expire(std::int64_t time) noexcept = 0;  // never: the heap ends, not the wait

        void leave() {  // whoever has one calls this at its end
            if (heap) heap->remove(*this);
        }
        std::string left() const {
            if (deadline == parker::never) return ", for ever";
            const auto ns = std::max(deadline - virtual_time::nanoseconds(), parker::now);
            return ", " + std::to_string(ns / 1000) + " us left";
        }
    };

    // The timers of the running executor. The first call makes them, and its ring. Throws what
    // reactor::here throws.
    [[gnu::always_inline]] static timer_heap& here() {
        executor& ex = executor::here();
        if (!ex.clock) ex.clock = std::make_unique<timer_heap>(ex);
        return static_cast<timer_heap&>(*ex.clock);
    }
    [[gnu::noinline]] explicit timer_heap(executor& e) : ex(e), io(reactor::here()), heap(64) {}
    // What is still here belongs to jobs of other loops, and nobody will look at it again: who
    // sleeps is cancelled (never early), and a timeout is over.
    ~timer_heap() override { expire(never); }

    // The earliest deadline, in nanoseconds on the monotonic clock; parker::never: none.
    std::int64_t earliest() const { return size ? heap[0].deadline : never; }

    // Throws std::bad_alloc.
    void add(timer& t) {
        if (t.deadline == never) return;
        if (heap.data() + size == std::to_address(heap.end())) grow();  // size() would divide by 24
        t.heap = this;
        const std::size_t last = size++;
        put(last, {t.deadline, ++count, &t});
        if (last) settle(last, heap[last]);
    }
    void remove(timer& t) {
        t.heap = nullptr;
        const entry& last = heap[--size];
        if (last.node != &t) settle(t.place, last);
    }

    // Two parkers in a row: the executor parks here, and this parks the reactor. What the reactor
    // finds and what the heap finds is runnable in the same turn, I/O first.
    //
    // Lets the reactor sleep, to the earliest deadline at most, and ends the waits that are over,
    // the earliest first. None of them runs before all are told.
    bool park(std::int64_t until) override {
        const bool hope = until == now ? io.park(now) : sleep(until);
        const std::int64_t read = std::exchange(virtual_time::last_read, 0);
        if (size) expire(read ? read : virtual_time::nanoseconds());
        return hope;
    }

private:
    // On a virtual clock the reactor does not sleep while a deadline is set: if nothing has come
    // the clock goes to the next one, whatever is still in flight. Only calls on other threads hold
    // it back (executor::outside): then, and without a deadline, it sleeps as usual.
    [[gnu::noinline]] bool sleep(std::int64_t until) {
        virtual_time* const clock = virtual_time::active;
        const bool jumps = clock && size && !ex.outside;
        const bool hope = io.park(jumps ? now : clock ? until : std::min(until, earliest()));
        if (jumps && ex.idle()) clock->time = std::max(clock->time, earliest());
        virtual_time::last_read = 0;  // time has passed
        return hope;
    }
    // Ends the waits whose deadline is not behind `time`.
    void expire(std::int64_t time) noexcept {
        while (size && heap[0].deadline <= time) {
            timer& t = *heap[0].node;
            remove(t);
            t.expire(time);
        }
    }
    struct entry {
        std::int64_t deadline;
        std::uint64_t order;  // equal deadlines: first set, first out
        timer* node;
        auto operator<=>(const entry&) const = default;
    };
    // Puts e into the hole at i, after those above that are later have come down into it, or those
    // below that are earlier have come up. Where there is one timer only nothing has to move, and
    // nobody comes here.
    [[gnu::noinline]] void settle(std::size_t i, const entry e) {
        for (std::size_t up; i && e < heap[up = (i - 1) / 4]; i = up) put(i, heap[up]);
        for (std::size_t down; (down = 4 * i + 1) < size; i = down) {
            for (std::size_t next = down + 1, end = std::min(down + 4, size); next < end; ++next)
                if (heap[next] < heap[down]) down = next;
            if (e < heap[down]) break;
            put(i, heap[down]);
        }
        put(i, e);
    }
    void put(std::size_t i, const entry& e) { e.node->place = i, heap[i] = e; }

    // Out of line, as settle and the constructor: with all this in their midst the awaits would not
    // be inlined.
    [[gnu::noinline]] void grow() { heap.resize(2 * size); }

    executor& ex;
    reactor& io;
    std::vector<entry, detail::pool_allocator<entry>> heap;  // the first `size` are in use
    std::size_t size = 0;
    std::uint64_t count = 0;
};

// ---- 3. Sleeping and giving up -----------------------------------------------------------------

namespace detail {

// A deadline that is over at once does not wait, but costs a unit of the budget, so that a loop of
// sleeps of no time lets the others run.
struct [[nodiscard]] sleep final : waits<sleep>, timer_heap::timer {
    explicit sleep(std::int64_t at) : timer(at) {}
    ~sleep() { leave(); }
    bool await_ready() {
        timer_heap& heap_here = timer_heap::here();
        return (deadline == 0 && job::current->spend()) || (heap_here.add(*this), false);
    }
    void start(job& j) { deadline ? true : j.spend(); }  // from the next run's budget
    void await_resume() const noexcept {}

    bool interrupt(job&) noexcept override { return leave(), true; }
    std::string describe() const override { return "sleep" + left(); }
    void expire(std::int64_t time) noexcept override {
        time == parker::never ? owner->cancel() : owner->let_go();
    }
};

// Durations come in every unit, whole and broken, and in 64 bits or more: they are compared as
// long double first, which can hold all of them, and converted from there only if they fit. (The
// usual ones, of 64 bits, go without: that saves 22 instructions of g++.)
//
// In nanoseconds, rounded up. Less than none is none; more than can be counted is never.
template <class Rep, class Period> std::int64_t count_of(std::chrono::duration<Rep, Period> d) {
    using unit = std::ratio_divide<Period, std::nano>;
    if constexpr (std::int64_t n = 0; std::is_same_v<Rep, std::int64_t> && unit::den == 1)
        if (!__builtin_mul_overflow(d.count(), unit::num, &n)) return std::max(n, parker::now);
    const std::chrono::duration<long double, std::nano> exact = d;
    if (!(exact.count() < static_cast<long double>(parker::never))) return parker::never;
    return exact.count() <= 0 ? 0 : std::chrono::ceil<std::chrono::nanoseconds>(exact).count();
}

// The point in time that is `d` from now; 0 if that is now.
template <class Rep, class Period> std::int64_t after(std::chrono::duration<Rep, Period> d) {
    std::int64_t at = count_of(d);
    return __builtin_add_overflow(at, at ? virtual_time::read() : 0, &at) ? parker::never : at;
}

// A task that is awaited as any other, and a deadline that stops the frames inside. They may still
// end well after that (a completion had come, or they are shielded): then the value counts, and
// nothing of it is lost. If the awaiter goes first, the deadline goes with it.
template <class T, bool Try> struct [[nodiscard]] timed final : section, timer_heap::timer {
    decltype(std::declval<task<T>>().operator co_await()) work;
    job* owner = nullptr;
    timed(std::bool_constant<Try>, std::int64_t at, task<T> t)
        : timer(at), work(std::move(t).operator co_await()) {}
    timed(timed&&) = default;
    [[gnu::always_inline]] ~timed() {
        if (owner) leave(), owner->leave(*this);
    }

    [[gnu::always_inline]] bool await_ready() {
        if (caller) throw std::logic_error("ringlet: a timeout is awaited twice");
        return timer_heap::here().add(*this), false;
    }
    bool await_suspend(auto h, source at = source::current()) {
        owner = &awaiting_job(h);
        outer = std::exchange(owner->inner, this);
        caller = h, inside = work.callee->frame(), where = at;
        return work.await_suspend(h);
    }
    [[gnu::always_inline]] decltype(auto) await_resume() {
        leave();  // the awaiter lives on, to the end of the expression,
        std::exchange(owner, nullptr)->leave(*this);  // and in a generator longer than the job
        if constexpr (Try) return work.outcome.attempt(!work.callee);
        else if (work.callee) return work.await_resume();
        else throw std::system_error(std::make_error_code(std::errc::timed_out), "timeout");
    }
    void drop() noexcept override { work.callee.reset(), inside = nullptr; }
    void expire(std::int64_t) noexcept override {
        if (!over()) stopped = true, owner->stop();
    }
    std::string describe() const override { return "timeout" + left(); }
};

}  // namespace detail

// Waits for at least `d` on the monotonic clock, counted from this call. Zero or less does not
// block. A time too long to be counted is never over. Costs no system call of its own. An
// executor's first sleep or timeout makes its ring, however short it is: the await throws
// std::system_error where io_uring is refused.
template <class Rep, class Period> auto sleep_for(std::chrono::duration<Rep, Period> d) {
    return detail::sleep(detail::after(d));
}
// Waits until the monotonic clock shows `t` or later.
template <class D> auto sleep_until(std::chrono::time_point<std::chrono::steady_clock, D> t) {
    const std::int64_t at = detail::count_of(t.time_since_epoch());
    return detail::sleep(at > virtual_time::nanoseconds() ? at : 0);
}

//     auto page = co_await ringlet::timeout(5s, get(url));             // or throws
//     auto name = co_await ringlet::try_timeout(5s, names.recv());     // or nullopt
//
// What is stopped is stopped as by a cancel: its frames are gone when the await is over, and what
// had come just in time is not lost. So a read under a timeout loses no bytes, and no descriptor.
//
// Gives the awaitable `d` from now to end, then cancels it and waits until it has let go. Gives its
// value or rethrows its exception, also if that came too late to be stopped; else throws
// std::system_error(timed_out), or, as try_timeout, gives nullopt (false for void, nullptr for U&).
// Costs a call, no kernel timer. Both throw std::system_error where io_uring is refused.
template <class Rep, class Period, detail::awaitable A>
[[gnu::always_inline]] inline auto timeout(std::chrono::duration<Rep, Period> d, A work) {
    return detail::timed(std::false_type(), detail::after(d), detail::as_task(std::move(work)));
}
template <class Rep, class Period, detail::awaitable A>
[[gnu::always_inline]] inline auto try_timeout(std::chrono::duration<Rep, Period> d, A work) {
    return detail::timed(std::true_type(), detail::after(d), detail::as_task(std::move(work)));
}

}  // namespace ringlet
