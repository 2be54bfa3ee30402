"""``python -m rltune.devices history``: the journal, the newest first."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime
from typing import Any

from rltune.device_commands.adapting import adapter_of
from rltune.devices.journal import Journal, Transaction
from rltune.nouns.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--most", type=int, default=20, metavar="N", help="so many (default 20)")
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")


def run(args: argparse.Namespace) -> int:
    """Print transactions and their steps; 0."""
    if args.most < 1:
        raise InputError(f"--most {args.most}: a number from 1 is needed")
    with adapter_of(args) as adapter:
        found = [_as_json(adapter.journal, one) for one in adapter.journal.recent(min(args.most, sys.maxsize))]
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    for one in found:
        print(
            f"{one['id']}  {one['begun']}  pid {one['pid']}  {one['outcome']}{': ' + one['note'] if one['note'] else ''}"
        )
        for step in one["steps"]:
            print(f"      {step['gpu']}  {step['step']}")
    if not found:
        print("Nothing was applied yet.")
    return 0


def _as_json(journal: Journal, one: Transaction) -> dict[str, Any]:
    begun = datetime.fromtimestamp(one.begun).isoformat(timespec="seconds")
    steps = [{"gpu": gpu, "step": step} for gpu, step in journal.steps(one.id)]
    return {"id": one.id, "begun": begun, "pid": one.pid, "outcome": one.outcome, "note": one.note, "steps": steps}
