"""Conservative backfill (Mu'alem and Feitelson, TPDS 2001): every waiting job, in order, holds the earliest reservation
that delays none before it; who may start now does.

The plan is made anew whenever something could start, from what is believed then, as production schedulers do. So a
promise is not kept for certain, not even with exact run times under fifo: a job may find its GPUs elsewhere than in an
earlier plan, and take those of one behind it (seen in 4 of 133,000 small random workloads). A job that has outlived its
estimate is expected to end a second from now.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.allocators.sharing import Room, copy_room, idle_room, take
from rltune.cluster import Cluster
from rltune.compiled import inner
from rltune.simulator.fleet.passes import (
    PRESENT,
    anybody_fits,
    keep_waiting,
    meet,
    meet_left,
    misfits,
    set_misfit,
    sort_by_expected_end,
    start_waiting,
)
from rltune.simulator.fleet.placing import (
    charge_quota,
    copy_left,
    expected_run,
    find_place,
    free_in,
    job_fits,
    occupy,
)
from rltune.simulator.fleet.state import NOW, OF_ROOM, PASSES, QUEUED

OVERDUE_S = 1.0
"""How long a job that has outlived its estimate is believed to go on."""


class Profile(NamedTuple):
    """Free resources over time: ``rooms`` (fields of `Room` with a leading axis of breakpoints) from ``time`` (breakpoints,) on.

    Laid out only as far as some reservation begins: behind that, resources only grow as jobs end. ``until, job,
    part`` (n_jobs + 1,): reservations, whose places ``node, grant`` are free again by then; ``met, met_left``: work space;
    ``left`` (breakpoints, n_quotas): of quotas, as `Fleet.left`;
    ``tried, found, length`` (n_classes,): before ``tried`` no job of the class fits even for an instant, and before
    ``found`` none that takes ``length`` or longer (room only shrinks while one plan is made); ``counts``: see below.
    """

    time: npt.NDArray[np.float64]
    rooms: Room
    left: npt.NDArray[np.int64]
    met: Room
    met_left: npt.NDArray[np.int64]
    until: npt.NDArray[np.float64]
    job: npt.NDArray[np.int64]
    part: npt.NDArray[np.int64]
    node: npt.NDArray[np.int64]
    grant: npt.NDArray[np.int64]
    tried: npt.NDArray[np.float64]
    found: npt.NDArray[np.float64]
    length: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]


# Slots of ``Profile.counts``: breakpoints in use; running jobs, and how many of them have been let go;
# reservations; passes that needed more breakpoints than there are.
SIZE, RUNS, LET_GO, RESERVED, RAN_OUT = range(5)


def build_profile(
    cluster: Cluster, breakpoints: int, reservations: int, places: int, classes: int, quotas: int
) -> Profile:
    """Work space for so many points in time at which free resources change, reservations, their places together,
    classes of jobs, and quotas."""
    idle = idle_room(cluster)
    rooms = Room(**{name: np.repeat(getattr(idle, name)[None], breakpoints, 0) for name in Room._fields})
    return Profile(
        time=np.zeros(breakpoints), rooms=rooms, left=np.zeros((breakpoints, quotas), np.int64), met=idle,
        met_left=np.zeros(quotas, np.int64), until=np.zeros(reservations), job=np.zeros(reservations, np.int64),
        part=np.zeros(reservations + 1, np.int64), node=np.zeros(places, np.int64), grant=np.zeros(places, np.int64),
        tried=np.zeros(classes), found=np.zeros(classes), length=np.zeros(classes), counts=np.zeros(5, np.int64),
    )  # fmt: skip


@inner
def room_at(rooms, b):
    """Breakpoint b as a room; no copy."""
    return Room(
        rooms.milli[b],
        rooms.slices[b],
        rooms.whole[b],
        rooms.loose[b],
        rooms.largest[b],
        rooms.cpus[b],
        rooms.memory[b],
        rooms.closed[b],
        rooms.pods[b],
        rooms.scale[b],
        rooms.turn[b],
    )


@inner
def start_conservative(fleet, knobs, profile):
    """Plan in order as far as somebody might start now, and start whoever's reservation begins now."""
    fleet.counts[PASSES] += 1
    if not anybody_fits(fleet):
        return
    lay_out(fleet, profile)
    n = fleet.counts[QUEUED]
    left = n
    for k in range(n):
        # Behind the last job that could start now, reservations decide nothing.
        if left <= 0 or k == knobs.reservations:
            break
        job = fleet.queue[k]
        if not misfits(fleet, job, PRESENT) and not job_fits(fleet, room_at(profile.rooms, 0), profile.left[0], job):
            set_misfit(fleet, job, PRESENT)
            left -= waiting_behind(fleet, job, k, n)
        elif not misfits(fleet, job, PRESENT):
            left -= 1
        first, m, until = earliest(fleet, knobs, profile, job)
        if first >= 0:
            if first == 0:
                start_waiting(fleet, knobs, job, m)
            hold(fleet, profile, job, m, first, until)
    keep_waiting(fleet)


@inner
def waiting_behind(fleet, job, k, n):
    """How many of the job's class stand at position k or behind."""
    count = 0
    for at in range(k, n):
        count += 1 if fleet.work.cls[fleet.queue[at]] == fleet.work.cls[job] else 0
    return count


@inner
def lay_out(fleet, profile):
    """The present; later breakpoints come as they are needed."""
    fleet.counts[PASSES] += 1
    copy_room(fleet.room, room_at(profile.rooms, 0))
    copy_left(fleet.left[OF_ROOM], profile.left[0])
    profile.time[0] = fleet.clocks[NOW]
    profile.counts[SIZE] = 1
    profile.counts[RUNS] = sort_by_expected_end(fleet)
    profile.counts[LET_GO] = 0
    profile.counts[RESERVED] = 0
    profile.tried[:] = -np.inf
    profile.found[:] = -np.inf
    profile.length[:] = np.inf


@inner
def believed_end(fleet, profile, k):
    """Expected end of the k-th running job."""
    end, now = fleet.key[fleet.order[k]], profile.time[0]
    return end if end > now else now + OVERDUE_S


@inner
def extend(fleet, profile):
    """One more breakpoint, at the next end behind the last one; False if there is none."""
    size = profile.counts[SIZE]
    horizon, instant = profile.time[size - 1], np.inf
    k = profile.counts[LET_GO]
    if k < profile.counts[RUNS]:
        instant = believed_end(fleet, profile, k)
    for r in range(profile.counts[RESERVED]):
        if profile.until[r] > horizon:
            instant = min(instant, profile.until[r])
    if instant == np.inf:
        return False
    if size == len(profile.time):
        profile.counts[RAN_OUT] += 1
        return False
    room = room_at(profile.rooms, size)
    copy_room(room_at(profile.rooms, size - 1), room)
    copy_left(profile.left[size - 1], profile.left[size])
    while k < profile.counts[RUNS] and believed_end(fleet, profile, k) <= instant:
        free_in(fleet, room, profile.left[size], fleet.order[k])
        k += 1
    profile.counts[LET_GO] = k
    for r in range(profile.counts[RESERVED]):
        if horizon < profile.until[r] <= instant:
            base, m = profile.part[r], profile.part[r + 1] - profile.part[r]
            take(fleet.cluster, room, fleet.work.demand, profile.job[r], profile.node, profile.grant, base, m, 1)
            charge_quota(fleet, profile.left[size], profile.job[r], 1)
    profile.time[size] = instant
    profile.counts[SIZE] = size + 1
    return True


@inner
def earliest(fleet, knobs, profile, job):
    """Where a reservation begins: breakpoint, its m places (in ``fleet.place``), and its end; (-1, 0, 0) if nowhere."""
    c, length = fleet.work.cls[job], fleet.work.estimate[job] - fleet.done[job]
    # Overheads of a resumed job depend on its places, so its length says nothing about others.
    fresh = fleet.runs[job] == 0
    begin = profile.tried[c]
    if fresh and length >= profile.length[c]:
        begin = max(begin, profile.found[c])
    first, misfit_so_far = 0, begin == profile.tried[c]
    while first < profile.counts[SIZE] or extend(fleet, profile):
        if profile.time[first] < begin:
            first += 1
            continue
        if misfit_so_far:
            profile.tried[c] = profile.time[first]
        room = room_at(profile.rooms, first)
        if job_fits(fleet, room, profile.left[first], job):
            misfit_so_far = False
            m, until = stays(fleet, knobs, profile, job, first)
            if m > 0:
                if fresh:
                    profile.found[c], profile.length[c] = profile.time[first], length
                return first, m, until
        first += 1
    return -1, 0, 0.0


@inner
def stays(fleet, knobs, profile, job, first):
    """Whether the job, begun at breakpoint ``first``, keeps its places to its end: how many (0: it cannot), and that end."""
    copy_room(room_at(profile.rooms, first), profile.met)
    copy_left(profile.left[first], profile.met_left)
    m = find_place(fleet, knobs, profile.met, profile.met_left, job)
    last = first + 1
    while m > 0 and last < profile.counts[SIZE]:
        if profile.time[last] >= profile.time[first] + expected_run(fleet, knobs, job, m):
            break
        meet(profile.met, room_at(profile.rooms, last), profile.met)
        meet_left(profile.met_left, profile.left[last], profile.met_left)
        last += 1
        # Where it was placed may be taken by then; other places may do.
        m = find_place(fleet, knobs, profile.met, profile.met_left, job)
    return m, (profile.time[first] + expected_run(fleet, knobs, job, m) if m > 0 else 0.0)


@inner
def hold(fleet, profile, job, m, first, until):
    """Take the places in ``fleet.place`` from breakpoint ``first`` on until ``until``."""
    last = profile.counts[SIZE]
    if until <= profile.time[last - 1]:
        last = split(profile, until)
        if first == 0 and last == 0:
            last = part_present(profile)
    for b in range(first, last):
        occupy(fleet, room_at(profile.rooms, b), profile.left[b], job, m)
    r = profile.counts[RESERVED]
    profile.until[r], profile.job[r] = until, job
    base = profile.part[r]
    profile.part[r + 1] = base + m
    for i in range(m):
        profile.node[base + i], profile.grant[base + i] = fleet.place.node[i], fleet.place.grant[i]
    profile.counts[RESERVED] = r + 1


@inner
def part_present(profile):
    """Part the present in two breakpoints of the same time, with and without jobs that start now and take no time.

    They hold GPUs until they end all the same, and whoever waits for those GPUs begins later at this instant.
    """
    size = profile.counts[SIZE]
    if size == len(profile.time):
        profile.counts[RAN_OUT] += 1
        return size
    insert(profile, 1, profile.time[0])
    return 1


@inner
def insert(profile, at, instant):
    """A breakpoint number ``at`` > 0 as the one before it; there must be room for it."""
    for b in range(profile.counts[SIZE], at, -1):
        profile.time[b] = profile.time[b - 1]
        copy_room(room_at(profile.rooms, b - 1), room_at(profile.rooms, b))
        copy_left(profile.left[b - 1], profile.left[b])
    profile.time[at] = instant
    copy_room(room_at(profile.rooms, at - 1), room_at(profile.rooms, at))
    copy_left(profile.left[at - 1], profile.left[at])
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
