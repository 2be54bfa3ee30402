"""MIG instances of a node, as Prolog and Epilog of slurmd: jobs find what the spec says; a drained node is brought to it.

slurm.conf and gres.conf say how many slices of which type a node offers, and Slurm never changes that. So instances change only
while no job is on the node: drain it, the epilog of its last job applies the spec, and the node goes back to service.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rltune.devices.adapter import Adapter
from rltune.devices.open import open_device
from rltune.devices.spec import Spec, read_spec
from rltune.nouns.errors import InputError, RunError
from rltune.report.console import say
from rltune.slurm.commands import Slurm
from rltune.slurm.words import fields


def prolog(cfg: Mapping[str, Any]) -> None:
    """Before a job: RunError where the node's instances are not as the spec says. Slurm then drains the node and puts the job back.

    Reads the device only: Slurm's manual asks prologs to call none of its commands.
    """
    with at_device(cfg) as (adapter, spec):
        if lines := adapter.verify(spec):
            raise RunError(
                f"node {node_of(cfg)}: its MIG instances are not as {cfg['spec']} says ({_first(lines)}); drain the node, and its "
                "epilog or python -m rltune.devices apply changes them"
            )


def epilog(cfg: Mapping[str, Any], slurm: Slurm | None = None) -> str:
    """After a job: the spec is applied where the node is drained and no other job is on it. What was done, in a word.

    "as it should be" (nothing was asked of Slurm), "in service" and "busy" (nothing was changed), "applied".
    """
    with at_device(cfg) as (adapter, spec):
        lines = adapter.verify(spec)
        if not lines and not cfg["resume"]:
            return "as it should be"
        node = node_of(cfg)
        slurm = slurm or Slurm(float(cfg["command_timeout_s"]))
        if "DRAIN" not in state_of(slurm, node):
            return "in service"
        if others := jobs_on(slurm, node):
            say(
                f"node {node} is drained, but jobs {', '.join(others[:5])} are on it; their epilog changes the instances"
            )
            return "busy"
        if lines:
            _apply(adapter, spec, bool(cfg["mig_mode"]), node, str(cfg["spec"]))
        if cfg["resume"]:
            slurm.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
            say(f"node {node} goes back to service")
        return "applied" if lines else "as it should be"


def _apply(adapter: Adapter, spec: Spec, mig_mode: bool, node: str, path: str) -> None:
    adapter.recover(list(spec.by_gpu(adapter.driver.gpus())))
    done = adapter.apply(adapter.plan(spec), mig_mode=mig_mode)
    if done.resets:
        raise RunError(
            f"node {node}: MIG mode of GPU {', '.join(map(str, done.resets))} waits for a reset; reset, then apply again"
        )
    if lines := adapter.verify(spec):
        # In use by a process that Slurm does not know; the plan left it alone.
        raise RunError(
            f"node {node}: not all of {path} could be applied ({_first(lines)}); look for processes on its GPUs"
        )
    say(f"node {node}: MIG instances are as {path} says")


@contextmanager
def at_device(cfg: Mapping[str, Any]) -> Iterator[tuple[Adapter, Spec]]:
    """The adapter of this node's device, and the spec; InputError without one."""
    if cfg["spec"] is None:
        raise InputError("spec=FILE is needed: the MIG instances that this node should have (docs/howto/mig_server.md)")
    spec = read_spec(cfg["spec"], cfg["config"])
    driver = open_device(cfg["device"], pace=float(cfg["pace"]))
    try:
        locks = Path(cfg["locks"]) if cfg["locks"] else None
        adapter = Adapter(driver, locks=locks, patience_s=float(cfg["patience_s"]))
        try:
            yield adapter, spec
        finally:
            adapter.close()
    finally:
        driver.close()


def node_of(cfg: Mapping[str, Any], environment: Callable[[str], str | None] = os.environ.get) -> str:
    """This node's name in Slurm; InputError where nothing tells it."""
    name = cfg["node"] or environment("SLURMD_NODENAME")
    if not name:
        raise InputError("node=NAME is needed where slurmd does not tell it (SLURMD_NODENAME)")
    return str(name)


def state_of(slurm: Slurm, node: str) -> str:
    """The node's state, as ``MIXED+DRAIN``."""
    return fields(slurm.run("scontrol", "show", "node", node, "-o")).get("State", "")


def jobs_on(slurm: Slurm, node: str, environment: Callable[[str], str | None] = os.environ.get) -> list[str]:
    """Jobs on a node but for the one whose epilog this is."""
    mine = environment("SLURM_JOB_ID")
    listed = slurm.run("squeue", "-h", "-a", "-w", node, "-t", "R,S,CG,ST", "-o", "%A").split()
    return [job for job in listed if job != mine]


def _first(lines: list[str]) -> str:
    return lines[0] + (f" and {len(lines) - 1} more" if len(lines) > 1 else "")
