"""Policies beside every heuristic on held-back jobs: the same windows for all, greedy actions, paired intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from rltune.config.commands import TIMED
from rltune.core.choices import FASTEST, MARKET
from rltune.experiment.parts import has_parts, part_orders, parts, parts_text
from rltune.experiment.progress import Told
from rltune.experiment.provenance import recipe
from rltune.experiment.rows import (
    LEARNED,
    METRICS,
    SEARCHED,
    Row,
    against_best,
    blocks_of,
    comparisons,
    curve_rows,
    notes,
    over_seeds,
    per_job,
    per_pool,
    per_window,
    seed_groups,
    summarise,
)
from rltune.experiment.setup import Experiment, oversized_count, spread
from rltune.nouns.cluster import Cluster
from rltune.nouns.errors import InputError
from rltune.nouns.metrics import SCORE_METRIC
from rltune.policies.knowledge import RUNTIMES, forecast_error
from rltune.policies.orders import ORDERS, order
from rltune.report.console import progress_bar, say
from rltune.report.figures import box_plot, cdf
from rltune.report.tables import comparison_table, forecast_text, markdown_table
from rltune.rl.policy_file import AnyPolicy
from rltune.rl.rules import Rules, needs_run_time, run_times
from rltune.rundir import RunDirectory
from rltune.simulator.full import preemptive_policy
from rltune.simulator.progress import watched
from rltune.simulator.result import Result
from rltune.simulator.run import TRAINED, find_oversized, needs_detail, simulate_jobs
from rltune.simulator.runs import GPU
from rltune.simulator.usage import demand_milli
from rltune.traces.capacity import with_capacity

FEW_DAYS = 10
"""Below, the bootstrap over days of submission knows too little of how days differ."""


class Case(NamedTuple):
    """A heuristic row of the table: names of its order, its backfill and its run times; its rule of ways, None: the experiment's."""

    policy: str
    backfill: str
    runtimes: str
    ways: str | None = None


def evaluate_into(
    run: RunDirectory,
    experiment: Experiment,
    learned: Sequence[AnyPolicy],
    cases: Sequence[Case],
    *,
    score: str = "wait",
    windows: Any = 64,
    progress: bool = True,
) -> dict[str, Any]:
    """Evaluate at every cluster size, write tables and figures into ``run``; the summary's share of it.

    Rows are ranked by the learned policies' own score (``score`` where there is none). The
    first size stands at the top of the summary, the others under ``further``.
    """
    blocks = []
    for nodes in experiment.node_counts:
        cluster = experiment.sized(nodes)
        blocks.append(_evaluate_size(run, experiment, cluster, learned, cases, score, windows, progress))
    return blocks[0] | ({"further": blocks[1:]} if len(blocks) > 1 else {})


def _evaluate_size(
    run: RunDirectory,
    experiment: Experiment,
    cluster: Cluster,
    learned: Sequence[AnyPolicy],
    cases: Sequence[Case],
    score: str,
    windows: Any,
    progress: bool,
) -> dict[str, Any]:
    starts, length = test_windows(experiment, windows)
    metric = SCORE_METRIC[learned[0].rules.score if learned else score]
    cases = with_baselines(cases, learned)
    dropped, warning = oversized_count(experiment, cluster)
    if dropped:
        say(f"warning: {warning} [dropped and counted as unfinished]")
    if len(find_oversized(experiment.stretches["test"].jobs, cluster)) == len(experiment.stretches["test"].jobs):
        raise InputError(warning)
    cases, left_out = possible_cases(experiment, cluster, cases)
    for remark in left_out:
        say(f"note: {remark}")
    plays = plays_of(experiment, learned)
    bar = progress_bar(f"evaluating on {cluster.nodes} nodes, rows", len(cases) + len(plays), progress)
    with bar as update, watched(Told(lambda _, text: update(0, text)) if progress else None):
        rows = heuristic_rows(experiment, cluster, cases, starts, length, update)
        rows += learned_rows(experiment, cluster, plays, starts, length, update)
    for row in rows:
        report_fallbacks(row.name, row.allocator_stats)
    suffix = f"-{cluster.nodes}" if len(experiment.node_counts) > 1 else ""
    title = f"{experiment.trace.label}, {cluster.nodes} nodes, {experiment.protocol['name']} protocol, by {metric}"
    block: dict[str, Any] = {
        "cluster": {"name": cluster.name, "nodes": cluster.nodes, "gpus": cluster.gpus},
        "test": {"range": experiment.ranges["test"], "windows": len(starts), "jobs": length * len(starts)},
        "metric": metric,
        "load": offered_load(experiment, cluster) if len(starts) == 1 else None,
        "policies": {row.name: summarise(row) for row in rows},
    }
    block["comparisons"] = comparisons(rows)
    block["against_best"] = against_best(rows, metric)
    block["seeds"] = [over_seeds(group, metric) for group in seed_groups(rows)]
    block["notes"] = left_out + notes(rows, block["seeds"], metric)
    if any(row.runtimes == "predicted" for row in rows):
        stretch = experiment.stretches["test"]
        block["forecast"] = forecast_error(stretch.jobs, run_times(stretch, "predicted", experiment.trace))
        block["notes"].append(f"predicted run times: {forecast_text(block['forecast'])}")
    if len(starts) > 1 and min(np.diff(np.sort(starts))) < length:
        block["notes"].append("test windows overlap, so intervals are too narrow; a longer test stretch holds more")
    days = len(np.unique(blocks_of(rows[0])))
    if len(starts) == 1 and days < FEW_DAYS:
        block["notes"].append(
            f"intervals rest on {days} days of submission, so they are too narrow; a longer test stretch has more"
        )
    comparison_table(block, metric, title)
    table = markdown_table(block, metric, title)
    first = next((row for row in rows if row.learned), None)
    if first is not None and has_parts(experiment.options):
        block["parts"] = parts(rows, first, metric)
        say(parts_text(block["parts"], metric))
        table += "\n" + parts_text(block["parts"], metric)
    run.write_text(f"table{suffix}.md", table)
    per_window(rows, metric).to_csv(run.file(f"windows{suffix}.csv"), index=False)
    shown = curve_rows(rows, metric)
    per_job(shown, starts).to_parquet(run.file(f"jobs{suffix}.parquet"), index=False)
    if len(starts) == 1:
        per_pool(shown).to_parquet(run.file(f"pools{suffix}.parquet"), index=False)
    unit = f"{metric} by window" if len(starts) > 1 else f"{metric} by day of submission"
    if metric in METRICS:
        box_plot(
            per_window(shown, metric).pivot(index="window", columns="policy", values="value"),
            run.file(f"box{suffix}.png"),
            title,
            unit,
        )
        curves = {row.name: np.concatenate(row.values(metric)) for row in shown}
        cdf(curves, run.file(f"cdf{suffix}.png"), title, metric)
    return block


def test_windows(experiment: Experiment, windows: Any) -> tuple[list[int], int]:
    """First jobs of the test windows and their length; the month protocol has one window, the whole stretch."""
    jobs = len(experiment.stretches["test"].jobs)
    if experiment.protocol["name"] == "month":
        return [0], jobs
    length = int(experiment.protocol["window"])
    if jobs < length:
        raise InputError(f"{experiment.trace.label}: the test stretch has {jobs} jobs, fewer than a window of {length}")
    if isinstance(windows, int):
        if windows < 1:
            raise InputError(f"windows={windows}; at least 1 is needed")
        return spread(0, jobs - length, windows), length
    if len(set(windows)) < len(windows):
        raise InputError("windows: a first job is named twice; its window would count double in every interval")
    bad = [start for start in windows if not 0 <= int(start) <= jobs - length]
    if bad:
        raise InputError(f"windows: {bad[0]} is no first job of the test stretch; 0 to {jobs - length} are possible")
    return [int(start) for start in windows], length


def offered_load(experiment: Experiment, cluster: Cluster) -> float | None:
    """GPU-seconds that the test jobs ask for over all GPUs x the time in which they are submitted; None where that is no time."""
    jobs = experiment.stretches["test"].jobs
    span = float(jobs.submit_s[-1] - jobs.submit_s[0])
    asked = float((demand_milli(jobs) / GPU * jobs.duration_s).sum())
    return asked / (span * cluster.gpus) if span > 0 and cluster.gpus else None


def heuristic_cases(
    policy: str | Sequence[str] = "all",
    backfill: Sequence[str] = tuple(TRAINED),
    runtimes: Sequence[str] = TIMED,
) -> list[Case]:
    """(policy, backfill, runtimes) of every row; what needs no run times appears once, as runtimes unknown."""
    named = list(ORDERS) if policy == "all" else [policy_named(name) for name in policy]
    cases = []
    for way in dict.fromkeys(backfill):
        for one in dict.fromkeys(named):
            needs = needs_run_time(one) or way == "easy"
            cases += [Case(one, way, known) for known in (dict.fromkeys(runtimes) if needs else ("unknown",))]
    return cases


def policy_named(name: str) -> str:
    """The name of an order, or of a policy of the full build, that may also be called ``name``."""
    special = preemptive_policy(name)
    return order(name).name if special is None else special.name


def with_baselines(cases: Sequence[Case], learned: Sequence[AnyPolicy]) -> list[Case]:
    """Beside policies whose baseline is no order (it suspends) that baseline too, since an untrained policy is it."""
    own = [each.rules for each in learned if preemptive_policy(each.rules.baseline) is not None]
    more = [
        Case(policy_named(r.baseline), r.backfill, r.runtimes if needs_run_time(r.baseline) else "unknown") for r in own
    ]
    if learned and has_parts(learned[0].rules.options):
        first = learned[0].rules
        more += [
            Case(
                name,
                first.backfill,
                first.runtimes if needs_run_time(name) else "unknown",
                None if ways == MARKET else ways,
            )
            for name, ways in part_orders(policy_named(first.baseline))
        ]
    return list(dict.fromkeys([*cases, *more]))


def possible_cases(experiment: Experiment, cluster: Cluster, cases: Sequence[Case]) -> tuple[list[Case], list[str]]:
    """The rows that can be simulated under the experiment's options, and what is told of the others."""
    jobs, options, left_out = experiment.stretches["test"].jobs, experiment.options, dict[str, str]()
    detailed = needs_detail(jobs, cluster, "fifo", "skip", greedy_rule(experiment), "exact", options)
    kept = []
    for case in cases:
        if case.backfill == "blocking" and (detailed or preemptive_policy(case.policy) is not None):
            reason = detailed or f"policy={case.policy}"
            left_out.setdefault(
                "blocking", f"the reference protocol knows whole GPUs without interruptions only ({reason})"
            )
        elif case.backfill == "easy" and suspends(case.policy, options.get("preemptive")):
            left_out.setdefault("easy, of policies that suspend,", "they hold no GPUs back for a reservation")
        else:
            kept.append(case)
    return kept, [f"rows with backfill={name} are left out: {why}" for name, why in left_out.items()]


def suspends(policy: str, preemptive: bool | None) -> bool:
    """Whether running jobs may be suspended under a policy by name; ``preemptive``: the option."""
    special = preemptive_policy(policy)
    as_is = special is not None and (special.on_event or special.on_tick)
    return as_is if preemptive is None else preemptive


def heuristic_rows(
    experiment: Experiment,
    cluster: Cluster,
    cases: Sequence[Case],
    starts: Sequence[int],
    length: int,
    update: Callable[..., None],
) -> list[Row]:
    """Every heuristic on every window, placed by the experiment's greedy rule (best fit beside the MILP)."""
    stretch = experiment.stretches["test"]
    known = {each: run_times(stretch, each, experiment.trace) for each in RUNTIMES}
    allocator = greedy_rule(experiment)
    cost = experiment.cost(cluster)
    options = with_capacity(experiment.options, stretch, cluster)
    rows = []
    for policy, backfill, runtimes, ways in cases:
        of_case = options | ({"way_rule": ways} if ways else {})
        results = [
            simulate_jobs(
                stretch.jobs.take(slice(start, start + length)),
                cluster,
                policy=policy,
                backfill=backfill,
                allocator=allocator,
                runtimes=known[runtimes][start : start + length],
                oversized=experiment.oversized,
                cost=cost,
                **of_case,
            )
            for start in starts
        ]
        suffix = ("" if runtimes == "unknown" else f"-{runtimes}") + (f"+{ways}" if ways else "")
        taken = str(of_case.get("way_rule", FASTEST))
        rows.append(Row(f"{policy}-{backfill}{suffix}", policy, backfill, runtimes, allocator, results, ways=taken))
        update()
    return rows


def greedy_rule(experiment: Experiment) -> str:
    """How rows without a MILP are placed."""
    return "best_fit" if experiment.allocator_name == "milp" else experiment.allocator_name


@dataclass(frozen=True)
class Play:
    """A policy to be played under rules, as a row of the table."""

    name: str
    policy: AnyPolicy
    learned: bool = True
    """False for its untrained baseline order."""

    @property
    def rules(self) -> Rules:
        return self.policy.rules


def plays_of(experiment: Experiment, policies: Sequence[AnyPolicy]) -> list[Play]:
    """Each policy with every allocator of the evaluation; beside the MILP also its baseline order.

    With a greedy allocator the untrained policy is a heuristic's row already, to the schedule.
    """
    seeds = [f"-s{policy.origin.get('seed')}" for policy in policies]
    # Several policies are told apart by seed, or by number where seeds repeat.
    numbers = [f"-{k}" for k in range(len(policies))]
    suffixes = [""] if len(policies) == 1 else seeds if len(set(seeds)) == len(seeds) else numbers
    allocators = dict.fromkeys([experiment.allocator_name, greedy_rule(experiment)])
    plays: dict[str, Play] = {}
    for allocator in allocators:
        placed = "+milp" if allocator == "milp" else ""
        for policy, suffix in zip(policies, suffixes, strict=True):
            rules = replace(policy.rules, allocator=allocator, warmup=0, reward="score", options=experiment.options)
            found = SEARCHED if policy.origin.get("algo") == "cma" else LEARNED
            name = f"{found}-{rules.backfill}-{rules.runtimes}{suffix}{placed}"
            name += "+guard" if policy.guard is not None else ""
            plays[name] = Play(name, replace(policy, rules=rules))
            if placed:
                name = f"{rules.baseline}-{rules.backfill}-{rules.runtimes}{placed}"
                plays[name] = Play(name, replace(policy.untrained(), rules=rules), learned=False)
    return list(plays.values())


def learned_rows(
    experiment: Experiment,
    cluster: Cluster,
    plays: Sequence[Play],
    starts: Sequence[int],
    length: int,
    update: Callable[..., None],
) -> list[Row]:
    """Networks by greedy actions on every window."""
    rows: list[Row] = []
    for each in plays:
        rules = each.rules
        results, stats = simulate_learned(experiment, cluster, each, starts, length)
        origin = each.policy.origin
        policy = LEARNED if each.learned else rules.baseline
        row = Row(each.name, policy, rules.backfill, rules.runtimes, rules.allocator, results, allocator_stats=stats)
        if each.learned:
            told: dict[str, Any] = {
                "kept": str(origin.get("kept")),
                "seed": origin.get("seed"),
                "model": origin.get("model"),
            }
            row = replace(row, baseline=rules.baseline, recipe=recipe(origin), **told)
        rows.append(row)
        update()
    return rows


def simulate_learned(
    experiment: Experiment, cluster: Cluster, each: Play, starts: Sequence[int], length: int
) -> tuple[list[Result], dict[str, Any]]:
    """A learned policy on every window, as any other policy is simulated; and the MILP's counters over all of them."""
    rules, stretch = each.rules, experiment.stretches["test"]
    known = run_times(stretch, rules.runtimes, experiment.trace)
    allocator = experiment.milp(cluster) if rules.allocator == "milp" else rules.allocator
    results = [
        simulate_jobs(
            stretch.jobs.take(slice(start, start + length)),
            cluster,
            policy=each.policy,
            backfill=rules.backfill,
            allocator=allocator,
            runtimes=known[start : start + length],
            oversized=experiment.oversized,
            cost=experiment.cost(cluster),
            **with_capacity(rules.options, stretch, cluster),
        )
        for start in starts
    ]
    stats = dict(results[-1].allocator_stats)
    if "kept_for_reservation" in stats:
        stats["kept_for_reservation"] = sum(r.allocator_stats["kept_for_reservation"] for r in results)
    return results, stats


def report_fallbacks(name: str, stats: dict[str, Any]) -> None:
    """A line on the screen where the MILP gave way to greedy placement, or to a reservation."""
    for reason, times in stats.get("fallbacks", {}).items():
        say(f"note: {name}: {times} of {stats['calls']} joint decisions fell back to a known plan ({reason})")
    if stats.get("kept_for_reservation"):
        say(f"note: {name}: {stats['kept_for_reservation']} joint placements gave way to a reservation")
