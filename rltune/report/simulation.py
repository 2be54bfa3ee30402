"""The table of one simulation, from its summary: scores of jobs, then what the cluster did, then remarks."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from rltune.report.tables import forecast_text, guard_text, interval, number

SCORES = {
    "wait_s": "wait (s)",
    "jct_s": "JCT (s)",
    "bsld": "bounded slowdown",
    "slowdown": "slowdown",
    "wait_s_widest5pct": "wait of the widest 5 % (s)",
}
WIDTH = 140


def simulation_table(summary: dict[str, Any]) -> None:
    """Print it to standard output."""
    ((name, row),) = summary["policies"].items()
    cluster, trace = summary["cluster"], summary["trace"]
    head = f"{trace['label']}: {trace['jobs']:,} jobs on {cluster['nodes']} nodes ({cluster['gpus']:,} GPUs), {name}"
    table = Table(title=head, title_justify="left", header_style="bold")
    for k, column in enumerate(("", "mean [95 %]", "p50", "p95", "p99", "max", "above optimum")):
        table.add_column(column, justify="left" if k == 0 else "right", no_wrap=True)
    for score, title in SCORES.items():
        found = row[score]
        values = [number(found[key]) for key in ("p50", "p95", "p99", "max")]
        form = ",.0f" if (found["mean"] or 0) >= 100 else ".3g"
        mean = f"{number(found['mean'])} {interval(found['ci95'], form)}".strip()
        table.add_row(title, mean, *values, at_most(summary["bounds"], score))
    facts = cluster_facts(row, cluster, summary["bounds"])
    wide = max(len(title) for title, _ in facts)
    console = Console()
    # A pipe or a narrow terminal would break numbers apart.
    console.width = max(console.width, WIDTH)
    console.print(table)
    for title, text in facts:
        console.print(f"{title:<{wide}}  {text}", highlight=False, markup=False, soft_wrap=True)
    for line in [*bound_remarks(summary["bounds"]), *detail_remarks(row), *summary["remarks"]]:
        console.print(f"note: {line}", highlight=False, markup=False, soft_wrap=True)


def at_most(bounds: dict[str, Any], score: str) -> str:
    """How far above the optimum at most, "-" where there is no bound or it is 0."""
    above = bounds.get(score, {}).get("above") if isinstance(bounds.get(score), dict) else None
    return "-" if above is None else f"at most {100 * above:,.1f} %"


def optimum(bounds: dict[str, Any]) -> str:
    """What is known of the makespan's distance from the optimum."""
    text = at_most(bounds, "makespan_s")
    return "" if text == "-" else f", {text} above the optimum"


def bound_remarks(bounds: dict[str, Any]) -> list[str]:
    """What the column means."""
    if "reason" in bounds:
        return [f"above optimum: {bounds['reason']}"]
    kind = "any schedule, also with interruptions" if bounds["preemptive"] else "any schedule without preemption"
    return [f"above optimum: against lower bounds of {kind}; the optimum itself is not known"]


def detail_remarks(row: dict[str, Any]) -> list[str]:
    """What speeds and ways to run rest on, reservations that memory was too small for, and where the MILP gave way."""
    lines = [f"throughput: {line}" for line in row.get("throughput", [])]
    lines += [line if line.startswith("ways") else f"ways: {line}" for line in row.get("ways", [])]
    if "reservations_simplified" in row:
        lines.append(f"{row['reservations_simplified']:,} plans of reservations ran out of memory and were simplified")
    stats = row.get("allocator", {})
    for reason, times in stats.get("fallbacks", {}).items():
        lines.append(
            f"allocator milp: {times:,} of {stats['calls']:,} joint decisions without proof of the optimum ({reason})"
        )
    became = {name: stats.get(name, 0) for name in ("suspended", "moved", "kept")}
    if any(became.values()):
        lines.append(
            "allocator milp: of running jobs decided on "
            + ", ".join(f"{times:,} {name}" for name, times in became.items())
        )
    return lines


def cluster_facts(row: dict[str, Any], cluster: dict[str, Any], bounds: dict[str, Any]) -> list[tuple[str, str]]:
    """(title, text) of everything that is one figure for the whole cluster."""
    span = row["makespan_s"]["mean"]
    gpu_h = cluster["gpus"] * span / 3600
    queue, starved, runs = row["queue"], row["starvation"], row["runs"]
    other = ", ".join(f"{n:,} {name}" for name, n in runs.items() if name not in ("count", "finished") and n)
    facts = [
        (
            "utilisation",
            f"{row['utilization']['mean']:.3f} of GPU time held, {row['goodput']['mean']:.3f} useful"
            f"{' (in time of the recorded GPUs)' if {'throughput', 'ways'} & set(row) else ''}, {flops(row)}",
        ),
        ("energy of GPUs", energy(row["energy_kwh"])),
        (
            "makespan",
            f"{span / 3600:,.1f} h ({gpu_h:,.0f} GPU-hours){optimum(bounds)}",
        ),
        (
            "fragmentation",
            f"{row['fragmentation']['mean']:.3f} of the free GPUs on partly used nodes, "
            f"{row['fragmentation_by_demand']['mean']:.3f} unusable by the queue's mix",
        ),
        (
            "queue",
            f"mean {number(queue['mean_jobs'])} jobs ({number(queue['mean_gpus'])} GPUs), "
            f"at most {queue['max_jobs']:,.0f} ({number(queue['max_gpus'])} GPUs)",
        ),
        (
            "starvation",
            f"{starved['waiting_over_24h']:,} jobs waited over 24 h, the longest {hours(starved['max_wait_s'])}; "
            f"{starved['never_started']:,} never started",
        ),
    ]
    facts += [(f"fairness by {column}", fairness(found)) for column, found in row["fairness"].items() if found]
    if "mig" in row:
        mig = row["mig"]
        facts.append(("MIG", f"{mig['reconfigurations']:,} reconfigurations, {mig['reconfiguring_s']:,.0f} s in all"))
    if "guard" in row:
        facts.append(("guard", guard_text(row["guard"])))
    if "forecast" in row:
        facts.append(("believed run times", forecast_text(row["forecast"])))
    facts.append(("runs", f"{runs['count']:,}{f' ({other})' if other else ''}; unfinished jobs: {row['unfinished']:,}"))
    return facts


def flops(row: dict[str, Any]) -> str:
    found = row["flops_utilization"]
    return (
        f"FLOPS-weighted {found['mean']:.3f}" if found["mean"] is not None else f"FLOPS-weighted - ({found['reason']})"
    )


def energy(found: dict[str, Any]) -> str:
    parts = [
        f"{name} {part['busy']:,.0f} busy + {part['idle']:,.0f} idle"
        for name, part in found["by_type"].items()
        if part is not None
    ]
    total = f"{found['mean']:,.0f} kWh" if found["mean"] is not None else f"- ({found['reason']})"
    return f"{total}{': ' if parts else ''}{', '.join(parts)}"


def fairness(found: dict[str, Any]) -> str:
    rho = found["rho"]
    return (
        f"{found['tenants']} tenants, Jain {found['jain_bsld']:.3f} of bounded slowdown; finish-time rho mean "
        f"{number(rho['mean'])}, worst tenant {number(rho['worst'])}, above 1: {rho['above_1']:.1%} of jobs"
    )


def hours(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds / 3600:,.1f} h"
