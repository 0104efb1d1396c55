#!/usr/bin/env python3
"""Runs the examples and checks what they print and how they end.

usage: examples_test.py BUILD_EXAMPLES_DIR [CASE...]

Each case prints `ok NAME` or `FAIL NAME` with the reason; the last line is `N passed, N failed`, and the exit status is 1
if one failed. No case waits for a length of time to have things in order: it acts, and waits for the condition it needs.
"""

import os
import random
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
# pylint: disable-next=wrong-import-position
from programs import C_LOCALE, cases_of, check, DEADLINE, equal, free_port, not_with_ubsan, run, run_cases, Skip, until

BUILD = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else sys.exit(__doc__)
REPO = os.path.abspath(os.path.join(os.path.dirname(__file__), ".."))
EXAMPLES = ["hello", "count", "echo", "own_executor", "no_heap"]


def program(name):
    return os.path.join(BUILD, name)


def promised_output(name):
    """The lines under `output:` in the comment that opens the example."""
    with open(os.path.join(REPO, "examples", name + ".cpp")) as f:
        text = f.read()
    found = re.search(r"^//   output:\n((?://     .*\n)+)", text, re.M)
    check(found, "no `output:` in the opening comment of %s.cpp" % name)
    return re.sub(r"^//     ", "", found.group(1), flags=re.M).encode()


def prints_what_it_promises(name):
    done = run([program(name)])
    if done.returncode == 77:
        raise Skip(done.stdout.decode().strip())
    equal(done.stderr, b"", "stderr")
    equal(done.stdout, promised_output(name), "stdout")
    equal(done.returncode, 0, "exit status")


def fds_of(pid):
    """Descriptor -> what it is, of a running process."""
    fds = {}
    for fd in os.listdir("/proc/%d/fd" % pid):
        try:
            fds[int(fd)] = os.readlink("/proc/%d/fd/%s" % (pid, fd))
        except OSError:
            pass
    return fds


def cpu_seconds(pid):
    with open("/proc/%d/stat" % pid) as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- the examples as texts to read --------------------------------------------------------------------------------------


def sources():
    for name in EXAMPLES:
        with open(os.path.join(REPO, "examples", name + ".cpp")) as f:
            yield name, f.read()


def test_sources_open_with_what_they_do_and_show():
    for name, text in sources():
        check(text.startswith("// %s: " % name), name + ".cpp does not open with `// %s: `" % name)
        head = text.split("\n\n", 1)[0]
        for part in ("usage: " + name, "What it shows: "):
            check(part in head, "%s.cpp: no `%s` in the opening comment" % (name, part))


def test_sources_are_short():
    for name, text in sources():
        code = [line for line in text.splitlines() if line.strip() and not line.strip().startswith("//")]
        check(len(code) < 150, "%s.cpp has %d code lines" % (name, len(code)))


def test_own_executor_includes_task_hpp_alone():
    text = dict(sources())["own_executor"]
    equal(re.findall(r"#include [<\"](ringlet/[^>\"]*|[^>\"]*\.h(?:pp)?)[>\"]", text), ["ringlet/task.hpp"], "includes")


# ---- hello, own_executor, no_heap ---------------------------------------------------------------------------------------


def test_hello():
    prints_what_it_promises("hello")


def test_own_executor():
    prints_what_it_promises("own_executor")


def test_no_heap():
    prints_what_it_promises("no_heap")


# ---- count: whatever the arguments, the same as wc ----------------------------------------------------------------------


def scratch_files():
    rng = random.Random(1)
    contents = {
        "empty": b"",
        "one": b"x",
        "newline": b"\n",
        "no_newline": b"two lines\nwithout a newline at the end",
        "blank": b" \t\n\v\f\r \n",
        "text": b"".join(b"line %d of the text\n" % i for i in range(1, 1201)),
        "long": b"word " * 300000,
        "word_across_reads": b"w" * 1000000 + b" end\n",
        "binary": rng.randbytes(300000),
        "space name": b"a name with a space\n",
    }
    for n in (4095, 4096, 4097, 65535, 65536, 65537, 131072):
        contents["size%d" % n] = (b"ab\n" * n)[:n]
    for name, data in contents.items():
        with open(name, "wb") as f:
            f.write(data)
    os.mkdir("dir")
    os.mkdir("many")
    for i in range(1000):
        with open("many/%d" % i, "wb") as f:
            f.write(b"some words here\n" * rng.randrange(30))
    block = b"".join(b"%d words, all of them short\n" % i for i in range(40000))
    with open("big", "wb") as f:
        while f.tell() < 50 << 20:
            f.write(block)
    open("forbidden", "wb").close()


SCRATCH = None


def like_wc(args, stdin=b"", options=(), count_options=()):
    """Runs wc and count: the same standard output, errors and exit status. stdin: bytes for a pipe, or an open file."""
    outputs = []
    place = None if isinstance(stdin, bytes) else os.lseek(stdin.fileno(), 0, os.SEEK_CUR)
    for command in (["wc"], [program("count"), *count_options]):
        if place is not None:
            os.lseek(stdin.fileno(), place, os.SEEK_SET)
        given = {"input": stdin} if place is None else {"stdin": stdin}
        done = run([*command, *options, *args], cwd=SCRATCH, **given)
        outputs.append((done.stdout, re.sub(rb"^(wc|count): ", b"", done.stderr, flags=re.M), done.returncode))
    for what, wc, count in zip(("stdout", "stderr", "exit status"), *outputs):
        equal(count, wc, "%s of count %s" % (what, " ".join([*count_options, *options, *args])[:80]))
    if place is not None:
        os.lseek(stdin.fileno(), place, os.SEEK_SET)


def wc_words_have_to_print():
    """Up to coreutils 9.1 or so, what does not print is no part of a word; later it is."""
    return run(["wc", "-w"], input=b"\1").stdout.strip() == b"0"


def test_count_single_files():
    for name in sorted(os.listdir(SCRATCH)):
        if name not in ("many", "binary", "big"):
            like_wc([name])


def test_count_standard_input_that_is_closed():
    done = run([program("count"), "text", "-", "one"], cwd=SCRATCH, preexec_fn=lambda: os.close(0))
    equal((done.returncode, done.stderr), (1, b"count: -: Bad file descriptor\n"), "exit status and stderr")
    wc = run(["wc", "text", "-", "one"], cwd=SCRATCH, preexec_fn=lambda: os.close(0))
    equal(done.stdout, wc.stdout, "the other files, and the layout")


def test_count_columns():
    for option in ("-l", "-w", "-c", "-lw", "-lc", "-wc", "-cwl", "--lines", "--words", "--bytes"):
        like_wc(["text"], options=[option])
        like_wc(["text", "empty", "long"], options=[option])
        like_wc(["text", "dir"], options=[option])
        like_wc(["missing"], options=[option])
        like_wc([], b"from a pipe\n", options=[option])


def test_count_several_files():
    like_wc(["text", "empty"])
    like_wc(["empty", "empty"])
    like_wc(["long", "one", "no_newline", "blank", "text", "text", "space name"])
    like_wc(sorted(n for n in os.listdir(SCRATCH) if n.startswith("size")))


def test_count_binary():
    for args in (["binary"], ["binary", "text"]):
        like_wc(args, options=[] if wc_words_have_to_print() else ["-lc"])


def test_count_thousand_files():
    names = ["many/%d" % i for i in range(1000)]
    like_wc(names)
    for n in ("1", "3", "999", "5000"):
        like_wc(names, count_options=["-j", n])


def test_count_thousand_files_with_few_descriptors():
    not_with_ubsan(program("count"))
    names = ["many/%d" % i for i in range(1000)]
    wanted = run(["wc"] + names, cwd=SCRATCH).stdout
    for n, jobs in ((8, "16"), (16, "16"), (40, "16"), (40, "5000")):
        limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (n, n))
        done = run([program("count"), "-j", jobs] + names, cwd=SCRATCH, preexec_fn=limit)
        equal((done.stderr, done.returncode), (b"", 0), "stderr and exit status, -j %s with %d" % (jobs, n))
        equal(done.stdout, wanted, "stdout")


def test_count_big_file():
    like_wc(["big"])
    like_wc(["text", "big", "one"])


def test_count_missing_files():
    like_wc(["missing"])
    like_wc(["missing", "gone"])
    like_wc(["text", "missing", "one"])
    like_wc(["missing", "text"], options=["-l"])
    like_wc(["text/below"])


def test_count_directories():
    like_wc(["dir"])
    like_wc(["dir"], options=["-c"])
    like_wc(["text", "dir", "missing", "one"])


def test_count_forbidden_file():
    if os.geteuid() == 0:
        raise Skip("root may read everything")
    os.chmod(os.path.join(SCRATCH, "forbidden"), 0)
    like_wc(["text", "forbidden"])


def test_count_standard_input():
    for data in (b"", b"a pipe\nof words", b"words and lines\n" * 100000):
        like_wc([], data)
        like_wc(["-"], data)


def test_count_standard_input_among_files():
    like_wc(["text", "-", "one"], b"a pipe\n")
    like_wc(["-", "missing", "dir"], b"a pipe\n")
    like_wc(["-", "-", "text", "-"], b"twice the same\n")


def test_count_standard_input_is_a_file():
    with open(os.path.join(SCRATCH, "text"), "rb") as f:
        like_wc([], f)
        like_wc(["-"], f)
        like_wc(["-", "one"], f)
        os.lseek(f.fileno(), 1000, os.SEEK_SET)
        like_wc(["-"], f)  # from where the file stands


def test_count_names_after_two_dashes():
    like_wc(["--", "text", "-l"])
    like_wc(["text", "-l", "one"])


def test_count_proc_and_dev():
    like_wc(["/proc/version"])
    like_wc(["/proc/version", "text", "/proc/filesystems"])
    like_wc(["/dev/null"])
    like_wc(["/dev/null", "text"])


def test_count_messages_come_in_order():
    merged = []
    for command in ("wc", program("count")):
        done = subprocess.run([command, "text", "missing", "one", "dir", "gone"], cwd=SCRATCH, env=C_LOCALE,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
        merged.append(re.sub(rb"^(wc|count): ", b"", done.stdout, flags=re.M))
    # Newer ones (coreutils 9.7) give a directory's line before the message, and not behind it.
    merged[0] = re.sub(rb"(.* dir\n)(dir: .*\n)", rb"\2\1", merged[0])
    equal(merged[1], merged[0], "stdout and stderr together")


def test_count_names_the_file_in_its_message():
    done = run([program("count"), "missing"], cwd=SCRATCH)
    equal(done.stderr, b"count: missing: No such file or directory\n", "stderr")
    equal(done.returncode, 1, "exit status")


def test_count_bound_on_open_files():
    """Nine FIFOs, three at a time: exactly three are open until each in turn gets its writer."""
    names = ["fifo%d" % i for i in range(9)]
    paths = [os.path.join(SCRATCH, name) for name in names]
    for path in paths:
        os.mkfifo(path)
    count = subprocess.Popen([program("count"), "-j", "3"] + names, cwd=SCRATCH, env=C_LOCALE,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        opened = lambda: {p for p in fds_of(count.pid).values() if p in paths}
        left = list(paths)
        while left:
            now = until(lambda: (lambda s: len(s) == min(3, len(left)) and s)(opened() & set(left)), "three open FIFOs")
            check(len(opened()) <= 3, "open: %r" % opened())
            equal(sorted(now), sorted(left[:3]), "open FIFOs, in the order of the arguments")
            path = left.pop(len(now) - 1)  # the last of them first: the results come out of order
            with open(path, "wb") as f:
                f.write(b"for %s\n" % os.path.basename(path).encode())
        out, err = count.communicate(timeout=DEADLINE)
    finally:
        count.kill()
    lines = ["%7d %7d %7d %s" % (1, 2, 10, name) for name in names] + ["%7d %7d %7d total" % (9, 18, 90)]
    equal(out.decode().splitlines(), lines, "stdout")
    equal((err, count.returncode), (b"", 0), "stderr and exit status")
    for path in paths:
        os.unlink(path)


def test_count_own_sources():
    files = run(["find", ".", "-name", ".git", "-prune", "-o", "-type", "f", "-size", "-500k", "-print"], cwd=REPO)
    names = sorted(n for n in files.stdout.decode().splitlines() if n.endswith((".hpp", ".cpp", ".py", ".md", "LICENSE")))
    columns = "-lwc" if wc_words_have_to_print() else "-lc"
    wc, count = (run([c, columns] + names, cwd=REPO).stdout for c in ("wc", program("count")))
    equal(count, wc, "stdout")


def test_count_usage():
    for args in (["-x"], ["--nonsense"], ["-j"], ["-j", "0"], ["-j", "many"], ["-j", "3x", "text"], ["-j", ""], ["-j", "-2"]):
        done = run([program("count")] + args, cwd=SCRATCH, input=b"")
        equal((done.stdout, done.returncode), (b"", 2), "count %s: stdout and exit status" % args)
        check(done.stderr.startswith(b"usage: count") and done.stderr.count(b"\n") == 1, "stderr %r" % done.stderr)
    done = run([program("count"), "--help"])
    check(done.returncode == 0 and done.stdout.startswith(b"usage: count") and not done.stderr, "--help: %r" % done.stdout)


def test_count_full_output():
    with open("/dev/full", "wb") as full:
        done = subprocess.run([program("count"), "text"], cwd=SCRATCH, stdout=full, stderr=subprocess.PIPE, timeout=60)
    equal(done.returncode, 1, "exit status")
    check(b"No space left" in done.stderr, "stderr %r" % done.stderr)


# ---- echo ---------------------------------------------------------------------------------------------------------------


class Server:
    """An echo server on a free port, for one `with`; it has to end with status 0 and without a word."""

    def __init__(self, *args, files=None, port=0):
        limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))) if files else None
        self.files = files
        self.process = subprocess.Popen([program("echo"), "--port", str(port), *args], stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, preexec_fn=limit)
        self.first_line = self.process.stdout.readline().decode()
        found = re.fullmatch(r"listening on ([0-9.]+):(\d+)\n", self.first_line)
        if not found:
            self.process.kill()
            raise Failure("first line %r, stderr %r" % (self.first_line, self.process.stderr.read()))
        self.address = (found.group(1), int(found.group(2)))

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        try:
            if kind is None and self.process.returncode is None:
                self.end()
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.process.stderr.close()

    def end(self, number=signal.SIGTERM):
        """Ends the server; the seconds that it took."""
        begin = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(DEADLINE)
        seconds = time.monotonic() - begin
        equal((self.process.stdout.read(), self.process.stderr.read()), (b"", b""), "what it said")
        equal(self.process.returncode, 0, "exit status")
        return seconds

    def connect(self):
        return socket.create_connection(self.address, DEADLINE)

    def connections(self, fds=None):
        """How many connections it holds: its sockets but for the listener."""
        fds = fds or fds_of(self.process.pid)
        return sum(what.startswith("socket:") for what in fds.values()) - 1

    def has_no_connections(self):
        until(lambda: self.connections() == 0, "the server has closed all connections")


def receive(sock, n):
    data = bytearray()
    while len(data) < n:
        got = sock.recv(n - len(data))
        check(got, "the server closed after %d of %d bytes" % (len(data), n))
        data += got
    return bytes(data)


def round_trip(sock, data):
    sock.sendall(data)
    equal(receive(sock, len(data)), data, "echo")


def reset(sock):
    """Closes with a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def ended(sock):
    """The server has closed this connection: the stream ends, or was reset."""
    try:
        while sock.recv(1 << 16):
            pass
        return True
    except ConnectionResetError:
        return True
    except socket.timeout:
        return False


def test_echo_prints_its_address():
    with Server() as server:
        equal(server.address[0], "127.0.0.1", "host")
        with server.connect() as s:
            round_trip(s, b"hello")
        server.has_no_connections()
    with Server("--host", "127.0.0.2") as server:
        equal(server.address[0], "127.0.0.2", "host")
        with server.connect() as s:
            round_trip(s, b"hello")


def test_echo_first_line_that_is_lost():
    with open("/dev/full", "wb") as full:
        process = subprocess.Popen([program("echo"), "--port", "0"], stdout=full, stderr=subprocess.PIPE, env=C_LOCALE)
    try:
        equal(process.stderr.readline(), b"echo: standard output: No space left on device\n", "stderr")
        process.terminate()
        equal(process.wait(DEADLINE), 0, "exit status")
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_echo_two_hundred_connections():
    rng = random.Random(2)
    with Server() as server:
        socks = [server.connect() for _ in range(200)]
        for turn in range(5):
            data = [rng.randbytes(rng.randrange(1, 3000)) for _ in socks]
            rng.shuffle(socks)
            for s, d in zip(socks, data):
                s.sendall(d)
            for s, d in zip(socks, data):
                equal(receive(s, len(d)), d, "echo in turn %d" % turn)
        equal(server.connections(), 200, "connections")
        for s in socks:
            s.close()
        server.has_no_connections()


def test_echo_large_message():
    data = random.Random(3).randbytes(8 << 20)
    with Server() as server, server.connect() as s:
        got = bytearray()
        s.setblocking(False)
        sent = 0
        end = time.monotonic() + DEADLINE
        while len(got) < len(data):
            check(time.monotonic() < end, "%d of %d bytes came back" % (len(got), len(data)))
            try:
                sent += s.send(data[sent:sent + 100000]) if sent < len(data) else 0
            except BlockingIOError:
                pass
            try:
                got += s.recv(1 << 20)
            except BlockingIOError:
                pass
        check(got == data, "other bytes came back")


def test_echo_half_close():
    data = random.Random(4).randbytes(50000)
    with Server() as server, server.connect() as s:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        equal(receive(s, len(data)), data, "echo after the end of sending")
        equal(s.recv(1), b"", "then the server closes")
        server.has_no_connections()


def test_echo_clients_vanish():
    with Server() as server:
        with server.connect() as witness:
            for turn in range(30):
                at_once, after_send, unread, mid, mute = [server.connect() for _ in range(5)]
                reset(at_once)
                after_send.sendall(b"x" * 1000)
                reset(after_send)
                unread.sendall(b"y" * 100000)  # closing with unread data resets
                unread.close()
                round_trip(mid, b"z" * 1000)
                mid.sendall(b"z" * 50000)
                receive(mid, 1)
                reset(mid)
                mute.close()
                round_trip(witness, b"still there %d" % turn)
            until(lambda: server.connections() == 1, "only the witness is left")
        server.has_no_connections()


def stuck(server):
    """A client that sends and never reads, until the server waits for it in a send."""
    s = server.connect()
    s.setblocking(False)
    full_since = None

    def full():
        nonlocal full_since
        try:
            s.send(b"s" * 65536)
            full_since = None
        except BlockingIOError:
            full_since = full_since or time.monotonic()
        return full_since and time.monotonic() - full_since > 0.05

    until(full, "a client that does not read fills all buffers")
    return s


def ends_on(number):
    with Server(port=free_port()) as server:
        idle = [server.connect() for _ in range(40)]
        busy = [server.connect() for _ in range(10)]
        for s in busy:
            round_trip(s, b"busy")
        stopped = stuck(server)
        until(lambda: server.connections() == 51, "51 connections")
        seconds = server.end(number)
        check(seconds < 1, "it took %.2f s to end" % seconds)
        # The port is free: with a listener left, SO_REUSEADDR would not help.
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(server.address)
            again.listen()
        stopped.settimeout(DEADLINE)
        for s in idle + busy + [stopped]:
            check(ended(s), "a connection outlived the server")
            s.close()
        port = server.address[1]
    with Server(port=port) as server, server.connect() as s:  # what has just ended does not keep the next from starting
        equal(server.address[1], port, "port")
        round_trip(s, b"again")


def test_echo_ends_on_sigterm():
    ends_on(signal.SIGTERM)


def test_echo_ends_on_sigint():
    ends_on(signal.SIGINT)


def test_echo_ends_without_connections():
    with Server() as server:
        check(server.end() < 1, "it took more than a second")


def test_echo_out_of_descriptors():
    """At its limit it serves whom it has, does not spin, and takes the next as soon as one leaves."""
    not_with_ubsan(program("echo"))
    with Server(files=20) as server:
        waiting = {server.connect() for _ in range(30)}
        for s in waiting:
            s.sendall(b"?")
            s.setblocking(False)
        served = set()

        def answers():
            for s in list(waiting):
                try:
                    equal(s.recv(1), b"?", "echo")
                except BlockingIOError:
                    continue
                s.settimeout(DEADLINE)
                waiting.remove(s)
                served.add(s)
            fds = fds_of(server.process.pid)
            return served and len(fds) == server.files and server.connections(fds) == len(served)

        until(answers, "all descriptors are used, all connections that have one are served")
        check(0 < len(served) < 30, "%d connections served" % len(served))
        before, begin = cpu_seconds(server.process.pid), time.monotonic()
        for s in served:
            round_trip(s, b"served")
        # This half second is what is measured: processor time while nothing can be done.
        for s in waiting:
            s.settimeout(0.5 / len(waiting))
            try:
                s.recv(1)
                raise Failure("an answer without a descriptor")
            except socket.timeout:
                pass
        used = cpu_seconds(server.process.pid) - before
        check(used < 0.2, "%.2f s of processor time in %.2f s at the limit" % (used, time.monotonic() - begin))
        while waiting:
            for s in served:
                s.close()
            served = set()
            for s in waiting:
                s.setblocking(False)
            until(lambda: answers() or not waiting, "those who waited are served")
        for s in served:
            s.close()
        server.has_no_connections()


def test_echo_address_in_use():
    with Server() as server:
        done = run([program("echo"), "--port", str(server.address[1])])
        equal((done.stdout, done.returncode), (b"", 1), "stdout and exit status")
        check(b"127.0.0.1:%d" % server.address[1] in done.stderr and b"Address already in use" in done.stderr,
              "stderr %r" % done.stderr)


def test_echo_usage():
    for args in (["--port", "65536"], ["--port", "x"], ["--port", ""], ["--port"], ["--host", "nowhere"], ["--what"], ["more"],
                 ["--port", "-1"], ["-p", "1"], ["--port", "4294967297"], ["--port", "-18446744073709551615"]):
        done = run([program("echo")] + args)
        equal((done.stdout, done.returncode), (b"", 2), "echo %s: stdout and exit status" % args)
        check(done.stderr.startswith(b"usage: echo") and done.stderr.count(b"\n") == 1, "stderr %r" % done.stderr)
    done = run([program("echo"), "--help"])
    check(done.returncode == 0 and done.stdout.startswith(b"usage: echo") and not done.stderr, "--help: %r" % done.stdout)


# ---- all of them --------------------------------------------------------------------------------------------------------


def main():
    global SCRATCH
    for name in EXAMPLES:
        if not os.access(program(name), os.X_OK):
            sys.exit("no program %s" % program(name))
    with tempfile.TemporaryDirectory() as SCRATCH:
        SCRATCH = os.path.realpath(SCRATCH)
        os.chdir(SCRATCH)
        scratch_files()
        return run_cases(cases_of(globals()))


if __name__ == "__main__":
    sys.exit(main())
