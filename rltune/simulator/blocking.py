"""The reference protocol with a user-defined policy or allocator: one job at a time, and all others wait for it.

`rltune.core.loop.run_blocking` is the compiled road; a test holds the two to the same schedules.
"""

from __future__ import annotations

from typing import Any

from rltune.core.events import drop_at, reset, step_single_event
from rltune.core.queue import position_of
from rltune.core.reference import Ref, ref
from rltune.core.state import QUEUED, RUNNING, Sim
from rltune.nouns.plan import Plan, Policy
from rltune.policies.orders import sequence
from rltune.scheduler import decide
from rltune.simulator.decisions import Planned, carry_out, take_snapshot
from rltune.simulator.progress import Pace


def run_blocking(sim: Sim, decision: Planned, policy: Policy) -> None:
    """Simulate all jobs: a picked job stays picked until it has started (lean build)."""
    state, pace = ref(sim), Pace()
    reset(state)
    while True:
        pace.look(sim)
        while sim.counts[QUEUED] == 0:
            if not step_single_event(state):
                pace.tell(sim)
                return
        if commit(state, decision, policy).starts:
            continue
        snapshot = take_snapshot(sim, decision.priority)
        head = snapshot.queue.job[sequence(policy(snapshot.queue, snapshot), len(snapshot.queue))[:1]]
        while True:
            if sim.counts[RUNNING] == 0 or not step_single_event(state):
                drop_at(state, position_of(state, head[0]))
                break
            if commit(state, decision, policy, head).starts:
                break


def commit(state: Ref, decision: Planned, policy: Policy, only: Any = None) -> Plan:
    """One decision, on ``only`` these jobs of the queue."""
    snapshot = take_snapshot(state.value, decision.priority, only=only)
    plan = decide(snapshot, policy, decision.allocator, decision.backfill)
    carry_out(state, plan)
    decision.note(snapshot, plan)
    return plan
