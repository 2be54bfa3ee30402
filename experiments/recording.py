"""What every record of an experiment says alike: the command as it was given, the machine as it was, and its part of a file."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def command() -> str:
    """The command that is running, as it is to be given again in the checkout."""
    return " ".join(["python", f"experiments/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def machine() -> str:
    """Cores, memory and load of this machine now."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {platform.machine()}, {memory:.0f} GiB, load average {os.getloadavg()[0]:.1f}"


def write_part(name: str, found: dict[str, Any], file: str = "service") -> dict[str, Any]:
    """Put ``found``, with command and machine, into its part of results/FILE.json, whose other parts stay; the part."""
    path = RESULTS / f"{file}.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept[name] = {"command": command(), "machine": machine()} | found
    path.write_text(json.dumps(kept, indent=1) + "\n")
    part: dict[str, Any] = kept[name]
    return part


def write_text(name: str, title: str, about: str | None, lines: list[str]) -> None:
    """results/NAME.md: a heading, what was done, command and machine, and the tables."""
    head = [f"# {title}", "", (about or "").strip(), "", f"Command: `{command()}`. Machine: {machine()}.", ""]
    (RESULTS / f"{name}.md").write_text("\n".join([*head, *lines]) + "\n")
