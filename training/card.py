"""Model cards: a checkpoint's README.md, made from its config, calibration and metrics."""

from pathlib import Path

from models.checkpoint import Checkpoint, CheckpointConfig, write_file
from models.input import ImageSpec, VectorSpec
from models.task import Classification, Regression
from training.evaluation import ClassificationMetrics, DensityMetrics, Metrics, RegressionMetrics, Spread

FIGURES = {
    "accuracies": "Accuracy of single networks on the test set.",
    "components": "Each layer's weights, gauge fixed, on their first two principal components; a dot is a network.",
    "disagreement": "Share of test images on which two of the first 100 networks differ, over pairs.",
    "ensembles": "Accuracy of random ensembles against their size, by how they fuse their members; bars are ± σ over 20 random "
    "subsets of the sampled networks, which overlap much when they are large. The last is one ensemble of all.",
    "filters": "The first layer's first filters, gauge fixed; a column is a network.",
    "mixture": "Sampled points over the density that they were fitted to.",
    "paths": "Accuracy on validation images along paths between two networks: between their latents; straight between their "
    "weights, gauge fixed; and straight once the second one's filters are permuted to match the first one's. Where a "
    "straight path dips and the one between latents does not, the networks lie on a curved set, not in one flat basin.",
    "regression": "Predictive band, and some of the sampled functions.",
    "uncertainty": "Histograms and empirical distributions of uncertainty, of the first 100 networks together, on the test set "
    "and on foreign images.",
}
SCORES = {
    "classification": "predictive entropy, in nats,",
    "regression": "the networks' standard deviation, in units of the output's own,",
}
CAVEATS = {
    "classification": "Predictive entropy cannot tell an ambiguous image from a foreign one, and a foreign image can look certain: "
    "the flag\nis a hint, not a proof.",
    "regression": "A single network has no deviation, so it raises no flag. The flag is a hint, not a proof.",
}


def save_card(directory: Path, checkpoint: Checkpoint, metrics: Metrics | None) -> None:
    """Writes README.md beside the checkpoint; without metrics, it says that nothing was measured."""
    config = checkpoint.config
    sections = [_describe_model(directory.name, config), _describe_training(config)]
    sections.append(_describe_metrics(metrics, config) if metrics else _describe_lack(config))
    sections += _show_figures(directory)
    sections += [_describe_calibration(checkpoint, metrics), _describe_use(directory.name, config)]
    write_file(directory / "README.md", "\n\n".join(sections).encode() + b"\n")


def _describe_model(name: str, config: CheckpointConfig) -> str:
    match config.input:
        case ImageSpec(channels=channels, height=height, width=width):
            given = f"{height} × {width} pixels, {channels} channel(s)"
        case VectorSpec(names=names):
            given = ", ".join(names)
    match config.task:
        case Classification(classes=classes):
            answered = f"Classes: {', '.join(classes)}"
        case Regression(names=names):
            answered = f"Output: {', '.join(names)}"
    return f"""# {name}

A `{config.method.method}` checkpoint for hyperdraw: a distribution over the weights of one target network, of
{config.target.num_weights:,} weights each. Input: {given}. {answered}.

```python
from collections import OrderedDict
from torch import nn

network = {config.target.source}
```"""


def _describe_training(config: CheckpointConfig) -> str:
    training = config.training
    return f"""## Training

`{training.command}`: {training.steps:,} steps on {training.dataset}, seed {training.seed}."""


def _describe_lack(config: CheckpointConfig) -> str:
    training = config.training
    if training.steps == training.planned_steps:
        return "## Figures\n\nNone: `hyperdraw-train evaluate` measures them."
    if training.failure:
        return f"""## Figures

None: the training failed ({training.failure}). This is its state after {training.steps:,} of {training.planned_steps:,}
steps, the last that is known to be good; the test set was not touched."""
    return f"""## Figures

None: the training was interrupted after {training.steps:,} of {training.planned_steps:,} steps, so the test set was not
touched. Go on with `--resume`."""


def _describe_metrics(metrics: Metrics, config: CheckpointConfig) -> str:
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
        f"| ensemble of {e.size} (mean over {e.ensembles}) | {e.accuracy:.2%} | {e.nll:.4f} | {e.ece:.4f} |"
        for e in metrics.ensembles
    )
    outliers = ""
    if metrics.outliers is not None:
        o = metrics.outliers
        outliers = f"""

On {o.images:,} images of {o.dataset}, which the model was not trained on, mean mutual information is
{o.mutual_information:.4f} nats, {o.mutual_information / metrics.mutual_information:.1f} times that on the test set.
Telling them from test images has an AUROC of {o.auroc_predictive_entropy:.4f} by predictive entropy and
{o.auroc_mutual_information:.4f} by mutual information. {o.flagged:.1%} of them are flagged."""
    return f"""## Figures

On the {metrics.test_images:,} test images of {config.training.dataset}, with members 0 to {metrics.networks - 1} of seed
{metrics.seed}, measured on this very checkpoint by `hyperdraw-train evaluate DIR`:

| | accuracy | NLL | ECE |
| --- | --- | --- | --- |
| single networks (mean ± σ of {metrics.networks}) | {single.accuracy_mean:.2%} ± {single.accuracy_std:.2%} | {single.nll:.4f} | |
{ensembles}

The worst of the {metrics.networks} single networks has {single.accuracy_min:.2%}, the best {single.accuracy_max:.2%}. Two of
them differ on {metrics.disagreement:.2%} of the test images; mean mutual information is
{metrics.mutual_information:.5f} nats.{outliers}

{_describe_norms(metrics.layer_norms)}"""


def _describe_regression(metrics: RegressionMetrics, config: CheckpointConfig) -> str:
    beyond = ""
    if metrics.beyond is not None:
        b = metrics.beyond
        beyond = f"""

On {b.examples:,} inputs of {b.dataset}, where there was no data, the networks' standard deviation is {b.deviation:.2f}.
Telling them from test inputs by it has an AUROC of {b.auroc:.4f}; {b.flagged:.1%} of them are flagged."""
    return f"""## Figures

On {metrics.test_examples:,} test examples of {config.training.dataset}, with members 0 to {metrics.networks - 1} of seed
{metrics.seed}, in the output's own units, measured on this very checkpoint by `hyperdraw-train evaluate DIR`:

| | |
| --- | --- |
| root mean square error of a single network | {metrics.single_error:.3f} |
| of the mean of {metrics.networks} | {metrics.ensemble_error:.3f} |
| NLL of the {metrics.networks} together | {metrics.nll:.4f} |
| within three predictive standard deviations | {metrics.covered:.2%} |
| standard deviation of the networks | {metrics.deviation:.3f} |{beyond}

{_describe_norms(metrics.layer_norms)}"""


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


def _describe_norms(layer_norms: dict[str, Spread]) -> str:
    rows = "\n".join(f"| {layer} | {n.mean:.2f} ± {n.std:.2f} |" for layer, n in layer_norms.items())
    return f"""2-norms of the layers over sampled networks (Table 1 of HyperGAN's paper):

| layer | mean ± σ |
| --- | --- |
{rows}"""


def _show_figures(directory: Path) -> list[str]:
    """The drawn figures, if any; a checkpoint that changes loses them."""
    captions = [(FIGURES[path.stem], path.name) for path in sorted((directory / "figures").glob("*.svg"))]
    if not captions:
        return []
    pictures = "\n\n".join(f"![{caption}](figures/{name})\n\n{caption}" for caption, name in captions)
    numbers = " The numbers are in `figures/study.json`." if (directory / "figures" / "study.json").exists() else ""
    return [f"## Pictures\n\nDrawn from this very checkpoint by `hyperdraw-train figures DIR`.{numbers}\n\n{pictures}"]


def _describe_calibration(checkpoint: Checkpoint, metrics: Metrics | None) -> str:
    if checkpoint.calibration is None:
        return "## Flags\n\nNot calibrated: no flags."
    flag = checkpoint.calibration.out_of_distribution
    rows = "\n".join(f"| {t.ensemble_size} | {t.value:.4f} |" for t in flag.thresholds)
    assert not isinstance(metrics, DensityMetrics)
    realised = f" On the test set it flags {metrics.false_alarm_rate:.2%}." if metrics else ""
    kind = checkpoint.config.task.kind
    return f"""## Flags

`out_of_distribution` is raised when {SCORES[kind]} is above the threshold for the ensemble's size. The thresholds let
{1 - flag.false_alarm_rate:.0%} of the {flag.n:,} inputs of `{flag.split}` pass, which served for nothing else.{realised}
{CAVEATS[kind]}

| ensemble size | threshold |
| --- | --- |
{rows}"""


def _describe_use(name: str, config: CheckpointConfig) -> str:
    inputs = (
        "-F images=@digit.png"
        if config.input.kind == "image"
        else f"--json '{{\"inputs\": [[{', '.join('0.5' for _ in config.input.shape)}]]}}'"
    )
    return f"""## Use

```sh
hyperdraw-serve --checkpoints DIR
curl {inputs} localhost:8000/v1/models/{name}/predict
curl -o net.safetensors 'localhost:8000/v1/models/{name}/weights?seed=7&member=0'
```"""
