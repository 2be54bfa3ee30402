"""How long made-up jobs run: log-normal, or with the heavier tail of a Pareto distribution."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from rltune.nouns.errors import InputError

Floats = npt.NDArray[np.float64]

DURATIONS = ("lognormal", "pareto")
LEAST_PARETO = 1.4427
"""1 / ln 2: below this mean over median no Lomax distribution exists; there it ends as an exponential one."""


def runtimes(jobs: int, median_s: float, mean_s: float, kind: str, rng: np.random.Generator) -> Floats:
    """(jobs,) whole seconds, at least 1, with that median and mean; ``kind`` is one of ``DURATIONS``.

    "pareto" is the Lomax (Pareto II) distribution, P(t > x) = (1 + x / scale)^-a.
    """
    if kind == "lognormal":
        sigma = math.sqrt(2 * math.log(mean_s / median_s))  # mean = median x exp(sigma^2 / 2)
        drawn = rng.lognormal(math.log(median_s), sigma, jobs)
    else:
        shape, scale = lomax(median_s, mean_s)
        drawn = scale * rng.pareto(shape, jobs)
    whole: Floats = np.maximum(1, drawn.round())
    return whole


def lomax(median_s: float, mean_s: float) -> tuple[float, float]:
    """Shape a > 1 and scale with median = scale (2^(1/a) - 1) and mean = scale / (a - 1); InputError if none has them."""
    ratio = mean_s / median_s
    if ratio <= LEAST_PARETO:
        raise InputError(
            f"trace synthetic: durations=pareto with mean_s={mean_s:g}, median_s={median_s:g}; "
            f"needed is mean_s > {LEAST_PARETO} x median_s"
        )
    low, high = 1 + 1e-9, 1e6
    for _ in range(200):
        shape = math.sqrt(low * high)
        found = 1 / ((shape - 1) * math.expm1(math.log(2) / shape))
        low, high = (shape, high) if found > ratio else (low, shape)
    return shape, mean_s * (shape - 1)
