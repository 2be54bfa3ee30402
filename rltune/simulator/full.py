"""`simulate_full`: from jobs and names to a finished simulation on the full build of the core."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from rltune.core import priorities
from rltune.core.conservative import RAN_OUT, with_profile
from rltune.core.resources.fragments import MEASURES, TaskTypes, task_types
from rltune.core.resources.scores import SHARING_RULES
from rltune.core.resources.slices import INDICES, START_BIT
from rltune.core.state import (
    ALWAYS,
    BACKFILLS,
    DROPPED,
    EVENTS,
    INSIDE,
    LOGGED,
    WHEN_ANY_FITS,
    Columns,
    Floats,
    Parameters,
    Sim,
    build_full,
)
from rltune.nouns.cluster import Cluster
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import WHOLE, JobTable
from rltune.nouns.mig_profiles import SIZE
from rltune.nouns.plan import Allocator, Policy
from rltune.policies.dynamic import STATIC
from rltune.policies.knowledge import forecast_error
from rltune.policies.learn import group_table
from rltune.policies.orders import order, static_rank
from rltune.policies.preemptive import PREEMPTIVE, PREEMPTIVE_ALIASES, Preemptive
from rltune.simulator.decisions import Decision, GivenKeys, Picker, Planned, drive
from rltune.simulator.joint import REST, Joint, JointAllocator, Ordered
from rltune.simulator.options import (
    Options,
    check_quotas_suffice,
    job_quotas,
    job_speed,
    job_weights,
    listed_events,
)
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


def simulate_full(
    jobs: JobTable,
    cluster: Cluster,
    *,
    policy: str | Policy,
    backfill: str,
    allocator: str | JointAllocator | Allocator,
    known_s: Floats | None,
    options: Options,
) -> Result:
    """Run every job on the full build; see `rltune.simulator.run.simulate_jobs`. ``known_s`` None: learned online."""
    if isinstance(allocator, str) and allocator not in SHARING_RULES:
        raise InputError(
            f"allocator {allocator!r} does not place jobs GPU by GPU; known are {', '.join(SHARING_RULES)}, milp"
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
    decision = _decision(jobs, cluster, sim, policy, backfill, allocator)
    sim = drive(sim, decision)
    stats = getattr(allocator, "stats", None)
    return replace(
        _result(jobs, cluster, sim, online, notes),
        decisions=getattr(decision, "records", []),
        allocator_stats=stats.as_dict() if stats is not None else {},
    )


def _decision(
    jobs: JobTable, cluster: Cluster, sim: Sim, policy: str | Policy, backfill: str, allocator: Any
) -> Decision | None:
    """Who decides outside the kernels; None: nobody needs to."""
    params, suspends = sim.params, bool(sim.params.on_event or sim.params.on_tick)
    if isinstance(policy, Picker):
        return policy.decision(sim)
    own: Policy | None = None if isinstance(policy, str) else policy
    if isinstance(allocator, JointAllocator):
        joint = Joint.of(allocator, jobs, cluster, sim)
        return joint if own is None else Ordered(own, jobs.priority, joint)
    if isinstance(allocator, str):
        return None if own is None else GivenKeys(own, jobs.priority, suspends)
    assert params.outside == ALWAYS
    return Planned(own, allocator, "blocking" if backfill == "strict" else backfill, jobs.priority, suspends)


def _types(jobs: JobTable, cluster: Cluster, allocator: Any) -> TaskTypes | None:
    """The workload, where places are chosen by a measure of fragmentation."""
    rule = allocator if isinstance(allocator, str) else REST
    return task_types(jobs, cluster, rule) if rule in MEASURES else None


def _policy_of(
    jobs: JobTable,
    policy: str | Policy,
    backfill: str,
    allocator: Any,
    estimate: Floats,
    online: bool,
    options: Options,
) -> tuple[Parameters, Any, Any]:
    """Scalars of the simulation, static rank (n_jobs,) and flow (n_jobs,)."""
    n, name = len(jobs), policy if isinstance(policy, str) else "of your own"
    special = preemptive_policy(name)
    rank, flow = np.zeros(n, np.int64), np.zeros(n, np.int64)
    unknown = np.isnan(estimate).any() and not online
    if special is not None:
        code, on_event, on_tick, timed = CODES[special.name], special.on_event, special.on_tick, special.needs_run_time
        if special.flow is not None:
            flow = getattr(jobs, special.flow).codes.astype(np.int64) + 1
    elif isinstance(policy, Picker):
        code, on_event, on_tick, timed = STATIC, False, False, policy.needs_run_time
        rank = policy.baseline_rank(jobs, estimate)
    elif not isinstance(policy, str):
        code, on_event, on_tick, timed = priorities.GIVEN, False, False, False
        rank = np.arange(n)
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
    joint = isinstance(allocator, JointAllocator)
    inside = isinstance(policy, str) and isinstance(allocator, str)
    suspends = on_event or on_tick
    outside = INSIDE if inside else WHEN_ANY_FITS if joint and isinstance(policy, str) and not suspends else ALWAYS
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
        order=code, backfill=BACKFILLS[backfill], rule=SHARING_RULES[allocator if isinstance(allocator, str) else REST],
        on_event=bool(on_event), on_tick=bool(on_tick), outside=outside, quantum=float(options.quantum_s),
        suspend=float(options.suspend_s), resume=float(options.resume_s), migrate=float(options.migrate_s),
        checkpoint=_or_never(options.checkpoint_s), node_mtbf=_or_never(options.node_mtbf_s),
        node_repair=float(options.node_repair_s), gpu_mtbf=_or_never(options.gpu_mtbf_s),
        retries=int(options.max_retries), half_life=float(options.half_life_s),
        reservations=-1 if options.reservations is None else int(options.reservations), learns=online,
        seed=int(options.seed),
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
