"""The options of `rltune.serve`, declared once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rltune.config.declare import group, option, part
from rltune.simulator.options import Options
from rltune.simulator.run import DETAILED

DEVICES = ("simulated", "nvml", "virtual")
BELIEVED = ("requested", "learned", "unknown")
NOT_LIVE = (
    *("speed", "seed", "past_jobs", "weights", "node_events", "capacity"),
    *("node_mtbf_s", "node_repair_s", "gpu_mtbf_s"),
)
"""Options of a simulation that mean nothing where machines fail by themselves."""
PORT = 8471
HOST = "127.0.0.1"


@dataclass
class Serve:
    """python -m rltune.serve [policy=srsf allocator=fgd ...]; also token, backup, restore, export, check (see the end)"""

    cluster: str = group("live", "machines that are simulated; with device=nvml it is this one")
    allocator: str = group("best_fit", "what chooses the nodes")
    policy: str = option(
        "fifo",
        "an order, one that suspends, or a learned policy, as rltune.simulate takes them; what is chosen later by PUT /v1/policy holds "
        "over restarts",
    )
    backfill: str = option("skip", "which jobs may start when the first does not fit", choices=tuple(DETAILED))
    guard: bool = option(
        True, "of a learned policy: it decides only while shadow simulation says that it does no worse than rules"
    )
    runtimes: str = option(
        "requested",
        "what is believed of run times: the job's estimate, else one learned from jobs before; learned; or nothing",
        choices=BELIEVED,
    )
    options: Any = part(
        Options,
        "what goes beyond the order: costs, quanta, quotas of tenants ({ann: 4})",
        without=NOT_LIVE,
    )
    state: str | None = option(
        None,
        "directory of all that is kept; null: service in RLTUNE_STATE, else /var/lib/rltune (root) or ~/.local/state/rltune",
    )
    device: str = option(
        "simulated",
        "real processes on simulated MIG GPUs; on this machine's GPUs; or nodes that run nothing, for load tests",
        choices=DEVICES,
    )
    ray: str | None = option(
        None,
        "address of a Ray cluster, or auto: the machines are its nodes, with their own GPUs (Ray with token authentication)",
    )
    pace: float = option(1.0, "of device=simulated: share of the time that changing MIG instances takes", least=0)
    host: str = option(HOST, "address to listen at; another one than this machine's own needs tls_cert and tls_key")
    port: int = option(PORT, "0: any that is free", least=0, most=65535)
    hosts: str | Sequence[str] | None = option(
        None, "names that the service is asked by; null: of loopback its own, elsewhere any"
    )
    tls_cert: str | None = option(None, "file with the certificate (chain)")
    tls_key: str | None = option(None, "file with its key")
    insecure: bool = option(False, "listen at another address without TLS: tokens can be read on the way")
    auth: str = option(
        "token", "none: whoever reaches the port may do everything; on loopback alone", choices=("token", "none")
    )
    users: Any = option(None, "Unix users that tenants' jobs run as, {ann: ann}; for a service that runs as root")
    as_service: bool | None = option(
        None,
        "whether jobs of tenants without one run as the service itself; null: unless it runs as root (and jobs run at all)",
    )
    any_user: bool = option(False, "whether jobs may name the Unix user that they run as")
    rate: float = option(500.0, "requests a second of each token; 0: as many as come", least=0)
    burst: int = option(1000, "requests of a token at once", least=1)
    most_body: int = option(1_000_000, "bytes of a request", least=1000)
    most_waiting: int = option(200_000, "jobs that may be there in all", least=1)
    most_of_tenant: int = option(100_000, "jobs that may be there of a tenant", least=1)
    keep_days: float = option(
        90.0,
        "days that events, and answers to idempotency keys, stay on disk; 0: for ever (jobs and their runs always stay)",
        least=0,
    )
    most_streams: int = option(500, "event streams and followed logs that may be open", least=1)
