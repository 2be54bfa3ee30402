"""Single steps for decisions taken outside: start a job at given places, suspend a running one."""

from __future__ import annotations

from rltune.compiled import kernel, verb
from rltune.core.resources.room import grant_of
from rltune.core.resources.verbs import way_found
from rltune.core.runs import start_job, stop_run
from rltune.core.state import SUSPENDED, is_full, is_lean


@kernel
def start_there(sim, job, way, nodes, gpus, grants):
    """Start ``job``, which has been taken out of the queue, with ``gpus[i]`` GPUs on ``nodes[i]``; ``grants[i]`` < 0: any.

    ``way``: which of its choices that is, from 0 (full build). That the places are free, and are those of that way, has
    been checked (`rltune.nouns.plan_check.check_plan`).
    """
    place_there(sim, job, way, nodes, gpus, grants)
    start_job(sim, job, len(nodes))


@verb
def place_there(sim, job, way, nodes, gpus, grants):
    """Write the places into ``sim.place``."""


@place_there.when(is_lean)
def _place_there_lean(sim, job, way, nodes, gpus, grants):
    for i in range(len(nodes)):
        sim.place.node[i] = nodes[i]
        sim.place.gpus[i] = gpus[i]


@place_there.when(is_full)
def _place_there_full(sim, job, way, nodes, gpus, grants):
    found = sim.place.found
    sim.place.way[0] = sim.choices.ptr[sim.jobs.cls[job]] + way
    row = way_found(sim)
    for i in range(len(nodes)):
        found.node[i] = nodes[i]
        # Which GPUs of the node is left to the placement where the plan does not say.
        any_gpus = grant_of(sim.cluster, sim.space.room, sim.detail.demand, row, nodes[i], gpus[i])
        found.grant[i] = any_gpus if grants[i] < 0 else grants[i]


@kernel
def suspend(sim, job):
    """Suspend a running job; it waits from now on (full build)."""
    stop_run(sim, job, SUSPENDED)
