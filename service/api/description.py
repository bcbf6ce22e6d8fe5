"""The OpenAPI description, in the names that generated clients take over."""

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel

COMPONENTS = "#/components/schemas/"


def name_operation(route: APIRoute) -> str:
    """The operationId of a route: the name of its function, which is a generated client's method."""
    return route.name


def describe_schema(schema: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a body that routes parse themselves, which `describe` moves to the components."""
    return schema.model_json_schema(ref_template=COMPONENTS + "{model}")


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI description of an app, made when it is first asked for."""
    if app.openapi_schema is None:
        _name_bodies(FastAPI.openapi(app))
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
