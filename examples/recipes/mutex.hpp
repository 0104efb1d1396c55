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

// n permits. Must outlive them; who waits for one when it is destroyed gets channel_closed.
class semaphore {
public:
    // The right to go on. Move-only; gives itself back.
    class permit {
    public:
        explicit permit(semaphore& s) : of(&s) {}
        permit(permit&& other) noexcept : of(std::exchange(other.of, nullptr)) {}
        permit& operator=(permit other) noexcept { return std::swap(of, other.of), *this; }
        ~permit() { reset(); }
        // Gives it back before that.
        void reset() {
            if (of) std::exchange(of, nullptr)->give();
        }

    private:
        friend class semaphore;
        semaphore* of;
    };

    explicit semaphore(std::size_t n) : free(n) {}
    // Waits for a permit, first come first served. Throws channel_closed if the semaphore goes before
    // one comes. (A template, as all coroutines in headers are.)
    template <class = void> task<permit> acquire() {
        auto got = try_acquire();
        const bool yields = got && ++taken % 128 == 0;  // so that a loop lets the others run
        if (yields) co_await yield_now();
        if (got) co_return std::move(*got);
        auto handed = co_await waiting.recv();
        if (!handed) throw channel_closed();
        co_return std::move(*handed);
    }
    // Without waiting. nullopt: there is none free.
    std::optional<permit> try_acquire() {
        if (!free) return std::nullopt;
        --free;
        return permit(*this);
    }

private:
    void give() {
        permit handed(*this);  // it is given on if the task that gets it ends first
        if (!waiting.try_send(std::move(handed))) ++free, handed.of = nullptr;
    }
    std::size_t free;
    unsigned taken = 0;
    channel<permit> waiting{0};
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
