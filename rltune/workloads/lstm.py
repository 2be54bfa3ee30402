"""An LSTM forecasts sine waves of unknown frequency: many small dependent steps, which large GPUs do not fill."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

from rltune.workloads.pytorch import Runtime
from rltune.workloads.task import Options, Result, say


class Sizes(NamedTuple):
    """Time steps of a sequence, units of the LSTM, sequences of a batch; ``steps`` of training."""

    length: int
    hidden: int
    batch: int
    steps: int


DEFAULTS = {"cuda": Sizes(128, 1024, 256, 1000), "cpu": Sizes(64, 256, 64, 400)}
TEST_SEQUENCES = 256
CYCLES = (0.02, 0.2)
"""Range of frequencies, in cycles a time step."""


class Forecaster(nn.Module):
    """(batch, length, 1) values -> (batch, length, 1) what it expects next after each."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The change is learned, the last value is given."""
        return values + self.head(self.lstm(values)[0])


def run(options: Options) -> Result:
    """Train; ``quality`` is the mean squared error of forecasts of new waves, the trivial predictor says the last value."""
    runtime = Runtime(options)
    chosen = DEFAULTS[runtime.kind]
    hidden, steps = options.scaled(chosen.hidden), options.steps or chosen.steps
    sizes = {"length": chosen.length, "hidden": hidden, "batch": chosen.batch}
    say("lstm", runtime.kind, steps, sizes)
    test = waves(runtime, TEST_SEQUENCES, chosen.length)
    model = Forecaster(hidden).to(runtime.device)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    with runtime.measured():
        for _ in range(steps):
            batch = waves(runtime, chosen.batch, chosen.length)
            optimiser.zero_grad(set_to_none=True)
            nn.functional.mse_loss(model(batch[:, :-1]), batch[:, 1:]).backward()
            # Long sequences make a gradient explode now and then.
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
    with torch.no_grad():
        loss = float(nn.functional.mse_loss(model(test[:, :-1]), test[:, 1:]))
    trivial = float(nn.functional.mse_loss(test[:, :-1], test[:, 1:]))
    return Result(
        "lstm", runtime.kind, runtime.name, runtime.seconds, steps,
        chosen.batch * chosen.length * steps / runtime.seconds, "time steps/s", loss, "test_mse", trivial,
        runtime.peak_memory_bytes, runtime.threads, options.seed, sizes,
    )  # fmt: skip


def waves(runtime: Runtime, count: int, length: int) -> torch.Tensor:
    """(count, length + 1, 1) sine waves of random frequency, phase and height."""
    low, high = CYCLES
    frequency, phase, height = torch.rand(3, count, 1, 1, generator=runtime.generator).to(runtime.device)
    time = torch.arange(length + 1, device=runtime.device).view(1, -1, 1)
    return (0.5 + height) * torch.sin(2 * math.pi * ((low + (high - low) * frequency) * time + phase))
