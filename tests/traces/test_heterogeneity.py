"""Measured throughputs read from the published files."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.errors import InputError
from rltune.nouns.jobs import JobTable
from rltune.nouns.throughput import PUBLISHED
from rltune.traces.heterogeneity import FILES, load_throughput

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
