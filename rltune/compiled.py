"""The decorators of compiled functions. Machine code is kept on disk until anything it was compiled from changes."""

from __future__ import annotations

import functools
import inspect
import itertools
import os
import secrets
from collections.abc import Callable
from typing import Any

import numba as nb
from numba.core import types
from numba.core.bytecode import FunctionIdentity
from numba.core.errors import TypingError
from numba.core.typing.templates import AbstractTemplate, infer_global

from rltune.compiling.files import KernelCache


def _number_symbols_apart() -> None:
    """Numba numbers compiled functions from 1 in each process, and symbols of the same name and number are taken as one.

    Code loaded from disk has the numbers of the process that compiled it: those
    of this one must be others, or a function would call another's namesake.
    """
    FunctionIdentity._unique_ids = itertools.count(secrets.randbits(40) << 20)


_number_symbols_apart()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_number_symbols_apart)


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
    in order of definition, gives the implementation, compiled like an ``inner`` kernel.
    """

    def __init__(self, stub: Callable[..., Any]) -> None:
        self.stub = stub
        self.signature = inspect.signature(stub)
        self.implementations: list[tuple[Callable[..., Any], Any]] = []
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
            # All are called `_`; symbols of machine code need names of their own.
            name = f"{self.stub.__name__}_{len(self.implementations) + 1}"
            implementation.__name__ = implementation.__qualname__ = name
            self.implementations.append((condition, inner(implementation)))
            return implementation

        return add

    def choose(self, *args: Any, **kwargs: Any) -> Any:
        """The compiled implementation for arguments of these Numba types."""
        bound = self.signature.bind(*args, **kwargs).args
        for condition, implementation in self.implementations:
            if condition(*bound):
                return implementation
        kinds = ", ".join(f"{name}: {kind}" for name, kind in zip(self.signature.parameters, bound, strict=True))
        raise TypingError(f"verb {self} has no implementation for ({kinds})")

    def compiled_from(self) -> tuple[Any, ...]:
        """What a kernel that calls the verb is compiled from."""
        return (repr(self), tuple(self.signature.parameters), self.implementations)


def verb(stub: Callable[..., Any]) -> Verb:
    """Declare a verb: the stub gives its name, parameters and docstring; see :class:`Verb`."""
    made = Verb(stub)

    # What `numba.extending.overload` does, but with implementations that have a cache on disk of their own.
    class Call(AbstractTemplate):  # type: ignore[misc]
        key = made

        def generic(self, args: Any, kws: Any) -> Any:
            self.chosen = types.Dispatcher(made.choose(*args, **kws))
            return self.chosen.get_call_type(self.context, args, kws)

        def get_impl_key(self, sig: Any) -> Any:
            return self.chosen.get_overload(sig)

    infer_global(made, types.Function(Call))
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
    dispatcher._cache = KernelCache(dispatcher)
    return dispatcher
