"""A multilayer perceptron learns what a random network, the teacher, computes: regression on synthetic data."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from rltune.workloads.pytorch import Runtime
from rltune.workloads.task import Options, Result, say


class Sizes(NamedTuple):
    """Rows to train on, features, width of the hidden layers, rows of a batch; ``steps`` of training."""

    rows: int
    features: int
    width: int
    batch: int
    steps: int


DEFAULTS = {"cuda": Sizes(262_144, 64, 4096, 8192, 1000), "cpu": Sizes(16_384, 32, 512, 512, 1000)}
TEST_ROWS = 4096
TEACHER_WIDTH = 32
NOISE = 0.1
"""Standard deviation of the noise on the targets, whose own is about 1."""


def run(options: Options) -> Result:
    """Train; ``quality`` is the mean squared error on rows not trained on, the trivial predictor says the mean."""
    runtime = Runtime(options)
    chosen = DEFAULTS[runtime.kind]
    width, steps = options.scaled(chosen.width), options.steps or chosen.steps
    sizes = {"rows": chosen.rows, "features": chosen.features, "width": width, "batch": chosen.batch}
    say("mlp", runtime.kind, steps, sizes)
    x, y = data(runtime, chosen.rows + TEST_ROWS, chosen.features)
    (x_test, x), (y_test, y) = x.split([TEST_ROWS, chosen.rows]), y.split([TEST_ROWS, chosen.rows])
    model = network(chosen.features, width).to(runtime.device)
    with runtime.measured():
        train(runtime, model, x, y, chosen.batch, steps)
    with torch.no_grad():
        loss = float(nn.functional.mse_loss(model(x_test), y_test))
    trivial = float(((y_test - y.mean()) ** 2).mean())
    return Result(
        "mlp", runtime.kind, runtime.name, runtime.seconds, steps, chosen.batch * steps / runtime.seconds, "rows/s",
        loss, "test_mse", trivial, runtime.peak_memory_bytes, runtime.threads, options.seed, sizes,
    )  # fmt: skip


def data(runtime: Runtime, rows: int, features: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, features) normal inputs, and (rows, 1) what a random network of one hidden layer makes of them, plus noise."""
    x = runtime.normal(rows, features)
    first, second = runtime.normal(features, TEACHER_WIDTH), runtime.normal(TEACHER_WIDTH, 1)
    y = torch.tanh(x @ first / features**0.5) @ second / TEACHER_WIDTH**0.5
    return x, (y - y.mean()) / y.std() + NOISE * runtime.normal(rows, 1)


def network(features: int, width: int) -> nn.Module:
    """Three hidden layers."""
    return nn.Sequential(
        nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
        nn.Linear(width, 1),
    )  # fmt: skip


def train(runtime: Runtime, model: nn.Module, x: torch.Tensor, y: torch.Tensor, batch: int, steps: int) -> None:
    """Adam on batches drawn with replacement."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(steps):
        rows = runtime.batch(len(x), batch)
        optimiser.zero_grad(set_to_none=True)
        nn.functional.mse_loss(model(x[rows]), y[rows]).backward()
        optimiser.step()
