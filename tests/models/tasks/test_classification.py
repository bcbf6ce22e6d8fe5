import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.tasks.classification import Classification, measure_uncertainty
from models.tasks.probabilities import average_logits, compute_probabilities, measure_disagreement


def to_logits(probabilities: torch.Tensor) -> torch.Tensor:
    """A probability of 0 becomes a logit that is far enough below the others."""
    return probabilities.log().clamp(min=-1e4)


def test_identical_members_have_no_mutual_information() -> None:
    member = torch.tensor([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0]])
    u = measure_uncertainty(to_logits(member.expand(5, 2, 3)))
    torch.testing.assert_close(u.mutual_information, torch.zeros(2).double())
    torch.testing.assert_close(u.predictive_entropy, u.expected_entropy)
    assert u.predictive_entropy[0].item() == pytest.approx(0.8018186, abs=1e-6)
    assert u.predictive_entropy[1].item() == 0
    assert not u.variation_ratio.any()


def test_two_opposite_certain_members() -> None:
    u = measure_uncertainty(to_logits(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])))
    assert u.mutual_information.item() == pytest.approx(math.log(2))
    assert u.expected_entropy.item() == 0
    assert u.variation_ratio.item() == 0.5
    assert u.probabilities.tolist() == [[0.5, 0.5]]


def test_uniform_members() -> None:
    u = measure_uncertainty(to_logits(torch.full((3, 1, 10), 0.1)))
    assert u.predictive_entropy.item() == pytest.approx(math.log(10))
    assert u.mutual_information.item() == pytest.approx(0, abs=1e-7)


def test_variation_ratio_counts_votes() -> None:
    votes = torch.tensor([0, 0, 0, 1, 2])
    u = measure_uncertainty(to_logits(torch.nn.functional.one_hot(votes, 3)[:, None].float()))
    assert u.variation_ratio.item() == pytest.approx(0.4)


def test_energy_and_max_probability() -> None:
    u = measure_uncertainty(torch.tensor([[[1.0, 2.0]], [[3.0, 2.0]]]))
    assert u.energy.item() == pytest.approx(-math.log(2 * math.exp(2)))  # of the mean logits, (2, 2)
    assert u.max_probability.item() == pytest.approx(0.5)


@given(seed=st.integers(0, 2**32), members=st.integers(1, 8), classes=st.integers(2, 6), sharpness=st.floats(0, 50))
def test_bounds_and_decomposition(seed: int, members: int, classes: int, sharpness: float) -> None:
    logits = torch.randn(members, 4, classes, generator=torch.Generator().manual_seed(seed)) * sharpness
    u = measure_uncertainty(logits)
    torch.testing.assert_close(u.predictive_entropy, u.expected_entropy + u.mutual_information, rtol=1e-6, atol=1e-6)
    assert (u.mutual_information >= 0).all()
    assert (u.predictive_entropy <= math.log(classes) + 1e-6).all()
    assert (u.mutual_information <= math.log(members) + 1e-6).all()
    assert (u.variation_ratio <= 1 - 1 / classes + 1e-9).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nonsense_is_never_certain(bad: float) -> None:
    members = torch.full((3, 2, 4), 0.25)
    members[1, 1, 2] = bad
    with pytest.raises(ValueError, match="not finite"):
        measure_uncertainty(members)


def test_cross_entropy_is_the_mean_over_networks() -> None:
    logits = torch.tensor([[[0.0, 0.0]], [[math.log(3), 0.0]]])
    expected = (math.log(2) + math.log(4)) / 2
    assert Classification(("a", "b")).measure_loss(logits, torch.tensor([[0], [1]])).item() == pytest.approx(expected)


def test_the_fit_of_a_classification_is_cross_entropy() -> None:
    logits, labels = torch.tensor([[[math.log(3), 0.0]]]), torch.tensor([[0]])
    assert Classification(("a", "b")).measure_loss(logits, labels).item() == pytest.approx(math.log(4 / 3))


def test_weighted_classes_are_weighted_in_the_mean() -> None:
    task, logits = Classification(("a", "b")), torch.tensor([[[0.0, 0.0], [0.0, 0.0]]])
    loss = task.measure_loss(logits, torch.tensor([[0, 1]]), torch.tensor([3.0, 0.5]))
    assert loss.item() == pytest.approx(1.75 * math.log(2))  # not divided by the sum of the weights


def test_what_training_reports() -> None:
    task = Classification(("a", "b"))
    logits = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [3.0, 0.0]]])
    name, share = task.measure_fit(logits, torch.tensor([[0, 0, 0, 0]]))
    assert (name, share.item()) == ("accuracy", 0.75)
    members = torch.tensor([[[0.9, 0.1], [0.4, 0.6], [0.4, 0.6]], [[0.3, 0.7], [0.4, 0.6], [0.1, 0.9]]])
    judged = task.measure_quality(members, torch.tensor([0, 1, 1]))
    assert judged == pytest.approx({"single accuracy": 5 / 6, "ensemble accuracy": 1.0, "disagreement": 1 / 3})


def test_disagreement_is_the_share_of_pairs_that_choose_otherwise() -> None:
    """Of three members 2 : 1 on the first input and all alike on the second: 4 of 6 pairs, and none."""
    members = torch.tensor([[[0.9, 0.1, 0.0], [1.0, 0.0, 0.0]]] * 2 + [[[0.1, 0.9, 0.0], [1.0, 0.0, 0.0]]])
    assert measure_disagreement(members) == pytest.approx((4 / 6 + 0) / 2)
    assert measure_disagreement(members[:1]) == 0


def test_the_logarithm_of_the_mean_probability_is_never_infinite() -> None:
    logits = torch.tensor([[[0.0, -5000.0]], [[0.0, -6000.0]]]).double()
    u = measure_uncertainty(logits)
    assert u.probabilities.tolist() == [[1.0, 0.0]]
    assert u.log_probabilities.flatten().tolist() == pytest.approx([0.0, -5000.0 - math.log(2)])
    assert average_logits(logits).tolist() == u.log_probabilities.tolist()


def test_fragility_is_of_the_class_that_all_networks_choose_and_of_the_networks_that_saw_noise() -> None:
    def logits(*members: float) -> torch.Tensor:
        return torch.tensor([[[p, 1 - p]] for p in members]).log()

    plain, jittered = logits(0.9, 0.7, 0.8), logits(0.6, 0.6)
    assert measure_uncertainty(plain, jittered).fragility.item() == pytest.approx(0.8 - 0.6)  # type: ignore[union-attr]
    assert measure_uncertainty(plain).fragility is None
    against = measure_uncertainty(logits(0.6, 0.1, 0.1), logits(0.9))
    assert against.fragility is not None
    assert against.fragility.item() == pytest.approx(0.4 - 0.1)  # the second class, which the first network rejects


def test_nonsense_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"^a sampled network gave logits that are not finite$"):
        compute_probabilities(torch.tensor([[float("nan"), 0.0]]))
