// soak: everything at once, for as long as you like, and the books balanced at the end.
//
//   usage: soak [SECONDS] [SEED]        10 seconds and seed 1, if not given
//
// In one executor: an echo server, 1,000 clients of it, and a tree of small files that is copied
// again and again. Clients stall, reset, close one half or vanish; everything is under timeouts;
// tasks are cancelled at random; and on the way to the kernel requests are shortened, failed, or
// sent to a worker. What each does comes from the seed. When it happens does not: that is the
// kernel's and the clock's.
//
// What is asserted, with an exit at once that names the line:
//
//   bytes     Each byte that arrives, at the server and at the client, is the one that was sent. Of
//             each connection, what the client says it has sent, what the server says it has
//             received and returned, and what the client has received are in this order, and equal
//             if nobody cut it. Nobody sees it cut unless the other side was stopped, or failed.
//   files     A file under its final name is complete, and there if and only if its copy was
//             reported as done. Of all others nothing is left.
//   the rest  After each round (ten seconds, or a quarter of a shorter run) everybody has ended:
//             no job, no operation in flight, as many descriptors as before. The heap then holds,
//             to the byte, what it held after the first round, and the pool of frames gives back
//             every block that it has taken. The process has taken less than 2 MB more from the
//             system since, if that round was the first ten seconds of forty or more.
#include <arpa/inet.h>
#include <dirent.h>
#include <malloc.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <optional>
#include <random>
#include <ringlet/recipes/multishot.hpp>
#include <ringlet/timer.hpp>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

using namespace ringlet;
using namespace std::chrono_literals;
using std::chrono::microseconds;
using std::chrono::milliseconds;

// ---- memory ------------------------------------------------------------------------------------

namespace {
long heap_bytes = 0;  // of operator new, alive
}

void* operator new(std::size_t n) {
    void* const p = std::malloc(n);
    if (!p) throw std::bad_alloc();
    heap_bytes += static_cast<long>(malloc_usable_size(p));
    return p;
}
void operator delete(void* p) noexcept {
    if (p) heap_bytes -= static_cast<long>(malloc_usable_size(p));
    std::free(p);
}
void operator delete(void* p, std::size_t) noexcept { operator delete(p); }

namespace {

// Where the pool of frames takes its blocks from.
struct counting_upstream final : std::pmr::memory_resource {
    long bytes = 0;
    void* do_allocate(std::size_t n, std::size_t) override {
        void* const p = std::malloc(n);
        if (!p) throw std::bad_alloc();
        bytes += static_cast<long>(n);
        return p;
    }
    void do_deallocate(void* p, std::size_t n, std::size_t) override {
        bytes -= static_cast<long>(n);
        std::free(p);
    }
    bool do_is_equal(const memory_resource& o) const noexcept override { return this == &o; }
};

// ---- what is counted ---------------------------------------------------------------------------

std::uint64_t seed = 1;
std::uint64_t patience;  // the longest timeout, in milliseconds

struct {
    std::uint64_t connections, complete, half_closed, reset, vanished, cut;
    std::uint64_t bytes_sent, bytes_returned;
    std::uint64_t timeouts, cancelled_clients, cancelled_servers, cancelled_copies;
    std::uint64_t shortened, failed, by_worker;
    std::uint64_t files, file_bytes, trees;
} total;

void must(bool ok, std::source_location where = std::source_location::current()) {
    if (ok) return;
    std::fflush(stdout);
    std::fprintf(stderr, "soak: line %u does not hold, seed %" PRIu64 "\n", where.line(), seed);
    std::_Exit(1);
}
std::ptrdiff_t open_fds() {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
}

class engine {
public:
    explicit engine(std::uint64_t stream) : random_(seed * 1'000'003 + stream) {}
    std::uint64_t below(std::uint64_t n) { return random_() % n; }
    bool one_in(std::uint64_t n) { return below(n) == 0; }
    int any_of(std::initializer_list<int> l) { return l.begin()[below(l.size())]; }

private:
    std::minstd_rand random_;
};

struct at_end {
    std::function<void()> action;
    explicit at_end(std::function<void()> f) : action(std::move(f)) {}
    at_end(at_end&&) = delete;
    ~at_end() { action(); }
};

// ---- faults ------------------------------------------------------------------------------------

engine faults(7);
bool injects = true;  // a NOP gives the result it is told to (Linux 6.6)

// Asks for nothing, and is answered with this error; on older kernels with that of no descriptor.
void inject(io_uring_sqe* s, int error) {
    ++total.failed;
    if (!injects) {
        s->fd = -1;
        return;
    }
    *s = {};
    s->opcode = IORING_OP_NOP;
    s->rw_flags = 1;  // IORING_NOP_INJECT_RESULT
    s->len = static_cast<unsigned>(-error);
}
void shorten(io_uring_sqe* s) {
    if (s->len < 2 || !faults.one_in(8)) return;
    s->len = static_cast<unsigned>(1 + faults.below(s->len - 1));
    ++total.shortened;
}
void meddle(io_uring_sqe* s) {
    switch (s->opcode) {
        case IORING_OP_SEND:
        case IORING_OP_RECV:
            shorten(s);
            if (faults.one_in(100)) inject(s, faults.any_of({EINTR, EAGAIN, ENOBUFS, ENOMEM, EIO}));
            break;
        case IORING_OP_READ:
        case IORING_OP_WRITE:
            shorten(s);
            if (faults.one_in(100)) inject(s, faults.any_of({EINTR, EIO, ENOSPC, ENOMEM}));
            else if (faults.one_in(20)) s->flags |= IOSQE_ASYNC, ++total.by_worker;
            break;
        case IORING_OP_SOCKET:
        case IORING_OP_OPENAT:
            if (faults.one_in(100)) inject(s, faults.any_of({EINTR, EMFILE, ENFILE, ENOMEM}));
            break;
        case IORING_OP_CONNECT:
            if (faults.one_in(100)) inject(s, faults.any_of({ECONNREFUSED, ETIMEDOUT, ENOBUFS}));
            break;
        case IORING_OP_ACCEPT:
            if (faults.one_in(100))
                inject(s, faults.any_of({ECONNABORTED, EMFILE, ENFILE, ENOMEM}));
            break;
        case IORING_OP_FSYNC:
        case IORING_OP_RENAMEAT:
        case IORING_OP_STATX:
            if (faults.one_in(50)) inject(s, faults.any_of({EINTR, EIO, ENOSPC}));
            break;
        default: break;  // a close that is not done would be a leak of our own making
    }
}
bool passing(int error) { return error == EINTR || error == EAGAIN || error == ENOBUFS; }
bool by_peer(int error) { return error == ECONNRESET || error == EPIPE; }
// Anything else, EFAULT or EINVAL say, would be a bug.
bool expected(int error) {
    for (const int e : {EINTR, EAGAIN, ENOBUFS, ENOMEM, EIO, ENOSPC, EMFILE, ENFILE, ECONNREFUSED,
             ETIMEDOUT, ECONNABORTED, ECONNRESET, EPIPE, EADDRNOTAVAIL})
        if (e == error) return true;
    return !injects && (error == EBADF || error == EAFNOSUPPORT);  // `fd` is a socket's family
}

// ---- connections -------------------------------------------------------------------------------

// What both sides of a connection have seen of it. Checked when both are over.
struct record {
    std::uint64_t id = 0, sent = 0, taken = 0, returned = 0, received = 0;
    bool known = false;  // the server has learned which connection it is
    bool client_over = false, client_clean = false, client_cut = false;
    bool server_over = false, server_clean = false, server_cut = false;

    void check() const {
        must(known || received < sizeof id);
        if (!client_over || !server_over) return;
        must(sent >= taken && taken >= returned && returned >= received);
        must(!client_clean || sent == received);
        must(!client_cut || !server_clean);
        must(!server_cut || !client_clean);
    }
};
constexpr std::size_t records_kept = 1 << 17;
std::vector<record> records(records_kept);
std::uint64_t next_id = 1;

// The stream of a connection begins with its number.
std::byte byte_at(std::uint64_t id, std::uint64_t i) {
    if (i < sizeof id) return static_cast<std::byte>(id >> (8 * i));
    return static_cast<std::byte>((id * 0x9e3779b97f4a7c15 + i * 0xff51afd7ed558ccd) >> 56);
}
void fill(std::span<std::byte> into, std::uint64_t id, std::uint64_t from) {
    for (std::byte& b : into) b = byte_at(id, from++);
}
bool right(std::span<const std::byte> data, std::uint64_t id, std::uint64_t from) {
    return std::ranges::all_of(data, [&](std::byte b) { return b == byte_at(id, from++); });
}

// ---- the server --------------------------------------------------------------------------------

// The server's end of a connection: it learns from the first bytes which one it is.
struct server_side {
    std::uint64_t id = 0, taken = 0, returned = 0;
    record* its = nullptr;
    bool clean = false, cut = false;

    server_side() = default;
    server_side(server_side&&) = delete;
    ~server_side() {
        if (!its) return;
        note();
        its->server_clean = clean;
        its->server_cut = cut;
        its->server_over = true;
        its->check();
    }
    void note() const { its->taken = taken, its->returned = returned; }
    void take(std::span<const std::byte> data) {
        for (std::size_t i = 0; i < data.size() && taken + i < sizeof id; ++i)
            id |= std::to_integer<std::uint64_t>(data[i]) << (8 * (taken + i));
        const std::uint64_t before = std::exchange(taken, taken + data.size());
        if (taken < sizeof id) return;
        if (!its) {
            its = &records[id % records_kept];
            must(its->id == id && !its->known);
            its->known = true;
        }
        must(right(data, id, before));
        note();
    }
};

task<int> send_back(int fd, std::span<const std::byte> rest, server_side& mine) {
    while (!rest.empty()) {
        const int n = co_await io::send(fd, rest).result();
        if (n < 0 && !passing(-n)) co_return n;
        if (n < 0) continue;
        rest = rest.subspan(static_cast<std::size_t>(n));
        mine.returned += static_cast<std::size_t>(n);
        if (mine.its) mine.note();
    }
    co_return 0;
}
task<> serve(unique_fd client, bool shields) {
    std::array<std::byte, 1000> buffer;
    server_side mine;
    for (;;) {
        int n = co_await io::recv(client, buffer).result();
        if (n < 0 && passing(-n)) continue;
        if (n > 0) {
            const auto data = std::span<const std::byte>(buffer).first(static_cast<std::size_t>(n));
            mine.take(data);
            if (shields) n = co_await shield(send_back(client, data, mine));
            else n = co_await send_back(client, data, mine);
            if (n == 0) continue;
        }
        must(n == 0 || expected(-n));
        mine.clean = n == 0;
        mine.cut = by_peer(-n);
        co_return;
    }
}

struct server {
    unique_fd listener;
    sockaddr_in address{};
    std::vector<join_handle<>> connections;
    channel<std::size_t> free_places;
    std::uint64_t accepted = 0;

    explicit server(std::size_t places)
        : listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)),
          connections(places),
          free_places(places) {
        socklen_t size = sizeof address;
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        auto* const at = reinterpret_cast<sockaddr*>(&address);
        must(::bind(listener, at, size) == 0 && ::listen(listener, 4096) == 0);
        must(::getsockname(listener, at, &size) == 0);
        for (std::size_t i = 0; i < places; ++i) free_places.try_send(i);
    }
    task<> connection(unique_fd client, std::size_t place, engine random) {
        const at_end gives_back([this, place] { free_places.try_send(place); });
        const milliseconds limit(5 + random.below(random.one_in(4) ? 50 : patience));
        const bool in_time = co_await try_timeout(
            limit, serve(std::move(client), random.one_in(4)));
        total.timeouts += !in_time;
    }
    // Takes connections, one by one or by `many`.
    task<> accept_all(io::accept_many* many) {
        for (;;) {
            const auto place = co_await free_places.recv();
            unique_fd client;
            int error = 0;
            while (!client) {
                try {
                    if (many) client = co_await many->next();
                    else client = co_await io::accept(listener);
                } catch (const std::system_error& e) { error = e.code().value(); }
                must(client || expected(error));
            }
            engine random(5'000'000 + ++accepted);
            connections[*place] = spawn(connection(std::move(client), *place, random));
        }
    }
    task<> run() {
        io::accept_many many(listener);
        std::vector<task<>> loops;
        loops.push_back(accept_all(&many));
        for (int i = 0; i < 8; ++i) loops.push_back(accept_all(nullptr));
        co_await when_all(std::move(loops));
    }
};

// ---- the clients -------------------------------------------------------------------------------

// The client's end of a connection.
struct client_side {
    record& its;
    explicit client_side(std::uint64_t id) : its(records[id % records_kept]) {
        its = record();
        its.id = id;
    }
    client_side(client_side&&) = delete;
    ~client_side() {
        its.client_over = true;
        its.check();
        total.bytes_sent += its.sent;
        total.bytes_returned += its.received;
        total.complete += its.client_clean;
        total.cut += its.client_cut;
    }
};

task<> send_up_to(int fd, record& r, std::uint64_t end) {
    std::array<std::byte, 700> buffer;
    while (r.sent < end) {
        const auto data = std::span(buffer).first(std::min<std::size_t>(700, end - r.sent));
        fill(data, r.id, r.sent);
        const int n = co_await io::send(fd, data).result();
        if (n >= 0) r.sent += static_cast<std::size_t>(n);
        else if (!passing(-n)) throw std::system_error(-n, std::system_category(), "send");
    }
}
// False: the stream ends before that.
task<bool> receive_up_to(int fd, record& r, std::uint64_t end) {
    std::array<std::byte, 700> buffer;
    while (r.received < end) {
        const auto room = std::span(buffer).first(std::min<std::size_t>(700, end - r.received));
        const int n = co_await io::recv(fd, room).result();
        if (n == 0) co_return false;
        if (n < 0 && passing(-n)) continue;
        if (n < 0) throw std::system_error(-n, std::system_category(), "recv");
        must(right(room.first(static_cast<std::size_t>(n)), r.id, r.received));
        r.received += static_cast<std::size_t>(n);
    }
    co_return true;
}
// There and back, in pieces of any size; gives false when it is cut.
task<bool> talk(int fd, record& r, std::uint64_t end, bool stalls, engine& random) {
    while (r.sent < end) {
        co_await send_up_to(fd, r, std::min(end, r.sent + 1 + random.below(3000)));
        if (stalls && random.one_in(4)) co_await sleep_for(microseconds(random.below(40'000)));
        const bool all = co_await receive_up_to(fd, r, r.sent);
        if (!all) co_return false;
    }
    co_return true;
}
// Both ways at once, with an end of this half; then to the end of the other.
task<bool> pour(int fd, record& r, std::uint64_t length) {
    auto sends = [](int to, record& its, std::uint64_t end) -> task<> {
        co_await send_up_to(to, its, end);
        ::shutdown(to, SHUT_WR);
    };
    const auto [none, all] = co_await when_all(sends(fd, r, length), receive_up_to(fd, r, length));
    if (!all) co_return false;
    const bool more = co_await receive_up_to(fd, r, length + 1);
    must(!more);
    ++total.half_closed;
    co_return true;
}
void reset_on_close(int fd) {
    const linger at_once{1, 0};
    must(::setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once) == 0);
}

task<> one_connection(const server& s, engine random) {
    client_side mine(next_id++);
    record& r = mine.its;
    const std::uint64_t length = 8 + random.below(random.one_in(10) ? 30'000 : 3000);
    const std::uint64_t part = random.below(length), manner = random.below(8);
    bool all = false;
    try {
        const unique_fd fd = co_await io::socket(AF_INET, SOCK_STREAM);
        co_await io::connect(fd, reinterpret_cast<const sockaddr*>(&s.address), sizeof s.address);
        ++total.connections;
        if (manner == 0) {
            co_await send_up_to(fd, r, part);
            ++total.vanished;
            co_return;
        }
        if (manner == 1) {
            reset_on_close(fd);
            co_await talk(fd, r, part, random.one_in(2), random);
            ++total.reset;
            co_return;
        }
        if (manner < 4) all = co_await pour(fd, r, length);
        else all = co_await talk(fd, r, length, manner == 4, random);
        r.client_cut = !all;
        r.client_clean = all;
    } catch (const std::system_error& e) {
        must(expected(e.code().value()));
        r.client_cut = by_peer(e.code().value());
    }
    if (!all) co_await sleep_for(1ms);  // no ports, say
}

bool over = false;

task<> client(const server& s, std::uint64_t number) {
    engine random(number);
    while (!over) {
        const milliseconds limit(random.one_in(8) ? random.below(30) : patience);
        const bool in_time = co_await try_timeout(
            limit, one_connection(s, engine(random.below(1u << 30))));
        total.timeouts += !in_time;
        if (random.one_in(4)) co_await sleep_for(microseconds(random.below(20'000)));
    }
}

// ---- the tree ----------------------------------------------------------------------------------

struct tree {
    static constexpr std::size_t files = 60;
    std::string root = (std::filesystem::temp_directory_path() / "ringlet-soak-XXXXXX").string();
    std::vector<std::string> contents;
    std::vector<char> done = std::vector<char>(files);

    tree() {
        must(::mkdtemp(root.data()) != nullptr);
        std::filesystem::create_directory(root + "/from");
        for (std::size_t i = 0; i < files; ++i) {
            engine random(1000 + i);
            std::string text(random.one_in(8) ? 0 : random.below(20'000), '\0');
            fill(std::as_writable_bytes(std::span(text)), i, sizeof i);
            std::ofstream(name("from", i), std::ios::binary) << text;
            contents.push_back(std::move(text));
        }
    }
    tree(tree&&) = delete;
    ~tree() { std::filesystem::remove_all(root); }
    std::string name(const char* folder, std::size_t i) const {
        return root + "/" + folder + "/" + std::to_string(i);
    }
    void begin() {
        std::filesystem::create_directory(root + "/to");
        std::ranges::fill(done, 0);
    }
    // Nothing is there but what is done, and that is complete.
    void check_and_clear() {
        std::ptrdiff_t finished = 0;
        for (std::size_t i = 0; i < files; ++i) {
            std::ifstream in(name("to", i), std::ios::binary);
            must(in.is_open() == (done[i] != 0));
            if (!done[i]) continue;
            ++finished;
            must(std::string(std::istreambuf_iterator<char>(in), {}) == contents[i]);
            total.file_bytes += contents[i].size();
        }
        must(std::distance(std::filesystem::directory_iterator(root + "/to"), {}) == finished);
        std::filesystem::remove_all(root + "/to");
        total.files += static_cast<std::uint64_t>(finished);
        ++total.trees;
    }
};

// Copies under another name, and renames the whole. Whatever ends it before that removes the half.
task<> copy_file(tree& t, std::size_t i, bool syncs) {
    const std::string half = t.name("to", i) + ".half";
    std::array<std::byte, 1500> buffer;
    std::int64_t at = 0;
    const auto source = co_await io::open(t.name("from", i).c_str(), O_RDONLY);
    const at_end removes([&] { ::unlink(half.c_str()); });
    auto target = co_await io::open(half.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600);
    for (;;) {
        const std::size_t n = co_await io::read(source, buffer, at);
        if (n == 0) break;
        co_await io::write_all(target, std::span<const std::byte>(buffer).first(n), at);
        at += static_cast<std::int64_t>(n);
    }
    if (syncs) co_await io::fsync(target);
    co_await io::close(std::move(target));
    co_await io::rename(half.c_str(), t.name("to", i).c_str());
    t.done[i] = 1;
}
task<> copy_or_cancel(tree& t, std::size_t i, engine random) {
    auto copy = spawn(copy_file(t, i, random.one_in(30)));
    bool done = false;
    try {
        if (random.one_in(2)) {
            const std::uint64_t turns = random.below(random.one_in(2) ? 20 : 300);
            for (std::uint64_t k = 0; k < turns && !copy.done(); ++k) co_await yield_now();
            done = co_await std::move(copy).cancel();
            total.cancelled_copies += !done;
        } else done = co_await std::move(copy).try_join();
    } catch (const std::system_error& e) { must(expected(e.code().value())); }
    must(done == (t.done[i] != 0));
}
task<> copy_trees(tree& t, engine random) {
    while (!over) {
        std::vector<task<>> copies;
        t.begin();
        for (std::size_t i = 0; i < tree::files; ++i)
            copies.push_back(copy_or_cancel(t, i, engine(random.below(1u << 30))));
        co_await when_all(std::move(copies));
        t.check_and_clear();
    }
}

// ---- a round -----------------------------------------------------------------------------------

// The first has half as many clients again: so what memory it takes is enough for all that follow.
struct stage {
    std::uint64_t number, started = 0;
    std::size_t size = number ? 1000 : 1500;
    server s{size};
    std::vector<join_handle<>> clients{size};
    explicit stage(std::uint64_t n) : number(n) {}

    void start_client(std::size_t i) {
        clients[i] = spawn(client(s, number * 1'000'000'000 + ++started));
    }
};
// Cancels whom it likes, and waits until they have let go.
task<> cancel_at_random(stage& st, engine random) {
    while (!over) {
        co_await sleep_for(microseconds(random.below(20'000)));
        const std::size_t i = random.below(st.size);
        const bool a_client = random.one_in(2);
        join_handle<> h = std::move((a_client ? st.clients : st.s.connections)[i]);
        if (!h || h.done()) continue;
        const bool ended = co_await std::move(h).cancel();
        (a_client ? total.cancelled_clients : total.cancelled_servers) += !ended;
        if (a_client) st.start_client(i);
    }
}
task<> round(std::uint64_t number, std::span<tree> trees, milliseconds length) {
    stage st(number);
    over = false;
    std::vector<task<>> all;
    auto server = spawn(st.s.run());
    for (std::size_t i = 0; i < st.size; ++i) st.start_client(i);
    for (tree& t : trees) all.push_back(copy_trees(t, engine(number)));
    for (unsigned i = 0; i < 10; ++i) all.push_back(cancel_at_random(st, engine(100 * number + i)));
    auto others = spawn(when_all(std::move(all)));
    co_await sleep_for(length);
    over = true;
    co_await std::move(others);
    for (auto& h : st.clients)
        if (h) co_await std::move(h);
    const bool ended = co_await std::move(server).cancel();
    must(!ended);
    for (auto& h : st.s.connections) {
        if (!h) continue;
        const bool in_time = co_await std::move(h).cancel();
        static_cast<void>(in_time);
    }
    must(reactor::stats().in_flight == 0);
}

long resident_kb() {
    long size = 0, resident = 0;
    std::ifstream("/proc/self/statm") >> size >> resident;
    return resident * (::sysconf(_SC_PAGESIZE) / 1024);
}
void raise_limit_of_files() {
    rlimit l{};
    must(::getrlimit(RLIMIT_NOFILE, &l) == 0);
    l.rlim_cur = std::max<rlim_t>(l.rlim_cur, std::min<rlim_t>(l.rlim_max, 4096));
    must(::setrlimit(RLIMIT_NOFILE, &l) == 0);
    must(l.rlim_cur >= 3200);
}

struct books {
    long heap = heap_bytes, pool, resident = resident_kb();
    explicit books(const counting_upstream& u) : pool(u.bytes) {}
};
void print(std::uint64_t n, const books& first, const books& last, const reactor::statistics& io) {
    std::printf("rounds %" PRIu64 ", enters %" PRIu64 ", requests %" PRIu64 "\n", n, io.enters,
        io.submitted);
    std::printf("connections %" PRIu64 ": complete %" PRIu64 " (half-closed %" PRIu64
                "), reset %" PRIu64 ", vanished %" PRIu64 ", cut by the server %" PRIu64 "\n",
        total.connections, total.complete, total.half_closed, total.reset, total.vanished,
        total.cut);
    std::printf("bytes sent %" PRIu64 ", received back and checked %" PRIu64 "\n", total.bytes_sent,
        total.bytes_returned);
    std::printf("files copied and compared %" PRIu64 " (%" PRIu64 " bytes, %" PRIu64 " trees)\n",
        total.files, total.file_bytes, total.trees);
    std::printf("cancelled: clients %" PRIu64 ", connections %" PRIu64 ", copies %" PRIu64
                "; timeouts %" PRIu64 "\n",
        total.cancelled_clients, total.cancelled_servers, total.cancelled_copies, total.timeouts);
    std::printf("faults: shortened %" PRIu64 ", failed %" PRIu64 ", sent to a worker %" PRIu64 "\n",
        total.shortened, total.failed, total.by_worker);
    std::printf("in the first round and the last: heap %ld and %ld, pool %ld and %ld bytes, "
                "resident %ld and %ld KB\n",
        first.heap, last.heap, first.pool, last.pool, first.resident, last.resident);
}

void soak(milliseconds length) {
    counting_upstream upstream;
    frame_pool::use(&upstream);
    const auto fds = open_fds();
    const milliseconds each = length < 40s ? length / 4 : milliseconds(10s);
    patience = static_cast<std::uint64_t>(std::min<std::int64_t>(2000, each.count()));
    const auto rounds = static_cast<std::uint64_t>(std::max<std::int64_t>(2, length / each));
    {
        tree trees[2];
        std::vector<books> marks;
        reactor::statistics io;
        const auto stats = []() -> task<reactor::statistics> { co_return reactor::stats(); };
        const auto can_inject = []() -> task<bool> {
            const int n = co_await io::op([](io_uring_sqe* s) { inject(s, 77); }).result();
            co_return n == -77;
        };
        marks.reserve(rounds);
        const auto its = open_fds();
        injects = block_on(can_inject());
        for (std::uint64_t n = 0; n < rounds; ++n) {
            std::optional<executor> ex(std::in_place);
            reactor::on_submit = meddle;
            ex->run(round(n, std::span(trees).first(n ? 1 : 2), each));
            reactor::on_submit = nullptr;
            must(ex->empty());
            must(open_fds() == its + 1);  // the ring
            marks.emplace_back(upstream);
            must(marks.back().heap == marks.front().heap);
            const reactor::statistics its_io = ex->run(stats());
            io.enters += its_io.enters;
            io.submitted += its_io.submitted;
            // What the pool keeps for the next round depends on the busiest moment, and says little.
            // What is lost is seen exactly: without the executor nothing may be left of it.
            ex.reset();
            must(open_fds() == its);
            frame_pool::use(nullptr);  // throws if a frame or job is alive
            must(upstream.bytes == 0);
            frame_pool::use(&upstream);
        }
        print(rounds, marks.front(), marks.back(), io);
        must(each < 10s || marks.back().resident < marks.front().resident + 2048);
    }
    must(open_fds() == fds);
    frame_pool::use(nullptr);  // throws if a frame or job is alive
    must(upstream.bytes == 0);
    std::puts("nothing lost: no job, descriptor, byte or block of memory");
}

}  // namespace

int main(int argc, char** argv) {
    const double seconds = argc > 1 ? std::atof(argv[1]) : 10;
    if (argc > 2) seed = std::strtoull(argv[2], nullptr, 10);
    if (seconds <= 0 || argc > 3) {
        std::fputs("usage: soak [SECONDS] [SEED]\n", stderr);
        return 2;
    }
    raise_limit_of_files();
    faults = engine(7);
    try {
        soak(std::chrono::duration_cast<milliseconds>(std::chrono::duration<double>(seconds)));
    } catch (const std::exception& e) {
        std::fprintf(stderr, "soak: %s, seed %" PRIu64 "\n", e.what(), seed);
        return 1;
    }
}
