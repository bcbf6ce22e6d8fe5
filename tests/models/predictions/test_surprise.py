import math

import pytest
import torch

from models.predictions.prediction import Outputs, interpret
from models.predictions.surprise import MOST_SURPRISE, SHARES, combine_scores, measure_levels, measure_surprise
from models.tasks.classification import Classification


def test_the_surprise_is_that_of_the_share_of_usual_inputs() -> None:
    """Uniform scores have the share 1 − s above s, and the surprises of usual inputs have a mean of about one nat."""
    usual = torch.rand(10_000, generator=torch.Generator().manual_seed(0))
    levels = measure_levels(usual)
    assert len(levels) == len(SHARES)
    found = measure_surprise(torch.tensor([0.0, 0.5, 0.8, 0.9, 0.98]), levels)
    torch.testing.assert_close(found, -torch.tensor([1, 0.5, 0.2, 0.1, 0.02]).double().log(), atol=0.05, rtol=0)
    assert 0.9 < measure_surprise(usual, levels).mean() < 1.2


def test_the_surprise_grows_with_the_score_and_has_bounds() -> None:
    levels = measure_levels(torch.randn(200, generator=torch.Generator().manual_seed(0)))
    found = measure_surprise(torch.linspace(-1e3, 1e6, 10_001), levels)
    assert (found.diff() >= 0).all()
    assert (found[0].item(), found[-1].item()) == (0, MOST_SURPRISE)
    beyond = measure_surprise(torch.tensor([levels[-1], levels[-1] + 1, levels[-1] + 2]), levels)
    assert beyond[0].item() == pytest.approx(-math.log(SHARES[-1]))
    assert beyond.diff()[0].item() == pytest.approx(beyond.diff()[1].item())


@pytest.mark.parametrize("usual", [[0.0] * 9, [3.0] * 9, [-2.0]])
def test_what_is_larger_than_scores_that_never_vary_surprises(usual: list[float]) -> None:
    found = measure_surprise(torch.tensor([usual[0] - 1, usual[0], usual[0] + 9]), measure_levels(torch.tensor(usual)))
    assert found[:2].tolist() == [0, 0]
    assert 1 < found[2] <= MOST_SURPRISE


def test_scores_that_many_inputs_share_do_not_surprise() -> None:
    levels = measure_levels(torch.cat([torch.zeros(60), torch.rand(40, generator=torch.Generator().manual_seed(0))]))
    assert measure_surprise(torch.tensor([0.0]), levels).item() == 0
    assert measure_surprise(torch.tensor([0.99]), levels).item() > 2


def test_surprises_are_added() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = Outputs(torch.randn(5, 40, 3, generator=generator), None, torch.rand(40, generator=generator).double())
    prediction = interpret(Classification(("a", "b", "c")), outputs)
    names = "predictive_entropy", "feature_distance"
    levels = {name: measure_levels(prediction.score(name)) for name in names}
    expected = sum(measure_surprise(prediction.score(name), levels[name]) for name in names)
    torch.testing.assert_close(combine_scores(prediction, levels), expected)
