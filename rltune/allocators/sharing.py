"""Compiled placement on nodes with CPU and memory, GPUs shared by the thousandth, and GPUs cut by MIG.

The same four verbs as in `rltune.allocators.placement`, which knows whole GPUs only: ``fits``
asks, ``find`` chooses, ``take`` books and gives back, ``copy_room`` copies.

What a job may ask for:

- *whole GPUs*: a gang of g uses exactly m = ceil(g / GPUs per node) nodes of one pool. With m > 1: nodes
  it fills entirely first and the rest on the tightest node; failing that the m nodes with most room. CPU
  and memory are split over its nodes in proportion to the GPUs and must fit on each.
- *a share* (milli < 1000) of one GPU: of those of the chosen node the fullest on which it fits (RANDOM: any; LEAST_LOADED: the
  emptiest GPU of all nodes).
- *no GPU* (milli = 0): CPU and memory of one node.
- *a MIG profile*: a legal free position on a GPU of a matching type that is already cut or wholly free,
  cut ones first. A cut GPU takes no other jobs until its last slice is given back.

CPU cores and GB are counted on the grid of `rltune.cluster.GRID`, rounded down, so that booking and giving back in any
order restores exactly what was free.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.allocators.sharing_mig import INDICES, START_BIT, bits, find_slice, lowest, on_cut
from rltune.allocators.sharing_rules import FIRST_FIT, LEAST_LOADED, RANDOM, UNCUT, node_score
from rltune.cluster import GRID, Cluster, grid
from rltune.compiled import inner, kernel
from rltune.errors import InputError
from rltune.jobs import WHOLE, JobTable
from rltune.mig_profiles import PROFILES, SIZE


class Room(NamedTuple):
    """Free resources. Only ``closed`` may be changed by others than ``take``.

    Attributes:
        milli: (n_nodes, widest) free thousandths of each GPU; 0 where cut by MIG and beyond the node's own GPUs.
        slices: (n_nodes, widest) bitmask of the memory slices taken on a GPU cut by MIG; 0: not cut.
        whole: (n_nodes,) wholly free GPUs.
        loose: (n_nodes,) sum of ``milli``.
        largest: (n_nodes,) greatest of ``milli``.
        cpus, memory: (n_nodes,) free cores and GB; infinity where the pool declares none.
        closed: (n_nodes,) > 0: takes no new job (failed or draining).
        pods: (n_nodes, widest + 2) jobs (parts of gangs) on the node: with a share, with 1, 2, ... whole GPUs, with a slice.
        scale: (3,) cores, GB and thousandths of GPUs of the largest node with them (1 where none is declared).
        turn: (n_nodes,) of equally good nodes the one of least turn is taken: 0, 1, ... unless changed at the start.
    """

    milli: npt.NDArray[np.int32]
    slices: npt.NDArray[np.int32]
    whole: npt.NDArray[np.int64]
    loose: npt.NDArray[np.int64]
    largest: npt.NDArray[np.int64]
    cpus: npt.NDArray[np.float64]
    memory: npt.NDArray[np.float64]
    closed: npt.NDArray[np.int64]
    pods: npt.NDArray[np.int32]
    scale: npt.NDArray[np.float64]
    turn: npt.NDArray[np.int64]


class Demand(NamedTuple):
    """What jobs ask for, (n_jobs,) each: ``cpus`` and ``memory`` (GB) of the whole job, on the grid.

    ``milli``: 1000 whole GPUs, less a share of one, 0 none; ``profile``: -1, or index into
    `rltune.mig_profiles.PROFILES`.
    """

    gpus: npt.NDArray[np.int64]
    milli: npt.NDArray[np.int64]
    cpus: npt.NDArray[np.float64]
    memory: npt.NDArray[np.float64]
    profile: npt.NDArray[np.int64]


class Place(NamedTuple):
    """Work space of ``find``; its answer is (``node``, ``grant``)[:m], by ascending node.

    ``node, grant`` (longest,): bits 0..31 of a grant name the node's GPUs, bits 32..35 the first memory slice of
    a MIG profile. ``usable, fitting`` (n_nodes,), ``level, want`` (widest + 1,): candidates.
    """

    node: npt.NDArray[np.int64]
    grant: npt.NDArray[np.int64]
    usable: npt.NDArray[np.int64]
    fitting: npt.NDArray[np.int64]
    level: npt.NDArray[np.int64]
    want: npt.NDArray[np.int64]


def idle_room(cluster: Cluster) -> Room:
    """Everything free, every node open."""
    arrays = cluster.arrays()
    cap = arrays.pool_cap[arrays.node_pool]
    widest = max(1, int(cap.max()))
    milli = np.where(np.arange(widest) < cap[:, None], WHOLE, 0).astype(np.int32)
    cpus, memory = grid(arrays.pool_cpus), grid(arrays.pool_memory)
    most = [float(x[np.isfinite(x)].max(initial=0.0)) for x in (cpus, memory, cap * float(WHOLE))]
    return Room(
        milli=milli,
        slices=np.zeros_like(milli),
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
    """The jobs' requests; InputError for a MIG profile that no GPU type has, or of several GPUs."""
    n = len(jobs)
    profile = np.full(n, -1, np.int64)
    for code, name in enumerate(jobs.mig.names):
        rows = np.flatnonzero(jobs.mig.codes == code)
        if not len(rows):
            continue
        if name not in PROFILES:
            raise InputError(
                f"job {jobs.job_id[rows[0]]} (row {rows[0] + 1} by submit time): MIG profile {name!r} is unknown; "
                f"known are {', '.join(PROFILES)}"
            )
        several = rows[(jobs.num_gpus[rows] != 1) | (jobs.gpu_milli[rows] != WHOLE)]
        if len(several):
            raise InputError(
                f"job {jobs.job_id[several[0]]} (row {several[0] + 1} by submit time): {jobs.num_gpus[several[0]]} GPUs of "
                f"{jobs.gpu_milli[several[0]]} thousandths with MIG profile {name}; a slice goes with num_gpus 1 and no share"
            )
        profile[rows] = PROFILES.index(name)
    return Demand(
        gpus=jobs.num_gpus.astype(np.int64),
        milli=jobs.gpu_milli.astype(np.int64),
        cpus=grid(jobs.cpus),
        memory=grid(jobs.memory_gb),
        profile=profile,
    )


def place_scratch(cluster: Cluster) -> Place:
    """Work space for any job on this cluster."""
    longest, widest = max(pool.nodes for pool in cluster.pools), max(1, *(pool.gpus_per_node for pool in cluster.pools))
    return Place(
        *(np.zeros(longest, np.int64) for _ in range(2)),
        *(np.zeros(cluster.nodes, np.int64) for _ in range(2)),
        *(np.zeros(widest + 1, np.int64) for _ in range(2)),
    )


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
        for k in range(source.pods.shape[1]):
            target.pods[i, k] = source.pods[i, k]


@inner
def part_of(amount, k, g):
    """CPU or memory that goes with k of g GPUs, on the grid."""
    return amount if k == g else np.floor(amount * k / g * GRID) / GRID


# --- does it fit ----------------------------------------------------------------------


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


@kernel
def fits(cluster, room, demand, job, pools, lo, hi):
    """Whether ``job`` fits in one of ``pools[lo:hi]`` now."""
    g, milli = demand.gpus[job], demand.milli[job]
    for q in range(lo, hi):
        p = pools[q]
        if milli < WHOLE or g <= cluster.pool_cap[p]:
            for node in range(cluster.pool_lo[p], cluster.pool_hi[p]):
                if hosts(cluster, room, demand, job, node):
                    return True
        elif _gang_fits(cluster, room, demand, job, p):
            return True
    return False


@inner
def _gang_fits(cluster, room, demand, job, p):
    """Whether ceil(g / cap) nodes of pool p hold the gang: the fullest usable ones decide."""
    g, cap = demand.gpus[job], cluster.pool_cap[p]
    if cap == 0:
        return False
    left, got, level = (g + cap - 1) // cap, 0, cap
    # Counting level by level instead of keeping a histogram: no work space is handed in here.
    while level > 0 and left > 0 and got < g:
        for node in range(cluster.pool_lo[p], cluster.pool_hi[p]):
            if left > 0 and room.whole[node] >= level and usable_gpus(room, demand, job, node, cap) == level:
                got += level
                left -= 1
        level -= 1
    return got >= g


# --- where does it go -----------------------------------------------------------------


@kernel
def find(cluster, room, demand, job, pools, lo, hi, rule, draw, work):
    """Place ``job`` in ``pools[lo:hi]``: the number of nodes used, 0 if it does not fit; see `Place` for the answer.

    ``rule``: one of `rltune.allocators.sharing_rules.SHARING_RULES`; ``draw``: a random uint64, read by RANDOM only.
    One node where one can hold it; all allowed pools compete for it. Else a gang of the pool
    that it leaves tightest (FIRST_FIT: the first; LEAST_LOADED: with most free GPUs).
    """
    node = _best_node(cluster, room, demand, job, pools, lo, hi, rule, draw, work)
    if node >= 0:
        work.node[0] = node
        shared = 0 < demand.milli[job] < WHOLE
        if rule == RANDOM and shared:
            work.grant[0] = _random_gpu(room, demand.milli[job], node, draw)
        elif rule == LEAST_LOADED and shared:
            work.grant[0] = _emptiest_gpu(room, node)
        else:
            work.grant[0] = _grant(cluster, room, demand, job, node, demand.gpus[job])
        return 1
    if demand.milli[job] < WHOLE or demand.gpus[job] == 1:
        return 0
    best, best_cost = -1, np.inf
    for q in range(lo, hi):
        p = pools[q]
        if demand.gpus[job] > cluster.pool_cap[p] and _gang_fits(cluster, room, demand, job, p):
            cost = _pool_cost(cluster, room, demand, job, p, rule, work)
            if cost < best_cost:
                best, best_cost = p, cost
    if best < 0:
        return 0
    return _find_gang(cluster, room, demand, job, best, work)


@inner
def _best_node(cluster, room, demand, job, pools, lo, hi, rule, draw, work):
    """The node of smallest score that can hold the whole job, ties by turn; -1 if none can."""
    best, best_score, count = -1, np.inf, 0
    whole = demand.milli[job] == WHOLE
    for q in range(lo, hi):
        p = pools[q]
        if whole and demand.gpus[job] > cluster.pool_cap[p]:
            continue
        for node in range(cluster.pool_lo[p], cluster.pool_hi[p]):
            if not hosts(cluster, room, demand, job, node):
                continue
            if rule == RANDOM:
                work.fitting[count] = node
                count += 1
                continue
            score = node_score(cluster, room, demand, job, node, rule)
            if demand.profile[job] >= 0 and not on_cut(cluster, room, demand, job, node):
                score += UNCUT
            if score < best_score or (score == best_score and room.turn[node] < room.turn[best]):
                best, best_score = node, score
    if count > 0:
        return work.fitting[(draw & np.uint64(INDICES)) % np.uint64(count)]
    return best


@inner
def _grant(cluster, room, demand, job, node, k):
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
            if free >= milli and (best < 0 or free < room.milli[node, best]):
                best = i
        return 1 << best
    grant = 0
    for i in range(cap):
        if k > 0 and room.milli[node, i] == WHOLE:
            grant |= 1 << i
            k -= 1
    return grant


@inner
def _emptiest_gpu(room, node):
    """The least loaded GPU of the node."""
    best = 0
    for i in range(1, room.milli.shape[1]):
        if room.milli[node, i] > room.milli[node, best]:
            best = i
    return 1 << best


@inner
def _random_gpu(room, milli, node, draw):
    """Any GPU of the node on which the share fits, by the upper half of ``draw``; the lower half chose the node."""
    count = 0
    for i in range(room.milli.shape[1]):
        count += room.milli[node, i] >= milli
    left = np.int64((draw >> np.uint64(32)) % np.uint64(count))
    for i in range(room.milli.shape[1]):
        if room.milli[node, i] >= milli:
            if left == 0:
                return 1 << i
            left -= 1
    return 0


# --- gangs over several nodes -----------------------------------------------------------


@inner
def _levels(cluster, room, demand, job, p, work):
    """Fill ``work.usable`` for pool p and ``work.level``: its nodes by usable GPUs."""
    cap = cluster.pool_cap[p]
    work.level[:] = 0
    for node in range(cluster.pool_lo[p], cluster.pool_hi[p]):
        work.usable[node] = usable_gpus(room, demand, job, node, cap)
        work.level[work.usable[node]] += 1


@inner
def _tightest(work, rest, cap):
    """Fewest usable GPUs, at least ``rest``, of any node; -1 if none has as many."""
    for f in range(rest, cap + 1):
        if work.level[f] > 0:
            return f
    return -1


@inner
def _pool_cost(cluster, room, demand, job, p, rule, work):
    """Order of pools for one gang: GPUs left on its partly used node, as BEST_FIT of `rltune.allocators.placement`."""
    if rule == FIRST_FIT:
        return 0.0
    if rule == LEAST_LOADED:
        free = 0
        for node in range(cluster.pool_lo[p], cluster.pool_hi[p]):
            free += room.whole[node]
        return -float(free)
    _levels(cluster, room, demand, job, p, work)
    rest = demand.gpus[job] % cluster.pool_cap[p]
    f = _tightest(work, rest, cluster.pool_cap[p])
    return 0.0 if rest == 0 else 1e9 if f < 0 else float(f - rest)


@inner
def _find_gang(cluster, room, demand, job, p, work):
    """Entirely usable nodes first and the rest on the tightest; failing that, the m nodes with most usable GPUs."""
    g, cap = demand.gpus[job], cluster.pool_cap[p]
    full, rest = g // cap, g % cap
    _levels(cluster, room, demand, job, p, work)
    work.want[:] = 0
    f = _tightest(work, rest, cap) if rest > 0 else cap
    if f > 0 and work.level[cap] >= full + (1 if f == cap and rest > 0 else 0):
        work.want[cap] = full
        if rest > 0:
            work.want[f] += 1
        last = f
    else:
        left, last = (g + cap - 1) // cap, cap
        for level in range(cap, 0, -1):
            work.want[level] = min(work.level[level], left)
            left -= work.want[level]
            if work.want[level] > 0:
                last = level
    spare = -g
    for level in range(1, cap + 1):
        spare += level * work.want[level]
    m = 0
    for node in range(cluster.pool_lo[p], cluster.pool_hi[p]):
        level = work.usable[node]
        if level > 0 and work.want[level] > 0:
            work.want[level] -= 1
            amount = level
            if level == last and work.want[level] == 0:
                amount -= spare
            work.node[m] = node
            work.grant[m] = _grant(cluster, room, demand, job, node, amount)
            m += 1
    return m


# --- book and give back -----------------------------------------------------------------


@kernel
def take(cluster, room, demand, job, node, grant, base, m, sign):
    """Book (sign = -1) or give back (sign = +1) what ``job`` holds: ``node, grant[base:base + m]``."""
    g, milli, profile = demand.gpus[job], demand.milli[job], demand.profile[job]
    for at in range(base, base + m):
        i, mask = node[at], grant[at] & INDICES
        k = g
        if profile >= 0:
            gpu = lowest(mask)
            kind = cluster.pool_mig[cluster.node_pool[i]]
            room.slices[i, gpu] ^= ((1 << SIZE[profile, kind]) - 1) << (grant[at] >> START_BIT)
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
