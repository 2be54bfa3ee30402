"""One decision, readable: the policy orders the queue, the allocator plans, the plan is checked."""

from __future__ import annotations

from rltune.nouns.plan import Allocator, Plan, Policy, Snapshot
from rltune.nouns.plan_check import check_plan
from rltune.policies.orders import sequence


def decide(snapshot: Snapshot, policy: Policy, allocator: Allocator, backfill: str) -> Plan:
    """What starts now. Raises PlanError if a plug-in answers with an impossible plan."""
    order = sequence(policy(snapshot.queue, snapshot), len(snapshot.queue))
    plan = allocator.allocate(snapshot, order, backfill)
    return check_plan(snapshot, plan)
