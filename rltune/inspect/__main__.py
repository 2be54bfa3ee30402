"""The command: `rltune inspect RUN [OTHER]`."""

from __future__ import annotations

import socket
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from rltune.inspect.app import make_app
from rltune.inspect.recorded import Load, schedules_in
from rltune.nouns.errors import InputError

USAGE = """python -m rltune.inspect RUN [OTHER] [port=PORT] [open=false]

A page on this machine (127.0.0.1 only) that steps through a run directory of simulate, evaluate or mig batch; of two, both
on one clock. port=0 (the default) takes any free port; open=false does not start a browser. Ctrl-C ends it.

examples:
  rltune inspect runs/simulate-helios-las
  rltune inspect runs/simulate-helios-las runs/simulate-helios-fifo port=8010 open=false"""


def main(words: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C; the exit status."""
    words = sys.argv[1:] if words is None else list(words)
    if {"-h", "--help"} & set(words):
        print(f"usage: {USAGE}")
        return 0
    try:
        runs, port, opens = options_of(words)
        loads = all_of(runs)
        # What cannot be read is told here rather than on the page.
        first = next(iter(loads.values()))()
        loads[next(iter(loads))] = lambda: first
        listener = listening(port)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    print(f"{first.title}\npage      {url}   (Ctrl-C ends it)", flush=True)
    if opens:
        webbrowser.open(url)
    config = uvicorn.Config(make_app(loads), log_level="warning", access_log=False, server_header=False)
    uvicorn.Server(config).run(sockets=[listener])
    return 0


def options_of(words: Sequence[str]) -> tuple[list[Path], int, bool]:
    """Run directories, port, and whether a browser is started; InputError."""
    runs = [Path(word) for word in words if not word.startswith(("port=", "open="))]
    given = dict(word.split("=", 1) for word in words if word.startswith(("port=", "open=")))
    if not 1 <= len(runs) <= 2:
        raise InputError(f"{len(runs)} run directories; name one or two: {USAGE.splitlines()[0]}")
    port, opens = given.get("port", "0"), given.get("open", "true")
    if not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise InputError(f"port={port}; a whole number from 0 to 65535 is needed")
    if opens not in ("true", "false"):
        raise InputError(f"open={opens}; true or false is needed")
    return runs, int(port), opens == "true"


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
    except OSError as error:
        raise InputError(f"port={port}: cannot listen there ({error.strerror}); port=0 takes any") from None


if __name__ == "__main__":
    sys.exit(main())
