// echo_load: the load for an echo server: one thread, a closed loop over io_uring.
//
//   usage: echo_load PORT CONNECTIONS REQUESTS [together]
//
// Opens up to 2,000 connections to 127.0.0.1. Each sends a message of 64 bytes, waits for all of
// its reply, compares that with what was sent, and sends the next, until REQUESTS have been made by
// all together. `together`: each waits for the replies of all the others, too, so that a server on
// the same core has the same to do in each run. Prints the requests, the time for each, and the
// latency that 50, 90, 99 and 99.9 % of them did not exceed, and the longest. Exit code 1: a reply
// was wrong, or none came.

#define _GNU_SOURCE
#include <errno.h>
#include <liburing.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { size = 64, most = 2000 };

static struct io_uring ring;
static struct connection {
    int fd;
    uint64_t sent_at;
    char request[size], reply[size];
} connections[most];
static long begun, done, total;
static uint32_t* latencies;  // ns

static void fail(const char* what, int error) {
    fprintf(stderr, "echo_load: %s: %s\n", what, strerror(error));
    exit(1);
}

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static int connect_to(int port) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr*)&address, sizeof address)) fail("connect", errno);
    return fd;
}

// No two messages are the same: all eight words depend on the number of the request.
static void compose(char* message, uint64_t number) {
    uint64_t state = (number + 1) * 0x9e3779b97f4a7c15;
    for (int i = 0; i < size; i += 8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        memcpy(message + i, &state, 8);
    }
}

// A send, and when that is over, the receive; only the latter has a completion, unless the send
// fails: that cancels the receive.
static void request(struct connection* c, uint64_t time) {
    c->sent_at = time;
    compose(c->request, (uint64_t)begun++);
    struct io_uring_sqe* sqe = io_uring_get_sqe(&ring);
    io_uring_prep_send(sqe, c->fd, c->request, size, MSG_WAITALL | MSG_NOSIGNAL);
    sqe->flags |= IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data = 0;
    sqe = io_uring_get_sqe(&ring);
    io_uring_prep_recv(sqe, c->fd, c->reply, size, MSG_WAITALL);
    io_uring_sqe_set_data(sqe, c);
}

static void check(const struct io_uring_cqe* cqe, uint64_t time) {
    struct connection* const c = io_uring_cqe_get_data(cqe);
    if (!c) fail("send", -cqe->res);
    if (cqe->res < 0) fail("recv", -cqe->res);
    if (cqe->res != size || memcmp(c->request, c->reply, size)) {
        fprintf(stderr, "echo_load: a wrong reply\n");
        exit(1);
    }
    latencies[done++] = (uint32_t)(time - c->sent_at);
}

static void run(long count, int together) {
    static struct connection* replied[most];
    for (long i = 0; i < count; ++i) replied[i] = &connections[i];
    long waiting = count;
    while (done < total) {
        const uint64_t start = now();
        if (!together || waiting == count || done == begun)
            while (waiting && begun < total) request(replied[--waiting], start);
        const long missing = together ? begun - done : 1;
        const int submitted = io_uring_submit_and_wait(&ring, (unsigned)missing);
        if (submitted < 0 && submitted != -EINTR) fail("io_uring_enter", -submitted);
        const uint64_t time = now();
        struct io_uring_cqe* cqe;
        unsigned head, seen = 0;
        io_uring_for_each_cqe(&ring, head, cqe) {
            ++seen;
            check(cqe, time);
            replied[waiting++] = io_uring_cqe_get_data(cqe);
        }
        io_uring_cq_advance(&ring, seen);
    }
}

static int earlier(const void* a, const void* b) {
    const uint32_t x = *(const uint32_t*)a, y = *(const uint32_t*)b;
    return (x > y) - (x < y);
}
// In us: the latency that this share of the requests did not exceed.
static double at(double share) {
    const long i = (long)(share * (double)done + 0.999999);
    return latencies[i > done ? done - 1 : i > 0 ? i - 1 : 0] / 1e3;
}

static void set_up(void) {
    struct io_uring_params p = {0};
    p.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL;
    const int error = io_uring_queue_init_params(2 * most, &ring, &p);
    if (error) fail("io_uring_setup", -error);
    io_uring_register_ring_fd(&ring);
}

int main(int argc, char** argv) {
    const int port = argc > 3 ? atoi(argv[1]) : 0;
    const long count = argc > 3 ? atol(argv[2]) : 0;
    total = argc > 3 ? atol(argv[3]) : 0;
    if (port < 1 || count < 1 || count > most || total < count || total > 100000000) {
        fprintf(
            stderr, "usage: echo_load PORT CONNECTIONS REQUESTS [together]     (1 to %d)\n", most);
        return 2;
    }
    latencies = malloc((size_t)total * sizeof *latencies);
    if (!latencies) fail("malloc", ENOMEM);
    memset(latencies, 0, (size_t)total * sizeof *latencies);
    set_up();
    for (long i = 0; i < count; ++i) connections[i].fd = connect_to(port);
    const uint64_t start = now();
    run(count, argc > 4 && strcmp(argv[4], "together") == 0);
    const double time = (double)(now() - start);
    qsort(latencies, (size_t)done, sizeof *latencies, earlier);
    printf("work=load units=%ld wall_ns=%.2f p50_us=%.1f p90_us=%.1f p99_us=%.1f p999_us=%.1f "
           "max_us=%.1f\n",
        done, time / (double)done, at(0.5), at(0.9), at(0.99), at(0.999), at(1));
    return 0;
}
