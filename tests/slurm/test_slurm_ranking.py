"""Priorities that put jobs in an order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rltune.slurm.ranking import HIGHEST, renumbered

NAMES = [str(k) for k in range(30)]


@given(
    st.permutations(NAMES),
    st.dictionaries(st.sampled_from(NAMES), st.integers(1, HIGHEST - 1)),
    st.integers(0, 2_000_000_000),
)
def test_any_order_from_any_numbers(order, present, floor) -> None:
    """Slurm would start jobs in another order than the policy's, or a priority would not fit into its 32 bits."""
    changes = renumbered(order, present, floor)
    after = [(present | changes)[job] for job in order]
    assert after == sorted(after, reverse=True) and len(set(after)) == len(after)
    assert floor < min(after) and max(after) < HIGHEST
    assert renumbered(order, present | changes, floor) == {}


def test_few_changes() -> None:
    """Each decision would change hundreds of jobs, which Slurm's controller would feel."""
    present = renumbered(NAMES, {}, 100)
    first = renumbered(["new", *NAMES], present, 100)
    middle = renumbered([*NAMES[:7], "new", *NAMES[7:]], present, 100)
    last = renumbered([*NAMES, "new"], present, 100)
    moved = renumbered([NAMES[-1], *NAMES[:-1]], present, 100)
    assert [list(changes) for changes in (first, middle, last, moved)] == [["new"], ["new"], ["new"], [NAMES[-1]]]


def test_room_runs_out() -> None:
    """After many arrivals at one place there would be no number left between two neighbours."""
    present = {"a": 1002, "b": 1001}
    changes = renumbered(["a", "x", "b"], present, 10)
    assert set(changes) >= {"x"} and (present | changes)["a"] > changes["x"] > (present | changes)["b"]
