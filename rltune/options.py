"""Whether options are of the kind that is needed: one clear line each, before anything is loaded."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

import yaml

from rltune.allocators.greedy import rule_code
from rltune.allocators.sharing_rules import SHARING_RULES
from rltune.config import CONF, names
from rltune.errors import InputError
from rltune.metrics import check_score
from rltune.traces import TRACES

STRETCHES = ("train", "validate", "test")
KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    Mapping: "a mapping of sizes or names to numbers",
    bool: "true or false",
    NoneType: "null",
}
"""What an option may be, as messages say it."""


def check_common(cfg: Mapping[str, Any]) -> None:
    """Refuse what no entry point can use, also where a checkpoint's own rules take its place."""
    check_allocator(cfg["allocator"])
    for option in ("score", "oversized", "runs"):
        check_text(option, cfg[option])
    check_score(cfg["score"])
    check_whole("seed", cfg["seed"], 0)
    check_whole("protocol.window", cfg["protocol"]["window"], 1)
    check_whole("protocol.warmup", cfg["protocol"]["warmup"], 0)
    protocol = cfg["protocol"]
    nodes = cfg["nodes"] if cfg.get("nodes") is not None else protocol["nodes"]
    counts = nodes if isinstance(nodes, list | tuple) else [] if nodes is None else [nodes]
    if nodes is not None and not counts:
        raise InputError("nodes=[]; a whole number of at least 1, or a list of them, is needed")
    if not all(is_whole(count, 1) for count in counts) or len(set(counts)) < len(counts):
        raise InputError(f"nodes={nodes!r}; a whole number of at least 1, or a list of different ones, is needed")
    scales = protocol["train_scale"]
    if not isinstance(scales, list | tuple) or not scales or not all(_is_kind(x, float) and 0 < x <= 1 for x in scales):
        raise InputError(
            f"protocol.train_scale={scales!r}; a list of numbers above 0 and at most 1 is needed, e.g. [1.0]"
        )


def check_text(option: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise InputError(f"{option}={value!r}; a text is needed (see --help for the choices)")


def check_whole(option: str, value: Any, least: int) -> None:
    if not is_whole(value, least):
        raise InputError(f"{option}={value!r}; a whole number of at least {least} is needed")


def is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_like(given: Any, default: Any, option: str) -> None:
    """Refuse options that the defaults do not know, or of another kind than theirs (None there: anything)."""
    if isinstance(default, Mapping):
        for name, value in given.items():
            if name not in default:
                raise InputError(f"option {option}.{name} is unknown; known are {', '.join(default)}")
            check_like(value, default[name], f"{option}.{name}")
        return
    kind = type(default)
    if default is None or (kind is bool and isinstance(given, bool)):
        return
    if kind is bool or not _is_kind(given, kind):
        needed = "true or false" if kind is bool else KINDS.get(kind, f"a {kind.__name__}")
        raise InputError(f"{option}={given!r}; {needed} is needed")


def check_allocator(node: Mapping[str, Any], simulated: bool = False) -> None:
    """Refuse options that the allocator of conf/allocator does not take, and values it refuses.

    ``simulated``: for `rltune.simulate`, which also takes the rules for shared GPUs.
    """
    for name in names("allocator"):
        default = yaml.safe_load((CONF / "allocator" / f"{name}.yaml").read_text())
        if default["_target_"] == node["_target_"] and (name == "milp") == ("rule" not in node):
            check_like(node, default, "allocator")
            break
    if "rule" in node and not (simulated and node["rule"] in SHARING_RULES):
        rule_code(node["rule"])


def check_trace_options(node: Mapping[str, Any]) -> None:
    """Refuse options of the wrong kind, by the signature of the trace's loader (unknown ones are left to it)."""
    for name in STRETCHES:
        if node.get(name) is not None and not isinstance(node[name], list | tuple):
            raise InputError(f"trace.{name}={node[name]!r}; a pair is needed, e.g. trace.{name}=[0.75,1.0]")
    for option in ("path", "name_or_path"):
        if node.get(option) is not None:
            check_text(f"trace.{option}", node[option])
    loader = TRACES.get(node.get("path") or node.get("name_or_path") or "")
    accepted = inspect.signature(loader, eval_str=True).parameters if loader else {}
    for option, parameter in accepted.items():
        kinds = _kinds(parameter.annotation)
        if option in node and not any(_is_kind(node[option], kind) for kind in kinds):
            needed = " or ".join(dict.fromkeys(KINDS[_plain(kind)] for kind in kinds))
            raise InputError(f"trace.{option}={node[option]!r}; needed is {needed}")
    if "seed" in node:
        check_whole("trace.seed", node["seed"], 0)


def _kinds(annotation: Any) -> list[Any]:
    """The plain types a loader's parameter may have, e.g. ``Mapping[int, float] | None`` -> [Mapping[int, float], NoneType]."""
    parts = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    return [part for part in parts if _plain(part) in KINDS]


def _plain(kind: Any) -> Any:
    return get_origin(kind) or kind


def _is_kind(value: Any, kind: Any) -> bool:
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    if _plain(kind) is Mapping:
        of_key = get_args(kind)[0]  # int: sizes of gangs; float: priorities; str: names
        return isinstance(value, Mapping) and all(
            (is_whole(key, 1) if of_key is int else _is_kind(key, of_key)) and _is_kind(x, float)
            for key, x in value.items()
        )
    return isinstance(value, kind)
