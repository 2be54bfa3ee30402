"""Round every request: for this service and from its own pages, not too large, counted, answered with headers that browsers need."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rltune.pages.serving import HEADERS, foreign_host, foreign_origin
from rltune.service.errors import Refused
from rltune.service.web.answers import error_answer

Seen = Callable[[str, str, int, float], None]
"""Method, route, status and seconds of an answered request."""


class Guard:
    """See the module. ``most_body``: bytes; ``hosts``: names that the service is asked by, None: any."""

    def __init__(self, app: ASGIApp, most_body: int, hosts: tuple[str, ...] | None, seen: Seen) -> None:
        self.app, self.most_body, self.hosts, self.seen = app, most_body, hosts, seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 500

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        try:
            refused = self._refused(scope)
            if refused is not None:
                await error_answer(refused.status, refused.message)(scope, receive, answered)
            else:
                await self.app(scope, self._limited(receive), answered)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            self.seen(
                scope["method"] if scope["method"] in METHODS else "OTHER", route, status, time.perf_counter() - begun
            )

    def _refused(self, scope: Scope) -> Refused | None:
        """What can be refused by the headers alone."""
        given = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = given.get(b"host", "")
        if self.hosts is not None and foreign_host(host, self.hosts):
            return Refused(400, f"Host {host[:100]!r} is not this service; ask it by {' or '.join(self.hosts)}")
        origin = given.get(b"origin")
        if origin is not None and foreign_origin(origin, host):
            return Refused(403, f"Origin {origin[:100]!r} is another site; the service answers its own pages only")
        length = given.get(b"content-length", "")
        if length and (not length.isdecimal() or int(length[:20]) > self.most_body):
            return self._too_large()
        return None

    def _too_large(self) -> Refused:
        return Refused(413, f"a body of more than {self.most_body:,} bytes; split the request")

    def _limited(self, receive: Receive) -> Receive:
        """Bodies without a length are counted as they come."""
        came = 0

        async def limited() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > self.most_body:
                raise self._too_large()
            return message

        return limited


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
