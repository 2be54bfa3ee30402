"""The jobs that a joint decision is about: what each may be given, and a plan for them, in work space and as the solver has it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from rltune.allocators.formulation import Instance, Place, Plan
from rltune.compiled import inner
from rltune.core.choices import EFFICIENT, MARKET, Choices
from rltune.core.queue import close_gap
from rltune.core.state import QUEUED, WAITING, Floats, Ints, Sim, floats, ints
from rltune.nouns.cluster import Cluster


class Candidates(NamedTuple):
    """``most`` jobs at most, in order, and a plan.

    Candidate k is ``job[k]``. The plan puts it on ``node, grant[first[k]:first[k] + length[k]]``, nowhere if the length is 0, by
    its choice ``chosen[k]``; ``spots`` (1,): places written down. It may be given ``choice[lo[k]:hi[k]]``, each a number in
    `rltune.core.choices.Choices`; ``late``: whether it would run into the reservation there. ``loss``: of every choice of the
    state, see `losses`.
    """

    job: Ints
    first: Ints
    length: Ints
    node: Ints
    grant: Ints
    chosen: Ints
    spots: Ints
    lo: Ints
    hi: Ints
    choice: Ints
    late: Ints
    loss: Floats


def build_candidates(cluster: Cluster, choices: Choices, loss: Floats, most: int) -> Candidates:
    """Work space for ``most`` jobs."""
    places = most * max(pool.nodes for pool in cluster.pools)
    ways = most * int(np.diff(choices.ptr).max(initial=0))
    return Candidates(
        job=ints(most), first=ints(most), length=ints(most), node=ints(places), grant=ints(places), chosen=ints(most),
        spots=ints(1), lo=ints(most), hi=ints(most), choice=ints(ways), late=ints(ways), loss=loss,
    )  # fmt: skip


def losses(sim: Sim, rule: str) -> Floats:
    """(n_choices,) what each choice loses against the best of its class by the rule, in run times of its fastest.

    fastest: its run time. efficient: that, once for the job itself and once for those who wait, which counts by the GPUs that it
    holds over the most of any of its choices, a slice by its memory. market: the excess cost at present prices, kept up to date.
    """
    if rule == MARKET:
        excess: Floats = sim.detail.market.excess
        return excess
    choices, loss = sim.choices, floats(len(sim.choices.pool))
    for a, b in zip(choices.ptr[:-1].tolist(), choices.ptr[1:].tolist(), strict=True):
        if a < b:
            spent = choices.guess[a:b].max() / choices.guess[a:b]
            if rule == EFFICIENT:
                amount = sim.detail.amount[choices.way[a:b]]
                spent = spent * (1.0 + amount / max(1, int(amount.max())))
            loss[a:b] = spent - spent.min()
    return loss


# --- a plan, in kernels -----------------------------------------------------------------


@inner
def write_place(sim, each, k, m):
    """The m places in ``sim.place`` become those of candidate k."""
    base = each.spots[0]
    for i in range(m):
        each.node[base + i], each.grant[base + i] = sim.place.found.node[i], sim.place.found.grant[i]
    each.first[k], each.length[k], each.chosen[k] = base, m, sim.place.way[0]
    each.spots[0] += m


@inner
def load_place(sim, each, k):
    """Places of candidate k into ``sim.place``: how many."""
    base, m = each.first[k], each.length[k]
    for i in range(m):
        sim.place.found.node[i], sim.place.found.grant[i] = each.node[base + i], each.grant[base + i]
    sim.place.way[0] = each.chosen[k]
    return m


@inner
def keep_waiting(sim):
    """Close the gaps that started jobs have left in the queue."""
    kept, n = 0, sim.counts[QUEUED]
    for k in range(n):
        job = sim.queue[k]
        if sim.detail.status[job] == WAITING:
            sim.queue[kept] = job
            kept += 1
    close_gap(sim, kept, n)


# --- a plan, as the solver has it -------------------------------------------------------


def read_plan(sim: Sim, each: Candidates, n: int) -> list[Place | None]:
    """The plan for the first ``n``."""
    found: list[Place | None] = []
    for a, m, chosen in zip(each.first[:n].tolist(), each.length[:n].tolist(), each.chosen[:n].tolist(), strict=True):
        nodes, grants = tuple(each.node[a : a + m].tolist()), tuple(each.grant[a : a + m].tolist())
        found.append(Place(nodes, grants, int(sim.choices.way[chosen])) if m else None)
    return found


def write_plan(each: Candidates, instance: Instance, plan: Plan) -> None:
    """The solver's plan into the work space."""
    at = 0
    for k, place in enumerate(plan):
        m = 0 if place is None else len(place.nodes)
        if place is not None:
            each.node[at : at + m], each.grant[at : at + m] = place.nodes, place.grants
            each.chosen[k] = each.choice[instance.choice(k, place)]
        each.first[k], each.length[k] = at, m
        at += m


def choices_of(sim: Sim, each: Candidates, n: int) -> dict[str, Any]:
    """Of the first ``n``: the parts of an `Instance` that say what each may be given."""
    listed = each.choice[: each.hi[n - 1]]
    jobs = sim.choices.way[sim.choices.ptr[sim.jobs.cls[each.job[:n]]]]
    return {
        "cluster": sim.cluster, "demand": sim.detail.demand, "jobs": jobs, "pools": sim.choices.pool[listed],
        "lo": each.lo[:n], "hi": each.hi[:n], "asks": sim.choices.way[listed], "slow": each.loss[listed],
    }  # fmt: skip
