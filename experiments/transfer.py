"""Trained on Helios, tested on Philly too: ``python experiments/transfer.py`` (RLTUNE_TRACES set).

A training on Helios (score wait, the baseline chosen by validation), and the shipped ``helios_window`` policies, which were trained
for longer, each on 64 windows of the test stretches of Helios and of Philly, on their own clusters; beside them orders, all with EASY
and run times known. A specialist of Philly is not there to compare with; what stands in is the best order of each trace, known
afterwards. PAI's sample tells nothing: in windows on its own cluster nobody waits. A training that lies in ``--runs`` already is
taken from there. Writes results/transfer.{json,md}.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hybrid import gain, percent
from scores import RULES, mean, play, record, trained, windows

import rltune

COMMAND = "RLTUNE_TRACES=... OMP_NUM_THREADS=1 python experiments/transfer.py"
TRACES = ("helios", "philly")
SHIPPED = ("helios_window", "helios_window_s1", "helios_window_s2")


def measure(runs: Path) -> dict[str, Any]:
    """Mean waits of all policies on all traces; of each policy against its own baseline and against the trace's best order."""
    policies = {"trained here": trained(runs, "score_wait", "+trace=helios", "score=wait")}
    policies |= {name: rltune.load_policy(name) for name in SHIPPED}
    rows, against = [], {}
    for trace in TRACES:
        among, cluster = windows(trace)
        orders = {rule: play(rule, among, cluster)["wait"] for rule in RULES}
        best = min(orders, key=lambda rule: mean(orders[rule]))
        learned = {name: play(policy, among, cluster)["wait"] for name, policy in policies.items()}
        rows += [{"trace": trace, "policy": name, "wait_s": mean(found)} for name, found in (learned | orders).items()]
        against[trace] = {
            name: {
                "baseline": gain([found], [orders[policies[name].baseline]]),
                "best order": gain([found], [orders[best]]),
                "order": best,
            }
            for name, found in learned.items()
        }
        print(trace, {row["policy"]: round(row["wait_s"]) for row in rows if row["trace"] == trace}, flush=True)
    origins = {name: {"kept": p.origin["kept"], "baseline": p.baseline} for name, p in policies.items()}
    return {"policies": origins, "rows": rows, "less_wait": against}


def text(out: dict[str, Any]) -> str:
    """The tables."""
    about, rows = out["_about"], out["rows"]
    lines = [
        "# From Helios to Philly", "",
        f"`{about['command']}`; real logs; machine: {about['machine']}. 64 windows of 256 jobs of each test stretch, EASY.", "",
        "| policy | " + " | ".join(f"{trace}: mean wait, s" for trace in TRACES) + " |", "|---|" + "---|" * len(TRACES),
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
    lines += ["", "Less wait, percent (95 %, windows drawn anew; negative: more):", ""]
    lines += ["| policy | trace | than its baseline | than the best order there |", "|---|---|---|---|"]
    for trace, found in out["less_wait"].items():
        for name, x in found.items():
            lines.append(f"| {name} | {trace} | {percent(x['baseline'])} | {percent(x['best order'])} ({x['order']}) |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    record("transfer", measure, text, COMMAND)
