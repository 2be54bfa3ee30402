"""The two-dimensional Gittins index, learned from jobs that have ended: which job is likely to end soon for little GPU time.

A job that has run for t seconds has the index sup over d of P(T - t <= d | T > t) / E[min(T - t, d) | T > t], T being
the run time of a job of its size: the most completions a second that any further stretch d promises (Gittins, 1979; of
GPU time: Gu et al., Tiresias, NSDI 2019, section 3). The key is GPUs / index, GPU-seconds a completion, smallest first.
Nothing is used of the job but its GPUs and how long it has run.

T is learned by class of size, on a grid of run times: bins of an eighth of an octave from 1 s on, a bin below. For each
class and bin three tallies of past jobs, (3, classes, bins):

- reached: jobs that have run up to the bin; ended: jobs whose run ended in it; spent: seconds they ran in it.

Jobs that have not ended yet (censored) count as reached and spent: Kaplan and Meier (1958) weigh bins by the share of
jobs that survive to them, so that what runs long is not missed because it has not ended. With all jobs ended and
stretches up to bin edges the index is exactly that of the sample.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.compiled import compiled, inner
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import WHOLE, JobTable

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

REACHED, ENDED, SPENT = range(3)
PER_OCTAVE = 8
"""Bins a doubling of run time: 9 % wide."""
BINS = 1 + 24 * PER_OCTAVE
"""[0, 1) s, then up to 2^24 s (194 days)."""
CLASSES = 9
"""By GPUs: shares and none, 1, 2, 3-4, 5-8, 9-16, 17-32, 33-64, more."""
PRIOR_JOBS = 1.0
"""Weight, in jobs, of the guess before anything has ended; it also continues the distribution beyond the longest job."""
PRIOR_S = 200.0
"""Median of that guess (Hu et al., SC 2021: 206 s). Its tail 1 / (1 + t / median) makes keys grow as attained service."""
POOLED_JOBS = 10.0
"""Weight, in jobs, of all sizes together in each class: decides where few of a size have ended."""
GROWTH = 0.05
FEW = 20
"""The index is computed anew when the number of ended jobs has grown by the share `GROWTH`, and by `FEW` at least."""


class Attained(NamedTuple):
    """What is known of run times by class of size.

    ``size`` (n_jobs,): class of each job; ``edge`` (bins + 1,): seconds; ``tally`` (3, classes, bins): ended jobs;
    ``scratch`` (3, classes + 1, bins): the same with present jobs, last row all classes; ``cost`` (classes, bins): seconds
    a completion (1 / index); ``counts``: jobs ended, and at the last refresh.
    """

    size: Ints
    edge: Floats
    tally: Floats
    scratch: Floats
    cost: Floats
    counts: Ints


def size_classes(jobs: JobTable) -> Ints:
    """(n_jobs,) class of size of each job: 0 below one GPU, then by the next power of two."""
    gpus = np.maximum(jobs.num_gpus * (jobs.gpu_milli / WHOLE), 0.5)
    return np.minimum(np.ceil(np.log2(gpus)).astype(np.int64) + 1, CLASSES - 1)


def nothing_attained() -> Attained:
    """For policies without this index."""
    tables = (np.zeros((3, 0, 0)), np.zeros((3, 0, 0)), np.zeros((0, 0)))
    return Attained(np.zeros(0, np.int64), np.zeros(0), *tables, np.zeros(2, np.int64))


def attained_of(jobs: JobTable, past: JobTable | None = None) -> Attained:
    """For these jobs, with what ``past`` ones have taught by the first submission."""
    known = _nothing_known(size_classes(jobs))
    none = (np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.bool_))
    _learn_all(known, *(none if past is None else runs_by(past, float(jobs.submit_s[0]))))
    return known


def cost_of_runs(run_s: Floats, ended: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """The index outside the simulator, of jobs of one class: (BINS,) begin of each bin, s; (BINS,) seconds a completion.

    ``run_s`` (n,) how long jobs have run; ``ended`` (n,) whether that was all.
    """
    known = _nothing_known(np.zeros(0, np.int64))
    _learn_all(known, np.zeros(len(run_s), np.int64), np.asarray(run_s, np.float64), np.asarray(ended, np.bool_))
    return known.edge[:-1], known.cost[0].copy()


def _nothing_known(size: Ints) -> Attained:
    return Attained(
        size=size,
        edge=np.concatenate([[0.0], 2.0 ** (np.arange(BINS) / PER_OCTAVE)]),
        tally=np.zeros((3, CLASSES, BINS)),
        scratch=np.zeros((3, CLASSES + 1, BINS)),
        cost=np.zeros((CLASSES, BINS)),
        counts=np.zeros(2, np.int64),
    )


def runs_by(past: JobTable, now_s: float) -> tuple[Ints, Floats, npt.NDArray[np.bool_]]:
    """(n,) classes, seconds run by ``now_s`` in the record (submission + recorded wait, else no wait), whether that was all.

    Jobs that had not started are left out. InputError if a job is submitted later: it would be of the future.
    """
    if len(past) and past.submit_s[-1] > now_s:
        raise InputError(
            f"past_jobs: job {past.job_id[-1]} is submitted at {past.submit_s[-1]:g} s, the first job to schedule at "
            f"{now_s:g} s; give jobs from before on the same clock"
        )
    ran = now_s - (past.submit_s + np.where(np.isnan(past.wait_s), 0.0, past.wait_s))
    begun = ran > 0
    run = np.minimum(ran, past.duration_s)[begun]
    return size_classes(past)[begun], run, run >= past.duration_s[begun]


@compiled
def _learn_all(known, size, run, ended):
    for k in range(len(run)):
        count_in(known, known.tally, size[k], run[k], ended[k])
        known.counts[0] += 1
    gather_ended(known)
    work_out_index(known)


@inner
def bin_of(seconds):
    """Bin of a run time."""
    if seconds < 1.0:
        return 0
    return min(BINS - 1, 1 + int(PER_OCTAVE * np.log2(seconds)))


@inner
def count_in(known, tally, row, seconds, ended):
    """Count a job that has run for ``seconds``, ended or not."""
    last = bin_of(seconds)
    for b in range(last + 1):
        tally[REACHED, row, b] += 1.0
        tally[SPENT, row, b] += min(seconds, known.edge[b + 1]) - known.edge[b]
    if ended:
        tally[ENDED, row, last] += 1.0


@inner
def job_ended(known, size, run):
    """A job of a class has ended after ``run`` seconds."""
    count_in(known, known.tally, size, run, True)
    known.counts[0] += 1


@inner
def is_stale(known):
    """Whether enough jobs have ended since the last refresh for another."""
    new = known.counts[0] - known.counts[1]
    return new >= max(FEW, GROWTH * known.counts[1])


@inner
def gather_ended(known):
    """``scratch``: ended jobs; its last row left for `pool`."""
    known.counts[1] = known.counts[0]
    for what in range(3):
        for row in range(CLASSES):
            for b in range(BINS):
                known.scratch[what, row, b] = known.tally[what, row, b]


@inner
def work_out_index(known):
    """``cost`` from ``scratch``."""
    pool(known)
    for row in range(CLASSES):
        lean_on_pool(known, row)
        weigh(known, row)
        for b in range(BINS):
            known.cost[row, b] = seconds_a_completion(known, row, b)


@inner
def pool(known):
    """Last row of ``scratch``: all classes and the prior, as shares of jobs that survive so far."""
    for b in range(BINS):
        for what in range(3):
            known.scratch[what, CLASSES, b] = 0.0
            for row in range(CLASSES):
                known.scratch[what, CLASSES, b] += known.scratch[what, row, b]
        # Lomax with shape 1: survival m / (m + t), whose integral is m log(m + t).
        low, high = PRIOR_S + known.edge[b], PRIOR_S + known.edge[b + 1]
        known.scratch[REACHED, CLASSES, b] += PRIOR_JOBS * PRIOR_S / low
        known.scratch[ENDED, CLASSES, b] += PRIOR_JOBS * (PRIOR_S / low - PRIOR_S / high)
        known.scratch[SPENT, CLASSES, b] += PRIOR_JOBS * PRIOR_S * np.log(high / low)
    weigh(known, CLASSES)


@inner
def lean_on_pool(known, row):
    """Add `POOLED_JOBS` jobs distributed as those of all sizes."""
    for what in range(3):
        for b in range(BINS):
            known.scratch[what, row, b] += POOLED_JOBS * known.scratch[what, CLASSES, b]


@inner
def weigh(known, row):
    """Turn tallies of a row into shares of all its jobs, by Kaplan and Meier's estimate of the share that survives to each bin."""
    survive = 1.0
    for b in range(BINS):
        reached = known.scratch[REACHED, row, b]
        # A job that reaches the last bin is assumed to end there.
        hazard = 1.0 if b == BINS - 1 else min(1.0, known.scratch[ENDED, row, b] / reached)
        known.scratch[SPENT, row, b] *= survive / reached
        known.scratch[ENDED, row, b] = survive * hazard
        known.scratch[REACHED, row, b] = survive
        survive *= 1.0 - hazard


@inner
def seconds_a_completion(known, row, first):
    """1 / Gittins index of a job that has come to a bin: the least time a completion over stretches from there on."""
    best, spent, ended = np.inf, 0.0, 0.0
    for b in range(first, BINS):
        spent += known.scratch[SPENT, row, b]
        ended += known.scratch[ENDED, row, b]
        if ended > 0.0:
            best = min(best, spent / ended)
    return best


@inner
def gittins_key(known, job, progress, gpus):
    """GPU-seconds a completion of a job that has run for ``progress`` seconds."""
    return known.cost[known.size[job], bin_of(progress)] * gpus
