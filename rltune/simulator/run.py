"""`simulate`: jobs on a cluster under a policy, a way of backfilling and an allocator."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np

from rltune.allocators.fragmentation import demand_cost, demand_of
from rltune.allocators.greedy import GreedyAllocator, rule_code
from rltune.core.choices import may_run
from rltune.core.priorities import GIVEN
from rltune.core.resources.counts import LEAST_FRAGMENTATION, RULES
from rltune.core.resources.scores import SHARING_RULES, SharingRule
from rltune.core.state import ALWAYS, BACKFILLS, BLOCKING, CONSERVATIVE, INSIDE, Plain, build_lean
from rltune.nouns.asked_slices import BARE, with_profiles
from rltune.nouns.cluster import Cluster, accepts, further_resources
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.nouns.mig_profiles import PROFILES
from rltune.nouns.plan import Allocator, FloatArray, Policy
from rltune.nouns.renamed import refuse_old_options
from rltune.policies.dynamic import STATIC
from rltune.policies.knowledge import known_run_times
from rltune.policies.orders import Order, order, static_rank
from rltune.simulator.blocking import run_blocking
from rltune.simulator.decisions import GivenKeys, Picker, Planned, Steerer, drive, told_by
from rltune.simulator.full import preemptive_policy, simulate_full
from rltune.simulator.joint import JointAllocator
from rltune.simulator.options import make_options
from rltune.simulator.recording import Recorder, beside, hearing
from rltune.simulator.result import Result
from rltune.traces import Trace

OVERSIZED = ("refuse", "drop")
TRAINED = {name: BACKFILLS[name] for name in ("blocking", "skip", "easy")}
"""Backfilling available in training and evaluation."""
PLAIN = {name: code for name, code in BACKFILLS.items() if code != CONSERVATIVE}
DETAILED = {name: code for name, code in BACKFILLS.items() if code != BLOCKING}
"""Backfilling by build of the core."""


def simulate_jobs(
    workload: Trace | JobTable,
    cluster: Cluster,
    *,
    policy: str | Policy | Picker | Steerer = "fifo",
    backfill: str = "skip",
    allocator: str | Allocator = "best_fit",
    runtimes: str | FloatArray = "exact",
    oversized: str | None = None,
    cost: FloatArray | None = None,
    decisions: bool = False,
    **options: Any,
) -> Result:
    """Run every job of a trace or a table; deterministic.

    Whole GPUs without interruptions run on the lean build of the core; whatever asks for more
    (shares, MIG, CPU and memory limits, a preemptive policy, conservative backfill, any of ``options`` but the seed) on the
    full one.

    Args:
        policy: name of an order or of a preemptive policy, a function (queue, snapshot) -> keys, or a learned policy
            (`rltune.rl.policy_file.LearnedPolicy`, `SteeringPolicy`).
        backfill: blocking (RLTune's protocol, exact), strict (as blocking, but the head is chosen anew at every
            instant: Helios' protocol), skip, easy, or conservative.
        allocator: lexicographic, best_fit, least_fragmentation; full build: first_fit, best_fit, least_loaded, random,
            dot_prod, gpu_clustering, gpu_packing, fgd, stranding; or an object with ``allocate``.
        runtimes: exact, requested, predicted, online, unknown, or (n_jobs,) run times in seconds as the scheduler believes.
        oversized: what to do with jobs that no idle pool can hold: refuse (an InputError naming the
            first) or drop (they count as unfinished). Default: refuse; under ``blocking`` drop with
            a warning, since the reference protocol drops them.
        cost: (n_pools, cap + 1) fragmentation cost for least_fragmentation; default: these jobs' own demand.
        decisions: write down what was decided at each instant, and by what (`Result.recorded`); the schedule is the same.
        options: of the full build, and ``seed`` (of failures, lottery and random placement); see `rltune.simulator.options.Options`.

    Raises:
        InputError: unknown names, a policy that needs run times under ``unknown``, an oversized job; ``decisions`` of a rule under
            ``blocking``.
    """
    if isinstance(allocator, SharingRule):
        allocator = allocator.rule
    jobs, source = (workload, "jobs") if isinstance(workload, JobTable) else (workload.jobs, workload.label)
    jobs = with_profiles(jobs, cluster)
    refuse_old_options(options, ("policy", "backfill", "runtimes"))
    detail = make_options(options)
    check_backfill(backfill, TRAINED if isinstance(policy, Picker) else BACKFILLS)
    if not len(jobs):
        raise InputError(f"{source}: the job table is empty; at least one job is needed")
    known = believed_run_times(jobs, runtimes)
    recorder = recorder_of(policy, jobs, known, backfill) if decisions else None
    reason = needs_detail(jobs, cluster, policy, backfill, allocator, runtimes, options)
    if reason is not None:
        check_detailed(reason, backfill, allocator)
        handle_oversized(jobs, known, cluster, oversized, backfill, source)
        with hearing(recorder, allocator):
            return simulate_full(
                jobs, cluster, policy=policy, backfill=backfill, allocator=cast(Any, allocator),
                known_s=None if learns_online(runtimes) else known, options=detail, recorder=recorder,
            )  # fmt: skip
    if isinstance(policy, Steerer):
        raise InputError(
            f"a policy in index form has nothing to set under its baseline {policy.baseline} here; it needs a market "
            "(options.way_rule=market), or a baseline that suspends (las, gittins, ...)"
        )
    cost = fragmentation_cost(jobs, cluster, cost)
    if backfill == "easy" and np.isnan(known).any():
        raise InputError(
            "backfill=easy needs run times for its reservation; use runtimes=exact, predicted, requested or online"
        )
    jobs, known = handle_oversized(jobs, known, cluster, oversized, backfill, source)
    with hearing(recorder, allocator):
        found = simulate_lean(jobs, cluster, policy, backfill, allocator, known, cost, recorder)
    return replace(found, recorded=recorder)


def simulate_lean(
    jobs: JobTable,
    cluster: Cluster,
    policy: str | Policy | Picker,
    backfill: str,
    allocator: str | Allocator,
    known: FloatArray,
    cost: FloatArray,
    recorder: Recorder | None = None,
) -> Result:
    """Whole GPUs without interruptions, on the lean build of the core."""
    if isinstance(policy, str | Order):
        chosen = order(policy) if isinstance(policy, str) else policy
        rank: Any = static_rank(chosen, jobs, known)
    if isinstance(policy, str) and isinstance(allocator, str):
        params = Plain(chosen.code, BACKFILLS[backfill], rule_code(allocator), INSIDE if recorder is None else ALWAYS)
        return Result.of(
            jobs, cluster, drive(build_lean(jobs, cluster, known, rank, cost, params), beside(None, recorder))
        )
    policy, priority, rank = order(policy) if isinstance(policy, str) else policy, jobs.priority, np.arange(len(jobs))
    if isinstance(policy, Picker):
        return simulate_picking(jobs, cluster, policy, backfill, allocator, known, cost, recorder)
    if recorder is not None:
        policy = recorder.heard(policy)
    if isinstance(allocator, str) and backfill != "blocking":
        params = Plain(GIVEN, BACKFILLS[backfill], rule_code(allocator), ALWAYS)
        keys = GivenKeys(policy, priority)
        sim = drive(build_lean(jobs, cluster, known, rank, cost, params), beside(keys, recorder))
        return Result.of(jobs, cluster, sim, keys.records)
    allocator = greedy_with_cost(allocator, cost)
    # To an allocator both mean the same: stop at the first job that does not fit.
    planned = Planned(policy, allocator, "blocking" if backfill == "strict" else backfill, priority)
    sim = build_lean(jobs, cluster, known, rank, cost, Plain(STATIC, BACKFILLS[backfill], 0, ALWAYS))
    if backfill == "blocking":
        run_blocking(sim, planned, policy)
    else:
        drive(sim, beside(planned, recorder))
    stats = getattr(allocator, "stats", None)
    return Result.of(jobs, cluster, sim, planned.records, stats.as_dict() if stats is not None else {})


def simulate_picking(
    jobs: JobTable,
    cluster: Cluster,
    policy: Picker,
    backfill: str,
    allocator: str | Allocator,
    known: FloatArray,
    cost: FloatArray,
    recorder: Recorder | None = None,
) -> Result:
    """A learned policy on the lean build; what the MILP places anew is placed by least fragmentation first."""
    joint = allocator if isinstance(allocator, JointAllocator) else None
    if joint is None and not isinstance(allocator, str):
        raise InputError("a learned policy starts jobs itself: use an allocator by name, or milp")
    rule = LEAST_FRAGMENTATION if joint is not None else rule_code(str(allocator))
    chosen = order(policy.baseline)
    params = Plain(chosen.code, BACKFILLS[backfill], rule, ALWAYS)
    sim = build_lean(jobs, cluster, known, static_rank(chosen, jobs, known), cost, params)
    picking = policy.decision(sim, joint)
    decision = beside(picking, recorder)
    if backfill == "blocking":
        picking.run_blocking()
    else:
        drive(sim, decision)
    stats = joint.stats.as_dict() if joint is not None else {}
    if joint is not None:
        stats["kept_for_reservation"] = picking.joint.kept_for_reservation
    return replace(Result.of(jobs, cluster, sim, picking.records, stats), extra=told_by(picking))


def recorder_of(policy: Any, jobs: JobTable, known: FloatArray, backfill: str) -> Recorder:
    """What writes the decisions of a policy down. InputError where there are none to be told one by one."""
    if backfill == "blocking" and not isinstance(policy, Picker):
        raise InputError(
            "decisions=true: under backfill=blocking a rule waits for one job at a time, and no decision is taken; use "
            "backfill=strict, skip or easy, or leave decisions out"
        )
    return Recorder.of(policy, jobs, known)


def greedy_with_cost(allocator: str | Allocator, cost: FloatArray) -> Allocator:
    """An allocator as an object; greedy ones know the cost of fragmentation."""
    if isinstance(allocator, str):
        rule_code(allocator)
        return cast(Allocator, GreedyAllocator(allocator, cost))
    if isinstance(allocator, GreedyAllocator) and allocator.cost is None:
        return cast(Allocator, allocator.with_cost(cost))
    return allocator


def learns_online(runtimes: Any) -> bool:
    return isinstance(runtimes, str) and runtimes == "online"


def believed_run_times(jobs: JobTable, runtimes: str | FloatArray) -> FloatArray:
    """(n_jobs,) seconds as believed at the start: NaN where nothing is, or where it is learned on the way."""
    if learns_online(runtimes):
        return np.full(len(jobs), np.nan)
    return known_run_times(jobs, runtimes) if isinstance(runtimes, str) else check_run_times(runtimes, len(jobs))


PLAIN_ONLY = tuple(name for name in RULES if name not in SHARING_RULES)
"""Allocators that know whole GPUs only."""


def needs_detail(
    jobs: JobTable,
    cluster: Cluster,
    policy: Any,
    backfill: str,
    allocator: Any,
    runtimes: Any,
    options: Iterable[str],
) -> str | None:
    """Why the detailed simulation is needed; None: it is not. ``options``: names of those that were given."""
    # On the lean build nothing is left to chance, so a seed changes nothing.
    if detailed := [name for name in options if name != "seed"]:
        return f"{', '.join(detailed)} given"
    if backfill not in PLAIN:
        return f"backfill={backfill}"
    policy = policy.baseline if isinstance(policy, Picker | Steerer) else policy
    if isinstance(policy, str) and preemptive_policy(policy) is not None:
        return f"policy={policy}"
    if isinstance(allocator, str) and allocator not in RULES and allocator in SHARING_RULES:
        return f"allocator={allocator}"
    if learns_online(runtimes):
        return "runtimes=online"
    return further_resources(jobs, cluster)


def check_detailed(reason: str, backfill: str, allocator: Any) -> None:
    """Refuse what the full build does not have."""
    if allocator in PLAIN_ONLY:
        raise InputError(
            f"{reason}: this is simulated GPU by GPU, which takes the allocators {', '.join(SHARING_RULES)}, milp, or one of "
            f"your own; allocator={allocator} knows whole GPUs only"
        )
    if isinstance(allocator, JointAllocator) and backfill == "conservative":
        raise InputError(
            "backfill=conservative places jobs ahead of time, allocator milp only those that start now; use "
            f"backfill=easy, or an allocator of {', '.join(SHARING_RULES)}"
        )
    if backfill not in DETAILED:
        raise InputError(
            f"{reason}: backfill={backfill} is the reference protocol of whole GPUs without interruptions; "
            f"use {', '.join(DETAILED)}"
        )


def check_backfill(backfill: str, known: Mapping[str, int] = TRAINED) -> str:
    if backfill not in known:
        raise InputError(f"backfill={backfill!r} is unknown; known are {', '.join(known)}")
    return backfill


def check_run_times(known_s: Any, n: int) -> FloatArray:
    """(n,) run times given by the user, finite and >= 0, or NaN where unknown."""
    try:
        known = np.asarray(known_s, np.float64)
    except (TypeError, ValueError):
        raise InputError("runtimes: run times must be numbers; give seconds for every job, NaN where unknown") from None
    if known.shape != (n,):
        raise InputError(f"runtimes: run times of shape {known.shape} for {n} jobs; give one value a job")
    if np.isinf(known).any() or (known < 0).any():
        row = int(np.argmax(np.isinf(known) | (known < 0)))
        raise InputError(f"runtimes: run time {known[row]} of row {row + 1}; give seconds >= 0, NaN where unknown")
    return known


def fragmentation_cost(jobs: JobTable, cluster: Cluster, cost: FloatArray | None) -> FloatArray:
    """The given table, checked, or that of the jobs' own demand."""
    arrays = cluster.arrays()
    if cost is None:
        return demand_cost(arrays, *demand_of(jobs.num_gpus, arrays))
    shape = (len(arrays.pool_cap), int(arrays.pool_cap.max()) + 1)
    if np.shape(cost) != shape:
        raise InputError(f"cost has shape {np.shape(cost)}; {shape} is needed: pools by free GPUs of a node")
    return np.asarray(cost, np.float64)


def handle_oversized(
    jobs: JobTable, known: FloatArray, cluster: Cluster, oversized: str | None, backfill: str, source: str
) -> tuple[JobTable, FloatArray]:
    """Refuse jobs that can never run, or let them count as unfinished."""
    if oversized is not None and oversized not in OVERSIZED:
        raise InputError(f"oversized={oversized!r} is unknown; known are {', '.join(OVERSIZED)}")
    misfits = find_oversized(jobs, cluster)
    if not len(misfits):
        return jobs, known
    message = describe_oversized(jobs, cluster, misfits, source)
    if oversized == "refuse" or (oversized is None and backfill != "blocking"):
        raise InputError(message)
    if oversized is None:
        warnings.warn(f"{message} [dropped and counted as unfinished]", stacklevel=4)
    return jobs, known


def find_oversized(jobs: JobTable, cluster: Cluster) -> Any:
    """Rows of the jobs that no idle pool of theirs can hold, in none of their ways."""
    return np.flatnonzero(~may_run(jobs, cluster))


def describe_oversized(jobs: JobTable, cluster: Cluster, misfits: Any, source: str) -> str:
    row = int(misfits[0])
    if (listed := jobs.ways.values()[row]) is not None:
        more = f" (and {len(misfits) - 1} more jobs)" if len(misfits) > 1 else ""
        return (
            f"{source}: job {jobs.job_id[row]} (row {row + 1} by submit time) lists the ways {listed}, none of which fits on a "
            f"pool it may use on cluster {cluster.name}{more}; use larger nodes (MIG: pools with mig: true) or oversized=drop"
        )
    vc, gpu = jobs.vc.values()[row], jobs.gpu_type.values()[row]
    if (slices := jobs.mig.values()[row]) is not None and jobs.num_gpus[row] > 1:
        more = f" (and {len(misfits) - 1} more jobs)" if len(misfits) > 1 else ""
        return (
            f"{source}: job {jobs.job_id[row]} (row {row + 1} by submit time) wants {jobs.num_gpus[row]} MIG slices {slices}, a "
            f"simulated job takes one{more}; give each slice a job of its own, or use oversized=drop"
        )
    if slices in BARE:
        return (
            f"{source}: job {jobs.job_id[row]} (row {row + 1} by submit time) wants a MIG slice {slices}, and no pool of cluster "
            f"{cluster.name} that it may use is cut by MIG; give a pool mig: true, or use oversized=drop"
        )
    if slices is not None and slices not in PROFILES:
        return (
            f"{source}: job {jobs.job_id[row]} (row {row + 1} by submit time) wants MIG profile {slices}, which is unknown; "
            f"known are {', '.join(PROFILES)}; correct it or use oversized=drop"
        )
    mine = [p for p in cluster.pools if (p.vc is None or p.vc == vc) and accepts(gpu, p.gpu_type)]
    widest = max((p.widest_job for p in mine), default=0)
    more = f" (and {len(misfits) - 1} more jobs)" if len(misfits) > 1 else ""
    where = f" of virtual cluster {vc}" if vc is not None and any(p.vc for p in cluster.pools) else ""
    where += f" of GPU type {gpu}" if gpu is not None else ""
    if mine and jobs.num_gpus[row] <= widest:
        wants = f"{jobs.cpus[row]:g} CPUs, {jobs.memory_gb[row]:g} GB" + (
            f", MIG {m}" if (m := jobs.mig.values()[row]) else ""
        )
        return (
            f"{source}: job {jobs.job_id[row]} (row {row + 1} by submit time) wants {wants}, which no node{where} it may use "
            f"on cluster {cluster.name} has{more}; use larger nodes (MIG: pools with mig: true) or oversized=drop"
        )
    return (
        f"{source}: job {jobs.job_id[row]} (row {row + 1} by submit time) wants {jobs.num_gpus[row]} GPUs, the widest "
        f"pool{where} it may use on cluster {cluster.name} holds {widest}{more}; use a larger cluster or oversized=drop"
    )
