"""A fleet of MIG GPUs that tenants acquire instances from and release them to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rltune.mig.configurations import configuration_number
from rltune.mig.geometry import Placement
from rltune.mig.online.journal import Found, Journal, Record, read_journal
from rltune.mig.online.ledger import Held, Ledger, Totals
from rltune.mig.online.migration import Move, make_room, relocation
from rltune.mig.online.options import ANYONE, FleetOptions, Quota, make_policy
from rltune.mig.online.policies import Policy, Scorer
from rltune.mig.online.pool import Key, Pool
from rltune.mig.online.value import Learned, Weights
from rltune.nouns.checked import shown
from rltune.nouns.errors import InputError

TIE = 1e-9
"""Scores closer than this are equal: states that mirror each other differ by rounding only."""
DAMAGED = (LookupError, ValueError, AttributeError, TypeError, OverflowError, StopIteration, AssertionError)
"""What a damaged record raises."""
SHORTEN_AFTER = 20_000
"""Events after which the journal is replaced by the state: a second or so of a restart."""
LONGEST_NAME = 255
"""Characters of a tenant's or a request's name."""
Wanted = list[tuple[Pool, int]]
"""The pools that have a profile, with its index in each."""


class Slot(NamedTuple):
    """Where an instance goes: a pool, a GPU's number, a placement."""

    pool: Pool
    gpu: int
    placement: Placement


@dataclass(frozen=True, slots=True)
class Lease:
    """What a tenant got.

    ``tenant``, ``request`` (empty: the only one); ``gpu`` number and ``model``; ``profile`` the driver's name; ``start``
    memory slice; ``configuration`` number of the GPU's state now (`rltune.mig.configurations`); ``seconds`` that creation,
    destruction and migrations take; whether a GPU was ``provisioned``, an instance ``reused``; ``migrations`` made for it;
    ``device`` what a job gets in CUDA_VISIBLE_DEVICES, where the fleet is on a machine's GPUs (`rltune.devices.serving`).
    """

    tenant: str
    request: str
    gpu: int
    model: str
    profile: str
    start: int
    configuration: int
    seconds: float
    provisioned: bool
    reused: bool
    migrations: int
    device: str = ""


class Fleet:
    """``Fleet(options)``, then `acquire` and `release`; with a ``journal`` every accepted event is on disk first.

    A request that cannot be met raises InputError and changes nothing. ``policy`` a placement policy of your own instead
    of the one that the options name; ``at`` the caller's clock now, in seconds.

    ``carry_out``, if set, is called with each event when it is in the journal and before it takes effect; if it raises, the
    event is taken back, and nothing has changed. ``next_device``, if set, names the machine's GPU that a GPU of a type that is
    about to be provisioned stands for.
    """

    def __init__(
        self,
        options: FleetOptions,
        journal: str | Path | None = None,
        policy: Policy | None = None,
        at: float = 0.0,
    ) -> None:
        self.options = options
        self.ledger = Ledger(options, policy or make_policy(options), _seconds(at))
        self.notes: list[str] = []
        self.carry_out: Callable[[Record], None] | None = None
        self.next_device: Callable[[str], str] | None = None
        self._journal: Journal | None = None
        self._grouped = False
        self._own_policy = policy is not None
        if journal is not None:
            self._journal = Journal(journal)
            try:
                note = self._journal.begin(self._head())
            except InputError:
                self._journal.close()
                raise
            self.notes += [note] if note else []

    def _head(self) -> Record:
        policy = self.ledger.policy
        weights = policy.weights.as_json() if isinstance(policy, Learned) else None
        return {"event": "fleet", "at": self.ledger.clock, "options": self.options.as_json(), "weights": weights}

    @staticmethod
    def restore(journal: str | Path, policy: Policy | None = None) -> Fleet:
        """The fleet as it was when its journal ended; ``notes`` tells of a half-written last line.

        A ``policy`` of your own must be given again, as it was when the journal began.
        """
        if not Path(journal).is_file():
            raise InputError(f"{journal}: no such journal")
        # Locked before it is read: no other process may add events that would then be missed.
        locked = Journal(journal)
        try:
            found = read_journal(journal)
            fleet = Fleet._replayed(journal, found, policy)
            locked.go_on(found)
        except BaseException:
            locked.close()
            raise
        fleet._journal = locked
        fleet._shorten()
        return fleet

    @staticmethod
    def _replayed(journal: str | Path, found: Found, policy: Policy | None) -> Fleet:
        head = found.records[0]
        try:
            options = FleetOptions.from_json(head["options"])
            weights, at = head["weights"], _seconds(head["at"])
        except DAMAGED as error:
            raise InputError(f"{journal}, line 1: no fleet's options ({error!r}); restore it from a copy") from None
        except InputError as error:
            raise InputError(f"{journal}, line 1: {error}") from None
        own = policy is not None
        if policy is None and weights is not None:
            policy = make_policy(options, Weights.from_json(weights, f"{journal}, line 1"))
        fleet = Fleet(options, policy=policy, at=at)
        fleet._own_policy = own
        for number, record in enumerate(found.records, start=1):
            try:
                fleet.ledger.apply(record)
            except DAMAGED as error:
                raise InputError(
                    f"{journal}, line {number}: does not follow from the lines before ({error!r}); restore it from a copy"
                ) from None
            if number in found.faults:
                raise InputError(f"{journal}, line {number}: {found.faults[number]}; restore the journal from a copy")
        fleet.notes += [found.note] if found.note else []
        return fleet

    def _shorten(self) -> None:
        """After many events, put the state in the place of all lines: a restart then takes milliseconds again."""
        # What a policy of the caller's own has learned is not ours to write down.
        if self._journal is None or self._own_policy or self._journal.lines < SHORTEN_AFTER:
            return
        try:
            self._journal.replace({**self._head(), "state": self.ledger.snapshot()})
        except InputError as error:
            self.notes.append(str(error))

    @contextmanager
    def group(self) -> Iterator[None]:
        """Events inside are brought to disk together when it is left: to be answered after that, and not before.

        InputError if that fails; then none of them may be answered.
        """
        self._grouped = True
        try:
            yield
        finally:
            self._grouped = False
            if self._journal is not None:
                self._journal.sync()
                self._shorten()

    def close(self) -> None:
        """Close the journal."""
        if self._journal is not None:
            self._journal.close()

    @property
    def gpus(self) -> int:
        """GPUs provisioned now."""
        return self.ledger.gpus

    @property
    def totals(self) -> Totals:
        return self.ledger.totals

    def leases(self, tenant: str) -> dict[str, tuple[int, Placement]]:
        """What a tenant holds: request -> GPU number and placement."""
        return {request: (h.gpu, h.placement) for request, h in self.ledger.tenants.get(tenant, {}).items()}

    def acquire(self, tenant: str, profile: str, request: str = "", at: float | None = None) -> Lease:
        """An instance of ``profile`` (kind ``3g`` or the driver's ``3g.40gb``) for a tenant.

        ``request`` names it if the tenant has several; ``at`` seconds on the caller's clock (default: the last ones).
        InputError, and nothing changed: an unknown profile, a request that is held already, a quota, a fleet at its limit.
        """
        wanted = self._wanted(profile)
        self._admit(tenant, request, wanted)
        scorer = self.ledger.policy.scorer(self.ledger.view())
        slot, moves, provisioned = self._best_slot(wanted, scorer), list[Move](), False
        if slot is None and (allowed := self._migrations_left(wanted)) > 0:
            slot, moves = self._slot_by_migration(wanted, scorer, allowed)
        if slot is None:
            slot, provisioned = self._new_gpu(wanted, profile), True
        now = self._now(at)
        used = {slot.gpu, *(move.gpu for move in moves)}
        record = {
            "event": "acquire",
            "at": now,
            "tenant": tenant,
            "request": request,
            "model": slot.pool.table.geometry.model,
            "gpu": slot.gpu,
            "placement": list(slot.placement),
            "provisioned": provisioned,
            "moves": [move.as_json() for move in moves],
            "gone": self._unneeded(now, used=used),
        }
        if provisioned and self.next_device is not None:
            record["device"] = self.next_device(slot.pool.table.geometry.model)
        before = (self.totals.create_s + self.totals.destroy_s, self.totals.reused)
        self._commit(record)
        return self._lease(record, slot, before)

    def _lease(self, record: Record, slot: Slot, before: tuple[float, int]) -> Lease:
        table, state = slot.pool.table, slot.pool.gpus[slot.gpu].state
        return Lease(
            record["tenant"],
            record["request"],
            slot.gpu,
            record["model"],
            table.geometry.profiles[slot.placement.profile].name,
            slot.placement.start,
            configuration_number(table.geometry, table.states[state]),
            self.totals.create_s + self.totals.destroy_s - before[0],
            record["provisioned"],
            self.totals.reused > before[1],
            len(record["moves"]),
        )

    def release(self, tenant: str, request: str | None = None, at: float | None = None) -> tuple[str, ...]:
        """Take back one request of a tenant, or all (None); their names. InputError if there is nothing to take back.

        Releasing twice is refused the second time and changes nothing.
        """
        held = self.ledger.tenants.get(tenant, {})
        if not held:
            raise InputError(f"tenant {shown(tenant)} holds nothing: never acquired, or released already")
        if request is not None and request not in held:
            known = ", ".join(repr(name) for name in sorted(held))
            raise InputError(f"tenant {tenant!r} holds no request {shown(request)}; it holds {known}")
        requests = tuple(sorted(held)) if request is None else (request,)
        record: Record = {"event": "release", "at": self._now(at), "tenant": tenant, "requests": list(requests)}
        left = self._left_behind(held[name] for name in requests)
        if left:
            record["left"] = left
        touched, leaving = {held[name].gpu for name in requests}, {(tenant, name) for name in requests}
        self._commit({**record, "gone": self._unneeded(self._now(at), touched, leaving)})
        return requests

    def _left_behind(self, leaving: Iterable[Held]) -> dict[int, list[list[int]]]:
        """Instances that stay on GPUs set aside: they are destroyed when those are back."""
        left: dict[int, list[list[int]]] = {}
        for one in leaving:
            if one.gpu in one.pool.aside and not self.options.lazy:
                left.setdefault(one.gpu, []).append(list(one.placement))
        return left

    def migrate(self, tenant: str, request: str = "", at: float | None = None) -> tuple[int, Placement]:
        """Move an instance to the best other slot there is; where it is now. InputError if there is none.

        The new instance is created before the old one goes. A migration requested so does not count against the share that
        the fleet may migrate of itself.
        """
        held = self.ledger.tenants.get(tenant, {}).get(request)
        if held is None:
            raise InputError(f"tenant {tenant!r} holds no request {request!r}")
        move = relocation(self.ledger, (tenant, request), self.ledger.policy.scorer(self.ledger.view()))
        if move is None:
            raise InputError(f"no GPU has another slot for the instance of tenant {tenant!r}; it stays")
        self._commit({"event": "migrate", "at": self._now(at), "moves": [move.as_json()]})
        return move.gpu, move.placement

    def deprovision(self, keep: int = 0, at: float | None = None) -> tuple[int, ...]:
        """Give back empty GPUs, those with the highest numbers first, until ``keep`` empty ones are left; their numbers."""
        empty = sorted(number for number, _ in self._empty_gpus())
        gone = empty[keep:]
        if gone:
            self._commit({"event": "deprovision", "at": self._now(at), "gone": gone})
        return tuple(gone)

    def _empty_gpus(self) -> Iterator[tuple[int, float]]:
        for pool in self.ledger.pools.values():
            for number in pool.members.get(0, ()):
                yield number, pool.gpus[number].empty_since

    def _unneeded(
        self,
        now: float,
        touched: AbstractSet[int] = frozenset(),
        leaving: AbstractSet[Key] = frozenset(),
        used: AbstractSet[int] = frozenset(),
    ) -> list[int]:
        """Empty GPUs beyond the spares, counting those that this release empties, and not those that are to be used."""
        if self.options.spares is None:
            return []
        since = {number: begin for number, begin in self._empty_gpus() if number not in used}
        for pool in self.ledger.pools.values():
            for number in touched & pool.gpus.keys():
                if set(pool.gpus[number].held.values()) <= leaving:
                    since[number] = now
        old_enough = sorted(number for number, begin in since.items() if now - begin >= self.options.idle_s)
        # Those too young to go are spares already.
        return old_enough[max(self.options.spares - (len(since) - len(old_enough)), 0) :]

    def _wanted(self, profile: str) -> Wanted:
        found, refusals = [], []
        for pool in self.ledger.pools.values():
            try:
                index = pool.table.geometry.profile(profile)
            except InputError as error:
                refusals.append(str(error))
                continue
            if index in pool.table.transitions:
                found.append((pool, index))
            else:
                refusals.append(
                    f"{profile} on {pool.table.geometry.model} has the media engines, which need media=true"
                )
        if not found:
            raise InputError("; ".join(refusals))
        return found

    def _admit(self, tenant: str, request: str, wanted: Wanted) -> None:
        if max(len(tenant), len(request)) > LONGEST_NAME:
            raise InputError(
                f"tenant {shown(tenant)}, request {shown(request)}: names have at most {LONGEST_NAME} characters"
            )
        if not tenant or tenant.split() != [tenant] or (request and request.split() != [request]):
            raise InputError(f"tenant {tenant!r}, request {request!r}: names are words without spaces")
        if not encodable(tenant + request):
            raise InputError(f"tenant {tenant!r}, request {request!r}: names must be UTF-8 text")
        if (tenant, request) in self.ledger.held:
            what = f"request {request!r}" if request else "an instance"
            raise InputError(f"tenant {tenant!r} holds {what} already; name another request, or release it first")
        quota = self.options.quotas.get(tenant, self.options.quotas.get(ANYONE, Quota()))
        used = self.ledger.usage(tenant)
        slices = min(pool.table.geometry.profiles[index].compute for pool, index in wanted)
        for name, most, more in (("instances", quota.instances, 1), ("slices", quota.slices, slices)):
            if most is not None and used[name] + more > most:
                raise InputError(
                    f"tenant {tenant!r} holds {used[name]} of {most} {name} of its quota; {more} more refused"
                )

    def _best_slot(self, wanted: Wanted, scorer: Scorer) -> Slot | None:
        """The best free slot of the GPUs there are; of equal ones, one whose instance is there, then the lowest GPU."""
        best, found = -np.inf, list[tuple[bool, int, int, Slot]]()
        for pool, profile in wanted:
            creations = pool.table.transitions[profile]
            rows = creations.only(pool.counts[creations.source] > 0)
            if not len(rows.source):
                continue
            scores = scorer(pool.table, rows)
            top = float(scores.max())
            if top > best + TIE:
                best, found = top, []
            if top < best - TIE:
                continue
            for at in np.flatnonzero(scores >= best - TIE):
                placement = Placement(profile, int(rows.start[at]))
                gpu, ready = pool.choose(int(rows.source[at]), placement)
                found.append((not ready, gpu, placement.start, Slot(pool, gpu, placement)))
        return min(found, key=lambda entry: entry[:3])[3] if found else None

    def _migrations_left(self, wanted: Wanted) -> int:
        """Migrations that this request may cause."""
        # Where demand has ever needed more GPUs than there are, a GPU more is no waste, and a migration would be.
        needed = max(self.ledger.needed, *(self.ledger.bound_with(pool, index) for pool, index in wanted))
        if self.gpus + 1 <= needed + self.options.slack:
            return 0
        earned = max(int(self.options.migrate * (self.totals.requests + 1)), self.options.migrate_credit)
        return min(earned - self.totals.migrations, self.options.chain)

    def _slot_by_migration(self, wanted: Wanted, scorer: Scorer, allowed: int) -> tuple[Slot | None, list[Move]]:
        found = make_room(self.ledger, wanted, scorer, allowed)
        return (None, []) if found is None else (Slot(*found[:3]), found[3])

    def _new_gpu(self, wanted: Wanted, profile: str) -> Slot:
        """A slot on a GPU yet to be provisioned, of the first type in the growth list that has the profile and may grow."""
        for pool, index in wanted:
            if pool.limit is not None and len(pool.gpus) >= pool.limit:
                continue
            table = pool.table
            scorer = self.ledger.policy.scorer(self.ledger.view(plus=pool))
            creations = table.transitions[index]
            rows = creations.only(creations.source == 0)
            start = int(rows.start[int(np.argmax(scorer(table, rows)))])
            return Slot(pool, self.ledger.next_gpu, Placement(index, start))
        limits = ", ".join(f"{pool.limit} {pool.table.geometry.model}" for pool, _ in wanted)
        raise InputError(f"no room for {profile} on {self.gpus} GPUs, and the fleet is at its limit ({limits})")

    def _now(self, at: float | None) -> float:
        """A clock that never goes back."""
        return self.ledger.clock if at is None else max(_seconds(at), self.ledger.clock)

    def _commit(self, record: Record) -> None:
        if self._journal is not None:
            self._journal.append(record)
            if not self._grouped:
                self._sync()
        if self.carry_out is not None:
            try:
                self.carry_out(record)
            except BaseException:
                if self._journal is not None:
                    self._journal.take_back()
                    if not self._grouped:
                        self._journal.sync()
                raise
        self.ledger.apply(record)
        if not self._grouped:
            self._shorten()

    def _sync(self) -> None:
        """Before it is known to be on disk an event has not been accepted."""
        assert self._journal is not None
        try:
            self._journal.sync()
        except InputError as error:
            raise InputError(f"{error}; nothing changed") from None

    def note(self, record: Record) -> None:
        """Write an event that changes no lease: which GPUs of a machine are whose, what was left on one and is gone."""
        if self._journal is not None:
            self._journal.append(record)
            if not self._grouped:
                self._sync()
        self.ledger.apply(record)


def encodable(text: str) -> bool:
    """Whether a text can be written as UTF-8; one read from bytes that were none cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _seconds(at: float) -> float:
    if isinstance(at, bool) or not isinstance(at, int | float) or not math.isfinite(at):
        raise InputError(f"at={at!r}: accepted are seconds, such as 12.5")
    return float(at)
