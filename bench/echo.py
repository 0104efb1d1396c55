"""Measures echo servers under load: for bench/report.

The server has one core and the load another, if there are two. The servers of one number of connections run
right after each other, so that their ratios are those of one moment.
"""
import os
import re
import statistics
import subprocess

# connections: requests, the goal for ringlet's CPU time per request against raw
LOADS = {1: (40_000, None), 50: (200_000, 1.03), 1000: (200_000, 1.05)}


def pinned(place, *command):
    """-> the command, on the first or the last of the cores that there are"""
    return ["taskset", "-c", str(sorted(os.sched_getaffinity(0))[place]), *command]


def fields(line):
    """-> the numbers of a line such as `work=echo units=100 cpu_ns=1.5`"""
    found = dict(field.split("=") for field in line.split())
    return {key: float(value) for key, value in found.items() if key != "work"}


def serve(server, load, connections, requests):
    """-> what server and load print after so many requests, and a tenth more that goes uncounted"""
    warm = requests // 10
    command = pinned(0, server, str(warm))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = re.match(r"port=(\d+)$", process.stdout.readline())[1]
            command = pinned(-1, load, port, str(connections), str(requests + warm))
            client = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        finally:
            process.terminate()
        line = process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"{server}: exit code {process.returncode}")
    return {**fields(client), **fields(line)}


def measure(directory, rounds, share):
    """-> {(connections, name, compiler): [what each round gave]}"""
    runs = {}
    folder, load = os.path.join(directory, "echo"), os.path.join(directory, "load", "echo_load")
    for turn in range(rounds):
        print(f"echo, round {turn + 1} of {rounds}", flush=True)
        for connections, (requests, _) in LOADS.items():
            for program in sorted(os.listdir(folder)):
                one = serve(os.path.join(folder, program), load, connections, requests // share)
                runs.setdefault((connections, *program.split("-", maxsplit=1)), []).append(one)
    return runs


def summary(runs, order):
    """-> a row for each server and number of connections"""
    rows = []
    for (connections, name, compiler), rounds in sorted(runs.items(), key=lambda r: (r[0][0], order(r[0][1]))):
        row = {"work": f"echo, {connections}", "program": name, "compiler": compiler}
        for key in rounds[0]:
            row[key] = round(statistics.median(r[key] for r in rounds), 6)
        raw = runs[connections, "raw", "gcc"]
        row["reference"] = "raw"
        row["ratio"] = round(statistics.median(m["cpu_ns"] / r["cpu_ns"] for m, r in zip(rounds, raw)), 3)
        if name == "ringlet" and LOADS[connections][1]:
            row["goal"] = LOADS[connections][1]
        rows.append(row)
    return rows


def latencies(rows):
    """-> a table of them"""
    keys = ["p50_us", "p90_us", "p99_us", "p999_us", "max_us"]
    lines = ["| connections | server | requests/s | p50 us | p90 us | p99 us | p99.9 us | max us |"]
    lines.append("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for r in rows:
        cells = [r["work"].split()[1], f"{r['program']}, {r['compiler']}", f"{1e9 / r['wall_ns']:.0f}"]
        lines.append(f"| {' | '.join(cells + [f'{r[key]:.0f}' for key in keys])} |")
    return "\n".join(lines)
