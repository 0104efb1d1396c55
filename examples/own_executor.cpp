// own_executor: an executor with priorities, in thirty lines, on task.hpp alone.
//
//   usage: own_executor
//   output:
//     urgent: step 1
//     urgent: step 2
//     normal a: step 1
//     normal b: step 1
//     normal a: step 2
//     normal b: step 2
//     idle: step 1
//     idle: step 2
//     idle: step 3
//     together: 9 steps
//
// What it shows: task.hpp knows no executor. spawn(task, schedule) gives a runnable and a join
// handle, and calls `schedule` with a new runnable whenever the job has been woken. Where those are
// kept and in which order they run is all there is to an executor; here the highest priority goes
// first, and among equals the one that waited longest.

#include <ringlet/task.hpp>

#include <functional>
#include <iostream>
#include <map>
#include <string>
#include <utility>

namespace {

class priority_executor {
public:
    priority_executor() = default;
    priority_executor(priority_executor&&) = delete;
    // One by one, since a job that ends with its runnable may wake another.
    ~priority_executor() {
        while (!ready_.empty()) ready_.extract(ready_.begin());
    }

    // Starts t. The handle is its result and its life: drop it, and the job is cancelled.
    template <class T> ringlet::join_handle<T> spawn(int priority, ringlet::task<T> t) {
        auto schedule = [this, priority](
                            ringlet::runnable r) { ready_.emplace(priority, std::move(r)); };
        auto [r, handle] = ringlet::spawn(std::move(t), schedule);
        r.schedule();  // spawn queues nothing by itself
        return std::move(handle);
    }

    // Runs jobs until none is ready. Each turn is one run, up to the job's next suspension: a job
    // of a higher priority that was woken meanwhile overtakes all others here.
    void run() {
        while (!ready_.empty()) {
            auto first = ready_.extract(ready_.begin());
            std::move(first.mapped()).run();
        }
    }

private:
    // Sorted, the highest priority first. A multimap inserts behind its equals: first in, first
    // out.
    std::multimap<int, ringlet::runnable, std::greater<>> ready_;
};

// A wait that is over at once: the job goes back to the queue, behind its equals.
ringlet::task<> yield() {
    co_await ringlet::suspend([](ringlet::waker w) { w.wake(); });
}

ringlet::task<int> work(std::string name, int steps) {
    for (int step = 1; step <= steps; ++step) {
        std::cout << name << ": step " << step << '\n';
        if (step < steps) co_await yield();
    }
    co_return steps;
}

// Starts the others, the least important first, and waits for the most important first.
ringlet::task<int> all(priority_executor& ex) {
    auto idle = ex.spawn(-1, work("idle", 3));
    auto a = ex.spawn(0, work("normal a", 2));
    auto b = ex.spawn(0, work("normal b", 2));
    auto urgent = ex.spawn(1, work("urgent", 2));
    int steps = co_await std::move(urgent);
    steps += co_await std::move(a);
    steps += co_await std::move(b);
    steps += co_await std::move(idle);
    co_return steps;
}

}  // namespace

int main() {
    priority_executor ex;
    auto root = ex.spawn(0, all(ex));
    ex.run();

    // What is left is to fetch the result: with a job of its own, since only a task can await.
    auto print = [](ringlet::join_handle<int> h) -> ringlet::task<> {
        const int steps = co_await std::move(h);
        std::cout << "together: " << steps << " steps\n";
    };
    auto printer = ex.spawn(0, print(std::move(root)));
    ex.run();
    return printer.done() ? 0 : 1;
}
