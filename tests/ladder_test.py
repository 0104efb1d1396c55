#!/usr/bin/env python3
"""Runs the doctest programs as on the kernels of the past: once for each lower rung of the ladder of ring
flags in reactor.hpp. tests/main.cpp does that, as RINGLET_TEST_RUNG tells it.

usage: ladder_test.py PROGRAM...

Ends with 'N passed, N failed' over all test cases that have run, and the exit code that goes with it.
"""
import os
import re
import subprocess
import sys

RUNGS = {1: "SINGLE_ISSUER, COOP_TASKRUN", 2: "COOP_TASKRUN", 3: "SUBMIT_ALL", 4: "no flag, as on Linux 5.15"}
SUMMARY = re.compile(r"\[doctest\] test cases: *\d+ *\| *(\d+) passed *\| *(\d+) failed")
# What looks at the flags themselves, and finds others than it has asked for.
EXCLUDED = ["the kernels of the past*"]


def run(program, rung):
    """-> passed, failed, what it has said"""
    command = [program] + [f"--test-case-exclude={name}" for name in EXCLUDED]
    environment = dict(os.environ, RINGLET_TEST_RUNG=str(rung))
    try:
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              stdin=subprocess.DEVNULL, timeout=120, errors="replace", check=False)
    except subprocess.TimeoutExpired as late:
        return 0, 1, (late.stdout or b"").decode(errors="replace") + "\ntakes more than two minutes"
    summary = SUMMARY.search(done.stdout)
    if not summary:
        return 0, 1, done.stdout
    passed, failed = int(summary[1]), int(summary[2])
    if done.returncode != 0 and failed == 0 or passed + failed == 0:
        failed += 1
    return passed, failed, done.stdout


def main():
    total = [0, 0]
    for rung, flags in RUNGS.items():
        sums = [0, 0]
        for program in sys.argv[1:]:
            passed, failed, output = run(program, rung)
            if failed:
                print(f"--- {os.path.basename(program)} on rung {rung}\n{output}")
            sums = [sums[0] + passed, sums[1] + failed]
        print(f"rung {rung}, {flags}: {sums[0]} passed, {sums[1]} failed")
        total = [total[0] + sums[0], total[1] + sums[1]]
    print(f"{total[0]} passed, {total[1]} failed")
    return 1 if total[1] or not total[0] else 0


if __name__ == "__main__":
    sys.exit(main())
