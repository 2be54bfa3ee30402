"""The inspector's server: schedules of one or two run directories, to pages of this machine only."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import lru_cache
from threading import Lock
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rltune.inspect.moments import ORDERS, moment
from rltune.inspect.recorded import Load, Schedule
from rltune.inspect.waits import why, worst
from rltune.inspect.windows import MOST_ROWS, MOST_STEPS, picture, series
from rltune.nouns.errors import InputError
from rltune.pages.serving import HEADERS, LOOPBACK, foreign_host, foreign_origin, page, router

KEPT = 8
"""Schedules in memory; an evaluation has thousands."""
KEPT_PICTURES = 64
"""Some 150 kB each: the whole run is drawn again and again."""
Seconds = Annotated[float, Query(ge=-1e12, le=1e12)]
StepCount = Annotated[int, Query(ge=1, le=MOST_STEPS)]


class Shelf:
    """Schedules by number, read when first asked for."""

    def __init__(self, loads: Mapping[str, Load]) -> None:
        self.labels = list(loads)
        self._loads = list(loads.values())
        self._kept: OrderedDict[int, Schedule] = OrderedDict()
        self._lock = Lock()

    def __getitem__(self, number: int) -> Schedule:
        """IndexError where there is none."""
        with self._lock:
            if number not in self._kept:
                if not 0 <= number < len(self._loads):
                    raise IndexError(number)
                self._kept[number] = self._loads[number]()
                if len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(number)
            return self._kept[number]


class Local:
    """Refuses what does not come from a page of this server, and adds the headers of pages."""

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = given.get(b"host", "")

        async def answered(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        if foreign_host(host, self.hosts) or foreign_origin(given.get(b"origin"), host):
            refusal = _error(400, f"ask for this page by {' or '.join(self.hosts)}")
            await refusal(scope, receive, answered)
        else:
            await self.app(scope, receive, answered)


def make_app(loads: Mapping[str, Load]) -> FastAPI:
    """The application over schedules by label (`rltune.inspect.recorded.schedules_in`)."""
    shelf = Shelf(loads)

    @lru_cache(KEPT_PICTURES)
    def drawn(number: int, span: tuple[float, float], nodes: tuple[int, int], steps: int) -> bytes:
        return picture(shelf[number], *span, steps, nodes)

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Local, hosts=LOOPBACK)
    app.include_router(router)

    @app.exception_handler(IndexError)
    async def unknown(request: Request, error: Exception) -> Response:
        return _error(404, "no such schedule or job; GET /api/schedules lists what there is")

    @app.exception_handler(InputError)
    async def unreadable(request: Request, error: Exception) -> Response:
        return _error(422, str(error))

    @app.get("/")
    def inspector() -> Response:
        return page("inspector.html")

    @app.get("/api/schedules")
    def schedules() -> Response:
        return JSONResponse({"labels": shelf.labels, "orders": ORDERS})

    @app.get("/api/{number}")
    def told(number: int) -> Response:
        return JSONResponse(described(shelf[number]))

    @app.get("/api/{number}/series")
    def lines(number: int, begin: Seconds, end: Seconds, steps: StepCount = 1000) -> Response:
        return _binary(series(shelf[number], *_span(begin, end), steps))

    @app.get("/api/{number}/picture")
    def nodes(
        number: int, begin: Seconds, end: Seconds, low: int = 0, high: int = MOST_ROWS, steps: StepCount = 1000
    ) -> Response:
        schedule = shelf[number]
        low = min(max(low, 0), max(len(schedule.nodes) - 1, 0))
        high = max(high, low + 1)
        return _binary(drawn(number, _span(begin, end), (low, high), steps))

    @app.get("/api/{number}/moment")
    def state(number: int, at: Seconds, order: str = "next") -> Response:
        if order not in ORDERS:
            return _error(422, f"order={order[:50]!r}; known are {', '.join(ORDERS)}")
        return JSONResponse(moment(shelf[number], at, order))

    @app.get("/api/{number}/decision")
    def decided(number: int, at: Seconds) -> Response:
        schedule = shelf[number]
        found = schedule.decisions
        return JSONResponse(found.at(at, schedule.names) if found is not None else {"policy": None, "milp": None})

    @app.get("/api/{number}/starts")
    def starts(number: int, at: Seconds, direction: Annotated[int, Query(ge=-1, le=1)] = 1) -> Response:
        return JSONResponse({"at": shelf[number].start_beside(at, direction)})

    @app.get("/api/{number}/jobs/{job}")
    def waiting(number: int, job: int) -> Response:
        schedule = shelf[number]
        if not 0 <= job < len(schedule.names):
            raise IndexError(job)
        return JSONResponse(why(schedule, job))

    @app.get("/api/{number}/find")
    def find(number: int, name: Annotated[str, Query(max_length=500)], exact: bool = False) -> Response:
        """The job of exactly this name, else (unless ``exact``) the first that begins so."""
        rows = shelf[number].row_of
        found = rows.get(name)
        if found is None and not exact:
            found = next((row for each, row in rows.items() if each.startswith(name)), None)
        return JSONResponse({"job": found})

    return app


def described(schedule: Schedule) -> dict[str, Any]:
    """What the page needs to begin."""
    started = len(set(schedule.job.tolist()))
    return {
        "title": schedule.title, "kind": schedule.kind, "begin": schedule.begin_s, "end": schedule.end_of_all_s,
        "jobs": len(schedule.names), "runs": len(schedule.job), "never_started": len(schedule.names) - started,
        "nodes": schedule.nodes, "pools": schedule.pools, "columns": list(schedule.columns),
        "gpus": schedule.gpus_total if schedule.gpus_total == schedule.gpus_total else None,
        "missing": schedule.missing, "facts": schedule.facts, "worst": worst(schedule),
        "decisions": schedule.decisions.described() if schedule.decisions is not None else None,
    }  # fmt: skip


def _span(begin: float, end: float) -> tuple[float, float]:
    """Never empty."""
    return begin, max(end, begin + 1e-3)


def _binary(data: bytes) -> Response:
    return Response(data, media_type="application/octet-stream")


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status)
