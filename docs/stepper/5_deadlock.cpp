// A deadlock: two tasks wait for each other.
//
// When nothing is runnable, nothing is in flight in the ring and no timer is set, nothing can ever
// wake the root again. The loop does not hang then: it throws, and says who waits where.

#include "recorder.hpp"

using namespace ringlet;
using stepper::show;

task<> forward(channel<int>& from, channel<int>& to) {
    show("waits for a number first");
    const auto n = co_await from.recv();
    co_await to.send(*n);
}
task<> root() {
    channel<int> one(1), two(1);
    auto a = spawn(forward(one, two));
    auto b = spawn(forward(two, one));
    co_await std::move(a);
    co_await std::move(b);
}

int main() { return stepper::record(root); }
