// fetch: GETs many URLs at once.
//
//   usage: fetch [-j N] [--timeout S] [--retries N] [--cacert FILE] [-o DIR] URL...
//
// Saves what each http or https URL gives in DIR (else here) under the last part of its path, as it is
// sent and not over 240 bytes, index.html if that is empty, with .1, .2 and so on behind a name that is
// taken by another URL. At most N (16) are under way at once, and no more than there are descriptors
// for. Redirects are followed, up to ten. What fails for reasons that may pass (no connection, an answer
// cut off, the status 408, 429 or 5xx) is tried again, twice or as often as --retries says, after half a
// second, then one, two and so on. A connection that gives nothing for S (30) seconds has failed.
// Certificates are checked against the system's authorities, or those in FILE. A file appears when it
// is complete, and not before.
//
// At the end there is a table: status, bytes, seconds, name and URL of each. Errors go to stderr,
// with their URL, and so does progress, if that is a terminal. The exit status is 0 if all have been
// saved, else 1; 2 for a wrong call; 128 and the signal's number for SIGINT, SIGTERM, SIGHUP and, when
// nobody reads its errors, SIGPIPE.
//
// What it shows: TLS, names and HTTP as recipes, none of which the kit knows; workers that share a
// list; a timeout around each step and not around the whole; files that cannot stay
// half-written, since a destructor takes them away whoever ends the task.

#include <ringlet/recipes/http1_get.hpp>
#include <ringlet/recipes/partial_file.hpp>
#include <ringlet/recipes/signals.hpp>
#include <ringlet/recipes/standard.hpp>

#include <getopt.h>

#include <cstdio>
#include <cstdlib>
#include <set>

namespace {

using namespace ringlet;
using namespace std::chrono_literals;
using seconds = std::chrono::duration<double>;

struct download {
    url from;
    std::string path, error{};
    int status = 0;
    std::size_t bytes = 0;
    seconds took{};
};
struct work {
    std::vector<download> all;
    tls::context trusted;
    seconds patience = 30s;
    std::size_t next = 0, done = 0, bytes = 0, jobs = 16;
    int retries = 2;
    bool terminal = ::isatty(STDERR_FILENO) == 1;
};

using permanent = std::invalid_argument;  // what another attempt cannot help, as a URL that is none

// One attempt, redirects included. Throws what goes wrong.
task<> fetch(work& w, download& d) {
    partial_file file(d.path);
    url at = d.from;
    d.bytes = 0;
    const auto store = [&](const http1::head& answer, std::string_view piece) -> task<> {
        if (answer.status / 100 != 2) co_return;
        co_await io::write_all(file.fd(), std::as_bytes(std::span(piece)));
        d.bytes += piece.size(), w.bytes += piece.size();
    };
    co_await file.open();
    for (int hops = 0; hops <= 10; ++hops) {
        const http1::head answer = co_await http1::get(at, w.trusted, w.patience, store);
        const std::string* const location = answer.find("location");
        d.status = answer.status;
        if (d.status / 100 == 2) co_return co_await file.keep();
        const bool redirect = d.status / 100 == 3 && d.status != 304 && location;
        const bool passes = d.status == 408 || d.status == 429 || d.status / 100 == 5;
        const std::string text = "status " + std::to_string(d.status);
        if (!redirect) passes ? throw std::runtime_error(text) : throw permanent(text);
        at = at.resolved(*location);
    }
    throw permanent("too many redirects");
}
task<> with_retries(work& w, download& d) {
    const auto begin = virtual_time::now();
    for (int tries = 0; tries == 0 || (!d.error.empty() && tries <= w.retries); ++tries) {
        if (tries > 0) co_await sleep_for(250ms * (1 << std::min(tries, 8)));
        d.error.clear();
        try {
            co_await fetch(w, d);
        } catch (const permanent& e) {
            d.error = e.what(), tries = w.retries;
        } catch (const tls::error& e) {
            d.error = e.what(), tries = w.retries;
        } catch (const std::exception& e) { d.error = e.what(); }
    }
    d.took = virtual_time::now() - begin;
    ++w.done;
    const char* const wipe = w.terminal ? "\r\033[K" : "";
    if (!d.error.empty())
        std::fprintf(stderr, "%sfetch: %s: %s\n", wipe, d.from.text().c_str(), d.error.c_str());
}
task<> worker(work& w) {
    while (w.next < w.all.size()) co_await with_retries(w, w.all[w.next++]);
}
task<> fetch_all(work& w) {
    std::vector<task<>> workers;
    while (workers.size() < std::min(w.jobs, w.all.size())) workers.push_back(worker(w));
    co_await when_all(std::move(workers));
}
task<> show(const work& w) {
    for (std::size_t before = 0; w.terminal; before = w.bytes) {
        std::fprintf(stderr, "\r\033[K%zu of %zu, %.1f MB, %.1f MB/s", w.done, w.all.size(),
            static_cast<double>(w.bytes) / 1e6, static_cast<double>(w.bytes - before) / 0.2e6);
        co_await sleep_for(200ms);
    }
    co_await sleep_for(std::chrono::hours::max());
}
// A signal ends it: whatever is under way is cancelled. Gives the signal's number, or 0.
task<int> run(work& w, signals& ending) {
    const auto [all, shown, why] = co_await when_any(fetch_all(w), show(w), ending.next());
    if (w.terminal) std::fputs("\r\033[K", stderr);
    co_return why ? static_cast<int>(why->ssi_signo) : 0;
}

int usage(std::FILE* out, int status) {
    std::fputs(
        "usage: fetch [-j N] [--timeout S] [--retries N] [--cacert FILE] [-o DIR] URL...\n", out);
    return status;
}
// The path to save it under, which no other has.
std::string path_for(const url& from, const std::string& dir, std::set<std::string>& taken) {
    std::string name = from.target.substr(0, from.target.find('?'));
    name = name.substr(name.rfind('/') + 1, 240);
    if (name.empty() || name == "." || name == "..") name = "index.html";
    std::string path = dir + "/" + name;
    for (int n = 1; !taken.insert(path).second; ++n)
        path = dir + "/" + name + "." + std::to_string(n);
    return path;
}

// Gives the exit status.
int print(const std::vector<download>& all) {
    bool failed = false;
    for (const download& d : all) {
        failed |= !d.error.empty();
        std::printf("%3d %12zu %8.2f  %s  %s\n", d.status, d.bytes, d.took.count(),
            d.error.empty() ? d.path.c_str() : "-", d.from.text().c_str());
    }
    if (std::fflush(stdout) == 0 && !std::ferror(stdout)) return failed ? 1 : 0;
    std::perror("fetch: standard output");
    return 1;
}

}  // namespace

int main(int argc, char** argv) {
    hold_standard_descriptors();
    static const option options[] = {{"timeout", 1, nullptr, 't'}, {"retries", 1, nullptr, 'r'},
        {"cacert", 1, nullptr, 'c'}, {"help", 0, nullptr, 'h'}, {}};
    work w;
    double jobs = 16, patience = 30, retries = 2;
    const char *dir = ".", *authorities = nullptr;
    opterr = 0;  // a wrong call gets one line
    for (int o; (o = getopt_long(argc, argv, "j:o:", options, nullptr)) != -1;) {
        char* end = nullptr;
        if (o == 'h') return usage(stdout, 0);
        if (o == '?') return usage(stderr, 2);
        if (o == 'o' || o == 'c') (o == 'o' ? dir : authorities) = optarg;
        else (o == 'j' ? jobs : o == 'r' ? retries : patience) = std::strtod(optarg, &end);
        if (end && (end == optarg || *end)) return usage(stderr, 2);
    }
    const bool good = *dir && jobs >= 1 && jobs <= 10000 && patience > 0 && retries >= 0
        && retries <= 1000;
    if (!good || optind == argc) return usage(stderr, 2);
    try {
        signals ending({SIGINT, SIGTERM, SIGHUP, SIGPIPE});  // before the first thread
        std::set<std::string> taken;
        for (char** text = argv + optind; *text; ++text)
            w.all.push_back(download{url(*text), path_for(url(*text), dir, taken)});
        w.trusted = tls::trust(authorities);
        w.patience = seconds(patience), w.retries = static_cast<int>(retries);
        // Each has a file and some sockets; to look up names, and for what is open, there are 18 more.
        const auto most = std::max<std::size_t>(most_descriptors() / 3, 7) - 6;
        w.jobs = std::min(most, static_cast<std::size_t>(jobs));
        const int number = block_on(run(w, ending));
        if (number) return 128 + number;
    } catch (const std::exception& e) { return std::fprintf(stderr, "fetch: %s\n", e.what()), 2; }
    return print(w.all);
}
