"""Training the agent for batches end to end, small."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rltune.config.declare import check, defaults
from rltune.config.mig import MigTrain
from rltune.mig_commands.train import check_options
from rltune.nouns.errors import InputError
from rltune.rl.mig.agent import load

SMALL = {
    "epochs": 2, "steps_per_epoch": 256, "validate_every": 1, "validation_batches": 1, "validation_tasks": 6,
    "tasks": [3, 6], "online_tasks": [6, 8], "family": "wide_times", "progress": False,
}  # fmt: skip
SCRIPT = """
import json, sys
from rltune.config.declare import defaults
from rltune.config.mig import MigTrain
from rltune.mig_commands.train import train
from rltune.rl.checkpoints import Checkpoints
given, runs = json.loads(sys.argv[1]), sys.argv[2]
cfg = defaults(MigTrain) | given | {"runs": runs}
cfg["algo"] |= {"envs": 4, "minibatch": 128, "passes": 1}
for name, checkpoint in (("one", None), ("more", f"{runs}/one")):
    print(train(cfg | {"name": name, "checkpoint": checkpoint}))
take = Checkpoints.take
def cut(self, epoch, state):
    take(self, epoch, state)
    raise KeyboardInterrupt
Checkpoints.take = cut
try:
    train(cfg | {"name": "two"})
except KeyboardInterrupt as end:
    print(end, file=sys.stderr)
Checkpoints.take = take
print(train(cfg | {"resume": f"{runs}/two"}))
"""


@pytest.mark.ray
@pytest.mark.thorough
def test_a_small_training_leaves_an_agent_and_its_curve_and_can_be_gone_on_from(tmp_path: Path) -> None:
    """A user would train for an hour and find nothing to plan with, or not get the same again."""
    command = [sys.executable, "-c", SCRIPT, json.dumps(SMALL), str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / name) for name in ("one", "more", "two")]
    assert f"python -m rltune.mig train resume={tmp_path / 'two'}" in done.stderr
    assert {p.name for p in (tmp_path / "one").iterdir()} >= {
        "policy.safetensors", "curve.csv", "learning_curve.png", "config.yaml", "summary.json",
    }  # fmt: skip
    with (tmp_path / "one" / "curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(float(row["validation_ratio"]) >= 1 for row in rows)
    one, two, more = (load(tmp_path / name) for name in ("one", "two", "more"))
    assert one.origin["options"]["family"] == "wide_times"
    for name, tensor in one.network.state_dict().items():
        assert torch.equal(tensor, two.network.state_dict()[name]), "the same seed, in two goes, gave another agent"
    assert curve(tmp_path / "one") == curve(tmp_path / "two")
    assert more.origin["parent"]["kept"] == one.origin["kept"]


def curve(run: Path) -> list[list[str]]:
    """Without the clock, its last column."""
    with (run / "curve.csv").open(newline="") as file:
        return [row[:-1] for row in csv.reader(file)]


BAD = {
    "family": "nice", "gpu": "a30", "tasks": [9, 3], "online_tasks": [4], "online": 2.0, "needy": "some", "epochs": 0,
    "validation_tasks": 0, "algo": {"clip": "often"}, "network": {"depth": 3}, "checkpoint": 7,
}  # fmt: skip


@pytest.mark.parametrize("option", BAD)
def test_bad_options_are_told_by_name(option: str) -> None:
    """A user would wait for Ray to start and read a traceback."""
    cfg = defaults(MigTrain)
    check(MigTrain, cfg)
    check_options(cfg)
    bad = BAD[option]
    cfg[option] = cfg[option] | bad if isinstance(bad, dict) else bad
    with pytest.raises(InputError, match=option):
        check(MigTrain, cfg)
        check_options(cfg)
