// echo: an echo server for bench/echo_load.c, as one would write it with ringlet: a task for each
// connection. See echo.h for its usage, and examples/echo.cpp for a server that ends well.

#include <ringlet/reactor.hpp>

#include "echo.h"

namespace {

using namespace ringlet;

void begin() {
    echo_calls = static_cast<long>(reactor::stats().enters);
    echo_begin = echo_now();
}

task<> serve(unique_fd client) {
    std::array<std::byte, echo_size> buffer;
    try {
        for (;;) {
            const auto n = co_await io::recv(client, buffer);
            if (n == 0) break;
            co_await io::send(client, std::span(buffer).first(n), MSG_WAITALL);
            if (echo_counts()) begin();
        }
    } catch (const std::system_error&) {
        // The connection ends, the server does not.
    }
}

task<> accept_all(int listener) {
    for (;;) {
        unique_fd client = co_await io::accept(listener);
        spawn(serve(std::move(client))).detach();
    }
}

task<> serve_until_signal(int listener, int signals) {
    signalfd_siginfo info;
    reactor::here(reactor::options(echo_most));  // as many requests may be written in one turn
    auto accepting = spawn(accept_all(listener));
    co_await io::read(signals, std::as_writable_bytes(std::span(&info, 1)));
    echo_calls = static_cast<long>(reactor::stats().enters);
}

}  // namespace

int main(int argc, char** argv) {
    const unique_fd signals(echo_signal(0)), listener(echo_listen(argc, argv));
    if (!listener) return 1;
    block_on(serve_until_signal(listener, signals));
    return echo_report();
}
