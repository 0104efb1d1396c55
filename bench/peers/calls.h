// calls.h: counts the system calls of a library that makes its own: these take the place of the C
// library's functions, in the program and in what it links to.
#ifndef BENCH_CALLS_H
#define BENCH_CALLS_H

#include "../echo.h"

#include <sys/epoll.h>
#include <sys/syscall.h>

#ifdef __cplusplus
extern "C" {
#endif

ssize_t read(int fd, void* into, size_t n) { return ++echo_calls, syscall(SYS_read, fd, into, n); }
ssize_t write(int fd, const void* from, size_t n) {
    return ++echo_calls, syscall(SYS_write, fd, from, n);
}
ssize_t recv(int fd, void* into, size_t n, int flags) {
    return ++echo_calls, syscall(SYS_recvfrom, fd, into, n, flags, NULL, NULL);
}
ssize_t send(int fd, const void* from, size_t n, int flags) {
    return ++echo_calls, syscall(SYS_sendto, fd, from, n, flags, NULL, 0);
}
ssize_t recvmsg(int fd, struct msghdr* message, int flags) {
    return ++echo_calls, syscall(SYS_recvmsg, fd, message, flags);
}
ssize_t sendmsg(int fd, const struct msghdr* message, int flags) {
    return ++echo_calls, syscall(SYS_sendmsg, fd, message, flags);
}
int epoll_pwait(int set, struct epoll_event* into, int n, int ms, const sigset_t* mask) {
    return ++echo_calls, (int)syscall(SYS_epoll_pwait, set, into, n, ms, mask, _NSIG / 8);
}
int epoll_wait(int set, struct epoll_event* into, int n, int ms) {
    return epoll_pwait(set, into, n, ms, NULL);
}

#ifdef __cplusplus
}
#endif

#endif
