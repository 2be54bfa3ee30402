"""Wall clocks of logs: with a UTC offset, without, or as seconds since 1970; one kind in one file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from rltune.nouns.errors import InputError
from rltune.traces.table import one_line

EPOCH_DIGITS = (9, 10)
"""Digits of seconds since 1970 from 1973 to 2286; more are milliseconds or finer."""


class WallClock:
    """Reads the times of one file and refuses those that cannot be compared with the ones before.

    ``writes``: how the log's maker writes times, for messages.
    """

    def __init__(self, writes: str) -> None:
        self.writes = writes
        self._aware: bool | None = None

    def read(self, text: object, column: str, place: str) -> datetime:
        """One time; InputError names ``place`` and ``column`` for what is none, and for milliseconds."""
        found = self._parsed(text, column, place)
        aware = found.tzinfo is not None
        if self._aware is not None and aware != self._aware:
            has, had = ("a", "none") if aware else ("no", "one")
            raise InputError(
                f"{place}: {column} is {text!r} with {has} UTC offset, times before it have {had}: their order is not known; "
                "write all alike"
            )
        self._aware = aware
        return found

    def notes(self, origin: datetime) -> tuple[str, ...]:
        """What must be told about the dates of a trace that begins at ``origin``."""
        if origin.tzinfo is None:
            return ()
        return (f"times are told with their UTC offset; dates here are those of {origin.strftime('%z') or 'UTC'}",)

    def _parsed(self, text: object, column: str, place: str) -> datetime:
        if not isinstance(text, str):
            raise InputError(f"{place}: {column} is {one_line(repr(text))}, which is no time; {self.writes}")
        if text.isdecimal() and len(text) >= EPOCH_DIGITS[0]:
            if len(text) > EPOCH_DIGITS[1]:
                raise InputError(
                    f"{place}: {column} is {one_line(text)!r}: seconds since 1970 have {EPOCH_DIGITS[1]} digits, these are milliseconds "
                    "or finer; divide them"
                )
            return datetime.fromtimestamp(int(text), UTC)
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            raise InputError(f"{place}: {column} is {one_line(text)!r}, which is no time; {self.writes}") from None


def seconds_since(times: Sequence[datetime]) -> tuple[list[float], datetime]:
    """Seconds of each (n,) after the earliest, and that one."""
    origin = min(times)
    return [(time - origin).total_seconds() for time in times], origin


def local(origin: datetime) -> datetime:
    """The wall clock that people read, without its offset."""
    return origin.replace(tzinfo=None)
