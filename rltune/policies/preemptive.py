"""Policies of the detailed simulation that are more than an order: who may suspend whom, and when.

Their keys are in `rltune.simulator.fleet.keys`, with sources.
"""

from __future__ import annotations

from dataclasses import dataclass

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Preemptive:
    """``on_event``: suspends when a job arrives or ends; ``on_tick``: when a quantum ends; neither: it only orders.

    ``flow``: whose usage is charged, "user" or "vc".
    """

    name: str
    needs_run_time: bool = False
    on_event: bool = False
    on_tick: bool = False
    flow: str | None = None


PREEMPTIVE: dict[str, Preemptive] = {
    policy.name: policy
    for policy in (
        Preemptive("srtf", needs_run_time=True, on_event=True),
        Preemptive("srsf", needs_run_time=True, on_event=True),
        Preemptive("las", on_event=True, on_tick=True),
        Preemptive("priority", on_event=True),
        Preemptive("round_robin", on_tick=True),
        Preemptive("lottery", on_tick=True),
        Preemptive("wfq", on_tick=True),
        Preemptive("fair_user", flow="user"),
        Preemptive("fair_vc", flow="vc"),
    )
}
PREEMPTIVE_ALIASES = {"rr": "round_robin", "fair_share": "fair_user", "tiresias": "las"}
LAS_LEVELS_GPU_S = (3_250.0, 7_200.0, 18_000.0)
"""Default thresholds of las, GPU-seconds: those of the simulator of Tiresias' authors."""
HALF_LIFE_S = 7 * DAY_S
"""Default half-life of charged usage: Slurm's PriorityDecayHalfLife is 7 days."""
