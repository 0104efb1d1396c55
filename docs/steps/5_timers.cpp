// Step 5 of 6: timers.
//
//   output:
//     too late; the buffer is freed
//     the new string: the late answer
//     that is not what was written there
//
// The last two lines are the flaw.

#include <liburing.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <coroutine>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

namespace {

using clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

struct task {
    struct promise_type {
        task get_return_object() { return task(*this); }
        std::suspend_always initial_suspend() noexcept { return {}; }
        std::suspend_always final_suspend() noexcept { return {}; }
        void return_void() {}
        void unhandled_exception() { std::terminate(); }
    };
    std::coroutine_handle<promise_type> frame;
    explicit task(promise_type& p) : frame(frame.from_promise(p)) {}
};

// Job and runnable are those of step 3, cut down. Who ends a job before its time calls end().
struct wait;
struct job : std::enable_shared_from_this<job> {
    enum { scheduled, running, woken, idle, ended } phase = scheduled;
    std::coroutine_handle<> frame;
    wait* watcher = nullptr;  // who waits for its end
    static inline job* current = nullptr;

    explicit job(task t) : frame(t.frame) {}
    void schedule();
    void wake() {
        if (phase == idle) schedule();
        else if (phase == running) phase = woken;
    }
    void run() {
        phase = running;
        (current = this)->frame.resume();
        if (frame.done()) end(0);
        else if (phase == woken) schedule();
        else phase = idle;
    }
    void end(int result);
};
// What a job waits for: a place for the result, and a waker.
struct wait : std::suspend_always {
    std::shared_ptr<job> owner;
    int result = -1;
    void begin() { owner = job::current->shared_from_this(); }
    void over(int n = -1) {
        result = n;
        std::exchange(owner, nullptr)->wake();
    }
};
void job::end(int result) {
    phase = ended;
    frame.destroy();
    if (watcher) watcher->over(result);
}

struct runnable {
    std::shared_ptr<job> its;
    explicit runnable(job& j) : its(j.shared_from_this()) {}
    void run() && { its->run(); }
};

// ---- Timers -------------------------------------------------------------------------------------
//
// One list in user space, sorted by time (a multimap serves as the heap): its earliest deadline is
// the one timeout of the loop's sleep. A timer of the kernel for each would cost ten times as much.
using heap = std::multimap<clock::time_point, std::function<void()>>;  // what to do, and when
struct executor {
    std::deque<runnable> queue;
    heap timers;
    io_uring ring;
    unsigned in_flight = 0;
    void run(task t) {
        std::make_shared<job>(t)->schedule();
        for (;;) {
            for (; !queue.empty(); queue.pop_front()) std::move(queue.front()).run();
            if (!in_flight && timers.empty()) return;
            park(timers.empty() ? clock::time_point::max() : timers.begin()->first);
            while (!timers.empty() && timers.begin()->first <= clock::now())
                timers.extract(timers.begin()).mapped()();
        }
    }
    auto at(milliseconds d, auto f) { return timers.emplace(clock::now() + d, f); }
    void park(clock::time_point until);
} ex;
void job::schedule() { phase = scheduled, ex.queue.push_back(runnable(*this)); }

// ---- The ring -----------------------------------------------------------------------------------

void submit(wait* to, auto prepare, auto... arguments) {
    io_uring_sqe* const sqe = io_uring_get_sqe(&ex.ring);
    prepare(sqe, arguments...);
    io_uring_sqe_set_data(sqe, to);
    ++ex.in_flight;
}
void executor::park(clock::time_point until) {
    const auto left = std::max(until - clock::now(), clock::duration()).count();
    __kernel_timespec limit{left / 1'000'000'000, left % 1'000'000'000};
    io_uring_cqe* cqe = nullptr;
    io_uring_submit_and_wait_timeout(&ring, &cqe, 1, &limit, nullptr);
    for (; io_uring_peek_cqe(&ring, &cqe) == 0; --in_flight) {
        const auto [to, result] = std::pair(io_uring_cqe_get_data(cqe), cqe->res);
        io_uring_cqe_seen(&ring, cqe);
        if (to) static_cast<wait*>(to)->over(result);
    }
}

// ---- Reading, and giving up ---------------------------------------------------------------------

struct read : wait {
    int fd;
    std::string& into;
    read(int descriptor, std::string& buffer) : fd(descriptor), into(buffer) {}
    void await_suspend(std::coroutine_handle<>) {
        begin();
        const auto size = static_cast<unsigned>(into.size());
        submit(this, io_uring_prep_read, fd, into.data(), size, std::uint64_t(0));
    }
    int await_resume() const { return result; }
};
// A child and a deadline: when that comes, the child is destroyed.
struct in_time : wait {
    milliseconds d;
    std::shared_ptr<job> child;
    heap::iterator place = ex.timers.end();
    in_time(milliseconds n, task t) : d(n), child(std::make_shared<job>(t)) {}
    void await_suspend(std::coroutine_handle<>) {
        begin();
        child->watcher = this;
        child->schedule();
        place = ex.at(d, [this] { place = ex.timers.end(), child->end(-1); });
    }
    ~in_time() { place != ex.timers.end() ? void(ex.timers.erase(place)) : void(); }
    bool await_resume() const { return result >= 0; }
};

// ---- The program --------------------------------------------------------------------------------

task reader(int fd) {
    std::string buffer(500, ' ');
    const int n = co_await read(fd, buffer);
    std::printf("the peer: %.*s\n", n, buffer.c_str());
}
task root(int from, int to) {
    const bool first = co_await in_time(milliseconds(10), reader(from));
    std::puts(first ? "in time" : "too late; the buffer is freed");
    std::string mine(500, '.');  // takes the place of the buffer
    mine.replace(0, 15, "my own business");
    if (::write(to, "the late answer", 15) < 0) std::perror("write");
    std::printf("the new string: %.15s\n", mine.c_str());
    if (mine.starts_with("my own")) co_return;
    std::puts("that is not what was written there");
    std::fflush(stdout);
    std::_Exit(1);  // nothing can be relied on any more
}

}  // namespace

int main() {
    int ends[2];
    if (::pipe(ends) < 0 || io_uring_queue_init(64, &ex.ring, 0) < 0) return 1;
    ex.run(root(ends[0], ends[1]));
    io_uring_queue_exit(&ex.ring);
}

// ---- The flaw -----------------------------------------------------------------------------------
//
// The child was destroyed, and its buffer with it, while its read was in flight. The kernel knows
// nothing of frames: when the bytes came it wrote them to the address it had been given, which by
// then belonged to a string of somebody else. With -fsanitize=address the memory is not used again,
// so the string survives; but then the completion arrives, for a wait that is gone:
// heap-use-after-free, says the sanitizer.
//
// Destroying a coroutine is easy, and this is why it is not enough. Whoever still holds a pointer
// into the frame has to let go first.
