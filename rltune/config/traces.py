"""Nodes of conf/trace: which jobs, and which stretches of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from rltune.config.declare import Meta, check_value, is_kind, needed, plain_kinds
from rltune.config.files import named, read_conf
from rltune.nouns.errors import InputError
from rltune.traces import TRACES

STRETCHES = ("train", "validate", "test")


def trace_node(trace: Any) -> dict[str, Any]:
    """The conf/trace node: composed by ``+trace=name``, or looked up where only a name was given; checked."""
    known = ", ".join(named("trace"))
    if trace is None:
        raise InputError(f"no trace given; add +trace=helios (known: {known})")
    if isinstance(trace, str):
        if trace not in named("trace"):
            raise InputError(
                f"trace={trace} is unknown; use +trace=NAME with one of {known}, or +trace=file trace.path=..."
            )
        return read_conf("trace", trace)
    node = dict(trace)
    if "path" not in node and "name_or_path" not in node:
        raise InputError(f"trace.{next(iter(node))} is given, but no trace; add +trace=helios (known: {known})")
    if "path" in node and node["path"] in (None, "???"):
        raise InputError("trace.path is not set; use +trace=file trace.path=jobs.csv")
    check_trace_options(node)
    return node


def check_trace_options(node: Mapping[str, Any]) -> None:
    """Refuse options of the wrong kind, by the signature of the trace's loader (unknown ones are left to it)."""
    for name in STRETCHES:
        if node.get(name) is not None and not isinstance(node[name], list | tuple):
            raise InputError(f"trace.{name}={node[name]!r}; a pair is needed, e.g. trace.{name}=[0.75,1.0]")
    for option in ("path", "name_or_path"):
        check_value(f"trace.{option}", node.get(option), str | None, Meta())
    loader = TRACES.get(node.get("path") or node.get("name_or_path") or "")
    accepted = inspect.signature(loader, eval_str=True).parameters if loader else {}
    for option, parameter in accepted.items():
        kinds = plain_kinds(parameter.annotation)
        if option in node and not any(is_kind(node[option], kind) for kind in kinds):
            raise InputError(f"trace.{option}={node[option]!r}; needed is {needed(kinds)}")
    if "seed" in node:
        check_value("trace.seed", node["seed"], int, Meta(least=0))
