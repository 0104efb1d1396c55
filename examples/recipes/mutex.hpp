// recipes/mutex.hpp: one at a time, or n at a time.
//
//     #include <ringlet/recipes/mutex.hpp>
//     ringlet::semaphore connections(10);
//     ringlet::task<> fetch() {
//         auto permit = co_await connections.acquire();  // given back when it goes out of scope
//         co_await ask_the_server();
//     }
//
// Tasks of one executor need no mutex for what happens between two awaits: nobody else runs there.
// They need one for what holds across an await. Both are a count, and a channel for those that it
// is not enough for: so whoever waits is served in turn, and a task that is cancelled while it
// waits, or just as a permit is handed to it, loses none. To give one back takes no memory.
#pragma once

#include <ringlet/executor.hpp>

namespace ringlet {

// n permits. Who waits for one when it is destroyed gets channel_closed. Permits may be out then: a
// server's semaphore lies in its accept loop, say, which ends before the connections that it has
// spawned.
class semaphore {
    struct state;

public:
    // The right to go on. Move-only; gives itself back.
    class permit {
    public:
        permit(permit&&) = default;
        permit& operator=(permit other) noexcept { return of.swap(other.of), *this; }
        ~permit() { reset(); }
        // Gives it back before that.
        void reset() {
            if (of) state::give(std::move(of));
        }

    private:
        friend class semaphore;
        explicit permit(std::shared_ptr<state> s) : of(std::move(s)) {}
        std::shared_ptr<state> of;
    };

    explicit semaphore(std::size_t n) : of(std::make_shared<state>()) { of->free = n; }
    semaphore(semaphore&&) = delete;
    ~semaphore() { of->close(); }
    // Waits for a permit, first come first served. Throws channel_closed if the semaphore goes before
    // one comes. (A template, as all coroutines in headers are.)
    template <class = void> task<permit> acquire() {
        auto got = try_acquire();
        const bool yields = got && ++of->taken % 128 == 0;  // so that a loop lets the others run
        if (yields) co_await yield_now();
        if (got) co_return std::move(*got);
        auto handed = co_await of->waiting.recv();
        if (!handed) throw channel_closed();
        co_return std::move(*handed);
    }
    // Without waiting. nullopt: there is none free.
    std::optional<permit> try_acquire() {
        if (!of->free) return std::nullopt;
        --of->free;
        return permit(of);
    }

private:
    // What it and its permits share.
    struct state {
        std::size_t free = 0;
        unsigned taken = 0;
        bool closed = false;
        channel<permit> waiting{0};
        void close() { closed = true, waiting.close(); }
        static void give(std::shared_ptr<state> s) {
            state& to = *s;
            permit handed(std::move(s));  // it is given on if the task that gets it ends first
            if (to.closed || !to.waiting.try_send(std::move(handed)))
                ++to.free, handed.of = nullptr;
        }
    };
    std::shared_ptr<state> of;
};

// A semaphore of one.
class mutex : semaphore {
public:
    using lock_type = permit;
    mutex() : semaphore(1) {}
    // As acquire and try_acquire: it is unlocked when what they give goes.
    auto lock() { return acquire(); }
    auto try_lock() { return try_acquire(); }
};

}  // namespace ringlet
