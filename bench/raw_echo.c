// raw_echo: an echo server for bench/echo_load.c as a loop over liburing, by hand: the limit of the
// kernel. See echo.h for its usage.
//
// A connection has a buffer, and one request at a time: a receive, or a send. One system call
// submits all that has been written, and waits.

#define _GNU_SOURCE
#include "echo.h"

#include <liburing.h>

// The user_data of a request: one of these and the descriptor.
enum { accepting, receiving, sending, ending };

static struct io_uring ring;
static char buffers[echo_most + 64][echo_size];

static struct io_uring_sqe* request(__u64 what, int fd) {
    struct io_uring_sqe* const sqe = io_uring_get_sqe(&ring);
    sqe->user_data = what << 32 | (__u64)fd;
    return sqe;
}
// The prep functions of liburing 2.3 leave the user_data as it is.
static void receive(int fd) {
    io_uring_prep_recv(request(receiving, fd), fd, buffers[fd], echo_size, 0);
}
static void send_back(int fd, int n) {
    io_uring_prep_send(
        request(sending, fd), fd, buffers[fd], (size_t)n, MSG_WAITALL | MSG_NOSIGNAL);
}
static void take_connection(int listener) {
    io_uring_prep_accept(request(accepting, listener), listener, NULL, NULL, SOCK_CLOEXEC);
}

static void completed(uint64_t what, int fd, int n) {
    if (what == accepting) {
        if (n >= echo_most + 64) close(n);
        else if (n >= 0) receive(n);
        take_connection(fd);
    } else if (n <= 0) close(fd);
    else if (what == receiving) send_back(fd, n);
    else {
        receive(fd);
        if (echo_counts()) echo_begin = echo_now();
    }
}

static int run(void) {
    for (;;) {
        const int submitted = io_uring_submit_and_wait(&ring, 1);
        if (submitted < 0) return fprintf(stderr, "raw_echo: %s\n", strerror(-submitted)), 1;
        ++echo_calls;
        struct io_uring_cqe* cqe;
        unsigned head, seen = 0;
        int over = 0;
        io_uring_for_each_cqe(&ring, head, cqe) {
            ++seen;
            const uint64_t what = cqe->user_data >> 32;
            if (what == ending) over = 1;
            else completed(what, (int)(uint32_t)cqe->user_data, cqe->res);
        }
        io_uring_cq_advance(&ring, seen);
        if (over) return echo_report();
    }
}

int main(int argc, char** argv) {
    static struct signalfd_siginfo info;
    const int signals = echo_signal(0), listener = echo_listen(argc, argv);
    if (listener < 0) return 1;
    // What ringlet asks for, too: Linux 6.1.
    struct io_uring_params p = {0};
    p.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL
        | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_CQSIZE;
    p.cq_entries = 4 * echo_most;
    const int error = io_uring_queue_init_params(echo_most, &ring, &p);
    if (error) return fprintf(stderr, "raw_echo: io_uring_setup: %s\n", strerror(-error)), 1;
    io_uring_register_ring_fd(&ring);
    io_uring_prep_read(request(ending, signals), signals, &info, sizeof info, 0);
    take_connection(listener);
    return run();
}
