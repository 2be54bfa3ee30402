"""What is left of the hybrid's gain where the world is not as believed: ``python experiments/robustness.py`` (RLTUNE_TRACES set).

The worlds and rules of hybrid.py, gittins with the market beside the classic orders that were best there, all with the same knowledge:

- speeds 30 % off: all believe speeds that are off by up to 30 %, drawn for each kind of job and way; jobs run at the true ones.
- half unknown: of half the kinds of jobs nothing is known of their speeds; they are believed to be the mean of the others'.
- half unknown, learned: the market learns them from runs of a minute; the classic rules go by what they believed at first, since
  their sequence of ways is fixed.
- load 1.10: more work arrives than the cluster can do.
- never seen: Philly's jobs, on which nothing of the market was chosen and which no other table has in such a cluster.

Five seeds, gains with 95 % intervals (days of arrival drawn anew). Writes results/robustness.{json,md}; ``--only TEXT``: conditions
whose name has it, the others are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hybrid
import numpy as np
from hybrid import HYBRID, ORDERS, PLACES, World, days_of, first_row, gain, percent, run, sums_by_day, world

import rltune

RESULTS = Path(__file__).resolve().parent / "results"
COMMAND = "RLTUNE_TRACES=... OMP_NUM_THREADS=1 python experiments/robustness.py"
RULES = (
    HYBRID,
    "las / market",
    "las / best fit",
    "las / fgd",
    "las / first fit",
    "las_levels / best fit",
    "fifo / best fit",
)
CLASSIC = RULES[2:]
AT = 0.98
WRONG: dict[str, dict[str, Any]] = {
    "as known": {},
    "speeds 30 % off": {"speed_error": 0.3},
    "half unknown": {"speed_unknown": 0.5},
    "half unknown, learned": {"speed_unknown": 0.5, "speed_learned": True},
}
OVERLOAD = "load 1.10"
UNSEEN = "never seen"
PHILLY = ("2017-11-16", "2017-12-07")


def settings(seed: int, only: str) -> Iterator[tuple[str, World, dict[str, Any]]]:
    """Conditions: name, world, options of every rule."""
    helios, pai, philly = (rltune.load_trace(name) for name in ("helios", "alibaba", "philly"))
    rows = {
        "helios": (helios, (0, first_row(helios, "2020-09-01"), len(helios))),
        "pai": (pai, (0, int(0.75 * len(pai)), len(pai))),
    }
    for name, (trace, stretch) in rows.items():
        for load, conditions in ((AT, WRONG), (1.10, {OVERLOAD: {}})):
            wanted = {told: options for told, options in conditions.items() if only in f"{name}, {told}"}
            if wanted:
                setting = world(name, trace, stretch, seed, load, False)
                for told, options in wanted.items():
                    yield f"{name}, {told}", setting, options
    if only in f"philly, {UNSEEN}":
        stretch = (0, *(first_row(philly, date) for date in PHILLY))
        yield f"philly, {UNSEEN}", world("philly", philly, stretch, seed, AT, False), {}


def measure(seed: int, only: str) -> list[dict[str, Any]]:
    """A row for each condition and rule."""
    rows = []
    for name, setting, options in settings(seed, only):
        for rule in RULES:
            order, place = rule.split(" / ")
            found = run(setting, ORDERS[order], PLACES[place], **options)
            found["by_day"] = sums_by_day(days_of(setting), found.pop("_jct"), found.pop("_wait")).tolist()
            rows.append(
                {
                    "condition": name,
                    "rule": rule,
                    "seed": seed,
                    "jobs": len(setting.jobs),
                    "left_out": setting.left_out,
                    **found,
                }
            )
            print(
                f"{name} seed {seed} {rule}: JCT {found['jct_s']:,.0f} s, wait {found['wait_s']:,.0f} s, {found['seconds']} s",
                flush=True,
            )
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """For each condition the best classic rule, and the gain of the market's rules over it."""
    out = {}
    for name in dict.fromkeys(row["condition"] for row in rows):
        mine = {(r["rule"], r["seed"]): np.array(r["by_day"]) for r in rows if r["condition"] == name}
        seeds = sorted({seed for _, seed in mine})

        def sums(rule: str, what: int, of: Any = mine, over: Any = tuple(seeds)) -> list[Any]:
            return [of[rule, seed][:, [0, what]] for seed in over]

        def mean(rule: str, of: Any = sums) -> float:
            found = np.concatenate(of(rule, 1))
            return float(found[:, 1].sum() / found[:, 0].sum())

        best = min(CLASSIC, key=mean)
        out[name] = {"best_classic": best, "seeds": len(seeds), "mean_jct_s": {rule: mean(rule) for rule in RULES}} | {
            rule: {"jct": gain(sums(rule, 1), sums(best, 1)), "wait": gain(sums(rule, 2), sums(best, 2))}
            for rule in RULES[:2]
        }
    return out


def text(out: dict[str, Any]) -> str:
    """The tables."""
    about = out["_about"]
    lines = [
        "# Where the world is not as believed", "",
        f"`{about['command']}`; sources: {about['sources']}. Cluster `mixed` ({hybrid.CLUSTER.gpus} GPUs), run times unknown, 60 s a",
        f"resumption; machine: {about['machine']}. Less mean JCT and wait than the best classic rule of the same condition, in percent",
        "(95 %, days of arrival of all seeds drawn anew). Jobs of more than 64 GPUs are left out:",
        f"{about['left_out']} of the GPU time.", "",
        "| condition | seeds | against | gittins / market: JCT | wait | las / market: JCT | wait |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, found in out["conditions"].items():
        cells = [percent(found[rule][what]) for rule in RULES[:2] for what in ("jct", "wait")]
        lines.append(f"| {name} | {found['seeds']} | {found['best_classic']} | " + " | ".join(cells) + " |")
    lines += ["", "Mean JCT, s:", "", "| condition | " + " | ".join(RULES) + " |", "|---|" + "---|" * len(RULES)]
    for name, found in out["conditions"].items():
        lines.append(f"| {name} | " + " | ".join(f"{found['mean_jct_s'][rule]:,.0f}" for rule in RULES) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--seeds", type=int, default=len(hybrid.SEEDS))
    parser.add_argument(
        "--begin", type=int, default=0, help="first seed; those before it are kept as they are recorded"
    )
    given = parser.parse_args()
    path = RESULTS / "robustness.json"
    rows = json.loads(path.read_text())["rows"] if (given.only or given.begin) and path.exists() else []
    for seed in hybrid.SEEDS[given.begin : given.seeds]:
        new = measure(seed, given.only)
        again = {(r["condition"], r["rule"], r["seed"]) for r in new}
        rows = [*(r for r in rows if (r["condition"], r["rule"], r["seed"]) not in again), *new]
        # Only what all seeds so far have is compared.
        left_out = {r["condition"].split(",")[0]: f"{100 * r['left_out']:.0f} %" for r in rows}
        about = {
            "command": COMMAND, "machine": f"{os.cpu_count()} cores, {platform.machine()}", "sources": "real",
            "left_out": ", ".join(f"{name} {share}" for name, share in left_out.items()),
        }  # fmt: skip
        out = {"_about": about, "conditions": summary(rows), "rows": rows}
        path.write_text(json.dumps(out) + "\n")
        (RESULTS / "robustness.md").write_text(text(out))


if __name__ == "__main__":
    main()
