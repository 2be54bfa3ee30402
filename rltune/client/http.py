"""Requests to the live service, repeated where that does no harm."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import httpx

PATIENCE_S = 30.0
TRIES, PAUSE_S = 5, 0.5
"""Of a request that may be repeated, while the service is being started anew."""


class ClientError(Exception):
    """What the service, or the way to it, refuses; ``status`` of HTTP, 0: it was not reached."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """``Client(url, token)``: one service. ``transport``: of httpx, for tests."""

    def __init__(
        self, url: str, token: str | None, ca: str | None = None, transport: httpx.BaseTransport | None = None
    ) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.url = url
        self._http = httpx.Client(
            base_url=f"{url.rstrip('/')}/v1",
            headers=headers,
            timeout=PATIENCE_S,
            verify=ca or True,
            transport=transport,
            trust_env=False,
        )

    def ask(
        self, method: str, path: str, body: Any = None, wait_s: float = 0.0, key: str | None = None, **query: Any
    ) -> Any:
        """The answer as plain values; `ClientError` for one that refuses. With a ``key`` it is repeated until it is answered."""
        asked = {name: value for name, value in query.items() if value is not None}
        headers = {"Idempotency-Key": key} if key else {}
        repeatable = key is not None or method in ("GET", "DELETE")
        for left in reversed(range(TRIES if repeatable else 1)):
            try:
                answer = self._http.request(
                    method, path, json=body, params=asked, headers=headers, timeout=PATIENCE_S + wait_s
                )
            except httpx.HTTPError as error:
                if left and isinstance(error, httpx.TransportError):
                    time.sleep(PAUSE_S)
                    continue
                raise ClientError(
                    f"{self.url} does not answer ({type(error).__name__}: {error}); is rltune.serve running there?"
                ) from None
            if answer.status_code in (429, 503) and left:
                time.sleep(PAUSE_S)
                continue
            return self._told(answer)
        raise AssertionError("the last try answers or raises")

    def _told(self, answer: httpx.Response) -> Any:
        kind = answer.headers.get("content-type", "")
        told = answer.json() if kind.startswith("application/json") else answer.text
        if answer.is_success:
            return told
        raise ClientError(
            told.get("error", str(told)) if isinstance(told, dict) else f"{answer.status_code}: {told[:200]}",
            answer.status_code,
        )

    def root(self, path: str) -> Any:
        """What stands beside /v1: /metrics, /health, /ready."""
        try:
            return self._told(self._http.get(f"{self.url.rstrip('/')}{path}"))
        except httpx.HTTPError as error:
            raise ClientError(
                f"{self.url} does not answer ({type(error).__name__}); is rltune.serve running there?"
            ) from None

    def pages(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """All entries of a list, page after page."""
        cursor = None
        while True:
            page = self.ask("GET", path, cursor=cursor, **query)
            yield from page["items"]
            cursor = page["next"]
            if cursor is None:
                return

    def events(self, path: str, **query: Any) -> Iterator[tuple[str, str]]:
        """(type, data) of server-sent events, until the service ends them. A lost connection goes on where it was."""
        last: str | None = None
        while True:
            asked = {name: value for name, value in query.items() if value is not None}
            headers = {"Last-Event-ID": last} if last else {}
            try:
                with self._http.stream(
                    "GET", path, params=asked, headers=headers, timeout=httpx.Timeout(PATIENCE_S, read=60.0)
                ) as answer:
                    if not answer.is_success:
                        answer.read()
                        self._told(answer)
                    for what, data, number in _parsed(answer.iter_lines()):
                        last = number or last
                        yield what, data
                    return
            except httpx.TransportError as error:
                if last is None:
                    raise ClientError(
                        f"{self.url} does not answer ({type(error).__name__}); is rltune.serve running there?"
                    ) from None
                time.sleep(PAUSE_S)


def _parsed(lines: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    what, data, number = "message", "", ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            what = value
        elif name == "data":
            data += value
        elif name == "id":
            number = value
        elif not line and data:
            yield what, data, number
            what, data = "message", ""
