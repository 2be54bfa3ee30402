"""``python -m rltune.devices tenants [claim|release GPU INSTANCE NAME]``: who holds which instance."""

from __future__ import annotations

import argparse
import json
from datetime import datetime

from rltune.device_commands.adapting import adapter_of
from rltune.devices.driver import Driver
from rltune.devices.state import parse_instance
from rltune.nouns.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("action", nargs="?", choices=("list", "claim", "release"), default="list")
    parser.add_argument("gpu", nargs="?", metavar="GPU", help="number or UUID")
    parser.add_argument("instance", nargs="?", metavar="INSTANCE", help="such as 3g.40gb@4")
    parser.add_argument("tenant", nargs="?", metavar="NAME")
    parser.add_argument(
        "--pid", type=int, metavar="PID", help="claim: until this process ends (default: until released)"
    )
    parser.add_argument("--json", action="store_true", help="list: as JSON, for programs")


def run(args: argparse.Namespace) -> int:
    """List, claim or release; 0."""
    with adapter_of(args) as adapter:
        if args.action == "list":
            if args.gpu is not None:
                raise InputError(f"tenants list {args.gpu}: list takes no further words; see --help")
            rows = [
                {"gpu": t.gpu, "instance": f"{t.profile}@{t.start}", "tenant": t.tenant, "pid": t.pid,
                 "since": datetime.fromtimestamp(t.since).isoformat(timespec="seconds")}
                for t in adapter.tenants()
            ]  # fmt: skip
            _print(rows, args.json)
            return 0
        if args.tenant is None:
            raise InputError(f"tenants {args.action}: name GPU, instance and tenant, such as: 0 3g.40gb@4 alice")
        gpu, one = _uuid(args.driver, args.gpu), parse_instance(args.instance)
        if args.action == "claim":
            adapter.claim(gpu, one, args.tenant, args.pid)
        else:
            adapter.release(gpu, one, args.tenant)
    return 0


def _print(rows: list[dict[str, str | int | None]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        until = "until released" if row["pid"] is None else f"while pid {row['pid']} runs"
        print(f"{row['gpu']}  {row['instance']}  {row['tenant']}  since {row['since']}, {until}")
    if not rows:
        print("Nobody holds an instance.")


def _uuid(driver: Driver, name: str) -> str:
    found = [gpu.uuid for gpu in driver.gpus() if name in (gpu.uuid, str(gpu.index))]
    if not found:
        raise InputError(f"there is no GPU {name}; `show` lists what is there")
    return found[0]
