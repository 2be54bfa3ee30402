"""The options of `rltune.kubernetes`, declared once."""

from __future__ import annotations

from dataclasses import dataclass

from rltune.config.declare import group, option

MODES = ("kueue", "gates", "both")
BACKFILLS = ("easy", "skip", "blocking")


@dataclass
class BesideKubernetes:
    """python -m rltune.kubernetes [dry_run=true mode=gates policy=sjf allocator=milp server=http://127.0.0.1:8001 ...]"""

    allocator: str = group("best_fit", "what chooses the nodes")
    policy: str = option("fifo", "an order, or a learned policy of agent=pick")
    backfill: str = option("easy", "which may start when the first does not fit", choices=BACKFILLS)
    mode: str = option("both", "Kueue's admission checks, pods with our scheduling gate, or both", choices=MODES)
    dry_run: bool = option(True, "decide and print; false: tell the API server")
    once: bool = option(False, "one decision, then end")
    server: str | None = option(
        None, "of the API, such as kubectl proxy's http://127.0.0.1:8001; null: this pod's cluster"
    )
    token: str | None = option(None, "file with a token; null: this pod's service account, or none")
    ca: str | None = option(None, "file with the server's certificate; null: this pod's, or the system's")
    namespace: str | None = option(None, "whose pods and workloads are decided on; null: all")
    kueue_version: str = option("v1beta1", "of kueue.x-k8s.io")
    tolerated: list[str] = option(["nvidia.com/gpu"], "keys of taints in spite of which a node takes jobs")
    settle_s: float = option(2.0, "seconds without a new pod after which a gang of pods is complete", least=0)
    patience_s: float = option(
        60.0,
        "seconds that a workload keeps its quota while its GPUs are not free; then Retry gives it to others",
        least=0,
    )
    every_s: float = option(15.0, "between decisions when nothing changes", above=0)
    gather_s: float = option(0.2, "after a change, for those that come with it", least=0)
    most: int = option(500, "jobs that are decided on, the first by submission", least=1)
