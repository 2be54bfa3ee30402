"""`simulate_full`: from jobs and names to a finished simulation on the full build of the core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from rltune.core import priorities
from rltune.core.choices import MARKET, Knowing, Offered, Taking, offer
from rltune.core.conservative import RAN_OUT, with_profile
from rltune.core.market import CHANGES, DUAL_STEP, MOVES, Market, market_of, no_market
from rltune.core.resources.fragments import MEASURES, task_types
from rltune.core.resources.room import amounts
from rltune.core.resources.scores import SHARING_RULES
from rltune.core.resources.slices import INDICES, START_BIT
from rltune.core.state import (
    ALWAYS,
    BACKFILLS,
    BREADTH,
    DISPLACE,
    DROPPED,
    EVENTS,
    INSIDE,
    LOGGED,
    RECONFIGURED,
    RECONFIGURING,
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
from rltune.nouns.mig_profiles import LONGEST_CHANGE_S, LONGEST_QUEUE_S, SIZE
from rltune.nouns.plan import Allocator, Policy
from rltune.policies.attained import attained_of, nothing_attained
from rltune.policies.dynamic import STATIC
from rltune.policies.knowledge import forecast_error
from rltune.policies.learn import group_table
from rltune.policies.orders import order, static_rank
from rltune.policies.preemptive import LAS_LEVELS_GPU_S, PREEMPTIVE, PREEMPTIVE_ALIASES, Preemptive
from rltune.simulator.decisions import Decision, GivenKeys, Picker, Planned, Steerer, drive, told_by
from rltune.simulator.joint import GREEDY, REST, Joint, JointAllocator, Ordered
from rltune.simulator.options import (
    Options,
    check_quotas_suffice,
    job_quotas,
    job_speed,
    job_weights,
    listed_events,
)
from rltune.simulator.recording import Recorder, beside
from rltune.simulator.result import Result
from rltune.simulator.runs import Runs, frozen_runs
from rltune.simulator.ways import ways_left_out, with_ways

CODES = {
    "srtf": priorities.SRTF, "srsf": priorities.SRSF, "las": priorities.LAS, "las_levels": priorities.LAS,
    "gittins": priorities.GITTINS, "priority": priorities.PRIORITY,
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
    policy: str | Policy | Picker | Steerer,
    backfill: str,
    allocator: str | JointAllocator | Allocator,
    known_s: Floats | None,
    options: Options,
    recorder: Recorder | None = None,
) -> Result:
    """Run every job on the full build; see `rltune.simulator.run.simulate_jobs`. ``known_s`` None: learned online."""
    if isinstance(allocator, str) and allocator not in SHARING_RULES:
        raise InputError(
            f"allocator {allocator!r} does not place jobs GPU by GPU; known are {', '.join(SHARING_RULES)}, milp"
        )
    picks = isinstance(policy, Picker)
    named: Any = policy.baseline if isinstance(policy, Picker | Steerer) else policy
    sim, jobs, notes = build_state(jobs, cluster, named, backfill, allocator, known_s, options, picks)
    if recorder is not None and callable(policy) and not isinstance(policy, Picker | Steerer):
        policy = recorder.heard(policy)
    if (recorder is not None or isinstance(policy, Steerer)) and sim.params.outside == INSIDE:
        sim = sim._replace(params=sim.params._replace(outside=ALWAYS))
    decision = decision_of(jobs, cluster, sim, policy, backfill, allocator, options.way_rule)
    sim = drive(sim, beside(decision, recorder))
    stats = getattr(allocator, "stats", None)
    found = result_of(jobs, cluster, sim, notes)
    return replace(
        found,
        extra=found.extra | told_by(decision),
        decisions=getattr(decision, "records", []),
        allocator_stats=stats.as_dict() if stats is not None else {},
        recorded=recorder,
    )


class Built(NamedTuple):
    """A state at time zero, the jobs with the ways to run that the options gave them, and remarks by subject."""

    sim: Sim
    jobs: JobTable
    notes: dict[str, tuple[str, ...]]


NO_NOTES: Mapping[str, tuple[str, ...]] = MappingProxyType({})


def build_state(
    jobs: JobTable,
    cluster: Cluster,
    policy: str | Policy,
    backfill: str,
    allocator: str | JointAllocator | Allocator,
    known_s: Floats | None,
    options: Options,
    picks: bool = False,
) -> Built:
    """The state at time zero; see `simulate_full`.

    ``picks``: jobs are picked one after the other, and ``policy`` names the baseline. ``allocator`` may be "milp" then.
    """
    online, estimate = known_s is None, believed(known_s, len(jobs))
    params, rank, flow = _policy_of(jobs, policy, backfill, allocator, known_s, options, picks)
    speed, notes = job_speed(options, jobs, cluster)
    jobs, more = with_ways(jobs, cluster, options, speed)
    quotas = job_quotas(options, jobs, cluster)
    taking = Taking(options.way_rule, float(options.way_least_speed))
    knowing = Knowing(float(options.speed_error), float(options.speed_unknown), int(options.seed))
    offered = offer(jobs, cluster, speed, None if quotas is None else quotas[0], taking, knowing)
    weighted = params.order in (priorities.LOTTERY, priorities.WFQ)
    columns = Columns(
        known=estimate,
        rank=rank,
        weight=job_weights(options, np.asarray(jobs.priority)) if weighted else np.ones(len(jobs)),
        flow=flow,
        offered=offered,
        quotas=quotas,
        groups=group_table(jobs) if online else np.zeros((0, 0), np.int64),
        attained=attained_of(jobs, options.past_jobs) if params.order == priorities.GITTINS else nothing_attained(),
        knobs=knobs_of(policy if isinstance(policy, str) else "of your own", options),
        market=_market(cluster, offered, options),
    )
    listed, thresholds = listed_events(options, cluster), np.array(las_levels(policy, options), np.float64)
    rule = placed_by(allocator, picks)
    types = task_types(jobs, cluster, rule) if rule in MEASURES else None
    sim = build_full(jobs, cluster, columns, params, listed, thresholds, types)
    check_quotas_suffice(jobs, sim, options.quotas or ())
    if params.on_tick and sim.space.room.layout.shape[1]:
        overhead = options.overhead_s + LONGEST_CHANGE_S + options.mig_mode_s
        _check_quantum(options, overhead, "suspend_s + resume_s + migrate_s and changing MIG instances")
    notes_of_ways = (*more, *ways_left_out(offered))
    return Built(with_profile(sim, cluster), jobs, {"throughput": notes, "ways": notes_of_ways})


def _market(cluster: Cluster, offered: Offered, options: Options) -> Market:
    """Prices at time zero, where ways are chosen by them."""
    if options.way_rule != MARKET:
        return no_market()
    knobs = (options.market_crowd, options.market_floor, options.market_refusal, options.market_patience, DUAL_STEP)
    share = amounts(offered.demand, np.arange(len(offered.demand.gpus)))
    return market_of(cluster.arrays(), offered.choices, share, np.array(knobs, np.float64))


def believed(known_s: Floats | None, n: int) -> Floats:
    """(n,) run times as believed at the start: NaN where they are learned on the way."""
    return np.full(n, np.nan) if known_s is None else known_s


def is_joint(allocator: Any) -> bool:
    """Whether the MILP decides on several jobs together."""
    return isinstance(allocator, JointAllocator) or allocator == "milp"


def placed_by(allocator: Any, picks: bool) -> str:
    """The rule of the kernels, which also finds known plans and, where jobs are picked, a provisional place for each."""
    if isinstance(allocator, str) and not is_joint(allocator):
        return allocator
    return GREEDY if picks else REST


def decision_of(
    jobs: JobTable,
    cluster: Cluster,
    sim: Sim,
    policy: str | Policy | Picker | Steerer,
    backfill: str,
    allocator: Any,
    way_rule: str,
) -> Decision | None:
    """What decides outside the kernels; None: the kernels decide all."""
    params, suspends = sim.params, bool(sim.params.on_event or sim.params.on_tick)
    joint = Joint.of(allocator, jobs, cluster, sim, way_rule) if isinstance(allocator, JointAllocator) else None
    if isinstance(policy, Picker):
        if joint is None and not isinstance(allocator, str):
            raise InputError("a learned policy starts jobs itself: use an allocator by name, or milp")
        found: Decision = policy.decision(sim, joint)
        return found
    if isinstance(policy, Steerer):
        if joint is None and not isinstance(allocator, str):
            raise InputError(
                "a policy in index form leaves the places to an allocator by name, or milp; not to one of your own"
            )
        return policy.steering(sim, joint)
    own: Policy | None = None if isinstance(policy, str) else policy
    if joint is not None:
        return joint if own is None else Ordered(own, jobs.priority, joint)
    if isinstance(allocator, str):
        return None if own is None else GivenKeys(own, jobs.priority, suspends)
    assert params.outside == ALWAYS
    return Planned(own, allocator, "blocking" if backfill == "strict" else backfill, jobs.priority, suspends)


def _policy_of(
    jobs: JobTable,
    policy: str | Policy,
    backfill: str,
    allocator: Any,
    known_s: Floats | None,
    options: Options,
    picks: bool,
) -> tuple[Parameters, Any, Any]:
    """Scalars of the simulation, static rank (n_jobs,) and flow (n_jobs,)."""
    n, name = len(jobs), policy if isinstance(policy, str) else "of your own"
    special = preemptive_policy(name)
    rank, flow = np.zeros(n, np.int64), np.zeros(n, np.int64)
    online, estimate = known_s is None, believed(known_s, n)
    unknown = np.isnan(estimate).any() and not online
    if special is not None:
        code, on_event, on_tick, timed = CODES[special.name], special.on_event, special.on_tick, special.needs_run_time
        if special.flow is not None:
            flow = getattr(jobs, special.flow).codes.astype(np.int64) + 1
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
    # Where jobs are picked, the MILP does not weigh whom to suspend, and somebody else decides at every instant.
    joint = isinstance(allocator, JointAllocator) and not picks
    inside = isinstance(policy, str) and isinstance(allocator, str) and not picks
    suspends = on_event or on_tick
    outside = INSIDE if inside else WHEN_ANY_FITS if joint and isinstance(policy, str) and not suspends else ALWAYS
    last = float(jobs.submit_s[-1])
    if on_tick and last + options.quantum_s == last:
        raise InputError(
            f"submit_s up to {last:g}: a quantum of {options.quantum_s:g} s is lost in rounding; shift the times"
        )
    if on_tick:
        _check_quantum(options, options.overhead_s, "suspend_s + resume_s + migrate_s")
    mig_longest = LONGEST_QUEUE_S + 2.0 * options.mig_mode_s if options.mig_reconfiguration else 0.0
    params = Parameters(
        order=code, backfill=BACKFILLS[backfill], rule=SHARING_RULES[placed_by(allocator, picks)],
        on_event=bool(on_event), on_tick=bool(on_tick), outside=outside, quantum=float(options.quantum_s),
        suspend=float(options.suspend_s), resume=float(options.resume_s), migrate=float(options.migrate_s),
        checkpoint=_or_never(options.checkpoint_s), node_mtbf=_or_never(options.node_mtbf_s),
        node_repair=float(options.node_repair_s), gpu_mtbf=_or_never(options.gpu_mtbf_s),
        retries=int(options.max_retries), half_life=float(options.half_life_s),
        reservations=-1 if options.reservations is None else int(options.reservations), learns=online,
        learns_speed=bool(options.speed_learned),
        seed=int(options.seed), mig_mode=float(options.mig_mode_s), mig_longest=mig_longest,
        **hysteresis(jobs, name, estimate, options),
    )  # fmt: skip
    return params, rank, flow


def _check_quantum(options: Options, overhead_s: float, parts: str) -> None:
    """Refuse a time slice in which a resumed job might do nothing."""
    if overhead_s >= options.quantum_s:
        raise InputError(
            f"quantum_s={options.quantum_s:g} is no longer than {parts} = {overhead_s:g}: "
            "jobs would never get on; use a longer quantum"
        )


def las_levels(policy: Any, options: Options) -> Sequence[float]:
    """Thresholds of attained service, GPU-seconds; none: continuous."""
    if options.las_levels_gpu_s is not None:
        return options.las_levels_gpu_s
    named = isinstance(policy, str) and PREEMPTIVE_ALIASES.get(policy, policy) == "las_levels"
    return LAS_LEVELS_GPU_S if named else ()


def knobs_of(policy: str, options: Options) -> Floats:
    """(2,) how far ahead a waiting job must be to suspend a running one, and the power of GPUs: `rltune.core.state.Detail`."""
    special = preemptive_policy(policy)
    # Of levels a job is at one or another: they are hysteresis enough.
    levelled = special is not None and CODES[special.name] == priorities.LAS and len(las_levels(policy, options)) > 0
    knobs = np.ones(2)
    if special is not None and special.scaled and not levelled:
        knobs[DISPLACE] = options.displace_factor
    if special is not None and special.name in ("las", "gittins"):
        knobs[BREADTH] = options.gpu_power
    return knobs


def hysteresis(jobs: JobTable, policy: str, estimate: Floats, options: Options) -> dict[str, Any]:
    """How long a job waits before it suspends others, and how outlived estimates are corrected."""
    special = preemptive_policy(policy)
    learns = options.past_jobs is None if options.gittins_online is None else options.gittins_online
    waits = knobs_of(policy, options)[DISPLACE] != 1.0
    return {
        "patience": float(options.suspend_s + options.resume_s) if waits else 0.0,
        "overrun": 1.0 if np.array_equal(estimate, jobs.duration_s) else float(options.overrun_factor),
        "index_learns": special is not None and special.name == "gittins" and bool(learns),
    }


def _or_never(seconds: float | None) -> float:
    return np.inf if seconds is None else float(seconds)


def result_of(jobs: JobTable, cluster: Cluster, sim: Sim, notes: Mapping[str, tuple[str, ...]] = NO_NOTES) -> Result:
    """The result of a simulation, from its final state or an intermediate one."""
    runs = _runs(sim)
    extra: dict[str, Any] = {name: list(lines) for name, lines in notes.items() if lines}
    if sim.params.learns:
        extra["forecast"] = forecast_error(jobs, sim.jobs.known)
    if sim.space.room.layout.shape[1]:
        extra["mig"] = {
            "reconfigurations": int(sim.counts[RECONFIGURED]),
            "reconfiguring_s": float(sim.clock[RECONFIGURING]),
        }
    if len(sim.detail.market.price):
        market, changes = sim.detail.market, max(1.0, float(sim.detail.market.clock[CHANGES]))
        extra["market"] = {
            pool.name: {"mean_price": float(total) / changes, "dual": float(dual)}
            for pool, total, dual in zip(cluster.pools, market.total, market.dual, strict=True)
        } | {"moves": int(market.clock[MOVES])}
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


def _runs(sim: Sim) -> Runs:
    log, n = sim.detail.log, int(sim.counts[LOGGED])
    by_start = np.lexsort((log.job[:n], log.start[:n]))
    length = np.diff(log.ptr[: n + 1])[by_start]
    ptr = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
    where = np.repeat(log.ptr[:n][by_start] - ptr[:-1], length) + np.arange(ptr[-1])
    node, grant, way = log.node[where].astype(np.int64), log.grant[where], log.way[:n][by_start]
    profile = sim.detail.demand.profile[way]
    return frozen_runs(
        job=log.job[:n][by_start].astype(np.int64),
        start_s=log.start[:n][by_start],
        end_s=log.end[:n][by_start],
        useful_s=log.useful[:n][by_start],
        outcome=log.outcome[:n][by_start],
        pool=sim.cluster.node_pool[node[ptr[:-1]]] if n else np.zeros(0, np.int64),
        ptr=ptr,
        node=node,
        milli=_milli(sim, np.repeat(way, length), node, grant),
        mask=grant & INDICES,
        first_slice=np.where(np.repeat(profile, length) >= 0, grant >> START_BIT, -1),
        profile=profile,
    )


def _milli(sim: Sim, way: Any, node: Any, grant: Any) -> Any:
    """Thousandths of GPUs that a grant on a node, for this row of the demand, stands for; a MIG slice counts by its memory."""
    gpus = np.bitwise_count(grant & INDICES).astype(np.int64)
    milli = np.where(sim.detail.demand.milli[way] == 0, 0, sim.detail.demand.milli[way] * gpus)
    profile = sim.detail.demand.profile[way]
    cut = profile >= 0
    if cut.any():
        kind = sim.cluster.pool_mig[sim.cluster.node_pool[node[cut]]]
        milli[cut] = WHOLE * SIZE[profile[cut], kind] // SIZE[:, kind].max(axis=0)
    return milli.astype(np.int64)
