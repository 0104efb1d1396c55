// recipes/process.hpp: other programs. Start one, talk to it through pipes, await its end.
//
//     #include <ringlet/recipes/process.hpp>
//     ringlet::task<std::string> day() {
//         ringlet::process date({"date", "+%A"}, ringlet::stdio::null, ringlet::stdio::pipe);
//         std::array<std::byte, 100> text;
//         std::size_t n = co_await ringlet::io::read(date.out, text);
//         int status = co_await date.wait();  // as of waitpid(2)
//         if (status != 0) throw std::runtime_error("date has failed");
//         co_return std::string(reinterpret_cast<char*>(text.data()), n);
//     }
//
// Who writes to a program and reads from it does both at once (when_all), since pipes hold 64 KB;
// and lets go of `in` when all is written: child.in.reset() is what the program sees as the end of
// its input. A program that reads no more makes a write to it raise SIGPIPE, which ends this one:
// std::signal(SIGPIPE, SIG_IGN), and the write throws EPIPE.
//
// The life of one:
//
//     (1) constructor        (2) it ends             (3) wait
//     spawned, runs --------> a zombie, with status ---> reaped
//            |                       |                     ^
//            +--- (4) destructor: killed, and waited for --+
//
//     (1) The constructor waits until the program has replaced the copy of this one, which takes a
//     few 100 us; so what keeps it from starting is an exception here: ENOENT, EACCES, ENOEXEC.
//     (3) A wait that is cancelled can be begun again.    (4) Also when a task that holds it in its
//     frame is cancelled: no program outlives its object, and no zombie stays. SIGKILL takes effect
//     within microseconds, or a waiting disk's time: it is short enough to be waited for.
//
// The program gets the three descriptors, and no other if it is not asked for (`keeps`), the
// environment, SIGPIPE as usual, and the signal mask without what signals.hpp has blocked here.
// SIGCHLD must not be ignored in this program: the kernel would reap by itself. The processes that the
// child starts are its own affair.
#pragma once

#include <ringlet/recipes/signals.hpp>

#include <spawn.h>

#include <vector>

namespace ringlet {

// What the program has as its standard input, output or error: that of this one, a pipe whose other
// end is here, or /dev/null.
enum class stdio { inherit, pipe, null };

class process {
public:
    unique_fd in, out, err;  // our ends of the pipes, for writing, reading, reading

    // argv[0] is looked for in PATH if there is no slash in it. `keeps`: what is open here and not
    // close-on-exec is open there too. Throws std::system_error.
    explicit process(const std::vector<std::string>& argv, stdio input = stdio::inherit,
        stdio output = stdio::inherit, stdio error = stdio::inherit, bool keeps = false) {
        if (argv.empty()) refuse(EINVAL, "spawn: no program is named");
        plan p;
        const unique_fd theirs[] = {
            p.connect(0, input, in), p.connect(1, output, out), p.connect(2, error, err)};
        std::vector<char*> words;
        for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
        words.push_back(nullptr);
        if (!keeps) ::posix_spawn_file_actions_addclosefrom_np(&p.files, 3);
        const int e = ::posix_spawnp(&id, words[0], &p.files, &p.attributes, words.data(), environ);
        if (e != 0) refuse(e, "spawn " + argv[0]);
    }
    process(process&&) = delete;
    ~process() {
        if (status) return;
        ::kill(id, SIGKILL);
        while (::waitpid(id, nullptr, 0) < 0 && errno == EINTR) {}
    }

    pid_t pid() const { return id; }
    // Sends it a signal; one that has been waited for gets none.
    void kill(int signal) const {
        if (!status && ::kill(id, signal) != 0) refuse(errno, "kill " + std::to_string(id));
    }
    // Waits for its end, and gives its status, as of waitpid(2). For one task at a time; the second
    // time it gives the same at once.
    template <class = void> task<int> wait() {
        if (!status) status = co_await io::wait_pid(id);
        co_return *status;
    }

private:
    [[noreturn]] static void refuse(int error, const std::string& what) {
        throw std::system_error(error, std::system_category(), what);
    }
    // What the child does before it becomes the program.
    struct plan {
        posix_spawn_file_actions_t files;
        posix_spawnattr_t attributes;
        plan() {
            posix_spawn_file_actions_init(&files);
            posix_spawnattr_init(&attributes);
            const sigset_t mask = signals::children_mask();
            sigset_t usual{};
            sigaddset(&usual, SIGPIPE);
            posix_spawnattr_setsigmask(&attributes, &mask);
            posix_spawnattr_setsigdefault(&attributes, &usual);
            posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
        }
        plan(plan&&) = delete;
        ~plan() {
            posix_spawnattr_destroy(&attributes);
            posix_spawn_file_actions_destroy(&files);
        }
        // Gives the child's end, above 2, where no dup2 of another one overwrites it.
        unique_fd connect(int target, stdio how, unique_fd& ours) {
            if (how == stdio::null)
                posix_spawn_file_actions_addopen(&files, target, "/dev/null", O_RDWR, 0);
            if (how != stdio::pipe) return unique_fd();
            int ends[2];
            if (::pipe2(ends, O_CLOEXEC) != 0) refuse(errno, "spawn: pipe");
            const unique_fd low(ends[target != 0]);
            ours.reset(ends[target == 0]);
            unique_fd theirs(::fcntl(low, F_DUPFD_CLOEXEC, 3));
            if (!theirs) refuse(errno, "spawn: pipe");
            posix_spawn_file_actions_adddup2(&files, theirs, target);
            return theirs;
        }
    };

    pid_t id = -1;
    std::optional<int> status;
};

}  // namespace ringlet
