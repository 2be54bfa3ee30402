"""A shadow goes on as the state that it was taken of, with nothing in it that the scheduler does not know."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import rltune
from rltune.core.loop import LOG_FULL, put_in_order, run_until, start_here
from rltune.core.reference import Ref, ref
from rltune.core.shadows import Cast, present_jobs, shadow
from rltune.core.state import ALWAYS, ARRIVED, INSIDE, RUNNING, Detail, Sim, with_larger_log
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.simulator.guard import Guard, drawn_runs, imagined, judge, rules_of, usual_rule

CLUSTER = Cluster("c", (Pool("fast", 2, 8, "V100"), Pool("slow", 3, 4, "P100")))
MIXED = Cluster("m", (Pool("fast", 1, 4, "A100-40GB", mig=True), Pool("slow", 2, 4, "V100")))
WAYS: dict[str, Any] = {"way_rule": "market", "allocator": "fgd", "speed": {"name": "classes"}}


def table(n: int = 90, seed: int = 1) -> JobTable:
    """Busy, with run times over three orders of magnitude."""
    rng = np.random.default_rng(seed)
    return JobTable.from_columns(
        {
            "job_id": [f"{k:03d}" for k in range(n)], "submit_s": np.sort(rng.uniform(0, 9000, n)).tolist(),
            "duration_s": np.exp(rng.uniform(3, 9, n)).tolist(), "num_gpus": rng.choice([1, 1, 2, 4, 8], n).tolist(),
            "user": [f"u{k % 3}" for k in range(n)],
        }
    )  # fmt: skip


@dataclass
class Watching:
    """Decides as the kernels do, and takes a shadow with all that is to come at every tenth decision."""

    shadows: list[tuple[Any, Ref]] = field(default_factory=list)
    records: list[Any] = field(default_factory=list)
    decisions: int = 0

    def take(self, state: Ref) -> None:
        sim: Sim = state.value
        self.decisions += 1
        if self.decisions % 10 == 0:
            here, later = present_jobs(sim), np.arange(sim.counts[ARRIVED], len(sim.jobs.submit))
            rows = np.concatenate([here, later])
            cast = Cast(rows, len(here), sim.jobs.submit[rows], sim.jobs.run[rows])
            made = shadow(sim, cast)
            self.shadows.append((rows, ref(made._replace(params=made.params._replace(outside=INSIDE)))))
        start_here(state)


def watched(monkeypatch: pytest.MonkeyPatch, jobs: JobTable, cluster: Cluster, **options: Any) -> tuple[Any, Watching]:
    """A simulation under a named policy in which a `Watching` decides."""
    import rltune.simulator.full as full
    import rltune.simulator.run as run

    watching, drive = Watching(), full.drive

    def driven(sim: Sim, decision: Any) -> Any:
        return drive(sim._replace(params=sim.params._replace(outside=ALWAYS)), watching)

    monkeypatch.setattr(full, "drive", driven)
    monkeypatch.setattr(run, "drive", driven)
    return rltune.simulate(jobs, cluster, **options), watching


CASES = {
    "lean": {"policy": "sjf", "backfill": "easy"},
    "full": {"policy": "fifo", "backfill": "skip", "max_retries": 3, "allocator": "best_fit"},
    "dynamic": {"policy": "wfp3", "backfill": "skip"},
    "las": {"policy": "las", "runtimes": "unknown", "resume_s": 60.0},
    "gittins": {"policy": "gittins", "runtimes": "unknown", "resume_s": 60.0, "gittins_online": True},
    "srsf, online": {"policy": "srsf", "runtimes": "online", "resume_s": 30.0, "quotas": None},
    "market": {
        "policy": "gittins",
        "runtimes": "unknown",
        "resume_s": 60.0,
        "cluster": MIXED,
        "ways": "slices",
        **WAYS,
    },
}


@pytest.mark.parametrize("case", CASES)
def test_a_shadow_that_knows_all_goes_on_as_the_simulation_does(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """Verdicts would be about another cluster than the one at hand."""
    options = dict(CASES[case])
    jobs, cluster = table(), options.pop("cluster", CLUSTER)
    result, watching = watched(monkeypatch, jobs, cluster, **options)
    assert len(watching.shadows) > 3
    for rows, state in watching.shadows:
        sim: Sim = state.value
        assert sim.counts[RUNNING] > 0
        start_here(state)
        while run_until(state, np.inf) == LOG_FULL:
            state = ref(with_larger_log(state.value))
        sim = state.value
        end = sim.detail.final if isinstance(sim.detail, Detail) else sim.end
        assert np.allclose(end, result.end_s[rows], rtol=0, atol=1e-6)
        assert np.array_equal(sim.start, result.start_s[rows])


@dataclass
class Asked:
    """At every tenth decision, what is imagined, and what if all that is not over took seven times as long."""

    casts: list[tuple[Cast, Cast]] = field(default_factory=list)
    decisions: int = 0

    def take(self, state: Ref) -> None:
        sim: Sim = state.value
        self.decisions += 1
        if self.decisions % 10 == 0:
            run, end = sim.jobs.run.copy(), sim.end.copy()
            hidden = np.concatenate([present_jobs(sim), np.arange(sim.counts[ARRIVED], len(run))])
            run[hidden] *= 7.0
            end[hidden] = np.nan
            other = sim._replace(jobs=sim.jobs._replace(run=run), end=end)
            one, two = (imagined(each, 1e5, np.random.default_rng(0)) for each in (sim, other))
            self.casts.append((one, two))
        start_here(state)


def test_a_shadow_knows_nothing_of_true_run_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard that peeks would keep every policy that happens to be right."""
    import rltune.simulator.full as full

    asked, drive = Asked(), full.drive
    monkeypatch.setattr(
        full, "drive", lambda sim, _: drive(sim._replace(params=sim.params._replace(outside=ALWAYS)), asked)
    )
    rltune.simulate(table(), CLUSTER, policy="las", runtimes="unknown", resume_s=60.0)
    assert len(asked.casts) > 3
    for one, other in asked.casts:
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
        assert len(one.job) > one.present
        assert (np.diff(one.submit[one.present :]) >= 0).all()


def test_unknown_run_times_are_those_of_ended_jobs_that_ran_longer() -> None:
    """A job that has run for a day would be taken for one that is over in a minute, as most are."""
    past, gpus = np.arange(1.0, 101.0), np.array([1] * 50 + [2] * 50)
    drawn = drawn_runs(past, gpus, np.full(400, 2), np.full(400, 80.0), np.random.default_rng(0))
    assert set(drawn) == set(np.arange(81.0, 101.0))
    of_all = drawn_runs(past, gpus, np.full(400, 4), np.zeros(400), np.random.default_rng(0))
    assert of_all.min() < 10
    assert of_all.max() > 90
    # Longer than any: as long again.
    assert drawn_runs(past, gpus, np.array([1]), np.array([5000.0]), np.random.default_rng(0)) == [10_000.0]


def test_judging_leaves_the_state_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verdict would change the schedule by being asked for."""
    import rltune.simulator.full as full

    class Judging:
        def take(self, state: Ref) -> None:
            class Kernels:
                def take(self, state: Ref) -> None:
                    start_here(state)

            verdict = judge(
                state.value, lambda made: Kernels(), ("gittins", "las"), "jct", 3600.0, np.random.default_rng(0),
                lambda made: put_in_order(made),
            )  # fmt: skip
            # It is the baseline itself.
            assert verdict.costs["learned"] == verdict.costs["gittins"]
            start_here(state)

    options: dict[str, Any] = CASES["market"] | {}
    del options["cluster"]
    plain = rltune.simulate(table(), MIXED, **options)
    drive = full.drive
    monkeypatch.setattr(
        full, "drive", lambda sim, _: drive(sim._replace(params=sim.params._replace(outside=ALWAYS)), Judging())
    )
    judged = rltune.simulate(table(), MIXED, **options)
    assert np.array_equal(judged.end_s, plain.end_s)
    assert np.array_equal(judged.runs.node, plain.runs.node)


def test_a_crowd_shortens_the_look_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check while ten thousand jobs come at once would take minutes, in a live service too."""
    import rltune.simulator.full as full
    import rltune.simulator.guard as guard

    monkeypatch.setattr(guard, "COMING", 30)
    seen: list[tuple[float, int]] = []

    class Looking:
        def take(self, state: Ref) -> None:
            sim: Sim = state.value
            ahead = guard.within_reach(sim, 1e6)
            cast = imagined(sim, ahead, np.random.default_rng(0))
            seen.append((ahead, len(cast.job) - cast.present))
            start_here(state)

    drive = full.drive
    monkeypatch.setattr(
        full, "drive", lambda sim, _: drive(sim._replace(params=sim.params._replace(outside=ALWAYS)), Looking())
    )
    rltune.simulate(table(), CLUSTER, policy="las", runtimes="unknown", resume_s=60.0)
    assert seen[0][0] == 1e6
    assert 600.0 <= seen[-1][0] < 1e5
    assert max(coming for _, coming in seen) == 30


def test_the_further_rule() -> None:
    """The guard would hold a policy to a rule that knows more, or to one that cannot run here."""
    assert [usual_rule("gittins", False), usual_rule("las", False), usual_rule("las", True)] == ["las", None, "srsf"]
    assert [usual_rule("fifo", False), usual_rule("f4", True), usual_rule("sjf", True)] == ["smallest", "sjf", "f1"]
    assert rules_of(Guard(), "las", False) == ("las",)
    assert rules_of(Guard(rule="wfp3"), "sjf", True) == ("sjf", "wfp3")
    for guard, baseline, timed in (
        (Guard(rule="sjf"), "fifo", False),
        (Guard(rule="fifo"), "las", True),
        (Guard(), "lottery", True),
    ):
        with pytest.raises(InputError, match="baseline"):
            rules_of(guard, baseline, timed)
    for wrong in ({"ahead_s": 0}, {"every_s": float("nan")}, {"ahead_s": "long"}, {"tolerance": -0.1}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            Guard(**wrong)  # type: ignore[arg-type]
