"""What becomes of jobs and leases: the core's decisions and the machines' reports, as records and as orders. No thread, no disk.

The core says that a run starts or stops; orders go to its machines. A machine says that a run has begun or ended, or that it
cannot; the core is told. `rltune.service.engine` calls both in turns, writes the records down, and sends the orders.
"""

from __future__ import annotations

import heapq
from collections import deque

from rltune.service.dispatch import Dispatch
from rltune.service.errors import Refused
from rltune.service.forecasts import Forecasts, groups_of
from rltune.service.ledger import Ledger
from rltune.service.orders import Remote, Report
from rltune.service.records import DONE, FAILED, LEASE, RUNNING, STARTING, SUSPENDED, WAITING, Record
from rltune.simulator.live import LiveCluster
from rltune.simulator.requests import Changes, Cut, Started, Stopped

PAST = 2000
"""Newest jobs that have ended whose (run time, GPUs, believed run time) say how far beliefs go wrong."""


class Runs:
    """``live``: the core; ``now``: seconds of the service at the present turn.

    ``node_state``: of each node of the core (open, drained or lost; why). ``due``: (second, what, job) as a heap.
    """

    def __init__(self, live: LiveCluster, ledger: Ledger, dispatch: Dispatch, now: float) -> None:
        self.live, self.ledger, self.dispatch, self.now = live, ledger, dispatch, now
        self.forecasts = Forecasts()
        self.past: deque[tuple[float, int, float]] = deque(maxlen=PAST)
        self.node_state: dict[int, tuple[str, str]] = dict.fromkeys(range(live.cluster.nodes), ("open", ""))
        self.due: list[tuple[float, str, str]] = []
        names = ("decisions", "started", "suspended", "refused_by_device", "lost", "store_errors")
        self.counters = dict.fromkeys(names, 0)
        self._ended_early: set[str] = set()
        self._over: dict[str, list[str]] = {}
        self._remote = {name: machine for name, machine in dispatch.machines.items() if isinstance(machine, Remote)}
        self._silent: set[str] = set()

    # --- what the core decides ------------------------------------------------------------------------------

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
            most = self.live.rules.options.max_retries
            self._close(record, FAILED, f"failed or was lost more than {most} times (options.max_retries)")
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
        record.ended_ranks, record.devices = set(), {}
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

    # --- nodes -----------------------------------------------------------------------------------------------

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
