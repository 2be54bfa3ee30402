"""Venus by virtual cluster: what is recorded stays, what is drawn is drawn from what is published."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rltune
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.traces.helios_calibrated import CLAMP_S
from rltune.traces.helios_statistics import VENUS
from rltune.traces.rebuilt import MEAN_RUN_S, WAYS, Venus, batches, read_venus, rebuilt, unclamped


@pytest.fixture(scope="module")
def by_hand() -> Venus:
    """Two known jobs, and 600 of which every twentieth is clamped at 48 h and every thirtieth needs 80 GPUs."""
    known = JobTable.from_columns(
        {
            "job_id": ["k1", "k2"],
            "submit_s": [0, 5],
            "duration_s": [7, 9],
            "num_gpus": [160, 8],
            "vc": ["vcvGl", "vcvlY"],
        }
    )
    n = np.arange(600)
    other = JobTable.from_columns(
        {
            "job_id": [f"o{k}" for k in n],
            "submit_s": n * 40.0,
            "duration_s": np.where(n % 20 == 0, CLAMP_S, 100.0),
            "num_gpus": np.where(n % 30 == 0, 80, 1),
        }
    )
    return Venus(known, other, np.linspace(0.1, 0.9, 16))


@pytest.mark.parametrize("way", WAYS)
def test_what_is_recorded_stays_and_the_rest_fits(by_hand: Venus, way: str) -> None:
    """A known job would change, or a gang would be drawn into a virtual cluster that cannot hold it."""
    jobs = rebuilt(by_hand, way, seed=1).jobs
    rows = {str(name): k for k, name in enumerate(jobs.job_id)}
    vc = jobs.vc.values()
    assert len(rows) == 602
    assert [(vc[rows[k]], jobs.duration_s[rows[k]]) for k in ("k1", "k2")] == [("vcvGl", 7), ("vcvlY", 9)]
    drawn = [k for name, k in rows.items() if name.startswith("o")]
    assert all(jobs.num_gpus[k] <= 8 * VENUS.vc_nodes[vc[k]] and vc[k] not in ("vcvGl", "vcvlY") for k in drawn)
    assert jobs.duration_s.mean() == pytest.approx(MEAN_RUN_S, abs=1)
    assert jobs.duration_s[drawn].min() == 100


@pytest.mark.parametrize("way", WAYS)
def test_a_draw_is_repeatable_and_seeds_differ(by_hand: Venus, way: str) -> None:
    """A figure of the table could not be made again, or 50 draws would be one."""
    assert rebuilt(by_hand, way, 3).sha256 == rebuilt(by_hand, way, 3).sha256 != rebuilt(by_hand, way, 4).sha256


def test_unknown_ways_are_refused(by_hand: Venus) -> None:
    """A typing error would draw in some other way."""
    with pytest.raises(InputError, match="'users' is unknown; known are jobs, batches, unequal"):
        rebuilt(by_hand, "users", 0)


def test_batches_are_of_one_width_and_close_in_time() -> None:
    """Jobs of different users would be tied together, or a user's sweep would be torn apart."""
    submit, gpus = np.array([0.0, 50, 60, 110, 171, 172]), np.array([1, 8, 1, 1, 1, 8], np.int32)
    assert batches(submit, gpus).tolist() == [0, 2, 0, 0, 1, 3]


@given(st.integers(0, 2**32 - 1), st.integers(1, 300))
def test_only_clamped_run_times_are_drawn(seed: int, clamped: int) -> None:
    """A recorded run time would be replaced, or a job would end before the 48 h it is known to have run."""
    duration = np.concatenate([np.full(clamped, CLAMP_S), [1.0, 500.0, CLAMP_S - 1]])
    total = duration.sum() + 1e5 * clamped
    out, count = unclamped(duration, total, np.random.default_rng(seed))
    assert count == clamped
    assert out[clamped:].tolist() == duration[clamped:].tolist()
    assert (out[:clamped] >= CLAMP_S).all()
    assert out.sum() == pytest.approx(total, abs=clamped)


PUBLISHED_CODE = {"vcvGl": (1452, 20_169_907, 1_011_738), "vcvlY": (415, 149_578, 149_578)}
"""Jobs, and the sum of their waits under FIFO and SJF in the simulator of HeliosArtifact@6345d9f, run on these jobs."""


@pytest.mark.parametrize("vc", sorted(PUBLISHED_CODE))
def test_real_jobs_wait_as_in_the_published_simulator(real: Path, vc: str) -> None:
    """Our FIFO and SJF would not be those of the Helios paper, and no comparison with its tables would mean a thing."""
    known = read_venus(real).known
    jobs = known.take(known.vc.values() == vc)
    cluster = Cluster(vc, (Pool(vc, VENUS.vc_nodes[vc], 8),))
    by_arrival = jobs.duration_s + np.arange(len(jobs)) * 1e-6  # settles ties of SJF
    waits = [
        rltune.simulate(jobs, cluster, policy=policy, backfill="strict", runtimes=by_arrival).wait_s.sum()
        for policy in ("fifo", "sjf")
    ]
    assert (len(jobs), *waits) == PUBLISHED_CODE[vc]


def test_the_real_parts_add_up(real: Path) -> None:
    """The window of Table 3 would be another one: 24,171 GPU jobs were submitted in it."""
    venus = read_venus(real)
    assert (len(venus.known), len(venus.other), len(venus.spread)) == (1867, 22_304, 16)
    jobs = rebuilt(venus, "batches", 0).jobs
    assert jobs.submit_s.min() >= 0
    assert jobs.submit_s.max() <= 26 * 86400 - 60
    assert set(jobs.vc.names) == set(VENUS.vc_nodes)
