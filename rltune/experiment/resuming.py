"""Trainings that are cut off and gone on with: signals, what is kept, and which run `resume=` means."""

from __future__ import annotations

import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from rltune.experiment.provenance import check_same, check_unseen
from rltune.experiment.setup import Experiment
from rltune.nouns.errors import InputError, Interrupted, RunError
from rltune.nouns.renamed import translated
from rltune.report.console import say
from rltune.rl.algorithm_state import restore
from rltune.rl.checkpoints import Checkpoints, newest
from rltune.rl.rules import Rules
from rltune.rundir import CHECKPOINT, RunDirectory, cut_off, name_of

Outcome = TypeVar("Outcome")
FORMAT = "rltune-checkpoint-1"
LEARNING = ("algo", "windows_per_epoch", "rounds_per_epoch", "validate_every", "validation_windows")
"""Options that may change on the way."""
NOT_AGAIN = ("resume", "checkpoint")
"""Options that the command which goes on does not repeat."""


@dataclass(frozen=True)
class Earlier:
    """A training to go on with: its directory, whether it came to its end, and what its newest whole checkpoint holds."""

    path: Path
    finished: bool
    state: dict[str, Any]

    @property
    def name(self) -> str:
        """Of the run, also where its directory is still hidden."""
        return name_of(self.path) or self.path.name

    @property
    def epochs(self) -> int:
        """That it has."""
        return len(self.state["outcome"]["curve"])

    def last(self, epochs: int) -> int:
        """Epoch to train to: ``epochs`` more of a finished run; one that was cut off goes on to the end it was to have."""
        last = int(self.epochs if self.finished else self.state["begun_at"]) + epochs
        if last < self.epochs:
            least = epochs + self.epochs - last
            raise InputError(f"resume: the run has {self.epochs} epochs already; give epochs={least} or more")
        return last


def earlier_run(resume: str, kind: str = FORMAT) -> Earlier:
    """The training that ``resume=`` names: its directory, the name it would have got, or its hidden directory.

    Raises InputError where there is none, where it has no whole checkpoint, or one of another ``kind`` or version.
    """
    path = Path(resume)
    if not path.is_dir():
        path = (cut_off(path) or [path])[-1]
    hidden = name_of(path) is not None
    found = newest(path / CHECKPOINT) if (path / CHECKPOINT).is_dir() else None
    if found is None:
        before = "; it was cut off before its first checkpoint: start it anew" if hidden and path.is_dir() else ""
        raise InputError(f"resume={resume} is no training run directory (no {CHECKPOINT}/ in it){before}")
    for remark in found.remarks:
        say(f"note: {remark}")
    form = found.state.get("format") if isinstance(found.state, dict) else None
    if form != kind:
        raise InputError(f"resume={resume}: its checkpoint is of format {form!r}, not {kind!r}; train again")
    return Earlier(path, not hidden, found.state)


def rules_of(earlier: Earlier) -> Rules:
    """Those it was trained under."""
    return Rules(**translated(earlier.state["rules"]))


def check_earlier(experiment: Experiment, earlier: Earlier, cfg: Mapping[str, Any]) -> None:
    """Refuse to go on under other rules than the run's own, or with a policy that has seen the test stretch.

    Options of learning may change; they are told.
    """
    origin, rules, network = earlier.state["origin"], rules_of(earlier), earlier.state["network"]
    for remark in check_unseen(experiment, origin):
        say(f"note: {remark}")
    check_same(experiment, origin, cfg["algo"]["name"])
    protocol = experiment.protocol
    given = {name: (cfg[name], getattr(rules, name)) for name in ("score", "backfill", "runtimes", "visible")}
    given["allocator"] = (experiment.allocator_name, rules.allocator)
    given["baseline"] = (cfg["baseline"] if cfg["baseline"] != "auto" else rules.baseline, rules.baseline)
    given |= {f"protocol.{name}": (protocol[name], getattr(rules, name)) for name in ("window", "warmup")}
    given["agent"] = (cfg["agent"], earlier.state.get("agent", "pick"))
    if given["agent"] == ("pick", "pick"):
        given |= {f"network.{name}": (value, network[name]) for name, value in cfg["network"].items()}
    elif given["agent"] == ("index", "index"):
        given |= {f"steering.{name}": (value, network[name]) for name, value in cfg["steering"].items()}
    given |= {"options": (experiment.options, rules.options), "seed": (int(cfg["seed"]), origin["seed"])}
    for name, (value, had) in given.items():
        if had != value:
            raise InputError(f"resume: the run was trained with {name}={had}, not {value}; add {name}={had}")
    before = earlier.state["options"]
    for name in LEARNING:
        old, new = (each[name] if isinstance(each[name], dict) else {"": each[name]} for each in (before, cfg))
        for key in sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key)):
            say(f"note: goes on with {f'{name}.{key}'.rstrip('.')}={new.get(key)}; it had {old.get(key)}")


def go_on(algorithm: Any, earlier: Earlier, outcome_of: Callable[[Any], Outcome]) -> tuple[Outcome, int]:
    """How things stood at the checkpoint, and after how many epochs that run began; random generators go on from here.

    ``algorithm``: of RLlib, as it is built anew, whose state is put back; ``outcome_of`` what was learned, of its tree.
    """
    state = earlier.state
    try:
        outcome = outcome_of(state["outcome"])
        begun_at = earlier.epochs if earlier.finished else int(state["begun_at"])
        whole = restore(algorithm, state["algorithm"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{earlier.path}: its checkpoint does not fit this version ({error}); train again") from None
    say(f"resumed   {earlier.path} after epoch {earlier.epochs}")
    if not whole:
        say("note: sampling has other options or workers now: its episodes begin anew")
    return outcome, begun_at


class Signals:
    """Within the block SIGTERM and Ctrl-C raise `Interrupted`, once; an ignored Ctrl-C (``nohup``, ``&``) stays ignored."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._got = 0

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.getsignal(number)
        self.again()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def again(self) -> None:
        """After what brings handlers of its own (Ray does)."""
        for number in self._before:
            signal.signal(number, self._come)

    def check(self) -> None:
        """Raise what came where an exception is lost (in a destructor, in a callback of a solver)."""
        if self._got:
            raise Interrupted(self._got)

    def _come(self, number: int, _: FrameType | None) -> None:
        first, self._got = not self._got, self._got or number
        if first:
            raise Interrupted(number)


@contextmanager
def resumable(run: RunDirectory, checkpoints: Checkpoints, module: str, words: Sequence[str]) -> Iterator[None]:
    """Whatever ends the block early, what has been taken is saved, and one line says how to go on.

    ``module`` and ``words``: the command that is run. Raises `Interrupted` for a signal and RunError for a disk that
    refuses or workers that died; any other error is raised as it is, behind the line.
    """
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        if not checkpoints.begun:
            raise
        why = " ".join(str(error).split())
        try:
            checkpoints.save()
        except InputError as refused:
            error, why = refused, str(refused)
        if checkpoints.saved is None:
            if isinstance(error, InputError | OSError):
                raise RunError(f"{why}; nothing of this run is kept") from None
            raise error from None
        run.hold()
        line = f"epochs up to {checkpoints.saved} are kept; go on with: {command(module, words, run.final)}"
        if isinstance(error, KeyboardInterrupt):
            number = error.signal if isinstance(error, Interrupted) else signal.SIGINT
            raise Interrupted(number, f"interrupted ({signal.Signals(number).name}); {line}") from None
        if isinstance(error, InputError | OSError):
            raise RunError(f"{why}; {line}") from None
        say(line)
        raise


def command(module: str, words: Sequence[str], run: Path) -> str:
    """What goes on with a run, to be typed into a shell."""
    same = [word for word in words if word.lstrip("+~").partition("=")[0] not in NOT_AGAIN]
    return shlex.join(["python", "-m", *module.split(), *same, f"resume={run}"])
