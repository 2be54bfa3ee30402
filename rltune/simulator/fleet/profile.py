"""Conservative backfill (Mu'alem and Feitelson, TPDS 2001): every waiting job, in order, holds the earliest reservation
that delays none before it; who may start now does.

The plan is made anew whenever something could start, from what is believed then, as production schedulers do. With
exact run times and an order that newcomers cannot jump (fifo), making it anew changes no reservation: no job starts
later than it was first promised. A job that has outlived its estimate is expected to end a second from now.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.allocators.sharing import Room, copy_room, idle_room
from rltune.cluster import Cluster
from rltune.compiled import kernel
from rltune.simulator.fleet.events import find_place, job_fits
from rltune.simulator.fleet.passes import (
    PRESENT,
    expected_run,
    free_in,
    keep_waiting,
    meet,
    misfits,
    occupy,
    set_misfit,
    sort_by_expected_end,
    start_waiting,
)
from rltune.simulator.fleet.state import NOW, PASSES, QUEUED

OVERDUE_S = 1.0
"""How long a job that has outlived its estimate is believed to go on."""


class Profile(NamedTuple):
    """Free resources over time: ``rooms`` (fields of `Room` with a leading axis of breakpoints) from ``time`` (breakpoints,) on.

    ``met``: work space; ``size`` (1,): breakpoints in use; ``ran_out`` (1,): passes that needed more than there are.
    """

    time: npt.NDArray[np.float64]
    rooms: Room
    met: Room
    size: npt.NDArray[np.int64]
    ran_out: npt.NDArray[np.int64]


def build_profile(cluster: Cluster, breakpoints: int) -> Profile:
    """Work space for that many points in time at which free resources change."""
    idle = idle_room(cluster)
    rooms = Room(**{name: np.repeat(getattr(idle, name)[None], breakpoints, 0) for name in Room._fields})
    return Profile(np.zeros(breakpoints), rooms, idle, np.zeros(1, np.int64), np.zeros(1, np.int64))


@kernel
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
    )


@kernel
def start_conservative(fleet, knobs, profile):
    """Plan in order as far as somebody might start now, and start whoever's reservation begins now."""
    fleet.counts[PASSES] += 1
    if not anybody_fits(fleet):
        return
    lay_out(fleet, profile)
    n = fleet.counts[QUEUED]
    left, planned = n, 0
    for k in range(n):
        # Behind the last job that could start now, reservations decide nothing.
        if left <= 0 or planned == knobs.reservations:
            break
        job = fleet.queue[k]
        if not misfits(fleet, job, PRESENT) and not job_fits(fleet, room_at(profile.rooms, 0), job):
            set_misfit(fleet, job, PRESENT)
            left -= waiting_behind(fleet, job, k, n)
        elif not misfits(fleet, job, PRESENT):
            left -= 1
        first, last, m = earliest(fleet, knobs, profile, job)
        planned += 1
        if first < 0:
            continue
        if first == 0:
            start_waiting(fleet, knobs, job, m)
        for b in range(first, last):
            occupy(fleet, room_at(profile.rooms, b), job, m)
    keep_waiting(fleet)


@kernel
def waiting_behind(fleet, job, k, n):
    """How many of the job's class stand at position k or behind."""
    count = 0
    for at in range(k, n):
        count += 1 if fleet.work.cls[fleet.queue[at]] == fleet.work.cls[job] else 0
    return count


@kernel
def anybody_fits(fleet):
    """Whether any waiting job fits now."""
    for k in range(fleet.counts[QUEUED]):
        job = fleet.queue[k]
        if not misfits(fleet, job, PRESENT):
            if job_fits(fleet, fleet.room, job):
                return True
            set_misfit(fleet, job, PRESENT)
    return False


@kernel
def lay_out(fleet, profile):
    """The present, then one breakpoint for every expected end of a running job."""
    fleet.counts[PASSES] += 1
    now = fleet.clocks[NOW]
    copy_room(fleet.room, room_at(profile.rooms, 0))
    profile.time[0] = now
    profile.size[0] = 1
    for k in range(sort_by_expected_end(fleet)):
        job = fleet.order[k]
        end = fleet.key[job] if fleet.key[job] > now else now + OVERDUE_S
        for b in range(split(profile, end), profile.size[0]):
            free_in(fleet, room_at(profile.rooms, b), job)


@kernel
def split(profile, instant):
    """Index of a breakpoint at ``instant``, made if there is none; when all are used up, the next later one, or the end."""
    size = profile.size[0]
    at = size
    while at > 0 and profile.time[at - 1] > instant:
        at -= 1
    if profile.time[at - 1] == instant:
        return at - 1
    if size == len(profile.time):
        profile.ran_out[0] += 1
        return at
    for b in range(size, at, -1):
        profile.time[b] = profile.time[b - 1]
        copy_room(room_at(profile.rooms, b - 1), room_at(profile.rooms, b))
    profile.time[at] = instant
    copy_room(room_at(profile.rooms, at - 1), room_at(profile.rooms, at))
    profile.size[0] = size + 1
    return at


@kernel
def earliest(fleet, knobs, profile, job):
    """Breakpoints [first, last) of the job's reservation and its m places, in ``fleet.place``; (-1, -1, 0) if it has none."""
    first = 0
    while first < profile.size[0]:
        copy_room(room_at(profile.rooms, first), profile.met)
        m = find_place(fleet, knobs, profile.met, job)
        last = first + 1
        while m > 0 and last < profile.size[0]:
            until = profile.time[first] + expected_run(fleet, knobs, job, m)
            if profile.time[last] >= until:
                break
            meet(profile.met, room_at(profile.rooms, last), profile.met)
            last += 1
            # Where it was placed may be taken by then; other places may do.
            m = find_place(fleet, knobs, profile.met, job)
        if m > 0:
            until = profile.time[first] + expected_run(fleet, knobs, job, m)
            return first, split(profile, until), m
        first += 1
    return -1, -1, 0
