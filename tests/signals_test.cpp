// recipes/signals.hpp: no signal is lost or taken twice, and the mask is as before, however it ends.
#include <doctest/doctest.h>

#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <memory>
#include <ringlet/recipes/signals.hpp>
#include <ringlet/timer.hpp>
#include <vector>

#include "support.hpp"

using namespace std::chrono_literals;
using ringlet::block_on;
using ringlet::executor;
using ringlet::signals;
using ringlet::task;

namespace {

sigset_t mask_now() {
    sigset_t mask;
    pthread_sigmask(SIG_BLOCK, nullptr, &mask);
    return mask;
}
bool blocked(int s) {
    const sigset_t mask = mask_now();
    return sigismember(&mask, s) == 1;
}
bool pending(int s) {
    sigset_t set;
    sigpending(&set);
    return sigismember(&set, s) == 1;
}
auto open_files() {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
}

// Counts what takes its usual course, while it exists.
volatile std::sig_atomic_t handled = 0;
class handler {
public:
    explicit handler(int s)
        : signal_(s), before_(std::signal(s, [](int) { handled = handled + 1; })) {
        handled = 0;
    }
    handler(handler&&) = delete;
    ~handler() { std::signal(signal_, before_); }

private:
    int signal_;
    void (*before_)(int);
};

task<> counts(signals& from, int& taken, int& last) {
    for (;;) {
        const signalfd_siginfo info = co_await from.next();
        ++taken;
        last = static_cast<int>(info.ssi_signo);
    }
}

// The mask and the descriptors, compared at the end.
class as_before {
public:
    as_before() = default;
    as_before(as_before&&) = delete;
    ~as_before() {
        CHECK(open_files() == files_);
        for (int s = 1; s < _NSIG; ++s) {
            CAPTURE(s);
            CHECK(blocked(s) == (sigismember(&mask_, s) == 1));
        }
    }

private:
    std::ptrdiff_t files_ = open_files();
    sigset_t mask_ = mask_now();
};

}  // namespace

TEST_CASE("a signal is awaited, whether it comes before the wait or during it") {
    const as_before checks;
    const handler usual(SIGUSR1);
    auto root = []() -> task<> {
        signals s({SIGUSR1, SIGUSR2});
        ::kill(::getpid(), SIGUSR1);
        CHECK(pending(SIGUSR1));
        auto info = co_await s.next();
        CHECK(info.ssi_signo == SIGUSR1);
        CHECK(info.ssi_pid == static_cast<std::uint32_t>(::getpid()));
        CHECK_FALSE(pending(SIGUSR1));
        auto waiter = ringlet::spawn(s.next());
        co_await ringlet::yield_now();
        co_await ringlet::io::nop();  // the read is under way
        CHECK_FALSE(waiter.done());
        ::kill(::getpid(), SIGUSR2);
        info = co_await std::move(waiter);
        CHECK(info.ssi_signo == SIGUSR2);
    };
    block_on(root());
    CHECK(handled == 0);
}

TEST_CASE("standard signals that wait are one, real-time signals are as many as were sent") {
    const as_before checks;
    auto root = []() -> task<> {
        signals s({SIGUSR1, SIGRTMIN});
        for (int i = 0; i < 3; ++i) {
            ::kill(::getpid(), SIGUSR1);
            sigqueue(::getpid(), SIGRTMIN, {.sival_int = i});
        }
        auto info = co_await s.next();
        CHECK(info.ssi_signo == SIGUSR1);
        for (int i = 0; i < 3; ++i) {
            info = co_await s.next();
            CHECK(info.ssi_signo == static_cast<std::uint32_t>(SIGRTMIN));
            CHECK(info.ssi_int == i);
        }
        CHECK_FALSE(pending(SIGUSR1));
        CHECK_FALSE(pending(SIGRTMIN));
    };
    block_on(root());
}

TEST_CASE(
    "the mask: a signal is an object's own as long as it lives, and the program's afterwards") {
    const as_before checks;
    const auto childs = [](int s) {
        const sigset_t mask = signals::children_mask();
        return sigismember(&mask, s) == 1;
    };
    sigset_t mine{}, before;
    sigaddset(&mine, SIGHUP);  // the first of all numbers
    {
        const signals one({SIGHUP});
        CHECK(blocked(SIGHUP));
        CHECK_FALSE(childs(SIGHUP));
    }
    CHECK_FALSE(blocked(SIGHUP));
    pthread_sigmask(SIG_BLOCK, &mine, &before);
    {
        const signals two({SIGHUP});
        CHECK(childs(SIGHUP));
    }
    CHECK(blocked(SIGHUP));
    CHECK(childs(SIGHUP));
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

TEST_CASE("the mask: shared signals, any order of destruction, and what was blocked before") {
    const as_before checks;
    sigset_t mine{}, before;
    sigaddset(&mine, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &mine, &before);
    auto a = std::make_unique<signals>(std::initializer_list<int>{SIGUSR1, SIGHUP, SIGUSR1});
    auto b = std::make_unique<signals>(std::initializer_list<int>{SIGUSR1, SIGUSR2});
    for (int s : {SIGUSR1, SIGUSR2, SIGHUP}) CHECK(blocked(s));
    const sigset_t for_children = signals::children_mask();
    CHECK(sigismember(&for_children, SIGHUP) == 1);
    for (int s : {SIGUSR1, SIGUSR2, SIGINT}) CHECK(sigismember(&for_children, s) == 0);
    a.reset();
    CHECK(blocked(SIGUSR1));
    CHECK(blocked(SIGHUP));
    a = std::make_unique<signals>(std::initializer_list<int>{SIGUSR2});
    b.reset();
    CHECK_FALSE(blocked(SIGUSR1));
    CHECK(blocked(SIGUSR2));
    a.reset();
    CHECK_FALSE(blocked(SIGUSR2));
    CHECK(blocked(SIGHUP));
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

TEST_CASE("what is ignored stays ignored, and is not heard") {
    const as_before checks;
    auto* const before = std::signal(SIGUSR1, SIG_IGN);
    {
        const signals s({SIGUSR1, SIGUSR2});
        CHECK_FALSE(blocked(SIGUSR1));
        CHECK(blocked(SIGUSR2));
        std::raise(SIGUSR1);
        CHECK_FALSE(pending(SIGUSR1));
    }
    std::signal(SIGUSR1, before);
}

TEST_CASE("what nobody has taken takes its usual course at the end") {
    const as_before checks;
    const handler usual(SIGUSR1);
    {
        const signals s({SIGUSR1});
        ::kill(::getpid(), SIGUSR1);
        CHECK(handled == 0);
    }
    CHECK(handled == 1);
}

TEST_CASE("destroyed at any moment of the wait: mask and descriptors as before, no signal lost") {
    const handler usual(SIGUSR1);
    for (int sent_at = -1; sent_at < 6; ++sent_at) {
        for (int moment = 0; moment < 6; ++moment) {
            for (const bool with_executor : {false, true}) {
                CAPTURE(sent_at);
                CAPTURE(moment);
                const as_before checks;
                handled = 0;
                int taken = 0, last = 0;
                auto ex = std::make_unique<executor>();
                auto root = [&]() -> task<> {
                    signals s({SIGUSR1});
                    co_await counts(s, taken, last);
                };
                auto handle = ex->spawn(root());
                for (int i = 0; i < moment; ++i) {
                    if (i == sent_at && blocked(SIGUSR1)) ::kill(::getpid(), SIGUSR1);
                    ex->try_tick();
                }
                const bool began = blocked(SIGUSR1);
                const bool sent = began && sent_at >= 1 && sent_at < moment;
                if (!with_executor) {
                    handle = ringlet::join_handle<>();
                    while (!ex->empty()) ex->try_tick();
                }
                ex.reset();
                CHECK(began == (moment > 0));
                CHECK(taken + handled == (sent ? 1 : 0));
                if (taken) CHECK(last == SIGUSR1);
            }
        }
    }
}

TEST_CASE("a timeout on next() takes nothing; the next one gets the signal") {
    const as_before checks;
    const ringlet::virtual_time clock;
    auto root = []() -> task<> {
        signals s({SIGUSR1});
        auto none = co_await ringlet::try_timeout(1h, s.next());
        CHECK_FALSE(none.has_value());
        ::kill(::getpid(), SIGUSR1);
        // No timeout: on older kernels a worker reads it, for whom the clock does not stand still.
        const auto one = co_await s.next();
        CHECK(one.ssi_signo == SIGUSR1);
    };
    block_on(root());
}

TEST_CASE("each of several waiting tasks gets a signal of its own") {
    const as_before checks;
    auto root = []() -> task<> {
        signals s({SIGRTMIN});
        int taken[3]{}, last[3]{};
        auto a = ringlet::spawn(counts(s, taken[0], last[0]));
        auto b = ringlet::spawn(counts(s, taken[1], last[1]));
        for (int i = 0; i < 10; ++i) sigqueue(::getpid(), SIGRTMIN, {.sival_int = i});
        while (taken[0] + taken[1] < 10) co_await ringlet::yield_now();
        for (int i = 0; i < 100; ++i) co_await ringlet::yield_now();
        CHECK(taken[0] + taken[1] == 10);
    };
    block_on(root());
}

TEST_CASE("errors name the cause, and change nothing") {
    const as_before checks;
    for (int wrong : {0, -1, 65, 1000, SIGKILL, SIGSTOP}) {
        CAPTURE(wrong);
        try {
            const signals s({SIGUSR1, wrong});
            FAIL("accepted");
        } catch (const std::system_error& e) {
            CHECK(e.code().value() == EINVAL);
            CHECK(support::contains(e.what(), "number " + std::to_string(wrong)));
        }
    }
    rlimit before;
    ::getrlimit(RLIMIT_NOFILE, &before);
    const rlimit none{0, before.rlim_max};
    ::setrlimit(RLIMIT_NOFILE, &none);
    try {
        const signals s({SIGUSR1});
        FAIL("made a descriptor");
    } catch (const std::system_error& e) {
        CHECK(e.code().value() == EMFILE);
        CHECK(support::contains(e.what(), "signalfd"));
    }
    ::setrlimit(RLIMIT_NOFILE, &before);
}
