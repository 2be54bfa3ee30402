"""RLScheduler's workloads with backfilling: ``python experiments/lublin.py`` (RLTUNE_TRACES set).

Two workloads of the Lublin-Feitelson model, 256 processors, 10,000 jobs each, beside the published table (README of
DIR-LAB/deep-batch-scheduler; Zhang et al., SC 2020): mean bounded slowdown, run times as recorded (the files have no requests).
There a job once picked stays the next to start, its time is fixed when it is picked, and what ends before then passes it in
order of arrival (`committed`, written from the published code's behaviour; without passing that is our ``blocking``). Our EASY
chooses the head anew at every instant and lets pass what does not delay it: another, better rule, so both stand in the tables.

The published figures are means over ten sequences of 1,024 jobs at random starts that nobody has recorded: here a hundred
sequences at drawn starts, on an empty machine as there, the mean over all of them and how far means of ten lie apart.

``--policy FILE``: also a policy of ``python -m rltune.train +trace=file trace.path=lublin_256.swf.gz ...`` (the command is in the
table), on sequences from the last quarter of the file that it was trained on, which it has not seen; the rules beside it there.
Writes results/lublin.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import numba
import numpy as np

import rltune
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.metrics import job_scores
from rltune.traces.folder import traces_folder

RESULTS = Path(__file__).resolve().parent / "results"
COMMAND = "RLTUNE_TRACES=... OMP_NUM_THREADS=1 python experiments/lublin.py"
FILES = {"lublin_256": "lublin_swf/lublin_256.swf.gz", "lublin_256_new2": "lublin_swf/lublin_256_new2.swf.gz"}
MACHINE = Cluster("lublin", (Pool("p", 256, 1),))
PUBLISHED = {
    "Lublin-1": {"fifo": 235.82, "wfp3": 133.87, "unicef": 307.23, "sjf": 73.31, "f1": 75.07, "RLScheduler": 58.64},
    "Lublin-2": {"fifo": 247.61, "wfp3": 318.35, "unicef": 379.59, "sjf": 91.99, "f1": 148.25, "RLScheduler": 118.79},
}
WITHOUT = {
    "Lublin-1": {
        "fifo": 7273.77,
        "wfp3": 19753.53,
        "unicef": 22274.74,
        "sjf": 277.35,
        "f1": 258.37,
        "RLScheduler": 254.67,
    },
    "Lublin-2": {
        "fifo": 7842.47,
        "wfp3": 9523.18,
        "unicef": 11265.31,
        "sjf": 787.89,
        "f1": 698.34,
        "RLScheduler": 724.51,
    },
}
COMMITTED, BLOCKING, EASY = "as published, backfilling", "as published, without", "easy"
RULES = ("fifo", "wfp3", "unicef", "sjf", "f1", "saf", "srf", "f2", "f3", "f4")
LENGTH, SEQUENCES, DRAWN = 1024, 100, 10
QUARTER = 0.75
"""Where the last quarter begins."""


def starts(n: int, first: int, seed: int) -> Any:
    """(SEQUENCES,) first jobs of sequences, all of which lie behind job ``first``."""
    return np.random.default_rng(seed).integers(first, n - LENGTH + 1, SEQUENCES)


@numba.njit(cache=False)
def scores(code: int, now: float, submit: Any, run: Any, procs: Any) -> Any:
    """Keys of waiting jobs, smallest first: `rltune.policies.orders`, of the published rules and of saf."""
    if code == 0:
        return submit
    if code == 3:
        return run
    if code == 4:
        return np.log10(np.maximum(run, 0.1)) * procs + 870.0 * np.log10(np.maximum(submit, 0.1))
    if code == 5:
        return run * procs
    waited = (now - submit) / np.maximum(run, 1e-9)
    if code == 1:
        return -(waited**3) * procs
    return -(now - submit + 1e-15) / (np.log2(np.maximum(procs, 2.0)) * run)


@numba.njit(cache=False)
def next_event(submit: Any, run: Any, procs: Any, start: Any, state: Any, now: float, arrived: int) -> Any:
    """The next arrival or end, an arrival first: the time, how many have arrived, and the processors that came free."""
    end, who = np.inf, -1
    for j in range(arrived):
        if state[j] == 2 and start[j] + run[j] < end:
            end, who = start[j] + run[j], j
    if arrived < len(submit) and submit[arrived] <= end:
        state[arrived] = 1
        return max(now, submit[arrived]), arrived + 1, 0.0
    state[who] = 3
    return max(now, end), arrived, float(procs[who])


@numba.njit(cache=False)
def committed(code: int, submit: Any, run: Any, procs: Any, free: float) -> Any:
    """(n,) starts of jobs where one that was picked stays the next: see above."""
    n = len(submit)
    start, state = np.full(n, np.nan), np.zeros(n, np.int8)
    now, arrived, left = submit[0], 0, n
    while left > 0:
        # Nothing waits: on to the next arrival, ends on the way included.
        while not (state == 1).any():
            now, arrived, freed = next_event(submit, run, procs, start, state, now, arrived)
            free += freed
        waiting = np.flatnonzero(state == 1)
        keys = scores(code, now, submit[waiting], run[waiting], procs[waiting])
        head = waiting[np.argmin(keys)]
        # The time at which it is expected to fit, if nothing else began.
        running = np.flatnonzero(state == 2)
        ends = start[running] + run[running]
        room, promised = free, now
        for k in np.argsort(ends, kind="mergesort"):
            if room >= procs[head]:
                break
            room += procs[running[k]]
            promised = ends[k]
        while free < procs[head]:
            for j in range(arrived):
                if state[j] == 1 and j != head and procs[j] <= free and now + run[j] < promised:
                    start[j], state[j] = now, 2
                    free -= procs[j]
                    left -= 1
            now, arrived, freed = next_event(submit, run, procs, start, state, now, arrived)
            free += freed
        start[head], state[head] = now, 2
        free -= procs[head]
        left -= 1
    return start


CODES = {"fifo": 0, "wfp3": 1, "unicef": 2, "sjf": 3, "f1": 4, "saf": 5}
"""Of `scores`."""


def as_published(trace: rltune.Trace, begins: Any, rule: str) -> Any:
    """`slowdowns` under `committed`."""
    found = []
    for begin in begins.tolist():
        jobs = trace.jobs.take(slice(begin, begin + LENGTH))
        procs = jobs.num_gpus.astype(float)
        start = committed(CODES[rule], jobs.submit_s, jobs.duration_s, procs, float(MACHINE.gpus))
        found.append(float(job_scores(start - jobs.submit_s, jobs.duration_s)["bsld"].mean()))
    return np.array(found)


def slowdowns(trace: rltune.Trace, begins: Any, policy: Any, backfill: str) -> Any:
    """(SEQUENCES,) mean bounded slowdown of each sequence."""
    found = []
    for begin in begins.tolist():
        jobs = trace.jobs.take(slice(begin, begin + LENGTH))
        result = rltune.simulate(jobs, MACHINE, policy=policy, backfill=backfill, allocator="best_fit")
        found.append(float(result.scores()["bsld"].mean()))
    return np.array(found)


def row(name: str, file: str, stretch: str, backfill: str, values: Any) -> dict[str, Any]:
    """Mean over the sequences, and where the middle 95 % of means of ten of them lie."""
    rng = np.random.default_rng(0)
    tens = values[rng.integers(len(values), size=(2000, DRAWN))].mean(axis=1)
    low, high = np.percentile(tens, (2.5, 97.5))
    return {
        "rule": name, "file": file, "stretch": stretch, "backfill": backfill, "bsld": float(values.mean()),
        "of_ten": [float(low), float(high)], "by_sequence": values.round(3).tolist(),
    }  # fmt: skip


def measure(policy: str | None) -> list[dict[str, Any]]:
    """All rows."""
    rows = []
    for file, where in FILES.items():
        trace = rltune.load_trace(str(traces_folder(None) / where))
        n = len(trace.jobs)
        stretches = {"whole file": starts(n, 0, 0), "last quarter": starts(n, int(QUARTER * n), 1)}
        for stretch, begins in stretches.items():
            for name in RULES:
                rows.append(row(name, file, stretch, EASY, slowdowns(trace, begins, name, "easy")))
                if stretch == "whole file" and name in CODES:
                    rows.append(row(name, file, stretch, COMMITTED, as_published(trace, begins, name)))
                    rows.append(row(name, file, stretch, BLOCKING, slowdowns(trace, begins, name, "blocking")))
            print(file, stretch, flush=True)
        if policy is not None:
            learned = rltune.load_policy(policy)
            begins = stretches["last quarter"]
            rows.append(row("learned", file, "last quarter", EASY, slowdowns(trace, begins, learned, "easy")))
    return rows


def text(out: dict[str, Any]) -> str:
    """The tables."""
    about, rows = out["_about"], out["rows"]
    lines = [
        "# RLScheduler's workloads with backfilling", "",
        f"`{about['command']}`; public files of the Lublin-Feitelson model; machine: {about['machine']}.",
        f"Mean bounded slowdown over {SEQUENCES} sequences of {LENGTH} jobs at drawn starts; in brackets where the middle 95 % of means",
        f"of {DRAWN} sequences lie: the published figures are such means, of starts that are not known.",
    ]  # fmt: skip
    if about.get("policy"):
        lines += ["", f"Learned: {about['policy']}"]
    for stretch, backfill, published in (
        ("whole file", COMMITTED, PUBLISHED), ("whole file", BLOCKING, WITHOUT),
        ("whole file", EASY, PUBLISHED), ("last quarter", EASY, {}),
    ):  # fmt: skip
        lines += ["", f"## {stretch}, {backfill}", ""]
        lines += ["| rule | " + " | ".join([*FILES, *(f"published {x}" for x in published)]) + " |"]
        lines += ["|---|" + "---|" * (len(FILES) + len(published))]
        here = [r for r in rows if (r["stretch"], r["backfill"]) == (stretch, backfill)]
        for name in [*dict.fromkeys(r["rule"] for r in here), *(["RLScheduler"] if published else [])]:
            cells = []
            for file in FILES:
                found = next((r for r in here if (r["rule"], r["file"]) == (name, file)), None)
                cells.append(
                    "-" if found is None else "{:.1f} ({:.1f} to {:.1f})".format(found["bsld"], *found["of_ten"])
                )
            told = [of.get(name) for of in published.values()]
            lines.append(
                f"| {name} | " + " | ".join([*cells, *("-" if x is None else f"{x:.2f}" for x in told)]) + " |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy")
    parser.add_argument("--trained", default="", help="the command by which it was trained, for the record")
    given = parser.parse_args()
    about = {"command": COMMAND, "machine": f"{os.cpu_count()} cores, {platform.machine()}", "policy": given.trained}
    out = {"_about": about, "published": PUBLISHED, "rows": measure(given.policy)}
    (RESULTS / "lublin.json").write_text(json.dumps(out) + "\n")
    (RESULTS / "lublin.md").write_text(text(out))


if __name__ == "__main__":
    main()
