// ringlet/reactor.hpp: what tasks wait for. io_uring, through liburing.
//
//     #include <ringlet/reactor.hpp>
//     ringlet::task<std::size_t> size_of(const char* path) {
//         std::byte buffer[4096];
//         std::size_t size = 0;
//         auto file = co_await ringlet::io::open(path, O_RDONLY);
//         for (;;) {
//             auto n = co_await ringlet::io::read(file, buffer);
//             if (n == 0) co_return size;
//             size += n;
//         }
//     }
//
// The kernel shares two rings with the program: one takes requests (submissions), one brings back
// results (completions). A task's co_await writes a request, a submission queue entry (SQE), and
// the executor, when it looks at the reactor, hands over all of them and collects what has come, in
// a single system call.
//
// An operation's life:
//
//     (1) co_await        (2) park           (3) the kernel      (4) park
//     SQE written ------> submitted -------> in flight --------> completed ---> the job is runnable
//          |                                     ^    |              ^
//          |            (5) interrupt:           |    |              |
//          +--- cancel request, also submitted --+    +--------------+
//
//     (1) op::await_ready          (2) reactor::enter      (4) reactor::reap, op::complete
//     (5) The job is cancelled. Its frame stays, since the kernel may still write into a buffer
//         there, until the operation's own completion has come: with an error (-ECANCELED, as a
//         rule) the frame goes, with a result (the cancel came too late) the job goes on with it to
//         its next suspension.
//
// Why completions and not readiness (epoll): a file is always ready, and yet a read of it blocks;
// the kernel does the work of a read itself, so a program saves a system call for each; and many
// requests go in with one call. The price is that a buffer belongs to the kernel from the request
// to the completion, whatever the program would like to do with it meanwhile. That price is what
// most of this header is about, and cancelling in particular: see (5).
//
// The chapters: 1 descriptors, 2 the ring, 3 operations.
#pragma once

#include "executor.hpp"

#include <liburing.h>  // and with it sys/socket.h, sys/uio.h, fcntl.h
#include <poll.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <span>
#include <system_error>  // std::min is in these: all of <algorithm> takes 4 % longer to compile

namespace ringlet {

namespace detail {
[[noreturn]] inline void fail(int error, const std::string& what) {
    throw std::system_error(error, std::system_category(), what);
}
// The clock of all deadlines, in nanoseconds.
inline std::int64_t monotonic() {
    return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}
}  // namespace detail

// ---- 1. Descriptors that close themselves -------------------------------------------------------

// The owner of a descriptor: what open, socket and accept give. If the task that was to get it has
// been cancelled by then, it closes itself like any other object that is not needed any more.
class unique_fd {
    int fd = -1;

public:
    unique_fd() = default;
    explicit unique_fd(int descriptor) noexcept : fd(descriptor) {}
    unique_fd(unique_fd&& other) noexcept : fd(other.release()) {}
    unique_fd& operator=(unique_fd other) noexcept { return std::swap(fd, other.fd), *this; }
    ~unique_fd() {
        if (fd >= 0) ::close(fd);
    }

    int get() const noexcept { return fd; }
    int release() noexcept { return std::exchange(fd, -1); }
    void reset(int other = -1) noexcept { *this = unique_fd(other); }
    explicit operator bool() const noexcept { return fd >= 0; }
    // Reads as a descriptor where one is wanted, but not from a temporary, which closes it.
    operator int() const& noexcept { return fd; }
    operator int() const&& = delete;
};

// ---- 2. The ring --------------------------------------------------------------------------------

// What a turn of the executor costs in system calls, with 50 connections that all have something to
// say: one. It submits the 50 requests that the last turn has written, and takes up to 50
// completions.
//
//     executor::turn     runs jobs; each that waits for I/O writes an SQE          no system call
//     executor::look     reactor::park: enter() hands over all, and waits          one, or none
//                        reap() notes the results; each fulfils a wait             no system call
//     executor::turn     runs the jobs that have become runnable
//
// (Linux runs at most 20 pieces of its own work for the ring in a call, beyond what is waited for:
// where all 50 have come at once, they take three.)
//
// No code of a task runs in park. A callback there could begin new operations while the ring is
// walked, and so walk it again from within; and the order of things would be hard to follow.
//
// One ring for an executor, created at its first operation. Its errors are std::system_error; to
// use it on another thread, or after fork(), is a std::logic_error.
class reactor final : public parker {
public:
    struct options {
        // Of the submission ring (the completion ring has four times as many); IORING_SETUP_*,
        // those of set_up(), 0: the best that the kernel has.
        unsigned entries, flags;
        options(unsigned n = 64, unsigned f = 0) : entries(n), flags(f) {}
    };
    // The kernel gives back, with each answer, 64 bits that came with the request: here the address
    // of one of these. So it must not move, nor go, before the last answer.
    //
    // Takes what the kernel answers to a request. Must live until the answer without
    // IORING_CQE_F_MORE, which says that more will follow. Runs inside the walk of the ring: note
    // the result, wake a job, no more; and submit only what there is room for. It is a wait too,
    // since most are, and so have one vtable to be written and not two; others leave that out.
    struct completion : detail::wait, detail::linked {
        bool asked = false;  // to end: in the list of those
        completion() = default;
        completion(completion&&) noexcept {}  // may move until it has been submitted
        virtual void complete(int result, unsigned flags) noexcept = 0;
    };

    // What has gone through the ring so far. `enters` beside `submitted` says how many requests
    // share a system call; `overflowed` above 0, that the ring is too small for the program:
    // nothing is lost then, but the kernel has to keep completions elsewhere.
    struct statistics {
        std::uint64_t enters = 0, submitted = 0, completed = 0;  // system calls; requests
        std::uint64_t overflowed = 0;  // looks at which the completion ring had been too small
        unsigned in_flight = 0;
    };
    //     reactor::on_submit = [](io_uring_sqe* s) {
    //         if (s->opcode == IORING_OP_READ) s->len = std::min(s->len, 3u);  // come short
    //     };
    //
    // For tests: may change each request of this thread before the kernel sees it, those to cancel
    // included (but not their flags: a cancel must not come late). So tests inject faults: a
    // shorter length, or a NOP (the request that does nothing) with a result of its own. Its
    // user_data is not set yet.
    using submit_hook = void (*)(io_uring_sqe*);
    inline static constinit thread_local submit_hook on_submit = nullptr;

    // The reactor of the running executor. The options count if this call creates it: so a program
    // that wants another size asks for it before its first operation. Throws std::logic_error where
    // no executor runs, std::system_error where there can be no ring.
    [[gnu::always_inline]] static reactor& here(options o = options()) {
        executor& ex = executor::here();
        if (!ex.io) ex.io.reset(new reactor(o));
        return static_cast<reactor&>(*ex.io);
    }

    // What has gone through it so far; of a reactor that is made for this call, if there is none.
    static const statistics& stats() { return here().counts; }

    // A child of fork() inherits the descriptor, through which it could submit to the parent's
    // ring, but not the rings' memory. A counter of the process says that it is one; getpid() would
    // be a system call. Each submit asks for less: is `mark` still what it was when this was made?
    [[gnu::noinline]] explicit reactor(options o) {
        [[maybe_unused]] static const int once = pthread_atfork({}, {}, [] { ++forks, mark = 0; });
        // The load is for ThreadSanitizer alone: what had this memory before, perhaps the ring of
        // another thread, has ended, and said so (in the destructor).
        set_up(o), void(threads.load());
        // Saves looking up the descriptor in each call.
        mode |= io_uring_register_ring_fd(&ring) == 1 ? IORING_ENTER_REGISTERED_RING : 0;
        io_uring_ring_dontfork(&ring);
    }
    reactor(reactor&&) = delete;
    // To close a ring is not to stop the kernel: it may go on writing into buffers, and keeps a
    // listening port. So what is still in flight, a recipe's multishot, say, is cancelled first,
    // and waited for.
    ~reactor() override {
        if (counts.in_flight && cancel(nullptr))
            while (counts.in_flight) wait();
        // The ring is registered in the table of the thread that made it, and of no other.
        if (home != mark) ring.int_flags = 0;
        // In a forked child it is the parent's. Else the next ring may get its memory, on another
        // thread. That it comes later only the kernel knows, so a count that both touch says it.
        forked() ? void(::close(ring.ring_fd)) : (++threads, io_uring_queue_exit(&ring));
    }

    // Makes room for a request, so that submit() has nothing to ask of the kernel. Throws
    // std::logic_error on another thread or after fork(), std::system_error if the kernel refuses.
    void make_room() {
        while (home != mark || !has_room()) [[unlikely]] flush();
    }
    // Readable when completions have come, for a poll loop that calls executor::try_tick then.
    // Work that the kernel defers (DEFER_TASKRUN) wakes nobody who sleeps on it: so a program with
    // such a loop makes a ring without that before the executor's first operation,
    //     ex.io = std::make_unique<reactor>(reactor::options(64, IORING_SETUP_COOP_TASKRUN));
    // or, before Linux 5.19, with IORING_SETUP_CLAMP alone. (epoll_wait gives EINTR now and then,
    // as the kernel does its work.) Throws std::logic_error where the ring is another.
    int descriptor() const {
        if (~ring.flags & IORING_SETUP_DEFER_TASKRUN) return ring.ring_fd;
        throw std::logic_error("ringlet: this ring does not wake a poll loop; give executor::io a "
                               "reactor with IORING_SETUP_COOP_TASKRUN before the first operation");
    }
    bool has_room() const { return unsubmitted() < ring.sq.ring_entries; }
    // Writes a request: fill(io_uring_sqe*) sets all but its user_data. It goes to the kernel with
    // the next look. Into a copy first: a fill may throw, or submit or cancel something itself. One
    // of ours only writes, and does so in the ring: a copy would wait for its stores to be through,
    // which is a tenth of a NOP.
    template <bool Ours = false> [[gnu::always_inline]] void submit(completion& to, auto fill) {
        if (Ours && !on_submit) [[likely]] {
            make_room();
            io_uring_sqe& request = ring.sq.sqes[ring.sq.sqe_tail++ & ring.sq.ring_mask] = {};
            fill(&request);
            request.user_data = reinterpret_cast<std::uintptr_t>(&to);
        } else push(fill, &to, 0);
        ++counts.in_flight, ++counts.submitted;
    }
    bool forked() const { return forks != born; }
    // The request to cancel is a request as well, which names the other by its address. Its own
    // answer says whether that was found, and may come before or after the other's. Two answers
    // count. EALREADY: the other was in the hands of a worker (a thread of the kernel, for what may
    // block), and nobody knows whether that has taken notice; it may wait for a peer again by now,
    // for ever. ENOENT: it may be a part of a chain that begins later. So all that have not ended
    // by then are asked again by the next looks, at most once a millisecond. (Not those that the
    // answers name: what has ended meanwhile may have left its address to another.)
    //
    // Asks the kernel to give up a request in flight (nullptr: all), whose completion comes all the
    // same, only sooner. False in a forked child: the request is not its own, and nothing will
    // come. A kernel that takes no more requests at all ends the program here: nobody could say
    // when the buffer is free.
    bool cancel(completion* which) noexcept {
        if (forked()) return false;
        if (which && !std::exchange(which->asked, true)) which->join(asked);
        constexpr int all = IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL;
        const auto fill = [=](auto* s) { io_uring_prep_cancel(s, which, which ? 0 : all); };
        return push(fill, which, 1), true;
    }
    // Blocks until something has completed. For the destructor of a completion in flight.
    [[gnu::noinline]] void wait() { park(never); }
    bool chained = false;  // has a request been a link of a chain (IOSQE_IO_LINK)?

    // There is hope while something is in flight, or a deadline bounds the sleep. Without either
    // nothing can come, and to sleep would be for ever: the executor is told, and reports a
    // deadlock.
    //
    // Nothing at all is done if nothing is in flight and nobody is to sleep. There is no system
    // call if nothing has been written, nothing is to be waited for, and the kernel has no work
    // deferred (TASKRUN) and no completions that found no room (CQ_OVERFLOW).
    bool park(std::int64_t until) override {
        return (!counts.in_flight && until == now) || (!forked() && look(until));
    }

private:
    [[gnu::noinline]] bool look(std::int64_t until) {
        const bool hope = counts.in_flight || until != never;
        if (too_early) until = std::min(until, ask_again());
        if (hope && until != now) enter(1, until);
        else if (unsubmitted() || *ring.sq.kflags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW))
            enter(0);
        reap();
        return hope;
    }

    // To make a ring and to end it takes about 50 us, and some pages of memory: so it is made at
    // the first operation, and a program without one never asks the kernel for it.
    //
    // The flags are tried from the best to those of Linux 5.15. DEFER_TASKRUN (6.1) lets
    // completions wait for the thread that asks for them, instead of interrupting it: a fifth of an
    // echo server's CPU. It needs SINGLE_ISSUER, the promise that one thread submits. COOP_TASKRUN
    // (5.19) is the next best. SUBMIT_ALL (5.18): one bad request does not hold up those behind it.
    // A ring that costs too much locked memory is tried with half the entries.
    void set_up(options o) {
        constexpr unsigned all = IORING_SETUP_SUBMIT_ALL, tells = IORING_SETUP_TASKRUN_FLAG;
        constexpr unsigned defer = IORING_SETUP_DEFER_TASKRUN, coop = IORING_SETUP_COOP_TASKRUN;
        constexpr unsigned one = IORING_SETUP_SINGLE_ISSUER;
        const unsigned ladder[] = {one | defer | all, one | coop | all, coop | all, all, 0u};
        constexpr unsigned more = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
        if (o.flags & ~(one | defer | coop | all | tells | more)) refuse(EINVAL);
        std::size_t rung = 0;
        for (unsigned entries = o.entries;;) {
            io_uring_params p{};
            p.flags = (o.flags ? o.flags : ladder[rung]) | more;
            if (p.flags & (defer | coop)) p.flags |= tells;  // of deferred work, which look() asks
            p.cq_entries = 4 * std::min(entries, 1u << 20);
            const int e = io_uring_queue_init_params(entries, &ring, &p);
            if (e == 0) break;
            if (e == -EINVAL && !o.flags && ++rung < std::size(ladder)) continue;
            if (e == -ENOMEM && (entries /= 2) >= 8) continue;
            refuse(-e);
        }
        // Where a standard descriptor is closed, the ring must not take its place: who reads from
        // it then would wait for himself.
        const int low = ring.ring_fd, high = low < 3 ? ::fcntl(low, F_DUPFD_CLOEXEC, 3) : -1;
        if (high >= 0) ::close(std::exchange(ring.ring_fd, high));
        ring.enter_ring_fd = ring.ring_fd;
        // Some who forbid io_uring forbid only its use: better told here than with work in flight.
        const bool waits = ring.features & IORING_FEAT_EXT_ARG;
        const int e = waits ? io_uring_enter(unsigned(ring.ring_fd), 0, 0, 0, nullptr) : -ENOSYS;
        if (e >= 0 || e == -EINTR || e == -EAGAIN || e == -EBUSY) return;
        io_uring_queue_exit(&ring);
        refuse(-e);
    }
    [[noreturn]] static void refuse(int e) {
        constexpr std::pair<int, const char*> causes[] = {
            {EINVAL, ": no entries, or flags that this kernel or this reactor has no use for"},
            {ENOSYS, ": no io_uring here; it needs Linux 5.15, and a container that shows it"},
            {EPERM, ": denied by seccomp (allow io_uring_*) or kernel.io_uring_disabled (set 0)"},
            {EACCES, ": forbidden by a security module or sandbox"},
            {ENOMEM, ": out of locked memory; raise RLIMIT_MEMLOCK (`ulimit -l`)"}};
        std::string text = "ringlet: io_uring_setup";
        for (const auto& [error, cause] : causes) text += error == e ? cause : "";
        detail::fail(e, text);
    }

    // Out of line, each of these: so the awaits, which seldom need them, are short and inlined.
    [[gnu::noinline]] void flush() { enter(0); }
    // The lowest bit of an address is free, and says that this is the request to cancel that one.
    [[gnu::noinline]] void push(auto& fill, const completion* to, std::uintptr_t cancels) {
        io_uring_sqe request{};
        fill(&request);
        if (on_submit) on_submit(&request);
        // Somebody waits for the answer. A cancel that a hook makes late could meet another
        // operation, which is at that address by then.
        constexpr unsigned link = IOSQE_IO_LINK | IOSQE_IO_HARDLINK;
        request.flags &= static_cast<__u8>(cancels ? 0 : ~IOSQE_CQE_SKIP_SUCCESS);
        chained |= request.flags & link;
        // Behind a request with a link it would be the next part of that chain, and wait for it:
        // so the chain goes to the kernel first, which ends it there.
        const io_uring_sqe& last = ring.sq.sqes[(ring.sq.sqe_tail - 1) & ring.sq.ring_mask];
        while (cancels && unsubmitted() && last.flags & link) flush();
        request.user_data = reinterpret_cast<std::uintptr_t>(to) | cancels;
        make_room();
        ring.sq.sqes[ring.sq.sqe_tail++ & ring.sq.ring_mask] = request;
    }
    // Repeats the cancels of all that have not ended, at most once a millisecond; says when next.
    [[gnu::cold]] std::int64_t ask_again() {
        if (asked.empty()) return too_early = false, never;
        const std::int64_t time = detail::monotonic();
        if (time < again) return again;
        too_early = false;
        asked.each<completion>([this](completion& c) { cancel(&c); });
        return again = time + 1'000'000;
    }
    // The requests that the kernel has not taken yet: its own place in the ring after the last call
    // says so, and not what that has returned, which may have been interrupted in the middle.
    unsigned unsubmitted() const { return ring.sq.sqe_tail - ring.sq.sqe_head; }

    // The one system call: submits what has been written, runs the kernel's deferred work, and
    // waits for `least` completions, or till `until`. Some of liburing's own calls leave out
    // GETEVENTS, without which deferred completions do not arrive; others sleep on after a signal.
    // How many requests it has taken is of no interest: the rings say that.
    [[gnu::noinline]] void enter(unsigned least, std::int64_t until = never) {
        if (home != mark)
            throw std::logic_error("ringlet: only its thread can use a ring, and no forked child");
        // Linux 6.15: to sleep here counts as idle, and not as the processor's waiting for a disk.
        constexpr unsigned no_iowait = 1u << 7, has_no_iowait = 1u << 17;
        const unsigned flags = mode | (ring.features & has_no_iowait ? no_iowait : 0);
        io_uring_getevents_arg arg{};
        __kernel_timespec limit;
        if (until != never) {
            std::int64_t left = until - detail::monotonic();
            left = left > now ? left + slack : now;
            limit = {left / 1'000'000'000, left % 1'000'000'000};
            arg.ts = reinterpret_cast<std::uintptr_t>(&limit);
        }
        io_uring_smp_store_release(ring.sq.ktail, ring.sq.sqe_tail);
        ++counts.enters;
        counts.overflowed += (*ring.sq.kflags & IORING_SQ_CQ_OVERFLOW) != 0;
        const int r = io_uring_enter2(static_cast<unsigned>(ring.enter_ring_fd), unsubmitted(),
            least, flags, reinterpret_cast<sigset_t*>(&arg), sizeof arg);
        ring.sq.sqe_head = *ring.sq.khead;
        if (r == -EBUSY || r == -EAGAIN) return reap();  // the kernel wants completions taken first
        if (r < 0 && r != -EINTR && r != -ETIME) detail::fail(-r, "ringlet: io_uring_enter");
    }
    // The two rings are memory shared with the kernel. Each has a head, where its reader is, and a
    // tail, where its writer is: of completions the kernel writes the tail, and this the head,
    // which says that the places before it may be written again.
    //
    // Takes the completions. Only behind this, with all of them noted, may jobs run: one that
    // submitted while the ring is walked, and found no room, would enter the kernel, and take these
    // again.
    // (A schedule function that runs jobs on the spot runs them in here all the same: they must not
    // fill the ring, nor wait for it in a destructor.)
    void reap() noexcept {
        unsigned head = *ring.cq.khead;
        for (const unsigned tail = io_uring_smp_load_acquire(ring.cq.ktail); head != tail; ++head) {
            const io_uring_cqe& cqe = ring.cq.cqes[head & ring.cq.ring_mask];
            const auto data = static_cast<std::uintptr_t>(cqe.user_data);
            if (data & 1) [[unlikely]] {  // a cancel request's own
                too_early |= cqe.res == -EALREADY || cqe.res == -ENOENT;
                continue;
            }
            auto* const to = reinterpret_cast<completion*>(data);
            if (!(cqe.flags & IORING_CQE_F_MORE)) {
                --counts.in_flight, ++counts.completed;
                if (to->asked) to->asked = false, to->unlink();
            }
            to->complete(cqe.res, cqe.flags);
        }
        io_uring_smp_store_release(ring.cq.khead, head);
    }

    inline static unsigned forks = 0;  // of this process, by now
    unsigned born = forks;
    // A number of this thread in this process; 0: none yet. So one comparison says that a ring is
    // used where it was made, not on another thread, nor in a forked child. (Not an address of the
    // thread's: the next thread may have that again. Rings that end use up numbers too.)
    inline static std::atomic<std::uint64_t> threads = 0;
    inline static constinit thread_local std::uint64_t mark = 0;
    const std::uint64_t home = mark = mark ? mark : ++threads;
    io_uring ring;
    unsigned mode = IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG;  // of each call
    // Of a thread's other sleeps (poll, nanosleep) the kernel makes one of those that end within so
    // many nanoseconds of each other, 50,000 unless told: it lets each end as much later. Not of a
    // ring's: so that is done here, and 10,000 sleepers within 50 ms cost half the calls.
    const std::int64_t slack = ::prctl(PR_GET_TIMERSLACK);
    statistics counts;
    detail::ring asked;      // to end, and have not yet
    bool too_early = false;  // some of them are to be asked again,
    std::int64_t again = 0;  // but not before
};

// ---- 3. Operations ------------------------------------------------------------------------------

namespace detail {

// A request's arguments live in the awaiter until the kernel has read them, which is later than the
// call: so a path or an array of buffers is copied, into a block of the pool.
template <class T> using copied = std::vector<T, pool_allocator<T>>;
inline auto copy(const char* path) { return copied<char>(path, path + std::strlen(path) + 1); }
auto kept(auto argument) { return argument; }
inline int kept(const unique_fd& fd) { return fd; }
void kept(const unique_fd&&) = delete;  // it would be closed before the operation begins
inline auto kept(std::span<const iovec> v) { return copied<iovec>(v.begin(), v.end()); }
template <class Byte, std::size_t N> Byte* kept(std::span<Byte, N> bytes) { return bytes.data(); }

// What the kernel is told of each: of a copy, where it is.
auto& given(auto& argument) { return argument; }
inline auto given(std::int64_t& offset) { return static_cast<std::uint64_t>(offset); }
inline auto given(sockaddr_storage& to) { return reinterpret_cast<const sockaddr*>(&to); }
template <class T> T* given(copied<T>& copy) { return copy.data(); }

// How often a request with these arguments may be written: 0, if they do not begin with what it
// works on, a path, or a number, which is taken for a descriptor.
template <class... A> constexpr int most = 0;
template <std::convertible_to<int> F, class... A> constexpr int most<F, A...> = 9;
template <class... A> constexpr int most<copied<char>, A...> = 9;
inline std::string on_descriptor(int fd) { return " on descriptor " + std::to_string(fd); }

// What close() keeps: the owner of the descriptor, until that is closed. (A close that waits for a
// worker can be cancelled.)
inline void disown(auto&) {}
inline void disown(std::optional<unique_fd>& owner) { owner->release(); }

//     read(fd, into, offset)          what the program calls: an op, which does nothing yet
//     co_await                        await_ready: an SQE, written by io_uring_prep_read(sqe, fd,
//                                     into.data(), into.size(), offset)
//                                     await_suspend: the job waits for this op
//     ... the kernel reads ...        complete(n): the number is noted, the job is runnable
//                                     await_resume: n as a std::size_t, or an exception
//
// One template serves all operations: prepare(sqe, arguments...) writes the request, the job
// suspends, the await gives an R made of the kernel's number. `Throws`: an error is a
// std::system_error that names the operation and its subject, else it is the number, -errno.
// `OnlyWrites`: prepare does no more than that, and cannot fail.
//
// Who may touch it: the frame, which it lies in, and from submit() to the last complete() the
// kernel, which knows its address and that of the buffer. So as long as `in` is set nobody may
// destroy the frame, and interrupt() says so: the job waits on, for the completion that the cancel
// brings. A result that came all the same is fulfil(): the job goes on with it. Only where nothing
// can be waited for any more is an op destroyed in flight, and then its destructor waits.
//
// What does not depend on the arguments is a base of its own, compiled once and not for each
// operation. (In one piece a program that used none of them took a tenth longer to compile.)
struct operation : waits<operation, reactor::completion> {
    const char* name;
    reactor* in = nullptr;  // while in flight
    int res = -1, again;    // how often it may be written again

    operation(const char* n, int times) : name(n), again(times) {}
    virtual void write(io_uring_sqe*) const = 0;

    bool insists() const { return in; }  // where `prepare` has cancelled the job that it is for
    bool interrupt(job&) noexcept override { return !in->cancel(this); }
    // Its name and its subject: a descriptor, or the path that goes with AT_FDCWD.
    std::string describe() const override {
        if (!again) return name;
        const io_uring_sqe s = request();
        if (s.fd != AT_FDCWD || !s.addr) return name + on_descriptor(s.fd);
        return name + (' ' + std::string(reinterpret_cast<const char*>(s.addr)));
    }
    io_uring_sqe request() const {
        io_uring_sqe s{};
        write(&s);
        if (s.opcode == IORING_OP_SPLICE) s.fd = s.splice_fd_in;
        return s;
    }
    [[noreturn, gnu::cold]] void raise(int error) const { fail(error, describe()); }
    [[gnu::noinline]] void reclaim() {
        owner = nullptr;  // which is ending
        if (in->cancel(this))
            while (in) in->wait();
    }
    [[gnu::always_inline]] void ended(int n, unsigned flags) {
        // A notification (of a send without a copy, by io::op) says only that the buffer is free.
        res = flags & IORING_CQE_F_NOTIF ? res : n;
        if (flags & IORING_CQE_F_MORE) return;
        in = nullptr;
        if (owner) owner->resume_for(res >= 0 ? job::fulfilled : 0);
    }
    // An error, or one answer of several. A signal can keep the kernel from starting a worker,
    // which it tells as ECANCELED. Those that work on a path or a file begin again then, since what
    // is done with one ends by itself; but not where there are chains, whose first part may have
    // failed. With another descriptor it may be that somebody did cancel it.
    [[gnu::noinline]] void rare(int n, unsigned flags) {
        if (n == -ECANCELED && owner && !owner->stopping && !in->chained && in->has_room())
            if (again > 1 && on_file() && again--)
                return in->submit<true>(*this, [this](io_uring_sqe* s) { write(s); });
        ended(n == -512 ? -EINTR : n, flags);  // ERESTARTSYS, which the kernel should have kept
    }
    bool on_file() const {  // AT_FDCWD, which a path follows, is a directory
        struct stat s;
        return !::fstatat(request().fd, "", &s, AT_EMPTY_PATH)
            && (S_ISREG(s.st_mode) || S_ISDIR(s.st_mode));
    }
};
template <class R, bool Throws, bool OnlyWrites, class With>
struct [[nodiscard]] op final : operation {
    mutable With with;  // calls what it is given with `prepare` and the arguments

    op(const char* n, int times, With w) : operation(n, times), with(std::move(w)) {}
    op(op&&) = default;
    ~op() {
        if (in) reclaim();
        if (std::is_same_v<R, unique_fd> && res >= 0) ::close(res);  // nobody is left to take it
    }
    // The same operation, whose await gives the number, also if that is an error. For those that
    // are nothing special: `int r = co_await io::recv(fd, buffer).result(); if (r <= 0) co_return;`
    // A descriptor that comes so has no owner: whoever has the number closes it.
    auto result() && { return op<R, false, OnlyWrites, With>(name, again, std::move(with)); }

    // The request is written here, where it can still throw: no ring, no room, a prepare that
    // fails. A job that is to stop begins nothing.
    [[gnu::always_inline]] bool await_ready() {
        if (job::current->stopping) return false;
        reactor& r = reactor::here();
        r.submit<OnlyWrites>(*this, [this](io_uring_sqe* s) { op::write(s); });
        return in = &r, false;
    }
    auto await_resume() {
        const int n = std::exchange(res, -1);
        if constexpr (!Throws) return n;
        else if (n >= 0) return static_cast<R>(n);
        else raise(-n);
    }

private:
    [[gnu::always_inline]] void write(io_uring_sqe* s) const override {
        with([s](auto& prepare, auto&... a) { prepare(s, detail::given(a)...); });
    }
    // The job may have ended in the meantime only if this op is being destroyed, and then `owner`
    // is none: see reclaim, which is waiting for just this call.
    void complete(int n, unsigned flags) noexcept override {
        if (n != -ECANCELED) with([](auto&, auto&... a) { (detail::disown(a), ...); });
        const bool usual = n >= 0 && !(flags & (IORING_CQE_F_MORE | IORING_CQE_F_NOTIF));
        usual ? ended(n, 0) : rare(n, flags);
    }
};

// Of bytes, no more than the kernel takes at once; of buffers, their number.
unsigned size_of(const auto& v) { return unsigned(std::min<std::size_t>(v.size(), 0x7ffff000)); }

// For read_exactly and write_all, which are at the end: one transfer after the other. To transfer
// nothing is an error of `reader`, if that is set: the end has come.
//
// Where a disk is full, or a file as large as it may be, the kernel has tried to write the rest as
// well when it says that a write came short, and then leaves the file's position where it was
// (Linux 6.18): so that is set here, or the rest would be written over what is there already.
template <auto Once>
task<std::size_t> whole(int fd, auto bytes, std::int64_t offset, const char* reader = nullptr) {
    std::size_t done = 0;
    for (std::size_t n = 0; done < bytes.size(); done += n) {
        const off_t at = offset < 0 && !reader ? ::lseek(fd, 0, SEEK_CUR) : -1;
        n = co_await Once(fd, bytes.subspan(done), offset);
        if (n == 0 && reader) fail(ENODATA, reader + on_descriptor(fd));
        if (offset >= 0) offset += static_cast<std::int64_t>(n);
        if (at >= 0 && n < bytes.size() - done && ::lseek(fd, 0, SEEK_CUR) == at)
            ::lseek(fd, at + static_cast<off_t>(n), SEEK_SET);
    }
    co_return done;
}

}  // namespace detail

// The operations. Awaiting one gives its value, or throws std::system_error with its name and what
// it works on; awaiting its result(), as in `int r = co_await io::read(fd, buffer).result()`, gives
// the kernel's number or -errno in the place of that exception. Buffers and descriptors are
// borrowed: they must live until the await is over. Paths, addresses and iovecs are copied. Those
// marked (worker) go by a thread of the kernel, which takes about 5 us more than the plain call: so
// a program that looks at many files has many such requests under way at a time. What never blocks
// is not here: bind, listen, shutdown and setsockopt are called directly.
namespace io {

//     co_await ringlet::io::op(io_uring_prep_symlink, "symlink", "notes-2026.txt", "notes.txt");
//     auto advise = [&](io_uring_sqe* s) {
//         io_uring_prep_fadvise(s, fd, 0, 0, POSIX_FADV_WILLNEED);
//     };
//     int r = co_await ringlet::io::op(advise, "fadvise").result();
//
// Any operation, and what those below are made of: fill(io_uring_sqe*) prepares the request, and
// the await gives the kernel's number, or, as op<unique_fd>, owns the descriptor that it is.
// `name`, and what the request points at, must live until the await is over; `fill` is kept in it,
// and called when it begins. With arguments it is fill(sqe, arguments...), a function of liburing's
// or another that only writes the request (and writes it again for an error's text); they are kept
// as well: of a span of bytes, where they are, of a unique_fd, its number. If a number or a path
// comes first, errors name the descriptor that the request has, or, with AT_FDCWD, the path.
// A link of a chain (IOSQE_IO_LINK) is made without arguments. (No IOSQE_IO_DRAIN: the kernel lets
// requests to cancel wait for it as well. A send without a copy that is cancelled still waits until
// the peer has taken what was queued of it, or is gone, which a silent one never is.)
template <class R = int, class... A> auto op(auto fill, const char* name = "io::op", A&&... a) {
    auto with = [fill = std::move(fill), ... its = detail::kept(std::forward<A>(a))](
                    auto use) mutable { return use(fill, its...); };
    return detail::op<R, true, (sizeof...(a) > 0), decltype(with)>(
        name, detail::most<A...>, std::move(with));
}
// Does nothing, by way of the kernel: what a round trip costs. (It takes an argument, an empty one,
// as a sign that its function only writes the request.)
inline auto nop() {
    return op<void>([](auto s, auto) { io_uring_prep_nop(s); }, "nop", detail::nothing());
}
// Reads at most into.size() bytes at `offset` (-1: at the file's position), and gives how many; 0
// is the end.
inline auto read(int fd, std::span<std::byte> into, std::int64_t offset = -1) {
    return op<std::size_t>(io_uring_prep_read, "read", fd, into, detail::size_of(into), offset);
}
// Writes, perhaps not all, and gives how many bytes (worker, for a file). Where a file takes no
// more, its position may not have moved with what it has taken: write_all sees to that. A pipe
// without a reader raises SIGPIPE (from Linux 6.4 on): ignore it.
inline auto write(int fd, std::span<const std::byte> from, std::int64_t offset = -1) {
    return op<std::size_t>(io_uring_prep_write, "write", fd, from, detail::size_of(from), offset);
}
// The same with several buffers, at most 1,024.
inline auto readv(int fd, std::span<const iovec> into, std::int64_t offset = -1) {
    return op<std::size_t>(io_uring_prep_readv, "readv", fd, into, detail::size_of(into), offset);
}
inline auto writev(int fd, std::span<const iovec> from, std::int64_t offset = -1) {
    return op<std::size_t>(io_uring_prep_writev, "writev", fd, from, detail::size_of(from), offset);
}
// Opens a file, close-on-exec (worker, with O_CREAT or O_TRUNC). A FIFO without another end is not
// waited for.
inline auto open(const char* path, int flags, mode_t mode = 0) {
    return op<unique_fd>(
        io_uring_prep_openat, "open", AT_FDCWD, detail::copy(path), flags | O_CLOEXEC, mode);
}
// Closes a descriptor, and tells of errors, which the destructor of a unique_fd cannot.
inline auto close(int fd) { return op<void>(io_uring_prep_close, "close", fd); }
inline auto close(unique_fd fd) {
    const auto fill = [](auto* s, int number, auto&) { io_uring_prep_close(s, number); };
    const int number = fd;
    return op<void>(fill, "close", number, std::optional(std::move(fd)));
}
// Brings a file's data to the disk (worker). flags: IORING_FSYNC_DATASYNC.
inline auto fsync(int fd, unsigned flags = 0) {
    return op<void>(io_uring_prep_fsync, "fsync", fd, flags);
}
// Fills in `into`, which must live until the await is over (worker). flags as of statx(2).
inline auto statx(const char* path, struct statx* into, int flags = 0, unsigned mask = 0xfff) {
    return op<void>(io_uring_prep_statx, "statx", AT_FDCWD, detail::copy(path), flags, mask, into);
}
// Gives a file another name, in the place of one that has it (worker).
inline auto rename(const char* from, const char* to) {
    return op<void>(io_uring_prep_rename, "rename", detail::copy(from), detail::copy(to));
}
// Removes a file, or with AT_REMOVEDIR an empty directory (worker).
inline auto unlink(const char* path, int flags = 0) {
    return op<void>(io_uring_prep_unlink, "unlink", detail::copy(path), flags);
}
// Makes a directory (worker).
inline auto mkdir(const char* path, mode_t mode = 0777) {
    return op<void>(io_uring_prep_mkdir, "mkdir", detail::copy(path), mode);
}
// A new socket, close-on-exec (Linux 5.19).
inline auto socket(int domain, int type, int protocol = 0) {
    auto fill = [=](auto s) { io_uring_prep_socket(s, domain, type | SOCK_CLOEXEC, protocol, 0); };
    return op<unique_fd>(fill, "socket");
}
// Connects; over when the peer has accepted or refused. The address is copied.
inline auto connect(int fd, const sockaddr* address, socklen_t size) {
    sockaddr_storage to;
    std::memcpy(&to, address, std::min<std::size_t>(size, sizeof to));
    return op<void>(io_uring_prep_connect, "connect", fd, to, size);
}
// For a server with many short connections see accept_many in recipes/multishot.hpp.
// Takes a connection, close-on-exec. `address` and `size`, if given, receive the peer's. flags:
// SOCK_NONBLOCK.
inline auto accept(int fd, sockaddr* address = nullptr, socklen_t* size = nullptr, int flags = 0) {
    return op<unique_fd>(io_uring_prep_accept, "accept", fd, address, size, flags | SOCK_CLOEXEC);
}
// Receives at most into.size() bytes; 0 is the end. With MSG_WAITALL: all of `into`, unless the
// stream ends, or the job is cancelled in the middle, or timed out: what has come counts then.
inline auto recv(int fd, std::span<std::byte> into, int flags = 0) {
    const auto fill = [](auto... a) { io_uring_prep_recv(a...); };
    return op<std::size_t>(fill, "recv", fd, into, detail::size_of(into), flags);
}
// Sends, perhaps not all; with MSG_WAITALL all, unless it is cancelled in the middle, or timed out:
// so look at the number under a timeout. A peer that is gone is EPIPE, not a signal.
inline auto send(int fd, std::span<const std::byte> from, int flags = 0) {
    const auto fill = [](auto... a) { io_uring_prep_send(a...); };
    return op<std::size_t>(fill, "send", fd, from, detail::size_of(from), flags | MSG_NOSIGNAL);
}
// `message`, and what it points at, must live until the await is over.
inline auto recvmsg(int fd, msghdr* message, unsigned flags = 0) {
    return op<std::size_t>(io_uring_prep_recvmsg, "recvmsg", fd, message, flags);
}
inline auto sendmsg(int fd, const msghdr* message, unsigned flags = 0) {
    return op<std::size_t>(io_uring_prep_sendmsg, "sendmsg", fd, message, flags | MSG_NOSIGNAL);
}
// For descriptors of other libraries, which read and write themselves when it is time.
// Waits until one of `events` (POLLIN and so on) holds; gives those that do. Urgent data (POLLPRI)
// ends the wait only if POLLIN is asked for as well: the kernel wakes nobody for that alone.
inline auto poll(int fd, unsigned events) { return op(io_uring_prep_poll_add, "poll", fd, events); }
// Moves at most n bytes from one descriptor to another, one of them a pipe (worker). -1: at the
// file's position, and for a pipe.
inline auto splice(int from, std::int64_t from_offset, int to, std::int64_t to_offset, unsigned n) {
    auto fill = [=](auto... a) { io_uring_prep_splice(a..., from_offset, to, to_offset, n, 0); };
    return op<std::size_t>(fill, "splice", from);
}

// A child's end is no operation on a descriptor, unless one asks for a descriptor of the process:
// that becomes readable then, and is waited for like any other.
//
// Waits for the end of a child process; gives its status, as of waitpid(2). A waitid by the ring
// (Linux 6.7) would do it too; a descriptor of the process has worked since 5.3. A template, as all
// coroutines of the headers: inline functions may be emitted twice by g++, if they are coroutines.
template <class = void> task<int> wait_pid(pid_t pid) {
    siginfo_t info;  // a process that is no child could be waited for as well, but has no status
    const int none = ::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT);
    const unique_fd process(none ? -1 : static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (!process) detail::fail(errno, "wait_pid " + std::to_string(pid));
    co_await poll(process, POLLIN);
    int status = 0;
    if (::waitpid(pid, &status, 0) < 0) detail::fail(errno, "wait_pid " + std::to_string(pid));
    co_return status;
}
// A transfer may come short at any time: from a socket, a pipe, a signal. These two go on where it
// stopped; a cancel in between loses what has been transferred, as with any sequence of reads.
//
// Reads until `into` is full; gives its size. Throws std::system_error(ENODATA) if the end comes
// before that.
inline auto read_exactly(int fd, std::span<std::byte> into, std::int64_t offset = -1) {
    return detail::whole<read>(fd, into, offset, "read_exactly");
}
// Writes all of `from`; gives its size. At a file's position it asks where that is, with an lseek
// for each transfer.
inline auto write_all(int fd, std::span<const std::byte> from, std::int64_t offset = -1) {
    return detail::whole<write>(fd, from, offset);
}

}  // namespace io
}  // namespace ringlet
