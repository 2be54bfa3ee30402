"""Shipped models and all rules on five traces, or run directories of one's own, as one page with figures and tables.

Without RUN_DIR the scenes of conf/report.yaml are run (quick; --full: all of each) and kept, so that the same command goes
on where it was.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from tempfile import mkdtemp

import rltune
from rltune.experiment.comparison import find_runs
from rltune.experiment.scenes import Told, run_curve, scenes_of, shipped_curves
from rltune.nouns.errors import InputError, Interrupted
from rltune.report.console import progress_bar, say
from rltune.report.page.scene import Page
from rltune.report.page.write import write_page
from rltune.report_commands.running import is_finished, run_scenes
from rltune.report_commands.scenes import planned

MADE = ("index.html", "figures", "tables")
"""What a report's folder has, and what a new report replaces."""
MARK = '<meta name="generator" content="rltune report">'


def main(argv: Sequence[str] | None = None) -> int:
    """Make the page; 0, 1 where a scene failed, 2 with one line on standard error for bad input, 130 when interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(words)
    # Also where a shell began it in the background, and what it starts.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        check_folder(arguments.out)
        page, failed = of_runs(arguments) if arguments.paths else of_scenes(arguments)
        print(made(page, arguments.out, max(1, arguments.jobs)), flush=True)
        return 1 if failed else 0
    except KeyboardInterrupt as error:
        told = error.told if isinstance(error, Interrupted) else "interrupted"
        print(f"error: {told}; go on with: {shlex.join(['python', '-m', 'rltune.report', *words])}", file=sys.stderr)
        return 130
    except InputError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return error.status


def parser() -> argparse.ArgumentParser:
    """Its options."""
    made = argparse.ArgumentParser(
        prog="python -m rltune.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "paths", metavar="RUN_DIR", nargs="*", type=Path, help="runs of simulate, evaluate, train, or folders of runs"
    )
    made.add_argument("--out", type=Path, default=Path("runs/report"), help="folder of the page (default: runs/report)")
    made.add_argument("--full", action="store_true", help="whole test stretches, every rule with every knowledge: long")
    made.add_argument("--only", metavar="SCENE", nargs="+", default=[], help="these scenes of conf/report.yaml alone")
    made.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="evaluations, then drawings, at a time (default: cores)"
    )
    made.add_argument("--again", action="store_true", help="run scenes that are finished once more")
    return made


def of_scenes(arguments: argparse.Namespace) -> tuple[Page, list[str]]:
    """Run the scenes that are not finished; the page, and sentences on those that failed."""
    scenes, left_out = planned(arguments.full, arguments.only)
    for remark in left_out:
        say(f"note: {remark}")
    folder = arguments.out / "scenes"
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.again:
        for scene in scenes:
            shutil.rmtree(folder / scene.directory, ignore_errors=True)
    try:
        with progress_bar("evaluating, scenes", len(scenes)) as update:
            failed = run_scenes(scenes, folder, max(1, arguments.jobs), update)
    except KeyboardInterrupt:
        there = sum(is_finished(scene, folder) for scene in scenes)
        raise Interrupted(
            signal.SIGINT, f"interrupted; {there} of {len(scenes)} scenes are finished and kept in {folder}"
        ) from None
    finished = [scene for scene in scenes if is_finished(scene, folder)]
    if not finished:
        raise InputError(f"no scene could be evaluated; {'; '.join(failed or left_out)}")
    found = scenes_of(
        [folder / scene.directory for scene in finished], {scene.directory: scene.told for scene in finished}
    )
    curves, why = shipped_curves()
    kind = "full" if arguments.full else "quick: parts of the test stretches, fewer rows; FULL=1 has all"
    return Page("Policies of rltune, judged", found, curves, facts(kind), [*left_out, *failed], why), failed


def of_runs(arguments: argparse.Namespace) -> tuple[Page, list[str]]:
    """The page of run directories that are there."""
    paths = find_runs(arguments.paths)
    found = scenes_of(paths, {path.name: Told() for path in paths})
    curves = [curve for path in paths if (curve := run_curve(path)) is not None]
    if not found and not curves:
        raise InputError(
            f"{', '.join(map(str, arguments.paths))}: none of these runs has a table; rltune.evaluate makes one"
        )
    return Page(
        "Runs of rltune, side by side",
        found,
        curves,
        facts("run directories as given"),
        [],
        "" if curves else "no run here is a training",
    ), []


def facts(kind: str) -> list[tuple[str, str]]:
    """What stands above the page."""
    return [("made", f"{datetime.now():%Y-%m-%d %H:%M}"), ("rltune", rltune.__version__), ("what", kind)]


def made(page: Page, folder: Path, jobs: int) -> Path:
    """Draw and write everything beside what is there, then put it in its place: a report is never half old."""
    folder.mkdir(parents=True, exist_ok=True)
    beside = Path(mkdtemp(prefix=".page-", dir=folder))
    try:
        with progress_bar("drawing, scenes", len(page.scenes)) as update:
            write_page(page, beside, update, jobs)
        for name in MADE:
            old = folder / name
            shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink(missing_ok=True)
            os.replace(beside / name, old)
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: cannot be written ({error.strerror}); choose another folder (--out)"
        ) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder / "index.html"


def check_folder(folder: Path) -> None:
    """Refuse to write over a page that is none of ours."""
    index = folder / "index.html"
    if index.is_file() and MARK not in index.read_text(errors="replace")[:2000]:
        raise InputError(f"{index} is no report of ours; choose another folder (--out)")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; choose another folder (--out)")
