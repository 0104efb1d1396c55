// floor: works of works.cpp by hand, with as little as a coroutine can do with.
//
//   usage: floor yield|spawn|call|pingpong|sleep COUNT
//          floor yield|spawn|message COUNT CROWD           among CROWD tasks, as in cost.cpp
//
// An intrusive queue, first in, first out, and frames that are recycled; for sleep a binary heap of
// deadlines. No cancellation, no handles that can be dropped, no exceptions, no I/O. What the same
// work costs here is the limit of the language, and of its compiler. Prints a line as works does.

#include <algorithm>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <span>
#include <utility>
#include <vector>

namespace {

// ---- 1. The runtime -----------------------------------------------------------------------------

// Freed frames, in lists by size. Frames here are small.
struct recycled {
    static void* operator new(std::size_t n) {
        void*& list = lists[(n + 15) / 16];
        if (!list) return ::operator new((n + 15) / 16 * 16);
        return std::exchange(list, *static_cast<void**>(list));
    }
    static void operator delete(void* p, std::size_t n) {
        *static_cast<void**>(p) = std::exchange(lists[(n + 15) / 16], p);
    }
    inline static void* lists[129];
};

// Lies in the awaiter, which stays as long as the coroutine waits.
struct node {
    node* next = nullptr;
    std::coroutine_handle<> waiting;
};
struct queue {
    node *first = nullptr, **end = &first;
    void push(node& n) {
        n.next = nullptr;
        *end = &n;
        end = &n.next;
    }
    node& pop() {
        node& n = *first;
        first = n.next;
        if (!first) end = &first;
        return n;
    }
};
queue ready;

std::int64_t nanoseconds() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1'000'000'000 + t.tv_nsec;
}

struct timer {
    std::int64_t deadline;
    node* sleeper;
    bool operator<(const timer& o) const { return deadline > o.deadline; }  // the earliest on top
};
std::vector<timer> heap;

// Sleeps until the first timer is over, and makes all runnable that are.
bool wait() {
    if (heap.empty()) return false;
    const std::int64_t until = heap.front().deadline;
    const timespec t{until / 1'000'000'000, until % 1'000'000'000};
    std::int64_t time = nanoseconds();
    if (time < until) {
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, nullptr);
        time = nanoseconds();
    }
    while (!heap.empty() && heap.front().deadline <= time) {
        ready.push(*heap.front().sleeper);
        std::pop_heap(heap.begin(), heap.end());
        heap.pop_back();
    }
    return true;
}

void run() {
    do
        while (ready.first) ready.pop().waiting.resume();
    while (wait());
}

struct unit {};

// A coroutine that is awaited at once (a call), or spawned, and then joined.
template <class T = unit> struct task {
    struct promise_type;
    using handle = std::coroutine_handle<promise_type>;
    struct promise_type : recycled, node {
        std::coroutine_handle<> caller;
        node* joiner = nullptr;
        T value;

        task get_return_object() { return task(handle::from_promise(*this)); }
        std::suspend_always initial_suspend() const noexcept { return {}; }
        struct last : std::suspend_always {
            std::coroutine_handle<> await_suspend(handle h) const noexcept {
                if (h.promise().joiner) ready.push(*h.promise().joiner);
                if (h.promise().caller) return h.promise().caller;
                return std::noop_coroutine();
            }
        };
        last final_suspend() const noexcept { return {}; }
        void return_value(T v) { value = v; }
        void unhandled_exception() { std::abort(); }
    };

    handle frame;
    explicit task(handle h) : frame(h) {}
    task(task&& o) noexcept : frame(std::exchange(o.frame, nullptr)) {}
    task& operator=(task&& o) noexcept { return std::swap(frame, o.frame), *this; }
    task() = default;
    ~task() {
        if (frame) frame.destroy();
    }

    void spawn() {
        frame.promise().waiting = frame;
        ready.push(frame.promise());
    }
    struct join : node {
        handle child;
        explicit join(handle h) : child(h) {}
        bool await_ready() const { return child.done(); }
        void await_suspend(std::coroutine_handle<> h) {
            waiting = h;
            child.promise().joiner = this;
        }
        T await_resume() const { return child.promise().value; }
    };
    join joined() const { return join(frame); }

    struct call {
        handle child;
        explicit call(handle h) : child(h) {}
        bool await_ready() const { return false; }
        // Most children return at once: a symmetric transfer there and back costs more than this.
        bool await_suspend(std::coroutine_handle<> h) const {
            child.resume();
            if (child.done()) return false;
            child.promise().caller = h;
            return true;
        }
        T await_resume() const { return child.promise().value; }
    };
    call operator co_await() const { return call(frame); }
};

struct yield : node {
    yield() {}
    bool await_ready() const { return false; }
    void await_suspend(std::coroutine_handle<> h) {
        waiting = h;
        ready.push(*this);
    }
    void await_resume() const {}
};

struct sleep : node {
    std::int64_t deadline;
    explicit sleep(std::int64_t ns) : deadline(nanoseconds() + ns) {}
    bool await_ready() const { return false; }
    void await_suspend(std::coroutine_handle<> h) {
        waiting = h;
        heap.push_back(timer{deadline, this});
        std::push_heap(heap.begin(), heap.end());
    }
    void await_resume() const {}
};

// Room for one number, one sender and one receiver.
struct channel {
    bool full = false;
    int slot = 0;
    node *sender = nullptr, *receiver = nullptr;

    struct send : node {
        channel& to;
        int value;
        send(channel& c, int v) : to(c), value(v) {}
        bool await_ready() const { return !to.full; }
        void await_suspend(std::coroutine_handle<> h) {
            waiting = h;
            to.sender = this;
        }
        void await_resume() {
            to.full = true;
            to.slot = value;
            if (to.receiver) ready.push(*std::exchange(to.receiver, nullptr));
        }
    };
    struct receive : node {
        channel& from;
        explicit receive(channel& c) : from(c) {}
        bool await_ready() const { return from.full; }
        void await_suspend(std::coroutine_handle<> h) {
            waiting = h;
            from.receiver = this;
        }
        int await_resume() {
            from.full = false;
            if (from.sender) ready.push(*std::exchange(from.sender, nullptr));
            return from.slot;
        }
    };
    send put(int v) { return send(*this, v); }
    receive take() { return receive(*this); }
};

// ---- 2. The works -------------------------------------------------------------------------------

long crowd = 10'000;

task<> yielder(long n) {
    for (long i = 0; i < n; ++i) co_await yield();
    co_return unit();
}
task<long> yields(long n) {
    std::vector<task<>> tasks;
    for (long i = 0; i < crowd; ++i) {
        tasks.push_back(yielder(n / crowd));
        tasks.back().spawn();
    }
    for (auto& t : tasks) co_await t.joined();
    co_return n*(n - 1) / 2;
}

task<int> child(int i) { co_return i; }
task<long> spawns(long n) {
    long sum = 0;
    for (long i = 0; i < n; ++i) {
        auto t = child(static_cast<int>(i));
        t.spawn();
        sum += co_await t.joined();
    }
    co_return sum;
}

task<long> crowds(long n) {
    std::vector<task<int>> tasks;
    for (long round = 0; round < n / crowd; ++round) {
        for (long i = 0; i < crowd; ++i) {
            tasks.push_back(child(static_cast<int>(i)));
            tasks.back().spawn();
        }
        for (auto& t : tasks) co_await t.joined();
        tasks.clear();
    }
    co_return n*(n - 1) / 2;
}

[[gnu::noinline]] task<int> callee(int i) { co_return i; }
task<long> calls(long n) {
    long sum = 0;
    for (long i = 0; i < n; ++i) sum += co_await callee(static_cast<int>(i));
    co_return sum;
}

task<> ponger(channel& in, channel& out, long n) {
    for (long i = 0; i < n; ++i) {
        const int value = co_await in.take();
        co_await out.put(value);
    }
    co_return unit();
}
task<long> pings(long n) {
    channel there, back;
    auto other = ponger(there, back, n);
    other.spawn();
    long sum = 0;
    for (long i = 0; i < n; ++i) {
        co_await there.put(static_cast<int>(i));
        sum += co_await back.take();
    }
    co_await other.joined();
    co_return sum;
}

// A pair of tasks sends two messages a round, so each task of the crowd one.
task<long> messages(long n) {
    std::vector<task<long>> pairs;
    for (long i = 0; i < crowd / 2; ++i) {
        pairs.push_back(pings(n / crowd));
        pairs.back().spawn();
    }
    for (auto& t : pairs) co_await t.joined();
    co_return n*(n - 1) / 2;
}

std::vector<task<>> sleepers;

task<> sleeper(std::int64_t ns) {
    co_await sleep(ns);
    co_return unit();
}
task<long> sleeps(long n) {
    std::uint64_t random = 0x9e3779b97f4a7c15;
    for (long i = 0; i < n; ++i) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        sleepers.push_back(sleeper(static_cast<std::int64_t>(1000 + random % 49'000) * 1000));
        sleepers.back().spawn();
    }
    for (auto& t : sleepers) co_await t.joined();
    sleepers.clear();
    co_return n*(n - 1) / 2;
}

// ---- 3. The program -----------------------------------------------------------------------------

struct work {
    const char* name;
    task<long> (*body)(long);
};
const work works[] = {
    {"yield", yields}, {"spawn", spawns}, {"call", calls}, {"pingpong", pings}, {"sleep", sleeps}};
const work works_of_crowds[] = {{"yield", yields}, {"spawn", crowds}, {"message", messages}};

double now(clockid_t clock) {
    timespec t;
    clock_gettime(clock, &t);
    return static_cast<double>(t.tv_sec) * 1e9 + static_cast<double>(t.tv_nsec);
}
void finish(const work& w, long n) {
    task<long> root = w.body(n);
    root.spawn();
    run();
    if (root.frame.promise().value == n * (n - 1) / 2) return;
    std::fprintf(stderr, "floor: a wrong result\n");
    std::exit(1);
}
int measure(const work& w, long count) {
    const long units = count / crowd * crowd;
    finish(w, w.body == sleeps ? units : std::max(1000 / crowd, 1l) * crowd);  // goes uncounted
    const double wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    finish(w, units);
    const auto n = static_cast<double>(units);
    std::printf("work=%s units=%ld wall_ns=%.2f cpu_ns=%.2f\n", w.name, units,
        (now(CLOCK_MONOTONIC) - wall) / n, (now(CLOCK_PROCESS_CPUTIME_ID) - cpu) / n);
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    const long count = argc >= 3 ? std::atol(argv[2]) : 0;
    if (argc == 4) crowd = std::atol(argv[3]);
    std::span<const work> all = works;
    if (argc == 4) all = works_of_crowds;
    for (const work& w : all)
        if (crowd > 0 && count >= crowd && std::strcmp(argv[1], w.name) == 0)
            return measure(w, count);
    std::fprintf(stderr,
        "usage: floor yield|spawn|call|pingpong|sleep COUNT     (10,000 at least)\n"
        "       floor yield|spawn|message COUNT CROWD     (CROWD at least)\n");
    return 2;
}
