// raw: two works of works.cpp as a loop over liburing, by hand: the limit of the kernel.
//
//   usage: raw nop|fread COUNT
//
// 64 requests at a time; each completion is followed by the next request, and one system call
// submits all and waits. Prints a line as works does.

#define _GNU_SOURCE
#include <liburing.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { workers = 64, block = 4096, blocks = 65536 };

static struct io_uring ring;
static uint64_t states[workers], enters;
static char buffers[workers][block];
static long left[workers];
static int file = -1;

static void fail(const char* what, int error) {
    fprintf(stderr, "raw: %s: %s\n", what, strerror(error));
    exit(1);
}

static double now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

// xorshift64, with the seeds of works.cpp.
static uint64_t next_random(uint64_t* state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static int cached_file(void) {
    const char* directory = getenv("TMPDIR");
    char path[4096], *data = malloc(1 << 20);
    snprintf(path, sizeof path, "%s/raw-XXXXXX", directory ? directory : "/tmp");
    const int fd = mkstemp(path);
    if (fd < 0 || !data) fail(path, 1);
    unlink(path);
    memset(data, 'x', 1 << 20);
    for (long done = 0; done < (long)block * blocks; done += 1 << 20)
        if (write(fd, data, 1 << 20) != 1 << 20) fail("write", 5);
    free(data);
    return fd;
}

static void request(unsigned worker) {
    struct io_uring_sqe* const sqe = io_uring_get_sqe(&ring);
    if (file < 0) io_uring_prep_nop(sqe);
    else {
        const uint64_t at = next_random(&states[worker]) % blocks * block;
        io_uring_prep_read(sqe, file, buffers[worker], block, at);
    }
    sqe->user_data = worker;
    --left[worker];
}

static void run(long units) {
    long open = 0;
    for (unsigned i = 0; i < workers; ++i) {
        states[i] = (i + 1) * 0x9e3779b97f4a7c15;
        left[i] = units / workers;
        request(i);
        ++open;
    }
    while (open) {
        const int submitted = io_uring_submit_and_wait(&ring, 1);
        if (submitted < 0) fail("submit", -submitted);
        ++enters;
        struct io_uring_cqe* cqe;
        unsigned head, seen = 0;
        io_uring_for_each_cqe(&ring, head, cqe) {
            ++seen;
            if (cqe->res != (file < 0 ? 0 : block)) fail("a request", 5);
            if (left[cqe->user_data]) request((unsigned)cqe->user_data);
            else --open;
        }
        io_uring_cq_advance(&ring, seen);
    }
}

int main(int argc, char** argv) {
    const long count = argc == 3 ? atol(argv[2]) : 0, units = count / workers * workers;
    if (!units || (strcmp(argv[1], "nop") && strcmp(argv[1], "fread"))) {
        fprintf(stderr, "usage: raw nop|fread COUNT     (64 at least)\n");
        return 2;
    }
    if (strcmp(argv[1], "fread") == 0) file = cached_file();
    // What ringlet asks for, too: Linux 6.1.
    struct io_uring_params p = {0};
    p.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL
        | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_CQSIZE;
    p.cq_entries = 4 * workers;
    const int error = io_uring_queue_init_params(workers, &ring, &p);
    if (error) fail("io_uring_setup", -error);
    io_uring_register_ring_fd(&ring);
    run(6400);
    enters = 0;
    const double wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    run(units);
    const double n = (double)units;
    printf("work=%s units=%ld wall_ns=%.2f cpu_ns=%.2f enters=%.6f\n", argv[1], units,
        (now(CLOCK_MONOTONIC) - wall) / n, (now(CLOCK_PROCESS_CPUTIME_ID) - cpu) / n,
        (double)enters / n);
    return 0;
}
