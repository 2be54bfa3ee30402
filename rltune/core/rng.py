"""Random numbers as a function of what they are for, so that one decision never shifts the draws of another."""

from __future__ import annotations

import numpy as np

from rltune.compiled import inner, kernel

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S12 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(12)
# What a draw is for.
LOTTERY, JOB_FAILURE, NODE_FAILURE, NODE_REPAIR, PLACEMENT = range(5)


@inner
def mixed(word):
    """SplitMix64's output function (Steele, Lea, Flood, OOPSLA 2014)."""
    word = (word ^ (word >> _S30)) * _FIRST
    word = (word ^ (word >> _S27)) * _SECOND
    return word ^ (word >> _S31)


@inner
def draw(seed, purpose, a, b):
    """64 random bits for the b-th draw for item ``a``."""
    word = mixed(np.uint64(seed) + _GOLDEN)
    word = mixed(word + np.uint64(purpose) + _GOLDEN)
    word = mixed(word + np.uint64(a) + _GOLDEN)
    return mixed(word + np.uint64(b) + _GOLDEN)


@kernel
def exponential(seed, purpose, a, b, mean):
    """An exponentially distributed time of that mean; never 0."""
    # 52 bits: with 53 the half would round the largest up to 1, whose logarithm is 0.
    uniform = (np.float64(draw(seed, purpose, a, b) >> _S12) + 0.5) / 4503599627370496.0
    return -np.log(uniform) * mean
