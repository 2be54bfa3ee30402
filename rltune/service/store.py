"""The service's memory on disk: SQLite with a write-ahead log. What is committed survives a power cut.

One thread writes (the engine), in one transaction a batch of requests; others read on connections of their own.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rltune.nouns.errors import InputError

VERSION = 2
"""Of the tables below; `MIGRATIONS` lead from one to the next."""
TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, crc INTEGER) WITHOUT ROWID;
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, tenant TEXT NOT NULL, spec TEXT NOT NULL,
    submit_s REAL NOT NULL, known_s REAL, state TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '', run TEXT NOT NULL DEFAULT '',
    number INTEGER NOT NULL DEFAULT 0, places TEXT NOT NULL DEFAULT '[]', started_s REAL, began_s REAL, ended_s REAL, code INTEGER,
    ran_s REAL NOT NULL DEFAULT 0, left INTEGER NOT NULL DEFAULT 0, expires_s REAL, core TEXT, crc INTEGER
);
CREATE INDEX jobs_by_tenant ON jobs (tenant, seq);
CREATE INDEX jobs_alive ON jobs (state) WHERE state NOT IN ('done', 'failed', 'cancelled');
CREATE TABLE runs (
    run TEXT PRIMARY KEY, job TEXT NOT NULL, number INTEGER NOT NULL, places TEXT NOT NULL, start_s REAL NOT NULL, ready_s REAL NOT NULL,
    speed REAL NOT NULL, end_s REAL, outcome TEXT, code INTEGER, crc INTEGER
) WITHOUT ROWID;
CREATE INDEX runs_of_job ON runs (job, number);
CREATE TABLE requests (
    tenant TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL, answer TEXT NOT NULL, at_s REAL NOT NULL, crc INTEGER,
    PRIMARY KEY (tenant, key)
) WITHOUT ROWID;
CREATE INDEX requests_by_age ON requests (at_s);
CREATE TABLE nodes (name TEXT PRIMARY KEY, state TEXT NOT NULL, reason TEXT NOT NULL, crc INTEGER) WITHOUT ROWID;
CREATE TABLE cuts (node TEXT NOT NULL, gpu INTEGER NOT NULL, layout INTEGER NOT NULL, crc INTEGER, PRIMARY KEY (node, gpu)) WITHOUT ROWID;
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, at_s REAL NOT NULL, what TEXT NOT NULL, job TEXT, tenant TEXT, data TEXT NOT NULL, crc INTEGER
);
CREATE TABLE tokens (
    digest TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, role TEXT NOT NULL, tenant TEXT, created_s REAL NOT NULL, revoked_s REAL
) WITHOUT ROWID;
"""
COLUMNS = {
    "meta": ("key", "value"),
    "jobs": (
        "seq", "id", "kind", "tenant", "spec", "submit_s", "known_s", "state", "reason", "run", "number", "places", "started_s", "began_s",
        "ended_s", "code", "ran_s", "left", "expires_s", "core",
    ),
    "runs": ("run", "job", "number", "places", "start_s", "ready_s", "speed", "end_s", "outcome", "code"),
    "requests": ("tenant", "key", "body", "answer", "at_s"),
    "nodes": ("name", "state", "reason"),
    "cuts": ("node", "gpu", "layout"),
    "events": ("seq", "at_s", "what", "job", "tenant", "data"),
}  # fmt: skip
"""Of each table whose rows have a checksum: SQLite has none of its own outside its log. NULL: written before there were any."""
MIGRATIONS = {
    1: "CREATE INDEX requests_by_age ON requests (at_s);"
    + "".join(
        # By name: what version 2 had, whatever later ones have.
        f"ALTER TABLE {table} ADD COLUMN crc INTEGER;"
        for table in ("meta", "jobs", "runs", "requests", "nodes", "cuts", "events")
    )
}
"""From a version to the next: SQL, run in one transaction when the service starts."""
FORGOTTEN = 5000
"""Rows that go at once, of events and of answers each: some ms of the engine's thread."""
ALIVE = ("waiting", "suspended", "starting", "running")
"""States of jobs that are not over."""


class StoreError(RuntimeError):
    """The disk does not take or give what it should; the message says what to do."""


class Store:
    """See the module. ``path``: the database file, made where there is none (mode 0600).

    Raises InputError for a file of a later version or one that is no database of ours, StoreError for a damaged one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists() or self.path.stat().st_size == 0
        if new:
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        self._local = threading.local()
        with told(self.path):
            self._writer = self._connect()
            self._prepare(new)

    def _connect(self) -> sqlite3.Connection:
        link = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=30.0)
        link.row_factory = sqlite3.Row
        link.create_function("crc", -1, crc, deterministic=True)
        for line in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "wal_autocheckpoint=4000"):
            link.execute(f"PRAGMA {line}")
        return link

    def _prepare(self, new: bool) -> None:
        if new:
            self._writer.executescript(f"BEGIN; {TABLES} PRAGMA user_version={VERSION}; COMMIT;")
            return
        (found,) = self._writer.execute("PRAGMA user_version").fetchone()
        names = {row[0] for row in self._writer.execute("SELECT name FROM sqlite_master")}
        if "jobs" not in names or found == 0:
            raise InputError(f"{self.path}: this is no database of rltune.serve; give another state directory")
        if found > VERSION:
            raise InputError(
                f"{self.path}: version {found} is of a later release, this one knows {VERSION}; use that release"
            )
        for version in range(found, VERSION):
            self._writer.executescript(f"BEGIN; {MIGRATIONS[version]} PRAGMA user_version={version + 1}; COMMIT;")

    def close(self) -> None:
        """What is committed stays so; where the log cannot be put into the database now (a full disk), the next start does it."""
        with told(self.path):
            with suppress(sqlite3.OperationalError):
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._writer.close()

    # --- writing, by the engine alone -----------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, on disk when it ends; StoreError where the disk refuses, and nothing of it is written."""
        with told(self.path):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
            except BaseException:
                self._roll_back()
                raise
            try:
                self._writer.execute("COMMIT")
            except sqlite3.Error:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    def write(self, table: str, rows: Iterable[Sequence[Any]], fresh: bool = False) -> None:
        """Insert or replace rows, each with the values of `COLUMNS` in their order; ``fresh``: one that is there already is an error."""
        columns = COLUMNS[table]
        self._writer.executemany(
            f"INSERT {'' if fresh else 'OR REPLACE '}INTO {table} ({', '.join(columns)}, crc) VALUES ({'?, ' * len(columns)}?)",
            ((*row, crc(*row)) for row in rows),
        )

    def end_runs(self, rows: Iterable[dict[str, Any]]) -> None:
        """Runs are over: ``end_s``, ``outcome`` and ``code`` of each ``run``."""
        new = {name: f":{name}" for name in ("end_s", "outcome", "code")}
        sealed = ", ".join(new.get(name, name) for name in COLUMNS["runs"])
        values = ", ".join(f"{name} = {value}" for name, value in new.items())
        self._writer.executemany(f"UPDATE runs SET {values}, crc = crc({sealed}) WHERE run = :run", rows)

    def set_meta(self, key: str, value: Any) -> None:
        self.write("meta", [(key, json.dumps(value))])

    def forget(self, before_s: float) -> None:
        """The oldest events and answers to idempotency keys of before this second go, up to `FORGOTTEN` each.

        Jobs and their runs stay, for accounts and for training; the newest event stays, since numbers go on from it.
        """
        self._writer.execute(
            "DELETE FROM events WHERE seq IN (SELECT seq FROM (SELECT seq, at_s FROM events ORDER BY seq LIMIT ?) WHERE at_s < ?) "
            "AND seq < (SELECT MAX(seq) FROM events)",
            (FORGOTTEN, before_s),
        )
        self._writer.execute(
            "DELETE FROM requests WHERE (tenant, key) IN (SELECT tenant, key FROM requests WHERE at_s < ? ORDER BY at_s LIMIT ?)",
            (before_s, FORGOTTEN),
        )

    # --- reading, from any thread -----------------------------------------------------------------

    def read(self, query: str, values: tuple[Any, ...] = ()) -> list[sqlite3.Row]:
        """All rows of a query, as they are committed."""
        with told(self.path):
            link = getattr(self._local, "link", None)
            if link is None:
                link = self._local.link = self._connect()
            rows: list[sqlite3.Row] = link.execute(query, values).fetchall()
            return rows

    def meta(self, key: str, default: Any = None) -> Any:
        rows = self.read("SELECT value FROM meta WHERE key = ?", (key,))
        return json.loads(rows[0][0]) if rows else default

    def backup(self, target: str | Path) -> None:
        """A consistent copy while the service runs, complete or not there at all."""
        target = Path(target)
        part = target.with_name(f".{target.name}.part")
        with told(target):
            part.unlink(missing_ok=True)
            link = sqlite3.connect(part)
            with link:
                source = self._connect()
                source.backup(link)
                source.close()
            link.close()
            with open(part, "rb") as file:
                os.fsync(file.fileno())
            os.replace(part, target)

    def check(self) -> list[str]:
        """What SQLite finds wrong with the file, and rows that are not as they were written; empty: nothing."""
        found = [row[0] for row in self.read("PRAGMA integrity_check")]
        return ([] if found == ["ok"] else found) + self.altered()

    def altered(self, tables: Iterable[str] = tuple(COLUMNS)) -> list[str]:
        """Rows of these tables that are not as they were written, a line each."""
        return [
            f"{table}: row {row[0]!r} is not as it was written"
            for table in tables
            for row in self.read(
                f"SELECT {COLUMNS[table][0]} FROM {table} WHERE crc != crc({', '.join(COLUMNS[table])})"
            )
        ]


@contextmanager
def told(path: Path) -> Iterator[None]:
    """SQLite's errors as one line that says what to do."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        text = str(error)
        if "disk is full" in text or "disk I/O" in text:
            raise StoreError(f"{path}: {text}; make room on the disk: nothing of the request was kept") from error
        if "readonly" in text or "unable to open" in text:
            raise StoreError(f"{path}: {text}; the service must be able to write there") from error
        if any(part in text for part in ("malformed", "not a database", "decode", "user-defined function")):
            raise StoreError(f"{path}: {text}; restore a backup (python -m rltune.serve restore)") from error
        raise StoreError(f"{path}: {text}") from error


def in_order(table: str, rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Any]]:
    """Values of rows as `Store.write` takes them."""
    columns = COLUMNS[table]
    return ([row[name] for name in columns] for row in rows)


def crc(*values: Any) -> int:
    """Checksum of a row, the same of what is written and of what SQLite makes of it (NaN is NULL, whole numbers may be reals, -0 is 0)."""
    plain = [None if v is None or v != v else float(v) + 0.0 if isinstance(v, int | float) else v for v in values]
    return zlib.crc32(repr(plain).encode("utf-8", "surrogatepass"))


def digest_of(token: str) -> str:
    """What is kept of a token: nobody can tell the token from it."""
    return hashlib.sha256(token.encode()).hexdigest()
