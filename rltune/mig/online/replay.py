"""Runs a stream of events through a fleet and measures what it took."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rltune.mig.online.bounds import live_counts, lower_bound
from rltune.mig.online.events import Event
from rltune.mig.online.fleet import Fleet, Lease
from rltune.nouns.errors import InputError


@dataclass
class Replay:
    """``events`` one row each: what was asked, where it went, why it was refused, seconds charged, decision time;
    ``steps`` the fleet after each event; ``summary`` the totals."""

    events: pd.DataFrame
    steps: pd.DataFrame
    summary: dict[str, Any]


def replay(fleet: Fleet, events: list[Event]) -> Replay:
    """Every event in turn; a refused one is reported with its reason, and so is the release of what was refused."""
    rows, steps, served = [], [], []
    for number, event in enumerate(events):
        begin = time.perf_counter_ns()
        refusal, lease = "", None
        try:
            if event.acquire:
                lease = fleet.acquire(event.tenant, event.profile, event.request, event.at)
            else:
                fleet.release(event.tenant, event.request, event.at)
        except InputError as error:
            refusal = str(error)
        spent = (time.perf_counter_ns() - begin) / 1000
        if not refusal:
            served.append((event.acquire, f"{event.tenant} {event.request}", event.profile))
        rows.append(_row(number, event, lease, refusal, spent))
        steps.append((number, fleet.gpus, len(fleet.ledger.held), fleet.totals.migrations))
    table = pd.DataFrame(rows)
    return Replay(
        table,
        pd.DataFrame(steps, columns=["event", "gpus", "live", "migrations"]),
        _summary(fleet, table, served),
    )


def _row(number: int, event: Event, lease: Lease | None, refusal: str, spent_us: float) -> dict[str, Any]:
    return {
        "event": number,
        "time_s": np.nan if event.at is None else event.at,
        "verb": "acquire" if event.acquire else "release",
        "tenant": event.tenant,
        "request": event.request,
        "profile": event.profile,
        "gpu": -1 if lease is None else lease.gpu,
        "start": -1 if lease is None else lease.start,
        "configuration": -1 if lease is None else lease.configuration,
        "provisioned": lease is not None and lease.provisioned,
        "reused": lease is not None and lease.reused,
        "migrations": 0 if lease is None else lease.migrations,
        "seconds": 0.0 if lease is None else lease.seconds,
        "refusal": refusal,
        "decision_us": spent_us,
    }


def _summary(fleet: Fleet, table: pd.DataFrame, served: list[tuple[bool, str, str]]) -> dict[str, Any]:
    pools = fleet.ledger.pools.values()
    # Demand is bounded by kind; a driver's name can stand for different kinds on different types: the least demanding.
    kinds = {
        profile: min((p.table.geometry.profiles[p.table.geometry.profile(profile)] for p in pools if _has(p, profile)),
                     key=lambda found: (found.compute, found.size)).kind
        for profile in {word for acquire, _, word in served if acquire}
    }  # fmt: skip
    bound = lower_bound(tuple(pool.table.geometry for pool in pools), live_counts(served, kinds))
    acquired = table[(table.verb == "acquire") & (table.refusal == "")]
    totals = fleet.totals
    return {
        "events": len(table),
        "acquired": len(acquired),
        "refused": int((table.refusal != "").sum()),
        "gpus_peak": totals.peak,
        "gpus_provisioned": totals.provisioned,
        "gpus_at_end": fleet.gpus,
        "lower_bound": bound,
        "peak_over_bound": totals.peak / bound if bound else None,
        "migrations": totals.migrations,
        "migrations_per_request": totals.migrations / max(totals.requests, 1),
        "reused": totals.reused,
        "created": totals.created,
        "destroyed": totals.destroyed,
        "create_s": round(totals.create_s, 6),
        "destroy_s": round(totals.destroy_s, 6),
        "decision_us_median": float(acquired.decision_us.median()) if len(acquired) else None,
        "decision_us_p99": float(acquired.decision_us.quantile(0.99)) if len(acquired) else None,
    }


def _has(pool: Any, profile: str) -> bool:
    try:
        pool.table.geometry.profile(profile)
    except InputError:
        return False
    return True
