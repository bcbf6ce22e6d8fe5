"""Attacks on an image, and walks between networks, over HTTP."""

import base64
import io
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image

from models.checkpoint import Checkpoint, save_checkpoint
from models.inputs.image import ImageSpec
from models.model import Model
from models.predictions.path import follow_paths
from models.samplers.deep_ensemble import DeepEnsembleConfig
from models.targets.gauge import fix_gauge
from service.api.asking import Deadline
from service.app import create_app
from service.engine.engine import Engine
from service.engine.jobs import Computation
from service.settings import Settings
from tests.checkpoints import make_config, save_curve
from tests.conftest import SMALL_TARGET, serve
from tests.connections import ask_and_leave
from tests.engine import await_idle, hold
from tests.keys import write_keys
from tests.pictures import draw_image, encode
from tests.rounding import allow_rounding
from tests.waiting import PATIENCE
from training.data.datasets import load_digits

MODEL = "/v1/models/digits"
DIGITS = load_digits(Path()).test
PICTURE = encode(Image.fromarray(DIGITS.inputs[0, 0].numpy()))


def post(client: httpx.Client, what: str, picture: bytes = PICTURE, **parameters: Any) -> httpx.Response:
    headers = {"Content-Type": "image/png"}
    return client.post(f"{MODEL}/{what}", content=picture, headers=headers, params=parameters)


def read_pixels(encoded: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded, validate=True))))


@pytest.mark.parametrize(("epsilon", "change"), [(0, 0), (0.003, 0), (0.1, 25), (0.2, 51), (1, 255)])
def test_epsilon_is_respected_after_rounding(client: httpx.Client, epsilon: float, change: int) -> None:
    answer = post(client, "attack", seed=7, ensemble_size=5, epsilon=epsilon).json()
    original, adversarial = read_pixels(answer["original"]), read_pixels(answer["adversarial"])
    assert (original == DIGITS.inputs[0, 0].numpy()).all()
    assert np.abs(adversarial.astype(int) - original).max() == change
    assert answer["attack"] == {"norm": "linf", "epsilon": epsilon, "steps": 20, "largest_change": change / 255}
    if change == 0:
        before, after = answer["before"], answer["after"]
        assert after["label"] == before["label"]
        assert after["probabilities"] == pytest.approx(before["probabilities"], rel=1e-9)  # places round differently


def test_attacks_lower_the_probability_of_the_predicted_class(client: httpx.Client) -> None:
    wrong = 0
    for image in DIGITS.inputs[:10, 0]:
        picture = encode(Image.fromarray(image.numpy()))
        answer = post(client, "attack", picture, seed=7, ensemble_size=20, epsilon=0.2).json()
        chosen = answer["before"]["class_index"]
        assert answer["after"]["probabilities"][chosen] < answer["before"]["probabilities"][chosen]
        wrong += answer["after"]["class_index"] != chosen
    assert wrong >= 5


def test_what_an_attack_says_is_what_predict_says(client: httpx.Client) -> None:
    answer = post(client, "attack", seed=7, ensemble_size=20, false_alarm_rate=0.1).json()
    for image, found in (("original", "before"), ("adversarial", "after")):
        picture = base64.b64decode(answer[image])
        said = post(client, "predict", picture, seed=7, ensemble_size=20, false_alarm_rate=0.1).json()
        assert said["ensemble"] == answer["ensemble"]
        assert said["predictions"][0]["probabilities"] == pytest.approx(answer[found]["probabilities"], abs=1e-5)
        assert said["predictions"][0]["flags"].keys() == answer[found]["flags"].keys()


def test_attacks_are_reproducible_by_seed(client: httpx.Client) -> None:
    first = post(client, "attack", ensemble_size=5).json()
    again = post(client, "attack", ensemble_size=5, seed=first["ensemble"]["seed"]).json()
    pixels, before = (read_pixels(answer["adversarial"]).astype(int) for answer in (again, first))
    assert (pixels != before).mean() < 0.05  # rounding decides the sign of a gradient that is nearly zero
    assert again["before"] == allow_rounding(first["before"])
    other = post(client, "attack", ensemble_size=5, seed=first["ensemble"]["seed"] + 1).json()
    assert other["adversarial"] != first["adversarial"]


def test_the_ends_of_a_walk_are_the_members(client: httpx.Client, checkpoint: Checkpoint) -> None:
    answer = client.post(f"{MODEL}/walk?seed=7&from=3&to=1&points=11", files={"images": PICTURE}).json()
    assert answer["model"]["version"] == checkpoint.version
    assert (answer["seed"], answer["members"], answer["outputs"]) == (7, [3, 1], list("0123456789"))
    said = post(client, "predict", seed=7, ensemble_size=4, members=True).json()["predictions"][0]
    assert set(answer["paths"]) == {"straight", "latent"}
    for path in answer["paths"].values():
        assert len(path) == 11
        for row, member in ((path[0], 3), (path[-1], 1)):
            assert row == pytest.approx(said["member_probabilities"][member], abs=1e-5)
        assert [sum(row) for row in path] == pytest.approx([1] * 11, abs=1e-5)


def test_the_middle_of_a_straight_way_has_the_mean_weights(checkpoint: Checkpoint) -> None:
    config, sampler = checkpoint.config, checkpoint.sampler
    steps = follow_paths(sampler, config.input, config.task, DIGITS.inputs[:2], seed=7, ends=(0, 1), points=3)
    found = Computation(steps)
    while not found.finished:
        found.step(budget=1)
    pair = fix_gauge(config.target, sampler.sample(7, [0, 1]), ["scaling"])
    mean = {name: tensor.mean(0, keepdim=True) for name, tensor in pair.items()}
    expected = config.task.predict(config.target.forward(mean, config.input.prepare(DIGITS.inputs[:2])))
    torch.testing.assert_close(found.future.result()["straight"][1], expected[0], rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Of a service with an ensemble of three networks, a curve, and networks that overflow."""
    directory = tmp_path_factory.mktemp("others")
    torch.manual_seed(0)
    three = DeepEnsembleConfig(networks=3).build(SMALL_TARGET).eval()
    save_checkpoint(directory / "three", make_config(three), three, "float32")
    save_curve(directory / "curve")
    with torch.no_grad():
        three.networks.get_parameter("conv1.weight").fill_(1e38)  # finite itself, and on a black image
    wild = replace(make_config(three), input=ImageSpec(channels=1, height=12, width=12, mean=(0.0,), std=(1.0,)))
    save_checkpoint(directory / "wild", wild, three, "float32")
    app = create_app(Settings(checkpoints=directory))
    with serve(app) as address, httpx.Client(base_url=f"{address}/v1/models") as client:
        yield client


def test_networks_that_are_only_held_have_no_latent_path(others: httpx.Client) -> None:
    picture = {"images": PICTURE}
    assert set(others.post("/three/walk", files=picture).json()["paths"]) == {"straight"}
    response = others.post("/three/walk", files=picture, params={"to": 3})
    assert response.status_code == 422
    assert response.json()["error"]["hint"] == "Its members are 0 to 2."
    answer = others.post("/three/attack", files=picture).json()
    assert answer["ensemble"]["size"] == 3
    assert answer["before"]["flags"] == {}


@pytest.mark.parametrize(
    ("what", "parameters", "message"),
    [
        ("attack", {"steps": 101}, "steps: Input should be less than or equal to 100"),
        ("attack", {"ensemble_size": 101}, "ensemble_size: Input should be less than or equal to 100"),
        ("attack", {"epsilon": 1.1}, "epsilon: Input should be less than or equal to 1"),
        ("attack", {"epsilon": "nan"}, "epsilon: Input should be"),
        ("attack", {"norm": "l2"}, "norm: Input should be 'linf'"),
        ("attack", {"false_alarm_rate": 0.5}, "a false-alarm rate of 0.5 was not calibrated"),
        ("walk", {"points": 102}, "points: Input should be less than or equal to 101"),
        ("walk", {"points": 1}, "points: Input should be greater than or equal to 2"),
        ("walk", {"from": -1}, "from: Input should be greater than or equal to 0"),
        ("walk", {"first": 1}, "first: Extra inputs are not permitted"),
    ],
)
def test_limits(client: httpx.Client, what: str, parameters: dict[str, Any], message: str) -> None:
    response = post(client, what, **parameters)
    assert response.status_code == 422
    assert message in response.json()["error"]["message"]


@pytest.mark.parametrize("what", ["attack", "walk"])
def test_one_image_that_is_one(client: httpx.Client, what: str) -> None:
    files = [("images", ("a.png", PICTURE)), ("images", ("b.png", PICTURE))]
    response = client.post(f"{MODEL}/{what}", files=files)
    assert response.status_code == 413
    assert response.json()["error"]["hint"] == "Send at most 1."
    assert post(client, what, b"nothing").json()["error"]["code"] == "invalid_image"
    assert client.post(f"/v1/models/nobody/{what}", content=PICTURE).status_code == 404


def test_clients_that_are_late_or_leave_are_not_worked_for(app: FastAPI, client: httpx.Client) -> None:
    engine: Engine = app.state.engine
    path = f"{MODEL}/attack?steps=100&ensemble_size=100"
    headers = {"Content-Type": "image/png", "X-Request-Timeout": "0.02"}
    with hold(engine):
        late = client.post(path, content=PICTURE, headers=headers)
        assert late.status_code == 504
        assert late.json()["error"]["message"] == "There was no answer within 0.02 s."
        await_idle(engine)
        ask_and_leave(str(client.base_url), path, PICTURE, lambda: engine.admission.amount > 0)
        await_idle(engine)


def test_predictions_take_turns_with_an_attack(
    app: FastAPI, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short request that comes after an attack is answered between its steps."""
    engine: Engine = app.state.engine
    compute, begun, answered = engine.compute, threading.Event(), threading.Event()

    def compute_in_turns(model: Model, steps: Generator[None, None, Any], *rest: Any) -> Future[Any]:
        def take_turns() -> Generator[None, None, Any]:
            next(steps)
            begun.set()
            while not answered.is_set():
                yield
            return (yield from steps)

        return compute(model, take_turns(), *rest)

    monkeypatch.setattr(engine, "compute", compute_in_turns)
    with ThreadPoolExecutor() as pool:
        attack = pool.submit(post, client, "attack", ensemble_size=5)
        assert begun.wait(PATIENCE)
        try:
            assert post(client, "predict", ensemble_size=2).status_code == 200
        finally:
            answered.set()
        assert attack.result().status_code == 200


def test_as_much_as_may_wait_is_waiting(checkpoints: Path) -> None:
    app = create_app(Settings(checkpoints=checkpoints, max_queue=100))
    with serve(app) as address, httpx.Client(base_url=address) as client, hold(app.state.engine):
        waiting = app.state.engine.admission.reserve("somebody", 90)
        for what in ("attack", "walk"):
            response = post(client, what)
            assert response.status_code == 429
            assert int(response.headers["retry-after"]) >= 1
        waiting.release()


def test_keys_need_the_scope_predict(checkpoints: Path, tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.toml", reader=["predict"], other=["weights"])
    with serve(create_app(Settings(checkpoints=checkpoints, keys=tmp_path / "keys.toml"))) as address:
        for what in ("attack", "walk"):
            for name, status in (("reader", 200), ("other", 403), (None, 401)):
                headers = {"Content-Type": "image/png"} | ({"Authorization": f"Bearer {keys[name]}"} if name else {})
                response = httpx.post(f"{address}{MODEL}/{what}", content=PICTURE, headers=headers)
                assert response.status_code == status


def test_models_of_numbers_walk_and_are_not_attacked(others: httpx.Client) -> None:
    body = {"inputs": [[1.5]]}
    answer = others.post("/curve/walk", json=body, params={"seed": 7, "points": 5}).json()
    assert answer["outputs"] == ["y"]
    said = others.post("/curve/predict", json=body, params={"seed": 7, "members": True}).json()
    ends = [row[0] for row in said["predictions"][0]["member_outputs"][:2]]
    for path in answer["paths"].values():
        assert [path[0][0], path[-1][0]] == pytest.approx(ends, rel=1e-4)
    refused = others.post("/curve/attack", json=body)
    assert refused.status_code == 422
    assert refused.json()["error"]["code"] == "not_attackable"


def test_nonsense_is_an_error_and_no_answer(others: httpx.Client) -> None:
    for what in ("attack", "walk"):
        response = others.post(f"/wild/{what}", files={"images": encode(draw_image())})
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "not_finite"


def test_what_comes_second_has_what_is_left_of_the_time() -> None:
    assert 0 < Deadline(3600, start=time.perf_counter() - 1800).remaining <= 1800
    assert Deadline(5, start=time.perf_counter() - 6).remaining == 0
