"""Problems: sampled networks are fitted to data, or to a density over weights.

Shapes: S sampled networks, B inputs, K outputs.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from models.inputs.image import ImageSpec
from models.noise import choices, permutations, uniform
from models.precision import DTYPES, limit_precision
from models.predictions.prediction import evaluate_members
from models.samplers.sampler import WeightSampler
from models.targets.target import TargetNetwork, Weights
from training.data.dataset import Dataset
from training.data.mixture import Mixture
from training.objectives.gaussian_noise import add_noise, consistency_loss
from training.objectives.hardening import harden
from training.objectives.logitnorm import normalize_logits
from training.objectives.objectives import balance_classes, outlier_loss
from training.recipes.recipe import Recipe
from training.runs.noise import fork_noise
from training.runs.ranks import ALONE, Ranks
from training.runs.sources import make_source

ORDER_STREAM, OUTLIER_STREAM, HARDENING_STREAM, GROUP_STREAM = 4, 11, 14, 15
"""Streams of the noise that orders training examples, chooses outliers, starts attacks and groups networks."""


@dataclass(frozen=True)
class Fit:
    """How well S networks fit their batch."""

    losses: dict[str, Tensor]
    """Scalars with a gradient; their sum is minimised."""
    metric_name: str
    metric: Tensor
    """A scalar for people to read, left on the device."""


class Problem(ABC):
    """The loss of a training run without its regularisers: a function of weights and the number of the step."""

    num_examples: int
    """Number of observations that the loss is a mean over, in expectation."""

    @abstractmethod
    def fit(self, target: TargetNetwork, weights: Weights, step: int) -> Fit:
        """The loss of S networks in some step."""

    @abstractmethod
    def validate(self, sampler: WeightSampler, networks: int) -> dict[str, float]:
        """Metrics of members 0 … networks−1 of seed 0, if anything is held out. The sampler is in evaluation mode."""


class Supervised(Problem):
    """A problem of labelled examples. Each network of a step sees its own examples, or every network sees all of them.

    Raises:
        ValueError: if a step needs more examples than there are, unless each network sees all of them, if there are
            no classes to balance, or if there are more processes than they could divide a step among.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset, seed: int, device: torch.device, ranks: Ranks = ALONE) -> None:
        self.recipe = recipe
        self.dataset = dataset
        self.seed = seed
        self.shape = networks, inputs = recipe.networks_per_step, recipe.inputs_per_network
        self.num_examples = len(dataset.train)
        self._ranks = ranks
        self._labels = dataset.train.labels.to(device)
        self._shared = inputs == self.num_examples
        self._epoch = -1
        self._orders = torch.empty(0, 0, dtype=torch.int64)
        self._class_weights: Tensor | None = None
        if recipe.balance:
            if not dataset.task.has_classes:
                raise ValueError("there are no classes to balance")
            self._class_weights = balance_classes(self._labels, len(dataset.task.outputs))
        if not self._shared and (inputs if recipe.own_epochs else networks * inputs) > self.num_examples:
            raise ValueError(
                f"a step of {networks} networks with {inputs} examples each needs more than the {self.num_examples} of "
                "the training set; use fewer, or all of them for each network"
            )
        if not ranks.can_divide(networks, inputs):
            raise ValueError(
                f"{ranks.count} processes cannot divide a step of {networks} networks with {inputs} inputs each; start "
                f"at most {inputs}, or as many as divide {networks}"
            )
        if limit_precision(recipe.precision, recipe.target) != recipe.precision:
            raise ValueError(f"networks are trained in {recipe.precision} only if they take images")
        if recipe.noise is not None and (dataset.backbone is not None or not isinstance(dataset.input, ImageSpec)):
            raise ValueError("noise can be added only to images that the networks see themselves")
        self._source = make_source(recipe, dataset, seed, device)

    def fit(self, target: TargetNetwork, weights: Weights, step: int) -> Fit:
        task = self.dataset.task
        inputs, labels = self.draw_batch(step)
        shared = self._draw_shared(inputs, step)
        if self.recipe.hardening is not None:
            inputs = self._harden(target, weights, inputs, labels, step)
        if self.recipe.noise is not None:
            inputs, labels = self._add_noise(inputs, step), labels.repeat(1, self.recipe.noise.copies)
        sizes = [inputs.shape[1], *map(len, shared)]
        if shared:
            inputs = torch.cat([inputs, *(part.expand(len(inputs), *part.shape) for part in shared)], dim=1)
        repulsion, normalisation = self.recipe.repulsion, self.recipe.logitnorm

        def evaluate(weights: Weights, inputs: Tensor) -> list[Tensor]:
            arranged = target.arrange(weights, DTYPES[self.recipe.precision])
            return [target.forward(arranged, inputs)] if repulsion is None else target.trace(arranged, inputs)

        layers = self._ranks.divide(evaluate, weights, inputs)
        scaled = layers[-1] if normalisation is None else normalize_logits(layers[-1], normalisation)
        outputs, *others = scaled.split(sizes, dim=1)
        losses = {"fit": task.measure_loss(outputs, labels, self._class_weights)}
        if self.recipe.noise is not None:
            losses["consistency"] = consistency_loss(outputs, self.recipe.noise)
        if self.recipe.outliers is not None:
            order = permutations(self.seed, [step], len(outputs), GROUP_STREAM)[0].to(outputs.device)
            loss = outlier_loss(others[-1][order], self.recipe.outliers.group_size)
            losses["outliers"] = self.recipe.outliers.weight * loss
        if repulsion is not None:
            _, *features = zip(*(layer.split(sizes, dim=1) for layer in layers), strict=True)
            losses["repulsion"] = repulsion.measure_loss(*features)
        return Fit(losses, *task.measure_fit(outputs.detach(), labels))

    def validate(self, sampler: WeightSampler, networks: int) -> dict[str, float]:
        task, validation = self.dataset.task, self.dataset.validation
        if not len(validation):
            return {}
        outputs = evaluate_members(sampler, self.dataset.view.prepare(validation.inputs), seed=0, size=networks)
        return task.measure_quality(task.predict(outputs), validation.labels)

    def draw_batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Draws the prepared inputs [S, B, …] and labels [S, B, …] of a step."""
        if self._shared:
            both = self._source.take_all(), self._labels
            inputs, labels = (tensor.expand(self.shape[0], *tensor.shape) for tensor in both)
        else:
            index = self._choose(step)
            both = self._source.take(index, step), self._labels[index]
            inputs, labels = (tensor.unflatten(0, self.shape) for tensor in both)
        return inputs, labels

    def draw_outliers(self, step: int) -> Tensor:
        """Draws the prepared outliers of a step, [B, …], which all of its networks share."""
        assert self.recipe.outliers is not None
        drawn = self.recipe.outliers.inputs_per_step, self._source.num_outliers
        (index,) = choices(self.seed, [step], *drawn, OUTLIER_STREAM)
        return self._source.take_outliers(index.to(self._labels.device))

    def _draw_shared(self, inputs: Tensor, step: int) -> list[Tensor]:
        """What all networks see beside inputs [S, B, …] of their own: examples to repel on, and outliers, [n, …]."""
        repulsion, outliers = self.recipe.repulsion, self.recipe.outliers
        shared = [] if repulsion is None else [inputs[0, : repulsion.examples_per_step]]
        return shared if outliers is None else [*shared, self.draw_outliers(step)]

    def _harden(self, target: TargetNetwork, weights: Weights, images: Tensor, labels: Tensor, step: int) -> Tensor:
        spec, hardening = self.dataset.input, self.recipe.hardening
        assert hardening is not None
        assert isinstance(spec, ImageSpec)
        count = round(hardening.share * images.shape[1])
        if not count:
            return images
        clean, rest = images[:, :count], images[:, count:]
        noise = uniform(self.seed, [step], clean.numel(), HARDENING_STREAM).view_as(clean).to(images.device)

        def attack(weights: Weights, images: Tensor, labels: Tensor, noise: Tensor) -> list[Tensor]:
            arranged = target.arrange(weights, DTYPES[self.recipe.precision])
            return [harden(target, arranged, spec, images, labels, noise, hardening)]

        (hard,) = self._ranks.divide(attack, weights, clean, labels[:, :count], noise)
        return torch.cat([hard, rest], dim=1)

    def _add_noise(self, images: Tensor, step: int) -> Tensor:
        assert self.recipe.noise is not None
        assert isinstance(self.dataset.input, ImageSpec)
        networks, count, *shape = images.shape
        with fork_noise((self.seed << 32) + step & (1 << 64) - 1, images.device):
            draws = torch.randn(networks, self.recipe.noise.copies * count, *shape, device=images.device)
        return add_noise(self.dataset.input, images, draws, self.recipe.noise)

    def _choose(self, step: int) -> Tensor:
        """Indices of a step's examples, network after network."""
        networks, inputs = self.shape
        orders, taken = (networks, inputs) if self.recipe.own_epochs else (1, networks * inputs)
        epoch, position = divmod(step, len(self._labels) // taken)
        if epoch != self._epoch:
            numbers = range(epoch * orders, (epoch + 1) * orders)
            self._epoch = epoch
            self._orders = permutations(self.seed, numbers, len(self._labels), ORDER_STREAM)
        chosen = self._orders[:, position * taken : (position + 1) * taken]
        return chosen.flatten().to(self._labels.device)


class Density(Problem):
    """A problem without data: a density over weights."""

    num_examples = 1

    def __init__(self, mixture: Mixture, device: torch.device) -> None:
        self.mixture = mixture.to(device)

    def fit(self, target: TargetNetwork, weights: Weights, step: int) -> Fit:
        points = target.flatten_weights(weights)
        energy = self.mixture.measure_energy(points).mean()
        return Fit({"fit": energy}, "density", self._density(points.detach()))

    def validate(self, sampler: WeightSampler, networks: int) -> dict[str, float]:
        points = sampler.target.flatten_weights(sampler.sample(0, range(networks)))
        return {"density": self._density(points).item()}

    def _density(self, points: Tensor) -> Tensor:
        return self.mixture.measure_density(points).mean()
