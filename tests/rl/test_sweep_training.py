"""Sweeps of trainings: cut off and gone on with; on a Ray cluster of two nodes, one of which dies; searched by Optuna."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from ray_cluster import RayNode, two_nodes

from rltune.rl.training import Curve

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.xdist_group("training")]

SMALL = (
    "trace.jobs=900", "trace.arrivals_per_h=400", "nodes=4", "protocol.window=32", "visible=8", "windows_per_epoch=4",
    "validate_every=1", "validation_windows=4", "evaluate=false", "allocator=best_fit", "algo.envs=4", "progress=false",
    "oversized=drop", "checkpoint_every=1",
)  # fmt: skip
PATIENCE_S = 400
"""For what takes seconds on an idle machine."""


def begun(words: list[str], more: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | dict(more or {})
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-m", "rltune.train", *words], env=environment, stdout=pipe, stderr=pipe, text=True
    )


def ended(words: list[str], more: Mapping[str, str] | None = None) -> tuple[str, str]:
    """Standard output and error of a training, or of several, that ends well."""
    out, err = (process := begun(words, more)).communicate(timeout=2 * PATIENCE_S)
    assert process.returncode == 0, err[-3000:]
    return out, err


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until it is so; fails where the process ends before."""
    until = time.monotonic() + PATIENCE_S
    while not what():
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < until
        time.sleep(0.1)


def epochs_of(member: Path) -> list[float | None]:
    return [row["epoch"] for row in Curve.read(member / "curve.csv").rows]


def test_a_sweep_that_is_cut_off_goes_on_where_it_was(tmp_path: Path) -> None:
    """A time limit would cost every training of a sweep, or the finished ones be run twice."""
    words = ["-m", "+trace=synthetic", *SMALL, "seed=0,1", f"sweep={tmp_path / 's'}"]
    process = begun([*words, "epochs=400"])
    wait_for(lambda: any((tmp_path / "s").glob(".seed-0.*.partial/checkpoint/epoch-00000003.safetensors")), process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 143, err
    assert "go on with: python -m rltune.train -m" in err.splitlines()[-1] and f"sweep={tmp_path / 's'}" in err
    (left,) = (tmp_path / "s").glob(".seed-0.*.partial/checkpoint")
    had = max(int(path.stem[6:]) for path in left.iterdir())
    out, err = ended([*words, f"epochs={had + 2}"])
    assert "seed-0: was cut off, goes on from its checkpoint" in err and f"after epoch {had}" in err
    assert out.splitlines()[-1] == str(tmp_path / "s")
    whole = list(range(1, had + 3))
    assert epochs_of(tmp_path / "s" / "seed-0") == epochs_of(tmp_path / "s" / "seed-1") == whole
    assert [row["options"] for row in json.loads((tmp_path / "s" / "sweep.json").read_text())["rows"]] == [
        {"seed": "0"}, {"seed": "1"}
    ]  # fmt: skip


@pytest.fixture
def cluster() -> Iterator[tuple[dict[str, str], RayNode]]:
    """A Ray cluster of two nodes with one CPU each: what a driver needs to know of it, and the second node."""
    with two_nodes(PATIENCE_S) as (environment, nodes):
        yield environment, nodes[1]


def test_a_sweep_on_two_nodes_outlives_one_of_them(cluster: tuple[dict[str, str], RayNode], tmp_path: Path) -> None:
    """A cluster's second node would stay idle, or its death cost the trainings that were on it, or the whole sweep."""
    environment, second = cluster
    swept = ["score=bsld,wait", "seed=0,1", "hydra/launcher=ray", "epochs=150", f"sweep={tmp_path / 's'}"]
    process = begun(["-m", "+trace=synthetic", *SMALL, *swept], environment)
    pattern = ".*.partial/checkpoint/epoch-*.safetensors"
    at_once = lambda: {path.parent.parent for path in (tmp_path / "s").glob(pattern)}  # noqa: E731
    wait_for(lambda: len(at_once()) == 2, process)
    second.end()
    out, err = process.communicate(timeout=3 * PATIENCE_S)
    assert process.returncode == 0, err[-3000:]
    assert out.splitlines()[-1] == str(tmp_path / "s")
    rows = json.loads((tmp_path / "s" / "sweep.json").read_text())["rows"]
    assert [row["options"] for row in rows] == [{"score": c, "seed": s} for c in ("bsld", "wait") for s in ("0", "1")]
    members = [tmp_path / "s" / row["run"] for row in rows]
    assert all(epochs_of(member) == list(range(1, 151)) for member in members)
    # The one that was on the node went on from its checkpoint.
    assert sum(bool(yaml.safe_load((member / "config.yaml").read_text())["resume"]) for member in members) >= 1


def test_a_search_goes_on_where_it_was(tmp_path: Path) -> None:
    """hydra/sweeper=optuna would be refused, go the wrong way, or begin anew after an interrupt."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    search = ["hydra/sweeper=optuna", "hydra.sweeper.n_jobs=1", "algo.lr=tag(log,interval(0.0001,0.1))", "epochs=1"]
    words = ["-m", "+trace=synthetic", *SMALL, *search, f"sweep={tmp_path / 's'}"]
    ended([*words, "hydra.sweeper.n_trials=2"])
    before = {path.name for path in (tmp_path / "s").glob("lr-*")}
    _, err = ended([*words, "hydra.sweeper.n_trials=3"])
    assert len(before) == 2 and err.count("finished already, skipped") == 2
    rows = json.loads((tmp_path / "s" / "sweep.json").read_text())["rows"]
    assert len(rows) == 3 and before < {row["run"] for row in rows}
    assert (tmp_path / "s" / "optimization_results.yaml").is_file()
