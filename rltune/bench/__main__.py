"""``python -m rltune.bench``: the speed figures, written to experiments/bench.json with their aims.

Everything runs in this process on one core unless a row says otherwise. Times
are medians of repeated runs; comparisons alternate their two sides in one run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import rltune
from rltune.bench import committing, first_use, planning, planning_ahead, versions
from rltune.bench.deciding import Timing, mig_gpus, shared_gpus, whole_gpus
from rltune.bench.learning import bench_ppo, environment_rows
from rltune.bench.rows import machine, median_s, row
from rltune.bench.scaling import LOAD, exponent, in_own_process
from rltune.config import CONF
from rltune.core.loop import begin
from rltune.core.loop import run as run_to_end
from rltune.core.reference import Ref, ref
from rltune.core.resources.counts import BEST_FIT
from rltune.core.state import BACKFILLS, Plain, build_lean
from rltune.mig.online import FleetOptions, Growth
from rltune.policies.orders import order, static_rank
from rltune.report.console import say
from rltune.rl.runtime import tune
from rltune.rundir import peak_rss_mb
from rltune.traces import Trace
from rltune.traces.folder import need, traces_folder
from rltune.traces.openb import read_openb_nodes, read_openb_requests

EXPERIMENTS = CONF.parent / "experiments"
RECORD = (EXPERIMENTS if EXPERIMENTS.is_dir() else Path()) / "bench.json"
COMMAND = "python -m rltune.bench"
SCALES = (10_000, 100_000, 1_000_000, 10_000_000)
SLICING_LOAD = 0.95
FULL_LOAD = 1.0


def begin_and_run(state: Ref) -> None:
    """One simulation of a state of the lean build, from time zero."""
    begin(state)
    run_to_end(state)


def bench_simulator(trace: Trace) -> list[dict[str, Any]]:
    """FIFO-skip on Helios September, 100 nodes: the event loop alone, and with building the state."""
    stretch = trace.between("2020-09-01", "2020-09-28")
    cluster = rltune.load_cluster("helios", nodes=100)
    rows = []
    for policy, backfill, name, aim in (
        ("fifo", "skip", "sim_jobs_per_s_fifo_skip_helios100", 1e6),
        ("fifo", "easy", "sim_jobs_per_s_fifo_easy_helios100", 2e5),
        ("sjf", "easy", "sim_jobs_per_s_sjf_easy_helios100", 2e5),
    ):
        known = stretch.jobs.duration_s
        params = Plain(order(policy).code, BACKFILLS[backfill], BEST_FIT)
        state = ref(
            build_lean(stretch.jobs, cluster, known, static_rank(order(policy), stretch.jobs, known), None, params)
        )
        seconds = median_s(partial(begin_and_run, state), 15)
        rows.append(row(name, len(stretch) / seconds, "jobs/s", aim, trace.label, f"{len(stretch)} jobs of September"))
    whole = median_s(lambda: rltune.simulate(stretch, cluster, policy="fifo", backfill="skip"), 7)
    rows.append(
        row(
            "sim_jobs_per_s_fifo_skip_helios100_with_setup",
            len(stretch) / whole,
            "jobs/s",
            None,
            trace.label,
            "rltune.simulate",
        )
    )
    return rows


def bench_scaling() -> list[dict[str, Any]]:
    """Jobs per second from ten thousand to ten million jobs on 10 and 100 thousand GPUs, and how that grows."""
    rows = []
    drawn = f"drawn by Helios' published distributions at load {LOAD}"
    for policy, backfill in (("fifo", "skip"), ("sjf", "easy")):
        for gpus in (10_000, 100_000):
            cases = [in_own_process(jobs, gpus, policy, backfill) for jobs in SCALES]
            name = f"{policy}_{backfill}_{gpus // 1000}k_gpus"
            for case in cases:
                note = f"{case['seconds']} s from job table to times, {case['peak_rss_mb']:,} MB, mean wait {case['mean_wait_s']} s"
                rows.append(
                    row(f"sim_jobs_per_s_{name}_{case['jobs']}_jobs", case["jobs_per_s"], "jobs/s", None, drawn, note)
                )
            least = f"seconds ~ jobs^b, {SCALES[1]:,} to {SCALES[-1]:,} jobs"
            rows.append(row(f"sim_growth_{name}", exponent(cases[1:]), "exponent", 1.1, drawn, least, most=True))
            rows.append(
                row(f"sim_memory_mb_{name}_{SCALES[-1]}_jobs", cases[-1]["peak_rss_mb"], "MB", 2000, drawn, most=True)
            )
    for backfill in ("skip", "easy"):
        case = in_own_process(1_000_000, 10_000, "fifo", backfill, FULL_LOAD)
        note = f"{case['seconds']} s, mean wait {case['mean_wait_s']:,} s: with a queue"
        at = drawn.replace(str(LOAD), str(FULL_LOAD))
        rows.append(
            row(f"sim_jobs_per_s_fifo_{backfill}_10k_gpus_full_load", case["jobs_per_s"], "jobs/s", None, at, note)
        )
    for policy in ("las", "round_robin", "srtf", "wfq", "lottery"):
        case = in_own_process(100_000, 1000, policy, "skip", SLICING_LOAD)
        note = f"{case['runs']:,} runs, mean wait {case['mean_wait_s']:,} s, quantum 600 s"
        at = drawn.replace(str(LOAD), str(SLICING_LOAD))
        rows.append(row(f"slicing_s_{policy}_100000_jobs_1k_gpus", case["seconds"], "s", 60, at, note, most=True))
    return rows


def bench_allocator() -> list[dict[str, Any]]:
    """Milliseconds of one joint decision by size of cluster, head and states; HiGHS' part, and models given to it as they are."""
    drawn = "states drawn anew for every decision (rltune.bench.deciding), nothing cached"
    cases: list[tuple[str, Callable[[], Timing], str, float | None]] = [
        ("36_nodes", lambda: whole_gpus([(16, 2), (20, 8)], 128, 16, 300), "median", 3),
        ("1000_nodes", lambda: whole_gpus([(1000, 8)], 128, 32, 200), "p95", 50),
        ("10000_nodes", lambda: whole_gpus([(10_000, 8)], 128, 32, 100), "p95", 250),
        ("mig_1000_gpus", lambda: shared_gpus(*mig_gpus(1000), 32, 100), "p95", 100),
    ]
    rows, medians = [], {}
    for name, run, figure, aim in cases:
        timing = run()
        rows += timing_rows(name, timing, figure, aim, drawn)
        medians[name] = float(np.median(timing.total))
    growth = np.log(medians["10000_nodes"] / medians["1000_nodes"]) / np.log(10)
    rows.append(
        row("milp_growth_nodes", growth, "exponent", 1.1, drawn, "ms ~ nodes^b, 1,000 to 10,000 nodes", most=True)
    )
    by_head = {head: float(np.median(whole_gpus([(1000, 8)], 256, head, 100).total)) for head in (8, 16, 32, 64)}
    told = ", ".join(f"{head}: {ms:.2f} ms" for head, ms in by_head.items())
    growth = np.log(by_head[64] / by_head[8]) / np.log(8)
    rows.append(row("milp_growth_head", growth, "exponent", None, drawn, f"ms ~ K^b; {told}"))
    return rows + bench_states()


def bench_states() -> list[dict[str, Any]]:
    """Shares with CPU and memory on openb's cluster, and how time grows with the number of distinct states."""
    try:
        folder = "alibaba_openb_2023"
        lists = [need(traces_folder(), (f"{folder}/{name}",), "openb", "see traces/README.md") for name in OPENB]
    except rltune.InputError as error:
        say(f"skipped: joint decisions on openb ({error})")
        return []
    cluster, jobs = read_openb_nodes(lists[0]), read_openb_requests(lists[1])
    label = "real: Alibaba openb, 1,213 nodes, its pods' mix; rltune.bench.deciding"
    rows, points = [], []
    for states in (50, 200, None):
        timing = shared_gpus(cluster, jobs, 32, 40, states=states)
        name = "openb" if states is None else f"openb_{states}_states"
        rows += timing_rows(name, timing, "p95", None, label)
        points.append((float(np.median(timing.states)), float(np.median(timing.total))))
    x, y = np.log(np.array(points)).T
    growth = np.polyfit(x, y, 1)[0]
    told = ", ".join(f"{states:.0f}: {ms:.1f} ms" for states, ms in points)
    return [
        *rows,
        row("milp_growth_states", float(growth), "exponent", 1.1, label, f"ms ~ states^b; {told}", most=True),
    ]


def bench_mig() -> list[dict[str, Any]]:
    """Batches on one A100 and tenants on a fleet, both generated."""
    drawn = "generated: the published families, 20 batches of 14 tasks each (rltune.bench.planning)"
    rows = []
    for family, (aim, _) in planning.AIMS.items():
        ratio = planning.batch_ratio(family, 0.1)
        told = "makespan / area bound, 100 ms of search"
        rows.append(row(f"mig_batch_ratio_100ms_{family}", ratio, "ratio", aim, drawn, told, most=True))
    rows.append(row("mig_batch_steps_per_s", planning.steps_per_s(), "steps/s", None, drawn))
    rows.append(
        row("mig_batch_setup_ms", planning.setup_ms(), "ms", None, drawn, "FAR, fixed partitions, one step, plan")
    )
    rows.append(row("mig_far_ms", planning.far_ms(), "ms", None, drawn, "FAR alone"))
    for seconds in (1, 10):
        ratio, name = planning.large_ratio(seconds), f"mig_batch_ratio_{seconds}s_1000_tasks_4_gpus"
        rows.append(row(name, ratio, "ratio", None, drawn, "wide times, makespan / area bound"))
    told = "seconds ~ tasks^b, 1,000 to 10,000 tasks, 200,000 steps and everything around them"
    rows.append(row("mig_batch_growth_tasks", planning.growth_in_tasks(), "exponent", 1.1, drawn, told, most=True))
    drawn = "generated: 20 streams of 2,000 acquires and releases (rltune.bench.planning)"
    for workload in planning.LIVE:
        for policy in ("learned", "fragmentation", "first_fit"):
            provisioned = planning.online_ratio(workload, policy)
            wanted = 1.05 if policy == "learned" else None
            told = f"GPUs provisioned / lower bound, {policy}, no migration"
            name = f"mig_online_ratio_{workload}" + ("" if policy == "learned" else f"_{policy}")
            rows.append(row(name, provisioned, "ratio", wanted, drawn, told, most=True))
    for policy in ("learned", "lookahead"):
        options = FleetOptions((Growth(planning.GPU),), policy=policy)
        taken, gpus = planning.acquire_us(options, planning.THOUSAND_GPUS)
        told = f"median of an acquire, {gpus:,} GPUs"
        rows.append(row(f"mig_online_decision_us_{policy}", float(taken.median()), "us", 1000, drawn, told, most=True))
    return rows


def bench_first_use() -> list[dict[str, Any]]:
    """Seconds to the first answer of the detailed simulation in a fresh clone, after set-up."""
    waits = first_use.measure()
    note = (
        f"python -m rltune.{first_use.SIMULATE}; set-up compiles {waits.setup:.0f} s in an empty cache on "
        f"{os.cpu_count()} cores, {waits.unchanged:.1f} s where nothing changed"
    )
    return [row("first_use_s", waits.first_use, "s", 10, "synthetic", note, most=True)]


def bench_devices() -> list[dict[str, Any]]:
    """The hardware adapter's own time, on a simulated machine."""
    told = f"{committing.GPUS} simulated A100-80GB that take no time (rltune.bench.committing)"
    return [
        row("device_apply_ms_8_gpus", committing.apply_ms(), "ms", 20, told, "7 x 1g to 4g + 3g and back", most=True),
        row(
            "device_apply_cpu_ms_8_gpus",
            committing.apply_ms(time.process_time),
            "ms",
            None,
            told,
            "the same, in CPU time",
        ),
        row("device_show_ms_8_gpus", committing.show_ms(), "ms", 50, told, "inventory as JSON", most=True),
    ]


OPENB = ("openb_node_list_gpu_node.csv", "openb_pod_list_default.csv.gz")


def timing_rows(name: str, timing: Timing, figure: str, aim: float | None, trace: str) -> list[dict[str, Any]]:
    """The figure with an aim, the other one, HiGHS' part, and what is not HiGHS over it."""
    quantile = {"median": 50, "p95": 95}
    stats = timing.stats
    note = (
        f"{len(timing.total)} decisions, median of {np.median(timing.states):.0f} distinct states; "
        f"{stats['solves']} solved, {stats['branchings']} branched, {stats['improved']} better than every known plan, "
        f"{stats['restricted']} with some columns only, fallbacks {stats['fallbacks'] or 0}"
    )
    rows = [
        row(
            f"milp_ms_{figure}_{name}",
            float(np.percentile(timing.total, quantile[figure])),
            "ms",
            aim,
            trace,
            note,
            most=True,
        )
    ]
    other = "p95" if figure == "median" else "median"
    rows.append(row(f"milp_ms_{other}_{name}", float(np.percentile(timing.total, quantile[other])), "ms", None, trace))
    solver = f"median in HiGHS; p95 {np.percentile(timing.solver, 95):.2f}"
    rows.append(row(f"milp_highs_ms_{name}", float(np.median(timing.solver)), "ms", None, trace, solver))
    rows.append(
        row(
            f"milp_overhead_{name}",
            timing.overhead,
            "ratio",
            0.5,
            trace,
            "what is not HiGHS over what is, medians",
            most=True,
        )
    )
    if len(timing.whole):
        whole = float(np.median(timing.whole))
        told = "the same models given to HiGHS as they are, median"
        rows.append(row(f"milp_whole_highs_ms_{name}", whole, "ms", None, trace, told))
        stated = "the same models through Pyomo's interface, stating them included, median"
        rows.append(row(f"milp_pyomo_ms_{name}", float(np.median(timing.pyomo)), "ms", None, trace, stated))
    return rows


def bench_core() -> list[dict[str, Any]]:
    """This version's core beside the last one with three state machines; one plan of conservative backfill."""
    drawn = (
        f"drawn by Helios' published distributions: {versions.JOBS:,} jobs, {versions.GPUS} GPUs, load {versions.LOAD}"
    )
    aims = {"lean_skip": 0.95, "lean_easy": 0.9, "full_skip": 4.0, "full_easy": 4.0}
    try:
        found = versions.ratios()
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        say(f"skipped: this version over {versions.BASE} ({error})")
        found = {}
    rows = []
    for case, aim in aims.items():
        got = found.get(case)
        told = f"{got[1]:,.0f} over {got[2]:,.0f} jobs/s, {versions.TURNS} turns" if got else "not measured: no history"
        rows.append(row(f"core_{case}_ratio", got[0] if got else None, f"over {versions.BASE}", aim, drawn, told))
    for waiting, most_ms in ((250, None), (1000, 2.0)):
        told = f"median of a plan, {planning_ahead.NODES} nodes, fifo"
        ms = planning_ahead.plan_ms(waiting)
        rows.append(
            row(f"conservative_ms_{waiting}_waiting", ms, "ms", most_ms, "drawn: lognormal run times", told, most=True)
        )
    case_ = in_own_process(1_000_000, 1000, "gittins", "skip", FULL_LOAD)
    note = f"{case_['runs']:,} runs, mean wait {case_['mean_wait_s']:,} s"
    at = f"drawn by Helios' published distributions at load {FULL_LOAD}"
    rows.append(row("suspension_s_gittins_1000000_jobs_1k_gpus", case_["seconds"], "s", 600, at, note, most=True))
    return rows


def write(rows: list[dict[str, Any]], out: Path, earlier: list[dict[str, Any]]) -> None:
    """bench.json (a list of rows, after the ``earlier`` ones) and a line a new figure appended to the history."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps([*earlier, *rows], indent=1) + "\n")
    history = out.parent / "benchmarks.md"
    if not history.exists():
        columns = "| date | version | figure | value | unit | aim | met |"
        history.write_text(f"# Benchmarks by version\n\n{columns}\n{'|---' * 7}|\n")
    with history.open("a") as file:
        for r in rows:
            met = {True: "yes", False: "no", None: "-"}[r["met"]]
            aim = "-" if r["aim"] is None else f"{r['aim']:,.4g}"
            cells = (date.today(), rltune.__version__, r["name"], shown(r["value"]), r["unit"], aim, met)
            file.write("| " + " | ".join(map(str, cells)) + " |\n")


def shown(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RECORD)
    parser.add_argument(
        "--only",
        choices=("simulator", "allocator", "environment", "ppo", "mig", "devices", "first_use", "core"),
        help="measure this part; the other rows of the record stay",
    )
    parser.add_argument("--iterations", type=int, default=6, help="PPO epochs of each side")
    arguments = parser.parse_args(argv)
    if os.environ.get("OMP_NUM_THREADS") != "1":
        # The thread pools are sized when NumPy and Torch load: begin again with one thread.
        return subprocess.run(
            [sys.executable, "-m", "rltune.bench", *(sys.argv[1:] if argv is None else argv)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=False,
        ).returncode
    tune(1)
    helios = rltune.load_trace("helios")
    say(f"trace: {helios.label}; machine: {machine()}")
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "simulator": lambda: bench_simulator(helios) + bench_scaling(),
        "allocator": bench_allocator, "environment": environment_rows,
        "ppo": lambda: bench_ppo(helios, arguments.iterations), "mig": bench_mig,
        "devices": bench_devices, "first_use": bench_first_use, "core": bench_core,
    }  # fmt: skip
    if arguments.only is not None:
        return finish(parts[arguments.only](), arguments.out, keep=True)
    rows = bench_simulator(helios) + bench_scaling() + bench_allocator() + bench_mig() + environment_rows()
    rows += bench_ppo(helios, arguments.iterations) + bench_devices() + bench_first_use() + bench_core()
    rows.append(row("peak_memory_mb", peak_rss_mb(), "MB", None, helios.label, "this whole benchmark, in one process"))
    return finish(rows, arguments.out)


def finish(rows: list[dict[str, Any]], out: Path, *, keep: bool = False) -> int:
    """Record the rows and show them; ``keep``: beside those of an earlier record that bear other names."""
    for r in rows:
        r["machine"] = machine()
    names = {r["name"] for r in rows}
    earlier = json.loads(out.read_text()) if keep and out.exists() else []
    write(rows, out, [r for r in earlier if r["name"] not in names])
    for r in rows:
        met = {True: "met", False: "NOT MET", None: ""}[r["met"]]
        print(f"{r['name']:<48}{shown(r['value']):>14} {r['unit']:<8} aim {shown(r['aim']):<8} {met}")
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
