"""``python -m rltune.traces list|describe|convert|fetch``."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from rltune.nouns.asked_slices import load_on, with_profiles
from rltune.nouns.cluster import eligibility
from rltune.nouns.errors import InputError
from rltune.traces import parquet, plain
from rltune.traces.catalog import catalogue
from rltune.traces.fetch import PUBLICATIONS, fetch
from rltune.traces.load import load_trace
from rltune.traces.trace import Trace

WINDOW = 256
"""Jobs of an episode, the default of protocol=window."""
COMMANDS = ("list", "describe", "convert", "fetch")
PIPED_WIDTH = 140
"""Columns of a table that goes to a file or pipe."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0, or 2 with one line on standard error for bad input."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except InputError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rltune.traces", description="What traces are here.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("list", help="every trace by name, and in which form it is here")
    command.set_defaults(run=_list)
    command.add_argument("--json", action="store_true", help="a JSON list instead of a table")
    _folder_option(command)

    command = commands.add_parser("describe", help="counts, rates, types, slices of one trace; its load on a cluster")
    command.set_defaults(run=_describe)
    command.add_argument("trace", metavar="NAME_OR_PATH")
    command.add_argument("--cluster", metavar="NAME_OR_PATH", help="a name of conf/cluster or a YAML file with 'pools'")
    _columns_option(command)
    command.add_argument("--json", action="store_true", help="a JSON object instead of a table")
    _folder_option(command)

    command = commands.add_parser("convert", help="write a trace as .parquet (with provenance) or plain .csv")
    command.set_defaults(run=_convert)
    command.add_argument("trace", metavar="NAME_OR_PATH")
    command.add_argument("out", metavar="OUT", type=Path)
    _columns_option(command)
    _folder_option(command)

    command = commands.add_parser("fetch", help="download a published trace into the traces folder")
    command.set_defaults(run=_fetch)
    command.add_argument("name", metavar="NAME", help=f"one of {', '.join(PUBLICATIONS)}")
    _folder_option(command)
    return parser


def _columns_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--column", action="append", default=[], metavar="OURS=THEIRS",
        help="of a table of your own, where names do not tell: --column submit_s=sent (again for each)",
    )  # fmt: skip


def _loaded(arguments: argparse.Namespace) -> Trace:
    columns = dict(each.partition("=")[::2] for each in arguments.column)
    options: dict[str, Any] = {"columns": columns} if columns else {}
    return load_trace(arguments.trace, folder=arguments.folder, **options)


def _folder_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--folder", help="where traces lie; default $RLTUNE_TRACES, then traces/")


def _list(arguments: argparse.Namespace) -> None:
    entries = catalogue(arguments.folder)
    if arguments.json:
        print(json.dumps([asdict(entry) for entry in entries], indent=2))
        return
    table = Table("trace", "source", "jobs", "what")
    table.columns[2].justify = "right"
    for entry in entries:
        what = f"{entry.what} ({entry.problem})" if entry.source == "unreadable" else entry.what
        jobs = "-" if entry.jobs is None else f"{entry.jobs:,}"
        table.add_row(entry.name, entry.source, jobs, escape(what.replace("``", "")))
    _console().print(table)


def _describe(arguments: argparse.Namespace) -> None:
    trace = _loaded(arguments)
    facts = trace.describe() | _enough(len(trace))
    if arguments.cluster:
        facts |= _on_cluster(trace, arguments.cluster)
    if arguments.json:
        print(json.dumps(facts, indent=2))
        return
    table = Table("figure", "value", title=escape(facts["label"]))
    for key, value in facts.items():
        if isinstance(value, dict):
            text = "  ".join(f"{k}: {v:g}" for k, v in value.items())
        elif isinstance(value, list):
            text = "\n".join(value)
        else:
            text = "-" if value is None else str(value)
        table.add_row(key, escape(text))
    _console().print(table)


def _enough(jobs: int) -> dict[str, object]:
    """What the trace is long enough for, with the stretches of +trace=file (a quarter to test, 15 % to validate)."""
    needs = {"simulate": 1, "evaluate": 4 * WINDOW, "train": math.ceil(WINDOW / 0.15)}
    told = [f"{name}: {'yes' if jobs >= least else f'no, {least:,} jobs are needed'}" for name, least in needs.items()]
    return {"long_enough_for": [*told, f"(windows of {WINDOW} jobs; smaller: protocol.window=64)"]}


def _on_cluster(trace: Trace, name: str) -> dict[str, object]:
    """How much of a cluster the jobs would fill, and how many of them it cannot hold."""
    # Loads the simulator's tables, which no other command here needs.
    from rltune.config import load_cluster

    cluster = load_cluster(name)
    jobs = with_profiles(trace.jobs, cluster)
    load = load_on(jobs, cluster)
    classes = eligibility(jobs, cluster)
    homeless = int((np.diff(classes.ptr) == 0)[classes.cls].sum())
    pools = [
        f"{p.name}: {p.nodes} x {p.gpus_per_node} {p.gpu_type}{' with MIG' if p.mig else ''}" for p in cluster.pools
    ]
    return {
        "cluster": [f"{cluster.name}: {cluster.nodes} nodes, {cluster.gpus:,} GPUs", *pools],
        "load_on_cluster": None if load is None else round(load, 3),
        "jobs_it_cannot_hold": homeless,
    }


def _convert(arguments: argparse.Namespace) -> None:
    writers = {".parquet": parquet.write, ".csv": plain.write}
    write = writers.get(arguments.out.suffix)
    if write is None:
        raise InputError(f"{arguments.out}: cannot write that kind of file; use {' or '.join(writers)}")
    trace = _loaded(arguments)
    write(trace, arguments.out)
    print(f"{arguments.out}: {len(trace):,} jobs of {trace.label} ({trace.source}), sha256 {trace.sha256}")


def _fetch(arguments: argparse.Namespace) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(arguments.name, total=None)
        got = fetch(
            arguments.name,
            arguments.folder,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    if got.verified:
        print(f"sha256 verified: {got.sha256}")
    else:
        print(f"no published checksum known; sha256 of what you got: {got.sha256}")
    for file in got.files:
        print(file)


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=PIPED_WIDTH)


if __name__ == "__main__":
    sys.exit(main())
