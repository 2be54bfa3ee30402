"""What users write as strict models, and the one road from pydantic's refusals to `InputError`.

A model is a class of `Checked` fields, or a plain frozen dataclass whose ``__post_init__`` calls `check_fields`. A field says
with `Says` what it accepts; the message is then ``FILE: line 3: task a: timeout_s=-1; seconds above 0 are needed``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any, ClassVar, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    TypeAdapter,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from rltune.nouns.documents import Document
from rltune.nouns.errors import InputError

LONGEST = 80
"""Characters of a value in a message."""
NAMED = ("tasks", "pools")
"""Lists whose entries have names of their own: ``tasks[0]`` is called ``task a``."""


class Checked(BaseModel):
    """Fields as they are declared: nothing is converted ("8" is no number), nothing unknown is taken, nothing changes later."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, hide_input_in_errors=True
    )  # fmt: skip
    accepted: ClassVar[str] = "a mapping is needed"
    """What to write instead of what is no mapping."""

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, value: Any) -> Any:
        """Version first (another one has other keys), then what is unknown: a slip there is why something else is missing."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            _refuse(f"={shown(value)}; {cls.accepted}")
        fields = {field.alias or name: field for name, field in cls.model_fields.items()}
        for name, field in fields.items():
            if name.endswith("version") and get_origin(field.annotation) is Literal:
                (known,) = get_args(field.annotation)
                if value.get(name) != known or type(value[name]) is not type(known):
                    _refuse(f"{name} {shown(value.get(name))} is unknown; this release reads {name}: {known}", name)
        refuse_unknown(value, fields)
        for name, field in fields.items():
            if field.is_required() and name not in value:
                says = "".join(f"; {one.accepted}" for one in field.metadata if isinstance(one, Says))
                _refuse(f"{name} is missing{says}")
        return value


def refuse_unknown(value: Mapping[Any, Any], known: Mapping[str, Any]) -> None:
    """For validators: the first key that is unknown, with the known one that it resembles."""
    for key in value:
        if key not in known:
            near = get_close_matches(str(key)[:LONGEST], known, 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            _refuse(f"{shown(key)} is unknown; known are {', '.join(known)}{meant}", key)


def _refuse(what: str, key: Any = None) -> NoReturn:
    """``what`` with ``=`` in front follows the name of its field; ``key`` of the mapping at whose line it stands."""
    raise PydanticCustomError("refused", "{what}", {"what": what, "key": key})


@dataclass(frozen=True, slots=True)
class Says:
    """``Annotated[int, Field(ge=1), Says("at least 1 is needed")]``: what a field accepts, for every refusal of it."""

    accepted: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def check(value: Any, inner: core_schema.ValidatorFunctionWrapHandler) -> Any:
            try:
                return inner(value)
            except ValidationError as error:
                # What validators of ours say of a part of it is better than what is said of the whole.
                if _own(error):
                    raise
                _refuse(f"={shown(value)}; {self.accepted}")

        return core_schema.no_info_wrap_validator_function(check, handler(source))


def _own(error: ValidationError) -> bool:
    return any("what" in told or "error" in told for one in error.errors() for told in [one.get("ctx", {})])


T = TypeVar("T")
adapter = cache(TypeAdapter)


def checked(kind: type[T], document: Document) -> T:
    """The document as a model (or a list or mapping of models); InputError names file, line, place and remedy."""
    try:
        return adapter(kind).validate_python(document.value)  # type: ignore[arg-type, no-any-return]
    except ValidationError as error:
        raise refusal(error, document) from None


def refusal(error: ValidationError, document: Document) -> InputError:
    """The first thing that is wrong, in one line. Validators may raise InputError with words of their own."""
    first = error.errors(include_url=False)[0]
    told = first.get("ctx", {})
    what = str(
        told.get("what")
        or told.get("error")
        or f"={shown(first['input'])}; {first['msg'][0].lower() + first['msg'][1:]}"
    )
    place, line = _place(document, first["loc"], told.get("key"))
    parts = [part for part in (document.place, f"line {line}" if line else "", place) if part]
    if what.startswith("=") and first["loc"]:
        return InputError(": ".join(parts) + what)
    return InputError(": ".join([*parts, what.removeprefix("=")]))


def _place(document: Document, loc: tuple[int | str, ...], key: Any) -> tuple[str, int | None]:
    words: list[str] = []
    at, line = document.value, None
    for step in loc:
        if step == "[key]":
            break
        lines = document.lines.get(id(at), {})
        line = lines.get(step, line)
        try:
            at = at[step]
        except (LookupError, TypeError):
            at = None
        if not isinstance(step, int) or not words:
            words.append(str(step) if _plain(step) else shown(step))
            continue
        line = min(document.lines.get(id(at), {}).values(), default=line)
        name = at.get("name") if isinstance(at, Mapping) else None
        named = words[-1] in NAMED and isinstance(name, str) and name and _plain(name)
        words[-1] = f"{words[-1][:-1]} {name}" if named else f"{words[-1]}[{step}]"
    return ": ".join(filter(None, words)), document.lines.get(id(at), {}).get(key, line)


def _plain(step: Any) -> bool:
    """Whether it can stand in a message as it is."""
    return len(str(step)) <= LONGEST and str(step).isprintable()


def shown(value: Any) -> str:
    """A value in a message: short, in one line."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def model_of(noun: type, **defaults: Any) -> type[Checked]:
    """The model of a dataclass, by its annotations; ``defaults`` for fields that need not be in a file."""
    hints = get_type_hints(noun, include_extras=True)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(noun):
        given = defaults.get(field.name, ... if field.default is dataclasses.MISSING else field.default)
        if field.default_factory is not dataclasses.MISSING:
            given = field.default_factory()
        fields[field.name] = (hints[field.name], given)
    return create_model(noun.__name__, __base__=Checked, __doc__=noun.__doc__, **fields)


_model_of: Any = cache(model_of)


def check_fields(noun: Any, place: str = "") -> None:
    """For ``__post_init__`` of a frozen dataclass: each field is, or becomes, what its annotation says."""
    given = {field.name: getattr(noun, field.name) for field in dataclasses.fields(noun)}
    found = checked(_model_of(type(noun)), Document(place, given))
    for name, value in given.items():
        if getattr(found, name) is not value:
            object.__setattr__(noun, name, getattr(found, name))
