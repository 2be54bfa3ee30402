"""What every endpoint needs: the engine behind, who asks, threads for what blocks."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, TypeVar, get_args

from fastapi import Depends, Request, Security, params
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from rltune.service.engine import Engine
from rltune.service.errors import Refused
from rltune.service.policies import Policies
from rltune.service.records import Record
from rltune.service.web.answers import Views
from rltune.service.web.bodies import check_query
from rltune.service.web.metrics import Metrics
from rltune.service.web.security import NOBODY, OPERATOR, READER, TENANT, Caller, Rates, Tokens, Users
from rltune.service.web.streaming import Feed

T = TypeVar("T")
READ, CHANGE, OPERATE = (OPERATOR, TENANT, READER), (OPERATOR, TENANT), (OPERATOR,)
"""Roles that may look, change what is theirs, and change what is everybody's."""
BEARER = HTTPBearer(auto_error=False, description="a token of `python -m rltune.serve token add`")
Given = Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]
READERS, SLOW = 4, 2
"""Threads that read the disk, and that simulate."""


@dataclass(frozen=True, slots=True)
class WebOptions:
    """``auth``: whether tokens are asked for; ``hosts``: names that the service is asked by, None: any; ``most_body``: bytes;
    ``rate``, ``burst``: requests a second of a token, and at once; ``streams``: open event streams and followed logs.
    """

    auth: bool = True
    hosts: tuple[str, ...] | None = None
    most_body: int = 1_000_000
    rate: float = 500.0
    burst: int = 1000
    streams: int = 500
    users: Users = field(default_factory=Users)


class Web:
    """Of one application."""

    def __init__(self, engine: Engine, policies: Policies, options: WebOptions) -> None:
        self.engine, self.policies, self.options = engine, policies, options
        self.tokens, self.rates = Tokens(engine.store), Rates(options.rate, options.burst)
        self.views, self.feed, self.metrics = Views(engine), Feed(engine), Metrics(engine)
        self._readers = ThreadPoolExecutor(READERS, "reader")
        self._slow = ThreadPoolExecutor(SLOW, "slow")

    def begin(self) -> None:
        """Of the application, in its event loop."""
        self.feed.begin(asyncio.get_running_loop())

    def end(self) -> None:
        self.feed.end()
        for pool in (self._readers, self._slow):
            pool.shutdown(wait=False, cancel_futures=True)

    # --- asking -------------------------------------------------------------------------------

    async def ask(self, act: Callable[[Engine], T]) -> T:
        """Have something done by the engine's thread; its answer, once that is on disk."""
        return await waited(self.engine.ask(act))

    async def read(self, act: Callable[[], T]) -> T:
        """Something that reads the disk or a node, in another thread."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, act)

    async def simulate(self, act: Callable[[], T]) -> T:
        """Something that computes for long, in one of a few threads."""
        return await asyncio.get_running_loop().run_in_executor(self._slow, act)

    # --- what belongs to whom -----------------------------------------------------------------

    def record(self, name: str, caller: Caller, kind: str | None = None) -> Record | None:
        """A job or lease in memory that the caller may see; None: it may be on disk."""
        record = self.engine.ledger.records.get(name)
        if record is not None and caller.sees(record.tenant) and kind in (None, record.kind):
            return record
        return None

    async def row(self, name: str, caller: Caller, kind: str | None = None) -> Mapping[str, Any]:
        """A job or lease on disk that the caller may see; `Refused` (404)."""
        rows = await self.read(lambda: self.engine.store.read("SELECT * FROM jobs WHERE id = ?", (name,)))
        if not rows or not caller.sees(rows[0]["tenant"]) or kind not in (None, rows[0]["kind"]):
            raise unknown(name, kind)
        return dict(rows[0])

    async def seen(self, name: str, caller: Caller, kind: str | None = None) -> None:
        """`Refused` (404) unless there is such a job or lease, and the caller may see it."""
        if self.record(name, caller, kind) is None:
            await self.row(name, caller, kind)


def unknown(name: str, kind: str | None) -> Refused:
    """Also where it is another tenant's: whether it is there is not theirs to know."""
    return Refused(404, f"{kind or 'job'} {name[:100]!r} is unknown; GET /v1/{kind or 'job'}s lists what there is")


async def waited(future: Future[T]) -> T:
    """The answer of the engine. A client that goes away meanwhile takes nothing back: the engine answers all the same."""
    inner = asyncio.wrap_future(future)
    inner.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(inner)


@dataclass(frozen=True, slots=True)
class Visit:
    """A request of somebody who may make it."""

    web: Web
    caller: Caller


def allowed(roles: tuple[str, ...]) -> Callable[..., Awaitable[Visit]]:
    """A dependency: who asks, where their role is among ``roles``; `Refused` 401, 403, 422, 429."""

    async def visit(request: Request, given: Given) -> Visit:
        web: Web = request.app.state.web
        caller = _caller(web, given)
        if caller.role not in roles:
            raise Refused(403, f"a token of role {caller.role} may not do this; ask {' or '.join(roles)}")
        check_query(request, parameters_of(request.scope["endpoint"]))
        return Visit(web, caller)

    return visit


def _caller(web: Web, given: Given) -> Caller:
    if not web.options.auth:
        web.rates.take("")
        return NOBODY
    caller = web.tokens.caller(given.credentials) if given is not None else None
    # All who have no valid token share one rate.
    web.rates.take("" if caller is None else caller.name)
    if caller is None:
        raise Refused(401, "no token that is valid; send Authorization: Bearer TOKEN")
    return caller


Reads = Annotated[Visit, Depends(allowed(READ))]
Changes = Annotated[Visit, Depends(allowed(CHANGE))]
Operates = Annotated[Visit, Depends(allowed(OPERATE))]


@cache
def parameters_of(endpoint: Callable[..., Any]) -> frozenset[str]:
    """Names of the query parameters that an endpoint declares."""
    declared = inspect.signature(endpoint, eval_str=True).parameters
    return frozenset(
        name for name, each in declared.items() if any(isinstance(x, params.Query) for x in get_args(each.annotation))
    )
