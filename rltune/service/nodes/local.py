"""One machine: orders in, reports out. Processes outlive this process; a new node on the same folder finds them again.

All state belongs to one thread, the loop; each GPU has a thread for its changes (`lanes`), and every run a process of its own that
minds it (`shepherd`). An order waits for those before it on its GPU, and for runs that are being stopped in its place.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from rltune.devices.adapter import Adapter
from rltune.devices.journal import boot_id
from rltune.devices.lock import locked
from rltune.devices.open import open_device
from rltune.nouns.errors import InputError
from rltune.service.nodes import records
from rltune.service.nodes.beginning import CANNOT_RUN, JobsOwn, Surroundings, checked, code_of, record_of, user_of
from rltune.service.nodes.cuts import Device
from rltune.service.nodes.lanes import Change, Lane
from rltune.service.nodes.records import Begun, Ended, Folder
from rltune.service.nodes.run import (
    BEGAN,
    COMING,
    ENDED,
    LEASE,
    LOST,
    NOTHING,
    PROCESS,
    STARTING,
    SUSPENDED,
    Run,
    missing,
    prepared,
    same,
    stands_in_the_way,
)
from rltune.service.nodes.running import Gone, Shepherds, Started, alive, all_stopped, end_rest, send
from rltune.service.nodes.shepherd import GO_ON, STOP_ALL
from rltune.service.orders import Begin, Cut, Held, Inventory, Order, Report, Stop, Suspend

LOG_BYTES = 1 << 24
NOTES = 1000
"""Newest that are kept."""
LOOK_S = 0.02
"""Between looks at what is being stopped."""
PAUSE_S = 30.0
"""Longest wait of the loop without a look at changes that hang."""
OWNER_S = 10.0
"""For a node before this one, on the same folder, to end."""


@dataclass(frozen=True, slots=True)
class _Forget:
    runs: tuple[str, ...]


def open_node(name: str, device: str, state_dir: Path, pace: float = 1.0, log_bytes: int = LOG_BYTES) -> LocalNode:
    """The node of this machine on a device by name (`rltune.devices.open.open_device`); simulated ones live in its folder."""
    store = None if device == "nvml" else state_dir
    return LocalNode(name, Adapter(open_device(device, store, pace), store, wait_s=OWNER_S), state_dir, log_bytes)


class LocalNode:
    """``LocalNode(name, adapter, state_dir)``: a `rltune.service.orders.Node`; it closes adapter and driver with itself.

    ``state_dir``: on a disk of this machine, for this node only. ``log_bytes``: of each run's output the newest that are kept at
    least. ``notes``: lines on what was found at the start. Every run that is found is reported. InputError where the folder cannot
    be used, or another node uses it.
    """

    def __init__(self, name: str, adapter: Adapter, state_dir: Path, log_bytes: int = LOG_BYTES) -> None:
        self.name, self.log_bytes = name, log_bytes
        self.device, self.notes = Device(adapter), deque[str](maxlen=NOTES)
        self._folder = Path(os.path.abspath(state_dir)) / "runs"
        self._boot = boot_id()
        self._inbox: queue.SimpleQueue[Order | _Forget | Change] = queue.SimpleQueue()
        self._reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._turn = threading.Lock()
        self._runs: dict[str, Run] = {}
        self._lanes: dict[int, Lane] = {}
        self._closing = False
        with ExitStack() as stack:
            try:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                stack.enter_context(locked(self._folder.parent / "node.lock", OWNER_S))
                self._shepherds = Shepherds()
                stack.callback(self._shepherds.close)
                self._restore()
            except OSError as error:
                raise InputError(f"{state_dir}: cannot be used ({error.strerror}); name another folder") from None
            self._held = stack.pop_all()
        self._thread = threading.Thread(target=self._loop, name=f"node-{name}", daemon=True)
        self._thread.start()

    # What the service calls, from any thread.

    def inventory(self) -> Inventory:
        """See `rltune.service.orders.Node`; leases whose instance has gone are lost."""
        with self._turn:
            # Of those that begin from here on the GPUs may tell nothing yet.
            leases = [run for run in self._runs.values() if run.what == LEASE and run.state == BEGAN]
        gpus = self.device.gpus()
        with self._turn:
            for run in leases:
                if run.what == LEASE and run.state == BEGAN and any(missing(one, gpus) for one in run.held):
                    self._lose(run, "its MIG instance is gone")
            seen = {run.name: run for run in self._runs.values() if run.state not in (COMING, STARTING)}
            lanes = {gpu: lane.problem for gpu, lane in self._lanes.items()}
            gpus = tuple(replace(one, doubtful=one.doubtful or lanes.get(gpu, "")) for gpu, one in enumerate(gpus))
            return Inventory(
                self.name,
                gpus,
                {name: run.state for name, run in seen.items()},
                {name: run.code for name, run in seen.items() if run.state == ENDED},
            )

    def carry_out(self, orders: Sequence[Order]) -> None:
        for order in orders:
            self._inbox.put(order)
        self._shepherds.wake()

    def reports(self) -> list[Report]:
        found = []
        with suppress(queue.Empty):
            while True:
                found.append(self._reports.get_nowait())
        return found

    def log_path(self, run: str) -> str:
        return str(records.log_of(self._folder / checked(run)))

    def read_log(self, run: str, offset: int, most: int) -> bytes:
        return records.read_log(records.log_of(self._folder / checked(run)), offset, most)

    def log_span(self, run: str) -> tuple[int, int]:
        return records.log_span(records.log_of(self._folder / checked(run)))

    def forget(self, runs: Sequence[str]) -> None:
        self._inbox.put(_Forget(tuple(runs)))
        self._shepherds.wake()

    def close(self) -> None:
        """Let go of the device; runs go on. A change under way is waited for."""
        self._closing = True
        self._shepherds.wake()
        self._thread.join()
        for lane in self._lanes.values():
            lane.end()
        self._held.close()
        self.device.adapter.close()
        self.device.driver.close()

    # The loop.

    def _loop(self) -> None:
        while not self._closing:
            happened = self._shepherds.wait(self._patience_s())
            with self._turn:
                for event in happened:
                    self._guarded(self._take_event, event)
                while not self._inbox.empty():
                    self._guarded(self._take, self._inbox.get())
                for look in (self._look_at_stops, self._look_at_lanes, self._advance):
                    self._guarded(look)

    def _guarded(self, work, *arguments) -> None:  # type: ignore[no-untyped-def]
        """Whatever goes wrong with one order, the node goes on."""
        try:
            work(*arguments)
        except Exception as error:
            why = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self.notes.append(f"{work.__name__.strip('_')}: {why}")
            order = arguments[0] if arguments else None
            if isinstance(order, Begin) and order.run in self._runs:
                self._refuse(self._runs[order.run], why)
            elif isinstance(order, Suspend | Stop | Started | Gone):
                self._tell(LOST, order.run, message=why)

    def _patience_s(self) -> float:
        stopping = any(run.ending and run.suspend == "stop" and run.intent == "suspend" for run in self._runs.values())
        return LOOK_S if stopping else PAUSE_S

    def _take(self, order: Order | _Forget | Change) -> None:
        match order:
            case Begin():
                self._begin(order)
            case Cut():
                self._queue(Change(order.gpu, order))
            case Suspend():
                self._suspend(order.run)
            case Stop():
                self._stop(order.run)
            case _Forget():
                self._forget(order.runs)
            case Change():
                self._changed(order)

    def _take_event(self, event: Started | Gone) -> None:
        if isinstance(event, Started):
            self._started(event)
        elif event.run in self._runs:
            self._gone(self._runs[event.run])

    def _tell(
        self, what: str, run: str = "", *, at_s: float | None = None, gpu: int = -1, code: int = 0, message: str = ""
    ) -> None:
        self._reports.put(Report(what, time.time() if at_s is None else at_s, run, gpu, code, message))

    def _tell_state(self, run: Run) -> None:
        self._tell(run.state, run.name, at_s=run.ended_s, code=run.code, message=run.message)

    # Beginning.

    def _begin(self, order: Begin) -> None:
        known = self._runs.get(order.run)
        if known is not None:
            if known.state not in (COMING, STARTING):
                self._tell_state(known)
            return
        try:
            chain = self._check(order)
        except InputError as error:
            self._tell("refused", order.run, message=str(error), code=CANNOT_RUN if isinstance(error, JobsOwn) else 0)
            return
        folder = Folder(self._folder / order.run)
        home = Folder(self._folder / chain[0]) if chain else folder
        run = Run(order.run, order.held, order.command.suspend, folder, home, chain=chain, order=order)
        run.parts = {held.gpu for held in order.held} | {cut.gpu for cut in order.cuts}
        self._runs[order.run] = run
        for gpu in sorted(run.parts):
            cut = next((one for one in order.cuts if one.gpu == gpu), None)
            self._queue(Change(gpu, cut, run.name))
        if not run.parts:
            self._launch(run)

    def _check(self, order: Begin) -> tuple[str, ...]:
        """InputError for an order that cannot be carried out; the runs whose processes it goes on with."""
        command = order.command
        checked(order.run)
        if command.suspend not in ("stop", "checkpoint"):
            raise InputError(f"suspend: {command.suspend!r} is unknown; known are stop and checkpoint")
        if (self._folder / order.run).exists():
            raise InputError(f"run {order.run} was here before, and is forgotten; each run needs a new name")
        if len({one.gpu for one in order.cuts}) < len(order.cuts):
            raise InputError("two cuts of one GPU; order one")
        user_of(command, self.name)
        old = self._runs.get(order.resumes or "")
        if not order.resumes or command.suspend != "stop" or not command.argv:
            return ()
        if old is None or old.state != SUSPENDED or old.what != PROCESS:
            raise InputError(f"run {order.resumes} is not stopped here, so that it cannot go on; begin it anew")
        if old.held != order.held:
            raise InputError(f"run {order.resumes} is stopped on other GPUs or instances; it can go on there only")
        return (*old.chain, old.name)

    def _queue(self, change: Change) -> None:
        lane = self._lanes.get(change.gpu)
        if lane is None:
            lane = self._lanes[change.gpu] = Lane(self.device, self._inbox.put, self._shepherds.wake)
        lane.waiting.append(change)

    def _advance(self) -> None:
        """Give each GPU's thread its next change, if what stands in its way has gone."""
        for lane in self._lanes.values():
            while lane.waiting and not lane.busy:
                change = lane.waiting[0]
                run = self._runs.get(change.run) if change.run else None
                if change.run and (run is None or run.state != COMING):
                    lane.waiting.popleft()  # it was refused, or stopped before it began
                    continue
                if any(one.ending and stands_in_the_way(one, change, run) for one in self._runs.values()):
                    break
                lane.waiting.popleft()
                try:
                    held = self._places(change, run)
                except InputError as error:
                    self._changed(replace(change, problem=str(error)))
                    continue
                lane.do(replace(change, held=held))

    def _places(self, change: Change, run: Run | None) -> tuple[tuple[Held, bool], ...]:
        """What a run is to hold on this GPU, and whether alone; InputError where runs that are there stand in the way."""
        others = [
            one
            for one in self._runs.values()
            if one is not run
            and (run is None or one.name not in run.chain)
            and (one.there or prepared(one, change.gpu))
        ]
        if change.cut is not None:
            for one in others:
                if not all(map(change.cut.leaves, one.held)):
                    raise InputError(f"GPU {change.gpu}: run {one.name} holds what would have to go; stop it first")
        places = []
        for held in run.held if run else ():
            if held.gpu != change.gpu:
                continue
            near = [(one, its) for one in others for its in one.held if same(its, held)]
            for one, its in near:
                if one.state != SUSPENDED and (its.instance is not None or held.instance is not None):
                    raise InputError(f"GPU {change.gpu}: run {one.name} holds it; stop it first")
            places.append((held, not near and not (run and run.chain)))
        return tuple(places)

    def _changed(self, change: Change) -> None:
        """A GPU's thread has done, or could not do, a change."""
        lane = self._lanes[change.gpu]
        if lane.busy and lane.at_work == change.number:
            lane.busy, lane.problem = False, ""
        if change.cut is not None:
            done = not change.problem
            self._tell("cut" if done else "not_cut", change.run, gpu=change.gpu, message=change.problem)
        run = self._runs.get(change.run) if change.run else None
        if run is None or run.state != COMING or run.order is None:
            return
        if change.problem:
            self._refuse(run, change.problem)
            return
        named = iter(change.named)
        run.devices |= {at: next(named) for at, one in enumerate(run.held) if one.gpu == change.gpu}
        run.parts.discard(change.gpu)
        if not run.parts:
            self._launch(run)

    def _refuse(self, run: Run, why: str, code: int = 0) -> None:
        del self._runs[run.name]
        self._tell("refused", run.name, message=why, code=code)

    def _launch(self, run: Run) -> None:
        """All its GPUs are ready."""
        order = run.order
        assert order is not None
        devices = [run.devices[at] for at in range(len(run.held))]
        run.message = ",".join(devices)
        try:
            if run.chain:
                self._resume(run, devices)
                return
            run.folder.create(self._written(order, devices))
            if order.command.argv:
                run.state = STARTING
                self._shepherds.start(run.name, run.folder)
                return
            run.begun = Begun(time.time(), self._boot)
            run.folder.write_begun(run.begun)
        except (OSError, InputError) as error:
            run.folder.remove()
            self._refuse(run, f"{self._folder}: {error.strerror}" if isinstance(error, OSError) else str(error))
            return
        run.state, run.what, run.order = BEGAN, LEASE, None
        self._began(run, order)

    def _written(self, order: Begin, devices: list[str]) -> records.Order:
        """What its shepherd, and a node after this one, must know."""
        seen, mark = self.device.environment(order.held, devices), f"{self.name}:{order.run}"
        user = user_of(order.command, self.name)
        return record_of(order, Surroundings(devices, seen, user, self._boot, mark, self.log_bytes))

    def _started(self, event: Started) -> None:
        run = self._runs.get(event.run)
        if run is None or run.state != STARTING:
            return
        order = run.order
        assert order is not None
        begun = run.folder.begun()
        if begun is None:
            run.folder.remove()
            told = f"{order.command.argv[0]}: {event.problem or 'its folder was removed'}"
            self._refuse(run, told, code_of(event.problem))
            return
        # With a problem too: the shepherd of a node that was killed came first, with the same order.
        run.begun, run.order = begun, None
        run.state, run.what = BEGAN, PROCESS
        self._began(run, order)
        if not self._shepherds.adopt(run.name, run.shepherd):
            self._gone(run)
        elif run.intent:
            self._intend(run, run.intent)

    def _began(self, run: Run, order: Begin) -> None:
        assert run.begun is not None
        self._tell(BEGAN, run.name, at_s=run.begun.began_s, message=run.message)
        old = self._runs.get(order.resumes or "")
        if old is not None and old.what == NOTHING and old.state == SUSPENDED:
            # It is this run now.
            self._drop(old)

    def _resume(self, run: Run, devices: list[str]) -> None:
        """Let stopped processes go on, under the new run's name."""
        old = self._runs.get(run.chain[-1])
        if old is None or old.state != SUSPENDED or old.what != PROCESS:
            raise InputError(f"run {run.chain[-1]} ended while it was stopped; begin it anew")
        before = run.home.order()
        assert before is not None and run.order is not None
        run.folder.create(replace(before, devices=devices, chain=list(run.chain), argv=[], environment={}))
        (run.folder.path / records.LOG).symlink_to(Path("..") / run.home.path.name / records.LOG)
        del self._runs[old.name]
        run.begun, run.state, run.what, run.order = old.begun, BEGAN, PROCESS, None
        self._shepherds.rename(old.name, run.name)
        send(run.shepherd, GO_ON)
        self._tell(BEGAN, run.name, message=run.message)

    # Suspending and stopping.

    def _suspend(self, name: str) -> None:
        run = self._runs.get(name)
        if run is None:
            self._unknown(name)
        elif run.state == COMING:
            self._refuse(run, "suspended before it began; begin it again")
        elif run.state not in (STARTING, BEGAN):
            self._tell_state(run)
        elif not run.intent:
            self._intend(run, "suspend")

    def _stop(self, name: str) -> None:
        run = self._runs.get(name)
        if run is None:
            self._unknown(name)
        elif run.state == COMING:
            del self._runs[name]
            self._tell(ENDED, name, code=-signal.SIGTERM, message="stopped before it began")
        elif run.state in (ENDED, LOST):
            self._tell_state(run)
        elif run.intent != "stop":
            self._intend(run, "stop")

    def _unknown(self, name: str) -> None:
        self._tell(LOST, name, message=f"{self.name} has no run of this name")

    def _intend(self, run: Run, intent: str) -> None:
        run.intent = intent
        if run.state == STARTING:
            return  # once it has begun
        # Written down first: a node that begins anew finishes it. On a full disk it is done all the same; only a restart of the
        # node meanwhile would take the end for another.
        with suppress(OSError):
            run.folder.write_intent(intent)
        if run.what == PROCESS:
            self._press(run)
        elif run.what == LEASE:
            self._over(run, Ended(time.time(), 0), SUSPENDED if intent == "suspend" else ENDED)
        elif run.state == SUSPENDED:
            run.state = ENDED
            self._tell_state(run)

    def _press(self, run: Run) -> None:
        pausing = run.intent == "suspend" and run.suspend == "stop"
        if run.intent == "stop" and run.state == SUSPENDED:
            run.state = BEGAN  # until it is over its GPUs are not free
        send(run.shepherd, STOP_ALL if pausing else signal.SIGTERM)

    def _look_at_stops(self) -> None:
        for run in self._runs.values():
            pausing = run.ending and (run.state, run.intent, run.suspend, run.what) == (
                BEGAN,
                "suspend",
                "stop",
                PROCESS,
            )
            if pausing and all_stopped(run.shepherd) and alive(run.shepherd):
                run.state = SUSPENDED
                self._tell(SUSPENDED, run.name)

    def _look_at_lanes(self) -> None:
        """A driver that hangs delays the runs on its own GPU only."""
        for lane in self._lanes.values():
            change = lane.overdue()
            if change is not None:
                self._changed(replace(change, problem=lane.problem))

    def _gone(self, run: Run) -> None:
        """Its shepherd is no more."""
        try:
            ended = run.home.ended()
        except ValueError as error:
            self._lose(run, str(error))
            return
        if ended is None:
            assert run.begun is not None
            order = run.home.order()
            left = end_rest(run.begun, order.mark if order else "")
            rest = f"; {left} processes that it left were ended" if left else ""
            self._lose(run, f"its shepherd was killed{rest}")
            return
        kept = run.intent == "suspend" and run.suspend == "checkpoint" and ended.told_to_end
        self._over(run, ended, SUSPENDED if kept else ENDED, write=False)

    def _over(self, run: Run, ended: Ended, state: str, write: bool = True) -> None:
        if write:
            with suppress(OSError):
                run.folder.write_ended(ended)
        run.state, run.what, run.code, run.ended_s = state, NOTHING, ended.code, ended.ended_s
        run.message = f"pids {ended.left} hang in the kernel" if ended.left else ""
        self._tell_state(run)

    def _lose(self, run: Run, why: str) -> None:
        run.state, run.what, run.message = LOST, NOTHING, why
        self._tell_state(run)

    def _forget(self, names: Sequence[str]) -> None:
        for name in names:
            run = self._runs.get(name)
            if run is not None and run.what == NOTHING and run.state in (ENDED, SUSPENDED, LOST):
                self._drop(run)

    def _drop(self, run: Run) -> None:
        for name in (*run.chain, run.name):
            Folder(self._folder / name).forget()
        del self._runs[run.name]

    # The start.

    def _restore(self) -> None:
        """Find the runs again that an earlier node began."""
        try:
            self.notes += self.device.adapter.recover()
        except InputError as error:
            self.notes.append(str(error))
        found: dict[str, tuple[Folder, records.Order]] = {}
        for folder in records.folders(self._folder):
            try:
                order = folder.order()
            except ValueError as error:
                self.notes.append(str(error))
                self._tell(LOST, folder.path.name, message=str(error))
                continue
            if order is not None:
                found[folder.path.name] = folder, order
        over = {name for _, order in found.values() for name in order.chain}
        for name, (folder, order) in found.items():
            if name not in over:
                self._restore_run(name, folder, order)

    def _restore_run(self, name: str, folder: Folder, order: records.Order) -> None:
        home = Folder(self._folder / order.chain[0]) if order.chain else folder
        held = tuple(Held(gpu, instance) for gpu, instance in order.held)
        run = Run(name, held, order.suspend, folder, home, chain=tuple(order.chain), message=",".join(order.devices))
        run.intent = folder.intent()
        try:
            # Of the shepherd of a node that was killed just now: the first to write decides.
            void = home.begun() is None and home.write_begun(Begun(time.time(), self._boot, void=True))
            run.begun, ended = home.begun(), home.ended()
        except ValueError as error:
            self._runs[name] = run
            self._lose(run, str(error))
            return
        assert run.begun is not None
        if void or run.begun.void:
            folder.remove()
            return
        self._runs[name] = run
        if ended is not None:
            self._restore_ended(run, ended, bool(order.argv or order.chain))
        elif run.begun.boot != self._boot:
            self._lose(run, "the machine was rebooted")
        elif run.begun.shepherd is None:
            run.state, run.what = BEGAN, LEASE
            self._tell_state(run)
            if run.intent:
                # The node was killed between the intent and the end.
                self._over(run, Ended(time.time(), 0), SUSPENDED if run.intent == "suspend" else ENDED)
        elif self._shepherds.adopt(name, run.begun.shepherd):
            self._restore_living(run)
        else:
            self._gone(run)

    def _restore_ended(self, run: Run, ended: Ended, command: bool) -> None:
        kept = run.intent == "suspend" and (not command or (run.suspend == "checkpoint" and ended.told_to_end))
        self._over(run, ended, SUSPENDED if kept else ENDED, write=False)

    def _restore_living(self, run: Run) -> None:
        run.state, run.what = BEGAN, PROCESS
        if run.intent == "suspend" and run.suspend == "stop" and all_stopped(run.shepherd):
            run.state = SUSPENDED
        self._tell_state(run)
        if run.intent:
            if run.state != SUSPENDED:
                self._press(run)
        elif run.chain:
            send(run.shepherd, GO_ON)  # the earlier node may have been killed just before it did
