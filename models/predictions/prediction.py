"""Predictions of sampled networks, and the scores that raise flags.

Shapes: S sampled networks, J of them that also see noisy inputs, B inputs, K outputs.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from models.inputs.kind import InputKind
from models.precision import DTYPES, Precision, multiply_in
from models.predictions.density import FeatureDensity
from models.samplers.sampler import WeightSampler
from models.targets.target import TargetNetwork, Weights
from models.tasks.classification import Uncertainty
from models.tasks.kind import Flag
from models.tasks.regression import RegressionUncertainty
from models.tasks.task import Task

ScoreName = str
"""Name of a quantity that grows with uncertainty."""

FEATURE_DISTANCE: ScoreName = "feature_distance"
"""The score that looks at an input alone: its distance from the training's inputs, by `FeatureDensity`."""

JITTERED_NETWORKS = 20
IMAGES_PER_BLOCK = 512
"""Most images whose noisy copies are in memory at a time."""


@dataclass(frozen=True)
class Inputs:
    """Inputs, raw and prepared for the target."""

    raw: Tensor
    """[B, …]."""
    prepared: Tensor
    """float32 [B, …]. Preparation may be expensive, so it is done once for all networks."""
    distances: Tensor | None = None
    """Distances of the prepared inputs from those of the training, [B], if their density is known."""

    def __len__(self) -> int:
        return len(self.raw)

    def split(self, size: int) -> "list[Inputs]":
        """Successive parts of limited size."""
        return [self[start : start + size] for start in range(0, len(self), size)]

    def __getitem__(self, chosen: slice | Tensor) -> "Inputs":
        distances = None if self.distances is None else self.distances[chosen]
        return Inputs(self.raw[chosen], self.prepared[chosen], distances)


@dataclass(frozen=True)
class Outputs:
    """Outputs of the target for some inputs, with the weights of each network."""

    plain: Tensor
    """float32 [S, B, K]."""
    jittered: Tensor | None
    """Outputs of the first J networks for noisy inputs, [J, B, K], if the task uses them and inputs have noise."""
    distances: Tensor | None = None
    """Distances of the inputs from those of the training, [B], if their density is known."""

    def prefix(self, size: int) -> "Outputs":
        """Outputs of the first networks."""
        return Outputs(self.plain[:size], None if self.jittered is None else self.jittered[:size], self.distances)

    def of_inputs(self, chosen: slice | Tensor) -> "Outputs":
        """Outputs for some of the inputs, by their numbers."""
        distances = None if self.distances is None else self.distances[chosen]
        return Outputs(self.plain[:, chosen], None if self.jittered is None else self.jittered[:, chosen], distances)

    def reserve(self, inputs: int) -> "Outputs":
        """Memory for outputs like these for a number of inputs, for `fill`.

        Small tensors that stay, allocated between large ones that do not, leave gaps that are hardly used again. The
        outputs of thousands of ensembles, one by one, took 15 GB for this reason.
        """
        plain, jittered, distances = self.plain, self.jittered, self.distances
        return Outputs(
            plain.new_empty(len(plain), inputs, *plain.shape[2:]),
            None if jittered is None else jittered.new_empty(len(jittered), inputs, *jittered.shape[2:]),
            None if distances is None else distances.new_empty(inputs),
        )

    def fill(self, start: int, part: "Outputs") -> None:
        """Copies outputs for successive inputs to their place."""
        place = self.of_inputs(slice(start, start + part.plain.shape[1]))
        for there, here in (
            (place.plain, part.plain),
            (place.jittered, part.jittered),
            (place.distances, part.distances),
        ):
            if there is not None and here is not None:
                there.copy_(here)


@dataclass(frozen=True)
class Prediction:
    """Prediction of an ensemble for some inputs."""

    task: Task
    outputs: Outputs
    """Outputs that it was computed from."""
    members: Tensor
    """Prediction of each network, class probabilities or numbers: float32 [S, B, K]."""
    uncertainty: Uncertainty | RegressionUncertainty

    @property
    def size(self) -> int:
        """Number of networks."""
        return len(self.outputs.plain)

    def prefix(self, size: int) -> "Prediction":
        """Prediction of the first networks, or of all if there are no more."""
        return self if size >= self.size else interpret(self.task, self.outputs.prefix(size))

    def of_inputs(self, chosen: slice | Tensor) -> "Prediction":
        """Prediction for some of the inputs, by their numbers."""
        uncertainty: Any = self.uncertainty
        measured = {field.name: getattr(uncertainty, field.name) for field in dataclasses.fields(uncertainty)}
        own = {name: None if tensor is None else tensor[chosen] for name, tensor in measured.items()}
        return Prediction(
            self.task,
            self.outputs.of_inputs(chosen),
            self.members[:, chosen],
            dataclasses.replace(uncertainty, **own),
        )

    @property
    def probabilities(self) -> Tensor:
        """Mean class probabilities, [B, K]."""
        return self._of_classes.probabilities

    @property
    def log_probabilities(self) -> Tensor:
        """Logarithms of the mean probabilities, finite even for tiny ones, [B, K]."""
        return self._of_classes.log_probabilities

    def score(self, name: ScoreName) -> Tensor:
        """A score by name, [B]. Larger scores mean less trustworthy inputs.

        Raises:
            ValueError: if it is a distance, and the inputs were evaluated without a density.
        """
        if name == FEATURE_DISTANCE:
            if self.outputs.distances is None:
                raise ValueError("the distance is unknown; evaluate the inputs with the checkpoint's density")
            return self.outputs.distances
        score: Tensor = getattr(self.uncertainty, name)
        return score

    @property
    def _of_classes(self) -> Uncertainty:
        assert isinstance(self.uncertainty, Uncertainty)
        return self.uncertainty


@dataclass(frozen=True)
class Part:
    """The prediction for some of several inputs, whose ensembles have the same size."""

    positions: Tensor
    """Numbers of the inputs, [b]."""
    prediction: Prediction
    scores: Mapping[Flag, Tensor] = field(default_factory=dict)
    """The score that raises each flag, [b], if the model is calibrated."""

    def of_inputs(self, chosen: slice | Tensor, positions: Tensor) -> "Part":
        """The prediction for some of the part's inputs, by their numbers in it, under other numbers."""
        scores = {flag: scores[chosen] for flag, scores in self.scores.items()}
        return Part(positions, self.prediction.of_inputs(chosen), scores)


def join_parts(parts: Sequence[Part], found: Sequence[Tensor]) -> Tensor:
    """What was found for each part, [b, …], in the order of the inputs, [B, …]."""
    return torch.cat(list(found))[order_parts(parts)]


def order_parts(parts: Sequence[Part]) -> Tensor:
    """Where each input is among those of all parts, one part after the other: [B]."""
    return torch.cat([part.positions for part in parts]).argsort()


def interpret(task: Task, outputs: Outputs) -> Prediction:
    """Interprets the outputs of an ensemble.

    Raises:
        NotFiniteError: if an output is not finite.
    """
    uncertainty = task.measure(outputs.plain, outputs.jittered)
    return Prediction(task, outputs, task.predict(outputs.plain), uncertainty)


@dataclass(frozen=True)
class Draw:
    """Some members of a seed, and the noise for their inputs."""

    seed: int
    members: range
    weights: Weights
    """Weights of the members, on the sampler's device."""
    noise: Tensor | None
    """Noise of the first J members, [J, 1, …], if these also see noisy inputs."""

    def __getitem__(self, chosen: slice) -> "Draw":
        """Successive members."""
        weights = {name: tensor[chosen] for name, tensor in self.weights.items()}
        noise = None if self.noise is None else self.noise[chosen]
        return Draw(self.seed, self.members[chosen], weights, None if noise is None or not len(noise) else noise)


def evaluate(
    sampler: WeightSampler,
    spec: InputKind,
    task: Task,
    inputs: Tensor,
    seed: int,
    size: int,
    density: FeatureDensity | None = None,
    precision: Precision = "float32",
) -> Outputs:
    """Evaluates members 0 … size−1 of a seed. The outputs are all that `interpret` needs.

    Args:
        sampler: a sampler in evaluation mode.
        spec: the target's input.
        task: the meaning of the target's outputs.
        inputs: raw inputs, [B, …].
        seed: seed of the draw.
        size: S.
        density: the density of the training's prepared inputs, if it is known.
        precision: precision of the networks and their products.
    """
    both = prepare(spec, inputs, density)
    draws = (draw(sampler, spec, task, seed, members, precision) for members in split_members(sampler.target, size))
    return join_outputs([evaluate_draw(networks, sampler.target, spec, both) for networks in draws], dim=0)


@torch.inference_mode()
def evaluate_members(sampler: WeightSampler, inputs: Tensor, seed: int, size: int) -> Tensor:
    """Evaluates members 0 … size−1 of a seed, without noisy inputs.

    Networks are drawn, evaluated and dropped in blocks, so memory beside the result does not grow with `size`.

    Args:
        sampler: a sampler in evaluation mode.
        inputs: [B, *input shape], prepared, on any device.
        seed: seed of the draw.
        size: S.

    Returns:
        float32 [S, B, K], on the CPU.
    """
    target, inputs = sampler.target, inputs.to(sampler.device)
    blocks = split_members(target, size)
    return torch.cat([target.forward(sampler.sample(seed, block), inputs).cpu() for block in blocks])


def draw(
    sampler: WeightSampler,
    spec: InputKind,
    task: Task,
    seed: int,
    members: range,
    precision: Precision = "float32",
) -> Draw:
    """Draws some members of a seed, for `evaluate_draw`. The other arguments are those of `evaluate`."""
    noisy = members[: max(0, JITTERED_NETWORKS - members.start)] if task.noisy_scores else members[:0]
    noise = spec.draw_noise(seed, noisy) if noisy else None
    return Draw(seed, members, draw_weights(sampler, seed, members, precision), noise)


def draw_weights(sampler: WeightSampler, seed: int, members: Sequence[int], precision: Precision) -> Weights:
    """Draws some members of a seed, arranged for the target in a precision."""
    with multiply_in(precision if sampler.multiplies else "float32", sampler.device):
        weights = sampler.sample(seed, members)
    return sampler.target.arrange(weights, DTYPES[precision])


def prepare(spec: InputKind, raw: Tensor, density: FeatureDensity | None = None) -> Inputs:
    """Prepares raw inputs [B, …] for all networks."""
    prepared = spec.prepare(raw)
    return Inputs(raw, prepared, None if density is None else density.measure_distance(prepared))


@torch.inference_mode()
def evaluate_draw(draw: Draw, target: TargetNetwork, spec: InputKind, inputs: Inputs) -> Outputs:
    """Evaluates the networks of a draw on inputs of a spec."""
    device = next(iter(draw.weights.values())).device
    plain = target.forward(draw.weights, inputs.prepared.to(device)).cpu()
    if draw.noise is None:
        return Outputs(plain, None, inputs.distances)
    weights = draw[: len(draw.noise)].weights
    blocks = [
        target.forward(weights, spec.prepare(spec.jitter(block, draw.noise)).to(device)).cpu()
        for block in inputs.raw.split(IMAGES_PER_BLOCK)
    ]
    return Outputs(plain, torch.cat(blocks, dim=1), inputs.distances)


def join_inputs(parts: Sequence[Inputs]) -> Inputs:
    """Joins successive inputs."""
    distances = [part.distances for part in parts if part.distances is not None]
    return Inputs(
        torch.cat([part.raw for part in parts]),
        torch.cat([part.prepared for part in parts]),
        torch.cat(distances) if distances else None,
    )


def join_outputs(parts: Sequence[Outputs], dim: Literal[0, 1]) -> Outputs:
    """Joins outputs of successive members for the same inputs, dim 0, or the same members for successive inputs, 1."""
    if len(parts) == 1:
        return parts[0]
    jittered = [part.jittered for part in parts if part.jittered is not None]
    distances = [part.distances for part in parts if part.distances is not None]
    return Outputs(
        torch.cat([part.plain for part in parts], dim),
        torch.cat(jittered, dim) if jittered else None,
        (torch.cat(distances) if dim else distances[0]) if distances else None,
    )


def split_members(target: TargetNetwork, size: int) -> list[range]:
    """Members 0 … size−1 in blocks whose weights, 16 MB, are in memory at a time."""
    length = count_networks_per_block(target)
    return [range(start, min(start + length, size)) for start in range(0, size, length)]


def count_networks_per_block(target: TargetNetwork) -> int:
    """Most networks whose weights may be in memory at a time: 16 MB, or one network."""
    return max(1, 4_000_000 // target.num_weights)
