// recipes/listen.hpp: a socket that listens.
//
//     #include <ringlet/recipes/listen.hpp>
//     unsigned port = 0;  // any free one
//     ringlet::unique_fd listener = ringlet::listen_on("127.0.0.1", port);
//     std::printf("listening on port %u\n", port);
//     ringlet::unique_fd client = co_await ringlet::io::accept(listener);
//
// None of its calls ever waits: they are made directly, not through the ring.
#pragma once

#include <ringlet/reactor.hpp>

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

namespace ringlet {

// Listens for TCP on a numeric address, IPv4 or IPv6. Port 0 is any free one; `port` is set to it.
// Several sockets, of several threads say, may listen on a shared port: the kernel spreads the
// connections. The port is free as soon as the socket is closed, even if connections are left, and
// what is written to a connection is sent at once. Throws std::system_error that names the address.
inline unique_fd listen_on(const char* host, unsigned& port, bool shared = false) {
    const std::string name = std::string(host) + " port " + std::to_string(port);
    const auto check = [&name](int result, const char* call) {
        if (result < 0) detail::fail(errno, name + ": " + call);
    };
    addrinfo hints{}, *found = nullptr;
    hints.ai_flags = AI_NUMERICHOST | AI_PASSIVE;
    hints.ai_socktype = SOCK_STREAM;
    if (port > 65535 || ::getaddrinfo(host, std::to_string(port).c_str(), &hints, &found) != 0)
        detail::fail(EINVAL, name);
    const std::unique_ptr<addrinfo, void (*)(addrinfo*)> address(found, ::freeaddrinfo);
    unique_fd fd(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    check(fd.get(), "socket");
    const int on = 1;
    check(::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), "SO_REUSEADDR");
    if (shared) check(::setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on), "SO_REUSEPORT");
    check(::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on), "TCP_NODELAY");
    check(::bind(fd, found->ai_addr, found->ai_addrlen), "bind");
    check(::listen(fd, SOMAXCONN), "listen");
    check(::getsockname(fd, found->ai_addr, &found->ai_addrlen), "getsockname");
    // The port is at the same place for both families.
    port = ntohs(reinterpret_cast<const sockaddr_in*>(found->ai_addr)->sin_port);
    return fd;
}

}  // namespace ringlet
