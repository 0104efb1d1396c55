// httpd: static files over HTTP/1.1.
//
//   usage: httpd [--host ADDRESS] [--port N] [--threads N] [--timeout SECONDS] DIR
//
// Serves the regular files below DIR at 127.0.0.1, port 8080 (0: any free one), and prints where, as
// its first line. GET and HEAD, keep-alive, one range of bytes, conditional requests by ETag and by
// date; index.html stands for its directory. A path that leaves DIR is not found: the kernel resolves
// it (openat2, RESOLVE_BENEATH), so no coded dots and no link get around that. A client has SECONDS
// (15) to send a request, and as long for each piece of the answer. With --threads each of N threads
// has a listener and an executor of its own, and the kernel spreads the connections (SO_REUSEPORT).
//
// SIGINT and SIGTERM end it: the port is free at once, requests that have been read are answered,
// other connections are closed. The exit status is 0; 1 if it cannot listen, 2 for a wrong call.
//
// What it shows: a task for each connection; one deadline around a request, however it trickles in;
// a shield around each answer; an executor a thread as the way to many cores.

#include <ringlet/recipes/http1_file.hpp>
#include <ringlet/recipes/http1_io.hpp>
#include <ringlet/recipes/http1_path.hpp>
#include <ringlet/recipes/listen.hpp>
#include <ringlet/recipes/multishot.hpp>
#include <ringlet/recipes/open_beneath.hpp>
#include <ringlet/recipes/send_file.hpp>
#include <ringlet/recipes/standard.hpp>

#include <getopt.h>
#include <sys/signalfd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <thread>

namespace {

using namespace ringlet;
using namespace std::chrono_literals;

unique_fd root;  // the directory
std::chrono::seconds patience(15);
std::atomic<bool> failed = false;

// Opens the file that is asked for, and says what to send of it. Throws http1::error.
task<http1::answer> find(const http1::parser& request, unique_fd& file) {
    struct stat s {};
    std::string path = http1::path_of(request.target);
    const bool whole = path.back() != '/';
    if (!whole) path += "index.html";
    http1::require(request.method == "GET" || request.method == "HEAD", "method", 405);
    // A FIFO opens at once with O_NONBLOCK, and is refused then. A file is to be read as usual.
    file = co_await open_beneath(root, path, O_RDONLY | O_NONBLOCK);
    fstat(file, &s), fcntl(file, F_SETFL, 0);
    if (S_ISREG(s.st_mode)) co_return http1::select(request, s, path);
    // A directory that is called index.html would lead to itself, for ever.
    http1::require(S_ISDIR(s.st_mode) && whole, "neither file nor directory", 404);
    http1::answer moved{301, "Location: " + http1::with_slash(request.target) + "\r\n"};
    co_return moved;
}

// A client that takes nothing for so long is given up; after 2 or 3 seconds, if the server is to end.
task<> send_all(int client, std::span<const std::byte> rest) {
    for (auto left = patience; !rest.empty();) {
        const auto sent = co_await try_timeout(1s, io::send(client, rest));
        const bool ending = co_await cancel_requested();
        if (ending) left = std::min(left, 3s);
        if (sent) rest = rest.subspan(*sent), left = patience;
        else if (--left <= 0s) throw std::system_error(ETIMEDOUT, std::system_category());
    }
}
// Gives whether another request may follow.
task<bool> reply(int client, const http1::parser& request, int refusal) {
    unique_fd file;
    http1::answer a;
    a.status = refusal;
    try {
        if (!refusal) a = co_await find(request, file);
    } catch (const http1::error& e) { a.status = e.status; } catch (const std::system_error& e) {
        a.status = http1::status_of(e.code());
    }
    const bool ending = co_await cancel_requested();
    const bool keep = !refusal && request.done() && request.keep_alive() && !ending;
    const std::string text = a.status < 400 ? "" : std::to_string(a.status) + "\n";
    const auto length = static_cast<std::int64_t>(text.size()) + a.end - a.begin;
    const bool bare = request.method == "HEAD";
    const std::string head = http1::head_of(a, length, keep) + (bare ? "" : text);
    const auto send = [client](std::span<const std::byte> all) { return send_all(client, all); };
    co_await send_file(head, file.get(), a.begin, bare ? a.begin : a.end, send);
    co_return keep;
}

task<> drop_rest(int client) {
    std::array<std::byte, 4096> rest;
    for (std::size_t n = 1; n > 0;) n = co_await io::recv(client, rest);
}
// A request that has been read is answered, whatever happens; everything else may be cut short.
task<> serve(unique_fd client) {
    const auto receive = [&](std::span<std::byte> into) { return io::recv(client, into); };
    http1::reader<decltype(receive)> in(receive);
    try {
        for (bool keep = true; keep;) {
            http1::parser request(http1::parser::request);
            int refusal = 0;
            try {
                const auto got = co_await try_timeout(patience, in.head(request));
                if (got ? !*got : request.method.empty()) co_return;  // gone, or idle
                if (!got) refusal = 408;
            } catch (const http1::error& e) { refusal = e.status; }
            keep = co_await shield(reply(client, request, refusal));
        }
        ::shutdown(client, SHUT_WR);  // closed with bytes unread it would take back what was sent
        co_await try_timeout(1s, drop_rest(client));
    } catch (const std::system_error&) {}  // the connection ends, the server does not
}

task<> accept_all(unique_fd listener) {
    io::accept_many clients(listener);
    for (;;) spawn(serve(co_await clients.next())).detach();
}
// The signal is not taken: it stays for the other threads to see.
task<> serve_until_signal(unique_fd listener, int signals) {
    spawn(accept_all(std::move(listener))).detach();
    co_await io::poll(signals, POLLIN);
}
void fail(const std::exception& e) {
    std::fprintf(stderr, "httpd: %s\n", e.what());
    failed = true;
    ::kill(::getpid(), SIGTERM);  // the other threads shall end too
}
void run(unique_fd listener, int signals) try {
    block_on(serve_until_signal(std::move(listener), signals));
} catch (const std::exception& e) { fail(e); }
// A server a thread, until all have ended.
void run_all(const char* host, unsigned port, unsigned threads, int signals) {
    std::vector<unique_fd> listeners;
    std::vector<std::jthread> others;
    for (unsigned i = 0; i < threads; ++i) listeners.push_back(listen_on(host, port, threads > 1));
    const bool six = std::strchr(host, ':');
    std::printf(six ? "listening on [%s]:%u\n" : "listening on %s:%u\n", host, port);
    if (std::fflush(stdout) != 0) std::perror("httpd: standard output");
    for (unsigned i = 1; i < threads; ++i)
        others.emplace_back(run, std::move(listeners[i]), signals);
    run(std::move(listeners[0]), signals);
}

int usage(std::FILE* out, int status) {
    std::fputs("usage: httpd [--host IP] [--port N] [--threads N] [--timeout SECONDS] DIR\n", out);
    return status;
}

}  // namespace

int main(int argc, char** argv) {
    hold_standard_descriptors();
    static const option options[] = {{"host", 1, nullptr, 'a'}, {"port", 1, nullptr, 'p'},
        {"threads", 1, nullptr, 't'}, {"timeout", 1, nullptr, 's'}, {"help", 0, nullptr, 'h'}, {}};
    const char* host = "127.0.0.1";
    long port = 8080, threads = 1, seconds = 15;
    opterr = 0;  // a wrong call gets one line
    for (int o; (o = getopt_long(argc, argv, "", options, nullptr)) != -1;) {
        char* end = optarg;
        if (o == 'h') return usage(stdout, 0);
        if (o == '?') return usage(stderr, 2);
        long& number = o == 'p' ? port : o == 't' ? threads : seconds;
        if (o == 'a') host = optarg;
        else number = std::strtol(optarg, &end, 10);
        if (o != 'a' && (end == optarg || *end)) return usage(stderr, 2);
    }
    const bool good = port >= 0 && port < 65536 && threads > 0 && threads <= 256;
    if (!good || seconds < 1 || seconds > 86400 || optind + 1 != argc) return usage(stderr, 2);
    patience = std::chrono::seconds(seconds);
    most_descriptors();
    sigset_t set;
    sigemptyset(&set), sigaddset(&set, SIGINT), sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    try {
        root.reset(::open(argv[optind], O_PATH | O_DIRECTORY | O_CLOEXEC));
        if (!root) throw std::system_error(errno, std::system_category(), argv[optind]);
        const unique_fd signals(signalfd(-1, &set, SFD_CLOEXEC));
        run_all(host, static_cast<unsigned>(port), static_cast<unsigned>(threads), signals);
    } catch (const std::exception& e) { fail(e); }
    return failed ? 1 : 0;
}
