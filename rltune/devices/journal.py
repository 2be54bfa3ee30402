"""What adapters are about to do and did, and who holds which instance: an SQLite file, on disk before anything is done.

A transaction is written whole, with the states before and after and every step, and synchronised to the disk before its first
step; its end is written after its last. In between the hardware itself tells how far it came.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rltune.devices.state import GpuState, Instance, States
from rltune.nouns.errors import InputError

SCHEMA_VERSION = 1
POLL_S = 0.02
BUSY_S = 5.0
"""Seconds to wait for another process that writes."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS transactions (
  id INTEGER PRIMARY KEY, begun REAL NOT NULL, ended REAL, pid INTEGER NOT NULL, boot TEXT NOT NULL, device TEXT NOT NULL,
  before TEXT NOT NULL, after TEXT NOT NULL, outcome TEXT NOT NULL, note TEXT NOT NULL DEFAULT '',
  blind INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS steps (
  transaction_id INTEGER NOT NULL REFERENCES transactions(id), number INTEGER NOT NULL, gpu TEXT NOT NULL, step TEXT NOT NULL,
  PRIMARY KEY (transaction_id, number));
CREATE TABLE IF NOT EXISTS tenants (
  gpu TEXT NOT NULL, profile TEXT NOT NULL, start INTEGER NOT NULL, tenant TEXT NOT NULL, pid INTEGER, process TEXT, since REAL NOT NULL,
  PRIMARY KEY (gpu, profile, start, tenant));
"""
OPEN, COMMITTED, ROLLED_BACK, WAITING, VOID = "open", "committed", "rolled back", "waits for a reset", "void"
"""Outcomes of a transaction; ``void``: the machine was rebooted, and all MIG instances went with that."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """``before`` and ``after`` of the GPUs it changes; ``boot`` of the machine it ran in; ``blind``: the driver chose starts."""

    id: int
    begun: float
    pid: int
    boot: str
    before: States
    after: States
    outcome: str
    note: str
    blind: bool


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who holds an instance; ``pid`` None: until it is released."""

    gpu: str
    profile: str
    start: int
    tenant: str
    pid: int | None
    since: float


class Journal:
    """``Journal(path, device)``: opened or begun; InputError for a file that is none, or of another version.

    ``device`` kind of driver: a journal of real GPUs is not that of simulated ones.
    """

    def __init__(self, path: Path, device: str) -> None:
        self.path, self.device = path, device
        self._turn = threading.RLock()
        with self._told():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Threads take turns at `_turn`.
            self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    def _prepare(self) -> None:
        self._write_ahead()
        self._db.execute("PRAGMA synchronous=FULL")
        self._file = _file_at(self.path)
        if self._db.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION:
            return
        with self._writing():
            # Looked at again: another process may just have begun it.
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version == SCHEMA_VERSION:
                return
            if version or self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise InputError(
                    f"{self.path}: a journal of version {version}, not {SCHEMA_VERSION}; use the release that wrote it"
                )
            for statement in SCHEMA.split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def _write_ahead(self) -> None:
        """A commit in this mode is one write and one synchronisation. Changing it does not wait for others, so we do."""
        deadline = time.monotonic() + BUSY_S
        while True:
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(POLL_S)

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of SQLite and of the disk as one line."""
        try:
            with self._turn:
                yield
        except (sqlite3.Error, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise InputError(
                f"{self.path}: the journal cannot be used ({why}); free space, check rights, or name another folder (RLTUNE_STATE)"
            ) from None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One commit, whole or not at all, on disk when it is left."""
        with self._told():
            if _file_at(self.path) != self._file:
                raise InputError(f"{self.path}: the journal was removed or replaced while in use; begin again")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise

    def begin(self, before: States, after: States, steps: Sequence[tuple[str, str]]) -> int:
        """Write a transaction and all its steps (GPU, what); its number. It is on disk when this returns."""
        with self._writing():
            row = (time.time(), os.getpid(), boot_id(), self.device, _dumped(before), _dumped(after), OPEN)
            cursor = self._db.execute(
                "INSERT INTO transactions (begun, pid, boot, device, before, after, outcome) VALUES (?, ?, ?, ?, ?, ?, ?)",
                row,
            )
            number = cursor.lastrowid
            assert number is not None
            rows = [(number, at, gpu, step) for at, (gpu, step) in enumerate(steps)]
            self._db.executemany("INSERT INTO steps VALUES (?, ?, ?, ?)", rows)
        return number

    def end(self, number: int, outcome: str, note: str = "", gone: Sequence[tuple[str, Instance]] = ()) -> None:
        """Write how a transaction ended, and forget claims on instances that are ``gone``."""
        with self._writing():
            keys = [(gpu, one.profile, one.start) for gpu, one in gone]
            self._db.executemany("DELETE FROM tenants WHERE gpu = ? AND profile = ? AND start = ?", keys)
            values = (time.time(), outcome, note, number)
            self._db.execute("UPDATE transactions SET ended = ?, outcome = ?, note = ? WHERE id = ?", values)

    def mark_blind(self, number: int) -> None:
        """Write that the driver will choose starts: what a crash leaves may then be anywhere."""
        with self._writing():
            self._db.execute("UPDATE transactions SET blind = 1 WHERE id = ?", (number,))

    def open_ones(self) -> list[Transaction]:
        """Transactions of this device without an end, the oldest first."""
        return self._transactions("WHERE outcome = ? AND device = ? ORDER BY id", (OPEN, self.device))

    def recent(self, most: int = 20) -> list[Transaction]:
        """The latest transactions, the newest first."""
        return self._transactions("WHERE device = ? ORDER BY id DESC LIMIT ?", (self.device, most))

    def _transactions(self, where: str, values: Sequence[object]) -> list[Transaction]:
        with self._told():
            found = self._db.execute(
                f"SELECT id, begun, pid, boot, before, after, outcome, note, blind FROM transactions {where}", values
            ).fetchall()
        return [
            Transaction(number, begun, pid, boot, _loaded(before), _loaded(after), outcome, note, bool(blind))
            for number, begun, pid, boot, before, after, outcome, note, blind in found
        ]

    def steps(self, number: int) -> list[tuple[str, str]]:
        """(GPU, what) of a transaction, in order."""
        with self._told():
            query = "SELECT gpu, step FROM steps WHERE transaction_id = ? ORDER BY number"
            return [(gpu, step) for gpu, step in self._db.execute(query, (number,))]

    def claim(self, gpu: str, instance: Instance, tenant: str, pid: int | None) -> None:
        """Write that somebody holds an instance; again: the pid is replaced. InputError for a process that is not there."""
        process = None if pid is None else process_start(pid)
        if pid is not None and process is None:
            raise InputError(f"tenant {tenant}: there is no process {pid}; give one that runs, or none")
        with self._writing():
            row = (gpu, instance.profile, instance.start, tenant, pid, process, time.time())
            self._db.execute("INSERT OR REPLACE INTO tenants VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def release(self, gpu: str, instance: Instance, tenant: str) -> bool:
        """Forget that; whether there was such a claim."""
        with self._writing():
            row = (gpu, instance.profile, instance.start, tenant)
            query = "DELETE FROM tenants WHERE gpu = ? AND profile = ? AND start = ? AND tenant = ?"
            return self._db.execute(query, row).rowcount > 0

    def tenants(self) -> list[Tenant]:
        """Claims that hold: those whose process has ended have lapsed."""
        with self._told():
            rows = self._db.execute(
                "SELECT gpu, profile, start, tenant, pid, process, since FROM tenants ORDER BY 1, 3"
            ).fetchall()
        return [
            Tenant(gpu, profile, start, tenant, pid, since)
            for gpu, profile, start, tenant, pid, process, since in rows
            if pid is None or process_start(pid) == process
        ]


def _file_at(path: Path) -> tuple[int, int] | None:
    """Which file bears the name now."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def boot_id() -> str:
    """This boot of the machine; empty where the kernel does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def process_start(pid: int) -> str | None:
    """When a process began, in the kernel's ticks: with its number it names the process for good. None: it is not there."""
    try:
        content = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The command's name, in brackets, may hold anything.
    words = content.rpartition(")")[2].split()
    return None if words[0] in "ZX" else words[19]


def _dumped(states: Mapping[str, GpuState]) -> str:
    return json.dumps({gpu: state.as_json() for gpu, state in states.items()})


def _loaded(text: str) -> States:
    return {gpu: GpuState.from_json(value) for gpu, value in json.loads(text).items()}
