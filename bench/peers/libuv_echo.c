// libuv_echo: an echo server for bench/echo_load.c as a user of libuv would write it, with a buffer
// for each connection, and a write that is tried at once. See ../echo.h for its usage.

#define _GNU_SOURCE
#include "calls.h"

#include <uv.h>

struct connection {
    uv_tcp_t stream;
    char buffer[echo_size];
};

static void closed(uv_handle_t* h) { free(h); }

static void give(uv_handle_t* h, size_t suggested, uv_buf_t* buffer) {
    (void)suggested;
    *buffer = uv_buf_init(((struct connection*)h)->buffer, echo_size);
}

// 64 bytes fit into the socket's buffer: a write that comes short is an error.
static void received(uv_stream_t* s, ssize_t n, const uv_buf_t* buffer) {
    if (n == 0) return;
    uv_buf_t reply = uv_buf_init(buffer->base, (unsigned)n);
    if (n < 0 || uv_try_write(s, &reply, 1) != n) uv_close((uv_handle_t*)s, closed);
    else if (echo_counts()) echo_begin = echo_now();
}

static void connected(uv_stream_t* listener, int status) {
    struct connection* const c = malloc(sizeof *c);
    if (status || !c || uv_tcp_init(listener->loop, &c->stream)) exit(1);
    if (uv_accept(listener, (uv_stream_t*)&c->stream)) uv_close((uv_handle_t*)c, closed);
    else uv_read_start((uv_stream_t*)&c->stream, give, received);
}

static void terminated(uv_signal_t* s, int number) {
    (void)number;
    uv_stop(s->loop);
}

int main(int argc, char** argv) {
    uv_loop_t* const loop = uv_default_loop();
    uv_tcp_t listener;
    uv_signal_t signals;
    const int fd = echo_listen(argc, argv);
    if (fd < 0 || uv_tcp_init(loop, &listener) || uv_tcp_open(&listener, fd)
        || uv_listen((uv_stream_t*)&listener, echo_most, connected)
        || uv_signal_init(loop, &signals) || uv_signal_start(&signals, terminated, SIGTERM))
        return 1;
    uv_run(loop, UV_RUN_DEFAULT);
    return echo_report();
}
