// asio: works of works.cpp as a user of Asio would write them, with its coroutines.
//
//   usage: asio yield|spawn|call|sleep COUNT
//
// A yield is a post to the task's own executor; a spawned child is joined by use_awaitable. Prints
// a line as works does.

#include <asio.hpp>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

namespace {

using asio::awaitable, asio::co_spawn, asio::detached, asio::use_awaitable;

constexpr long yielders = 100;
long finished = 0;

awaitable<void> yielder(long n) {
    const auto executor = co_await asio::this_coro::executor;
    for (long i = 0; i < n; ++i) co_await asio::post(executor, use_awaitable);
    ++finished;
}
void yields(asio::io_context& context, long n) {
    for (long i = 0; i < yielders; ++i) co_spawn(context, yielder(n / yielders), detached);
}

awaitable<int> child(int i) { co_return i; }
awaitable<void> parent(long n) {
    const auto executor = co_await asio::this_coro::executor;
    long sum = 0;
    for (long i = 0; i < n; ++i)
        sum += co_await co_spawn(executor, child(static_cast<int>(i)), use_awaitable);
    finished += sum == n * (n - 1) / 2;
}
void spawns(asio::io_context& context, long n) { co_spawn(context, parent(n), detached); }

[[gnu::noinline]] awaitable<int> callee(int i) { co_return i; }
awaitable<void> caller(long n) {
    long sum = 0;
    for (long i = 0; i < n; ++i) sum += co_await callee(static_cast<int>(i));
    finished += sum == n * (n - 1) / 2;
}
void calls(asio::io_context& context, long n) { co_spawn(context, caller(n), detached); }

awaitable<void> sleeper(std::chrono::microseconds d) {
    asio::steady_timer timer(co_await asio::this_coro::executor, d);
    co_await timer.async_wait(use_awaitable);
    ++finished;
}
void sleeps(asio::io_context& context, long n) {
    std::uint64_t random = 0x9e3779b97f4a7c15;
    for (long i = 0; i < n; ++i) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        co_spawn(context, sleeper(std::chrono::microseconds(1000 + random % 49'000)), detached);
    }
}

struct work {
    const char* name;
    void (*start)(asio::io_context&, long);
    long first;  // the units of the round that is not counted; 0: as many
    bool each;   // do all units finish, or one task for all?
};
const work works[] = {{"yield", yields, 1000, false}, {"spawn", spawns, 1000, false},
    {"call", calls, 1000, false}, {"sleep", sleeps, 0, true}};

double now(clockid_t clock) {
    timespec t;
    clock_gettime(clock, &t);
    return static_cast<double>(t.tv_sec) * 1e9 + static_cast<double>(t.tv_nsec);
}
void finish(const work& w, long n) {
    asio::io_context context(1);  // a hint: one thread
    finished = 0;
    w.start(context, n);
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
    std::fprintf(stderr, "usage: asio yield|spawn|call|sleep COUNT     (100 at least)\n");
    return 2;
}
