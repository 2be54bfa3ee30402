"""The state of a fleet and how events change it: no decision is made here, so that a journal replays to the same state."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rltune.mig.geometry import Placement, geometry
from rltune.mig.online.bounds import ROUNDING, dual_weights
from rltune.mig.online.demand import Demand
from rltune.mig.online.journal import Record
from rltune.mig.online.options import FleetOptions
from rltune.mig.online.policies import Policy, View
from rltune.mig.online.pool import Gpu, Key, Pool
from rltune.mig.online.states import VALUED, state_table
from rltune.mig.online.value import Learned


@dataclass(frozen=True, slots=True)
class Held:
    """Where a request's instance is: its pool, the GPU's number, the placement."""

    pool: Pool
    gpu: int
    placement: Placement


@dataclass(slots=True)
class Totals:
    """Counted since the fleet began: accepted requests, GPUs ever provisioned and most at a time, migrations by
    the fleet itself, those a caller asked for, instances handed out again, instances made and unmade, and the seconds that took."""

    requests: int = 0
    provisioned: int = 0
    peak: int = 0
    migrations: int = 0
    asked_migrations: int = 0
    reused: int = 0
    created: int = 0
    destroyed: int = 0
    create_s: float = 0.0
    destroy_s: float = 0.0


class Ledger:
    """GPUs, who holds what, demand, totals. ``apply`` takes an accepted event as the journal has it."""

    def __init__(self, options: FleetOptions, policy: Policy, clock: float = 0.0) -> None:
        self.options, self.policy, self.clock = options, policy, clock
        self.next_gpu = 0
        self.held: dict[Key, Held] = {}
        self.tenants: dict[str, dict[str, Held]] = {}
        self.totals = Totals()
        self.pools: dict[str, Pool] = {}
        kinds: set[str] = set()
        for growth in options.growth:
            table = state_table(geometry(growth.model), options.kinds)
            self.pools[table.geometry.model] = Pool(table, growth.limit)
            kinds |= set(table.kinds)
        self.demand = Demand(tuple(kinds), options.half_life)
        self._weights = dual_weights(tuple(pool.table.geometry for pool in self.pools.values()))
        self.devices: dict[int, str] = {}
        """Number of a GPU -> UUID of the machine's GPU that it is, where the fleet is on a machine's GPUs."""
        self.left: dict[int, set[Placement]] = {}
        """Instances that were given back, and could not be destroyed since their GPU could not be reached."""
        self._begins = True
        self.live = np.zeros(len(VALUED))
        self.needed = 0.0
        for model, count in options.initial.items():
            for _ in range(count):
                self._provision(self.pools[geometry(model).model], self.next_gpu)

    @property
    def gpus(self) -> int:
        """GPUs provisioned now."""
        return sum(len(pool.gpus) for pool in self.pools.values())

    def view(self, plus: Pool | None = None) -> View:
        """What a policy sees; ``plus`` a pool that is about to get one empty GPU more."""
        counts = {pool.table: pool.counts for pool in self.pools.values()}
        lowest = {pool.table: pool.lowest for pool in self.pools.values()}
        if plus is not None:
            counts[plus.table], lowest[plus.table] = plus.counts.copy(), plus.lowest.copy()
            counts[plus.table][0] += 1
            lowest[plus.table][0] = min(int(lowest[plus.table][0]), self.next_gpu)
        gpus = self.gpus + (plus is not None)
        return View(gpus, counts, lowest, self.demand.mix(), self.totals.requests, self.options.seed)

    def apply(self, record: Record) -> None:
        """Change the state by one accepted event."""
        at = record["at"]
        # The fleet's clock never does this; that of a journal that was tampered with may.
        if isinstance(at, bool) or not math.isfinite(at) or at < self.clock:
            raise ValueError(f"at={at!r} after {self.clock}")
        self.clock = at
        if record["event"] == "fleet":
            self._begun(record)
        elif record["event"] == "acquire":
            self._acquired(record)
        elif record["event"] == "release":
            for request in record["requests"]:
                self._vacate((record["tenant"], request), self.options.lazy)
            for number, places in record.get("left", {}).items():
                self.left.setdefault(int(number), set()).update(Placement(*place) for place in places)
        elif record["event"] == "bind":
            self.devices |= {int(number): str(uuid) for number, uuid in record["devices"].items()}
        elif record["event"] == "settled":
            for number in record["gpus"]:
                del self.left[number]
        elif record["event"] == "migrate":
            self._moved(record["moves"])
            self.totals.asked_migrations += len(record["moves"])
        elif record["event"] != "deprovision":
            raise ValueError(f"unknown event {record['event']!r}")
        for number in record.get("gone", ()):
            self._give_back(number)
        self._begins = False

    def _begun(self, record: Record) -> None:
        """The first line of a journal: nothing, or the state of a fleet that has been shortened to it."""
        if not self._begins:
            raise ValueError("a second beginning")
        if "state" in record:
            self._load(record["state"])

    def _acquired(self, record: Record) -> None:
        learning = isinstance(self.policy, Learned) and self.policy.learn
        before = self._copied_view() if learning else None
        pool, key = self.pools[record["model"]], (record["tenant"], record["request"])
        placement = Placement(*record["placement"])
        # The fleet never asks for these; a journal that was tampered with may.
        if key in self.held or (record["provisioned"] and record["gpu"] != self.next_gpu):
            raise ValueError(f"{key} holds an instance already, or GPU {record['gpu']} is not the next")
        if record["provisioned"]:
            self._provision(pool, record["gpu"])
            if "device" in record:
                self.devices[record["gpu"]] = str(record["device"])
        self._moved(record["moves"])
        self.totals.migrations += len(record["moves"])
        self._occupy(pool, pool.gpus[record["gpu"]], placement, key)
        self.totals.requests += 1
        self.needed = max(self.needed, self.bound_with(pool, placement.profile, 0))
        self.demand.asked(pool.table.geometry.profiles[placement.profile].kind)
        if before is not None:
            self.policy.placed(before, self.view(), record["provisioned"])

    def bound_with(self, pool: Pool, profile: int, more: int = 1) -> float:
        """GPUs that the live requests need at least, with ``more`` of a profile."""
        live = self.live.copy()
        live[_kind(pool, profile)] += more
        return float(np.ceil((self._weights @ live).max() - ROUNDING))

    def _copied_view(self) -> View:
        view = self.view()
        counts = {table: np.array(c) for table, c in view.counts.items()}
        return View(view.gpus, counts, view.lowest, view.mix, view.decision, view.seed)

    def _moved(self, moves: list[dict[str, Any]]) -> None:
        for move in moves:
            key = (move["tenant"], move["request"])
            old, pool = self.held[key], self.pools[move["model"]]
            # The new instance stands before the old one goes: the tenant is never without.
            self._occupy(pool, pool.gpus[move["gpu"]], Placement(*move["placement"]), key)
            self._empty(old.pool, old.pool.gpus[old.gpu], old.placement, lazy=False)

    def _provision(self, pool: Pool, number: int) -> None:
        pool.add(number, self.clock)
        self.next_gpu = number + 1
        self.totals.provisioned += 1
        self.totals.peak = max(self.totals.peak, self.gpus)

    def _give_back(self, number: int) -> None:
        pool = next(pool for pool in self.pools.values() if number in pool.gpus)
        if pool.gpus[number].held:
            raise ValueError(f"GPU {number} is given back while a tenant holds an instance of it")
        for placement in sorted(pool.gpus[number].idle):
            self._destroy(pool, pool.gpus[number], placement)
        pool.remove(number)

    def _occupy(self, pool: Pool, gpu: Gpu, placement: Placement, key: Key) -> None:
        table = pool.table
        if placement in gpu.idle:
            pool.drop_idle(gpu, placement)
            self.totals.reused += 1
        else:
            for idle in sorted(in_the_way(pool, gpu, placement)):
                self._destroy(pool, gpu, idle)
            self.totals.created += 1
            self.totals.create_s += table.geometry.profiles[placement.profile].create_s
        gpu.held[placement] = key
        self.live[_kind(pool, placement.profile)] += 1
        pool.change(gpu, table.beside(gpu.state, placement))
        self.held[key] = held = Held(pool, gpu.number, placement)
        self.tenants.setdefault(key[0], {})[key[1]] = held

    def _vacate(self, key: Key, lazy: bool) -> None:
        held = self.held.pop(key)
        del self.tenants[key[0]][key[1]]
        if not self.tenants[key[0]]:
            del self.tenants[key[0]]
        self._empty(held.pool, held.pool.gpus[held.gpu], held.placement, lazy)

    def _empty(self, pool: Pool, gpu: Gpu, placement: Placement, lazy: bool) -> None:
        del gpu.held[placement]
        self.live[_kind(pool, placement.profile)] -= 1
        pool.change(gpu, pool.table.without(gpu.state, placement))
        pool.keep_idle(gpu, placement)
        if not lazy:
            self._destroy(pool, gpu, placement)
        if not gpu.held:
            gpu.empty_since = self.clock

    def _destroy(self, pool: Pool, gpu: Gpu, placement: Placement) -> None:
        pool.drop_idle(gpu, placement)
        self.totals.destroyed += 1
        self.totals.destroy_s += pool.table.geometry.profiles[placement.profile].destroy_s

    def state(self) -> dict[str, Any]:
        """Everything that later decisions depend on, in plain values: two fleets with the same are the same."""
        learned = self.policy if isinstance(self.policy, Learned) else None
        return {
            "clock": self.clock,
            "next_gpu": self.next_gpu,
            "gpus": {
                number: {
                    "model": model,
                    "held": {pool.table.geometry.describe((p,)): list(key) for p, key in sorted(gpu.held.items())},
                    "idle": pool.table.geometry.describe(tuple(sorted(gpu.idle))),
                    "empty_since": None if gpu.held else gpu.empty_since,
                }
                for model, pool in self.pools.items()
                for number, gpu in sorted(pool.gpus.items())
            },
            "needed": self.needed,
            "demand": self.demand.weight.tolist(),
            "totals": asdict(self.totals),
            "learned": learned and [learned.weight.tolist(), learned.offset],
            "devices": self.devices,
            "left": {number: sorted(places) for number, places in sorted(self.left.items())},
        }

    def snapshot(self) -> dict[str, Any]:
        """Everything that `_load` needs to go on exactly so, in plain values."""
        learned = self.policy if isinstance(self.policy, Learned) else None
        return {
            "next_gpu": self.next_gpu,
            "gpus": [
                [model, gpu.number, gpu.empty_since, [[*p, *key] for p, key in gpu.held.items()], sorted(gpu.idle)]
                for model, pool in self.pools.items()
                for gpu in pool.gpus.values()
            ],
            "order": list(self.held),
            "needed": self.needed,
            "demand": self.demand.weight.tolist(),
            "totals": asdict(self.totals),
            "learned": learned and [learned.weight.tolist(), learned.offset],
            "devices": self.devices,
            "left": {number: sorted(places) for number, places in self.left.items()},
        }

    def _load(self, state: dict[str, Any]) -> None:
        for pool in self.pools.values():
            pool.clear()
        found: dict[Key, Held] = {}
        for model, number, empty_since, held, idle in state["gpus"]:
            pool = self.pools[model]
            gpu = pool.add(number, empty_since)
            for profile, start, tenant, request in held:
                placement = Placement(profile, start)
                gpu.held[placement] = (tenant, request)
                pool.change(gpu, pool.table.beside(gpu.state, placement))
                self.live[_kind(pool, profile)] += 1
                found[tenant, request] = Held(pool, number, placement)
            for place in idle:
                pool.keep_idle(gpu, Placement(*place))
        self.held = {(tenant, request): found[tenant, request] for tenant, request in state["order"]}
        for (tenant, request), one in self.held.items():
            self.tenants.setdefault(tenant, {})[request] = one
        self.next_gpu, self.needed = state["next_gpu"], state["needed"]
        self.demand.weight[:] = state["demand"]
        self.totals = Totals(**state["totals"])
        self.devices = {int(number): uuid for number, uuid in state["devices"].items()}
        self.left = {int(number): {Placement(*place) for place in places} for number, places in state["left"].items()}
        if state["learned"] is not None and isinstance(self.policy, Learned):
            self.policy.weight[:], self.policy.offset = state["learned"]

    def usage(self, tenant: str) -> Counter[str]:
        """``instances`` and compute ``slices`` that a tenant holds."""
        found: Counter[str] = Counter()
        for held in self.tenants.get(tenant, {}).values():
            found["instances"] += 1
            found["slices"] += held.pool.table.geometry.profiles[held.placement.profile].compute
        return found


def _kind(pool: Pool, profile: int) -> int:
    """Index of a profile among the valued kinds; one with the media engines takes the room of its plain kind."""
    return VALUED.index(pool.table.geometry.profiles[profile].kind.removesuffix("+me"))


def in_the_way(pool: Pool, gpu: Gpu, placement: Placement) -> list[Placement]:
    """Idle instances that a creation needs destroyed: those on its slices, or with the one set of media engines."""
    table = pool.table.geometry
    media = table.profiles[placement.profile].media
    return [
        idle
        for idle in gpu.idle
        if table.mask(idle) & table.mask(placement) or (media and table.profiles[idle.profile].media)
    ]
