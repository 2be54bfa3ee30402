"""The hardware adapter against a stand-in for NVML: random plans, kills and errors at every call, and what it costs.

OMP_NUM_THREADS=1 python experiments/devices.py [--quick]

Writes devices.json and .md beside the other results. No GPU: the stand-in (tests/devices/fake_nvml, C, built with the system's
compiler) keeps the state of MIG GPUs as hardware would, and the real nvidia-ml-py talks to it. Every trial is checked; a
failed check ends the script. Times are of the whole calls, the stand-in's own included, so that ours are below them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "devices"))

from fake_nvml import FakeNvml, fake
from trials import CASES, Machine, fail_everywhere, kill_everywhere, machine_options, random_sequence

from rltune.devices.inventory import inventory
from rltune.devices.status import STATUSES
from rltune.nouns.mig_profiles import TYPES

RESULTS = Path(__file__).resolve().parent / "results"
PLANS = 3000
CODES = [code for code in STATUSES if code] + [77]
"""Every status that NVML has but success, and one that it has not."""
RECOVERIES = 3
"""Kills of the recovery, too, after each kill."""
GPUS = 8
REPEATS = 50
AIM_MS = {"apply": 20.0, "show": 50.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of it, to see that it works")
    options = parser.parse_args()
    begun = time.perf_counter()
    less = 10 if options.quick else 1
    found: dict[str, Any] = {
        "command": "python experiments/devices.py" + (" --quick" if options.quick else ""),
        "machine": f"{os.cpu_count()} cores, no GPU",
        "plans": {model: plans(model, PLANS // less, seed) for seed, model in enumerate(TYPES)},
        "kills": {name: on(name, lambda nvml, case: kill_everywhere(nvml, case, 0, less)) for name in CASES},
        "kills_and_recoveries": {
            name: on(name, lambda nvml, case: kill_everywhere(nvml, case, RECOVERIES, less)) for name in CASES
        },
        "errors": {name: on(name, lambda nvml, case: fail_everywhere(nvml, case, CODES, less)) for name in CASES},
        "codes": len(CODES),
        "times_ms": times(REPEATS // less),
        "aims_ms": AIM_MS,
    }
    found["wall_s"] = round(time.perf_counter() - begun, 1)
    print(text := as_text(found))
    if not options.quick:
        (RESULTS / "devices.json").write_text(json.dumps(found, indent=1) + "\n")
        (RESULTS / "devices.md").write_text(text)


def plans(model: str, count: int, seed: int) -> dict[str, int]:
    """Random plans on two GPUs of a model."""
    with fake([model, model]) as nvml, tempfile.TemporaryDirectory() as folder:
        machine = Machine(nvml, Path(folder))
        counts = random_sequence(machine, np.random.default_rng(seed), count)
        machine.close()
    return {"plans": count} | asdict(counts)


def on(name: str, trial: Callable[[FakeNvml, Any], Any]) -> dict[str, int]:
    """A series of trials on the machine of a case."""
    models, *_, options = CASES[name]
    machine: AbstractContextManager[FakeNvml] = fake(models.split(","), **machine_options(options))
    with machine as nvml:
        return asdict(trial(nvml, CASES[name]))


def times(repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a full repartition and of an inventory of 8 GPUs, and of ``show --json`` as a command."""
    with fake(["A100-80GB"] * GPUS) as nvml, tempfile.TemporaryDirectory() as folder:
        machine = Machine(nvml, Path(folder))
        small, large = [["1g.10gb"] * 7] * GPUS, [["4g.40gb", "3g.40gb"]] * GPUS
        applied, shown, calls = [], [], []
        machine.make(small)
        for at in range(repeats):
            # As a command finds it: a driver and an adapter that have read nothing yet.
            machine.begin_anew()
            before, begun = nvml.calls(), time.perf_counter()
            machine.make(large if at % 2 == 0 else small)
            applied.append(1e3 * (time.perf_counter() - begun))
            calls.append(nvml.calls() - before)
        machine.make(small)
        for _ in range(repeats):
            machine.begin_anew()
            begun = time.perf_counter()
            json.dumps(inventory(machine.driver).as_json())
            shown.append(1e3 * (time.perf_counter() - begun))
        machine.close()
        command = [command_ms(nvml, folder) for _ in range(max(3, repeats // 5))]
    return {
        "plan and apply": spread(applied) | {"calls": float(np.median(calls))},
        "inventory as JSON": spread(shown),
        "show --json, the whole command": spread(command),
    }


def command_ms(nvml: FakeNvml, folder: str) -> float:
    env = os.environ | nvml.env | {"RLTUNE_DEVICE": "nvml", "RLTUNE_STATE": folder}
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "rltune.devices", "show", "--json"], env=env, check=True, capture_output=True)
    return 1e3 * (time.perf_counter() - begun)


def spread(milliseconds: list[float]) -> dict[str, float]:
    return {
        "median": round(float(np.median(milliseconds)), 2),
        "p95": round(float(np.percentile(milliseconds, 95)), 2),
        "max": round(max(milliseconds), 2),
    }


def as_text(found: dict[str, Any]) -> str:
    lines = [
        "# The hardware adapter against a stand-in for NVML",
        "",
        f"`OMP_NUM_THREADS=1 {found['command']}` on {found['machine']}, {found['wall_s']:,.0f} s. Nothing of it was a real GPU.",
        "Every trial's outcome was checked against the hardware's state, read beside the driver: as planned, or exactly as",
        "before; running neighbours keep their instance numbers; nothing is left over.",
        "",
        "## Random plans",
        "",
        "Refused: no legal state meets the wish beside what is in use (by the planner's geometry), and nothing was called.",
        "Rolled back: a plan written by hand that no GPU can hold.",
        "",
        *table(found["plans"], "GPU type"),
        "",
        "## SIGKILL before and after the effect of every call of an apply, then a restart",
        "",
        "`before`, `after`: which of the two states the recovery said and was found; `nothing_begun`: killed before the",
        "journal's first write, and before any change.",
        "",
        *table(found["kills"], "plan"),
        "",
        f"The same with the recovery killed up to {RECOVERIES} times as well:",
        "",
        *table(found["kills_and_recoveries"], "plan"),
        "",
        f"## Each of {found['codes']} statuses answered by every call, without and with its effect",
        "",
        "`went_through`: after a retry, or of no consequence; `refused`: before anything was changed; `rolled_back`: exactly the state",
        "before. Each message is one line that names the status, or says what was misread.",
        "",
        *table(found["errors"], "plan"),
        "",
        f"## Milliseconds, {GPUS} x A100-80GB",
        "",
        "Plan and apply: 7 x 1g.10gb to 4g.40gb + 3g.40gb and back on all GPUs, from a new driver, journal on disk included.",
        "",
        *table(found["times_ms"], "what"),
        "",
        f"Aims: apply {AIM_MS['apply']:g} ms beyond the library's own time, show {AIM_MS['show']:g} ms.",
    ]
    return "\n".join(lines) + "\n"


def table(rows: dict[str, dict[str, float]], first: str) -> list[str]:
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [f"| {first} | " + " | ".join(name.replace("_", " ") for name in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(f"{row[c]:,}" if c in row else "" for c in columns) + " |")
    if all(isinstance(value, int) for row in rows.values() for value in row.values()):
        totals = [sum(int(row[c]) for row in rows.values()) for c in columns]
        lines.append("| all | " + " | ".join(f"{n:,}" for n in totals) + " |")
    return lines


if __name__ == "__main__":
    main()
