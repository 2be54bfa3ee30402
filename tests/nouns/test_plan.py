"""Every kind of impossible plan is refused, whoever made it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.plan import Plan, PlanError, Queue, Running, Snapshot, Start
from rltune.nouns.plan_check import check_plan

CLUSTER = Cluster("c", (Pool("a", 3, 4), Pool("b", 1, 8)))


def snapshot() -> Snapshot:
    """Jobs 5 (2 GPUs, pool a), 6 (6 GPUs, pool a) and 7 (8 GPUs, pool b); node 0 has one GPU left."""
    empty = np.zeros(0, np.int64)
    return Snapshot(
        now_s=0.0,
        cluster=CLUSTER.arrays(),
        free=np.array([1, 4, 4, 8]),
        queue=Queue(
            job=np.array([5, 6, 7]),
            submit_s=np.zeros(3),
            run_s=np.ones(3),
            num_gpus=np.array([2, 6, 8]),
            wait_s=np.zeros(3),
            priority=np.zeros(3),
            pool_lo=np.array([0, 0, 1]),
            pool_hi=np.array([1, 1, 2]),
            pools=np.array([0, 1]),
        ),
        running=Running(empty, np.zeros(0), np.zeros(1, np.int64), empty, empty),
    )


def test_a_good_plan_passes_and_changes_nothing() -> None:
    """The check would refuse what is legal, or eat the free GPUs it only looks at."""
    seen = snapshot()
    check_plan(seen, Plan((Start(6, (1, 2), (4, 2)), Start(5, (2,), (2,)), Start(7, (3,), (8,)))))
    check_plan(seen, Plan(()))
    assert seen.free.tolist() == [1, 4, 4, 8]


@pytest.mark.parametrize(
    "starts",
    [
        pytest.param([Start(5, (0,), (2,))], id="more GPUs than the node has free"),
        pytest.param([Start(6, (1, 2), (4, 2)), Start(5, (1,), (2,))], id="two jobs together over-allocate a node"),
        pytest.param([Start(5, (1,), (1,))], id="gang incomplete"),
        pytest.param([Start(5, (1,), (3,))], id="more GPUs than wanted"),
        pytest.param([Start(5, (), ())], id="no node at all"),
        pytest.param([Start(5, (1, 2), (2,))], id="a node without GPUs"),
        pytest.param([Start(5, (1, 2), (2, 0))], id="zero GPUs on a node"),
        pytest.param([Start(5, (1, 2), (3, -1))], id="negative GPUs on a node"),
        pytest.param([Start(6, (1, 1), (3, 3))], id="a node twice"),
        pytest.param([Start(5, (3,), (2,))], id="a foreign pool"),
        pytest.param([Start(6, (2, 3), (4, 2))], id="two pools at once"),
        pytest.param([Start(9, (1,), (2,))], id="a job that is not queued"),
        pytest.param([Start(5, (1,), (2,)), Start(5, (2,), (2,))], id="a job twice"),
        pytest.param([Start(5, (17,), (2,))], id="a node that does not exist"),
        pytest.param([Start(7, (-1,), (8,))], id="a negative node"),
        pytest.param([Start(6, (1, -2), (3, 3))], id="a node twice, once counted from the end"),
        pytest.param([Start(5, (1, 2), (1, 1))], id="more nodes than the gang needs"),
        pytest.param([Start(6, (1, 2), (3.5, 2.5))], id="parts of GPUs"),  # type: ignore[arg-type]
    ],
)
def test_impossible_plans_are_refused(starts: list[Start]) -> None:
    """A faulty allocator would start jobs on GPUs that are not there, and the schedule would look fine."""
    with pytest.raises(PlanError, match=r"job|node"):
        check_plan(snapshot(), Plan(tuple(starts)))


SCATTERING = """
import numpy as np
import rltune
from rltune.nouns.plan import Plan, PlanError, Start

class Scattering:
    def allocate(self, seen, order, backfill):
        free, starts = seen.free.copy(), []
        for at in order:
            nodes = np.flatnonzero(free)[: seen.queue.num_gpus[at]]
            if len(nodes) == seen.queue.num_gpus[at]:
                free[nodes] -= 1
                starts.append(Start(int(seen.queue.job[at]), tuple(nodes.tolist()), (1,) * len(nodes)))
        return Plan(tuple(starts))

jobs = rltune.JobTable.from_columns({"submit_s": [0, 0, 0], "duration_s": [5, 5, 5], "num_gpus": [2, 2, 2]})
cluster = rltune.load_cluster({"pools": [{"nodes": 3, "gpus_per_node": 4}]})
try:
    result = rltune.simulate(jobs, cluster, allocator=Scattering())
except PlanError:
    pass
else:
    assert [sum(gpus) for gpus in result.schedule.gpus] == [2, 2, 2], result.schedule.gpus.tolist()
"""


def test_an_allocator_that_scatters_gangs_cannot_corrupt_the_schedule() -> None:
    """A gang on more nodes than it needs would be written over the next job's placement, or past the end of the array."""
    # In a process of its own: compiled code that writes past an array may take the test run with it.
    done = subprocess.run([sys.executable, "-c", SCATTERING], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
