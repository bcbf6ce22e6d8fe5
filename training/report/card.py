"""Model cards: a checkpoint's README.md, made from its config, calibration and metrics."""

from pathlib import Path

from models.checkpoint import Checkpoint, CheckpointConfig, write_file
from models.inputs.image import ImageSpec
from models.inputs.vector import VectorSpec
from models.tasks.classification import Classification
from models.tasks.regression import Regression
from training.evaluation.attack_report import load_attack_report
from training.evaluation.metrics import Metrics
from training.report.card_attacks import describe_attacks
from training.report.card_flags import describe_flags
from training.report.card_metrics import describe_metrics

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
    "straight path dips and the one between latents does not, the networks lie on a curved set, not in one flat basin. "
    "(Where latents choose a mode, their path leaps from one mode to the other.)",
    "regression": "Predictive band, and some of the sampled functions.",
    "uncertainty": "Histograms and empirical distributions of uncertainty, of the first 100 networks together, on the test set "
    "and on foreign images.",
}


def save_card(directory: Path, checkpoint: Checkpoint, metrics: Metrics | None) -> None:
    """Writes README.md beside the checkpoint; without metrics, it says that nothing was measured."""
    config = checkpoint.config
    sections = [_describe_model(directory.name, checkpoint), _describe_training(config)]
    sections.append(describe_metrics(metrics, config) if metrics else _describe_lack(config))
    sections += _show_figures(directory)
    sections.append(describe_flags(checkpoint, metrics))
    if report := load_attack_report(directory):
        sections.append(describe_attacks(report, checkpoint))
    sections.append(_describe_use(directory.name, config))
    write_file(directory / "README.md", "\n\n".join(sections).encode() + b"\n")


def _describe_model(name: str, checkpoint: Checkpoint) -> str:
    config = checkpoint.config
    alone = checkpoint.sampler.num_networks == 1
    kind = "a single network, no distribution" if alone else "a distribution over the weights of one target network"
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

A `{config.method.method}` checkpoint for hyperdraw: {kind}, of
{config.target.num_weights:,} weights{"" if alone else " each"}. Input: {given}. {answered}.

```python
{config.target.source}
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


def _show_figures(directory: Path) -> list[str]:
    """The drawn figures, if any; other weights lose them, another calibration keeps them, as they hang on none."""
    captions = [(FIGURES[path.stem], path.name) for path in sorted((directory / "figures").glob("*.svg"))]
    if not captions:
        return []
    pictures = "\n\n".join(f"![{caption}](figures/{name})\n\n{caption}" for caption, name in captions)
    numbers = " The numbers are in `figures/study.json`." if (directory / "figures" / "study.json").exists() else ""
    return [f"## Pictures\n\nDrawn from these very weights by `hyperdraw-train figures DIR`.{numbers}\n\n{pictures}"]


def _describe_use(name: str, config: CheckpointConfig) -> str:
    inputs = (
        "-F images=@image.png"
        if config.input.kind == "image"
        else f"--json '{{\"inputs\": [[{', '.join('0.5' for _ in config.input.shape)}]]}}'"
    )
    return f"""## Use

```sh
hyperdraw-serve --checkpoints DIR
curl {inputs} localhost:8000/v1/models/{name}/predict
curl -o net.safetensors 'localhost:8000/v1/models/{name}/weights?seed=7&member=0'
```"""
