"""``python -m rltune.devices export``: the present state as a spec."""

from __future__ import annotations

import argparse

from rltune.devices.reading import read_states
from rltune.devices.spec import export_parted, export_spec
from rltune.nouns.errors import InputError
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
    lost = [str(gpu.index) for gpu in gpus if not gpu.uuid]
    without = [str(gpu.index) for gpu in gpus if gpu.uuid and states[gpu.uuid].mig is None]
    if len(lost) + len(without) == len(gpus):
        reach = f" that can be reached (GPU {', '.join(lost)} cannot; `show` says why)" if lost else ""
        raise InputError(f"no GPU of this machine{reach} has MIG; there is nothing to export")
    if lost:
        say(f"note: GPU {', '.join(lost)} cannot be reached and is left out; `show` says why")
    if without:
        say(f"note: GPU {', '.join(without)} has no MIG and is left out")
    instances = [one for state in states.values() for one in state.instances]
    useless = sum(not one.compute for one in instances)
    if useless:
        say(
            f"note: {useless} GPU instances without compute instances are left out: a spec cannot ask for them, and to apply "
            "this one destroys them"
        )
    if args.format == "rltune":
        print(export_spec(states, gpus), end="")
        return 0
    if any(one.compute for one in instances):
        say("note: mig-parted's format knows no placements: starts are lost")
    if any(one.compute and not one.whole for one in instances):
        say("note: nor does it know which compute instances share a GPU instance: that is lost, too")
    print(export_parted(states, gpus, args.name), end="")
    return 0
