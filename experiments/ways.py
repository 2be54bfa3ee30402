"""What slices of MIG as ways to run are worth: ``python experiments/ways.py``.

6,000 jobs of Philly (from number 20,000) on nodes of eight A100-40GB, fifo with skip and easy. Every job of one GPU may take
a slice at the speeds of a measured training job drawn for it (`rltune.simulator.ways`), over three seeds of the draw.
Philly's jobs name no models, so this shows what ways do under that assumption, not what Philly would have had. Nothing was
chosen by it. Writes results/ways.{json,md}. Needs RLTUNE_TRACES.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import rltune
from rltune.nouns.cluster import Cluster, Pool

OUT = Path(__file__).resolve().parent / "results" / "ways"
FIRST, JOBS, NODES, SEEDS = 20_000, 6_000, (50, 64), (0, 1, 2)
COLUMNS = ("job_id", "submit_s", "duration_s", "num_gpus")
CASES: dict[str, dict[str, Any]] = {
    "whole GPUs": {},
    "fastest": {"ways": "mig_profiles"},
    "efficient": {"ways": "mig_profiles", "way_rule": "efficient"},
    "efficient, at least 0.5": {"ways": "mig_profiles", "way_rule": "efficient", "way_least_speed": 0.5},
    "efficient, at least 0.8": {"ways": "mig_profiles", "way_rule": "efficient", "way_least_speed": 0.8},
}
COMMAND = "RLTUNE_TRACES=... OMP_NUM_THREADS=1 python experiments/ways.py"


def run(jobs: rltune.JobTable, nodes: int, backfill: str, case: str) -> dict[str, Any]:
    """Means over the seeds, hours; without ways all seeds are alike."""
    cluster = Cluster("mig", (Pool("a100", nodes, 8, "A100-40GB", mig=True),))
    found = []
    for seed in SEEDS if CASES[case] else SEEDS[:1]:
        result = rltune.simulate(jobs, cluster, backfill=backfill, max_retries=0, seed=seed, **CASES[case])
        summary = result.summary()
        hours = [summary[name]["mean"] / 3600 for name in ("wait_s", "jct_s")]
        found.append([*hours, summary["bsld"]["mean"], result.goodput(), float((result.runs.profile >= 0).mean())])
    mean, low, high = np.mean(found, axis=0), np.min(found, axis=0), np.max(found, axis=0)
    return {
        "nodes": nodes, "backfill": backfill, "ways": case, "wait_h": mean[0], "jct_h": mean[1],
        "jct_h_range": [low[1], high[1]], "bsld": mean[2], "goodput": mean[3], "in_slices": mean[4],
    }  # fmt: skip


def main() -> None:
    frame = rltune.load_trace("philly").jobs.take(slice(FIRST, FIRST + JOBS)).to_frame()
    jobs = rltune.JobTable.from_columns({name: frame[name].tolist() for name in COLUMNS})
    rows = [run(jobs, nodes, backfill, case) for nodes in NODES for backfill in ("skip", "easy") for case in CASES]
    OUT.with_suffix(".json").write_text(json.dumps({"command": COMMAND, "rows": rows}, indent=1) + "\n")
    lines = [
        "# Slices as ways to run",
        "",
        f"`{COMMAND}`: {JOBS:,} jobs of Philly on nodes of eight A100-40GB, models drawn (three seeds; range of the mean JCT).",
        "",
        "| nodes | backfill | ways | mean wait h | mean JCT h | range | mean bsld | goodput | runs in slices |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["jct_h_range"]
        lines.append(
            f"| {row['nodes']} | {row['backfill']} | {row['ways']} | {row['wait_h']:.2f} | {row['jct_h']:.2f} | "
            f"{low:.2f} to {high:.2f} | {row['bsld']:.1f} | {row['goodput']:.3f} | {row['in_slices']:.0%} |"
        )
    OUT.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
