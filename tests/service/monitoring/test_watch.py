"""Watches over streams whose scores are drawn."""

import dataclasses
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from models.model import Model
from models.predictions.prediction import Part
from service.engine.engine import Engine
from service.engine.observer import Observer
from service.monitoring.monitor import Monitor
from service.monitoring.state import MOST_BUCKETS, measure_share
from service.monitoring.watch import MOST_OF_A_SEED, MOST_SEEDS, Watch, _Seeds
from tests.drift import draw_scores
from tests.engine import draw_images
from tests.growing import add_rules

FLAGS = {"out_of_distribution", "suspect_adversarial"}


def make_watch(model: Model, **options: float) -> Watch:
    return Watch(model, options.get("level", 0.01), clock=lambda: 1000.0, random=np.random.default_rng(0))


def feed(
    watch: Watch, model: Model, inputs: int, first: int = 0, *, foreign: bool = False, networks: int = 100
) -> None:
    """Inputs, ten of each seed."""
    for seed in range(first, first + inputs // 10):
        watch.add(draw_scores(model, 10, seed, foreign=foreign, networks=networks), seed)


def test_alarms_come_with_a_change_and_stay(model: Model) -> None:
    watch = make_watch(model)
    feed(watch, model, 2000)
    known = watch.read()
    assert known.inputs == 2000
    assert known.flags.keys() == FLAGS
    assert not any(state.alarm for state in known.flags.values())
    assert all(state.log10 < 2 for state in known.flags.values())
    feed(watch, model, 50, 200, foreign=True)
    for state in watch.read().flags.values():
        assert state.alarm is not None
        assert 2000 < state.alarm.inputs < 2020
        assert state.alarm.time == 1000
        assert state.log10 > 5
    alarms = {flag: state.alarm for flag, state in watch.read().flags.items()}
    feed(watch, model, 3000, 205)
    assert {flag: state.alarm for flag, state in watch.read().flags.items()} == alarms


def test_a_watch_counts_what_it_sees(model: Model) -> None:
    watch, parts = make_watch(model), [draw_scores(model, 7, seed) for seed in range(300)]
    for seed, part in enumerate(parts):
        watch.add(part, seed)
    known = watch.read()
    labels = np.concatenate([part.prediction.probabilities.argmax(-1).numpy() for part in parts])
    assert known.classes == np.bincount(labels, minlength=10).tolist()
    assert len(known.history) <= MOST_BUCKETS
    assert sum(bucket.inputs for bucket in known.history) == known.inputs == 2100
    calibration = model.calibration
    assert calibration is not None
    for flag in calibration.flags:
        counts = np.sum([bucket.counts[flag] for bucket in known.history], axis=0)
        scores = np.concatenate([part.scores[flag].numpy() for part in parts])
        above = [(scores > threshold).sum() for threshold in calibration.for_size(100).thresholds[flag]]
        assert counts.cumsum().tolist() == [*above, 2100]


def test_of_inputs_that_share_a_seed_few_are_bet_on_where_it_matters(model: Model) -> None:
    for networks, expected in ((100, {"out_of_distribution": 300, "suspect_adversarial": MOST_OF_A_SEED}), (10, {})):
        watch = make_watch(model)
        for _ in range(3):
            watch.add(draw_scores(model, 100, networks=networks), seed=7)
        bets = {flag: sum(own.inputs for own in state.bets.values()) for flag, state in watch.read().flags.items()}
        assert bets == dict.fromkeys(FLAGS, MOST_OF_A_SEED) | expected
        watch.add(draw_scores(model, 3, networks=networks), seed=8)
        after = {flag: sum(own.inputs for own in state.bets.values()) for flag, state in watch.read().flags.items()}
        assert after == {flag: count + 3 for flag, count in bets.items()}


def test_seeds_are_remembered_within_bounds() -> None:
    seeds = _Seeds(np.random.default_rng(0))
    assert seeds.choose(0, 10).tolist() == list(range(10))
    assert len(seeds.choose(0, 10)) == MOST_OF_A_SEED - 10
    assert len(seeds.choose(0, 10)) == 0
    for seed in range(1, MOST_SEEDS):
        chosen = seeds.choose(seed, 100).tolist()
        assert len(set(chosen)) == MOST_OF_A_SEED
        assert chosen == sorted(chosen)
    assert len(seeds.choose(0, 10)) == 0
    for seed in range(MOST_SEEDS, 2 * MOST_SEEDS):
        seeds.choose(seed, 1)
    assert len(seeds._used) == MOST_SEEDS


def test_each_size_of_ensembles_has_a_share_of_the_promise(model: Model) -> None:
    """The second size that is asked begins with a sixth of the capital, where the first has half."""
    watch = make_watch(model)
    assert watch.read().flags["out_of_distribution"].log10 == pytest.approx(np.log10(1 / 2))
    feed(watch, model, 200)
    feed(watch, model, 30, 100, foreign=True, networks=50)
    state = watch.read().flags["out_of_distribution"]
    assert list(state.bets) == [100, 50]
    capital = {size: sum(bets.capital) for size, bets in state.bets.items()}
    reserve = np.log(30) / np.log(30 + state.bets[50].inputs)
    assert state.log10 == pytest.approx(np.log10((capital[50] + reserve) / 6))
    assert state.alarm is not None


def test_a_level_decides_when_an_alarm_is_raised(model: Model) -> None:
    alarms = []
    for level in (0.5, 1e-2, 1e-12):
        watch = make_watch(model, level=level)
        feed(watch, model, 100, foreign=True)
        alarm = watch.read().flags["out_of_distribution"].alarm
        assert alarm is not None
        alarms.append(alarm.inputs)
    assert alarms == sorted(set(alarms))


def test_a_model_without_calibration_has_no_flags(model: Model) -> None:
    plain = Model(dataclasses.replace(model.checkpoint, calibration=None))
    watch, part = Watch(plain, 0.01), draw_scores(model, 5)
    watch.add(Part(part.positions, part.prediction), 0)
    known = watch.read()
    assert (known.inputs, known.flags, sum(known.classes)) == (5, {}, 5)


def test_watches_survive_a_restart(model: Model, tmp_path: Path) -> None:
    first = Monitor(0.01, tmp_path)
    feed(first.find(model), model, 1000)
    first.measure(model, draw_scores(model, 40, foreign=True), 1)
    known = first.find(model).read()
    first.save([model])
    second = Monitor(0.01, tmp_path)
    second.resume([model])
    assert second.find(model).read() == known
    assert known.flags["out_of_distribution"].alarm
    feed(second.find(model), model, 500, 300)
    assert second.find(model).read().inputs == known.inputs + 500


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"version": "', '"version": "f', "it is about version f"),
        ('"inputs": 100,', '"inputs": -1,', "greater than or equal to 0"),
        ('"bag": [', '"bag": [1,', "does not fit the model's calibration"),
        ('"since"', '"until"', "since"),
        ("{", "", "Invalid JSON"),
    ],
)
def test_a_state_that_does_not_fit_is_told_and_left_out(
    model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture, old: str, new: str, message: str
) -> None:
    first = Monitor(0.01, tmp_path)
    feed(first.find(model), model, 100)
    first.save([model])
    (file,) = tmp_path.iterdir()
    assert file.name == f"{model.name}.json"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    second = Monitor(0.01, tmp_path)
    with caplog.at_level(logging.WARNING):
        second.resume([model])
    assert message in caplog.text
    assert second.find(model).read().inputs == 0


def test_a_folder_that_cannot_be_written_is_told(
    model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    monitor = Monitor(0.01, folder)
    folder.touch()
    monitor.save([model])
    monitor.save([model])
    assert caplog.text.count("cannot be kept") == 1
    folder.unlink()
    monitor.save([model])
    (file,) = folder.iterdir()
    assert file.name == f"{model.name}.json"
    file.unlink()
    os.mkfifo(file)
    monitor.save([model])
    assert "is not a regular file" in caplog.text


def test_a_model_that_is_loaded_again_is_watched_anew(model: Model) -> None:
    monitor = Monitor(0.01)
    monitor.measure(model, draw_scores(model, 5), 0)
    assert monitor.find(Model(model.checkpoint)).read().inputs == 0
    assert monitor.find(model).read().inputs == 5
    assert monitor.reset(model).read().inputs == 0


def test_intervals_of_shares() -> None:
    """Newcombe, "Two-sided confidence intervals for the single proportion" (1998), method 3, table I."""
    assert measure_share(81, 263)[1:] == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert measure_share(15, 148)[1:] == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert measure_share(0, 20)[1:] == pytest.approx((0, 0.1611), abs=5e-5)
    assert measure_share(1, 29)[1:] == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert measure_share(0, 0) == (0, 0, 1)


def test_growing_ensembles_are_measured_before_they_stop(model: Model) -> None:
    """The engine reports each input once, with the first round's networks, whatever the rule; warm-ups do not count."""
    seen: list[tuple[int, int, int]] = []

    class Listener(Observer):
        def measure(self, model: Model, part: Part, seed: int) -> None:
            assert model is growing
            assert part.scores.keys() == FLAGS
            seen.append((part.prediction.size, len(part.positions), seed))

    images = draw_images(model, 12)
    growing, rule = add_rules(model, images)
    engine = Engine(torch.device("cpu"), observers=[Listener()])
    try:
        engine.warm_up(growing)
        assert not seen
        answer = engine.predict(growing, images, 7, 100, rule=rule).result()
        assert len(answer.parts) > 1
        engine.predict(growing, images[:4], 8, 30).result()
    finally:
        engine.close()
    assert seen == [(5, 12, 7), (30, 4, 8)]
