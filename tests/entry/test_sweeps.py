"""Multiruns: a folder with a table, members that are finished, cut off or new, and what is refused."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from entry_cases import Command, Told

from rltune.experiment.sweep_table import conclude_policies
from rltune.experiment.sweeping import Sweep, member_name
from rltune.nouns.errors import InputError, Interrupted

JOBS = ("+trace=synthetic", "trace.jobs=100", "trace.arrivals_per_h=600", "nodes=4", "progress=false")


@pytest.fixture
def sweep(command: Command) -> Callable[..., Told]:
    """``sweep("policy=fifo,sjf")`` -> (exit status, standard output, standard error), into the folder `s`."""
    return partial(command, "simulate", "-m", *JOBS, "sweep=s")


def inode(member: str) -> int:
    return os.stat(Path("s") / member / "summary.json").st_ino


def test_a_sweep_ends_with_one_table_and_goes_on_where_it_was(sweep: Callable[..., Told]) -> None:
    """Members would be run twice, or a user would have to look into every directory for the result."""
    status, out, err = sweep("policy=fifo,sjf", "backfill=skip,easy")
    assert status == 0, err
    assert out.splitlines()[-1] == "s"
    found = json.loads(Path("s/sweep.json").read_text())
    members = [f"policy-{p}_backfill-{b}" for p in ("fifo", "sjf") for b in ("easy", "skip")]
    assert [Path(row["run"]).name for row in found["rows"]] == members
    assert found["differing"] == ["policy", "backfill"]
    assert found["rows"][0]["options"] == {"policy": "fifo", "backfill": "easy"}
    assert "| policy | backfill | mean wait s (finished) |" in Path("s/sweep.md").read_text()
    assert Path("s/sweep.png").stat().st_size > 1000
    before = [inode(member) for member in members]
    shutil.rmtree(Path("s") / members[2])
    # Killed before it had anything to go on from.
    (Path("s") / f".{members[2]}.7-0123abcd.partial").mkdir()
    status, out, err = sweep("policy=fifo,sjf,f1", "backfill=skip,easy")
    assert status == 0, err
    assert err.count("finished already, skipped") == 3 and f"{members[2]}: was cut off before a checkpoint" in err
    assert "was left by a run" not in err and not list(Path("s").glob(".*.partial"))
    assert len(json.loads(Path("s/sweep.json").read_text())["rows"]) == 6
    assert [inode(member) for member in members if member != members[2]] == [before[k] for k in (0, 1, 3)]


def test_a_member_of_other_options_is_not_taken_for_this_one(sweep: Callable[..., Told]) -> None:
    """The table of a sweep with trace.jobs=50 would show what 100 jobs gave."""
    assert sweep("policy=fifo,sjf")[0] == 0
    status, _, err = sweep("policy=fifo,sjf", "limit=50")
    assert status == 2
    assert (
        "error: s/policy-fifo: this member of the sweep is finished with limit=None, not 50; choose another folder"
        in err
    )


def test_a_member_that_fails_does_not_stop_the_others(sweep: Callable[..., Told]) -> None:
    """One bad combination of many would cost the table of all the good ones."""
    status, _, err = sweep("runtimes=unknown,exact", "policy=sjf")
    assert status == 2 and "error: policy sjf needs run times" in err
    assert "note: not all members are finished; go on with: python -m rltune.simulate -m" in err and "sweep=s" in err
    assert [row["options"] for row in json.loads(Path("s/sweep.json").read_text())["rows"]] == [{"runtimes": "exact"}]


@pytest.mark.thorough
def test_traces_side_by_side_are_compared_each_with_its_own(command: Command) -> None:
    """A sweep over traces would end in a refusal, or jobs of one log be paired with those of another."""
    words = ("trace=synthetic,philly_calibrated", "trace.jobs=60", "policy=fifo,sjf", "progress=false", "sweep=s")
    status, _, err = command("simulate", "-m", *words)
    assert status == 0, err
    found = json.loads(Path("s/sweep.json").read_text())
    pairs = {(Path(each["run"]).name, Path(each["against"]).name) for each in found["comparisons"]}
    assert pairs == {(f"trace-{t}_policy-sjf", f"trace-{t}_policy-fifo") for t in ("synthetic", "philly_calibrated")}


REFUSED = {
    "a name for all": (["-m", "policy=fifo,sjf", "name=x"], "name=x is of one run; members of a multirun"),
    "a folder without -m": (["policy=fifo", "sweep=s"], "sweep=s is the folder of a multirun; add -m"),
    "a folder of something else": (
        ["-m", "policy=fifo,sjf", "sweep=other"],
        "sweep=other holds other things and no sweep.yaml",
    ),
    "a folder of another command": (["-m", "policy=fifo,sjf", "sweep=trained"], "sweep=trained is of another command"),
    "a search without its package": (["-m", "policy=fifo,sjf", "hydra/sweeper=optuna"], "pip install 'rltune[optuna]'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_sweep_refuses(case: str, command: Command, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistyped folder would be filled with runs, or an option that cannot be be passed over."""
    monkeypatch.setattr("rltune.entry.find_spec", lambda name: None)
    (here / "other").mkdir()
    (here / "other" / "file").touch()
    (here / "trained").mkdir()
    (here / "trained" / "sweep.yaml").write_text("module: rltune.train\n")
    words, said = REFUSED[case]
    status, out, err = command("simulate", *JOBS, *words)
    assert (status, out) == (2, "") and said in err and len(err.splitlines()) == 1, err


# --- a member, without the work -----------------------------------------------------------

MEMBER = {"trace": "helios", "algo.lr": "0.01", "seed": "0"}
NAMED = "trace-helios_lr-0.01_seed-0"


def test_names_of_members_are_plain_and_their_own() -> None:
    """Two members would share a directory, or one would need quotes wherever it is named."""
    assert member_name(MEMBER) == NAMED
    odd = [member_name({"path": value}) for value in ("a/b", "a_b", "a b", "x" * 300, "x" * 301, "é")]
    assert len(set(odd)) == len(odd) and all(name.isascii() and len(name) < 200 and "/" not in name for name in odd)


def ran(folder: Path, **more: Any) -> dict[str, Any]:
    """The options with which a member of a training sweep is run."""
    seen: list[dict[str, Any]] = []
    options = {"runs": "runs", "name": None, "sweep": None, "resume": None, "checkpoint": "p", "epochs": 3} | more
    Sweep("rltune.train", conclude_policies).member(lambda cfg: seen.append(cfg), options, MEMBER, folder)
    return seen[0] if seen else {}


def test_a_training_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    """A killed sweep would begin all its trainings anew."""
    assert (ran(tmp_path)["resume"], ran(tmp_path)["name"]) == (None, NAMED)
    hidden = tmp_path / f".{NAMED}.7-0123abcd.partial"
    (hidden / "checkpoint").mkdir(parents=True)
    (hidden / "checkpoint" / "epoch-00000002.safetensors").touch()
    cfg = ran(tmp_path)
    assert (cfg["resume"], cfg["checkpoint"], cfg["runs"]) == (str(tmp_path / NAMED), None, str(tmp_path))
    with open(hidden / "lock", "w"):
        held = os.open(hidden, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_SH)
        with pytest.raises(InputError, match="going on in another process"):
            ran(tmp_path)
        os.close(held)
    hidden.rename(tmp_path / NAMED)
    (tmp_path / NAMED / "summary.json").write_text("{}")
    (tmp_path / NAMED / "config.yaml").write_text(yaml.safe_dump(cfg))
    assert ran(tmp_path) == {}
    with pytest.raises(InputError, match="finished with epochs=3, not 4"):
        ran(tmp_path, epochs=4)
    (tmp_path / NAMED / "summary.json").unlink()
    with pytest.raises(InputError, match=r"it has no summary\.json, so it is no finished member; remove it"):
        ran(tmp_path)


def test_an_interrupted_sweep_says_how_to_go_on(tmp_path: Path) -> None:
    """Somebody whose job ran into its time limit would not know how to go on."""
    words = ["-m", "+trace=helios", "seed=0,1", "remove_partial=true"]
    with pytest.raises(Interrupted) as end, Sweep("rltune.train", conclude_policies).going(tmp_path / "s", words):
        raise KeyboardInterrupt
    line = f"go on with: python -m rltune.train -m +trace=helios seed=0,1 sweep={tmp_path / 's'}"
    assert line in end.value.told and end.value.status == 130


def policy_row(learned: bool, runtimes: str, wait: float, allocator: str = "best_fit") -> dict[str, Any]:
    return {"learned": learned, "runtimes": runtimes, "allocator": allocator, "wait_s": {"mean": wait}}


def test_the_table_of_trainings_compares_with_equal_knowledge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A policy that knows nothing of run times would be held against an oracle, or its gain be that over another row."""
    policies = {
        "learned-skip": policy_row(True, "unknown", 90.0), "sjf-skip-exact": policy_row(False, "exact", 50.0),
        "fifo-skip": policy_row(False, "unknown", 120.0), "smallest-skip": policy_row(False, "unknown", 100.0),
    }  # fmt: skip
    pairs = [
        {
            "policy": "learned-skip",
            "against": name,
            "metric": "wait_s",
            "reduction": gain,
            "ci95": [gain - 0.05, gain + 0.05],
        }
        for name, gain in (("fifo-skip", 0.25), ("smallest-skip", 0.1))
    ]
    trained = {"kept": "epoch 5", "steps": 900, "validation_score": -80.0, "baseline_score": -100.0}
    summary = {
        "trace": {"label": "t"},
        "runtime": {"wall_s": 1},
        "training": trained,
        "policies": policies,
        "comparisons": pairs,
    }
    for name, more in (("a", summary), ("b", {key: summary[key] for key in ("trace", "runtime", "training")})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(json.dumps(more))
        config = {"score": "wait", "allocator": {"name": "best_fit"}, "sweep": {"seed": name}}
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(config))
    conclude_policies(tmp_path, [tmp_path / "a", tmp_path / "b"])
    lines = (tmp_path / "sweep.md").read_text().splitlines()
    assert "| a | epoch 5 | 900 | +20.0% | wait_s | 90 | smallest-skip 100 | +10.0% [+5.0%, +15.0%] |" in lines
    assert "| b | epoch 5 | 900 | +20.0% | wait_s |  |  |  |" in lines
    assert (tmp_path / "sweep.png").is_file() and "smallest-skip" in capsys.readouterr().out
