"""Kinds of task. Each kind is a file in this folder with one class, which `Task` names.

Shapes: S members, J of them that also see noisy inputs, B inputs, K outputs.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from models.tasks.quantity import Quantity

Flag = Literal["out_of_distribution", "suspect_adversarial"]


class TaskKind(ABC):
    """A kind of task: the meaning of outputs, and the quantities measured on an ensemble."""

    quantities: ClassVar[Mapping[str, Quantity]]
    """Quantities that `measure` returns."""
    has_classes: ClassVar[bool] = False
    """Whether there are class probabilities, which can be tempered, and prediction sets."""
    flag_scores: ClassVar[Mapping[Flag, tuple[str, ...]]]
    """Scores that may raise each flag. The first is the default."""
    noisy_scores: ClassVar[frozenset[str]] = frozenset()
    """Scores that need the members' outputs for noisy inputs."""

    @property
    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """Names of what is predicted: K classes or numbers."""

    @property
    def num_outputs(self) -> int:
        """Number of outputs that the target has."""
        return len(self.outputs)

    @abstractmethod
    def predict(self, outputs: Tensor) -> Tensor:
        """Prediction of each network, [S, B, K], from its outputs."""

    @abstractmethod
    def measure(self, outputs: Tensor, jittered: Tensor | None = None) -> Any:
        """A dataclass of the quantities, from the members' outputs [S, B, K], and those for noisy inputs [J, B, K].

        Raises:
            NotFiniteError: if an output is not finite.
        """

    @abstractmethod
    def measure_loss(self, outputs: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """Mean loss over examples, which training minimises.

        Args:
            outputs: outputs of S networks, [S, B, K].
            labels: labels of each network's own examples, [S, B, …].
            class_weights: a weight for the examples of each class, [K], if there are classes.
        """

    @abstractmethod
    def measure_fit(self, outputs: Tensor, labels: Tensor) -> tuple[str, Tensor]:
        """Name and value of the number that a training step reports. The arguments are those of `measure_loss`."""

    @abstractmethod
    def measure_quality(self, members: Tensor, labels: Tensor) -> dict[str, float]:
        """Quality of networks alone and together, from their predictions, [S, B, K], and the labels, [B, …]."""
