import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.evaluation.measures import (
    id_flagged_at_95_ood,
    measure_accuracy,
    measure_augrc,
    measure_aupr,
    measure_aurc,
    measure_auroc,
    measure_brier,
    measure_coverage,
    measure_ece,
    measure_nll,
    ood_missed_at_5_id,
)

PROBABILITIES = torch.tensor([[0.7, 0.3], [0.4, 0.6], [0.9, 0.1]])
LABELS = torch.tensor([0, 0, 0])


def test_known_answers() -> None:
    assert measure_accuracy(PROBABILITIES, LABELS) == pytest.approx(2 / 3)
    assert measure_nll(PROBABILITIES.log(), LABELS) == pytest.approx(-math.log(0.7 * 0.4 * 0.9) / 3)
    assert measure_brier(PROBABILITIES, LABELS) == pytest.approx((2 * 0.3**2 + 2 * 0.6**2 + 2 * 0.1**2) / 3)
    assert measure_ece(PROBABILITIES, LABELS) == pytest.approx((0.3 + 0.6 + 0.1) / 3)


def test_equally_full_bins() -> None:
    """Thirty inputs in fifteen bins of two: the right and the wrong one of a pair cancel only if they share a bin."""
    confidence = torch.linspace(0.5, 0.99, 30).double()
    probabilities = torch.stack([confidence, 1 - confidence], dim=1)
    labels = torch.tensor([0, 1] * 15)
    pairs = (confidence - torch.tensor([1.0, 0.0] * 15)).view(15, 2).sum(1).abs().sum() / 30
    assert measure_ece(probabilities, labels, adaptive=True) == pytest.approx(pairs.item())


@given(seed=st.integers(0, 2**32), classes=st.integers(2, 6), sharpness=st.floats(0, 20))
def test_calibration_error_is_that_of_torchmetrics(seed: int, classes: int, sharpness: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    probabilities = (sharpness * torch.randn(50, classes, generator=generator)).softmax(-1)
    labels = torch.randint(classes, (50,), generator=generator)
    from torchmetrics.functional.classification import multiclass_calibration_error  # takes long to import

    theirs = multiclass_calibration_error(probabilities, labels, classes, n_bins=15)
    assert measure_ece(probabilities, labels) == pytest.approx(theirs.item(), abs=1e-5)


@given(seed=st.integers(0, 2**32), classes=st.integers(2, 6), sharpness=st.floats(0, 5))
def test_nll_is_that_of_scikit_learn(seed: int, classes: int, sharpness: float) -> None:
    """Where theirs does not clip, which it does below 2 · 10⁻¹⁶."""
    generator = torch.Generator().manual_seed(seed)
    logs = (sharpness * torch.randn(50, classes, generator=generator).double().clamp(-3, 3)).log_softmax(-1)
    labels = torch.randint(classes, (50,), generator=generator)
    from sklearn.metrics import log_loss  # takes long to import

    theirs = log_loss(labels.numpy(), logs.exp().numpy(), labels=range(classes))
    assert measure_nll(logs, labels) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("nll", [36.0, 69.1, 708.0, 745.0, 1e4])
def test_nll_has_no_limit(nll: float) -> None:
    """Of an error that is made with all confidence: e⁻⁷⁴⁵ is the smallest number there is, and e⁻¹⁰⁰⁰⁰ is none."""
    logs = torch.tensor([[0.0, -nll]]).double()
    assert measure_nll(logs, torch.tensor([1])) == pytest.approx(nll)


@given(
    inside=st.lists(st.integers(0, 5), min_size=1, max_size=30),
    outside=st.lists(st.integers(0, 5), min_size=1, max_size=30),
)
def test_separation_is_that_of_scikit_learn(inside: list[int], outside: list[int]) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score  # takes long to import

    truth, scores = [0] * len(inside) + [1] * len(outside), inside + outside
    for ours, theirs in ((measure_auroc, roc_auc_score), (measure_aupr, average_precision_score)):
        assert ours(torch.tensor(inside), torch.tensor(outside)) == pytest.approx(theirs(truth, scores))


def test_separation_known_answers() -> None:
    inside, outside = torch.arange(100.0), torch.arange(100.0) + 90
    # 95 % of outside lie at 95 or above, where 5 of inside lie; 5 % of inside lie above 94, which 5 of outside do not.
    assert id_flagged_at_95_ood(inside, outside) == 0.05
    assert ood_missed_at_5_id(inside, outside) == 0.05
    assert measure_auroc(inside, inside + 1000) == 1
    assert measure_aupr(inside, inside + 1000) == 1
    assert measure_aupr(inside, inside[:1] * 0 - 1) == pytest.approx(1 / 101)  # the one outlier is ranked last


def test_aurc_known_answers() -> None:
    scores = torch.tensor([0.1, 0.2, 0.3, 0.4])
    assert measure_aurc(scores, torch.tensor([False, False, False, True])) == pytest.approx(1 / 4 / 4)
    first_wrong = torch.tensor([True, False, False, False])
    assert measure_aurc(scores, first_wrong) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert measure_aurc(torch.zeros(4), first_wrong) == pytest.approx(1 / 4)


def test_aurc_of_ties_is_that_of_a_mean_order() -> None:
    scores, wrong = torch.tensor([1.0, 1.0, 2.0]), torch.tensor([True, False, False])
    orders = [[True, False, False], [False, True, False]]
    expected = sum(measure_aurc(torch.arange(3.0), torch.tensor(order)) for order in orders) / 2
    assert measure_aurc(scores, wrong) == pytest.approx(expected)


@given(
    scores=st.lists(st.integers(0, 4), min_size=2, max_size=20),
    seed=st.integers(0, 2**32),
)
def test_augrc_is_what_its_paper_says_it_is(scores: list[int], seed: int) -> None:
    """A function of the error rate and of the probability that an error is less certain than a right answer."""
    wrong = torch.rand(len(scores), generator=torch.Generator().manual_seed(seed)) < 0.4
    found, rate = measure_augrc(torch.tensor(scores), wrong), wrong.double().mean().item()
    ranked = measure_auroc(torch.tensor(scores)[~wrong], torch.tensor(scores)[wrong]) if 0 < rate < 1 else 0.0
    assert found == pytest.approx(rate**2 / 2 + rate * (1 - rate) * (1 - ranked))


def test_coverage_known_answers() -> None:
    scores, wrong = torch.arange(200.0), torch.zeros(200, dtype=torch.bool)
    assert measure_coverage(scores, wrong, 0.01) == 1
    wrong[[40, 150, 151, 199]] = True
    assert measure_coverage(scores, wrong, 0.01) == 150 / 200  # one in a hundred and fifty
    assert measure_coverage(scores, wrong, 0.02) == 1
    assert measure_coverage(-scores, wrong, 0.01) == 0  # the most certain is wrong, and errors go on
    assert measure_coverage(scores // 100, wrong, 0.01) == 0.5  # a threshold accepts all equal scores or none
    assert measure_coverage(scores, ~wrong, 0.01) == 0
