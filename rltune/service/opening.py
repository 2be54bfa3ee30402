"""From options to a service that decides: state directory, clock, machines and their seats, policy, what was before."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rltune.config.clusters import changed_cluster
from rltune.devices.lock import locked
from rltune.devices.open import store_path
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.errors import InputError
from rltune.nouns.mig_profiles import TYPES
from rltune.service.clock import WallClock
from rltune.service.dispatch import Seat
from rltune.service.engine import Engine, Settings
from rltune.service.orders import Gpu, Node
from rltune.service.policies import MILP, Choice, Policies, choice_at_start, rules_of
from rltune.service.restart import reconcile, restore
from rltune.service.store import Store, StoreError
from rltune.simulator.live import Request
from rltune.simulator.options import Options, make_options

DATABASE, LOCK, TOKEN_FILE, NODES = "state.sqlite", "service.lock", "operator.token", "nodes"
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
        cluster, machines, seats = _machines(cfg, folder)
        given = choice_of(cfg)
        choice = choice_at_start(store.meta, given)
        settings = Settings(cfg["runtimes"], cfg["most_waiting"], cfg["most_of_tenant"])
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


# --- machines --------------------------------------------------------------------------------------


def _machines(cfg: Mapping[str, Any], folder: Path) -> tuple[Cluster, list[Node], list[Seat]]:
    """The cluster, its machines, and which GPUs of which machine each of its nodes is."""
    if cfg["device"] == "nvml":
        return _this_machine(folder)
    node = cfg["cluster"]
    if node.get("auto") or "spec" not in node:
        raise InputError("cluster=auto is a trace's own; name one, such as cluster=live, or give cluster.pools")
    changes = {key: value for key, value in node.items() if key not in ("auto", "spec", "_target_")}
    cluster = changed_cluster(Cluster.from_spec(node["spec"]), changes)
    arrays = cluster.arrays()
    names = [
        f"{cluster.pools[int(pool)].name}-{int(number)}"
        for pool, number in zip(arrays.node_pool, arrays.node_id, strict=True)
    ]
    if len(set(names)) < len(names):
        names = [f"node-{k}" for k in range(cluster.nodes)]
    pools = [cluster.pools[int(pool)] for pool in arrays.node_pool]
    seats = [Seat(name, tuple(range(pool.gpus_per_node))) for name, pool in zip(names, pools, strict=True)]
    make = _virtual if cfg["device"] == "virtual" else _simulated
    return cluster, make(names, pools, folder, float(cfg["pace"])), seats


def _simulated(names: list[str], pools: list[Pool], folder: Path, pace: float) -> list[Node]:
    from rltune.service.nodes.local import open_node

    if len(names) > MOST_SIMULATED:
        raise InputError(
            f"device=simulated: {len(names)} nodes; at most {MOST_SIMULATED} run real processes on one machine, device=virtual takes more"
        )
    unknown = sorted({pool.gpu_type for pool in pools if pool.gpus_per_node == 0 or pool.gpu_type not in TYPES})
    if unknown:
        raise InputError(
            f"device=simulated: GPU type {unknown[0]} cannot be simulated with its driver; there are {', '.join(TYPES)}; "
            "device=virtual takes any"
        )
    out: list[Node] = []
    try:
        for name, pool in zip(names, pools, strict=True):
            out.append(
                open_node(name, f"simulated:{pool.gpus_per_node}x{pool.gpu_type.lower()}", folder / NODES / name, pace)
            )
    except BaseException:
        for node in out:
            node.close()
        raise
    return out


def _virtual(names: list[str], pools: list[Pool], folder: Path, pace: float) -> list[Node]:
    from rltune.service.nodes.virtual import VirtualNode

    return [VirtualNode(name, [pool.gpu_type] * pool.gpus_per_node) for name, pool in zip(names, pools, strict=True)]


def _this_machine(folder: Path) -> tuple[Cluster, list[Node], list[Seat]]:
    """This machine's GPUs: a pool for each type, cut by MIG where MIG mode is on now."""
    from rltune.service.nodes.local import open_node

    name = socket.gethostname().partition(".")[0] or "this"
    node = open_node(name, "nvml", folder / NODES / name)
    try:
        gpus = node.inventory().gpus
        if not gpus:
            raise InputError("device=nvml: this machine has no GPU that NVML knows; leave device out to simulate")
        kinds = sorted({(gpu.kind, gpu.mig) for gpu in gpus})
        seats = [Seat(name, tuple(k for k, gpu in enumerate(gpus) if (gpu.kind, gpu.mig) == kind)) for kind in kinds]
        pools = tuple(_pool(*kind, seat, gpus) for kind, seat in zip(kinds, seats, strict=True))
        return Cluster(name, pools), [node], seats
    except BaseException:
        node.close()
        raise


def _pool(kind: str, mig: bool, seat: Seat, gpus: tuple[Gpu, ...]) -> Pool:
    cpus, memory = os.cpu_count(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    # Of several pools each gets the CPUs and the memory of its GPUs' share.
    share = len(seat.gpus) / len(gpus)
    return Pool(
        f"{kind}-mig" if mig else kind, 1, len(seat.gpus), kind, mig=mig and kind in TYPES,
        cpus=(cpus or 1) * share, memory_gb=memory * share,
    )  # fmt: skip
