// micro: the kit's own pieces, one at a time, with Google Benchmark. For daily work: what has this
// change done? What is compared with others is in works.cpp.
//
//   usage: micro [--benchmark_filter=REGEX]

#include <ringlet/timer.hpp>

#include <benchmark/benchmark.h>

namespace {

using namespace ringlet;
using namespace std::chrono_literals;

// A frame of 200 bytes, and back to the list that it came from.
void frame_from_pool(benchmark::State& state) {
    for (auto _ : state) {
        void* const frame = frame_pool::allocate(200);
        benchmark::DoNotOptimize(frame);
        frame_pool::deallocate(frame, 200);
    }
}
BENCHMARK(frame_from_pool);

void frame_from_heap(benchmark::State& state) {
    for (auto _ : state) {
        void* const frame = ::operator new(200);
        benchmark::DoNotOptimize(frame);
        ::operator delete(frame, 200);
    }
}
BENCHMARK(frame_from_heap);

// A task of another queue than an executor's: made, run once, ended, its value taken.
task<int> child(int i) { co_return i; }
void job_by_hand(benchmark::State& state) {
    const auto schedule = [](runnable r) { std::move(r).run(); };
    for (auto _ : state) {
        auto [first, handle] = spawn(child(1), schedule);
        std::move(first).run();
        benchmark::DoNotOptimize(handle.done());
    }
}
BENCHMARK(job_by_hand);

// Runs the task body(state), which has a loop of its own.
template <auto Body> void on_executor(benchmark::State& state) { block_on(Body(state)); }

[[gnu::noinline]] task<int> callee(int i) { co_return i; }
task<> call(benchmark::State& state) {
    for (auto _ : state) benchmark::DoNotOptimize(co_await callee(1));
}
BENCHMARK(on_executor<call>)->Name("call");

// The queue, in and out.
task<> yield(benchmark::State& state) {
    for (auto _ : state) co_await yield_now();
}
BENCHMARK(on_executor<yield>)->Name("yield_alone");

// An unsuccessful look at ring and timers comes with a yield if nobody else is runnable: so beside
// another one.
task<> yield_for_ever() {
    for (;;) co_await yield_now();
}
task<> yield_among(benchmark::State& state) {
    std::vector<join_handle<>> others;
    for (std::int64_t i = 1; i < state.range(0); ++i) others.push_back(spawn(yield_for_ever()));
    for (auto _ : state) co_await yield_now();
    state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(on_executor<yield_among>)->Name("yields")->Range(8, 32768);

task<> spawn_and_join(benchmark::State& state) {
    for (auto _ : state) {
        auto handle = spawn(child(1));
        benchmark::DoNotOptimize(co_await std::move(handle));
    }
}
BENCHMARK(on_executor<spawn_and_join>)->Name("spawn_and_join");

// In the list of live jobs, and out of it, among many.
task<> spawn_and_cancel(benchmark::State& state) {
    std::vector<join_handle<>> others;
    for (std::int64_t i = 0; i < state.range(0); ++i) others.push_back(spawn(yield_for_ever()));
    for (auto _ : state) {
        { const auto dropped = spawn(child(1)); }
        co_await yield_now();
    }
}
BENCHMARK(on_executor<spawn_and_cancel>)->Name("spawn_and_cancel")->Arg(0)->Arg(8);

// No one waits.
task<> channel_items(benchmark::State& state) {
    channel<int> items(1);
    for (auto _ : state) {
        items.try_send(1);
        benchmark::DoNotOptimize(items.try_recv());
    }
    co_return;
}
BENCHMARK(on_executor<channel_items>)->Name("channel_try_send_try_recv");

// Each item is put into the frame of a receiver that waits.
task<> drain(channel<int>& items) {
    for (;;) {
        auto item = co_await items.recv();
        if (!item) break;
    }
}
task<> channel_handover(benchmark::State& state) {
    channel<int> items(0);
    auto receiver = spawn(drain(items));
    for (auto _ : state) co_await items.send(1);
    items.close();
    co_await std::move(receiver);
}
BENCHMARK(on_executor<channel_handover>)->Name("channel_handover");

task<> two_of_all(benchmark::State& state) {
    for (auto _ : state) co_await when_all(child(1), child(2));
}
BENCHMARK(on_executor<two_of_all>)->Name("when_all_2");

task<> first_of_two(benchmark::State& state) {
    for (auto _ : state) co_await when_any(child(1), yield_for_ever());
}
BENCHMARK(on_executor<first_of_two>)->Name("when_any_2");

// A deadline into the heap and out of it again, among many later and earlier ones.
task<> sleep_long(std::int64_t i) { co_await sleep_for(1h + i * 1s); }
task<> timer_add_remove(benchmark::State& state) {
    std::vector<join_handle<>> others;
    for (std::int64_t i = 0; i < state.range(0); ++i) others.push_back(spawn(sleep_long(i)));
    co_await yield_now();
    for (auto _ : state) co_await timeout(90min, child(1));
}
BENCHMARK(on_executor<timer_add_remove>)->Name("timeout_among_timers")->Range(1, 65536);

// On a clock that jumps: into the heap, the first out, the job runs.
task<> timer_expires(benchmark::State& state) {
    for (auto _ : state) co_await sleep_for(1ms);
}
void timer_on_virtual_clock(benchmark::State& state) {
    const virtual_time clock;
    block_on(timer_expires(state));
}
BENCHMARK(timer_on_virtual_clock);

task<> nop(benchmark::State& state) {
    for (auto _ : state) co_await io::nop();
}
BENCHMARK(on_executor<nop>)->Name("nop");

}  // namespace

BENCHMARK_MAIN();
