"""The options of `rltune.train`, `rltune.evaluate` and `rltune.simulate`, each declared once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from rltune.config.declare import default_of, defaults, group, option, part
from rltune.config.learning import AGENTS, VISIBLE, NetworkConfig, SteeringConfig
from rltune.core.state import BACKFILLS
from rltune.nouns.metrics import SCORE_METRIC
from rltune.policies.knowledge import RUNTIMES, SIMULATED
from rltune.simulator.guard import Guard
from rltune.simulator.options import Options
from rltune.simulator.run import OVERSIZED, TRAINED, simulate_jobs


def simulation_options(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the simulation that are not at their defaults, as plain values; with any of them it needs the full build."""
    usual = defaults(Options)
    changed = {name: value for name, value in cfg["options"].items() if value != usual[name]}
    return changed if cfg["throughput"]["name"] == "none" else changed | {"speed": dict(cfg["throughput"])}


TIMED = ("exact", "predicted")
"""What heuristics that need run times may know of them in an evaluation."""


@dataclass
class Common:
    """What every command has."""

    trace: Any = option(
        None, "trace=helios (or rltune_helios, philly, alibaba, synthetic, file trace.path=jobs.csv, ...)"
    )
    cluster: str = group("auto", "machines; auto: the trace's own")
    throughput: str = group("none", "speeds by GPU type")
    oversized: str = option("refuse", "jobs that no idle pool can hold; drop: counted as unfinished", choices=OVERSIZED)
    seed: int = option(0, least=0)
    name: Any = option(None, "of the run directory; null: made of the options")
    runs: str = option("runs", "where run directories go")
    sweep: str | None = option(
        None, "of a multirun (-m): its folder; one that is there is gone on with; null: a new one in runs"
    )
    remove_partial: bool = option(False, "first remove the hidden directories that killed runs left there")
    progress: bool = option(
        True, "progress on standard error: a line that is written over; in a file one after 10 s, then every 30 s"
    )
    options: Any = part(
        Options,
        "what goes beyond the order: costs, quanta, failures, sizes over time; of evaluate: as its checkpoint was trained",
        without=("speed", "seed", "past_jobs"),
    )


@dataclass
class Guarding(Common):
    """What commands have that let learned policies decide."""

    guard: bool = option(
        False, "learned policies decide only while a shadow simulation of the present state says that they do no worse than their "
        "baseline and shadow.rule; else the baseline does",
    )  # fmt: skip
    shadow: Any = part(Guard, "of guard=true: how far shadows look ahead, how long a verdict holds, the further rule")


@dataclass
class Scored(Common):
    """What training and evaluation share."""

    allocator: str = group("milp", "what chooses the nodes")
    protocol: str = group("window", "windows on an empty cluster, or a month on a warm one")
    score: str = option("wait", "what is trained for, and what tables are sorted by", choices=tuple(SCORE_METRIC))
    nodes: int | Sequence[int] | None = option(
        None,
        "scale the cluster to this number of nodes; a list: evaluate each size",
        least=1,
        needs="a whole number of at least 1, or a list of them, is needed",
    )


@dataclass
class Train(Scored):
    """python -m rltune.train trace=helios score=wait algo=ppo ..."""

    algo: str = group("ppo", "the learner")
    agent: str = option(
        "pick",
        "pick: it picks the jobs that start; index: it sets parameters of order and market, a round at a time (algo=ppo or cma)",
        choices=tuple(AGENTS),
    )
    backfill: str = option(
        "easy", "which jobs may start when the first does not fit; easy: those that do not delay its reservation", choices=tuple(TRAINED)
    )  # fmt: skip
    baseline: str = option(
        "auto",
        "the policy that the agent corrects: an order, or one that suspends (srsf, las, gittins, ...); auto: the best "
        "order before the test stretch",
    )
    runtimes: str = option("exact", "what is known of run times", choices=RUNTIMES)
    epochs: int = option(100, least=1)
    windows_per_epoch: int = option(32, "environment steps an epoch = windows_per_epoch x protocol.window", least=1)
    rounds_per_epoch: int = option(1024, "environment steps an epoch of agent=index, each a round", least=1)
    visible: int = option(VISIBLE, "jobs the agent sees", least=1)
    validate_every: int = option(
        5, "epochs; a policy is kept only if clearly better (paired 95 %) than its baseline order", least=1
    )
    validation_windows: int = option(
        128, "at most; they do not overlap (the month protocol validates on the whole stretch)", least=2
    )
    network: Any = part(NetworkConfig, "of agent=pick", without=("visible",))
    steering: Any = part(SteeringConfig, "of agent=index")
    checkpoint_every: int = option(
        5, "epochs; a run that is killed loses at most the epochs since (one that is interrupted, none that is complete)", least=1
    )  # fmt: skip
    resume: str | None = option(
        None, "run to go on with: a finished one for `epochs` more, one that was cut off until it has its `epochs`"
    )
    checkpoint: str | None = option(
        None, "policy to fine-tune: a policy.safetensors, a run directory or a shipped model"
    )
    track: str | Sequence[str] | None = option(
        None, "wandb | mlflow, or a list: the curve there too (TensorBoard's files are always written)",
        needs="wandb, mlflow, a list of them, or null is needed",
    )  # fmt: skip
    evaluate: bool = option(True, "end with the table on the test stretch")


@dataclass
class Evaluate(Scored, Guarding):
    """python -m rltune.evaluate trace=helios checkpoint=runs/..."""

    checkpoint: str | Sequence[str] | None = option(
        None, "a policy, file, run directory or shipped model (or [several seeds of one]); null: heuristics alone",
        needs="a text or a list of texts is needed, e.g. runs/NAME",
    )  # fmt: skip
    windows: int | Sequence[int] = option(
        64, "test windows, evenly spaced; or a list of first jobs",
        needs="a whole number of at least 1 or a list of first jobs is needed",
    )  # fmt: skip
    policy: str | Sequence[str] = option(
        "all", "heuristic orders beside the checkpoint: all, or a list; a shipped model among them is judged as a checkpoint",
        needs="a text or a list of texts is needed, e.g. [fifo,sjf]",
    )  # fmt: skip
    backfill: str | Sequence[str] = option(
        list(TRAINED), "of the heuristics; a checkpoint keeps its own", choices=tuple(TRAINED)
    )
    runtimes: str | Sequence[str] = option(
        list(TIMED), "what heuristics that need run times know of them", choices=TIMED
    )


@dataclass
class Simulate(Guarding):
    """python -m rltune.simulate trace=philly policy=sjf allocator=best_fit backfill=easy ..."""

    allocator: str = group("best_fit", "what chooses the nodes")
    policy: str = option(
        default_of(simulate_jobs, "policy"),
        "an order (fifo, sjf, f1, ...) or srtf, srsf, las, las_levels, gittins, priority, round_robin, "
        "lottery, wfq, fair_user, fair_vc, or a learned policy: a shipped model by name (python -m rltune.models), a file or run directory",
    )
    backfill: str = option(
        default_of(simulate_jobs, "backfill"),
        "which jobs may start when the first does not fit",
        choices=tuple(BACKFILLS),
    )
    runtimes: str = option(default_of(simulate_jobs, "runtimes"), "what is known of run times", choices=SIMULATED)
    begin: str | int | float | date | None = option(
        None,
        "stretch of the trace: dates, job numbers, or fractions of the jobs (0.75); null: from the first",
        needs="a date, a job number, a fraction of the jobs or null is needed",
    )
    end: str | int | float | date | None = option(
        None, "exclusive; null: to the last", needs="a date, a job number, a fraction of the jobs or null is needed"
    )
    limit: int | None = option(None, "only this number of jobs, the first of the stretch", least=1)
    nodes: int | None = option(None, "scale the cluster to this number of nodes", least=1)
    step_s: float | None = option(
        None,
        "seconds of a step in timeline.parquet; null: the shortest of a list with at most 2,000 steps",
        above=0,
        needs="a number of seconds above 0, or null, is needed",
    )
    decisions: bool = option(
        default_of(simulate_jobs, "decisions"),
        "write down what was decided when, and by what, for python -m rltune.inspect: decisions.parquet, milp.parquet",
    )
    export: str | Sequence[str] = option(
        [], "of the schedule: [csv, parquet, chrome] (chrome: trace.json, for chrome://tracing or Perfetto)"
    )
