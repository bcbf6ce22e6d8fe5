"""A model for sequences: a checkpoint on its device, and everything that it can be asked.

Shapes: S sampled networks.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from models.checkpoint_files import count_bytes
from models.noise import MEMBER_LIMIT
from models.sequences.calibration import PassageCalibration
from models.sequences.checkpoint import SequenceCheckpoint, SequenceInput, SequenceTraining
from models.sequences.live import LiveSequence, LiveSequences, Script
from models.sequences.network import HyperLSTMSize, SequenceTarget
from models.sequences.sketching import StrokesScript
from models.sequences.text import TextSpec
from models.sequences.writing import Sampling, Stops, TextScript

MOST_DEFAULT_NETWORKS = 8
"""Most networks of an ensemble whose size nobody has chosen."""


@dataclass(frozen=True, eq=False)
class SequenceModel:
    """A checkpoint that writes and scores sequences."""

    checkpoint: SequenceCheckpoint
    """The checkpoint. Its sampler is in evaluation mode, on the device that computes."""

    def rename(self, name: str) -> "SequenceModel":
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
        """Name of the networks' cell."""
        return self.target.size.cell

    @property
    def input(self) -> SequenceInput:
        return self.checkpoint.config.input

    @property
    def target(self) -> SequenceTarget:
        return self.checkpoint.config.sampler.target

    @property
    def training(self) -> SequenceTraining:
        return self.checkpoint.config.training

    @property
    def calibration(self) -> PassageCalibration | None:
        return self.checkpoint.calibration

    @property
    def metrics(self) -> Mapping[str, Any] | None:
        return self.checkpoint.metrics

    @cached_property
    def nbytes(self) -> int:
        """Size of the sampler in memory, in bytes."""
        return count_bytes(self.checkpoint.sampler)

    def count_live_bytes(self, networks: int) -> int:
        """Memory of the networks of live sequences, in bytes, besides the sampler.

        Args:
            networks: number of sequences × networks.
        """
        shapes, own = self.target.parameter_shapes, self.target.own_names
        each = sum(torch.Size(shapes[name]).numel() for name in own)
        shared = sum(torch.Size(shape).numel() for name, shape in shapes.items() if name not in own)
        return torch.float32.itemsize * (shared + min(self.num_networks or networks, networks) * each)

    @property
    def num_networks(self) -> int | None:
        """Number of networks; None if every draw gives new ones."""
        return self.checkpoint.sampler.num_networks

    @property
    def largest_ensemble(self) -> int:
        """Most networks that an ensemble can have."""
        return self.num_networks or MEMBER_LIMIT

    @property
    def default_size(self) -> int:
        """Size of an ensemble when none is given: all modes, up to `MOST_DEFAULT_NETWORKS`."""
        return min(self.checkpoint.config.sampler.modes, MOST_DEFAULT_NETWORKS)

    @property
    def changes_weights(self) -> bool:
        """Whether the networks' weights change from step to step."""
        return isinstance(self.target.size, HyperLSTMSize)

    @property
    def text(self) -> TextSpec | None:
        """The characters of a model for text; None for a model of another kind."""
        return self.input if isinstance(self.input, TextSpec) else None

    @cached_property
    def live(self) -> LiveSequences:
        """The sequences that go on. Only the thread that computes may use it."""
        return LiveSequences(self.checkpoint.sampler, self._script)

    def open(
        self,
        seed: int,
        members: Sequence[int],
        given: Sequence[Any],
        *,
        more: int = 0,
        sampling: Sampling | None = None,
        stops: Sequence[str] = (),
        first: int = 0,
        changes: bool = False,
        likely: int = 0,
        keeps: bool = False,
    ) -> LiveSequence:
        """A sequence at its beginning.

        Args:
            seed: seed of the networks.
            members: the S members that write it together.
            given: its first elements: numbers of symbols, or points as `StrokesScript` describes them.
            more: most elements to draw after those.
            sampling: how they are drawn.
            stops: strings that end it, once they are drawn.
            first: position of the first element to report.
            changes: whether to report how much weights change, if they do.
            likely: number of the most probable symbols to report with each of a text.
            keeps: whether its state is kept when it has ended, for `LiveSequences.look_ahead`.

        Raises:
            ValueError: if it has no elements, and nothing is asked at its end.
        """
        if not len(given) + more and not keeps:
            raise ValueError("a sequence must have at least one element")
        return LiveSequence(
            networks=[tuple(latent) for latent in self.checkpoint.sampler.draw_latents(seed, members).tolist()],
            given=given,
            length=len(given) + more,
            sampling=sampling or Sampling(seed),
            stops=Stops(self.input.symbols, tuple(stops)) if stops and isinstance(self.input, TextSpec) else None,
            first=first,
            changes=changes and self.changes_weights,
            likely=likely,
            keeps=keeps,
        )

    def sample(
        self, seed: int, members: Sequence[int], names: Collection[str], dtype: torch.dtype = torch.float32
    ) -> Mapping[str, Tensor]:
        """The named parameters of some members of a seed, [S, …] each, on the CPU, contiguous in memory."""
        weights = self.checkpoint.sampler.sample(seed, members, names)
        return {name: tensor.to(dtype).cpu().contiguous() for name, tensor in weights.items()}

    @cached_property
    def _script(self) -> Script:
        return TextScript(self.input) if isinstance(self.input, TextSpec) else StrokesScript(self.input)
