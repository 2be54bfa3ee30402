"""Placement policies: which free slot a new instance takes. Published baselines here; those that look ahead in `value`.

A policy gives a score to every possible creation; the fleet takes the highest, and on equal scores the one that needs no
creation (a destroyed-later instance of the same profile), then the GPU with the lowest number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rltune.mig.online.states import VALUED, Floats, Ints, StateTable, Transitions

Scorer = Callable[[StateTable, Transitions], Floats]


@dataclass(frozen=True)
class View:
    """What a policy may know of a fleet.

    ``gpus`` provisioned; ``counts`` GPUs by state of each table, ``lowest`` the lowest GPU number in each state;
    ``mix`` (len(VALUED),) recent share of each kind among requests; ``decision`` number of decisions so far; ``seed``.
    """

    gpus: int
    counts: Mapping[StateTable, Ints]
    lowest: Mapping[StateTable, Ints]
    mix: Floats
    decision: int
    seed: int


class Policy(Protocol):
    """A placement policy; ``scorer`` is called once a decision, what it returns once for each GPU type."""

    def scorer(self, view: View) -> Scorer: ...

    def placed(self, before: View, after: View, provisioned: bool) -> None:
        """Called after every creation, with the fleet before and after it: where a policy learns."""


class FirstFit:
    """The lowest slice of the GPU with the lowest number."""

    def scorer(self, view: View) -> Scorer:
        return lambda table, rows: np.asarray(-(view.lowest[table][rows.source] * 16.0 + rows.start), np.float64)

    def placed(self, before: View, after: View, provisioned: bool) -> None:
        pass


class Random:
    """Any slot of any GPU, each GPU alike and each slot of it alike."""

    def scorer(self, view: View) -> Scorer:
        # A generator for each decision, so that a restored fleet draws what the first would have drawn.
        draws = np.random.default_rng([view.seed, view.decision])

        def score(table: StateTable, rows: Transitions) -> Floats:
            slots = np.bincount(rows.source, minlength=len(table.states))[rows.source]
            # The largest of Gumbel draws falls on each row in proportion to its weight.
            weight = view.counts[table][rows.source] / slots
            return np.asarray(np.log(weight) + draws.gumbel(size=len(rows.source)), np.float64)

        return score

    def placed(self, before: View, after: View, provisioned: bool) -> None:
        pass


class BestFit:
    """The GPU with the fewest free memory slices."""

    def scorer(self, view: View) -> Scorer:
        return lambda table, rows: -table.free[rows.target].astype(float)

    def placed(self, before: View, after: View, provisioned: bool) -> None:
        pass


class FragmentationAware:
    """The least growth of free slices that kinds of the mix cannot use; ``mix`` None: the recent one."""

    def __init__(self, mix: Mapping[str, float] | None = None) -> None:
        self.mix = None if mix is None else np.array([mix.get(kind, 0.0) for kind in VALUED])

    def scorer(self, view: View) -> Scorer:
        mix = view.mix if self.mix is None else self.mix
        return lambda table, rows: (table.unusable[rows.source] - table.unusable[rows.target]) @ mix

    def placed(self, before: View, after: View, provisioned: bool) -> None:
        pass
