"""A client in Java that OpenAPI Generator makes of the service's description, compiled and run."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from conformance.tools import ENVIRONMENTS, IMAGE, MODEL, PROGRAMS, fetch, find_program, make_environment, run

SOURCES = PROGRAMS / "java"
PROPERTIES = {
    "annotationLibrary": "none",
    "apiPackage": "hyperdraw.api",
    "hideGenerationTimestamp": "true",
    "invokerPackage": "hyperdraw",
    "modelPackage": "hyperdraw.model",
    "openApiNullable": "false",
}
PARTS = {"apiDocs": "false", "apiTests": "false", "modelDocs": "false", "modelTests": "false", "skipFormModel": "false"}
UNIONS = ("Feature_Shape", "Inputs_inner", "Label", "Prompt", "Response_Generate", "Stop")
"""Unions with lists, of which this generator makes no Java that compiles: they become Object."""


def check_java(address: str) -> str:
    """Generates a client, compiles it beside a program that calls predict, weights and infer, and runs that.

    Raises:
        CheckFailedError: if the client cannot be generated or compiled, or the program fails.
        ToolMissingError: if there is no JDK, or the generator cannot be installed.
    """
    java, compiler = find_program("java", "default-jre-headless"), find_program("javac", "default-jdk-headless")
    make_environment("java")
    (jar,) = (ENVIRONMENTS / "java").glob("lib/*/site-packages/openapi_generator_cli/openapi-generator.jar")
    with TemporaryDirectory(prefix="hyperdraw-") as name:
        folder = Path(name)
        (folder / "openapi.json").write_text(json.dumps(_narrow_queries(fetch(address, "/openapi.json"))))
        options = [
            *("-g", "java", "--library", "native", "-t", str(SOURCES / "templates")),
            *("-i", "openapi.json", "-o", "client"),
            *("--additional-properties", _join(PROPERTIES)),
            *("--global-property", f"apis,models,supportingFiles,{_join(PARTS)}"),
            *("--schema-mappings", _join(dict.fromkeys(UNIONS, "Object"))),
        ]
        run([java, "-jar", jar, "generate", *options], folder)
        sources = sorted((folder / "client" / "src" / "main").rglob("*.java"))
        # The generator's own file holds the libraries that its clients need.
        run([compiler, "-nowarn", "-d", "classes", "-cp", jar, *sources, SOURCES / "Call.java"], folder)
        run([java, "-cp", f"classes:{jar}", "Call", address, MODEL, IMAGE], folder)
    return f"{len(sources)} generated classes compile; predict, weights and infer are called"


def _join(values: dict[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in values.items())


def _narrow_queries(description: dict[str, Any]) -> dict[str, Any]:
    """The description with one type for each parameter, as the generator cannot write unions into query strings."""
    for operations in description["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", []):
                first, *_ = parameter["schema"].get("anyOf", [parameter["schema"]])
                parameter["schema"] = first
    return description
