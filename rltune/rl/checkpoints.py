"""The checkpoints of a training: one file each, whole or not there, the last two kept. No Ray here."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any, NamedTuple

from rltune.nouns.errors import InputError
from rltune.rl.state_file import Packed, pack, read_state, write_state

KEPT = 2
"""The newest, and the one before should the newest turn out to be damaged."""
NAME = re.compile(r"epoch-(\d+)\.safetensors")


class Checkpoint(NamedTuple):
    """What was read: after how many epochs, the state, and remarks on newer ones that are damaged."""

    epoch: int
    state: Any
    remarks: list[str]


class Checkpoints:
    """Takes the state at the end of every epoch, and puts it on disk every ``every`` epochs and when asked to.

    Attributes:
        saved: epochs after which the newest on disk was taken; None: there is none.
    """

    def __init__(self, folder: Path, every: int, saved: int | None = None) -> None:
        """``saved``: in a folder that is gone on with, the checkpoint that was read; newer ones, damaged, are removed."""
        self.folder, self.every, self.saved = folder, every, saved
        self._taken: tuple[int, Packed] | None = None
        damaged = [path for epoch, path in _files(folder) if saved is None or epoch > saved]
        for left in (*folder.glob(".*.partial"), *damaged):
            with contextlib.suppress(OSError):
                left.unlink()

    @property
    def begun(self) -> bool:
        """Whether there is anything to keep, on disk or not."""
        return self.saved is not None or self._taken is not None

    def take(self, epoch: int, state: Any) -> None:
        """Remember a copy of ``state``. Raises InputError where it is due and the disk refuses."""
        self._taken = (epoch, pack(state))
        if epoch % self.every == 0:
            self.save()

    def save(self) -> None:
        """Put what was taken last on disk, unless it is there. Raises InputError where the disk refuses."""
        if self._taken is None or self._taken[0] == self.saved:
            return
        epoch, packed = self._taken
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{self.folder}: cannot be made ({error.strerror}); choose another folder (runs=...)"
            ) from None
        write_state(self.folder / f"epoch-{epoch:08d}.safetensors", packed)
        self.saved = epoch
        for _, older in _files(self.folder)[KEPT:]:
            with contextlib.suppress(OSError):
                older.unlink()


def newest(folder: Path) -> Checkpoint | None:
    """The newest that is whole; None where there is no file at all.

    Raises InputError where all are damaged, and for those of earlier versions.
    """
    remarks: list[str] = []
    for epoch, path in _files(folder):
        try:
            return Checkpoint(epoch, read_state(path), remarks)
        except (ValueError, OSError) as error:
            remarks.append(f"{path} is damaged ({error}); the one before is taken")
    if remarks:
        raise InputError(f"{folder}: no checkpoint is whole ({len(remarks)} damaged); train again")
    if any(folder.glob("*.pkl")) or (folder / "rllib_checkpoint.json").exists():
        raise InputError(
            f"{folder} is of an earlier version and holds pickles, which run code when they are read; "
            f"fine-tune its policy instead: checkpoint={folder.parent}"
        )
    return None


def _files(folder: Path) -> list[tuple[int, Path]]:
    """(epoch, file) of each, the newest first."""
    found = [(NAME.fullmatch(path.name), path) for path in folder.glob("epoch-*")]
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)
