// A timeout that fires: a call, a deadline, a small cancel.
//
// A timeout is a call and a deadline in the heap. When the deadline has come the frames of the call
// are stopped: the kernel is asked to give up the read, and the frame with the buffer stays until it
// has; then the caller goes on. The clock is a virtual one: it stands still while somebody runs, and
// jumps to the next deadline.

#include "recorder.hpp"

using namespace ringlet;
using namespace std::chrono_literals;
using stepper::show;

struct leaving {
    ~leaving() { show("the frame goes, and the buffer in it"); }
};
task<> hear(int fd) {
    const leaving says;
    std::byte buffer[16];
    co_await io::read(fd, buffer);
    show("this is never reached");
}
task<> root() {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) < 0) throw std::runtime_error("pipe2");
    const unique_fd from(fds[0]), to(fds[1]);
    co_await sleep_for(5ms);
    const bool heard = co_await try_timeout(20ms, hear(from));
    show(heard ? "in time" : "too late");
}

int main() { return stepper::record(root); }
