"""Many changes of GPUs that do not exist, each held against what must be true: shared by the quick and the long tests."""

from __future__ import annotations

import ctypes
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from fake_nvml import FakeNvml, State

from rltune.devices.adapter import Adapter, RolledBack, Unsettled
from rltune.devices.difference import GpuPlan, Plan
from rltune.devices.nvml import NvmlDriver
from rltune.devices.spec import spec_of
from rltune.devices.state import Instance, parse_instance, state, whole
from rltune.devices.status import STATUSES
from rltune.mig.geometry import geometry
from rltune.nouns.errors import InputError

Found = tuple[frozenset[tuple[str, int, tuple[int, ...]]], tuple[bool, bool]]
"""(profile, start, compute slices) of a GPU's instances; its MIG mode now and pending."""
Held = set[tuple[str, int, tuple[int, ...], int]]
"""The same with the driver's numbers: who keeps his number was not touched."""
MUTATING = ("Create", "Destroy", "SetMigMode")


@dataclass
class Machine:
    """A fake machine under an adapter with a journal of its own."""

    nvml: FakeNvml
    store: Path
    patience_s: float = 5.0
    driver: NvmlDriver = field(init=False)
    adapter: Adapter = field(init=False)

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        """As a process begins: a driver, and an adapter that knows nothing but its journal."""
        self.driver = NvmlDriver()
        self.adapter = Adapter(self.driver, self.store, self.store / "locks", self.patience_s, sleep=lambda s: None)

    def close(self) -> None:
        self.adapter.close()
        self.driver.close()

    def begin_anew(self) -> None:
        """With a driver that has read nothing yet: no cache hides a call."""
        self.close()
        self.open()

    def held(self) -> list[Held]:
        """What the hardware really holds, read beside the driver."""
        return [self.nvml.instances(gpu) for gpu in range(len(self.nvml.models))]

    def found(self) -> list[Found]:
        return [(bare(held), self.nvml.mode(gpu)) for gpu, held in enumerate(self.held())]

    def mutations(self) -> int:
        return sum(any(word in name for word in MUTATING) for name in self.nvml.log())

    def snapshot(self) -> bytes:
        with self.nvml.state() as held:
            return bytes(held)

    def restore(self, snapshot: bytes) -> None:
        with self.nvml.state() as held:
            ctypes.memmove(ctypes.byref(held), snapshot, ctypes.sizeof(State))

    def make(self, gpus: Sequence[Sequence[str]]) -> None:
        """Bring the GPUs to these instances."""
        entries = [{"gpu": gpu, "instances": list(names)} for gpu, names in enumerate(gpus)]
        self.adapter.apply(self.adapter.plan(spec_of({"version": 1, "gpus": entries})))

    def occupy(self, gpu: int, name: str, pid: int) -> None:
        """A process in the first compute instance of an instance."""
        wanted = parse_instance(name)
        number = next(one[3] for one in self.nvml.instances(gpu) if one[:3] == tuple(wanted))
        inner = next(one for one in self.driver.instances(gpu) if one.id == number).compute_instances[0].id
        self.nvml.add_process(gpu, pid, number, inner)


def bare(held: Held) -> frozenset[tuple[str, int, tuple[int, ...]]]:
    return frozenset(one[:3] for one in held)


def found_in(plan_state: Any) -> Found:
    return frozenset(tuple(one) for one in plan_state.instances), (plan_state.mig, plan_state.pending)


# Random plans.


@cache
def arrangements(model: str) -> dict[tuple[tuple[str, int], ...], list[frozenset[tuple[str, int]]]]:
    """Counts of profiles -> every legal state with them, from the planner's geometry: none of the adapter's own code."""
    table = geometry(model)
    found: dict[tuple[tuple[str, int], ...], list[frozenset[tuple[str, int]]]] = {}
    for one in table.states([profile.kind for profile in table.profiles]):
        places = frozenset((table.profiles[p.profile].name, p.start) for p in one)
        found.setdefault(counted(name for name, _ in places), []).append(places)
    return found


def counted(names: Any) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(Counter(names).items()))


@dataclass
class Counts:
    """What happened in a series of trials."""

    applied: int = 0
    unchanged: int = 0
    refused: int = 0
    rolled_back: int = 0
    kept: int = 0
    busy_kept: int = 0


def random_sequence(machine: Machine, rng: np.random.Generator, steps: int) -> Counts:
    """Random wishes for random GPUs, some impossible, some against running jobs; every outcome is checked."""
    counts = Counts()
    for step in range(steps):
        _processes_come_and_go(machine, rng, step)
        gpu = int(rng.integers(len(machine.nvml.models)))
        if rng.random() < 0.1:
            _illegal(machine, rng, gpu, counts)
        else:
            _wish(machine, rng, gpu, counts)
    return counts


def _processes_come_and_go(machine: Machine, rng: np.random.Generator, step: int) -> None:
    for gpu in range(len(machine.nvml.models)):
        with machine.nvml.state() as held:
            pids = [process.pid for process in held.gpu[gpu].processes if process.live]
        if pids and rng.random() < 0.5:
            machine.nvml.remove_process(gpu, int(rng.choice(pids)))
        idle = sorted(machine.nvml.instances(gpu))
        if idle and rng.random() < 0.3:
            profile, start, compute, _ = idle[int(rng.integers(len(idle)))]
            machine.occupy(gpu, str(Instance(profile, start, compute)), 1000 + step)


def _wish(machine: Machine, rng: np.random.Generator, gpu: int, counts: Counts) -> None:
    """A spec, mostly possible, half of it without starts: the outcome must be what the geometry says."""
    model = machine.nvml.models[gpu]
    profiles = [profile.name for profile in geometry(model).profiles]
    if rng.random() < 0.8:
        options = arrangements(model)
        places = list(options[list(options)[int(rng.integers(len(options)))]])
        chosen = sorted(places[int(rng.integers(len(places)))])
        wanted = [(name, start if rng.random() < 0.4 else None) for name, start in chosen]
    else:
        wanted = [
            (str(rng.choice(profiles)), int(rng.integers(8)) if rng.random() < 0.3 else None)
            for _ in range(int(rng.integers(1, 5)))
        ]
    before, busy = machine.held(), _busy(machine, gpu)
    fitting = [
        places for places in arrangements(model).get(counted(name for name, _ in wanted), []) if _meets(places, wanted)
    ]
    possible = [places for places in fitting if {one[:2] for one in busy} <= places]
    names = [name if start is None else f"{name}@{start}" for name, start in wanted]
    spec = spec_of({"version": 1, "gpus": [{"gpu": gpu, "instances": names}]})
    machine.nvml.clear()
    try:
        plan = machine.adapter.plan(spec)
        done = machine.adapter.apply(plan, mig_mode=True)
    except InputError as error:
        assert not isinstance(error, RolledBack | Unsettled), error
        assert not possible, f"{names} on {before[gpu]} beside {busy} is possible: {error}"
        assert machine.held() == before and not machine.mutations()
        counts.refused += 1
        return
    assert possible, f"{names} was applied beside {busy}, which nothing can meet"
    after = machine.held()
    assert bare(after[gpu]) == found_in(plan.gpus[0].after)[0]
    assert frozenset(one[:2] for one in after[gpu]) in possible
    assert machine.adapter.verify(spec) == []
    kept = {one for one in before[gpu] if one[:3] in {other[:3] for other in after[gpu]}}
    assert kept <= after[gpu], "an instance that stays was made anew"
    # As many stay as in the best of all possible states.
    most = max(len({one[:2] for one in before[gpu]} & places) for places in possible)
    assert len(kept) == most
    assert busy <= after[gpu]
    assert all(now == old for other, (now, old) in enumerate(zip(after, before, strict=True)) if other != gpu)
    counts.applied += done.transaction is not None
    counts.unchanged += done.transaction is None
    counts.kept += len(kept)
    counts.busy_kept += len(busy)


def _busy(machine: Machine, gpu: int) -> Held:
    with machine.nvml.state() as held:
        numbers = {process.gi for process in held.gpu[gpu].processes if process.live}
    return {one for one in machine.nvml.instances(gpu) if one[3] in numbers}


def _meets(places: frozenset[tuple[str, int]], wanted: Sequence[tuple[str, int | None]]) -> bool:
    """Whether the ones with a start are there, each once (the counts are right already)."""
    fixed = [one for one in wanted if one[1] is not None]
    return len(set(fixed)) == len(fixed) and all(one in places for one in fixed)


def _illegal(machine: Machine, rng: np.random.Generator, gpu: int, counts: Counts) -> None:
    """A plan that somebody wrote by hand, with a state that no GPU can have: refused by the driver, and undone."""
    model = machine.nvml.models[gpu]
    before = machine.held()
    if _busy(machine, gpu):
        return
    largest = geometry(model).profiles[0].name
    wrong = [whole(largest, 0), whole(geometry(model).profiles[-1].name, int(rng.integers(4)))]
    identity = machine.driver.gpus()[gpu]
    now = machine.adapter.states()[identity.uuid]
    plan = Plan((GpuPlan(gpu, identity.uuid, identity.name, now, state(True, wrong), {}),), 0.0)
    try:
        machine.adapter.apply(plan, mig_mode=True)
    except RolledBack as error:
        assert "INSUFFICIENT_RESOURCES" in str(error)
        assert [bare(held) for held in machine.held()] == [bare(held) for held in before]
        counts.rolled_back += 1
        return
    raise AssertionError(f"{wrong} was created")


# Kills.

Case = tuple[str, list[list[str]], list[list[str]], list[tuple[int, str]], dict[str, Any]]
"""Models (comma), instances before, instances after, (GPU, instance) in use, options of the fake."""

CASES: dict[str, Case] = {
    "fill": ("A100-80GB", [[]], [["1g.10gb"] * 7], [], {}),
    "repartition beside a job": (
        "A100-80GB",
        [["3g.40gb@4", "2g.20gb@0", "1g.10gb@2", "1g.10gb@3"]],
        [["3g.40gb@4", "4g.40gb@0"]],
        [(0, "3g.40gb@4")],
        {},
    ),
    "two GPUs": ("A30,H100-80GB", [["1g.6gb"] * 4, ["7g.80gb"]], [["4g.24gb"], ["4g.40gb", "3g.40gb"]], [], {}),
    "several compute instances": (
        "H200-141GB", [["3g.71gb@0[1+2]", "3g.71gb@4"]], [["3g.71gb@0", "3g.71gb@4[1+1+1]"]], [], {},
    ),
    "old driver": (
        "A100-40GB", [["7g.40gb"]], [["3g.20gb@4", "2g.10gb@2", "2g.10gb@0"]], [],
        {"missing": ["nvmlDeviceCreateGpuInstanceWithPlacement"]},
    ),
    "MIG off": ("H100-80GB,A30", [["3g.40gb@4", "1g.10gb@0"], ["4g.24gb"]], [[], []], [], {"off": True}),
    "MIG mode as well": ("A100-80GB,A30", [[], []], [["7g.80gb"], ["2g.12gb", "2g.12gb"]], [], {"mig": False}),
    # The stand-in begins at the right: the first order, largest first, puts 3g where 2g belongs.
    "old driver, second order": (
        "A100-40GB", [["1g.5gb@6", "2g.10gb@0"]], [["3g.20gb@0", "2g.10gb@4", "1g.5gb@6"]], [(0, "1g.5gb@6")],
        {"missing": ["nvmlDeviceCreateGpuInstanceWithPlacement"]},
    ),
}  # fmt: skip


def machine_options(options: dict[str, Any]) -> dict[str, Any]:
    """Those of a case that the stand-in takes."""
    return {name: value for name, value in options.items() if name != "off"}


def prepare(machine: Machine, case: Case) -> Plan:
    """The machine as the case begins, and the plan that it tries."""
    _, before, after, busy, options = case
    blind = options.get("missing", [])
    machine.nvml.refuse(dict.fromkeys(blind, 0))
    if options.get("mig", True):
        machine.make(before)
    machine.nvml.refuse(dict.fromkeys(blind, 13))
    for pid, (gpu, name) in enumerate(busy, start=4000):
        machine.occupy(gpu, name, pid)
    wanted = not options.get("off", False)
    entries = [{"gpu": gpu, "mig": wanted, "instances": names} for gpu, names in enumerate(after)]
    return machine.adapter.plan(spec_of({"version": 1, "gpus": entries}))


def calls_of(machine: Machine, action: Callable[[], Any]) -> int:
    """How many NVML calls an action makes."""
    before = machine.nvml.calls()
    action()
    return machine.nvml.calls() - before


def killed_in(machine: Machine, action: Callable[[Machine], Any], kind: str, nth: int) -> bool:
    """Do it in a process of its own that is killed at its nth call from now; whether it was."""
    child = os.fork()
    if not child:
        try:
            machine.open()
            machine.nvml.set_fault(kind, nth)
            action(machine)
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, ended = os.waitpid(child, 0)
    machine.nvml.clear()
    assert os.WIFSIGNALED(ended) or os.WEXITSTATUS(ended) == 0, "the action failed of itself"
    return os.WIFSIGNALED(ended) and os.WTERMSIG(ended) == signal.SIGKILL


@dataclass
class Kills:
    """How a series of kills ended."""

    kills: int = 0
    before: int = 0
    after: int = 0
    nothing_begun: int = 0
    killed_again: int = 0


def kill_everywhere(nvml: FakeNvml, case: Case, again: int = 0, stride: int = 1) -> Kills:
    """Kill an apply before and after the effect of every call (or every ``stride``-th), restart, and hold the state to exactly
    before or after; ``again``: kill the recovery too, at that many of its calls."""
    counts = Kills()
    with tempfile.TemporaryDirectory() as folder:
        first = Machine(nvml, Path(folder) / "prepare")
        plan = prepare(first, case)
        before, was, after = first.held(), first.found(), [found_in(gpu.after) for gpu in plan.gpus]
        snapshot = first.snapshot()
        first.close()
        for kind in ("kill_before", "kill_after"):
            nth = 1
            while _kill_once(
                nvml, plan, snapshot, (before, was, after), (kind, nth), Path(folder) / f"{kind}{nth}", again, counts
            ):
                nth += stride
    return counts


def _kill_once(
    nvml: FakeNvml, plan: Plan, snapshot: bytes, states: tuple[list[Held], list[Found], list[Found]],
    fault: tuple[str, int], store: Path, again: int, counts: Kills,
) -> bool:  # fmt: skip
    """One kill and all that is to be true of it; False where the apply ended before the call came."""
    before, was, after = states
    store.mkdir()
    machine = Machine.__new__(Machine)
    machine.nvml, machine.store, machine.patience_s = nvml, store, 5.0
    machine.restore(snapshot)
    if not killed_in(machine, lambda child: child.adapter.apply(plan, mig_mode=True), *fault):
        assert machine.found() == after
        return False
    counts.kills += 1
    for nth in range(1, again + 1):
        # At calls spread over the recovery, which has some dozens.
        counts.killed_again += killed_in(
            machine, lambda child: child.adapter.recover(), fault[0], 7 * nth + fault[1] % 7
        )
    machine.open()
    lines = machine.adapter.recover()
    found = machine.found()
    if not lines:
        counts.nothing_begun += not again
        assert found == was or (again and found == after)
    else:
        assert len(lines) == 1
        word = "after" if "exactly that after" in lines[0] else "before"
        assert ("exactly that " + word) in lines[0], lines
        assert found == (after if word == "after" else was), (fault, lines, found)
        counts.after += word == "after"
        counts.before += word == "before"
    kept = {gpu: {one for one in held if one[:3] in after[gpu][0]} for gpu, held in enumerate(before)}
    assert all(kept[gpu] <= held for gpu, held in enumerate(machine.held())), "a neighbour was touched"
    assert all(one[2] for gpu in machine.held() for one in gpu), "an instance without compute instances was left"
    assert machine.adapter.recover() == [] and machine.adapter.journal.open_ones() == []
    machine.close()
    return True


# Errors.

ORDINARY = (2, 3, 6, 13, 25)
"""What a driver answers to a profile that a GPU does not have, an index without a MIG device, a call it is too old for."""

MISREAD = ("not the state that the plan was made on", "no such profile", "something else changed it")
"""What is then told: one look at the GPU was not like the others."""
UNREACHED = "no longer there"
"""What is told of a GPU that did not answer, with whatever status, when the machine's GPUs were listed."""


@dataclass
class Errors:
    """How a series of injected errors ended."""

    injected: int = 0
    went_through: int = 0
    refused: int = 0
    rolled_back: int = 0


def fail_everywhere(nvml: FakeNvml, case: Case, codes: Sequence[int], stride: int = 1) -> Errors:
    """Let every call (or every ``stride``-th) of an apply answer each status, without and with its effect."""
    counts = Errors()
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(nvml, Path(folder))
        plan = prepare(machine, case)
        snapshot, before, was = machine.snapshot(), machine.held(), machine.found()
        machine.begin_anew()
        calls = calls_of(machine, lambda: machine.adapter.apply(plan, mig_mode=True))
        after = machine.found()
        for nth in range(1, calls + 1, stride):
            for code in codes:
                for kind in ("error", "error_after"):
                    machine.restore(snapshot)
                    machine.begin_anew()
                    nvml.set_fault(kind, nth, code=code)
                    _fail_once(machine, plan, (before, was, after), code, counts)
                    nvml.clear()
        machine.close()
    return counts


def _fail_once(
    machine: Machine, plan: Plan, states: tuple[list[Held], list[Found], list[Found]], code: int, counts: Errors
) -> None:
    before, was, after = states
    counts.injected += 1
    try:
        machine.adapter.apply(plan, mig_mode=True)
    except InputError as error:
        text = str(error)
        name = STATUSES[code].name if code in STATUSES else f"STATUS_{code}"
        assert not isinstance(error, Unsettled), text
        # Some are ordinary answers to an enumeration (no such profile); then what is read is not what was planned on.
        misread = UNREACHED in text or (code in ORDINARY and any(words in text for words in MISREAD))
        assert "\n" not in text and (name in text or misread), (code, text)
        if isinstance(error, RolledBack):
            assert machine.found() == was, text
            counts.rolled_back += 1
        else:
            assert machine.held() == before and machine.found() == was, text
            counts.refused += 1
    else:
        assert machine.found() == after
        counts.went_through += 1
    kept = {gpu: {one for one in held if one[:3] in after[gpu][0]} for gpu, held in enumerate(before)}
    assert all(kept[gpu] <= held for gpu, held in enumerate(machine.held())), "a neighbour was touched"
    assert machine.adapter.journal.open_ones() == []
