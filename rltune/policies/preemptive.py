"""Policies of the detailed simulation that are more than an order: who may suspend whom, and when.

Their keys are in `rltune.core.priorities`, with sources.
"""

from __future__ import annotations

from dataclasses import dataclass

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Preemptive:
    """``on_event``: suspends when a job arrives or ends; ``on_tick``: when a quantum ends; neither: it only orders.

    ``flow``: whose usage is charged, "user" or "vc". ``scaled``: its keys are amounts, so that one can be so many times
    another: such policies suspend with hysteresis (option ``displace_factor``).
    """

    name: str
    needs_run_time: bool = False
    on_event: bool = False
    on_tick: bool = False
    flow: str | None = None
    scaled: bool = False


PREEMPTIVE: dict[str, Preemptive] = {
    policy.name: policy
    for policy in (
        Preemptive("srtf", needs_run_time=True, on_event=True, scaled=True),
        Preemptive("srsf", needs_run_time=True, on_event=True, scaled=True),
        Preemptive("las", on_event=True, on_tick=True, scaled=True),
        Preemptive("las_levels", on_event=True, on_tick=True),
        Preemptive("gittins", on_event=True, on_tick=True, scaled=True),
        Preemptive("priority", on_event=True),
        Preemptive("round_robin", on_tick=True),
        Preemptive("lottery", on_tick=True),
        Preemptive("wfq", on_tick=True),
        Preemptive("fair_user", flow="user"),
        Preemptive("fair_vc", flow="vc"),
    )
}
PREEMPTIVE_ALIASES = {"rr": "round_robin", "fair_share": "fair_user", "tiresias": "las_levels"}
LAS_LEVELS_GPU_S = (3_250.0, 7_200.0, 18_000.0)
"""Default thresholds of las_levels, GPU-seconds: those of the simulator of Tiresias' authors."""
DISPLACE_FACTOR = 2.0
"""Default hysteresis: a running job yields to one whose key is below half its own. Chosen on earlier months than those of
any table (experiments/suspension.py --choose); anything from 1.5 to 4 does about as well."""
OVERRUN_FACTOR = 2.0
"""A job that has run for long is believed to need as long again, at least: what the median job does whose survival
falls as 1 / run time, the shape of logs of run times between minutes and a day (Harchol-Balter, Downey, 1997)."""
HALF_LIFE_S = 7 * DAY_S
"""Default half-life of charged usage: Slurm's PriorityDecayHalfLife is 7 days."""
