"""What deciding costs: ``python experiments/costs.py`` (RLTUNE_TRACES set).

The first jobs of ``heavy_98`` (hybrid.py) arrive so much faster that thousands wait. At instants with about 128 and about 10,000 waiting
jobs one decision is timed, prices and refusals included: who starts, where, in which way, and who is suspended. Beside it what an
agent in index or pick form takes, and one check of a guard. Steps a second of environments and learner are those of ``make bench``
(bench.json), training times those of the shipped models' curves. Writes results/costs.{json,md}.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from hybrid import CLUSTER, first_row, world
from scores import machine

import rltune
from rltune.config.learning import SteeringConfig
from rltune.core.loop import start_here
from rltune.core.state import ALWAYS, QUEUED, Sim
from rltune.rl.network import JobNetwork, NetworkConfig
from rltune.rl.picking import bind
from rltune.rl.steering.deciding import Steering
from rltune.rl.steering.levers import usual_of
from rltune.rl.steering.network import SteeringNetwork
from rltune.simulator.decisions import drive
from rltune.simulator.full import build_state
from rltune.simulator.guard import judge
from rltune.simulator.options import make_options

RESULTS = Path(__file__).resolve().parent / "results"
COMMAND = "RLTUNE_TRACES=... OMP_NUM_THREADS=1 python experiments/costs.py"
SIZES = {128: 1.0, 10_000: 20.0}
"""Waiting jobs, and the aim in milliseconds."""
CROWDS = {128: (4_000, 60.0, 0.0), 10_000: (11_000, 3_000.0, 2.0)}
"""For each: jobs, how many times as fast as in hybrid.py they arrive, and in groups of how many seconds."""
NEAR = 0.1
"""Share by which their number may differ."""
MANY, CHECKS = 200, 3
"""Decisions, and checks of a guard, that are timed of each kind and size, at most."""
BENCH = (
    "env_steps_per_s_helios_x1", "env_full_steps_per_s", "env_full_suspending_steps_per_s", "env_full_milp_steps_per_s", "ppo_steps_per_s",
)  # fmt: skip


class EnoughError(Exception):
    """All decisions have been timed."""


class Timed:
    """Decides by ``decide`` and times it while about ``size`` jobs wait.

    ``before``: what is timed comes before the decision of the kernels, and leaves the state as it is.
    """

    def __init__(self, decide: Callable[[Any], Callable[[Any], object]], size: int, most: int, before: bool) -> None:
        self.decide, self.size, self.most, self.before = decide, size, most, before
        self.taken: list[float] = []
        self.records: list[Any] = []
        self.act: Any = None

    def take(self, state: Any) -> None:
        """One decision."""
        if self.act is None:
            self.act = self.decide(state.value)
        near = abs(int(state.value.counts[QUEUED]) - self.size) <= NEAR * self.size
        if near or not self.before:
            begun = time.perf_counter()
            self.act(state)
            if near:
                self.taken.append(1000 * (time.perf_counter() - begun))
        if self.before:
            start_here(state)
        if len(self.taken) == self.most:
            raise EnoughError


def crowd(size: int) -> Any:
    """Jobs most of which wait together."""
    n, faster, grid = CROWDS[size]
    helios = rltune.load_trace("helios")
    rows = (0, first_row(helios, "2020-09-01"), first_row(helios, "2020-09-08"))
    jobs = world("heavy_98", helios, rows, 0, 0.98, True).jobs.take(slice(0, n))
    submit = (jobs.submit_s - jobs.submit_s[0]) / faster
    return replace(jobs, submit_s=np.floor(submit / grid) * grid if grid else submit)


def timed(size: int, policy: str, backfill: str, decide: Any) -> list[float]:
    """Milliseconds of decisions while about ``size`` jobs wait."""
    jobs, speed = crowd(size), {"name": "gavel", "missing": "assumed", "reference": None, "draw": 0}
    options = make_options({"ways": "mig_profiles", "way_rule": "market", "speed": speed, "resume_s": 60.0})
    known = np.full(len(jobs), np.nan) if backfill == "skip" else jobs.duration_s
    sim = build_state(jobs, CLUSTER, policy, backfill, "fgd", known, options, decide is pick_form).sim
    watch = Timed(decide, size, CHECKS if decide is guard else MANY, decide is guard)
    with contextlib.suppress(EnoughError):
        drive(sim._replace(params=sim.params._replace(outside=ALWAYS)), watch)
    return watch.taken


def kernels(sim: Sim) -> Callable[[Any], object]:
    """The rule itself."""
    return start_here


def index_form(sim: Sim) -> Callable[[Any], object]:
    """An untrained agent that looks and sets its levers anew at every decision."""
    steering = Steering(SteeringNetwork(SteeringConfig()).eval(), usual_of(sim))

    def act(state: Any) -> None:
        steering.exchange(steering.network)
        steering.take(state)

    return act


def pick_form(sim: Sim) -> Callable[[Any], object]:
    """An untrained agent that picks jobs until it waits."""
    return bind(JobNetwork(NetworkConfig()), sim).take


def guard(sim: Sim) -> Callable[[Any], object]:
    """One check for an agent in index form, two hours ahead."""
    usual, network = usual_of(sim), SteeringNetwork(SteeringConfig()).eval()

    def act(state: Any) -> None:
        rng = np.random.default_rng(0)
        judge(state.value, lambda made: Steering(network, usual), ("gittins", "las"), "jct", 7200.0, rng)

    return act


CASES: dict[str, Any] = {
    "gittins, market": ("gittins", "skip", kernels),
    "las, market": ("las", "skip", kernels),
    "fifo, market": ("fifo", "skip", kernels),
    "fifo with EASY, market": ("fifo", "easy", kernels),
    "index form over gittins, market": ("gittins", "skip", index_form),
    "pick form over gittins, market": ("gittins", "skip", pick_form),
    "guard: a check, index form": ("gittins", "skip", guard),
}


def measure() -> list[dict[str, Any]]:
    """A row for each case and size."""
    rows = []
    for name, (policy, backfill, decide) in CASES.items():
        for size, aim in SIZES.items() if decide is not guard else [(min(SIZES), 0.0)]:
            values = timed(size, policy, backfill, decide)
            middle, high = np.percentile(values, (50, 95))
            row = {"case": name, "waiting": size, "n": len(values), "median_ms": float(middle), "p95_ms": float(high)}
            rows.append(row | {"aim_ms": None if decide is guard else aim})
            print(rows[-1], flush=True)
    return rows


def training_times() -> dict[str, float]:
    """Seconds of each shipped model's training, from its curve."""
    found = {}
    for path in sorted((RESULTS / "training").glob("*.curve.csv")):
        last = list(csv.DictReader(path.open()))[-1]
        if "wall_s" in last:
            found[path.name.removesuffix(".curve.csv")] = float(last["wall_s"])
    return found


def text(out: dict[str, Any]) -> str:
    """The tables."""
    about = out["_about"]
    lines = [
        "# What deciding costs", "",
        f"`{about['command']}`; real Helios log, cluster `mixed` (448 GPUs, FGD, MIG); machine: {about['machine']}, other work beside.", "",
        "| one decision | waiting jobs | median, ms | p95, ms | aim, ms | n |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for r in out["decisions"]:
        aim = "-" if r["aim_ms"] is None else f"{r['aim_ms']:g}"
        lines.append(
            f"| {r['case']} | {r['waiting']:,} | {r['median_ms']:.2f} | {r['p95_ms']:.2f} | {aim} | {r['n']} |"
        )
    lines += ["", "| `make bench` | steps a second |", "|---|---|"]
    lines += [f"| {name} | {value:,.0f} |" for name, value in out["steps_per_s"].items()]
    lines += ["", "| training | minutes on two cores |", "|---|---|"]
    lines += [f"| {name} | {seconds / 60:.1f} |" for name, seconds in out["training_s"].items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    bench = {row["name"]: row["value"] for row in json.loads((RESULTS.parent / "bench.json").read_text())}
    out = {
        "_about": {"command": COMMAND, "machine": machine(), "source": "real"},
        "decisions": measure(), "steps_per_s": {name: bench[name] for name in BENCH if name in bench}, "training_s": training_times(),
    }  # fmt: skip
    (RESULTS / "costs.json").write_text(json.dumps(out, indent=1) + "\n")
    (RESULTS / "costs.md").write_text(text(out))


if __name__ == "__main__":
    main()
