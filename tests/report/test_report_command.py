"""``rltune report``: scenes that are run and kept, and pages of run directories that are there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from rltune.config.commands import Evaluate
from rltune.entry import check_all, composed_of, spelled
from rltune.experiment.scenes import Told, shipped_curves
from rltune.nouns.errors import InputError
from rltune.report_commands import running
from rltune.report_commands.main import main
from rltune.report_commands.scenes import Planned, planned

STAND_IN = """
import pathlib, sys, time
words = dict(word.split("=", 1) for word in sys.argv[1:])
folder = pathlib.Path(words["runs"]) / words["name"]
if words["do"] == "fail":
    sys.exit("error: it cannot be done")
if words["do"] == "hang":
    time.sleep(600)
folder.mkdir()
(folder / "summary.json").write_text("{}")
"""
"""An evaluation that takes no time, fails, or takes for ever."""


def stand_ins(monkeypatch: pytest.MonkeyPatch, *what: str) -> list[Planned]:
    monkeypatch.setattr(running, "EVALUATE", (sys.executable, "-c", STAND_IN))
    return [Planned(f"s{k}", (f"do={each}",), f"s{k}-0", Told(f"scene {k}")) for k, each in enumerate(what)]


def test_a_scene_that_fails_stops_no_other_and_what_is_finished_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bad scene would cost the whole report, or a finished one be run again."""
    scenes = stand_ins(monkeypatch, "run", "fail", "run")
    done: list[int] = []
    failed = running.run_scenes(scenes, tmp_path, 2, lambda n, text: done.append(n))
    assert [line.split(";")[0] for line in failed] == ["scene 1: failed (it cannot be done)"] and sum(done) == 3
    stamps = {scene.name: (tmp_path / scene.directory / "summary.json").stat().st_mtime_ns for scene in scenes[::2]}
    running.run_scenes(scenes, tmp_path, 2, lambda n, text: None)
    assert stamps == {
        scene.name: (tmp_path / scene.directory / "summary.json").stat().st_mtime_ns for scene in scenes[::2]
    }


def test_an_interrupt_ends_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations would go on in the background after Ctrl-C."""
    started: list[running.Running] = []
    scenes = stand_ins(monkeypatch, "hang", "hang")

    def update(n: int, text: str) -> None:
        if "s1" in text:
            raise KeyboardInterrupt

    begin = running._start
    monkeypatch.setattr(running, "_start", lambda *given: started.append(begin(*given)) or started[-1])
    with pytest.raises(KeyboardInterrupt):
        running.run_scenes(scenes, tmp_path, 2, update)
    assert len(started) == 2 and all(each.process.returncode is not None for each in started)


@pytest.mark.parametrize("full", [False, True], ids=["quick", "full"])
def test_every_scene_is_a_command_that_there_is(full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make eval` would run for minutes and then refuse an option."""
    monkeypatch.setenv("RLTUNE_TRACES", str(tmp_path))
    scenes, left_out = planned(full)
    assert {scene.name for scene in scenes} >= {
        "helios_month",
        "helios_windows",
        "mixed_mig",
        "philly",
        "alibaba",
        "synthetic",
    }
    assert len(left_out) == 1 and "published protocol" in left_out[0]
    assert "+trace=philly_calibrated" in next(scene for scene in scenes if scene.name == "philly").words
    for scene in scenes:
        check_all(Evaluate, composed_of(Evaluate, [spelled(word, Evaluate) for word in scene.words]))
    with pytest.raises(InputError, match="--only nothing: no such scene"):
        planned(full, ["nothing"])


def test_learning_curves_of_the_shipped_models() -> None:
    """A model's curve would be another's, or what was kept not be marked."""
    curves, why = shipped_curves()
    found = {curve.name: curve for curve in curves}
    assert why == "" and set(found) == {"helios", "helios_85", "helios_window", "rltune_helios", "mig_batch"}
    window = found["helios_window"]
    assert window.kept == {"helios_window": 35, "helios_window_s1": 30, "helios_window_s2": 85}
    assert window.baseline == pytest.approx(964.594, abs=1e-3) and found["helios"].kept == {
        "helios": None,
        "helios_s1": None,
    }
    kept = window.seeds["helios_window"].set_index("epoch").value
    assert kept[35] == pytest.approx(881.921, abs=1e-3) and kept[35] < window.baseline


JOBS = "\n".join(
    [
        "job_id,submit_s,duration_s,num_gpus,vc",
        *(f"j{k},{k * 20},{k % 7 * 300 + 5},{k % 3 + 1},<b>{k % 2}</b>" for k in range(160)),
    ]
)


@pytest.mark.slow
def test_a_page_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The page of one's own runs would fail, leave a row out, or show other figures than their summaries."""
    import subprocess

    monkeypatch.chdir(tmp_path)
    Path("jobs.csv").write_text(JOBS)
    for words in (
        [
            "evaluate",
            "protocol=month",
            "policy=[fifo,sjf,las]",
            "backfill=skip",
            "nodes=1",
            "name=e",
            "cluster=uniform",
        ],
        *(
            ["simulate", f"policy={policy}", "backfill=skip", "nodes=1", f"name={policy}", "cluster=uniform"]
            for policy in ("fifo", "sjf")
        ),
    ):
        done = subprocess.run(
            [sys.executable, "-m", f"rltune.{words[0]}", "+trace=jobs.csv", *words[1:]], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert main(["runs/e", "runs/fifo", "runs/sjf", "--out", "page"]) == 0
    assert capsys.readouterr().out.strip() == "page/index.html"
    summary = json.loads(Path("runs/e/summary.json").read_text())
    numbers = pd.read_csv("page/tables/e_policies.csv").set_index("row")
    assert set(numbers.index) == set(summary["policies"])
    assert all(
        numbers.wait_s[row] == pytest.approx(found["wait_s"]["mean"]) for row, found in summary["policies"].items()
    )
    pairs = {pair["policy"]: pair for pair in summary["against_best"] if pair["metric"] == "wait_s"}
    assert all(
        numbers.gain_wait_s.get(row) == pytest.approx(pair["reduction"], nan_ok=True)
        for row, pair in pairs.items()
        if pair["reduction"] is not None
    )
    assert set(pd.read_csv("page/tables/fifo_policies.csv")["row"]) == {"fifo", "sjf"}
    text = Path("page/index.html").read_text()
    assert "&lt;b&gt;1&lt;/b&gt;" in text and "<b>" not in text
    Path("page/index.html").write_text("mine")
    assert main(["runs/e", "--out", "page"]) == 2 and "is no report of ours" in capsys.readouterr().err
