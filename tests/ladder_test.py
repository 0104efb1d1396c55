#!/usr/bin/env python3
"""Runs the doctest programs as on a kernel of the past, on one of the lower rungs of the ladder of ring
flags in reactor.hpp. tests/main.cpp does that, as RINGLET_TEST_RUNG tells it.

usage: ladder_test.py RUNG PROGRAM...       RUNG is 1 to 4

Ends with 'N passed, N failed' over all test cases that have run, and the exit code that goes with it.
"""
import os
import re
import subprocess
import sys

RUNGS = {1: "SINGLE_ISSUER, COOP_TASKRUN", 2: "COOP_TASKRUN", 3: "SUBMIT_ALL", 4: "no flag, as on Linux 5.15"}
SUMMARY = re.compile(r"\[doctest\] test cases: *\d+ *\| *(\d+) passed *\| *(\d+) failed")
# What looks at the flags themselves, and finds others than it has asked for.
EXCLUDED = ["the kernels of the past*", "a ring that would let a loop*"]


def run(program, rung):
    """-> passed, failed, what it has said"""
    command = [program, "--test-case-exclude=" + ",".join(EXCLUDED)]
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
    rung = int(sys.argv[1])
    total = [0, 0]
    print(f"rung {rung}: {RUNGS[rung]}")
    for program in sys.argv[2:]:
        passed, failed, output = run(program, rung)
        if failed:
            print(f"--- {os.path.basename(program)}\n{output}")
        total = [total[0] + passed, total[1] + failed]
    print(f"{total[0]} passed, {total[1]} failed")
    return 1 if total[1] or not total[0] else 0


if __name__ == "__main__":
    sys.exit(main())
