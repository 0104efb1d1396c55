// ringlet and Asio in one program, both with their names in scope: Asio's loop, on a thread of its own, and ringlet's
// work side by side. It prints 42.
#include <asio.hpp>
#include <ringlet/recipes/unblock.hpp>

#include <cstdio>

using namespace asio;
using namespace ringlet;

task<int> answer() {
    int number = 0;
    auto in_asio = [&number] {
        io_context context;
        steady_timer timer(context, std::chrono::milliseconds(1));
        timer.async_wait([&number](const error_code& e) { number = e ? 0 : 40; });
        context.run();
    };
    co_await unblock(in_asio);
    auto two = ringlet::spawn([]() -> task<int> { co_return 2; });
    co_return number + co_await std::move(two);
}

int main() { std::printf("%d\n", block_on(answer())); }
