"""Jobs that may run in several ways, and which of them the decision takes."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

import rltune
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.jobs import JobTable, on_whole_gpus
from rltune.nouns.plan import PlanError, Snapshot
from rltune.traces.plain import write
from rltune.traces.trace import content_sha256

MIG = "A100-40GB"
simulate = partial(rltune.simulate, mig_reconfiguration=False)
"""Slices in no time: what they take is tested in `test_mig_instances`."""


def table(*rows: tuple[Any, ...], **columns: list[Any]) -> JobTable:
    """Rows of submission, run time and ways (None: the request); all ask for one whole GPU unless columns say otherwise."""
    submit, run, ways = zip(*rows, strict=True)
    given = {"submit_s": list(submit), "duration_s": list(run), "num_gpus": [1] * len(rows), "ways": list(ways)}
    return JobTable.from_columns({"job_id": [f"j{k}" for k in range(len(rows))]} | given | columns)


def gpus(nodes: int = 1, each: int = 1, kind: str = MIG, **more: Any) -> Cluster:
    return Cluster("c", (Pool("p", nodes, each, kind, mig=kind == MIG, **more),))


def runs(result: rltune.Result) -> list[tuple[Any, ...]]:
    """(job, start, end, profile, GPUs) of every run, by start."""
    rows = result.attempts.itertuples()
    return [(r.job_id, r.start_s, r.end_s, r.mig if isinstance(r.mig, str) else None, sum(r.gpus)) for r in rows]


def test_a_job_takes_the_slice_while_no_whole_gpu_is_free_and_lasts_longer() -> None:
    """It would wait for a whole GPU though half of one is free, or end as if it had got it."""
    jobs = table((0, 500, None), (0, 500, "3g.20gb"), (1, 100, "1xA100 | 3g.20gb@0.5"))
    result = simulate(jobs, gpus(each=2))
    assert runs(result) == [("j0", 0, 500, None, 1), ("j1", 0, 500, "3g.20gb", 0.5), ("j2", 1, 201, "3g.20gb", 0.5)]
    assert result.runs.useful_s.tolist() == [500, 500, 100]
    assert result.attempts.gpu.tolist()[1] == result.attempts.gpu.tolist()[2]


def test_a_gpu_is_served_whole_then_in_slices_then_whole_again() -> None:
    """The partition of a GPU would be fixed once, and later jobs wait for another shape for ever."""
    both = "request | 3g.20gb@0.5"
    jobs = table((0, 100, both), (10, 50, "3g.20gb"), (11, 80, "3g.20gb"), (12, 30, None))
    assert runs(simulate(jobs, gpus())) == [
        ("j0", 0, 100, None, 1), ("j1", 100, 150, "3g.20gb", 0.5), ("j2", 100, 180, "3g.20gb", 0.5),
        ("j3", 180, 210, None, 1),
    ]  # fmt: skip


def test_work_done_on_a_whole_gpu_is_kept_when_a_slice_goes_on_with_it() -> None:
    """A suspended job would lose what it had done, or have it counted at the slice's speed."""
    jobs = table(
        (0, 100, "request | 3g.20gb@0.5"), (40, 10, None), (41, 1000, None), (41, 1000, "3g.20gb"),
        num_gpus=[1, 2, 1, 1], priority=[0, 5, 3, 3],
    )  # fmt: skip
    result = simulate(jobs, gpus(each=2), policy="priority", resume_s=6)
    mine = [(r[1], r[2], r[3]) for r in runs(result) if r[0] == "j0"]
    # 60 s of work are left at t = 50, after restoring 6 s: 120 s at half the speed.
    assert mine == [(0, 40, None), (50, 50 + 6 + 120, "3g.20gb")]
    assert result.runs.useful_s[result.runs.job == 0].tolist() == [40, 60]


def test_a_quota_counts_what_is_held_not_what_might_be() -> None:
    """A virtual cluster with half a GPU left would hold none, or more than it may."""
    jobs = table((0, 100, None), (0, 100, "request | 3g.20gb@0.5"), (1, 10, "3g.20gb"), vc=["x"] * 3)
    result = simulate(jobs, gpus(each=4), quotas={"x": 1.5})
    assert runs(result) == [("j0", 0, 100, None, 1), ("j1", 0, 200, "3g.20gb", 0.5), ("j2", 100, 110, "3g.20gb", 0.5)]
    # The smallest way decides whether a job could ever start.
    assert runs(simulate(jobs.take([1]), gpus(), quotas={"x": 0.5})) == [("j1", 0, 200, "3g.20gb", 0.5)]
    with pytest.raises(rltune.InputError, match=r"job j1 .* wants 0.5 GPUs, virtual cluster x may hold 0.4"):
        simulate(jobs.take([1]), gpus(), quotas={"x": 0.4})


@pytest.mark.parametrize(
    ("options", "profile", "end"),
    [
        ({}, None, 100),
        ({"way_rule": "efficient"}, "1g.5gb", 400),
        ({"way_rule": "efficient", "way_least_speed": 0.5}, "3g.20gb", 125),
        ({"way_rule": "efficient", "way_least_speed": 1.0}, None, 100),
    ],
)
def test_what_is_tried_first(options: dict[str, Any], profile: str | None, end: float) -> None:
    """A user who saves GPUs for others would get the fastest way all the same, or one slower than allowed."""
    jobs = table((0, 100, "request | 3g.20gb@0.8 | 1g.5gb@0.25"))
    result = simulate(jobs, gpus(), max_retries=3, **options)
    assert [r[2:4] for r in runs(result)] == [(end, profile)]
    assert ("ways" in result.extra) == (options.get("way_least_speed", 0.0) > 0)


def test_other_types_counts_and_shares() -> None:
    """A job that may run on two older GPUs, or on part of one, would only ever get what it was recorded on."""
    cluster = Cluster("c", (Pool("new", 1, 1, "V100"), Pool("old", 2, 1, "P100")))
    ways = "1xV100 | 2xP100@0.8 | 0.5xP100@0.1"
    result = simulate(table((0, 80, ways), (0, 80, ways), (0, 80, "request")), cluster)
    places = [(r.pool, r.end_s, r.nodes, r.gpus) for r in result.attempts.itertuples()]
    assert places[0] == ("new", 80, [0], [1.0]) and places[1] == ("old", 100, [0, 1], [1.0, 1.0])
    assert runs(result)[2] == ("j2", 80, 160, None, 1)
    shared = simulate(table((0, 80, ways), (0, 800, ways), (0, 80, "0.5xP100")), cluster, way_rule="efficient")
    assert [r[1:] for r in runs(shared)][:1] == [(0, 80, None, 1)]
    # Work per GPU: 1 on a V100, 0.4 on two P100s, 0.2 on half of one.
    assert sorted(r[4] for r in runs(shared)) == [0.5, 1, 2]


@pytest.mark.parametrize("backfill", ["skip", "easy", "conservative", "strict"])
@pytest.mark.parametrize("policy", ["fifo", "srsf", "wfp3"])
def test_a_job_that_lists_its_request_alone_runs_as_without_ways(policy: str, backfill: str) -> None:
    """A column that adds nothing would change a schedule."""
    if policy == "srsf" and backfill != "skip":
        pytest.skip("suspends")
    trace = rltune.load_trace("synthetic", jobs=150, arrivals_per_h=60.0, seed=2)
    frame = trace.jobs.to_frame()
    frame["num_gpus"] = frame.num_gpus.clip(upper=16)
    cluster = Cluster("c", (Pool("a", 2, 8), Pool("b", 3, 4)))
    plain, listed = (
        simulate(
            JobTable.from_columns(frame.assign(ways=ways).to_dict("list")), cluster, policy=policy, backfill=backfill,
            resume_s=30,
        )
        for ways in (None, "request")
    )  # fmt: skip
    assert plain.attempts.equals(listed.attempts)


# --- plans ------------------------------------------------------------------------------


class Slices:
    """Starts every job in one way, by its number."""

    def __init__(self, way: int, nodes: tuple[int, ...] = (0,), held: tuple[int, ...] = (1,)) -> None:
        self.way, self.nodes, self.held = way, nodes, held
        self.seen: list[Any] = []

    def allocate(self, snapshot: Snapshot, order: Any, backfill: str) -> rltune.Plan:
        queue = snapshot.queue
        for k in order:
            lo, hi = int(queue.pool_lo[k]), int(queue.pool_hi[k])
            self.seen.append([(*queue.asks(k, way), float(queue.speed[lo + way])) for way in range(hi - lo)])
        starts = [rltune.Start(int(queue.job[k]), self.nodes, self.held, (), self.way) for k in order[:1]]
        return rltune.Plan(tuple(starts))


def test_an_allocator_of_ones_own_sees_the_ways_and_names_one() -> None:
    """It could not choose a slice, or its choice would run at another speed."""
    jobs = table((0, 100, "request | 3g.20gb@0.5"), (0, 100, "3g.20gb"))
    own = Slices(1)
    result = simulate(jobs.take([0]), gpus(), allocator=own)
    assert [asked[:2] + asked[3:] for asked in own.seen[0]] == [(1, 1000, 1.0), (1, 1000, 0.5)]
    assert runs(result) == [("j0", 0, 200, "3g.20gb", 0.5)]
    assert runs(simulate(jobs.take([0]), gpus(), allocator=Slices(-1))) == [("j0", 0, 100, None, 1)]


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (Slices(2), r"way 2; it has ways 0 to 1, -1 for any"),
        (Slices(1, held=(2,)), r"wants 1 GPUs, the plan gives \(2,\)"),
        (Slices(1, nodes=(1,)), r"may use one of pools \[0\], the plan uses \[1\]"),
    ],
)
def test_a_plan_is_checked_by_the_way_that_it_names(own: Slices, said: str) -> None:
    """A wrong way would corrupt what is free instead of being refused."""
    cluster = Cluster("c", (Pool("p", 1, 2, MIG, mig=True), Pool("q", 1, 2, MIG)))
    jobs = table((0, 100, "3g.20gb@0.5 | 2g.10gb@0.4"))
    with pytest.raises(PlanError, match=said):
        simulate(jobs, cluster, allocator=own)


def test_a_start_without_a_way_takes_the_first_that_is_free() -> None:
    """An allocator that knows nothing of ways would be refused for the first way though its nodes have room for another."""
    jobs = table((0, 500, "3g.20gb"), (1, 100, "request | 3g.20gb@0.5"))
    result = simulate(jobs, gpus(), allocator=Slices(-1))
    assert runs(result) == [("j0", 0, 500, "3g.20gb", 0.5), ("j1", 1, 201, "3g.20gb", 0.5)]


def test_the_milp_cuts_a_gpu_so_that_one_more_starts() -> None:
    """Each job would take its fastest way, and the third wait for a GPU that the first two could share."""
    both = "request | 3g.20gb@0.5"
    jobs = table((0, 100, both), (0, 100, both), (0, 50, None))
    greedy, joint = (simulate(jobs, gpus(each=2), allocator=each) for each in ("best_fit", "milp"))
    assert greedy.start_s.tolist() == [0, 0, 100] and joint.start_s.tolist() == [0, 0, 0]
    assert sorted(runs(joint)) == [
        ("j0", 0, 200, "3g.20gb", 0.5), ("j1", 0, 200, "3g.20gb", 0.5), ("j2", 0, 50, None, 1),
    ]  # fmt: skip
    assert "ways" not in joint.extra
    # Where all start anyway, each takes the way that is best by the rule.
    assert [r[3] for r in runs(simulate(jobs.take([0, 1]), gpus(each=2), allocator="milp"))] == [None, None]
    saving = simulate(jobs.take([0]), gpus(each=2), allocator="milp", way_rule="efficient")
    # Half as fast on half a GPU is no less work for it.
    assert [r[3] for r in runs(saving)] == [None]


def test_the_milp_chooses_a_way_that_does_not_delay_the_reserved_job() -> None:
    """A job would run into the reservation on its fastest way, or wait though another of its ways fits beside it."""
    cluster = Cluster("c", (Pool("new", 1, 2, "V100"), Pool("old", 1, 2, "P100")))
    jobs = table(
        (0, 100, "1xV100"), (1, 50, "2xV100"), (2, 99, "1xV100 | 1xP100@0.5"), (2, 90, "1xV100 | 2xP100@0.9"),
        num_gpus=[1, 2, 1, 1],
    )  # fmt: skip
    result = simulate(jobs, cluster, backfill="easy", allocator="milp")
    places = {r.job_id: (r.pool, r.start_s, r.end_s) for r in result.attempts.itertuples()}
    assert places["j1"] == ("new", 100, 150)
    assert places["j2"] == ("old", 2, 200) and places["j3"] == ("new", 2, 92)


def test_the_milp_suspends_jobs_of_several_ways_and_moves_them() -> None:
    """Work would be lost or done twice where a job goes on in another way, or the way it holds be taken for its first."""
    rows = [(k, 2000 + k if k < 4 else 20 + k, "request | 3g.20gb@0.5") for k in range(12)]
    jobs = table(*rows, num_gpus=[1, 2, 1, 1] * 3)
    cluster = Cluster("c", (Pool("p", 2, 2, MIG, mig=True), Pool("q", 1, 2, "V100")))
    result = simulate(jobs, cluster, policy="srtf", allocator="milp", resume_s=1.0)
    assert result.finished.all() and len(result.runs) > 12
    assert len({r.mig for r in result.attempts.itertuples() if isinstance(r.mig, str)}) == 1
    cut = result.runs.profile >= 0
    assert (result.runs.held_gpus()[~cut] == jobs.num_gpus[result.runs.job[~cut]]).all()
    done = [result.runs.useful_s[result.runs.job == k].sum() for k in range(12)]
    assert done == pytest.approx(jobs.duration_s)


# --- measured tables --------------------------------------------------------------------


def test_measured_slices_are_given_and_told_as_an_assumption(real_traces: Any) -> None:
    """Speeds that no trace recorded would look like its own, or the same seed give others."""
    jobs = table(*[(0, 100, None)] * 8, num_gpus=[1] * 7 + [2])
    common = {"ways": "mig_profiles", "way_rule": "efficient", "way_least_speed": 0.5}
    first, again, other = (simulate(jobs, gpus(each=2), seed=s, **common) for s in (1, 1, 2))
    note, slower = first.extra["ways"]
    assert "of 6 training jobs (alexnet, bert-base, mlp, resnet, resnet50, vgg19)" in note
    assert slower.endswith("jobs lose ways that are slower than way_least_speed allows")
    assert note.startswith("ways mig_profiles: 7 jobs of one GPU may take a MIG slice") and "an assumption" in note
    assert (
        first.attempts.equals(again.attempts) and first.jobs.ways.values().tolist() != other.jobs.ways.values().tolist()
    )
    listed = first.jobs.ways.values()
    assert listed[-1] is None and all(
        text.startswith("request | ") and "3g.20gb:A100-40GB@" in text for text in listed[:-1]
    )
    assert (first.runs.profile >= 0).any() and first.finished.all()


def test_measured_types_let_a_job_use_others_than_its_own(real_traces: Any) -> None:
    """A job would wait for the type it names while another that it runs on is idle."""
    cluster = Cluster("c", (Pool("v", 1, 1, "V100"), Pool("k", 1, 1, "K80")))
    jobs = table((0, 100, None), (0, 100, None), gpu_type=["V100", "V100"])
    waits, goes = (simulate(jobs, cluster, ways=ways, max_retries=3) for ways in (None, "gpu_heterogeneity"))
    assert waits.start_s.tolist() == [0, 100] and goes.start_s.tolist() == [0, 0]
    assert goes.attempts.pool.tolist() == ["v", "k"] and goes.end_s[0] == 100 and goes.end_s[1] > 200
    assert any("by the median of all classes" in note for note in goes.extra["ways"])


# --- bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1xA10O", r"row 2 \(job j1\): ways: '1xA10O': GPU type 'A10O' is unknown; known are any, "),
        ("9g.90gb@1", r"ways: '9g.90gb@1' is no way to run: give e.g. request .* MIG profiles are 1g.10gb, "),
        ("3g.20gb:V100", r"GPU type 'V100' has no MIG profile 3g.20gb; those that do are A100-40GB"),
        ("1xV100@fast", r"'1xV100@fast': speed 'fast'; give a number above 0 and below a million, 1 = as recorded"),
        ("1xV100@0", r"speed '0'; give a number above 0"),
        ("1.5xV100", r"'1.5xV100': 1.5 GPUs; give a whole number up to 1,000,000, or a share such as 0.5"),
        ("0.0005xV100", r"0.0005 GPUs; give a whole number"),
        ("1xV100 | 1xV100@0.5", r"'1xV100@0.5' is there twice; give each way once"),
        ("request |", r"ways: '' is no way to run"),
    ],
)  # fmt: skip
def test_what_is_no_way_to_run_is_refused_with_its_row(text: str, said: str) -> None:
    """A typing error would be dropped, and the job wait for what it did not list."""
    with pytest.raises(rltune.InputError, match=said) as refused:
        table((0, 1, None), (0, 1, text))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ways": "mig"}, "ways='mig' is unknown; known are mig_profiles, slices, gpu_heterogeneity, or null for none"),
        ({"way_rule": "best"}, "way_rule='best' is unknown; known are fastest, efficient"),
        ({"way_least_speed": 2}, "way_least_speed=2; give a share of the fastest way's speed, 0 to 1"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], said: str) -> None:
    """An option misspelt would be taken for another."""
    with pytest.raises(rltune.InputError, match=said):
        simulate(table((0, 1, None)), gpus(), **options)


def test_a_job_whose_ways_fit_nowhere_is_refused_by_name() -> None:
    """It would wait for ever, or the message blame a request that it does not make."""
    jobs = table((0, 1, "request"), (0, 1, "2xV100 | 4g.24gb"))
    with pytest.raises(rltune.InputError, match=r"job j1 .* lists the ways 2xV100 \| 4g.24gb, none of which fits"):
        simulate(jobs, gpus())
    assert simulate(jobs, gpus(), oversized="drop").dropped == 1
    # The request does not fit, but a way does.
    wide = table((0, 10, "request | 1xA100@0.5"), num_gpus=[4])
    assert simulate(wide, gpus()).end_s.tolist() == [20]


def test_ways_go_through_files_and_hashes(tmp_path: Any) -> None:
    """A job table written and read again would lose the ways, and two that differ in them pass for one."""
    path = tmp_path / "jobs.csv"
    path.write_text("job_id,submit_s,duration_s,num_gpus,ways\na,0,10,1,request | 3g.20gb@0.5\nb,0,10,1,\n")
    trace = rltune.load_trace(path)
    assert trace.jobs.ways.values().tolist() == ["request | 3g.20gb@0.5", None]
    again = rltune.load_trace(write(trace, tmp_path / "again.csv"))
    assert content_sha256(again.jobs) == content_sha256(trace.jobs)
    whole, notes = on_whole_gpus(trace.jobs)
    assert whole.ways.values().tolist() == [None, None] and "1 jobs that list several ways to run" in notes[0]
    assert content_sha256(whole) != content_sha256(trace.jobs)


def test_slices_at_made_up_speeds_are_told(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has no measurements would take made-up speeds for measured ones."""
    monkeypatch.setenv("RLTUNE_TRACES", str(tmp_path))
    result = simulate(table((0, 500, None), (0, 500, None)), gpus(), ways="slices")
    assert "made up for one of 3 training jobs" in result.extra["ways"][0]
    with pytest.raises(rltune.InputError, match="mig_profiles"):
        simulate(table((0, 500, None)), gpus(), ways="mig_profiles")
