"""Model cards: a checkpoint's README.md, made from its config, calibration and metrics."""

import json
import shlex
from pathlib import Path

from models.backbones.backbone import BackboneSpec
from models.checkpoint import Checkpoint, CheckpointConfig, Training
from models.checkpoint_files import write_file
from models.inputs.columns import Column, ScaledColumn
from models.inputs.image import ImageSpec
from models.inputs.table import TableSpec
from models.inputs.vector import VectorSpec
from models.tasks.classification import Classification
from models.tasks.regression import Regression
from training.data.datasets import IMPORTED
from training.evaluation.attack_report import load_attack_report
from training.evaluation.certification import load_certification_report
from training.evaluation.metrics import Metrics
from training.report.card_attacks import describe_attacks
from training.report.card_certificates import describe_certificates
from training.report.card_flags import describe_flags
from training.report.card_growth import describe_growth
from training.report.card_metrics import describe_metrics
from training.report.card_rounding import describe_rounding

FIGURES = {
    "accuracies": "Accuracy of single networks on the test set.",
    "components": "Weights of each layer, gauge fixed, on their first two principal components. Each dot is a network.",
    "disagreement": "Share of test images on which two networks differ, for all pairs of the first 100 networks.",
    "ensembles": "Accuracy of random ensembles by their size and by how they fuse their members. Bars are ± σ over 20 random "
    "subsets of the sampled networks; large subsets overlap much. The last point is the one ensemble of all networks.",
    "filters": "First filters of the first layer, gauge fixed. Each column is a network.",
    "mixture": "Sampled points on the density that the sampler was fitted to.",
    "paths": "Accuracy on validation images along paths between two networks: between their latents; straight between their "
    "gauge-fixed weights; and straight after the second network's filters were permuted to match the first's. If the "
    "straight path dips and the path between latents does not, the networks lie on a curved set, not in one flat basin. "
    "If latents choose a mode, their path jumps from one mode to the other.",
    "regression": "Predictive band and some of the sampled functions.",
    "uncertainty": "Histograms and empirical distributions of the uncertainty of an ensemble of the first 100 networks, on the "
    "test set and on outliers.",
}

LONGEST_ROW = 20
"""Most numbers of a row that the card writes out."""


def save_card(directory: Path, checkpoint: Checkpoint, metrics: Metrics | None) -> None:
    """Writes the checkpoint's README.md. Without metrics, it says that the checkpoint was not evaluated."""
    config = checkpoint.config
    sections = [_describe_model(directory.name, checkpoint), _describe_training(config)]
    sections.append(describe_metrics(metrics, config) if metrics else _explain_lack(checkpoint))
    sections += _show_figures(directory)
    sections.append(describe_flags(checkpoint, metrics))
    if growth := describe_growth(checkpoint, metrics):
        sections.append(growth)
    if rounding := describe_rounding(metrics):
        sections.append(rounding)
    if report := load_attack_report(directory):
        sections.append(describe_attacks(report, checkpoint))
    if certificates := load_certification_report(directory):
        sections.append(describe_certificates(certificates))
    sections.append(_describe_use(directory.name, config))
    write_file(directory / "README.md", "\n\n".join(sections).encode() + b"\n")


def _describe_model(name: str, checkpoint: Checkpoint) -> str:
    config = checkpoint.config
    alone = checkpoint.sampler.num_networks == 1
    kind = "a single network, not a distribution" if alone else "a distribution over the weights of one target network"
    match config.input:
        case TableSpec(columns=columns):
            given = ", ".join(f"{column.name} ({column.kind})" for column in columns)
        case ImageSpec(channels=channels, height=height, width=width):
            given = f"{height} × {width} pixels, {channels} channel{'' if channels == 1 else 's'}"
            if config.backbone is not None:
                given += f", seen through a pretrained backbone ({_describe_backbone(config.backbone)})"
        case VectorSpec(names=names):
            given = ", ".join(names)
    match config.task:
        case Classification(classes=classes):
            answered = f"Classes: {', '.join(classes)}"
        case Regression(names=names):
            answered = f"Output: {', '.join(names)}"
    return f"""# {name}

A `{config.method.method}` checkpoint for hyperdraw: {kind},
with {config.target.num_weights:,} weights{"" if alone else " each"}. Input: {given}. {answered}.

```python
{config.target.source}
```"""


def _describe_backbone(spec: BackboneSpec) -> str:
    licence = f", licence {spec.licence}" if spec.licence else ""
    return f"{spec.source}, output `{spec.output}`{licence}, SHA-256 `{spec.sha256}`"


def _describe_training(config: CheckpointConfig) -> str:
    training = config.training
    if training.recipe == IMPORTED:
        return f"""## Training

The networks were trained elsewhere, and imported by `{training.command}`. Temperature, flags and metrics come from
images of {training.dataset}. They are honest if the networks were not trained on these images."""
    return f"""## Training

`{training.command}`: {training.steps:,} steps on {training.dataset} with seed {training.seed}.{_describe_folds(training)}"""


def _describe_folds(training: Training) -> str:
    if training.folds is None:
        return ""
    return f""" All examples but
those of the test set train, in {training.folds} folds. For the calibration, {training.folds} other samplers were trained, each without one fold."""


def _explain_lack(checkpoint: Checkpoint) -> str:
    training = checkpoint.config.training
    if training.folds and checkpoint.calibration is None and training.steps == training.planned_steps:
        return f"""## Metrics

Not measured, because the training was interrupted before all {training.folds} folds were trained. The test set was not
used. Continue with `--resume`."""
    if training.steps == training.planned_steps:
        return "## Metrics\n\nNot measured yet. Run `hyperdraw-train evaluate DIR`."
    if training.failure:
        return f"""## Metrics

Not measured, because the training failed ({training.failure}). This is its state after {training.steps:,} of
{training.planned_steps:,} steps, the last that is known to be good. The test set was not used."""
    return f"""## Metrics

Not measured, because the training was interrupted after {training.steps:,} of {training.planned_steps:,} steps. The test
set was not used. Continue with `--resume`."""


def _show_figures(directory: Path) -> list[str]:
    """Shows the figures, if any. They depend on the weights, but not on the calibration."""
    captions = [(FIGURES[path.stem], path.name) for path in sorted((directory / "figures").glob("*.svg"))]
    if not captions:
        return []
    pictures = "\n\n".join(f"![{caption}](figures/{name})\n\n{caption}" for caption, name in captions)
    numbers = " `figures/study.json` holds the numbers." if (directory / "figures" / "study.json").exists() else ""
    return [f"## Figures\n\nDrawn from these weights by `hyperdraw-train figures DIR`.{numbers}\n\n{pictures}"]


def _describe_use(name: str, config: CheckpointConfig) -> str:
    match config.input:
        case ImageSpec():
            inputs = "-F images=@image.png"
        case TableSpec(columns=columns):
            inputs = _write_inputs({column.name: column.name_number(_find_usual(column)) for column in columns})
        case VectorSpec(mean=mean):
            inputs = _write_inputs([_shorten(number) for number in mean])
    return f"""## Use

```sh
hyperdraw-serve --checkpoints DIR
curl {inputs} localhost:8000/v1/models/{name}/predict
curl -o net.safetensors 'localhost:8000/v1/models/{name}/weights?seed=7&member=0'
```"""


def _write_inputs(row: dict[str, float | str] | list[float]) -> str:
    """Options of curl that send a row, or that send a file if the row is long."""
    if len(row) > LONGEST_ROW:
        return "--json @rows.json"
    return f"--json {shlex.quote(json.dumps({'inputs': [row]}, ensure_ascii=False))}"


def _find_usual(column: Column) -> float:
    """The number of a usual value: the mean, or the first category."""
    return _shorten(column.mean) if isinstance(column, ScaledColumn) else 0.0


def _shorten(number: float) -> float:
    return float(f"{number:.4g}")
