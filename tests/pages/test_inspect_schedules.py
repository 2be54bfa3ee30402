"""What the inspector says of a run, beside a schedule reckoned on paper and the simulator's own figures."""

from __future__ import annotations

import json
import socket

import numpy as np
import pytest
from run_cases import evaluated, planned, simulated, written

import rltune
from rltune.inspect import windows
from rltune.inspect.__main__ import all_of, main
from rltune.inspect.lanes import free_segments
from rltune.inspect.moments import moment
from rltune.inspect.recorded import schedules_in
from rltune.inspect.waits import moments_of, why, worst
from rltune.nouns.errors import InputError


def only(run):
    """The one schedule of a run directory."""
    (load,) = schedules_in(run).values()
    return load()


@pytest.fixture
def by_hand(tmp_path):
    return only(simulated(tmp_path / "hand"))


def unpacked(data):
    """As the page reads it."""
    length = int.from_bytes(data[:4], "little")
    head, at = json.loads(data[4 : 4 + length]), 4 + length
    for name, (kind, count) in head["columns"].items():
        head[name] = np.frombuffer(data, kind, count, at)
        at += -(-head[name].nbytes // 8) * 8
    assert at == len(data)
    return head


def test_a_moment_tells_who_held_and_who_waited(by_hand):
    """The page would show another queue than there was, or jobs on other nodes."""
    state = moment(by_hand, 110.0)
    assert (state["running"], state["busy_gpus"], state["queue"]["waiting"], state["queue"]["gpus"]) == (2, 6.0, 1, 8.0)
    held = {state["names"][job]: (node, height) for job, node, height in
            zip(*(state["bars"][x] for x in ("job", "node", "height")), strict=True)}  # fmt: skip
    assert held == {"b": (1, 4.0), "d": (0, 2.0)} and by_hand.nodes[0]["name"] == "p 5"
    (row,) = state["queue"]["rows"]
    assert (row["name"], row["gpus"], row["waited"], row["starts_in"]) == ("c", 8.0, 100.0, 90.0)


def test_the_queue_is_sorted_as_asked(by_hand):
    """Somebody who sorts by size would be shown the order of starts."""
    names = {order: [row["name"] for row in moment(by_hand, 50.0, order)["queue"]["rows"]] for order in ("next", "size", "waited", "submitted")}  # fmt: skip
    assert names == {"next": ["d", "c"], "size": ["c", "d"], "waited": ["c", "d"], "submitted": ["c", "d"]}


def test_why_a_job_waited(by_hand):
    """The wrong job would be blamed for a wait."""
    assert [(row["name"], row["waited"]) for row in worst(by_hand)] == [("c", 190.0), ("d", 80.0)]
    told = why(by_hand, by_hand.row_of["c"])
    assert [(x["name"], x["gpu_s"]) for x in told["holders"]] == [("b", 760.0), ("a", 360.0), ("d", 60.0)]
    assert (told["started"], told["overtook"], told["overtook_gpu_s"], told["smaller"]) == (1, 1, 60.0, 1)
    assert [x["name"] for x in told["overtakers"]] == ["d"] and told["room"] == {
        "free_in_all": 0.0,
        "free_together": 0.0,
    }
    assert told["runs"][0]["where"] == ["p 5", "p 6"] and told["pools"] == ["p"]


def test_room_counts_the_nodes_that_a_job_needs(by_hand):
    """Two GPUs that were free for d on one node would be called too few."""
    told = why(by_hand, by_hand.row_of["d"])
    assert told["waited"] == 80.0 and told["room"] == {"free_in_all": 0.0, "free_together": 0.0}
    assert moments_of([(0.0, 10.0), (90.0, 100.0)])[[0, 249, 250, 499]].round(2).tolist() == [0.02, 9.98, 90.02, 99.98]


def test_pictures_are_exact_means(by_hand, monkeypatch):
    """Utilisation and how full nodes were would be off between the edges of steps."""
    lines = unpacked(windows.series(by_hand, 0.0, 250.0, 5))
    assert lines["busy_gpus"].tolist() == pytest.approx([8.0, 8.0, (50 * 4 + 30 * 2) / 50, 4.0, 8.0])
    assert lines["queued_jobs"].tolist() == pytest.approx([(40 + 30) / 50, 2.0, 1.0, 1.0, 0.0])
    bars = unpacked(windows.picture(by_hand, 0.0, 250.0, 5))
    assert bars["mode"] == "bars" and len(bars["start"]) == 5 and bars["names"]["3"] == "d"
    monkeypatch.setattr(windows, "MOST_BARS", 0)
    full = unpacked(windows.picture(by_hand, 0.0, 250.0, 5))
    shares = [1, 1, 0.3, 0, 1, *[1] * 5]
    assert full["rows"] == 2 and full["share"].tolist() == pytest.approx([255 * x for x in shares], abs=0.51)
    (share,) = unpacked(windows.picture(by_hand, 60.0, 130.0, 1, (0, 1)))["share"]
    assert share == pytest.approx(255 * (160 + 60) / 280, abs=0.51)


def test_a_simulation_is_shown_as_the_simulator_counted_it(tmp_path):
    """The page would contradict the run's own timeline and waits."""
    rng = np.random.default_rng(3)
    columns = {"submit_s": np.sort(rng.uniform(0, 4000, 200)), "duration_s": rng.exponential(400, 200) + 1, "num_gpus": rng.choice([1, 2, 4, 8], 200)}  # fmt: skip
    result = rltune.simulate(rltune.JobTable.from_columns(columns), "uniform", policy="las", runtimes="unknown")
    seen, step = only(written(tmp_path / "run", result)), 100.0
    timeline = result.timeline(step)
    edges = np.append(timeline.time_s, timeline.time_s.iloc[-1] + step)
    for name in ("busy_gpus", "queued_jobs", "queued_gpus"):
        np.testing.assert_allclose(seen.series[name].means(edges)[:-1], timeline[name][:-1], atol=1e-6)
    np.testing.assert_allclose(seen.wait_s, result.wait_s, atol=1e-6)
    assert seen.bars.height.sum() > 0
    for node in range(len(seen.nodes)):
        own = seen.bars.node == node
        for at in rng.uniform(0, 5000, 20):
            now = own & (seen.bars.start_s <= at) & (at < seen.bars.end_s)
            order = np.argsort(seen.bars.top[now])
            tops, ends = seen.bars.top[now][order], (seen.bars.top + seen.bars.height)[now][order]
            assert (tops[1:] >= ends[:-1] - 1e-9).all() and (ends <= seen.nodes[node]["gpus"]).all()


def test_shares_and_slices_lie_beside_each_other():
    """A node would be drawn with one job over another."""
    assert free_segments([(0.0, 0.5, 9.0)], 0.5, 2) == [(0.5, 0.5)]
    assert free_segments([(0.0, 0.75, 9.0)], 0.5, 2) == [(1.0, 0.5)]
    assert free_segments([(1.0, 1.0, 9.0)], 2.0, 4) == [(0.0, 1.0), (2.0, 1.0)]


def test_an_evaluation_shows_times_and_says_what_it_lacks(tmp_path):
    """Places would be made up that an evaluation does not keep."""
    loads = schedules_in(evaluated(tmp_path / "eval"))
    fifo, sjf = (load() for load in loads.values())
    assert (fifo.title, sjf.title, fifo.gpus_total, fifo.nodes) == ("fifo", "sjf", 1.0, [])
    assert moment(sjf, 5.0)["queue"]["rows"][0]["name"] == "x" and "nodes and GPUs" in fifo.missing[0]
    assert "room" not in why(sjf, 0) and why(sjf, 0)["holders"][0]["name"] == "y"


def test_a_mig_batch_is_shown_slice_by_slice(tmp_path):
    """Tasks would be drawn over slices that they did not have."""
    seen = only(planned(tmp_path / "mig"))
    assert seen.nodes == [{"name": "GPU 0 (A30)", "pool": 0, "gpus": 4, "type": "A30"}]
    state = moment(seen, 3.0)
    assert state["bars"]["top"] == [0.0, 1.0] and len(state["outlines"]) == 2
    assert [row["name"] for row in state["queue"]["rows"]] == ["t2"] and seen.outlines[-1]["end"] == 9.0


def test_what_cannot_be_shown_is_refused_in_one_line(capsys, tmp_path):
    """A typing error, or a port that is taken, would end in a traceback."""
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "no such run directory" in (told := capsys.readouterr().err) and told.count("\n") == 1
    run = str(simulated(tmp_path / "run"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main([run, "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot listen there" in (told := capsys.readouterr().err) and told.count("\n") == 1
    assert main([run, "--port", "70000"]) == 2 and "cannot listen there" in capsys.readouterr().err


def test_what_is_no_schedule_is_refused(tmp_path):
    """A broken run would show an empty page."""
    run = simulated(tmp_path / "run")
    (run / "runs.parquet").write_bytes(b"no table")
    with pytest.raises(InputError, match="cannot be read"):
        only(run)
    (run / "summary.json").write_text('{"command": "compare"}')
    with pytest.raises(InputError, match="compare leaves no schedule"):
        schedules_in(run)
    (run / "summary.json").write_text("[")
    with pytest.raises(InputError, match="cannot be read"):
        schedules_in(run)


def test_two_runs_of_one_name_are_told_apart(tmp_path):
    """One of them could not be chosen."""
    runs = [simulated(tmp_path / folder / "run") for folder in ("one", "two")]
    assert list(all_of(runs)) == ["run", f"{runs[1]}: run"]
