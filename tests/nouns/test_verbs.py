"""Verbs: functions of the kernels whose implementation is chosen by the types of their arguments."""

from __future__ import annotations

from typing import NamedTuple

import numba as nb
import numpy as np
import pytest
from numba.core.errors import TypingError

from rltune.compiled import class_of, field_class, inner, kernel, verb


class Counts(NamedTuple):
    free: np.ndarray  # (pools,) GPUs free


class Nodes(NamedTuple):
    gpus: np.ndarray  # (nodes, GPUs) 1 where free


class Sim(NamedTuple):
    space: Counts | Nodes
    now: float


@verb
def total_free(space):
    """GPUs free in the whole cluster."""


@total_free.when(lambda space: class_of(space) is Counts)
def _(space):
    return added_up(space.free)


@total_free.when(lambda space: class_of(space) is Nodes)
def _(space):
    total = 0
    for node in range(space.gpus.shape[0]):
        total += added_up(space.gpus[node])
    return total


@verb
def free_at(sim, at):
    """GPUs free at the time ``at``: none before now."""


@free_at.when(lambda sim, at: field_class(sim, "space") is Counts)
def _(sim, at):
    return 0 if at < sim.now else total_free(sim.space)


@free_at.when(lambda sim, at: True)
def _(sim, at):
    return -total_free(sim.space)


@inner
def added_up(numbers):
    total = 0
    for number in numbers:
        total += number
    return total


@kernel
def asked(sim, at):
    return free_at(sim, at)


@kernel
def asked_by_name(sim, at):
    return free_at(at=at, sim=sim)


@kernel
def asked_badly(number):
    return total_free(number)


COUNTS = Sim(Counts(np.array([1, 2, 3])), 5.0)
NODES = Sim(Nodes(np.ones((2, 4), np.int64)), 5.0)


def test_the_first_condition_that_holds_chooses() -> None:
    assert (asked(COUNTS, 6.0), asked(COUNTS, 4.0), asked(NODES, 6.0)) == (6, 0, -8)


def test_arguments_may_be_named() -> None:
    assert (asked_by_name(COUNTS, 6.0), asked_by_name(NODES, 6.0)) == (6, -8)


def test_a_verb_keeps_its_name_and_docstring() -> None:
    assert (total_free.__name__, total_free.__doc__) == ("total_free", "GPUs free in the whole cluster.")


@verb
def unlike(x):
    """An implementation for each of two types of numbers."""


@unlike.when(lambda x: x is nb.int64)
def _(x):
    return x + 1


@unlike.when(lambda x: x is nb.float64)
def _(x):
    return x / 2


@kernel
def both(x):
    return unlike(x) + unlike(0.5 * x)


def test_one_kernel_may_call_several_implementations() -> None:
    assert both(4) == 5 + 1


def test_types_without_an_implementation_are_named() -> None:
    with pytest.raises(TypingError, match=r"verb [\w.]*total_free has no implementation for \(space: int64\)"):
        asked_badly(3)


def test_python_cannot_call_a_verb() -> None:
    with pytest.raises(TypeError, match=r"verb [\w.]*total_free is called by kernels only"):
        total_free(COUNTS.space)


def test_parameters_of_an_implementation_are_those_of_the_verb() -> None:
    with pytest.raises(TypeError, match=r"takes \(space\), an implementation \(room\)"):

        @total_free.when(lambda space: True)
        def _(room):
            return 0


def test_class_of_a_field() -> None:
    kind = nb.typeof(COUNTS)
    assert (class_of(kind), field_class(kind, "space")) == (Sim, Counts)
    assert [field_class(kind, name) for name in ("now", "nothing")] == [None, None]
    assert (class_of(nb.int64), field_class(nb.int64, "now")) == (None, None)
