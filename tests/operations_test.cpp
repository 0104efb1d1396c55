// reactor.hpp: what each operation gives and says, faults put in on the way to the kernel, the
// counters, and the limits: of the ring, of descriptors, of connections.
#include <doctest/doctest.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
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
#include <utility>
#include <vector>

#include "inject.hpp"

using ringlet::block_on;
using ringlet::executor;
using ringlet::join_handle;
using ringlet::reactor;
using ringlet::spawn;
using ringlet::task;
using ringlet::unique_fd;
using ringlet::yield_now;
using support::can_inject;
using support::inject;
namespace io = ringlet::io;

namespace {

// ---- helpers -----------------------------------------------------------------------------------

// Where a doctest assertion would be lost, in a thread or a forked child, or go off too often.
void must(bool ok, std::source_location where = std::source_location::current()) {
    if (!ok) throw std::runtime_error("line " + std::to_string(where.line()) + " is wrong");
}

std::ptrdiff_t open_fds() {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
}
bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }
// As many descriptors at the end as at the beginning.
struct no_leak {
    const std::ptrdiff_t before = open_fds();
    no_leak() = default;
    no_leak(no_leak&&) = delete;
    ~no_leak() { CHECK(open_fds() == before); }
};

template <std::size_t N> using bytes = std::array<std::byte, N>;
std::span<const std::byte> raw(std::string_view text) { return std::as_bytes(std::span(text)); }
std::span<std::byte> room(std::string& text) { return std::as_writable_bytes(std::span(text)); }
iovec part(std::string& text) { return iovec{text.data(), text.size()}; }
std::string noise(std::size_t size) {
    std::mt19937 random(static_cast<unsigned>(size));
    std::string text(size, '\0');
    for (char& c : text) c = static_cast<char>(random());
    return text;
}

std::size_t waiting_in(int fd) {
    int n = 0;
    must(::ioctl(fd, FIONREAD, &n) == 0);
    return static_cast<std::size_t>(n);
}
void put(int fd, std::string_view text) {
    must(::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
}
std::string take(int fd, std::size_t size) {
    std::string text(size, '\0');
    const ssize_t n = ::read(fd, text.data(), size);
    must(n >= 0);
    text.resize(static_cast<std::size_t>(n));
    return text;
}

struct tube {
    unique_fd out, in;
    explicit tube(int size = 0) {
        int ends[2];
        must(::pipe2(ends, O_CLOEXEC) == 0);
        out.reset(ends[0]);
        in.reset(ends[1]);
        if (size) must(::fcntl(in, F_SETPIPE_SZ, size) == size);
    }
    void fill() const {
        must(::fcntl(in, F_SETFL, O_NONBLOCK) == 0);
        const bytes<4096> page{};
        while (::write(in, page.data(), page.size()) > 0) {}
        must(::fcntl(in, F_SETFL, 0) == 0);
    }
};

struct socket_pair {
    unique_fd a, b;
    explicit socket_pair(int type = SOCK_STREAM) {
        int ends[2];
        must(::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends) == 0);
        a.reset(ends[0]);
        b.reset(ends[1]);
    }
};

// A listening socket on 127.0.0.1.
struct listener {
    unique_fd fd;
    sockaddr_in address{};
    listener() : fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof address;
        must(::bind(fd, at(), size) == 0);
        must(::listen(fd, 16) == 0);
        must(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0);
    }
    const sockaddr* at() const { return reinterpret_cast<const sockaddr*>(&address); }
    unique_fd dial() const {
        unique_fd s(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        must(::connect(s, at(), sizeof address) == 0);
        return s;
    }
};
// Both ends of a TCP connection.
struct connection {
    unique_fd client, server;
    connection() {
        const listener l;
        client = l.dial();
        server.reset(::accept4(l.fd, nullptr, nullptr, SOCK_CLOEXEC));
        must(static_cast<bool>(server));
    }
};
// Closes the socket so that the peer sees a reset.
void slam(unique_fd& s) {
    const linger at_once{1, 0};
    must(::setsockopt(s, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once) == 0);
    s.reset();
}

class folder {
public:
    folder() : path_((std::filesystem::temp_directory_path() / "ringlet-XXXXXX").string()) {
        must(::mkdtemp(path_.data()) != nullptr);
    }
    folder(folder&&) = delete;
    ~folder() { std::filesystem::remove_all(path_); }
    std::string file(std::string_view name) const { return path_ + "/" + std::string(name); }
    std::string with(std::string_view name, std::string_view content) const {
        std::ofstream(file(name), std::ios::binary) << content;
        return file(name);
    }
    unique_fd open(std::string_view name, std::string_view content) const {
        return unique_fd(::open(with(name, content).c_str(), O_RDWR | O_CLOEXEC));
    }
    std::string content(std::string_view name) const {
        std::ifstream in(file(name), std::ios::binary);
        return std::string(std::istreambuf_iterator<char>(in), {});
    }

private:
    std::string path_;
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
// Runs it to its end, with the ring of its own that it then has. In the outermost block of each
// coroutine below stands a declaration, for g++ 12.2.
template <class T> task<int> error_of(task<T> work, std::string* what) {
    int error = 0;
    try {
        static_cast<void>(co_await std::move(work));
    } catch (const std::system_error& e) {
        must(e.code().category() == std::system_category());
        error = e.code().value();
        *what = e.what();
    }
    co_return error;
}

// The exception says this, and the reason.
void says(const std::function<void()>& f, int error, const std::string& what) {
    CAPTURE(what);
    bool thrown = false;
    try {
        f();
    } catch (const std::system_error& e) {
        thrown = true;
        CHECK(e.code() == std::error_code(error, std::system_category()));
        CHECK(std::string(e.what()) == what + ": " + std::system_category().message(error));
    }
    CHECK(thrown);
}
// Both forms of the operation that make() gives.
template <class Make> void refused(Make make, int error, const std::string& what) {
    CAPTURE(what);
    CHECK(block_on(make().result()) == -error);
    says([&] { static_cast<void>(block_on(make())); }, error, what);
}
std::string on(const char* operation, int fd) {
    return std::string(operation) + " on descriptor " + std::to_string(fd);
}

int exit_code(pid_t child) {  // or -signal
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}
pid_t forked(const std::function<int()>& f) {
    const pid_t child = ::fork();
    if (child) return child;
    ::alarm(20);
    int code = 99;
    try {
        code = f();
    } catch (const std::exception& e) { std::fprintf(stderr, "in a forked child: %s\n", e.what()); }
    ::_exit(code);
}
// A child that ends with this code when a byte comes.
pid_t child_of(const tube& t, int code) {
    return forked([&] { return take(t.out, 1).size() == 1 ? code : 98; });
}
bool is_zombie(pid_t child) {
    siginfo_t info{};
    return ::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT) == 0
        && info.si_pid == child;
}

// ---- faults ------------------------------------------------------------------------------------

// What becomes of the requests of this thread.
struct plan {
    unsigned at_most = 0;        // so many bytes; 0: as many as are asked for
    int nth = -1, result = 0;    // this one, from 0 on, is not done, and has this result
    std::uint8_t flags = 0;      // IOSQE_*
    int late = -1;               // a nop becomes a wait for this descriptor
    std::vector<unsigned> seen;  // their opcodes
};
plan active;
class meddling {
public:
    explicit meddling(plan p) {
        active = std::move(p);
        reactor::on_submit = [](io_uring_sqe* s) {
            active.seen.push_back(s->opcode);
            const bool moves = s->opcode == IORING_OP_READ || s->opcode == IORING_OP_WRITE;
            if (moves && active.at_most) s->len = std::min(s->len, active.at_most);
            s->flags |= active.flags;
            if (s->opcode == IORING_OP_NOP && active.late >= 0)
                io_uring_prep_poll_add(s, active.late, POLLIN);
            if (static_cast<int>(active.seen.size()) == active.nth + 1) inject(s, active.result);
        };
    }
    meddling(meddling&&) = delete;
    ~meddling() {
        reactor::on_submit = nullptr;
        active = plan();
    }
};
plan shortened(unsigned at_most) {
    plan p;
    p.at_most = at_most;
    return p;
}
plan failing(int nth, int result, unsigned at_most = 0) {
    plan p = shortened(at_most);
    p.nth = nth;
    p.result = result;
    return p;
}

}  // namespace

// ---- what each operation gives -----------------------------------------------------------------

TEST_CASE("readv and writev: several buffers, an offset, the position, the end, and the limit") {
    const no_leak here;
    const folder dir;
    auto file = dir.open("a", "");
    std::string a = "one ", b = "two ", none, c = "three";
    const iovec all[] = {part(a), part(b), part(none), part(c)};
    CHECK(block_on(io::writev(file, all)) == 13);
    CHECK(dir.content("a") == "one two three");
    CHECK(::lseek(file, 0, SEEK_CUR) == 13);
    CHECK(block_on(io::writev(file, std::span(all).first(2), 4)) == 8);
    CHECK(dir.content("a") == "one one two e");
    CHECK(::lseek(file, 0, SEEK_CUR) == 13);
    CHECK(block_on(io::writev(file, std::span(all).first(1)).result()) == 4);
    CHECK(dir.content("a") == "one one two eone ");

    std::string x(3, '?'), y(6, '?');
    const iovec into[] = {part(x), part(y)};
    CHECK(block_on(io::readv(file, into, 4)) == 9);
    CHECK(x == "one");
    CHECK(y == " two e");
    CHECK(::lseek(file, 0, SEEK_CUR) == 17);
    CHECK(block_on(io::readv(file, into)) == 0);
    ::lseek(file, 12, SEEK_SET);
    CHECK(block_on(io::readv(file, into)) == 5);
    CHECK(x == "eon");
    CHECK(y == "e wo e");  // of its six bytes the first two were left
    CHECK(block_on(io::readv(file, into, 100).result()) == 0);
    CHECK(block_on(io::readv(file, std::span<const iovec>(), 0)) == 0);
    CHECK(block_on(io::writev(file, std::span<const iovec>(), 0)) == 0);

    std::string letters = noise(1024), copy(1024, '?');
    std::vector<iovec> from, to;
    for (std::size_t i = 0; i < 1024; ++i) {
        from.push_back(iovec{&letters[i], 1});
        to.push_back(iovec{&copy[i], 1});
    }
    CHECK(block_on(io::writev(file, from, 0)) == 1024);
    CHECK(block_on(io::readv(file, to, 0)) == 1024);
    CHECK(copy == letters);
    from.push_back(from[0]);
    refused([&] { return io::writev(file, from, 0); }, EINVAL, on("writev", file));
    refused([&] { return io::readv(file, from, 0); }, EINVAL, on("readv", file));
    CHECK(dir.content("a") == letters);
}

TEST_CASE("statx: a file, a folder, a link, and the target of a link") {
    const no_leak here;
    const folder dir;
    const std::string file = dir.with("a", "12345"), link = dir.file("l");
    REQUIRE(::chmod(file.c_str(), 0640) == 0);
    REQUIRE(::symlink("a", link.c_str()) == 0);
    struct statx s {};
    block_on(io::statx(file.c_str(), &s));
    CHECK(s.stx_size == 5);
    CHECK(s.stx_mode == (S_IFREG | 0640));
    CHECK(s.stx_nlink == 1);
    s = {};
    block_on(io::statx(dir.file("").c_str(), &s));
    CHECK(S_ISDIR(s.stx_mode));
    s = {};
    CHECK(block_on(io::statx(link.c_str(), &s, AT_SYMLINK_NOFOLLOW).result()) == 0);
    CHECK(S_ISLNK(s.stx_mode));
    CHECK(s.stx_size == 1);
    s = {};
    block_on(io::statx(link.c_str(), &s, 0, STATX_SIZE));
    CHECK((s.stx_mask & STATX_SIZE) != 0);
    CHECK(s.stx_size == 5);

    struct statx untouched {};
    untouched.stx_size = 4711;
    const std::string below = file + "/x", none = dir.file("none");
    refused([&] { return io::statx(none.c_str(), &untouched); }, ENOENT, "statx " + none);
    refused([&] { return io::statx(below.c_str(), &untouched); }, ENOTDIR, "statx " + below);
    refused([&] { return io::statx("", &untouched); }, ENOENT, "statx ");
    refused([&] { return io::statx("/", &untouched, 1 << 30); }, EINVAL, "statx /");
    CHECK(untouched.stx_size == 4711);
}

TEST_CASE("rename, unlink, mkdir, fsync") {
    const no_leak here;
    const folder dir;
    const std::string a = dir.with("a", "first"), b = dir.with("b", "second"), d = dir.file("d");
    const std::string none = dir.file("none"), inside = dir.file("d/x");

    block_on(io::mkdir(d.c_str(), 0700));
    struct stat s {};
    REQUIRE(::stat(d.c_str(), &s) == 0);
    CHECK(s.st_mode == (S_IFDIR | 0700));
    refused([&] { return io::mkdir(d.c_str()); }, EEXIST, "mkdir " + d);
    refused([&] { return io::mkdir((none + "/x").c_str()); }, ENOENT, "mkdir " + none + "/x");
    refused([&] { return io::mkdir((a + "/x").c_str()); }, ENOTDIR, "mkdir " + a + "/x");

    block_on(io::rename(a.c_str(), inside.c_str()));
    CHECK_FALSE(std::filesystem::exists(a));
    CHECK(dir.content("d/x") == "first");
    CHECK(block_on(io::rename(b.c_str(), inside.c_str()).result()) == 0);  // in its place
    CHECK_FALSE(std::filesystem::exists(b));
    CHECK(dir.content("d/x") == "second");
    refused([&] { return io::rename(none.c_str(), a.c_str()); }, ENOENT, "rename " + none);
    refused([&] { return io::rename(inside.c_str(), d.c_str()); }, ENOTEMPTY, "rename " + inside);
    refused([&] { return io::rename(d.c_str(), (d + "/y").c_str()); }, EINVAL, "rename " + d);
    dir.with("c", "");
    const std::string c = dir.file("c"), e = dir.file("e");
    REQUIRE(::mkdir(e.c_str(), 0700) == 0);
    refused([&] { return io::rename(c.c_str(), e.c_str()); }, EISDIR, "rename " + c);
    refused([&] { return io::rename(e.c_str(), c.c_str()); }, ENOTDIR, "rename " + e);

    refused([&] { return io::unlink(none.c_str()); }, ENOENT, "unlink " + none);
    refused([&] { return io::unlink(d.c_str()); }, EISDIR, "unlink " + d);
    refused([&] { return io::unlink(c.c_str(), AT_REMOVEDIR); }, ENOTDIR, "unlink " + c);
    refused([&] { return io::unlink(d.c_str(), AT_REMOVEDIR); }, ENOTEMPTY, "unlink " + d);
    block_on(io::unlink(inside.c_str()));
    CHECK_FALSE(std::filesystem::exists(inside));
    CHECK(block_on(io::unlink(d.c_str(), AT_REMOVEDIR).result()) == 0);
    CHECK_FALSE(std::filesystem::exists(d));
    refused([&] { return io::unlink(d.c_str(), AT_REMOVEDIR); }, ENOENT, "unlink " + d);

    const auto file = dir.open("f", "data");
    block_on(io::fsync(file));
    block_on(io::fsync(file, IORING_FSYNC_DATASYNC));
    CHECK(block_on(io::fsync(file).result()) == 0);
    refused([&] { return io::fsync(file, 1u << 20); }, EINVAL, on("fsync", file));
    const tube t;
    refused([&] { return io::fsync(t.in); }, EINVAL, on("fsync", t.in));
}

TEST_CASE("recvmsg and sendmsg: parts, addresses, what is cut off, a descriptor that is sent") {
    const no_leak here;
    const socket_pair p(SOCK_DGRAM);
    std::string a = "head", b = "body", x(2, '?'), y(9, '?');
    iovec from[] = {part(a), part(b)}, into[] = {part(x), part(y)};
    msghdr out{}, in{};
    out.msg_iov = from;
    out.msg_iovlen = 2;
    in.msg_iov = into;
    in.msg_iovlen = 2;
    CHECK(block_on(io::sendmsg(p.a, &out)) == 8);
    CHECK(block_on(io::recvmsg(p.b, &in)) == 8);
    CHECK(x == "he");
    CHECK(y == "adbody???");
    CHECK(in.msg_flags == 0);
    CHECK(block_on(io::sendmsg(p.a, &out).result()) == 8);
    in.msg_iovlen = 1;
    CHECK(block_on(io::recvmsg(p.b, &in, MSG_PEEK).result()) == 2);
    CHECK((in.msg_flags & MSG_TRUNC) != 0);
    CHECK(block_on(io::recvmsg(p.b, &in, MSG_TRUNC)) == 8);  // its real size
    CHECK(block_on(io::recvmsg(p.b, &in, MSG_DONTWAIT).result()) == -EAGAIN);

    tube t;
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    out.msg_control = control;
    out.msg_controllen = sizeof control;
    cmsghdr* const c = CMSG_FIRSTHDR(&out);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    const int sent = t.in;
    std::memcpy(CMSG_DATA(c), &sent, sizeof sent);
    CHECK(block_on(io::sendmsg(p.a, &out)) == 8);
    t.in.reset();
    std::ranges::fill(control, '\0');
    in.msg_control = control;
    in.msg_controllen = sizeof control;
    CHECK(block_on(io::recvmsg(p.b, &in, MSG_CMSG_CLOEXEC)) == 2);
    REQUIRE(CMSG_FIRSTHDR(&in) != nullptr);
    int came = -1;
    std::memcpy(&came, CMSG_DATA(CMSG_FIRSTHDR(&in)), sizeof came);
    const unique_fd owner(came);
    CHECK(::fcntl(owner, F_GETFD) == FD_CLOEXEC);
    put(owner, "through");
    CHECK(take(t.out, 100) == "through");

    // By address, each way.
    const unique_fd u(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_in mine{}, whose{};
    mine.sin_family = AF_INET;
    mine.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof mine;
    REQUIRE(::bind(u, reinterpret_cast<const sockaddr*>(&mine), size) == 0);
    REQUIRE(::getsockname(u, reinterpret_cast<sockaddr*>(&mine), &size) == 0);
    msghdr to{}, back{};
    to.msg_iov = from;
    to.msg_iovlen = 2;
    to.msg_name = &mine;
    to.msg_namelen = sizeof mine;
    back.msg_iov = into;
    back.msg_iovlen = 2;
    back.msg_name = &whose;
    back.msg_namelen = sizeof whose;
    CHECK(block_on(io::sendmsg(u, &to)) == 8);
    CHECK(block_on(io::recvmsg(u, &back)) == 8);
    CHECK(back.msg_namelen == sizeof whose);
    CHECK(whose.sin_port == mine.sin_port);
    to.msg_name = nullptr;
    to.msg_namelen = 0;
    refused([&] { return io::sendmsg(u, &to); }, EDESTADDRREQ, on("sendmsg", u));
}

TEST_CASE("poll: what holds, at once and later") {
    const no_leak here;
    tube t;
    socket_pair p;
    CHECK(block_on(io::poll(t.in, POLLIN | POLLOUT)) == POLLOUT);
    CHECK(block_on(io::poll(p.a, POLLIN | POLLOUT)) == POLLOUT);
    put(p.b, "x");
    CHECK(block_on(io::poll(p.a, POLLIN | POLLOUT).result()) == (POLLIN | POLLOUT));
    CHECK(take(p.a, 9) == "x");  // it takes nothing
    auto root = [&]() -> task<> {
        auto reads = spawn(io::poll(t.out, POLLIN));
        auto ends = spawn(io::poll(t.out, 0));
        auto peer = spawn(io::poll(p.a, POLLRDHUP));
        co_await turns(5);
        CHECK_FALSE(reads.done());
        CHECK_FALSE(ends.done());
        CHECK_FALSE(peer.done());
        put(t.in, "x");
        int events = co_await std::move(reads);
        CHECK(events == POLLIN);
        co_await turns(5);
        CHECK_FALSE(ends.done());
        t.in.reset();
        events = co_await std::move(ends);
        CHECK(events == POLLHUP);
        CHECK_FALSE(peer.done());
        must(::shutdown(p.b, SHUT_WR) == 0);
        events = co_await std::move(peer);
        CHECK(events == POLLRDHUP);
    };
    block_on(root());
    t = tube();
    t.out.reset();
    CHECK(block_on(io::poll(t.in, 0)) == POLLERR);
}

TEST_CASE("poll: urgent data of a connection") {
    const no_leak here;
    connection c;
    auto root = [&]() -> task<> {
        auto urgent = spawn(io::poll(c.server, POLLIN | POLLPRI));
        co_await turns(5);
        CHECK_FALSE(urgent.done());
        must(::send(c.client, "!", 1, MSG_OOB) == 1);
        int events = co_await std::move(urgent);
        CHECK((events & POLLPRI) != 0);
        std::array<std::byte, 1> mark;
        std::size_t n = co_await io::recv(c.server, mark, MSG_OOB);
        CHECK(n == 1);
        c.client.reset();
        events = co_await io::poll(c.server, POLLIN | POLLPRI);
        CHECK((events & POLLIN) != 0);
    };
    block_on(root());
}

TEST_CASE("splice: file to pipe to file, offsets, the end, and what it refuses") {
    const no_leak here;
    const folder dir;
    const auto from = dir.open("from", "0123456789"), to = dir.open("to", "..........");
    const tube t;
    CHECK(block_on(io::splice(from, 2, t.in, -1, 5)) == 5);
    CHECK(::lseek(from, 0, SEEK_CUR) == 0);
    CHECK(waiting_in(t.out) == 5);
    CHECK(block_on(io::splice(t.out, -1, to, 4, 3)) == 3);
    CHECK(dir.content("to") == "....234...");
    CHECK(block_on(io::splice(t.out, -1, to, -1, 100).result()) == 2);
    CHECK(dir.content("to") == "56..234...");
    CHECK(::lseek(to, 0, SEEK_CUR) == 2);
    CHECK(block_on(io::splice(from, -1, t.in, -1, 4)) == 4);
    CHECK(::lseek(from, 0, SEEK_CUR) == 4);
    CHECK(block_on(io::splice(from, 10, t.in, -1, 4)) == 0);
    CHECK(take(t.out, 100) == "0123");
    refused([&] { return io::splice(from, 0, to, 0, 5); }, EINVAL, on("splice", from));
    refused([&] { return io::splice(t.out, 0, to, 0, 5); }, ESPIPE, on("splice", t.out));
    refused([&] { return io::splice(t.in, -1, to, 0, 5); }, EBADF, on("splice", t.in));
    CHECK(dir.content("to") == "56..234...");
}

TEST_CASE("write_all at the file's position: where a file takes no more it keeps what it took") {
    const folder dir;
    std::vector<std::byte> bytes(50'000);
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i / 100);
    rlimit before;
    REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
    const auto ignored = ::signal(SIGXFSZ, SIG_IGN);
    const rlimit small{10'000, before.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
    for (const int flags : {0, O_APPEND}) {
        const unique_fd file(
            ::open(dir.file("x").c_str(), O_RDWR | O_CREAT | O_TRUNC | flags, 0600));
        REQUIRE(::write(file, "begin", 5) == 5);
        says([&] { block_on(io::write_all(file, bytes)); }, EFBIG,
            "write on descriptor " + std::to_string(file.get()));
        std::vector<std::byte> there(20'000);
        CHECK(::pread(file, there.data(), there.size(), 0) == 10'000);
        CHECK(std::equal(there.begin() + 5, there.begin() + 10'000, bytes.begin()));
        CHECK(::lseek(file, 0, SEEK_CUR) == 10'000);
    }
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
    ::signal(SIGXFSZ, ignored);
}

TEST_CASE("an error names the operation and its descriptor, path or neither") {
    const no_leak here;
    REQUIRE_FALSE(is_open(99));
    bytes<8> buffer;
    iovec v{buffer.data(), buffer.size()};
    const std::span<const iovec> one(&v, 1);
    msghdr m{};
    m.msg_iov = &v;
    m.msg_iovlen = 1;
    const sockaddr_in nowhere{};
    const auto* const to = reinterpret_cast<const sockaddr*>(&nowhere);
    const tube t;
    refused([&] { return io::read(99, buffer); }, EBADF, "read on descriptor 99");
    refused([&] { return io::write(99, buffer); }, EBADF, "write on descriptor 99");
    refused([&] { return io::readv(99, one); }, EBADF, "readv on descriptor 99");
    refused([&] { return io::writev(99, one); }, EBADF, "writev on descriptor 99");
    refused([&] { return io::close(99); }, EBADF, "close on descriptor 99");
    refused([&] { return io::close(unique_fd(99)); }, EBADF, "close on descriptor 99");
    refused([&] { return io::fsync(99); }, EBADF, "fsync on descriptor 99");
    refused([&] { return io::connect(99, to, 16); }, EBADF, "connect on descriptor 99");
    refused([&] { return io::accept(99); }, EBADF, "accept on descriptor 99");
    refused([&] { return io::recv(99, buffer); }, EBADF, "recv on descriptor 99");
    refused([&] { return io::send(99, buffer); }, EBADF, "send on descriptor 99");
    refused([&] { return io::recvmsg(99, &m); }, EBADF, "recvmsg on descriptor 99");
    refused([&] { return io::sendmsg(99, &m); }, EBADF, "sendmsg on descriptor 99");
    refused([&] { return io::poll(99, POLLIN); }, EBADF, "poll on descriptor 99");
    refused([&] { return io::splice(99, -1, t.in, -1, 1); }, EBADF, "splice on descriptor 99");
    refused([&] { return io::splice(t.out, -1, 99, -1, 1); }, EBADF, on("splice", t.out));
    refused([&] { return io::recvmsg(t.out, &m); }, ENOTSOCK, on("recvmsg", t.out));
    refused([&] { return io::sendmsg(t.in, &m); }, ENOTSOCK, on("sendmsg", t.in));
    refused([&] { return io::readv(t.in, one); }, EBADF, on("readv", t.in));
    refused([&] { return io::writev(t.out, one); }, EBADF, on("writev", t.out));
    refused([&] { return io::read(-1, buffer); }, EBADF, "read on descriptor -1");
    refused([&] { return io::socket(9999, SOCK_STREAM); }, EAFNOSUPPORT, "socket");
    refused([&] { return io::open("/nonexistent", O_RDONLY); }, ENOENT, "open /nonexistent");
    refused([&] { return io::open("/", O_WRONLY); }, EISDIR, "open /");
    auto unknown = [](io_uring_sqe* s) { s->opcode = 255; };
    refused([&] { return io::op(unknown); }, EINVAL, "io::op");
    refused([&] { return io::op(unknown, "what it does"); }, EINVAL, "what it does");
    says([&] { block_on(io::read_exactly(99, buffer)); }, EBADF, "read on descriptor 99");
    says([&] { block_on(io::write_all(99, buffer)); }, EBADF, "write on descriptor 99");
    const unique_fd full(::open("/dev/full", O_WRONLY | O_CLOEXEC));
    REQUIRE(static_cast<bool>(full));
    refused([&] { return io::write(full, buffer); }, ENOSPC, on("write", full));
    refused([&] { return io::writev(full, one); }, ENOSPC, on("writev", full));
    says([&] { block_on(io::write_all(full, buffer)); }, ENOSPC, on("write", full));
    socket_pair p;
    p.b.reset();
    refused([&] { return io::sendmsg(p.a, &m); }, EPIPE, on("sendmsg", p.a));  // and no signal
}

// ---- what is borrowed, and what is copied ------------------------------------------------------

TEST_CASE("paths may change and go as soon as the operation is made") {
    const no_leak here;
    const folder dir;
    for (const std::size_t size : {1u, 15u, 16u, 17u, 120u, 250u}) {
        CAPTURE(size);
        const std::string name(size, 'n'), other(size, 'o');
        // Makes it, spoils the path, and only then awaits it.
        auto gone = [&](auto make, std::string path) {
            auto operation = make(path.c_str());
            std::ranges::fill(path, '?');
            path = std::string();
            auto moved = std::move(operation);
            block_on(std::move(moved));
        };
        gone([](const char* p) { return io::mkdir(p, 0700); }, dir.file(name));
        CHECK(std::filesystem::is_directory(dir.file(name)));
        struct statx s {};
        gone([&](const char* p) { return io::statx(p, &s); }, dir.file(name));
        CHECK(S_ISDIR(s.stx_mode));
        auto target = std::make_unique<std::string>(dir.file(other));
        auto rename = [&](const char* p) {
            auto operation = io::rename(p, target->c_str());
            std::ranges::fill(*target, '?');
            target.reset();
            return operation;
        };
        gone(rename, dir.file(name));
        CHECK_FALSE(std::filesystem::exists(dir.file(name)));
        CHECK(std::filesystem::is_directory(dir.file(other)));
        gone([](const char* p) { return io::unlink(p, AT_REMOVEDIR); }, dir.file(other));
        CHECK_FALSE(std::filesystem::exists(dir.file(other)));
        // The text of an error too has the path of the call.
        const std::string none = dir.file(name);
        auto path = std::make_unique<std::string>(none);
        auto failing = io::unlink(path->c_str());
        std::ranges::fill(*path, '?');
        path.reset();
        says([&] { block_on(std::move(failing)); }, ENOENT, "unlink " + none);
    }
}

template <class A> concept kept_by_op = requires(A a) {
    ringlet::detail::kept(std::forward<A>(a));
};
TEST_CASE("io::op with arguments: a function of liburing's, numbers, spans and descriptors") {
    const no_leak here;
    const folder dir;
    const unique_fd file = dir.open("f", "data");
    // (With numbers of its own: what kind fallocate takes is another with each liburing.)
    const auto longer = [](auto* s, int fd) { io_uring_prep_fallocate(s, fd, 0, 0, 1000); };
    CHECK(block_on(io::op(longer, "fallocate", file)) == 0);
    CHECK(dir.content("f").size() == 1000);
    const auto wrong = [](auto* s, int fd) { io_uring_prep_fallocate(s, fd, 0, 0, 0); };
    refused([&] { return io::op(wrong, "fallocate", file); }, EINVAL, on("fallocate", file));
    const std::string link = dir.file("link");
    CHECK(block_on(io::op(io_uring_prep_symlink, "symlink", "f", link.c_str())) == 0);
    CHECK(dir.content("link").size() == 1000);
    refused([&] { return io::op(io_uring_prep_symlink, "symlink", "f", link.c_str()); }, EEXIST,
        "symlink");
    // A descriptor is borrowed: one that would be closed before the operation begins is refused.
    static_assert(kept_by_op<unique_fd&> && kept_by_op<const unique_fd&> && kept_by_op<int>);
    static_assert(!kept_by_op<unique_fd&&> && !kept_by_op<const unique_fd&&>);
    // What is no path is not taken for one: bytes behind a char* are those that are there.
    const tube t;
    const char bytes[] = "ab\0cd";
    const char* const begin = bytes;
    CHECK(block_on(io::op(io_uring_prep_write, "write", t.in, begin, 5u, std::int64_t{-1})) == 5);
    std::array<char, 6> got{};
    CHECK(::read(t.out, got.data(), got.size()) == 5);
    CHECK(std::memcmp(got.data(), bytes, 6) == 0);
    std::array<std::byte, 3> into{};
    auto reads = io::op(io_uring_prep_read, "read", file, std::span(into), 3u, std::int64_t{0});
    auto moved = std::move(reads);
    CHECK(block_on(std::move(moved)) == 3);
    CHECK(std::memcmp(into.data(), "dat", 3) == 0);
}

TEST_CASE("io::op with arguments: what its function leaves out is zero") {
    auto root = [](ringlet::reactor::options o) -> task<> {
        ringlet::reactor::here(o);
        auto as_nobody = [](io_uring_sqe* s) {
            io_uring_prep_nop(s);
            s->personality = 77;
        };
        for (int i = 0; i < 2; ++i) {  // each place in the ring
            const int r = co_await io::op(as_nobody).result();
            CHECK(r == -EINVAL);
        }
        auto short_nop = [](io_uring_sqe* s, int) { s->opcode = IORING_OP_NOP; };
        const int r = co_await io::op(short_nop, "nop", 0).result();
        CHECK(r == 0);
    };
    block_on(root(ringlet::reactor::options(2)));
}

TEST_CASE("addresses and arrays of buffers may change and go as soon as the operation is made") {
    const no_leak here;
    const folder dir;
    const auto file = dir.open("a", "");
    for (const std::size_t parts : {1u, 2u, 8u, 100u}) {
        CAPTURE(parts);
        std::string text = noise(parts), copy(parts, '?');
        auto from = std::make_unique<std::vector<iovec>>();
        for (char& c : text) from->push_back(iovec{&c, 1});
        auto into = std::make_unique<std::vector<iovec>>();
        for (char& c : copy) into->push_back(iovec{&c, 1});
        auto writing = io::writev(file, *from, 0);
        auto reading = io::readv(file, *into, 0).result();
        std::ranges::fill(*from, iovec{nullptr, 77});
        std::ranges::fill(*into, iovec{nullptr, 77});
        from.reset();
        into.reset();
        auto moved = std::move(writing);
        CHECK(block_on(std::move(moved)) == parts);
        auto also_moved = std::move(reading);
        CHECK(block_on(std::move(also_moved)) == static_cast<int>(parts));
        CHECK(copy == text);
    }

    // The longest address that there is.
    auto address = std::make_unique<sockaddr_un>();
    address->sun_family = AF_UNIX;
    const std::string name = "ringlet" + std::to_string(::getpid());
    std::ranges::fill(address->sun_path, 'x');
    address->sun_path[0] = '\0';  // no file
    std::ranges::copy(name, address->sun_path + 1);
    const unique_fd server(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const unique_fd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const auto* const at = reinterpret_cast<const sockaddr*>(address.get());
    REQUIRE(::bind(server, at, sizeof *address) == 0);
    REQUIRE(::listen(server, 1) == 0);
    auto connecting = io::connect(client, at, sizeof *address);
    std::memset(address.get(), '?', sizeof *address);
    address.reset();
    auto moved = std::move(connecting);
    block_on(std::move(moved));
    const auto accepted = block_on(io::accept(server));
    put(accepted, "hello");
    CHECK(take(client, 9) == "hello");
}

// ---- wait_pid ----------------------------------------------------------------------------------

TEST_CASE("wait_pid: a child that exits, is killed, has ended, has been waited for") {
    const no_leak here;
    const tube t;
    auto root = [&](pid_t pid, std::function<void()> end) -> task<int> {
        auto h = spawn(io::wait_pid(pid));
        co_await turns(5);
        CHECK_FALSE(h.done());
        end();
        co_return co_await std::move(h);
    };
    pid_t pid = child_of(t, 7);
    int status = block_on(root(pid, [&] { put(t.in, "x"); }));
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 7);
    CHECK(::waitpid(pid, &status, WNOHANG) == -1);  // it has been taken
    const std::string name = "wait_pid " + std::to_string(pid);
    says([&] { block_on(io::wait_pid(pid)); }, ECHILD, name);

    pid = child_of(t, 7);
    status = block_on(root(pid, [&] { ::kill(pid, SIGKILL); }));
    CHECK(WIFSIGNALED(status));
    CHECK(WTERMSIG(status) == SIGKILL);

    // To be stopped is not the end.
    pid = child_of(t, 8);
    REQUIRE(::kill(pid, SIGSTOP) == 0);
    siginfo_t info{};
    REQUIRE(::waitid(P_PID, static_cast<id_t>(pid), &info, WSTOPPED) == 0);
    status = block_on(root(pid, [&] { ::kill(pid, SIGCONT), put(t.in, "x"); }));
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 8);

    pid = child_of(t, 9);
    put(t.in, "x");
    REQUIRE(is_zombie(pid));
    status = block_on(io::wait_pid(pid));
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 9);

    says([&] { block_on(io::wait_pid(-1)); }, EINVAL, "wait_pid -1");
    says([&] { block_on(io::wait_pid(0)); }, EINVAL, "wait_pid 0");
}

TEST_CASE("wait_pid: a process that is not ours to wait for") {
    const no_leak here;
    const tube t, go, numbers;
    // A grandchild, whose parent does not end before it.
    const pid_t child = forked([&] {
        const pid_t grandchild = child_of(go, 3);
        must(::write(numbers.in, &grandchild, sizeof grandchild) == sizeof grandchild);
        return take(t.out, 1).size() == 1 && exit_code(grandchild) == 3 ? 0 : 1;
    });
    pid_t grandchild = 0;
    REQUIRE(::read(numbers.out, &grandchild, sizeof grandchild) == sizeof grandchild);
    auto root = [&]() -> task<> {
        for (const pid_t other : {grandchild, ::getppid(), ::getpid()}) {
            std::string what;
            const int error = co_await error_of(io::wait_pid(other), &what);
            CHECK(error == ECHILD);
            CHECK(what.starts_with("wait_pid " + std::to_string(other) + ": "));
        }
    };
    block_on(root());
    put(go.in, "x");
    put(t.in, "x");
    CHECK(exit_code(child) == 0);  // and its own parent could still wait for it

    // Of two that wait for one, one gets it.
    const pid_t pid = child_of(t, 5);
    auto two = [&]() -> task<> {
        std::string whats[2];
        auto a = spawn(error_of(io::wait_pid(pid), &whats[0]));
        auto b = spawn(error_of(io::wait_pid(pid), &whats[1]));
        co_await turns(5);
        put(t.in, "x");
        const int first = co_await std::move(a);
        const int second = co_await std::move(b);
        CHECK(first + second == ECHILD);
        CHECK((first == 0) != (second == 0));
    };
    block_on(two());
}

TEST_CASE("wait_pid: cancelled while it waits") {
    const no_leak here;
    const tube t;
    const pid_t pid = child_of(t, 6);
    auto root = [&]() -> task<> {
        const auto before = open_fds();
        auto h = spawn(io::wait_pid(pid));
        co_await turns(5);
        CHECK_FALSE(h.done());
        CHECK(open_fds() > before);
        const std::optional<int> nothing = co_await std::move(h).cancel();
        CHECK_FALSE(nothing.has_value());
        CHECK(reactor::stats().in_flight == 0);
        CHECK(open_fds() == before + 1);  // the ring
    };
    block_on(root());
    CHECK(::waitpid(pid, nullptr, WNOHANG) == 0);  // it lives, and is ours
    put(t.in, "x");
    CHECK(exit_code(pid) == 6);
}

TEST_CASE("wait_pid: eight children, which end in another order") {
    const no_leak here;
    std::vector<tube> tubes;
    for (int i = 0; i < 8; ++i) tubes.emplace_back();
    std::vector<pid_t> pids;
    for (int i = 0; i < 8; ++i) pids.push_back(child_of(tubes[static_cast<std::size_t>(i)], i));
    auto root = [&]() -> task<> {
        std::vector<join_handle<int>> waits;
        for (const pid_t pid : pids) waits.push_back(spawn(io::wait_pid(pid)));
        for (std::size_t n = 0; n < 8; ++n) {
            const std::size_t i = n * 5 % 8;
            put(tubes[i].in, "x");
            const int status = co_await std::move(waits[i]);
            CHECK(WIFEXITED(status));
            CHECK(WEXITSTATUS(status) == static_cast<int>(i));
            const auto ended = std::ranges::count_if(waits, [](auto& h) { return h.done(); });
            CHECK(ended == static_cast<std::ptrdiff_t>(n) + 1);
        }
    };
    block_on(root());
}

// ---- read_exactly and write_all ----------------------------------------------------------------

TEST_CASE("read_exactly: a file, an offset, the end, nothing") {
    const no_leak here;
    const folder dir;
    const auto file = dir.open("a", "0123456789");
    std::string four(4, '?'), all(10, '?'), more(11, '?'), none;
    block_on(io::read_exactly(file, room(four)));
    CHECK(four == "0123");
    CHECK(::lseek(file, 0, SEEK_CUR) == 4);
    block_on(io::read_exactly(file, room(four), 6));
    CHECK(four == "6789");
    CHECK(::lseek(file, 0, SEEK_CUR) == 4);
    block_on(io::read_exactly(file, room(all), 0));
    CHECK(all == "0123456789");
    const std::string text = on("read_exactly", file);
    says([&] { block_on(io::read_exactly(file, room(more), 0)); }, ENODATA, text);
    CHECK(more == "0123456789?");
    says([&] { block_on(io::read_exactly(file, room(four), 10)); }, ENODATA, text);
    CHECK(four == "6789");
    block_on(io::read_exactly(file, room(none), 10));  // is there
    block_on(io::read_exactly(-1, room(none)));
    block_on(io::write_all(-1, raw("")));
    ::lseek(file, 8, SEEK_SET);
    says([&] { block_on(io::read_exactly(file, room(four))); }, ENODATA, text);
    CHECK(four == "8989");
}

TEST_CASE("read_exactly: a message in every split, byte by byte and whole") {
    const no_leak here;
    const std::string text = "sixpak";
    auto root = [&](unsigned cuts) -> task<> {
        const socket_pair p;
        std::string got(6, '?');
        auto reading = spawn(io::read_exactly(p.b, room(got)));
        co_await turns(3);
        std::size_t begin = 0, pieces = 0;
        for (std::size_t i = 1; i <= 6; ++i) {
            if (i < 6 && !(cuts >> (i - 1) & 1)) continue;
            CHECK_FALSE(reading.done());
            put(p.a, std::string_view(text).substr(begin, i - begin));
            begin = i;
            ++pieces;
            auto taken = [&] { return waiting_in(p.b) == 0; };
            const bool all_taken = co_await becomes(taken);
            CHECK(all_taken);
            co_await turns(3);
            CHECK(got == text.substr(0, i) + std::string(6 - i, '?'));
        }
        co_await std::move(reading);
        CHECK(got == text);
        CHECK(reactor::stats().submitted == pieces);
    };
    for (unsigned cuts = 0; cuts < 32; ++cuts) {
        CAPTURE(cuts);
        block_on(root(cuts));
    }
}

TEST_CASE("read_exactly: the peer goes in the middle of the message") {
    const no_leak here;
    auto root = [](std::size_t came) -> task<> {
        socket_pair p;
        std::string got(6, '?'), what;
        const std::string text = "sixpak";
        auto reading = spawn(error_of(io::read_exactly(p.b, room(got)), &what));
        co_await turns(3);
        if (came) put(p.a, std::string_view(text).substr(0, came));
        co_await turns(3);
        CHECK_FALSE(reading.done());
        p.a.reset();
        const int error = co_await std::move(reading);
        CHECK(error == ENODATA);
        CHECK(what.starts_with(on("read_exactly", p.b) + ": "));
        CHECK(got == text.substr(0, came) + std::string(6 - came, '?'));
    };
    for (std::size_t came = 0; came < 6; ++came) block_on(root(came));
}

TEST_CASE("write_all: into a full pipe, whose reader takes a little at a time") {
    const no_leak here;
    const tube t(4096);
    t.fill();
    const std::string data = noise(50'001);
    auto root = [&]() -> task<> {
        auto writing = spawn(io::write_all(t.in, raw(data)));
        co_await turns(5);
        CHECK_FALSE(writing.done());
        CHECK(waiting_in(t.out) == 4096);
        CHECK(reactor::stats().in_flight == 1);
        std::string got, some(700, '?');
        const std::size_t all = 4096 + data.size();
        for (int i = 0; got.size() < all && i < 10'000; ++i) {
            must(got.size() + 4096 >= all || !writing.done());
            const std::size_t size = 1 + got.size() % 700;
            const std::size_t n = co_await io::read(t.out, room(some).first(size));
            must(n > 0 && n <= size);
            got.append(some, 0, n);
            co_await turns(1);
        }
        co_await std::move(writing);
        CHECK(got.size() == all);
        const bool same = got.substr(4096) == data;
        CHECK(same);
        CHECK(waiting_in(t.out) == 0);
    };
    block_on(root());
}

TEST_CASE("more bytes than a request can name: as many as it can; write_all: all of them") {
    constexpr std::size_t size = std::size_t{1} << 32;
    constexpr int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* const at = ::mmap(nullptr, size, PROT_NONE, kind, -1, 0);  // nobody looks at them
    REQUIRE(at != MAP_FAILED);
    const std::span bytes(static_cast<const std::byte*>(at), size);
    const unique_fd null(::open("/dev/null", O_WRONLY | O_CLOEXEC));
    CHECK(block_on(io::write(null, bytes)) == 0x7ffff000);
    CHECK(block_on(io::write_all(null, bytes)) == size);
    ::munmap(at, size);
}

TEST_CASE("write_all: at an offset, at the position, and to a pipe whose reader goes") {
    const no_leak here;
    const folder dir;
    const auto file = dir.open("a", "..........");
    block_on(io::write_all(file, raw("abc"), 3));
    CHECK(dir.content("a") == "...abc....");
    CHECK(::lseek(file, 0, SEEK_CUR) == 0);
    block_on(io::write_all(file, raw("xy")));
    CHECK(dir.content("a") == "xy.abc....");
    CHECK(::lseek(file, 0, SEEK_CUR) == 2);

    auto* const before = ::signal(SIGPIPE, SIG_IGN);
    tube t(4096);
    const std::string data = noise(10'000);
    auto root = [&]() -> task<> {
        std::string what;
        auto writing = spawn(error_of(io::write_all(t.in, raw(data)), &what));
        co_await turns(5);
        CHECK_FALSE(writing.done());
        t.out.reset();
        const int error = co_await std::move(writing);
        CHECK(error == EPIPE);
        CHECK(what.starts_with(on("write", t.in) + ": "));
    };
    block_on(root());
    ::signal(SIGPIPE, before);
}

// ---- faults ------------------------------------------------------------------------------------

TEST_CASE("short reads and writes: the loops move every byte, and none twice") {
    const no_leak here;
    const folder dir;
    const std::string data = noise(60);
    for (unsigned k = 1; k <= 61; k += k < 9 ? 1 : 13) {
        CAPTURE(k);
        const std::size_t requests = (60 + k - 1) / k;
        const auto file = dir.open("a", "");
        const tube t;
        const std::vector<unsigned> writes(requests, IORING_OP_WRITE);
        const std::vector<unsigned> reads(requests, IORING_OP_READ);
        for (const std::int64_t offset : {-1, 0, 17}) {
            CAPTURE(offset);
            std::string copy(60, '?');
            REQUIRE(::ftruncate(file, 0) == 0);
            ::lseek(file, 0, SEEK_SET);
            {
                const meddling m(shortened(k));
                block_on(io::write_all(file, raw(data), offset));
                CHECK(active.seen == writes);
            }
            const auto skipped = static_cast<std::size_t>(std::max<std::int64_t>(offset, 0));
            CHECK(dir.content("a") == std::string(skipped, '\0') + data);
            CHECK(::lseek(file, 0, SEEK_CUR) == (offset < 0 ? 60 : 0));
            ::lseek(file, 0, SEEK_SET);
            const meddling m(shortened(k));
            block_on(io::read_exactly(file, room(copy), offset));
            CHECK(active.seen == reads);
            CHECK(copy == data);
            CHECK(::lseek(file, 0, SEEK_CUR) == (offset < 0 ? 60 : 0));
        }
        std::string copy(60, '?');
        const meddling m(shortened(k));
        block_on(io::write_all(t.in, raw(data)));
        block_on(io::read_exactly(t.out, room(copy)));
        CHECK(active.seen.size() == 2 * requests);
        CHECK(copy == data);
        CHECK(waiting_in(t.out) == 0);
    }
    CHECK_FALSE(static_cast<bool>(reactor::on_submit));
}

TEST_CASE("an error in the middle: what was moved before is right, and the rest can follow") {
    if (!can_inject()) return;
    const no_leak here;
    const folder dir;
    const std::string data = noise(60);
    for (int nth = 0; nth < 6; ++nth) {
        CAPTURE(nth);
        const auto moved = static_cast<std::size_t>(nth) * 10;
        const auto file = dir.open("a", "");
        {
            const meddling m(failing(nth, -ENOSPC, 10));
            says([&] { block_on(io::write_all(file, raw(data))); }, ENOSPC, on("write", file));
            CHECK(active.seen.size() == static_cast<std::size_t>(nth) + 1);
        }
        CHECK(dir.content("a") == data.substr(0, moved));
        block_on(io::write_all(file, raw(data).subspan(moved)));
        CHECK(dir.content("a") == data);
        {
            const auto other = dir.open("b", "");
            const meddling m(failing(nth, 0, 10));  // nothing was written: it is no end
            block_on(io::write_all(other, raw(data), 0));
            CHECK(dir.content("b") == data);
            CHECK(active.seen.size() == 7);
        }

        for (const int result : {-EIO, -ECONNRESET, 0}) {
            std::string copy(60, '?');
            ::lseek(file, 0, SEEK_SET);
            {
                const meddling m(failing(nth, result, 10));
                const int error = result ? -result : ENODATA;
                const std::string text = on(result ? "read" : "read_exactly", file);
                says([&] { block_on(io::read_exactly(file, room(copy))); }, error, text);
                CHECK(active.seen.size() == static_cast<std::size_t>(nth) + 1);
            }
            CHECK(copy == data.substr(0, moved) + std::string(60 - moved, '?'));
            block_on(io::read_exactly(file, room(copy).subspan(moved)));
            CHECK(copy == data);
        }
    }
}

TEST_CASE("every error of the kernel comes out as it is, and as an exception of its own") {
    if (!can_inject()) return;
    const no_leak here;
    bytes<8> buffer;
    for (int error = 1; error <= 133; ++error) {
        const meddling m(failing(0, -error));
        CHECK(block_on(io::read(99, buffer).result()) == -error);
        const meddling again(failing(0, -error));
        if (error != ECANCELED)
            says([&] { static_cast<void>(block_on(io::open("/x", 0))); }, error, "open /x");
    }
    {  // nobody has cancelled it: the kernel could not start a worker, and it is asked again
        const meddling m(failing(0, -ECANCELED));
        says([&] { static_cast<void>(block_on(io::open("/x", 0))); }, ENOENT, "open /x");
        CHECK(active.seen.size() == 2);
    }
    // ERESTARTSYS is the kernel's own: it means EINTR.
    const meddling m(failing(0, -512));
    CHECK(block_on(io::read(99, buffer).result()) == -EINTR);
    const meddling again(failing(0, -512));
    says([&] { block_on(io::read(99, buffer)); }, EINTR, "read on descriptor 99");
    const meddling large(failing(0, 0x7ffff000));
    CHECK(block_on(io::read(99, buffer)) == 0x7ffff000);
}

TEST_CASE("a late completion holds up its own task, and no other") {
    const no_leak here;
    const unique_fd event(::eventfd(0, EFD_CLOEXEC));
    auto root = [&]() -> task<> {
        plan p;
        p.late = event;
        const meddling m(p);
        auto late = spawn(io::nop().result());
        auto cancelled = spawn(io::nop().result());
        co_await turns(3);
        active.late = -1;
        for (int i = 0; i < 50; ++i) co_await io::nop();
        CHECK_FALSE(late.done());
        CHECK_FALSE(cancelled.done());
        CHECK(reactor::stats().in_flight == 2);
        CHECK(reactor::stats().completed == 50);
        const std::optional<int> nothing = co_await std::move(cancelled).cancel();
        CHECK_FALSE(nothing.has_value());
        CHECK_FALSE(late.done());
        CHECK(reactor::stats().in_flight == 1);
        must(::eventfd_write(event, 1) == 0);
        const int r = co_await std::move(late);
        CHECK(r == POLLIN);
        CHECK(reactor::stats().in_flight == 0);
    };
    block_on(root());
}

TEST_CASE("reads and writes by a worker of the kernel, late and short: the same bytes") {
    const no_leak here;
    const folder dir;
    const std::string data = noise(1000);
    const auto file = dir.open("a", "");
    const tube t(4096);
    plan p = shortened(70);
    p.flags = IOSQE_ASYNC;
    auto root = [&]() -> task<> {
        const meddling m(p);
        co_await io::write_all(file, raw(data), 0);
        CHECK(dir.content("a") == data);
        std::string copy(1000, '?'), through(1000, '?');
        auto piped = spawn(io::read_exactly(t.out, room(through)));
        co_await io::read_exactly(file, room(copy), 0);
        CHECK(copy == data);
        CHECK_FALSE(piped.done());
        co_await io::write_all(t.in, raw(data));
        co_await std::move(piped);
        CHECK(through == data);
        CHECK(active.seen.size() >= 4 * 15);
    };
    block_on(root());
}

// ---- the counters ------------------------------------------------------------------------------

TEST_CASE("stats: each call and each request is counted, once") {
    const no_leak here;
    auto counts = [](std::uint64_t enters, std::uint64_t submitted, std::uint64_t completed) {
        const reactor::statistics& s = reactor::stats();
        CHECK(s.enters == enters);
        CHECK(s.submitted == submitted);
        CHECK(s.completed == completed);
        CHECK(s.in_flight == submitted - completed);
        CHECK(s.overflowed == 0);
    };
    const tube t;
    auto root = [&]() -> task<> {
        bytes<8> buffer;
        counts(0, 0, 0);
        co_await turns(10);
        counts(0, 0, 0);
        co_await io::nop();
        counts(1, 1, 1);
        for (int i = 0; i < 10; ++i) co_await io::nop();
        counts(11, 11, 11);
        std::vector<join_handle<>> many;
        for (int i = 0; i < 10; ++i) many.push_back(spawn(io::nop()));
        counts(11, 11, 11);
        for (auto& h : many) co_await std::move(h);
        counts(12, 21, 21);  // all in one call
        auto waits = spawn(io::read(t.out, buffer));
        co_await turns(1);
        counts(13, 22, 21);
        co_await turns(100);
        counts(13, 22, 21);  // nothing has come: nothing is asked
        put(t.in, "abc");
        const std::size_t n = co_await std::move(waits);
        CHECK(n == 3);
        counts(14, 22, 22);
        const int bad = co_await io::read(-1, buffer).result();
        CHECK(bad == -EBADF);
        counts(15, 23, 23);
        auto stopped = spawn(io::read(t.out, buffer));
        co_await turns(1);
        counts(16, 24, 23);
        const std::optional<std::size_t> nothing = co_await std::move(stopped).cancel();
        CHECK_FALSE(nothing.has_value());
        counts(17, 24, 24);  // a cancel request is none of the operations
        auto unmade = io::nop();
        static_cast<void>(unmade);
        co_await turns(3);
        counts(17, 24, 24);  // what nobody awaits is not submitted
    };
    block_on(root());
    block_on(root());  // each executor counts its own
}

TEST_CASE("stats: one call a turn at most, whatever is asked for in it") {
    const no_leak here;
    const tube t;
    auto root = [&]() -> task<> {
        bytes<8> buffer;
        std::uint64_t calls = 0;
        std::vector<join_handle<>> nops;
        auto waits = spawn(io::read(t.out, buffer));
        for (int i = 0; i < 200; ++i) {
            const std::uint64_t before = reactor::stats().enters;
            for (int n = 0; n < i % 20; ++n) nops.push_back(spawn(io::nop()));
            co_await turns(1);
            const std::uint64_t now = reactor::stats().enters;
            CHECK(now - before <= 1);
            calls += now - before;
        }
        for (auto& h : nops) co_await std::move(h);
        CHECK(calls >= 190);  // a turn that asks for nothing needs none
        CHECK(calls <= 200);
        CHECK(reactor::stats().completed == nops.size());
        CHECK(reactor::stats().in_flight == 1);
        co_await std::move(waits).cancel();
    };
    block_on(root());
}

TEST_CASE("stats: more completions than the ring holds are counted, and none is lost") {
    const no_leak here;
    auto root = [](unsigned n) -> task<> {
        reactor::here(reactor::options(2));  // and so eight completions
        tube t;
        std::vector<bytes<8>> buffers(n);
        std::vector<join_handle<std::size_t>> reads;
        for (auto& b : buffers) reads.push_back(spawn(io::read(t.out, b)));
        const reactor::statistics& s = reactor::stats();
        auto all_in = [&] { return s.in_flight == n; };
        const bool in = co_await becomes(all_in);
        CHECK(in);
        co_await turns(3);
        CHECK(s.overflowed == 0);
        CHECK(s.completed == 0);
        t.in.reset();
        std::size_t ended = 0;
        for (auto& h : reads) {
            const std::size_t got = co_await std::move(h);
            CHECK(got == 0);
            ++ended;
        }
        CHECK(ended == n);
        CHECK((s.overflowed > 0) == (n > 8));
        CHECK(s.overflowed <= s.enters);
        CHECK(s.completed == n);
        CHECK(s.in_flight == 0);
    };
    for (const unsigned n : {8u, 100u}) block_on(root(n));
}

// ---- limits ------------------------------------------------------------------------------------

TEST_CASE("ten thousand operations in flight on a ring of eight") {
    const no_leak here;
    static constexpr std::size_t many = 10'000;
    auto root = []() -> task<> {
        reactor::here(reactor::options(8));
        const reactor::statistics& s = reactor::stats();
        std::vector<join_handle<>> nops;
        for (std::size_t i = 0; i < many; ++i) nops.push_back(spawn(io::nop()));
        for (auto& h : nops) co_await std::move(h);
        CHECK(s.submitted == many);
        CHECK(s.completed == many);

        const tube t;
        const std::string data = noise(many);
        std::string got(many, '?');
        std::vector<join_handle<std::size_t>> reads;
        for (char& c : got)
            reads.push_back(spawn(io::read(t.out, std::as_writable_bytes(std::span(&c, 1)))));
        auto all_in = [&] { return s.in_flight == many; };
        const bool in = co_await becomes(all_in);
        CHECK(in);
        put(t.in, data);
        std::size_t sum = 0;
        for (auto& h : reads) {
            const std::size_t n = co_await std::move(h);
            must(n == 1);
            sum += n;
        }
        CHECK(sum == many);
        CHECK(s.completed == 2 * many);
        CHECK(s.in_flight == 0);
        const bool all_there = std::ranges::is_permutation(got, data);
        CHECK(all_there);
        CHECK(waiting_in(t.out) == 0);
    };
    block_on(root());
}

namespace {
volatile sig_atomic_t alarms = 0;
}

TEST_CASE("signals every 100 us, for two seconds: a file, a socket and a child are the same") {
    const no_leak here;
    const folder dir;
    const std::string data = noise(300'000);
    const auto source = dir.open("from", data);
    auto copy_once = [&](int round) -> task<> {
        const socket_pair p;
        const std::string name = "to" + std::to_string(round % 2);
        auto to = co_await io::open(dir.file(name).c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
        std::string block(10'000, '?');
        auto through = [](int from, int file, std::size_t all) -> task<> {
            std::string some(7'000, '?');
            for (std::size_t at = 0; at < all;) {
                const std::size_t n = co_await io::recv(from, room(some));
                must(n > 0);
                co_await io::write_all(file, room(some).first(n));
                at += n;
            }
        };
        auto writing = spawn(through(p.b, to, data.size()));
        for (std::size_t at = 0; at < data.size(); at += block.size()) {
            co_await io::read_exactly(source, room(block), static_cast<std::int64_t>(at));
            const std::size_t n = co_await io::send(p.a, raw(block), MSG_WAITALL);
            must(n == block.size());
        }
        co_await std::move(writing);
        co_await io::fsync(to);
        const bool same = dir.content(name) == data;
        must(same);
    };
    struct sigaction handler {};
    struct sigaction before {};
    handler.sa_handler = [](int) { alarms = alarms + 1; };
    REQUIRE(::sigaction(SIGALRM, &handler, &before) == 0);
    const itimerval every{{0, 100}, {0, 100}}, off{};
    int rounds = 0;
    auto root = [&]() -> task<> {
        const tube t;
        const pid_t child = child_of(t, 11);
        auto ends = spawn(io::wait_pid(child));
        co_await turns(1);
        must(::setitimer(ITIMER_REAL, &every, nullptr) == 0);
        const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(2);
        for (; std::chrono::steady_clock::now() < end; ++rounds) co_await copy_once(rounds);
        put(t.in, "x");
        const int status = co_await std::move(ends);
        must(WIFEXITED(status) && WEXITSTATUS(status) == 11);
    };
    std::string error;
    try {
        block_on(root());
    } catch (const std::exception& e) { error = e.what(); }
    ::setitimer(ITIMER_REAL, &off, nullptr);
    ::sigaction(SIGALRM, &before, nullptr);
    CHECK(error == "");
    CHECK(rounds > 0);
    CHECK(alarms > 100);
}

TEST_CASE("somebody else makes the descriptor non-blocking: operations still wait") {
    const no_leak here;
    const tube t, full(4096);
    const connection c;
    const listener l;
    full.fill();
    const int shared[] = {t.out, full.in, c.server, l.fd};
    // Another process, which has inherited them.
    auto nonblocking = [&] {
        const pid_t child = forked([&] {
            for (const int fd : shared) must(::fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
            return 0;
        });
        must(exit_code(child) == 0);
        for (const int fd : shared) must((::fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
    };
    auto root = [&](bool before) -> task<> {
        bytes<16> a, b;
        for (const int fd : shared) must(::fcntl(fd, F_SETFL, 0) == 0);
        if (before) nonblocking();
        auto reads = spawn(io::read(t.out, a));
        auto writes = spawn(io::write(full.in, raw("more")));
        auto receives = spawn(io::recv(c.server, b));
        auto accepts = spawn(io::accept(l.fd));
        co_await turns(3);
        if (!before) nonblocking();
        co_await turns(3);
        CHECK_FALSE(reads.done());
        CHECK_FALSE(writes.done());
        CHECK_FALSE(receives.done());
        CHECK_FALSE(accepts.done());
        put(t.in, "abc");
        std::size_t n = co_await std::move(reads);
        CHECK(n == 3);
        CHECK_FALSE(writes.done());
        must(take(full.out, 4096).size() == 4096);
        n = co_await std::move(writes);
        CHECK(n == 4);
        must(take(full.out, 4096) == "more");
        full.fill();
        CHECK_FALSE(receives.done());
        put(c.client, "abcd");
        n = co_await std::move(receives);
        CHECK(n == 4);
        CHECK_FALSE(accepts.done());
        const auto client = l.dial();
        auto server = co_await std::move(accepts);
        CHECK(static_cast<bool>(server));
        // The flag that asks for it still gets it.
        const int r = co_await io::recv(c.server, b, MSG_DONTWAIT).result();
        CHECK(r == -EAGAIN);
    };
    block_on(root(true));
    block_on(root(false));
}

TEST_CASE("kinds of descriptors: memory, pty, eventfd, timerfd, /proc") {
    const no_leak here;
    const std::string data = noise(20'000);
    {
        const unique_fd memory(::memfd_create("x", MFD_CLOEXEC));  // a file on tmpfs
        std::string copy(data.size(), '?');
        block_on(io::write_all(memory, raw(data), 0));
        block_on(io::read_exactly(memory, room(copy), 0));
        const bool same = copy == data;
        CHECK(same);
        CHECK(block_on(io::read(memory, room(copy), 20'000)) == 0);
    }
    auto root = [&]() -> task<> {
        const unique_fd master(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
        must(::grantpt(master) == 0 && ::unlockpt(master) == 0);
        char name[64];
        must(::ptsname_r(master, name, sizeof name) == 0);
        unique_fd slave(::open(name, O_RDWR | O_NOCTTY | O_CLOEXEC));
        termios t{};
        must(::tcgetattr(slave, &t) == 0);
        t.c_lflag &= ~static_cast<tcflag_t>(ECHO);
        must(::tcsetattr(slave, TCSANOW, &t) == 0);
        std::string line(64, '?');
        auto reads = spawn(io::read(slave, room(line)));
        co_await io::write_all(master, raw("half a "));
        co_await turns(5);
        CHECK_FALSE(reads.done());  // a line is not over yet
        co_await io::write_all(master, raw("line\nmore"));
        std::size_t n = co_await std::move(reads);
        CHECK(line.substr(0, n) == "half a line\n");
        auto stopped = spawn(io::read(slave, room(line)));
        co_await turns(3);
        const std::optional<std::size_t> nothing = co_await std::move(stopped).cancel();
        CHECK_FALSE(nothing.has_value());
        co_await io::write_all(slave, raw("back"));
        n = co_await io::read(master, room(line));
        CHECK(line.substr(0, n) == "back");
        slave.reset();
        const int gone = co_await io::read(master, room(line)).result();
        CHECK(gone == -EIO);

        const unique_fd event(::eventfd(0, EFD_CLOEXEC));
        std::uint64_t number = 0;
        auto waits = spawn(io::read(event, std::as_writable_bytes(std::span(&number, 1))));
        co_await turns(3);
        CHECK_FALSE(waits.done());
        const std::uint64_t three = 3;
        n = co_await io::write(event, std::as_bytes(std::span(&three, 1)));
        CHECK(n == 8);
        n = co_await std::move(waits);
        CHECK(n == 8);
        CHECK(number == 3);
        const int small = co_await io::read(event, room(line).first(4)).result();
        CHECK(small == -EINVAL);

        const unique_fd timer(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
        const itimerspec soon{{0, 0}, {0, 5'000'000}};
        must(::timerfd_settime(timer, 0, &soon, nullptr) == 0);
        n = co_await io::read(timer, std::as_writable_bytes(std::span(&number, 1)));
        CHECK(n == 8);
        CHECK(number == 1);
    };
    block_on(root());

    auto proc = block_on(io::open("/proc/self/comm", O_RDWR));
    std::string before(64, '?'), after(64, '?');
    before.resize(block_on(io::read(proc, room(before), 0)));
    CHECK(before.ends_with("\n"));
    CHECK(block_on(io::write(proc, raw("renamed"), 0)) == 7);
    after.resize(block_on(io::read(proc, room(after), 0)));
    CHECK(after == "renamed\n");
    block_on(io::write_all(proc, raw(before).first(before.size() - 1), 0));
    std::string maps, some(1000, '?');
    auto file = block_on(io::open("/proc/self/maps", O_RDONLY));
    for (int i = 0; i < 10'000; ++i) {  // at its position: in as many reads as it takes
        const std::size_t n = block_on(io::read(file, room(some)));
        if (n == 0) break;
        maps.append(some, 0, n);
    }
    CHECK(maps.find("operations") != std::string::npos);
    CHECK(maps.ends_with("\n"));
    CHECK(block_on(io::read(file, room(some))) == 0);
}

TEST_CASE("a descriptor is closed, and its number used again, while an operation is pending") {
    const no_leak here;
    auto root = []() -> task<> {
        tube t;
        bytes<8> buffer;
        auto reads = spawn(io::read(t.out, buffer));
        co_await turns(3);
        const int number = t.out.release();
        co_await io::close(number);
        CHECK_FALSE(is_open(number));
        CHECK_FALSE(reads.done());
        const unique_fd other(::eventfd(7, EFD_CLOEXEC));  // ready to be read
        CHECK(other.get() == number);
        co_await turns(3);
        CHECK_FALSE(reads.done());
        put(t.in, "abcde");  // it still has its pipe
        const std::size_t n = co_await std::move(reads);
        CHECK(n == 5);
        std::uint64_t number_of_other = 0;
        CHECK(::eventfd_read(other, &number_of_other) == 0);
        CHECK(number_of_other == 7);

        socket_pair p;
        auto receives = spawn(io::recv(p.a, buffer));
        co_await turns(3);
        co_await io::close(p.a.release());
        co_await turns(3);
        CHECK_FALSE(receives.done());
        p.b.reset();
        const std::size_t end = co_await std::move(receives);
        CHECK(end == 0);
    };
    block_on(root());
}

TEST_CASE("no descriptor is left: accept and the others say so, and go on afterwards") {
    const pid_t child = forked([] {
        auto root = []() -> task<> {
            const listener l;
            const unique_fd early(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
            co_await io::nop();
            rlimit before{};
            must(::getrlimit(RLIMIT_NOFILE, &before) == 0);
            const int next = ::dup(l.fd);
            must(next > 0 && ::close(next) == 0);
            const rlimit low{static_cast<rlim_t>(next), before.rlim_max};
            must(::setrlimit(RLIMIT_NOFILE, &low) == 0);
            co_await io::connect(early, l.at(), sizeof l.address);
            int r = 0;
            for (int i = 0; i < 10; ++i) {
                r = co_await io::accept(l.fd).result();
                must(r == -EMFILE);
            }
            r = co_await io::open("/", O_RDONLY).result();
            must(r == -EMFILE);
            r = co_await io::socket(AF_INET, SOCK_STREAM).result();
            must(r == -EMFILE);
            std::string what;
            const pid_t waits = ::fork();
            if (waits == 0) ::pause(), ::_exit(0);
            r = co_await error_of(io::wait_pid(waits), &what);
            must(r == EMFILE && what.starts_with("wait_pid " + std::to_string(waits) + ":"));
            must(::kill(waits, SIGKILL) == 0);
            auto again = [](int fd) -> task<> { auto s = co_await io::accept(fd); };
            r = co_await error_of(again(l.fd), &what);
            must(r == EMFILE && what.starts_with(on("accept", l.fd) + ": "));
            must(::setrlimit(RLIMIT_NOFILE, &before) == 0);
            auto server = co_await io::accept(l.fd);  // the connection is still there
            put(early, "hello");
            std::string text(5, '?');
            co_await io::read_exactly(server, room(text));
            must(text == "hello");
        };
        block_on(root());
        return 0;
    });
    CHECK(exit_code(child) == 0);
}

// ---- connections that end ----------------------------------------------------------------------

TEST_CASE("the peer resets the connection: before accept, before and in recv, in and after send") {
    const no_leak here;
    auto in_queue = []() -> task<> {
        const listener l;
        auto client = l.dial();
        put(client, "data");
        slam(client);
        auto server = co_await io::accept(l.fd);
        bytes<8> buffer;
        int r = 4;  // the data may come first
        for (int i = 0; i < 2 && r == 4; ++i) r = co_await io::recv(server, buffer).result();
        CHECK(r == -ECONNRESET);
        r = co_await io::recv(server, buffer).result();
        CHECK(r == 0);  // it is said once
        r = co_await io::send(server, raw("x")).result();
        CHECK(r == -EPIPE);
    };
    block_on(in_queue());

    auto before_recv = []() -> task<> {
        connection c;
        slam(c.client);
        bytes<8> buffer;
        auto receive = [](int fd, std::span<std::byte> into) -> task<std::size_t> {
            co_return co_await io::recv(fd, into);
        };
        std::string what;
        const int error = co_await error_of(receive(c.server, buffer), &what);
        CHECK(error == ECONNRESET);
        CHECK(what.starts_with(on("recv", c.server) + ": "));
    };
    block_on(before_recv());

    auto in_recv = []() -> task<> {
        connection c;
        bytes<8> a, b;
        std::string what;
        auto receives = spawn(io::recv(c.server, a).result());
        co_await turns(3);
        CHECK_FALSE(receives.done());
        slam(c.client);
        int r = co_await std::move(receives);
        CHECK(r == -ECONNRESET);
        connection d;
        auto exactly = spawn(error_of(io::read_exactly(d.client, b), &what));
        put(d.server, "abc");
        co_await turns(3);
        CHECK_FALSE(exactly.done());
        slam(d.server);
        r = co_await std::move(exactly);
        CHECK(r == ECONNRESET);
        CHECK(what.starts_with(on("read", d.client) + ": "));
        CHECK(std::memcmp(b.data(), "abc", 3) == 0);
    };
    block_on(in_recv());

    auto in_send = []() -> task<> {
        connection c;
        const std::string much = noise(1'000'000);
        while (::send(c.server, much.data(), much.size(), MSG_DONTWAIT | MSG_NOSIGNAL) > 0) {}
        auto sends = spawn(io::send(c.server, raw(much)).result());
        co_await turns(5);
        CHECK_FALSE(sends.done());
        slam(c.client);
        int r = co_await std::move(sends);
        CHECK(r == -ECONNRESET);
        r = co_await io::send(c.server, raw("x")).result();
        CHECK(r == -EPIPE);
    };
    block_on(in_send());
}

TEST_CASE("half a connection: the end of one direction leaves the other as it is") {
    const no_leak here;
    auto root = []() -> task<> {
        connection c;
        bytes<16> buffer;
        std::string text(6, '?'), what;
        auto receives = spawn(io::recv(c.server, buffer));
        co_await turns(3);
        CHECK_FALSE(receives.done());
        must(::shutdown(c.client, SHUT_WR) == 0);
        std::size_t n = co_await std::move(receives);
        CHECK(n == 0);
        n = co_await io::recv(c.server, buffer);
        CHECK(n == 0);
        int r = co_await io::send(c.client, raw("x")).result();
        CHECK(r == -EPIPE);
        for (int i = 0; i < 10; ++i) {
            n = co_await io::send(c.server, raw("answer"));
            CHECK(n == 6);
            co_await io::read_exactly(c.client, room(text));
            CHECK(text == "answer");
        }
        n = co_await io::send(c.server, raw("tail"));
        CHECK(n == 4);
        co_await io::close(std::move(c.server));
        r = co_await error_of(io::read_exactly(c.client, room(text)), &what);
        CHECK(r == ENODATA);
        CHECK(text == "tailer");
    };
    block_on(root());
}

namespace {

int pends = -1;  // a descriptor that never becomes readable

}  // namespace

TEST_CASE("a close that is cancelled before the kernel has come to it: closed once, by its owner") {
    for (const bool late : {false, true}) {
        tube never, file;
        const int number = file.out;
        pends = never.out;
        auto closes = [](unique_fd fd) -> task<> { co_await io::close(std::move(fd)); };
        auto root = [&]() -> task<> {
            if (late)
                reactor::on_submit = [](io_uring_sqe* s) {
                    if (s->opcode == IORING_OP_CLOSE) io_uring_prep_poll_add(s, pends, POLLIN);
                };
            auto h = spawn(closes(std::move(file.out)));
            co_await turns(3);
            reactor::on_submit = nullptr;
            CHECK(h.done() == !late);
            CHECK((::fcntl(number, F_GETFD) >= 0) == late);
            const bool result = co_await std::move(h).cancel();
            CHECK(result == !late);
        };
        block_on(root());
        CHECK(::fcntl(number, F_GETFD) == -1);
        // The number may be somebody else's by now, and then it stays open.
        const unique_fd other(::fcntl(never.out, F_DUPFD_CLOEXEC, number));
        CHECK(other == number);
        CHECK(::fcntl(number, F_GETFD) >= 0);
    }
}

TEST_CASE("a fill that cancels more requests than the ring has room for") {
    auto reads = [](int fd) -> task<std::size_t> {
        std::byte into[8];
        co_return co_await io::read(fd, into);
    };
    auto root = [&]() -> task<> {
        reactor::here(reactor::options(8));
        const tube t;
        std::vector<join_handle<std::size_t>> readers;
        for (int i = 0; i < 20; ++i) readers.push_back(spawn(reads(t.out)));
        co_await yield_now();
        co_await yield_now();
        CHECK(reactor::stats().in_flight == 20);
        auto fill = [&](io_uring_sqe* s) {
            readers.clear();
            io_uring_prep_nop(s);
        };
        const int n = co_await io::op(fill);
        CHECK(n == 0);
        while (reactor::stats().in_flight) co_await io::nop();
        CHECK(reactor::stats().completed == reactor::stats().submitted);
        co_await yield_now();  // they end
    };
    executor ex;
    ex.run(root());
    CHECK(ex.empty());
}

TEST_CASE(
    "a job that the fill of its own request cancels waits for it, and does not block the loop") {
    struct watched {
        const void* child = nullptr;
        int runs = 0;
    } seen;
    tube empty;
    std::optional<join_handle<>> h;
    std::byte into[1];
    bool gone = false;
    auto reads = [&]() -> task<> {
        struct told {
            bool& flag;
            explicit told(bool& f) : flag(f) {}
            ~told() { flag = true; }
        } const at_end(gone);
        auto fill = [&](io_uring_sqe* s) {
            h.reset();  // the handle of this very job
            io_uring_prep_read(s, empty.out, into, 1, 0);
        };
        co_await io::op(fill);
        FAIL("resumed");
    };
    auto root = [&]() -> task<> {
        h.emplace(spawn(reads()));
        co_await turns(5);
        CHECK(gone);
        CHECK(reactor::stats().in_flight == 0);
    };
    executor ex;
    ex.hooks.context = &seen;
    ex.hooks.on_spawn = [](void* c, const ringlet::job_info& j) {
        *static_cast<watched*>(c) = {j.id, 0};  // the last one is the child
    };
    ex.hooks.before_run = [](void* c, const ringlet::job_info& j) {
        static_cast<watched*>(c)->runs += static_cast<watched*>(c)->child == j.id;
    };
    ex.run(root());
    CHECK(gone);
    CHECK(seen.runs == 2);  // one to its wait, and one to its end, when the kernel has let go
    CHECK(ex.empty());
}

TEST_CASE("SIGPIPE: not from send and sendmsg; from a write to a pipe") {
    auto child = [](const std::function<void()>& f) {
        return exit_code(forked([&] {
            must(::signal(SIGPIPE, SIG_DFL) != SIG_ERR);
            f();
            return 5;
        }));
    };
    const std::string text = "x";
    CHECK(child([&] {
        socket_pair p;
        p.b.reset();
        msghdr m{};
        iovec v{const_cast<char*>(text.data()), 1};
        m.msg_iov = &v;
        m.msg_iovlen = 1;
        must(block_on(io::send(p.a, raw(text)).result()) == -EPIPE);
        must(block_on(io::sendmsg(p.a, &m).result()) == -EPIPE);
        must(block_on(io::send(p.a, raw(text), MSG_WAITALL).result()) == -EPIPE);
    }) == 5);
    // Before Linux 6.4 a worker of the kernel writes to a pipe, whom no signal reaches.
    const int ended = child([&] {
        tube t;
        t.out.reset();
        const int n = block_on(io::write(t.in, raw(text)).result());
        ::_exit(n == -EPIPE ? 6 : 7);
    });
    utsname kernel{};
    must(::uname(&kernel) == 0);
    CHECK(ended == (::strverscmp(kernel.release, "6.4") < 0 ? 6 : -SIGPIPE));
}

// ---- threads -----------------------------------------------------------------------------------

TEST_CASE("two executors in two threads talk to each other, and share nothing") {
    const no_leak here;
    const socket_pair p;
    static constexpr int rounds = 500;
    auto pong = [](int fd) -> task<std::uint64_t> {
        std::string text(4, '?');
        for (int i = 0; i < rounds; ++i) {
            co_await io::read_exactly(fd, room(text));
            must(text == std::to_string(1000 + i));
            co_await io::write_all(fd, raw(text));
        }
        must(reactor::stats().in_flight == 0);
        co_return reactor::stats().submitted;
    };
    auto ping = [](int fd) -> task<std::uint64_t> {
        std::string text(4, '?');
        for (int i = 0; i < rounds; ++i) {
            const std::string number = std::to_string(1000 + i);
            co_await io::write_all(fd, raw(number));
            co_await io::read_exactly(fd, room(text));
            must(text == number);
        }
        must(reactor::stats().in_flight == 0);
        co_return reactor::stats().submitted;
    };
    std::string error;
    std::uint64_t theirs = 0;
    const meddling mine(shortened(3));  // the requests of this thread, and only those
    std::thread other([&] {
        try {
            must(reactor::on_submit == nullptr);
            theirs = block_on(pong(p.b));
        } catch (const std::exception& e) { error = e.what(); }
    });
    const std::uint64_t ours = block_on(ping(p.a));
    other.join();
    CHECK(error == "");
    CHECK(ours == 4 * rounds);  // three bytes and one, each way
    CHECK(active.seen.size() == ours);
    CHECK(theirs >= 2 * rounds);
    CHECK(theirs <= 4 * rounds);
}

TEST_CASE("an executor that is made on one thread and first runs on another") {
    const no_leak here;
    const folder dir;
    auto work = [](std::string path) -> task<std::size_t> {
        auto file = co_await io::open(path.c_str(), O_RDWR);
        co_await io::write_all(file, raw("hello"), 0);
        std::string text(5, '?');
        co_await io::read_exactly(file, room(text), 0);
        must(text == "hello" && reactor::stats().completed == 3);
        co_return text.size();
    };
    const std::string path = dir.with("a", "");
    auto ex = std::make_unique<executor>();
    CHECK(ex->empty());
    std::size_t size = 0;
    std::string error;
    std::thread other([&] {
        try {
            size = ex->run(work(path));
            auto waits = [](int fd) -> task<> {
                bytes<8> buffer;
                co_await io::read(fd, buffer);
            };
            const tube t;
            const auto h = ex->spawn(waits(t.out));
            for (int i = 0; i < 5; ++i) ex->try_tick();
            must(!h.done());
            ex.reset();  // with an operation in flight
            must(h.done());
        } catch (const std::exception& e) { error = e.what(); }
    });
    other.join();
    CHECK(error == "");
    CHECK(size == 5);
    CHECK(dir.content("a") == "hello");
    CHECK_FALSE(static_cast<bool>(ex));
    CHECK(executor::current() == nullptr);
}

// ---- idle --------------------------------------------------------------------------------------

TEST_CASE("whatever an executor waits for, it uses no processor meanwhile") {
    const no_leak here;
    auto cpu = [] {
        rusage u{};
        must(::getrusage(RUSAGE_SELF, &u) == 0);
        return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1'000'000 + u.ru_utime.tv_usec
            + u.ru_stime.tv_usec;
    };
    const tube t, full(4096);
    full.fill();
    const listener l;
    const connection c;
    const pid_t child = child_of(t, 4);
    const unique_fd timer(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
    auto root = [&]() -> task<> {
        bytes<8> a, b;
        auto accepts = spawn(io::accept(l.fd));
        auto receives = spawn(io::recv(c.server, a));
        auto polls = spawn(io::poll(c.client, POLLIN));
        auto writes = spawn(io::write_all(full.in, raw("more")));
        auto ends = spawn(io::wait_pid(child));
        co_await turns(5);
        const itimerspec later{{0, 0}, {0, 300'000'000}};
        const auto began = std::chrono::steady_clock::now();
        const auto before = cpu();
        const std::uint64_t enters = reactor::stats().enters;
        must(::timerfd_settime(timer, 0, &later, nullptr) == 0);
        const std::size_t n = co_await io::read(timer, b);
        const auto used = cpu() - before;
        CHECK(n == 8);
        CHECK(std::chrono::steady_clock::now() - began >= std::chrono::milliseconds(300));
        CHECK(used < 20'000);  // microseconds
        CHECK(reactor::stats().enters - enters <= 2);
        CHECK(reactor::stats().in_flight == 5);
        CHECK_FALSE(accepts.done());
        CHECK_FALSE(receives.done());
        CHECK_FALSE(polls.done());
        CHECK_FALSE(writes.done());
        CHECK_FALSE(ends.done());
        put(t.in, "x");
        const int status = co_await std::move(ends);
        CHECK(WEXITSTATUS(status) == 4);
    };
    block_on(root());
}
