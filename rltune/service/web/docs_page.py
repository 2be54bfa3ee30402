"""The OpenAPI description as a page that loads nothing from elsewhere."""

from __future__ import annotations

import json
from html import escape
from typing import Any


def page_of(told: dict[str, Any]) -> str:
    """The description as HTML."""
    info = told["info"]
    head = f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info.get('description', ''))}"
    routes = [
        _route(path, method, route) for path, methods in told["paths"].items() for method, route in methods.items()
    ]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>rltune</title>"
        "<link rel=stylesheet href=/static/docs.css><link rel=icon href=/static/icon.svg>"
        f"<body>{head}<p><a href=/openapi.json>openapi.json</a>{''.join(routes)}</body></html>"
    )


def _route(path: str, method: str, route: dict[str, Any]) -> str:
    rows = "".join(
        _row(f"<code>{escape(x['name'])}</code>", x["in"], x.get("description", ""))
        for x in route.get("parameters", [])
    )
    answers = "".join(_row(status, x.get("description", "")) for status, x in route["responses"].items())
    bodies = route.get("requestBody", {}).get("content", {}).get("application/json", {}).get("examples", {})
    shown = "".join(
        f"<p>{escape(x['summary'])}:<pre>{escape(json.dumps(x['value'], indent=1))}</pre>" for x in bodies.values()
    )
    return (
        f"<h3><code>{method.upper()} {escape(path)}</code></h3>"
        f"<p>{escape(route.get('summary', ''))}. {escape(route.get('description', ''))}"
        f"<table>{rows}</table>{shown}<details><summary>answers</summary><table>{answers}</table></details>"
    )


def _row(first: str, *more: str) -> str:
    return f"<tr><td>{first}{''.join(f'<td>{escape(each)}' for each in more)}"
