"""What notebooks call: `rltune.simulate`, `rltune.lower_bounds`, `rltune.load_policy` and `rltune.who_is_next`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rltune.allocators.greedy import GreedyAllocator
from rltune.config import load_cluster
from rltune.models.catalogue import file_of
from rltune.nouns.cluster import Cluster
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.nouns.plan import Policy
from rltune.policies.orders import ALIASES, ORDERS, order, sequence
from rltune.policies.preemptive import PREEMPTIVE, PREEMPTIVE_ALIASES
from rltune.simulator import bounds
from rltune.simulator.bounds import Bounds
from rltune.simulator.decisions import Picker, Steerer
from rltune.simulator.moment import snapshot_of
from rltune.simulator.result import Result
from rltune.simulator.run import check_backfill, simulate_jobs
from rltune.traces import Trace


def simulate(workload: Trace | JobTable, cluster: Cluster | str, **options: Any) -> Result:
    """Simulate a trace (or a job table) on a cluster; see `rltune.simulator.run.simulate_jobs` for all options.

    ``policy``: a name (fifo, sjf, f1, ...; of a shipped model: helios, ...), a file or run directory of a learned policy, or a
    function (queue, snapshot) -> keys; ``backfill``: blocking, strict, skip, easy, conservative; ``allocator``: lexicographic, best_fit,
    least_fragmentation, milp (also an object ``MilpAllocator`` with options), or an object;
    ``runtimes``: exact, requested, predicted, online, unknown.
    """
    if not isinstance(workload, Trace | JobTable):
        raise InputError(
            f"simulate: {type(workload).__name__} is no trace or job table; use rltune.load_trace, or "
            "rltune.JobTable.from_columns(frame)"
        )
    if isinstance(cluster, str):
        cluster = load_cluster(cluster)
    if isinstance(options.get("policy"), str) and is_learned(options["policy"]):
        options["policy"] = load_policy(options["policy"])
    if options.get("allocator") == "milp":
        # The solver takes a while to import; only those who ask for the MILP wait for it.
        from rltune.allocators.milp import MilpAllocator

        options["allocator"] = MilpAllocator()
    return simulate_jobs(workload, cluster, **options)


def is_learned(policy: str) -> bool:
    """Whether a policy is a shipped model by name, or named by its file or the run directory that it lies in.

    Names of orders and of models come before directories that happen to be called so (``./helios`` is one).
    """
    if policy in {*ORDERS, *ALIASES, *PREEMPTIVE, *PREEMPTIVE_ALIASES}:
        return False
    return file_of(policy) is not None or policy.endswith(".safetensors") or "/" in policy or Path(policy).is_dir()


def load_policy(policy: str | Path) -> Any:
    """A learned policy (`rltune.rl.policy_file.LearnedPolicy`): a shipped model by name, a policy file, or a run directory."""
    # PyTorch takes a while to import; only learned policies need it.
    from rltune.rl import policy_file

    return policy_file.load_policy(policy)


class Next(NamedTuple):
    """Job ids: those that start now, first to start first, and those that go on waiting, in the order they stand in."""

    start: list[str]
    wait: list[str]


def who_is_next(
    policy: Any,
    waiting: JobTable | Mapping[str, Any],
    cluster: Cluster | str,
    *,
    now_s: float | None = None,
    running: Mapping[str, Sequence[Any]] | None = None,
    backfill: str = "easy",
) -> Next:
    """What a policy does with a live queue: whole GPUs, no suspension.

    Args:
        policy: of `load_policy`, or by name (of a model or an order), or a function (queue, snapshot) -> keys.
        waiting: a job table or its columns; ``duration_s`` is the run time as believed, seconds.
        cluster: the machines, or their name.
        now_s: the present second on the clock of ``submit_s``; None: that of the last submission.
        running: what runs, as `rltune.simulator.moment.snapshot_of` takes it; None: nothing.
        backfill: of orders and functions; a learned policy has its own.

    Raises:
        InputError: what `snapshot_of` and `rltune.rl.asking.answer` refuse.
    """
    jobs = waiting if isinstance(waiting, JobTable) else JobTable.from_columns(waiting)
    snapshot = snapshot_of(jobs, load_cluster(cluster) if isinstance(cluster, str) else cluster, now_s, running)
    if isinstance(policy, str):
        policy = load_policy(policy) if is_learned(policy) else order(policy)
    if isinstance(policy, Steerer):
        raise InputError(
            f"policy: an agent in index form sets parameters of {policy.baseline} in a running simulation, and picks nobody; give "
            "an order, or a policy of agent=pick"
        )
    if isinstance(policy, Picker):
        learned: Any = policy
        start, wait = learned.answer(snapshot)
    else:
        ordered: Policy = policy
        first = sequence(ordered(snapshot.queue, snapshot), len(jobs))
        plan = GreedyAllocator().allocate(snapshot, first, check_backfill(backfill))
        start = np.array([each.job for each in plan.starts], np.int64)
        wait = first[~np.isin(first, start)]
    return Next(*([str(jobs.job_id[position]) for position in part] for part in (start, wait)))


def lower_bounds(workload: Trace | JobTable, cluster: Cluster | str, preemptive: bool = False) -> Bounds:
    """What no schedule can beat: mean JCT and wait, makespan; see `rltune.simulator.bounds`.

    ``preemptive``: also none that interrupts jobs; else none without preemption, which is tighter.
    """
    jobs = workload if isinstance(workload, JobTable) else workload.jobs
    return bounds.lower_bounds(jobs, load_cluster(cluster) if isinstance(cluster, str) else cluster, preemptive)
