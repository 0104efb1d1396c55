// recipes/buffer_ring.hpp: receiving into buffers that the kernel chooses, a few for many sockets.
//
//     #include <ringlet/recipes/buffer_ring.hpp>
//     ringlet::task<> print(int socket) {
//         ringlet::io::recv_many incoming(socket);
//         for (;;) {
//             auto piece = co_await incoming.next();
//             if (piece.data().empty()) co_return;  // the end of the stream
//             std::fwrite(piece.data().data(), 1, piece.data().size(), stdout);
//         }
//     }
//     ringlet::task<> root(int socket) {
//         ringlet::io::buffer_ring buffers(64, 4096);
//         co_await print(socket);
//     }
//
// A receive that waits occupies its buffer all the time. With 10,000 connections that mostly wait it
// is better to give the kernel some buffers, of which it takes one when bytes have come. A single
// request then goes on receiving, as in multishot.hpp. Who holds a piece holds its buffer: when all
// are held the kernel receives no more, and in the end the senders wait. That is the back-pressure.
//
// A buffer's life:
//
//     (1) provide          (2) bytes have come            (3) next
//     the kernel's ------> in the line of a recv_many ------> a task's piece
//          ^                         |                            |
//          +----------- (5) ---------+------------ (4) -----------+
//
//     (2) When no buffer is left the request ends with ENOBUFS, and next() makes another after (4)
//     (4) the piece is destroyed    (5) so is the recv_many, the kernel having let go of its request
//
// Buffers are provided by requests (PROVIDE_BUFFERS, Linux 5.7), which go with the next look. The
// kernel's newer way, a ring of buffers that it shares with the program, saves these. But it has to be
// registered with the io_uring beforehand, by a call of its own, and its memory counts as locked. A
// receive that goes on needs Linux 6.0; before that next() throws EINVAL.
#pragma once

#include <ringlet/recipes/multishot.hpp>

namespace ringlet::io {

// The buffers, for all receivers of the executor that it is made in; one at a time on a thread. Must end
// before the executor does: a variable of the root, say. What a piece of it still shows then stays; a
// next() that comes later throws std::logic_error. Throws that too where another one is alive.
class buffer_ring final : reactor::completion {
public:
    // What has been received. Its buffer goes back to the kernel when it is destroyed.
    struct piece : shot {
        // Empty: the stream has ended.
        std::span<std::byte> data() const { return {buffer.get(), buffer ? unsigned(res) : 0u}; }
        piece(int n, unsigned f) : shot(n, f) {
            if (flags & IORING_CQE_F_BUFFER)
                buffer = {here->taken(flags >> IORING_CQE_BUFFER_SHIFT), {here->memory}};
            // A request that has ended needs no buffer any more: perhaps another one does.
            if (here && !(flags & IORING_CQE_F_MORE) && here->left) here->freed.try_send(true);
        }

    private:
        struct give_back {
            std::shared_ptr<std::byte[]> of;  // the memory of a buffer_ring that may be gone
            bool is_there() const { return here && here->memory == of; }
            void operator()(std::byte* b) const { is_there() ? here->provide(b, 1) : void(); }
        };
        std::unique_ptr<std::byte, give_back> buffer;
    };

    // `count` buffers (65,535 at most) of `bytes` bytes each.
    buffer_ring(int count, int bytes)
        : size(bytes), memory(new std::byte[std::size_t(count) * unsigned(bytes)]()) {
        if (here) throw std::logic_error("ringlet: a buffer_ring exists on this thread");
        provide(memory.get(), count);
        here = this;
    }
    ~buffer_ring() {
        request([](io_uring_sqe* s) { io_uring_prep_remove_buffers(s, 0xffff, 0); });
        while (requests && !in.forked()) in.wait();
        here = nullptr;
    }

private:
    friend class recv_many;
    void request(auto prepare) {
        if (!in.forked()) in.make_room(), in.submit(*this, prepare), ++requests;
    }
    void provide(std::byte* from, int count) {
        request([=, this](io_uring_sqe* s) {
            const auto number = static_cast<int>((from - memory.get()) / size);
            io_uring_prep_provide_buffers(s, from, size, count, 0, number);
        });
        left += count, freed.try_send(true);
    }
    std::byte* taken(unsigned number) { return --left, memory.get() + std::int64_t(number) * size; }
    // That of the running executor. Throws if there is none, or the kernel has refused a buffer.
    static buffer_ring& known() {
        if (!here || &here->in != &reactor::here())
            throw std::logic_error("ringlet: recv_many without a buffer_ring");
        if (here->error) detail::fail(here->error, "provide_buffers");
        return *here;
    }
    void complete(int n, unsigned) noexcept override { --requests, error = std::max(error, -n); }

    inline static constinit thread_local buffer_ring* here = nullptr;
    reactor& in = reactor::here();
    int size, requests = 0, left = 0, error = 0;  // left: buffers that the kernel has
    std::shared_ptr<std::byte[]> memory;          // that of a piece stays until it goes
    channel<bool> freed{0};                       // for those who wait for a buffer
};

// Receives from a socket: pieces in the order of the stream, none lost, whoever is cancelled.
class recv_many {
    int fd;
    std::optional<multishot<buffer_ring::piece>> shots;  // none: not armed

public:
    explicit recv_many(int socket) : fd(socket) {}

    // Waits for bytes, and for a buffer to hold them. Errors are std::system_error; std::logic_error if
    // there is no buffer_ring in this executor.
    template <class = void> task<buffer_ring::piece> next() {
        for (;;) {
            while (!shots && !buffer_ring::known().left) co_await buffer_ring::known().freed.recv();
            // Perhaps nothing comes here: the next who waits is to know of the buffer as well.
            if (!shots) shots.emplace(std::ref(*this));
            if (auto* const b = buffer_ring::here; b && b->left) b->freed.try_send(true);
            auto some = co_await shots->try_next();
            if (!some) continue;  // another task has the last one, and is about to end these
            if (!(some->flags & IORING_CQE_F_MORE)) shots.reset();
            if (some->res >= 0) co_return std::move(*some);
            if (some->res != -ENOBUFS) detail::fail(-some->res, "recv" + detail::on_descriptor(fd));
        }
    }
    void operator()(io_uring_sqe* s) const {
        io_uring_prep_recv_multishot(s, fd, nullptr, 0, 0);
        s->flags |= IOSQE_BUFFER_SELECT;
    }
};

}  // namespace ringlet::io
