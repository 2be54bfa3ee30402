"""From configuration to objects: trace, stretches, cluster, rules. Every entry point begins here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np

from rltune.allocators.fragmentation import Demand, FloatArray, cost_table, demand_of
from rltune.allocators.greedy import rule_code
from rltune.config import changed_cluster, load_cluster, named
from rltune.config.commands import simulation_options
from rltune.config.fitting import LOAD, fitted
from rltune.config.traces import STRETCHES, trace_node
from rltune.core.resources.scores import SHARING_RULES
from rltune.nouns.asked_slices import with_profiles
from rltune.nouns.cluster import Cluster
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.nouns.metrics import SCORE_METRIC
from rltune.policies.orders import ORDERS
from rltune.rl.rules import Rules, Setup, make_setup, run_times
from rltune.simulator.run import (
    describe_oversized,
    find_oversized,
    handle_oversized,
    simulate_jobs,
)
from rltune.traces import Trace, from_config
from rltune.traces.capacity import with_capacity
from rltune.traces.split import split

AUTO_ORDER_WINDOWS = 128
"""Windows of each stretch on which baseline=auto judges."""
FITTED = "fitted"
"""Name of the cluster that is made for its jobs."""


@dataclass(frozen=True)
class Experiment:
    """What a run works on. ``stretches``: train, validate and test parts of ``trace``; ``ranges``: their bounds."""

    trace: Trace
    stretches: dict[str, Trace]
    ranges: dict[str, Any]
    cluster: Cluster
    protocol: dict[str, Any]
    allocator: dict[str, Any]
    oversized: str
    options: dict[str, Any] = field(default_factory=dict)
    """Of the simulation: those that are not at their defaults, as plain values."""

    @property
    def node_counts(self) -> list[int | None]:
        """Cluster sizes of the evaluation; None: as it is."""
        nodes = self.protocol["nodes"]
        return list(nodes) if isinstance(nodes, list | tuple) else [nodes]

    @property
    def train_node_counts(self) -> list[int]:
        """Cluster sizes of the training: those of the evaluation, and smaller ones, for more contention."""
        return self._train_sizes()[0]

    @property
    def train_sizes_left_out(self) -> list[int]:
        """Smaller sizes that cannot hold the widest job that the whole cluster holds."""
        return self._train_sizes()[1]

    def _train_sizes(self) -> tuple[list[int], list[int]]:
        sizes: dict[int, bool] = {}
        for nodes in self.node_counts:
            whole = self.sized(nodes)
            misfits = len(find_oversized(self.trace.jobs, whole))
            for scale in self.protocol["train_scale"]:
                count = max(len(whole.pools), round(scale * whole.nodes))
                holds = count == whole.nodes or len(find_oversized(self.trace.jobs, self.sized(count))) == misfits
                sizes[count] = sizes.get(count, False) or holds
        return [n for n, holds in sizes.items() if holds], [n for n, holds in sizes.items() if not holds]

    def sized(self, nodes: int | None) -> Cluster:
        return self.cluster if nodes is None else self.cluster.with_nodes(nodes)

    @property
    def allocator_name(self) -> str:
        return str(self.allocator["name"])

    def joint(self, cluster: Cluster) -> Any:
        """The MILP for the jobs of one instant; None for a greedy allocator."""
        if self.allocator_name != "milp":
            return None
        return joint_placement(self.milp(cluster))

    def milp(self, cluster: Cluster) -> Any:
        from rltune.allocators.milp import MilpAllocator

        options = {key: value for key, value in self.allocator.items() if key != "name"}
        return MilpAllocator(demand=self.demand(cluster), **options)

    def demand(self, cluster: Cluster) -> Demand:
        """Sizes and shares of the jobs to train on: what is known of the workload before the test."""
        return demand_of(self.stretches["train"].jobs.num_gpus, cluster.arrays())

    def cost(self, cluster: Cluster) -> FloatArray:
        """(n_pools, cap + 1) fragmentation cost of a node, one table for every row of an evaluation."""
        return cost_table(cluster.arrays(), self.allocator.get("measure", "demand"), self.demand(cluster))

    def setup(self, stretch: str, rules: Rules, cluster: Cluster) -> Setup:
        """Arrays of a stretch for environments; predictions know the whole past of the trace."""
        return make_setup(self.stretches[stretch], cluster, rules, history=self.trace, cost=self.cost(cluster))


def joint_placement(allocator: Any) -> Any:
    """The MILP as the environment uses it."""
    from rltune.rl.joint import JointPlacement

    return JointPlacement(allocator)


def make_experiment(cfg: Mapping[str, Any], options: Mapping[str, Any] | None = None) -> Experiment:
    """Resolve a composed configuration. Raises InputError naming the option and what is accepted.

    ``options``: of the simulation, instead of the configured ones.
    """
    node = trace_node(cfg.get("trace"))
    trace = from_config(node)
    ranges: dict[str, Any] = {name: node.get(name) for name in STRETCHES}
    missing = [name for name in STRETCHES if ranges[name] is None]
    if missing:
        raise InputError(f"trace: {', '.join(missing)} is not set; give a stretch, e.g. trace.test=[0.75,1.0]")
    protocol = dict(cfg["protocol"])
    if cfg.get("nodes") is not None:
        protocol["nodes"] = cfg["nodes"]
    nodes = protocol["nodes"]
    if isinstance(nodes, list | tuple) and (not nodes or len(set(nodes)) < len(nodes)):
        raise InputError(f"nodes={nodes!r}; a whole number of at least 1, or a list of different ones, is needed")
    stretches = {name: split(trace, bounds) for name, bounds in ranges.items()}
    check_apart(trace, stretches, ranges)
    cluster = cluster_of(cfg["cluster"], node, protocol["name"], trace.jobs)
    # A slice by its compute alone (1g) is what the cluster cuts so.
    trace = replace(
        trace, jobs=with_profiles(trace.jobs, cluster), notes=(*trace.notes, *remarks_on(cluster, trace.jobs))
    )
    stretches = {name: replace(each, jobs=with_profiles(each.jobs, cluster)) for name, each in stretches.items()}
    oversized = str(cfg["oversized"] if cfg["oversized"] != "refuse" else node.get("oversized", "refuse"))
    made = Experiment(
        trace=trace,
        stretches=stretches,
        ranges=ranges,
        cluster=cluster,
        protocol=protocol,
        allocator=dict(cfg["allocator"]),
        oversized=oversized,
        options=simulation_options(cfg) if options is None else dict(options),
    )
    if made.allocator_name == "milp":
        made.milp(made.cluster)
    elif made.allocator_name not in SHARING_RULES:
        rule_code(made.allocator_name)
    for nodes in made.node_counts:
        known = np.zeros(len(trace.jobs))
        handle_oversized(trace.jobs, known, made.sized(nodes), oversized, "skip", trace.label)
    return made


def check_long_enough(experiment: Experiment, names: Sequence[str] = ("train", "validate")) -> None:
    """Refuse stretches shorter than an episode before anything is trained; the message says how many jobs would do."""
    needed = int(experiment.protocol["window"]) + int(experiment.protocol["warmup"])
    whole = len(experiment.trace.jobs)
    shortest = min(names, key=lambda name: len(experiment.stretches[name].jobs))
    jobs = len(experiment.stretches[shortest].jobs)
    if jobs < needed:
        raise InputError(
            f"{experiment.trace.label}: trace.{shortest} has {jobs} jobs, an episode takes {needed}; {math.ceil(whole * needed / jobs):,} "
            f"jobs in all would do (there are {whole:,}), or a smaller protocol.window, protocol.warmup, or a longer trace.{shortest}"
        )


def check_apart(trace: Trace, stretches: Mapping[str, Trace], ranges: Mapping[str, Any]) -> None:
    """Refuse stretches that share jobs: a policy would be judged on what it was trained on."""
    row = {job: k for k, job in enumerate(trace.jobs.job_id)}
    begin = {name: row[stretch.jobs.job_id[0]] for name, stretch in stretches.items()}
    for one, two in combinations(sorted(stretches, key=begin.__getitem__), 2):
        shared = min(begin[one] + len(stretches[one]), begin[two] + len(stretches[two])) - begin[two]
        if shared > 0:
            raise InputError(
                f"trace: trace.{one}={list(ranges[one])} and trace.{two}={list(ranges[two])} share {shared} jobs; "
                "give stretches that do not overlap"
            )


def cluster_of(chosen: Mapping[str, Any], node: Mapping[str, Any], protocol: str, jobs: JobTable) -> Cluster:
    """The cluster node of a configuration, with its changes: a spec, a file, one ``fitted`` to the jobs, or, with ``auto``, the
    trace's own for the protocol."""
    changes = {key: value for key, value in chosen.items() if key not in ("auto", "spec", "path", "fitted", "_target_")}
    if "path" in chosen:
        return changed_cluster(load_cluster(file_of(chosen["path"])), changes)
    if chosen.get("fitted"):
        return changed_cluster(fitted(jobs), changes)
    if not chosen.get("auto"):
        return changed_cluster(Cluster.from_spec(chosen["spec"]), changes)
    clusters = node.get("clusters") or {}
    if protocol not in clusters:
        known = ", ".join(name for name in named("cluster") if name not in ("auto", "file"))
        raise InputError(
            f"trace: no cluster is named for protocol={protocol}; add cluster=NAME ({known}, or a YAML file)"
        )
    if "spec" in chosen:
        raise InputError("option cluster.spec needs cluster=NAME; cluster.pools and cluster.nodes change any cluster")
    own = str(clusters[protocol])
    return changed_cluster(fitted(jobs) if own == FITTED else load_cluster(own), changes)


def file_of(path: Any) -> str:
    """The path of a cluster file; InputError where it is not given or no YAML."""
    if not isinstance(path, str) or not path.endswith((".yaml", ".yml")):
        raise InputError(f"cluster.path={path}; a YAML file with 'pools' is needed: cluster=my.yaml")
    return path


def remarks_on(cluster: Cluster, jobs: JobTable) -> list[str]:
    """What must be told of a cluster that nobody has chosen; nothing where its size was given."""
    if cluster.name != FITTED or cluster != fitted(jobs):
        return []
    return [
        f"no cluster was given: this one is sized so that the jobs would keep {LOAD:.0%} of it busy; cluster=FILE.yaml or "
        "cluster=NAME for yours"
    ]


def resolve_rules(experiment: Experiment, cfg: Mapping[str, Any], *, visible: int, reward: str) -> Rules:
    """Rules of training; ``baseline=auto`` becomes the best static order before the test stretch."""
    protocol = experiment.protocol
    auto = cfg["baseline"] == "auto"
    first = "smallest" if cfg["runtimes"] == "unknown" else "sjf"
    rules = Rules(
        score=cfg["score"],
        backfill=cfg["backfill"],
        baseline=first if auto else str(cfg["baseline"]),
        allocator=experiment.allocator_name,
        runtimes=cfg["runtimes"],
        visible=visible,
        window=int(protocol["window"]),
        warmup=int(protocol["warmup"]),
        reward=reward,
        options=experiment.options,
    )
    return replace(rules, baseline=best_order(experiment, rules)) if auto else rules


def best_order(experiment: Experiment, rules: Rules) -> str:
    """The static order with the best score before the test, under the rules' backfill and run times.

    Judged on the training and validation stretches at every cluster size of the
    evaluation; costs of sizes are averaged geometrically, since they differ by orders of
    magnitude. The window protocol judges evenly spaced windows, the month protocol whole
    stretches.
    """
    cases = _judged(experiment, rules)
    clusters = [experiment.sized(nodes) for nodes in experiment.node_counts]
    values = {
        order.name: [_order_cost(experiment, cases, cluster, rules, order.name) for cluster in clusters]
        for order in ORDERS.values()
        if not order.code and not (order.needs_run_time and rules.runtimes == "unknown")
    }
    if rules.score == "utilization":
        return min(values, key=lambda name: sum(values[name]))
    return min(values, key=lambda name: math.prod(cost + 1e-9 for cost in values[name]))


def _judged(experiment: Experiment, rules: Rules) -> list[tuple[JobTable, FloatArray]]:
    """The jobs on which orders are compared, with their run times as known."""
    cases = []
    for name in ("train", "validate"):
        stretch = experiment.stretches[name]
        known = run_times(stretch, rules.runtimes, experiment.trace)
        starts, length = [0], len(stretch.jobs)
        if experiment.protocol["name"] != "month":
            starts, length = spread(0, len(stretch.jobs) - rules.window, AUTO_ORDER_WINDOWS), rules.window
        cases += [(stretch.jobs.take(slice(s, s + length)), known[s : s + length]) for s in starts]
    return cases


def _order_cost(
    experiment: Experiment, cases: Sequence[tuple[JobTable, FloatArray]], cluster: Cluster, rules: Rules, order: str
) -> float:
    """Mean cost a job (for utilization: minus its mean over windows) of one order on one cluster."""
    costs, options = [], with_capacity(experiment.options, experiment.trace, cluster)
    for jobs, known in cases:
        result = simulate_jobs(
            jobs,
            cluster,
            policy=order,
            backfill=rules.backfill,
            allocator="best_fit",
            runtimes=known,
            oversized="drop",
            **options,
        )
        utilization = rules.score == "utilization"
        costs.append([-result.utilization()] if utilization else result.scores()[SCORE_METRIC[rules.score]])
    return float(np.concatenate(costs).mean())


def spread(low: int, high: int, n: int) -> list[int]:
    """``n`` evenly spaced integers in [low, high] (fewer if there are fewer)."""
    return sorted({round(x) for x in np.linspace(low, max(low, high), n)})


def oversized_count(experiment: Experiment, cluster: Cluster) -> tuple[int, str]:
    """How many jobs of the trace can never run on ``cluster``, and a line that says so."""
    misfits = find_oversized(experiment.trace.jobs, cluster)
    if not len(misfits):
        return 0, ""
    return len(misfits), describe_oversized(experiment.trace.jobs, cluster, misfits, experiment.trace.label)
