// reactor.hpp under faults, swept: each request of a program fails, each comes short, each is met by
// the limit of descriptors, each connection is reset in each place. Every time the program ends in
// the right result or in a clear error, and nothing is left.
#include <doctest/doctest.h>

#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <random>
#include <ringlet/timer.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "inject.hpp"
#include "support.hpp"

using ringlet::block_on;
using ringlet::executor;
using ringlet::reactor;
using ringlet::spawn;
using ringlet::task;
using ringlet::unique_fd;
using ringlet::yield_now;
using support::can_inject;
using support::contains;
using support::inject;
namespace io = ringlet::io;
namespace fs = std::filesystem;

namespace {

// ---- helpers -----------------------------------------------------------------------------------

auto entries_of(const fs::path& folder) {
    return std::distance(fs::directory_iterator(folder), {});
}
std::string noise(std::size_t size) {
    std::mt19937 random(static_cast<unsigned>(size));
    std::string text(size, '\0');
    for (char& c : text) c = static_cast<char>(random());
    return text;
}
auto raw(std::string_view text) { return std::as_bytes(std::span(text)); }
auto room(std::string& text) { return std::as_writable_bytes(std::span(text)); }

// A folder for one run, and what a run may not leave behind: descriptors, jobs, requests.
class scene {
public:
    scene() { REQUIRE(::mkdtemp(path_.data()) != nullptr); }
    scene(scene&&) = delete;
    ~scene() { fs::remove_all(path_); }
    std::string file(const char* name) const { return path_ + "/" + name; }
    std::string content(const char* name) const {
        std::ifstream in(file(name), std::ios::binary);
        return std::string(std::istreambuf_iterator<char>(in), {});
    }

private:
    std::string path_ = (fs::temp_directory_path() / "ringlet-XXXXXX").string();
};

// How a run has ended.
struct outcome {
    int error = 0;
    std::string what;
    unsigned in_flight = 0;
    std::ptrdiff_t left = 0;  // descriptors
};
template <class Program> outcome run(Program program) {
    outcome o;
    const auto before = entries_of("/proc/self/fd");
    auto guarded = [&]() -> task<> {
        try {
            co_await program();
        } catch (const std::system_error& e) {
            o.error = e.code().value();
            o.what = e.what();
        }
        reactor::on_submit = nullptr;
        o.in_flight = reactor::stats().in_flight;
    };
    {
        executor ex;
        ex.run(guarded());
        CHECK(ex.empty());
    }
    o.left = entries_of("/proc/self/fd") - before;
    return o;
}

// ---- faults ------------------------------------------------------------------------------------

// What becomes of the requests: the nth fails, all come short, or nothing of the kind.
struct {
    int nth = -1, error = 0, count = 0;
    unsigned at_most = 0;
} plan;

void meddle(io_uring_sqe* s) {
    if (plan.at_most && s->opcode != IORING_OP_CONNECT && s->opcode != IORING_OP_ACCEPT)
        s->len = std::min(s->len, plan.at_most);
    if (plan.count++ != plan.nth) return;
    if (s->opcode == IORING_OP_CLOSE) ::close(s->fd);  // as the kernel does, whatever it says
    inject(s, -plan.error);
}

// ---- the programs ------------------------------------------------------------------------------

// Most of the operations on files, one after the other.
task<> files(const scene& s, std::string& got) {
    struct statx info {};
    const std::string data = "twelve bytes";
    iovec parts[2]{{const_cast<char*>(data.data()), 6}, {const_cast<char*>(data.data()) + 6, 6}};
    co_await io::mkdir(s.file("d").c_str());
    auto out = co_await io::open(s.file("d/a").c_str(), O_RDWR | O_CREAT, 0600);
    co_await io::write_all(out, raw(data));
    const std::size_t n = co_await io::writev(out, parts, 12);
    if (n != 12) throw std::runtime_error("short");
    co_await io::fsync(out);
    co_await io::close(std::move(out));
    co_await io::rename(s.file("d/a").c_str(), s.file("d/b").c_str());
    co_await io::statx(s.file("d/b").c_str(), &info);
    got.resize(info.stx_size);
    const auto in = co_await io::open(s.file("d/b").c_str(), O_RDONLY);
    co_await io::read_exactly(in, room(got));
    co_await io::unlink(s.file("d/b").c_str());
    co_await io::unlink(s.file("d").c_str(), AT_REMOVEDIR);
}

// A listening socket on 127.0.0.1, and its address.
struct port {
    unique_fd fd{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    sockaddr_in address{};
    port() {
        socklen_t length = size();
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        REQUIRE(::bind(fd, at(), length) == 0);
        REQUIRE(::listen(fd, 16) == 0);
        REQUIRE(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0);
    }
    const sockaddr* at() const { return reinterpret_cast<const sockaddr*>(&address); }
    static socklen_t size() { return sizeof(sockaddr_in); }
};
task<> send_all(int fd, std::string_view text) {
    while (!text.empty()) text.remove_prefix(co_await io::send(fd, raw(text)));
}
// Until the stream ends.
task<std::string> receive_all(int fd) {
    std::array<std::byte, 64> buffer;
    std::string text;
    for (;;) {
        const std::size_t n = co_await io::recv(fd, buffer);
        if (n == 0) co_return text;
        text.append(reinterpret_cast<const char*>(buffer.data()), n);
    }
}
// A client and a server in one: each sends, ends its half, and receives to the end.
task<> sockets(const port& p, std::string_view data, std::string& there, std::string& back) {
    auto server = [&]() -> task<> {
        const auto peer = co_await io::accept(p.fd);
        there = co_await receive_all(peer);
        co_await send_all(peer, there);
    };
    auto client = [&]() -> task<> {
        const auto s = co_await io::socket(AF_INET, SOCK_STREAM);
        co_await io::connect(s, p.at(), p.size());
        co_await send_all(s, data);
        ::shutdown(s, SHUT_WR);
        back = co_await receive_all(s);
    };
    co_await ringlet::when_all(server(), client());
}

constexpr int errors[] = {EINTR, EIO, ENOMEM, EAGAIN, ENOSPC, ECANCELED, ECONNRESET, EBADF};

}  // namespace

// ---- cancels, chains and flags -----------------------------------------------------------------

namespace {

// Cancel requests: how many, and how many of them come too early.
struct {
    int seen = 0, early = 0;
} cancels;

void too_early(io_uring_sqe* s) {
    if (s->opcode != IORING_OP_ASYNC_CANCEL || ++cancels.seen > cancels.early) return;
    inject(s, -EALREADY);
}
struct pair_of_sockets {
    unique_fd a, b;
    pair_of_sockets() {
        int ends[2];
        REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
        a.reset(ends[0]), b.reset(ends[1]);
    }
};

}  // namespace

TEST_CASE("a cancel that meets its request in the hands of a worker is made again") {
    if (!can_inject()) return;
    for (const int early : {0, 1, 4}) {
        CAPTURE(early);
        const pair_of_sockets p;
        const outcome o = run([&]() -> task<> {
            auto h = spawn(receive_all(p.a));
            auto other = spawn(receive_all(p.b));
            co_await yield_now();
            cancels = {0, early};
            reactor::on_submit = too_early;
            const auto enters = reactor::stats().enters;
            const auto text = co_await std::move(h).cancel();
            CHECK_FALSE(text);
            CHECK(cancels.seen == early + 1);
            CHECK(reactor::stats().enters - enters
                <= 3u * static_cast<unsigned>(early) + 4);  // no spin
            CHECK_FALSE(other.done());
            co_await std::move(other).cancel();
        });
        CHECK(o.error == 0);
        CHECK(o.in_flight == 0);
        CHECK(o.left == 0);
    }
}

TEST_CASE("a cancel is not made again when its request has ended") {
    if (!can_inject()) return;
    const pair_of_sockets p;
    const outcome o = run([&]() -> task<> {
        std::string got;
        auto one = [&]() -> task<> {
            std::array<std::byte, 8> buffer;
            const std::size_t n = co_await io::recv(p.a, buffer);
            got.assign(reinterpret_cast<const char*>(buffer.data()), n);
        };
        auto h = spawn(one());
        co_await yield_now();
        cancels = {0, 1000};
        reactor::on_submit = too_early;
        auto gone = spawn([&]() -> task<bool> {
            const bool ended = co_await std::move(h).cancel();
            co_return ended;
        });
        while (cancels.seen < 3) co_await ringlet::sleep_for(std::chrono::microseconds(100));
        const auto enters = reactor::stats().enters;
        for (int i = 0; i < 100; ++i) co_await yield_now();
        CHECK(reactor::stats().enters - enters < 50);  // where something runs nobody sleeps
        REQUIRE(::send(p.b, "abc", 3, 0) == 3);
        const bool ended = co_await std::move(gone);
        CHECK(ended);  // the bytes had come: the task went on with them
        CHECK(got == "abc");
        const int seen = cancels.seen;
        co_await ringlet::sleep_for(std::chrono::milliseconds(5));
        CHECK(cancels.seen == seen);
    });
    CHECK(o.error == 0);
    CHECK(o.in_flight == 0);
}

TEST_CASE("a cancel that came too early is not made again for another request at its address") {
    if (!can_inject()) return;
    const pair_of_sockets p;
    const outcome o = run([&]() -> task<> {
        bool waits = false;
        auto fill = [&](io_uring_sqe* s) {
            io_uring_prep_nop(s);
            if (waits) io_uring_prep_poll_add(s, p.a, POLLIN);
        };
        auto one = [&]() -> task<int> {
            const int r = co_await io::op(fill).result();
            co_return r;
        };
        cancels = {0, 1};
        reactor::on_submit = too_early;
        auto ended = spawn(one());
        auto gone = spawn([&]() -> task<std::optional<int>> {  // behind the request of `ended`
            const auto r = co_await std::move(ended).cancel();
            co_return r;
        });
        const auto result = co_await std::move(gone);
        CHECK(result == 0);  // it had ended when the answer to the cancel came
        CHECK(cancels.seen == 1);
        waits = true;
        auto other = spawn(one());  // in the frame that the first has left
        co_await ringlet::sleep_for(std::chrono::milliseconds(3));
        CHECK(cancels.seen == 1);
        CHECK_FALSE(other.done());
        REQUIRE(::send(p.b, "x", 1, 0) == 1);
        const int events = co_await std::move(other);
        CHECK(events == POLLIN);
    });
    CHECK(o.error == 0);
    CHECK(o.in_flight == 0);
}

TEST_CASE("a part of a chain that is cancelled before it begins ends when it does") {
    const pair_of_sockets p, q;
    const outcome o = run([&]() -> task<> {
        std::byte buffer[2];
        auto first = [&](io_uring_sqe* s) {
            io_uring_prep_recv(s, p.a, buffer, 1, 0);
            s->flags |= IOSQE_IO_LINK;
        };
        auto head = spawn(io::op(first).result());
        auto part = spawn(io::recv(q.a, std::span(buffer + 1, 1)));
        co_await ringlet::sleep_for(std::chrono::milliseconds(1));
        auto gone = spawn([&]() -> task<bool> {
            const auto n = co_await std::move(part).cancel();
            co_return n.has_value();
        });
        co_await ringlet::sleep_for(std::chrono::milliseconds(2));
        CHECK_FALSE(gone.done());
        REQUIRE(::send(p.b, "x", 1, 0) == 1);
        const int n = co_await std::move(head);
        CHECK(n == 1);
        const bool received = co_await std::move(gone);
        CHECK_FALSE(received);
    });
    CHECK(o.error == 0);
    CHECK(o.in_flight == 0);
}

TEST_CASE("a cancel is no part of a chain that reaches the kernel by two calls") {
    const pair_of_sockets p;
    const outcome o = run([&]() -> task<> {
        // Without SUBMIT_ALL: a bad request holds up those behind it, which go with the next call.
        reactor::here(reactor::options(8, IORING_SETUP_CQSIZE));
        auto unknown = [](io_uring_sqe* s) { s->opcode = 250; };
        std::byte buffer[1];
        auto link = [&](io_uring_sqe* s) {
            io_uring_prep_recv(s, p.a, buffer, 1, 0);
            s->flags |= IOSQE_IO_LINK;
        };
        auto bad = spawn(io::op(unknown).result());
        auto linked = spawn(io::op(link).result());
        auto gone = spawn([&]() -> task<bool> {  // in the turn that both have written in
            const auto n = co_await std::move(linked).cancel();
            co_return n.has_value();
        });
        const bool received = co_await std::move(gone);
        CHECK_FALSE(received);
        const int error = co_await std::move(bad);
        CHECK(error == -EINVAL);
    });
    CHECK(o.error == 0);
    CHECK(o.in_flight == 0);
}

TEST_CASE("a link of a chain whose first part has failed is not made again") {
    const scene s;
    std::ofstream(s.file("new")) << "new";
    std::ofstream(s.file("old")) << "old";
    const outcome o = run([&]() -> task<> {
        const unique_fd full(::open("/dev/full", O_WRONLY | O_CLOEXEC));
        auto first = [&](io_uring_sqe* e) {
            io_uring_prep_write(e, full, "x", 1, 0);
            e->flags |= IOSQE_IO_LINK;
        };
        const auto from = s.file("new"), to = s.file("old");
        auto second = [](io_uring_sqe* e) { io_uring_prep_nop(e); };
        auto [written, renamed, written_again, did_nothing] = co_await ringlet::when_all(
            io::op(first, "write").result(), io::rename(from.c_str(), to.c_str()).result(),
            io::op(first, "write").result(), io::op(second).result());
        CHECK(written == -ENOSPC);
        CHECK(renamed == -ECANCELED);
        CHECK(written_again == -ENOSPC);
        CHECK(did_nothing == -ECANCELED);
    });
    CHECK(o.error == 0);
    CHECK(s.content("old") == "old");
}

// As a part of the chain it would wait for what it is to cancel, or for what somebody else reads.
TEST_CASE("a request to cancel is no part of a chain that is open") {
    int ends[2], others[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    REQUIRE(::pipe2(others, O_CLOEXEC) == 0);
    const unique_fd out(ends[0]), in(ends[1]), other_out(others[0]), other_in(others[1]);
    auto reads = [](int fd, unsigned flags) -> task<> {
        std::byte buffer[8];
        auto fill = [&](io_uring_sqe* e) {
            io_uring_prep_read(e, fd, buffer, sizeof buffer, 0);
            e->flags = static_cast<unsigned char>(flags);
        };
        co_await io::op(fill, "read");
    };
    for (const unsigned flag : {IOSQE_IO_LINK, IOSQE_IO_HARDLINK}) {
        const outcome o = run([&]() -> task<> {
            auto apart = ringlet::spawn(reads(out, 0));
            co_await io::nop();
            co_await io::nop();  // with the first it has gone to the kernel
            auto linked = ringlet::spawn(reads(other_out, flag));
            auto cancels_other = [&]() -> task<> {  // in the turn in which the link is written
                const bool ended = co_await std::move(apart).cancel();
                CHECK_FALSE(ended);
                CHECK_FALSE(linked.done());
            };
            co_await ringlet::spawn(cancels_other());
            co_await std::move(linked).cancel();
            linked = ringlet::spawn(reads(other_out, flag));
            auto cancels_it = [&]() -> task<> {
                const bool ended = co_await std::move(linked).cancel();
                CHECK_FALSE(ended);
            };
            co_await ringlet::spawn(cancels_it());
        });
        CHECK(o.error == 0);
        CHECK(o.in_flight == 0);
    }
}

// As if a signal had kept the kernel from starting a worker, once for each.
TEST_CASE(
    "a request of a file that comes back unstarted is made again; of a pipe it may be a cancel") {
    if (!can_inject()) return;
    const scene s;
    static int unstarted;
    unstarted = 3;
    reactor::on_submit = [](io_uring_sqe* e) {
        if (e->opcode == IORING_OP_NOP || unstarted-- <= 0) return;
        inject(e, -ECANCELED);
    };
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    const unique_fd out(ends[0]), in(ends[1]);
    const outcome o = run([&]() -> task<> {
        const unique_fd file(::open(s.file("f").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
        const std::array<std::byte, 3> text{};
        const auto written = co_await io::write(file, text);
        CHECK(written == 3);
        CHECK(unstarted == -1);
        unstarted = 1;
        co_await io::fsync(file);
        CHECK(unstarted == -1);
        unstarted = 1;
        co_await io::close(unique_fd(::dup(file)));
        CHECK(unstarted == -1);
        unstarted = 1;
        co_await io::mkdir(s.file("folder").c_str());
        CHECK(unstarted == -1);
        unstarted = 1;
        const int r = co_await io::write(in, text).result();
        CHECK(r == -ECANCELED);
        CHECK(unstarted == 0);
    });
    CHECK(o.error == 0);
    CHECK(s.content("f") == std::string(3, '\0'));
}

TEST_CASE("a request that comes back unstarted again and again is given up") {
    if (!can_inject()) return;
    static int opens;
    opens = 0;
    reactor::on_submit = [](io_uring_sqe* s) {
        if (s->opcode != IORING_OP_OPENAT) return;
        ++opens;
        inject(s, -ECANCELED);
    };
    const outcome o = run([&]() -> task<> { co_await io::open("/", O_RDONLY); });
    CHECK(o.error == ECANCELED);
    CHECK(opens > 1);
    CHECK(opens <= 10);
}

TEST_CASE("io::op: a flag that keeps the answer back is taken off; a prepare may be move-only") {
    const outcome o = run([&]() -> task<> {
        auto silent = [](io_uring_sqe* s) {
            io_uring_prep_nop(s);
            s->flags |= IOSQE_CQE_SKIP_SUCCESS;
        };
        const int r = co_await io::op(silent);
        CHECK(r == 0);
        auto owning = [n = std::make_unique<int>(7)](io_uring_sqe* s) {
            io_uring_prep_nop(s);
            if (*n != 7) s->opcode = 255;
        };
        auto op = io::op(std::move(owning));
        const int q = co_await std::move(op).result();
        CHECK(q == 0);
    });
    CHECK(o.error == 0);
}

// ---- each request fails ------------------------------------------------------------------------

TEST_CASE("files: each request fails with each error, and the error comes out, with its name") {
    if (!can_inject()) return;
    for (const int error : errors) {
        int failures = 0;
        for (int nth = 0;; ++nth) {
            CAPTURE(error);
            CAPTURE(nth);
            const scene s;
            std::string got;
            plan = {nth, error, 0, 0};
            reactor::on_submit = meddle;
            const outcome o = run([&] { return files(s, got); });
            CHECK(o.left == 0);
            CHECK(o.in_flight == 0);
            if (plan.count <= nth) {  // the program has no such request
                CHECK(o.error == 0);
                CHECK(got == "twelve bytestwelve bytes");
                break;
            }
            // Where a worker could not be started the request is made again.
            if (o.error == 0) CHECK(error == ECANCELED);
            else CHECK(o.error == error);
            const bool named = contains(o.what, s.file("d")) || contains(o.what, " on descriptor ")
                || contains(o.what, "close: ");
            if (o.error) CHECK(named);
            failures += o.error != 0;
        }
        CHECK(failures >= (error == ECANCELED ? 1 : 12));
    }
}

TEST_CASE(
    "sockets: each request fails with each error; the other side is cancelled, nothing stays") {
    if (!can_inject()) return;
    for (const int error : errors) {
        int failures = 0;
        for (int nth = 0;; ++nth) {
            CAPTURE(error);
            CAPTURE(nth);
            const port p;
            std::string there, back;
            plan = {nth, error, 0, 0};
            reactor::on_submit = meddle;
            const outcome o = run([&] { return sockets(p, "some bytes", there, back); });
            CHECK(o.left == 0);
            CHECK(o.in_flight == 0);
            if (plan.count <= nth) {
                CHECK(o.error == 0);
                CHECK(back == "some bytes");
                break;
            }
            CHECK(o.error == error);
            ++failures;
        }
        CHECK(failures >= 8);
    }
}

// ---- each comes short --------------------------------------------------------------------------

TEST_CASE("sockets: at most k bytes at once, for each k up to the length of the message") {
    const std::string data = noise(40);
    for (unsigned k = 1; k <= 41; ++k) {
        CAPTURE(k);
        const port p;
        std::string there, back;
        plan = {-1, 0, 0, k};
        reactor::on_submit = meddle;
        const outcome o = run([&] { return sockets(p, data, there, back); });
        CHECK(o.error == 0);
        CHECK(o.left == 0);
        CHECK(there == data);
        CHECK(back == data);
        CHECK(plan.count >= 2 * static_cast<int>((40 + k - 1) / k));
    }
}

// ---- the limit of descriptors ------------------------------------------------------------------

namespace {

class at_most_descriptors {
public:
    explicit at_most_descriptors(rlim_t highest) {
        REQUIRE(::getrlimit(RLIMIT_NOFILE, &before_) == 0);
        const rlimit l{highest, before_.rlim_max};
        REQUIRE(::setrlimit(RLIMIT_NOFILE, &l) == 0);
    }
    at_most_descriptors(at_most_descriptors&&) = delete;
    ~at_most_descriptors() { ::setrlimit(RLIMIT_NOFILE, &before_); }

private:
    rlimit before_;
};

}  // namespace

TEST_CASE("the limit of descriptors in each place: EMFILE, or there were enough") {
    const scene s;
    bool enough = false;
    int refused = 0;
    for (rlim_t more = 0; !enough; ++more) {
        CAPTURE(more);
        REQUIRE(more < 20);
        const port p;
        const unique_fd highest(::dup(p.fd));
        std::string got, there, back;
        auto program = [&]() -> task<> {
            reactor::here();
            const at_most_descriptors limit(
                static_cast<rlim_t>(highest.get()) + 2 + more);  // and the ring
            co_await files(s, got);
            co_await sockets(p, "some bytes", there, back);
        };
        const outcome o = run(program);
        fs::remove_all(s.file("d"));
        CHECK(o.left == 0);
        CHECK(o.in_flight == 0);
        enough = o.error == 0;
        if (enough) CHECK(back == "some bytes");
        else CHECK(o.error == EMFILE);
        refused += !enough;
    }
    CHECK(refused == 2);  // the file; both sockets
}

// ---- the end -----------------------------------------------------------------------------------

TEST_CASE("what is spawned while an executor ends, and throws, ends with it") {
    int thrown = 0, ended = 0;
    auto throws = [&](bool at_once) -> task<> {
        const support::guard g(ended);
        if (!at_once) co_await io::nop();
        ++thrown;
        throw support::oops("nobody is left to take it");
    };
    auto spawns = [&](bool at_once) -> task<> {
        const support::guard g(ended);
        const support::at_end last([&] { spawn(ringlet::shield(throws(at_once))).detach(); });
        co_await ringlet::sleep_for(std::chrono::hours(1));
    };
    auto bare = [&]() -> task<> {
        const support::guard g(ended);
        const support::at_end last([&] { spawn(throws(true)).detach(); });
        co_await ringlet::sleep_for(std::chrono::hours(1));
    };
    auto root = [&]() -> task<> {
        for (int i = 0; i < 4; ++i) spawn(spawns(i % 2)).detach();
        co_await yield_now();
    };
    block_on(root());
    CHECK(thrown == 4);
    CHECK(ended == 8);
    auto other = [&]() -> task<> {
        spawn(bare()).detach();  // its exception leaves the run in which it is thrown
        co_await yield_now();
    };
    block_on(other());
    CHECK(thrown == 5);
    CHECK(ended == 10);
}

TEST_CASE("an executor whose parker fails ends all the same, a shielded wait included") {
    struct broken final : ringlet::parker {
        bool park(std::int64_t) override { throw support::oops("no parking"); }
    };
    int ended = 0;
    support::gate never;
    auto waits = [&]() -> task<> {
        const support::guard g(ended);
        co_await never.wait();
    };
    auto shielded = [&]() -> task<> { co_await ringlet::shield(waits()); };
    {
        executor ex;
        ex.io = std::make_unique<broken>();
        ex.spawn(shielded()).detach();
        CHECK(ex.try_tick());
        CHECK_THROWS_AS(support::drain(ex), support::oops);
        CHECK(ended == 0);
    }
    CHECK(ended == 1);
}

// ---- resets ------------------------------------------------------------------------------------

TEST_CASE("the peer resets the connection after each number of bytes, received or not") {
    const std::string data = noise(12);
    for (std::size_t sent = 0; sent <= data.size(); ++sent) {
        for (std::size_t taken = 0; taken <= sent; ++taken) {
            CAPTURE(sent);
            CAPTURE(taken);
            std::string got;
            const outcome o = run([&]() -> task<> {
                const port p;
                unique_fd peer = co_await io::socket(AF_INET, SOCK_STREAM);
                co_await io::connect(peer, p.at(), p.size());
                const auto mine = co_await io::accept(p.fd);
                co_await send_all(peer, std::string_view(data).substr(0, sent));
                got.resize(taken);
                if (taken) co_await io::recv(mine, room(got), MSG_WAITALL);
                const linger at_once{1, 0};
                ::setsockopt(peer, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
                co_await io::close(std::move(peer));
                got += co_await receive_all(mine);
            });
            CHECK(o.error == ECONNRESET);
            CHECK(contains(o.what, "recv on descriptor "));
            CHECK(o.left == 0);
            CHECK(got == data.substr(0, got.size()));
            CHECK(got.size() >= taken);
        }
    }
}
