"""What a card says of ensembles that stop growing."""

from dataclasses import replace

from models.checkpoint import Checkpoint
from models.model import Model
from tests.engine import draw_images
from tests.growing import add_rules
from training.evaluation.metrics import ClassificationMetrics, ForeignGrowthMetrics, GrowthMetrics, load_metrics
from training.report.card_growth import describe_growth

ROW = GrowthMetrics(
    rate=0.05,
    networks=12.34,
    quantiles=(5.0, 100.0),
    differing=0.0404,
    usually_differing=0.0388,
    accuracy=0.994,
    nll=0.0201,
    whole_accuracy=0.9941,
    whole_nll=0.02,
)


def test_a_model_without_rules_has_no_section(checkpoint: Checkpoint) -> None:
    assert describe_growth(checkpoint, None) == ""
    assert describe_growth(replace(checkpoint, calibration=None), None) == ""


def test_rules_are_described_with_what_was_measured(checkpoint: Checkpoint) -> None:
    model, _ = add_rules(Model(checkpoint), draw_images(Model(checkpoint), 60))
    said = describe_growth(model.checkpoint, None)
    assert "an input is asked of 5, 10, 20, 50 and 100 networks" in said
    assert "With 95% confidence, at most 0.5% of such answers differ" in said
    assert "1,000 inputs of `test`" in said
    assert "|" not in said
    metrics = load_metrics(checkpoint)
    assert isinstance(metrics, ClassificationMetrics)
    said = describe_growth(model.checkpoint, replace(metrics, growth=(ROW,), outliers=()))
    assert "| 0.05 | 12.3 | 5 | 100 | 4.04% | 3.88% | 99.40% | 99.41% | 0.0201 | 0.0200 |" in said
    assert "On outliers" not in said
    outliers = tuple(replace(o, growth=ForeignGrowthMetrics(20.0, 0.97, 0.98, 0.5)) for o in metrics.outliers[:1])
    said = describe_growth(model.checkpoint, replace(metrics, growth=(ROW,), outliers=outliers))
    assert ("| 20.0 | 0.970 | 0.980 | 50.0% |" in said) == bool(outliers)
