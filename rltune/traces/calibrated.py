"""A seeded generator calibrated to the published statistics of a Helios cluster.

What is published and kept: jobs a month, single and multi-GPU; the hourly
rhythm; the CDFs of gang size and duration; GPU time by gang size; GPU time by
user; the sizes of the virtual clusters. What is not published is assumed, and
stands as a constant below with the word *assumption*.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time

import numpy as np
import numpy.typing as npt

from rltune.errors import InputError
from rltune.jobs import JobTable
from rltune.traces.helios_statistics import CLUSTERS, SIZES, HeliosStatistics
from rltune.traces.trace import Trace

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CLAMP_S = 172_800.0
"""48 h: where the public copy of the Venus log clamps durations."""
WEEKEND_FACTOR = 0.7
"""Assumption: submissions of a Saturday or Sunday hour against a weekday's."""
BATCH_JOBS = 3.0
"""Assumption: mean number of jobs a user submits in one go (geometric)."""
BATCH_GAP_S = 30.0
"""Assumption: mean seconds between two jobs of a batch (exponential)."""
BATCH_LIKENESS = 0.5
"""Assumption: correlation of the (normal) duration ranks within a batch."""
WIDEST = (72, 80, 96, 128, 160)
"""Assumption: gang sizes above 64 GPUs; their weights follow from the published mean gang size."""
FIT_ROUNDS, FIT_STEP = 12, 0.4
"""Rounds and step that bring GPU time by gang size within 0.1 points of the published shares."""
GPUS_PER_NODE = 8


@dataclass(frozen=True, slots=True)
class _Batches:
    """Jobs submitted together: ``of_job`` (n_jobs,) batch of each job, ``jobs`` (n_batches,) jobs of each."""

    of_job: Ints
    jobs: Ints


def helios_calibrated(seed: int = 0, clamp_s: float | None = CLAMP_S, cluster: str = "venus") -> Trace:
    """Jobs from 2020-04-01 to 2020-09-27 as the published statistics describe them.

    Args:
        clamp_s: longest duration, seconds; None keeps the published tail (up to 2^21 s).
        cluster: which of ``CLUSTERS``.
    """
    if cluster not in CLUSTERS:
        raise InputError(f"trace helios_calibrated: cluster {cluster!r}; known are {', '.join(CLUSTERS)}")
    if clamp_s is not None and clamp_s < 1:
        raise InputError(f"trace helios_calibrated: clamp_s={clamp_s}; use seconds >= 1 or null")
    facts = CLUSTERS[cluster]
    rng = np.random.default_rng(seed)
    origin = datetime.combine(facts.months[0][0], time())
    submit_s, num_gpus, batches = _submissions(facts, origin, rng)
    duration_s = _durations(facts, num_gpus, batches, rng)
    vc, user = _owners(facts, num_gpus, duration_s, batches, rng)
    if clamp_s is not None:
        duration_s = np.minimum(duration_s, np.floor(clamp_s))
    order = np.argsort(submit_s, kind="stable")
    columns = {
        "job_id": [f"{cluster}-{k:06d}" for k in range(len(order))],
        "submit_s": submit_s[order],
        "duration_s": duration_s[order],
        "num_gpus": num_gpus[order],
        "vc": np.array(list(facts.vc_nodes), dtype=object)[vc[order]],
        "user": np.array([f"u{k:03d}" for k in range(facts.users)], dtype=object)[user[order]],
    }
    notes = (
        f"calibrated synthetic: no real job, from published statistics of {cluster.title()}, seed {seed}",
        f"assumed: weekend factor {WEEKEND_FACTOR}, batches of {BATCH_JOBS:g} jobs, VC load by VC size",
        "durations are not clamped" if clamp_s is None else f"durations clamped at {clamp_s:g} s",
    )
    return Trace.of(
        JobTable.from_columns(columns, source="helios_calibrated"),
        name="helios_calibrated",
        source="calibrated",
        origin=origin,
        label="helios (calibrated synthetic)",
        notes=notes,
    )


def _submissions(facts: HeliosStatistics, origin: datetime, rng: np.random.Generator) -> tuple[Floats, Ints, _Batches]:
    """Submit times (s after ``origin``), gang sizes and batches, month by month."""
    submit, sizes, of_job = [], [], []
    first_batch = 0
    for first, days, multi, single in facts.months:
        batches = _batches(multi + single, rng)
        u = _spread(batches.jobs.astype(float), rng)
        share_single = single / (multi + single)
        sizes.append(_sizes(facts, u, share_single)[batches.of_job])
        begin_s = (datetime.combine(first, time()) - origin).total_seconds()
        start_s = begin_s + _batch_starts(facts, first.weekday(), days, batches, rng)
        submit.append(start_s[batches.of_job] + _delays(batches, rng))
        of_job.append(batches.of_job + first_batch)
        first_batch += len(batches.jobs)
    span_s = sum(days for _, days, _, _ in facts.months) * 86400
    batch = np.concatenate(of_job)
    submit_s = np.minimum(np.floor(np.concatenate(submit)), span_s - 1)
    return submit_s, np.concatenate(sizes), _Batches(batch, np.bincount(batch))


def _batches(jobs: int, rng: np.random.Generator) -> _Batches:
    opens = rng.random(jobs) < 1 / BATCH_JOBS
    opens[0] = True
    of_job = np.cumsum(opens) - 1
    return _Batches(of_job, np.bincount(of_job))


def _batch_starts(
    facts: HeliosStatistics, weekday: int, days: int, batches: _Batches, rng: np.random.Generator
) -> Floats:
    """(n_batches,) seconds after the month's begin: hours by the published rhythm, days by weekday."""
    count = len(batches.jobs)
    weekend = (np.arange(days) + weekday) % 7 >= 5
    by_day = np.where(weekend, WEEKEND_FACTOR, 1.0)
    day = rng.choice(days, size=count, p=by_day / by_day.sum())
    by_hour = np.cumsum(facts.hourly_jobs)
    hour = np.searchsorted(by_hour / by_hour[-1], _spread(batches.jobs.astype(float), rng))
    return day * 86400.0 + (hour + rng.random(count)) * 3600.0


def _delays(batches: _Batches, rng: np.random.Generator) -> Floats:
    """(n_jobs,) seconds after the batch's first job."""
    since = np.cumsum(rng.exponential(BATCH_GAP_S, len(batches.of_job)))
    first = np.cumsum(batches.jobs) - batches.jobs
    delay_s: Floats = since - since[first][batches.of_job]
    return delay_s


def _spread(weight: Floats, rng: np.random.Generator) -> Floats:
    """(n,) numbers in (0, 1), in random order yet evenly spread by weight (systematic sampling).

    Reading quantiles at them gives a sample that follows a distribution closely.
    """
    order = rng.permutation(len(weight))
    passed = np.cumsum(weight[order])
    u = np.empty(len(weight))
    u[order] = (passed - weight[order] / 2) / passed[-1]
    return u


def _sizes(facts: HeliosStatistics, u: Floats, share_single: float) -> Ints:
    """Gang sizes at the quantiles ``u`` of a month whose single-GPU jobs make up ``share_single``."""
    sizes = np.array([*SIZES, *WIDEST])
    share = np.diff(np.array([0.0, *facts.size_cdf_pct])) / 100
    share = np.concatenate([share, _widest_shares(facts)])
    multi = share[1:] / share[1:].sum() * (1 - share_single)
    return sizes[np.searchsorted(np.cumsum([share_single, *multi])[:-1], u)]


def _widest_shares(facts: HeliosStatistics) -> Floats:
    """Shares of ``WIDEST``: exponential in the size, tilted until the mean gang size is the published one."""
    share = np.diff(np.array([0.0, *facts.size_cdf_pct])) / 100
    rest = 1 - facts.size_cdf_pct[-1] / 100
    wanted = (facts.mean_gpus - float(share @ np.array(SIZES))) / rest
    sizes = np.array(WIDEST, dtype=float)
    low, high = -1.0, 1.0
    for _ in range(60):
        tilt = (low + high) / 2
        weight = np.exp(tilt * (sizes - sizes.mean()))
        mean = float(weight @ sizes / weight.sum())
        low, high = (tilt, high) if mean < wanted else (low, tilt)
    shares: Floats = rest * weight / weight.sum()
    return shares


def _durations(facts: HeliosStatistics, num_gpus: Ints, batches: _Batches, rng: np.random.Generator) -> Floats:
    """(n_jobs,) whole seconds with the published CDF; wide and narrow jobs share GPU time as published.

    Durations are quantiles of the CDF at the ranks of normal scores. Each size
    class has a shift of its scores, adjusted until its GPU time is right.
    """
    jobs = len(num_gpus)
    likeness = np.sqrt(BATCH_LIKENESS) * rng.standard_normal(len(batches.jobs))
    score = likeness[batches.of_job] + np.sqrt(1 - BATCH_LIKENESS) * rng.standard_normal(jobs)
    quantiles = duration_quantiles(facts, (np.arange(jobs) + 0.5) / jobs)
    size_class = np.searchsorted(SIZES, num_gpus)
    wanted = np.diff(np.array([0.0, *facts.gpu_time_cdf_pct, 100.0])) / 100 * sum(facts.gpu_seconds)
    shift = np.zeros(len(wanted))
    duration_s = np.empty(jobs)
    for _ in range(FIT_ROUNDS):
        duration_s[np.argsort(score + shift[size_class], kind="stable")] = quantiles
        found = np.bincount(size_class, weights=duration_s * num_gpus, minlength=len(wanted))
        shift += FIT_STEP * np.clip(np.log(wanted / np.maximum(found, 1)), -1, 1)
    return duration_s


def duration_quantiles(facts: HeliosStatistics, u: Floats) -> Floats:
    """Seconds at the quantiles ``u``: linear in log2 t between the published points, at least 1 s."""
    cdf = np.array(facts.duration_cdf_pct) / 100
    return np.ceil(2.0 ** np.interp(u, cdf, np.arange(len(cdf))))


def _owners(
    facts: HeliosStatistics, num_gpus: Ints, duration_s: Floats, batches: _Batches, rng: np.random.Generator
) -> tuple[Ints, Ints]:
    """VC and user (n_jobs,): GPU time by VC follows its size, by user the published concentration.

    A gang never gets a VC it does not fit in; a user belongs to one VC.
    """
    first = np.cumsum(batches.jobs) - batches.jobs
    # Jobs are numbered month by month and batch by batch, so a batch's first job shows its size.
    gpu_seconds: Floats = np.bincount(batches.of_job, weights=num_gpus * duration_s).astype(np.float64)
    gpus = np.array(list(facts.vc_nodes.values()), dtype=float) * GPUS_PER_NODE
    vc = choose_vcs(num_gpus[first], gpu_seconds, gpus, gpus, rng)
    share = _user_shares(facts)
    home = _homes(facts, share)
    user = np.empty(len(vc), dtype=np.int64)
    for code in range(len(facts.vc_nodes)):
        members, here = np.flatnonzero(home == code), np.flatnonzero(vc == code)
        if len(here):
            edges = np.cumsum(share[members]) / share[members].sum()
            user[here] = members[np.searchsorted(edges[:-1], _spread(gpu_seconds[here], rng))]
    return vc[batches.of_job], user[batches.of_job]


def choose_vcs(width: Ints, gpu_seconds: Floats, gpus: Floats, wanted: Floats, rng: np.random.Generator) -> Ints:
    """A VC for each batch of jobs, drawn so that the expected GPU time by VC follows ``wanted``.

    ``width, gpu_seconds`` (n_batches,): widest gang and GPU time; ``gpus, wanted`` (n_vcs,): a batch goes only
    where its widest gang fits. Weights are adjusted until the expectation is right, as far as widths permit.
    """
    target = wanted / wanted.sum()
    widths, kind = np.unique(width, return_inverse=True)
    fits = widths[:, None] <= gpus
    load = np.bincount(kind, weights=gpu_seconds)
    pull = target
    for _ in range(50):
        chance = fits * pull
        chance /= chance.sum(axis=1, keepdims=True)
        expected = load @ chance
        pull = pull * target / (expected / expected.sum())
    edges = np.cumsum(chance, axis=1)[kind]
    below: Ints = (rng.random(len(width))[:, None] > edges).sum(axis=1)
    return np.minimum(below, len(gpus) - 1)


def _user_shares(facts: HeliosStatistics) -> Floats:
    """(users,) share of GPU time, largest first, from the published concentration curve."""
    top, share = np.array(facts.user_share_pct).T
    cumulative = np.interp(np.linspace(0, 100, facts.users), top, share)
    shares: Floats = np.diff(cumulative, prepend=0.0) / 100
    return shares


def _homes(facts: HeliosStatistics, share: Floats) -> Ints:
    """(users,) index of each user's VC: the largest user first, each to the VC with most room left."""
    nodes = np.array(list(facts.vc_nodes.values()), dtype=float)
    room = nodes / nodes.sum()
    home = np.empty(len(share), dtype=np.int64)
    for k, part in enumerate(share):
        home[k] = int(np.argmax(room))
        room[home[k]] -= part
    return home
