// Replays the recording of this page. Nothing is computed here but what to show.
"use strict";
const steps = JSON.parse(document.getElementById("recording").textContent).steps;
const at = (id) => document.getElementById(id);
let now = 0;

// Text only: what was recorded is never taken for HTML.
function element(name, text, kind) {
    const e = document.createElement(name);
    e.textContent = text;
    if (kind) e.className = kind;
    return e;
}
function fill(id, items, none) {
    const list = at(id);
    list.replaceChildren(...items);
    if (!items.length) list.append(element("li", none, "none"));
}
function show(n) {
    now = Math.max(0, Math.min(steps.length - 1, n));
    const s = steps[now];
    at("stepper").dataset.step = now;
    at("text").textContent = s.text;
    at("count").textContent = `step ${now} of ${steps.length - 1}`;
    at("slider").value = now;
    at("first").disabled = at("back").disabled = now === 0;
    at("last").disabled = at("forward").disabled = now === steps.length - 1;
    for (const line of document.querySelectorAll("#source .l")) {
        const here = Number(line.dataset.line) === s.line;
        line.classList.toggle("here", here);
        if (here) line.setAttribute("aria-current", "step");
        else line.removeAttribute("aria-current");
    }
    fill("queue", s.queue.map((name) => element("li", name)), "empty");
    at("jobs").replaceChildren(...s.jobs.map((j) => {
        const row = element("tr", "", j.state);
        const name = (j.parent ? "└ " : "") + j.name;
        row.append(element("th", name), element("td", j.state), element("td", j.what), element("td", j.line));
        row.firstChild.scope = "row";
        return row;
    }));
    fill("flight", s.flight.map((f) => element("li", `${f.what}, for ${f.name}: ${f.state}`)), "nothing");
    at("figures").textContent = `${s.submitted} submitted, ${s.completed} completed, ${s.enters} system calls`;
    fill("timers", s.timers.map((t) => element("li", `${t.us / 1000} ms: ${t.what} of ${t.name}`)), "none set");
    at("time").textContent = `now: ${s.us / 1000} ms`;
    at("out").textContent = s.out.join("\n");
    reveal();
}
// The line is brought into view inside its own box: the page stays where it is.
function reveal() {
    const line = document.querySelector("#source .here"), box = at("source").parentElement;
    if (!line) return;
    const top = line.offsetTop;  // in its box, which is positioned
    if (top < box.scrollTop || top + line.offsetHeight > box.scrollTop + box.clientHeight)
        box.scrollTop = top - box.clientHeight / 2;
}
at("first").onclick = () => show(0);
at("back").onclick = () => show(now - 1);
at("forward").onclick = () => show(now + 1);
at("last").onclick = () => show(steps.length - 1);
at("slider").oninput = () => show(Number(at("slider").value));
document.addEventListener("keydown", (event) => {
    const go = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: steps.length - 1 }[event.key];
    if (go === undefined || event.ctrlKey || event.altKey || event.metaKey || event.target === at("slider")) return;
    event.preventDefault();
    show(go);
});
show(0);
