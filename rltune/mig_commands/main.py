"""``python -m rltune.mig batch|states|serve-trace|serve|train|profiles``."""

from __future__ import annotations

import sys
from collections.abc import Callable

from rltune.entry import fail, run_main
from rltune.errors import InputError
from rltune.mig_commands.batch import plan_batches
from rltune.mig_commands.states import print_states

USAGE = """usage: python -m rltune.mig COMMAND ...

  batch tasks.csv gpu=a100-80gb      plan tasks on MIG GPUs: least makespan       (--help: options)
  states gpu=a100-80gb               partitions of a GPU and their numbers"""


def main() -> None:
    """Hand over to a command; 2 and one line for one that does not exist."""
    command, *words = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(USAGE)
        return
    commands: dict[str, Callable[[list[str]], None]] = {"batch": _batch, "states": print_states}
    if command not in commands:
        fail(InputError(f"command {command!r} is unknown; known are {', '.join(commands)} (see --help)"))
    try:
        commands[command](words)
    except InputError as error:
        fail(error)


def _batch(words: list[str]) -> None:
    sys.argv[1:] = positional(words, "tasks")
    run_main(plan_batches, "mig_batch")


def positional(words: list[str], option: str) -> list[str]:
    """Words as Hydra wants them: one without ``=`` and dashes is the value of ``option``, quoted."""
    return [word if word.startswith("-") or "=" in word else f"{option}={quoted(word)}" for word in words]


def quoted(text: str) -> str:
    """As a value of the command line that may hold anything: spaces, commas, quotes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
