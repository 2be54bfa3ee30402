"""Batches that the tests of the planner share."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from rltune.mig.batch.tasks import Tasks
from rltune.mig.geometry import geometry

MODELS = ("A100-80GB", "A30", "H100-80GB")


@st.composite
def batches(draw, model=None, most=10):
    """A batch in which tasks scale anyhow, cannot use some profiles, and take from a second to two minutes."""
    name = draw(st.sampled_from(MODELS)) if model is None else model
    profiles = len(geometry(name).profiles)
    n = draw(st.integers(1, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    seconds = rng.uniform(1, 120, (n, profiles)).round(3)
    seconds[rng.random((n, profiles)) < draw(st.sampled_from([0.0, 0.3, 0.6]))] = np.inf
    # Something is left for everyone.
    seconds[~np.isfinite(seconds).any(1), 0] = 10.0
    return Tasks(tuple(f"t{i}" for i in range(n)), {name: seconds})
