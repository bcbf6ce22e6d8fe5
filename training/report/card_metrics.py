"""The section of a model card on metrics."""

from models.checkpoint import CheckpointConfig
from training.evaluation.metrics import (
    ClassificationMetrics,
    DensityMetrics,
    EnsembleMetrics,
    Metrics,
    RegressionMetrics,
)
from training.evaluation.summaries import estimate_share

MOST_CLASSES = 20

OF_SEVERAL = ("mutual_information", "variation_ratio")
"""Scores that a single network does not have."""


def describe_metrics(metrics: Metrics, config: CheckpointConfig) -> str:
    """The section: metrics in sentences and tables."""
    match metrics:
        case ClassificationMetrics():
            return _describe_classification(metrics, config)
        case RegressionMetrics():
            return _describe_regression(metrics, config)
        case DensityMetrics():
            return _describe_density(metrics)


def _describe_classification(metrics: ClassificationMetrics, config: CheckpointConfig) -> str:
    single, noun = metrics.single, config.input.noun
    fitted = f"validation {noun}"
    if config.training.folds is not None:
        fitted = f"the training {noun}, each answered by networks that were trained without its fold"
    spread = ""
    if metrics.networks > 1:
        spread = f"""The accuracy of a single network is {single.accuracy_mean:.2%} ± {single.accuracy_std:.2%} (mean ± σ of {metrics.networks} networks); the lowest is
{single.accuracy_min:.2%}, the highest {single.accuracy_max:.2%}. Two networks differ on {metrics.disagreement:.2%} of the test {noun}.
The mean mutual information is {metrics.mutual_information:.5f} nats.

"""
    return f"""## Metrics

`hyperdraw-train evaluate DIR` measured these on the {metrics.test_inputs:,} test {noun} of {config.training.dataset}, with {_name_members(metrics.networks, metrics.seed)}.
T is the temperature of the averaged probabilities, fitted on {fitted}:

{_tabulate_ensembles(metrics)}

{spread}{_describe_classes(metrics, noun)}{_describe_outliers(metrics)}{_describe_norms(metrics)}"""


def _tabulate_ensembles(metrics: ClassificationMetrics) -> str:
    """The table of ensembles, by their size."""
    rows = {f"ensemble of {e.size} (mean of {e.ensembles})": _list_cells(e) for e in metrics.ensembles}
    names = list(_list_cells(metrics.whole))
    lines = [f"| {row} | {' | '.join(cells[name] for name in names)} |" for row, cells in rows.items()]
    return "\n".join([f"| | {' | '.join(names)} |", "| --- |" + " --- |" * len(names), *lines])


def _list_cells(ensemble: EnsembleMetrics) -> dict[str, str]:
    """Metrics by the name of their column, without those that older files lack."""
    plain, tempered = ensemble.plain, ensemble.tempered
    cells = {"accuracy": f"{ensemble.accuracy:.2%}", "NLL": f"{plain.nll:.4f}", "Brier": f"{plain.brier:.4f}"}
    cells |= {"ECE": f"{plain.ece:.4f}", "adaptive ECE": f"{plain.adaptive_ece:.4f}", "AURC": f"{ensemble.aurc:.6f}"}
    if ensemble.augrc is not None and ensemble.coverage_at_1_risk is not None:
        cells |= {"AUGRC": f"{ensemble.augrc:.6f}", "coverage at 1% risk": f"{ensemble.coverage_at_1_risk:.1%}"}
    cells |= {"T": f"{ensemble.temperature:.2f}", "NLL at T": f"{tempered.nll:.4f}", "ECE at T": f"{tempered.ece:.4f}"}
    return cells


def _describe_classes(metrics: ClassificationMetrics, noun: str) -> str:
    """Recalls of all classes, or of the 20 with the lowest recall."""
    known = [(c.name, c.recall) for c in metrics.classes if c.recall]
    if not known or metrics.majority_accuracy is None or metrics.balanced_accuracy is None:
        return ""
    shown = known if len(known) <= MOST_CLASSES else sorted(known, key=lambda c: c[1].share)[:MOST_CLASSES]
    rows = "\n".join(f"| {n} | {r.images:,} | {r.share:.1%} | {r.low:.1%} to {r.high:.1%} |" for n, r in shown)
    whole = estimate_share(metrics.whole.accuracy, metrics.test_inputs)
    left = "" if shown is known else f"\nThese are the {MOST_CLASSES} lowest recalls of {len(known)} classes:"
    return f"""The accuracy of the largest ensemble is {whole.share:.2%}, measured on {whole.images:,} {noun} (95 % confidence interval: {whole.low:.1%} to
{whole.high:.1%}). Always answering the most frequent class would have an accuracy of {metrics.majority_accuracy:.1%}. The balanced accuracy, which is
the mean recall of the classes, is {metrics.balanced_accuracy:.1%}.{left}

| class | test {noun} | recall | 95 % interval |
| --- | --- | --- | --- |
{rows}

"""


def _describe_outliers(metrics: ClassificationMetrics) -> str:
    if not metrics.outliers:
        return ""
    rows = "\n".join(
        f"| {o.dataset} | {score.replace('_', ' ')} | {s.auroc:.4f} | {s.aupr:.4f} | {s.id_flagged_at_95_ood:.1%} "
        f"| {s.ood_missed_at_5_id:.1%} |"
        for o in metrics.outliers
        for score, s in o.scores.items()
        if metrics.networks > 1 or score not in OF_SEVERAL
    )
    sizes = "\n".join(
        f"| {o.dataset} | " + " | ".join(f"{s.auroc:.4f}" for s in o.by_size.values()) + " |" for o in metrics.outliers
    )
    header = " | ".join(map(str, metrics.outliers[0].by_size))
    table = f"""Outliers are told from the test images by {count_networks(metrics.networks)}. The last two columns are the two meanings of FPR95:

| outliers | score | AUROC | AUPR | test images flagged if 95 % of outliers are | outliers missed if 5 % of test images are flagged |
| --- | --- | --- | --- | --- | --- |
{rows}

"""
    if metrics.networks == 1:
        return table
    return f"""{table}AUROC of predictive entropy, by the number of networks:

| outliers | {header} |
| --- |{" --- |" * len(metrics.outliers[0].by_size)}
{sizes}

"""


def _describe_regression(metrics: RegressionMetrics, config: CheckpointConfig) -> str:
    beyond = "".join(
        f"""

The networks' standard deviation is {b.deviation:.2f} on the {b.inputs:,} inputs of {b.dataset}, where there was no data.
It tells them from test inputs with an AUROC of {b.auroc:.4f}; {b.flagged:.1%} of them are flagged."""
        for b in metrics.beyond
    )
    return f"""## Metrics

`hyperdraw-train evaluate DIR` measured these on {metrics.test_inputs:,} test examples of {config.training.dataset}, with
members 0 to {metrics.networks - 1} of seed {metrics.seed}, in the output's own units:

| | |
| --- | --- |
| root mean square error of a single network | {metrics.single_error:.3f} |
| root mean square error of the mean of {metrics.networks} networks | {metrics.ensemble_error:.3f} |
| NLL of the ensemble of {metrics.networks} | {metrics.nll:.4f} |
| share of examples within three predictive standard deviations | {metrics.covered:.2%} |
| standard deviation of the networks | {metrics.deviation:.3f} |{beyond}

{_describe_norms(metrics)}"""


def _describe_density(metrics: DensityMetrics) -> str:
    rows = "\n".join(
        f"| ({p.position[0]:.2f}, {p.position[1]:.2f}) | {p.distance:.3f} | {p.density:.3f} |" for p in metrics.peaks
    )
    return f"""## Metrics

The first {metrics.networks:,} members of seed {metrics.seed} are points of a curve, measured by `hyperdraw-train evaluate DIR`. The curve passes
{metrics.passed} of the density's {len(metrics.peaks)} peaks within a distance of 1, which is about a Gaussian's σ. The mean density of the points is
{metrics.density:.3f}, and their entropy along the curve is {metrics.entropy:.3f} nats.

| peak | distance to the nearest point | largest density within a distance of 1, relative to the peak's |
| --- | --- | --- |
{rows}"""


def _describe_norms(metrics: ClassificationMetrics | RegressionMetrics) -> str:
    several = metrics.networks > 1
    norms = {
        layer: f"{norm.mean:.2f} ± {norm.std:.2f}" if several else f"{norm.mean:.2f}"
        for layer, norm in metrics.layer_norms.items()
    }
    rows = "\n".join(f"| {layer} | {norm} |" for layer, norm in norms.items())
    return f"""2-norms of the layers{" over sampled networks" if several else ""}, as in Table 1 of HyperGAN's paper:

| layer | {"mean ± σ" if several else "2-norm"} |
| --- | --- |
{rows}"""


def _name_members(networks: int, seed: int) -> str:
    return "its only network" if networks == 1 else f"members 0 to {networks - 1} of seed {seed}"


def count_networks(networks: int) -> str:
    """A number of networks in words."""
    return "1 network" if networks == 1 else f"{networks} networks"
