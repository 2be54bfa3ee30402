"""What goes out: jobs and leases as clients see them, errors in one form, and both as the OpenAPI description tells them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from rltune.nouns.checked import shown
from rltune.nouns.errors import InputError
from rltune.service.engine import Engine
from rltune.service.errors import Refused
from rltune.service.records import Record
from rltune.service.store import StoreError
from rltune.service.web.security import READER, Caller

HIDDEN = "(hidden)"
"""In the place of an environment's values, for readers."""


class ErrorAnswer(BaseModel):
    """What is wrong, and what to change, in one line."""

    error: str


class PlaceAnswer(BaseModel):
    """GPUs of a node; of a MIG slice its profile and first memory slice."""

    node: str
    gpus: list[int]
    profile: str | None = None
    start: int | None = None


class RecordAnswer(BaseModel):
    """A job or lease; times in seconds since 1970."""

    id: str
    kind: str
    tenant: str
    state: str = Field(description="waiting, suspended, starting, running, done, failed or cancelled")
    reason: str = Field(description="why it is in this state; empty where that is plain")
    spec: dict[str, Any] = Field(description="what was sent, without what was at its default")
    submit_s: float
    believed_s: float | None = Field(description="what its run is believed to take; null: nothing is")
    start_s: float | None = Field(description="of its first run")
    began_s: float | None = Field(description="of its present run")
    end_s: float | None
    ran_s: float = Field(description="what its ended runs took")
    code: int | None = Field(description="exit status; negative: the signal that ended it")
    run: str | None = Field(description="name of the present or last run")
    runs: int = Field(description="so far")
    places: list[PlaceAnswer] = Field(description="what it holds, or held last")
    devices: dict[str, str] = Field(description="by node: what its processes find in CUDA_VISIBLE_DEVICES")
    expires_s: float | None


class PageAnswer(BaseModel):
    """Newest first; ``next``: the cursor of the next page, null after the last."""

    items: list[RecordAnswer]
    next: str | None


class SubmittedAnswer(BaseModel):
    """Names of the jobs, in the order of the request; an array has one for each of its jobs."""

    jobs: list[str]


class StateAnswer(BaseModel):
    """A job or lease, and what has become of it."""

    id: str
    state: str


class RunAnswer(BaseModel):
    """A run of a job; times in seconds since 1970. ``outcome``: null while it runs."""

    run: str
    number: int
    places: list[PlaceAnswer]
    start_s: float
    ready_s: float
    end_s: float | None
    outcome: str | None
    code: int | None
    speed: float


# --- jobs and leases -------------------------------------------------------------------------------


class Views:
    """Records and rows of an engine as answers."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def record(self, record: Record, caller: Caller) -> dict[str, Any]:
        """One that is in memory."""
        return self.row(record.row(None), caller)

    def row(self, row: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        """One as it is on disk (`rltune.service.store.COLUMNS`); its devices are known as long as it holds them."""
        record = self.engine.ledger.records.get(row["id"])
        devices = dict(record.devices) if record is not None and record.run == row["run"] else {}
        spec = json.loads(row["spec"])
        if caller.role == READER and "environment" in spec:
            spec["environment"] = dict.fromkeys(spec["environment"], HIDDEN)
        return {
            "id": row["id"], "kind": row["kind"], "tenant": row["tenant"], "state": row["state"], "reason": row["reason"], "spec": spec,
            "submit_s": self.wall(row["submit_s"]), "believed_s": row["known_s"], "start_s": self.wall(row["started_s"]),
            "began_s": self.wall(row["began_s"]), "end_s": self.wall(row["ended_s"]), "ran_s": row["ran_s"], "code": row["code"],
            "run": row["run"] or None, "runs": row["number"], "places": self.places(row["places"]), "devices": devices,
            "expires_s": self.wall(row["expires_s"]),
        }  # fmt: skip

    def run(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row of the table of runs."""
        times = {name: self.wall(row[name]) for name in ("start_s", "ready_s", "end_s")}
        told = {name: row[name] for name in ("run", "number", "outcome", "code", "speed")}
        return told | times | {"places": self.places(row["places"])}

    def places(self, text: str) -> list[dict[str, Any]]:
        """Places as they are written on disk."""
        return [
            {"node": self.engine.dispatch.node_name(node), "gpus": gpus, "profile": profile, "start": None if profile is None else start}
            for node, gpus, profile, start in json.loads(text)
            if node < self.engine.cluster.nodes
        ]  # fmt: skip

    def wall(self, seconds: float | None) -> float | None:
        """Seconds since 1970 of a second of the service."""
        return None if seconds is None else round(self.engine.clock.wall(seconds), 3)


# --- errors ----------------------------------------------------------------------------------------

MORE: dict[int, dict[str, str]] = {
    401: {"WWW-Authenticate": "Bearer"},
    429: {"Retry-After": "1"},
    503: {"Retry-After": "5"},
}
"""Headers that go with a status."""


def error_answer(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """``{"error": message}``, whatever the message holds."""
    line = " ".join(message.encode(errors="replace").decode().split())
    return JSONResponse({"error": line}, status, {**MORE.get(status, {}), **(headers or {})})


async def on_refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused)
    return error_answer(error.status, error.message)


async def on_input(request: Request, error: Exception) -> JSONResponse:
    return error_answer(422, str(error))


async def on_store(request: Request, error: Exception) -> JSONResponse:
    return error_answer(503, str(error))


async def on_query(request: Request, error: Exception) -> JSONResponse:
    """Parameters that FastAPI could not read."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = str(first["loc"][-1])
    return error_answer(422, f"{name}={shown(first.get('input'))}; {first['msg'][0].lower() + first['msg'][1:]}")


async def on_http(request: Request, error: Exception) -> JSONResponse:
    """What no route takes."""
    assert isinstance(error, HTTPException)
    path = shown(request.url.path)
    if error.status_code == 404:
        return error_answer(404, f"there is no {path}; /docs lists what there is")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return error_answer(
            405, f"{request.method} {path} is not possible; {allowed or 'another method'} is", error.headers
        )
    return error_answer(error.status_code, str(error.detail), error.headers)


async def on_failure(request: Request, error: Exception) -> JSONResponse:
    return error_answer(500, "the service failed at this request; its log says how")


HANDLERS: dict[Any, Any] = {
    Refused: on_refused,
    InputError: on_input,
    StoreError: on_store,
    RequestValidationError: on_query,
    HTTPException: on_http,
    Exception: on_failure,
}

# --- what the description says of errors -----------------------------------------------------------

EXAMPLES = {
    400: "Host 'evil.example' is not this service; ask it by 127.0.0.1 or localhost",
    401: "no token; send Authorization: Bearer TOKEN",
    403: "a token of role reader may not do this; ask an operator",
    404: "job-7 is unknown here, or over for long",
    409: "nothing that fits is free now; wait longer (wait_s), or ask for less",
    413: "a body of more than 1,000,000 bytes; split the request",
    415: "content-type 'text/plain'; send JSON in UTF-8 as application/json",
    422: "gpus=-1; a whole number from 0",
    429: "more than 500 requests a second (and 1000 at once); send fewer, try again later",
    503: "the service is going down; try again when it is back",
}
"""Status -> an error as it is told."""
ALWAYS = (400, 401, 403, 422, 429, 503)


def errors(*more: int) -> dict[int | str, dict[str, Any]]:
    """For ``responses=`` of a route: what may go wrong with every request, and what else with this one."""
    return {
        status: {
            "model": ErrorAnswer,
            "description": STATUS[status],
            "content": {"application/json": {"example": {"error": EXAMPLES[status]}}},
        }
        for status in sorted({*ALWAYS, *more})
    }


STATUS = {
    400: "not for this service",
    401: "no token, or none that is valid",
    403: "this token may not",
    404: "unknown, or another tenant's",
    409: "not possible as things stand",
    413: "too large",
    415: "no JSON",
    422: "cannot be meant; the message says what to change",
    429: "too many requests, or jobs",
    503: "not now: the disk refuses, or the service goes down",
}
