"""Policies that suspend, with and without knowledge of run times: ``python experiments/suspension.py`` (RLTUNE_TRACES set).

Test stretches of three logs, a resumption costing a minute: Helios' September on 100 and 85 nodes, Philly and PAI at the
offered loads that those make, .83 and .98. Nothing is chosen by them: the factor of hysteresis comes from
``--choose``, on earlier stretches. Writes results/suspension.{json,md}, with --choose results/suspension_choice.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import rltune
from rltune.policies.knowledge import known_run_times
from rltune.policies.preemptive import DISPLACE_FACTOR, OVERRUN_FACTOR

RESULTS = Path(__file__).resolve().parent / "results"
RESUME_S = 60.0
"""Seconds a resumed job holds its GPUs before it gets on."""
LOADS = (0.83, 0.98)
"""Offered GPU-seconds over those of the cluster while jobs arrive; Helios' September on 100 and 85 nodes has about these."""
FACTORS = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 8.0)
LEARNERS = ("las", "gittins", "gittins_online")
"""What the factor is chosen for: policies that know no run times."""
CASES: dict[str, dict[str, Any]] = {
    "fifo": {"policy": "fifo"},
    "las_levels": {"policy": "las_levels"},
    "las": {"policy": "las"},
    "gittins": {"policy": "gittins", "past_jobs": True},
    "gittins_online": {"policy": "gittins"},
    "srsf_predicted": {"policy": "srsf", "runtimes": "predicted"},
    "srsf": {"policy": "srsf", "runtimes": "exact"},
}
WITHOUT: dict[str, dict[str, Any]] = {
    "las_factor_1": CASES["las"] | {"displace_factor": 1.0},
    "gittins_factor_1": CASES["gittins"] | {"displace_factor": 1.0},
    "srsf_factor_1": CASES["srsf"] | {"displace_factor": 1.0},
    "srsf_predicted_overrun_1": CASES["srsf_predicted"] | {"overrun_factor": 1.0},
}
"""The same without hysteresis, and believing estimates to the end."""


@dataclass(frozen=True)
class Setting:
    """Jobs on a cluster, what was submitted before them, and what would have been predicted of them."""

    name: str
    jobs: rltune.JobTable
    past: rltune.JobTable
    predicted: Any
    cluster: rltune.Cluster
    source: str

    @classmethod
    def of(cls, name: str, whole: rltune.Trace, stretch: tuple[int, int, int], cluster: rltune.Cluster) -> Setting:
        """``stretch``: rows at which the past begins, the jobs begin, and end."""
        first, begin, end = stretch
        jobs = whole.jobs
        predicted = known_run_times(jobs.take(slice(0, end)), "predicted")[begin:]
        return cls(name, jobs.take(slice(begin, end)), jobs.take(slice(first, begin)), predicted, cluster, whole.source)

    @property
    def load(self) -> float:
        return busy_gpus(self.jobs) / self.cluster.gpus


def busy_gpus(jobs: rltune.JobTable) -> float:
    """GPUs that the jobs would keep busy while they arrive."""
    return float((jobs.duration_s * jobs.num_gpus).sum() / (jobs.submit_s[-1] - jobs.submit_s[0]))


def rows_at(trace: rltune.Trace, *dates: str) -> Any:
    """First row submitted at or after each date."""
    return tuple(
        int(np.searchsorted(trace.jobs.submit_s, trace.between(d, "2100-01-01").jobs.submit_s[0])) for d in dates
    )


def of_load(cluster: rltune.Cluster, gpus: float) -> rltune.Cluster:
    """The cluster scaled to the number of nodes whose GPUs come closest to ``gpus``."""
    sizes = range(len(cluster.pools), 3 * cluster.nodes)
    return cluster.with_nodes(min(sizes, key=lambda n: abs(cluster.with_nodes(n).gpus - gpus)))


def helios(nodes: tuple[int, ...], first: str, begin: str, end: str | None) -> Iterator[Setting]:
    """A stretch of Helios on so many nodes, with the past from ``first`` on."""
    whole = rltune.load_trace("helios")
    rows = (*rows_at(whole, first, begin), rows_at(whole, end)[0] if end else len(whole))
    for n in nodes:
        yield Setting.of(f"helios_{n}", whole, rows, rltune.load_cluster("helios", nodes=n))


def philly(begin: str, end: str | None) -> Iterator[Setting]:
    """A stretch of Philly; its nodes are scaled in number until the load is right. The past begins in October."""
    whole, cluster = rltune.load_trace("philly"), rltune.load_cluster("philly")
    rows = (*rows_at(whole, "2017-10-01", begin), rows_at(whole, end)[0] if end else len(whole))
    busy = busy_gpus(whole.jobs.take(slice(rows[1], rows[2])))
    for load in LOADS:
        yield Setting.of(f"philly_{100 * load:.0f}", whole, rows, of_load(cluster, busy / load))


def pai() -> Iterator[Setting]:
    """PAI's last quarter (whole GPUs) on its mix of machines, 325 of them; arrivals are drawn together to the load."""
    cluster, plain = rltune.load_cluster("alibaba_window"), rltune.load_trace("alibaba")
    begin = int(0.75 * len(plain))
    busy = busy_gpus(plain.jobs.take(slice(begin, len(plain))))
    for load in LOADS:
        whole = rltune.load_trace("alibaba", load_scale=load * cluster.gpus / busy)
        yield Setting.of(f"pai_{100 * load:.0f}", whole, (0, begin, len(whole)), cluster)


def tested() -> Iterator[Setting]:
    """What the tables report."""
    yield from helios((100, 85), "2020-04-01", "2020-09-01", None)
    yield from philly("2017-11-16", None)
    yield from pai()


def chosen_on() -> Iterator[Setting]:
    """What the factor is chosen on: earlier, and at 91 and 77 nodes as loaded as the month that is reported."""
    yield from helios((100, 91, 85, 77), "2020-04-01", "2020-07-01", "2020-09-01")
    yield from philly("2017-11-01", "2017-11-16")


def row(setting: Setting, case: dict[str, Any]) -> dict[str, Any]:
    """Figures of one policy."""
    options = {"runtimes": "unknown", "resume_s": RESUME_S} | case
    if options["policy"] == "fifo":
        del options["resume_s"]
    if options["runtimes"] == "predicted":
        options["runtimes"] = setting.predicted
    if options.get("past_jobs"):
        options["past_jobs"] = setting.past
    begun = time.perf_counter()
    result = rltune.simulate(setting.jobs, setting.cluster, backfill="skip", **options)
    seconds = time.perf_counter() - begun
    scores = result.scores()
    return {
        "wait_s": float(scores["wait_s"].mean()), "wait_p99_s": float(np.percentile(scores["wait_s"], 99)),
        "jct_s": float(scores["jct_s"].mean()), "bsld": float(scores["bsld"].mean()),
        "starts_per_job": len(result.runs) / len(setting.jobs), "longest_wait_s": float(scores["wait_s"].max()),
        "unfinished": int((~result.finished).sum()), "knows": case.get("runtimes", "unknown"), "seconds": round(seconds, 2),
    }  # fmt: skip


def about(setting: Setting) -> dict[str, Any]:
    return {
        "source": setting.source, "jobs": len(setting.jobs), "past_jobs": len(setting.past), "gpus": setting.cluster.gpus,
        "nodes": setting.cluster.nodes, "load": round(setting.load, 3),
    }  # fmt: skip


def machine(command: str) -> dict[str, Any]:
    return {
        "command": f"RLTUNE_TRACES=... OMP_NUM_THREADS=1 python experiments/suspension.py{command}",
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()}, "resume_s": RESUME_S,
    }  # fmt: skip


def report() -> None:
    """The tables of the test stretches."""
    out: dict[str, Any] = {
        "_about": machine("") | {
            "displace_factor": DISPLACE_FACTOR, "overrun_factor": OVERRUN_FACTOR,
            "chosen": "displace_factor on Helios July and August and Philly 1 to 15 November (suspension_choice.json)",
        },
        "_settings": {},
    }  # fmt: skip
    for setting in tested():
        out["_settings"][setting.name] = about(setting)
        out[setting.name] = {name: row(setting, case) for name, case in (CASES | WITHOUT).items()}
        print(setting.name, {name: round(r["wait_s"], 1) for name, r in out[setting.name].items()}, flush=True)
    write("suspension", out, report_text(out))


def report_text(out: dict[str, Any]) -> str:
    lines = [
        "# Suspension, with and without knowledge of run times", "",
        f"`{out['_about']['command']}`. A resumption costs {RESUME_S:g} s of the job's GPUs; best fit, backfill skip.",
        f"Hysteresis: factor {DISPLACE_FACTOR:g}, chosen on earlier stretches ([suspension_choice.md](suspension_choice.md)).",
        "`gittins` learns from the jobs before the stretch, `gittins_online` only from those that end in the simulation,",
        "`srsf_predicted` forecasts from the record; `srsf` knows run times. `*_factor_1`: without hysteresis.",
        "Philly: nodes scaled to the load. PAI: its sample of whole-GPU tasks, arrivals drawn together to the load, start times",
        "as arrivals. Helios and PAI clamp run times at 48 h, which `gittins` learns like anything else of the past.",
    ]  # fmt: skip
    heads = ("policy", "knows", "wait s", "p99 wait s", "longest h", "JCT s", "bsld", "starts a job")
    for name, setting in out["_settings"].items():
        lines += ["", f"## {name}: {setting['jobs']:,} jobs, {setting['nodes']} nodes, {setting['gpus']:,} GPUs, load "
                  f"{setting['load']:.2f}, source {setting['source']}", ""]  # fmt: skip
        lines += ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        for policy, r in out[name].items():
            lines.append(
                f"| {policy} | {r['knows']} | {r['wait_s']:,.1f} | {r['wait_p99_s']:,.0f} | {r['longest_wait_s'] / 3600:,.1f} "
                f"| {r['jct_s']:,.0f} | {r['bsld']:,.2f} | {r['starts_per_job']:.3f} |"
            )
    return "\n".join(lines) + "\n"


def choose() -> None:
    """The factor: least geometric mean of the mean waits over all settings and policies that know nothing."""
    out: dict[str, Any] = {"_about": machine(" --choose"), "_settings": {}, "rows": []}
    for setting in chosen_on():
        out["_settings"][setting.name] = about(setting)
        for policy in (*LEARNERS, "srsf"):
            for factor in FACTORS:
                found = row(setting, CASES[policy] | {"displace_factor": factor})
                out["rows"].append({"setting": setting.name, "policy": policy, "factor": factor} | found)
        print(setting.name, flush=True)
    out["mean_wait_s"] = {str(f): geometric(out["rows"], f, LEARNERS) for f in FACTORS}
    out["chosen"] = min(FACTORS, key=lambda f: out["mean_wait_s"][str(f)])
    write("suspension_choice", out, choice_text(out))


def geometric(
    rows: list[dict[str, Any]], factor: float, policies: tuple[str, ...], setting: str | None = None
) -> float:
    waits = [
        r["wait_s"]
        for r in rows
        if r["factor"] == factor and r["policy"] in policies and setting in (None, r["setting"])
    ]
    return float(np.exp(np.mean(np.log(waits))))


def choice_text(out: dict[str, Any]) -> str:
    lines = [
        "# The factor of hysteresis, chosen before the test stretches", "",
        f"`{out['_about']['command']}`. Helios' July and August (past: April to June) and Philly's 1 to 15 November (past:",
        f"October). Rule: least geometric mean of the mean waits of {', '.join(LEARNERS)} over all settings. "
        f"Chosen: **{out['chosen']:g}**; the default is {DISPLACE_FACTOR:g}. Cells: mean wait s / starts a job.", "",
    ]  # fmt: skip
    lines += ["| factor | geometric mean, s |", "|---|---|"]
    lines += [f"| {factor} | {wait:,.1f} |" for factor, wait in out["mean_wait_s"].items()]
    for policy in (*LEARNERS, "srsf"):
        lines += ["", f"## {policy}", "", "| factor | " + " | ".join(out["_settings"]) + " |"]
        lines.append("|---" * (1 + len(out["_settings"])) + "|")
        for factor in FACTORS:
            mine = [r for r in out["rows"] if r["policy"] == policy and r["factor"] == factor]
            cells = [f"{r['wait_s']:,.0f} / {r['starts_per_job']:.3f}" for r in mine]
            lines.append(f"| {factor:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write(name: str, out: dict[str, Any], text: str) -> None:
    (RESULTS / f"{name}.json").write_text(json.dumps(out, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(text)
    print(RESULTS / f"{name}.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--choose", action="store_true", help="choose the factor on earlier stretches")
    choose() if parser.parse_args().choose else report()


if __name__ == "__main__":
    main()
