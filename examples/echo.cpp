// echo: a TCP server that sends back what it receives.
//
//   usage: echo [--host ADDRESS] [--port N]        then, elsewhere: nc 127.0.0.1 7777
//
// Listens on 127.0.0.1, port 7777 (0: any free one), and prints where, as its first line. SIGINT
// and SIGTERM end it: all connections are closed, the port is free again, and the exit status is 0.
//
// What it shows: a task for each connection, written as if it were the only one; what a task waits
// with (a connection, the listener) belongs to its frame, so whatever ends the task closes it; and
// how to end well: when the root returns, the executor cancels whoever is left. A connection that
// waits for bytes ends there. One that has bytes to send back finishes what it has begun, since
// that part runs under a shield; inside, cancel_requested() tells it not to wait long any more.

#include <ringlet/recipes/standard.hpp>
#include <ringlet/timer.hpp>

#include <arpa/inet.h>
#include <getopt.h>
#include <netinet/in.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <system_error>
#include <utility>

namespace {

using namespace ringlet;

// Sends all of `rest`. A client that takes nothing for a second while the server is to end is given up.
task<> send_back(int client, std::span<const std::byte> rest) {
    while (!rest.empty()) {
        const auto sent = co_await try_timeout(std::chrono::seconds(1), io::send(client, rest));
        const bool ending = co_await cancel_requested();
        if (sent) rest = rest.subspan(*sent);
        else if (ending) co_return;
    }
}

// A client may stop sending (its last bytes still come back), stop reading (this task waits, nobody
// else does), or vanish, which is an exception from either await.
task<> serve(unique_fd client) {
    std::array<std::byte, 16 * 1024> buffer;
    try {
        for (;;) {
            const std::size_t received = co_await io::recv(client, buffer);
            if (received == 0) break;
            co_await shield(send_back(client, std::span(buffer).first(received)));
        }
    } catch (const std::system_error&) {
        // The connection ends, the server does not.
    }
}

// No descriptor or no memory for one more connection: it waits in the kernel's queue until another
// one has ended.
bool shortage(const std::error_code& e) {
    const int n = e.value();
    return n == EMFILE || n == ENFILE || n == ENOBUFS || n == ENOMEM;
}

task<> accept_all(unique_fd listener) {
    for (;;) {
        unique_fd client;
        std::error_code error;
        try {
            client = co_await io::accept(listener);
        } catch (const std::system_error& e) { error = e.code(); }
        if (client) spawn(serve(std::move(client))).detach();
        else if (shortage(error)) co_await sleep_for(std::chrono::milliseconds(20));
        else if (error.value() != ECONNABORTED) throw std::system_error(error, "accept");
    }
}

// Nobody waits for the detached tasks; should accept_all fail, its exception leaves through
// block_on.
task<> serve_until_signal(unique_fd listener, unique_fd signals) {
    signalfd_siginfo info;
    spawn(accept_all(std::move(listener))).detach();
    co_await io::read(signals, std::as_writable_bytes(std::span(&info, 1)));
}

void check(int result, const char* what) {
    if (result < 0) throw std::system_error(errno, std::generic_category(), what);
}

std::string text(const sockaddr_in& address) {
    char host[INET_ADDRSTRLEN];
    inet_ntop(AF_INET, &address.sin_addr, host, sizeof host);
    return host + (":" + std::to_string(ntohs(address.sin_port)));
}

// Calls that never wait are made directly.
unique_fd listen_on(sockaddr_in& address) {
    auto* const generic = reinterpret_cast<sockaddr*>(&address);
    socklen_t size = sizeof address;
    const int on = 1;
    unique_fd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    check(listener.get(), "socket");
    check(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), "SO_REUSEADDR");
    check(bind(listener, generic, size), "bind");
    check(listen(listener, SOMAXCONN), "listen");
    check(getsockname(listener, generic, &size), "getsockname");
    return listener;
}

// From here on SIGINT and SIGTERM interrupt nobody: they wait to be read.
unique_fd block_signals() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    unique_fd signals(signalfd(-1, &set, SFD_CLOEXEC));
    check(signals.get(), "signalfd");
    return signals;
}

int usage(std::FILE* out, int status) {
    std::fputs("usage: echo [--host ADDRESS] [--port N]\n", out);
    return status;
}

}  // namespace

int main(int argc, char** argv) {
    hold_standard_descriptors();
    static const option options[] = {
        {"host", 1, nullptr, 'a'}, {"port", 1, nullptr, 'p'}, {"help", 0, nullptr, 'h'}, {}};
    const char* host = "127.0.0.1";
    const char* port = "7777";
    char* end = nullptr;
    opterr = 0;  // a wrong call gets one line
    for (int o; (o = getopt_long(argc, argv, "", options, nullptr)) != -1;) {
        if (o == 'h') return usage(stdout, 0);
        if (o == '?') return usage(stderr, 2);
        (o == 'a' ? host : port) = optarg;
    }
    const long number = std::strtol(port, &end, 10);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(number));
    const bool good = *port && !*end && number >= 0 && number <= 65535
        && inet_pton(AF_INET, host, &address.sin_addr) == 1;
    if (!good || optind < argc) return usage(stderr, 2);
    try {
        unique_fd signals = block_signals();
        unique_fd listener = listen_on(address);
        std::printf("listening on %s\n", text(address).c_str());
        if (std::fflush(stdout) != 0) std::perror("echo: standard output");
        block_on(serve_until_signal(std::move(listener), std::move(signals)));
    } catch (const std::exception& e) {
        std::fprintf(stderr, "echo: %s: %s\n", text(address).c_str(), e.what());
        return 1;
    }
}
