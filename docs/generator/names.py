"""The names that C++ text declares, and where: at the level of a namespace, and as members of a class.

This matches brackets, it does not parse C++: macros that hide a brace would mislead it.
"""
import bisect
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools"))
from cpp_text import matching, without_comments_and_strings, without_preprocessor  # pylint: disable=wrong-import-position

TYPE = re.compile(r"^(?:enum\s+)?(?:class|struct|union|enum)\s+(\w+)(?!\s*::)\b")
QUALIFIER = re.compile(r"^(?:inline|constexpr|constinit|consteval|static|thread_local|friend|virtual|explicit|extern)\b\s*")
NOT_NAMES = {"if", "for", "while", "switch", "return", "catch", "operator", "decltype", "sizeof", "noexcept", "requires",
             "static_assert", "namespace", "alignas", "const", "override", "final", "default", "delete", "public"}


class Name:  # pylint: disable=too-few-public-methods
    """A declaration: its name, the scope it is in ("ringlet::io"), what it is, and its position."""

    def __init__(self, name, scope, kind, position):
        self.name, self.scope, self.kind, self.position = name, scope, kind, position

    @property
    def full(self):
        return f"{self.scope}::{self.name}" if self.scope else self.name

    def __repr__(self):
        return f"{self.kind} {self.full}"


class Scope:  # pylint: disable=too-few-public-methods
    def __init__(self, kind, name, begin, end):
        self.kind, self.name, self.begin, self.end = kind, name, begin, end


def balanced_angles(text, start):
    """The position after the > that closes the < at start; of the operators only -> and << are known."""
    depth, at = 0, start
    while at < len(text):
        c = text[at]
        if c in "([{":
            at = matching(text, at, {"(": "()", "[": "[]", "{": "{}"}[c])
            if at < 0:
                return len(text)
        elif c == "<":
            depth += 1
        elif c == ">" and text[at - 1] != "-":
            depth -= 1
            if depth == 0:
                return at + 1
        elif c == ";":
            return at
        at += 1
    return len(text)


def blank(text, begin, end):
    return text[:begin] + re.sub(r"\S", " ", text[begin:end]) + text[end:]


def bare(head):
    """The head of a declaration, the same length, without templates, requirements, attributes and the like."""
    head = re.sub(r"\[\[.*?\]\]", lambda m: " " * len(m[0]), head, flags=re.DOTALL)
    while True:
        match = re.match(r"\s*(template\s*<|requires\s*\(|requires\b|(?:public|private|protected)\s*:(?!:))", head)
        if not match:
            break
        end = match.end()
        if match[1].startswith("template"):
            end = balanced_angles(head, end - 1)
        elif match[1].endswith("("):
            end = matching(head, end - 1, "()") + 1 or len(head)
        elif match[1].startswith("requires"):
            inner = re.compile(r"\s*[\w:]+\s*").match(head, end)
            end = inner.end() if inner else len(head)
            if end < len(head) and head[end] == "<":
                end = balanced_angles(head, end)
        head = blank(head, 0, end)
    for match in re.finditer(r"\b(?:decltype|alignas|explicit)\s*\(", head):
        head = blank(head, match.start(), matching(head, match.end() - 1, "()") + 1)
    start = len(head) - len(head.lstrip())
    while match := QUALIFIER.match(head[start:]):
        head = blank(head, start, start + match.end())
        start = len(head) - len(head.lstrip())
    return head


def declared(head):
    """-> (kind, [(name, position in the head)]) of one declaration, judged by the text before its ; or {"""
    text = bare(head)
    start = len(text) - len(text.lstrip())
    rest = text[start:]
    if match := re.match(r"namespace\s+([\w:]*)\s*$", rest):
        return "namespace", [(match[1], start + match.start(1))]
    if match := re.match(r"using\s+(\w+)\s*=", rest):
        return "alias", [(match[1], start + match.start(1))]
    if match := re.match(r"concept\s+(\w+)", rest):
        return "concept", [(match[1], start + match.start(1))]
    if re.match(r"(using|typedef|public|private|protected)\b", rest):
        return "", []
    before = rest.split("(")[0]
    if (match := TYPE.match(rest)) and ("(" not in rest or re.match(r"[\w\s:]*(final\s*)?:", rest[match.end():]) or
                                        "operator" not in before and re.match(r"\s*(final\s*)?(<[^>]*>\s*)?(:[^:]|$)",
                                                                              rest[match.end():])):
        kind = "enum" if rest.startswith("enum") else "class"
        return kind, [(match[1], start + match.start(1))]
    return declarators(text, start)


def without_brackets(text):
    """The same length, and blanks where something is in brackets."""
    depth, kept = 0, []
    for c in text:
        depth -= c in ")]}"
        kept.append(" " if depth > 0 else c)
        depth += c in "([{"
    return "".join(kept)


def declarators(text, start):
    """A function's name, or those of variables."""
    at, last = start, None
    names = []
    while at < len(text):
        c = text[at]
        if match := re.compile(r"[A-Za-z_]\w*").match(text, at):
            last = (match[0], at)
            at = match.end()
            continue
        if c == "<" and last:
            at = balanced_angles(text, at)
            continue
        if c == "(":
            if not last or last[0] in NOT_NAMES or re.search(r"::\s*~?$", text[:last[1]]):
                return "function", []  # of a class that is declared elsewhere
            return "function", [] if re.search(r"\boperator\b", text[start:at]) else [last]
        if c in "={,[" and last:
            if re.search(r"\boperator\b", text[start:at]):
                return "function", []
            names.append(last)
            later = re.finditer(r",\s*[*&]*(\w+)\s*(?=[={,\[]|$)", without_brackets(text[at:]))
            return "variable", names + [(m[1], at + m.start(1)) for m in later]
        at += 1
    if last and re.search(r"[\w>*&]\s+[*&]*\w+\s*$|^\s*\w+\s*$", text) and last not in names:
        names.append(last)
    return ("variable", [n for n in names if n[0] not in NOT_NAMES]) if names else ("", [])


def scan(source):
    """-> (names, scopes) of a text, both in the order of their positions. Bodies of functions are not looked into."""
    text = without_preprocessor(without_comments_and_strings(source))
    names, scopes, stack = [], [], []
    start = at = 0
    while at < len(text):
        c = text[at]
        if c in "([":
            close = matching(text, at, "()" if c == "(" else "[]")
            at = close + 1 if close > 0 else len(text)
            continue
        if c == ";":
            note(names, stack, text[start:at], start, ";")
            start = at + 1
        elif c == "}":
            if stack:
                stack.pop().end = at
            start = at + 1
        elif c == ":" and re.search(r"\b(public|private|protected)\s*$", text[start:at]) and text[at + 1] != ":":
            start = at + 1
        elif c == "{":
            kind, found = note(names, stack, text[start:at], start, "{")
            if kind in ("namespace", "class"):
                stack.append(Scope(kind, found[0][0], at, len(text)))
                scopes.append(stack[-1])
                stack[-1].full = "::".join(s.name for s in stack if s.name)
                start = at + 1
            else:
                at = matching(text, at, "{}")
                if at < 0:
                    break
                # after a body the next declaration begins; after an initializer, at the semicolon
                if kind == "function" and not initializer(text, start, at):
                    start = at + 1
        at += 1
    return names, scopes


def initializer(text, start, close):
    """Is what closes here a member{value} in a constructor's list, with the body still to come?"""
    head = text[start:close]
    return re.search(r"\)\s*(noexcept\s*)?:(?!:)", head) and re.match(r"\s*[,{]", text[close + 1:]) is not None


def note(names, stack, head, start, end):
    kind, found = declared(head)
    if kind in ("class", "enum") and end == ";":
        return kind, found  # only announced
    scope = "::".join(s.name for s in stack if s.name)
    known = {n.position for n in names[-4:]}  # a requires expression has braces of its own
    names += [Name(n, scope, kind, start + p) for n, p in found if kind != "namespace" and start + p not in known]
    return kind, found


def line_starts(text):
    return [0] + [m.end() for m in re.finditer("\n", text)]


def line_index(starts, position):
    return bisect.bisect_right(starts, position) - 1


def public(names, spaces=("ringlet", "ringlet::io")):
    """Those at the level of the namespaces that users see."""
    return [n for n in names if n.scope in spaces]
