"""What comes in with a request: bodies as strict models, queries without slips, keys that make a repetition harmless."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from difflib import get_close_matches
from typing import Any, TypeVar

from fastapi import Request

from rltune.nouns.checked import LONGEST, Checked, checked, shown
from rltune.nouns.documents import Document, parse_json
from rltune.nouns.errors import InputError
from rltune.service.errors import Refused

T = TypeVar("T", bound=Checked)
KEY = re.compile(r"[\x21-\x7e]{1,200}")
MOST_JOBS = 1000
"""Specs of one request."""


async def document_of(request: Request, accepted: str) -> Document:
    """The body as plain values; `Refused` (415, 422) where it is no JSON."""
    kind, _, more = request.headers.get("content-type", "").partition(";")
    if kind.strip().lower() != "application/json" or more.replace(" ", "").lower() not in ("", "charset=utf-8"):
        told = request.headers.get("content-type", "none")[:LONGEST]
        raise Refused(415, f"content-type {told!r}; send JSON in UTF-8 as application/json")
    data = await request.body()
    if not data.strip():
        raise Refused(422, f"the body is empty; {accepted}")
    return parse_json(data, accepted)


async def one_of(request: Request, kind: type[T]) -> T:
    """The body as a model."""
    return checked(kind, await document_of(request, kind.accepted))


async def several_of(request: Request, kind: type[T]) -> list[T]:
    """The body as a model, or as a list of them; the message for one of a list says which: ``jobs[3]: gpus=-1; ...``."""
    document = await document_of(request, kind.accepted)
    if not isinstance(document.value, list):
        return [checked(kind, document)]
    if not 1 <= len(document.value) <= MOST_JOBS:
        raise Refused(422, f"a list of {len(document.value)} jobs; 1 to {MOST_JOBS} go into one request")
    found = checked(dict[str, list[kind]], Document("", {"jobs": document.value}))  # type: ignore[valid-type]
    return found["jobs"]


def key_of(request: Request) -> str | None:
    """The header Idempotency-Key; `Refused` (422) for one that cannot be kept."""
    key = request.headers.get("idempotency-key")
    if key is not None and not KEY.fullmatch(key):
        raise Refused(422, f"Idempotency-Key {shown(key)}: 1 to 200 printable ASCII signs without space are needed")
    return key


def digest_of_request(*parts: Any) -> str:
    """What tells whether two requests ask for the same."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def check_query(request: Request, known: Collection[str]) -> None:
    """Refuse a parameter that is unknown (a slip would silently ask for something else) or stands twice."""
    seen: set[str] = set()
    for name, _ in request.query_params.multi_items():
        if name not in known:
            near = get_close_matches(name[:LONGEST], known, 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            there = f"known are {', '.join(sorted(known))}" if known else "there are none here"
            raise InputError(f"query parameter {shown(name)} is unknown; {there}{meant}")
        if name in seen:
            raise InputError(f"query parameter {name} stands twice; give it once")
        seen.add(name)
