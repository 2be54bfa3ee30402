"""The cluster over HTTP: nodes, their GPUs and how they are cut, who holds what; nodes out of service and back."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from rltune.mig.configurations import configuration_number
from rltune.mig.geometry import Geometry, Placement, State, geometry
from rltune.nouns.checked import Checked, Says
from rltune.nouns.mig_profiles import FOUR_SLICE_TYPES, PROFILES, SIZE, TYPES
from rltune.service.engine import Engine
from rltune.service.errors import Refused
from rltune.service.web.answers import errors
from rltune.service.web.bodies import one_of
from rltune.service.web.context import Operates, Reads
from rltune.service.web.description import body, success
from rltune.service.web.jobs import Cursor, cursor_of, seq_of
from rltune.service.web.security import Caller
from rltune.simulator.requests import Place

router = APIRouter(prefix="/v1", tags=["cluster"])
OTHER = "(another tenant)"
MOST_NODES = 1000


class InstanceAnswer(BaseModel):
    """A MIG instance; ``held_by``: a job or lease, null: nobody."""

    profile: str
    start: int = Field(description="its first memory slice")
    memory_slices: int = Field(description="how many it takes")
    held_by: str | None


class GpuAnswer(BaseModel):
    """``held_by``: jobs and leases that hold the GPU, or shares of it; of a GPU in slices see ``instances``."""

    gpu: int
    mig: bool
    memory_slices: int = Field(description="of the GPU; 0: its type cannot be cut")
    configuration: int | None = Field(
        description="number of its partition (`python -m rltune.mig states`); null: MIG mode is off"
    )
    held_by: list[str]
    instances: list[InstanceAnswer]


class NodeAnswer(BaseModel):
    """A node; ``state``: open, drained (takes no new job) or lost (does not answer); ``first_gpu``: GPUs of the nodes before it."""

    name: str
    first_gpu: int
    state: str
    reason: str
    pool: str
    gpu_type: str
    gpus: list[GpuAnswer]


class ClusterAnswer(BaseModel):
    """The cluster, its nodes page by page; ``gpus``, ``gpus_held``: of all nodes."""

    cluster: str
    gpus: int
    gpus_held: int
    jobs_waiting: int
    jobs_running: int
    nodes: list[NodeAnswer]
    next: str | None


class NodeStateAnswer(BaseModel):
    """A node, and whether it takes jobs."""

    name: str
    state: str
    reason: str


@router.get(
    "/cluster",
    summary="Nodes, GPUs, slices, and who holds them",
    responses={**success(200, ClusterAnswer), **errors(404)},
)
async def cluster(
    visit: Reads,
    node: Annotated[str | None, Query(max_length=200, description="only this node")] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_NODES, description="nodes of a page")] = 100,
    cursor: Cursor = None,
) -> Response:
    """Tenants see that GPUs are held by others, not by whom."""
    begin, end = (0, limit) if cursor is None else (seq_of(cursor), seq_of(cursor) + limit)
    if node is not None:
        begin = number_of(visit.web.engine, node)
        end = begin + 1
    told = await visit.web.ask(lambda engine: described(engine, begin, end, visit.caller, node is None))
    return JSONResponse(await visit.web.read(lambda: numbered(told)))


def described(engine: Engine, begin: int, end: int, caller: Caller, more: bool) -> dict[str, Any]:
    """Nodes ``begin`` to before ``end``, on the engine's thread."""
    holding = [record for record in engine.ledger.records.values() if record.holds]
    held: dict[tuple[int, int], list[tuple[Place, str]]] = {}
    for record in holding:
        name = record.id if caller.sees(record.tenant) else OTHER
        for place in record.places:
            for gpu in place.gpus:
                held.setdefault((place.node, gpu), []).append((place, name))
    nodes = [_node(engine, k, held) for k in range(begin, min(end, engine.cluster.nodes))]
    return {
        "cluster": engine.cluster.name,
        "gpus": engine.cluster.gpus,
        "gpus_held": len(held),
        "jobs_waiting": len(engine.live.jobs) - len(holding),
        "jobs_running": len(holding),
        "nodes": nodes,
        "next": cursor_of(end) if more and end < engine.cluster.nodes else None,
    }


def _node(engine: Engine, node: int, held: dict[tuple[int, int], list[tuple[Place, str]]]) -> dict[str, Any]:
    pool = engine.cluster.pools[int(engine.live.arrays.node_pool[node])]
    return _state(engine, node) | {
        "pool": pool.name,
        "first_gpu": _first_gpu(engine, node),
        "gpu_type": pool.gpu_type,
        "gpus": [_gpu(engine, node, gpu, held.get((node, gpu), [])) for gpu in range(pool.gpus_per_node)],
    }


def _first_gpu(engine: Engine, node: int) -> int:
    before, arrays = 0, engine.live.arrays
    for k, pool in enumerate(engine.cluster.pools):
        within = min(max(0, node - int(arrays.pool_lo[k])), pool.nodes)
        before += within * pool.gpus_per_node
    return before


def numbered(told: dict[str, Any]) -> dict[str, Any]:
    """The same with the number of each GPU's partition; off the engine's thread, since tables are made at the first use."""
    for node in told["nodes"]:
        for gpu in node["gpus"]:
            table = geometry(node["gpu_type"]) if gpu["mig"] else None
            gpu["configuration"] = (
                None if table is None else configuration_number(table, _state_of(table, gpu["instances"]))
            )
    return told


def _state_of(table: Geometry, instances: list[dict[str, Any]]) -> State:
    names = [profile.name for profile in table.profiles]
    return tuple(sorted((Placement(names.index(x["profile"]), x["start"]) for x in instances), key=lambda x: x.start))


def _gpu(engine: Engine, node: int, gpu: int, held: list[tuple[Place, str]]) -> dict[str, Any]:
    cut = engine.live.cut_of(node, gpu)
    model = engine.cluster.pools[int(engine.live.arrays.node_pool[node])].gpu_type
    kind = model if model in TYPES else None
    of = {(place.profile, place.start): name for place, name in held if place.profile is not None}
    return {
        "gpu": engine.dispatch.seats[node].gpus[gpu],
        "mig": cut.mig,
        "memory_slices": 0 if kind is None else 4 if kind in FOUR_SLICE_TYPES else 8,
        "held_by": [name for place, name in held if place.profile is None],
        "instances": [
            {
                "profile": profile,
                "start": start,
                "memory_slices": int(SIZE[PROFILES.index(profile), TYPES.index(str(kind))]),
                "held_by": of.get((profile, start)),
            }
            for profile, start in cut.instances
        ],
    }


def _state(engine: Engine, node: int) -> dict[str, str]:
    state, reason = engine.node_state[node]
    return {"name": engine.dispatch.node_name(node), "state": state, "reason": reason}


# --- out of service and back -----------------------------------------------------------------------


class Drain(Checked):
    """Why a node is taken out of service."""

    accepted = 'a reason is an object such as {"reason": "new fan"}'
    reason: Annotated[str, Field(max_length=500), Says("a text of up to 500 characters")] = ""


Name = Annotated[str, Path(max_length=200, description="of the node, as in GET /v1/cluster")]


@router.post(
    "/nodes/{name}/drain",
    summary="Take no new job; what runs there goes on",
    responses={**success(200, NodeStateAnswer), **errors(404, 413, 415)},
    openapi_extra=body("Drain", {"fan": {"summary": "a reason", "value": {"reason": "new fan"}}}, required=False),
)
async def drain(visit: Operates, name: Name, request: Request) -> Response:
    reason = f"by {visit.caller.name}"
    if await request.body():
        reason = (await one_of(request, Drain)).reason or reason
    node = number_of(visit.web.engine, name)

    def act(engine: Engine) -> dict[str, str]:
        engine.drain(node, reason)
        return _state(engine, node)

    return JSONResponse(await visit.web.ask(act))


@router.post(
    "/nodes/{name}/undrain",
    summary="Take jobs again",
    responses={**success(200, NodeStateAnswer), **errors(404, 409)},
)
async def undrain(visit: Operates, name: Name) -> Response:
    node = number_of(visit.web.engine, name)

    def act(engine: Engine) -> dict[str, str]:
        engine.undrain(node)
        return _state(engine, node)

    return JSONResponse(await visit.web.ask(act))


def number_of(engine: Engine, name: str) -> int:
    """Number of a node in the core; `Refused` (404)."""
    node = engine.dispatch.numbers().get(name)
    if node is None:
        raise Refused(404, f"node {name[:100]!r} is unknown; GET /v1/cluster lists what there is")
    return node
