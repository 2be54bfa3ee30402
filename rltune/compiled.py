"""How kernels are compiled, and kept on disk only as long as everything they were compiled from is unchanged."""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba as nb
from numba.core import types
from numba.core.caching import CompileResultCacheImpl, FunctionCache, InTreeCacheLocator, UserWideCacheLocator
from numba.core.errors import TypingError
from numba.extending import overload

PACKAGE = Path(__file__).resolve().parent
DECORATED = re.compile(r"^@(kernel|inner|compiled|verb|\w+\.when\(.*)$", re.MULTILINE)
IMPORTED = re.compile(r"^from rltune\.([\w.]+) import", re.MULTILINE)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile, cache on disk, and refuse any allocation.

    Without Numba's runtime (``_nrt=False``) a kernel that would allocate does not
    compile, and passing tuples of arrays costs no reference counts: three times
    the speed of the event loop.
    """
    # Numba's stubs do not list this option, which its own library uses the same way.
    options: dict[str, Any] = {"_nrt": False}
    return _cached(nb.njit(**options)(function))


def inner(function: Callable[..., Any]) -> Any:
    """A kernel that only other kernels call: without the wrappers for Python, most of the compile time of small ones.

    A call from Python would crash the interpreter; a test sees to it that there is none.
    """
    options: dict[str, Any] = {"_nrt": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return _cached(nb.njit(**options)(function))


def compiled(function: Callable[..., Any]) -> Any:
    """Compile and cache on disk a function that may allocate."""
    return _cached(nb.njit(function))


class Verb:
    """A function of the kernels whose implementation is chosen by the types of its arguments, when its caller compiles.

    ::

        @verb
        def total_free(space):
            '''GPUs free in the cluster.'''

        @total_free.when(lambda space: class_of(space) is Counts)
        def _(space):
            return space.free.sum()

    A condition takes the Numba types of the arguments; the first one that holds,
    in order of definition, gives the implementation.
    """

    def __init__(self, stub: Callable[..., Any]) -> None:
        self.stub = stub
        self.signature = inspect.signature(stub)
        self.implementations: list[tuple[Callable[..., Any], Callable[..., Any]]] = []
        functools.update_wrapper(self, stub)
        if any(
            p.default is not p.empty or p.kind != p.POSITIONAL_OR_KEYWORD for p in self.signature.parameters.values()
        ):
            raise TypeError(f"verb {self}: plain parameters only, no defaults and no stars")

    def __repr__(self) -> str:
        return f"{self.stub.__module__}.{self.stub.__qualname__}"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"verb {self} is called by kernels only: its implementation is chosen when a kernel compiles")

    def when(self, condition: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorator: the implementation for arguments whose types meet ``condition``."""

        def add(implementation: Callable[..., Any]) -> Callable[..., Any]:
            theirs, ours = list(inspect.signature(implementation).parameters), list(self.signature.parameters)
            if theirs != ours:
                raise TypeError(f"verb {self} takes ({', '.join(ours)}), an implementation ({', '.join(theirs)})")
            self.implementations.append((condition, implementation))
            return implementation

        return add

    def choose(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """The implementation for arguments of these Numba types."""
        bound = self.signature.bind(*args, **kwargs).args
        for condition, implementation in self.implementations:
            if condition(*bound):
                return implementation
        kinds = ", ".join(f"{name}: {kind}" for name, kind in zip(self.signature.parameters, bound, strict=True))
        raise TypingError(f"verb {self} has no implementation for ({kinds})")


def verb(stub: Callable[..., Any]) -> Verb:
    """Declare a verb: the stub gives its name, parameters and docstring; see :class:`Verb`."""
    made = Verb(stub)
    options: Any = {"_nrt": False}
    overload(made, jit_options=options, strict=False)(made.choose)
    return made


def class_of(kind: Any) -> type | None:
    """The NamedTuple class (or enum) of a Numba type; None where it has none."""
    return getattr(kind, "instance_class", None)


def field_class(kind: Any, name: str) -> type | None:
    """The same of the field ``name`` of a NamedTuple's Numba type; None where there is no such field."""
    if not isinstance(kind, types.NamedTuple | types.NamedUniTuple) or name not in kind.fields:
        return None
    return class_of(kind.types[kind.fields.index(name)])


def _cached(dispatcher: Any) -> Any:
    dispatcher._cache = _Cache(dispatcher.py_func)
    return dispatcher


def _sources() -> str:
    """Hash of every module with kernels and of those they import, whose constants and kernels are compiled into them."""
    texts = {path: path.read_text() for path in PACKAGE.rglob("*.py")}
    used = {path for path, text in texts.items() if DECORATED.search(text)}
    for path in list(used):
        used |= {PACKAGE / f"{name.replace('.', '/')}.py" for name in IMPORTED.findall(texts[path])}
    return hashlib.sha256("\0".join(texts[path] for path in sorted(used & texts.keys())).encode()).hexdigest()


SOURCES = _sources()


class _InTree(InTreeCacheLocator):  # type: ignore[misc]
    """Numba's own stamp is of one file: a changed constant of another would leave machine code that corrupts memory."""

    def get_source_stamp(self) -> str:
        return SOURCES


class _UserWide(UserWideCacheLocator):  # type: ignore[misc]
    """The same where the package's folder cannot be written."""

    def get_source_stamp(self) -> str:
        return SOURCES


class _Implementation(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = [_InTree, _UserWide]  # noqa: RUF012  (Numba's own pattern)


class _Cache(FunctionCache):  # type: ignore[misc]
    _impl_class = _Implementation
