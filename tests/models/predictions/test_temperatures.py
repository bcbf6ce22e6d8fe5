"""Temperatures that are fitted, and what they make of probabilities."""

import math

import pytest
import torch

from models.predictions.detection import apply_temperature
from models.predictions.prediction import Outputs, interpret
from models.tasks.classification import Classification
from training.evaluation.calibration import fit_member_temperature, fit_temperature


def test_temperature_is_found_again() -> None:
    """Labels drawn at a temperature of 2 are fitted best there, to six standard errors of 20,000 labels."""
    generator = torch.Generator().manual_seed(0)
    logs = (3 * torch.randn(20_000, 5, generator=generator)).double().log_softmax(-1)
    labels = apply_temperature(logs, 2.0).exp().multinomial(1, generator=generator)[:, 0]
    assert fit_temperature(logs, labels) == pytest.approx(2, abs=0.15)
    torch.testing.assert_close(apply_temperature(logs, 1.0), logs)


def test_a_few_labels_that_are_all_right_do_not_make_answers_certain() -> None:
    """Of 100, each answered with 90 %, the least temperature fits best; one error more would refute it."""
    probabilities = torch.full((100, 10), 0.1 / 9).double()
    probabilities[:, 3] = 0.9
    temperature = fit_temperature(probabilities.log(), torch.full((100,), 3))
    assert 0.97 < apply_temperature(probabilities.log(), temperature)[0, 3].exp() < 0.995


def test_the_temperature_of_members_is_the_one_that_labels_were_drawn_at() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(3, 20_000, 5, generator=generator)
    labels = (logits / 2).softmax(-1).mean(0).multinomial(1, generator=generator)[:, 0]
    assert fit_member_temperature(logits, labels) == pytest.approx(2, abs=0.15)
    alone = logits[:1]
    found = fit_member_temperature(alone, labels)  # whose loss is flat, as the labels are those of all three
    assert found == pytest.approx(fit_temperature(alone[0], labels), 1e-2)


@pytest.mark.parametrize("gap", [600.0, 800.0, 2000.0])
def test_temperature_knows_probabilities_that_are_too_small_for_a_number(gap: float) -> None:
    """One label in a hundred contradicts logits that are `gap` apart: the best temperature says so."""
    logits = torch.tensor([[gap, 0.0]]).expand(4000, 2)[None]
    labels = (torch.arange(4000) % 100 == 0).long()
    logs = interpret(Classification(("a", "b")), Outputs(logits, None)).log_probabilities
    torch.testing.assert_close(logs[0], torch.tensor([0.0, -gap]).double())
    assert apply_temperature(logs, 2.0)[0, 1].item() == pytest.approx(-gap / 2)
    scaled = apply_temperature(logs, gap / 40)  # so that the best temperature lies within its bounds
    assert fit_temperature(scaled, labels) == pytest.approx(40 / math.log(99), rel=0.01)
