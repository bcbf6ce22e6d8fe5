"""The section of a model card on its metrics."""

from models.checkpoint import CheckpointConfig
from training.evaluation.metrics import ClassificationMetrics, DensityMetrics, Metrics, RegressionMetrics
from training.evaluation.summaries import estimate_share

MOST_CLASSES = 20


OF_SEVERAL = ("mutual_information", "variation_ratio")
"""Scores that a network alone does not have."""


def describe_metrics(metrics: Metrics, config: CheckpointConfig) -> str:
    """Metrics in sentences and tables."""
    match metrics:
        case ClassificationMetrics():
            return _describe_classification(metrics, config)
        case RegressionMetrics():
            return _describe_regression(metrics, config)
        case DensityMetrics():
            return _describe_density(metrics)


def _describe_classification(metrics: ClassificationMetrics, config: CheckpointConfig) -> str:
    single = metrics.single
    ensembles = "\n".join(
        f"| ensemble of {e.size} (mean over {e.ensembles}) | {e.accuracy:.2%} | {e.plain.nll:.4f} | {e.plain.brier:.4f} "
        f"| {e.plain.ece:.4f} | {e.plain.adaptive_ece:.4f} | {e.aurc:.6f} | {e.temperature:.2f} "
        f"| {e.tempered.nll:.4f} | {e.tempered.ece:.4f} |"
        for e in metrics.ensembles
    )
    spread = ""
    if metrics.networks > 1:
        spread = f"""Single networks have {single.accuracy_mean:.2%} ± {single.accuracy_std:.2%} (mean ± σ of {metrics.networks}), the worst of them
{single.accuracy_min:.2%}, the best {single.accuracy_max:.2%}. Two of them differ on {metrics.disagreement:.2%} of the test images;
mean mutual information is {metrics.mutual_information:.5f} nats.

"""
    return f"""## Figures

On the {metrics.test_inputs:,} test images of {config.training.dataset}, with {_name_members(metrics.networks, metrics.seed)},
measured on this very checkpoint by `hyperdraw-train evaluate DIR`. At T, the temperature that was fitted on
validation images to the averaged probabilities:

| | accuracy | NLL | Brier | ECE | adaptive ECE | AURC | T | NLL at T | ECE at T |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
{ensembles}

{spread}{_describe_classes(metrics)}{_describe_outliers(metrics)}{_describe_norms(metrics)}"""


def _describe_classes(metrics: ClassificationMetrics) -> str:
    """Recalls, of up to 20 classes; of more, the lowest."""
    known = [(c.name, c.recall) for c in metrics.classes if c.recall]
    if not known or metrics.majority_accuracy is None or metrics.balanced_accuracy is None:
        return ""
    shown = known if len(known) <= MOST_CLASSES else sorted(known, key=lambda c: c[1].share)[:MOST_CLASSES]
    rows = "\n".join(f"| {n} | {r.images:,} | {r.share:.1%} | {r.low:.1%} to {r.high:.1%} |" for n, r in shown)
    whole = estimate_share(metrics.whole.accuracy, metrics.test_inputs)
    left = "" if shown is known else f" The {MOST_CLASSES} lowest recalls of {len(known)} classes:"
    return f"""The largest ensemble's accuracy, measured on {whole.images:,} images, is {whole.share:.2%}: 95 % sure that it is between {whole.low:.1%}
and {whole.high:.1%}. Always answering the most frequent class would be right for {metrics.majority_accuracy:.1%}; the balanced accuracy, the mean of
the classes' recalls, is {metrics.balanced_accuracy:.1%}.{left}

| class | test images | recall | 95 % sure |
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
    table = f"""Images that the model was not trained on, told from the test images by {count_networks(metrics.networks)}; the last two columns are
both meanings of FPR95:

| images | by | AUROC | AUPR | test images flagged where 95 % of these are | of these missed where 5 % of the test images are flagged |
| --- | --- | --- | --- | --- | --- |
{rows}

"""
    if metrics.networks == 1:
        return table
    return f"""{table}AUROC by predictive entropy, by the number of networks:

| images | {header} |
| --- |{" --- |" * len(metrics.outliers[0].by_size)}
{sizes}

"""


def _describe_regression(metrics: RegressionMetrics, config: CheckpointConfig) -> str:
    beyond = "".join(
        f"""

On {b.inputs:,} inputs of {b.dataset}, where there was no data, the networks' standard deviation is {b.deviation:.2f}.
Telling them from test inputs by it has an AUROC of {b.auroc:.4f}; {b.flagged:.1%} of them are flagged."""
        for b in metrics.beyond
    )
    return f"""## Figures

On {metrics.test_inputs:,} test examples of {config.training.dataset}, with members 0 to {metrics.networks - 1} of seed
{metrics.seed}, in the output's own units, measured on this very checkpoint by `hyperdraw-train evaluate DIR`:

| | |
| --- | --- |
| root mean square error of a single network | {metrics.single_error:.3f} |
| of the mean of {metrics.networks} | {metrics.ensemble_error:.3f} |
| NLL of the {metrics.networks} together | {metrics.nll:.4f} |
| within three predictive standard deviations | {metrics.covered:.2%} |
| standard deviation of the networks | {metrics.deviation:.3f} |{beyond}

{_describe_norms(metrics)}"""


def _describe_density(metrics: DensityMetrics) -> str:
    rows = "\n".join(
        f"| ({p.position[0]:.2f}, {p.position[1]:.2f}) | {p.distance:.3f} | {p.density:.3f} |" for p in metrics.peaks
    )
    return f"""## Figures

{metrics.networks:,} members of seed {metrics.seed} are points of a curve. It passes {metrics.passed} of the density's
{len(metrics.peaks)} peaks within a distance of 1, about a Gaussian's σ; the mean density of its points is {metrics.density:.3f}, their entropy along the curve
{metrics.entropy:.3f} nats. Measured on this very checkpoint by `hyperdraw-train evaluate DIR`.

| peak | distance to the nearest point | largest density within a distance of 1, relative to the peak's |
| --- | --- | --- |
{rows}"""


def _describe_norms(metrics: ClassificationMetrics | RegressionMetrics) -> str:
    several = metrics.networks > 1
    figures = {
        layer: f"{norm.mean:.2f} ± {norm.std:.2f}" if several else f"{norm.mean:.2f}"
        for layer, norm in metrics.layer_norms.items()
    }
    rows = "\n".join(f"| {layer} | {figure} |" for layer, figure in figures.items())
    return f"""2-norms of the layers{" over sampled networks" if several else ""} (Table 1 of HyperGAN's paper):

| layer | {"mean ± σ" if several else "2-norm"} |
| --- | --- |
{rows}"""


def _name_members(networks: int, seed: int) -> str:
    return "its only network" if networks == 1 else f"members 0 to {networks - 1} of seed {seed}"


def count_networks(networks: int) -> str:
    """A number of networks in words."""
    return "1 network" if networks == 1 else f"{networks} networks"
