"""What options were called before, so that an old command line says in one line what to write now."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from rltune.nouns.errors import InputError

OPTIONS = {
    "discipline": "backfill",
    "disciplines": "backfill",
    "knowledge": "runtimes",
    "policies": "policy",
    "order": "baseline",
}
"""Old name -> name now."""
RUNTIMES = {"known": "exact", "none": "unknown"}
"""Old value of ``runtimes`` -> value now."""


def refuse_old_options(given: Mapping[str, Any], known: Collection[str]) -> None:
    """InputError for an option whose new name is among ``known`` and that is not; it shows what to write instead."""
    for name, value in given.items():
        new = OPTIONS.get(name)
        if new is not None and new in known and name not in known:
            raise InputError(f"option {name} is now {new}: use {new}={_now(new, value)}")


def refuse_old_runtimes(value: Any) -> None:
    """InputError for a value of ``runtimes`` that has another name now."""
    if isinstance(value, str) and value in RUNTIMES:
        raise InputError(f"runtimes={value} is now called {RUNTIMES[value]}: use runtimes={RUNTIMES[value]}")


def translated(rules: Mapping[str, Any]) -> dict[str, Any]:
    """Rules of a stored policy in the words of today; without a message, since no user typed them."""
    out = {OPTIONS.get(name, name): value for name, value in rules.items()}
    if out.get("runtimes") in RUNTIMES:
        out["runtimes"] = RUNTIMES[out["runtimes"]]
    return out


def _now(option: str, value: Any) -> str:
    """The value as one writes it today; an array is not shown."""
    if not isinstance(value, str | int | float | list | tuple):
        return "..."
    text = "[" + ",".join(map(str, value)) + "]" if isinstance(value, list | tuple) else str(value)
    return re.sub(r"\w+", lambda m: RUNTIMES.get(m[0], m[0]), text) if option == "runtimes" else text
