"""Room by migration: which instances to move so that a request fits without a new GPU.

Only instances of one GPU are moved for a request, each to a slot that is free now, so that every new instance stands
before its old one goes and no third tenant is touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from rltune.mig.geometry import Placement
from rltune.mig.online.ledger import Ledger
from rltune.mig.online.policies import Scorer
from rltune.mig.online.pool import Gpu, Key, Pool
from rltune.mig.online.states import StateTable, Transitions


@dataclass(frozen=True, slots=True)
class Move:
    """The instance of a request goes to another slot."""

    key: Key
    pool: Pool
    gpu: int
    placement: Placement

    def as_json(self) -> dict[str, Any]:
        return {
            "tenant": self.key[0],
            "request": self.key[1],
            "model": self.pool.table.geometry.model,
            "gpu": self.gpu,
            "placement": list(self.placement),
        }


@dataclass(frozen=True, slots=True)
class _Target:
    """A slot that is free now: score, pool, state of its GPU, placement."""

    score: float
    pool: Pool
    state: int
    placement: Placement


class _Search:
    """Free slots by profile, best first, and the worth of taking instances out; made for one request."""

    def __init__(self, ledger: Ledger, scorer: Scorer) -> None:
        self.ledger, self.scorer = ledger, scorer
        self._targets: dict[str, list[_Target]] = {}

    def targets(self, name: str) -> list[_Target]:
        """Slots for a profile by the driver's name: a tenant keeps the memory it was given."""
        if name not in self._targets:
            found = []
            for pool in self.ledger.pools.values():
                names = [p.name for p in pool.table.geometry.profiles]
                if name not in names or names.index(name) not in pool.table.transitions:
                    continue
                creations = pool.table.transitions[names.index(name)]
                rows = creations.only(pool.counts[creations.source] > 0)
                scores = self.scorer(pool.table, rows) if len(rows.source) else np.zeros(0)
                for at in np.argsort(-scores, kind="stable"):
                    where = Placement(names.index(name), int(rows.start[at]))
                    found.append(_Target(float(scores[at]), pool, int(rows.source[at]), where))
            self._targets[name] = sorted(found, key=lambda target: -target.score)
        return self._targets[name]

    def score(self, table: StateTable, state: int, placement: Placement) -> float:
        """Score of one creation."""
        row = Transitions(*(np.array([v]) for v in (state, table.beside(state, placement), placement.start)))
        return float(self.scorer(table, row)[0])

    def elsewhere(self, table: StateTable, gpu: Gpu, leaving: tuple[Placement, ...]) -> tuple[float, list[Move]] | None:
        """Best slots on other GPUs, each on a GPU of its own, for instances that leave a GPU; their scores' sum."""
        used, total, moves = {gpu.number}, 0.0, []
        for placement in leaving:
            for target in self.targets(table.geometry.profiles[placement.profile].name):
                free = target.pool.members[target.state] - used
                if free:
                    number = min(free)
                    used.add(number)
                    total += target.score
                    moves.append(Move(gpu.held[placement], target.pool, number, target.placement))
                    break
            else:
                return None
        return total, moves


def make_room(
    ledger: Ledger, wanted: list[tuple[Pool, int]], scorer: Scorer, most: int
) -> tuple[Pool, int, Placement, list[Move]] | None:
    """The slot that the fewest migrations (at most ``most``) open for one of the wanted profiles; of those the best."""
    search = _Search(ledger, scorer)
    for leaving in range(1, most + 1):
        best, found = -np.inf, None
        for pool, profile in wanted:
            for state in np.flatnonzero(pool.counts):
                for option in _openings(search, pool, profile, int(state), leaving):
                    if option[0] > best:
                        best, found = option[0], (pool, *option[1:])
        if found is not None:
            return found
    return None


def _openings(
    search: _Search, pool: Pool, profile: int, state: int, leaving: int
) -> list[tuple[float, int, Placement, list[Move]]]:
    """What taking ``leaving`` instances out of a GPU in a state opens for a profile: worth, GPU, slot, moves."""
    table, creations = pool.table, pool.table.transitions[profile]
    gpu, found = pool.gpus[int(pool.lowest[state])], []
    for group in combinations(table.states[state], leaving):
        rest, given_up = state, 0.0
        for placement in group:
            rest = table.without(rest, placement)
        rows = creations.only(creations.source == rest)
        if not len(rows.source) or (elsewhere := search.elsewhere(table, gpu, group)) is None:
            continue
        back = rest
        for placement in group:
            given_up += search.score(table, back, placement)
            back = table.beside(back, placement)
        scores = search.scorer(table, rows)
        at = int(np.argmax(scores))
        slot = Placement(profile, int(rows.start[at]))
        found.append((float(scores[at]) + elsewhere[0] - given_up, gpu.number, slot, elsewhere[1]))
    return found


def relocation(ledger: Ledger, key: Key, scorer: Scorer) -> Move | None:
    """The best slot that is free now, on its own GPU or another, for a request's instance."""
    held = ledger.held[key]
    for target in _Search(ledger, scorer).targets(held.pool.table.geometry.profiles[held.placement.profile].name):
        number = int(target.pool.lowest[target.state])
        return Move(key, target.pool, number, target.placement)
    return None
