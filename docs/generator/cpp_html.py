"""C++ as HTML: highlighted by Pygments, its names linked to where they are declared, commentary beside it."""
import html
import re

from pygments.lexers.c_cpp import CppLexer
from pygments.token import Token

import names

# What is told apart: few colours, each readable on its ground in light and dark.
CLASSES = [(Token.Comment.Preproc, "p"), (Token.Comment.PreprocFile, "s"), (Token.Comment, "c"), (Token.Keyword, "k"),
           (Token.Literal.String, "s"), (Token.Literal.Number, "m")]
AWAIT = {"co_await", "co_return", "co_yield", "requires", "concept", "constinit"}


class Index:
    """Where each name of the kit is declared: the first declaration of a name in a scope counts."""

    def __init__(self, prefix=""):
        self.prefix = prefix
        self.anchors = {}  # full name -> (page, anchor)
        self.kinds = {}    # full name -> kind
        self.short = {}    # the last part -> full names
        self.files = {}    # as in an #include -> page

    def add(self, page, found):
        for name in found:
            if name.full in self.anchors:
                continue
            self.anchors[name.full] = (page, self.anchor_of(name))
            self.kinds[name.full] = name.kind
            self.short.setdefault(name.name, []).append(name.full)

    def anchor_of(self, name):
        return self.prefix + name.full.removeprefix("ringlet::").replace("::", ".")

    def address(self, full, page):
        its, anchor = self.anchors[full]
        return f"#{anchor}" if its == page else f"{its}#{anchor}"

    def lookup(self, words, page):
        """For prose: `channel`, `io::read`, `reactor::reap`; those that could be several are none."""
        words = words.removeprefix("ringlet::")
        for space in ("ringlet::", "ringlet::detail::"):
            if space + words in self.anchors and (space != "ringlet::detail::" or "::" in words):
                return self.address(space + words, page)
        found = [f for f in self.short.get(words.split("::")[-1], []) if f.endswith("::" + words)]
        return self.address(found[0], page) if len(found) == 1 and ("::" in words or "_" in words) else None


class Source:
    """One text with its page: what is declared in it, and which scope a position is in."""

    def __init__(self, text, page, index, local=False):
        self.text, self.page, self.index = text, page, index
        self.names, self.scopes = names.scan(text)
        self.local = None
        if local:  # a program: its own names are linked within its page
            self.local = Index("of-")
            self.local.add(page, [n for n in self.names if n.kind in ("class", "function", "alias", "enum", "concept")])
        self.uses = [""] if re.search(r"\busing namespace ringlet\b|\busing ringlet::", text) else []
        self.here = {n.position: n for n in self.names}

    def enclosing(self, position):
        """The full names of the scopes around a position, the innermost first."""
        found = [s.full for s in self.scopes if s.begin < position <= s.end and getattr(s, "full", "")]
        return list(dict.fromkeys(reversed(found)))

    def resolve(self, word, position, end):
        """The address of the declaration that the word at this position means, or None."""
        before = self.text[:position].rstrip()
        follows = self.text[end:end + 8].lstrip()[:1]
        if before.endswith((".", "->")) and not before.endswith("..."):
            return None
        qualified = re.search(r"((?:\w+\s*::\s*)+|::)$", self.text[max(0, position - 80):position])
        if qualified:
            spaces = self.spaces_of(qualified[1].replace(" ", "").rstrip(":"))
        else:
            spaces = self.spaces_at(position)
        for index in filter(None, (self.local if not qualified else None, self.index)):
            for space in spaces if index is self.index else ["", *self.enclosing(position)]:
                full = f"{space}::{word}" if space else word
                kind = index.kinds.get(full)
                if kind == "variable":
                    return None
                if kind == "function" and follows not in ("(", "<", "{"):
                    continue
                if kind:
                    return index.address(full, self.page)
        return None

    def spaces_of(self, qualifier):
        if not qualifier or qualifier.startswith("std"):
            return []
        qualifier = qualifier.removeprefix("ringlet").removeprefix("::")
        if not qualifier:
            return ["ringlet"]
        return [f"{outer}::{qualifier}" for outer in ("ringlet", "ringlet::detail")]

    def spaces_at(self, position):
        around = self.enclosing(position)
        if around and around[-1].startswith("ringlet"):
            spaces = []
            for space in around:
                while space:
                    spaces.append(space)
                    space = space.rpartition("::")[0]
            return list(dict.fromkeys(spaces))
        return ["ringlet"] if self.uses else []

    # ---- as HTML

    def lines(self):
        """The lines of the text as HTML, each complete in itself."""
        out = [[]]
        # a shape of co_await that an older lexer takes for a name is a keyword all the same
        for position, kind, value in CppLexer(stripnl=False, ensurenl=False).get_tokens_unprocessed(self.text):
            style = next((c for t, c in CLASSES if kind in t), "")
            word = re.fullmatch(r"[A-Za-z_]\w*", value)
            if word and value in AWAIT:
                style = "k"
            address = self.index.files.get(value.strip('"<>')) if kind in Token.Comment.PreprocFile else None
            if address and address != self.page:
                out[-1].append(f'<a class="n" href="{address}">{html.escape(value)}</a>')
                continue
            for number, piece in enumerate(value.split("\n")):
                if number:
                    out.append([])
                if piece:
                    out[-1].append(self.piece(piece, style, word and kind not in Token.Comment, position))
        return ["".join(line) for line in out]

    def piece(self, text, style, word, position):
        shown = html.escape(text, quote=False)
        if word and style in ("", "k") and text not in AWAIT:
            name = self.here.get(position)
            table = self.local or self.index
            if name and table.anchors.get(name.full) == (self.page, anchor := table.anchor_of(name)) and self.first(name):
                return f'<span class="d" id="{anchor}">{shown}</span>'
            if not name and style == "":
                address = self.resolve(text, position, position + len(text))
                if address:
                    return f'<a class="n" href="{address}">{shown}</a>'
        return f'<span class="{style}">{shown}</span>' if style and text.strip() else shown

    def first(self, name):
        return next(n for n in self.names if n.full == name.full) is name


def highlight(text, index, page):
    """A fragment, as in a comment or a document."""
    source = Source(text + "\n", page, index)  # the newline ends a comment in the last line
    source.here = {}
    if "ringlet::" not in text:
        source.uses = [""]
    return lines_of(list(zip(text.split("\n"), source.lines())))


# ---- Commentary beside code ---------------------------------------------------------------------


class Section:  # pylint: disable=too-few-public-methods
    """A comment and the code that follows it. comment: lines without their slashes; code: (line number, HTML)."""

    def __init__(self):
        self.comment, self.code = [], []


def sections(source):
    """-> (the opening comment, [Section])"""
    shown = source.lines()
    text = source.text.split("\n")
    opening, at = [], 0
    while at < len(text) and text[at].startswith("//"):
        opening.append(text[at][2:].removeprefix(" "))
        at += 1
    found = [Section()]
    for plain, line in zip(text[at:], shown[at:]):
        stripped = plain.strip()
        if stripped.startswith("//"):
            comment = stripped[2:].removeprefix(" ")
            if found[-1].code or comment.startswith("---- "):  # also if it is a blank line
                found.append(Section())
            found[-1].comment.append(comment)
        else:
            found[-1].code.append((plain, line))
    for section in found:
        while section.code and not section.code[0][0].strip():
            section.code.pop(0)
        while section.code and not section.code[-1][0].strip():
            section.code.pop()
    return opening, [s for s in found if s.comment or s.code]


def lines_of(lines):
    """Lines, of which a long one wraps below its own indentation."""
    out = []
    for plain, line in lines:
        depth = len(plain) - len(plain.lstrip()) if plain.strip() else 0
        out.append(f'<span class="l" style="--i:{depth}">{line}\n</span>')
    return "".join(out)


def code_block(lines):
    return f"<pre><code>{lines_of(lines)}</code></pre>"
