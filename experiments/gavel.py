"""Gavel's continuous experiment (OSDI 2020, figures 8 and 9): its policies rebuilt, and ours in the same protocol.

RLTUNE_TRACES=... OMP_NUM_THREADS=1 python experiments/gavel.py [--choose | --exactness] [--rows learned ...] [--processes 2]

36 V100, 36 P100, 36 K80, rounds of 360 s, mean JCT of jobs 4,000 to 4,999 while arrivals go on; the printed figures are of seed 0.
Writes gavel.json and .md beside the other results. --choose picks our constants on drawn lists of other seeds (100 to 102) and
writes gavel_choice.json and .md. Needs gpu_heterogeneity/ in the folder of traces (Gavel's table of speeds), and ECOS, the
solver of the published runs: pip install -e '.[published]'.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from rltune.nouns.errors import InputError
from rltune.rounds.assignment import assign
from rltune.rounds.clock import Terms
from rltune.rounds.gavel import simulate_published
from rltune.rounds.jobs import RoundJobs, draw_gavel_jobs, rates_of
from rltune.rounds.market import Market, simulate_market
from rltune.rounds.policies import published
from rltune.rounds.run import Run
from rltune.traces.heterogeneity import load_throughput

RESULTS = Path(__file__).resolve().parent / "results"
WORKERS = np.array([36, 36, 36])
WINDOW = (4000, 5000)
LONG_RUN = (2000, 6000)
N_JOBS, FILE_JOBS = 40_000, 15_000
"""Lists as long as the slowest published policy needs; ours get what the published files hold."""
FIRST_SEED_ONLY = (
    "max_min_fairness", "max_min_fairness_perf_highs", "max_min_fairness_perf_60s", "gittins_alone", "las_alone", "exact_market",
)  # fmt: skip
UNSTABLE = ("multi_2.6", "multi_2.8")
QUEUE_GROWS = ("gittins_alone", "las_alone", "max_min_fairness_perf_60s")
"""Rows that let the queue grow without end on those lists: not run, as its decisions get slow."""
TOO_SLOW = {"multi_2.8": ("max_min_fairness",)}
"""Not run: stopped after seven minutes of linear programs, for a figure that is printed."""
SLOW = ("max_min_fairness", "max_min_fairness_perf_highs", "max_min_fairness_perf_60s")
LISTS = tuple(f"single_{rate}" for rate in (4.8, 5.2, 5.6)) + tuple(f"multi_{rate}" for rate in (2.2, 2.6, 2.8))
MOVE_S = 60.0
PRINTED_H = {
    "single_4.8": {"fifo": 99.19, "fifo_perf": 22.24, "max_min_fairness": 35.79, "max_min_fairness_perf": 18.97},
    "single_5.2": {"fifo": 151.67, "fifo_perf": 56.69, "max_min_fairness": 63.78, "max_min_fairness_perf": 22.02},
    "single_5.6": {"fifo_perf": 104.12, "max_min_fairness": 95.99, "max_min_fairness_perf": 28.96},
    "multi_2.2": {"fifo": 65.45, "fifo_perf": 33.05, "max_min_fairness": 30.82, "max_min_fairness_perf": 24.61},
    "multi_2.6": {"fifo": 304.76, "fifo_perf": 93.60, "max_min_fairness": 70.54, "max_min_fairness_perf": 36.44},
    "multi_2.8": {"fifo": 414.68, "fifo_perf": 204.44, "max_min_fairness": 169.93, "max_min_fairness_perf": 55.78},
}
"""Mean JCT in hours, kept outputs of Gavel's notebooks (stanford-futuredata/gavel, commit c4fa400), seed 0."""

CHOICE_SEEDS, CHOICE_JOBS, CHOICE_WINDOW = (100, 101, 102), 9000, (1500, 5500)
EXACT_WINDOW, EVERY, EXACT = (200, 1000), 50, {"mip_rel_gap": 1e-6}
THROUGHPUTS, POWERS, STAYS = (2.0, 5.0, 10.0, 20.0, 50.0, 100.0), (0.5, 1.0), (1.0, 1.05, 1.1, 1.2, 1.4, 1.8)


def jobs_of(name: str, seed: int, n_jobs: int = N_JOBS) -> RoundJobs:
    """A list by name, say single_5.2."""
    kind, rate = name.split("_")
    rates = rates_of(load_throughput("gavel"))
    return draw_gavel_jobs(n_jobs, float(rate), seed, rates, gangs=kind == "multi")


def chosen() -> dict[str, dict[str, Any]]:
    """kind of list -> our constants, from gavel_choice.json."""
    path = RESULTS / "gavel_choice.json"
    if not path.is_file():
        raise InputError(f"{path.name} is not there; run experiments/gavel.py --choose first")
    found: dict[str, dict[str, Any]] = json.loads(path.read_text())["chosen"]
    return found


def cases(name: str) -> dict[str, dict[str, Any]]:
    """The rows of a list: how each is simulated."""
    ours = chosen()[name.split("_")[0]]
    free, paid = ours["free"], ours["paid"]
    rows: dict[str, dict[str, Any]] = {
        "fifo": {}, "fifo_perf": {}, "max_min_fairness": {"solver": "ecos"}, "max_min_fairness_perf": {"solver": "ecos"},
        "max_min_fairness_perf_highs": {"solver": "highs"}, "max_min_fairness_perf_60s": {"solver": "ecos", "move_s": MOVE_S},
        "learned": {"market": free}, "las_market": {"market": free | {"index": "las"}},
        "gittins_alone": {"market": free | {"throughput": 0.0}},
        "las_alone": {"market": free | {"index": "las", "throughput": 0.0}},
        "exact_market": {"market": free | {"index": "exact"}},
        "learned_60s": {"market": paid, "move_s": MOVE_S},
    }  # fmt: skip
    left_out = (QUEUE_GROWS if name in UNSTABLE else ()) + TOO_SLOW.get(name, ())
    return {row: case for row, case in rows.items() if row not in left_out}


def simulate(jobs: RoundJobs, seed: int, row: str, case: dict[str, Any], window: tuple[int, int]) -> Run:
    terms = Terms(move_s=case.get("move_s", 0.0))
    if "market" in case:
        return simulate_market(jobs, WORKERS, Market(**case["market"]), window, terms)
    policy = row.removesuffix("_highs").removesuffix("_60s")
    how = published(policy, WORKERS, seed, solver=case.get("solver", "highs"))
    return simulate_published(jobs, WORKERS, how, window, seed, terms)


def one(task: tuple[str, int, str, dict[str, Any]]) -> dict[str, Any]:
    """A row of a list and seed; None as mean where the policy lets the queue grow beyond the list."""
    name, seed, row, case = task
    jobs = jobs_of(name, seed, FILE_JOBS if "market" in case else N_JOBS)
    begun = time.perf_counter()
    out: dict[str, Any] = {"list": name, "seed": seed, "row": row}
    try:
        # Ours goes on until the longer window has ended too, which leaves the JCTs of the shorter as they are.
        run = simulate(jobs, seed, row, case, LONG_RUN if row == "learned" else WINDOW)
    except InputError as error:
        return out | {"mean_jct_h": None, "why": str(error)}
    jct = run.jct_s[WINDOW[0] : WINDOW[1]] / 3600
    long_run = run.jct_s[LONG_RUN[0] : LONG_RUN[1]]
    out |= {
        "mean_jct_h": run.mean_jct_s(WINDOW) / 3600, "p50_h": float(np.median(jct)), "p99_h": float(np.percentile(jct, 99)),
        "rounds": run.rounds, "seconds": round(time.perf_counter() - begun, 1),
    }  # fmt: skip
    if "market" in case:
        out |= {"starts_a_job": run.starts / int(np.isfinite(run.jct_s).sum())}
    if row == "learned":
        out |= {"long_run_jct_h": float(long_run.mean()) / 3600}
    print(name, seed, row, round(out["mean_jct_h"], 3), out["seconds"], flush=True)
    return out


def fluid_bound_h(jobs: RoundJobs, window: tuple[int, int]) -> float | None:
    """Least mean running time of the window's jobs if their work could be spread at will over the time in which they arrive.

    No schedule whose backlog is the same at both ends has a lower mean JCT. None where the work does not fit.
    """
    some = slice(*window)
    span_s = jobs.arrival_s[window[1]] - jobs.arrival_s[window[0]]
    rows = np.column_stack([jobs.gpus[some], jobs.rate[some] / jobs.rate[some].max(1, keepdims=True)])
    kinds, kind = np.unique(rows, axis=0, return_inverse=True)
    work = np.bincount(kind.reshape(-1), jobs.shortest_s()[some], len(kinds))
    gpus, speed = kinds[:, 0], kinds[:, 1:]
    n, types = speed.shape
    capacity = np.zeros((types, n * types))
    done = np.zeros((n, n * types))
    for k in range(n):
        done[k, k * types : (k + 1) * types] = speed[k]
        capacity[np.arange(types), k * types + np.arange(types)] = gpus[k]
    found = linprog(np.ones(n * types), A_ub=capacity, b_ub=WORKERS * span_s, A_eq=done, b_eq=work)
    return float(found.fun) / (window[1] - window[0]) / 3600 if found.status == 0 else None


def report(lists: list[str], seeds: list[int], processes: int, only: list[str] | None) -> None:
    """All rows; with ``only``, those anew and the others from gavel.json."""
    # The printed figures are of seed 0; on others the rows that matter for the comparison. Long rows come first.
    tasks = [
        (name, seed, row, case)
        for seed in seeds
        for name in lists
        for row, case in cases(name).items()
        if (seed == seeds[0] or row not in FIRST_SEED_ONLY) and row in (only or [row])
    ]
    tasks.sort(key=lambda task: (task[2] not in SLOW, -LISTS.index(task[0])))
    with multiprocessing.Pool(processes) as pool:
        rows = pool.map(one, tasks, chunksize=1)
    out: dict[str, Any] = {"_about": about("")}
    for name in lists:
        kept = json.loads((RESULTS / "gavel.json").read_text())[name]["seeds"] if only else {}
        by_seed = {
            s: kept.get(str(s), {}) | {r["row"]: r for r in rows if r["list"] == name and r["seed"] == s} for s in seeds
        }
        first = by_seed[seeds[0]]
        out[name] = {
            "learned_jct_h": first["learned"]["mean_jct_h"],
            "rebuilt_las_aware_jct_h": first["max_min_fairness_perf"]["mean_jct_h"],
            "rebuilt_fifo_jct_h": first["fifo"]["mean_jct_h"],
            "learned_60s_jct_h": first["learned_60s"]["mean_jct_h"],
            "printed_h": PRINTED_H[name],
            "fluid_bound_2000_5999_h": {str(s): fluid_bound_h(jobs_of(name, s, 6001), LONG_RUN) for s in seeds},
            "seeds": {str(s): by_seed[s] for s in seeds},
        }
    write("gavel", out, report_text(out, lists, seeds))


def report_text(out: dict[str, Any], lists: list[str], seeds: list[int]) -> str:
    lines = [
        "# Gavel's continuous experiment, rebuilt, and ours", "",
        f"`{out['_about']['command']}`, {out['_about']['cores']} cores. 36 V100, 36 P100, 36 K80; rounds of 360 s; mean JCT in hours of "
        "jobs 4,000 to 4,999. Job lists: drawn by Gavel's generator (equal to the published files), speeds measured by Gavel.",
        "`max_min_fairness_perf` is LAS as Gavel has it, with speeds known; `learned` is ours, run times unknown; `exact_market` knows",
        "what work is left and is no policy of equal knowledge. `*_60s`: a resumption or a change of type costs 60 s.",
        "`learned` decides every round of 360 s; Gavel's policies every 1,920 s at most, as published.",
        f"Our constants: {json.dumps(chosen())}, chosen on lists of seeds 100 to 102 ([gavel_choice.md](gavel_choice.md)).",
        "Seen: lists of seed 0 were run with throughput 5 (single also with 20 and 100) before the choice was written down.", "",
    ]  # fmt: skip
    rows = list(cases(lists[0]))
    for seed in seeds:
        lines += [f"## Seed {seed}", "", "| row | " + " | ".join(lists) + " |", "|---" * (1 + len(lists)) + "|"]
        if seed == 0:
            for policy in PRINTED_H[lists[0]]:
                cells = [f"{PRINTED_H[name][policy]:.2f}" if policy in PRINTED_H[name] else "-" for name in lists]
                lines.append(f"| printed: {policy} | " + " | ".join(cells) + " |")
        for row in rows:
            found = [out[name]["seeds"][str(seed)].get(row) for name in lists]
            if any(found):
                cells = [
                    "not run" if not f else f"{f['mean_jct_h']:.2f}" if f["mean_jct_h"] else "queue grows"
                    for f in found
                ]
                lines.append(f"| {row} | " + " | ".join(cells) + " |")
        cells = []
        for name in lists:
            learned = out[name]["seeds"][str(seed)]["learned"].get("long_run_jct_h")
            bound = out[name]["fluid_bound_2000_5999_h"][str(seed)]
            cells.append(f"{learned or float('nan'):.2f} / {f'{bound:.2f}' if bound else 'does not fit'}")
        lines += ["| learned, jobs 2,000 to 5,999 / fluid bound | " + " | ".join(cells) + " |", ""]
    lines += [
        "The fluid bound spreads the work of jobs 2,000 to 5,999 at will over the time in which they arrive: a schedule whose backlog",
        "is the same at both ends is no better. It knows everything and never queues.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def choose_one(task: tuple[str, int, dict[str, Any], float]) -> float:
    name, seed, constants, move_s = task
    jobs = jobs_of(name, seed, CHOICE_JOBS)
    try:
        run = simulate_market(jobs, WORKERS, Market(**constants), CHOICE_WINDOW, Terms(move_s=move_s))
    except InputError:
        return float("inf")
    return run.mean_jct_s(CHOICE_WINDOW) / 3600


def choose(processes: int) -> None:
    """Least geometric mean of the mean JCTs over three rates and three seeds: power and throughput, then stay at 60 s a move."""
    out: dict[str, Any] = {"_about": about(" --choose"), "chosen": {}, "rows": []}
    with multiprocessing.Pool(processes) as pool:
        for kind in ("single", "multi"):
            free = [{"power": p, "throughput": t} for p in POWERS for t in THROUGHPUTS]
            best = try_all(pool, kind, free, 0.0, out["rows"])
            paid = try_all(pool, kind, [best | {"stay": s} for s in STAYS], MOVE_S, out["rows"])
            out["chosen"][kind] = {"free": best, "paid": paid}
    lines = ["# Our constants in Gavel's protocol, chosen on drawn lists of seeds 100 to 102", "",
             f"`{out['_about']['command']}`. Mean JCT in hours of jobs 1,500 to 5,499, mean of three seeds.",
             f"Rule: least geometric mean. Chosen: {json.dumps(out['chosen'])}. Defaults: {json.dumps(asdict(Market()))}.", "",
             "| kind | constants | s a move | by rate | geometric mean |", "|---|---|---|---|---|"]  # fmt: skip
    for r in out["rows"]:
        rates = ", ".join(f"{x:.2f}" for x in r["by_rate_h"])
        lines.append(
            f"| {r['kind']} | {json.dumps(r['constants'])} | {r['move_s']:g} | {rates} | {r['geometric_h']:.3f} |"
        )
    write("gavel_choice", out, "\n".join(lines) + "\n")


def try_all(
    pool: Any, kind: str, options: list[dict[str, Any]], move_s: float, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    names = [name for name in LISTS if name.startswith(kind)]
    tasks = [(name, seed, o, move_s) for o in options for name in names for seed in CHOICE_SEEDS]
    means = np.array(pool.map(choose_one, tasks, chunksize=1)).reshape(len(options), len(names), len(CHOICE_SEEDS))
    geometric = np.exp(np.log(means).mean((1, 2)))
    for k, constants in enumerate(options):
        rows.append({"kind": kind, "constants": constants, "move_s": move_s, "by_rate_h": means[k].mean(1).tolist(),
                     "geometric_h": float(geometric[k])})  # fmt: skip
        print(rows[-1], flush=True)
    return options[int(geometric.argmin())]


def integer_program(value: Any, gpus: Any, workers: Any, where: Any) -> None:
    """The assignment of most value, by HiGHS' branch and bound to a gap of 1e-6; as `assign`."""
    n, types = value.shape
    where[:] = -1
    if not n:
        return
    rows = sparse.lil_matrix((n + types, n * types))
    for job in range(n):
        rows[job, job * types : (job + 1) * types] = 1
        rows[n + np.arange(types), job * types + np.arange(types)] = gpus[job]
    within = LinearConstraint(rows.tocsr(), -np.inf, np.concatenate([np.ones(n), workers]))
    able = Bounds(0, (value.ravel() > 0).astype(float))
    found = milp(-value.ravel(), constraints=within, bounds=able, integrality=np.ones(n * types), options=EXACT)
    x = found.x.reshape(n, types) > 0.5
    where[x.any(1)] = x.argmax(1)[x.any(1)]


def exactness() -> None:
    """What the integer program adds to our assignment of gangs: value of the same states, and mean JCT where it decides itself."""
    jobs, how = jobs_of("multi_2.6", CHOICE_SEEDS[0], 4000), Market(**chosen()["multi"]["free"])
    ratios: list[float] = []
    rounds = 0

    def both(value: Any, gpus: Any, workers: Any, where: Any) -> None:
        nonlocal rounds
        assign(value, gpus, workers, where)
        rounds += 1
        if rounds % EVERY == 0:
            best = np.empty_like(where)
            integer_program(value, gpus, workers, best)
            worth = [value[np.flatnonzero(w >= 0), w[w >= 0]].sum() for w in (where, best)]
            ratios.append(float(worth[0] / worth[1]))

    ours = simulate_market(jobs, WORKERS, how, EXACT_WINDOW, decide=both)
    begun = time.perf_counter()
    exact = simulate_market(jobs, WORKERS, how, EXACT_WINDOW, decide=integer_program)
    out = {
        "_about": about(" --exactness"), "list": "multi_2.6, seed 100", "window": EXACT_WINDOW, "states": len(ratios),
        "value_share_mean": float(np.mean(ratios)), "value_share_least": min(ratios),
        "ours_jct_h": ours.mean_jct_s(EXACT_WINDOW) / 3600, "exact_jct_h": exact.mean_jct_s(EXACT_WINDOW) / 3600,
        "exact_ms_a_round": (time.perf_counter() - begun) / exact.rounds * 1e3,
    }  # fmt: skip
    (RESULTS / "gavel_exactness.json").write_text(json.dumps(out, indent=1) + "\n")
    print(out)


def about(arguments: str) -> dict[str, Any]:
    return {
        "command": f"RLTUNE_TRACES=... OMP_NUM_THREADS=1 python experiments/gavel.py{arguments}",
        "cores": os.cpu_count(), "python": platform.python_version(), "source": "Gavel's generator and table of speeds, c4fa400",
    }  # fmt: skip


def write(name: str, out: dict[str, Any], text: str) -> None:
    (RESULTS / f"{name}.json").write_text(json.dumps(out, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(text)
    print(RESULTS / f"{name}.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--choose", action="store_true", help="choose our constants on other lists")
    parser.add_argument("--exactness", action="store_true", help="our assignment of gangs beside the integer program")
    parser.add_argument("--lists", nargs="+", choices=LISTS, default=list(LISTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", help="only these anew, the others from gavel.json")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    if options.choose:
        choose(options.processes)
    elif options.exactness:
        exactness()
    else:
        report(options.lists, options.seeds, options.processes, options.rows)


if __name__ == "__main__":
    main()
