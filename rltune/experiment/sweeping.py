"""Multiruns: the folder of a sweep, members that are finished, cut off or new, and one table and figure of all.

A member's directory is named by its own options, so the same command with ``sweep=`` its folder finds what is there: finished
members are skipped, cut-off trainings go on from their checkpoints, whoever ran them.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from rltune.experiment.comparison import flat
from rltune.nouns.documents import read_yaml
from rltune.nouns.errors import InputError, Interrupted
from rltune.nouns.leftovers import is_left, whole_file
from rltune.report.console import say
from rltune.rundir import CHECKPOINT, MARK_OF_SWEEP, cut_off, name_of, remove_left_behind

Words = Sequence[str]
Pairs = Mapping[str, str]
FREE = ("name", "runs", "sweep", "remove_partial", "progress", "resume", "checkpoint_every", "track")
"""Options that may differ from those of a member that is finished already."""
LONGEST = 120
"""Characters of a member's name; longer ones end in a hash."""


@dataclass(frozen=True)
class Sweep:
    """What a command does as a multirun.

    ``module``: as it is typed, e.g. ``rltune.train``; ``conclude`` writes table and figure of the finished members into their
    folder; ``objective``: what a search optimises, of a finished member's directory, in the ``direction`` it is to go.
    """

    module: str
    conclude: Callable[[Path, Sequence[Path]], None]
    objective: Callable[[Path], float] | None = None
    direction: str = "minimize"

    def folder(self, runs: str, sweep: str | None) -> Path:
        """Of a sweep: the one named, or a new one in ``runs``."""
        return (
            Path(sweep)
            if sweep
            else Path(runs) / f"sweep-{self.module.rpartition('.')[2]}-{datetime.now():%m%d-%H%M%S}"
        )

    @contextmanager
    def going(self, folder: Path, words: Words) -> Iterator[None]:
        """Around all members: the folder is made or found; at the end the finished stand in a table, also if some failed.

        Raises InputError for a folder of something else, and whatever ended the sweep.
        """
        self._open(folder, words)
        try:
            yield
        except (KeyboardInterrupt, SystemExit) as error:
            number = error.signal if isinstance(error, Interrupted) else signal.SIGINT
            raise Interrupted(
                number, f"interrupted ({signal.Signals(number).name}); {self._go_on(folder, words)}"
            ) from None
        except Exception:
            self._end(folder)
            say(f"note: not all members are finished; {self._go_on(folder, words)}")
            raise
        self._end(folder)
        print(folder, flush=True)

    def member(
        self, task: Callable[[dict[str, Any]], str | None], cfg: dict[str, Any], pairs: Pairs, folder: Path
    ) -> Path:
        """Run a member, or what is left of it to run; its directory.

        ``pairs``: the options that set it apart. Raises InputError where it was finished with other options, or is going on in
        another process.
        """
        final = folder / member_name(pairs)
        cfg |= {"runs": str(folder), "name": final.name, "sweep": dict(pairs), "remove_partial": False}
        if (final / "summary.json").is_file():
            check_same(final, cfg)
            say(f"sweep     {final.name}: finished already, skipped")
            return final
        if final.exists():
            raise InputError(
                f"{final}: it has no summary.json, so it is no finished member; remove it, and it is run anew"
            )
        left = cut_off(final)
        if busy := [path for path in left if not is_left(path)]:
            raise InputError(f"{busy[0]}: this member of the sweep is going on in another process; wait for its end")
        if "resume" in cfg and any((path / CHECKPOINT).glob("epoch-*") for path in left[-1:]):
            # The run's own parent is in its checkpoint.
            cfg |= {"resume": str(final), "checkpoint": None}
            say(f"sweep     {final.name}: was cut off, goes on from its checkpoint")
        else:
            for path in left:
                say(f"sweep     {final.name}: was cut off before a checkpoint, begins anew")
                shutil.rmtree(path, ignore_errors=True)
        task(cfg)
        return final

    def _open(self, folder: Path, words: Words) -> None:
        mark = folder / MARK_OF_SWEEP
        if mark.is_file():
            found = read_yaml(mark, "the folder of a sweep").value
            if not isinstance(found, Mapping) or found.get("module") != self.module:
                raise InputError(f"sweep={folder} is of another command; choose another folder")
        elif folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"sweep={folder} holds other things and no {MARK_OF_SWEEP}; choose another folder")
        else:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with whole_file(mark) as partial:
                    partial.write_text(yaml.safe_dump({"module": self.module, "words": list(words)}, sort_keys=False))
            except OSError as error:
                raise InputError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from None
        if "remove_partial=true" in words:
            remove_left_behind(folder)

    def _end(self, folder: Path) -> None:
        finished = members(folder)
        if finished:
            self.conclude(folder, finished)
        for name in unfinished(folder):
            say(f"note: {folder / name} was cut off")

    def _go_on(self, folder: Path, words: Words) -> str:
        same = [word for word in words if word.lstrip("+~").partition("=")[0] not in ("sweep", "remove_partial")]
        return f"go on with: {shlex.join(['python', '-m', self.module, *same, f'sweep={folder}'])}"


def member_name(pairs: Pairs) -> str:
    """Name of a member's directory: ``trace-helios_score-bsld_seed-0``."""
    told = "_".join(f"{key.rpartition('.')[2]}-{value}" for key, value in pairs.items()) or "member"
    plain = re.sub(r"[^\w.+-]+", "_", told, flags=re.ASCII)
    if plain == told and len(plain) <= LONGEST:
        return plain
    return f"{plain[:LONGEST]}-{hashlib.sha256(repr(sorted(pairs.items())).encode()).hexdigest()[:8]}"


def members(folder: Path) -> list[Path]:
    """Directories of the finished members, by name, numbers in it by size."""
    found = (path.parent for path in folder.glob("*/summary.json") if not path.parent.name.startswith("."))
    return sorted(found, key=lambda path: re.sub(r"\d+", lambda digits: digits[0].zfill(LONGEST), path.name))


def unfinished(folder: Path) -> list[str]:
    """Names of members that were cut off."""
    hidden = {name_of(path) for path in folder.glob(".*.partial")}
    return sorted(name for name in hidden if name and not (folder / name / "summary.json").is_file())


def set_apart(path: Path) -> dict[str, str]:
    """The options that set a member apart from the others of its sweep."""
    found = read_yaml(path / "config.yaml", "a member of a sweep").value.get("sweep")
    return dict(found) if isinstance(found, Mapping) else {}


def check_same(final: Path, cfg: Mapping[str, Any]) -> None:
    """Refuse to take a finished member for one of other options."""
    had = read_yaml(final / "config.yaml", "a member of a sweep").value
    # A training that was gone on with has its parent's file no more.
    free = (*FREE, "checkpoint") if had.get("resume") else FREE
    before, now = (flat({k: v for k, v in each.items() if k not in free}) for each in (had, cfg))
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise InputError(
                f"{final}: this member of the sweep is finished with {name}={before.get(name)}, not {now.get(name)}; "
                "choose another folder (sweep=...), or remove this one"
            )
