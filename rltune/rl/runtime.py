"""Settings of the process that make small networks fast."""

from __future__ import annotations

import ctypes
import sys

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt(3)."""


def tune(threads: int) -> None:
    """Use ``threads`` for tensor operations and keep freed memory in the process.

    By default glibc returns every activation of some hundred kilobytes to the
    kernel and faults it in again: half of a PPO update's time.
    """
    torch.set_num_threads(threads)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
