"""Products of large matrices: pure arithmetic, whose speed follows the compute slices."""

from __future__ import annotations

import torch

from rltune.workloads.pytorch import Runtime
from rltune.workloads.task import Options, Result, say

DEFAULTS = {"cuda": (8192, 1000), "cpu": (2048, 150)}
"""Device -> rows of the matrices, products."""


def run(options: Options) -> Result:
    """Multiply two fixed matrices again and again; ``quality`` is the relative error of the product."""
    runtime = Runtime(options)
    size, steps = DEFAULTS[runtime.kind]
    size, steps = options.scaled(options.size or size), options.steps or steps
    say("matmul", runtime.kind, steps, {"size": size})
    a, b = runtime.normal(size, size), runtime.normal(size, size)
    product = a @ b  # libraries load with the first one
    with runtime.measured():
        for _ in range(steps):
            torch.matmul(a, b, out=product)
    return Result(
        "matmul", runtime.kind, runtime.name, runtime.seconds, steps, 2 * size**3 * steps / runtime.seconds / 1e9,
        "GFLOP/s", error(a, b, product), "relative_error", None, runtime.peak_memory_bytes, runtime.threads, options.seed,
        {"size": size},
    )  # fmt: skip


def error(a: torch.Tensor, b: torch.Tensor, product: torch.Tensor) -> float:
    """Freivalds' check: ``product x`` against ``a (b x)`` in double precision, for a random x, over the norm of the latter."""
    x = torch.randn(a.shape[1], dtype=torch.float64).to(a.device)
    expected = a.double() @ (b.double() @ x)
    return float((product.double() @ x - expected).norm() / expected.norm())
