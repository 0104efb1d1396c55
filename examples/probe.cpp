// probe: which TCP ports answer.
//
//   usage: probe [-j N] [--timeout SECONDS] HOST PORTS         probe example.org 80,443,8000-9000
//
// Connects to each of the PORTS of HOST, a name or an address, and prints the number of each that
// answers, as it comes, one a line. At most N connections (1000) are under way at once, and no
// more than there are descriptors for; each is given SECONDS (1, or a fraction). If HOST has addresses
// of IPv4 and of IPv6, one of each is asked, one after the other. A port that refuses and one that is
// silent are both no answer; that a host cannot be reached is an error. On a terminal, progress is
// shown on stderr. The exit status is 0 if a port has answered, else 1; 2 for a wrong call or an error;
// 128 and the signal's number for SIGINT and SIGTERM.
//
// What it shows: thousands of operations in flight, as N tasks that share a list of work; a
// timeout on each, which ends it in the kernel as well; a name looked up on another thread.

#include <ringlet/recipes/dns.hpp>
#include <ringlet/recipes/standard.hpp>
#include <ringlet/timer.hpp>

#include <getopt.h>
#include <netinet/in.h>
#include <sys/signalfd.h>

#include <bitset>
#include <csignal>
#include <cstdio>
#include <cstdlib>

namespace {

using namespace ringlet;

struct work {
    endpoints host;  // its port is set for each
    std::vector<unsigned> ports;
    std::chrono::duration<double> patience;
    std::size_t next = 0, done = 0, open = 0;
    bool progress = ::isatty(STDERR_FILENO) == 1;
    explicit work(endpoints h) : host(std::move(h)) {}
};

// On the way to a port of this machine the kernel may choose just that port for our own end, and then
// connects the socket to itself.
bool is_own(const unique_fd& s, const endpoint& peer) {
    sockaddr_storage own{};
    socklen_t size = sizeof own;
    const int n = ::getsockname(s, reinterpret_cast<sockaddr*>(&own), &size);
    return n == 0 && std::memcmp(&own, &peer.address, size) == 0;
}
// Does the port answer? Throws what is not the port's fault.
task<bool> answers(const work& w, unsigned port) {
    int asked = 0;
    std::exception_ptr missing;  // an address family, where nothing could be asked
    for (endpoint to : w.host) {
        // It is at the same place in both families.
        reinterpret_cast<sockaddr_in&>(to.address).sin_port = htons(std::uint16_t(port));
        unique_fd s;
        try {
            s = co_await io::socket(to.address.ss_family, SOCK_STREAM);
        } catch (const std::system_error& e) {
            if (e.code().value() != EAFNOSUPPORT) throw;
            missing = std::current_exception();
        }
        if (!s) continue;
        ++asked;
        const auto n = co_await try_timeout(w.patience, io::connect(s, to.get(), to.size).result());
        if (n && *n < 0 && *n != -ECONNREFUSED && *n != -ECONNRESET && *n != -ETIMEDOUT)
            throw std::system_error(-*n, std::system_category(), to.text());
        if (n && *n == 0 && !is_own(s, to)) co_return true;
    }
    if (!asked && missing) std::rethrow_exception(missing);
    co_return false;
}
task<> worker(work& w) {
    while (w.next < w.ports.size()) {
        const unsigned port = w.ports[w.next++];
        const bool open = co_await answers(w, port);
        ++w.done, w.open += open;
        if (w.progress && (open || w.done % 64 == 0 || w.done == w.ports.size()))
            std::fputs("\r\033[K", stderr);
        if (open) std::printf("%u\n", port), std::fflush(stdout);
        if (w.progress && w.done % 64 == 0 && w.done < w.ports.size())
            std::fprintf(stderr, "%zu of %zu", w.done, w.ports.size());
    }
}
task<> probe(work& w, std::size_t jobs) {
    std::vector<task<>> workers;
    while (workers.size() < std::min(jobs, w.ports.size())) workers.push_back(worker(w));
    co_await when_all(std::move(workers));
}
// Is there a way to it? A socket for datagrams knows without sending one.
bool has_route(const endpoint& e) {
    const unique_fd s(::socket(e.address.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    return s.get() >= 0 && ::connect(s, e.get(), e.size) == 0;
}
// The first address of each family: localhost has two, and many a server listens to one of them.
endpoints first_ones(const endpoints& list) {
    endpoints ones(1, list.front());
    for (const endpoint& e : list)
        if (ones.size() == 1 && e.address.ss_family != ones[0].address.ss_family && has_route(e))
            ones.push_back(e);
    return ones;
}
task<int> signal_from(int signals) {
    signalfd_siginfo info;
    co_await io::read(signals, std::as_writable_bytes(std::span(&info, 1)));
    co_return static_cast<int>(info.ssi_signo);
}
// A signal ends it: what is under way is cancelled. Gives the exit status.
task<int> run(
    const char* host, std::vector<unsigned> ports, double patience, std::size_t jobs, int signals) {
    const endpoints found = co_await resolve(host, "0");
    work w(first_ones(found));
    w.ports = std::move(ports), w.patience = std::chrono::duration<double>(patience);
    const auto [all, number] = co_await when_any(probe(w, jobs), signal_from(signals));
    co_return number ? 128 + *number : w.open == 0;
}

// "80,443,8000-9000", in order, each once; none if that is not what it is.
std::vector<unsigned> ports_of(const char* text) {
    std::bitset<65536> wanted;
    std::vector<unsigned> ports;
    for (char* end = nullptr; *text; text = *end ? end + 1 : end) {
        const auto first = std::strtoul(text, &end, 10);
        const bool range = end != text && *end == '-';
        const char* const second = range ? end + 1 : text;
        const auto last = std::strtoul(second, &end, 10);
        const bool digits = *text >= '0' && *text <= '9' && *second >= '0' && *second <= '9';
        const bool ends = *end == '\0' || (*end == ',' && end[1]);
        if (!digits || !ends || first < 1 || first > last || last > 65535) return {};
        for (auto p = first; p <= last; ++p) wanted[p] = true;
    }
    for (unsigned p = 1; p < wanted.size(); ++p)
        if (wanted[p]) ports.push_back(p);
    return ports;
}
int usage(std::FILE* out, int status) {
    std::fputs("usage: probe [-j N] [--timeout SECONDS] HOST PORTS\n", out);
    return status;
}

}  // namespace

int main(int argc, char** argv) {
    hold_standard_descriptors();
    static const option options[] = {
        {"jobs", 1, nullptr, 'j'}, {"timeout", 1, nullptr, 't'}, {"help", 0, nullptr, 'h'}, {}};
    double jobs = 1000, patience = 1;
    opterr = 0;  // a wrong call gets one line
    for (int o; (o = getopt_long(argc, argv, "j:", options, nullptr)) != -1;) {
        char* end = nullptr;
        if (o == 'h') return usage(stdout, 0);
        if (o == '?') return usage(stderr, 2);
        (o == 'j' ? jobs : patience) = std::strtod(optarg, &end);
        if (end == optarg || *end) return usage(stderr, 2);
    }
    if (optind + 2 != argc || !(jobs >= 1) || !(patience > 0)) return usage(stderr, 2);
    std::vector<unsigned> ports = ports_of(argv[optind + 1]);
    if (ports.empty()) return usage(stderr, 2);
    sigset_t set;
    sigemptyset(&set), sigaddset(&set, SIGINT), sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    const unique_fd signals(signalfd(-1, &set, SFD_CLOEXEC));
    // A dozen are for the ring, the looking up of the name, and what was open before.
    const std::size_t most = std::max<std::size_t>(most_descriptors(), 13) - 12;
    const std::size_t n = jobs < static_cast<double>(most) ? static_cast<std::size_t>(jobs) : most;
    try {
        const int status = block_on(
            run(argv[optind], std::move(ports), patience, n, signals.get()));
        if (std::fflush(stdout) == 0 && !std::ferror(stdout)) return status;
        std::perror("probe: standard output");
        return 2;
    } catch (const std::exception& e) {
        std::fprintf(stderr, "probe: %s\n", e.what());
        return 2;
    }
}
