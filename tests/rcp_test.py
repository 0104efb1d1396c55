#!/usr/bin/env python3
"""Copies trees with examples/rcp, and lets diff -r, and modes, times and blocks, judge; `cp -r --preserve` is the model.

usage: rcp_test.py BUILD_EXAMPLES_DIR [CASE...]

Prints `ok NAME`, `skip NAME` or `FAIL NAME` with the reason; the last line is `N passed, N failed`, and the exit status is
1 if one failed.
"""

import contextlib
import os
import pty
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
# pylint: disable-next=wrong-import-position
from programs import C_LOCALE, cases_of, check, equal, not_with_ubsan, run_cases, Skip, until, without_standard_descriptors

BUILD = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else sys.exit(__doc__)
RCP = os.path.join(BUILD, "rcp")
DEADLINE = 60  # seconds for a copy


def rcp(*args, program=RCP, **options):
    done = subprocess.run([program, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=DEADLINE,
                          env=C_LOCALE, **options)
    return done.returncode, done.stdout, done.stderr


def works(*args):
    equal(rcp(*args), (0, b"", b""), "rcp %r" % (args,))


def put(name, data=b"", mode=None):
    with open(name, "wb") as f:
        f.write(data)
    if mode is not None:
        os.chmod(name, mode)


def facts(root):
    """Everything in a tree: kind, mode, times to the nanosecond, size or target."""
    found = {}
    for place, directories, files in os.walk(os.fsencode(root)):
        for name in [b"."] + directories + files:
            path = os.path.join(place, name)
            s = os.lstat(path)
            link = os.readlink(path) if stat.S_ISLNK(s.st_mode) else None
            found[os.path.relpath(path, os.fsencode(root))] = (stat.S_IFMT(s.st_mode), stat.S_IMODE(s.st_mode), s.st_mtime_ns, link,
                                                               None if stat.S_ISDIR(s.st_mode) else s.st_size)
    return found


def same(a, b):
    wanted, got = facts(a), facts(b)
    for name in set(wanted) | set(got):
        equal(got.get(name), wanted.get(name), "kind, mode, time, target and size of %r" % name)
    done = subprocess.run(["diff", "-r", "--no-dereference", a, b], stdout=subprocess.PIPE)
    equal((done.returncode, done.stdout[:500]), (0, b""), "diff -r")
    check(not leftovers(b), "left: %r" % leftovers(b))


def leftovers(root):
    return [name for _, _, files in os.walk(root) for name in files if name.startswith(".rcp-")]


# ---- what is copied -----------------------------------------------------------------------------------------------------


def make_tree(root, rng, files=200):
    os.mkdir(root)
    places = [root]
    for i in range(files):
        if i % 10 == 0:
            places.append(os.path.join(rng.choice(places[-5:]), "dir %d" % i))
            os.mkdir(places[-1])
        size = rng.choice([0, 1, 10, 1000, 4096, 4097, 65536, 262143, 262144, 262145])
        put(os.path.join(rng.choice(places), "file%d" % i), rng.randbytes(size), rng.choice([0o644, 0o600, 0o755, 0o444, 0o400, 0o4755]))
    for i, target in enumerate(("file", "/nowhere", "..", "dir 0", "x" * 200)):
        os.symlink(target, os.path.join(root, "link%d" % i))
        os.utime(os.path.join(root, "link%d" % i), ns=(10 ** 18, 10 ** 18 + i), follow_symlinks=False)
    put(os.fsencode(root) + b"/not UTF-8: \xff\xfe\x80", b"x")
    os.mkdir(os.fsencode(root) + b"/\xe9t\xe9")
    put(os.fsencode(root) + b"/\xe9t\xe9/a\nb\tc", b"y")
    put(os.path.join(root, "n" * 255), b"the longest name")
    for place, _, names in os.walk(os.fsencode(root), topdown=False):
        for name in names:
            path = os.path.join(place, name)
            if not os.path.islink(path):
                os.utime(path, ns=(rng.randrange(10 ** 18), rng.randrange(10 ** 18)))
        os.chmod(place, rng.choice([0o755, 0o700, 0o555, 0o711]))
        os.utime(place, ns=(rng.randrange(10 ** 18), rng.randrange(10 ** 18)))


def test_tree():
    make_tree("tree", random.Random(1))
    for jobs in ("1", "3", "16", "100"):
        works("-j", jobs, "tree", "copy" + jobs)
        same("tree", "copy" + jobs)
    os.mkdir("into")
    works("tree/", "into")
    same("tree", "into/tree")
    subprocess.run(["cp", "-r", "--preserve=mode,timestamps", "tree", "model"], check=True)
    same("model", "copy16")


def test_again_over_itself():
    """What is there already is replaced, what is not in the source stays."""
    make_tree("old", random.Random(2), 50)
    works("old", "target")
    put("target/other", b"stays")
    for name, _, _ in os.walk("target"):
        os.chmod(name, 0o755)
    with open("target/link0.new", "wb"):
        pass
    os.unlink("target/link0.new")
    works("old/.", "target")
    os.unlink("target/other")
    os.utime("target", ns=(os.stat("old").st_atime_ns, os.stat("old").st_mtime_ns))
    same("old", "target")


def test_2000_small_files():
    os.mkdir("many")
    for i in range(2000):
        if i % 100 == 0:
            os.mkdir("many/%d" % (i // 100))
        put("many/%d/%d" % (i // 100, i), b"content %d\n" % i)
    works("many", "many2")
    same("many", "many2")


def test_single_files():
    put("one", b"1" * 1000000, 0o640)
    works("one", "two")
    works("one", "./three")
    os.mkdir("dir")
    works("one", "two", "dir")
    for name in ("two", "three", "dir/one", "dir/two"):
        with open(name, "rb") as f:
            check(f.read() == b"1" * 1000000, name)
        equal(stat.S_IMODE(os.stat(name).st_mode), 0o640, "mode of " + name)
        equal(os.stat(name).st_mtime_ns, os.stat("one").st_mtime_ns, "time of " + name)
    os.symlink("one", "symlink")
    works("symlink", "symlink2")
    equal(os.readlink("symlink2"), "one", "a link stays a link")


def test_holes():
    size = 64 << 20
    layouts = {"all": [], "begin": [0], "middle": [size // 2 + 4096], "end": [size - 4096], "several": [0, 1 << 20, 5 << 20, size - 8192]}
    os.mkdir("sparse")
    for name, places in layouts.items():
        with open("sparse/" + name, "wb") as f:
            for place in places:
                f.seek(place)
                f.write(os.urandom(4096))
            f.truncate(size)
    works("sparse", "sparse2")
    same("sparse", "sparse2")
    for name in layouts:
        old, new = os.stat("sparse/" + name).st_blocks, os.stat("sparse2/" + name).st_blocks
        check(new <= old + 64, "%s: %d blocks have become %d" % (name, old, new))


def test_large_ones():
    """What the kernel copies by itself, and, from another kind of file system, does not."""
    data = os.urandom((20 << 20) + 12345)
    put("large", data, 0o600)
    works("large", "large2")
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as elsewhere:
        elsewhere.write(data)
        elsewhere.flush()
        works(elsewhere.name, "large3")
    for name in ("large2", "large3"):
        with open(name, "rb") as f:
            check(f.read() == data, name)


def test_files_that_do_not_know_their_size():
    works("/proc/version", "version")
    with open("/proc/version", "rb") as a, open("version", "rb") as b:
        equal(b.read(), a.read(), "/proc/version")


def test_files_that_know_a_wrong_size():
    """The files of /sys say that they have a page, and no block, as if they were all hole."""
    name = "/sys/devices/system/cpu/online"
    if not os.path.exists(name):
        raise Skip("no " + name)
    works(name, "online")
    with open(name, "rb") as a, open("online", "rb") as b:
        equal(b.read(), a.read(), name)


def test_links_by_name():
    """A slash behind its name makes a link what it leads to; loops are links like others."""
    os.makedirs("tree/sub")
    os.makedirs("into")
    put("tree/f", b"f")
    os.symlink("tree", "link")
    os.symlink("loop2", "loop1")
    os.symlink("loop1", "loop2")
    works("link/", "copy")
    same("tree", "copy")
    works("link//", "loop1", "into")
    same("tree", "into/link")
    equal(os.readlink("into/loop1"), "loop2", "a loop")
    os.mkdir("up")
    works("tree/sub/..", "up")
    same("tree", "up")
    works("link", "tree")
    equal(os.readlink("tree/link"), "tree", "a link goes into what it leads to")
    for args in (("tree/", "link"), ("link/", "tree")):
        code, out, err = rcp(*args)
        check((code, out) == (1, b"") and b"into itself" in err, "%r: %r" % (args, err))


def test_what_is_not_replaced():
    """A fifo, which stands for a device here, and a link in place of a directory."""
    os.mkfifo("fifo")
    os.symlink("fifo", "to_fifo")
    put("f", b"f")
    for name in ("fifo", "to_fifo"):
        equal(rcp("f", name), (1, b"", b"rcp: f: %s: File exists\n" % name.encode()), name)
    check(stat.S_ISFIFO(os.lstat("fifo").st_mode) and os.readlink("to_fifo") == "fifo", "both are there")
    works("to_fifo", "other")  # from a link to a link
    works("to_fifo", "other")
    os.makedirs("tree/sub")
    os.makedirs("elsewhere")
    os.makedirs("copy")
    put("tree/sub/f")
    os.symlink("../elsewhere", "copy/sub")
    equal(rcp("tree/.", "copy"), (1, b"", b"rcp: tree/./sub: copy/./sub: Not a directory\n"), "a link to another place")
    equal(os.listdir("elsewhere"), [], "another place")


def test_two_of_one_name():
    """The second is not copied over the first, nor inside of directories that become one; all others are."""
    for name in ("a", "b"):
        os.makedirs(name + "/d")
        put(name + "/f", name.encode())
        put(name + "/d/both", name.encode())
        put(name + "/d/only_" + name)
    os.mkdir("into")
    equal(rcp("a/f", "a/d", "b/f", "b/d", "into"), (1, b"", b"rcp: b/f: into/f: File exists\n"
                                                          b"rcp: b/d/both: into/d/both: File exists\n"), "both")
    equal(sorted(os.listdir("into") + os.listdir("into/d")), ["both", "d", "f", "only_a", "only_b"], "what is there")
    for name in ("f", "d/both"):
        with open("into/" + name, "rb") as f:
            equal(f.read(), b"a", name)
    works("b/f", "b/d", "into")  # what was there before is replaced
    for name in ("f", "d/both"):
        with open("into/" + name, "rb") as f:
            equal(f.read(), b"b", name)


def test_deep():
    path = "deep"
    for _ in range(300):
        os.makedirs(path)
        path += "/d"
    put(path, b"at the bottom")
    works("deep", "deep2")
    same("deep", "deep2")


# ---- what is not ----------------------------------------------------------------------------------------------------------


def nobody():
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)


def test_unreadable():
    if os.getuid() != 0:
        raise Skip("not root: cannot become nobody")
    os.chmod(".", 0o755)
    os.mkdir("mixed")
    for name in ("a", "b", "c"):
        put("mixed/" + name, name.encode(), 0o644)
    put("mixed/secret", b"s", 0)
    os.mkdir("mixed/closed")
    put("mixed/closed/inside", b"i")
    os.chmod("mixed/closed", 0)
    os.mkfifo("mixed/fifo")
    os.mkdir("open")
    os.chmod("open", 0o777)
    shutil.copy(RCP, "program")  # where it has been built nobody may look
    code, out, err = rcp("mixed", "no such file", "open", program="./program", preexec_fn=nobody)
    equal((code, out), (1, b""), "exit status and stdout")
    lines = sorted(err.decode().splitlines())
    equal(len(lines), 4, "lines on stderr %r" % lines)
    for line, name, why in zip(lines, ("mixed/closed", "mixed/fifo", "mixed/secret", "no such file"),
                               ("Permission denied", "neither", "Permission denied", "No such file")):
        check(line.startswith("rcp: %s: " % name) and why in line, "stderr %r" % line)
    equal(sorted(os.listdir("open/mixed")), ["a", "b", "c"], "what has been copied")
    os.mkdir("shut")
    code, out, err = rcp("mixed/a", "shut", program="./program", preexec_fn=nobody)
    check(code == 1 and b"mixed/a" in err and b"Permission denied" in err, "into a directory that is not ours: %r" % err)
    equal(os.listdir("shut"), [], "what is there")


def test_nobody_else_looks_in_meanwhile():
    """What a private directory keeps from others it keeps from them while it is copied."""
    os.mkdir("private", 0o700)
    for i in range(2000):
        put("private/%d" % i, b"secret", 0o644)
    with subprocess.Popen([RCP, "private", "copy"], umask=0o022) as p:
        until(lambda: os.path.isdir("copy"), "it copies")
        mode = stat.S_IMODE(os.stat("copy").st_mode)
        equal(p.wait(timeout=DEADLINE), 0, "exit status")
    equal(oct(mode), oct(0o700), "the mode meanwhile")
    same("private", "copy")


def test_wrong_targets():
    put("f1", b"1")
    os.mkdir("d1")
    put("d1/x", b"x")
    code, out, err = rcp("f1", "d1", "f1")
    check((code, out) == (1, b"") and b"f1: not a directory" in err, "several into a file: %r" % err)
    code, out, err = rcp("d1", "d1/sub")
    check(code == 1 and b"into itself" in err and os.listdir("d1") == ["x"], "into itself: %r" % err)
    for source in (".", os.getcwd()):
        code, out, err = rcp(source, "copy")
        check(code == 1 and b"into itself" in err and not os.path.exists("copy"), "%s into itself: %r" % (source, err))
    code, out, err = rcp("f1", "f1")
    check(code == 1 and b"f1: " in err, "onto itself: %r" % err)
    code, out, err = rcp("d1", "f1")
    check(code == 1 and b"d1: " in err and open("f1", "rb").read() == b"1", "a directory over a file: %r" % err)
    code, out, err = rcp("f1", "nowhere/x")
    check(code == 1 and b"No such file" in err, "into no directory: %r" % err)


def test_standard_descriptors_that_are_closed():
    """What it says then goes nowhere, and into no file that it copies."""
    os.mkdir("tree")
    for i in range(500):
        put("tree/%d" % i)
    seen = []
    for turn in range(20):  # until it is met at work
        process = subprocess.Popen([RCP, "-j", "1", "tree", "copy%d" % turn], preexec_fn=without_standard_descriptors)
        until(lambda: process.poll() is not None or os.path.isdir("copy%d" % turn), "it copies")
        process.send_signal(signal.SIGSTOP)
        with contextlib.suppress(OSError):  # it has ended
            seen = [os.readlink("/proc/%d/fd/%d" % (process.pid, fd)) for fd in range(3)]
        process.send_signal(signal.SIGCONT)
        equal(process.wait(timeout=DEADLINE), 0, "exit status")
        if seen:
            break
    equal(seen, ["/"] * 3, "what nobody reads or writes")


def test_few_descriptors():
    import resource
    not_with_ubsan(RCP)
    os.makedirs("tree/a/b/c")
    for i in range(200):
        put("tree/a/%d" % i, b"%d" % i)
    for n in (16, 40):
        limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (n, n))
        equal(rcp("-j", "100", "tree", "copy%d" % n, preexec_fn=limit), (0, b"", b""), "with %d" % n)
        same("tree", "copy%d" % n)


def test_no_name():
    put("f")
    for args in (("", "d"), ("f", ""), ("", ""), ("f", "", "f")):
        equal(rcp(*args), (1, b"", b"rcp: '': no file's name\n"), "rcp %r" % (args,))
    equal(os.listdir("."), ["f"], "what is there")


def test_full_disk():
    """A file size limit stands for it: named on stderr, and nothing half is left."""
    import resource
    put("large", bytes(1 << 20))
    put("small", b"s")
    os.mkdir("limited")

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))
    code, out, err = rcp("large", "small", "limited", preexec_fn=limit)
    check(code == 1 and err.startswith(b"rcp: large: ") and b"File too large" in err and err.count(b"\n") == 1, "stderr %r" % err)
    equal(os.listdir("limited"), ["small"], "what is there")


# ---- signals, and the terminal -----------------------------------------------------------------------------------------


def test_stopped_by_signals():
    """At whatever moment: it ends by the signal, quickly; what is there is whole, and no temporary file."""
    rng = random.Random(3)
    os.mkdir("work")
    for i in range(40):
        put("work/%d" % i, rng.randbytes(3 << 20))
    stopped = 0
    for turn in range(12):
        number = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[turn % 3]
        shutil.rmtree("stopped", ignore_errors=True)
        p = subprocess.Popen([RCP, "-j", "4", "work", "stopped"], stderr=subprocess.PIPE)
        until(lambda: p.poll() is not None or (os.path.isdir("stopped") and len(os.listdir("stopped")) >= turn), "it copies")
        p.send_signal(number)
        begin = time.monotonic()
        _, err = p.communicate(timeout=DEADLINE)
        check(time.monotonic() - begin < 2, "it took %.2f s to end" % (time.monotonic() - begin))
        check(p.returncode in (0, -number), "exit status %d" % p.returncode)
        equal(err, b"", "stderr")
        stopped += p.returncode == -number
        check(not leftovers("stopped"), "left: %r" % leftovers("stopped"))
        for name in os.listdir("stopped") if os.path.isdir("stopped") else []:
            with open("stopped/" + name, "rb") as a, open("work/" + name, "rb") as b:
                check(a.read() == b.read(), "half of a file: " + name)
    check(stopped >= 6, "only %d of 12 were stopped" % stopped)


def test_what_another_has_left_behind():
    """A copy that was killed leaves its file, and the next may have the same number, as in a container."""
    put("f", b"f")
    os.mkdir("to")
    leave = r"""
import os, sys
for n in range(1, 9):
    for name in (str(os.getpid() * 10**9 + n), "%d-%d" % (os.getpid(), n)):
        open("to/.rcp-" + name, "w").close()
os.execv(sys.argv[1], [sys.argv[1], "f", "to/f"])
"""
    done = subprocess.run([sys.executable, "-c", leave, RCP], stderr=subprocess.PIPE, timeout=DEADLINE, check=False)
    equal((done.returncode, done.stderr), (0, b""), "exit status and stderr")
    with open("to/f", "rb") as f:
        equal(f.read(), b"f", "the copy")


def test_a_signal_that_is_ignored():
    """As after nohup."""
    os.mkdir("work")
    for i in range(20):
        put("work/%d" % i, bytes(3 << 20))
    process = subprocess.Popen([RCP, "-j", "1", "work", "copy"], preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    until(lambda: os.path.isdir("copy"), "it copies")
    process.send_signal(signal.SIGHUP)
    equal(process.wait(timeout=DEADLINE), 0, "exit status")
    same("work", "copy")


def test_nobody_reads_its_errors():
    os.mkdir("dst")
    os.mkfifo("dst/f")
    put("f")
    put("large", bytes(100 << 20))
    small = ["small%d" % i for i in range(20)]
    for name in small:
        put(name)
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([RCP, "-j", "2", "large", *small, "f", "dst"], stderr=write, timeout=DEADLINE,
                          preexec_fn=lambda: signal.signal(signal.SIGPIPE, signal.SIG_DFL))
    os.close(write)
    equal((done.returncode, leftovers("dst")), (-signal.SIGPIPE, []), "exit status, and what is left")


def test_terminal():
    """A terminal is shown how far it is; a pipe is not, nor stdout."""
    put("shown", bytes(30 << 20))
    main, other = pty.openpty()
    done = subprocess.run([RCP, "shown", "shown2"], stderr=other, stdout=subprocess.PIPE, timeout=DEADLINE)
    os.close(other)
    text = os.read(main, 100000)
    os.close(main)
    equal((done.returncode, done.stdout), (0, b""), "exit status and stdout")
    check(b"\r[####################] 30 of 30 MB, 1 of 1 files, " in text and b"0:00 left" in text and text.endswith(b"\n"), "%r" % text)


def test_usage():
    for args in ((), ("one",), ("-j",), ("-j", "0", "a", "b"), ("-j", "x", "a", "b"), ("-j", "3x", "a", "b"), ("-x", "a", "b"),
                 ("-x", "-j", "4", "a", "b"), ("-j", "0", "-j", "4", "a", "b"), ("-j", "3x", "-j", "4", "a", "b"), ("--nonsense", "a", "b")):
        code, out, err = rcp(*args)
        check((code, out) == (2, b"") and err.startswith(b"usage: rcp") and err.count(b"\n") == 1, "%r: %r" % (args, (code, out, err)))
    code, out, err = rcp("--help")
    check(code == 0 and out.startswith(b"usage: rcp") and not err, "--help: %r" % ((code, out, err),))


if __name__ == "__main__":
    sys.exit(run_cases(cases_of(globals())))
