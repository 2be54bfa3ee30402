"""The line protocol of `rltune.mig serve`, answered by the live service: ``acquire user-1 3g`` -> ``0 5 MIG-...``.

GPU number (over all nodes), number of its partition, device for CUDA_VISIBLE_DEVICES; ``release user-1`` -> ``released 1``.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any, TextIO
from urllib.parse import quote

from rltune.client.http import Client, ClientError

LONGEST_LINE = 4096
ACCEPTED = "accepted are: acquire TENANT PROFILE [REQUEST], release TENANT [REQUEST]"
"""As in `rltune.mig.online.lines`, which would load the fleet's tables."""


class Lines:
    """Answers lines of the protocol; leases are found again by tenant and name, also those of an earlier client."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def answer(self, line: str) -> str:
        """The answer to one line; one that begins with ``error:`` has changed nothing."""
        words = line.split()
        if len(line) > LONGEST_LINE:
            return f"error: a line of more than {LONGEST_LINE:,} characters; {ACCEPTED}"
        try:
            if words[:1] == ["acquire"] and len(words) in (3, 4):
                return self._acquire(words[1], words[2], words[3] if words[3:] else None)
            if words[:1] == ["release"] and len(words) in (2, 3):
                return self._release(words[1], words[2] if words[2:] else None)
        except ClientError as error:
            return f"error: {' '.join(str(error).split())}"
        return f"error: {line.strip()[:100]!r} is no request; {ACCEPTED}"

    def _held(self, tenant: str) -> list[dict[str, Any]]:
        return list(self._client.pages("/leases", tenant=tenant, state="alive"))

    def _acquire(self, tenant: str, profile: str, request: str | None) -> str:
        if any(each["spec"].get("name") == request for each in self._held(tenant)):
            named = f"request {request}" if request else "a lease"
            raise ClientError(f"tenant {tenant} has {named} already; release it, or name another request")
        spec = {"profile": profile, **({"name": request} if request else {})}
        lease = self._client.ask("POST", "/leases", spec, key=uuid.uuid4().hex, tenant=tenant)
        place = lease["places"][0]
        node = self._client.ask("GET", "/cluster", node=place["node"])["nodes"][0]
        gpu = next(each for each in node["gpus"] if each["gpu"] == place["gpus"][0])
        number = node["first_gpu"] + node["gpus"].index(gpu)
        return f"{number} {gpu['configuration']} {' '.join(lease['devices'].values())}".rstrip()

    def _release(self, tenant: str, request: str | None) -> str:
        mine = [each for each in self._held(tenant) if request is None or each["spec"].get("name") == request]
        if not mine:
            named = f"request {request}" if request else "nothing"
            raise ClientError(f"tenant {tenant} holds {named if request is None else f'no {named}'}; acquire first")
        for each in mine:
            self._client.ask("DELETE", f"/leases/{quote(each['id'])}")
        return f"released {len(mine)}"


def serve_lines(answering: Lines, asked: Iterable[str], out: TextIO) -> None:
    """Answer each line at once; empty ones are passed over."""
    for line in asked:
        if line.strip():
            out.write(f"{answering.answer(line)}\n")
            out.flush()
