"""Compiled episodes of one GPU each: which actions are legal, what an action does, what it earns, what is seen.

With V visible tasks and P placements, action ``v * P + p`` assigns the task at position v to the idle instance at
placement p; action ``V * P + p`` creates an instance there, after idle ones in its way are destroyed; the last action
waits for the next completion. A task may be assigned from the moment its instance has been ordered and starts when it
is ready: that anticipates only what is certain, and saves a decision.

An instance that has just been created is kept until a task ran in it, unless no visible task can: otherwise a policy
could create and destroy for ever. Whenever nothing runs, some action other than waiting is legal: an idle instance
that a visible task can use may be given it, and where there is none every instance may be destroyed for one.
A wait that is the only legal action is taken without asking.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rltune.compiled import inner, kernel
from rltune.rl.mig.layout import FIXED_FEATURES, SLOTS

NOW, RECONFIGURING, BOUND, REACHED = range(4)
"""Slots of ``Rows.clock``, seconds: time; until when the GPU reconfigures; the area bound; the bound on the makespan
reached so far."""
CLOCKS = 4
TASKS, WINDOW, NEXT, ASSIGNED, INSTANCES, OVER = range(6)
"""Slots of ``Rows.marks``; NEXT: the first task not yet visible."""
MARKS = 6
FIXED, N_SLOTS = len(FIXED_FEATURES), len(SLOTS)
TASK_FEATURES = (
    *(f"fits {slot}" for slot in SLOTS),
    *(f"duration {slot}" for slot in SLOTS),
    *(f"waste {slot}" for slot in SLOTS),
    "visible",
    "area",
    "fastest",
)
PLACE_FEATURES = (
    *FIXED_FEATURES, "there", "idle", "fresh", "residual", "blocked", "in_the_way", "can_create", "ready_in",
)  # fmt: skip
GPU_FEATURES = (
    "reconfiguring", "running_area", "running_share", "visible_tasks", "hidden_tasks", "next_completion",
    "last_completion", "longest_fastest", "creation",
)  # fmt: skip
MOST_DURATION, MOST_WASTE = 2.0, 2.0
"""Durations are seen in horizons, up to so many; waste as the logarithm of area / least area, up to so much."""
MANY = 32.0
"""Counts of tasks are seen relative to this, up to it."""


class Rows(NamedTuple):
    """n_envs episodes side by side; N tasks at most, K profiles, V visible, P placements, M instances at most.

    ``seconds`` (n_envs, N, K), infinite where a task cannot run; ``slot_s`` (n_envs, N, 6) the least by slot;
    ``least`` (n_envs, N) least compute x seconds; ``fastest`` (n_envs, N) least seconds; ``shown`` (n_envs, V) task at
    a visible position, -1: none; ``useful`` (n_envs, K) whether a visible task can use a profile; ``there``, ``fresh``
    (n_envs, P): an instance exists, nothing ran in it yet; ``free_at`` (n_envs, P) seconds when it is idle,
    ``run_from`` when its last task begins; ``record`` (n_envs, P) its number below; ``placement``, ``created``,
    ``destroyed`` (n_envs, M) all instances that ever were, seconds when creation and destruction begin (NaN: never);
    ``ran_in``, ``begun`` (n_envs, N) instance and start of every task; ``clock``, ``marks``: see the slots above.
    """

    seconds: npt.NDArray[np.float64]
    slot_s: npt.NDArray[np.float64]
    least: npt.NDArray[np.float64]
    fastest: npt.NDArray[np.float64]
    shown: npt.NDArray[np.int64]
    useful: npt.NDArray[np.bool_]
    there: npt.NDArray[np.bool_]
    fresh: npt.NDArray[np.bool_]
    free_at: npt.NDArray[np.float64]
    run_from: npt.NDArray[np.float64]
    record: npt.NDArray[np.int64]
    placement: npt.NDArray[np.int64]
    created: npt.NDArray[np.float64]
    destroyed: npt.NDArray[np.float64]
    ran_in: npt.NDArray[np.int64]
    begun: npt.NDArray[np.float64]
    clock: npt.NDArray[np.float64]
    marks: npt.NDArray[np.int64]


class Seen(NamedTuple):
    """What the agent sees: ``mask`` (n_envs, V * P + P + 1) int8, and features (n_envs, V, 21), (n_envs, P, 17), (n_envs, 9)."""

    mask: npt.NDArray[np.int8]
    tasks: npt.NDArray[np.float32]
    places: npt.NDArray[np.float32]
    gpu: npt.NDArray[np.float32]


@kernel
def begin(rows, i, layout):
    """Start row i: its ``seconds``, and TASKS and WINDOW of ``marks``, are set; the GPU is empty."""
    n, visible = rows.marks[i, TASKS], rows.shown.shape[1]
    area = 0.0
    for task in range(n):
        measure_task(rows, i, task, layout)
        area += rows.least[i, task]
    shown = min(n, rows.marks[i, WINDOW], visible)
    for v in range(visible):
        rows.shown[i, v] = v if v < shown else -1
    rows.there[i, :] = False
    rows.fresh[i, :] = False
    rows.free_at[i, :] = 0.0
    rows.run_from[i, :] = 0.0
    rows.clock[i, :] = 0.0
    rows.clock[i, BOUND] = area / layout.total[0]
    rows.clock[i, REACHED] = rows.clock[i, BOUND]
    rows.marks[i, NEXT] = shown
    rows.marks[i, ASSIGNED] = 0
    rows.marks[i, INSTANCES] = 0
    rows.marks[i, OVER] = 0


@inner
def measure_task(rows, i, task, layout):
    """Fill ``slot_s``, ``least`` and ``fastest`` of a task, over the profiles of the layout."""
    rows.slot_s[i, task, :] = np.inf
    rows.least[i, task] = np.inf
    rows.fastest[i, task] = np.inf
    for k in range(layout.used.shape[0]):
        takes = rows.seconds[i, task, k]
        if layout.used[k] and takes < np.inf:
            slot = layout.column_slot[k]
            rows.slot_s[i, task, slot] = min(rows.slot_s[i, task, slot], takes)
            rows.least[i, task] = min(rows.least[i, task], layout.column_compute[k] * takes)
            rows.fastest[i, task] = min(rows.fastest[i, task], takes)


@inner
def running(rows, i, p):
    """Whether something runs at p now, or will once its instance is ready."""
    return rows.there[i, p] and not rows.fresh[i, p] and rows.free_at[i, p] > rows.clock[i, NOW]


@inner
def in_the_way(rows, i, layout, p, q):
    """Whether an instance is at q that has to go before one can be created at p."""
    return rows.there[i, q] and layout.conflict[p, q]


@inner
def can_create(rows, i, layout, p):
    """Whether an instance may be created at p: a visible task can use it, and what is in the way may be destroyed."""
    if rows.there[i, p] or not rows.useful[i, layout.profile[p]]:
        return False
    for q in range(layout.profile.shape[0]):
        if in_the_way(rows, i, layout, p, q) and (
            running(rows, i, q) or (rows.fresh[i, q] and rows.useful[i, layout.profile[q]])
        ):
            return False
    return True


@inner
def mark_legal(rows, i, layout, mask):
    """Fill ``mask[i]``; returns how many actions other than waiting are legal."""
    n_places, visible = layout.profile.shape[0], rows.shown.shape[1]
    rows.useful[i, :] = False
    for v in range(visible):
        task = rows.shown[i, v]
        if task >= 0:
            for k in range(rows.useful.shape[1]):
                rows.useful[i, k] |= rows.seconds[i, task, k] < np.inf
    mask[i, :] = 0
    legal = 0
    for p in range(n_places):
        if rows.there[i, p] and not running(rows, i, p):
            for v in range(visible):
                task = rows.shown[i, v]
                if task >= 0 and rows.seconds[i, task, layout.profile[p]] < np.inf:
                    mask[i, v * n_places + p] = 1
                    legal += 1
        elif can_create(rows, i, layout, p):
            mask[i, visible * n_places + p] = 1
            legal += 1
        if running(rows, i, p):
            mask[i, (visible + 1) * n_places] = 1
    return legal


@inner
def assign(rows, i, layout, v, p):
    """Run the task at visible position v at p; the next hidden task takes its position."""
    task = rows.shown[i, v]
    start = max(rows.clock[i, NOW], rows.free_at[i, p])
    rows.ran_in[i, task] = rows.record[i, p]
    rows.begun[i, task] = start
    rows.run_from[i, p] = start
    rows.free_at[i, p] = start + rows.seconds[i, task, layout.profile[p]]
    rows.fresh[i, p] = False
    rows.marks[i, ASSIGNED] += 1
    rows.shown[i, v] = -1
    if rows.marks[i, NEXT] < rows.marks[i, TASKS]:
        rows.shown[i, v] = rows.marks[i, NEXT]
        rows.marks[i, NEXT] += 1


@inner
def create(rows, i, layout, p):
    """Destroy what is in the way of p, one after another, then create an instance there."""
    clock = max(rows.clock[i, NOW], rows.clock[i, RECONFIGURING])
    for q in range(layout.profile.shape[0]):
        if in_the_way(rows, i, layout, p, q):
            rows.destroyed[i, rows.record[i, q]] = clock
            rows.there[i, q] = False
            clock += layout.destroy_s[q]
    made = rows.marks[i, INSTANCES]
    rows.marks[i, INSTANCES] += 1
    rows.record[i, p] = made
    rows.placement[i, made] = p
    rows.created[i, made] = clock
    rows.destroyed[i, made] = np.nan
    rows.there[i, p] = True
    rows.fresh[i, p] = True
    rows.free_at[i, p] = clock + layout.create_s[p]
    rows.clock[i, RECONFIGURING] = rows.free_at[i, p]


@inner
def wait(rows, i, layout):
    """Let time pass to the next completion."""
    earliest = np.inf
    for p in range(layout.profile.shape[0]):
        if running(rows, i, p):
            earliest = min(earliest, rows.free_at[i, p])
    rows.clock[i, NOW] = earliest


@inner
def committed(rows, i, layout):
    """Compute x seconds that what has been assigned still takes, and its last end in seconds from now."""
    area, last = 0.0, 0.0
    now = rows.clock[i, NOW]
    for p in range(layout.profile.shape[0]):
        if running(rows, i, p):
            area += layout.compute[p] * (rows.free_at[i, p] - max(now, rows.run_from[i, p]))
            last = max(last, rows.free_at[i, p] - now)
    return area, last


@inner
def reached(rows, i, layout):
    """Lower bound on the makespan from here on, seconds; the makespan itself once every task is assigned.

    What runs and the least area of all other tasks, spread over the whole GPU from now on; or the last end.
    """
    area, last = committed(rows, i, layout)
    if rows.marks[i, ASSIGNED] == rows.marks[i, TASKS]:
        return rows.clock[i, NOW] + last
    for v in range(rows.shown.shape[1]):
        if rows.shown[i, v] >= 0:
            area += rows.least[i, rows.shown[i, v]]
    for task in range(rows.marks[i, NEXT], rows.marks[i, TASKS]):
        area += rows.least[i, task]
    return rows.clock[i, NOW] + max(area / layout.total[0], last)


@inner
def settle(rows, i, layout, mask):
    """After an action: pass over instants at which one can only wait, and mark the end of the episode."""
    while True:
        legal = mark_legal(rows, i, layout, mask)
        if rows.marks[i, ASSIGNED] == rows.marks[i, TASKS]:
            rows.marks[i, OVER] = 1
            # Observed once more before the next episode begins: something has to be legal.
            mask[i, mask.shape[1] - 1] = 1
            return
        if legal > 0:
            return
        wait(rows, i, layout)


@inner
def horizon(rows, i, layout):
    """Seconds that are left at least, were hidden tasks like the mean visible one; looks at visible tasks only."""
    area, last = committed(rows, i, layout)
    seen, waiting = 0.0, 0
    for v in range(rows.shown.shape[1]):
        task = rows.shown[i, v]
        if task >= 0:
            seen += rows.least[i, task]
            last = max(last, rows.fastest[i, task])
            waiting += 1
    if waiting > 0:
        hidden = rows.marks[i, TASKS] - rows.marks[i, NEXT]
        area += seen * (waiting + hidden) / waiting
    return max(area / layout.total[0], last, 1e-9)


@inner
def observe(rows, i, layout, seen):
    """Fill the features of row i. All times are in horizons, so that seconds and hours look alike."""
    long = horizon(rows, i, layout)
    observe_tasks(rows, i, layout, long, seen.tasks)
    observe_places(rows, i, layout, long, seen)
    observe_gpu(rows, i, layout, long, seen.gpu)


@inner
def observe_tasks(rows, i, layout, long, tasks):
    tasks[i, :, :] = 0.0
    for v in range(rows.shown.shape[1]):
        task = rows.shown[i, v]
        if task < 0:
            continue
        for k in range(layout.used.shape[0]):
            slot = layout.column_slot[k]
            takes = rows.seconds[i, task, k]
            # Where two profiles share a slot, the faster one is seen.
            if not layout.used[k] or takes == np.inf or takes > rows.slot_s[i, task, slot]:
                continue
            waste = np.log(layout.column_compute[k] * takes / rows.least[i, task])
            tasks[i, v, slot] = 1.0
            tasks[i, v, N_SLOTS + slot] = min(takes / long, MOST_DURATION) / MOST_DURATION
            tasks[i, v, 2 * N_SLOTS + slot] = min(waste, MOST_WASTE) / MOST_WASTE
        tasks[i, v, 3 * N_SLOTS] = 1.0
        tasks[i, v, 3 * N_SLOTS + 1] = min(rows.least[i, task] / (layout.total[0] * long), 1.0)
        tasks[i, v, 3 * N_SLOTS + 2] = min(rows.fastest[i, task] / long, 1.0)


@inner
def observe_places(rows, i, layout, long, seen):
    n_places, visible = layout.profile.shape[0], rows.shown.shape[1]
    now = rows.clock[i, NOW]
    for p in range(n_places):
        busy = running(rows, i, p)
        blocked, idle_share, ready = 0.0, 0.0, max(0.0, rows.clock[i, RECONFIGURING] - now) + layout.create_s[p]
        for q in range(n_places):
            if in_the_way(rows, i, layout, p, q) and q != p:
                if running(rows, i, q):
                    blocked = max(blocked, rows.free_at[i, q] - now)
                else:
                    idle_share += layout.compute[q] / layout.total[0]
                    ready += layout.destroy_s[q]
        if rows.there[i, p]:
            ready = max(0.0, rows.free_at[i, p] - now)
        for f in range(FIXED):
            seen.places[i, p, f] = layout.fixed[p, f]
        seen.places[i, p, FIXED] = rows.there[i, p]
        seen.places[i, p, FIXED + 1] = rows.there[i, p] and not busy
        seen.places[i, p, FIXED + 2] = rows.there[i, p] and rows.fresh[i, p]
        seen.places[i, p, FIXED + 3] = min((rows.free_at[i, p] - now) / long, 1.0) if busy else 0.0
        seen.places[i, p, FIXED + 4] = min(blocked / long, 1.0)
        seen.places[i, p, FIXED + 5] = min(idle_share, 1.0)
        seen.places[i, p, FIXED + 6] = seen.mask[i, visible * n_places + p]
        seen.places[i, p, FIXED + 7] = min(ready / long, 1.0)


@inner
def observe_gpu(rows, i, layout, long, gpu):
    now = rows.clock[i, NOW]
    area, last = committed(rows, i, layout)
    share, earliest, creation = 0.0, last, 0.0
    for p in range(layout.profile.shape[0]):
        creation += layout.create_s[p] / layout.profile.shape[0]
        if running(rows, i, p):
            share += layout.compute[p] / layout.total[0]
            earliest = min(earliest, rows.free_at[i, p] - now)
    waiting, longest = 0, 0.0
    for v in range(rows.shown.shape[1]):
        if rows.shown[i, v] >= 0:
            waiting += 1
            longest = max(longest, rows.fastest[i, rows.shown[i, v]])
    gpu[i, 0] = min(max(0.0, rows.clock[i, RECONFIGURING] - now) / long, 1.0)
    gpu[i, 1] = min(area / (layout.total[0] * long), 1.0)
    gpu[i, 2] = share
    gpu[i, 3] = min(waiting / MANY, 1.0)
    gpu[i, 4] = min((rows.marks[i, TASKS] - rows.marks[i, NEXT]) / MANY, 1.0)
    gpu[i, 5] = min(earliest / long, 1.0)
    gpu[i, 6] = min(last / long, 1.0)
    gpu[i, 7] = min(longest / long, 1.0)
    gpu[i, 8] = min(creation / long, 1.0)


@kernel
def first_look(rows, i, layout, seen):
    """Fill what is seen of row i, which has just begun."""
    settle(rows, i, layout, seen.mask)
    observe(rows, i, layout, seen)


@kernel
def step_rows(rows, layout, actions, active, seen, rewards):
    """Act in every active row, a legal action each; ``rewards`` (n_envs,): see `reached`, in area bounds."""
    n_places, visible = layout.profile.shape[0], rows.shown.shape[1]
    for i in range(actions.shape[0]):
        if not active[i]:
            continue
        action = actions[i]
        if action < visible * n_places:
            assign(rows, i, layout, action // n_places, action % n_places)
        elif action < (visible + 1) * n_places:
            create(rows, i, layout, action - visible * n_places)
        else:
            wait(rows, i, layout)
        settle(rows, i, layout, seen.mask)
        observe(rows, i, layout, seen)
        before = rows.clock[i, REACHED]
        # Sums of floating-point times may fall behind by a rounding.
        rows.clock[i, REACHED] = max(before, reached(rows, i, layout))
        rewards[i] = (before - rows.clock[i, REACHED]) / rows.clock[i, BOUND]
