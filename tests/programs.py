"""What the tests of the programs share: checks, bounded polls, servers that end, and the run of all cases."""

import contextlib
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

DEADLINE = 20  # seconds for anything at all to happen
C_LOCALE = dict(os.environ, LC_ALL="C")


class Failure(Exception):
    pass


class Skip(Exception):
    pass


def check(condition, text):
    if not condition:
        raise Failure(text)


def equal(got, wanted, what):
    check(got == wanted, "%s: got %.600r, wanted %.600r" % (what, got, wanted))


def until(condition, what, seconds=DEADLINE):
    """Polls for a condition; its value, once it is true."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        check(time.monotonic() < end, "not within %d s: %s" % (seconds, what))
        time.sleep(0.002)


def need(*programs):
    for program in programs:
        if not shutil.which(program):
            raise Skip("no " + program)


def run(args, timeout=60, **options):
    return subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout, env=C_LOCALE, **options)


def more_descriptors(n):
    """Raises the limit of this process to n; children inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < n:
        raise Skip("at most %d descriptors here" % hard)
    if soft < n:
        resource.setrlimit(resource.RLIMIT_NOFILE, (n, hard))


def fds_of(pid):
    return len(os.listdir("/proc/%d/fd" % pid))


def not_with_ubsan(program):
    """UBSan's check of dynamic types opens a pipe, and reports an error when it has no descriptor for it."""
    with open(program, "rb") as f:
        if b"__ubsan_handle_dynamic_type_cache_miss" in f.read():
            raise Skip("UBSan needs descriptors")


def without_standard_descriptors():
    """For preexec_fn: what the program opens first would take their numbers."""
    for fd in range(3):
        os.close(fd)


def free_port():
    """A port that nobody listens on, and that no connection of anybody gets by chance: below those that the system gives."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as f:
        first_given = int(f.read().split()[0])
    while True:
        port = random.randrange(min(10000, first_given - 1), first_given)
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port


def accepts(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def started(args, **options):
    """A process, ended and waited for at the end, whatever happens."""
    process = subprocess.Popen(args, env=C_LOCALE, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=DEADLINE)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()


@contextlib.contextmanager
def nginx(root, server="", http=""):
    """nginx serving `root` as one process of our own; its port. `server`: more lines of the server's block."""
    need("nginx")
    port = free_port()
    with tempfile.TemporaryDirectory() as home:
        paths = "".join("%s_temp_path %s;\n" % (kind, home) for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        with open(home + "/conf", "w") as f:
            f.write("daemon off; master_process off; pid %s/pid; error_log %s/log; events {}\n"
                    "http { access_log off; types { text/plain txt; text/html html; image/png png; }\n%s%s\n"
                    "server { listen 127.0.0.1:%d; root %s;\n%s } }\n" % (home, home, paths, http, port, root, server))
        with started(["nginx", "-c", home + "/conf", "-p", home], stderr=subprocess.DEVNULL) as process:
            until(lambda: process.poll() is not None or accepts(port), "nginx listens")
            check(process.poll() is None, "nginx has not started")
            yield port


def run_cases(cases, before=lambda: None):
    """Runs the functions, each in a directory of its own, which before() fills. -> exit status"""
    # Whoever started this may have them ignored, and every program would inherit that.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(1))
    counts = {"ok": 0, "FAIL": 0, "skip": 0}
    for case in cases:
        name, verdict, begin = case.__name__.removeprefix("test_"), "ok", time.monotonic()
        with tempfile.TemporaryDirectory() as scratch:
            os.chmod(scratch, 0o755)
            os.chdir(scratch)
            try:
                before()
                case()
                text = " (%.1f s)" % (time.monotonic() - begin)
            except Skip as reason:
                verdict, text = "skip", ": %s" % reason
            except Exception as error:  # every case is to be reported
                verdict = "FAIL"
                text = ": %s" % (error if isinstance(error, Failure) else traceback.format_exc())
            os.chdir("/")
            subprocess.run(["chmod", "-R", "u+rwx", scratch], check=False)
        counts[verdict] += 1
        print("%s %s%s" % (verdict, name, text), flush=True)
    print("%d passed, %d failed" % (counts["ok"], counts["FAIL"]) + (", %d skipped" % counts["skip"] if counts["skip"] else ""))
    return 1 if counts["FAIL"] else 0


def cases_of(names):
    chosen = sys.argv[2:]
    cases = [f for name, f in names.items() if name.startswith("test_") and callable(f)]
    return [f for f in cases if not chosen or f.__name__.removeprefix("test_") in chosen]


def end_well(process, number=signal.SIGTERM):
    """Ends a program by a signal; it must exit with 0, and say nothing on stderr."""
    process.send_signal(number)
    equal(process.wait(timeout=DEADLINE), 0, "exit status")
    equal(process.stderr.read(), b"", "stderr")
