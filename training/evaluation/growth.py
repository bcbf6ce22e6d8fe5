"""Metrics of ensembles that stop growing when an input is settled.

Shapes: B inputs, K classes.
"""

import torch
from torch import Tensor

from models.predictions.detection import Calibration
from models.predictions.prediction import Prediction, join_parts
from models.predictions.stopping import grow
from training.evaluation.answers import read_answers
from training.evaluation.measures import measure_accuracy, measure_auroc, measure_nll
from training.evaluation.metrics import ForeignGrowthMetrics, GrowthMetrics
from training.evaluation.summaries import measure_share


def measure_growth(
    calibration: Calibration, whole: Prediction, other: Prediction, labels: Tensor
) -> tuple[GrowthMetrics, ...]:
    """Metrics for each rate with a rule.

    Args:
        calibration: the calibration.
        whole: prediction of whole ensembles for the test inputs, whose first networks are the ensembles that grow.
        other: prediction of whole ensembles of other seeds.
        labels: labels of the test inputs, [B].
    """
    rules = calibration.stopping.rules if calibration.stopping else ()
    found = []
    for rate, rule in zip(calibration.rates, rules, strict=False):
        if rule is None:
            continue
        parts = grow(rule, calibration.measure, whole)
        networks = join_parts(parts, [torch.full_like(part.positions, part.prediction.size) for part in parts]).double()
        own, followed = [part.prediction for part in parts], calibration.follow(rule)
        answers = join_parts(parts, [read_answers(followed, each, rate) for each in own])
        logs = join_parts(parts, [calibration.temper(each.log_probabilities, each.size) for each in own])
        usual, others = (read_answers(calibration, each, rate) for each in (whole, other))
        found.append(
            GrowthMetrics(
                rate=rate,
                networks=float(networks.mean()),
                quantiles=(float(networks.quantile(0.5)), float(networks.quantile(0.95, interpolation="higher"))),
                differing=measure_share((answers != others).any(1)),
                usually_differing=measure_share((usual != others).any(1)),
                accuracy=measure_accuracy(logs, labels),
                nll=measure_nll(logs, labels),
                whole_accuracy=measure_accuracy(whole.log_probabilities, labels),
                whole_nll=measure_nll(calibration.temper(whole.log_probabilities, whole.size), labels),
            )
        )
    return tuple(found)


def measure_foreign_growth(
    calibration: Calibration, inside: Prediction, outside: Prediction
) -> ForeignGrowthMetrics | None:
    """Metrics on outliers, told from test inputs, at the default rate; None if it has no rule."""
    rule = calibration.find_rule()
    if rule is None:
        return None
    usual, foreign = (grow(rule, calibration.measure, each) for each in (inside, outside))
    entropies = [
        join_parts(parts, [part.prediction.score("predictive_entropy") for part in parts]) for parts in (usual, foreign)
    ]
    followed = calibration.follow(rule)
    flags = [followed.judge(part.prediction)["out_of_distribution"].flagged for part in foreign]
    sizes = [torch.full_like(part.positions, part.prediction.size) for part in foreign]
    return ForeignGrowthMetrics(
        networks=float(join_parts(foreign, sizes).double().mean()),
        auroc=measure_auroc(*entropies),
        whole_auroc=measure_auroc(*(each.score("predictive_entropy") for each in (inside, outside))),
        flagged=measure_share(join_parts(foreign, flags)),
    )
