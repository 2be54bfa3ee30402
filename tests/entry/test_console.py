"""`rltune COMMAND`, which is `python -m rltune` too: help, version, completion, and the environments by name."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import rltune
import rltune.environments as environments
from rltune.__main__ import COMMANDS, main
from rltune.nouns.errors import InputError

HEAVY = "{'numpy', 'numba', 'pandas', 'hydra', 'torch', 'ray'}"


def test_help_and_version_load_nothing() -> None:
    """`rltune --help` would take seconds, as long as everything that it tells of."""
    code = f"import sys; from rltune.__main__ import main; main(['--help']); main(['--version']); assert not {HEAVY} & set(sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(f"  {name} " in told for name in COMMANDS) and told.endswith(f"rltune {rltune.__version__}\n")
    assert max(map(len, told.splitlines())) <= 80


def test_every_command_is_a_module() -> None:
    """A command of the list would end in a stack trace."""
    for name in COMMANDS:
        found = find_spec(f"rltune.{name}")
        assert found is not None
        if found.submodule_search_locations:
            assert find_spec(f"rltune.{name}.__main__") is not None


def test_a_slip_is_told_with_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped command would end in a stack trace, or in all of help."""
    assert main(["simlate", "+trace=synthetic"]) == 2
    assert (
        capsys.readouterr().err == "error: rltune 'simlate': no such command; did you mean simulate? (rltune --help)\n"
    )
    assert main(["completion", "fish"]) == 2
    assert "name a shell" in capsys.readouterr().err
    assert main([]) == 2


def test_a_command_runs_as_its_module_does(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`rltune models helios` and `python -m rltune.models helios` would differ."""
    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(SystemExit) as ended:
        main(["models", "helios"])
    assert not ended.value.code and "helios" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="no bash")
def test_completion_offers_names_of_options(capsys: pytest.CaptureFixture[str]) -> None:
    """TAB would offer nothing, or a script that bash refuses."""
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    ask = 'COMP_WORDS=(rltune simulate policy=las); COMP_CWORD=2; _rltune; echo "${COMPREPLY[@]}"'
    done = subprocess.run(["/bin/bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["policy=las", "policy=las_levels"]
    assert "+trace=helios" in script and "options.resume_s=" in script


SMALL = {"trace.jobs": 600, "protocol.window": 32}


def test_environments_have_names_and_take_options_of_training() -> None:
    """`gymnasium.make` would know nothing of ours, or take options that it then ignores."""
    environments.register_all()
    env = gymnasium.make("rltune/Pick-v0", visible=8, **SMALL)
    seen, _ = env.reset(seed=1)
    assert seen["jobs"].shape[0] == 8
    over = False
    while not over:
        seen, _, over, _, _ = env.step(int(np.flatnonzero(seen["action_mask"])[0]))
    many = gymnasium.make_vec("rltune/Index-v0", num_envs=2, vectorization_mode="vector_entry_point", **SMALL)
    assert many.reset(seed=0)[0]["world"].shape[0] == 2
    with pytest.raises(InputError, match="option polcy is unknown"):
        gymnasium.make("rltune/Pick-v0", polcy="fifo")
