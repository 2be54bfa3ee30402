"""One pool, suspension, run times unknown: ``python experiments/one_pool.py`` (RLTUNE_TRACES set).

What is learned from the log: the Gittins index by size, and which index with which power of a job's GPUs to go by. Helios: each of
six months left out in turn, the index learned from the other five and the rule chosen on them (each with the index
of the other four). Philly and PAI: chosen on the stretch before the test, learned from all before it. Loads .83 and .98,
60 s a resumption, best fit. Nothing is chosen by the months that are reported. Beside it continuous las with hysteresis, las in
published levels, and srsf with exact run times. Writes results/one_pool.{json,md}.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from suspension import LOADS, busy_gpus, of_load, rows_at

import rltune
from rltune.nouns.jobs import JobTable

RESULTS = Path(__file__).resolve().parent / "results"
COMMAND = "RLTUNE_TRACES=... OMP_NUM_THREADS=1 python experiments/one_pool.py"
MONTHS = ("2020-04-01", "2020-05-01", "2020-06-01", "2020-07-01", "2020-08-01", "2020-09-01", "2020-10-01")
HEADS = (
    "stretch", "load", "chosen", "learned", "las", "las 1.5", "gittins", "las_levels", "srsf, exact", "less than las",
    "above best", "over srsf",
)  # fmt: skip
POWERS = (1.0, 1.25, 1.5)
CANDIDATES = tuple(itertools.product(("las", "gittins"), POWERS))
"""Index and power of GPUs."""
BESIDE: dict[str, dict[str, Any]] = {
    "las_levels": {"policy": "las_levels"},
    "srsf, exact": {"policy": "srsf", "runtimes": "exact"},
}


@dataclass(frozen=True)
class Task:
    """A stretch to schedule, and stretches to choose the rule on: each (jobs, cluster, jobs to learn from)."""

    name: str
    load: float
    test: tuple[JobTable, rltune.Cluster, JobTable]
    choose: tuple[tuple[JobTable, rltune.Cluster, JobTable], ...]
    source: str


def before(parts: list[JobTable], jobs: JobTable) -> JobTable:
    """The parts one after the other, on a clock on which all are submitted before ``jobs``: only their run times count."""
    frames, at = [], float(jobs.submit_s[0])
    for part in reversed(parts):
        moved = replace(part, submit_s=part.submit_s - part.submit_s[-1] + at, wait_s=np.zeros(len(part)))
        frames.insert(0, moved.to_frame())
        at = float(moved.submit_s[0])
    # Months overlap none; what would lie before time zero is shifted with all others by the caller.
    columns = {
        name: list(itertools.chain(*(f[name] for f in frames))) for name in ("submit_s", "duration_s", "num_gpus")
    }
    return JobTable.from_columns(columns)


def later(jobs: JobTable, seconds: float) -> JobTable:
    """The same jobs, so many seconds later."""
    return replace(jobs, submit_s=jobs.submit_s + seconds)


@cache
def helios_months() -> tuple[tuple[JobTable, ...], str]:
    """Jobs of each month, on a clock that begins a year before the first."""
    whole = rltune.load_trace("helios")
    rows = (*rows_at(whole, *MONTHS[:-1]), len(whole))
    year = 366 * 86400.0
    months = (later(whole.jobs.take(slice(a, b)), year) for a, b in itertools.pairwise(rows))
    return tuple(months), whole.source


def helios() -> Iterator[Task]:
    """Each month left out in turn."""
    (months, source), cluster = helios_months(), rltune.load_cluster("helios")
    for load, t in itertools.product(LOADS, range(len(months))):

        def case(m: int, *without: int, load: float = load) -> tuple[JobTable, rltune.Cluster, JobTable]:
            others = [jobs for k, jobs in enumerate(months) if k != m and k not in without]
            return months[m], of_load(cluster, busy_gpus(months[m]) / load), before(others, months[m])

        choose = tuple(case(v, t) for v in range(len(months)) if v != t)
        yield Task(f"helios {MONTHS[t][:7]}", load, case(t), choose, source)


def in_turn(name: str, jobs: JobTable, rows: tuple[int, int, int], clusters: Any, load: float, source: str) -> Task:
    """Chosen on rows[0]:rows[1] (learning from those before), tested on rows[1]:rows[2]; ``clusters``: of jobs."""
    a, b, end = rows
    chosen, tested = jobs.take(slice(a, b)), jobs.take(slice(b, end))
    return Task(
        name,
        load,
        (tested, clusters(tested), jobs.take(slice(0, b))),
        ((chosen, clusters(chosen), jobs.take(slice(0, a))),),
        source,
    )


def philly() -> Iterator[Task]:
    """Chosen on the first half of November, learning from October."""
    whole, cluster = rltune.load_trace("philly"), rltune.load_cluster("philly")
    first, a, b = rows_at(whole, "2017-10-01", "2017-11-01", "2017-11-16")
    jobs = whole.jobs.take(slice(first, len(whole)))
    for load in LOADS:
        of = lambda part, load=load: of_load(cluster, busy_gpus(part) / load)  # noqa: E731
        yield in_turn("philly", jobs, (a - first, b - first, len(jobs)), of, load, whole.source)


def pai() -> Iterator[Task]:
    """Chosen on the third quarter; the arrivals of each stretch are drawn together to the load."""
    cluster, whole = rltune.load_cluster("alibaba_window"), rltune.load_trace("alibaba")
    n = len(whole)
    a, b = n // 2, int(0.75 * n)
    for load in LOADS:
        scale = load * cluster.gpus / busy_gpus(whole.jobs.take(slice(b, n)))
        scaled = rltune.load_trace("alibaba", load_scale=scale)
        chosen_scale = load * cluster.gpus / busy_gpus(whole.jobs.take(slice(a, b)))
        before_it = rltune.load_trace("alibaba", load_scale=chosen_scale)
        test = (scaled.jobs.take(slice(b, n)), cluster, scaled.jobs.take(slice(0, b)))
        choose = ((before_it.jobs.take(slice(a, b)), cluster, before_it.jobs.take(slice(0, a))),)
        yield Task("pai", load, test, choose, whole.source)


def wait_of(case: tuple[JobTable, rltune.Cluster, JobTable], **options: Any) -> tuple[float, float]:
    """Mean wait and starts a job."""
    jobs, cluster, past = case
    given = {"runtimes": "unknown", "resume_s": 60.0, "backfill": "skip"} | options
    if given["policy"] == "gittins":
        given["past_jobs"] = past
    result = rltune.simulate(jobs, cluster, **given)
    assert result.finished.all()
    return float(result.wait_s.mean()), len(result.runs) / len(jobs)


def measure(task: Task) -> dict[str, Any]:
    """Figures of one stretch."""
    tried = {
        f"{policy} {power:g}": float(
            np.exp(np.mean([np.log(wait_of(c, policy=policy, gpu_power=power)[0]) for c in task.choose]))
        )
        for policy, power in CANDIDATES
    }
    chosen = min(tried, key=lambda name: tried[name])
    found = {f"{p} {g:g}": wait_of(task.test, policy=p, gpu_power=g) for p, g in CANDIDATES}
    found |= {name: wait_of(task.test, **options) for name, options in BESIDE.items()}
    waits = {name: wait for name, (wait, _) in found.items()}
    return {
        "stretch": task.name, "load": task.load, "jobs": len(task.test[0]), "gpus": task.test[1].gpus, "source": task.source,
        "chosen": chosen, "chosen_by_s": tried, "wait_s": waits, "starts_per_job": {name: s for name, (_, s) in found.items()},
        "learned_s": waits[chosen], "gain_over_las": 1 - waits[chosen] / waits["las 1"],
        "gittins_over_las": 1 - waits["gittins 1"] / waits["las 1"],
        "above_best": waits[chosen] / min(waits[f"{p} {g:g}"] for p, g in CANDIDATES) - 1,
        "ratio_to_srsf": waits[chosen] / waits["srsf, exact"],
    }  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What other tools read: Helios as the mean of its months."""
    gains, ratios = {}, {}
    for name, load in itertools.product(("helios", "philly", "pai"), LOADS):
        mine = [r for r in rows if r["stretch"].startswith(name) and r["load"] == load]
        gains[f"{name}_{100 * load:.0f}"] = float(np.mean([r["gain_over_las"] for r in mine]))
        ratios[f"{name}_{100 * load:.0f}"] = float(np.mean([r["ratio_to_srsf"] for r in mine]))
    return {
        "_about": {"command": COMMAND, "machine": {"cores": os.cpu_count(), "python": platform.python_version()}},
        "gain_over_las": gains, "ratio_to_srsf": ratios, "rows": rows,
    }  # fmt: skip


def text(out: dict[str, Any]) -> str:
    """The table."""
    lines = [
        "# One pool, suspension, run times unknown", "", f"`{COMMAND}` on {out['_about']['machine']['cores']} cores; sources: "
        + ", ".join(sorted({r["source"] for r in out["rows"]})) + ".",
        "`learned`: the index and the power of GPUs chosen on other stretches; Gittins indices are learned from other stretches too.",
        "Mean wait in seconds. `above best`: how far the choice is above the best of the six rules on this very stretch.", "",
        "| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS),
    ]  # fmt: skip
    for r in out["rows"]:
        w = r["wait_s"]
        lines.append(
            f"| {r['stretch']} | {r['load']:g} | {r['chosen']} | {r['learned_s']:,.1f} | {w['las 1']:,.1f} | {w['las 1.5']:,.1f} | "
            f"{w['gittins 1']:,.1f} | {w['las_levels']:,.1f} | {w['srsf, exact']:,.1f} | {100 * r['gain_over_las']:.1f} % | "
            f"{100 * r['above_best']:.1f} % | {r['ratio_to_srsf']:.2f} |"
        )
    lines += ["", "| mean | less than las | over srsf |", "|---|---|---|"]
    lines += [f"| {k} | {100 * v:.1f} % | {out['ratio_to_srsf'][k]:.2f} |" for k, v in out["gain_over_las"].items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    rows = []
    for task in itertools.chain(pai(), philly(), helios()):
        rows.append(measure(task))
        r = rows[-1]
        print(
            task.name,
            task.load,
            r["chosen"],
            round(r["learned_s"], 1),
            {k: round(v, 1) for k, v in r["wait_s"].items()},
            flush=True,
        )
    out = summary(rows)
    (RESULTS / "one_pool.json").write_text(json.dumps(out, indent=1) + "\n")
    (RESULTS / "one_pool.md").write_text(text(out))


if __name__ == "__main__":
    main()
