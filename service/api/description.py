"""The OpenAPI description, in the names that generated clients take over."""

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel

FORMATS = {"integer": "int64", "number": "double"}
COMPONENTS = "#/components/schemas/"
ERRORS = "HTTPValidationError"
"""FastAPI's own schema of errors, for which this service has another."""


LATE_PARAMETERS = {"get_weights": {"prompt", "step"}}
"""Parameters that operations got after others, if not `version`."""


def name_operation(route: APIRoute) -> str:
    """The operationId of a route: the name of its function, which is a generated client's method."""
    return route.name


def describe_schema(schema: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a body that routes parse themselves, which `describe` moves to the components."""
    return schema.model_json_schema(ref_template=COMPONENTS + "{model}")


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI description of an app, made when it is first asked for."""
    if app.openapi_schema is None:
        description = FastAPI.openapi(app)
        _name_bodies(description)
        _drop_foreign_errors(description)
        _tell_widths(description)
        _keep_order(description)
    return FastAPI.openapi(app)


def _name_bodies(description: dict[str, Any]) -> None:
    """Moves the schemas of bodies that routes parse themselves to the components, where they have names.

    Such a schema is that of a Pydantic model, or several of them as `anyOf`.
    """
    components = description["components"]["schemas"]

    def name(schema: dict[str, Any]) -> dict[str, Any]:
        if "anyOf" in schema:
            return schema | {"anyOf": [name(one) for one in schema["anyOf"]]}
        if "title" not in schema:
            return schema
        definitions = schema.get("$defs", {})
        own = {key: value for key, value in schema.items() if key != "$defs"}
        for title, found in {**definitions, schema["title"]: own}.items():
            assert components.setdefault(title, found) == found, f"two schemas are named {title}"
        return {"$ref": COMPONENTS + schema["title"]}

    for operations in description["paths"].values():
        for operation in operations.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                content["schema"] = name(content["schema"])


def _keep_order(description: dict[str, Any]) -> None:
    """Puts parameters that came late behind the others, as some generated clients pass them by position."""
    for operations in description["paths"].values():
        for operation in operations.values():
            late = LATE_PARAMETERS.get(operation["operationId"], {"version"})
            operation.get("parameters", []).sort(key=lambda each: each["in"] == "query" and each["name"] in late)


def _drop_foreign_errors(description: dict[str, Any]) -> None:
    """Removes the errors that FastAPI adds for paths without errors 422, as no path is invalid, nor has that shape."""
    for operations in description["paths"].values():
        for operation in operations.values():
            if ERRORS in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
    for name in (ERRORS, "ValidationError"):
        del description["components"]["schemas"][name]


def _tell_widths(part: Any) -> None:
    """Gives numbers their formats, without which generated clients take 32 bits for a seed or a time."""
    if isinstance(part, dict):
        kind = part.get("type")
        if isinstance(kind, str) and kind in FORMATS:
            part.setdefault("format", FORMATS[kind])
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        _tell_widths(inner)
