"""What the networks of a checkpoint answer to sets of inputs."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from models.checkpoint import Checkpoint
from models.predictions.prediction import Outputs, evaluate, join_outputs
from training.data.dataset import Dataset
from training.data.mixture import Mixture
from training.progress import Bar, track

SEED = 0


PROMISE_SEEDS = range(2 * 10**15, 2 * 10**15 + 100)
"""Draws, each for a hundredth of the test inputs, that flags and prediction sets are judged with: what was promised is
promised on average over seeds, and the luck of a few would make a difference."""


INPUTS_PER_PART = 1024
"""That are evaluated between two looks at the clock."""


def evaluate_sets(
    checkpoint: Checkpoint, dataset: Dataset | Mixture, outliers: Mapping[str, Tensor]
) -> dict[str, Outputs]:
    """Outputs of the largest ensemble on each set, the test set's under `test`; none where a density was fitted.

    Args:
        checkpoint: to evaluate, as it is served.
        dataset: that it was trained on.
        outliers: inputs [B, …] of something else, by name.

    Raises:
        ValueError: if the checkpoint was made for inputs or for a task that are not the dataset's.
    """
    config = checkpoint.config
    if config.task != dataset.task:
        raise ValueError(f"a checkpoint for {config.task} cannot be evaluated on a dataset for {dataset.task}")
    if config.input.shape != dataset.input.shape:
        raise ValueError(f"a checkpoint for inputs {config.input.shape} cannot be evaluated on {dataset.input.shape}")
    if isinstance(dataset, Mixture):
        return {}
    sets = {"test": dataset.test.inputs, **outliers}
    outputs = {}
    with Bar("evaluating", "input", sum(map(len, sets.values()))) as bar:
        for name, inputs in sets.items():
            parts = []
            for part in inputs.split(INPUTS_PER_PART):
                parts.append(evaluate_split(checkpoint, part))
                bar.update(len(part))
            outputs[name] = join_outputs(parts, dim=1)
    return outputs


def evaluate_split(checkpoint: Checkpoint, inputs: Tensor, seed: int = SEED) -> Outputs:
    """Outputs of the largest ensemble that is evaluated on inputs [B, …]."""
    config, sampler = checkpoint.config, checkpoint.sampler
    networks = sampler.limit_networks(config.training.largest_ensemble)
    return evaluate(sampler, config.input, config.task, inputs, seed, networks)


def evaluate_parts(checkpoint: Checkpoint, inputs: Tensor, seeds: Sequence[int], what: str = "evaluating") -> Outputs:
    """As `evaluate_split`, of inputs in equal parts, each with a draw of its own; fewer inputs take fewer draws."""
    shares = inputs.tensor_split(min(len(seeds), len(inputs)))
    parts = [
        evaluate_split(checkpoint, part, seed)
        for part, seed in track(list(zip(shares, seeds, strict=False)), what, "draw")
    ]
    return join_outputs(parts, dim=1)
