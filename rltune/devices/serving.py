"""The online fleet on a machine's GPUs: what the ledger says a tenant holds is an instance that is there.

An event is written to the fleet's journal, then carried out by the adapter, one transaction a GPU, then booked. What the
hardware refuses is taken back from the journal and never booked, so that ledger and hardware agree after every answer. Which
GPU of the machine a GPU of the fleet is stands in the journal, by UUID: cards may change places. A GPU that cannot be reached or
brought to the ledger's state is set aside, and the others go on. An instance is the fleet's own where the adapter's journal has
the fleet's claim on it, written with the end of the change that made it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from rltune.devices.adapter import Adapter, RolledBack
from rltune.devices.driver import Driver, Identity
from rltune.devices.lock import locked
from rltune.devices.models import model_of
from rltune.devices.reading import Users, read_state, read_users
from rltune.devices.state import Instance, whole
from rltune.devices.status import DeviceError
from rltune.mig.geometry import Geometry, Placement, geometry
from rltune.mig.online.fleet import Fleet, Lease
from rltune.mig.online.journal import Record, read_journal
from rltune.mig.online.ledger import Ledger, in_the_way
from rltune.mig.online.options import FleetOptions
from rltune.mig.online.policies import FirstFit
from rltune.mig.online.pool import Key, Pool
from rltune.nouns.errors import InputError

TENANT = "rltune-fleet"
"""In whose name the adapter holds the fleet's instances, also while no fleet runs."""
Uuids = Mapping[Instance, tuple[str, ...]]
"""Names of MIG devices by instance, as `Adapter.uuids` has them."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What an event does to one GPU; ``number`` the fleet's, ``ending`` instances that their tenants give back, ``asked`` the
    one that a tenant is to get."""

    number: int
    gpu: Identity
    destroy: tuple[Instance, ...] = ()
    create: tuple[Instance, ...] = ()
    ending: tuple[Instance, ...] = ()
    asked: Instance | None = None


def machine_gpus(driver: Driver) -> dict[str, list[Identity]]:
    """GPUs by type of rltune's tables, in NVML's order; those that cannot be reached are not among them."""
    found: dict[str, list[Identity]] = {}
    for gpu in driver.gpus():
        model = None if not gpu.uuid else model_of(gpu.name, driver.telemetry(gpu.index).memory_total_bytes)
        if model is not None:
            found.setdefault(model, []).append(gpu)
    return found


def check_options(options: FleetOptions, machine: Mapping[str, list[Identity]]) -> None:
    """Refuse what a fleet on these GPUs cannot do, before it is begun."""
    if options.migrate or options.migrate_credit:
        raise InputError(
            "migrate: on a device a tenant's job would lose its instance, as it cannot be moved while it runs; use migrate=0 "
            "migrate_credit=0"
        )
    if options.spares is not None:
        raise InputError(f"spares={options.spares}: the GPUs of a machine cannot be given back; use spares=null")
    for growth in options.growth:
        model = geometry(growth.model).model
        if model not in machine:
            has = ", ".join(f"{len(gpus)} {name}" for name, gpus in machine.items()) or "none that MIG can cut"
            raise InputError(f"gpu={growth.model}: the device has no {model}; it has {has}")
    for name, count in options.initial.items():
        there = len(machine[geometry(name).model])
        if count > there:
            raise InputError(f"initial.{name}={count}: the device has {there}")


class FleetOnDevice:
    """``FleetOnDevice(fleet, adapter, journal)``, then `acquire` and `release` as of the `Fleet`; ``notes`` tell of the start.

    The fleet is `Fleet` or restored from its ``journal``, a file; no other process may change it. InputError where the GPUs hold
    anything that the ledger does not know: it is named and left alone. What the ledger has and the GPUs have not is created.
    ``tell`` gets a line whenever an instance that a tenant holds had to be created again: its MIG device is another then.
    """

    def __init__(
        self, fleet: Fleet, adapter: Adapter, journal: str | Path, tell: Callable[[str], None] = lambda line: None
    ) -> None:
        self.fleet, self.adapter, self._tell = fleet, adapter, tell
        self.notes: list[str] = []
        self._doubtful: dict[str, frozenset[Instance]] = {}
        """UUIDs of GPUs where hardware and ledger may differ -> instances of ours that may be left on them."""
        self._named = ""
        """The MIG device of the last acquire."""
        machine = machine_gpus(adapter.driver)
        check_options(fleet.options, machine)
        with ExitStack() as stack:
            stack.enter_context(_alone(adapter))
            self._bind(machine)
            self._gpus = {model: self._usable(pool, machine[model]) for model, pool in fleet.ledger.pools.items()}
            self._start(_before_last(journal))
            self._held = stack.pop_all()
        fleet.carry_out, fleet.next_device = self._carry_out, self._next_device

    def close(self) -> None:
        """Let go of the fleet; instances stay, and the journal says who holds them."""
        self.fleet.carry_out = self.fleet.next_device = None
        self._held.close()
        self.fleet.close()

    # The start.

    def _bind(self, machine: Mapping[str, list[Identity]]) -> None:
        """Give the fleet's GPUs that stand for none of the machine's yet the first that are free: new ones, or an old journal's."""
        ledger = self.fleet.ledger
        bound: dict[str, str] = {}
        lost = [gpu.index for gpu in self.adapter.driver.gpus() if not gpu.uuid]
        for model, pool in ledger.pools.items():
            there = {gpu.uuid for gpu in machine[model]}
            new = [number for number in sorted(pool.gpus) if number not in ledger.devices]
            if pool.gpus and not new and not lost and not there & {ledger.devices[number] for number in pool.gpus}:
                # Every card of it was replaced, and none merely moved.
                new = sorted(pool.gpus)
                self.notes.append(f"none of the fleet's {model} is there any more: others take their place")
            taken = {uuid for number, uuid in ledger.devices.items() if number not in new}
            free = [gpu for gpu in machine[model] if gpu.uuid not in taken]
            if len(new) > len(free):
                raise InputError(
                    f"the fleet has {len(pool.gpus)} {model}, the device {len(machine[model])}; name another journal"
                )
            bound |= {str(number): gpu.uuid for number, gpu in zip(new, free, strict=False)}
        if not bound:
            return
        if ledger.totals.requests and not ledger.devices:
            if lost:
                raise InputError(
                    f"GPU {lost[0]} cannot be reached, and an earlier version wrote no UUIDs: which GPU is which? `show` says why"
                )
            self.notes.append("the journal is of an earlier version: its GPUs are taken to stand in the order of then")
        self.fleet.note({"event": "bind", "at": ledger.clock, "devices": bound})

    def _usable(self, pool: Pool, gpus: list[Identity]) -> list[Identity]:
        """The machine's GPUs of a pool's type that the fleet has, and may have: that many are its limit."""
        model, devices = pool.table.geometry.model, self.fleet.ledger.devices
        mine = {devices[number] for number in pool.gpus}
        away = mine - {gpu.uuid for gpu in gpus}
        has = len(gpus) + len(away)
        if pool.limit is not None and pool.limit > has:
            self.notes.append(f"the device has {has} {model}: that is the limit, not {pool.limit}")
        pool.limit = has if pool.limit is None else min(pool.limit, has)
        free = [gpu for gpu in gpus if gpu.uuid not in devices.values()][: max(0, pool.limit - len(pool.gpus))]
        return [gpu for gpu in gpus if gpu.uuid in mine or gpu in free]

    def _start(self, leftover: Mapping[int, frozenset[Instance]]) -> None:
        """Bring the GPUs to the ledger's state, having looked at all of them first."""
        try:
            self.notes += self.adapter.recover()
        except InputError as error:
            self.notes.append(str(error))
        parts: list[_Part] = []
        ledger, claims = self.fleet.ledger, self._claims()
        for pool in ledger.pools.values():
            gpus = self._gpus[pool.table.geometry.model]
            reached = {gpu.uuid for gpu in gpus}
            for uuid in [ledger.devices[number] for number in sorted(pool.gpus)]:
                if uuid not in reached:
                    self._set_aside(uuid, frozenset(), "it is not there, or cannot be reached")
            for gpu in list(gpus):
                number = self._number(gpu.uuid)
                ours = frozenset() if number is None else leftover.get(number, frozenset()) | self._left(number)
                parts += self._looked_at(pool, gpu, number, ours, claims.get(gpu.uuid, set()))
            if gpus:
                self.notes += self._unlike_tables(pool.table.geometry, gpus[0])
        for part in parts:
            try:
                self._apply(part)
            except InputError as error:
                self._set_aside(part.gpu.uuid, frozenset(part.destroy + part.create), str(error))
                continue
            self._swept(part.number)
            created = self._told_again(part)
            self.notes += [f"{line}: it was not there, and was created" for line in created]
            self.notes += [f"GPU {part.gpu.index}: {one} was being given back, and is gone now" for one in part.destroy]

    def _claims(self) -> dict[str, set[tuple[str, int]]]:
        """Places of the instances that the fleet made, by GPU."""
        found: dict[str, set[tuple[str, int]]] = {}
        for one in self.adapter.tenants():
            if one.tenant == TENANT:
                found.setdefault(one.gpu, set()).add((one.profile, one.start))
        return found

    def _looked_at(
        self, pool: Pool, gpu: Identity, number: int | None, ours: frozenset[Instance], claims: set[tuple[str, int]]
    ) -> list[_Part]:
        """What one GPU lacks and has left over; one that does not answer is set aside."""
        try:
            part = self._compared(number, gpu, ours, claims)
        except DeviceError as error:
            if number is None:
                assert pool.limit is not None
                pool.limit -= 1
                self._gpus[pool.table.geometry.model].remove(gpu)
                self.notes.append(f"GPU {gpu.index} is left out: {error}")
            else:
                self._set_aside(gpu.uuid, ours, str(error))
            return []
        return [] if part is None else [part]

    def _set_aside(self, uuid: str, ours: frozenset[Instance], why: str) -> None:
        """Place nothing on a GPU until it answers and is as the ledger says; the others go on."""
        self._doubtful[uuid] = self._doubtful.get(uuid, frozenset()) | ours
        number = self._number(uuid)
        pool = None if number is None else self._pool(number)
        if number is not None and pool is not None and number not in pool.aside:
            pool.set_aside(number)
            self._note(f"GPU {number} of the fleet ({uuid}) is set aside, the others go on: {why}")

    def _note(self, line: str) -> None:
        """To whoever reads the notes of the start, or watches the service."""
        if self.fleet.carry_out is None:
            self.notes.append(line)
        else:
            self._tell(line)

    def _left(self, number: int) -> frozenset[Instance]:
        """Instances that were given back while their GPU could not be reached."""
        pool = self._pool(number)
        places = self.fleet.ledger.left.get(number, ())
        return frozenset() if pool is None else frozenset(_instance(pool.table.geometry, one) for one in places)

    def _swept(self, number: int | None) -> None:
        """What was left on a GPU is gone."""
        if number is not None and number in self.fleet.ledger.left:
            self.fleet.note({"event": "settled", "at": self.fleet.ledger.clock, "gpus": [number]})

    def _compared(
        self, number: int | None, gpu: Identity, ours: frozenset[Instance], claims: set[tuple[str, int]]
    ) -> _Part | None:
        """What one GPU lacks and has left over; InputError for MIG off, and for what is not the fleet's."""
        where = f"GPU {gpu.index}"
        now = read_state(self.adapter.driver, gpu.index)
        if not now.mig:
            raise InputError(
                f"{where}: MIG is off; turn it on (apply a spec with mig: true), or begin a fleet with a lower limit (gpu=TYPE:N)"
            )
        wanted = frozenset() if number is None else self._wanted(number)
        # By the claim: in the very place of ours somebody else may have made his own.
        foreign = [one for one in now.instances if one not in wanted | ours or (one.profile, one.start) not in claims]
        users = read_users(self.adapter.driver, gpu.index, {})
        if foreign:
            names = ", ".join(f"{one} ({users.of[one]})" if one in users.of else str(one) for one in foreign)
            known = [one for one in foreign if one in wanted]
            claim = (
                f", claim it for the fleet (`tenants claim {gpu.index} {known[0]} {TENANT}`, where a tenant holds it)"
                if known
                else ""
            )
            raise InputError(
                f"{where}: {names} is not the fleet's; destroy it{claim}, or begin a fleet with a lower limit (gpu=TYPE:N)"
            )
        if users.elsewhere:
            pids = ", ".join(map(str, users.elsewhere))
            raise InputError(
                f"{where}: pid {pids} runs on it in no instance; end it, or begin a fleet with a lower limit (gpu=TYPE:N)"
            )
        if number is None:
            return None
        for one in now.instances:
            if one in users.of and one not in self._holders(number):
                raise InputError(
                    f"{where}: {one} is in use ({users.of[one]}), and no tenant of the fleet holds it; end that"
                )
        gone = tuple(one for one in now.instances if one not in wanted)
        return _Part(number, gpu, gone, tuple(sorted(wanted - set(now.instances))))

    def _unlike_tables(self, table: Geometry, gpu: Identity) -> list[str]:
        """Profiles that the fleet may choose and the driver does not have so: it will refuse them."""
        try:
            listed = {(one.name, one.size): set(one.starts) for one in self.adapter.driver.profiles(gpu.index)}
        except DeviceError:
            return []  # set aside, and told
        return [
            f"GPU {gpu.index}: the driver does not list {one.name} as the fleet's tables do; it may refuse some"
            for one in table.profiles
            if one.kind in self.fleet.options.kinds and not set(one.starts) <= listed.get((one.name, one.size), set())
        ]

    # Requests.

    def group(self) -> AbstractContextManager[None]:
        """As `Fleet.group`."""
        return self.fleet.group()

    def acquire(self, tenant: str, profile: str, request: str = "", at: float | None = None) -> Lease:
        """As `Fleet.acquire`; the lease names the MIG device. InputError also where the hardware refuses.

        A GPU that turns out to be lost is set aside: the next request is met by another.
        """
        self._settle()
        lease = self.fleet.acquire(tenant, profile, request, at)
        return replace(lease, device=self._named)

    def release(self, tenant: str, request: str | None = None, at: float | None = None) -> tuple[str, ...]:
        """As `Fleet.release`; InputError also where a process still runs in an instance, or the hardware refuses."""
        self._settle()
        return self.fleet.release(tenant, request, at)

    def _carry_out(self, record: Record) -> None:
        self._settle()
        parts = self._parts(record)
        for part in parts:
            try:
                self._check_idle(part)
            except DeviceError as error:
                self._set_aside(part.gpu.uuid, frozenset(), str(error))
                raise
        before: dict[str, Uuids] = {}
        try:
            before = {part.gpu.uuid: self.adapter.uuids(part.gpu.uuid) for part in parts if part.destroy}
            for part in parts:
                self._apply(part)
                if part.asked is not None:
                    self._named = self._device(part.gpu, part.asked)
        except BaseException as error:
            raised = self._undone(parts, before, error)
            if raised is error:
                raise
            raise raised from error

    def _undone(self, parts: list[_Part], before: Mapping[str, Uuids], error: BaseException) -> BaseException:
        """After a failure: the GPUs are brought to the ledger's state again, at once if that can be; what is to be raised."""
        for part in parts:
            self._doubtful[part.gpu.uuid] = frozenset(part.destroy + part.create)
        renamed: list[str] = []
        # What cannot be put right now is tried again before the next request.
        self._settle()
        for part in parts:
            with suppress(InputError):
                renamed += self._renamed(part, before.get(part.gpu.uuid, {}))
        if isinstance(error, RolledBack) and error.exit_status != RolledBack.exit_status:
            return KeyboardInterrupt()
        if isinstance(error, InputError) and renamed:
            return InputError(f"{error}; created again: {'; '.join(renamed)}")
        return error

    def _renamed(self, part: _Part, before: Uuids) -> list[str]:
        """Instances that were to go, came back, and bear another name."""
        now = self.adapter.uuids(part.gpu.uuid)
        return [f"{one} is {now[one][0]}" for one in part.destroy if now.get(one) and now[one] != before.get(one)]

    def _parts(self, record: Record) -> list[_Part]:
        """What an event does to each GPU, from the state before it."""
        if record["event"] not in ("acquire", "release") or record.get("moves") or record.get("gone"):
            raise InputError("a fleet on a device moves no instances and gives no GPUs back; acquire and release only")
        if record["event"] == "acquire":
            pool, number = self.fleet.ledger.pools[record["model"]], record["gpu"]
            placement, gpu = Placement(*record["placement"]), pool.gpus.get(number)
            asked = _instance(pool.table.geometry, placement)
            machine = self._reached(record.get("device") or self.fleet.ledger.devices[number])
            if gpu is not None and placement in gpu.idle:
                return [_Part(number, machine, asked=asked)]
            going = [] if gpu is None else in_the_way(pool, gpu, placement)
            destroy = tuple(_instance(pool.table.geometry, one) for one in going)
            return [_Part(number, machine, destroy, (asked,), asked=asked)]
        ending: dict[int, list[Instance]] = {}
        pools: dict[int, Pool] = {}
        for request in record["requests"]:
            held = self.fleet.ledger.held[record["tenant"], request]
            pools[held.gpu] = held.pool
            ending.setdefault(held.gpu, []).append(_instance(held.pool.table.geometry, held.placement))
        lazy = self.fleet.options.lazy
        return [
            _Part(
                number,
                self._reached(self.fleet.ledger.devices[number]),
                () if lazy else tuple(gone),
                ending=tuple(gone),
            )
            for number, gone in sorted(ending.items())
            # On a GPU that is set aside nothing can be done now: what is left there goes when it is back.
            if number not in pools[number].aside
        ]

    def _check_idle(self, part: _Part) -> None:
        """No tenant gets an instance in which processes of the last one still run, and none is destroyed under them."""
        if not part.ending:
            return
        users: Users = read_users(self.adapter.driver, part.gpu.index, {})
        for one in part.ending:
            if one in users.of:
                raise InputError(f"GPU {part.gpu.index}: {one} is in use ({users.of[one]}); end that, then release it")

    def _settle(self) -> None:
        """Bring GPUs in doubt to the ledger's state, and tell of what tenants hold that had to be created again.

        Those with which that fails stay set aside.
        """
        for uuid, ours in list(self._doubtful.items()):
            number = self._number(uuid)
            try:
                part = self._settled(uuid, number, ours)
            except InputError as error:
                self._set_aside(uuid, ours, str(error))
                continue
            del self._doubtful[uuid]
            self._swept(number)
            pool = None if number is None else self._pool(number)
            if number is not None and pool is not None and number in pool.aside:
                pool.take_in(number)
                self._note(f"GPU {number} of the fleet ({uuid}) is as it should be, and is used again")
            for line in self._told_again(part):
                self._tell(f"{line}: it had gone, and was created again")

    def _settled(self, uuid: str, number: int | None, ours: frozenset[Instance]) -> _Part:
        """One GPU brought to the ledger's state; what that took."""
        gpu = self._machine(uuid)
        self.adapter.recover([uuid])
        now = read_state(self.adapter.driver, gpu.index).instances
        wanted = frozenset() if number is None else self._wanted(number)
        ours |= frozenset() if number is None else self._left(number)
        claims = self._claims().get(uuid, set())
        gone = tuple(one for one in now if one in ours and one not in wanted and (one.profile, one.start) in claims)
        part = _Part(-1 if number is None else number, gpu, gone, tuple(sorted(wanted - set(now))))
        self._apply(part)
        return part

    # What is where.

    def _apply(self, part: _Part) -> None:
        if part.destroy or part.create:
            self.adapter.reconfigure(part.gpu.uuid, part.destroy, part.create, TENANT, lasting=True)

    def _pool(self, number: int) -> Pool | None:
        return next((pool for pool in self.fleet.ledger.pools.values() if number in pool.gpus), None)

    def _number(self, uuid: str) -> int | None:
        """The fleet's number of a machine's GPU; None for one that is not in it yet."""
        devices = self.fleet.ledger.devices
        return next((number for number, device in devices.items() if device == uuid and self._pool(number)), None)

    def _machine(self, uuid: str) -> Identity:
        """The machine's GPU of this UUID as it is numbered now."""
        for gpu in self.adapter.driver.gpus():
            if gpu.uuid == uuid:
                return gpu
        raise InputError(f"GPU {uuid} is not there, or cannot be reached; `show` says why")

    def _reached(self, uuid: str) -> Identity:
        """The same; one that is not there is set aside."""
        try:
            return self._machine(uuid)
        except InputError as error:
            self._set_aside(uuid, frozenset(), str(error))
            raise

    def _next_device(self, model: str) -> str:
        """The first GPU of a type that the fleet does not have yet."""
        taken = {*self.fleet.ledger.devices.values(), *self._doubtful}
        for gpu in self._gpus[model]:
            if gpu.uuid not in taken:
                return gpu.uuid
        raise InputError(f"no further {model} of this machine can be reached; `show` says why")

    def _wanted(self, number: int) -> frozenset[Instance]:
        """The instances that a GPU should have, by the ledger."""
        pool = self._pool(number)
        if pool is None:
            return frozenset()
        gpu = pool.gpus[number]
        return frozenset(_instance(pool.table.geometry, one) for one in [*gpu.held, *gpu.idle])

    def _holders(self, number: int) -> dict[Instance, Key]:
        pool = self._pool(number)
        if pool is None:
            return {}
        return {_instance(pool.table.geometry, one): key for one, key in pool.gpus[number].held.items()}

    def _device(self, gpu: Identity, instance: Instance) -> str:
        found = self.adapter.uuids(gpu.uuid).get(instance)
        if not found:
            raise InputError(
                f"GPU {gpu.index}: {instance} has gone, or the driver names no MIG device for it; try again"
            )
        return found[0]

    def _told_again(self, part: _Part) -> list[str]:
        """A line for each instance that was created for a tenant who had one already: its name is another."""
        holders = self._holders(part.number)
        lines = []
        for one in part.create:
            if one in holders:
                who = " ".join(word for word in holders[one] if word)
                lines.append(f"GPU {part.gpu.index}: {one} of {who} is {self._device(part.gpu, one)}")
        return lines


def _instance(table: Geometry, placement: Placement) -> Instance:
    return whole(table.profiles[placement.profile].name, placement.start)


def _before_last(journal: str | Path) -> dict[int, frozenset[Instance]]:
    """Instances by GPU number before the journal's last event: if that was cut short, some may be left on the hardware."""
    records = read_journal(journal).records
    # No decision is made anew, so any policy will do.
    ledger = Ledger(FleetOptions.from_json(records[0]["options"]), FirstFit(), records[0]["at"])
    for record in records[:-1]:
        ledger.apply(record)
    return {
        number: frozenset(_instance(pool.table.geometry, one) for one in [*gpu.held, *gpu.idle])
        for pool in ledger.pools.values()
        for number, gpu in pool.gpus.items()
    }


@contextmanager
def _alone(adapter: Adapter) -> Iterator[None]:
    """No other fleet on this device meanwhile: neither would know the other's instances."""
    # Of real GPUs the first may be lost, or another card, at the next start; simulated machines share a folder of locks.
    path = adapter.lock_of("fleet" if adapter.driver.kind == "nvml" else f"fleet-{adapter.driver.gpus()[0].uuid}")
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path))
        except InputError as error:
            raise InputError(
                f"{path}: held by another fleet on this device, or not to be locked; end that first"
            ) from error
        yield
