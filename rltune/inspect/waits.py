"""Why a job waited: who held the GPUs that it could have used, who started while it waited, and whether there was room."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from rltune.inspect.recorded import Schedule
from rltune.inspect.windows import sums

MOST_TOLD = 10
WORST = 20
MOMENTS = 500
EPSILON = 1e-6
"""Of a GPU."""
Rows = npt.NDArray[np.int64]


def worst(schedule: Schedule) -> list[dict[str, Any]]:
    """The jobs that waited longest, longest first."""
    wait = np.nan_to_num(schedule.wait_s, nan=-1.0)
    return [
        {"job": int(k), "name": schedule.names[k], "waited": float(wait[k]), "gpus": float(schedule.gpus[k]),
         "submitted": float(schedule.submit_s[k])}
        for k in np.argsort(-wait, kind="stable")[:WORST] if wait[k] > 0
    ]  # fmt: skip


def why(schedule: Schedule, job: int) -> dict[str, Any]:
    """What a run directory tells of a job's wait, as plain values."""
    own = np.flatnonzero(schedule.job == job)
    spans = [(float(a), float(b)) for j, a, b in zip(*schedule.waits, strict=True) if j == job]
    out: dict[str, Any] = {
        "job": job, "name": schedule.names[job], "gpus": float(schedule.gpus[job]),
        "submitted": float(schedule.submit_s[job]), "waits": spans, "waited": float(sum(b - a for a, b in spans)),
        "more": {name: values[job] for name, values in schedule.columns.items()},
        "runs": [{"start": float(schedule.start_s[r]), "end": float(schedule.end_s[r]), "gpus": float(schedule.held[r]),
                  "note": schedule.note[r], "where": where(schedule, int(r))} for r in own],
    }  # fmt: skip
    if not spans:
        return out
    runs, pools = usable(schedule, job)
    out["pools"] = pools
    out["holders"] = holders(schedule, job, runs, spans)
    out |= started(schedule, job, runs, spans)
    # Of shares and MIG slices free GPUs say nothing: what matters is how GPUs are cut.
    if schedule.kind == "simulation" and float(schedule.gpus[job]).is_integer() and not cut(schedule, own):
        out["room"] = room(schedule, job, spans)
    return out


def where(schedule: Schedule, run: int) -> list[str]:
    """Nodes of a run, each once."""
    return [schedule.nodes[n]["name"] for n in dict.fromkeys(schedule.bars.node[schedule.bars.run == run].tolist())]


def cut(schedule: Schedule, runs: Rows) -> bool:
    """Whether some of these runs held less than whole GPUs."""
    return bool((schedule.held[runs] % 1 > EPSILON).any())


def pools_for(schedule: Schedule, job: int) -> list[int]:
    """Pools that take the job's virtual cluster and width; of GPU types that a job asked for nothing is recorded."""
    vc = schedule.columns.get("virtual cluster", [None] * len(schedule.names))[job]
    of_width = [
        k for k, pool in enumerate(schedule.pools)
        if pool.get("max_gpus_per_job") is None or pool["max_gpus_per_job"] >= schedule.gpus[job]
    ]  # fmt: skip
    own = [k for k in of_width if schedule.pools[k].get("vc") in (None, vc)]
    return own or of_width


def usable(schedule: Schedule, job: int) -> tuple[Rows, list[str]]:
    """Runs on nodes of pools that the job could have used, and the pools' names; all runs where places are not recorded."""
    if not schedule.nodes:
        return np.arange(len(schedule.job)), []
    pools = pools_for(schedule, job)
    of_pools = np.isin([node["pool"] for node in schedule.nodes], pools)
    touched = np.zeros(len(schedule.job), bool)
    touched[schedule.bars.run[of_pools[schedule.bars.node]]] = True
    return np.flatnonzero(touched), [str(schedule.pools[k]["name"]) for k in pools]


def holders(schedule: Schedule, job: int, runs: Rows, spans: Iterable[tuple[float, float]]) -> list[dict[str, Any]]:
    """Who held most GPU-seconds of those pools while the job waited."""
    seconds = sum((overlap(schedule, runs, a, b) for a, b in spans), np.zeros(len(runs)))
    by_job = sums(schedule.job[runs], seconds * schedule.held[runs], len(schedule.names))
    by_job[job] = 0.0
    first = np.argsort(-by_job, kind="stable")[:MOST_TOLD]
    all_of_it = float(by_job.sum())
    return [
        {"job": int(k), "name": schedule.names[k], "gpus": float(schedule.gpus[k]), "gpu_s": float(by_job[k]),
         "share": float(by_job[k]) / all_of_it, "submitted": float(schedule.submit_s[k])}
        for k in first if by_job[k] > 0
    ]  # fmt: skip


def overlap(schedule: Schedule, runs: Rows, begin_s: float, end_s: float) -> npt.NDArray[np.float64]:
    """(len(runs),) seconds of each run within a stretch."""
    return np.maximum(0.0, np.minimum(schedule.end_s[runs], end_s) - np.maximum(schedule.start_s[runs], begin_s))


def started(schedule: Schedule, job: int, runs: Rows, spans: list[tuple[float, float]]) -> dict[str, Any]:
    """Runs of others that started in those pools while it waited; those of jobs that came later overtook it."""
    at = schedule.start_s[runs]
    within = np.zeros(len(runs), bool)
    for a, b in spans:
        within |= (at >= a) & (at < b)
    others = runs[within & (schedule.job[runs] != job)]
    later = others[schedule.submit_s[schedule.job[others]] > schedule.submit_s[job]]
    gpu_s = (schedule.end_s - schedule.start_s) * schedule.held
    largest = later[np.argsort(-gpu_s[later], kind="stable")[:MOST_TOLD]]
    return {
        "started": len(others),
        "overtook": len(later),
        "overtook_gpu_s": float(gpu_s[later].sum()),
        "smaller": int((schedule.gpus[schedule.job[later]] < schedule.gpus[job]).sum()),
        "overtakers": [
            {"job": int(schedule.job[r]), "name": schedule.names[schedule.job[r]], "gpus": float(schedule.held[r]),
             "start": float(schedule.start_s[r]), "gpu_s": float(gpu_s[r]), "submitted": float(schedule.submit_s[schedule.job[r]])}
            for r in largest
        ],
    }  # fmt: skip


def room(schedule: Schedule, job: int, spans: list[tuple[float, float]]) -> dict[str, float]:
    """Shares of its wait in which those pools had as many GPUs free as it asks for: in all, and on as few nodes as it needs.

    Judged at `MOMENTS` moments, evenly spaced over the wait.
    """
    bars, need = schedule.bars, float(schedule.gpus[job])
    pools = pools_for(schedule, job)
    nodes = np.array([k for k, node in enumerate(schedule.nodes) if node["pool"] in pools])
    cap = np.array([schedule.nodes[k]["gpus"] for k in nodes], float)
    at_node = np.full(len(schedule.nodes), -1)
    at_node[nodes] = np.arange(len(nodes))
    times = moments_of(spans)
    seen = np.flatnonzero((bars.start_s <= times[-1]) & (bars.end_s > times[0]) & (at_node[bars.node] >= 0))
    first, last = (np.searchsorted(times, at[seen]) for at in (bars.start_s, bars.end_s))
    width = len(times) + 1
    cell = np.tile(at_node[bars.node[seen]] * width, 2) + np.concatenate([first, last])
    change = np.concatenate([-bars.height[seen], bars.height[seen]])
    moved = sums(cell, change, len(nodes) * width).reshape(len(nodes), width)
    free = cap[:, None] + np.cumsum(moved, axis=1)[:, :-1]
    enough = free.sum(axis=0) >= need - EPSILON
    return {"free_in_all": float(enough.mean()), "free_together": float((enough & together(free, cap, need)).mean())}


def moments_of(spans: list[tuple[float, float]]) -> npt.NDArray[np.float64]:
    """(MOMENTS,) in the middles of equal parts of all stretches together."""
    length = np.array([b - a for a, b in spans])
    ends = np.cumsum(length)
    at = (np.arange(MOMENTS) + 0.5) / MOMENTS * ends[-1]
    which = np.searchsorted(ends, at)
    return np.array([a for a, _ in spans])[which] + at - (ends - length)[which]


def together(free: npt.NDArray[np.float64], cap: npt.NDArray[np.float64], need: float) -> npt.NDArray[np.bool_]:
    """(n_moments,) whether ``need`` GPUs are free on as few nodes as they fit on; ``free`` (n_nodes, n_moments)."""
    widest = float(cap.max())
    if need <= widest:
        return np.asarray(free.max(axis=0) >= need - EPSILON)
    empty = (free >= cap[:, None] - EPSILON) & (cap == widest)[:, None]
    full, rest = divmod(need, widest)
    whole = empty.sum(axis=0)
    partly = np.where(empty, 0.0, free).max(axis=0)
    return np.asarray((whole > full) | ((whole == full) & (partly >= rest - EPSILON)))
