"""All jobs and leases in memory, and what of them is still to be written: one transaction a turn of the engine."""

from __future__ import annotations

import json
import math
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rltune.service.records import Record
from rltune.service.store import Store, in_order
from rltune.simulator.requests import Started

KEPT_OVER = 10_000
"""Jobs that are over and still answered from memory; older ones are read from disk."""
KEPT_EVENTS = 10_000
"""Newest events that are answered from memory."""


@dataclass(frozen=True, slots=True)
class Event:
    """What has happened, for listeners: ``seq`` counts from 1 and never skips; ``tenant`` None: concerns everybody."""

    seq: int
    at_s: float
    what: str
    job: str | None
    tenant: str | None
    data: dict[str, Any]


class Ledger:
    """See the module; used by the engine's thread, read by others (records change field by field, never go half)."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.records: dict[str, Record] = {}
        self.over: deque[str] = deque()
        self.events: deque[Event] = deque(maxlen=KEPT_EVENTS)
        self.last_event = 0
        self.next_seq = 1
        self.alive_of: Counter[str] = Counter()
        self._dirty: dict[str, Record] = {}
        self._runs: dict[str, dict[str, Any]] = {}
        self._cuts: dict[tuple[str, int], int] = {}
        self._nodes: dict[str, tuple[str, str]] = {}
        self._answers: dict[tuple[str, str], tuple[str, str, float]] = {}
        self._meta: dict[str, Any] = {}
        self._news: list[Event] = []
        self._forget_before = -math.inf

    def alive(self) -> Iterator[Record]:
        """Those that are not over, first submitted first."""
        return (record for record in self.records.values() if not record.over)

    def add(self, record: Record) -> None:
        """A job or lease that is new in memory."""
        self.records[record.id] = record
        self.next_seq = max(self.next_seq, record.seq + 1)
        if record.over:
            self.over.append(record.id)
        else:
            self.alive_of[record.tenant] += 1

    # --- what is to be written --------------------------------------------------------------------

    def touch(self, record: Record) -> None:
        """The record has changed."""
        self._dirty[record.id] = record

    def tell(self, at_s: float, what: str, record: Record | None, **data: Any) -> None:
        """Something has happened."""
        self.last_event += 1
        job, tenant = (None, None) if record is None else (record.id, record.tenant)
        self._news.append(Event(self.last_event, at_s, what, job, tenant, data))

    def begin_run(self, record: Record, started: Started) -> None:
        self._runs[record.run] = {
            "run": record.run, "job": record.id, "number": record.number, "places": json.dumps(started.places), "start_s": started.at_s,
            "ready_s": started.ready_s, "speed": started.speed, "end_s": None, "outcome": None, "code": None,
        }  # fmt: skip

    def end_run(self, record: Record, at_s: float, outcome: str) -> None:
        row = self._runs.setdefault(record.run, {"run": record.run})
        row |= {"end_s": at_s, "outcome": outcome, "code": record.code}

    def cut(self, node: str, gpu: int, layout: int) -> None:
        self._cuts[node, gpu] = layout

    def node(self, name: str, state: str, reason: str) -> None:
        self._nodes[name] = (state, reason)

    def answer(self, tenant: str, key: str, body: str, answer: Any, at_s: float) -> None:
        """What a request with this idempotency key was answered."""
        self._answers[tenant, key] = (body, json.dumps(answer), at_s)

    def answered(self, tenant: str, key: str) -> tuple[str, Any] | None:
        """Body and answer of the request with this idempotency key, where there was one."""
        if (fresh := self._answers.get((tenant, key))) is not None:
            return fresh[0], json.loads(fresh[1])
        rows = self.store.read("SELECT body, answer FROM requests WHERE tenant = ? AND key = ?", (tenant, key))
        return (rows[0]["body"], json.loads(rows[0]["answer"])) if rows else None

    def meta(self, key: str, value: Any) -> None:
        self._meta[key] = value

    def forget(self, before_s: float) -> None:
        """Events and answers of before this second may go from the disk (`rltune.service.store.Store.forget`)."""
        self._forget_before = before_s

    @property
    def unwritten(self) -> bool:
        return bool(self._dirty or self._runs or self._cuts or self._nodes or self._answers or self._meta or self._news)

    def write(self, core: Callable[[Record], dict[str, Any] | None]) -> list[Event]:
        """All of it, in one transaction; the events that may be told now. StoreError: nothing is written, all is kept for later."""
        if not self.unwritten:
            return []
        with self.store.transaction():
            self.store.write("jobs", in_order("jobs", (record.row(core(record)) for record in self._dirty.values())))
            self.store.write("runs", in_order("runs", (row for row in self._runs.values() if "job" in row)))
            self.store.end_runs(row for row in self._runs.values() if "job" not in row)
            self.store.write("cuts", ((*k, v) for k, v in self._cuts.items()))
            self.store.write("nodes", ((k, *v) for k, v in self._nodes.items()))
            self.store.write("requests", ((*k, *v) for k, v in self._answers.items()))
            news = ((e.seq, e.at_s, e.what, e.job, e.tenant, json.dumps(e.data)) for e in self._news)
            self.store.write("events", news, fresh=True)
            for key, value in self._meta.items():
                self.store.set_meta(key, value)
            if self._forget_before > -math.inf:
                self.store.forget(self._forget_before)
        told = self._news
        for record in self._dirty.values():
            if record.over:
                self.over.append(record.id)
        self._dirty, self._runs, self._cuts, self._nodes = {}, {}, {}, {}
        self._answers, self._meta, self._news, self._forget_before = {}, {}, [], -math.inf
        self.events.extend(told)
        while len(self.over) > KEPT_OVER:
            self.records.pop(self.over.popleft(), None)
        return told

    def drop(self, record: Record) -> None:
        """A job that could not be written was never accepted."""
        if self.records.pop(record.id, None) is not None and not record.over:
            self.alive_of[record.tenant] -= 1
        self._dirty.pop(record.id, None)
        for run in [run for run, row in self._runs.items() if row.get("job") == record.id]:
            del self._runs[run]
        named = json.dumps(record.id)
        self._answers = {key: kept for key, kept in self._answers.items() if named not in kept[1]}
        kept = [event for event in self._news if event.job != record.id]
        # Numbers never skip.
        first = self.last_event - len(self._news) + 1
        self._news = [Event(first + k, e.at_s, e.what, e.job, e.tenant, e.data) for k, e in enumerate(kept)]
        self.last_event = first + len(kept) - 1
