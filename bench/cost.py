"""How the cost of a unit of work grows with the number of tasks and timers: for bench/report.

Instructions are exact, and say how much there is to do; times include the caches that a larger crowd misses.
"""
import concurrent.futures
import os
import re
import statistics
import subprocess

import echo

CROWDS = [10, 100, 1000, 10_000, 100_000, 1_000_000]
WORKS = {
    "yield": "a yield",
    "spawn": "a spawn and its join",
    "message": "a message",
    "timeout": "a timeout that is not reached",
    "timer": "a timer",
}
FLOOR = ["yield", "spawn", "message"]
TABLE = """
## Cost against number

What a unit costs among how many others, with g++: instructions in user space, by callgrind, and CPU ns. The
timers are on a virtual clock; a timeout is around a child that yields once. Times include cache misses. Bytes: the
memory of one task of the largest crowd, with all that it has (the frame of its child, its channels).
"""


def command(directory, program, work, crowd, count):
    if program == "floor":
        return [os.path.join(directory, "works", "floor-g++"), work, str(count), str(crowd)]
    return [os.path.join(directory, "cost", "cost-g++"), work, str(crowd), str(count)]


def timed(directory, program, work, crowd, count):
    line = command(directory, program, work, crowd, count)
    return echo.fields(subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True).stdout)


def instructions(directory, program, work, crowd):
    """-> per unit: the cost of twice the units, minus that of once"""
    least = max(crowd, 10_000)
    counts = []
    for count in (least, 2 * least):
        valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
        line = [*valgrind, *command(directory, program, work, crowd, count)]
        output = subprocess.run(line, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, check=True).stderr
        counts.append(int(re.search(r"Collected : (\d+)", output)[1]))
    return (counts[1] - counts[0]) / least


def points():
    """-> program, work, crowd: of every point of the curves"""
    for work in WORKS:
        for program in ["ringlet", "floor"] if work in FLOOR else ["ringlet"]:
            for crowd in CROWDS:
                yield program, work, crowd


def measure(directory, rounds, largest):
    """-> a row for each point; instructions are counted up to the largest crowd"""
    rows = {p: dict(zip(("program", "work", "crowd"), p), compiler="g++") for p in points()}
    runs = {p: [] for p in rows}
    for turn in range(rounds):
        print(f"cost, round {turn + 1} of {rounds}", flush=True)
        for p, found in runs.items():
            found.append(timed(directory, *p, 1_000_000))
    for p, row in rows.items():
        row["cpu_ns"] = statistics.median(r["cpu_ns"] for r in runs[p])
        if "bytes" in runs[p][0]:
            row["bytes"] = runs[p][0]["bytes"]
    print("instructions", flush=True)
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        counted = {p: pool.submit(instructions, directory, *p) for p in rows if p[2] <= largest}
        for p, count in counted.items():
            rows[p]["instructions"] = round(count.result(), 2)
    return list(rows.values())


def table(rows):
    lines = ["| unit | program | figure | " + " | ".join(f"{c:,}" for c in CROWDS) + " | last : first | bytes |"]
    lines.append("| --- | --- | --- |" + " ---: |" * (len(CROWDS) + 2))
    for program, work in dict.fromkeys((r["program"], r["work"]) for r in rows):
        curve = [r for r in rows if (r["program"], r["work"]) == (program, work)]
        for key, name in (("instructions", "instructions"), ("cpu_ns", "CPU ns")):
            values = [r[key] for r in curve if key in r]
            cells = [f"{v:.0f}" for v in values] + [""] * (len(CROWDS) - len(values))
            cells += [f"{values[-1] / values[0]:.2f}", f"{curve[-1]['bytes']:.0f}" if "bytes" in curve[-1] else ""]
            lines.append(f"| {WORKS[work]} | {program} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(rows, echoes, pyplot, path):
    """Instructions and CPU time against the number of tasks; echo against that of connections."""
    figure, plots = pyplot.subplots(1, 3, figsize=(13, 4.5))
    for work, color in zip(WORKS, ["#2b6cb0", "#2f855a", "#805ad5", "#c05621", "#b83280"]):
        for program, style in (("ringlet", "o-"), ("floor", "x:")):
            for axes, key in zip(plots, ("instructions", "cpu_ns")):
                mine = [r for r in rows if (r["program"], r["work"]) == (program, work)]
                curve = [(r["crowd"], r[key]) for r in mine if key in r]
                if curve:
                    axes.plot(*zip(*curve), style, color=color, label=f"{program}: {WORKS[work]}", markersize=4)
    for name, color in (("ringlet", "#2b6cb0"), ("raw", "#000000"), ("epoll", "#718096")):
        curve = [r for r in echoes if r["program"] == name and r["compiler"] in ("g++", "gcc")]
        numbers = [int(r["work"].split()[1]) for r in curve]
        plots[2].plot(numbers, [r["cpu_ns"] for r in curve], "o-", color=color, label=name, markersize=4)
    titles = ["instructions per unit", "CPU ns per unit", "server's CPU ns per request of echo"]
    for axes, title, below in zip(plots, titles, ["tasks", "tasks", "connections"]):
        axes.set(title=title, xlabel=below, xscale="log", yscale="log")
        axes.grid(True, alpha=0.3)
        axes.set_ylim(bottom=min(y for line in axes.lines for y in line.get_ydata()) / 2)
        axes.legend(fontsize="x-small")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
