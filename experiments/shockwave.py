"""Shockwave's 120-job experiment (NSDI 2023) with every job static: two of its policies rebuilt, and ours in the same protocol.

RLTUNE_TRACES=... OMP_NUM_THREADS=1 python experiments/shockwave.py [--choose]

32 V100, rounds of 120 s, 20 s lost by a restart. Writes shockwave.json and .md beside the other results. --choose picks the
hysteresis of our rows on lists drawn from the trace's jobs (seeds 100 to 109) and writes shockwave_choice.json. Needs
gpu_heterogeneity/ beside shockwave_120/ in the folder of traces, and ECOS: pip install -e '.[published]'.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

from rltune.nouns.errors import InputError
from rltune.rounds.gavel import Published, simulate_published
from rltune.rounds.jobs import RoundJobs, rates_of
from rltune.rounds.market import Market, simulate_market
from rltune.rounds.policies import MaxMin, MaxSum
from rltune.rounds.shockwave import (
    OVERRUN,
    RESET_S,
    TERMS,
    WORKERS,
    exclusive_s,
    read_shockwave_jobs,
    scores,
)
from rltune.traces.folder import traces_folder
from rltune.traces.heterogeneity import load_throughput

RESULTS = Path(__file__).resolve().parent / "results"
TRACE = "shockwave_120/jobs.csv"
KNOWN = {
    "max_min_fairness": (11_723, 34_578, 2.58, 0.250), "max_sum_throughput_perf": (10_416, 34_051, 5.62, 0.267),
    "allox": (10_511, 33_729, 4.96, 0.292),
}  # fmt: skip
"""Shockwave's own simulator with every mode set to static: mean JCT s, makespan s, worst fairness, unfair share."""
MEASURE = {
    "las": "mean_jct_s",
    "gittins": "mean_jct_s",
    "fair": "worst_ftf",
    "exact": "mean_jct_s",
    "longest": "makespan_s",
}
"""What each of our indices is for, and its hysteresis chosen by."""
KNOWS_RUN_TIMES = ("exact", "longest")
STAYS = (1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 6.0)
CHOICE_SEEDS = range(100, 110)


def trace() -> RoundJobs:
    rates = rates_of(load_throughput("shockwave"), ("V100",))
    return read_shockwave_jobs(traces_folder() / TRACE, rates)


def drawn(jobs: RoundJobs, seed: int) -> RoundJobs:
    """As many of the trace's jobs, with replacement, arriving as a Poisson stream at the trace's rate."""
    rng = np.random.default_rng(seed)
    pick, n = rng.integers(0, len(jobs), len(jobs)), len(jobs)
    gaps = rng.exponential(jobs.arrival_s[-1] / (n - 1), n)
    model = tuple(jobs.model[k] for k in pick)
    return RoundJobs(np.cumsum(gaps) - gaps[0], jobs.gpus[pick], jobs.steps[pick], jobs.rate[pick], model, jobs.types)


def market_row(jobs: RoundJobs, index: str, stay: float) -> dict[str, Any]:
    how = Market(index=index, power=1.0, throughput=0.0, stay=stay)
    run = simulate_market(jobs, WORKERS, how, (0, len(jobs)), TERMS)
    return scores(jobs, run.jct_s, exclusive_s(jobs)) | {"starts_a_job": run.starts / len(jobs), "stay": stay}


def choose() -> None:
    jobs = trace()
    out: dict[str, Any] = {"_about": about(" --choose"), "chosen": {}, "rows": []}
    for index, measure in MEASURE.items():
        for stay in STAYS:
            found = [market_row(drawn(jobs, seed), index, stay)[measure] for seed in CHOICE_SEEDS]
            out["rows"].append({"index": index, "stay": stay, "measure": measure, "mean": float(np.mean(found))})
        mine = [r for r in out["rows"] if r["index"] == index]
        out["chosen"][index] = min(mine, key=lambda r: r["mean"])["stay"]
    (RESULTS / "shockwave_choice.json").write_text(json.dumps(out, indent=1) + "\n")
    print(out["chosen"])


def report() -> None:
    path = RESULTS / "shockwave_choice.json"
    if not path.is_file():
        raise InputError(f"{path.name} is not there; run experiments/shockwave.py --choose first")
    stays = json.loads(path.read_text())["chosen"]
    jobs = trace()
    alone = exclusive_s(jobs)
    rows: list[dict[str, Any]] = []
    rebuilt = (
        ("max_min_fairness", MaxMin(WORKERS, "nothing", "ecos").allocate),
        ("max_sum_throughput_perf", MaxSum(WORKERS).allocate),
    )
    for name, policy in rebuilt:
        how = Published(policy, each_gpu=False, reset_s=RESET_S)
        run = simulate_published(jobs, WORKERS, how, (0, len(jobs)), terms=TERMS, limit_s=np.floor(OVERRUN * alone))
        rows.append({"row": name, "knows_run_times": False, "rebuilt": True} | scores(jobs, run.jct_s, alone))
    for index in MEASURE:
        knows = {"row": index, "knows_run_times": index in KNOWS_RUN_TIMES, "rebuilt": False}
        rows.append(knows | market_row(jobs, index, stays[index]))
    ours = [r for r in rows if not r["rebuilt"]]
    blind = [r for r in ours if not r["knows_run_times"]]
    best = {
        "mean_jct_s": min(r["mean_jct_s"] for r in blind), "makespan_s": min(r["makespan_s"] for r in ours),
        "worst_ftf": min(r["worst_ftf"] for r in blind),
    }  # fmt: skip
    spread = {r["row"]: [market_row(jobs, r["row"], s) | {"stay": s} for s in STAYS] for r in ours}
    out = {
        "_about": about(""),
        "mode": "static",
        "best": best,
        "rows": rows,
        "known_static": KNOWN,
        "other_stays": spread,
    }
    (RESULTS / "shockwave.json").write_text(json.dumps(out, indent=1) + "\n")
    (RESULTS / "shockwave.md").write_text(report_text(out))
    print(report_text(out))


def report_text(out: dict[str, Any]) -> str:
    lines = [
        "# Shockwave's 120 jobs, every job static", "",
        f"`{out['_about']['command']}`. 32 V100, rounds of 120 s, 20 s lost by a restart. Trace: Shockwave's, batch sizes fixed at",
        "their first; so the rows to compare with are those of its own simulator with every mode static, not its published ones.",
        "Stay (hysteresis) was chosen on lists drawn from the same jobs (seeds 100 to 109, shockwave_choice.json); the trace itself was",
        "seen with all values of stay before, which `other_stays` of shockwave.json holds.", "",
        "| row | knows run times | mean JCT s | makespan s | worst fairness | unfair | starts a job |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, (jct, makespan, worst, unfair) in out["known_static"].items():
        knows = "yes" if name == "allox" else "no"
        lines.append(f"| Shockwave's simulator: {name} | {knows} | {jct:,} | {makespan:,} | {worst} | {unfair:.1%} | |")
    for r in out["rows"]:
        name = ("rebuilt: " if r["rebuilt"] else f"ours, stay {r['stay']:g}: ") + r["row"]
        starts = f"{r['starts_a_job']:.2f}" if "starts_a_job" in r else ""
        lines.append(
            f"| {name} | {'yes' if r['knows_run_times'] else 'no'} | {r['mean_jct_s']:,.0f} | {r['makespan_s']:,.0f} "
            f"| {r['worst_ftf']:.2f} | {r['unfair_fraction']:.1%} | {starts} |"
        )
    lines += [
        "", "`gittins` and `las` order by attained work, `fair` by time since arrival over work done, `exact` by least and `longest` by",
        "most work left. No single row is best on all three. `best` of shockwave.json: ours that know nothing, for the makespan any.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def about(arguments: str) -> dict[str, Any]:
    command = f"RLTUNE_TRACES=... OMP_NUM_THREADS=1 python experiments/shockwave.py{arguments}"
    return {
        "command": command,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "source": "shockwave 8a44f4a",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--choose", action="store_true", help="choose the hysteresis on drawn lists")
    choose() if parser.parse_args().choose else report()


if __name__ == "__main__":
    main()
