"""When instances are created and destroyed, given what each box holds: list scheduling on a GPU's one reconfiguration clock.

An instance is created when those before it on its memory slices are destroyed, and destroyed when its tasks have ended
and another needs its slices. One reconfiguration happens at a time; of those that could happen now the one with the most
work behind it goes first (`LONGEST_TAIL`), or the one that was possible first (`IN_ORDER`, as FAR does).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rltune.compiled import inner, kernel
from rltune.mig.batch.boxes import Boxes, Floats, Ints

LONGEST_TAIL, IN_ORDER = 0, 1
MOST = 62
"""Boxes with tasks that one GPU may have: a bit each in an integer."""


class Work(NamedTuple):
    """Scratch, and the result: (n_boxes,) ``create_s``, ``destroy_s`` begins (infinite: never), ``end_s`` of the tasks.

    (MOST,) of the used boxes of one GPU: ``box``; ``before``, ``behind``: bits of those that touch it in order;
    ``tail``: seconds from the beginning of its creation to the end of all that waits for it; ``possible``: when its
    creation is, ``waits`` for how many; ``state``: 0 not there, 1 there, 2 destroyed.
    """

    create_s: Floats
    destroy_s: Floats
    end_s: Floats
    box: Ints
    before: Ints
    behind: Ints
    tail: Floats
    possible: Floats
    waits: Ints
    state: Ints


def work_of(boxes: Boxes) -> Work:
    """Arrays for `span`."""
    floats, ints = (np.zeros((3, boxes.n)), np.zeros((5, MOST), np.int64))
    tails = np.zeros((2, MOST))
    return Work(floats[0], floats[1], floats[2], ints[0], ints[1], ints[2], tails[0], tails[1], ints[3], ints[4])


@inner
def _used(gpu, boxes, count, work):
    """Number the boxes with tasks, or with an instance already, and link each with those around it."""
    m = 0
    for b in range(boxes.first[gpu], boxes.first[gpu + 1]):
        if count[b] == 0 and boxes.made[b] == 0:
            continue
        work.box[m] = b
        work.before[m] = 0
        work.behind[m] = 0
        open_slices = boxes.mask[b]
        for k in range(m - 1, -1, -1):
            theirs = boxes.mask[work.box[k]]
            if open_slices & theirs:
                work.before[m] |= 1 << k
                work.behind[k] |= 1 << m
                open_slices &= ~theirs
                if open_slices == 0:
                    break
        m += 1
    return m


@inner
def _tails(m, boxes, load, count, work):
    """Tails of all, and the longest of those that wait for no other: no schedule of these boxes is shorter."""
    longest = 0.0
    for k in range(m - 1, -1, -1):
        b = work.box[k]
        behind = 0.0
        for j in range(k + 1, m):
            if (work.behind[k] >> j) & 1 and work.tail[j] > behind:
                behind = work.tail[j]
        tail = load[b] + (boxes.busy[b] if boxes.made[b] else boxes.create[b])
        if behind > 0.0:
            tail += boxes.destroy[b] + behind
        elif count[b] == 0:
            # An instance of an earlier batch alone: its end is not this batch's.
            tail = 0.0
        work.tail[k] = tail
        if work.before[k] == 0 and tail > longest:
            longest = tail
    return longest


@inner
def _begin(m, clock, boxes, load, work):
    """Set the state at the beginning; instances that are there can go as soon as their tasks have ended."""
    for k in range(m):
        b = work.box[k]
        work.create_s[b] = np.inf
        work.destroy_s[b] = np.inf
        work.possible[k] = clock
        waits = 0
        rest = work.before[k]
        while rest:
            rest &= rest - 1
            waits += 1
        work.waits[k] = waits
        work.state[k] = boxes.made[b]
        work.end_s[b] = boxes.busy[b] + load[b] if boxes.made[b] else np.inf


@inner
def _choose(m, clock, rule, boxes, work):
    """(which, whether it is a destruction, when it is possible) of the next reconfiguration; which = -1: none is left."""
    which, destroys, when, best = -1, False, np.inf, -1.0
    for k in range(m):
        b = work.box[k]
        if work.state[k] == 0 and work.waits[k] == 0:
            possible, tail, kills = work.possible[k], work.tail[k], False
        elif work.state[k] == 1 and work.behind[k] != 0:
            possible, kills = work.end_s[b], True
            # What waits behind it: its tail without what is over.
            tail = 0.0
            for j in range(k + 1, m):
                if (work.behind[k] >> j) & 1 and work.tail[j] > tail:
                    tail = work.tail[j]
            tail += boxes.destroy[b]
        else:
            continue
        if rule == LONGEST_TAIL:
            possible = max(possible, clock)
        if possible < when or (possible == when and tail > best):
            which, destroys, when, best = k, kills, possible, tail
    return which, destroys, max(when, clock)


@inner
def span_of(gpu, boxes, load, count, rule, limit, work):
    """Seconds until the last task of a GPU ends; a lower bound of it as soon as that exceeds ``limit``.

    ``load`` (n_boxes,) seconds of tasks, ``count`` (n_boxes,) tasks. Times are left in ``work``.
    """
    m = _used(gpu, boxes, count, work)
    longest = _tails(m, boxes, load, count, work)
    if longest > limit:
        return longest
    clock = boxes.clock[gpu]
    _begin(m, clock, boxes, load, work)
    while True:
        k, destroys, when = _choose(m, clock, rule, boxes, work)
        if k < 0:
            break
        b = work.box[k]
        if destroys:
            work.destroy_s[b] = when
            clock = when + boxes.destroy[b]
            work.state[k] = 2
            for j in range(k + 1, m):
                if (work.behind[k] >> j) & 1:
                    work.waits[j] -= 1
                    work.possible[j] = clock
        else:
            work.create_s[b] = when
            clock = when + boxes.create[b]
            work.state[k] = 1
            work.end_s[b] = clock + load[b]
    end = 0.0
    for k in range(m):
        if count[work.box[k]] > 0:
            end = max(end, work.end_s[work.box[k]])
    return end


@kernel
def span(gpu, boxes, load, count, rule, work):
    """`span_of` for Python, without a limit."""
    return span_of(gpu, boxes, load, count, rule, np.inf, work)
