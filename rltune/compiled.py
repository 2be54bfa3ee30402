"""How kernels are compiled, and kept on disk only as long as everything they were compiled from is unchanged."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba as nb
from numba.core.caching import CompileResultCacheImpl, FunctionCache, InTreeCacheLocator, UserWideCacheLocator

PACKAGE = Path(__file__).resolve().parent
DECORATED = re.compile(r"^@(kernel|inner|compiled)$", re.MULTILINE)
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
    """A kernel that only other kernels call: without the wrappers for Python, most of the compile time of small ones."""
    options: dict[str, Any] = {"_nrt": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return _cached(nb.njit(**options)(function))


def compiled(function: Callable[..., Any]) -> Any:
    """Compile and cache on disk a function that may allocate."""
    return _cached(nb.njit(function))


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
