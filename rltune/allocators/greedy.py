"""Greedy allocators: one job after the other, by a compiled placement rule."""

from __future__ import annotations

from rltune.core.loop import start_by_given_keys
from rltune.core.resources.counts import RULES
from rltune.core.snapshots import started, state_of
from rltune.nouns.errors import InputError
from rltune.nouns.plan import FloatArray, IntArray, Plan, Snapshot


def rule_code(name: str) -> int:
    """Compiled code of a placement rule."""
    if name not in RULES:
        raise InputError(f"allocator {name!r} is unknown; known are {', '.join(RULES)}, milp")
    return RULES[name]


class GreedyAllocator:
    """Starts jobs in order wherever ``rule`` puts them, by the same pass as a simulation.

    ``cost`` (n_pools, cap + 1): fragmentation cost for the rule least_fragmentation;
    None: `rltune.simulate` counts the demand of the jobs it simulates.
    """

    def __init__(self, rule: str = "best_fit", cost: FloatArray | None = None) -> None:
        self.rule_name, self.rule = rule, rule_code(rule)
        self.cost = cost

    def with_cost(self, cost: FloatArray) -> GreedyAllocator:
        """The same rule with this fragmentation cost."""
        return GreedyAllocator(self.rule_name, cost)

    def allocate(self, snapshot: Snapshot, order: IntArray, backfill: str) -> Plan:
        # On one instant blocking and strict are the same: stop at the first job that does not fit.
        passing = "strict" if backfill == "blocking" else backfill
        state = state_of(snapshot, order, passing, self.rule, self.cost)
        start_by_given_keys(state)
        return Plan(tuple(start for _, start in started(state, snapshot)), {"allocator": "greedy"})
