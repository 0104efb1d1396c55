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
// results (completions). A task's co_await writes a request, and the executor, when it looks at
// the reactor, hands over all of them and collects what has come, in a single system call.
//
// An operation's life:
//
//     (1) co_await        (2) park           (3) the kernel      (4) park
//     SQE written ------> submitted -------> in flight --------> completed ---> the job is runnable
//          |                                     ^    |              ^
//          |            (5) interrupt:           |    |              |
//          +--- cancel request, also submitted --+    +--------------+
//
//     (1) op::await_suspend        (2) reactor::enter      (4) reactor::reap, op::complete
//     (5) The job is cancelled. Its frame stays, since the kernel may still write into a buffer
//         there, until the operation's own completion has come: with -ECANCELED the frame goes,
//         with a result (the cancel came too late) the job goes on with it to its next suspension.
#pragma once

#include "executor.hpp"

#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <system_error>

namespace ringlet {

// ---- 1. Descriptors that close themselves -------------------------------------------------------

class unique_fd {
public:
    explicit unique_fd(int descriptor = -1) noexcept : fd(descriptor) {}
    unique_fd(unique_fd&& other) noexcept : fd(other.release()) {}
    unique_fd& operator=(unique_fd other) noexcept { return std::swap(fd, other.fd), *this; }
    ~unique_fd() { reset(); }

    int get() const noexcept { return fd; }
    int release() noexcept { return std::exchange(fd, -1); }
    void reset(int other = -1) noexcept {
        if (fd >= 0) ::close(fd);
        fd = other;
    }
    explicit operator bool() const& noexcept { return fd >= 0; }
    explicit operator bool() && noexcept { return fd >= 0; }
    // Reads as a descriptor where one is wanted, but not from a temporary, which closes it.
    operator int() const& noexcept { return fd; }
    operator int() && = delete;

private:
    int fd;
};

// ---- 2. The ring --------------------------------------------------------------------------------

// One ring for an executor, created at its first operation. Its errors are std::system_error.
class reactor final : public parker {
public:
    struct options {
        unsigned entries;  // of the submission ring; the completion ring has four times as many
        unsigned flags;    // IORING_SETUP_*; 0: the best that the kernel has
        explicit options(unsigned n = 64, unsigned f = 0) : entries(n), flags(f) {}
    };
    // Takes what the kernel answers to a request. Must live until the answer without
    // IORING_CQE_F_MORE. Runs inside the walk of the ring: note the result, wake a job, no more.
    class completion {
    public:
        virtual void complete(int result, unsigned flags) noexcept = 0;

    protected:
        ~completion() = default;
    };

    // The reactor of the running executor. The options count if this call creates it.
    static reactor& here(options o = options()) {
        auto& slot = detail::running_executor().io;
        if (!slot) slot = std::make_unique<reactor>(o);
        return static_cast<reactor&>(*slot);
    }

    explicit reactor(options o) {
        static const int watches = pthread_atfork(nullptr, nullptr, [] { ++forks; });
        static_cast<void>(watches);
        set_up(o);
        registered = io_uring_register_ring_fd(&ring) == 1;  // saves looking it up in each call
        io_uring_ring_dontfork(&ring);
    }
    reactor(reactor&&) = delete;
    ~reactor() override {
        if (forked()) {  // the ring is the parent's
            ::close(ring.ring_fd);
            return;
        }
        if (in_flight) cancel(nullptr, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
        while (in_flight) wait();
        io_uring_queue_exit(&ring);
    }

    // Makes room for a request, so that submit() cannot fail.
    void make_room() {
        if (forked()) throw std::logic_error("ringlet: a ring cannot be used after fork()");
        while (!io_uring_sq_space_left(&ring)) enter(0, nullptr);
    }
    // Writes a request: fill(io_uring_sqe*) sets all but its user_data. It goes to the kernel with
    // the next look.
    template <class Fill> void submit(completion& to, Fill& fill) {
        io_uring_sqe* const sqe = io_uring_get_sqe(&ring);
        *sqe = {};
        fill(sqe);
        io_uring_sqe_set_data(sqe, &to);
        ++in_flight;
    }
    bool forked() const { return forks != born; }
    // Asks the kernel to give up a request, whose completion comes all the same, only sooner. False
    // in a forked child: the request is not its own, and nothing will come.
    bool cancel(completion* which, int flags = 0) noexcept {
        if (forked()) return false;
        make_room();
        io_uring_sqe* const sqe = io_uring_get_sqe(&ring);
        io_uring_prep_cancel(sqe, which, flags);
        io_uring_sqe_set_data(sqe, nullptr);
        return true;
    }
    // Blocks until something has completed. For the destructor of a completion in flight.
    void wait() {
        enter(1, nullptr);
        reap();
    }

    bool park(std::int64_t until) override {
        if (forked()) return false;
        const bool hope = in_flight || until != never;
        if (until == now || !hope) {
            if (unsubmitted() || *ring.sq.kflags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW))
                enter(0, nullptr);
        } else if (until == never) {
            enter(1, nullptr);
        } else {
            timespec t;
            clock_gettime(CLOCK_MONOTONIC, &t);
            const auto left = std::max(until - (t.tv_sec * 1'000'000'000 + t.tv_nsec), now);
            __kernel_timespec limit{left / 1'000'000'000, left % 1'000'000'000};
            enter(1, &limit);
        }
        reap();
        return hope;
    }

private:
    // The flags are tried from the best to those of Linux 5.15; a ring that costs too much locked
    // memory is tried with half the entries.
    void set_up(options o) {
        constexpr unsigned all = IORING_SETUP_SUBMIT_ALL | IORING_SETUP_TASKRUN_FLAG;
        const unsigned ladder[] = {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | all,
            IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN | all,
            IORING_SETUP_COOP_TASKRUN | all, IORING_SETUP_SUBMIT_ALL, 0u};
        std::size_t rung = 0;
        for (unsigned entries = o.entries;;) {
            io_uring_params p{};
            p.flags = (o.flags ? o.flags : ladder[rung]) | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
            p.cq_entries = 4 * entries;
            const int e = io_uring_queue_init_params(entries, &ring, &p);
            if (e == 0) break;
            if (e == -EINVAL && !o.flags && ++rung < std::size(ladder)) continue;
            if (e == -ENOMEM && (entries /= 2) >= 8) continue;
            throw std::system_error(-e, std::system_category(), refusal(-e));
        }
        if (!(ring.features & IORING_FEAT_EXT_ARG)) {
            io_uring_queue_exit(&ring);
            throw std::system_error(ENOSYS, std::system_category(), refusal(ENOSYS));
        }
    }
    static const char* refusal(int e) {
        if (e == ENOSYS)
            return "ringlet: io_uring_setup: no io_uring here; it needs Linux 5.15 or later, and a "
                   "container that does not hide it (podman and gVisor do)";
        if (e == EPERM)
            return "ringlet: io_uring_setup: forbidden, by a seccomp profile (Docker has one; allow "
                   "io_uring_setup, io_uring_enter, io_uring_register) or by the sysctl "
                   "kernel.io_uring_disabled (set it to 0)";
        if (e == EACCES)
            return "ringlet: io_uring_setup: forbidden by a security module or sandbox";
        if (e == ENOMEM)
            return "ringlet: io_uring_setup: the limit of locked memory is reached; see `ulimit -l`, "
                   "and raise RLIMIT_MEMLOCK";
        return "ringlet: io_uring_setup";
    }

    unsigned unsubmitted() const { return ring.sq.sqe_tail - *ring.sq.khead; }

    // The one system call: submits what has been written, runs the kernel's deferred work, and
    // waits for `least` completions or for `limit`. liburing's own calls leave out GETEVENTS, with
    // which alone deferred completions arrive, or go back to sleep after a signal. What it returns
    // is of no interest: the rings say what has happened.
    void enter(unsigned least, __kernel_timespec* limit) {
        constexpr unsigned no_iowait = 1u << 7, has_no_iowait = 1u << 17;  // Linux 6.15
        unsigned flags = IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG;
        if (registered) flags |= IORING_ENTER_REGISTERED_RING;
        if (ring.features & has_no_iowait) flags |= no_iowait;
        io_uring_getevents_arg arg{};
        arg.sigmask_sz = _NSIG / 8;
        arg.ts = reinterpret_cast<std::uintptr_t>(limit);
        ring.sq.sqe_head = ring.sq.sqe_tail;
        io_uring_smp_store_release(ring.sq.ktail, ring.sq.sqe_tail);
        const int r = io_uring_enter2(static_cast<unsigned>(ring.enter_ring_fd), unsubmitted(),
            least, flags, reinterpret_cast<sigset_t*>(&arg), sizeof arg);
        if (r == -EBUSY || r == -EAGAIN) return reap();  // the kernel wants completions taken first
        if (r < 0 && r != -EINTR && r != -ETIME)
            throw std::system_error(-r, std::system_category(), "ringlet: io_uring_enter");
    }
    // Takes the completions. Only now, with all of them noted, may jobs run: one that submitted
    // while the ring is walked could overwrite what has not been read.
    void reap() noexcept {
        unsigned head = *ring.cq.khead;
        for (const unsigned tail = io_uring_smp_load_acquire(ring.cq.ktail); head != tail; ++head) {
            const io_uring_cqe& cqe = ring.cq.cqes[head & *ring.cq.kring_mask];
            if (!cqe.user_data) continue;  // a cancel request's own
            auto* const to = static_cast<completion*>(io_uring_cqe_get_data(&cqe));
            if (!(cqe.flags & IORING_CQE_F_MORE)) --in_flight;
            to->complete(cqe.res, cqe.flags);
        }
        io_uring_smp_store_release(ring.cq.khead, head);
    }

    inline static unsigned forks = 0;  // of this process, by now
    unsigned born = forks;
    io_uring ring;
    bool registered = false;
    unsigned in_flight = 0;
};

// ---- 3. Operations ------------------------------------------------------------------------------

namespace detail {

// One template serves all operations: fill in the request, suspend, carry the result. The await
// gives an R made of the kernel's number. `Throws`: an error is a std::system_error that names the
// operation, else it is the number, -errno.
template <class R, bool Throws, class Fill>
struct op final : waits<op<R, Throws, Fill>>, reactor::completion {
    op(const char* operation, Fill f) : name(operation), fill(std::move(f)) {}
    op(op&& other) noexcept : name(other.name), fill(std::move(other.fill)) {}
    ~op() {
        this->owner = nullptr;  // which is ending
        if (in && in->cancel(this))
            while (in) in->wait();
        if (std::is_same_v<R, unique_fd> && res >= 0) ::close(res);  // nobody is left to take it
    }
    // The same operation, whose await gives the number and throws nothing.
    auto result() && { return op<R, false, Fill>(name, std::move(fill)); }

    bool await_ready() {
        reactor::here().make_room();
        return false;
    }
    void start() {
        reactor::here().submit(*this, fill);
        in = &reactor::here();
    }
    auto await_resume() {
        const int n = std::exchange(res, -1);
        if constexpr (!Throws) return n;
        else if (n < 0) throw std::system_error(-n, std::system_category(), name);
        else return static_cast<R>(n);
    }

private:
    bool interrupt(job&) noexcept override { return !in->cancel(this); }
    void describe(std::string& out) const override { out += name; }
    void complete(int n, unsigned flags) noexcept override {
        // -512 is ERESTARTSYS, which the kernel should have kept to itself; a notification says only
        // that the buffer is free.
        if (!(flags & IORING_CQE_F_NOTIF)) res = n == -512 ? -EINTR : n;
        if (flags & IORING_CQE_F_MORE) return;
        in = nullptr;
        if (this->owner) res >= 0 ? this->owner->fulfil() : this->owner->let_go();
    }

    const char* name;
    Fill fill;
    reactor* in = nullptr;  // while in flight
    int res = -1;
};

template <class R, class Fill> auto request(const char* name, Fill fill) {
    return op<R, true, Fill>(name, std::move(fill));
}
template <class R, class... P, class... A>
auto request(const char* name, void (*prepare)(io_uring_sqe*, P...), A... a) {
    return request<R>(name, [=](io_uring_sqe* s) { prepare(s, a...); });
}
inline auto position(std::int64_t offset) { return static_cast<std::uint64_t>(offset); }
inline unsigned length(std::span<const std::byte> s) {
    return static_cast<unsigned>(
        std::min<std::size_t>(s.size(), 0x7ffff000));  // the kernel's limit
}
// A copy of a path, for the kernel to read when the request is submitted; as frames, from the pool.
template <class T> struct pool_allocator {
    using value_type = T;
    T* allocate(std::size_t n) { return static_cast<T*>(frame_pool::allocate(n * sizeof(T))); }
    void deallocate(T* p, std::size_t n) { frame_pool::deallocate(p, n * sizeof(T)); }
    bool operator==(const pool_allocator&) const { return true; }
};
using path = std::basic_string<char, std::char_traits<char>, pool_allocator<char>>;

}  // namespace detail

// The operations. Awaiting one gives its value, or throws std::system_error with its name; awaiting
// its result(), as in `int r = co_await io::read(fd, buffer).result()`, gives the kernel's number
// or -errno, and throws nothing. Buffers and descriptors are borrowed: they must live until the
// await is over. Paths and addresses are copied.
namespace io {

// Does nothing, by way of the kernel.
inline auto nop() { return detail::request<void>("nop", io_uring_prep_nop); }
// Reads at most into.size() bytes at `offset`; -1: at the file's position. 0 is the end.
inline auto read(int fd, std::span<std::byte> into, std::int64_t offset = -1) {
    return detail::request<std::size_t>("read", io_uring_prep_read, fd, into.data(),
        detail::length(into), detail::position(offset));
}
// Writes, perhaps not all. To a file it goes by a kernel worker, about 5 us more than write(2). A
// pipe without a reader raises SIGPIPE: ignore that signal.
inline auto write(int fd, std::span<const std::byte> from, std::int64_t offset = -1) {
    return detail::request<std::size_t>("write", io_uring_prep_write, fd, from.data(),
        detail::length(from), detail::position(offset));
}
// Opens a file, close-on-exec. With O_CREAT it goes by a kernel worker.
inline auto open(const char* path, int flags, mode_t mode = 0) {
    return detail::request<unique_fd>("open", [=, copy = detail::path(path)](io_uring_sqe* s) {
        io_uring_prep_openat(s, AT_FDCWD, copy.c_str(), flags | O_CLOEXEC, mode);
    });
}
inline auto close(int fd) { return detail::request<void>("close", io_uring_prep_close, fd); }
inline auto close(unique_fd fd) {
    return detail::request<void>("close",
        [fd = std::move(fd)](io_uring_sqe* s) mutable { io_uring_prep_close(s, fd.release()); });
}
inline auto socket(int domain, int type, int protocol = 0) {
    return detail::request<unique_fd>(
        "socket", io_uring_prep_socket, domain, type | SOCK_CLOEXEC, protocol, 0u);
}
inline auto connect(int fd, const sockaddr* address, socklen_t size) {
    sockaddr_storage copy;
    std::memcpy(&copy, address, std::min<std::size_t>(size, sizeof copy));
    return detail::request<void>("connect", [=](io_uring_sqe* s) {
        io_uring_prep_connect(s, fd, reinterpret_cast<const sockaddr*>(&copy), size);
    });
}
// Takes a connection. `address` and `size`, if given, receive the peer's.
inline auto accept(
    int fd, sockaddr* address = nullptr, socklen_t* size = nullptr, int flags = SOCK_CLOEXEC) {
    return detail::request<unique_fd>("accept", io_uring_prep_accept, fd, address, size, flags);
}
inline auto recv(int fd, std::span<std::byte> into, int flags = 0) {
    return detail::request<std::size_t>(
        "recv", io_uring_prep_recv, fd, into.data(), into.size(), flags);
}
// Sends, perhaps not all. A peer that is gone is EPIPE, not a signal.
inline auto send(int fd, std::span<const std::byte> from, int flags = MSG_NOSIGNAL) {
    return detail::request<std::size_t>(
        "send", io_uring_prep_send, fd, from.data(), from.size(), flags);
}
// Any other: fill(io_uring_sqe*) prepares the request; the await gives the kernel's number.
template <class Fill> auto op(Fill fill, const char* name = "io::op") {
    return detail::request<int>(name, std::move(fill));
}

}  // namespace io
}  // namespace ringlet
