#!/usr/bin/env python3
"""Compiles and runs docs/steps: what each prints, and the flaw that leads to the next.

usage: steps_test.py COMPILER OPTION...

Each case prints `ok NAME` or `FAIL NAME` with the reason; the last line is `N passed, N failed`.
"""
import glob
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback

STEPS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "docs", "steps")
NAMES = sorted(os.path.basename(p)[:-4] for p in glob.glob(os.path.join(STEPS, "*.cpp")))
COMMAND = sys.argv[1:]
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
MOST_LINES = 180
LAST = "6_cancel"
FOLDER = tempfile.TemporaryDirectory()


class Failure(Exception):
    pass


def check(condition, text):
    if not condition:
        raise Failure(text)


def text_of(name):
    with open(os.path.join(STEPS, name + ".cpp"), encoding="utf-8") as file:
        return file.read()


def build(name, *options):
    """The program's path; made once."""
    path = os.path.join(FOLDER.name, "_".join([name, *options]).replace("/", "_"))
    if not os.path.exists(path):
        words = [o for o in COMMAND if not o.startswith("-l")]
        done = subprocess.run(
            [*words, *WARNINGS, "-g1", *options, os.path.join(STEPS, name + ".cpp"), "-o", path, "-luring"],
            capture_output=True, text=True, check=False)
        check(done.returncode == 0, "does not compile:\n" + done.stderr[-4000:])
    return path


def run(path, *arguments):
    options = dict(os.environ, ASAN_OPTIONS="detect_leaks=1:symbolize=0")
    return subprocess.run([path, *arguments], capture_output=True, text=True, timeout=60, check=False, env=options,
                          stdin=subprocess.DEVNULL)


def promised_output(name):
    found = re.search(r"^//   output:\n((?://     .*\n)+)", text_of(name), re.MULTILINE)
    check(found, "no `output:` in the opening comment")
    return re.sub(r"^//     ", "", found[1], flags=re.MULTILINE)


def prints_what_it_promises(name, status=0, **options):
    """-> the numbers where the promise has a #"""
    done = run(build(name, *options.get("flags", [])))
    wanted = re.escape(promised_output(name)).replace(r"\#", r"(\d+)")
    found = re.fullmatch(wanted, done.stdout)
    check(found, f"printed {done.stdout!r}, promised {promised_output(name)!r}; {done.stderr[-2000:]}")
    check(done.stderr == "" and done.returncode == status, f"ended with {done.returncode}: {done.stderr[-2000:]}")
    return [int(n) for n in found.groups()]


def test_there_are_six():
    check([n[0] for n in NAMES] == list("123456"), f"found {NAMES}")


def test_each_says_what_it_is_and_what_is_wrong_with_it():
    for name in NAMES:
        text = text_of(name)
        check(text.startswith(f"// Step {name[0]} of 6: "), name + " does not open with its number and title")
        check(("// ---- The flaw ---" in text) == (name != LAST), name + ": the flaw is missing, or one too many")
        code = [line for line in text.splitlines() if line.strip() and not line.strip().startswith("//")]
        check(len(code) <= MOST_LINES, f"{name} has {len(code)} code lines")
        print(f"   {name}: {len(code)} code lines")


def test_1_prints_and_is_busy():
    (resumed,) = prints_what_it_promises("1_loop")
    check(resumed > 1000, f"resumed only {resumed} times: that is no busy loop")


def test_2_resumes_only_who_can_go_on_and_loses_a_wake():
    prints_what_it_promises("2_queue")


def test_3_loses_none_and_blocks():
    prints_what_it_promises("3_waker")


def test_4_waits_for_many_things_at_once():
    prints_what_it_promises("4_ring")


def state(process):
    """The letter of its state, and the CPU time it has used, in ticks."""
    with open(f"/proc/{process.pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return fields[0], int(fields[11]) + int(fields[12])


def test_4_sleeps_for_ever_if_nobody_writes():
    with subprocess.Popen([build("4_ring"), "silent"], stdout=subprocess.PIPE, text=True) as process:
        try:
            check(process.stdout.readline() == "the thread sleeps\n", "it does not go to sleep")
            end = time.monotonic() + 20
            while state(process)[0] != "S":
                check(time.monotonic() < end, "it is not asleep")
                time.sleep(0.002)
            used = state(process)[1]
            try:  # nothing can come any more: half a second is as good as for ever
                process.wait(0.5)
                check(False, f"it ended with {process.returncode}")
            except subprocess.TimeoutExpired:
                pass
            check(state(process) == ("S", used), "it is not asleep any more, or was busy")
        finally:
            process.kill()


def test_5_gives_up_and_lets_the_kernel_write_into_what_is_freed():
    prints_what_it_promises("5_timers", status=1)


def test_5_is_what_the_sanitizer_finds():
    done = run(build("5_timers", "-O0", "-fsanitize=address"))
    check("AddressSanitizer: heap-use-after-free" in done.stderr, "not found: " + done.stdout + done.stderr[-2000:])
    check(done.returncode != 0, "it ended with 0")


def test_6_lets_go_first():
    prints_what_it_promises("6_cancel")


def test_6_satisfies_the_sanitizers():
    prints_what_it_promises("6_cancel", flags=["-O0", "-fsanitize=address,undefined"])


def main():
    passed = failed = 0
    for name, test in [(n, t) for n, t in globals().items() if n.startswith("test_")]:
        try:
            test()
            print("ok", name)
            passed += 1
        except Exception as e:  # pylint: disable=broad-except
            print("FAIL", name, e if isinstance(e, Failure) else traceback.format_exc())
            failed += 1
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
