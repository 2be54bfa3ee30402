"""The policy over HTTP, and what it thinks: the plan, why a job waits, when it will start, what would be if."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field, model_validator

from rltune.nouns.checked import Checked, Says
from rltune.nouns.errors import InputError
from rltune.service.engine import Engine, Refused
from rltune.service.policies import known
from rltune.service.web.answers import errors
from rltune.service.web.bodies import document_of, one_of
from rltune.service.web.context import Operates, Reads, Visit
from rltune.service.web.description import body, success
from rltune.service.web.jobs import Id
from rltune.service.web.security import Caller

router = APIRouter(tags=["deciding"])
OTHER = "(another tenant's)"
Word = Annotated[
    str | None, Field(min_length=1, max_length=500, pattern=r"^[^\x00]*$"), Says("a name, as in GET /v1/policy")
]


class PolicyChange(Checked):
    """What shall decide from now on; what is left out stays as it is."""

    accepted = 'a policy is an object such as {"policy": "srsf", "backfill": "easy"}'
    policy: Word = None
    """An order (fifo, sjf, ...), one that suspends (srsf, las, ...), a learned policy by name or file."""
    backfill: Word = None
    allocator: Word = None
    rollback: Annotated[bool, Says("true or false")] = False
    """Back to the policy before this one, and nothing else."""

    @model_validator(mode="after")
    def _agree(self) -> PolicyChange:
        named = [name for name in ("policy", "backfill", "allocator") if getattr(self, name) is not None]
        if self.rollback and named:
            raise InputError(f"rollback=true goes without {named[0]}; leave one of them out")
        if not self.rollback and not named:
            raise InputError("nothing to change; give policy, backfill, allocator, or rollback=true")
        return self


class ChoiceAnswer(BaseModel):
    """A policy with its backfill and allocator."""

    policy: str
    backfill: str
    allocator: str


class PolicyAnswer(ChoiceAnswer):
    """What decides, what did before it, and what there is to choose from."""

    before: ChoiceAnswer | None
    known: dict[str, list[str]]


@router.get("/policy", summary="What decides", responses={**success(200, PolicyAnswer), **errors()})
async def policy(visit: Reads) -> Response:
    return JSONResponse(_told(visit))


@router.put(
    "/policy",
    summary="Another policy decides from now on, or the one before again",
    responses={**success(200, PolicyAnswer), **errors(409, 413, 415)},
    openapi_extra=body(
        "PolicyChange",
        {
            "rule": {"summary": "shortest remaining service first", "value": {"policy": "srsf", "backfill": "skip"}},
            "back": {"summary": "as it was", "value": {"rollback": True}},
        },
    ),
)
async def change(visit: Operates, request: Request) -> Response:
    """It first decides on a copy of the cluster, while the present one goes on; a policy that cannot decide here is refused."""
    web, asked = visit.web, await one_of(request, PolicyChange)
    policies = web.policies
    choice = policies.earlier() if asked.rollback else policies.with_changes(asked.model_dump(exclude={"rollback"}))
    copy = await web.ask(lambda engine: engine.live.fork())
    rules = await web.simulate(lambda: policies.prepare(choice, copy))
    await web.ask(lambda engine: policies.use(choice, rules))
    return JSONResponse(_told(visit))


def _told(visit: Visit) -> dict[str, Any]:
    policies = visit.web.policies
    before = None if policies.before is None else policies.before.told()
    return policies.current.told() | {"before": before, "known": known()}


# --- what it thinks --------------------------------------------------------------------------------


def explaining(name: str) -> Callable[..., Any]:
    """A function of `rltune.service.explaining`, which loads what simulates only when somebody asks."""
    function: Callable[..., Any] = getattr(import_module("rltune.service.explaining"), name)
    return function


@router.get("/plan", summary="What is planned now, and the runner-up", responses={**success(200, dict), **errors()})
async def plan(visit: Reads) -> Response:
    tell = explaining("plan")
    return JSONResponse(own(await visit.web.ask(tell), visit))


@router.get("/queue", summary="Who waits, in the order of the policy", responses={**success(200, dict), **errors()})
async def queue(visit: Reads) -> Response:
    tell = explaining("queue")
    return JSONResponse(own(await visit.web.ask(tell), visit))


@router.get("/jobs/{id}/why", summary="Why it waits", responses={**success(200, dict), **errors(404)})
async def why(visit: Reads, id: Id) -> Response:
    tell = explaining("why")
    return JSONResponse(own(await visit.web.ask(lambda engine: tell(engine, _mine(engine, id, visit.caller))), visit))


@router.get("/jobs/{id}/when", summary="When it will start: quantiles", responses={**success(200, dict), **errors(404)})
async def when(
    visit: Reads, id: Id, samples: Annotated[int, Query(ge=1, le=1000, description="futures that are simulated")] = 20
) -> Response:
    tell, web = explaining("when"), visit.web
    record = _mine(web.engine, id, visit.caller)
    return JSONResponse(own(await web.simulate(lambda: tell(web.engine, record, samples)), visit))


@router.post(
    "/what-if",
    summary="What would be if",
    responses={**success(200, dict), **errors(413, 415)},
    openapi_extra=body(
        "Question", {"job": {"summary": "if this job came", "value": {"submit": {"command": ["true"], "gpus": 4}}}}
    ),
)
async def what_if(visit: Reads, request: Request) -> Response:
    """Simulated on a copy: nothing changes."""
    tell, web = explaining("what_if"), visit.web
    question = (await document_of(request, 'a question is an object such as {"policy": "sjf"}')).value
    return JSONResponse(own(await web.simulate(lambda: tell(web.engine, question)), visit))


def _mine(engine: Engine, name: str, caller: Caller) -> Any:
    record = engine.ledger.records.get(name)
    if record is None or not caller.sees(record.tenant):
        raise Refused(404, f"job {name[:100]!r} is unknown, or over for long; GET /v1/jobs lists what there is")
    return record


def own(answer: Any, visit: Visit) -> Any:
    """An answer without the names of what is others': tenants learn that somebody is ahead, not who."""
    if visit.caller.tenant is None:
        return answer
    records, caller = visit.web.engine.ledger.records, visit.caller

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            foreign = isinstance(value.get("tenant"), str) and not caller.sees(value["tenant"])
            return {without(k): (OTHER if foreign and k == "tenant" else without(v)) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [without(each) for each in value]
        record = records.get(value) if isinstance(value, str) else None
        return value if record is None or caller.sees(record.tenant) else OTHER

    return without(answer)
