"""The conf/trace nodes load what they say."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from rltune.config.traces import check_trace_options
from rltune.nouns.errors import InputError
from rltune.traces import TRACES, from_config, split
from rltune.traces.folder import MissingTrace

NODES = sorted((Path(__file__).parents[2] / "conf" / "trace").glob("*.yaml"))


def node(path: Path) -> dict[str, Any]:
    """A node as plain data."""
    return dict(yaml.safe_load(path.read_text()))


def test_every_name_has_a_node() -> None:
    """+trace=NAME would not be found."""
    assert {path.stem for path in NODES} == {*TRACES, "file"}


@pytest.mark.parametrize("path", NODES, ids=lambda path: path.stem)
def test_node_loads_and_its_stretches_share_no_job(path: Path, tmp_path: Path) -> None:
    """Training would see the test jobs, or a stretch would be empty."""
    config = node(path)
    if "path" in config:
        config["path"] = str(tmp_path / "jobs.csv")
        rows = "".join(f"j{k},{k},1,1\n" for k in range(20))
        (tmp_path / "jobs.csv").write_text("job_id,submit_s,duration_s,num_gpus\n" + rows)
    try:
        trace = from_config(config)
    except MissingTrace as error:
        pytest.skip(str(error))
    parts = [split(trace, config[part]).jobs for part in ("train", "validate", "test")]
    ids = [job for jobs in parts for job in jobs.job_id]
    assert len(set(ids)) == len(ids)
    assert all(a.submit_s[-1] <= b.submit_s[0] for a, b in pairwise(parts))


def test_options_of_a_node_reach_the_loader() -> None:
    """trace.jobs=50 on the command line would do nothing."""
    assert len(from_config({"_target_": "x", "name_or_path": "synthetic", "jobs": 50, "train": [0, 1]})) == 50


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"priorities": {0: 0.9, 10: 0.1}}, None), ({"families": True}, None), ({"families": {"lstm": 1}}, None),
        ({"gpu_types": {"V100": 1}}, None), ({"gpu_mix": {1: 0.5}, "gpu_types": None}, None),
        ({"priorities": {"high": 1}}, "trace.priorities"), ({"families": "yes"}, "true or false"),
        ({"gpu_types": {3: 1}}, "trace.gpu_types"), ({"gpu_mix": {"wide": 1}}, "trace.gpu_mix"),
    ],
    ids=str,
)  # fmt: skip
def test_options_of_a_node_are_of_their_kind(options: dict[str, Any], said: str | None) -> None:
    """A mapping of the wrong kind would be a stack trace, or a right one refused."""
    node = {"name_or_path": "synthetic"} | options
    if said is None:
        check_trace_options(node)
        assert len(from_config(node)) == 1000
    else:
        with pytest.raises(InputError, match=said):
            check_trace_options(node)


def test_node_without_name_or_path_is_refused() -> None:
    """+trace=file without trace.path would end in a stack trace."""
    with pytest.raises(InputError, match=r"trace\.path=jobs\.csv"):
        from_config({"_target_": "x"})
