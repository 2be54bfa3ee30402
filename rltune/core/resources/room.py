"""What is free on the nodes and what jobs ask for: compiled questions about one node, booking and giving back.

CPU cores and GB are counted on the grid of `rltune.nouns.cluster.GRID`, rounded down, so that booking and giving back in any
order restores exactly what was free.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.compiled import inner, kernel
from rltune.core.resources.slices import INDICES, START_BIT, bits, find_slice, lowest
from rltune.nouns.cluster import GRID, Cluster, grid
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import WHOLE, JobTable
from rltune.nouns.mig_profiles import PROFILES, SIZE


class Room(NamedTuple):
    """Free resources of the nodes. Only ``closed`` and ``layout`` may be changed by others than ``take``."""

    milli: npt.NDArray[
        np.int32
    ]  # (n_nodes, widest) free thousandths of each GPU; 0 where cut by MIG, and beyond the node's own
    slices: npt.NDArray[np.int32]  # (n_nodes, widest) memory slices taken on a GPU cut by MIG, as bits; 0: not cut
    layout: npt.NDArray[
        np.int64
    ]  # (n_nodes, widest) MIG instances now, in use or idle (`instances`); (n_nodes, 0): not kept
    whole: npt.NDArray[np.int64]  # (n_nodes,) wholly free GPUs
    loose: npt.NDArray[np.int64]  # (n_nodes,) sum of ``milli``
    largest: npt.NDArray[np.int64]  # (n_nodes,) greatest of ``milli``
    cpus: npt.NDArray[np.float64]  # (n_nodes,) free cores; infinity where the pool declares none
    memory: npt.NDArray[np.float64]  # (n_nodes,) free GB, the same
    closed: npt.NDArray[np.int64]  # (n_nodes,) > 0: takes no new job (failed or draining)
    pods: npt.NDArray[
        np.int32
    ]  # (n_nodes, widest + 2) jobs on the node: with a share, with 1, 2, ... whole GPUs, with a slice
    scale: npt.NDArray[
        np.float64
    ]  # (3,) cores, GB, thousandths of GPUs of the largest node with them; 1: none declared
    turn: npt.NDArray[
        np.int64
    ]  # (n_nodes,) of equally good nodes that of least turn is taken: 0, 1, ... unless set at the start


class Demand(NamedTuple):
    """What jobs, or ways to run, ask for."""

    gpus: npt.NDArray[np.int64]  # (n,)
    milli: npt.NDArray[np.int64]  # (n,) thousandths of each: 1000 whole GPUs, less a share of one, 0 none
    cpus: npt.NDArray[np.float64]  # (n,) cores of the whole job, on the grid
    memory: npt.NDArray[np.float64]  # (n,) GB of the whole job, on the grid
    profile: npt.NDArray[np.int64]  # (n,) index into `rltune.nouns.mig_profiles.PROFILES`; -1: no slice


class Among(NamedTuple):
    """The pools ``pools[lo:hi]``."""

    pools: npt.NDArray[np.int64]
    lo: int
    hi: int


class Held(NamedTuple):
    """The places ``node, grant[base:base + m]``; grants as of `rltune.core.resources.slices`."""

    node: npt.NDArray[np.int64]
    grant: npt.NDArray[np.int64]
    base: int
    m: int


def idle_room(cluster: Cluster, keeps_instances: bool = False) -> Room:
    """Everything free, every node open; ``keeps_instances``: MIG instances stay until others need their place."""
    arrays = cluster.arrays()
    cap = arrays.pool_cap[arrays.node_pool]
    widest = max(1, int(cap.max()))
    milli = np.where(np.arange(widest) < cap[:, None], WHOLE, 0).astype(np.int32)
    cpus, memory = grid(arrays.pool_cpus), grid(arrays.pool_memory)
    most = [float(x[np.isfinite(x)].max(initial=0.0)) for x in (cpus, memory, cap * float(WHOLE))]
    return Room(
        milli=milli,
        slices=np.zeros_like(milli),
        layout=np.zeros((len(cap), widest if keeps_instances else 0), np.int64),
        whole=cap.copy(),
        loose=cap * WHOLE,
        largest=milli.max(axis=1).astype(np.int64),
        cpus=cpus[arrays.node_pool],
        memory=memory[arrays.node_pool],
        closed=np.zeros(len(cap), np.int64),
        pods=np.zeros((len(cap), widest + 2), np.int32),
        scale=np.array([x if x > 0 else 1.0 for x in most]),
        turn=np.arange(len(cap)),
    )


def demand_of(jobs: JobTable, cluster: Cluster) -> Demand:
    """The jobs' requests; InputError for a share of a MIG slice.

    Jobs of several slices, or of a profile that no GPU type has, have no pool (`Cluster.eligible_pools`), so they never start.
    """
    n = len(jobs)
    profile = np.full(n, -1, np.int64)
    for code, name in enumerate(jobs.mig.names):
        rows = np.flatnonzero(jobs.mig.codes == code)
        shared = rows[jobs.gpu_milli[rows] != WHOLE]
        if len(shared):
            raise InputError(
                f"job {jobs.job_id[shared[0]]} (row {shared[0] + 1} by submit time): {jobs.gpu_milli[shared[0]]} thousandths "
                f"with MIG profile {name}; a slice goes without a share"
            )
        if name in PROFILES:
            profile[rows] = PROFILES.index(name)
    return Demand(
        gpus=jobs.num_gpus.astype(np.int64),
        milli=jobs.gpu_milli.astype(np.int64),
        cpus=grid(jobs.cpus),
        memory=grid(jobs.memory_gb),
        profile=profile,
    )


def amounts(demand: Demand, jobs: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """(n,) GPUs that each job counts for in a quota; a MIG slice by its share of the largest GPU's memory slices."""
    amount = demand.gpus[jobs] * demand.milli[jobs] / WHOLE
    profile = demand.profile[jobs]
    cut = profile >= 0
    if cut.any():
        share = (SIZE / np.maximum(1, SIZE.max(axis=0))).max(axis=1)
        amount[cut] = share[profile[cut]]
    return amount


@kernel
def copy_room(source, target):
    """Copy all free resources, of the same cluster."""
    for i in range(len(source.whole)):
        target.turn[i] = source.turn[i]
        target.whole[i] = source.whole[i]
        target.loose[i] = source.loose[i]
        target.largest[i] = source.largest[i]
        target.cpus[i] = source.cpus[i]
        target.memory[i] = source.memory[i]
        target.closed[i] = source.closed[i]
        for k in range(source.milli.shape[1]):
            target.milli[i, k] = source.milli[i, k]
            target.slices[i, k] = source.slices[i, k]
        for k in range(source.layout.shape[1]):
            target.layout[i, k] = source.layout[i, k]
        for k in range(source.pods.shape[1]):
            target.pods[i, k] = source.pods[i, k]


@inner
def part_of(amount, k, g):
    """CPU or memory that goes with k of g GPUs, on the grid."""
    return amount if k == g else np.floor(amount * k / g * GRID) / GRID


# --- one node --------------------------------------------------------------------------


@inner
def hosts(cluster, room, demand, job, node):
    """Whether the whole of ``job`` fits on one open node of an allowed pool."""
    if room.closed[node] > 0 or room.cpus[node] < demand.cpus[job] or room.memory[node] < demand.memory[job]:
        return False
    if demand.profile[job] >= 0:
        return find_slice(cluster, room, demand.profile[job], node) >= 0
    if demand.milli[job] == WHOLE:
        return room.whole[node] >= demand.gpus[job]
    return room.largest[node] >= demand.milli[job]


@inner
def usable_gpus(room, demand, job, node, cap):
    """Most whole GPUs of a node that a gang could use there, given its CPU and memory a GPU."""
    if room.closed[node] > 0:
        return 0
    g = demand.gpus[job]
    k = min(room.whole[node], cap, g)
    while k > 0 and (
        part_of(demand.cpus[job], k, g) > room.cpus[node] or part_of(demand.memory[job], k, g) > room.memory[node]
    ):
        k -= 1
    return k


@inner
def grant_of(cluster, room, demand, job, node, k):
    """The GPUs of a node that a job (or k GPUs of a gang) gets there; it is known to fit."""
    cap = cluster.pool_cap[cluster.node_pool[node]]
    milli = demand.milli[job]
    if demand.profile[job] >= 0:
        return find_slice(cluster, room, demand.profile[job], node)
    if milli == 0:
        return 0
    if milli < WHOLE:
        best = -1
        for i in range(cap):
            free = room.milli[node, i]
            if free >= milli and (best < 0 or free < room.milli[node, best] or less_to_do(room, node, i, best)):
                best = i
        return 1 << best
    grant = 0
    # GPUs without idle MIG instances first: the others need time until they serve whole.
    for idle in range(1 if room.layout.shape[1] == 0 else 2):
        for i in range(cap):
            if (
                k > 0
                and room.milli[node, i] == WHOLE
                and (room.layout.shape[1] == 0 or (room.layout[node, i] != 0) == idle)
            ):
                grant |= 1 << i
                k -= 1
    return grant


@inner
def less_to_do(room, node, i, other):
    """Whether of two GPUs equally free only the second has idle MIG instances, which would have to go."""
    if room.layout.shape[1] == 0 or room.milli[node, i] != room.milli[node, other]:
        return False
    return room.layout[node, i] == 0 and room.layout[node, other] != 0


# --- book and give back -----------------------------------------------------------------


@kernel
def take(cluster, room, demand, job, held, sign):
    """Book (sign = -1) or give back (sign = +1) what ``job`` holds."""
    g, milli, profile = demand.gpus[job], demand.milli[job], demand.profile[job]
    for at in range(held.base, held.base + held.m):
        i, mask = held.node[at], held.grant[at] & INDICES
        k = g
        if profile >= 0:
            gpu = lowest(mask)
            kind = cluster.pool_mig[cluster.node_pool[i]]
            room.slices[i, gpu] ^= ((1 << SIZE[profile, kind]) - 1) << (held.grant[at] >> START_BIT)
            _set_milli(room, i, gpu, 0 if room.slices[i, gpu] != 0 else WHOLE)
            room.pods[i, room.pods.shape[1] - 1] -= sign
        elif milli == WHOLE:
            k = bits(mask)
            for gpu in range(cluster.pool_cap[cluster.node_pool[i]]):
                if mask >> gpu & 1:
                    _set_milli(room, i, gpu, 0 if sign < 0 else WHOLE)
            room.pods[i, k] -= sign
        elif milli > 0:
            gpu = lowest(mask)
            _set_milli(room, i, gpu, room.milli[i, gpu] + sign * milli)
            room.pods[i, 0] -= sign
        room.cpus[i] += sign * part_of(demand.cpus[job], k, g)
        room.memory[i] += sign * part_of(demand.memory[job], k, g)
        most = 0
        for gpu in range(cluster.pool_cap[cluster.node_pool[i]]):
            most = max(most, room.milli[i, gpu])
        room.largest[i] = most


@inner
def _set_milli(room, node, gpu, after):
    before = room.milli[node, gpu]
    room.whole[node] += (1 if after == WHOLE else 0) - (1 if before == WHOLE else 0)
    room.loose[node] += after - before
    room.milli[node, gpu] = after
