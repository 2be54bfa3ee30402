"""``python -m rltune.devices clear``: destroy the MIG instances that nobody uses or holds, all or nothing."""

from __future__ import annotations

import argparse

from rltune.device_commands.adapting import adapter_of, print_plan
from rltune.device_commands.apply import report
from rltune.device_commands.run import gpu_numbers
from rltune.devices.execution.schedule import targets_of, users_of
from rltune.devices.spec import spec_of
from rltune.report.console import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--gpus", metavar="0,1", help="these GPUs only (NVML's numbers); default: all with MIG on")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, and do nothing")
    parser.add_argument("--tenant", metavar="NAME", help="instances that this tenant holds may go too")


def run(args: argparse.Namespace) -> int:
    """Clear; 0, also where there is nothing to do. MIG mode stays as it is."""
    cut = [target for target in targets_of(args.driver, gpu_numbers(args.gpus)) if target.mig]
    if not cut:
        print("No GPU here has MIG on: there is nothing to clear.")
        return 0
    with adapter_of(args) as adapter:
        if not args.dry_run:
            for line in adapter.recover([target.uuid for target in cut]):
                say(f"note: {line}")
        states = adapter.states()
        entries = []
        for target in cut:
            used = users_of(adapter, target, args.tenant) if states[target.uuid].instances else ()
            entries.append({"gpu": target.index, "instances": [str(one) for one in used]})
        plan = adapter.plan(spec_of({"version": 1, "gpus": entries}), args.tenant)
        print_plan(plan)
        if args.dry_run:
            adapter.check(plan, False, args.tenant)
            print("Dry run: nothing was changed.")
            return 0
        return report(adapter.apply(plan, False, args.tenant))
