// recipes/standard.hpp: standard input, output and error, also where they are closed.
//
//     #include <ringlet/executor.hpp>
//     #include <ringlet/recipes/standard.hpp>
//     ringlet::task<int> serve() { co_return 0; }
//     int main() {
//         ringlet::hold_standard_descriptors();  // before anything is opened
//         return ringlet::block_on(serve());
//     }
//
// A program may be started with some of the three closed (`relay <&-`). What it opens first takes
// their numbers then: a socket is written to by printf, a signalfd read as the standard input.
#pragma once

#include <fcntl.h>

namespace ringlet {

// Takes the numbers of those that are closed, with descriptors that can be neither read nor written
// (EBADF, as before), and that no program that is started from here gets. To be called first.
inline void hold_standard_descriptors() {
    for (int fd = 0; fd < 3; ++fd)
        if (::fcntl(fd, F_GETFD) < 0) ::open("/", O_PATH | O_CLOEXEC);
}

}  // namespace ringlet
