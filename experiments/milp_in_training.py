"""Does it help to train with the MILP in the loop? PPO on RLTune's philly cluster, whose nodes have 2 or 8 GPUs.

OMP_NUM_THREADS=1 python experiments/milp_in_training.py [--seeds 2] [--epochs 60]     (RLTUNE_TRACES set)

Each seed is trained twice, with allocator=milp and with allocator=best_fit, on the training windows of the published
philly trace, arrivals squeezed tenfold; then every policy is judged on the same test windows under both allocators, beside its
own baseline order. Writes results/milp_in_training.{json,md}. Settings were fixed beforehand.
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

from rltune.nouns.metrics import ci95, reduction

RESULTS = Path(__file__).parent / "results"
TRACE = ("+trace=rltune_philly", "trace.squeeze=10", "progress=false")
ALLOCATORS = ("milp", "best_fit")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = study(Path(folder), options.seeds, options.epochs)
    found |= {
        "command": f"python experiments/milp_in_training.py --seeds {options.seeds} --epochs {options.epochs}",
        "machine": f"{os.cpu_count()} cores, one process",
        "wall_s": round(time.perf_counter() - begun, 1),
    }
    (RESULTS / "milp_in_training.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "milp_in_training.md").write_text(markdown(found))
    print(RESULTS / "milp_in_training.md")


def study(folder: Path, seeds: int, epochs: int) -> dict[str, Any]:
    """Train, judge, compare."""
    trained: list[dict[str, Any]] = []
    checkpoints = []
    for allocator in ALLOCATORS:
        for seed in range(seeds):
            begun = time.perf_counter()
            options = (f"allocator={allocator}", f"seed={seed}", f"epochs={epochs}", "evaluate=false")
            run = ran("train", folder, f"{allocator}_s{seed}", *options)
            summary = json.loads((run / "summary.json").read_text())
            trained.append(
                {
                    "trained_with": allocator,
                    "seed": seed,
                    "seconds": round(time.perf_counter() - begun, 1),
                    "run": summary.get("training", {}),
                }
            )
            checkpoints.append(run / "policy.safetensors")
    run = ran(
        "evaluate",
        folder,
        "judged",
        "allocator=milp",
        "policy=[fifo,sjf,saf]",
        f"checkpoint=[{','.join(map(str, checkpoints))}]",
    )
    summary = json.loads((run / "summary.json").read_text())
    windows = pd.read_csv(run / "windows.csv")
    rows = []
    for k, one in enumerate(trained):
        for judged, suffix in (("milp", "+milp"), ("best_fit", "")):
            name = next(
                n
                for n in summary["policies"]
                if n.startswith("learned")
                and n.removesuffix("+milp").endswith(f"-{k}")
                and n.endswith("+milp") == bool(suffix)
            )
            rows.append(
                one
                | {
                    "judged_with": judged,
                    "row": name,
                    "kept": summary["policies"][name]["kept"],
                    "waits": waits_of(windows, name),
                }
            )
    names = [n for n in summary["policies"] if not n.startswith("learned")]
    heuristics = {n: {"wait_s": summary["policies"][n]["wait_s"]["mean"], "waits": waits_of(windows, n)} for n in names}
    return {"trace": summary["trace"], "rows": rows, "heuristics": heuristics, "comparisons": compared(rows)}


def ran(command: str, folder: Path, name: str, *options: str) -> Path:
    """One command of rltune; its run directory."""
    call = [sys.executable, "-m", f"rltune.{command}", *TRACE, f"runs={folder}", f"name={name}", *options]
    subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
    return folder / name


def waits_of(windows: pd.DataFrame, name: str) -> list[float]:
    """Mean wait of each test window."""
    mine = windows[windows["policy"] == name]
    return [float(x) for x in mine.sort_values("window")["value"]]


def compared(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Trained with the MILP against without, windows paired and seeds averaged, under each allocator."""
    found = {}
    for judged in ALLOCATORS:
        sides = [
            np.mean(
                [row["waits"] for row in rows if row["trained_with"] == trained and row["judged_with"] == judged],
                axis=0,
            )
            for trained in ALLOCATORS
        ]
        found[f"judged with {judged}"] = reduction(*sides)
    placed = [np.mean([row["waits"] for row in rows if row["judged_with"] == judged], axis=0) for judged in ALLOCATORS]
    return found | {"judged with milp against best_fit": reduction(*placed)}


def markdown(found: dict[str, Any]) -> str:
    lines = [
        "# Training with the MILP in the loop", "",
        f"`{found['command']}`; {found['trace']['name']}, source {found['trace']['source']}; {found['machine']}, "
        f"{found['wall_s']:.0f} s. Mean wait on the test windows, s; intervals resample windows.", "",
        "| trained with | seed | kept | training s | judged with | wait s |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in found["rows"]:
        low, high = ci95(np.array(row["waits"]))
        lines.append(
            f"| {row['trained_with']} | {row['seed']} | {row['kept']} | {row['seconds']:.0f} | {row['judged_with']} | "
            f"{np.mean(row['waits']):,.1f} [{low:,.1f}, {high:,.1f}] |"
        )
    lines += ["", "| comparison | less wait [95 %] |", "|---|---|"]
    for name, change in found["comparisons"].items():
        value, (low, high) = change["reduction"], change["ci95"]
        name = name if "against" in name else f"trained with the MILP against best fit, {name}"
        lines.append(f"| {name} | {100 * value:+.1f} % [{100 * low:+.1f}, {100 * high:+.1f}] |")
    best = sorted(found["heuristics"].items(), key=lambda item: item[1]["wait_s"])[:6]
    lines += ["", "| heuristic or baseline order | wait s |", "|---|---|"]
    lines += [f"| {name} | {row['wait_s']:,.1f} |" for name, row in best]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
