"""Fixtures of the tests of commands: a directory to begin in, and a command as a user types it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from entry_cases import Command, Told

from rltune.config.commands import Evaluate, Simulate, Train
from rltune.entry import run_main

COMMANDS = {"evaluate": Evaluate, "train": Train, "simulate": Simulate}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, no real traces."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLTUNE_TRACES", str(tmp_path))
    return tmp_path


@pytest.fixture
def command(here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """``command("evaluate", "+trace=...")`` -> (exit status, standard output, standard error), in this process."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def run(name: str, *options: str) -> Told:
        module = importlib.import_module(f"rltune.{name}")
        monkeypatch.setattr(sys, "argv", [f"rltune.{name}", *options])
        capfd.readouterr()
        status = 0
        try:
            run_main(module.main, COMMANDS[name], sweep=module.SWEEP)
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = capfd.readouterr()
        return status, out, err

    return run
