// relay: joins standard input and output to a TCP connection.
//
//   usage: relay HOST PORT        relay example.org 80 < request > answer
//          relay -l [HOST] PORT   elsewhere: tar c . | relay -l 0.0.0.0 7000;  relay there 7000 | tar x
//
// What nc does, or `socat - TCP:HOST:PORT`. With -l it listens, on 127.0.0.1 unless HOST is given (PORT
// 0: any free one), says where on stderr, takes one connection, and listens no more.
//
// The two directions end one by one: the end of standard input is passed on to the peer, whose answer
// is still awaited; the end of what the peer sends closes standard output, while the rest of standard
// input is still sent. relay ends when both are over. Exit status: 0; 1 for an error, such as a
// connection that is reset; 2 for a wrong call. SIGINT and SIGTERM end it.
//
// What it shows: two tasks, each a loop that reads as if it were alone; a slow reader slows its own
// direction and no other, since nothing is kept but one buffer for each; an error in one direction
// ends both (when_all); and a signal is a third thing to wait for (when_any).

#include <ringlet/recipes/signals.hpp>
#include <ringlet/recipes/standard.hpp>

#include <getopt.h>
#include <netdb.h>
#include <sys/socket.h>

#include <array>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

namespace {

using namespace ringlet;

// What the kernel answered; an error names whose it is.
std::size_t check(int result, const std::string& whose) {
    if (result < 0) throw std::system_error(-result, std::generic_category(), whose);
    return static_cast<std::size_t>(result);
}
int check_call(int result, const std::string& whose) {
    return result < 0 ? check(-errno, whose), -1 : result;
}

constexpr std::size_t buffer_size = 128 * 1024;

task<> send_all(int peer, const std::string& name) {
    std::vector<std::byte> buffer(buffer_size);
    for (;;) {
        std::span<const std::byte> rest = buffer;
        const int got = co_await io::read(STDIN_FILENO, buffer).result();
        rest = rest.first(check(got, "standard input"));
        if (rest.empty()) break;
        while (!rest.empty()) {
            const int sent = co_await io::send(peer, rest, MSG_WAITALL).result();
            rest = rest.subspan(check(sent, name));
        }
    }
    ::shutdown(peer, SHUT_WR);  // fails if the connection is gone: the other direction tells
}

// A reader of our output that has gone away ends relay, as it does any filter: by SIGPIPE.
task<> receive_all(int peer, const std::string& name) {
    std::vector<std::byte> buffer(buffer_size);
    for (;;) {
        std::span<const std::byte> rest = buffer;
        const int got = co_await io::recv(peer, buffer).result();
        rest = rest.first(check(got, name));
        if (rest.empty()) break;
        try {
            co_await io::write_all(STDOUT_FILENO, rest);
        } catch (const std::system_error& e) { check(-e.code().value(), "standard output"); }
    }
    check_call(::close(STDOUT_FILENO), "standard output");
}

struct address_list {
    std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> first{nullptr, &::freeaddrinfo};
    // Blocks, and may: nothing runs yet.
    address_list(const char* host, const char* port, int flags) {
        addrinfo hints{}, *found = nullptr;
        hints.ai_socktype = SOCK_STREAM;
        hints.ai_flags = flags;
        const int e = ::getaddrinfo(host, port, &hints, &found);
        if (e == EAI_SYSTEM) check(-errno, host);
        if (e != 0) throw std::runtime_error(std::string(host) + ": " + ::gai_strerror(e));
        first.reset(found);
    }
};

// The first address that answers.
task<unique_fd> connect_to(const address_list& list, const std::string& name) {
    for (const addrinfo* a = list.first.get(); a; a = a->ai_next) {
        unique_fd s;
        int e = 0;
        try {
            s = co_await io::socket(a->ai_family, a->ai_socktype, a->ai_protocol);
        } catch (const std::system_error& none) { e = -none.code().value(); }
        if (s) e = co_await io::connect(s, a->ai_addr, a->ai_addrlen).result();
        if (e == 0) co_return s;
        if (!a->ai_next) check(e, name);
    }
    throw std::runtime_error(name + ": no address");
}

task<unique_fd> accept_one(const address_list& list, const std::string& name) {
    const addrinfo& a = *list.first;
    const unique_fd s(::socket(a.ai_family, a.ai_socktype | SOCK_CLOEXEC, a.ai_protocol));
    const int on = 1;
    sockaddr_storage bound{};
    socklen_t size = sizeof bound;
    auto* const generic = reinterpret_cast<sockaddr*>(&bound);
    check_call(s.get(), name);
    check_call(::setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), name);
    check_call(::bind(s, a.ai_addr, a.ai_addrlen), name);
    check_call(::listen(s, 1), name);
    check_call(::getsockname(s, generic, &size), name);
    std::array<char, NI_MAXHOST> host{};
    std::array<char, NI_MAXSERV> port{};
    constexpr int numeric = NI_NUMERICHOST | NI_NUMERICSERV;
    ::getnameinfo(generic, size, host.data(), host.size(), port.data(), port.size(), numeric);
    std::fprintf(stderr, "relay: listening on %s port %s\n", host.data(), port.data());
    unique_fd peer = co_await io::accept(s);
    co_return peer;
}

task<> join(const address_list& list, bool listens, const std::string& name) {
    auto connecting = listens ? accept_one(list, name) : connect_to(list, name);
    const unique_fd peer = co_await std::move(connecting);
    co_await when_all(send_all(peer, name), receive_all(peer, name));
}

// Gives the number of the signal that has ended it, or 0.
task<int> run(const address_list& list, bool listens, const std::string& name) {
    signals ending({SIGINT, SIGTERM});
    const auto [done, signal] = co_await when_any(join(list, listens, name), ending.next());
    co_return done ? 0 : static_cast<int>(signal->ssi_signo);
}

int usage(std::FILE* out, int status) {
    std::fputs("usage: relay HOST PORT | relay -l [HOST] PORT\n", out);
    return status;
}

}  // namespace

int main(int argc, char** argv) {
    hold_standard_descriptors();
    static const option options[] = {{"listen", 0, nullptr, 'l'}, {"help", 0, nullptr, 'h'}, {}};
    bool listens = false;
    opterr = 0;  // a wrong call gets one line
    for (int o; (o = getopt_long(argc, argv, "l", options, nullptr)) != -1;) {
        if (o == 'h') return usage(stdout, 0);
        if (o == '?') return usage(stderr, 2);
        listens = true;
    }
    const int words = argc - optind;
    if (words > 2 || words < (listens ? 1 : 2)) return usage(stderr, 2);
    // getaddrinfo takes 65616 for 80.
    if (std::atol(argv[argc - 1]) > 65535) return usage(stderr, 2);
    const std::string host = words == 2 ? argv[optind] : "127.0.0.1", port = argv[argc - 1];
    try {
        const address_list list(host.c_str(), port.c_str(), listens ? AI_PASSIVE : 0);
        const int signal = block_on(run(list, listens, host + " port " + port));
        if (signal) std::raise(signal);  // everything is closed: now as anybody would
    } catch (const std::exception& e) {
        std::fprintf(stderr, "relay: %s\n", e.what());
        return 1;
    }
}
