// no_heap: tasks without a heap. It counts every allocation from main to exit and finds none.
//
//   usage: no_heap
//   output:
//     1000 tasks (their sum: 332833500), a sleep and a file, in 32768 bytes
//     calls of malloc and operator new from main to exit: 0
//     the same after one more operator new: 1
//
// What it shows: frame_pool::use says where this thread's coroutine frames and jobs come from: here
// a static array. The memory of what has ended is used again, so the array has to hold what lives
// at a time, not all that ever ran. Behind the array there is nothing: were it used up, calling a
// coroutine would throw std::bad_alloc. What allocates by itself (iostreams, printf, exceptions) is
// not used, and the buffer lies outside of the frames: one with it would not fit into the array.
//
// The last line is the counter's own test. Under a sanitizer, which brings a malloc of its own,
// there is nothing to count: exit status 77.

#include <ringlet/timer.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory_resource>
#include <new>

#if defined(__has_feature)
#define BUILT_WITH(sanitizer) __has_feature(sanitizer)
#else
#define BUILT_WITH(sanitizer) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || BUILT_WITH(address_sanitizer)
#define COUNTING 0
#else
#define COUNTING !(BUILT_WITH(thread_sanitizer) || BUILT_WITH(memory_sanitizer))
#endif

static unsigned calls = 0;

#if COUNTING
// Whoever allocates in this process comes by here, libraries included; libstdc++'s operator new
// calls malloc. glibc does the work, under the other names that it has for these functions, and so
// its free remains the right one.
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

void* malloc(std::size_t n) noexcept { return ++calls, __libc_malloc(n); }
void* calloc(std::size_t count, std::size_t n) noexcept { return ++calls, __libc_calloc(count, n); }
void* realloc(void* p, std::size_t n) noexcept { return ++calls, __libc_realloc(p, n); }
void* memalign(std::size_t align, std::size_t n) noexcept {
    return ++calls, __libc_memalign(align, n);
}
void* aligned_alloc(std::size_t align, std::size_t n) noexcept { return memalign(align, n); }
int posix_memalign(void** p, std::size_t align, std::size_t n) noexcept {
    *p = memalign(align, n);
    return *p ? 0 : 12;  // ENOMEM
}
}
#endif

namespace {

using namespace ringlet;

// printf would allocate its buffer.
void print(const char* before, unsigned long number, const char* after) {
    std::array<char, 200> line;
    const std::size_t size = std::strlen(before);
    std::memcpy(line.data(), before, size);
    char* end = std::to_chars(line.data() + size, line.data() + 160, number).ptr;
    std::memcpy(end, after, std::strlen(after));
    end += std::strlen(after);
    if (write(STDOUT_FILENO, line.data(), static_cast<std::size_t>(end - line.data())) < 0)
        _exit(1);
}

// Destroyed last of all: it was constructed first, and thread_local objects go before static ones.
struct report_at_exit {
    ~report_at_exit() {
        const unsigned found = calls;
        ::operator delete(::operator new(100));
        print("calls of malloc and operator new from main to exit: ", found, "\n");
        print("the same after one more operator new: ", calls, "\n");
        if (found != 0 || calls != 1) _exit(1);
    }
} report;

alignas(16) std::array<std::byte, 32768> memory;
std::pmr::monotonic_buffer_resource arena(
    memory.data(), memory.size(), std::pmr::null_memory_resource());
std::array<std::byte, 65536> buffer;

task<unsigned long> square(unsigned long n) {
    co_await yield_now();
    co_return (n * n);
}

// Ten at a time.
task<unsigned long> thousand_squares() {
    unsigned long sum = 0;
    for (unsigned long n = 0; n < 1000; n += 10) {
        std::array<join_handle<unsigned long>, 10> handles;
        for (std::size_t i = 0; i < handles.size(); ++i) handles[i] = spawn(square(n + i));
        for (auto& handle : handles) sum += co_await std::move(handle);
    }
    co_return sum;
}

task<> read_file(const char* path) {
    unique_fd file = co_await io::open(path, O_RDONLY | O_CLOEXEC);
    for (;;) {
        const std::size_t got = co_await io::read(file, buffer);
        if (got == 0) break;
    }
}

task<unsigned long> root() {
    co_await sleep_for(std::chrono::milliseconds(1));
    co_await read_file("/proc/self/exe");
    co_return co_await thousand_squares();
}

}  // namespace

int main() {
    if (!COUNTING) {
        print("no_heap: a sanitizer owns malloc, nothing to count: exit status ", 77, "\n");
        _exit(77);
    }
    calls = 0;  // what the libraries did before main is theirs
    frame_pool::use(&arena);
    const unsigned long sum = block_on(root());
    print("1000 tasks (their sum: ", sum, "), a sleep and a file, in 32768 bytes\n");
}
