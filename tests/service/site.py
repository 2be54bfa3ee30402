"""The application over an engine with a thread, on machines that do what the test says; asked as by HTTP, without a network."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from anyio.from_thread import start_blocking_portal

from rltune.service.app import make_app
from rltune.service.clock import WallClock
from rltune.service.dispatch import Seat
from rltune.service.engine import Engine, Settings
from rltune.service.restart import reconcile, restore
from rltune.service.store import Store
from rltune.service.web.context import WebOptions
from rltune.service.web.security import add_token
from rltune.simulator.requests import Rules
from tests.service.fakes import CLUSTER, FakeMachine

ORIGIN = 1_700_000_000.0
ROLES = {
    "operator": ("operator", None),
    "ann": ("tenant", "ann"),
    "bob": ("tenant", "bob"),
    "reader": ("reader", None),
    "ann-reader": ("reader", "ann"),
}


class Site:
    """``with Site(path) as site``: two machines of two A100; ``site.ann.post("/v1/jobs", json=...)`` asks as a tenant."""

    def __init__(
        self, path: Path, options: WebOptions | None = None, settings: Settings | None = None, machines: Any = None
    ) -> None:
        self.machines = machines or [FakeMachine("m0"), FakeMachine("m1")]
        self.store = Store(path / "state.sqlite")
        last = self.store.read("SELECT COALESCE(MAX(at_s), 0) FROM events")[0][0]
        seats = [Seat("m0", (0, 1)), Seat("m1", (0, 1))]
        clock = WallClock(ORIGIN, last)
        self.engine = Engine(self.store, CLUSTER, Rules(), self.machines, seats, clock, settings or Settings())
        restore(self.engine)
        reconcile(self.engine)
        had = {row["name"] for row in self.store.read("SELECT name FROM tokens")}
        self.tokens = {n: add_token(self.store, n, *ROLES[n]) for n in ROLES if n not in had}
        self.app = make_app(self.engine, None, options or WebOptions(rate=0))

    def __enter__(self) -> Site:
        self.engine.start()
        self._stack = ExitStack()
        self._stack.callback(self.store.close)
        self._stack.callback(self.engine.stop)
        self.portal = self._stack.enter_context(start_blocking_portal())
        self._stack.enter_context(self.portal.wrap_async_context_manager(self.app.router.lifespan_context(self.app)))
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://testserver", timeout=120)
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

    def headers(self, who: str | None) -> dict[str, str]:
        return {} if who is None else {"Authorization": f"Bearer {self.tokens[who]}"}

    def ask(self, who: str | None, method: str, path: str, **more: Any) -> Any:
        headers = self.headers(who) | more.pop("headers", {})
        return self.portal.call(partial(self.http.request, method, path, headers=headers, **more))

    def __getattr__(self, who: str) -> Asks:
        if who not in ROLES:
            raise AttributeError(who)
        return Asks(self, who)

    def until(self, true: Callable[[], Any], seconds: float = 60.0) -> Any:
        """Wait for something that the engine brings about."""
        end = time.monotonic() + seconds
        while not (found := true()):
            assert time.monotonic() < end, "it did not come about"
            time.sleep(0.005)
        return found

    def state(self, name: str) -> str:
        """As it is on disk."""
        return str(self.store.read("SELECT state FROM jobs WHERE id = ?", (name,))[0][0])

    def rows(self) -> list[Any]:
        """All that a request could change on disk."""
        return [
            [tuple(row) for row in self.store.read(f"SELECT * FROM {table}")]
            for table in ("jobs", "runs", "requests", "nodes", "cuts", "events")
        ]


class Asks:
    """Requests of one who asks."""

    def __init__(self, site: Site, who: str) -> None:
        self._site, self._who = site, who

    def get(self, path: str, **more: Any) -> Any:
        return self._site.ask(self._who, "GET", path, **more)

    def post(self, path: str, **more: Any) -> Any:
        return self._site.ask(self._who, "POST", path, **more)

    def put(self, path: str, **more: Any) -> Any:
        return self._site.ask(self._who, "PUT", path, **more)

    def delete(self, path: str, **more: Any) -> Any:
        return self._site.ask(self._who, "DELETE", path, **more)


class Connection:
    """One request to an ASGI application whose answer comes in pieces, and which may be cut: for streams and for clients that go away.

    Run in the application's event loop: ``site.portal.call(...)``, or a loop of one's own with the application's lifespan.
    """

    def __init__(
        self, app: Any, method: str, path: str, headers: dict[str, str], body: Any = None, query: str = ""
    ) -> None:
        self.pieces: asyncio.Queue[str] = asyncio.Queue()
        self.status: int | None = None
        self.text = ""
        self._gone = asyncio.Event()
        self._sent = False
        data = b"" if body is None else json.dumps(body).encode()
        heads = {"host": "testserver", "content-type": "application/json", **{k.lower(): v for k, v in headers.items()}}
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path, "raw_path": path.encode(),
            "query_string": query.encode(), "root_path": "", "scheme": "http", "server": ("testserver", 80), "client": ("test", 1),
            "headers": [(k.encode(), v.encode()) for k, v in heads.items()], "state": {},
        }  # fmt: skip

        async def receive() -> dict[str, Any]:
            if not self._sent:
                self._sent = True
                return {"type": "http.request", "body": data, "more_body": False}
            await self._gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
            elif message.get("body"):
                self.text += message["body"].decode()
                self.pieces.put_nowait(message["body"].decode())

        self.task = asyncio.ensure_future(app(scope, receive, send))

    def cut(self) -> None:
        """The client goes away."""
        self._gone.set()

    async def events(self, count: int) -> list[dict[str, Any]]:
        """The next so many server-sent events with data."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            piece = await asyncio.wait_for(self.pieces.get(), 60)
            found += [json.loads(line[6:]) for line in piece.splitlines() if line.startswith("data: ")]
        return found
