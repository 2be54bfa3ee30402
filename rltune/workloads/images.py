"""A small convolutional network learns handwritten digits (scikit-learn's bundled 8 x 8 images)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from rltune.workloads.pytorch import Runtime
from rltune.workloads.task import Options, Result, say


class Sizes(NamedTuple):
    """Channels of the first layer (the second has twice as many), images of a batch; ``epochs`` over the training set."""

    channels: int
    batch: int
    epochs: int


DEFAULTS = {"cuda": Sizes(512, 256, 200), "cpu": Sizes(64, 64, 80)}
TEST_SHARE = 0.2
CLASSES = 10


def run(options: Options) -> Result:
    """Train; ``quality`` is the accuracy on images not trained on, the trivial predictor says the most frequent digit."""
    runtime = Runtime(options)
    chosen = DEFAULTS[runtime.kind]
    channels, epochs = options.scaled(chosen.channels), options.steps or chosen.epochs
    sizes = {"channels": channels, "batch": chosen.batch}
    say("images", runtime.kind, epochs, sizes)
    x, x_test, y, y_test = data(runtime, options.seed)
    model = network(channels).to(runtime.device)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    with runtime.measured():
        for _ in range(epochs):
            order = torch.randperm(len(x), generator=runtime.generator).to(runtime.device)
            for rows in order.split(chosen.batch):
                optimiser.zero_grad(set_to_none=True)
                nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimiser.step()
    with torch.no_grad():
        accuracy = float((model(x_test).argmax(1) == y_test).float().mean())
    trivial = float((y_test == y.mode().values).float().mean())
    return Result(
        "images", runtime.kind, runtime.name, runtime.seconds, epochs, len(x) * epochs / runtime.seconds, "images/s",
        accuracy, "test_accuracy", trivial, runtime.peak_memory_bytes, runtime.threads, options.seed, sizes,
    )  # fmt: skip


def data(runtime: Runtime, seed: int) -> tuple[torch.Tensor, ...]:
    """Images (n, 1, 8, 8) from 0 to 1 and their digits (n,): train, test, train, test; the same shares of each digit."""
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[:, None]
    parts = train_test_split(images, digits.target, test_size=TEST_SHARE, random_state=seed, stratify=digits.target)
    return tuple(torch.from_numpy(part).to(runtime.device) for part in parts)


def network(channels: int) -> nn.Module:
    """Two convolutions, one halving of the resolution."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(),
        nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(2 * channels * 16, CLASSES),
    )  # fmt: skip
