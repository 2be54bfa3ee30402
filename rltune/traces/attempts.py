"""Several records of one job: each attempt is a run of its own, with a name of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def named_apart(names: Sequence[str]) -> tuple[list[str], int]:
    """The names, made unique (ID, ID#2, ID#3, in their order), and how many had to be changed."""
    taken, seen = set(names), Counter[str]()
    unique, changed = [], 0
    for name in names:
        seen[name] += 1
        if seen[name] == 1:
            unique.append(name)
            continue
        # A job may really be called ID#2.
        while (other := f"{name}#{seen[name]}") in taken:
            seen[name] += 1
        taken.add(other)
        unique.append(other)
        changed += 1
    return unique, changed
