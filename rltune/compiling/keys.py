"""What a kernel is compiled from, as a hash: it changes when any of that does, and with nothing else.

Machine code that outlives a change of what it was compiled from writes past the
ends of arrays. So a key covers everything that Numba reads: the bytecode of the
kernel, and for each global name in it the value, the fields of a NamedTuple, the
members of an enum, or the function of ours with all that *it* uses. All of it is
taken from memory, as Numba does: the source file may have changed since its
import. What cannot be described is not kept on disk at all (``Undescribed``).
"""

from __future__ import annotations

import builtins
import dis
import enum
import functools
import hashlib
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core import config, sigutils, types
from numba.core.dispatcher import Dispatcher

FOREIGN = sys.stdlib_module_names | {"numba", "numpy", "llvmlite"}
"""Top-level modules that change only with their version, which every key includes."""
PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))
GENERATED = {"_make", "_replace", "_asdict", "_fields", "_field_defaults", "_fields_defaults", "__new__"}
"""What ``typing.NamedTuple`` adds to a class."""
SETTINGS = (
    "OPT", "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "ENABLE_AVX", "USING_SVML",
    "LLVM_REFPRUNE_PASS", "LLVM_REFPRUNE_FLAGS", "EXTEND_VARIABLE_LIFETIMES",
)  # fmt: skip
"""Numba's settings that change the machine code."""


class Undescribed(Exception):
    """Something that a kernel uses cannot be described: its machine code must not outlive the process."""


def source_key(dispatcher: Dispatcher, machine: tuple[str, ...]) -> str:
    """Hash of all that a kernel is compiled from, except the types of its arguments; ``machine``: what it is for."""
    versions = (sys.version, numba.__version__, llvmlite.__version__, np.__version__)
    settings = tuple((name, repr(getattr(config, name, None))) for name in SETTINGS)
    return _Description().hash((versions, settings, machine, dispatcher))


def types_key(signature: Any) -> str:
    """Hash of the types of a kernel's arguments; Numba's own equality does not see a NamedTuple's fields."""
    arguments, returned = sigutils.normalize_signature(signature)
    return _Description().hash((tuple(arguments), returned))


class _Description:
    """A text that determines everything reachable from a value.

    Functions, classes and objects are numbered in the order in which they are
    first met and described once each, so that the text is finite where they call
    each other, and differs where two of the same name change places.
    """

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}
        self.met: list[Any] = []  # keeps them alive, so that no other gets the same id
        self.waiting: deque[Any] = deque()

    def hash(self, root: Any) -> str:
        digest = hashlib.sha256(self.value(root).encode())
        while self.waiting:
            digest.update(f"\n{self.described(self.waiting.popleft())}".encode())
        return digest.hexdigest()

    def number(self, thing: Any) -> str:
        """Stands for a function, class or object, which is described once, later."""
        if id(thing) not in self.numbers:
            self.numbers[id(thing)] = len(self.numbers)
            self.met.append(thing)
            self.waiting.append(thing)
        return f"#{self.numbers[id(thing)]}"

    def all(self, things: Any) -> str:
        return "(" + ", ".join(self.value(thing) for thing in things) + ")"

    def value(self, thing: Any) -> str:
        """In full where that is short; else a number."""
        kind = type(thing)
        if kind in PLAIN:
            return f"{kind.__name__} {thing!r}"
        if kind in (tuple, list, deque):
            return kind.__name__ + self.all(thing)
        if kind in (set, frozenset):
            return kind.__name__ + str(sorted(self.value(item) for item in thing))
        if kind is dict:
            return "dict" + self.all(thing.items())
        if isinstance(thing, types.Type):
            return self.numba_type(thing)
        if isinstance(thing, np.ndarray) and thing.dtype != object:
            return (
                f"array {thing.dtype.descr} {thing.shape} {thing.strides} {hashlib.sha256(thing.tobytes()).hexdigest()}"
            )
        if isinstance(thing, np.generic | np.dtype):
            return f"{kind.__name__} {thing!r}"
        if isinstance(thing, enum.Enum):
            return f"{self.number(kind)}.{thing.name}"
        name = _foreign_name(thing)
        return self.number(thing) if name is None else name

    def numba_type(self, kind: Any) -> str:
        """A Numba type, its classes and kernels by what they are now."""
        if isinstance(kind, types.Dispatcher):
            return f"type of {self.number(kind.dispatcher)}"
        if isinstance(kind, types.BaseTuple):
            return f"{type(kind).__name__} {self.value(getattr(kind, 'instance_class', None))} {self.all(kind)}"
        text = f"{type(kind).__name__} {kind} {self.value(getattr(kind, 'instance_class', None))}"
        if " at 0x" in text:
            raise Undescribed(f"the type {kind}")
        return text

    def described(self, thing: Any) -> str:
        """The full description of what has a number."""
        if isinstance(thing, Dispatcher):
            options = sorted((name, repr(value)) for name, value in thing.targetoptions.items())
            return f"kernel {options} {sorted(thing.locals.items())} {self.value(thing.py_func)}"
        if isinstance(thing, FunctionType):
            return self.function(thing)
        if isinstance(thing, type):
            return self.a_class(thing)
        if isinstance(thing, ModuleType):
            raise Undescribed(f"the module {thing.__name__}, used as a value")
        if hasattr(thing, "compiled_from"):
            return "parts " + self.all(thing.compiled_from())
        return self.object(thing)

    def function(self, function: FunctionType) -> str:
        used = list(_used(function))
        _check_unchanged(function, [value for _, value in used])
        values = [f"{name} = {self.value(value)}" for name, value in used]
        defaults = self.all((function.__defaults__, function.__kwdefaults__))
        return f"function {function.__module__}.{function.__qualname__} {_bytecode(function)} {defaults} {values}"

    def a_class(self, cls: Any) -> str:
        """Fields of a NamedTuple, members of an enum, and what else a class of ours defines."""
        text = f"class {cls.__module__}.{cls.__qualname__} {self.all(cls.__bases__)}"
        if issubclass(cls, enum.Enum):
            members = [f"{name} = {self.value(member.value)}" for name, member in cls.__members__.items()]
            own = {name: value for name, value in vars(cls).items() if isinstance(value, FunctionType)}
            return f"{text} {members} {self.members(own)}"
        if issubclass(cls, tuple) and hasattr(cls, "_fields"):
            own = {name: value for name, value in vars(cls).items() if name not in GENERATED}
            return f"{text} {cls._fields} {self.value(cls._field_defaults)} {self.members(own)}"
        return f"{text} {self.members(dict(vars(cls)))}"

    def members(self, own: dict[str, Any]) -> str:
        """Functions and values that a class defines, except those that Python adds."""
        found = []
        for name, value in sorted(own.items()):
            if isinstance(value, classmethod | staticmethod):
                found.append(f"{name} = {self.value(value.__func__)}")
            elif isinstance(value, property):
                found.append(f"{name} = {self.all((value.fget, value.fset))}")
            elif isinstance(value, FunctionType) or not (name.startswith("__") or hasattr(type(value), "__get__")):
                found.append(f"{name} = {self.value(value)}")
        return str(found)

    def object(self, thing: Any) -> str:
        """Any other object: as pickling would take it apart, but with functions and classes described."""
        try:
            parts = thing.__reduce_ex__(2)
        except Exception as error:
            raise Undescribed(f"a value of {type(thing).__module__}.{type(thing).__qualname__}") from error
        if isinstance(parts, str):
            raise Undescribed(f"{type(thing).__module__}.{type(thing).__qualname__} {parts}")
        items = [list(part) if isinstance(part, Iterator) else part for part in parts]
        return f"object {self.number(type(thing))} {self.all(items)}"


@functools.cache
def _bytecode(function: FunctionType) -> str:
    """Hash of the code itself, without the docstring, which is no part of the machine code."""
    return hashlib.sha256(_code_text(function.__code__, function.__doc__).encode()).hexdigest()


def _code_text(code: CodeType, doc: str | None = None) -> str:
    """Everything of the bytecode but names of files and numbers of lines."""
    constants = [
        _code_text(constant) if isinstance(constant, CodeType) else _Description().value(constant)
        for constant in code.co_consts
    ]
    if doc is not None and code.co_consts and code.co_consts[0] == doc:
        constants[0] = "docstring"
    return str((
        code.co_code.hex(), code.co_exceptiontable.hex(), constants, code.co_names, code.co_varnames,
        code.co_cellvars, code.co_freevars, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount,
        code.co_flags,
    ))  # fmt: skip


def _foreign_name(thing: Any) -> str | None:
    """Name of a function, class or module of Python, NumPy or Numba; None of what is ours."""
    if isinstance(thing, ModuleType):
        return f"module {thing.__name__}" if _is_foreign(thing.__name__) else None
    if isinstance(thing, np.ufunc):
        return f"ufunc {thing.__name__}"
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    named = isinstance(thing, type | FunctionType | Dispatcher) or type(thing).__name__.startswith(
        ("builtin", "_Array")
    )
    if isinstance(name, str) and isinstance(module, str) and named and _is_foreign(module):
        return f"{module}.{name}"
    return None


def _is_foreign(module: str) -> bool:
    return module.partition(".")[0] in FOREIGN


def _used(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Names that a function reads from outside itself, and their values."""
    names, words = _names(function.__code__)
    for name in names:
        value = function.__globals__.get(name, getattr(builtins, name, "no such name"))
        if isinstance(value, ModuleType) and not _is_foreign(value.__name__):
            yield from _attributes(name, value, words, frozenset())
        else:
            yield name, value
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not filled yet
            yield name, "no such name"


def _attributes(
    path: str, module: ModuleType, words: frozenset[str], around: frozenset[str]
) -> Iterator[tuple[str, Any]]:
    """Attributes of a module of ours that a function may read: all that its code names anywhere."""
    for word in sorted(words):
        value = getattr(module, word, None)
        if isinstance(value, ModuleType) and not _is_foreign(value.__name__):
            if value.__name__ not in around:
                yield from _attributes(f"{path}.{word}", value, words, around | {module.__name__})
        elif hasattr(module, word):
            yield f"{path}.{word}", value


@functools.cache
def _names(code: CodeType) -> tuple[tuple[str, ...], frozenset[str]]:
    """Global names in the bytecode, sorted; and all words that may be attributes in it."""
    found: set[str] = set()
    words: set[str] = set()
    inside = [code]
    while inside:
        part = inside.pop()
        words.update(part.co_names, (constant for constant in part.co_consts if isinstance(constant, str)))
        inside += [constant for constant in part.co_consts if isinstance(constant, CodeType)]
        for instruction in dis.get_instructions(part):
            if instruction.opname == "IMPORT_NAME":
                raise Undescribed(f"{code.co_qualname} imports {instruction.argval} when it runs")
            if "GLOBAL" in instruction.opname or instruction.opname == "LOAD_NAME":
                found.add(instruction.argval)
    return tuple(sorted(found)), frozenset(words)


_first_values: weakref.WeakKeyDictionary[Callable[..., Any], list[Any] | None] = weakref.WeakKeyDictionary()


def _check_unchanged(function: FunctionType, values: list[Any]) -> None:
    """A name that changes in a running process (a test that sets a constant) spoils the function for the disk.

    Kernels compiled before the change stay in memory and go into others compiled after it.
    """
    first = _first_values.setdefault(function, values)
    if first is not None and len(first) == len(values) and all(a is b for a, b in zip(first, values, strict=True)):
        return
    _first_values[function] = None
    raise Undescribed(f"a global name of {function.__module__}.{function.__qualname__} changed in this process")
