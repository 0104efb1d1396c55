"""The figures of bench/results/results.json, for the pages: {{cpu_ns yield ringlet g++}} and the like."""
import json
import os
import re


class Figures:  # pylint: disable=too-few-public-methods
    """A figure that the file does not have is "not measured"."""

    def __init__(self, path):
        self.results, self.about = [], {}
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                self.about = json.load(file)
            self.results = self.about.pop("results")

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
        value = self.find(*words)
        if value is None:
            return "not measured"
        return f"{value:.4f}" if 0 < value < 0.1 else f"{value:.2f}" if value < 10 else f"{value:.0f}"

    def fill(self, text):
        return re.sub(r"\{\{([^}]+)\}\}", lambda m: self.one(m[1].split()), text)
