// Step 3 of 6: a waker.
//
// What a task is doing right now has to be written down somewhere: in a *job*. Two handles refer to
// it. A runnable is the right to run it once; a waker makes it runnable again, and can do no harm.
//
//   output:
//     an answer from near
//     an answer from far
//     2 wakes did nothing
//     read from the pipe: hello
//     meanwhile the other task has run 0 times
//
// The last line is the flaw.

#include <sys/wait.h>
#include <unistd.h>

#include <coroutine>
#include <cstdio>
#include <deque>
#include <exception>
#include <memory>
#include <utility>

namespace {

struct task {
    struct promise_type {
        task get_return_object() {
            return task(std::coroutine_handle<promise_type>::from_promise(*this));
        }
        std::suspend_always initial_suspend() noexcept { return {}; }
        std::suspend_always final_suspend() noexcept { return {}; }
        void return_void() {}
        void unhandled_exception() { std::terminate(); }
    };
    std::coroutine_handle<> frame;
    explicit task(std::coroutine_handle<> h) : frame(h) {}
};

// ---- The job ------------------------------------------------------------------------------------
//
// A job's life:
//
//        (1)                (2)                 (4)
//     --------> SCHEDULED --------> RUNNING ---------> ENDED
//                ^    ^              |   |
//            (5) |    |      (5)     |   | (3)
//                |    +---- WOKEN <--+   v
//                +--------------------- IDLE
//
//     (1) spawn    (2) run resumes the frame    (3) an await suspends it    (4) the frame has
//     returned    (5) wake; while the job runs it is remembered, and counts at the end of the run
//
// The arrow to WOKEN is what was missing: no wake is lost any more. In SCHEDULED and in ENDED a
// wake does nothing: no job is in the queue twice, and none is resumed after its end.
struct job : std::enable_shared_from_this<job> {
    enum { scheduled, running, woken, idle, ended } phase = scheduled;
    std::coroutine_handle<> frame;
    unsigned runs = 0;
    static inline job* current = nullptr;

    explicit job(task t) : frame(t.frame) {}
    job(job&&) = delete;
    ~job() {
        if (phase != ended) frame.destroy();
    }
    void schedule();
    bool wake() {
        if (phase == idle) return schedule(), true;
        return phase == running && (phase = woken);
    }
    void run() {
        phase = running;
        ++runs;
        current = this;
        frame.resume();
        if (frame.done()) {
            phase = ended;
            frame.destroy();
        } else if (phase == woken) schedule();
        else phase = idle;
    }
};

// The right to run a job once. It disappears when it has run, and appears again, in the queue, when
// a waker wakes the job: there is never more than one. Runnable and wakers keep the job. Once they
// are all gone nobody is left who could wake it, and it goes too, with its frame.
class runnable {
    std::shared_ptr<job> its;

public:
    explicit runnable(job& j) : its(j.shared_from_this()) {}
    void run() && { std::exchange(its, nullptr)->run(); }
};

// Makes a job runnable again. It is for one suspension, which it knows by the number of the run
// that ends in it: once the job has gone on, an old waker does nothing, so no await is resumed by
// mistake.
class waker {
    std::shared_ptr<job> its;
    unsigned run;

public:
    static inline int in_vain = 0;
    explicit waker(job& j) : its(j.shared_from_this()), run(j.runs) {}
    void wake() const {
        if (its->runs != run || !its->wake()) ++in_vain;
    }
};

struct executor {
    std::deque<runnable> queue;
    void spawn(task t) { std::make_shared<job>(t)->schedule(); }
    void run() {
        while (!queue.empty()) {
            runnable r = std::move(queue.front());
            queue.pop_front();
            std::move(r).run();
        }
    }
} ex;
void job::schedule() {
    phase = scheduled;
    ex.queue.push_back(runnable(*this));
}

// ---- Waiting for anything -----------------------------------------------------------------------
//
// One await is enough for all: it suspends, and hands a waker to whoever will call it. That may be
// done at once, as by the yield: it wakes the job while it still runs, so the job goes to the end
// of the queue.
template <class F> struct suspend {
    F hand_over;
    explicit suspend(F f) : hand_over(std::move(f)) {}
    bool await_ready() const { return false; }
    void await_suspend(std::coroutine_handle<>) { hand_over(waker(*job::current)); }
    void await_resume() const {}
};
auto yield() {
    return suspend([](waker w) { w.wake(); });
}

// ---- The same library ---------------------------------------------------------------------------

// Near, it answers at once. Whoever asks far hears from it later, and then twice, which does no
// harm.
std::deque<waker> asked;
void ask(bool near, waker w) { near ? w.wake() : asked.push_back(w); }
task network() {
    for (int i = 0; i < 5; ++i) co_await yield();
    for (const waker& w : asked) w.wake(), w.wake();
}
task shop(bool near) {
    auto begin = [near](waker w) { ask(near, w); };
    co_await suspend(begin);
    std::printf("an answer from %s\n", near ? "near" : "far");
}

// ---- What comes from outside --------------------------------------------------------------------

int ticks = 0;
task ticker() {
    for (int i = 0; i < 100; ++i, ++ticks) co_await yield();
}
task reader(int fd) {
    char text[16]{};
    const int before = ticks;
    const auto n = ::read(fd, text, sizeof text - 1);
    std::printf("read from the pipe: %.*s\n", static_cast<int>(n), text);
    std::printf("meanwhile the other task has run %d times\n", ticks - before);
    co_return;
}

}  // namespace

int main() {
    ex.spawn(shop(false));
    ex.spawn(shop(true));
    ex.spawn(network());
    ex.run();
    for (const waker& w : asked) w.wake();  // too late: the job has ended
    std::printf("%d wakes did nothing\n", waker::in_vain);

    int ends[2];
    if (::pipe(ends) < 0) return 1;
    if (::fork() == 0) {  // another process, which takes its time
        ::usleep(20'000);
        ::_exit(::write(ends[1], "hello", 5) == 5 ? 0 : 1);
    }
    ex.spawn(ticker());
    ex.spawn(reader(ends[0]));
    ex.run();
    ::wait(nullptr);
}

// ---- The flaw -----------------------------------------------------------------------------------
//
// Everybody who wakes is a task of this same loop, or somebody whom a task has called. What comes
// from outside (bytes from a pipe, a connection, the answer of a disk) has no way in. The reader
// had to call ::read, which blocks the thread, and with it all tasks: the ticker could have run
// all the time. What is wanted is a read that only begins, and somebody who wakes the job when
// the kernel has finished.
