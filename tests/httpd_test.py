#!/usr/bin/env python3
"""Serves files with httpd, to sockets of our own, curl, wrk and a browser; compares it with nginx.

usage: httpd_test.py BUILD_EXAMPLES_DIR [CASE...]
"""

import contextlib
import email.utils
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from programs import (DEADLINE, Skip, accepts, cases_of, check, end_well, equal, free_port, more_descriptors, need, nginx, run,
                      run_cases, started, until, without_standard_descriptors)

HTTPD = os.path.abspath(sys.argv[1] + "/httpd") if len(sys.argv) > 1 else sys.exit(__doc__)
BIG = bytes(range(256)) * 40000  # 10 MB: more than the sockets' buffers hold


def files():
    """A directory to serve, and beside it what must not be served."""
    os.makedirs("www/sub/deep")
    os.makedirs("www/odd/index.html")  # a directory
    contents = {"index.html": b"<p>hello</p>\n", "a.txt": b"0123456789", "empty.txt": b"", "big.bin": BIG, "x.png": b"\x89PNG",
                "a b%.txt": b"odd name\n", "medium.bin": BIG[:200000],
                "sub/index.html": b"sub\n", "sub/deep/c.txt": b"deep\n", "\u00e9.txt": b"accent\n"}
    for name, data in contents.items():
        with open("www/" + name, "wb") as f:
            f.write(data)
    with open("secret.txt", "wb") as f:
        f.write(b"SECRET")
    os.symlink("../secret.txt", "www/link.txt")
    os.symlink("a.txt", "www/inside.txt")
    os.symlink("/etc", "www/etc")
    os.mkfifo("www/fifo")
    return os.path.abspath("www")


@contextlib.contextmanager
def httpd(*options, root=None, ends_well=True, port=0):
    """-> process, port"""
    root = root or files()
    command = [HTTPD, "--port", str(port), *options, root]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        line = process.stdout.readline().decode()
        found = re.fullmatch(r"listening on 127\.0\.0\.1:(\d+)\n", line)
        check(found, "the first line is %r; stderr %r" % (line, process.stderr.read() if not line else ""))
        yield process, int(found[1])
        if ends_well and process.poll() is None:
            end_well(process)


def held_by(process):
    """How many connections and served files are open in it."""
    count = 0
    for fd in os.listdir("/proc/%d/fd" % process.pid):
        with contextlib.suppress(OSError):
            link = os.readlink("/proc/%d/fd/%s" % (process.pid, fd))
            count += link.startswith("socket:") or "/www/" in link
    return count


def connect(port, text=b"", receive_buffer=None):
    s = socket.socket()
    s.settimeout(DEADLINE)
    if receive_buffer:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    s.connect(("127.0.0.1", port))
    s.sendall(text)
    return s


def read_all(s):
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while parts[-1:] != [b""]:
            parts.append(s.recv(1 << 20))
    s.close()
    return b"".join(parts)


def parse(text):
    """-> status, fields, what follows the head"""
    head, gap, rest = text.partition(b"\r\n\r\n")
    check(gap, "no head: %.100r" % text)
    lines = head.decode("latin1").split("\r\n")
    check(lines[0].startswith("HTTP/1.1 "), "status line %r" % lines[0])
    return int(lines[0][9:12]), {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:])}, rest


def ask(port, target, *fields, method="GET"):
    """One request on a connection of its own."""
    lines = ["%s %s HTTP/1.1" % (method, target), "Host: a", "Connection: close", *fields]
    return parse(read_all(connect(port, "\r\n".join(lines).encode("latin1") + b"\r\n\r\n")))


# ---- what is served -----------------------------------------------------------------------------------------------------


def test_calls():
    for args in (["--help"], ["--port", "1", "--help"]):
        done = run([HTTPD, *args])
        equal((done.returncode, done.stderr, done.stdout[:13]), (0, b"", b"usage: httpd "), "help")
    for args in ([], ["a", "b"], ["--port"], ["--port", "x", "."], ["--port", "70000", "."], ["--port", "-1", "."],
                 ["--port", "-18446744073709551615", "."], ["--port", "4294967297", "."], ["--threads", "-1", "."], ["--threads", "0", "."], ["--timeout", "0", "."], ["--timeout", "1s", "."], ["--nothing", "."]):
        done = run([HTTPD, *args])
        equal((done.returncode, done.stdout), (2, b""), "wrong call %s" % args)
        check(re.fullmatch(rb"usage: httpd .*\n", done.stderr), "one line: %r" % done.stderr)
    for args, names in ((["missing"], b"missing"), (["--host", "nowhere", "."], b"nowhere"), (["--host", "192.0.2.1", "."], b"192.0.2.1"),
                        (["--port", "0", os.path.abspath(__file__)], b"httpd_test.py")):
        done = run([HTTPD, *args])
        equal((done.returncode, done.stdout), (1, b""), "%s" % args)
        check(done.stderr.startswith(b"httpd: ") and names in done.stderr, "names it: %r" % done.stderr)
    with httpd() as (_, port):
        done = run([HTTPD, "--port", str(port), "."])
        equal(done.returncode, 1, "port in use")
        check(str(port).encode() in done.stderr, "names it: %r" % done.stderr)


def test_files():
    with httpd() as (_, port):
        for target, body, kind in (("/", b"<p>hello</p>\n", "text/html; charset=utf-8"), ("/a.txt", b"0123456789", "text/plain; charset=utf-8"),
                                   ("/empty.txt", b"", "text/plain; charset=utf-8"), ("/x.png", b"\x89PNG", "image/png"),
                                   ("/a%20b%25.txt", b"odd name\n", "text/plain; charset=utf-8"), ("/sub/", b"sub\n", "text/html; charset=utf-8"),
                                   ("/%C3%a9.txt", b"accent\n", "text/plain; charset=utf-8"), ("/big.bin", BIG, "application/octet-stream"),
                                   ("/inside.txt", b"0123456789", "text/plain; charset=utf-8"), ("//a.txt", b"0123456789", "text/plain; charset=utf-8"),
                                   ("/sub/../a.txt?q=/../..", b"0123456789", "text/plain; charset=utf-8"),
                                   ("http://any.host/a.txt", b"0123456789", "text/plain; charset=utf-8")):
            status, fields, got = ask(port, target)
            equal((status, got, fields["content-type"]), (200, body, kind), target)
            equal(fields["content-length"], str(len(body)), target)
            head = ask(port, target, method="HEAD")
            fields.pop("date"), head[1].pop("date")
            equal(head, (200, fields, b""), "HEAD " + target)
        for target, to in (("/sub", "/sub/"), ("//sub", "/sub/"), ("/sub/deep?x=/../y?", "/sub/deep/?x=/../y?"), ("///sub/deep", "/sub/deep/"),
                           ("http://any.host/sub?", "/sub/?"), ("/odd/index.html", "/odd/index.html/")):
            equal([ask(port, target)[i] for i in (0, 2)], [301, b""], target)
            equal(ask(port, target)[1]["location"], to, target)
        for target in ("/missing", "/sub/deep/", "/odd/", "/odd/index.html/", "/a.txt/", "/fifo", "/" + "x" * 300, "/a.txt/b"):
            equal(ask(port, target)[0], 404, target)
            equal(ask(port, target, method="HEAD")[2], b"", "HEAD " + target)
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "get", "X"):
            status, fields, _ = ask(port, "/a.txt", method=method)
            equal((status, fields["allow"]), (405, "GET, HEAD"), method)


def test_standard_descriptors_that_are_closed():
    root, port = files(), free_port()
    with started([HTTPD, "--port", str(port), root], preexec_fn=without_standard_descriptors) as process:
        until(lambda: accepts(port), "it listens")
        with connect(port):
            for fd in range(3):
                equal(os.readlink("/proc/%d/fd/%d" % (process.pid, fd)), "/", "what nobody reads or writes")
            equal(ask(port, "/a.txt")[2], b"0123456789", "body")
        process.terminate()
        equal(process.wait(timeout=DEADLINE), 0, "exit status")


def test_the_address_it_prints():
    if not socket.has_ipv6:
        raise Skip("no IPv6")
    with started([HTTPD, "--host", "::1", "--port", "0", "."], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        line = process.stdout.readline().decode()
        if not line:
            raise Skip("no IPv6: %r" % process.stderr.read())
        check(re.fullmatch(r"listening on \[::1\]:\d+\n", line), "the first line is %r" % line)
        end_well(process)
    with open("/dev/full", "wb") as full, started([HTTPD, "--port", "0", "."], stdout=full, stderr=subprocess.PIPE) as process:
        equal(process.stderr.readline(), b"httpd: standard output: No space left on device\n", "a line that is lost")
        end_well(process)


def test_ranges():
    with httpd() as (_, port):
        for given, part in (("0-0", "0-0"), ("0-", "0-9"), ("2-4", "2-4"), ("9-", "9-9"), ("5-100", "5-9"), ("-3", "7-9"), ("-100", "0-9")):
            first, last = map(int, part.split("-"))
            status, fields, body = ask(port, "/a.txt", "Range: bytes=" + given)
            equal((status, body, fields["content-range"]), (206, b"0123456789"[first:last + 1], "bytes %s/10" % part), given)
            status, fields, body = ask(port, "/a.txt", "Range: bytes=" + given, method="HEAD")
            equal((status, body, fields["content-length"]), (200, b"", "10"), "only GET knows ranges: " + given)
        for given in ("bytes=10-", "bytes=-0", "bytes=100-200"):
            status, fields, _ = ask(port, "/a.txt", "Range: " + given)
            equal((status, fields["content-range"]), (416, "bytes */10"), given)
        for given in ("bytes=4-2", "bytes=-", "bytes=x-", "bytes=1-x", "bytes=0-1,3-4", "lines=0-1", "bytes", "bytes=", "bytes=1",
                      "bytes=--1", "bytes=1--1", "bytes=99999999999999999999-", "bytes= 1-2"):
            equal([ask(port, "/a.txt", "Range: " + given)[i] for i in (0, 2)], [200, b"0123456789"], given)
        equal(ask(port, "/empty.txt", "Range: bytes=0-")[0], 416, "of an empty file")
        equal(ask(port, "/big.bin", "Range: bytes=131071-9000000")[2], BIG[131071:9000001], "a large part")
        _, fields, _ = ask(port, "/a.txt")
        for given, status in ((fields["etag"], 206), (fields["last-modified"], 206), ('"other"', 200), ("Sun, 06 Nov 1994 08:49:37 GMT", 200)):
            equal(ask(port, "/a.txt", "Range: bytes=2-4", "If-Range: " + given)[0], status, given)


def test_conditions():
    with httpd() as (_, port):
        now = time.time()
        os.utime("www/a.txt", (now - 1000, now - 1000))
        _, fields, _ = ask(port, "/a.txt")
        at = lambda seconds: email.utils.formatdate(now + seconds, usegmt=True)
        equal(fields["last-modified"], at(-1000), "Last-Modified")
        tag = fields["etag"]
        for given, status in (("If-None-Match: " + tag, 304), ("If-None-Match: W/" + tag, 304), ("If-None-Match: *", 304), ('If-None-Match: "a,*,b"', 200),
                              ('If-None-Match: "a", ' + tag, 304), ('If-None-Match: "a"', 200), ("If-None-Match: " + tag[:-1], 200),
                              ("If-Modified-Since: " + at(-1000), 304), ("If-Modified-Since: " + at(0), 304),
                              ("If-Modified-Since: " + at(-1001), 200), ("If-Modified-Since: yesterday", 200)):
            got = ask(port, "/a.txt", given)
            equal((got[0], got[2]), (status, b"" if status == 304 else b"0123456789"), given)
            equal(got[1]["etag"], tag, given)
        for given, status in (("If-Match: " + tag, 200), ("If-Match: *", 200), ('If-Match: "a", ' + tag, 200), ('If-Match: "a"', 412),
                              ("If-Match: W/" + tag, 412), ("If-Unmodified-Since: " + at(-1000), 200), ("If-Unmodified-Since: " + at(-1001), 412),
                              ("If-Unmodified-Since: yesterday", 200)):
            for more in ((), ("If-None-Match: " + tag,)) if status == 412 else ((),):
                got = ask(port, "/a.txt", given, *more)
                equal((got[0], got[2]), (status, b"412\n" if status == 412 else b"0123456789"), given)
        both = ask(port, "/a.txt", "If-Match: " + tag, "If-Unmodified-Since: " + at(-1001))
        equal(both[0], 200, "a tag comes before a date")
        both = ask(port, "/a.txt", 'If-None-Match: "a"', "If-Modified-Since: " + at(0))
        equal(both[0], 200, "a tag comes before a date")
        with open("www/a.txt", "ab") as f:
            f.write(b"more")
        equal(ask(port, "/a.txt", "If-None-Match: " + tag)[0], 200, "the file has changed")


def test_like_nginx():
    """The same status, length, range, type and body, for what both do."""
    root = files()
    with nginx(root, "disable_symlinks off; if_modified_since before; charset utf-8; charset_types text/plain;") as judge, httpd(root=root) as (_, port):
        requests = [(t, f, m) for t in ("/", "/a.txt", "/sub", "/sub/", "/missing", "/empty.txt", "/a%20b%25.txt", "/a.txt?x", "/big.bin")
                    for f in ((), ("Range: bytes=2-4",), ("Range: bytes=-2",), ("Range: bytes=9-",), ("Range: bytes=20000000-",),
                              *((name + email.utils.formatdate(os.stat("www/a.txt").st_mtime + late, usegmt=True),)
                                for name in ("If-Modified-Since: ", "If-Unmodified-Since: ") for late in (-100, 0)),
                              ("If-Match: *",), ('If-Match: "a"',))
                    for m in (("GET",) if "Range" in str(f) else ("GET", "HEAD"))]  # nginx takes a range of a HEAD
        for target, fields, method in requests:
            ours, theirs = ask(port, target, *fields, method=method), ask(judge, target, *fields, method=method)
            what = "%s %s %s" % (method, target, fields)
            equal(ours[0], theirs[0], what)
            if ours[0] in (200, 206):
                equal(ours[2], theirs[2], what)
                for name in ("content-length", "content-range", "last-modified", "content-type"):
                    if target != "/big.bin" or name != "content-type":
                        equal(ours[1].get(name), theirs[1].get(name), what + " " + name)


# ---- bad input ----------------------------------------------------------------------------------------------------------


def test_no_way_out():
    dots = ["..", "%2e%2e", "%2E.", ".%2e", "..%2f", "%2e%2e%2f", "..%5c", "..\\", "%252e%252e", "%c0%ae%c0%ae", "..;", "...", "%uff0e%uff0e"]
    targets = ["/" + "/".join([d] * n) + end for d in dots for n in (1, 2, 3, 8) for end in ("/secret.txt", "/etc/passwd", "", "/")]
    targets += ["/sub/../../secret.txt", "/sub/%2e%2e/%2e%2e/secret.txt", "/link.txt", "/etc/passwd", "//etc/passwd", "/%2fetc/passwd",
                "/./../secret.txt", "/a.txt/../../secret.txt", "/proc/self/root/etc/passwd", "/\\../secret.txt", "/sub//..//..//secret.txt",
                "/%00/../secret.txt", "/a.txt%00.html", "/..%00/secret.txt", "/%", "/%2", "/%g0", "/%-1", "/%+1", "/% 1", "*", "a.txt", "../secret.txt",
                "http:///../secret.txt", "http://a/../secret.txt", "file:///etc/passwd", "http://a"]
    with httpd() as (_, port):
        for target in targets:
            status, _, body = ask(port, target)
            check(status in (301, 400, 404) or body == b"<p>hello</p>\n", "%s: %d %.100r" % (target, status, body))
            check(b"SECRET" not in body and b"root:" not in body, "%s got out" % target)
            check(status != 301 or ask(port, target)[1]["location"].count("//") == 0, target)


def test_malformed():
    cases = [(b"GET /a.txt HTTP/1.1\r\n\r\n", 400), (b"GET /a.txt HTTP/1.1\nHost: a\n\n", 400), (b"GET /a.txt\r\n", 400),
             (b"\x16\x03\x01\x00\xff", 400), (b"GET /a.txt HTTP/1.1\r\nHost : a\r\n\r\n", 400), (b"GET /a.txt HTTP/2.0\r\nHost: a\r\n\r\n", 505),
             (b"GET /a.txt HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400), (b"GET /a.txt HTTP/1.1\r\nHost: a\0\r\n\r\n", 400),
             (b"GET /a.txt HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400),
             (b"GET /a.txt HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
             (b"GET /a.txt HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501), (b"GET /" + b"x" * 20000, 414),
             (b"GET /a.txt HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20000, 431), (b"GET /a.txt HTTP/1.1\r\n" + b"X: x\r\n" * 200, 431),
             (b"GET /a.txt HTTP/1.1\r\nHost: a\r\n" + b"X: %s\r\n" % (b"x" * 8000) * 8, 431), (b"\r\n" * 40000, 431),
             (b"GET /a.txt HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 3000000, 431)]
    with httpd() as (process, port):
        for text, wanted in cases:
            s = connect(port)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                s.sendall(text)
            status, fields, body = parse(read_all(s))
            equal((status, fields["connection"], body), (wanted, "close", b"%d\n" % wanted), "%.80r" % text)
        # A body belongs to no GET of ours: it is answered, and nothing behind it is taken for a request.
        smuggled = b"GET /a.txt HTTP/1.1\r\nHost: a\r\nContent-Length: 38\r\n\r\nGET /x.png HTTP/1.1\r\nHost: a\r\n\r\n"
        status, fields, body = parse(read_all(connect(port, smuggled)))
        equal((status, fields["connection"], body), (200, "close", b"0123456789"), "a GET with a body")
        equal(ask(port, "/a.txt")[0], 200, "it still serves")


def test_split_everywhere():
    request = b"GET /a.txt HTTP/1.1\r\nHost: a\r\nRange: bytes=1-8\r\nConnection: close\r\n\r\n"
    with httpd() as (_, port):
        wanted = ask(port, "/a.txt", "Range: bytes=1-8")
        for at in range(1, len(request)):
            s = connect(port, request[:at])
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            s.sendall(request[at:])
            status, _, body = parse(read_all(s))
            equal((status, body), (206, wanted[2]), "split at %d" % at)
        s = connect(port)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(len(request)):
            s.sendall(request[i:i + 1])
        equal(parse(read_all(s))[2], wanted[2], "byte by byte")


def test_one_connection():
    request = b"GET /a.txt HTTP/1.1\r\nHost: a\r\n\r\n"
    with httpd() as (_, port):
        s = connect(port, request * 200 + b"HEAD /big.bin HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + request)
        answers = read_all(s).split(b"HTTP/1.1 ")[1:]
        equal(len(answers), 201, "answers; none after a request that closes")
        check(all(a.endswith(b"\r\n\r\n0123456789") for a in answers[:200]), "pipelined answers")
        s = connect(port, request.replace(b"1.1", b"1.0"))
        equal(parse(read_all(s))[1]["connection"], "close", "HTTP/1.0")
        s = connect(port, request.replace(b"1.1", b"1.0").replace(b": a", b": a\r\nConnection: keep-alive"))
        equal(parse(s.recv(4096))[1]["connection"], "keep-alive", "HTTP/1.0 with keep-alive")
        s.close()


def test_slow_clients():
    with httpd("--timeout", "1") as (process, port):
        begin = time.monotonic()
        fds = held_by(process)
        idle, half, stalled = connect(port), connect(port, b"GET /a.txt HTTP/1.1\r\n"), connect(port, b"GET /big.bin HTTP/1.1\r\nHost: a\r\n\r\n", 4096)
        trickling = connect(port, b"GET /a.txt HTTP/1.1\r\nX: ")
        gone = False
        while not gone:  # a byte now and then does not help
            check(time.monotonic() < begin + 10, "a client that trickles is still there")
            try:
                trickling.sendall(b"x")
                time.sleep(0.1)
            except (BrokenPipeError, ConnectionResetError):
                gone = True
        check(time.monotonic() - begin > 0.9, "too early")
        equal(read_all(idle), b"", "an idle connection")
        equal(parse(read_all(half))[0], 408, "half a request")
        until(lambda: held_by(process) <= fds, "who takes nothing is given up")
        check(len(read_all(stalled)) < len(BIG), "it cannot have got all")
        s = connect(port, b"GET /big.bin HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 65536)
        got = 0
        while got < 6000000:  # longer than the timeout, but never idle
            n = len(s.recv(50000))
            check(n, "a slow reader was cut off at %d" % got)
            got += n
            time.sleep(0.01)
        got += len(read_all(s))
        check(got > len(BIG), "a slow reader gets all")


def test_ten_thousand_connections():
    more_descriptors(12000)
    with httpd("--timeout", "60") as (process, port):
        fds = held_by(process)
        crowd = [connect(port, (b"", b"G", b"GET /a.txt HTTP/1.1\r\n")[i % 3]) for i in range(10000)]
        until(lambda: held_by(process) >= fds + 10000, "all are accepted")
        equal(ask(port, "/a.txt")[2], b"0123456789", "served beside them")
        for i, s in enumerate(crowd):
            if i % 2:  # a reset
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            s.close()
        until(lambda: held_by(process) <= fds, "all are gone")
        equal(ask(port, "/a.txt")[2], b"0123456789", "served after them")


def test_clients_that_vanish():
    with httpd() as (process, port):
        fds = held_by(process)
        for i in range(300):
            s = connect(port, b"GET /big.bin HTTP/1.1\r\nHost: a\r\n\r\n")
            s.recv(1 + i * 100)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", i % 2, 0))
            s.close()
        until(lambda: held_by(process) <= fds, "their files and connections are closed")


# ---- the end ------------------------------------------------------------------------------------------------------------


def test_ends_well():
    for number in (signal.SIGTERM, signal.SIGINT):
        for threads in ("1", "3"):
            root = os.path.abspath("www") if os.path.exists("www") else None
            with httpd("--threads", threads, root=root) as (process, port):
                idle = [connect(port, text) for text in (b"", b"GET /a.txt HT")]
                begun = connect(port, b"GET /big.bin HTTP/1.1\r\nHost: a\r\n\r\n", 65536)
                got = begun.recv(100)
                process.send_signal(number)
                equal([read_all(s) for s in idle], [b"", b""], "idle connections")
                check(process.poll() is None, "it waits for what was begun")
                check((got + read_all(begun)).endswith(b"\r\n\r\n" + BIG), "what was begun is finished")
                equal(process.wait(timeout=DEADLINE), 0, "exit status")
                equal(process.stderr.read(), b"", "stderr")


def listens_again(port):
    with socket.socket() as s, contextlib.suppress(OSError):
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", port))
        s.listen()
        return True
    return False


def test_the_port_is_free_at_once():
    for threads in ("1", "3"):
        root = os.path.abspath("www") if os.path.exists("www") else None
        with httpd("--threads", threads, root=root, port=free_port()) as (process, port):
            begun = connect(port, b"GET /big.bin HTTP/1.1\r\nHost: a\r\n\r\n", 65536)
            begun.recv(100)
            check(not listens_again(port), "the server listens")
            process.send_signal(signal.SIGTERM)
            until(lambda at=port: listens_again(at), "the port is free")
            check(process.poll() is None, "while what was begun is finished")
            begun.close()
            equal(process.wait(timeout=DEADLINE), 0, "exit status")


def test_end_does_not_wait_for_who_takes_nothing():
    with httpd() as (process, port):
        s = connect(port, b"GET /big.bin HTTP/1.1\r\nHost: a\r\n\r\n", 4096)
        s.recv(100)
        begin = time.monotonic()
        end_well(process)
        check(time.monotonic() - begin < 10, "it took long")
        s.close()


def test_threads():
    with httpd("--threads", "4") as (process, port):
        until(lambda: len(os.listdir("/proc/%d/task" % process.pid)) >= 4, "four threads")
        busy = lambda: sum(1 for t in os.listdir("/proc/%d/task" % process.pid)
                           if int(open("/proc/%d/task/%s/stat" % (process.pid, t)).read().rsplit(")", 1)[1].split()[12]) > 0)
        for _ in range(200):
            equal(ask(port, "/a.txt")[2], b"0123456789", "body")
        until(lambda: [ask(port, "/big.bin")[0] for _ in range(8)] and busy() >= 3, "the connections are spread")


# ---- other clients ------------------------------------------------------------------------------------------------------


def test_curl():
    need("curl")
    with httpd() as (_, port):
        url = "http://127.0.0.1:%d" % port
        done = run(["curl", "-sS", "-w", "%{num_connects} %{http_code}\n", "-o", "1", url + "/a.txt", "-o", "2", url + "/big.bin", "-o", "3", url + "/missing"])
        equal((done.returncode, done.stdout, done.stderr), (0, b"1 200\n0 200\n0 404\n", b""), "three on one connection")
        with open("2", "rb") as f:
            equal(f.read() == BIG, True, "the bytes")
        with open("4", "wb") as f:
            f.write(BIG[:4000000])
        done = run(["curl", "-sS", "-C", "-", "-o", "4", url + "/big.bin"])
        with open("4", "rb") as f:
            equal((done.returncode, f.read() == BIG), (0, True), "a download resumed")
        done = run(["curl", "-sS", "-z", "1", "-w", "%{http_code}", url + "/a.txt"])
        equal(done.stdout, b"304", "if newer than file 1")
        done = run(["curl", "-sS", "-L", "-w", "%{num_redirects}", url + "/sub"])
        equal(done.stdout, b"sub\n1", "redirect")


def test_wrk():
    need("wrk")
    for options, target in (((), "/a.txt"), (("--threads", "2"), "/a.txt"), ((), "/medium.bin")):
        with httpd(*options, root=None if not os.path.exists("www") else os.path.abspath("www")) as (_, port):
            done = run(["wrk", "-t1", "-c50", "-d1s", "http://127.0.0.1:%d%s" % (port, target)])
            equal(done.returncode, 0, "wrk")
            check(b"Socket errors" not in done.stdout and b"Non-2xx" not in done.stdout, done.stdout.decode())
            check(float(re.search(rb"Requests/sec: *([\d.]+)", done.stdout)[1]) > 5, done.stdout.decode())


def png(width):
    """A grey picture, one pixel high."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", width, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(width + 1))) + chunk(b"IEND", b"")


def test_browser():
    """A page with forty pictures, a style sheet and a module, both of which a browser takes only with the right type."""
    need("chromium")
    root = files()
    pictures = range(1, 41)
    for width in pictures:
        with open("%s/%d.png" % (root, width), "wb") as f:
            f.write(png(width))
    page = {"page.css": "body { width: 321px }", "page.js": """addEventListener("load", () => {
        const widths = [...document.images].map(i => i.naturalWidth);
        document.body.title = widths.reduce((a, b) => a + b, 0) + " " + getComputedStyle(document.body).width; });""",
            "page.html": "<!doctype html><title>t</title><link rel=stylesheet href=page.css><script type=module src=page.js></script>"
                         "<body>" + "".join("<img src=%d.png>" % w for w in pictures)}
    for name, text in page.items():
        with open("%s/%s" % (root, name), "w", encoding="utf-8") as f:
            f.write(text)
    with httpd(root=root) as (_, port):
        done = run(["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir=" + os.path.abspath("profile"),
                    "--virtual-time-budget=5000", "--dump-dom", "http://127.0.0.1:%d/page.html" % port])
        check(b'title="%d 321px"' % sum(pictures) in done.stdout, "%r %r" % (done.stdout[-600:], done.stderr[-600:]))


if __name__ == "__main__":
    sys.exit(run_cases(cases_of(globals())))
