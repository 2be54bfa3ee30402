"""The machines of a service: simulated ones, virtual ones, this one, or those of a Ray cluster; and the cluster that they make up."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rltune.config.clusters import changed_cluster
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.errors import InputError
from rltune.nouns.mig_profiles import TYPES
from rltune.service.dispatch import Seat
from rltune.service.orders import Gpu, Inventory, Node

NODES = "nodes"
MOST_SIMULATED = 64
"""Nodes with real processes on one machine: each has threads and files of its own."""


def machines_of(cfg: Mapping[str, Any], folder: Path) -> tuple[Cluster, list[Node], list[Seat]]:
    """The cluster, its machines, and which GPUs of which machine each of its nodes is."""
    if cfg["device"] == "nvml":
        return _this_machine(folder)
    if cfg["ray"] is not None:
        return _on_ray(cfg)
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


def _on_ray(cfg: Mapping[str, Any]) -> tuple[Cluster, list[Node], list[Seat]]:
    """The machines of a Ray cluster that are there now, with their own GPUs; later ones join at the next start."""
    from rltune.service.nodes.ray_nodes import connect, on_machines

    found = connect(None if cfg["ray"] == "auto" else str(cfg["ray"]), on_machines("nvml"))
    machines = [found.nodes[name] for name in sorted(found.nodes)]
    inventories = {}
    for machine in machines:
        try:
            inventories[machine.name] = machine.inventory()
        except OSError as error:
            raise InputError(
                f"ray: {machine.name} does not answer ({error}); start it, or take it out of the cluster"
            ) from None
    cluster, seats = made_up_of("ray", inventories)
    return cluster, list(machines), seats


def made_up_of(name: str, inventories: Mapping[str, Inventory]) -> tuple[Cluster, list[Seat]]:
    """Machines as a cluster: those with as many GPUs of a type, cut by MIG or not, are the nodes of a pool.

    InputError where no machine has a GPU.
    """
    groups: dict[tuple[str, bool, int], list[Seat]] = {}
    for machine, inventory in inventories.items():
        kinds = sorted({(gpu.kind, gpu.mig) for gpu in inventory.gpus})
        for kind, mig in kinds:
            numbers = tuple(k for k, gpu in enumerate(inventory.gpus) if (gpu.kind, gpu.mig) == (kind, mig))
            groups.setdefault((kind, mig, len(numbers)), []).append(Seat(machine, numbers))
    if not groups:
        raise InputError(f"{name}: none of the machines {', '.join(inventories) or '(none)'} has a GPU")
    pools = tuple(
        Pool(f"{kind}{'-mig' if mig else ''}-{gpus}", len(seats), gpus, kind, mig=mig and kind in TYPES)
        for (kind, mig, gpus), seats in sorted(groups.items())
    )
    return Cluster(name, pools), [seat for _, seats in sorted(groups.items()) for seat in seats]
