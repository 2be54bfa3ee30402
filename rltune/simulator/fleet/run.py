"""`simulate_fleet`: from jobs and names to a finished detailed simulation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from rltune.allocators.sharing_fragments import MEASURES, TaskTypes, task_types
from rltune.allocators.sharing_mig import INDICES, START_BIT
from rltune.allocators.sharing_rules import SHARING_RULES
from rltune.cluster import Cluster
from rltune.core import priorities
from rltune.core.conservative import RAN_OUT, with_profile
from rltune.core.loop import FINISHED_ALL, LOG_FULL, begin, run
from rltune.core.reference import ref
from rltune.core.state import (
    BACKFILLS,
    DROPPED,
    EVENTS,
    LOGGED,
    Columns,
    Floats,
    Parameters,
    Sim,
    build_full,
    with_larger_log,
)
from rltune.errors import InputError
from rltune.jobs import WHOLE, JobTable
from rltune.mig_profiles import SIZE
from rltune.policies.dynamic import STATIC
from rltune.policies.knowledge import forecast_error
from rltune.policies.learn import group_table
from rltune.policies.orders import order, static_rank
from rltune.policies.preemptive import PREEMPTIVE, PREEMPTIVE_ALIASES, Preemptive
from rltune.simulator.fleet.options import (
    Options,
    check_quotas_suffice,
    job_quotas,
    job_speed,
    job_weights,
    listed_events,
)
from rltune.simulator.joint import REST, Joint, JointAllocator
from rltune.simulator.result import Result
from rltune.simulator.runs import Runs, frozen_runs

CODES = {
    "srtf": priorities.SRTF, "srsf": priorities.SRSF, "las": priorities.LAS, "priority": priorities.PRIORITY,
    "round_robin": priorities.ROUND_ROBIN, "lottery": priorities.LOTTERY, "wfq": priorities.WFQ,
    "fair_user": priorities.FAIR_SHARE, "fair_vc": priorities.FAIR_SHARE,
}  # fmt: skip


def preemptive_policy(name: str) -> Preemptive | None:
    """The policy of that name, if it is one that only the detailed simulation has."""
    return PREEMPTIVE.get(PREEMPTIVE_ALIASES.get(name, name))


def simulate_fleet(
    jobs: JobTable,
    cluster: Cluster,
    *,
    policy: str,
    backfill: str,
    allocator: str | JointAllocator,
    known_s: Floats | None,
    options: Options,
) -> Result:
    """Run every job; see `rltune.simulator.run.simulate_jobs`. ``known_s`` None: learned online."""
    if isinstance(allocator, str) and allocator not in SHARING_RULES:
        raise InputError(
            f"allocator {allocator!r} is not available in the detailed simulation; known are {', '.join(SHARING_RULES)}, milp"
        )
    online = known_s is None
    estimate = np.full(len(jobs), np.nan) if known_s is None else known_s
    params, rank, flow = _policy_of(jobs, policy, backfill, allocator, estimate, online, options)
    speed, notes = job_speed(options, jobs, cluster)
    weighted = params.order in (priorities.LOTTERY, priorities.WFQ)
    columns = Columns(
        known=estimate,
        rank=rank,
        weight=job_weights(options, np.asarray(jobs.priority)) if weighted else np.ones(len(jobs)),
        flow=flow,
        speed=speed,
        quotas=job_quotas(options, jobs, cluster),
        groups=group_table(jobs) if online else np.zeros((0, 0), np.int64),
    )
    listed, thresholds = listed_events(options, cluster), np.array(options.las_levels_gpu_s, np.float64)
    sim = build_full(jobs, cluster, columns, params, listed, thresholds, _types(jobs, cluster, allocator))
    check_quotas_suffice(jobs, sim, options.quotas or ())
    sim = with_profile(sim, cluster)
    joint = None if isinstance(allocator, str) else Joint.of(allocator, jobs, cluster, sim)
    state = ref(sim)
    begin(state)
    while (code := run(state)) != FINISHED_ALL:
        if code == LOG_FULL:
            state = ref(with_larger_log(state.value))
        elif joint is not None:
            joint.decide(state)
    sim = state.value
    result = _result(jobs, cluster, sim, online, notes)
    return result if joint is None else replace(result, allocator_stats=joint.allocator.stats.as_dict())


def _types(jobs: JobTable, cluster: Cluster, allocator: str | JointAllocator) -> TaskTypes | None:
    """The workload, where places are chosen by a measure of fragmentation."""
    rule = allocator if isinstance(allocator, str) else REST
    return task_types(jobs, cluster, rule) if rule in MEASURES else None


def _policy_of(
    jobs: JobTable,
    name: str,
    backfill: str,
    allocator: str | JointAllocator,
    estimate: Floats,
    online: bool,
    options: Options,
) -> tuple[Parameters, Any, Any]:
    """Scalars of the simulation, static rank (n_jobs,) and flow (n_jobs,)."""
    n = len(jobs)
    special = preemptive_policy(name)
    rank, flow = np.zeros(n, np.int64), np.zeros(n, np.int64)
    unknown = np.isnan(estimate).any() and not online
    if special is not None:
        code, on_event, on_tick, timed = CODES[special.name], special.on_event, special.on_tick, special.needs_run_time
        if special.flow is not None:
            flow = getattr(jobs, special.flow).codes.astype(np.int64) + 1
    else:
        chosen = order(name)
        code, on_event, on_tick, timed = chosen.code, False, False, chosen.needs_run_time
        if online and timed and code == STATIC:
            raise InputError(
                f"policy {name} ranks jobs before they arrive; with runtimes=online use fifo, srtf, srsf, wfp3, unicef, "
                "sexp or lexp, or runtimes=predicted"
            )
        if code == STATIC:
            rank = static_rank(chosen, jobs, estimate)
    if options.preemptive is not None:
        on_event = options.preemptive
        on_tick = on_tick and options.preemptive
    if unknown and (timed or backfill in ("easy", "conservative")):
        what = f"policy {name}" if timed else f"backfill={backfill}"
        raise InputError(f"{what} needs run times; use runtimes=exact, requested, predicted or online")
    if (on_event or on_tick) and backfill != "skip":
        raise InputError(f"policy {name} suspends jobs, backfill={backfill} holds GPUs back; use backfill=skip")
    joint = not isinstance(allocator, str)
    if joint and (on_event or on_tick):
        raise InputError(
            f"policy {name} suspends jobs, allocator milp decides only who starts; use another policy, or an allocator of "
            f"{', '.join(SHARING_RULES)}"
        )
    last = float(jobs.submit_s[-1])
    if on_tick and last + options.quantum_s == last:
        raise InputError(
            f"submit_s up to {last:g}: a quantum of {options.quantum_s:g} s is lost in rounding; shift the times"
        )
    if on_tick and options.overhead_s >= options.quantum_s:
        raise InputError(
            f"quantum_s={options.quantum_s:g} is no longer than suspend_s + resume_s + migrate_s = "
            f"{options.overhead_s:g}: jobs would never get on; use a longer quantum"
        )
    params = Parameters(
        order=code, on_event=bool(on_event), on_tick=bool(on_tick), joint=joint, backfill=BACKFILLS[backfill],
        rule=SHARING_RULES[REST if joint else str(allocator)], quantum=float(options.quantum_s), suspend=float(options.suspend_s),
        resume=float(options.resume_s), migrate=float(options.migrate_s), checkpoint=_or_never(options.checkpoint_s),
        node_mtbf=_or_never(options.node_mtbf_s), node_repair=float(options.node_repair_s),
        gpu_mtbf=_or_never(options.gpu_mtbf_s), retries=int(options.max_retries), half_life=float(options.half_life_s),
        reservations=-1 if options.reservations is None else int(options.reservations), learns=online, seed=int(options.seed),
    )  # fmt: skip
    return params, rank, flow


def _or_never(seconds: float | None) -> float:
    return np.inf if seconds is None else float(seconds)


def _result(jobs: JobTable, cluster: Cluster, sim: Sim, online: bool, notes: tuple[str, ...]) -> Result:
    runs = _runs(jobs, cluster, sim)
    extra: dict[str, Any] = {"throughput": list(notes)} if notes else {}
    if online:
        extra["forecast"] = forecast_error(jobs, sim.jobs.known)
    if sim.detail.profile.counts[RAN_OUT]:
        extra["reservations_simplified"] = int(sim.detail.profile.counts[RAN_OUT])
    return Result(
        jobs,
        cluster,
        sim.start,
        sim.detail.final,
        lambda: runs,
        int(sim.counts[EVENTS]),
        int(sim.counts[DROPPED]),
        extra=extra,
    )


def _runs(jobs: JobTable, cluster: Cluster, sim: Sim) -> Runs:
    log, n = sim.detail.log, int(sim.counts[LOGGED])
    by_start = np.lexsort((log.job[:n], log.start[:n]))
    length = np.diff(log.ptr[: n + 1])[by_start]
    ptr = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
    where = np.repeat(log.ptr[:n][by_start] - ptr[:-1], length) + np.arange(ptr[-1])
    job, node, grant = log.job[:n][by_start].astype(np.int64), log.node[where].astype(np.int64), log.grant[where]
    cut = sim.detail.demand.profile[np.repeat(job, length)] >= 0
    return frozen_runs(
        job=job,
        start_s=log.start[:n][by_start],
        end_s=log.end[:n][by_start],
        useful_s=log.useful[:n][by_start],
        outcome=log.outcome[:n][by_start],
        pool=sim.cluster.node_pool[node[ptr[:-1]]] if n else np.zeros(0, np.int64),
        ptr=ptr,
        node=node,
        milli=_milli(jobs, sim, np.repeat(job, length), node, grant),
        mask=grant & INDICES,
        first_slice=np.where(cut, grant >> START_BIT, -1),
    )


def _milli(jobs: JobTable, sim: Sim, job: Any, node: Any, grant: Any) -> Any:
    """Thousandths of GPUs that a grant on a node stands for; a MIG slice counts by its memory."""
    gpus = np.bitwise_count(grant & INDICES).astype(np.int64)
    milli = np.where(sim.detail.demand.milli[job] == 0, 0, sim.detail.demand.milli[job] * gpus)
    profile = sim.detail.demand.profile[job]
    cut = profile >= 0
    if cut.any():
        kind = sim.cluster.pool_mig[sim.cluster.node_pool[node[cut]]]
        milli[cut] = WHOLE * SIZE[profile[cut], kind] // SIZE[:, kind].max(axis=0)
    return milli.astype(np.int64)
