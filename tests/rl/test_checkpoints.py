"""Checkpoints: whole or not there, nothing in them runs, and the way from one run to the next."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rltune.experiment.resuming import FORMAT, Signals, command, earlier_run, resumable
from rltune.nouns.errors import InputError, Interrupted, RunError
from rltune.rl.checkpoints import Checkpoints, newest
from rltune.rl.state_file import pack, read_state, write_state
from rltune.rundir import CHECKPOINT, RunDirectory

TREE = {
    "weights": {"a": np.arange(6.0).reshape(2, 3), "none": None, "t": torch.arange(3)},
    "numbers": [1, -(2**127), 0.1, float("nan"), float("-inf"), True, np.float32(2.5), np.int64(7)],
    "empty": [np.zeros((0, 4), np.uint32), [], (), {}],
    (1, "key"): ("text", b"".decode()),
    7: np.array(3),
}


def saved(folder: Path, *epochs: int) -> Path:
    """A folder with checkpoints after these epochs, each holding its number."""
    checkpoints = Checkpoints(folder, every=1)
    for epoch in epochs:
        checkpoints.take(epoch, {"format": FORMAT, "epoch": epoch})
    return folder


def same(one: Any, two: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(two) and len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, np.ndarray | torch.Tensor):
        return one.dtype == two.dtype and one.shape == two.shape and bool((one == two).all())
    return type(one) is type(two) and (one == two or one != one)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    """A counter that comes back as another kind, or a NaN as a text, would make a resumed training another one."""
    write_state(tmp_path / "x", pack(TREE))
    assert same(read_state(tmp_path / "x"), TREE)


def test_a_copy_is_taken(tmp_path: Path) -> None:
    """What is saved at a signal would be half of the epoch that was cut off."""
    array = np.zeros(3)
    packed = pack({"a": array})
    array[:] = 1
    write_state(tmp_path / "x", packed)
    assert (read_state(tmp_path / "x")["a"] == 0).all()


@pytest.mark.parametrize(
    "bad", [object(), {"a": [np.array([None])]}, {1, 2}, b"raw"], ids=lambda bad: type(bad).__name__
)
def test_what_is_not_plain_is_refused_when_it_is_written(bad: Any) -> None:
    """It would need code to be read again."""
    with pytest.raises(TypeError, match="is no plain value"):
        pack({"x": bad})


def test_every_damage_is_told(tmp_path: Path) -> None:
    """A checkpoint cut short by a power cut, or with one bit changed, would be trained on from."""
    write_state(tmp_path / "x", pack(TREE))
    data = (tmp_path / "x").read_bytes()
    rng = np.random.default_rng(0)
    cases = [data[:k] for k in range(0, len(data), 7)] + [data + b"\0"]
    for at in rng.integers(len(data), size=300):
        changed = bytearray(data)
        changed[at] ^= 1 << int(rng.integers(8))
        cases.append(bytes(changed))
    for case in cases:
        (tmp_path / "y").write_bytes(case)
        try:
            # A bit in the padding of the header, or in a name that nothing reads, changes nothing.
            assert same(read_state(tmp_path / "y"), TREE)
        except ValueError as error:
            assert "\n" not in str(error)


def test_the_one_before_a_damaged_one_is_taken(tmp_path: Path) -> None:
    """A run would be lost whole by a power cut in the wrong moment."""
    folder = saved(tmp_path / "c", 1, 2, 3)
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["epoch-00000002.safetensors", "epoch-00000003.safetensors"]
    (folder / files[1]).write_bytes((folder / files[1]).read_bytes()[:-9])
    found = newest(folder)
    assert found is not None and found.epoch == found.state["epoch"] == 2
    assert len(found.remarks) == 1 and "is damaged" in found.remarks[0]
    # The damaged one must not count among the two that are kept.
    again = Checkpoints(folder, every=1, saved=2)
    again.take(3, {"epoch": 3})
    assert [path.name for path in sorted(folder.iterdir())] == files
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match="no checkpoint is whole"):
        newest(folder)


def test_a_disk_that_is_full_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The good checkpoint would be overwritten by half of the next."""
    folder = saved(tmp_path / "c", 1)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    checkpoints = Checkpoints(folder, every=1, saved=1)
    with pytest.raises(InputError, match="No space left on device"):
        checkpoints.take(2, {"epoch": 2})
    assert [path.name for path in folder.iterdir()] == ["epoch-00000001.safetensors"]
    assert checkpoints.saved == 1


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut an empty file would stand in the place of the checkpoint."""
    done: list[str] = []
    for name in ("fsync", "replace"):
        call: Callable[..., Any] = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, call=call: (done.append(name), call(*args))[1])
    write_state(tmp_path / "x", pack({}))
    assert done == ["fsync", "replace", "fsync"]


class Mine:
    """A pickle that would make a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("cut", [None, 5])
def test_pickles_are_never_read(tmp_path: Path, cut: int | None) -> None:
    """`resume=` of somebody else's run would run their code; a truncated one would be a stack trace."""
    folder = tmp_path / "run" / CHECKPOINT
    folder.mkdir(parents=True)
    (folder / "algorithm_state.pkl").write_bytes(pickle.dumps(Mine(tmp_path / "ran"))[:cut])
    with pytest.raises(InputError, match="holds pickles, which run code when they are read") as told:
        earlier_run(str(tmp_path / "run"))
    assert f"checkpoint={tmp_path / 'run'}" in str(told.value) and "\n" not in str(told.value)
    (folder / "epoch-00000001.safetensors").write_bytes(pickle.dumps(Mine(tmp_path / "ran"))[:cut])
    with pytest.raises(InputError, match="no checkpoint is whole"):
        earlier_run(str(tmp_path / "run"))
    assert not (tmp_path / "ran").exists()


def test_a_run_that_was_cut_off_is_found_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A user would have to know that it is hidden, and which of several attempts got furthest."""
    for epochs in ((), (1, 2), (1,)):
        with pytest.raises(RuntimeError), RunDirectory(tmp_path, "mine") as run:
            run.hold()
            saved(run.file(CHECKPOINT), *epochs) if epochs else None
            raise RuntimeError
    found = earlier_run(str(tmp_path / "mine"))
    assert (found.name, found.finished, found.state["epoch"]) == ("mine", False, 2)
    assert earlier_run(str(found.path)).path == found.path
    capsys.readouterr()
    with RunDirectory(tmp_path, found.name, adopt=found.path) as run:
        told = capsys.readouterr().err
        assert str(found.path) not in told and f"resume={tmp_path / 'mine'} goes on with it" in told
        with pytest.raises(InputError, match="this run is going on"), RunDirectory(tmp_path, "x", adopt=found.path):
            pass
    assert run.final == tmp_path / "mine" and earlier_run(str(run.final)).finished
    assert not found.path.exists()


def test_a_run_without_a_checkpoint_is_begun_anew(tmp_path: Path) -> None:
    """The advice would be to look for a folder that was never made."""
    with pytest.raises(RuntimeError), RunDirectory(tmp_path, "mine") as run:
        run.hold()
        raise RuntimeError
    with pytest.raises(InputError, match="before its first checkpoint: start it anew"):
        earlier_run(str(tmp_path / "mine"))
    with pytest.raises(InputError, match="no training run directory"):
        earlier_run(str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("error", "kind", "status", "said"),
    [
        (
            Interrupted(signal.SIGTERM),
            Interrupted,
            143,
            r"interrupted \(SIGTERM\); epochs up to 2 are kept; go on with: ",
        ),
        (KeyboardInterrupt(), Interrupted, 130, r"interrupted \(SIGINT\); epochs up to 2 are kept"),
        (RunError("no steps"), RunError, 1, "no steps; epochs up to 2 are kept"),
        (InputError("disk: full"), RunError, 1, "disk: full; epochs up to 2 are kept"),
        (OSError(28, "No space left"), RunError, 1, "No space left; epochs up to 2 are kept"),
        (ZeroDivisionError("bug"), ZeroDivisionError, None, "bug"),
    ],
    ids=["SIGTERM", "Ctrl-C", "no steps", "refused", "full", "bug"],
)
def test_whatever_ends_a_training_leaves_what_it_has(
    tmp_path: Path, error: BaseException, kind: type[BaseException], status: int | None, said: str
) -> None:
    """At a time limit of Slurm, or when a library fails, the epochs since the last checkpoint would be lost."""
    words = ["+trace=x", "runs=a b", "+checkpoint=old", "resume=old"]
    with pytest.raises(kind, match=said) as told, RunDirectory(tmp_path, "mine") as run:
        checkpoints = Checkpoints(run.file(CHECKPOINT), every=100)
        with resumable(run, checkpoints, "rltune.train", words):
            checkpoints.take(1, {"format": FORMAT, "epoch": 1})
            checkpoints.take(2, {"format": FORMAT, "epoch": 2})
            raise error
    assert getattr(told.value, "status", None) == status
    if status is not None:
        assert str(told.value).endswith(f"python -m rltune.train +trace=x 'runs=a b' resume={tmp_path / 'mine'}")
    assert earlier_run(str(tmp_path / "mine")).state["epoch"] == 2


def test_a_full_disk_at_a_signal_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line would say that epochs are kept which are not."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match=r"No space left on device\); .*epochs up to 1 are kept") as told:  # noqa: SIM117
        with RunDirectory(tmp_path, "mine") as run:
            checkpoints = Checkpoints(run.file(CHECKPOINT), every=1)
            with resumable(run, checkpoints, "rltune.train", []):
                checkpoints.take(1, {"format": FORMAT, "epoch": 1})
                checkpoints.every = 100
                checkpoints.take(2, {"format": FORMAT, "epoch": 2})
                monkeypatch.setattr(os, "fsync", full)
                raise Interrupted(signal.SIGTERM)
    assert told.value.status == 1


def test_before_the_first_epoch_nothing_is_kept(tmp_path: Path) -> None:
    """A wrong option would leave an empty run, and end with another status than elsewhere."""
    with (
        pytest.raises(InputError, match="bad") as told,
        RunDirectory(tmp_path, "mine") as run,
        resumable(run, Checkpoints(run.file(CHECKPOINT), every=1), "rltune.train", []),
    ):
        raise InputError("bad")
    assert told.value.status == 2 and os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_come_once_and_are_not_lost(number: signal.Signals) -> None:
    """A second Ctrl-C would cut the saving off; one that a destructor swallows would be forgotten."""
    before = signal.getsignal(number)
    with Signals() as signals:
        signal.signal(number, signal.SIG_DFL)  # as Ray does
        signals.again()
        with pytest.raises(Interrupted) as told:
            signal.raise_signal(number)
        assert told.value.status == 128 + number
        signal.raise_signal(number)
        with pytest.raises(Interrupted):
            signals.check()
    assert signal.getsignal(number) == before


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    """A training in the background (`nohup`, `&`) would end with a Ctrl-C that was meant for another."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Signals() as signals:
            signal.raise_signal(signal.SIGINT)
            # Would raise, had it been taken as a wish to stop.
            signals.check()
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_command_that_goes_on_can_be_typed() -> None:
    """A path with a blank would be two words in the shell."""
    assert command("m", ["a=b c"], Path("r/x y")) == "python -m m 'a=b c' 'resume=r/x y'"
