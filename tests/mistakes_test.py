#!/usr/bin/env python3
"""The likeliest mistakes: what a user sees of each, from the compiler or as an exception.

usage: mistakes_test.py COMPILER [OPTION...]     (the options say where the headers are)

A mistake that the compiler can see has a sentence in its first error or warning, or the line of the header that says
what to write instead; the others are programs that end with an exception, whose text is looked at. Each case prints
`ok NAME` or `FAIL NAME`; the last line is `N passed, N failed`.
"""
import os
import subprocess
import sys
import tempfile

BEFORE = """#include <ringlet/recipes/generator.hpp>
#include <ringlet/timer.hpp>
#include <cstdio>
using namespace ringlet;
task<int> child() { co_return 1; }
task<> nothing_much() { co_return; }
"""
MAIN = """
int main() {
    try {
        run();
    } catch (const std::exception& e) { std::puts(e.what()); }
}
"""
FOREIGN = """
struct foreign {
    struct promise_type {
        foreign get_return_object() { return {}; }
        std::suspend_never initial_suspend() { return {}; }
        std::suspend_never final_suspend() noexcept { return {}; }
        void return_void() {}
        void unhandled_exception() {}
    };
};
"""

# name: program, what the compiler has to say (any of these)
SEEN_BY_THE_COMPILER = {
    "a task that is called and not awaited": (
        "task<> f() { child(); co_return; }", ["nodiscard"]),
    "a send without co_await": (
        "task<> f(channel<int>& c) { c.send(1); co_return; }", ["nodiscard"]),
    "a read without co_await": (
        "task<> f(std::span<std::byte> b) { io::read(0, b); co_return; }", ["nodiscard"]),
    "a handle that is dropped at once, which cancels the task": (
        "task<> f() { spawn(child()); co_return; }", ["nodiscard"]),
    "an await of a variable": (
        "task<> f() { auto t = child(); (void)co_await t; }", ["it is used up: write co_await std::move(task)"]),
    "an await of a handle that is a variable": (
        "task<> f() { auto h = spawn(child()); (void)co_await h; }", ["it is used up: write co_await std::move(handle)"]),
    "an await in another library's coroutine": (
        FOREIGN + "foreign f() { co_await yield_now(); }", ["ringlet: this can only be awaited in a ringlet::task"]),
    "a result that no frame can hold": (
        "struct alignas(64) wide { char c[64]; }; task<wide> g() { co_return wide(); } task<> f() { (void)co_await g(); }",
        ["ringlet: no compiler aligns a coroutine's frame beyond 16 bytes"]),
    "a generator that no frame can hold, which awaits": (
        "struct alignas(32) wide { int v; }; generator<wide> g() { co_await yield_now(); co_yield wide{1}; }",
        ["ringlet: no compiler aligns a frame beyond 16 bytes"]),
    "an item that no frame can hold": (
        "struct alignas(64) wide { char c[64]; }; task<> f(channel<wide>& c) { co_await c.send(wide()); }",
        ["ringlet: an item lies in frames"]),
    "a number instead of a duration": (
        "task<> f() { co_await sleep_for(5); }", ["std::chrono::duration"]),
    "something that cannot be awaited": (
        "task<> f() { (void)co_await when_all(child(), 5); }", ["awaitable"]),
    "when_any of nothing": (
        "task<> f() { co_await when_any(); }", ["sizeof"]),
    "a read into a buffer that is const": (
        "task<> f(const std::vector<std::byte>& b) { (void)co_await io::read(0, b); }", ["std::span<std::byte>"]),
}

# name: program with a function run(), what its exception says
SEEN_WHEN_IT_RUNS = {
    "block_on in a task": (
        "task<> f() { block_on(nothing_much()); co_return; } void run() { block_on(f()); }",
        "co_await the task, or spawn it"),
    "spawn without an executor": (
        "void run() { auto h = spawn(child()); }", "start one with block_on"),
    "I/O without an executor": (
        "void run() { (void)reactor::here(); }", "start one with block_on"),
    "a handle that is awaited twice": (
        "task<> f() { auto h = spawn(child()); (void)co_await std::move(h); (void)co_await std::move(h); }"
        "void run() { block_on(f()); }", "a join_handle is awaited that is empty, or twice"),
    "a task that is awaited twice": (
        "task<> f() { auto t = child(); (void)co_await std::move(t); (void)co_await std::move(t); }"
        "void run() { block_on(f()); }", "a task is awaited or spawned twice"),
    "an awaiter of another library": (
        "struct other : std::suspend_always { other() {} };"
        "task<> f() { int d = 0; (void)d; co_await other(); } void run() { block_on(f()); }",
        "use ringlet::suspend"),
    "a wait that nobody can end": (
        "task<> f() { channel<int> c(1); auto n = co_await c.recv(); (void)n; } void run() { block_on(f()); }",
        "waits for recv at"),
    "a file that is not there": (
        "task<> f() { auto file = co_await io::open(\"/not/there\", O_RDONLY); } void run() { block_on(f()); }",
        "open /not/there: No such file or directory"),
}


def main():
    compiler = sys.argv[1:]
    counts = {"ok": 0, "FAIL": 0}

    def report(name, good, text):
        verdict = "ok" if good else "FAIL"
        counts[verdict] += 1
        print(verdict, name)
        if not good:
            print("    " + "\n    ".join(text.splitlines()[:12]))

    with tempfile.TemporaryDirectory() as directory:
        source, program = os.path.join(directory, "mistake.cpp"), os.path.join(directory, "mistake")

        def compiled(text, *options):
            with open(source, "w", encoding="utf-8") as file:
                file.write(BEFORE + text)
            # the libraries come last
            options_first = [o for o in compiler if not o.startswith("-l")]
            libraries = [o for o in compiler if o.startswith("-l")]
            return subprocess.run([*options_first, "-Wall", *options, source, *libraries], capture_output=True,
                                  text=True, check=False, env=dict(os.environ, LC_ALL="C"))

        for name, (text, wanted) in SEEN_BY_THE_COMPILER.items():
            said = compiled(text, "-fsyntax-only").stderr
            first = said[:4000]
            report(name, any(w in first for w in wanted), said)
        for name, (text, wanted) in SEEN_WHEN_IT_RUNS.items():
            built = compiled(text + MAIN, "-o", program)
            said = built.stderr
            if built.returncode == 0:
                said = subprocess.run([program], capture_output=True, text=True, check=False, timeout=20).stdout
            report(name, built.returncode == 0 and wanted in said, said)
    print(f"{counts['ok']} passed, {counts['FAIL']} failed")
    return counts["FAIL"] != 0


if __name__ == "__main__":
    sys.exit(main())
