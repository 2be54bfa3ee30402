"""``python -m rltune.devices plan spec.yaml``: the difference between a spec and the GPUs; nothing is changed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rltune.device_commands.adapting import adapter_of, add_spec, print_plan, spec_from
from rltune.devices.files import write_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_spec(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="keep the plan, for apply: it refuses if the GPUs changed since"
    )
    parser.add_argument("--json", action="store_true", help="the plan as JSON, for programs")


def run(args: argparse.Namespace) -> int:
    """Print the plan; 0."""
    spec = spec_from(args)
    with adapter_of(args) as adapter:
        plan = adapter.plan(spec)
    text = json.dumps(plan.as_json(), indent=1)
    if args.out is not None:
        write_whole(args.out, text + "\n")
    if args.json:
        print(text)
    else:
        print_plan(plan)
    return 0
