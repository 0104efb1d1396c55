// recipes/process.hpp: descriptors, status, signal mask; and no process is left, whatever is cancelled.
#include <doctest/doctest.h>

#include <array>
#include <csignal>
#include <filesystem>
#include <memory>
#include <ringlet/recipes/process.hpp>
#include <ringlet/timer.hpp>
#include <string>
#include <vector>

#include "support.hpp"

using namespace std::chrono_literals;
using ringlet::block_on;
using ringlet::executor;
using ringlet::process;
using ringlet::stdio;
using ringlet::task;
using ringlet::unique_fd;
namespace io = ringlet::io;

using namespace support;

namespace {

auto open_files() {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
}

// At the end there are no children, not even dead ones, and no more descriptors than before.
class nothing_left {
public:
    nothing_left() = default;
    nothing_left(nothing_left&&) = delete;
    ~nothing_left() {
        CHECK(open_files() == files_);
        CHECK(::waitpid(-1, nullptr, WNOHANG) == -1);
        CHECK(errno == ECHILD);
    }

private:
    std::ptrdiff_t files_ = open_files();
};

task<std::string> read_all(int fd) {
    std::string text;
    std::array<std::byte, 10000> buffer{};
    for (;;) {
        const std::size_t n = co_await io::read(fd, buffer);
        if (n == 0) co_return text;
        text.append(reinterpret_cast<const char*>(buffer.data()), n);
    }
}
task<> write_and_close(unique_fd& to, std::string text) {
    co_await io::write_all(to, std::as_bytes(std::span(text)));
    to.reset();
}

struct outcome {
    std::string out, err;
    int status = -1;
};
task<outcome> shell(std::string script, stdio input = stdio::null) {
    process child({"sh", "-c", std::move(script)}, input, stdio::pipe, stdio::pipe);
    outcome o;
    auto [out, err] = co_await ringlet::when_all(read_all(child.out), read_all(child.err));
    o.out = out;
    o.err = err;
    o.status = co_await child.wait();
    const int again = co_await child.wait();
    CHECK(again == o.status);
    child.kill(SIGKILL);  // nobody, and no error
    co_return o;
}

int error_of(const std::vector<std::string>& argv, std::string& text) {
    try {
        const process child(argv, stdio::pipe, stdio::pipe, stdio::null);
    } catch (const std::system_error& e) {
        text = e.what();
        return e.code().value();
    }
    return 0;
}

}  // namespace

TEST_CASE("the status is that of waitpid, and what is written comes through the pipes") {
    const nothing_left checks;
    outcome o = block_on(shell("echo to stdout; echo to stderr >&2; exit 3"));
    CHECK(o.out == "to stdout\n");
    CHECK(o.err == "to stderr\n");
    CHECK(WIFEXITED(o.status));
    CHECK(WEXITSTATUS(o.status) == 3);
    o = block_on(shell("kill -9 $$"));
    CHECK(WIFSIGNALED(o.status));
    CHECK(WTERMSIG(o.status) == SIGKILL);
    o = block_on(shell("cat; readlink /proc/self/fd/0"));
    CHECK(o.out == "/dev/null\n");
    CHECK(o.status == 0);
}

TEST_CASE("a megabyte through a filter, both ways at once") {
    const nothing_left checks;
    std::string sent;
    for (int i = 0; sent.size() < 1'000'000; ++i) sent += std::to_string(i) + '\n';
    auto root = [&]() -> task<> {
        process cat({"cat"}, stdio::pipe, stdio::pipe);
        auto [none, received] = co_await ringlet::when_all(
            write_and_close(cat.in, sent), read_all(cat.out));
        static_cast<void>(none);
        CHECK(received == sent);
        const int status = co_await cat.wait();
        CHECK(status == 0);
    };
    block_on(root());
}

TEST_CASE("the program has three descriptors of this one's, the old mask, and SIGPIPE as usual") {
    const nothing_left checks;
    int plain[2];  // not close-on-exec, and the first is number 3 as a rule
    REQUIRE(::pipe(plain) == 0);
    const ringlet::signals blocks({SIGINT, SIGUSR1});
    sigset_t mine{}, before;
    sigaddset(&mine, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &mine, &before);
    auto* const usual = std::signal(SIGPIPE, SIG_IGN);
    const auto root = []() -> task<outcome> {
        process child({"cat", "/proc/self/status"}, stdio::null, stdio::pipe, stdio::null);
        process list({"ls", "/proc/self/fd"}, stdio::pipe, stdio::pipe, stdio::pipe);
        outcome o;
        o.out = co_await read_all(child.out);
        o.err = co_await read_all(list.out);
        co_return o;
    };
    const auto keeping = []() -> task<std::string> {
        process list({"ls", "/proc/self/fd"}, stdio::null, stdio::pipe, stdio::null, true);
        co_return co_await read_all(list.out);
    };
    const unique_fd closes(::fcntl(plain[0], F_DUPFD_CLOEXEC, 200));
    const outcome o = block_on(root());
    const std::string kept = block_on(keeping());
    for (const int fd : plain) CHECK(contains(kept, "\n" + std::to_string(fd) + "\n"));
    CHECK_FALSE(contains(kept, "\n" + std::to_string(closes.get()) + "\n"));
    for (const int fd : plain) ::close(fd);
    std::signal(SIGPIPE, usual);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    const auto set = [&](const std::string& name) {
        const std::size_t at = o.out.find(name + ":\t");
        REQUIRE(at != std::string::npos);
        return std::stoull(o.out.substr(at + name.size() + 2), nullptr, 16);
    };
    CHECK(set("SigBlk") == 1ull << (SIGUSR2 - 1));
    CHECK((set("SigIgn") >> (SIGPIPE - 1) & 1) == 0);
    CHECK(o.err == "0\n1\n2\n3\n");  // 3: the directory that ls reads
}

TEST_CASE("what cannot be started is an exception that says why") {
    const nothing_left checks;
    std::string text;
    CHECK(error_of({"/nowhere/at/all"}, text) == ENOENT);
    CHECK(contains(text, "spawn /nowhere/at/all"));
    CHECK(error_of({"no-program-has-this-name"}, text) == ENOENT);
    CHECK(error_of({"/etc/passwd"}, text) == EACCES);
    CHECK(error_of({"/"}, text) == EACCES);
    CHECK(error_of({""}, text) == ENOENT);
    CHECK(error_of({}, text) == EINVAL);
}

TEST_CASE("a program with its standard descriptors closed can still start others with pipes") {
    const nothing_left checks;
    int kept[3];
    for (int fd = 0; fd < 3; ++fd) kept[fd] = ::fcntl(fd, F_DUPFD_CLOEXEC, 10), ::close(fd);
    const auto root = []() -> task<outcome> {
        process child({"sh", "-c", "cat; echo err >&2"}, stdio::pipe, stdio::pipe, stdio::pipe);
        co_await write_and_close(child.in, "through");
        outcome o;
        o.out = co_await read_all(child.out);
        o.err = co_await read_all(child.err);
        o.status = co_await child.wait();
        co_return o;
    };
    const outcome o = block_on(root());
    for (int fd = 0; fd < 3; ++fd) ::dup3(kept[fd], fd, 0), ::close(kept[fd]);
    CHECK(o.out == "through");
    CHECK(o.err == "err\n");
    CHECK(o.status == 0);
}

TEST_CASE("an object that goes takes its program with it") {
    const nothing_left checks;
    pid_t pid;
    {
        const process child({"sleep", "1000"});
        pid = child.pid();
        CHECK(::kill(pid, 0) == 0);
    }
    CHECK(::kill(pid, 0) == -1);
    CHECK(errno == ESRCH);
}

TEST_CASE("kill, and wait; a wait that was given up can be begun again") {
    const nothing_left checks;
    const ringlet::virtual_time clock;
    auto root = []() -> task<> {
        process child({"sleep", "1000"});
        auto none = co_await ringlet::try_timeout(1h, child.wait());
        CHECK_FALSE(none.has_value());
        child.kill(SIGTERM);
        const int status = co_await child.wait();
        CHECK(WTERMSIG(status) == SIGTERM);
        auto once_more = co_await ringlet::try_timeout(1h, child.wait());
        CHECK(once_more == status);
    };
    block_on(root());
}

TEST_CASE(
    "cancelled at every moment, the task or the executor: no program, no zombie, no descriptor") {
    // Four programs: one that ends at once, one that never does, a filter that waits for input, and one
    // that cannot be started.
    const std::vector<std::string> programs[] = {
        {"true"}, {"sleep", "1000"}, {"cat"}, {"/nowhere"}};
    int ended = 0, failed = 0;
    auto root = [&](const std::vector<std::string>& argv) -> task<> {
        try {
            process child(argv, stdio::pipe, stdio::pipe);
            auto rest = co_await ringlet::when_all(read_all(child.out), child.wait());
            static_cast<void>(rest);
            ++ended;
        } catch (const std::system_error&) { ++failed; }
    };
    for (const auto& argv : programs) {
        for (int moment = 0; moment < 12; ++moment) {
            for (const bool with_executor : {false, true}) {
                CAPTURE(argv[0]);
                CAPTURE(moment);
                const nothing_left checks;
                auto ex = std::make_unique<executor>();
                auto handle = ex->spawn(root(argv));
                for (int i = 0; i < moment; ++i) {
                    ex->try_tick();
                    if (argv[0] == "true") ::usleep(100);  // lets it end at some moment or other
                }
                if (!with_executor) {
                    handle = ringlet::join_handle<>();
                    while (!ex->empty()) ex->try_tick();
                }
                ex.reset();
            }
        }
    }
    CHECK(failed == 22);
}

TEST_CASE("fifty programs at once") {
    const nothing_left checks;
    auto one = [](int n) -> task<int> {
        process child({"sh", "-c", "exit " + std::to_string(n)});
        const int status = co_await child.wait();
        co_return WEXITSTATUS(status);
    };
    std::vector<task<int>> all;
    for (int i = 0; i < 50; ++i) all.push_back(one(i));
    const auto codes = block_on(ringlet::when_all(std::move(all)));
    for (int i = 0; i < 50; ++i) CHECK(codes[static_cast<std::size_t>(i)] == i);
}
