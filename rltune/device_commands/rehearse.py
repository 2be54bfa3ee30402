"""``python -m rltune.devices rehearse RUN_DIRECTORY``: the MIG slices of a simulation on simulated GPUs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd

from rltune.devices.rehearsal import Kind, Rehearsal, rehearse
from rltune.nouns.cluster import Cluster
from rltune.nouns.errors import InputError

SHOWN = 20
"""Refusals printed; all are counted, and ``--json`` has all."""
HOUR_S = 3600.0
WIDTH = 100
"""Least width of the table: a pipe or a narrow terminal would break its heads."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("directory", metavar="RUN_DIRECTORY", help="what python -m rltune.simulate left")
    parser.add_argument("--json", action="store_true", help="everything as JSON, for programs")


def run(args: argparse.Namespace) -> int:
    """Rehearse and print; 1 where a device refused something. No device is needed."""
    folder = Path(args.directory)
    done = rehearse(*read_run(folder))
    if args.json:
        print(json.dumps(_as_json(done), indent=1))
    else:
        _print(done)
    return int(bool(done.refusals))


def read_run(folder: Path) -> tuple[pd.DataFrame, Cluster]:
    """Schedule and cluster of a run directory; InputError where it is none."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        cluster = summary["cluster"]
        schedule = pd.read_parquet(folder / "runs.parquet")
    except (OSError, ValueError, LookupError, TypeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        raise InputError(f"{folder}: no run of rltune.simulate ({why}); give its run directory") from None
    return schedule, Cluster.from_spec({"name": cluster["name"], "pools": cluster["pools"]})


def _as_json(done: Rehearsal) -> dict[str, Any]:
    kinds = [
        {"gpu_type": model, "profile": profile} | vars(kind) for (model, profile), kind in done.kinds.items()
    ]  # fmt: skip
    total = vars(done.total)
    return {
        "gpus": done.gpus,
        "skipped": dict(done.skipped),
        "kinds": kinds,
        "total": total | {"overhead": done.overhead if total["run_s"] else None},
        "refusals": [one._asdict() for one in done.refusals],
    }


def _print(done: Rehearsal) -> None:
    # Rich takes a while to load, and --json does without.
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, WIDTH)
    table = Table(title=f"MIG slices on {done.gpus:,} simulated GPUs", title_justify="left", box=SIMPLE_HEAD)
    for column in ("GPU type", "profile"):
        table.add_column(column)
    for column in ("created", "destroyed", "creation s", "destruction s", "held h", "share of held"):
        table.add_column(column, justify="right")
    for (model, profile), kind in done.kinds.items():
        table.add_row(model, profile, *_cells(kind))
    table.add_section()
    table.add_row("all", "", *_cells(done.total))
    console.print(table)
    skipped = ", ".join(f"{count:,} with {what}" for what, count in sorted(done.skipped.items()))
    console.print(f"runs that need no instance: {skipped or 'none'}", markup=False)
    console.print(f"refused: {len(done.refusals):,}", markup=False)
    for one in done.refusals[:SHOWN]:
        line = f"  job {one.job}: {one.action} {one.profile}@{one.start} on {one.gpu} at {one.at_s:g} s: {one.status}"
        console.print(line, markup=False)
    if len(done.refusals) > SHOWN:
        console.print(f"  and {len(done.refusals) - SHOWN:,} more (--json lists all)", markup=False)


def _cells(kind: Kind) -> tuple[str, ...]:
    charged = kind.create_s + kind.destroy_s
    share = f"{charged / kind.run_s:.4%}" if kind.run_s else "-"
    return (
        f"{kind.created:,}", f"{kind.destroyed:,}", f"{kind.create_s:,.1f}", f"{kind.destroy_s:,.1f}",
        f"{kind.run_s / HOUR_S:,.1f}", share,
    )  # fmt: skip
