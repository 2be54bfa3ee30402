"""What adapters are about to do and did, and who holds which instance: an SQLite file, on disk before anything is done.

A transaction is written whole, with the states before and after and every step, and synchronised to the disk before its first
step; its end is written after its last. In between the hardware itself tells how far it came, and what was written of each
instance which of them are its own (`ownership`). Those notes are not synchronised: they outlive a kill, and a power cut takes
the instances as well.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar

from rltune.devices.execution.keeper import process_start
from rltune.devices.ownership import Key, Part
from rltune.devices.state import GpuState, Instance, States
from rltune.nouns.checked import shown
from rltune.nouns.errors import InputError

T = TypeVar("T")
NUMBER = int | None
REMEDY = "look at what the GPUs have (`show`), make them as they should be, then move the journal away"

SCHEMA_VERSION = 2
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
SINCE_2 = """
ALTER TABLE transactions ADD COLUMN recorded INTEGER NOT NULL DEFAULT 0;
ALTER TABLE transactions ADD COLUMN claims TEXT NOT NULL DEFAULT '[]';
ALTER TABLE transactions ADD COLUMN checksum TEXT NOT NULL DEFAULT '';
ALTER TABLE tenants ADD COLUMN boot TEXT NOT NULL DEFAULT '';
CREATE TABLE parts (
  transaction_id INTEGER NOT NULL REFERENCES transactions(id), gpu TEXT NOT NULL, profile TEXT NOT NULL, start INTEGER NOT NULL,
  status TEXT NOT NULL, number INTEGER, devices TEXT NOT NULL, checksum TEXT NOT NULL,
  PRIMARY KEY (transaction_id, gpu, profile, start));
CREATE TABLE about (name TEXT NOT NULL);
"""
"""What version 2 has more; a journal of version 1 gets it when it is opened."""
FULL = "the disk is full"
FREE_BYTES = 1 << 20
"""Less than this is taken for a full disk where SQLite says no more than that it could not write."""
LONGEST_TENANT = 255
"""Characters of a tenant's name."""
OPEN, COMMITTED, ROLLED_BACK, WAITING, VOID = "open", "committed", "rolled back", "waits for a reset", "void"
"""Outcomes of a transaction; ``void``: the machine was rebooted, and all MIG instances went with that."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who holds an instance; ``pid`` None: until it is released; ``boot`` of the machine, empty: of version 1."""

    gpu: str
    profile: str
    start: int
    tenant: str
    pid: int | None = None
    since: float = 0.0
    boot: str = ""


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
    recorded: bool = False
    """Whether it wrote which instances are its own: those of version 1 did not."""
    claims: tuple[Tenant, ...] = ()
    """On the instances that it creates, from its end on."""


CLAIM = "INSERT OR REPLACE INTO tenants VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


def check_tenant(name: str) -> None:
    """InputError for what is no tenant's name."""
    if not 0 < len(name) <= LONGEST_TENANT or not name.isprintable():
        raise InputError(f"tenant {shown(name)}: a name has 1 to {LONGEST_TENANT} printable characters")


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
        if self._db.execute("PRAGMA user_version").fetchone()[0] != SCHEMA_VERSION:
            with self._writing():
                self._begin_or_renew()
        self.name = self._row("about", self._db.execute("SELECT name FROM about").fetchone(), str)[0]

    def _begin_or_renew(self) -> None:
        # Looked at again: another process may just have begun it.
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == SCHEMA_VERSION:
            return
        begun = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if version not in (0, 1) or (begun and not version):
            raise InputError(
                f"{self.path}: a journal of version {version}, not {SCHEMA_VERSION}; use the release that wrote it"
            )
        for statement in ((SCHEMA if not version else "") + SINCE_2).split(";"):
            self._db.execute(statement)
        self._db.execute("INSERT INTO about VALUES (?)", (uuid.uuid4().hex,))
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
        """Errors of SQLite and of the disk as one line; of a damaged file SQLite's own words may be no text."""
        try:
            with self._turn:
                yield
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{self.path}: the journal cannot be used ({self._why(error)}); free space, check rights, or name another "
                "folder (RLTUNE_STATE)"
            ) from None

    def _why(self, error: sqlite3.Error | OSError | UnicodeDecodeError) -> str:
        """What went wrong. SQLite calls a full disk an input/output error too, or says that it cannot open the file."""
        if isinstance(error, OSError):
            return FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error.strerror)
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return FULL
        if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
            with suppress(OSError):
                if shutil.disk_usage(self.path.parent).free < FREE_BYTES:
                    return f"{FULL}: {error}"
        return " ".join(str(error).split())

    @contextmanager
    def _writing(self, synchronised: bool = True) -> Iterator[None]:
        """One commit, whole or not at all, on disk when it is left."""
        with self._told():
            if _file_at(self.path) != self._file:
                raise InputError(f"{self.path}: the journal was removed or replaced while in use; begin again")
            self._db.execute(f"PRAGMA synchronous={'FULL' if synchronised else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                # On a full disk SQLite has rolled back already, and would say that instead of why.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def begin(
        self,
        before: States,
        after: States,
        steps: Sequence[tuple[str, str]],
        recorded: bool = False,
        claims: Sequence[Tenant] = (),
    ) -> int:
        """Write a transaction and all its steps (GPU, what); its number. It is on disk when this returns.

        ``recorded``: it is going to write which instances are its own; ``claims`` on what it creates, from its end on.
        """
        held = json.dumps([(one.gpu, one.profile, one.start, one.tenant, one.pid) for one in claims])
        with self._writing():
            states = (_dumped(before), _dumped(after))
            boot, marked = boot_id(), int(recorded)
            row = (time.time(), os.getpid(), boot, self.device, *states, OPEN, marked, held)
            cursor = self._db.execute(
                "INSERT INTO transactions (begun, pid, boot, device, before, after, outcome, recorded, claims, checksum) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*row, _checksum(boot, self.device, *states, marked, held)),
            )
            number = cursor.lastrowid
            assert number is not None
            rows = [(number, at, gpu, step) for at, (gpu, step) in enumerate(steps)]
            self._db.executemany("INSERT INTO steps VALUES (?, ?, ?, ?)", rows)
        return number

    def note(self, number: int, gpu: str, parts: Mapping[Key, Part | None]) -> None:
        """Write what is known of instances of a transaction; None: it is gone. Outlives this process, not a power cut."""
        with self._writing(synchronised=False):
            for key, part in parts.items():
                if part is None:
                    where = "transaction_id = ? AND gpu = ? AND profile = ? AND start = ?"
                    self._db.execute(f"DELETE FROM parts WHERE {where}", (number, gpu, *key))
                else:
                    row = (number, gpu, *key, part.status, part.number, json.dumps(part.devices))
                    self._db.execute(
                        "INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, _checksum(*row))
                    )

    def parts(self, number: int) -> dict[str, dict[Key, Part]]:
        """What a transaction wrote about instances: GPU -> place -> what."""
        with self._told():
            query = "SELECT * FROM parts WHERE transaction_id = ?"
            rows = self._db.execute(query, (number,)).fetchall()
        found: dict[str, dict[Key, Part]] = {}
        for row in rows:
            _, gpu, profile, start, status, instance, devices, check = self._row(
                "parts", row, int, str, str, int, str, NUMBER, str, str
            )
            self._check("parts", number, check, *row[:-1])
            names = self._loaded("parts", number, partial(_names, devices))
            found.setdefault(gpu, {})[profile, start] = Part(status, instance, names)
        return found

    def _row(self, table: str, row: tuple[Any, ...] | None, *kinds: type | UnionType) -> tuple[Any, ...]:
        """A row as it must be; InputError for one that was damaged."""
        if row is None or not all(isinstance(value, kind) for value, kind in zip(row, kinds, strict=True)):
            number = row[0] if row else "none"
            raise InputError(f"{self.path}: a row of {table} ({shown(number)}) is damaged; {REMEDY}")
        return row

    def _check(self, table: str, number: int, check: str, *values: object) -> None:
        """InputError where values are not those that were written; rows of version 1 have no checksum."""
        if check != _checksum(*values):
            raise InputError(f"{self.path}: row {number} of {table} was altered: its checksum does not fit; {REMEDY}")

    def _loaded(self, table: str, number: int, load: Callable[[], T]) -> T:
        try:
            return load()
        except (InputError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{self.path}: row {number} of {table} is damaged ({error}); {REMEDY}") from None

    def end(
        self,
        number: int,
        outcome: str,
        note: str = "",
        gone: Sequence[tuple[str, Instance]] = (),
        claims: Sequence[Tenant] = (),
    ) -> None:
        """Write how a transaction ended; forget claims on instances that are ``gone``, and write ``claims`` on new ones.

        Claims of a process that has ended meanwhile have lapsed.
        """
        alive = [one for one in claims if one.pid is None or process_start(one.pid) is not None]
        rows = [self._claim_row(one) for one in alive]
        with self._writing():
            keys = [(gpu, one.profile, one.start) for gpu, one in gone]
            self._db.executemany("DELETE FROM tenants WHERE gpu = ? AND profile = ? AND start = ?", keys)
            values = (time.time(), outcome, note, number)
            self._db.execute("UPDATE transactions SET ended = ?, outcome = ?, note = ? WHERE id = ?", values)
            self._db.executemany(CLAIM, rows)

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
                "SELECT id, begun, pid, boot, before, after, outcome, note, blind, recorded, claims, device, "
                f"checksum FROM transactions {where}",
                values,
            ).fetchall()
        return [self._transaction(row) for row in found]

    def _transaction(self, row: tuple[Any, ...]) -> Transaction:
        kinds = (int, int | float, int, str, str, str, str, str, int, int, str, str, str)
        number, begun, pid, boot, before, after, outcome, note, blind, recorded, claims, device, check = self._row(
            "transactions", row, *kinds
        )
        if recorded or check:
            self._check("transactions", number, check, boot, device, before, after, recorded, claims)
        states = self._loaded("transactions", number, lambda: (_loaded(before), _loaded(after)))
        if not math.isfinite(begun) or states[0].keys() != states[1].keys():
            raise InputError(f"{self.path}: row {number} of transactions is damaged; {REMEDY}")
        held = self._loaded("transactions", number, lambda: tuple(Tenant(*one) for one in json.loads(claims)))
        return Transaction(number, begun, pid, boot, *states, outcome, note, bool(blind), bool(recorded), held)

    def steps(self, number: int) -> list[tuple[str, str]]:
        """(GPU, what) of a transaction, in order."""
        with self._told():
            query = "SELECT gpu, step FROM steps WHERE transaction_id = ? ORDER BY number"
            return [(gpu, step) for gpu, step in self._db.execute(query, (number,))]

    def claim(self, claim: Tenant) -> None:
        """Write that somebody holds an instance; again: the pid is replaced. InputError for a process that is not there."""
        row = self._claim_row(claim)
        with self._writing():
            self._db.execute(CLAIM, row)

    def _claim_row(self, one: Tenant) -> tuple[object, ...]:
        check_tenant(one.tenant)
        process = None if one.pid is None else process_start(one.pid)
        if one.pid is not None and process is None:
            raise InputError(f"tenant {one.tenant}: there is no process {one.pid}; give one that runs, or none")
        return one.gpu, one.profile, one.start, one.tenant, one.pid, process, time.time(), boot_id()

    def release(self, gpu: str, instance: Instance, tenant: str) -> bool:
        """Forget that; whether there was such a claim."""
        with self._writing():
            row = (gpu, instance.profile, instance.start, tenant)
            query = "DELETE FROM tenants WHERE gpu = ? AND profile = ? AND start = ? AND tenant = ?"
            return self._db.execute(query, row).rowcount > 0

    def forget(self, lapsed: Sequence[Tenant]) -> None:
        """Remove claims that no longer hold."""
        if lapsed:
            with self._writing():
                query = "DELETE FROM tenants WHERE gpu = ? AND profile = ? AND start = ? AND tenant = ?"
                self._db.executemany(query, [(one.gpu, one.profile, one.start, one.tenant) for one in lapsed])

    def tenants(self) -> list[Tenant]:
        """Claims whose process, if they have one, is there; whether their instance is, the GPU must tell."""
        with self._told():
            rows = self._db.execute(
                "SELECT gpu, profile, start, tenant, pid, process, since, boot FROM tenants ORDER BY 1, 3"
            ).fetchall()
        found = []
        for row in rows:
            kinds = (str, str, int, str, NUMBER, str | None, int | float, str)
            gpu, profile, start, tenant, pid, process, since, boot = self._row("tenants", row, *kinds)
            if pid is None or process_start(pid) == process:
                found.append(Tenant(gpu, profile, start, tenant, pid, since, boot))
        return found


def _checksum(*values: object) -> str:
    """Of what is written once in a row and never changes."""
    return blake2b(json.dumps(values).encode(), digest_size=8).hexdigest()


def _names(text: str) -> tuple[str, ...]:
    return tuple(str(name) for name in json.loads(text))


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


def _dumped(states: Mapping[str, GpuState]) -> str:
    return json.dumps({gpu: state.as_json() for gpu, state in states.items()})


def _loaded(text: str) -> States:
    return {gpu: GpuState.from_json(value) for gpu, value in json.loads(text).items()}
