"""Gradient-boosted trees on synthetic classes. On the CPU only: a task that leaves its GPU instance idle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from sklearn.datasets import make_classification
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_info, threadpool_limits

from rltune.nouns.errors import InputError
from rltune.workloads.task import Options, Result, process_peak_bytes, say

ROWS, FEATURES, CLASSES, ROUNDS = 160_000, 40, 4, 300
TEST_SHARE = 0.2


def run(options: Options) -> Result:
    """Train; ``quality`` is the accuracy on rows not trained on, the trivial predictor says the most frequent class."""
    if options.device == "cuda":
        raise InputError("--device cuda: boosting runs on the CPU only; use --device cpu, or auto")
    # Fewer would leave a class without rows on one side of the split.
    rows, rounds = max(200, options.scaled(ROWS)), options.steps or ROUNDS
    sizes = {"rows": rows, "features": FEATURES, "classes": CLASSES}
    say("boosting", "cpu", rounds, sizes)
    x, y = make_classification(
        rows, FEATURES, n_informative=20, n_redundant=5, n_classes=CLASSES, class_sep=1.0, random_state=options.seed
    )
    x, x_test, y, y_test = train_test_split(x, y, test_size=TEST_SHARE, random_state=options.seed, stratify=y)
    # Without early stopping all rounds asked for are run, and the time of two runs can be compared.
    model = HistGradientBoostingClassifier(max_iter=rounds, early_stopping=False, random_state=options.seed)
    with _threads(options.cpu_threads()) as threads:
        began = time.perf_counter()
        model.fit(x, y)
        seconds = time.perf_counter() - began
    accuracy, trivial = float(model.score(x_test, y_test)), float(np.mean(y_test == np.bincount(y).argmax()))
    return Result(
        "boosting", "cpu", "CPU", seconds, rounds, len(x) * rounds / seconds, "rows/s", accuracy, "test_accuracy", trivial,
        process_peak_bytes(), threads, options.seed, sizes,
    )  # fmt: skip


@contextmanager
def _threads(most: int | None) -> Iterator[int]:
    """Limit OpenMP, None: leave it; gives the threads it has."""
    with threadpool_limits(most, user_api="openmp"):
        yield max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "openmp"), default=1)
