"""Changes of GPUs, all or nothing: journalled before they are begun, undone after an error, settled after a crash.

Whoever calls holds the locks of all GPUs that are changed. What was cut short by a reboot or by a reset of its GPU is left as
it is, since MIG instances survive neither. Nothing is touched that a transaction did not find or make itself (`ownership`),
and whatever differs from the state that it is said to be is named.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from types import FrameType

from rltune.devices.change import SET_MODE, Change, Patience, reached, set_mode
from rltune.devices.difference import GpuPlan
from rltune.devices.driver import Driver
from rltune.devices.journal import COMMITTED, ROLLED_BACK, VOID, WAITING, Journal, Tenant, Transaction, boot_id
from rltune.devices.lock import Held
from rltune.devices.ownership import FOUND, MADE, METER, Key, Own, Part, devices_of, key_of, places
from rltune.devices.reading import instance_of, read_state
from rltune.devices.state import GpuState, Instance, States
from rltune.devices.status import RESET_REQUIRED, DeviceError
from rltune.nouns.errors import InputError

NOT_OURS = "not known to be of its making, and was left alone"


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
class Restored:
    """What a way back left undone: ``stuck`` a line for each that may be done later, ``blocked`` for each that cannot."""

    stuck: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not self.stuck and not self.blocked


@dataclass(frozen=True, slots=True)
class Cut:
    """What was cut short and is being settled: ``name`` what is told first, ``own`` its own on each GPU, ``vanished`` what a
    reset took, ``of`` which GPUs the rest is about."""

    one: Transaction
    name: str
    own: Mapping[str, Own]
    vanished: tuple[tuple[str, Instance], ...] = ()
    of: str = ""

    def without(self, reset: set[str], index: Mapping[str, int]) -> Cut:
        """The same on the GPUs that were not reset since."""
        one = replace(
            self.one,
            before={uuid: state for uuid, state in self.one.before.items() if uuid not in reset},
            after={uuid: state for uuid, state in self.one.after.items() if uuid not in reset},
        )
        name = self.name
        for uuid in sorted(reset, key=lambda uuid: index[uuid]):
            name += f"; GPU {index[uuid]} was reset or emptied since, and MIG instances do not survive that: it is left as it is"
        vanished = tuple(gone({uuid: self.one.before[uuid] for uuid in reset}, {}))
        return Cut(one, name, self.own, vanished, " of its other GPUs")


@dataclass
class Transactions:
    """Runs and settles transactions of a journal; ``patience_s`` seconds of pauses in all, each way, for what is in use.

    ``held``: the locks of the GPUs, which say who changed each last.
    """

    driver: Driver
    journal: Journal
    patience_s: float
    sleep: Callable[[float], None] = time.sleep
    held: Mapping[str, Held] = field(default_factory=dict)

    def run(self, changes: Sequence[GpuPlan], claims: Sequence[Tenant] = ()) -> Done:
        """Bring the GPUs from the states before to those after; ``claims`` on what is new hold from the very end of it on.

        Where MIG can be on after a reset only, nothing else is done; where it can be off after one only, all the rest is.
        Raises `RolledBack`, or `Unsettled`.
        """
        before = {gpu.uuid: gpu.before for gpu in changes}
        after = {gpu.uuid: gpu.after for gpu in changes}
        steps = [(gpu.uuid, str(step)) for gpu in changes for step in gpu.steps]
        number = self.journal.begin(before, after, steps, True, claims)
        for gpu in changes:
            if gpu.uuid in self.held:
                self.held[gpu.uuid].sign(self._sign(number))
        own = {gpu.uuid: self._own(number, gpu.uuid, (gpu.before, gpu.after), {}) for gpu in changes}
        patience = Patience(self.patience_s, self.sleep)
        try:
            for gpu in changes:
                self._record_found(gpu, own[gpu.uuid])
            waiting = self._enable(changes, patience)
            resets = waiting or self._change(number, changes, patience, own)
        except BaseException as error:
            self._roll_back(number, changes, own, error)
        with _undisturbed() as interrupts:
            self._end(number, WAITING if resets else COMMITTED, "", () if waiting else gone(before, after), claims)
        if interrupts:
            signal.raise_signal(interrupts[0])
        return Done(number, patience.retries, tuple(resets))

    def _sign(self, number: int) -> str:
        return f"{self.journal.name} {number}"

    def _record_found(self, gpu: GpuPlan, own: Own) -> None:
        """Write down which instances it is to destroy or change, before it touches any; and what tells of a reset."""
        found = {METER: Part(FOUND, self.driver.telemetry(gpu.index).energy_mj)}
        if {key_of(one) for one in gpu.before.instances} & own.places:
            uuids = self.driver.mig_uuids(gpu.index)
            for one in self.driver.instances(gpu.index):
                if (one.profile, one.start) in own.places:
                    found[one.profile, one.start] = Part(FOUND, one.id, devices_of(one, uuids))
        own.note_all(found)

    def _own(
        self, number: int, gpu: str, states: tuple[GpuState, GpuState], parts: Mapping[Key, Part],
        recorded: bool = True, blind: bool = False, back: bool = False,
    ) -> Own:  # fmt: skip
        """The records of a transaction on one GPU. ``states``: before and after.

        ``back``: a journal that fails must not stop the way back.
        """

        def write(parts: Mapping[Key, Part | None]) -> None:
            try:
                self.journal.note(number, gpu, parts)
            except InputError:
                if not back:
                    raise

        before, after = states
        there = frozenset(key_of(one) for one in before.instances)
        return Own(places(before, after, blind), there, dict(parts), write, recorded)

    def _change(self, number: int, changes: Sequence[GpuPlan], patience: Patience, own: dict[str, Own]) -> list[int]:
        """GPUs (by number) on which everything is done, but MIG is off after a reset only."""
        resets = []

        def on_blind(gpu: GpuPlan) -> None:
            own[gpu.uuid].places |= places(gpu.before, gpu.after, blind=True)
            self.journal.mark_blind(number)

        for gpu in changes:
            change = Change(self.driver, gpu.index, gpu.after, own[gpu.uuid], patience, on_blind=partial(on_blind, gpu))
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

    def _roll_back(self, number: int, changes: Sequence[GpuPlan], own: Mapping[str, Own], error: BaseException) -> None:
        """Everything back to what it was before; raises what is to be told of it."""
        why = str(error) if isinstance(error, InputError) else f"interrupted ({type(error).__name__})"
        with _undisturbed():
            before = {gpu.uuid: gpu.before for gpu in changes}
            own = {
                gpu.uuid: self._own(number, gpu.uuid, (gpu.before, gpu.after), own[gpu.uuid].parts,
                                    blind=bool(own[gpu.uuid].places - places(gpu.before, gpu.after)), back=True)
                for gpu in changes
            }  # fmt: skip
            restored = self._restore(number, before, own)
            but = [] if restored.stuck else self._but_for(before, restored)
            if restored.stuck:
                raise Unsettled(
                    f"{why}; and the state before could not be restored: {'; '.join(restored.stuck)}; the next apply, or "
                    "`recover`, tries again"
                ) from error
            self._end(number, ROLLED_BACK, why)
        if isinstance(error, Exception) and not isinstance(error, InputError):
            raise error
        told = RolledBack(f"{why}; everything is as it was before" + (f", but for {'; '.join(but)}" if but else ""))
        if not isinstance(error, Exception):
            told.exit_status = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 130
        raise told from error

    def _restore(self, number: int, target: States, own: Mapping[str, Own]) -> Restored:
        """Bring our part of the GPUs to ``target``, as far as that can be done."""
        done = Restored()
        try:
            index = self._indices()
        except InputError as error:
            return Restored([str(error)])
        patience = Patience(self.patience_s, self.sleep)
        for uuid, wanted in target.items():
            if uuid not in index:
                done.stuck.append(f"GPU {uuid} is not there")
                continue
            on_blind = partial(self.journal.mark_blind, number)
            change = Change(self.driver, index[uuid], wanted, own[uuid], patience, True, on_blind)
            try:
                change.run()
                now = read_state(self.driver, index[uuid])
            except InputError as error:
                done.stuck.append(str(error))
                continue
            where = f"GPU {index[uuid]}"
            excused = change.left | change.blocked.keys()
            if change.mode_blocked and not now.pending:
                now = read_state(self.driver, index[uuid])
            mode = wanted if not change.mode_blocked else now
            if change.errors or not reached(
                now, GpuState(mode.mig, mode.pending, wanted.instances), own[uuid].places - excused
            ):
                reasons = "; ".join(map(str, change.errors)) or f"it is [{now}], not [{wanted}]"
                done.stuck.append(f"{where}: {reasons}")
            blocked = [*change.blocked.values(), *([change.mode_blocked] if change.mode_blocked else [])]
            done.blocked += [f"{where}: {line}" for line in blocked]
        return done

    def _but_for(self, target: States, restored: Restored | None = None) -> list[str]:
        """How the GPUs differ from what they are said to be: a line each, so that no report says more than is true."""
        lines = list(restored.blocked) if restored else []
        index = self._indices()
        for uuid, wanted in target.items():
            if uuid not in index:
                lines.append(f"GPU {uuid}: it cannot be reached")
                continue
            where, now = f"GPU {index[uuid]}", read_state(self.driver, index[uuid])
            more = [str(one) for one in now.instances if one not in wanted.instances]
            less = [str(one) for one in wanted.instances if one not in now.instances]
            if more:
                lines.append(f"{where}: {' '.join(more)} is there, is {NOT_OURS}")
            if less:
                lines.append(f"{where}: {' '.join(less)} is gone")
            if (now.mig, now.pending) != (wanted.mig, wanted.pending):
                lines.append(f"{where}: it is [{now}]")
        return lines

    def _indices(self) -> dict[str, int]:
        return {gpu.uuid: gpu.index for gpu in self.driver.gpus() if gpu.uuid}

    def _end(
        self,
        number: int,
        outcome: str,
        note: str = "",
        gone: Sequence[tuple[str, Instance]] = (),
        claims: Sequence[Tenant] = (),
    ) -> None:
        try:
            self.journal.end(number, outcome, note, gone, claims)
        except InputError as error:
            raise Unsettled(
                f"the GPUs are done ({outcome}), but {error}; the next apply, or `recover`, settles it"
            ) from error

    # After a crash.

    def settle(self, cut: Transaction) -> str:
        """Bring what was cut short to the state before or after it; a line that says which, and what differs from it."""
        name = f"apply {cut.id} of pid {cut.pid} was cut short"
        if self.driver.kind == "nvml" and cut.boot != boot_id():
            note = "the machine was rebooted since, and MIG instances do not survive that"
            self._end(cut.id, VOID, note, gone(cut.before, {}))
            return f"{name}; {note}: its GPUs are left as they are"
        own, index = self._own_after(cut), self._indices()
        now = {uuid: read_state(self.driver, index[uuid]) for uuid in cut.before if uuid in index}
        whole = Cut(cut, name, own)
        for target, outcome in ((cut.after, COMMITTED), (cut.before, ROLLED_BACK)):
            if now == target:
                return self._settled(whole, outcome, "its GPUs were found so" + self._not_ours(cut, own, index))
        reset = {uuid for uuid, state in now.items() if self._was_reset(cut, uuid, own[uuid], index[uuid], state)}
        rest = whole.without(reset, index) if reset else whole
        if not rest.one.before:
            self._end(cut.id, VOID, "its GPUs were reset or emptied since", rest.vanished)
            return rest.name
        for target, outcome in ((rest.one.after, COMMITTED), (rest.one.before, ROLLED_BACK)):
            if all(uuid in now and reached(now[uuid], target[uuid], own[uuid].places) for uuid in target):
                return self._settled(rest, outcome, "its GPUs were found so")
        with _undisturbed() as interrupts:
            told = self._either_way(rest)
        if interrupts:
            signal.raise_signal(interrupts[0])
        return told

    def _own_after(self, cut: Transaction) -> dict[str, Own]:
        """What is the transaction's own on each GPU; nothing where another adapter changed the GPU since."""
        parts = self.journal.parts(cut.id)
        own = {}
        for uuid in cut.before:
            sign = self.held[uuid].last if uuid in self.held else ""
            others = cut.recorded and sign not in ("", self._sign(cut.id))
            known = {} if others else parts.get(uuid, {})
            own[uuid] = self._own(
                cut.id, uuid, (cut.before[uuid], cut.after[uuid]), known, cut.recorded, cut.blind, back=True
            )
        return own

    def _not_ours(self, cut: Transaction, own: Mapping[str, Own], index: Mapping[str, int]) -> str:
        """What is there as it was to be, but was made by somebody else."""
        text = ""
        for uuid in cut.before if cut.recorded else ():
            to_make = set(cut.after[uuid].instances) - set(cut.before[uuid].instances)
            held = self.driver.instances(index[uuid]) if to_make else ()
            mine = own[uuid].of(held, {})
            others = [str(instance_of(one)) for one in held if one.id not in mine and instance_of(one) in to_make]
            if others:
                text += f"; GPU {index[uuid]}: {' '.join(others)} is {NOT_OURS}"
        return text

    def _was_reset(self, cut: Transaction, uuid: str, own: Own, gpu: int, now: GpuState) -> bool:
        """Whether the GPU was reset since, or nothing is left of what must be there, whenever it was cut short.

        Where a part of that is gone, somebody changed the GPU: then nothing on it is known to be its own any more.
        """
        meter, energy = own.parts.pop(METER, None), self.driver.telemetry(gpu).energy_mj
        if meter is not None and meter.number is not None and energy is not None and energy < meter.number:
            return True
        kept = {key_of(one) for one in cut.before[uuid].instances if one in cut.after[uuid].instances}
        must = kept | {key for key, part in own.parts.items() if part.status in (FOUND, MADE)}
        there = {key_of(one) for one in now.instances}
        if must - there:
            own.parts.clear()
        return bool(must) and not must & there

    def _either_way(self, cut: Cut) -> str:
        number, own = cut.one.id, cut.own
        undone = self._restore(number, cut.one.before, own)
        if undone.clean:
            return self._settled(cut, ROLLED_BACK, "what it had begun was undone")
        why = "; ".join(undone.stuck + undone.blocked)
        if self._restore(number, cut.one.after, own).clean:
            return self._settled(cut, COMMITTED, f"it could not be undone ({why}) and was finished")
        if not undone.stuck:
            # Something of others is in the way of both: what can be undone is.
            undone = self._restore(number, cut.one.before, own)
        if undone.stuck:
            raise Unsettled(f"{cut.name}, and can be neither undone nor finished: {why}; mend that, then `recover`")
        return self._settled(cut, ROLLED_BACK, "what it had begun was undone", undone)

    def _settled(self, cut: Cut, outcome: str, how: str, restored: Restored | None = None) -> str:
        word, target = ("after", cut.one.after) if outcome == COMMITTED else ("before", cut.one.before)
        but = self._but_for(target, restored)
        done = gone(cut.one.before, cut.one.after) if outcome == COMMITTED else []
        claims = self._claims(cut) if outcome == COMMITTED else []
        self._end(cut.one.id, outcome, how, [*cut.vanished, *done], claims)
        state = f"that {word} it, but for {'; '.join(but)}" if but else f"exactly that {word} it"
        return f"{cut.name}; the state{cut.of} is {state} ({how})"

    def _claims(self, cut: Cut) -> list[Tenant]:
        """Claims on what it made itself: what somebody else made in the same place is not its tenant's."""
        index, found = self._indices(), []
        for claim in cut.one.claims:
            if claim.gpu in cut.one.after and claim.gpu in index:
                mine = cut.own[claim.gpu].of(self.driver.instances(index[claim.gpu]), {}).values()
                found += [claim] if (claim.profile, claim.start) in {(one.profile, one.start) for one in mine} else []
        return found


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
