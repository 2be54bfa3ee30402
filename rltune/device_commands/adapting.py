"""What the commands that plan and change have in common: an adapter from options, specs from files, plans on the screen."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rltune.devices.adapter import Adapter
from rltune.devices.difference import GpuPlan, Plan
from rltune.devices.spec import Spec, read_spec
from rltune.nouns.errors import InputError

COLOURS = {"+": "32", "-": "31", "~": "33"}
"""ANSI colours of what comes, goes and changes."""


@contextmanager
def adapter_of(args: argparse.Namespace) -> Iterator[Adapter]:
    """The adapter that the device options describe; only its journal is closed with it."""
    for option in ("wait", "patience"):
        value = getattr(args, option)
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"--{option} {value}: a number of seconds from 0 is needed")
    adapter = Adapter(args.driver, locks=args.locks, patience_s=args.patience, wait_s=args.wait)
    try:
        yield adapter
    finally:
        adapter.close()


def add_spec(parser: argparse.ArgumentParser, what: str = "desired state, YAML or JSON; or mig-parted's file") -> None:
    """The file that says what should be."""
    parser.add_argument("spec", metavar="FILE", help=what)
    parser.add_argument("--config", metavar="NAME", help="which configuration of mig-parted's file")


def spec_from(args: argparse.Namespace) -> Spec:
    return read_spec(args.spec, args.config)


def print_plan(plan: Plan) -> None:
    """A plan as people read it: what goes (-), comes (+), changes (~) and stays, a GPU after the other."""
    for gpu in plan.gpus:
        print(f"GPU {gpu.index} ({gpu.name}, {gpu.uuid})")
        for line in _lines(gpu):
            print("  " + line)
    steps = [step.action for gpu in plan.gpus for step in gpu.steps]
    if not steps:
        print("Nothing to do: the GPUs are as they should be.")
        return
    kept = sum(len(gpu.kept) for gpu in plan.gpus)
    modes = steps.count("enable") + steps.count("disable")
    print(
        f"Plan: {steps.count('destroy')} to destroy, {steps.count('create')} to create, {kept} kept"
        f"{f', {modes} MIG modes to change' if modes else ''}, on {len(plan.changes)} of {len(plan.gpus)} GPUs."
    )


def _lines(gpu: GpuPlan) -> Iterator[str]:
    if gpu.before.mig is None:
        yield "= no MIG: left alone"
    signs = {"destroy": "-", "create": "+", "enable": "~", "disable": "~"}
    for step in gpu.steps:
        sign = signs[step.action]
        yield _coloured(sign, f"{sign} {step}")
    for one in gpu.kept:
        who = gpu.used.get(str(one))
        yield f"= keep {one}" + (f" (in use: {who})" if who else "")


def _coloured(sign: str, text: str) -> str:
    # Python has no standard output where whoever started it closed that.
    plain = sys.stdout is None or not sys.stdout.isatty() or "NO_COLOR" in os.environ
    return text if plain else f"\033[{COLOURS[sign]}m{text}\033[0m"
