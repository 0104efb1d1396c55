"""ASCII diagrams as SVG: each run of glyphs becomes a line, an arrowhead or a text at the same place."""
import html
import re

WIDTH, HEIGHT = 8, 17  # of a cell


def is_diagram(lines):
    """Arrows, corners, or bars below each other; not code, not a table."""
    text = "\n".join(lines)
    if re.search(r"[;{}]\s*$|^#include", text, re.MULTILINE):
        return False
    return bool(re.search(r"-{2,}>|<-{2,}|\+-{2,}|-{2,}\+|\|-{2,}|-{2,}\|", text))


class Grid:
    """The characters of a diagram, and which of them are drawing."""

    def __init__(self, lines):
        self.width = max(len(line) for line in lines)
        self.rows = [line.ljust(self.width) for line in lines]

    def at(self, row, column):
        inside = 0 <= row < len(self.rows) and 0 <= column < self.width
        return self.rows[row][column] if inside else " "

    def draws(self, row, column):
        c = self.at(row, column)
        left, right = self.at(row, column - 1), self.at(row, column + 1)
        above, below = self.at(row - 1, column), self.at(row + 1, column)
        if c == "|":
            return True
        if c == "-":
            dashed = left == " " == right and "-" in (self.at(row, column - 2), self.at(row, column + 2))
            return left in "-+<|" or right in "-+>|" or dashed
        if c == "+":
            return left in "-|" or right in "-|" or above in "|+^" or below in "|+"
        if c == ">":
            return left == "-"
        if c == "<":
            return right == "-"
        if c == "^":
            return True
        if c == "v":
            return not (left.isalnum() or right.isalnum()) and above in "|+v "
        return False


def arrow(c, x, y):
    points = {">": (4, 0, -4, -4, -4, 4), "<": (-4, 0, 4, -4, 4, 4),
              "^": (0, -6, -4, 3, 4, 3), "v": (0, 6, -4, -3, 4, -3)}[c]
    corners = " ".join(f"{x + dx},{y + dy}" for dx, dy in zip(points[::2], points[1::2]))
    return f'<polygon points="{corners}"/>'


def line(x1, y1, x2, y2):
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def strokes(grid):
    """The lines of every drawing character, half a cell each way; runs of - are one line."""
    for row in range(len(grid.rows)):
        y = row * HEIGHT + HEIGHT // 2
        column = 0
        while column < grid.width:
            c = grid.at(row, column)
            x = column * WIDTH + WIDTH // 2
            if not grid.draws(row, column):
                column += 1
                continue
            if c == "-":
                end = column
                while grid.at(row, end + 1) == "-":
                    end += 1
                yield line(column * WIDTH, y, (end + 1) * WIDTH, y)
                column = end + 1
                continue
            if c == "|":
                yield line(x, y - HEIGHT / 2, x, y + HEIGHT / 2)
            elif c == "+":
                yield from corner(grid, row, column, x, y)
            else:
                if c in "^v":
                    end = y + HEIGHT / 2 if c == "^" else y - HEIGHT / 2
                    yield line(x, y, x, end)
                yield arrow(c, x, y)
            column += 1


def corner(grid, row, column, x, y):
    if grid.at(row, column - 1) in "-<|":
        yield line(x - WIDTH / 2, y, x, y)
    if grid.at(row, column + 1) in "->|":
        yield line(x, y, x + WIDTH / 2, y)
    if grid.at(row - 1, column) in "|+^" and grid.draws(row - 1, column):
        yield line(x, y - HEIGHT / 2, x, y)
    if grid.at(row + 1, column) in "|+v" and grid.draws(row + 1, column):
        yield line(x, y, x, y + HEIGHT / 2)


def texts(grid):
    for row in range(len(grid.rows)):
        kept = "".join(" " if grid.draws(row, c) else grid.at(row, c) for c in range(grid.width))
        for match in re.finditer(r"\S+(?: \S+)*", kept):
            x, y = match.start() * WIDTH, row * HEIGHT + HEIGHT - 4
            yield (f'<text x="{x}" y="{y}" textLength="{len(match[0]) * WIDTH}">'
                   f"{html.escape(match[0])}</text>")


def svg(lines, title, number):
    """One diagram; `number` makes its ids unique in the page."""
    while lines and not lines[0].strip():
        lines = lines[1:]
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    margin = min(len(l) - len(l.lstrip()) for l in lines if l.strip())
    grid = Grid([l[margin:].rstrip() for l in lines])
    width, height = grid.width * WIDTH, len(grid.rows) * HEIGHT
    title = html.escape(title)
    return (f'<div class="diagram" tabindex="0" role="group" aria-label="Diagram: {title}">'
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="diagram-{number}" '
            f'viewBox="-4 -2 {width + 8} {height + 4}" width="{width + 8}" height="{height + 4}">'
            f'<title id="diagram-{number}">{title}</title>'
            + "".join(strokes(grid)) + "".join(texts(grid)) + "</svg></div>")
