"""The section of a model card on ensembles that stop growing when an input is settled."""

from models.checkpoint import Checkpoint
from training.evaluation.metrics import ClassificationMetrics, Metrics


def describe_growth(checkpoint: Checkpoint, metrics: Metrics | None) -> str:
    """The section; empty if no rule for when to stop was calibrated."""
    stopping = checkpoint.calibration.stopping if checkpoint.calibration else None
    rules = [rule for rule in stopping.rules if rule] if stopping else []
    if not stopping or not rules:
        return ""
    sizes = [each.ensemble_size for each in rules[0].rounds]
    rounds = f"{', '.join(map(str, sizes[:-1]))} and {sizes[-1]}"
    return f"""## Ensembles that grow

With `ensemble_size=auto`, an input is asked of {rounds} networks, until more would not change its label or a
flag. With {stopping.confidence:.0%} confidence, at most {stopping.tolerance:.1%} of such answers differ from those of {sizes[-1]} networks of another seed, beyond
those that differ between two seeds anyway. This was tested on {stopping.n:,} inputs of `{stopping.split}`, for each budget of
false alarms; where no rule passed, all networks are asked.{_describe_figures(metrics)}"""


def _describe_figures(metrics: Metrics | None) -> str:
    if not isinstance(metrics, ClassificationMetrics) or not metrics.growth:
        return ""
    rows = "\n".join(
        f"| {row.rate:g} | {row.networks:.1f} | {row.quantiles[0]:g} | {row.quantiles[1]:g} | {row.differing:.2%} "
        f"| {row.usually_differing:.2%} | {row.accuracy:.2%} | {row.whole_accuracy:.2%} | {row.nll:.4f} | {row.whole_nll:.4f} |"
        for row in metrics.growth
    )
    foreign = "\n".join(
        f"| {row.dataset} | {row.growth.networks:.1f} | {row.growth.auroc:.3f} | {row.growth.whole_auroc:.3f} "
        f"| {row.growth.flagged:.1%} | {row.flagged['out_of_distribution']:.1%} |"
        for row in metrics.outliers
        if row.growth
    )
    table = f"""

On the test set:

| budget | networks, mean | median | 95 % | differ | two whole ensembles | accuracy | whole | NLL | whole |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
{rows}"""
    if not foreign:
        return table
    return f"""{table}

On outliers, at the default budget:

| outliers | networks, mean | AUROC by predictive entropy | whole | flagged as foreign | whole |
| --- | --- | --- | --- | --- | --- |
{foreign}"""
