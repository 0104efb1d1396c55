"""The pages of docs/site: which there are, in the order in which they are read, and what each is made of."""
import base64
import glob
import html
import os
import re

import bench
import cpp_html as code
import names
import prose
import stepper

HEADERS = ["task.hpp", "executor.hpp", "reactor.hpp", "timer.hpp"]
FIRST_PAGES = ["choices.md", "not.md"]
PARTS = [
    ("Start", "What ringlet is, and two programs."),
    ("Six steps to a runtime", "The kit rebuilt from nothing. Each step is a program, and its flaw leads to the next."),
    ("The headers", "The kit itself, and a tutorial: each header uses only those before it."),
    ("Step by step", "Recorded runs of small programs: the queue, the jobs, the ring, the timers."),
    ("Recipes", "Headers to copy, for what not everybody needs."),
    ("Examples", "Small programs, one file each."),
    ("Why", "The choices that were made, and what was left out."),
    ("Look up", "All public names."),
]


class Page:
    """One page: where it lies, what it is called, and how it is made."""

    def __init__(self, part, address, title, about, path=None):
        self.part, self.address, self.title, self.about, self.path = part, address, title, about, path
        self.body = ""


def read(root, path):
    with open(os.path.join(root, path), encoding="utf-8") as file:
        return file.read()


def opening_of(text):
    """-> (title, the first paragraph without it) of the comment that opens a source"""
    lines = []
    for line in text.splitlines():
        if not line.startswith("//") or not line[2:].strip():
            break
        lines.append(line[2:].strip())
    title, _, about = " ".join(lines).partition(": ")
    return title, about


class Site:
    """All pages, and what they share: the index of names, and which file is which page."""

    def __init__(self, root, compiler):
        self.root, self.compiler = root, compiler
        self.index = code.Index()
        self.pages = []
        self.sources = {}  # path -> Source
        self.find()
        for path in HEADERS + sorted(p for p in self.paths() if p.startswith("examples/recipes/")):
            self.index.add(self.address_of(path), names.scan(read(root, path))[0])
            name = path.removeprefix("examples/")
            self.index.files.update({name: self.address_of(path), "ringlet/" + name: self.address_of(path)})
        self.figures = bench.Figures(os.path.join(root, "bench"))
        self.uses = {}

    def paths(self):
        return [p.path for p in self.pages if p.path]

    def find(self):
        def files(pattern):
            return sorted(os.path.relpath(p, self.root) for p in glob.glob(os.path.join(self.root, pattern)))

        def source(part, path, prefix):
            title, about = opening_of(read(self.root, path))
            stem = os.path.basename(path).rsplit(".", 1)[0]
            self.pages.append(Page(part, f"{prefix}{stem}.html", title, about, path))

        self.pages.append(Page(0, "readme.html", "README", "What it is, how it is used, what it promises.", "README.md"))
        for path in files("docs/steps/*.cpp"):
            source(1, path, "steps-")
        for path in HEADERS:
            source(2, path, "")
        for path in files("docs/stepper/*.cpp"):
            source(3, path, "stepper-")
        for path in files("examples/recipes/*.hpp"):
            source(4, path, "recipes-")
        for path in files("examples/*.cpp"):
            source(5, path, "examples-")
        known = [f"docs/pages/{p}" for p in FIRST_PAGES]
        for path in sorted(files("docs/pages/*.md"), key=lambda p: (p not in known, known.index(p) if p in known else p)):
            title = re.search(r"^# (.*)", read(self.root, path), re.MULTILINE)[1]
            about = re.search(r"^# .*\n+((?:[^\n]+\n)+)", read(self.root, path))[1].replace("\n", " ")
            stem = os.path.basename(path)[:-3]
            self.pages.append(Page(5 if stem == "programs" else 6, f"{stem}.html", title, re.split(r"(?<=\.) ", about)[0], path))
        self.pages.sort(key=lambda p: p.part)
        self.pages.append(Page(7, "names.html", "Public names", "Where each is declared, and which programs use it."))

    def address_of(self, path):
        path = os.path.normpath(path).removeprefix("ringlet/").strip("<>")
        for page in self.pages:
            if page.path and (page.path == path or page.path == "examples/" + path or page.path == "docs/" + path):
                return page.address
        return None

    def writer(self, page):
        def link_path(target):
            target, _, anchor = target.partition("#")
            if not re.search(r"\.(hpp|cpp|md)$|/", target):
                return None
            address = self.address_of(target) or self.address_of(os.path.join(os.path.dirname(page.path or ""), target))
            return address and address + ("#" + anchor if anchor else "")

        def image(path):
            # In the page itself: so a page that is copied or sent is whole.
            return "data:image/svg+xml;base64," + base64.b64encode(read(self.root, path).encode()).decode()

        return prose.Writer(lambda name: self.index.lookup(name, page.address), link_path,
                            lambda text: code.highlight(text, self.index, page.address), image)

    # ---- making the pages

    def make(self):
        for page in self.pages:
            if page.part == 3:
                page.body = stepper.page(self, page)
            elif page.path and page.path.endswith(".md"):
                page.body = self.document(page)
            elif page.path:
                page.body = self.beside(page)
        self.pages[-1].body = self.names_page(self.pages[-1])
        out = {"index.html": self.frame(None, self.contents())}
        for page in self.pages:
            out[page.address] = self.frame(page, page.body)
        return out

    def document(self, page):
        text = self.figures.fill(read(self.root, page.path))
        return f'<div class="narrow">{self.writer(page).markdown(text)}</div>'

    def beside(self, page):
        """A source: its opening comment, its chapters, then commentary and code side by side."""
        kit = page.path in HEADERS or page.path.startswith("examples/recipes/")
        source = code.Source(read(self.root, page.path), page.address, self.index, local=not kit)
        opening, found = code.sections(source)
        writer = self.writer(page)
        first = next((i for i, line in enumerate(opening) if not line.strip()), len(opening))
        intro = writer.comment(opening[first:])
        rows = [self.row(writer, s) for s in found]
        chapters = "".join(f'<li><a href="#{name}">{html.escape(re.sub("^[0-9]+[.] ", "", text))}</a></li>'
                           for level, name, text in writer.headings if level == 2)
        chapters = f'<nav class="chapters" aria-label="Chapters"><h2>Chapters</h2><ol>{chapters}</ol></nav>' if chapters else ""
        return (f'<h1><span class="kind">{html.escape(PARTS[page.part][0])}</span>{html.escape(page.title)}</h1>'
                f'<div class="intro"><p class="lead">{writer.inline(page.about, True)}</p>{intro}</div>{chapters}'
                + "".join(rows))

    @staticmethod
    def row(writer, section):
        said = writer.comment(section.comment)
        if not section.code:
            return f'<div class="row wide prose"><div class="said">{said}</div></div>'
        wide = " wide" if 'class="diagram"' in said else ""
        return (f'<div class="row{wide}"><div class="said">{said}</div>'
                f'<div class="code">{code.code_block(section.code)}</div></div>')

    def names_page(self, page):
        """Every public name, where it is declared, and the pages whose code links to it."""
        rows = []
        for full in sorted(self.index.anchors, key=lambda f: (f.split("::")[-1].lower(), f)):
            if full.rpartition("::")[0] not in ("ringlet", "ringlet::io"):
                continue
            address, anchor = self.index.anchors[full]
            if address == page.address:
                continue
            users = [p for p in self.pages if p.part in (0, 3, 4, 5, 6) and p.address != address
                     and f'href="{address}#{anchor}"' in p.body]
            links = ", ".join(f'<a href="{p.address}">{html.escape(p.title)}</a>' for p in users[:6]) \
                or f'the comment that opens <a href="{address}">its page</a>'
            links += f" and {len(users) - 6} more" if len(users) > 6 else ""
            rows.append(f'<tr><td data-head="name"><a href="{address}#{anchor}"><code>{html.escape(full)}</code></a></td>'
                        f'<td data-head="what">{self.index.kinds[full]}</td><td data-head="used by">{links}</td></tr>')
        return ('<div class="narrow"><h1>Public names</h1><p>What stands at the level of the namespaces <code>ringlet</code> '
                'and <code>ringlet::io</code>, recipes included.</p><div class="table text" tabindex="0" role="group" '
                'aria-label="Table of names"><table><thead><tr><th scope="col">name</th><th scope="col">what</th>'
                f'<th scope="col">used by</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div></div>')

    def contents(self):
        writer = self.writer(Page(0, "index.html", "", ""))
        parts = []
        for number, (title, about) in enumerate(PARTS):
            pages = [p for p in self.pages if p.part == number]
            items = "".join(f'<li><a href="{p.address}">{html.escape(p.title)}</a>: <span class="about">'
                            f"{writer.inline(p.about)}</span></li>" for p in pages)
            parts.append(f'<h2>{title}</h2><p>{about}</p><ol class="contents">{items}</ol>')
        return ('<div class="home-page"><h1>ringlet</h1><p class="lead">An async runtime for C++20 coroutines on Linux, small '
                "enough to read in an evening. These pages are made from its sources. They are in the order in which they are "
                f'read best.</p>{"".join(parts)}</div>')

    def frame(self, page, body):
        turn = ""
        if page:
            at = self.pages.index(page)
            before = self.pages[at - 1] if at else None
            after = self.pages[at + 1] if at + 1 < len(self.pages) else None
            links = [f'<a href="{p.address}" rel="{rel}">{word} {html.escape(p.title)}</a>' if p else "<span></span>"
                     for p, rel, word in ((before, "prev", "←"), (after, "next", "Next:"))]
            turn = f'<nav class="turn" aria-label="Reading order">{"".join(links)}</nav>'
        title = f"{page.title} – ringlet" if page else "ringlet"
        style = read(os.path.dirname(os.path.abspath(__file__)), "style.css")
        return (f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
                '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
                f'<style>\n{style}</style>\n</head>\n<body>\n<a class="skip" href="#main">Skip to the text</a>\n'
                '<header class="bar"><a class="home" href="index.html">ringlet</a><nav aria-label="Site">'
                '<a href="index.html">Contents</a> · <a href="names.html">Names</a></nav></header>\n'
                f'<main id="main">{body}</main>\n{turn}\n</body>\n</html>\n')
