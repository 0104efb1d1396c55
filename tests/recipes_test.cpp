// recipes: calls on other threads, wakes from them, intervals, requests with many completions.
// Threads are ordered by latches and atomics, or by waiting until the loop's thread sleeps; none by
// the clock.
#include <doctest/doctest.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <latch>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <ringlet/recipes/interval.hpp>
#include <ringlet/recipes/multishot.hpp>
#include <ringlet/recipes/unblock.hpp>
#include <ringlet/timer.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "inject.hpp"
#include "support.hpp"

using namespace std::chrono_literals;
using ringlet::block_on;
using ringlet::deadlock;
using ringlet::executor;
using ringlet::interval;
using ringlet::join_handle;
using ringlet::missed;
using ringlet::remote_waker;
using ringlet::sleep_for;
using ringlet::task;
using ringlet::unblock;
using ringlet::unique_fd;
using ringlet::virtual_time;
using ringlet::waker;
using ringlet::yield_now;
using ringlet::io::accept_many;
using ringlet::io::multishot;
using std::chrono::nanoseconds;

using namespace support;

namespace {

constexpr int stress_wakes = 1'000'000;

// ---- helpers -----------------------------------------------------------------------------------

std::atomic<int> event_writes = 0;
bool no_events = false;

auto entries(const char* directory) {
    return std::distance(std::filesystem::directory_iterator(directory), {});
}
auto open_files() { return entries("/proc/self/fd"); }
// Not the kernel's workers, which come and go as they like.
auto live_threads() {
    const auto ours = [](const std::filesystem::directory_entry& thread) {
        std::string name;
        return std::getline(std::ifstream(thread.path() / "comm"), name)
            && !name.starts_with("iou-");
    };
    const std::filesystem::directory_iterator all("/proc/self/task");
    return std::count_if(begin(all), end(all), ours);
}

pid_t this_thread() { return static_cast<pid_t>(::syscall(SYS_gettid)); }

// As many files, and in the end as many threads, as there were before: one that has been joined may
// be in the kernel's list for a moment longer.
class nothing_left {
public:
    nothing_left() {
        // The first one, with which ThreadSanitizer starts one of its own.
        static const pid_t first = [] {
            pid_t id = 0;
            std::jthread([&] { id = this_thread(); }).join();
            return id;
        }();
        const std::string listed = "/proc/self/task/" + std::to_string(first);
        while (std::filesystem::exists(listed)) std::this_thread::yield();
        threads_ = live_threads();
    }
    nothing_left(nothing_left&&) = delete;
    ~nothing_left() {
        CHECK(open_files() == files_);
        for (int i = 0; i < 100'000 && live_threads() != threads_; ++i) std::this_thread::yield();
        CHECK(live_threads() == threads_);
    }

private:
    std::ptrdiff_t files_ = open_files(), threads_ = 0;
};

// Waits until a thread of this process sleeps in the kernel.
void wait_until_asleep(pid_t thread) {
    const std::string file = "/proc/self/task/" + std::to_string(thread) + "/stat";
    for (char state = 0; state != 'S'; std::this_thread::yield()) {
        std::string text;
        std::getline(std::ifstream(file), text);
        state = text.at(text.rfind(')') + 2);
    }
}
// While one exists no descriptor can be opened.
class no_more_files {
public:
    no_more_files() {
        ::getrlimit(RLIMIT_NOFILE, &before_);
        const rlimit none{0, before_.rlim_max};
        ::setrlimit(RLIMIT_NOFILE, &none);
    }
    no_more_files(no_more_files&&) = delete;
    ~no_more_files() { ::setrlimit(RLIMIT_NOFILE, &before_); }

private:
    rlimit before_;
};

// The number of helper threads, for one test.
class at_most {
public:
    explicit at_most(unsigned n) : before_(ringlet::unblock_threads.exchange(n)) {}
    at_most(at_most&&) = delete;
    ~at_most() { ringlet::unblock_threads = before_; }

private:
    unsigned before_;
};

task<> yields(int n) {
    while (n--) co_await yield_now();
}

}  // namespace

// In place of the C library's, for this program: they count, and fail where a test wants it.
extern "C" int eventfd_write(int fd, eventfd_t value) {
    ++event_writes;
    return ::syscall(SYS_write, fd, &value, sizeof value) == sizeof value ? 0 : -1;
}
extern "C" int eventfd(unsigned value, int flags) noexcept {
    if (no_events) return errno = EMFILE, -1;
    return static_cast<int>(::syscall(SYS_eventfd2, value, flags));
}

// ---- threads -----------------------------------------------------------------------------------

// A ring's memory is often that of one which ended on another thread: no race, and .ci/run lets
// ThreadSanitizer see that.
TEST_CASE("threads that make and end rings of their own share nothing") {
    const nothing_left checks;
    std::atomic<int> ends = 0;
    auto rings = [&ends] {
        auto work = []() -> task<> {
            for (int i = 0; i < 10; ++i) co_await ringlet::io::nop();
        };
        for (int i = 0; i < 50; ++i, ++ends) block_on(work());
    };
    std::jthread a(rings), b(rings);
    a.join(), b.join();
    CHECK(ends == 100);
}

// ---- unblock -----------------------------------------------------------------------------------

TEST_CASE("unblock gives the result of the call, of any type") {
    const nothing_left checks;
    int local = 1;
    auto root = [&]() -> task<> {
        const auto here = std::this_thread::get_id();
        const auto elsewhere = [here] { return std::this_thread::get_id() != here; };
        const bool other_thread = co_await unblock(elsewhere);
        CHECK(other_thread);
        const auto number = [] { return 42; };
        const int n = co_await unblock(number);
        CHECK(n == 42);
        const auto nothing = [&local] { ++local; };
        co_await unblock(nothing);
        CHECK(local == 2);
        const auto move_only = [] { return std::make_unique<int>(7); };
        const std::unique_ptr<int> p = co_await unblock(move_only);
        CHECK(*p == 7);
        const auto reference = [&local]() -> int& { return local; };
        int& r = co_await unblock(reference);
        CHECK(&r == &local);
        auto owner = [q = std::make_unique<int>(8)] { return *q; };
        auto call = unblock(std::move(owner));
        const int eight = co_await std::move(call);
        CHECK(eight == 8);
        auto counts = [n = 0]() mutable { return ++n; };
        const int once = co_await unblock(counts);
        CHECK(once == 1);
    };
    block_on(root());
    CHECK(block_on(unblock([] { return 3; })) == 3);
}

TEST_CASE("unblock rethrows the exception of the call") {
    const nothing_left checks;
    struct oops : std::runtime_error {
        using std::runtime_error::runtime_error;
    };
    auto root = [&]() -> task<> {
        std::string what;
        const auto throws = []() -> int { throw oops("from over there"); };
        try {
            co_await unblock(throws);
        } catch (const oops& e) { what = e.what(); }
        CHECK(what == "from over there");
        const auto fine = [] { return 1; };
        const int n = co_await unblock(fine);
        CHECK(n == 1);
        const auto throws_void = [] { throw oops("to the root"); };
        co_await unblock(throws_void);
    };
    CHECK_THROWS_WITH_AS(block_on(root()), "to the root", oops);
}

TEST_CASE("unblock gives its result where the program's reads come short") {
    const nothing_left checks;
    ringlet::reactor::on_submit = [](io_uring_sqe* s) {
        if (s->opcode == IORING_OP_READ) s->len = std::min(s->len, 3u);
    };
    CHECK(block_on(unblock([] { return 42; })) == 42);
    ringlet::reactor::on_submit = nullptr;
}

TEST_CASE("unblock does not run the call before it is awaited, nor where no executor runs") {
    int runs = 0;
    drop(unblock([&] { ++runs; }));
    CHECK(runs == 0);
    std::vector<ringlet::runnable> queue;
    auto lone = [&]() -> task<> {
        const auto call = [&runs] { ++runs; };
        co_await unblock(call);
    };
    auto [r, handle] = ringlet::spawn(
        lone(), [&](ringlet::runnable next) { queue.push_back(std::move(next)); });
    handle.detach();
    std::string what;
    try {
        std::move(r).run();
        while (!queue.empty()) {
            ringlet::runnable next = std::move(queue.back());
            queue.pop_back();
            std::move(next).run();
        }
    } catch (const std::logic_error& e) { what = e.what(); }
    CHECK(what.find("no executor runs on this thread") != std::string::npos);
    CHECK(runs == 0);
}

TEST_CASE("unblock: the loop goes on while a call runs, and counts it as being outside") {
    const nothing_left checks;
    std::latch go(1);
    executor ex;
    auto caller = [&]() -> task<int> {
        const auto call = [&go] { return go.wait(), 5; };
        co_return co_await unblock(call);
    };
    auto root = [&]() -> task<int> {
        join_handle<int> h = ringlet::spawn(caller());
        co_await yields(100);
        CHECK(ex.outside == 1);
        const bool done = h.done();
        CHECK_FALSE(done);
        go.count_down();
        const int n = co_await std::move(h);
        CHECK(ex.outside == 0);
        co_return n;
    };
    CHECK(ex.run(root()) == 5);
}

TEST_CASE("unblock: a cancelled caller's frame waits for the call, which may refer to it") {
    const nothing_left checks;
    int frames = 0, went_on = 0;
    std::atomic<bool> started = false;
    std::latch go(1);
    auto caller = [&]() -> task<int> {
        const guard g(frames);
        int local = 1;
        const auto call = [&] {
            started = true;
            go.wait();
            return ++local;
        };
        const int n = co_await unblock(call);
        went_on += n;
        co_await yield_now();
        went_on += 100;
        co_return n;
    };
    auto root = [&]() -> task<> {
        join_handle<int> h = ringlet::spawn(caller());
        while (!started) co_await yield_now();
        auto end = std::move(h).cancel();
        co_await yields(200);
        CHECK(frames == 0);
        CHECK(went_on == 0);
        go.count_down();
        const std::optional<int> n = co_await std::move(end);
        CHECK_FALSE(n.has_value());
        CHECK(frames == 1);
        CHECK(went_on == 2);  // with the result, to the next suspension
    };
    block_on(root());
}

TEST_CASE("unblock: cancelled before it begins, while it is queued, and under a timeout") {
    const nothing_left checks;
    const at_most one(1);
    int frames = 0;
    std::atomic<int> calls = 0;
    std::latch go(1);
    auto caller = [&]() -> task<> {
        const guard g(frames);
        const auto call = [&] { go.wait(), ++calls; };
        co_await unblock(call);
    };
    auto root = [&]() -> task<> {
        drop(ringlet::spawn(caller()));  // never runs
        co_await yields(3);
        CHECK(calls == 0);
        join_handle<> first = ringlet::spawn(caller()), queued = ringlet::spawn(caller());
        co_await yields(3);
        drop(std::move(queued));
        co_await yields(3);
        CHECK(frames == 1);  // its call is never made
        join_handle<> next = ringlet::spawn(caller());
        co_await yields(3);
        go.count_down();
        co_await std::move(first);
        co_await std::move(next);
        CHECK(frames == 3);
        CHECK(calls == 2);
        const auto quick = [&] { return ++calls; };
        const std::optional<int> n = co_await ringlet::try_timeout(0s, unblock(quick));
        CHECK(n == 3);  // too late to be stopped, but not lost
    };
    block_on(root());
}

TEST_CASE("unblock: a hundred calls at once use at most four threads, and four if they can") {
    const nothing_left checks;
    const auto before = live_threads();
    std::mutex mutex;
    std::set<std::thread::id> threads;
    std::latch together(4);
    std::atomic<int> arrived = 0;
    auto caller = [&]() -> task<int> {
        const auto call = [&] {
            if (arrived++ < 4) together.arrive_and_wait();
            const std::lock_guard lock(mutex);
            threads.insert(std::this_thread::get_id());
            return 1;
        };
        co_return co_await unblock(call);
    };
    auto root = [&]() -> task<int> {
        std::vector<task<int>> all;
        for (int i = 0; i < 100; ++i) all.push_back(caller());
        int sum = 0;
        const std::vector<int> values = co_await ringlet::when_all(std::move(all));
        for (int n : values) sum += n;
        CHECK(live_threads() <= before + 4);
        co_return sum;
    };
    CHECK(block_on(root()) == 100);
    CHECK(threads.size() == 4);
    CHECK(arrived == 100);
}

TEST_CASE("unblock: the number of threads can be set, and is at least one") {
    for (const unsigned limit : {0u, 1u, 2u, 7u}) {
        CAPTURE(limit);
        const nothing_left checks;
        const at_most n(limit);
        const unsigned expected = std::max(limit, 1u);
        std::latch together(static_cast<std::ptrdiff_t>(expected));
        std::mutex mutex;
        std::set<std::thread::id> threads;
        std::atomic<unsigned> arrived = 0;
        auto caller = [&]() -> task<> {
            const auto call = [&] {
                if (arrived++ < expected) together.arrive_and_wait();
                const std::lock_guard lock(mutex);
                threads.insert(std::this_thread::get_id());
            };
            co_await unblock(call);
        };
        auto root = [&]() -> task<> {
            std::vector<task<>> all;
            for (int i = 0; i < 20; ++i) all.push_back(caller());
            co_await ringlet::when_all(std::move(all));
        };
        block_on(root());
        CHECK(threads.size() == expected);
    }
}

TEST_CASE("unblock: the helper threads stay for the executor's next call, and end with it") {
    const nothing_left checks;
    const at_most one(1);
    const auto id = [] { return std::this_thread::get_id(); };
    const auto before = live_threads();
    {
        executor ex;
        auto root = [&]() -> task<std::thread::id> { co_return co_await unblock(id); };
        const std::thread::id first = ex.run(root());
        CHECK(live_threads() == before + 1);
        CHECK(ex.run(root()) == first);
        executor other;
        CHECK(other.run(root()) != first);
        CHECK(ex.run(root()) == first);
        CHECK(live_threads() == before + 2);
    }
}

TEST_CASE("unblock: an executor's end waits for the calls that run, and for no others") {
    const nothing_left checks;
    const at_most one(1);
    int frames = 0;
    std::atomic<int> calls = 0;
    std::latch go(1);
    std::jthread releases;
    auto caller = [&]() -> task<> {
        const guard g(frames);
        int local = 0;
        const auto call = [&] { go.wait(), ++local, ++calls; };
        co_await unblock(call);
    };
    auto root = [&]() -> task<> {
        for (int i = 0; i < 10; ++i) ringlet::spawn(caller()).detach();
        co_await yields(3);
    };
    {
        executor ex;
        ex.run(root());
        CHECK(frames == 0);
        releases = std::jthread([&, loop = this_thread()] {
            wait_until_asleep(loop);
            go.count_down();
        });
    }
    CHECK(frames == 10);
    CHECK(calls == 1);
}

TEST_CASE(
    "unblock: one call after the other takes one thread, and a thousand at once few descriptors") {
    const nothing_left checks;
    std::set<std::thread::id> threads;
    const auto who = [] { return std::this_thread::get_id(); };
    auto call = [&]() -> task<> { threads.insert(co_await unblock(who)); };
    auto root = [&]() -> task<> {
        for (int i = 0; i < 20; ++i) co_await call();
        CHECK(threads.size() == 1);
        rlimit few{30, 0};
        rlimit before{};
        REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
        few.rlim_max = before.rlim_max;
        REQUIRE(::setrlimit(RLIMIT_NOFILE, &few) == 0);
        std::vector<task<>> all;
        for (int i = 0; i < 1000; ++i) all.push_back(call());
        co_await ringlet::when_all(std::move(all));
        REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);
    };
    block_on(root());
}

TEST_CASE("unblock: calls made in an executor's last moments still run") {
    const nothing_left checks;
    int steps = 0;
    auto cleanup = [&]() -> task<> {
        const auto call = [] { return 1; };
        for (int i = 0; i < 5; ++i) {
            steps += co_await unblock(call);
            co_await yield_now();
        }
    };
    auto holder = [&]() -> task<> { co_await ringlet::shield(cleanup()); };
    auto root = [&]() -> task<> {
        ringlet::spawn(holder()).detach();
        co_await yield_now();
    };
    block_on(root());
    CHECK(steps == 5);
}

// By then all else that is the thread's own and was made after it has been destroyed.
TEST_CASE("unblock: calls made at the end of an executor that is a thread's own") {
    static int steps;
    steps = 0;
    const auto cleanup = []() -> task<> {
        const auto call = [] { return 1; };
        for (int i = 0; i < 5; ++i) {
            steps += co_await unblock(call);
            co_await yield_now();
        }
    };
    const auto holder = [&]() -> task<> { co_await ringlet::shield(cleanup()); };
    const auto root = [&]() -> task<> {
        ringlet::spawn(holder()).detach();
        co_await yield_now();
    };
    const auto runs = [&] {
        static thread_local executor ex;
        ex.run(root());
    };
    std::thread(runs).join();
    CHECK(steps == 5);
}

TEST_CASE("unblock: virtual time stands still while a call runs") {
    const nothing_left checks;
    const virtual_time clock;
    const auto start = virtual_time::now();
    bool slept = false;
    auto sleeper = [&]() -> task<> {
        co_await sleep_for(10min);
        slept = true;
    };
    auto root = [&]() -> task<> {
        join_handle<> h = ringlet::spawn(sleeper());
        for (int i = 0; i < 3; ++i) {
            const auto call = [loop = this_thread()] { wait_until_asleep(loop); };
            co_await unblock(call);
            CHECK(virtual_time::now() == start);
            CHECK_FALSE(slept);
        }
        co_await std::move(h);
        CHECK(virtual_time::now() == start + 10min);
    };
    block_on(root());
}

TEST_CASE(
    "without a descriptor for the eventfd: no call begins, no waker is made, and it is said") {
    const nothing_left checks;
    int calls = 0;
    auto root = [&]() -> task<> {
        const auto call = [&calls] { ++calls; };
        co_await unblock(call);
        std::error_code code;
        no_events = true;
        try {
            co_await unblock(call);
        } catch (const std::system_error& e) { code = e.code(); }
        const auto hand_over = [](waker w) { drop(remote_waker(std::move(w))); };
        try {
            co_await ringlet::suspend(hand_over);
            code.clear();
        } catch (const std::system_error& e) { CHECK(e.code() == code); }
        no_events = false;
        CHECK(code == std::errc::too_many_files_open);
        CHECK(executor::current()->outside == 0);
        co_await unblock(call);
    };
    block_on(root());
    CHECK(calls == 2);
}

// ---- remote_waker ------------------------------------------------------------------------------

TEST_CASE("remote_waker wakes from another thread, by itself and by a copy") {
    const nothing_left checks;
    std::vector<std::jthread> threads;
    auto root = [&]() -> task<int> {
        int n = 0;
        const pid_t loop = this_thread();
        const auto by_itself = [&](waker w) {
            threads.emplace_back([loop, rw = remote_waker(w)] {
                wait_until_asleep(loop);
                rw.wake();
            });
        };
        co_await ringlet::suspend(by_itself);
        ++n;
        const auto by_copy = [&](waker w) {
            remote_waker first(w);
            remote_waker copy = first;
            first = copy;
            remote_waker moved = std::move(first);
            first.wake();  // moved from: nothing
            threads.emplace_back([loop, rw = std::move(moved)] {
                wait_until_asleep(loop);
                const remote_waker other = rw;
                other.wake();
            });
        };
        co_await ringlet::suspend(by_copy);
        co_return ++n;
    };
    CHECK(block_on(root()) == 2);
}

TEST_CASE("remote_waker is made where an executor runs, and says so elsewhere") {
    CHECK_THROWS_WITH_AS(drop(remote_waker(waker())),
        "ringlet: no executor runs on this thread; start one with block_on", std::logic_error);
}

TEST_CASE("remote_waker: a wake for a suspension that is over wakes nothing") {
    const nothing_left checks;
    int runs = 0;
    auto root = [&]() -> task<> {
        std::optional<remote_waker> old;
        gate g;
        auto sleeper = [&]() -> task<> {
            const auto hand_over = [&old](waker w) { old.emplace(std::move(w)); };
            co_await ringlet::suspend(hand_over);
            ++runs;
            co_await g.wait();
            ++runs;
        };
        join_handle<> h = ringlet::spawn(sleeper());
        co_await yield_now();
        old->wake();
        while (runs < 1) co_await yield_now();
        old->wake();
        const auto from_there = [&old] { old->wake(); };
        co_await unblock(from_there);
        co_await yields(200);
        CHECK(runs == 1);
        g.open();
        co_await std::move(h);
        CHECK(runs == 2);
        old->wake();  // the job has ended
        co_await yields(200);
    };
    block_on(root());
    CHECK(runs == 2);
}

TEST_CASE("remote_waker: only the first wake since the loop looked writes") {
    const nothing_left checks;
    auto root = [&]() -> task<> {
        for (int round = 0; round < 3; ++round) {
            std::optional<remote_waker> rw;
            int before = 0;
            const auto many = [&](waker w) {
                rw.emplace(std::move(w));
                before = event_writes;
                for (int i = 0; i < 1000; ++i) rw->wake();
                std::jthread([copy = *rw] {
                    for (int i = 0; i < 1000; ++i) copy.wake();
                }).join();
            };
            co_await ringlet::suspend(many);
            CHECK(event_writes == before + 1);
            rw->wake();
            rw->wake();
            CHECK(event_writes == before + 2);
            co_await yields(200);
            rw->wake();
            CHECK(event_writes == before + 3);
        }
    };
    block_on(root());
}

TEST_CASE("remote_waker: no deadlock while one is alive; when none is, nothing of it stays") {
    const nothing_left checks;
    executor ex;
    std::jthread thread;
    std::optional<remote_waker> kept;
    auto root = [&]() -> task<> {
        const auto hand_over = [&](waker w) {
            kept.emplace(std::move(w));
            thread = std::jthread([&, loop = this_thread()] {
                wait_until_asleep(loop);
                kept->wake();
            });
        };
        co_await ringlet::suspend(hand_over);
    };
    auto waits = [&]() -> task<> {
        gate never;
        co_await never.wait();
    };
    ex.run(root());
    const auto files = open_files();
    CHECK_FALSE(ex.empty());  // the task that listens
    SUBCASE("dropped here") { kept.reset(); }
    SUBCASE("dropped on another thread, while the loop sleeps") {
        thread = std::jthread([&, loop = this_thread()] {
            wait_until_asleep(loop);
            kept.reset();
        });
    }
    SUBCASE("woken, and dropped at once") {
        kept->wake();
        kept.reset();
    }
    std::string what;
    try {
        ex.run(waits());
    } catch (const deadlock& e) { what = e.what(); }
    if (thread.joinable()) thread.join();  // which may hold the eventfd a moment longer
    CHECK(what.find("waits for a waker") != std::string::npos);
    CHECK(what.find("unblock.hpp") == std::string::npos);
    CHECK(open_files() == files - 1);
    while (ex.try_tick()) {}
    CHECK(ex.empty());
}

TEST_CASE("remote_waker: the waker is dropped on the loop's thread, whoever drops the last copy") {
    const nothing_left checks;
    class schedule {  // lies in the job, whose memory goes with its last waker
    public:
        schedule(std::vector<ringlet::runnable>& q, std::atomic<std::thread::id>& d)
            : queue_(&q), died_(&d) {}
        schedule(schedule&& o) noexcept
            : queue_(o.queue_), died_(std::exchange(o.died_, nullptr)) {}
        ~schedule() {
            if (died_) *died_ = std::this_thread::get_id();
        }
        void operator()(ringlet::runnable r) const { queue_->push_back(std::move(r)); }

    private:
        std::vector<ringlet::runnable>* queue_;
        std::atomic<std::thread::id>* died_;
    };
    std::vector<ringlet::runnable> queue;
    std::atomic<std::thread::id> died{std::thread::id()};
    std::optional<remote_waker> rw;
    int ended = 0;
    auto job = [&]() -> task<> {
        const auto hand_over = [&rw](waker w) { rw.emplace(std::move(w)); };
        co_await ringlet::suspend(hand_over);
        ++ended;
    };
    auto root = [&]() -> task<> {
        auto [r, h] = ringlet::spawn(job(), schedule(queue, died));
        h.detach();
        std::move(r).run();
        rw->wake();
        while (queue.empty()) co_await yield_now();
        ringlet::runnable again = std::move(queue.back());
        queue.pop_back();
        std::move(again).run();
        CHECK(ended == 1);
        CHECK(died.load() == std::thread::id());
        std::jthread([&rw] { rw.reset(); }).join();
        CHECK(died.load() == std::thread::id());
        while (died.load() == std::thread::id()) co_await yield_now();
        CHECK(died.load() == std::this_thread::get_id());
    };
    block_on(root());
}

TEST_CASE("remote_waker: dropping it without a wake wakes nobody") {
    const nothing_left checks;
    int runs = 0, frames = 0;
    auto sleeper = [&]() -> task<> {
        const guard g(frames);
        const auto forget = [](waker w) { drop(remote_waker(std::move(w))); };
        co_await ringlet::suspend(forget);
        ++runs;
    };
    auto root = [&]() -> task<> {
        join_handle<> h = ringlet::spawn(sleeper());
        co_await yields(200);
        CHECK(runs == 0);
        CHECK(frames == 0);
        drop(std::move(h));
        co_await yields(2);
        CHECK(frames == 1);
        ringlet::spawn(sleeper()).detach();  // detached: ends with its last waker
        while (frames < 2) co_await yield_now();
        CHECK(runs == 0);
    };
    block_on(root());
}

TEST_CASE("remote_waker: a wake after the executor is gone does nothing, here or elsewhere") {
    const nothing_left checks;
    int frames = 0;
    std::vector<remote_waker> left;
    const auto hand_over = [&left](waker w) { left.emplace_back(std::move(w)); };
    auto sleeper = [&]() -> task<> {
        const guard g(frames);
        co_await ringlet::suspend(hand_over);
    };
    auto root = [&](int turns) -> task<> {
        for (int i = 0; i < 3; ++i) ringlet::spawn(sleeper()).detach();
        co_await yields(turns);
    };
    SUBCASE("armed") { block_on(root(10)); }
    SUBCASE("made, but the listening task has never run") {
        auto at_once = [&]() -> task<> {
            hand_over(waker());
            hand_over(waker());
            hand_over(waker());
            frames = 3;
            co_return;
        };
        block_on(at_once());
    }
    SUBCASE("woken, but not delivered") {
        auto wakes = [&]() -> task<> {
            co_await root(10);
            for (const remote_waker& rw : left) rw.wake();
        };
        block_on(wakes());
    }
    CHECK(frames == 3);
    REQUIRE(left.size() == 3);
    for (const remote_waker& rw : left) rw.wake();
    std::jthread([&left] {
        for (const remote_waker& rw : left) rw.wake();
        const std::vector<remote_waker> copies = left;
        for (const remote_waker& rw : copies) rw.wake();
        left.pop_back();
    }).join();
    left.front().wake();
    left.clear();
}

TEST_CASE("remote_waker: the executor's end races with wakes and drops") {
    const nothing_left checks;
    int frames = 0;
    constexpr int rounds = 300;
    for (int round = 0; round < rounds; ++round) {
        std::latch start(2);
        std::jthread thread;
        auto sleeper = [&]() -> task<> {
            const guard g(frames);
            const auto hand_over = [&](waker w) {
                thread = std::jthread([&start, rw = remote_waker(w)]() mutable {
                    start.arrive_and_wait();
                    for (int i = 0; i < 20; ++i) rw.wake();
                    drop(std::move(rw));
                });
            };
            co_await ringlet::suspend(hand_over);
        };
        auto root = [&]() -> task<> {
            ringlet::spawn(sleeper()).detach();
            co_await yields(2);
            start.arrive_and_wait();
            co_await yields(round % 4 * 64);
        };
        block_on(root());
    }
    CHECK(frames == rounds);
}

TEST_CASE("remote_waker: two threads race, and no wake is lost") {
    const nothing_left checks;
    std::atomic<int> sent = 0;
    std::mutex mutex;
    std::optional<remote_waker> current;
    auto producer = [&] {
        for (int i = 0; i < stress_wakes / 2; ++i) {
            ++sent;
            std::unique_lock lock(mutex);
            const std::optional<remote_waker> copy = current;
            lock.unlock();
            if (copy) copy->wake();
        }
    };
    int rounds = 0;
    auto root = [&]() -> task<> {
        std::jthread a(producer), b(producer);
        for (int seen = 0; seen < stress_wakes; ++rounds) {
            const auto hand_over = [&](waker w) {
                std::optional<remote_waker> next(w);
                std::unique_lock lock(mutex);
                current.swap(next);  // the one before is dropped here, or by a thread
                lock.unlock();
                if (sent != seen) w.wake();
            };
            co_await ringlet::suspend(hand_over);
            seen = sent;
        }
        const std::lock_guard lock(mutex);
        current.reset();
    };
    block_on(root());
    CHECK(sent == stress_wakes);
    CHECK(rounds > 0);
    current.reset();
}

TEST_CASE("remote_waker: many wakes to one suspension, from two threads") {
    const nothing_left checks;
    int woken = 0;
    auto root = [&]() -> task<> {
        for (int round = 0; round < 200; ++round) {
            std::jthread a, b;
            const auto hand_over = [&](waker w) {
                const auto wakes = [rw = remote_waker(w)] { rw.wake(), rw.wake(); };
                a = std::jthread(wakes);
                b = std::jthread(wakes);
            };
            co_await ringlet::suspend(hand_over);
            ++woken;
        }
    };
    block_on(root());
    CHECK(woken == 200);
}

// ---- interval ----------------------------------------------------------------------------------

namespace {

// What next() gave, and when, in milliseconds since the start, exact to the nanosecond.
using ticks = std::vector<std::pair<double, double>>;

// Takes ticks of 10 ms; after the first it is busy for so long.
ticks take(missed policy, nanoseconds busy, int count) {
    const virtual_time clock;
    ticks log;
    auto root = [&]() -> task<> {
        const auto start = virtual_time::now();
        const auto since = [start](auto t) {
            return std::chrono::duration<double, std::milli>(t - start).count();
        };
        interval tick(10ms, policy);
        for (int i = 0; i < count; ++i) {
            const auto due = co_await tick.next();
            log.emplace_back(since(due), since(virtual_time::now()));
            if (i == 0) co_await sleep_for(busy);
        }
    };
    block_on(root());
    return log;
}

}  // namespace

TEST_CASE("interval: on time all policies tick at the multiples") {
    for (const missed policy : {missed::burst, missed::delay, missed::skip}) {
        CHECK(take(policy, 0ns, 4) == ticks{{10, 10}, {20, 20}, {30, 30}, {40, 40}});
        CHECK(take(policy, 9'999'999ns, 3) == ticks{{10, 10}, {20, 20}, {30, 30}});
        CHECK(take(policy, 10ms, 3) == ticks{{10, 10}, {20, 20}, {30, 30}});
    }
}

TEST_CASE("interval: burst catches up at once") {
    CHECK(take(missed::burst, 35ms, 6)
        == ticks{{10, 10}, {20, 45}, {30, 45}, {40, 45}, {50, 50}, {60, 60}});
    CHECK(take(missed::burst, 40ms, 6)
        == ticks{{10, 10}, {20, 50}, {30, 50}, {40, 50}, {50, 50}, {60, 60}});
    CHECK(take(missed::burst, 15ms, 3) == ticks{{10, 10}, {20, 25}, {30, 30}});
}

TEST_CASE("interval: delay counts from the late tick") {
    CHECK(take(missed::delay, 35ms, 4) == ticks{{10, 10}, {20, 45}, {55, 55}, {65, 65}});
    CHECK(take(missed::delay, 40ms, 3) == ticks{{10, 10}, {20, 50}, {60, 60}});
    CHECK(take(missed::delay, 15ms, 4) == ticks{{10, 10}, {20, 25}, {35, 35}, {45, 45}});
}

TEST_CASE("interval: skip goes to the next multiple") {
    CHECK(take(missed::skip, 35ms, 4) == ticks{{10, 10}, {20, 45}, {50, 50}, {60, 60}});
    CHECK(take(missed::skip, 40ms, 3) == ticks{{10, 10}, {20, 50}, {60, 60}});
    CHECK(take(missed::skip, 15ms, 3) == ticks{{10, 10}, {20, 25}, {30, 30}});
    CHECK(
        take(missed::skip, 1'000'000'010ns, 3) == ticks{{10, 10}, {20, 1010.00001}, {1020, 1020}});
}

TEST_CASE("interval: a cancelled next() has taken no tick; an executor may end while it waits") {
    const nothing_left checks;
    const virtual_time clock;
    const auto start = virtual_time::now();
    auto root = [&]() -> task<> {
        interval tick(10ms);
        const auto early = co_await ringlet::try_timeout(9'999'999ns, tick.next());
        CHECK_FALSE(early.has_value());
        const auto first = co_await tick.next();
        CHECK((first == start + 10ms));
        auto waits = [](interval& i) -> task<> { co_await i.next(); };
        join_handle<> h = ringlet::spawn(waits(tick));
        co_await yield_now();
        drop(std::move(h));
        const auto second = co_await tick.next();
        CHECK((second == start + 20ms));
        auto forever = []() -> task<> {
            interval own(1h);
            co_await own.next();
        };
        ringlet::spawn(forever()).detach();
        co_await yield_now();
    };
    block_on(root());
    CHECK((virtual_time::now() == start + 20ms));
}

TEST_CASE("interval: periods that are none, odd or too long") {
    CHECK_THROWS_AS(interval(0ms), std::invalid_argument);
    CHECK_THROWS_AS(interval(-1ns), std::invalid_argument);
    CHECK_THROWS_AS(interval{std::chrono::hours::min()}, std::invalid_argument);
    CHECK_THROWS_AS(interval(std::chrono::duration<double>(-0.0)), std::invalid_argument);
    CHECK_THROWS_AS(
        interval(std::chrono::duration<double>(std::numeric_limits<double>::quiet_NaN())),
        std::invalid_argument);
    const virtual_time clock;
    const auto start = virtual_time::now();
    auto root = [&]() -> task<> {
        interval odd(std::chrono::duration<double, std::nano>(1.5));
        const auto tick = co_await odd.next();
        CHECK((tick == start + 2ns));
        const auto century = nanoseconds(std::chrono::hours(100 * 365 * 24));
        interval longest(std::chrono::hours::max()), longer(std::chrono::duration<float>(1e30F));
        interval days(std::chrono::days::max()), years(std::chrono::years::max());
        const auto late = co_await longest.next();
        CHECK((late == start + 2ns + century));
        const auto later = co_await longer.next();
        CHECK((later == late));
        const auto next = co_await days.next();
        CHECK((next == late));
        const auto last = co_await years.next();
        CHECK((last == late));
    };
    block_on(root());
}

TEST_CASE("interval: a long period in units that divide no second is what it says") {
    const virtual_time clock;
    using samples = std::chrono::duration<std::int64_t, std::ratio<1, 44'100>>;
    const auto start = virtual_time::now();
    auto root = [&]() -> task<> {
        interval days(samples(44'100LL * 86'400 * 300));
        const auto tick = co_await days.next();
        CHECK((tick == start + std::chrono::hours(24 * 300)));
        interval by_default(10ms);
        co_await sleep_for(35ms);
        const auto first = co_await by_default.next(), second = co_await by_default.next();
        CHECK((second == first + 10ms));  // of those missed, none is left out
    };
    block_on(root());
}

TEST_CASE("interval: no tick comes behind the end of time") {
    for (const missed policy : {missed::burst, missed::delay, missed::skip}) {
        const virtual_time clock;
        auto root = [&]() -> task<> {
            interval centuries(std::chrono::hours::max(), policy);
            for (int i = 0; i < 2; ++i) co_await centuries.next();
            const auto third = co_await ringlet::try_timeout(24h, centuries.next());
            CHECK_FALSE(third.has_value());
            interval late(std::chrono::hours::max(), policy);
            const auto first = co_await ringlet::try_timeout(24h, late.next());
            CHECK_FALSE(first.has_value());
        };
        block_on(root());
    }
}

TEST_CASE("interval: never early by the real clock, the first tick a period after the beginning") {
    auto root = []() -> task<> {
        const auto start = std::chrono::steady_clock::now();
        interval tick(1ms);
        for (int i = 1; i <= 3; ++i) {
            const auto due = co_await tick.next();
            CHECK((due >= start + i * 1ms));
            CHECK((std::chrono::steady_clock::now() >= due));
        }
    };
    block_on(root());
}

// ---- multishot ---------------------------------------------------------------------------------

namespace {

unique_fd new_event() {
    unique_fd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    REQUIRE(event.get() >= 0);
    return event;
}
auto polls(int fd) {
    return [fd](io_uring_sqe* s) { io_uring_prep_poll_multishot(s, fd, POLLIN); };
}
auto cancels(int fd) {
    return [fd](io_uring_sqe* s) { io_uring_prep_cancel_fd(s, fd, 0); };
}
void put(int fd) { REQUIRE(eventfd_write(fd, 1) == 0); }

// A socket that listens on the loopback, and connections to it.
class server {
public:
    server() {
        sockaddr_in any{};
        any.sin_family = AF_INET;
        any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        REQUIRE(::bind(fd, reinterpret_cast<sockaddr*>(&any), sizeof any) == 0);
        REQUIRE(::listen(fd, 64) == 0);
        socklen_t size = sizeof address_;
        REQUIRE(::getsockname(fd, reinterpret_cast<sockaddr*>(&address_), &size) == 0);
    }
    void connect(int count) {
        for (; count--; clients.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)))
            ;
        for (std::size_t i = connected_; i < clients.size(); ++i)
            REQUIRE(::connect(clients[i], reinterpret_cast<sockaddr*>(&address_), sizeof address_)
                == 0);
        connected_ = clients.size();
    }

    unique_fd fd{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    std::vector<unique_fd> clients;

private:
    sockaddr_in address_{};
    std::size_t connected_ = 0;
};

}  // namespace

TEST_CASE("multishot: one request, many completions; they queue up while nobody waits") {
    const nothing_left checks;
    auto root = []() -> task<> {
        const unique_fd event = new_event();
        multishot m(polls(event));
        for (int i = 0; i < 3; ++i) {
            put(event);
            co_await yields(200);
        }
        for (int i = 0; i < 3; ++i) {
            const auto shot = co_await m.next();
            CHECK(shot.res == POLLIN);
            CHECK((shot.flags & IORING_CQE_F_MORE) != 0);
        }
        CHECK(m.armed());
        auto waits = [](auto& from) -> task<int> {
            const auto shot = co_await from.next();
            co_return shot.res;
        };
        join_handle<int> h = ringlet::spawn(waits(m));
        co_await yields(200);
        const bool early = h.done();
        CHECK_FALSE(early);
        put(event);
        const int res = co_await std::move(h);
        CHECK(res == POLLIN);
    };
    block_on(root());
}

TEST_CASE("multishot: its end is reported, whatever the result") {
    const nothing_left checks;
    auto root = []() -> task<> {
        const unique_fd event = new_event();
        multishot cancelled(polls(event));
        co_await ringlet::io::op(cancels(event));
        const auto last = co_await cancelled.next();
        CHECK(last.res == -ECANCELED);
        CHECK((last.flags & IORING_CQE_F_MORE) == 0);
        CHECK_FALSE(cancelled.armed());
        bool closed = false;
        try {
            co_await cancelled.next();
        } catch (const ringlet::channel_closed&) { closed = true; }
        CHECK(closed);
        multishot nothing(io_uring_prep_nop);
        const auto only = co_await nothing.next();
        CHECK(only.res == 0);
        CHECK((only.flags & IORING_CQE_F_MORE) == 0);
        multishot bad(polls(-1));
        const auto error = co_await bad.next();
        CHECK(error.res == -EBADF);
        CHECK_FALSE(bad.armed());
    };
    block_on(root());
}

TEST_CASE(
    "multishot: who takes the last, run on the spot, may end it; the next waits for nothing") {
    const nothing_left checks;
    auto root = []() -> task<> {
        int over = 0;
        std::optional<multishot<>> shots(io_uring_prep_nop);
        auto takes = [&]() -> task<> {
            const auto shot = co_await shots->try_next();
            if (shot) shots.reset();
            ++over;
        };
        std::vector<join_handle<>> handles;
        for (int i = 0; i < 2; ++i) {
            auto [r, h] = ringlet::spawn(takes(), [](ringlet::runnable x) { std::move(x).run(); });
            std::move(r).run();
            handles.push_back(std::move(h));
        }
        for (int i = 0; i < 100 && over < 2; ++i) co_await yield_now();
        CHECK(over == 2);
        CHECK_FALSE(shots.has_value());
    };
    block_on(root());
}

TEST_CASE("multishot: dropped while armed, nothing of it stays in flight") {
    const nothing_left checks;
    const unique_fd event = new_event();
    executor ex;
    auto drops = [&]() -> task<> {
        drop(std::make_unique<multishot<>>(polls(event)));  // not even submitted
        auto m = std::make_unique<multishot<>>(polls(event));
        put(event);
        co_await yields(200);
        m.reset();
        co_await yields(2);
    };
    ex.run(drops());
    auto waits = []() -> task<> {
        gate never;
        co_await never.wait();
    };
    CHECK_THROWS_AS(ex.run(waits()), deadlock);
}

TEST_CASE("multishot: a cancelled wait takes nothing; an executor may end while it is armed") {
    const nothing_left checks;
    const unique_fd event = new_event();
    std::optional<multishot<>> outlives;
    auto waits = [](auto& from) -> task<int> {
        const auto shot = co_await from.next();
        co_return shot.res;
    };
    auto owns = [&]() -> task<> {
        multishot m(polls(event));
        co_await m.next();
        co_await m.next();
    };
    auto root = [&]() -> task<> {
        outlives.emplace(polls(event));
        join_handle<int> h = ringlet::spawn(waits(*outlives));
        co_await yields(100);
        const std::optional<int> none = co_await std::move(h).cancel();
        CHECK_FALSE(none.has_value());
        put(event);
        const int res = co_await waits(*outlives);
        CHECK(res == POLLIN);
        ringlet::spawn(owns()).detach();
        co_await yields(200);
    };
    block_on(root());
    CHECK_FALSE(outlives->armed());
}

TEST_CASE("accept_many gives connections, one after the other, and re-arms when it must") {
    const nothing_left checks;
    for (const unsigned entries : {64u, 1u}) {  // 1: there is room for 4 completions
        CAPTURE(entries);
        server s;
        auto root = [&]() -> task<int> {
            ringlet::reactor::here(ringlet::reactor::options(entries));
            s.connect(30);
            accept_many clients(s.fd);
            std::vector<unique_fd> taken;
            for (int i = 0; i < 40; ++i) {
                if (i == 30) s.connect(10);
                unique_fd fd = co_await clients.next();
                const int flags = ::fcntl(fd, F_GETFD);
                CHECK((flags & FD_CLOEXEC) != 0);
                taken.push_back(std::move(fd));
            }
            for (std::size_t i = 0; i < taken.size(); ++i) {
                const ssize_t n = ::write(s.clients[i], "x", 1);
                CHECK(n == 1);
                std::array<std::byte, 8> buffer;
                const std::size_t got = co_await ringlet::io::recv(taken[i], buffer);
                CHECK(got == 1);
            }
            co_return static_cast<int>(taken.size());
        };
        CHECK(block_on(root()) == 40);
    }
}

TEST_CASE("accept_many: what came and was not taken is closed with it") {
    const nothing_left checks;
    server s;
    auto root = [&]() -> task<> {
        s.connect(1);
        const auto before = open_files();
        std::optional<accept_many> clients(std::in_place, s.fd);
        drop(co_await clients->next());
        const auto files = open_files();
        s.connect(5);
        co_await yields(200);
        CHECK(open_files() == files + 10);  // both ends
        clients.reset();
        CHECK(open_files() == files + 5);
        CHECK(before <= files);
    };
    block_on(root());
}

TEST_CASE("accept_many: a wait that is cancelled, and an executor's end") {
    const nothing_left checks;
    server s;
    int frames = 0;
    auto waits = [&]() -> task<> {
        const guard g(frames);
        accept_many clients(s.fd);
        for (;;) drop(co_await clients.next());
    };
    auto root = [&](int turns) -> task<> {
        join_handle<> h = ringlet::spawn(waits());
        co_await yields(turns);
        s.connect(2);
        const bool ended = co_await std::move(h).cancel();
        CHECK_FALSE(ended);
        ringlet::spawn(waits()).detach();
        co_await yields(turns);
        s.connect(2);
    };
    for (const int turns : {0, 1, 100}) block_on(root(turns));
    CHECK(frames >= 4);
}

TEST_CASE("accept_many: several tasks take connections, each of them until it is cancelled") {
    const nothing_left checks;
    for (const unsigned entries : {64u, 1u}) {  // 1: the multishot ends again and again
        CAPTURE(entries);
        server s;
        int taken = 0;
        auto takes = [&](accept_many* from) -> task<> {
            for (;;) drop(co_await from->next()), ++taken;
        };
        auto root = [&]() -> task<> {
            ringlet::reactor::here(ringlet::reactor::options(entries));
            accept_many clients(s.fd);
            join_handle<> a = ringlet::spawn(takes(&clients)), b = ringlet::spawn(takes(&clients)),
                          c = ringlet::spawn(takes(&clients));
            for (int i = 0; i < 20; ++i) {
                s.connect(5);
                co_await yields(100);
                CHECK(taken == 5 * (i + 1));
            }
            CHECK_FALSE((a.done() || b.done() || c.done()));
        };
        block_on(root());
    }
}

TEST_CASE("accept_many: without descriptors it pauses, and goes on when there are some") {
    const nothing_left checks;
    const virtual_time clock;
    const auto start = virtual_time::now();
    server s;
    auto root = [&]() -> task<> {
        ringlet::reactor::here();
        s.connect(3);
        std::optional<no_more_files> none;
        accept_many clients(s.fd);
        auto relief = [&]() -> task<> {
            co_await sleep_for(35ms);
            none.reset();
        };
        auto waits = [&]() -> task<> { drop(co_await clients.next()); };
        co_await yield_now();
        none.emplace();
        join_handle<> cancelled = ringlet::spawn(waits());
        co_await sleep_for(5ms);
        drop(std::move(cancelled));  // in its pause
        join_handle<> h = ringlet::spawn(relief());
        co_await waits();
        CHECK((virtual_time::now() == start + 45ms));  // 5, 15, 25, 35, 45; relief at 40
        co_await waits();
        co_await waits();
        CHECK((virtual_time::now() == start + 45ms));
        co_await std::move(h);
    };
    block_on(root());
}

TEST_CASE("accept_many: errors that pass are none, some of them after a pause") {
    if (!support::can_inject()) return;
    static int injected = 0;
    const auto inject = [](io_uring_sqe* s) {
        if (s->opcode != IORING_OP_ACCEPT || injected == 0) return;
        support::inject(s, -std::exchange(injected, 0));
    };
    const std::pair<int, std::chrono::milliseconds> pauses[] = {{EMFILE, 10ms}, {ENFILE, 10ms},
        {ENOBUFS, 10ms}, {ENOMEM, 10ms}, {ECONNABORTED, 0ms}, {EINTR, 0ms}, {EAGAIN, 0ms}};
    const nothing_left checks;
    server s;
    for (const auto& [error, pause] : pauses) {
        CAPTURE(error);
        s.connect(1);
        const virtual_time clock;
        const auto start = virtual_time::now();
        auto root = [&]() -> task<> {
            accept_many clients(s.fd);
            const unique_fd fd = co_await clients.next();
            CHECK(static_cast<bool>(fd));
            CHECK((virtual_time::now() == start + pause));
        };
        injected = error;
        ringlet::reactor::on_submit = inject;
        block_on(root());
        ringlet::reactor::on_submit = nullptr;
        CHECK(injected == 0);
    }
}

TEST_CASE("accept_many: an error that stays is an exception") {
    const nothing_left checks;
    const unique_fd event = new_event();
    const unique_fd deaf(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    auto root = [](int fd) -> task<int> {
        accept_many clients(fd);
        int errors = 0;
        for (int i = 0; i < 2; ++i) {
            try {
                drop(co_await clients.next());
            } catch (const std::system_error& e) {
                errors = e.code().value();
                CHECK(contains(e.what(), "accept on descriptor " + std::to_string(fd)));
            }
        }
        co_return errors;
    };
    CHECK(block_on(root(-1)) == EBADF);
    CHECK(block_on(root(event)) == ENOTSOCK);
    CHECK(block_on(root(deaf)) == EINVAL);
}
