"""Temperatures, and thresholds of flags and prediction sets, from splits that have no other use or from folds.

Shapes: S sampled networks, n inputs, K classes.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.predictions.calibration_origin import Seeds
from models.predictions.detection import (
    CALIBRATED_SIZES,
    RATES,
    Calibration,
    apply_temperature,
    conformal_quantile,
    find_rank,
    list_sizes,
)
from models.predictions.prediction import FEATURE_DISTANCE, Outputs, Prediction, ScoreName, interpret
from models.predictions.size_calibration import ClassCalibration, NumberCalibration, SizeCalibration
from models.predictions.surprise import COMBINED_SURPRISE, Levels, measure_levels, measure_score
from models.tasks.kind import Flag
from models.tasks.probabilities import average_logits
from models.tasks.regression import RegressionUncertainty
from models.tasks.task import Task
from training.evaluation.measures import measure_auroc

FEW_LABELS = 1000
"""Number of labels below which labels are made slightly uncertain, like Platt's targets ("Probabilistic Outputs for
Support Vector Machines", 1999). So few can hold no error by chance, and then the lowest temperature would fit best."""

CLEARLY = 0.01
"""How much larger a score's AUROC must be for the score to replace an earlier one."""


def fit_temperature(log_probabilities: Tensor, labels: Tensor) -> float:
    """The temperature from 1/10 to 10 at which mean probabilities fit labels [n] best, from their logarithms [n, K]."""
    return _minimize(lambda temperature: measure_misfit(apply_temperature(log_probabilities, temperature), labels))


def fit_member_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature of the single networks, from 1/100 to 100, at which their mean probabilities fit the labels best.

    Args:
        logits: [S, n, K].
        labels: [n].
    """
    return _minimize(lambda temperature: measure_misfit(average_logits(logits / temperature), labels), 100)


def measure_misfit(logs: Tensor, labels: Tensor) -> Tensor:
    """NLL of labels [n] under log probabilities [n, K]; if labels are few, one in n + 2 counts as any class."""
    share = 1 / (len(labels) + 2) if len(labels) < FEW_LABELS else 0.0
    return (1 - share) * F.nll_loss(logs, labels) - share * logs.mean()


def _minimize(measure_loss: Callable[[float], Tensor], largest: float = 10) -> float:
    """The number from 1 / largest to largest at which a loss is least."""
    from scipy.optimize import minimize_scalar  # takes long to import

    reach = math.log(largest)
    found = minimize_scalar(lambda log: float(measure_loss(math.exp(log))), bounds=(-reach, reach), method="bounded")
    return float(math.exp(found.x))


def choose_scores(names: Sequence[ScoreName], inside: Prediction, outside: Prediction) -> tuple[ScoreName, ...]:
    """The score that tells foreign from usual inputs best, or the scores whose surprises, added, do so.

    Networks that learned to be uncertain on outliers agree there, so their mutual information is small. Other networks
    disagree most on foreign images, while their predictive entropy is only that of a hard image. So the best of the
    networks' own scores is found first. A later one must be clearly better than an earlier one. If the distance of
    features is known, it is added to that score, unless one of the two is clearly better alone: the distance sees what
    is far away, and the networks see what lies between the classes. Only made-up inputs decide, so that metrics on real
    outliers stay honest.

    Args:
        names: the scores; the first is the default.
        inside: usual inputs, but not those of the calibration split: choosing by their ranks would change quantiles. In
            folds there are no others, and they are judged by other networks.
        outside: foreign inputs.
    """
    own = [(name,) for name in names if name not in {FEATURE_DISTANCE, COMBINED_SURPRISE}]
    best = _choose_best(own, inside, outside)
    if COMBINED_SURPRISE not in names:
        return best
    return _choose_best([(*best, FEATURE_DISTANCE), best, (FEATURE_DISTANCE,)], inside, outside)


def _choose_best(
    choices: Sequence[tuple[ScoreName, ...]], inside: Prediction, outside: Prediction
) -> tuple[ScoreName, ...]:
    def measure(names: tuple[ScoreName, ...]) -> float:
        name, levels = _prepare_score(names, inside)
        return measure_auroc(measure_score(inside, name, levels), measure_score(outside, name, levels))

    best, known = choices[0], measure(choices[0])
    for names in choices[1:]:
        if (other := measure(names)) > max(known, 0.5) + CLEARLY:
            best, known = names, other
    return best


def _prepare_score(names: tuple[ScoreName, ...], usual: Prediction | None) -> tuple[ScoreName, dict[ScoreName, Levels]]:
    """The name of a single score, or that of a combined surprise with its levels on usual inputs."""
    if len(names) == 1 or usual is None:
        return names[0], {}
    return COMBINED_SURPRISE, {name: measure_levels(usual.score(name)) for name in names}


def measure_deviations(means: Tensor, deviations: Tensor, labels: Tensor) -> Tensor:
    """How far labels are from their predicted means, in predicted standard deviations; all [n, K]."""
    return (labels - means).abs() / deviations.clamp(min=torch.finfo(torch.float64).tiny)


def measure_label_probabilities(log_probabilities: Tensor, temperature: float, labels: Tensor) -> Tensor:
    """Mean probabilities of the labels [n] at a temperature, [n], from the logarithms of all, [n, K]."""
    return apply_temperature(log_probabilities, temperature).exp().gather(1, labels[:, None])[:, 0]


def choose_rates(n: int) -> tuple[float, ...]:
    """The rates for which n inputs suffice.

    Raises:
        ValueError: if there is none.
    """
    rates = tuple(rate for rate in RATES if find_rank(n, rate) <= n)
    if not rates:
        raise ValueError(f"{n} inputs are too few to calibrate with; the largest rate, {RATES[-1]}, needs 4")
    return rates


def calibrate_sets(
    log_probabilities: Tensor, temperature: float, labels: Tensor, rates: Sequence[float]
) -> ClassCalibration:
    """Calibrates prediction sets at a temperature, from mean probabilities' logarithms, [n, K], and labels, [n]."""
    found = measure_label_probabilities(log_probabilities, temperature, labels)
    return ClassCalibration(temperature, tuple(-conformal_quantile(-found, rate) for rate in rates))


def calibrate_intervals(means: Tensor, deviations: Tensor, labels: Tensor, rates: Sequence[float]) -> NumberCalibration:
    """Calibrates prediction intervals from predicted means, standard deviations and labels, [n, K] each."""
    distances = measure_deviations(means, deviations, labels)
    return NumberCalibration(tuple(tuple(conformal_quantile(d, rate) for d in distances.unbind(1)) for rate in rates))


def calibrate(
    *,
    checkpoint: str,
    split: str,
    seeds: range,
    scores: Mapping[Flag, tuple[ScoreName, ...]],
    task: Task,
    outputs: Outputs,
    labels: Tensor,
    foreign: Outputs | None,
    validation: tuple[str, Outputs, Tensor] | None,
    folds: int | None = None,
) -> Calibration:
    """Measures thresholds, temperatures, prediction sets and intervals for several sizes of ensembles.

    The score that raises a flag is chosen once, by the largest ensemble, for all sizes but 1, as a single network has
    no other to disagree with.

    Args:
        checkpoint: digest of the checkpoint's `config.json`.
        split: name of the calibration split.
        seeds: seeds of the draws, one for each input.
        scores: the scores that can raise each flag; the first is the default.
        task: what the outputs mean.
        outputs: outputs of members 0 … S−1 of each seed on its input of the calibration split.
        labels: labels of that split, [n] or [n, K].
        foreign: outputs of other draws on foreign inputs, which decide the scores together with validation inputs.
        validation: name, outputs and labels of the split that scores are chosen on, and temperatures for classes.
        folds: number of folds, if the outputs are those of samplers that were trained without a fold each.

    Raises:
        ValueError: if the split is too small for every rate.
    """
    n = len(labels)
    rates = choose_rates(n)
    alone = best = {flag: names[:1] for flag, names in scores.items()}
    if foreign is not None and validation is not None:
        alone, best = (
            {flag: choose_scores(names, inside, outside) for flag, names in scores.items()}
            for inside, outside in (
                (interpret(task, validation[1].prefix(1)), interpret(task, foreign.prefix(1))),
                (interpret(task, validation[1]), interpret(task, foreign)),
            )
        )
    sizes = []
    for size in list_sizes(len(outputs.plain), CALIBRATED_SIZES):
        prediction = interpret(task, outputs.prefix(size))
        usual = None if validation is None else interpret(task, validation[1].prefix(size))
        chosen: dict[Flag, ScoreName] = {}
        thresholds: dict[Flag, tuple[float, ...]] = {}
        levels: dict[ScoreName, Levels] = {}
        for flag, names in (alone if size == 1 else best).items():
            chosen[flag], own = _prepare_score(names, usual)
            found = measure_score(prediction, chosen[flag], own)
            thresholds[flag] = tuple(conformal_quantile(found, rate) for rate in rates)
            levels |= own
        classes = None
        if validation is not None and usual is not None and task.has_classes:
            temperature = fit_temperature(usual.log_probabilities, validation[2])
            classes = calibrate_sets(prediction.log_probabilities, temperature, labels, rates)
        measured = prediction.uncertainty
        numbers = None
        if isinstance(measured, RegressionUncertainty):
            numbers = calibrate_intervals(measured.mean, measured.standard_deviation, labels, rates)
        sizes.append(SizeCalibration(size, chosen, thresholds, classes, numbers, levels))
    return Calibration(
        checkpoint=checkpoint,
        split=split,
        n=n,
        seeds=Seeds(seeds.start, len(seeds)),
        temperature_split=validation[0] if validation else None,
        rates=rates,
        sizes=tuple(sizes),
        folds=folds,
    )
