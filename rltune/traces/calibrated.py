"""Draw jobs as the published statistics of a cluster describe them.

What is published and kept: jobs a month, single and multi-GPU; the hourly
rhythm; the CDFs of gang size and duration; GPU time by gang size; GPU time by
user; the sizes of the virtual clusters. What is not published is assumed, and
stands as a constant below or in the statistics with the word *assumption*.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time

import numpy as np
import numpy.typing as npt

from rltune.traces.statistics import ClusterStatistics

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CLAMP_S = 172_800.0
"""48 h: where the public copies of the logs of Venus and of PAI clamp durations."""
BATCH_LIKENESS = 0.5
"""Assumption: correlation of the (normal) duration ranks within a batch."""
FIT_ROUNDS, FIT_STEP = 12, 0.4
"""Rounds and step that bring GPU time by gang size within 0.1 points of the published shares."""
GPUS_PER_NODE = 8


@dataclass(frozen=True, slots=True)
class Batches:
    """Jobs submitted together: ``of_job`` (n_jobs,) batch of each job, ``jobs`` (n_batches,) jobs of each."""

    of_job: Ints
    jobs: Ints

    @property
    def first(self) -> Ints:
        """(n_batches,) each one's first job."""
        first: Ints = np.cumsum(self.jobs) - self.jobs
        return first


@dataclass(frozen=True, slots=True)
class Drawn:
    """Jobs in the order in which they were drawn, month by month and batch by batch; all arrays (n_jobs,)."""

    submit_s: Floats
    duration_s: Floats
    num_gpus: Ints
    batches: Batches

    @property
    def gpu_seconds(self) -> Floats:
        """GPU time of each job."""
        time: Floats = self.num_gpus * self.duration_s
        return time

    @property
    def batch_seconds(self) -> Floats:
        """(n_batches,) GPU time of each batch."""
        time: Floats = np.bincount(self.batches.of_job, weights=self.gpu_seconds).astype(np.float64)
        return time


def draw(facts: ClusterStatistics, rng: np.random.Generator) -> Drawn:
    """Submission (whole seconds after the first month's begin), gang size and duration of every job."""
    origin = datetime.combine(facts.months[0][0], time())
    submit_s, num_gpus, batches = _submissions(facts, origin, rng)
    return Drawn(submit_s, _durations(facts, num_gpus, batches, rng), num_gpus, batches)


def _submissions(facts: ClusterStatistics, origin: datetime, rng: np.random.Generator) -> tuple[Floats, Ints, Batches]:
    """Submit times (s after ``origin``), gang sizes and batches, month by month."""
    submit, sizes, of_job = [], [], []
    first_batch = 0
    for first, days, multi, single in facts.months:
        if multi + single == 0:
            continue
        batches = _batches(facts, multi + single, rng)
        u = _spread(batches.jobs.astype(float), rng)
        share_single = single / (multi + single)
        sizes.append(_sizes(facts, u, share_single)[batches.of_job])
        begin_s = (datetime.combine(first, time()) - origin).total_seconds()
        start_s = begin_s + _batch_starts(facts, first.weekday(), days, batches, rng)
        submit.append(start_s[batches.of_job] + _delays(facts, batches, rng))
        of_job.append(batches.of_job + first_batch)
        first_batch += len(batches.jobs)
    span_s = sum(days for _, days, _, _ in facts.months) * 86400
    batch = np.concatenate(of_job)
    submit_s = np.minimum(np.floor(np.concatenate(submit)), span_s - 1)
    return submit_s, np.concatenate(sizes), Batches(batch, np.bincount(batch))


def _batches(facts: ClusterStatistics, jobs: int, rng: np.random.Generator) -> Batches:
    opens = rng.random(jobs) < 1 / facts.batch_jobs
    opens[0] = True
    of_job = np.cumsum(opens) - 1
    return Batches(of_job, np.bincount(of_job))


def _batch_starts(
    facts: ClusterStatistics, weekday: int, days: int, batches: Batches, rng: np.random.Generator
) -> Floats:
    """(n_batches,) seconds after the month's begin: hours by the published rhythm, days by weekday."""
    count = len(batches.jobs)
    weekend = (np.arange(days) + weekday) % 7 >= 5
    by_day = np.where(weekend, facts.weekend_factor, 1.0)
    if facts.day_spread:
        by_day = by_day * rng.lognormal(0.0, facts.day_spread, days)
    day = rng.choice(days, size=count, p=by_day / by_day.sum())
    by_hour = np.cumsum(facts.hourly_jobs)
    hour = np.searchsorted(by_hour / by_hour[-1], _spread(batches.jobs.astype(float), rng))
    return day * 86400.0 + (hour + rng.random(count)) * 3600.0


def _delays(facts: ClusterStatistics, batches: Batches, rng: np.random.Generator) -> Floats:
    """(n_jobs,) seconds after the batch's first job."""
    since = np.cumsum(_gaps(facts, len(batches.of_job), rng))
    delay_s: Floats = since - since[batches.first][batches.of_job]
    return delay_s


def _gaps(facts: ClusterStatistics, jobs: int, rng: np.random.Generator) -> Floats:
    """(n_jobs,) seconds between one job of a batch and the next."""
    mean_s, sigma = facts.batch_gap_s, facts.batch_gap_sigma
    if sigma == 0:
        return rng.exponential(mean_s, jobs)
    return rng.lognormal(np.log(mean_s) - sigma**2 / 2, sigma, jobs)


def _spread(weight: Floats, rng: np.random.Generator) -> Floats:
    """(n,) numbers in (0, 1), in random order yet evenly spread by weight (systematic sampling).

    Reading quantiles at them gives a sample that follows a distribution closely.
    """
    order = rng.permutation(len(weight))
    passed = np.cumsum(weight[order])
    u = np.empty(len(weight))
    u[order] = (passed - weight[order] / 2) / passed[-1]
    return u


def _sizes(facts: ClusterStatistics, u: Floats, share_single: float) -> Ints:
    """Gang sizes at the quantiles ``u`` of a month whose single-GPU jobs make up ``share_single``."""
    sizes = np.array([*facts.sizes, *facts.widest])
    share = np.diff(np.array([0.0, *facts.size_cdf_pct])) / 100
    share = np.concatenate([share, _widest_shares(facts)])
    multi = share[1:] / share[1:].sum() * (1 - share_single)
    return sizes[np.searchsorted(np.cumsum([share_single, *multi])[:-1], u)]


def _widest_shares(facts: ClusterStatistics) -> Floats:
    """Shares of the widest sizes: exponential in the size, tilted until the mean gang size is the published one."""
    share = np.diff(np.array([0.0, *facts.size_cdf_pct])) / 100
    rest = 1 - facts.size_cdf_pct[-1] / 100
    wanted = (facts.mean_gpus - float(share @ np.array(facts.sizes))) / rest
    sizes = np.array(facts.widest, dtype=float)
    low, high = -1.0, 1.0
    for _ in range(60):
        tilt = (low + high) / 2
        weight = np.exp(tilt * (sizes - sizes.mean()))
        mean = float(weight @ sizes / weight.sum())
        low, high = (tilt, high) if mean < wanted else (low, tilt)
    shares: Floats = rest * weight / weight.sum()
    return shares


def _durations(facts: ClusterStatistics, num_gpus: Ints, batches: Batches, rng: np.random.Generator) -> Floats:
    """(n_jobs,) whole seconds with the published CDF; wide and narrow jobs share GPU time as published.

    Durations are quantiles of the CDF at the ranks of normal scores. Each size
    class has a shift of its scores, adjusted until its GPU time is right.
    """
    jobs = len(num_gpus)
    likeness = np.sqrt(BATCH_LIKENESS) * rng.standard_normal(len(batches.jobs))
    score = likeness[batches.of_job] + np.sqrt(1 - BATCH_LIKENESS) * rng.standard_normal(jobs)
    quantiles = duration_quantiles(facts, (np.arange(jobs) + 0.5) / jobs)
    size_class = np.searchsorted(facts.sizes, num_gpus)
    wanted = np.diff(np.array([0.0, *facts.gpu_time_cdf_pct, 100.0])) / 100 * sum(facts.gpu_seconds)
    shift = np.zeros(len(wanted))
    duration_s = np.empty(jobs)
    for _ in range(FIT_ROUNDS):
        duration_s[_ranking(score + shift[size_class])] = quantiles
        found = np.bincount(size_class, weights=duration_s * num_gpus, minlength=len(wanted))
        shift += FIT_STEP * np.clip(np.log(np.maximum(wanted, 1) / np.maximum(found, 1)), -1, 1)
    return duration_s


def _ranking(score: Floats) -> Ints:
    """Rows by rising score, equal ones in the order of the rows: a stable sort at half its price."""
    order = np.argsort(score)
    ranked = score[order]
    return np.argsort(score, kind="stable") if (ranked[1:] == ranked[:-1]).any() else order


def duration_quantiles(facts: ClusterStatistics, u: Floats) -> Floats:
    """Seconds at the quantiles ``u``: linear in log2 t between the published points, at least 1 s."""
    cdf = np.array(facts.duration_cdf_pct) / 100
    return np.ceil(2.0 ** np.interp(u, cdf, np.arange(len(cdf))))


def owners(facts: ClusterStatistics, drawn: Drawn, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """VC and user (n_jobs,): GPU time by VC follows its GPUs (in use), by user the published concentration.

    A gang never gets a VC it does not fit in; a user belongs to one VC.
    """
    batches, gpu_seconds = drawn.batches, drawn.batch_seconds
    # Jobs are numbered month by month and batch by batch, so a batch's first job shows its size.
    gpus = np.array(list(facts.vc_nodes.values()), dtype=float) * GPUS_PER_NODE
    vc = choose_vcs(drawn.num_gpus[batches.first], gpu_seconds, gpus, vc_load(facts), rng)
    share = _user_shares(facts)
    home = _homes(facts, share)
    user = np.empty(len(vc), dtype=np.int64)
    for code in range(len(facts.vc_nodes)):
        members, here = np.flatnonzero(home == code), np.flatnonzero(vc == code)
        if len(here) and not len(members):
            # More VCs than the large users fill: the smallest user works here too.
            members = np.array([len(share) - 1])
        if len(here):
            edges = np.cumsum(share[members]) / share[members].sum()
            user[here] = members[np.searchsorted(edges[:-1], _spread(gpu_seconds[here], rng))]
    return vc[batches.of_job], user[batches.of_job]


def vc_load(facts: ClusterStatistics) -> Floats:
    """(n_vcs,) share of the GPU time that each virtual cluster should get: as its GPUs, or as those in use."""
    gpus = np.array(list(facts.vc_nodes.values())) * GPUS_PER_NODE
    if facts.vc_busy is None:
        share: Floats = gpus / gpus.sum()
        return share
    used = gpus * np.array([facts.vc_busy[name] for name in facts.vc_nodes])
    share = used / used.sum()
    return share


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


def _user_shares(facts: ClusterStatistics) -> Floats:
    """(users,) share of GPU time, largest first, from the published concentration curve."""
    top, share = np.array(facts.user_share_pct).T
    cumulative = np.interp(np.linspace(0, 100, facts.users), top, share)
    shares: Floats = np.diff(cumulative, prepend=0.0) / 100
    return shares


def _homes(facts: ClusterStatistics, share: Floats) -> Ints:
    """(users,) index of each user's VC: the largest user first, each to the VC with most room left."""
    room = vc_load(facts)
    home = np.empty(len(share), dtype=np.int64)
    for k, part in enumerate(share):
        home[k] = int(np.argmax(room))
        room[home[k]] -= part
    return home
