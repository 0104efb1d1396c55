// Step 6 of 6: cancellation.
//
//   output:
//     too late; the kernel has let go of the buffer
//     the new string: my own business
//     the peer: the late answer
//     in time
//
// The program is that of step 5. The shape is that of the headers now, and the chapters bear their
// names.

#include <liburing.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <coroutine>
#include <cstdio>
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

// ---- task.hpp -----------------------------------------------------------------------------------

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

// To cancel a job is to destroy its frame, but not at once: whoever it waits for is asked first,
// and may say: not yet. So what a job waits for is an object of its own, a *wait*, which knows how
// to let go.
struct job;
struct wait : std::suspend_always {
    std::shared_ptr<job> owner;
    int result = -1;
    void begin();           // the running job waits for this from now on
    void over(int n = -1);  // and not any more; with a result, or (less than 0) without
    // The job is to stop. True: the wait has let go of it. False: it cannot yet, and calls over()
    // later.
    virtual bool interrupt() noexcept = 0;
};

// A job's life, with the new arrow:
//
//        (1)                (2)                 (4)
//     --------> SCHEDULED --------> RUNNING ---------> ENDED
//                |  ^  ^              |   |              ^
//                |  |  |      (5)     |   | (3)          |
//                |  |  +---- WOKEN <--+   v              |
//                |  +------------------- IDLE            |
//                |       (5), (6)                        |
//                + - - - - - - - -(6)- - - - - - - - - - +
//
//     (1) spawn    (2) run resumes the frame    (3) an await suspends it    (4) the frame has
//     returned    (5) wake    (6) cancel: what the job waits for lets go, the job is scheduled once
//     more, and run destroys the frame instead of resuming it
struct job : std::enable_shared_from_this<job> {
    enum { scheduled, running, woken, idle, ended } phase = scheduled;
    bool cancelled = false, fulfilled = false;
    std::coroutine_handle<> frame;
    wait *waiting = nullptr, *watcher = nullptr;  // what it waits for; who waits for it
    static inline job* current = nullptr;

    explicit job(task t) : frame(t.frame) {}
    void schedule();
    void wake() {
        if (phase == idle) schedule();
        else if (phase == running) phase = woken;
    }
    // A completion beats a cancel: if what the job waited for had a result after all, the job goes
    // on with it, to its next suspension. So no bytes that were read are ever thrown away.
    void run() {
        if (const bool granted = std::exchange(fulfilled, false); cancelled && !granted)
            return end(true);
        phase = running;
        (current = this)->frame.resume();
        if (frame.done()) return end(false);
        if (cancelled && (!waiting || waiting->interrupt())) return end(true);
        phase == woken ? schedule() : void(phase = idle);
    }
    void cancel() {
        if (std::exchange(cancelled, true) || phase != idle) return;
        if (!waiting) wake();
        else if (waiting->interrupt()) waiting->over();
    }
    void end(bool early) {
        phase = ended;
        frame.destroy();  // destructors run, handlers do not
        if (watcher) watcher->over(early ? -1 : 0);
    }
};
void wait::begin() { (owner = job::current->shared_from_this())->waiting = this; }
void wait::over(int n) {
    const auto j = std::exchange(owner, nullptr);
    j->waiting = nullptr;
    j->fulfilled = (result = n) >= 0;
    j->wake();
}

struct runnable {
    std::shared_ptr<job> its;
    explicit runnable(job& j) : its(j.shared_from_this()) {}
    void run() && { its->run(); }
};
// The job's life: dropping the handle cancels it. Nobody waits for that here: the wait keeps the
// job.
struct join_handle {
    std::shared_ptr<job> its;
    explicit join_handle(task t) : its(std::make_shared<job>(t)) { its->schedule(); }
    ~join_handle() { its->cancel(); }
};

// ---- executor.hpp, with the heap of timer.hpp ---------------------------------------------------

using heap = std::multimap<clock::time_point, std::function<void()>>;  // what to do, and when
struct executor {
    std::deque<runnable> queue;
    heap timers;
    io_uring ring;
    unsigned in_flight = 0;
    void run(task t) {
        for (const join_handle root(t);;) {
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

// ---- reactor.hpp --------------------------------------------------------------------------------

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

// ---- Three waits, and how each lets go ----------------------------------------------------------

// A sleep: the heap forgets it, at once.
struct sleep_for : wait {
    milliseconds d;
    heap::iterator place;
    explicit sleep_for(milliseconds n) : d(n) {}
    void await_suspend(std::coroutine_handle<>) {
        begin();
        place = ex.at(d, [this] { over(); });
    }
    bool interrupt() noexcept override { return ex.timers.erase(place), true; }
};
// A read: the kernel is asked to give it up, and until it says that it has, the frame stays.
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
    bool interrupt() noexcept override {
        return submit(nullptr, io_uring_prep_cancel, static_cast<wait*>(this), 0), false;
    }
};
// A child and a deadline: the child is cancelled, and waited for.
struct in_time : wait {
    milliseconds d;
    join_handle child;
    heap::iterator place = ex.timers.end();
    in_time(milliseconds n, task t) : d(n), child(t) {}
    void await_suspend(std::coroutine_handle<>) {
        begin();
        child.its->watcher = this;
        place = ex.at(d, [this] { place = ex.timers.end(), child.its->cancel(); });
    }
    ~in_time() { place != ex.timers.end() ? void(ex.timers.erase(place)) : void(); }
    bool await_resume() const { return result >= 0; }
    bool interrupt() noexcept override { return child.its->cancel(), false; }
};

// ---- The program of step 5 ----------------------------------------------------------------------

task reader(int fd) {
    std::string buffer(500, ' ');
    const int n = co_await read(fd, buffer);
    std::printf("the peer: %.*s\n", n, buffer.c_str());
}
task root(int from, int to) {
    const bool first = co_await in_time(milliseconds(10), reader(from));
    std::puts(first ? "in time" : "too late; the kernel has let go of the buffer");
    std::string mine(500, '.');  // takes the place of the buffer
    mine.replace(0, 15, "my own business");
    if (::write(to, "the late answer", 15) < 0) std::perror("write");
    std::printf("the new string: %.15s\n", mine.c_str());
    const bool second = co_await in_time(milliseconds(10), reader(from));
    std::puts(second ? "in time" : "too late");
}

}  // namespace

int main() {
    int ends[2];
    if (::pipe(ends) < 0 || io_uring_queue_init(64, &ex.ring, 0) < 0) return 1;
    ex.run(root(ends[0], ends[1]));
    io_uring_queue_exit(&ex.ring);
}

// ---- And now the headers ------------------------------------------------------------------------
//
// What they add to this: tasks that await tasks, with values and exceptions; frames and jobs from a
// pool instead of the heap, references counted by hand, the queue and the lists linked through the
// jobs; waits for several tasks at once, and channels; every operation of the ring; and a message
// that names whoever waits when nothing can go on any more. The arrows are the same.
