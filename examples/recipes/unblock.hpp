// recipes/unblock.hpp: other threads. Calls that block, and wakes from outside.
//
//     #include <ringlet/recipes/unblock.hpp>
//     ringlet::task<addrinfo*> addresses_of(const char* name) {
//         auto look_up = [name] { return resolve(name); };  // blocks: not for the loop's thread
//         co_return co_await ringlet::unblock(look_up);
//     }
//
// and in the other direction, where a library calls back on a thread of its own:
//
//     auto start = [&](waker w) { client.on_message([rw = remote_waker(w)] { rw.wake(); }); };
//     co_await ringlet::suspend(start);
//
// Jobs, wakers and frames belong to the loop's thread, and nothing about them is atomic. So what
// crosses is a number in an eventfd, which the loop reads: the kernel is the thread-safe queue.
//
// A wake's life:
//
//     (1) remote_waker         (2) wake, any thread          (3) listen, loop's thread
//     a task listens -------> news, eventfd written -------> its read is over: the waker is woken
//          ^                                                      |
//          +------------------------------------------------------+
//
//     (1) The read in flight is also what tells the loop that it can be reached: no deadlock.
//     (2) Only the first since (3) makes the system call. The last copy dropped does as much: the
//     task ends, and the waker with it, on its own thread. If the executor ends first, so does the
//     task, and the eventfd is written in vain.
//
// A call's life:
//
//     (1) unblock           (2) helpers::serve             (3) send_out
//     posted, poll begun --> a helper runs it, writes ----> the poll is over: result or exception
//
//     (1) Before it there may be a wait for a thread, which a cancel ends. From here on the task is
//     shielded, and its frame, with the callable, the result and the eventfd, stays until (3), even
//     if the executor ends: a call cannot be interrupted.
//
// Under valgrind 3.19 a program with threads beside a ring hangs, since valgrind keeps its lock while
// io_uring_enter waits; 3.24 lets go of it.
#pragma once

#include <ringlet/reactor.hpp>
#include <ringlet/recipes/mutex.hpp>

#include <sys/eventfd.h>

#include <condition_variable>
#include <future>
#include <map>
#include <thread>

namespace ringlet {

// How many helper threads an executor starts at most: a call for which none is idle starts one, or
// waits. It counts what is set at the executor's first call.
inline std::atomic<unsigned> unblock_threads = 4;

namespace detail {

inline unique_fd new_event() {
    if (const int fd = ::eventfd(0, EFD_CLOEXEC); fd >= 0) return unique_fd(fd);
    fail(errno, "eventfd");
}

// What the copies of a remote_waker share with the task that listens to them. The waker is not in
// it: that is the task's alone.
struct wake_line {
    static constexpr eventfd_t woken = 1, left = 2;
    unique_fd event = new_event();
    std::atomic<eventfd_t> news = 0;
    void tell(eventfd_t what) { news.fetch_or(what) || eventfd_write(event, 1); }
};
template <class Line> task<> listen(std::shared_ptr<Line> line, waker whose) {
    for (eventfd_t count, news = 0; news < Line::left;) {
        co_await io::read(line->event, std::as_writable_bytes(std::span(&count, 1)));
        if (news = line->news.exchange(0); news & Line::woken) whose.wake();
    }
}

// The helper threads of an executor, and the calls that they are about to take, no more than there
// may be threads: the others wait in their tasks, for `room`, where they can be cancelled (names
// whose server does not answer would hold up the program's end for minutes). Whoever waits for a
// call keeps them, and a task that ends with the executor: they are joined there, the last call done.
// So an executor is not empty() again after its first call. (And a forked child must not leave the
// executor: it would wait for threads that it does not have. It ends by exec, or _exit.)
struct helpers {
    semaphore room{std::max(1u, unblock_threads.load())};  // of a call that runs
    std::mutex mutex;
    std::condition_variable_any news;
    std::list<std::packaged_task<void()>> calls;
    std::list<std::jthread> threads;  // the last member: stopped and joined first

    void post(auto call) {
        const std::lock_guard lock(mutex);
        if (threads.size() <= executor::here().outside)  // all are at work
            threads.emplace_back([this](auto stop) { serve(stop); });
        calls.emplace_back(std::move(call)), news.notify_one(), ++executor::here().outside;
    }
    void serve(std::stop_token stop) {
        for (std::unique_lock lock(mutex); news.wait(lock, stop, [&] { return !calls.empty(); });) {
            auto call = std::move(calls.front());
            calls.pop_front(), lock.unlock(), call(), lock.lock();
        }
    }
};
// Waits until the executor ends: nobody else has that channel.
template <class T> task<> keep(std::shared_ptr<T>) { co_await channel<bool>(0).recv(); }
// What they are found by is never destroyed: an executor that is static, or a thread's, may end later
// than anything else.
inline std::shared_ptr<helpers> helpers_here() {
    static auto& [m, all] = *new std::pair<std::mutex, std::map<executor*, std::weak_ptr<helpers>>>;
    const std::lock_guard lock(m);
    auto its = all[executor::current()].lock();
    if (!its) spawn(keep(its = std::make_shared<helpers>())).detach();
    return all[executor::current()] = its, its;
}

// Once the call is posted nothing may end this frame before the call: hence the shield around it,
// and hence room for the request is made before, so that the await cannot throw.
template <class F> task<std::invoke_result_t<F&>> send_out(helpers& by, F f) {
    std::packaged_task<std::invoke_result_t<F&>()> call(std::move(f));
    const unique_fd event = new_event();
    reactor::here().make_room();
    by.post([&call, fd = event.get()] { call(), eventfd_write(fd, 1); });
    for (int ended = 0; ended <= 0;) ended = co_await io::poll(event, POLLIN).result();
    --executor::here().outside;
    co_return call.get_future().get();
}

}  // namespace detail

// Wakes a waker's job, from any thread. It is made in a running executor, which reports no deadlock
// while a copy is alive; copies may be made, woken and dropped anywhere. wake() never blocks, and
// does nothing if the job has gone on or the executor is gone. Costs an eventfd and a job: for many
// waits share one, and say in a queue of your own who is meant. To make one throws std::logic_error
// where no executor runs, std::system_error where there is no descriptor left.
class remote_waker {
    std::shared_ptr<detail::wake_line> shared;  // its end is that of the last copy

public:
    explicit remote_waker(waker w) {
        const auto line = std::make_shared<detail::wake_line>();
        spawn(detail::listen(line, std::move(w))).detach();
        shared.reset(line.get(), [line](auto*) { line->tell(line->left); });
    }
    void wake() const { shared ? shared->tell(shared->woken) : void(); }
};

// Runs f on a helper thread, and gives its result or rethrows its exception; the loop goes on
// meanwhile, virtual time does not. If the awaiting job is cancelled before a thread takes the call,
// f is not called; else its frame stays until the call has ended, so f may refer to it. Throws
// std::system_error, f not called, where there is no thread, no descriptor or no ring to be had.
template <class F> task<std::invoke_result_t<F&>> unblock(F f) {
    const auto by = detail::helpers_here();
    const auto turn = co_await by->room.acquire();
    co_return co_await shield(detail::send_out(*by, std::move(f)));
}

}  // namespace ringlet
