"""Rules by which ensembles stop growing, chosen and tested on validation inputs.

A rule has one number that is chosen, its strictness: how many typical changes a score or a lead must be away from where
the answer changes. Rules are tested from the strictest on, each at the same level, until one fails. So all that pass do
so with the stated confidence (fixed-sequence testing: Angelopoulos et al., "Learn then Test", 2021, section 4).

Shapes: S networks, B inputs, D draws of networks for each input.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from models.predictions.detection import Calibration, conformal_quantile
from models.predictions.prediction import Outputs, Prediction, interpret
from models.predictions.size_calibration import SizeCalibration
from models.predictions.stopping import ROUNDS, Round, Stopping, StoppingRule, measure_lead
from models.tasks.kind import Flag
from models.tasks.regression import RegressionUncertainty
from models.tasks.task import Task
from training.evaluation.answers import read_answers, read_labels
from training.evaluation.betting import find_p_value
from training.evaluation.calibration import measure_deviations, measure_label_probabilities

TOLERANCE, CONFIDENCE = 0.005, 0.95

STRICTNESSES = (8.0, 6.0, 5.0, 4.0, 3.5, 3.0, 2.75, 2.5, 2.25, 2.0, 1.75, 1.5, 1.25, 1.0)

NEAR_SHARE, LEAST_NEAR = 0.2, 25
"""Share and least number of inputs, those nearest to where an answer changes, that typical changes are measured on."""


class _Judged(NamedTuple):
    """What ensembles of one size say about some inputs."""

    size: SizeCalibration
    prediction: Prediction
    scores: Mapping[Flag, Tensor]
    """[B] each."""
    lead: Tensor
    """[B]."""


def learn_rules(
    calibration: Calibration,
    task: Task,
    *,
    guide: Outputs,
    judged: Outputs,
    labels: Tensor,
    tests: Sequence[Outputs],
    split: str,
) -> Stopping | None:
    """Learns the most permissive rules that pass the test, or None if ensembles are too small for rounds.

    Args:
        calibration: the calibration of ensembles of fixed sizes.
        task: what the outputs mean.
        guide: outputs of whole ensembles on validation inputs, which show how scores and leads change between rounds.
        judged: outputs of whole ensembles on the calibration inputs, of a seed each.
        labels: labels of the calibration inputs, [B] or [B, K].
        tests: outputs of D ≥ 2 whole ensembles on validation inputs that are not in `guide`, of D seeds each.
        split: name of the validation split.
    """
    largest = len(judged.plain)
    sizes = [*(size for size in ROUNDS if size < largest), largest]
    if len(sizes) == 1:
        return None
    judge = partial(_judge, calibration, task, sizes)
    known = judge(judged)
    fits = [_measure_fits(each, labels) for each in known]
    learner = _Learner(calibration, judge(guide), known, fits, [judge(outputs) for outputs in tests])
    rules = tuple(map(learner.learn, calibration.rates))
    return Stopping(split, tests[0].plain.shape[1], TOLERANCE, CONFIDENCE, rules)


def can_pass(n: int) -> bool:
    """Whether so many inputs would suffice for the test of a rule under which no answer differs."""
    return find_p_value(torch.full((n,), 0.5), (1 + TOLERANCE) / 2, 1 - CONFIDENCE) <= 1 - CONFIDENCE


def _judge(calibration: Calibration, task: Task, sizes: Sequence[int], outputs: Outputs) -> list[_Judged]:
    """What ensembles of each size say."""
    judged = []
    for count in sizes:
        size, prediction = calibration.for_size(count), interpret(task, outputs.prefix(count))
        scores = {flag: size.measure(prediction, flag) for flag in calibration.flags}
        judged.append(_Judged(size, prediction, scores, measure_lead(prediction)))
    return judged


def _measure_fits(judged: _Judged, labels: Tensor) -> Tensor:
    """What prediction sets or intervals are calibrated by, [B, 1] or [B, K]: the smaller, the better labels fit."""
    if judged.size.classes is None:
        measured = judged.prediction.uncertainty
        assert isinstance(measured, RegressionUncertainty)
        return measure_deviations(measured.mean, measured.standard_deviation, labels)
    logs, temperature = judged.prediction.log_probabilities, judged.size.classes.temperature
    return -measure_label_probabilities(logs, temperature, labels)[:, None]


class _Learner:
    """Learns the rule of one rate after the other. Lists of what was judged have an element for each round."""

    def __init__(
        self,
        calibration: Calibration,
        guide: Sequence[_Judged],
        known: Sequence[_Judged],
        fits: Sequence[Tensor],
        tests: Sequence[Sequence[_Judged]],
    ) -> None:
        self._calibration, self._guide, self._known, self._fits, self._tests = calibration, guide, known, fits, tests

    def learn(self, rate: float) -> StoppingRule | None:
        """The last rule that passes the test, from the strictest on; None if none does."""
        whole = [self._answer(judged, rate) for judged in self._tests]
        passed = None
        for strictness in STRICTNESSES:
            rule = self._make_rule(rate, strictness)
            stopped = [self._answer(judged, rate, rule) for judged in self._tests]
            excess = _count_differences(stopped, whole) - _count_differences(whole, whole)
            if find_p_value((1 + excess) / 2, (1 + TOLERANCE) / 2, 1 - CONFIDENCE) > 1 - CONFIDENCE:
                break
            passed = rule
        return passed

    def _make_rule(self, rate: float, strictness: float) -> StoppingRule:
        rounds, rates = self._make_rounds(rate, strictness), self._calibration.rates
        last = _find_last_rounds(self._known, rounds)
        offsets = {}
        for flag in self._calibration.flags:
            excesses = [each.scores[flag] - own.centres[flag] for each, own in zip(self._known, rounds, strict=True)]
            offsets[flag] = conformal_quantile(_choose(last, excesses), rate)
        fits = _choose(last, self._fits)
        quantiles = tuple(tuple(conformal_quantile(fit, each) for fit in fits.unbind(1)) for each in rates)
        if self._calibration.sizes[0].classes is None:
            return StoppingRule(rounds, offsets, reaches=quantiles)
        return StoppingRule(rounds, offsets, least_probabilities=tuple(-quantile for (quantile,) in quantiles))

    def _make_rounds(self, rate: float, strictness: float) -> tuple[Round, ...]:
        """Rounds whose distances are so many typical changes until the last round."""
        guide, rounds = self._guide, []
        share = torch.tensor(1 - rate, dtype=torch.float64)
        centres = [{flag: float(own.double().quantile(share)) for flag, own in each.scores.items()} for each in guide]
        for each, own in zip(guide, centres, strict=True):
            distances = {
                flag: strictness * _measure_change(score - own[flag], guide[-1].scores[flag] - centres[-1][flag])
                for flag, score in each.scores.items()
            }
            stays = read_labels(each.prediction) == read_labels(guide[-1].prediction)
            final = torch.where(stays, guide[-1].lead, -guide[-1].lead)
            lead = strictness * _measure_change(each.lead, final) if each.size.classes else 0.0
            rounds.append(Round(each.size.ensemble_size, own, distances, lead))
        return tuple(rounds)

    def _answer(self, judged: Sequence[_Judged], rate: float, rule: StoppingRule | None = None) -> Tensor:
        """Labels and flags of whole ensembles, or of those that stop by a rule, int64 [B, 1 + flags]."""
        if rule is None:
            return read_answers(self._calibration, judged[-1].prediction, rate)
        calibration = self._calibration.follow(rule)
        answers = [read_answers(calibration, each.prediction, rate) for each in judged]
        return _choose(_find_last_rounds(judged, rule.rounds), answers)


def _find_last_rounds(judged: Sequence[_Judged], rounds: Sequence[Round]) -> Tensor:
    """Number of the round in which each input is settled, int64 [B]."""
    settled = torch.stack([own.settle(each.lead, each.scores) for each, own in zip(judged, rounds, strict=True)])
    return settled.int().argmax(0)


def _choose(rounds: Tensor, found: Sequence[Tensor]) -> Tensor:
    """What was found in the round [B] of each input, from what was in all, [B, …] each."""
    return torch.stack(list(found))[rounds, torch.arange(len(rounds))]


def _measure_change(now: Tensor, finally_: Tensor) -> float:
    """Root mean square of the change of numbers [B], among those that are near 0 now."""
    near = now.abs().argsort()[: max(LEAST_NEAR, int(NEAR_SHARE * len(now)))]
    return float((finally_ - now)[near].square().mean().sqrt())


def _count_differences(answers: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """Share of pairs of different draws whose answers [B, …] to an input differ, [B]."""
    pairs = [(one, other) for i, one in enumerate(answers) for j, other in enumerate(others) if i != j]
    return torch.stack([(one != other).any(1).double() for one, other in pairs]).mean(0)
