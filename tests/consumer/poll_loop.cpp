// A program with a poll loop of its own drives an executor: it sleeps on the ring's descriptor and its own, and until
// the earliest timer, and calls try_tick when something has come. It prints 42, and how often it woke up.
#include <ringlet/timer.hpp>

#include <cstdio>

namespace {

ringlet::task<int> reads_and_sleeps(int fd) {
    int sum = 0;
    for (int i = 0; i < 4; ++i) {
        std::byte number[1];
        co_await ringlet::io::read(fd, number);
        co_await ringlet::sleep_for(std::chrono::milliseconds(2));
        sum += std::to_integer<int>(number[0]);
    }
    co_return sum;
}

// How long poll may sleep, in milliseconds, rounded up; -1: for ever.
int patience(const ringlet::executor& ex) {
    if (!ex.clock) return -1;
    const std::int64_t until = static_cast<ringlet::timer_heap&>(*ex.clock).earliest();
    if (until == ringlet::parker::never) return -1;
    const std::int64_t left = until - ringlet::virtual_time::nanoseconds();
    return left <= 0 ? 0 : static_cast<int>((left + 999'999) / 1'000'000);
}

}  // namespace

int main() {
    int ends[2];
    if (::pipe(ends)) return 1;
    const ringlet::unique_fd out(ends[0]), in(ends[1]);
    ringlet::executor ex;
    auto ring = std::make_unique<ringlet::reactor>(
        ringlet::reactor::options(64, IORING_SETUP_COOP_TASKRUN));
    const int wakes_us = ring->descriptor();
    ex.io = std::move(ring);
    auto sum = ex.spawn(reads_and_sleeps(out));
    int wakes = 0, sent = 0;
    while (!sum.done() && wakes < 1000) {
        while (ex.try_tick()) {}
        if (sum.done()) break;
        // The loop's own work: a byte, whenever the pipe is empty.
        pollfd mine[2] = {{out, POLLIN, 0}, {wakes_us, POLLIN, 0}};
        if (::poll(mine, 1, 0) == 0 && sent < 4) {
            const char byte = static_cast<char>(9 + sent++);
            if (::write(in, &byte, 1) != 1) return 1;
        }
        mine[0].fd = -1;  // read by the task
        ::poll(mine, 2, patience(ex));
        ++wakes;
    }
    auto result = [&]() -> ringlet::task<int> { co_return co_await std::move(sum); };
    std::printf("%d\n", ex.run(result()));
    return wakes >= 4 && wakes < 100 ? 0 : 1;
}
