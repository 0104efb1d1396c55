"""Text as HTML: the comments of the sources, and the small Markdown of the pages."""
import html
import re

import diagram

INLINE = re.compile(r"(`[^`]+`|\*\*[^*]+\*\*|(?<![\w*])\*[^*\s][^*]*\*(?!\w)|!?\[[^\]]+\]\([^)]+\)|https?://[^\s)>,]*[^\s)>,.])")
CODE_WORD = re.compile(r"\b(?:[A-Za-z_]\w*::)+[A-Za-z_]\w*|\b[a-z]\w*_\w+\b")


def slug(text):
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


class Writer:
    """Renders for one page: knows how names and links are resolved there, and numbers the diagrams."""

    def __init__(self, link_name, link_path, highlight, image):
        self.link_name = link_name  # "channel" -> address or None
        self.link_path = link_path  # "examples/echo.cpp" -> address or None
        self.image = image  # "bench/results/cost.svg" -> its address
        self.highlight = highlight  # C++ -> HTML
        self.diagrams = 0
        self.headings = []

    # ---- in a line

    def inline(self, text, plain_names=False):
        parts = []
        for piece in INLINE.split(text):
            if piece.startswith("`") and len(piece) > 2:
                parts.append(self.code(piece[1:-1]))
            elif piece.startswith("**") and len(piece) > 4:
                parts.append(f"<strong>{self.inline(piece[2:-2])}</strong>")
            elif INLINE.fullmatch(piece) and piece.startswith("*"):
                parts.append(f"<em>{html.escape(piece[1:-1])}</em>")
            elif match := re.fullmatch(r"!\[([^\]]+)\]\(([^)]+)\)", piece):
                parts.append(f'<img alt="{html.escape(match[1])}" src="{self.image(match[2])}">')
            elif match := re.fullmatch(r"\[([^\]]+)\]\(([^)]+)\)", piece):
                parts.append(self.anchor(match[1], match[2]))
            elif piece.startswith("http"):
                parts.append(f'<a href="{html.escape(piece)}">{html.escape(piece)}</a>')
            else:
                parts.append(self.words(piece) if plain_names else html.escape(piece))
        return "".join(parts)

    def code(self, text):
        address = self.link_path(text) or self.link_name(re.sub(r"\(.*\)$|<.*>$", "", text))
        inner = f"<code>{html.escape(text)}</code>"
        return f'<a class="n" href="{address}">{inner}</a>' if address else inner

    def words(self, text):
        """Plain words of a comment; those that can only be names are links."""
        def one(match):
            address = self.link_name(match[0])
            word = html.escape(match[0])
            return f'<a class="n" href="{address}">{word}</a>' if address else word
        parts, end = [], 0
        for match in CODE_WORD.finditer(text):
            parts += [html.escape(text[end:match.start()]), one(match)]
            end = match.end()
        return "".join(parts) + html.escape(text[end:])

    def anchor(self, text, target):
        if not target.startswith(("http", "#")):
            target = self.link_path(target)
        return f'<a href="{html.escape(target)}">{self.inline(text)}</a>' if target else self.inline(text)

    def heading(self, level, text):
        name = slug(re.sub(r"^\d+\. ", "", text))
        while name in [h[1] for h in self.headings]:
            name += "-2"
        self.headings.append((level, name, text))
        return f'<h{level} id="{name}">{self.inline(text)}</h{level}>'

    # ---- comments

    def comment(self, lines):
        """The lines of a comment without their slashes -> HTML. Indented blocks are diagrams, code or lists."""
        out, title = [], "diagram"
        for block in blocks(lines):
            if match := re.fullmatch(r"-{4} (.*?) ?-*", block[0]):
                out.append(self.heading(2, match[1]))
            elif block[0].startswith("  "):
                out.append(self.indented(block, title))
            else:
                out.append(f"<p>{self.inline(' '.join(block), True)}</p>")
                title = re.split(r"(?<=[.:!?]) ", " ".join(block))[-1].rstrip(":.")
        return "\n".join(out)

    def indented(self, block, title):
        first = block[0].strip()
        if re.match(r"\(\d\)\s", first) and not diagram.is_diagram(block):
            return self.legend(block)
        if diagram.is_diagram(block):
            self.diagrams += 1
            return diagram.svg(block, title, self.diagrams)
        margin = min(len(l) - len(l.lstrip()) for l in block)
        text = "\n".join(l[margin:] for l in block)
        if margin >= 4 and (re.search(r"[;{}]|#include|co_await", text)):
            return f'<pre class="usage"><code>{self.highlight(text)}</code></pre>'
        if definitions(block):
            return self.definitions(block)
        return f"<pre class=\"usage\"><code>{html.escape(text)}</code></pre>"

    def legend(self, block):
        """(1) what it is    (2) the next: as a list."""
        text = "    ".join(line.strip() for line in block)
        parts = re.split(r"(?:^|\s{3,})\((\d)\)\s", text)
        items = [f'<li><span class="number">({n})</span><span>{self.inline(re.sub(r"  +", " ", t.strip()), True)}</span></li>'
                 for n, t in zip(parts[1::2], parts[2::2])]
        return f'<ul class="legend">{"".join(items)}</ul>'

    def definitions(self, block):
        items = []
        for line in block:
            match = re.match(r"\s*(\S+(?: \S+)*?)\s{2,}(\S.*)$", line)
            deep = len(line) - len(line.lstrip()) > len(block[0]) - len(block[0].lstrip())
            if match and not deep:
                items.append([match[1], match[2]])
            elif items:
                items[-1][1] += " " + line.strip()
        rows = [f"<dt>{self.code(t)}</dt><dd>{self.inline(d, True)}</dd>" for t, d in items]
        return f"<dl>{''.join(rows)}</dl>"

    # ---- Markdown

    def markdown(self, text):
        out, lines, at = [], text.splitlines(), 0
        while at < len(lines):
            line = lines[at]
            end = at + 1
            if not line.strip():
                pass
            elif match := re.match(r"```(\w*)", line):
                while end < len(lines) and not lines[end].startswith("```"):
                    end += 1
                body = "\n".join(lines[at + 1:end])
                shown = self.highlight(body) if match[1] == "cpp" else html.escape(body)
                out.append(f'<pre class="usage"><code>{shown}</code></pre>')
                end += 1
            elif match := re.match(r"(#+) (.*)", line):
                out.append(self.heading(len(match[1]), match[2]))
            elif line.startswith("|"):
                while end < len(lines) and lines[end].startswith("|"):
                    end += 1
                out.append(self.table(lines[at:end]))
            elif line.startswith("    "):
                while end < len(lines) and (lines[end].startswith("    ")):
                    end += 1
                body = "\n".join(l[4:] for l in lines[at:end])
                out.append(f'<pre class="usage"><code>{html.escape(body)}</code></pre>')
            elif re.match(r"(- |\d+\. )", line):
                while end < len(lines) and (re.match(r"(- |\d+\. )", lines[end]) or lines[end].startswith("  ") or
                                            not lines[end].strip() and end + 1 < len(lines) and
                                            re.match(r"(- |\d+\. )", lines[end + 1])):
                    end += 1
                out.append(self.list(lines[at:end]))
            else:
                while end < len(lines) and lines[end].strip() and not re.match(r"```|#|\||- |\d+\. ", lines[end]):
                    end += 1
                out.append(f"<p>{self.inline(' '.join(l.strip() for l in lines[at:end]))}</p>")
            at = end
        return "\n".join(out)

    def list(self, lines):
        kind = "ol" if lines[0][0].isdigit() else "ul"
        items = []
        for line in filter(str.strip, lines):
            if match := re.match(r"(?:- |\d+\. )(.*)", line):
                items.append(match[1])
            else:
                items[-1] += " " + line.strip()
        return f"<{kind}>" + "".join(f"<li>{self.inline(i)}</li>" for i in items) + f"</{kind}>"

    def table(self, lines):
        rows = [[c.strip() for c in re.split(r"(?<!\\)\|", l.strip().strip("|"))] for l in lines]
        numeric = [c.endswith(":") for c in rows[1]]
        head = "".join(f'<th scope="col">{self.inline(c)}</th>' for c in rows[0])
        body = "".join("<tr>" + "".join(self.cell(c, rows[0][i], numeric[i]) for i, c in enumerate(row)) + "</tr>"
                       for row in rows[2:])
        kind = "table" if any(numeric) else "table text"  # one of text becomes a list where it is narrow
        return (f'<div class="{kind}" tabindex="0" role="group" aria-label="Table: {html.escape(" ".join(rows[0]).strip())}">'
                f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>")

    def cell(self, text, heading, numeric):
        kind = ' class="number"' if numeric else ""
        return f'<td{kind} data-head="{html.escape(heading)}">{self.inline(text)}</td>'



def blocks(lines):
    """Groups of lines: at blank lines, at chapter rules, and where the indentation begins or ends."""
    block, deep = [], False
    for line in lines:
        rule = re.match(r"-{4} ", line)
        now = line.startswith("  ")
        if not line.strip() or rule or block and now != deep:
            if block:
                yield block
            block = []
        if line.strip():
            block.append(line)
            deep = now
        if rule:
            yield block
            block = []
    if block:
        yield block


def definitions(block):
    """word   what it means, with its continuation below the meaning"""
    word = r"\s*\S+(?: \S+)*?\s{2,}\S"
    return re.match(word, block[0]) and all(re.match(word + r"|\s{6,}\S", line) for line in block)
