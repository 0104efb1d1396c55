#!/usr/bin/env python3
"""Gets URLs with fetch, from nginx with and without TLS and from a server of our own; curl is the judge.

usage: fetch_test.py BUILD_EXAMPLES_DIR [CASE...]
"""

import contextlib
import os
import random
import re
import resource
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from programs import DEADLINE, cases_of, check, equal, free_port, need, nginx, not_with_ubsan, run, run_cases, started, until

FETCH = os.path.abspath(sys.argv[1] + "/fetch") if len(sys.argv) > 1 else sys.exit(__doc__)


def site():
    """A directory to serve. -> names and contents"""
    rng = random.Random(1)
    contents = {"empty.txt": b"", "one.txt": b"1", "index.html": b"<p>\n", "big.bin": rng.randbytes(5000000), "sub/a.txt": b"sub", "a b.txt": b"space"}
    for n in (16383, 16384, 16385, 65535, 65536, 65537):
        contents["%d.bin" % n] = rng.randbytes(n)
    os.makedirs("www/sub")
    for name, data in contents.items():
        with open("www/" + name, "wb") as f:
            f.write(data)
    return contents


def content(path):
    with open(path, "rb") as f:
        return f.read()


def fetched(*args, status=0, **options):
    """-> the table as lists of words, stderr"""
    done = run([FETCH, *args], **options)
    equal(done.returncode, status, "exit status; stderr %.300r" % done.stderr)
    if status == 0:
        equal(done.stderr, b"", "stderr")
    return [line.split() for line in done.stdout.decode().splitlines()], done.stderr.decode()


class Server:
    """Answers the n-th request for a path with the n-th of its answers (the last one again and again); an answer is bytes to
    send, or a list of bytes and of seconds to wait."""

    def __init__(self, answers):
        self.answers, self.asked, self.times = answers, [], []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.over = threading.Event()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.serve, args=(self.listener.accept()[0],), daemon=True).start()

    def serve(self, s):
        with s, contextlib.suppress(OSError):
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                part = s.recv(4096)
                if not part:
                    return
                head += part
            path = head.split()[1].decode()
            self.asked.append((path, head))
            self.times.append(time.monotonic())
            given = self.answers[path]
            count = sum(1 for p, _ in self.asked if p == path)
            answer = given[min(count, len(given)) - 1]
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for part in answer if isinstance(answer, list) else [answer]:
                if isinstance(part, bytes):
                    s.sendall(part)
                else:
                    self.over.wait(part)
            s.shutdown(socket.SHUT_WR)
            while s.recv(4096):
                pass

    def url(self, path):
        return "http://127.0.0.1:%d%s" % (self.port, path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over.set()
        self.listener.close()


def ok(body, *fields):
    return b"HTTP/1.1 200 OK\r\n" + b"".join(f + b"\r\n" for f in (*fields, b"Content-Length: %d" % len(body))) + b"\r\n" + body


def chunked(*chunks, end=b"0\r\n\r\n"):
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunks) + end


# ---- calls --------------------------------------------------------------------------------------------------------------


def test_calls():
    done = run([FETCH, "--help"])
    equal((done.returncode, done.stderr, done.stdout[:13]), (0, b"", b"usage: fetch "), "help")
    for args in ([], ["-j", "0", "http://a"], ["-j", "x", "http://a"], ["--timeout", "0", "http://a"], ["--retries", "-1", "http://a"], ["--x", "http://a"],
                 ["-o"], ["-o", "", "http://a"]):
        done = run([FETCH, *args])
        equal((done.returncode, done.stdout), (2, b""), "wrong call %s" % args)
        check(re.fullmatch(rb"usage: fetch .*\n", done.stderr), "one line: %r" % done.stderr)
    for args, named in ((["ftp://a/"], b"ftp://a/"), (["http://a:99999/"], b"http://a:99999/"), (["http://a b/"], b"http://a b/"), (["--cacert", "missing", "http://a"], b"missing")):
        done = run([FETCH, *args])
        equal((done.returncode, done.stdout), (2, b""), "%s" % args)
        check(done.stderr.startswith(b"fetch: ") and named in done.stderr, "names it: %r" % done.stderr)


def test_errors_name_the_url():
    port = free_port()
    for url, reason in (("http://127.0.0.1:%d/x" % port, "refused"), ("http://two..dots/", "two..dots: ")):
        table, stderr = fetched("--retries", "0", url, status=1)
        equal((table[0][0], table[0][3:]), ("0", ["-", url]), "table")
        check(stderr.startswith("fetch: %s: " % url) and reason in stderr and stderr.count("\n") == 1, stderr)
    with Server({"/x": [ok(b"x")]}) as server:
        _, stderr = fetched("--retries", "0", "-o", "missing", server.url("/x"), status=1)
        check("missing/x.part" in stderr and "No such file" in stderr, stderr)
    equal(os.listdir("."), [], "files")


# ---- nginx --------------------------------------------------------------------------------------------------------------


def test_like_curl():
    need("curl", "nginx")
    contents = site()
    with nginx(os.path.abspath("www")) as port:
        urls = ["http://127.0.0.1:%d/%s" % (port, name.replace(" ", "%20")) for name in contents]
        for jobs in ("1", "4", "100"):
            os.mkdir("out" + jobs)
            table, _ = fetched("-j", jobs, "-o", "out" + jobs, *urls)
            equal([row[0] for row in table], ["200"] * len(urls), "statuses")
            equal([(int(row[1]), row[4]) for row in table], [(len(c), u) for c, u in zip(contents.values(), urls)], "sizes and URLs")
            equal(len(os.listdir("out" + jobs)), len(urls), "files")
            for row, url in zip(table, urls):
                judged = run(["curl", "-sS", "-f", url])
                equal((judged.returncode, judged.stdout == content(row[3])), (0, True), "the same as from curl: " + url)


def test_hundreds():
    need("nginx")
    os.mkdir("www")
    for i in range(500):
        with open("www/%d" % i, "wb") as f:
            f.write(b"%d" % i * (i * 10))
    with nginx(os.path.abspath("www")) as port:
        os.mkdir("out")
        fetched("-j", "200", "-o", "out", *("http://localhost:%d/%d" % (port, i) for i in range(500)))
        for i in range(500):
            equal(content("out/%d" % i) == b"%d" % i * (i * 10), True, "file %d" % i)


def certificates():
    """An authority of our own, and a certificate for localhost."""
    openssl = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    with open("names", "w") as f:
        f.write("subjectAltName=DNS:localhost\n")
    for command in (openssl + ["-x509", "-days", "2", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem"],
                    openssl + ["-subj", "/CN=localhost", "-keyout", "key", "-out", "request"],
                    ["openssl", "x509", "-req", "-in", "request", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names",
                     "-out", "cert"]):
        equal(run(command).returncode, 0, " ".join(command[:2]))


def test_tls_like_curl():
    need("curl", "nginx", "openssl")
    contents = site()
    certificates()
    tls = free_port()
    here = os.getcwd()
    server = "listen 127.0.0.1:%d ssl; ssl_certificate %s/cert; ssl_certificate_key %s/key; location /to_http { return 301 http://localhost:$arg_p/one.txt; }" % (
        tls, here, here)
    with nginx(here + "/www", server) as port:
        urls = ["https://localhost:%d/%s" % (tls, name.replace(" ", "%20")) for name in contents]
        os.mkdir("out")
        table, _ = fetched("--cacert", "ca.pem", "-o", "out", *urls)
        for row, url in zip(table, urls):
            judged = run(["curl", "-sS", "-f", "--cacert", "ca.pem", url])
            equal((judged.returncode, judged.stdout == content(row[3])), (0, True), "the same as from curl: " + url)
        one = "https://localhost:%d/one.txt" % tls
        for args, reason in ((["--retries", "0", one], "unable to get local issuer certificate"),
                             (["--retries", "0", "--cacert", "ca.pem", one.replace("localhost", "127.0.0.1")], "IP address mismatch"),
                             (["--retries", "0", "--cacert", "ca.pem", one.replace(str(tls), str(port))], "wrong version number")):
            table, stderr = fetched(*args, status=1)
            check(reason in stderr, stderr)
            equal(table[0][3], "-", "nothing is saved")
        table, _ = fetched("--cacert", "ca.pem", "https://localhost:%d/to_http?p=%d" % (tls, port))
        equal(content("to_http"), b"1", "a redirect from https to http")


class TlsServer:
    """Takes connections, speaks TLS with the certificate of certificates(), or, without one, hangs up; counts them."""

    def __init__(self, certificate=None):
        self.count, self.listener = 0, socket.create_server(("127.0.0.1", 0))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if certificate else None
        if certificate:
            self.context.load_cert_chain("cert", "key")
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                s = self.listener.accept()[0]
                self.count += 1
                with s, contextlib.suppress(OSError):
                    s.recv(1, socket.MSG_PEEK)
                    if self.context:
                        self.context.wrap_socket(s, server_side=True).close()

    def attempts(self, host, *args):
        with self.listener:
            _, stderr = fetched(*args, "https://%s:%d/" % (host, self.listener.getsockname()[1]), status=1)
            return self.count, stderr


def test_certificates_are_not_retried():
    need("openssl")
    certificates()
    for args, host, reason in (([], "localhost", "unable to get local issuer certificate"), (["--cacert", "ca.pem"], "127.0.0.1", "IP address mismatch")):
        count, stderr = TlsServer("cert").attempts(host, *args)
        check(reason in stderr, stderr)
        equal(count, 1, "attempts")
    count, stderr = TlsServer().attempts("localhost", "--retries", "1")
    check("cut off" in stderr or "reset" in stderr, stderr)
    equal(count, 2, "attempts, where the connection breaks")


def test_few_descriptors():
    not_with_ubsan(FETCH)
    with Server({"/%d" % i: [ok(b"%d" % i * i)] for i in range(30)}) as server:
        for n in (14, 16, 40):
            limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (n, n))
            os.mkdir(str(n))
            fetched("-j", "30", "--retries", "0", "-o", str(n), *(server.url("/%d" % i).replace("127.0.0.1", "localhost") for i in range(30)), preexec_fn=limit)
            equal([content("%d/%d" % (n, i)) for i in range(30)], [b"%d" % i * i for i in range(30)], "with %d" % n)
        done = run([FETCH, "--retries", "0", server.url("/1")], preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (5, 5)))
        equal(done.returncode, 1, "with next to none")
        check(b"Too many open files" in done.stderr, "stderr %r" % done.stderr)


def test_redirects():
    need("nginx")
    site()
    rules = "location /r { return 302 /one.txt; } location /rel { return 307 sub/a.txt; } location /loop { return 301 /loop; } location /bad { return 301 ftp://x/; }"
    rules += " location /away { return 308 http://localhost:$server_port/sub/a.txt; } absolute_redirect off;"
    with nginx(os.path.abspath("www"), rules) as port:
        base = "http://127.0.0.1:%d" % port
        table, _ = fetched(base + "/r", base + "/rel", base + "/away", base + "/sub", status=1)
        equal([row[0] for row in table], ["200", "200", "200", "403"], "statuses")  # /sub/ has no index.html
        equal([content(n) for n in ("r", "rel", "away")], [b"1", b"sub", b"sub"], "contents")
        for path, reason in (("/loop", "too many redirects"), ("/bad", "no http URL: ftp://x/"), ("/none", "status 404")):
            _, stderr = fetched(base + path, status=1)
            check(stderr == "fetch: %s%s: %s\n" % (base, path, reason), stderr)


def test_names():
    with Server({p: [ok(p.encode())] for p in ("/", "/a", "/x/a", "/y/a?q", "/..", "/z/.", "/a.1", "/d/")}) as server:
        fetched("-o", ".", *(server.url(p) for p in ("/", "/a", "/x/a", "/y/a?q", "/..", "/z/.", "/a.1", "/d/")))
        equal({n: content(n).decode() for n in sorted(os.listdir("."))},
              {"a": "/a", "a.1": "/x/a", "a.2": "/y/a?q", "a.1.1": "/a.1", "index.html": "/", "index.html.1": "/..", "index.html.2": "/z/.", "index.html.3": "/d/"},
              "names and contents")
        fetched(server.url("/a"))
        equal(content("a"), b"/a", "an older file is replaced")
        server.answers["/%C3%A9?%C3%BF"] = [b"HTTP/1.1 302 Found\r\nLocation: /\xc3\xbf\r\nContent-Length: 0\r\n\r\n"]
        server.answers["/%C3%BF"] = [ok(b"accents")]
        fetched(server.url("/\u00e9?\u00ff"))
        equal(content("%C3%A9"), b"accents", "bytes over 127 are sent as browsers do")
        for n in (240, 255, 1000):
            server.answers["/" + "n" * n] = [ok(b"%d" % n)]
            fetched(server.url("/" + "n" * n))
            equal(content("n" * 240), b"%d" % n, "a long name")
        for path, head in server.asked:
            equal(head.split(b"\r\n")[:2], [b"GET %s HTTP/1.1" % path.encode(), b"Host: 127.0.0.1:%d" % server.port], "request")


# ---- a server of our own: what nginx does not do ------------------------------------------------------------------------


def test_bodies_like_curl():
    need("curl")
    body = bytes(range(256)) * 40
    answers = {
        "/length": ok(body), "/chunks": chunked(body[:1], body[1:5000], body[5000:]), "/empty": chunked(), "/bytes": [bytes([b]) for b in chunked(b"ab", b"c" * 40)],
        "/trailers": chunked(body, end=b"0;x=y\r\nA: b\r\n\r\n"), "/close": b"HTTP/1.1 200 OK\r\n\r\n" + body, "/old": b"HTTP/1.0 200 OK\r\n\r\n" + body,
        "/interim": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + ok(body), "/204": b"HTTP/1.1 204 No Content\r\n\r\n",
        "/more": ok(body) + b"behind it", "/206": ok(body).replace(b"200", b"206"),
        "/short": ok(body)[:-1], "/cut": chunked(body, end=b""), "/half": chunked(body)[:-100], "/nothing": b"",
        "/404": ok(b"not here").replace(b"200", b"404"), "/garbage": b"what?\r\n\r\n",
        "/bad_chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "/negative": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"}
    with Server({path: [a] for path, a in answers.items()}) as server:
        bad = 0
        for path in answers:
            judged = run(["curl", "-sS", "-f", "--http1.1", server.url(path)])
            os.path.exists("out") or os.mkdir("out")
            done = run([FETCH, "--retries", "0", "-o", "out", server.url(path)])
            equal(done.returncode == 0, judged.returncode == 0, "%s: %.200r; curl: %.200r" % (path, done.stderr, judged.stderr))
            name = "out" + path
            equal(os.path.exists(name), judged.returncode == 0, path + " is saved")
            if judged.returncode == 0:
                equal(content(name) == judged.stdout, True, path)
            bad += judged.returncode != 0
        check(bad >= 8, "%d bad ones" % bad)
        # Two that curl takes: it calls the first an empty answer, and believes the second of two lengths.
        server.answers["/no_head"], server.answers["/lengths"] = [b"HTTP/1.1 200 OK\r\nContent-"], [ok(body, b"Content-Length: 1")]
        for path in ("/no_head", "/lengths"):
            fetched("--retries", "0", "-o", "out", server.url(path), status=1)
        check(not [n for n in os.listdir("out") if ".part" in n], "nothing is left half-written")


def test_retries():
    with Server({"/soon": [b"", ok(b"").replace(b"200", b"503"), ok(b"there")], "/never": [ok(b"").replace(b"200", b"500")], "/gone": [ok(b"").replace(b"200", b"404")]}) as server:
        fetched(server.url("/soon"))
        equal((content("soon"), len(server.asked)), (b"there", 3), "the third attempt")
        gaps = [b - a for a, b in zip(server.times, server.times[1:])]
        check(0.5 <= gaps[0] < 5 and 1 <= gaps[1] < 5, "half a second, one: %s" % gaps)
        del server.asked[:]
        for path, retries, asked in (("/never", "1", 2), ("/never", "0", 1), ("/gone", "5", 1)):
            _, stderr = fetched("--retries", retries, server.url(path), status=1)
            check(re.fullmatch(r"fetch: http://.*%s: status (404|500)\n" % path, stderr), stderr)
            equal(len(server.asked), asked, "%s with --retries %s" % (path, retries))
            del server.asked[:]


def test_timeouts():
    slow = [ok(b"x" * 20)[:-20]] + [b"x", 0.2] * 20
    with Server({"/silent": [[60]], "/stalls": [[ok(b"12345")[:-2], 60]], "/slow": [slow]}) as server:
        begin = time.monotonic()
        for path in ("/silent", "/stalls"):
            _, stderr = fetched("--retries", "0", "--timeout", "0.5", server.url(path), status=1)
            check("timed out" in stderr, stderr)
        check(1 <= time.monotonic() - begin < 10, "half a second each")
        fetched("--timeout", "1.5", server.url("/slow"))  # takes four seconds, but never pauses
        equal(content("slow"), b"x" * 20, "slow")


def test_a_signal_ends_it():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        with Server({"/stalls": [[ok(b"12345")[:-2], 60]]}) as server:
            with started([FETCH, server.url("/stalls"), server.url("/stalls")], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
                until(lambda: sorted(n.split("-")[0] for n in os.listdir(".") if os.path.getsize(n) == 3) == ["stalls.1.part", "stalls.part"], "both have begun")
                process.send_signal(number)
                equal(process.wait(timeout=DEADLINE), 128 + number, "exit status")
                equal((process.stdout.read(), process.stderr.read()), (b"", b""), "output")
            equal(os.listdir("."), [], "nothing is left")


def test_progress_on_a_terminal():
    leader, follower = os.openpty()
    with Server({"/slow": [[ok(b"12345")[:-2], 0.7, b"45"]]}) as server:
        with started([FETCH, server.url("/slow")], stdout=subprocess.PIPE, stderr=follower) as process:
            os.close(follower)
            check(re.match(rb"200 +5 ", process.stdout.read()), "table")
            equal(process.wait(timeout=DEADLINE), 0, "exit status")
            shown = os.read(leader, 1 << 16)
            check(b"0 of 1, 0.0 MB, " in shown and shown.endswith(b"\r\x1b[K"), "progress: %r" % shown)
    os.close(leader)


if __name__ == "__main__":
    sys.exit(run_cases(cases_of(globals())))
