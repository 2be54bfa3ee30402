"""State by reference: a NamedTuple of arrays, scalars and further NamedTuples that kernels get as one pointer.

Numba passes a NamedTuple by value, every array of it as seven to nine numbers. A state of two hundred arrays makes each
call some 1,600 numbers wide, and compiling it takes minutes. A `Ref` lays data pointers, shapes and scalars out in one
table of 8-byte words; kernels read ``sim.queue`` from it like an attribute. The table never changes while it is used, so
its words are loaded as invariant and stay in registers. Calls from Python cost one pointer, and many states side by side
are an array of addresses (`at`).
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any, cast

import numba as nb
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import types
from numba.core.extending import NativeValue, intrinsic, lower_getattr_generic, models, register_model, unbox
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.np.arrayobj import make_array, populate_array

WORD = 8
"""Bytes of a word of the table."""
_WORD = ir.IntType(64)
_VERSION = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
"""Of the code below that kernels contain: machine code of another version is never used."""


class RefType(types.Type):
    """Numba's type of a `Ref`: ``instance_class`` is the NamedTuple's, ``fields`` and ``types`` those of its parts.

    A part begins at word ``offsets[k]``; all take ``words``. The name tells classes, fields and their types apart, so that
    machine code is never used for another layout.
    """

    def __init__(self, instance_class: type, fields: tuple[str, ...], kinds: tuple[types.Type, ...]) -> None:
        self.instance_class, self.fields, self.types = instance_class, fields, kinds
        sizes = [words_of(kind) for kind in kinds]
        self.offsets = tuple(int(at) for at in np.concatenate([[0], np.cumsum(sizes)]).astype(int)[:-1])
        self.words = sum(sizes)
        told = ",".join(f"{field}:{kind}" for field, kind in zip(fields, kinds, strict=True))
        name = f"{_VERSION}{instance_class.__module__}.{instance_class.__qualname__}({told})"
        super().__init__(f"Ref({instance_class.__name__}_{hashlib.sha256(name.encode()).hexdigest()[:16]})")

    def place(self, field: str) -> tuple[int, types.Type]:
        """First word and type of a field."""
        k = list(self.fields).index(field)
        return self.offsets[k], self.types[k]


def words_of(kind: types.Type) -> int:
    """Words that a part of this type takes: data pointer and shape of an array, one of a scalar."""
    if isinstance(kind, RefType):
        return kind.words
    if isinstance(kind, types.Array):
        return 1 + kind.ndim
    return 0 if kind is types.none else 1


class Ref:
    """A NamedTuple as kernels take it; keeps the arrays alive. Made by `ref`."""

    __slots__ = ("_numba_type_", "address", "memory", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self._numba_type_ = type_of(value)
        self.memory = np.zeros(max(1, self._numba_type_.words), np.int64)
        write(self.memory, 0, value)
        self.address = self.memory.ctypes.data

    def __reduce__(self) -> Any:
        return Ref, (self.value,)


def ref(value: Any) -> Any:
    """``value``, a NamedTuple of C-contiguous arrays, scalars, None and further NamedTuples, for kernels.

    Arrays that kernels write are written in ``value``. Raises TypeError for a part of another kind.
    """
    return Ref(value)


def type_of(value: Any) -> RefType:
    """Numba's type of ``ref(value)``."""
    return _type_made(cast(Any, type(value)), value._fields, tuple(kind_of(part) for part in value))


@cache
def _type_made(instance_class: Any, fields: tuple[str, ...], kinds: tuple[types.Type, ...]) -> RefType:
    """One type of a layout: states built anew at every decision would spend half their time on making it."""
    return RefType(instance_class, fields, kinds)


@cache
def _array_type(dtype: Any, ndim: int) -> Any:
    """The type of C-contiguous arrays."""
    return types.Array(nb.from_dtype(dtype), ndim, "C")


def kind_of(part: Any) -> types.Type:
    """Numba's type of one part."""
    if isinstance(part, np.ndarray):
        if not part.flags.c_contiguous or not part.flags.aligned:
            raise TypeError("only contiguous arrays go by reference")
        return _array_type(part.dtype, part.ndim)
    if hasattr(part, "_fields"):
        return type_of(part)
    if part is None:
        return types.none
    if isinstance(part, bool | np.bool_):
        return types.boolean
    if isinstance(part, int | np.integer):
        return types.int64
    if isinstance(part, float | np.floating):
        return types.float64
    raise TypeError(f"{type(part).__name__} does not go by reference")


def write(memory: npt.NDArray[np.int64], at: int, value: Any) -> int:
    """Lay the parts of ``value`` out from word ``at`` on; the word behind."""
    for part in value:
        if isinstance(part, np.ndarray):
            memory[at] = part.ctypes.data
            memory[at + 1 : at + 1 + part.ndim] = part.shape
            at += 1 + part.ndim
        elif hasattr(part, "_fields"):
            at = write(memory, at, part)
        elif part is not None:
            whole = isinstance(part, bool | np.bool_ | int | np.integer)
            memory[at : at + 1] = int(part) if whole else np.array([part], np.float64).view(np.int64)
            at += 1
    return at


class Rows:
    """Many states of one layout side by side: ``value`` with a leading axis of rows.

    Parts whose dotted name begins with one of ``shared`` have no such axis and serve all rows. ``addresses`` (n_rows,):
    for `at` in kernels; ``first``: row 0 as a `Ref`, which tells kernels the layout.
    """

    def __init__(self, value: Any, n: int, shared: tuple[str, ...] = ()) -> None:
        self.value, self.shared = value, shared
        self.first = Ref(row_of(value, 0, shared))
        self.memory = np.zeros((n, len(self.first.memory)), np.int64)
        self.memory[:] = self.first.memory
        self._spread(value, 0, "")
        self.addresses = self.memory.ctypes.data + WORD * self.memory.shape[1] * np.arange(n)

    def _spread(self, value: Any, at: int, prefix: str) -> int:
        """Give each row its own data pointers, from word ``at`` on; the word behind."""
        for field, part in zip(value._fields, value, strict=True):
            name = prefix + field
            own = not name.startswith(self.shared) if self.shared else True
            if isinstance(part, np.ndarray):
                if own:
                    self.memory[:, at] = part.ctypes.data + part.strides[0] * np.arange(len(self.memory))
                at += part.ndim if own else 1 + part.ndim
            elif hasattr(part, "_fields"):
                at = self._spread(part, at, f"{name}.")
            elif part is not None:
                at += 1
        return at


def row_of(value: Any, i: int, shared: tuple[str, ...] = (), prefix: str = "") -> Any:
    """Row i of a NamedTuple with a leading axis of rows: views, no copies."""
    parts = []
    for field, part in zip(value._fields, value, strict=True):
        name = prefix + field
        if isinstance(part, np.ndarray):
            parts.append(part if shared and name.startswith(shared) else part[i])
        else:
            parts.append(row_of(part, i, shared, f"{name}.") if hasattr(part, "_fields") else part)
    return type(value)(*parts)


# --- in kernels -------------------------------------------------------------------------


@register_model(RefType)
class _RefModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: RefType) -> None:
        super().__init__(manager, kind, _WORD.as_pointer())


@unbox(RefType)
def _unbox_ref(kind: RefType, obj: Any, c: Any) -> Any:
    """The address of the table."""
    address = c.pyapi.object_getattr_string(obj, "address")
    number = c.pyapi.long_as_longlong(address)
    c.pyapi.decref(address)
    return NativeValue(c.builder.inttoptr(number, _WORD.as_pointer()))


@infer_getattr
class _RefAttributes(AttributeTemplate):  # type: ignore[misc]
    key = RefType

    def generic_resolve(self, kind: Any, attribute: str) -> Any:  # type: ignore[override]
        return kind.place(attribute)[1] if attribute in kind.fields else None


@lower_getattr_generic(RefType)
def _load_part(context: Any, builder: Any, kind: RefType, pointer: Any, attribute: str) -> Any:
    """A nested NamedTuple is a pointer further on; an array is put together from its words."""
    offset, part = kind.place(attribute)

    def word(k: int) -> Any:
        return builder.gep(pointer, [ir.Constant(_WORD, offset + k)])

    if isinstance(part, RefType):
        return word(0)
    if part is types.none:
        return context.get_dummy_value()
    if isinstance(part, types.Array):
        return _load_array(context, builder, part, [_invariant(builder, word(k)) for k in range(1 + part.ndim)])
    if part == types.float64:
        return _invariant(builder, builder.bitcast(word(0), ir.DoubleType().as_pointer()))
    value = _invariant(builder, word(0))
    return builder.icmp_unsigned("!=", value, ir.Constant(_WORD, 0)) if part == types.boolean else value


def _load_array(context: Any, builder: Any, kind: types.Array, words: list[Any]) -> Any:
    """A C-contiguous array from its data pointer and shape."""
    array = make_array(kind)(context, builder)
    item = context.get_data_type(kind.dtype)
    size = ir.Constant(_WORD, context.get_abi_sizeof(item))
    shape, strides = words[1:], [size]
    for length in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], length))
    populate_array(
        array,
        data=builder.inttoptr(words[0], item.as_pointer()),
        shape=shape,
        strides=strides,
        itemsize=size,
        meminfo=None,
    )
    return array._getvalue()


def _invariant(builder: Any, pointer: Any) -> Any:
    """A word that never changes while a kernel runs: LLVM may load it once, whatever is stored in between."""
    loaded = builder.load(pointer)
    loaded.set_metadata("invariant.load", builder.module.add_metadata(()))
    return loaded


@intrinsic
def at(typingctx: Any, like: Any, address: Any) -> Any:
    """In kernels: the state at an address (`Ref.address`) that is laid out as ``like``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[1], _WORD.as_pointer())

    return like(like, types.int64), codegen


at.compiled_from = lambda: ("at", _VERSION)  # type: ignore[attr-defined]
