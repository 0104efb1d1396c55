#!/usr/bin/env python3
"""Compares examples/limit with coreutils timeout, case by case: exit status, output, and what is left running.

usage: limit_test.py BUILD_EXAMPLES_DIR [CASE...]

Each case is run with both programs. Prints `ok NAME` or `FAIL NAME` with the reason; the last line is
`N passed, N failed`, and the exit status is 1 if one failed.
"""

import os
import pty
import re
import resource
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
# pylint: disable-next=wrong-import-position
from programs import C_LOCALE, cases_of, check, DEADLINE, run_cases, until

BUILD = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else sys.exit(__doc__)
LIMIT = os.path.join(BUILD, "limit")


def run(program, args, **options):
    done = subprocess.run([program, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=DEADLINE, env=C_LOCALE, **options)
    return done.returncode, done.stdout, done.stderr


def sh(script):
    return ["sh", "-c", script]


# ---- what is told by the exit status and the output ---------------------------------------------------------------------

SLOW = "trap '' TERM; while :; do sleep 0.02; done"  # does not end at TERM
# The signal comes twice, to the command and to its group.
LATE = "trap 'trap : TERM; echo got it; exit 9' TERM; echo on; while :; do sleep 0.01; done"
# Those that set a trap first get the time for it.
CASES = [
    ["1", *sh("exit 0")], ["1", *sh("exit 7")], ["1", *sh("exit 124")], ["1", *sh("exit 255")], ["0", "true"],
    ["10", "echo", "an argument", "", "-k"], ["1", "cat"],
    # durations
    ["0.03", "sleep", "5"], ["0.03s", "sleep", "5"], [".0005m", "sleep", "5"], ["0.00001h", "sleep", "5"],
    ["0.0000004d", "sleep", "5"], ["3e-2", "sleep", "5"], ["0x1p-5", "sleep", "5"], ["0.0", "sleep", "0.05"],
    ["1e400", "true"], ["inf", "true"], ["infinity", "true"], ["1d", "true"], ["99999999999999d", "true"], [" 1", "true"],
    ["1e-12", "sleep", "5"], ["+1", "true"], ["--", "-0", "true"],
    ["", "true"], ["nan", "true"], ["x", "true"], ["1x", "true"], ["1ss", "true"], ["1 s", "true"], ["1D", "true"], ["s", "true"],
    ["--", "-1", "true"], ["1,5", "true"],
    # wrong calls
    [], ["1"], ["-k"], ["-s"], ["-k", "1"], ["-k", "1", "1"], ["--nonsense", "1", "true"], ["-x", "1", "true"],
    ["-k", "x", "1", "true"], ["-k", "", "1", "true"], ["-s", "NOPE", "1", "true"], ["-s", "65", "1", "true"], ["-s", "", "1", "true"],
    ["-s", "999", "1", "true"], ["-s", "-1", "1", "true"], ["-s", " 9", "1", "true"], ["-s", "9x", "1", "true"],
    ["-s", "RTMIN+99", "1", "true"], ["-s", "RTMIN-1", "1", "true"], ["-s", "SIG", "1", "true"],
    # what cannot be started
    ["1", "no-program-has-this-name"], ["1", "/nowhere/at/all"], ["1", "/etc/passwd"], ["1", "/"], ["1", ""],
    ["1", "./script"], ["1", "./script", "an argument"], ["1", "./not_executable"], ["1", "./bad_interpreter"], ["1", "./empty"],
    # the command dies
    *([ "1", *sh("kill -%s $$" % s)] for s in ("TERM", "KILL", "INT", "HUP", "SEGV", "ABRT", "ALRM", "PIPE", "USR1")),
    # its time is over
    ["0.15", *sh(LATE)], ["-p", "0.15", *sh(LATE)], ["--preserve-status", "0.03", "sleep", "5"],
    ["--preserve-status", "-s", "INT", "0.15", *sh("trap 'exit 5' INT; while :; do sleep 0.01; done")],
    ["-k", "0.03", "0.15", *sh(SLOW)], ["--kill-after=0.03s", "0.15", *sh(SLOW)], ["-k", "5", "0.15", *sh(LATE)],
    ["-k", "0", "0.03", "sleep", "5"], ["-p", "-k", "0.03", "0.15", *sh(SLOW)],
    *(["-s", s, "0.03", "sleep", "5"] for s in (
        "TERM", "SIGTERM", "term", "sigterm", "15", "HUP", "USR1", "KILL", "9", "137", "SIGINT", "QUIT", "RTMIN", "RTMIN+2", "rtmax-1", "64")),
    ["--signal=KILL", "-p", "0.03", "sleep", "5"], ["-sINT", "0.03", "sleep", "5"],
    ["-s", "0", "0.03", "sleep", "0.1"], ["-s", "EXIT", "0.03", "sleep", "0.1"], ["-s", "CONT", "0.03", "sleep", "0.1"],
    ["0.05", *sh("kill -STOP $$; exit 6")],
    # in the foreground
    ["--foreground", "0.03", "sleep", "5"], ["--foreground", "-s", "KILL", "0.03", "sleep", "5"],
    ["--foreground", "-k", "0.03", "0.15", *sh(SLOW)], ["--foreground", "1", *sh("exit 4")],
    ["--foreground", "-p", "-s", "KILL", "0.03", "sleep", "5"],
    # what it says
    ["-v", "0.03", "sleep", "5"], ["-v", "--foreground", "-k", "0.03", "-s", "HUP", "0.15", *sh("trap '' HUP; while :; do sleep 0.02; done")],
]


def plain(text):
    """Errors name the same things in other words; what is sent is told in the same words."""
    return sorted(line for line in text.decode().replace("limit:", "timeout:").splitlines() if "sending signal" in line)


def compare(args):
    # Older ones do not know the short form.
    known = ["--preserve-status" if a == "-p" else a for a in args]
    wanted, got = run("timeout", known), run(LIMIT, args)
    check(got[0] == wanted[0], "exit status %d, that of timeout is %d; stderr %r" % (got[0], wanted[0], got[2]))
    check(got[1] == wanted[1], "stdout %r, that of timeout is %r" % (got[1], wanted[1]))
    check(plain(got[2]) == plain(wanted[2]), "stderr %r, that of timeout is %r" % (got[2], wanted[2]))
    check(got[0] not in (125, 126, 127) or got[2], "no word on stderr, that of timeout is %r" % wanted[2])
    if got[0] == 125:
        check(got[2].startswith(b"usage: limit") and got[2].count(b"\n") == 1, "a wrong call: stderr %r" % got[2])
    if got[0] in (126, 127):
        check(got[2] == b"limit: %s: %s\n" % (args[1].encode(), wanted[2].rsplit(b": ", 1)[1].strip()), "stderr %r" % got[2])


# ---- what is told by processes ------------------------------------------------------------------------------------------


def alive(pid):
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def asleep(pid, name=None):
    with open("/proc/%d/stat" % pid) as f:
        comm, rest = f.read().split("(", 1)[1].rsplit(")", 1)
    return rest.split()[0] == "S" and name in (None, comm)


def ready(process, pid=None, name=None):
    """A signal that comes too early is lost: timeout must know its child, and a shell's child be what it is to become."""
    until(lambda: asleep(process.pid), "%s waits" % process.args[0])
    if pid:
        until(lambda: asleep(pid, name), "%s runs" % name)


def both(case):
    """Runs the case with each program; it gives what is to be compared."""
    wanted, got = case("timeout"), case(LIMIT)
    check(got == wanted, "limit: %r, timeout: %r" % (got, wanted))


def passes_on(number):
    """A signal sent to it reaches the command and the command's own children, and tells in the status."""
    def case(program, *options):
        script = "trap 'echo got; exit 3' %d; sleep 100 & echo $!; wait" % number
        p = subprocess.Popen([program, *options, "60", *sh(script)], stdout=subprocess.PIPE, env=C_LOCALE)
        grandchild = int(p.stdout.readline())
        ready(p, grandchild, "sleep")
        p.send_signal(number)
        out = p.stdout.readline()
        check(p.wait(DEADLINE) >= 0, "it was killed")
        if number in (signal.SIGINT, signal.SIGQUIT):  # which what a shell starts with & ignores
            os.kill(grandchild, signal.SIGKILL)
        p.stdout.close()
        until(lambda: not alive(grandchild), "the grandchild has ended")
        return p.returncode, out
    both(case)


def test_passes_on():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGALRM):
        passes_on(number)


def test_default_action_of_what_is_passed_on():
    def case(program, number, *options):
        p = subprocess.Popen([program, *options, "60", *sh("echo $$; exec sleep 50")], stdout=subprocess.PIPE, env=C_LOCALE)
        ready(p, int(p.stdout.readline()), "sleep")
        p.send_signal(number)
        p.communicate(timeout=DEADLINE)
        return p.returncode
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGALRM):
        for options in ((), ("--foreground",), ("-k", "0.05"), ("-s", "USR2")):
            both(lambda program: case(program, number, *options))
    both(lambda program: case(program, signal.SIGUSR2, "-s", "USR2"))


def test_signal_then_kill():
    """A signal passed on starts the time of -k as well."""
    def case(program):
        p = subprocess.Popen([program, "-k", "0.05", "60", *sh("trap '' TERM; echo on; while :; do sleep 0.01; done")],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=C_LOCALE)
        p.stdout.readline()
        ready(p)
        p.send_signal(signal.SIGTERM)
        p.communicate(timeout=DEADLINE)
        return p.returncode
    both(case)


def test_script_in_path():
    def case(program):
        return run("env", ["PATH=%s:%s" % (os.getcwd(), os.environ["PATH"]), program, "1", "script", "an argument", "-x"])
    both(case)
    check(case(LIMIT)[:2] == (0, b"a script, an argument\n"), "%r" % (case(LIMIT),))


def test_group():
    """What the command has started ends with it; in the foreground it does not."""
    def case(program, *options):
        p = subprocess.Popen([program, *options, "0.3", *sh("sleep 100 & echo $!; wait")], stdout=subprocess.PIPE, env=C_LOCALE)
        grandchild = int(p.stdout.readline())
        ready(p, grandchild, "sleep")
        code = p.wait(DEADLINE)
        p.stdout.close()
        if not options:
            until(lambda: not alive(grandchild), "the grandchild has ended")
        left = alive(grandchild)
        if left:
            os.kill(grandchild, signal.SIGKILL)
        return code, left
    both(case)
    both(lambda program: case(program, "--foreground"))


def test_mask_and_ignored_signals():
    """The command has the signal mask, and the ignored signals, that it would have without limit."""
    def prepare():
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])

    def case(program):
        p = subprocess.run([program, "10", "cat", "/proc/self/status"], stdout=subprocess.PIPE, preexec_fn=prepare, timeout=DEADLINE)
        sets = dict(re.findall(r"(Sig\w+):\s*(\w+)", p.stdout.decode()))
        own = 3 << 31  # signals 32 and 33 are the C library's
        return p.returncode, sets["SigPnd"], sets["SigBlk"], int(sets["SigIgn"], 16) & ~own
    both(case)


def test_on_a_terminal():
    """With --foreground the command reads from the terminal; without, it is stopped for that until its time is over."""
    def case(program, *options):
        pid, fd = pty.fork()
        if pid == 0:
            os.execvpe("sh", ["sh", "-mc", '"$@" <&2; exit $?', "sh", program, *options, "0.3", "sh", "-c", "read x; echo got $x"], C_LOCALE)
        os.write(fd, b"a line\n")
        out = b""
        try:
            while True:
                got = os.read(fd, 1000)
                if not got:
                    break
                out += got
        except OSError:
            pass
        os.close(fd)
        status = os.waitpid(pid, 0)[1]
        return os.waitstatus_to_exitcode(status), b"got a line" in out
    both(case)
    both(lambda program: case(program, "--foreground"))


def test_takes_as_long_as_it_says():
    for program in ("timeout", LIMIT):
        begin = time.monotonic()
        run(program, ["0.3", "sleep", "5"])
        seconds = time.monotonic() - begin
        check(0.3 <= seconds < 1.5, "%s took %.3f s" % (program, seconds))


def test_no_descriptor_for_its_own():
    def fails():
        resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))
    with open(LIMIT, "rb") as f:
        if b"__ubsan_handle_dynamic_type_cache_miss" in f.read():
            return  # its check of dynamic types opens a pipe, and reports an error when it cannot
    code, out, err = run(LIMIT, ["1", "true"], preexec_fn=fails)
    check(code == 125 and err.startswith(b"limit: ") and b"Too many open files" in err, "%r" % ((code, out, err),))


def test_descriptors_of_its_own_caller():
    for program in ("timeout", LIMIT):
        r, w = os.pipe()
        os.write(w, b"given")
        os.close(w)
        try:
            code, out, err = run(program, ["2", "sh", "-c", "cat <&%d" % r], pass_fds=[r])
        finally:
            os.close(r)
        check((code, out) == (0, b"given"), "%s: %r" % (program, (code, out, err)))


def test_a_caller_that_ignores_its_children():
    for program in ("timeout", LIMIT):
        for command, wanted in ((["2", "sh", "-c", "exit 3"], 3), (["0.1", "sleep", "5"], 124)):
            code, out, err = run(program, command, preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
            check(code == wanted, "%s: %r" % (program, (code, out, err)))


def test_help():
    code, out, err = run(LIMIT, ["--help"])
    check(code == 0 and out.startswith(b"usage: limit") and not err, "--help: %r" % ((code, out, err),))


def files():
    for name, text, mode in (("script", "echo a script, $1\n", 0o755), ("not_executable", "#!/bin/sh\n", 0o644), ("empty", "", 0o755),
                             ("bad_interpreter", "#!/nowhere\n", 0o755)):
        with open(name, "w") as f:
            f.write(text)
        os.chmod(name, mode)


def comparison_of(args):
    def compares():
        compare(args)
    compares.__name__ = " ".join(args)[:60]
    return compares


if __name__ == "__main__":
    sys.exit(run_cases([comparison_of(args) for args in CASES] + cases_of(globals()), before=files))
