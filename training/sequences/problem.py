"""What a sequence network learns from: batches, their loss, and how good it is on held-out sequences.

Shapes: T steps, S networks, B sequences of each, X numbers of an input, K outputs.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from models.sequences.checkpoint import SequenceCheckpoint, SequenceInput
from models.sequences.sampler import SequenceSampler


@dataclass(frozen=True)
class Batch:
    """Sequences of a step, those of the first network first."""

    inputs: Tensor
    """What the networks see: [T, S·B, X], or int64 [T, S·B] for symbols."""
    targets: Tensor
    """What comes next: [T, S·B, …]."""
    carries: bool
    """Whether the sequences go on from those of the step before."""
    mask: Tensor | None = None
    """Which steps count, bool [T, S·B], if sequences end within the batch."""
    last: Tensor | None = None
    """Which steps end a sequence, bool [T, S·B], if any do."""

    @property
    def num_symbols(self) -> int:
        """Symbols or points that the networks learn from."""
        return self.targets.numel() if self.mask is None else int(self.mask.sum())


class SequenceProblem(ABC):
    """A kind of sequences."""

    spec: SequenceInput
    licence: str | None
    """Licence of the data, and whom it names, if that obliges those who pass weights on."""
    unit: str
    """Unit of the loss that `validate` and `measure` report."""

    @abstractmethod
    def make_batch(self, seed: int, step: int, networks: int, sequences: int, window: int) -> Batch:
        """The batch of a step, which depends on nothing else.

        Args:
            seed: seed of the training.
            step: number of the step.
            networks: S.
            sequences: B.
            window: T, or the most steps.
        """

    @abstractmethod
    def measure_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean loss per step in nats, from outputs [T, S·B, K]."""

    @abstractmethod
    def validate(self, sampler: SequenceSampler, latents: Tensor) -> dict[str, float]:
        """A quick look at the validation split."""

    @abstractmethod
    def measure(self, checkpoint: SequenceCheckpoint, latents: Tensor) -> Mapping[str, float]:
        """Metrics on all of the validation and test splits, by networks of these latents."""

    @abstractmethod
    def calibrate(self, directory: Path, checkpoint: SequenceCheckpoint) -> bool:
        """Calibrates the flags that a checkpoint can raise, and writes them; returns whether it can raise any.

        Args:
            directory: the checkpoint's directory.
            checkpoint: what was read from there.
        """
