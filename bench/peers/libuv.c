// libuv: two works of works.cpp as a user of libuv would write them: for `sleep` a timer each, from
// the heap, closed in its callback; for `timeout` one timer that is started for each unit, and
// stopped in the callback that the loop comes to at its next turn. There are no tasks around them.
//
//   usage: libuv sleep|timeout COUNT
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

static uv_timer_t limit;
static long wanted;

static void late(uv_timer_t* timer) {
    (void)timer;
    fprintf(stderr, "libuv: a timeout\n");
    exit(1);
}
// What a child that yields once is here: the loop comes by again. An idle callback keeps it from
// sleeping meanwhile.
static void next_turn(uv_idle_t* idle) {
    uv_timer_stop(&limit);
    if (++finished == wanted) uv_idle_stop(idle);
    else uv_timer_start(&limit, late, 10000, 0);
}
static void timeouts(uv_loop_t* loop, long n) {
    uv_idle_t idle;
    finished = 0;
    wanted = n;
    uv_update_time(loop);
    if (uv_timer_init(loop, &limit) || uv_idle_init(loop, &idle)) exit(1);
    uv_timer_start(&limit, late, 10000, 0);
    uv_idle_start(&idle, next_turn);
    uv_run(loop, UV_RUN_DEFAULT);
    uv_close((uv_handle_t*)&limit, NULL);
    uv_close((uv_handle_t*)&idle, NULL);
    uv_run(loop, UV_RUN_DEFAULT);
}

int main(int argc, char** argv) {
    if (argc == 2 && strcmp(argv[1], "version") == 0) return puts(uv_version_string()) < 0;
    const long count = argc == 3 ? atol(argv[2]) : 0;
    if (count < 1 || (strcmp(argv[1], "sleep") && strcmp(argv[1], "timeout"))) {
        fprintf(stderr, "usage: libuv sleep|timeout COUNT\n");
        return 2;
    }
    void (*const run)(uv_loop_t*, long) = argv[1][0] == 's' ? sleeps : timeouts;
    uv_loop_t loop;
    if (uv_loop_init(&loop)) return 1;
    run(&loop, count);
    const double wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    run(&loop, count);
    const double n = (double)count;
    printf("work=%s units=%ld wall_ns=%.2f cpu_ns=%.2f\n", argv[1], count,
        (now(CLOCK_MONOTONIC) - wall) / n, (now(CLOCK_PROCESS_CPUTIME_ID) - cpu) / n);
    return uv_loop_close(&loop);
}
