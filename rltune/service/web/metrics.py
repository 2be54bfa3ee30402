"""Prometheus metrics: what the service holds, decides and answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from rltune.service.engine import Engine
from rltune.service.records import JOB, LEASE

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
COUNTERS = {
    "decisions": "Instants at which the core decided",
    "started": "Runs that were started",
    "suspended": "Runs that were suspended",
    "refused_by_device": "Orders that a device did not carry out",
    "lost": "Runs that were lost with their node",
    "store_errors": "Turns that the disk refused",
}
"""Of `Engine.counters`."""


class Metrics:
    """Of one application; nothing is shared with others in the process."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.registry = CollectorRegistry()
        self.seconds = Histogram(
            "rltune_http_request_seconds", "Answered requests", ("method", "route", "status"),
            buckets=BUCKETS_S, registry=self.registry,
        )  # fmt: skip
        self.registry.register(self)  # type: ignore[arg-type]

    def seen(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request has been answered."""
        self.seconds.labels(method, route, str(status)).observe(seconds)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Any]:
        """What the engine holds, as it is now; called by Prometheus' registry."""
        engine = self.engine
        # A copy made at one go: the engine's thread adds and removes meanwhile.
        records = list(engine.ledger.records.values())
        for kind, name, says in ((JOB, "rltune_jobs", "Jobs in memory"), (LEASE, "rltune_leases", "Leases in memory")):
            family = GaugeMetricFamily(name, f"{says}, by state and tenant", labels=("state", "tenant"))
            for (state, tenant), count in Counter((x.state, x.tenant) for x in records if x.kind == kind).items():
                family.add_metric((state, tenant), count)
            yield family
        yield GaugeMetricFamily("rltune_gpus", "GPUs of the cluster", value=engine.cluster.gpus)
        used = GaugeMetricFamily("rltune_gpus_touched", "GPUs that somebody holds at least a part of", labels=("pool",))
        for pool, count in self._held(records).items():
            used.add_metric((pool,), count)
        yield used
        nodes = GaugeMetricFamily("rltune_nodes", "Nodes, by state", labels=("state",))
        for state, count in Counter(state for state, _ in list(engine.node_state.values())).items():
            nodes.add_metric((state,), count)
        yield nodes
        for name, says in COUNTERS.items():
            yield CounterMetricFamily(f"rltune_{name}", says, value=engine.counters[name])
        yield GaugeMetricFamily("rltune_failing", "1 while the disk refuses", value=float(bool(engine.failing)))
        yield GaugeMetricFamily("rltune_last_event", "Number of the newest event", value=engine.ledger.last_event)

    def _held(self, records: list[Any]) -> dict[str, int]:
        of_node = self.engine.live.arrays.node_pool
        touched = {(place.node, gpu) for x in records if x.holds for place in x.places for gpu in place.gpus}
        counts = Counter(int(of_node[node]) for node, _ in touched)
        return {pool.name: counts.get(k, 0) for k, pool in enumerate(self.engine.cluster.pools)}
