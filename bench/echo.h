// echo.h: what the echo servers share: the listener, and the line that each prints at its end. In C,
// for C and C++.
//
//   usage of each server: NAME [WARM]      it listens on a free port of 127.0.0.1: "port=N"
//
// At SIGTERM, which each waits for in its own way, it prints a line as works does: the requests
// after the first WARM, and per request the CPU time of the process in ns (user and system
// together, and user alone), and the system calls of its loop.
#ifndef BENCH_ECHO_H
#define BENCH_ECHO_H

#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { echo_size = 64, echo_most = 2048 };  // bytes of a message; connections

struct echo_figures {
    double cpu, user;    // ns
    long calls, served;  // system calls; requests
};
static long echo_calls, echo_served, echo_warm = 1;
static struct echo_figures echo_begin;

static inline struct echo_figures echo_now(void) {
    struct rusage u;
    struct echo_figures f;
    getrusage(RUSAGE_SELF, &u);
    f.user = (double)u.ru_utime.tv_sec * 1e9 + (double)u.ru_utime.tv_usec * 1e3;
    f.cpu = f.user + (double)u.ru_stime.tv_sec * 1e9 + (double)u.ru_stime.tv_usec * 1e3;
    f.calls = echo_calls;
    f.served = echo_served;
    return f;
}

// After each reply. True: these were the warm ones, and it is time for echo_begin = echo_now().
static inline int echo_counts(void) { return ++echo_served == echo_warm; }

// True, and says so, if a call has failed.
static inline int echo_failed(int bad, const char* what) {
    if (bad) perror(what);
    return bad;
}

// A listening socket; its port is printed. -1: an error, which was printed.
static inline int echo_listen(int argc, char** argv) {
    struct sockaddr_in address;
    struct sockaddr* const generic = (struct sockaddr*)&address;
    socklen_t size = sizeof address;
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (argc > 1) echo_warm = atol(argv[1]);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (echo_failed(fd < 0 || bind(fd, generic, size) || listen(fd, echo_most)
                || getsockname(fd, generic, &size),
            "listen"))
        return -1;
    printf("port=%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

// A descriptor that becomes readable at SIGTERM, which then ends nothing by itself.
static inline int echo_signal(int flags) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | flags);
}

// The line; the exit code.
static inline int echo_report(void) {
    const struct echo_figures end = echo_now();
    const double n = (double)(end.served - echo_begin.served);
    printf("work=echo units=%.0f cpu_ns=%.2f user_ns=%.2f enters=%.6f\n", n,
        (end.cpu - echo_begin.cpu) / n, (end.user - echo_begin.user) / n,
        (double)(end.calls - echo_begin.calls) / n);
    return fflush(stdout) != 0;
}

#endif
