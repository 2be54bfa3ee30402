"""A job or lease as the service keeps it in memory and on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from rltune.service.specs import JobSpec, LeaseSpec
from rltune.simulator.requests import Place, Request

JOB, LEASE = "job", "lease"
WAITING, SUSPENDED, STARTING, RUNNING = "waiting", "suspended", "starting", "running"
DONE, FAILED, CANCELLED = "done", "failed", "cancelled"
OVER = (DONE, FAILED, CANCELLED)


@dataclass(slots=True)
class Record:
    """One job or lease; times in seconds of the service, None where it has not come to that.

    ``number``: runs so far; ``run``: name of the present or last run; ``ran_s``: seconds that ended runs took; ``left``: retries
    left; ``devices``: by machine what the present run sees; ``ended_ranks``: machines on which the present run is over.
    """

    seq: int
    id: str
    kind: str
    tenant: str
    spec: JobSpec | LeaseSpec
    request: Request
    submit_s: float
    known_s: float
    state: str = WAITING
    reason: str = ""
    run: str = ""
    number: int = 0
    places: tuple[Place, ...] = ()
    started_s: float | None = None
    began_s: float | None = None
    ended_s: float | None = None
    code: int | None = None
    ran_s: float = 0.0
    left: int = 0
    expires_s: float | None = None
    devices: dict[str, str] = field(default_factory=dict)
    ended_ranks: set[str] = field(default_factory=set)

    @property
    def over(self) -> bool:
        return self.state in OVER

    @property
    def holds(self) -> bool:
        """Whether it holds GPUs."""
        return self.state in (STARTING, RUNNING)

    def row(self, core: dict[str, Any] | None) -> dict[str, Any]:
        """For the table of jobs; ``core``: of `rltune.simulator.live.LiveCluster.saved`."""
        return {
            "seq": self.seq, "id": self.id, "kind": self.kind, "tenant": self.tenant,
            "spec": self.spec.model_dump_json(exclude_defaults=True), "submit_s": self.submit_s,
            "known_s": None if self.known_s != self.known_s else self.known_s, "state": self.state, "reason": self.reason,
            "run": self.run, "number": self.number, "places": json.dumps(self.places), "started_s": self.started_s,
            "began_s": self.began_s, "ended_s": self.ended_s, "code": self.code, "ran_s": self.ran_s, "left": self.left,
            "expires_s": self.expires_s, "core": None if core is None else json.dumps(core),
        }  # fmt: skip


def record_of(row: Any, request: Request) -> Record:
    """From a row of the table."""
    return Record(
        seq=row["seq"], id=row["id"], kind=row["kind"], tenant=row["tenant"], spec=spec_of(row), request=request,
        submit_s=row["submit_s"], known_s=float("nan") if row["known_s"] is None else row["known_s"], state=row["state"],
        reason=row["reason"], run=row["run"], number=row["number"],
        places=tuple(Place(x[0], tuple(x[1]), x[2], x[3]) for x in json.loads(row["places"])), started_s=row["started_s"],
        began_s=row["began_s"], ended_s=row["ended_s"], code=row["code"], ran_s=row["ran_s"], left=row["left"],
        expires_s=row["expires_s"],
    )  # fmt: skip


def spec_of(row: Any) -> JobSpec | LeaseSpec:
    """What a client sent, as it is kept."""
    kind: Any = JobSpec if row["kind"] == JOB else LeaseSpec
    spec: JobSpec | LeaseSpec = kind.model_validate_json(row["spec"])
    return spec
