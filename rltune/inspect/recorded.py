"""What a run directory holds, as arrays: one `Schedule` for each simulation, MIG batch plan, or row of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rltune.inspect.decisions import Decisions, decisions_in
from rltune.inspect.lanes import lanes
from rltune.inspect.windows import Steps, steps_of, sums
from rltune.nouns.cluster import Cluster
from rltune.nouns.errors import InputError
from rltune.nouns.mig_profiles import FOUR_SLICE_TYPES, PROFILES, SIZE, TYPES
from rltune.simulator.recording import MOST

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NO_DECISIONS = (
    "scores, mask, chosen action and runner-up of each decision, and the policy's own order: simulate writes them down with "
    "decisions=true"
)
NOT_ALL = (
    f"decisions: jobs behind the first {MOST} of the policy's order, instants at which nobody could start, and where jobs are suspended "
    "the running ones that were weighed"
)
NO_GPUS = "which GPU of its node a whole-GPU run held: the first free ones are shown"

NO_TYPES = "GPU types, CPUs and memory that jobs asked for: pools are said to take a job by virtual cluster and width"


@dataclass(frozen=True)
class Bars:
    """Stretches of GPUs of a node that a run held. Arrays (n_bars,), by start.

    ``run``: index into the schedule's runs; ``node``: number of the node; ``top``, ``height``: in GPUs, from the node's first.
    """

    run: Ints
    node: Ints
    top: Floats
    height: Floats
    start_s: Floats
    end_s: Floats


@dataclass(frozen=True)
class Schedule:
    """One schedule. Jobs by submission, runs by start; times in seconds of the trace's clock.

    ``names`` (n_jobs,): as text; ``submit_s, gpus`` (n_jobs,); ``columns``: further columns of the jobs by name (n_jobs,);
    ``job, start_s, end_s, held, note`` (n_runs,): a run's job, when it held GPUs, how many, and its outcome or place as text;
    ``nodes``: name, pool and GPUs of each node, empty where places are not recorded; ``gpus_total``: of the cluster;
    ``outlines``: MIG instances as bars of no job; ``missing``: one line each, what is not recorded; ``decisions``: None where a run
    did not write them down.
    """

    title: str
    kind: str
    names: list[str]
    submit_s: Floats
    gpus: Floats
    columns: dict[str, list[Any]]
    job: Ints
    start_s: Floats
    end_s: Floats
    held: Floats
    note: list[str]
    nodes: list[dict[str, Any]]
    pools: list[dict[str, Any]]
    gpus_total: float
    bars: Bars
    outlines: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    decisions: Decisions | None = None

    @cached_property
    def begin_s(self) -> float:
        return float(self.submit_s.min(initial=np.inf)) if len(self.submit_s) else 0.0

    @cached_property
    def end_of_all_s(self) -> float:
        """Never before the beginning."""
        return max(self.begin_s + 1.0, float(self.end_s.max(initial=self.begin_s)))

    @cached_property
    def waits(self) -> tuple[Ints, Floats, Floats]:
        """Stretches of waiting (n_waits,): job, from, to; before each run of a job. Jobs that never ran have none."""
        order = np.lexsort((self.start_s, self.job))
        job, start, end = self.job[order], self.start_s[order], self.end_s[order]
        since = self.submit_s[job].copy()
        again = job[1:] == job[:-1]
        since[1:][again] = end[:-1][again]
        waited = start > since
        return job[waited], since[waited], start[waited]

    @cached_property
    def wait_s(self) -> Floats:
        """(n_jobs,) seconds of waiting in all; NaN for jobs that never ran."""
        job, since, to = self.waits
        total = sums(job, to - since, len(self.names))
        ran = np.zeros(len(self.names), bool)
        ran[self.job] = True
        return np.where(ran, total, np.nan)

    def start_beside(self, at_s: float, direction: int) -> float | None:
        """The next moment at which a run starts (direction 1), or the one before (-1); None: there is none. Runs lie by start."""
        k = np.searchsorted(self.start_s, at_s, "right") if direction > 0 else np.searchsorted(self.start_s, at_s) - 1
        return float(self.start_s[k]) if 0 <= k < len(self.start_s) else None

    @cached_property
    def series(self) -> dict[str, Steps]:
        """Busy GPUs, waiting jobs, and the GPUs these ask for, as functions of time."""
        job, since, to = self.waits
        return {
            "busy_gpus": steps_of(self.start_s, self.end_s, self.held),
            "queued_jobs": steps_of(since, to, np.ones(len(job))),
            "queued_gpus": steps_of(since, to, self.gpus[job]),
        }

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Name of a job -> its row."""
        return {name: row for row, name in enumerate(self.names)}


Load = Callable[[], Schedule]


def schedules_in(run: Path) -> dict[str, Load]:
    """Label -> what reads the schedule, of all that a run directory holds. InputError where it holds none."""
    if not run.is_dir():
        raise InputError(f"{run}: no such run directory; name one that simulate, evaluate or mig batch has written")
    command = summary_of(run).get("command")
    if command == "simulate" and (run / "runs.parquet").is_file():
        return {run.name: lambda: simulation(run)}
    if command == "mig batch" and (run / "plan.parquet").is_file():
        return {run.name: lambda: mig_batch(run)}
    if command in ("evaluate", "train") and (tables := sorted(run.glob("jobs*.parquet"))):
        return {label: load for table in tables for label, load in evaluation(run, table).items()}
    raise InputError(
        f"{run}: {command or 'this'} leaves no schedule to look at; name a run of simulate, evaluate or mig batch"
    )


def summary_of(run: Path) -> dict[str, Any]:
    """summary.json of a run directory; InputError where there is none."""
    path = run / "summary.json"
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); name a run directory with a complete summary.json"
        ) from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a summary; name a run directory")
    return found


def read(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """A table with at least these columns; InputError."""
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0]}); make the run anew") from None
    lacking = [name for name in columns if name not in frame.columns]
    if lacking:
        raise InputError(f"{path}: column {lacking[0]} is missing; make the run anew with this release")
    return frame


# --- a simulation ----------------------------------------------------------------------------------


def simulation(run: Path) -> Schedule:
    """From jobs.parquet, runs.parquet and summary.json; with what decisions.parquet and milp.parquet hold, where they are there."""
    summary = summary_of(run)
    jobs = read(run / "jobs.parquet", ("job_id", "submit_s", "num_gpus", "duration_s"))
    runs = read(run / "runs.parquet", ("job_id", "start_s", "end_s", "outcome", "nodes", "gpus", "pool"))
    cluster = Cluster.from_spec({"name": summary["cluster"]["name"], "pools": summary["cluster"]["pools"]})
    names = jobs.job_id.astype(str).tolist()
    at = pd.Series(np.arange(len(names)), index=names)
    job = at.reindex(runs.job_id.astype(str)).to_numpy()
    if np.isnan(job.astype(float)).any():
        raise InputError(f"{run / 'runs.parquet'}: a run of a job that jobs.parquet lacks; make the run anew")
    asked = jobs.num_gpus.to_numpy(float)
    if "gpu_milli" in jobs:
        # Shares are asked for in thousandths of one GPU.
        milli = jobs.gpu_milli.to_numpy(float)
        asked = np.where((milli > 0) & (asked <= 1), milli / 1000.0, asked)
    started = runs.start_s.to_numpy(float)
    bars = bars_of(runs, cluster)
    told, decisions = summary["simulation"], decisions_in(run, len(names))
    return Schedule(
        title=f"{summary['trace']['label']}, {cluster.nodes} nodes, {next(iter(summary['policies']))}",
        kind="simulation", names=names, submit_s=jobs.submit_s.to_numpy(float), gpus=asked, columns=features(jobs),
        job=job.astype(np.int64), start_s=started, end_s=runs.end_s.to_numpy(float),
        held=sums(bars.run, bars.height, len(runs)), note=runs.outcome.astype(str).tolist(),
        nodes=nodes_of(cluster), pools=summary["cluster"]["pools"], gpus_total=float(cluster.gpus), bars=bars,
        missing=[NO_DECISIONS if decisions is None else NOT_ALL, NO_GPUS, NO_TYPES], decisions=decisions,
        facts={"policy": told["policy"], "backfill": told["backfill"], "run times": told["runtimes"],
               "allocator": told["allocator"], "trace": summary["trace"]["label"], "cluster": cluster.name,
               "remarks": summary.get("remarks", [])},
    )  # fmt: skip


def features(jobs: pd.DataFrame) -> dict[str, list[Any]]:
    """Columns of the jobs that the page shows, as plain values, None where a job has none."""
    shown = {"duration_s": "run time (recorded)", "vc": "virtual cluster", "user": "user", "priority": "priority"}
    return {
        label: [None if pd.isna(x) else x for x in jobs[name].tolist()]
        for name, label in shown.items()
        if name in jobs and jobs[name].nunique() > 1
    }


def nodes_of(cluster: Cluster) -> list[dict[str, Any]]:
    """Name, pool, GPUs, GPU type of each node, in the cluster's order; the name is unique in its pool."""
    return [
        {"name": f"{pool.name} {pool.first_node_id + k}", "pool": number, "gpus": pool.gpus_per_node, "type": pool.gpu_type}
        for number, pool in enumerate(cluster.pools)
        for k in range(pool.nodes)
    ]  # fmt: skip


def bars_of(runs: pd.DataFrame, cluster: Cluster) -> Bars:
    """Rows of runs.parquet, a bar for each stretch of a node's GPUs that a run held."""
    arrays = cluster.arrays()
    number = {pool.name: k for k, pool in enumerate(cluster.pools)}
    pool = runs.pool.map(number).to_numpy(np.int64)
    count = runs.nodes.map(len).to_numpy()
    run = np.repeat(np.arange(len(runs)), count)
    ids = np.concatenate([*runs.nodes.to_numpy(), np.empty(0, np.int64)]).astype(np.int64)
    first = np.array([each.first_node_id for each in cluster.pools], np.int64)
    node = ids - first[pool[run]] + arrays.pool_lo[pool[run]]
    gpus = np.concatenate([*runs.gpus.to_numpy(), np.empty(0)]).astype(float)
    top = np.full(len(run), -1.0)
    if "mig" in runs.columns and (cut := runs.mig.notna().to_numpy()[run]).any():
        profile = np.array([PROFILES.index(x) if x in PROFILES else 0 for x in runs.mig])[run]
        kind = np.array([TYPES.index(x.gpu_type) if x.gpu_type in TYPES else -1 for x in cluster.pools])[pool[run]]
        whole = np.array([4.0 if x in FOUR_SLICE_TYPES else 8.0 for x in TYPES])[kind]
        gpus = np.where(cut, SIZE[profile, kind] / whole, gpus)
        place = runs.gpu.to_numpy(float)[run] + runs.first_slice.to_numpy(float)[run] / whole
        top = np.where(cut, place, top)
    start, end = runs.start_s.to_numpy(float)[run], runs.end_s.to_numpy(float)[run]
    return Bars(*lanes(run, node, top, gpus, start, end, arrays.pool_cap[arrays.node_pool]))


# --- a MIG batch -----------------------------------------------------------------------------------


def mig_batch(run: Path) -> Schedule:
    """From plan.parquet and instances.parquet: GPUs take the place of nodes, memory slices that of GPUs."""
    summary = summary_of(run)
    plan = read(run / "plan.parquet", ("batch", "task", "gpu", "profile", "start_slice", "slices", "start_s", "end_s"))
    instances = read(run / "instances.parquet", ("gpu", "profile", "start_slice", "slices", "ready_s", "gone_s"))
    plan = plan.sort_values("start_s", ignore_index=True)
    arrival = {str(row["label"] or k): float(row["arrival_s"]) for k, row in enumerate(summary["batches"])}
    several = plan.batch.nunique() > 1
    names = [f"{b}: {t}" if several else str(t) for b, t in zip(plan.batch, plan.task, strict=True)]
    n, slices = len(plan), plan.slices.to_numpy(float)
    start, end = plan.start_s.to_numpy(float), plan.end_s.to_numpy(float)
    sizes = plan.groupby("gpu").gpu_slices.first()
    nodes = [
        {"name": f"GPU {k} ({model})", "pool": 0, "gpus": int(sizes.get(k, 8)), "type": model}
        for k, model in enumerate(summary["gpus"])
    ]
    last = max(float(end.max(initial=1.0)), float(instances.gone_s.max()) if instances.gone_s.notna().any() else 0.0)
    outlines = [
        {"node": x["gpu"], "top": x["start_slice"], "height": x["slices"], "label": str(x["profile"]),
         "start": 0.0 if np.isnan(x["ready_s"]) else x["ready_s"], "end": last if np.isnan(x["gone_s"]) else x["gone_s"]}
        for x in instances.to_dict("records")
    ]  # fmt: skip
    return Schedule(
        title=f"MIG batch on {len(nodes)} GPU{'s' * (len(nodes) > 1)}: {n} tasks", kind="mig batch", names=names,
        submit_s=np.array([arrival.get(str(b), 0.0) for b in plan.batch]), gpus=slices,
        columns={"profile": plan.profile.astype(str).tolist()}, job=np.arange(n), start_s=start, end_s=end, held=slices,
        note=plan.profile.astype(str).tolist(), nodes=nodes,
        pools=[{"name": "GPUs", "nodes": len(nodes), "gpus_per_node": 8, "vc": None, "max_gpus_per_job": None}],
        gpus_total=float(sum(x["gpus"] for x in nodes)),
        bars=Bars(np.arange(n), plan.gpu.to_numpy(np.int64), plan.start_slice.to_numpy(float), slices, start, end),
        outlines=outlines, missing=["scores of the search's moves: plans do not hold them"],
        facts={"method": ", ".join(dict.fromkeys(str(row["method"]) for row in summary["batches"])),
               "reconfigurations": sum(int(row["reconfigurations"]) for row in summary["batches"])},
    )  # fmt: skip


# --- an evaluation ---------------------------------------------------------------------------------


def evaluation(run: Path, table: Path) -> dict[str, Load]:
    """Each policy and window of jobs.parquet; places are not in it."""
    frame = read(table, ("policy", "window", "job_id", "submit_s", "start_s", "end_s", "num_gpus"))
    summary = summary_of(run)
    blocks = [summary, *summary.get("further", [])]
    several = frame.window.nunique() > 1

    def load(policy: object, window: object, part: pd.DataFrame) -> Load:
        label = f"{policy}, window from job {window}" if several else str(policy)
        return lambda: of_rows(part, label, gpus_of(blocks, table))

    return {
        f"{table.stem.replace('jobs', run.name, 1)}: {policy}{f', job {window}' if several else ''}": load(policy, window, part)
        for (policy, window), part in frame.groupby(["policy", "window"], sort=False)
    }  # fmt: skip


def gpus_of(blocks: list[Mapping[str, Any]], table: Path) -> float:
    """GPUs of the cluster that a table is of (``jobs-100.parquet``: the one of 100 nodes); NaN where the summary does not say."""
    nodes = table.stem.partition("-")[2]
    clusters = [block["cluster"] for block in blocks if isinstance(block.get("cluster"), dict)]
    fitting = [each for each in clusters if not nodes or str(each.get("nodes")) == nodes]
    return float(fitting[0].get("gpus", np.nan)) if fitting else float("nan")


def of_rows(part: pd.DataFrame, title: str, gpus: float) -> Schedule:
    """A schedule without places: when each job started and ended."""
    part = part.sort_values("submit_s", ignore_index=True, kind="stable")
    n, size = len(part), part.num_gpus.to_numpy(float)
    order = np.argsort(part.start_s.to_numpy(float), kind="stable")
    none = np.empty(0)
    return Schedule(
        title=title, kind="evaluation", names=part.job_id.astype(str).tolist(), submit_s=part.submit_s.to_numpy(float),
        gpus=size, columns={}, job=order, start_s=part.start_s.to_numpy(float)[order],
        end_s=part.end_s.to_numpy(float)[order], held=size[order], note=["finished"] * n, nodes=[], pools=[],
        gpus_total=gpus, bars=Bars(np.empty(0, np.int64), np.empty(0, np.int64), none, none, none, none),
        missing=["nodes and GPUs: evaluations keep times only (simulate keeps places)", NO_DECISIONS,
                 "suspensions: from its first start to its end a job is shown as running"],
    )  # fmt: skip
