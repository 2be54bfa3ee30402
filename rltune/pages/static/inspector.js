// The inspector: one or two schedules on one clock.

import { byId, clock, colours, el, fill, number, onThemeChange, percent } from "./dom.js";
import { Latest, getJson, getPacked } from "./data.js";
import { Lines } from "./series.js";
import { Side } from "./side.js";

const NONE = "";
const state = { begin: 0, end: 1, at: 0, from: 0, to: 1, sides: [], playing: false };
let palette = colours();
let lists;

// How often each picture was drawn from an answer: what tests and measurements wait for.
const shown = (what) => (document.body.dataset[what] = String(1 + Number(document.body.dataset[what] ?? 0)));
const picked = (side, name) => state.sides.filter((other) => other !== side).forEach((other) => other.follow(name).catch(wishes.failed));
const wishes = { zoom, go, shown, picked, failed: (error) => (byId("error").textContent = error.message) };
const clockOf = (time) => clock(time - state.from, state.to - state.from);
const busy = new Lines(byId("busy"), [{ label: "a", colour: "a", fill: true }, { label: "b", colour: "b" }], wishes, (v) => percent(v));
const waiting = new Lines(byId("waiting"), [{ label: "a", colour: "a", fill: true }, { label: "b", colour: "b" }], wishes, (v) => number(v, 1));
const series = new Latest(askSeries, showSeries, wishes.failed);

async function begin() {
  lists = await getJson("/api/schedules");
  const options = () => lists.labels.map((label, k) => el("option", { value: k }, label));
  fill(byId("first"), options());
  fill(byId("second"), el("option", { value: NONE }, "nothing"), options());
  if (lists.labels.length === 2) byId("second").value = "1";
  await choose();
}

async function choose() {
  byId("error").textContent = "";
  const wanted = [["a", byId("first").value], ["b", byId("second").value]].filter(([, value]) => value !== NONE);
  const metas = await Promise.all(wanted.map(([, value]) => getJson(`/api/${value}`)));
  state.sides.forEach((side) => side.remove());
  byId("sides").className = wanted.length > 1 ? "columns" : "";
  state.sides = wanted.map(([letter, value], k) => new Side(byId("sides"), Number(value), letter, metas[k], lists.orders, wishes));
  const first = metas[0];
  // Two of one trace share its clock; others are laid over each other from their beginnings.
  for (const side of state.sides) {
    side.shift = side.meta.begin < first.end && side.meta.end > first.begin ? 0 : first.begin - side.meta.begin;
    side.palette = palette;
  }
  state.from = first.begin;
  state.begin = Math.min(...state.sides.map((s) => s.meta.begin + s.shift));
  state.to = state.end = Math.max(...state.sides.map((s) => s.meta.end + s.shift));
  state.at = state.begin;
  byId("title").textContent = metas.map((m) => m.title).join(" beside ");
  const mig = first.kind === "mig batch";
  byId("busy-head").textContent = mig ? "Memory slices in use" : "GPUs in use";
  byId("queue-head").textContent = mig ? "Waiting tasks" : "Waiting jobs";
  document.title = `${first.title} – rltune inspect`;
  fill(byId("facts"), told(state.sides));
  const missing = [...new Set(metas.flatMap((m) => m.missing))];
  const never = state.sides.filter((s) => s.meta.never_started).map((s) => `${number(s.meta.never_started)} jobs of run ${s.letter} never started; they are left out of the queue`);
  fill(byId("missing"), [...missing, ...never].map((line) => el("li", {}, line)));
  wholeSpan = [state.begin, state.end];
  refresh();
}

let wholeSpan = [0, 1];

function told(sides) {
  return sides.map((side) => {
    const m = side.meta, facts = Object.entries(m.facts).filter(([, value]) => typeof value !== "object").map(([name, value]) => `${name} ${value}`);
    const remarks = (m.facts.remarks ?? []).map((line) => el("li", {}, line));
    const what = m.kind === "mig batch" ? "tasks" : "jobs";
    return el("div", {}, el("span", { class: `key ${side.letter}` }), [`${number(m.jobs)} ${what}, ${number(m.runs)} runs`, ...facts, side.shift ? "(moved so that both begin together)" : ""].filter(Boolean).join(" · "), remarks.length ? el("ul", {}, remarks) : null);
  });
}

async function askSeries(view) {
  const steps = Math.min(2000, Math.max(100, byId("busy").clientWidth));
  return Promise.all(state.sides.map((side) => getPacked(`/api/${side.index}/series?begin=${view.begin - side.shift}&end=${view.end - side.shift}&steps=${steps}`)));
}

function showSeries(found) {
  if (found.length !== state.sides.length) return;
  const x = Array.from(found[0].time, (t) => t + state.sides[0].shift);
  const share = (data, side) => Array.from(data.busy_gpus, (v) => (side.meta.gpus ? v / side.meta.gpus : v));
  const empty = x.map(() => null);
  const rows = found.map((data, k) => [share(data, state.sides[k]), Array.from(data.queued_jobs)]);
  busy.show([x, rows[0][0], rows[1]?.[0] ?? empty], state, palette);
  waiting.show([x, rows[0][1], rows[1]?.[1] ?? empty], state, palette);
  shown("lines");
}

function refresh() {
  byId("slider").value = String(Math.round((10000 * (state.at - state.begin)) / (state.end - state.begin)));
  showClock();
  series.want({ begin: state.begin, end: state.end });
  for (const side of state.sides) {
    side.move(state);
    side.ask(state);
  }
}

function showClock() {
  byId("clock").textContent = clockOf(state.at);
  byId("slider").setAttribute("aria-valuetext", clockOf(state.at));
}

function go(time) {
  const span = state.end - state.begin;
  state.at = Math.min(Math.max(time, wholeSpan[0]), wholeSpan[1]);
  if (state.at < state.begin || state.at > state.end) return zoom(state.at - span / 2, state.at + span / 2);
  byId("slider").value = String(Math.round((10000 * (state.at - state.begin)) / span));
  showClock();
  busy.redraw(state);
  waiting.redraw(state);
  for (const side of state.sides) {
    side.move(state);
    side.askMoment();
  }
}

function zoom(begin, end) {
  const [low, high] = wholeSpan, least = (high - low) / 1e6;
  let span = Math.min(Math.max(end - begin, least), high - low);
  if (!Number.isFinite(span)) span = high - low;
  state.begin = Math.min(Math.max(Number.isFinite(begin) ? begin : low, low), high - span);
  state.end = state.begin + span;
  state.at = Math.min(Math.max(state.at, state.begin), state.end);
  busy.redraw(state);
  waiting.redraw(state);
  refresh();
}

function play(on) {
  state.playing = on;
  byId("play").textContent = on ? "Pause" : "Play";
  byId("play").setAttribute("aria-pressed", String(on));
  let last = performance.now();
  const tick = (now) => {
    if (!state.playing) return;
    const step = ((now - last) / 1000) * ((state.end - state.begin) / Number(byId("speed").value));
    last = now;
    if (state.at + step >= state.end) return play(false);
    go(state.at + step);
    requestAnimationFrame(tick);
  };
  if (on) {
    if (state.at >= state.end - 1e-9) go(state.begin);
    requestAnimationFrame(tick);
  }
}

async function jump(direction) {
  const side = state.sides[0];
  const found = await getJson(`/api/${side.index}/starts?at=${state.at - side.shift}&direction=${direction}`);
  if (found.at !== null) go(found.at + side.shift);
}

byId("first").addEventListener("change", () => choose().catch(wishes.failed));
byId("second").addEventListener("change", () => choose().catch(wishes.failed));
byId("slider").addEventListener("input", (event) => go(state.begin + (Number(event.target.value) / 10000) * (state.end - state.begin)));
byId("play").addEventListener("click", () => play(!state.playing));
byId("back").addEventListener("click", () => jump(-1).catch(wishes.failed));
byId("on").addEventListener("click", () => jump(1).catch(wishes.failed));
const half = (factor) => zoom(state.at - (state.at - state.begin) * factor, state.at + (state.end - state.at) * factor);
byId("closer").addEventListener("click", () => half(0.5));
byId("wider").addEventListener("click", () => half(2));
byId("whole").addEventListener("click", () => zoom(...wholeSpan));
let resizing = 0;
addEventListener("resize", () => {
  cancelAnimationFrame(resizing);
  resizing = requestAnimationFrame(refresh);
});
onThemeChange(() => {
  palette = colours();
  for (const side of state.sides) side.palette = palette;
  refresh();
});
begin().catch(wishes.failed);
