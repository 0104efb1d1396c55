// Step 4 of 6: the ring.
//
//   usage: 4_ring [silent]
//   output:
//     the thread sleeps
//     b said: hello from b
//     the thread sleeps
//     a said: hello from a
//     resumed 4 times
//
// With `silent` nobody writes to the pipes. What happens then is the flaw.

#include <liburing.h>
#include <sys/wait.h>
#include <unistd.h>

#include <coroutine>
#include <cstdio>
#include <deque>
#include <exception>
#include <memory>
#include <string>
#include <utility>

namespace {

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

// Job, runnable and waker are those of step 3, cut down to what this step needs.
struct job : std::enable_shared_from_this<job> {
    enum { scheduled, running, woken, idle, ended } phase = scheduled;
    std::coroutine_handle<> frame;
    static inline job* current = nullptr;
    static inline int runs = 0;

    explicit job(task t) : frame(t.frame) {}
    void schedule();
    void wake() {
        if (phase == idle) schedule();
        else if (phase == running) phase = woken;
    }
    void run() {
        ++runs;
        phase = running;
        (current = this)->frame.resume();
        if (frame.done()) {
            phase = ended;
            frame.destroy();
        } else if (phase == woken) schedule();
        else phase = idle;
    }
};
struct runnable {
    std::shared_ptr<job> its;
    explicit runnable(job& j) : its(j.shared_from_this()) {}
    void run() && { its->run(); }
};
struct waker {
    std::shared_ptr<job> its;
    void wake() const { its->wake(); }
};

// ---- The ring -----------------------------------------------------------------------------------
//
// The kernel shares two rings with the program: one takes requests (submissions), one brings back
// results (completions). A request carries a number of our choice, its user_data, and the
// completion carries the same: the address of whoever waits for it.
//
//     (1) await_suspend   (2) park          (3) the kernel   (4) park
//     request written --> submitted ------> in flight -----> completed ---> the waker is woken
//
// The loop runs whoever is runnable. When nobody is, it sleeps, in the one system call that also
// hands over what has been written to the ring. So many tasks can wait for many things, and the
// thread for all of them.
struct wait : std::suspend_always {
    waker whose;
    int result = 0;
};
struct executor {
    std::deque<runnable> queue;
    io_uring ring;
    unsigned in_flight = 0;
    void spawn(task t) { std::make_shared<job>(t)->schedule(); }
    void run() {
        for (;; park()) {
            for (; !queue.empty(); queue.pop_front()) std::move(queue.front()).run();
            if (!in_flight) return;
        }
    }
    void park() {
        std::puts("the thread sleeps");
        std::fflush(stdout);
        io_uring_submit_and_wait(&ring, 1);
        io_uring_cqe* cqe = nullptr;
        for (; io_uring_peek_cqe(&ring, &cqe) == 0; --in_flight) {
            auto* const to = static_cast<wait*>(io_uring_cqe_get_data(cqe));
            to->result = cqe->res;
            io_uring_cqe_seen(&ring, cqe);
            to->whose.wake();
        }
    }
} ex;
void job::schedule() { phase = scheduled, ex.queue.push_back(runnable(*this)); }

// An operation is an awaiter that writes a request. The awaiter, and here the buffer too, lie in
// the frame, which stays where it is as long as the job waits: that is what makes the borrowing
// sound.
struct read : wait {
    int fd;
    std::string& into;
    read(int descriptor, std::string& buffer) : fd(descriptor), into(buffer) {}
    void await_suspend(std::coroutine_handle<>) {
        whose = waker{job::current->shared_from_this()};
        io_uring_sqe* const sqe = io_uring_get_sqe(&ex.ring);
        io_uring_prep_read(sqe, fd, into.data(), static_cast<unsigned>(into.size()), 0);
        io_uring_sqe_set_data(sqe, static_cast<wait*>(this));
        ++ex.in_flight;
    }
    int await_resume() const { return result; }
};

// ---- The program --------------------------------------------------------------------------------

task reader(const char* name, int fd) {
    std::string buffer(500, ' ');
    const int n = co_await read(fd, buffer);
    std::printf("%s said: %.*s\n", name, n, buffer.c_str());
}
// Another process writes to b, and, when that has been read, to a.
void answer(int a, int b) {
    if (::write(b, "hello from b", 12) < 0) ::_exit(1);
    ::usleep(20'000);
    ::_exit(::write(a, "hello from a", 12) < 0);
}

}  // namespace

int main(int argc, char**) {
    int a[2], b[2];
    if (::pipe(a) < 0 || ::pipe(b) < 0 || io_uring_queue_init(64, &ex.ring, 0) < 0) return 1;
    ex.spawn(reader("a", a[0]));
    ex.spawn(reader("b", b[0]));
    if (argc < 2 && ::fork() == 0) answer(a[1], b[1]);
    ex.run();
    ::wait(nullptr);
    std::printf("resumed %d times\n", job::runs);
    io_uring_queue_exit(&ex.ring);
}

// ---- The flaw -----------------------------------------------------------------------------------
//
// Where the other side says nothing, the program sleeps for ever. It costs nothing, but it does not
// end either: a server would keep the connection of every client whose cable has been pulled.
// Whoever waits must be able to say how long.
