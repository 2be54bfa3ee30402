"""What a learned policy answers to one snapshot: which jobs start now, and in which order the others stand.

The kernels of training, on a state made of the snapshot, so a live queue is ordered as a simulated one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rltune.allocators.fragmentation import cost_table, demand_of
from rltune.core.reference import ref
from rltune.core.snapshots import started, state_of
from rltune.core.state import ALWAYS, Sim
from rltune.nouns.errors import InputError
from rltune.nouns.plan import IntArray, Snapshot
from rltune.policies.orders import order, sequence
from rltune.rl.network import JobNetwork
from rltune.rl.picking import bind
from rltune.rl.rules import Rules
from rltune.simulator.full import preemptive_policy


class Answer(NamedTuple):
    """Positions in the snapshot's queue: those that start now, first to start first, and the others in baseline order."""

    start: IntArray
    wait: IntArray


def answer(network: JobNetwork, rules: Rules, snapshot: Snapshot) -> Answer:
    """Let a policy pick until it waits or nothing more may be picked.

    Raises InputError for what the lean build does not know: shares and slices, a baseline that suspends; and for
    ``blocking``, which waits for one job instead of starting what fits.
    """
    if snapshot.room is not None:
        raise InputError("who is next is asked of clusters of whole GPUs; this snapshot has shares, slices or CPUs")
    if preemptive_policy(rules.baseline) is not None or rules.backfill == "blocking":
        raise InputError(
            f"who is next: a policy with baseline={rules.baseline}, backfill={rules.backfill} answers in a simulation only; "
            "use one whose baseline is an order, with backfill=easy or skip"
        )
    queue, n = snapshot.queue, len(snapshot.queue)
    first = sequence(order(rules.baseline)(queue, snapshot), n)
    measure = "quadratic" if rules.allocator == "milp" else "demand"
    cost = cost_table(snapshot.cluster, measure, demand_of(queue.num_gpus, snapshot.cluster)) if n else None
    sim: Sim = state_of(snapshot, first, rules.backfill, rules.rule, cost).value
    # No job of the state has arrived for its clock: further ones may come at any time, so waiting is allowed.
    submit = np.concatenate([queue.submit_s, np.zeros(len(snapshot.running.job))])
    sim = sim._replace(params=sim.params._replace(outside=ALWAYS), jobs=sim.jobs._replace(submit=submit))
    state = ref(sim)
    if n:
        bind(network, sim).take(state)
    start = np.array([position for position, _ in started(state, snapshot)], np.int64)
    return Answer(start, first[~np.isin(first, start)])
