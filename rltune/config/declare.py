"""One declaration an option: a field of a dataclass says its default, what it means (for --help) and what it may be.

`option` declares one, `part` a node of several (``network.hidden``), `group` a node chosen by name (``algo=ppo``).
`defaults` is what Hydra gets, `check` refuses in one line what does not fit, `help_lines` is what --help shows.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import MISSING, Field, dataclass, field, fields
from datetime import date
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from rltune.nouns.errors import InputError
from rltune.nouns.renamed import refuse_old_runtimes

KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    Mapping: "a mapping of sizes or names to numbers",
    bool: "true or false",
    NoneType: "null",
}
"""What an option may be, as messages say it."""
INDENT = "  "
COMMENT_AT = 29
"""Column of the comments in --help."""


@dataclass(frozen=True)
class Meta:
    """What a declaration says beside name, type and default.

    ``least``, ``most``: inclusive, ``above``: exclusive bounds of a number, or of each in a list; ``choices``: of a text, or of
    each in a list; ``needs``: what a refusal says instead of what follows from the type. ``part``: dataclass of a node, less
    the fields ``without``; ``group``: whether the value is the name of a node.
    """

    says: str = ""
    choices: tuple[Any, ...] = ()
    least: float | None = None
    most: float | None = None
    above: float | None = None
    needs: str = ""
    part: Any = None
    without: tuple[str, ...] = ()
    group: bool = False


def option(default: Any, says: str = "", **more: Any) -> Any:
    """A field of a declaration; ``more`` as in `Meta`."""
    meta = {"meta": Meta(says, **more)}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: deepcopy(default), metadata=meta)
    return field(default=default, metadata=meta)


def part(declared: type, says: str = "", without: Sequence[str] = ()) -> Any:
    """A node with the options that a dataclass declares, which is made of them to check them."""
    return field(default=None, metadata={"meta": Meta(says, part=declared, without=tuple(without))})


def group(default: str, says: str = "") -> Any:
    """A node chosen by name."""
    return field(default=default, metadata={"meta": Meta(says, group=True)})


def default_of(owner: Any, name: str) -> Any:
    """The default of a parameter of a function or a field of a dataclass, for options that stand for it."""
    return inspect.signature(owner).parameters[name].default


def declared_in(declared: type, without: Sequence[str] = ()) -> Iterator[tuple[str, Field[Any], Meta]]:
    """(option, field, its `Meta`) of each. A trailing underscore is for names that Python reserves: ``lambda_``."""
    for each in fields(declared):
        if each.init and each.name not in without:
            yield each.name.rstrip("_"), each, each.metadata.get("meta", Meta())


def defaults(declared: type, without: Sequence[str] = ()) -> dict[str, Any]:
    """Every option with its default, as plain values; groups are left out."""
    out: dict[str, Any] = {}
    for name, each, meta in declared_in(declared, without):
        if meta.part is not None:
            out[name] = defaults(meta.part, meta.without)
        elif not meta.group:
            out[name] = each.default if each.default_factory is MISSING else each.default_factory()
            if isinstance(out[name], tuple):
                out[name] = list(out[name])
    return out


def groups(declared: type) -> dict[str, str]:
    """Groups of a command and their defaults."""
    return {name: str(each.default) for name, each, meta in declared_in(declared) if meta.group}


# --- checking -------------------------------------------------------------------------


def check(declared: type, given: Any, path: str = "", without: Sequence[str] = ()) -> None:
    """Refuse options that are not declared, or of another kind than declared; one line names option and remedy."""
    if not isinstance(given, Mapping):
        name = path.rstrip(".")
        raise InputError(f"{name}={given!r}; give single ones, e.g. {name}.NAME=VALUE")
    known = {name: (each, meta) for name, each, meta in declared_in(declared, without)}
    hints = get_type_hints(declared)
    for name, value in given.items():
        if name not in known:
            raise unknown(f"{path}{name}", known)
        each, meta = known[name]
        if meta.part is not None:
            check(meta.part, value, f"{path}{name}.", meta.without)
            if hasattr(meta.part, "__post_init__"):
                # Its own checks go beyond the kinds of single values.
                meta.part(**value)
        elif not meta.group:
            check_value(f"{path}{name}", value, hints[each.name], meta)


def unknown(name: str, known: Any) -> InputError:
    place, _, last = name.rpartition(".")
    near = get_close_matches(last, known, 1)
    meant = f"; did you mean {place}{'.' * bool(place)}{near[0]}?" if near else ""
    return InputError(f"option {name} is unknown; known are {', '.join(known)} (see --help){meant}")


def check_value(name: str, value: Any, hint: Any, meta: Meta) -> None:
    """Refuse a value that is not of the declared type, out of bounds, or none of the choices."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    singles = value if isinstance(value, list | tuple) else [value]
    within = all(_within(each, meta) for each in singles if isinstance(each, int | float))
    if not within or not any(is_kind(value, kind) for kind in kinds):
        raise InputError(f"{name}={value!r}; {meta.needs or _needed(kinds, meta)}")
    for each in singles if meta.choices else []:
        if each is not None and each not in meta.choices:
            if name == "runtimes":
                refuse_old_runtimes(each)
            near = get_close_matches(str(each), map(str, meta.choices), 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            needs = (
                f"; {meta.needs}"
                if meta.needs
                else f" is unknown; known are {', '.join(map(str, meta.choices))}{meant}"
            )
            raise InputError(f"{name}={each!r}{needs}")


def _within(value: float, meta: Meta) -> bool:
    return not (
        (meta.least is not None and value < meta.least)
        or (meta.most is not None and value > meta.most)
        or (meta.above is not None and value <= meta.above)
    )


def _needed(kinds: Sequence[Any], meta: Meta) -> str:
    """What a refusal says is needed."""
    bounds = [f"of at least {meta.least:g}"] if meta.least is not None else []
    bounds += [f"above {meta.above:g}"] if meta.above is not None else []
    bounds += [f"of at most {meta.most:g}"] if meta.most is not None else []
    names = list(dict.fromkeys(KINDS[_plain(kind)] for kind in kinds if _plain(kind) in KINDS)) or ["a list"]
    names[0] = " ".join([names[0], " and ".join(bounds)]) if bounds else names[0]
    return f"{' or '.join(names)} is needed" + (" (see --help for the choices)" if names[0] == KINDS[str] else "")


def _plain(kind: Any) -> Any:
    return get_origin(kind) or kind


def is_kind(value: Any, kind: Any) -> bool:
    """Whether a plain value is of a type; a number that is whole is also of type float, true and false of bool alone."""
    if kind is Any:
        return True
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    if kind is str:
        return isinstance(value, str) and bool(value)
    if _plain(kind) in (list, tuple, Sequence):
        of = get_args(kind)[0] if get_args(kind) else Any
        return isinstance(value, list | tuple) and all(is_kind(each, of) for each in value)
    if _plain(kind) is Mapping:
        of_key = get_args(kind)[0]  # int: sizes of gangs; float: priorities; str: names
        return isinstance(value, Mapping) and all(
            (is_kind(key, int) and key >= 1 if of_key is int else is_kind(key, of_key)) and is_kind(each, float)
            for key, each in value.items()
        )
    return isinstance(value, date if kind is date else kind)


def plain_kinds(annotation: Any) -> list[Any]:
    """The plain types a parameter may have, e.g. ``Mapping[int, float] | None`` -> [Mapping[int, float], NoneType]."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return [kind for kind in parts if _plain(kind) in KINDS]


def needed(kinds: Sequence[Any]) -> str:
    return " or ".join(dict.fromkeys(KINDS[_plain(kind)] for kind in kinds))


# --- help -----------------------------------------------------------------------------


def help_lines(
    declared: type, without: Sequence[str] = (), values: Mapping[str, Any] | None = None, indent: str = ""
) -> Iterator[str]:
    """``name: default   # what it means`` of each option; ``values``: instead of the declared defaults."""
    from_docstring = _attributes(declared)
    for name, each, meta in declared_in(declared, without):
        says = meta.says or from_docstring.get(each.name, "").replace("None", "null").rstrip(".")
        if meta.choices and "|" not in says:
            says = "; ".join([" | ".join(map(str, meta.choices)), *([says] if says else [])])
        if meta.part is not None:
            yield _line(f"{indent}{name}:", says)
            yield from help_lines(meta.part, meta.without, None, indent + INDENT)
            continue
        value = (values or {}).get(name, defaults(declared).get(name, each.default))
        yield _line(f"{indent}{name}: {_shown(value)}", says)


def _line(left: str, says: str) -> str:
    return f"{left.ljust(COMMENT_AT - 1)} # {says}" if says else left


def _shown(value: Any) -> str:
    """As one types it on the command line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shown(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_shown, value)) + "]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _attributes(declared: type) -> dict[str, str]:
    """What a docstring says under ``Attributes:``, by name; a line may be of several (``suspend_s, resume_s: ...``)."""
    _, found, text = inspect.cleandoc(declared.__doc__ or "").partition("Attributes:\n")
    out: dict[str, str] = {}
    for entry in re.split(r"\n {4}(?=\w)", "\n" + text) if found else []:
        names, colon, says = " ".join(entry.split()).partition(": ")
        if colon and re.fullmatch(r"\w+(, \w+)*", names):
            out |= dict.fromkeys(names.split(", "), says)
    return out
