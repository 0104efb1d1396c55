// Step 2 of 6: a queue.
//
// Only a task that can go on is in the queue. One that waits is nowhere in the loop's way, and
// costs nothing, until whoever ends its wait puts it back.
//
//   output:
//     an answer from far
//     9 runs, one for each time that a task could go on
//     1 wake found nobody waiting, 1 task waits for ever
//
// The last line is the flaw.

#include <coroutine>
#include <cstdio>
#include <deque>
#include <exception>
#include <functional>
#include <set>

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

// ---- The queue ----------------------------------------------------------------------------------
//
// First in, first out: whoever becomes runnable waits until all that were runnable before have run.
// So none can be kept waiting for ever by the others.
//
// A task that suspends goes to `waiting`, and a wake moves it from there to the queue. A wake puts
// no task into the queue that is not waiting: a task that is in the queue twice would be resumed
// twice, the second time perhaps when its frame is gone.
struct executor {
    std::deque<std::coroutine_handle<>> queue;
    std::set<std::coroutine_handle<>> waiting;
    int runs = 0, wakes_in_vain = 0;

    void spawn(task t) { queue.push_back(t.frame); }
    void wake(std::coroutine_handle<> h) {
        if (waiting.erase(h)) queue.push_back(h);
        else ++wakes_in_vain;
    }
    void run() {
        for (; !queue.empty(); ++runs) {
            const auto h = queue.front();
            queue.pop_front();
            h.resume();
            if (h.done()) h.destroy();
            else if (queue.empty() || queue.back() != h) waiting.insert(h);
        }
    }
} ex;

// An *awaiter* answers three questions of a co_await. Is it over already? (await_ready) What is to
// be done once the frame is suspended? (await_suspend) What does the co_await give? (await_resume)
// This one goes to the end of the queue: it lets all others run first.
struct yield {
    bool await_ready() const { return false; }
    void await_suspend(std::coroutine_handle<> h) const { ex.queue.push_back(h); }
    void await_resume() const {}
};

// ---- Something to wait for ----------------------------------------------------------------------
//
// A library with callbacks, as there are many: ask(callback) calls back when the answer has come
// over the network. If it has the answer near at hand, it calls back at once.
std::deque<std::function<void()>> asked;
void ask(bool near, std::function<void()> callback) {
    near ? callback() : asked.push_back(std::move(callback));
}
task network() {
    for (int i = 0; i < 5; ++i) co_await yield();  // the answer takes its time
    for (const auto& callback : asked) callback();
}

// The bridge from callbacks to co_await: the callback wakes the task.
struct answer {
    bool near;
    explicit answer(bool n) : near(n) {}
    bool await_ready() const { return false; }
    void await_suspend(std::coroutine_handle<> h) const {
        ask(near, [h] { ex.wake(h); });
    }
    void await_resume() const {}
};
task shop(bool near) {
    co_await answer(near);
    std::printf("an answer from %s\n", near ? "near" : "far");
}

}  // namespace

int main() {
    ex.spawn(shop(false));
    ex.spawn(shop(true));
    ex.spawn(network());
    ex.run();
    std::printf("%d runs, one for each time that a task could go on\n", ex.runs);
    std::printf("%d wake found nobody waiting, %zu task waits for ever\n", ex.wakes_in_vain,
        ex.waiting.size());
    for (auto h : ex.waiting) h.destroy();
}

// ---- The flaw -----------------------------------------------------------------------------------
//
// The answer from near never reached its task: a *lost wake*. The callback came before the call of
// ask() had returned. At that moment the task was still running, so it was not among those that
// wait, and the wake did nothing. A moment later the task went to sleep, for something that had
// already happened.
//
// To let such a wake put the task into the queue would not do either: then it would be resumed
// while it runs, or twice, or when it has ended. A handle to a frame does not know which of all
// that it is. The next step gives the task an object that does.
