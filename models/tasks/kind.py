"""What every kind of task is: a file of this folder with one class, and that class's name in `Task`.

Shapes: S members, J of them that also see noisy inputs, B inputs, K outputs.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from models.tasks.quantity import Quantity

Flag = Literal["out_of_distribution", "suspect_adversarial"]


class TaskKind(ABC):
    """A kind of task: what outputs mean, and what is measured of an ensemble's."""

    quantities: ClassVar[Mapping[str, Quantity]]
    """What `measure` measures."""
    has_classes: ClassVar[bool] = False
    """Whether there are class probabilities, which can be tempered, and prediction sets."""
    flag_scores: ClassVar[Mapping[Flag, tuple[str, ...]]]
    """What each flag may be raised by; the first, where nothing speaks for another."""
    noisy_scores: ClassVar[frozenset[str]] = frozenset()
    """Those of them that need what members say of noisy inputs."""

    @property
    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """Names of the K outputs."""

    @abstractmethod
    def predict(self, outputs: Tensor) -> Tensor:
        """What each network predicts, [S, B, K], from its outputs."""

    @abstractmethod
    def measure(self, outputs: Tensor, jittered: Tensor | None = None) -> Any:
        """A dataclass of the quantities, from the members' outputs [S, B, K], and theirs on noisy inputs [J, B, K].

        Raises:
            NotFiniteError: if an output is not finite.
        """

    @abstractmethod
    def measure_loss(self, outputs: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """The mean loss over examples, which training minimises.

        Args:
            outputs: of S networks, [S, B, K].
            labels: each network's own, [S, B, …].
            class_weights: a weight for the examples of each class, [K], where there are classes.
        """

    @abstractmethod
    def measure_fit(self, outputs: Tensor, labels: Tensor) -> tuple[str, Tensor]:
        """Name and value of what a training step reports; arguments as for `measure_loss`."""

    @abstractmethod
    def judge(self, members: Tensor, labels: Tensor) -> dict[str, float]:
        """How good networks are alone and together, from what they predict, [S, B, K], and the labels, [B, …]."""
