"""Whoever picks jobs one by one, as a learned policy does: with any baseline, also one that suspends, and any option."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
from full_cases import POLICIES, Seen, check, clusters, option_sets, suspends, tables, widest_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from picking_cases import Picks

import rltune
from rltune.allocators.milp import MilpAllocator
from rltune.policies.orders import ORDERS

FEW = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))


def options_for(policy: str, data: st.DataObject, jobs: Any, cluster: Any) -> dict[str, Any]:
    """Options under which jobs are picked: skip or easy, and run times that are known before."""
    options = data.draw(option_sets(policy, jobs, cluster))
    if not suspends(policy, options):
        options["backfill"] = data.draw(st.sampled_from(["skip", "easy"]))
    options.pop("reservations", None)
    return options


def check_first(policy: str, data: st.DataObject) -> None:
    jobs, cluster = data.draw(tables()), data.draw(clusters())
    options = options_for(policy, data, jobs, cluster)
    found, plain = (
        rltune.simulate(jobs, cluster, policy=p, oversized="drop", **options) for p in (Picks(policy), policy)
    )
    assert found.attempts.equals(plain.attempts)
    assert np.array_equal(found.end_s, plain.end_s, equal_nan=True)


@FEW
@given(st.sampled_from(POLICIES), st.data())
def test_picking_the_first_job_is_the_baseline(policy: str, data: st.DataObject) -> None:
    """An untrained policy would not be the order it stands for: training would begin elsewhere, and be judged wrongly."""
    check_first(policy, data)


@pytest.mark.slow
@MANY
@given(st.sampled_from(POLICIES), st.data())
def test_picking_the_first_job_is_the_baseline_thoroughly(policy: str, data: st.DataObject) -> None:
    """As above, in rarer combinations."""
    check_first(policy, data)


@FEW
@given(st.sampled_from(sorted(ORDERS)), st.sampled_from(["blocking", "skip", "easy"]), st.data())
def test_the_same_of_whole_gpus_without_interruptions(policy: str, backfill: str, data: st.DataObject) -> None:
    """As above, on the lean build; also with orders that change while jobs wait."""
    jobs, cluster = data.draw(tables(plain=True)), data.draw(clusters(plain=True))
    found, plain = (
        rltune.simulate(jobs, cluster, policy=p, backfill=backfill, oversized="drop") for p in (Picks(policy), policy)
    )
    assert np.array_equal(found.start_s, plain.start_s, equal_nan=True)
    assert found.schedule.equals(plain.schedule)


def check_any(policy: str, data: st.DataObject) -> None:
    jobs, cluster = data.draw(tables()), data.draw(clusters())
    options = options_for(policy, data, jobs, cluster)
    if data.draw(st.booleans()):
        options["allocator"] = MilpAllocator(head=data.draw(st.sampled_from([1, 2, 5, 16])), time_limit_s=600)
    if data.draw(st.booleans()):
        widest = {vc: widest_of(jobs, vc) for vc in jobs.vc.names}
        options["quotas"] = {vc: most + data.draw(st.sampled_from([0.0, 0.3, 4.0])) for vc, most in widest.items()}
    seen = Seen(jobs, cluster, policy=Picks(policy, data.draw(st.integers(0, 9))), **options)
    # With quotas a job may wait beside free GPUs.
    with mock.patch.dict(seen.options, {"backfill": "strict"}) if "quotas" in options else mock.patch.dict({}):
        check(seen, policy)


@FEW
@given(st.sampled_from(POLICIES), st.data())
def test_nothing_is_lost_and_nothing_held_twice(policy: str, data: st.DataObject) -> None:
    """A policy that has learned something would lose jobs, or run two on one GPU, also where the MILP places them anew."""
    check_any(policy, data)


@pytest.mark.slow
@MANY
@given(st.sampled_from(POLICIES), st.data())
def test_nothing_is_lost_and_nothing_held_twice_thoroughly(policy: str, data: st.DataObject) -> None:
    """As above, in rarer combinations."""
    check_any(policy, data)
