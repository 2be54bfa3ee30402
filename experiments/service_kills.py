"""Kills of the service under load: ``python experiments/service_kills.py [--kills 300]``.

The service runs with simulated MIG GPUs and real processes (``device=simulated``, cluster ``live``), on one state directory throughout.
Two clients submit jobs and acquire and release leases without pause, every request with an idempotency key of its own that is sent
again until it is answered. At random moments, 0 to 2 s after it answers, the service gets SIGKILL and is begun again. After each start
it is asked what it has, and in the end everything is counted (full disks, device errors and lost nodes: service_faults.py):

- lost: accepted (answered) requests of which the service knows nothing, or jobs that never end;
- doubled: keys that made two jobs, jobs that ran twice at once or after they had ended with status 0 (each run writes a line);
- shared: MIG slices or GPUs held by two at once, by the service's own list and by the devices' instances;
- broken: leases or running jobs that were there before a kill and are not after it, unless they ended.

Writes the part "kills" of results/service.json and results/service_kills.md.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
from recording import write_part, write_text

JOB = (
    "import os,sys,time\n"
    "f=open(sys.argv[1],'a'); f.write('begin %s %s\\n' % (os.environ['RLTUNE_JOB'], os.getpid())); f.flush()\n"
    "time.sleep(float(sys.argv[2]))\n"
    "f.write('end %s %s\\n' % (os.environ['RLTUNE_JOB'], os.getpid())); f.flush()\n"
)
PATIENCE_S = 600.0
PORT = 18_471
"""Below those that the system gives to others: a service that was killed must find it free."""


class Service:
    """The service's process, begun again and again on the same state and port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.url = folder, PORT, ""
        self.token = ""
        self.process: subprocess.Popen[str] | None = None
        self.http = httpx.Client(timeout=60)

    def begin(self) -> float:
        """Seconds until it answers."""
        begun = time.monotonic()
        log = (self.folder / "service.log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rltune.serve", "device=simulated", "cluster=live", "pace=0", f"state={self.folder / 'state'}",
             f"port={self.port}", "rate=0", "as_service=true", "policy=fifo", "backfill=skip", "allocator=best_fit"],
            stdout=log, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        while time.monotonic() < begun + PATIENCE_S:
            text = (self.folder / "service.log").read_text()
            if found := re.search(r"^address\s+(\S+)", text, re.M):
                self.url = found[1]
                self.port = int(self.url.rpartition(":")[2])
                if not self.token:
                    self.token = (self.folder / "state" / "operator.token").read_text().strip()
                if self.answers():
                    return time.monotonic() - begun
            if self.process.poll() is not None:
                raise SystemExit(f"the service did not begin again:\n{text}")
            time.sleep(0.1)
        raise SystemExit("the service did not begin in time")

    def answers(self) -> bool:
        try:
            return self.http.get(f"{self.url}/ready", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"} | more.pop("headers", {})
        return self.http.request(method, f"{self.url}{path}", headers=headers, **more)

    def all(self, path: str) -> list[dict[str, Any]]:
        """All pages of a list."""
        out: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page = self.ask(
                "GET", f"{path}{'&' if '?' in path else '?'}limit=500{f'&cursor={cursor}' if cursor else ''}"
            ).json()
            found = next(value for value in page.values() if isinstance(value, list))
            out += found
            cursor = page.get("next") or page.get("cursor") or ""
            if not cursor or not found:
                return out


class Client(threading.Thread):
    """Submits, acquires and releases; each request again under its key until it is answered."""

    def __init__(self, service: Service, lines: Path, seed: int) -> None:
        super().__init__(daemon=True)
        self.service, self.lines, self.rng = service, lines, random.Random(seed)
        self.accepted: dict[str, str] = {}
        self.again: list[str] = []
        self.leases: list[str] = []
        self.released: set[str] = set()
        self.going, self.refused = True, collections.Counter[str]()

    def run(self) -> None:
        while self.going:
            if self.rng.random() < 0.75:
                self.submit()
            elif len(self.leases) > 2:
                lease = self.leases.pop(0)
                self.send("DELETE", f"/v1/leases/{lease}", None, None)
                self.released.add(lease)
            else:
                self.acquire()
            time.sleep(self.rng.uniform(0.0, 0.1))

    def submit(self) -> None:
        what: dict[str, Any] = (
            {"gpus": self.rng.choice([1, 1, 2, 4])}
            if self.rng.random() < 0.5
            else {"profile": self.rng.choice(["1g", "2g", "3g"])}
        )
        argv = [sys.executable, "-I", "-S", "-c", JOB, str(self.lines), f"{self.rng.uniform(0.05, 2.0):.2f}"]
        key = uuid.uuid4().hex
        answer = self.send("POST", "/v1/jobs", {"command": argv, **what}, key)
        if answer is not None:
            (self.accepted[key],) = answer["jobs"]
            if self.rng.random() < 0.2:
                twice = self.send("POST", "/v1/jobs", {"command": argv, **what}, key)
                if twice is not None and twice["jobs"] != [self.accepted[key]]:
                    self.again.append(key)

    def acquire(self) -> None:
        answer = self.send(
            "POST", "/v1/leases", {"profile": self.rng.choice(["1g", "2g"]), "wait_s": 1}, uuid.uuid4().hex
        )
        if answer is not None:
            self.leases.append(answer["id"])

    def send(self, method: str, path: str, body: Any, key: str | None) -> Any:
        """The answer; None where it was refused for good."""
        headers = {"Idempotency-Key": key} if key else {}
        while self.going:
            try:
                answer = self.service.ask(method, path, json=body, headers=headers)
            except httpx.HTTPError:
                time.sleep(0.05)
                continue
            if answer.status_code in (429, 503):
                time.sleep(0.1)
                continue
            if answer.status_code >= 400:
                self.refused[f"{answer.status_code} {answer.json().get('error', '')[:60]}"] += 1
                return None
            return answer.json() if answer.content else {}
        return None


def held_twice(service: Service) -> int:
    """GPUs or slices that two hold, by the service's list of who holds what."""
    seen: collections.Counter[Any] = collections.Counter()
    for one in [*service.all("/v1/jobs?state=running"), *service.all("/v1/leases?state=running")]:
        devices = one.get("devices") or {}
        for machine, told in devices.items():
            for device in told if isinstance(told, list) else str(told).split(","):
                if device:
                    seen[machine, device] += 1
    return sum(count - 1 for count in seen.values() if count > 1)


def ran(lines: Path) -> tuple[int, int]:
    """Runs that overlapped another of their job, and jobs that ran again after a run that went to its end."""
    open_: dict[str, int] = {}
    ended: set[str] = set()
    overlaps, again = 0, 0
    for line in lines.read_text().splitlines():
        what, job, pid = line.split()
        if what == "begin":
            again += job in ended
            overlaps += job in open_ and alive_then(open_[job])
            open_[job] = int(pid)
        else:
            ended.add(job)
            open_.pop(job, None)
    return overlaps, again


def alive_then(pid: int) -> bool:
    """Whether a process that never wrote its end is still there: then two ran at once."""
    return Path(f"/proc/{pid}").exists()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument(
        "--minutes", type=float, default=600.0, help="stop killing after so long; the count says how often it was"
    )
    given = parser.parse_args()
    kills, until_s = given.kills, time.monotonic() + 60 * given.minutes
    rng = random.Random(1)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        lines = folder / "runs.txt"
        lines.touch()
        service = Service(folder)
        begin_s = [service.begin()]
        clients = [Client(service, lines, seed) for seed in (1, 2)]
        for client in clients:
            client.start()
        shared, broken, states = 0, 0, collections.Counter[str]()
        for k in range(kills):
            if time.monotonic() > until_s:
                kills = k
                break
            time.sleep(rng.uniform(0.0, 2.0))
            before = running(service)
            service.kill()
            begin_s.append(service.begin())
            after = {one["id"]: one["state"] for one in [*service.all("/v1/jobs"), *service.all("/v1/leases")]}
            broken += sum(job not in after for job in before)
            shared += held_twice(service)
            if k % 10 == 9:
                print(
                    f"{k + 1} kills, {sum(len(c.accepted) for c in clients)} accepted, {shared} shared, {broken} broken",
                    flush=True,
                )
        for client in clients:
            client.going = False
            client.join(120)
        for client in clients:
            for lease in client.leases:
                service.ask("DELETE", f"/v1/leases/{lease}")
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until and (
            waiting := [x for x in service.all("/v1/jobs") if x["state"] not in ("done", "failed", "cancelled")]
        ):
            time.sleep(0.5)
        jobs = {one["id"]: one for one in service.all("/v1/jobs")}
        accepted = {job for client in clients for job in client.accepted.values()}
        for job in accepted & jobs.keys():
            states[jobs[job]["state"]] += 1
        overlaps, again = ran(lines)
        made = collections.Counter(job for client in clients for job in client.accepted.values())
        found = {
            "count": kills, "accepted": len(accepted), "lost": len(accepted - jobs.keys()) + len(waiting),
            "doubled": sum(n - 1 for n in made.values()) + sum(len(c.again) for c in clients) + overlaps + again,
            "shared": shared, "broken": broken, "states": dict(states),
            "refused": dict(sum((c.refused for c in clients), collections.Counter())),
            "begin_s": {"median": sorted(begin_s)[len(begin_s) // 2], "most": max(begin_s)},
        }  # fmt: skip
        service.kill()
        end_all(folder)
    print(json.dumps(found, indent=1))
    record(found)


def running(service: Service) -> list[str]:
    """Jobs and leases that hold GPUs now."""
    try:
        return [
            one["id"] for path in ("/v1/jobs?state=running", "/v1/leases?state=running") for one in service.all(path)
        ]
    except httpx.HTTPError:
        return []


def end_all(folder: Path) -> None:
    """Processes of runs that are left."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if str(folder) in Path(f"/proc/{pid}/cmdline").read_text() and int(pid) != os.getpid():
                os.kill(int(pid), signal.SIGKILL)
        except OSError:
            continue


def record(found: dict[str, Any]) -> None:
    part = write_part("kills", found)
    lines = ["| what | count |", "|---|---|"]
    lines += [f"| {name} | {json.dumps(value)} |" for name, value in part.items()]
    write_text("service_kills", "The service killed under load", __doc__, lines)


if __name__ == "__main__":
    main()
