"use strict";
const data = JSON.parse(document.getElementById("curve-data").textContent);
const COLORS = [["#00796b", "#4db6ac"], ["#c2410c", "#fb923c"], ["#1d4ed8", "#7aa2ff"], ["#a21caf", "#e879f9"],
  ["#4d7c0f", "#a3d34e"], ["#be123c", "#fb7185"], ["#0e7490", "#67d3e8"], ["#854d0e", "#e3b341"]];
const DASHES = [[], [8, 4], [2, 3]];  // of the first groups, one for each colour; of those after them
const dark = matchMedia("(prefers-color-scheme: dark)");
const PAD = {left: 56, right: 10, top: 8, bottom: 24}, MOST = 2000, KEPT = 1000;
const view = {range: null, whole: [0, 1], log: false, cursor: null, printing: false, hidden: new Set()};
const curves = new Map(), panels = [];

const make = (tag, fields = {}, ...inner) => {
  const found = Object.assign(document.createElement(tag), fields);
  found.append(...inner);
  return found;
};
const isDark = () => dark.matches && !view.printing;
const placeOf = group => Math.max(0, data.groups.indexOf(group));
const colorOf = group => COLORS[placeOf(group) % COLORS.length][isDark() ? 1 : 0];
const dashOf = group => Math.floor(placeOf(group) / COLORS.length) % DASHES.length;
const ink = (light, night) => isDark() ? night : light;
const keyOf = c => [c.group, c.run, c.split, c.metric, c.mean ?? false].join("\n");

function number(value) {
  if (value === null) return "not finite";
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-4 || size >= 1e7) ? value.toExponential(3) : String(Number(value.toPrecision(4)));
}

// The ticks of an axis as [value, label]: one unit and as many decimals as tell them apart.
function labelled(values) {
  if (values.length < 2) return values.map(value => [value, number(value)]);
  const size = Math.max(...values.map(Math.abs)), step = values[1] - values[0];
  const decimals = unit => Math.max(0, -Math.floor(Math.log10(step / unit) + 1e-9));
  const [unit, name] = [[1e9, "G"], [1e6, "M"], [1e3, "k"]].find(([unit]) => size >= Math.max(1e4, unit) && decimals(unit) < 2) ?? [1, ""];
  const digits = decimals(unit), options = {minimumFractionDigits: digits, maximumFractionDigits: digits};
  const text = value => !value ? "0" : digits > 5 ? value.toExponential(1) : (value / unit).toLocaleString("en", options) + (value ? name : "");
  return values.map(value => [value, text(value)]);
}

// Ticks at 1, 2 or 5 times a power of ten; on a logarithmic axis at powers of ten, if there are two.
function ticks(low, high, count, log) {
  const found = logTicks(low, high, log);
  if (found.length > 1) return found.map(tick => [tick, tick >= 1e-3 && tick < 1e5 ? number(tick) : tick.toExponential(0).replace("+", "")]);
  const values = [], rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find(digit => digit * power >= rough) ?? 10);
  for (let n = Math.ceil(low / step); n * step <= high; n++) values.push(Number((n * step).toPrecision(12)));
  return labelled(values);
}
function logTicks(low, high, log) {
  if (!log) return [];
  const from = Math.floor(Math.log10(low)), to = Math.ceil(Math.log10(high)), every = Math.ceil((to - from) / 6) || 1;
  const within = digits => {
    const found = [];
    for (let power = from; power <= to; power += every) for (const digit of digits) found.push(Number(`${digit}e${power}`));
    return found.filter(tick => tick >= low && tick <= high);
  };
  const powers = within([1]);
  return powers.length > 2 ? powers : within([1, 2, 5]);
}

// The first place whose step is not below the step.
function place(x, step) {
  let low = 0, high = x.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (x[middle] < step) low = middle + 1; else high = middle;
  }
  return low;
}

// Min-max downsampling of a curve that has grown: of each stretch the smallest and the largest stay.
function thin(curve) {
  const {x, y} = curve, kept = new Set([0, x.length - 1]), parts = KEPT / 2;
  for (let part = 0; part < parts; part++) {
    const from = Math.floor(part * x.length / parts), to = Math.floor((part + 1) * x.length / parts);
    let low = from, high = from;
    for (let n = from; n < to; n++) {
      if (y[n] === null) kept.add(n);
      if (y[n] < y[low]) low = n;
      if (y[n] > y[high]) high = n;
    }
    kept.add(low).add(high);
  }
  const order = [...kept].sort((a, b) => a - b);
  [curve.x, curve.y] = [order.map(n => x[n]), order.map(n => y[n])];
}

const shown = curve => !view.hidden.has(curve.group);
const range = () => view.range ?? view.whole;

// The steps of all curves.
function whole() {
  let low = Infinity, high = -Infinity;
  for (const {x} of curves.values()) if (x.length) [low, high] = [Math.min(low, x[0]), Math.max(high, x.at(-1))];
  return low < high ? [low, high] : low === high ? [low - 1, high + 1] : [0, 1];
}

class Chart {
  constructor(metric, parent) {
    this.metric = metric;
    const grid = make("div", {className: "panels"});
    this.words = make("h3", {textContent: metric});
    parent.append(make("div", {className: "chart"}, this.words, grid));
    this.panels = ["train", "evaluation"].map(side => new Panel(this, side, grid));
    panels.push(...this.panels);
  }
  // Both sides have one scale, that of what is in view.
  scale() {
    const [from, to] = range();
    let low = Infinity, high = -Infinity, positive = true;
    for (const panel of this.panels)
      for (const curve of panel.curves) {
        if (!shown(curve)) continue;
        for (let n = Math.max(0, place(curve.x, from)); n < curve.x.length && curve.x[n] <= to; n++) {
          const value = curve.y[n];
          if (value === null) continue;
          if (value <= 0) positive = false;
          if (value < low) low = value;
          if (value > high) high = value;
        }
      }
    const log = view.log && positive && low < Infinity;
    this.words.textContent = view.log && !positive ? `${this.metric} (linear: not all values are above 0)` : this.metric;
    if (low > high) [low, high] = [0, 1];
    if (low === high) [low, high] = log ? [low / 2, high * 2] : [low - Math.abs(low || 1) / 2, high + Math.abs(high || 1) / 2];
    const margin = log ? (high / low) ** .04 : (high - low) * .04;
    return log ? {low: low / margin, high: high * margin, log} : {low: low - margin, high: high + margin, log};
  }
  draw() {
    if (!this.panels.some(panel => panel.canvas.clientWidth)) return;
    const scale = this.scale();
    for (const panel of this.panels) panel.draw(scale);
  }
}

class Panel {
  constructor(chart, side, parent) {
    Object.assign(this, {chart, side, curves: [], near: null, drag: null, seen: true});
    this.canvas = make("canvas", {tabIndex: 0});
    this.canvas.setAttribute("role", "img");
    this.readout = make("div", {className: "readout"});
    this.box = make("div", {className: "panel", hidden: true}, this.readout, this.canvas);
    parent.append(this.box);
    for (const kind of ["pointermove", "pointerdown", "pointerup", "pointerleave", "pointercancel", "dblclick", "keydown"])
      this.canvas.addEventListener(kind, event => this[kind](event));
  }
  add(curve) {
    this.curves.push(curve);
    this.box.hidden = false;
  }
  // From a step and a value to pixels, and back.
  x(step) { const [from, to] = range(); return PAD.left + (step - from) / (to - from) * this.inner[0]; }
  step(x) { const [from, to] = range(); return from + (x - PAD.left) / this.inner[0] * (to - from); }
  y(value, {low, high, log}) {
    const share = log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
    return PAD.top + (1 - share) * this.inner[1];
  }
  draw(scale) {
    if (this.box.hidden || !this.canvas.clientWidth) return;
    const {clientWidth: width, clientHeight: height} = this.canvas, dense = Math.max(devicePixelRatio, view.printing ? 3 : 1);
    if (this.canvas.width !== Math.round(width * dense)) this.canvas.width = Math.round(width * dense);
    if (this.canvas.height !== Math.round(height * dense)) this.canvas.height = Math.round(height * dense);
    this.inner = [width - PAD.left - PAD.right, height - PAD.top - PAD.bottom];
    this.scale = scale;
    const pen = this.canvas.getContext("2d");
    pen.setTransform(dense, 0, 0, dense, 0, 0);
    pen.clearRect(0, 0, width, height);
    this.axes(pen, scale);
    pen.save();
    pen.beginPath();
    pen.rect(PAD.left, PAD.top - 3, this.inner[0] + 3, this.inner[1] + 6);
    pen.clip();
    for (const mean of [false, true]) for (const curve of this.curves)
      if (shown(curve) && Boolean(curve.mean) === mean) this.line(pen, curve, scale);
    this.cursor(pen, scale);
    pen.restore();
    this.describe();
  }
  axes(pen, scale) {
    const [width, height] = this.inner, [from, to] = range();
    pen.font = "12px system-ui, sans-serif";
    pen.lineWidth = 1;
    pen.strokeStyle = ink("#e3e8e9", "#323d42");
    pen.fillStyle = ink("#5a686c", "#9aa8ac");
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    for (const [tick, label] of ticks(scale.low, scale.high, 7, scale.log)) {
      const y = Math.round(this.y(tick, scale)) + .5;
      pen.beginPath(); pen.moveTo(PAD.left, y); pen.lineTo(PAD.left + width, y); pen.stroke();
      pen.fillText(label, PAD.left - 6, y);
    }
    pen.textBaseline = "top";
    pen.textAlign = "center";
    for (const [tick, label] of ticks(from, to, Math.max(3, width / 70), false)) {
      const x = this.x(tick), half = pen.measureText(label).width / 2;
      pen.fillText(label, Math.min(x, PAD.left + width + PAD.right - half), PAD.top + height + 7);
    }
  }
  line(pen, curve, scale) {
    const [from, to] = range(), {x, y} = curve;
    const crowd = this.curves.filter(other => other.group === curve.group && !other.mean).length > 1 && !curve.mean;
    pen.strokeStyle = pen.fillStyle = colorOf(curve.group);
    pen.globalAlpha = crowd && !data.live ? .35 : 1;
    pen.lineWidth = curve.mean ? 2.2 : crowd ? 1 : 1.7;
    pen.lineJoin = "round";
    const both = curve.split === "valid" && this.curves.some(other => other.split === "test");
    pen.setLineDash([...DASHES[dashOf(curve.group)], ...(both ? [5, 3] : [])]);
    pen.beginPath();
    let drawn = 0, down = false;
    const first = Math.max(0, place(x, from) - 1);
    for (let n = first; n < x.length; n++) {
      if (y[n] === null || (scale.log && y[n] <= 0)) { down = false; continue; }
      const point = [this.x(x[n]), this.y(y[n], scale)];
      if (down) pen.lineTo(...point); else pen.moveTo(...point);
      [down, drawn] = [true, drawn + 1];
      if (x[n] > to) break;
    }
    pen.stroke();
    pen.setLineDash([]);
    if (drawn === 1) for (let n = first; n < x.length; n++) if (y[n] !== null) this.dot(pen, x[n], y[n], scale, 3);
    pen.globalAlpha = 1;
  }
  dot(pen, step, value, scale, size) {
    pen.beginPath();
    pen.arc(this.x(step), this.y(value, scale), size, 0, 7);
    pen.fill();
  }
  // The step under the cursor, in every panel; and the value of the curve that is nearest to it.
  cursor(pen, scale) {
    this.readout.textContent = this.title();
    if (view.drag?.panel === this) {
      const [a, b] = view.drag.steps.map(step => this.x(step));
      pen.fillStyle = ink("#00796b22", "#4db6ac33");
      pen.fillRect(Math.min(a, b), PAD.top, Math.abs(b - a), this.inner[1]);
    }
    if (view.cursor === null || view.printing) return;
    const found = this.nearest(view.cursor);
    if (!found) return;
    const {curve, n} = found, x = Math.round(this.x(curve.x[n])) + .5;
    pen.strokeStyle = ink("#8a979b", "#7b888d");
    pen.lineWidth = 1;
    pen.beginPath(); pen.moveTo(x, PAD.top); pen.lineTo(x, PAD.top + this.inner[1]); pen.stroke();
    pen.fillStyle = colorOf(curve.group);
    this.dot(pen, curve.x[n], curve.y[n], scale, 4);
    const who = data.groups.length > 1 ? `${curve.group}, ${curve.run}` : curve.run;
    this.readout.textContent = `${curve.split}: step ${curve.x[n].toLocaleString("en")}, ${number(curve.y[n])} (${who})`;
  }
  title() {
    return [...new Set(this.curves.map(curve => curve.split))].join(", ");
  }
  // Of the panel under the pointer the curve nearest to it; of the others the same run.
  nearest({step, y, panel, curve: same}) {
    let best = null;
    for (const curve of this.curves) {
      if (!shown(curve) || !curve.x.length) continue;
      let n = Math.min(place(curve.x, step), curve.x.length - 1);
      if (n > 0 && step - curve.x[n - 1] < curve.x[n] - step) n--;
      if (curve.y[n] === null || (this.scale.log && curve.y[n] <= 0)) continue;
      const [from, to] = range();
      if (curve.x[n] < from || curve.x[n] > to) continue;
      const across = Math.abs(this.x(curve.x[n]) - this.x(step));
      const off = panel === this && y !== null ? Math.hypot(this.y(curve.y[n], this.scale) - y, across)
        : same && same.group === curve.group && same.run === curve.run ? across - 1e6 : across - (curve.mean ? 1e3 : 0);
      if (!best || off < best.off) best = {curve, n, off};
    }
    if (best && panel === this) view.cursor.curve = best.curve;
    return best;
  }
  describe() {
    const ends = this.curves.filter(shown).slice(0, 12).map(c => `${c.group} ${c.run} ${c.split} ${number(c.y.at(-1) ?? null)}`);
    this.canvas.setAttribute("aria-label", `${this.chart.metric}, ${this.side}, by step; last values: ${ends.join("; ")}. `
      + "Arrow keys move the cursor, plus and minus zoom, 0 shows the whole run.");
  }
  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }
  pointermove(event) {
    const [x, y] = this.at(event);
    if (view.drag?.panel === this) view.drag.steps[1] = this.step(Math.min(Math.max(x, PAD.left), PAD.left + this.inner[0]));
    view.cursor = {step: this.step(x), y, panel: this};
    redraw();
  }
  pointerdown(event) {
    if (event.pointerType !== "mouse") return this.pointermove(event);
    const step = this.step(this.at(event)[0]);
    view.drag = {panel: this, steps: [step, step]};
    this.canvas.setPointerCapture(event.pointerId);
  }
  pointerup() {
    const [a, b] = view.drag?.steps.slice().sort((one, two) => one - two) ?? [0, 0];
    if (b > a && this.x(b) - this.x(a) > 8) view.range = [a, b];
    view.drag = null;
    redraw();
  }
  pointercancel() { view.drag = null; }
  pointerleave(event) {
    if (event.pointerType === "mouse" && !view.drag) { view.cursor = null; redraw(); }
  }
  dblclick() { zoom(0); }
  keydown(event) {
    const way = {ArrowLeft: -1, ArrowRight: 1}[event.key], closer = {"+": .5, "=": .5, "-": 2, "0": 0}[event.key];
    if (closer !== undefined) zoom(closer);
    else if (way) {
      const [from, to] = range(), step = view.cursor?.step ?? (from + to) / 2;
      view.cursor = {step: Math.min(to, Math.max(from, step + way * (to - from) / 50)), y: null, panel: null};
      redraw();
    } else return;
    event.preventDefault();
  }
}
