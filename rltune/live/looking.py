"""What the view shows, asked over HTTP as by any client: the queue and why, the cluster, running jobs, events, counters."""

from __future__ import annotations

import re
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from rltune.client.http import Client, ClientError
from rltune.live.submitting import Clients

WHY, RUNNING = 3, 14
"""Waiting jobs that are asked about, running ones whose progress is read, at each look."""
EVENTS = 10
PROGRESS = re.compile(r"(\d+) %\s*$")


@dataclass(slots=True)
class Picture:
    """One look. ``why``: by job; ``progress``: by job, in per cent; ``counters``: of /metrics, without rltune_."""

    elapsed_s: float
    all_s: float
    speed: float
    cluster: dict[str, Any]
    queue: dict[str, Any]
    why: dict[str, str]
    running: list[dict[str, Any]]
    progress: dict[str, int | None]
    events: list[dict[str, Any]]
    counters: dict[str, float]
    submitted: int
    coming: int
    leases: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


class Look:
    """``picture()``: what is there now; of ``minutes`` so much is over."""

    def __init__(self, client: Client, clients: Clients, all_s: float, speed: float) -> None:
        self._client, self._clients, self._all_s, self._speed = client, clients, all_s, speed
        self._begun = time.monotonic()
        self._since = 0
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS)
        self._progress: dict[str, int | None] = {}

    @property
    def over(self) -> bool:
        return time.monotonic() - self._begun >= self._all_s

    def picture(self) -> Picture:
        ask = self._client.ask
        queue, cluster = ask("GET", "/queue"), ask("GET", "/cluster")
        running = ask("GET", "/jobs", state="running", limit=200)["items"]
        self._news()
        clients = self._clients
        return Picture(
            time.monotonic() - self._begun, self._all_s, self._speed, cluster, queue,
            {one["id"]: self._why(one["id"]) for one in queue["first"][:WHY]}, running, self._of(running[:RUNNING]), list(self._events),
            counters(self._client), len(clients.submitted), clients.all, dict(clients.leases), list(clients.errors),
        )  # fmt: skip

    def _why(self, job: str) -> str:
        try:
            return str(self._client.ask("GET", f"/jobs/{job}/why")["reasons"][0])
        except ClientError as error:
            # It may have gone since the queue was read.
            return "" if error.status == 404 else str(error)

    def _of(self, jobs: list[dict[str, Any]]) -> dict[str, int | None]:
        now: dict[str, int | None] = {}
        for job in jobs:
            try:
                tail = self._client.ask("GET", f"/jobs/{job['id']}/logs", tail=40)
            except ClientError:
                tail = ""
            found = PROGRESS.search(tail if isinstance(tail, str) else "")
            now[job["id"]] = int(found[1]) if found else self._progress.get(job["id"])
        self._progress = now
        return now

    def _news(self) -> None:
        while True:
            page = self._client.ask("GET", "/events", since=self._since, follow="false")
            self._events.extend(page["items"])
            if page["next"] == self._since:
                return
            self._since = page["next"]


def counters(client: Client) -> dict[str, float]:
    """Samples of /metrics that have no labels."""
    samples = (one for family in text_string_to_metric_families(client.root("/metrics")) for one in family.samples)
    return {one.name.removeprefix("rltune_").removesuffix("_total"): one.value for one in samples if not one.labels}
