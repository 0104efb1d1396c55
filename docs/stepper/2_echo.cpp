// An echo: there and back through the ring.
//
// Two tasks talk over a pair of sockets. A co_await of an operation writes a request to the ring,
// and the job is idle. Requests go to the kernel together, in the one system call in which the loop
// also looks for what has come.

#include "recorder.hpp"

using namespace ringlet;
using stepper::show;

task<> server(int fd) {
    std::byte buffer[16];
    const auto n = co_await io::recv(fd, buffer);
    show("the server has " + std::to_string(n) + " bytes");
    co_await io::send(fd, std::span(buffer).first(n));
}
task<> client(int fd) {
    std::byte buffer[16]{};
    co_await io::send(fd, std::span(buffer).first(5));
    const auto n = co_await io::recv(fd, buffer);
    show("the client has them back: " + std::to_string(n));
}
task<> root() {
    int fds[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) throw std::runtime_error("");
    const unique_fd here(fds[0]), there(fds[1]);
    auto s = spawn(server(there));
    auto c = spawn(client(here));
    co_await std::move(c);
    co_await std::move(s);
}

int main() { return stepper::record(root); }
