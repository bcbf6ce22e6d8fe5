"""Metrics that methods are compared by, as functions of the evidence of a training.

Shapes: B inputs.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor

from training.evaluation.evidence import Evidence
from training.evaluation.measures import (
    measure_accuracy,
    measure_augrc,
    measure_aurc,
    measure_auroc,
    measure_coverage,
    measure_ece,
    measure_nll,
    ood_missed_at_5_id,
)

COVERAGE = "coverage at 1% risk"

Metric = Callable[[Evidence, Tensor, Mapping[str, Tensor]], float]
"""A function of evidence, labels [B], and the indices of each set's inputs that count."""


def list_metrics(outliers: Sequence[str]) -> dict[str, Metric]:
    """Lists the metrics of a comparison by name. NLL and ECE are taken at the temperature."""
    metrics: dict[str, Metric] = {
        "accuracy": lambda e, labels, i: measure_accuracy(e.log_probabilities[i["test"]], labels[i["test"]]),
        "NLL": lambda e, labels, i: measure_nll(e.log_probabilities[i["test"]], labels[i["test"]]),
        "ECE": lambda e, labels, i: measure_ece(e.log_probabilities[i["test"]].exp(), labels[i["test"]]),
        "AURC": _rank(measure_aurc),
        "AUGRC": _rank(measure_augrc),
        COVERAGE: _rank(partial(measure_coverage, risk=0.01)),
    }
    for name in outliers:
        for kind, field in (("", "entropies"), (" flag", "flag_scores")):
            metrics[f"{name}{kind} AUROC"] = _separate(measure_auroc, name, field)
            metrics[f"{name}{kind} missed"] = _separate(ood_missed_at_5_id, name, field)
    return metrics


def count_decimals(name: str) -> int:
    """Number of decimals of a metric, if it is not a share. The areas are small."""
    return 6 if name in ("AURC", "AUGRC") else 4


def is_share(name: str) -> bool:
    """Whether a metric is a share of inputs."""
    return name in ("accuracy", COVERAGE) or name.endswith("missed")


def _rank(measure: Callable[[Tensor, Tensor], float]) -> Metric:
    """A metric of how well the entropy ranks the test inputs by whether they are answered wrongly."""

    def measure_ranking(evidence: Evidence, labels: Tensor, index: Mapping[str, Tensor]) -> float:
        own = index["test"]
        wrong = evidence.log_probabilities[own].argmax(-1) != labels[own]
        return measure(evidence.entropies["test"][own], wrong)

    return measure_ranking


def _separate(measure: Callable[[Tensor, Tensor], float], name: str, field: str) -> Metric:
    """A metric of how well scores, a field of the evidence, tell outliers from the test inputs."""

    def measure_separation(evidence: Evidence, _: Tensor, index: Mapping[str, Tensor]) -> float:
        scores: dict[str, Tensor] = getattr(evidence, field)
        return measure(scores["test"][index["test"]], scores[name][index[name]])

    return measure_separation
