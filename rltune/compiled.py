"""How kernels are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba as nb


def kernel(function: Callable[..., Any]) -> Any:
    """Compile, cache on disk, and refuse any allocation.

    Without Numba's runtime (``_nrt=False``) a kernel that would allocate does not
    compile, and passing tuples of arrays costs no reference counts: three times
    the speed of the event loop.
    """
    # Numba's stubs do not list this option, which its own library uses the same way.
    options: dict[str, Any] = {"cache": True, "_nrt": False}
    return nb.njit(**options)(function)
