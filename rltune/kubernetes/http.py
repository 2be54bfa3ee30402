"""The API server by HTTP: lists, watches, patches; what a resource version is good for is kept in one place.

Of a client library only these few calls would be used, and the watch is where they differ most from what we need: `Cache` is a list
that a watch keeps up to date, begun anew where the server has forgotten its resource version (410 Gone).
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from rltune.nouns.errors import InputError

POD_FILES = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PAGE = 500
WATCH_S = 300
"""After so long the server ends a watch, and it is begun again where it was."""
CONFLICTS = 5
PAUSE_S = 1.0
MERGE = "application/merge-patch+json"
Object = dict[str, Any]


class ApiError(Exception):
    """What the server refuses; ``status`` of HTTP, 0: it was not reached."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """``Api(server, token, ca)``; all None: from within a pod. InputError where there is no cluster to be found."""

    def __init__(
        self,
        server: str | None = None,
        token: str | None = None,
        ca: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        inside = server is None
        if server is None:
            host, port = (os.environ.get(f"KUBERNETES_SERVICE_{name}") for name in ("HOST", "PORT"))
            if not host:
                raise InputError(
                    "this is no pod of a cluster; run kubectl proxy and give server=http://127.0.0.1:8001, or server=, token= and ca="
                )
            server = f"https://[{host}]:{port or 443}" if ":" in host else f"https://{host}:{port or 443}"
        self.server, self._token = server.rstrip("/"), Path(token) if token else POD_FILES / "token" if inside else None
        verify: Any = ca or (str(POD_FILES / "ca.crt") if inside else True)
        self._http = httpx.Client(
            base_url=self.server, timeout=30.0, verify=verify, transport=transport, trust_env=False
        )

    def ask(self, method: str, path: str, body: Any = None, kind: str = "application/json", **query: Any) -> Object:
        """The answer; `ApiError` for a refusal."""
        content = None if body is None else json.dumps(body)
        try:
            answer = self._http.request(
                method, path, content=content, params=query, headers=self._headers() | {"Content-Type": kind}
            )
        except httpx.HTTPError as error:
            raise ApiError(f"{self.server} does not answer ({type(error).__name__}: {error})") from None
        if not answer.is_success:
            raise ApiError(f"{method} {path}: {_reason(answer)}", answer.status_code)
        found: Object = answer.json()
        return found

    def _headers(self) -> dict[str, str]:
        # Read at each request: the tokens of pods are renewed.
        if self._token is None:
            return {}
        try:
            return {"Authorization": f"Bearer {self._token.read_text().strip()}"}
        except OSError as error:
            raise ApiError(f"{self._token}: cannot be read ({error.strerror})") from None

    def listed(self, path: str) -> tuple[list[Object], str]:
        """All objects, page by page, and the resource version that they are of."""
        items: list[Object] = []
        more: dict[str, Any] = {}
        while True:
            page = self.ask("GET", path, limit=PAGE, **more)
            items += page.get("items") or []
            about = page.get("metadata") or {}
            if not about.get("continue"):
                return items, str(about.get("resourceVersion", ""))
            more = {"continue": about["continue"]}

    def watched(self, path: str, version: str, take: Callable[[str, Object], bool]) -> None:
        """Hand events (type, object) over until the server ends the stream or ``take`` says False. `ApiError` 410: list again."""
        query: dict[str, Any] = {
            "watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true", "timeoutSeconds": WATCH_S,
        }  # fmt: skip
        try:
            with self._http.stream(
                "GET", path, params=query, headers=self._headers(), timeout=httpx.Timeout(30.0, read=WATCH_S + 30.0)
            ) as answer:
                if not answer.is_success:
                    answer.read()
                    raise ApiError(f"watch {path}: {_reason(answer)}", answer.status_code)
                for line in answer.iter_lines():
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        told = event["object"]
                        raise ApiError(f"watch {path}: {told.get('message')}", int(told.get("code") or 500))
                    if not take(event["type"], event["object"]):
                        return
        except httpx.HTTPError as error:
            raise ApiError(f"{self.server} does not answer ({type(error).__name__})") from None

    def change(self, path: str, seen: Object, make: Callable[[Object], Object | None], status: bool = False) -> bool:
        """Patch an object as ``make`` says of it as it is now; whether there was anything to change.

        The patch bears the resource version that ``make`` has seen. Where somebody was faster (409), the object is read again and
        ``make`` asked again. One that is gone needs nothing.
        """
        now = seen
        for _ in range(CONFLICTS):
            body = make(now)
            if body is None:
                return False
            about = {**body.get("metadata", {}), "resourceVersion": now["metadata"]["resourceVersion"]}
            try:
                self.ask("PATCH", f"{path}/status" if status else path, body | {"metadata": about}, MERGE)
                return True
            except ApiError as error:
                if error.status == 404:
                    return False
                if error.status != 409:
                    raise
            try:
                now = self.ask("GET", path)
            except ApiError as error:
                if error.status == 404:
                    return False
                raise
        raise ApiError(f"{path}: others changed it {CONFLICTS} times meanwhile", 409)


def _reason(answer: httpx.Response) -> str:
    try:
        return str(answer.json().get("message") or answer.status_code)
    except (ValueError, AttributeError):
        return f"{answer.status_code} {answer.text[:200]}"


@dataclass(frozen=True, slots=True)
class Resource:
    """``path``: of the whole cluster; ``of``: of one object, by namespace and name."""

    path: str
    of: str

    def one(self, found: Mapping[str, Any]) -> str:
        about = found["metadata"]
        return self.of.format(namespace=about.get("namespace", ""), name=about["name"])


class Cache:
    """Objects of a resource by (namespace, name), as the server has them; ``changed`` is set when they change."""

    def __init__(self, api: Api, resource: Resource, changed: threading.Event) -> None:
        self.resource, self.error = resource, ""
        self._api, self._changed = api, changed
        self._objects: dict[tuple[str, str], Object] = {}
        self._version, self._lock, self._over = "", threading.Lock(), threading.Event()

    def begin(self) -> None:
        """List, then keep watching in a thread. `ApiError` where the list is refused."""
        self.list()
        threading.Thread(target=self._watch, name=f"watching {self.resource.path}", daemon=True).start()

    def end(self) -> None:
        self._over.set()

    @property
    def objects(self) -> list[Object]:
        with self._lock:
            return list(self._objects.values())

    def list(self) -> None:
        items, version = self._api.listed(self.resource.path)
        with self._lock:
            self._objects, self._version = {key_of(one): one for one in items}, version
        self._changed.set()

    def _watch(self) -> None:
        while not self._over.is_set():
            try:
                self._api.watched(self.resource.path, self._version, self.take)
                self.error = ""
            except ApiError as error:
                self.error = str(error)
                if error.status == 410:
                    self._again()
                else:
                    self._over.wait(PAUSE_S)

    def _again(self) -> None:
        try:
            self.list()
        except ApiError as error:
            self.error = str(error)
            self._over.wait(PAUSE_S)

    def take(self, what: str, found: Object) -> bool:
        """One event of the watch; whether to go on."""
        with self._lock:
            self._version = str(found["metadata"]["resourceVersion"])
            if what == "DELETED":
                self._objects.pop(key_of(found), None)
            elif what != "BOOKMARK":
                self._objects[key_of(found)] = found
        if what != "BOOKMARK":
            self._changed.set()
        return not self._over.is_set()


def key_of(found: Mapping[str, Any]) -> tuple[str, str]:
    about = found["metadata"]
    return about.get("namespace", ""), about["name"]
