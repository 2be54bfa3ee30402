"""Batches one after the other on the same GPUs: each is planned when it arrives, on what those before it leave.

What was planned stands. The new batch takes over instances as they are, may reuse them, and drains what is in its way
while neighbours run; FAR joins batches by reversing every other one in time, and such plans are among the seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rltune.mig.batch.plan import Left, Plan
from rltune.mig.batch.search import Outcome, search
from rltune.mig.batch.tasks import Tasks


def search_sequence(
    batches: Sequence[Tasks],
    gpus: Sequence[str],
    seconds: float = 1.0,
    seed: int = 0,
    steps: int | None = None,
    plans: Callable[[Tasks, Sequence[Left]], Sequence[Plan]] | None = None,
) -> list[Outcome]:
    """An outcome a batch, in order of arrival; ``plans`` gives further plans to begin a search from. See `search`."""
    left: tuple[Left, ...] = tuple(Left() for _ in gpus)
    found: list[Outcome] = []
    for index, tasks in enumerate(batches):
        if found:
            left = found[-1].plan.leaves(tasks.arrival_s - batches[index - 1].arrival_s)
        further = plans(tasks, left) if plans else ()
        found.append(search(tasks, gpus, seconds, seed, steps, left, further))
    return found
