"""The OpenAPI description, as programs read it that make clients of it."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest


@pytest.fixture
def document(client: httpx.Client) -> dict[str, Any]:
    described: dict[str, Any] = client.get("/openapi.json").json()
    return described


def walk(part: Any) -> Iterator[dict[str, Any]]:
    """All objects in a part of the description."""
    if isinstance(part, dict):
        yield part
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from walk(inner)


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    components = document["components"]["schemas"]
    references = {part["$ref"] for part in walk(document) if isinstance(part.get("$ref"), str)}
    assert references == {f"#/components/schemas/{name}" for name in components}
    assert not [part for part in walk(document) if "$defs" in part]


def test_operations_are_named_like_methods(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(set(names)) == len(names)
    assert {"predict", "get_weights", "infer_tensors", "infer_tensors_of_version"} <= set(names)
    assert not [name for name in names if re.search(r"__|_v[12]_|_(get|post)$", name)]


def test_parameters_keep_their_places(document: dict[str, Any]) -> None:
    """Java's generated clients pass them by position."""
    first = {
        "predict": ["model", "ensemble_size", "seed", "false_alarm_rate", "coverage", "members", "format"],
        "get_weights": ["model", "version", "seed", "member", "count", "dtype"],
    }
    later = {"predict": ["version"], "get_weights": ["prompt", "step"]}
    for path in document["paths"].values():
        for operation in path.values():
            if (name := operation["operationId"]) in first:
                names = [parameter["name"] for parameter in operation["parameters"]]
                assert names == [*first.pop(name), "X-Request-Timeout", *later[name]]
    assert not first


def test_errors_have_the_services_shapes(document: dict[str, Any]) -> None:
    errors = [
        content["schema"]["$ref"].rpartition("/")[2]
        for path in document["paths"].values()
        for operation in path.values()
        for status, response in operation["responses"].items()
        for content in response.get("content", {}).values()
        if status >= "4"
    ]
    assert set(errors) == {"ErrorResponse", "InferenceErrorResponse", "CompletionErrorResponse"}


def test_bodies_have_names(document: dict[str, Any]) -> None:
    def name(path: str, kind: str = "application/json") -> list[str]:
        schema = document["paths"][path]["post"]["requestBody"]["content"][kind]["schema"]
        return [one["$ref"].rpartition("/")[2] for one in schema.get("anyOf", [schema])]

    assert name("/v1/models/{model}/predict") == ["ImagesBody", "RowsBody", "TextsBody"]
    assert name("/v1/models/{model}/predict", "multipart/form-data") == ["ImagesForm"]
    assert name("/v1/models/{model}/generate") == ["GenerateBody", "DrawBody"]
    assert name("/v2/models/{model}/infer") == ["InferenceRequest"]
    assert name("/v2/models/{model}/infer") == name("/v2/models/{model}/versions/{version}/infer")
    assert {"InputTensor", "RequestedOutput"} <= set(document["components"]["schemas"])


def test_what_tells_kinds_apart_is_always_there(document: dict[str, Any]) -> None:
    """Generators refuse a discriminator that may be missing."""
    components = document["components"]["schemas"]
    unions = [part["discriminator"] for part in walk(document) if "propertyName" in part.get("discriminator", {})]
    assert len(unions) >= 5
    for union in unions:
        for reference in union["mapping"].values():
            assert union["propertyName"] in components[reference.rpartition("/")[2]]["required"]


def test_numbers_are_as_wide_as_theirs(document: dict[str, Any]) -> None:
    """Seeds have 63 bits, and times are in milliseconds or nanoseconds."""
    kinds = {(part["type"], part.get("format")) for part in walk(document) if part.get("type") in ("integer", "number")}
    assert kinds == {("integer", "int64"), ("number", "double")}


def test_unions_are_of_elements_rather_than_of_lists(document: dict[str, Any]) -> None:
    predictions = document["components"]["schemas"]["PredictAnswer"]["properties"]["predictions"]
    kinds = [kind["$ref"].rpartition("/")[2] for kind in predictions["items"]["anyOf"]]
    assert (predictions["type"], kinds) == ("array", ["PredictionAnswer", "RegressionAnswer"])
