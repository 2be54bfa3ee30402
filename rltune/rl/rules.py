"""What an environment needs, from plain values: trace, cluster, baseline order, backfill, allocator, score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from rltune.allocators.fragmentation import FloatArray, cost_table, demand_of
from rltune.allocators.greedy import rule_code
from rltune.config.learning import VISIBLE, Window
from rltune.core.resources.counts import LEAST_FRAGMENTATION
from rltune.core.resources.scores import SHARING_RULES
from rltune.core.state import Plain, Sim, build_lean
from rltune.nouns.cluster import Cluster
from rltune.nouns.errors import InputError
from rltune.nouns.metrics import check_score
from rltune.policies.knowledge import known_run_times
from rltune.policies.orders import order, static_rank
from rltune.rl.scoring import SCORE_CODES
from rltune.simulator.full import build_state, preemptive_policy
from rltune.simulator.options import make_options
from rltune.simulator.run import TRAINED, check_backfill, check_detailed, needs_detail
from rltune.traces import Trace
from rltune.traces.capacity import with_capacity

REWARDS = ("score", "relative")


@dataclass(frozen=True, slots=True)
class Rules:
    """How an environment decides and pays.

    Attributes:
        score: bsld, wait, jct, utilization or slowdown; the return telescopes to it.
        backfill: blocking, skip or easy.
        baseline: the policy that the agent corrects: jobs become visible in its order (which reserves under easy). One that
            suspends (las, gittins, srsf, ...) lets the agent do so too: to start a job that does not fit, running jobs
            that stand behind it in that order make room.
        allocator: best_fit, lexicographic, least_fragmentation or milp; on the full build best_fit, fgd, ... or milp.
        runtimes: exact, predicted or unknown.
        visible: jobs the agent sees, V; it acts in {0..V}, V = wait.
        window: jobs of an episode; ``warmup`` more come first, run by the baseline (the month protocol's warm cluster).
        reward: ``score`` (return = score, negative where less is better) or ``relative`` (the gain on the baseline
            order, in units of its score of the same window plus its mean over windows; for training).
        options: of the simulation (`rltune.simulator.options.Options`): failures, overheads, quotas, speeds. With any of
            them, a baseline that suspends, or where jobs want shares, slices or CPU, episodes run on the full build of the core.
    """

    score: str = "wait"
    backfill: str = "easy"
    baseline: str = "sjf"
    allocator: str = "best_fit"
    runtimes: str = "exact"
    visible: int = VISIBLE
    window: int = Window.window
    warmup: int = Window.warmup
    reward: str = "score"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_score(self.score)
        check_backfill(self.backfill)
        timed = needs_run_time(self.baseline)
        if self.allocator != "milp" and self.allocator not in SHARING_RULES:
            rule_code(self.allocator)
        # A file of sizes over time is read when there is a trace.
        make_options({name: value for name, value in self.options.items() if name != "capacity"})
        if self.allocator == "milp" and self.backfill == "blocking":
            raise InputError(
                "allocator=milp places the jobs of one instant together, backfill=blocking starts one at a time; "
                "use backfill=skip or easy, or another allocator"
            )
        if self.reward not in REWARDS:
            raise InputError(f"reward={self.reward!r} is unknown; known are {', '.join(REWARDS)}")
        if self.visible < 1 or self.window < 1 or self.warmup < 0:
            raise InputError(
                f"visible={self.visible}, window={self.window}, warmup={self.warmup}; "
                "visible and window must be at least 1, warmup at least 0"
            )
        if self.runtimes == "unknown" and (timed or self.backfill == "easy"):
            needing = f"baseline={self.baseline}" if timed else f"backfill={self.backfill}"
            raise InputError(
                f"runtimes=unknown knows no run times, which {needing} needs; "
                "use baseline=fifo, smallest or las with backfill=skip, or the first two with backfill=blocking"
            )

    @property
    def backfill_code(self) -> int:
        return TRAINED[self.backfill]

    @property
    def rule(self) -> int:
        """The compiled placement; the MILP starts from the least fragmentation."""
        return LEAST_FRAGMENTATION if self.allocator == "milp" else rule_code(self.allocator)

    @property
    def score_code(self) -> int:
        return SCORE_CODES[self.score]


def needs_run_time(baseline: str) -> bool:
    """Whether the policy of that name needs run times; InputError for an unknown one."""
    special = preemptive_policy(baseline)
    return order(baseline).needs_run_time if special is None else special.needs_run_time


@dataclass(frozen=True)
class Setup:
    """A trace on a cluster under rules, as a state of the core that no job has reached yet.

    Episodes begin at job ``low`` .. ``high - 1`` of the trace.
    """

    trace: Trace
    cluster: Cluster
    rules: Rules
    table: Sim
    low: int = 0
    high: int = 1
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Jobs loaded for an episode, warm-up included."""
        return self.rules.window + self.rules.warmup


def make_setup(
    trace: Trace, cluster: Cluster, rules: Rules, history: Trace | None = None, cost: FloatArray | None = None
) -> Setup:
    """Arrays of ``trace`` under ``rules``.

    ``history``: the longer trace that ``trace`` is cut from; predictions then know
    what came before. ``cost`` (n_pools, cap + 1): fragmentation of a node (the allocator's; default: by the demand
    of ``trace``, quadratic for the MILP). Raises InputError if the trace is shorter than an episode, or for rules that do
    not go together.
    """
    jobs = trace.jobs
    length = rules.window + rules.warmup
    if len(jobs) < length:
        raise InputError(
            f"{trace.label}: {len(jobs)} jobs of a stretch are fewer than an episode's {length}; "
            "give longer stretches (trace.train, trace.validate) or smaller protocol.window, protocol.warmup"
        )
    known = run_times(trace, rules.runtimes, history)
    arrays = cluster.arrays()
    if cost is None:
        measure = "quadratic" if rules.allocator == "milp" else "demand"
        cost = cost_table(arrays, measure, demand_of(jobs.num_gpus, arrays))
    given = with_capacity(rules.options, trace, cluster)
    reason = needs_detail(jobs, cluster, rules.baseline, rules.backfill, placed(rules), rules.runtimes, given)
    if reason is None:
        chosen = order(rules.baseline)
        params = Plain(chosen.code, rules.backfill_code, rules.rule)
        table = build_lean(jobs, cluster, known, static_rank(chosen, jobs, known), cost, params)
        return Setup(trace, cluster, rules, table, 0, len(jobs) - length + 1)
    check_detailed(reason, rules.backfill, rules.allocator)
    options = make_options(given)
    if options.speed_learned:
        raise InputError(
            "options.speed_learned=true: what one episode learned of speeds would be known in all others; leave it out in training"
        )
    table, jobs, notes = build_state(
        jobs, cluster, rules.baseline, rules.backfill, rules.allocator, known, options, True
    )
    # Options may give jobs further ways to run.
    trace = replace(trace, jobs=jobs)
    return Setup(trace, cluster, rules, table, 0, len(jobs) - length + 1, notes)


def placed(rules: Rules) -> str:
    """The rule by which jobs are placed when they are picked."""
    return "best_fit" if rules.allocator == "milp" else rules.allocator


def run_times(trace: Trace, runtimes: str, history: Trace | None = None) -> npt.NDArray[np.float64]:
    """(n_jobs,) run times as known, predicted with the whole ``history`` where it is given."""
    if runtimes != "predicted" or history is None:
        return known_run_times(trace.jobs, runtimes)
    predicted = dict(zip(history.jobs.job_id, _predicted(history), strict=True))
    return np.array([predicted[job] for job in trace.jobs.job_id])


@lru_cache(maxsize=4)
def _predicted_by_hash(sha256: str, jobs: Any) -> npt.NDArray[np.float64]:
    return known_run_times(jobs.value, "predicted")


@dataclass(frozen=True)
class _ByHash:
    value: Any = field(compare=False)


def _predicted(history: Trace) -> npt.NDArray[np.float64]:
    return _predicted_by_hash(history.sha256, _ByHash(history.jobs))
