// The live service: queue, nodes, leases, policy, events, and for operators what can be changed.

import { byId, colours, duration, el, fill, number, onThemeChange } from "./dom.js";
import { NodeMap } from "./nodes.js";
import { Table } from "./table.js";
import { Refused, ask, follow, token } from "./service.js";

const EVERY_MS = 5000, MOST_EVENTS = 200, SETTLE_MS = 300;
const POINT = "Point at a GPU for who holds it, choose it for why.";
const state = { caller: null, nodes: [], chosen: null, due: 0 };
let palette = colours();

const map = new NodeMap(byId("map"), (id) => choose(id), (words) => (byId("told").textContent = words || POINT));
const sizeOf = (spec) => spec.profile ?? spec.mig ?? `${spec.gpus ?? 1} GPU${(spec.gpus ?? 1) === 1 ? "" : "s"}`;
const ago = (at) => (at === null ? "–" : duration(Math.max(0, Date.now() / 1000 - at)));
const placed = (record) => record.places.map((p) => `${p.node}: ${p.profile ? `${p.profile} of ` : ""}GPU ${p.gpus.join(", ")}`).join("; ");
const name = { head: "name", of: (r) => r.id, action: true };
const tenant = { head: "tenant", of: (r) => r.tenant };

const queue = new Table(byId("queue"), "Waiting jobs and leases", [
  { head: "#", of: (r) => r.place, number: true }, name, { head: "asks for", of: (r) => r.mig ?? `${number(r.gpus, 3)} GPUs` }, tenant,
], (row) => choose(row.id));
const running = new Table(byId("running"), "Jobs that hold GPUs", [
  name, { head: "asks for", of: (r) => sizeOf(r.spec) }, tenant, { head: "runs for", of: (r) => ago(r.began_s), number: true }, { head: "where", of: placed },
], (row) => choose(row.id));
const leases = new Table(byId("leases"), "Leases that are held or waited for", [
  name, { head: "asks for", of: (r) => sizeOf(r.spec) }, tenant, { head: "state", of: (r) => r.state },
  { head: "ends in", of: (r) => (r.expires_s === null ? "–" : duration(r.expires_s - Date.now() / 1000)), number: true }, { head: "where", of: placed },
], (row) => choose(row.id));
const nodes = new Table(byId("nodes"), "Nodes", [
  { head: "node", of: (n) => n.name }, { head: "GPUs", of: (n) => `${n.gpus.length} ${n.gpu_type}` }, { head: "state", of: (n) => n.state }, { head: "reason", of: (n) => n.reason },
  { head: "change", of: (n) => (operates() ? (n.state === "open" ? `drain ${n.name}` : n.state === "drained" ? `undrain ${n.name}` : "") : ""), action: true },
], (node) => act(() => ask(`/v1/nodes/${encodeURIComponent(node.name)}/${node.state === "open" ? "drain" : "undrain"}`, "POST")));

function operates() {
  return state.caller?.role === "operator";
}

function failed(error) {
  byId("error").textContent = error.message;
  if (error instanceof Refused && error.status === 401) leave();
}

async function act(change) {
  byId("error").textContent = "";
  try {
    await change();
    await refresh();
  } catch (error) {
    failed(error);
  }
}

// --- coming and going --------------------------------------------------------------------------

async function enter() {
  byId("error").textContent = "";
  if (!token.get() && document.documentElement.dataset.auth !== "none") return leave();
  try {
    state.caller = await ask("/v1/me");
  } catch (error) {
    return failed(error);
  }
  const { name: called, role, tenant: of } = state.caller;
  byId("who").textContent = `${called}, ${role}${of ? ` of ${of}` : ""}`;
  byId("login").hidden = true;
  byId("all").hidden = false;
  byId("leave").hidden = !token.get();
  byId("change").hidden = !operates();
  await refresh().catch(failed);
  const begin = await lastEvents().catch(() => 0);
  follow(begin, (event) => { tell(event); soon(); }, (well) => (byId("stream").textContent = well ? "Events come as they happen." : "The service is away; it is asked again."));
}

function leave() {
  token.forget();
  byId("all").hidden = true;
  byId("login").hidden = false;
  byId("leave").hidden = true;
  byId("who").textContent = "";
}

// --- what there is -----------------------------------------------------------------------------

async function refresh() {
  const [held, waiting, jobs, let_, policy] = await Promise.all([
    allNodes(), ask("/v1/queue"), ask("/v1/jobs?state=running&limit=100"), ask("/v1/leases?state=alive&limit=100"), ask("/v1/policy"),
  ]);
  state.nodes = held.nodes;
  figures("figures", {
    cluster: held.cluster, "GPUs held": `${number(held.gpus_held)} of ${number(held.gpus)}`, running: number(held.jobs_running),
    waiting: number(held.jobs_waiting), nodes: number(held.nodes.length), "out of service": number(held.nodes.filter((n) => n.state !== "open").length),
  });
  draw();
  queue.show(waiting.first.map((row, k) => ({ ...row, place: k + 1 })), "Nobody waits.");
  running.show(jobs.items, "No job runs.");
  leases.show(let_.items, "No lease is held.");
  nodes.show(held.nodes, "No nodes.");
  showPolicy(policy);
}

async function allNodes() {
  const first = await ask("/v1/cluster?limit=1000");
  for (let next = first.next; next; ) {
    const page = await ask(`/v1/cluster?limit=1000&cursor=${encodeURIComponent(next)}`);
    first.nodes.push(...page.nodes);
    next = page.next;
  }
  return first;
}

function draw() {
  const bars = [], outlines = [];
  state.nodes.forEach((node, k) => node.gpus.forEach((gpu, g) => {
    const share = 1 / Math.max(1, gpu.held_by.length), of = gpu.memory_slices;
    gpu.held_by.forEach((id, j) => bars.push({ node: k, top: g + j * share, height: share, key: id, label: `GPU ${gpu.gpu}: ${id}` }));
    gpu.instances.forEach((slice) => {
      const place = { node: k, top: g + slice.start / of, height: slice.memory_slices / of, label: `GPU ${gpu.gpu}, ${slice.profile}: ${slice.held_by ?? "free"}` };
      outlines.push(place);
      if (slice.held_by) bars.push({ ...place, key: slice.held_by });
    });
  }));
  map.show(state.nodes.map((n) => ({ name: n.name, pool: n.pool, gpus: n.gpus.length, state: n.state })), bars, outlines, palette, state.chosen);
}

function figures(where, values) {
  fill(byId(where), Object.entries(values).map(([key, value]) => el("div", {}, el("dt", {}, key), el("dd", {}, value))));
}

function showPolicy(policy) {
  const guarded = (p) => (p.guard && policy.known.models.includes(p.policy) ? ", guarded" : "");
  const told = (p) => (p ? `${p.policy}, ${p.backfill}, ${p.allocator}${guarded(p)}` : "none");
  const shadow = policy.shadow;
  figures("policy", {
    decides: told(policy), before: told(policy.before), shadow: shadow ? shadow.policy : "none",
    ...(shadow ? { "shadow agreed": `${number(shadow.agreed)} of ${number(shadow.compared)} compared`, "started by one alone": `${number(shadow.only_active)} active, ${number(shadow.only_shadow)} shadow` } : {}),
    ...(shadow?.error ? { "shadow failed": shadow.error } : {}),
  });
  const known = state.policy;
  state.policy = policy;
  if (known) return;
  const options = (list, chosen) => list.map((value) => el("option", { value, selected: value === chosen }, value));
  const orders = [...policy.known.policies, ...policy.known.models];
  fill(byId("new-policy"), options(orders, policy.policy));
  fill(byId("new-backfill"), options(policy.known.backfills, policy.backfill));
  fill(byId("new-shadow"), options(["off", ...orders], shadow?.policy ?? "off"));
}

// --- one job -----------------------------------------------------------------------------------

async function choose(id) {
  state.chosen = id;
  draw();
  byId("error").textContent = "";
  const show = (...lines) => fill(byId("why"), el("h3", {}, id), lines.map((line) => el("p", {}, line)));
  show("…");
  try {
    if (id.startsWith("lease")) return show(...about(await ask(`/v1/leases/${encodeURIComponent(id)}`)));
    const [record, why] = await Promise.all([ask(`/v1/jobs/${encodeURIComponent(id)}`), ask(`/v1/jobs/${encodeURIComponent(id)}/why`)]);
    const lines = [...about(record), ...reasons(why)];
    if (!["waiting", "suspended"].includes(record.state)) return show(...lines);
    show(...lines, "When: the future is being simulated …");
    const when = await ask(`/v1/jobs/${encodeURIComponent(id)}/when`);
    const at = (s) => (s === null ? "not within the horizon" : duration(s));
    if (state.chosen === id) show(...lines, `Starts within ${at(when.p50_s)} as likely as not (10 %: ${at(when.p10_s)}, 90 %: ${at(when.p90_s)}); ${when.assumes}.`);
  } catch (error) {
    show(error.message);
  }
}

function about(record) {
  return [`${record.kind} of ${record.tenant}: ${record.state}${record.reason ? ` (${record.reason})` : ""}; asks for ${sizeOf(record.spec)}; submitted ${ago(record.submit_s)} ago.`,
    record.places.length ? `Holds or held last ${placed(record)}.` : null].filter(Boolean);
}

function reasons(why) {
  const lines = why.reasons.map((line) => `Why: ${line}.`);
  if (why.position) lines.push(`Place ${why.position} of ${why.waiting} under ${why.policy}; ahead ${number(why.ahead_gpus, 2)} GPUs${why.first_ahead.length ? `, first ${why.first_ahead.join(", ")}` : ""}.`);
  if (why.fits_by_s !== undefined) lines.push(`Its GPUs are free in ${duration(why.fits_by_s)} at the latest, as run times are believed.`);
  return lines;
}

// --- events ------------------------------------------------------------------------------------

async function lastEvents() {
  let next = 0;
  for (;;) {
    const page = await ask(`/v1/events?follow=false&since=${next}`);
    if (page.next === next) return next;
    page.items.slice(-MOST_EVENTS).forEach(tell);
    next = page.next;
  }
}

function tell(event) {
  // What the name of the event says already, or is of no use to people, is left out.
  const { at_s, what, job } = event, out = ["seq", "at_s", "what", "job", "tenant", "state", "run", "ready_s", "speed"];
  const rest = Object.entries(event).filter(([key, value]) => !out.includes(key) && value !== null && value !== "")
    .map(([key, value]) => `${key} ${typeof value === "object" ? [value].flat().map((x) => (typeof x === "object" ? JSON.stringify(x) : x)).join(", ") : value}`).join("; ");
  byId("events").prepend(el("li", {}, `${new Date(at_s * 1000).toLocaleTimeString()} ${what}${job ? ` ${job}` : ""}${rest ? ` (${rest})` : ""}`));
  while (byId("events").children.length > MOST_EVENTS) byId("events").lastChild.remove();
}

// Many events come at once: the page asks anew when they have settled.
function soon() {
  clearTimeout(state.due);
  state.due = setTimeout(() => refresh().catch(failed), SETTLE_MS);
}

byId("login-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set(byId("token").value.trim());
  byId("token").value = "";
  enter();
});
byId("leave").addEventListener("click", () => { leave(); location.reload(); });
byId("change").addEventListener("submit", (event) => {
  event.preventDefault();
  // Only what was changed is sent: a policy that is put in its own place would become its own "one before".
  const wanted = { policy: byId("new-policy").value, backfill: byId("new-backfill").value, shadow: byId("new-shadow").value };
  const present = { policy: state.policy.policy, backfill: state.policy.backfill, shadow: state.policy.shadow?.policy ?? "off" };
  const changes = Object.fromEntries(Object.entries(wanted).filter(([key, value]) => value !== present[key]));
  if (Object.keys(changes).length) act(() => ask("/v1/policy", "PUT", changes));
});
byId("rollback").addEventListener("click", () => act(() => ask("/v1/policy", "PUT", { rollback: true })));
setInterval(() => { if (!byId("all").hidden && !document.hidden) refresh().catch(failed); }, EVERY_MS);
addEventListener("resize", () => requestAnimationFrame(draw));
onThemeChange(() => { palette = colours(); draw(); });
enter();
