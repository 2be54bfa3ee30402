"""Changes of GPUs, all or nothing: journalled before they are begun, undone after an error, settled after a crash.

Whoever calls holds the locks of all GPUs that are changed.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType

from rltune.devices.change import SET_MODE, Change, Key, Patience, owned_by, reached, set_mode
from rltune.devices.difference import GpuPlan
from rltune.devices.driver import Driver
from rltune.devices.journal import COMMITTED, ROLLED_BACK, VOID, WAITING, Journal, Transaction, boot_id
from rltune.devices.reading import read_state
from rltune.devices.state import Instance, States
from rltune.devices.status import RESET_REQUIRED, DeviceError
from rltune.nouns.errors import InputError


class RolledBack(InputError):
    """A change failed, and everything is as it was before. Commands end with status 3, interrupted ones with 128 and the signal."""

    exit_status = 3


class Unsettled(InputError):
    """A change failed, and the state before could not be restored; the next apply, or `recover`, tries again."""

    exit_status = 4


@dataclass(frozen=True, slots=True)
class Done:
    """Number of a transaction, how often it had to wait, and GPUs (by number) whose MIG mode waits for a reset."""

    number: int
    retries: int
    resets: tuple[int, ...]


@dataclass
class Transactions:
    """Runs and settles transactions of a journal; ``patience_s`` seconds of pauses in all, each way, for what is in use."""

    driver: Driver
    journal: Journal
    patience_s: float
    sleep: Callable[[float], None] = time.sleep

    def run(self, changes: Sequence[GpuPlan]) -> Done:
        """Bring the GPUs from the states before to those after.

        Where MIG can be on after a reset only, nothing else is done; where it can be off after one only, all the rest is.
        Raises `RolledBack`, or `Unsettled`.
        """
        before = {gpu.uuid: gpu.before for gpu in changes}
        after = {gpu.uuid: gpu.after for gpu in changes}
        number = self.journal.begin(before, after, [(gpu.uuid, str(step)) for gpu in changes for step in gpu.steps])
        patience = Patience(self.patience_s, self.sleep)
        blind: set[str] = set()
        try:
            waiting = self._enable(changes, patience)
            resets = waiting or self._change(number, changes, patience, blind)
        except BaseException as error:
            self._roll_back(number, changes, bool(blind), error)
        with _undisturbed() as interrupts:
            self._end(number, WAITING if resets else COMMITTED, gone=() if waiting else gone(before, after))
        if interrupts:
            signal.raise_signal(interrupts[0])
        return Done(number, patience.retries, tuple(resets))

    def _change(self, number: int, changes: Sequence[GpuPlan], patience: Patience, blind: set[str]) -> list[int]:
        """GPUs (by number) on which everything is done, but MIG is off after a reset only; ``blind`` collects old drivers'."""
        resets = []

        def on_blind(gpu: str) -> None:
            blind.add(gpu)
            self.journal.mark_blind(number)

        for gpu in changes:
            owned = owned_by(gpu.before, gpu.after)
            change = Change(self.driver, gpu.index, gpu.after, owned, patience, on_blind=partial(on_blind, gpu.uuid))
            try:
                change.run()
            except DeviceError as error:
                resets += self._waits(gpu, error)
        self._check_reached([gpu for gpu in changes if gpu.index not in resets])
        return resets

    def _enable(self, changes: Sequence[GpuPlan], patience: Patience) -> list[int]:
        """Turn MIG on first, everywhere: GPUs (by number) that need a reset before anything else can be done."""
        resets = []
        for gpu in changes:
            if gpu.mode_changes and gpu.after.mig:
                try:
                    set_mode(self.driver, gpu.index, True, patience)
                except DeviceError as error:
                    resets += self._waits(gpu, error)
        return resets

    def _waits(self, gpu: GpuPlan, error: DeviceError) -> list[int]:
        """The GPU's number if its new MIG mode waits for a reset, nothing if it is active after all; else the error."""
        if (error.code, error.call) != (RESET_REQUIRED, SET_MODE):
            raise error
        mode = self.driver.mig_mode(gpu.index)
        if mode.pending != gpu.after.mig:
            raise error
        return [] if mode.current == gpu.after.mig else [gpu.index]

    def _check_reached(self, changes: Sequence[GpuPlan]) -> None:
        for gpu in changes:
            now = read_state(self.driver, gpu.index)
            if now != gpu.after:
                raise InputError(
                    f"GPU {gpu.index} is [{now}] and not [{gpu.after}]: something else changed it meanwhile"
                )

    def _roll_back(self, number: int, changes: Sequence[GpuPlan], blind: bool, error: BaseException) -> None:
        """Everything back to what it was before; raises what is to be told of it."""
        why = str(error) if isinstance(error, InputError) else f"interrupted ({type(error).__name__})"
        with _undisturbed():
            before = {gpu.uuid: gpu.before for gpu in changes}
            stuck = self._restore(number, before, {gpu.uuid: owned_by(gpu.before, gpu.after, blind) for gpu in changes})
            if stuck:
                raise Unsettled(
                    f"{why}; and the state before could not be restored: {'; '.join(stuck)}; the next apply, or `recover`, tries again"
                ) from error
            self._end(number, ROLLED_BACK, why)
        if isinstance(error, Exception) and not isinstance(error, InputError):
            raise error
        told = RolledBack(f"{why}; everything is as it was before")
        if not isinstance(error, Exception):
            told.exit_status = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 130
        raise told from error

    def _restore(self, number: int, target: States, owned: Mapping[str, frozenset[Key]]) -> list[str]:
        """Bring our part of the GPUs to ``target``, as far as that can be done; what could not be, a line a GPU."""
        stuck = []
        try:
            index = self._indices()
        except InputError as error:
            return [str(error)]
        patience = Patience(self.patience_s, self.sleep)
        for uuid, wanted in target.items():
            if uuid not in index:
                stuck.append(f"GPU {uuid} is not there")
                continue
            on_blind = partial(self.journal.mark_blind, number)
            change = Change(self.driver, index[uuid], wanted, owned[uuid], patience, True, on_blind)
            try:
                change.run()
                now = read_state(self.driver, index[uuid])
            except InputError as error:
                stuck.append(str(error))
                continue
            if not reached(now, wanted, owned[uuid]):
                reasons = "; ".join(map(str, change.errors)) or f"it is [{now}], not [{wanted}]"
                stuck.append(f"GPU {index[uuid]}: {reasons}")
        return stuck

    def _indices(self) -> dict[str, int]:
        return {gpu.uuid: gpu.index for gpu in self.driver.gpus()}

    def _end(self, number: int, outcome: str, note: str = "", gone: Sequence[tuple[str, Instance]] = ()) -> None:
        try:
            self.journal.end(number, outcome, note, gone)
        except InputError as error:
            raise Unsettled(
                f"the GPUs are done ({outcome}), but {error}; the next apply, or `recover`, settles it"
            ) from error

    def settle(self, cut: Transaction) -> str:
        """Bring what was cut short to exactly the state before or after it; a line that says which."""
        name = f"apply {cut.id} of pid {cut.pid} was cut short"
        if self.driver.kind == "nvml" and cut.boot != boot_id():
            note = "the machine was rebooted since, and MIG instances do not survive that"
            self._end(cut.id, VOID, note, gone(cut.before, {}))
            return f"{name}; {note}: its GPUs are left as they are"
        owned = {uuid: owned_by(cut.before[uuid], cut.after[uuid], cut.blind) for uuid in cut.before}
        index = self._indices()
        for target, outcome in ((cut.after, COMMITTED), (cut.before, ROLLED_BACK)):
            if all(
                uuid in index and reached(read_state(self.driver, index[uuid]), target[uuid], owned[uuid])
                for uuid in target
            ):
                return self._settled(cut, name, outcome, "its GPUs were found so")
        with _undisturbed() as interrupts:
            told = self._either_way(cut, name, owned)
        if interrupts:
            signal.raise_signal(interrupts[0])
        return told

    def _either_way(self, cut: Transaction, name: str, owned: Mapping[str, frozenset[Key]]) -> str:
        stuck = self._restore(cut.id, cut.before, owned)
        if not stuck:
            return self._settled(cut, name, ROLLED_BACK, "what it had begun was undone")
        if not self._restore(cut.id, cut.after, owned):
            how = f"it could not be undone ({'; '.join(stuck)}) and was finished"
            return self._settled(cut, name, COMMITTED, how)
        raise Unsettled(
            f"{name}, and can be neither undone nor finished: {'; '.join(stuck)}; mend that, then `recover`"
        )

    def _settled(self, cut: Transaction, name: str, outcome: str, how: str) -> str:
        self._end(cut.id, outcome, how, gone(cut.before, cut.after) if outcome == COMMITTED else ())
        return f"{name}; the state is exactly that {'after' if outcome == COMMITTED else 'before'} it ({how})"


def gone(before: States, after: States) -> list[tuple[str, Instance]]:
    """(GPU, instance) of what a change from one state to the other destroys: no claim on it holds any longer."""
    left = {gpu: after[gpu].instances if gpu in after else () for gpu in before}
    return [(gpu, one) for gpu, state in before.items() for one in state.instances if one not in left[gpu]]


@contextmanager
def _undisturbed() -> Iterator[list[int]]:
    """Put off interrupts until a way back is done: half of it would be worse than none. Gives those that came."""
    kept: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield kept
        return

    def keep(number: int, frame: FrameType | None) -> None:
        kept.append(number)

    old = {number: signal.signal(number, keep) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield kept
    finally:
        for number, handler in old.items():
            # None: not set from Python, and not ours to set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
