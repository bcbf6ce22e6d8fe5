"""Ensembles that stop growing, input by input."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.backbones.backbone import IMAGES_PER_RUN
from models.model import Model
from models.predictions.prediction import Draw, Inputs, Outputs, Prediction
from models.predictions.stopping import StoppingRule
from models.tasks.probabilities import NotFiniteError
from service.engine.batches import Answer
from service.engine.engine import Engine
from tests.backbones import save_with_backbone
from tests.calibrations import TASK, make_calibration
from tests.engine import await_idle, draw_images, hold
from tests.growing import SIZES, add_rules, ask
from tests.waiting import PATIENCE, wait_until


def check(answer: Answer, model: Model, images: Tensor, rule: StoppingRule) -> list[int]:
    """Checks that each image was asked of the fewest networks that settle it; returns how many these were."""
    calibration = model.calibration
    assert calibration is not None

    def settle(prediction: Prediction) -> Tensor:
        return rule.settle(prediction, calibration.measure(prediction))

    asked = torch.zeros(len(images), dtype=torch.int64)
    for part in answer.parts:
        size = part.prediction.size
        expected = ask(model, images[part.positions], answer.seed, size)
        torch.testing.assert_close(part.prediction.members, expected.members, rtol=1e-4, atol=1e-6)
        assert not asked[part.positions].any()
        asked[part.positions] = size
        assert settle(part.prediction).all()
        for earlier in (each.ensemble_size for each in rule.rounds if each.ensemble_size < size):
            assert not settle(part.prediction.prefix(earlier)).any()
    assert asked.all()
    return asked.tolist()


def watch_steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The networks and inputs of each step from now on."""
    steps: list[tuple[int, int]] = []
    evaluate_all = Model.evaluate

    def count(model: Model, draw: Draw, inputs: Inputs) -> Outputs:
        steps.append((len(draw.members), len(inputs)))
        return evaluate_all(model, draw, inputs)

    monkeypatch.setattr(Model, "evaluate", count)
    return steps


def test_each_input_is_asked_of_as_many_networks_as_it_needs(
    engine: Engine, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = draw_images(model, 60)
    model, rule = add_rules(model, images)
    steps = watch_steps(monkeypatch)
    sizes = check(engine.predict(model, images, 7, 100, rule=rule).result(PATIENCE), model, images, rule)
    assert set(sizes) == set(SIZES)
    assert sum(networks * inputs for networks, inputs in steps) == sum(size if size <= 20 else 100 for size in sizes)
    await_idle(engine)


def test_one_image_is_asked_of_several_rounds_at_once(
    engine: Engine, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 networks take little longer than 5, and its answer is still that by the fewest that settle it."""
    images = draw_images(model, 60)
    model, rule = add_rules(model, images)
    steps = watch_steps(monkeypatch)
    expected = {5: [20], 10: [20], 20: [20], 50: [20, 80], 100: [20, 80]}
    seen = set()
    for i in range(60):
        steps.clear()
        answer = engine.predict(model, images[i : i + 1], 7, 100, rule=rule).result(PATIENCE)
        (size,) = check(answer, model, images[i : i + 1], rule)
        assert steps == [(networks, 1) for networks in expected[size]]
        assert engine.admission.amount == 0
        seen.add(size)
    assert seen == set(SIZES)
    await_idle(engine)


def test_an_answer_does_not_depend_on_what_shares_the_batch(engine: Engine, model: Model) -> None:
    """Single images, several, and ensembles of fixed sizes, all by the networks of one seed."""
    images = draw_images(model, 60)
    model, rule = add_rules(model, images)
    with hold(engine):
        single = [engine.predict(model, images[i : i + 1], 7, 100, rule=rule) for i in range(60)]
        several = engine.predict(model, images[10:25], 7, 100, rule=rule)
        fixed = [engine.predict(model, images[:3], 7, size) for size in (3, 30, 130)]
    sizes = check(several.result(PATIENCE), model, images[10:25], rule)
    alone = [check(future.result(PATIENCE), model, images[i : i + 1], rule) for i, future in enumerate(single)]
    assert [[size] for size in sizes] == alone[10:25]
    assert [future.result(PATIENCE).prediction.size for future in fixed] == [3, 30, 130]
    await_idle(engine)


def test_networks_that_were_drawn_ahead_join_as_they_are_needed(engine: Engine, model: Model) -> None:
    """Ensembles without a seed, whose networks were drawn all at once before there was a request."""
    images = draw_images(model, 60)
    model, rule = add_rules(model, images)
    engine.warm_up(model)
    for _ in range(3):
        wait_until(lambda: not engine._ensembles.lacks_networks)
        answer = engine.predict(model, images, None, 100, rule=rule).result(PATIENCE)
        assert len(set(check(answer, model, images, rule))) > 1
    await_idle(engine)


def test_room_in_the_queue_is_freed_as_inputs_leave(engine: Engine, model: Model) -> None:
    images = draw_images(model, 60)
    model, rule = add_rules(model, images)
    room: list[int] = []
    settle = StoppingRule.settle

    def look(rule: StoppingRule, *asked: object) -> Tensor:
        room.append(engine.admission.amount)
        return settle(rule, *asked)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StoppingRule, "settle", look)
        sizes = check(engine.predict(model, images, 7, 100, rule=rule).result(PATIENCE), model, images, rule)
    left = [sum(size >= each for size in sizes) * (100 - each) if each <= 20 else 0 for each in SIZES]
    assert room[: len(SIZES)] == left
    await_idle(engine)


def test_outputs_that_are_not_finite_fail_their_request_alone(
    engine: Engine, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = draw_images(model, 60)
    model, rule = add_rules(model, images)
    evaluate_all = Model.evaluate

    def spoil(model: Model, draw: Draw, inputs: Inputs) -> Outputs:
        outputs = evaluate_all(model, draw, inputs)
        plain = outputs.plain.clone()
        plain[:, (inputs.raw == images[2]).flatten(1).all(1)] = float("nan")
        return dataclasses.replace(outputs, plain=plain)

    with hold(engine):
        futures = [engine.predict(model, images[i : i + 1], 7, 100, rule=rule) for i in range(6)]
        monkeypatch.setattr(Model, "evaluate", spoil)
    for i, future in enumerate(futures):
        if i == 2:
            with pytest.raises(NotFiniteError):
                future.result(PATIENCE)
        else:
            assert len(future.result(PATIENCE).parts) == 1


def test_a_backbone_sees_each_image_once(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after some inputs have left, and where images are more than it sees at a time."""
    torch.manual_seed(0)
    save_with_backbone(tmp_path, TASK.classes)
    loaded = engine.load(tmp_path)
    calibration = make_calibration(networks=100, spec=loaded.checkpoint.input)
    loaded = Model(dataclasses.replace(loaded.checkpoint, calibration=calibration))
    images = draw_images(loaded, 2 * IMAGES_PER_RUN + 3)
    model, rule = add_rules(loaded, images)
    seen: list[int] = []
    prepare = Model.prepare

    def count(model: Model, raw: Tensor) -> Inputs:
        seen.append(len(raw))
        return prepare(model, raw)

    monkeypatch.setattr(Model, "prepare", count)
    futures = [engine.predict(model, part, 7, 100, rule=rule) for part in (images, images[:1])]
    sizes = check(futures[0].result(PATIENCE), model, images, rule)
    assert len(set(sizes)) > 1
    assert check(futures[1].result(PATIENCE), model, images[:1], rule) == sizes[:1]
    assert seen == [IMAGES_PER_RUN, IMAGES_PER_RUN, 3, 1]
    await_idle(engine)
