"""Fixtures of the device tests: GPUs that do not exist."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from fake_nvml import COMPILER, FakeNvml, fake


@pytest.fixture
def fake_nvml() -> Iterator[Callable[..., FakeNvml]]:
    """Makes GPUs: ``fake_nvml(["A100-80GB"], root=False)``; see `fake_nvml.fake`."""
    if COMPILER is None:
        pytest.skip("no C compiler (cc): the stand-in for libnvidia-ml cannot be built")
    with ExitStack() as stack:
        yield lambda models, **options: stack.enter_context(fake(models, **options))
