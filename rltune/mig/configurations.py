"""Numbers for the states of a GPU, as schedulers that speak of a "configuration" expect.

0 to 18 are the 19 maximal partitions in the order of `Geometry.maximal` (0: one 7g; on a GPU of four slices there are 5,
0 to 4); then the partial states in the order of `Geometry.states`; then the states with a double-memory profile, and
last those with the media engines, each in the order of `Geometry.states`. A number never changes with what a fleet holds.
"""

from __future__ import annotations

from functools import cache

from rltune.mig.geometry import PLAIN, Geometry, State

DOUBLE = "1g double"


@cache
def _numbered(table: Geometry) -> tuple[dict[State, int], tuple[State, ...]]:
    known = [p.kind for p in table.profiles]
    wanted = [
        table.maximal(),
        tuple(table.states()),
        tuple(table.states((*PLAIN, DOUBLE))),
        tuple(table.states(known)),
    ]
    # A dict keeps the first number of a state and the order of insertion.
    order = tuple(dict.fromkeys(state for part in wanted for state in part))
    return {state: number for number, state in enumerate(order)}, order


def configuration_number(table: Geometry, state: State) -> int:
    """Number of a legal state (placements by start); KeyError for an illegal one."""
    return _numbered(table)[0][state]


def configurations(table: Geometry) -> tuple[State, ...]:
    """Every state of the GPU type, by number."""
    return _numbered(table)[1]
