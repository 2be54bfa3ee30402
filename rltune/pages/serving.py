"""Static files out of the package, headers that keep a page to itself, and the check of the Host header."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import Response

STATIC = Path(__file__).parent / "static"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Endings that are served; everything else in the folder (licences) is not."""
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        b"frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
    (b"referrer-policy", b"no-referrer"),
]
"""Of every answer: pages load nothing from elsewhere and run nothing written into them; nobody keeps or frames them."""

router = APIRouter(include_in_schema=False)


@cache
def static_files() -> dict[str, Path]:
    """Path under /static -> file. A fixed list, so that no path leads out of the folder."""
    found = (path for path in sorted(STATIC.rglob("*")) if path.suffix in TYPES)
    return {path.relative_to(STATIC).as_posix(): path for path in found}


def page(name: str, data: Mapping[str, str] | None = None) -> Response:
    """A file of the package as an answer; ``data``: values of ``data-`` attributes that it has, by their names.

    KeyError where there is none of the name. Values are the program's own words, never a user's.
    """
    path = static_files()[name]
    text = path.read_text()
    for key, value in (data or {}).items():
        text = re.sub(rf'data-{key}="[a-z]*"', f'data-{key}="{value}"', text, count=1)
    return Response(text, media_type=TYPES[path.suffix])


@router.get("/static/{name:path}")
async def static(name: str) -> Response:
    """Needs no token: it is the same for everybody."""
    if name not in static_files():
        return Response("no such file\n", 404, media_type="text/plain")
    return page(name)


def foreign_host(host: str, hosts: tuple[str, ...] | None) -> bool:
    """Whether a Host header names another place: a page of a name that resolves to this address (DNS rebinding)."""
    return hosts is not None and re.sub(r":\d+$", "", host).lower() not in hosts


def foreign_origin(origin: str | None, host: str) -> bool:
    """Whether a request comes from a page of another site."""
    return origin is not None and origin.partition("://")[2].lower() != host.lower()
