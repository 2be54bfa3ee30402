"""Leases over HTTP: acquired at once or after a wait, renewed, released."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from rltune.nouns.checked import Checked, Says
from rltune.service.engine import Engine
from rltune.service.errors import CLOSED, Refused
from rltune.service.records import LEASE, RUNNING, Record
from rltune.service.specs import LONGEST_S, LeaseSpec
from rltune.service.web.answers import PageAnswer, RecordAnswer, StateAnswer, errors
from rltune.service.web.bodies import digest_of_request, key_of, one_of
from rltune.service.web.context import Changes, Reads, Visit, waited
from rltune.service.web.description import body, header, success
from rltune.service.web.jobs import Cursor, Limit, Of, State, Tenant, cancelled, found, page, repeated

router = APIRouter(prefix="/v1", tags=["leases"])
Id = Annotated[str, Path(max_length=200, description="of the lease, such as lease-18")]
LOOK_S = 0.1
"""Between looks at a lease that another request waits for."""
ACQUIRES = {
    "slice": {"summary": "a slice with 3 compute slices, now or not at all", "value": {"profile": "3g"}},
    "waiting": {"summary": "two GPUs within a minute, for an hour", "value": {"gpus": 2, "wait_s": 60, "ttl_s": 3600}},
}


class Renewal(Checked):
    """How much longer a lease is held."""

    accepted = 'a renewal is an object such as {"ttl_s": 3600}'
    ttl_s: Annotated[int | float, Field(gt=0, le=LONGEST_S), Says("seconds above 0, at most ten years")]
    """From now on; then the lease ends unless it is renewed again."""


@router.post(
    "/leases",
    status_code=201,
    summary="Acquire a MIG slice or GPUs",
    responses={**success(201, RecordAnswer), **errors(409, 413, 415)},
    openapi_extra=body("LeaseSpec", ACQUIRES) | header("Idempotency-Key"),
)
async def acquire(visit: Changes, request: Request, tenant: Tenant = None) -> Response:
    """Answers when the lease holds its devices, or with 409 after `wait_s`. A client that goes away while it waits waits no more,
    unless it has sent an Idempotency-Key: then it may come back with it."""
    key, owner = key_of(request), visit.caller.on_behalf(tenant)
    spec = await one_of(request, LeaseSpec)
    acquiring = Acquiring(spec, owner, key, digest_of_request("acquire", spec.model_dump(mode="json")))
    name = await visit.web.ask(acquiring.begin)
    record = await _held(visit, acquiring, name, request)
    return JSONResponse(visit.web.views.record(record, visit.caller), 201)


@dataclass(slots=True)
class Acquiring:
    """A lease that is asked for; ``answer`` gets its record, ``fresh``: it is this request's own, not an earlier one's."""

    spec: LeaseSpec
    tenant: str
    key: str | None
    digest: str
    answer: Future[Record] = field(default_factory=Future)
    fresh: bool = True

    def begin(self, engine: Engine) -> str:
        """On the engine's thread: the lease begins to wait, or is the one that was asked for before; its name."""
        if self.key is not None and (known := repeated(engine, self.tenant, self.key, self.digest)) is not None:
            record = engine.ledger.records.get(known["lease"])
            if record is not None and (not record.over or record.started_s is not None):
                self.fresh = False
                return record.id
        name = engine.begin_acquire(self.spec, self.tenant, self.answer)
        if self.key is not None:
            engine.ledger.answer(self.tenant, self.key, self.digest, {"lease": name}, engine.now)
        return name


async def _held(visit: Visit, acquiring: Acquiring, name: str, request: Request) -> Record:
    """Wait until the lease holds its devices, its time is over, the client goes away, or the service goes down."""
    web = visit.web
    answer = asyncio.ensure_future(waited(acquiring.answer) if acquiring.fresh else _settled(visit, name))
    gone = asyncio.ensure_future(_gone(request))
    closing = asyncio.ensure_future(web.feed.closed())
    try:
        await asyncio.wait({answer, gone, closing}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        if acquiring.key is None:
            with contextlib.suppress(Refused):
                await web.ask(lambda engine: engine.cancel(name, "its client went away while it waited"))
        raise Refused(503, CLOSED)
    finally:
        for one in (answer, gone, closing):
            one.cancel()


async def _gone(request: Request) -> None:
    """Until the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _settled(visit: Visit, name: str) -> Record:
    """Until a lease that an earlier request has asked for holds its devices, or is over."""
    while True:
        record = visit.web.engine.ledger.records.get(name)
        if record is None or record.state == RUNNING or (record.started_s is not None and record.over):
            if record is None:
                raise Refused(409, f"{name} is over for long; use another Idempotency-Key")
            return record
        if record.over:
            raise Refused(409, "nothing that fits came free in time; wait longer (wait_s), or ask for less")
        await asyncio.sleep(LOOK_S)


@router.get("/leases", summary="Leases, newest first, page by page", responses={**success(200, PageAnswer), **errors()})
async def listed(
    visit: Reads, state: State = None, tenant: Of = None, limit: Limit = 100, cursor: Cursor = None
) -> Response:
    return JSONResponse(await page(visit, (LEASE, state, tenant), limit, cursor))


@router.get("/leases/{id}", summary="One lease", responses={**success(200, RecordAnswer), **errors(404)})
async def one(visit: Reads, id: Id) -> Response:
    return JSONResponse(await found(visit, id, LEASE))


@router.post(
    "/leases/{id}/renew",
    summary="Hold it longer",
    responses={**success(200, RecordAnswer), **errors(404, 409, 413, 415)},
    openapi_extra=body("Renewal", {"hour": {"summary": "an hour from now", "value": {"ttl_s": 3600}}}),
)
async def renew(visit: Changes, id: Id, request: Request) -> Response:
    """The lease ends `ttl_s` from now, sooner or later than it would have."""
    renewal = await one_of(request, Renewal)
    await visit.web.seen(id, visit.caller, LEASE)

    def act(engine: Engine) -> dict[str, Any]:
        engine.renew(id, float(renewal.ttl_s))
        return visit.web.views.record(engine.found(id), visit.caller)

    return JSONResponse(await visit.web.ask(act))


@router.delete(
    "/leases/{id}",
    summary="Release it",
    responses={**success(200, StateAnswer, {"id": "lease-1", "state": "done"}), **errors(404)},
)
async def release(visit: Changes, id: Id) -> Response:
    """One that is over stays as it is."""
    return JSONResponse(await cancelled(visit, id, LEASE, "released"))
