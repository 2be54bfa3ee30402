"""Fixtures of the trace tests: the folder of real traces, and jobs made by hand."""

import os
from datetime import datetime
from pathlib import Path

import pytest

from rltune.nouns.jobs import JobTable
from rltune.traces import Trace


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real traces, or a skip."""
    folder = os.environ.get("RLTUNE_TRACES")
    if not folder or not Path(folder).is_dir():
        pytest.skip("RLTUNE_TRACES names no folder: real traces are not here")
    return Path(folder)


@pytest.fixture
def no_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that RLTUNE_TRACES names."""
    folder = tmp_path / "no-traces"
    folder.mkdir()
    monkeypatch.setenv("RLTUNE_TRACES", str(folder))
    return folder


@pytest.fixture
def by_hand() -> Trace:
    """Four jobs from 2020-04-01, half a day apart, with one VC and one user absent."""
    jobs = JobTable.from_columns(
        {
            "job_id": ["a", "b", "c", "d"],
            "submit_s": [0, 43200, 86400, 129600],
            "duration_s": [3600, 60.5, 0, 7200],
            "num_gpus": [1, 8, 128, 2],
            "vc": ["x", None, "y", "x"],
            "user": ["ann", "bob", None, "ann"],
            "gpu_type": ["V100", "V100", "T4", None],
            "priority": [0, 1.5, 0, 0],
            "wait_s": [5, None, 0, 1],
        }
    )
    origin = datetime(2020, 4, 1)
    return Trace.of(jobs, name="hand", source="user", origin=origin, files=("hand.csv",), notes=("made up",))
