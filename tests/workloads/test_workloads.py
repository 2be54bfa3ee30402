"""The real tasks: they do what they say, learn, and tell the truth about themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rltune.nouns.errors import InputError
from rltune.workloads import boosting, matmul
from rltune.workloads.__main__ import WORKLOADS, parser, run
from rltune.workloads.pytorch import Runtime, fitting
from rltune.workloads.task import Options, TooLarge

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "matmul": ("--size", "96", "--steps", "3"),
    "mlp": ("--scale", "0.1", "--steps", "150"),
    "lstm": ("--scale", "0.1", "--steps", "150"),
    "images": ("--scale", "0.1", "--epochs", "4"),
    "boosting": ("--scale", "0.01", "--steps", "30"),
}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Those of other tests are left as they were."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def done(workload: str, *words: str) -> dict[str, Any]:
    return json.loads(run([workload, *TINY[workload], "--device", "cpu", *words]))


@pytest.mark.parametrize("workload", ["mlp", "lstm"])
def test_losses_fall_far_below_the_trivial_predictors(workload: str) -> None:
    """A training that learns nothing still takes time: only its loss shows that the time was real work."""
    result = done(workload)
    assert 0 < result["quality"] < 0.35 * result["trivial_quality"]
    barely = done(workload, *("--steps", "1"))
    assert result["quality"] < 0.5 * barely["quality"]


@pytest.mark.parametrize("workload", ["images", "boosting"])
def test_classes_of_unseen_rows_are_found(workload: str) -> None:
    """Accuracy on rows that were trained on, or at chance, would say nothing."""
    result = done(workload)
    assert result["quality_name"] == "test_accuracy"
    assert result["trivial_quality"] < 0.3 < 0.6 < result["quality"] < 1


def test_products_are_right_and_a_wrong_one_would_be_seen() -> None:
    """A GPU that computes nonsense quickly must not look fast."""
    result = done("matmul")
    assert 0 < result["quality"] < 1e-5
    assert result["throughput"] == pytest.approx(2 * 96**3 * 3 / result["seconds"] / 1e9)
    torch.manual_seed(0)
    a, b = torch.randn(2, 64, 64)
    wrong = a @ b
    wrong[3, 3] += 10
    assert matmul.error(a, b, a @ b) < 1e-6 and matmul.error(a, b, wrong) > 1e-3


@pytest.mark.parametrize("workload", WORKLOADS)
def test_the_line_tells_what_was_run(workload: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever times a task reads this line: what was run, where, how long, how much."""
    result = done(workload, "--seed", "5")
    assert (result["workload"], result["device"], result["seed"]) == (workload, "cpu", 5)
    assert result["steps"] == int(TINY[workload][-1])
    assert result["seconds"] > 0 and result["throughput"] > 0 and result["peak_memory_bytes"] > 1 << 20
    said = capsys.readouterr().err
    assert said.startswith(f"{workload} on cpu: steps {result['steps']}, ")
    assert all(f"{name} {value}" in said for name, value in result["sizes"].items())


@pytest.mark.parametrize("workload", ["mlp", "images", "boosting"])
def test_same_seed_same_result_another_seed_another(workload: str) -> None:
    """Timings of the same task on two instances can only be compared if it is the same task."""
    torch.set_num_threads(1)
    first, again, other = (done(workload, "--seed", seed)["quality"] for seed in ("1", "1", "2"))
    assert first == again != other


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["mlp", "--steps", "0"], "steps or epochs 0"),
        (["mlp", "--steps", "many"], "invalid int value: 'many'"),
        (["mlp", "--epochs", "3"], "--epochs"),
        (["matmul", "--size", "-1"], "size -1"),
        (["lstm", "--scale", "nan"], "--scale nan"),
        (["lstm", "--scale", "0"], "--scale 0.0"),
        (["images", "--seed", "-1"], "--seed -1"),
        (["images", "--device", "tpu"], "'tpu'"),
        (["boosting", "--device", "cuda"], "boosting runs on the CPU only"),
        (["sudoku"], "'sudoku'"),
        ([], "WORKLOAD"),
    ],
)
def test_bad_options_are_one_line(words: list[str], told: str) -> None:
    """In the log of a task that ended at once the reason must be found without searching."""
    with pytest.raises(InputError) as caught:
        run(words)
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for what happens without a GPU")
def test_without_a_gpu_auto_goes_to_the_cpu_and_cuda_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that was to measure a GPU must not silently measure the CPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1")
    assert Runtime(Options()).kind == "cpu"
    with pytest.raises(InputError, match=r"no CUDA device \(CUDA_VISIBLE_DEVICES=MIG-1\)"):
        Runtime(Options(device="cuda"))


def test_threads_follow_the_slices_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without GPUs slices stand for speed, but nobody's threads are cut behind his back."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    monkeypatch.setenv("RLTUNE_COMPUTE_SLICES", "3")
    torch.set_num_threads(2)
    assert Runtime(Options(device="cpu")).threads == 2
    assert Runtime(Options(device="cpu", threads="slices")).threads == 3
    monkeypatch.setenv("RLTUNE_COMPUTE_SLICES", "7")
    assert Runtime(Options(device="cpu", threads="slices")).threads == 4
    monkeypatch.setenv("RLTUNE_COMPUTE_SLICES", "1")
    assert done("boosting", "--threads", "slices")["threads"] == 1
    for text in ("", "0", "two"):
        monkeypatch.setenv("RLTUNE_COMPUTE_SLICES", text)
        with pytest.raises(InputError, match="RLTUNE_COMPUTE_SLICES"):
            Runtime(Options(device="cpu", threads="slices"))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory.\nDetails"), MemoryError(),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")])  # fmt: skip
def test_too_large_is_told_from_a_failure(error: Exception) -> None:
    """Whether a task fits an instance is found by trying: memory that does not suffice needs a status of its own."""
    with pytest.raises(TooLarge) as caught, fitting():
        raise error
    assert caught.value.exit_status == 3 and "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="shapes"), fitting():
        raise RuntimeError("shapes differ")


def test_diverged_training_is_no_result() -> None:
    """NaN is no JSON: a reader would fail later, far from the cause."""
    result = boosting.Result("mlp", "cpu", "CPU", 1.0, 1, 1.0, "rows/s", float("nan"), "test_mse", 1.0, 1, 1, 0, {})
    with pytest.raises(InputError, match="diverged"):
        result.line()


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=given, cwd=ROOT)


def test_command_prints_one_line_and_respects_openmp_threads() -> None:
    """The executor reads standard output and gives each task its threads by OMP_NUM_THREADS."""
    ended = command("-m", "rltune.workloads", "matmul", *TINY["matmul"], "--device", "cpu", OMP_NUM_THREADS="1")
    (line,) = ended.stdout.splitlines()
    assert ended.returncode == 0 and json.loads(line)["threads"] == 1
    ended = command("-m", "rltune.workloads", "matmul", "--size", "none")
    assert (ended.returncode, ended.stdout) == (2, "") and len(ended.stderr.splitlines()) == 1


def test_boosting_does_without_pytorch() -> None:
    """A task on the CPU must not load a gigabyte of libraries that it does not use."""
    words = ["boosting", *TINY["boosting"]]
    code = f"import sys; from rltune.workloads.__main__ import run; run({words!r}); print('torch' in sys.modules)"
    assert command("-c", code).stdout.strip() == "False"


def test_listed_tasks_have_options_that_exist() -> None:
    """The list of tasks that comes with rltune must run as it is."""
    listed = yaml.safe_load((ROOT / "conf" / "workloads.yaml").read_text())
    assert listed["version"] == 1 and len({task["name"] for task in listed["tasks"]}) == len(listed["tasks"])
    for task in listed["tasks"]:
        interpreter, flag, package, *words = task["command"].split()
        assert (interpreter, flag, package) == ("{python}", "-m", "rltune.workloads") and task["timeout_s"] > 0
        assert parser().parse_args(words).workload in WORKLOADS
    assert {parser().parse_args(task["command"].split()[3:]).workload for task in listed["tasks"]} == set(WORKLOADS)
