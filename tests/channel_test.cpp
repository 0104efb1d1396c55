// channel<T>: what goes in comes out, once and in order, whoever is cancelled, closed or destroyed
// when.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <ringlet/timer.hpp>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "support.hpp"

using namespace std::chrono_literals;
using ringlet::block_on;
using ringlet::channel;
using ringlet::channel_closed;
using ringlet::deadlock;
using ringlet::executor;
using ringlet::frame_pool;
using ringlet::join_handle;
using ringlet::runnable;
using ringlet::sleep_for;
using ringlet::task;
using ringlet::virtual_time;
using ringlet::when_all;
using ringlet::yield_now;

using namespace support;

namespace {

// ---- helpers -----------------------------------------------------------------------------------

// An item that exists once, wherever it is. Counts those that were destroyed.
struct tally {
    int made = 0, destroyed = 0;
};
class item {
public:
    item(tally& t, int n) : number(n), tally_(&t) { ++t.made; }
    item(item&& o) noexcept
        : number(std::exchange(o.number, -1)), tally_(std::exchange(o.tally_, nullptr)) {}
    item& operator=(item&& o) noexcept {
        std::swap(number, o.number);
        std::swap(tally_, o.tally_);
        return *this;
    }
    ~item() {
        if (tally_) ++tally_->destroyed;
    }
    int number;

private:
    tally* tally_;
};

task<> send_one(channel<int>& c, int n, history& log) {
    try {
        co_await c.send(n);
        log.push_back("sent " + std::to_string(n));
    } catch (const channel_closed&) { log.push_back("closed " + std::to_string(n)); }
}
task<> recv_one(channel<int>& c, std::string name, history& log) {
    std::optional<int> v = co_await c.recv();
    log.push_back(name + (v ? " " + std::to_string(*v) : std::string(" none")));
}
task<> send_all(channel<int>& c, int from, int to) {
    for (int i = from; i < to; ++i) co_await c.send(i);
}
task<> recv_all(channel<int>& c, std::vector<int>& got) {
    for (;;) {
        std::optional<int> v = co_await c.recv();
        if (!v) co_return;
        got.push_back(*v);
    }
}

}  // namespace

// ---- items -------------------------------------------------------------------------------------

// As matrices have it, for `m << 1, 2, 3`: a comma behind one is its own.
struct with_comma {
    int value = 0;
    with_comma& operator,(bool) = delete;
};
TEST_CASE("items with a comma of their own; a channel that only begins and ends") {
    channel<int> unused(2);  // g++ 12 has warned of its pointers to itself
    unused.close();
    auto root = []() -> task<int> {
        channel<with_comma> c(1);
        co_await c.send(with_comma{7});
        auto first = co_await c.recv();
        const bool room = c.try_send(with_comma{8});
        auto second = c.try_recv();
        co_return room ? 10 * first->value + second->value : 0;
    };
    CHECK(block_on(root()) == 78);
}

TEST_CASE("try_send and try_recv, at each capacity") {
    for (std::size_t capacity : {0u, 1u, 2u, 7u}) {
        CAPTURE(capacity);
        channel<int> c(capacity);
        for (int round = 0; round < 3; ++round) {
            CHECK(c.try_recv() == std::nullopt);
            for (std::size_t i = 0; i < capacity; ++i) CHECK(c.try_send(static_cast<int>(i)));
            CHECK_FALSE(c.try_send(-1));
            CHECK_FALSE(c.try_send(-1));
            if (capacity == 0) continue;
            CHECK(c.try_recv() == 0);
            CHECK(c.try_send(100));
            CHECK_FALSE(c.try_send(-1));
            for (std::size_t i = 1; i < capacity; ++i) CHECK(c.try_recv() == static_cast<int>(i));
            CHECK(c.try_recv() == 100);
            CHECK(c.try_recv() == std::nullopt);
        }
    }
}

TEST_CASE("try_send leaves the value alone if there is no room; lvalues are copied") {
    channel<std::unique_ptr<int>> c(1);
    auto a = std::make_unique<int>(1), b = std::make_unique<int>(2);
    CHECK(c.try_send(std::move(a)));
    CHECK(a == nullptr);
    CHECK_FALSE(c.try_send(std::move(b)));
    REQUIRE(b != nullptr);
    CHECK(*b == 2);
    std::optional<std::unique_ptr<int>> got = c.try_recv();
    REQUIRE(got.has_value());
    CHECK(**got == 1);
    c.close();
    CHECK_THROWS_AS(c.try_send(std::move(b)), channel_closed);
    CHECK(*b == 2);

    channel<std::string> d(2);
    const std::string text = "a string too long to be stored in place";
    CHECK(d.try_send(text));
    CHECK(d.try_send("converted"));
    CHECK(d.try_recv() == text);
    CHECK(d.try_recv() == "converted");
    CHECK(text.size() == 39);
}

TEST_CASE("capacity 0: each waits for the other") {
    channel<int> c(0);
    history log;
    auto root = [&]() -> task<> {
        auto s = ringlet::spawn(send_one(c, 1, log));
        co_await yield_now();
        CHECK(log.empty());
        CHECK_FALSE(c.try_send(2));
        std::optional<int> v = co_await c.recv();
        CHECK(v == 1);
        CHECK(log.empty());  // it was handed over without a suspension
        co_await yield_now();
        CHECK(log == history{"sent 1"});
        auto r = ringlet::spawn(recv_one(c, "a", log));
        co_await yield_now();
        CHECK(c.try_send(3));
        CHECK_FALSE(c.try_send(4));  // it has its item
        co_await std::move(r);
        CHECK(log == history{"sent 1", "a 3"});
        auto again = ringlet::spawn(recv_one(c, "b", log));
        co_await yield_now();
        co_await c.send(5);
        co_await std::move(again);
        CHECK(log == history{"sent 1", "a 3", "b 5"});
        auto t = ringlet::spawn(send_one(c, 6, log));
        co_await yield_now();
        CHECK(c.try_recv() == 6);
        CHECK(c.try_recv() == std::nullopt);
        co_await std::move(t);
        CHECK(log.back() == "sent 6");
    };
    block_on(root());
    CHECK(log.size() == 4);
}

TEST_CASE("a full channel: senders wait, and go in in order as room appears") {
    for (std::size_t capacity : {1u, 3u}) {
        CAPTURE(capacity);
        channel<int> c(capacity);
        history log, expected;
        executor ex;
        std::vector<join_handle<>> senders;
        const int n = static_cast<int>(capacity);
        for (int i = 0; i < n + 5; ++i) senders.push_back(ex.spawn(send_one(c, i, log)));
        drain(ex);
        for (int i = 0; i < n; ++i) expected.push_back("sent " + std::to_string(i));
        CHECK(log == expected);
        for (int i = 0; i < n + 5; ++i) {
            CHECK_FALSE((i < 5 && c.try_send(-1)));
            CHECK(c.try_recv() == i);
            drain(ex);
            if (i < 5) expected.push_back("sent " + std::to_string(i + n));
            CHECK(log == expected);
        }
        CHECK(c.try_recv() == std::nullopt);
        CHECK(ex.empty());
    }
}

TEST_CASE("many senders, many receivers: every item once, each sender's in order, in turn") {
    for (std::size_t capacity : {0u, 1u, 5u, 1000u}) {
        CAPTURE(capacity);
        channel<int> c(capacity);
        std::vector<int> got[4];
        std::vector<join_handle<>> receivers;
        auto root = [&]() -> task<> {
            for (auto& list : got) receivers.push_back(ringlet::spawn(recv_all(c, list)));
            std::vector<task<>> senders;
            for (int i = 0; i < 5; ++i) senders.push_back(send_all(c, 1000 * i, 1000 * i + 200));
            co_await when_all(std::move(senders));
            c.close();
            for (auto& r : receivers) co_await std::move(r);
        };
        block_on(root());
        std::vector<int> seen(5000);
        std::size_t total = 0;
        for (auto& list : got) {
            std::array<int, 5> last{-1, -1, -1, -1, -1};
            total += list.size();
            for (int n : list) {
                ++seen[static_cast<std::size_t>(n)];
                int& before = last[static_cast<std::size_t>(n / 1000)];
                CHECK(before < n % 1000);
                before = n % 1000;
            }
        }
        CHECK(total == 1000);
        int wrong = 0;
        for (int n = 0; n < 5000; ++n)
            wrong += seen[static_cast<std::size_t>(n)] != (n % 1000 < 200 ? 1 : 0);
        CHECK(wrong == 0);
    }
}

TEST_CASE("those who wait are served in the order in which they came") {
    channel<int> c(0);
    history log;
    executor ex;
    std::vector<join_handle<>> waiting;
    for (int i = 0; i < 100; ++i)
        waiting.push_back(ex.spawn(recv_one(c, "r" + std::to_string(i), log)));
    drain(ex);
    history expected;
    for (int i = 0; i < 100; ++i) {
        CHECK(c.try_send(i));
        expected.push_back("r" + std::to_string(i) + " " + std::to_string(i));
    }
    CHECK_FALSE(c.try_send(100));
    drain(ex);
    CHECK(log == expected);
    log.clear();
    expected.clear();
    for (int i = 0; i < 100; ++i) waiting.push_back(ex.spawn(send_one(c, i, log)));
    drain(ex);
    for (int i = 0; i < 100; ++i) {
        CHECK(c.try_recv() == i);
        expected.push_back("sent " + std::to_string(i));
    }
    drain(ex);
    CHECK(log == expected);
    CHECK(ex.empty());
}

TEST_CASE("a sender that always waits its turn: the others are not overtaken") {
    channel<int> c(0);
    std::vector<int> got;
    auto sender = [&](int id) -> task<> {
        for (int i = 0; i < 50; ++i) co_await c.send(id);
    };
    auto root = [&]() -> task<> {
        auto h = ringlet::spawn(recv_all(c, got));
        co_await when_all(sender(0), sender(1), sender(2));
        c.close();
        co_await std::move(h);
    };
    block_on(root());
    REQUIRE(got.size() == 150);
    // How often did each send since each other one's last item?
    std::array<std::array<int, 3>, 3> since{};
    std::array<int, 3> sums{};
    int most = 0;
    for (int id : got) {
        const auto sender_of = static_cast<std::size_t>(id);
        ++sums[sender_of];
        for (std::size_t other = 0; other < 3; ++other)
            if (other != sender_of && sums[other] < 50)
                most = std::max(most, ++since[other][sender_of]);
        since[sender_of] = {};
    }
    CHECK(sums == std::array<int, 3>{50, 50, 50});
    CHECK(most <= 2);
}

TEST_CASE("a channel between tasks of two executors") {
    channel<int> c(0);
    history log;
    executor a, b;
    auto r = a.spawn(recv_one(c, "a", log));
    auto s = b.spawn(send_one(c, 1, log));
    CHECK(drain(a) == 1);
    CHECK(drain(b) == 1);
    CHECK(log == history{"sent 1"});
    CHECK(drain(a) == 1);
    CHECK(log == history{"sent 1", "a 1"});
}

// ---- close -------------------------------------------------------------------------------------

TEST_CASE("close: what is there can be received, then nullopt; sends throw") {
    channel<int> c(2);
    history log;
    executor ex;
    std::vector<join_handle<>> senders;
    for (int i = 0; i < 4; ++i) senders.push_back(ex.spawn(send_one(c, i, log)));
    drain(ex);
    CHECK(log == history{"sent 0", "sent 1"});
    c.close();
    c.close();
    CHECK_THROWS_AS(c.try_send(9), channel_closed);
    drain(ex);
    CHECK(log == history{"sent 0", "sent 1"});  // the two that wait still may
    auto late = ex.spawn(send_one(c, 9, log));
    drain(ex);
    CHECK(log == history{"sent 0", "sent 1", "closed 9"});
    auto root = [&]() -> task<> {
        for (int i = 0; i < 4; ++i) {
            std::optional<int> v = co_await c.recv();
            CHECK(v == i);
        }
        for (int i = 0; i < 3; ++i) {
            std::optional<int> v = co_await c.recv();
            CHECK(v == std::nullopt);
        }
        CHECK(c.try_recv() == std::nullopt);
    };
    ex.run(root());
    drain(ex);
    CHECK(log == history{"sent 0", "sent 1", "closed 9", "sent 2", "sent 3"});
    CHECK(ex.empty());
    CHECK(std::string(channel_closed().what()).find("closed") != std::string::npos);
}

TEST_CASE("close: receivers that wait get nullopt, in order; one that has an item keeps it") {
    channel<int> c(1);
    history log;
    executor ex;
    std::vector<join_handle<>> waiting;
    for (const char* name : {"a", "b", "c"}) waiting.push_back(ex.spawn(recv_one(c, name, log)));
    drain(ex);
    CHECK(c.try_send(1));
    c.close();
    CHECK(log.empty());
    drain(ex);
    CHECK(log == history{"a 1", "b none", "c none"});
    CHECK(ex.empty());
}

TEST_CASE("close ends a receiver on the spot, and that the channel") {
    channel<int>* c = nullptr;
    history log;
    auto owner = [&](const char* name) -> task<> {
        auto own = std::make_unique<channel<int>>(1);
        c = own.get();
        auto other = [&]() -> task<> {
            std::optional<int> v = co_await own->recv();
            log.push_back(v ? "?" : "other");
        };
        auto h = ringlet::spawn(other(), [](runnable r) { std::move(r).run(); });
        std::move(h.first).run();
        std::optional<int> v = co_await own->recv();
        log.push_back(v ? "?" : name);
    };
    auto [r, h] = ringlet::spawn(owner("owner"), [](runnable x) { std::move(x).run(); });
    CHECK_FALSE(std::move(r).run());
    c->close();
    CHECK(log == history{"other", "owner"});
    CHECK(h.done());
}

TEST_CASE("a loop of sends on a closed channel does not starve the others") {
    channel<int> c(1);
    c.close();
    int refusals = 0;
    bool stop = false;
    auto sends = [&]() -> task<> {
        while (!stop && refusals < 100'000) {
            try {
                co_await c.send(1);
            } catch (const channel_closed&) { ++refusals; }
        }
    };
    auto root = [&]() -> task<> {
        auto h = ringlet::spawn(sends());
        co_await yield_now();
        co_await yield_now();
        stop = true;
        co_await std::move(h);
    };
    block_on(root());
    CHECK(refusals >= 128);
    CHECK(refusals < 600);
}

TEST_CASE("close with capacity 0: a waiting sender's item is still received") {
    channel<int> c(0);
    history log;
    executor ex;
    auto a = ex.spawn(send_one(c, 1, log)), b = ex.spawn(send_one(c, 2, log));
    drain(ex);
    c.close();
    CHECK(c.try_recv() == 1);
    auto r = ex.spawn(recv_one(c, "r", log));
    drain(ex);
    CHECK(log == history{"sent 1", "r 2", "sent 2"});
    CHECK(c.try_recv() == std::nullopt);
}

TEST_CASE("closed from a task that receives, in a loop over a closed channel") {
    channel<int> c(10);
    std::vector<int> got;
    auto root = [&]() -> task<> {
        co_await send_all(c, 0, 10);
        auto h = ringlet::spawn(recv_all(c, got));
        c.close();
        co_await std::move(h);
    };
    block_on(root());
    CHECK(got == std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
}

// ---- the end of a channel ----------------------------------------------------------------------

TEST_CASE("destroying a channel: items go, receivers get nullopt, senders channel_closed") {
    tally t;
    history log;
    executor ex;
    auto send = [&](channel<item>& c, int n) -> task<> {
        try {
            co_await c.send(item(t, n));
            log.push_back("sent " + std::to_string(n));
        } catch (const channel_closed&) { log.push_back("closed " + std::to_string(n)); }
    };
    auto recv = [&](channel<item>& c, std::string name) -> task<> {
        std::optional<item> v = co_await c.recv();
        log.push_back(name + (v ? " " + std::to_string(v->number) : std::string(" none")));
    };
    auto full = std::make_unique<channel<item>>(2);
    auto empty = std::make_unique<channel<item>>(2);
    std::vector<join_handle<>> all;
    for (int i = 0; i < 4; ++i) all.push_back(ex.spawn(send(*full, i)));
    for (const char* name : {"a", "b", "c"}) all.push_back(ex.spawn(recv(*empty, name)));
    drain(ex);
    CHECK(log == history{"sent 0", "sent 1"});
    CHECK(empty->try_send(item(t, 7)));
    log.clear();
    full.reset();
    CHECK(t.destroyed == 2);  // those in it; the others are the senders'
    empty.reset();
    drain(ex);
    CHECK(log == history{"a 7", "closed 2", "closed 3", "b none", "c none"});
    CHECK(ex.empty());
    CHECK(t.made == 5);
    CHECK(t.destroyed == 5);
}

TEST_CASE("destroying a channel: cancelled waiters, and waiters that are cancelled after it") {
    tally t;
    int went_on = 0;
    executor ex;
    auto send = [&](channel<item>& c, int n) -> task<> {
        co_await c.send(item(t, n));
        ++went_on;
    };
    auto recv = [&](channel<item>& c) -> task<> {
        std::optional<item> v = co_await c.recv();
        ++went_on;
    };
    for (bool before : {false, true}) {
        CAPTURE(before);
        auto a = std::make_unique<channel<item>>(0), b = std::make_unique<channel<item>>(0);
        auto s = ex.spawn(send(*a, 1));
        auto r = ex.spawn(recv(*b));
        drain(ex);
        if (!before) a.reset(), b.reset();
        drop(std::move(s));
        drop(std::move(r));
        a.reset(), b.reset();
        drain(ex);
        CHECK(ex.empty());
        CHECK(went_on == 0);  // no result was there that could have beaten the cancel
    }
    CHECK(t.made == 2);
    CHECK(t.destroyed == 2);
}

TEST_CASE("the end of an executor with waiters, items and items handed over") {
    tally t;
    int went_on = 0, gone = 0;
    channel<item> idle(0), full(1), handed(0);
    auto send = [&](channel<item>& c, int n) -> task<> {
        at_end says([&] { ++gone; });
        co_await c.send(item(t, n));
        ++went_on;
        co_await c.send(item(t, n + 1));
        went_on += 100;
    };
    auto recv = [&](channel<item>& c) -> task<> {
        at_end says([&] { ++gone; });
        std::optional<item> v = co_await c.recv();
        ++went_on;
        v = co_await c.recv();
        went_on += 100;
    };
    {
        executor ex;
        for (int i = 0; i < 3; ++i) ex.spawn(recv(idle)).detach();
        ex.spawn(send(full, 1)).detach();
        for (int i = 0; i < 2; ++i) ex.spawn(recv(handed)).detach();
        drain(ex);
        CHECK(went_on == 1);
        CHECK(handed.try_send(item(t, 5)));
        CHECK(gone == 0);
    }
    CHECK(went_on == 2);
    CHECK(gone == 6);
    CHECK_FALSE(idle.try_send(item(t, 9)));
    std::optional<item> left = full.try_recv();
    REQUIRE(left.has_value());
    CHECK(left->number == 1);
    CHECK(full.try_recv() == std::nullopt);
    CHECK_FALSE(handed.try_send(item(t, 9)));
    left.reset();
    CHECK(t.made == t.destroyed);
    CHECK(t.made == 5);
}

TEST_CASE("a channel in the frame of the task that waits for it") {
    tally t;
    executor ex;
    auto owner = [&]() -> task<> {
        channel<item> c(2);
        CHECK(c.try_send(item(t, 1)));
        CHECK(c.try_send(item(t, 2)));
        co_await c.send(item(t, 3));
    };
    auto h = ex.spawn(owner());
    drain(ex);
    CHECK(t.destroyed == 0);
    drop(std::move(h));
    drain(ex);
    CHECK(ex.empty());
    CHECK(t.made == 3);
    CHECK(t.destroyed == 3);
}

// ---- cancelling --------------------------------------------------------------------------------

TEST_CASE("a cancelled waiter is out of the line at once, wherever it stands") {
    for (int which = 0; which < 3; ++which) {
        CAPTURE(which);
        channel<int> c(0);
        history log;
        executor ex;
        std::vector<join_handle<>> waiting;
        for (int i = 0; i < 3; ++i)
            waiting.push_back(ex.spawn(recv_one(c, "r" + std::to_string(i), log)));
        drain(ex);
        waiting[static_cast<std::size_t>(which)] = join_handle<>();
        CHECK(c.try_send(1));
        CHECK(c.try_send(2));
        CHECK_FALSE(c.try_send(3));
        drain(ex);
        history expected{"r0 1", "r1 2"};
        if (which == 0) expected = {"r1 1", "r2 2"};
        if (which == 1) expected = {"r0 1", "r2 2"};
        CHECK(log == expected);
        log.clear();
        waiting.clear();
        for (int i = 0; i < 3; ++i) waiting.push_back(ex.spawn(send_one(c, i, log)));
        drain(ex);
        waiting[static_cast<std::size_t>(which)] = join_handle<>();
        CHECK(c.try_recv() == (which == 0 ? 1 : 0));
        CHECK(c.try_recv() == (which == 2 ? 1 : 2));
        CHECK(c.try_recv() == std::nullopt);
        drain(ex);
        CHECK(log.size() == 2);
        CHECK(ex.empty());
    }
}

TEST_CASE("cancelled after the hand-over: the receiver goes on with the item, then ends") {
    tally t;
    channel<item> c(0);
    channel<int> other(1);
    history log;
    executor ex;
    auto receiver = [&]() -> task<> {
        at_end says([&] { log.push_back("gone"); });
        std::optional<item> v = co_await c.recv();
        log.push_back("got " + std::to_string(v->number));
        bool cancelled = co_await ringlet::cancel_requested();
        log.push_back(cancelled ? "cancelled" : "not cancelled");
        co_await other.send(1);  // does not have to wait
        log.push_back("sent");
        v = co_await c.recv();
        log.push_back("not reached");
    };
    auto h = ex.spawn(receiver());
    drain(ex);
    CHECK(c.try_send(item(t, 1)));
    drop(std::move(h));
    CHECK(log.empty());
    CHECK_FALSE(c.try_send(item(t, 2)));
    drain(ex);
    CHECK(log == history{"got 1", "cancelled", "sent", "gone"});
    CHECK(ex.empty());
    CHECK(t.made == t.destroyed);

    // The same for a sender.
    log.clear();
    auto sender = [&]() -> task<> {
        at_end says([&] { log.push_back("gone"); });
        co_await c.send(item(t, 3));
        log.push_back("sent");
        co_await c.send(item(t, 4));
        log.push_back("not reached");
    };
    h = ex.spawn(sender());
    drain(ex);
    std::optional<item> got = c.try_recv();
    REQUIRE(got.has_value());
    drop(std::move(h));
    drain(ex);
    CHECK(log == history{"sent", "gone"});
    CHECK(got->number == 3);
    got.reset();
    CHECK(c.try_recv() == std::nullopt);
    CHECK(ex.empty());
    CHECK(t.made == 4);
    CHECK(t.destroyed == 4);
}

TEST_CASE("every item is counted, whoever is cancelled at whatever moment") {
    for (std::size_t capacity : {0u, 1u, 3u})
        for (int ticks = 0; ticks < 40; ++ticks) {
            CAPTURE(capacity);
            CAPTURE(ticks);
            tally t;
            int received = 0, sent = 0, in_it = 0;
            {
                channel<item> c(capacity);
                executor ex;
                auto sender = [&](int from) -> task<> {
                    for (int i = 0; i < 8; ++i) {
                        co_await c.send(item(t, from + i));
                        ++sent;
                    }
                };
                auto receiver = [&]() -> task<> {
                    for (int i = 0; i < 8; ++i) {
                        std::optional<item> v = co_await c.recv();
                        if (v) ++received;
                    }
                };
                std::vector<join_handle<>> all;
                all.push_back(ex.spawn(receiver()));
                all.push_back(ex.spawn(sender(0)));
                all.push_back(ex.spawn(sender(100)));
                all.push_back(ex.spawn(receiver()));
                all.push_back(ex.spawn(sender(200)));
                for (int i = 0; i < ticks; ++i) {
                    ex.try_tick();
                    if (i % 7 == 6) all[static_cast<std::size_t>(i / 7 % 5)] = join_handle<>();
                }
                all[static_cast<std::size_t>(ticks % 5)] = join_handle<>();
                drain(ex);
                for (; c.try_recv(); drain(ex)) ++in_it;
                // What was taken here lets senders go on, and so `sent` counts what went in.
                CHECK(received + in_it == sent);
            }
            CHECK(t.made == t.destroyed);
            CHECK(t.made >= sent);
        }
}

TEST_CASE("one item for a race of two: the loser loses none") {
    channel<int> a(0), b(0);
    int rounds = 0, sum = 0;
    auto feed = [](channel<int>& c, int n) -> task<> {
        for (int i = 0; i < 50; ++i) co_await c.send(n);
    };
    auto root = [&]() -> task<> {
        auto f = ringlet::spawn(feed(a, 1));
        auto g = ringlet::spawn(feed(b, 1000));
        while (sum < 50 * 1001) {
            auto both = co_await ringlet::when_any(a.recv(), b.recv());
            auto& [x, y] = both;
            CHECK((x || y));
            if (x) sum += x->value_or(0);
            if (y) sum += y->value_or(0);
            if (++rounds > 200) co_return;
        }
        co_await std::move(f);
        co_await std::move(g);
    };
    block_on(root());
    CHECK(sum == 50 * 1001);
    CHECK(rounds <= 100);
}

// ---- fairness ----------------------------------------------------------------------------------

TEST_CASE("a loop over a channel that is always ready starves nobody") {
    for (bool timed : {false, true}) {
        CAPTURE(timed);
        channel<int> c(1);
        bool stop = false;
        long rounds = 0;
        auto loop = [&]() -> task<> {
            while (!stop && rounds < 10'000'000) {
                co_await c.send(1);
                std::optional<int> v = co_await c.recv();
                rounds += v.value_or(0);
            }
        };
        auto other = [&]() -> task<> {
            if (timed) co_await sleep_for(1us);
            else co_await yield_now();
            stop = true;
        };
        auto root = [&]() -> task<> { co_await when_all(loop(), other()); };
        block_on(root());
        CHECK(stop);
        CHECK(rounds >= 1);
        CHECK(rounds < 10'000'000);
        if (!timed) CHECK(rounds <= 256);
    }
}

TEST_CASE("a million items that are always there, in one loop") {
    channel<int> c(1);
    long sum = 0;
    auto root = [&]() -> task<> {
        for (int i = 0; i < 1'000'000; ++i) {
            co_await c.send(1);
            std::optional<int> v = co_await c.recv();
            sum += v.value_or(0);
        }
    };
    block_on(root());
    CHECK(sum == 1'000'000);
}

TEST_CASE("a cancelled job in a loop over a channel that is always ready ends") {
    for (bool by_itself : {false, true}) {
        CAPTURE(by_itself);
        channel<int> c(1);
        long rounds = 0;
        join_handle<> h;
        int gone = 0;
        auto loop = [&]() -> task<> {
            at_end says([&] { ++gone; });
            while (rounds < 1'000'000) {
                co_await c.send(1);
                std::optional<int> v = co_await c.recv();
                rounds += v.value_or(0);
                if (by_itself && rounds == 10) drop(std::move(h));
            }
        };
        executor ex;
        h = ex.spawn(loop());
        if (!by_itself) {
            for (int i = 0; i < 3; ++i) CHECK(ex.try_tick());
            CHECK(gone == 0);
            CHECK(rounds >= 100);
            drop(std::move(h));
        }
        drain(ex);
        CHECK(gone == 1);
        CHECK(rounds < 1000);
        CHECK(ex.empty());
    }
}

// A tick is a run here: nothing else is runnable.
TEST_CASE("a run has 128 waits that are over at once, and the next run as many") {
    for (const char* way : {"send", "recv", "sleep", "none"}) {
        CAPTURE(way);
        channel<int> c(1000);
        int over = 0;
        auto loop = [&]() -> task<> {
            for (;; ++over) {
                if (*way == 'n') co_await when_all(std::vector<task<int>>());
                else if (*way == 'r') co_await c.recv();
                else if (way[1] == 'e') co_await c.send(over);
                else co_await sleep_for(0ns);
            }
        };
        while (*way == 'r' && c.try_send(1)) {}
        executor ex;
        auto h = ex.spawn(loop());
        for (int run = 1; run <= 5; ++run) {
            CHECK(ex.try_tick());
            CHECK(over == 128 * run);
        }
    }
}

TEST_CASE(
    "a job cancelled where its budget ends goes on with what has passed, and touches no more") {
    for (bool sends : {true, false}) {
        CAPTURE(sends);
        auto c = std::make_unique<channel<int>>(1000);
        int over = 0, gone = 0;
        auto loop = [&](channel<int>& of) -> task<> {
            at_end says([&] { ++gone; });
            for (;; ++over) {
                if (sends) co_await of.send(over);
                else co_await of.recv();
            }
        };
        while (!sends && c->try_send(1)) {}
        executor ex;
        auto h = ex.spawn(loop(*c));
        CHECK(ex.try_tick());
        CHECK(over == 128);
        drop(std::move(h));
        int items = 0;
        while (c->try_recv()) ++items;
        CHECK(items == (sends ? 129 : 1000 - 129));
        c.reset();  // what it borrows is gone, as with the frame that held both
        drain(ex);
        CHECK(gone == 1);
        CHECK(over == 129);  // what has passed is told, and nothing begins after it
        CHECK(ex.empty());
    }
}

TEST_CASE("a timeout that is over where the budget ends: the send has passed, and says so") {
    virtual_time clock;
    channel<int> c(1000);
    int sent = 0;
    bool last = true;
    auto loop = [&]() -> task<> {
        for (; sent < 128; ++sent) co_await c.send(sent);
        last = co_await ringlet::try_timeout(0ns, c.send(128));
        CHECK(last);
        for (; sent < 300; ++sent) co_await c.send(sent);
    };
    block_on(loop());
    CHECK(last);
    CHECK(sent == 300);
    int items = 0;
    while (c.try_recv()) ++items;
    CHECK(items == 301);
}

TEST_CASE("a sender that its item's receiver cancels, where its budget ends, has sent") {
    history log;
    channel<int> c(0), over(0);
    over.close();
    join_handle<> h;
    auto receiver = [&]() -> task<> {
        co_await c.recv();
        drop(std::move(h));
    };
    auto sender = [&]() -> task<> {
        for (int i = 0; i < 128; ++i) co_await over.recv();
        co_await c.send(1);
        log.push_back("sent");
        co_await c.send(2);
        log.push_back("not reached");
    };
    auto now = [](runnable r) { std::move(r).run(); };
    auto [r1, h1] = ringlet::spawn(receiver(), now);
    std::move(r1).run();
    auto [r2, h2] = ringlet::spawn(sender(), now);
    h = std::move(h2);
    std::move(r2).run();
    CHECK(log == history{"sent"});
}

TEST_CASE("a closed channel in a loop starves nobody either") {
    channel<int> c(0);
    c.close();
    bool stop = false;
    long rounds = 0;
    auto loop = [&]() -> task<> {
        for (; !stop && rounds < 1'000'000; ++rounds) {
            std::optional<int> v = co_await c.recv();
            CHECK_FALSE(v.has_value());
        }
        for (int i = 0; i < 1000; ++i) {
            bool closed = false;
            try {
                co_await c.send(1);
            } catch (const channel_closed&) { closed = true; }
            CHECK(closed);
        }
    };
    auto other = [&]() -> task<> {
        stop = true;
        co_return;
    };
    auto root = [&]() -> task<> { co_await when_all(loop(), other()); };
    block_on(root());
    CHECK(rounds > 0);
    CHECK(rounds <= 256);
}

// ---- kinds of items ----------------------------------------------------------------------------

TEST_CASE("move-only items, channels of channels' ends, large ones") {
    channel<std::unique_ptr<int>> c(1);
    channel<std::array<int, 1000>> large(2);
    auto root = [&]() -> task<> {
        auto send = [&]() -> task<> {
            for (int i = 0; i < 10; ++i) {
                auto p = std::make_unique<int>(i);
                co_await c.send(std::move(p));
            }
            c.close();
        };
        auto h = ringlet::spawn(send());
        int n = 0;
        for (;;) {
            std::optional<std::unique_ptr<int>> v = co_await c.recv();
            if (!v) break;
            REQUIRE(*v != nullptr);
            CHECK(**v == n++);
        }
        CHECK(n == 10);
        std::array<int, 1000> block{};
        for (int i = 0; i < 3; ++i) {
            block[999] = i;
            CHECK(large.try_send(block) == (i < 2));
        }
        std::optional<std::array<int, 1000>> b = co_await large.recv();
        REQUIRE(b.has_value());
        CHECK((*b)[999] == 0);
    };
    block_on(root());
}

namespace {

// Throws at its n-th move from now.
struct moves {
    int until = -1, alive = 0;
};
class throwing {
public:
    throwing(moves& m, int n) : number(n), m_(&m) { ++m.alive; }
    throwing(throwing&& o) noexcept(false) : number(o.number), m_(o.m_) {
        if (m_->until >= 0 && m_->until-- == 0) throw oops("move");
        ++m_->alive;
    }
    throwing& operator=(throwing&& o) noexcept(false) {
        if (m_->until >= 0 && m_->until-- == 0) throw oops("move");
        number = o.number;
        return *this;
    }
    ~throwing() { --m_->alive; }
    int number;

private:
    moves* m_;
};

}  // namespace

TEST_CASE("items whose moves throw: the exception reaches a task, and the channel goes on") {
    for (std::size_t capacity : {0u, 1u, 2u}) {
        int thrown = 0, clean = 0;
        for (int until = 0; until < 40; ++until) {
            CAPTURE(capacity);
            CAPTURE(until);
            moves m;
            int caught = 0, sent = 0, received = 0;
            {
                channel<throwing> c(capacity);
                auto sender = [&]() -> task<> {
                    for (int i = 0; i < 3; ++i) {
                        try {
                            co_await c.send(throwing(m, i));
                            ++sent;
                        } catch (const oops&) { ++caught; }
                    }
                    c.close();
                };
                auto receiver = [&]() -> task<> {
                    for (int i = 0; i < 10; ++i) {
                        try {
                            std::optional<throwing> v = co_await c.recv();
                            if (!v) co_return;
                            ++received;
                        } catch (const oops&) { ++caught; }
                    }
                };
                executor ex;
                auto s = ex.spawn(sender());
                auto r = ex.spawn(receiver());
                m.until = until;
                drain(ex);
                CHECK(ex.empty());
                CHECK(sent + caught >= 3);
                CHECK(received + caught >= 3);
                CHECK(caught <= 1);
                // The room is as it was.
                m.until = -1;
                channel<throwing> d(capacity);
                for (std::size_t i = 0; i < capacity; ++i) {
                    m.until = 0;
                    CHECK_THROWS_AS(d.try_send(throwing(m, 1)), oops);
                    m.until = -1;
                    CHECK(d.try_send(throwing(m, 1)));
                }
                CHECK_FALSE(d.try_send(throwing(m, 1)));
                for (std::size_t i = 0; i < capacity; ++i) {
                    m.until = 0;
                    CHECK_THROWS_AS(drop(d.try_recv()), oops);
                    m.until = -1;
                    CHECK_FALSE(d.try_send(throwing(m, 2)));  // the item is still there
                    CHECK(d.try_recv().has_value());
                    CHECK(d.try_send(throwing(m, 2)));
                    CHECK_FALSE(d.try_send(throwing(m, 2)));
                }
            }
            CHECK(m.alive == 0);
            thrown += caught;
            clean += !caught;
        }
        CHECK(thrown >= 6);
        CHECK(clean >= 1);
    }
}

// ---- deadlock, dump, other schedulers ----------------------------------------------------------

TEST_CASE("nobody at the other end is a deadlock; the text names the wait and its line") {
    channel<int> c(0), d(1);
    int recv_line = 0, send_line = 0;
    auto sender = [&]() -> task<> {
        send_line = __LINE__ + 1;
        co_await c.send(1);
    };
    auto root = [&]() -> task<> {
        auto h = ringlet::spawn(sender());
        recv_line = __LINE__ + 1;
        co_await d.recv();
    };
    std::string what;
    try {
        block_on(root());
    } catch (const deadlock& e) { what = e.what(); }
    INFO(what);
    const auto place = [](const char* wait, int line) {
        return std::string(" waits for ") + wait + " at " + __FILE__ + ":" + std::to_string(line)
            + "\n";
    };
    CHECK(what.find(place("recv", recv_line)) != std::string::npos);
    CHECK(what.find(place("send", send_line)) != std::string::npos);
    CHECK_FALSE(c.try_send(1));
    CHECK(c.try_recv() == std::nullopt);
}

TEST_CASE("waiters whose schedule function runs them on the spot") {
    // Frames this large go back to the heap as soon as they end.
    const auto on_the_spot = [](runnable r) { std::move(r).run(); };
    history log;
    auto receiver = [&](channel<int>& c, std::string name) -> task<> {
        std::array<char, 131072> large{};
        std::optional<int> v = co_await c.recv();
        log.push_back(name + (v ? " " + std::to_string(*v) : std::string(" none")));
        large[0] = 1;
    };
    auto sender = [&](channel<int>& c, int n) -> task<> {
        std::array<char, 131072> large{};
        try {
            co_await c.send(n);
            log.push_back("sent " + std::to_string(n));
        } catch (const channel_closed&) { log.push_back("closed " + std::to_string(n)); }
        large[0] = 1;
    };
    for (bool destroyed : {false, true}) {
        CAPTURE(destroyed);
        log.clear();
        auto c = std::make_unique<channel<int>>(0);
        auto [r, h] = ringlet::spawn(receiver(*c, "a"), on_the_spot);
        auto [s, i] = ringlet::spawn(receiver(*c, "b"), on_the_spot);
        auto [t, j] = ringlet::spawn(receiver(*c, "c"), on_the_spot);
        r.schedule(), s.schedule(), t.schedule();
        CHECK(c->try_send(1));
        CHECK(log == history{"a 1"});
        if (destroyed) c.reset();
        else c->close();
        CHECK(log == history{"a 1", "b none", "c none"});
        for (bool done : {h.done(), i.done(), j.done()}) CHECK(done);

        log.clear();
        c = std::make_unique<channel<int>>(1);
        auto [u, k] = ringlet::spawn(sender(*c, 1), on_the_spot);
        auto [v, l] = ringlet::spawn(sender(*c, 2), on_the_spot);
        auto [w, m] = ringlet::spawn(sender(*c, 3), on_the_spot);
        u.schedule(), v.schedule(), w.schedule();
        CHECK(log == history{"sent 1"});
        CHECK(c->try_recv() == 1);
        CHECK(log == history{"sent 1", "sent 2"});
        c.reset();
        CHECK(log == history{"sent 1", "sent 2", "closed 3"});
        for (bool done : {k.done(), l.done(), m.done()}) CHECK(done);
    }
}

TEST_CASE("a sender that goes on on the spot has the channel to itself, or ends it") {
    for (std::size_t capacity : {0u, 1u})
        for (bool ends_it : {false, true}) {
            CAPTURE(capacity);
            CAPTURE(ends_it);
            auto c = std::make_unique<channel<int>>(capacity);
            while (c->try_send(0)) {}
            std::optional<int> taken;
            bool sent = false;
            auto sends = [&]() -> task<> {
                co_await c->send(1);
                sent = true;
                if (ends_it) c.reset();
                else taken = c->try_recv();
                if (!ends_it) co_await c->send(2);
            };
            auto [r, h] = ringlet::spawn(sends(), [](runnable x) { std::move(x).run(); });
            CHECK_FALSE(std::move(r).run());
            CHECK_FALSE(sent);
            CHECK(c->try_recv() == (capacity ? 0 : 1));
            CHECK(sent);
            if (ends_it) continue;
            // Its own item was the last there was, or with another; nothing is lost, nothing doubled.
            CHECK(taken == (capacity ? std::optional(1) : std::nullopt));
            CHECK(c->try_recv() == 2);
            CHECK(c->try_recv() == std::nullopt);
            CHECK(h.done());
        }
}

TEST_CASE("an item may be written as a list of its members") {
    channel<std::pair<int, std::string>> c(2);
    CHECK(c.try_send({1, "one"}));
    auto root = [&]() -> task<> {
        std::pair<int, std::string> two(2, "two");
        co_await c.send(std::move(two));
    };
    block_on(root());
    CHECK(c.try_recv() == std::pair<int, std::string>(1, "one"));
    CHECK(c.try_recv() == std::pair<int, std::string>(2, "two"));
}

// A copy of an item is destroyed in the channel, and its destructor drops the sender that moves up.
TEST_CASE("an item that ends may cancel the sender that moves up") {
    static join_handle<> sender;
    static bool drops;
    struct item {
        int number;
        explicit item(int n) : number(n) {}
        item(const item& other) = default;
        ~item() {
            if (drops && number == 1) sender = {};
        }
    };
    for (const std::size_t capacity : {0u, 1u}) {
        channel<item> c(capacity);
        int resumed = 0, gone = 0;
        auto sends = [&](int n, [[maybe_unused]] guard frame) -> task<> {
            co_await c.send(item(n));
            ++resumed;
        };
        auto root = [&]() -> task<> {
            if (capacity) CHECK(c.try_send(item(1)));
            sender = ringlet::spawn(sends(capacity ? 2 : 1, guard(gone)));
            co_await yield_now();
            CHECK(resumed == 0);
            drops = true;
            auto got = co_await c.recv();
            drops = false;
            CHECK(got->number == 1);
            CHECK_FALSE(sender);
            co_await yield_now();
            CHECK(resumed == 1);  // it had moved up
            CHECK(gone == 1);
            auto next = c.try_recv();
            CHECK(next.has_value() == (capacity == 1));
        };
        block_on(root());
        sender = {};
    }
}

TEST_CASE("a kept recv gives what it finds each time, and nullopt after close") {
    for (const bool waits : {false, true}) {
        channel<std::string> c(2);
        auto root = [&]() -> task<> {
            auto next = c.recv();
            REQUIRE(c.try_send("one"));
            auto one = co_await next;
            CHECK(one == "one");
            auto closer = [&]() -> task<> {
                c.close();
                co_return;
            };
            auto h = ringlet::spawn(closer());
            if (!waits) co_await yield_now();
            auto none = co_await next;
            CHECK_FALSE(none);
            co_await std::move(h);
        };
        block_on(root());
    }
}

TEST_CASE("dump: a function that is spawned waits where it was spawned, not in a header") {
    virtual_time clock;
    int line = 0;
    auto root = [&]() -> task<> {
        line = __LINE__ + 1;
        auto h = ringlet::spawn([] { return sleep_for(1h); });
        co_await yield_now();
        std::string all;
        executor::current()->dump(all);
        CHECK(contains(all, "channel_test.cpp:" + std::to_string(line)));
        CHECK_FALSE(contains(all, ".hpp:"));
        drop(std::move(h));
    };
    block_on(root());
}
