"""YAML and JSON that people write, read safely: refused in one line, and soon, where reading could hang or kill."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import yaml

from rltune.nouns.errors import InputError

MOST_BYTES = 16 * 2**20
"""Of a file; the largest lists that were ever wanted have a tenth."""
MOST_REPEATED, TIMES_WRITTEN = 200_000, 4
"""Values that the aliases and merge keys of a YAML file may stand for, all together, and so many more for each value that is written
out: nested aliases double them line by line, while 50,000 tasks may share what is common to them."""
DEEPEST = 32
"""Mappings and lists within each other; a spec has five. Deeper ones overflow the reader's stack."""
LONGEST_NUMBER = 100
"""Characters. Python reads numbers of thousands of digits in quadratic time, and cannot write them."""

MOST_UNPACKED = 4 * 2**30
"""Bytes that a packed file may hold where it is read as a whole."""
MOST_TIMES, FREE = 200, 64 * 2**20
"""A gzip of more than `FREE` bytes unpacked may not be so many times its size: logs pack to a tenth, a bomb to a thousandth."""
GUARDED = ("=", "+", "-", "@", "\t", "\r", "#")
"""Spreadsheets run a cell that begins so, and a row that begins with # is a comment; an apostrophe before it makes it text."""


class Document(NamedTuple):
    """What a file holds, as plain values; ``place`` names it in messages; ``lines``: id of a mapping -> key -> its line."""

    place: str
    value: Any
    lines: Mapping[int, Mapping[Any, int]] = {}


def read_bytes(path: str | Path, what: str) -> bytes:
    """A file's content, at most a byte more than `MOST_BYTES`; InputError, which asks for ``what``, where it has none."""
    try:
        with Path(path).open("rb") as file:
            return file.read(MOST_BYTES + 1)
    except OSError as error:
        why = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise InputError(f"{path}: cannot be read ({why}); give {what}") from None


class Gunzip(gzip.GzipFile):
    """A gzip that is read piece by piece, and refused where it unpacks to absurd sizes; ``size`` is that of the packed file."""

    def __init__(self, file: BinaryIO, size: int, name: str, most: int | None = None) -> None:
        super().__init__(fileobj=file, mode="rb")
        self._named, self._out = name, 0
        self._limit = max(FREE, MOST_TIMES * size) if most is None else min(most, max(FREE, MOST_TIMES * size))

    def read(self, size: int | None = -1) -> bytes:
        return self._counted(super().read(size))

    def read1(self, size: int = -1) -> bytes:
        return self._counted(super().read1(size))

    def _counted(self, piece: bytes) -> bytes:
        self._out += len(piece)
        if self._out > self._limit:
            raise InputError(
                f"{self._named}: unpacks to more than {self._limit // 2**20:,} MiB, which no log of its size does; check that it "
                "is the right file, or unpack it yourself"
            )
        return piece


def gunzip(packed: bytes, name: str) -> bytes:
    """What a gzip holds; InputError where it is damaged, or unpacks to absurd sizes."""
    pieces = []
    try:
        with Gunzip(io.BytesIO(packed), len(packed), name, MOST_UNPACKED) as file:
            while piece := file.read(2**20):
                pieces.append(piece)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{name}: damaged gzip ({' '.join(str(error).split())}); fetch it again") from None
    return b"".join(pieces)


def cell(text: Any) -> Any:
    """A text as a cell that no spreadsheet takes for a formula; `uncell` gives the text back."""
    guarded = isinstance(text, str) and text.lstrip("'").startswith(GUARDED)
    return f"'{text}" if guarded else text


def uncell(text: Any) -> Any:
    """The text that `cell` guarded."""
    guarded = isinstance(text, str) and text.startswith("'") and text.lstrip("'").startswith(GUARDED)
    return text[1:] if guarded else text


def text_of(path: str | Path, data: bytes) -> str:
    """Bytes as text; InputError for too many, and for what is no UTF-8."""
    if len(data) > MOST_BYTES:
        raise InputError(f"{path}: larger than {MOST_BYTES // 2**20} MiB; split it, or check that it is the right file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read (byte {error.start} is no UTF-8); save it as UTF-8") from None


def read_yaml(path: str | Path, what: str) -> Document:
    """The document in a file of YAML or JSON; InputError names file, line and remedy."""
    return parse_yaml(path, read_bytes(path, what))


def parse_yaml(path: str | Path, data: bytes) -> Document:
    """The document in bytes of YAML or JSON (of which YAML is a superset)."""
    try:
        reader = _Reader(text_of(path, data))
        return Document(str(path), reader.single(), reader.lines)
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        # Not only YAMLError: a date or a tagged value that is none (2024-13-45, !!int abc) raises what Python raises.
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        if isinstance(error, _Fault):
            raise InputError(f"{path}: {line}{error.problem}") from None
        why = " ".join(str(getattr(error, "problem", None) or error).split())[:120]
        raise InputError(f"{path}: {line}cannot be read as YAML or JSON ({why}); correct it there") from None


def parse_csv(
    path: str | Path, text: str, needed: Mapping[str, str]
) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Columns, and each row with its line, as text without space around it.

    ``needed``: columns that must be there, and the header to write otherwise. InputError names line and remedy.
    """
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        reader.fieldnames = columns = [name.strip() for name in reader.fieldnames or ()]
        for column, header in needed.items():
            if column not in columns:
                raise InputError(f"{path}: line 1: no column {column!r}; the header is {header} or alike")
        if len(set(columns)) < len(columns):
            raise InputError(f"{path}: line 1: a column stands twice; name each once")
        rows = []
        for cells in reader:
            if None in cells or None in cells.values():
                line = f"{path}: line {reader.line_num}"
                raise InputError(f"{line}: as many cells as the header has columns are needed; check the commas")
            rows.append((reader.line_num, {name: cell.strip() for name, cell in cells.items()}))
    except csv.Error as error:
        raise InputError(f"{path}: cannot be read as CSV ({error}); save it as UTF-8 CSV") from None
    return columns, rows


def read_json(path: str | Path, what: str) -> Any:
    """What a JSON file of ours holds; InputError, which asks for ``what``, for other files, and for keys that stand twice."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=_once)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give {what}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}; give {what}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); give {what}") from None


def parse_json(data: bytes, accepted: str) -> Document:
    """The document in bytes of JSON that come from somewhere else: numbers that are numbers, texts that can be written down.

    InputError, which ends with what is ``accepted``, for anything else: NaN, a key twice, nesting that overflows a reader.
    """
    try:
        value = json.loads(
            data.decode(), object_pairs_hook=_once, parse_constant=_no_number, parse_int=_whole, parse_float=_finite
        )
        _check_depth(value)
    except UnicodeDecodeError as error:
        raise InputError(f"byte {error.start} is no UTF-8; {accepted}") from None
    except InputError as error:
        raise InputError(f"{error}; {accepted}") from None
    except RecursionError:
        raise InputError(f"nested more than {DEEPEST} deep; {accepted}") from None
    except ValueError as error:
        raise InputError(f"no JSON ({error}); {accepted}") from None
    return Document("", value)


def _no_number(text: str) -> Any:
    raise InputError(f"{text} is no number of JSON; leave it out, or write null")


def _whole(text: str) -> int:
    if len(text) > LONGEST_NUMBER:
        raise InputError(f"a number of {len(text)} digits; at most {LONGEST_NUMBER} can be meant")
    return int(text)


def _finite(text: str) -> float:
    value = float(text) if len(text) <= LONGEST_NUMBER else math.inf
    if math.isinf(value):
        raise InputError(f"the number {text[:20]} is too large or too long to be meant")
    return value


def _check_depth(value: Any) -> None:
    """Refuse what is nested too deep, and texts with halves of characters, which no file takes."""
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                inner += one.values()
                inner += one
            elif isinstance(one, list):
                inner += one
            elif isinstance(one, str) and not one.isascii() and any("\ud800" <= sign <= "\udfff" for sign in one):
                raise InputError("a text has half a character (a lone surrogate); send UTF-8")
        level = inner
        if not level:
            return
    raise InputError(f"nested more than {DEEPEST} deep")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise InputError(f"the key {_twice(key for key, _ in pairs)!r} stands twice in one mapping")
    return found


def _twice(keys: Iterable[Hashable]) -> Hashable:
    seen: set[Hashable] = set()
    return next(key for key in keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]


class _Fault(yaml.MarkedYAMLError):
    """What is no fault of YAML's own grammar."""


def _refuse(why: str, event: Any) -> NoReturn:
    raise _Fault(None, None, why, event.start_mark)


class _Named(NamedTuple):
    """What an anchor names, and how many values that is with all aliases written out."""

    value: Any
    size: int


class _Reader:
    """Plain values from the events of the parser (libyaml's, where PyYAML has it), counted before they can hang or kill anything.

    No key twice in one mapping (the last would silently win); ``lines`` as in `Document`.
    """

    def __init__(self, text: str) -> None:
        loader: Any = (yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader)(text)
        self._loader, self._next = loader, loader.get_event
        self.lines: dict[int, dict[Any, int]] = {}
        self._anchors: dict[str, _Named | None] = {}
        """None while what it names is being read."""
        self._plain: dict[str, Any] = {}
        """Plain scalars that were met: most come again and again."""
        self._merged: list[Any] = []
        """Merged mappings, kept since `lines` knows mappings by their ids."""
        self._depth = self._written = self._repeated = 0

    def single(self) -> Any:
        """The one document of the text; None where there is none."""
        self._next()
        event = self._next()
        if isinstance(event, yaml.StreamEndEvent):
            return None
        found = self._value(self._next())
        self._next()
        event = self._next()
        if not isinstance(event, yaml.StreamEndEvent):
            _refuse("another document begins here; keep one", event)
        return found

    def _value(self, event: Any) -> Any:
        """One value, and all below it."""
        if isinstance(event, yaml.AliasEvent):
            return self._repeat(event)
        self._written += 1
        if event.anchor is None:
            return self._new(event)
        if event.anchor in self._anchors:
            _refuse(f"the anchor &{event.anchor} stands twice; name each once", event)
        self._anchors[event.anchor] = None
        before = self._written + self._repeated - 1
        found = self._new(event)
        self._anchors[event.anchor] = _Named(found, self._written + self._repeated - before)
        return found

    def _repeat(self, alias: Any) -> Any:
        if alias.anchor not in self._anchors:
            _refuse(f"*{alias.anchor} names nothing; write &{alias.anchor} before what it means", alias)
        named = self._anchors[alias.anchor]
        if named is None:
            _refuse(f"*{alias.anchor} stands within what it names; write it out", alias)
        self._repeated += named.size
        if self._repeated > MOST_REPEATED + TIMES_WRITTEN * self._written:
            _refuse(
                f"{self._repeated:,} values with aliases written out, of {self._written:,} in the file; split it", alias
            )
        return named.value

    def _new(self, event: Any) -> Any:
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        self._depth += 1
        if self._depth > DEEPEST:
            _refuse(f"nested more than {DEEPEST} deep; no file here needs that", event)
        mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", f"{_TAG}{'map' if mapping else 'seq'}"):
            _refuse(f"could not determine a constructor for the tag {event.tag[:100]!r}", event)
        found = self._mapping() if mapping else self._list()
        self._depth -= 1
        return found

    def _list(self) -> list[Any]:
        found = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            found.append(self._value(event))
        return found

    def _mapping(self) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        lines: dict[Any, int] = {}
        merged: list[dict[Any, Any]] | None = None
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            merges = isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]
            key = "<<" if merges else self._value(event)
            if not isinstance(key, Hashable):
                _refuse("a list or mapping as a key; a text or number is needed", event)
            if merged is not None if merges else key in found:
                _refuse(f"the key {key!r} stands twice in one mapping: keep one", event)
            if merges:
                merged = self._sources(event)
            else:
                lines[key] = event.start_mark.line + 1
                found[key] = self._value(self._next())
        # What stands here overrides what is merged; of several that are merged, the first wins.
        for source in merged or ():
            for key, value in source.items():
                if key not in found:
                    found[key] = value
                    lines[key] = self.lines[id(source)][key]
        self.lines[id(found)] = lines
        return found

    def _sources(self, merge: Any) -> list[dict[Any, Any]]:
        """The mappings behind a merge key."""
        value = self._value(self._next())
        sources = value if isinstance(value, list) else [value]
        if not all(isinstance(source, dict) for source in sources):
            _refuse("<< takes a mapping, or a list of mappings", merge)
        self._merged += sources
        return sources

    def _scalar(self, event: Any) -> Any:
        """The value; those of quoted and block texts as they stand."""
        plain = event.tag is None and event.implicit[0]
        if plain and event.value in self._plain:
            return self._plain[event.value]
        tag = event.tag
        if tag is None or tag == "!":
            tag = self._loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag == f"{_TAG}str":
            value = event.value
        else:
            # Numbers of thousands of digits cannot even be named in a message.
            if tag in (f"{_TAG}int", f"{_TAG}float") and len(event.value) > LONGEST_NUMBER:
                _refuse(f"a value of {len(event.value)} characters; at most {LONGEST_NUMBER} can be meant", event)
            node = yaml.ScalarNode(tag, event.value, event.start_mark, event.end_mark)
            value = self._loader.construct_object(node)
            self._loader.constructed_objects.clear()
        if plain:
            self._plain[event.value] = value
        return value


_TAG = "tag:yaml.org,2002:"
