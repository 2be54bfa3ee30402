"""``python -m rltune.slurm [release|prolog|epilog]``."""

from __future__ import annotations

import sys
from typing import Any

from rltune.entry import run_main

FOOTER = """Further commands:
  python -m rltune.slurm release          give back what an earlier run left in Slurm, and end
  python -m rltune.slurm prolog spec=...  Prolog of slurmd: the node's MIG instances are as the spec says, or the job does not start
  python -m rltune.slurm epilog spec=...  Epilog of slurmd: a drained node without jobs gets the instances of the spec
docs/howto/slurm.md tells how to run it, what each depth does, and the traps."""


def main() -> None:
    """Hand over to a command."""
    # Each command loads what it needs: prologs run before every job, and need neither kernels nor PyTorch.
    command = next((word for word in sys.argv[1:] if word in ("release", "prolog", "epilog")), "")
    if command:
        sys.argv.remove(command)
    if command in ("prolog", "epilog"):
        from rltune.config.slurm import SlurmMig

        run_main(_prolog if command == "prolog" else _epilog, SlurmMig)
        return
    from rltune.config.slurm import BesideSlurm

    run_main(_release if command == "release" else _run, BesideSlurm, FOOTER)


def _run(cfg: dict[str, Any]) -> None:
    from rltune.slurm.service import run

    run(cfg)


def _release(cfg: dict[str, Any]) -> None:
    from rltune.slurm.service import release

    release(cfg)


def _prolog(cfg: dict[str, Any]) -> None:
    from rltune.slurm.partitions import prolog

    prolog(cfg)


def _epilog(cfg: dict[str, Any]) -> None:
    from rltune.slurm.partitions import epilog

    epilog(cfg)
