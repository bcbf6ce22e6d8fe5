"""Learning to draw: to predict the next point of a drawing.

Shapes: T points, S networks, B drawings.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from models.sequences.checkpoint import SequenceCheckpoint
from models.sequences.sampler import SequenceSampler
from models.sequences.strokes import StrokesSpec, average_surprisal
from training.data import strokes
from training.data.strokes import Drawings, make_batches
from training.progress import track
from training.sequences.problem import Batch, SequenceProblem

EVALUATED_DRAWINGS = 100
"""Drawings that are evaluated side by side."""

VALIDATED_DRAWINGS = 300
"""Drawings of the validation split at which a quick look looks."""


class DrawingsProblem(SequenceProblem):
    """Drawings, in batches of like length. A network sees them in its own order, stretched a little."""

    spec: StrokesSpec
    unit = "nats per point"

    def __init__(self, drawings: Drawings, device: torch.device) -> None:
        self.drawings = drawings
        self.spec = drawings.spec
        self.licence = drawings.licence
        self._device = device
        self._list_batches = lru_cache(maxsize=1)(self._make_batches)

    def make_batch(self, seed: int, step: int, networks: int, sequences: int, window: int) -> Batch:  # noqa: ARG002  # drawings are read whole
        rows = networks * sequences
        epoch, number = divmod(step, -(-len(self.drawings.train) // rows))
        batch = self._list_batches(seed, epoch, rows)[number]
        count = len(batch.lengths)
        equal = torch.arange(max(count // networks, 1) * networks) % count  # as many for each network
        inputs, targets, mask, last = (
            part[:, equal].to(self._device) for part in (batch.inputs, batch.targets, batch.mask, batch.last)
        )
        return Batch(inputs, targets, carries=False, mask=mask, last=last)

    def measure_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        assert batch.mask is not None
        assert batch.last is not None
        surprisal = self.spec.measure_surprisal(outputs, batch.targets, batch.last)
        return (surprisal * batch.mask).sum() / batch.mask.sum()

    def validate(self, sampler: SequenceSampler, latents: Tensor) -> dict[str, float]:
        some = self.drawings.validation[:VALIDATED_DRAWINGS]
        return {self.unit: _average(score_drawings(sampler, latents, self.spec, some, "validating")[0], some)}

    def calibrate(self, directory: Path, checkpoint: SequenceCheckpoint) -> bool:  # noqa: ARG002  # there are no flags
        return False

    def measure(self, checkpoint: SequenceCheckpoint, latents: Tensor) -> Mapping[str, float]:
        metrics, sampler = dict[str, float](), checkpoint.sampler
        for name, split in (("validation", self.drawings.validation), ("test", self.drawings.test)):
            together, alone = score_drawings(sampler, latents, self.spec, split, f"evaluating the {name} split")
            metrics[f"{name} nats per point"] = _average(together, split)
            metrics[f"{name} nats per drawing"] = together.mean().item()
            if len(latents) > 1:
                metrics[f"{name} nats per point, one network"] = _average(alone, split)
        return metrics

    def _make_batches(self, seed: int, epoch: int, rows: int) -> list[strokes.Batch]:
        generator = torch.Generator().manual_seed((seed << 20) + epoch)
        return list(make_batches(self.drawings.train, self.spec, rows, generator))


@torch.no_grad()
def score_drawings(
    sampler: SequenceSampler, latents: Tensor, spec: StrokesSpec, drawings: Sequence[Tensor], title: str
) -> tuple[Tensor, Tensor]:
    """Surprisal of whole drawings in nats, sorted by their lengths: of an ensemble, and the mean of its networks.

    Args:
        sampler: in evaluation mode.
        latents: latents of the networks, [S, …].
        spec: what the networks read.
        drawings: each float32 [P, 3].
        title: what to call the progress.
    """
    network, networks = sampler.assemble(latents), len(latents)
    together, alone = list[Tensor](), list[Tensor]()
    for batch in track(list(make_batches(drawings, spec, EVALUATED_DRAWINGS)), title, "batch"):
        outputs, _ = network(batch.inputs.repeat(1, networks, 1).to(latents.device))
        outputs = outputs.unflatten(1, (networks, -1)).transpose(0, 1)
        surprisals = spec.measure_surprisal(outputs, batch.targets.to(outputs), batch.last.to(outputs.device))
        mask = batch.mask.to(outputs.device)
        together.append((average_surprisal(surprisals) * mask).sum(0).cpu())
        alone.append((surprisals.mean(0) * mask).sum(0).cpu())
    return torch.cat(together).double(), torch.cat(alone).double()


def _average(surprisals: Tensor, drawings: Sequence[Tensor]) -> float:
    """Surprisal per point."""
    return surprisals.sum().item() / sum(map(len, drawings))
