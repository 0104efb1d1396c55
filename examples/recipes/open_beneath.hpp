// recipes/open_beneath.hpp: opens what somebody else names, and never anything above a directory.
//
//     #include <ringlet/recipes/open_beneath.hpp>
//     ringlet::unique_fd root(::open("/srv/www", O_PATH | O_DIRECTORY | O_CLOEXEC));
//     ringlet::unique_fd file = co_await ringlet::open_beneath(root, name_from_outside, O_RDONLY);
//
// To look for ".." in a path is to guess what the kernel will make of it: there are links, and
// directories that are moved meanwhile. openat2 (Linux 5.6) resolves it and refuses in one step. It
// is also an example of a request that the kit has no function for: io::op takes any.
#pragma once

#include <ringlet/reactor.hpp>

#include <linux/openat2.h>

namespace ringlet {

// The path is relative to the directory `root`. Throws std::system_error: EXDEV if the path leads
// out, by dots or by a link; EAGAIN if directories were renamed just then; EINVAL if there is a NUL in
// the path, which would end there for the kernel.
template <class = void>
task<unique_fd> open_beneath(int root, std::string path, int flags, mode_t mode = 0) {
    if (path.find('\0') != path.npos) detail::fail(EINVAL, "openat2: NUL in a path");
    open_how how{};
    how.flags = static_cast<std::uint64_t>(flags | O_CLOEXEC);
    how.mode = mode;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
    const auto fill = [&](io_uring_sqe* s) { io_uring_prep_openat2(s, root, path.c_str(), &how); };
    const std::string name = "openat2 " + path;  // in an error's text
    co_return co_await io::op<unique_fd>(fill, name.c_str());
}

}  // namespace ringlet
