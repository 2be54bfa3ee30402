"""What has become of the jobs and accounts of a living cluster, as plain values for the disk, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rltune.core.state import ON_GPUS, Sim
from rltune.simulator.carrying import LEARNED, MARKET, asked

NEVER = float("inf")
SAVED = (
    "status", "done", "since", "ready", "rate", "service", "held", "runs", "failures", "tag",
)  # fmt: skip
"""Parts of `Detail` that say what has become of a job."""


def saved_row(sim: Sim, row: int) -> dict[str, Any]:
    """A job so far; `restore_row` takes it."""
    out: dict[str, Any] = {name: getattr(sim.detail, name)[row].item() for name in SAVED}
    out |= {"start": sim.start[row].item(), "turn": int(sim.turn[row]), "known": float(sim.jobs.known[row])}
    base, m = int(sim.jobs.part[row]), int(sim.alloc_len[row])
    out["places"] = [[int(sim.alloc_node[base + i]), int(sim.alloc_grant[base + i])] for i in range(m)]
    way = int(sim.detail.way[row])
    out["way"] = [int(sim.choices.pool[way]), *asked(sim, int(sim.choices.way[way]))]
    return out


def restore_row(sim: Sim, row: int, kept: Mapping[str, Any]) -> None:
    """Fill the row of a job that has been submitted; it is yet to take its place (`rltune.simulator.carrying.stand_up`)."""
    for name in SAVED:
        getattr(sim.detail, name)[row] = kept[name]
    sim.start[row], sim.turn[row], sim.jobs.known[row] = kept["start"], kept["turn"], kept["known"]
    base, c = int(sim.jobs.part[row]), int(sim.jobs.cls[row])
    sim.alloc_len[row] = len(kept["places"])
    for i, (node, grant) in enumerate(kept["places"]):
        sim.alloc_node[base + i], sim.alloc_grant[base + i] = node, grant
    for q in range(int(sim.choices.ptr[c]), int(sim.choices.ptr[c + 1])):
        if [int(sim.choices.pool[q]), *asked(sim, int(sim.choices.way[q]))] == kept["way"]:
            sim.detail.way[row] = q
    if sim.detail.status[row] == ON_GPUS:
        left = (kept["known"] - kept["done"]) / kept["rate"]
        sim.end[row] = NEVER
        sim.believed[row] = NEVER if np.isnan(left) else kept["ready"] + left
        sim.detail.using[sim.detail.flow[row]] += size_held(sim, row)


def size_held(sim: Sim, row: int) -> float:
    """GPUs that a job holds, a share as its fraction."""
    return float(sim.detail.size[sim.choices.way[sim.detail.way[row]]])


def saved_accounts(sim: Sim, flows: Mapping[str | None, int]) -> dict[str, Any]:
    """Fair shares (``flows``: number of each account), prices, and what was learned of run times; `take_accounts` takes them."""
    detail = sim.detail
    return {
        "usage": [[name, float(detail.used[k]), float(detail.used_at[k])] for name, k in flows.items()],
        "market": {name: getattr(detail.market, name).tolist() for name in MARKET if len(detail.market.price)},
        "learned": {name: getattr(detail.attained, name).tolist() for name in LEARNED if detail.attained.tally.size},
    }


def take_accounts(sim: Sim, flows: Mapping[str | None, int], kept: Mapping[str, Any]) -> None:
    """Take up accounts of earlier; prices of other pools and what other policies have learned do not fit and are left."""
    detail = sim.detail
    for name, used, used_at in kept["usage"]:
        detail.used[flows[name]], detail.used_at[flows[name]] = used, used_at
    for part, values in ((detail.market, kept["market"]), (detail.attained, kept["learned"])):
        for name, value in values.items():
            into = getattr(part, name)
            if into.shape == np.shape(value):
                into[:] = value
