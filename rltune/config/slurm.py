"""The options of `rltune.slurm`, each declared once."""

from __future__ import annotations

from dataclasses import dataclass

from rltune.config.declare import default_of, group, option
from rltune.core.state import BACKFILLS
from rltune.simulator.run import TRAINED, simulate_jobs

DEPTHS = {
    "advise": "prints who is next, where and why, and changes nothing",
    "priority": "gives Slurm priorities in our order; Slurm starts and places",
    "place": "holds jobs, names the nodes of those that start, and releases them",
}
BACKFILL = tuple(name for name in TRAINED if name in BACKFILLS)


@dataclass
class BesideSlurm:
    """python -m rltune.slurm depth=advise policy=sjf allocator=milp partition=gpu once=true"""

    depth: str = option("advise", "; ".join(f"{name}: {does}" for name, does in DEPTHS.items()), choices=tuple(DEPTHS))
    partition: str | None = option(None, "whose jobs are decided on, and no others; null: the default one")
    policy: str = option(
        default_of(simulate_jobs, "policy"),
        "an order (fifo, sjf, f1, wfp3, ...), priority (Slurm's own), fair_user, fair_vc (by account), or a learned policy: a shipped "
        "model by name, a file or run directory",
    )
    allocator: str = group("best_fit", "what chooses the nodes: a rule for whole GPUs, or milp")
    backfill: str = option(
        "easy", "which jobs may start when the first does not fit; a learned policy has its own", choices=BACKFILL
    )
    runtimes: str = option(
        "requested", "what run times are taken to be: requested: the time limits; predicted: learned from jobs that ended while this ran",
        choices=("requested", "predicted"),
    )  # fmt: skip
    once: bool = option(
        False,
        "one look, one decision, then the end; what it changed stays, for the next once=true to go on with, or until `release`",
    )
    every_s: float = option(30.0, "seconds between decisions where nothing changes", above=0)
    poll_s: float = option(
        1.0,
        "seconds between looks at the queue for jobs that came, began or ended, each of which brings a decision",
        above=0,
    )
    most: int = option(500, "jobs that are decided on, the first by submission; the others wait behind them", least=1)
    patience_s: float = option(
        30.0, "depth=place: seconds after which a job that Slurm does not start on its nodes is held again", above=0
    )
    priority_from: int | None = option(
        None, "depth=priority: all priorities given are above it; null: the highest that Slurm gave at the first look",
        least=0, most=2_000_000_000,
    )  # fmt: skip
    state: str | None = option(
        None,
        "file that remembers what was changed; null: slurm-PARTITION.json in RLTUNE_STATE, else /var/lib/rltune of root",
    )
    log: str | None = option(None, "JSON lines, a decision each; null: beside the state, ending in .jsonl")
    command_timeout_s: float = option(30.0, "seconds that a command of Slurm may take", above=0)


@dataclass
class SlurmMig:
    """python -m rltune.slurm prolog|epilog spec=mig.yaml device=nvml"""

    spec: str | None = option(
        None, "desired MIG instances of this node: ours or mig-parted's YAML (docs/howto/mig_server.md)"
    )
    config: str | None = option(None, "which configuration of mig-parted's file")
    device: str = option("nvml", "nvml, or a rehearsal: simulated:2xa100-80gb")
    pace: float = option(1.0, "simulated: share of the documented seconds that changes take", least=0)
    mig_mode: bool = option(False, "MIG modes may be turned on or off where the spec says so")
    patience_s: float = option(5.0, "seconds to wait in all for what is in use", least=0)
    locks: str | None = option(None, "folder of the GPUs' locks; null: the usual one")
    node: str | None = option(None, "name of this node in Slurm; null: as slurmd tells (SLURMD_NODENAME)")
    resume: bool = option(False, "epilog: a drained node whose GPUs are as the spec says goes back to service")
    command_timeout_s: float = option(30.0, "seconds that a command of Slurm may take", above=0)
