"""What happens, as it happens; and whether the service is well: events, metrics, health, version, a page of what can be asked."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from rltune import __version__
from rltune.pages.serving import page
from rltune.service.errors import Refused
from rltune.service.web.answers import ErrorAnswer, errors
from rltune.service.web.context import Reads
from rltune.service.web.description import success
from rltune.service.web.docs_page import page_of
from rltune.service.web.security import TENANT
from rltune.service.web.streaming import PAGE, described, event_stream, stream, visible

router, plain = APIRouter(prefix="/v1", tags=["watching"]), APIRouter(tags=["watching"])
"""Under /v1, and at the root, where probes and scrapers look."""
SILENT_S = 30.0
"""An engine that has taken no turn for so long is stuck."""


class EventAnswer(BaseModel, extra="allow"):
    """Something that has happened: ``seq`` counts from 1 and never skips; further fields say what."""

    seq: int
    at_s: float
    what: str
    job: str | None
    tenant: str | None


class EventsAnswer(BaseModel):
    """Events, first to last; ``next``: what to give as since for those after them."""

    items: list[EventAnswer]
    next: int


class HealthAnswer(BaseModel):
    """Whether it is well, and if not, why."""

    ok: bool
    error: str | None = None


class VersionAnswer(BaseModel):
    """The release."""

    name: str
    version: str


class CallerAnswer(BaseModel):
    """Whose token it is; ``tenant``: the only one that they see, null: all."""

    name: str
    role: str
    tenant: str | None


@router.get("/me", summary="Whose token this is", responses={**success(200, CallerAnswer), **errors()})
async def me(visit: Reads) -> Response:
    return JSONResponse(asdict(visit.caller))


@router.get(
    "/events",
    summary="What happens, as server-sent events",
    response_class=Response,
    responses={
        200: {
            "description": "Events with id, event and data, as they happen; with follow=false those that have, as JSON",
            "content": {
                "text/event-stream": {"schema": {"type": "string"}},
                "application/json": {"schema": {"$ref": "#/components/schemas/EventsAnswer"}},
            },
        },
        **errors(),
    },
    openapi_extra={
        "parameters": [
            {
                "name": "Last-Event-ID", "in": "header", "required": False, "schema": {"type": "string", "pattern": "^[0-9]{1,18}$"},
                "description": "as since: browsers send it when they come back",
            }
        ]
    },
)  # fmt: skip
async def events(
    visit: Reads,
    request: Request,
    since: Annotated[
        int | None, Query(ge=0, le=2**62, description="events after this number; default: from now on")
    ] = None,
    job: Annotated[str | None, Query(max_length=200, description="only those of this job or lease")] = None,
    what: Annotated[str | None, Query(max_length=50, description="only those of this kind, such as started")] = None,
    follow: Annotated[bool, Query(description="go on with what happens from now on")] = True,
) -> Response:
    """Tenants get their own events and those that concern everybody."""
    web = visit.web
    last = request.headers.get("last-event-id")
    if last is not None and not (last.isdecimal() and last.isascii() and len(last) <= 18):
        raise Refused(422, f"Last-Event-ID {last[:100]!r}: the number of an event is needed")
    begin = int(last) if last is not None else since
    wanted = visible(visit.caller, job, what)
    if not follow:
        page = await web.feed.after(begin or 0, web.read)
        told = [described(event, web.views.wall) for event in page[:PAGE] if wanted(event)]
        return JSONResponse({"items": told, "next": page[-1].seq if page else begin or 0})
    web.feed.check(web.options.streams)
    start = web.feed.last if begin is None else begin
    return stream(event_stream(web.feed, start, wanted, web.read, web.views.wall))


@plain.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={
        200: {"description": "Prometheus' text format", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **errors(),
    },
)
async def metrics(visit: Reads) -> Response:
    """Of all tenants: for operators, and readers that are of no tenant."""
    if visit.caller.role == TENANT or visit.caller.tenant is not None:
        raise Refused(
            403, f"metrics are of all tenants, this token is of {visit.caller.tenant}; ask an operator or a reader"
        )
    text = await visit.web.read(visit.web.metrics.text)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


NOT_WELL: dict[int | str, dict[str, Any]] = {
    503: {"model": HealthAnswer, "description": "not well"},
    400: {"model": ErrorAnswer, "description": "not for this service"},
}


@plain.get(
    "/health",
    summary="Whether the process is alive",
    responses={**success(200, HealthAnswer, {"ok": True, "error": None}), **NOT_WELL},
)
async def health(request: Request) -> Response:
    """Needs no token. A service whose disk refuses is alive, and not ready."""
    return _well(
        None if request.app.state.web.engine.alive else "the engine has ended; its log says why, start the service anew"
    )


@plain.get(
    "/ready",
    summary="Whether it takes requests",
    responses={**success(200, HealthAnswer, {"ok": True, "error": None}), **NOT_WELL},
)
async def ready(request: Request) -> Response:
    """Needs no token."""
    web = request.app.state.web
    engine = web.engine
    if not engine.alive:
        return _well("the engine has ended; its log says why, start the service anew")
    if web.feed.closing:
        return _well("the service is going down")
    if engine.failing:
        return _well("the disk refuses; its log says how")
    if engine.clock.now() - engine.now > SILENT_S:
        return _well(f"the engine has been busy with one turn for more than {SILENT_S:g} s")
    return _well(None)


def _well(error: str | None) -> Response:
    return JSONResponse({"ok": error is None, "error": error}, 200 if error is None else 503)


@plain.get("/version", summary="The release", responses={**success(200, VersionAnswer), 400: NOT_WELL[400]})
async def version() -> Response:
    return JSONResponse({"name": "rltune", "version": __version__})


@plain.get("/", include_in_schema=False)
async def dashboard(request: Request) -> Response:
    """The page; it holds no data, and asks for them with the token that is typed into it."""
    return page("dashboard.html", {"auth": "token" if request.app.state.web.options.auth else "none"})


@plain.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """What can be asked, from the OpenAPI description: a page that needs nothing from elsewhere."""
    return HTMLResponse(page_of(request.app.openapi()))
