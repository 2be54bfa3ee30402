"""Jobs over HTTP: submitted, listed, looked at, cancelled; their runs and what they print."""

from __future__ import annotations

import asyncio
import base64
import codecs
import json
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response

from rltune.service.engine import Engine
from rltune.service.errors import Refused
from rltune.service.records import JOB, OVER
from rltune.service.specs import NAME, JobSpec
from rltune.service.web.answers import PageAnswer, RecordAnswer, RunAnswer, StateAnswer, SubmittedAnswer, errors
from rltune.service.web.bodies import digest_of_request, key_of, several_of
from rltune.service.web.context import Changes, Reads, Visit, Web, unknown
from rltune.service.web.description import body, header, success
from rltune.service.web.security import Caller
from rltune.service.web.streaming import message, stream

STATES = ("waiting", "suspended", "starting", "running", *OVER)
MOST_LISTED = 1000
MOST_LOG = 1 << 20
FOLLOW_S = 0.25
"""Between looks at a log that is followed."""
Id = Annotated[str, Path(max_length=200, description="of the job, such as job-17 or job-17[3]")]
Tenant = Annotated[
    str | None, Query(pattern=NAME, description="on whose behalf; tenants: leave it out (operators: local)")
]
router = APIRouter(prefix="/v1", tags=["jobs"])
SLEEP = {"command": ["sleep", "60"], "gpus": 1}
SUBMITS = {
    "one": {"summary": "a job on one GPU", "value": SLEEP},
    "slice": {
        "summary": "a job on a MIG slice",
        "value": {"command": ["python", "train.py"], "profile": "3g", "estimate_s": 3600},
    },
    "gang": {"summary": "a gang of 4 GPUs", "value": {"command": ["python", "train.py"], "gpus": 4, "limit_s": 86400}},
    "array": {"summary": "an array and a job", "value": [{"command": ["python", "try.py"], "array": 10}, SLEEP]},
}


@router.post(
    "/jobs",
    status_code=201,
    summary="Submit jobs: all of them or none",
    responses={**success(201, SubmittedAnswer, {"jobs": ["job-1"]}), **errors(409, 413, 415)},
    openapi_extra=body("JobSpec", SUBMITS, several=True) | header("Idempotency-Key"),
)
async def submit(visit: Changes, request: Request, tenant: Tenant = None) -> Response:
    """Accepted jobs are on disk when this answers. The same request with the same Idempotency-Key is answered alike, and done once."""
    web, key = visit.web, key_of(request)
    owner = visit.caller.on_behalf(tenant)
    specs = [web.options.users.apply(spec, owner) for spec in await several_of(request, JobSpec)]
    digest = digest_of_request("submit", [spec.model_dump(mode="json") for spec in specs])

    def act(engine: Engine) -> dict[str, Any]:
        if key is not None and (known := repeated(engine, owner, key, digest)) is not None:
            return known
        answer = {"jobs": engine.submit(specs, owner)}
        if key is not None:
            engine.ledger.answer(owner, key, digest, answer, engine.now)
        return answer

    return JSONResponse(await web.ask(act), 201)


def repeated(engine: Engine, tenant: str, key: str, digest: str) -> dict[str, Any] | None:
    """What a request was answered before; `Refused` (409) where another one had its key."""
    known = engine.ledger.answered(tenant, key)
    if known is None:
        return None
    if known[0] != digest:
        raise Refused(
            409, f"Idempotency-Key {key[:100]!r} was that of another request; give each request a key of its own"
        )
    answer: dict[str, Any] = known[1]
    return answer


# --- listing ---------------------------------------------------------------------------------------

Limit = Annotated[int, Query(ge=1, le=MOST_LISTED, description="entries of a page")]
State = Annotated[str | None, Query(description=f"only those in this state: {', '.join(STATES)}, or alive: not over")]
Of = Annotated[str | None, Query(pattern=NAME, description="only those of this tenant")]
Cursor = Annotated[str | None, Query(max_length=100, description="`next` of the page before")]


@router.get("/jobs", summary="Jobs, newest first, page by page", responses={**success(200, PageAnswer), **errors()})
async def listed(
    visit: Reads,
    state: State = None,
    tenant: Of = None,
    kind: Annotated[str, Query(pattern="^(job|lease|all)$", description="job, lease or all")] = JOB,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    """Whatever is on disk: also jobs that are over for long."""
    wanted = (None if kind == "all" else kind, state, tenant)
    return JSONResponse(await page(visit, wanted, limit, cursor))


async def page(
    visit: Visit, wanted: tuple[str | None, str | None, str | None], limit: int, cursor: str | None
) -> dict[str, Any]:
    """A page of jobs or leases: ``wanted`` kind, state, tenant, None: any."""
    query, values = selection(wanted, visit.caller, None if cursor is None else seq_of(cursor))
    rows = await visit.web.read(lambda: visit.web.engine.store.read(f"{query} LIMIT {limit + 1}", values))
    items = [visit.web.views.row(dict(row), visit.caller) for row in rows[:limit]]
    return {"items": items, "next": cursor_of(rows[limit - 1]["seq"]) if len(rows) > limit else None}


def selection(
    wanted: tuple[str | None, str | None, str | None], caller: Caller, before: int | None
) -> tuple[str, tuple[Any, ...]]:
    """The query for what a caller may see of what is wanted, newest first; `Refused` (403, 422)."""
    kind, state, tenant = wanted
    if tenant is not None and not caller.sees(tenant):
        raise Refused(403, f"tenant={tenant}: this token is of tenant {caller.tenant}; leave tenant out")
    if state is not None and state not in (*STATES, "alive"):
        raise Refused(422, f"state={state[:100]!r} is unknown; known are {', '.join(STATES)}, alive")
    terms, values = ["seq < ?"], [float("inf") if before is None else before]
    own: list[Any] = [*values]
    for column, value in (("kind", kind), ("tenant", tenant or caller.tenant)):
        if value is not None:
            terms.append(f"{column} = ?")
            own.append(value)
    if state is not None:
        if state not in OVER:
            # In these words, so that the index of those that are alive is used.
            terms.append(f"state NOT IN {OVER}")
        if state != "alive":
            terms.append("state = ?")
            own.append(state)
    return f"SELECT * FROM jobs WHERE {' AND '.join(terms)} ORDER BY seq DESC", tuple(own)


def cursor_of(seq: int) -> str:
    """Opaque to clients."""
    return base64.urlsafe_b64encode(f"1:{seq}".encode()).decode().rstrip("=")


def seq_of(cursor: str) -> int:
    """InputError-like `Refused` (422) for what is no cursor of ours."""
    try:
        version, _, number = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii").partition(":")
        if version != "1" or not number.isdecimal() or len(number) > 18:
            raise ValueError
        return int(number)
    except ValueError:
        raise Refused(422, f"cursor={cursor!r} is none of this service; take `next` of a page") from None


# --- one job ---------------------------------------------------------------------------------------


@router.get("/jobs/{id}", summary="One job", responses={**success(200, RecordAnswer), **errors(404)})
async def one(visit: Reads, id: Id) -> Response:
    return JSONResponse(await found(visit, id, JOB))


async def found(visit: Visit, name: str, kind: str) -> dict[str, Any]:
    """A job or lease as it is on disk: an answer is never ahead of what a power cut would leave."""
    return visit.web.views.row(await visit.web.row(name, visit.caller, kind), visit.caller)


@router.get(
    "/jobs/{id}/runs", summary="Its runs, first to last", responses={**success(200, list[RunAnswer]), **errors(404)}
)
async def runs(visit: Reads, id: Id) -> Response:
    await visit.web.seen(id, visit.caller, JOB)
    query = "SELECT * FROM runs WHERE job = ? ORDER BY number"
    rows = await visit.web.read(lambda: visit.web.engine.store.read(query, (id,)))
    return JSONResponse([visit.web.views.run(dict(row)) for row in rows])


@router.delete(
    "/jobs/{id}",
    summary="Cancel it, whatever it does",
    responses={**success(200, StateAnswer, {"id": "job-1", "state": "cancelled"}), **errors(404)},
)
async def cancel(visit: Changes, id: Id) -> Response:
    """One that is over stays as it is: the answer says how that is."""
    return JSONResponse(await cancelled(visit, id, JOB, "cancelled"))


async def cancelled(visit: Visit, name: str, kind: str, why: str) -> dict[str, Any]:
    """End a job or lease of the caller; its state then."""

    def act(engine: Engine) -> dict[str, Any] | None:
        record = engine.ledger.records.get(name)
        if record is None:
            return None
        if not visit.caller.sees(record.tenant) or record.kind != kind:
            raise unknown(name, kind)
        return {"id": name, "state": engine.cancel(name, why)}

    answer = await visit.web.ask(act)
    if answer is None:
        row = await visit.web.row(name, visit.caller, kind)
        answer = {"id": name, "state": row["state"]}
    return answer


# --- what it prints --------------------------------------------------------------------------------


@router.get(
    "/jobs/{id}/logs",
    summary="What a run printed (standard output and error)",
    response_class=Response,
    responses={
        200: {
            "description": "Bytes as the job wrote them; header Next-Offset: where the next ones begin. With follow: server-sent events "
            "with data {offset, text}, at the end one of type end.",
            "content": {
                "text/plain": {"schema": {"type": "string"}},
                "text/event-stream": {"schema": {"type": "string"}},
            },
        },
        **errors(404, 409),
    },
)
async def logs(
    visit: Reads,
    id: Id,
    run: Annotated[
        int | None, Query(ge=1, le=10**9, description="number of the run, from 1; default: the last")
    ] = None,
    rank: Annotated[int, Query(ge=0, le=10**6, description="of a gang: number of the node, from 0")] = 0,
    offset: Annotated[int, Query(ge=0, le=2**62, description="first byte")] = 0,
    limit: Annotated[int, Query(ge=1, le=MOST_LOG, description="bytes, at most")] = 65_536,
    tail: Annotated[
        int | None, Query(ge=0, le=MOST_LOG, description="the last bytes, this many, in the place of offset")
    ] = None,
    follow: Annotated[bool, Query(description="go on until the run is over")] = False,
) -> Response:
    log = await Log.of(visit, id, run, rank)
    if tail is not None:
        _, end = await log.span()
        offset = max(0, end - tail)
        limit = max(1, tail)
    if follow:
        visit.web.feed.check(visit.web.options.streams)
        return stream(log.follow(offset))
    at, data = await log.read(offset, limit)
    return Response(data, media_type="text/plain; charset=utf-8", headers={"Next-Offset": str(at + len(data))})


class Log:
    """The output of one run on one of its nodes."""

    def __init__(self, web: Web, job: str, run: str, machine: str) -> None:
        self.web, self.job, self.run = web, job, run
        self.node: Any = web.engine.dispatch.machines[machine]

    @classmethod
    async def of(cls, visit: Visit, job: str, number: int | None, rank: int) -> Log:
        """`Refused` where there is no such job (404) or run (409)."""
        await visit.web.seen(job, visit.caller, JOB)
        query = "SELECT run, places FROM runs WHERE job = ? AND (? IS NULL OR number = ?) ORDER BY number DESC LIMIT 1"
        rows = await visit.web.read(lambda: visit.web.engine.store.read(query, (job, number, number)))
        if not rows:
            raise Refused(
                409,
                f"{job} has no run {number or 1} yet; wait until it starts"
                if number is None
                else f"{job} has no run {number}",
            )
        machines = machines_of(visit.web.engine, dict(rows[0]))
        if rank >= len(machines):
            raise Refused(409, f"rank={rank}: run {rows[0]['run']} is on {len(machines)} nodes; ranks count from 0")
        return cls(visit.web, job, rows[0]["run"], machines[rank])

    async def span(self) -> tuple[int, int]:
        """Offsets of the first byte that is kept, and of the end."""
        span: tuple[int, int] = await self.web.read(lambda: self.node.log_span(self.run))
        return span

    async def read(self, offset: int, limit: int) -> tuple[int, bytes]:
        """Where it begins (a long log has lost its beginning), and up to ``limit`` bytes from there."""
        data: bytes = await self.web.read(lambda: self.node.read_log(self.run, offset, limit))
        if not data:
            first, _ = await self.span()
            if offset < first:
                data = await self.web.read(lambda: self.node.read_log(self.run, first, limit))
                return first, data
        return offset, data

    @property
    def over(self) -> bool:
        """Whether nothing more is going to be printed."""
        record = self.web.engine.ledger.records.get(self.job)
        return (
            record is None or record.over or record.run != self.run or not (record.holds or record.state == "suspended")
        )

    async def follow(self, offset: int) -> AsyncIterator[str]:
        """Server-sent events from ``offset`` on, until the run is over."""
        # A piece may end within a character.
        text = codecs.getincrementaldecoder("utf-8")("replace")
        with self.web.feed.counted():
            while not self.web.feed.closing:
                # Asked before reading: what is printed in between is read by the next look.
                over = self.over
                offset, data = await self.read(offset, 65_536)
                if data:
                    yield message({"offset": offset, "text": text.decode(data)}, "log", offset + len(data))
                    offset += len(data)
                elif over:
                    yield message({"offset": offset, "text": text.decode(b"", True), "run": self.run}, "end")
                    return
                else:
                    await asyncio.sleep(FOLLOW_S)


def machines_of(engine: Engine, row: Mapping[str, Any]) -> list[str]:
    """Machines of a run, rank 0 first."""
    nodes = [place[0] for place in json.loads(row["places"])]
    return list(dict.fromkeys(engine.dispatch.seats[node].machine for node in nodes))
