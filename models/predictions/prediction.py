"""Predictions of sampled networks, and the scores that flags are raised by.

Shapes: S sampled networks, J of them that also see noisy inputs, B inputs, K outputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.inputs.spec import InputSpec
from models.samplers.sampler import WeightSampler
from models.targets.target import TargetNetwork, Weights
from models.tasks.classification import Uncertainty
from models.tasks.regression import RegressionUncertainty
from models.tasks.task import Task

ScoreName = str
"""A quantity that grows with uncertainty."""

JITTERED_NETWORKS = 20
IMAGES_PER_BLOCK = 512
"""Most images whose noisy copies are in memory at a time."""


@dataclass(frozen=True)
class Inputs:
    """Inputs as they came, and as the target takes them."""

    raw: Tensor
    """[B, …]."""
    prepared: Tensor
    """float32 [B, …]. What prepares an input may be expensive, so it is done once, for all networks."""

    def __len__(self) -> int:
        return len(self.raw)

    def split(self, size: int) -> "list[Inputs]":
        """Successive parts of at most some size."""
        parts = zip(self.raw.split(size), self.prepared.split(size), strict=True)
        return [Inputs(raw, prepared) for raw, prepared in parts]


@dataclass(frozen=True)
class Outputs:
    """What the target gives for some inputs, with the weights of each network."""

    plain: Tensor
    """float32 [S, B, K]."""
    jittered: Tensor | None
    """What the first J networks give for noisy inputs, [J, B, K], where the task uses it and inputs have noise."""

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
    uncertainty: Uncertainty | RegressionUncertainty

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
        return self._of_classes.probabilities

    @property
    def log_probabilities(self) -> Tensor:
        """Their logarithms, finite however small they are, [B, K]."""
        return self._of_classes.log_probabilities

    def score(self, name: ScoreName) -> Tensor:
        """A score by name, larger for what is less to be trusted, [B]."""
        score: Tensor = getattr(self.uncertainty, name)
        return score

    @property
    def _of_classes(self) -> Uncertainty:
        assert isinstance(self.uncertainty, Uncertainty)
        return self.uncertainty


def interpret(task: Task, outputs: Outputs) -> Prediction:
    """What outputs mean.

    Raises:
        NotFiniteError: if one is not finite.
    """
    uncertainty = task.measure(outputs.plain, outputs.jittered)
    return Prediction(task, outputs, task.predict(outputs.plain), uncertainty)


@dataclass(frozen=True)
class Draw:
    """Some members of a seed, and what they see."""

    seed: int
    members: range
    weights: Weights
    """On the sampler's device."""
    noise: Tensor | None
    """The noise of the first J of them, [J, 1, …], where these also see noisy inputs."""

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
    both = prepare(spec, inputs)
    draws = (draw(sampler, spec, task, seed, members) for members in split_members(sampler.target, size))
    return join_outputs([evaluate_draw(networks, sampler.target, spec, both) for networks in draws], dim=0)


@torch.inference_mode()
def evaluate_members(sampler: WeightSampler, inputs: Tensor, seed: int, size: int) -> Tensor:
    """Outputs of members 0 … size−1 of a seed; a task says what they mean.

    Networks are drawn, evaluated and dropped in blocks, so memory beside the result does not grow with `size`.

    Args:
        sampler: in evaluation mode.
        inputs: [B, *input shape], prepared, on any device.
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
    noisy = members[: max(0, JITTERED_NETWORKS - members.start)] if task.noisy_scores else members[:0]
    noise = spec.draw_noise(seed, noisy) if noisy else None
    return Draw(seed, members, sampler.target.arrange(sampler.sample(seed, members)), noise)


def prepare(spec: InputSpec, raw: Tensor) -> Inputs:
    """Inputs [B, …], as the spec takes them, made ready for all networks."""
    return Inputs(raw, spec.prepare(raw))


@torch.inference_mode()
def evaluate_draw(draw: Draw, target: TargetNetwork, spec: InputSpec, inputs: Inputs) -> Outputs:
    """Outputs of the networks of a draw for inputs of a spec."""
    device = next(iter(draw.weights.values())).device
    plain = target.forward(draw.weights, inputs.prepared.to(device)).cpu()
    if draw.noise is None:
        return Outputs(plain, None)
    weights = draw.prefix(len(draw.noise)).weights
    blocks = [
        target.forward(weights, spec.prepare(spec.jitter(block, draw.noise)).to(device)).cpu()
        for block in inputs.raw.split(IMAGES_PER_BLOCK)
    ]
    return Outputs(plain, torch.cat(blocks, dim=1))


def join_inputs(parts: Sequence[Inputs]) -> Inputs:
    """Successive inputs as one."""
    return Inputs(torch.cat([part.raw for part in parts]), torch.cat([part.prepared for part in parts]))


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
