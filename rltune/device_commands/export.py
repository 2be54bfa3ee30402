"""``python -m rltune.devices export``: the present state as a spec."""

from __future__ import annotations

import argparse

from rltune.devices.reading import read_states
from rltune.devices.spec import export_parted, export_spec
from rltune.errors import InputError
from rltune.report.console import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--format", choices=("rltune", "mig-parted"), default="rltune", help="whose format (default ours)"
    )
    parser.add_argument(
        "--name", default="current", metavar="NAME", help="of mig-parted's configuration (default current)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the spec; 0."""
    gpus = args.driver.gpus()
    states = read_states(args.driver, gpus)
    without = [str(gpu.index) for gpu in gpus if states[gpu.uuid].mig is None]
    if len(without) == len(gpus):
        raise InputError("no GPU of this machine has MIG; there is nothing to export")
    if without:
        say(f"note: GPU {', '.join(without)} has no MIG and is left out")
    if args.format == "rltune":
        print(export_spec(states, gpus), end="")
        return 0
    if any(state.instances for state in states.values()):
        say("note: mig-parted's format knows no placements: starts are lost")
    print(export_parted(states, gpus, args.name), end="")
    return 0
