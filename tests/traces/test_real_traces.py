"""The real logs, where they are: published counts, and the jobs of the golden schedules."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rltune.traces import load_trace, read_philly_machines, split
from rltune.traces.folder import MissingTrace

HELIOS_VC_NODES = (6, 4, 3, 2, 2)
ALIBABA_NODES = {"T4": 8, "MISC": 8, "P100": 15, "V100": 10, "V100-32GB": 8}


def golden(real: Path, name: str) -> list[dict[str, Any]]:
    """The windows of the first-come schedules of one golden set, or a skip."""
    path = real.parent / "golden" / "rltune" / f"{name}.json.gz"
    if not path.is_file():
        pytest.skip("the golden schedules are not beside the real traces")
    windows: list[dict[str, Any]] = json.loads(gzip.decompress(path.read_bytes()))["policies"]["fcfs"]
    return windows


def load(real: Path, name: str, **options: Any) -> Any:
    """A real trace, or a skip where its file is missing."""
    try:
        trace = load_trace(name, folder=real, **options)
    except MissingTrace as error:
        pytest.skip(str(error))
    if trace.source != "real":
        pytest.skip(f"{name} is not here")
    return trace


@pytest.mark.parametrize(
    ("name", "jobs"),
    [("helios", 125_303), ("philly", 109_570), ("philly_sia", 82_247), ("alibaba", 60_105)],
)
def test_published_counts(real: Path, name: str, jobs: int) -> None:
    """Rows would be lost between the file and the table."""
    assert len(load(real, name)) == jobs


def test_helios_september_is_the_published_month(real: Path) -> None:
    """The test month would not be the one that published results are on."""
    trace = load(real, "helios")
    assert len(split(trace, ["2020-09-01", "2020-09-28"])) == 25_596
    assert len(trace.between("2020-04-01", "2020-10-01")) == 125_214


def test_golden_window_starts_with_its_job(real: Path) -> None:
    """Golden schedules would be compared with other jobs."""
    window = load(real, "philly_sia").window(74685)
    assert window.jobs.job_id[0] == "philly-74685"
    assert window.jobs.submit_s[0] == golden(real, "philly_x1")[0]["schedule"]["philly-74685"][0]


@pytest.mark.parametrize(
    ("name", "squeeze", "file"),
    [
        ("rltune_philly", 1, "philly_x1"),
        ("rltune_philly", 10, "philly_x10"),
        ("rltune_helios", 1, "helios_x1"),
        ("rltune_helios", 10, "helios_x10"),
        ("rltune_alibaba", 10, "alibaba_x10"),
    ],
)
def test_golden_schedules_fit_the_jobs(real: Path, name: str, squeeze: int, file: str) -> None:
    """Submit times, VCs or GPU types would not be those the published simulator saw."""
    trace = load(real, name, squeeze=squeeze)
    nodes = {
        "rltune_helios": dict(zip("01234", HELIOS_VC_NODES, strict=True)),
        "rltune_alibaba": ALIBABA_NODES,
    }
    for window in golden(real, file):
        jobs = trace.window(window["start"]).jobs
        place = (jobs.vc if name == "rltune_helios" else jobs.gpu_type).values()
        submit = dict(zip(jobs.job_id, jobs.submit_s, strict=True))
        where = dict(zip(jobs.job_id, place, strict=True))
        assert set(window["schedule"]) <= set(submit)
        waits = [start[0] - submit[job] for job, start in window["schedule"].items()]
        assert min(waits) == 0
        assert np.mean(waits) == pytest.approx(window["wait_s"])
        if name in nodes:
            used = [(nodes[name][where[job]], max(start[1::2])) for job, start in window["schedule"].items()]
            assert all(node <= last for last, node in used)


def test_rltune_helios_uses_five_virtual_clusters(real: Path) -> None:
    """All jobs in one VC would queue for six nodes."""
    assert load(real, "rltune_helios").jobs.vc.names == ("0", "1", "2", "3", "4")


def test_alibaba_load_scale_multiplies_the_rate(real: Path) -> None:
    """The restored load would be off by its square."""
    plain, scaled = load(real, "alibaba"), load(real, "alibaba", load_scale=4)
    assert scaled.describe()["arrivals_per_h"] == pytest.approx(4 * plain.describe()["arrivals_per_h"], rel=1e-3)


def test_philly_machine_list_has_552_machines(real: Path) -> None:
    """Philly's cluster would have other nodes than were published."""
    path = real / "philly_2017" / "philly_machine_list_original.csv"
    if not path.is_file():
        pytest.skip("the machine list is not here")
    assert read_philly_machines(path) == {("12GB", 2): 321, ("24GB", 8): 231}


@pytest.mark.parametrize(
    ("name", "generated", "begin"),
    [("philly", "philly_calibrated", "2017-10-01"), ("alibaba", "alibaba_calibrated", 0)],
)
@pytest.mark.thorough
def test_generators_resemble_their_logs(real: Path, name: str, generated: str, begin: str | int) -> None:
    """Constants would have been copied wrongly: quartiles, 90 and 99 % of durations within 7 %, sizes within 0.2 points."""
    log = load(real, name)
    found = log.between(begin, "2018-01-01" if name == "philly" else 1e9).describe()
    made = load_trace(generated, seed=1).describe()
    for quantile in ("p25", "p50", "p75", "p90", "p99"):
        assert made["duration_s"][quantile] == pytest.approx(found["duration_s"][quantile], rel=0.07)
    for size, percent in found["size_share_pct"].items():
        assert made["size_share_pct"][size] == pytest.approx(percent, abs=0.2)


@pytest.mark.parametrize(
    ("file", "jobs"),
    [
        ("helios_venus_2020/venus_2vc_sept_with_user_vc_state.csv.gz", 1_867),
        ("rltune_synthetic/synthetic_trace.csv.gz", 960),
    ],
)
def test_shared_files_are_recognised_by_path(real: Path, file: str, jobs: int) -> None:
    """A file that the documentation names would be refused."""
    if not (real / file).is_file():
        pytest.skip(f"{file} is not here")
    trace = load_trace(real / file)
    assert (len(trace), trace.source) == (jobs, "user")
