"""``python -m rltune.compare RUN_DIR...``: runs side by side, with paired intervals: simulations, evaluations, trainings, sweeps."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rltune.experiment.comparison import by_jobs, comparison, figure_table, find_runs, read_run
from rltune.experiment.outcomes import is_judged, judged_groups
from rltune.nouns.errors import InputError
from rltune.report.comparison import comparison_lines, judged_lines, print_comparison, print_judged
from rltune.report.console import say
from rltune.report.figures import what_if_figure
from rltune.rundir import SCHEMA_VERSION, RunDirectory, remove_left_behind


def main(argv: Sequence[str] | None = None) -> int:
    """Compare; 0, or 2 with one line on standard error for bad input."""
    parser = argparse.ArgumentParser(prog="python -m rltune.compare", description=__doc__)
    parser.add_argument("paths", metavar="RUN_DIR", nargs="+", type=Path, help="runs, or folders of runs (sweeps)")
    parser.add_argument("--runs", default="runs", help="where the directory of the comparison goes (default: runs)")
    parser.add_argument("--name", help="of that directory")
    parser.add_argument("--full", action="store_true", help="every figure; without it a table fits 80 columns")
    parser.add_argument(
        "--json", action="store_true", help="what compare.json holds instead of tables (directory: on standard error)"
    )
    parser.add_argument(
        "--remove-partial",
        action="store_true",
        help="first remove the hidden directories that killed runs left in RUNS",
    )
    arguments = parser.parse_args(argv)
    try:
        if arguments.remove_partial:
            remove_left_behind(arguments.runs)
        made = compare(arguments.paths, arguments.runs, arguments.name, arguments.full, arguments.json)
        print(made, file=sys.stderr if arguments.json else sys.stdout, flush=True)
    except InputError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


def compare(
    paths: Sequence[Path], runs: str = "runs", name: str | None = None, full: bool = False, as_json: bool = False
) -> str:
    """Write compare.md, compare.json and figures, and print tables (``full``: every column) or ``as_json``; returns their directory."""
    directories = find_runs(paths)
    simulated = by_jobs([read_run(path) for path in directories if not is_judged(path)])
    judged, remarks = judged_groups([path for path in directories if is_judged(path)])
    if (rows := sum(map(len, simulated)) + sum(len(group["rows"]) for group in judged)) < 2:
        told = "".join(f"; {remark}" for remark in remarks)
        raise InputError(f"{', '.join(map(str, paths))}: {rows} row; at least 2 are needed to compare{told}")
    found: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "command": "compare"}
    found |= {"simulations": [comparison(group) for group in simulated], "judged": judged, "remarks": remarks}
    if len(simulated) == 1:
        # What a comparison of simulations of the same jobs has always held.
        found = {**found["simulations"][0], **found, "remarks": [*found["simulations"][0]["remarks"], *remarks]}
    with RunDirectory(runs, name or f"compare-{datetime.now():%m%d-%H%M%S}") as out:
        out.write_json("compare.json", found)
        lines: list[str] = []
        for k, group in enumerate(found["simulations"]):
            title = f"{group['trace']['label']}: {group['trace']['jobs']:,} jobs"
            lines += [*comparison_lines(group, title), ""]
            what_if_figure(figure_table(group), out.file(f"compare{f'-{k + 1}' * bool(k)}.png"), title)
            if not as_json:
                print_comparison(group, title, full)
        for group in judged:
            lines += [*judged_lines(group), ""]
            if not as_json:
                print_judged(group)
        out.write_text("compare.md", "\n".join(lines))
        for remark in remarks:
            say(f"note: {remark}")
        if as_json:
            print(json.dumps(found, indent=1))
    return str(out.final)


if __name__ == "__main__":
    sys.exit(main())
