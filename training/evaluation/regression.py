"""Metrics of a regression."""

import math
from collections.abc import Mapping

from torch import Tensor

from models.checkpoint import Checkpoint
from models.predictions.detection import Calibration
from models.predictions.prediction import Outputs, Prediction, interpret
from models.tasks.regression import Regression, RegressionUncertainty
from training.data.dataset import Examples
from training.evaluation.diversity import measure_layer_norms
from training.evaluation.evaluation import PROMISE_SEEDS, SEED, evaluate_parts
from training.evaluation.flags import judge_any, measure_flags
from training.evaluation.measures import measure_auroc
from training.evaluation.metrics import BeyondMetrics, IntervalMetrics, RegressionMetrics
from training.evaluation.summaries import measure_share


def measure_regression(checkpoint: Checkpoint, test: Examples, outputs: Mapping[str, Outputs]) -> RegressionMetrics:
    """Metrics of a calibrated regression on the test split, whose outputs are `outputs["test"]`, and on other sets."""
    task, calibration, target = checkpoint.config.task, checkpoint.calibration, checkpoint.config.target
    assert isinstance(task, Regression)
    assert calibration is not None
    predictions = {name: interpret(task, o) for name, o in outputs.items()}
    prediction = predictions.pop("test")
    uncertainty, members = prediction.uncertainty, prediction.members.double()
    assert isinstance(uncertainty, RegressionUncertainty)
    errors = (members - test.labels).square()
    misses = (uncertainty.mean - test.labels).abs()
    answers = interpret(task, evaluate_parts(checkpoint, test.inputs, PROMISE_SEEDS))
    return RegressionMetrics(
        test_inputs=len(test),
        networks=len(members),
        seed=SEED,
        single_error=float(errors.mean().sqrt()),
        ensemble_error=float(misses.square().mean().sqrt()),
        nll=measure_regression_nll(prediction, test.labels),
        covered=measure_share(misses <= 3 * uncertainty.variance.sqrt()),
        deviation=_deviation(prediction),
        flags=measure_flags(calibration, answers),
        layer_norms=measure_layer_norms(target, checkpoint.sampler.sample(SEED, range(len(members)))),
        beyond=tuple(
            BeyondMetrics(
                dataset=name,
                inputs=other.members.shape[1],
                deviation=_deviation(other),
                auroc=measure_auroc(prediction.score("relative_deviation"), other.score("relative_deviation")),
                flagged=measure_share(judge_any(calibration, other)),
            )
            for name, other in predictions.items()
        ),
        version=checkpoint.version,
        intervals=tuple(_measure_coverage(calibration, answers, test.labels, rate) for rate in calibration.rates),
    )


def measure_regression_nll(prediction: Prediction, labels: Tensor) -> float:
    """Mean −ln p of labels [B, K] in nats under the mixture of the members' normal distributions."""
    task, members = prediction.task, prediction.members.double()
    assert isinstance(task, Regression)
    noise = task.predict_noise(prediction.outputs.plain).double().square()
    log_likelihoods = -((members - labels).square() / noise + (2 * math.pi * noise).log()).sum(-1) / 2
    return float(-(log_likelihoods.logsumexp(0) - math.log(len(members))).mean())


def measure_intervals(labels: Tensor, lower: Tensor, upper: Tensor) -> tuple[float, float]:
    """Share of labels [B, K] that lie in their intervals, and the intervals' mean width."""
    covered = (labels >= lower) & (labels <= upper)
    return float(covered.double().mean()), float((upper - lower).mean())


def _measure_coverage(calibration: Calibration, prediction: Prediction, labels: Tensor, rate: float) -> IntervalMetrics:
    found = calibration.choose_intervals(prediction, 1 - rate)
    return IntervalMetrics(found.coverage, *measure_intervals(labels, found.lower, found.upper))


def _deviation(prediction: Prediction) -> float:
    """Root mean square of the members' standard deviations."""
    assert isinstance(prediction.uncertainty, RegressionUncertainty)
    return float(prediction.uncertainty.epistemic_variance.mean().sqrt())
