// The sweep: small programs that together wait for everything there is to wait for, each cancelled at every one of
// its moments in turn, in several ways, and destroyed with its executor at each of them. Afterwards every object
// has been destroyed once, no descriptor is open, no byte is lost, no shield has been left half way, and the
// kernel writes into no buffer any more.
#include <doctest/doctest.h>

#include <arpa/inet.h>
#include <dirent.h>
#include <netinet/in.h>
#include <sys/ioctl.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <ringlet/timer.hpp>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <type_traits>
#include <unordered_set>
#include <utility>
#include <vector>

#include "support.hpp"

using namespace std::chrono_literals;
using ringlet::executor;
using ringlet::job_info;
using ringlet::join_handle;
using ringlet::shield;
using ringlet::sleep_for;
using ringlet::task;
using ringlet::task_cancelled;
using ringlet::unique_fd;
using ringlet::waker;
using ringlet::yield_now;
namespace io = ringlet::io;

using namespace support;

namespace {

// ---- objects that count themselves -------------------------------------------------------------

struct {
    std::unordered_set<const void*> alive;
    long constructed = 0, destroyed = 0;
    long wrong = 0;  // constructed where one lives, or destroyed or used where none does
} objects;

class tracked {
public:
    explicit tracked(int n) : value_(n) { born(); }
    tracked(const tracked& o) : value_(o.value()) { born(); }
    tracked(tracked&& o) noexcept : value_(std::exchange(o.value_, 0)) { born(); }
    tracked& operator=(const tracked&) = default;
    ~tracked() {
        ++objects.destroyed;
        objects.wrong += objects.alive.erase(this) != 1;
    }
    int value() const {
        objects.wrong += objects.alive.count(this) != 1;
        return value_;
    }

private:
    void born() {
        ++objects.constructed;
        objects.wrong += !objects.alive.insert(this).second;
    }
    int value_;
};

// A local of every coroutine here. With it a frame is too large for the lists of frame_pool and goes back to the
// heap at once, where the address sanitizer sees who still uses it.
class heavy : tracked {
public:
    heavy() : tracked(7) { ballast_.front() = ballast_.back() = 'x'; }
    heavy(heavy&&) = delete;
    ~heavy() { objects.wrong += value() != 7 || ballast_.front() != 'x' || ballast_.back() != 'x'; }

private:
    std::array<char, 131072> ballast_;
};

std::set<std::string> open_descriptors() {
    std::set<std::string> names;
    DIR* const folder = opendir("/proc/self/fd");
    REQUIRE(folder != nullptr);
    while (const dirent* const entry = readdir(folder)) names.insert(entry->d_name);
    names.erase(std::to_string(dirfd(folder)));
    closedir(folder);
    return names;
}

// ---- the world that a program runs in ----------------------------------------------------------

// Bytes go in at one end and come out at the other, and are counted.
struct channel {
    unique_fd in, out;
    long put = 0, got = 0;

    long inside() const {
        int n = 0;
        REQUIRE(ioctl(out, FIONREAD, &n) == 0);
        return n;
    }
};

class world {
public:
    world() {
        int ends[2];
        for (channel* c : {&pipe, &full}) {
            REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
            c->out.reset(ends[0]);
            c->in.reset(ends[1]);
        }
        const int size = fcntl(full.in, F_SETPIPE_SZ, 4096);
        const std::vector<char> filling(static_cast<std::size_t>(size));
        full.put = ::write(full.in, filling.data(), filling.size());
        REQUIRE(full.put == size);
        REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
        pair.out.reset(ends[0]);
        pair.in.reset(ends[1]);
        listener.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t length = sizeof address;
        REQUIRE(::bind(listener, where(), length) == 0);
        REQUIRE(::listen(listener, 8) == 0);
        REQUIRE(::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length) == 0);
        for (auto& b : buffers) b.fill(dead);
    }
    world(world&&) = delete;
    ~world() {
        if (!file.empty()) ::unlink(file.c_str());
    }
    const sockaddr* where() const { return reinterpret_cast<const sockaddr*>(&address); }

    // After all jobs have ended.
    void check() {
        for (const channel* c : {&pipe, &full, &pair}) CHECK(c->put == c->got + c->inside());
        CHECK(shields_entered == shields_left);
        CHECK(subject_frames == 0);
        // A read that the kernel still has would take these, and write into its buffer.
        for (const channel* c : {&pipe, &pair}) CHECK(::write(c->in, "12345678", 8) == 8);
        bool clean = true;
        for (const auto& b : buffers)
            for (std::byte one : b) clean &= one == dead;
        CHECK(clean);
    }

    static constexpr std::byte dead{0xee};
    channel pipe, full, pair;
    unique_fd listener;
    sockaddr_in address{};
    std::string file;
    std::array<std::array<std::byte, 16>, 64> buffers;
    std::size_t next_buffer = 0;
    int shields_entered = 0, shields_left = 0;
    int subject_frames = 0;
    bool completed = false;
};

// A buffer as a coroutine would have it among its locals, but outside of the frame, and marked when it has died.
class buffer : tracked {
public:
    explicit buffer(world& w) : tracked(1), memory_(w.buffers[w.next_buffer++ % w.buffers.size()]) {
        memory_.fill(std::byte{1});
    }
    buffer(buffer&&) = delete;
    ~buffer() { memory_.fill(world::dead); }
    std::span<std::byte> bytes(std::size_t n = 16) const { return std::span(memory_).first(n); }

private:
    std::array<std::byte, 16>& memory_;
};

struct gate {
    auto wait() {
        return ringlet::suspend([this](waker w) { waiter = std::move(w); });
    }
    void open() { std::exchange(waiter, waker()).wake(); }

    waker waiter;
};

// ---- the programs ------------------------------------------------------------------------------

task<> yields(world&) {
    heavy local;
    for (int i = 0; i < 3; ++i) {
        tracked each(i);
        co_await yield_now();
    }
}

task<tracked> leaf(tracked by_value, const tracked& by_reference) {
    heavy local;
    tracked sum(by_value.value() + by_reference.value());
    co_await yield_now();
    tracked inner(sum);
    co_await yield_now();
    co_return tracked(inner.value());
}
task<int> at_once(tracked t) { co_return t.value(); }

task<> calls(world&) {
    heavy local;
    tracked five = co_await leaf(tracked(2), tracked(3));
    CHECK(five.value() == 5);
    const tracked& extended = co_await leaf(tracked(1), five);
    int sum = co_await at_once(tracked(4)) + tracked(5).value() + extended.value();
    CHECK(sum == 15);
    task<tracked> named = leaf(tracked(1), five);
    task<tracked> never = leaf(five, five);
    std::optional<tracked> result;
    result.emplace(co_await std::move(named));
    CHECK(result->value() == 6);
    auto both = std::make_pair(co_await at_once(tracked(1)), tracked(2));
    CHECK(both.first + both.second.value() == 3);
}

task<int> fails_late(tracked t) {
    heavy local;
    co_await yield_now();
    throw oops(std::to_string(t.value()));
}
task<> failures(world& w) {
    heavy local;
    int caught = 0;
    for (int i = 0; i < 2; ++i) {
        try {
            tracked inside(i);
            int n = co_await fails_late(tracked(8));
            caught += n;
        } catch (const oops&) { ++caught; }
        co_await yield_now();
    }
    try {
        buffer b(w);
        co_await io::read(-1, b.bytes());
    } catch (const std::system_error&) { ++caught; }
    buffer b(w);
    int bad = co_await io::read(-1, b.bytes()).result();
    CHECK(bad == -EBADF);
    auto job = ringlet::spawn(fails_late(tracked(9)));
    try {
        co_await std::move(job);
    } catch (const oops&) { ++caught; }
    CHECK(caught == 4);
}

task<> open_later(std::shared_ptr<gate> g) {
    heavy local;
    co_await yield_now();
    g->open();
    co_await yield_now();
}
task<> wakes(world&) {
    heavy local;
    auto self_wake = [] { return ringlet::suspend([](waker w) { w.wake(); }); };
    co_await self_wake();
    auto g = std::make_shared<gate>();
    auto opener = ringlet::spawn(open_later(g));
    co_await g->wait();
    auto again = ringlet::spawn(open_later(g));
    auto with_state = [t = tracked(3), g](waker w) {
        g->waiter = std::move(w);
        return t.value();
    };
    auto wait = ringlet::suspend(std::move(with_state));
    int three = co_await std::move(wait);
    CHECK(three == 3);
}

task<> sleeps(world&) {
    heavy local;
    co_await sleep_for(0ns);
    co_await sleep_for(5us);
    tracked other(1);
    co_await ringlet::sleep_until(std::chrono::steady_clock::now() + 5us);
}

task<> nops(world&) {
    heavy local;
    co_await io::nop();
    int zero = co_await io::nop().result();
    CHECK(zero == 0);
    auto fill = [t = tracked(4)](io_uring_sqe* s) {
        io_uring_prep_nop(s);
        CHECK(t.value() == 4);
    };
    auto op = io::op(std::move(fill), "a nop");
    int n = co_await std::move(op);
    CHECK(n == 0);
}

task<> write_to(channel& c, world& w, std::size_t size) {
    heavy local;
    buffer b(w);
    std::size_t n = co_await io::write(c.in, b.bytes(size));
    c.put += static_cast<long>(n);
    CHECK(n == size);
}
task<> read_from(channel& c, world& w) {
    heavy local;
    buffer b(w);
    std::size_t n = co_await io::read(c.out, b.bytes());
    c.got += static_cast<long>(n);
}
task<> write_later(channel& c, world& w) {
    heavy local;
    for (int i = 0; i < 3; ++i) co_await yield_now();
    co_await write_to(c, w, 3);
    co_await yield_now();
}

task<> pipe_ready(world& w) {
    heavy local;
    co_await write_to(w.pipe, w, 4);
    buffer b(w);
    int n = co_await io::read(w.pipe.out, b.bytes()).result();
    if (n > 0) w.pipe.got += n;
    CHECK(n == 4);
}

task<> pipe_empty(world& w) {
    heavy local;
    auto writer = ringlet::spawn(write_later(w.pipe, w));
    co_await read_from(w.pipe, w);
    co_await std::move(writer);
}

task<> read_page(channel& c) {
    heavy local;
    std::vector<std::byte> page(4096);
    for (int i = 0; i < 2; ++i) co_await yield_now();
    std::size_t n = co_await io::read(c.out, page);
    c.got += static_cast<long>(n);
}
task<> pipe_full(world& w) {
    heavy local;
    auto reader = ringlet::spawn(read_page(w.full));
    co_await write_to(w.full, w, 5);
    co_await std::move(reader);
}

task<> files(world& w) {
    heavy local;
    const char* const folder = std::getenv("TMPDIR");
    std::string path = std::string(folder ? folder : "/tmp") + "/ringlet_sweep_"
        + std::to_string(::getpid());
    w.file = path;
    {
        auto file = co_await io::open(path.c_str(), O_RDWR | O_CREAT, 0600);
        path.clear();
        buffer b(w);
        std::size_t n = co_await io::write(file, b.bytes(), 0);
        CHECK(n == 16);
        n = co_await io::read(file, b.bytes(), 8);
        CHECK(n == 8);
        auto second = co_await io::open("/dev/null", O_RDONLY);
        n = co_await io::read(second, b.bytes());
        CHECK(n == 0);
        co_await io::close(std::move(second));
    }
    int null = co_await io::open("/dev/null", O_RDONLY).result();
    unique_fd third(null);
    CHECK(null >= 0);
    co_await io::close(third.get());
    third.release();
    int missing = co_await io::open("/dev/null/x", O_RDONLY).result();
    CHECK(missing == -ENOTDIR);
}

task<> serve(world& w) {
    heavy local;
    auto connection = co_await io::accept(w.listener);
    buffer b(w);
    std::size_t n = co_await io::recv(connection, b.bytes());
    std::size_t m = co_await io::send(connection, b.bytes(n));
    CHECK(m == n);
}
task<> sockets(world& w) {
    heavy local;
    auto server = ringlet::spawn(serve(w));
    auto s = co_await io::socket(AF_INET, SOCK_STREAM);
    co_await io::connect(s, w.where(), sizeof w.address);
    buffer b(w);
    std::size_t n = co_await io::send(s, b.bytes(4));
    CHECK(n == 4);
    n = co_await io::recv(s, b.bytes());
    CHECK((n == 4
        || (n == 0 && server.done())));  // the server's end of it is closed if the executor ends
    co_await std::move(server);
    co_await io::close(std::move(s));
}

task<> pair_of_sockets(world& w) {
    heavy local;
    auto writer = ringlet::spawn(write_later(w.pair, w));
    {
        buffer b(w);
        std::size_t n = co_await io::recv(w.pair.out, b.bytes());
        w.pair.got += static_cast<long>(n);
    }
    buffer b(w);
    std::size_t n = co_await io::send(w.pair.in, b.bytes(2));
    w.pair.put += static_cast<long>(n);
    int m = co_await io::recv(w.pair.out, b.bytes()).result();
    if (m > 0) w.pair.got += m;
}

task<tracked> counted(int n, tracked t) {
    heavy local;
    for (int i = 0; i < n; ++i) co_await yield_now();
    co_return t;
}
task<> forever(std::shared_ptr<gate> g, [[maybe_unused]] tracked t) {
    heavy local;
    co_await g->wait();
}
task<> joins(world&) {
    heavy local;
    auto a = ringlet::spawn(counted(2, tracked(1)));
    auto b = ringlet::spawn(counted(0, tracked(2)));
    tracked one = co_await std::move(a);
    const tracked& two = co_await std::move(b);
    CHECK(one.value() + two.value() == 3);
    auto c = ringlet::spawn(counted(1, tracked(3)));
    std::optional<tracked> three = co_await std::move(c).try_join();
    CHECK(three->value() == 3);
    std::vector<join_handle<tracked>> many;
    for (int i = 0; i < 4; ++i) many.push_back(ringlet::spawn(counted(i, tracked(i))));
    for (std::size_t i = 0; i < 2; ++i) {
        tracked each = co_await std::move(many[i]);
        CHECK(each.value() == static_cast<int>(i));
    }  // the others are dropped
}
task<> cancels(world& w) {
    heavy local;
    auto g = std::make_shared<gate>();
    auto a = ringlet::spawn(forever(g, tracked(1)));
    bool ended = co_await std::move(a).cancel();  // before it has run
    CHECK_FALSE(ended);
    auto b = ringlet::spawn(forever(g, tracked(2)));
    co_await yield_now();
    ended = co_await std::move(b).cancel();  // while it waits for a waker
    CHECK_FALSE(ended);
    auto c = ringlet::spawn(read_from(w.pipe, w));
    co_await yield_now();
    ended = co_await std::move(c).cancel();  // while the kernel has its buffer
    CHECK_FALSE(ended);
    auto d = ringlet::spawn(counted(0, tracked(4)));
    co_await yield_now();
    std::optional<tracked> four = co_await std::move(d).cancel();  // after its end
    CHECK(four->value() == 4);
    auto e = ringlet::spawn(sleep_for(1h));
    co_await yield_now();
    auto stopping = std::move(e).cancel();
    co_await yield_now();
    ended = co_await std::move(stopping);
    CHECK_FALSE(ended);
    auto f = ringlet::spawn(joins(w));
    co_await yield_now();
    try {
        auto other = std::move(f).cancel();
        ended = co_await std::move(other);
        CHECK_FALSE(ended);
    } catch (const task_cancelled&) { CHECK(false); }
}

task<int> to_the_end(world& w, tracked t) {
    heavy local;
    ++w.shields_entered;
    co_await yield_now();
    co_await io::nop();
    co_await sleep_for(5us);
    co_await write_to(w.pipe, w, 6);
    co_await read_from(w.pipe, w);
    bool asked = co_await ringlet::cancel_requested();
    static_cast<void>(asked);
    ++w.shields_left;
    co_return t.value();
}
task<int> shield_inside(world& w, [[maybe_unused]] tracked t) {
    heavy local;
    co_await yield_now();
    int n = co_await shield(to_the_end(w, tracked(20)));
    co_await yield_now();
    co_return n;
}
task<> shields(world& w) {
    heavy local;
    int n = co_await shield(to_the_end(w, tracked(10)));
    CHECK(n == 10);
    n = co_await shield_inside(w, tracked(1));
    CHECK(n == 20);
    n = co_await shield(shield_inside(w, tracked(2)));  // a shield in a shield
    CHECK(n == 20);
}

task<> alls(world& w) {
    heavy local;
    auto [one, two] = co_await ringlet::when_all(counted(2, tracked(1)), counted(1, tracked(2)));
    CHECK(one.value() + two.value() == 3);
    std::vector<task<tracked>> many;
    for (int i = 0; i < 3; ++i) many.push_back(counted(i, tracked(i)));
    auto all = co_await ringlet::when_all(std::move(many));
    CHECK(all.size() == 3);
    bool caught = false;
    try {
        co_await ringlet::when_all(
            fails_late(tracked(3)), sleep_for(1h), shield(to_the_end(w, tracked(1))));
    } catch (const oops&) { caught = true; }
    CHECK(caught);
}
task<> anys(world& w) {
    heavy local;
    auto [one, never] = co_await ringlet::when_any(counted(2, tracked(1)), sleep_for(1h));
    CHECK(one->value() == 1);
    CHECK_FALSE(never.has_value());
    std::vector<task<>> readers;
    for (int i = 0; i < 2; ++i) readers.push_back(read_from(w.pipe, w));
    readers.push_back(write_later(w.pipe, w));
    auto any = co_await ringlet::when_any(std::move(readers));
    CHECK(any.size() == 3);
}
task<> borrows(const tracked& t, int turns) {
    heavy local;
    for (int i = 0; i < turns; ++i) co_await yield_now();
    CHECK(t.value() == 6);
}
task<int> spawns_in(ringlet::scope_ref s, const tracked& t) {
    heavy local;
    s.spawn(borrows(t, 2));
    co_await yield_now();
    s.spawn(borrows(t, 1));
    co_return t.value();
}
task<> scopes(world&) {
    heavy local;
    tracked six(6);
    auto body = [&six](ringlet::scope_ref s) { return spawns_in(s, six); };
    int n = co_await ringlet::scope(body);
    CHECK(n == 6);
    auto outer = [&](ringlet::scope_ref s) {
        s.spawn(ringlet::scope(body));
        return spawns_in(s, six);
    };
    n = co_await ringlet::scope(outer);
    CHECK(n == 6);
}
task<> timeouts(world& w) {
    heavy local;
    tracked one = co_await ringlet::timeout(1h, counted(1, tracked(1)));
    CHECK(one.value() == 1);
    const long got = w.pipe.got;
    auto none = co_await ringlet::try_timeout(5us, ringlet::timeout(1h, read_from(w.pipe, w)));
    CHECK(none == (w.pipe.got > got));  // something that a wait before has left there
    bool late = false;
    try {
        co_await ringlet::timeout(5us, sleep_for(1h));
    } catch (const std::system_error& e) { late = e.code() == std::errc::timed_out; }
    CHECK(late);
    auto four = co_await ringlet::try_timeout(0ns, shield(to_the_end(w, tracked(4))));
    CHECK((!four || *four == 4));
}
task<> sends(ringlet::channel<tracked>& c, int n, bool closes) {
    heavy local;
    for (int i = 0; i < n; ++i) co_await c.send(tracked(1));
    if (closes) c.close();
}
task<> channels(world&) {
    heavy local;
    for (std::size_t capacity = 0; capacity < 3; ++capacity) {
        ringlet::channel<tracked> c(capacity);
        auto send_all = [&c](ringlet::scope_ref s) {
            s.spawn(sends(c, 2, false));
            return sends(c, 2, true);
        };
        auto sender = ringlet::scope(send_all);
        auto receive_all = [](ringlet::channel<tracked>& from) -> task<int> {
            heavy inside;
            int sum = 0;
            for (;;) {
                auto t = co_await from.recv();
                if (!t) co_return sum;
                sum += t->value();
            }
        };
        try {
            auto both = co_await ringlet::when_all(std::move(sender), receive_all(c));
            CHECK(std::get<1>(both) >= 3);
        } catch (const ringlet::channel_closed&) {}  // the one that closes may be first
    }
}

struct program {
    const char* name;
    task<> (*run)(world&);
};
constexpr program single[] = {
    {"yields", yields},
    {"calls", calls},
    {"failures", failures},
    {"wakes", wakes},
    {"sleeps", sleeps},
    {"nops", nops},
    {"pipe_ready", pipe_ready},
    {"pipe_empty", pipe_empty},
    {"pipe_full", pipe_full},
    {"files", files},
    {"sockets", sockets},
    {"pair_of_sockets", pair_of_sockets},
    {"joins", joins},
    {"cancels", cancels},
    {"shields", shields},
    {"alls", alls},
    {"anys", anys},
    {"scopes", scopes},
    {"timeouts", timeouts},
    {"channels", channels},
};
task<> one_after_the_other(world& w) {
    heavy local;
    for (const program& p : single) co_await p.run(w);
}
constexpr program everything = {"everything", one_after_the_other};

// ---- how a program is wrapped ------------------------------------------------------------------

task<> nested(world& w, program p, int depth, tracked t) {
    heavy local;
    if (depth == 0) {
        co_await p.run(w);
    } else {
        tracked other(depth);
        co_await nested(w, p, depth - 1, tracked(t.value() + other.value()));
    }
}
task<> direct(world& w, program p) { return p.run(w); }
task<> two_deep(world& w, program p) { return nested(w, p, 1, tracked(1)); }
task<> three_deep(world& w, program p) { return nested(w, p, 2, tracked(1)); }
task<> by_handle(world& w, program p) {
    heavy local;
    auto child = ringlet::spawn(nested(w, p, 1, tracked(2)));
    co_await std::move(child);
}
task<> by_two_handles(world& w, program p) {
    heavy local;
    auto child = ringlet::spawn(by_handle, std::ref(w), p);
    tracked other(3);
    bool ended = co_await std::move(child).try_join();
    CHECK(ended);
}
task<> counted_program(world& w, program p) {
    heavy local;
    ++w.shields_entered;
    co_await nested(w, p, 1, tracked(4));
    ++w.shields_left;
}
task<> shielded(world& w, program p) {
    heavy local;
    co_await shield(counted_program(w, p));
}

task<> in_all(world& w, program p) {
    heavy local;
    co_await ringlet::when_all(nested(w, p, 1, tracked(5)), yields(w));
}
task<> in_any(world& w, program p) {
    heavy local;
    co_await ringlet::when_any(sleep_for(1h), nested(w, p, 0, tracked(5)));
}
task<> in_scope(world& w, program p) {
    heavy local;
    auto body = [&](ringlet::scope_ref s) {
        s.spawn(nested(w, p, 0, tracked(6)));
        return yields(w);
    };
    co_await ringlet::scope(body);
}
task<> in_time(world& w, program p) {
    heavy local;
    co_await ringlet::timeout(1h, nested(w, p, 0, tracked(7)));
}
task<> in_groups(world& w, program p) {
    heavy local;
    co_await ringlet::when_any(ringlet::timeout(2h, in_scope(w, p)), in_all(w, {"sleeps", sleeps}));
}

struct wrapping {
    const char* name;
    task<> (*wrap)(world&, program);
    std::size_t in_ways;  // in how many of the ways below it is cancelled
};
constexpr wrapping wrappings[] = {
    {"direct", direct, 7},
    {"two deep", two_deep, 3},
    {"three deep", three_deep, 3},
    {"by handle", by_handle, 7},
    {"by two handles", by_two_handles, 3},
    {"in when_all", in_all, 3},
    {"in when_any", in_any, 3},
    {"in a scope", in_scope, 3},
    {"in a timeout", in_time, 3},
    {"in groups", in_groups, 3},
};

// ---- the sweep ---------------------------------------------------------------------------------

enum class way {
    drop,        // the handle, from outside, between two runs
    drop_later,  // the same, with another job's completions beside: some are in the queue with a result
    drop_before,   // just before a run
    cancel,        // and wait for it, in another job
    end,           // of the executor, and the handle lives on
    end_detached,  // of the executor
    drop_and_end,  // the executor ends before the cancel has been carried out
};
struct named_way {
    way how;
    const char* name;
};
constexpr named_way ways[] = {
    // the first three show most of what there is to see
    {way::drop, "drop"},
    {way::cancel, "cancel"},
    {way::end, "end"},
    {way::drop_later, "drop, with others"},
    {way::drop_before, "drop before a run"},
    {way::end_detached, "end, detached"},
    {way::drop_and_end, "drop and end"},
};

class counted_frame {
public:
    explicit counted_frame(world& w) : w_(w) { ++w_.subject_frames; }
    counted_frame(counted_frame&&) = delete;
    ~counted_frame() { --w_.subject_frames; }

private:
    world& w_;
};
task<> subject(world& w, wrapping wrap, program p, [[maybe_unused]] tracked t) {
    heavy local;
    counted_frame frame(w);
    co_await wrap.wrap(w, p);
    w.completed = true;
}

// What must come soon comes before this, or the test fails instead of hanging.
class patience {
public:
    bool left() const { return std::chrono::steady_clock::now() < end_; }

private:
    std::chrono::steady_clock::time_point end_ = std::chrono::steady_clock::now() + 20s;
};

// Runs one job, however long it takes until one is runnable.
void step(executor& ex) {
    const patience p;
    while (!ex.try_tick()) REQUIRE(p.left());
}
void drain(executor& ex) {
    const patience p;
    while (!ex.empty()) {
        ex.try_tick();
        REQUIRE(p.left());
    }
}
task<> background(const bool& stop) {
    heavy local;
    while (!stop) co_await io::nop();
}

// Drops the handle before the k-th run.
struct dropper {
    join_handle<>& handle;
    int left;
    bool late = false;
    void attach(executor& ex) {
        ex.hooks.context = this;
        ex.hooks.before_run = [](void* c, const job_info&) {
            auto& self = *static_cast<dropper*>(c);
            if (self.left-- != 0) return;
            self.late = self.handle.done();
            self.handle = join_handle<>();
        };
    }
};
// Counts the runs of all jobs but the second that is spawned.
struct counter {
    int runs = 0;
    const void* driver = nullptr;
    void attach(executor& ex) {
        ex.hooks.context = this;
        ex.hooks.on_spawn = [](void* c, const job_info& j) {
            auto& self = *static_cast<counter*>(c);
            if (!self.driver) self.driver = j.id;
        };
        ex.hooks.before_run = [](void* c, const job_info& j) {
            auto& self = *static_cast<counter*>(c);
            self.runs += j.id != self.driver;
        };
    }
};

// Cancels the program at its k-th moment. True: it had ended before.
bool cancel_at(int k, way how, executor& ex, join_handle<>& h, world& w) {
    bool late = false, stop = false;
    const auto steps = [&] {
        for (int i = 0; i < k && !h.done(); ++i) step(ex);
        late = h.done();
    };
    switch (how) {
        case way::drop:
            steps();
            h = join_handle<>();
            drain(ex);
            break;
        case way::drop_later: {
            auto other = ex.spawn(background(stop));
            steps();
            h = join_handle<>();
            stop = true;
            drain(ex);
            break;
        }
        case way::drop_before: {
            dropper d{h, k};
            d.attach(ex);
            drain(ex);
            late = d.late || d.left >= 0;
            break;
        }
        case way::cancel: {
            counter c;
            c.attach(ex);
            auto driver = [&]() -> task<> {
                while (c.runs < k && !h.done()) co_await yield_now();
                late = h.done();
                bool ended = co_await std::move(h).cancel();
                CHECK(ended == w.completed);
                CHECK(w.subject_frames == 0);
            };
            ex.run(driver());
            ex.hooks = ringlet::executor_hooks();
            drain(ex);
            break;
        }
        case way::end: steps(); break;
        case way::end_detached:
            steps();
            h.detach();
            break;
        case way::drop_and_end:
            steps();
            h = join_handle<>();
            break;
    }
    return late;
}

bool once(int k, way how, wrapping wrap, program p) {
    const auto descriptors = open_descriptors();
    objects = {};
    bool late = false;
    {
        world w;
        join_handle<> h;
        {
            executor ex;
            h = ex.spawn(subject(w, wrap, p, tracked(k)));
            late = cancel_at(k, how, ex, h, w);
            if (how < way::end) {
                CHECK(ex.empty());
                CHECK(ex.idle());
                CHECK_FALSE(ex.try_tick());
            }
        }
        if (how == way::end) CHECK(h.done());
        if (late) CHECK(w.completed);
        w.check();
    }
    CHECK(objects.alive.empty());
    CHECK(objects.constructed == objects.destroyed);
    CHECK(objects.constructed > 0);
    CHECK(objects.wrong == 0);
    CHECK(open_descriptors() == descriptors);
    CHECK_NOTHROW(ringlet::frame_pool::use(nullptr));  // no frame and no job is left, or lost
    return late;
}

void sweep(wrapping wrap, program p) {
    INFO(std::string(p.name), ", ", std::string(wrap.name));
    for (const auto& [how, name] : std::span(ways).first(wrap.in_ways)) {
        INFO(std::string(name));
        int k = 0;
        for (bool late = false; !late; ++k) {
            CAPTURE(k);
            late = once(k, how, wrap, p);
            REQUIRE(k < 20'000);
        }
        CHECK(k > 2);
    }
}

}  // namespace

TEST_CASE("the sweep: each wait, cancelled at each moment") {  // 63
    for (const program& p : single)
        for (const wrapping& wrap : wrappings) sweep(wrap, p);
}

TEST_CASE("the sweep: one wait after the other") { sweep({"direct", direct, 3}, everything); }

TEST_CASE("the sweep: under a shield, everything runs to its end") {
    // Not at the end of an executor: that cancels the jobs which such a program waits for.
    for (const program& p : single) {
        INFO(std::string(p.name));
        for (way how : {way::drop, way::drop_later, way::drop_before, way::cancel}) {
            int k = 1;  // at 0 it has not yet entered the shield
            for (bool late = false; !late; ++k) {
                CAPTURE(k);
                late = once(k, how, {"shielded", shielded, 0}, p);
            }
        }
    }
}
