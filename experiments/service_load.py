"""The service under load: ``python experiments/service_load.py [--minutes 10]``.

One service (``device=virtual``, cluster ``mixed`` with 156 nodes, 1,000 GPUs, tokens, disk writes as always) and one client
process on this machine. The client sends 200 requests a second at even times, whatever the answers take (open loop): half of them
submissions of short jobs (``sleep``), of the rest status, lists, cancellations, leases acquired and released. Latency counts from
the moment a request was due. Then the rate is raised step by step until the 99th percentile passes a second or requests fail.
Memory is read each minute.
Writes the part "load" of results/service.json and results/service_load.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from recording import write_part, write_text

NODES = 156
RATE = 200.0
STEPS = (250, 300, 400, 500, 600, 800, 1000)
STEP_S = 20.0
EXPECTED = (404, 409)
"""What is no failure: no slice free now, or a lease that is over."""


class Service:
    """The service as a process; ``url``, ``token``, ``pid``."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.log = (folder / "service.log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rltune.serve", "device=virtual", "cluster=mixed", f"cluster.nodes={NODES}",
             f"state={folder / 'state'}", "port=0",
             "rate=0", "burst=100000", "as_service=true", "policy=fifo", "backfill=easy", *options],
            stdout=self.log, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.pid = self.process.pid
        until = time.monotonic() + 600
        while time.monotonic() < until:
            text = (folder / "service.log").read_text()
            if found := re.search(r"^address\s+(\S+)", text, re.M):
                self.url = found[1]
                token = re.search(r"^token\s+(\S+)", text, re.M)
                self.token = Path(token[1]).read_text().strip() if token and Path(token[1]).exists() else ""
                return
            if self.process.poll() is not None:
                raise SystemExit(text)
            time.sleep(0.2)
        raise SystemExit("the service did not begin")

    def memory_mb(self) -> float:
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


class Client:
    """Sends requests at given times; ``took`` seconds each, ``failed`` those that were refused or not answered."""

    def __init__(self, url: str, token: str) -> None:
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
        self.http = httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30.0, limits=limits
        )
        self.took: list[float] = []
        self.failed: list[str] = []
        self.jobs: list[str] = []
        self.leases: list[str] = []
        self.rng = random.Random(0)

    async def one(self, due: float) -> None:
        """A request of some kind."""
        method, path, body = self.choose()
        try:
            answer = await self.http.request(method, path, json=body)
            if answer.status_code >= 400 and answer.status_code not in EXPECTED:
                self.failed.append(f"{answer.status_code} {answer.text[:100]}")
            elif method == "POST" and answer.status_code < 300:
                self.note(path, answer.json())
        except httpx.HTTPError as error:
            self.failed.append(f"{type(error).__name__} {method} {path}")
        self.took.append(time.monotonic() - due)

    def choose(self) -> tuple[str, str, Any]:
        draw = self.rng.random()
        if draw < 0.5 or not self.jobs:
            gpus = self.rng.choice([1, 1, 1, 2, 4, 8])
            return (
                "POST",
                "/v1/jobs",
                {"command": ["sleep", f"{self.rng.uniform(1, 20):.2f}"], "gpus": gpus, "estimate_s": 20},
            )
        if draw < 0.7:
            return "GET", f"/v1/jobs/{self.rng.choice(self.jobs[-2000:])}", None
        if draw < 0.8:
            return "GET", "/v1/jobs?limit=20", None
        if draw < 0.86:
            return "DELETE", f"/v1/jobs/{self.rng.choice(self.jobs[-200:])}", None
        if draw < 0.93 or not self.leases:
            return "POST", "/v1/leases", {"profile": self.rng.choice(["1g", "2g", "3g"]), "ttl_s": 60, "wait_s": 0}
        return "DELETE", f"/v1/leases/{self.leases.pop(0)}", None

    def note(self, path: str, answer: Any) -> None:
        if path == "/v1/leases":
            self.leases.append(answer["id"])
        else:
            self.jobs += answer["jobs"]

    async def run(self, rate: float, seconds: float, each_minute: Any = None) -> dict[str, Any]:
        """Requests at an even rate; what they took."""
        self.took, self.failed = [], []
        begun, tasks, n, minute = time.monotonic(), set(), 0, 1
        while (due := begun + n / rate) < begun + seconds:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self.one(due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            n += 1
            if each_minute is not None and time.monotonic() > begun + 60 * minute:
                each_minute(minute)
                minute += 1
        if tasks:
            await asyncio.wait(tasks, timeout=60)
        ms = 1000 * np.array(self.took)
        return {
            "rate": rate, "requests": n, "answered": len(ms), "failed": len(self.failed) + n - len(ms), "failures": self.failed[:5],
            "p50_ms": float(np.percentile(ms, 50)), "p95_ms": float(np.percentile(ms, 95)), "p99_ms": float(np.percentile(ms, 99)),
            "max_ms": float(ms.max()),
        }  # fmt: skip


async def measure(service: Service, minutes: float) -> dict[str, Any]:
    client = Client(service.url, service.token)
    await client.run(50, 5)
    memory = [service.memory_mb()]
    load = os.getloadavg()[0]
    main = await client.run(RATE, 60 * minutes, lambda minute: memory.append(service.memory_mb()))
    print(json.dumps(main), flush=True)
    memory.append(service.memory_mb())
    steps, held = [], RATE if main["failed"] == 0 and main["p99_ms"] < 1000 else 0.0
    for rate in STEPS:
        step = await client.run(float(rate), STEP_S)
        steps.append(step)
        print(json.dumps(step), flush=True)
        if step["failed"] or step["p99_ms"] > 1000:
            break
        held = float(rate)
    return main | {
        "highest_rate": held,
        "minutes": minutes,
        "steps": steps,
        "memory_mb": [round(x) for x in memory],
        "load_average": load,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10.0)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder))
        try:
            found = asyncio.run(measure(service, minutes))
        finally:
            service.stop()
    record(found)


def record(found: dict[str, Any]) -> None:
    write_part("load", found)
    lines = ["| requests/s | requests | failed | p50 ms | p95 ms | p99 ms |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {r['rate']:g} | {r['requests']:,} | {r['failed']} | {r['p50_ms']:.1f} | {r['p95_ms']:.1f} | {r['p99_ms']:.1f} |"
        for r in [found, *found["steps"]]
    ]
    lines += [
        "", f"First row: {found['minutes']:g} minutes; then {STEP_S:g} s each. Highest rate held: {found['highest_rate']:g} a second.",
        f"Memory of the service, MB, each minute: {', '.join(map(str, found['memory_mb']))}.",
        f"Client and service ran on this machine; its load average at the begin was {found['load_average']:.1f}.",
    ]  # fmt: skip
    write_text("service_load", "The service under load", __doc__, lines)


if __name__ == "__main__":
    main()
