"""Every policy on Helios' September, 100 nodes: ``python experiments/policies_helios.py`` (RLTUNE_TRACES set).

September has been looked at during development; nothing here was chosen by it. Writes results/policies_helios.{json,md}.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import rltune
from rltune.policies.knowledge import forecast_error, known_run_times
from rltune.policies.orders import ORDERS
from rltune.policies.preemptive import PREEMPTIVE

OUT = Path(__file__).resolve().parent / "results" / "policies_helios"
NODES = 100
RESUME_S = 60.0
"""Seconds a resumed job holds its GPUs before it gets on, in every row that suspends."""
RESERVATIONS = 100
"""Waiting jobs that conservative backfill plans for; planning for all of FIFO's queue takes minutes."""
EARLIER = "1f9c23a"
"""The last version with three state machines."""
COMMAND = "RLTUNE_TRACES=... OMP_NUM_THREADS=1 python experiments/policies_helios.py"


def cases() -> list[dict[str, Any]]:
    """Orders under strict, skip and EASY, policies that suspend, backfilling by what is believed of run times."""
    out = [{"policy": name, "backfill": d} for d in ("strict", "skip", "easy") for name in ORDERS]
    for name, policy in PREEMPTIVE.items():
        more = {"resume_s": RESUME_S} if policy.on_event or policy.on_tick else {}
        out.append({"policy": name, "backfill": "skip", **more})
        if policy.scaled:
            out.append({"policy": name, "backfill": "skip", "displace_factor": 1.0, **more})
    reserved = {"backfill": "conservative", "reservations": RESERVATIONS}
    out += [{"policy": name, **reserved} for name in ("fifo", "sjf", "saf")]
    for runtimes in ("predicted", "online"):
        out += [{"policy": "fifo", "runtimes": runtimes, **more} for more in ({"backfill": "easy"}, reserved)]
        srtf = {"policy": "srtf", "backfill": "skip", "runtimes": runtimes, "resume_s": RESUME_S}
        out += [srtf, srtf | {"displace_factor": 1.0, "overrun_factor": 1.0}]
    out += [{"policy": "sjf", "backfill": d, "runtimes": "predicted"} for d in ("skip", "easy")]
    return out


def row(trace: rltune.Trace, cluster: rltune.Cluster, predicted: Any, case: dict[str, Any]) -> dict[str, Any]:
    """Means of one case, and how far mean JCT is above the optimum at most."""
    options = {**case, "runtimes": predicted} if case.get("runtimes") == "predicted" else case
    begun = time.perf_counter()
    result = rltune.simulate(trace, cluster, **options)
    seconds = time.perf_counter() - begun
    summary = result.summary()
    above = result.bounds().get("jct_s", {}).get("above")
    return {
        **case, "wait_s": summary["wait_s"]["mean"], "wait_ci95": summary["wait_s"]["ci95"], "wait_p99": summary["wait_s"]["p99"],
        "jct_s": summary["jct_s"]["mean"], "jct_above_optimum_at_most": above, "bsld": summary["bsld"]["mean"],
        "widest5pct_wait_s": summary["wait_s_widest5pct"]["mean"], "waiting_over_24h": summary["starvation"]["waiting_over_24h"],
        "utilization": summary["utilization"]["mean"], "runs": summary["runs"]["count"], "unfinished": summary["unfinished"],
        "forecast": summary.get("forecast"), "seconds": round(seconds, 2),
    }  # fmt: skip


def main() -> None:
    whole = rltune.load_trace("helios")
    trace, cluster = whole.between("2020-09-01", "2020-09-28"), rltune.load_cluster("helios", nodes=NODES)
    first = int((whole.jobs.submit_s < trace.jobs.submit_s[0]).sum())
    predicted = known_run_times(whole.jobs, "predicted")[first : first + len(trace)]
    rows = [row(trace, cluster, predicted, case) for case in cases()]
    rows.sort(key=lambda r: r["wait_s"])
    about = {
        "command": COMMAND, "trace": trace.label, "source": trace.source, "sha256": trace.sha256, "jobs": len(trace),
        "nodes": NODES, "gpus": cluster.gpus, "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "predicted": forecast_error(trace.jobs, predicted),
    }  # fmt: skip
    OUT.with_suffix(".json").write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    OUT.with_suffix(".md").write_text(markdown(about, rows))
    OUT.with_name("policies_helios_changes.md").write_text(changes(rows))
    print(OUT.with_suffix(".md"))


COMPARED = ("wait_s", "wait_p99", "jct_s", "bsld", "utilization", "runs", "unfinished")
NEW_NAMES = {"known": "exact", "none": "unknown"}
REASONS = {
    "las": "las was the published levels: now las_levels",
    "srtf": "hysteresis (displace_factor 2) and safe estimates; the rows with factor 1 are as before",
    "srsf": "hysteresis (displace_factor 2); the row with factor 1 is as before",
}


def earlier_rows() -> list[dict[str, Any]]:
    """The rows that the last version with three state machines left, under today's names."""
    git = ["git", "-C", str(OUT.parent), "show", f"{EARLIER}:experiments/results/policies_helios.json"]
    rows = json.loads(subprocess.run(git, check=True, capture_output=True, text=True).stdout)["rows"]
    for r in rows:
        r["backfill"] = r.pop("discipline")
        if "knowledge" in r:
            known = r.pop("knowledge")
            r["runtimes"] = NEW_NAMES.get(known, known)
    return rows


def changes(rows: list[dict[str, Any]]) -> str:
    """Every row of the last version beside today's, and why one differs."""
    equal, lines = 0, []
    for old in earlier_rows():
        names = [f"{old['policy']}_levels"] if old["policy"] == "las" else [old["policy"]]
        same = [r for r in rows if r["policy"] in names and r["backfill"] == old["backfill"]]
        same = [r for r in same if str(r.get("runtimes", "exact")) == str(old.get("runtimes", "exact"))]
        if any(all(r[k] == old[k] for k in COMPARED) for r in same):
            equal += 1
            if old["policy"] not in REASONS:
                continue
        reason = REASONS.get(old["policy"], "NOT EXPLAINED")
        lines.append(f"- {old['policy']}, {old['backfill']}, {old.get('runtimes', 'exact')}: {reason}")
    total = len(earlier_rows())
    head = (
        f"# The policies table beside that of {EARLIER}\n\n{equal} of {total} rows are equal in {', '.join(COMPARED)}, "
    )
    return (
        head
        + "some under another name or with an option. Rows whose plain name now means something else:\n\n"
        + "\n".join(lines)
        + "\n"
    )


def markdown(about: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    notes = (
        f'`{about["command"]}`, {about["jobs"]:,} jobs, source "{about["source"]}", {about["machine"]["cores"]} cores.',
        f"Best fit; rows that suspend pay {RESUME_S:g} s at every resumption; conservative plans for the first",
        f'{RESERVATIONS} waiting jobs. "Above": mean JCT above the optimum at most, by the lower bound for schedules',
        "with or without interruptions, as the row has them. Intervals resample days.",
    )
    heads = (
        "policy",
        "backfill",
        "knows",
        "wait s [95 %]",
        "p99",
        "widest 5 %",
        "over 24 h",
        "JCT s",
        "above",
        "bsld",
        "util.",
        "runs",
    )
    title = f"# Every policy on {about['trace']}, September, {about['nodes']} nodes ({about['gpus']} GPUs)"
    lines = [title, "", *notes, "", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for r in rows:
        low, high = r["wait_ci95"]
        above = "-" if r["jct_above_optimum_at_most"] is None else f"{r['jct_above_optimum_at_most']:.1%}"
        lines.append(
            f"| {r['policy']} | {r['backfill']} | {r.get('runtimes', 'exact')} | {r['wait_s']:,.0f} [{low:,.0f}, {high:,.0f}] "
            f"| {r['wait_p99']:,.0f} | {r['widest5pct_wait_s']:,.0f} | {r['waiting_over_24h']:,} | {r['jct_s']:,.0f} | {above} "
            f"| {r['bsld']:,.1f} | {r['utilization']:.3f} | {r['runs']:,} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
