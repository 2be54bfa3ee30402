"""Trained on one trace, tested on the others: ``python experiments/transfer.py`` (RLTUNE_TRACES set).

Specialists: one training each on Helios, Philly and PAI, alike (score wait, the baseline chosen by validation), each then on 64
windows of the test stretches of all three, on their own clusters. Beside them the shipped ``helios_window`` (trained for longer), and
orders. Trainings that lie in ``--runs`` already are taken from there.
Writes results/transfer.{json,md}.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from hybrid import gain, percent
from scores import RESULTS, RULES, machine, mean, play, trained, windows

import rltune

COMMAND = "RLTUNE_TRACES=... OMP_NUM_THREADS=1 python experiments/transfer.py"
TRACES = ("helios", "philly", "alibaba")
SHIPPED = ("helios_window", "helios_window_s1", "helios_window_s2")


def measure(runs: Path) -> dict[str, Any]:
    """Mean waits of all policies on all traces, and each policy's against the specialist's."""
    policies: dict[str, Any] = {
        f"trained on {name}": trained(
            runs, "score_wait" if name == "helios" else f"wait_{name}", f"+trace={name}", "score=wait"
        )
        for name in TRACES
    }
    origins = {name: {"kept": p.origin["kept"], "baseline": p.baseline} for name, p in policies.items()}
    policies |= {name: rltune.load_policy(name) for name in SHIPPED} | {rule: rule for rule in RULES}
    rows, against = [], {}
    for trace in TRACES:
        among, cluster = windows(trace)
        played = {name: play(policy, among, cluster)["wait"] for name, policy in policies.items()}
        rows += [{"trace": trace, "policy": name, "wait_s": mean(found)} for name, found in played.items()]
        own = f"trained on {trace}"
        against[trace] = {name: gain([found], [played[own]]) for name, found in played.items() if name != own}
        against[trace][f"own baseline {origins[own]['baseline']}"] = gain(
            [played[origins[own]["baseline"]]], [played[own]]
        )
        print(trace, {name: round(mean(found)) for name, found in played.items()}, flush=True)
    return {"policies": origins, "rows": rows, "less_wait_than_specialist": against}


def text(out: dict[str, Any]) -> str:
    """The tables."""
    about, rows = out["_about"], out["rows"]
    lines = [
        "# From one trace to another", "",
        f"`{about['command']}`; real logs; machine: {about['machine']}. Mean wait, s, of 64 windows of each test stretch.", "",
        "| policy | " + " | ".join(TRACES) + " |", "|---|" + "---|" * len(TRACES),
    ]  # fmt: skip
    for name in dict.fromkeys(r["policy"] for r in rows):
        cells = [
            f"{next(r['wait_s'] for r in rows if (r['trace'], r['policy']) == (trace, name)):,.0f}" for trace in TRACES
        ]
        told = (
            f" ({out['policies'][name]['kept']}, from {out['policies'][name]['baseline']})"
            if name in out["policies"]
            else ""
        )
        lines.append(f"| {name}{told} | " + " | ".join(cells) + " |")
    lines += ["", "Less wait than the specialist of the trace, percent (95 %, windows drawn anew; negative: more):", ""]
    lines += ["| policy | " + " | ".join(TRACES) + " |", "|---|" + "---|" * len(TRACES)]
    for name in dict.fromkeys(r["policy"] for r in rows):
        cells = [percent(out["less_wait_than_specialist"][trace].get(name)) for trace in TRACES]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/scores"))
    given = parser.parse_args()
    out = {"_about": {"command": COMMAND, "machine": machine(), "source": "real"}} | measure(given.runs)
    (RESULTS / "transfer.json").write_text(json.dumps(out, indent=1) + "\n")
    (RESULTS / "transfer.md").write_text(text(out))


if __name__ == "__main__":
    main()
