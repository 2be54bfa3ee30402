// One schedule on the page: its nodes over time, its moment, its queue, its longest waits and why a job waited.

import { clock, duration, el, fill, gpuTime, number, percent } from "./dom.js";
import { Gantt } from "./gantt.js";
import { NodeMap } from "./nodes.js";
import { Table } from "./table.js";
import { Latest, getJson, getPacked } from "./data.js";
import { Decisions } from "./decisions.js";

let count = 0;

export class Side {
  // wishes: { zoom, go, failed }; letter: a or b; shift: seconds added to its clock so that two begin together
  constructor(parent, index, letter, meta, orders, wishes) {
    Object.assign(this, { index, letter, meta, orders, wishes, mark: null, state: null, shift: 0, order: "next" });
    this.id = `side${++count}`;
    this.root = el("div", { class: "side" });
    parent.append(this.root);
    [this.size, this.unit] = meta.kind === "mig batch" ? ["slices", "slice"] : ["GPUs", "GPU"];
    this.clockOf = (time) => clock(time - meta.begin, meta.end - meta.begin);
    this.build();
    const failed = wishes.failed;
    this.picture = new Latest((path) => getPacked(path), (data) => this.gotPicture(data), failed);
    this.moment = new Latest((path) => getJson(path), (state) => this.gotMoment(state), failed);
    this.decision = new Latest((path) => getJson(path), (state) => { this.decisions.show(state); this.wishes.shown("decisions"); }, failed);
  }

  build() {
    const m = this.meta, hint = "Drag to move, Shift or Ctrl and wheel to zoom, click a run for its job.";
    const told = el("p", { class: "told" }, hint);
    const tell = (words) => (told.textContent = words || hint);
    const section = (title, wide, ...inside) => {
      const id = `${this.id}-${++count}`;
      const card = el("section", { class: wide ? "card wide" : "card", "aria-labelledby": id }, el("h2", { id }, el("span", { class: `key ${this.letter}` }), title), ...inside);
      this.root.append(card);
      return card;
    };
    if (m.nodes.length) {
      const what = m.kind === "mig batch" ? "GPUs and their slices over time" : "Nodes over time";
      const canvas = el("canvas", { tabindex: "0", role: "application", "aria-label": `${what}: left and right arrow move the moment, plus and minus zoom, Home shows the whole run` });
      this.gantt = new Gantt(canvas, this.letter, { zoom: (a, b) => this.wishes.zoom(a + this.shift, b + this.shift), go: (t) => this.wishes.go(t + this.shift), pick: (job) => this.pick(job), told: tell });
      this.gantt.begin(m, this.clockOf);
      section(what, true, el("div", { class: "figure" }, canvas), told);
    }
    this.figures = el("dl", { class: "figures" });
    const now = section("This moment", true, this.figures);
    if (m.nodes.length) {
      const canvas = el("canvas", { role: "img", "aria-label": "GPUs of each node and who holds them at this moment" });
      const pointing = "Point at a GPU for its job.", line = el("p", { class: "told" }, pointing);
      this.map = new NodeMap(canvas, (job) => this.pick(job), (words) => (line.textContent = words || pointing));
      now.append(el("div", { class: "figure" }, canvas), line);
    }
    if (m.decisions) this.decisions = new Decisions(m.decisions, section, this.clockOf, (job) => this.pick(job));
    this.buildQueue(section);
    this.buildWhy(section);
  }

  buildQueue(section) {
    const choice = el("select", { onchange: (event) => { this.order = event.target.value; this.askMoment(); } },
      Object.entries(this.orders).map(([name, label]) => el("option", { value: name }, label)));
    this.queueNote = el("p", { class: "soft" });
    const card = section("Queue at this moment", false, el("label", {}, "Sorted by ", choice), this.queueNote);
    const size = this.size, unit = this.unit;
    this.queue = new Table(card, "Waiting jobs with what was known of each", [
      { head: "job", of: (r) => r.name, action: true },
      { head: size, of: (r) => number(r.gpus, 3), number: true },
      { head: "waited", of: (r) => duration(r.waited), number: true },
      { head: "attained", of: (r) => gpuTime(r.attained, unit), number: true },
      { head: "then starts in", of: (r) => duration(r.starts_in), number: true },
      ...this.meta.columns.map((name) => ({ head: name, of: (r) => worded(name, r.more[name]), number: name.startsWith("run time") })),
    ], (row) => this.pick(row.job));
  }

  buildWhy(section) {
    const card = section("Longest waits", false);
    this.worst = new Table(card, "Jobs that waited longest", [
      { head: "job", of: (r) => r.name, action: true },
      { head: this.size, of: (r) => number(r.gpus, 3), number: true },
      { head: "waited", of: (r) => duration(r.waited), number: true },
      { head: "submitted", of: (r) => this.clockOf(r.submitted), number: true },
    ], (row) => this.pick(row.job, true));
    this.worst.show(this.meta.worst, "No job waited.");
    const name = el("input", { type: "search", size: "18" });
    const find = el("form", { class: "controls", onsubmit: (event) => { event.preventDefault(); this.find(name.value); } },
      el("label", {}, "Job ", name), el("button", {}, "Find"));
    card.append(find);
    const why = section("Why it waited", true);
    this.why = el("div", { "aria-live": "polite" }, el("p", { class: "soft" }, "Choose a job: in the pictures, the queue, or among the longest waits."));
    why.append(this.why);
    const buttons = (parent, caption, columns, wide = "") => {
      const frame = el("div", { class: wide });
      parent.append(frame);
      return new Table(frame, caption, columns, (row) => this.pick(row.job));
    };
    this.whyTables = el("div", { class: "side", hidden: true });
    why.append(this.whyTables);
    const held = { head: "held", of: (r) => gpuTime(r.gpu_s, this.unit), number: true };
    const job = { head: "job", of: (r) => r.name, action: true }, gpus = { head: this.size, of: (r) => number(r.gpus, 3), number: true };
    const submitted = { head: "submitted", of: (r) => this.clockOf(r.submitted), number: true };
    this.holders = buttons(this.whyTables, "Who held the GPUs it could have used while it waited", [job, gpus, held, { head: "share", of: (r) => percent(r.share, 1), number: true }, submitted]);
    this.overtakers = buttons(this.whyTables, "Who came later and started while it waited, largest first", [job, gpus, { head: "started", of: (r) => this.clockOf(r.start), number: true }, held, submitted]);
    this.runs = buttons(this.whyTables, "Its own runs", [
      { head: "from", of: (r) => this.clockOf(r.start) }, { head: "to", of: (r) => this.clockOf(r.end) }, gpus,
      { head: this.meta.kind === "mig batch" ? "profile" : "ended", of: (r) => r.note }, { head: "where", of: (r) => (r.where.length > 3 ? `${r.where.length} nodes: ${r.where.slice(0, 3).join(", ")}, …` : r.where.join(", ")) },
    ], "wide");
  }

  ask(view) {
    this.view = { begin: view.begin - this.shift, end: view.end - this.shift, at: view.at - this.shift };
    if (this.gantt) {
      const { begin, end } = this.view, width = Math.min(2000, Math.max(200, this.gantt.canvas.parentElement.clientWidth));
      this.picture.want(`/api/${this.index}/picture?begin=${begin}&end=${end}&steps=${width}&high=${this.meta.nodes.length}`);
    }
    this.askMoment();
  }

  askMoment() {
    this.moment.want(`/api/${this.index}/moment?at=${this.view.at}&order=${this.order}`);
    if (this.decisions) this.decision.want(`/api/${this.index}/decision?at=${this.view.at}`);
  }

  move(view) {
    this.view = { begin: view.begin - this.shift, end: view.end - this.shift, at: view.at - this.shift };
    this.redraw();
  }

  redraw() {
    this.gantt?.draw(this.view, this.palette, this.mark);
    if (this.map && this.state) this.drawMap();
  }

  gotPicture(data) {
    this.gantt.palette = this.palette;
    this.gantt.give(data);
    this.gantt.draw(this.view, this.palette, this.mark);
    this.wishes.shown("pictures");
  }

  gotMoment(state) {
    this.state = state;
    const slices = this.size, gpus = this.meta.gpus;
    this.show("time", this.clockOf(state.at));
    this.show(`${slices} in use`, gpus ? `${number(state.busy_gpus, 1)} of ${number(gpus)} (${percent(state.busy_gpus / gpus)})` : number(state.busy_gpus, 1));
    this.show("running", number(state.running));
    this.show("waiting", number(state.queue.waiting));
    this.show(`${slices} asked for`, number(state.queue.gpus, 1));
    const told = state.queue.rows.length, waiting = state.queue.waiting;
    this.queueNote.textContent = waiting > told ? `The first ${told} of ${number(waiting)}.` : "";
    this.queue.show(state.queue.rows, "Nobody waits at this moment.");
    if (this.map) this.drawMap();
    this.wishes.shown("moments");
  }

  show(name, value) {
    this.values ??= {};
    if (!this.values[name]) {
      this.values[name] = el("dd");
      this.figures.append(el("div", {}, el("dt", {}, name), this.values[name]));
    }
    this.values[name].textContent = value;
  }

  drawMap() {
    const { bars, names } = this.state, pools = this.meta.pools;
    const rows = bars.node.map((node, k) => ({ node, top: bars.top[k], height: bars.height[k], key: bars.job[k], label: `${names[bars.job[k]]} (${number(bars.height[k], 3)})` }));
    this.named ??= this.meta.nodes.map((node) => ({ ...node, pool: pools[node.pool].name, short: node.name.replace(`${pools[node.pool].name} `, "") }));
    this.map.show(this.named, rows, this.state.outlines, this.palette, this.mark?.job ?? null);
  }

  async find(name) {
    if (!name) return;
    const { job } = await getJson(`/api/${this.index}/find?name=${encodeURIComponent(name)}`);
    if (job === null) this.wishes.failed(new Error(`no job of this schedule is called ${name}`));
    else this.pick(job, true);
  }

  // The other run's choice, where this one has a job of that name.
  async follow(name) {
    const { job } = await getJson(`/api/${this.index}/find?exact=true&name=${encodeURIComponent(name)}`);
    if (job !== null) this.told(await getJson(`/api/${this.index}/jobs/${job}`), false);
  }

  // go: also move the moment to where its wait began
  async pick(job, go = false) {
    try {
      const why = await getJson(`/api/${this.index}/jobs/${job}`);
      this.told(why, go);
      this.wishes.picked(this, why.name);
    } catch (error) {
      this.wishes.failed(error);
    }
  }

  told(why, go) {
    this.mark = { job: why.job, waits: why.waits };
    fill(this.why, ...this.sentences(why).map((line) => el("p", {}, line)));
    this.whyTables.hidden = false;
    this.holders.show(why.holders ?? [], "It did not wait: nobody was in its way.");
    this.overtakers.show(why.overtakers ?? [], "Nobody who came later started before it.");
    this.runs.show(why.runs, "It never ran.");
    this.wishes.shown("answers");
    if (go) this.wishes.go((why.waits[0]?.[0] ?? why.submitted) + this.shift);
    this.redraw();
    if (go) this.why.scrollIntoView({ block: "nearest" });
  }

  sentences(why) {
    const more = Object.entries(why.more).filter(([, value]) => value !== null).map(([name, value]) => `${name} ${worded(name, value)}`).join(", ");
    const lines = [`${why.name}: ${number(why.gpus, 3)} ${this.size}, submitted ${this.clockOf(why.submitted)}${more ? `; ${more}` : ""}.`];
    if (!why.waits.length) return [...lines, why.runs.length ? "It did not wait." : "It never started; why is not recorded."];
    const times = why.waits.length;
    lines.push(`It waited ${duration(why.waited)} in all${times > 1 ? `, in ${times} stretches` : ""}.`);
    const where = why.pools?.length ? ` in the pools that take it (${why.pools.join(", ")})` : "";
    lines.push(`Meanwhile ${number(why.started)} runs of others started${where}; ${number(why.overtook)} of jobs that came later, with ${gpuTime(why.overtook_gpu_s, this.unit)}, ${number(why.smaller)} of them smaller than it.`);
    if (why.room) lines.push(`As many GPUs as it asks for were free in ${percent(why.room.free_in_all, 1)} of its wait, and on as few nodes as they fit on in ${percent(why.room.free_together, 1)} (judged at 500 moments).`);
    return lines;
  }

  remove() {
    this.root.remove();
  }
}

function worded(name, value) {
  if (value === null || value === undefined) return "–";
  return name.startsWith("run time") ? duration(value) : String(value);
}
