"""Problems: what sampled networks are fitted to, data or a density over weights.

Shapes: S sampled networks, B inputs, K outputs.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from models.noise import standard_normal
from models.prediction import evaluate_members
from models.sampler import WeightSampler
from models.target import TargetNetwork, Weights
from models.task import Classification
from training.datasets import Dataset, Mixture
from training.evaluation import measure_disagreement
from training.objectives import measure_fit

ORDER_STREAM = 4
"""Stream of the noise that orders training examples."""


@dataclass(frozen=True)
class Fit:
    """How well S networks do on their batch."""

    loss: Tensor
    """A scalar, with a gradient."""
    figure_name: str
    figure: Tensor
    """A scalar that people read, left on the device."""


class Problem(ABC):
    """What a training run minimises beside its regularisers; a function of weights and the number of the step."""

    @abstractmethod
    def fit(self, target: TargetNetwork, weights: Weights, step: int) -> Fit:
        """The loss of S networks in some step."""

    @abstractmethod
    def validate(self, sampler: WeightSampler, networks: int) -> dict[str, float]:
        """Figures of members 0 … networks−1 of seed 0; the sampler is in evaluation mode."""


class Supervised(Problem):
    """Labelled examples. Each network of a step sees examples of its own, distinct within an epoch; or all see all.

    Raises:
        ValueError: if a step takes more examples than there are, without taking all of them for each network.
    """

    def __init__(
        self, dataset: Dataset, seed: int, networks_per_step: int, inputs_per_network: int, device: torch.device
    ) -> None:
        self.dataset = dataset
        self.seed = seed
        self.shape = networks_per_step, inputs_per_network
        self._inputs = dataset.train.inputs.to(device)
        self._labels = dataset.train.labels.to(device)
        self._shared = inputs_per_network == len(dataset.train)
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)
        if not self._shared and networks_per_step * inputs_per_network > len(dataset.train):
            raise ValueError(
                f"a step of {networks_per_step} networks with {inputs_per_network} examples each takes more than the "
                f"{len(dataset.train)} of the training set; take fewer, or all {len(dataset.train)} for each network"
            )

    def fit(self, target: TargetNetwork, weights: Weights, step: int) -> Fit:
        inputs, labels = self.draw_batch(step)
        outputs = target.forward(weights, inputs)
        loss = measure_fit(self.dataset.task, outputs, labels)
        if isinstance(self.dataset.task, Classification):
            return Fit(loss, "accuracy", (outputs.detach().argmax(-1) == labels).float().mean())
        error = self.dataset.task.predict(outputs.detach()) - labels
        return Fit(loss, "root_mean_square_error", error.square().mean().sqrt())

    def validate(self, sampler: WeightSampler, networks: int) -> dict[str, float]:
        task, validation = self.dataset.task, self.dataset.validation
        outputs = evaluate_members(sampler, self.dataset.input.normalize(validation.inputs), seed=0, size=networks)
        members, labels = task.predict(outputs), validation.labels
        if isinstance(task, Classification):
            return {
                "single accuracy": (members.argmax(-1) == labels).double().mean().item(),
                "ensemble accuracy": (members.mean(0).argmax(-1) == labels).double().mean().item(),
                "disagreement": measure_disagreement(members),
            }
        return {
            "single error": (members - labels).square().mean().sqrt().item(),
            "ensemble error": (members.mean(0) - labels).square().mean().sqrt().item(),
            "deviation": members.var(0).mean().sqrt().item(),
        }

    def draw_batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Normalised inputs [S, B, …] and labels [S, B, …] of a step."""
        inputs, labels = self._inputs, self._labels
        if self._shared:
            inputs, labels = (tensor.expand(self.shape[0], *tensor.shape) for tensor in (inputs, labels))
        else:
            index = self._choose(step)
            inputs, labels = inputs[index].unflatten(0, self.shape), labels[index].unflatten(0, self.shape)
        return self.dataset.input.normalize(inputs), labels

    def _choose(self, step: int) -> Tensor:
        batch = self.shape[0] * self.shape[1]
        epoch, position = divmod(step, len(self._labels) // batch)
        if epoch != self._epoch:
            noise = standard_normal(self.seed, [epoch], len(self._labels), ORDER_STREAM)
            self._epoch, self._order = epoch, noise[0].argsort(stable=True)
        return self._order[position * batch : (position + 1) * batch].to(self._labels.device)


class Density(Problem):
    """A density over weights, in place of data."""

    def __init__(self, mixture: Mixture, device: torch.device) -> None:
        self.mixture = mixture.to(device)

    def fit(self, target: TargetNetwork, weights: Weights, step: int) -> Fit:
        points = target.flatten_weights(weights)
        return Fit(self.mixture.measure_energy(points).mean(), "density", self._density(points.detach()))

    def validate(self, sampler: WeightSampler, networks: int) -> dict[str, float]:
        points = sampler.target.flatten_weights(sampler.sample(0, range(networks)))
        return {"density": self._density(points).item()}

    def _density(self, points: Tensor) -> Tensor:
        return self.mixture.measure_density(points).mean()
