import math
from dataclasses import asdict, replace

import pytest
import torch
from pydantic import TypeAdapter

from models.checkpoint import Checkpoint
from models.predictions.calibration_origin import Seeds
from models.predictions.detection import Calibration
from models.predictions.prediction import Outputs, join_outputs
from models.predictions.size_calibration import ClassCalibration, SizeCalibration
from models.tasks.probabilities import measure_disagreement
from tests import ROOT
from training.evaluation.classification import measure_classes, measure_ensembles
from training.evaluation.diversity import measure_weight_spread
from training.evaluation.evaluation import evaluate_parts, evaluate_split
from training.evaluation.metrics import ClassificationMetrics, load_metrics
from training.report.card_metrics import describe_metrics
from training.report.own_images import list_cautions


def one_hot(votes: list[list[int]], classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(votes), classes).float()


def test_disagreement_known_answers() -> None:
    assert measure_disagreement(one_hot([[0, 1]] * 4, 3)) == 0
    assert measure_disagreement(one_hot([[0], [1], [2]], 3)) == 1
    # Of the 6 pairs among votes 0, 0, 1, 1, four differ; the second image has no disagreement.
    assert measure_disagreement(one_hot([[0, 2], [0, 2], [1, 2], [1, 2]], 3)) == pytest.approx(4 / 6 / 2)


def test_the_largest_ensemble_that_is_evaluated_is_the_checkpoints_own(checkpoint: Checkpoint) -> None:
    assert len(evaluate_split(checkpoint, torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).plain) == 100
    training = replace(checkpoint.config.training, largest_ensemble=3)
    limited = replace(checkpoint, config=replace(checkpoint.config, training=training))
    assert len(evaluate_split(limited, torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).plain) == 3


def assert_equal(found: Outputs, expected: Outputs) -> None:
    for name, tensor in vars(expected).items():
        torch.testing.assert_close(getattr(found, name), tensor, rtol=0, atol=0)


def test_parts_are_those_of_their_own_seeds(checkpoint: Checkpoint) -> None:
    inputs = torch.randint(256, (7, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = evaluate_parts(checkpoint, inputs, [5, 9, 2])
    expected = [evaluate_split(checkpoint, *part) for part in ((inputs[:3], 5), (inputs[3:5], 9), (inputs[5:], 2))]
    assert_equal(found, join_outputs(expected, dim=1))
    few = evaluate_parts(checkpoint, inputs[:2], [5, 9, 2])
    expected = [evaluate_split(checkpoint, inputs[:1], 5), evaluate_split(checkpoint, inputs[1:2], 9)]
    assert_equal(few, join_outputs(expected, dim=1))


@pytest.fixture
def halving() -> Calibration:
    return Calibration(
        checkpoint="0" * 64,
        split="test/calibration",
        n=9,
        seeds=Seeds(0, 9),
        temperature_split="test/validation",
        rates=(0.1,),
        sizes=(
            SizeCalibration(
                1,
                {"out_of_distribution": "predictive_entropy"},
                {"out_of_distribution": (0.5,)},
                ClassCalibration(0.5, (0.1,)),
            ),
        ),
    )


def test_ensembles_known_answers(halving: Calibration) -> None:
    members = torch.tensor([[[0.8, 0.2]], [[0.4, 0.6]], [[0.2, 0.8]], [[0.6, 0.4]], [[1.0, 1e-9]]])
    metrics = measure_ensembles(members.log(), torch.tensor([0]), 2, halving)
    assert metrics.ensembles == 2  # the fifth member is left over
    assert metrics.accuracy == 0.5  # means (.6, .4) and (.4, .6)
    assert (metrics.aurc, metrics.augrc, metrics.coverage_at_1_risk) == (0.5, 0.25, 0.5)  # wrong in one of two
    assert metrics.plain.nll == pytest.approx(-(math.log(0.6) + math.log(0.4)) / 2)
    assert metrics.plain.brier == pytest.approx((2 * 0.4**2 + 2 * 0.6**2) / 2)
    assert metrics.plain.ece == pytest.approx((0.4 + 0.6) / 2)  # confidence .6 both times; right once, wrong once
    assert metrics.plain.adaptive_ece == pytest.approx((0.4 + 0.6) / 2)
    sharper = 0.36 / 0.52  # .6 at half the temperature
    assert metrics.tempered.nll == pytest.approx(-(math.log(sharper) + math.log(1 - sharper)) / 2)


def test_confident_errors_are_not_flattered(halving: Calibration) -> None:
    """The error of one network in two costs ln 2; an error of both costs what their logits say, at any temperature."""
    logits = torch.tensor([[[900.0, 0.0]], [[0.0, 900.0]], [[900.0, 0.0]], [[900.0, 0.0]]])
    metrics = measure_ensembles(logits, torch.tensor([1]), 2, halving)
    assert metrics.plain.nll == pytest.approx((math.log(2) + 900) / 2)
    assert metrics.tempered.nll == pytest.approx((math.log(2) + 1800) / 2)  # at half the temperature


def test_a_rare_class_that_is_never_right_is_seen() -> None:
    """Nine of ten answers are right, as are those of whoever always answers the frequent class."""
    labels = torch.tensor([0] * 36 + [1] * 4)
    classes = measure_classes(("usual", "rare", "absent"), torch.zeros(40, dtype=torch.int64), labels)
    usual, rare, absent = (c.recall for c in classes)
    assert usual is not None
    assert rare is not None
    assert (usual.share, usual.images, rare.share, rare.images, absent) == (1, 36, 0, 4, None)
    assert (round(rare.low, 3), round(rare.high, 3)) == (0, 0.490)  # Wilson's, of 0 of 4
    metrics = load_shipped("mnist-hyperdraw")
    whole = replace(metrics.whole, accuracy=0.9)
    metrics = replace(
        metrics, test_inputs=40, ensembles=(whole,), classes=classes, majority_accuracy=0.9, balanced_accuracy=0.5
    )
    assert list_cautions(metrics) == [
        "rare was never recognised: all of its test images (4) were answered wrongly.",
        "There were no test images of absent.",
        "The accuracy is no better than that of always answering the most frequent class, 90.0%.",
        "The accuracy was measured on only 40 images; its 95 % confidence interval is 76.9% to 96.0%.",
    ]


def test_metrics_older_than_figures_of_classes_still_load() -> None:
    metrics = load_shipped("mnist-hypergan")
    older = {k: v for k, v in asdict(metrics).items() if k not in ("classes", "majority_accuracy", "balanced_accuracy")}
    assert TypeAdapter(ClassificationMetrics).validate_python(older).classes == ()


def test_a_card_has_no_columns_that_its_metrics_lack(checkpoint: Checkpoint) -> None:
    metrics = load_metrics(checkpoint)
    assert isinstance(metrics, ClassificationMetrics)
    assert metrics.whole.augrc is not None
    said = describe_metrics(metrics, checkpoint.config)
    assert "| AURC | AUGRC | coverage at 1% risk | T |" in said
    assert f" | {metrics.whole.aurc:.6f} | {metrics.whole.augrc:.6f} | {metrics.whole.coverage_at_1_risk:.1%} |" in said
    content = asdict(metrics)
    for row in content["ensembles"]:
        del row["augrc"], row["coverage_at_1_risk"]
    older = TypeAdapter(ClassificationMetrics).validate_python(content)
    said = describe_metrics(older, checkpoint.config)
    assert "| adaptive ECE | AURC | T | NLL at T | ECE at T |" in said
    assert "AUGRC" not in said
    assert "None" not in said


def load_shipped(name: str) -> ClassificationMetrics:
    content = (ROOT / "checkpoints" / name / "metrics.json").read_bytes()
    return TypeAdapter(ClassificationMetrics).validate_json(content)


def test_diversity_known_answers() -> None:
    same = {"a.weight": torch.ones(4, 3, 2), "a.bias": torch.randn(4, 3)}
    assert measure_weight_spread(same) == 0
    generator = torch.Generator().manual_seed(0)
    independent = {"a.weight": torch.randn(50, 300, 10, generator=generator)}
    assert measure_weight_spread(independent) == pytest.approx(1, abs=0.02)
