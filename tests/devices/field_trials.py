"""Kills and damage as they happen in the field, each held against what must be true: shared by the quick and the long tests.

An adapter is killed at a random call; before the recovery an administrator makes instances of his own (in the very places
too), an adapter with another journal changes the GPU, cards change places, GPUs are reset. Then: nothing that is not the
adapter's was touched, and every word of the report is true.
"""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from fake_nvml import FakeNvml
from trials import Machine, arrangements, killed_in

from rltune.devices.adapter import Adapter
from rltune.devices.nvml import NvmlDriver
from rltune.devices.spec import spec_of
from rltune.devices.state import GpuState
from rltune.devices.status import DeviceError
from rltune.mig.geometry import geometry
from rltune.mig.online import Fleet, FleetOptions, Growth
from rltune.mig.online.events import generate
from rltune.nouns.errors import InputError

MODEL = "A100-80GB"
GPUS = 2
FAR = 100_000
"""A call that never comes."""
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where a synchronisation costs nothing: what a kill leaves does not depend on the disk."""


@dataclass
class FieldKills:
    """What happened: ``kills`` of adapters; in how many trials foreign instances appeared (``in_place``: of those, in a place of
    the change), cards changed places, GPUs were reset; ``foreign_touched``, ``false_reports``, instances of the adapter's own
    ``left_over``, and how the recoveries ended."""

    kills: int = 0
    with_foreign: int = 0
    in_place: int = 0
    other_journal: int = 0
    swapped: int = 0
    reset: int = 0
    killed_again: int = 0
    foreign: int = 0
    foreign_touched: int = 0
    false_reports: int = 0
    left_over: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def kill_adapters(nvml: FakeNvml, seed: int, kills: int) -> FieldKills:
    """Random trials until so many adapters have been killed in the middle of a change."""
    rng, counts = np.random.default_rng(seed), FieldKills()
    while counts.kills < kills:
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            _Trial(nvml, rng, Path(folder), counts).run()
    return counts


class _Trial:
    def __init__(self, nvml: FakeNvml, rng: np.random.Generator, folder: Path, counts: FieldKills) -> None:
        self.nvml, self.rng, self.folder, self.counts = nvml, rng, folder, counts
        self.was_reset: set[str] = set()
        self.adopted: set[str] = set()

    def run(self) -> None:
        nvml, rng, counts = self.nvml, self.rng, self.counts
        nvml.reset()
        machine = Machine(nvml, self.folder)
        machine.adapter.apply(machine.adapter.plan(self._wish()))
        plan = machine.adapter.plan(self._wish())
        # A report speaks of the GPUs that were to change.
        self.before = {gpu.uuid: gpu.before for gpu in plan.changes}
        self.after = {gpu.uuid: gpu.after for gpu in plan.changes}
        machine.close()
        kind = str(rng.choice(["kill_before", "kill_after"]))
        nth = int(rng.integers(1, 200))

        def change(child: Machine) -> None:
            begin = child.adapter.journal.begin

            def begun(*args: Any, **more: Any) -> int:
                number = begin(*args, **more)
                nvml.clear()
                nvml.set_fault(kind, nth)
                return number

            child.adapter.journal.begin = begun  # type: ignore[method-assign]
            child.adapter.apply(plan)

        found = killed_in(machine, change, kind, FAR)
        machine.open()
        began = found and bool(machine.adapter.journal.open_ones())
        machine.close()
        if not began:
            return
        counts.kills += 1
        self._meanwhile()
        foreign = self.foreign()
        counts.foreign += len(foreign)
        if rng.random() < 0.2:
            try:
                counts.killed_again += killed_in(
                    machine, lambda child: child.adapter.recover(), kind, int(rng.integers(1, 200))
                )
            except AssertionError:
                nvml.clear()  # it was refused; so will the next one be, and be judged below
        machine.open()
        # The recovery that was to be killed may have come to its end, and told it to nobody.
        told = bool(machine.adapter.journal.open_ones())
        try:
            lines, outcome = machine.adapter.recover(), "settled"
        except InputError as error:
            lines, outcome = [str(error)], "unsettled"
        counts.outcomes[outcome] = counts.outcomes.get(outcome, 0) + 1
        self._judge(machine, lines, foreign, outcome if told else "settled before")
        machine.close()

    def _wish(self) -> Any:
        options = arrangements(MODEL)
        entries = []
        for gpu in range(GPUS):
            places = list(options[list(options)[int(self.rng.integers(len(options)))]])
            chosen = sorted(places[int(self.rng.integers(len(places)))])
            entries.append({"gpu": gpu, "instances": [f"{name}@{start}" for name, start in chosen]})
        return spec_of({"version": 1, "gpus": entries})

    # What others do meanwhile.

    def _meanwhile(self) -> None:
        rng, counts = self.rng, self.counts
        mine = set(self.nvml.made())
        if rng.random() < 0.25:
            gpu = int(rng.integers(GPUS))
            self.nvml.reset_gpu(gpu)
            with self.nvml.state() as held:
                self.was_reset.add(_uuid(held.gpu[gpu].serial))
            counts.reset += 1
        if rng.random() < 0.25:
            self.nvml.swap(0, 1)
            counts.swapped += 1
        if rng.random() < 0.8:
            counts.with_foreign += self._administrator()
        if rng.random() < 0.15:
            self._other_journal()
        self.mine = mine & set(self.nvml.made())

    def _administrator(self) -> bool:
        """Instances with all of their compute instances, as nvidia-smi -C and mig-parted make them; half in places of ours."""
        driver, made = NvmlDriver(), False
        rows = [(p.name, start) for p in geometry(MODEL).profiles for start in p.starts]
        for gpu in driver.gpus():
            ours = {
                (one.profile, one.start)
                for states in (self.before, self.after)
                if gpu.uuid in states
                for one in states[gpu.uuid].instances
            }
            for _ in range(int(self.rng.integers(0, 4))):
                pick = sorted(ours) if ours and self.rng.random() < 0.6 else rows
                profile, start = pick[int(self.rng.integers(len(pick)))]
                try:
                    number = driver.create_gpu_instance(gpu.index, profile, start)
                except DeviceError:
                    continue
                total = next(p.compute for p in geometry(MODEL).profiles if p.name == profile)
                for slices in [1] * total if self.rng.random() < 0.2 else [total]:
                    driver.create_compute_instance(gpu.index, number, slices)
                made = True
                self.counts.in_place += (profile, start) in ours
        driver.close()
        return made

    def _other_journal(self) -> None:
        """Somebody with another RLTUNE_STATE changes the GPUs: what is there then is his, also what he kept."""
        driver = NvmlDriver()
        other = Adapter(driver, self.folder / "other", self.folder / "locks", sleep=lambda s: None)
        try:
            other.apply(other.plan(self._wish()))
            self.counts.other_journal += 1
            self.adopted = {uuid for uuid, state in other.states().items() if state.instances}
        except InputError:
            pass
        finally:
            other.close()
            driver.close()

    def foreign(self) -> dict[tuple[int, int], tuple[str, int, tuple[int, ...]]]:
        """What is not ours: made since the kill; on a GPU that another adapter changed since, all that is there."""
        return {
            key: value
            for key, value in self.nvml.made().items()
            if key not in self.mine or _uuid(key[0]) in self.adopted
        }

    # What must be true.

    def _judge(self, machine: Machine, lines: list[str], foreign: dict[Any, Any], outcome: str) -> None:
        counts, now = self.counts, self.nvml.made()
        for key, value in foreign.items():
            if now.get(key) != value:
                counts.foreign_touched += 1
                counts.faults.append(f"touched {value} of card {key[0]}: {lines}")
        states = machine.adapter.states()
        if outcome == "settled":
            for told in self._false(lines, states):
                counts.false_reports += 1
                counts.faults.append(f"{told}: {lines}; before {self.before}; after {self.after}; now {states}")
            if machine.adapter.recover() or machine.adapter.journal.open_ones():
                counts.false_reports += 1
                counts.faults.append(f"not settled: {lines}")
        target = self.after if any("that after it" in line for line in lines) else self.before
        wanted = {(uuid, one.profile, one.start) for uuid, state in target.items() for one in state.instances}
        for key, (profile, start, _) in now.items():
            uuid = _uuid(key[0])
            if outcome == "settled" and key not in foreign and uuid in self.before.keys() - self.was_reset:
                counts.left_over += (uuid, profile, start) not in wanted

    def _false(self, lines: list[str], states: dict[str, GpuState]) -> list[str]:
        """What a report says that is not so, and what it does not say though it is."""
        if len(lines) != 1:
            return [f"{len(lines)} lines"]
        line, index = lines[0], {gpu.uuid: gpu.index for gpu in NvmlDriver().gpus()}
        wrong = []
        said_reset = {
            uuid for uuid, at in index.items() if uuid in self.before and f"GPU {at} was reset or emptied since" in line
        }
        for uuid in said_reset:
            kept = set(self.before[uuid].instances) & set(states[uuid].instances)
            if uuid not in self.was_reset and uuid not in self.adopted and kept:
                wrong.append(f"GPU {index[uuid]} was not reset")
        rest = self.before.keys() - said_reset
        found = re.search(r"that (before|after) it", line)
        if not found:
            return wrong if not rest else [*wrong, "says nothing of the state"]
        target = self.after if found[1] == "after" else self.before
        for uuid in rest:
            more, less = (
                set(a.instances) - set(b.instances)
                for a, b in ((states[uuid], target[uuid]), (target[uuid], states[uuid]))
            )
            exact = "exactly that" in line
            if exact and (more or less):
                wrong.append(f"GPU {index[uuid]} is not exactly so")
            told = " ".join(
                part for part in re.split(r"; |, but for ", line) if part.startswith(f"GPU {index[uuid]}: ")
            )
            names = {str(one) for one in more | less}
            if not exact and (missing := [name for name in names if name not in told]):
                wrong.append(f"GPU {index[uuid]}: {missing} is not told")
        return wrong


def _uuid(serial: int) -> str:
    return f"GPU-{0xFA4E0000 + serial:08x}-1111-4222-8333-{serial:012x}"


# Damaged journals of a fleet.


@dataclass
class DamagedJournals:
    """How damaged journals were read: ``refused`` in one line, ``exact`` (the state as of the last line that is whole), ``wrong``."""

    damaged: int = 0
    refused: int = 0
    exact: int = 0
    wrong: int = 0
    by_damage: dict[str, dict[str, int]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def _flip(content: bytearray, rng: np.random.Generator) -> None:
    content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))


def _cut(content: bytearray, rng: np.random.Generator) -> None:
    del content[int(rng.integers(len(content))) :]


def _lines(content: bytearray) -> list[bytes]:
    return bytes(content).splitlines(keepends=True)


def _lose_line(content: bytearray, rng: np.random.Generator) -> None:
    lines = _lines(content)
    del lines[int(rng.integers(len(lines) - 1))]
    content[:] = b"".join(lines)


def _twice(content: bytearray, rng: np.random.Generator) -> None:
    lines = _lines(content)
    at = int(rng.integers(len(lines)))
    content[:] = b"".join([*lines[: at + 1], lines[at], *lines[at + 1 :]])


def _exchange(content: bytearray, rng: np.random.Generator) -> None:
    lines = _lines(content)
    one, other = rng.choice(len(lines), 2, replace=False)
    lines[one], lines[other] = lines[other], lines[one]
    content[:] = b"".join(lines)


def _zeros(content: bytearray, rng: np.random.Generator) -> None:
    at = int(rng.integers(len(content)))
    end = min(len(content), at + int(rng.integers(1, 512)))
    content[at:end] = bytes(end - at)


def _lose_middle(content: bytearray, rng: np.random.Generator) -> None:
    at = int(rng.integers(len(content) - 1))
    del content[at : min(len(content) - 1, at + int(rng.integers(1, 400)))]


def _edit(content: bytearray, rng: np.random.Generator) -> None:
    """By hand, and still JSON: a number or a name is another."""
    places = [found.start() for found in re.finditer(rb"[0-9a-z](?=[\",\]])", content)]
    at = places[int(rng.integers(len(places)))]
    content[at] = int(rng.choice([byte for byte in b"0123456789" if byte != content[at]]))


def _zero_tail(content: bytearray, rng: np.random.Generator) -> None:
    content += bytes(int(rng.integers(1, 4096)))


def _no_newline(content: bytearray, rng: np.random.Generator) -> None:
    del content[-1:]


DAMAGE = {
    "a bit": _flip, "cut off": _cut, "a line lost": _lose_line, "a line twice": _twice, "lines exchanged": _exchange,
    "zeros": _zeros, "a piece lost": _lose_middle, "edited": _edit, "a tail of zeros": _zero_tail,
    "the last newline lost": _no_newline,
}  # fmt: skip
KEEPS_LINES = ("cut off", "a tail of zeros", "the last newline lost")
"""Damage after which the lines that are whole are all that can be known."""


def damage_journals(seed: int, count: int, length: int = 60) -> DamagedJournals:
    """Journals of random fleets, some shortened in the middle, damaged at random."""
    rng, counts = np.random.default_rng(seed), DamagedJournals()
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        path = Path(folder) / "fleet.jsonl"
        while counts.damaged < count:
            states = _journal(path, int(rng.integers(1 << 30)), length, shorten=bool(rng.random() < 0.3))
            content = path.read_bytes()
            for _ in range(min(25, count - counts.damaged)):
                what = str(rng.choice(list(DAMAGE)))
                damaged = bytearray(content)
                DAMAGE[what](damaged, rng)
                if bytes(damaged) == content:
                    continue
                _read(path, bytes(damaged), what, states, counts)
    return counts


def _journal(path: Path, seed: int, length: int, shorten: bool) -> dict[bytes, str]:
    """A journal; and the state after each of its lines, by what the file held then."""
    path.unlink(missing_ok=True)
    fleet = Fleet(FleetOptions((Growth("a100-80gb"), Growth("a30", 3)), policy="lookahead"), path)
    states = {path.read_bytes(): json.dumps(fleet.ledger.state())}
    for number, event in enumerate(generate(seed, length, live=12)):
        try:
            if event.acquire:
                fleet.acquire(event.tenant, event.profile, at=float(number))
            else:
                fleet.release(event.tenant, at=float(number))
        except InputError:
            continue
        if shorten and number == length // 2:
            assert fleet._journal is not None
            fleet._journal.replace({**fleet._head(), "state": fleet.ledger.snapshot()})
            states.clear()
        states[path.read_bytes()] = json.dumps(fleet.ledger.state())
    fleet.close()
    return states


def _read(path: Path, damaged: bytes, what: str, states: dict[bytes, str], counts: DamagedJournals) -> None:
    path.write_bytes(damaged)
    counts.damaged += 1
    try:
        fleet = Fleet.restore(path)
    except InputError as error:
        outcome = "refused" if "\n" not in str(error) else "wrong"
    else:
        # Exact: as of all lines; where the end of the file is lost, as of those that are left.
        whole = max(states, key=len)
        kept = max((held for held in states if damaged.startswith(held.rstrip(b"\n"))), key=len, default=b"")
        lost_end = what in KEEPS_LINES or (what == "zeros" and damaged.endswith(b"\0"))
        due = states.get(kept if lost_end else whole)
        outcome = "exact" if json.dumps(fleet.ledger.state()) == due else "wrong"
        fleet.close()
    if outcome == "wrong":
        counts.faults.append(f"{what}: {path.read_bytes()[-300:]!r}")
    by_outcome = counts.by_damage.setdefault(what, {})
    by_outcome[outcome] = by_outcome.get(outcome, 0) + 1
    setattr(counts, outcome, getattr(counts, outcome) + 1)
