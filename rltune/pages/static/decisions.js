// What was decided at the moment, and by what: the policy's scores, who may start, who was chosen; the terms of the integer program.

import { duration, el, fill, gpuTime, number, percent } from "./dom.js";
import { Table } from "./table.js";

const significant = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en", { maximumSignificantDigits: 5 }));
const probability = (p) => (p === null ? "" : ` with probability ${p > 0.9995 ? "above 0.999" : number(p, 3)}`);
const words = (name) => name.replaceAll("_", " ").replace(/\bgpus\b/g, "GPUs");

// A number that a policy saw, in words; logarithms end where they are clipped.
function worded(value, feature) {
  if (value === null || value === undefined) return "–";
  if (feature.kind === "flag") return value ? "yes" : "no";
  if (feature.kind === "share") return percent(value, 1);
  const logarithm = feature.kind.startsWith("log");
  const least = logarithm && value >= 0.999 * (Math.expm1(1 / feature.scale) + (feature.kind === "log" ? 1 : 0)) ? "≥ " : "";
  if (feature.unit === "s") return least + duration(value);
  if (feature.unit === "GPU-s") return least + gpuTime(value);
  return least + number(value, logarithm ? 1 : 3);
}

export class Decisions {
  // about: what the server says of the tables; section(title, wide) -> card; clockOf(time) -> text; pick(job)
  constructor(about, section, clockOf, pick) {
    Object.assign(this, { about, clockOf, pick, state: null, step: 0, solve: 0 });
    this.buildPolicy(section("What the policy decided", true));
    if (about.milp) this.buildProgram(section("What the integer program weighed", true));
  }

  buildPolicy(card) {
    const picks = this.about.picks;
    this.line = el("p");
    this.steps = stepper("pick", (by) => { this.step += by; this.showPolicy(); });
    card.append(this.line, this.steps.root);
    const caption = picks ? "Jobs as the agent saw them, best first; the score is its logit, the largest is chosen" : `Jobs in the policy's order, those that start on top; the smallest score goes first: ${this.about.score}`;
    const frame = el("div", { class: "scored" });
    card.append(frame);
    this.jobs = new Table(frame, caption, [
      { head: "job", of: (r) => r.name, action: true },
      { head: "decision", of: (r) => (r.mark === "chosen" && !picks ? "starts" : r.mark === "runner-up" && !picks ? "next in order" : r.mark) },
      { head: "score", of: (r) => significant(r.score), number: true },
      { head: picks ? "may be picked" : "fits now", of: (r) => (r.legal ? "yes" : picks ? "masked" : "no") },
      ...this.about.features.map((x, k) => ({ head: words(x.name), of: (r) => worded(r.features[k], x), number: x.kind !== "flag" })),
    ], (row) => this.pick(row.job));
    this.seen = el("dl", { class: "figures" });
    const more = [...this.about.levers, ...this.about.seen];
    if (more.length) {
      const title = this.about.picks ? "The cluster, as the agent saw it" : "Levers of the round, and what the agent saw when it set them (each from 0 to 1)";
      card.append(el("details", {}, el("summary", {}, title), this.seen));
    }
  }

  buildProgram(card) {
    this.solved = el("p");
    this.solves = stepper("decision", (by) => { this.solve += by; this.showProgram(); });
    card.append(this.solved, this.solves.root);
    this.terms = new Table(card, "Objective of the chosen plan beside the runner-up: each term with its weight, to be small; a level counts only among plans that are equal in those before it", [
      { head: "level", of: (r) => r.level, number: true },
      { head: "term", of: (r) => words(r.term) },
      { head: "weight", of: (r) => (r.weight === null ? "" : significant(r.weight)), number: true },
      { head: "chosen plan", of: (r) => significant(r.chosen), number: true },
      { head: "runner-up", of: (r) => significant(r.runner_up), number: true },
      { head: "bound", of: (r) => (r.term === "sum" ? significant(r.bound) : ""), number: true },
    ], () => {});
  }

  show(state) {
    const same = (name) => this.state?.[name]?.time === state[name]?.time;
    if (!same("policy")) this.step = 0;
    if (!same("milp")) this.solve = 0;
    this.state = state;
    this.showPolicy();
    if (this.about.milp) this.showProgram();
  }

  showPolicy() {
    const found = this.state.policy;
    this.steps.show(this.step, found?.steps.length ?? 0, found?.count ?? 0);
    if (!found) {
      this.line.textContent = "No decision up to this moment.";
      this.jobs.show([], "");
      fill(this.seen);
      return;
    }
    const now = found.steps[this.step];
    this.line.textContent = `${this.clockOf(found.time)}, ${number(now.waiting)} waiting. ${this.about.picks ? picked(now) : started(now)}`;
    this.jobs.show(now.jobs, "No job was to be seen.");
    const pair = (name, value) => el("div", {}, el("dt", {}, words(name)), el("dd", {}, value));
    fill(this.seen, this.about.levers.map((name, k) => pair(name, significant(now.levers[k]))), this.about.seen.map((x, k) => pair(x.name, worded(now.seen[k], x))));
  }

  showProgram() {
    const found = this.state.milp;
    this.solves.show(this.solve, found?.steps.length ?? 0, found?.count ?? 0);
    if (!found) {
      this.solved.textContent = this.about.solves ? "The solver had not been asked up to this moment." : "The solver was never asked: every decision was settled without it.";
      this.terms.show([], "");
      return;
    }
    const now = found.steps[this.solve], gap = now.gap === null ? "no bound" : now.gap > 0 ? `gap ${significant(now.gap)}` : "no gap";
    const other = now.runner_up === null ? "there was no other plan" : `runner-up: ${words(now.runner_up)}`;
    const why = now.reason ? ` The model's plan is not used: ${words(now.reason)}.` : "";
    this.solved.textContent = `${this.clockOf(found.time)}: ${now.jobs} jobs decided on together, ${now.starts} of them run. Chosen: the plan of ${words(now.winner)}; ${other}. Status ${words(now.status)}, ${gap}, ${number(now.states)} ${now.states === 1 ? "state" : "states"} of nodes, ${number(1000 * now.solve_s, 1)} ms.${why}`;
    this.terms.show(now.lines, "");
  }
}

function picked(now) {
  const name = (one) => (one.job === -1 ? "to wait" : one.name);
  const second = now.runner_up.job === -2 ? "there was nothing else to do" : `runner-up: ${name(now.runner_up)}${probability(now.runner_up.p)}`;
  const wait = now.wait_score === null ? "" : ` Waiting scored ${significant(now.wait_score)}.`;
  return `Chosen: ${name(now.chosen)}${probability(now.chosen.p)}; ${second}.${wait}`;
}

function started(now) {
  const next = now.runner_up.job === -2 ? "nobody else waited" : `next in order: ${now.runner_up.name}`;
  if (!now.started) return `Nobody started, though a job fitted; ${next}.`;
  return `${now.started === 1 ? `${now.chosen.name} started` : `${number(now.started)} jobs started, first in order ${now.chosen.name}`}; ${next}.`;
}

// Steps within one instant; hidden where there is one.
function stepper(what, go) {
  const label = el("span", { "aria-live": "polite" });
  // A button that is disabled while it is in use would lose the keyboard's place.
  const step = (by) => (event) => event.currentTarget.getAttribute("aria-disabled") === "true" || go(by);
  const back = el("button", { type: "button", onclick: step(-1) }, `Previous ${what}`);
  const on = el("button", { type: "button", onclick: step(1) }, `Next ${what}`);
  const root = el("p", { class: "controls" }, back, on, label);
  const show = (at, told, count) => {
    root.hidden = told < 2;
    back.setAttribute("aria-disabled", String(at <= 0));
    on.setAttribute("aria-disabled", String(at >= told - 1));
    label.textContent = `${at + 1} of ${count}${count > told ? `, the first ${told} of which are told` : ""} at this instant`;
  };
  return { root, show };
}
