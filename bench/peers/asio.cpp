// asio: works of works.cpp as a user of Asio would write them, with its coroutines.
//
//   usage: asio yield|spawn|call|pingpong|timeout|sleep COUNT
//
// A yield is a post to the task's own executor; a spawned child is joined by use_awaitable; the
// channels are those of asio::experimental; a timeout is `child || timer`. Prints a line as works
// does.
//
// -DEXECUTOR=asio::io_context::executor_type builds it with the concrete type of the executor in
// all types, which spares it the calls through any_io_executor.

#include <asio.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/experimental/channel.hpp>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <variant>

#ifndef EXECUTOR
#define EXECUTOR asio::any_io_executor
#endif

namespace {

using asio::co_spawn, asio::detached;
using executor = EXECUTOR;
template <class T> using awaitable = asio::awaitable<T, executor>;
using timer = asio::basic_waitable_timer<std::chrono::steady_clock,
    asio::wait_traits<std::chrono::steady_clock>, executor>;
using channel = asio::experimental::channel<executor, void(asio::error_code, int)>;
constexpr asio::use_awaitable_t<executor> use_awaitable;

constexpr long yielders = 10'000;
long finished = 0;

awaitable<void> yielder(long n) {
    const auto here = co_await asio::this_coro::executor;
    for (long i = 0; i < n; ++i) co_await asio::post(here, use_awaitable);
    ++finished;
}
void yields(executor on, long n) {
    for (long i = 0; i < yielders; ++i) co_spawn(on, yielder(n / yielders), detached);
}

awaitable<int> child(int i) { co_return i; }
awaitable<void> parent(long n) {
    const auto here = co_await asio::this_coro::executor;
    long sum = 0;
    for (long i = 0; i < n; ++i)
        sum += co_await co_spawn(here, child(static_cast<int>(i)), use_awaitable);
    finished += sum == n * (n - 1) / 2;
}
void spawns(executor on, long n) { co_spawn(on, parent(n), detached); }

[[gnu::noinline]] awaitable<int> callee(int i) { co_return i; }
awaitable<void> caller(long n) {
    long sum = 0;
    for (long i = 0; i < n; ++i) sum += co_await callee(static_cast<int>(i));
    finished += sum == n * (n - 1) / 2;
}
void calls(executor on, long n) { co_spawn(on, caller(n), detached); }

awaitable<void> ponger(channel& in, channel& out, long n) {
    for (long i = 0; i < n; ++i) {
        const int value = co_await in.async_receive(use_awaitable);
        co_await out.async_send(asio::error_code(), value, use_awaitable);
    }
}
awaitable<void> pinger(long n) {
    const auto here = co_await asio::this_coro::executor;
    channel there(here, 1), back(here, 1);
    co_spawn(here, ponger(there, back, n), detached);
    long sum = 0;
    for (long i = 0; i < n; ++i) {
        co_await there.async_send(asio::error_code(), static_cast<int>(i), use_awaitable);
        sum += co_await back.async_receive(use_awaitable);
    }
    finished += sum == n * (n - 1) / 2;
}
void pings(executor on, long n) { co_spawn(on, pinger(n), detached); }

awaitable<int> yielding_child(int i) {
    co_await asio::post(co_await asio::this_coro::executor, use_awaitable);
    co_return i;
}
awaitable<void> caller_with_timeout(long n) {
    using namespace asio::experimental::awaitable_operators;
    timer limit(co_await asio::this_coro::executor);
    long sum = 0;
    for (long i = 0; i < n; ++i) {
        limit.expires_after(std::chrono::seconds(10));
        const auto first = co_await (
            yielding_child(static_cast<int>(i)) || limit.async_wait(use_awaitable));
        sum += std::get<0>(first);
    }
    finished += sum == n * (n - 1) / 2;
}
void timeouts(executor on, long n) { co_spawn(on, caller_with_timeout(n), detached); }

awaitable<void> sleeper(std::chrono::microseconds d) {
    timer over(co_await asio::this_coro::executor, d);
    co_await over.async_wait(use_awaitable);
    ++finished;
}
void sleeps(executor on, long n) {
    std::uint64_t random = 0x9e3779b97f4a7c15;
    for (long i = 0; i < n; ++i) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        co_spawn(on, sleeper(std::chrono::microseconds(1000 + random % 49'000)), detached);
    }
}

struct work {
    const char* name;
    void (*start)(executor, long);
    long first;  // the units of the round that is not counted; 0: as many
    bool each;   // do all units finish, or one task for all?
};
const work works[] = {{"yield", yields, yielders, false}, {"spawn", spawns, 1000, false},
    {"call", calls, 1000, false}, {"pingpong", pings, 1000, false},
    {"timeout", timeouts, 1000, false}, {"sleep", sleeps, 0, true}};

double now(clockid_t clock) {
    timespec t;
    clock_gettime(clock, &t);
    return static_cast<double>(t.tv_sec) * 1e9 + static_cast<double>(t.tv_nsec);
}
void finish(const work& w, long n) {
    asio::io_context context(1);  // a hint: one thread
    finished = 0;
    w.start(context.get_executor(), n);
    context.run();
    if (finished == (w.each ? n : w.start == yields ? yielders : 1)) return;
    std::fprintf(stderr, "asio: a wrong result\n");
    std::exit(1);
}
int measure(const work& w, long count) {
    const long units = count / yielders * yielders;
    finish(w, w.first ? w.first : units);
    const double wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    finish(w, units);
    const auto n = static_cast<double>(units);
    std::printf("work=%s units=%ld wall_ns=%.2f cpu_ns=%.2f\n", w.name, units,
        (now(CLOCK_MONOTONIC) - wall) / n, (now(CLOCK_PROCESS_CPUTIME_ID) - cpu) / n);
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc == 2 && std::strcmp(argv[1], "version") == 0)
        return std::printf("%d.%d.%d\n", ASIO_VERSION / 100000, ASIO_VERSION / 100 % 1000,
                   ASIO_VERSION % 100)
            < 0;
    const long count = argc == 3 ? std::atol(argv[2]) : 0;
    for (const work& w : works)
        if (count >= yielders && std::strcmp(argv[1], w.name) == 0) return measure(w, count);
    std::fprintf(stderr, "usage: asio NAME COUNT     (10,000 at least)     NAME:");
    for (const work& w : works) std::fprintf(stderr, " %s", w.name);
    std::fprintf(stderr, "\n");
    return 2;
}
