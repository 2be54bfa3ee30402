"""Allocation on Alibaba openb beside the published table of Fragmentation Gradient Descent, and what could be allocated.

OMP_NUM_THREADS=1 python experiments/openb_fragmentation.py [--seeds 10] [--processes 2] [--workloads default ...]

Writes openb_fragmentation.json and .md beside the other results. Needs the real lists (RLTUNE_TRACES, see
traces/README.md). Published are the means of 10 seeds over the authors' own shuffles, so only means can agree.
Ours is the rule "stranding", beside the published FGD; the bound is `rltune.packing.upper_bound` of each seed's requests.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from rltune.nouns.metrics import ci95
from rltune.packing.online import fill_cluster, requests
from rltune.packing.upper_bound import most_allocated
from rltune.traces.folder import need, traces_folder
from rltune.traces.openb import read_openb_nodes, read_openb_requests

RULES = ("random", "dot_prod", "gpu_clustering", "gpu_packing", "best_fit", "fgd")
OURS = "stranding"
PUBLISHED = {
    "default": (87.47, 90.85, 91.88, 92.00, 93.08, 95.39),
    "cpu050": (91.24, 93.27, 93.79, 93.72, 93.79, 95.21),
    "cpu100": (89.11, 91.95, 92.64, 92.72, 93.44, 95.35),
    "cpu200": (83.77, 87.70, 89.92, 90.22, 92.40, 95.05),
    "cpu250": (80.42, 83.81, 87.99, 88.28, 91.45, 93.41),
    "gpushare40": (86.00, 89.56, 90.02, 90.03, 91.69, 94.15),
    "gpushare60": (83.65, 87.11, 87.20, 87.45, 89.36, 91.40),
    "gpushare80": (81.22, 84.49, 84.85, 85.00, 87.01, 89.30),
    "gpushare100": (79.44, 82.42, 82.65, 82.57, 85.01, 86.90),
    "gpuspec10": (87.43, 90.39, 92.18, 92.46, 93.30, 94.95),
    "gpuspec20": (87.24, 89.97, 92.25, 92.94, 93.30, 94.84),
    "gpuspec25": (86.94, 89.63, 92.08, 92.98, 93.23, 94.74),
    "gpuspec33": (86.46, 89.14, 92.12, 93.22, 93.09, 94.55),
    "multigpu20": (88.69, 92.06, 93.56, 93.71, 93.93, 95.65),
    "multigpu30": (89.27, 93.28, 94.72, 94.87, 94.72, 96.46),
    "multigpu40": (90.09, 94.19, 95.50, 95.74, 95.23, 96.99),
    "multigpu50": (90.27, 94.85, 95.81, 96.18, 95.74, 97.18),
}
"""GPUs allocated, % of all, when 130 % has been requested (the authors' result files; rules as in ``RULES``)."""
FITTED = ("default", "cpu250", "gpushare100", "gpuspec20", "gpuspec33", "multigpu50")
"""Workloads on which the rules' open details were chosen (`rltune.core.resources.scores`), and our measure (seeds 100 to 102)."""
POINTS = (0.6, 0.8, 0.9, 1.0)
PUBLISHED_FRAGMENTS = {
    "random": (15.5, 15.9, 14.5, 13.5),
    "best_fit": (10.0, 8.3, 7.4, 7.1),
    "fgd": (8.0, 6.0, 5.0, 4.7),
}
"""Fragmented GPUs, % of all, when so much of the GPUs has been requested; workload "default"."""
FOLDER = "alibaba_openb_2023"
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workloads", nargs="+", choices=[*PUBLISHED], default=[*PUBLISHED])
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    begin = time.perf_counter()
    runs = [(workload, seed) for workload in options.workloads for seed in range(options.seeds)]
    # Fresh processes: the solver's threads do not survive a fork.
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        cells = dict(zip(runs, pool.starmap(allocated, runs, chunksize=1), strict=True))
    table: dict[str, Any] = {}
    bound: dict[str, Any] = {}
    for workload in options.workloads:
        seeds = [cells[workload, seed] for seed in range(options.seeds)]
        published = dict(zip(RULES, PUBLISHED[workload], strict=True))
        # Ours is set against the published FGD.
        table[workload] = {
            rule: row(np.array([cell[rule] for cell in seeds]), published.get(rule, published["fgd"]))
            for rule in (*RULES, OURS)
        }
        values = np.array([cell["bound"] for cell in seeds])
        bound[workload] = {"mean": float(values.mean()), "ci95": ci95(values), "seeds": values.tolist()}
    cluster = read_openb_nodes(lying("openb_node_list_gpu_node.csv"))
    fragments = {rule: fragmented(cluster, rule, options.seeds) for rule in PUBLISHED_FRAGMENTS}
    found = {
        "command": f"python experiments/openb_fragmentation.py --seeds {options.seeds}"
        + ("" if options.processes == 1 else f" --processes {options.processes}")
        + ("" if len(table) == len(PUBLISHED) else f" --workloads {' '.join(table)}"),
        "source": "real: Alibaba openb (cluster-trace-gpu-v2023), nodes with GPUs",
        "cluster": {"nodes": cluster.nodes, "gpus": cluster.gpus},
        "machine": f"{os.cpu_count()} cores, {options.processes} process{'es' * (options.processes > 1)}",
        "wall_s": round(time.perf_counter() - begin, 1),
        "allocated_pct": table,
        "bound_pct": bound,
        "fragmented_pct": {"requested": POINTS, **fragments},
    }
    (RESULTS / "openb_fragmentation.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "openb_fragmentation.md").write_text(markdown(found))
    print(RESULTS / "openb_fragmentation.md")


def allocated(workload: str, seed: int) -> dict[str, float]:
    """% of the GPUs allocated by each rule, and the bound, for one seed's requests."""
    cluster = read_openb_nodes(lying("openb_node_list_gpu_node.csv"))
    jobs = read_openb_requests(lying(f"openb_pod_list_{workload}.csv.gz"))
    cell = {rule: 100 * float(fill_cluster(jobs, cluster, rule, seed).allocated[-1]) for rule in (*RULES, OURS)}
    return cell | {"bound": 100 * most_allocated(jobs, cluster, requests(jobs, cluster, seed))}


def lying(name: str) -> Path:
    """A file of the trace, in its folder or among its resampled variants."""
    candidates = (f"{FOLDER}/{name}", f"{FOLDER}/variants/{name}")
    return need(traces_folder(), candidates, "openb", "see traces/README.md")


def row(values: np.ndarray, published: float) -> dict[str, Any]:
    """Mean, 95 % interval over the seeds, and the distance from what was published, all in % of the GPUs."""
    mean = float(values.mean())
    return {
        "mean": mean, "ci95": ci95(values), "published": published, "difference": mean - published,
        "seeds": values.tolist(),
    }  # fmt: skip


def fragmented(cluster: Any, rule: str, seeds: int) -> list[dict[str, Any]]:
    """Fragmented GPUs on "default" at each of ``POINTS``."""
    jobs = read_openb_requests(lying("openb_pod_list_default.csv.gz"))
    runs = [fill_cluster(jobs, cluster, rule, seed, POINTS, measure_fragments=True) for seed in range(seeds)]
    shares = 100 * np.array([run.fragmented for run in runs])
    return [row(shares[:, k], published) for k, published in enumerate(PUBLISHED_FRAGMENTS[rule])]


def markdown(found: dict[str, Any]) -> str:
    """Both tables, ours with the difference from the published mean."""
    worst = max(abs(rules[rule]["difference"]) for rules in found["allocated_pct"].values() for rule in RULES)
    lines = [
        "# GPUs allocated on Alibaba openb: the published table, a rule of our own, and what could be allocated",
        "",
        f"`{found['command']}`; {found['source']}: {found['cluster']['nodes']:,} nodes, {found['cluster']['gpus']:,} "
        f"GPUs; {found['machine']}, {found['wall_s']:.0f} s. % of all GPUs allocated when 130 % has been requested: mean over "
        f"the seeds (difference from the published mean; {OURS}: from the published FGD). Largest difference of the six "
        f"published rules: {worst:.2f} points. bound: no placement of the same requests holds more, even if it knows all "
        "of them and may refuse any (a rule here may not: what fits is placed).",
        "",
        f"What the description of the rules leaves open was fitted on {', '.join(FITTED)}, and so was the measure of {OURS} "
        "(with other seeds); the other workloads decided "
        "nothing, except that random draws the GPU as well (with the fullest GPU: +0.4 on average, 1 point too few "
        "fragments on `default`). Nothing of fgd was fitted: it takes the definition with exact rises. It is sensitive to "
        "what the definition leaves open: on `cpu250`, rises rounded to 10, 25, 40 or 100 thousandths of a GPU, with equal "
        "ones by best fit or not, gave 91.6 to 95.1 (seeds 100 to 102).",
        "",
        f"| workload | {' | '.join((*RULES, OURS))} | bound |",
        f"|---|{'---|' * (len(RULES) + 2)}",
    ]
    for workload, rules in found["allocated_pct"].items():
        cells = [f"{rules[rule]['mean']:.2f} ({rules[rule]['difference']:+.2f})" for rule in (*RULES, OURS)]
        lines.append(f"| {workload} | {' | '.join(cells)} | {found['bound_pct'][workload]['mean']:.2f} |")
    points = [f"{100 * point:.0f} %" for point in found["fragmented_pct"]["requested"]]
    lines += [
        "",
        "Fragmented GPUs on `default`, % of all, by what has been requested (difference from the published figure):",
        "",
        f"| rule | {' | '.join(points)} |",
        f"|---|{'---|' * len(points)}",
    ]
    for rule in PUBLISHED_FRAGMENTS:
        cells = [f"{cell['mean']:.1f} ({cell['difference']:+.1f})" for cell in found["fragmented_pct"][rule]]
        lines.append(f"| {rule} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
