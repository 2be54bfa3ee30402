"""What tests share: where the real traces and golden sets lie, and a small cluster."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Small networks and solver calls are slower with threads that fight for two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Started in the background (``&`` in a script), tests inherit that Ctrl-C is ignored, and hand that on to what they start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, signal.SIG_DFL)

# How long an example takes says what else runs on the machine.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

ROOT = Path(__file__).resolve().parent.parent


def shared_folder() -> Path | None:
    """The folder that holds ``traces/`` and ``golden/``: RLTUNE_TRACES/.., else ../shared beside the checkout."""
    given = os.environ.get("RLTUNE_TRACES")
    for folder in ([Path(given).resolve().parent] if given else []) + [ROOT.parent / "shared"]:
        if (folder / "golden").is_dir():
            return folder
    return None


def pytest_sessionstart(session: pytest.Session) -> None:
    """With several workers, compile the simulators' kernels once before they start, not once in each."""
    if session.config.getoption("numprocesses", None):
        import rltune

        jobs = rltune.JobTable.from_columns({"submit_s": [0], "duration_s": [1], "num_gpus": [1]})
        for options in ({}, {"policy": "las"}):
            rltune.simulate(jobs, "uniform", **options)


@pytest.fixture(scope="session")
def golden() -> Path:
    folder = shared_folder()
    if folder is None:
        pytest.skip("the golden sets are not here: set RLTUNE_TRACES to a folder beside which golden/ lies")
    return folder / "golden"


@pytest.fixture(scope="session")
def real_traces() -> Path:
    folder = shared_folder()
    if folder is None or not (folder / "traces").is_dir():
        pytest.skip("the real traces are not here: set RLTUNE_TRACES")
    return folder / "traces"
