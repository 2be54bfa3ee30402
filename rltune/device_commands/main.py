"""``python -m rltune.devices COMMAND``: options, the device, and errors as one line.

Exit status: 0 done; 1 differs (`verify`, `show --check`), a task failed (`run`, `profile`), or something was refused
(`rehearse`); 2 refused, nothing was changed; 3 failed, everything is as it was before (`run`, `profile`: trouble with the
device, told in the summary); 4 failed, and not yet settled; 5 a GPU must be reset before all is done (`apply`); 129, 130, 143
interrupted.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rltune.device_commands.watchdog import watched
from rltune.devices.open import open_device
from rltune.nouns.errors import InputError

COMMANDS = {
    "show": ("show", "GPUs, MIG instances, processes, and what still fits"),
    "watch": ("watch", "sample utilisation, power and memory to a Parquet file"),
    "plan": ("plan", "what would have to change for a spec"),
    "apply": ("apply", "change it, all or nothing"),
    "clear": ("clear", "destroy the MIG instances that nobody uses"),
    "verify": ("verify", "whether the GPUs are as a spec says"),
    "export": ("export", "the present state as a spec, ours or mig-parted's"),
    "recover": ("recover", "settle an apply that was cut short"),
    "history": ("history", "what was applied, and how it ended"),
    "tenants": ("tenants", "who holds which instance; claim and release"),
    "rehearse": ("rehearse", "a simulation's MIG slices on simulated GPUs"),
    "run": ("run", "run tasks on the instances of a plan"),
    "profile": ("profile", "run tasks once per slice size, and write down how long they take"),
    "schema": ("schema", "the JSON schema of specs, lists of tasks and clusters, for editors"),
}
"""Command -> its module here, and what it does."""
WITHOUT_DEVICE = ("rehearse", "schema")
"""Commands that bring their own."""


class Parser(argparse.ArgumentParser):
    """Errors as one line, like all others."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Run a command, and exit with its status."""
    given = sys.argv[1:] if words is None else list(words)
    signal.signal(signal.SIGTERM, _terminated)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        # A terminal that is lost; under nohup it is ignored.
        signal.signal(signal.SIGHUP, _terminated)
    try:
        status = _run(given)
        if sys.stdout is not None:
            sys.stdout.flush()
        sys.exit(status)
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(getattr(error, "exit_status", 2))
    except KeyboardInterrupt:
        print("error: interrupted; if something was being changed, `recover` says what became of it", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        # Python would complain once more at its own end.
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            sys.exit(141)
        print(f"error: the output cannot be written ({error.strerror}); what was to be done is done", file=sys.stderr)
        sys.exit(1)


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def _run(words: Sequence[str]) -> int:
    command = next((word for word in words if word in COMMANDS), None)
    parser = _parser(command)
    args = parser.parse_args(words)
    # Each command loads what it needs: only one of them runs, and `show` should not wait for the planner.
    module = import_module(f"rltune.device_commands.{COMMANDS[args.command][0]}")
    if args.command in WITHOUT_DEVICE:
        return int(module.run(args))
    with watched(args.call_timeout) as watch:
        args.driver = open_device(args.device, pace=args.pace)
        watch(args.driver)
        args.watch = watch
        try:
            return int(module.run(args))
        finally:
            args.driver.close()


def _parser(command: str | None) -> Parser:
    """Options of the command that is asked for; of the others only their names."""
    parser = Parser(prog="python -m rltune.devices", description="GPUs and MIG instances: read, plan, change, use.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name, (module, does) in COMMANDS.items():
        sub = commands.add_parser(name, help=does, description=does[0].upper() + does[1:] + ".")
        if name == command:
            if name not in WITHOUT_DEVICE:
                _common(sub)
            import_module(f"rltune.device_commands.{module}").add_arguments(sub)
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("device")
    group.add_argument(
        "--device", default=os.environ.get("RLTUNE_DEVICE", "nvml"), metavar="NAME",
        help="nvml (default), or a rehearsal: simulated:2xa100-80gb,a30 (kept between commands; also RLTUNE_DEVICE)",
    )  # fmt: skip
    group.add_argument(
        "--pace", type=float, default=1.0, metavar="X",
        help="simulated: share of the documented seconds that creating and destroying takes (default 1)",
    )  # fmt: skip
    group.add_argument(
        "--wait", type=float, default=0.0, metavar="S", help="wait so long for another adapter (default 0)"
    )
    group.add_argument(
        "--patience", type=float, default=5.0, metavar="S", help="wait so long in all for what is in use (default 5)"
    )  # fmt: skip
    group.add_argument(
        "--call-timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="give up a driver that does not answer (default 60)",
    )
    group.add_argument(
        "--locks", type=Path, metavar="DIR", help="folder of the GPUs' locks (default /run/lock, else /tmp)"
    )
