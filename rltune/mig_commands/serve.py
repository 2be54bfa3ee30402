"""``serve-trace``: a stream of acquire and release through a fleet, with a report; ``serve``: the line protocol."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rltune.mig.online.events import read_events
from rltune.mig.online.fleet import Fleet
from rltune.mig.online.journal import torn_head
from rltune.mig.online.lines import Arriving, Service, serve
from rltune.mig.online.options import FleetOptions, Growth, Quota
from rltune.mig.online.replay import replay
from rltune.nouns.checked import checked, model_of
from rltune.nouns.documents import Document
from rltune.nouns.errors import InputError
from rltune.rundir import SCHEMA_VERSION, RunDirectory, remove_if_asked, sha256_of

if TYPE_CHECKING:
    from rltune.devices.adapter import Adapter

PLAIN = (
    *("policy", "weights", "learn", "lazy", "media", "half_life"),
    *("migrate", "migrate_credit", "slack", "chain", "spares", "idle_s", "seed"),
)
"""Options that a fleet takes as they stand in `rltune.config.mig.MigServe`."""
QuotaEntry: Any = model_of(Quota)


def fleet_options(cfg: Mapping[str, Any]) -> FleetOptions:
    """The fleet that a configuration describes; InputError names the option."""
    given = cfg["gpu"] if isinstance(cfg["gpu"], list) else str(cfg["gpu"]).split(",")
    growth = tuple(_growth(str(word)) for word in given)
    tenants = {str(tenant): quota for tenant, quota in _mapping(cfg, "quotas").items()}
    quotas = checked(dict[str, QuotaEntry], Document("quotas", tenants))
    return FleetOptions(
        growth=growth,
        initial={str(model): count for model, count in _mapping(cfg, "initial").items()},
        quotas={tenant: Quota(**quota.model_dump()) for tenant, quota in quotas.items()},
        **{name: cfg[name] for name in PLAIN},
    )


def _mapping(cfg: Mapping[str, Any], name: str) -> Mapping[Any, Any]:
    found = cfg[name] or {}
    if not isinstance(found, Mapping):
        raise InputError(f"{name}={found!r}: accepted is a mapping, such as {{a: 2}}")
    return found


def _growth(word: str) -> Growth:
    model, colon, limit = word.strip().partition(":")
    return Growth(model, _whole(f"gpu={word}", limit) if colon else None)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not str(value).strip().isdecimal():
        raise InputError(f"{name}: {value!r} is no whole number; accepted are 0, 1, 2, ...")
    return int(value)


def serve_trace(cfg: dict[str, Any]) -> str:
    """Replay ``cfg["events"]``; returns the run directory with summary.json, events.parquet, steps.parquet."""
    if not cfg["events"]:
        raise InputError("events is not set; name a file, such as events=events.csv")
    for name in ("journal", "device"):
        if cfg.get(name):
            raise InputError(f"{name} is for serve; serve-trace replays a file, and leaves events.parquet")
    remove_if_asked(cfg)
    path = Path(str(cfg["events"]))
    events = read_events(path, cfg["workload"], _whole("sequence", cfg["sequence"]))
    fleet = Fleet(fleet_options(cfg))
    done = replay(fleet, events)
    name = cfg["name"] or f"{datetime.now():%Y%m%d-%H%M%S}-fleet-{path.name.partition('.')[0]}-{cfg['policy']}"
    with RunDirectory(cfg["runs"], str(name)) as run:
        head = {"schema_version": SCHEMA_VERSION, "source": {"events": str(path), "sha256": sha256_of(path)}}
        run.write_json("summary.json", {**head, **done.summary, "options": fleet.options.as_json()})
        done.events.to_parquet(run.file("events.parquet"), index=False)
        done.steps.to_parquet(run.file("steps.parquet"), index=False)
    print_report(done.summary)
    return str(run.final)


def print_report(found: Mapping[str, Any]) -> None:
    """What a user asks first: GPUs beside the lower bound, and what it cost."""
    print(
        f"{found['events']:,} events: {found['acquired']:,} acquired, {found['refused']:,} refused\n"
        f"GPUs at the peak {found['gpus_peak']:,}, lower bound {found['lower_bound']:,}\n"
        f"migrations {found['migrations']:,}; creating took {found['create_s']:,.1f} s, destroying {found['destroy_s']:,.1f} s"
    )
    if found["acquired"]:
        print(
            f"a decision takes {found['decision_us_median']:,.0f} us (median), {found['decision_us_p99']:,.0f} us (p99)"
        )


def serve_lines(cfg: dict[str, Any], lines: Iterable[str] | None = None, out: TextIO | None = None) -> None:
    """Answer the line protocol on standard input and output; goes on with ``cfg["journal"]`` if that exists.

    ``cfg["device"]``: on that device's GPUs.
    """
    if cfg["events"]:
        raise InputError("events is for serve-trace; serve reads standard input")
    with ExitStack() as stack:
        adapter = stack.enter_context(_adapter(cfg)) if cfg.get("device") else None
        fleet = _fleet(cfg)
        stack.callback(fleet.close)
        service: Service = fleet
        if adapter is not None:
            service = stack.enter_context(_on_device(fleet, adapter, str(cfg["journal"])))
        for note in fleet.notes:
            print(f"note: {note}", file=sys.stderr, flush=True)
        if lines is None and isinstance(sys.stdin, io.TextIOWrapper):
            # A byte that is no UTF-8 is one tenant's bad line, not the end of the service.
            sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
        if out is None and isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        serve(service, Arriving(sys.stdin) if lines is None else lines, sys.stdout if out is None else out)


def _fleet(cfg: Mapping[str, Any]) -> Fleet:
    """The fleet of the journal, or a new one."""
    journal = cfg["journal"]
    if journal and Path(str(journal)).is_file() and not torn_head(Path(str(journal)).read_bytes()):
        fleet = Fleet.restore(str(journal))
        if fleet.options != fleet_options(cfg):
            print("note: the journal's own options hold, not those given", file=sys.stderr)
    else:
        fleet = Fleet(fleet_options(cfg), journal=str(journal) if journal else None, at=time.time())
    return fleet


@contextmanager
def _adapter(cfg: Mapping[str, Any]) -> Iterator[Adapter]:
    """The adapter of the device that the configuration names, once it is known that such a fleet can be on it."""
    if not cfg["journal"]:
        raise InputError("device: set journal=FILE too; after an end it says who holds the instances that stay")
    # Most services are on no device, and do without the adapter's modules.
    from rltune.devices.adapter import Adapter
    from rltune.devices.open import open_device
    from rltune.devices.serving import check_options, machine_gpus

    with ExitStack() as stack:
        driver = open_device(str(cfg["device"]))
        stack.callback(driver.close)
        check_options(fleet_options(cfg), machine_gpus(driver))
        adapter = Adapter(driver)
        stack.callback(adapter.close)
        yield adapter


@contextmanager
def _on_device(fleet: Fleet, adapter: Adapter, journal: str) -> Iterator[Service]:
    from rltune.devices.serving import FleetOnDevice

    service = FleetOnDevice(fleet, adapter, journal, lambda line: print(f"note: {line}", file=sys.stderr, flush=True))
    fleet.notes += service.notes
    try:
        yield service
    finally:
        service.close()
