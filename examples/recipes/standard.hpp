// recipes/standard.hpp: standard input, output and error, also where they are closed; and how many
// descriptors there may be.
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
//
// It is also started with a bound on descriptors, mostly 1024, so low for the sake of select(2), which
// takes no number above. A program that does not call that may raise it:
//
//     std::size_t connections = ringlet::most_descriptors() - 10;
#pragma once

#include <fcntl.h>
#include <sys/resource.h>

#include <cstddef>

namespace ringlet {

// Takes the numbers of those that are closed, with descriptors that can be neither read nor written
// (EBADF, as before), and that no program that is started from here gets. To be called first.
inline void hold_standard_descriptors() {
    for (int fd = 0; fd < 3; ++fd)
        if (::fcntl(fd, F_GETFD) < 0) ::open("/", O_PATH | O_CLOEXEC);
}

// Raises the bound on descriptors as far as it goes, and gives it. Programs that are started from here
// inherit it.
inline std::size_t most_descriptors() {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
    ::getrlimit(RLIMIT_NOFILE, &limit);  // whether or not it has been allowed
    return limit.rlim_cur;
}

}  // namespace ringlet
