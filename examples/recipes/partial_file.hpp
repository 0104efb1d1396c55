// recipes/partial_file.hpp: a file that appears when it is complete, and not before.
//
//     #include <ringlet/recipes/partial_file.hpp>
//     ringlet::partial_file file("report.txt");
//     co_await file.open();
//     co_await ringlet::io::write_all(file.fd(), bytes);
//     co_await file.keep();  // without this there is nothing, whoever ends the task, and when
//
// It is written under another name in the same directory, which no other file has, and renamed at
// the end, which replaces an older file in one step. What was not kept is removed by the destructor.
#pragma once

#include <ringlet/reactor.hpp>

namespace ringlet {

// For one task. `p` is the name in the end; what is at that name meanwhile stays as it is until keep().
class partial_file {
public:
    explicit partial_file(std::string p) : path(std::move(p)) {}
    partial_file(partial_file&&) = delete;
    ~partial_file() {
        if (there) ::unlink(name.c_str());
    }
    // From open() to keep(), else -1.
    int fd() const { return file.get(); }
    // Once. Throws std::system_error.
    template <class = void> task<> open(mode_t mode = 0666) {
        if (there) throw std::logic_error("ringlet::partial_file: opened twice");
        // A long name is cut, to have room for more.
        const std::string begin = path.substr(0, path.rfind('/') + 201) + ".part-"
            + std::to_string(::getpid()) + "-";
        int fd = -EEXIST;
        while (fd == -EEXIST) {
            name = begin + std::to_string(++last);
            fd = co_await io::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL, mode).result();
        }
        if (fd < 0) detail::fail(-fd, "open " + name);
        file.reset(fd), there = true;
    }
    // Closes it, which is when some file systems tell that they could not write it (NFS, or a quota),
    // and gives it its name. Throws std::system_error: then it is removed all the same.
    template <class = void> task<> keep() {
        co_await io::close(std::move(file));
        co_await io::rename(name.c_str(), path.c_str());
        there = false;
    }

private:
    inline static thread_local unsigned last = 0;
    std::string path, name;
    unique_fd file;
    bool there = false;  // under `name`
};

}  // namespace ringlet
