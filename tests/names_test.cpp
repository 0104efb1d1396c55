// Programs write `using namespace ringlet` beside names of their own: those that tasks, tests and tools often have.
#include <doctest/doctest.h>

#include <ringlet/timer.hpp>

using namespace ringlet;

namespace {

int sum = 0;

task<> child(int n) {
    sum += n;
    co_await yield_now();
}
task<> source(channel<int>& to) {
    for (int i = 1; i <= 3; ++i) co_await to.send(i);
    to.close();
}
task<> sink(channel<int>& from) {
    for (;;) {
        auto n = co_await from.recv();
        if (!n) break;
        co_await child(*n);
    }
}
task<> nothing() { co_return; }
task<> wait(int n) { co_await child(n); }
task<> link(int n) { co_await child(n); }
task<> clock(int n) { co_await child(n); }
task<> timers(int n) { co_await child(n); }
task<> job(int n) { co_await child(n); }
task<> group(int n) { co_await child(n); }
task<> ring(int n) { co_await child(n); }
task<> section(int n) { co_await child(n); }
task<> join(int n) { co_await child(n); }
task<> result(int n) { co_await child(n); }
task<> failure(int n) { co_await child(n); }
task<> op(int n) { co_await child(n); }
task<> request(int n) { co_await child(n); }
task<> call(int n) { co_await child(n); }
task<> each(int n) { co_await child(n); }
task<> pool(int n) { co_await child(n); }
task<> sleep(int n) { co_await child(n); }
task<> read(int n) { co_await child(n); }
task<> write(int n) { co_await child(n); }
task<> accept(int n) { co_await child(n); }
task<> open(int n) { co_await child(n); }
task<> close(int n) { co_await child(n); }
task<> poll(int n) { co_await child(n); }
task<> root() {
    channel<int> c(1);
    co_await when_all(source(c), sink(c), nothing());
    co_await when_all(
        wait(1), link(1), clock(1), timers(1), job(1), group(1), ring(1), section(1), join(1));
    co_await when_all(
        result(1), failure(1), op(1), request(1), call(1), each(1), pool(1), sleep(1), read(1));
    co_await when_all(write(1), accept(1), open(1), close(1), poll(1));
}

}  // namespace

TEST_CASE("names of the program's own, beside all of ringlet's") {
    block_on(root());
    CHECK(sum == 6 + 9 + 9 + 5);
}
