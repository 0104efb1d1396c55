// recipes/send_file.hpp: some bytes, and a part of a file behind them.
//
//     #include <ringlet/recipes/send_file.hpp>
//     const auto send = [fd](std::span<const std::byte> all) { return ringlet::io::write_all(fd, all); };
//     co_await ringlet::send_file("the file:\n", file, 0, size, send);
//
// sendfile(2) has no request of the ring, and a splice there takes a thread of the kernel for each
// piece. So the bytes are copied, through a buffer no larger than they are; what is small goes out
// in one piece with the head.
#pragma once

#include <ringlet/reactor.hpp>

namespace ringlet {

// Sends `head` and the bytes of the file from `begin` to `end`. send(span) is awaited, and has to
// send all. Throws what it throws; std::system_error(ENODATA) if the file is shorter by now.
template <class Send>
task<> send_file(std::string head, int file, std::int64_t begin, std::int64_t end, Send send) {
    constexpr std::int64_t most = 128 * 1024;
    const auto body = static_cast<std::size_t>(std::min(end - begin, most));
    const std::size_t room = head.size() + body;
    const auto buffer = std::make_unique_for_overwrite<std::byte[]>(room);
    std::memcpy(buffer.get(), head.data(), head.size());
    for (std::size_t held = head.size(); held > 0 || begin < end; held = 0) {
        const auto left = static_cast<std::size_t>(end - begin);
        const std::span part(buffer.get() + held, std::min(left, room - held));
        co_await io::read_exactly(file, part, begin);
        begin += static_cast<std::int64_t>(part.size());
        const std::span<const std::byte> all(buffer.get(), held + part.size());
        co_await send(all);
    }
}

}  // namespace ringlet
