// recipes/dns.hpp: from a host's name to its addresses.
//
//     #include <ringlet/recipes/dns.hpp>
//     auto list = co_await ringlet::resolve("example.org", "https");
//     for (const ringlet::endpoint& e : list) std::puts(e.text().c_str());
//
// getaddrinfo blocks: it reads files, asks servers and waits for them. So a helper thread makes the
// call, but none is needed, or started, where the host is an address.
#pragma once

#include <ringlet/recipes/unblock.hpp>

#include <netdb.h>

namespace ringlet {

// What getaddrinfo says when it finds nothing.
struct resolve_error : std::runtime_error {
    int code;  // EAI_*
    resolve_error(const std::string& name, int c)
        : std::runtime_error(name + ": " + ::gai_strerror(c)), code(c) {}
};

// An address and a port, as connect(2) takes them.
struct endpoint {
    sockaddr_storage address{};
    socklen_t size = 0;
    explicit endpoint(const addrinfo& a) : size(a.ai_addrlen) {
        std::memcpy(&address, a.ai_addr, size);
    }
    const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address); }
    // "127.0.0.1 port 80"
    std::string text() const {
        char host[NI_MAXHOST] = "?", port[NI_MAXSERV] = "?";
        ::getnameinfo(
            get(), size, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV);
        return std::string(host) + " port " + port;
    }
};
using endpoints = std::vector<endpoint>;

namespace detail {

// Gives an error of getaddrinfo, or 0; one of the system is thrown, since errno is this thread's.
inline int look_up(
    const std::string& host, const std::string& service, int flags, endpoints& into) {
    addrinfo hints{}, *found = nullptr;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = flags;
    // getaddrinfo takes 65616 for 80, and a number below zero, perhaps behind spaces, and nothing for
    // 0; and what is behind a zero byte it does not see.
    const auto cut = [](const std::string& s) { return s.find('\0') != std::string::npos; };
    const bool begins = std::isalnum(static_cast<unsigned char>(service[0]));
    if (!begins || cut(service) || std::atol(service.c_str()) > 65535) return EAI_SERVICE;
    if (cut(host)) return EAI_NONAME;
    const int error = ::getaddrinfo(host.c_str(), service.c_str(), &hints, &found);
    if (error == EAI_SYSTEM) fail(errno, host);
    for (const addrinfo* a = found; a; a = a->ai_next) into.emplace_back(*a);
    if (found) ::freeaddrinfo(found);
    return error;
}

}  // namespace detail

// The addresses of a host, in the system's order of preference. Asks a helper thread, unless the host
// is an address. Throws resolve_error, or std::system_error. A question that is under way cannot be
// cancelled: it is waited for.
template <class = void> task<endpoints> resolve(std::string host, std::string service) {
    endpoints list;
    const auto ask = [&] { return detail::look_up(host, service, 0, list); };
    int error = detail::look_up(host, service, AI_NUMERICHOST, list);
    if (error == EAI_NONAME) error = co_await unblock(ask);
    if (error) throw resolve_error(error == EAI_SERVICE ? service : host, error);
    co_return list;
}

}  // namespace ringlet
