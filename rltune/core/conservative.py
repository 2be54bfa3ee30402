"""Conservative backfill (Mu'alem and Feitelson, TPDS 2001): every waiting job, in order, holds the earliest reservation
that delays none before it; who may start now does.

The plan is made anew whenever something could start, from what is believed then, as production schedulers do. So a
promise is not kept for certain, not even with exact run times under fifo: a job may find its GPUs elsewhere than in an
earlier plan, and take those of one behind it (seen in 4 of 133,000 small random workloads). A job that has outlived its
estimate is expected to end a second from now.

Reads the queue, running jobs by expected end, and what is free; writes the profile, the queue without the jobs that start,
and by `start_job` all that a run begins with.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.compiled import inner
from rltune.core.queue import begin_pass, block_class, class_blocked, close_gap, sort_queue
from rltune.core.reference import Rows, at
from rltune.core.resources import nodes
from rltune.core.resources.counts import recount
from rltune.core.resources.nodes import Nodes, charge_quota, copy_nodes, intersect, intersect_node, nodes_like
from rltune.core.resources.room import Held
from rltune.core.resources.verbs import book_held, find, fits, take_found, way_found
from rltune.core.runs import expected_run, list_by_expected_end, start_job
from rltune.core.state import CONSERVATIVE, NOW, PASSES, PRESENT, QUEUED, Sim
from rltune.nouns.cluster import Cluster

book_nodes = nodes.book

OVERDUE_S = 1.0
"""How long a job that has outlived its estimate is believed to go on."""


class Profile(NamedTuple):
    """Free resources over time, at breakpoints, and the reservations of one plan.

    Laid out only as far as some reservation begins: behind that, resources only grow as jobs end.
    """

    time: npt.NDArray[np.float64]  # (breakpoints,) seconds from which what is free there holds
    rooms: npt.NDArray[np.int64]  # (breakpoints,) addresses of `Nodes` in ``stack``
    stack: Nodes  # free resources, one more axis in front: (breakpoints, ...)
    tables: npt.NDArray[np.int64]  # memory behind ``rooms``
    met: Nodes  # work space: what is free at several breakpoints
    until: npt.NDArray[np.float64]  # (reservations,) seconds at which a reservation's places are free again
    job: npt.NDArray[np.int64]  # (reservations,) whose it is
    way: npt.NDArray[np.int64]  # (reservations,) row of the demand it holds
    part: npt.NDArray[np.int64]  # (reservations + 1,) where its places begin in ``node, grant``
    node: npt.NDArray[np.int64]  # (places,) nodes of all reservations
    grant: npt.NDArray[np.int64]  # (places,) GPUs there, as of `rltune.core.resources.slices`
    tried: npt.NDArray[np.float64]  # (n_classes,) before then no job of the class fits even for an instant
    found: npt.NDArray[np.float64]  # (n_classes,) before then none that takes ``length`` or longer
    length: npt.NDArray[np.float64]  # (n_classes,) seconds; room only shrinks while one plan is made
    counts: npt.NDArray[np.int64]  # (5,) see below


# Slots of ``Profile.counts``: breakpoints in use; running jobs, and how many of them have been let go;
# reservations; passes that needed more breakpoints than there are.
SIZE, RUNS, LET_GO, RESERVED, RAN_OUT = range(5)


def build_profile(
    cluster: Cluster, free: Nodes, breakpoints: int, reservations: int, places: int, classes: int
) -> Profile:
    """Work space for so many points in time at which free resources change, reservations, their places together, and
    classes of jobs, on free resources like ``free``."""
    idle = nodes_like(cluster, free)

    stack = Nodes(*(stacked(part, breakpoints) for part in idle))
    rows = Rows(stack, breakpoints)
    return Profile(
        time=np.zeros(breakpoints), rooms=rows.addresses, stack=stack, tables=rows.memory, met=idle,
        until=np.zeros(reservations), job=np.zeros(reservations, np.int64),
        way=np.zeros(reservations, np.int64), part=np.zeros(reservations + 1, np.int64),
        node=np.zeros(places, np.int64), grant=np.zeros(places, np.int64), tried=np.zeros(classes),
        found=np.zeros(classes), length=np.zeros(classes), counts=np.zeros(5, np.int64),
    )  # fmt: skip


def stacked(part: Any, n: int) -> Any:
    """An array, or a NamedTuple of them, n times along a new first axis."""
    return np.repeat(part[None], n, 0) if isinstance(part, np.ndarray) else type(part)(*(stacked(x, n) for x in part))


PROFILE_BYTES = 1 << 30
"""Most memory for the reservations of conservative backfill."""


def with_profile(sim: Sim, cluster: Cluster) -> Sim:
    """The state with room to plan for now, for every running job and for every reservation, as far as memory goes.

    A small one where backfilling is another: kernels are compiled for one type.
    """
    if sim.params.backfill != CONSERVATIVE:
        profile = build_profile(cluster, sim.space, 1, 0, 0, 0)
        return sim._replace(detail=sim.detail._replace(profile=profile))
    room, levels = sim.space.room, sim.space.levels
    each = sum(part.nbytes for part in (*room, *levels))
    jobs, planned = len(sim.jobs.submit), sim.params.reservations
    reservations = jobs if planned < 0 else min(jobs, planned)
    breakpoints = max(64, min(3 + len(sim.active) + reservations, PROFILE_BYTES // each))
    profile = build_profile(cluster, sim.space, breakpoints, reservations, int(sim.jobs.part[-1]), len(sim.waiting))
    return sim._replace(detail=sim.detail._replace(profile=profile))


@inner
def room_at(profile, b):
    """Breakpoint b as free resources."""
    return at(profile.met, profile.rooms[b])


@inner
def start_conservative(sim):
    """Plan in order as far as some job might start now, and start those whose reservations begin now."""
    profile = sim.detail.profile
    sort_queue(sim)
    left = begin_pass(sim)
    if not anything_fits(sim):
        return
    sim.counts[PASSES] += 1
    lay_out(sim, profile)
    kept, i = 0, 0
    # Behind the last job that could start now, reservations decide nothing.
    while left > 0 and i != sim.params.reservations:
        job = sim.queue[i]
        c = sim.jobs.cls[job]
        i += 1
        if not class_blocked(sim, job, PRESENT):
            if fits(sim, room_at(profile, 0), job):
                left -= 1
                sim.passed[c] += 1
            else:
                block_class(sim, job, PRESENT)
                # Those of its class that fitted before have been counted already.
                left -= sim.waiting[c] - sim.passed[c]
        # Each job in order holds the earliest places that all before it leave; who holds them from now on starts.
        first, m, until = earliest(sim, profile, job)
        if first >= 0:
            hold(sim, profile, job, m, first, until)
        if first == 0:
            start_job(sim, job, m)
            sim.waiting[c] -= 1
            sim.passed[c] -= 1
        else:
            sim.queue[kept] = job
            kept += 1
    close_gap(sim, kept, i)


@inner
def anything_fits(sim):
    """Whether any waiting job fits now."""
    sim.passed[:] = 0
    left = sim.counts[QUEUED]
    k = 0
    while left > 0:
        job = sim.queue[k]
        k += 1
        if not class_blocked(sim, job, PRESENT):
            if fits(sim, sim.space, job):
                return True
            block_class(sim, job, PRESENT)
            left -= sim.waiting[sim.jobs.cls[job]]
    return False


@inner
def lay_out(sim, profile):
    """The present, and the running jobs by expected end; later breakpoints come as they are needed."""
    copy_nodes(sim.space, room_at(profile, 0))
    profile.time[0] = sim.clock[NOW]
    profile.counts[SIZE] = 1
    profile.counts[RUNS] = list_by_expected_end(sim)
    put_overdue_in_order(sim, profile)
    profile.counts[LET_GO] = 0
    profile.counts[RESERVED] = 0
    profile.tried[:] = -np.inf
    profile.found[:] = -np.inf
    profile.length[:] = np.inf


@inner
def put_overdue_in_order(sim, profile):
    """Running jobs that outlive their estimate come first by it, but are believed to end after those that end before them."""
    order, now, runs = sim.detail.order, profile.time[0], profile.counts[RUNS]
    overdue = 0
    while overdue < runs and sim.believed[order[overdue]] <= now:
        overdue += 1
    sooner = overdue
    while sooner < runs and sim.believed[order[sooner]] < now + OVERDUE_S:
        sooner += 1
    if overdue > 0 and sooner > overdue:
        # The two stretches change places: each turned round, then both together.
        turn_round(order, 0, overdue)
        turn_round(order, overdue, sooner)
        turn_round(order, 0, sooner)


@inner
def turn_round(jobs, lo, hi):
    """``jobs[lo:hi]`` in the opposite order."""
    while lo < hi - 1:
        hi -= 1
        jobs[lo], jobs[hi] = jobs[hi], jobs[lo]
        lo += 1


@inner
def believed_end(sim, profile, k):
    """Expected end of the k-th running job."""
    end, now = sim.believed[sim.detail.order[k]], profile.time[0]
    return end if end > now else now + OVERDUE_S


@inner
def extend(sim, profile):
    """One more breakpoint, at the next end behind the last one; False if there is none."""
    size = profile.counts[SIZE]
    horizon, instant = profile.time[size - 1], np.inf
    k = profile.counts[LET_GO]
    if k < profile.counts[RUNS]:
        instant = believed_end(sim, profile, k)
    for r in range(profile.counts[RESERVED]):
        if profile.until[r] > horizon:
            instant = min(instant, profile.until[r])
    if instant == np.inf:
        return False
    if size == len(profile.time):
        profile.counts[RAN_OUT] += 1
        return False
    # What is free at the last breakpoint, and what running jobs and reservations that end by then let go.
    room = room_at(profile, size)
    copy_nodes(room_at(profile, size - 1), room)
    while k < profile.counts[RUNS] and believed_end(sim, profile, k) <= instant:
        book_held(sim, room, sim.detail.order[k], 1)
        k += 1
    profile.counts[LET_GO] = k
    for r in range(profile.counts[RESERVED]):
        if horizon < profile.until[r] <= instant:
            job, base, m = profile.job[r], profile.part[r], profile.part[r + 1] - profile.part[r]
            way = profile.way[r]
            held = Held(profile.node, profile.grant, base, m)
            book_nodes(sim.cluster, room, sim.detail.demand, way, held, 1)
            charge_quota(room, sim.detail.group[job], sim.detail.amount[way], 1)
    profile.time[size] = instant
    profile.counts[SIZE] = size + 1
    return True


@inner
def earliest(sim, profile, job):
    """Where a reservation begins: breakpoint, its m places (in ``sim.place``), and its end; (-1, 0, 0) if nowhere."""
    c, length = sim.jobs.cls[job], sim.jobs.known[job] - sim.detail.done[job]
    # Where overheads depend on the places, a job's length says nothing about others.
    fresh = length_says_all(sim, job)
    # What earlier jobs of the class have shown not to fit need not be tried again.
    begin = profile.tried[c]
    if fresh and length >= profile.length[c]:
        begin = max(begin, profile.found[c])
    first, misfit_so_far = 0, begin == profile.tried[c]
    while first < profile.counts[SIZE] or extend(sim, profile):
        if profile.time[first] < begin:
            first += 1
            continue
        if misfit_so_far:
            profile.tried[c] = profile.time[first]
        after = first + 1
        if fits(sim, room_at(profile, first), job):
            misfit_so_far = False
            # A breakpoint at which it does not fit lies within every stretch that begins before: go on behind it.
            blocked = first_misfit(sim, profile, job, first)
            if blocked < 0:
                m, until = stays(sim, profile, job, first)
                if m > 0:
                    if fresh:
                        profile.found[c], profile.length[c] = profile.time[first], length
                    return first, m, until
            else:
                after = blocked + 1
        first = after
    return -1, 0, 0.0


@inner
def shortest_run(sim, job):
    """Seconds that a job will hold its places at least, wherever they are."""
    c, fastest = sim.jobs.cls[job], 0.0
    for q in range(sim.choices.ptr[c], sim.choices.ptr[c + 1]):
        fastest = max(fastest, sim.choices.guess[q])
    return max(0.0, sim.jobs.known[job] - sim.detail.done[job]) / fastest


@inner
def first_misfit(sim, profile, job, first):
    """The first breakpoint, while a job begun at ``first`` surely runs, at which it does not fit by itself; -1: none."""
    end, b = profile.time[first] + shortest_run(sim, job), first + 1
    while b < profile.counts[SIZE] and profile.time[b] < end:
        if not fits(sim, room_at(profile, b), job):
            return b
        b += 1
    return -1


@inner
def runs_alike(sim, job):
    """Whether the job takes as long wherever it is placed: one speed, nothing to restore or to reconfigure."""
    lo, hi = sim.choices.ptr[sim.jobs.cls[job]], sim.choices.ptr[sim.jobs.cls[job] + 1]
    return length_says_all(sim, job) and sim.choices.stop[lo] == hi


@inner
def length_says_all(sim, job):
    """Whether no overhead depends on the places: a job that has not run, on pools where no MIG instances have to change."""
    if sim.detail.runs[job] > 0:
        return False
    c = sim.jobs.cls[job]
    if sim.space.room.layout.shape[1] > 0:
        for q in range(sim.choices.ptr[c], sim.choices.ptr[c + 1]):
            if sim.cluster.pool_mig[sim.choices.pool[q]] >= 0:
                return False
    return True


@inner
def stays(sim, profile, job, first):
    """Whether the job, begun at breakpoint ``first``, keeps its places to its end: how many (0: it cannot), and that end."""
    begins, met = profile.time[first], profile.met
    copy_nodes(room_at(profile, first), met)
    last, alike = first + 1, runs_alike(sim, job)
    if alike:
        # Its end is known, so it is placed once, where it finds room all the time.
        end = begins + shortest_run(sim, job)
        while last < profile.counts[SIZE] and profile.time[last] < end:
            intersect_free(met, room_at(profile, last))
            last += 1
        settle_levels(sim, met)
        return find(sim, met, job), end
    m = find(sim, met, job)
    while m > 0 and last < profile.counts[SIZE]:
        if profile.time[last] >= begins + expected_run(sim, job, m):
            break
        intersect(sim.cluster, met, room_at(profile, last), met)
        last += 1
        # Where it was placed may be taken by then; other places may do.
        m = find(sim, met, job)
    return m, (begins + expected_run(sim, job, m) if m > 0 else 0.0)


@inner
def intersect_free(met, room):
    """Leave in ``met`` what is free in both; its levels follow later (`settle_levels`)."""
    for node in range(len(met.room.whole)):
        intersect_node(met.room, room.room, met.room, node)
    for group in range(len(met.left)):
        met.left[group] = min(met.left[group], room.left[group])


@inner
def settle_levels(sim, met):
    """Bring the levels of ``met`` in step with its nodes."""
    for node in range(len(met.room.whole)):
        met.levels.free[node] = met.room.whole[node] if met.room.closed[node] == 0 else 0
    recount(sim.cluster, met.levels)


@inner
def hold(sim, profile, job, m, first, until):
    """Take the places in ``sim.place`` from breakpoint ``first`` on until ``until``."""
    # It holds them up to a breakpoint at its end, which is made; beyond the last they are let go by `extend`.
    last = profile.counts[SIZE]
    if until <= profile.time[last - 1]:
        last = split(profile, until)
        if first == 0 and last == 0:
            last = part_present(profile)
    for b in range(first, last):
        take_found(sim, room_at(profile, b), job, m)
    r = profile.counts[RESERVED]
    profile.until[r], profile.job[r], profile.way[r] = until, job, way_found(sim)
    base = profile.part[r]
    profile.part[r + 1] = base + m
    for i in range(m):
        profile.node[base + i], profile.grant[base + i] = sim.place.found.node[i], sim.place.found.grant[i]
    profile.counts[RESERVED] = r + 1


@inner
def part_present(profile):
    """Part the present in two breakpoints of the same time, with and without jobs that start now and take no time.

    They hold GPUs until they end all the same, and a job that waits for those GPUs begins later at this instant.
    """
    size = profile.counts[SIZE]
    if size == len(profile.time):
        profile.counts[RAN_OUT] += 1
        return size
    insert(profile, 1, profile.time[0])
    return 1


@inner
def insert(profile, where, instant):
    """A breakpoint number ``where`` > 0 as the one before it; there must be room for it."""
    size = profile.counts[SIZE]
    # The unused free resources behind the last breakpoint become the new one's; all others stay where they lie.
    spare = profile.rooms[size]
    for b in range(size, where, -1):
        profile.time[b] = profile.time[b - 1]
        profile.rooms[b] = profile.rooms[b - 1]
    profile.time[where], profile.rooms[where] = instant, spare
    copy_nodes(room_at(profile, where - 1), room_at(profile, where))
    profile.counts[SIZE] += 1


@inner
def split(profile, instant):
    """Index of a breakpoint at ``instant``, not behind the last, made if there is none; the next later one if all are used up."""
    size = profile.counts[SIZE]
    at = size
    while profile.time[at - 1] > instant:
        at -= 1
    if profile.time[at - 1] == instant:
        return at - 1
    if size == len(profile.time):
        profile.counts[RAN_OUT] += 1
        return at
    insert(profile, at, instant)
    return at
