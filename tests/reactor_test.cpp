// reactor.hpp: every operation, its errors, its cancelling at every moment, and the ring itself: full, small, forked, refused,
// and on the kernels of the past.
#include <doctest/doctest.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cctype>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <random>
#include <ringlet/reactor.hpp>
#include <source_location>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

using ringlet::block_on;
using ringlet::executor;
using ringlet::join_handle;
using ringlet::reactor;
using ringlet::runnable;
using ringlet::spawn;
using ringlet::task;
using ringlet::unique_fd;
using ringlet::yield_now;
namespace io = ringlet::io;

// ---- what the types promise --------------------------------------------------------------------

template <class T>
constexpr bool move_only =
    std::is_nothrow_move_constructible_v<
        T> && !std::is_copy_constructible_v<T> && !std::is_copy_assignable_v<T>;

static_assert(move_only<unique_fd> && std::is_nothrow_move_assignable_v<unique_fd>);
static_assert(std::is_default_constructible_v<unique_fd>);
static_assert(!std::is_convertible_v<int, unique_fd>, "a number does not silently become an owner");
static_assert(
    std::is_convertible_v<unique_fd&, int> && std::is_convertible_v<const unique_fd&, int>);
static_assert(!std::is_convertible_v<unique_fd, int>, "a temporary would be closed before its use");
static_assert(!std::is_move_constructible_v<reactor> && !std::is_copy_constructible_v<reactor>);

// Until it is awaited, an operation may be moved: into block_on, spawn, timeout.
static_assert(std::is_move_constructible_v<decltype(io::nop())>);
static_assert(std::is_move_constructible_v<decltype(io::read(0, {}))>);
static_assert(std::is_move_constructible_v<decltype(io::open("", 0))>);
static_assert(std::is_move_constructible_v<decltype(io::accept(0))>);
static_assert(std::is_move_constructible_v<decltype(io::close(unique_fd()))>);

template <class A> using value_of = decltype(block_on(std::declval<A>()));
static_assert(std::is_void_v<value_of<decltype(io::nop())>>);
static_assert(std::is_void_v<value_of<decltype(io::close(0))>>);
static_assert(std::is_void_v<value_of<decltype(io::connect(0, nullptr, 0))>>);
static_assert(std::is_same_v<value_of<decltype(io::read(0, {}))>, std::size_t>);
static_assert(std::is_same_v<value_of<decltype(io::write(0, {}))>, std::size_t>);
static_assert(std::is_same_v<value_of<decltype(io::recv(0, {}))>, std::size_t>);
static_assert(std::is_same_v<value_of<decltype(io::send(0, {}))>, std::size_t>);
static_assert(std::is_same_v<value_of<decltype(io::open("", 0))>, unique_fd>);
static_assert(std::is_same_v<value_of<decltype(io::socket(0, 0))>, unique_fd>);
static_assert(std::is_same_v<value_of<decltype(io::accept(0))>, unique_fd>);
static_assert(std::is_same_v<value_of<decltype(io::nop().result())>, int>);
static_assert(std::is_same_v<value_of<decltype(io::open("", 0).result())>, int>);

namespace {

// ---- helpers -----------------------------------------------------------------------------------

// In a coroutine or a forked child, where a doctest assertion would be lost: throws.
void must(bool ok, std::source_location where = std::source_location::current()) {
    if (!ok) throw std::runtime_error("line " + std::to_string(where.line()) + " is wrong");
}

bool has(std::string_view text, std::string_view part) {
    auto same = [](char a, char b) { return std::tolower(a) == std::tolower(b); };
    return std::search(text.begin(), text.end(), part.begin(), part.end(), same) != text.end();
}

std::ptrdiff_t open_fds() {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
}
std::ptrdiff_t mapped_rings() {
    std::ifstream maps("/proc/self/maps");
    std::ptrdiff_t n = 0;
    for (std::string line; std::getline(maps, line);) n += has(line, "[io_uring]");
    return n;
}
bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }
bool closes_on_exec(int fd) { return ::fcntl(fd, F_GETFD) == FD_CLOEXEC; }

template <std::size_t N> using bytes = std::array<std::byte, N>;
std::span<const std::byte> raw(std::string_view text) { return std::as_bytes(std::span(text)); }
std::string text_of(std::span<const std::byte> data) {
    return std::string(reinterpret_cast<const char*>(data.data()), data.size());
}

// A pipe: what goes in comes out.
struct tube {
    unique_fd out, in;
    tube() {
        int ends[2];
        must(::pipe2(ends, O_CLOEXEC) == 0);
        out.reset(ends[0]);
        in.reset(ends[1]);
    }
    void put(std::string_view text) const {
        must(::write(in, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
    }
    std::size_t waiting() const {
        int n = 0;
        must(::ioctl(out, FIONREAD, &n) == 0);
        return static_cast<std::size_t>(n);
    }
    void fill() const {
        must(::fcntl(in, F_SETFL, O_NONBLOCK) == 0);
        const bytes<4096> page{};
        while (::write(in, page.data(), page.size()) > 0) {}
        must(::fcntl(in, F_SETFL, 0) == 0);
    }
};

// One that is read at once, or when something has come. Before Linux 6.4 a worker of the kernel reads
// from any other, later.
struct quick_tube : tube {
    quick_tube() { must(::fcntl(out, F_SETFL, O_NONBLOCK) == 0); }
};

struct socket_pair {
    unique_fd a, b;
    socket_pair() {
        int ends[2];
        must(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
        a.reset(ends[0]);
        b.reset(ends[1]);
    }
    void fill() const {
        const bytes<4096> page{};
        while (::send(a, page.data(), page.size(), MSG_DONTWAIT | MSG_NOSIGNAL) > 0) {}
    }
};

// A listening socket on 127.0.0.1. Throws if the port is taken.
struct listener {
    unique_fd fd;
    sockaddr_in address{};
    explicit listener(in_port_t port = 0, int backlog = 128)
        : fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        address.sin_family = AF_INET;
        address.sin_port = port;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof address;
        must(::bind(fd, at(), size) == 0);
        must(::listen(fd, backlog) == 0);
        must(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0);
    }
    const sockaddr* at() const { return reinterpret_cast<const sockaddr*>(&address); }
    // One that waits in the queue, if there is one.
    unique_fd take() const {
        pollfd p{fd, POLLIN, 0};
        return unique_fd(
            ::poll(&p, 1, 0) == 1 ? ::accept4(fd, nullptr, nullptr, SOCK_CLOEXEC) : -1);
    }
    // A connection, as soon as the kernel has queued it.
    unique_fd dial() const {
        unique_fd s(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        must(::connect(s, at(), sizeof address) == 0);
        return s;
    }
};

// Has the other end closed this connection?
bool peer_is_gone(int fd) {
    pollfd p{fd, POLLIN, 0};
    std::byte b;
    return ::poll(&p, 1, 1000) == 1 && ::recv(fd, &b, 1, MSG_DONTWAIT) <= 0;
}

class folder {
public:
    folder() : path_((std::filesystem::temp_directory_path() / "ringlet-XXXXXX").string()) {
        must(::mkdtemp(path_.data()) != nullptr);
    }
    folder(folder&&) = delete;
    ~folder() { std::filesystem::remove_all(path_); }
    std::string file(std::string_view name) const { return path_ + "/" + std::string(name); }

private:
    std::string path_;
};

// Counts the frames that are alive: each has one of these.
struct counted {
    counted() { ++alive; }
    counted(counted&&) = delete;
    ~counted() { --alive; }
    inline static int alive = 0;
};

// A buffer of a frame, in memory that outlives it. When the frame has gone, nobody may write here.
class lease {
public:
    static constexpr std::byte mark{0xa5};
    explicit lease(std::span<std::byte> memory) : memory_(memory) {}
    lease(lease&&) = delete;
    ~lease() { std::ranges::fill(memory_, mark); }
    static bool untouched(std::span<const std::byte> memory) {
        return std::ranges::all_of(memory, [](std::byte b) { return b == mark; });
    }

private:
    std::span<std::byte> memory_;
    counted counted_;
};

task<> turns(int n) {
    for (int i = 0; i < n; ++i) co_await yield_now();
}
// Until it holds, or it never will.
template <class F> task<bool> becomes(F holds) {
    for (int i = 0; i < 1'000'000; ++i) {
        if (holds()) co_return true;
        ::sched_yield();
        co_await yield_now();
    }
    co_return false;
}

task<std::size_t> read_some(int fd) {
    const counted c;
    bytes<16> buffer;
    co_return co_await io::read(fd, buffer);
}
task<std::size_t> recv_some(int fd) {
    const counted c;
    bytes<16> buffer;
    co_return co_await io::recv(fd, buffer);
}
task<unique_fd> accept_one(int fd) {
    const counted c;
    co_return co_await io::accept(fd);
}

// The operation is to throw: this code, and a text that names it.
task<> expect_error(task<> operation, int error, std::string name) {
    bool thrown = false;
    try {
        co_await std::move(operation);
    } catch (const std::system_error& e) {
        thrown = true;
        CHECK(e.code() == std::error_code(error, std::system_category()));
        CHECK_MESSAGE(has(e.what(), name), e.what());
        CHECK_MESSAGE(has(e.what(), std::system_category().message(error)), e.what());
    }
    CHECK_MESSAGE(thrown, name);
}
template <class A> task<> ignore_value(A operation) { co_await std::move(operation); }
template <class A> task<> fails(A operation, int error, const char* name) {
    return expect_error(ignore_value(std::move(operation)), error, name);
}

int exit_code(pid_t child) {  // or -signal
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}
// The rest of a forked child: 0 if f neither throws nor hangs.
[[noreturn]] void as_child(const std::function<void()>& f) {
    ::alarm(20);
    try {
        f();
        ::_exit(0);
    } catch (const std::exception& e) { std::fprintf(stderr, "in a forked child: %s\n", e.what()); }
    ::_exit(1);
}
int in_child(const std::function<void()>& f) {
    const pid_t child = ::fork();
    if (child == 0) as_child(f);
    return exit_code(child);
}

// The rungs of the ladder, as far as this kernel has them.
struct rung {
    const char* name;
    unsigned flags;
};
constexpr unsigned all = IORING_SETUP_SUBMIT_ALL | IORING_SETUP_TASKRUN_FLAG;
constexpr rung ladder[] = {
    {"the best", 0},
    {"deferred", IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | all},
    {"cooperative, one issuer", IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN | all},
    {"cooperative", IORING_SETUP_COOP_TASKRUN | all},
    {"submits all", IORING_SETUP_SUBMIT_ALL},
    {"plain", IORING_SETUP_CLAMP},
};
bool has_flags(unsigned flags) {  // asks the kernel, not the reactor
    io_uring ring;
    io_uring_params p{};
    p.flags = flags;
    const int e = ::io_uring_queue_init_params(8, &ring, &p);
    must(e == 0 || e == -EINVAL);
    if (e == 0) ::io_uring_queue_exit(&ring);
    return e == 0;
}
// Calls f(options) for each.
void on_every_rung(unsigned entries, const std::function<void(reactor::options)>& f) {
    for (const rung& r : ladder) {
        CAPTURE(r.name);
        if (has_flags(r.flags)) f(reactor::options(entries, r.flags));
        else MESSAGE("this kernel has no such ring: " << r.name);
    }
}

// A bit of everything, on a ring with these options. Throws where something is wrong.
task<int> numbered(int i) {
    const counted c;
    auto fill = [i](io_uring_sqe* s) {
        io_uring_prep_nop(s);
        if (i == 50) s->opcode = 255;
    };
    const int r = co_await io::op(fill).result();
    co_return r ? r : i;
}
task<> many_at_once() {
    const int others = counted::alive;
    std::vector<join_handle<int>> many;
    for (int i = 0; i < 100; ++i) many.push_back(spawn(numbered(i)));
    for (int i = 0; i < 100; ++i) {
        const int n = co_await std::move(many[static_cast<std::size_t>(i)]);
        must(i == 50 ? n == -EINVAL : n == i);  // the kernel refuses one in the middle
    }
    const tube t;
    std::vector<join_handle<std::size_t>> readers;
    for (int i = 0; i < 100; ++i) readers.push_back(spawn(read_some(t.out)));
    co_await turns(3);
    must(counted::alive == others + 100);
    readers.clear();
    auto gone = [others] { return counted::alive == others; };
    const bool all_gone = co_await becomes(gone);
    must(all_gone);
}
task<> serve_one(int fd) {
    auto connection = co_await io::accept(fd);
    bytes<4> buffer;
    const std::size_t n = co_await io::recv(connection, buffer);
    co_await io::send(connection, std::span(buffer).first(n));
    co_await io::close(std::move(connection));
}
task<> talk() {
    const listener l;
    auto server = spawn(serve_one(l.fd));
    auto s = co_await io::socket(AF_INET, SOCK_STREAM);
    co_await io::connect(s, l.at(), sizeof l.address);
    co_await io::send(s, raw("ping"));
    bytes<8> buffer;
    const std::size_t n = co_await io::recv(s, buffer);
    must(n == 4 && text_of(std::span(buffer).first(n)) == "ping");
    const std::size_t end = co_await io::recv(s, buffer);
    must(end == 0);
    co_await std::move(server);
}
task<> everything(reactor::options o) {
    const int others = counted::alive;
    reactor::here(o);
    co_await io::nop();
    auto file = co_await io::open("/dev/zero", O_RDONLY);
    bytes<4> zeros{std::byte(1)};
    const std::size_t n = co_await io::read(file, zeros, 0);
    must(n == 4 && zeros == bytes<4>{});
    const int bad = co_await io::read(-1, zeros).result();
    must(bad == -EBADF);
    const tube t;
    auto waits = spawn(read_some(t.out));
    co_await turns(3);
    must(!waits.done());
    const std::size_t written = co_await io::write(t.in, raw("abc"));
    must(written == 3);
    const std::size_t got = co_await std::move(waits);
    must(got == 3);
    auto stopped = spawn(read_some(t.out));
    co_await turns(3);
    const std::optional<std::size_t> nothing = co_await std::move(stopped).cancel();
    must(!nothing && counted::alive == others);
    co_await many_at_once();
    co_await talk();
}

}  // namespace

// ---- descriptors that close themselves ---------------------------------------------------------

TEST_CASE("unique_fd: owns, moves, releases, resets") {
    struct two {
        unique_fd in, out;
    };
    const two empty{};
    const std::array<unique_fd, 2> nor_these{};
    const unique_fd nor_this = {};
    CHECK_FALSE((empty.in || empty.out || nor_these[1] || nor_this));
    const auto before = open_fds();
    {
        unique_fd none;
        CHECK(none.get() == -1);
        CHECK_FALSE(static_cast<bool>(none));
        CHECK_FALSE(static_cast<bool>(unique_fd(-1)));

        unique_fd a(::eventfd(0, 0));
        const int number = a.get();
        CHECK(static_cast<bool>(a));
        CHECK(is_open(number));
        const int implicit = a;
        CHECK(implicit == number);

        unique_fd b(std::move(a));
        CHECK(a.get() == -1);
        CHECK(b.get() == number);
        CHECK(is_open(number));

        unique_fd c(::eventfd(0, 0));
        const int second = c.get();
        c = std::move(b);
        CHECK(c.get() == number);
        b = unique_fd();
        CHECK_FALSE(is_open(second));
        CHECK(is_open(number));

        unique_fd& same = c;
        c = std::move(same);
        CHECK(c.get() == number);
        CHECK(is_open(number));

        CHECK(c.release() == number);
        CHECK(c.get() == -1);
        CHECK(is_open(number));
        c.reset(number);
        c.reset(::eventfd(0, 0));
        CHECK_FALSE(is_open(number));
        const int third = c;
        c.reset();
        CHECK(c.get() == -1);
        CHECK_FALSE(is_open(third));
    }
    CHECK(open_fds() == before);
}

TEST_CASE("unique_fd: zero is a descriptor, and a temporary can be asked") {
    const int saved = ::dup(0);
    {
        const unique_fd zero(0);
        CHECK(static_cast<bool>(zero));
    }
    CHECK_FALSE(is_open(0));
    if (saved >= 0) {
        ::dup2(saved, 0);
        ::close(saved);
    }
    CHECK(static_cast<bool>(unique_fd(::eventfd(0, 0))));
}

// ---- the operations, one by one ----------------------------------------------------------------

TEST_CASE("nop") {
    auto root = []() -> task<> {
        co_await io::nop();
        const int r = co_await io::nop().result();
        CHECK(r == 0);
    };
    block_on(root());
    block_on(io::nop());
    CHECK(block_on(io::nop().result()) == 0);
}

TEST_CASE("read and write: values, offsets, the file's position, the end") {
    const folder dir;
    auto root = [&]() -> task<> {
        auto file = co_await io::open(dir.file("a").c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
        bytes<8> buffer;
        std::size_t n = co_await io::write(file, raw("hello"));
        CHECK(n == 5);
        n = co_await io::write(file, raw(" world"));  // goes on where the last one ended
        CHECK(n == 6);
        CHECK(::lseek(file, 0, SEEK_CUR) == 11);
        n = co_await io::read(file, buffer);
        CHECK(n == 0);  // the end
        n = co_await io::read(file, buffer, 6);
        CHECK(n == 5);
        CHECK(text_of(std::span(buffer).first(n)) == "world");
        n = co_await io::read(file, buffer, 0);
        CHECK(text_of(std::span(buffer).first(n)) == "hello wo");
        n = co_await io::read(file, buffer, 11);
        CHECK(n == 0);
        n = co_await io::read(file, buffer, 4000);
        CHECK(n == 0);
        CHECK(::lseek(file, 0, SEEK_CUR) == 11);  // an offset leaves the position alone
        n = co_await io::write(file, raw("J"), 0);
        CHECK(n == 1);
        CHECK(::lseek(file, 0, SEEK_CUR) == 11);
        ::lseek(file, 0, SEEK_SET);
        std::string all_of_it;
        for (;;) {
            n = co_await io::read(file, buffer);
            if (n == 0) break;
            all_of_it += text_of(std::span(buffer).first(n));
        }
        CHECK(all_of_it == "Jello world");
        n = co_await io::read(file, std::span<std::byte>());
        CHECK(n == 0);
        n = co_await io::write(file, std::span<const std::byte>());
        CHECK(n == 0);
        constexpr std::int64_t far = 5'000'000'000;  // more than 32 bits
        n = co_await io::write(file, raw("far"), far);
        CHECK(n == 3);
        n = co_await io::read(file, buffer, far + 1);
        CHECK(text_of(std::span(buffer).first(n)) == "ar");
        CHECK(std::filesystem::file_size(dir.file("a")) == far + 3);
        int r = co_await io::read(file, buffer, far).result();
        CHECK(r == 3);
        r = co_await io::write(file, raw("1234"), 0).result();
        CHECK(r == 4);
    };
    block_on(root());
}

TEST_CASE("read and write: errors") {
    const tube t;
    auto root = [&]() -> task<> {
        bytes<8> buffer;
        co_await fails(io::read(-1, buffer), EBADF, "read");
        co_await fails(io::read(t.in, buffer), EBADF, "read");
        co_await fails(io::write(-1, raw("x")), EBADF, "write");
        co_await fails(io::write(t.out, raw("x")), EBADF, "write");
        auto slash = co_await io::open("/", O_RDONLY | O_DIRECTORY);
        co_await fails(io::read(slash, buffer), EISDIR, "read");
        int r = co_await io::read(-1, buffer).result();
        CHECK(r == -EBADF);
        r = co_await io::write(-1, raw("x")).result();
        CHECK(r == -EBADF);
        r = co_await io::read(slash, buffer).result();
        CHECK(r == -EISDIR);
    };
    block_on(root());
}

TEST_CASE("a write to a pipe without a reader is EPIPE, where SIGPIPE is ignored") {
    auto* const before = ::signal(SIGPIPE, SIG_IGN);
    tube t;
    t.out.reset();
    auto root = [&]() -> task<> {
        co_await fails(io::write(t.in, raw("x")), EPIPE, "write");
        const int r = co_await io::write(t.in, raw("x")).result();
        CHECK(r == -EPIPE);
    };
    block_on(root());
    ::signal(SIGPIPE, before);
}

TEST_CASE("a read waits for its bytes, also where the descriptor is non-blocking") {
    for (const int flags : {0, O_NONBLOCK}) {
        const tube t;
        ::fcntl(t.out, F_SETFL, flags);
        auto root = [&]() -> task<> {
            auto h = spawn(read_some(t.out));
            co_await turns(5);
            CHECK_FALSE(h.done());
            t.put("four");
            const std::size_t n = co_await std::move(h);
            CHECK(n == 4);
        };
        block_on(root());
    }
}

TEST_CASE("the end of a pipe is a read of nothing") {
    tube t;
    auto root = [&]() -> task<> {
        auto h = spawn(read_some(t.out));
        co_await turns(3);
        t.in.reset();
        const std::size_t n = co_await std::move(h);
        CHECK(n == 0);
    };
    block_on(root());
}

TEST_CASE("open: a descriptor that closes on exec and with its owner") {
    const folder dir;
    const auto before = open_fds();
    auto root = [&]() -> task<> {
        const auto with_ring = open_fds() + 1;
        {
            auto a = co_await io::open(dir.file("new").c_str(), O_WRONLY | O_CREAT | O_EXCL, 0640);
            CHECK(closes_on_exec(a));
            struct stat s;
            CHECK(::fstat(a, &s) == 0);
            CHECK((s.st_mode & 0700) == 0600);
            CHECK(open_fds() == with_ring + 1);
        }
        CHECK(open_fds() == with_ring);
        co_await fails(
            io::open(dir.file("new").c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600), EEXIST, "open");
        co_await fails(io::open(dir.file("none").c_str(), O_RDONLY), ENOENT, "open");
        co_await fails(io::open("", O_RDONLY), ENOENT, "open");
        co_await fails(io::open((dir.file("new") + "/x").c_str(), O_RDONLY), ENOTDIR, "open");
        co_await fails(io::open(std::string(5000, 'x').c_str(), O_RDONLY), ENAMETOOLONG, "open");
        int r = co_await io::open(dir.file("none").c_str(), O_RDONLY).result();
        CHECK(r == -ENOENT);
        r = co_await io::open(dir.file("new").c_str(), O_RDONLY)
                .result();  // a plain number: ours to close
        CHECK(closes_on_exec(r));
        CHECK(::close(r) == 0);
        CHECK(open_fds() == with_ring);
    };
    block_on(root());
    CHECK(open_fds() == before);
}

TEST_CASE("open copies the path, however long, and connect the address") {
    const folder dir;
    auto root = [&]() -> task<> {
        for (const std::size_t size : {1u, 15u, 16u, 100u, 250u}) {
            std::string path = dir.file(std::string(size, 'n'));
            std::ignore = unique_fd(::open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
            auto opening = io::open(path.c_str(), O_RDONLY);
            std::ranges::fill(path, '?');
            path = std::string();
            auto moved = std::move(opening);
            auto file = co_await std::move(moved);
            CHECK(static_cast<bool>(file));
        }
        const listener l;
        unique_fd s(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        auto address = std::make_unique<sockaddr_in>(l.address);
        auto connecting = io::connect(
            s, reinterpret_cast<const sockaddr*>(address.get()), sizeof *address);
        *address = sockaddr_in{};
        address.reset();
        co_await std::move(connecting);
        const unique_fd peer = l.take();
        CHECK(static_cast<bool>(peer));
    };
    block_on(root());
}

TEST_CASE("close: a number, an owner, an error") {
    auto root = []() -> task<> {
        const int a = ::eventfd(0, EFD_CLOEXEC);
        co_await io::close(a);
        CHECK_FALSE(is_open(a));
        unique_fd b(::eventfd(0, EFD_CLOEXEC));
        const int number = b;
        co_await io::close(std::move(b));
        CHECK(b.get() == -1);
        CHECK_FALSE(is_open(number));
        co_await fails(io::close(-1), EBADF, "close");
        co_await fails(io::close(unique_fd()), EBADF, "close");
        int r = co_await io::close(number).result();
        CHECK(r == -EBADF);
        r = co_await io::close(unique_fd(::eventfd(0, EFD_CLOEXEC))).result();
        CHECK(r == 0);
        {
            auto never_awaited = io::close(unique_fd(::eventfd(0, EFD_CLOEXEC)));
            CHECK(is_open(number));
        }
        CHECK_FALSE(is_open(number));
        // It is closed once: by the time it is over the number may be another's.
        auto closes = spawn(io::close(unique_fd(::eventfd(0, EFD_CLOEXEC))));
        auto opens = spawn(io::open("/dev/null", O_RDONLY));
        co_await std::move(closes);
        const unique_fd other = co_await std::move(opens);
        CHECK(other.get() == number);
        CHECK(is_open(number));
    };
    const auto before = open_fds();
    block_on(root());
    CHECK(open_fds() == before);
}

TEST_CASE("socket, connect, accept, send, recv") {
    const auto before = open_fds();
    auto root = []() -> task<> {
        const listener l;
        auto accepting = spawn(accept_one(l.fd));
        auto client = co_await io::socket(AF_INET, SOCK_STREAM);
        CHECK(closes_on_exec(client));
        co_await io::connect(client, l.at(), sizeof l.address);
        auto server = co_await std::move(accepting);
        CHECK(closes_on_exec(server));

        bytes<16> buffer;
        std::size_t n = co_await io::send(client, raw("question"));
        CHECK(n == 8);
        n = co_await io::recv(server, buffer, MSG_PEEK);
        CHECK(n == 8);
        n = co_await io::recv(server, std::span(buffer).first(5));
        CHECK(text_of(std::span(buffer).first(n)) == "quest");
        n = co_await io::recv(server, buffer);
        CHECK(text_of(std::span(buffer).first(n)) == "ion");
        int r = co_await io::recv(server, buffer, MSG_DONTWAIT).result();
        CHECK(r == -EAGAIN);
        r = co_await io::send(server, raw("answer")).result();
        CHECK(r == 6);
        r = co_await io::recv(client, buffer).result();
        CHECK(r == 6);
        CHECK(text_of(std::span(buffer).first(6)) == "answer");
        server.reset();
        n = co_await io::recv(client, buffer);
        CHECK(n == 0);
        r = co_await io::recv(client, buffer).result();
        CHECK(r == 0);
    };
    block_on(root());
    CHECK(open_fds() == before);
}

TEST_CASE("accept tells the peer's address, and takes flags") {
    auto root = []() -> task<> {
        const listener l;
        auto client = l.dial();
        sockaddr_in here{}, peer{};
        socklen_t size = sizeof here;
        CHECK(::getsockname(client, reinterpret_cast<sockaddr*>(&here), &size) == 0);
        size = sizeof peer;
        auto a = co_await io::accept(l.fd, reinterpret_cast<sockaddr*>(&peer), &size);
        CHECK(size == sizeof peer);
        CHECK(peer.sin_port == here.sin_port);
        CHECK(peer.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
        CHECK(closes_on_exec(a));
        auto second = l.dial();
        auto b = co_await io::accept(l.fd, nullptr, nullptr, SOCK_NONBLOCK);
        CHECK(closes_on_exec(b));
        CHECK((::fcntl(b, F_GETFL) & O_NONBLOCK) != 0);
        auto third = l.dial();
        const int r = co_await io::accept(l.fd).result();
        CHECK(is_open(r));
        ::close(r);
    };
    block_on(root());
}

TEST_CASE("sockets: errors") {
    auto root = []() -> task<> {
        bytes<8> buffer;
        co_await fails(io::socket(9999, SOCK_STREAM), EAFNOSUPPORT, "socket");
        int r = co_await io::socket(9999, SOCK_STREAM).result();
        CHECK(r == -EAFNOSUPPORT);

        auto nobody = std::make_unique<listener>();
        const sockaddr_in address = nobody->address;
        const auto* const at = reinterpret_cast<const sockaddr*>(&address);
        nobody.reset();
        unique_fd s(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        co_await fails(io::connect(s, at, sizeof address), ECONNREFUSED, "connect");
        s.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        r = co_await io::connect(s, at, sizeof address).result();
        CHECK(r == -ECONNREFUSED);
        co_await fails(io::connect(s, at, 3), EINVAL, "connect");
        const bytes<1000> longer{};  // than any address
        const auto* const too_long = reinterpret_cast<const sockaddr*>(&longer);
        co_await fails(io::connect(s, too_long, sizeof longer), EINVAL, "connect");

        co_await fails(io::accept(-1), EBADF, "accept");
        unique_fd idle(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        co_await fails(io::accept(idle), EINVAL, "accept");
        r = co_await io::accept(idle).result();
        CHECK(r == -EINVAL);

        co_await fails(io::recv(idle, buffer), ENOTCONN, "recv");
        const tube t;
        co_await fails(io::recv(t.out, buffer), ENOTSOCK, "recv");
        r = co_await io::recv(t.out, buffer).result();
        CHECK(r == -ENOTSOCK);
        co_await fails(io::send(t.in, raw("x")), ENOTSOCK, "send");

        socket_pair p;
        p.b.reset();
        co_await fails(
            io::send(p.a, raw("x")), EPIPE, "send");  // and no SIGPIPE, which would end us
        r = co_await io::send(p.a, raw("x")).result();
        CHECK(r == -EPIPE);
    };
    block_on(root());
}

TEST_CASE("io::op: any other operation of the kernel") {
    const folder dir;
    auto root = [&]() -> task<> {
        const tube t;
        t.put("x");
        int r = co_await io::op([&](io_uring_sqe* s) { io_uring_prep_poll_add(s, t.out, POLLIN); });
        CHECK(r == POLLIN);
        const std::string path = dir.file("sub");
        r = co_await io::op(
            [&](io_uring_sqe* s) { io_uring_prep_mkdirat(s, AT_FDCWD, path.c_str(), 0700); });
        CHECK(r == 0);
        CHECK(std::filesystem::is_directory(path));
        auto again = [&](io_uring_sqe* s) {
            io_uring_prep_mkdirat(s, AT_FDCWD, path.c_str(), 0700);
        };
        co_await fails(io::op(again), EEXIST, "io::op");
        co_await fails(io::op(again, "make a folder"), EEXIST, "make a folder");
        r = co_await io::op(again).result();
        CHECK(r == -EEXIST);
        auto unknown = [](io_uring_sqe* s) { s->opcode = 255; };
        co_await fails(io::op(unknown), EINVAL, "io::op");
        r = co_await io::op([](io_uring_sqe*) {});  // what is not filled in is zero: a nop
        CHECK(r == 0);
        // What an earlier request left in the entry is gone: 300 of them go once round the ring.
        for (int i = 0; i < 300; ++i) {
            r = co_await io::op([](io_uring_sqe* s) { s->flags = IOSQE_ASYNC; });
            CHECK(r == 0);
        }
    };
    block_on(root());
}

TEST_CASE("io::op: of two completions the first has the number, the second ends the wait") {
    auto root = []() -> task<> {
        const listener l;
        auto client = l.dial();
        auto server = l.take();
        bytes<100> data{};
        auto fill = [&](io_uring_sqe* s) {
            io_uring_prep_send_zc(s, client, data.data(), data.size(), 0, 0);
        };
        const int r = co_await io::op(fill).result();
        if (r == -EINVAL || r == -EOPNOTSUPP) co_return;  // a kernel before 6.0
        CHECK(r == 100);
        bytes<200> buffer;
        const std::size_t n = co_await io::recv(server, buffer);
        CHECK(n == 100);
    };
    block_on(root());
}

TEST_CASE("io::op: an exception of the function that fills in the request comes out of the await") {
    auto root = []() -> task<> {
        bool thrown = false;
        auto bad = [](io_uring_sqe*) { throw std::runtime_error("no"); };
        try {
            co_await io::op(bad);
        } catch (const std::runtime_error&) { thrown = true; }
        CHECK(thrown);
        co_await everything(reactor::options());
    };
    block_on(root());
}

TEST_CASE("operations as roots and as jobs") {
    CHECK(block_on(io::op([](io_uring_sqe* s) { io_uring_prep_nop(s); })) == 0);
    CHECK(static_cast<bool>(block_on(io::open("/", O_RDONLY))));
    block_on(io::close(unique_fd(::eventfd(0, 0))));
    const tube t;
    auto root = [&]() -> task<> {
        auto opened = spawn(io::open("/", O_RDONLY));
        bytes<4> buffer;
        auto read = spawn(io::read(t.out, buffer));
        auto closed = spawn(io::close(unique_fd(::eventfd(0, 0))));
        auto fd = co_await std::move(opened);
        CHECK(static_cast<bool>(fd));
        co_await std::move(closed);
        t.put("ab");
        const std::size_t n = co_await std::move(read);
        CHECK(n == 2);
    };
    block_on(root());
}

TEST_CASE("without an executor there is no reactor") {
    CHECK_THROWS_AS(reactor::here(), std::logic_error);
    auto root = []() -> task<> {
        CHECK(&reactor::here() == &reactor::here());
        co_return;
    };
    block_on(root());
}

TEST_CASE("the dump names the operation that a task waits for") {
    const tube t;
    executor ex;
    const auto h = ex.spawn(read_some(t.out));
    while (ex.try_tick()) {}
    std::string text;
    ex.dump(text);
    CHECK_MESSAGE(has(text, "read"), text);
    CHECK_MESSAGE(has(text, "reactor_test.cpp"), text);
}

// ---- many at once ------------------------------------------------------------------------------

TEST_CASE("a hundred pairs of tasks talk through the kernel at once") {
    auto ping = [](int fd, int rounds) -> task<int> {
        int sum = 0;
        for (int i = 0; i < rounds; ++i) {
            bytes<4> buffer;
            std::memcpy(buffer.data(), &i, 4);
            co_await io::send(fd, buffer);
            const std::size_t n = co_await io::recv(fd, buffer);
            must(n == 4);
            int answer = 0;
            std::memcpy(&answer, buffer.data(), 4);
            sum += answer;
        }
        co_return sum;
    };
    auto pong = [](int fd) -> task<> {
        for (;;) {
            bytes<4> buffer;
            const std::size_t n = co_await io::recv(fd, buffer);
            if (n == 0) break;
            co_await io::send(fd, buffer);
        }
    };
    auto root = [&]() -> task<> {
        std::vector<socket_pair> pairs(100);
        std::vector<join_handle<int>> pings;
        std::vector<join_handle<>> pongs;
        for (socket_pair& p : pairs) {
            pings.push_back(spawn(ping(p.a, 20)));
            pongs.push_back(spawn(pong(p.b)));
        }
        for (auto& h : pings) {
            const int sum = co_await std::move(h);
            CHECK(sum == 190);
        }
        for (socket_pair& p : pairs) ::shutdown(p.a, SHUT_RDWR);
        for (auto& h : pongs) co_await std::move(h);
    };
    block_on(root());
}

TEST_CASE("a thousand operations in flight on a ring of eight: each gets its own result") {
    on_every_rung(8, [](reactor::options o) {
        auto one_byte = [](int fd, std::vector<int>& seen) -> task<> {
            std::byte b{};
            const std::size_t n = co_await io::read(fd, std::span(&b, 1));
            must(n == 1);
            ++seen[std::to_integer<std::size_t>(b)];
        };
        auto root = [&](reactor::options options) -> task<> {
            reactor::here(options);
            const tube t;
            std::vector<int> seen(250);
            std::vector<join_handle<>> readers;
            for (int i = 0; i < 1000; ++i) readers.push_back(spawn(one_byte(t.out, seen)));
            co_await turns(3);
            for (const auto& h : readers) CHECK_FALSE(h.done());
            std::string text;
            for (int i = 0; i < 1000; ++i) text += static_cast<char>(i % 250);
            t.put(text);
            for (auto& h : readers) co_await std::move(h);
            CHECK(std::ranges::all_of(seen, [](int n) { return n == 4; }));
        };
        block_on(root(o));
    });
}

TEST_CASE("more completions than the ring holds: none is lost") {
    on_every_rung(8, [](reactor::options o) {
        auto one = [](int& ended) -> task<> {
            co_await io::nop();
            ++ended;
        };
        auto root = [&](reactor::options options) -> task<> {
            reactor::here(options);
            const tube t;
            int ended = 0;
            std::vector<join_handle<>> tasks;
            for (int i = 0; i < 600; ++i) tasks.push_back(spawn(one(ended)));
            for (auto& h : tasks) co_await std::move(h);
            CHECK(ended == 600);

            // 600 that complete at one blow, in the kernel's own time: an overflow of the kernel's making
            std::vector<join_handle<std::size_t>> readers;
            for (int i = 0; i < 600; ++i) readers.push_back(spawn(read_some(t.out)));
            co_await turns(3);
            tube& changed = const_cast<tube&>(t);
            changed.in.reset();
            std::size_t sum = 0;
            for (auto& h : readers) sum += co_await std::move(h);
            CHECK(sum == 0);
        };
        block_on(root(o));
    });
}

TEST_CASE("rings of any size") {
    for (const unsigned entries : {1u, 2u, 3u, 5u, 8u, 64u, 1000u, 1u << 20, 1u << 30}) {
        CAPTURE(entries);
        block_on(everything(reactor::options(entries)));
    }
}

TEST_CASE("every rung of the ladder works") {
    on_every_rung(64, [](reactor::options o) { block_on(everything(o)); });
    on_every_rung(2, [](reactor::options o) { block_on(everything(o)); });
}

TEST_CASE("flags that leave it to the program to ask for work that is deferred: it is asked for") {
    for (const unsigned flags : {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
             IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN,
             static_cast<unsigned>(IORING_SETUP_COOP_TASKRUN)}) {
        if (!has_flags(flags)) continue;
        const quick_tube t;
        bool read = false;
        auto reads = [&]() -> task<> {
            std::array<std::byte, 1> buffer;
            co_await io::read(t.out, buffer);
            read = true;
        };
        auto root = [&]() -> task<> {  // always runnable: nobody sleeps
            reactor::here(reactor::options(8, flags));
            join_handle<> h = spawn(reads());
            for (int i = 0; i < 100; ++i) co_await yield_now();
            CHECK_FALSE(read);
            const ssize_t n = ::write(t.in, "x", 1);
            CHECK(n == 1);
            for (int i = 0; i < 100 && !read; ++i) co_await yield_now();
            CHECK(read);
            co_await std::move(h);
        };
        block_on(root());
    }
}

TEST_CASE("flags that no kernel has, or no entries, are an error that says so") {
    for (const reactor::options o : {reactor::options(64, 1u << 31), reactor::options(0)}) {
        try {
            block_on(everything(o));
            FAIL("no exception");
        } catch (const std::system_error& e) {
            CHECK(e.code() == std::errc::invalid_argument);
            CHECK_MESSAGE(has(e.what(), "io_uring_setup: no entries, or flags"), e.what());
        }
    }
}

TEST_CASE("flags of rings that this reactor does not speak to are an error that says so") {
    constexpr unsigned no_sqarray = 1u << 16, no_mmap = 1u << 14;
    for (const unsigned flag : {IORING_SETUP_SQPOLL, IORING_SETUP_SQE128, IORING_SETUP_CQE32,
             IORING_SETUP_IOPOLL, IORING_SETUP_R_DISABLED, no_sqarray, no_mmap}) {
        try {
            block_on(everything(reactor::options(64, flag)));
            FAIL("no exception");
        } catch (const std::system_error& e) {
            CHECK(e.code() == std::errc::invalid_argument);
            CHECK_MESSAGE(
                has(e.what(), "flags that this kernel or this reactor has no use for"), e.what());
        }
    }
}

TEST_CASE("the ring lasts as long as the executor: what one run has begun, the next one ends") {
    const tube t;
    executor ex;
    auto begin = [&]() -> task<> { co_await io::nop(); };
    auto h = ex.spawn(read_some(t.out));
    ex.run(begin());
    CHECK_FALSE(h.done());
    t.put("abc");
    auto end = [&]() -> task<std::size_t> { co_return co_await std::move(h); };
    CHECK(ex.run(end()) == 3);
}

TEST_CASE("a loop of the program's own drives it with try_tick") {
    const tube t;
    executor ex;
    auto h = ex.spawn(read_some(t.out));
    CHECK(ex.try_tick());
    for (int i = 0; i < 10; ++i) CHECK_FALSE(ex.try_tick());
    t.put("x");
    int ticks = 0;
    while (!h.done() && ++ticks < 1'000'000) ex.try_tick();
    CHECK(h.done());
    CHECK_FALSE(ex.try_tick());
}

TEST_CASE("a loop of the program's own that sleeps on the ring is woken by what comes") {
    for (const unsigned flags :
        {unsigned{IORING_SETUP_COOP_TASKRUN}, unsigned{IORING_SETUP_CLAMP}}) {
        const quick_tube t;
        const unique_fd event(::eventfd(0, EFD_CLOEXEC)), sleeper(::epoll_create1(EPOLL_CLOEXEC));
        executor ex;
        ex.io = std::make_unique<reactor>(reactor::options(64, flags));
        const int ring = static_cast<reactor&>(*ex.io).descriptor();
        const auto drain = [&] {
            int runs = 0;
            while (ex.try_tick()) ++runs;
            return runs;
        };
        const auto told = [&] {  // epoll knows only what it was told of
            epoll_event e{};
            return ::epoll_wait(sleeper, &e, 1, 0);
        };
        auto reads = [&]() -> task<> {
            bytes<8> number;
            for (int i = 0; i < 3; ++i) {
                co_await read_some(t.out);
                co_await io::read(event, number);  // which unblock waits for, say
            }
        };
        auto h = ex.spawn(reads());
        CHECK(drain() == 1);
        epoll_event wanted{};
        wanted.events = EPOLLIN;
        CHECK(::epoll_ctl(sleeper, EPOLL_CTL_ADD, ring, &wanted) == 0);
        for (int i = 0; i < 6; ++i) {
            CHECK(told() == 0);
            i % 2 ? void(::eventfd_write(event, 1)) : t.put("x");
            CHECK(told() == 1);
            CHECK(drain() == 1);
        }
        CHECK(told() == 0);
        CHECK(h.done());
    }
}

TEST_CASE("a ring that would let a loop of the program's own sleep too long says so") {
    constexpr unsigned defers = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
    const reactor ring(reactor::options(8, defers));
    CHECK_THROWS_AS(ring.descriptor(), std::logic_error);
    const reactor other(reactor::options(8, IORING_SETUP_COOP_TASKRUN));
    CHECK(is_open(other.descriptor()));
}

TEST_CASE("each thread has its own") {
    std::string error;
    auto work = [&error] {
        try {
            for (int i = 0; i < 20; ++i) block_on(talk());
        } catch (const std::exception& e) { error = e.what(); }
    };
    std::thread other(work);
    auto root = []() -> task<> {
        for (int i = 0; i < 20; ++i) co_await talk();
    };
    block_on(root());
    other.join();
    CHECK(error == "");
}

// ---- cancelling --------------------------------------------------------------------------------

namespace {

enum class stop { drop, cancel, end };
constexpr stop ways[] = {stop::drop, stop::cancel, stop::end};
constexpr int moments[] = {0, 1, 2, 5};  // not begun; written; with the kernel; for a while

// What cancel() finds when it is over: the frames are gone.
template <class T> task<bool> cancelled(join_handle<T>& h, int alive_then) {
    const auto v = co_await std::move(h).cancel();
    CHECK(counted::alive == alive_then);
    co_return !v;
}

// Starts make(), lets the executor tick, and stops it: it never comes to its end.
void stopped_while_waiting(const std::function<task<>(bool&)>& make) {
    const auto fds = open_fds();
    for (const stop how : ways)
        for (const int ticks : moments) {
            CAPTURE(static_cast<int>(how));
            CAPTURE(ticks);
            bool resumed = false;
            join_handle<> h;
            {
                executor ex;
                h = ex.spawn(make(resumed));
                for (int i = 0; i < ticks; ++i) ex.try_tick();
                CHECK(counted::alive == (ticks > 0));
                if (how == stop::drop) h = {};
                if (how == stop::cancel) CHECK(ex.run(cancelled(h, 0)));
                if (how == stop::drop && ticks == 5)
                    for (int i = 0; !ex.empty() && i < 1'000'000; ++i)
                        if (!ex.try_tick()) ::sched_yield();
            }
            CHECK(counted::alive == 0);
            CHECK_FALSE(resumed);
            CHECK(open_fds() == fds);
        }
}

// Runs make() for `steps` runs, and a look more if asked, then stops it. True: it had ended by then.
bool stopped_at(const std::function<task<>()>& make, stop how, int steps, bool look) {
    join_handle<> h;
    executor ex;
    h = ex.spawn(make());
    for (int spins = 0; steps > 0 && !h.done() && spins < 10'000'000; ++spins) {
        if (ex.try_tick()) --steps;
        else ::sched_yield();
    }
    if (look) ex.try_tick();
    const bool ended = h.done();
    if (ended) {
        auto join = [&]() -> task<> { co_await std::move(h); };
        ex.run(join());  // throws what it has thrown
    } else if (how == stop::drop) {
        h = {};
    } else if (how == stop::cancel) {
        auto give_up = [&]() -> task<> { std::ignore = co_await std::move(h).cancel(); };
        ex.run(give_up());
    }
    return ended;
}
// Stops it at each of its suspensions, in every way.
void sweep(const std::function<task<>()>& make) {
    const auto fds = open_fds();
    for (const stop how : ways)
        for (const bool look : {false, true}) {
            int steps = 0;
            for (bool ended = false; !ended; ++steps) {
                CAPTURE(static_cast<int>(how));
                CAPTURE(look);
                CAPTURE(steps);
                REQUIRE(steps < 200);
                ended = stopped_at(make, how, steps, look);
                REQUIRE(counted::alive == 0);
                REQUIRE(open_fds() == fds);
            }
            CHECK(steps > 5);
        }
}

}  // namespace

TEST_CASE("stopped at each suspension: files") {
    const folder dir;
    auto scenario = [](std::string path) -> task<> {
        const counted c;
        co_await io::nop();
        auto file = co_await io::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
        std::size_t n = co_await io::write(file, raw("hello"));
        must(n == 5);
        bytes<8> buffer;
        n = co_await io::read(file, buffer, 0);
        must(n == 5);
        auto again = co_await io::open(path.c_str(), O_RDONLY);
        const int r = co_await io::op([](io_uring_sqe* s) { io_uring_prep_nop(s); });
        must(r == 0);
        co_await io::close(std::move(again));
        co_await io::close(std::move(file));
    };
    sweep([&] { return scenario(dir.file("a")); });
}

TEST_CASE("stopped at each suspension: sockets") {
    auto server = [](int fd) -> task<> {
        const counted c;
        auto connection = co_await io::accept(fd);
        bytes<8> buffer;
        const std::size_t n = co_await io::recv(connection, buffer);
        co_await io::send(connection, std::span(buffer).first(n));
        co_await io::close(std::move(connection));
    };
    auto scenario = [&](const listener& l) -> task<> {
        const counted c;
        auto h = spawn(server(l.fd));
        auto s = co_await io::socket(AF_INET, SOCK_STREAM);
        co_await io::connect(s, l.at(), sizeof l.address);
        co_await io::send(s, raw("ping"));
        bytes<8> buffer;
        std::size_t n = co_await io::recv(s, buffer);
        must(n == 4);
        n = co_await io::recv(s, buffer);
        must(n == 0);
        co_await std::move(h);
    };
    // Both make their own listener, so that a connection that is left over meets nobody.
    auto with_listener = [&]() -> task<> {
        const listener l;
        co_await scenario(l);
    };
    sweep(with_listener);
}

TEST_CASE("stopped while waiting: read") {
    const tube t;
    auto wait = [&](bool& resumed) -> task<> {
        const counted c;
        bytes<8> buffer;
        co_await io::read(t.out, buffer);
        resumed = true;
    };
    stopped_while_waiting(wait);
    t.put("all of it");
    CHECK(t.waiting() == 9);
}

TEST_CASE("stopped while waiting: write") {
    const tube t;
    t.fill();
    const std::size_t full = t.waiting();
    auto wait = [&](bool& resumed) -> task<> {
        const counted c;
        co_await io::write(t.in, raw("more"));
        resumed = true;
    };
    stopped_while_waiting(wait);
    CHECK(t.waiting() == full);
}

TEST_CASE("stopped while waiting: recv and send") {
    const socket_pair p;
    auto receive = [&](bool& resumed) -> task<> {
        const counted c;
        bytes<8> buffer;
        co_await io::recv(p.a, buffer);
        resumed = true;
    };
    stopped_while_waiting(receive);
    p.fill();
    int full = 0, after = 0;
    CHECK(::ioctl(p.b, FIONREAD, &full) == 0);
    auto send = [&](bool& resumed) -> task<> {
        const counted c;
        co_await io::send(p.a, raw("more"));
        resumed = true;
    };
    stopped_while_waiting(send);
    CHECK(::ioctl(p.b, FIONREAD, &after) == 0);
    CHECK(after == full);
}

TEST_CASE("stopped while waiting: accept") {
    const listener l;
    auto wait = [&](bool& resumed) -> task<> {
        const counted c;
        auto connection = co_await io::accept(l.fd);
        resumed = true;
    };
    stopped_while_waiting(wait);
    const auto client = l.dial();
    const unique_fd server = l.take();
    CHECK(static_cast<bool>(server));  // nobody has taken it
}

TEST_CASE("stopped while waiting: connect") {
    const listener l(0, 0);
    const auto first = l.dial();  // the queue is full: nobody answers the next
    auto wait = [&](bool& resumed) -> task<> {
        const counted c;
        const unique_fd s(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        co_await io::connect(s, l.at(), sizeof l.address);
        resumed = true;
    };
    stopped_while_waiting(wait);
}

TEST_CASE("stopped while waiting: open, in a worker of the kernel") {
    const folder dir;
    const std::string path = dir.file("fifo");
    REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
    auto wait = [&](bool& resumed) -> task<> {
        const counted c;
        auto file = co_await io::open(path.c_str(), O_RDONLY | O_CREAT, 0600);
        resumed = true;
    };
    stopped_while_waiting(wait);
}

TEST_CASE("stopped while waiting: io::op") {
    const tube t;
    auto wait = [&](bool& resumed) -> task<> {
        const counted c;
        std::ignore = co_await io::op(
            [&](io_uring_sqe* s) { io_uring_prep_poll_add(s, t.out, POLLIN); });
        resumed = true;
    };
    stopped_while_waiting(wait);
}

TEST_CASE("stopped while waiting: the form without exceptions, and a wait deep inside") {
    const tube t;
    auto innermost = [&]() -> task<int> {
        bytes<8> buffer;
        co_return co_await io::read(t.out, buffer).result();
    };
    auto middle = [&]() -> task<int> {
        const counted c;
        co_return co_await innermost();
    };
    auto wait = [&](bool& resumed) -> task<> {
        std::ignore = co_await middle();
        resumed = true;
    };
    stopped_while_waiting(wait);
}

TEST_CASE("a cancelled read's buffer outlives what the kernel may still write") {
    for (const stop how : ways)
        for (const int ticks : {1, 2, 5}) {
            CAPTURE(static_cast<int>(how));
            CAPTURE(ticks);
            const tube t;
            static std::array<std::byte, 600 * 8> memory;
            auto reader = [](int fd, std::span<std::byte> buffer) -> task<> {
                const lease l(buffer);
                co_await io::read(fd, buffer);
            };
            std::vector<join_handle<>> handles;
            {
                executor ex;
                auto small = []() -> task<> {
                    reactor::here(reactor::options(8));
                    co_return;
                };
                ex.run(small());
                for (std::size_t i = 0; i < 600; ++i)
                    handles.push_back(ex.spawn(reader(t.out, std::span(memory).subspan(8 * i, 8))));
                for (int i = 0; i < 600 * ticks; ++i) ex.try_tick();
                CHECK(counted::alive == 600);
                if (how == stop::drop) handles.clear();
                if (how == stop::cancel)
                    for (auto& h : handles) CHECK(ex.run(cancelled(h, counted::alive - 1)));
            }
            CHECK(counted::alive == 0);
            CHECK(lease::untouched(memory));
            t.put("nobody reads this any more");  // what is still in the kernel would
            CHECK(t.waiting() == 26);
            CHECK(lease::untouched(memory));
        }
}

TEST_CASE("a read that runs in a worker of the kernel is waited for") {
    constexpr std::size_t size = 256 << 20;
    void* const p = ::mmap(
        nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(p != MAP_FAILED);
    const std::span memory(static_cast<std::byte*>(p), size);
    const unique_fd zero(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
    // Notes whether the kernel had let go by the time that the frame went: marks the end of the
    // memory, which a worker that goes on would overwrite, and the beginning, which it is at.
    struct watch {
        std::span<std::byte> memory;
        explicit watch(std::span<std::byte> m) : memory(m) { ++counted::alive; }
        watch(watch&&) = delete;
        ~watch() {
            for (std::size_t i = 0; i < memory.size(); i += 4096) memory[i] = lease::mark;
            --counted::alive;
        }
    };
    auto reader = [&](bool& resumed) -> task<> {
        const watch w(memory);
        auto fill = [&](io_uring_sqe* s) {
            io_uring_prep_read(s, zero, memory.data(), static_cast<unsigned>(memory.size()), 0);
            s->flags |= IOSQE_ASYNC;
        };
        std::ignore = co_await io::op(fill).result();
        resumed = true;
    };
    auto marked = [&] {
        for (std::size_t i = 0; i < memory.size(); i += 4096)
            if (memory[i] != lease::mark) return false;
        return true;
    };
    for (const stop how : ways) {
        CAPTURE(static_cast<int>(how));
        bool resumed = false;
        join_handle<> h;
        {
            executor ex;
            h = ex.spawn(reader(resumed));
            for (int i = 0; i < 3; ++i) ex.try_tick();
            if (how == stop::drop) h = {};
            if (how == stop::cancel) ex.run(cancelled(h, 0));
        }
        CHECK(counted::alive == 0);
        for (int i = 0; i < 20; ++i) CHECK(marked());
    }
    ::munmap(p, size);
}

TEST_CASE("cancelled between the completion and the resumption: the value is given") {
    const quick_tube t;
    on_every_rung(64, [&](reactor::options o) {
        bool was_done = true;
        auto canceller = [&](join_handle<std::size_t>& victim) -> task<std::optional<std::size_t>> {
            co_await io::nop();
            was_done = victim.done();
            co_return co_await std::move(victim).cancel();
        };
        auto root = [&](reactor::options options) -> task<> {
            reactor::here(options);
            co_await io::nop();
            t.put("bytes");
            join_handle<std::size_t> victim;
            auto first = spawn(canceller(victim));  // its answer comes first, in the same look
            victim = spawn(read_some(t.out));
            const std::optional<std::size_t> n = co_await std::move(first);
            CHECK_FALSE(was_done);
            CHECK(n == 5);
            CHECK(t.waiting() == 0);
        };
        block_on(root(o));
    });
}

TEST_CASE("cancelled before it was submitted, with the answer there already: the value is given") {
    auto now = [](join_handle<std::size_t>& victim) -> task<std::optional<std::size_t>> {
        co_return co_await std::move(victim).cancel();
    };
    auto root = [&](reactor::options options) -> task<> {
        reactor::here(options);
        co_await io::nop();
        const quick_tube t;
        t.put("bytes");
        auto h = spawn(read_some(t.out));
        auto canceller = spawn(now(h));  // runs in the same turn, right after the reader
        const std::optional<std::size_t> n = co_await std::move(canceller);
        CHECK(n == 5);
        CHECK(t.waiting() == 0);
    };
    on_every_rung(64, [&](reactor::options o) { block_on(root(o)); });
}

TEST_CASE("what has a result goes on with it to its next suspension, and no further") {
    const quick_tube t;
    std::size_t got = 0;
    bool further = false;
    auto victim = [&]() -> task<> {
        const counted c;
        bytes<8> buffer;
        got = co_await io::read(t.out, buffer);
        co_await io::nop();
        further = true;
    };
    auto canceller = [](join_handle<>& h) -> task<bool> {
        co_await io::nop();
        co_return co_await std::move(h).cancel();
    };
    auto root = [&]() -> task<> {
        co_await io::nop();
        t.put("bytes");
        join_handle<> h;
        auto first = spawn(canceller(h));
        h = spawn(victim());
        const bool ended = co_await std::move(first);
        CHECK_FALSE(ended);
        CHECK(got == 5);
        CHECK_FALSE(further);
        CHECK(counted::alive == 0);
    };
    block_on(root());
}

TEST_CASE("an error is no result: a cancelled job does not go on with it") {
    const unique_fd apart(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));  // has no peer
    bool further = false;
    auto victim = [&]() -> task<> {
        const counted c;
        std::byte b;
        std::ignore = co_await io::recv(apart, std::span(&b, 1)).result();
        further = true;
    };
    auto canceller = [](join_handle<>& h) -> task<bool> {
        co_await io::nop();
        co_return co_await std::move(h).cancel();
    };
    auto root = [&]() -> task<> {
        co_await io::nop();
        join_handle<> h;
        auto first = spawn(canceller(h));
        h = spawn(victim());
        const bool ended = co_await std::move(first);
        CHECK_FALSE(ended);
        CHECK_FALSE(further);
    };
    block_on(root());
}

TEST_CASE("a cancelled job that goes on does not lose the descriptor it is about to close") {
    const auto fds = open_fds();
    auto victim = [](int fd) -> task<> {
        auto connection = co_await io::accept(fd);
        co_await io::close(std::move(connection));
    };
    auto canceller = [](join_handle<>& h) -> task<bool> {
        co_await io::nop();
        co_return co_await std::move(h).cancel();
    };
    auto root = [&]() -> task<> {
        co_await io::nop();
        const listener l;
        const auto client = l.dial();
        join_handle<> h;
        auto first = spawn(canceller(h));
        h = spawn(victim(l.fd));
        std::ignore = co_await std::move(first);
        CHECK(peer_is_gone(client));
    };
    block_on(root());
    CHECK(open_fds() == fds);
}

// Bytes, whenever the cancel comes: none is lost, none is twice.
TEST_CASE("thousands of cancels at random moments: bytes received and bytes left are bytes sent") {
    on_every_rung(8, [](reactor::options o) {
        std::mt19937 random(20240607);
        auto below = [&](unsigned n) { return static_cast<int>(random() % n); };
        std::uint8_t next_out = 0, next_in = 0;
        std::size_t sent = 0, seen = 0, received = 0;
        int values = 0, cancels = 0;
        auto reader = [&](int fd) -> task<std::size_t> {
            bytes<16> buffer;
            const std::size_t n = co_await io::read(fd, buffer);
            for (std::size_t i = 0; i < n; ++i) must(buffer[i] == std::byte(next_in++));
            seen += n;
            co_return n;
        };
        auto root = [&](reactor::options options) -> task<> {
            reactor::here(options);
            const quick_tube t;
            auto write = [&] {
                std::string text(static_cast<std::size_t>(1 + below(24)), ' ');
                for (char& c : text) c = static_cast<char>(next_out++);
                t.put(text);
                sent += text.size();
            };
            for (int round = 0; round < 3000; ++round) {
                auto h = spawn(reader(t.out));
                const int steps = below(4), when = below(6);
                for (int i = 0; i < steps; ++i) {
                    if (i == when) write();
                    co_await yield_now();
                }
                if (when == steps) write();
                const std::optional<std::size_t> n = co_await std::move(h).cancel();
                received += n.value_or(0);
                ++(n ? values : cancels);
            }
            CHECK(received + t.waiting() == sent);
        };
        block_on(root(o));
        CHECK(seen == received);
        CHECK(values > 100);
        CHECK(cancels > 100);
    });
}

TEST_CASE("cancels at random moments: many readers at once") {
    std::mt19937 random(7);
    auto root = [&]() -> task<> {
        reactor::here(reactor::options(8));
        const socket_pair p;
        std::size_t sent = 0, received = 0;
        std::vector<join_handle<std::size_t>> readers;
        for (int i = 0; i < 20; ++i) readers.push_back(spawn(recv_some(p.b)));
        for (int round = 0; round < 3000; ++round) {
            auto& h = readers[random() % 20];
            if (random() % 2) {
                const std::string text(1 + random() % 40, 'x');
                const auto n = ::send(p.a, text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
                if (n > 0) sent += static_cast<std::size_t>(n);
            }
            if (random() % 3 == 0) co_await yield_now();
            const std::optional<std::size_t> n = co_await std::move(h).cancel();
            received += n.value_or(0);
            h = spawn(recv_some(p.b));
        }
        for (auto& h : readers) {
            const std::optional<std::size_t> n = co_await std::move(h).cancel();
            received += n.value_or(0);
        }
        int left = 0;
        CHECK(::ioctl(p.b, FIONREAD, &left) == 0);
        CHECK(received + static_cast<std::size_t>(left) == sent);
        CHECK(received > 1000);
    };
    block_on(root());
    CHECK(counted::alive == 0);
}

TEST_CASE("cancels at random moments: what a send says is what has arrived") {
    std::mt19937 random(11);
    auto sender = [](int fd) -> task<std::size_t> {
        static const std::array<std::byte, 30000> data{};
        co_return co_await io::send(fd, data);
    };
    auto root = [&]() -> task<> {
        const socket_pair p;
        std::size_t sent = 0, arrived = 0;
        static std::array<std::byte, 65536> buffer;
        auto drain = [&] {
            for (;;) {
                const auto n = ::recv(
                    p.b, buffer.data(), 1 + random() % buffer.size(), MSG_DONTWAIT);
                if (n > 0) arrived += static_cast<std::size_t>(n);
                if (n <= 0 || random() % 4 == 0) break;
            }
        };
        int values = 0, cancels = 0;
        for (int round = 0; round < 2000; ++round) {
            auto h = spawn(sender(p.a));
            const int steps = static_cast<int>(random() % 3);
            const bool early = random() % 2;
            for (int i = 0; i < steps; ++i) {
                co_await yield_now();
                if (early && random() % 2) drain();
            }
            const std::optional<std::size_t> n = co_await std::move(h).cancel();
            sent += n.value_or(0);
            ++(n ? values : cancels);
            if (random() % 4 == 0) drain();
        }
        int left = 0;
        CHECK(::ioctl(p.b, FIONREAD, &left) == 0);
        while (arrived < sent) {
            const auto n = ::recv(p.b, buffer.data(), buffer.size(), MSG_DONTWAIT);
            if (n <= 0) break;
            arrived += static_cast<std::size_t>(n);
        }
        CHECK(arrived == sent);
        const auto more = ::recv(p.b, buffer.data(), buffer.size(), MSG_DONTWAIT);
        CHECK(more < 0);
        CHECK(values > 50);
        CHECK(cancels > 50);
    };
    block_on(root());
}

TEST_CASE("cancels at random moments: a connection is accepted by somebody, or still waits") {
    std::mt19937 random(13);
    const auto fds = open_fds();
    auto root = [&]() -> task<> {
        const listener l;
        std::vector<unique_fd> clients, servers;
        int cancels = 0;
        for (int round = 0; round < 600; ++round) {
            auto h = spawn(accept_one(l.fd));
            const auto when = random() % 4;
            const auto steps = random() % 3;
            for (std::uint_fast32_t i = 0; i <= steps; ++i) {
                if (i == when && clients.size() < 100) clients.push_back(l.dial());
                if (i < steps) co_await yield_now();
            }
            std::optional<unique_fd> s = co_await std::move(h).cancel();
            if (s) servers.push_back(std::move(*s));
            else ++cancels;
        }
        const std::size_t by_tasks = servers.size();
        for (unique_fd s = l.take(); s; s = l.take()) servers.push_back(std::move(s));
        CHECK(clients.size() == 100);
        CHECK(servers.size() == clients.size());
        CHECK(by_tasks > 20);
        CHECK(cancels > 20);
    };
    block_on(root());
    CHECK(open_fds() == fds);
}

// A cancel that waits for what was submitted before it (IO_DRAIN) waits for its own target; one that a
// worker makes late meets whoever has the address by then.
TEST_CASE("a hook cannot make a cancel late") {
    const tube t;
    reactor::on_submit = [](io_uring_sqe* s) {
        if (s->opcode == IORING_OP_ASYNC_CANCEL) s->flags |= IOSQE_IO_DRAIN;
    };
    auto root = [&]() -> task<> {
        auto reads = spawn(read_some(t.out));
        co_await turns(3);
        const bool ended = !co_await std::move(reads).cancel();
        CHECK(ended);
        CHECK(reactor::stats().in_flight == 0);
    };
    ::alarm(20);
    block_on(root());
    ::alarm(0);
    reactor::on_submit = nullptr;
}

TEST_CASE("more cancels at once than the ring has entries: all of them arrive") {
    on_every_rung(8, [](reactor::options o) {
        auto root = [](reactor::options options) -> task<> {
            reactor::here(options);
            const tube t;
            std::vector<join_handle<std::size_t>> readers;
            for (int i = 0; i < 200; ++i) readers.push_back(spawn(read_some(t.out)));
            co_await turns(3);
            CHECK(counted::alive == 200);
            readers.clear();  // 200 requests in one turn
            auto gone = [] { return counted::alive == 0; };
            const bool all_gone = co_await becomes(gone);
            CHECK(all_gone);
        };
        block_on(root(o));
    });
}

// ---- late results ------------------------------------------------------------------------------

namespace {

// Jobs with a schedule function of their own: their runnables lie here until somebody takes them.
struct shelf {
    std::deque<runnable> runnables;
    template <class T> join_handle<T> start(task<T> t) {
        auto [r, h] = ringlet::spawn(
            std::move(t), [this](runnable x) { runnables.push_back(std::move(x)); });
        std::move(r).run();
        return std::move(h);
    }
    task<bool> filled(std::size_t n) {
        auto enough = [this, n] { return runnables.size() >= n; };
        co_return co_await becomes(enough);
    }
};

}  // namespace

TEST_CASE("a schedule function may run its job on the spot, in the middle of the look") {
    auto work = [](int fd, std::size_t& sum) -> task<> {
        const counted c;
        for (int i = 0; i < 10; ++i) {
            bytes<1> buffer;
            sum += co_await io::read(fd, buffer);
            co_await io::nop();
        }
    };
    on_every_rung(2, [&](reactor::options o) {
        auto root = [&](reactor::options options) -> task<> {
            reactor::here(options);
            const tube t;
            std::size_t sum = 0;
            std::vector<join_handle<>> handles;
            for (int i = 0; i < 50; ++i) {
                auto [r, h] = ringlet::spawn(
                    work(t.out, sum), [](runnable x) { std::move(x).run(); });
                std::move(r).run();
                handles.push_back(std::move(h));
            }
            t.put(std::string(500, 'x'));
            auto over = [] { return counted::alive == 0; };
            const bool ended = co_await becomes(over);
            CHECK(ended);
            CHECK(sum == 500);
        };
        block_on(root(o));
    });
}

TEST_CASE("a schedule function may drop its runnable on the spot, in the middle of the look") {
    const auto fds = open_fds();
    auto root = []() -> task<> {
        const listener l;
        std::vector<unique_fd> clients;
        std::vector<join_handle<unique_fd>> handles;
        for (int i = 0; i < 20; ++i) {
            auto [r, h] = ringlet::spawn(accept_one(l.fd), [](runnable) {});
            std::move(r).run();
            handles.push_back(std::move(h));
            if (i % 2) clients.push_back(l.dial());
        }
        co_await turns(5);
        for (int i = 0; i < 10; ++i) clients.push_back(l.dial());
        auto over = [] { return counted::alive == 0; };
        const bool ended = co_await becomes(over);
        CHECK(ended);
        for (const auto& h : handles) CHECK(h.done());
        for (const unique_fd& c : clients) CHECK(peer_is_gone(c));
    };
    block_on(root());
    CHECK(open_fds() == fds);
}

TEST_CASE(
    "an operation is cancelled while its executor does not run, and from inside another one") {
    const tube t;
    executor ex;
    auto a = ex.spawn(read_some(t.out));
    auto b = ex.spawn(read_some(t.out));
    auto c = ex.spawn(read_some(t.out));
    for (int i = 0; i < 5; ++i) ex.try_tick();
    CHECK(counted::alive == 3);
    a = {};
    auto elsewhere = [&]() -> task<> {
        co_await io::nop();
        b = {};
        co_await io::nop();
    };
    block_on(elsewhere());
    for (int i = 0; counted::alive > 1 && i < 1'000'000; ++i) ex.try_tick();
    CHECK(counted::alive == 1);
    t.put("abc");
    auto end = [&]() -> task<std::size_t> { co_return co_await std::move(c); };
    CHECK(ex.run(end()) == 3);
}

TEST_CASE("a result that nobody can take any more is closed: accept, open, socket") {
    const folder dir;
    const auto fds = open_fds();
    auto open_one = [](std::string path) -> task<unique_fd> {
        co_return co_await io::open(path.c_str(), O_RDWR | O_CREAT, 0600);
    };
    auto open_plain = [](std::string path) -> task<int> {
        co_return co_await io::open(path.c_str(), O_RDWR | O_CREAT, 0600).result();
    };
    auto socket_one = []() -> task<unique_fd> {
        co_return co_await io::socket(AF_INET, SOCK_STREAM);
    };
    auto root = [&]() -> task<> {
        const listener l;
        const auto client = l.dial();
        shelf s;
        {
            auto a = s.start(accept_one(l.fd));
            auto b = s.start(open_one(dir.file("a")));
            auto c = s.start(socket_one());
            auto d = s.start(open_plain(dir.file("b")));
            const bool filled = co_await s.filled(4);
            CHECK(filled);
            const auto opened = open_fds();
            CHECK(opened
                == fds + 1 + 2 + 4);  // the ring, the listener and the client, and the results
            s.runnables.clear();      // the jobs end here, with their results
            CHECK(open_fds() == opened - 4);
            CHECK(a.done());
            CHECK(d.done());
        }
        CHECK(peer_is_gone(client));
        CHECK(counted::alive == 0);
    };
    block_on(root());
    CHECK(open_fds() == fds);
}

TEST_CASE("a result that a finished task holds and nobody takes is closed too") {
    const auto fds = open_fds();
    auto root = [&]() -> task<> {
        const listener l;
        const auto client = l.dial();
        auto h = spawn(accept_one(l.fd));
        auto done = [&] { return h.done(); };
        const bool ended = co_await becomes(done);
        CHECK(ended);
        h = {};
        CHECK(peer_is_gone(client));
    };
    block_on(root());
    CHECK(open_fds() == fds);
}

TEST_CASE("a file that opens while its task is cancelled is closed, or was never opened") {
    const folder dir;
    const std::string path = dir.file("fifo");
    REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
    const auto fds = open_fds();
    auto opener = [&]() -> task<> {
        const counted c;
        auto file = co_await io::open(path.c_str(), O_RDONLY | O_CREAT, 0600);
        co_await turns(1000);
    };
    std::mt19937 random(3);
    for (int round = 0; round < 60; ++round) {
        const int when = static_cast<int>(random() % 6);
        const bool writer_first = random() % 2;
        {
            executor ex;
            auto h = ex.spawn(opener());
            for (int i = 0; i < when; ++i)
                if (!ex.try_tick()) ::sched_yield();
            unique_fd writer;
            if (writer_first) writer.reset(::open(path.c_str(), O_RDWR | O_CLOEXEC));  // lets it in
            h = {};
            if (!writer_first) writer.reset(::open(path.c_str(), O_RDWR | O_CLOEXEC));
        }
        CHECK(counted::alive == 0);
        CHECK(open_fds() == fds);
    }
}

TEST_CASE("a connection that comes while its acceptor is cancelled is closed or stays queued") {
    const auto fds = open_fds();
    for (int round = 0; round < 60; ++round) {
        {
            const listener l;
            unique_fd client;
            {
                executor ex;
                auto h = ex.spawn(accept_one(l.fd));
                for (int i = 0; i < round % 5; ++i) ex.try_tick();
                if (round % 2) client = l.dial();
                h = {};
                if (!client) client = l.dial();
            }
            CHECK(counted::alive == 0);
            const unique_fd server = l.take();
            if (!server) CHECK(peer_is_gone(client));
        }
        CHECK(open_fds() == fds);
    }
}

// ---- the end -----------------------------------------------------------------------------------

TEST_CASE("an executor ends with a hundred operations in flight: no frame, no descriptor is left") {
    const folder dir;
    const std::string fifo = dir.file("fifo");
    REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
    const auto fds = open_fds();
    auto opener = [&]() -> task<> {
        const counted c;
        auto file = co_await io::open(fifo.c_str(), O_RDONLY | O_CREAT, 0600);
    };
    on_every_rung(64, [&](reactor::options o) {
        {
            const tube t;
            const socket_pair p;
            const listener l;
            executor ex;
            auto set_up = [](reactor::options options) -> task<> {
                reactor::here(options);
                co_return;
            };
            ex.run(set_up(o));
            for (int i = 0; i < 33; ++i) {
                ex.spawn(read_some(t.out)).detach();
                ex.spawn(recv_some(p.a)).detach();
                ex.spawn(accept_one(l.fd)).detach();
            }
            ex.spawn(opener()).detach();
            while (ex.try_tick()) {}
            CHECK(counted::alive == 100);
        }
        CHECK(counted::alive == 0);
        CHECK(open_fds() == fds);
    });
}

TEST_CASE("a root that ends or throws with operations in flight") {
    const tube t;
    auto root = [&](bool throws) -> task<int> {
        for (int i = 0; i < 10; ++i) spawn(read_some(t.out)).detach();
        co_await turns(3);
        CHECK(counted::alive == 10);
        if (throws) throw std::runtime_error("enough");
        co_return 5;
    };
    CHECK(block_on(root(false)) == 5);
    CHECK(counted::alive == 0);
    CHECK_THROWS_AS(block_on(root(true)), std::runtime_error);
    CHECK(counted::alive == 0);
    t.put("abc");
    CHECK(t.waiting() == 3);
}

TEST_CASE("the ring closes when the kernel has let go, whoever's the jobs are") {
    static std::array<std::byte, 8 * 50> memory;
    auto reader = [](int fd, std::span<std::byte> buffer) -> task<> {
        const lease l(buffer);
        co_await io::read(fd, buffer);
    };
    const tube t;
    shelf s;
    std::vector<join_handle<>> handles;
    auto root = [&]() -> task<> {
        reactor::here(reactor::options(8));
        for (std::size_t i = 0; i < 50; ++i)
            handles.push_back(s.start(reader(t.out, std::span(memory).subspan(8 * i, 8))));
        co_await turns(3);
        CHECK(s.runnables.empty());
    };
    block_on(root());
    CHECK(s.runnables.size() == 50);  // each has had its answer: that it was cancelled
    t.put("nobody reads this");
    CHECK(t.waiting() == 17);
    CHECK(counted::alive == 50);
    s.runnables.clear();
    CHECK(counted::alive == 0);
    CHECK(lease::untouched(memory));
}

TEST_CASE("a port is free again as soon as the executor that accepted on it has ended") {
    in_port_t port = 0;
    auto root = [](int fd) -> task<> {
        for (int i = 0; i < 3; ++i) spawn(accept_one(fd)).detach();
        co_await turns(3);
        CHECK(counted::alive == 3);
    };
    auto owner = [](in_port_t p, in_port_t& bound) -> task<> {
        const listener l(p);
        bound = l.address.sin_port;
        auto connection = co_await io::accept(l.fd);
    };
    auto short_life = [&](in_port_t p, in_port_t& bound) -> task<> {
        spawn(owner(p, bound)).detach();
        co_await turns(3);
    };
    for (int round = 0; round < 30; ++round) {
        {
            const listener l(port);
            port = l.address.sin_port;
            block_on(root(l.fd));
        }
        block_on(short_life(port, port));
    }
    // The same for a whole process.
    for (int round = 0; round < 10; ++round)
        CHECK(in_child([&] { block_on(short_life(port, port)); }) == 0);
    const listener last(port);
}

// ---- fairness and idleness ---------------------------------------------------------------------

TEST_CASE("a loop of yields does not starve the kernel's answers") {
    on_every_rung(64, [](reactor::options o) {
        auto yielder = [](const tube& t, bool& stop_now, int& yields) -> task<> {
            while (!stop_now && yields < 100'000) {
                if (++yields == 100) t.put("x");
                co_await yield_now();
            }
        };
        auto root = [&](reactor::options options) -> task<> {
            reactor::here(options);
            const tube t;
            bool stop_now = false;
            int yields = 0;
            auto y = spawn(yielder(t, stop_now, yields));
            const std::size_t n = co_await read_some(t.out);
            stop_now = true;
            CHECK(n == 1);
            co_await std::move(y);
            CHECK(yields >= 100);
            CHECK(yields < 1000);
        };
        block_on(root(o));
    });
}

TEST_CASE("a task whose operations are always ready does not starve the others") {
    auto busy = [](bool& stop_now, int& rounds) -> task<> {
        while (!stop_now && rounds < 100'000) {
            co_await io::nop();
            ++rounds;
        }
    };
    auto root = [&]() -> task<> {
        const socket_pair p;
        bool stop_now = false;
        int rounds = 0;
        auto b = spawn(busy(stop_now, rounds));
        auto waits = spawn(recv_some(p.a));
        co_await turns(50);
        CHECK(rounds > 10);
        CHECK(::send(p.b, "x", 1, 0) == 1);
        const int then = rounds;
        const std::size_t n = co_await std::move(waits);
        CHECK(n == 1);
        CHECK(rounds - then < 1000);
        stop_now = true;
        co_await std::move(b);
    };
    block_on(root());
}

TEST_CASE("an executor that waits uses no processor") {
    auto cpu = [] {
        rusage u;
        ::getrusage(RUSAGE_SELF, &u);
        return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1'000'000 + u.ru_utime.tv_usec
            + u.ru_stime.tv_usec;
    };
    auto later = [](const tube& t) -> task<> {
        __kernel_timespec ts{0, 300'000'000};
        const int r = co_await io::op([&](io_uring_sqe* s) {
            io_uring_prep_timeout(s, &ts, 0, 0);
        }).result();
        must(r == -ETIME);
        t.put("x");
    };
    auto root = [&]() -> task<> {
        const tube t;
        co_await io::nop();
        const auto before = cpu();
        auto h = spawn(later(t));
        const std::size_t n = co_await read_some(t.out);
        CHECK(n == 1);
        CHECK(cpu() - before < 30'000);  // microseconds; a busy loop would use all of 300,000
        co_await std::move(h);
    };
    block_on(root());
}

// ---- signals -----------------------------------------------------------------------------------

namespace {
volatile sig_atomic_t signals_seen = 0;
}

TEST_CASE("signals every 100 us: a copy of 4 MB through a pipe is the same") {
    const folder dir;
    std::string data(4 << 20, '\0');
    std::mt19937 random(5);
    for (char& c : data) c = static_cast<char>(random());
    auto writer = [&](std::string path) -> task<> {
        auto file = co_await io::open(path.c_str(), O_WRONLY | O_CREAT, 0600);
        for (std::size_t at = 0; at < data.size();)
            at += co_await io::write(
                file, raw(data).subspan(at).first(std::min<std::size_t>(50'000, data.size() - at)));
    };
    auto pump = [](std::string path, int to) -> task<> {
        auto file = co_await io::open(path.c_str(), O_RDONLY);
        std::vector<std::byte> buffer(30'000);
        for (;;) {
            const std::size_t n = co_await io::read(file, buffer);
            if (n == 0) break;
            for (std::size_t at = 0; at < n;)
                at += co_await io::write(
                    to, std::span<const std::byte>(buffer).subspan(at, n - at));
        }
    };
    auto root = [&]() -> task<std::string> {
        tube t;
        co_await writer(dir.file("a"));
        auto h = spawn(pump(dir.file("a"), t.in));
        std::string copy;
        std::vector<std::byte> buffer(20'000);
        while (copy.size() < data.size()) {
            const std::size_t n = co_await io::read(t.out, buffer);
            must(n > 0);
            copy += text_of(std::span(buffer).first(n));
        }
        co_await std::move(h);
        co_return copy;
    };
    struct sigaction handler {};
    struct sigaction before {};
    handler.sa_handler = [](int) { signals_seen = signals_seen + 1; };
    ::sigaction(SIGALRM, &handler, &before);
    const itimerval every{{0, 100}, {0, 100}}, off{};
    ::setitimer(ITIMER_REAL, &every, nullptr);
    const std::string copy = block_on(root());
    ::setitimer(ITIMER_REAL, &off, nullptr);
    ::sigaction(SIGALRM, &before, nullptr);
    CHECK(copy == data);
    CHECK(signals_seen > 0);
}

// ---- fork --------------------------------------------------------------------------------------

TEST_CASE("a forked child cannot use the ring, and does not disturb it") {
    on_every_rung(64, [](reactor::options o) {
        const tube t, u;
        const pid_t parent = ::getpid();
        auto root = [&](reactor::options options) -> task<> {
            reactor::here(options);
            auto in_flight = spawn(read_some(t.out));
            co_await turns(3);
            auto unsubmitted = spawn(read_some(u.out));
            auto fork_now = []() -> task<pid_t> { co_return ::fork(); };
            auto forks = spawn(fork_now());  // in the turn in which a request has been written
            const pid_t child = co_await std::move(forks);
            if (child == 0) {
                ::alarm(20);
                int refusals = 0;
                for (int i = 0; i < 3; ++i) {
                    try {
                        co_await io::nop();
                    } catch (const std::logic_error&) { ++refusals; }
                    try {
                        co_await io::unlink("");  // one that works on a path
                    } catch (const std::logic_error&) { ++refusals; }
                }
                ::_exit(refusals == 6 ? 0 : 1);
            }
            CHECK(exit_code(child) == 0);
            CHECK(counted::alive == 2);
            t.put("abcdef");
            const std::size_t n = co_await std::move(in_flight);
            CHECK(n == 6);
            u.put("gh");
            const std::size_t m = co_await std::move(unsubmitted);
            CHECK(m == 2);
            co_await everything(options);
        };
        block_on(root(o));
        must(::getpid() == parent);
    });
}

TEST_CASE(
    "a forked child that waits for the ring learns that nothing will come, and can end its executor") {
    const tube t, u;
    bool cancelled = false;
    auto root = [&](pid_t& child) -> task<std::size_t> {
        auto in_flight = spawn(read_some(t.out));
        auto other = spawn(read_some(u.out));
        co_await turns(3);
        child = ::fork();
        if (child > 0) {
            CHECK(exit_code(child) == 0);
            t.put("abc");
        } else {  // whoever is cancelled ends at once: nothing will come to wait for
            const auto nothing = co_await std::move(other).cancel();
            cancelled = !nothing;
        }
        const std::size_t n = co_await std::move(in_flight);
        co_return n;
    };
    pid_t child = -1;
    const auto work = [&] {
        try {
            must(block_on(root(child)) == 3);
            must(child > 0);
        } catch (const ringlet::deadlock&) {
            if (child) throw;
            ::_exit(
                cancelled && counted::alive == 0 ? 0 : 1);  // the executor has ended, its tasks too
        }
    };
    const pid_t parent = ::getpid();
    try {
        work();
    } catch (...) {
        if (::getpid() != parent) ::_exit(2);
        throw;
    }
    if (::getpid() != parent) ::_exit(3);
    CHECK(counted::alive == 0);
}

TEST_CASE("a forked child can end the parent's executor, and have its own") {
    on_every_rung(64, [](reactor::options o) {
        const tube t;
        join_handle<std::size_t> h;
        auto ex = std::make_unique<executor>();
        auto begin = [&](reactor::options options) -> task<> {
            reactor::here(options);
            for (int i = 0; i < 5; ++i) spawn(read_some(t.out)).detach();
            h = spawn(read_some(t.out));
            co_await turns(3);
        };
        ex->run(begin(o));
        auto unsubmitted = ex->spawn(read_some(t.out));
        ex->try_tick();
        CHECK(in_child([&] {
            const auto fds = open_fds();
            must(mapped_rings() == 0);  // the child has none of its memory
            block_on(everything(o));
            must(open_fds() == fds);
            executor own;  // whose ring may lie where the parent's lay
            own.run(everything(o));
            ex.reset();
            must(counted::alive == 0);
            must(open_fds() == fds);
            own.run(everything(o));
        }) == 0);
        CHECK(counted::alive == 7);
        ex->run(everything(o));
        t.put(std::string(16 * 7, 'x'));
        auto end = [&]() -> task<std::size_t> { co_return co_await std::move(h); };
        CHECK(ex->run(end()) == 16);
        ex.reset();
        CHECK(counted::alive == 0);
    });
}

// ---- other kernels, and sandboxes --------------------------------------------------------------

namespace {

// Seccomp filters, for forked children: what the kernel says to io_uring's three system calls.
void filter(std::span<sock_filter> code) {
    const sock_fprog program{static_cast<unsigned short>(code.size()), code.data()};
    must(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    must(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}
constexpr unsigned number = offsetof(seccomp_data, nr);

void refuse(int error) {
    sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, number),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    filter(code);
}

// Has f answer these calls, in a signal handler. It gets through to the kernel by really(): a mark
// in the upper half of the first argument, which the kernel does not look at, lets the call pass.
using arguments = std::array<long, 6>;
using answer = long(long call, const arguments& a);
constexpr std::uint32_t mark = 0x72696e67;
answer* answers = nullptr;

long really(long call, const arguments& a) {
    const long first = (a[0] & 0xffffffffL) | static_cast<long>(std::uint64_t{mark} << 32);
    const long r = ::syscall(call, first, a[1], a[2], a[3], a[4], a[5]);
    return r < 0 ? -errno : r;
}

#if defined(__x86_64__) || defined(__aarch64__)
constexpr bool can_answer = std::endian::native == std::endian::little;
void on_trap(int, siginfo_t* info, void* context) {
    const int saved = errno;
    mcontext_t& m = static_cast<ucontext_t*>(context)->uc_mcontext;
#if defined(__x86_64__)
    const greg_t* const g = m.gregs;
    const arguments a{g[REG_RDI], g[REG_RSI], g[REG_RDX], g[REG_R10], g[REG_R8], g[REG_R9]};
    m.gregs[REG_RAX] = answers(info->si_syscall, a);
#else
    arguments a;
    for (std::size_t i = 0; i < a.size(); ++i) a[i] = static_cast<long>(m.regs[i]);
    m.regs[0] = static_cast<unsigned long long>(answers(info->si_syscall, a));
#endif
    errno = saved;
}
void answer_with(answer* f) {
    answers = f;
    struct sigaction trap {};
    trap.sa_sigaction = on_trap;
    trap.sa_flags = SA_SIGINFO | SA_NODEFER;
    must(::sigaction(SIGSYS, &trap, nullptr) == 0);
    constexpr unsigned first_argument = offsetof(seccomp_data, args);
    sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, number),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, __NR_io_uring_setup, 0, 4),
        BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, __NR_io_uring_register, 3, 0),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, first_argument + 4),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, mark, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    filter(code);
}
#else
constexpr bool can_answer = false;
void answer_with(answer*) {}
#endif

io_uring_params& params(const arguments& a) { return *reinterpret_cast<io_uring_params*>(a[1]); }

// Tasks that only compute, and the one that waits for nobody.
task<> without_the_kernel() {
    auto add = [](int n) -> task<int> {
        co_await yield_now();
        co_return n + 1;
    };
    int n = 0;
    for (int i = 0; i < 10; ++i) n = co_await spawn(add(n));
    must(n == 10);
}
task<> stuck() {
    co_await ringlet::suspend([](ringlet::waker w) {
        static ringlet::waker kept;
        kept = std::move(w);
    });
}

}  // namespace

TEST_CASE("io_uring refused: the exception names the cause and the remedy, and the rest works") {
    struct refusal {
        int error;
        std::vector<const char*> words;
    };
    const refusal refusals[] = {
        {ENOSYS, {"io_uring", "Linux", "container"}},
        {EPERM, {"io_uring", "seccomp", "kernel.io_uring_disabled"}},
        {EACCES, {"io_uring", "security"}},
        {ENOMEM, {"io_uring", "memory", "ulimit -l", "RLIMIT_MEMLOCK"}},
        {EMFILE, {"io_uring_setup"}},
    };
    const refusal* now = nullptr;
    auto refused = [&]() -> task<> {
        for (int i = 0; i < 3; ++i) {
            bool thrown = false;
            try {
                co_await io::nop();
            } catch (const std::system_error& e) {
                thrown = true;
                must(e.code() == std::error_code(now->error, std::system_category()));
                for (const char* word : now->words) {
                    if (!has(e.what(), word))
                        throw std::runtime_error(std::string(word) + "? " + e.what());
                }
            }
            must(thrown);
        }
        co_await without_the_kernel();
    };
    for (const refusal& r : refusals) {
        CAPTURE(r.error);
        now = &r;
        CHECK(in_child([&] {
            const auto fds = open_fds();
            refuse(r.error);
            block_on(without_the_kernel());
            block_on(refused());
            bool deadlocked = false;
            try {
                block_on(stuck());
            } catch (const ringlet::deadlock&) { deadlocked = true; }
            must(deadlocked);
            must(open_fds() == fds);
        }) == 0);
    }
}

TEST_CASE("little locked memory, for a user with no rights: it works, or says what is missing") {
    for (const rlim_t limit : {0u, 8192u, 65536u, 8u << 20}) {
        CAPTURE(limit);
        CHECK(in_child([&] {
            const rlimit l{limit, limit};
            must(::setrlimit(RLIMIT_MEMLOCK, &l) == 0);
            if (::getuid() == 0) must(::setgid(65534) == 0 && ::setuid(65534) == 0);
            try {
                block_on(everything(reactor::options()));
            } catch (const std::system_error& e) {
                must(e.code() == std::errc::not_enough_memory);
                must(has(e.what(), "memlock"));
            }
        }) == 0);
    }
}

TEST_CASE("not enough memory for a ring of this size: half of it, and half of that") {
    if (!can_answer) return;
    static unsigned tried[10], count;
    CHECK(in_child([] {
        answer_with([](long call, const arguments& a) -> long {
            if (call != __NR_io_uring_setup) return really(call, a);
            tried[count++ % 10] = static_cast<unsigned>(a[0]);
            return a[0] > 8 ? -ENOMEM : really(call, a);
        });
        block_on(everything(reactor::options(64)));
        must(count == 4);
        must(tried[0] == 64 && tried[1] == 32 && tried[2] == 16 && tried[3] == 8);
    }) == 0);
}

TEST_CASE("the kernels of the past: the best that each one has") {
    if (!can_answer) return;
    struct past {
        const char* name;
        unsigned setup, features, enter;  // the flags that it knows
        bool registers;                   // the ring's descriptor
        unsigned best;
    };
    constexpr unsigned always = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
    static constexpr past kernels[] = {
        {"5.15", 0x7f, 0x7ff, 0xf, false, always},
        {"5.18", 0xff, 0x1fff, 0x1f, true, always | IORING_SETUP_SUBMIT_ALL},
        {"5.19", 0xfff, 0x1fff, 0x1f, true, always | all | IORING_SETUP_COOP_TASKRUN},
        {"6.0", 0x1fff, 0x1fff, 0x1f, true,
            always | all | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SINGLE_ISSUER},
        {"6.1", 0x3fff, 0x1fff, 0x1f, true,
            always | all | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER},
    };
    static const past* now;
    static unsigned got;
    for (const past& k : kernels) {
        CAPTURE(k.name);
        now = &k;
        CHECK(in_child([] {
            answer_with([](long call, const arguments& a) -> long {
                if (call == __NR_io_uring_setup) {
                    if (params(a).flags & ~now->setup) return -EINVAL;
                    const long r = really(call, a);
                    params(a).features &= now->features;
                    got = params(a).flags;
                    return r;
                }
                if (call == __NR_io_uring_enter && (static_cast<unsigned>(a[3]) & ~now->enter))
                    return -EINVAL;
                if (call == __NR_io_uring_register && !now->registers) return -EINVAL;
                return really(call, a);
            });
            block_on(everything(reactor::options()));
            must(got == now->best);
        }) == 0);
    }
}

TEST_CASE("a kernel too old to wait with a time limit is refused, in so many words") {
    if (!can_answer) return;
    CHECK(in_child([] {
        answer_with([](long call, const arguments& a) -> long {
            const long r = really(call, a);
            if (call == __NR_io_uring_setup) params(a).features &= 0xffu;
            return r;
        });
        const auto fds = open_fds();
        bool thrown = false;
        try {
            block_on(io::nop());
        } catch (const std::system_error& e) {
            thrown = true;
            must(e.code() == std::errc::function_not_supported);
            must(has(e.what(), "Linux"));
        }
        must(thrown);
        must(open_fds() == fds);
    }) == 0);
}

TEST_CASE("where only the use of a ring is forbidden, the first operation says so") {
    if (!can_answer) return;
    static int error;
    for (const int e : {EPERM, ENOSYS, EACCES}) {
        CAPTURE(e);
        error = e;
        CHECK(in_child([] {
            answer_with([](long call, const arguments& a) -> long {
                return call == __NR_io_uring_enter ? -error : really(call, a);
            });
            const auto fds = open_fds();
            int begun = 0;
            auto root = [&]() -> task<> {
                ++begun;
                co_await io::nop();
                ++begun;
            };
            bool thrown = false;
            try {
                block_on(root());
            } catch (const std::system_error& refused) {
                thrown = refused.code().value() == error && has(refused.what(), "io_uring_setup");
            }
            must(thrown);
            must(begun == 1);
            must(open_fds() == fds);
        }) == 0);
    }
}

TEST_CASE("a ring that has ended leaves nothing: no memory, no place in its thread's table") {
    const auto registers = [] {  // 1, on a kernel that has such a table
        io_uring ring;
        must(::io_uring_queue_init(2, &ring, 0) == 0);
        const int r = ::io_uring_register_ring_fd(&ring);
        ::io_uring_queue_exit(&ring);
        return r;
    };
    const auto rings = mapped_rings();
    const int before = registers();
    for (int i = 0; i < 40; ++i) block_on(io::nop());  // there are 16 places
    CHECK(mapped_rings() == rings);
    CHECK(registers() == before);
}

// The next thread lies, as a rule, where the one before it has been.
TEST_CASE("a ring of a thread that has ended is not taken for one of the next thread's") {
    for (int i = 0; i < 4; ++i) {
        std::unique_ptr<executor> other;
        std::thread([&] {
            other = std::make_unique<executor>();
            other->run(io::nop());
        }).join();
        int refused = 0, went_on = 0;
        std::thread([&] {
            executor own;
            own.run(io::nop());
            try {
                other->run(io::nop());
            } catch (const std::logic_error& e) { refused += has(e.what(), "thread"); }
            other.reset();
            own.run(io::nop());
            ++went_on;
        }).join();
        CHECK(refused == 1);
        CHECK(went_on == 1);
    }
}

TEST_CASE("a ring is for the thread that made it; without work in flight others can end it") {
    const tube t;
    for (const bool own_ring : {false, true}) {
        auto ex = std::make_unique<executor>();
        std::thread([&] { ex->run(io::nop()); }).join();
        const auto work = [&]() -> task<> {
            int refusals = 0;
            try {
                co_await io::nop();
            } catch (const std::logic_error& e) { refusals += has(e.what(), "thread"); }
            CHECK(refusals == 1);
        };
        auto outer = [&]() -> task<> {
            co_await io::nop();
            while (!ex->empty()) ex->try_tick();
        };
        if (own_ring) {
            auto h = ex->spawn(work());
            block_on(outer());
            CHECK(h.done());
        } else ex->run(work());
        ex.reset();
    }
}

TEST_CASE("an enter that is interrupted, or told to come again, is made again") {
    if (!can_answer) return;
    static int error, calls;
    for (const int e : {EINTR, EBUSY, EAGAIN}) {
        CAPTURE(e);
        error = e;
        CHECK(in_child([] {
            answer_with([](long call, const arguments& a) -> long {
                if (call == __NR_io_uring_enter && ++calls % 3) return -error;
                return really(call, a);
            });
            block_on(everything(reactor::options()));
            block_on(everything(reactor::options(2)));
            must(calls > 30);
        }) == 0);
    }
}

TEST_CASE("a kernel that wants its completions taken before it takes more: they are taken") {
    if (!can_answer) return;
    static const reactor::statistics* stats;
    static std::uint64_t submitted;
    auto root = []() -> task<> {
        reactor::here(reactor::options(2));
        stats = &reactor::stats();
        std::vector<join_handle<>> nops;
        for (int i = 0; i < 20; ++i) nops.push_back(spawn(io::nop()));
        for (auto& h : nops) co_await std::move(h);
    };
    CHECK(in_child([&] {
        answer_with([](long call, const arguments& a) -> long {
            if (call != __NR_io_uring_enter) return really(call, a);
            if (stats && stats->completed < submitted) return -EBUSY;
            const long r = really(call, a);
            submitted += static_cast<std::uint64_t>(std::max(r, 0L));
            return r;
        });
        block_on(root());
        must(submitted == 20);
    }) == 0);
}

// The second time the executor cannot wait for what it has cancelled: the destructor does.
TEST_CASE("a wait that the kernel refuses once, or twice: an error, and the buffer is free") {
    if (!can_answer) return;
    static int refusals;
    static bytes<8 * 3> memory;
    for (const int n : {1, 2}) {
        CAPTURE(n);
        refusals = n;
        CHECK(in_child([] {
            answer_with([](long call, const arguments& a) -> long {
                const bool waits = call == __NR_io_uring_enter && a[2] > 0;
                return waits && refusals > 0 && refusals-- ? -EPERM : really(call, a);
            });
            const tube t;
            auto reads = [&](std::size_t i) -> task<> {
                const std::span<std::byte> part = std::span(memory).subspan(8 * i, 8);
                const lease l(part);
                co_await io::read(t.out, part);
            };
            auto root = [&]() -> task<> {
                spawn(reads(1)).detach();
                spawn(reads(2)).detach();
                co_await reads(0);
            };
            try {
                block_on(root());
                must(false);
            } catch (const std::system_error& e) {
                must(e.code().value() == EPERM && has(e.what(), "io_uring_enter"));
            }
            must(counted::alive == 0 && refusals == 0);
            t.put("nobody reads this");
            must(t.waiting() == 17 && lease::untouched(memory));
        }) == 0);
    }
}

TEST_CASE("a system call a turn at most, and none when there is nothing to say") {
    if (!can_answer) return;
    static int enters;
    auto nops = [](int n) -> task<> {
        for (int i = 0; i < n; ++i) co_await io::nop();
    };
    auto root = [&](reactor::options o) -> task<> {
        reactor::here(o);
        co_await io::nop();
        enters = 0;
        co_await turns(10'000);
        must(enters == 0);  // nothing is pending
        const tube t;
        auto waits = spawn(read_some(t.out));
        co_await turns(3);
        must(enters == 1);  // the read has been handed over
        co_await turns(10'000);
        must(enters == 1);  // and the kernel says nothing
        t.put("x");
        const std::size_t n = co_await std::move(waits);
        must(n == 1);
        must(enters <= 3);

        enters = 0;
        co_await nops(100);
        must(enters <= 101);  // submitted and waited for in one call
        std::vector<join_handle<>> many;
        enters = 0;
        for (int i = 0; i < 50; ++i) many.push_back(spawn(nops(10)));
        for (auto& h : many) co_await std::move(h);
        must(enters <= 40);  // fifty at a time; up to 20 answers a look

        // Asleep is asleep.
        auto later = spawn(
            [](int fd) -> task<> {
                __kernel_timespec ts{0, 50'000'000};
                auto fill = [&](io_uring_sqe* s) { io_uring_prep_timeout(s, &ts, 0, 0); };
                std::ignore = co_await io::op(fill).result();
                must(::write(fd, "x", 1) == 1);
            },
            t.in.get());
        enters = 0;
        co_await read_some(t.out);
        co_await std::move(later);
        must(enters <= 4);
    };
    on_every_rung(64, [&](reactor::options o) {
        CHECK(in_child([&] {
            answer_with([](long call, const arguments& a) -> long {
                enters += call == __NR_io_uring_enter;
                return really(call, a);
            });
            block_on(root(o));
        }) == 0);
    });
}

TEST_CASE("the ring takes the place of no standard descriptor that is closed") {
    const auto reads = []() -> task<> {
        std::array<std::byte, 8> buffer;
        const int r = co_await io::read(2, buffer).result();
        must(r == -EBADF);
        const int w = co_await io::write(2, buffer).result();
        must(w == -EBADF);
        int rings = 0;
        for (const auto& open : std::filesystem::directory_iterator("/proc/self/fd")) {
            if (!has(std::filesystem::read_symlink(open).string(), "[io_uring]")) continue;
            must(++rings == 1 && closes_on_exec(std::stoi(open.path().filename())));
        }
        must(rings == 1);
    };
    for (const int first : {0, 1, 2})
        CHECK(in_child([&] {
            for (int fd = first; fd < 3; ++fd) ::close(fd);
            block_on(reads());
            for (int fd = first; fd < 3; ++fd) must(!is_open(fd));
            block_on(reads());
        }) == 0);
}

TEST_CASE("a ring that another thread only waits with: refused there, and whole afterwards") {
    const tube t;
    executor ex;
    auto reads = ex.spawn(read_some(t.out));
    CHECK(ex.try_tick());
    ex.try_tick();  // the read is in flight
    bool refused = false;
    std::thread([&] {
        ringlet::waker never;
        auto waits = [&]() -> task<> {
            co_await ringlet::suspend([&](ringlet::waker w) { never = std::move(w); });
        };
        try {
            ex.run(waits());
        } catch (const std::logic_error&) { refused = true; }
    }).join();
    CHECK(refused);
    CHECK_FALSE(reads.done());
    t.put("x");
    auto joins = [&]() -> task<> {
        const auto n = co_await std::move(reads);
        CHECK(n == 1);
    };
    ex.run(joins());
}

TEST_CASE("the end of a ring on another thread leaves that thread's own alone") {
    // Not of one issuer: such a ring's registration would be refused to any other thread.
    auto some_nops = [](int n) -> task<> {
        reactor::here(reactor::options(8, IORING_SETUP_SUBMIT_ALL));
        for (int i = 0; i < n; ++i) co_await io::nop();
    };
    std::unique_ptr<executor> other;
    std::thread([&] {
        other = std::make_unique<executor>();
        other->run(some_nops(1));
    }).join();
    auto root = [&]() -> task<> {
        co_await some_nops(1);
        other.reset();
        co_await some_nops(3);
    };
    block_on(root());
    CHECK_FALSE(other);
}
