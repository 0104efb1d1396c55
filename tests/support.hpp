// What many of the tests use: objects that count themselves, something to wait for, what happened.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <memory_resource>
#include <new>
#include <ringlet/task.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace support {

template <class T> void drop(T&& value) { [[maybe_unused]] auto last = std::move(value); }

// Counts one destruction, whatever it was moved through before.
class guard {
public:
    explicit guard(int& count) : count_(&count) {}
    guard(guard&& other) noexcept : count_(std::exchange(other.count_, nullptr)) {}
    guard& operator=(guard&&) = delete;
    ~guard() {
        if (count_) ++*count_;
    }

private:
    int* count_;
};

// Does something when it is destroyed.
class at_end {
public:
    explicit at_end(std::function<void()> f) : action_(std::move(f)) {}
    at_end(at_end&&) = delete;
    ~at_end() { action_(); }

private:
    std::function<void()> action_;
};

struct oops : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Something to wait for.
struct gate {
    auto wait() {
        return ringlet::suspend([this](ringlet::waker w) { waiter = std::move(w); });
    }
    void open() { std::exchange(waiter, ringlet::waker()).wake(); }

    ringlet::waker waiter;
};

// What happened, in order.
struct history : std::vector<std::string> {
    using vector::vector;
    friend doctest::String toString(const history& log) {
        std::string text;
        for (const std::string& entry : log) text += (text.empty() ? "" : ", ") + entry;
        return text.c_str();
    }
};

inline std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines(1);
    for (char c : text) {
        if (c == '\n') lines.emplace_back();
        else lines.back() += c;
    }
    if (lines.back().empty()) lines.pop_back();
    return lines;
}
inline bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

// Runs an executor until nothing is runnable; how many runs that took.
int drain(auto& executor) {
    int runs = 0;
    while (executor.try_tick()) ++runs;
    return runs;
}

// The smallest executor: a queue.
class loop {
public:
    loop() = default;
    loop(loop&&) = delete;
    ~loop() {  // one by one, since a job that goes may schedule another
        while (!queue_.empty()) pop();
    }
    template <class T> ringlet::join_handle<T> spawn(ringlet::task<T> t) {
        auto [r, h] = ringlet::spawn(
            std::move(t), [this](ringlet::runnable x, ringlet::schedule_info info) {
                ++schedules;
                if (info.woken_while_running) ++self_wakes;
                queue_.push_back(std::move(x));
            });
        queue_.push_back(std::move(r));
        return std::move(h);
    }
    bool tick() {
        if (queue_.empty()) return false;
        pop().run();
        return true;
    }
    int drain() {
        int runs = 0;
        while (tick()) ++runs;
        return runs;
    }
    // A task that is expected to end without help from outside.
    void run(ringlet::task<> t) {
        bool ended = false;
        spawn(note_end(std::move(t), ended)).detach();
        drain();
        CHECK(ended);
    }

    int schedules = 0, self_wakes = 0;

private:
    ringlet::runnable pop() {
        ringlet::runnable r = std::move(queue_.front());
        queue_.pop_front();
        return r;
    }
    static ringlet::task<> note_end(ringlet::task<> t, bool& ended) {
        co_await std::move(t);
        ended = true;
    }
    std::deque<ringlet::runnable> queue_;
};

// A heap that counts, and stops giving after `limit` allocations.
class counting_resource final : public std::pmr::memory_resource {
public:
    int allocations = 0, live = 0, limit = 1'000'000;
    std::size_t least_alignment = 1'024;

private:
    void* do_allocate(std::size_t bytes, std::size_t alignment) override {
        if (limit == 0) throw std::bad_alloc();
        void* p = std::pmr::new_delete_resource()->allocate(bytes, alignment);
        --limit, ++allocations, ++live;
        least_alignment = std::min(least_alignment, alignment);
        return p;
    }
    void do_deallocate(void* p, std::size_t bytes, std::size_t alignment) override {
        --live;
        std::pmr::new_delete_resource()->deallocate(p, bytes, alignment);
    }
    bool do_is_equal(const memory_resource& other) const noexcept override {
        return this == &other;
    }
};

}  // namespace support
