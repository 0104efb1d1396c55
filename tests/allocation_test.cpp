// Memory: no allocation in steady state, the mode without a heap, and what happens when memory runs out at any
// moment. Every allocation of this program is counted: malloc itself is replaced here, or operator new where a
// sanitizer has replaced malloc.
#include <doctest/doctest.h>

#include <dirent.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <memory_resource>
#include <new>
#include <optional>
#include <ringlet/timer.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MALLOC_IS_TAKEN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)                            \
    || __has_feature(memory_sanitizer)
#define MALLOC_IS_TAKEN 1
#endif
#endif

namespace {
long allocations = 0;
}

#ifdef MALLOC_IS_TAKEN

void* operator new(std::size_t n) {
    ++allocations;
    if (void* const p = std::malloc(n ? n : 1)) return p;
    throw std::bad_alloc();
}
void* operator new(std::size_t n, std::align_val_t alignment) {
    ++allocations;
    const auto a = static_cast<std::size_t>(alignment);
    if (void* const p = std::aligned_alloc(a, (n + a - 1) / a * a)) return p;
    throw std::bad_alloc();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

#else

extern "C" {
void* __libc_malloc(std::size_t n) noexcept;
void* __libc_calloc(std::size_t n, std::size_t size) noexcept;
void* __libc_realloc(void* p, std::size_t n) noexcept;
void* __libc_memalign(std::size_t alignment, std::size_t n) noexcept;

void* malloc(std::size_t n) noexcept {
    ++allocations;
    return __libc_malloc(n);
}
void* calloc(std::size_t n, std::size_t size) noexcept {
    ++allocations;
    return __libc_calloc(n, size);
}
void* realloc(void* p, std::size_t n) noexcept {
    ++allocations;
    return __libc_realloc(p, n);
}
void* aligned_alloc(std::size_t alignment, std::size_t n) noexcept {
    ++allocations;
    return __libc_memalign(alignment, n);
}
int posix_memalign(void** p, std::size_t alignment, std::size_t n) noexcept {  // g++ 14's new
    *p = aligned_alloc(alignment, n);
    return *p ? 0 : ENOMEM;
}
}

#endif

using namespace std::chrono_literals;
using ringlet::block_on;
using ringlet::executor;
using ringlet::frame_pool;
using ringlet::join_handle;
using ringlet::sleep_for;
using ringlet::task;
using ringlet::unique_fd;
using ringlet::virtual_time;
using ringlet::waker;
using ringlet::yield_now;
namespace io = ringlet::io;

namespace {

// ---- helpers -----------------------------------------------------------------------------------

struct pipe_ends {
    pipe_ends() {
        int ends[2];
        REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
        out.reset(ends[0]);
        in.reset(ends[1]);
    }
    unique_fd out, in;
};

std::set<std::string> open_descriptors() {
    std::set<std::string> names;
    DIR* const folder = opendir("/proc/self/fd");
    REQUIRE(folder != nullptr);
    while (const dirent* const entry = readdir(folder)) names.insert(entry->d_name);
    names.erase(std::to_string(dirfd(folder)));
    closedir(folder);
    return names;
}

// Counts the living.
class guard {
public:
    explicit guard(int& alive) : alive_(&alive) { ++*alive_; }
    guard(const guard& other) : alive_(other.alive_) { ++*alive_; }
    guard& operator=(const guard&) = delete;
    ~guard() { --*alive_; }

private:
    int* alive_;
};

// Not inlined: clang would put the frame of a call that it can see through into the caller's.
[[gnu::noinline]] task<int> give(int n) { co_return n; }
[[gnu::noinline]] task<int> sum_to(int n) {
    int below = 0;
    if (n > 0) below = co_await sum_to(n - 1);
    co_return n + below;
}
task<int> yield_and_give(int n) {
    co_await yield_now();
    co_return n;
}

// The allocations that a thousand rounds make, after the first hundred.
template <class F> task<long> count_rounds(F& round) {
    for (int i = 0; i < 100; ++i) co_await round();
    const long before = allocations;
    for (int i = 0; i < 1000; ++i) co_await round();
    co_return allocations - before;
}
template <class F> long steady(F round) { return block_on(count_rounds(round)); }

}  // namespace

TEST_CASE("the counter counts") {
    long before = allocations;
    void* (*volatile const allocate)(std::size_t) = [](std::size_t n) { return ::operator new(n); };
    void* const p = allocate(100);
    CHECK(allocations == before + 1);
    ::operator delete(p);
    frame_pool::use(nullptr);  // what was freed goes back to the heap
    before = allocations;
    CHECK(block_on(sum_to(9)) == 45);
    const long first = allocations - before;
    before = allocations;
    CHECK(block_on(sum_to(9)) == 45);
    const long second = allocations - before;
    CHECK(first >= 11);  // ten frames and a job
    CHECK(second == 0);
}

// ---- steady state ------------------------------------------------------------------------------

TEST_CASE("steady state: calls and yields") {
    auto yields = []() -> task<> { co_await yield_now(); };
    CHECK(steady(yields) == 0);
    auto calls = []() -> task<> {
        int n = co_await give(1);
        int m = co_await sum_to(20);
        static_cast<void>(n + m);
    };
    CHECK(steady(calls) == 0);
}

TEST_CASE("steady state: jobs") {
    auto spawn_and_join = []() -> task<> {
        auto h = ringlet::spawn(give(1));
        int one = co_await std::move(h);
        static_cast<void>(one);
    };
    CHECK(steady(spawn_and_join) == 0);

    auto many = []() -> task<> {
        std::array<join_handle<int>, 20> handles;
        for (int i = 0; i < 20; ++i)
            handles[static_cast<std::size_t>(i)] = ringlet::spawn(yield_and_give(i));
        for (auto& h : handles) {
            auto value = co_await std::move(h).try_join();
            static_cast<void>(value);
        }
    };
    CHECK(steady(many) == 0);

    auto callable = [](int a, int b) -> task<int> {
        co_await yield_now();
        co_return a + b;
    };
    auto with_arguments = [&]() -> task<> {
        auto h = ringlet::spawn(callable, 1, 2);
        int three = co_await std::move(h);
        static_cast<void>(three);
    };
    CHECK(steady(with_arguments) == 0);

    auto detached = []() -> task<> {
        ringlet::spawn(yield_and_give(1)).detach();
        co_await yield_now();
    };
    CHECK(steady(detached) == 0);

    auto cancelled = []() -> task<> {
        auto a = ringlet::spawn(yield_and_give(1));
        auto b = ringlet::spawn(sleep_for(1h));
        co_await yield_now();
        bool ended = co_await std::move(b).cancel();
        static_cast<void>(ended);
    };
    CHECK(steady(cancelled) == 0);

    auto shielded = []() -> task<> {
        int one = co_await ringlet::shield(yield_and_give(1));
        static_cast<void>(one);
    };
    CHECK(steady(shielded) == 0);
}

TEST_CASE("steady state: wakers") {
    waker kept;
    auto wait = [&] { return ringlet::suspend([&](waker w) { kept = std::move(w); }); };
    auto waiter = [&]() -> task<> { co_await wait(); };
    auto wakes = [&]() -> task<> {
        auto h = ringlet::spawn(waiter());
        co_await yield_now();
        waker copy = kept;
        copy.wake();
        kept = waker();
        co_await std::move(h);
    };
    CHECK(steady(wakes) == 0);
}

TEST_CASE("steady state: sleeps") {
    auto ready = []() -> task<> { co_await sleep_for(0ns); };
    CHECK(steady(ready) == 0);
    auto real = []() -> task<> { co_await sleep_for(1us); };
    CHECK(steady(real) == 0);
    virtual_time clock;
    auto sleeper = [](std::chrono::nanoseconds d) -> task<> { co_await sleep_for(d); };
    auto many = [&]() -> task<> {
        std::array<join_handle<>, 20> handles;
        std::chrono::nanoseconds d = 1h;
        for (auto& h : handles) h = ringlet::spawn(sleeper(d -= 1min));
        for (auto& h : handles) co_await std::move(h);
    };
    CHECK(steady(many) == 0);
}

TEST_CASE("steady state: I/O") {
    pipe_ends ends;
    std::array<std::byte, 64> buffer;
    auto write_and_read = [&]() -> task<> {
        std::size_t n = co_await io::write(ends.in, buffer);
        n = co_await io::read(ends.out, buffer);
        static_cast<void>(n);
    };
    CHECK(steady(write_and_read) == 0);

    auto reader = [&]() -> task<std::size_t> {
        std::array<std::byte, 64> own;
        std::size_t n = co_await io::read(ends.out, own);
        co_return n;
    };
    auto read_then_write = [&]() -> task<> {
        auto h = ringlet::spawn(reader());
        co_await yield_now();
        std::size_t n = co_await io::write(ends.in, buffer);
        n = co_await std::move(h);
        static_cast<void>(n);
    };
    CHECK(steady(read_then_write) == 0);

    auto cancelled = [&]() -> task<> {
        auto h = ringlet::spawn(reader());
        co_await yield_now();
        auto n = co_await std::move(h).cancel();
        static_cast<void>(n);
    };
    CHECK(steady(cancelled) == 0);

    unique_fd file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    REQUIRE(file);
    auto read_file = [&]() -> task<> {
        int n = co_await io::read(file, buffer, 0).result();
        static_cast<void>(n);
    };
    CHECK(steady(read_file) == 0);

    auto open_and_close = []() -> task<> {
        auto null = co_await io::open("/dev/null", O_RDONLY);
        co_await io::nop();
        co_await io::close(std::move(null));
    };
    CHECK(steady(open_and_close) == 0);
}

TEST_CASE("steady state: run, try_tick, and whole executors") {
    executor ex;
    auto rounds = [](auto round) {
        for (int i = 0; i < 100; ++i) round();
        const long before = allocations;
        for (int i = 0; i < 1000; ++i) round();
        return allocations - before;
    };
    CHECK(rounds([&] { ex.run(yield_and_give(1)); }) == 0);
    auto tick = [&] {
        auto h = ex.spawn(yield_and_give(1));
        while (ex.try_tick()) {}
    };
    CHECK(rounds(tick) == 0);
    CHECK(rounds([] { block_on(yield_and_give(1)); }) == 0);
    CHECK(rounds([] { block_on(io::nop()); }) == 0);
    CHECK(rounds([] { block_on(sleep_for(1ns)); }) == 0);
}

// ---- without a heap ----------------------------------------------------------------------------

namespace {

// A little of everything.
task<int> scenario(pipe_ends& ends, int& alive, [[maybe_unused]] guard parameter) {
    guard local(alive);
    auto sleeper = [](int& n, [[maybe_unused]] guard g) -> task<int> {
        guard inside(n);
        co_await sleep_for(1us);
        co_return 1;
    };
    auto reader = [](pipe_ends& from, int& n, [[maybe_unused]] guard g) -> task<int> {
        guard inside(n);
        std::array<std::byte, 8> own;
        std::size_t count = co_await io::read(from.out, own);
        co_return static_cast<int>(count);
    };
    auto never = [](int& n, [[maybe_unused]] guard g) -> task<> {
        guard inside(n);
        co_await sleep_for(1h);
    };
    ringlet::spawn(never(alive, guard(alive))).detach();
    auto s = ringlet::spawn(sleeper(alive, guard(alive)));
    auto r = ringlet::spawn(reader(ends, alive, guard(alive)));
    int sum = co_await sum_to(3);
    auto null = co_await io::open("/dev/null", O_RDONLY);
    std::array<std::byte, 2> two{};
    std::size_t n = co_await io::write(ends.in, two);
    sum += static_cast<int>(n);
    int more = co_await std::move(s);
    sum += more;
    more = co_await std::move(r);
    sum += more;
    auto dropped = ringlet::spawn(never(alive, guard(alive)));
    more = co_await ringlet::shield(yield_and_give(4));
    co_return sum + more;
}
constexpr int scenario_result = 6 + 2 + 1 + 2 + 4;

}  // namespace

TEST_CASE("without a heap: everything out of a static array, no malloc at all") {
    alignas(16) static std::array<std::byte, 16 * 1024> arena;
    std::pmr::monotonic_buffer_resource from_arena(
        arena.data(), arena.size(), std::pmr::null_memory_resource());
    pipe_ends ends;
    int alive = 0, sum = 0;
    long made = 0;
    const auto program = [&] {
        const long before = allocations;
        frame_pool::use(&from_arena);
        for (int i = 0; i < 100; ++i) sum += block_on(scenario(ends, alive, guard(alive)));
        frame_pool::use(nullptr);
        made = allocations - before;
    };
    std::thread(program).join();  // one that has taken nothing from the heap before
    CHECK(made == 0);
    CHECK(sum == 100 * scenario_result);
    CHECK(alive == 0);
}

TEST_CASE("without a heap: when the array is used up, spawn throws and nothing is lost") {
    alignas(16) static std::array<std::byte, 8 * 1024> arena;
    std::pmr::monotonic_buffer_resource from_arena(
        arena.data(), arena.size(), std::pmr::null_memory_resource());
    frame_pool::use(&from_arena);
    int alive = 0, ended = 0;
    auto child = [](int& n, [[maybe_unused]] guard g) -> task<> {
        co_await yield_now();
        ++n;
    };
    std::array<join_handle<>, 200> handles;
    std::array<int, 3> spawned{};
    auto root = [&]() -> task<> {
        for (int& count : spawned) {
            int thrown = 0;
            while (thrown == 0) {
                try {
                    handles[static_cast<std::size_t>(count)] = ringlet::spawn(
                        child(ended, guard(alive)));
                    ++count;
                } catch (const std::bad_alloc&) { ++thrown; }
            }
            CHECK(alive == count);  // nothing of the one that failed
            for (int i = 0; i < count; ++i)
                co_await std::move(handles[static_cast<std::size_t>(i)]);
            CHECK(std::exchange(ended, 0) == count);
            CHECK(alive == 0);
        }
    };
    block_on(root());
    CHECK(spawned[0] > 5);
    CHECK(spawned[0] < 150);
    CHECK(spawned[1] == spawned[0]);  // what was freed is used again
    CHECK(spawned[2] == spawned[0]);
    frame_pool::use(nullptr);
}

TEST_CASE("frame_pool::use while frames are alive is refused, and changes nothing") {
    auto root = []() -> task<int> {
        CHECK_THROWS_AS(frame_pool::use(std::pmr::new_delete_resource()), std::logic_error);
        CHECK_THROWS_AS(frame_pool::use(nullptr), std::logic_error);
        int n = co_await yield_and_give(5);
        co_return n;
    };
    CHECK(block_on(root()) == 5);
    frame_pool::use(nullptr);
}

namespace {

// Gives a number of blocks, then throws.
class limited final : public std::pmr::memory_resource {
public:
    explicit limited(int blocks) : left_(blocks) {}
    int outside = 0;  // taken and not given back

private:
    void* do_allocate(std::size_t n, std::size_t alignment) override {
        if (left_ == 0) throw std::bad_alloc();
        void* const p = std::pmr::new_delete_resource()->allocate(n, alignment);
        --left_;
        ++outside;
        return p;
    }
    void do_deallocate(void* p, std::size_t n, std::size_t alignment) override {
        std::pmr::new_delete_resource()->deallocate(p, n, alignment);
        --outside;
    }
    bool do_is_equal(const memory_resource& other) const noexcept override {
        return this == &other;
    }
    int left_;
};

}  // namespace

TEST_CASE("memory that runs out at each allocation in turn: bad_alloc, and nothing is lost") {
    const auto descriptors = open_descriptors();
    int failures = 0;
    for (bool complete = false; !complete; ++failures) {
        CAPTURE(failures);
        limited memory(failures);
        int alive = 0, sum = 0;
        {
            pipe_ends ends;
            frame_pool::use(&memory);
            try {
                sum = block_on(scenario(ends, alive, guard(alive)));
                complete = true;
            } catch (const std::bad_alloc&) {}
            CHECK(sum == (complete ? scenario_result : 0));
            CHECK(alive == 0);
            CHECK_NOTHROW(frame_pool::use(nullptr));
        }
        CHECK(memory.outside == 0);
        CHECK(open_descriptors() == descriptors);
        REQUIRE(failures < 1000);
    }
    CHECK(failures > 10);
}
