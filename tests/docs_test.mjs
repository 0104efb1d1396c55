// Looks at every page of docs/site in a headless Chromium.
//
//   usage: node docs_test.mjs SITE SCREENSHOTS      (tools/docs --check installs what it needs and calls it)
//
// Each page, at 360 pixels in dark and at 1,280 in light: no error on the console, no request but for files
// of the site, every link leads somewhere, no sideways scrolling, no text below 11 pixels, no finding of
// axe-core. The stepper goes to the end of each recording and back, and shows what was recorded at each
// step. Each check prints `ok` or `FAIL`; the last line is `N passed, N failed`.
import { existsSync, mkdirSync, readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [site, screenshots] = process.argv.slice(2).map((p) => resolve(p));
const require = createRequire(join(process.cwd(), "package.json"));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const pages = readdirSync(site).filter((f) => f.endsWith(".html")).sort();
const address = (name) => pathToFileURL(join(site, name)).href;
let passed = 0, failed = 0;

function report(name, problems) {
    if (problems.length) {
        failed += 1;
        console.log(`FAIL ${name}\n     ${[...new Set(problems)].slice(0, 12).join("\n     ")}`);
    } else {
        passed += 1;
        console.log(`ok ${name}`);
    }
}
const same = (what, got, wanted) =>
    JSON.stringify(got) === JSON.stringify(wanted) ? [] : [`${what}: shown ${JSON.stringify(got)}, recorded ${JSON.stringify(wanted)}`];

// ---- what can be seen of a page ------------------------------------------------------------------

function measure() {
    const problems = [], root = document.documentElement;
    if (root.scrollWidth > innerWidth) {
        const wide = [...document.querySelectorAll("body *")].find((e) => e.getBoundingClientRect().right > innerWidth + 1);
        problems.push(`scrolls sideways: ${root.scrollWidth} > ${innerWidth}, by ${wide && wide.outerHTML.slice(0, 120)}`);
    }
    for (const image of document.images)
        if (!image.naturalWidth) problems.push(`no picture: ${image.alt}`);
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const parent = node.parentElement;
        if (!node.data.trim() || !parent.getClientRects().length || parent.closest("script, noscript")) continue;
        if (/!\[[^\]]*\]\(/.test(node.data)) problems.push(`Markdown: ${node.data.trim().slice(0, 60)}`);
        const style = getComputedStyle(parent);
        if (parseFloat(style.fontSize) < 11) problems.push(`${style.fontSize}: ${node.data.trim().slice(0, 60)}`);
        // what sticks out of a box that does not scroll cannot be read
        const box = parent.getBoundingClientRect();
        if (!parent.closest(".diagram, .table, .skip") && (box.left < -1 || box.right > innerWidth + 1))
            problems.push(`out of sight: ${node.data.trim().slice(0, 60)}`);
    }
    return problems;
}

async function look(browser, name, width, scheme, linked) {
    const problems = [];
    const page = await browser.newPage({ viewport: { width, height: 900 }, colorScheme: scheme });
    page.on("console", (m) => ["error", "warning"].includes(m.type()) && problems.push(`console: ${m.text()}`));
    page.on("pageerror", (e) => problems.push(`exception: ${e.message}`));
    page.on("request", (r) => /^(file|data):/.test(r.url()) || problems.push(`external request: ${r.url()}`));
    page.on("requestfailed", (r) => problems.push(`not loaded: ${r.url()}`));
    await page.goto(address(name));
    problems.push(...await page.evaluate(measure));
    await page.evaluate(axe);
    const found = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
    if (!found.passes.length) problems.push("axe-core has looked at nothing");
    for (const v of found.violations) problems.push(`axe ${v.id}: ${v.help}: ${v.nodes[0].html.slice(0, 160)}`);
    linked[name] = await page.evaluate(() => ({
        ids: [...document.querySelectorAll("[id]")].map((e) => e.id),
        links: [...document.querySelectorAll("a")].map((a) => a.getAttribute("href")),
        next: document.querySelector('a[rel="next"]')?.getAttribute("href") ?? null,
    }));
    const kind = name.replace(/^(stepper|steps|recipes|examples)-.*/, "$1");
    if (!existsSync(join(screenshots, `${kind}-${width}-${scheme}.png`)))
        await page.screenshot({ path: join(screenshots, `${kind}-${width}-${scheme}.png`), fullPage: true });
    await page.close();
    return problems;
}

function check_links(name, linked) {
    const problems = [];
    for (const link of linked[name].links) {
        if (/^https:\/\//.test(link ?? "")) continue;  // of the outside world: not looked up
        const [file, id] = (link ?? "").split("#");
        const target = linked[file || name];
        if (!link || !target) problems.push(`a link to ${link}, which is no page`);
        else if (id && !target.ids.includes(id)) problems.push(`a link to ${link}, which is not there`);
    }
    for (const id of linked[name].ids)
        if (linked[name].ids.filter((i) => i === id).length > 1) problems.push(`two have the id ${id}`);
    return problems;
}

// The contents and the "next" links are the same reading order, and leave no page out.
function check_order(linked) {
    const contents = linked["index.html"].links.filter((l) => l !== "index.html" && !l.startsWith("#"));
    const order = contents.filter((l, i) => contents.indexOf(l) === i && l !== "names.html").concat("names.html");
    const problems = pages.filter((p) => p !== "index.html" && !order.includes(p)).map((p) => `${p} is not in the contents`);
    order.forEach((name, i) => problems.push(...same(`next of ${name}`, linked[name]?.next, order[i + 1] ?? null)));
    return problems;
}

// ---- the stepper ---------------------------------------------------------------------------------

function shown() {
    const texts = (selector) => [...document.querySelectorAll(selector)].map((e) => e.textContent);
    const here = [...document.querySelectorAll("#source .here")];
    return {
        number: Number(document.getElementById("stepper").dataset.step),
        text: document.getElementById("text").textContent,
        line: here.length ? Number(here[0].dataset.line) : 0,
        lines: here.length,
        seen: here.every((e) => {
            const l = e.getBoundingClientRect(), box = e.closest("pre").getBoundingClientRect();
            return l.top >= box.top - 1 && l.bottom <= box.bottom + 1;
        }),
        queue: texts("#queue li:not(.none)"),
        jobs: [...document.querySelectorAll("#jobs tr")].map((r) => [...r.children].map((c) => c.textContent)),
        flight: texts("#flight li:not(.none)"),
        timers: texts("#timers li:not(.none)"),
        out: document.getElementById("out").textContent,
    };
}
function compare(number, step, got) {
    return [
        ...same("step", got.number, number), ...same("text", got.text, step.text),
        ...same("line", [got.line, got.lines], [step.line, step.line ? 1 : 0]), ...same("line in sight", got.seen, true),
        ...same("queue", got.queue, step.queue),
        ...same("jobs", got.jobs, step.jobs.map((j) => [(j.parent ? "└ " : "") + j.name, j.state, j.what, String(j.line)])),
        ...same("ring", got.flight, step.flight.map((f) => `${f.what}, for ${f.name}: ${f.state}`)),
        ...same("timers", got.timers, step.timers.map((t) => `${t.us / 1000} ms: ${t.what} of ${t.name}`)),
        ...same("printed", got.out, step.out.join("\n")),
    ].map((p) => `step ${number}: ${p}`);
}
async function replay(browser, name, width) {
    const page = await browser.newPage({ viewport: { width, height: 900 } });
    await page.goto(address(name));
    const steps = await page.evaluate(() => JSON.parse(document.getElementById("recording").textContent).steps);
    const problems = steps.length < 10 ? [`only ${steps.length} steps`] : [];
    for (const step of steps) {  // a request is told with its operation, and where it is awaited
        const told = step.event !== "submit" || (/: \w+ on descriptor \d+\.$/.test(step.text) && step.line > 0);
        if (!told || step.flight.some((f) => !f.what)) problems.push(`a request without a name: ${step.text}`);
    }
    const is = async (n) => problems.push(...compare(n, steps[n], await page.evaluate(shown)));
    await is(0);
    for (let n = 1; n < steps.length; n++) {  // forward with the button, to the end of the recording
        await page.click("#forward");
        await is(n);
    }
    if (!await page.isDisabled("#forward")) problems.push("at the end one can go on");
    await page.evaluate(() => document.activeElement.blur());
    for (let n = steps.length - 2; n >= 0; n--) {  // back with the key
        await page.keyboard.press("ArrowLeft");
        await is(n);
    }
    await page.keyboard.press("End");
    await is(steps.length - 1);
    problems.push(...await page.evaluate(measure));
    await page.screenshot({ path: join(screenshots, `${name.replace(".html", "")}-end-${width}.png`), fullPage: true });
    await page.close();
    return problems;
}

// ---- all of it -----------------------------------------------------------------------------------

mkdirSync(screenshots, { recursive: true });
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
try {
    const linked = {};
    const one = async (name) => {
        const problems = [];
        for (const [width, scheme] of [[360, "dark"], [1280, "light"]])
            problems.push(...(await look(browser, name, width, scheme, linked)).map((p) => `${width} ${scheme}: ${p}`));
        report(name, problems);
    };
    const left = [...pages];  // two at a time
    const worker = async () => { while (left.length) await one(left.shift()); };
    await Promise.all([worker(), worker()]);
    for (const name of pages) report(`links of ${name}`, check_links(name, linked));
    report("reading order", check_order(linked));
    const steppers = pages.filter((p) => p.startsWith("stepper-"));
    report("five recordings", steppers.length === 5 ? [] : [`${steppers.length}`]);
    for (const name of steppers)
        for (const width of [360, 1280]) report(`${name}, stepped through at ${width}`, await replay(browser, name, width));
} finally {
    await browser.close();
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed || !passed ? 1 : 0);
