"""Why a job waits, when it will start, what would change that, and what is about to happen: in words and numbers.

`why`, `queue` and `plan` look at the present on the engine's thread and take milliseconds. `when` and `what_if` look ahead on a
picture of it (`Engine.ask(lambda engine: picture(engine))`), in the thread of the caller.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rltune.core import live as kernels
from rltune.core.state import BACKFILLS, CONSERVATIVE, EASY, NOW, ON_GPUS, QUEUED, STRICT, Sim
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import WHOLE
from rltune.nouns.mig_profiles import PROFILES
from rltune.service.records import SUSPENDED, WAITING, Record
from rltune.service.specs import JobSpec, request_of
from rltune.simulator.ahead import Past, Starts, starts, with_job, with_nodes, with_rules
from rltune.simulator.live import LiveCluster
from rltune.simulator.requests import Live, Rules

if TYPE_CHECKING:
    from rltune.service.engine import Engine

NAMED = 5
"""Jobs ahead that are named."""
SHARES = (0.1, 0.5, 0.9)
"""Quantiles of `when`."""
BACKFILL_NAMES = {code: name for name, code in BACKFILLS.items()}


# --- why --------------------------------------------------------------------------------------


def why(engine: Engine, record: Record) -> dict[str, Any]:
    """Why a job or lease does not hold GPUs now: its place in the order, and what it lacks.

    ``reasons``: one line each, the binding one first; ``ahead``: how many stand before it, and the first of them.
    """
    if record.state not in (WAITING, SUSPENDED):
        return {
            "state": record.state,
            "reasons": [f"it is {record.state}{f': {record.reason}' if record.reason else ''}"],
        }
    live, sim = engine.live, engine.live.sim
    kernels.in_order(live.state)
    row, waiting = live.jobs[record.id].row, sim.queue[: sim.counts[QUEUED]]
    at = np.flatnonzero(waiting == row)
    if not len(at):
        return {"state": record.state, "reasons": ["it has only just come and is about to be decided on"]}
    position = int(at[0])
    ahead = [live.of_row(int(k)) for k in waiting[: min(position, NAMED)]]
    out: dict[str, Any] = {
        "state": record.state, "position": position + 1, "waiting": len(waiting), "ahead": position,
        "ahead_gpus": float(np.sum(sim.detail.size[sim.choices.way[sim.detail.way[waiting[:position]]]])),
        "first_ahead": [one.id for one in ahead if one is not None],
        "policy": engine.policy_name, "waited_s": engine.now - float(sim.detail.since[row]),
    }  # fmt: skip
    out["reasons"] = reasons(live, sim, row, position)
    if sim.params.backfill == EASY and not math.isinf(reserved := float(kernels.reservation(live.state, row))):
        # What `reserve` leaves in the work space is made anew at every pass.
        out["fits_by_s"] = max(0.0, reserved - float(sim.clock[NOW]))
    return out


def reasons(live: LiveCluster, sim: Sim, row: int, position: int) -> list[str]:
    """What keeps a waiting job from starting."""
    if not kernels.fits_now(live.state, row):
        found = [line for q in ways_of(sim, row) if (line := lack(live, sim, row, q)) is not None]
        return list(dict.fromkeys(found)) or ["no way of it has room now"]
    if position == 0:
        return ["there is room for it: it starts at the next instant"]
    params = sim.params
    if params.backfill == STRICT:
        return [
            "there is room for it, but jobs start strictly in order (backfill=strict), and one ahead of it does not fit"
        ]
    if params.backfill == EASY:
        return [
            "there is room for it now, but it would delay the first job in the queue, for which its GPUs are reserved"
        ]
    if params.backfill == CONSERVATIVE:
        return ["there is room for it now, but it would delay jobs ahead of it, which hold reservations"]
    if params.patience > 0:
        return [f"there is room for it once it has waited {params.patience:g} s (what a suspension costs)"]
    return ["there is room for it: it starts at the next instant"]


def ways_of(sim: Sim, row: int) -> range:
    """The choices of a job's class."""
    c = int(sim.jobs.cls[row])
    return range(int(sim.choices.ptr[c]), int(sim.choices.ptr[c + 1]))


def lack(live: LiveCluster, sim: Sim, row: int, q: int) -> str | None:
    """What one way of a job lacks now, in one line."""
    pool, way, demand = int(sim.choices.pool[q]), int(sim.choices.way[q]), sim.detail.demand
    where, room = live.cluster.pools[pool], sim.space.room
    name = where.gpu_type if where.gpu_type != "any" else f"pool {where.name}"
    nodes = slice(int(sim.cluster.pool_lo[pool]), int(sim.cluster.pool_hi[pool]))
    group = int(sim.detail.group[row])
    if group >= 0 and int(sim.detail.amount[way]) > int(sim.space.left[group]):
        vc, quota = list(live.rules.options.quotas or ())[group]
        held = quota - int(sim.space.left[group]) / WHOLE
        return f"{vc} holds {held:g} of the {quota:g} GPUs of its quota, {int(sim.detail.amount[way]) / WHOLE:g} more are asked for"
    market = sim.detail.market
    if has_market_now(sim):
        c = int(sim.jobs.cls[row])
        last = int(sim.choices.ptr[c]) + int(market.upto[c]) - 1
        if market.excess[q] > market.excess[market.rank[last]]:
            return f"{name} is {100 * float(market.excess[q]):.0f} % dearer than its cheapest way at present prices: it waits for that"
    open_ = room.closed[nodes] == 0
    shut = int((~open_).sum())
    more = f" ({shut} of {where.nodes} nodes are drained or lost)" if shut else ""
    profile, gpus, milli = int(demand.profile[way]), int(demand.gpus[way]), int(demand.milli[way])
    if profile >= 0:
        free = int(room.whole[nodes][open_].sum())
        return f"{name}: no GPU has a free place for a slice {PROFILES[profile]}; {free} are wholly free{more}"
    whole = room.whole[nodes][open_]
    if milli == 0:
        return (
            f"{name}: no node has {float(demand.cpus[way]):g} CPU cores and {float(demand.memory[way]):g} GB free{more}"
        )
    if milli < WHOLE:
        best = int(room.largest[nodes][open_].max(initial=0))
        return f"{name}: needs {milli / WHOLE:g} of a GPU, {best / WHOLE:g} is the most that one has free{more}"
    total, most, cap = int(whole.sum()), int(whole.max(initial=0)), where.gpus_per_node
    if total < gpus:
        return f"{name}: needs {gpus} GPUs, {total} of {where.gpus} are free{more}"
    if gpus <= cap:
        return f"{name}: needs {gpus} GPUs on one node; {total} are free, but at most {most} on one{more}"
    return f"{name}: needs {gpus} GPUs on as few nodes as they fit on; {total} are free, on too many nodes{more}"


def has_market_now(sim: Sim) -> bool:
    """Whether ways are chosen by price."""
    return len(sim.detail.market.knobs) > 0


# --- the queue, and the plan ---------------------------------------------------------------------


def queue(engine: Engine, most: int = 100) -> dict[str, Any]:
    """The first waiting jobs in the order in which they are gone through, and how many there are."""
    live, sim = engine.live, engine.live.sim
    kernels.in_order(live.state)
    waiting = sim.queue[: sim.counts[QUEUED]]
    rows = [live.of_row(int(row)) for row in waiting[:most]]
    return {
        "waiting": len(waiting),
        "running": int((sim.detail.status == ON_GPUS).sum()),
        "first": [entry(one) for one in rows if one is not None],
    }  # fmt: skip


def entry(one: Live) -> dict[str, Any]:
    """A waiting job in a list."""
    return {"id": one.id, "gpus": one.request.gpus, "mig": one.request.mig, "tenant": one.request.vc}


def plan(engine: Engine) -> dict[str, Any]:
    """By what is decided, for whom places are reserved, and what the integer program had to say at its last decision."""
    live, sim = engine.live, engine.live.sim
    out: dict[str, Any] = {
        "policy": engine.policy_name,
        "backfill": BACKFILL_NAMES[int(sim.params.backfill)],
        "now_s": engine.now,
    }
    out |= {"allocator": live.rules.allocator if isinstance(live.rules.allocator, str) else "milp"}
    kernels.in_order(live.state)
    if sim.params.backfill == EASY and sim.counts[QUEUED]:
        head = int(sim.queue[0])
        one, at = live.of_row(head), float(kernels.reservation(live.state, head))
        out["reserved"] = {
            "job": None if one is None else one.id, "in_s": None if math.isinf(at) else max(0.0, at - float(sim.clock[NOW]))
        }  # fmt: skip
    if not isinstance(live.rules.allocator, str):
        solver = live.rules.allocator.solver
        out["milp"] = solver.stats.as_dict() | {"last_decision": solver.last}
    market = sim.detail.market
    if has_market_now(sim):
        out["prices"] = {
            pool.name: {"price": float(price), "dual": float(dual)}
            for pool, price, dual in zip(live.cluster.pools, market.price, market.dual, strict=True)
        }
    return out


# --- looking ahead ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Picture:
    """The present, taken on the engine's thread, to be looked at elsewhere."""

    live: LiveCluster
    past: Past
    now_s: float
    policy: str


def picture(engine: Engine) -> Picture:
    """Cheap: copies of arrays."""
    done = [x for x in engine.past if x[1] > 0]
    ratio = np.array([run / believed for run, _, believed in done if believed > 0])
    past = Past(np.array([x[0] for x in done]), np.array([x[1] for x in done], np.int64), ratio)
    return Picture(engine.live.picture(), past, engine.now, engine.policy_name)


def when(seen: Picture, job: str, samples: int = 32) -> dict[str, Any]:
    """When a waiting job will start if no further job is submitted: seconds from now by which it does with these probabilities."""
    if job not in seen.live.jobs:
        raise InputError(f"{job} does not wait")
    return told(starts(seen.live, seen.past, [job], samples), job)


def told(found: Starts, job: str) -> dict[str, Any]:
    """One job's quantiles as plain values; null: not within the horizon."""
    at = found.quantiles(job, SHARES)
    out: dict[str, Any] = {f"p{round(100 * share)}_s": finite(value) for share, value in zip(SHARES, at, strict=True)}
    known = "run times spread as past beliefs did" if found.spread else "believed run times taken as they are"
    short = (
        ""
        if found.complete
        else "; the queue is too long for the time of an answer: null is later than was looked ahead"
    )
    return out | {"samples": len(found.start_s), "assumes": f"no further submissions; {known}{short}"}


def finite(value: float) -> float | None:
    return None if math.isinf(value) else value


def what_if(seen: Picture, question: dict[str, Any], rules: Rules | None = None, tenant: str = "") -> dict[str, Any]:
    """What the waiting jobs would wait from now on in another world, beside this one; both see the same run times.

    ``question``: {"job": spec} submitted now; {"nodes": {"pool": name, "add": n}}; or ``rules`` that decide from now on.
    """
    before, after, name = seen.live, seen.live, None
    if rules is not None:
        after = with_rules(before, rules)
    elif "nodes" in question:
        after = with_nodes(before, str(question["nodes"]["pool"]), int(question["nodes"]["add"]))
    else:
        spec, name = JobSpec.model_validate(question["job"]), "what-if"
        request = request_of(spec, tenant, before.cluster)
        known = request.estimate_s if not math.isnan(request.estimate_s) else 3600.0
        after = with_job(before, name, request, known)
    old, new = starts(before, seen.past), starts(after, seen.past)
    out: dict[str, Any] = {"waiting": len(old.jobs), "before": mean_of(old), "after": mean_of(new, old.jobs)}
    out["later"], out["sooner"] = moved(old, new)
    if name is not None:
        out["job"] = told(new, name) if name in new.jobs else {f"p{round(100 * share)}_s": 0.0 for share in SHARES}
    return out


def mean_of(found: Starts, among: Sequence[str] | None = None) -> dict[str, Any]:
    """Mean wait from now on of these jobs; those that have started wait no more."""
    names = found.jobs if among is None else among
    at = {name: k for k, name in enumerate(found.jobs)}
    known = [found.start_s[:, at[name]] if name in at else np.zeros(len(found.start_s)) for name in names]
    table = np.array(known) if known else np.zeros((0, len(found.start_s)))
    reached = table[np.isfinite(table)]
    return {
        "mean_wait_s": float(reached.mean()) if len(reached) else 0.0,
        "not_started": int((~np.isfinite(table)).any(axis=1).sum()),
    }


def moved(old: Starts, new: Starts) -> tuple[int, int]:
    """Of the jobs that wait in the old world: how many start later, and sooner, by the median, by more than a second."""
    if not old.jobs or not len(old.start_s):
        return 0, 0
    at = {name: k for k, name in enumerate(new.jobs)}
    a = np.median(old.start_s, axis=0)
    b = np.array([np.median(new.start_s[:, at[name]]) if name in at else 0.0 for name in old.jobs])
    with np.errstate(invalid="ignore"):
        gap = np.where(np.isinf(a) & np.isinf(b), 0.0, b - a)
    return int((gap > 1.0).sum()), int((gap < -1.0).sum())
