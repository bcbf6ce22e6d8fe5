"""Rules by which ensembles stop growing: what they promise holds on inputs that nobody has seen."""

import dataclasses
from functools import cache

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from models.checkpoint_files import dump_json
from models.predictions.detection import Calibration
from models.predictions.prediction import Outputs, Prediction, interpret
from models.predictions.stopping import Stopping, StoppingRule
from tests.calibrations import TASK, draw_logits, make_calibration
from training.evaluation.stopping import TOLERANCE, can_pass, learn_rules

NETWORKS, NOISE = 60, 0.7
ROUNDS = (5, 10, 20, 50, 60)


def draw_outputs(inputs: int, seed: int, draw: int) -> Outputs:
    """Outputs of a draw of networks on the inputs of a seed. What noise makes of these are other inputs."""
    plain, jittered = (draw_logits(NETWORKS, inputs, own, draw, NOISE) for own in (seed, seed + 10**6))
    return Outputs(plain, jittered)


def draw_labels(outputs: Outputs) -> Tensor:
    """Labels for which the mean probabilities are right."""
    return outputs.plain.double().softmax(-1).mean(0).multinomial(1, generator=torch.Generator().manual_seed(1))[:, 0]


@cache
def learn() -> Calibration:
    """A calibration with rules, from 1,200 inputs of each kind."""
    judged = Outputs(*(draw_logits(NETWORKS, 1200, seed, noise=NOISE) for seed in (0, 2)))
    calibration = make_calibration(1200, NETWORKS, noise=NOISE)
    stopping = learn_rules(
        calibration,
        TASK,
        guide=draw_outputs(1200, 3, 1),
        judged=judged,
        labels=draw_labels(judged),
        tests=[draw_outputs(1200, 4, draw) for draw in range(3)],
        split="test/validation",
    )
    return dataclasses.replace(calibration, stopping=stopping)


def find_rule(calibration: Calibration, rate: float) -> StoppingRule:
    assert calibration.stopping is not None
    rule = calibration.stopping.rules[calibration.find_rate(rate)]
    assert rule is not None
    return rule


def grow(calibration: Calibration, rule: StoppingRule, outputs: Outputs) -> list[tuple[Tensor, Prediction]]:
    """The inputs that are settled in each round, and their predictions."""
    parts, left = [], torch.arange(outputs.plain.shape[1])
    for each in rule.rounds:
        prediction = interpret(TASK, outputs.prefix(each.ensemble_size).of_inputs(left))
        settled = rule.settle(prediction, calibration.for_size(each.ensemble_size))
        if settled.any():
            parts.append((left[settled], prediction.of_inputs(settled.nonzero()[:, 0])))
        left = left[~settled]
    assert not len(left)
    return parts


def answer(calibration: Calibration, prediction: Prediction, rate: float) -> Tensor:
    """Labels and flags, [B, 1 + flags]."""
    flags = [judgement.flagged for judgement in calibration.judge(prediction, rate).values()]
    return torch.stack([prediction.probabilities.argmax(-1), *flags], dim=1)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_ensembles_that_stop_answer_as_whole_ones_do(rate: float) -> None:
    """On 6,000 new inputs, up to four standard errors: no more answers differ than may, and no more inputs are flagged.
    And far fewer networks are asked."""
    calibration, n = learn(), 6000
    rule = find_rule(calibration, rate)
    outputs = draw_outputs(n, 5, 0)
    stopped, networks = torch.zeros(n, 3, dtype=torch.int64), torch.zeros(n)
    for positions, prediction in grow(calibration, rule, outputs):
        stopped[positions] = answer(calibration.follow(rule), prediction, rate)
        networks[positions] = float(prediction.size)
    assert networks.mean() < 0.7 * NETWORKS
    assert {int(size) for size in networks} <= set(ROUNDS)
    for share in stopped[:, 1:].double().mean(0):
        assert abs(share - rate) <= 4 * (rate * (1 - rate) * (1 / n + 1 / 1200)) ** 0.5
    whole, other = (answer(calibration, interpret(TASK, o), rate) for o in (outputs, draw_outputs(n, 5, 1)))
    excess = (stopped != other).any(1).double() - (whole != other).any(1).double()
    assert excess.mean() <= TOLERANCE + 4 * excess.std() / n**0.5


def test_judgements_name_the_networks_that_were_asked() -> None:
    calibration = learn()
    rule = find_rule(calibration, 0.05)
    for _, prediction in grow(calibration, rule, draw_outputs(500, 5, 0)):
        (last,) = (each for each in rule.rounds if each.ensemble_size == prediction.size)
        for flag, judgement in calibration.follow(rule).judge(prediction, 0.05).items():
            assert judgement.ensemble_size == prediction.size
            assert judgement.false_alarm_rate == 0.05
            assert judgement.threshold == last.centres[flag] + rule.offsets[flag]


def test_prediction_sets_of_ensembles_that_stop_keep_their_promise() -> None:
    """Coverage of .9 on 6,000 new inputs, up to four standard errors with those of the calibration."""
    calibration, n = learn(), 6000
    rule, outputs = find_rule(calibration, 0.05), draw_outputs(n, 6, 0)
    labels, covered = draw_labels(outputs), torch.zeros(n, dtype=torch.bool)
    for positions, prediction in grow(calibration, rule, outputs):
        sets = calibration.follow(rule).choose_sets(prediction, 0.9)
        covered[positions] = sets.members.gather(1, labels[positions, None])[:, 0]
    assert abs(covered.double().mean() - 0.9) <= 4 * (0.09 * (1 / n + 1 / 1200)) ** 0.5


def test_no_rule_passes_if_the_last_networks_overrule_the_others() -> None:
    def turn(outputs: Outputs) -> Outputs:
        return Outputs(torch.cat([outputs.plain[:50], -20 * outputs.plain[50:]]), outputs.jittered)

    stopping = learn_rules(
        learn(),
        TASK,
        guide=turn(draw_outputs(1200, 3, 1)),
        judged=turn(draw_outputs(1200, 7, 1)),
        labels=torch.zeros(1200, dtype=torch.int64),
        tests=[turn(draw_outputs(1200, 4, draw)) for draw in range(2)],
        split="test/validation",
    )
    assert stopping is not None
    assert stopping.rules[learn().find_rate(0.05)] is None


def test_few_inputs_cannot_pass_and_small_ensembles_have_no_rounds() -> None:
    assert not can_pass(100)
    assert can_pass(2000)
    small, labels = draw_outputs(100, 0, 0).prefix(5), torch.zeros(100, dtype=torch.int64)
    assert (
        learn_rules(
            make_calibration(100, 5), TASK, guide=small, judged=small, labels=labels, tests=[small, small], split=""
        )
        is None
    )


def test_rules_are_written_and_read() -> None:
    calibration = learn()
    assert TypeAdapter(Calibration).validate_json(dump_json(calibration)) == calibration


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: {"rules": s.rules[1:]}, "a stopping rule, or none, for each of 8 rates"),
        (lambda s: {"rules": (_change(s, rounds=s.rules[-1].rounds[:-1]), *s.rules[1:])}, "rounds must grow"),
        (lambda s: {"rules": (_change(s, rounds=s.rules[-1].rounds[::-1]), *s.rules[1:])}, "rounds must grow"),
        (lambda s: {"rules": (_change(s, offsets={}), *s.rules[1:])}, "scores and distances for out_of_distribution"),
        (lambda s: {"rules": (_change(s, least_probabilities=()), *s.rules[1:])}, "prediction sets or intervals"),
        (lambda s: {"rules": (_change(s, rounds=_end(s)), *s.rules[1:])}, "the last round must settle every input"),
    ],
)
def test_rules_that_do_not_fit_are_refused(change: object, reason: str) -> None:
    calibration = learn()
    assert callable(change)
    assert calibration.stopping is not None
    stopping = dataclasses.replace(calibration.stopping, **change(calibration.stopping))
    with pytest.raises(ValidationError, match=reason):
        dataclasses.replace(calibration, stopping=stopping)


def _change(stopping: Stopping, **fields: object) -> object:
    rule = stopping.rules[-1]
    assert rule is not None
    return dataclasses.replace(rule, **fields)  # type: ignore[arg-type]


def _end(stopping: Stopping) -> object:
    rule = stopping.rules[-1]
    assert rule is not None
    return (*rule.rounds[:-1], dataclasses.replace(rule.rounds[-1], lead=0.1))
