"""Kills and damage in the field: adapters killed beside foreign instances, swapped cards and resets; damaged fleet journals.

OMP_NUM_THREADS=1 python experiments/field_kills.py [--quick] [--adapters N] [--journals N]

Adds its counts to field_cases.json beside the other results (keys ``kills`` and ``journals``, and a row a kind), and writes
field_kills.json with all of them. No GPU: the stand-in of `experiments/devices.py` (tests/devices/fake_nvml) keeps the state of
MIG GPUs as hardware would; what is foreign is known by a counter of creations in that state, which the adapter does not see.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "devices"))

from fake_nvml import fake
from field_rows import ROWS
from field_trials import GPUS, MODEL, damage_journals, kill_adapters

RESULTS = ROOT / "experiments" / "results"
ADAPTERS, JOURNALS = 3000, 2000
SEED = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a hundredth of it, and nothing is written")
    parser.add_argument("--adapters", type=int, default=ADAPTERS, metavar="N", help="kills of adapters")
    parser.add_argument("--journals", type=int, default=JOURNALS, metavar="N", help="damaged journals")
    options = parser.parse_args()
    less = 100 if options.quick else 1
    begun = time.perf_counter()
    with fake([MODEL] * GPUS) as nvml:
        kills = asdict(kill_adapters(nvml, SEED, options.adapters // less))
    journals = asdict(damage_journals(SEED, options.journals // less))
    for line in kills.pop("faults") + journals.pop("faults"):
        print(line, file=sys.stderr)
    found = {
        "command": "python experiments/field_kills.py" + (" --quick" if options.quick else ""),
        "machine": f"{os.cpu_count()} cores, no GPU",
        "wall_s": round(time.perf_counter() - begun, 1),
        "adapters": kills,
        "journals": journals,
    }
    print(json.dumps(found, indent=1))
    if not options.quick:
        (RESULTS / "field_kills.json").write_text(json.dumps(found, indent=1) + "\n")
        merge(RESULTS / "field_cases.json", found)
    wrong = kills["foreign_touched"] + kills["false_reports"] + kills["left_over"] + journals["wrong"]
    sys.exit(bool(wrong))


def merge(path: Path, found: dict[str, Any]) -> None:
    """Our part of the record of all field cases; the rest of it stays as it is."""
    record = json.loads(path.read_text()) if path.exists() else {"rows": []}
    ours = {row["kind"] for row in ROWS}
    record["rows"] = [row for row in record.get("rows", []) if row["kind"] not in ours] + ROWS
    kills = found["adapters"]
    record.setdefault("kills", {}).update(
        adapters=kills["kills"],
        adapters_foreign_touched=kills["foreign_touched"],
        adapters_false_reports=kills["false_reports"],
    )
    record.setdefault("journals", {}).update(damaged=found["journals"]["damaged"], wrong=found["journals"]["wrong"])
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
