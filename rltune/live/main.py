"""``python -m rltune.live``: the service in this process, clients that ask it over HTTP, and a view of what it does."""

from __future__ import annotations

import logging
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from rltune.client.http import Client
from rltune.config.declare import defaults
from rltune.config.live import Live
from rltune.devices.journal import Transaction
from rltune.entry import run_main
from rltune.live.looking import Look, Picture
from rltune.live.screen import show
from rltune.live.stretch import TENANTS, Stretch, stretch_of
from rltune.live.submitting import Clients
from rltune.live.telling import Totals, conclude
from rltune.nouns.errors import InputError
from rltune.pages.serving import LOOPBACK
from rltune.serve import GRACE_S, Limited, Server, address, check_address, first_token, listening
from rltune.service.app import make_app
from rltune.service.nodes.local import LocalNode
from rltune.service.opening import Opened, opened
from rltune.service.store import Store
from rltune.service.web.context import WebOptions
from rltune.service.web.security import OPERATOR, TENANT, add_token, list_tokens, revoke_token
from rltune.simulator.options import Options

SHOWN = {"quantum_s": 20.0, "resume_s": 2.0}
"""Options of the core unless they are given: what a process costs that ends and begins again is not `speed` times shorter."""
STARTS_S = 60.0
MOST_CHANGES = 1_000_000


def live(cfg: dict[str, Any]) -> None:
    """Replay and show until it is over or Ctrl-C; exit status 1 where a device refused something or a job was lost."""
    begun = time.monotonic()
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING, stream=sys.stderr)
    if cfg["device"] == "nvml":
        raise InputError("device=nvml: the replay is for simulated GPUs; for real ones run python -m rltune.serve")
    cfg["options"] = for_processes(cfg["options"])
    with ExitStack() as stack:
        if cfg["state"] is None:
            # What a job writes while it is being stopped must not turn into an error of the clean-up.
            cfg["state"] = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="rltune-live-", ignore_cleanup_errors=True)
            )
        folder = Path(cfg["state"])
        service = stack.enter_context(served(cfg))
        saved = folder / "saved"
        saved.mkdir(exist_ok=True)
        stretch = stretch_of(cfg, service.opened.engine.cluster, saved)
        tell(service, stretch, cfg)
        totals = replay(cfg, service, stretch, begun)
        status = conclude(totals, transactions(service.opened))
    sys.exit(status)


def for_processes(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the core, with `SHOWN` for those at their defaults."""
    usual = defaults(Options)
    return {name: SHOWN.get(name, value) if value == usual[name] else value for name, value in options.items()}


def replay(cfg: Mapping[str, Any], service: Service, stretch: Stretch, begun: float) -> Totals:
    """Jobs and leases come while the view is shown; what was alive at the end is cancelled."""
    over = threading.Event()
    with interrupted(over):
        operator = Client(service.url, service.tokens[OPERATOR])
        clients = Clients(service.url, service.tokens, float(cfg["leases"]), int(cfg["seed"]))
        look = Look(operator, clients, 60.0 * float(cfg["minutes"]), float(cfg["speed"]))
        clients.start(stretch.jobs, over)
        first = show(look, over, plain=bool(cfg["plain"]), every_s=float(cfg["every_s"]), page=service.url)
        over.set()
        clients.join()
    last: Picture = look.picture()
    return Totals.of(operator, clients, last, first - begun)


@contextmanager
def interrupted(over: threading.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the replay in order; a second one ends it at once."""

    def end(number: int, _: Any) -> None:
        if over.is_set():
            raise KeyboardInterrupt
        over.set()

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        # One that is ignored was to be: started in the background.
        if handler is not signal.SIG_IGN:
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- the service ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Service:
    """``token``: the file with an operator's, for people; ``tokens``: the operator's and each tenant's of the replay, by name."""

    opened: Opened
    url: str
    token: str
    tokens: dict[str, str]


@contextmanager
def served(cfg: Mapping[str, Any]) -> Iterator[Service]:
    """The service as `rltune.serve` runs it, in a thread; ended when left."""
    tls = check_address(cfg)
    with listening(str(cfg["host"]), int(cfg["port"])) as listener, opened(cfg) as found:
        app = make_app(
            found.engine,
            found.policies,
            WebOptions(hosts=LOOPBACK, rate=float(cfg["rate"]), most_body=cfg["most_body"]),
        )
        config = uvicorn.Config(
            app, loop="uvloop", http=Limited, ws="none", log_config=None, access_log=False, server_header=False,
            timeout_graceful_shutdown=GRACE_S, **tls,
        )  # fmt: skip
        server = Server(config, app.state.web.feed.end)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="web", daemon=True)
        thread.start()
        try:
            until = time.monotonic() + STARTS_S
            while not server.started:
                if not thread.is_alive() or time.monotonic() > until:
                    raise InputError("the service did not begin to listen; python -m rltune.serve says more")
                time.sleep(0.01)
            token = first_token(found.store, Path(cfg["state"]))
            yield Service(found, address(cfg, listener), token, tokens_of(found.store))
        finally:
            server.should_exit = True
            app.state.web.feed.end()
            thread.join(2 * GRACE_S)


def tokens_of(store: Store) -> dict[str, str]:
    """New tokens for this replay; those of an earlier one on the same state go."""
    names = [OPERATOR, *TENANTS]
    for one in list_tokens(store):
        if one["name"].removeprefix("live-") in names and one["revoked_s"] is None:
            revoke_token(store, one["name"])
    return {
        name: add_token(store, f"live-{name}", *((OPERATOR,) if name == OPERATOR else (TENANT, name))) for name in names
    }


def transactions(found: Opened) -> list[Transaction]:
    """What the nodes' devices were told, as their journals have it; nodes without a device have none."""
    devices = [machine.device for machine in found.engine.dispatch.machines.values() if isinstance(machine, LocalNode)]
    return [one for device in devices for one in device.adapter.journal.recent(MOST_CHANGES)]


def tell(service: Service, stretch: Stretch, cfg: Mapping[str, Any]) -> None:
    """What is shown, once: where the jobs come from, and what was changed of them."""
    cluster = service.opened.engine.cluster
    print(f"cluster   {cluster.name}: {cluster.nodes} nodes, {cluster.gpus} GPUs, simulated; the processes are real")
    print(f"policy    {service.opened.engine.policy_name}")
    print(f"trace     {stretch.label}, {cfg['speed']:g} times faster than time")
    for note in stretch.notes:
        print(f"          {note}")
    print(f"state     {cfg['state']}")
    print(f"token     {service.token}")
    print(f"page      {service.url}/ (what can be asked: {service.url}/docs)", flush=True)


def main() -> None:
    run_main(live, Live, "Exit status 0: nothing was refused by a device, and no job was lost.")
