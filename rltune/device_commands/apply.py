"""``python -m rltune.devices apply spec.yaml``: bring the GPUs to a spec, or through a kept plan, all or nothing."""

from __future__ import annotations

import argparse

from rltune.device_commands.adapting import adapter_of, add_spec, print_plan, spec_from
from rltune.devices.adapter import Applied
from rltune.devices.difference import Plan, read_plan
from rltune.nouns.errors import InputError
from rltune.report.console import say

RESET = 5
"""Exit status: begun, and waits for a reset."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_spec(parser, "desired state (YAML, JSON, mig-parted's), or a plan that `plan --out` kept")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, and do nothing")
    parser.add_argument(
        "--mig-mode", action="store_true", help="MIG modes may be turned on or off where the spec says so"
    )
    parser.add_argument("--tenant", metavar="NAME", help="instances that this tenant holds may go")


def run(args: argparse.Namespace) -> int:
    """Apply; 0, or 5 where a GPU must be reset before all is done."""
    plan = read_plan(args.spec)
    if plan is not None and args.config is not None:
        raise InputError(f"{args.spec}: --config {args.config} is for mig-parted's format; this file is a plan")
    spec = spec_from(args) if plan is None else None
    with adapter_of(args) as adapter:
        if not args.dry_run:
            # Of these GPUs only: one that is lost elsewhere must not stop the others.
            named = spec.by_gpu(args.driver.gpus()) if spec is not None else _gpus(plan)
            for line in adapter.recover(named):
                say(f"note: {line}")
        if spec is not None:
            plan = adapter.plan(spec, args.tenant)
        assert plan is not None
        print_plan(plan)
        if args.dry_run:
            adapter.check(plan, args.mig_mode, args.tenant)
            print("Dry run: nothing was changed.")
            return 0
        return report(adapter.apply(plan, args.mig_mode, args.tenant))


def _gpus(plan: Plan | None) -> list[str]:
    return [] if plan is None else [gpu.uuid for gpu in plan.gpus]


def report(done: Applied) -> int:
    """What was done, on the screen; the exit status."""
    for note in done.notes:
        say(f"note: {note}")
    if done.retries:
        say(f"note: something was in use or slow: {done.retries} calls were tried again")
    if done.resets:
        gpus = ", ".join(map(str, done.resets))
        say(
            f"MIG mode of GPU {gpus} waits for a reset: end what runs on it, nvidia-smi --gpu-reset -i {gpus.replace(' ', '')}, "
            "then apply again"
        )
        return RESET
    if done.transaction is not None:
        print(f"Applied and verified (transaction {done.transaction}).")
    return 0
