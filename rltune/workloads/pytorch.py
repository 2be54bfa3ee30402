"""Where PyTorch computes, and for how long."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rltune.nouns.errors import InputError
from rltune.workloads.task import Options, TooLarge, process_peak_bytes


class Runtime:
    """The device of a task; ``seconds`` and ``peak_memory_bytes`` of the work done under `measured`."""

    def __init__(self, options: Options) -> None:
        available = torch.cuda.is_available()
        if options.device == "cuda" and not available:
            seen = os.environ.get("CUDA_VISIBLE_DEVICES")
            where = "" if seen is None else f" (CUDA_VISIBLE_DEVICES={seen})"
            raise InputError(f"--device cuda: PyTorch sees no CUDA device{where}; use --device cpu, or auto")
        self.kind = "cuda" if available and options.device != "cpu" else "cpu"
        self.device = torch.device(self.kind)
        if self.kind == "cpu" and (threads := options.cpu_threads()) is not None:
            torch.set_num_threads(threads)
        self.threads = torch.get_num_threads()
        self.seconds, self.peak_memory_bytes = 0.0, 0
        torch.manual_seed(options.seed)
        self.generator = torch.Generator().manual_seed(options.seed)
        """For data: drawn on the CPU, so that the seed gives the same on every device."""

    @property
    def name(self) -> str:
        """Of the GPU, or ``CPU``."""
        return torch.cuda.get_device_name() if self.kind == "cuda" else "CPU"

    def normal(self, *shape: int) -> torch.Tensor:
        """Standard normal numbers, on the device."""
        return torch.randn(*shape, generator=self.generator).to(self.device)

    def batch(self, rows: int, size: int) -> torch.Tensor:
        """(size,) row numbers below ``rows``, drawn with replacement, on the device."""
        return torch.randint(rows, (size,), generator=self.generator).to(self.device)

    @contextmanager
    def measured(self) -> Iterator[None]:
        """The work: a GPU computes on after the call has returned, so wait for it at both ends."""
        self._wait()
        began = time.perf_counter()
        yield
        self._wait()
        self.seconds = time.perf_counter() - began
        self.peak_memory_bytes = torch.cuda.max_memory_allocated() if self.kind == "cuda" else process_peak_bytes()

    def _wait(self) -> None:
        if self.kind == "cuda":
            torch.cuda.synchronize()


@contextmanager
def fitting() -> Iterator[None]:
    """TooLarge, in one line, where memory does not suffice."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _too_large(error) from None
    except RuntimeError as error:
        # The CPU's allocator has no error class of its own.
        if "can't allocate memory" not in str(error):
            raise
        raise _too_large(error) from None


def _too_large(error: Exception) -> TooLarge:
    first = (str(error).splitlines() or ["out of memory"])[0]
    return TooLarge(f"it does not fit in memory ({first}); use a smaller --scale or --size, or a larger instance")
