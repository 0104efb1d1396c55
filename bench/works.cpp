// works: what ringlet costs, one small work at a time.
//
//   usage: works NAME COUNT
//
//   yield      10,000 tasks that yield COUNT / 10,000 times each
//   spawn      a task spawns a child that returns at once, and awaits its handle
//   call       a task awaits a child, which is not inlined, and returns at once
//   pingpong   two tasks send a number there and back, over two channels of capacity 1
//   timeout    a child that yields once, under a timeout of 10 seconds
//   sleep      COUNT tasks sleep a pseudo-random 1 to 50 ms
//   nop        64 tasks make COUNT / 64 requests each that do nothing
//   fread      64 tasks make COUNT / 64 random reads of 4 KiB each, of a cached file of 256 MiB
//   hello      block_on of a task that returns at once, COUNT times
//   bytes      COUNT tasks that loop over yields: the memory of one, as `bytes`
//
// Prints one line: the units done, and per unit the wall and CPU time in ns, the calls of malloc in
// the steady state, and the system calls of the ring. A first, shorter round goes uncounted. Exit
// code 1: a work has computed the wrong thing.

#include <ringlet/timer.hpp>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory_resource>
#include <string_view>

// ---- 1. What is counted -------------------------------------------------------------------------

namespace {
long allocations = 0;
}

// operator new comes here too.
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

void* malloc(std::size_t n) { return ++allocations, __libc_malloc(n); }
void* calloc(std::size_t n, std::size_t size) { return ++allocations, __libc_calloc(n, size); }
void* realloc(void* p, std::size_t n) { return ++allocations, __libc_realloc(p, n); }
void* aligned_alloc(std::size_t a, std::size_t n) { return ++allocations, __libc_memalign(a, n); }
int posix_memalign(void** p, std::size_t a, std::size_t n) {
    *p = aligned_alloc(a, n);
    return *p ? 0 : ENOMEM;
}
}

namespace {

using namespace ringlet;
using namespace std::chrono_literals;

// Of the round that is counted.
long enters = -1;  // of a work that uses the ring
long bytes = -1;

double now(clockid_t clock) {
    timespec t;
    clock_gettime(clock, &t);
    return static_cast<double>(t.tv_sec) * 1e9 + static_cast<double>(t.tv_nsec);
}

void expect(long value, long wanted) {
    if (value == wanted) return;
    std::fprintf(stderr, "works: %ld, where %ld was wanted\n", value, wanted);
    std::exit(1);
}

// 0 + 1 + ... + (n - 1)
long sum_below(long n) { return n * (n - 1) / 2; }

// xorshift64: the same numbers in each run, and in bench/raw.c.
struct random_numbers {
    std::uint64_t state;
    explicit random_numbers(std::uint64_t seed) : state(seed * 0x9e3779b97f4a7c15) {}
    std::uint64_t next() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return state;
    }
};

// ---- 2. Tasks and nothing else ------------------------------------------------------------------

constexpr long yielders = 10'000;
std::vector<join_handle<>> crowd;  // the memory of the first round serves the second

task<> yielder(long n) {
    for (long i = 0; i < n; ++i) co_await yield_now();
}
task<> yields(long n) {
    for (long i = 0; i < yielders; ++i) crowd.push_back(spawn(yielder(n / yielders)));
    for (auto& h : crowd) co_await std::move(h);
    crowd.clear();
}

task<int> child(int i) { co_return i; }
task<long> spawns(long n) {
    long sum = 0;
    for (long i = 0; i < n; ++i) {
        auto handle = spawn(child(static_cast<int>(i)));
        sum += co_await std::move(handle);
    }
    co_return sum;
}

[[gnu::noinline]] task<int> callee(int i) { co_return i; }
task<long> calls(long n) {
    long sum = 0;
    for (long i = 0; i < n; ++i) sum += co_await callee(static_cast<int>(i));
    co_return sum;
}

task<> ponger(channel<int>& in, channel<int>& out, long n) {
    for (long i = 0; i < n; ++i) {
        auto value = co_await in.recv();
        co_await out.send(*value);
    }
}
task<long> pings(long n) {
    channel<int> there(1), back(1);
    auto other = spawn(ponger(there, back, n));
    long sum = 0;
    for (long i = 0; i < n; ++i) {
        co_await there.send(static_cast<int>(i));
        auto value = co_await back.recv();
        sum += *value;
    }
    co_await std::move(other);
    co_return sum;
}

task<int> yielding_child(int i) {
    co_await yield_now();
    co_return i;
}
task<long> timeouts(long n) {
    long sum = 0;
    for (long i = 0; i < n; ++i) sum += co_await timeout(10s, yielding_child(static_cast<int>(i)));
    enters = static_cast<long>(reactor::stats().enters);
    co_return sum;
}

// ---- 3. Timers and the ring ---------------------------------------------------------------------

task<> sleeper(std::chrono::microseconds d) { co_await sleep_for(d); }
task<> sleeps(long n) {
    random_numbers random(1);
    crowd.reserve(static_cast<std::size_t>(n));
    for (long i = 0; i < n; ++i)
        crowd.push_back(spawn(sleeper(1ms + std::chrono::microseconds(random.next() % 49'000))));
    for (auto& h : crowd) co_await std::move(h);
    crowd.clear();
    enters = static_cast<long>(reactor::stats().enters);
}

constexpr long workers = 64;

task<> nopper(long n) {
    for (long i = 0; i < n; ++i) co_await io::nop();
}
task<> nops(long n) {
    std::array<join_handle<>, workers> handles;
    for (auto& h : handles) h = spawn(nopper(n / workers));
    for (auto& h : handles) co_await std::move(h);
    enters = static_cast<long>(reactor::stats().enters);
}

constexpr std::size_t block = 4096, blocks = 65536;

// A file without a name, whose pages are in memory since they have just been written.
int cached_file() {
    const char* directory = std::getenv("TMPDIR");
    std::string path = std::string(directory ? directory : "/tmp").append("/works-XXXXXX");
    const int fd = ::mkstemp(path.data());
    if (fd < 0) detail::fail(errno, path);
    ::unlink(path.c_str());
    const std::vector<char> data(1 << 20, 'x');
    for (std::size_t done = 0; done < block * blocks; done += data.size())
        if (::write(fd, data.data(), data.size()) != 1 << 20) detail::fail(errno, path);
    return fd;
}

task<long> reader(int fd, std::span<std::byte> into, std::uint64_t seed, long n) {
    random_numbers random(seed);
    long sum = 0;
    for (long i = 0; i < n; ++i) {
        const auto at = static_cast<std::int64_t>(random.next() % blocks * block);
        sum += static_cast<long>(co_await io::read(fd, into, at));
    }
    co_return sum;
}
task<long> reads(long n) {
    static const unique_fd file(cached_file());
    static std::byte buffers[workers][block];
    std::array<join_handle<long>, workers> handles;
    for (std::size_t i = 0; i < workers; ++i)
        handles[i] = spawn(reader(file, buffers[i], i + 1, n / workers));
    long sum = 0;
    for (auto& h : handles) sum += co_await std::move(h);
    enters = static_cast<long>(reactor::stats().enters);
    co_return sum;
}

// ---- 4. The memory of a task --------------------------------------------------------------------

struct counting_resource : std::pmr::memory_resource {
    void* do_allocate(std::size_t n, std::size_t alignment) override {
        bytes += static_cast<long>(n);
        return std::pmr::new_delete_resource()->allocate(n, alignment);
    }
    void do_deallocate(void* p, std::size_t n, std::size_t alignment) override {
        std::pmr::new_delete_resource()->deallocate(p, n, alignment);
    }
    bool do_is_equal(const memory_resource& o) const noexcept override { return this == &o; }
};

task<> spawn_yielders(long n) {
    crowd.reserve(static_cast<std::size_t>(n));
    const long before = bytes;
    for (long i = 0; i < n; ++i) crowd.push_back(spawn(yielder(2)));
    bytes -= before;
    for (auto& h : crowd) co_await std::move(h);
    crowd.clear();
}
void measure_bytes(long n) {
    counting_resource counting;
    frame_pool::use(&counting);
    bytes = 0;
    block_on(spawn_yielders(n));
    frame_pool::use(nullptr);
}

// ---- 5. The program -----------------------------------------------------------------------------

// -DONLY='"call"' builds one work alone. What a compiler inlines depends on all that it sees, and
// so each figure would on the other works.
#ifndef ONLY
#define ONLY ""
#endif
constexpr bool built(std::string_view name) {
    constexpr std::string_view only = ONLY;
    return only.empty() || only == name;
}

struct work {
    const char* name;
    void (*run)(long);
    long first;  // the units of the round that is not counted; 0: as many as of the other
    long step;   // the units are a multiple of it
};
const work works[] = {
    {"yield",
        [](long n) {
            if constexpr (built("yield")) block_on(yields(n));
        },
        yielders, yielders},
    {"spawn",
        [](long n) {
            if constexpr (built("spawn")) expect(block_on(spawns(n)), sum_below(n));
        },
        1000, 1},
    {"call",
        [](long n) {
            if constexpr (built("call")) expect(block_on(calls(n)), sum_below(n));
        },
        1000, 1},
    {"pingpong",
        [](long n) {
            if constexpr (built("pingpong")) expect(block_on(pings(n)), sum_below(n));
        },
        1000, 1},
    {"timeout",
        [](long n) {
            if constexpr (built("timeout")) expect(block_on(timeouts(n)), sum_below(n));
        },
        1000, 1},
    {"sleep",
        [](long n) {
            if constexpr (built("sleep")) block_on(sleeps(n));
        },
        0, 1},
    {"nop",
        [](long n) {
            if constexpr (built("nop")) block_on(nops(n));
        },
        6400, workers},
    {"fread",
        [](long n) {
            if constexpr (built("fread")) expect(block_on(reads(n)), n * 4096);
        },
        6400, workers},
    {"hello",
        [](long n) {
            if constexpr (built("hello"))
                for (long i = 0; i < n; ++i) expect(block_on(child(1)), 1);
        },
        1000, 1},
    {"bytes",
        [](long n) {
            if constexpr (built("bytes")) measure_bytes(n);
        },
        1000, 1},
};

int measure(const work& w, long count) {
    const long units = count / w.step * w.step;
    w.run(w.first ? w.first : units);
    const long allocated = allocations;
    const double wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    w.run(units);
    const auto n = static_cast<double>(units);
    std::printf("work=%s units=%ld wall_ns=%.2f cpu_ns=%.2f allocations=%.6f", w.name, units,
        (now(CLOCK_MONOTONIC) - wall) / n, (now(CLOCK_PROCESS_CPUTIME_ID) - cpu) / n,
        static_cast<double>(allocations - allocated) / n);
    if (enters >= 0) std::printf(" enters=%.6f", static_cast<double>(enters) / n);
    if (bytes >= 0) std::printf(" bytes=%.2f", static_cast<double>(bytes) / n);
    std::printf("\n");
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    const long count = argc == 3 ? std::atol(argv[2]) : 0;
    for (const work& w : works)
        if (count >= w.step && built(w.name) && std::strcmp(argv[1], w.name) == 0)
            return measure(w, count);
    std::fprintf(stderr, "usage: works NAME COUNT     (10,000 at least)     NAME:");
    for (const work& w : works) std::fprintf(stderr, " %s", w.name);
    std::fprintf(stderr, "\n");
    return 2;
}
