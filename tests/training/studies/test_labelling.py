"""The comparison of strategies that choose what to label."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import training.studies.labelling
from models.predictions.prediction import Outputs, interpret
from models.tasks.classification import Classification
from training.__main__ import app
from training.data.dataset import DatasetError
from training.studies.labelling import (
    STRATEGIES,
    Labelling,
    Outcome,
    Pool,
    choose_apart,
    choose_most_uncertain,
    choose_randomly,
    choose_usual,
    describe_labelling,
    study_labelling,
)


@pytest.fixture
def pool() -> Pool:
    """Six images of one grey each. Two networks disagree the more about an image, the larger its number."""
    confidence = torch.linspace(0, 3, 6)
    logits = torch.stack([torch.stack([sign * confidence, -sign * confidence], -1) for sign in (1, -1)])
    prediction = interpret(Classification(("a", "b")), Outputs(logits, None))
    inputs = torch.tensor([0, 0, 100, 101, 102, 200], dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    usual = torch.tensor([True, True, True, True, True, False])
    return Pool(inputs, torch.tensor([0, 1, 0, 1, 0, -1]), prediction, usual, torch.tensor([3, 0, 5, 1, 4, 2]))


def test_strategies_choose_what_they_say(pool: Pool) -> None:
    assert choose_randomly(pool, 2).tolist() == [3, 0]
    assert choose_most_uncertain(pool, 3).tolist() == [5, 4, 3]
    assert choose_apart(pool, 3).tolist() == [5, 4, 1]  # 3 and 2 are like 4
    assert choose_usual(pool, 2).tolist() == [4, 1]


def test_a_part_of_a_pool_is_a_pool(pool: Pool) -> None:
    part = pool[torch.tensor([1, 3, 5])]
    assert part.order.tolist() == [1, 2, 0]  # 3, 5, 1
    assert part.labels.tolist() == [1, 1, -1]
    assert torch.equal(part.information, pool.information[[1, 3, 5]])
    assert choose_usual(part, 5).tolist() == [1, 0]


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"LABELLED": 20, "ADDED": 5, "POOL": 60, "VALIDATION": 20, "TEST": 50, "NETWORKS": 4}
    for name, size in sizes.items():
        monkeypatch.setattr(training.studies.labelling, name, size)


@pytest.mark.usefixtures("_small")
def test_each_seed_tries_all_strategies(tmp_path: Path) -> None:
    arguments = ["labelling", "--out", str(tmp_path), "--steps", "2", "--seed", "0", "--seed", "1", "--quiet"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    study = study_labelling("digits", tmp_path, tmp_path, (0, 1), 2)  # of files that are there
    for trial in study.trials:
        first, *others = trial
        assert (first.pool, first.strategy) == ("", "no further labels")
        assert [(own.pool, own.strategy) for own in others] == [
            (title, strategy) for title in ("usual images", "with foreign images") for strategy in STRATEGIES
        ]
        assert all(own.foreign == 0 for own in others[: len(STRATEGIES)])
        assert all(0 <= own.rare + own.foreign <= 5 for own in others)
    assert sum(own.foreign for trial in study.trials for own in trial) > 0
    assert study.trials[0] != study.trials[1]
    assert (tmp_path / "README.md").read_text() == describe_labelling(study)
    file = tmp_path / "digits-2-steps-rarity-0.1-seed-0.json"
    file.write_text(file.read_text().replace("no further labels", "something kept"))
    assert study_labelling("digits", tmp_path, tmp_path, (0,), 2).trials[0][0].strategy == "something kept"


def test_a_dataset_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cubic is not a dataset of classes of images"):
        study_labelling("cubic", tmp_path, tmp_path / "out", (0,), 2)


def test_the_table_has_paired_differences() -> None:
    def tell(pool: str, strategy: str, accuracy: float) -> Outcome:
        return Outcome(pool, strategy, accuracy, nll=0.5, rare=2, foreign=1)

    trials = tuple(
        (tell("", "no further labels", 0.5), tell("usual", "random", random), tell("usual", "mutual information", ours))
        for random, ours in ((0.6, 0.7), (0.8, 0.78))
    )
    lines = describe_labelling(Labelling("digits", 50, 50, 400, 0.1, trials)).splitlines()
    assert lines[-2:] == [
        "| usual | random | 70.0% ± 14.1% | 0.500 ± 0.000 |  |  | 2.0 | 1.0 |",
        "| usual | mutual information | 74.0% ± 5.7% | 0.500 ± 0.000 | +4.0 ± 6.0 | 1 of 2 | 2.0 | 1.0 |",
    ]
    single = describe_labelling(Labelling("digits", 50, 50, 400, 0.1, trials[:1]))
    assert "| 70.0% | 0.500 | +10.0 | 1 of 1 |" in single
