"""The Gittins index against distributions whose index is known; and that it sees no future."""

from __future__ import annotations

import numpy as np
import pytest

import rltune
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.jobs import JobTable
from rltune.policies.attained import BINS, CLASSES, PER_OCTAVE, attained_of

LATER = 1e8


def table(run: np.ndarray, gpus: int = 1, submit: float = 0.0) -> JobTable:
    return JobTable.from_columns(
        {"submit_s": np.full(len(run), submit), "duration_s": run, "num_gpus": np.full(len(run), gpus)}
    )


def index_of(run: np.ndarray, gpus: int = 1, now: float = LATER) -> np.ndarray:
    """(bins,) seconds a completion of jobs of that size, from past jobs of these run times seen at ``now``."""
    new = table(np.array([1.0]), gpus, now)
    known = attained_of(new, table(run, gpus))
    return known.cost[known.size[0]]


def at(seconds: float) -> int:
    return 1 + int(PER_OCTAVE * np.log2(seconds))


def test_exponential_run_times_teach_nothing_by_waiting() -> None:
    """Jobs would be suspended for what they have attained, where that says nothing of what is left."""
    share = (np.arange(100_000) + 0.5) / 100_000
    index = index_of(-1000.0 * np.log1p(-share))
    assert index[at(1) : at(3000)] == pytest.approx(1000.0, rel=0.05)


def test_two_run_times_give_the_index_worked_out_by_hand() -> None:
    """A new job's chance to be a short one would be misjudged, or a long one's end not be seen to come near."""
    # Half 16 s, half 4096 s. New: to the edge of the bin at 17.45 s, (16 + 17.45) / 2 s for one end in two. Past that:
    # what is left, from the lower end of a bin.
    index = index_of(np.repeat([16.0, 4096.0], 50_000))
    assert index[0] == pytest.approx(16 + 2 ** (33 / 8), rel=0.001)
    assert index[at(100)] == pytest.approx(4096 - 2 ** ((at(100) - 1) / PER_OCTAVE), rel=0.01)
    assert index[at(4000)] == pytest.approx(4096 - 2 ** ((at(4000) - 1) / PER_OCTAVE), rel=0.02)


def test_with_no_past_who_has_attained_less_goes_first() -> None:
    """On the first day of a cluster the policy would order jobs at random."""
    index = attained_of(table(np.array([1.0]))).cost
    assert index.shape == (CLASSES, BINS)
    assert np.isfinite(index).all() and (np.diff(index[:, : at(1e6)]) > 0).all()


def test_sizes_learn_apart_where_enough_have_ended() -> None:
    """Jobs of eight GPUs would be judged by the many of one."""
    past = JobTable.from_columns(
        {"submit_s": np.zeros(2000), "duration_s": np.repeat([10.0, 1000.0], 1000), "num_gpus": np.repeat([1, 8], 1000)}
    )
    new = JobTable.from_columns({"submit_s": [LATER] * 3, "duration_s": [1] * 3, "num_gpus": [1, 8, 3]})
    known = attained_of(new, past)
    single, eight, three = known.cost[known.size, 0]
    assert single == pytest.approx(10, rel=0.1) and eight == pytest.approx(1000, rel=0.02)
    # Of three GPUs none has ended: all sizes together.
    assert three == pytest.approx(20, rel=0.1)


def test_of_a_past_job_that_still_runs_only_what_it_has_run_is_seen() -> None:
    """The index would know the end of a job that lies in the future."""
    run = np.repeat([10.0, 5000.0], 500)
    other = np.repeat([10.0, 90_000.0], 500)
    assert (index_of(run, now=100.0) == index_of(other, now=100.0)).all()
    assert (index_of(run, now=1e5) != index_of(other, now=1e5)).any()


def test_jobs_of_the_future_are_no_past() -> None:
    """A table would be published whose policy had learned from the jobs it was judged on."""
    jobs = JobTable.from_columns({"submit_s": [5.0, 6.0], "duration_s": [1, 1], "num_gpus": [1, 1]})
    with pytest.raises(rltune.InputError, match="past_jobs: job 1 is submitted at 6 s") as refused:
        rltune.simulate(jobs, Cluster("c", (Pool("p", 1, 1),)), policy="gittins", past_jobs=jobs)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("policy", ["gittins", "las"])
def test_nobody_knows_when_a_running_job_ends(policy: str) -> None:
    """The policy would use the job's own run time, which no scheduler has."""
    rng = np.random.default_rng(5)
    submit, gpus = np.sort(rng.uniform(0, 3e4, 300)), rng.choice([1, 2, 4, 8], 300)
    run = np.exp(rng.normal(6, 1.5, 300))
    run[::20] = 5e4
    cluster, horizon = Cluster("c", (Pool("p", 4, 8),)), 2e4
    begun = []
    for more in (0.0, 7e4):
        longer = np.where(run == 5e4, run + more, run)
        jobs = JobTable.from_columns({"submit_s": submit, "duration_s": longer, "num_gpus": gpus})
        seen = rltune.simulate(jobs, cluster, policy=policy, runtimes="unknown", resume_s=60.0).attempts
        begun.append(seen[seen.start_s < horizon][["job_id", "start_s", "nodes"]].reset_index(drop=True))
    assert len(begun[0]) > 100 and begun[0].equals(begun[1])
