"""Figures for the pages, read when they are built.

{{cpu_ns yield ringlet g++}}   of bench/results/results.json; also ratio, wall_ns, allocations, enters
{{date}} {{machine}} {{kernel}} {{version asio}}   of the same file
{{gate yield g++}}   the instructions that bench/gate allows, of bench/goals.json
"""
import json
import os
import re


def read(path):
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        return json.load(file)


class Figures:  # pylint: disable=too-few-public-methods
    """A figure that the file does not have is "not measured"."""

    def __init__(self, folder):
        self.about = read(os.path.join(folder, "results", "results.json"))
        self.results = self.about.pop("results", [])
        self.goals = read(os.path.join(folder, "goals.json"))

    def find(self, what, work, program, compiler):
        for r in self.results:
            if (r["work"], r["program"], r["compiler"]) == (work, program, compiler) and what in r:
                return r[what]
        return None

    def one(self, words):
        if words[0] in self.about:
            return str(self.about[words[0]])
        if words[0] == "version":
            return self.about.get("versions", {}).get(words[1], "not measured")
        if words[0] == "gate":
            limit = self.goals.get(words[1], {}).get(" ".join(words[2:]), {})
            value = limit.get("reached", limit.get("goal"))
        else:
            value = self.find(*words)
        if value is None:
            return "not measured"
        return f"{value:.4f}" if 0 < value < 0.1 else f"{value:.2f}" if value < 10 else f"{value:.0f}"

    def fill(self, text):
        words = r"(?:cpu_ns|wall_ns|ratio|allocations|enters|date|machine|kernel|version|gate)(?: [^ }]+)*"
        return re.sub(r"\{\{(" + words + r")\}\}", lambda m: self.one(m[1].split()), text)
