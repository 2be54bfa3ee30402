"""Whether a plan is made of what a plan is made of: tuples, whole numbers, names. The first thing that is asked of one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from rltune.nouns.plan import Plan, PlanError, Repartition, Reservation, Start


def check_shape(plan: Any) -> None:
    """Raises PlanError for the first part that is not of its kind; nothing is asked yet of what it means."""
    if not isinstance(plan, Plan):
        raise PlanError(f"the allocator answered with {_shown(plan)}; give a rltune.Plan")
    for name, kind in (("starts", Start), ("repartitions", Repartition), ("reservations", Reservation)):
        for one in _listed(f"{name} of the plan", getattr(plan, name)):
            if not isinstance(one, kind):
                raise PlanError(f"{name} of the plan: {_shown(one)}; give {kind.__name__} objects")
    for job in _listed("suspensions of the plan", plan.suspensions):
        _whole("suspensions of the plan", job)
    for start in plan.starts:
        _check_places(start)
    for reservation in plan.reservations:
        _check_places(reservation)
    for start in plan.starts:
        for one in _listed(f"repartitions of the start of job {start.job}", start.repartitions):
            _check_repartition(one)
    for one in plan.repartitions:
        _check_repartition(one)


def _check_places(one: Start | Reservation) -> None:
    what = type(one).__name__
    _whole(f"{what}: job", one.job)
    where = f"{what} of job {one.job}"
    for name in ("nodes", "gpus", "grants"):
        for number in _listed(f"{where}: {name}", getattr(one, name)):
            _whole(f"{where}: {name}", number)
    _whole(f"{where}: way", one.way)
    if isinstance(one, Reservation) and not (_is_number(one.at_s) and np.isfinite(one.at_s)):
        raise PlanError(f"{where}: at_s={_shown(one.at_s)}; give a time in seconds")


def _check_repartition(one: Any) -> None:
    if not isinstance(one, Repartition):
        raise PlanError(f"repartitions: {_shown(one)}; give Repartition objects")
    _whole("Repartition: node", one.node)
    _whole("Repartition: gpu", one.gpu)
    where = f"repartition of GPU {one.gpu} on node {one.node}"
    for name in ("destroy", "create"):
        for instance in _listed(f"{where}: {name}", getattr(one, name)):
            pair = isinstance(instance, tuple) and len(instance) == 2 and isinstance(instance[0], str)
            if not pair or not _is_whole(instance[1]):
                raise PlanError(
                    f'{where}: {name} has {_shown(instance)}; give pairs of profile and first memory slice, e.g. ("3g.20gb", 4)'
                )
    if not _is_number(one.seconds):
        raise PlanError(f"{where}: seconds={_shown(one.seconds)}; leave them out to have them filled in")


def _listed(what: str, given: Any) -> Iterable[Any]:
    if not isinstance(given, tuple | list):
        raise PlanError(f"{what}: {_shown(given)} is no tuple")
    return given


def _whole(what: str, number: Any) -> None:
    if not _is_whole(number):
        raise PlanError(f"{what}: {_shown(number)} is no whole number")


def _is_whole(number: Any) -> bool:
    # A number of more than 64 bits would reach the kernels as none at all.
    return isinstance(number, int | np.integer) and not isinstance(number, bool) and abs(int(number)) < 1 << 62


def _is_number(number: Any) -> bool:
    whole = _is_whole(number)
    return whole or isinstance(number, float | np.floating)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
