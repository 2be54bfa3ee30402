"""A scene made by hand: three rows, four jobs each, two pools of which one is cut into slices, and hostile names everywhere."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rltune.report.page.scene import COMPARED, METRICS, Curve, Page, Scene, ranked

HOSTILE = '<img src=x onerror="window.pwned=1">'
WAITS = {"fifo-skip": [0.0, 10, 50, 400], "sjf-skip-exact": [0.0, 5, 20, 100], "learned-skip-exact": [0.0, 5, 30, 80]}


def scene(source: str = "calibrated", name: str = "made") -> Scene:
    """``name``: of its files."""
    rows, jobs = [], []
    for row, waits in WAITS.items():
        frame = pd.DataFrame(
            {"row": row, "submit_s": [0.0, 3600, 7200, 90_000], "num_gpus": [1, 2, 8, 64], "priority": [0.0, 0, 5, 5]}
        )
        frame["vc"] = [HOSTILE, "b", HOSTILE, "=cmd()"]
        frame["wait_s"], frame["jct_s"] = waits, np.array(waits) + 100
        frame["bsld"] = frame["slowdown"] = frame.jct_s / 100
        jobs.append(frame)
        learned = row.startswith("learned")
        told = {
            "row": row,
            "label": HOSTILE if learned else row,
            "policy": row.split("-")[0],
            "learned": learned,
            "model": "",
        }
        told |= {
            "runtimes": "unknown" if row == "fifo-skip" else "exact",
            "unfinished": 0,
            "against": "" if row != "learned-skip-exact" else "sjf-skip-exact",
        }
        for metric in METRICS:
            values = frame[metric]
            told |= {metric: values.mean(), f"{metric}_low": values.min(), f"{metric}_high": values.max()}
            told |= {f"{metric}_{part}": values.max() for part in ("p50", "p95", "p99", "max")}
        for metric in COMPARED:
            told |= {
                f"gain_{metric}{end}": value if learned else np.nan
                for end, value in (("", 0.0), ("_low", -0.1), ("_high", 0.2))
            }
        for metric in ("wait_s", "jct_s"):
            told |= {f"bound_{metric}": 20.0, f"above_{metric}": told[metric] / 20 - 1}
        rows.append(told | {"utilization": 0.5, "fragmentation": 0.1, "makespan_s": 1e5, "energy_kwh": 3.0})
    pools = [
        pd.DataFrame({"time_s": np.arange(30) * 3600.0, "pool": pool, "gpu_type": "V100", "gpus": 8, "mig": cut, "busy_gpus": 4.0,
                      "sliced_gpus": 2.0 * cut, "instances": 3.0 * cut, "queued_jobs": 1.0, "partly_free_gpus": 1.0, "row": row})
        for row in WAITS for pool, cut in ((HOSTILE, False), ("cut", True))
    ]  # fmt: skip
    energy = pd.DataFrame([{"row": row, "gpu_type": "V100", "busy": 2.0, "idle": 1.0} for row in WAITS])
    return Scene(
        name, f"Title {HOSTILE}", f"Says {HOSTILE}", source, [("trace", HOSTILE), ("command", f"run {HOSTILE}")], "wait_s", ranked(rows, "wait_s"),
        energy, pd.concat(jobs, ignore_index=True), pd.concat(pools, ignore_index=True), remarks=[HOSTILE],
    )  # fmt: skip


def page() -> Page:
    """Two scenes, one of real jobs, and a learning curve of two seeds, one of which kept epoch 10."""
    frame = pd.DataFrame({"epoch": [5, 10], "steps": [500, 1000], "value": [9.0, 7.0]})
    curve = Curve("c", HOSTILE, "mean wait (s)", {"a": frame, HOSTILE: frame}, 8.0, {"a": 10, HOSTILE: None}, HOSTILE)
    return Page(f"Page {HOSTILE}", [scene(), scene("real", "other")], [curve], [("made", HOSTILE)], [HOSTILE])
