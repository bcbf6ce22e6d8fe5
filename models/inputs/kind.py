"""What every kind of input is: a file of this folder with one class, and that class's name in `InputSpec`.

Shapes: B inputs, S sampled networks.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from models.schema import Shape

Datatype = Literal["BOOL", "UINT8", "FP32", "FP64", "BYTES"]
"""Of a tensor, in the words of the Open Inference Protocol."""


class TensorSignature(NamedTuple):
    """A named tensor that inputs can be given as; its first axis is the inputs."""

    name: str
    datatype: Datatype
    """BYTES is for encoded files. A tensor of FP32 may also be given as FP64."""
    shape: Shape
    """Shape of one input."""


class InputError(ValueError):
    """Inputs that a model does not take: what is wrong with them, and what would be right."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}"


class InputKind(ABC):
    """A kind of input, from what a client sends to what a target network takes."""

    form: ClassVar[Literal["files", "rows"]]
    """How clients send inputs: as encoded files, or as rows of numbers."""
    noun: ClassVar[str]
    """What several inputs are called, in messages and error codes."""
    dtype: ClassVar[torch.dtype]
    """Data type of raw inputs."""
    perturbable: ClassVar[bool] = False
    """Whether small changes of an input have a size, so that noise can be added to it and attacks can descend a
    gradient."""

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """Shape of one input, raw and as the target takes it."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the numbers in a row, for inputs that are rows."""
        return ()

    @property
    @abstractmethod
    def signature(self) -> tuple[TensorSignature, ...]:
        """The tensors that inputs can be given as; the last is what a body without a header holds."""

    def decode(self, values: Tensor) -> Tensor:
        """Raw inputs [B, …] from finite values of the signature's tensor, unless that is of files.

        Raises:
            InputError: if the model does not take them.
        """
        return values

    @abstractmethod
    def prepare(self, raw: Tensor) -> Tensor:
        """What the target takes, float32, from raw inputs of `shape` with any leading axes."""

    def draw_noise(self, seed: int, members: Sequence[int]) -> Tensor | None:
        """The noise that belongs to some members of a seed, [S, 1, …]; None unless inputs are perturbable."""
        return None

    def jitter(self, raw: Tensor, noise: Tensor) -> Tensor:
        """Raw inputs [B, …] with the noise of each network, [S, B, …]."""
        raise NotImplementedError(f"{self.noun} have no noise")
