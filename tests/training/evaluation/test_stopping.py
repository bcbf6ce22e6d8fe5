"""Rules by which ensembles stop growing: what they promise holds on inputs that nobody has seen."""

import dataclasses
from functools import cache

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from models.checkpoint_files import dump_json
from models.predictions.detection import Calibration
from models.predictions.prediction import Outputs, Part, interpret
from models.predictions.stopping import Stopping, StoppingRule, grow
from tests.calibrations import TASK, draw_logits, make_calibration
from training.evaluation.answers import read_answers
from training.evaluation.growth import measure_foreign_growth, measure_growth
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


def grow_all(calibration: Calibration, rule: StoppingRule, outputs: Outputs) -> list[Part]:
    """The predictions of ensembles that stop growing."""
    parts = grow(rule, calibration.measure, interpret(TASK, outputs))
    assert torch.equal(
        torch.cat([part.positions for part in parts]).sort().values, torch.arange(outputs.plain.shape[1])
    )
    return parts


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_ensembles_that_stop_answer_as_whole_ones_do(rate: float) -> None:
    """On 6,000 new inputs, up to four standard errors: no more answers differ than may, and no more inputs are flagged.
    And far fewer networks are asked."""
    calibration, n = learn(), 6000
    rule = find_rule(calibration, rate)
    outputs = draw_outputs(n, 5, 0)
    stopped, networks = torch.zeros(n, 3, dtype=torch.int64), torch.zeros(n)
    for part in grow_all(calibration, rule, outputs):
        stopped[part.positions] = read_answers(calibration.follow(rule), part.prediction, rate)
        networks[part.positions] = float(part.prediction.size)
    assert networks.mean() < 0.7 * NETWORKS
    assert {int(size) for size in networks} <= set(ROUNDS)
    for share in stopped[:, 1:].double().mean(0):
        assert abs(share - rate) <= 4 * (rate * (1 - rate) * (1 / n + 1 / 1200)) ** 0.5
    whole, other = (read_answers(calibration, interpret(TASK, o), rate) for o in (outputs, draw_outputs(n, 5, 1)))
    excess = (stopped != other).any(1).double() - (whole != other).any(1).double()
    assert excess.mean() <= TOLERANCE + 4 * excess.std() / n**0.5


def test_judgements_name_the_networks_that_were_asked() -> None:
    calibration = learn()
    rule = find_rule(calibration, 0.05)
    for part in grow_all(calibration, rule, draw_outputs(500, 5, 0)):
        prediction = part.prediction
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
    for part in grow_all(calibration, rule, outputs):
        sets = calibration.follow(rule).choose_sets(part.prediction, 0.9)
        covered[part.positions] = sets.members.gather(1, labels[part.positions, None])[:, 0]
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


def test_metrics_are_those_of_the_answers() -> None:
    """On the inputs of one more seed; the labels are those of whole ensembles."""
    calibration = learn()
    whole, other = (interpret(TASK, draw_outputs(1200, 9, draw)) for draw in (0, 1))
    labels = whole.probabilities.argmax(-1)
    found = measure_growth(calibration, whole, other, labels)
    assert calibration.stopping is not None
    assert [row.rate for row in found] == [
        rate for rate, rule in zip(calibration.rates, calibration.stopping.rules, strict=True) if rule
    ]
    (row,) = (row for row in found if row.rate == 0.05)
    parts = grow(find_rule(calibration, 0.05), calibration.measure, whole)
    asked = sorted(size for part in parts for size in [part.prediction.size] * len(part.positions))
    assert row.networks == pytest.approx(sum(asked) / 1200)
    assert row.quantiles == (asked[599], asked[1140])
    right = sum((p.prediction.probabilities.argmax(-1) == labels[p.positions]).sum().item() for p in parts)
    assert row.accuracy == right / 1200
    assert row.whole_accuracy == 1
    assert row.usually_differing == pytest.approx(
        (read_answers(calibration, whole, 0.05) != read_answers(calibration, other, 0.05)).any(1).double().mean().item()
    )
    assert row.nll == pytest.approx(row.whole_nll, rel=0.05)


def test_outliers_are_told_apart_as_well() -> None:
    """Those on which networks agree less."""
    calibration = learn()
    inside, outside = interpret(TASK, draw_outputs(600, 9, 0)), interpret(TASK, make_outliers(600))
    found = measure_foreign_growth(calibration, inside, outside)
    assert found is not None
    assert 5 <= found.networks <= NETWORKS
    assert found.auroc == pytest.approx(found.whole_auroc, abs=0.02)
    parts = grow(find_rule(calibration, 0.05), calibration.measure, outside)
    followed = calibration.follow(find_rule(calibration, 0.05))
    flagged = sum(int(followed.judge(p.prediction)["out_of_distribution"].flagged.sum()) for p in parts)
    assert found.flagged == flagged / 600
    without = dataclasses.replace(calibration, stopping=None)
    assert measure_foreign_growth(without, inside, outside) is None
    assert measure_growth(without, inside, outside, torch.zeros(600, dtype=torch.int64)) == ()


def make_outliers(inputs: int) -> Outputs:
    outputs = draw_outputs(inputs, 10, 0)
    return Outputs(0.3 * outputs.plain, outputs.jittered)


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
