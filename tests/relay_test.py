#!/usr/bin/env python3
"""Compares examples/relay with socat and ncat, where they are installed, and checks each direction's end by itself.

usage: relay_test.py BUILD_EXAMPLES_DIR [CASE...]

Prints `ok NAME`, `skip NAME` or `FAIL NAME` with the reason; the last line is `N passed, N failed`, and the exit status is
1 if one failed.
"""

import hashlib
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
# pylint: disable-next=wrong-import-position
from programs import C_LOCALE, cases_of, check, DEADLINE, equal, free_port, run_cases, Skip, until

BUILD = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else sys.exit(__doc__)
RELAY = os.path.join(BUILD, "relay")
PIPES = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def listens(port):
    with open("/proc/net/tcp") as f:
        return any(re.match(r"\s*\d+: \w+:%04X 0+:0+ 0A " % port, line) for line in f)


class Relay:
    """A relay process, killed at the end of the `with` if it has not ended."""

    def __init__(self, *args, **options):
        self.process = subprocess.Popen([RELAY, *map(str, args)], env=C_LOCALE, **{**PIPES, **options})
        self.stdin, self.stdout = self.process.stdin, self.process.stdout

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        for f in (self.process.stdin, self.process.stdout, self.process.stderr):
            if f and not f.closed:
                try:
                    f.close()
                except BrokenPipeError:
                    pass

    def ends(self, code=0, error=b""):
        equal(self.process.wait(DEADLINE), code, "exit status; stderr %r" % self.error())
        text = self.error()
        check(error in text and bool(error) == bool(text), "stderr %r, wanted %r" % (text, error))

    text = None

    def error(self):
        if self.text is None and self.process.poll() is not None:
            self.text = re.sub(rb"relay: listening on .*\n", b"", self.process.stderr.read())
        return self.text


class Pair:
    """A relay and a socket at its other end. connecting: the relay is the client."""

    def __init__(self, connecting, **options):
        if connecting:
            with socket.create_server(("127.0.0.1", 0)) as s:
                self.relay = Relay("127.0.0.1", s.getsockname()[1], **options)
                s.settimeout(DEADLINE)
                self.peer = s.accept()[0]
        else:
            self.relay = Relay("-l", 0, **options)
            self.port = int(re.fullmatch(rb"relay: listening on 127.0.0.1 port (\d+)\n", self.relay.process.stderr.readline()).group(1))
            self.peer = socket.create_connection(("127.0.0.1", self.port), DEADLINE)
        self.peer.settimeout(DEADLINE)

    def __enter__(self):
        self.relay.__enter__()
        return self.relay, self.peer

    def __exit__(self, *args):
        self.peer.close()
        self.relay.__exit__(*args)


def receive_all(peer):
    data = bytearray()
    while True:
        got = peer.recv(1 << 16)
        if not got:
            return bytes(data)
        data += got


# ---- the judges ---------------------------------------------------------------------------------------------------------


def client(name, port):
    return {"relay": [RELAY, "127.0.0.1", str(port)], "socat": ["socat", "-t", "20", "-", "TCP:127.0.0.1:%d" % port],
            "ncat": ["ncat", "127.0.0.1", str(port)]}[name]


def server(name, port):
    return {"relay": [RELAY, "-l", str(port)], "socat": ["socat", "-t", "20", "-", "TCP-LISTEN:%d,bind=127.0.0.1" % port],
            "ncat": ["ncat", "-l", "127.0.0.1", str(port)]}[name]


def talk(process, data, expected, patient):
    """Gives `data` to a program, and its end: if `patient`, only when it has put out what is expected. What it puts out."""
    seen = b""
    if patient:
        process.stdin.write(data)
        process.stdin.flush()
        seen, data = process.stdout.read(len(expected)), None
    return seen + process.communicate(data, timeout=DEADLINE)[0]


def exchange(listener, caller, up, down, patient):
    """What each of the two programs receives when both are given something to send, and their exit statuses."""
    port = free_port()
    a = subprocess.Popen(server(listener, port), env=C_LOCALE, **PIPES)
    b = None
    try:
        until(lambda: listens(port), listener + " listens")
        b = subprocess.Popen(client(caller, port), env=C_LOCALE, **PIPES)
        got = {}
        threads = [threading.Thread(target=lambda k=k, x=x: got.__setitem__(k, talk(*x, patient)))
                   for k, x in (("server", (a, down, up)), ("client", (b, up, down)))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        return got["server"], got["client"], a.returncode, b.returncode
    finally:
        for p in (a, b):
            if p and p.poll() is None:
                p.kill()
                p.wait()


def test_judges():
    """Whoever is at the other end, both sides receive what socat and socat do: all, and end with 0."""
    judges = [n for n in ("socat", "ncat") if shutil.which(n)]
    if not judges:
        raise Skip("neither socat nor ncat is installed")
    rng = random.Random(1)
    for up, down in ((b"", b""), (b"one line\n", b""), (b"", bytes(range(256))), (rng.randbytes(3000000), rng.randbytes(2000000))):
        for judge in judges:
            # ncat stops reading its standard input when the peer has ended: so it is judge of one direction at a time, and
            # nobody ends before all has come.
            patient = judge == "ncat"
            if patient and up and down:
                continue
            wanted = exchange(judge, judge, up, down, patient)
            equal(wanted, (up, down, 0, 0), "%s with %s" % (judge, judge))
            for listener, caller in ((judge, "relay"), ("relay", judge), ("relay", "relay")):
                got = exchange(listener, caller, up, down, patient)
                check(got == wanted, "%s with %s: not what %s does: %.300r" % (listener, caller, judge, got))


# ---- the ends of the two directions -------------------------------------------------------------------------------------


def for_both(case):
    for connecting in (True, False):
        with Pair(connecting) as (relay, peer):
            case(relay, peer)


def test_input_ends_first():
    def case(relay, peer):
        relay.stdin.write(b"request")
        relay.stdin.close()
        equal(receive_all(peer), b"request", "what the peer receives up to the end")
        peer.sendall(b"the answer, after that")
        equal(os.read(relay.stdout.fileno(), 100), b"the answer, after that", "stdout")
        peer.close()
        equal(relay.stdout.read(), b"", "then stdout ends")
        relay.ends()
    for_both(case)


def test_peer_ends_first():
    def case(relay, peer):
        peer.sendall(b"all there is")
        peer.shutdown(socket.SHUT_WR)
        equal(relay.stdout.read(), b"all there is", "stdout, up to its end, while stdin is open")
        relay.stdin.write(b"the rest")
        relay.stdin.flush()
        equal(peer.recv(100), b"the rest", "what the peer still receives")
        relay.stdin.close()
        equal(peer.recv(100), b"", "and then the end")
        relay.ends()
    for_both(case)


def test_nothing_at_all():
    def case(relay, peer):
        relay.stdin.close()
        equal(peer.recv(1), b"", "the end")
        peer.close()
        relay.ends()
    for_both(case)


def test_standard_input_that_is_closed():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = subprocess.run([RELAY, "127.0.0.1", str(listener.getsockname()[1])], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              env=C_LOCALE, timeout=DEADLINE, preexec_fn=lambda: os.close(0))
        equal((done.returncode, done.stdout), (1, b""), "exit status")
        check(b"standard input: Bad file descriptor" in done.stderr, "stderr %r" % done.stderr)
        with listener.accept()[0] as peer:
            equal(peer.recv(100), b"", "nothing of the program's own comes to the peer")


def test_byte_by_byte():
    def case(relay, peer):
        for i in range(256):
            relay.stdin.write(bytes([i]))
            relay.stdin.flush()
            equal(peer.recv(10), bytes([i]), "byte %d, to the peer" % i)
            peer.sendall(bytes([255 - i]))
            equal(os.read(relay.stdout.fileno(), 10), bytes([255 - i]), "byte %d, from the peer" % i)
        relay.stdin.close()
        peer.close()
        relay.ends()
    for_both(case)


def test_reset():
    def case(relay, peer):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.sendall(b"x")
        equal(os.read(relay.stdout.fileno(), 10), b"x", "stdout")
        peer.close()
        relay.ends(1, b"Connection reset by peer\n")  # with stdin open
        check(b"127.0.0.1 port " in relay.error(), "stderr %r" % relay.error())
    for_both(case)


def test_listener_takes_one():
    pair = Pair(False)
    with pair as (relay, peer):
        until(lambda: not listens(pair.port), "it listens no more")
        peer.shutdown(socket.SHUT_WR)
        relay.stdin.close()
        relay.ends()


# ---- much ---------------------------------------------------------------------------------------------------------------


def peak_memory(pid):
    with open("/proc/%d/status" % pid) as f:
        return int(re.search(r"VmHWM:\s*(\d+)", f.read()).group(1)) << 10


def test_64_mib_both_ways_at_once():
    block = random.Random(2).randbytes(1 << 20)
    total = 64
    wanted = hashlib.sha1(block * total).hexdigest()

    def send(write, end):
        for _ in range(total):
            write(block)
        end()

    def hash_of(read):
        h = hashlib.sha1()
        while True:
            got = read(1 << 16)
            if not got:
                return h.hexdigest()
            h.update(got)

    with Pair(True) as (relay, peer):
        threads = [threading.Thread(target=send, args=(relay.stdin.write, relay.stdin.close)),
                   threading.Thread(target=send, args=(peer.sendall, lambda: peer.shutdown(socket.SHUT_WR)))]
        results = []
        threads.append(threading.Thread(target=lambda: results.append(hash_of(peer.recv))))
        for t in threads:
            t.start()
        results.append(hash_of(lambda n: os.read(relay.stdout.fileno(), n)))
        for t in threads:
            t.join()
        equal(results, [wanted] * 2, "checksums")
        relay.ends()


def test_slow_reader():
    """A standard output that nobody reads holds up the peer, and not the other direction; memory does not grow."""
    with Pair(True) as (relay, peer):
        before = peak_memory(relay.process.pid)
        sent, block = 0, bytes(1 << 16)
        peer.setblocking(False)
        full_since = None

        def full():
            nonlocal sent, full_since
            try:
                sent += peer.send(block)
                full_since = None
            except BlockingIOError:
                full_since = full_since or time.monotonic()
            return full_since and time.monotonic() - full_since > 0.1

        until(full, "the peer cannot send any more")
        peer.settimeout(DEADLINE)
        relay.stdin.write(b"up")
        relay.stdin.flush()
        equal(peer.recv(10), b"up", "the other direction")
        with open(RELAY, "rb") as f:
            instrumented = b"__asan" in f.read()
        if not instrumented:
            grown = peak_memory(relay.process.pid) - before
            check(grown < 1 << 20, "memory has grown by %d bytes" % grown)
        peer.shutdown(socket.SHUT_WR)
        equal(len(relay.stdout.read()), sent, "bytes that arrive in the end")
        relay.stdin.close()
        relay.ends()


def test_files():
    """Standard input and output may be files."""
    data = random.Random(3).randbytes(1000000)
    with open("in", "wb") as f:
        f.write(data)
    with open("in", "rb") as source, open("out", "wb") as target, Pair(True, stdin=source, stdout=target) as (relay, peer):
        equal(receive_all(peer), data, "from a file")
        peer.sendall(data[::-1])
        peer.close()
        relay.ends()
    with open("out", "rb") as f:
        equal(f.read(), data[::-1], "into a file")


# ---- errors and signals -------------------------------------------------------------------------------------------------


def run(*args):
    done = subprocess.run([RELAY, *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=DEADLINE, env=C_LOCALE)
    return done.returncode, done.stdout, done.stderr


def test_errors():
    port = free_port()
    equal(run("127.0.0.1", port), (1, b"", b"relay: 127.0.0.1 port %d: Connection refused\n" % port), "nobody listens")
    code, out, err = run("127.0.0.1", "no-such-service")
    check((code, out) == (1, b"") and err.startswith(b"relay: 127.0.0.1: ") and err.count(b"\n") == 1, "service: %r" % err)
    code, out, err = run("not a host", "80")
    check((code, out) == (1, b"") and err.startswith(b"relay: not a host: ") and err.count(b"\n") == 1, "host: %r" % err)
    with socket.create_server(("127.0.0.1", 0)) as s:
        taken = s.getsockname()[1]
        equal(run("-l", taken), (1, b"", b"relay: 127.0.0.1 port %d: Address already in use\n" % taken), "taken")


def test_output_errors():
    with open("/dev/full", "wb") as full, Pair(True, stdout=full) as (relay, peer):
        peer.sendall(b"x")
        relay.ends(1, b"relay: standard output: No space left on device\n")
    with Pair(True) as (relay, peer):
        relay.stdout.close()
        peer.sendall(b"x")
        equal(relay.process.wait(DEADLINE), -signal.SIGPIPE, "as a filter ends whose output nobody reads")
    place = os.open("/", os.O_RDONLY)
    with Pair(True, stdin=place) as (relay, peer):
        relay.ends(1, b"relay: standard input: Is a directory\n")
    os.close(place)


def test_signals():
    for number in (signal.SIGINT, signal.SIGTERM):
        for connecting in (True, False):
            with Pair(connecting) as (relay, peer):
                relay.stdin.write(b"x")
                relay.stdin.flush()
                equal(peer.recv(1), b"x", "it is joined")
                relay.process.send_signal(number)
                relay.ends(-number)
                equal(peer.recv(1), b"", "the connection is closed")
        port = free_port()
        with Relay("-l", port) as relay:
            equal(int(relay.process.stderr.readline().split()[-1]), port, "where it listens")
            relay.process.send_signal(number)
            relay.ends(-number)
            with socket.socket() as s:
                s.bind(("127.0.0.1", port))  # free at once


def test_usage():
    for args in ((), ("host",), ("-l",), ("-x",), ("a", "b", "c"), ("-l", "a", "b", "c"), ("--nonsense",),
                 ("127.0.0.1", "65616"), ("-l", "65536"), ("--", "127.0.0.1", "99999999999999999999")):
        code, out, err = run(*args)
        check((code, out) == (2, b"") and err.startswith(b"usage: relay") and err.count(b"\n") == 1, "%r: %r" % (args, (code, out, err)))
    code, out, err = run("--help")
    check(code == 0 and out.startswith(b"usage: relay") and not err, "--help: %r" % ((code, out, err),))


if __name__ == "__main__":
    sys.exit(run_cases(cases_of(globals())))
