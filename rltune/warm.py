"""``python -m rltune.warm``: compile the kernels of the main commands, so that the first use of each starts at once.

It runs the commands themselves, small, on all cores: what they compile is then on
disk. ``make setup`` ends with it. Where nothing changed since, it does nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import llvmlite.binding

from rltune.compiling.files import folders, writable
from rltune.report.console import ERR, progress_bar, say

FILES = {
    # Several at a time, so that the joint allocator has something to decide.
    "jobs.csv": "job_id,submit_s,duration_s,num_gpus,user\n"
    + "".join(
        f"job{n},{n // 6 * 300},{200 + 37 * n % 900},{(1, 2, 3, 4, 5, 7)[n * 5 % 6]},user{n % 3}\n" for n in range(900)
    ),
    "tasks.csv": "task,1g,2g,3g,4g,7g\na,70,40,30,25,20\nb,60,35,28,20,18\nc,50,30,22,18,15\n",
    "events.csv": "event,tenant,profile\nacquire,a,1g\nacquire,b,3g\nrelease,a,\nacquire,c,2g\n",
}
ON_FILE = "+trace=file trace.path=jobs.csv limit=60"
JOBS = f"{ON_FILE} nodes=4"
WINDOWS = "+trace=file trace.path=jobs.csv nodes=4 oversized=drop protocol.window=32"
TRAINING = (
    "visible=8 epochs=1 windows_per_epoch=4 validate_every=1 validation_windows=4 evaluate=false "
    "algo.envs=4 algo.threads=1 name=policy"
)
UNLIKE = (
    "cluster=mixed throughput=classes options.ways=slices options.way_rule=market options.resume_s=60 "
    "allocator=fgd baseline=gittins runtimes=unknown backfill=skip score=jct"
)
"""The world of ``make train``."""
CHAINS = (
    # Side by side; commands of one chain share kernels, which the first of them compiles.
    (
        f"simulate {JOBS} policy=las options.resume_s=60 options.node_mtbf_s=1e6",
        f"simulate {JOBS} policy=fifo backfill=conservative runtimes=predicted",
        f"simulate {JOBS} policy=sjf backfill=easy",
        f"simulate {JOBS} policy=fifo allocator=milp",
        # One node, so that some are suspended.
        f"simulate {ON_FILE} nodes=1 policy=las allocator=milp options.resume_s=60",
    ),
    (
        f"train {WINDOWS} {TRAINING}",
        f"evaluate {WINDOWS} windows=2 checkpoint=runs/policy",
        f"train {WINDOWS} {UNLIKE} {TRAINING.replace('name=policy', 'name=unlike')}",
        f"evaluate {WINDOWS} {UNLIKE.split(' allocator')[0]} allocator=fgd windows=2 checkpoint=runs/unlike",
    ),
    (
        "mig train epochs=1 steps_per_epoch=512 validation_batches=1",
        "mig batch tasks.csv seconds=0.1 prove_s=1",
        "mig serve-trace events.csv policy=learned",
    ),
    # The service as `make live` runs it.
    ("live +trace=file trace.path=jobs.csv speed=10 minutes=0.3",),
)
PACKAGE = Path(__file__).resolve().parent


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rltune.warm", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--again", action="store_true", help="run the commands even if nothing changed since the last time"
    )
    arguments = parser.parse_args(argv)
    stamp = stamp_path()
    if stamp.exists() and not arguments.again:
        say("kernels are compiled")
        return 0
    begun = time.monotonic()
    failed = run_all(CHAINS)
    for line in failed:
        say(f"warning: not compiled ahead, but at its first use: {line}")
    if not failed and writable(stamp.parent):
        for old in stamp.parent.glob("warm-*"):
            old.unlink(missing_ok=True)
        stamp.touch()
    say(f"kernels compiled in {time.monotonic() - begun:.0f} s")
    return 1 if failed else 0


def run_all(chains: tuple[tuple[str, ...], ...]) -> list[str]:
    """Run the chains side by side; the commands that fail, with what they said last."""
    total = sum(len(chain) for chain in chains)
    with tempfile.TemporaryDirectory() as folder, progress(total) as done, ThreadPoolExecutor(cores()) as pool:
        for name, text in FILES.items():
            (Path(folder) / name).write_text(text)
        failed = pool.map(lambda chain: run_chain(chain, Path(folder), done), chains)
        return [line for lines in failed for line in lines]


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_chain(chain: tuple[str, ...], folder: Path, done: Callable[[str], None]) -> list[str]:
    """Commands one after the other, each in a process of its own; those that fail, with their last words."""
    failed = []
    for command in chain:
        # The replay leaves no run directory.
        folder_of_runs = "" if command.startswith("live") else " runs=runs"
        words = [sys.executable, "-m", *f"rltune.{command}{folder_of_runs}".split()]
        ended = subprocess.run(words, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        done(command)
        if ended.returncode != 0:
            failed.append(f"{command}: {(ended.stderr.strip().splitlines() or ['no word'])[-1]}")
    return failed


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar on a terminal, lines elsewhere."""
    with progress_bar("compiling kernels", total, ERR.is_terminal) as update:
        ended = 0

        def done(command: str) -> None:
            nonlocal ended
            ended += 1
            update(1)
            if not ERR.is_terminal:
                say(f"compiling kernels, {ended} of {total} done: rltune.{command[:60]}")

        yield done


def stamp_path() -> Path:
    """A file that is there if these very sources were compiled with these versions for this processor."""
    parts = [
        sys.version,
        llvmlite.binding.get_host_cpu_name(),
        *(version(name) for name in ("numba", "llvmlite", "numpy")),
    ]
    parts += [path.read_text() for path in sorted(PACKAGE.rglob("*.py"))]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    places = list(folders(main))
    return next((place for place in places if writable(place)), places[0]) / f"warm-{digest[:20]}"


if __name__ == "__main__":
    sys.exit(main())
