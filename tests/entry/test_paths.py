"""Names of files on the command line: Hydra's grammar does not take them apart."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from entry_cases import Command, refused
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from rltune.config.commands import Evaluate, Simulate
from rltune.entry import run_main, spelled

NAMES = (
    "a,b.csv", "date=2025-03-01.csv", "jobs#1.csv", "jobs%20a.csv", "my jobs (v2).csv", "été.csv", "it's.csv", "a\\.csv", "b\\",
    "c\\'d", "${x}.csv", '"q".csv', "[a].csv", "{a: 1}.csv", "~x", "a&b!.csv", " a ",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_exists_is_found_whatever_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders named by date, as data lakes have them, would end in a message about grammar."""
    monkeypatch.chdir(tmp_path)
    Path(name).write_text("")
    for word in (f"trace.path={name}", f"trace.path={tmp_path}/{name}", f"++trace.path={name}"):
        override = OverridesParser.create().parse_override(spelled(word, Simulate))
        assert not override.is_sweep_override()
        assert OmegaConf.create({"path": override.value()}).path == word.partition("=")[2]


def test_values_that_are_no_files_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep would be taken for a file's name, or a number for a text because a file is called 4."""
    monkeypatch.chdir(tmp_path)
    Path("4").write_text("")
    for word in ("policy=sjf,fifo", "nodes=4", "trace.path='a b.csv'", "cluster.pools.0={nodes: 2}"):
        assert "'" not in spelled(word, Evaluate).removesuffix("'a b.csv'")


def test_a_path_that_is_not_there_tells_how_to_quote(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who mistypes such a path would read of mismatched input and an end of file."""
    monkeypatch.setattr(sys, "argv", ["simulate", "+trace=file", "trace.path=date=2025-03-01/none.csv"])
    with pytest.raises(SystemExit):
        run_main(lambda cfg: None, Simulate)
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "needs quotes of both: 'name=\"value\"'" in told


def test_an_own_log_and_cluster_are_given_by_path(command: Command, here: Path) -> None:
    """`trace=jobs.csv` and `cluster=my.yaml` would need two options each, and a first log several tries to its first table."""
    rows = [f"{k},2024-03-01T08:{k:02d}:00,0:{k + 5}:00,a100,{'1g' if k % 2 else ''}" for k in range(50)]
    (here / "my jobs.csv").write_text("\n".join(["id,submit_time,duration,gpu,mig", *rows]) + "\n")
    (here / "my.yaml").write_text("pools:\n- {nodes: 1, gpus_per_node: 2, gpu_type: A100-SXM4-40GB, mig: true}\n")
    status, out, err = command(
        "simulate", "-m", "+trace=my jobs.csv", "policy=fifo,sjf", "sweep=rules", "progress=false"
    )
    assert status == 0, err
    assert "sized so that the jobs would keep 85% of it busy" in out
    status, out, err = command("simulate", "trace=my jobs.csv", "cluster=my.yaml", "progress=false", "name=own")
    assert status == 0, err
    summary = json.loads((here / "runs" / "own" / "summary.json").read_text())
    assert summary["cluster"]["gpus"] == 2 and summary["cluster"]["name"] == "my"
    refused(command("simulate", "trace=my jobs.csv", "cluster=none.yaml"), here / "x", "none.yaml", alone=True)
    refused(command("simulate", "trace=none.csv"), here / "x", "no such file", alone=True)
