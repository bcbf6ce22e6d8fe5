"""Model cards: a checkpoint's README.md, made from its config, calibration and metrics."""

from pathlib import Path

from models.checkpoint import Checkpoint, CheckpointConfig, write_file
from training.evaluation import Metrics


def save_card(directory: Path, checkpoint: Checkpoint, metrics: Metrics | None) -> None:
    """Writes README.md beside the checkpoint; without metrics, it says that nothing was measured."""
    config = checkpoint.config
    sections = [_describe_model(directory.name, config), _describe_training(config)]
    sections += [_describe_metrics(metrics, config)] if metrics else [_describe_lack(config)]
    sections += [_describe_calibration(checkpoint, metrics), _describe_use(directory.name)]
    write_file(directory / "README.md", "\n\n".join(sections).encode() + b"\n")


def _describe_model(name: str, config: CheckpointConfig) -> str:
    return f"""# {name}

A `{config.method.method}` checkpoint for hyperdraw: a distribution over the weights of one target network, of
{config.target.num_weights:,} weights each. Input: {config.input.height} × {config.input.width} pixels,
{config.input.channels} channel(s). Classes: {", ".join(config.classes)}.

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
    return f"""## Figures

None: the training was interrupted after {training.steps:,} of {training.planned_steps:,} steps, so the test set was not
touched. Go on with `--resume`."""


def _describe_metrics(metrics: Metrics, config: CheckpointConfig) -> str:
    single = metrics.single
    ensembles = "\n".join(
        f"| ensemble of {e.size} (mean over {e.ensembles}) | {e.accuracy:.2%} | {e.nll:.4f} | {e.ece:.4f} |"
        for e in metrics.ensembles
    )
    norms = "\n".join(f"| {layer} | {n.mean:.2f} ± {n.std:.2f} |" for layer, n in metrics.layer_norms.items())
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

2-norms of the layers over sampled networks (Table 1 of the paper):

| layer | mean ± σ |
| --- | --- |
{norms}"""


def _describe_calibration(checkpoint: Checkpoint, metrics: Metrics | None) -> str:
    if checkpoint.calibration is None:
        return "## Flags\n\nNot calibrated: no flags."
    flag = checkpoint.calibration.out_of_distribution
    rows = "\n".join(f"| {t.ensemble_size} | {t.value:.4f} |" for t in flag.thresholds)
    realised = f" On the test set it flags {metrics.false_alarm_rate:.2%}." if metrics else ""
    return f"""## Flags

`out_of_distribution` is raised when predictive entropy is above the threshold for the ensemble's size. The thresholds let
{1 - flag.false_alarm_rate:.0%} of the {flag.n:,} images of `{flag.split}` pass, which served for nothing else.{realised}
Predictive entropy cannot tell an ambiguous image from a foreign one, and a foreign image can look certain: the flag
is a hint, not a proof.

| ensemble size | threshold (nats) |
| --- | --- |
{rows}"""


def _describe_use(name: str) -> str:
    return f"""## Use

```sh
hyperdraw-serve --checkpoints DIR
curl -F images=@digit.png localhost:8000/v1/models/{name}/predict
curl -o net.safetensors 'localhost:8000/v1/models/{name}/weights?seed=7&member=0'
```"""
