"""The engine of the service on a large cluster: ``python experiments/service_scale.py``.

10,000 virtual nodes of 8 GPUs (half A100-80GB with MIG, half V100) and 100,000 waiting jobs, on the engine itself (disk writes as
always, no HTTP): 300 turns in each of which a job comes and, in every third, a running one ends. A turn is taken apart: the
decision (the core's step), and the whole turn with the write. ``why`` is asked of 200 waiting jobs, from the first to the last in
the queue; ``when`` of three. Policies: fifo with EASY, sjf with EASY, gittins with suspension.
Writes the part "scale" of results/service.json and results/service_scale.md.
"""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from recording import write_part, write_text

from rltune.nouns.cluster import Cluster
from rltune.service.clock import WallClock
from rltune.service.engine import Asked, Engine, Settings
from rltune.service.explaining import picture, when, why
from rltune.service.replaying import virtual_machines
from rltune.service.specs import JobSpec
from rltune.service.store import Store
from rltune.simulator.options import make_options
from rltune.simulator.requests import Rules

NODES, WAITING, TURNS = 10_000, 100_000, 300
BATCH = 5_000
CASES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("fifo", "easy", {}),
    ("sjf", "easy", {}),
    ("gittins", "skip", {"suspend_s": 30.0, "resume_s": 30.0}),
)


def cluster() -> Cluster:
    half = {"nodes": NODES // 2, "gpus_per_node": 8}
    pools = [{"name": "a", "gpu_type": "A100-80GB", "mig": True, **half}, {"name": "v", "gpu_type": "V100", **half}]
    return Cluster.from_spec({"name": "large", "pools": pools})


def asked(engine: Engine, specs: list[JobSpec], tenant: str) -> list[str]:
    one = Asked(Future(), lambda e: e.submit(specs, tenant))
    engine.turn([one])
    names: list[str] = one.future.result(timeout=0)
    return names


def measure(policy: str, backfill: str, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    rng, machines_seats = np.random.default_rng(0), virtual_machines(cluster())
    machines, seats = machines_seats
    by_name = {machine.name: machine for machine in machines}
    rules = Rules(policy, backfill, "best_fit", make_options(options))
    engine = Engine(
        Store(folder / f"{policy}.sqlite"),
        cluster(),
        rules,
        machines,
        seats,
        WallClock(time.time()),
        Settings("requested", 10**6, 10**6),
    )

    def spec() -> JobSpec:
        what = (
            {"profile": str(rng.choice(["1g", "2g", "3g"]))}
            if rng.random() < 0.1
            else {"gpus": int(rng.choice([1, 1, 1, 2, 4, 8, 16]))}
        )
        return JobSpec.model_validate(
            {"command": ["sleep", "100000"], "estimate_s": float(np.exp(rng.normal(8, 1.5))), **what}
        )

    begun, n = time.perf_counter(), 0
    while int(engine.live.sim.counts[0]) < WAITING:
        asked(engine, [spec() for _ in range(BATCH)], f"tenant-{n % 20}")
        n += 1
    filled_s = time.perf_counter() - begun
    decide, turn, real = [], [], engine.live.advance

    def timed(now_s: float) -> Any:
        at = time.perf_counter()
        out = real(now_s)
        decide.append(time.perf_counter() - at)
        return out

    engine.live.advance = timed  # type: ignore[method-assign]
    for k in range(TURNS):
        if k % 3 == 0:
            record = next(r for r in engine.ledger.records.values() if r.state == "running")
            for machine in engine.dispatch.machines_of(record.places):
                by_name[machine].end(record.run)
        at = time.perf_counter()
        asked(engine, [spec()], "tenant-0")
        turn.append(time.perf_counter() - at)
    engine.live.advance = real  # type: ignore[method-assign]
    waiting = [engine.live.of_row(int(row)) for row in engine.live.sim.queue[: engine.live.sim.counts[0]]]
    asking = []
    for k in np.linspace(0, len(waiting) - 1, 200).astype(int):
        record = engine.ledger.records[waiting[k].id]  # type: ignore[union-attr]
        at = time.perf_counter()
        why(engine, record)
        asking.append(time.perf_counter() - at)
    at = time.perf_counter()
    seen = picture(engine)
    picture_s = time.perf_counter() - at
    ahead = []
    for k in (0, len(waiting) // 2, len(waiting) - 1):
        at = time.perf_counter()
        when(seen, waiting[k].id, samples=1)  # type: ignore[union-attr]
        ahead.append(time.perf_counter() - at)
    row = {
        "policy": policy, "backfill": backfill, "waiting": len(waiting), "running": int(engine.live.sim.counts[1]),
        "decision_p50_ms": ms(decide, 50), "decision_p95_ms": ms(decide, 95), "decision_max_ms": ms(decide, 100),
        "turn_p50_ms": ms(turn, 50), "turn_p95_ms": ms(turn, 95), "why_p50_ms": ms(asking, 50), "why_p95_ms": ms(asking, 95),
        "why_max_ms": ms(asking, 100), "picture_ms": round(1000 * picture_s, 1), "when_s": [round(x, 2) for x in ahead],
        "filled_s": round(filled_s, 1),
    }  # fmt: skip
    print(row, flush=True)
    engine.store.close()
    return row


def ms(seconds: list[float], share: float) -> float:
    return round(float(np.percentile(seconds, share)) * 1000, 2)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(*case, Path(folder)) for case in CASES]
    write_part("scale", {"rows": rows, "nodes": NODES})
    names = [name for name in rows[0] if name != "when_s"]
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    lines += [f"| {' | '.join(str(row[name]) for name in names)} |" for row in rows]
    lines += ["", "Seconds for `when` of the first, middle and last job, one sample:"]
    lines += [f"- {row['policy']}: {', '.join(map(str, row['when_s']))}" for row in rows]
    write_text("service_scale", "The service on a large cluster", __doc__, lines)


if __name__ == "__main__":
    main()
