"""Kinds of input. Each kind is a file in this folder with one class, which `InputSpec` names.

Shapes: B inputs, S sampled networks.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from models.schema import Shape

Datatype = Literal["BOOL", "UINT8", "INT64", "FP32", "FP64", "BYTES"]
"""Data type of a tensor, as the Open Inference Protocol names it."""

Cell = float | str | bool | None
"""A value as JSON has it. None is a missing value."""

Row = Sequence[Cell] | Mapping[str, Cell]


class TensorSignature(NamedTuple):
    """A named tensor in which inputs can be sent. Its first axis counts the inputs."""

    name: str
    datatype: Datatype
    """BYTES is for encoded files, or for the text of rows' values. A tensor of FP32 may also be given as FP64."""
    shape: Shape
    """Shape of one input."""


class InputError(ValueError):
    """Inputs that a model does not accept. The message says what is wrong, and the hint what would be right."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}"


class InputKind(ABC):
    """A kind of input: the steps from a client's data to a target network's input."""

    form: ClassVar[Literal["files", "rows"]]
    """How clients send inputs: as encoded files, or as rows of numbers."""
    noun: ClassVar[str]
    """Plural noun for inputs, in messages and error codes."""
    dtype: ClassVar[torch.dtype]
    """Data type of raw inputs."""
    perturbable: ClassVar[bool] = False
    """Whether changes of an input have a size, so that noise can be added and attacks can follow a gradient."""

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """Shape of one raw input."""

    @property
    def prepared_shape(self) -> Shape:
        """Shape of one prepared input, which the target takes."""
        return self.shape

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the values in a row, for inputs that are rows."""
        return ()

    @property
    def coding(self) -> tuple[object, ...]:
        """What raw inputs mean. Models whose inputs are coded alike can be asked about the same raw inputs."""
        return type(self), self.shape, self.column_names

    @property
    @abstractmethod
    def signature(self) -> tuple[TensorSignature, ...]:
        """The tensors in which inputs can be sent. A body without a header holds the last one."""

    def read_rows(self, rows: Sequence[Row]) -> Tensor:
        """Raw inputs [B, …] from rows of values, in order or by name, for inputs that are rows.

        Raises:
            InputError: if the model does not accept them.
        """
        raise NotImplementedError(f"{self.noun} are not rows")

    def write_rows(self, raw: Tensor) -> list[Mapping[str, Cell]]:
        """Rows of values by name, which `read_rows` reads, from raw inputs [B, …], for inputs that are rows."""
        raise NotImplementedError(f"{self.noun} are not rows")

    def decode(self, values: Tensor) -> Tensor:
        """Raw inputs [B, …] from finite values of the signature's tensor, unless it holds files.

        Raises:
            InputError: if the model does not accept them.
        """
        return values

    @abstractmethod
    def prepare(self, raw: Tensor) -> Tensor:
        """Prepares raw inputs of `shape`, with any leading axes, for the target: float32 of `prepared_shape`."""

    def draw_noise(self, seed: int, members: Sequence[int]) -> Tensor | None:
        """Noise of some members of a seed, [S, 1, …]; None unless inputs are perturbable."""
        return None

    def jitter(self, raw: Tensor, noise: Tensor) -> Tensor:
        """Adds the noise of each network to raw inputs [B, …]: [S, B, …]."""
        raise NotImplementedError(f"{self.noun} have no noise")
