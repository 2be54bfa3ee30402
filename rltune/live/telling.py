"""How the replay ended: what became of the jobs, what the devices did, and whether anything was refused or lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from rltune.client.http import Client
from rltune.client.show import table
from rltune.devices.journal import COMMITTED, Transaction
from rltune.live.looking import Picture
from rltune.live.submitting import Clients


@dataclass(frozen=True, slots=True)
class Totals:
    """``states``: submitted jobs by what they were at the end; ``lost``: those that the service does not know, and lost runs."""

    submitted: int
    started: int
    states: dict[str, int]
    suspended: int
    refused: int
    lost: int
    mean_wait_s: float
    leases: dict[str, int]
    errors: list[str]
    first_picture_s: float

    @classmethod
    def of(cls, client: Client, clients: Clients, last: Picture, first_picture_s: float) -> Totals:
        """Every job that was accepted is looked for; then those that are alive are cancelled."""
        jobs = {one["id"]: one for one in client.pages("/jobs", limit=500)}
        mine = [jobs[name] for name in clients.submitted if name in jobs]
        waits = [one["start_s"] - one["submit_s"] for one in mine if one["start_s"] is not None]
        for one in mine:
            if one["end_s"] is None:
                client.ask("DELETE", f"/jobs/{one['id']}")
        return cls(
            len(clients.submitted), len(waits), dict(Counter(one["state"] for one in mine)),
            int(last.counters["suspended"]), int(last.counters["refused_by_device"]),
            int(last.counters["lost"]) + len(clients.submitted) - len(mine),
            sum(waits) / len(waits) if waits else float("nan"), dict(clients.leases), list(clients.errors), first_picture_s,
        )  # fmt: skip

    @property
    def good(self) -> bool:
        """Whether nothing was refused, lost or failed."""
        return not (self.refused or self.lost or self.errors or self.states.get("failed"))


def instances(transactions: Iterable[Transaction]) -> tuple[int, int]:
    """MIG instances that were created and destroyed, by the devices' own journals."""
    created = destroyed = 0
    for one in transactions:
        if one.outcome != COMMITTED:
            continue
        for gpu, before in one.before.items():
            old, new = set(before.instances), set(one.after[gpu].instances)
            created, destroyed = created + len(new - old), destroyed + len(old - new)
    return created, destroyed


def conclude(totals: Totals, transactions: Iterable[Transaction]) -> int:
    """Print the table; the exit status."""
    created, destroyed = instances(transactions)
    states = totals.states
    alive = {name: count for name, count in states.items() if name not in ("done", "failed", "cancelled")}
    rows = [
        ("jobs submitted", str(totals.submitted)),
        ("jobs started", str(totals.started)),
        ("jobs ended", f"{states.get('done', 0)} done, {states.get('failed', 0)} failed"),
        ("still there at the end", ", ".join(f"{count} {name}" for name, count in sorted(alive.items())) or "none"),
        ("suspensions", str(totals.suspended)),
        ("MIG slices created", str(created)),
        ("MIG slices destroyed", str(destroyed)),
        ("leases", ", ".join(f"{count} {name}" for name, count in totals.leases.items())),
        ("refused by the device", str(totals.refused)),
        ("lost", str(totals.lost)),
        ("mean wait of those started", f"{totals.mean_wait_s:.1f} s"),
        ("to the first picture", f"{totals.first_picture_s:.1f} s"),
    ]
    print(table(("replay", ""), rows), flush=True)
    for error in totals.errors[:5]:
        print(f"error: {error}")
    return 0 if totals.good else 1
