"""Measured throughputs read from the published files."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from rltune import load_cluster
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.nouns.throughput import PUBLISHED
from rltune.traces.heterogeneity import FILES, job_classes, load_throughput

JOB = JobTable.from_columns(
    {"submit_s": [0], "duration_s": [100], "num_gpus": [1], "name": ["ResNet-50 (batch size 64)"], "gpu_type": [None]}
)


def table(folder: Path, name: str, content: object) -> Path:
    path = folder / FILES[name]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    return path


def test_a_file_by_hand(tmp_path: Path) -> None:
    """Gavel's key ("('job', GPUs)"), a type's column or the null entry would be misread; 0 is no measurement."""
    empty = {f"{t}{side}": {} for t in ("k80", "p100", "v100") for side in ("", "_unconsolidated")}
    row = {"null": 3.0, "('other', 1)": [1.0, 2.0]}
    mine = {
        "v100": {"('a job', 2)": row},
        "k80": {"('a job', 2)": {"null": 0.0}},
        "p100_unconsolidated": {"('a job', 2)": row},
    }
    table(tmp_path, "gavel", empty | mine)
    found = load_throughput("gavel", folder=tmp_path)
    assert (found.types, found.classes, found.scales) == (("K80", "P100", "V100"), ("a job",), (2,))
    assert found.rate[0, 0] == pytest.approx(np.array([[np.nan, np.nan, 3], [np.nan, 3, np.nan]]), nan_ok=True)


@pytest.mark.parametrize("content", [[], {"k80": {}}, {"k80": {"('a', 1)": 3}}, {"k80": {"a": {"null": 1}}}])
def test_other_files_are_refused(tmp_path: Path, content: object) -> None:
    """A foreign file would be a traceback, or an empty table."""
    table(tmp_path, "gavel", content)
    with pytest.raises(InputError, match="no table of throughputs as Gavel publishes them"):
        load_throughput("gavel", folder=tmp_path)


def test_absent_and_unknown_tables_are_told(tmp_path: Path) -> None:
    """Who has not the measurements would not learn what to do."""
    with pytest.raises(InputError, match=r"throughput gavel: none of .* use throughput=published"):
        load_throughput("gavel", folder=tmp_path)
    with pytest.raises(InputError, match="throughput 'pollux' is unknown; known are none, published, gavel"):
        load_throughput("pollux", folder=tmp_path)


def test_values_of_the_real_table(real: Path) -> None:
    """The speed of a class would not be the published one (rows of gavel_isolated_throughput_by_gpu.csv)."""
    gavel = load_throughput("gavel", folder=real)
    assert gavel.rate.shape == (26, 4, 2, 3)
    assert np.isfinite(gavel.rate).sum() == 83 * 6 - 3 - 6  # three zeros, six gaps
    row = gavel.classes.index("ResNet-50 (batch size 64)")
    assert gavel.rate[row, 0, 0] == pytest.approx([0.6190282202246573, 2.6194694075770055, 4.394774823323071])
    assert gavel.rate[row, 3, 1] == pytest.approx([np.nan, 18.903561107896458, 19.757330902241037], nan_ok=True)
    cluster = Cluster("c", tuple(Pool(t, 1, 8, gpu_type=t) for t in ("K80", "P100", "V100-32GB")))
    expected = [0.6190282202246573 / 4.394774823323071, 2.6194694075770055 / 4.394774823323071, 1]
    assert gavel.speed(JOB, cluster)[0] == pytest.approx(expected)


def test_the_built_in_ratios_are_the_medians_of_the_real_table(real: Path) -> None:
    """throughput=published would claim a source that says something else."""
    gavel = load_throughput("gavel", reference="K80", folder=real)
    medians = np.median(gavel.relative(1), axis=0)
    assert medians == pytest.approx([PUBLISHED[t] for t in gavel.types], rel=0.005)


def test_sia_knows_t4_and_a100(real: Path) -> None:
    """The table of A100s would take the unidentified or doubled columns."""
    sia = load_throughput("sia", folder=real)
    assert (sia.types, sia.reference) == (("T4", "A100"), "T4")
    row = sia.classes.index("bert (batch size 8)")
    assert sia.relative()[row] == pytest.approx([1, 52.722 / 11.376])


@pytest.mark.parametrize("name", FILES)
def test_every_table_reads(real: Path, name: str) -> None:
    """throughput=NAME would fail for a published file."""
    assert np.isfinite(load_throughput(name, folder=real).rate).any()


def test_classes_are_drawn_for_jobs_without_names(tmp_path: Path) -> None:
    """All jobs of a log without names would be alike, and unlike GPUs a matter of one ratio."""
    jobs = JobTable.from_columns(
        {
            "submit_s": range(300),
            "duration_s": [9] * 300,
            "num_gpus": [1] * 300,
            "user": [f"u{k % 7}" for k in range(300)],
        }
    )
    cluster = load_cluster("mixed")
    table = job_classes(3, folder=tmp_path)
    speed = table.speeds(jobs, cluster).speed
    assert table.name == "made-up classes" and len(np.unique(speed[:, 2])) > 20
    assert np.array_equal(speed, job_classes(3, folder=tmp_path).speeds(jobs, cluster).speed)
    assert not np.array_equal(speed, job_classes(4, folder=tmp_path).speeds(jobs, cluster).speed)
    # One in two is of its user's class: that is far more often than by chance.
    mine = speed[np.array(jobs.user.codes) == 0, 2]
    assert np.unique(mine, return_counts=True)[1].max() > len(mine) / 4


def test_a_job_that_names_its_class_keeps_it(tmp_path: Path) -> None:
    """Drawing would overwrite what the log knows."""
    jobs = JobTable.from_columns(
        {"submit_s": [0, 1], "duration_s": [9, 9], "num_gpus": [1, 1], "name": ["made-up class 5", "made-up class 5"]}
    )
    speeds = [job_classes(seed, folder=tmp_path).speeds(jobs, load_cluster("mixed")).speed for seed in (0, 1)]
    assert np.array_equal(*speeds) and speeds[0][0, 2] > 1.0


def test_a100s_are_assumed_only_beside_v100s(real: Path) -> None:
    """The assumption would be applied to a table that has no V100, or has measured A100s."""
    gavel = load_throughput("gavel", missing="assumed", folder=real)
    k, v, a = (gavel.types.index(x) for x in ("K80", "V100", "A100"))
    ratio = gavel.rate[:, 0, 0, a] / gavel.rate[:, 0, 0, v]
    assert 1.05 <= ratio.min() + 1e-9 < ratio.max() <= 2.5 + 1e-9
    assert np.isfinite(gavel.rate[:, 0, 0, k]).all()
    with pytest.raises(InputError, match="missing=assumed goes with tables of V100s"):
        load_throughput("sia", missing="assumed", folder=real)
