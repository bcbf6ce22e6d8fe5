"""Metrics of what networks and products of a coarser precision change.

Shapes: B inputs.
"""

from collections.abc import Mapping

from torch import Tensor

from models.precision import Precision
from models.predictions.detection import Calibration
from models.predictions.prediction import Outputs, Prediction, ScoreName, interpret
from models.tasks.classification import Classification
from models.tasks.kind import Flag
from training.evaluation.answers import read_answers
from training.evaluation.measures import measure_accuracy, measure_auroc, measure_nll
from training.evaluation.metrics import RoundedOutlierMetrics, RoundingMetrics, WholeMetrics
from training.evaluation.summaries import measure_share

SCORE: ScoreName = "predictive_entropy"


def measure_rounding(
    task: Classification,
    calibration: Calibration,
    precision: Precision,
    labels: Tensor,
    exact: Mapping[str, Outputs],
    rounded: Mapping[str, Outputs],
) -> RoundingMetrics:
    """Compares the outputs of the same members in float32 and in another precision.

    Args:
        task: the classes.
        calibration: the calibration, measured in float32.
        precision: the other precision.
        labels: labels of the test inputs, [B].
        exact: outputs by set in float32; that of the test inputs is `test`.
        rounded: the same in the other precision.
    """
    pairs = {name: (interpret(task, exact[name]), interpret(task, rounded[name])) for name in exact}
    one, other = pairs.pop("test")
    change = (one.score(SCORE) - other.score(SCORE)).abs()
    own, others = (read_answers(calibration, each, calibration.default_rate) for each in (one, other))
    return RoundingMetrics(
        precision=precision,
        differing=measure_share((own != others).any(1)),
        mean_change=float(change.mean()),
        largest_change=float(change.max()),
        exact=_measure_whole(calibration, one, labels),
        rounded=_measure_whole(calibration, other, labels),
        outliers=tuple(
            RoundedOutlierMetrics(
                dataset=name,
                exact_auroc=measure_auroc(one.score(SCORE), before.score(SCORE)),
                auroc=measure_auroc(other.score(SCORE), after.score(SCORE)),
                exact_flagged=_measure_flagged(calibration, before)["out_of_distribution"],
                flagged=_measure_flagged(calibration, after)["out_of_distribution"],
            )
            for name, (before, after) in pairs.items()
        ),
    )


def _measure_whole(calibration: Calibration, prediction: Prediction, labels: Tensor) -> WholeMetrics:
    logs = calibration.temper(prediction.log_probabilities, prediction.size)
    flagged = _measure_flagged(calibration, prediction)
    return WholeMetrics(measure_accuracy(logs, labels), measure_nll(logs, labels), flagged)


def _measure_flagged(calibration: Calibration, prediction: Prediction) -> dict[Flag, float]:
    judged = calibration.judge(prediction)
    return {flag: measure_share(judgement.flagged) for flag, judgement in judged.items()}
