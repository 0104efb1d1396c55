// epoll_echo: an echo server for bench/echo_load.c as a loop over epoll, by hand. See ../echo.h for
// its usage.

#define _GNU_SOURCE
#include "../echo.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>

static int set, listener, signals;

static int watch(int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    return epoll_ctl(set, EPOLL_CTL_ADD, fd, &event);
}

static void accept_all(void) {
    for (;;) {
        const int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return;
        echo_failed(watch(fd), "epoll_ctl");
    }
}

// 64 bytes fit into the socket's buffer: a send that comes short is an error.
static void answer(int fd) {
    char buffer[echo_size];
    const ssize_t n = recv(fd, buffer, sizeof buffer, 0);
    echo_calls += 2;
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0 || send(fd, buffer, (size_t)n, MSG_NOSIGNAL) != n) close(fd);
    else if (echo_counts()) echo_begin = echo_now();
}

int main(int argc, char** argv) {
    struct epoll_event events[256];
    signals = echo_signal(SFD_NONBLOCK);
    listener = echo_listen(argc, argv);
    if (listener < 0 || echo_failed(fcntl(listener, F_SETFL, O_NONBLOCK), "fcntl")) return 1;
    set = epoll_create1(EPOLL_CLOEXEC);
    if (echo_failed(set < 0 || watch(listener) || watch(signals), "epoll")) return 1;
    for (;;) {
        const int n = epoll_wait(set, events, 256, -1);
        ++echo_calls;
        for (int i = 0; i < n; ++i) {
            if (events[i].data.fd == signals) return echo_report();
            if (events[i].data.fd == listener) accept_all();
            else answer(events[i].data.fd);
        }
    }
}
