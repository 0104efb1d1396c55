// recipes/trace.hpp: the file is JSON, each task has a track, and its slices follow each other.
#include <doctest/doctest.h>

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <ringlet/recipes/trace.hpp>
#include <ringlet/timer.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "support.hpp"

using namespace std::chrono_literals;
using ringlet::executor;
using ringlet::task;
using ringlet::tracer;
using ringlet::yield_now;

using support::contains;

namespace {

using event = std::map<std::string, std::string>;  // nested names with a dot: args.name

// Just enough of a JSON parser, and strict: whatever it does not expect is an exception.
class parser {
public:
    explicit parser(std::string t) : text_(std::move(t)) {}
    std::vector<event> events() {
        std::vector<event> all;
        eat('[');
        do { object("", all.emplace_back()); } while (comma());
        eat(']');
        skip();
        if (at_ != text_.size()) throw std::runtime_error("more after the end");
        return all;
    }

private:
    void skip() {
        while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
    }
    char next() { return skip(), text_.at(at_); }
    void eat(char c) {
        if (next() != c)
            throw std::runtime_error("wanted " + std::string(1, c) + " at " + std::to_string(at_));
        ++at_;
    }
    bool comma() { return next() == ',' && ++at_; }
    std::string string() {
        std::string s;
        for (eat('"'); text_.at(at_) != '"'; ++at_) {
            if (text_[at_] == '\\') ++at_;
            if (static_cast<unsigned char>(text_.at(at_)) < ' ')
                throw std::runtime_error("control character");
            s += text_[at_];
        }
        return ++at_, s;
    }
    void object(const std::string& prefix, event& into) {
        eat('{');
        do {
            const std::string name = prefix + string();
            eat(':');
            if (next() == '{') object(name + ".", into);
            else if (next() == '"') into[name] = string();
            else {
                std::size_t used = 0;
                std::stod(text_.substr(at_, 40), &used);
                into[name] = text_.substr(at_, used);
                at_ += used;
            }
        } while (comma());
        eat('}');
    }
    std::string text_;
    std::size_t at_ = 0;
};

class scratch_file {
public:
    scratch_file() { ::close(::mkstemp(name.data())); }
    scratch_file(scratch_file&&) = delete;
    ~scratch_file() { ::unlink(name.c_str()); }
    std::string read() const {
        std::stringstream all;
        all << std::ifstream(name).rdbuf();
        return all.str();
    }
    std::string name = "/tmp/trace_test.XXXXXX";
};

std::vector<event> of_kind(const std::vector<event>& all, const std::string& ph) {
    std::vector<event> some;
    for (const event& e : all)
        if (e.at("ph") == ph) some.push_back(e);
    return some;
}

// Each track's slices: a wait, a run, a wait ... without gaps: each begins at the very number at
// which the last has ended. Gives the names on each.
std::map<std::string, std::vector<std::string>> tracks_of(const std::vector<event>& all) {
    std::map<std::string, std::vector<std::string>> names;
    std::map<std::string, std::string> end;
    const auto begins = of_kind(all, "B"), ends = of_kind(all, "E");
    REQUIRE(begins.size() == ends.size());
    for (std::size_t i = 0; i < begins.size(); ++i) {
        const event& e = begins[i];
        const std::string& tid = e.at("tid");
        CHECK(ends[i].at("tid") == tid);
        CHECK(ends[i].at("name") == e.at("name"));
        CHECK(std::stod(e.at("ts")) >= 0);
        CHECK(std::stod(ends[i].at("ts")) >= std::stod(e.at("ts")));
        if (end.count(tid)) CHECK(e.at("ts") == end[tid]);
        end[tid] = ends[i].at("ts");
        const bool runs = e.at("name").substr(0, 4) == "run ";
        CHECK(runs == (names[tid].size() % 2 == 1));
        names[tid].push_back(e.at("name"));
    }
    return names;
}

task<int> child(int n) {
    for (int i = 0; i < n; ++i) co_await yield_now();
    co_await ringlet::io::nop();
    co_return n;
}
constexpr int line_of_yield = __LINE__ - 4;

}  // namespace

TEST_CASE("a track for each task, with its waits and runs named by source line") {
    const scratch_file file;
    {
        executor ex;
        tracer trace(ex, file.name);
        auto root = []() -> task<> {
            auto a = ringlet::spawn(child(3));
            co_await ringlet::when_all(child(1), child(2));
            co_await ringlet::sleep_for(1ms);
            co_await std::move(a);
        };
        ex.run(root());
        trace.close();
        CHECK_FALSE(static_cast<bool>(ex.hooks.on_spawn));
    }
    const auto all = parser(file.read()).events();
    auto names = tracks_of(all);
    const auto headers = of_kind(all, "M");
    REQUIRE(headers.size() == 5);  // the process, and four tasks
    std::set<std::string> tids;
    for (std::size_t i = 1; i < headers.size(); ++i) {
        CHECK(headers[i].at("name") == "thread_name");
        CHECK(contains(headers[i].at("args.name"), "trace_test.cpp:"));
        tids.insert(headers[i].at("tid"));
    }
    CHECK(tids == std::set<std::string>{"1", "2", "3", "4"});
    CHECK(names.size() == 4);
    // The detached child: its wait for the first turn, three yields, one nop, and a run after each.
    const std::string yields = "trace_test.cpp:" + std::to_string(line_of_yield);
    CHECK(names["2"].size() == 10);
    for (std::size_t i = 2; i < 8; i += 2) {
        CHECK(names["2"][i] == "wait " + yields);
        CHECK(names["2"][i + 1] == "run " + yields);
    }
    CHECK(names["2"][8] == "wait trace_test.cpp:" + std::to_string(line_of_yield + 1));
}

TEST_CASE("ids that are used again are new tracks; what is alive at the end is there") {
    const scratch_file file;
    {
        executor ex;
        const tracer trace(ex, file.name);
        auto root = []() -> task<> {
            for (int i = 0; i < 100; ++i) {
                auto one = ringlet::spawn(child(0));
                co_await std::move(one);
            }
        };
        auto stays = []() -> task<> {
            co_await ringlet::suspend([](ringlet::waker w) { return w; });
        };
        auto kept = ex.spawn(stays());
        ex.run(root());
    }
    const auto all = parser(file.read()).events();
    CHECK(of_kind(all, "M").size() == 1 + 102);
    auto names = tracks_of(all);
    CHECK(names.size() == 102);
    CHECK(names["1"].size() == 3);
    CHECK(names["1"].back().substr(0, 5) == "wait ");
}

TEST_CASE("a tracer inside a running task, and after another one") {
    const scratch_file first, second;
    auto root = [&]() -> task<> {
        const tracer outer(*executor::current(), first.name);
        co_await yield_now();
        {
            const tracer inner(*executor::current(), second.name);
            co_await yield_now();
            co_await child(1);
        }
        co_await yield_now();
    };
    ringlet::block_on(root());
    CHECK(of_kind(parser(first.read()).events(), "B").size() >= 3);
    CHECK(of_kind(parser(second.read()).events(), "B").size() >= 2);
}

TEST_CASE(
    "a tracer that is made in the midst of a run, where there were hooks, tells runs from waits") {
    const scratch_file file;
    executor ex;
    int runs = 0;
    ex.hooks.context = &runs;
    ex.hooks.before_run = [](void* n, const ringlet::job_info&) { ++*static_cast<int*>(n); };
    auto root = [&]() -> task<> {
        const tracer trace(ex, file.name);
        co_await yield_now();
        co_await yield_now();
    };
    ex.run(root());
    CHECK(runs == 1);  // the others were the tracer's
    std::string kinds;
    for (const event& e : of_kind(parser(file.read()).events(), "B"))
        kinds += e.at("name").substr(0, e.at("name").find(' ')) + " ";
    CHECK(kinds == "run wait run wait run ");
}

TEST_CASE("a task that has not run yet waits, and nothing is said of a file that is good") {
    const scratch_file file, said;
    std::FILE* const warnings = std::fopen(said.name.c_str(), "w");
    executor ex;
    tracer trace(ex, file.name, 0ms, warnings);
    const auto handle = ex.spawn(child(0));
    trace.close();
    std::fclose(warnings);
    CHECK(said.read().empty());
    const auto slices = of_kind(parser(file.read()).events(), "B");
    REQUIRE(slices.size() == 1);
    CHECK(slices[0].at("name").starts_with("wait "));
}

TEST_CASE("a run longer than the limit is told, with where; shorter ones are not") {
    const scratch_file file, said;
    std::FILE* const warnings = std::fopen(said.name.c_str(), "w");
    int before = 0;
    {
        executor ex;
        const tracer trace(ex, file.name, 20ms, warnings);
        auto root = [&]() -> task<> {
            co_await yield_now();
            before = __LINE__ + 1;
            co_await yield_now();
            const auto end = std::chrono::steady_clock::now() + 30ms;
            while (std::chrono::steady_clock::now() < end) {}
            co_await yield_now();
            co_await ringlet::sleep_for(25ms);  // a wait is no stall
        };
        ex.run(root());
    }
    std::fclose(warnings);
    const auto lines = support::lines_of(said.read());
    REQUIRE(lines.size() >= 1);  // more on a machine that stops this program for that long
    const std::string from = "from trace_test.cpp:" + std::to_string(before);
    const std::string to = "to trace_test.cpp:" + std::to_string(before + 3);
    int found = 0;
    for (const std::string& line : lines) found += contains(line, from + " " + to + ",");
    CHECK(found == 1);
}

TEST_CASE("errors: a file that cannot be made, or not be written") {
    executor ex;
    try {
        const tracer trace(ex, "/nowhere/trace.json");
        FAIL("made");
    } catch (const std::system_error& e) {
        CHECK(e.code().value() == ENOENT);
        CHECK(contains(e.what(), "/nowhere/trace.json"));
    }
    CHECK_FALSE(static_cast<bool>(ex.hooks.before_run));
    const scratch_file said;
    std::FILE* const warnings = std::fopen(said.name.c_str(), "w");
    {
        tracer full(ex, "/dev/full", 0ms, warnings);
        full.close();
    }
    { const tracer full(ex, "/dev/full", 0ms, warnings); }
    std::fclose(warnings);
    CHECK(said.read() == "ringlet: trace: error 28\nringlet: trace: error 28\n");
}
