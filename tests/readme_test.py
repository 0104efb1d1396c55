#!/usr/bin/env python3
"""Compiles and runs the programs of the documents, and compares what they print with what the documents say.

usage: tests/readme_test.py README.md... -- COMPILER OPTION...

A program is a ```cpp block that defines main; the block that follows it, ```text, is its whole output.
"""
import difflib
import os
import re
import subprocess
import sys
import tempfile

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def programs(text):
    """-> (line, source, the kind of block after it, that block)"""
    blocks = [(text.count("\n", 0, m.start(2)) + 1, m[1], m[2]) for m in BLOCK.finditer(text)]
    for (line, kind, body), following in zip(blocks, [*blocks[1:], (0, "", "")]):
        if kind == "cpp" and re.search(r"\bint main\(", body):
            yield line, body, following[1], following[2]


def build(source, command, folder, *options):
    """-> (the program, None), or (None, why it does not compile)"""
    path = os.path.join(folder, "program.cpp")
    with open(path, "w", encoding="utf-8") as file:
        file.write(source)
    words = [o for o in command if not o.startswith("-l")]
    libraries = [o for o in command if o.startswith("-l")] if "-c" not in options else []
    done = subprocess.run([*words, "-Wall", "-Wextra", "-Werror", *options, path, "-o", path[:-4], *libraries],
                          capture_output=True, text=True, check=False)
    return (path[:-4], None) if done.returncode == 0 else (None, "does not compile:\n" + done.stderr)


def check(where, source, kind, expected, command, *options):
    if kind != "text":
        return "no ```text block with its output follows"
    with tempfile.TemporaryDirectory() as folder:
        program, error = build(source, command, folder, *options)
        if error:
            return error
        done = subprocess.run([program], capture_output=True, text=True, timeout=30, check=False,
                              stdin=subprocess.DEVNULL)
    if done.returncode or done.stderr:
        return f"ended with {done.returncode}: {done.stderr}"
    if done.stdout != expected:
        return "\n".join(difflib.unified_diff(
            expected.splitlines(), done.stdout.splitlines(), where, "the program", lineterm=""))
    return None


def main():
    split = sys.argv.index("--")
    files, command = sys.argv[1:split], sys.argv[split + 1 :]
    found = failed = 0
    for path in files:
        with open(path, encoding="utf-8") as file:
            for line, *rest in programs(file.read()):
                where = f"{os.path.basename(path)}:{line}"
                error = check(where, *rest, command)
                print(f"{where}: {error or 'ok'}")
                found += 1
                failed += error is not None
    print(f"{found - failed} passed, {failed} failed")
    return 1 if failed or not found else 0


if __name__ == "__main__":
    sys.exit(main())
