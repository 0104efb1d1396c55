"""The stepper: each program of docs/stepper is compiled and run, and its page replays what was recorded."""
import html
import json
import os
import re
import subprocess
import sys
import tempfile

import cpp_html
import names

TASK = re.compile(r"^( *)task spawned at (\S+) (is runnable|runs|waits for (.*?)) at ([^\s,]+)((?:, in .*)?)$")
SECTION = re.compile(r", in (\w+), (\d+) us left at")


def record(site, path):
    """Compiles and runs a program -> the moments that it has written down."""
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, "program")
        for command in ([site.compiler, "-std=c++20", "-Iinclude", path, "-o", program, "-luring"],
                        [program]):
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400, cwd=site.root)
            if done.returncode:
                sys.exit(f"{path}: {' '.join(command)}: {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


def line_of(place):
    return int(place.rpartition(":")[2])


class Replay:
    """The moments as steps that a page can show: who is in the queue, who waits for what, and where."""

    def __init__(self, text, moments):
        self.lines = text.split("\n")
        self.functions = [n.name for n in names.scan(text)[0] if n.kind == "function"]
        self.moments = merged(moments)
        self.steps, self.out, self.flight = [], [], {}
        self.names = {}
        for number, moment in enumerate(self.moments):
            self.add(number, moment)

    def name(self, job):
        """count("a"): the call that stands where the job was spawned."""
        if job not in self.names:
            line = self.lines[line_of(job) - 1]
            found = [m for f in self.functions for m in [re.search(rf"\b{f}(?=\(|\))", line)] if m and f != "main"]
            start = found[0] if found else None
            call = "root"
            if start and line[start.end()] == "(":
                call = line[start.start():names.matching(line, start.end(), "()") + 1]
            self.names[job] = call
        return self.names[job]

    def jobs(self, moment):
        parents, found = [], []
        for line in moment["dump"].splitlines():
            match = TASK.match(line)
            if not match:
                raise ValueError(f"not a line of dump(): {line!r}")
            depth = len(match[1]) // 2 - 1
            parents = parents[:depth] + [match[2]]
            state = {"is runnable": "runnable", "runs": "running"}.get(match[3], "waiting")
            if match[2] == moment["job"] and moment["event"] in ("resume", "submit", "show"):
                state = "running"
            limits = [(name, int(left)) for name, left in SECTION.findall(match[6])]
            found.append({"job": match[2], "name": self.name(match[2]), "state": state, "what": match[4] or "", "limits": limits,
                          "line": line_of(match[5]), "parent": self.name(parents[depth - 1]) if depth else ""})
        return found

    def queue(self, number, jobs):
        """First in, first out: the order in which they will run is the order in which they stand in it."""
        def next_run(job):
            return next((i for i, m in enumerate(self.moments) if i > number and m["event"] == "resume" and
                         m["job"] == job["job"]), len(self.moments))
        return [j["name"] for j in sorted((j for j in jobs if j["state"] == "runnable"), key=next_run)]

    def awaited(self, number):
        """A request is written just before its task is suspended: what the task then waits for, and where."""
        job = self.moments[number]["job"]
        leaves = next(m for m in self.moments[number:] if (m["event"], m["job"]) == ("leave", job))
        return next(j for j in self.jobs(leaves) if j["job"] == job)

    def in_flight(self, number, moment, jobs):
        what = {j["job"]: j for j in jobs}
        if moment["event"] == "submit":
            self.flight[moment["job"]] = {"name": self.name(moment["job"]), "what": self.awaited(number)["what"],
                                          "enters": moment["enters"]}
        for job in list(self.flight):
            if job not in what or what[job]["state"] == "runnable" or (job, "resume") == (moment["job"], moment["event"]):
                del self.flight[job]
        counted = moment.get("in_flight", 0) + (moment["event"] == "submit")
        if counted != len(self.flight):
            raise ValueError(f"{moment}: the reactor has {counted} in flight, the tasks wait for {self.flight}")
        return [{"name": f["name"], "what": f["what"], "state": "with the kernel" if moment["enters"] > f["enters"] else "written"}
                for f in self.flight.values()]

    def add(self, number, moment):
        if moment["event"] == "error":  # by now the run has been given up: what counts is how things stood
            self.steps.append({**self.steps[-1], "event": "error", "job": "", "line": 0, "text":
                               "Nothing can wake the root any more, so the run throws an exception. " + moment["text"]})
            return
        jobs = self.jobs(moment)
        before = self.steps[-1] if self.steps else None
        flight = self.in_flight(number, moment, jobs)
        if moment["event"] == "show":
            self.out = [*self.out, moment["text"]]
        deadlines = [(j["name"], j["what"].split(",")[0], int(left[1])) for j in jobs
                     if (left := re.search(r", (\d+) us left$", j["what"]))]
        deadlines += [(j["name"], *limit) for j in jobs for limit in j.pop("limits")]
        timers = [{"name": name, "what": what, "us": moment["us"] + left} for name, what, left in deadlines if left]
        step = {"event": moment["event"], "jobs": jobs, "queue": self.queue(number, jobs), "flight": flight,
                "timers": sorted(timers, key=lambda t: t["us"]), "out": self.out, "us": moment["us"],
                "enters": moment.get("enters", 0), "submitted": moment.get("submitted", 0), "completed": moment.get("completed", 0),
                "job": self.name(moment["job"]) if moment["job"] else "", "line": self.line(number, moment)}
        step["text"] = self.text(number, moment, step)
        if before and (step["enters"] > before["enters"] or step["us"] > before["us"]):
            self.steps.append(self.parked(before, step))
        self.steps.append(step)

    def line(self, number, moment):
        if moment["event"] == "submit":
            return self.awaited(number)["line"]
        return line_of(moment["place"]) if moment["place"].count(":") else 0

    def text(self, number, moment, step):
        who, line = step["job"], step["line"]
        event = moment["event"]
        if event == "spawn":
            return f"{who} is spawned: a job, at the end of the queue."
        if event == "resume":
            first = not any(m["event"] == "resume" and m["job"] == moment["job"] for m in self.moments[:number])
            return f"{who} runs, for the first time." if first else f"{who} has its turn: it was suspended in line {line}."
        if event == "submit":
            what = next(f["what"] for f in step["flight"] if f["name"] == who)
            return f"{who} writes a request to the ring: {what}."
        if event == "leave":
            its = next(j for j in step["jobs"] if j["name"] == who)
            if its["state"] == "runnable":
                return f"{who} yields: it goes to the end of the queue."
            return f"{who} is suspended: it waits for {its['what']}."
        if event == "show":
            return f"{who} prints: {moment['text']}"
        if event == "finish":
            return f"{who} has ended; its frame is gone."
        raise ValueError(f"an event of an unknown kind: {event}")

    @staticmethod
    def parked(before, after):
        """What the loop did between two moments."""
        said = []
        if after["enters"] > before["enters"]:
            calls = after["enters"] - before["enters"]
            said.append(f"The loop looks at the ring: {'a system call' if calls == 1 else f'{calls} system calls'}, to hand over "
                        "what was written and to collect what has come.")
        if after["us"] > before["us"]:
            said.append(f"Nothing is runnable, so the clock goes on to the next deadline, {after['us'] / 1000:g} ms.")
        done = after["completed"] - before["completed"]
        if done:
            said.append(f"{done} operation{'s have' if done > 1 else ' has'} completed.")
        return {**before, "event": "park", "job": "", "line": 0, "text": " ".join(said)}


def merged(moments):
    """To leave and to finish are one moment of a job that has ended."""
    return [m for m, later in zip(moments, [*moments[1:], {"event": "", "job": ""}])
            if not (m["event"] == "leave" and later["event"] == "finish" and later["job"] == m["job"])]


def page(site, its):
    """The page of one program."""
    with open(os.path.join(site.root, its.path), encoding="utf-8") as file:
        text = file.read()
    replay = Replay(text, record(site, its.path))
    source = cpp_html.Source(text, its.address, site.index, local=True)
    writer = site.writer(its)
    opening = cpp_html.sections(source)[0]
    first = next((i for i, line in enumerate(opening) if not line.strip()), len(opening))
    lines = source.lines()
    shown = [(n, lines[n - 1]) for n in range(len(opening) + 1, len(lines) + 1)]
    while not shown[0][1].strip():
        shown.pop(0)
    rows = "".join(f'<span class="l" id="line-{n}" data-line="{n}"><span class="no" aria-hidden="true">{n}</span>{line}\n</span>'
                   for n, line in shown)
    recording = json.dumps({"steps": replay.steps}, ensure_ascii=True).replace("<", "\\u003c")
    folder = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(folder, "stepper.html"), encoding="utf-8") as file:
        body = file.read()
    with open(os.path.join(folder, "stepper.js"), encoding="utf-8") as file:
        script = file.read()
    return (f'<h1><span class="kind">Step by step</span>{html.escape(its.title)}</h1><div class="intro"><p class="lead">'
            f"{writer.inline(its.about, True)}</p>{writer.comment(opening[first:])}</div>"
            + body.replace("@source@", rows).replace("@count@", str(len(replay.steps) - 1))
            + f'<script type="application/json" id="recording">{recording}</script><script>\n{script}</script>')
