"""Which cases of a test are always run, and which only with ``-m thorough``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def some(values: Iterable[Any], *always: Any) -> list[Any]:
    """All values as parameters of a test; those that are not among ``always`` are marked thorough."""
    given = list(values)
    assert given and set(map(str, always)) <= set(map(str, given)), "a case that is always run is not there"
    return [one if one in always else pytest.param(one, marks=pytest.mark.thorough) for one in given]
