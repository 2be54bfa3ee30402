"""The view in the terminal: queue and why, GPUs and slices as they fill, running jobs, events; without a terminal plain lines."""

from __future__ import annotations

import threading
import time
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rltune.client.show import what_of
from rltune.live.looking import RUNNING, Look, Picture

LOOKS_S = 0.5
COLOURS = (
    "cyan",
    "magenta",
    "green",
    "yellow",
    "blue",
    "red",
    "bright_cyan",
    "bright_magenta",
    "bright_green",
    "bright_yellow",
)
SLICES = 8
"""Memory slices of a GPU, a sign each; of the types with four each is two signs."""
QUEUED = 10


def show(look: Look, over: threading.Event, *, plain: bool, every_s: float, page: str) -> float:
    """Until the time or ``over`` comes; when the first picture stood there, on the monotonic clock."""
    console = Console()
    if plain or not console.is_terminal:
        return lines(look, over, every_s)
    first = 0.0
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while not (over.is_set() or look.over):
            live.update(view(look.picture(), page), refresh=True)
            first = first or time.monotonic()
            over.wait(LOOKS_S)
    return first


# --- plain lines ----------------------------------------------------------------------------------


def lines(look: Look, over: threading.Event, every_s: float) -> float:
    first = 0.0
    while not (over.is_set() or look.over):
        print(line_of(look.picture()), flush=True)
        first = first or time.monotonic()
        over.wait(every_s)
    return first or time.monotonic()


def line_of(now: Picture) -> str:
    """A picture in one line."""
    cluster, done = now.cluster, now.counters
    why = next((f"; {job} waits: {reason}" for job, reason in now.why.items() if reason), "")
    return (
        f"{now.elapsed_s:5.0f} s  {now.submitted} of {now.coming} jobs came, {len(now.running)} run, {now.queue['waiting']} wait; "
        f"{cluster['gpus_held']} of {cluster['gpus']} GPUs held, {instances_of(cluster)} slices; {done['suspended']:.0f} suspensions, "
        f"{done['refused_by_device']:.0f} refused, {done['lost']:.0f} lost{why}"
    )


def instances_of(cluster: dict[str, Any]) -> int:
    return sum(len(gpu["instances"]) for node in cluster["nodes"] for gpu in node["gpus"])


# --- the view -------------------------------------------------------------------------------------


def view(now: Picture, page: str) -> RenderableType:
    """A picture on the whole screen."""
    whole, middle, right = Layout(), Layout(name="middle"), Layout(name="right")
    whole.split_column(Layout(head(now, page), size=3), middle)
    middle.split_row(Layout(name="left", ratio=3), right)
    middle["left"].split_column(Layout(waiting(now), ratio=3), Layout(events(now), ratio=2))
    right.split_column(Layout(gpus(now), size=gpu_lines(now.cluster)), Layout(running(now)))
    right.ratio = 2
    return whole


def head(now: Picture, page: str) -> RenderableType:
    done = now.counters
    leases = ", ".join(f"{count} {what}" for what, count in now.leases.items())
    runs = f"{done['started']:.0f} runs started, {done['suspended']:.0f} suspended"
    bad = done["refused_by_device"] + done["lost"]
    text = Text.assemble(
        (f"{now.elapsed_s:.0f} of {now.all_s:.0f} s, x{now.speed:g}", "bold"),
        f"   {now.submitted} of {now.coming} jobs came, {runs}; leases {leases}; ",
        (f"{done['refused_by_device']:.0f} refused, {done['lost']:.0f} lost", "red" if bad else "green"),
    )
    return Panel(text, title="rltune live: simulated GPUs, real processes", subtitle=page)


def waiting(now: Picture) -> RenderableType:
    """The queue in its order; of the first ones why they wait."""
    table = Table(box=None, expand=True, pad_edge=False)
    for name in ("", "job", "asks for", "tenant", "why"):
        table.add_column(name, no_wrap=name != "why")
    for k, one in enumerate(now.queue["first"][:QUEUED]):
        asked = one["mig"] or f"{one['gpus']} GPU"
        table.add_row(
            str(k + 1), Text(one["id"], colour(one["id"])), asked, one["tenant"] or "", now.why.get(one["id"], "")
        )
    return Panel(table, title=f"queue: {now.queue['waiting']} wait")


def gpu_lines(cluster: dict[str, Any]) -> int:
    return sum(1 + len(node["gpus"]) for node in cluster["nodes"][:4]) + 2


def gpus(now: Picture) -> RenderableType:
    """Each GPU as a row of memory slices, coloured by who holds them."""
    rows: list[Text] = []
    for node in now.cluster["nodes"][:4]:
        style = "bold" if node["state"] == "open" else "bold red"
        rows.append(
            Text(f"{node['name']} {node['gpu_type']} {'' if node['state'] == 'open' else node['state']}", style)
        )
        rows += [gpu_of(gpu) for gpu in node["gpus"]]
    held = f"{now.cluster['gpus_held']} of {now.cluster['gpus']} GPUs, {instances_of(now.cluster)} slices"
    return Panel(Group(*rows), title=held)


def gpu_of(gpu: dict[str, Any]) -> Text:
    """``[####....]``: whole; of a GPU in slices each one by its profile, free places as dots."""
    text = Text(f"  {gpu['gpu']} ")
    if not gpu["instances"]:
        holder = gpu["held_by"][0] if gpu["held_by"] else None
        text.append(("█" if holder else "·") * 2 * SLICES, colour(holder))
        text.append(f" {' '.join(gpu['held_by'])}")
        return text
    at = 0
    for one in sorted(gpu["instances"], key=lambda x: x["start"]):
        text.append("· " * (one["start"] - at))
        width = memory_slices(one["profile"])
        text.append(
            one["profile"].split(".")[0].ljust(2 * width - 1, "▒" if one["held_by"] else "_")[: 2 * width - 1] + " ",
            colour(one["held_by"]),
        )
        at = one["start"] + width
    text.append("· " * max(0, SLICES - at))
    text.append(" " + " ".join(one["held_by"].removeprefix("job-") for one in gpu["instances"] if one["held_by"]))
    return text


def memory_slices(profile: str) -> int:
    """Of A100 and H100: 3g takes four of the eight, 1g with double memory two."""
    compute = int(profile.split("g")[0])
    return {1: 1, 2: 2, 3: 4, 4: 4, 7: 8}.get(compute, compute)


def colour(job: str | None) -> str:
    if job is None:
        return "dim"
    return COLOURS[sum(job.encode()) % len(COLOURS)]


def running(now: Picture) -> RenderableType:
    """Jobs with a bar, as their logs say how far they are."""
    table = Table(box=None, expand=True, pad_edge=False, show_header=False)
    for ratio in (None, None, 1, None):
        table.add_column(ratio=ratio, no_wrap=True)
    for job in now.running[:RUNNING]:
        done = now.progress.get(job["id"])
        bar = ProgressBar(total=100, completed=done or 0)
        where = " ".join(f"{x['node']}:{','.join(map(str, x['gpus']))}" for x in job["places"])
        profile = job["places"][0]["profile"] if job["places"] else None
        table.add_row(Text(job["id"], colour(job["id"])), profile or what_of(job), bar, f"{where} run {job['runs']}")
    return Panel(table, title=f"{len(now.running)} run")


def events(now: Picture) -> RenderableType:
    rows = []
    for one in now.events:
        more = one.get("why") or " ".join(one.get("nodes") or ()) or one.get("reason") or ""
        rows.append(
            Text(
                f"{time.strftime('%H:%M:%S', time.localtime(one['at_s']))} {one['what']:10} {one['job'] or '':10} {more}",
                "",
                no_wrap=True,
            )
        )
    rows += [Text(error, "red") for error in now.errors[-2:]]
    return Panel(Group(*rows), title="events")
