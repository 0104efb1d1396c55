// rcp: copies files and trees, many files at a time.
//
//   usage: rcp [-j N] SRC... DST        rcp -j 64 photos /mnt/backup
//
// Copies each SRC, with all that is in it, to DST, or into DST if that is a directory, as
// `cp -r --preserve=mode,timestamps` does: modes and times are kept, symbolic links stay links, holes
// stay holes; owners and hard links are not kept. Of two files that come to one name the second is not
// copied. N files are under way at once (16 without -j), or as many as there are descriptors for.
//
// A file is written under another name in its directory, .rcp-..., and renamed when it is complete: so
// under its own name there is never half of it, and SIGINT, SIGTERM, SIGHUP or SIGPIPE, which stop rcp
// at once if they are not ignored, leave neither. A device or a FIFO is neither copied nor replaced.
// What cannot be copied is named on stderr, and makes the exit status 1; the rest is copied. A wrong
// call is exit status 2. On a terminal stderr shows how far it is.
//
// What it shows: a channel between one task that walks the trees and N that copy; cleanup by
// destructors, which a cancelled task's frame runs as any other scope: the temporary file; what is
// shared, and ends with its last user: a directory, whose times are set when all in it is there.
// Directories are read by plain calls, since io_uring has none for it; they rarely wait. Nor has it
// one for copy_file_range(2), which takes a third of the time where a file is large: that goes by
// unblock.

#include <ringlet/recipes/signals.hpp>
#include <ringlet/recipes/standard.hpp>
#include <ringlet/recipes/unblock.hpp>
#include <ringlet/timer.hpp>

#include <getopt.h>

#include <filesystem>
#include <set>

namespace {

using namespace ringlet;
namespace fs = std::filesystem;

void check(std::int64_t result, const char* what) {
    if (result < 0) throw std::system_error(errno, std::generic_category(), what);
}
int adopt_mode_and_times(const std::string& name, const struct stat& s) {
    const timespec times[] = {s.st_atim, s.st_mtim};
    if (!S_ISLNK(s.st_mode) && ::chmod(name.c_str(), s.st_mode & 07777) < 0) return -1;
    return ::utimensat(AT_FDCWD, name.c_str(), times, AT_SYMLINK_NOFOLLOW);
}

struct item {
    std::string from, to;
    struct stat like;
    std::shared_ptr<void> in;
};

struct copying {
    channel<item> items{100'000};
    std::int64_t bytes = 0, files = 0, all_bytes = 0, all_files = 0, begun = getpid() * 1000000000L;
    std::set<fs::path> made;  // of several sources two may lead to one name
    bool several = false, failed = false, shows = ::isatty(STDERR_FILENO) == 1;
    virtual_time::time_point begin = virtual_time::now();

    void fail(const std::string& name, const char* why) {
        failed = true;
        std::fprintf(stderr, "%srcp: %s: %s\n", shows ? "\r\33[K" : "", name.c_str(), why);
    }

    // Of a file with holes only what is between them. Some, as in /proc, do not know their size; some,
    // as in /sys, say too much, and look like all holes. What is large, 16 MiB, the kernel copies by
    // itself, or shares the blocks, on a helper thread, if it can.
    task<> copy_data(int from, int to, const struct stat& s, std::span<std::byte> buffer) {
        const bool holes = s.st_blocks * 512 < s.st_size && ::lseek(from, 0, SEEK_HOLE) >= 0;
        off_t at = 0, end = holes ? 0 : s.st_size ? s.st_size : INT64_MAX, large = s.st_size >> 24;
        for (off_t n = 1; n > 0 && (holes || at < end); at += n, bytes += n) {
            if (holes && at == end && (at = ::lseek(from, end, SEEK_DATA)) < 0) break;
            if (holes && at >= end) check(end = ::lseek(from, at, SEEK_HOLE), "lseek");
            off64_t in = at, out = at;
            const auto size = std::size_t(std::min(end - at, off_t(8) << 20));
            const auto move = [&] { return ::copy_file_range(from, &in, to, &out, size, 0); };
            if (large > 0) large = co_await unblock(move);
            if ((n = large) > 0) continue;
            n = off_t(co_await io::read(from, buffer.first(std::min(size, buffer.size())), at));
            if (n > 0) co_await io::write_all(to, buffer.first(std::size_t(n)), at);
        }
        if (holes) check(::ftruncate(to, at < 0 ? s.st_size : at), "ftruncate");
    }
    task<> copy(const item& i, std::span<std::byte> buffer) {
        fs::path name(i.to);  // another, that nobody has left behind
        while (exists(symlink_status(name.replace_filename(".rcp-" + std::to_string(++begun))))) {}
        const auto old = S_ISLNK(i.like.st_mode) ? fs::symlink_status(i.to) : fs::status(i.to);
        if (fs::is_other(old)) errno = EEXIST, check(-1, i.to.c_str());  // a device, say
        // Whatever ends this scope, a cancel too, removes the file, until it has got its own name.
        std::unique_ptr<const char, int (*)(const char*)> incomplete(nullptr, ::unlink);
        if (S_ISLNK(i.like.st_mode)) fs::copy_symlink(i.from, name), incomplete.reset(name.c_str());
        else {
            const auto from = co_await io::open(i.from.c_str(), O_RDONLY | O_NOFOLLOW);
            auto to = co_await io::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600);
            incomplete.reset(name.c_str());
            co_await copy_data(from, to, i.like, buffer);
            co_await io::close(std::move(to));  // where a quota, or NFS, tells of an error
        }
        check(adopt_mode_and_times(name, i.like), "mode and times");
        co_await io::rename(name.c_str(), i.to.c_str()), void(incomplete.release());
    }
    task<> copy_items() {
        std::vector<std::byte> buffer(256 * 1024);
        for (auto i = co_await items.recv(); i; ++files, i = co_await items.recv()) {
            try {
                co_await copy(*i, buffer);
            } catch (const std::system_error& e) { fail(i->from, e.what()); }
        }
    }

    task<> walk(fs::path from, fs::path to, std::shared_ptr<void> in) {
        item i{from, to, {}, in};
        try {
            check(::lstat(from.c_str(), &i.like), "lstat");
            const auto real = [](auto p) { return (fs::weakly_canonical(p) / "").string(); };
            if (!in && !S_ISLNK(i.like.st_mode) && real(fs::absolute(to)).starts_with(real(from)))
                fail(from, "cannot be copied into itself");
            else if (S_ISDIR(i.like.st_mode)) {
                // Whoever is the last to put something in gives it its mode and times.
                const auto complete = [this, d = i](void*) {
                    if (adopt_mode_and_times(d.to, d.like) < 0) fail(d.to, std::strerror(errno));
                };
                fs::directory_iterator entries(from);
                // A link that is there would lead to another place.
                if (!create_directory(to) && is_symlink(to)) errno = ENOTDIR, check(-1, to.c_str());
                const std::shared_ptr<void> here(this, complete);
                for (; entries != end(entries); ++entries)
                    co_await walk(entries->path(), to / entries->path().filename(), here);
            } else if (S_ISREG(i.like.st_mode) || S_ISLNK(i.like.st_mode)) {
                if (several && !made.insert(to).second) errno = EEXIST, check(-1, to.c_str());
                ++all_files, all_bytes += S_ISREG(i.like.st_mode) ? i.like.st_size : 0;
                co_await items.send(std::move(i));
            } else fail(from, "neither file nor directory");
        } catch (const std::system_error& e) { fail(from, e.what()); }
    }
    task<> walk_all(std::vector<fs::path> names) {
        if (std::erase(names, fs::path())) throw std::runtime_error("'': no file's name");
        const fs::path target = names.back();
        if (names.pop_back(); (several = names.size() > 1) && !is_directory(target))
            fail(target, "not a directory"), names = {};
        for (const fs::path& name : names) {
            const fs::path own = (name / ".").parent_path().filename();  // "a/.." has none
            const fs::path to = is_directory(target) ? target / (own == ".." ? "." : own) : target;
            co_await walk(name, to, nullptr);
        }
        items.close();
    }

    // [########............] 400 of 1000 MB, 12 of 30 files, 200 MB/s, 0:03 left
    void draw() const {
        const std::chrono::duration<double> time = virtual_time::now() - begin;
        const double part = double(bytes + files) / double(std::max(all_bytes + all_files, 1L));
        const int width = int(20 * part), left = int(part > 0 ? time.count() * (1 / part - 1) : 0);
        std::fprintf(stderr,
            "\r[%.20s] %jd of %jd MB, %jd of %jd files, %.0f MB/s, %d:%02d left\33[K",
            &"####################...................."[20 - width], bytes >> 20, all_bytes >> 20,
            files, all_files, double(bytes) / time.count() / 1048576, left / 60, left % 60);
    }
    task<> show() {
        for (; shows; draw()) co_await sleep_for(std::chrono::milliseconds(100));
    }
};

// Gives the number of the signal that has stopped it, or 0.
task<int> run(copying& c, std::vector<fs::path> names, long n) {
    signals stopping({SIGINT, SIGTERM, SIGHUP, SIGPIPE});
    const auto bar = spawn(c.show());
    std::vector<task<>> work;
    for (; n >= 0; --n) work.push_back(n ? c.copy_items() : c.walk_all(std::move(names)));
    const auto [done, signal] = co_await when_any(when_all(std::move(work)), stopping.next());
    if (c.shows) c.draw(), std::fputc('\n', stderr);
    co_return done ? 0 : static_cast<int>(signal->ssi_signo);
}

}  // namespace

int main(int argc, char** argv) {
    hold_standard_descriptors();
    static const option options[] = {{"jobs", 1, nullptr, 'j'}, {"help", 0, nullptr, 'h'}, {}};
    const char* const usage = "usage: rcp [-j N] SRC... DST\n";
    long n = 16;
    for (int o; (o = getopt_long(argc, argv, ":j:", options, nullptr)) != -1;) {
        if (o == 'h') return std::fputs(usage, stdout), 0;
        // 0 is wrong, and stays so, whatever follows.
        if (o != 'j' || n < 1 || (n = std::strtol(optarg, &optarg, 10)) < 1 || *optarg) n = 0;
    }
    if (n < 1 || n > 10'000 || argc - optind < 2) return std::fputs(usage, stderr), 2;
    ::umask(S_IRWXG | S_IRWXO);  // until a directory has its mode nobody else looks into it
    try {
        copying c;
        n = std::min(n, 1 + long(most_descriptors() / 4));  // each has two files
        const int signal = block_on(run(c, std::vector<fs::path>(argv + optind, argv + argc), n));
        return signal ? std::raise(signal) : c.failed;
    } catch (const std::exception& e) { return std::fprintf(stderr, "rcp: %s\n", e.what()), 1; }
}
