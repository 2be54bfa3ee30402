"""Gavel's policies against its recorded runs, job by job (golden/gavel beside the traces)."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rltune.nouns.errors import InputError
from rltune.rounds.clock import Clock, Terms
from rltune.rounds.gavel import Published, simulate_published
from rltune.rounds.jobs import GAVEL_MODELS, Floats, Ints, RoundJobs, draw_gavel_jobs, rates_of, read_gavel_jobs
from rltune.rounds.linear import max_min_shares
from rltune.rounds.policies import published
from rltune.traces.heterogeneity import load_throughput

WORKERS, WINDOW = np.array([36, 36, 36]), (4000, 5000)
ECOS = importlib.util.find_spec("ecos") is not None


def recorded(golden: Path, name: str) -> dict[str, Any]:
    path = golden / "gavel" / name
    if not path.is_file():
        pytest.skip(f"golden/gavel/{name} is not here")
    data = path.read_bytes()
    found: dict[str, Any] = json.loads(gzip.decompress(data) if name.endswith(".gz") else data)
    return found


def jct(record: dict[str, Any], window: tuple[int, int]) -> Floats:
    return np.array([record["jct_s"][str(job)] for job in range(*window)])


@pytest.mark.parametrize(
    ("name", "file", "policy"),
    [
        ("single_5.2", "golden_gavel_full_oldtable_single_5.2_seed0.json.gz", "fifo_perf"),
        ("multi_2.6", "golden_gavel_full_oldtable_maygangs_multi_2.6_seed0.json.gz", "fifo"),
        ("multi_2.6", "golden_gavel_full_oldtable_maygangs_multi_2.6_seed0.json.gz", "fifo_perf"),
        pytest.param("single_4.8", "golden_gavel_full_oldtable_single_4.8_seed0.json.gz", "fifo", marks=pytest.mark.slow),
        pytest.param("single_5.2", "golden_gavel_full_oldtable_single_5.2_seed0.json.gz", "fifo", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_fifo_is_the_recorded_run_job_by_job(
    name: str, file: str, policy: str, golden: Path, real_traces: Path
) -> None:
    """The published protocol would be another one, and our gain in it worth nothing."""
    expected = jct(recorded(golden, file)[policy], WINDOW)
    jobs = read_gavel_jobs(real_traces / "gavel_continuous" / f"{name}_seed0.csv.gz")
    run = simulate_published(jobs, WORKERS, published(policy, WORKERS), WINDOW)
    assert np.abs(run.jct_s[WINDOW[0] : WINDOW[1]] - expected).max() < 1e-3


@pytest.mark.parametrize(("name", "window"), [("single_5.2", (220, 320)), ("multi_2.6", (100, 200))])
def test_recorded_shares_of_las_give_the_recorded_schedule(
    name: str, window: tuple[int, int], golden: Path, real_traces: Path
) -> None:
    """Priorities, deficits or the greedy choice would differ from Gavel's, hidden behind the solver's noise."""
    detail = recorded(golden, f"detail_gavel_{name}_seed0_max_min_fairness_perf.json.gz")
    expected = jct(recorded(golden, f"golden_gavel_{name}_seed0.json")["max_min_fairness_perf"], window)
    rates = rates_of(load_throughput("gavel", folder=real_traces))
    # The recorded run ended before another job arrived.
    rows = [*detail["jobs"], [len(detail["jobs"]), 1e12, "A3C", 1, 1.0, 1.0, 1.0]]
    jobs = RoundJobs(
        np.array([r[1] for r in rows], float), np.array([r[3] for r in rows]), np.array([r[5] for r in rows], float),
        np.array([rates[r[2], r[3]] for r in rows]), tuple(r[2] for r in rows),
    )  # fmt: skip
    allocations = iter(detail["allocations"])

    def replay(clock: Clock, present: Ints) -> Floats:
        _, shares = next(allocations)
        return np.array([shares[str(job)] for job in present])

    run = simulate_published(jobs, WORKERS, Published(replay, each_gpu=False), window, terms=Terms(failing=True))
    assert np.abs(run.jct_s[window[0] : window[1]] - expected).max() < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver", ["highs", pytest.param("ecos", marks=pytest.mark.skipif(not ECOS, reason="needs ecos"))]
)
def test_las_is_within_its_noise_of_the_recorded_mean(solver: str, golden: Path, real_traces: Path) -> None:
    """The row that ours is measured against would be weaker or stronger than the published one."""
    expected = recorded(golden, "golden_gavel_full_oldtable_single_4.8_seed0.json.gz")["max_min_fairness_perf"][
        "mean_jct_s"
    ]
    jobs = read_gavel_jobs(real_traces / "gavel_continuous" / "single_4.8_seed0.csv.gz")
    how = published("max_min_fairness_perf", WORKERS, solver=solver)
    found = simulate_published(jobs, WORKERS, how, WINDOW).mean_jct_s(WINDOW)
    assert found == pytest.approx(expected, rel=0.005)


@pytest.mark.skipif(not ECOS, reason="needs ecos")
def test_both_solvers_find_the_same_least_gain() -> None:
    """One of the two programs would be another problem."""
    rng = np.random.default_rng(0)
    gain, gpus = rng.uniform(0.1, 2.0, (60, 3)), rng.choice([1.0, 2.0, 4.0], 60)
    least = [(gain * max_min_shares(gain, gpus, WORKERS, solver)).sum(1).min() for solver in ("highs", "ecos")]
    assert least[0] == pytest.approx(least[1], rel=1e-6)


def test_a_list_that_ends_too_early_is_refused() -> None:
    """Mean JCTs would lack the competition of later jobs, and look better than they are."""
    rates = {(model, 1): np.ones(3) for model in GAVEL_MODELS}
    jobs = draw_gavel_jobs(40, 400.0, 0, rates)
    with pytest.raises(InputError, match="draw a longer list"):
        simulate_published(jobs, np.array([1, 1, 1]), published("fifo", np.array([1, 1, 1])), (0, 20))


def test_unknown_names_are_refused() -> None:
    """A misspelt policy or solver would end in a traceback."""
    with pytest.raises(InputError, match="known are fifo"):
        published("lifo", WORKERS)
    with pytest.raises(InputError, match="known are highs, ecos"):
        max_min_shares(np.ones((1, 1)), np.ones(1), np.ones(1), "simplex")
