// A cancel that meets a completed read: nothing is lost.
//
// The write and the read that it ends complete in the same look at the ring. So when the root,
// which is first in the queue, cancels the reader, the bytes are there already. A completion beats
// a cancel: the reader goes on with what it has read, to its next suspension, and here to its end.
// Nothing is lost.

#include "recorder.hpp"

using namespace ringlet;
using stepper::show;

task<std::size_t> reader(int fd) {
    std::byte buffer[16];
    const auto n = co_await io::read(fd, buffer);
    show("the reader goes on, though it is cancelled");
    co_return n;
}
task<> root() {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) < 0) throw std::runtime_error("pipe2");
    const unique_fd from(fds[0]), to(fds[1]);
    auto r = spawn(reader(from));
    co_await yield_now();
    std::byte bytes[5]{};
    co_await io::write(to, bytes);
    show("the root cancels the reader");
    const auto n = co_await std::move(r).cancel();
    show(n ? "the reader's result: " + std::to_string(*n) + " bytes" : "no result");
}

int main() { return stepper::record(root); }
