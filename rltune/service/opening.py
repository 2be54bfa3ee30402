"""From options to a service that decides: state directory, clock, machines and their seats, policy, what was before."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rltune.devices.lock import locked
from rltune.devices.open import store_path
from rltune.nouns.errors import InputError
from rltune.service.clock import WallClock
from rltune.service.engine import Engine, Settings
from rltune.service.machines import machines_of
from rltune.service.policies import MILP, Choice, Policies, choice_at_start, rules_of
from rltune.service.restart import reconcile, restore
from rltune.service.store import Store, StoreError
from rltune.simulator.options import Options, make_options
from rltune.simulator.requests import Request

DATABASE, LOCK, TOKEN_FILE, NODES = "state.sqlite", "service.lock", "operator.token", "nodes"
DAY_S = 86_400.0
MOST_SIMULATED = 64
"""Nodes with real processes on one machine: each has threads and files of its own."""


@dataclass(slots=True)
class Opened:
    """A service that is ready to be asked. ``notes``: what a person should read."""

    engine: Engine
    policies: Policies
    store: Store
    notes: list[str]


def state_directory(given: str | None) -> Path:
    """Where all is kept; InputError where a user has no home."""
    return Path(given) if given else store_path() / "service"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Nobody else uses the state directory meanwhile; InputError where somebody does."""
    with ExitStack() as stack:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"state={folder}: cannot be made ({error.strerror}); name another directory") from None
        try:
            stack.enter_context(locked(folder / LOCK))
        except InputError as error:
            if "another adapter" not in str(error):
                raise
            raise InputError(
                f"state={folder}: another service uses it; stop that one first, or name another directory"
            ) from None
        yield


@contextmanager
def opened(cfg: Mapping[str, Any]) -> Iterator[Opened]:
    """The service that the options ask for, begun where it was; when left, it has written everything down, and its runs go on.

    InputError says which option cannot be.
    """
    folder = state_directory(cfg["state"])
    options = live_options(cfg)
    with alone(folder), ExitStack() as stack:
        store = open_store(folder)
        stack.callback(store.close)
        cluster, machines, seats = machines_of(cfg, folder)
        given = choice_of(cfg)
        choice = choice_at_start(store.meta, given)
        keep_s = cfg["keep_days"] * DAY_S if cfg["keep_days"] else math.inf
        settings = Settings(cfg["runtimes"], cfg["most_waiting"], cfg["most_of_tenant"], keep_s)
        try:
            engine = Engine(store, cluster, rules_of(choice, options), machines, seats, _clock(store), settings)
            engine.policy_name = choice.name
            alive = restore(engine)
            counts = reconcile(engine)
        except BaseException:
            for machine in machines:
                machine.close()
            raise
        policies = Policies(engine, choice, options, given.milp)
        with store.transaction():
            store.set_meta("choice_given", asdict(given))
            store.set_meta("cluster", {"name": cluster.name, "pools": [asdict(pool) for pool in cluster.pools]})
        notes = [f"{alive} jobs and leases of before: {told}"] if alive and (told := _told(counts)) else []
        if choice != given:
            notes.append(
                f"policy {choice.name}, as it was set while the service ran; the command line's is {given.name}"
            )
        warm(engine)
        engine.start()
        stack.callback(engine.stop)
        yield Opened(engine, policies, store, notes)


def warm(engine: Engine) -> None:
    """Let a copy of the cluster see a job come and go: kernels are compiled before anybody waits for them."""
    copy = engine.live.fork()
    copy.submit("warm", Request(), copy.now_s)
    copy.advance(copy.now_s)
    if "warm" in copy.jobs and not copy.end("warm", copy.now_s):
        copy.cancel("warm")
    copy.advance(copy.now_s)


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "none of them ran"


def open_store(folder: Path) -> Store:
    """The database of a state directory."""
    try:
        return Store(folder / DATABASE)
    except StoreError as error:
        raise InputError(str(error)) from None
    except OSError as error:
        raise InputError(
            f"{folder / DATABASE}: cannot be made ({error.strerror}); name another directory: state="
        ) from None


def _clock(store: Store) -> WallClock:
    """The clock goes on: never before what has happened."""
    origin = store.meta("origin")
    if origin is None:
        origin = time.time()
        with store.transaction():
            store.set_meta("origin", origin)
    newest = store.read("SELECT MAX(at_s) FROM events")[0][0]
    return WallClock(float(origin), max(float(store.meta("last_s", 0.0)), float(newest or 0.0)))


# --- policy and options ----------------------------------------------------------------------------


def live_options(cfg: Mapping[str, Any]) -> Options:
    """Options of the core, those that were given."""
    return make_options({name: value for name, value in cfg["options"].items() if value is not None})


def choice_of(cfg: Mapping[str, Any]) -> Choice:
    """The policy of the command line."""
    milp = {key: value for key, value in cfg["allocator"].items() if key != "name"}
    name = str(cfg["allocator"]["name"])
    return Choice(str(cfg["policy"]), str(cfg["backfill"]), name, milp if name == MILP else {}, cfg["guard"])
