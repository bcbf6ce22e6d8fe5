"""The section of a model card on what another precision changes."""

from training.evaluation.metrics import ClassificationMetrics, Metrics, RoundingMetrics


def describe_rounding(metrics: Metrics | None) -> str:
    """The section; empty if no other precision was measured."""
    if not isinstance(metrics, ClassificationMetrics) or metrics.rounding is None:
        return ""
    found = metrics.rounding
    members = "Member 0" if metrics.networks == 1 else f"Members 0 to {metrics.networks - 1}"
    return f"""## In {found.precision}

A service answers in {found.precision} where the processor multiplies it. {members} of seed {metrics.seed}, on the test set: {found.differing:.2%}
of the labels and flags differ from those in float32. The predictive entropy, in nats, changes by {found.mean_change:.1g} on average, and by {found.largest_change:.1g} at most.
Flags are at the default budget, by thresholds that were calibrated in float32.

| | float32 | {found.precision} |
| --- | --- | --- |
{_list_rows(found)}"""


def _list_rows(found: RoundingMetrics) -> str:
    exact, rounded = found.exact, found.rounded
    rows = [
        f"| accuracy | {exact.accuracy:.2%} | {rounded.accuracy:.2%} |",
        f"| NLL | {exact.nll:.4f} | {rounded.nll:.4f} |",
    ]
    for flag, share in exact.flagged.items():
        rows.append(f"| flagged as {flag.replace('_', ' ')} | {share:.2%} | {rounded.flagged[flag]:.2%} |")
    for row in found.outliers:
        rows.append(f"| AUROC of {row.dataset} | {row.exact_auroc:.4f} | {row.auroc:.4f} |")
        rows.append(f"| {row.dataset} flagged as out of distribution | {row.exact_flagged:.2%} | {row.flagged:.2%} |")
    return "\n".join(rows)
