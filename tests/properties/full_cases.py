"""Random small workloads with everything that the detailed simulation knows, and what must hold of their runs.

`check` works the constraints out from the inputs and the runs alone, GPU by GPU and instant by instant; it shares no
code with the simulation but the random draws of `rltune.core.rng`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple
from unittest import mock

import numba as nb
import numpy as np
from hypothesis import strategies as st

import rltune
from rltune.core.resources.places import idle_room
from rltune.core.rng import NODE_FAILURE, NODE_REPAIR, exponential
from rltune.core.state import FINISHED, GIVEN_UP, JOB_FAILURE, SUSPENDED
from rltune.core.state import NODE_FAILURE as LOST_NODE
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.jobs import WHOLE, JobTable
from rltune.nouns.mig_profiles import LONGEST_QUEUE_S, NAMES, PROFILES, SIZE, STARTS, TYPES
from rltune.policies.dynamic import STATIC
from rltune.policies.orders import ORDERS
from rltune.policies.preemptive import PREEMPTIVE
from rltune.simulator import full

POLICIES = (*ORDERS, *PREEMPTIVE)
ALLOCATORS = tuple(full.SHARING_RULES)
QUANTUM_S = 10.0
WAYS_TAKEN = (("fastest", 0.0), ("efficient", 0.0))
FAILED = (LOST_NODE, JOB_FAILURE, GIVEN_UP)


@nb.njit
def drawn(seed: int, purpose: int, a: int, b: int, mean: float) -> float:
    """The same draw as the simulation's, to the last bit; only compiled code can call it."""
    return exponential(seed, purpose, a, b, mean)


def suspends(policy: str, options: dict[str, Any]) -> bool:
    """Whether running jobs may be suspended."""
    known = PREEMPTIVE.get(policy)
    as_is = known is not None and (known.on_event or known.on_tick)
    given = options.get("preemptive")
    return as_is if given is None else bool(given)


# --- workloads --------------------------------------------------------------------------


@st.composite
def pools(draw: st.DrawFn, plain: bool) -> Pool:
    """A pool without its name; ``plain``: whole GPUs only."""
    kind = draw(st.sampled_from(["any", "V100", "A100-40GB"]))
    more: dict[str, Any] = {"max_gpus_per_job": draw(st.sampled_from([None, None, None, 3]))}
    gpus = draw(st.integers(1, 8))
    if not plain and draw(st.integers(0, 5)) == 5:
        gpus, more["cpus"] = 0, 4.0
    elif not plain:
        more["mig"] = kind == "A100-40GB" and draw(st.booleans())
        if draw(st.booleans()):
            more["cpus"], more["memory_gb"] = draw(st.sampled_from([4.0, 6.5, 16])), draw(st.sampled_from([8.0, 64]))
    return Pool(
        f"p{draw(st.integers(0, 10**9))}", draw(st.integers(1, 4)), gpus, kind,
        draw(st.sampled_from([None, None, "x", "y"])), **more,
    )  # fmt: skip


@st.composite
def clusters(draw: st.DrawFn, plain: bool = False) -> Cluster:
    """``plain``: whole GPUs only, and as many on every node."""
    given = draw(st.lists(pools(plain), min_size=1, max_size=3, unique_by=lambda pool: pool.name))
    return Cluster("c", tuple(replace(p, gpus_per_node=given[0].gpus_per_node) if plain else p for p in given))


JOBS = st.tuples(
    st.integers(0, 60),  # submission
    st.sampled_from([0, 0.25, 1, 5, 7.5, 30, 100]),  # run time
    st.sampled_from([1, 1, 1, 2, 3, 4, 6, 8, 12]),  # GPUs
    st.sampled_from(["whole", "whole", "whole", "share", "cpu", "mig"]),
    st.sampled_from([1, 250, 300, 500, 700]),  # thousandths of a share
    st.sampled_from([None, "V100", "A100-40GB", "V100|A100-40GB"]),
    st.sampled_from(["x", "y"]),
    st.sampled_from(["u", "v", "w"]),
    st.sampled_from([0.0, 0.5, 1, 2.1, 4]),  # cores and GB
    st.integers(0, 3),  # priority
    st.sampled_from([0.3, 1.0, 2.5]),  # limit over run time
    st.lists(
        st.sampled_from(
            ["request", "1xA100@1.5", "2xV100@0.5", "4xany@0.7", "0.5xA100-40GB@0.6", "0.3xany", "1xV100", "3g.20gb@0.8",
             "1g.5gb@0.4", "2g.10gb:A100-40GB@0.8"]
        ), max_size=4, unique=True,
    ),  # several ways to run
    st.integers(0, 2),
)  # fmt: skip


@st.composite
def tables(draw: st.DrawFn, plain: bool = False, most: int = 25) -> JobTable:
    # Drawn first, since lists alone tend to be short.
    n = draw(st.integers(1, most))
    rows = draw(st.lists(JOBS, min_size=n, max_size=n))
    columns: dict[str, list[Any]] = {
        name: [] for name in JobTable.__dataclass_fields__ if name not in ("name", "wait_s")
    }
    for k, (submit, run, gpus, kind, milli, gpu, vc, user, amount, priority, factor, ways, several) in enumerate(rows):
        kind = "whole" if plain else kind
        single = kind != "whole"
        values = {
            "job_id": f"job-{k}", "submit_s": submit, "duration_s": run, "num_gpus": 1 if single else gpus, "vc": vc,
            "user": user, "gpu_type": gpu, "priority": priority, "cpus": 0 if plain else amount,
            "memory_gb": 0 if plain else amount, "requested_s": run * factor, "status": None,
            "mig": sorted(NAMES["A100-40GB"].values())[milli % 6] if kind == "mig" else None,
            "gpu_milli": {"share": milli, "cpu": 0}.get(kind, WHOLE),
            "ways": " | ".join(ways) if several == 0 and ways and not plain else None,
        }  # fmt: skip
        for name, value in values.items():
            columns[name].append(value)
    return JobTable.from_columns(columns)


@st.composite
def node_events(draw: st.DrawFn, nodes: int) -> list[tuple[float, int, str]]:
    """Failures with repairs and drains with reopenings, in turn; the last one may stay away."""
    out: list[tuple[float, int, str]] = []
    for node in draw(st.lists(st.integers(0, nodes - 1), max_size=4, unique=True)):
        for leave, back in (("fail", "repair"), ("drain", "reopen")):
            times = sorted(draw(st.lists(st.sampled_from([0, 3, 5.5, 30, 40, 60, 100]), max_size=4, unique=True)))
            out += [(float(t), node, back if k % 2 else leave) for k, t in enumerate(times)]
    return out


@st.composite
def option_sets(draw: st.DrawFn, policy: str, jobs: JobTable, cluster: Cluster) -> dict[str, Any]:
    """Keywords of `rltune.simulate`, valid for the policy."""
    out: dict[str, Any] = {"allocator": draw(st.sampled_from(ALLOCATORS)), "quantum_s": QUANTUM_S}
    out["las_levels_gpu_s"] = draw(st.sampled_from([(), (20.0, 100.0)]))
    out["displace_factor"] = draw(st.sampled_from([1.0, 1.5, 4.0]))
    out["half_life_s"] = draw(st.sampled_from([5.0, 1e6]))
    if draw(st.booleans()):
        out |= {name: draw(st.sampled_from([0.0, 0.5, 2.0])) for name in ("suspend_s", "resume_s", "migrate_s")}
    out["mig_reconfiguration"] = draw(st.booleans())
    if out["mig_reconfiguration"]:
        out["mig_mode_s"] = draw(st.sampled_from([0.0, 0.5]))
    faults = draw(st.sets(st.sampled_from(["node", "job", "list", "capacity"]), max_size=4))
    if faults:
        out["max_retries"] = draw(st.sampled_from([0, 1, 3, 10]))
        out["checkpoint_s"] = draw(st.sampled_from([None, 3.0, 12.5]))
        out["seed"] = draw(st.integers(0, 3))
    if "node" in faults:
        out["node_mtbf_s"], out["node_repair_s"] = (
            draw(st.sampled_from([20.0, 300.0])),
            draw(st.sampled_from([4.0, 60.0])),
        )
    if "job" in faults:
        out["gpu_mtbf_s"] = draw(st.sampled_from([20.0, 300.0]))
    if "list" in faults:
        out["node_events"] = draw(node_events(cluster.nodes))
    if "capacity" in faults:
        pool = draw(st.sampled_from(cluster.pools))
        counts = draw(st.lists(st.integers(0, pool.nodes), max_size=4))
        out["capacity"] = [(20.0 * k, pool.name, count) for k, count in enumerate(counts)]
    if draw(st.booleans()):
        choices = st.sampled_from([0.5, 1.0, 2.0])
        by_pool = draw(st.lists(choices, min_size=len(cluster.pools), max_size=len(cluster.pools)))
        by_vc = np.where(jobs.vc.codes == 0, 1.0, draw(choices))
        out["speed"] = by_vc[:, None] * np.array(by_pool)
    special = PREEMPTIVE.get(policy)
    if special is None or special.flow is not None or draw(st.booleans()):
        out["preemptive"] = draw(st.sampled_from([False, True, None]))
    out["way_rule"], out["way_least_speed"] = draw(st.sampled_from(WAYS_TAKEN))
    names = ["skip"] if suspends(policy, out) else ["strict", "skip", "easy", "conservative"]
    out["backfill"] = draw(st.sampled_from(names))
    if out["backfill"] == "conservative" and draw(st.booleans()):
        out["reservations"] = draw(st.integers(1, 3))
    ranked = special is None and ORDERS[policy].needs_run_time and ORDERS[policy].code == STATIC
    beliefs = ["exact", "requested", "predicted", "own", *([] if ranked else ["online"])]
    out["runtimes"] = draw(st.sampled_from(beliefs))
    if out["runtimes"] == "own":
        out["runtimes"] = jobs.duration_s * np.array([0.0, 0.5, 3.0, 1.0])[np.arange(len(jobs)) % 4]
    return out


# --- simulations ------------------------------------------------------------------------


class Seen:
    """A result, and what the simulation's state was in the end (to see which GPU of a node a run held)."""

    def __init__(self, jobs: JobTable, cluster: Cluster, **options: Any) -> None:
        kept: list[Any] = []
        inner = full.result_of

        def result(*given: Any) -> rltune.Result:
            kept.append(given[2])
            return inner(*given)

        with mock.patch.object(full, "result_of", result):
            self.result = rltune.simulate(jobs, cluster, oversized="drop", **options)
        (self.final,) = kept
        self.jobs, self.cluster, self.options = jobs, cluster, options

    def grants(self) -> Iterator[tuple[int, float, float, list[tuple[int, int, int]]]]:
        """(job, start, end, [(node, mask of GPUs, first slice)]) of every run."""
        log = self.final.detail.log
        for r in range(len(self.result.runs)):
            places = range(int(log.ptr[r]), int(log.ptr[r + 1]))
            held = [(int(log.node[i]), int(log.grant[i]) & 0xFFFFFFFF, int(log.grant[i]) >> 32) for i in places]
            yield int(log.job[r]), float(log.start[r]), float(log.end[r]), held


def attempts_of(result: rltune.Result) -> dict[int, list[int]]:
    """Rows of `Runs` of every job, in order."""
    out: dict[int, list[int]] = {job: [] for job in range(len(result.jobs))}
    for r in range(len(result.runs)):
        out[int(result.runs.job[r])].append(r)
    return out


# --- what must hold -----------------------------------------------------------------------


def check(seen: Seen, policy: str) -> None:
    runs = seen.result.runs
    assert (runs.start_s >= seen.jobs.submit_s[runs.job]).all()
    assert (runs.end_s >= runs.start_s).all() and (np.diff(runs.start_s) >= 0).all()
    # Written down as they ended: the clock never goes back.
    assert (np.diff(seen.final.detail.log.end[: len(runs)]) >= 0).all()
    check_jobs(seen, policy)
    check_gangs(seen)
    check_lengths(seen)
    check_resources(seen)
    check_nodes(seen)
    if seen.options["backfill"] == "skip":
        check_nobody_waits_in_vain(seen)


def check_jobs(seen: Seen, policy: str) -> None:
    """Every job finished, was given up, was dropped, or waits for nodes that are away."""
    result, jobs, runs = seen.result, seen.jobs, seen.result.runs
    retries = seen.options.get("max_retries", 10)
    impossible = {k for k in range(len(jobs)) if not allowed(seen, k)}
    assert result.dropped == len(impossible)
    waiting = []
    for job, mine in attempts_of(result).items():
        ends = runs.outcome[mine].tolist()
        assert all(runs.start_s[b] >= runs.end_s[a] for a, b in pairwise(mine))
        assert not any(outcome in (FINISHED, GIVEN_UP) for outcome in ends[:-1])
        assert SUSPENDED not in ends or suspends(policy, seen.options)
        failures = sum(outcome in FAILED for outcome in ends)
        assert failures <= retries + 1 and (failures == retries + 1) == (GIVEN_UP in ends)
        assert not mine or result.start_s[job] == runs.start_s[mine[0]]
        if job in impossible:
            assert not mine
        elif FINISHED in ends:
            assert result.end_s[job] == runs.end_s[mine[-1]]
            assert abs(runs.useful_s[mine].sum() - jobs.duration_s[job]) <= 1e-9 * (1 + jobs.duration_s[job])
        else:
            assert np.isnan(result.end_s[job])
            if GIVEN_UP not in ends:
                waiting.append(job)
    if waiting:
        away = [node for node, spans in enumerate(closed_spans(seen)) if spans and spans[-1][1] == np.inf]
        blocked = [job for job in waiting if not enough_open(seen, job, away)]
        held_back = seen.options["backfill"] in ("strict", "easy", "conservative")
        assert blocked if held_back else blocked == waiting


class Way(NamedTuple):
    """What a job holds in one of its ways, and where it may; ``speed`` None: that of the pool."""

    gpus: int
    milli: int
    mig: str | None
    types: str | None
    speed: float | None


def ways_of(seen: Seen, job: int) -> list[Way]:
    """The ways of a job, by the text of its column or, without one, by the others."""
    jobs, out = seen.jobs, []
    for part in (jobs.ways.values()[job] or "request").split(" | "):
        name, _, speed = part.partition("@")
        fast = float(speed) if speed else None
        number, _, kind = name.partition("x")
        if name == "request":
            gpus = int(jobs.num_gpus[job])
            out.append(Way(gpus, int(jobs.gpu_milli[job]), jobs.mig.values()[job], jobs.gpu_type.values()[job], fast))
        elif "g." in name:
            profile, _, on = name.partition(":")
            out.append(Way(1, WHOLE, profile, on or None, fast))
        else:
            share = float(number) < 1
            types = "A100-40GB|A100-80GB" if kind == "A100" else kind
            out.append(
                Way(1 if share else int(number), round(1000 * float(number)) if share else WHOLE, None, types, fast)
            )
    return out


def pools_of(seen: Seen, job: int, way: Way) -> list[int]:
    """Pools that could hold the job in this way if they were empty."""
    jobs, out = seen.jobs, []
    gpus = way.gpus if way.milli > 0 else 0
    for p, pool in enumerate(seen.cluster.pools):
        widest = min(gpus, pool.gpus_per_node) / gpus if gpus else 1.0
        if (
            pool.vc in (None, jobs.vc.values()[job])
            and (way.types is None or pool.gpu_type == "any" or pool.gpu_type in way.types.split("|"))
            and gpus <= min(pool.nodes * pool.gpus_per_node, pool.max_gpus_per_job or gpus)
            and (pool.cpus is None or jobs.cpus[job] * widest <= pool.cpus)
            and (pool.memory_gb is None or jobs.memory_gb[job] * widest <= pool.memory_gb)
            and (way.mig is None or (pool.mig and STARTS[PROFILES.index(way.mig), TYPES.index(pool.gpu_type)]))
        ):
            out.append(p)
    return out


def widest_of(jobs: JobTable, vc: str) -> float:
    """GPUs of the widest job of a virtual cluster; those that list ways may be asked for four."""
    mine = jobs.vc.values() == vc
    return float(jobs.num_gpus[mine].max(initial=4 if (jobs.ways.codes[mine] >= 0).any() else 1))


def allowed(seen: Seen, job: int) -> list[int]:
    """Pools that could hold the job, in one of its ways, if they were empty."""
    return sorted({p for way in ways_of(seen, job) for p in pools_of(seen, job, way)})


def way_of_run(seen: Seen, r: int) -> list[Way]:
    """The ways that run r may have been in: by its pool, its GPUs and their parts. Empty: it held what no way asks for."""
    runs, job = seen.result.runs, int(seen.result.runs.job[r])
    assert runs.mask is not None and runs.profile is not None
    place = slice(runs.ptr[r], runs.ptr[r + 1])
    gpus, mig = (
        int(np.bitwise_count(runs.mask[place]).sum()),
        PROFILES[runs.profile[r]] if runs.profile[r] >= 0 else None,
    )
    milli = int(runs.milli[place].sum())
    return [
        way
        for way in ways_of(seen, job)
        if way.mig == mig
        and gpus == (way.gpus if way.milli > 0 else 0)
        and (mig is not None or milli == way.gpus * way.milli)
        and runs.pool[r] in pools_of(seen, job, way)
    ]


def enough_open(seen: Seen, job: int, away: list[int]) -> bool:
    """Whether the nodes that stay open could hold the job, in one of its ways, when idle."""
    arrays = seen.cluster.arrays()
    for way in ways_of(seen, job):
        for p in pools_of(seen, job, way):
            nodes = [n for n in range(arrays.pool_lo[p], arrays.pool_hi[p]) if n not in away]
            if len(nodes) >= -(-way.gpus // max(1, int(arrays.pool_cap[p]))):
                return True
    return False


def check_gangs(seen: Seen) -> None:
    """All GPUs of one of a job's ways at once, on the fewest nodes of one pool allowed for it."""
    runs, arrays = seen.result.runs, seen.cluster.arrays()
    for r in range(len(runs)):
        place = slice(runs.ptr[r], runs.ptr[r + 1])
        nodes = runs.node[place].tolist()
        assert set(arrays.node_pool[nodes].tolist()) == {int(runs.pool[r])}
        assert way_of_run(seen, r)
        wanted, cap = int(np.bitwise_count(runs.mask[place]).sum()), int(arrays.pool_cap[runs.pool[r]])
        assert all(int(mask) < 1 << cap for mask in runs.mask[place])
        assert len(set(nodes)) == len(nodes) == max(1, -(-wanted // max(1, cap)))


def check_lengths(seen: Seen) -> None:
    """A run lasts as long as restoring and its work take, and keeps what was saved."""
    runs, given = seen.result.runs, seen.options
    costs = [given.get(name, 0.0) for name in ("suspend_s", "resume_s", "migrate_s")]
    speed = given.get("speed")
    for job, mine in attempts_of(seen.result).items():
        before: list[int] = []
        for count, r in enumerate(mine):
            nodes = runs.node[runs.ptr[r] : runs.ptr[r + 1]].tolist()
            overhead = 0.0 if count == 0 else costs[0] + costs[1] + (costs[2] if nodes != before else 0.0)
            of_pool = 1.0 if speed is None else speed[job, runs.pool[r]]
            held = runs.end_s[r] - runs.start_s[r] - overhead
            changing = longest_change(seen, r)
            # Of ways that ask for the same there the fastest.
            rate = max(of_pool if way.speed is None else way.speed for way in way_of_run(seen, r))
            least, most = (max(0.0, worked) * rate for worked in (held - changing, held))
            if runs.outcome[r] in FAILED:
                every = given.get("checkpoint_s")
                saved = [0.0 if every is None else np.floor(kept / rate / every + 1e-9) for kept in (least, most)]
                least, most = (count * (every or 0.0) * rate for count in saved)
            assert least - 1e-6 < runs.useful_s[r] < most + 1e-6
            if runs.outcome[r] == FINISHED:
                assert -1e-6 < held - runs.useful_s[r] / rate < changing + 1e-6
            before = nodes


def longest_change(seen: Seen, r: int) -> float:
    """Seconds for which changing MIG instances may have kept a run from beginning; 0 where none may be changed.

    What it is exactly: `test_mig_instances`.
    """
    runs, given = seen.result.runs, seen.options
    if not given.get("mig_reconfiguration", True) or not seen.cluster.pools[runs.pool[r]].mig:
        return 0.0
    return float(LONGEST_QUEUE_S + 2 * given.get("mig_mode_s", 0.0)) if runs.milli[runs.ptr[r]] > 0 else 0.0


def check_resources(seen: Seen) -> None:
    """At no instant more of a GPU, of its slices, of a node's cores or memory than there is; in the end all is free."""
    jobs, arrays = seen.jobs, seen.cluster.arrays()
    runs = seen.result.runs
    for instant in sorted({float(t) for t in runs.start_s}):
        milli: dict[tuple[int, int], int] = {}
        slices: dict[tuple[int, int], int] = {}
        cpus, memory = np.zeros(seen.cluster.nodes), np.zeros(seen.cluster.nodes)
        for r in np.flatnonzero((runs.start_s <= instant) & (instant < runs.end_s)).tolist():
            job, way = int(runs.job[r]), way_of_run(seen, r)[0]
            for at in range(runs.ptr[r], runs.ptr[r + 1]):
                node, mask, first = int(runs.node[at]), int(runs.mask[at]), int(runs.first_slice[at])
                share = mask.bit_count() / way.gpus if way.milli > 0 else 1.0
                cpus[node] += jobs.cpus[job] * share
                memory[node] += jobs.memory_gb[job] * share
                for gpu in range(32):
                    if not mask >> gpu & 1:
                        continue
                    if way.mig is not None:
                        profile, kind = PROFILES.index(way.mig), arrays.pool_mig[arrays.node_pool[node]]
                        assert STARTS[profile, kind] >> first & 1
                        taken = ((1 << int(SIZE[profile, kind])) - 1) << first
                        assert slices.get((node, gpu), 0) & taken == 0
                        slices[node, gpu] = slices.get((node, gpu), 0) | taken
                    else:
                        milli[node, gpu] = milli.get((node, gpu), 0) + way.milli
        assert all(value <= WHOLE for value in milli.values())
        assert not milli.keys() & slices.keys()
        assert (cpus <= arrays.pool_cpus[arrays.node_pool] + 1e-3).all()
        assert (memory <= arrays.pool_memory[arrays.node_pool] + 1e-3).all()
    idle = idle_room(seen.cluster)
    for name in idle._fields:
        if name not in ("closed", "layout"):
            assert np.array_equal(getattr(seen.final.space.room, name), getattr(idle, name)), name


def closed_spans(seen: Seen) -> list[list[tuple[float, float, bool]]]:
    """For every node (from, until, whether its runs are lost), one list over all causes, the longest-lasting last."""
    given, arrays = seen.options, seen.cluster.arrays()
    out: list[list[tuple[float, float, bool]]] = [[] for _ in range(seen.cluster.nodes)]
    for leave, back in (("fail", "repair"), ("drain", "reopen")):
        begun: dict[int, float] = {}
        for time, node, kind in sorted(given.get("node_events", ()), key=lambda event: event[0]):
            if kind == leave:
                begun[node] = time
            elif kind == back:
                out[node].append((begun.pop(node), time, leave == "fail"))
        for node, time in begun.items():
            out[node].append((time, np.inf, leave == "fail"))
    names = [pool.name for pool in seen.cluster.pools]
    steps = [(time, names.index(pool), count) for time, pool, count in given.get("capacity", ())]
    for (time, p, count), later in zip(steps, [*[s[0] for s in steps[1:]], np.inf], strict=False):
        for node in range(arrays.pool_lo[p] + count, arrays.pool_hi[p]):
            out[node].append((time, later, False))
    if "node_mtbf_s" in given:
        last = max(seen.result.runs.end_s.max(initial=0.0), float(seen.jobs.submit_s.max()))
        for node, spans in enumerate(out):
            time, k = float(seen.jobs.submit_s[0]), 0
            while time <= last:
                time += drawn(given.get("seed", 0), NODE_FAILURE, node, k, given["node_mtbf_s"])
                until = time + drawn(given.get("seed", 0), NODE_REPAIR, node, k, given["node_repair_s"])
                spans.append((time, until, True))
                time, k = until, k + 1
    for spans in out:
        spans.sort(key=lambda span: span[1])
    return out


def check_nodes(seen: Seen) -> None:
    """No run begins on a closed node, or outlives the failure of its node; failures of nodes are the only such losses."""
    runs, spans = seen.result.runs, closed_spans(seen)
    for r in range(len(runs)):
        failed_now = False
        for node in runs.node[runs.ptr[r] : runs.ptr[r + 1]]:
            for begin, until, kills in spans[node]:
                assert not begin <= runs.start_s[r] < until
                assert not (kills and runs.start_s[r] < begin < runs.end_s[r])
                failed_now = failed_now or (kills and begin == runs.end_s[r])
        assert runs.outcome[r] != LOST_NODE or failed_now
        assert runs.outcome[r] not in (JOB_FAILURE, GIVEN_UP) or failed_now or "gpu_mtbf_s" in seen.options


def check_nobody_waits_in_vain(seen: Seen) -> None:
    """No job of whole GPUs (whose cores and memory do not matter) waits while some allowed pool has room for it."""
    jobs, arrays, spans = seen.jobs, seen.cluster.arrays(), closed_spans(seen)
    held, mine = list(seen.grants()), attempts_of(seen.result)
    runs, ends = seen.result.runs, (FINISHED, GIVEN_UP)
    plain = (jobs.cpus == 0) & (jobs.memory_gb == 0)
    last = float(runs.end_s.max(initial=0.0))
    for instant in sorted({*jobs.submit_s.tolist(), *runs.start_s.tolist(), *runs.end_s.tolist()}):
        free = [set(range(arrays.pool_cap[p])) for p in arrays.node_pool]
        for _, start, end, places in held:
            if start <= instant < end:
                for node, mask, _ in places:
                    free[node] -= {gpu for gpu in range(32) if mask >> gpu & 1}
        away = [any(begin <= instant < until for begin, until, _ in spans[n]) for n in range(seen.cluster.nodes)]
        room = np.where(away, 0, [len(gpus) for gpus in free])
        for job in np.flatnonzero(plain & (jobs.submit_s <= instant)):
            attempts = mine[int(job)]
            over = any(runs.outcome[r] in ends and runs.end_s[r] <= instant for r in attempts)
            if instant >= last or over or any(runs.start_s[r] <= instant < runs.end_s[r] for r in attempts):
                continue
            assert not has_room(seen, int(job), room)


def has_room(seen: Seen, job: int, room: Any) -> bool:
    """Whether a pool has the whole GPUs of one of the job's ways free on the fewest nodes."""
    arrays = seen.cluster.arrays()
    for way in ways_of(seen, job):
        for p in pools_of(seen, job, way) if way.milli == WHOLE and way.mig is None else []:
            fewest = -(-way.gpus // max(1, int(arrays.pool_cap[p])))
            best = np.sort(room[arrays.pool_lo[p] : arrays.pool_hi[p]])[::-1][:fewest]
            if best.sum() >= way.gpus:
                return True
    return False
