import gc
import threading
from collections.abc import Generator
from concurrent.futures import CancelledError, Future
from functools import partial
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import torch
from torch import Tensor

import service.engine.batches
import service.engine.engine
import service.engine.ensembles
import service.engine.moving
from models.checkpoint import Checkpoint, CheckpointConfig, Training, load_checkpoint
from models.inputs.vector import VectorSpec
from models.model import Model
from models.predictions.prediction import Draw, Inputs, Outputs, evaluate, interpret
from models.samplers.mlp import MLPConfig
from models.targets.layers import Activation, Linear
from models.targets.target import TargetNetwork
from models.tasks.classification import Classification, Uncertainty
from models.tasks.probabilities import NotFiniteError
from service.admission import OverloadedError
from service.engine.batches import Answer
from service.engine.engine import Engine
from service.engine.ensembles import Ensembles, Freshness, Policy
from tests.engine import await_idle, draw_images, hold
from tests.waiting import PATIENCE, wait_until


def check(answer: Answer, model: Model, images: Tensor, size: int) -> None:
    """Whether an answer is what its seed's networks say, asked alone."""
    config = model.checkpoint.config
    alone = evaluate(model.checkpoint.sampler, config.input, config.task, images, answer.seed, size)
    expected = interpret(config.task, alone)
    torch.testing.assert_close(answer.prediction.members, expected.members, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(answer.prediction.score("fragility"), expected.score("fragility"), rtol=1e-4, atol=1e-6)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of inputs that networks were asked about, step by step."""
    counts: list[int] = []

    evaluate_all = Model.evaluate

    def count(model: Model, draw: Draw, inputs: Inputs) -> Outputs:
        counts.append(len(inputs))
        return evaluate_all(model, draw, inputs)

    monkeypatch.setattr(Model, "evaluate", count)
    return counts


def test_a_seed_gives_its_answer_whatever_else_runs(engine: Engine, model: Model) -> None:
    requests: list[tuple[Tensor, int | None, int, Future[Answer]]] = []
    with hold(engine):
        for i in range(24):
            images, seed, size = draw_images(model, 1 + i % 5, i), (None, 7, 8)[i % 3], (1, 30, 100, 150)[i % 4]
            requests.append((images, seed, size, engine.predict(model, images, seed, size)))
    for images, seed, size, future in requests:
        answer = future.result(PATIENCE)
        assert seed in (None, answer.seed)
        assert answer.prediction.members.shape[:2] == (size, len(images))
        check(answer, model, images, size)


def test_requests_that_arrive_while_the_device_is_busy_form_a_batch(
    engine: Engine, model: Model, asked: list[int]
) -> None:
    images = draw_images(model, 2)
    with hold(engine):
        first = [engine.predict(model, images, None, 20) for _ in range(5)]
    (seed,) = {future.result(PATIENCE).seed for future in first}
    assert asked == [10]
    assert engine.predict(model, images, None, 20).result(PATIENCE).seed != seed


def test_requests_with_one_seed_share_its_networks(engine: Engine, model: Model, asked: list[int]) -> None:
    images = draw_images(model, 2)
    with hold(engine):
        futures = [engine.predict(model, images, seed, 20) for seed in (1, 2, 1)]
    assert [future.result(PATIENCE).seed for future in futures] == [1, 2, 1]
    assert asked == [4, 2]


def test_fresh_networks_for_each_request(model: Model) -> None:
    engine = Engine(torch.device("cpu"), Freshness("request"))
    images = draw_images(model, 1)
    with hold(engine):
        futures = [engine.predict(model, images, None, 5) for _ in range(4)]
    assert len({future.result(PATIENCE).seed for future in futures}) == 4
    engine.close()


def test_networks_of_an_interval_end_with_time_or_predictions(model: Model) -> None:
    now = 0.0
    ensembles = Ensembles(Freshness("interval", seconds=10, predictions=100), clock=lambda: now)
    first = ensembles.take(model, 1)
    assert ensembles.take(model, 50) is first
    now = 9.9
    assert ensembles.take(model, 49) is first  # which makes a hundred
    second = ensembles.take(model, 1)
    assert second.seed != first.seed
    now = 19.8
    assert ensembles.take(model, 1) is second
    now = 20.0
    assert ensembles.take(model, 1) is not second


def test_networks_are_drawn_ahead_once_each(model: Model) -> None:
    ensembles = Ensembles(Freshness())
    assert not ensembles.lacks_networks
    ensembles.expect(model)
    while ensembles.lacks_networks:
        ensembles.draw_ahead()
    ensemble = ensembles.take(model, 1)
    assert ensemble.count == model.default_size == 100
    assert ensembles.take(model, 1).seed != ensemble.seed
    start = 0
    while start < 150:  # some of them are not kept
        networks = ensemble.draw(start, 150)
        alone = model.checkpoint.sampler.sample(ensemble.seed, networks.members)
        for name, tensor in networks.weights.items():
            torch.testing.assert_close(tensor, alone[name], rtol=1e-5, atol=1e-6)
        start = networks.members.stop
    assert start == 150
    ensembles.forget(model)
    assert not ensembles.lacks_networks


def test_a_small_request_need_not_wait_for_a_large_one(engine: Engine, model: Model) -> None:
    order: list[str] = []
    with hold(engine):
        large = engine.predict(model, draw_images(model, 256), 1, 1000)
        small = engine.predict(model, draw_images(model, 1), 2, 10)
        for name, future in (("large", large), ("small", small)):
            future.add_done_callback(partial(lambda name, _: order.append(name), name))
    check(large.result(PATIENCE), model, draw_images(model, 256), 1000)
    assert order == ["small", "large"]


def test_no_more_may_wait_than_the_queue_holds(model: Model) -> None:
    engine = Engine(torch.device("cpu"), queue_cost=100)
    images = draw_images(model, 4)
    with hold(engine):
        largest = engine.predict(model, images, 1, 100)  # as nothing else waits
        with pytest.raises(OverloadedError) as caught:
            engine.predict(model, images[:1], 1, 1)
        assert caught.value.seconds > 0
        assert largest.cancel()
        futures = [engine.predict(model, images, 1, size) for size in (10, 12)]
        with pytest.raises(OverloadedError):
            engine.predict(model, images, 1, 1)
    for future in futures:
        future.result(PATIENCE)
    engine.predict(model, images, 1, 25).result(PATIENCE)
    engine.close()


def test_a_cancelled_request_costs_nothing_further(engine: Engine, model: Model, asked: list[int]) -> None:
    with hold(engine):
        futures = [engine.predict(model, draw_images(model, n), None, 10) for n in (1, 2, 4)]
        assert futures[1].cancel()
    assert futures[2].result(PATIENCE).prediction.members.shape[1] == 4
    assert asked == [5]
    large = engine.predict(model, draw_images(model, 256), 1, 100_000)
    wait_until(lambda: len(asked) >= 3)
    assert large.cancel()
    engine.sample(model, 1, [0], {"linear1.bias"}).result(PATIENCE)  # a turn later
    steps = len(asked)
    engine.sample(model, 1, [0], {"linear1.bias"}).result(PATIENCE)
    assert len(asked) == steps


def test_nonsense_for_one_request_is_not_the_others_fault(engine: Engine) -> None:
    target = TargetNetwork((1,), (Linear(3), Activation(), Linear(2)))
    spec, task = VectorSpec(("x",), (0.0,), (1.0,)), Classification(("a", "b"))
    config = CheckpointConfig(MLPConfig(), target, spec, task, Training("test", "none", "digits", 0, 0, 0))
    sampler = MLPConfig().build(target).eval().requires_grad_(False)
    model = Model(Checkpoint("numbers", "1", config, sampler, None, None))
    with hold(engine):
        futures = [engine.predict(model, torch.tensor([[x]]), None, 5) for x in (1.0, float("inf"), 2.0)]
    assert isinstance(futures[0].result(PATIENCE).prediction.uncertainty, Uncertainty)
    assert futures[2].result(PATIENCE).seed == futures[0].result(PATIENCE).seed
    with pytest.raises(NotFiniteError):
        futures[1].result(PATIENCE)


def test_a_failing_batch_is_answered_and_the_engine_goes_on(engine: Engine, model: Model) -> None:
    wrong = engine.predict(model, torch.zeros(1, 3, 99, 99, dtype=torch.uint8), None, 5)
    with pytest.raises(RuntimeError):
        wrong.result(PATIENCE)
    images = draw_images(model, 1)
    check(engine.predict(model, images, None, 5).result(PATIENCE), model, images, 5)


def fail_above(monkeypatch: pytest.MonkeyPatch, inputs: int, networks: int) -> list[tuple[int, int]]:
    """Makes memory run out for more than so many inputs or networks of a step, or networks of a draw; lists steps."""
    steps: list[tuple[int, int]] = []

    evaluate_all, draw_all = Model.evaluate, Model.draw

    def evaluate_some(model: Model, draw: Draw, part: Inputs) -> Outputs:
        if len(part) > inputs or len(draw.members) > networks:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        steps.append((len(part), len(draw.members)))
        return evaluate_all(model, draw, part)

    def draw_some(model: Model, seed: int, members: range) -> Draw:
        if len(members) > 8 * networks:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory")
        return draw_all(model, seed, members)

    monkeypatch.setattr(Model, "evaluate", evaluate_some)
    monkeypatch.setattr(Model, "draw", draw_some)
    return steps


@pytest.mark.parametrize("policy", ["batch", "interval"])
def test_what_memory_does_not_suffice_for_is_done_in_parts(
    model: Model, monkeypatch: pytest.MonkeyPatch, policy: Policy
) -> None:
    engine = Engine(torch.device("cpu"), Freshness(policy))
    images = draw_images(model, 11)
    engine.warm_up(model)  # with networks drawn ahead, all at once
    steps = fail_above(monkeypatch, inputs=3, networks=5)
    with hold(engine):
        requests = [(images[first:last], size) for first, last, size in ((0, 4, 20), (4, 5, 1), (5, 11, 70))]
        futures = [engine.predict(model, part, None, size) for part, size in requests]
    for future, (part, size) in zip(futures, requests, strict=True):
        check(future.result(PATIENCE), model, part, size)
    assert len({future.result().seed for future in futures}) == 1
    assert max(inputs for inputs, _ in steps) > 1
    assert max(networks for _, networks in steps) > 1
    monkeypatch.undo()
    check(engine.predict(model, images, 7, 100).result(PATIENCE), model, images, 100)
    engine.close()


def test_no_memory_for_a_single_network_is_an_error(
    engine: Engine, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_above(monkeypatch, inputs=0, networks=0)
    with pytest.raises((torch.OutOfMemoryError, RuntimeError), match="memory"):
        engine.predict(model, draw_images(model, 5), None, 5).result(PATIENCE)
    assert engine.fault is None
    monkeypatch.undo()
    engine.predict(model, draw_images(model, 5), None, 5).result(PATIENCE)


def test_a_device_that_computes_no_more_closes_the_engine(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(torch.device("cpu"))
    monkeypatch.setattr(service.engine.engine, "works", lambda _: False)
    with hold(engine):
        broken = engine.predict(model, torch.zeros(1, 3, 99, 99, dtype=torch.uint8), None, 5)
        waiting = engine.predict(model, draw_images(model, 1), 7, 5)
    with pytest.raises(CancelledError):
        broken.result(PATIENCE)
    with pytest.raises(CancelledError):
        waiting.result(PATIENCE)
    assert engine.fault == "the device cpu stopped responding"
    assert engine.predict(model, draw_images(model, 1), None, 5).cancelled()
    engine.close()


@pytest.mark.parametrize("policy", ["batch", "interval"])
def test_a_checkpoint_that_is_served_no_more_leaves_nothing_behind(
    checkpoints: Path, model: Model, policy: Policy
) -> None:
    engine = Engine(torch.device("cpu"), Freshness(policy))
    old = engine.load(checkpoints / "digits")
    engine.warm_up(old)
    with hold(engine):
        late = engine.predict(old, draw_images(old, 1), None, 5)
        waiting = threading.Thread(target=engine.unload, args=[old])
        waiting.start()
    waiting.join()
    check(late.result(PATIENCE), old, draw_images(old, 1), 5)
    check(engine.predict(old, draw_images(old, 1), None, 5).result(PATIENCE), old, draw_images(old, 1), 5)
    check(engine.predict(model, draw_images(old, 1), None, 5).result(PATIENCE), model, draw_images(old, 1), 5)
    gone = ref(old.checkpoint.sampler)
    del old, late, waiting
    wait_until(lambda: gc.collect() >= 0 and gone() is None)
    engine.close()


def test_a_computation_takes_turns_until_it_ends_fails_or_is_cancelled(engine: Engine, model: Model) -> None:
    said: list[str] = []

    def count(name: str, steps: int) -> Generator[None, None, str]:
        for _ in range(steps):
            said.append(name)
            yield
        return name

    def fail() -> Generator[None, None, str]:
        yield
        raise ValueError("no")

    with hold(engine):
        first, second = (engine.compute(model, count(name, 3), cost=5) for name in "ab")
        failing = engine.compute(model, fail(), cost=5)
        assert engine.admission.amount == 15
    assert (first.result(), second.result()) == ("a", "b")
    assert said == ["a", "b"] * 3
    with pytest.raises(ValueError, match="no"):
        failing.result()
    endless = engine.compute(model, count("c", 10**9), cost=5)
    endless.cancel()
    with hold(engine):
        steps = len(said)
    assert engine.compute(model, count("d", 1), cost=5).result() == "d"
    assert said[steps:] == ["d"]
    await_idle(engine)


def test_closing_cancels_what_is_not_done(model: Model) -> None:
    engine = Engine(torch.device("cpu"))
    with hold(engine):
        futures: list[Future[Any]] = [
            engine.predict(model, draw_images(model, 1), None, 5),
            engine.sample(model, 0, [0], {"linear1.bias"}),
        ]
        closing = threading.Thread(target=engine.close)
        closing.start()
        wait_until(lambda: engine._closing)
    closing.join()
    assert all(future.cancelled() for future in futures)
    assert engine.predict(model, draw_images(model, 1), None, 5).cancelled()


def test_weights_are_moved_to_a_device_in_steps(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = load_checkpoint(checkpoints / "digits").sampler
    monkeypatch.setattr(service.engine.moving, "NUMBERS_PER_COPY", 100)
    monkeypatch.setattr(service.engine.moving, "STEP_SECONDS", 0)
    # Another device is not there; so what is made on one is made here, and full of what it must not keep.
    monkeypatch.setattr(torch, "empty_like", lambda tensor, **_: tensor.new_full(tensor.shape, 7))
    before = {name: (tensor.clone(), tensor.data_ptr()) for name, tensor in sampler.state_dict().items()}
    steps = sum(1 for _ in service.engine.moving.move(sampler, torch.device("cuda")))
    assert steps >= sum(tensor.numel() for tensor, _ in before.values()) // 100
    for name, tensor in sampler.state_dict().items():
        assert torch.equal(tensor, before[name][0])
        assert tensor.data_ptr() != before[name][1]
    assert list(service.engine.moving.move(sampler, torch.device("cpu"))) == []
