// recipes/buffered.hpp: lines, and exact numbers of bytes, from a descriptor.
//
//     #include <ringlet/recipes/buffered.hpp>
//     ringlet::task<> print_lines(int fd) {
//         ringlet::buffered_reader from(fd, 4096);  // no line is longer than that
//         for (auto line = co_await from.line(); line; line = co_await from.line())
//             std::printf("%.*s\n", static_cast<int>(line->size()), line->data());
//     }
//
// A read gives as much as happens to be there: half a line, or three and a half. Between them is a
// buffer of a fixed size, and what it gives are views into it, which copy nothing and are good until
// the next call:
//
//     +----------------+-------------------------------+-------------------+
//     | taken          | read, and not taken           | free              |
//     +----------------+-------------------------------+-------------------+
//                      ^ (1) take                      ^ (2) fill
//
//     (1) A line, or n bytes, if they are there. A call that is cancelled has taken nothing, and
//     loses nothing: what was read stays, for the next one.
//     (2) One read into what is free. If nothing is, what was taken goes first: the rest moves to
//     the front. If still nothing is, the line is too long, and the peer, who could fill all memory
//     with it, gets an error.
#pragma once

#include <ringlet/reactor.hpp>

#include <string_view>

namespace ringlet {

// For one task at a time. Borrows the descriptor; nobody else should read from it.
class buffered_reader {
public:
    // `bound`: how many bytes a line (its end included) or an exact() has at most; 0 counts as 1.
    explicit buffered_reader(int descriptor, std::size_t bound = 16 * 1024)
        : fd(descriptor), buffer(std::max<std::size_t>(bound, 1)) {}

    // The next line, without its end; the last one may have none. nullopt: the stream has ended.
    // Throws std::length_error if the line is longer than the bound, and takes nothing.
    template <class = void> task<std::optional<std::string_view>> line(char end = '\n') {
        std::size_t searched = 0;
        for (;;) {
            const std::size_t at = unread().find(end, searched);
            if (at != std::string_view::npos) co_return take(at + 1).substr(0, at);
            searched = unread().size();
            if (searched == buffer.size()) too_long("a line");
            const bool more = co_await fill();
            if (!more && searched == 0) co_return std::nullopt;
            if (!more) co_return take(searched);
        }
    }
    // n bytes. Throws std::system_error(ENODATA) if the stream ends before that, and takes nothing;
    // std::length_error if n is more than the bound.
    template <class = void> task<std::span<const std::byte>> exact(std::size_t n) {
        bool more = true;
        if (n > buffer.size()) too_long("what exact() asks for");
        while (unread().size() < n && more) more = co_await fill();
        if (!more)
            throw std::system_error(
                ENODATA, std::system_category(), "exact on descriptor " + std::to_string(fd));
        co_return std::as_bytes(std::span(take(n)));
    }
    // What is there, or comes next; at least a byte. None: the stream has ended.
    template <class = void> task<std::span<const std::byte>> some() {
        bool more = true;
        if (unread().empty()) more = co_await fill();
        co_return std::as_bytes(std::span(take(more ? unread().size() : 0)));
    }
    // What has been read and not taken.
    std::string_view unread() const {
        return std::string_view(buffer.data() + first, last - first);
    }

private:
    // Reads once. False: the stream has ended.
    template <class = void> task<bool> fill() {
        if (last == buffer.size() || first == last) {
            std::memmove(buffer.data(), buffer.data() + first, last - first);
            last -= std::exchange(first, 0);
        }
        const std::size_t n = co_await io::read(
            fd, std::as_writable_bytes(std::span(buffer).subspan(last)));
        last += n;
        co_return n > 0;
    }
    std::string_view take(std::size_t n) {
        return std::string_view(buffer.data() + std::exchange(first, first + n), n);
    }
    [[noreturn]] void too_long(const char* what) const {
        throw std::length_error(std::string("ringlet::buffered_reader: ") + what
            + " is longer than the bound, " + std::to_string(buffer.size())
            + " bytes, on descriptor " + std::to_string(fd));
    }

    int fd;
    std::vector<char> buffer;
    std::size_t first = 0, last = 0;
};

}  // namespace ringlet
