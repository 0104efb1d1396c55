// cost: what a unit of work costs among how many others.
//
//   usage: cost yield|spawn|message|timeout|timer CROWD COUNT
//
//   yield     CROWD tasks yield
//   spawn     CROWD tasks are spawned, return at once, and are awaited, again and again
//   message   CROWD / 2 pairs of tasks send a number there and back, over channels of capacity 1
//   timeout   CROWD tasks call a child that yields once, under a timeout of 10 to 20 seconds each
//   timer     CROWD tasks sleep a pseudo-random 1 to 50 ms, on a virtual clock
//
// COUNT units together, at least one for each task. Prints one line: the units done, and per unit
// the wall and CPU time in ns; and the memory of one task, as `bytes`: all that the frame pool has
// asked for, for one of the crowd. A first round, one unit for each, goes uncounted.

#include <ringlet/timer.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory_resource>
#include <string_view>

namespace {

using namespace ringlet;
using namespace std::chrono_literals;

struct counting_resource : std::pmr::memory_resource {
    std::size_t bytes = 0;
    void* do_allocate(std::size_t n, std::size_t alignment) override {
        bytes += n;
        return std::pmr::new_delete_resource()->allocate(n, alignment);
    }
    void do_deallocate(void* p, std::size_t n, std::size_t alignment) override {
        std::pmr::new_delete_resource()->deallocate(p, n, alignment);
    }
    bool do_is_equal(const memory_resource& o) const noexcept override { return this == &o; }
};

std::vector<join_handle<>> handles;  // the memory of the first round serves the second
std::uint64_t random_state = 0x9e3779b97f4a7c15;

// Between low and high: xorshift64, the same numbers in each run.
std::chrono::microseconds between(std::chrono::microseconds low, std::chrono::microseconds high) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return low
        + std::chrono::microseconds(
            random_state % static_cast<std::uint64_t>((high - low).count()));
}

task<> join_all() {
    for (auto& h : handles) co_await std::move(h);
    handles.clear();
}

task<> yielder(long n) {
    for (long i = 0; i < n; ++i) co_await yield_now();
}
task<> yields(long crowd, long each) {
    for (long i = 0; i < crowd; ++i) handles.push_back(spawn(yielder(each)));
    co_await join_all();
}

task<> child() { co_return; }
task<> spawns(long crowd, long each) {
    for (long round = 0; round < each; ++round) {
        for (long i = 0; i < crowd; ++i) handles.push_back(spawn(child()));
        co_await join_all();
    }
}

// Two messages are a round trip, and two tasks a pair: so each task has sent `each` of them.
struct pair {
    channel<int> there{1}, back{1};
};
task<> ponger(pair& p, long n) {
    for (long i = 0; i < n; ++i) {
        auto value = co_await p.there.recv();
        co_await p.back.send(*value);
    }
}
task<> pinger(long n) {
    pair p;
    auto other = spawn(ponger(p, n));
    for (long i = 0; i < n; ++i) {
        co_await p.there.send(static_cast<int>(i));
        co_await p.back.recv();
    }
    co_await std::move(other);
}
task<> messages(long crowd, long each) {
    for (long i = 0; i < crowd / 2; ++i) handles.push_back(spawn(pinger(each)));
    co_await join_all();
}

task<> yielding_child() { co_await yield_now(); }
task<> patient(long n) {
    for (long i = 0; i < n; ++i) co_await timeout(between(10s, 20s), yielding_child());
}
task<> timeouts(long crowd, long each) {
    for (long i = 0; i < crowd; ++i) handles.push_back(spawn(patient(each)));
    co_await join_all();
}

task<> sleeper(long n) {
    for (long i = 0; i < n; ++i) co_await sleep_for(between(1ms, 50ms));
}
task<> sleeps(long crowd, long each) {
    for (long i = 0; i < crowd; ++i) handles.push_back(spawn(sleeper(each)));
    co_await join_all();
}

struct work {
    std::string_view name;
    task<> (*run)(long crowd, long each);
};
constexpr work works[] = {{"yield", yields}, {"spawn", spawns}, {"message", messages},
    {"timeout", timeouts}, {"timer", sleeps}};

double now(clockid_t clock) {
    timespec t;
    clock_gettime(clock, &t);
    return static_cast<double>(t.tv_sec) * 1e9 + static_cast<double>(t.tv_nsec);
}
int measure(const work& w, long crowd, long each) {
    const virtual_time clock;
    static counting_resource counting;
    frame_pool::use(&counting);
    handles.reserve(static_cast<std::size_t>(crowd));
    block_on(w.run(crowd, 1));
    const double wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    block_on(w.run(crowd, each));
    const auto n = static_cast<double>(crowd * each);
    std::printf("work=%s units=%ld wall_ns=%.2f cpu_ns=%.2f bytes=%.2f\n", w.name.data(),
        crowd * each, (now(CLOCK_MONOTONIC) - wall) / n, (now(CLOCK_PROCESS_CPUTIME_ID) - cpu) / n,
        static_cast<double>(counting.bytes) / static_cast<double>(crowd));
    frame_pool::use(nullptr);
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    const long crowd = argc == 4 ? std::atol(argv[2]) / 2 * 2 : 0;
    const long count = argc == 4 ? std::atol(argv[3]) : 0;
    for (const work& w : works)
        if (crowd && count >= crowd && w.name == argv[1]) return measure(w, crowd, count / crowd);
    std::fprintf(stderr, "usage: cost yield|spawn|message|timeout|timer CROWD COUNT\n");
    return 2;
}
