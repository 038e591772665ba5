"use strict";
// Shows a part of the steps, around the cursor; 0: all of them.
function zoom(factor) {
  const [from, to] = range(), middle = view.cursor?.step ?? (from + to) / 2;
  view.range = null;
  const [first, last] = range(), length = (to - from) * factor;
  if (factor && length < last - first) {
    const start = Math.min(Math.max(first, middle - (middle - from) * factor), last - length);
    view.range = [start, start + length];
  }
  redraw();
}

const charts = new Map();
let asked = false;
function redraw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    for (const chart of charts.values()) chart.draw();
  });
}

// The curve of a key, in its panel; a metric that was not known gets a chart.
function curveOf(found) {
  const key = keyOf(found);
  if (!curves.has(key)) {
    if (!data.groups.includes(found.group)) { data.groups.push(found.group); legend(); }
    if (!charts.has(found.metric)) charts.set(found.metric, new Chart(found.metric, (folded.hidden = false, folded)));
    const curve = {...found, x: [], y: []};
    curves.set(key, curve);
    charts.get(found.metric).panels[found.split === "train" ? 0 : 1].add(curve);
  }
  return curves.get(key);
}

const root = document.getElementById("charts");
const groups = make("div", {className: "tools"});
const folded = make("details", {hidden: !data.more.length}, make("summary", {textContent: "More metrics"}));
folded.addEventListener("toggle", redraw);

function legend() {
  groups.replaceChildren(...data.groups.map(group => {
    const box = make("input", {type: "checkbox", checked: !view.hidden.has(group)});
    box.addEventListener("change", () => { view.hidden[box.checked ? "delete" : "add"](group); redraw(); });
    const swatch = make("i", {className: "swatch"});
    swatch.style.borderTop = `.3rem ${["solid", "dashed", "dotted"][dashOf(group)]} ${colorOf(group)}`;
    return make("label", {}, box, swatch, make("span", {textContent: group}));
  }));
}

function tools() {
  const log = make("input", {type: "checkbox", id: "log"});
  log.addEventListener("change", () => { view.log = log.checked; redraw(); });
  const button = (text, factor) => {
    const found = make("button", {type: "button", textContent: text});
    found.addEventListener("click", () => zoom(factor));
    return found;
  };
  return make("div", {className: "tools"}, button("Zoom in", .5), button("Zoom out", 2), button("Whole run", 0),
    make("label", {}, log, "Log scale"));
}

function start() {
  if (!data.curves.length && !data.live) return;
  const hint = "Drag across a curve to zoom, double-click for the whole run; the keys are arrows, + and -, 0.";
  root.replaceChildren(tools(), groups, make("p", {className: "hint", textContent: hint}));
  for (const metric of data.metrics) charts.set(metric, new Chart(metric, root));
  for (const metric of data.more) charts.set(metric, new Chart(metric, folded));
  root.append(folded);
  legend();
  data.curves.forEach(add);
  view.whole = whole();
  new ResizeObserver(redraw).observe(root);
  dark.addEventListener("change", () => { legend(); redraw(); });
  redraw();
}

function add(found) {
  const curve = curveOf(found);
  if (found.reset) [curve.x, curve.y] = [[], []];
  curve.x.push(...found.x);
  curve.y.push(...found.y);
  if (curve.x.length > MOST) thin(curve);
}

// Paper is white, and has everything open.
function printing(on) {
  view.printing = on;
  for (const details of document.querySelectorAll("details")) {
    if (on) details.dataset.was = details.open;
    details.open = on || details.dataset.was === "true";
  }
  legend();
  for (const chart of charts.values()) chart.draw();
}
addEventListener("beforeprint", () => printing(true));
addEventListener("afterprint", () => printing(false));

// Server-sent events: what runs have logged since, and how far they are.
function follow() {
  const status = make("div", {className: "table", tabIndex: 0});
  const words = make("p");
  root.before(words, status);
  const source = new EventSource(`events?version=${data.live}`);
  source.onopen = () => { words.textContent = "Live: the curves grow as the runs log."; };
  source.onerror = () => { words.textContent = "The server does not answer; this page waits for it."; };
  source.onmessage = event => {
    const {reload, runs, series} = JSON.parse(event.data);
    if (reload) return location.reload();
    series.forEach(add);
    view.whole = whole();
    const row = (cells, tag) => make("tr", {}, ...cells.map(text => make(tag, {textContent: text})));
    status.replaceChildren(make("table", {}, make("thead", {}, row(["run", "status", "step", "best"], "th")),
      make("tbody", {}, ...runs.map(run => row(run, "td")))));
    redraw();
  };
}

start();
if (data.live) follow();
