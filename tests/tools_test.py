#!/usr/bin/env python3
"""tools/lint, tools/function_length and tools/tally, each against what it has to find and to leave alone."""
import contextlib
import io
import os
import runpy
import sys
import tempfile
import unittest
from unittest import mock

TOOLS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools")
sys.path.insert(0, TOOLS)
sys.dont_write_bytecode = True


def run(tool, text, name="sample.cpp", *options):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        output = io.StringIO()
        with mock.patch("sys.argv", [tool, *options, path]), contextlib.redirect_stdout(output):
            try:
                runpy.run_path(os.path.join(TOOLS, tool), run_name="__main__")
            except SystemExit as end:
                return end.code, output.getvalue()


class Lint(unittest.TestCase):
    def wrong(self, text, sentence, name="sample.cpp", line=1):
        status, output = run("lint", text, name)
        self.assertEqual(status, 1, text)
        self.assertIn(f"{name}:{line}: {sentence}", output)

    def right(self, text, name="sample.cpp"):
        status, output = run("lint", text, name)
        self.assertEqual(status, 0, output)

    def test_conditions(self):
        for head in ("if (co_await f())", "if (!co_await f(1, (2)))", "while (co_await f())",
                     "switch (co_await f())", "if (auto n = co_await f(); n)", "if constexpr (co_await f())",
                     "for (; co_await f();)", "do x(); while (co_await f());"):
            self.wrong(head + " {}", "co_await in the condition")
        self.wrong("if (a\n    && co_await f()) {}", "co_await in the condition", line=2)

    def test_comments_and_documents_are_read_too(self):
        self.wrong("// like so: if (co_await f()) g();\n", "co_await in the condition")
        self.wrong("Text\n```cpp\nif (co_await f()) g();\n```\n", "co_await in", "a.md", 3)
        self.wrong("Never `if (co_await f())`, please.\n", "co_await in", "a.md")

    def test_question_mark(self):
        self.wrong("auto n = co_await f() ? 1 : 2;", "co_await in ?:")
        self.wrong("co_await (b ? f() : g());", "co_await beside ?:")
        self.wrong("co_await f(a, b ? text{1} : c);", "co_await beside ?:")
        self.wrong("int n = (co_await f(1, 2)) ? 1 : 2;", "co_await in ?:")
        self.wrong("int n = g(a, co_await f() ? 1 : 2);", "co_await in ?:")
        self.right("co_await f(a, b ? &c : nullptr);")
        self.wrong("auto n = b\n    ? co_await f()\n    : 2;", "co_await in ?:", line=2)
        self.wrong("```cpp\nauto n = co_await f() ? 1 : 2;\n```\n", "co_await in ?:", "a.md", 2)
        self.right("What does co_await do? It waits: so do we.\n", "a.md")
        self.right("// What does co_await do? It waits: so do we.\n")
        self.right("int a = b ? 1 : 2; co_await f(a); int c = b ? 1 : 2;")
        self.right('co_await f("who?", \'?\');')

    def test_braced_lists(self):
        self.wrong("std::vector<int> v{co_await f(), 1};", "co_await in a braced list")
        self.wrong("co_return T{1, g(co_await f())};", "co_await in a braced list")
        self.wrong("f({co_await a});", "co_await in a braced list")
        self.right("task<> f() { co_await g(); }")
        self.right("task<> f() { co_await g({1, 2}); }")
        self.right("task<> f() { for (auto x : co_await g()) h(x); }")
        self.right("auto x = T{[]() -> task<> { co_await g(); }};")

    def test_allowed(self):
        self.right("auto n = co_await f(); if (n) g();")
        self.right("if constexpr (requires { a.operator co_await(); }) return a.operator co_await();")
        self.right("if (n) co_await f();")
        self.right("if (n) { co_await f(); } else { co_await g(); }")
        self.right("for (auto n = co_await f(); n; --n) {}")
        self.right("do { co_await f(); } while (n);")
        self.right("if (co_await f()) g();  // shown to be wrong")
        self.right('auto s = "if (co_await f())";')

    def test_includes(self):
        self.wrong('#include "executor.hpp"\n', "task.hpp may not include executor.hpp", "task.hpp")
        self.wrong("#include <ringlet/timer.hpp>\n", "reactor.hpp may not", "reactor.hpp")
        self.wrong("#include <liburing.h>\n", "executor.hpp may not include liburing", "executor.hpp")
        self.wrong("#include <functional>\n", "<functional> costs", "timer.hpp")
        self.right('#include "executor.hpp"\n#include <liburing.h>\n', "reactor.hpp")
        self.right("#include <functional>\n", "other.hpp")


def function(lines, head="void f() {"):
    return "\n".join([head, *["    g();"] * (lines - 2), "}"]) + "\n"


class FunctionLength(unittest.TestCase):
    def check_(self, text, count, too_long):
        status, output = run("function_length", text, "sample.cpp", "--limit", "10")
        self.assertIn(f"{count} functions, {too_long} longer than 10 lines", output, text)
        self.assertEqual(status, 1 if too_long or not count else 0)

    def test_limit(self):
        self.check_(function(10), 1, 0)
        self.check_(function(11), 1, 1)
        self.check_(function(10, "template <class T>\nvoid f() {"), 1, 1)  # the declaration counts

    def test_scopes_are_not_functions(self):
        body = function(6) * 3
        self.check_("namespace a::b {\nstruct x : y<int> {\n" + body + "};\n}\n", 3, 0)
        self.check_("template <class T, int n = f(1)>\nclass x final {\npublic:\n" + body + "};\n", 3, 0)
        self.check_("enum class e : int {\n" + "a,\n" * 20 + "};\n" + function(3), 1, 0)
        self.check_("int table[] = {\n" + "1,\n" * 20 + "};\n" + function(3), 1, 0)

    def test_heads(self):
        for head in ("x(int a) : a_{a}, b_{1} {", "auto f() const noexcept(true) -> task<> {", "~x() {",
                     "bool operator()(int) && {", "explicit operator bool() const {", "struct x f(int) {",
                     "template <class T> requires (c<T>) void f(T) {", "[[nodiscard]] T f(int a = T{}.b) {",
                     "auto f = [](int) {", "auto f = [] {", "T<int>& x<U>::operator=(T&& o) noexcept {"):
            self.check_(function(11, head), 1, 1)
            self.check_("struct s {\n" + function(10, head) + "};\n", 1, 0)

    def test_a_lambda_counts_in_its_function(self):
        self.check_("void f() {\n    g([] {\n" + "        h();\n" * 8 + "    });\n}\n", 1, 1)

    def test_braces_that_are_none(self):
        self.check_('void f() { g("{", \'{\', R"({{)"); }  // {\n/* { */\n#define x {\n' + function(3), 2, 0)

    def test_digits_with_separators(self):
        self.check_("int n = 1'000; void f() { g(0xa'b, '{'); }\n" + function(3), 2, 0)


class Tally(unittest.TestCase):
    def check_(self, tests, closing, status):
        text = "".join('{"name": "x", "result": "%s", "stdout": "%s"}\n' % t for t in tests)
        found, output = run("tally", text, "testlog.json")
        self.assertEqual(output.splitlines()[-1], closing)
        self.assertEqual(found, status)

    def test_counts(self):
        line = "[doctest] test cases: %2d | %2d passed | %2d failed | %d skipped"
        good, bad, none = line % (5, 5, 0, 0), line % (5, 3, 2, 1), line % (0, 0, 0, 0)
        self.check_([("OK", good), ("OK", "no doctest")], "6 passed, 0 failed", 0)
        self.check_([("FAIL", bad), ("OK", good)], "8 passed, 2 failed, 1 skipped", 1)
        own = "ok a\\n1 passed, 0 failed\\nFAIL b\\n4 passed, 1 failed, 2 skipped\\n"
        self.check_([("FAIL", own), ("OK", "7 passed, 0 failed")], "11 passed, 1 failed, 2 skipped", 1)
        self.check_([("FAIL", good)], "5 passed, 1 failed", 1)  # a leak, found after the count
        self.check_([("OK", none)], "0 passed, 1 failed", 1)
        self.check_([("TIMEOUT", ""), ("SKIP", "")], "0 passed, 1 failed, 1 skipped", 1)
        self.check_([], "0 passed, 1 failed", 1)


if __name__ == "__main__":
    unittest.main()
