"""What fails under the service, made to fail at random: ``python experiments/service_faults.py [--trials 200] [--damaged 2000]``.

The engine decides turn by turn for two nodes of four A100 with MIG that carry out its orders; jobs and leases come, end and are
cancelled at random. On top of that, one kind of fault a trial, on and off at random:

- full disk: the database lies in a small file system (tmpfs; root only) that a file fills up;
- read-only disk: the writing connection may not write (SQLite's query_only);
- device errors: three in ten orders to begin a run are refused by the device, and its node is drained until it is put back;
- lost nodes: a node falls silent, loses what runs on it, and comes back.

When the faults are over and every run has been let end, it is counted: lost (answered requests that are not in the database, or never
end), kept (requests that were refused and are there all the same), doubled (two runs of a job at once), shared (a GPU or slice that two
runs hold on a node), and what `rltune serve check` finds.

Damaged databases: a database with its log as a crash leaves it, or with all in it as an end in order does, gets bytes changed, pages
emptied, an end cut off or no log, at random. Counted is whether a start refuses it, whether `rltune serve check` finds it, and whether
one that is taken has all that was written, an earlier state (SQLite gives the end of its log up where it is damaged, as after a power
cut), or another. Writes the part "faults" of results/service.json and results/service_faults.md.
"""

from __future__ import annotations

import argparse
import collections
import json
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from recording import write_part, write_text

from rltune.nouns.cluster import Cluster
from rltune.nouns.errors import InputError
from rltune.service.clock import SetClock
from rltune.service.dispatch import Seat
from rltune.service.engine import Asked, Engine
from rltune.service.errors import Refused
from rltune.service.exporting import faults
from rltune.service.nodes.virtual import VirtualNode
from rltune.service.orders import Begin, Inventory, Order, Report
from rltune.service.restart import reconcile, restore
from rltune.service.specs import JobSpec, LeaseSpec
from rltune.service.store import Store, StoreError
from rltune.simulator.requests import Rules

NODES, GPUS, STEPS = 2, 4, 80
KINDS = ("full disk", "read-only disk", "device errors", "lost nodes")
REFUSED = 0.3
"""Share of orders to begin that a device with errors refuses."""
SMALL_DISK = 48 << 20
"""Bytes: the log of the database alone may be 16 MiB."""
COUNTS = ("requests", "accepted", "refused", "faulty_turns", "lost", "kept", "doubled", "shared", "found_by_check")
TABLES = ("meta", "jobs", "runs", "requests", "nodes", "cuts", "events", "tokens")


class ShakyNode(VirtualNode):
    """A node whose device refuses at times, and which may go."""

    __slots__ = ("present", "refuses", "rng")

    def __init__(self, name: str, rng: np.random.Generator) -> None:
        super().__init__(name, ["A100-40GB"] * GPUS, mig=True)
        self.rng, self.refuses, self.present = rng, 0.0, True

    def carry_out(self, orders: Sequence[Order]) -> None:
        if not self.present:
            return
        for order in orders:
            if isinstance(order, Begin) and order.run not in self._runs and self.rng.random() < self.refuses:
                self._tell("refused", order.run, message="NVML_ERROR_UNKNOWN")
            else:
                super().carry_out([order])

    def reports(self) -> list[Report]:
        return super().reports() if self.present else []

    def inventory(self) -> Inventory:
        if not self.present:
            raise OSError("it does not answer")
        return super().inventory()

    def reboot(self) -> None:
        """What runs is gone, and so are the reports about it and the instances."""
        self._runs.clear()
        self._cuts.clear()
        self._reports = None

    def running(self) -> dict[str, Any]:
        return {name: run for name, run in self._runs.items() if run.state == "began"} if self.present else {}


class Trial:
    """A service in a folder, one kind of fault, and what was answered."""

    def __init__(self, folder: Path, kind: str, seed: int) -> None:
        self.folder, self.kind, self.rng = folder, kind, np.random.default_rng(seed)
        self.nodes = [ShakyNode(f"n{k}", np.random.default_rng([seed, k])) for k in range(NODES)]
        self.clock, self.store = SetClock(0.0), Store(folder / "state.sqlite")
        pool = {"name": "a", "nodes": NODES, "gpus_per_node": GPUS, "gpu_type": "A100-40GB", "mig": True}
        seats = [Seat(node.name, tuple(range(GPUS))) for node in self.nodes]
        self.engine = Engine(self.store, Cluster.from_spec({"pools": [pool]}), Rules(), self.nodes, seats, self.clock)
        restore(self.engine)
        reconcile(self.engine)
        self.accepted: set[str] = set()
        self.acquiring: list[Future[Any]] = []
        self.counts = collections.Counter(dict.fromkeys(COUNTS, 0))
        self.faulty = False

    def ask(self, act: Callable[[Engine], Any]) -> Any:
        """One turn; the answer, or None where it was refused."""
        future: Future[Any] = Future()
        self.engine.turn([Asked(future, act)])
        self.counts["requests"] += 1
        self.look()
        try:
            return future.result(timeout=0)
        except Refused:
            self.counts["refused"] += 1
            return None

    def look(self) -> None:
        """Nobody runs twice, nothing is held twice."""
        of_job: dict[str, set[str]] = collections.defaultdict(set)
        for node in self.nodes:
            held = collections.Counter(one for run in node.running().values() for one in run.held)
            whole = {one.gpu for one in held if one.instance is None}
            self.counts["shared"] += sum(n > 1 for n in held.values())
            self.counts["shared"] += sum(one.instance is not None and one.gpu in whole for one in held)
            for run in node.running():
                of_job[run.rpartition(".")[0]].add(run)
        self.counts["doubled"] += sum(len(runs) > 1 for runs in of_job.values())

    def step(self) -> None:
        """Something happens."""
        self.clock.set(self.clock.now() + float(self.rng.exponential(20.0)))
        self.counts["faulty_turns"] += self.faulty
        act = self.rng.integers(6)
        if act <= 1:
            specs, tenant = self.some_jobs(), str(self.rng.choice(["ann", "bob"]))
            self.accepted |= set(self.ask(lambda e: e.submit(specs, tenant)) or ())
        elif act == 2:
            future: Future[Any] = Future()
            spec = LeaseSpec.model_validate({"profile": "2g", "wait_s": 100, "ttl_s": 200})
            self.engine.turn([Asked(future, lambda e: e.acquire(spec, "bob", future))])
            self.counts["requests"] += 1
            self.acquiring.append(future)
        elif act == 3 and self.accepted:
            name = str(self.rng.choice(sorted(self.accepted)))
            self.ask(lambda e: e.cancel(name) if name in e.ledger.records else "gone")
        else:
            self.end_some(0.5)
        self.engine.turn()
        self.look()

    def some_jobs(self) -> list[JobSpec]:
        """One to three alike: gangs over both nodes, or slices."""
        whole = self.rng.random() < 0.5
        what = (
            {"gpus": int(self.rng.integers(1, 7))} if whole else {"profile": str(self.rng.choice(["1g", "2g", "3g"]))}
        )
        spec = JobSpec.model_validate({"command": ["true"], "estimate_s": 60, **what})
        return [spec] * int(self.rng.integers(1, 4))

    def end_some(self, share: float) -> None:
        for node in self.nodes:
            for run in list(node.running()):
                if self.rng.random() < share:
                    node.end(run, int(self.rng.random() < 0.1))

    def fault(self, on: bool) -> None:
        """The fault of this trial begins or ends."""
        self.faulty = on
        if self.kind == "full disk":
            fill(self.folder / "filler") if on else (self.folder / "filler").unlink(missing_ok=True)
        elif self.kind == "read-only disk":
            self.store._writer.execute(f"PRAGMA query_only={'ON' if on else 'OFF'}")
        elif self.kind == "device errors":
            for node in self.nodes:
                node.refuses = REFUSED if on else 0.0
        elif on:
            node = self.nodes[int(self.rng.integers(NODES))]
            node.reboot()
            node.present = False
        else:
            for node in self.nodes:
                node.present = True

    def play(self) -> collections.Counter[str]:
        """All of it."""
        for _ in range(STEPS):
            if self.rng.random() < 0.15:
                self.fault(not self.faulty)
            if self.rng.random() < 0.2:
                self.ask(lambda e: [e.undrain(n) for n, (state, _) in e.node_state.items() if state == "drained"])
            self.step()
        if self.faulty:
            self.fault(False)
        for _ in range(1000):
            self.clock.set(self.clock.now() + 60.0)
            self.ask(lambda e: [e.undrain(n) for n, (state, _) in e.node_state.items() if state == "drained"])
            self.end_some(1.0)
            self.engine.turn()
            if not any(True for _ in self.engine.ledger.alive()):
                break
        self.count()
        self.store.close()
        return self.counts

    def count(self) -> None:
        for future in self.acquiring:
            error = future.exception(timeout=0) if future.done() else None
            if not future.done():
                self.counts["lost"] += 1
            elif error is None:
                self.accepted.add(future.result().id)
            else:
                self.counts["refused"] += 1
        there = {row["id"]: row["state"] for row in self.store.read("SELECT id, state, kind FROM jobs")}
        self.counts["accepted"] = len(self.accepted)
        self.counts["lost"] += sum(there.get(name) not in ("done", "failed", "cancelled") for name in self.accepted)
        # A lease that was refused for want of room in time was written down as waiting before: it is over.
        self.counts["kept"] += sum(name not in self.accepted and not name.startswith("lease") for name in there)
        self.counts["found_by_check"] += len(faults(self.store))


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with open(path, "ab", buffering=0) as file:
        for size in (1 << 12, 1 << 6, 1):
            with suppress(OSError):
                while True:
                    os.write(file.fileno(), b"x" * size)


@contextmanager
def disk(kind: str) -> Iterator[Path | None]:
    """A folder for a trial; None where a small file system is needed and cannot be had."""
    with tempfile.TemporaryDirectory() as name:
        if kind != "full disk":
            yield Path(name)
            return
        mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "rltune-faults", name]
        if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
            yield None
            return
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "--lazy", name], check=True)


# --- damaged databases -----------------------------------------------------------------------------------


def dump(path: Path) -> list[Any]:
    """All that is written in a database."""
    store = Store(path)
    rows = [[tuple(row) for row in store.read(f"SELECT * FROM {table} ORDER BY 1, 2")] for table in TABLES]
    store.close()
    return rows


def damage(folder: Path, rng: np.random.Generator) -> str:
    """Something happens to the files; what."""
    path = folder / "state.sqlite"
    if (log := folder / "state.sqlite-wal").exists() and not log.stat().st_size:
        log.unlink()
    if log.exists() and rng.random() < 0.5:
        path = folder / "state.sqlite-wal"
    data = bytearray(path.read_bytes())
    how = str(rng.choice(["bytes", "page", "end", "no log"]))
    if how == "no log":
        (folder / "state.sqlite-wal").unlink(missing_ok=True)
        return how
    at = int(rng.integers(len(data)))
    if how == "bytes":
        for k in rng.integers(len(data), size=int(rng.integers(1, 9))):
            data[k] ^= int(rng.integers(1, 256))
    elif how == "page":
        data[at // 4096 * 4096 : at // 4096 * 4096 + 4096] = bytes(min(4096, len(data) - at // 4096 * 4096))
    else:
        del data[at:]
    path.write_bytes(data)
    whole = "" if (folder / "state.sqlite-wal").exists() else " with all in it"
    return f"{how} of the {'log' if path.name.endswith('wal') else f'database{whole}'}"


def said_of(folder: Path, whole: list[Any]) -> str:
    """refused by a start; found by `rltune serve check`; else exact, earlier (a state that was committed before) or altered."""
    copy = folder.with_name(folder.name + "-start")
    shutil.copytree(folder, copy)
    try:
        Trial(copy, "none", 0).store.close()
    except (InputError, StoreError):
        return "refused"
    finally:
        shutil.rmtree(copy)
    store = Store(folder / "state.sqlite")
    try:
        if faults(store):
            return "found by check"
    except StoreError:
        return "found by check"
    finally:
        with suppress(StoreError):
            store.close()
    rows = dump(folder / "state.sqlite")
    if rows == whole:
        return "exact"
    events = TABLES.index("events")
    return (
        "earlier" if rows[events] == whole[events][: len(rows[events])] and rows[events] != whole[events] else "altered"
    )


def damaged(count: int, seed: int) -> dict[str, collections.Counter[str]]:
    """Of each kind of damage, how often what (`said_of`)."""
    found: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trial = Trial(folder, "none", seed)
        for _ in range(4 * STEPS):
            trial.step()
        # As a crash leaves it: with its log; and as an end in order does.
        crashed, ended = folder / "crashed", folder / "ended"
        crashed.mkdir()
        for part in ("state.sqlite", "state.sqlite-wal"):
            shutil.copy(folder / part, crashed / part)
        shutil.copytree(crashed, ended)
        whole, rng = dump(ended / "state.sqlite"), np.random.default_rng(seed)
        for k in range(count):
            place = folder / f"d{k}"
            shutil.copytree((crashed, ended)[k % 2], place)
            how = damage(place, rng)
            said = said_of(place, whole)
            found[how][said] += 1
            shutil.rmtree(place)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200, help="of each kind of fault")
    parser.add_argument("--damaged", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    # Each refusal of the disk is told there.
    logging.getLogger("rltune.service").setLevel(logging.CRITICAL)
    rows: dict[str, Any] = {}
    for kind in KINDS:
        total: collections.Counter[str] = collections.Counter()
        trials = 0
        for seed in range(given.seed, given.seed + given.trials):
            with disk(kind) as folder:
                if folder is None:
                    break
                counts = Trial(folder, kind, seed).play()
                total.update(counts)
                trials += 1
        rows[kind] = {"trials": trials, **{name: total[name] for name in COUNTS}} if trials else "not tried: root only"
        print(kind, rows[kind], flush=True)
    hurt = {how: dict(counts) for how, counts in sorted(damaged(given.damaged, given.seed).items())}
    print(json.dumps(hurt, indent=1))
    write_part("faults", {"rows": rows, "damaged": hurt})
    tried = {kind: row for kind, row in rows.items() if isinstance(row, dict)}
    lines = table("fault", ("trials", *COUNTS), tried) + [
        f"\n{kind}: {row}" for kind, row in rows.items() if kind not in tried
    ]
    lines += ["", *table("damage", ("refused", "found by check", "exact", "earlier", "altered"), hurt)]
    write_text("service_faults", "The service with faults under it", __doc__, lines)


def table(first: str, columns: Sequence[str], rows: dict[str, dict[str, int]]) -> list[str]:
    """Counts as Markdown."""
    head = [
        f"| {first} | " + " | ".join(name.replace("_", " ") for name in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    return head + [
        f"| {key} | " + " | ".join(f"{row.get(name, 0):,}" for name in columns) + " |" for key, row in rows.items()
    ]


if __name__ == "__main__":
    main()
