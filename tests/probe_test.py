#!/usr/bin/env python3
"""Looks for open ports with probe, and compares what it finds with what ss says listens.

usage: probe_test.py BUILD_EXAMPLES_DIR [CASE...]
"""

import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from programs import C_LOCALE, DEADLINE, cases_of, check, equal, fds_of, need, not_with_ubsan, run, run_cases, started, until

PROBE = os.path.abspath(sys.argv[1] + "/probe") if len(sys.argv) > 1 else sys.exit(__doc__)


@contextlib.contextmanager
def listening(n, silent=False, family=socket.AF_INET):
    """Ports that answer; `silent`: that answer nobody, since their queue is full."""
    sockets = []
    try:
        for _ in range(n):
            s = socket.socket(family)
            sockets.append(s)
            s.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
            s.listen(0 if silent else 10)
            for _ in range(3 if silent else 0):
                filling = socket.socket()
                filling.setblocking(False)
                filling.connect_ex(s.getsockname())
                sockets.append(filling)
        listeners = [s for s in sockets if s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)]
        yield sorted(s.getsockname()[1] for s in listeners)
    finally:
        for s in sockets:
            s.close()


def listed(*ports):
    return ",".join(str(p) for p in ports)


def found(*args, status=0):
    done = run([PROBE, *args])
    equal((done.returncode, done.stderr), (status, b""), "probe %.80s" % " ".join(args))
    ports = [int(line) for line in done.stdout.split()]
    equal(len(set(ports)), len(ports), "each once")
    return sorted(ports)


def test_calls():
    done = run([PROBE, "--help"])
    equal((done.returncode, done.stderr, done.stdout[:13]), (0, b"", b"usage: probe "), "help")
    wrong = [[], ["a"], ["a", "1", "b"], ["-j", "0", "a", "1"], ["-j", "x", "a", "1"], ["--timeout", "0", "a", "1"], ["--x", "a", "1"],
             ["--timeout", "nan", "a", "1"]]
    wrong += [["127.0.0.1", ports] for ports in ("", "0", "65536", "80,", ",80", "80,,81", "90-80", "80-", "-80", "80 81", "http", "+80", "80-+90",
                                                 "80- 90", "0x50", "1-2-3", "99999999999999999999", "80;81")]
    for args in wrong:
        done = run([PROBE, *args])
        equal((done.returncode, done.stdout), (2, b""), "wrong call %s" % args)
        check(re.fullmatch(rb"usage: probe .*\n", done.stderr), "one line: %r" % done.stderr)
    done = run([PROBE, "two words", "80"])
    equal((done.returncode, done.stdout), (2, b""), "no such host")
    check(done.stderr.startswith(b"probe: two words: "), "names it: %r" % done.stderr)
    done = run([PROBE, "255.255.255.255", "80"])
    equal((done.returncode, done.stdout), (2, b""), "not to be reached")
    check(b"255.255.255.255" in done.stderr, "names it: %r" % done.stderr)


def test_ports():
    with listening(40) as ports, listening(1) as (closed,):
        pass
    equal(found("127.0.0.1", listed(*ports, closed), status=1), [], "closed ports")
    with listening(40) as ports:
        equal(found("127.0.0.1", listed(*ports)), ports, "a list")
        equal(found("localhost", listed(*ports, *ports)), ports, "by name, each twice")
        equal(found("127.0.0.1", "%d-%d" % (ports[0], ports[0])), ports[:1], "a range of one")
        every = found("127.0.0.1", "%d-%d,%s" % (ports[0], ports[-1], listed(*ports)))
        check(set(ports) <= set(every), "a range: %s of %s" % (every, ports))
        for jobs in ("1", "7", "100000"):
            equal(found("-j", jobs, "127.0.0.1", listed(*ports)), ports, "-j " + jobs)
    if socket.has_ipv6:
        with contextlib.suppress(OSError), listening(3, family=socket.AF_INET6) as ports:
            equal(found("::1", listed(*ports)), ports, "IPv6")
            if socket.AF_INET6 in (a[0] for a in socket.getaddrinfo("localhost", None)):
                equal(found("localhost", listed(*ports)), ports, "IPv6 by name")


def listens():
    """The ports that ss says are open to 127.0.0.1."""
    lines = run(["ss", "-ltnH"]).stdout.decode().splitlines()
    addresses = [line.split()[3].rsplit(":", 1) for line in lines]
    return {int(port) for host, port in addresses if host.split("%")[0] in ("0.0.0.0", "*", "127.0.0.1", "[::]", "[::ffff:127.0.0.1]")}


def test_like_ss():
    """All ports there are. Those of other programs may come and go meanwhile; and nothing is taken for open that is not,
    though the probe's own ends use ports as well."""
    need("ss")
    with listening(50) as ports:
        for _ in range(2):
            before, got = listens(), set(found("127.0.0.1", "1-65535"))
            after = listens()
            check(set(ports) <= got, "ours: %s" % (set(ports) - got))
            check(before & after <= got, "not found: %s" % (before & after - got))
            check(got <= before | after, "not listening: %s" % (got - before - after))


def test_output_that_is_lost():
    with listening(1) as ports:
        with open("/dev/full", "wb") as full:
            done = subprocess.run([PROBE, "127.0.0.1", str(ports[0])], stdout=full, stderr=subprocess.PIPE, env=C_LOCALE, timeout=20)
        equal((done.returncode, done.stderr), (2, b"probe: standard output: No space left on device\n"), "a full disk")
        done = run([PROBE, "127.0.0.1", str(ports[0])], preexec_fn=lambda: os.close(1))
        equal(done.returncode, 2, "closed; stderr %r" % done.stderr)


def test_silent_ports():
    with listening(10, silent=True) as silent, listening(2) as ports:
        begin = time.monotonic()
        equal(found("--timeout", "0.3", "127.0.0.1", listed(*silent, *ports)), ports, "beside silent ones")
        check(0.3 <= time.monotonic() - begin < 5, "all at once, for the time given")
        begin = time.monotonic()
        with started([PROBE, "-j", "3", "--timeout", "0.3", "127.0.0.1", listed(*silent)]) as process:
            most = 0
            while process.poll() is None:
                with contextlib.suppress(OSError):
                    most = max(most, fds_of(process.pid))
                time.sleep(0.01)
            equal(process.returncode, 1, "exit status")
        check(time.monotonic() - begin >= 1.2, "three at a time takes four rounds")
        check(most <= 3 + 8, "%d descriptors" % most)


def test_results_come_at_once_and_a_signal_ends_it():
    for number in (signal.SIGINT, signal.SIGTERM):
        with listening(1, silent=True) as silent, listening(3) as ports:
            command = [PROBE, "--timeout", "100", "127.0.0.1", listed(*silent, *ports)]
            with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
                equal(sorted(int(process.stdout.readline()) for _ in ports), ports, "found before the end")
                process.send_signal(number)
                equal(process.wait(timeout=DEADLINE), 128 + number, "exit status")
                equal((process.stdout.read(), process.stderr.read()), (b"", b""), "output")


def test_few_descriptors():
    not_with_ubsan(PROBE)
    with listening(30) as ports:
        for n in (8, 16, 20, 28, 40):
            limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (n, n))
            done = run([PROBE, "-j", "5000", "127.0.0.1", "1-5000," + listed(*ports)], preexec_fn=limit)
            equal((done.returncode, done.stderr), (0, b""), "with %d" % n)
            check({int(p) for p in done.stdout.split()} >= set(ports), "all are found")
        done = run([PROBE, "127.0.0.1", listed(*ports)], preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4)))
        equal((done.returncode, done.stdout), (2, b""), "no verdict without any")
        check(b"Too many open files" in done.stderr, "stderr %r" % done.stderr)


def test_progress_on_a_terminal():
    leader, follower = os.openpty()
    with listening(1) as ports, started([PROBE, "127.0.0.1", "1-2000," + listed(*ports)], stdout=subprocess.PIPE, stderr=follower) as process:
        os.close(follower)
        out = process.stdout.read()
        equal(process.wait(timeout=DEADLINE), 0, "exit status")
        check(str(ports[0]).encode() in out, "stdout has the port alone: %r" % out)
        shown = os.read(leader, 1 << 16)
        check(b" of 2001" in shown and shown.endswith(b"\r\x1b[K"), "stderr has the progress: %r" % shown)
    os.close(leader)


if __name__ == "__main__":
    sys.exit(run_cases(cases_of(globals())))
