"""Decisions taken outside the kernels: by a user-defined policy, a user-defined allocator, or both.

The loop of the core stops at every instant at which jobs wait and hands the state out. A user-defined policy gives keys, and
the compiled pass goes by them: any backfilling, any placement rule, suspension, conservative reservations. A user-defined
allocator gives a `Plan`, which is checked and carried out. Snapshots and plans are the same in both builds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from rltune.core.loop import DECIDE, FINISHED_ALL, LOG_FULL, PAUSED, begin, run_for, start_by_given_keys, work_out_keys
from rltune.core.placing import start_there, suspend
from rltune.core.queue import position_of, remove_at
from rltune.core.reference import Ref, ref
from rltune.core.repartition import repartition
from rltune.core.resources.slices import INDICES
from rltune.core.state import NOW, QUEUED, RUNNING, STARTED, Detail, Sim, with_larger_log
from rltune.nouns.cluster import ClusterArrays
from rltune.nouns.jobs import WHOLE
from rltune.nouns.mig_layout import changed
from rltune.nouns.plan import Allocator, Plan, Policy, Queue, Running, Snapshot
from rltune.policies.orders import ranks
from rltune.scheduler import decide
from rltune.simulator.progress import Pace


class Decision(Protocol):
    """Lets jobs start (and suspends some) at one instant."""

    def take(self, state: Ref) -> None:
        """``state``: a `rltune.core.state.Sim` by reference."""
        ...


@runtime_checkable
class Picker(Protocol):
    """A policy that picks one job after the other and looks again in between: a learned one.

    It corrects a ``baseline``, a policy by name: jobs stand in the queue in its order, and where it may suspend running
    jobs, so may the job that is picked.
    """

    @property
    def baseline(self) -> str: ...

    def decision(self, sim: Sim, joint: Any = None) -> Any: ...


@runtime_checkable
class Steerer(Protocol):
    """A policy that sets parameters of a ``baseline``, a policy by name, while that decides: a learned one in index form."""

    @property
    def baseline(self) -> str: ...

    def steering(self, sim: Sim, joint: Decision | None = None) -> Decision: ...


def drive(sim: Sim, decision: Decision | None) -> Sim:
    """Simulate from time zero to the end; the final state (its log may have been replaced by a larger one)."""
    state, pace = ref(sim), Pace()
    begin(state)
    while (code := run_for(state, pace.steps)) != FINISHED_ALL:
        if code == LOG_FULL:
            state = ref(with_larger_log(state.value))
        elif code == DECIDE:
            assert decision is not None
            decision.take(state)
        pace.look(state.value, code == PAUSED)
    final: Sim = state.value
    pace.tell(final)
    return final


def told_by(decision: Any) -> dict[str, Any]:
    """What a guarded policy adds to the summary: how often it decided itself; nothing for others."""
    return {"guard": decision.summary()} if hasattr(decision, "summary") else {}


@dataclass(slots=True)
class GivenKeys:
    """A user-defined policy orders the jobs; starts, places and suspensions follow as for a named policy.

    Where running jobs may be suspended, the policy sees them too (``queue.running``) and gives them keys.
    """

    policy: Policy
    priority: npt.NDArray[np.float64]
    suspends: bool = False
    records: list[dict[str, object]] = field(default_factory=list)

    def take(self, state: Ref) -> None:
        order_by(state.value, self.policy, self.priority, self.suspends)
        waiting, started = int(state.value.counts[QUEUED]), int(state.value.counts[STARTED])
        now = float(state.value.clock[NOW])
        start_by_given_keys(state)
        self.records.append({"now_s": now, "queued": waiting, "started": int(state.value.counts[STARTED]) - started})


def order_by(sim: Sim, policy: Policy, priority: npt.NDArray[np.float64], suspends: bool) -> None:
    """Write the policy's order down as keys: jobs with equal keys do not suspend each other."""
    snapshot = take_snapshot(sim, priority, suspends)
    sim.key[snapshot.queue.job] = ranks(policy(snapshot.queue, snapshot), len(snapshot.queue))


@dataclass(slots=True)
class Planned:
    """A user-defined allocator turns the order of a policy into a plan; ``policy`` None: the order of the parameters."""

    policy: Policy | None
    allocator: Allocator
    backfill: str
    priority: npt.NDArray[np.float64]
    suspends: bool = False
    records: list[dict[str, object]] = field(default_factory=list)

    def take(self, state: Ref) -> None:
        snapshot = take_snapshot(state.value, self.priority, self.suspends)
        plan = decide(snapshot, self.policy or self._named(state), self.allocator, self.backfill)
        carry_out(state, plan)
        self.note(snapshot, plan)

    def _named(self, state: Ref) -> Policy:
        """The keys of a named policy at this instant, as the kernels have them."""
        work_out_keys(state)
        key = state.value.key
        return lambda queue, _: key[queue.job]

    def note(self, snapshot: Snapshot, plan: Plan) -> None:
        """Append the record of a decision."""
        self.records.append(
            {"now_s": snapshot.now_s, "queued": len(snapshot.queue), "started": len(plan.starts)} | plan.report
        )


def carry_out(state: Ref, plan: Plan) -> None:
    """Suspensions first, then repartitions, then starts, in the plan's order; the plan has been checked.

    What a start needs changed on its GPUs comes with it.
    """
    for job in plan.suspensions:
        suspend(state, job)
    sim, cluster = state.value, state.value.cluster
    for one in plan.repartitions:
        kind = int(cluster.pool_mig[cluster.node_pool[one.node]])
        room, here = sim.space.room, (one.node, one.gpu)
        layout, seconds = changed(
            int(room.layout[here]), kind, int(room.slices[here]), one.destroy, one.create, sim.params.mig_mode
        )
        repartition(state, one.node, one.gpu, layout, seconds)
    for start in plan.starts:
        m = len(start.nodes)
        nodes, gpus = np.array(start.nodes, np.int64), np.array(start.gpus, np.int64)
        grants = np.array(start.grants or np.full(m, -1), np.int64)
        position = position_of(state, start.job)
        remove_at(state, position)
        start_there(state, start.job, max(0, start.way), nodes, gpus, grants)


# --- what is seen -------------------------------------------------------------------------


def read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A view that a plug-in cannot write through."""
    seen = array.view()
    seen.setflags(write=False)
    return seen


def take_snapshot(sim: Sim, priority: npt.NDArray[np.float64], suspends: bool = False, only: Any = None) -> Snapshot:
    """Read-only view of the present instant.

    ``suspends``: the queue shows running jobs too; ``only``: restrict it to these jobs.
    """
    now, n = float(sim.clock[NOW]), int(sim.counts[RUNNING])
    running = sim.active[:n].copy()
    job = np.sort(sim.queue[: sim.counts[QUEUED]]) if only is None else only
    if suspends:
        job = np.sort(np.concatenate([job, running]))
    lengths = sim.alloc_len[running]
    ptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    where = np.repeat(sim.jobs.part[running] - ptr[:-1], lengths) + np.arange(ptr[-1])
    grants = sim.alloc_grant[where]
    detail = isinstance(sim.detail, Detail)
    return Snapshot(
        now_s=now,
        cluster=ClusterArrays(*map(read_only, sim.cluster)),
        free=read_only(open_gpus(sim)),
        queue=queue_of(sim, job, priority, np.isin(job, running) if suspends else np.zeros(len(job), bool)),
        running=Running(
            job=read_only(running),
            end_s=read_only(sim.believed[running] if detail else sim.start[running] + sim.jobs.known[running]),
            ptr=read_only(ptr),
            nodes=read_only(sim.alloc_node[where]),
            gpus=read_only(np.bitwise_count(grants & INDICES).astype(np.int64) if detail else grants),
            grants=read_only(grants if detail else np.full(len(grants), -1)),
            way=read_only(
                sim.detail.way[running] - sim.choices.ptr[sim.jobs.cls[running]] if detail else np.zeros(n, np.int64)
            ),
            **held_by(sim, running),
        ),
        room=sim.space.room._replace(**{k: read_only(v) for k, v in sim.space.room._asdict().items()})
        if detail
        else None,
        mig_mode_s=sim.params.mig_mode if detail else 0.0,
        resume_s=sim.params.suspend + sim.params.resume if detail else 0.0,
        migrate_s=sim.params.migrate if detail else 0.0,
        quota_left=read_only(sim.space.left if detail else np.zeros(0, np.int64)),
    )


def held_by(sim: Sim, running: Any) -> dict[str, Any]:
    """What running jobs hold, as columns of `Running`; empty ones where whole GPUs alone are simulated."""
    if not isinstance(sim.detail, Detail):
        none = {"gpu_milli": np.int64, "profile": np.int64, "cpus": np.float64, "memory_gb": np.float64}
        none |= {"group": np.int64, "amount": np.int64}
        return {name: read_only(np.zeros(0, kind)) for name, kind in none.items()}
    demand, way = sim.detail.demand, sim.choices.way[sim.detail.way[running]]
    return {
        "gpu_milli": read_only(demand.milli[way]),
        "profile": read_only(demand.profile[way]),
        "cpus": read_only(demand.cpus[way]),
        "memory_gb": read_only(demand.memory[way]),
        "group": read_only(sim.detail.group[running]),
        "amount": read_only(sim.detail.amount[way]),
    }


def open_gpus(sim: Sim) -> npt.NDArray[np.int64]:
    """(n_nodes,) wholly free GPUs of open nodes."""
    free: npt.NDArray[np.int64] = sim.space.levels.free if isinstance(sim.detail, Detail) else sim.space.free
    return free


def queue_of(sim: Sim, job: Any, priority: npt.NDArray[np.float64], running: Any) -> Queue:
    """The given jobs as policies see them."""
    now, c, detail = float(sim.clock[NOW]), sim.jobs.cls[job], sim.detail
    full = isinstance(detail, Detail)
    elapsed = now - sim.jobs.submit[job]
    held = detail.held[job] + np.where(running, now - detail.since[job], 0.0) if full else np.zeros(len(job))
    way = sim.choices.way[detail.way[job]] if full else job
    gpus = detail.size[way] if full else sim.jobs.gpus[job]
    none = np.zeros(0, np.int64)
    attained = detail.service[job] + np.where(running, now - detail.since[job], 0.0) * gpus if full else held
    return Queue(
        job=read_only(job),
        submit_s=read_only(sim.jobs.submit[job]),
        run_s=read_only(sim.jobs.known[job]),
        num_gpus=read_only(sim.jobs.gpus[job]),
        wait_s=read_only(elapsed - held),
        priority=read_only(priority[job]),
        pool_lo=read_only(sim.choices.ptr[c]),
        pool_hi=read_only(sim.choices.ptr[c + 1]),
        pools=read_only(sim.choices.pool),
        speed=read_only(sim.choices.guess),
        gpu_milli=read_only(detail.demand.milli[way] if full else np.full(len(job), WHOLE)),
        profile=read_only(detail.demand.profile[way] if full else np.full(len(job), -1)),
        cpus=read_only(detail.demand.cpus[way] if full else np.zeros(len(job))),
        memory_gb=read_only(detail.demand.memory[way] if full else np.zeros(len(job))),
        way=read_only(sim.choices.way if full else none),
        way_gpus=read_only(detail.demand.gpus if full else none),
        way_milli=read_only(detail.demand.milli if full else none),
        way_profile=read_only(detail.demand.profile if full else none),
        way_amount=read_only(detail.amount if full else none),
        group=read_only(detail.group[job] if full else none),
        attained_gpu_s=read_only(attained),
        done_s=read_only(detail.done[job] if full else np.zeros(len(job))),
        running=read_only(running),
    )
