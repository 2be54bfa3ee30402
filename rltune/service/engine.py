"""The one thread that decides: takes requests in, lets the core decide, writes it down, answers, and tells the machines.

A turn takes all that has come since the last one: requests, reports of machines, what has become due. Nothing is answered, and no
machine is told anything, before what it follows from is on disk.
"""

from __future__ import annotations

import heapq
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from rltune.nouns.cluster import Cluster
from rltune.nouns.errors import InputError
from rltune.service.clock import Clock
from rltune.service.dispatch import Dispatch, Seat
from rltune.service.forecasts import Forecasts, groups_of
from rltune.service.ledger import Event, Ledger
from rltune.service.orders import Node, Remote, Report
from rltune.service.records import (
    CANCELLED,
    DONE,
    FAILED,
    JOB,
    LEASE,
    RUNNING,
    STARTING,
    SUSPENDED,
    WAITING,
    Record,
)
from rltune.service.shadowing import Shadow
from rltune.service.specs import LONGEST_S, JobSpec, LeaseSpec, request_of
from rltune.service.store import Store, StoreError
from rltune.simulator.live import Changes, Cut, LiveCluster, Request, Rules, Started, Stopped

log = logging.getLogger("rltune.service")
POLL_S = 0.02
"""Between looks at what machines report while something runs."""
IDLE_S = 0.25
"""The same while nothing runs."""
MOST_REQUESTS = 512
"""Of one turn: more wait for the next, so that none waits for a long one."""
PAST = 2000
"""Newest jobs that have ended whose (run time, GPUs, believed run time) say how far beliefs go wrong."""
ACCOUNTS_S = 30.0
"""Between two writes of prices, fair shares and what was learned."""
CLOSED = "the service is going down; try again when it is back"


class Refused(Exception):
    """A request that cannot be done; ``status``: of HTTP, ``message`` says what to change."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass(frozen=True, slots=True)
class Settings:
    """``runtimes``: what is believed of a job's run time: requested (its estimate, else a forecast), learned, or unknown.

    ``most_waiting``: jobs that may wait in all; ``most_of_tenant``: of one tenant.
    """

    runtimes: str = "requested"
    most_waiting: int = 200_000
    most_of_tenant: int = 100_000


@dataclass(slots=True)
class _Asked:
    future: Future[Any]
    act: Callable[[Engine], Any]


@dataclass(slots=True)
class _Acquiring:
    """An acquisition that waits to be answered."""

    future: Future[Any]
    until_s: float


class Engine:
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
        self.live = LiveCluster(cluster, rules, clock.now())
        self.ledger, self.forecasts = Ledger(store), Forecasts()
        self.dispatch = Dispatch({machine.name: machine for machine in machines}, seats)
        self.node_state: dict[int, tuple[str, str]] = dict.fromkeys(range(cluster.nodes), ("open", ""))
        self.now = clock.now()
        self.failing = ""
        self.policy_name = rules.policy if isinstance(rules.policy, str) else rules.baseline
        self.counters = {
            "decisions": 0,
            "started": 0,
            "suspended": 0,
            "refused_by_device": 0,
            "lost": 0,
            "store_errors": 0,
        }
        self.past: deque[tuple[float, int, float]] = deque(maxlen=PAST)
        self.shadow: Shadow | None = None
        self.listeners: list[Callable[[list[Event]], None]] = []
        self._asked: queue.SimpleQueue[_Asked] = queue.SimpleQueue()
        self._acquiring: dict[str, _Acquiring] = {}
        self.due: list[tuple[float, str, str]] = []
        self._fresh: list[Record] = []
        self._accounts_at = self.now
        self._closing = threading.Event()
        self._ended_early: set[str] = set()
        self._over: dict[str, list[str]] = {}
        self._remote = {machine.name: machine for machine in machines if isinstance(machine, Remote)}
        self._silent: set[str] = set()
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
            self._asked.put(_Asked(future, act))
        return future

    @property
    def alive(self) -> bool:
        """Whether its thread decides."""
        return self._thread is not None and self._thread.is_alive()

    def stop(self) -> None:
        """Finish the present turn, write everything down and end; runs go on."""
        self._closing.set()
        self._asked.put(_Asked(Future(), lambda engine: None))
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

    def _wait(self) -> list[_Asked]:
        """Until something is asked, machines may have reported, or something is due."""
        busy = bool(self.live.sim.counts[1] > 0) or self.failing != ""
        due = min(self.live.wake_s, self.due[0][0] if self.due else float("inf")) - self.clock.now()
        try:
            first = self._asked.get(timeout=max(0.001, min(POLL_S if busy else IDLE_S, due)))
        except queue.Empty:
            return []
        return [first, *self._all_asked()]

    def _all_asked(self) -> list[_Asked]:
        out: list[_Asked] = []
        while len(out) < MOST_REQUESTS and not self._asked.empty():
            out.append(self._asked.get())
        return out

    def turn(self, asked: Sequence[_Asked] = ()) -> None:
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

    def _do(self, one: _Asked) -> tuple[Any, BaseException | None]:
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

    def _not_written(self, answers: Sequence[tuple[_Asked, Any, Any]], error: str) -> None:
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

    def drain(self, node: int, why: str) -> None:
        """A node takes no new job; what runs there goes on."""
        if self.node_state[node][0] == "open":
            self._set_node(node, "drained", why, "drain")

    def undrain(self, node: int) -> None:
        """A drained node takes jobs again."""
        state, _ = self.node_state[node]
        if state == "lost":
            raise Refused(
                409, f"node {self.dispatch.node_name(node)} does not answer; it comes back by itself when it does"
            )
        if state == "drained":
            self._set_node(node, "open", "", "reopen")

    def _set_node(self, node: int, state: str, why: str, kind: str) -> None:
        self.live.change_node(node, kind, self.now)
        self.node_state[node] = (state, why)
        name = self.dispatch.node_name(node)
        self.ledger.node(name, state, why)
        self.ledger.tell(self.now, f"node {state}", None, node=name, reason=why)

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

    def _apply(self, changes: Changes) -> None:
        """Carry over what one instant has brought: to records, and to orders for machines."""
        for stopped in changes.stopped:
            self._stopped(stopped)
        for cut in changes.cuts:
            self.dispatch.cut(cut)
            self.ledger.cut(self.dispatch.node_name(cut.node), cut.gpu, self.live.layout_of(cut.node, cut.gpu))
        for started in changes.started:
            self._started(started)

    def _stopped(self, stopped: Stopped) -> None:
        record = self.ledger.records[stopped.job]
        machines = self.dispatch.machines_of(record.places)
        if record.began_s is not None:
            record.ran_s += max(0.0, stopped.at_s - record.began_s)
        record.began_s = None
        self.ledger.end_run(record, stopped.at_s, (record.reason if record.over else "") or stopped.outcome)
        if stopped.outcome == "suspended":
            record.state, record.reason = SUSPENDED, "others are ahead"
            self.dispatch.suspend(record)
            self.counters["suspended"] += 1
        elif record.run not in self._ended_early:
            # The core has ended a run that its machines still have: cancelled, or lost with one of them.
            self.dispatch.stop(record.run, machines)
        self._ended_early.discard(record.run)
        if stopped.outcome in ("node failure", "job failure"):
            record.state = WAITING
            record.reason = record.reason or stopped.outcome
        elif stopped.outcome == "given up" and not record.over:
            self._close(record, FAILED, "failed too often")
        self.ledger.touch(record)
        if record.over:
            self.live.forget([record.id])
        self.ledger.tell(
            stopped.at_s, "stopped", record, state=record.state, run=record.run, why=record.reason or stopped.outcome
        )

    def _started(self, started: Started) -> None:
        record = self.ledger.records[started.job]
        previous, was = record.run, record.places
        record.number, record.places = record.number + 1, started.places
        record.run = f"{record.id}.{record.number}"
        resumes = None
        if previous and getattr(record.spec, "suspend", "") == "stop" and record.state == SUSPENDED:
            if was == started.places:
                resumes = previous
            else:
                self.dispatch.stop(previous, self.dispatch.machines_of(was))
        record.state, record.reason, record.began_s = STARTING, "", started.at_s
        record.ended_ranks, record.devices, record.stopping = set(), {}, ""
        if record.started_s is None:
            record.started_s = started.at_s
        limit = getattr(record.spec, "limit_s", None)
        if limit is not None:
            heapq.heappush(self.due, (self.now + max(0.0, limit - record.ran_s), "limit", record.id))
        self.counters["started"] += 1
        self.ledger.begin_run(record, started)
        self.ledger.touch(record)
        self.dispatch.begin(record, self.cuts_for(record), resumes)
        self.ledger.tell(started.at_s, "started", record, state=STARTING, run=record.run, nodes=self.nodes_of(record),
            ready_s=started.ready_s, speed=started.speed,
        )  # fmt: skip

    def cuts_for(self, record: Record) -> list[Cut]:
        """How the GPUs of its places are to be cut: told with every run, since a machine may have lost its instances."""
        live = self.live
        kinds = live.arrays.pool_mig[live.arrays.node_pool]
        return [live.cut_of(place.node, gpu) for place in record.places if kinds[place.node] >= 0 for gpu in place.gpus]

    def nodes_of(self, record: Record) -> list[str]:
        return [self.dispatch.node_name(place.node) for place in record.places]

    def _close(self, record: Record, state: str, why: str) -> None:
        """A job or lease is over."""
        record.state, record.reason, record.ended_s = state, why, self.now
        self.ledger.alive_of[record.tenant] -= 1
        self.ledger.touch(record)
        self.ledger.tell(self.now, state, record, state=state, why=why)

    # --- what machines report -----------------------------------------------------------------------------

    def reported(self, machine: str, report: Report) -> None:
        job = report.run.rpartition(".")[0]
        record = self.ledger.records.get(job)
        if report.what == "not_cut":
            self._refused(machine, report)
        elif report.what == "ended":
            # Once that is on disk the machine need not know it any longer.
            self._over.setdefault(machine, []).append(report.run)
        if record is None or record.run != report.run or record.over or not record.holds:
            return
        if report.what == "began":
            record.devices[machine] = report.message
            if len(record.devices) == len(self.dispatch.machines_of(record.places)):
                self._began(record)
        elif report.what == "ended":
            self._ended(record, machine, report.code)
        elif report.what == "refused" and report.code:
            self._ended(record, machine, report.code, f"cannot begin on {machine}: {report.message}")
        elif report.what == "refused":
            self._refused(machine, report)
            self._again(record, f"refused by {machine}: {report.message}")
        elif report.what == "lost":
            self.lost(record, f"lost with {machine}: {report.message}".rstrip(": "))

    def _began(self, record: Record) -> None:
        record.state = RUNNING
        if record.kind == LEASE and getattr(record.spec, "ttl_s", None) is not None and record.expires_s is None:
            record.expires_s = self.now + float(record.spec.ttl_s)  # type: ignore[union-attr, arg-type]
            heapq.heappush(self.due, (record.expires_s, "expire", record.id))
        self.ledger.touch(record)
        self.ledger.tell(self.now, "running", record, state=RUNNING, run=record.run)

    def _ended(self, record: Record, machine: str, code: int, why: str = "") -> None:
        """One rank is over; the run is when all are, or one has failed. ``why``: more than its status says."""
        record.ended_ranks.add(machine)
        machines = self.dispatch.machines_of(record.places)
        rest = [name for name in machines if name not in record.ended_ranks]
        record.code = code if record.code in (None, 0) or not rest else record.code
        if code == 0 and rest:
            return
        if rest:
            self.dispatch.stop(record.run, rest)
        self._ended_early.add(record.run)
        ran_s = record.ran_s + self.now - (record.began_s or self.now)
        again, why = code != 0 and record.left > 0, why or f"ended with status {code}"
        self.live.end(record.id, self.now, failed=again)
        if again:
            record.left -= 1
            record.reason = f"{why}, {record.left} more tries"
            self.ledger.touch(record)
            return
        if code == 0:
            request = record.request
            self.forecasts.learn(groups_of(request.user, request.vc, request.name, request.gpus), ran_s)
            self.past.append((ran_s, request.gpus, record.known_s))
        self._close(record, DONE if code == 0 else FAILED, "" if code == 0 else why)

    def _again(self, record: Record, why: str) -> None:
        """A run is over that was not the job's doing: the job waits again."""
        others = [name for name in self.dispatch.machines_of(record.places) if name not in record.ended_ranks]
        self.dispatch.stop(record.run, others)
        self._ended_early.add(record.run)
        record.reason = why
        self.live.end(record.id, self.now, failed=True)
        self.ledger.touch(record)

    def _look_who_answers(self) -> None:
        """Machines that have gone silent take no job, and what ran there waits again; those that answer again are taken back."""
        for name, machine in self._remote.items():
            gone = not machine.present
            if gone == (name in self._silent):
                continue
            (self._silent.add if gone else self._silent.discard)(name)
            for node, seat in enumerate(self.dispatch.seats):
                if seat.machine == name and self.node_state[node][0] == ("open" if gone else "lost"):
                    self._set_node(
                        node,
                        "lost" if gone else "open",
                        "it does not answer" if gone else "",
                        "fail" if gone else "repair",
                    )

    def lost(self, record: Record, why: str) -> None:
        """A run is gone."""
        self.counters["lost"] += 1
        self._again(record, why)

    def _refused(self, machine: str, report: Report) -> None:
        """A device did not do what it was told: its node takes nothing more until somebody has looked at it."""
        self.counters["refused_by_device"] += 1
        for node, seat in enumerate(self.dispatch.seats):
            if seat.machine == machine and (report.gpu < 0 or report.gpu in seat.gpus):
                self.drain(node, f"GPU {report.gpu}: {report.message}" if report.gpu >= 0 else report.message)

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


def nodes_by_name(dispatch: Dispatch) -> Mapping[str, int]:
    """Number of each node in the core."""
    return {dispatch.node_name(k): k for k in range(len(dispatch.seats))}
