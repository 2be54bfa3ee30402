"""The service as an ASGI application over an engine: `make_app(engine, policies, options)`; it runs under any server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from rltune import __version__
from rltune.pages import serving
from rltune.service.engine import Engine
from rltune.service.policies import Choice, Policies
from rltune.service.web import cluster, deciding, jobs, leases, watching
from rltune.service.web.answers import HANDLERS
from rltune.service.web.context import Web, WebOptions
from rltune.service.web.description import BODIES, describe
from rltune.service.web.guard import Guard
from rltune.simulator.options import Options

SAYS = "Jobs and MIG leases on a GPU cluster. Every error is one line that says what to change. Times are seconds since 1970."


def make_app(engine: Engine, policies: Policies | None = None, options: WebOptions | None = None) -> FastAPI:
    """The application; whoever starts it also starts and stops the engine. ``app.state.web`` is what its endpoints use.

    ``policies``: None: the engine's policy is fifo, and can be changed.
    """
    options = options or WebOptions()
    web = Web(engine, policies or Policies(engine, Choice(), Options()), options)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        web.begin()
        yield
        web.end()

    app = FastAPI(
        title="rltune", version=__version__, description=SAYS, lifespan=lifespan, docs_url=None, redoc_url=None,
        exception_handlers=HANDLERS, redirect_slashes=False,
    )  # fmt: skip
    app.state.web = web
    for room in (jobs, leases, cluster, deciding, watching):
        app.include_router(room.router)
    app.include_router(watching.plain)
    app.include_router(serving.router)
    app.add_middleware(Guard, most_body=options.most_body, hosts=options.hosts, seen=web.metrics.seen)
    describe(app, (*BODIES, leases.Renewal, cluster.Drain, deciding.PolicyChange, deciding.Question))
    return app
