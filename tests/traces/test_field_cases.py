"""The field's own examples, where they lie beside the real traces: each gives its expected values, or is refused as expected."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from rltune.devices.spec import read_spec
from rltune.nouns.documents import read_yaml
from rltune.nouns.errors import InputError
from rltune.traces import load_trace


@pytest.fixture(scope="session")
def cases(real: Path) -> Path:
    """The folder of cases beside that of the traces, or a skip."""
    folder = real.parent / "cases"
    if not folder.is_dir():
        pytest.skip("no folder of cases beside RLTUNE_TRACES")
    return folder


@pytest.mark.parametrize(
    ("file", "columns", "expected"),
    [
        (
            "01-slurm-mig-gres/sacct.txt", ("job_id", "num_gpus", "mig"),
            [("8001", 1, "3g.20gb"), ("8002", 1, "3g.20gb"), ("8003", 1, None), ("8004", 2, "1g.10gb")],
        ),
        (
            "02-slurm-requeue-D/sacct.txt", ("job_id", "duration_s"),
            [("2359", 3889), ("2360", 3600), ("2359#2", 6122), ("2359#3", 2153)],
        ),
        ("02-slurm-requeue-D/sacct-requeued-only.txt", ("duration_s", "status"), [(3889, "REQUEUED"), (3600, "COMPLETED"), (2153, "COMPLETED")]),
        ("03-slurm-array-pending/sacct.txt", ("job_id",), [("500_1",), ("500_2",), ("500_10",), ("503",)]),
        ("06-slurm-eligible/sacct.txt", ("job_id", "submit_s", "wait_s"), [("901", 0, 60), ("902", 21_660, 30)]),
        ("07-slurm-dst/sacct-offset.txt", ("job_id", "submit_s", "wait_s"), [("952", 0, 600), ("951", 6600, 900)]),
        ("07-slurm-dst/sacct-epoch.txt", ("job_id", "wait_s"), [("951", 900)]),
        (
            "10-k8s-mig/pods.json", ("job_id", "num_gpus", "mig"),
            [("team-a/nb-1", 1, "1g.5gb"), ("team-a/nb-2", 1, "3g.20gb"), ("team-a/train", 2, None)],
        ),
        ("10-k8s-mig/only-mig.json", ("job_id", "mig"), [("team-a/nb-1", "1g.5gb")]),
        (
            "11-k8s-init-sidecar/pods.json", ("job_id", "num_gpus"),
            [("team-a/init-bigger", 4), ("team-a/init-only-gpu", 2), ("team-a/plain", 1), ("team-a/sidecar", 2)],
        ),
        (
            "12-k8s-restart-evict/pods.json", ("job_id", "num_gpus", "wait_s", "duration_s"),
            [("team-a/plain", 1, 10, 1800), ("team-a/restarted", 8, 5, 11_395)],
        ),
        (
            "14-k8s-shapes/gangs.json", ("job_id", "num_gpus"),
            [("team-a/ix", 16), ("team-a/lw", 16), ("team-a/pg", 16), ("team-a/pt", 16), ("team-a/rc1", 16)],
        ),
        (
            "14-k8s-shapes/affinity.json", ("job_id", "gpu_type"),
            [("team-a/aff", "NVIDIA-A100-SXM4-80GB"), ("team-a/sel", "NVIDIA-A100-SXM4-80GB")],
        ),
        ("36-k8s-rejected/pods.json", ("job_id",), [("a/w",)]),
    ],
)  # fmt: skip
def test_logs_give_their_expected_values(
    cases: Path, file: str, columns: tuple[str, ...], expected: list[tuple[Any, ...]]
) -> None:
    """A log that people have really met would be read wrongly again."""
    frame = load_trace(cases / file).jobs.to_frame()[list(columns)].astype(object)
    assert list(frame.where(frame.notna(), None).itertuples(index=False, name=None)) == expected


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("03-slurm-array-pending/sacct.txt", ["1 jobs that are pending", "2 jobs cancelled while pending"]),
        ("07-slurm-dst/sacct.txt", ["1 jobs start before they were submitted"]),
        ("12-k8s-restart-evict/pods.json", ["1 GPU pods that failed (evicted or rejected", "(CrashLoopBackOff)"]),
        (
            "36-k8s-rejected/pods.json",
            ["1 GPU pods rejected by their node (UnexpectedAdmissionError)", "1 GPU pods evicted"],
        ),
    ],
)
def test_what_is_left_out_or_unknown_is_told(cases: Path, file: str, told: list[str]) -> None:
    """Jobs would be left out under a wrong name, or waits be wrong unsaid."""
    notes = load_trace(cases / file).notes
    assert all(any(words in note for note in notes) for words in told), notes


@pytest.mark.parametrize("file", ["single.json", "lines.json"])
def test_near_misses_get_a_remedy(cases: Path, file: str) -> None:
    """kubectl get pod NAME and jq's lines would be called damaged logs of something else."""
    with pytest.raises(InputError, match="--output=json"):
        load_trace(cases / "14-k8s-shapes" / file)


def test_a_configmap_is_read(cases: Path) -> None:
    """The file that the GPU operator's users have would be refused as no spec."""
    (entry,) = read_spec(cases / "18-migparted-configmap" / "configmap.yaml").entries
    assert [str(one) for one in entry.instances] == ["1g.10gb"] * 7


@pytest.mark.parametrize("file", ["deep.yaml", "laughs.yaml"])
def test_hostile_files_are_refused(cases: Path, file: str) -> None:
    """Half a kilobyte of aliases would hang, brackets overflow the stack."""
    with pytest.raises(InputError, match=r"nested more than|aliases written out"):
        read_yaml(cases / "hostile" / file, "a spec")


def test_paths_of_the_field_are_read(cases: Path, tmp_path: Path) -> None:
    """Folders named by date, and names with commas or accents, would be read by Hydra's grammar."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from rltune.config.commands import Simulate
    from rltune.entry import spelled

    here = shutil.copytree(cases / "25-hydra-paths", tmp_path / "here")
    paths = sorted(here.rglob("*.csv"))
    assert len(paths) == 8
    for path in paths:
        override = OverridesParser.create().parse_override(spelled(f"trace.path={path}", Simulate))
        assert override.value() == str(path) and not override.is_sweep_override()
