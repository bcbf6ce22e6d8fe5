"""Predictions of sampled networks, and the scores that flags are raised by.

Shapes: S sampled networks, J of them that also see noisy inputs, B inputs, K outputs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.inputs.spec import ImageSpec, InputSpec
from models.noise import uniform
from models.samplers.sampler import WeightSampler
from models.targets.target import TargetNetwork, Weights
from models.tasks.task import Classification, Task
from models.tasks.uncertainty import RegressionUncertainty, Uncertainty, average_logits, normalize_logits

ScoreName = Literal[
    "predictive_entropy",
    "mutual_information",
    "variation_ratio",
    "max_probability",
    "energy",
    "fragility",
    "relative_deviation",
]

JITTER = 0.2
"""Half the range of the noise that fragility is measured with, in units of the pixels' range."""

JITTERED_NETWORKS = 20
JITTER_STREAM = 9
IMAGES_PER_BLOCK = 512
"""Whose noisy copies are in memory at a time."""


@dataclass(frozen=True)
class Outputs:
    """What the target gives for some inputs, with the weights of each network."""

    plain: Tensor
    """float32 [S, B, K]."""
    jittered: Tensor | None
    """Of the first J networks on noisy inputs, [J, B, K], where inputs are images of classes."""

    def prefix(self, size: int) -> "Outputs":
        """Those of the first networks alone."""
        return Outputs(self.plain[:size], None if self.jittered is None else self.jittered[:size])

    def of_inputs(self, chosen: slice) -> "Outputs":
        """Those for some inputs alone."""
        return Outputs(self.plain[:, chosen], None if self.jittered is None else self.jittered[:, chosen])


@dataclass(frozen=True)
class Prediction:
    """What an ensemble says of some inputs."""

    task: Task
    outputs: Outputs
    """What it was made of."""
    members: Tensor
    """What each network predicts, class probabilities or numbers: float32 [S, B, K]."""
    log_mean: Tensor | None
    """ln of the mean class probabilities, if there are classes: float64 [B, K]."""
    uncertainty: Uncertainty | RegressionUncertainty
    fragility: Tensor | None
    """How much of the chosen class's probability, by the J networks, small noise takes away, [B]. An answer that they
    do not repeat, each with noise of its own, depends on details that the noise hides."""

    @property
    def size(self) -> int:
        """Number of networks."""
        return len(self.outputs.plain)

    def prefix(self, size: int) -> "Prediction":
        """What the first networks say, or all of them if there are no more."""
        return self if size >= self.size else interpret(self.task, self.outputs.prefix(size))

    @property
    def probabilities(self) -> Tensor:
        """Mean class probabilities, [B, K]."""
        assert isinstance(self.uncertainty, Uncertainty)
        return self.uncertainty.probabilities

    @property
    def log_probabilities(self) -> Tensor:
        """Their logarithms, finite however small they are, [B, K]."""
        assert self.log_mean is not None
        return self.log_mean

    def score(self, name: ScoreName) -> Tensor:
        """A score by name, larger for what is less to be trusted, [B]."""
        scores: Tensor = getattr(self if name == "fragility" else self.uncertainty, name)
        return scores


def interpret(task: Task, outputs: Outputs) -> Prediction:
    """What outputs mean.

    Raises:
        NotFiniteError: if one is not finite.
    """
    uncertainty, fragility = task.measure(outputs.plain), None
    logs = average_logits(outputs.plain.double()) if isinstance(uncertainty, Uncertainty) else None
    if outputs.jittered is not None:
        assert isinstance(uncertainty, Uncertainty)
        chosen = uncertainty.probabilities.argmax(-1, keepdim=True)
        before, after = (
            normalize_logits(logits).mean(0).gather(-1, chosen)
            for logits in (outputs.plain[: len(outputs.jittered)], outputs.jittered)
        )
        fragility = (before - after).squeeze(-1)
    return Prediction(task, outputs, task.predict(outputs.plain), logs, uncertainty, fragility)


@dataclass(frozen=True)
class Draw:
    """Some members of a seed, and what they see."""

    seed: int
    members: range
    weights: Weights
    """On the sampler's device."""
    noise: Tensor | None
    """Of the first of them, where these also see noisy inputs: [J, 1, C, H, W], in units of the pixels' range."""

    def prefix(self, size: int) -> "Draw":
        """The first of them alone."""
        weights = {name: tensor[:size] for name, tensor in self.weights.items()}
        return Draw(self.seed, self.members[:size], weights, None if self.noise is None else self.noise[:size])


def evaluate(sampler: WeightSampler, spec: InputSpec, task: Task, inputs: Tensor, seed: int, size: int) -> Outputs:
    """Outputs of members 0 … size−1 of a seed, all that `interpret` needs.

    Args:
        sampler: in evaluation mode.
        spec: of its target's input.
        task: what the target's outputs mean.
        inputs: [B, …], as the spec takes them.
        seed: of the draw.
        size: S.
    """
    draws = (draw(sampler, spec, task, seed, members) for members in split_members(sampler.target, size))
    return join_outputs([evaluate_draw(networks, sampler.target, spec, inputs) for networks in draws], dim=0)


@torch.inference_mode()
def evaluate_members(sampler: WeightSampler, inputs: Tensor, seed: int, size: int) -> Tensor:
    """Outputs of members 0 … size−1 of a seed; a task says what they mean.

    Networks are drawn, evaluated and dropped in blocks, so memory beside the result does not grow with `size`.

    Args:
        sampler: in evaluation mode.
        inputs: [B, *input shape], normalised, on any device.
        seed: of the draw.
        size: S.

    Returns:
        float32 [S, B, K], on the CPU.
    """
    target, inputs = sampler.target, inputs.to(sampler.device)
    blocks = split_members(target, size)
    return torch.cat([target.forward(sampler.sample(seed, block), inputs).cpu() for block in blocks])


def draw(sampler: WeightSampler, spec: InputSpec, task: Task, seed: int, members: range) -> Draw:
    """Draws some members of a seed, to be asked with `evaluate_draw`; arguments otherwise as for `evaluate`."""
    noise, noisy = None, members[: max(0, JITTERED_NETWORKS - members.start)]
    if noisy and isinstance(spec, ImageSpec) and isinstance(task, Classification):
        noise = draw_noise(spec, seed, noisy)
    return Draw(seed, members, sampler.target.arrange(sampler.sample(seed, members)), noise)


@torch.inference_mode()
def evaluate_draw(draw: Draw, target: TargetNetwork, spec: InputSpec, inputs: Tensor) -> Outputs:
    """Outputs of the networks of a draw for inputs [B, …], as the spec takes them."""
    device = next(iter(draw.weights.values())).device
    plain = target.forward(draw.weights, spec.normalize(inputs).to(device)).cpu()
    if draw.noise is None:
        return Outputs(plain, None)
    assert isinstance(spec, ImageSpec)
    weights = draw.prefix(len(draw.noise)).weights
    blocks = [
        target.forward(weights, spec.normalize(spec.add_noise(block, draw.noise)).to(device)).cpu()
        for block in inputs.split(IMAGES_PER_BLOCK)
    ]
    return Outputs(plain, torch.cat(blocks, dim=1))


def join_outputs(parts: Sequence[Outputs], dim: Literal[0, 1]) -> Outputs:
    """Outputs of successive members for the same inputs, dim 0, or of the same members for successive inputs, 1."""
    jittered = [part.jittered for part in parts if part.jittered is not None]
    return Outputs(torch.cat([part.plain for part in parts], dim), torch.cat(jittered, dim) if jittered else None)


def split_members(target: TargetNetwork, size: int) -> list[range]:
    """Members 0 … size−1 in blocks whose weights, 16 MB, may be in memory at a time."""
    length = count_networks_per_block(target)
    return [range(start, min(start + length, size)) for start in range(0, size, length)]


def count_networks_per_block(target: TargetNetwork) -> int:
    """Networks whose weights may be in memory at a time: 16 MB, or one network."""
    return max(1, 4_000_000 // target.num_weights)


def draw_noise(spec: ImageSpec, seed: int, members: Sequence[int]) -> Tensor:
    """The noise that belongs to some members of a seed, in units of the pixels' range: [S, 1, C, H, W]."""
    return JITTER * uniform(seed, members, math.prod(spec.shape), JITTER_STREAM).view(-1, 1, *spec.shape)
