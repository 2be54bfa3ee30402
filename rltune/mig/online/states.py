"""The states of one GPU type as tables, so that a decision costs the same at ten GPUs and at a thousand.

A fleet counts how many of its GPUs are in each state; a policy scores the *transitions* (state, placement, state after)
of the wanted profile, all at once, and only those that begin in a state some GPU is in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import numpy.typing as npt

from rltune.mig.geometry import Geometry, Placement, State

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
VALUED = ("7g", "4g", "3g", "2g", "1g double", "1g")
"""Kinds whose slots a policy values; a profile with the media engines takes room like its plain kind."""


@dataclass(frozen=True)
class Transitions:
    """Creations of one profile: (n,) state ids ``source`` and ``target``, and the memory slice ``start`` of each."""

    source: Ints
    target: Ints
    start: Ints

    def only(self, rows: npt.NDArray[np.bool_]) -> Transitions:
        """The creations of the rows that are true."""
        return Transitions(self.source[rows], self.target[rows], self.start[rows])


class StateTable:
    """States of a geometry restricted to some kinds, numbered; state 0 is the empty one."""

    def __init__(self, geometry: Geometry, kinds: tuple[str, ...]) -> None:
        self.geometry = geometry
        self.kinds = tuple(p.kind for p in geometry.profiles if p.kind in kinds)
        self.states: tuple[State, ...] = tuple(sorted(geometry.states(self.kinds), key=len))
        self.ids = {state: number for number, state in enumerate(self.states)}
        self.transitions = {i: self._creations(i) for i, p in enumerate(geometry.profiles) if p.kind in self.kinds}

    def _creations(self, profile: int) -> Transitions:
        rows = [
            (number, self.ids[tuple(sorted((*state, new), key=lambda p: p.start))], new.start)
            for number, state in enumerate(self.states)
            for new in self.geometry.can_create(state, [profile])
        ]
        columns = np.array(rows, np.int64).reshape(-1, 3).T.copy()
        columns.setflags(write=False)
        return Transitions(columns[0], columns[1], columns[2])

    def without(self, state: int, placement: Placement) -> int:
        """The state after one instance has gone."""
        return self.ids[tuple(p for p in self.states[state] if p != placement)]

    def beside(self, state: int, placement: Placement) -> int:
        """The state after one instance more; KeyError where it does not fit."""
        return self.ids[tuple(sorted((*self.states[state], placement), key=lambda p: p.start))]

    @cached_property
    def free(self) -> Ints:
        """(n_states,) free memory slices."""
        return self._row([self.geometry.slices - self.geometry.occupied(s).bit_count() for s in self.states])

    @cached_property
    def instances(self) -> Ints:
        """(n_states,) instances."""
        return self._row([len(s) for s in self.states])

    @cached_property
    def blocked(self) -> tuple[Ints, ...]:
        """For each of ``VALUED`` (n_states, n_placements): instances that stand where the placement would."""
        return tuple(self._blockers(kind) for kind in VALUED)

    def _blockers(self, kind: str) -> Ints:
        wanted = [i for i, p in enumerate(self.geometry.profiles) if p.kind == kind]
        masks = np.array([self.geometry.mask(p) for p in self.geometry.placements(wanted)], np.int64)
        found = np.zeros((len(self.states), len(masks)), np.int64)
        for number, state in enumerate(self.states):
            for placement in state:
                found[number] += (masks & self.geometry.mask(placement)) != 0
        return found

    @cached_property
    def slots(self) -> Ints:
        """(n_states, len(VALUED)) placements of each valued kind that are free."""
        return np.stack([(blocked == 0).sum(1) for blocked in self.blocked], axis=1)

    @cached_property
    def wasted(self) -> Ints:
        """(n_states,) compute slices that no further creation of plain kinds can use (3g + 3g waste one)."""
        compute = np.array([sum(self.geometry.profiles[p.profile].compute for p in s) for s in self.states])
        best = compute.copy()
        plain = [self.transitions[i] for i in self.transitions if not self.geometry.profiles[i].media]
        # From full states backwards: the best that a state can become is the best of its successors.
        for size in range(int(self.instances.max()), -1, -1):
            for moves in plain:
                rows = self.instances[moves.source] == size
                np.maximum.at(best, moves.source[rows], best[moves.target[rows]])
        return self._row(self.geometry.compute - best)

    @cached_property
    def unusable(self) -> Floats:
        """(n_states, len(VALUED)) share of the GPU's memory slices that are free but no use to a kind.

        The fragmentation of a state for a demand is its mean over the demand (as for whole GPUs in FGD, ATC 2023).
        """
        found = np.zeros((len(self.states), len(VALUED)))
        for k, kind in enumerate(VALUED):
            wanted = [i for i, p in enumerate(self.geometry.profiles) if p.kind == kind]
            for number, state in enumerate(self.states):
                found[number, k] = (
                    self.free[number] - self.geometry.occupied(self.geometry.can_create(state, wanted)).bit_count()
                )
        return found / self.geometry.slices

    def _row(self, values: object) -> Ints:
        row = np.asarray(values, np.int64)
        row.setflags(write=False)
        return row


@cache
def state_table(geometry: Geometry, kinds: tuple[str, ...]) -> StateTable:
    """The table of a geometry, made once."""
    return StateTable(geometry, kinds)
