"""The core's speed beside an earlier version's, paired: ``python -m rltune.bench --only core``.

Each version runs in a process of its own, on the same drawn jobs (Helios' published distributions, 20,000 jobs on 100
nodes of 8 GPUs, load 0.9); the two take turns, and the figure is the median of the ratios of neighbouring runs. This
file is also the worker: as a script it serves whichever version of rltune it finds.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BASE = "1f9c23a"
"""Before the one core."""
JOBS, GPUS, LOAD = 20_000, 800, 0.9
TURNS = 9
CASES = ("lean_skip", "lean_easy", "full_skip", "full_easy")
ROOT = Path(__file__).resolve().parents[2]


# --- the worker ---------------------------------------------------------------------------


def works() -> dict[str, Callable[[], object]]:
    """What each case does in the version at hand: the compiled loop, from time zero to the end; the answer: its seconds, or
    nothing where all of the work is the loop."""
    import rltune

    # By its files: an installed version would answer for a module that this one does not have.
    return newer() if (Path(rltune.__file__).parent / "core").is_dir() else older()


def drawn(scaling: Any, cluster_module: Any) -> tuple[Any, Any]:
    """Jobs and cluster of all cases."""
    pools = {"pools": [{"nodes": GPUS // 8, "gpus_per_node": 8}]}
    return scaling.draw_jobs(JOBS, GPUS, LOAD), cluster_module.Cluster.from_spec(pools)


def newer() -> dict[str, Callable[[], object]]:
    import rltune
    from rltune.bench import scaling
    from rltune.core.loop import begin, run
    from rltune.core.reference import ref
    from rltune.core.state import BACKFILLS, Plain, build_lean
    from rltune.nouns import cluster as clusters
    from rltune.policies.orders import order, static_rank

    jobs, cluster = drawn(scaling, clusters)
    rank = static_rank(order("fifo"), jobs, jobs.duration_s)

    def lean(backfill: str) -> Callable[[], object]:
        state = ref(build_lean(jobs, cluster, jobs.duration_s, rank, None, Plain(0, BACKFILLS[backfill], 1)))
        return lambda: (begin(state), run(state))

    clock = Clock(importlib.import_module("rltune.simulator.decisions"), "begin", "run_for")

    def full(backfill: str) -> Callable[[], object]:
        return lambda: clock.of(lambda: rltune.simulate(jobs, cluster, policy="fifo", backfill=backfill, max_retries=9))

    return {"lean_skip": lean("skip"), "lean_easy": lean("easy"), "full_skip": full("skip"), "full_easy": full("easy")}


class Clock:
    """Seconds spent in functions of a module: those of the compiled loop, which a simulation calls by these names."""

    def __init__(self, module: Any, *names: str) -> None:
        self.seconds = 0.0
        for name in names:
            setattr(module, name, self.timed(getattr(module, name)))

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            begun = time.perf_counter()
            answer = function(*given)
            self.seconds += time.perf_counter() - begun
            return answer

        return call

    def of(self, work: Callable[[], object]) -> float:
        """Seconds in the loop while ``work`` was done."""
        self.seconds = 0.0
        work()
        return self.seconds


def older() -> dict[str, Callable[[], object]]:
    import rltune

    def module(name: str) -> Any:
        return importlib.import_module(f"rltune.{name}")

    disciplines, orders = module("simulator.disciplines"), module("policies.orders")
    jobs, cluster = drawn(module("scaling"), module("cluster"))
    rank = orders.static_rank(orders.order("fifo"), jobs, jobs.duration_s)

    def lean(backfill: str) -> Callable[[], object]:
        sim = module("simulator.state").build(jobs, cluster, jobs.duration_s, rank)
        return lambda: disciplines.run_to_end(sim, 0, disciplines.DISCIPLINES[backfill], 1)

    clock = Clock(module("simulator.fleet.run"), "begin", "advance_all")

    def full(backfill: str) -> Callable[[], object]:
        return lambda: clock.of(
            lambda: rltune.simulate(jobs, cluster, policy="fifo", discipline=backfill, max_retries=9)
        )

    return {"lean_skip": lean("skip"), "lean_easy": lean("easy"), "full_skip": full("skip"), "full_easy": full("easy")}


def serve() -> None:
    """Reads names of cases, answers with seconds; each case once to warm up before the first line."""
    known = works()
    for work in known.values():
        work()
    print("ready", flush=True)
    for line in sys.stdin:
        begun = time.perf_counter()
        answer = known[line.strip()]()
        whole = time.perf_counter() - begun
        print(answer if isinstance(answer, float) else whole, flush=True)


# --- the pairing --------------------------------------------------------------------------


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """The files of an earlier version. Raises OSError or CalledProcessError where the history is not at hand."""
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder) / "version"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", str(where), commit], check=True, capture_output=True)
        try:
            yield where
        finally:
            subprocess.run([*git, "remove", "--force", str(where)], check=False, capture_output=True)


def worker(root: Path) -> subprocess.Popen[str]:
    """A process that serves the version at ``root``; nothing in it is installed."""
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).resolve())]
    return subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def ask(process: subprocess.Popen[str], case: str) -> float:
    """Seconds of one run."""
    assert process.stdin is not None and process.stdout is not None
    print(case, file=process.stdin, flush=True)
    return float(process.stdout.readline())


def ratios() -> dict[str, tuple[float, float, float]]:
    """Case -> (median ratio of jobs per second, this version's and the earlier one's median jobs per second)."""
    import numpy as np

    with checkout(BASE) as earlier:
        sides = [worker(ROOT), worker(earlier)]
        try:
            for side in sides:
                assert side.stdout is not None
                if side.stdout.readline().strip() != "ready":
                    raise OSError("a version could not be run")
            found = {}
            for case in CASES:
                seconds = np.array([[ask(side, case) for side in sides] for _ in range(TURNS)])
                mine, theirs = JOBS / np.median(seconds, axis=0)
                found[case] = (float(np.median(seconds[:, 1] / seconds[:, 0])), float(mine), float(theirs))
            return found
        finally:
            for side in sides:
                side.kill()


if __name__ == "__main__":
    serve()
