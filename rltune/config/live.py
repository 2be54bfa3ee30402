"""The options of `rltune.live`, declared once: those of the service, and what is replayed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rltune.config.declare import group, option
from rltune.config.serving import Serve


@dataclass
class Live(Serve):
    """python -m rltune.live [speed=300 minutes=2 policy=srsf ...]: a stretch of a trace through the live service, faster than time"""

    trace: Any = option(None, "the jobs, +trace=...; null: helios, real where RLTUNE_TRACES has it, else calibrated")
    begin: float = option(0.4, "where the stretch begins: share of the trace's jobs before it", least=0, most=1)
    speed: float = option(300.0, "how many times faster than time", above=0)
    minutes: float = option(2.0, "of the wall clock, after which it ends", above=0)
    load: float = option(1.3, "GPU-seconds that come, as share of what the cluster has: jobs are drawn to it", above=0)
    slices: float = option(0.7, "share of one-GPU jobs that ask for a MIG slice, or can run on one", least=0, most=1)
    leases: float = option(6.0, "MIG leases acquired a minute, each released again", least=0)
    seed: int = option(0, "of what is drawn", least=0)
    plain: bool = option(False, "lines in the place of the live view; without a terminal they come anyway")
    every_s: float = option(5.0, "between plain lines", above=0)
    # What the service is to do unless told otherwise: suspend, cut, and let anybody on this machine look at its page.
    policy: str = option("srsf", "as of rltune.serve")
    allocator: str = group("fgd", "what chooses the nodes")
    pace: float = option(0.3, "share of the time that changing MIG instances takes", least=0)
    port: int = option(0, "0: any that is free", least=0, most=65535)
    as_service: bool | None = option(True, "as of rltune.serve: the jobs here are our own")
    rate: float = option(0.0, "requests a second of each token; 0: as many as come", least=0)
    state: str | None = option(None, "directory of all that is kept; null: a temporary one")
