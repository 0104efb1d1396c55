// recipes/multishot.hpp: one request, many completions. Accepting connections that way.
//
//     #include <ringlet/recipes/multishot.hpp>
//     ringlet::task<> serve(int listener) {
//         ringlet::io::accept_many clients(listener);
//         for (;;) {
//             ringlet::unique_fd client = co_await clients.next();
//             ringlet::spawn(talk(std::move(client))).detach();
//         }
//     }
//
// An operation of the reactor is one request and one answer. Some requests of the kernel go on: a
// multishot accept, poll or recv posts a completion for each connection or event, until one without
// the flag IORING_CQE_F_MORE, which is the last. It saves a request for each.
//
// The life of one:
//
//     (1) constructor      (2) complete                      (3) the last completion
//     armed ------------> results queue up, next() takes -----> ended; next() throws when the
//       |      ^             |          them one by one         queue is empty: make another
//       |      +-------------+                                    ^
//       +--- (4) destructor: cancelled, and reaped until (3) -----+
//
//     (3) It comes after a cancel or an error, and also when the kernel finds no room for more.
//     (4) The kernel has let go when the object goes; results that nobody took go with it.
#pragma once

#include <ringlet/timer.hpp>

namespace ringlet::io {

// A completion.
struct shot {
    int res;         // -errno, or what the request gives
    unsigned flags;  // IORING_CQE_F_*
    shot(int r, unsigned f) : res(r), flags(f) {}
};

// R is made of each completion's number and flags. If the number is something to be released, R is
// where: a result can arrive at any time up to the end of the multishot.
template <class R = shot> class multishot final : reactor::completion {
public:
    // Submits the request: prepare(io_uring_sqe*) fills it in, and need not live longer.
    template <class Prepare> explicit multishot(Prepare prepare) {
        reactor::here().submit(*this, prepare);
        in = &reactor::here();
    }
    multishot(multishot&&) = delete;
    ~multishot() {
        if (gone) *gone = true;
        if (in && in->cancel(this))
            while (in) in->wait();
    }
    // Will more come than what is queued?
    bool armed() const { return in; }
    // Waits for the next result. Throws channel_closed when the last has been taken. If the waiting
    // job is cancelled no result is lost.
    task<R> next() {
        std::optional<R> result = co_await results.recv();
        if (!result) throw channel_closed();
        co_return std::move(*result);
    }
    // The same with nullopt in the place of channel_closed.
    auto try_next() { return results.recv(); }

private:
    // Who takes the last may end this: a schedule function may run him on the spot.
    void complete(int n, unsigned flags) noexcept override {
        if (flags & IORING_CQE_F_MORE) return void(results.try_send(R(n, flags)));
        bool ended = false;
        in = nullptr, gone = &ended;
        results.try_send(R(n, flags));
        if (!ended) gone = nullptr, results.close();
    }

    reactor* in = nullptr;  // while armed
    bool* gone = nullptr;   // while the last is being handed over
    channel<R> results{std::size_t(-1)};
};

// Takes connections from a listening socket, as descriptors that are close-on-exec. What has been
// accepted and not taken is closed with it. Needs Linux 5.19.
class accept_many {
public:
    explicit accept_many(int listening) : listener(listening) {}

    // Waits for a connection. Where there are no descriptors or no memory left it waits until there
    // are, looking every 10 ms: the connections stay in the socket's backlog. Other errors, but not
    // that of a peer which is gone already, are std::system_error.
    template <class = void> task<unique_fd> next() {
        for (;;) {
            if (!shots) start();
            auto got = co_await shots->try_next();
            if (!got) continue;  // another task has the last one, and is about to end these
            connection c = std::move(*got);
            if (!(c.flags & IORING_CQE_F_MORE)) shots.reset();
            if (c.fd) co_return std::move(c.fd);
            if (!exhausted(c.error) && !passing(c.error))
                detail::fail(c.error, "accept on descriptor " + std::to_string(listener));
            if (exhausted(c.error)) co_await sleep_for(std::chrono::milliseconds(10));
        }
    }

private:
    struct connection {
        unique_fd fd;
        int error;
        unsigned flags;
        connection(int n, unsigned f) : fd(n), error(-n), flags(f) {}
    };
    void start() {
        shots.emplace([fd = listener](io_uring_sqe* s) {
            io_uring_prep_multishot_accept(s, fd, nullptr, nullptr, SOCK_CLOEXEC);
        });
    }
    static bool exhausted(int e) {
        return e == EMFILE || e == ENFILE || e == ENOBUFS || e == ENOMEM;
    }
    static bool passing(int e) { return e == ECONNABORTED || e == EINTR || e == EAGAIN; }

    int listener;
    std::optional<multishot<connection>> shots;  // none: not armed
};

}  // namespace ringlet::io
