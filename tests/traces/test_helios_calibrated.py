"""The generator against the published statistics it claims."""

from pathlib import Path

import numpy as np
import pytest

from rltune.traces import Trace, load_trace
from rltune.traces.helios_statistics import SIZES, VENUS

pytestmark = pytest.mark.xdist_group("venus")


@pytest.fixture(scope="module", params=[0, 7])
def clamped(request: pytest.FixtureRequest) -> Trace:
    """As by default: durations clamped at 48 h."""
    return load_trace("helios_calibrated", seed=request.param)


@pytest.fixture(scope="module", params=[0, 7])
def full(request: pytest.FixtureRequest) -> Trace:
    """With the published tail of durations."""
    return load_trace("helios_calibrated", seed=request.param, clamp_s=None)


def share_pct(values: np.ndarray, points: tuple[int, ...], weights: np.ndarray | None = None) -> np.ndarray:
    """Per cent of the weight at or below each point."""
    weights = np.ones(len(values)) if weights is None else weights
    return np.array([weights[values <= point].sum() for point in points]) / weights.sum() * 100


def test_job_count_is_published(clamped: Trace) -> None:
    """The load of every experiment would be off; 125,214 jobs are published from April on."""
    assert len(clamped) == pytest.approx(125_214, rel=0.02)


def test_month_counts_are_published(clamped: Trace) -> None:
    """Training and test stretches by date would not have the real months' load."""
    for first, days, multi, single in VENUS.months:
        jobs = clamped.between(first.isoformat(), str(np.datetime64(first) + days)).jobs
        assert len(jobs) == pytest.approx(multi + single, rel=0.02)
        assert (jobs.num_gpus == 1).sum() == pytest.approx(single, rel=0.03)


def test_sizes_follow_the_published_cdf(clamped: Trace) -> None:
    """Wide gangs decide how hard packing is."""
    found = share_pct(clamped.jobs.num_gpus, SIZES)
    assert np.abs(found - VENUS.size_cdf_pct).max() < 1.5
    assert clamped.jobs.num_gpus.mean() == pytest.approx(VENUS.mean_gpus, rel=0.01)


def test_durations_follow_the_published_cdf(full: Trace, clamped: Trace) -> None:
    """Waits are made by the long jobs, slowdowns by the short ones."""
    points = tuple(2**k for k in range(22))
    assert np.abs(share_pct(full.jobs.duration_s, points) - VENUS.duration_cdf_pct).max() < 2
    below = [k for k in range(22) if 2**k < 172_800]
    found = share_pct(clamped.jobs.duration_s, tuple(2**k for k in below))
    assert np.abs(found - np.array(VENUS.duration_cdf_pct)[below]).max() < 2
    assert clamped.jobs.duration_s.max() == 172_800


def test_gpu_time_by_size_follows_the_published_cdf(full: Trace) -> None:
    """The load would sit in the wrong gangs."""
    jobs = full.jobs
    gpu_seconds = jobs.num_gpus * jobs.duration_s
    assert np.abs(share_pct(jobs.num_gpus, SIZES, gpu_seconds) - VENUS.gpu_time_cdf_pct).max() < 1
    assert gpu_seconds.sum() == pytest.approx(sum(VENUS.gpu_seconds), rel=0.1)


def test_hours_follow_the_published_rhythm(clamped: Trace) -> None:
    """Queues build up by day and drain by night."""
    hours = clamped.jobs.submit_s // 3600
    per_day = np.bincount((hours % 24).astype(int)) / 180
    assert per_day == pytest.approx(np.array(VENUS.hourly_jobs), rel=0.1)


def test_few_users_hold_most_gpu_time(full: Trace) -> None:
    """Fairness by user would be trivial among equals; published: top 1 15 %, top 16 75 %, 156 users."""
    jobs = full.jobs
    by_user = np.bincount(jobs.user.codes, weights=jobs.num_gpus * jobs.duration_s)
    share = np.sort(by_user)[::-1].cumsum() / by_user.sum()
    assert share[0] == pytest.approx(0.153, abs=0.05)
    assert share[15] == pytest.approx(0.746, abs=0.05)
    assert 100 <= len(by_user) <= VENUS.users


def test_every_gang_fits_its_virtual_cluster(clamped: Trace) -> None:
    """Jobs wider than their VC could never start."""
    jobs = clamped.jobs
    room = np.array([VENUS.vc_nodes[name] * 8 for name in jobs.vc.names])
    assert (jobs.vc.codes >= 0).all()
    assert (jobs.num_gpus <= room[jobs.vc.codes]).all()
    assert len(jobs.vc.names) == len(VENUS.vc_nodes)


def test_seed_decides_everything() -> None:
    """A run could not be repeated, or five seeds would be one."""
    first, again, other = (load_trace("helios_calibrated", seed=seed) for seed in (3, 3, 4))
    assert first.sha256 == again.sha256 != other.sha256


def test_fallback_never_passes_as_helios(no_traces: Path) -> None:
    """A report would call generated jobs real."""
    trace = load_trace("helios")
    assert (trace.name, trace.source) == ("helios", "calibrated")
    assert trace.label == "helios (calibrated synthetic)"
    assert any("no real job" in note for note in trace.notes)
    assert str(trace.origin) == "2020-04-01 00:00:00"


def test_synthetic_follows_its_options() -> None:
    """The options of the plain generator would mean something else."""
    trace = load_trace("synthetic", seed=2, jobs=20_000, arrivals_per_h=30, median_s=100, mean_s=400,
                       gpu_mix={"1": 3, "4": 1}, vcs=3, users=5)  # fmt: skip
    facts = trace.describe()
    assert (trace.source, facts["jobs"], facts["vcs"], facts["users"]) == ("synthetic", 20_000, 3, 5)
    assert facts["arrivals_per_h"] == pytest.approx(30, rel=0.05)
    assert facts["duration_s"]["p50"] == pytest.approx(100, rel=0.1)
    assert facts["mean_duration_s"] == pytest.approx(400, rel=0.15)
    assert facts["size_share_pct"]["3-4"] == pytest.approx(25, abs=1.5)
