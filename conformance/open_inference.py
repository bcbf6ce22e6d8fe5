"""Schemathesis with the OpenAPI document that KServe publishes for the Open Inference Protocol.

Source: specification/protocol/open_inference_rest.yaml of github.com/kserve/open-inference-protocol, at ff934734.
"""

import copy
import json
import math
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from conformance.tools import HERE, fetch, run

DOCUMENT = HERE / "documents" / "open_inference_rest.yaml"
STATUSES = "[checks.positive_data_acceptance]\nexpected-statuses = ['2xx', '400']\n"
"""Settings for the document as published. It cannot say which inputs a model has; for others, it names status 400."""
CASES = re.compile(r"(\d+) generated")


def check_protocol(address: str, model: str, most_examples: int = 30) -> str:
    """Asks a model what the document allows and what it does not, and compares the answers with it.

    The document is used twice: as published, with inputs of any name, shape and datatype, and narrowed to what the
    model's own metadata says, when every valid request must be answered with 200.

    Args:
        address: the service's address.
        model: a model whose first input is a tensor of numbers.
        most_examples: most examples of each operation that are drawn at random.

    Raises:
        CheckFailedError: if an answer does not conform to the document.
    """
    path = f"/v2/models/{model}"
    metadata = fetch(address, path)
    (version,) = metadata["versions"]
    text = DOCUMENT.read_text().replace("${MODEL_NAME}", model).replace("${MODEL_VERSION}", version)
    document = yaml.safe_load(text)
    tensor = make_tensor(metadata["inputs"][0])
    answered = [output["name"] for output in fetch(address, f"{path}/infer", {"inputs": [tensor]})["outputs"]]
    published = _run(address, document, STATUSES, most_examples)
    narrowed = _run(address, narrow(document, tensor, answered), "", most_examples)
    return f"{published} cases of the published document, {narrowed} of what the model takes"


def make_tensor(described: dict[str, Any]) -> dict[str, Any]:
    """A tensor of zeros, as a model's metadata describe it: {name, datatype, shape}."""
    shape = [abs(length) for length in described["shape"]]
    return described | {"shape": shape, "data": [0] * math.prod(shape)}


def narrow(document: dict[str, Any], tensor: dict[str, Any], outputs: list[str]) -> dict[str, Any]:
    """The protocol's document for one model: with its input, and the outputs that a request may name."""
    narrowed = copy.deepcopy(document)
    for operations in narrowed["paths"].values():
        if "requestBody" in operations.get("post", {}):
            operations["post"]["requestBody"]["required"] = True
    schemas = narrowed["components"]["schemas"]
    request = schemas["inference_request"] | {"additionalProperties": False}
    request["properties"] |= {
        "id": {"type": "string"},
        "parameters": _allow(),
        "inputs": {"type": "array", "items": _allow(**tensor), "minItems": 1, "maxItems": 1},
        "outputs": {"type": "array", "items": _allow(name=outputs), "uniqueItems": True},
    }
    schemas["inference_request"] = request
    return narrowed


def _allow(**values: Any) -> dict[str, Any]:
    """The schema of an object whose fields have a given value, or one of those in a list of strings."""
    properties = {
        name: {"enum": value if isinstance(value, list) and isinstance(value[0], str) else [value]}
        for name, value in values.items()
    }
    return {"type": "object", "properties": properties, "required": [*values], "additionalProperties": False}


def _run(address: str, document: dict[str, Any], settings: str, most_examples: int) -> int:
    """Runs Schemathesis, and returns the number of its cases."""
    with TemporaryDirectory(prefix="hyperdraw-") as name:
        folder = Path(name)
        (folder / "document.json").write_text(json.dumps(document))
        (folder / "schemathesis.toml").write_text(settings)
        options = ["--url", address, "--max-examples", str(most_examples), "--seed", "1", "--no-color"]
        printed = run([sys.executable, "-m", "schemathesis.cli", "run", "document.json", *options], folder)
    (cases,) = CASES.findall(printed)
    return int(cases)
