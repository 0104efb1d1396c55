// Two tasks: they take turns.
//
// The queue is first in, first out. A task that yields goes to its end, so the two take turns. The
// root waits for them in no queue at all: it is idle until the job whose handle it awaits has
// ended.

#include "recorder.hpp"

using namespace ringlet;
using stepper::show;

task<> count(std::string name) {
    for (int i = 1; i <= 2; ++i) {
        show(name + std::to_string(i));
        co_await yield_now();
    }
}
task<> root() {
    auto a = spawn(count("a"));
    auto b = spawn(count("b"));
    co_await std::move(a);
    co_await std::move(b);
    show("both have ended");
}

int main() { return stepper::record(root); }
