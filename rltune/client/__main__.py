"""``python -m rltune.client``: ask the live service: submit, look, cancel, acquire, release, drain, why.

RLTUNE_URL and RLTUNE_TOKEN say where the service is and who asks (else the address and the token file of `rltune.serve`).
Without a command it answers the line protocol ``acquire user-1 3g``, ``release user-1`` on standard input (`rltune.mig serve`).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import httpx

from rltune.client import commands
from rltune.client.http import Client, ClientError

URL = "http://127.0.0.1:8471"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m rltune.client", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--url", default=os.environ.get("RLTUNE_URL", URL), help="of the service (RLTUNE_URL)")
    top.add_argument("--token", help="who asks; better RLTUNE_TOKEN, which other users of the machine cannot see")
    top.add_argument("--ca", help="file with the certificate that the service's own is signed with")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="the answer as JSON")
    rooms = top.add_subparsers(metavar="COMMAND")

    def command(name: str, act: Callable[[Client, argparse.Namespace], None], says: str) -> argparse.ArgumentParser:
        made = rooms.add_parser(name, help=says, description=says, parents=[common])
        made.set_defaults(act=act)
        return made

    _jobs(command)
    _leases(command)
    _cluster(command)
    command("lines", commands.lines, "the line protocol on standard input").set_defaults(json=False)
    top.set_defaults(act=commands.lines, json=False)
    return top


Adder = Callable[[str, Callable[[Client, argparse.Namespace], None], str], argparse.ArgumentParser]


def _jobs(command: Adder) -> None:
    one = command("submit", commands.submit, "submit a job: submit [--gpus N ...] -- PROGRAM ARGUMENT ...")
    for name, kind in (
        ("gpus", int),
        ("array", int),
        ("retries", int),
        ("priority", int),
        ("share", float),
        ("cpus", float),
    ):
        one.add_argument(f"--{name}", type=kind)
    for name in ("memory_gb", "slice_memory_gb", "estimate_s", "limit_s", "grace_s"):
        one.add_argument(f"--{name.replace('_', '-')}", dest=name, type=float)
    for name in ("profile", "name", "directory", "user", "tenant", "key"):
        one.add_argument(f"--{name}")
    one.add_argument("--suspend", choices=("checkpoint", "stop", "never"))
    one.add_argument(
        "--gpu-type", dest="gpu_types", action="append", help="one that will do; several times for several"
    )
    one.add_argument("--env", action="append", default=[], help="NAME=VALUE, or NAME of this environment")
    one.add_argument("--file", help="JSON of a job, or a list of them; - for standard input")
    one.add_argument("-f", "--follow", action="store_true", help="print what it prints; end as it ends")
    one.add_argument("command", nargs=argparse.REMAINDER)
    command("status", commands.status, "a job or lease").add_argument("id", nargs="+")
    many = command("list", commands.listed, "jobs and leases, newest first")
    many.add_argument("--state")
    many.add_argument("--tenant")
    many.add_argument("--kind", default="all", choices=("job", "lease", "all"))
    many.add_argument("--most", type=int, default=50)
    log = command("logs", commands.logs, "what a job printed")
    log.add_argument("id")
    log.add_argument("-f", "--follow", action="store_true")
    log.add_argument("--run", type=int)
    log.add_argument("--rank", type=int, default=0)
    log.add_argument("--tail", type=int, help="bytes")
    command("cancel", commands.cancel, "end jobs or leases").add_argument("id", nargs="+")
    for name, says in (("why", "why it waits"), ("when", "when it will start")):
        command(name, commands.explained(name), says).add_argument("id")
    ask = command("what-if", commands.what_if, "what would be if")
    ask.add_argument("question", help='JSON, such as \'{"policy": "sjf"}\'')
    command("plan", commands.explained("plan"), "what is planned now")
    command("queue", commands.explained("queue"), "who waits, in the policy's order")


def _leases(command: Adder) -> None:
    one = command("acquire", commands.acquire, "hold a MIG slice, or whole GPUs")
    one.add_argument("profile", nargs="?", help="such as 3g; without it whole GPUs")
    one.add_argument("--gpus", type=int)
    one.add_argument("--wait-s", dest="wait_s", type=float, help="how long to wait for it; default: now or not at all")
    one.add_argument("--ttl-s", dest="ttl_s", type=float, help="it ends after so long unless renewed")
    one.add_argument("--gpu-type", dest="gpu_types", action="append")
    for name in ("name", "tenant", "key"):
        one.add_argument(f"--{name}")
    command("release", commands.cancel, "give leases back").add_argument("id", nargs="+")
    longer = command("renew", commands.renew, "hold a lease longer")
    longer.add_argument("id")
    longer.add_argument("--ttl-s", dest="ttl_s", type=float, required=True)


def _cluster(command: Adder) -> None:
    command("nodes", commands.nodes, "nodes and their GPUs").add_argument("node", nargs="?")
    out = command("drain", commands.drain, "take a node out of service")
    out.add_argument("node")
    out.add_argument("--reason")
    command("undrain", commands.undrain, "put it back").add_argument("node")
    rule = command("policy", commands.policy, "what decides, or another one from now on")
    rule.add_argument("policy", nargs="?")
    rule.add_argument("--backfill")
    rule.add_argument("--allocator")
    rule.add_argument("--shadow", help="a policy that is only written down beside; off: none")
    rule.add_argument("--rollback", action="store_true", help="the one before")
    happens = command("events", commands.events, "what has happened")
    happens.add_argument("-f", "--follow", action="store_true", help="what happens from now on (or --since)")
    happens.add_argument("--since", type=int)
    happens.add_argument("--job")
    happens.add_argument("--what")


def token_of(given: str | None) -> str | None:
    """The token to ask with: given, of the environment, or of the file that a service of this user has written."""
    if given or os.environ.get("RLTUNE_TOKEN"):
        return given or os.environ["RLTUNE_TOKEN"]
    state = os.environ.get("RLTUNE_STATE") or (
        "/var/lib/rltune" if os.geteuid() == 0 else os.path.expanduser("~/.local/state/rltune")
    )
    try:
        return (Path(state) / "service" / "operator.token").read_text().strip()
    except OSError:
        return None


def fail(message: str) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(1)


def main(words: list[str] | None = None) -> None:
    args = parser().parse_args(words)
    try:
        args.act(Client(args.url, token_of(args.token), args.ca), args)
    except ClientError as error:
        fail(str(error))
    except (OSError, ValueError, httpx.InvalidURL) as error:
        fail(f"{error}; see --help")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
