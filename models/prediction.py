"""Predictions of sampled networks, and the scores that flags are raised by.

Shapes: S sampled networks, J of them that also see noisy inputs, B inputs, K outputs.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.input import ImageSpec, InputSpec
from models.noise import uniform
from models.sampler import WeightSampler
from models.target import Weights
from models.task import Classification, Task
from models.uncertainty import RegressionUncertainty, Uncertainty, normalize_logits

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


@dataclass(frozen=True)
class Prediction:
    """What an ensemble says of some inputs."""

    members: Tensor
    """What each network predicts, class probabilities or numbers: float32 [S, B, K]."""
    uncertainty: Uncertainty | RegressionUncertainty
    fragility: Tensor | None
    """How much of the chosen class's probability, by the J networks, small noise takes away, [B]. An answer that they
    do not repeat, each with noise of its own, depends on details that the noise hides."""

    @property
    def probabilities(self) -> Tensor:
        """Mean class probabilities, [B, K]."""
        assert isinstance(self.uncertainty, Uncertainty)
        return self.uncertainty.probabilities

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
    if outputs.jittered is not None:
        assert isinstance(uncertainty, Uncertainty)
        chosen = uncertainty.probabilities.argmax(-1, keepdim=True)
        before, after = (
            normalize_logits(logits).mean(0).gather(-1, chosen)
            for logits in (outputs.plain[: len(outputs.jittered)], outputs.jittered)
        )
        fragility = (before - after).squeeze(-1)
    return Prediction(task.predict(outputs.plain), uncertainty, fragility)


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
    jittered = None
    if isinstance(spec, ImageSpec) and isinstance(task, Classification):
        jittered = _evaluate_on_noise(sampler, spec, inputs, seed, min(size, JITTERED_NETWORKS))
    return Outputs(evaluate_members(sampler, spec.normalize(inputs), seed, size), jittered)


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
    inputs = inputs.to(sampler.device)
    return torch.cat([sampler.target.forward(w, inputs).cpu() for _, w in _draw_blocks(sampler, seed, size)])


def draw_noise(spec: ImageSpec, seed: int, members: Sequence[int]) -> Tensor:
    """The noise that belongs to some members of a seed, in units of the pixels' range: [S, 1, C, H, W]."""
    return JITTER * uniform(seed, members, math.prod(spec.shape), JITTER_STREAM).view(-1, 1, *spec.shape)


@torch.inference_mode()
def _evaluate_on_noise(sampler: WeightSampler, spec: ImageSpec, images: Tensor, seed: int, size: int) -> Tensor:
    """As `evaluate_members`, of images to which noise is added: a member's own, the same for all of them."""
    outputs = []
    for members, weights in _draw_blocks(sampler, seed, size):
        noise = draw_noise(spec, seed, members)
        blocks = [
            sampler.target.forward(weights, spec.normalize(spec.add_noise(block, noise)).to(sampler.device)).cpu()
            for block in images.split(IMAGES_PER_BLOCK)
        ]
        outputs.append(torch.cat(blocks, dim=1))
    return torch.cat(outputs)


def _draw_blocks(sampler: WeightSampler, seed: int, size: int) -> Iterator[tuple[range, Weights]]:
    networks_per_block = max(1, 4_000_000 // sampler.target.num_weights)  # 16 MB of weights
    for start in range(0, size, networks_per_block):
        members = range(start, min(start + networks_per_block, size))
        yield members, sampler.sample(seed, members)
