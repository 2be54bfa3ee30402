"""The policy over HTTP, and what it thinks: the plan, why a job waits, when it will start, what would be if."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field, model_validator

from rltune.nouns.checked import Checked, Says
from rltune.nouns.errors import InputError
from rltune.service.engine import Engine
from rltune.service.errors import Refused
from rltune.service.policies import Choice, known, rules_of
from rltune.service.records import SUSPENDED, WAITING
from rltune.service.specs import JobSpec
from rltune.service.web.answers import errors
from rltune.service.web.bodies import one_of
from rltune.service.web.context import Operates, Reads, Visit, Web
from rltune.service.web.description import body, success
from rltune.service.web.jobs import Id, Tenant
from rltune.service.web.security import Caller
from rltune.simulator.requests import Rules

router = APIRouter(prefix="/v1", tags=["deciding"])
OTHER = "(another tenant's)"
Word = Annotated[
    str | None, Field(min_length=1, max_length=500, pattern=r"^[^\x00]*$"), Says("a name, as in GET /v1/policy")
]


CHOSEN = ("policy", "backfill", "allocator", "guard")


class PolicyChange(Checked):
    """What shall decide from now on; what is left out stays as it is."""

    accepted = 'a policy is an object such as {"policy": "srsf", "backfill": "easy"}'
    policy: Word = None
    """An order (fifo, sjf, ...), one that suspends (srsf, las, ...), a learned policy by name or file."""
    backfill: Word = None
    allocator: Word = None
    guard: Annotated[bool | None, Says("true or false")] = None
    """Of a learned policy: it decides only while shadow simulation says that it does no worse than rules."""
    shadow: Annotated[
        str | None, Field(min_length=1, max_length=500, pattern=r"^[^\x00]*$"), Says("a policy by name, or off")
    ] = None
    """A policy that decides beside the active one and is only written down (events `shadow differs`); off: none."""
    rollback: Annotated[bool, Says("true or false")] = False
    """Back to the policy before this one, and nothing else."""

    @model_validator(mode="after")
    def _agree(self) -> PolicyChange:
        named = [name for name in (*CHOSEN, "shadow") if getattr(self, name) is not None]
        if self.rollback and named:
            raise InputError(f"rollback=true goes without {named[0]}; leave one of them out")
        if not self.rollback and not named:
            raise InputError(f"nothing to change; give {', '.join((*CHOSEN, 'shadow'))}, or rollback=true")
        return self

    @property
    def chosen(self) -> dict[str, Any]:
        """What changes of the active policy."""
        return {name: value for name in CHOSEN if (value := getattr(self, name)) is not None}


class Nodes(Checked):
    """More nodes of a pool, or fewer."""

    accepted = 'nodes are an object such as {"pool": "a100", "add": 2}'
    pool: Annotated[str, Field(max_length=200), Says("the name of a pool")]
    add: Annotated[int, Field(ge=-10_000, le=10_000), Says("a whole number; below 0: fewer nodes")]


class Question(Checked):
    """What would be if: one of these."""

    accepted = 'a question is an object such as {"job": {"command": ["true"], "gpus": 4}}, {"nodes": {...}} or {"policy": "sjf"}'
    job: JobSpec | None = None
    """If this job came now."""
    nodes: Nodes | None = None
    """If there were more nodes, or fewer."""
    policy: Word = None
    """If another policy decided from now on."""
    backfill: Word = None
    allocator: Word = None

    @model_validator(mode="after")
    def _agree(self) -> Question:
        rules = any(x is not None for x in (self.policy, self.backfill, self.allocator))
        if (self.job is not None) + (self.nodes is not None) + rules != 1:
            raise InputError("ask one thing: job, nodes, or policy (with backfill and allocator)")
        return self


class ChoiceAnswer(BaseModel):
    """A policy with its backfill and allocator."""

    policy: str
    backfill: str
    allocator: str
    guard: bool


class ShadowAnswer(BaseModel):
    """A shadow policy: instants that were compared, agreed on and passed over (it was busy); starts of one of the two alone."""

    policy: str
    compared: int
    agreed: int
    passed_over: int
    only_active: int
    only_shadow: int
    error: str


class PolicyAnswer(ChoiceAnswer):
    """What decides, what did before it, what is written down beside it, and what there is to choose from."""

    before: ChoiceAnswer | None
    shadow: ShadowAnswer | None
    known: dict[str, list[str]]


@router.get("/policy", summary="What decides", responses={**success(200, PolicyAnswer), **errors()})
async def policy(visit: Reads) -> Response:
    return JSONResponse(_told(visit))


@router.put(
    "/policy",
    summary="Another policy decides from now on, or the one before again, or a shadow beside",
    responses={**success(200, PolicyAnswer), **errors(409, 413, 415)},
    openapi_extra=body(
        "PolicyChange",
        {
            "rule": {"summary": "shortest remaining service first", "value": {"policy": "srsf", "backfill": "skip"}},
            "shadow": {"summary": "write down what sjf would do", "value": {"shadow": "sjf"}},
            "back": {"summary": "as it was", "value": {"rollback": True}},
        },
    ),
)
async def change(visit: Operates, request: Request) -> Response:
    """It first decides on a copy of the cluster, while the present one goes on; a policy that cannot decide here is refused."""
    web, asked = visit.web, await one_of(request, PolicyChange)
    policies = web.policies
    if asked.rollback or asked.chosen:
        choice = policies.earlier() if asked.rollback else policies.with_changes(asked.chosen)
        rules = await _tried(web, choice)
        await web.ask(lambda engine: policies.use(choice, rules))
    if asked.shadow is not None:
        beside = None if asked.shadow == "off" else policies.with_changes({"policy": asked.shadow})
        rules_beside = None if beside is None else await _tried(web, beside)
        await web.ask(lambda engine: engine.use_shadow(rules_beside, asked.shadow or ""))
    return JSONResponse(_told(visit))


async def _tried(web: Web, choice: Choice) -> Rules:
    """Rules of a choice, once they have decided on a copy."""
    copy = await web.ask(lambda engine: engine.live.picture())
    return await web.simulate(lambda: web.policies.prepare(choice, copy))


def _told(visit: Visit) -> dict[str, Any]:
    policies, shadow = visit.web.policies, visit.web.engine.shadow
    before = None if policies.before is None else policies.before.told()
    beside = None if shadow is None else {"policy": shadow.name, **asdict(shadow.tally)}
    return policies.current.told() | {"before": before, "shadow": beside, "known": known()}


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


@router.get(
    "/jobs/{id}/when",
    summary="When it will start: quantiles",
    responses={**success(200, dict), **errors(404, 409)},
)
async def when(
    visit: Reads, id: Id, samples: Annotated[int, Query(ge=1, le=1000, description="futures that are simulated")] = 32
) -> Response:
    """From the present queue, if no further job is submitted; 409 for a job that runs or is over."""
    web = visit.web

    def act(engine: Engine) -> Any:
        record = _mine(engine, id, visit.caller)
        if record.state not in (WAITING, SUSPENDED):
            raise Refused(409, f"{id} is {record.state}; only for a job that waits there is a when")
        return explaining("picture")(engine)

    seen = await web.ask(act)
    return JSONResponse(await web.simulate(lambda: explaining("when")(seen, id, samples)))


@router.post(
    "/what-if",
    summary="What would be if",
    responses={**success(200, dict), **errors(413, 415)},
    openapi_extra=body(
        "Question",
        {
            "job": {
                "summary": "if this job came",
                "value": {"job": {"command": ["true"], "gpus": 4, "estimate_s": 3600}},
            },
            "nodes": {"summary": "if there were two more nodes", "value": {"nodes": {"pool": "a100", "add": 2}}},
            "policy": {"summary": "if another policy decided", "value": {"policy": "sjf"}},
        },
    ),
)
async def what_if(visit: Reads, request: Request, tenant: Tenant = None) -> Response:
    """Simulated on a copy: nothing changes."""
    web, question = visit.web, await one_of(request, Question)
    owner = visit.caller.on_behalf(tenant)
    asked = question.model_dump(exclude_none=True, exclude_defaults=True)
    changes = {name: asked.pop(name) for name in CHOSEN if name in asked}
    seen = await web.ask(lambda engine: explaining("picture")(engine))

    def act() -> Any:
        rules = rules_of(web.policies.with_changes(changes), web.policies.options) if changes else None
        return explaining("what_if")(seen, asked, rules, owner)

    return JSONResponse(await web.simulate(act))


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
