import pytest
import torch
from pydantic import ValidationError

from models.detection import (
    OutOfDistributionCalibration,
    Threshold,
    calibrate_out_of_distribution,
    conformal_quantile,
)
from models.task import Classification, Regression
from models.uncertainty import measure_uncertainty


def test_conformal_quantile_known_answers() -> None:
    scores = torch.arange(1.0, 20.0)[torch.randperm(19, generator=torch.Generator().manual_seed(0))]
    assert conformal_quantile(scores, 0.05) == 19  # rank ⌈20 · .95⌉
    assert conformal_quantile(scores, 0.5) == 10
    with pytest.raises(ValueError, match="too few"):
        conformal_quantile(scores[:18], 0.05)


def test_realised_false_alarms_do_not_exceed_the_budget() -> None:
    """Over draws of the calibration set, the mean false-alarm rate is (n + 1 − rank) / (n + 1) exactly."""
    generator = torch.Generator().manual_seed(0)
    n, trials = 99, 2000
    thresholds = [conformal_quantile(torch.rand(n, generator=generator), 0.1) for _ in range(trials)]
    rate = sum(1 - t for t in thresholds) / trials  # uniform scores: the share above t is 1 − t
    # The rate of one trial has a standard deviation of .03; the bound is 6 standard errors.
    assert rate == pytest.approx(0.1, abs=6 * 0.03 / trials**0.5)


def test_calibration_by_ensemble_size() -> None:
    members = torch.randn(12, 200, 4, generator=torch.Generator().manual_seed(0)).softmax(-1)
    task = Classification(classes=("a", "b", "c", "d"))
    calibration = calibrate_out_of_distribution(members, task, seed=1, split="test/calibration", false_alarm_rate=0.1)
    assert [t.ensemble_size for t in calibration.thresholds] == [1, 2, 5, 10]
    assert calibration.n == 200
    for threshold in calibration.thresholds:
        scores = measure_uncertainty(members[: threshold.ensemble_size]).predictive_entropy
        assert (scores > threshold.value).sum() == 200 - 181  # rank ⌈201 · .9⌉
    assert calibration.threshold_for(1).ensemble_size == 1
    assert calibration.threshold_for(4).ensemble_size == 2
    assert calibration.threshold_for(1000).ensemble_size == 10


@pytest.mark.parametrize("sizes", [[5, 10], [1, 10, 5], [1, 1]])
def test_ensemble_sizes_must_grow_from_one(sizes: list[int]) -> None:
    with pytest.raises(ValidationError, match="growing ensemble sizes from 1"):
        OutOfDistributionCalibration(
            false_alarm_rate=0.05,
            n=10,
            split="s",
            seed=0,
            thresholds=tuple(Threshold(size, 0.1) for size in sizes),
            score="predictive_entropy",
        )


def test_calibration_of_a_regression() -> None:
    """The score is the members' standard deviation, in units of the output's own."""
    spread = torch.arange(1.0, 101.0)[:, None]
    members = 5 + 2 * spread * torch.tensor([-1.0, 1.0])[:, None, None]
    task = Regression(names=("y",), mean=(5.0,), std=(4.0,), noise_std=(1.0,))
    calibration = calibrate_out_of_distribution(members, task, seed=1, split="test/calibration", false_alarm_rate=0.1)
    assert calibration.score == "relative_deviation"
    assert [t.ensemble_size for t in calibration.thresholds] == [1, 2]
    assert calibration.thresholds[0].value == 0
    assert calibration.thresholds[1].value == pytest.approx(91 / 2)  # rank ⌈101 · .9⌉, at 2 · 91 / 4
    judgement = calibration.judge(task.measure(members), 2)
    assert judgement.flagged.tolist() == [False] * 91 + [True] * 9
    assert not calibration.judge(task.measure(members[:1]), 1).flagged.any()
