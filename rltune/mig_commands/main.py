"""``python -m rltune.mig batch|serve-trace|serve|train|profiles|states``."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from rltune.entry import fail, quoted, run_main
from rltune.nouns.errors import InputError

USAGE = """usage: python -m rltune.mig COMMAND ...

  batch tasks.csv gpu=a100-80gb           plan tasks on MIG GPUs for the least makespan
  serve-trace events.csv gpu=a100-80gb    replay acquire and release on a fleet, and report
  serve gpu=a100-80gb journal=FILE        answer acquire and release, line by line on standard input
  train family=all                        train the agent that plans batches
  profiles [model]                        measured speeds of slices
  states gpu=a100-80gb [all=true]         partitions of a GPU and their configuration numbers

Options and their meanings: python -m rltune.mig COMMAND --help."""

PROFILES = """usage: python -m rltune.mig profiles [MODEL] [gpu=a100-80gb] [task=train|infer] [folder=TRACES]
       [out=tasks.csv tasks=14 seed=0]

Measured throughput of slices over the whole GPU; with out= a batch of workloads drawn from them."""
STATES = """usage: python -m rltune.mig states [gpu=a100-80gb] [all=true|false]

Profiles, maximal partitions and their configuration numbers; all=true: every state."""


def main() -> None:
    """Hand over to a command; 2 and one line for one that does not exist."""
    command, *words = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(USAGE)
        return
    if command not in COMMANDS:
        fail(InputError(f"command {command!r} is unknown; known are {', '.join(COMMANDS)} (see --help)"))
    try:
        COMMANDS[command](words)
    except InputError as error:
        fail(error)


# Each command loads what it needs: PyTorch and Ray take seconds, and only one of them trains.


def _batch(words: list[str]) -> None:
    from rltune.config.mig import MigBatch
    from rltune.mig_commands.batch import plan_batches

    sys.argv[1:] = positional(words, "tasks")
    run_main(plan_batches, MigBatch)


def _serve_trace(words: list[str]) -> None:
    from rltune.config.mig import MigServe
    from rltune.mig_commands.serve import serve_trace

    sys.argv[1:] = positional(words, "events")
    run_main(serve_trace, MigServe)


def _serve(words: list[str]) -> None:
    from rltune.config.mig import MigServe
    from rltune.mig_commands.serve import serve_lines

    sys.argv[1:] = positional(words, "journal")
    run_main(serve_lines, MigServe)


def _train(words: list[str]) -> None:
    from rltune.config.mig import MigTrain
    from rltune.mig_commands.train import train

    sys.argv[1:] = words
    run_main(train, MigTrain)


def _profiles(words: list[str]) -> None:
    if {"-h", "--help"} & set(words):
        print(PROFILES)
        return
    from rltune.mig_commands.profiles import print_profiles

    print_profiles(words)


def _states(words: list[str]) -> None:
    if {"-h", "--help"} & set(words):
        print(STATES)
        return
    from rltune.mig_commands.states import print_states

    print_states(words)


def positional(words: list[str], option: str) -> list[str]:
    """Words as Hydra wants them: one that is no option (``name=value``) or flag is the value of ``option``, quoted.

    InputError for two of them.
    """
    files = [word for word in words if not OPTION.match(word) or Path(word).exists()]
    if len(files) > 1:
        raise InputError(f"{files[0]!r} and {files[1]!r}: one file at a time; put them into one, or run twice")
    return [f"{option}={quoted(word)}" if word in files else word for word in words]


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "batch": _batch,
    "serve-trace": _serve_trace,
    "serve": _serve,
    "train": _train,
    "profiles": _profiles,
    "states": _states,
}
OPTION = re.compile(r"^(-|[+~]*[\w.@/]+=)")
"""A flag, or an option of Hydra's."""
