"""The door to a machine's GPUs: plan, apply as a transaction, verify, recover; and who holds which instance."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

from rltune.devices.change import Change, Key, Patience, owned_by, reached, set_mode
from rltune.devices.difference import GpuPlan, Plan, plan_gpu, states_differ
from rltune.devices.driver import DeviceProfile, Driver, Identity
from rltune.devices.journal import COMMITTED, ROLLED_BACK, VOID, WAITING, Journal, Tenant, Transaction, boot_id
from rltune.devices.lock import default_lock, locked
from rltune.devices.models import model_of
from rltune.devices.open import store_path
from rltune.devices.reading import Users, instance_of, read_state, read_states, read_users
from rltune.devices.spec import Spec
from rltune.devices.state import GpuState, Instance, States, state
from rltune.devices.status import NOT_SUPPORTED, RESET_REQUIRED, DeviceError
from rltune.errors import InputError

PATIENCE_S = 5.0
"""Pauses in all of one way, forward or back, before what is in use is given up."""


class RolledBack(InputError):
    """A change failed, and everything is as it was before. Commands end with status 3, or 130 where it was interrupted."""

    exit_status = 3


class Unsettled(InputError):
    """A change failed, and the state before could not be restored; the next apply, or `recover`, tries again."""

    exit_status = 4


@dataclass(frozen=True, slots=True)
class Applied:
    """What `Adapter.apply` did: the number of its transaction (None: nothing was to be done), how often it had to wait, GPUs
    (by number) whose MIG mode waits for a reset, and notes on what was recovered first."""

    transaction: int | None
    retries: int
    resets: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


class Adapter:
    """``Adapter(driver)``; ``store`` holds the journal (default `store_path`), ``lock`` is the machine's.

    ``patience_s`` seconds of pauses in all for what is in use; ``wait_s`` for another adapter. The lock is held during each
    change only.
    """

    def __init__(
        self,
        driver: Driver,
        store: Path | None = None,
        lock: Path | None = None,
        patience_s: float = PATIENCE_S,
        wait_s: float = 0.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.driver = driver
        self.store = store or store_path()
        # A simulated machine is its store's; real GPUs are everybody's.
        self.lock = lock or (default_lock() if driver.kind == "nvml" else self.store / f"{driver.kind}.lock")
        self._patience_s, self._wait_s, self._sleep = patience_s, wait_s, sleep
        self._journal: Journal | None = None
        # The file's lock is between processes; threads of this one (an executor's, one a GPU) wait for each other.
        self._mutex = threading.RLock()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._mutex, locked(self.lock, self._wait_s):
            yield

    @property
    def journal(self) -> Journal:
        """Opened when first needed: reading the GPUs does without."""
        if self._journal is None:
            self._journal = Journal(self.store / "devices.sqlite", self.driver.kind)
        return self._journal

    def close(self) -> None:
        """Close the journal; the driver is whoever's opened it."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def states(self) -> States:
        """Every GPU's state, by UUID."""
        return read_states(self.driver)

    def uuids(self, gpu: str) -> dict[Instance, tuple[str, ...]]:
        """What a job gets in CUDA_VISIBLE_DEVICES: MIG UUIDs of each instance's compute instances."""
        index = self._identity(gpu).index
        known = self.driver.mig_uuids(index)
        return {
            instance_of(one): tuple(known[one.id, ci.id] for ci in one.compute_instances if (one.id, ci.id) in known)
            for one in self.driver.instances(index)
        }

    def _identity(self, gpu: str) -> Identity:
        for one in self.driver.gpus():
            if one.uuid == gpu:
                return one
        raise InputError(f"there is no GPU {gpu} on this machine; `show` lists what is there")

    # Plan and verify: nothing is changed.

    def plan(self, spec: Spec, tenant: str | None = None, mind_users: bool = True) -> Plan:
        """What would have to change for a spec; instances in use stay, except those that ``tenant`` holds.

        InputError for what is impossible, or while an apply that was cut short is not settled. ``mind_users`` False: as if nobody
        used anything (to see what differs).
        """
        cut = self.journal.open_ones()
        if cut:
            raise InputError(
                f"apply {cut[0].id} of pid {cut[0].pid} was cut short or is under way; `recover` settles it"
            )
        gpus = self.driver.gpus()
        entries = spec.by_gpu(gpus)
        tenants = self._tenants(but=tenant) if mind_users else {}
        plans = []
        for gpu in gpus:
            if gpu.uuid in entries:
                now = read_state(self.driver, gpu.index)
                entry = entries[gpu.uuid]
                # Of an empty GPU nobody asks who uses it: without root the driver would not tell.
                held = bool(now.instances) or entry.mig not in (None, now.mig)
                users = self._users(gpu, now, tenants) if mind_users and held else Users({})
                profiles = self._profiles(gpu, now) if entry.instances else ()
                plans.append(plan_gpu(gpu, now, users, entry, profiles))
        return Plan(tuple(plans), time.time())

    def _profiles(self, gpu: Identity, now: GpuState) -> tuple[DeviceProfile, ...]:
        if now.mig:
            return self.driver.profiles(gpu.index)
        model = model_of(gpu.name, self.driver.telemetry(gpu.index).memory_total_bytes)
        if model is None:
            raise InputError(
                f"GPU {gpu.index}: {gpu.name} lists its profiles with MIG on only, and is in no table here; apply mig: true "
                "with instances: [] first"
            )
        # Loads the geometry tables, which only this rare case needs.
        from rltune.devices.simulated import profiles_of

        return profiles_of(model)

    def _users(self, gpu: Identity, now: GpuState, tenants: Mapping[tuple[str, str, int], str]) -> Users:
        if not now.mig:
            on_it = () if now.mig is None else self.driver.processes(gpu.index)
            return Users({}, tuple(sorted({process.pid for process in on_it})))
        mine = {(profile, start): name for (uuid, profile, start), name in tenants.items() if uuid == gpu.uuid}
        return read_users(self.driver, gpu.index, mine)

    def verify(self, spec: Spec) -> list[str]:
        """What differs from a spec, a line each; empty where everything is as it should be."""
        lines = []
        for gpu in self.plan(spec, mind_users=False).gpus:
            lines += [f"GPU {gpu.index}: {step}" for step in gpu.steps]
            if gpu.before.pending != gpu.after.pending and not gpu.mode_changes:
                lines.append(f"GPU {gpu.index}: its MIG mode changes with the next reset")
        return lines

    # Changes.

    def apply(self, plan: Plan, mig_mode: bool = False, tenant: str | None = None) -> Applied:
        """Bring the GPUs from the plan's states before to those after, all or nothing.

        ``mig_mode``: MIG modes may change; ``tenant`` whose instances may go. Raises InputError where it refuses (nothing was
        changed), `RolledBack` (everything is as it was), `Unsettled`.
        """
        for gpu in plan.changes:
            if gpu.mode_changes and not mig_mode:
                word = "on" if gpu.after.mig else "off"
                raise InputError(f"GPU {gpu.index}: the plan turns MIG mode {word}; repeat with --mig-mode to allow it")
        with self._alone():
            notes = self._recover()
            self._check_unchanged(plan)
            self._check_idle(plan.changes, tenant)
            if not plan.changes:
                return Applied(None, 0, notes=tuple(notes))
            return self._transact(plan.changes, notes)

    def _check_unchanged(self, plan: Plan) -> None:
        gpus = tuple(gpu for gpu in self.driver.gpus() if gpu.uuid in {one.uuid for one in plan.gpus})
        index = {gpu.uuid: gpu.index for gpu in gpus}
        for line in states_differ(plan, read_states(self.driver, gpus)):
            raise InputError(f"{line}: not the state that the plan was made on; plan anew")
        for one in plan.gpus:
            if index[one.uuid] != one.index:
                raise InputError(f"GPU {one.index} ({one.uuid}) is now GPU {index[one.uuid]}; plan anew")

    def _check_idle(self, changes: Sequence[GpuPlan], tenant: str | None) -> None:
        """Refuse to destroy what somebody uses; where the driver does not tell, nothing is taken for idle."""
        tenants = self._tenants(but=tenant)
        for gpu in changes:
            going = [step.instance for step in gpu.steps if step.action == "destroy"]
            if not going and not gpu.mode_changes:
                continue
            users = self._users(Identity(gpu.index, gpu.uuid, gpu.name, None, None), gpu.before, tenants)
            for one, who in users.of.items():
                if one in going:
                    raise InputError(
                        f"GPU {gpu.index}: {one} is in use ({who}) and would have to go; wait for it, or keep it"
                    )
            if users.elsewhere and gpu.mode_changes:
                raise InputError(
                    f"GPU {gpu.index}: its MIG mode cannot change while pid {users.elsewhere[0]} runs on it"
                )

    def _transact(self, changes: Sequence[GpuPlan], notes: Sequence[str]) -> Applied:
        before = {gpu.uuid: gpu.before for gpu in changes}
        after = {gpu.uuid: gpu.after for gpu in changes}
        number = self.journal.begin(before, after, [(gpu.uuid, str(step)) for gpu in changes for step in gpu.steps])
        patience = Patience(self._patience_s, self._sleep)
        try:
            resets = self._enable(changes, patience)
            if not resets:
                for gpu in changes:
                    owned = owned_by(gpu.before, gpu.after)
                    on_blind = partial(self.journal.mark_blind, number)
                    Change(self.driver, gpu.index, gpu.after, owned, patience, on_blind=on_blind).run()
                self._check_reached(changes)
        except BaseException as error:
            self._roll_back(number, changes, error)
        self._end(number, WAITING if resets else COMMITTED)
        return Applied(number, patience.retries, tuple(resets), tuple(notes))

    def _enable(self, changes: Sequence[GpuPlan], patience: Patience) -> list[int]:
        """Turn MIG on first, everywhere: GPUs (by number) that need a reset before anything else can be done."""
        resets = []
        for gpu in changes:
            if gpu.mode_changes and gpu.after.mig:
                try:
                    set_mode(self.driver, gpu.index, True, patience)
                except DeviceError as error:
                    if error.code != RESET_REQUIRED:
                        raise
                    resets.append(gpu.index)
        return resets

    def _check_reached(self, changes: Sequence[GpuPlan]) -> None:
        for gpu in changes:
            now = read_state(self.driver, gpu.index)
            if now != gpu.after:
                raise InputError(
                    f"GPU {gpu.index} is [{now}] and not [{gpu.after}]: something else changed it meanwhile"
                )

    def _roll_back(self, number: int, changes: Sequence[GpuPlan], error: BaseException) -> None:
        """Everything back to what it was before; raises what is to be told of it."""
        why = str(error) if isinstance(error, InputError) else f"interrupted ({type(error).__name__})"
        with _undisturbed():
            before = {gpu.uuid: gpu.before for gpu in changes}
            blind = any(one.blind for one in self.journal.open_ones() if one.id == number)
            stuck = self._restore(before, {gpu.uuid: owned_by(gpu.before, gpu.after, blind) for gpu in changes})
            if stuck:
                raise Unsettled(
                    f"{why}; and the state before could not be restored: {'; '.join(stuck)}; the next apply, or `recover`, tries again"
                ) from error
            self._end(number, ROLLED_BACK, why)
        if isinstance(error, Exception) and not isinstance(error, InputError):
            raise error
        told = RolledBack(f"{why}; everything is as it was before")
        if not isinstance(error, Exception):
            told.exit_status = 130 if isinstance(error, KeyboardInterrupt) else 143
        raise told from error

    def _restore(self, target: States, owned: Mapping[str, frozenset[Key]]) -> list[str]:
        """Bring our part of the GPUs to ``target``, as far as that can be done; what could not be, a line a GPU."""
        stuck = []
        index = self._indices()
        patience = Patience(self._patience_s, self._sleep)
        for uuid, wanted in target.items():
            if uuid not in index:
                stuck.append(f"GPU {uuid} is not there")
                continue
            change = Change(self.driver, index[uuid], wanted, owned[uuid], patience, thorough=True)
            try:
                change.run()
                now = read_state(self.driver, index[uuid])
            except DeviceError as error:
                stuck.append(str(error))
                continue
            if not reached(now, wanted, owned[uuid]):
                reasons = "; ".join(map(str, change.errors)) or f"it is [{now}], not [{wanted}]"
                stuck.append(f"GPU {index[uuid]}: {reasons}")
        return stuck

    def _indices(self) -> dict[str, int]:
        try:
            return {gpu.uuid: gpu.index for gpu in self.driver.gpus()}
        except DeviceError:
            return {}

    def _end(self, number: int, outcome: str, note: str = "") -> None:
        try:
            self.journal.end(number, outcome, note)
        except InputError as error:
            raise Unsettled(
                f"the GPUs are done ({outcome}), but {error}; the next apply, or `recover`, settles it"
            ) from error

    # After a crash.

    def recover(self) -> list[str]:
        """Settle transactions that were cut short: each to exactly the state before or after; a line each says which."""
        with self._alone():
            return self._recover()

    def _recover(self) -> list[str]:
        return [self._settle(one) for one in self.journal.open_ones()]

    def _settle(self, cut: Transaction) -> str:
        name = f"apply {cut.id} of pid {cut.pid} was cut short"
        if self.driver.kind == "nvml" and cut.boot != boot_id():
            note = "the machine was rebooted since, and MIG instances do not survive that"
            self._end(cut.id, VOID, note)
            return f"{name}; {note}: its GPUs are left as they are"
        owned = {uuid: owned_by(cut.before[uuid], cut.after[uuid], cut.blind) for uuid in cut.before}
        index = self._indices()
        for target, outcome in ((cut.after, COMMITTED), (cut.before, ROLLED_BACK)):
            if all(
                uuid in index and reached(read_state(self.driver, index[uuid]), target[uuid], owned[uuid])
                for uuid in target
            ):
                return self._settled(cut, name, outcome, "its GPUs were found so")
        with _undisturbed():
            stuck = self._restore(cut.before, owned)
            if not stuck:
                return self._settled(cut, name, ROLLED_BACK, "what it had begun was undone")
            if not self._restore(cut.after, owned):
                return self._settled(
                    cut, name, COMMITTED, f"it could not be undone ({'; '.join(stuck)}) and was finished"
                )
        raise Unsettled(
            f"{name}, and can be neither undone nor finished: {'; '.join(stuck)}; settle that, then `recover`"
        )

    def _settled(self, cut: Transaction, name: str, outcome: str, how: str) -> str:
        self._end(cut.id, outcome, how)
        return f"{name}; the state is exactly that {'after' if outcome == COMMITTED else 'before'} it ({how})"

    # Tenants, and changes of single instances.

    def tenants(self) -> list[Tenant]:
        """Who holds which instance now."""
        return self.journal.tenants()

    def _tenants(self, but: str | None) -> dict[tuple[str, str, int], str]:
        return {(t.gpu, t.profile, t.start): t.tenant for t in self.tenants() if t.tenant != but}

    def claim(self, gpu: str, instance: Instance, tenant: str, pid: int | None = None) -> None:
        """Hold an instance: nobody else may destroy it until it is released, or the process ends. InputError if it is not there."""
        with self._alone():
            self._recover()
            if instance not in read_state(self.driver, self._identity(gpu).index).instances:
                raise InputError(f"GPU {gpu} has no instance {instance}; `show` lists what is there")
            self.journal.claim(gpu, instance, tenant, pid)

    def release(self, gpu: str, instance: Instance, tenant: str) -> None:
        """Let go of it; InputError if the tenant does not hold it."""
        if not self.journal.release(gpu, instance, tenant):
            raise InputError(f"{tenant} does not hold {instance} on GPU {gpu}; `tenants` lists who holds what")

    def reconfigure(
        self, gpu: str, destroy: Sequence[Instance], create: Sequence[Instance], tenant: str | None = None
    ) -> None:
        """Replace some instances of one GPU by others, as one transaction; the rest of the GPU is not touched.

        With ``tenant`` its own instances may go, and those created are held for it while this process lives. Errors as `apply`.
        """
        with self._alone():
            self._recover()
            identity = self._identity(gpu)
            before = read_state(self.driver, identity.index)
            missing = [one for one in destroy if one not in before.instances]
            if missing:
                raise InputError(f"GPU {identity.index} has no instance {missing[0]} to destroy; it is [{before}]")
            left = [one for one in before.instances if one not in destroy]
            after = state(before.mig, [*left, *create], before.pending)
            change = GpuPlan(identity.index, gpu, identity.name, before, after, {})
            if before.mig is None and create:
                raise DeviceError(NOT_SUPPORTED, "nvmlDeviceCreateGpuInstance", f"GPU {identity.index}")
            self._check_idle([change], tenant)
            if change.steps:
                self._transact([change], ())
            if tenant is not None:
                for one in destroy:
                    self.journal.release(gpu, one, tenant)
                for one in create:
                    self.journal.claim(gpu, one, tenant, os.getpid())


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Put off interrupts until a way back is done: half of it would be worse than none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept: list[int] = []

    def keep(number: int, frame: FrameType | None) -> None:
        kept.append(number)

    old = {number: signal.signal(number, keep) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in old.items():
            # None: not set from Python, and not ours to set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
