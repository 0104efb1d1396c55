#!/usr/bin/env python3
"""Compiles the programs of the opening comments, and lists which public names no program uses.

usage: comments_test.py [--names] COMPILER OPTION...

A program of a comment is an indented block with an #include, in the comment that opens a header or a recipe. What
defines main is run too, and so are statements that lean on nothing imagined; it has to end with 0, without output
unless an indented block follows `It prints:`. With --names nothing is compiled.

A public name is one at the level of the namespaces ringlet and ringlet::io, recipes included. It has an example if an
example program, the README, a page of docs/pages, the stepper, a recipe or the opening comment of a header uses it.
The last line is `N passed, N failed`.
"""
import glob
import os
import re
import sys
import tempfile

import readme_test

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "docs", "generator"))
import names  # pylint: disable=wrong-import-position

HEADERS = ["task.hpp", "executor.hpp", "reactor.hpp", "timer.hpp"]
# What the reader of a comment can be trusted to imagine, for each file: before the fragment, and at its begin.
STAND_INS = {
    "interval": ("inline void send_heartbeat() {}", ""),
    "multishot": ("inline ringlet::task<> talk(ringlet::unique_fd) { co_return; }", ""),
    "mutex": ("inline ringlet::task<> ask_the_server() { co_return; }", ""),
    "unblock": ("inline addrinfo* resolve(const char*) { return nullptr; }", ""),
    "signals": ("inline ringlet::task<> serve() { co_return; }", ""),
    "listen": ("inline int nothing_yet = 0;", ""),
    "dns": ("inline int nothing_yet = 0;", ""),
    "open_beneath": ("", "const char* const name_from_outside = \"\";"),
    "send_file": ("", "int fd = 1, file = 0; std::size_t size = 0;"),
    "tls": ("", "int socket = 0; std::string request; std::byte buffer[16];"),
    "http1": ("inline ringlet::task<std::string_view> receive_some(int) { co_return \"\"; }\n"
              "inline void store(std::string_view) {}", "int client = 0;"),
    "http1_io": ("inline void store(std::string_view) {}", "int fd = 0;"),
    "http1_file": ("inline void send_head(auto&&...) {}\ninline void send_bytes(auto&&...) {}",
                   "ringlet::http1::head request; std::string path; int file = 0;"),
    "generator": ("", ""),
    "http1_get": ("using namespace ringlet;\ninline task<> save(std::string_view) { co_return; }", ""),
    "partial_file": ("", "std::span<const std::byte> bytes;"),
    "trace": ("inline ringlet::task<> root() { co_return; }", ""),
    "http1_words": ("inline std::optional<std::uint64_t> first;", ""),
}
DECLARATION = re.compile(r"(using|inline|template|struct \w+ \{|class|namespace|#|//|task<|ringlet::task<|int main|\}|\s|$)")
STATEMENT = re.compile(r"(auto|const auto|while|for|if)\b|co_|[\w:]+\(|\w+\.\w+\(|.*\bco_await\b")


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def files(*patterns):
    return sorted(os.path.relpath(p, ROOT) for pattern in patterns for p in glob.glob(os.path.join(ROOT, pattern)))


def opening(text):
    """The lines of the comment at the start, without their slashes."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("//"):
            break
        lines.append(line[2:])
    return lines


def blocks(text):
    """-> (indented block, the line before it)"""
    block, before = [], ""
    for line in [*opening(text), "end"]:
        if line.startswith("     ") or block and not line.strip():
            block.append(line[5:])
            continue
        if block:
            yield "\n".join(block).strip("\n") + "\n", before
            block = []
        if line.strip():
            before = line.strip()


def programs(text):
    """-> (source, the output that is promised)"""
    found = list(blocks(text))
    for (source, _), (following, before) in zip(found, [*found[1:], ("", "")]):
        if "#include" in source:
            # a blank line ends the program where a picture or a list follows
            source = re.split(r"\n\n(?=[^\n]*(?:--|\(1\)|\|))", source)[0]
            yield source, following if before.endswith("prints:") else ""


def complete(source, stem):
    """A fragment as a program: stand-ins, and statements in a function -> (program, is it one to be run?)"""
    if re.search(r"\bint main\(", source) and stem not in STAND_INS:
        return source, True
    lines = source.replace("= ...;", "{};").splitlines()
    first = next((i for i, line in enumerate(lines) if not DECLARATION.match(line)), len(lines))
    if not any(STATEMENT.match(line) for line in lines[first:] if not line.startswith(" ")):
        first = len(lines)  # variables: they may stand at namespace scope
    includes = [line for line in lines[:first] if line.startswith("#include")]
    declared = [line for line in lines[:first] if not line.startswith("#include")]
    before, at_begin = STAND_INS.get(stem, ("", ""))
    helpers = ["#include <ringlet/timer.hpp>", "#include <netdb.h>"] if stem in STAND_INS else []
    body, run = [], False
    if first < len(lines):
        waits = "co_await" in source
        run = not waits and stem not in STAND_INS
        body = ["ringlet::task<> fragment() {" if waits else "int main() {", "int a_local_variable = 0;", at_begin,
                *lines[first:], "co_return;" if waits else "", "}"]
    return "\n".join(["#include <array>", "#include <deque>", "#include <string>", "#include <chrono>", *includes, *helpers,
                      "using namespace std::chrono_literals;", before, *declared, *body]) + "\n", run


def check_programs(command):
    """-> (passed, failed)"""
    passed = failed = 0
    for path in [*HEADERS, *files("examples/recipes/*.hpp")]:
        found = list(programs(read(path)))
        if not found:
            print(f"{path}: FAIL, no program in its opening comment")
            failed += 1
        for number, (source, output) in enumerate(found, 1):
            whole, run = complete(source, os.path.basename(path)[:-4])
            quiet = ["-Wno-unused"]
            if run:
                error = readme_test.check(path, whole, "text", output, command, *quiet)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    error = readme_test.build(whole, command, folder, "-c", *quiet)[1]
            if error and "openssl" in error and "No such file" in error:
                print(f"{path}, program {number}: not compiled, OpenSSL's headers are missing")
                continue
            print(f"{path}, program {number}: {error or 'ok'}")
            passed += error is None
            failed += error is not None
    return passed, failed


def used_in():
    """-> [(where, code)] of everything that counts as an example, without comments and strings."""
    for path in files("examples/*.cpp", "examples/recipes/*.hpp", "docs/stepper/*.?pp"):
        yield path, names.without_comments_and_strings(read(path))
    for path in ["README.md", *files("docs/pages/*.md")]:
        for block in readme_test.BLOCK.finditer(read(path)):
            if block[1] == "cpp":
                yield path, names.without_comments_and_strings(block[2])
    for path in [*HEADERS, *files("examples/recipes/*.hpp")]:
        for source, _ in programs(read(path)):
            yield path + " (comment)", names.without_comments_and_strings(source)


def uses(code, name, scope, path, home):
    """Is the name used there? Its own declaration does not count, nor a member of the same name."""
    if path == home:
        return False
    qualifier = r"io::" if scope == "ringlet::io" else r"(?<!\bstd::)(?<!\bio::)"
    return re.search(rf"(?<!\.)(?<!->){qualifier}\b{name}\b", code) is not None


def check_names():
    """Prints the names without an example -> their number"""
    declared = {}
    for path in [*HEADERS, *files("examples/recipes/*.hpp")]:
        for name in names.public(names.scan(read(path))[0]):
            declared.setdefault(name.full, (name, path))
    code = list(used_in())
    without = [full for full, (name, home) in declared.items()
               if not any(uses(text, name.name, name.scope, path, home) for path, text in code)]
    print(f"{len(declared) - len(without)} of {len(declared)} public names have an example")
    for full in without:
        print(f"{full}, of {declared[full][1]}: no example")
    return len(without) if declared else 1


def main():
    command = [a for a in sys.argv[1:] if a != "--names"]
    passed, failed = (0, 0) if "--names" in sys.argv else check_programs(command)
    without = check_names()
    print(f"{passed + (not without)} passed, {failed + bool(without)} failed")
    return 1 if failed or without else 0


if __name__ == "__main__":
    sys.exit(main())
