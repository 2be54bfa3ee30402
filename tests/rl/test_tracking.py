"""Figures of a training while it goes on: event files, and trackers that are not always installed."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from rltune.nouns.errors import InputError
from rltune.report.tracking import TENSORBOARD, check_tracking, tracking
from rltune.rl.training import learner_figures

ROWS = [{"epoch": 1, "steps": 128, "validation_score": -9.0, "train_return": None}]


def read_events(folder: Path) -> Iterator[Event]:
    """Every event of the files of a folder: a length, its checksum, the event, its checksum."""
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack("<Q", data[at : at + 8])
            yield Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    """(name, epoch) -> value, as TensorBoard shows them: a start of a session hides what came later before."""
    shown: dict[tuple[str, int], float] = {}
    for event in read_events(folder):
        if event.HasField("session_log"):
            shown = {key: value for key, value in shown.items() if key[1] < event.step}
        shown |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    return shown


def test_event_files_hold_every_epoch(tmp_path: Path) -> None:
    """TensorBoard would show nothing, or an epoch twice, or lose those before a training was cut off."""
    with tracking(tmp_path, "run", [], {}, ROWS) as log:
        log(2, {"epoch": 2, "steps": 256, "learner/entropy": 0.5})
        log(3, {"steps": 300})
    assert scalars(tmp_path / TENSORBOARD) == {
        ("steps", 1): 128, ("validation_score", 1): -9, ("steps", 2): 256, ("learner/entropy", 2): 0.5, ("steps", 3): 300,
    }  # fmt: skip
    # Killed, and gone on with from the checkpoint after epoch 2.
    (first,) = (tmp_path / TENSORBOARD).iterdir()
    first.rename(first.with_name("a"))
    with tracking(tmp_path, "run", [], {}, [*ROWS, {"epoch": 2}]) as log:
        log(3, {"steps": 384})
    found = scalars(tmp_path / TENSORBOARD)
    assert (found["steps", 3], found["steps", 2], found["validation_score", 1]) == (384, 256, -9)


def test_losses_of_the_learner_are_single_finite_numbers() -> None:
    """A figure that is an array, or no number, would end a training."""
    told = {"entropy": 0.5, "policy_loss": float("nan"), "weights": [1, 2], "note": "x", "lr": 1}
    assert learner_figures({"learners": {"default_policy": told}}) == {"learner/entropy": 0.5, "learner/lr": 1.0}
    assert learner_figures({}) == {}


def test_unknown_and_missing_trackers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training would end after its first epoch for a package that is not there."""
    monkeypatch.setattr("rltune.report.tracking.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"track='comet' is unknown; known are wandb, mlflow"):
        check_tracking("comet")
    for name in ("wandb", "mlflow"):
        with pytest.raises(InputError, match=rf"track={name} needs the package {name}: pip install 'rltune\[{name}\]'"):
            check_tracking([name])
    assert check_tracking(None) == []


def test_wandb_gets_every_epoch_and_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves would be missing there, or the run be shown as going on for ever after an error."""
    seen: list[Any] = []
    run = SimpleNamespace(log=lambda figures, step: seen.append((step, figures)), finish=lambda: seen.append("end"))
    stand_in = SimpleNamespace(Settings=lambda **_: None, init=lambda **given: seen.append(given["config"]) or run)
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    with pytest.raises(KeyboardInterrupt), tracking(tmp_path, "run", ["wandb"], {"seed": 1}, []) as log:
        log(1, {"steps": 128})
        raise KeyboardInterrupt
    assert seen == [{"seed": 1}, (1, {"steps": 128}), "end"]
    monkeypatch.setattr(stand_in, "init", lambda **_: 1 / 0)
    with pytest.raises(InputError, match="WANDB_MODE=offline"), tracking(tmp_path, "run", ["wandb"], {}, []):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_the_real_ones_offline(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options of theirs may have changed: a training with track= would end at once."""
    pytest.importorskip(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with tracking(tmp_path, "run", [name], {"seed": 1, "algo": {"lr": 0.001}}, ROWS) as log:
        log(2, {"steps": 256})
    if name == "wandb":
        assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
        return
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("rltune").experiment_id])
    assert run.data.params["algo.lr"] == "0.001"
    assert [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, "steps")] == [
        (1, 128),
        (2, 256),
    ]
