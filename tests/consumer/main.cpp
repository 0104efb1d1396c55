// A user of ringlet, as far from the repository as can be: only <ringlet/...> and the public names.
#include <ringlet/executor.hpp>
#include <ringlet/reactor.hpp>
#include <ringlet/task.hpp>
#include <ringlet/timer.hpp>

#include <chrono>
#include <cstdio>

ringlet::task<int> answer() {
    co_await ringlet::sleep_for(std::chrono::milliseconds(1));
    co_await ringlet::io::nop();
    co_return 42;
}

int main() { std::printf("%d\n", ringlet::block_on(answer())); }
