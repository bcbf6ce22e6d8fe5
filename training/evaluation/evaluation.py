"""Outputs of a checkpoint's networks on sets of inputs."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from models.checkpoint import Checkpoint
from models.precision import Precision
from models.predictions.prediction import Outputs, evaluate, join_outputs
from training.data.dataset import Dataset
from training.data.mixture import Mixture
from training.progress import Bar, track

SEED = 0

PROMISE_SEEDS = range(2 * 10**15, 2 * 10**15 + 100)
"""Seeds of the draws that flags and prediction sets are judged with; each draw judges a hundredth of the test inputs.
Their guarantees hold on average over seeds, so a few seeds would leave much to luck."""

INPUTS_PER_PART = 1024
"""Inputs that are evaluated between two updates of the progress bar."""


def evaluate_sets(
    checkpoint: Checkpoint, dataset: Dataset | Mixture, outliers: Mapping[str, Tensor], precision: Precision = "float32"
) -> dict[str, Outputs]:
    """Outputs of the largest ensemble on each set, by name; the test set is `test`. Nothing if a density was fitted.

    Args:
        checkpoint: the checkpoint to evaluate.
        dataset: the dataset that it was trained on.
        outliers: sets of outliers [B, …], by name.
        precision: precision of the networks and their products.

    Raises:
        ValueError: if the checkpoint is for other inputs or another task than the dataset.
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
    what = "evaluating" if precision == "float32" else f"evaluating in {precision}"
    with Bar(what, "input", sum(map(len, sets.values()))) as bar:
        for name, inputs in sets.items():
            parts = []
            for part in inputs.split(INPUTS_PER_PART):
                parts.append(evaluate_split(checkpoint, part, precision=precision))
                bar.update(len(part))
            outputs[name] = join_outputs(parts, dim=1)
    return outputs


def evaluate_split(
    checkpoint: Checkpoint, inputs: Tensor, seed: int = SEED, precision: Precision = "float32"
) -> Outputs:
    """Outputs of the largest ensemble on inputs [B, …]."""
    config, sampler = checkpoint.config, checkpoint.sampler
    networks = sampler.limit_networks(config.training.largest_ensemble)
    return evaluate(sampler, checkpoint.input, config.task, inputs, seed, networks, checkpoint.density, precision)


def evaluate_parts(checkpoint: Checkpoint, inputs: Tensor, seeds: Sequence[int], what: str = "evaluating") -> Outputs:
    """Outputs of the largest ensemble on inputs in equal parts, each with a seed of its own.

    If there are fewer inputs than seeds, the last seeds are not used.
    """
    shares = inputs.tensor_split(min(len(seeds), len(inputs)))
    whole, start = None, 0
    for part, seed in track(list(zip(shares, seeds, strict=False)), what, "draw"):
        found = evaluate_split(checkpoint, part, seed)
        whole = whole or found.reserve(len(inputs))
        whole.fill(start, found)
        start += len(part)
    assert whole is not None
    return whole
