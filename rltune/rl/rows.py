"""Training rows: many states of the core side by side, each with the book-keeping of its episode.

A row is the very state that simulations run on (`rltune.core.state.Sim`), in either build; kernels get it by reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from rltune.compiled import inner, verb
from rltune.core.conservative import stacked
from rltune.core.reference import Ref, Rows, at, ref, row_of
from rltune.core.shadows import copied
from rltune.core.state import (
    LOGGED,
    PER_JOB,
    Detail,
    Floats,
    Int8s,
    Int32s,
    Ints,
    Sim,
    empty_log,
    floats,
    int32s,
    ints,
    is_full,
    is_lean,
    larger_log,
)

# Slots of ``Episode.tally`` (seconds or score units): score so far; cost of jobs whose cost is settled; units of reward;
# last end of a run; first submission; GPU-seconds asked for (full build: held by runs that have ended); shadow time of the
# reservation; seconds of changing MIG instances before this instant.
TOTAL, SETTLED, SCALE, LAST_END, FIRST, WORK, SHADOW, REMADE_S = range(8)
TALLIES = 8
# Slots of ``Episode.mark``: jobs started at this instant; jobs that are scored; decisions; queue position of the reserved
# job; visible jobs; reserved job + 1 (0: none); nothing more to decide at this instant; episode over; rewards are paired
# with the baseline's; ended runs whose cost is settled; whether the log of runs needs more room before the episode goes on;
# looks at the queue; passes over it; running jobs in order, + 1 (0: not sorted at this instant); whether jobs have been
# suspended at this instant; whether only what fits may still start at it; GPUs whose MIG instances were changed before it.
FRESH, SCORED, DECISIONS, HEAD, SHOWN, RESERVED, CLOSED, OVER, PAIRED, READ = range(10)
FULL, LOOK, PASS, SORTED, MADE, LEFTOVERS, REMADE = range(10, 17)
MARKS = 17
SHARED = ("sim.cluster", "sim.choices", "sim.place", "sim.frontier", "sim.merged", "sim.passed", "sim.fitted", "sim.space.cost",
          "sim.spare.cost", "sim.shadow.cost", "sim.space.levels.cost", "sim.spare.levels.cost", "sim.shadow.levels.cost",
          "sim.detail.demand", "sim.detail.size", "sim.detail.amount", "sim.detail.listed",
          "sim.detail.market.share", "sim.detail.thresholds", "sim.detail.quota", "sim.detail.profile")  # fmt: skip
"""Parts that all rows have in common: what never changes in an episode, and work space."""
LOG = "sim.detail.log."


class Episode(NamedTuple):
    """Book-keeping of one episode of n_jobs jobs in n_classes classes, V of them visible.

    ``base`` (n_jobs,): when the baseline order starts each job (for paired rewards; NaN: not scored); ``scored``
    (n_jobs,): whether the job's cost counts; ``fresh`` (n_jobs,): jobs started at the present instant, the first
    ``mark[FRESH]``; ``slot`` (V,): queue positions of the visible jobs, the first ``mark[SHOWN]``; ``others`` (V,): work
    space of choosing them; ``tally`` and ``mark``: see the slots above.
    What is known of a class is the number of the look or pass it was found in, (n_classes,) each: ``fitting, misfit``: it
    fits, or not; ``hopeless``: for its next job no room can be made; ``barred``: it starts no more in this pass; ``passed``
    (n_jobs,): the same of single jobs. ``layout, changed`` (n_nodes, widest or 0): MIG instances of each GPU, and when their
    last change ends, before anything started at the present instant.
    """

    base: Floats
    scored: Int8s
    fresh: Int32s
    slot: Int32s
    others: Int32s
    fitting: Ints
    misfit: Ints
    hopeless: Ints
    barred: Ints
    passed: Ints
    layout: Ints
    changed: Floats
    tally: Floats
    mark: Ints


class Row(NamedTuple):
    """One state and its episode."""

    sim: Sim
    episode: Episode


def is_lean_row(row: Any, *_: Any) -> bool:
    """Whether the Numba type of a `Row` is that of the lean build: the condition of verbs."""
    return is_lean(row.place("sim")[1])


def is_full_row(row: Any, *_: Any) -> bool:
    """Whether the Numba type of a `Row` is that of the full build."""
    return is_full(row.place("sim")[1])


class Batch(NamedTuple):
    """``rows`` (n_envs,): addresses of `Row`s laid out as ``first``; ``table``: the workload that episodes are cut from."""

    first: Row
    rows: Ints
    table: Sim


def new_episode(sim: Sim, visible: int) -> Episode:
    """Nothing decided."""
    n_jobs, classes = len(sim.jobs.submit), len(sim.choices.ptr) - 1
    instances = sim.space.room.layout.shape if isinstance(sim.detail, Detail) else (0, 0)
    return Episode(
        base=np.full(n_jobs, np.nan), scored=np.zeros(n_jobs, np.int8), fresh=int32s(n_jobs), slot=int32s(visible),
        others=int32s(visible), fitting=ints(classes), misfit=ints(classes), hopeless=ints(classes), barred=ints(classes),
        passed=ints(n_jobs), layout=np.zeros(instances, np.int64), changed=np.zeros(instances), tally=floats(TALLIES),
        mark=ints(MARKS),
    )  # fmt: skip


class Training:
    """``n_envs`` rows for episodes of ``n_jobs`` consecutive jobs of ``table``.

    Attributes:
        value: `Row` with a leading axis of rows, for reading.
        batch: what kernels take.
    """

    def __init__(self, table: Sim, n_envs: int, n_jobs: int, visible: int) -> None:
        sim = cut(table, n_jobs)
        self.table, self.n_envs = table, n_envs
        self._spread(own(Row(sim, new_episode(sim, visible)), n_envs))

    def _spread(self, value: Row) -> None:
        self.value: Row = value
        self._rows = Rows(value, self.n_envs, SHARED)
        self._views: dict[int, Row] = {}
        self.batch: Ref = ref(Batch(self._rows.first.value, self._rows.addresses, self.table))

    def grow(self) -> None:
        """Twice the room for ended runs, in every row (full build); ``value`` and ``batch`` are others then."""
        sim = self.value.sim
        log = larger_log(sim.detail.log)
        self._spread(self.value._replace(sim=sim._replace(detail=sim.detail._replace(log=log))))

    def row(self, i: int) -> Row:
        """Row i: views, no copies."""
        if i not in self._views:
            self._views[i] = row_of(self.value, i, SHARED)
        return self._views[i]

    def state(self) -> dict[str, Any]:
        """All that differs between rows, by its dotted name; of logs the part that is in use. For `restore`."""
        used = dict(own_arrays(self.value))
        for name in [name for name in used if name.startswith(LOG)]:
            used[name] = used[name][:, : self._logged(name)]
        return used

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state` of as many rows of the same rules; ValueError for one that does not fit."""
        while any(
            state[name].shape[1] > part.shape[1] for name, part in own_arrays(self.value) if name.startswith(LOG)
        ):
            self.grow()
        mine = dict(own_arrays(self.value))
        if mine.keys() != state.keys():
            raise ValueError("it is of episodes of another kind")
        for name, array in mine.items():
            part = array[:, : state[name].shape[1]] if name.startswith(LOG) else array
            if part.shape != state[name].shape or part.dtype != state[name].dtype:
                raise ValueError(f"{name} is {state[name].shape}, not {part.shape}")
            part[...] = state[name]

    def _logged(self, name: str) -> int:
        """Entries of an array of the log up to the last that any row uses."""
        sim = self.value.sim
        runs = int(sim.counts[:, LOGGED].max())
        if name.endswith((".node", ".grant")):
            return int(sim.detail.log.ptr[np.arange(self.n_envs), sim.counts[:, LOGGED]].max())
        return runs + 1 if name.endswith(".ptr") else runs

    def copy(self, i: int) -> Sim:
        """The state of row i, as it is now."""
        found: Sim = copied(self.row(i).sim)
        return found


def own_arrays(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, array) of each that rows do not share, leading axis rows."""
    for field, part in zip(value._fields, value, strict=True):
        name = prefix + field
        if hasattr(part, "_fields"):
            yield from own_arrays(part, f"{name}.")
        elif isinstance(part, np.ndarray) and not name.startswith(SHARED):
            yield name, part


def own(value: Any, n: int, prefix: str = "") -> Any:
    """``value`` with a leading axis of ``n`` rows for each array that rows do not share."""
    parts = []
    for field, part in zip(value._fields, value, strict=True):
        name = prefix + field
        if hasattr(part, "_fields"):
            parts.append(own(part, n, f"{name}."))
        else:
            shared = name.startswith(SHARED) or not isinstance(part, np.ndarray)
            parts.append(part if shared else stacked(part, n))
    return type(value)(*parts)


def cut(table: Sim, n_jobs: int) -> Sim:
    """A state for ``n_jobs`` jobs: arrays of the table's length become that long, places as many as any stretch needs."""
    part = table.jobs.part
    places = int((part[n_jobs:] - part[:-n_jobs]).max())
    most = min(len(table.active), n_jobs)

    def shorter(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return np.ascontiguousarray(value[..., :n_jobs]).copy()
        return type(value)(*(shorter(part) for part in value))

    jobs = shorter(table.jobs)._replace(part=int32s(n_jobs + 1))
    sim: Sim = table._replace(
        jobs=jobs, queue=int32s(n_jobs), active=int32s(most), active_at=int32s(n_jobs), expected=int32s(most),
        expected_at=int32s(n_jobs), frontier=int32s(most + 1), start=floats(n_jobs), end=floats(n_jobs),
        believed=floats(n_jobs), turn=int32s(n_jobs), key=floats(n_jobs), alloc_node=int32s(places),
        alloc_grant=np.zeros(places, table.alloc_grant.dtype), alloc_len=int32s(n_jobs),
    )  # fmt: skip
    if not isinstance(table.detail, Detail):
        return sim
    detail = table.detail._replace(**{name: shorter(getattr(table.detail, name)) for name in PER_JOB})
    if len(detail.attained.size):
        detail = detail._replace(attained=detail.attained._replace(size=shorter(detail.attained.size)))
    runs = n_jobs * (1 + int(min(table.params.retries, 100))) + 1
    return sim._replace(detail=detail._replace(log=empty_log(runs, runs * max(1, places // n_jobs + 1))))


# --- loading an episode -----------------------------------------------------------------


@inner
def row_at(batch, i):
    """Row i."""
    return at(batch.first, batch.rows[i])


@inner
def load(sim, table, begin):
    """Copy the jobs ``begin, begin + 1, ...`` of the table into a state."""
    jobs, source = sim.jobs, table.jobs
    for j in range(len(jobs.submit)):
        k = begin + j
        jobs.submit[j] = source.submit[k]
        jobs.run[j] = source.run[k]
        jobs.known[j] = source.known[k]
        jobs.gpus[j] = source.gpus[k]
        jobs.cls[j] = source.cls[k]
        jobs.rank[j] = source.rank[k]
        jobs.part[j + 1] = source.part[k + 1] - source.part[begin]
    jobs.part[0] = 0
    load_detail(sim, table, begin)


@verb
def load_detail(sim, table, begin):
    """The same for what only the full build knows of jobs."""


@load_detail.when(is_lean)
def _load_detail_lean(sim, table, begin):
    pass


@load_detail.when(is_full)
def _load_detail_full(sim, table, begin):
    mine, theirs = sim.detail, table.detail
    for j in range(len(sim.jobs.submit)):
        k = begin + j
        mine.priority[j] = theirs.priority[k]
        mine.weight[j] = theirs.weight[k]
        mine.flow[j] = theirs.flow[k]
        mine.group[j] = theirs.group[k]
        for level in range(mine.groups.shape[0]):
            mine.groups[level, j] = theirs.groups[level, k]
    load_attained(mine.attained, theirs.attained, begin)


@inner
def load_attained(mine, theirs, begin):
    """What the Gittins index knows before the episode."""
    for j in range(len(mine.size)):
        mine.size[j] = theirs.size[begin + j]
    for row in range(theirs.cost.shape[0]):
        for b in range(theirs.cost.shape[1]):
            mine.cost[row, b] = theirs.cost[row, b]
            for what in range(3):
                mine.tally[what, row, b] = theirs.tally[what, row, b]
    mine.counts[0], mine.counts[1] = theirs.counts[0], theirs.counts[1]
