// libuv: the work `sleep` of works.cpp as a user of libuv would write it: a timer each, from the
// heap, closed in its callback.
//
//   usage: libuv sleep COUNT
//
// Prints a line as works does.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <uv.h>

static long finished = 0;

static double now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void closed(uv_handle_t* timer) { free(timer); }
static void expired(uv_timer_t* timer) {
    ++finished;
    uv_close((uv_handle_t*)timer, closed);
}

// libuv counts in milliseconds.
static void sleeps(uv_loop_t* loop, long n) {
    uint64_t random = 0x9e3779b97f4a7c15;
    finished = 0;
    uv_update_time(loop);
    for (long i = 0; i < n; ++i) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        uv_timer_t* timer = malloc(sizeof *timer);
        if (!timer || uv_timer_init(loop, timer)) exit(1);
        uv_timer_start(timer, expired, (1000 + random % 49000) / 1000, 0);
    }
    uv_run(loop, UV_RUN_DEFAULT);
    if (finished == n) return;
    fprintf(stderr, "libuv: a wrong result\n");
    exit(1);
}

int main(int argc, char** argv) {
    if (argc == 2 && strcmp(argv[1], "version") == 0) return puts(uv_version_string()) < 0;
    const long count = argc == 3 ? atol(argv[2]) : 0;
    if (count < 1 || strcmp(argv[1], "sleep")) {
        fprintf(stderr, "usage: libuv sleep COUNT\n");
        return 2;
    }
    uv_loop_t loop;
    if (uv_loop_init(&loop)) return 1;
    sleeps(&loop, count);
    const double wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    sleeps(&loop, count);
    const double n = (double)count;
    printf("work=sleep units=%ld wall_ns=%.2f cpu_ns=%.2f\n", count,
        (now(CLOCK_MONOTONIC) - wall) / n, (now(CLOCK_PROCESS_CPUTIME_ID) - cpu) / n);
    return uv_loop_close(&loop);
}
