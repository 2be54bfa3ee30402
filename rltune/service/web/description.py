"""What the OpenAPI description says of bodies and answers that endpoints read and write themselves."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from rltune.nouns.checked import Checked
from rltune.service.specs import JobSpec, LeaseSpec

REF = "#/components/schemas/"
BOUNDS = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}
"""Words that pydantic leaves as they are where a number may be whole or not."""


def body(model: str, examples: dict[str, Any], several: bool = False, required: bool = True) -> dict[str, Any]:
    """For ``openapi_extra=`` of a route: its body is a model, or also a list of them."""
    schema: dict[str, Any] = {"$ref": f"{REF}{model}"}
    if several:
        schema = {"anyOf": [schema, {"type": "array", "items": schema, "minItems": 1, "maxItems": 1000}]}
    return {
        "requestBody": {"required": required, "content": {"application/json": {"schema": schema, "examples": examples}}}
    }


def header(name: str) -> dict[str, Any]:
    """A header that makes repetitions harmless."""
    says = "any text that is your own, one a request: repeated with it, the request is done once and answered alike"
    schema = {"type": "string", "pattern": "^[!-~]{1,200}$"}
    return {"parameters": [{"name": name, "in": "header", "required": False, "schema": schema, "description": says}]}


def success(status: int, model: Any, example: Any = None) -> dict[int | str, dict[str, Any]]:
    """For ``responses=`` of a route."""
    told: dict[str, Any] = {
        "model": model,
        "description": " ".join((getattr(model, "__doc__", None) or "Done").split()),
    }
    if example is not None:
        told["content"] = {"application/json": {"example": example}}
    return {status: told}


def describe(app: FastAPI, models: tuple[type[Checked], ...]) -> None:
    """Make the application's description, with the models of bodies in it, when it is first asked for."""

    def made() -> dict[str, Any]:
        if app.openapi_schema is None:
            told = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                tags=app.openapi_tags,
            )
            _, defined = models_json_schema([(model, "validation") for model in models], ref_template=f"{REF}{{model}}")
            schemas = told.setdefault("components", {}).setdefault("schemas", {})
            schemas |= bounded(defined.get("$defs", {}))
            app.openapi_schema = told
        return app.openapi_schema

    app.openapi = made  # type: ignore[method-assign]


def bounded(schema: Any) -> Any:
    """A schema with bounds in JSON Schema's own words."""
    if isinstance(schema, dict):
        return {
            BOUNDS.get(key, key) if not isinstance(value, dict) else key: bounded(value)
            for key, value in schema.items()
        }
    return [bounded(each) for each in schema] if isinstance(schema, list) else schema


BODIES: tuple[type[Checked], ...] = (JobSpec, LeaseSpec)
