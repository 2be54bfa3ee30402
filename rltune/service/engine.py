"""The one thread that decides: takes requests in, lets the core decide, writes it down, answers, and tells the machines.

A turn takes all that has come since the last one: requests, reports of machines, what has become due. Nothing is answered, and no
machine is told anything, before what it follows from is on disk.
"""

from __future__ import annotations

import heapq
import logging
import math
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from rltune.nouns.cluster import Cluster
from rltune.nouns.errors import InputError
from rltune.service.clock import Clock
from rltune.service.dispatch import Dispatch, Seat
from rltune.service.errors import CLOSED, Refused
from rltune.service.forecasts import groups_of
from rltune.service.ledger import Event, Ledger
from rltune.service.orders import Node
from rltune.service.records import (
    CANCELLED,
    DONE,
    JOB,
    LEASE,
    RUNNING,
    WAITING,
    Record,
)
from rltune.service.runs import Runs
from rltune.service.shadowing import Shadow
from rltune.service.specs import LONGEST_S, JobSpec, LeaseSpec, request_of
from rltune.service.store import Store, StoreError
from rltune.simulator.live import LiveCluster
from rltune.simulator.requests import Request, Rules

log = logging.getLogger("rltune.service")
POLL_S = 0.02
"""Between looks at what machines report while something runs."""
IDLE_S = 0.25
"""The same while nothing runs."""
MOST_REQUESTS = 512
"""Of one turn: more wait for the next, so that none waits for a long one."""
ACCOUNTS_S = 30.0
"""Between two writes of prices, fair shares and what was learned."""


@dataclass(frozen=True, slots=True)
class Settings:
    """``runtimes``: what is believed of a job's run time: requested (its estimate, else a forecast), learned, or unknown.

    ``most_waiting``: jobs that may wait in all; ``most_of_tenant``: of one tenant. ``keep_s``: how long events, and answers to
    idempotency keys, stay on disk.
    """

    runtimes: str = "requested"
    most_waiting: int = 200_000
    most_of_tenant: int = 100_000
    keep_s: float = math.inf


@dataclass(slots=True)
class Asked:
    future: Future[Any]
    act: Callable[[Engine], Any]


@dataclass(slots=True)
class _Acquiring:
    """An acquisition that waits to be answered."""

    future: Future[Any]
    until_s: float


class Engine(Runs):
    """``Engine(store, cluster, rules, machines, seats, clock).start()``; ``ask`` from any thread; ``stop`` ends it.

    ``machines``: by name; ``seats``: which GPUs of which machine each node of the cluster is.
    """

    def __init__(
        self,
        store: Store,
        cluster: Cluster,
        rules: Rules,
        machines: Sequence[Node],
        seats: Sequence[Seat],
        clock: Clock,
        settings: Settings = Settings(),
    ) -> None:
        self.store, self.cluster, self.clock, self.settings = store, cluster, clock, settings
        super().__init__(
            LiveCluster(cluster, rules, clock.now()), Ledger(store), Dispatch(machines, seats), clock.now()
        )
        self.failing = ""
        self.policy_name = rules.policy if isinstance(rules.policy, str) else rules.baseline
        self.shadow: Shadow | None = None
        self.listeners: list[Callable[[list[Event]], None]] = []
        self._asked: queue.SimpleQueue[Asked] = queue.SimpleQueue()
        self._acquiring: dict[str, _Acquiring] = {}
        self._fresh: list[Record] = []
        self._accounts_at = self.now
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    # --- from other threads -----------------------------------------------------------------------

    def start(self) -> None:
        """Begin to decide, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def ask(self, act: Callable[[Engine], Any]) -> Future[Any]:
        """Have something done by the engine's thread: the answer comes when it is on disk, or `Refused`."""
        future: Future[Any] = Future()
        if self._closing.is_set():
            future.set_exception(Refused(503, CLOSED))
        else:
            self._asked.put(Asked(future, act))
        return future

    @property
    def alive(self) -> bool:
        """Whether its thread decides."""
        return self._thread is not None and self._thread.is_alive()

    def stop(self) -> None:
        """Finish the present turn, write everything down and end; runs go on."""
        self._closing.set()
        self._asked.put(Asked(Future(), lambda engine: None))
        if self._thread is not None:
            self._thread.join()
        if self.shadow is not None:
            self.shadow.stop()
        for machine in self.dispatch.machines.values():
            machine.close()

    # --- the loop -----------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing.is_set():
            self.turn(self._wait())
        # What was asked before the end is answered; accounts are kept.
        self.ledger.meta("accounts", self.live.accounts())
        self.turn(self._all_asked())
        while not self._asked.empty():
            self._asked.get().future.set_exception(Refused(503, CLOSED))

    def _wait(self) -> list[Asked]:
        """Until something is asked, machines may have reported, or something is due."""
        busy = bool(self.live.sim.counts[1] > 0) or self.failing != ""
        due = min(self.live.wake_s, self.due[0][0] if self.due else float("inf")) - self.clock.now()
        try:
            first = self._asked.get(timeout=max(0.001, min(POLL_S if busy else IDLE_S, due)))
        except queue.Empty:
            return []
        return [first, *self._all_asked()]

    def _all_asked(self) -> list[Asked]:
        out: list[Asked] = []
        while len(out) < MOST_REQUESTS and not self._asked.empty():
            out.append(self._asked.get())
        return out

    def turn(self, asked: Sequence[Asked] = ()) -> None:
        """One turn; also called by replays, which have no thread."""
        self.now = max(self.now, self.clock.now())
        answers = [(one, *self._do(one)) for one in asked]
        for name, machine in self.dispatch.machines.items():
            for report in machine.reports():
                self.reported(name, report)
        self._look_who_answers()
        self._expire()
        self._decide()
        self._answer_acquisitions()
        if self.now - self._accounts_at >= ACCOUNTS_S:
            self._accounts_at = self.now
            self.ledger.meta("accounts", self.live.accounts())
            self.ledger.meta("last_s", self.now)
            self.ledger.forget(self.now - self.settings.keep_s)
        if self.failing:
            # Whether the disk takes anything again is known by writing alone.
            self.ledger.meta("last_s", self.now)
        try:
            news = self.ledger.write(self._core_of)
        except StoreError as error:
            self._not_written(answers, str(error))
            return
        self.failing = ""
        self._fresh.clear()
        self.dispatch.send()
        over, self._over = self._over, {}
        for name, runs in over.items():
            self.dispatch.machines[name].forget(runs)
        # Who listens hears of it before who asked has the answer, and may look for it.
        if news:
            for listener in self.listeners:
                listener(news)
        for one, answer, error_of in answers:
            if error_of is not None:
                one.future.set_exception(error_of)
            elif answer is not PENDING:
                one.future.set_result(answer)
        self._settle_acquisitions()

    def _do(self, one: Asked) -> tuple[Any, BaseException | None]:
        if self.failing:
            return None, Refused(503, self.failing)
        try:
            return one.act(self), None
        except Refused as error:
            return None, error
        except InputError as error:
            return None, Refused(422, str(error))
        except Exception:
            log.exception("a request failed")
            return None, Refused(500, "the service failed at this request; its log says how")

    def _core_of(self, record: Record) -> dict[str, Any] | None:
        return self.live.saved(record.id) if record.id in self.live.jobs and not record.over else None

    def _not_written(self, answers: Sequence[tuple[Asked, Any, Any]], error: str) -> None:
        """The disk refuses: what is new is undone and refused, what has happened is written later, and no order goes out before."""
        if not self.failing:
            log.error("%s", error)
        self.failing, self.counters["store_errors"] = error, self.counters["store_errors"] + 1
        jobs = {record.id for record in self._fresh}
        for record in self._fresh:
            if record.id in self.live.jobs:
                self.live.cancel(record.id)
                self.live.forget([record.id])
            self.ledger.drop(record)
            self._acquiring.pop(record.id, None)
        self._fresh.clear()
        self.dispatch.withhold(jobs)
        for one, answer, error_of in answers:
            if error_of is not None or answer is PENDING or not one.future.done():
                one.future.set_exception(error_of or Refused(503, error))

    # --- what clients may ask (on the engine's thread, by `ask`) --------------------------------------

    def submit(self, specs: Sequence[JobSpec], tenant: str) -> list[str]:
        """Jobs join the queue; their names. All or none."""
        return [record.id for record in self._accept(JOB, list(specs), tenant)]

    def acquire(self, spec: LeaseSpec, tenant: str, answer: Future[Any]) -> Any:
        """A lease: ``answer`` gets its record once it holds its devices; `Refused` (409) if not in time."""
        self.begin_acquire(spec, tenant, answer)
        return PENDING

    def begin_acquire(self, spec: LeaseSpec, tenant: str, answer: Future[Any]) -> str:
        """As `acquire`; the name of the lease, by which it can be cancelled while it waits."""
        (record,) = self._accept(LEASE, [spec], tenant)
        self._acquiring[record.id] = _Acquiring(answer, self.now + float(spec.wait_s))
        heapq.heappush(self.due, (self.now + float(spec.wait_s), "acquire", record.id))
        return record.id

    def _accept(self, kind: str, specs: list[Any], tenant: str) -> list[Record]:
        asked = [(spec, request_of(spec, tenant, self.cluster)) for spec in specs]
        for _, request in asked:
            if not self.live.possible(request):
                raise Refused(
                    422, f"{what_of(request)} fits on no idle node of this cluster; ask for less, or for other GPUs"
                )
        most = self.live.rules.options.max_retries
        if (tries := max((getattr(spec, "retries", 0) for spec in specs), default=0)) > most:
            raise Refused(
                422, f"retries={tries}: this service gives a job up after {most} failures (options.max_retries)"
            )
        self._check_limits(sum(getattr(spec, "array", None) or 1 for spec in specs), tenant)
        out: list[Record] = []
        for spec, request in asked:
            name, many = f"{kind}-{self.ledger.next_seq}", getattr(spec, "array", None)
            names = [name] if many is None else [f"{name}[{k}]" for k in range(many)]
            out += [self._take(kind, one, spec, tenant, request) for one in names]
        return out

    def _take(self, kind: str, name: str, spec: Any, tenant: str, request: Request) -> Record:
        """One job or lease begins to wait."""
        believed = self._believed(spec, request)
        record = Record(
            self.ledger.next_seq, name, kind, tenant, spec, request, self.now, believed, left=getattr(spec, "retries", 0)
        )  # fmt: skip
        self.live.submit(name, request, self.now, record.known_s)
        self.ledger.add(record)
        self.ledger.touch(record)
        self.ledger.tell(self.now, "submitted", record, state=WAITING)
        self._fresh.append(record)
        return record

    def _check_limits(self, more: int, tenant: str) -> None:
        waiting = len(self.live.jobs)
        if waiting + more > self.settings.most_waiting:
            raise Refused(
                429, f"{waiting} jobs are here already, at most {self.settings.most_waiting} may be; try again later"
            )
        mine = self.ledger.alive_of[tenant]
        if mine + more > self.settings.most_of_tenant:
            raise Refused(
                429, f"tenant {tenant} has {mine} jobs, at most {self.settings.most_of_tenant} may be; try again later"
            )

    def _believed(self, spec: JobSpec | LeaseSpec, request: Request) -> float:
        """Seconds that a job is believed to run; a lease is held for as long as it may be."""
        if self.settings.runtimes == "unknown":
            return float("nan")
        if isinstance(spec, LeaseSpec):
            return LONGEST_S if spec.ttl_s is None else float(spec.ttl_s)
        if self.settings.runtimes == "requested" and request.estimate_s == request.estimate_s:
            return float(request.estimate_s)
        return self.forecasts.estimate(groups_of(request.user, request.vc, request.name, request.gpus))

    def cancel(self, job: str, why: str = "cancelled") -> str:
        """A job or lease goes, whatever it does; its state afterwards. One that is over stays as it is."""
        record = self.found(job)
        if record.over:
            return record.state
        *before, last = self.live.cancel(job, self.now)
        for one in before:
            self._apply(one)
        held = record.holds
        self._close(record, CANCELLED if record.kind == JOB else DONE, why)
        self._apply(last)
        if job in self.live.jobs:
            self.live.forget([job])
        if (
            not held
            and record.state != WAITING
            and record.run
            and isinstance(record.spec, JobSpec)
            and record.spec.suspend == "stop"
        ):
            # A stopped run still has its processes.
            self.dispatch.stop(record.run, self.dispatch.machines_of(record.places))
        return record.state

    def renew(self, lease: str, ttl_s: float) -> float:
        """A lease ends ``ttl_s`` from now unless it is renewed again; when that is."""
        record = self.found(lease)
        if record.over or record.kind != LEASE:
            raise Refused(409, f"{lease} is {record.state}; only a lease that holds or waits can be renewed")
        record.expires_s = self.now + ttl_s
        heapq.heappush(self.due, (record.expires_s, "expire", lease))
        self.ledger.touch(record)
        return record.expires_s

    def use(self, rules: Rules, name: str) -> None:
        """Another policy decides from now on. InputError, and no change, where it cannot."""
        self.live.use(rules)
        before, self.policy_name = self.policy_name, name
        self.ledger.meta("policy", name)
        self.ledger.meta("policy_before", before)
        self.ledger.tell(self.now, "policy", None, policy=name, before=before)

    def use_shadow(self, rules: Rules | None, name: str = "") -> None:
        """Another policy decides beside the active one and is only written down; None: none does any more."""
        if self.shadow is not None:
            self.shadow.stop()
        self.shadow = None
        if rules is not None:
            self.shadow = Shadow(name, rules, lambda told: self.ask(lambda engine: engine.tell_shadow(name, told)))
        self.ledger.tell(self.now, "shadow", None, policy=name)

    def tell_shadow(self, name: str, told: dict[str, Any]) -> None:
        """An instant at which the shadow policy would have started other jobs."""
        self.ledger.tell(told.pop("at_s"), "shadow differs", None, policy=name, **told)

    def found(self, job: str) -> Record:
        """The record of a job or lease that is not long over; `Refused` (404)."""
        record = self.ledger.records.get(job)
        if record is None:
            raise Refused(404, f"{job[:100]} is unknown here, or over for long")
        return record

    # --- what becomes due -------------------------------------------------------------------------------

    def _expire(self) -> None:
        while self.due and self.due[0][0] <= self.now:
            _, what, name = heapq.heappop(self.due)
            record = self.ledger.records.get(name)
            if record is None or record.over:
                continue
            if what == "expire" and record.expires_s is not None and record.expires_s <= self.now:
                self.cancel(name, "expired")
            elif what == "limit":
                self._limit(record)

    def _limit(self, record: Record) -> None:
        """Stop a job that has run as long as it may; one that has been suspended in between is looked at again later."""
        limit = getattr(record.spec, "limit_s", None)
        if limit is None or record.began_s is None or not record.holds:
            return
        left = limit - record.ran_s - (self.now - record.began_s)
        if left <= 0:
            self.cancel(record.id, f"time limit of {limit:g} s")
        else:
            heapq.heappush(self.due, (self.now + left, "limit", record.id))

    # --- what the core decides ----------------------------------------------------------------------------

    def _decide(self) -> None:
        seen = (
            self.shadow.before(self.live, self.now)
            if self.shadow is not None and self.live.wake_s <= self.now
            else None
        )
        decided = self.live.advance(self.now)
        for changes in decided:
            self.counters["decisions"] += 1
            self._apply(changes)
        if seen is not None and self.shadow is not None:
            self.shadow.after(seen, decided)

    # --- acquisitions ---------------------------------------------------------------------------------------

    def _answer_acquisitions(self) -> None:
        """What is not had in time is given up; the answers go out when that is on disk."""
        for name, one in list(self._acquiring.items()):
            record = self.ledger.records[name]
            if record.state == WAITING and one.until_s <= self.now:
                self.cancel(name, "not in time")

    def _settle_acquisitions(self) -> None:
        for name, one in list(self._acquiring.items()):
            record = self.ledger.records.get(name)
            if record is not None and record.state == RUNNING:
                one.future.set_result(record)
            elif record is None or record.over:
                wait = getattr(record.spec, "wait_s", 0) if record is not None else 0
                what = "nothing that fits is free now" if wait == 0 else f"nothing that fits came free in {wait:g} s"
                one.future.set_exception(Refused(409, f"{what}; wait longer (wait_s), or ask for less"))
            else:
                continue
            del self._acquiring[name]


PENDING = object()
"""The answer of what is answered later."""


def what_of(request: Request) -> str:
    """A request in words."""
    if request.mig is not None:
        return f"a MIG slice {request.mig}"
    return f"a job of {request.gpus} GPUs" if request.gpu_milli else "a job without GPUs"
