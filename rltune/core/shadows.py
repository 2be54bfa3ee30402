"""A copy of the present moment that may be run on by itself: a shadow.

It holds the waiting and running jobs with all that has become of them, and jobs that are yet to come; jobs that have ended are
left out, so that its size is that of the moment and not of the log. What the scheduler does not know is not copied but given: run
times, and who comes. Nothing fails in a shadow; nodes that are closed now stay so.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from rltune.core.state import (
    ARRIVED,
    FAULTS,
    FUTURE,
    LOGGED,
    LONGEST,
    NEWEST,
    NOW,
    ON_GPUS,
    PER_JOB,
    QUEUED,
    RUNNING,
    WAITING,
    Detail,
    Floats,
    Ints,
    Sim,
    copied,
    empty_log,
    floats,
    int32s,
    ints,
    longer,
)


class Cast(NamedTuple):
    """The jobs of a shadow: ``job`` (k,) rows of the state that they are, or are like; the first ``present`` are here now.

    ``submit, run`` (k,): seconds; of those to come submissions ascend and are not before now.
    """

    job: Ints
    present: int
    submit: Floats
    run: Floats


def present_jobs(sim: Sim) -> Ints:
    """Rows of the waiting and running jobs, ascending."""
    here = np.concatenate([sim.queue[: sim.counts[QUEUED]], sim.active[: sim.counts[RUNNING]]])
    return np.sort(here).astype(np.int64)


def progress_of(sim: Sim, job: Ints) -> Floats:
    """(k,) seconds of its run time that each job has done: `rltune.core.priorities.progress`, in either build."""
    now = sim.clock[NOW]
    if not isinstance(sim.detail, Detail):
        begun = sim.start[job]
        return np.where(np.isnan(begun), 0.0, np.fmin(now, sim.end[job]) - begun)
    detail = sim.detail
    running = np.where(detail.status[job] == ON_GPUS, np.maximum(0.0, now - detail.ready[job]) * detail.rate[job], 0.0)
    return detail.done[job] + running


def held_until(sim: Sim, instant: float) -> Floats:
    """(n_jobs,) seconds that each job has held places for by ``instant``, which is not before now."""
    if not isinstance(sim.detail, Detail):
        return np.where(np.isnan(sim.start), 0.0, np.minimum(sim.end, instant) - sim.start)
    detail = sim.detail
    return detail.held + np.where(detail.status == ON_GPUS, instant - detail.since, 0.0)


def shadow(sim: Sim, cast: Cast) -> Sim:
    """A state of its own that begins as ``sim`` is now, with the jobs of ``cast`` alone.

    Work space of finding places, classes, ways and the cluster are those of ``sim``.
    """
    job, k, n = cast.job, len(cast.job), cast.present
    row = np.full(len(sim.jobs.submit), -1, np.int32)
    row[job[:n]] = np.arange(n)
    jobs = sim.jobs._replace(
        submit=cast.submit.copy(), run=cast.run.copy(), part=int32s(k + 1),
        **{name: taken(getattr(sim.jobs, name), job) for name in ("known", "gpus", "cls", "rank")},
    )  # fmt: skip
    width = np.diff(sim.jobs.part)[job]
    np.cumsum(width, out=jobs.part[1:])
    places = np.repeat(sim.jobs.part[job] - jobs.part[:-1], width) + np.arange(int(jobs.part[-1]))
    most = max(1, min(k, len(sim.active)))
    counts, queued, running = sim.counts.copy(), sim.counts[QUEUED], sim.counts[RUNNING]
    counts[[ARRIVED, LOGGED, FAULTS]] = n, 0, 0
    made = sim._replace(
        jobs=jobs, choices=sim.choices._replace(guess=sim.choices.guess.copy()),
        counts=counts, clock=sim.clock.copy(), waiting=sim.waiting.copy(), passed=np.zeros_like(sim.passed),
        misfit=np.zeros_like(sim.misfit), fitted=np.zeros_like(sim.fitted), merged=int32s(k), frontier=int32s(most + 1),
        space=copied(sim.space), spare=copied(sim.spare), shadow=copied(sim.shadow),
        alloc_node=taken(sim.alloc_node, places), alloc_grant=taken(sim.alloc_grant, places),
        **{name: taken(getattr(sim, name), job) for name in ("start", "end", "believed", "turn", "key", "alloc_len")},
    )  # fmt: skip
    made.start[n:], made.end[n:], made.alloc_len[n:] = np.nan, np.nan, 0
    made = made._replace(queue=longer(row[sim.queue[:queued]], k))
    if isinstance(sim.detail, Detail):
        made = made._replace(detail=_detail(sim, made, cast, row), params=_nothing_fails(sim.params))
    retime(made, row[sim.active[:running]])
    active, active_at = heap_of(made.end, made.turn, row[sim.active[:running]], most, k)
    expected, expected_at = heap_of(made.believed, made.turn, row[sim.active[:running]], most, k)
    return made._replace(active=active, active_at=active_at, expected=expected, expected_at=expected_at)


def taken(part: Any, rows: Ints) -> Any:
    """These rows of an array with an entry a job, or a place, on its last axis; an array without any stays as it is."""
    return np.ascontiguousarray(part[..., rows]) if part.shape[-1] else part.copy()


def heap_of(key: Floats, turn: Any, running: Any, most: int, n_jobs: int) -> tuple[Any, Any]:
    """``heap`` (most,), ``place`` (n_jobs,) of running jobs by ``key``, ties by turn: sorted, they are a heap."""
    heap, place = int32s(most), int32s(n_jobs)
    heap[: len(running)] = running[np.lexsort((turn[running], key[running]))]
    place[heap[: len(running)]] = np.arange(len(running))
    return heap, place


def retime(made: Sim, running: Any) -> None:
    """Ends of the present runs by the run times of the shadow, which are not over yet."""
    run, now = made.jobs.run[running], made.clock[NOW]
    if isinstance(made.detail, Detail):
        detail = made.detail
        end = detail.ready[running] + (run - detail.done[running]) / detail.rate[running]
    else:
        end = made.start[running] + run
    made.end[running] = np.maximum(end, now)


def _nothing_fails(params: Any) -> Any:
    return params._replace(node_mtbf=np.inf, gpu_mtbf=np.inf)


def _detail(sim: Sim, made: Sim, cast: Cast, row: Any) -> Detail:
    """What the full build has besides."""
    detail, k, n = sim.detail, len(cast.job), cast.present
    own = {name: taken(getattr(detail, name), cast.job) for name in PER_JOB}
    for name in ("done", "since", "ready", "service", "held", "runs", "failures", "tag", "marked"):
        own[name][n:] = 0
    own["status"][n:], own["rate"][n:], own["final"][n:], own["fails"][:] = FUTURE, 1.0, np.nan, 0
    own["way"][n:] = sim.choices.ptr[made.jobs.cls[n:]]
    own["before"][:], own["behind"][:] = -1, -1
    _line(sim, made, row, own)
    attained = copied(detail.attained)
    if len(attained.size):
        attained = attained._replace(size=taken(detail.attained.size, cast.job))
    whole = {name: getattr(detail, name).copy() for name in ("mean", "used", "using", "used_at", "changed", "knobs")}
    places = int(made.jobs.part[-1])
    return detail._replace(
        attained=attained, market=copied(detail.market), log=empty_log(2 * k + 64, 2 * places + 64),
        listed_at=floats(0), listed_node=ints(0), listed_kind=ints(0), **own, **whole,
    )  # fmt: skip


def _line(sim: Sim, made: Sim, row: Any, own: dict[str, Any]) -> None:
    """The line of waiting jobs by since when they wait (`rltune.core.queue.join_line`), without those that have left it."""
    mine, at = [], int(sim.counts[LONGEST])
    while at > 0:
        if row[at - 1] >= 0 and sim.detail.status[at - 1] == WAITING:
            mine.append(int(row[at - 1]))
        at = int(sim.detail.behind[at - 1])
    made.counts[[LONGEST, NEWEST]] = (mine[0] + 1, mine[-1] + 1) if mine else (0, 0)
    for k, job in enumerate(mine):
        own["before"][job] = mine[k - 1] + 1 if k else 0
        own["behind"][job] = mine[k + 1] + 1 if k + 1 < len(mine) else 0
