"""A model: a checkpoint on its device, and everything that it can be asked.

Shapes: S sampled networks, B inputs.
"""

from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from models.backbones.backbone import NO_GRADIENT, BackboneSpec
from models.checkpoint import Checkpoint, Training
from models.checkpoint_files import count_bytes
from models.examples import Example
from models.inputs.image import ImageSpec
from models.inputs.spec import InputSpec
from models.noise import MEMBER_LIMIT
from models.precision import Precision
from models.predictions.detection import Calibration
from models.predictions.path import PathKind, follow_paths
from models.predictions.perturbation import perturb
from models.predictions.prediction import (
    Draw,
    Inputs,
    Outputs,
    Prediction,
    count_networks_per_block,
    draw,
    evaluate_draw,
    interpret,
    prepare,
)
from models.predictions.smoothing import Certificate, Smoothing, certify
from models.predictions.stopping import StoppingRule
from models.targets.target import TargetNetwork, Weights
from models.tasks.task import Task


@dataclass(frozen=True, eq=False)
class Model:
    """A checkpoint that answers requests. Its callers need not know what a checkpoint consists of."""

    checkpoint: Checkpoint
    """The checkpoint. Its sampler is in evaluation mode, on the device that computes."""
    examples: tuple[Example, ...] = ()
    """Images that may be shown to anybody who may ask the model."""
    precision: Precision = "float32"
    """Precision of the networks that answer, and of their products."""

    def rename(self, name: str) -> "Model":
        """The same model under another name than its directory's."""
        return replace(self, checkpoint=replace(self.checkpoint, name=name))

    @property
    def name(self) -> str:
        return self.checkpoint.name

    @property
    def version(self) -> str:
        """SHA-256 of the checkpoint, in hexadecimal."""
        return self.checkpoint.version

    @property
    def method(self) -> str:
        """Name of the sampler's method."""
        return self.checkpoint.config.method.method

    @property
    def input(self) -> InputSpec:
        return self.checkpoint.config.input

    @property
    def task(self) -> Task:
        return self.checkpoint.config.task

    @property
    def target(self) -> TargetNetwork:
        return self.checkpoint.config.target

    @property
    def training(self) -> Training:
        return self.checkpoint.config.training

    @property
    def calibration(self) -> Calibration | None:
        return self.checkpoint.calibration

    @property
    def metrics(self) -> Mapping[str, Any] | None:
        return self.checkpoint.metrics

    @property
    def nbytes(self) -> int:
        """Size of the sampler, the backbone and the density in memory, in bytes."""
        parts = self.checkpoint.backbone, self.checkpoint.density
        return count_bytes(self.checkpoint.sampler) + sum(part.nbytes for part in parts if part is not None)

    @property
    def backbone(self) -> BackboneSpec | None:
        """The pretrained network between inputs and target, if any."""
        return self.checkpoint.config.backbone

    @property
    def perturbable(self) -> bool:
        """Whether noise can be added to inputs, and gradients lead back to them."""
        return self.checkpoint.input.perturbable

    @property
    def certifiable(self) -> bool:
        """Whether it classifies images that its networks see themselves, so that these may see noise."""
        return isinstance(self.checkpoint.input, ImageSpec) and self.task.has_classes

    @property
    def num_networks(self) -> int | None:
        """Number of networks; None if every draw gives new ones."""
        return self.checkpoint.sampler.num_networks

    @property
    def largest_ensemble(self) -> int:
        """Most networks that an ensemble can have."""
        return self.checkpoint.sampler.limit_networks(MEMBER_LIMIT)

    @property
    def default_size(self) -> int:
        """Size of an ensemble when none is given: as many networks as the model was evaluated with."""
        return self.checkpoint.default_size

    @property
    def networks_per_block(self) -> int:
        """Most networks whose weights may be in memory at a time."""
        return count_networks_per_block(self.target)

    def find_calibration(self, rule: StoppingRule | None) -> Calibration | None:
        """The calibration of ensembles that stopped growing by a rule of this model, or of fixed sizes without one."""
        return self.calibration if rule is None else self._followed[id(rule)]

    @cached_property
    def _followed(self) -> Mapping[int, Calibration]:
        """Calibrations by the rule's identity."""
        calibration = self.calibration
        rules = calibration.stopping.rules if calibration and calibration.stopping else ()
        return {id(rule): calibration.follow(rule) for rule in rules if calibration and rule}

    def draw(self, seed: int, members: range) -> Draw:
        """Some networks of a seed, ready to be evaluated."""
        return draw(self.checkpoint.sampler, self.checkpoint.input, self.task, seed, members, self.precision)

    def sample(
        self, seed: int, members: Sequence[int], names: Collection[str], dtype: torch.dtype = torch.float32
    ) -> Weights:
        """The named parameters of some members of a seed, on the CPU, contiguous in memory."""
        weights = self.checkpoint.sampler.sample(seed, members, names)
        return {name: tensor.to(dtype).cpu().contiguous() for name, tensor in weights.items()}

    def prepare(self, raw: Tensor) -> Inputs:
        """Prepares raw inputs [B, …] for all networks."""
        return prepare(self.checkpoint.input, raw, self.checkpoint.density)

    def evaluate(self, networks: Draw, inputs: Inputs) -> Outputs:
        """Outputs of drawn networks for inputs."""
        return evaluate_draw(networks, self.target, self.checkpoint.input, inputs)

    def interpret(self, outputs: Outputs) -> Prediction:
        """Interprets the outputs of an ensemble.

        Raises:
            NotFiniteError: if an output is not finite.
        """
        return interpret(self.task, outputs)

    def perturb(
        self, pixels: Tensor, seed: int, size: int, epsilon: float, steps: int
    ) -> Generator[None, None, Tensor]:
        """Perturbs images so that an ensemble changes its answer: `models.predictions.perturbation.perturb`.

        Raises:
            ValueError: if the inputs are not `perturbable`.
        """
        if not self.perturbable:
            raise ValueError(f"the inputs of {self.name} cannot be perturbed: {NO_GRADIENT}")
        return perturb(self.checkpoint.sampler, self.input, pixels, seed, size, epsilon, steps)

    def certify(self, pixels: Tensor, seed: int, smoothing: Smoothing) -> Generator[None, None, list[Certificate]]:
        """Certifies the answers for images: `models.predictions.smoothing.certify`.

        Raises:
            ValueError: if the model is not a classifier of images that its networks see themselves.
        """
        spec = self.checkpoint.input
        if not self.certifiable:
            raise ValueError(f"{self.name} does not classify images that its networks see themselves")
        assert isinstance(spec, ImageSpec)
        return certify(self.checkpoint.sampler, spec, pixels, seed, smoothing, self.precision)

    def follow_paths(
        self, inputs: Tensor, seed: int, ends: tuple[int, int], points: int
    ) -> Generator[None, None, dict[PathKind, Tensor]]:
        """Predictions of the networks between two members: `models.predictions.path.follow_paths`."""
        return follow_paths(self.checkpoint.sampler, self.checkpoint.input, self.task, inputs, seed, ends, points)
