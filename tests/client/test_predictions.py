"""Predictions that the Python client asks for."""

import json
from typing import Any

import httpx
import hyperdraw
import numpy as np
import pytest
from safetensors.numpy import load, save

from tests.client.gateway import PICTURE, Ask, respond, stand_before
from tests.pictures import EXAMPLES


def test_predict_says_what_the_service_says(ask: Ask, address: str, client: httpx.Client) -> None:
    parameters: dict[str, Any] = {
        "seed": 7,
        "ensemble_size": 20,
        "false_alarm_rate": 0.2,
        "coverage": 0.8,
        "members": True,
    }
    answer = ask(address, "predict", [PICTURE, EXAMPLES / "seven.png"], **parameters)
    files = [("images", PICTURE), ("images", (EXAMPLES / "seven.png").read_bytes())]
    said = client.post("/v1/models/digits/predict", files=files, params=parameters).json()

    assert isinstance(answer, hyperdraw.Classification)
    assert vars(answer.model) == said["model"]
    named = {name: getattr(answer, name) for name in ("seed", "precision", "temperature")}
    assert {"size": answer.ensemble_size, **named} == said["ensemble"]
    assert (len(answer), answer.probabilities.shape, answer.classes) == (2, (2, 10), tuple("0123456789"))
    assert answer.members is not None
    assert answer.members.shape == (20, 2, 10)
    predictions = said["predictions"]
    assert answer.labels.tolist() == [each["label"] for each in predictions]
    assert answer.class_indices.tolist() == [each["class_index"] for each in predictions]
    for part, each in zip(answer, predictions, strict=True):
        assert part.labels == each["label"]
        assert part.members is not None
        np.testing.assert_allclose(part.probabilities, each["probabilities"], rtol=1e-5)
        np.testing.assert_allclose(part.members, each["member_probabilities"], atol=1e-6)
        for name, value in each["uncertainty"].items():
            np.testing.assert_allclose(getattr(part.uncertainty, name), value, rtol=1e-4, atol=1e-6)
        assert part.prediction_sets is not None
        held = [name for name, member in zip(part.classes, part.prediction_sets, strict=True) if member]
        assert {"labels": held, "coverage": part.coverage} == each["prediction_set"]
        assert part.flags.keys() == each["flags"].keys()
        for name, flag in part.flags.items():
            found = vars(flag) | {"score": pytest.approx(float(flag.scores), rel=1e-5)}
            assert {key: found[key] for key in each["flags"][name]} == each["flags"][name]

    last = answer[1:]
    assert (len(last), last.labels.tolist()) == (1, answer.labels[1:].tolist())
    np.testing.assert_array_equal(last.members, answer.members[:, 1:])
    with pytest.raises(TypeError, match="no length"):
        len(answer[0])
    with pytest.raises(IndexError):
        answer[2]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "int64", "float16", "float32", "float64"])
def test_what_a_later_service_adds_is_left_out(client: httpx.Client, dtype: str) -> None:
    said = client.post("/v1/models/digits/predict?format=safetensors&seed=7", files={"images": PICTURE})
    length = int.from_bytes(said.content[:8], "little")
    metadata = json.loads(said.content[8 : 8 + length])["__metadata__"]
    for name in ("model", "ensemble", "task"):
        metadata[name] = json.dumps(json.loads(metadata[name]) | {"novel": 1})
    flags = json.loads(metadata["flags"])
    metadata["flags"] = json.dumps({name: flag | {"novel": 1} for name, flag in flags.items()})
    later = save(load(said.content) | {"novel": np.ones((1, 3), dtype)}, metadata | {"novel": "{}"})
    with stand_before(client, respond(200, body=later)) as gateway, hyperdraw.Client(gateway.address) as asking:
        answer = asking.predict(PICTURE, model="digits")
    assert isinstance(answer, hyperdraw.Classification)
    np.testing.assert_array_equal(answer.probabilities, load(said.content)["probabilities"])
    assert answer.flags.keys() == flags.keys()


def test_what_was_not_asked_for_is_none(address: str) -> None:
    with hyperdraw.Client(address) as client:
        answer = client.predict(PICTURE)
        again = client.predict(PICTURE, seed=answer.seed)
    assert isinstance(answer, hyperdraw.Classification)
    assert isinstance(again, hyperdraw.Classification)
    assert (answer.members, answer.prediction_sets, answer.coverage) == (None, None, None)
    np.testing.assert_allclose(answer.probabilities, again.probabilities, rtol=1e-4, atol=1e-6)


def test_regression(ask: Ask, line_address: str) -> None:
    rows = [[0.5, -1.0], [2.0, 3.0], [0.0, 1.0]]
    answer = ask(line_address, "predict", np.array(rows), members=True)
    said = httpx.post(
        f"{line_address}/v1/models/line/predict", json={"inputs": rows}, params={"seed": answer.seed}
    ).json()
    assert isinstance(answer, hyperdraw.Regression)
    assert (answer.names, answer.flags, answer.members is not None, len(answer)) == (("y",), {}, True, 3)
    for part, each in zip(ask(line_address, "predict", rows, seed=answer.seed), said["predictions"], strict=True):
        for name, value in each["outputs"]["y"].items():
            np.testing.assert_allclose(getattr(part, name), [value], rtol=1e-4)
    with pytest.raises(hyperdraw.HyperdrawError, match="this model takes rows"):
        ask(line_address, "predict", PICTURE)
