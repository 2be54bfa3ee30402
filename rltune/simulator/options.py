"""Options of the detailed simulation, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from rltune.core.choices import FASTEST, WAY_RULES, least_amount
from rltune.core.market import CROWD_PRICE, FLOOR_PRICE, PATIENCE_SHARE, REFUSAL_SHARE
from rltune.core.state import DRAIN, FAIL, REOPEN, REPAIR, Floats, Ints, Sim
from rltune.nouns.cluster import Cluster
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import WHOLE, JobTable
from rltune.nouns.throughput import Throughput
from rltune.policies.preemptive import DISPLACE_FACTOR, HALF_LIFE_S, OVERRUN_FACTOR
from rltune.traces.heterogeneity import throughput_of

KINDS = {"fail": FAIL, "repair": REPAIR, "drain": DRAIN, "reopen": REOPEN}
OPPOSITE = {REPAIR: FAIL, REOPEN: DRAIN}
QUANTUM_S = 600.0
RETRIES = 10
SHORTEST_QUANTUM_S = 1e-3
"""Shorter quanta could be lost in the rounding of seconds since 1970."""
TABLES = ("mig_profiles", "slices", "gpu_heterogeneity")
"""Measured tables that give jobs ways to run."""
MOST = 2**63
MOST_GPUS = 1e12
LONGEST_S = 1e300
MOST_POWER = 4.0


@dataclass(frozen=True, slots=True)
class Options:
    """What `rltune.simulate` takes beyond policy, backfill, allocator and runtimes; times in seconds.

    Attributes:
        preemptive: whether the order may suspend running jobs whenever a job arrives or ends; None: as the policy is.
        quantum_s: time slice of las, gittins, round_robin, lottery, wfq.
        suspend_s, resume_s, migrate_s: spent holding GPUs, without progress, at the start of every later run of
            a job: saving its state, restoring it, and moving it if the nodes are others.
        checkpoint_s: time between checkpoints: a failure costs the work since the last one (None: since the last suspension).
        las_levels_gpu_s: thresholds of las_levels and las, GPU-seconds; empty: continuous; None: published ones, continuous.
        displace_factor: hysteresis of srtf, srsf, las, gittins: a waiting job suspends a running one only if the running job's
            key is more than this factor times its own, and larger by what the resumption will cost; and only after it
            has waited for free GPUs as long as a resumption takes. 1: any larger key will do, at once. No effect with
            allocator milp, which weighs suspensions by their costs.
        overrun_factor: of srtf, srsf where run times are estimates: total run time is believed to be at least this factor
            times what a job has run. 1: a job that outlives its estimate is about to end.
        gpu_power: of las and gittins: power of a job's GPUs in its key; 1: GPU-seconds. More: wide jobs stand further back.
        past_jobs: of gittins: a job table or trace to learn run times from, submitted before these jobs, on the same
            clock; those that would still run at the first submission count as not ended. None: it learns on the way.
        gittins_online: whether gittins learns (also) from jobs that end in the simulation; None: if there are no past_jobs.
        half_life_s: of the usage that fair_user and fair_vc charge.
        weights: (n_jobs,) > 0, tickets of lottery and weights of wfq; None: 1 + priority.
        reservations: how many waiting jobs conservative backfill plans for; None: all.
        node_mtbf_s, node_repair_s: mean time between failures of a node, and to its repair, both exponential; None: no failures.
        gpu_mtbf_s: mean time between failures of a job for each GPU it holds, exponential; None: no failures.
        max_retries: failures that a job survives, its own and those of nodes together; then it is given up.
        node_events: (time, node, kind) with kind fail (its runs are lost), repair, drain (takes no new job), reopen; a
            node is numbered over all pools, and fails or drains again only after its repair or reopening.
        capacity: (time, pool, nodes): number of nodes of the pool in service from then on; others drain, highest first.
        speed: a `rltune.nouns.throughput.Throughput`, what names a measured one (name, reference, missing; see
            `rltune.traces.heterogeneity.throughput_of`), or (n_jobs, n_pools) relative to the recorded hardware; None: 1 everywhere.
        seed: of failures, lottery and random placement.
        quotas: virtual cluster -> GPUs that its jobs may hold at once, a share as its fraction, a MIG slice by its
            memory; a virtual cluster that is not named has none. Also as pairs. None: no quotas.
        ways: a measured table that gives jobs further ways to run: mig_profiles (jobs of one whole GPU may take a MIG
            slice of it), slices (the same, at made-up speeds where that table is absent) or gpu_heterogeneity (jobs may
            use other GPU types); see `rltune.simulator.ways`. None: only those
            of the job table.
        way_rule: which of a job's ways is tried first: fastest, efficient (most work per GPU held), or market (the cheapest at
            the present prices of pools; the job waits rather than take one that is much dearer: `rltune.core.market`).
        market_crowd, market_floor: of market: price of a GPU-second in job-seconds for each waiting job a GPU, and when none waits.
        market_refusal, market_patience: of market: by which share a way may be dearer than the cheapest, and by how much
            more for each hour that the job's class has waited.
        mig_reconfiguration: whether MIG instances stay until others need their place, and changing them takes its measured
            time; false: slices appear and go in no time.
        mig_mode_s: to turn MIG mode of a GPU on or off, when it serves in slices after it served whole or the other way;
            0: it depends on driver and type (on an A100 it is a reset), and no measurement is at hand.
        speed_error, speed_unknown: what the scheduler believes of speeds: it is off by up to this share of the true ones, drawn evenly
            for each kind of job (of equal speeds and listed ways) and each way; of this share of the kinds, drawn, it knows nothing and
            believes them to be as fast in each way as the known kinds are on the mean. Jobs run at the true ones.
        speed_learned: whether speeds are known once a job of the kind has run in that way for a minute; the fixed sequence of ways
            of the rules fastest and efficient does not follow.
        way_least_speed: ways slower than this share of the job's fastest, 0 to 1, are left out; 0: none is.
    """

    preemptive: bool | None = None
    quantum_s: float = QUANTUM_S
    suspend_s: float = 0.0
    resume_s: float = 0.0
    migrate_s: float = 0.0
    checkpoint_s: float | None = None
    las_levels_gpu_s: Sequence[float] | None = None
    displace_factor: float = DISPLACE_FACTOR
    overrun_factor: float = OVERRUN_FACTOR
    gpu_power: float = 1.0
    past_jobs: Any = None
    gittins_online: bool | None = None
    half_life_s: float = HALF_LIFE_S
    weights: Any = None
    reservations: int | None = None
    node_mtbf_s: float | None = None
    node_repair_s: float = 3600.0
    gpu_mtbf_s: float | None = None
    max_retries: int = RETRIES
    node_events: Sequence[Any] = ()
    capacity: Sequence[Any] = ()
    speed: Any = None
    seed: int = 0
    quotas: Mapping[str, float] | Sequence[Any] | None = None
    ways: str | None = None
    way_rule: str = FASTEST
    way_least_speed: float = 0.0
    speed_error: float = 0.0
    speed_unknown: float = 0.0
    speed_learned: bool = False
    market_crowd: float = CROWD_PRICE
    market_floor: float = FLOOR_PRICE
    market_refusal: float = REFUSAL_SHARE
    market_patience: float = PATIENCE_SHARE
    mig_reconfiguration: bool = True
    mig_mode_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("quantum_s", "half_life_s", "node_repair_s"):
            _check_time(name, getattr(self, name), above=True)
        for name in ("suspend_s", "resume_s", "migrate_s", "mig_mode_s"):
            _check_time(name, getattr(self, name), above=False)
        for name in ("market_crowd", "market_floor", "market_refusal", "market_patience"):
            value = getattr(self, name)
            # A number of NumPy's own cannot be compared with any other without a warning.
            plain = value.item() if isinstance(value, np.generic) else value
            if not _is_number(plain) or not 0 <= plain < LONGEST_S:
                raise InputError(f"{name}={value!r}; give a number of at least 0")
        for name in ("checkpoint_s", "node_mtbf_s", "gpu_mtbf_s"):
            if getattr(self, name) is not None:
                _check_time(name, getattr(self, name), above=True)
        for name in ("displace_factor", "overrun_factor"):
            if not _is_number(value := getattr(self, name)) or not 1 <= value < LONGEST_S:
                raise InputError(f"{name}={value!r}; give a number of at least 1")
        if not _is_number(self.gpu_power) or not 0 <= self.gpu_power <= MOST_POWER:
            raise InputError(f"gpu_power={self.gpu_power!r}; give a number from 0 to {MOST_POWER:g}")
        if not (self.gittins_online is None or isinstance(self.gittins_online, bool | np.bool_)):
            raise InputError(
                f"gittins_online={self.gittins_online!r}; use true, false or null (if there are no past_jobs)"
            )
        if not isinstance(past := getattr(self.past_jobs, "jobs", self.past_jobs), JobTable | None):
            raise InputError(
                f"past_jobs={type(past).__name__}; give a job table or a trace of earlier jobs, or null for none"
            )
        object.__setattr__(self, "past_jobs", past)
        for name, least in (("max_retries", 0), ("seed", 0), ("reservations", 1)):
            value = getattr(self, name)
            if not (value is None and name == "reservations") and not (_is_whole(value, least) and value < MOST):
                raise InputError(f"{name}={value!r}; a whole number from {least} to below 2^63 is needed")
        if self.preemptive is not None and not isinstance(self.preemptive, bool | np.bool_):
            raise InputError(f"preemptive={self.preemptive!r}; use true, false or null (as the policy is)")
        if not isinstance(self.mig_reconfiguration, bool | np.bool_):
            raise InputError(f"mig_reconfiguration={self.mig_reconfiguration!r}; use true or false")
        if self.mig_mode_s > 0 and not self.mig_reconfiguration:
            raise InputError(
                f"mig_mode_s={self.mig_mode_s:g} goes with mig_reconfiguration=true; leave one of them out"
            )
        if self.quantum_s < SHORTEST_QUANTUM_S:
            raise InputError(f"quantum_s={self.quantum_s!r}; at least {SHORTEST_QUANTUM_S:g} s are needed")
        if self.ways is not None and self.ways not in TABLES:
            raise InputError(f"ways={self.ways!r} is unknown; known are {', '.join(TABLES)}, or null for none")
        if self.way_rule not in WAY_RULES:
            raise InputError(f"way_rule={self.way_rule!r} is unknown; known are {', '.join(WAY_RULES)}")
        share = self.way_least_speed
        if not _is_number(share) or not 0 <= share <= 1:
            raise InputError(f"way_least_speed={share!r}; give a share of the fastest way's speed, 0 to 1")
        for name, most in (("speed_error", 0.99), ("speed_unknown", 1)):
            if not _is_number(value := getattr(self, name)) or not 0 <= value <= most:
                raise InputError(f"{name}={value!r}; give a share, 0 to {most:g}")
        if not isinstance(self.speed_learned, bool | np.bool_):
            raise InputError(f"speed_learned={self.speed_learned!r}; use true or false")
        levels = [] if self.las_levels_gpu_s is None else _entries("las_levels_gpu_s", self.las_levels_gpu_s)
        if not all(_is_number(x) and 0 < x < LONGEST_S for x in levels) or levels != sorted(set(levels)):
            raise InputError(f"las_levels_gpu_s={levels!r}; give rising GPU-seconds above 0, or [] for continuous")
        if self.las_levels_gpu_s is not None:
            object.__setattr__(self, "las_levels_gpu_s", tuple(float(x) for x in levels))
        object.__setattr__(self, "quotas", _quotas(self.quotas))

    @property
    def overhead_s(self) -> float:
        """Longest time a resumed job holds GPUs without progress."""
        return self.suspend_s + self.resume_s + self.migrate_s


def make_options(given: dict[str, Any]) -> Options:
    """From keywords; InputError for an unknown one."""
    known = [field.name for field in fields(Options)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InputError(f"option {', '.join(unknown)} is unknown; known are {', '.join(known)}")
    return Options(**given)


def listed_events(options: Options, cluster: Cluster) -> tuple[Floats, Ints, Ints]:
    """Times, nodes (counted over all pools) and kinds of the listed events, by time."""
    events = [*_node_events(options.node_events, cluster), *_capacity_events(options.capacity, cluster)]
    events.sort(key=lambda event: event[0])
    times, nodes, kinds = ([event[k] for event in events] for k in range(3))
    return np.array(times, np.float64), np.array(nodes, np.int64), np.array(kinds, np.int64)


def _node_events(given: Iterable[Any], cluster: Cluster) -> list[tuple[float, int, int]]:
    out = []
    for k, event in enumerate(_entries("node_events", given)):
        if not isinstance(event, list | tuple) or len(event) != 3:
            raise InputError(f"node_events: entry {k}: {event!r} is no (time, node, kind), e.g. [3600, 0, fail]")
        time, node, kind = event
        if not _is_number(time) or not 0 <= time < LONGEST_S:
            raise InputError(f"node_events: entry {k}: time {time!r}; give seconds >= 0")
        if not _is_whole(node, 0) or node >= cluster.nodes:
            raise InputError(
                f"node_events: entry {k}: node {node!r}; cluster {cluster.name} has 0 to {cluster.nodes - 1}"
            )
        if not isinstance(kind, str) or kind not in KINDS:
            raise InputError(f"node_events: entry {k}: kind {kind!r} is unknown; known are {', '.join(KINDS)}")
        out.append((float(time), int(node), KINDS[kind]))
    _check_turns(out)
    return out


def _check_turns(events: list[tuple[float, int, int]]) -> None:
    """A repair without a failure would open a node that has been taken out for another reason."""
    away: set[tuple[int, int]] = set()
    names = list(KINDS)
    for time, node, kind in sorted(events, key=lambda event: event[0]):
        leaves = kind in (FAIL, DRAIN)
        out = (node, kind if leaves else OPPOSITE[kind])
        if (out in away) == leaves:
            what = "has already" if leaves else "has not"
            raise InputError(
                f"node_events: {names[kind]} of node {node} at {time:g}, which {what} had its {names[out[1]]}; "
                "list fail and repair, drain and reopen of a node in turn"
            )
        away ^= {out}


def _capacity_events(given: Iterable[Any], cluster: Cluster) -> list[tuple[float, int, int]]:
    """Pools lose their highest nodes first and get them back lowest first."""
    arrays = cluster.arrays()
    of_pool = {pool.name: index for index, pool in enumerate(cluster.pools)}
    in_service = [pool.nodes for pool in cluster.pools]
    changes = []
    for k, entry in enumerate(_entries("capacity", given)):
        if not isinstance(entry, list | tuple) or len(entry) != 3:
            raise InputError(f"capacity: entry {k}: {entry!r} is no (time, pool, nodes)")
        time, pool, nodes = entry
        if not _is_number(time) or not 0 <= time < LONGEST_S:
            raise InputError(f"capacity: entry {k}: time {time!r}; give seconds >= 0")
        if str(pool) not in of_pool:
            raise InputError(f"capacity: entry {k}: pool {pool!r} is unknown; known are {', '.join(of_pool)}")
        p = of_pool[str(pool)]
        if not _is_whole(nodes, 0) or nodes > cluster.pools[p].nodes:
            raise InputError(f"capacity: entry {k}: nodes={nodes!r}; pool {pool} has 0 to {cluster.pools[p].nodes}")
        changes.append((float(time), p, int(nodes)))
    out = []
    for time, p, nodes in sorted(changes, key=lambda change: change[0]):
        low = int(arrays.pool_lo[p])
        out += [(time, low + i, DRAIN) for i in range(nodes, in_service[p])]
        out += [(time, low + i, REOPEN) for i in range(in_service[p], nodes)]
        in_service[p] = nodes
    return out


def job_weights(options: Options, priority: npt.NDArray[np.float64]) -> Floats:
    """(n_jobs,) tickets or weights."""
    if options.weights is None:
        if (priority <= -1).any():
            raise InputError("weights: 1 + priority is not above 0 for every job; give weights=...")
        return 1.0 + priority
    weights = _numbers("weights", options.weights)
    if weights.shape != priority.shape or not np.isfinite(weights).all() or (weights <= 0).any():
        raise InputError(f"weights of shape {weights.shape} for {len(priority)} jobs; give one number above 0 a job")
    return weights


def job_speed(options: Options, jobs: JobTable, cluster: Cluster) -> tuple[Floats | None, tuple[str, ...]]:
    """(n_jobs, n_pools) relative speeds, or None; and remarks on their source."""
    if options.speed is None:
        return None, ()
    table = throughput_of(options.speed) if isinstance(options.speed, Mapping) else options.speed
    if isinstance(table, Throughput):
        speeds = table.speeds(jobs, cluster)
        # Pools that a job may not use have none.
        return np.where(np.isnan(speeds.speed), 1.0, speeds.speed), tuple(speeds.notes)
    speed, shape = _numbers("speed", table), (len(jobs), len(cluster.pools))
    if speed.shape != shape or not np.isfinite(speed).all() or (speed <= 0).any():
        raise InputError(
            f"speed of shape {speed.shape}; numbers above 0 for {shape[0]} jobs by {shape[1]} pools are needed"
        )
    return speed, ()


def job_quotas(options: Options, jobs: JobTable, cluster: Cluster) -> tuple[Ints, Ints] | None:
    """(n_jobs,) the quota of each job, -1 = none, and (n_quotas,) thousandths of GPUs; None without quotas."""
    if not options.quotas:
        return None
    quotas, names = dict(options.quotas), list(jobs.vc.names)
    known = sorted({*names, *(pool.vc for pool in cluster.pools if pool.vc is not None)})
    group = np.full(len(jobs), -1, np.int64)
    for g, vc in enumerate(quotas):
        if vc not in known:
            remedy = f"known are {', '.join(known)}" if known else "the jobs name none"
            raise InputError(f"quotas: virtual cluster {vc!r} is unknown; {remedy}")
        if vc in names:
            group[jobs.vc.codes == names.index(vc)] = g
    return group, np.floor(np.array([*quotas.values()]) * WHOLE + 1e-6).astype(np.int64)


def check_quotas_suffice(jobs: JobTable, sim: Sim, vcs: Iterable[Any]) -> None:
    """Refuse a job that wants more than its quota in every way. What no pool can hold is refused elsewhere."""
    group, left = sim.detail.group, sim.space.left
    amount = least_amount(sim.choices, sim.detail.amount)[sim.jobs.cls]
    possible = np.diff(sim.choices.ptr)[sim.jobs.cls] > 0
    wide = possible & (group >= 0) & (amount > np.append(left, 0)[group])
    if not wide.any():
        return
    row = int(np.argmax(wide))
    vc, more = list(vcs)[group[row]], int(wide.sum()) - 1
    raise InputError(
        f"quotas: job {jobs.job_id[row]} (row {row + 1} by submit time) wants {amount[row] / WHOLE:g} GPUs, virtual "
        f"cluster {vc} may hold {left[group[row]] / WHOLE:g}{f' (and {more} more jobs)' if more else ''}: it "
        "could never start; use a larger quota or leave the job out"
    )


def _quotas(given: Any) -> dict[str, float] | None:
    """By name, from a mapping or from pairs; the command line takes a name such as 6214e9 only in a pair."""
    if given is None:
        return None
    pairs = list(given.items()) if isinstance(given, Mapping) else given
    if not isinstance(pairs, list | tuple) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs
    ):
        raise InputError(
            f"quotas={given!r}; give GPUs by virtual cluster, e.g. {{vcA: 64}} or [[vcA, 64]], or null for none"
        )
    for vc, gpus in pairs:
        # A number of NumPy's own cannot be compared with any other without a warning.
        plain = gpus.item() if isinstance(gpus, np.generic) else gpus
        if not _is_number(plain) or not 0 <= plain < MOST_GPUS:
            raise InputError(f"quotas: virtual cluster {vc}: {gpus!r}; give a number of GPUs >= 0")
    names = [str(vc) for vc, _ in pairs]
    if twice := [vc for vc in names if names.count(vc) > 1]:
        raise InputError(f"quotas: virtual cluster {twice[0]} is there twice; give it once")
    return {str(vc): float(gpus) for vc, gpus in pairs}


def _entries(name: str, given: Any) -> list[Any]:
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise InputError(f"{name}={given!r} is no list; give one, [] for none")
    return list(given)


def _numbers(name: str, given: Any) -> Floats:
    try:
        return np.asarray(given, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name}: these are no numbers; give a rectangular array of them") from None


def _check_time(name: str, value: Any, *, above: bool) -> None:
    # A number of NumPy's own cannot be compared with any other without a warning.
    plain = value.item() if isinstance(value, np.generic) else value
    if not _is_number(plain) or not 0 <= plain < LONGEST_S or (above and plain == 0):
        raise InputError(f"{name}={value!r}; give seconds {'above 0' if above else '>= 0'}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= least)
