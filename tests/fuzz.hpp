// Random programs. From a stream of choices comes a tree of tasks that spawn, join, wait together,
// give up, shield, sleep, talk through channels, pipes and sockets, throw, and cancel each other at
// random moments; the executor ends at a random moment too. Whatever the program, afterwards:
//
//   - every counted object (parameters, locals, items) has been destroyed, each once;
//   - no descriptor is left, and no frame or job (frame_pool::use would say so);
//   - bytes that were read, and those still in a pipe, are the bytes that were written;
//   - items that were received, and those still in a channel, are the items that were sent.
//
// The last two hold only if a completion beats a cancel, everywhere.
#pragma once

#include <dirent.h>
#include <netinet/in.h>
#include <sys/ioctl.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <ringlet/recipes/unblock.hpp>
#include <ringlet/timer.hpp>
#include <string>
#include <vector>

namespace fuzz {

using namespace std::chrono_literals;
using ringlet::join_handle;
using ringlet::task;
using ringlet::unique_fd;

// Where the choices come from: a seed, or the bytes of a fuzzer (all zero when they are used up).
class choices {
public:
    explicit choices(std::uint64_t seed) : random(seed) {}
    choices(const std::uint8_t* data, std::size_t size) : next(data), end(data + size) {}
    // Of 0 to n - 1.
    unsigned pick(unsigned n) {
        if (!next) return static_cast<unsigned>(random() % n);
        return next == end ? 0 : *next++ % n;
    }

private:
    std::mt19937_64 random;
    const std::uint8_t *next = nullptr, *end = nullptr;
};

struct thrown : std::exception {};

// Counts the objects that are alive.
class counted {
public:
    explicit counted(int& n) : alive(&n) { ++*alive; }
    counted(counted&& other) noexcept : alive(other.alive) { ++*alive; }
    counted& operator=(counted&&) noexcept { return *this; }
    ~counted() { --*alive; }

private:
    int* alive;
};

struct world {
    choices& c;
    int alive = 0, nodes = 0;
    int items_sent = 0, items_received = 0;
    std::size_t bytes_written = 0, bytes_read = 0;
    bool threads;
    std::vector<ringlet::waker> wakers;
    std::vector<join_handle<int>> handles;
    std::vector<std::unique_ptr<ringlet::channel<counted>>> channels;
    std::array<unique_fd, 2> pipe;
    unique_fd listener;
    sockaddr_in address{};

    world(choices& from, bool with_threads) : c(from), threads(with_threads) {
        for (std::size_t capacity = 0; capacity < 3; ++capacity)
            channels.push_back(std::make_unique<ringlet::channel<counted>>(capacity));
        int ends[2];
        if (::pipe(ends) != 0) std::abort();
        pipe[0].reset(ends[0]);
        pipe[1].reset(ends[1]);
    }
    void listen() {
        listener.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        auto* const a = reinterpret_cast<sockaddr*>(&address);
        socklen_t size = sizeof address;
        if (::bind(listener, a, size) != 0 || ::listen(listener, 8) != 0) std::abort();
        ::getsockname(listener, a, &size);
    }
    auto duration() { return std::chrono::microseconds(c.pick(50)); }
    ringlet::channel<counted>& channel() { return *channels[c.pick(3)]; }
};

inline task<int> node(world& w, int depth, counted parameter);
inline task<int> child(world& w, int depth) { return node(w, depth - 1, counted(w.alive)); }

// A detached task's exception would leave the run: it ends here.
inline task<> tolerant(task<int> work, [[maybe_unused]] counted parameter) {
    try {
        co_await std::move(work);
    } catch (const std::exception&) {}
}

inline task<> sends(world& w, ringlet::channel<counted>& to, [[maybe_unused]] counted parameter) {
    try {
        co_await to.send(counted(w.alive));
        ++w.items_sent;
    } catch (const ringlet::channel_closed&) {}
}
inline task<> receives(
    world& w, ringlet::channel<counted>& from, [[maybe_unused]] counted parameter) {
    auto item = co_await from.recv();
    if (item) ++w.items_received;
}
inline task<> writes(world& w, [[maybe_unused]] counted parameter) {
    std::array<std::byte, 100> bytes{};
    const auto n = 1 + w.c.pick(100);
    const std::size_t written = co_await ringlet::io::write(w.pipe[1], std::span(bytes).first(n));
    w.bytes_written += written;
}
inline task<> reads(world& w, [[maybe_unused]] counted parameter) {
    std::array<std::byte, 64> bytes{};
    const std::size_t n = co_await ringlet::io::read(w.pipe[0], bytes);
    w.bytes_read += n;
}
inline task<> accepts(world& w, [[maybe_unused]] counted parameter) {
    auto connection = co_await ringlet::io::accept(w.listener);
    std::array<std::byte, 4> bytes{};
    co_await ringlet::io::recv(connection, bytes);
}
inline task<> connects(world& w, [[maybe_unused]] counted parameter) {
    auto s = co_await ringlet::io::socket(AF_INET, SOCK_STREAM);
    co_await ringlet::io::connect(s, reinterpret_cast<sockaddr*>(&w.address), sizeof w.address);
    std::array<std::byte, 4> bytes{};
    co_await ringlet::io::send(s, bytes);
}
inline int busy(int n) { return n + 1; }

inline task<> wait_for_one_thing(world& w) {
    auto limit = w.duration();
    switch (w.c.pick(8)) {
        case 0: co_await ringlet::yield_now(); break;
        case 1: co_await ringlet::sleep_for(limit); break;
        case 2:
            co_await ringlet::suspend([&w](ringlet::waker k) { w.wakers.push_back(std::move(k)); });
            break;
        case 3: co_await sends(w, w.channel(), counted(w.alive)); break;
        case 4: co_await receives(w, w.channel(), counted(w.alive)); break;
        case 5: co_await writes(w, counted(w.alive)); break;
        case 6: co_await ringlet::try_timeout(limit, reads(w, counted(w.alive))); break;
        default:
            auto both = ringlet::when_all(
                accepts(w, counted(w.alive)), connects(w, counted(w.alive)));
            if (w.listener) co_await ringlet::try_timeout(limit + 1s, std::move(both));
    }
}

// Mostly not for ever, or most programs would be one deadlock.
inline task<> wait_for_something(world& w) {
    auto limit = w.duration();
    auto wait = wait_for_one_thing(w);
    const bool for_ever = w.c.pick(8) == 0;
    if (for_ever) co_await std::move(wait);
    else co_await ringlet::try_timeout(limit, std::move(wait));
}

inline task<> wait_together(world& w, int depth) {
    std::vector<task<int>> several;
    auto limit = w.duration();
    switch (w.c.pick(8)) {
        case 0: co_await ringlet::when_all(child(w, depth), wait_for_something(w)); break;
        case 1: co_await ringlet::when_any(child(w, depth), wait_for_something(w)); break;
        case 2:
            for (unsigned n = w.c.pick(4); n > 0; --n) several.push_back(child(w, depth));
            co_await ringlet::when_all(std::move(several));
            break;
        case 3:
            for (unsigned n = 1 + w.c.pick(3); n > 0; --n) several.push_back(child(w, depth));
            co_await ringlet::when_any(std::move(several));
            break;
        case 4: {
            counted borrowed(w.alive);
            auto body = [](ringlet::scope_ref s, world& of, int d) -> task<> {
                for (unsigned n = of.c.pick(4); n > 0; --n) s.spawn(child(of, d));
                co_await wait_for_something(of);
                s.spawn(child(of, d));
            };
            auto start = [&](ringlet::scope_ref s) { return body(s, w, depth); };
            co_await ringlet::scope(start);
            break;
        }
        case 5: co_await ringlet::timeout(limit, child(w, depth)); break;
        case 6: co_await ringlet::try_timeout(limit, child(w, depth)); break;
        default: co_await ringlet::shield(child(w, depth));
    }
}

inline task<> act_on_others(world& w, int depth) {
    join_handle<int> h;
    const auto count = static_cast<unsigned>(w.handles.size());
    if (count > 0) h = std::move(w.handles[w.c.pick(count)]);
    switch (w.c.pick(8)) {
        case 0: w.handles.push_back(ringlet::spawn(child(w, depth))); break;
        case 1: ringlet::spawn(tolerant(child(w, depth), counted(w.alive))).detach(); break;
        case 2:
            if (h) co_await std::move(h).try_join();
            break;
        case 3:
            if (h) co_await std::move(h).cancel();
            break;
        case 4:
            if (!w.wakers.empty()) w.wakers[w.c.pick(unsigned(w.wakers.size()))].wake();
            break;
        case 5: w.wakers.clear(); break;
        case 6:
            if (w.threads) co_await ringlet::unblock([] { return busy(1); });
            break;
        default:
            if (w.c.pick(4) == 0) w.channel().close();
    }
}

inline task<int> node(world& w, int depth, [[maybe_unused]] counted parameter) {
    counted local(w.alive);
    for (unsigned steps = 1 + w.c.pick(8); steps > 0; --steps) {
        const bool full = ++w.nodes > 300 || depth <= 0;
        switch (w.c.pick(8)) {
            case 0:
            case 1:
            case 2: co_await wait_for_something(w); break;
            case 3:
            case 4:
            case 5:
                if (!full) co_await wait_together(w, depth);
                break;
            case 6:
                if (!full) co_await act_on_others(w, depth);
                break;
            default:
                if (w.c.pick(12) == 0) throw thrown();
        }
    }
    co_return depth;
}

inline task<int> root(world& w) {
    for (unsigned n = w.c.pick(5); n > 0; --n)
        ringlet::spawn(tolerant(child(w, 4), counted(w.alive))).detach();
    int depth = co_await node(w, 4, counted(w.alive));
    co_return depth;
}

inline int descriptors() {
    int n = 0;
    DIR* const d = ::opendir("/proc/self/fd");
    while (::readdir(d)) ++n;
    ::closedir(d);
    return n;
}

// Runs one program, and says what is wrong afterwards; empty if nothing is.
inline std::string run(choices& c, bool threads) {
    const int before = descriptors();
    std::string wrong;
    const auto demand = [&wrong](bool holds, const char* what) {
        if (!holds) wrong.append(wrong.empty() ? "" : ", ").append(what);
    };
    {
        ringlet::virtual_time clock;
        world w(c, threads);
        if (c.pick(16) == 0) w.listen();
        {
            ringlet::executor ex;
            try {
                if (c.pick(3) != 0) ex.run(root(w));
                else {
                    w.handles.push_back(ex.spawn(root(w)));
                    for (unsigned ticks = c.pick(250); ticks > 0; --ticks) ex.try_tick();
                }
            } catch (const std::exception&) {}  // of the root, or a deadlock
            if (c.pick(2) == 0) w.handles.clear();
        }
        for (const auto& channel : w.channels)
            while (channel->try_recv()) ++w.items_received;
        int left = 0;
        ::ioctl(w.pipe[0], FIONREAD, &left);
        demand(w.bytes_written == w.bytes_read + static_cast<std::size_t>(left), "bytes are lost");
        demand(w.items_sent == w.items_received, "items are lost");
        w.handles.clear();
        w.wakers.clear();
        w.channels.clear();
        demand(w.alive == 0, "objects are left, or were destroyed twice");
    }
    demand(descriptors() == before, "descriptors are left");
    try {
        ringlet::frame_pool::use(nullptr);
    } catch (const std::logic_error&) { demand(false, "frames or jobs are left"); }
    return wrong;
}

}  // namespace fuzz
