"""``python -m rltune.simulate +trace=philly policy=sjf backfill=easy``: one simulation, all metrics, the schedule.

The name is also that of the function `rltune.simulate`. Python puts an imported submodule in the place of the
package's attribute of its name, so this module can be called: it hands the call on to the function.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import date, datetime
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import yaml

from rltune import api
from rltune.allocators.fragmentation import demand_of
from rltune.config.commands import Simulate, simulation_options
from rltune.config.traces import trace_node
from rltune.core.choices import MARKET
from rltune.entry import run_main
from rltune.experiment.progress import simulating
from rltune.experiment.setup import cluster_of, remarks_on
from rltune.experiment.sweep_table import conclude_simulations, mean_wait
from rltune.experiment.sweeping import Sweep
from rltune.nouns.asked_slices import with_profiles
from rltune.nouns.cluster import Cluster
from rltune.nouns.documents import cell
from rltune.nouns.errors import InputError
from rltune.policies.knowledge import forecast_error
from rltune.policies.preemptive import PREEMPTIVE_ALIASES
from rltune.report.console import say
from rltune.report.exports import EXPORTS, export
from rltune.report.figures import timeline_figure
from rltune.report.simulation import simulation_table
from rltune.rl.rules import run_times
from rltune.rundir import SCHEMA_VERSION, RunDirectory, describe_trace, manifest, peak_rss_mb, remove_if_asked
from rltune.simulator.guard import Guard
from rltune.simulator.result import Result
from rltune.simulator.run import describe_oversized, find_oversized
from rltune.simulator.usage import POOL_STEPS, step_of
from rltune.traces import Trace, from_config, split
from rltune.traces.capacity import with_capacity

STEPS_SHOWN = 2000
SWEEP = Sweep("rltune.simulate", conclude_simulations, mean_wait)
GROUPED = ("vc", "user", "priority")
"""Columns of the job table of which by_*.csv are written, where they say more than one thing."""


def main(cfg: dict[str, Any]) -> str:
    """One simulation; returns the run directory."""
    begun = time.perf_counter()
    check_options(cfg)
    remove_if_asked(cfg)
    node = trace_node(cfg.get("trace"))
    whole = from_config(node)
    trace = stretch_of(whole, cfg["begin"], cfg["end"], cfg["limit"])
    cluster = cluster_of(cfg["cluster"], node, "month", trace.jobs)
    cluster = cluster if cfg["nodes"] is None else cluster.with_nodes(cfg["nodes"])
    trace = replace(
        trace, jobs=with_profiles(trace.jobs, cluster), notes=(*trace.notes, *remarks_on(cluster, trace.jobs))
    )
    oversized = str(cfg["oversized"] if cfg["oversized"] != "refuse" else node.get("oversized", "refuse"))
    remarks = list(trace.notes)
    # What is to be refused is refused by the simulator.
    if oversized == "drop" and len(misfits := find_oversized(trace.jobs, cluster)):
        told = describe_oversized(trace.jobs, cluster, misfits, trace.label)
        remarks.append(f"{told} [dropped and counted as unfinished]")
    remarks += without_effect(cfg, trace, cluster) + as_trained(cfg)
    name = cfg["name"] or default_name(trace, cluster, cfg)
    with RunDirectory(cfg["runs"], str(name)) as run:
        say(f"trace     {trace.label}: {len(trace):,} jobs")
        say(f"cluster   {cluster.name}: {cluster.nodes} nodes ({cluster.gpus:,} GPUs)")
        with simulating(len(trace), cfg["progress"]):
            clock = time.perf_counter()
            result = run_once(cfg, whole, trace, cluster, oversized)
            simulated = time.perf_counter() - clock
        summary = {
            "schema_version": SCHEMA_VERSION,
            "command": "simulate",
            "trace": describe_trace(trace),
            "cluster": {
                "name": cluster.name,
                "nodes": cluster.nodes,
                "gpus": cluster.gpus,
                "pools": [asdict(pool) for pool in cluster.pools],
            },
            "simulation": described(cfg, oversized),
            "policies": {label_of(cfg): result.summary()},
            "bounds": result.bounds(),
            "remarks": remarks,
        }
        write_files(run, result, trace, cfg)
        summary["runtime"] = {
            "wall_s": round(time.perf_counter() - begun, 1),
            "simulate_s": round(simulated, 3),
            "events": result.events,
            "peak_rss_mb": round(peak_rss_mb(), 1),
            "jobs_per_s": round(len(trace) / simulated),
        }
        run.write_text("config.yaml", yaml.safe_dump(cfg, sort_keys=False))
        run.write_json("manifest.json", manifest(trace, [cfg["seed"]], {"begin": cfg["begin"], "end": cfg["end"]}))
        run.write_json("summary.json", summary)
        simulation_table(summary)
    return str(run.final)


def check_options(cfg: Mapping[str, Any]) -> None:
    """Refuse exports that there are none of."""
    if any(kind not in EXPORTS for kind in exports(cfg)):
        raise InputError(
            f"export={cfg['export']!r}; a list of {', '.join(EXPORTS)} is needed, e.g. export=[csv,chrome]"
        )


def exports(cfg: Mapping[str, Any]) -> list[Any]:
    """What to export: one kind or a list of them."""
    return list(cfg["export"]) if isinstance(cfg["export"], list) else [cfg["export"]]


def stretch_of(trace: Trace, begin: Any, end: Any, limit: int | None) -> Trace:
    """The jobs from ``begin`` to before ``end`` (`rltune.traces.split`; None: the trace's own), the first ``limit``."""
    if any(isinstance(bound, str | date) for bound in (begin, end)):
        trace = trace.between(0.0 if begin is None else begin, float("inf") if end is None else end)
    elif begin is not None or end is not None:
        fractions = isinstance(begin, float) or isinstance(end, float)
        last = 1.0 if fractions else len(trace)
        trace = split(trace, [0 if begin is None else begin, last if end is None else end])
    return trace if limit is None else trace.take(slice(0, limit))


def run_once(cfg: Mapping[str, Any], whole: Trace, trace: Trace, cluster: Cluster, oversized: str) -> Result:
    """The simulation that the options ask for; predictions know the whole past of the trace."""
    options = with_capacity(simulation_options(cfg), trace, cluster)
    runtimes: Any = cfg["runtimes"]
    if runtimes == "predicted":
        runtimes = run_times(trace, runtimes, whole)
    result = api.simulate(
        trace,
        cluster,
        policy=policy_of(cfg),
        backfill=cfg["backfill"],
        allocator=allocator_of(cfg["allocator"], trace, cluster),
        runtimes=runtimes,
        oversized=oversized,
        decisions=cfg["decisions"],
        seed=cfg["seed"],
        **options,
    )
    if cfg["runtimes"] in ("predicted", "requested"):
        believed = trace.jobs.requested_s if cfg["runtimes"] == "requested" else runtimes
        result.extra["forecast"] = forecast_error(trace.jobs, believed)
    return result


def policy_of(cfg: Mapping[str, Any]) -> Any:
    """The policy, by name where it is not guarded."""
    if not cfg["guard"]:
        return cfg["policy"]
    if not api.is_learned(cfg["policy"]):
        raise InputError(f"guard=true guards learned policies; policy={cfg['policy']} is a rule: leave guard out")
    return api.load_policy(cfg["policy"]).guarded(Guard(**cfg["shadow"]))


def without_effect(cfg: Mapping[str, Any], trace: Trace, cluster: Cluster) -> list[str]:
    """Remarks on what was asked for and cannot change anything here."""
    jobs, policy, options = trace.jobs, ordered_by(cfg["policy"]), simulation_options(cfg)
    remarks = []
    lacking = {"fair_user": (jobs.user.codes >= 0).any(), "fair_vc": (jobs.vc.codes >= 0).any()}
    lacking["priority"] = jobs.priority.min() != jobs.priority.max()
    if not lacking.get(policy, True):
        what = "different priorities" if policy == "priority" else policy.removeprefix("fair_") + "s"
        remarks.append(f"policy={policy}: the trace has no {what}, so this is fifo")
    if "speed" in options and all(pool.gpu_type == "any" for pool in cluster.pools):
        remarks.append("throughput: all pools are of GPU type any, so no job runs faster or slower than recorded")
    if any(pool.cpus is None for pool in cluster.pools) and (jobs.cpus > 0).any():
        remarks.append("CPUs asked for bind only on pools that declare cpus")
    ticking = ("las", "las_levels", "gittins", "round_robin", "lottery", "wfq")
    suspends = policy in (*ticking, "srtf", "srsf", "priority") or options.get("preemptive")
    fails = any(options.get(name) for name in ("node_mtbf_s", "gpu_mtbf_s", "node_events"))
    slices = any(pool.mig for pool in cluster.pools) and bool(options.get("ways") or jobs.mig.names or jobs.ways.names)
    several = bool(options.get("ways") or (jobs.ways.codes >= 0).any() or "speed" in options)
    acts = {
        "quantum_s": policy in ticking, "las_levels_gpu_s": policy in ("las", "las_levels"),
        "displace_factor": policy in ("srtf", "srsf", "las", "gittins") and cfg["allocator"]["name"] != "milp",
        "gpu_power": policy in ("las", "gittins"), "gittins_online": policy == "gittins",
        "overrun_factor": policy in ("srtf", "srsf") and cfg["runtimes"] != "exact", "weights": policy in ("lottery", "wfq"),
        "half_life_s": policy in ("fair_user", "fair_vc"), "reservations": cfg["backfill"] == "conservative",
        "checkpoint_s": fails, "max_retries": fails, "node_repair_s": options.get("node_mtbf_s"),
        **dict.fromkeys(("speed_error", "speed_unknown"), several),
        "speed_learned": several and bool(options.get("speed_error") or options.get("speed_unknown")),
        "way_rule": several,
        **dict.fromkeys(("market_crowd", "market_floor", "market_refusal", "market_patience"), options.get("way_rule") == MARKET),
        "mig_reconfiguration": slices, "mig_mode_s": slices,
        "suspend_s": suspends, "resume_s": suspends or fails, "migrate_s": suspends or fails,
    }  # fmt: skip
    return remarks + [f"options.{name} has no effect here" for name in options if not acts.get(name, True)]


def as_trained(cfg: Mapping[str, Any]) -> list[str]:
    """A remark where a learned policy is simulated under other rules than it was trained under."""
    if not api.is_learned(cfg["policy"]):
        return []
    rules = api.load_policy(cfg["policy"]).rules
    here = {"backfill": cfg["backfill"], "runtimes": cfg["runtimes"], "allocator": cfg["allocator"]["name"]}
    other = {name: getattr(rules, name) for name, value in here.items() if getattr(rules, name) != value}
    told = ", ".join(f"{name}={value}" for name, value in other.items())
    return [f"policy={cfg['policy']} was trained with {told}; this is a transfer"] if other else []


def ordered_by(policy: str) -> str:
    """The name of a policy; of a learned one that of its baseline, since what acts on that acts on it."""
    name = api.load_policy(policy).baseline if api.is_learned(policy) else policy
    return PREEMPTIVE_ALIASES.get(name, name)


def allocator_of(node: Mapping[str, Any], trace: Trace, cluster: Cluster) -> Any:
    """The rule of a greedy allocator, or the MILP with its options and these jobs' demand."""
    if node["name"] != "milp":
        return node["name"]
    from rltune.allocators.milp import MilpAllocator

    options = {key: value for key, value in node.items() if key != "name"}
    return MilpAllocator(demand=demand_of(trace.jobs.num_gpus, cluster.arrays()), **options)


def label_of(cfg: Mapping[str, Any]) -> str:
    """Name of the row in the summary."""
    return "-".join((cfg["policy"], cfg["backfill"], cfg["runtimes"], cfg["allocator"]["name"]))


def default_name(trace: Trace, cluster: Cluster, cfg: Mapping[str, Any]) -> str:
    """Names that tell the members of a sweep apart."""
    return f"simulate-{trace.name}-{cluster.nodes}n-{label_of(cfg)}-{datetime.now():%m%d-%H%M%S}".replace("/", "_")


def described(cfg: Mapping[str, Any], oversized: str) -> dict[str, Any]:
    """What was simulated, as the summary tells it."""
    names = ("policy", "backfill", "runtimes", "seed", "begin", "end", "limit")
    told = {name: cfg[name] for name in names} | {"options": simulation_options(cfg)}
    told |= {"guard": dict(cfg["shadow"])} if cfg["guard"] else {}
    return told | {"allocator": cfg["allocator"]["name"], "oversized": oversized}


def write_files(run: RunDirectory, result: Result, trace: Trace, cfg: Mapping[str, Any]) -> None:
    """Tables of jobs, runs, decisions, groups and the timeline, its figure, and the exports asked for."""
    job_table(result).to_parquet(run.file("jobs.parquet"), index=False)
    result.attempts.to_parquet(run.file("runs.parquet"), index=False)
    if result.recorded is not None:
        result.recorded.write(run.file)
    step = float(cfg["step_s"] or step_of(result.makespan_s(), STEPS_SHOWN))
    result.timeline(step).to_parquet(run.file("timeline.parquet"), index=False)
    result.pool_timeline(max(step, step_of(result.makespan_s(), POOL_STEPS))).to_parquet(
        run.file("pools.parquet"), index=False
    )
    title = f"{trace.label}, {result.cluster.nodes} nodes, {label_of(cfg)}"
    timeline_figure(run.file("timeline.parquet"), run.file("timeline.png"), title)
    for column in GROUPED:
        table = result.by(column)
        if len(table) > 1:
            table.rename(index=cell).to_csv(run.file(f"by_{column}.csv"))
    pools = {pool.name: pool.gpu_type for pool in result.cluster.pools}
    for kind in dict.fromkeys(exports(cfg)):
        export(kind, result.schedule, result.attempts, pools, run.file)


def job_table(result: Result) -> pd.DataFrame:
    """A row a job: what was asked, when it ran, and its scores, NaN where it did not finish."""
    jobs, done = result.jobs, result.finished
    frame = pd.DataFrame(
        {
            "job_id": jobs.job_id.astype(object),
            "submit_s": jobs.submit_s,
            "start_s": result.start_s,
            "end_s": result.end_s,
            "duration_s": jobs.duration_s,
            "num_gpus": jobs.num_gpus,
            "gpu_milli": jobs.gpu_milli,
            "vc": jobs.vc.values(),
            "user": jobs.user.values(),
            "priority": jobs.priority,
            "finished": done,
        }
    )
    for name, values in result.scores().items():
        frame[name] = np.nan
        frame.loc[done, name] = values
    return frame


FOOTER = """What-if: cluster.nodes=100 scales the cluster; cluster.pools.0.nodes=40 (number of the pool, or its name) changes
a field of a pool (nodes, gpus_per_node, gpu_type, vc, max_gpus_per_job); cluster.pools.1=null takes it away;
"cluster.pools.2={name: new, nodes: 8, gpus_per_node: 8}" adds one (the number after the last). A virtual
cluster's quota is the size of the pools with its vc. These work with any cluster, also that of the trace.
A log of your own: +trace=jobs.csv (its columns may bear any usual names; trace.columns.submit_s=NAME says which); a cluster of
your own: cluster=my.yaml. Without one a cluster is sized to the jobs.
-m cluster.nodes=85,100,135 policy=fifo,sjf makes a run of each, and a table and a figure of all, in the folder
sweep=...; python -m rltune.compare RUN_DIR... sets any runs side by side."""


class _Callable(ModuleType):
    """The module in the place of the function: ``import rltune.simulate; rltune.simulate(trace, cluster)``."""

    def __call__(self, *args: Any, **options: Any) -> Result:
        return api.simulate(*args, **options)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    run_main(main, Simulate, FOOTER, sweep=SWEEP)
