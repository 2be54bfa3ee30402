"""Streams of acquire and release: read from files, or generated."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rltune.nouns.documents import gunzip
from rltune.nouns.errors import InputError

ACCEPTED = 'accepted are ["acquire", tenant, profile] and ["release", tenant]'
COLUMNS = ("event", "tenant", "profile")
KINDS = ("1g", "2g", "3g", "4g", "7g")


class Event(NamedTuple):
    """``acquire`` or release; ``tenant``; ``profile`` (empty in a release of the tenant's only request); ``request``
    name, empty for the only one; ``at`` seconds, None where the file has no times."""

    acquire: bool
    tenant: str
    profile: str = ""
    request: str = ""
    at: float | None = None


def read_events(path: str | Path, workload: str | None = None, sequence: int = 0) -> list[Event]:
    """Events of a CSV file (``event,tenant,profile`` and optionally ``time_s``, ``request``) or a JSON file, plain or .gz.

    JSON: a list of ["acquire", tenant, profile] and ["release", tenant]; or {"workloads": {name: [sequence, ...]}}, of
    which ``workload`` and the number ``sequence`` choose one. InputError names file, line or event, and what is accepted.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        text = (gunzip(content, str(path)) if path.suffix == ".gz" else content).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    name = path.name.removesuffix(".gz")
    if name.endswith(".csv"):
        events = _from_csv(path, text)
    elif name.endswith(".json"):
        events = _from_json(path, text, workload, sequence)
    else:
        raise InputError(f"{path}: accepted are files named .json, .json.gz, .csv and .csv.gz")
    if not events:
        raise InputError(f"{path}: no events; {ACCEPTED}")
    return events


def _from_csv(path: Path, text: str) -> list[Event]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        rows = [(row, reader.line_num) for row in reader]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not CSV ({error})") from None
    twice = [name for k, name in enumerate(reader.fieldnames) if name in reader.fieldnames[:k]]
    if twice:
        raise InputError(f"{path}, line 1: column {twice[0]!r} stands twice; name each once")
    long = next((line for row, line in rows if None in row), None)
    if long is not None:
        raise InputError(f"{path}, line {long}: more cells than the header has columns; check the commas")
    missing = [name for name in COLUMNS if name not in reader.fieldnames]
    if missing:
        raise InputError(
            f"{path}, line 1: column {missing[0]!r} is missing; columns are time_s, event, tenant, profile"
        )
    return [_row(row, f"{path}, line {line}") for row, line in rows]


def _row(row: dict[str, Any], where: str) -> Event:
    verb, tenant, profile = ((row[name] or "").strip() for name in COLUMNS)
    request, time = (row.get("request") or "").strip(), (row.get("time_s") or "").strip()
    try:
        at = float(time) if time else None
    except ValueError:
        raise InputError(f"{where}: time_s is {time!r}; accepted are seconds, such as 12.5") from None
    if at is not None and not np.isfinite(at):
        raise InputError(f"{where}: time_s is {time!r}; accepted are seconds, such as 12.5")
    return _event(verb, tenant, profile, request, at, where)


def _event(verb: str, tenant: str, profile: str, request: str, at: float | None, where: str) -> Event:
    if verb not in ("acquire", "release"):
        raise InputError(f"{where}: event is {verb!r}; accepted are acquire and release")
    if not tenant or (verb == "acquire" and not profile):
        raise InputError(f"{where}: {verb} without a {'profile' if tenant else 'tenant'}; {ACCEPTED}")
    return Event(verb == "acquire", tenant, profile if verb == "acquire" else "", request, at)


def _from_json(path: Path, text: str, workload: str | None, sequence: int) -> list[Event]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: not JSON ({error.msg}); {ACCEPTED}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); {ACCEPTED}") from None
    where = str(path)
    if workload is not None and not isinstance(workload, str):
        raise InputError(f"workload={workload!r}: accepted is a workload's name; quote one that looks like a number")
    if isinstance(found, dict):
        workloads = found.get("workloads")
        if not isinstance(workloads, dict) or workload not in workloads:
            known = ", ".join(workloads) if isinstance(workloads, dict) else "none"
            raise InputError(f"{path}: workload={workload!r}; the file's workloads are {known}")
        sequences = workloads[workload]
        if not isinstance(sequences, list) or not 0 <= sequence < len(sequences):
            count = len(sequences) if isinstance(sequences, list) else 0
            has = f"has sequences 0 to {count - 1}" if count else "has no sequences"
            raise InputError(f"{path}: sequence={sequence}; workload {workload} {has}")
        found, where = sequences[sequence], f"{path}, workload {workload}, sequence {sequence}"
    if not isinstance(found, list):
        raise InputError(f"{path}: not a list of events; {ACCEPTED}")
    return [_item(item, f"{where}, event {number}") for number, item in enumerate(found, start=1)]


def _item(item: Any, where: str) -> Event:
    if not isinstance(item, list) or len(item) not in (2, 3) or not all(isinstance(word, str) for word in item):
        raise InputError(f"{where}: {item!r}; {ACCEPTED}")
    return _event(item[0], item[1], item[2] if len(item) > 2 else "", "", None, where)


def generate(
    seed: int, length: int = 2000, live: float | None = None, kinds: Iterable[str] = KINDS, mix: Iterable[float] = ()
) -> list[Event]:
    """A random stream: acquire or release of a tenant drawn evenly, sizes from ``mix`` (default: even) over ``kinds``.

    An acquire has probability .5 (a random walk, "balanced"), or 1 - live / (2 * ``live``), which keeps about ``live``
    tenants ("steady60" with 60). Modelled on the training process of RMS; tenants' names are never used again.
    """
    draws, names = np.random.default_rng(seed), tuple(kinds)
    shares = np.array(tuple(mix) or [1 / len(names)] * len(names), float)
    events, here, number = list[Event](), list[str](), 0
    for _ in range(length):
        chance = 0.5 if live is None else 1 - len(here) / (2 * live)
        if not here or draws.random() < chance:
            tenant, number = f"user-{number}", number + 1
            events.append(Event(True, tenant, names[draws.choice(len(names), p=shares / shares.sum())]))
            here.append(tenant)
        else:
            events.append(Event(False, here.pop(int(draws.integers(len(here))))))
    return events
