"""Who runs, where an order may suspend: waiting and running jobs that a joint decision is about (kernels).

`try_out` goes through the pass of `rltune.core.preemption` without carrying anything out. What it starts, whom it
suspends for that, and who else could make room instead, are the *candidates* of one model: a waiting one starts or waits
on, a running one keeps its places, moves or is suspended. `carry_out` does what has been decided.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rltune.compiled import inner, kernel
from rltune.core.backfilling import start_what_fits
from rltune.core.choices import Choices
from rltune.core.preemption import GONE, NEEDED, STAYS, choose_victims, narrowest_alone, sort_running
from rltune.core.prices import accepts
from rltune.core.priorities import clearly_ahead, has_waited_enough, standing
from rltune.core.queue import begin_pass, block_class, class_blocked, sort_by_key, sort_queue
from rltune.core.resources.nodes import Nodes, nodes_like
from rltune.core.resources.slices import INDICES, bits
from rltune.core.resources.verbs import book_held, copy_free, find, take_found, way_held
from rltune.core.runs import start_job, stop_run
from rltune.core.state import DISPLACE, NOW, ON_GPUS, PRESENT, QUEUED, SUSPENDED, Floats, Ints, floats, ints
from rltune.nouns.cluster import Cluster
from rltune.nouns.jobs import WHOLE
from rltune.simulator.candidates import Candidates, build_candidates, keep_waiting, load_place, write_place

MOST_RUNNING = 16
"""Running jobs that one decision is about, at most. A node of eight of them has 256 ways to keep some, before anybody starts."""
TRIED = 4
"""Waiting jobs for which other nodes than the pass' are looked for, and nodes offered to each."""
# Slots of ``Trial.counts``: candidates; those of them that wait; jobs suspended in the trial that may start again in it;
# whether the pass would have gone on.
CANDIDATES, STARTERS, AGAIN, MORE = range(4)
# Values of ``Trial.action``.
LEAVE, START, KEEP = range(3)


class Trial(NamedTuple):
    """One decision in the making; its candidates are in order once `try_out` is over.

    ``each`` of them; its plan is what the pass would do. ``runs[k]``: 1 where candidate k runs now; ``made[k]``: 1 where others were
    suspended for it; ``action[k]``: what `carry_out` does with it, by the plan where it is START. ``again`` (most,): suspended in the
    trial, in order. ``freed`` (n_nodes,): thousandths of GPUs, ``price`` (n_nodes,): the same where they suffice, else infinity.
    ``space``: free resources of the trial, then what is free when all candidates let their places go.
    """

    each: Candidates
    runs: Ints
    made: Ints
    action: Ints
    again: Ints
    freed: Ints
    price: Floats
    space: Nodes
    counts: Ints


def build_trial(cluster: Cluster, choices: Choices, loss: Floats, starters: int, free: Nodes) -> Trial:
    """Work space for ``starters`` waiting jobs on free resources like ``free``."""
    most = starters + MOST_RUNNING
    return Trial(
        each=build_candidates(cluster, choices, loss, most), runs=ints(most), made=ints(most), action=ints(most),
        again=ints(most), freed=ints(cluster.nodes), price=floats(cluster.nodes), space=nodes_like(cluster, free),
        counts=ints(4),
    )  # fmt: skip


# --- the pass, tried out ----------------------------------------------------------------


@kernel
def sort_given(sim):
    """Bring the queue into the order of keys given from outside."""
    sort_by_key(sim, sim.queue, sim.counts[QUEUED])


@kernel
def try_out(sim, trial):
    """Fill ``trial`` with the candidates and what the pass would do with them: how many it would suspend.

    Nothing is carried out. The pass stops where it starts more waiting jobs, or suspends more running ones, than a
    decision may be about.
    """
    sort_queue(sim)
    running = sort_running(sim)
    copy_free(sim, sim.space, trial.space)
    trial.counts[:] = 0
    trial.each.spots[0] = 0
    left = begin_pass(sim)
    sim.passed[:] = 0
    most, i = len(trial.each.job) - MOST_RUNNING, 0
    while left > 0 or trial.counts[AGAIN] > 0:
        # The next in order: of the queue, or of those suspended on the way.
        back = trial.counts[AGAIN] > 0 and (left <= 0 or before(sim, trial.again[0], sim.queue[i]))
        job = take_again(trial) if back else sim.queue[i]
        i += 0 if back else 1
        if class_blocked(sim, job, PRESENT):
            continue
        if not back and trial.counts[STARTERS] == most:
            trial.counts[MORE] = 1
            break
        c = sim.jobs.cls[job]
        m, made = find(sim, trial.space, job), 0
        if m == 0 and not may_displace(sim, job, back):
            # One of its class that has waited longer may suspend others all the same.
            if not back:
                sim.passed[c] += 1
                left -= 1
            continue
        if m == 0:
            made = make_room_in(sim, trial, job, running)
            if made < 0:
                trial.counts[MORE] = 1
                break
            if made > 0:
                m = find(sim, trial.space, job)
        if m == 0:
            block_class(sim, job, PRESENT)
            left -= sim.waiting[c] - sim.passed[c]
            continue
        if not back:
            left -= 1
            sim.passed[c] += 1
            trial.counts[STARTERS] += 1
        write_place(sim, trial.each, entry_of(trial, job, made), m)
        take_found(sim, trial.space, job, m)
    suspended = trial.counts[CANDIDATES] - trial.counts[STARTERS]
    if suspended > 0:
        add_others(sim, trial, running)
        sort_candidates(sim, trial)
        list_choices(sim, trial)
        offer_all(sim, trial)
    for k in range(running):
        sim.detail.marked[sim.detail.order[k]] = STAYS
    return suspended


@inner
def before(sim, a, b):
    """Whether job a goes before job b by keys already worked out."""
    return sim.key[a] < sim.key[b] or (sim.key[a] == sim.key[b] and a < b)


@inner
def may_displace(sim, job, back):
    """Whether a job that does not fit may suspend others; ``back``: it has just been suspended itself, and has not waited at all."""
    return sim.params.patience <= 0.0 or (not back and has_waited_enough(sim, job))


@inner
def make_room_in(sim, trial, job, running):
    """`rltune.core.preemption.make_room` in ``trial.space``: 1 where there is room then, 0 where not, -1: too many candidates."""
    order, marked = sim.detail.order, sim.detail.marked
    copy_free(sim, trial.space, sim.shadow)
    room = MOST_RUNNING - (trial.counts[CANDIDATES] - trial.counts[STARTERS])
    if sim.detail.knobs[DISPLACE] != 1.0:
        alone = narrowest_alone(sim, job, running)
        if alone >= 0 and room > 0:
            let_go(sim, trial, alone)
        if alone >= 0:
            return 1 if room > 0 else -1
    at = choose_victims(sim, job, running)
    if at < 0:
        return 0
    needed = 0
    for back in range(at, running):
        needed += 1 if marked[order[back]] == NEEDED else 0
    for back in range(at, running):
        if marked[order[back]] == NEEDED:
            marked[order[back]] = STAYS
            if needed <= room:
                let_go(sim, trial, order[back])
    return 1 if needed <= room else -1


@inner
def let_go(sim, trial, victim):
    """Suspend a job in the trial."""
    sim.detail.marked[victim] = GONE
    book_held(sim, trial.space, victim, 1)
    trial.runs[entry_of(trial, victim, 0)] = 1
    put_again(sim, trial, victim)


@inner
def put_again(sim, trial, job):
    """A job suspended in the trial may start again in it, at its place in the order."""
    at = trial.counts[AGAIN]
    while at > 0 and before(sim, job, trial.again[at - 1]):
        trial.again[at] = trial.again[at - 1]
        at -= 1
    trial.again[at] = job
    trial.counts[AGAIN] += 1


@inner
def take_again(trial):
    """The first of those, taken out."""
    job = trial.again[0]
    trial.counts[AGAIN] -= 1
    for k in range(trial.counts[AGAIN]):
        trial.again[k] = trial.again[k + 1]
    return job


@inner
def entry_of(trial, job, made):
    """The candidate's number; a new one, without places, if the job is none yet."""
    each = trial.each
    for k in range(trial.counts[CANDIDATES]):
        if each.job[k] == job:
            return k
    k = trial.counts[CANDIDATES]
    each.job[k], each.first[k], each.length[k], each.chosen[k], trial.runs[k], trial.made[k] = job, 0, 0, 0, 0, made
    trial.counts[CANDIDATES] += 1
    return k


# --- who else could make room -----------------------------------------------------------


@inner
def add_others(sim, trial, running):
    """For the first jobs that the pass makes room for: who runs behind them on the nodes where least would be suspended.

    Where a decision may be about all that run, it is, also about those before them, which can only be moved.
    """
    if running <= MOST_RUNNING:
        for k in range(running):
            if may_go(sim, sim.detail.order[k]):
                add(sim, trial, sim.detail.order[k])
        return
    tried = 0
    for k in range(trial.counts[CANDIDATES]):
        if trial.made[k] == 1 and tried < TRIED:
            tried += 1
            price_nodes(sim, trial, trial.each.job[k], running)
            for _ in range(TRIED):
                node = cheapest(trial)
                if node < 0:
                    break
                add_node(sim, trial, trial.each.job[k], running, node)
                trial.price[node] = np.inf


@inner
def may_go(sim, victim):
    """Whether a running job may be suspended, is no candidate yet, and stands on open nodes only."""
    if sim.detail.marked[victim] == GONE or sim.detail.firm[victim]:
        return False
    if sim.detail.status[victim] != ON_GPUS or sim.detail.since[victim] >= sim.clock[NOW]:
        return False
    base = sim.jobs.part[victim]
    for at in range(base, base + sim.alloc_len[victim]):
        if sim.space.room.closed[sim.alloc_node[at]] > 0:
            return False
    return True


@inner
def thousandths(sim, job, at):
    """Thousandths of GPUs that a job holds at its place ``at``; a slice by its share of the largest GPU."""
    way = way_held(sim, job)
    if sim.detail.demand.milli[way] == WHOLE and sim.detail.demand.profile[way] < 0:
        return WHOLE * bits(sim.alloc_grant[at] & INDICES)
    return sim.detail.amount[way]


@inner
def price_nodes(sim, trial, job, running):
    """``trial.price``: thousandths of GPUs to be suspended, last in order first, until so many are free as ``job`` wants there."""
    trial.freed[:] = 0
    trial.price[:] = np.inf
    c = sim.jobs.cls[job]
    for back in range(running - 1, -1, -1):
        victim = sim.detail.order[back]
        if not sim.key[victim] > sim.key[job]:
            break
        if not (clearly_ahead(sim, job, victim) and may_go(sim, victim)):
            continue
        base = sim.jobs.part[victim]
        for at in range(base, base + sim.alloc_len[victim]):
            node = sim.alloc_node[at]
            pool = sim.cluster.node_pool[node]
            trial.freed[node] += thousandths(sim, victim, at)
            wanted = min(least_wanted(sim, c, pool), WHOLE * sim.cluster.pool_cap[pool])
            if trial.price[node] == np.inf and sim.space.room.loose[node] + trial.freed[node] >= wanted:
                trial.price[node] = trial.freed[node]


@inner
def least_wanted(sim, c, pool):
    """Thousandths of GPUs of the smallest way of a class in the pool; no way: more than any node has."""
    least = np.int64(1) << 40
    for q in range(sim.choices.ptr[c], sim.choices.ptr[c + 1]):
        if sim.choices.pool[q] == pool:
            least = min(least, sim.detail.amount[sim.choices.way[q]])
    return least


@inner
def cheapest(trial):
    """The node of least price, -1 if there is none."""
    best = -1
    for node in range(len(trial.price)):
        if trial.price[node] < np.inf and (best < 0 or trial.price[node] < trial.price[best]):
            best = node
    return best


@inner
def add_node(sim, trial, job, running, node):
    """Those that run on the node behind ``job`` become candidates, the last in order first, as far as its price goes."""
    paid = 0
    for back in range(running - 1, -1, -1):
        victim = sim.detail.order[back]
        room = trial.counts[CANDIDATES] - trial.counts[STARTERS] < MOST_RUNNING
        if not sim.key[victim] > sim.key[job] or paid >= trial.price[node] or not room:
            break
        base = sim.jobs.part[victim]
        here = 0
        for at in range(base, base + sim.alloc_len[victim]):
            if sim.alloc_node[at] == node:
                here += thousandths(sim, victim, at)
        if here > 0 and clearly_ahead(sim, job, victim) and may_go(sim, victim):
            paid += here
            add(sim, trial, victim)


@inner
def add(sim, trial, victim):
    """One more running candidate, which the pass leaves where it is."""
    sim.detail.marked[victim] = GONE
    k = entry_of(trial, victim, 0)
    trial.runs[k] = 1
    hold_on(sim, trial, k)


@inner
def hold_on(sim, trial, k):
    """What candidate k holds now is where the plan has it."""
    each, job = trial.each, trial.each.job[k]
    at, base, m = each.spots[0], sim.jobs.part[job], sim.alloc_len[job]
    for i in range(m):
        each.node[at + i], each.grant[at + i] = sim.alloc_node[base + i], sim.alloc_grant[base + i]
    each.first[k], each.length[k], each.chosen[k] = at, m, sim.detail.way[job]
    each.spots[0] += m


# --- candidates -------------------------------------------------------------------------


@inner
def sort_candidates(sim, trial):
    """Bring the candidates into the order of this instant, running ones behind those only that are clearly ahead of them."""
    each = trial.each
    for k in range(1, trial.counts[CANDIDATES]):
        at = k
        while at > 0 and stands_before(sim, trial, at, at - 1):
            for column in (each.job, each.first, each.length, each.chosen, trial.runs, trial.made):
                column[at], column[at - 1] = column[at - 1], column[at]
            at -= 1


@inner
def stands_before(sim, trial, a, b):
    """Whether candidate a comes before candidate b."""
    i, j = trial.each.job[a], trial.each.job[b]
    x = standing(sim, i) if trial.runs[a] == 1 else sim.key[i]
    y = standing(sim, j) if trial.runs[b] == 1 else sim.key[j]
    return x < y or (x == y and i < j)


@inner
def list_choices(sim, trial):
    """What every candidate may be given."""
    each, at = trial.each, 0
    for k in range(trial.counts[CANDIDATES]):
        c = sim.jobs.cls[each.job[k]]
        each.lo[k] = at
        for q in range(sim.choices.ptr[c], sim.choices.ptr[c + 1]):
            # A running job may stay where it would not go any more.
            if accepts(sim, each.job[k], q) or (trial.runs[k] == 1 and q == sim.detail.way[each.job[k]]):
                each.choice[at] = q
                at += 1
        each.hi[k] = at


@inner
def offer_all(sim, trial):
    """``trial.space``: what is free when every candidate has let its places go."""
    copy_free(sim, sim.space, trial.space)
    for k in range(trial.counts[CANDIDATES]):
        if trial.runs[k] == 1:
            book_held(sim, trial.space, trial.each.job[k], 1)


@kernel
def keep_all(sim, trial):
    """The plan that suspends no job: running candidates stay, waiting ones start in order where there is room."""
    copy_free(sim, sim.space, sim.shadow)
    trial.each.spots[0] = 0
    for k in range(trial.counts[CANDIDATES]):
        job = trial.each.job[k]
        if trial.runs[k] == 1:
            hold_on(sim, trial, k)
            continue
        m = find(sim, sim.shadow, job)
        write_place(sim, trial.each, k, m)
        if m > 0:
            take_found(sim, sim.shadow, job, m)


# --- what becomes of them ---------------------------------------------------------------


@kernel
def carry_out(sim, trial):
    """Suspend, start and move as ``trial.action`` says."""
    n = trial.counts[CANDIDATES]
    for k in range(n):
        if trial.runs[k] == 1 and trial.action[k] != KEEP:
            stop_run(sim, trial.each.job[k], SUSPENDED)
    for k in range(n):
        if trial.action[k] == START:
            job = trial.each.job[k]
            sim.waiting[sim.jobs.cls[job]] -= 1
            start_job(sim, job, load_place(sim, trial.each, k))
    keep_waiting(sim)


@kernel
def fill(sim):
    """Start the jobs that fit, in order."""
    start_what_fits(sim)
