"""Measures of predictions and scores; each is a function of tensors.

Shapes: B inputs, K classes, n inputs inside the distribution, m outside of it.
"""

import math

import torch
import torch.nn.functional as F
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
    truth = F.one_hot(labels, probabilities.shape[1])
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
    errors, sizes = _count_marked(scores, wrong)
    risks = _spread(errors, sizes).cumsum(0) / torch.arange(1, len(scores) + 1)
    return float(risks.mean())


def measure_augrc(scores: Tensor, wrong: Tensor) -> float:
    """Area under the generalised risk–coverage curve (Traub et al., NeurIPS 2024), between 0 and 1/2.

    The generalised risk is the share of inputs that are both among the least uncertain and wrong. Unlike AURC, its area
    does not weigh the errors among the few most certain inputs above all others: with error rate e, it is e²/2 plus
    e (1 − e) times the probability that a right answer is less certain than a wrong one.

    Args:
        scores: [B], larger where the answer is less certain.
        wrong: bool [B]. Inputs with equal scores share their errors evenly.
    """
    risks = _spread(*_count_marked(scores, wrong)).cumsum(0) / len(scores)
    return float(torch.trapezoid(F.pad(risks, (1, 0))) / len(scores))


def measure_coverage(scores: Tensor, wrong: Tensor, risk: float) -> float:
    """Largest share of inputs that a threshold of the score accepts with at most a share `risk` of errors; 0 if none.

    Args:
        scores: [B], larger where the answer is less certain.
        wrong: bool [B].
        risk: the share of errors among the accepted inputs.
    """
    errors, sizes = (counts.cumsum(0) for counts in _count_marked(scores, wrong))
    accepted = sizes * (errors <= risk * sizes)
    return float(accepted.max() / len(scores))


def _count_marked(scores: Tensor, marked: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of marked inputs and of all with each distinct score, in ascending order."""
    values, group, sizes = scores.unique(return_inverse=True, return_counts=True)
    return torch.zeros(len(values), dtype=torch.float64).index_add(0, group, marked.double()), sizes


def _spread(errors: Tensor, sizes: Tensor) -> Tensor:
    """Errors of groups of some sizes, spread evenly over their inputs, [B]."""
    return (errors / sizes).repeat_interleave(sizes)


def measure_auroc(inside: Tensor, outside: Tensor) -> float:
    """Probability that a score outside, [m], exceeds one inside, [n]; ties count half."""
    ordered = inside.sort().values
    below, not_above = (torch.searchsorted(ordered, outside, right=right) for right in (False, True))
    return float((below + not_above).double().mean() / (2 * len(inside)))


def measure_aupr(inside: Tensor, outside: Tensor) -> float:
    """Average precision of finding the inputs outside; the chance level is m / (n + m).

    It is the mean precision at the scores of the inputs outside, and ties have one precision. Scores are finite, and
    there are some of both.
    """
    scores = torch.cat([inside, outside])
    found, sizes = (counts.flip(0) for counts in _count_marked(scores, torch.arange(len(scores)) >= len(inside)))
    return float((found * found.cumsum(0) / sizes.cumsum(0)).sum() / len(outside))


def id_flagged_at_95_ood(inside: Tensor, outside: Tensor) -> float:
    """Share of inside [n] flagged by the threshold that flags 95 % of outside [m]: one meaning of FPR95."""
    threshold = outside.sort(descending=True).values[math.ceil(0.95 * len(outside)) - 1]
    return float((inside >= threshold).double().mean())


def ood_missed_at_5_id(inside: Tensor, outside: Tensor) -> float:
    """Share of outside [m] missed by the threshold that flags at most 5 % of inside [n]: the other meaning of FPR95."""
    threshold = inside.sort().values[math.ceil(0.95 * len(inside)) - 1]
    return float((outside <= threshold).double().mean())
