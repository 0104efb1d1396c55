// recipes/http1_io.hpp: messages from a connection, one after the other.
//
//     #include <ringlet/recipes/http1_io.hpp>
//     const auto receive = [fd](std::span<std::byte> into) { return ringlet::io::recv(fd, into); };
//     ringlet::http1::reader<decltype(receive)> in(receive);
//     ringlet::http1::parser response(ringlet::http1::parser::response);
//     co_await in.head(response);
//     for (;;) {
//         const std::string_view piece = co_await in.body(response);
//         if (piece.empty()) break;
//         store(piece);
//     }
//
// Whatever gives bytes will do: a socket, a TLS connection, a test. What has come behind a message is
// kept for the next one. A read that is cancelled loses nothing.
#pragma once

#include "http1.hpp"

#include <ringlet/task.hpp>

#include <array>
#include <span>

namespace ringlet::http1 {

// receive(std::span<std::byte>) is awaited, and gives a number of bytes; 0 is the end.
template <class Receive, std::size_t Size = 4096> class reader {
public:
    explicit reader(Receive r) : receive(std::move(r)) {}
    reader(reader&&) = delete;  // `unread` points into the buffer

    // Reads up to the end of the head. False: the connection has ended before that. Throws error.
    task<bool> head(parser& p) {
        while (!p.head_done()) {
            const bool more = co_await fill();
            if (!more) break;
            p.feed(unread);
        }
        co_return p.head_done();
    }
    // A piece of the body, which is there until the next call; empty: the message has ended. Throws
    // error, also if the connection ends too early.
    task<std::string_view> body(parser& p) {
        std::string_view piece;
        while (piece.empty() && !p.done()) {
            const bool more = co_await fill();
            if (more) piece = p.feed(unread);
            else p.end();
        }
        co_return piece;
    }

private:
    task<bool> fill() {
        if (unread.empty()) {
            const std::size_t n = co_await receive(std::span<std::byte>(buffer));
            unread = std::string_view(reinterpret_cast<const char*>(buffer.data()), n);
        }
        co_return !unread.empty();
    }

    Receive receive;
    std::array<std::byte, Size> buffer;
    std::string_view unread;  // a part of the buffer
};

}  // namespace ringlet::http1
