"""The hybrid on unlike GPUs: ``python experiments/hybrid.py`` (RLTUNE_TRACES set).

Test arrivals of Helios and PAI, and a mix of Helios in which jobs of one GPU hold a third of the time, on the cluster
``mixed``: 224 V100, 112 P100, 112 A100 that may be cut by MIG. Every job is given a class of Gavel's table by a seed (speeds on P100
and V100 as measured, on the A100 as assumed), and a job of one GPU a measured training job (its speeds on slices); it may
run on any type, whole or on a slice. Run times are unknown, jobs may be suspended (60 s a resumption), MIG instances take
their measured time. Orders x placements x two loads x five seeds, mean JCT first.

Nothing is chosen by these stretches: the constants of the market come from ``--choose`` (stretches of May, July and August of
Helios). Writes results/hybrid.{json,md}; ``--choose``: results/hybrid_choice.{json,md}; ``--only TEXT``: rows whose
name has it are measured, the others kept.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import rltune
from rltune.allocators.milp import MilpAllocator
from rltune.nouns.jobs import Category, JobTable
from rltune.traces.heterogeneity import load_throughput

RESULTS = Path(__file__).resolve().parent / "results"
COMMAND = "RLTUNE_TRACES=... OMP_NUM_THREADS=1 python experiments/hybrid.py"
CLUSTER = rltune.load_cluster("mixed")
LOADS = (0.83, 0.98)
SEEDS = (0, 1, 2, 3, 4)
WIDEST = 64
"""GPUs: wider jobs are left out, since the pools hold 112 and 224; how much time they hold is told."""
THIRD = 1 / 3
ORDERS: dict[str, dict[str, Any]] = {
    "fifo": {"policy": "fifo"},
    "las_levels": {"policy": "las_levels"},
    "las": {"policy": "las"},
    "gittins": {"policy": "gittins", "past_jobs": True},
    "sjf, forecasts": {"policy": "sjf", "runtimes": "predicted"},
    "srsf, exact": {"policy": "srsf", "runtimes": "exact"},
}
PLACES: dict[str, dict[str, Any]] = {
    "first fit": {"allocator": "first_fit"},
    "best fit": {"allocator": "best_fit"},
    "fgd": {"allocator": "fgd"},
    "fgd, efficient": {"allocator": "fgd", "way_rule": "efficient"},
    "market, no refusal": {"allocator": "fgd", "way_rule": "market", "market_refusal": 1e6},
    "market, no prices": {"allocator": "fgd", "way_rule": "market", "market_crowd": 0.0, "market_floor": 0.0},
    "market": {"allocator": "fgd", "way_rule": "market"},
    "market, milp": {"allocator": "milp", "way_rule": "market"},
}
"""The first three take the fastest way with room."""
SOME = ("best fit", "fgd", "market")
"""What the orders that are not `FULL` are measured with."""
FULL = ("fifo", "las", "gittins")
WITHOUT = ("fifo", "sjf, forecasts")
"""Orders that suspend nobody."""
CLASSIC = tuple(
    f"{order} / {place}" for order in ("fifo", "las_levels", "las") for place in ("first fit", "best fit", "fgd")
)
"""Orders and placements of others that know no run times; that of least mean JCT, by world, is what the hybrid is held against."""
HYBRID = "gittins / market"
PARTS = {
    "order": ("gittins / market", "las / market"),
    "order, against las_levels": ("gittins / market", "las_levels / market"),
    "market": ("gittins / market", "gittins / best fit"),
    "market, against fgd": ("gittins / market", "gittins / fgd"),
    "prices": ("gittins / market", "gittins / market, no prices"),
    "refusal": ("gittins / market", "gittins / market, no refusal"),
    "exactness": ("gittins / market, milp", "gittins / market"),
}
"""What each part is worth: the first rule against the second."""
HEADS = ("rule", "mean JCT s", "mean wait s", "p99 wait s", "starts a job", "on slices", "seeds", "s a run")
EXACT_ON = (("gittins",), ("helios_98", "heavy_98", "pai_98"), (0, 1))
"""Orders, worlds and seeds on which the MILP decides: it takes minutes where the others take a second."""


@dataclass(frozen=True)
class World:
    """Jobs, what was submitted before them, and the seed by which classes are drawn."""

    name: str
    jobs: JobTable
    past: JobTable
    seed: int
    source: str
    left_out: float


def gpu_time(jobs: JobTable) -> Any:
    """(n,) GPU-seconds of each job."""
    return jobs.num_gpus * jobs.duration_s


def of_load(jobs: JobTable, load: float, speeds: Any) -> JobTable:
    """The jobs with arrivals drawn together (or apart) to the load of the cluster at its mean speed for this work."""
    work, gpus = gpu_time(jobs), np.array([pool.nodes * pool.gpus_per_node for pool in CLUSTER.pools])
    capacity = float((gpus * (work[:, None] * speeds).sum(axis=0) / work.sum()).sum())
    first = jobs.submit_s[0]
    scale = work.sum() / (load * capacity * (jobs.submit_s[-1] - first))
    return replace(jobs, submit_s=first + (jobs.submit_s - first) * scale)


def thickened(jobs: JobTable, seed: int) -> JobTable:
    """Jobs of one GPU doubled until they hold a third of the GPU time, the copies up to half a day earlier or later."""
    rng, one = np.random.default_rng(seed), jobs.num_gpus == 1
    held = gpu_time(jobs)
    times = max(1, round(held[~one].sum() * THIRD / (1 - THIRD) / held[one].sum()))
    frame = jobs.to_frame()
    parts = [frame]
    for k in range(times - 1):
        copy = frame[one].copy()
        shifted = copy["submit_s"] + rng.uniform(-43200, 43200, len(copy))
        copy["submit_s"] = np.clip(shifted, frame["submit_s"].min(), frame["submit_s"].max())
        copy["job_id"] = copy["job_id"].astype(str) + f"-{k}"
        parts.append(copy)
    columns = {name: list(itertools.chain(*(part[name] for part in parts))) for name in frame}
    return JobTable.from_columns({k: v for k, v in columns.items() if any(x is not None for x in v)})


def world(name: str, trace: rltune.Trace, rows: tuple[int, int, int], seed: int, load: float, heavy: bool) -> World:
    """``rows``: where the past begins, the jobs begin, and end."""
    jobs, past = trace.jobs.take(slice(*rows[1:])), trace.jobs.take(slice(*rows[:2]))
    wide = jobs.num_gpus > WIDEST
    left_out = float(gpu_time(jobs)[wide].sum() / gpu_time(jobs).sum())
    jobs = jobs.take(~wide)
    jobs = thickened(jobs, seed) if heavy else jobs
    table = load_throughput("gavel", missing="assumed", draw=seed)
    plain = replace(jobs, gpu_type=Category.absent(len(jobs)))
    speeds = table.speeds(plain, CLUSTER).speed
    return World(name, of_load(plain, load, speeds), past, seed, trace.source, left_out)


def worlds(seed: int) -> Iterator[World]:
    """What the tables report."""
    helios, pai = rltune.load_trace("helios"), rltune.load_trace("alibaba")
    begin, last = first_row(helios, "2020-09-01"), first_row(helios, "2020-09-08")
    quarter = int(0.75 * len(pai))
    for load in LOADS:
        at = f"{100 * load:.0f}"
        yield world(f"helios_{at}", helios, (0, begin, len(helios)), seed, load, False)
        yield world(f"heavy_{at}", helios, (0, begin, last), seed, load, True)
        yield world(f"pai_{at}", pai, (0, quarter, len(pai)), seed, load, False)


def first_row(trace: rltune.Trace, date: str) -> int:
    """First row submitted at or after a date."""
    return int(np.searchsorted(trace.jobs.submit_s, trace.between(date, "2100-01-01").jobs.submit_s[0]))


def run(setting: World, order: dict[str, Any], place: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One simulation: means, and wait and JCT of every job."""
    options = (
        {"runtimes": "unknown", "ways": "mig_profiles", "seed": setting.seed, "backfill": "skip"} | order | place | more
    )
    usual = {"name": "gavel", "missing": "assumed", "reference": None, "draw": setting.seed}
    options["speed"] = more.get("speed", usual)
    if options["policy"] not in ("fifo", "sjf"):
        options["resume_s"] = 60.0
    if options.get("past_jobs"):
        options["past_jobs"] = setting.past
    if options["allocator"] == "milp":
        options["allocator"] = MilpAllocator(head=8)
    begun = time.perf_counter()
    result = rltune.simulate(setting.jobs, options.pop("cluster", CLUSTER), **options)
    seconds = time.perf_counter() - begun
    assert result.finished.all()
    wait, jct, runs = result.wait_s, result.end_s - setting.jobs.submit_s, result.runs
    sliced = runs.first_slice[runs.ptr[:-1]] >= 0 if runs.first_slice is not None else np.zeros(len(runs), bool)
    return {
        "jct_s": float(jct.mean()), "wait_s": float(wait.mean()), "wait_p99_s": float(np.percentile(wait, 99)),
        "starts_per_job": len(runs) / len(setting.jobs), "on_slices": float(sliced.mean()), "seconds": round(seconds, 1),
        "market": result.extra.get("market"), "allocator": result.allocator_stats or None, "_jct": jct, "_wait": wait,
    }  # fmt: skip


# --- comparing ---------------------------------------------------------------------------


def days_of(setting: World) -> Any:
    """(n,) day of arrival: the unit that is drawn again in the bootstrap, since jobs of one day share their fate."""
    return ((setting.jobs.submit_s - setting.jobs.submit_s[0]) // 86400).astype(int)


def sums_by_day(days: Any, jct: Any, wait: Any) -> Any:
    """(n_days, 3) jobs, and sums of their JCT and wait."""
    return np.stack([np.bincount(days), np.bincount(days, weights=jct), np.bincount(days, weights=wait)], axis=1)


def gain(ours: list[Any], theirs: list[Any], draws: int = 2000) -> dict[str, float]:
    """By what share the mean of ours is below theirs, with a 95 % interval: days of all seeds drawn anew, the same for both.

    ``ours, theirs``: of each seed (n_days, 2): jobs, and sum of their values.
    """
    a, b = np.concatenate(ours), np.concatenate(theirs)
    rng = np.random.default_rng(0)
    rows = rng.integers(len(a), size=(draws, len(a)))
    drawn = 1.0 - a[rows, 1].sum(axis=1) / b[rows, 1].sum(axis=1)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return {"gain": float(1.0 - a[:, 1].sum() / b[:, 1].sum()), "low": float(low), "high": float(high)}


def measure(seeds: tuple[int, ...], only: str) -> list[dict[str, Any]]:
    """Rows; ``by_day``: jobs that arrive on each day, and their sums of JCT and wait."""
    rows = []
    for seed in seeds:
        for setting in worlds(seed):
            for (order, what), (place, how) in itertools.product(ORDERS.items(), PLACES.items()):
                name = f"{order} / {place}"
                if only not in f"{setting.name} {name}" or skipped(setting, order, place):
                    continue
                found = run(setting, what, how)
                found["by_day"] = sums_by_day(days_of(setting), found.pop("_jct"), found.pop("_wait")).tolist()
                rows.append(
                    {
                        "world": setting.name,
                        "order": order,
                        "place": place,
                        "seed": seed,
                        "jobs": len(setting.jobs),
                        **found,
                    }
                )
                told = f"JCT {found['jct_s']:,.0f} s, wait {found['wait_s']:,.0f} s, {found['seconds']} s"
                print(f"{setting.name} seed {seed} {name}: {told}", flush=True)
    return rows


def sums_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """(world, rule, seed) -> sums by day of JCT and wait, for `gain`."""
    by_day = {(r["world"], f"{r['order']} / {r['place']}", r["seed"]): np.array(r["by_day"]) for r in rows}
    return {key: (x[:, [0, 1]], x[:, [0, 2]]) for key, x in by_day.items()}


def merged(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The new rows, and the old ones of other rules, worlds and seeds."""

    def key(row: dict[str, Any]) -> Any:
        return row["world"], row["order"], row["place"], row["seed"]

    return sorted([*new, *(row for row in old if key(row) not in set(map(key, new)))], key=key)


def skipped(setting: World, order: str, place: str) -> bool:
    """What is not measured: the MILP takes minutes where the others take a second."""
    if "milp" not in place:
        return (order not in FULL and place not in SOME) or ("no " in place and f"{order} / market" != HYBRID)
    orders, names, seeds = EXACT_ON
    return order not in orders or setting.seed not in seeds or setting.name not in names


# --- choosing the market's constants --------------------------------------------------------

KNOBS = {
    "market_crowd": 3.0,
    "market_floor": 0.2,
    "market_refusal": 0.3,
    "market_patience": 0.01,
    "displace_factor": 2.0,
}
"""Where the search begins."""
SPREAD = 0.5
"""Standard deviation of its first draws, of the logarithms."""


def chosen_on() -> Iterator[World]:
    """Stretches of earlier months and, of PAI, of the quarter before the last."""
    helios, pai = rltune.load_trace("helios"), rltune.load_trace("alibaba")
    spans = (("2020-05-01", "2020-05-15"), ("2020-07-10", "2020-07-24"), ("2020-08-01", "2020-08-15"))
    for k, (begin, end) in enumerate(spans):
        rows = (0, first_row(helios, begin), first_row(helios, end))
        yield world(f"helios {begin}", helios, rows, 100 + k, LOADS[1] if k else LOADS[0], False)
    rows = (0, first_row(helios, "2020-08-20"), first_row(helios, "2020-08-24"))
    yield world("heavy 2020-08-20", helios, rows, 103, LOADS[1], True)
    rows = (0, int(0.55 * len(pai)), int(0.75 * len(pai)))
    yield world("pai", pai, rows, 104, LOADS[1], False)


def choose(rounds: int) -> dict[str, Any]:
    """CMA-ES (Hansen, 2016) over the logarithms of the knobs: mean JCT under gittins, by world, over that with `KNOBS`."""
    import cma

    settings = list(chosen_on())

    def jcts(knobs: dict[str, float]) -> Any:
        return np.array([run(x, ORDERS["gittins"], PLACES["market"], **knobs)["jct_s"] for x in settings])

    base, tried = jcts(KNOBS), []
    search = cma.CMAEvolutionStrategy(np.log(list(KNOBS.values())), SPREAD, {"seed": 1, "verbose": -9})
    for _ in range(rounds):
        asked = search.ask()
        for x in asked:
            knobs = dict(zip(KNOBS, np.exp(x).tolist(), strict=True))
            knobs["displace_factor"] = max(1.01, knobs["displace_factor"])
            ratio = jcts(knobs) / base
            tried.append({"knobs": knobs, "ratio": float(np.exp(np.log(ratio).mean())), "by_world": ratio.tolist()})
            print(json.dumps(tried[-1]), flush=True)
        search.tell(asked, [each["ratio"] for each in tried[-len(asked) :]])
    return {
        "worlds": [x.name for x in settings], "begin": KNOBS, "begin_jct_s": base.tolist(),
        "best": min(tried, key=lambda t: t["ratio"]), "tried": tried,
    }  # fmt: skip


# --- the report -----------------------------------------------------------------------------


def best_classic(name: str, sums: dict[str, Any]) -> str:
    """The classic rule of least mean JCT over all seeds in a world."""

    def mean(rule: str) -> float:
        found = np.concatenate([x[0] for (at, which, _), x in sums.items() if (at, which) == (name, rule)])
        return float(found[:, 1].sum() / found[:, 0].sum())

    return min((rule for rule in CLASSIC if any(key[:2] == (name, rule) for key in sums)), key=mean)


def between(name: str, ours: str, theirs: str, sums: dict[str, Any], what: int) -> dict[str, float] | None:
    """`gain` of one rule over another in a world, over the seeds that both have; ``what``: 0 JCT, 1 wait."""
    seeds = [s for (at, rule, s) in sums if (at, rule) == (name, ours) and (name, theirs, s) in sums]
    if not seeds:
        return None
    return gain([sums[name, ours, s][what] for s in seeds], [sums[name, theirs, s][what] for s in seeds])


def summary(rows: list[dict[str, Any]], sums: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """Everything that the tables and other tools read."""
    names = list(dict.fromkeys(row["world"] for row in rows))
    against = {name: best_classic(name, sums) for name in names}
    gains = {name: [between(name, HYBRID, against[name], sums, k) for k in (0, 1)] for name in names}
    parts = {name: {part: between(name, *pair, sums, 0) for part, pair in PARTS.items()} for name in names}
    of = parts.get("helios_98", {})
    return {
        "_about": about, "against": against,
        "gain_jct": {name: g[0]["gain"] for name, g in gains.items() if g[0]},
        "gain_wait": {name: g[1]["gain"] for name, g in gains.items() if g[1]},
        "intervals": gains, "parts": parts,
        "parts_helios_98": {part: of[part]["gain"] for part in ("order", "market", "exactness") if of.get(part)} | learned(),
        "rows": rows,
    }  # fmt: skip


def learned() -> dict[str, float]:
    """What PPO gains over its start at .98 (steering.py, mean of its seeds), where that has been measured."""
    path = RESULTS / "steering.json"
    if not path.exists():
        return {}
    return {"ppo": float(json.loads(path.read_text())["gains"]["ppo, mean of all seeds, last 98"]["jct"]["gain"])}


def percent(found: dict[str, float] | None) -> str:
    """A gain with its interval."""
    return (
        "-" if found is None else f"{100 * found['gain']:.1f} ({100 * found['low']:.1f} to {100 * found['high']:.1f})"
    )


def text(out: dict[str, Any]) -> str:
    """The tables."""
    about, rows = out["_about"], out["rows"]
    lines = [
        "# The hybrid on unlike GPUs", "",
        f"`{about['command']}`; sources: {about['sources']}. Cluster `mixed` ({CLUSTER.gpus} GPUs).",
        f"Seeds {about['seeds']} draw the class of each job (its speeds on P100, V100 and, assumed, A100) and its measured speeds on",
        "MIG slices; see the docstring of experiments/hybrid.py.",
        f"Jobs of more than {WIDEST} GPUs are left out ({about['left_out']} of the GPU time).",
        f"Run times unknown but where a rule says otherwise; 60 s a resumption. Machine: {about['machine']}.", "",
        "Gains in percent, with 95 % intervals (days of arrival of all seeds drawn anew, the same for both rules).", "",
        f"## {HYBRID} against the best of fifo, las_levels, las with first fit, best fit, FGD on the fastest type", "",
        "| world | against | less mean JCT | less mean wait |", "|---|---|---|---|",
    ]  # fmt: skip
    for name, (jct, wait) in out["intervals"].items():
        lines.append(f"| {name} | {out['against'][name]} | {percent(jct)} | {percent(wait)} |")
    lines += ["", "## What each part is worth (less mean JCT)", "", "| part | rule | against | " + " | ".join(out["parts"]) + " |",
              "|---|---|---|" + "---|" * len(out["parts"])]  # fmt: skip
    for part, (ours, theirs) in PARTS.items():
        lines.append(
            f"| {part} | {ours} | {theirs} | " + " | ".join(percent(x[part]) for x in out["parts"].values()) + " |"
        )
    for name in out["intervals"]:
        lines += ["", f"## {name}", "", "| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
        of_rule: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            if row["world"] == name:
                of_rule.setdefault(f"{row['order']} / {row['place']}", []).append(row)
        for rule, mine in sorted(of_rule.items(), key=lambda x: np.mean([r["jct_s"] for r in x[1]])):
            m = {
                key: float(np.mean([r[key] for r in mine]))
                for key in ("jct_s", "wait_s", "wait_p99_s", "starts_per_job", "on_slices", "seconds")
            }
            lines.append(
                f"| {rule} | {m['jct_s']:,.0f} | {m['wait_s']:,.0f} | {m['wait_p99_s']:,.0f} | {m['starts_per_job']:.2f} | "
                f"{100 * m['on_slices']:.0f} % | {len(mine)} | {m['seconds']:.1f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    if given.choose:
        found = {"command": f"{COMMAND} --choose", "machine": machine, **choose(given.rounds)}
        (RESULTS / "hybrid_choice.json").write_text(json.dumps(found, indent=1) + "\n")
        return
    path = RESULTS / "hybrid.json"
    kept = json.loads(path.read_text())["rows"] if given.only and path.exists() else []
    for seed in SEEDS[: given.seeds]:
        kept = merged(kept, measure((seed,), given.only))
        write(path, kept, machine)


def write(path: Path, rows: list[dict[str, Any]], machine: str) -> None:
    """The record, as far as it has come."""
    settings = list(worlds(0))
    about = {
        "command": COMMAND, "machine": machine, "seeds": f"0 to {max(row['seed'] for row in rows)}",
        "sources": "; ".join(sorted({x.source for x in settings})),
        "left_out": ", ".join(f"{x.name[:-3]} {100 * x.left_out:.0f} %" for x in settings if x.name.endswith("98")),
    }  # fmt: skip
    out = summary(rows, sums_of(rows), about)
    path.write_text(json.dumps(out) + "\n")
    (RESULTS / "hybrid.md").write_text(text(out))


if __name__ == "__main__":
    main()
