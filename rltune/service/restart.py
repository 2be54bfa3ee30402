"""A service that begins again: its jobs from the disk, and what its machines say of them."""

from __future__ import annotations

import heapq
import json
import logging
from collections.abc import Mapping
from typing import Any

from rltune.nouns.errors import InputError
from rltune.service.engine import Engine
from rltune.service.forecasts import groups_of
from rltune.service.orders import Inventory, Report
from rltune.service.records import LEASE, RUNNING, STARTING, SUSPENDED, WAITING, Record, record_of, spec_of
from rltune.service.specs import request_of
from rltune.service.store import ALIVE

log = logging.getLogger("rltune.service")
REMEMBERED = 5000
"""Newest jobs that are over: their run times are learned again, and they are answered from memory."""


def restore(engine: Engine) -> int:
    """Jobs, leases, nodes and accounts as they were written last; how many jobs and leases are alive. Before `Engine.start`.

    InputError: the cluster is not the one that the jobs run on.
    """
    store, ledger = engine.store, engine.ledger
    if found := store.altered(("meta", "jobs", "runs", "nodes", "cuts")):
        raise InputError(
            f"{store.path}: {found[0]}{f', and {len(found) - 1} more' if len(found) > 1 else ''}; restore a backup "
            "(rltune serve restore), or see all by rltune serve check"
        )
    ledger.last_event = store.read("SELECT COALESCE(MAX(seq), 0) FROM events")[0][0]
    ledger.next_seq = 1 + store.read("SELECT COALESCE(MAX(seq), 0) FROM jobs")[0][0]
    _check_cluster(engine)
    for row in reversed(
        store.read(f"SELECT * FROM jobs WHERE state NOT IN {ALIVE} ORDER BY ended_s DESC LIMIT {REMEMBERED}")
    ):
        record = _record(engine, row)
        ledger.add(record)
        if record.state == "done" and record.kind == "job" and record.ran_s > 0:
            request = record.request
            engine.forecasts.learn(groups_of(request.user, request.vc, request.name, request.gpus), record.ran_s)
            engine.past.append((record.ran_s, request.gpus, record.known_s))
    saved: dict[str, Mapping[str, Any]] = {}
    rows = store.read(f"SELECT * FROM jobs WHERE state IN {ALIVE} ORDER BY seq")
    # All classes first: each new one makes the state anew.
    records = [_record(engine, row) for row in rows]
    for record in records:
        engine.live.see(record.request)
    for record, row in zip(records, rows, strict=True):
        ledger.add(record)
        engine.live.submit(record.id, record.request, record.submit_s, record.known_s, late=True)
        if row["core"] is not None:
            saved[record.id] = json.loads(row["core"])
        _due_again(engine, record)
    engine.live.restore(saved, _layouts(engine), _closed(engine))
    if (kept := store.meta("accounts")) is not None:
        engine.live.set_accounts(kept)
    return len(records)


def _record(engine: Engine, row: Any) -> Record:
    return record_of(row, request_of(spec_of(row), row["tenant"], engine.cluster))


def _check_cluster(engine: Engine) -> None:
    """The nodes that jobs were placed on must be those that there are."""
    names = [engine.dispatch.node_name(k) for k in range(engine.cluster.nodes)]
    before = engine.store.meta("nodes")
    if before is None:
        with engine.store.transaction():
            engine.store.set_meta("nodes", names)
    elif before != names:
        holding = engine.store.read("SELECT COUNT(*) FROM jobs WHERE state IN ('starting', 'running', 'suspended')")[0][
            0
        ]
        if holding:
            raise InputError(
                f"{engine.store.path}: {holding} jobs run on nodes {', '.join(before[:3])}, ..., now there are "
                f"{', '.join(names[:3])}, ...; start with the cluster of before, or with another state directory"
            )
        with engine.store.transaction() as link:
            link.execute("DELETE FROM cuts")
            link.execute("DELETE FROM nodes")
            engine.store.set_meta("nodes", names)


def _due_again(engine: Engine, record: Record) -> None:
    if record.expires_s is not None:
        heapq.heappush(engine.due, (record.expires_s, "expire", record.id))
    limit = getattr(record.spec, "limit_s", None)
    if limit is not None and record.began_s is not None:
        heapq.heappush(engine.due, (record.began_s + limit - record.ran_s, "limit", record.id))


def _layouts(engine: Engine) -> dict[tuple[int, int], int]:
    number = engine.dispatch.numbers()
    return {
        (number[row["node"]], row["gpu"]): row["layout"]
        for row in engine.store.read("SELECT * FROM cuts")
        if row["node"] in number
    }


def _closed(engine: Engine) -> list[int]:
    """Reasons why nodes take no job; drained nodes stay so, lost ones are asked anew."""
    number = engine.dispatch.numbers()
    closed = [0] * engine.cluster.nodes
    for row in engine.store.read("SELECT * FROM nodes"):
        if row["state"] == "drained" and row["name"] in number:
            closed[number[row["name"]]] = 1
            engine.node_state[number[row["name"]]] = (row["state"], row["reason"])
    return closed


def reconcile(engine: Engine) -> dict[str, int]:
    """What machines have, against what should be: counts by what was done. Before `Engine.start`, after `restore`.

    A run that goes on goes on; one that has ended meanwhile ends; one that never began is begun; one that is gone waits again;
    one that the service does not know is stopped.
    """
    counts = {"kept": 0, "ended": 0, "begun": 0, "lost": 0, "foreign": 0}
    inventories = {name: _asked(machine) for name, machine in engine.dispatch.machines.items()}
    engine.now = max(engine.now, engine.clock.now())
    wanted: dict[str, set[str]] = {name: set() for name in inventories}
    for record in list(engine.ledger.alive()):
        if record.state in (STARTING, RUNNING):
            for machine in engine.dispatch.machines_of(record.places):
                wanted[machine].add(record.run)
            counts[_reconcile_run(engine, record, inventories)] += 1
        elif record.state == SUSPENDED:
            for machine in engine.dispatch.machines_of(record.places):
                wanted[machine].add(record.run)
    for name, inventory in inventories.items():
        if inventory is None:
            continue
        for run, state in inventory.runs.items():
            if run not in wanted[name] and state not in ("ended", "lost"):
                engine.dispatch.stop(run, [name])
                counts["foreign"] += 1
        over = [run for run, state in inventory.runs.items() if state in ("ended", "lost") and run not in wanted[name]]
        engine.dispatch.machines[name].forget(over)
    for record in list(engine.ledger.alive()):
        if record.kind == LEASE and record.state == WAITING:
            # Whoever has asked for it is not connected any more.
            engine.cancel(record.id, "the service was started anew while it waited")
    for node in range(engine.cluster.nodes):
        seat = engine.dispatch.seats[node]
        if (inventory := inventories[seat.machine]) is not None:
            for gpu in seat.gpus:
                if gpu < len(inventory.gpus) and inventory.gpus[gpu].doubtful:
                    engine.drain(node, f"GPU {gpu}: {inventory.gpus[gpu].doubtful}")
    return counts


def _asked(machine: Any) -> Inventory | None:
    try:
        inventory: Inventory = machine.inventory()
    except OSError as error:
        log.warning("%s does not answer: %s", machine.name, error)
        return None
    return inventory


def _reconcile_run(engine: Engine, record: Record, inventories: Mapping[str, Inventory | None]) -> str:
    states, silent = [], False
    for machine in engine.dispatch.machines_of(record.places):
        inventory = inventories[machine]
        silent = silent or inventory is None
        state = None if inventory is None else inventory.runs.get(record.run)
        states.append(state)
        if state == "ended" and inventory is not None:
            engine.reported(
                machine,
                Report("ended", engine.clock.wall(engine.now), record.run, code=inventory.codes.get(record.run, 0)),
            )
    if "ended" in states:
        return "ended"
    if silent or all(state == "began" for state in states):
        record.state = RUNNING if all(state == "began" for state in states) else record.state
        return "kept"
    if record.state == STARTING:
        # Orders may have been lost; a run that has begun takes the order again and says so.
        engine.dispatch.begin(record, engine.cuts_for(record), None)
        return "begun"
    engine.lost(record, "its machine was started anew")
    return "lost"
