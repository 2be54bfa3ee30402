"""Answers as people read them."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any


def show(args: argparse.Namespace, answer: Any, text: str) -> None:
    print(json.dumps(answer, indent=1) if args.json else text, flush=True)


def told(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def what_of(record: dict[str, Any]) -> str:
    """What a job or lease asks for, in a word."""
    spec = record["spec"]
    if "profile" in spec or "slice_memory_gb" in spec:
        return str(spec.get("profile") or f"{spec['slice_memory_gb']:g} GB slice")
    if "share" in spec:
        return f"{spec['share']:g} GPU"
    return f"{spec.get('gpus', 1)} GPU"


def where_of(record: dict[str, Any]) -> str:
    """What it holds now."""
    if record["state"] not in ("running", "starting"):
        return ""
    return " ".join(f"{x['node']}:{','.join(map(str, x['gpus']))}{slice_of(x)}" for x in record["places"])


def slice_of(place: dict[str, Any]) -> str:
    return f"/{place['profile']}" if place["profile"] else ""


def gpus_of(node: dict[str, Any]) -> str:
    """A sign a GPU."""
    return "".join("/" if gpu["instances"] else "#" if gpu["held_by"] else "." for gpu in node["gpus"])


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Columns as wide as they need be."""
    widths = [max(len(str(row[k])) for row in [head, *rows]) for k in range(len(head))]
    return "\n".join(
        "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, *rows]
    )


def clock(seconds: float | None) -> str:
    return "-" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def line_of(event: dict[str, Any]) -> str:
    more = {key: value for key, value in event.items() if key not in ("seq", "at_s", "what", "job", "tenant")}
    shown = " ".join(f"{key}={told(value)}" for key, value in more.items() if value not in (None, "", []))
    return f"{clock(event['at_s'])} {event['what']:12} {event['job'] or '-':12} {shown}".rstrip()


def outline(value: Any, indent: str = "") -> str:
    """Nested values as lines."""
    if isinstance(value, dict):
        parts = [
            f"{indent}{key}: {told(each)}"
            if not isinstance(each, dict | list) or not each
            else f"{indent}{key}:\n{outline(each, indent + '  ')}"
            for key, each in value.items()
        ]
        return "\n".join(parts)
    if isinstance(value, list):
        return "\n".join(f"{indent}- {outline(each, indent + '  ').lstrip()}" for each in value)
    return f"{indent}{told(value)}"
