"""``python -m rltune.devices show``: GPUs, MIG instances, processes and what still fits, for people or as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from rltune.devices.inventory import GpuFound, Inventory, inventory
from rltune.nouns.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 100
"""Least width of tables: a pipe or a narrow terminal would break UUIDs apart."""
GIB = 1024**3
UNKNOWN = "?"
"""In a cell: the driver did not tell; the notes say why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--json", action="store_true", help="everything as JSON, for programs")
    parser.add_argument("--gpu", type=int, nargs="+", metavar="N", help="these GPUs only, by number")
    parser.add_argument(
        "--profiles", action="store_true", help="also what each GPU can be cut into, and what still fits"
    )
    parser.add_argument(
        "--check", action="store_true", help="compare the driver's profiles with rltune's table; exit status 1 if they differ"
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Read and print ``args.driver``; 0, or 1 where ``--check`` found the driver at odds with the table."""
    found = inventory(args.driver, args.gpu)
    checks = [compare(gpu) for gpu in found.gpus] if args.check else []
    if args.json:
        value = found.as_json() | ({"table_checks": checks} if args.check else {})
        print(json.dumps(value, indent=2))
    else:
        _print(found, args.profiles)
        for check in checks:
            print("\n".join(_check_lines(check)))
    return int(any(check["agrees"] is False for check in checks))


def compare(gpu: GpuFound) -> dict[str, Any]:
    """The driver's listing against the table of the GPU's type: ``agrees`` None where there is nothing to compare, and why."""
    # NumPy comes with the tables; `show` alone does without.
    from rltune.devices.driver_tables import driver_geometry
    from rltune.mig.geometry import Listed, differences, from_driver

    check: dict[str, Any] = {
        "gpu": gpu.identity.index,
        "model": gpu.model,
        "agrees": None,
        "differences": [],
        "why": None,
    }
    if gpu.model is None:
        return check | {"why": f"{gpu.identity.name} is not in the table"}
    if not gpu.rooms:
        return check | {"why": "the driver lists no profiles (MIG is off, or they could not be read)"}
    profiles = [room.profile for room in gpu.rooms]
    try:
        listed = [Listed(p.name, p.starts, p.size, p.most) for p in profiles]
        lines = differences(from_driver(gpu.model, listed), driver_geometry(gpu.model))
    except InputError as error:
        lines = [str(error)]
    return check | {"agrees": not lines, "differences": lines}


def _check_lines(check: dict[str, Any]) -> list[str]:
    head = f"GPU {check['gpu']}"
    if check["agrees"] is None:
        return [f"{head}: not compared: {check['why']}"]
    if check["agrees"]:
        return [f"{head}: the driver's profiles are those of the table of {check['model']}"]
    return [f"{head}: the driver's word wins; {line}" for line in check["differences"]]


def _print(found: Inventory, profiles: bool) -> None:
    # Rich takes a while to load, and --json does without.
    from rich.console import Console

    console = Console(highlight=False)
    console.width = max(console.width, WIDTH)
    versions = found.versions
    told = (("driver", versions.driver), ("NVML", versions.nvml), ("CUDA", versions.cuda))
    line = ", ".join(f"{name} {version}" for name, version in told if version)
    console.print(f"{len(found.gpus)} GPUs of {found.kind}: {line or 'versions unknown'}", markup=False)
    tables = [_gpus(found), _identities(found), _instances(found), _processes(found)]
    for table in [*tables, *([_profiles(found)] if profiles else [])]:
        if table.row_count:
            console.print(table)
    for note in found.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)


def _table(title: str, *columns: str) -> Table:
    """A column whose head begins with ``>`` is of numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        # A UUID is there to be copied: rather the others break.
        justify: Literal["left", "right"] = "right" if column.startswith(">") else "left"
        table.add_column(column.removeprefix(">"), justify=justify, no_wrap="UUID" in column)
    return table


def _gpus(found: Inventory) -> Table:
    table = _table("GPUs", ">GPU", "name", "MIG", ">memory GiB", ">busy %", ">power W", ">°C", ">processes")
    for gpu in found.gpus:
        told = gpu.telemetry
        memory = f"{_gib(told.memory_used_bytes)} / {_gib(told.memory_total_bytes)}"
        cells = (_number(told.utilization_percent), _number(told.power_w), _number(told.temperature_c))
        processes = UNKNOWN if "processes" in gpu.unread else str(len(gpu.processes))
        table.add_row(str(gpu.identity.index), gpu.identity.name or UNKNOWN, mig_text(gpu), memory, *cells, processes)
    return table


def mig_text(gpu: GpuFound) -> str:
    """``on``, ``off``, ``none`` (the GPU has no MIG), or that it changes with the next reset."""
    if gpu.mig is None:
        return UNKNOWN if "MIG mode" in gpu.unread else "none"
    now, then = ("on" if flag else "off" for flag in (gpu.mig.current, gpu.mig.pending))
    return now if now == then else f"{now}, {then} after reset"


def _identities(found: Inventory) -> Table:
    table = _table("names", ">GPU", "UUID", "bus", "type in rltune's tables")
    for gpu in found.gpus:
        one = gpu.identity
        table.add_row(str(one.index), one.uuid or UNKNOWN, one.bus_id or UNKNOWN, gpu.model or "none of them")
    return table


def _instances(found: Inventory) -> Table:
    """A row a compute instance; a GPU instance without any has one too, since no job can use it."""
    table = _table("MIG instances", ">GPU", "instance", ">GI", ">CI", ">compute slices", "MIG UUID")
    for gpu in found.gpus:
        for one in gpu.instances:
            head = (str(gpu.identity.index), f"{one.profile}@{one.start}", str(one.id))
            for inside in one.compute_instances:
                table.add_row(*head, str(inside.id), str(inside.compute), inside.uuid or UNKNOWN)
            if not one.compute_instances:
                table.add_row(*head, "-", "-", "no compute instance: no job can use it")
    return table


def _processes(found: Inventory) -> Table:
    from rich.text import Text

    table = _table("processes", ">GPU", ">GI", ">CI", ">PID", "name", ">memory MiB")
    for gpu in found.gpus:
        for process in gpu.processes:
            inside = ("-" if n is None else str(n) for n in (process.gpu_instance, process.compute_instance))
            memory = UNKNOWN if process.memory_bytes is None else f"{process.memory_bytes / 1024**2:.0f}"
            # A process may call itself anything, markup and the terminal's own commands among it.
            name = Text("".join(c if c.isprintable() else UNKNOWN for c in process.name or UNKNOWN))
            table.add_row(str(gpu.identity.index), *inside, str(process.pid), name, memory)
    return table


def _profiles(found: Inventory) -> Table:
    columns = (
        ">GPU",
        "profile",
        ">id",
        ">compute",
        ">memory slices",
        ">MiB",
        "starts",
        ">most",
        ">room",
        "free starts",
    )
    table = _table("profiles, and how many more of each would fit now", *columns)
    for gpu in found.gpus:
        for room in gpu.rooms:
            p = room.profile
            numbers = (str(n) for n in (p.id, p.compute, p.size, p.memory_mb))
            cells = (spans(p.starts), str(p.most), str(room.more), spans(room.free_starts))
            table.add_row(str(gpu.identity.index), p.name, *numbers, *cells)
    return table


def spans(numbers: Iterable[int]) -> str:
    """``0-3 5`` for 0, 1, 2, 3, 5; ``-`` for none."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = [f"{run[0]}-{run[-1]}" if len(run) > 2 else " ".join(map(str, run)) for run in runs]
    return " ".join(words) or "-"


def _gib(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value / GIB:.1f}"


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.0f}"
