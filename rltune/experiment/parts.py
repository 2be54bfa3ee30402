"""What each part of the hybrid is worth on the test stretch: the market, the order, what was learned, all of it together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rltune.core.choices import FASTEST, MARKET
from rltune.experiment.rows import Row, blocks_of, same_jobs
from rltune.nouns.metrics import reduction

CLASSIC = ("fifo", "las_levels", "las")
"""Orders of others that know no run times."""


def has_parts(options: Mapping[str, Any]) -> bool:
    """Whether there is a market whose worth can be told."""
    return options.get("way_rule") == MARKET


def part_orders(baseline: str) -> list[tuple[str, str]]:
    """(policy, rule of ways) of the rows that are compared, beside those of the table."""
    orders = dict.fromkeys([*CLASSIC, baseline])
    return [(policy, ways) for ways in (FASTEST, MARKET) for policy in orders]


def parts(rows: Sequence[Row], learned: Row, metric: str) -> list[dict[str, Any]]:
    """Each part: the row with it, the row without it, and by which share its mean is less, with a 95 % interval.

    ``learned``: the policy's row. The whole stands against the best classic order on the fastest type with room.
    """
    policy_rows = {(row.policy, row.ways): row for row in rows if not row.learned and row.backfill == learned.backfill}
    baseline = str(learned.baseline)
    classic = [policy_rows[name, FASTEST] for name in CLASSIC if (name, FASTEST) in policy_rows]
    if (baseline, FASTEST) not in policy_rows or not classic:
        return []
    best = min(classic, key=lambda row: float(np.concatenate(row.values(metric)).mean()))
    priced = policy_rows[baseline, MARKET]
    pairs = {
        "market": (priced, policy_rows[baseline, FASTEST]),
        "order": (priced, policy_rows["las_levels", MARKET]),
        "learned": (learned, priced),
        "all of it": (learned, best),
    }
    found = []
    for part, (ours, theirs) in pairs.items():
        row: dict[str, Any] = {"part": part, "rule": ours.name, "against": theirs.name}
        if same_jobs(ours, theirs):
            of = [np.concatenate(each.values(metric)) for each in (ours, theirs)]
            row |= reduction(*of, pairs=blocks_of(learned))
        found.append(row)
    return found


def parts_text(found: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Lines for the screen and for table.md."""
    lines = [f"What each part is worth: mean {metric} less by", ""]
    lines += ["| part | % (95 %) | rule | against |", "|---|---|---|---|"]
    for row in found:
        told = "-"
        if row.get("reduction") is not None:
            low, high = (100 * x for x in row["ci95"])
            told = f"{100 * row['reduction']:.1f} ({low:.1f} to {high:.1f})"
        lines.append(f"| {row['part']} | {told} | {row['rule']} | {row['against']} |")
    return "\n".join(lines) + "\n"
