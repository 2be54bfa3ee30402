"""What the learned agent is worth on batches: ``OMP_NUM_THREADS=1 python experiments/mig_agent.py`` (RLTUNE_TRACES set).

Makespan / area bound of the greedy rule that training starts from (the prior) and of the trained agent, each played
greedily and as the best of that and drawn plans: on the 50 recorded batches of every family (golden/mig beside the
traces; nothing was trained or chosen on them), on 50 fresh ones, on larger and on online batches, on other GPU types,
and on the Rodinia times of an A30. Writes results/mig_agent.{json,md}.

The checkpoint came of two trainings, 25 and 14 minutes on one core (curves in results/training):

    python -m rltune.mig train name=first
    python -m rltune.mig train name=second checkpoint=runs/first seed=1 epochs=115 steps_per_epoch=16384 tasks=[8,20] \\
        algo.lr=1e-3 algo.lr_end=5e-5 algo.minibatch=1024 algo.entropy=0.002

It was preferred to that of the first alone on batches of a seed of their own, neither recorded nor among those here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rltune.bench import planning
from rltune.mig.batch.bounds import area_bound
from rltune.mig.batch.families import FAMILIES, family_batch
from rltune.mig.batch.plan import Plan, check_plan
from rltune.mig.batch.tasks import Tasks
from rltune.nouns.metrics import bootstrap_ci
from rltune.rl.mig.agent import load, untrained
from rltune.rl.mig.batches import Mixture, Sampler, drawn, family_profiles
from rltune.rl.mig.env import Setup, VectorBatchEnv

HERE = Path(__file__).resolve().parent
OUT = HERE / "results" / "mig_agent"
POLICY = "mig_batch"
COMMAND = "RLTUNE_TRACES=... OMP_NUM_THREADS=1 python experiments/mig_agent.py"
A100, BATCHES = "A100-80GB", 50
SAMPLES = (16, 128)
"""Plans drawn beside the greedy one; 128 take about 100 ms."""
FRESH = (2026, 2)
"""Seed of the fresh batches; training uses (0, 0), validation (0, 1)."""
PUBLISHED = {
    "published: FAR": (1.098, 1.137, 1.201, 1.181, 1.150),
    "published: PPO, 1M steps": (1.454, 1.088, 1.189, 1.187, 1.279),
}
"""By family, 100 batches of 14 tasks, A100 costs, of which the recorded 50 are a part (facts of the comparison)."""
RODINIA_FAR_S = 29.49
Planner = Callable[[Tasks, str], Plan]


@dataclass(frozen=True)
class Case:
    """Batches of one kind; ``window``: tasks in sight at a time, None: all."""

    name: str
    model: str
    batches: Sequence[Tasks]
    window: int | None = None


def planners(policy: str, window: int | None) -> Mapping[str, Planner]:
    """Who is compared, by name of the row. Add FAR and the search, alone and seeded by the agent, here."""
    found: dict[str, Planner] = {}
    for name, agent in (("prior", untrained()), ("agent", load(policy))):
        found[f"{name}, greedy"] = lambda t, m, agent=agent: agent.plan(t, m, window=window)
        for k in SAMPLES:
            found[f"{name}, best of {k} drawn"] = lambda t, m, agent=agent, k=k: agent.plan(
                t, m, samples=k, rng=np.random.default_rng(0), window=window
            )
    return found


def judge(case: Case, plan: Planner) -> tuple[npt.NDArray[np.float64], float]:
    """(n_batches,) makespan / area bound of checked plans, and the median time to plan, ms."""
    ratios, took = [], []
    for tasks in case.batches:
        begun = time.perf_counter()
        found = plan(tasks, case.model)
        took.append(1e3 * (time.perf_counter() - begun))
        check_plan(tasks, found)
        ratios.append(found.makespan_s / area_bound(tasks, (case.model,)))
    return np.array(ratios), float(np.median(took))


def recorded() -> tuple[list[Case], dict[str, float]]:
    """The recorded batches by family, and FAR's recorded mean ratio on them."""
    cases, far = [], {}
    for family in FAMILIES:
        batches, makespans = zip(*planning.recorded_batches(family), strict=True)
        cases.append(Case(f"recorded {family}", A100, batches))
        bounds = [area_bound(tasks, (A100,)) for tasks in batches]
        far[cases[-1].name] = float(np.mean(np.array(makespans) / bounds))
    return cases, far


def cases() -> tuple[list[Case], dict[str, float]]:
    """All kinds of batches, and FAR's ratios where they are recorded."""
    found, far = recorded()
    fresh = drawn(tuple(FAMILIES), BATCHES, 14, A100, FRESH)
    found += [Case(f"fresh {family}", A100, batches) for family, batches in fresh.items()]
    rng = np.random.default_rng((*FRESH, 1))

    def mixed(tasks: int, model: str = A100) -> list[Tasks]:
        return [family_batch(family, tasks, rng, model) for family in FAMILIES for _ in range(BATCHES // 5)]

    found += [Case(f"all families, {n} tasks", A100, mixed(n)) for n in (6, 30, 60)]
    found.append(Case("all families, 50 tasks, 5 in sight", A100, mixed(50), window=5))
    found.append(Case("all families, 14 tasks, H100-80GB", "H100-80GB", mixed(14, "H100-80GB")))
    return [*found, Case("Rodinia, A30", "A30", [planning.rodinia()])], far


def steps_per_second(seconds: float = 5.0, envs: int = 64) -> float:
    """Environment steps a second under random legal actions, batches of the training mixture, one thread."""
    setup = Setup(A100, family_profiles(A100), 20, 50)
    env = VectorBatchEnv(setup, envs, Sampler(Mixture(), A100, 0))
    rng = np.random.default_rng(0)
    seen, _ = env.reset(seed=0)
    steps, spent = 0, 0.0
    while spent < seconds:
        mask = seen["action_mask"]
        actions = np.argmax(rng.random(mask.shape, np.float32) * mask, 1)
        begun = time.perf_counter()
        seen, _, _, _, _ = env.step(actions)
        spent += time.perf_counter() - begun
        steps += envs
    return steps / seconds


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Markdown: a line a planner, a column a case."""
    names = list(dict.fromkeys(row["case"] for row in rows))
    lines = ["| planner | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for planner in dict.fromkeys(row["planner"] for row in rows):
        found = {row["case"]: row["ratio"] for row in rows if row["planner"] == planner}
        cells = [f"{found[name]:.3f}" if name in found else "" for name in names]
        lines.append(f"| {planner} | " + " | ".join(cells) + " |")
    return lines


def report(record: Mapping[str, Any]) -> str:
    """The record as a page."""
    rows = record["rows"]
    lines = ["# The learned agent on batches", "", f"`{record['command']}`; {record['machine']}.", ""]
    lines += ["Mean makespan / area bound, lower is better; every plan passed the check.", ""]
    groups = {
        "Recorded batches, 14 tasks": "recorded ",
        "Fresh batches of the same generator, 14 tasks": "fresh ",
        "Other batches": ("all ", "Rodinia"),
    }
    for title, begins in groups.items():
        lines += [f"## {title}", "", *table([row for row in rows if row["case"].startswith(begins)]), ""]
    lines += ["## What training added to the prior, paired", "", "| case | played | change [95 %] |", "|---|---|---|"]
    lines += [
        f"| {g['case']} | {g['played']} | {g['change']:+.4f} [{g['low']:+.4f}, {g['high']:+.4f}] |"
        for g in record["gains"]
    ]
    median = {p: np.median([r["ms"] for r in rows if r["planner"] == p and "ms" in r]) for p in record["planners"]}
    lines += ["", "Time to plan a batch, median: " + ", ".join(f"{p} {ms:.0f} ms" for p, ms in median.items()) + "."]
    lines += [f"Environment alone: {record['steps_per_s']:,.0f} steps/s on one thread, 64 episodes side by side."]
    lines += [
        "",
        "## Training",
        "",
        "| steps | epochs | tasks | learning rate | kept | validation at first | of the kept |",
        "|---" * 7 + "|",
    ]
    lines += [training_line(origin) for origin in line_of(record["training"])]
    return "\n".join(lines) + "\n"


def line_of(origin: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Trainings that led to an agent, the first one first."""
    return [] if origin is None else [*line_of(origin["parent"]), origin]


def training_line(origin: Mapping[str, Any]) -> str:
    """One training; ratios are on its own validation batches."""
    options = origin["options"]
    algo = options["algo"]
    return (
        f"| {origin['steps']:,} | {options['epochs']} | {options['tasks']} | {algo['lr']:g} to {algo['lr_end']:g} "
        f"| {origin['kept']} | {origin['start_ratio']:.4f} | {origin['validation_ratio']:.4f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--policy", default=POLICY)
    policy = parser.parse_args().policy
    rows: list[dict[str, Any]] = []
    gains = []
    found, far = cases()
    for case in found:
        ratios = {}
        for name, planner in planners(policy, case.window).items():
            ratios[name], ms = judge(case, planner)
            rows.append({"case": case.name, "planner": name, "ratio": float(ratios[name].mean()), "ms": round(ms, 1)})
        for played in ("greedy", *(f"best of {k} drawn" for k in SAMPLES)):
            change = ratios[f"agent, {played}"] - ratios[f"prior, {played}"]
            if len(change) > 1:
                low, high = bootstrap_ci(change)
                gains.append(
                    {"case": case.name, "played": played, "change": float(change.mean()), "low": low, "high": high}
                )
    for published, by_family in PUBLISHED.items():
        rows += [
            {"case": f"recorded {family}", "planner": published, "ratio": ratio}
            for family, ratio in zip(FAMILIES, by_family, strict=True)
        ]
    rows += [{"case": name, "planner": "recorded: FAR, these 50", "ratio": ratio} for name, ratio in far.items()]
    bound = area_bound(found[-1].batches[0], ("A30",))
    rows.append({"case": found[-1].name, "planner": "published: FAR", "ratio": RODINIA_FAR_S / bound})
    record = {
        "command": COMMAND,
        "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}",
        "policy": policy.name,
        "training": load(policy).origin,
        "planners": list(planners(policy, None)),
        "steps_per_s": round(steps_per_second()),
        "rows": rows,
        "gains": gains,
    }
    OUT.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    OUT.with_suffix(".md").write_text(report(record))


if __name__ == "__main__":
    main()
