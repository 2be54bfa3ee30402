"""The generators of Earth, Saturn, Uranus, Philly and PAI against the published numbers they claim."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rltune.traces import TRACES, Trace, load_trace
from rltune.traces.calibrated import vc_load
from rltune.traces.helios_statistics import CLUSTERS
from rltune.traces.labels import tilted
from rltune.traces.load import GENERATED
from rltune.traces.pai_statistics import GPU_TYPES, PAI, REQUESTS
from rltune.traces.philly_statistics import PHILLY, VC_SHARES
from rltune.traces.statistics import ClusterStatistics
from tests.some import some

pytestmark = pytest.mark.xdist_group("calibrated")

HELIOS = {f"helios_{name}_calibrated": facts for name, facts in CLUSTERS.items() if name != "venus"}
FACTS: dict[str, ClusterStatistics] = HELIOS | {"philly_calibrated": PHILLY, "alibaba_calibrated": PAI}
SHOWN = ("helios_earth_calibrated", "philly_calibrated", "alibaba_calibrated")
VENUS_SHA256 = "454222735397ca6351e71dbe4d5dc98d6ec3aa6c1a020d26ea1eee4631fa1da5"
"""Of the default jobs since the first release."""


@pytest.fixture(
    scope="module",
    params=some([(name, seed) for name in FACTS for seed in (0, 7)], *((name, 0) for name in SHOWN)),
    ids=str,
)
def made(request: pytest.FixtureRequest) -> tuple[Trace, ClusterStatistics]:
    """A trace in full size, by each generator and two seeds, and what it claims."""
    name, seed = request.param
    return load_trace(name, seed=seed), FACTS[name]


def gpu_seconds(trace: Trace) -> np.ndarray:
    return np.asarray(trace.jobs.num_gpus * trace.jobs.duration_s)


def cdf_pct(values: np.ndarray, points: Any, weights: np.ndarray | None = None) -> np.ndarray:
    """Per cent of the weight at or below each point."""
    weights = np.ones(len(values)) if weights is None else weights
    return np.array([weights[values <= point].sum() for point in points]) / weights.sum() * 100


def shares_pct(codes: np.ndarray, names: tuple[str, ...], wanted: Any, weights: np.ndarray) -> np.ndarray:
    """Per cent of the weight under each wanted name."""
    found = np.bincount(codes, weights=weights, minlength=len(names)) / weights.sum() * 100
    return np.array([found[names.index(name)] if name in names else 0.0 for name in wanted])


def test_venus_draws_the_jobs_of_shipped_results() -> None:
    """Every result on helios_calibrated that was ever written down would be of other jobs."""
    assert load_trace("helios_calibrated").sha256 == VENUS_SHA256
    with_ends = load_trace("helios_calibrated", statuses=True)
    plain = load_trace("helios_calibrated")
    assert len(plain) == GENERATED["helios_calibrated"]
    assert (with_ends.jobs.submit_s == plain.jobs.submit_s).all()
    assert (with_ends.jobs.duration_s == plain.jobs.duration_s).all()


def test_counts_by_month_are_published(made: tuple[Trace, ClusterStatistics]) -> None:
    """Stretches by date would not have the real months' load; 2 % of a month may cross its border."""
    trace, facts = made
    assert len(trace) == facts.jobs == GENERATED[trace.name]
    begin_s = 0
    for _, days, multi, single in facts.months:
        month = trace.between(begin_s, begin_s + days * 86400).jobs
        assert len(month) == pytest.approx(multi + single, rel=0.02)
        assert (month.num_gpus == 1).sum() == pytest.approx(single, rel=0.03)
        begin_s += days * 86400


def test_sizes_follow_the_published_cdf(made: tuple[Trace, ClusterStatistics]) -> None:
    """Wide gangs decide how hard packing is; within 0.2 points, the mean within 2 %."""
    trace, facts = made
    assert np.abs(cdf_pct(trace.jobs.num_gpus, facts.sizes) - facts.size_cdf_pct).max() < 0.2
    assert trace.jobs.num_gpus.mean() == pytest.approx(facts.mean_gpus, rel=0.02)


def test_durations_follow_the_published_cdf(made: tuple[Trace, ClusterStatistics]) -> None:
    """Waits are made by the long jobs, slowdowns by the short ones; within 0.1 points."""
    trace, facts = made
    points = 2.0 ** np.arange(len(facts.duration_cdf_pct))
    below = points < trace.jobs.duration_s.max()
    assert below.sum() >= 17
    found = cdf_pct(trace.jobs.duration_s, points)
    assert np.abs(found - facts.duration_cdf_pct)[below].max() < 0.1


def test_gpu_time_by_size_follows_the_published_cdf(made: tuple[Trace, ClusterStatistics]) -> None:
    """The load would sit in the wrong gangs; within 1 point, the total within 10 %."""
    trace, facts = made
    found = cdf_pct(trace.jobs.num_gpus, facts.sizes, gpu_seconds(trace))
    assert np.abs(found - facts.gpu_time_cdf_pct).max() < 1
    assert gpu_seconds(trace).sum() == pytest.approx(sum(facts.gpu_seconds), rel=0.1)


def test_hours_follow_the_published_rhythm(made: tuple[Trace, ClusterStatistics]) -> None:
    """Queues build up by day and drain by night; the share of each hour within 10 % of it.

    Within 50 % for Philly: its bursts last an hour on average and smear the rhythm.
    """
    trace, facts = made
    hours = np.bincount((trace.jobs.submit_s // 3600 % 24).astype(int), minlength=24)
    tolerance = 0.5 if facts is PHILLY else 0.1
    assert hours / hours.sum() == pytest.approx(np.array(facts.hourly_jobs) / sum(facts.hourly_jobs), rel=tolerance)


def test_ends_follow_the_published_shares(made: tuple[Trace, ClusterStatistics]) -> None:
    """Failed jobs would hold too many GPUs, or too few; jobs within 0.5 points, GPU time within 2."""
    trace, facts = made
    if facts.outcomes is None:
        assert trace.jobs.status.names == ()
        return
    status, ends = trace.jobs.status, facts.outcomes
    assert set(status.names) == set(ends.names)
    jobs = shares_pct(status.codes, status.names, ends.names, np.ones(len(trace)))
    load = shares_pct(status.codes, status.names, ends.names, gpu_seconds(trace))
    assert np.abs(jobs - ends.jobs_pct).max() < 0.5
    assert np.abs(load - ends.gpu_time_pct).max() < 2


@pytest.mark.parametrize("name", list(HELIOS))
@pytest.mark.parametrize("seed", some([1, 2], 1))
def test_helios_users_and_virtual_clusters(name: str, seed: int) -> None:
    """Fairness would be trivial among equals: top user within 8 points (a single batch can hold 5), top tenth within 8, VC load within 6."""
    trace, facts = load_trace(name, seed=seed), HELIOS[name]
    jobs, load = trace.jobs, gpu_seconds(trace)
    by_user = np.sort(np.bincount(jobs.user.codes, weights=load))[::-1]
    share = by_user.cumsum() / by_user.sum() * 100
    top, wanted = np.array(facts.user_share_pct).T
    assert share[0] == pytest.approx(wanted[0], abs=8)
    assert share[round(facts.users * 0.1) - 1] == pytest.approx(np.interp(10, top, wanted), abs=8)
    assert 0.7 * facts.users <= len(by_user) <= facts.users
    names = tuple(facts.vc_nodes)
    assert set(jobs.vc.names) <= set(names)
    found = shares_pct(jobs.vc.codes, jobs.vc.names, names, load)
    assert np.abs(found - vc_load(facts) * 100).max() < 6
    room = np.array([facts.vc_nodes[vc] * 8 for vc in jobs.vc.names])
    assert (jobs.num_gpus <= room[jobs.vc.codes]).all()


def test_earth_is_as_unequal_as_its_virtual_clusters_were() -> None:
    """Its idle and its crowded VCs would all be half full: in May 2020 GPUs in use ranged from 1 to 91 %."""
    trace, facts = load_trace("helios_earth_calibrated"), CLUSTERS["earth"]
    load = np.bincount(trace.jobs.vc.codes, weights=gpu_seconds(trace))
    busy = {vc: load[k] / facts.vc_nodes[vc] for k, vc in enumerate(trace.jobs.vc.names)}
    assert busy["vc6YE"] > 1.5 * busy["vchbv"] > 5 * busy.get("vcJkd", 0.0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_philly_virtual_clusters_hold_their_shares(seed: int) -> None:
    """Nearly half of Philly's jobs are one VC's, with a fifth of the GPU time; within 2.5 and 8 points."""
    trace = load_trace("philly_calibrated", seed=seed)
    jobs, vc = trace.jobs, trace.jobs.vc
    jobs_pct, time_pct, _ = np.array(list(VC_SHARES.values())).T
    assert np.abs(shares_pct(vc.codes, vc.names, VC_SHARES, np.ones(len(jobs))) - jobs_pct).max() < 2.5
    assert np.abs(shares_pct(vc.codes, vc.names, VC_SHARES, gpu_seconds(trace)) - time_pct).max() < 8
    for code, name in enumerate(vc.names):
        assert jobs.num_gpus[vc.codes == code].max() <= VC_SHARES[name][2]
    assert jobs.user.names == ()


def test_philly_arrives_in_bursts() -> None:
    """An even stream queues less: the log's median time between submissions is 8 s at a mean of 70 s."""
    between_s = np.diff(load_trace("philly_calibrated").jobs.submit_s)
    assert np.quantile(between_s, 0.5) == pytest.approx(8, abs=3)
    assert between_s.mean() == pytest.approx(70, rel=0.05)
    assert between_s.std() / between_s.mean() > 4
    days = np.bincount((np.cumsum(between_s) // 86400).astype(int))
    assert days.std() / days.mean() == pytest.approx(0.8, abs=0.3)


@pytest.mark.parametrize("seed", [0, 1])
def test_pai_requests_and_types_hold_their_shares(seed: int) -> None:
    """Half of PAI's tasks ask for a part of a GPU: without them its cluster is another; within 0.5 points."""
    jobs = load_trace("alibaba_calibrated", seed=seed, jobs=200_000).jobs
    one = jobs.num_gpus == 1
    for percent, count in REQUESTS.items():
        share = (jobs.gpu_milli[one] == percent * 10).mean() * 100
        assert share == pytest.approx(count / sum(REQUESTS.values()) * 100, abs=0.5)
    assert (jobs.gpu_milli[~one] == 1000).all()
    for code, name in enumerate(jobs.gpu_type.names):
        share = (jobs.gpu_type.codes == code).mean() * 100
        assert share == pytest.approx(GPU_TYPES[name] / sum(GPU_TYPES.values()) * 100, abs=0.5)
    assert (load_trace("alibaba_calibrated", jobs=1000, shares=False).jobs.gpu_milli == 1000).all()


@pytest.mark.parametrize("name", [*FACTS, "helios_calibrated"])
def test_seed_and_size(name: str) -> None:
    """A run could not be repeated, five seeds would be one, or a small trace would be another kind of trace."""
    first, again, other = (load_trace(name, seed=seed, jobs=20_000) for seed in (3, 3, 4))
    assert first.sha256 == again.sha256 != other.sha256
    assert len(first) == 20_000
    assert any("20000 jobs instead of" in note for note in first.notes)
    facts = FACTS.get(name, CLUSTERS["venus"])
    assert np.abs(cdf_pct(first.jobs.num_gpus, facts.sizes) - facts.size_cdf_pct).max() < 1
    for jobs in (1, 2, 50):
        assert len(load_trace(name, jobs=jobs)) == jobs


@pytest.mark.parametrize("name", [name for name in TRACES if name.endswith("_calibrated")])
def test_labels_say_calibrated_synthetic(name: str) -> None:
    """A table would call generated jobs real."""
    trace = load_trace(name, jobs=500)
    assert trace.source == "calibrated" and trace.label.endswith("(calibrated synthetic)")
    assert any(note.startswith("calibrated synthetic: no real") for note in trace.notes)
    assert any("assumed" in note for note in trace.notes)
    invented = "helios_saturn_calibrated", "helios_uranus_calibrated"
    assert any("the sizes of its" in note for note in trace.notes) == (name in invented)


@pytest.mark.parametrize("name", ["helios_saturn_calibrated", "synthetic"])
@pytest.mark.thorough
def test_a_million_jobs_take_seconds(name: str) -> None:
    """A benchmark would wait for its jobs; about 3 s, of its own where others run too."""
    begin = time.process_time()
    assert len(load_trace(name, jobs=1_000_000)) == 1_000_000
    assert time.process_time() - begin < 30


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.05, 1), min_size=2, max_size=5), st.integers(0, 1000), st.floats(-0.5, 0.5))
def test_labels_meet_both_shares(weights: list[float], seed: int, lean: float) -> None:
    """Shares of jobs and of GPU time would not hold together; within 2 points and the largest unit's own share."""
    rng = np.random.default_rng(seed)
    load = rng.lognormal(0, 1.7, 20_000)
    largest = load.max() / load.sum()
    jobs = np.array(weights) / sum(weights)
    time_share = jobs * np.exp(lean * np.linspace(-1, 1, len(jobs)))
    time_share /= time_share.sum()
    labels = tilted(load, jobs, time_share, rng)
    assert np.bincount(labels, minlength=len(jobs)) / len(labels) == pytest.approx(jobs, abs=0.02)
    assert np.bincount(labels, weights=load, minlength=len(jobs)) / load.sum() == pytest.approx(
        time_share, abs=0.02 + largest
    )


def test_labels_keep_to_what_a_stratum_forbids() -> None:
    """A gang would get a virtual cluster it never had."""
    rng = np.random.default_rng(0)
    stratum = rng.integers(2, size=5000)
    base = np.array([[1.0, 1.0], [1.0, 0.0]])
    labels = tilted(rng.lognormal(0, 1, 5000), [0.7, 0.3], [0.7, 0.3], rng, stratum=stratum, base=base)
    assert (labels[stratum == 1] == 0).all()
    assert (labels == 1).mean() == pytest.approx(0.3, abs=0.02)
