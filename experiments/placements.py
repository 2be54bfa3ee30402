"""Slices beside what others do with them: ``python experiments/placements.py`` (RLTUNE_TRACES set).

The world ``heavy_98`` of hybrid.py (jobs of one GPU hold a third of the time), run times unknown, suspension as there. Some jobs of
one GPU are *small*: as many, drawn, as would hold 5 or 20 % of the A100 on whole GPUs. A small job keeps on a slice what a measured
training job keeps:

- whole: nobody may take a slice.
- moldable: a small job takes a slice or a whole GPU of any type, as the allocator decides.
- fixed: it asks for the smallest slice that keeps .7 of its speed, and takes nothing else.
- static: some A100 nodes are cut for good into equal slices, which only small jobs may take, and everybody may use the rest whole;
  which and how many is chosen on a stretch of August, the best of nine.

Orders fifo, las, gittins; placements fgd on the fastest way with room, and the market. Beside them, under fifo and on whole GPUs, the
assignment of the first 60 waiting jobs to types for the most relative speed, as Gavel's policies go by it (seeds 0 and 1: it is
decided outside the kernels). Writes results/placements.{json,md}.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hybrid
import numpy as np
from hybrid import CLUSTER, ORDERS, PLACES, World, chosen_on, days_of, gain, gpu_time, percent, run, sums_by_day
from scores import machine

import rltune
from rltune.core.resources.counts import BEST_FIT, book, find, scratch, space_of
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.jobs import Category
from rltune.nouns.mig_profiles import NAMES
from rltune.rounds.assignment import assign
from rltune.simulator.ways import slice_speeds
from rltune.traces.heterogeneity import load_throughput

RESULTS = Path(__file__).resolve().parent / "results"
COMMAND = "RLTUNE_TRACES=... OMP_NUM_THREADS=1 python experiments/placements.py"
SHARES = (0.05, 0.20)
KEEPS = 0.7
A100 = "A100-40GB"
WHOLE, CUT = "V100|P100|A100-40GB", "MISC"
"""GPU types of whole GPUs, and the name that cut nodes go by, which only small jobs list."""
PER_GPU = {"1g": 7, "2g": 3, "3g": 2}
STATIC = tuple((kind, nodes) for kind in PER_GPU for nodes in (1, 2, 4))
KINDS = ("whole", "moldable", "fixed", "static")
PAIRS = [(order, place) for order in ("fifo", "las", "gittins") for place in ("fgd", "market")]
FIRST = 60
ASSIGNED = (0, 1)
"""Seeds with the assignment."""


@dataclass(frozen=True)
class Small:
    """``rows`` (n,) whether each job is small; ``keeps``: of each job what it keeps on 1g, 2g, 3g; ``share`` of the A100 they hold."""

    rows: Any
    keeps: list[dict[str, float]]
    share: float


def small_jobs(setting: World, share: float) -> Small:
    """Jobs of one GPU, drawn by the seed of the world until they would hold ``share`` of the A100."""
    jobs, rng = setting.jobs, np.random.default_rng([setting.seed, 7])
    measured = slice_speeds()
    models = sorted(measured)
    drawn = rng.integers(len(models), size=len(jobs))
    a100 = [pool.gpu_type for pool in CLUSTER.pools].index(A100)
    work = gpu_time(jobs) / speeds(setting)[:, a100]
    nodes = CLUSTER.pools[a100]
    capacity = nodes.nodes * nodes.gpus_per_node * (jobs.submit_s[-1] - jobs.submit_s[0])
    order = rng.permutation(np.flatnonzero(jobs.num_gpus == 1))
    taken = order[: int(np.searchsorted(np.cumsum(work[order]), share * capacity))]
    rows = np.zeros(len(jobs), bool)
    rows[taken] = True
    return Small(rows, [measured[models[k]] for k in drawn], float(work[rows].sum() / capacity))


def speeds(setting: World) -> Any:
    """(n_jobs, 3) speeds on the pools of the cluster, as hybrid.py draws them."""
    table = load_throughput("gavel", missing="assumed", draw=setting.seed)
    return table.speeds(replace(setting.jobs, gpu_type=Category.absent(len(setting.jobs))), CLUSTER).speed


def with_texts(setting: World, column: str, texts: list[Any]) -> World:
    """The world with a column of its jobs replaced."""
    return replace(setting, jobs=replace(setting.jobs, **{column: Category.of(texts, len(texts))}))


def as_kind(setting: World, small: Small, kind: str) -> World:
    """The world with the ways that a kind of slicing gives small jobs."""
    speed = speeds(setting)[:, [pool.gpu_type for pool in CLUSTER.pools].index(A100)]
    texts: list[Any] = [None] * len(setting.jobs)
    for row in np.flatnonzero(small.rows) if kind != "whole" else ():
        of = {
            name: f"{NAMES[A100][name]}:{A100}@{speed[row] * keeps:.6g}"
            for name, keeps in small.keeps[row].items() if name in NAMES[A100]
        }  # fmt: skip
        if kind == "moldable":
            texts[row] = " | ".join(["request", *of.values()])
        else:
            enough = [name for name in PER_GPU if small.keeps[row].get(name, 0.0) >= KEEPS]
            texts[row] = of[enough[0]] if enough else None
    return with_texts(setting, "ways", texts)


def cut_cluster(kind: str, nodes: int) -> Cluster:
    """The cluster with ``nodes`` A100 nodes cut into slices, each as a GPU of a type of its own."""
    v100, p100, a100 = CLUSTER.pools
    # Half of the GPUs of a node on each of two, since a node has at most 32 GPUs here.
    sliced = Pool("cut", 2 * nodes, 4 * PER_GPU[kind], CUT, max_gpus_per_job=1)
    return Cluster("cut", (v100, p100, replace(a100, nodes=a100.nodes - nodes, mig=False), sliced))


def static(setting: World, small: Small, kind: str, nodes: int, order: str, place: str) -> dict[str, Any]:
    """A simulation on a statically cut cluster."""
    speed = speeds(setting)
    keeps = np.array([each.get(kind, min(each.values())) for each in small.keeps])
    given = np.column_stack([speed, speed[:, 2] * keeps])
    types = [f"{WHOLE}|{CUT}" if one else WHOLE for one in small.rows]
    return run(
        with_texts(setting, "gpu_type", types),
        ORDERS[order],
        PLACES[place],
        cluster=cut_cluster(kind, nodes),
        speed=given,
        ways=None,
    )


class ByRelativeSpeed:
    """The first waiting jobs, each to the type that makes the sum of their relative speeds largest within what is free."""

    def allocate(self, snapshot: Any, order: Any, backfill: str) -> Any:
        cluster, queue, first = snapshot.cluster, snapshot.queue, order[:FIRST]
        space, work = space_of(cluster, snapshot.free, None), scratch(cluster)
        free = np.array([snapshot.free[lo:hi].sum() for lo, hi in zip(cluster.pool_lo, cluster.pool_hi, strict=True)])
        value = np.full((len(first), len(free)), -1.0)
        for k, position in enumerate(first):
            mine = slice(queue.pool_lo[position], queue.pool_hi[position])
            value[k, queue.pools[mine]] = queue.speed[mine] / queue.speed[mine].max()
        where = np.full(len(first), -1)
        assign(value, queue.num_gpus[first].astype(np.int64), np.maximum(free, 0), where)
        starts = []
        for k, position in enumerate(first):
            if where[k] >= 0:
                m = find(cluster, space, queue.num_gpus[position], where, k, k + 1, BEST_FIT, work)
                if m > 0:
                    book(cluster, space, work.node, work.gpus, 0, m, -1)
                    starts.append(
                        rltune.Start(
                            int(queue.job[position]), tuple(work.node[:m].tolist()), tuple(work.gpus[:m].tolist())
                        )
                    )
        return rltune.Plan(tuple(starts))


def choose() -> tuple[str, int]:
    """The static partition of least mean JCT under las with the market, on the heavy stretch of August."""
    setting = next(x for x in chosen_on() if x.name.startswith("heavy"))
    small = small_jobs(setting, SHARES[1])
    found = {each: static(setting, small, *each, "las", "market")["jct_s"] for each in STATIC}
    print({f"{kind} {nodes}": round(jct) for (kind, nodes), jct in found.items()}, flush=True)
    return min(found, key=lambda each: found[each])


def measure(seed: int, partition: tuple[str, int]) -> list[dict[str, Any]]:
    """A row for each share, kind and rule."""
    setting = next(x for x in hybrid.worlds(seed) if x.name == "heavy_98")
    rows = []

    def note(share: Any, kind: str, rule: str, held: float, found: dict[str, Any]) -> None:
        found["by_day"] = sums_by_day(days_of(setting), found.pop("_jct"), found.pop("_wait")).tolist()
        rows.append({"share": share, "kind": kind, "rule": rule, "seed": seed, "held": held, **found})
        print(
            f"seed {seed} {share} {kind} {rule}: JCT {found['jct_s']:,.0f} s, wait {found['wait_s']:,.0f} s, {found['seconds']} s",
            flush=True,
        )

    for share in SHARES:
        small = small_jobs(setting, share)
        for kind in KINDS:
            for order, place in PAIRS:
                if kind == "whole" and share != SHARES[0]:
                    continue
                if kind == "static":
                    found = static(setting, small, *partition, order, place)
                else:
                    found = run(as_kind(setting, small, kind), ORDERS[order], PLACES[place], ways=None)
                note(None if kind == "whole" else share, kind, f"{order} / {place}", small.share, found)
    if seed not in ASSIGNED:
        return rows
    whole = as_kind(setting, small_jobs(setting, SHARES[0]), "whole")
    note(
        None, "whole", "fifo / assignment", 0.0, run(whole, ORDERS["fifo"], {"allocator": ByRelativeSpeed()}, ways=None)
    )
    return rows


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds, and the gain over the same order with fgd on whole GPUs, and over the market on whole GPUs."""
    out = []
    for share, kind, rule in dict.fromkeys((r["share"], r["kind"], r["rule"]) for r in rows):
        mine = [r for r in rows if (r["share"], r["kind"], r["rule"]) == (share, kind, rule)]

        def against(other: str, what: int, mine: Any = mine) -> dict[str, float]:
            theirs = [
                next(r for r in rows if (r["kind"], r["rule"], r["seed"]) == ("whole", other, m["seed"])) for m in mine
            ]
            return gain(*([np.array(r["by_day"])[:, [0, what]] for r in side] for side in (mine, theirs)))

        order = rule.split(" / ")[0]
        out.append(
            {
                "share": share, "kind": kind, "rule": rule, "seeds": len(mine), "held": float(np.mean([r["held"] for r in mine])),
                **{name: float(np.mean([r[name] for r in mine])) for name in ("jct_s", "wait_s", "wait_p99_s", "on_slices")},
                "over_fgd": against(f"{order} / fgd", 1), "over_market": against(f"{order} / market", 1),
                "wait_over_market": against(f"{order} / market", 2),
            }
        )  # fmt: skip
    return out


def text(out: dict[str, Any]) -> str:
    """The table."""
    about = out["_about"]
    lines = [
        "# Slices beside what others do with them", "",
        f"`{about['command']}`; real Helios log, world heavy_98 of hybrid.py; machine: {about['machine']}. Run times unknown.",
        f"Static partition, chosen on August: {about['partition']}. Gains: less mean JCT than the same",
        "order on whole GPUs, percent (95 %).", "",
        "| small, of A100 | slices | rule | mean JCT s | wait s | p99 wait s | runs on slices | over fgd, whole | over market, whole | "
        "wait over it | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for r in out["table"]:
        share = "-" if r["share"] is None else f"{100 * r['held']:.0f} %"
        gains = " | ".join(percent(r[name]) for name in ("over_fgd", "over_market", "wait_over_market"))
        lines.append(
            f"| {share} | {r['kind']} | {r['rule']} | {r['jct_s']:,.0f} | {r['wait_s']:,.0f} | {r['wait_p99_s']:,.0f} | "
            f"{100 * r['on_slices']:.0f} % | {gains} | {r['seeds']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=len(hybrid.SEEDS))
    given = parser.parse_args()
    partition, rows = choose(), list[dict[str, Any]]()
    for seed in hybrid.SEEDS[: given.seeds]:
        rows += measure(seed, partition)
        about = {
            "command": COMMAND,
            "machine": machine(),
            "source": "real",
            "partition": f"{partition[1]} nodes into {partition[0]}",
        }
        out = {"_about": about, "table": summary(rows), "rows": rows}
        (RESULTS / "placements.json").write_text(json.dumps(out) + "\n")
        (RESULTS / "placements.md").write_text(text(out))


if __name__ == "__main__":
    main()
