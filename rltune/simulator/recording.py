"""What was decided at each instant, and by what: written down while a simulation decides, for whoever looks at it later.

A `Recorder` stands beside the decision and changes nothing of it: keys are read where the kernels are about to go by them, scores
where a network has given them, terms where the solver tells them. Without one, nothing is asked and the kernels decide alone.

Two tables come of it (`Recorder.decisions`, `Recorder.plans`):

decisions: a row for each instant at which some job started or fitted; of a policy that picks, a row for each pick. ``job``
(lists): rows of the job table, the first `MOST` in the policy's order (picks: as the agent sees them), those that started and the
next one included; ``score``: what the policy goes by; ``legal``: whether the job fits before anybody starts (picks: may be picked).
plans: a row for each decision of the joint solver.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rltune.allocators.problem import TERMS
from rltune.compiled import kernel
from rltune.core.loop import start_here
from rltune.core.priorities import key_of
from rltune.core.reference import Ref
from rltune.core.resources.verbs import fits
from rltune.core.state import NOW, QUEUED, Floats, Ints, Sim
from rltune.nouns.jobs import JobTable
from rltune.nouns.plan import Keys, Policy, Queue, Snapshot
from rltune.policies.dynamic import STATIC
from rltune.policies.meanings import MEANINGS
from rltune.policies.orders import ALIASES, ORDERS, Order, columns_of, sequence, static_keys
from rltune.policies.preemptive import PREEMPTIVE_ALIASES

MOST = 16
"""Jobs of a decision that are written down."""
WAITS, NOBODY = -1, -2
"""In place of a job: to wait was chosen (or nobody started); there was nobody else."""
METADATA_KEY = b"rltune.decisions"
DECISIONS, PLANS = "decisions.parquet", "milp.parquet"
"""Files of a run directory."""


LOG1P, LOG, SHARE, FLAG, PLAIN = "log1p", "log", "share", "flag", "plain"
"""How a policy sees a value: clipped logarithms, a share of 1, yes or no, as it is."""


@dataclass(frozen=True, slots=True)
class Feature:
    """What a number that a policy sees stands for; of logarithms seen = min(1, scale * log1p(value)), the value in ``unit``."""

    name: str
    unit: str = ""
    kind: str = PLAIN
    scale: float = 1.0


RUN_TIME = Feature("run_time", "s")
"""What a rule knows beside the key: the run time as believed, NaN where it is unknown."""


class Row:
    """A row of the table of decisions; ``features`` (n_jobs, n_features)."""

    def __init__(self, now_s: float, waiting: int, jobs: Ints, scores: Floats, legal: Any, features: Any) -> None:
        self.now_s, self.waiting, self.jobs, self.scores = now_s, waiting, jobs, scores
        self.legal, self.features = legal, features
        self.started: Ints = np.zeros(0, np.int64)
        self.chosen, self.runner_up, self.odds, self.wait = WAITS, NOBODY, (np.nan, np.nan), np.nan
        self.seen: Sequence[float] = ()
        self.levers: Mapping[str, float] = {}

    def keep(self, which: Ints) -> None:
        """Only these of the jobs."""
        self.jobs, self.scores, self.legal = self.jobs[which], self.scores[which], self.legal[which]
        self.features = self.features[which]


@dataclass
class Recorder:
    """Hears of every decision of one simulation.

    ``score``: what jobs are ordered by, in words; ``values`` (n_jobs,): keys of an order that does not change, whose ranks the
    kernels go by; None: theirs are the keys. ``picks``: a network picks one job after the other, by the largest score.
    ``by_policy``: a policy outside the kernels gives the keys. ``world, levers``: what an agent in index form saw when its
    round began, and what it has set.
    """

    score: str
    values: Floats | None = None
    picks: bool = False
    features: Sequence[Feature] = (RUN_TIME,)
    seen: Sequence[Feature] = ()
    levels: Sequence[Mapping[str, float]] = ()
    rows: list[Row] = field(default_factory=list)
    solved: list[dict[str, Any]] = field(default_factory=list)
    by_policy: bool = False
    world: Any = ()
    levers: Mapping[str, float] = field(default_factory=dict)
    _state: Ref | None = None
    _now_s: float = 0.0
    _row: Row | None = None
    _waits: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))

    @classmethod
    def of(cls, policy: Any, jobs: JobTable, known_s: Floats) -> Recorder:
        """For a policy by name, or (an object) one that tells its own keys or scores."""
        named = policy.name if isinstance(policy, Order) else getattr(policy, "baseline", policy)
        if not isinstance(named, str):
            return cls("the policy's key")
        name = PREEMPTIVE_ALIASES.get(named, ALIASES.get(named, named))
        chosen, values = ORDERS.get(name), None
        known = chosen is not None and not (chosen.needs_run_time and np.isnan(known_s).any())
        if chosen is not None and known and chosen.code == STATIC:
            values = np.asarray(columns_of(static_keys(chosen, jobs, known_s), len(jobs))[0], np.float64)
        return cls(MEANINGS.get(name, "its key"), values)

    # --- what is heard -------------------------------------------------------------------

    def open(self, state: Ref) -> None:
        """An instant at which jobs wait, before anything is decided."""
        sim: Sim = state.value
        self._state, self._now_s, self._row = state, float(sim.clock[NOW]), None

    def look(self, state: Ref) -> None:
        """The kernels are about to go by the keys of this instant."""
        sim: Sim = state.value
        queue = sim.queue[: sim.counts[QUEUED]].astype(np.int64)
        keys = np.empty(len(queue))
        keys_now(state, keys)
        first = np.lexsort((queue, keys))
        self._note(state, queue[first], keys[first] if self.values is None else self.values[queue[first]])

    def heard(self, policy: Policy) -> Policy:
        """The same policy; the keys that it gives are written down."""
        self.by_policy = True

        def telling(queue: Queue, snapshot: Snapshot) -> Keys:
            keys = policy(queue, snapshot)
            n = len(queue)
            first = sequence(keys, n)
            first = first[~queue.running[first]] if len(queue.running) else first
            if self._state is not None:
                self._note(
                    self._state, queue.job[first].astype(np.int64), columns_of(keys, n)[0][first].astype(np.float64)
                )
            return keys

        return telling

    def _note(self, state: Ref, jobs: Ints, scores: Floats) -> None:
        """All waiting jobs in order, and what they are ordered by."""
        fit = np.zeros(len(jobs), np.int8)
        which_fit(state, jobs, fit)
        known = state.value.jobs.known[jobs][:, None].copy()
        self._row = Row(self._now_s, len(jobs), jobs, scores, fit == 1, known)
        self._row.seen, self._row.levers = self.world, self.levers

    def close(self, state: Ref) -> None:
        """What has been decided at this instant: kept where some job could have started."""
        row, sim = self._row, state.value
        self._state = None
        if row is None:
            return
        if len(self._waits) < len(sim.start):
            self._waits = np.zeros(len(sim.start), np.bool_)
        left = sim.queue[: sim.counts[QUEUED]]
        self._waits[left] = True
        began, wait = np.flatnonzero(~self._waits[row.jobs]), np.flatnonzero(self._waits[row.jobs])
        self._waits[left] = False
        if not len(began) and not row.legal.any():
            return
        row.started = row.jobs[began]
        row.chosen = int(row.started[0]) if len(began) else WAITS
        row.runner_up = int(row.jobs[wait[0]]) if len(wait) else NOBODY
        row.keep(np.unique(np.concatenate([np.arange(min(len(row.jobs), MOST)), began[:MOST], wait[:1]])))
        self.rows.append(row)

    def picked(self, now_s: float, waiting: int, seen: tuple[Any, Any, Any, Any], scores: Any) -> None:
        """A network's scores (V + 1,), waiting last.

        ``seen``: the visible jobs (n,), what may be done (V + 1,), features of the jobs (V, n_features) and of the cluster.
        """
        jobs, mask, features, cluster = seen
        self._now_s, n = now_s, len(jobs)
        odds = np.exp(scores.astype(np.float64) - scores.max())
        odds /= odds.sum()
        best = np.argsort(-odds, kind="stable")
        best = best[mask[best] == 1][:2]
        legal = mask[:n] == 1
        row = Row(now_s, waiting, jobs.astype(np.int64), np.where(legal, scores[:n], np.nan), legal, features[:n])
        row.keep(np.unique(np.array([*range(min(n, MOST)), *(a for a in best if a < n)], np.int64)))
        named = [int(jobs[a]) if a < n else WAITS for a in best]
        row.chosen, row.runner_up = (*named, NOBODY)[:2]
        row.odds = (float(odds[best[0]]), float(odds[best[1]]) if len(best) > 1 else np.nan)
        row.wait = float(scores[-1]) if mask[-1] == 1 else np.nan
        row.started = np.array([j for j in named[:1] if j >= 0], np.int64)
        row.seen = cluster.copy()
        self.rows.append(row)

    def told(self, places: Sequence[Any], report: Mapping[str, Any]) -> None:
        """A decision of the joint solver (`rltune.allocators.joint.Decision`); one about no job is none."""
        if not places:
            return
        other = report["runner_up"]
        self.solved.append(
            {
                "time_s": self._now_s, "jobs": len(places), "starts": sum(place is not None for place in places),
                "status": report["status"], "winner": report["winner"], "reason": report["reason"],
                "objective": report["objective"], "bound": report["bound"], "gap": report["gap"],
                "states": report["states"], "solve_s": report["time_s"],
                **{f"winner_{term}": report["terms"][term] for term in TERMS},
                "runner_up": other and other["plan"], "runner_up_objective": other and other["objective"],
                **{f"runner_up_{term}": other and other["terms"][term] for term in TERMS},
            }
        )  # fmt: skip

    # --- what comes of it ----------------------------------------------------------------

    def decisions(self) -> pa.Table:
        """The table of decisions; its metadata say what the columns are."""
        rows = self.rows
        ptr = np.concatenate([[0], np.cumsum([len(row.jobs) for row in rows], dtype=np.int64)]).astype(np.int32)
        start = np.concatenate([[0], np.cumsum([len(row.started) for row in rows], dtype=np.int64)]).astype(np.int32)
        levers = list(dict.fromkeys(name for row in rows for name in row.levers))
        features = _joined([row.features for row in rows], np.float32).reshape(-1, len(self.features))
        seen = np.array([row.seen for row in rows], np.float32).reshape(len(rows), -1)
        columns: dict[str, Any] = {
            "time_s": np.array([row.now_s for row in rows], np.float64),
            "waiting": np.array([row.waiting for row in rows], np.int32),
            "chosen": np.array([row.chosen for row in rows], np.int32),
            "runner_up": np.array([row.runner_up for row in rows], np.int32),
            "chosen_p": np.array([row.odds[0] for row in rows], np.float32),
            "runner_up_p": np.array([row.odds[1] for row in rows], np.float32),
            "wait_score": np.array([row.wait for row in rows], np.float32),
            "started": _lists(start, _joined([row.started for row in rows], np.int32)),
            "job": _lists(ptr, _joined([row.jobs for row in rows], np.int32)),
            "score": _lists(ptr, _joined([row.scores for row in rows], np.float64)),
            "legal": _lists(ptr, _joined([row.legal for row in rows], np.bool_)),
        }
        columns |= {f"job_{x.name}": _lists(ptr, features[:, k].copy()) for k, x in enumerate(self.features)}
        columns |= {f"seen_{x.name}": seen[:, k].copy() for k, x in enumerate(self.seen)} if seen.shape[1] else {}
        columns |= {f"lever_{x}": np.array([row.levers.get(x, np.nan) for row in rows]) for x in levers}
        about = {
            "score": self.score, "picks": self.picks, "levers": levers,
            "features": [asdict(x) for x in self.features],
            "seen": [asdict(x) for x in self.seen] if seen.shape[1] else [],
        }  # fmt: skip
        return pa.table(columns).replace_schema_metadata({METADATA_KEY: json.dumps(about)})

    def plans(self) -> pa.Table:
        """The table of joint decisions; its metadata hold the levels of the objective."""
        about = {"levels": [dict(level) for level in self.levels], "terms": list(TERMS)}
        return pa.Table.from_pylist(self.solved, schema()).replace_schema_metadata({METADATA_KEY: json.dumps(about)})

    def write(self, file: Any) -> None:
        """``file(name)``: the path of a name in the run directory."""
        pq.write_table(self.decisions(), file(DECISIONS), compression="zstd")
        if self.levels:
            pq.write_table(self.plans(), file(PLANS), compression="zstd")


def schema() -> pa.Schema:
    """Columns of the table of joint decisions."""
    numbers, whole, text, several = pa.float64(), pa.int32(), pa.string(), pa.list_(pa.float64())
    return pa.schema(
        {
            "time_s": numbers, "jobs": whole, "starts": whole, "status": text, "winner": text, "reason": text,
            "objective": several, "bound": several, "gap": numbers, "states": whole, "solve_s": numbers,
            **{f"winner_{term}": numbers for term in TERMS}, "runner_up": text, "runner_up_objective": several,
            **{f"runner_up_{term}": numbers for term in TERMS},
        }
    )  # fmt: skip


def _joined(arrays: list[Any], kind: Any) -> npt.NDArray[Any]:
    return np.concatenate([*(x.ravel() for x in arrays), np.empty(0)]).astype(kind)


def _lists(ptr: Any, values: Any) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(ptr), pa.array(values))


# --- beside a decision ---------------------------------------------------------------------


@dataclass(slots=True)
class Recorded:
    """A decision that is written down; ``decision`` None: the kernels'. A `rltune.simulator.decisions.Decision`."""

    decision: Any
    recorder: Recorder
    _looks: bool = field(init=False)

    def __post_init__(self) -> None:
        # A guarded policy decides by what it guards.
        inner = getattr(self.decision, "inner", self.decision)
        tells = hasattr(inner, "tell")
        if tells:
            inner.tell(self.recorder)
        self._looks = not tells and not self.recorder.by_policy

    def take(self, state: Ref) -> None:
        """Let it decide."""
        self.recorder.open(state)
        if self._looks:
            self.recorder.look(state)
        if self.decision is None:
            start_here(state)
        else:
            self.decision.take(state)
        self.recorder.close(state)


def beside(decision: Any, recorder: Recorder | None) -> Any:
    """The decision, written down where there is a recorder."""
    return decision if recorder is None else Recorded(decision, recorder)


@contextmanager
def hearing(recorder: Recorder | None, allocator: Any) -> Iterator[None]:
    """In this context the recorder hears of what the allocator's joint solver decides."""
    solver = getattr(allocator, "solver", None)
    if recorder is None or solver is None:
        yield
        return
    recorder.levels = solver.levels
    solver.listener = recorder.told
    try:
        yield
    finally:
        solver.listener = None


@kernel
def keys_now(sim, key):
    """Keys of the waiting jobs at this instant, as they stand in the queue."""
    for k in range(sim.counts[QUEUED]):
        key[k] = key_of(sim, sim.queue[k])


@kernel
def which_fit(sim, job, fit):
    """1 where a job fits now."""
    for k in range(len(job)):
        fit[k] = 1 if fits(sim, sim.space, job[k]) else 0
