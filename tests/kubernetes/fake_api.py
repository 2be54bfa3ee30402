"""An API server of this process: lists page by page, watches, merge patches with resource versions, status apart from the rest."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

Object = dict[str, Any]


def refusal(code: int, message: str) -> JSONResponse:
    return JSONResponse({"kind": "Status", "status": "Failure", "code": code, "message": message}, code)


def merged(old: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    out = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = merged(out.get(key), value)
    return out


class FakeApi:
    """``put(path, object)`` from tests; ``asked``: (method, path) of every request; ``before_patch`` may change things first."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.events: list[tuple[int, str, str, Object]] = []
        self.version, self.oldest = 100, 0
        self.asked: list[tuple[str, str]] = []
        self.before_patch: Callable[[str], None] | None = None
        self.refused: dict[str, int] = {}
        self.closing = False
        self.lock = threading.RLock()
        self.app = FastAPI()
        self.app.add_api_route("/{path:path}", self.take, methods=["GET", "POST", "PATCH", "DELETE"])

    # --- for tests ------------------------------------------------------------------------------

    def put(self, path: str, found: Object) -> Object:
        with self.lock:
            self.version += 1
            new = deepcopy(found)
            new["metadata"] |= {"resourceVersion": str(self.version)}
            new["metadata"].setdefault("uid", f"uid-{self.version}")
            what = "MODIFIED" if path in self.objects else "ADDED"
            self.objects[path] = new
            self.events.append((self.version, what, path, new))
            return new

    def drop(self, path: str) -> None:
        with self.lock:
            self.version += 1
            gone = self.objects.pop(path)
            gone = gone | {"metadata": gone["metadata"] | {"resourceVersion": str(self.version)}}
            self.events.append((self.version, "DELETED", path, gone))

    def forget_history(self) -> None:
        """What watches ask for from before is gone: 410."""
        with self.lock:
            self.oldest = self.version + 1
            self.version += 1

    # --- requests ------------------------------------------------------------------------------

    async def take(self, path: str, request: Request) -> Response:
        path = f"/{path}"
        self.asked.append((request.method, path))
        if path in self.refused:
            return refusal(self.refused[path], "made up by the test")
        if request.method == "GET":
            return self.get(path, request)
        body = json.loads(await request.body() or b"{}")
        with self.lock:
            if request.method == "PATCH":
                return self.patch(path, body, request)
            if request.method == "POST":
                return self.post(path, body)
            return self.delete(path, body)

    def get(self, path: str, request: Request) -> Response:
        query = request.query_params
        with self.lock:
            if path in self.objects:
                return JSONResponse(self.objects[path])
            if query.get("watch") == "true":
                return StreamingResponse(self.watch(path, int(query["resourceVersion"])), media_type="application/json")
            found = [self.objects[key] for key in sorted(self.objects) if kind_of(key) == kind_of(path, True)]
            if not is_list(path):
                return refusal(404, f"{path} not found")
            begin, limit = int(query.get("continue", 0)), int(query.get("limit", 500))
            about: Object = {"resourceVersion": str(self.version)}
            if begin + limit < len(found):
                about["continue"] = str(begin + limit)
            return JSONResponse({"kind": "List", "metadata": about, "items": found[begin : begin + limit]})

    async def watch(self, path: str, since: int):
        if since < self.oldest:
            error = {"kind": "Status", "code": 410, "message": "too old resource version"}
            yield json.dumps({"type": "ERROR", "object": error}) + "\n"
            return
        at = 0
        while not self.closing and self.oldest <= since:
            with self.lock:
                news, at = self.events[at:], len(self.events)
            for version, what, where, found in news:
                if version > since and kind_of(where) == kind_of(path, True):
                    yield json.dumps({"type": what, "object": found}) + "\n"
            await asyncio.sleep(0.01)

    def patch(self, path: str, body: Object, request: Request) -> Response:
        assert request.headers["content-type"] == "application/merge-patch+json"
        target, status = path.removesuffix("/status"), path.endswith("/status")
        if self.before_patch is not None:
            self.before_patch(target)
        if target not in self.objects:
            return refusal(404, f"{target} not found")
        old = self.objects[target]
        if body["metadata"].get("resourceVersion") not in (None, old["metadata"]["resourceVersion"]):
            return refusal(
                409, "the object has been modified; please apply your changes to the latest version and try again"
            )
        new = merged(old, body)
        kept = {"spec": old.get("spec")} if status else {"status": old["status"]} if "status" in old else {}
        return JSONResponse(self.put(target, new | kept))

    def post(self, path: str, body: Object) -> Response:
        target = f"{path}/{body['metadata']['name']}"
        if target in self.objects:
            return refusal(409, f"{target} already exists")
        return JSONResponse(self.put(target, body | {"status": {"phase": "Pending"}}), 201)

    def delete(self, path: str, body: Object) -> Response:
        if path not in self.objects:
            return refusal(404, f"{path} not found")
        uid = (body.get("preconditions") or {}).get("uid")
        if uid not in (None, self.objects[path]["metadata"]["uid"]):
            return refusal(409, "the UID in the precondition does not match")
        self.drop(path)
        return JSONResponse({"kind": "Status", "status": "Success"})


def is_list(path: str) -> bool:
    return path.rsplit("/", 1)[1] in ("nodes", "pods", "workloads", "admissionchecks", "resourceflavors")


def kind_of(path: str, is_list: bool = False) -> str:
    """``/api/v1/namespaces/a/pods/b`` and ``/api/v1/pods``: pods."""
    parts = path.strip("/").split("/")
    return parts[-1] if is_list else parts[-2]


@contextmanager
def serving(api: FakeApi):
    """Its address, while it is served."""
    config = uvicorn.Config(api.app, port=0, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        api.closing = True
        server.should_exit = True
        thread.join()
