"""Clients of the service in the replay: tenants that submit jobs when they are due, and one that acquires and releases leases."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping, Sequence

import numpy as np

from rltune.client.http import Client, ClientError
from rltune.live.stretch import TENANTS, Coming

LEASE_PROFILES = ("1g", "2g", "3g")
HELD_S, PATIENCE_S = 8.0, 3.0
"""Mean time that a lease is held, and how long one is waited for."""
NOT_NOW = 409


class Clients:
    """``submitted``: names of the jobs that were accepted; ``errors``: what was not, a line each."""

    def __init__(self, url: str, tokens: Mapping[str, str], leases_a_minute: float, seed: int) -> None:
        self._url, self._tokens, self._leases = url, tokens, leases_a_minute
        self._rng = np.random.default_rng(seed + 1)
        self.submitted: list[str] = []
        self.errors: list[str] = []
        self.leases = {"acquired": 0, "released": 0, "not in time": 0}
        self.all = 0
        self._threads: list[threading.Thread] = []

    def start(self, jobs: Sequence[Coming], over: threading.Event) -> None:
        """In threads of their own, until all have come or ``over`` is set."""
        self.all = len(jobs)
        self._threads = [threading.Thread(target=self._submit, args=(jobs, over), name="submitting", daemon=True)]
        if self._leases > 0:
            self._threads.append(threading.Thread(target=self._lease, args=(over,), name="leasing", daemon=True))
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _submit(self, jobs: Sequence[Coming], over: threading.Event) -> None:
        clients = {tenant: Client(self._url, self._tokens[tenant]) for tenant in TENANTS}
        begun = time.monotonic()
        for one in jobs:
            if over.wait(max(0.0, begun + one.at_s - time.monotonic())):
                return
            try:
                answer = clients[one.tenant].ask("POST", "/jobs", one.body, key=uuid.uuid4().hex)
                self.submitted += answer["jobs"]
            except ClientError as error:
                self.errors.append(f"a job of {one.tenant}: {error}")

    def _lease(self, over: threading.Event) -> None:
        """One after the other, so that some are held at any time but the cluster is the jobs'."""
        client = Client(self._url, self._tokens[TENANTS[0]])
        while not over.wait(float(self._rng.exponential(60.0 / self._leases))):
            asked = {
                "profile": str(self._rng.choice(LEASE_PROFILES)),
                "wait_s": PATIENCE_S,
                "ttl_s": 60,
                "priority": 10,
            }
            try:
                lease = client.ask("POST", "/leases", asked, wait_s=PATIENCE_S)["id"]
                self.leases["acquired"] += 1
                over.wait(float(self._rng.exponential(HELD_S)))
                client.ask("DELETE", f"/leases/{lease}")
                self.leases["released"] += 1
            except ClientError as error:
                if error.status == NOT_NOW:
                    self.leases["not in time"] += 1
                else:
                    self.errors.append(f"a lease: {error}")
