"""What the smallest program costs: to compile, to keep, to run. For bench/report."""
import os
import resource
import statistics
import subprocess
import time

INCLUDE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "include")
EMPTY = "int main() {}\n"
RINGLET = """#include <ringlet/task.hpp>
#include <ringlet/executor.hpp>
#include <ringlet/reactor.hpp>
#include <ringlet/timer.hpp>
ringlet::task<int> hello() { co_return 0; }
int main() { return ringlet::block_on(hello()); }
"""
ASIO = """#include <asio.hpp>
asio::awaitable<void> hello() { co_return; }
int main() {
    asio::io_context context(1);
    asio::co_spawn(context, hello(), asio::detached);
    context.run();
}
"""
# program: source, compiler, what it is linked with. What is linked stays, used or not.
PROGRAMS = {
    "empty": (EMPTY, "g++", []),
    "ringlet, g++": (RINGLET, "g++", ["-luring"]),
    "ringlet, clang++-19": (RINGLET, "clang++-19", ["-luring"]),
    "asio, g++": (ASIO, "g++", ["-pthread"]),
}
TABLE = """
## Hello

A program that runs a task which returns at once, and an empty one, on the same libstdc++, at -O2. Compile: CPU
seconds, linking included. Run: the whole process, from fork to its end, as the median of {runs} in turns.
Goals for ringlet with g++: 1.0 s, 40,000 bytes, 1.1 times the empty program.
"""
RUNS = 400


def seconds(*command):
    """-> CPU time and wall time of a process"""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, close_fds=False)  # no fork, but vfork
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def built(directory, compilers, rounds):
    """-> a row for each program, with its path, and what it takes to compile it"""
    rows = []
    for number, (name, (text, compiler, libraries)) in enumerate(PROGRAMS.items()):
        if compiler not in compilers:
            continue
        path = os.path.join(directory, f"hello{number}")
        with open(path + ".cpp", "w", encoding="utf-8") as file:
            file.write(text)
        line = [compiler, "-std=c++20", "-O2", "-I", INCLUDE, path + ".cpp", "-o", path]
        line += ["-Wl,--no-as-needed", *libraries]
        compile_s = statistics.median(seconds(*line)[0] for _ in range(rounds))
        subprocess.run(["strip", path], check=True)
        rows.append({"program": name, "path": path, "compile_s": round(compile_s, 3), "bytes": os.path.getsize(path)})
    return rows


def measure(directory, compilers, rounds):
    print("hello", flush=True)
    rows = built(directory, compilers, rounds)
    runs = {row["path"]: [] for row in rows}
    for _ in range(RUNS):
        for path, found in runs.items():
            found.append(seconds(path))
    for row in rows:
        cpu, wall = zip(*runs[row.pop("path")])
        row["cpu_us"], row["wall_us"] = (round(statistics.median(times) * 1e6, 1) for times in (cpu, wall))
    for row in rows:
        row["ratio"] = round(row["wall_us"] / rows[0]["wall_us"], 3)
    return rows


def table(rows):
    lines = ["| program | compile s | bytes, stripped | run, wall us | run, CPU us | wall, of the empty one |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: |")
    for r in rows:
        cells = [r["program"], f"{r['compile_s']:.2f}", f"{r['bytes']:,}", f"{r['wall_us']:.0f}", f"{r['cpu_us']:.0f}"]
        lines.append(f"| {' | '.join([*cells, format(r['ratio'], '.2f')])} |")
    return "\n".join(lines)
