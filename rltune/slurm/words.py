"""Slurm's own words: lists of hosts, generic resources, states, times and the numbers of its JSON."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rltune.nouns.errors import InputError

NOTHING = ("", "(null)", "N/A", "n/a", "None")
"""How Slurm writes that there is none."""
MOST_HOSTS = 1_000_000
"""Of one list: ``n[0-99999999]`` is a slip."""
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
OPEN_STATES = ("IDLE", "MIXED", "ALLOCATED")
HARMLESS_FLAGS = ("COMPLETING", "PLANNED", "CLOUD", "DYNAMIC_NORM", "DYNAMIC_FUTURE")
"""Flags of a node's state with which it takes jobs all the same."""


def hosts(text: str) -> list[str]:
    """Names of a list of hosts, in its order: ``n[1-3,07],gpu1`` -> n1 n2 n3 n07 gpu1. InputError for none."""
    if text in NOTHING:
        return []
    found: list[str] = []
    for word in _split(text, "[", "]"):
        parts = re.split(r"\[([^\[\]]*)\]", word)
        if any("[" in part or "]" in part for part in parts) or not word:
            raise InputError(f"{text!r} is no list of hosts; n[1-4],m1 is one")
        choices = [list(_numbers(part, text)) if k % 2 else [part] for k, part in enumerate(parts)]
        if len(found) + math.prod(map(len, choices)) > MOST_HOSTS:
            raise InputError(f"{text!r} lists over {MOST_HOSTS:,} hosts")
        found += ["".join(each) for each in itertools.product(*choices)]
    return found


def _numbers(text: str, whole: str) -> Iterator[str]:
    """``1-3,07`` -> 1 2 3 07; leading zeros stay."""
    for word in text.split(","):
        low, dash, high = word.partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()) or len(low + high) > 30:
            raise InputError(f"{whole!r} is no list of hosts or tasks: {word!r} is no number or range of them")
        first, last = int(low), int(high or low)
        if last - first >= MOST_HOSTS:
            raise InputError(f"{whole!r} lists over {MOST_HOSTS:,}")
        yield from (str(k).zfill(len(low)) for k in range(first, last + 1))


def tasks(text: str) -> tuple[list[int], int | None]:
    """Pending tasks of an array, and how many may run at once: ``1-3,7%2`` -> [1, 2, 3, 7], 2. ``0-8:4`` has a step."""
    listed, _, most = text.partition("%")
    found: list[int] = []
    for word in listed.split(","):
        span, _, step = word.partition(":")
        numbers = [int(each) for each in _numbers(span, text)]
        if step and (not step.isdecimal() or int(step) < 1):
            raise InputError(f"{text!r} is no list of tasks: step {step!r}")
        found += numbers[:: int(step or 1)]
    return found, int(most) if most.isdecimal() else None


def ranges(numbers: Iterable[int]) -> str:
    """The inverse: 1, 2, 3, 7 -> ``1-3,7``."""
    ordered, words = sorted(set(numbers)), []
    for _, group in itertools.groupby(enumerate(ordered), key=lambda each: each[1] - each[0]):
        run = [number for _, number in group]
        words.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ",".join(words)


def gres(text: str) -> dict[str, int]:
    """GPUs of a list of generic resources, by type ("": none is named), in its order.

    ``gpu:a100:8(IDX:0-7),gpu:a100_1g.10gb:7`` -> {"a100": 8, "a100_1g.10gb": 7}; what a job asks (``gres:gpu:2``,
    ``gres/gpu:2``, ``gres/gpu=2``) as well. Other resources than GPUs are left out. InputError for no number.
    """
    found: dict[str, int] = {}
    for word in () if text in NOTHING else _split(text, "(", ")"):
        name, *rest = (
            re.sub(r"\(.*?\)", "", word).removeprefix("gres:").removeprefix("gres/").replace("=", ":").split(":")
        )
        if name != "gpu":
            continue
        kind, count = "", 1
        for part in rest:
            if number := re.fullmatch(r"(\d{1,15})([KMG]?)", part):
                count = int(number[1]) * UNITS[number[2]]
            elif part != "no_consume":
                kind = part
        found[kind] = found.get(kind, 0) + count
    return found


def as_tres(asked: Mapping[str, int], other: Sequence[str] = ()) -> str:
    """GPUs by type in the words of a job log, which `rltune.traces.slurm_tres` reads: ``gres/gpu:a100=2``."""
    words = [f"gres/gpu:{kind}={count}" if kind else f"gres/gpu={count}" for kind, count in asked.items()]
    return ",".join([*words, *other])


def other_gres(text: str) -> list[str]:
    """What a list of generic resources asks beside GPUs, in the words of a job log: ``gres:mps:50`` -> gres/mps=50."""
    found = []
    for word in () if text in NOTHING else _split(text, "(", ")"):
        name, *rest = word.removeprefix("gres:").removeprefix("gres/").replace("=", ":").split(":")
        if name != "gpu":
            found.append(f"gres/{name}={rest[-1] if rest and rest[-1].isdecimal() else 1}")
    return found


def _split(text: str, opening: str, closing: str) -> list[str]:
    """At commas outside of brackets."""
    words, depth, begin = [], 0, 0
    for at, letter in enumerate(text):
        depth += (letter == opening) - (letter == closing)
        if letter == "," and depth == 0:
            words.append(text[begin:at])
            begin = at + 1
    return [*words, text[begin:]]


def takes_jobs(state: str) -> bool:
    """Whether a node in this state (``MIXED+DRAIN``, ``IDLE*``) may be given jobs."""
    base, *flags = state.split("+")
    return base in OPEN_STATES and all(flag in HARMLESS_FLAGS for flag in flags)


def number(value: Any, infinite: float = math.inf) -> float:
    """A number of Slurm's JSON: plain, null (0), or a mapping of later data parsers that says whether it is set."""
    if isinstance(value, Mapping):
        if value.get("infinite"):
            return infinite
        value = value.get("number") if value.get("set", True) else 0
    try:
        return float(value or 0)
    except (TypeError, ValueError):
        return 0.0


def word(value: Any) -> str:
    """A text of Slurm's JSON, or the first of a list of them; "" for none."""
    if isinstance(value, list):
        value = value[0] if value else ""
    return "" if value is None or str(value) in NOTHING else str(value)


def fields(line: str) -> dict[str, str]:
    """A line of ``scontrol show ... -o`` by name. A value may hold blanks; it ends where the next ``Name=`` begins."""
    marks = list(re.finditer(r"(?:(?<=\s)|^)([A-Za-z][\w/:]*)=", line))
    ends = [mark.start() for mark in marks[1:]] + [len(line)]
    return {mark[1]: line[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)}
