// recipes/http1_get.hpp: one GET, by http or https. Needs OpenSSL, as tls.hpp does.
//
//     #include <ringlet/recipes/http1_get.hpp>
//     const auto store = [&](const http1::head& answer, std::string_view piece) -> ringlet::task<> {
//         if (answer.status == 200) co_await save(piece);
//     };
//     http1::head answer = co_await ringlet::http1::get(url("https://example.org/"), tls::trust(), 30s, store);
//
// Opens a connection, asks, hands over the body piece by piece as it comes, and closes. What is
// shorter than it says is an error. Redirects, retries and whom to ask again are left to the caller.
#pragma once

#include <ringlet/recipes/happy_eyeballs.hpp>
#include <ringlet/recipes/http1_io.hpp>
#include <ringlet/recipes/tls.hpp>
#include <ringlet/recipes/url.hpp>

namespace ringlet::http1 {

// A connection with TLS or without.
class channel_to {
public:
    template <class = void> task<> open(const url& to, const tls::context& trusted) {
        socket = co_await connect_to(to.host, to.port);
        if (to.secure) co_await over.emplace(trusted, socket.get(), to.host).handshake();
    }
    template <class = void> task<std::size_t> read(std::span<std::byte> into) {
        if (over) co_return co_await over->read(into);
        co_return co_await io::recv(socket, into);
    }
    template <class = void> task<> write(std::span<const std::byte> from) {
        if (over) co_return co_await over->write(from);
        while (!from.empty()) from = from.subspan(co_await io::send(socket, from));
    }

private:
    unique_fd socket;
    std::optional<tls::stream> over;
};

// store(const head&, std::string_view) is awaited for each piece of the body. Each step (connecting,
// the request, each read) has `patience`, then std::system_error(timed_out) is thrown; else what goes
// wrong: resolve_error, std::system_error, tls::error, http1::error, and what store throws. Gives the
// head of the answer, whatever its status. `store` must live as long as the task.
template <class Store>
task<head> get(
    url from, tls::context trusted, std::chrono::duration<double> patience, Store& store) {
    channel_to server;
    const std::string request = "GET " + from.target + " HTTP/1.1\r\nHost: " + from.authority()
        + "\r\nAccept: */*\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n";
    co_await timeout(patience, server.open(from, trusted));
    co_await timeout(patience, server.write(std::as_bytes(std::span(request))));
    const auto receive = [&](std::span<std::byte> into) {
        return timeout(patience, server.read(into));
    };
    reader<decltype(receive), 65536> in(receive);
    for (int interim = 0; interim < 20; ++interim) {
        parser answer(parser::response);
        const bool there = co_await in.head(answer);
        require(there, "the server has closed without an answer");
        require(answer.status != 101, "the server wants to speak something else");
        if (answer.status < 200) continue;  // "go on", and the like
        for (bool more = true; more;) {
            const std::string_view piece = co_await in.body(answer);
            more = !piece.empty();
            if (more) co_await store(answer, piece);
        }
        co_return std::move(answer);
    }
    throw error(400, "no end of interim answers");
}

}  // namespace ringlet::http1
