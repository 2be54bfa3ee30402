"""Changes of one GPU, one at a time, in a thread of its own: the executor's loop never waits for a driver."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence

from rltune.devices.adapter import Adapter
from rltune.devices.execution.processes import Signals
from rltune.devices.execution.schedule import Step
from rltune.devices.state import GpuState, Instance
from rltune.nouns.errors import InputError

RELEASED_S = 5.0
"""A driver may list a process for a moment after its end: so long a destruction is tried again."""
PAUSE_S = 0.1


class Worker:
    """``do`` and ``restore`` begin a change and return; ``busy`` until its report, since ``begun``; ``problem`` of a
    restoration, or of one that is ``lost``; ``removed``: instance -> when its destruction by a restoration began and ended, by
    `time.monotonic`."""

    def __init__(self, adapter: Adapter, gpu: str, tenant: str, signals: Signals) -> None:
        self.adapter, self.gpu, self.tenant, self.signals = adapter, gpu, tenant, signals
        self.busy, self.lost, self.problem, self.begun = False, False, "", 0.0
        self.removed: dict[Instance, tuple[float, float]] = {}
        self._todo: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._reports: queue.SimpleQueue[tuple[Step, str, str | None] | None] = queue.SimpleQueue()
        # Daemon: a thread that hangs in the driver must not keep this process.
        threading.Thread(target=self._run, daemon=True).start()

    def end(self) -> None:
        self._todo.put(None)

    def do(self, step: Step, instance: Instance) -> None:
        """Begin a step; its report comes through `reports`."""
        self.busy, self.begun = True, time.monotonic()
        self._todo.put(lambda: self._reports.put((step, *self._step(step, instance))))

    def restore(self, before: GpuState, held: Sequence[Instance], keep: bool) -> None:
        """Begin to bring back what was there, as far as ``held`` instances are concerned; keep: only let go of them."""
        self.busy, self.begun = True, time.monotonic()

        def work() -> None:
            try:
                self._restore(before, held, keep)
            except InputError as error:
                self.problem = str(error)
            except Exception as error:
                self.problem = f"{type(error).__name__}: {error}"
            self._reports.put(None)

        self._todo.put(work)

    def give_up(self) -> None:
        """Nobody waits for its driver any longer."""
        self.busy, self.lost = False, True
        self.problem = (
            f"a change has not ended after {time.monotonic() - self.begun:.0f} s: the driver may hang (see dmesg); the next apply, "
            "or `recover`, settles it"
        )

    def reports(self) -> list[tuple[Step, str, str | None]]:
        """(step, UUID, problem) of what has ended since the last call."""
        found = []
        while not self.lost and not self._reports.empty():
            report = self._reports.get()
            self.busy = False
            if report is not None:
                found.append(report)
        return found

    def _run(self) -> None:
        while (work := self._todo.get()) is not None:
            work()
            self.signals.wake()

    def _step(self, step: Step, instance: Instance) -> tuple[str, str | None]:
        try:
            if step.action == "destroy":
                patiently(lambda: self.adapter.reconfigure(self.gpu, [instance], [], tenant=self.tenant))
                return "", None
            if step.action == "create":
                self.adapter.reconfigure(self.gpu, [], [instance], tenant=self.tenant)
            else:
                self.adapter.claim(self.gpu, instance, self.tenant, os.getpid())
            uuids = self.adapter.uuids(self.gpu).get(instance, ())
            return (uuids[0], None) if uuids else ("", "the driver lists no MIG UUID for it")
        except InputError as error:
            return "", str(error)
        except Exception as error:
            # Whatever it is, the tasks of other GPUs go on.
            return "", f"{type(error).__name__}: {error}"

    def _restore(self, before: GpuState, held: Sequence[Instance], keep: bool) -> None:
        now = self.adapter.states()[self.gpu].instances
        if not keep:
            destroy = [one for one in now if one in held and one not in before.instances]
            create = [one for one in before.instances if one in held and one not in now]
            if destroy or create:
                begun = time.monotonic()
                change = lambda: self.adapter.reconfigure(self.gpu, destroy, create, tenant=self.tenant)  # noqa: E731
                patiently(change, bool(destroy))
                self.removed = dict.fromkeys(destroy, (begun, time.monotonic()))
                now = self.adapter.states()[self.gpu].instances
        mine = {(t.profile, t.start) for t in self.adapter.tenants() if t.gpu == self.gpu and t.tenant == self.tenant}
        for one in now:
            if (one.profile, one.start) in mine:
                self.adapter.release(self.gpu, one, self.tenant)


def patiently(
    change: Callable[[], None], destroys: bool = True, final: tuple[type[InputError], ...] = ()
) -> None:  # fmt: skip
    """A change of a GPU; one that destroys is tried again for a while, since its users may just have ended, but for ``final``
    errors."""
    deadline = time.monotonic() + RELEASED_S
    while True:
        try:
            change()
            return
        except InputError as error:
            if not destroys or isinstance(error, final) or time.monotonic() >= deadline:
                raise
        time.sleep(PAUSE_S)
