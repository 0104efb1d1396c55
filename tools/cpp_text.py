"""C++ as text, for tools/lint and tools/function_length."""
import re

# In this order: a raw string may hold anything, a string a comment's start, a comment a quote.
_TOKENS = re.compile(
    r'''(?P<raw>R"(?P<tag>[^()\\\s]{0,16})\(.*?\)(?P=tag)")'''
    r"""|(?P<comment>//(?:\\\n|[^\n])*|/\*.*?\*/)"""
    r'''|(?P<string>"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+')''',
    re.DOTALL,
)


def _blanked(text):
    return re.sub(r"[^\n]", " ", text)


def without_comments_and_strings(text):
    """The same text, the same columns: comments and the inside of literals are spaces."""

    def blank(match):
        if match["comment"]:
            return _blanked(match[0])
        return match[0][0] + _blanked(match[0][1:-1]) + match[0][-1]

    return _TOKENS.sub(blank, text)


def without_preprocessor(text):
    return re.sub(r"^[ \t]*#(?:\\\n|[^\n])*", lambda m: _blanked(m[0]), text, flags=re.MULTILINE)


def line_of(text, position):
    return text.count("\n", 0, position) + 1


def matching(text, start, pair):
    """The position of the bracket that closes the one at start, or -1."""
    depth = 0
    for position in range(start, len(text)):
        if text[position] == pair[0]:
            depth += 1
        elif text[position] == pair[1]:
            depth -= 1
            if depth == 0:
                return position
    return -1
