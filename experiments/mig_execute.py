"""Batches of real processes, profiled, planned and run on a simulated A100-80GB and A30: planned against measured makespan.

OMP_NUM_THREADS=1 python experiments/mig_execute.py [--tasks 14] [--families wide_times ...]

Writes mig_execute.json and .md beside the other results. The device is simulated: creating and destroying instances take their
documented seconds. Tasks of the families are processes that sleep as long as a generated task of that many slices would
take, shortened `SHORTER` times: this measures what starting processes, changing instances and keeping the journal add to a
plan. ``workloads`` are real programs (`rltune.workloads`) on the CPU: one core in a 2g of the A30, two in its 4g, so that on two
cores instances have their cores to themselves as they would have their slices. Nothing is said of tasks sharing a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from rltune.mig.batch.families import SIZES, family_times

RESULTS = Path(__file__).resolve().parent / "results"
DEVICE = "simulated:a100-80gb,a30"
PARTS = {"A100-80GB": "0", "A30": "1", "both": "0,1"}
"""What is run on: GPUs of the simulated machine, by number."""
FAMILIES = ("wide_times", "good_scaling", "bad_scaling")
WORKLOADS = ("matmul", "mlp", "lstm", "images", "boosting")
COPIES = 2
"""Of each real program, with seeds of their own."""
SHORTER = 15.0
SEED = 5000
SEARCH_S = 1.0
AIM = 0.05
"""Share by which a measured makespan may be off its plan."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=14, help="of each batch")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), help="generators of batches")
    options = parser.parse_args()
    begin = time.perf_counter()
    rows = []
    for family in options.families:
        with tempfile.TemporaryDirectory() as folder:
            rows += batch_rows(family, options.tasks, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        rows.append(workload_row(Path(folder)))
    found = {
        "command": f"python experiments/mig_execute.py --tasks {options.tasks} --families {' '.join(options.families)}",
        "device": f"{DEVICE}, pace 1; {os.cpu_count()} cores",
        "source": f"families: rltune.mig.batch.families, seed {SEED}, seconds / {SHORTER:g}, sleeping processes; workloads: real programs",
        "rows": rows,
        "wall_s": round(time.perf_counter() - begin, 1),
    }
    (RESULTS / "mig_execute.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "mig_execute.md").write_text(markdown(found))
    print(RESULTS / "mig_execute.md")


def batch_rows(family: str, tasks: int, folder: Path) -> list[dict[str, Any]]:
    """Profile one batch on both GPUs, then plan and run it on each and on both."""
    times = family_times(family, tasks, np.random.default_rng(SEED)) / SHORTER
    (folder / "tasks.yaml").write_text(yaml.safe_dump(task_list(times)))
    first = devices(folder, "profile", "tasks.yaml", "--gpu", "0", "--name", "first")
    # Its list has the A100's seconds; the A30's come beside them.
    both = devices(folder, "profile", str(first / "tasks.yaml"), "--gpu", "1", "--name", "second")
    rows = []
    for name, gpus in PARTS.items():
        run = devices(
            folder, "run", str(both / "tasks.yaml"), "--gpus", gpus, "--seconds", str(SEARCH_S), "--name", name
        )
        rows.append({"family": family, "tasks": tasks, "gpus": name} | run_row(run, both))
    return rows


def workload_row(folder: Path) -> dict[str, Any]:
    """Profile real programs on 2g and 4g of the A30, then plan and run them there."""
    script = "OMP_NUM_THREADS=$((RLTUNE_COMPUTE_SLICES / 2)) exec {python} -m rltune.workloads"
    tasks = [
        {"name": f"{name}-{seed}", "command": ["sh", "-c", f"{script} {name} --device cpu --seed {seed}"]}
        for name in WORKLOADS
        for seed in range(COPIES)
    ]
    (folder / "tasks.yaml").write_text(yaml.safe_dump({"version": 1, "tasks": tasks}))
    profiled = devices(folder, "profile", "tasks.yaml", "--gpu", "1", "--kinds", "2g,4g", "--name", "profiled")
    words = ("--gpus", "1", "--seconds", str(SEARCH_S), "--name", "A30")
    run = devices(folder, "run", str(profiled / "tasks.yaml"), *words)
    return {"family": "workloads", "tasks": len(tasks), "gpus": "A30"} | run_row(run, profiled)


def task_list(times: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, Any]:
    """Tasks that sleep by the slices they got; ``times`` (n_tasks, n_sizes) seconds."""
    tasks = []
    for number, row in enumerate(times):
        cases = " ".join(f"{size}) s={seconds:.4f};;" for size, seconds in zip(SIZES, row, strict=True))
        script = f"case $RLTUNE_COMPUTE_SLICES in {cases} esac; exec sleep $s"
        tasks.append({"name": f"t{number}", "command": ["sh", "-c", script]})
    return {"version": 1, "tasks": tasks}


def devices(folder: Path, *words: str) -> Path:
    """A command of `rltune.devices`; its run directory."""
    command = [sys.executable, "-m", "rltune.devices", *words, "--device", DEVICE, "--runs", str(folder / "runs")]
    environment = os.environ | {"RLTUNE_STATE": str(folder / "state")}
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.splitlines()[-1])


def run_row(run: Path, profiled: Path) -> dict[str, Any]:
    """Planned and measured makespan of a run, and where the difference comes from."""
    summary = json.loads((run / "summary.json").read_text())
    rows = pd.read_parquet(run / "tasks.parquet")
    instances = pd.read_parquet(run / "instances.parquet")
    whole = yaml.safe_load((profiled / "tasks.yaml").read_text())["tasks"]
    one_by_one = {"A100-80GB": "7g", "A30": "4g"}.get(run.name)
    # Of the plan: what is brought back at the end comes after the last task.
    gone = instances[instances.destroy_s < summary["makespan_s"]]
    changes = pd.concat([instances.ready_s - instances.create_s, gone.gone_s - gone.destroy_s])
    return {
        "planned_s": summary["planned_makespan_s"],
        "measured_s": summary["makespan_s"],
        "off": summary["measured_over_planned"] - 1,
        "one_by_one_s": sum(task["seconds"][run.name][one_by_one] for task in whole) if one_by_one else None,
        "instances": len(instances),
        "reconfigurations": int(changes.notna().sum()),
        "reconfiguring_s": float(changes.sum()),
        "task_longer_than_planned_ms": float(1e3 * (rows.seconds - (rows.planned_end_s - rows.planned_start_s)).mean()),
        "ok": summary["tasks"]["ok"],
    }


def markdown(found: dict[str, Any]) -> str:
    lines = ["# Plans, and what became of them", ""]
    lines += [f"`{found['command']}`, {found['device']}, {found['wall_s']} s. {found['source']}.", ""]
    lines += [
        "The device is simulated and no GPU was used: the executor's own costs are measured, not those of tasks sharing a GPU. "
        "The workloads compute on the CPU, a core in a 2g, two in a 4g.",
        "",
    ]
    columns = (
        "family", "tasks", "GPUs", "planned s", "measured s", "off (aim within 5 %)", "one by one on the whole GPU s",
        "instances", "reconfigurations", "they took s", "task longer than profiled ms",
    )  # fmt: skip
    lines += [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for row in found["rows"]:
        alone = "-" if row["one_by_one_s"] is None else f"{row['one_by_one_s']:.2f}"
        met = "met" if abs(row["off"]) <= AIM and row["ok"] == row["tasks"] else "not met"
        lines.append(
            f"| {row['family']} | {row['ok']} of {row['tasks']} ok | {row['gpus']} | {row['planned_s']:.2f} | {row['measured_s']:.2f} "
            f"| {100 * row['off']:+.2f} % ({met}) | {alone} | {row['instances']} | {row['reconfigurations']} "
            f"| {row['reconfiguring_s']:.2f} | {row['task_longer_than_planned_ms']:.1f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
