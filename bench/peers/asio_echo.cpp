// asio_echo: an echo server for bench/echo_load.c as a user of Asio would write it, with its
// coroutines. See ../echo.h for its usage.
//
// -DEXECUTOR=asio::io_context::executor_type builds it with the concrete type of the executor in
// all types, which spares it the calls through any_io_executor.

#include "calls.h"

#include <asio.hpp>

#include <array>
#include <utility>

#ifndef EXECUTOR
#define EXECUTOR asio::any_io_executor
#endif

namespace {

using executor = EXECUTOR;
using token = asio::use_awaitable_t<executor>;
using socket = asio::basic_stream_socket<asio::ip::tcp, executor>;
using acceptor = asio::basic_socket_acceptor<asio::ip::tcp, executor>;
template <class T> using awaitable = asio::awaitable<T, executor>;

awaitable<void> serve(socket client) {
    std::array<char, echo_size> buffer;
    asio::error_code error;
    asio::redirect_error_t<token> quietly(token(), error);
    for (;;) {
        const std::size_t n = co_await client.async_read_some(asio::buffer(buffer), quietly);
        if (error) break;
        co_await asio::async_write(client, asio::buffer(buffer, n), quietly);
        if (error) break;
        if (echo_counts()) echo_begin = echo_now();
    }
}

awaitable<void> accept_all(acceptor& listener) {
    for (;;) {
        socket client = co_await listener.async_accept(token());
        co_spawn(listener.get_executor(), serve(std::move(client)), asio::detached);
    }
}

}  // namespace

int main(int argc, char** argv) {
    asio::io_context context(1);  // a hint: one thread
    asio::signal_set signals(context, SIGTERM);
    const int fd = echo_listen(argc, argv);
    if (fd < 0) return 1;
    acceptor listener(executor(context.get_executor()), asio::ip::tcp::v4(), fd);
    co_spawn(listener.get_executor(), accept_all(listener), asio::detached);
    signals.async_wait([&](const asio::error_code&, int) { context.stop(); });
    context.run();
    return echo_report();
}
