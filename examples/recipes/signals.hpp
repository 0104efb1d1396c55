// recipes/signals.hpp: signals as something to await.
//
//     #include <ringlet/recipes/signals.hpp>
//     ringlet::task<> serve_until_told_to_end() {
//         ringlet::signals ending({SIGINT, SIGTERM});
//         ringlet::spawn(serve()).detach();
//         signalfd_siginfo why = co_await ending.next();
//         std::fprintf(stderr, "ended by %s\n", strsignal(static_cast<int>(why.ssi_signo)));
//     }
//
// A handler may do next to nothing, and interrupts whatever runs. Here the signals are blocked, so
// that they interrupt nobody, and are read from a signalfd by whoever has time for them.
//
// The life of one:
//
//     (1) constructor        (2) the signal        (3) next
//     blocked, signalfd ----> pending, once ------> read: the task goes on
//         |      ^                |                      |
//         |      +----------------|----------------------+
//         |                       |
//         +--- (4) destructor ----+---> as before: the handler is called, or the program ends
//
//     (1) Those that were blocked before stay so at (4); two objects may share a signal, and it is
//     unblocked with the last. The mask is the thread's, and threads inherit it: make the object
//     before the first thread (unblock starts some), or a signal finds one that has not blocked it.
//     (2) However often it comes: only SIGRTMIN and above are queued. (3) A next() that is cancelled
//     has taken none. (4) What is pending then takes its usual course.
//
// A signal that is ignored when the object is made stays so: it is not heard. Whoever starts a program
// with nohup(1), or with & in a script, has its SIGHUP, or SIGINT, ignored, and means it.
//
// A child inherits the mask as well, also through exec, and would not end at Ctrl-C any more. Give it
// the one that children_mask() tells; process.hpp does.
#pragma once

#include <ringlet/reactor.hpp>

#include <sys/signalfd.h>

#include <csignal>
#include <initializer_list>

namespace ringlet {

// For one thread; next() borrows it.
class signals {
public:
    // Throws std::system_error: EINVAL for a number that is no signal, or one that cannot be blocked
    // (SIGKILL, SIGSTOP).
    explicit signals(std::initializer_list<int> which) {
        for (const int s : which) {
            struct sigaction now {};
            if (s == SIGKILL || s == SIGSTOP || ::sigaction(s, nullptr, &now) != 0)
                refuse(EINVAL, "signals: number " + std::to_string(s));
            if (now.sa_handler != SIG_IGN) sigaddset(&set, s);
        }
        fd.reset(::signalfd(-1, &set, SFD_CLOEXEC));
        if (!fd) refuse(errno, "signals: signalfd");
        sigset_t before;
        pthread_sigmask(SIG_BLOCK, &set, &before);
        for (int s = 1; s < _NSIG; ++s)
            if (sigismember(&set, s) == 1 && users[s]++ == 0 && !sigismember(&before, s))
                sigaddset(&ours, s);
    }
    signals(signals&&) = delete;
    ~signals() {
        sigset_t last{};
        for (int s = 1; s < _NSIG; ++s)
            if (sigismember(&set, s) == 1 && --users[s] == 0 && sigismember(&ours, s)) {
                sigaddset(&last, s);
                sigdelset(&ours, s);
            }
        fd.reset();
        pthread_sigmask(SIG_UNBLOCK, &last, nullptr);
    }

    // Waits for the next of them: ssi_signo is its number, ssi_pid who sent it; see signalfd(2).
    // Several tasks may wait; each signal goes to one.
    template <class = void> task<signalfd_siginfo> next() {
        signalfd_siginfo info{};
        co_await io::read(fd, std::as_writable_bytes(std::span(&info, 1)));
        co_return info;
    }
    // The mask that this thread would have without any object of this class.
    static sigset_t children_mask() {
        sigset_t mask;
        pthread_sigmask(SIG_BLOCK, nullptr, &mask);
        for (int s = 1; s < _NSIG; ++s)
            if (sigismember(&ours, s)) sigdelset(&mask, s);
        return mask;
    }

private:
    [[noreturn]] static void refuse(int error, const std::string& what) {
        throw std::system_error(error, std::system_category(), what);
    }
    inline static constinit thread_local unsigned users[_NSIG]{};
    inline static constinit thread_local sigset_t ours{};  // that were not blocked before

    sigset_t set{};
    unique_fd fd;
};

}  // namespace ringlet
