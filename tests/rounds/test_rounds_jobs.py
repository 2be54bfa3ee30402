"""Job lists: what is drawn is what was published, and broken lists are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rltune.nouns.errors import InputError
from rltune.rounds.jobs import RoundJobs, draw_gavel_jobs, rates_of, read_gavel_jobs
from rltune.traces.heterogeneity import load_throughput


@pytest.mark.parametrize(("name", "seed"), [("single_5.2", 0), ("multi_2.6", 2)])
def test_a_drawn_list_is_the_published_one(name: str, seed: int, real_traces: Path) -> None:
    """Results on drawn lists could not be compared with Gavel's printed figures."""
    path = real_traces / "gavel_continuous" / f"{name}_seed{seed}.csv.gz"
    if not path.is_file():
        pytest.skip("gavel_continuous/ is not among the traces")
    kind, rate = name.split("_")
    rates = rates_of(load_throughput("gavel", folder=real_traces))
    drawn, read = draw_gavel_jobs(15_000, float(rate), seed, rates, gangs=kind == "multi"), read_gavel_jobs(path)
    assert drawn.model == read.model
    assert (drawn.gpus == read.gpus).all()
    assert np.allclose(drawn.arrival_s, read.arrival_s, rtol=1e-12)
    assert np.allclose(drawn.steps, read.steps, rtol=1e-12)
    assert np.allclose(drawn.rate, read.rate, rtol=1e-12)


def test_broken_lists_are_refused() -> None:
    """A list out of order, or a job that runs nowhere, would be simulated to nonsense."""
    one = np.ones(2)
    with pytest.raises(InputError, match="sort the jobs"):
        RoundJobs(np.array([5.0, 1.0]), one.astype(int), one, np.ones((2, 3)), ("a", "b"))
    with pytest.raises(InputError, match="job 1 has no GPU, no steps, or no type"):
        RoundJobs(np.zeros(2), one.astype(int), one, np.array([[1.0, 0, 0], [0, 0, 0]]), ("a", "b"))


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    """A user would see a traceback of pandas."""
    with pytest.raises(InputError, match="set RLTUNE_TRACES"):
        read_gavel_jobs(tmp_path / "single_9.csv.gz")
