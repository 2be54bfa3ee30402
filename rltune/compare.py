"""``python -m rltune.compare RUN_DIR...``: simulations side by side, each against the first, with paired intervals."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rltune.experiment.comparison import check_same_trace, comparison, figure_table, find_runs, read_run
from rltune.nouns.errors import InputError
from rltune.report.comparison import comparison_lines, print_comparison
from rltune.report.figures import what_if_figure
from rltune.rundir import RunDirectory, remove_left_behind


def main(argv: Sequence[str] | None = None) -> int:
    """Compare; 0, or 2 with one line on standard error for bad input."""
    parser = argparse.ArgumentParser(prog="python -m rltune.compare", description=__doc__)
    parser.add_argument("paths", metavar="RUN_DIR", nargs="+", type=Path, help="runs, or folders of runs (a sweep)")
    parser.add_argument("--runs", default="runs", help="where the directory of the comparison goes (default: runs)")
    parser.add_argument("--name", help="of that directory")
    parser.add_argument(
        "--remove-partial",
        action="store_true",
        help="first remove the hidden directories that killed runs left in RUNS",
    )
    arguments = parser.parse_args(argv)
    try:
        if arguments.remove_partial:
            remove_left_behind(arguments.runs)
        print(compare(arguments.paths, arguments.runs, arguments.name), flush=True)
    except InputError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


def compare(paths: Sequence[Path], runs: str = "runs", name: str | None = None) -> str:
    """Write compare.md, compare.json and compare.png; returns their directory."""
    chosen = [read_run(path) for path in find_runs(paths)]
    if len(chosen) < 2:
        raise InputError(f"{', '.join(map(str, paths))}: {len(chosen)} simulation; at least 2 are needed to compare")
    check_same_trace(chosen)
    label = chosen[0].summary["trace"]["label"]
    with RunDirectory(runs, name or f"compare-{datetime.now():%m%d-%H%M%S}") as out:
        found = comparison(chosen)
        title = f"{label}: {chosen[0].summary['trace']['jobs']:,} jobs"
        out.write_json("compare.json", found)
        out.write_text("compare.md", "\n".join(comparison_lines(found, title)) + "\n")
        what_if_figure(figure_table(found), out.file("compare.png"), title)
        print_comparison(found, title)
    return str(out.final)


if __name__ == "__main__":
    sys.exit(main())
