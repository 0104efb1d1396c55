// Step 1 of 6: a coroutine and a loop.
//
// Six programs rebuild the kit from nothing. Each works, and each has a flaw that the next one
// mends.
//
//   output:
//     printed after 10 ms
//     printed after 20 ms
//     resumed # times, to print 2 lines
//
// The `#` stands for a number that differs from run to run. Its size is the flaw.

#include <chrono>
#include <coroutine>
#include <cstdio>
#include <exception>
#include <vector>

namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

// ---- A coroutine --------------------------------------------------------------------------------
//
// A function with a co_await, co_yield or co_return in its body is a coroutine. Its variables do
// not live on the stack but in a *frame*, which the compiler takes from the heap at the call. So
// the function can stop in the middle, give the thread back to whoever resumed it, and go on later.
//
// The compiler looks for a `promise_type` in the function's return type, and asks it what is to be
// done at each turn of the frame's life. A coroutine_handle is the frame's address, with three
// verbs: resume(), done() and destroy().
struct task {
    struct promise_type {
        // What the caller of the coroutine gets.
        task get_return_object() {
            return task(std::coroutine_handle<promise_type>::from_promise(*this));
        }
        // A call makes the frame and stops: the task is lazy, nothing of its body has run.
        std::suspend_always initial_suspend() noexcept { return {}; }
        // At the end it stops once more, so that done() can be asked; then the frame is ours to
        // free.
        std::suspend_always final_suspend() noexcept { return {}; }
        void return_void() {}
        void unhandled_exception() { std::terminate(); }
    };
    std::coroutine_handle<> frame;
    explicit task(std::coroutine_handle<> h) : frame(h) {}
};

// A task that waits for a point in time. `co_await std::suspend_always()` is the plainest await
// there is: it stops here, and whoever resumes the frame lets it go on. Nobody knows what it waits
// for, so it has to look for itself, each time.
task say(int delay) {
    const auto due = steady_clock::now() + delay * 1ms;
    while (steady_clock::now() < due) co_await std::suspend_always();
    std::printf("printed after %d ms\n", delay);
}

// ---- A loop -------------------------------------------------------------------------------------
//
// Somebody has to call resume(): the loop. It resumes every task in turn until all of them have
// ended. Two tasks wait at the same time, on one thread: that is concurrency, in a dozen lines.
long run(std::vector<task> tasks) {
    long resumed = 0;
    while (!tasks.empty())
        for (std::size_t i = 0; i < tasks.size(); ++resumed) {
            tasks[i].frame.resume();
            if (!tasks[i].frame.done()) {
                ++i;
                continue;
            }
            tasks[i].frame.destroy();
            tasks.erase(tasks.begin() + static_cast<std::ptrdiff_t>(i));
        }
    return resumed;
}

}  // namespace

int main() {
    std::vector<task> tasks;
    tasks.push_back(say(20));
    tasks.push_back(say(10));
    const long resumed = run(std::move(tasks));
    std::printf("resumed %ld times, to print 2 lines\n", resumed);
}

// ---- The flaw -----------------------------------------------------------------------------------
//
// Both tasks did nothing but wait, and yet the processor was busy all the time: the loop asks
// everybody again and again whether they can go on. With a thousand tasks of which one has
// something to do, it asks a thousand. A task that waits should cost nothing. The next step resumes
// only those that can go on.
