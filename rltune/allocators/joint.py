"""One joint decision: classes of nodes, columns, the model, the incumbents, and names for what was counted.

`JointSolver.decide` is the whole way: `Instance` and known plans in, `Decision` out. No decision is worse, by the
model's own objective, than the best of the known plans, at any time limit.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rltune.allocators.columns import list_parts, search_columns, single_costs
from rltune.allocators.formulation import Formulation, Instance, Place, Plan, formulate
from rltune.allocators.highs import Session
from rltune.allocators.lower_bound import least_costs
from rltune.allocators.measure import Measure
from rltune.allocators.plan_terms import best_of, less, plan_terms, score, single_pools
from rltune.allocators.problem import (
    EPS,
    ERROR,
    INFEASIBLE,
    OPTIMAL,
    RESTRICTED,
    TIME_LIMIT,
    Level,
    Problem,
    Solved,
)  # fmt: skip
from rltune.allocators.realise import Answer, patterns_in_use, realise
from rltune.allocators.rows import FULL, Given, Search, build_search
from rltune.allocators.states import Classes, classes_of
from rltune.core.resources.slices import START_BIT

if TYPE_CHECKING:
    from rltune.allocators.model import PyomoSession

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(slots=True)
class Stats:
    """Counters over the life of a solver; ``fallbacks``: reason -> how often a known plan stood in for the model's.

    ``suspended, moved, kept``: running jobs that were decided on, by what became of them.
    """

    calls: int = 0
    trivial: int = 0
    cache_hits: int = 0
    solves: int = 0
    branchings: int = 0
    improved: int = 0
    truncated: int = 0
    restricted: int = 0
    splits_left_out: int = 0
    fallbacks: dict[str, int] = field(default_factory=dict)
    suspended: int = 0
    moved: int = 0
    kept: int = 0
    time_s: float = 0.0
    solver_time_s: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def fall_back(self, reason: str) -> None:
        self.fallbacks[reason] = self.fallbacks.get(reason, 0) + 1


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """``places``: one a job, None = does not start; ``report``: status, objective, bound, gap, time, winner, its terms, fallback.

    ``runner_up`` in the report: the best of the other known plans, with its objective and terms; None where there was no other.
    """

    places: list[Place | None]
    report: dict[str, Any]


@dataclass(slots=True)
class JointSolver:
    """Solves `Instance`s.

    ``levels``: of the objective, see `rltune.allocators.model`; ``rows``: patterns searched at most; ``near``: where the
    states are too many for that, each part is tried on so many cheapest states only; ``spread``: nodes a gang may use beyond the
    fewest; ``time_limit_s``: of the solver, for one decision; ``cache_size``: optimal answers kept, the latest used;
    ``interface``: highs, or pyomo (`rltune.allocators.model`, slower). ``last``: the report of the last decision; ``listener``: is
    told the places and the report of each.
    """

    levels: tuple[Level, ...]
    time_limit_s: float = 1.0
    rows: int = 4096
    near: int = 8
    spread: int = 0
    cache_size: int = 20_000
    interface: str = "highs"
    stats: Stats = field(default_factory=Stats, init=False)
    last: dict[str, Any] | None = field(default=None, init=False, repr=False)
    listener: Callable[[list[Place | None], dict[str, Any]], None] | None = field(default=None, init=False, repr=False)
    session: Session | PyomoSession = field(init=False, repr=False)
    _search: tuple[Any, Search] | None = field(default=None, init=False, repr=False)
    _answers: OrderedDict[Any, Answer] = field(default_factory=OrderedDict, init=False, repr=False)
    _measure: Measure | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.session = self._fresh_session()

    def decide(
        self, instance: Instance, measure: Measure, known: Mapping[str, Plan], *, by_gpu: bool = False
    ) -> Decision:
        """The best plan of the model and of the ``known`` ones, which must be feasible and of which there is at least one.

        ``by_gpu``: the measure is a sum over GPUs (nothing in the workload wants several, or CPU or memory), so that
        pools where the jobs too want single GPUs and no CPU or memory is declared are counted GPU by GPU.
        """
        begun = time.perf_counter()
        self.stats.calls += 1
        if measure is not self._measure:
            # Answers are of one measure on one cluster; an id may be given to another object later.
            self._answers.clear()
            self._measure = measure
        made = formulate(instance, self.spread)
        placed = (sum(len(place.nodes) for place in plan if place is not None) for plan in known.values())
        search = self._space(instance, max(int(made.parts.sum()), *placed))
        self.stats.splits_left_out += made.left_out
        # Gangs hold places on several GPUs at once: where running jobs are decided on, a unit is a node.
        by_gpu = by_gpu and instance.holders is None
        single = single_pools(instance, made) if by_gpu else np.zeros(len(instance.cluster.pool_cap), np.int64)
        terms = {name: plan_terms(instance, plan, measure, search, single) for name, plan in known.items()}
        scored = {name: score(terms[name], self.levels) for name in known}
        winner = best_of(scored)
        incumbent, places, reason = scored[winner], list(known[winner]), ""
        status, bounds, value, states = OPTIMAL, incumbent, incumbent, 0
        # Where a known plan starts everybody, who starts is settled; what is left is where.
        settled = None not in places and set(self.levels[0]) == {"value"}
        instance = replace(instance, all_start=instance.all_start or settled)
        levels = self.levels[1:] if settled else self.levels
        if len(instance.jobs) and levels:
            classes = self._classes(instance, made, single)
            made = _told_apart(made, classes)
            states = len(classes.first)
            cut = len(self.levels) - len(levels)
            answer, reason = self._answer(instance, made, classes, measure, search, levels, incumbent[cut:])
            status, bounds = answer.solved.status, incumbent[:cut] + answer.bounds
            if answer.solved.s is not None:
                found = realise(instance, made, classes, answer)
                found_terms = plan_terms(instance, found, measure, search, single)
                value = score(found_terms, self.levels)
                if less(value, incumbent):
                    terms["milp"] = found_terms
                    self.stats.improved += 1
                    # A better plan was found in time: the status tells that it may not be the best, but nothing stood in for it.
                    winner, places, reason = "milp", found, ""
                else:
                    value = incumbent
        else:
            self.stats.trivial += 1
        if reason:
            self.stats.fall_back(reason)
        elapsed = time.perf_counter() - begun
        self.stats.time_s += elapsed
        report = _report(status, winner, value, bounds, scored, reason)
        report |= {"terms": terms[winner], "runner_up": _runner_up(winner, scored, terms)}
        self.last = report | {"states": states, "time_s": elapsed}
        if self.listener is not None:
            self.listener(places, self.last)
        return Decision(places, self.last)

    # --- the model -----------------------------------------------------------------------

    def _classes(self, instance: Instance, made: Formulation, single: Ints) -> Classes:
        """Units on which some part could go, in equal states."""
        cluster, room = instance.cluster, instance.room
        wanted = made.items.hi > made.items.lo
        gpu_needed = np.array(
            [bool((made.items.demand.milli[a:b] > 0).all()) for a, b in zip(made.items.lo, made.items.hi, strict=True)]
        )
        something = (room.loose > 0) | (room.slices != 0).any(axis=1)
        pool = cluster.node_pool
        open_to = wanted[pool] & (room.closed == 0) & (something | ~gpu_needed[pool])
        if instance.near is not None:
            tried = np.zeros(len(pool), bool)
            tried[np.concatenate(instance.near)] = True
            open_to &= tried
        # Who runs on a closed node may stay there.
        held = np.array(sorted({at for _, at, _ in made.kept}), np.int64)
        open_to[held] = True
        node = np.flatnonzero(open_to)
        gpu = np.full(len(node), -1, np.int64)
        if single.any():
            cut = single[pool[node]] == 1
            caps = cluster.pool_cap[pool[node[cut]]]
            gpus = np.arange(caps.sum()) - np.repeat(np.cumsum(caps) - caps, caps)
            node, gpu = np.concatenate([node[~cut], np.repeat(node[cut], caps)]), np.concatenate([gpu[~cut], gpus])
        return classes_of(instance.free(), node.astype(np.int64), gpu, held if made.kept else None)

    def _answer(
        self, instance: Instance, made: Formulation, classes: Classes, measure: Measure, search: Search,
        levels: Sequence[Level], incumbent: Sequence[float],
    ) -> tuple[Answer, str]:  # fmt: skip
        """From the cache, else from the solver: the answer, and why it is empty."""
        key = _key(instance, made, classes)
        # "Nothing is better than the known plan" holds for other known plans only if they are as good.
        if key in self._answers and (
            self._answers[key].solved.s is not None or not less(self._answers[key].bounds, incumbent)
        ):
            self.stats.cache_hits += 1
            self._answers.move_to_end(key)
            return self._answers[key], ""
        given = Given(instance.free(), classes, made.items, measure, self._weights())
        allowed, whole = self._allowed(instance, made, given, search)
        problem, rows = self._problem(instance, made, given, allowed, search)
        complete = whole and search.n[FULL] == 0 and made.left_out == 0
        self.stats.truncated += int(search.n[FULL] == 1)
        least = least_costs(made, problem, measure, levels, complete=complete)
        if all(a >= b - EPS for a, b in zip(incumbent, least, strict=True)) and not less(least, incumbent):
            self.stats.trivial += 1
            return Answer(Solved(OPTIMAL, tuple(incumbent), least), (), tuple(incumbent)), ""
        solved, reason = self._solve(problem, levels, incumbent)
        if not complete and solved.status in (OPTIMAL, INFEASIBLE):
            # Among some columns only there may be nothing as good as the known plan: no fault of the solver's, but told.
            reason = RESTRICTED if solved.status == INFEASIBLE else ""
            solved = replace(solved, status=RESTRICTED)
        bounds = (
            tuple(solved.bounds) if complete else tuple(min(a, b) for a, b in zip(least, solved.bounds, strict=False))
        )
        answer = Answer(solved, () if solved.z is None else patterns_in_use(search, rows, solved.z), bounds)
        if solved.status == OPTIMAL and complete:
            self._answers[key] = answer
            if len(self._answers) > self.cache_size:
                self._answers.popitem(last=False)
        return answer, reason

    def _allowed(self, instance: Instance, made: Formulation, given: Given, search: Search) -> tuple[Any, bool]:
        """(n_classes, n_items) where each item is tried, and whether that is everywhere."""
        allowed, whole = self._tried(instance, made, given, search)
        if made.kept:
            classes = given.classes
            of_node = np.full(len(instance.cluster.node_pool), -1)
            of_node[classes.node] = classes.of
            allowed[:, made.items.grant >= 0] = 0
            closed = np.flatnonzero(instance.room.closed > 0)
            allowed[of_node[closed[of_node[closed] >= 0]]] = 0
            for item, node, _ in made.kept:
                allowed[of_node[node], item] = 1
        return allowed, whole

    def _tried(self, instance: Instance, made: Formulation, given: Given, search: Search) -> tuple[Any, bool]:
        """The same, of parts that nobody holds."""
        n, items = len(given.classes.first), len(made.items.most)
        if instance.near is not None:
            self.stats.restricted += 1
            return _allowed_near(instance.near, made, given.classes), False
        if n * max(1, items) <= self.rows // 2 or n <= self.near:
            return np.ones((n, items), np.int8), True
        cost = np.full((n, items), np.inf)
        single_costs(search, given, cost)
        allowed = np.isfinite(cost)
        if allowed.sum() <= self.rows // 2:
            return allowed.astype(np.int8), True
        self.stats.restricted += 1
        nearest = np.argsort(cost, axis=0, kind="stable")[: self.near]
        chosen = np.zeros_like(allowed)
        np.put_along_axis(chosen, nearest, True, axis=0)
        return (chosen & allowed).astype(np.int8), False

    def _problem(
        self, instance: Instance, made: Formulation, given: Given, allowed: Any, search: Search
    ) -> tuple[Problem, Ints]:
        """Columns by search, and the model's data; also the search's row of each column."""
        classes, used = given.classes, search_columns(search, given, allowed)
        rows = np.flatnonzero(search.best[:used] == 1)
        root = search.root[rows]
        parts = np.zeros((3, 0), np.int64)
        while (m := list_parts(search, rows, *parts)) > parts.shape[1]:
            parts = np.zeros((3, m), np.int64)
        base = np.zeros(len(classes.first))
        roots = np.flatnonzero(search.parent[:used] < 0)
        base[search.root[roots]] = search.cost[roots]
        pool = instance.cluster.node_pool[classes.node[classes.first]]
        ways = made.ways
        listed = [(w, i, n) for w, way in enumerate(ways) for i, n in way.parts]
        way_parts = np.array(listed, np.int64).reshape(-1, 3).T
        problem = Problem(
            value=instance.value,
            kind=np.array(made.kind, np.int64),
            way_kind=np.array([way.kind for way in ways], np.int64),
            way_parts=(way_parts[0], way_parts[1], way_parts[2]),
            slowdown=np.array([way.slowdown for way in ways], np.float64),
            locality=np.array([way.locality for way in ways], np.float64),
            column_class=root,
            column_parts=(parts[0, :m], parts[1, :m], parts[2, :m]),
            fragmentation=search.cost[rows] - base[root],
            reconfiguration=search.seconds[rows].copy(),
            count=np.minimum(classes.size, made.parts[pool]),
            n_items=len(made.items.most),
            group=np.array([way.group for way in ways], np.int64),
            amount=np.array([way.amount for way in ways], np.float64),
            left=np.zeros(0) if instance.left is None else instance.left,
            prefix=instance.prefix,
            all_start=instance.all_start,
            suspend=np.zeros(0) if instance.holders is None else instance.holders.suspend,
            move=np.array([way.move for way in ways], np.float64),
        )
        return problem, rows

    def _solve(self, problem: Problem, levels: Sequence[Level], incumbent: Sequence[float]) -> tuple[Solved, str]:
        """The solver's answer, and the reason if it has none."""
        nothing = Solved(TIME_LIMIT, (), ())
        deadline = time.perf_counter() + self.time_limit_s
        if self.time_limit_s == 0:
            return nothing, TIME_LIMIT
        self.stats.solves += 1
        before = self.session.solver_s
        try:
            solved = self.session.solve(problem, levels, incumbent, deadline)
        except Exception as fault:
            # Whatever a foreign solver raises, scheduling goes on, and the report and the counter tell.
            # The state of a persistent solver after a fault is unknown.
            self.session = self._fresh_session()
            return Solved(ERROR, (), ()), f"{ERROR}: {type(fault).__name__}"
        self.stats.solver_time_s += self.session.solver_s - before
        self.stats.branchings += solved.branchings
        return solved, "" if solved.status == OPTIMAL else solved.status

    # --- small things --------------------------------------------------------------------

    def _space(self, instance: Instance, parts: int) -> Search:
        """Work space for the cluster, with a row for every part of a plan at least."""
        cluster = instance.cluster
        shape = instance.room.milli.shape[1], cluster.pool_cap.tobytes(), cluster.pool_mig.tobytes()
        if self._search is None or self._search[0] != shape or len(self._search[1].root) <= parts:
            self._search = shape, build_search(cluster, instance.room, max(self.rows, 2 * parts))
        return self._search[1]

    def _fresh_session(self) -> Session | PyomoSession:
        if self.interface == "pyomo":
            # Pyomo takes a second to import; only those who ask for it wait.
            from rltune.allocators.model import PyomoSession

            return PyomoSession()
        return Session()

    def _weights(self) -> Floats:
        rows = [[level.get("fragmentation", 0.0), level.get("reconfiguration", 0.0)] for level in self.levels]
        return np.array([row for row in rows if any(row)] or [[0.0, 0.0]])


def _report(
    status: str, winner: str, value: Sequence[float], bounds: Sequence[float],
    scored: Mapping[str, Sequence[float]], reason: str,
) -> dict[str, Any]:  # fmt: skip
    """What a decision says of itself; objective and bound by level, gap at the first level that was not closed."""
    bounds = tuple(min(b, v) for b, v in zip(bounds, value, strict=False))
    gap = next((v - b for v, b in zip(value, bounds, strict=False) if v > b + EPS), 0.0)
    proven = len(bounds) == len(value) and bool(np.isfinite(bounds).all())
    return {
        "allocator": "milp",
        "status": status,
        "objective": [float(v) for v in value],
        "bound": [float(b) for b in bounds] if proven else None,
        "gap": float(gap) if proven else None,
        "winner": winner,
        "incumbents": {name: [float(v) for v in values] for name, values in scored.items()},
        "fallback": bool(reason),
        "reason": reason,
    }


def _runner_up(
    winner: str, scored: Mapping[str, tuple[float, ...]], terms: Mapping[str, dict[str, float]]
) -> dict[str, Any] | None:
    others = {name: value for name, value in scored.items() if name != winner}
    if not others:
        return None
    name = best_of(others)
    return {"plan": name, "objective": [float(v) for v in others[name]], "terms": terms[name]}


def _told_apart(made: Formulation, classes: Classes) -> Formulation:
    """Grants of held parts by the sorted position of their node's GPUs, as the search knows them."""
    if not made.kept:
        return made
    unit = {int(node): u for u, node in enumerate(classes.node)}
    grants = made.items.grant.copy()
    for item, node, grant in made.kept:
        at = {int(gpu): k for k, gpu in reversed(list(enumerate(classes.perm[unit[node]])))}
        here = sum(1 << at[gpu] for gpu in range(32) if grant >> gpu & 1)
        grants[item] = here | grant >> START_BIT << START_BIT
    return replace(made, items=made.items._replace(grant=grants))


def _allowed_near(near: Sequence[Ints], made: Formulation, classes: Classes) -> Any:
    """(n_classes, n_items) 1 where a node of the class is among those of a job that the item is part of."""
    of_node = np.full(int(classes.node.max(initial=-1)) + 1, -1)
    of_node[classes.node] = classes.of
    allowed = np.zeros((len(classes.first), len(made.items.most)), np.int8)
    first = {kind: k for k, kind in reversed(list(enumerate(made.kind)))}
    for way in made.ways:
        nodes = near[first[way.kind]]
        here = of_node[nodes[nodes < len(of_node)]]
        for item, _ in way.parts:
            allowed[here[here >= 0], item] = 1
    return allowed


def _key(instance: Instance, made: Formulation, classes: Classes) -> Any:
    """Equal for decisions that differ in names only, by one measure on one cluster."""
    units = classes.first
    node = classes.node[units]
    pool = instance.cluster.node_pool[node]
    room = instance.room
    parts = [
        pool, classes.gpu[units] >= 0, room.cpus[node], room.memory[node], classes.key[units],
        np.minimum(classes.size, made.parts[pool]), instance.value,
    ]  # fmt: skip
    if instance.spare is not None:
        parts += [instance.spare.cpus[node], instance.spare.memory[node]]
    if instance.left is not None:
        parts.append(instance.left)
    if instance.holders is not None:
        # Names matter: the answer says which of the running jobs stay, on nodes that are each a class alone.
        parts += [node, instance.holders.suspend, instance.holders.move]
    return instance.all_start, made.signature, made.kept, *(part.tobytes() for part in parts)
