"""Step through a run of simulate, evaluate or mig batch on a local page: queue, nodes, why jobs waited; two runs on one clock."""

from __future__ import annotations

import argparse
import socket
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from rltune.inspect.app import make_app
from rltune.inspect.recorded import Load, schedules_in
from rltune.nouns.errors import InputError

EXAMPLES = """examples:
  rltune inspect runs/NAME                 a run by itself
  rltune inspect runs/NAME runs/OTHER      two on one clock
  rltune inspect runs/NAME --port 8010 --no-browser    on a machine without a screen, beside an ssh tunnel

The page is served to this machine only (127.0.0.1); Ctrl-C ends it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C; 0, or 2 with one line on standard error for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m rltune.inspect", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="what simulate, evaluate or mig batch has written")
    parser.add_argument("other", metavar="OTHER_DIR", nargs="?", type=Path, help="another run, beside it")
    parser.add_argument("--port", type=int, default=0, help="of the page (default: any that is free)")
    parser.add_argument("--no-browser", action="store_true", help="only tell the address")
    arguments = parser.parse_args(argv)
    try:
        loads = all_of([arguments.run, *([arguments.other] if arguments.other else [])])
        # What cannot be read is told here rather than on the page.
        label, load = next(iter(loads.items()))
        first = load()
        loads[label] = lambda: first
        listener = listening(arguments.port)
    except InputError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    print(f"run       {first.title}\npage      {url}   (Ctrl-C ends it)", flush=True)
    if not arguments.no_browser:
        webbrowser.open(url)
    config = uvicorn.Config(make_app(loads), log_level="warning", access_log=False, server_header=False)
    uvicorn.Server(config).run(sockets=[listener])
    return 0


def all_of(runs: Sequence[Path]) -> dict[str, Load]:
    """The schedules of all run directories; labels tell two of one name apart."""
    loads: dict[str, Load] = {}
    for run in runs:
        for label, load in schedules_in(run).items():
            loads[label if label not in loads else f"{run}: {label}"] = load
    return loads


def listening(port: int) -> socket.socket:
    """A socket of this machine only; InputError where the port is taken."""
    try:
        return socket.create_server(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"--port {port}: cannot listen there ({why}); --port 0 takes any that is free") from None


if __name__ == "__main__":
    sys.exit(main())
