"""The general generator does what its options say, and its defaults never change."""

from __future__ import annotations

import numpy as np
import pytest

from rltune.nouns.errors import InputError
from rltune.traces import load_trace
from rltune.traces.arrivals import BURST_JOBS, week
from rltune.traces.durations import lomax
from rltune.traces.families import FAMILIES

JOBS = 50_000


def test_defaults_draw_the_jobs_they_always_drew() -> None:
    """Results on synthetic jobs could not be repeated after an update."""
    options = {"jobs": 20_000, "arrivals_per_h": 30, "median_s": 100, "mean_s": 400, "gpu_mix": {"1": 3, "4": 1}}
    assert load_trace("synthetic").sha256 == "e7e42fabe1adb90727733185e5b76301c5ce9558c0cf1122ddb2358d9c2ab7c3"
    trace = load_trace("synthetic", seed=2, vcs=3, users=5, **options)
    assert trace.sha256 == "6dbcf7cbbbf1945a727092837a8281d6c99afecf2fcdd4449e4cb26599b9caca"


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("arrivals", ["poisson", "diurnal", "bursty"])
def test_arrivals_keep_the_mean_rate(arrivals: str, seed: int) -> None:
    """The load would depend on the kind of arrivals."""
    trace = load_trace("synthetic", jobs=JOBS, arrivals=arrivals, arrivals_per_h=100, seed=seed)
    assert trace.describe()["arrivals_per_h"] == pytest.approx(100, rel=0.07)
    assert (arrivals in trace.notes[0]) == (arrivals != "poisson")


def test_diurnal_arrivals_follow_the_week() -> None:
    """Nights and weekends would be as busy as days; each six hours of the week within 15 %."""
    submit_s = load_trace("synthetic", jobs=200_000, arrivals="diurnal", arrivals_per_h=200).jobs.submit_s
    weeks = int(submit_s[-1] // (168 * 3600))
    hours = (submit_s[submit_s < weeks * 168 * 3600] // 3600 % 168).astype(int)
    found = np.bincount(hours, minlength=168).reshape(-1, 6).sum(axis=1) / len(hours)
    assert found == pytest.approx(week().reshape(-1, 6).sum(axis=1) / 168, rel=0.15)


def test_bursts_spread_the_counts_as_stated() -> None:
    """Bursts would be no more than noise: counts by day vary 2 B - 1 times as much as Poisson's, within 40 %."""
    for arrivals, wanted in (("poisson", 1.0), ("bursty", 2 * BURST_JOBS - 1)):
        submit_s = load_trace("synthetic", jobs=200_000, arrivals=arrivals, arrivals_per_h=60).jobs.submit_s
        days = np.bincount((submit_s // 86400).astype(int))[:-1]
        assert days.var() / days.mean() == pytest.approx(wanted, rel=0.4)


@pytest.mark.parametrize("mean_s", [1500, 3600, 10_000])
def test_pareto_has_its_quantiles_and_its_tail(mean_s: float) -> None:
    """The tail would be the log-normal's, or the median another; quantiles of the Lomax law within 5 %."""
    jobs = load_trace("synthetic", jobs=JOBS, durations="pareto", median_s=600, mean_s=mean_s).jobs
    shape, scale = lomax(600, mean_s)
    assert scale * (2 ** (1 / shape) - 1) == pytest.approx(600)
    assert scale / (shape - 1) == pytest.approx(mean_s)
    for q in (0.1, 0.5, 0.9, 0.99):
        assert np.quantile(jobs.duration_s, q) == pytest.approx(scale * ((1 - q) ** (-1 / shape) - 1), rel=0.07)


def test_types_priorities_and_skewed_users_follow_their_weights() -> None:
    """The options would mean something else; within 1 point."""
    trace = load_trace(
        "synthetic", jobs=JOBS, gpu_types={"V100": 3, "T4": 1}, priorities={0: 0.8, 10: 0.2}, users=10, user_skew=1
    )
    jobs = trace.jobs
    types = np.bincount(jobs.gpu_type.codes) / JOBS
    assert dict(zip(jobs.gpu_type.names, types, strict=True)) == pytest.approx({"T4": 0.25, "V100": 0.75}, abs=0.01)
    assert (jobs.priority == 10).mean() == pytest.approx(0.2, abs=0.01)
    zipf = 1 / np.arange(1, 11)
    found = [(jobs.user.codes == jobs.user.names.index(f"user{k}")).mean() for k in range(10)]
    assert found == pytest.approx(zipf / zipf.sum(), abs=0.01)


@pytest.mark.parametrize("seed", [0, 1])
def test_families_have_their_profiles(seed: int) -> None:
    """A transformer would look like gradient boosting: shares, work, width, share of a GPU and type are checked."""
    weights = {"V100": 1, "A100-80GB": 1}
    trace = load_trace("synthetic", jobs=JOBS, families=True, gpu_types=weights, seed=seed)
    jobs = trace.jobs
    assert set(jobs.name.names) == set(FAMILIES)
    hours = jobs.duration_s * jobs.num_gpus * jobs.gpu_milli / 1000 / 3600
    large = jobs.gpu_type.codes == jobs.gpu_type.names.index("A100-80GB")
    for code, name in enumerate(jobs.name.names):
        family, mine = FAMILIES[name], jobs.name.codes == code
        assert mine.mean() == pytest.approx(family.share, abs=0.01)
        least = min(low for low, _, _ in family.gpu_hours)
        most = max(high for _, high, _ in family.gpu_hours)
        assert least * 0.9 <= hours[mine].min() and hours[mine].max() <= most * 1.1
        for width, weight in family.widths.items():
            assert (jobs.num_gpus[mine] == width).mean() == pytest.approx(weight, abs=0.03)
        narrow = mine & (jobs.num_gpus == 1)
        assert (jobs.gpu_milli[narrow] == family.gpu_milli).all()
        assert (jobs.cpus[mine] == jobs.num_gpus[mine] * family.cpus_per_gpu).all()
        assert (jobs.memory_gb[mine] == jobs.num_gpus[mine] * family.memory_gb_per_gpu).all()
        assert large[mine].mean() == pytest.approx(2 / 3 if name == "transformer" else 1 / 2, abs=0.03)
    assert any("invented" in note for note in trace.notes)


def test_chosen_families_alone_are_drawn() -> None:
    """A study of one kind of task would be of all of them."""
    jobs = load_trace("synthetic", families={"lstm": 3, "cnn": 1}, jobs=5000).jobs
    assert jobs.name.names == ("cnn", "lstm")
    assert (jobs.name.codes == 1).mean() == pytest.approx(0.75, abs=0.03)
    assert jobs.gpu_type.names == ()


@pytest.mark.parametrize(
    "options",
    [
        {"arrivals": "diurnal"}, {"arrivals": "bursty"}, {"durations": "pareto"}, {"families": True},
        {"gpu_types": {"V100": 1}}, {"priorities": {0: 1, 1: 1}}, {"users": 3, "user_skew": 2},
    ],
    ids=str,
)  # fmt: skip
def test_every_option_is_decided_by_the_seed(options: dict[str, object]) -> None:
    """A run could not be repeated, or five seeds would be one."""
    first, again, other = (load_trace("synthetic", seed=seed, **options).sha256 for seed in (1, 1, 2))
    assert first == again != other
    for jobs in (1, 2):
        assert len(load_trace("synthetic", jobs=jobs, **options)) == jobs


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"arrivals": "sometimes"}, "use one of poisson, diurnal, bursty"),
        ({"durations": "long"}, "use one of lognormal, pareto"),
        ({"durations": "pareto", "median_s": 600, "mean_s": 700}, "mean_s > 1.4427 x median_s"),
        ({"gpu_types": {"V1000": 1}}, "V1000"),
        ({"gpu_types": {"V100": 0}}, "not all 0"),
        ({"priorities": {"high": 1}}, "give each priority a weight"),
        ({"priorities": 3}, "give each priority a weight"),
        ({"families": {"poetry": 1}}, "unknown family poetry; known are image-classification"),
        ({"families": {"lstm": -1}}, "weight >= 0"),
        ({"families": True, "median_s": 10}, "leave median_s, mean_s, durations and gpu_mix out"),
        ({"user_skew": -1}, "others >= 0"),
        ({"gpu_mix": {}}, "not all 0"),
        ({"gpu_mix": {2.5: 1}}, "give each gang size a weight"),
        ({"gpu_mix": {0: 1}}, "give each gang size a weight"),
    ],
)
def test_nonsense_is_refused(options: dict[str, object], said: str) -> None:
    """An option that means nothing would run for hours."""
    with pytest.raises(InputError, match=said):
        load_trace("synthetic", **options)
