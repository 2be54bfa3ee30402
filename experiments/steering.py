"""What setting the market's and the index's parameters by the state is worth: ``python experiments/steering.py`` (RLTUNE_TRACES set).

World, cluster, classes and speeds as in experiments/hybrid.py: Helios on ``mixed``, run times unknown, suspension 60 s, Gittins
order, ways by the market, FGD. An agent in index form is trained on April to July (each month at loads .83 and .98), kept or not
by August, and tested on September: PPO against its own start, which is the baseline schedule for schedule, and CMA-ES over
constants on the same stretches. ``last`` is the network at the end of the training, whether August kept it or not.

Writes results/steering.{json,md}; ``--train NAME`` trains one (``ppo 0``, ``cma 0``) into FOLDER, ``--test`` reads them all,
``--report`` writes the tables anew.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from hybrid import CLUSTER, LOADS, ORDERS, PLACES, World, days_of, first_row, gain, run, sums_by_day, world

import rltune
from rltune.config.choices import node
from rltune.config.learning import SteeringConfig
from rltune.nouns.jobs import JobTable
from rltune.rl.env import JoinedEnv
from rltune.rl.policy_file import SteeringPolicy, load_policy, save_policy
from rltune.rl.rllib import start_ray
from rltune.rl.rules import Rules, Setup, make_setup
from rltune.rl.runtime import tune
from rltune.rl.steering.env import VectorSteeringEnv
from rltune.rl.steering.rollout import play_rounds
from rltune.rl.steering.search import ConstantSearch
from rltune.rl.training import Judged, Outcome, Rllib, Validator, build, start_of, train_epochs
from rltune.traces import Trace

RESULTS = Path(__file__).resolve().parent / "results"
COMMAND = "RLTUNE_TRACES=... OMP_NUM_THREADS=1 python experiments/steering.py"
MONTHS = ("2020-04-01", "2020-05-01", "2020-06-01", "2020-07-01", "2020-08-01", "2020-09-01")
TRAINING, VALIDATION = range(4), 4
WINDOW, WARMUP = 2500, 1500
"""Jobs of an episode, about three days, and those before it."""
DRAWS = (0, 1, 2)
"""Seeds of the classes of September's jobs; those of other months are `DRAWN` and their number."""
DRAWN = 100
YEAR_S = 364 * 86400.0
"""Months of the training are put so much later, in whole weeks, that jobs of later months may count as their past."""
STEERING = SteeringConfig()
TRAINED = ("ppo 0", "ppo 1", "ppo 2", "cma 0")
ALL_LAST = "ppo, mean of all seeds, last"
EPOCHS = {"ppo": 30, "cma": 8}
ROUNDS_PER_EPOCH = 4096
VALIDATE_EVERY = 5
PPO = {"gamma": 0.97, "lambda": 0.9, "lr": 3e-4, "lr_end": 1e-4, "minibatch": 512}
"""What a setting does shows within hours; later rewards are noise to it. With the defaults (nothing discounted, lr 1e-3) a run
that is not kept, in a world whose jobs were all of one class by mistake, wandered between 0.8 % better and 0.7 % worse than its
start in August, in 30 epochs of 2,048 rounds."""


@dataclass(frozen=True)
class ByDay(Judged):
    """A whole stretch, judged by day of submission in the log: the same days at every load."""

    days: Any = None

    def units(self, network: Any) -> Any:
        """(n_days,) minus the mean JCT, weighted so that their mean is that of all jobs."""
        cost = play_rounds(self.setup, network, self.first_jobs).results[0].scores()["jct_s"]
        sums = np.bincount(self.days, cost)
        return -sums * len(sums) / len(cost)


def rules_of(past: JobTable, draw: int, **more: Any) -> Rules:
    """Those of hybrid.py's ``gittins / market``."""
    speed = {"name": "gavel", "missing": "assumed", "reference": None, "draw": draw}
    options = {"ways": "mig_profiles", "way_rule": "market", "resume_s": 60.0, "speed": speed, "past_jobs": past}
    return Rules(
        score="jct", backfill="skip", baseline="gittins", allocator="fgd", runtimes="unknown", visible=1, options=options, **more
    )  # fmt: skip


def month(trace: rltune.Trace, k: int, load: float) -> tuple[World, Any]:
    """Month k at a load, and the day of the log on which each of its jobs was submitted."""
    rows = (first_row(trace, MONTHS[k]), first_row(trace, MONTHS[k + 1]))
    setting = world(f"helios {MONTHS[k][:7]}", trace, (0, *rows), DRAWN + k, load, False)
    submit = dict(zip(trace.jobs.job_id[slice(*rows)], trace.jobs.submit_s[slice(*rows)], strict=True))
    days = np.array([submit[job] for job in setting.jobs.job_id]) // 86400
    return setting, (days - days.min()).astype(np.int64)


def setup_of(setting: World, past: JobTable, **more: Any) -> Setup:
    """A world as environments take it."""
    trace = Trace.of(setting.jobs, name="helios", source=setting.source)
    return make_setup(trace, CLUSTER, rules_of(past, setting.seed, **more))


def training(trace: rltune.Trace) -> list[Setup]:
    """Each month of the training at each load; Gittins indices come from the other three."""
    bounds = [first_row(trace, MONTHS[k]) for k in (*TRAINING, VALIDATION)]
    setups = []
    for k in TRAINING:
        others = np.r_[bounds[0] : bounds[k], bounds[k + 1] : bounds[-1]]
        for load in LOADS:
            setting, _ = month(trace, k, load)
            later = replace(setting.jobs, submit_s=setting.jobs.submit_s + YEAR_S)
            setting = replace(setting, jobs=later)
            more = {"window": WINDOW, "warmup": WARMUP, "reward": "relative"}
            setups.append(setup_of(setting, trace.jobs.take(others), **more))
    return setups


def validation(trace: rltune.Trace) -> Validator:
    """August at each load."""
    judged = []
    for load in LOADS:
        setting, days = month(trace, VALIDATION, load)
        judged.append(ByDay(setup_of(setting, setting.past, window=len(setting.jobs)), [0], days=days))
    return Validator(judged, STEERING)


def train(name: str, folder: Path) -> None:
    """Train one policy; leaves what August kept, the last one, and how it went."""
    begun, trace = time.perf_counter(), rltune.load_trace("helios")
    algo, seed = name.split()
    options = node("algo", algo)
    setups, validator = training(trace), validation(trace)
    if algo == "cma":
        learner: Any = ConstantSearch(setups, STEERING, options | {"windows": 2, "envs": 2}, int(seed))
    else:
        start_ray()
        options |= PPO | {"envs": len(setups), "lr_steps": EPOCHS[algo] * ROUNDS_PER_EPOCH}

        def vector_env(_: Any) -> JoinedEnv:
            return JoinedEnv([VectorSteeringEnv(setup, 1, round_s=STEERING.round_s) for setup in setups])

        learner = Rllib(build(options, vector_env, STEERING, ROUNDS_PER_EPOCH, int(seed)))
    outcome = start_of(learner.network, validator, None, "")

    def on_epoch(outcome: Outcome) -> None:
        print(name, json.dumps(outcome.curve.rows[-1]), flush=True)

    train_epochs(learner, validator, EPOCHS[algo], VALIDATE_EVERY, on_epoch, outcome)
    folder.mkdir(parents=True, exist_ok=True)
    origin = {"algo": algo, "seed": int(seed), "kept": outcome.kept, "options": options, "curve": outcome.curve.rows,
              "validation_score": outcome.score, "baseline_score": outcome.baseline_score,
              "seconds": round(time.perf_counter() - begun)}  # fmt: skip
    rules = replace(
        setups[0].rules, reward="score", options={"way_rule": "market", "resume_s": 60.0, "ways": "mig_profiles"}
    )
    for what, network in (("kept", outcome.network), ("last", outcome.average)):
        save_policy(folder / f"{name.replace(' ', '_')}_{what}.safetensors", SteeringPolicy(network, rules, origin))


# --- September ------------------------------------------------------------------------------


def measure(folder: Path) -> list[dict[str, Any]]:
    """Rows: the baseline and every policy on September at each load, for each draw of classes."""
    trace = rltune.load_trace("helios")
    begin = first_row(trace, MONTHS[-1])
    policies: dict[str, Any] = {"baseline": "gittins"}
    for name in TRAINED:
        for what in ("kept", "last"):
            policies[f"{name} {what}"] = load_policy(folder / f"{name.replace(' ', '_')}_{what}.safetensors")
    rows = []
    for load in LOADS:
        for draw in DRAWS:
            setting = world("helios", trace, (0, begin, len(trace)), draw, load, False)
            for name, policy in policies.items():
                found = run(setting, ORDERS["gittins"] | {"policy": policy}, PLACES["market"])
                by_day = sums_by_day(days_of(setting), found.pop("_jct"), found.pop("_wait")).tolist()
                rows.append({"load": load, "draw": draw, "rule": name, **found, "by_day": by_day})
                print(load, draw, name, f"JCT {found['jct_s']:,.1f} s, wait {found['wait_s']:,.1f} s", flush=True)
    return rows


def gains(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """(rule, load) -> gain of mean JCT and of mean wait on the baseline, days of all draws drawn anew."""
    by = {(r["rule"], r["load"], r["draw"]): np.array(r["by_day"]) for r in rows}
    found: dict[str, Any] = {}
    rules = {rule: [rule] for rule in dict.fromkeys(r["rule"] for r in rows if r["rule"] != "baseline")}
    rules[ALL_LAST] = [f"{name} last" for name in TRAINED if name.startswith("ppo")]
    for rule, members in rules.items():
        for load in LOADS:
            ours = [sum(by[one, load, draw] for one in members) / len(members) for draw in DRAWS]
            theirs = [by["baseline", load, draw] for draw in DRAWS]
            found[f"{rule} {100 * load:.0f}"] = {
                what: gain([x[:, [0, k]] for x in ours], [x[:, [0, k]] for x in theirs])
                for k, what in ((1, "jct"), (2, "wait"))
            }
    return found


def told(found: dict[str, float]) -> str:
    return f"{100 * found['gain']:.2f} ({100 * found['low']:.2f} to {100 * found['high']:.2f})"


def text(out: dict[str, Any]) -> str:
    """The tables."""
    lines = [
        "# Setting the market's and the index's parameters by the state", "",
        f"`{out['_about']['command']}`; source: {out['_about']['source']}. Machine: {out['_about']['machine']}.",
        (__doc__ or "").split("\n\n")[1].replace("\n", " "), "",
        "## September, against the baseline (gittins / market)", "",
        "Percent, with 95 % intervals (days of arrival of all draws drawn anew, the same for both).", "",
        "| policy | kept in August | less mean JCT at .83 | at .98 | less mean wait at .83 | at .98 |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for rule in dict.fromkeys(key.rsplit(" ", 1)[0] for key in out["gains"]):
        of = [out["gains"][f"{rule} {100 * load:.0f}"] for load in LOADS]
        kept = "" if rule == ALL_LAST else out["trainings"][rule.rsplit(" ", 1)[0]]["kept"]
        cells = [told(one[what]) for what in ("jct", "wait") for one in of]
        lines.append(f"| {rule} | {kept} | " + " | ".join(cells) + " |")
    lines += ["", "## Trainings", "", "August: gain of mean JCT over both loads, percent, of the last network that was validated.", "",
              "| training | epochs | rounds | August | seconds |", "|---|---|---|---|---|"]  # fmt: skip
    for name, of_one in out["trainings"].items():
        last = of_one["curve"][-1]
        better = 100 * (1 - last["validation_score"] / last["baseline_score"])
        lines.append(f"| {name} | {last['epoch']} | {last['steps']:,} | {better:.2f} | {of_one['seconds']} |")
    lines += ["", "## Means", "", "| policy | load | mean JCT s | mean wait s | p99 wait s |", "|---|---|---|---|---|"]
    for rule in dict.fromkeys(r["rule"] for r in out["rows"]):
        for load in LOADS:
            mine = [r for r in out["rows"] if (r["rule"], r["load"]) == (rule, load)]
            means = [np.mean([r[what] for r in mine]) for what in ("jct_s", "wait_s", "wait_p99_s")]
            lines.append(f"| {rule} | {load:g} | " + " | ".join(f"{x:,.0f}" for x in means) + " |")
    return "\n".join(lines) + "\n"


def write(path: Path, out: dict[str, Any]) -> None:
    path.write_text(json.dumps(out) + "\n")
    path.with_suffix(".md").write_text(text(out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/steering"))
    parser.add_argument("--train", metavar="NAME", choices=TRAINED)
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--report", action="store_true")
    given = parser.parse_args()
    path = RESULTS / "steering.json"
    if given.report:
        out = json.loads(path.read_text())
        write(path, out | {"gains": gains(out["rows"])})
        return
    tune(1)
    for name in [given.train] if given.train else [] if given.test else TRAINED:
        train(name, given.folder)
    if given.train:
        return
    rows = measure(given.folder)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, shared with other work"
    origins = {
        name: load_policy(given.folder / f"{name.replace(' ', '_')}_kept.safetensors").origin for name in TRAINED
    }
    about = {"command": COMMAND, "machine": machine, "source": rltune.load_trace("helios").source, "draws": DRAWS}
    out = {"_about": about, "gains": gains(rows), "trainings": origins, "rows": rows}
    write(path, out)


if __name__ == "__main__":
    main()
