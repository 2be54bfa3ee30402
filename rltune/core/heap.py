"""Compiled binary heaps of running jobs, the one that ends first on top; equal ends in order of starting.

``heap`` (at least the most jobs that can run at once) holds jobs, ``size`` of them; ``key`` (n_jobs,) is compared
first, then ``tie`` (n_jobs,). ``place`` (n_jobs,) is each job's index in the heap, so that any job can be taken out.
"""

from __future__ import annotations

from rltune.compiled import inner, kernel


@kernel
def before(key, tie, a, b):
    """Whether job a leaves the heap before job b."""
    return key[a] < key[b] or (key[a] == key[b] and tie[a] < tie[b])


@kernel
def rise(heap, place, key, tie, at):
    """Move the job at index ``at`` up to where it belongs."""
    job = heap[at]
    while at > 0:
        parent = (at - 1) >> 1
        if not before(key, tie, job, heap[parent]):
            break
        heap[at] = heap[parent]
        place[heap[at]] = at
        at = parent
    heap[at] = job
    place[job] = at


@inner
def sink(heap, place, size, key, tie, at):
    """Move the job at index ``at`` down to where it belongs."""
    job = heap[at]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and before(key, tie, heap[child + 1], heap[child]):
            child += 1
        if not before(key, tie, heap[child], job):
            break
        heap[at] = heap[child]
        place[heap[at]] = at
        at = child
    heap[at] = job
    place[job] = at


@inner
def push(heap, place, size, key, tie, job):
    """Put a job into a heap of ``size``; the caller counts."""
    heap[size] = job
    rise(heap, place, key, tie, size)


@kernel
def remove(heap, place, size, key, tie, job):
    """Take a job out of a heap of ``size``, wherever it stands; the caller counts."""
    at = place[job]
    last = heap[size - 1]
    if last == job:
        return
    # The last of the heap takes its place, and from there moves up or down.
    heap[at] = last
    place[last] = at
    rise(heap, place, key, tie, at)
    sink(heap, place, size - 1, key, tie, place[last])


@inner
def next_in_order(heap, size, key, tie, frontier, open_size):
    """Walk a heap in order without changing it: the next index, and the frontier's new size.

    ``frontier`` (as ``heap``) holds ``open_size`` indices whose parents have been visited; start with index 0
    alone. It is a heap itself, so k steps cost k log k.
    """
    # Take the first of the frontier out: its last sinks from the top.
    top = frontier[0]
    open_size -= 1
    moved = frontier[open_size]
    at = 0
    while True:
        child = 2 * at + 1
        if child >= open_size:
            break
        if child + 1 < open_size and before(key, tie, heap[frontier[child + 1]], heap[frontier[child]]):
            child += 1
        if not before(key, tie, heap[frontier[child]], heap[moved]):
            break
        frontier[at] = frontier[child]
        at = child
    frontier[at] = moved
    # The children of what was visited join it: none of them can come before their parent.
    for child in range(2 * top + 1, min(2 * top + 3, size)):
        at = open_size
        open_size += 1
        while at > 0 and before(key, tie, heap[child], heap[frontier[(at - 1) >> 1]]):
            frontier[at] = frontier[(at - 1) >> 1]
            at = (at - 1) >> 1
        frontier[at] = child
    return top, open_size
