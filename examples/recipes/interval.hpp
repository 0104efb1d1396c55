// recipes/interval.hpp: again and again. Ticks at equal distances, on the clock of the timers.
//
//     #include <ringlet/recipes/interval.hpp>
//     ringlet::task<> beat() {
//         ringlet::interval tick(100ms, ringlet::missed::skip);
//         for (;;) {
//             co_await tick.next();
//             send_heartbeat();
//         }
//     }
//
// Sleeping 100 ms in a loop would be late by what the loop does, each time a bit more. An interval
// knows when its next tick is due, so what the loop does is part of the period. If it takes longer
// than that, ticks are missed, and the policy says what becomes of them. With a period of 10:
//
//     due              10    20    30    40    50    60
//     the loop         |--------- busy --------|
//     burst            10                      20 30 40  50    60     all, the late ones at once
//     delay            10                      20              (55)   a period after the late one
//     skip             10                      20        50    60     the multiples still to come
//
// The numbers are what next() gives: when the tick was due. These are tokio's MissedTickBehavior,
// without its tolerance of 5 ms: a tick is late by however little. A next() that is cancelled while
// it waits has taken no tick.
#pragma once

#include <ringlet/timer.hpp>

namespace ringlet {

enum class missed { burst, delay, skip };

// For one task at a time. The first tick is due one period after the construction.
class interval {
public:
    using time_point = virtual_time::time_point;

    // Throws std::invalid_argument unless the period is more than zero. It is rounded up to whole
    // nanoseconds, and more than a century is a century.
    template <class Rep, class Period>
    explicit interval(std::chrono::duration<Rep, Period> each, missed m = missed::burst)
        : policy(m) {
        constexpr std::chrono::hours century(100 * 365 * 24);
        if (!(each > each.zero()))
            throw std::invalid_argument("ringlet::interval: the period must be more than zero");
        // As the deadlines count: a cast to nanoseconds overflows on its way for some odd units.
        period = std::min<std::chrono::nanoseconds>(
            std::chrono::nanoseconds(detail::count_of(each)), century);
        due = after(virtual_time::now());
    }
    // Waits for the next tick, and gives the time when it was due.
    template <class = void> task<time_point> next() {
        co_await sleep_until(due);
        const time_point now = virtual_time::now(), tick = due;
        due = policy == missed::delay ? now : tick;
        if (policy == missed::skip) due += (now - tick) / period * period;
        due = after(due);
        co_return tick;
    }

private:
    // A period behind t; behind the end of all time there is no tick.
    time_point after(time_point t) const { return t + std::min(period, time_point::max() - t); }

    missed policy;
    std::chrono::nanoseconds period;
    time_point due;
};

}  // namespace ringlet
