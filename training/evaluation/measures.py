"""Measures of predictions and scores; each is a function of tensors.

Shapes: B inputs, K classes, n inputs inside the distribution, m outside of it.
"""

import math

import torch
from torch import Tensor

from models.tasks.probabilities import BINS, measure_calibration_error


def measure_accuracy(probabilities: Tensor, labels: Tensor) -> float:
    """Share of inputs whose label [B] has the largest probability, from [B, K]."""
    return float((probabilities.argmax(-1) == labels).double().mean())


def measure_nll(log_probabilities: Tensor, labels: Tensor) -> float:
    """Mean −ln p of labels [B] in nats, from ln p [B, K].

    It takes logarithms, because probabilities that underflow would have to be clipped, which flatters confident errors.
    """
    return float(-log_probabilities.double().gather(1, labels[:, None]).mean())


def measure_brier(probabilities: Tensor, labels: Tensor) -> float:
    """Mean of Σ (p − y)² over classes, between 0 and 2 (Brier 1950)."""
    truth = torch.nn.functional.one_hot(labels, probabilities.shape[1])
    return float((probabilities.double() - truth).square().sum(-1).mean())


def measure_ece(probabilities: Tensor, labels: Tensor, *, adaptive: bool = False) -> float:
    """Expected calibration error of the largest probability, in 15 bins (Guo et al., ICML 2017).

    The bins are of equal width or, if adaptive, of equally many inputs (Nguyen & O'Connor, EMNLP 2015).
    """
    confidences, chosen = probabilities.double().max(-1)
    if not adaptive:
        return measure_calibration_error(confidences, chosen == labels)
    gaps = confidences - (chosen == labels).double()
    parts = gaps[confidences.argsort(stable=True)].tensor_split(BINS)
    return float(sum(part.sum().abs() for part in parts) / len(gaps))


def measure_aurc(scores: Tensor, wrong: Tensor) -> float:
    """Area under the risk–coverage curve (Geifman, Uziel & El-Yaniv, ICLR 2019).

    It is the share of errors among the least uncertain inputs, averaged over how many inputs those are.

    Args:
        scores: [B], larger where the answer is less certain.
        wrong: bool [B]. Inputs with equal scores share their errors evenly.
    """
    values, group, sizes = scores.unique(return_inverse=True, return_counts=True)
    errors = torch.zeros(len(values), dtype=torch.float64).index_add(0, group, wrong.double())
    spread = (errors / sizes).repeat_interleave(sizes)
    risks = spread.cumsum(0) / torch.arange(1, len(scores) + 1)
    return float(risks.mean())


def measure_auroc(inside: Tensor, outside: Tensor) -> float:
    """Probability that a score outside, [m], exceeds one inside, [n]; ties count half."""
    ordered = inside.sort().values
    below, not_above = (torch.searchsorted(ordered, outside, right=right) for right in (False, True))
    return float((below + not_above).double().mean() / (2 * len(inside)))


def measure_aupr(inside: Tensor, outside: Tensor) -> float:
    """Average precision of finding the inputs outside; the chance level is m / (n + m)."""
    from sklearn.metrics import average_precision_score  # takes a second, which other commands need not wait

    truth = torch.cat([torch.zeros(len(inside)), torch.ones(len(outside))])
    return float(average_precision_score(truth.numpy(), torch.cat([inside, outside]).numpy()))


def id_flagged_at_95_ood(inside: Tensor, outside: Tensor) -> float:
    """Share of inside [n] flagged by the threshold that flags 95 % of outside [m]: one meaning of FPR95."""
    threshold = outside.sort(descending=True).values[math.ceil(0.95 * len(outside)) - 1]
    return float((inside >= threshold).double().mean())


def ood_missed_at_5_id(inside: Tensor, outside: Tensor) -> float:
    """Share of outside [m] missed by the threshold that flags at most 5 % of inside [n]: the other meaning of FPR95."""
    threshold = inside.sort().values[math.ceil(0.95 * len(inside)) - 1]
    return float((outside <= threshold).double().mean())
