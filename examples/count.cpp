// count: wc for many files at once.
//
//   usage: count [-lwc] [-j N] [FILE]...        ls | count;  count -l *.cpp;  count -j 64 -- /etc/*
//
// Prints the lines, words and bytes of each FILE, and their total, the way GNU wc does in the C
// locale: -l, -w and -c choose columns, `-` or no FILE is standard input, what cannot be read is
// named on stderr and makes the exit status 1. At most N files are open at once (16 without -j), and
// no more than a quarter of the descriptors there may be.
//
// What it shows: N tasks that share a list of work, and so a bound on what is open without any
// counting; results that come in any order and are printed in the order of the arguments; errors as
// exceptions; descriptors owned by unique_fd.

#include <ringlet/reactor.hpp>
#include <ringlet/recipes/standard.hpp>

#include <getopt.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace ringlet;

struct counts {
    std::uintmax_t lines = 0, words = 0, bytes = 0;
    bool in_word = false;

    // A word begins with a printing character and ends at white space. Control characters and bytes
    // over 126 do neither.
    void add(std::span<const std::byte> data) {
        bytes += data.size();
        for (const std::byte b : data) {
            const auto c = std::to_integer<unsigned char>(b);
            const bool space = c == ' ' || (c >= '\t' && c <= '\r'), print = c > ' ' && c < 127;
            lines += c == '\n';
            words += print && !in_word;
            in_word = print || (in_word && !space);
        }
    }
};

struct input {
    const char* name;  // nullptr: standard input without a name
    bool fifo = false, opened = false, done = false;
    counts n{};
    std::string error{};

    bool is_stdin() const { return !name || std::strcmp(name, "-") == 0; }
};

// What all the workers share.
struct work {
    std::vector<input> inputs;
    std::size_t next = 0, printed = 0;
    bool lines = false, words = false, bytes = false, stdin_taken = false, failed = false;
    int width = 1;
    counts total;

    // The width of all columns comes from the sizes of the files, before any is read, and is at
    // least 7 if the size of one says nothing (a pipe, a directory). A number without company is
    // not padded. A stat never waits long: no ring for it.
    void measure() {
        std::uintmax_t sum = 0;
        for (input& in : inputs) {
            struct stat s {};
            if (in.is_stdin() && fcntl(STDIN_FILENO, F_GETFL) & O_PATH) continue;  // it is closed
            if ((in.is_stdin() ? fstat(STDIN_FILENO, &s) : stat(in.name, &s)) != 0) continue;
            in.fifo = S_ISFIFO(s.st_mode);
            if (S_ISREG(s.st_mode)) sum += static_cast<std::uintmax_t>(s.st_size);
            else width = 7;
        }
        width = std::max(width, static_cast<int>(std::to_string(sum).size()));
        if (inputs.size() == 1 && lines + words + bytes == 1) width = 1;
    }

    void print(const counts& n, const char* name) const {
        const char* gap = "";
        const auto column = [&](bool wanted, std::uintmax_t number) {
            if (wanted) std::printf("%s%*ju", std::exchange(gap, " "), width, number);
        };
        column(lines, n.lines), column(words, n.words), column(bytes, n.bytes);
        std::printf("%s%s\n", name ? " " : "", name ? name : "");
    }

    // Prints the results that are there, up to the first that is missing.
    void report() {
        for (; printed < inputs.size() && inputs[printed].done; ++printed) {
            const input& in = inputs[printed];
            if (!in.error.empty()) {
                const char* name = in.name ? in.name : "standard input";
                failed = true;
                std::fflush(stdout);
                std::fprintf(stderr, "count: %s: %s\n", name, in.error.c_str());
            }
            if (in.opened) print(in.n, in.name);
            total.lines += in.n.lines, total.words += in.n.words, total.bytes += in.n.bytes;
        }
    }
};

task<> read_all(int fd, counts& n, std::span<std::byte> buffer) {
    for (;;) {
        const std::size_t got = co_await io::read(fd, buffer);
        if (got == 0) break;
        n.add(buffer.first(got));
    }
}

task<> count_one(work& w, input& in, std::span<std::byte> buffer) {
    try {
        unique_fd file;
        int fd = STDIN_FILENO;
        if (!in.is_stdin()) {
            file = co_await io::open(in.name, O_RDONLY | O_CLOEXEC);
            fd = file.get();
            // The ring opens a FIFO without waiting for the other side, and then reads the end of
            // the file.
            const auto wait = [fd](io_uring_sqe* s) { io_uring_prep_poll_add(s, fd, POLLIN); };
            if (in.fifo) co_await io::op(wait, "poll");
        }
        in.opened = true;
        // Of two `-` the second is empty, as it would be if they were read one after the other.
        if (!in.is_stdin() || !std::exchange(w.stdin_taken, true))
            co_await read_all(fd, in.n, buffer);
    } catch (const std::system_error& e) { in.error = e.code().message(); }
    in.done = true;
}

// Takes the next file as long as there is one.
task<> worker(work& w) {
    std::vector<std::byte> buffer(64 * 1024);
    while (w.next < w.inputs.size()) {
        co_await count_one(w, w.inputs[w.next++], buffer);
        w.report();
    }
}

task<> count_all(work& w, std::size_t limit) {
    std::vector<join_handle<void>> workers(std::min(limit, w.inputs.size()));
    for (auto& handle : workers) handle = spawn(worker(w));
    for (auto& handle : workers) co_await std::move(handle);
}

int usage(std::FILE* out, int status) {
    std::fputs("usage: count [-lwc] [-j N] [FILE]...\n", out);
    return status;
}

}  // namespace

int main(int argc, char** argv) {
    hold_standard_descriptors();
    static const option long_options[] = {{"lines", 0, nullptr, 'l'}, {"words", 0, nullptr, 'w'},
        {"bytes", 0, nullptr, 'c'}, {"jobs", 1, nullptr, 'j'}, {"help", 0, nullptr, 'h'}, {}};
    work w;
    long limit = 16;
    char* end = nullptr;
    opterr = 0;  // a wrong call gets one line
    for (int o; (o = getopt_long(argc, argv, "lwcj:", long_options, nullptr)) != -1;) {
        if (o == 'h') return usage(stdout, 0);
        if (o == 'l') w.lines = true;
        else if (o == 'w') w.words = true;
        else if (o == 'c') w.bytes = true;
        else if (o == 'j') limit = std::strtol(optarg, &end, 10);
        if (o == '?' || limit < 1 || (end && *end)) return usage(stderr, 2);
    }
    if (!w.lines && !w.words && !w.bytes) w.lines = w.words = w.bytes = true;
    for (char** name = argv + optind; *name; ++name) w.inputs.push_back(input{*name});
    if (w.inputs.empty()) w.inputs.push_back(input{nullptr});
    w.measure();
    limit = std::min(limit, 1 + static_cast<long>(most_descriptors() / 4));
    try {
        block_on(count_all(w, static_cast<std::size_t>(limit)));
    } catch (const std::exception& e) {
        std::fprintf(stderr, "count: %s\n", e.what());
        return 1;
    }
    if (w.inputs.size() > 1) w.print(w.total, "total");
    if (std::fflush(stdout) == 0 && !std::ferror(stdout)) return w.failed ? 1 : 0;
    std::perror("count: standard output");
    return 1;
}
