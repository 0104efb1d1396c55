// hello: a task that calls another task, run to its end.
//
//   usage: hello
//   output:
//     hello, ringlet: 6 * 7 = 42
//
// What it shows: a task<T> is a coroutine that returns a T. Calling it runs nothing; co_await runs
// it and gives its value. block_on makes an executor, runs one task on it, the root, and hands out
// what the root returned. The other examples go on from here: own_executor (what is behind
// block_on), count, echo (files, sockets), no_heap.

#include <ringlet/executor.hpp>

#include <iostream>
#include <string>

namespace {

ringlet::task<int> multiply(int a, int b) {
    const int product = a * b;
    co_await ringlet::yield_now();  // lets others run, if there were any
    co_return product;
}

ringlet::task<std::string> greeting(std::string name) {
    const int product = co_await multiply(6, 7);
    co_return "hello, " + name + ": 6 * 7 = " + std::to_string(product);
}

}  // namespace

int main() { std::cout << ringlet::block_on(greeting("ringlet")) << '\n'; }
