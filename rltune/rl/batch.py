"""Many episodes side by side: the simulator's arrays with a leading axis of environments.

Row i of a `Batch` is one simulation; ``view`` makes it a `Sim` again, so that the
environment runs on the very kernels of the simulator.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.allocators.placement import Scratch, Space, empty_space, scratch
from rltune.cluster import Cluster, ClusterArrays
from rltune.compiled import kernel
from rltune.simulator.state import COUNTERS, Jobs, Pools, Sim

# Slots of ``Batch.tally`` (seconds or score units).
TOTAL, DONE, SCALE, LAST_END, FIRST, WORK, SHADOW = range(7)
TALLIES = 7
# Slots of ``Batch.mark``.
FRESH, SCORED, DECISIONS, HEAD, SHOWN, RESERVED, CLOSED, OVER, PAIRED = range(9)
MARKS = 9


class Batch(NamedTuple):
    """Shapes: n_envs, n_jobs (of an episode), n_nodes, n_pools, width (placement slots of an episode).

    ``base`` (n_envs, n_jobs): when the baseline order starts each job (for paired rewards; NaN: not scored);
    ``fresh`` (n_envs, n_jobs): jobs started at the present instant, the first
    ``mark[:, FRESH]``; ``spare_free`` (n_envs, n_nodes): what the reservation of job ``mark[:, RESERVED] - 1`` (0:
    none) leaves free at ``tally[:, SHADOW]``; ``slot`` (n_envs, V): queue positions of the visible jobs, the first
    ``mark[:, SHOWN]``; ``passed`` (n_envs, V): work space of choosing them; ``tally`` and ``mark``: the episode's
    book-keeping, see the slots above.
    """

    cluster: ClusterArrays
    pools: Pools
    work: Scratch
    shadow: Space
    spare: Space
    cost: npt.NDArray[np.float64]
    submit: npt.NDArray[np.float64]
    run: npt.NDArray[np.float64]
    known: npt.NDArray[np.float64]
    gpus: npt.NDArray[np.int32]
    cls: npt.NDArray[np.int32]
    rank: npt.NDArray[np.int32]
    part: npt.NDArray[np.int32]
    free: npt.NDArray[np.int64]
    level: npt.NDArray[np.int64]
    total: npt.NDArray[np.int64]
    at: npt.NDArray[np.int64]
    queue: npt.NDArray[np.int32]
    waiting: npt.NDArray[np.int64]
    class_passed: npt.NDArray[np.int64]
    misfit: npt.NDArray[np.int64]
    active: npt.NDArray[np.int32]
    expected: npt.NDArray[np.int32]
    frontier: npt.NDArray[np.int32]
    active_at: npt.NDArray[np.int32]
    expected_at: npt.NDArray[np.int32]
    turn: npt.NDArray[np.int32]
    start: npt.NDArray[np.float64]
    end: npt.NDArray[np.float64]
    believed: npt.NDArray[np.float64]
    alloc_node: npt.NDArray[np.int32]
    alloc_gpus: npt.NDArray[np.int32]
    alloc_len: npt.NDArray[np.int32]
    key: npt.NDArray[np.float64]
    clock: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    base: npt.NDArray[np.float64]
    fresh: npt.NDArray[np.int64]
    spare_free: npt.NDArray[np.int64]
    slot: npt.NDArray[np.int64]
    passed: npt.NDArray[np.int64]
    tally: npt.NDArray[np.float64]
    mark: npt.NDArray[np.int64]


def make_batch(
    n_envs: int,
    n_jobs: int,
    visible: int,
    table: Jobs,
    pools: Pools,
    cluster: Cluster,
    cost: npt.NDArray[np.float64],
) -> Batch:
    """Idle simulations for episodes of ``n_jobs`` consecutive jobs of ``table``, ``visible`` shown to the agent."""
    arrays = cluster.arrays()
    idle = empty_space(arrays, cost)
    width = int((table.part[n_jobs:] - table.part[:-n_jobs]).max())

    classes = len(pools.ptr) - 1

    def ints(n: int) -> npt.NDArray[np.int64]:
        return np.zeros((n_envs, n), np.int64)

    def small(n: int) -> npt.NDArray[np.int32]:
        return np.zeros((n_envs, n), np.int32)

    def floats(n: int) -> npt.NDArray[np.float64]:
        return np.zeros((n_envs, n))

    return Batch(
        cluster=arrays,
        pools=pools,
        work=scratch(arrays),
        shadow=empty_space(arrays, cost),
        spare=empty_space(arrays, cost),
        cost=cost,
        submit=floats(n_jobs),
        run=floats(n_jobs),
        known=floats(n_jobs),
        gpus=small(n_jobs),
        cls=small(n_jobs),
        rank=small(n_jobs),
        part=small(n_jobs + 1),
        free=np.repeat(idle.free[None], n_envs, 0),
        level=np.repeat(idle.level[None], n_envs, 0),
        total=np.repeat(idle.total[None], n_envs, 0),
        at=np.repeat(idle.at[None], n_envs, 0),
        queue=small(n_jobs),
        waiting=ints(classes),
        class_passed=ints(classes),
        misfit=np.zeros((n_envs, 2, classes), np.int64),
        active=small(n_jobs),
        expected=small(n_jobs),
        frontier=small(n_jobs + 1),
        active_at=small(n_jobs),
        expected_at=small(n_jobs),
        turn=small(n_jobs),
        start=floats(n_jobs),
        end=floats(n_jobs),
        believed=floats(n_jobs),
        alloc_node=small(width),
        alloc_gpus=small(width),
        alloc_len=small(n_jobs),
        key=floats(n_jobs),
        clock=floats(1),
        counts=ints(COUNTERS),
        base=floats(n_jobs),
        fresh=ints(n_jobs),
        spare_free=ints(len(arrays.node_pool)),
        slot=ints(visible),
        passed=ints(visible),
        tally=floats(TALLIES),
        mark=ints(MARKS),
    )


@kernel
def view(batch, i):
    """Row i as a simulation; no copy."""
    return Sim(
        batch.cluster,
        batch.pools,
        Jobs(
            batch.submit[i],
            batch.run[i],
            batch.known[i],
            batch.gpus[i],
            batch.cls[i],
            batch.rank[i],
            batch.part[i],
        ),
        Space(batch.free[i], batch.level[i], batch.total[i], batch.at[i], batch.cost),
        batch.queue[i],
        batch.waiting[i],
        batch.class_passed[i],
        batch.misfit[i],
        batch.active[i],
        batch.expected[i],
        batch.frontier[i],
        batch.active_at[i],
        batch.expected_at[i],
        batch.turn[i],
        batch.start[i],
        batch.end[i],
        batch.believed[i],
        batch.alloc_node[i],
        batch.alloc_gpus[i],
        batch.alloc_len[i],
        batch.key[i],
        batch.clock[i],
        batch.counts[i],
        batch.work,
        batch.shadow,
        batch.spare,
    )


@kernel
def load(batch, i, table, begin):
    """Copy the jobs ``begin, begin + 1, ...`` of the trace into row i."""
    for j in range(batch.submit.shape[1]):
        k = begin + j
        batch.submit[i, j] = table.submit[k]
        batch.run[i, j] = table.run[k]
        batch.known[i, j] = table.known[k]
        batch.gpus[i, j] = table.gpus[k]
        batch.cls[i, j] = table.cls[k]
        batch.rank[i, j] = table.rank[k]
        batch.part[i, j + 1] = table.part[k + 1] - table.part[begin]
    batch.part[i, 0] = 0
