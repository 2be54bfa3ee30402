"""What is changed in Slurm, what is remembered of it, and that all of it is given back: also after a kill at any moment."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slurm_cases import Memoryless, job

from rltune.nouns.errors import InputError, RunError
from rltune.slurm.acting import Hands, in_one_word
from rltune.slurm.commands import Unreachable
from rltune.slurm.deciding import Decider
from rltune.slurm.reading import Asked, Job
from rltune.slurm.remembering import Mark, alone, read_memory
from rltune.slurm.service import give_back

SJF = Decider("sjf", {"name": "best_fit"}, "easy")


def queue_of(n: int) -> dict[str, Job]:
    """Jobs of several widths and nice values, one held by its user, one by an administrator, one that names a node."""
    jobs = [
        job(str(k), 1 + 3 * (k % 3), minutes=100 - k, submit_s=k, priority=100, nice=k % 4, user=f"u{k % 2}")
        for k in range(n)
    ]
    jobs += [
        job("mine", priority=0, reason="JobHeldUser"),
        job("admin", priority=0, reason="JobHeldAdmin"),
        job("there", required="n2", priority=100, nice=3),
    ]
    return {each.id: each for each in jobs}


def hands(slurm: Memoryless, path: Path, depth: str, **more) -> Hands:
    return Hands(slurm, read_memory(path, "main"), depth, **more)


def step(mine: Hands, slurm: Memoryless, decider: Decider = SJF):
    seen = slurm.look()
    acts = mine.notice(seen)
    decision = decider.decide(seen, mine.moment(seen, 100))
    return decision, acts + mine.act(seen, decision)


def test_priorities_are_in_our_order_and_come_back(tmp_path: Path) -> None:
    """Slurm would start jobs in its own order, or keep ours for ever."""
    slurm = Memoryless(queue_of(8))
    before = dict(slurm.jobs)
    mine = hands(slurm, tmp_path / "s.json", "priority")
    decision, _ = step(mine, slurm)
    given = [slurm.jobs[each.id].priority for each in decision.ranked()]
    assert given == sorted(given, reverse=True) and len(set(given)) == len(given) and min(given) > 100
    assert slurm.jobs["mine"] == before["mine"] and slurm.jobs["admin"] == before["admin"]
    assert step(mine, slurm)[1] == [], "a second look changes nothing"
    mine.give_back(slurm.jobs.values())
    assert slurm.jobs == before
    assert json.loads((tmp_path / "s.json").read_text())["jobs"] == {}


def test_place_holds_names_nodes_and_releases(tmp_path: Path) -> None:
    """Jobs would start elsewhere than planned, or those that wait would start by themselves."""
    slurm = Memoryless(queue_of(12))
    before = dict(slurm.jobs)
    mine = hands(slurm, tmp_path / "s.json", "place")
    decision, _ = step(mine, slurm)
    for row in decision.rows:
        seen = slurm.jobs[row.job.id]
        assert (
            (seen.required, seen.priority) == (",".join(row.nodes), 100)
            if row.starts
            else seen.reason == "JobHeldAdmin"
        )
    for row in decision.starts:
        slurm.begin(row.job.id, row.nodes[0])
    for each in decision.starts[:3]:
        slurm.jobs[each.job.id] = replace(slurm.jobs[each.job.id], state="COMPLETED")
        del slurm.jobs[each.job.id]
    more, _ = step(mine, slurm)
    held_before = {row.job.id for row in decision.rows if not row.starts}
    assert more.starts and {row.job.id for row in more.starts} <= held_before
    mine.give_back(slurm.jobs.values())
    for name, each in slurm.jobs.items():
        if each.pending:
            assert each == before[name]


@settings(max_examples=40)
@given(st.sampled_from(["priority", "place"]), st.integers(0, 60), st.integers(0, 30))
def test_a_kill_at_any_moment(tmp_path_factory, depth: str, first: int, second: int) -> None:
    """After a power cut jobs would stay held, keep our priorities or nodes, or lose their nice values; a kill while giving back too."""
    with patch("rltune.slurm.remembering.os.fsync"):
        killed_and_given_back(tmp_path_factory.mktemp("kill") / "s.json", depth, first, second)


def killed_and_given_back(path: Path, depth: str, first: int, second: int) -> None:
    """Killed after ``first`` commands, and once more after ``second`` of giving back: nothing differs from before."""
    slurm = Memoryless(queue_of(9), fail_at=first)
    before = dict(slurm.jobs)
    try:
        mine = hands(slurm, path, depth)
        step(mine, slurm)
        slurm.jobs["late"] = before["late"] = job("late", 2, minutes=1, submit_s=99, priority=100, nice=2)
        step(mine, slurm)
    except KeyboardInterrupt:
        pass
    slurm.fail_at = len(slurm.done) + second
    try:
        hands(slurm, path, depth).give_back(slurm.jobs.values())
    except KeyboardInterrupt:
        slurm.fail_at = None
        hands(slurm, path, depth).give_back(slurm.jobs.values())
    assert {name: slurm.jobs[name] for name in before if name in slurm.jobs} == before


@pytest.mark.parametrize("depth", ["priority", "place"])
def test_slurms_own_priority_is_kept_in_mind(tmp_path: Path, depth: str) -> None:
    """With policy=priority our own numbers and holds would feed back into the order."""
    jobs = {str(k): job(str(k), 8, priority=100 + k, submit_s=k) for k in range(8)}
    slurm = Memoryless(jobs)
    decider = Decider("priority", {"name": "best_fit"}, "easy")
    mine = hands(slurm, tmp_path / "s.json", depth)
    first = [each.id for each in step(mine, slurm, decider)[0].ranked()]
    assert first == [str(k) for k in range(7, -1, -1)]
    again = [each.id for each in step(mine, slurm, decider)[0].ranked()]
    assert again == [name for name in first if name in again]


def test_somebody_elses_word_counts(tmp_path: Path) -> None:
    """An administrator's release or priority would be undone at the next look, and again and again."""
    slurm = Memoryless(queue_of(12))
    mine = hands(slurm, tmp_path / "s.json", "place")
    decision, _ = step(mine, slurm)
    waiting = next(row.job.id for row in decision.rows if not row.starts)
    slurm.release(waiting)
    _, acts = step(mine, slurm)
    assert {"job": waiting, "act": "let go", "why": "somebody else released it or changed its priority"} in acts
    assert slurm.jobs[waiting].priority == 100
    slurm, mine = Memoryless(queue_of(4)), hands(Memoryless({}), tmp_path / "t.json", "priority")
    mine.slurm = slurm
    step(mine, slurm)
    slurm.update("2", "Priority=77")
    step(mine, slurm)
    mine.give_back(slurm.jobs.values())
    assert slurm.jobs["2"].priority == 77


def test_a_job_that_slurm_does_not_start(tmp_path: Path) -> None:
    """GPUs would stay promised to a job that Slurm keeps back for reasons of its own."""
    now = [0.0]
    slurm = Memoryless({"1": job("1", 8, priority=100)})
    mine = hands(slurm, tmp_path / "s.json", "place", clock=lambda: now[0], patience_s=30)
    step(mine, slurm)
    now[0] = 10
    assert step(mine, slurm)[1] == []
    now[0] = 31
    _, acts = step(mine, slurm)
    assert [act["act"] for act in acts[:2]] == ["hold", "clear nodes"] and "not started within 30 s" in acts[0]["value"]


def test_a_job_put_back_into_the_queue(tmp_path: Path) -> None:
    """After its node failed, a job would wait for that node for ever."""
    slurm = Memoryless({"1": job("1", 8, priority=100)})
    mine = hands(slurm, tmp_path / "s.json", "place")
    decision, _ = step(mine, slurm)
    slurm.begin("1", decision.starts[0].nodes[0])
    step(mine, slurm)
    slurm.jobs["1"] = replace(slurm.jobs["1"], state="PENDING", reason="Priority", priority=100, nodes=(), held=())
    _, acts = step(mine, slurm)
    assert acts[0] == {"job": "1", "act": "clear nodes"}


def test_a_running_job_that_was_held_while_it_began(tmp_path: Path) -> None:
    """A hold that met a job that just began would hold it whenever it is put back into the queue."""
    slurm = Memoryless(
        {"1": job("1", 8, priority=100), **{f"f{k}": job(f"f{k}", 8, minutes=1, priority=100) for k in range(3)}}
    )
    mine = hands(slurm, tmp_path / "s.json", "place")
    step(mine, slurm)
    assert slurm.jobs["1"].reason == "JobHeldAdmin"
    slurm.jobs["1"] = replace(slurm.jobs["1"], state="RUNNING", nodes=("n1",), held=({"a100": 8},))
    step(mine, slurm)
    assert slurm.jobs["1"].priority == 100


def test_what_runs_is_remembered_until_it_ends(tmp_path: Path) -> None:
    """The nodes of a running job cannot be cleared; forgotten, it would be bound to them after a failure."""
    slurm = Memoryless({"1": job("1", 8, priority=100)})
    mine = hands(slurm, tmp_path / "s.json", "place")
    decision, _ = step(mine, slurm)
    slurm.begin("1", decision.starts[0].nodes[0])
    mine.give_back(slurm.jobs.values())
    assert read_memory(tmp_path / "s.json", "main").marks["1"].ran
    slurm.jobs["1"] = replace(slurm.jobs["1"], state="PENDING", reason="Priority", priority=100, nodes=(), held=())
    hands(slurm, tmp_path / "s.json", "advise").give_back(slurm.jobs.values())
    assert slurm.jobs["1"].required == ""


def test_an_id_that_came_round(tmp_path: Path) -> None:
    """A new job with an old number would be released or renamed in another's place."""
    slurm = Memoryless({"1": job("1", 8, priority=0, reason="JobHeldAdmin", user="bob")})
    mine = hands(slurm, tmp_path / "s.json", "place")
    mine.memory.marks["1"] = Mark("ann", held=True)
    mine.give_back(slurm.jobs.values())
    assert slurm.jobs["1"].reason == "JobHeldAdmin"


def test_arrays_in_one_word() -> None:
    """Holding an array's waiting tasks would also hold those that run, which a requeue would then keep back."""
    tasks = [job(f"9_{k}", array="9") for k in (1, 2, 3, 7)]
    assert in_one_word(tasks) == "9_[1-3,7]" and in_one_word(tasks[:1]) == "9_1"


def test_an_array_has_one_priority(tmp_path: Path) -> None:
    """Each of ten thousand tasks would be a command of its own."""
    tasks = {
        f"9_{k}": job(f"9_{k}", 8, array="9", whole="9_[1-8]", array_most=4, asked=Asked({"a100": 8}, 1, 8))
        for k in range(1, 9)
    }
    slurm = Memoryless(tasks)
    slurm.jobs["9_[1-8]"] = job("9_[1-8]", partition="nowhere")
    _, acts = step(hands(slurm, tmp_path / "s.json", "priority"), slurm)
    assert [act["job"] for act in acts] == ["9"] and slurm.done[0][1] == "9_[1-8]"


def test_the_controller_is_away_when_all_is_given_back(tmp_path: Path) -> None:
    """The service would end without a word while jobs are still held."""
    slurm = Memoryless(queue_of(12))
    mine = hands(slurm, tmp_path / "s.json", "place")
    step(mine, slurm)
    slurm.json = lambda *words: {"jobs": []}  # type: ignore[attr-defined]
    slurm.down_at = 0
    with pytest.raises(RunError, match=r"rltune\.slurm release"):
        mine.give_back = lambda jobs: slurm.hold("1")  # type: ignore[assignment, method-assign, return-value]
        give_back(mine, pause=lambda s: None)
    assert read_memory(tmp_path / "s.json", "main").marks


def test_no_answer_to_a_hold_or_a_release(tmp_path: Path) -> None:
    """A job whose hold was not answered would be taken for one that an administrator released, and never be decided on again."""
    slurm = Memoryless(queue_of(12))
    mine = hands(slurm, tmp_path / "s.json", "place")
    for k in range(30):
        slurm.down_at = k
        with suppress(Unreachable):
            step(mine, slurm)
    slurm.down_at = None
    decision, _ = step(mine, slurm)
    assert not any(mark.let_go for mark in mine.memory.marks.values())
    for row in decision.rows:
        if not row.starts:
            assert slurm.jobs[row.job.id].reason == "JobHeldAdmin" and slurm.jobs[row.job.id].required == ""


def test_a_held_job_that_only_slurm_may_place_now(tmp_path: Path) -> None:
    """A job whose user names a node while we hold it would stay held, since it is no longer ours to start."""
    slurm = Memoryless(queue_of(12))
    mine = hands(slurm, tmp_path / "s.json", "place")
    decision, _ = step(mine, slurm)
    waits = next(row.job.id for row in decision.rows if not row.starts)
    slurm.jobs[waits] = replace(slurm.jobs[waits], required="n3")
    step(mine, slurm)
    assert slurm.jobs[waits].reason == "Priority" and slurm.jobs[waits].required == "n3"


def test_a_disk_that_refuses_while_giving_back(tmp_path: Path) -> None:
    """One job whose return cannot be written down would keep all others held."""
    slurm = Memoryless(queue_of(12))
    mine = hands(slurm, tmp_path / "s.json", "place")
    step(mine, slurm)
    with (
        patch("rltune.slurm.remembering.os.fsync", side_effect=OSError(28, "No space left on device")),
        pytest.raises(RunError, match="No space left"),
    ):
        mine.give_back(slurm.jobs.values())
    assert [each.id for each in slurm.jobs.values() if each.reason == "JobHeldAdmin"] == ["admin"]


def test_the_state_file_is_checked(tmp_path: Path) -> None:
    """A damaged file, or another partition's, would let held jobs be forgotten."""
    path = tmp_path / "s.json"
    path.write_text("{}")
    with pytest.raises(InputError, match="no state file"):
        read_memory(path, "main")
    memory = read_memory(tmp_path / "new.json", "main")
    memory.save()
    with pytest.raises(InputError, match="is of partition main"):
        read_memory(tmp_path / "new.json", "other")
    with alone(path), pytest.raises(InputError, match=r"another rltune\.slurm"), alone(path):
        pass


def test_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs would be held of which nothing is written down."""
    slurm = Memoryless(queue_of(12))
    mine = hands(slurm, tmp_path / "s.json", "place")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rltune.slurm.remembering.os.fsync", refuse)
    with pytest.raises(RunError, match="No space left"):
        step(mine, slurm)
    assert slurm.done == []
