"""The interface to a machine's GPUs: plan, apply as a transaction, verify, recover; and which tenant holds which instance."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rltune.devices.difference import GpuPlan, Plan, plan_gpu, states_differ
from rltune.devices.driver import DeviceProfile, Driver, Identity
from rltune.devices.journal import LONGEST_TENANT, Journal, Tenant, boot_id, check_tenant
from rltune.devices.lock import Held, default_locks, locked
from rltune.devices.models import model_of
from rltune.devices.open import store_path
from rltune.devices.reading import (
    Reading,
    Users,
    describe_elsewhere,
    instance_of,
    read_gpu,
    read_state,
    read_states,
    read_users,
)
from rltune.devices.spec import Spec
from rltune.devices.state import GpuState, Instance, States, state
from rltune.devices.status import NOT_SUPPORTED, DeviceError
from rltune.devices.transactions import RolledBack, Transactions, Unsettled
from rltune.nouns.checked import shown
from rltune.nouns.errors import InputError

__all__ = ["Adapter", "Applied", "RolledBack", "Unsettled"]
PATIENCE_S = 5.0
"""Pauses in all of a change, or of its rollback, before it is given up because something is in use."""
TURN_S = 120.0
"""Longest wait of a thread for another thread of the same adapter at one GPU: a change and its rollback take seconds."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What `Adapter.apply` did: the number of its transaction (None: nothing was to be done), how often it had to wait, GPUs
    (by number) whose MIG mode waits for a reset, and notes on what was recovered first."""

    transaction: int | None
    retries: int
    resets: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


class Adapter:
    """``Adapter(driver)``; ``store`` holds the journal (default `store_path`), ``locks`` the files of the GPUs' locks.

    ``patience_s``: seconds of pauses in all while something is in use; ``wait_s``: for another adapter. A GPU is locked during each of
    its changes only; threads may change different GPUs at once.
    """

    def __init__(
        self,
        driver: Driver,
        store: Path | None = None,
        locks: Path | None = None,
        patience_s: float = PATIENCE_S,
        wait_s: float = 0.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.driver = driver
        self.store = store or store_path()
        # A simulated machine is its store's; real GPUs are everybody's.
        self.locks = locks or (default_locks() if driver.kind == "nvml" else self.store)
        self._patience_s, self._wait_s, self._sleep = patience_s, wait_s, sleep
        self._journal: Journal | None = None
        # The locks are between processes; threads of this one (an executor's, one a GPU) take turns.
        self._opening = threading.Lock()
        self._turns: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)

    def lock_of(self, gpu: str) -> Path:
        """The lock file of this GPU, held during each change of it."""
        return self.locks / f"rltune-{gpu}.lock"

    @contextmanager
    def _alone(self, gpus: Collection[str]) -> Iterator[Mapping[str, Held]]:
        """Hold the locks of these GPUs, always acquired in the same order: no deadlock."""
        held = {}
        with ExitStack() as stack:
            for gpu in sorted(gpus):
                stack.enter_context(self._turn_at(gpu))
                held[gpu] = stack.enter_context(locked(self.lock_of(gpu), self._wait_s))
            yield held

    @contextmanager
    def _turn_at(self, gpu: str) -> Iterator[None]:
        if not self._turns[gpu].acquire(timeout=max(TURN_S, self._wait_s)):
            raise InputError(f"GPU {gpu}: another thread has been changing it for {TURN_S:g} s; try again")
        try:
            yield
        finally:
            self._turns[gpu].release()

    def _with_cut(self, gpus: Collection[str]) -> set[str]:
        """These GPUs, and all that stand with one of them in a transaction that was cut short: locked together or not at all."""
        named, seen = set(gpus), 0
        cut = self.journal.open_ones()
        while len(named) > seen:
            seen = len(named)
            for one in cut:
                named |= one.before.keys() if named & one.before.keys() else set()
        return named

    @property
    def journal(self) -> Journal:
        """Opened when first needed: reading the GPUs does without."""
        with self._opening:
            if self._journal is None:
                self._journal = Journal(self.store / "devices.sqlite", self.driver.kind)
            return self._journal

    def close(self) -> None:
        """Close the journal; the driver stays open for the code that opened it."""
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

    def _transactions(self, held: Mapping[str, Held]) -> Transactions:
        return Transactions(self.driver, self.journal, self._patience_s, self._sleep, held)

    # Plan and verify: nothing is changed.

    def plan(self, spec: Spec, tenant: str | None = None, mind_users: bool = True) -> Plan:
        """What would have to change for a spec; instances in use stay, except those that ``tenant`` holds.

        InputError for what is impossible, or while an interrupted apply is not settled. ``mind_users`` False: as if no
        instance were in use (to see what differs).
        """
        gpus = self.driver.gpus()
        entries = spec.by_gpu(gpus)
        for cut in self.journal.open_ones():
            if entries.keys() & cut.before.keys():
                raise InputError(f"apply {cut.id} of pid {cut.pid} was cut short or is under way; `recover` settles it")
        tenants = self._tenants(but=tenant) if mind_users else {}
        plans = []
        for gpu in gpus:
            if gpu.uuid in entries:
                found = read_gpu(self.driver, gpu.index)
                now = found.state
                entry = entries[gpu.uuid]
                # An empty GPU has no users to ask for; without root rights the driver would refuse the question.
                held = bool(now.instances) or entry.mig not in (None, now.mig) or entry.mig not in (None, now.pending)
                users = self._users(gpu, found, tenants) if mind_users and held else Users({})
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
        from rltune.devices.driver_tables import profiles_of

        return profiles_of(model)

    def _users(self, gpu: Identity, now: Reading, tenants: Mapping[tuple[str, str, int], str]) -> Users:
        if not now.state.mig:
            on_it = () if now.state.mig is None else self.driver.processes(gpu.index)
            return Users({}, tuple(sorted({process.pid for process in on_it})))
        mine = {(profile, start): name for (uuid, profile, start), name in tenants.items() if uuid == gpu.uuid}
        return read_users(self.driver, gpu.index, mine, now.held)

    def verify(self, spec: Spec) -> list[str]:
        """What differs from a spec, a line each; empty where everything is as it should be."""
        lines = []
        for gpu in self.plan(spec, mind_users=False).gpus:
            lines += [f"GPU {gpu.index}: {step}" for step in gpu.steps]
        return lines

    # Changes.

    def apply(self, plan: Plan, mig_mode: bool = False, tenant: str | None = None) -> Applied:
        """Bring the GPUs from the plan's states before to those after, all or nothing.

        ``mig_mode``: MIG modes may change; ``tenant`` whose instances may go. Raises InputError where it refuses (nothing was
        changed), `RolledBack` (everything is as it was), `Unsettled`.
        """
        self._check_modes(plan, mig_mode)
        named = self._with_cut([gpu.uuid for gpu in plan.gpus])
        with self._alone(named) as held:
            notes = self._recover(held)
            self._check_idle(plan.changes, self._check_unchanged(plan), tenant)
            self._sign(held)
            if not plan.changes:
                return Applied(None, 0, notes=tuple(notes))
            done = self._transactions(held).run(plan.changes)
        return Applied(done.number, done.retries, done.resets, tuple(notes))

    def check(self, plan: Plan, mig_mode: bool = False, tenant: str | None = None) -> None:
        """InputError where `apply` would refuse to begin, judged by the present state."""
        self._check_modes(plan, mig_mode)
        self._check_idle(plan.changes, self._check_unchanged(plan), tenant)

    def _check_modes(self, plan: Plan, mig_mode: bool) -> None:
        for gpu in plan.changes:
            if gpu.mode_changes and not mig_mode:
                word = "on" if gpu.after.mig else "off"
                raise InputError(f"GPU {gpu.index}: the plan turns MIG mode {word}; repeat with --mig-mode to allow it")

    def _check_unchanged(self, plan: Plan) -> dict[str, Reading]:
        """The plan's GPUs as they are now, by UUID; InputError where that is not what the plan was made on."""
        gpus = tuple(gpu for gpu in self.driver.gpus() if gpu.uuid in {one.uuid for one in plan.gpus})
        index = {gpu.uuid: gpu.index for gpu in gpus}
        now = {gpu.uuid: read_gpu(self.driver, gpu.index) for gpu in gpus}
        for line in states_differ(plan, {uuid: found.state for uuid, found in now.items()}):
            raise InputError(f"{line}: not the state that the plan was made on; plan anew")
        for one in plan.gpus:
            if index[one.uuid] != one.index:
                raise InputError(f"GPU {one.index} ({one.uuid}) is now GPU {index[one.uuid]}; plan anew")
        return now

    def _check_idle(self, changes: Sequence[GpuPlan], now: Mapping[str, Reading], tenant: str | None) -> None:
        """Refuse to destroy what is in use; where the driver does not report users, nothing counts as idle."""
        tenants = self._tenants(but=tenant)
        for gpu in changes:
            going = [step.instance for step in gpu.steps if step.action == "destroy"]
            if not going and not gpu.mode_changes:
                continue
            users = self._users(Identity(gpu.index, gpu.uuid, gpu.name, None, None), now[gpu.uuid], tenants)
            for one, who in users.of.items():
                if one in going:
                    raise InputError(
                        f"GPU {gpu.index}: {one} is in use ({who}) and would have to go; wait for it, or keep it"
                    )
            if users.elsewhere:
                raise InputError(f"GPU {gpu.index}: {describe_elsewhere(users)}")

    def _sign(self, held: Mapping[str, Held]) -> None:
        """Say who counts on these GPUs now: what another adapter left half done there is no longer its own to undo."""
        for lock in held.values():
            lock.sign(self.journal.name)

    # After a crash.

    def recover(self, only: Collection[str] | None = None) -> list[str]:
        """Settle transactions that were cut short: each to the state before or after; a line each says which, and what differs.

        ``only``: those that touch these GPUs. One that cannot be settled does not stop the others: then `Unsettled` tells all.
        Claims on instances that a reset or a reboot took are forgotten.
        """
        named = {gpu for one in self.journal.open_ones() for gpu in one.before}
        named |= {one.gpu for one in self.journal.tenants()}
        if only is not None:
            named = {gpu for gpu in self._with_cut(only) if gpu in named}
        with self._alone(named) as held:
            return self._recover(held)

    def _recover(self, held: Mapping[str, Held]) -> list[str]:
        """Settle those that touch GPUs whose locks we hold: no other adapter can be changing them."""
        lines, unsettled = [], []
        for one in self.journal.open_ones():
            if not held.keys() & one.before.keys():
                continue
            if not one.before.keys() <= held.keys():
                raise InputError(f"apply {one.id} of pid {one.pid} was cut short just now, on further GPUs; try again")
            try:
                lines.append(self._transactions(held).settle(one))
            except (Unsettled, DeviceError) as error:
                unsettled.append(str(error))
        if unsettled:
            raise Unsettled("; ".join([*unsettled, *(f"settled: {line}" for line in lines)]))
        self._forget_lapsed(held.keys())
        return lines

    # Tenants, and changes of single instances.

    def tenants(self) -> list[Tenant]:
        """Which tenant holds which instance now.

        A claim lasts as long as its instance: it ends when the instance is destroyed, by whatever hand, and with a reset of the
        GPU or a reboot. Of a GPU that cannot be reached, or that is being changed, claims are taken to hold.
        """
        claims = self.journal.tenants()
        lapsed = self._lapsed(claims)
        return [one for one in claims if one not in lapsed]

    def _lapsed(self, claims: Sequence[Tenant]) -> list[Tenant]:
        if not claims:
            return []
        open_ones = {gpu for one in self.journal.open_ones() for gpu in one.before}
        there: dict[str, set[tuple[str, int]]] = {}
        for gpu in self.driver.gpus():
            if gpu.uuid in {one.gpu for one in claims} - open_ones:
                with suppress(DeviceError):
                    there[gpu.uuid] = {(i.profile, i.start) for i in read_state(self.driver, gpu.index).instances}
        boot = boot_id() if self.driver.kind == "nvml" else ""
        return [
            one
            for one in claims
            if (boot and one.boot and one.boot != boot)
            or (one.gpu in there and (one.profile, one.start) not in there[one.gpu])
        ]

    def _forget_lapsed(self, gpus: Set[str]) -> None:
        """On GPUs whose locks we hold: an instance made later in the same place is nobody's."""
        self.journal.forget(self._lapsed([one for one in self.journal.tenants() if one.gpu in gpus]))

    def _tenants(self, but: str | None) -> dict[tuple[str, str, int], str]:
        return {(t.gpu, t.profile, t.start): t.tenant for t in self.tenants() if t.tenant != but}

    def claim(self, gpu: str, instance: Instance, tenant: str, pid: int | None = None) -> None:
        """Reserve an instance: others may not destroy it until it is released, or process ``pid`` ends. InputError if it is absent."""
        check_tenant(tenant)
        named = self._with_cut([gpu])
        with self._alone(named) as held:
            self._recover(held)
            if instance not in read_state(self.driver, self._identity(gpu).index).instances:
                raise InputError(f"GPU {gpu} has no instance {instance}; `show` lists what is there")
            self._sign(held)
            self.journal.claim(Tenant(gpu, instance.profile, instance.start, tenant, pid))

    def release(self, gpu: str, instance: Instance, tenant: str) -> None:
        """End a reservation; InputError if the tenant does not hold the instance."""
        if not self.journal.release(gpu, instance, tenant):
            name = tenant if len(tenant) <= LONGEST_TENANT else shown(tenant)
            raise InputError(f"{name} does not hold {instance} on GPU {gpu}; `tenants` lists who holds what")

    def reconfigure(
        self,
        gpu: str,
        destroy: Sequence[Instance],
        create: Sequence[Instance],
        tenant: str | None = None,
        lasting: bool = False,
        mig: bool | None = None,
    ) -> None:
        """Replace some instances of one GPU by others, as one transaction; the rest of the GPU is not touched.

        With ``tenant`` its own instances may go, and those created are held for it while this process lives (``lasting``: until
        they are released or destroyed). ``mig``: MIG mode afterwards, None: as it is; where it waits for a reset, so does the
        rest. Errors as `apply`.
        """
        named = self._with_cut([gpu])
        with self._alone(named) as held:
            self._recover(held)
            identity = self._identity(gpu)
            found = read_gpu(self.driver, identity.index)
            before = found.state
            missing = [one for one in destroy if one not in before.instances]
            if missing:
                raise InputError(f"GPU {identity.index} has no instance {missing[0]} to destroy; it is [{before}]")
            left = [one for one in before.instances if one not in destroy]
            after = state(before.mig, [*left, *create], before.pending)
            if mig is not None:
                after = state(mig, after.instances)
            change = GpuPlan(identity.index, gpu, identity.name, before, after, {})
            if not after.mig and after.instances:
                raise DeviceError(NOT_SUPPORTED, "nvmlDeviceCreateGpuInstance", f"GPU {identity.index}")
            self._check_idle([change], {gpu: found}, tenant)
            pid = None if lasting else os.getpid()
            claims = [Tenant(gpu, one.profile, one.start, tenant, pid) for one in create] if tenant is not None else []
            if change.steps:
                self._transactions(held).run([change], claims)
            else:
                for claim in claims:
                    self.journal.claim(claim)
