"""Sizes of models: how much memory they take, and which are too large to be served."""

from collections.abc import Collection
from pathlib import Path

import torch

from models.checkpoint_files import CheckpointError
from models.model import Model
from service.engine.engine import ServedModel
from service.engine.ensembles import count_kept
from service.engine.streams import MOST_LIVE_NETWORKS

MOST_MULTIPLICATIONS = 5 * 10**10
"""Most multiplications of one network for one input, which is the shortest possible step."""

BYTES_PER_NUMBER = 4


def count_bytes(model: ServedModel) -> int:
    """Memory of a served model, in bytes: its sampler, and the networks that are kept.

    Those are the networks of two ensembles, the current one and the next, or those of live sequences.
    """
    if isinstance(model, Model):
        return model.nbytes + 2 * count_kept(model) * model.target.num_weights * BYTES_PER_NUMBER
    return model.nbytes + model.count_live_bytes(MOST_LIVE_NETWORKS)


def check_size(
    path: Path, model: ServedModel, others: Collection[ServedModel], device: torch.device, most_bytes: int
) -> None:
    """Checks that a model can run on a device beside others, before that is tried.

    Raises:
        CheckpointError: if it is too large.
    """
    allowed = f"more than the {most_bytes / 2**20:.0f} MiB allowed"
    if isinstance(model, Model):
        target = model.target
        if (number := target.num_multiplications) > MOST_MULTIPLICATIONS:
            reason = f"a network needs {number:.1e} multiplications per input, more than {MOST_MULTIPLICATIONS:.0e}"
            raise CheckpointError(path, reason)
        if (work := 2 * BYTES_PER_NUMBER * target.count_numbers(device)) > most_bytes:
            raise CheckpointError(path, f"a network needs {work / 2**20:.0f} MiB per input, {allowed}")
    taken = sum(map(count_bytes, others))
    if taken + (own := count_bytes(model)) > most_bytes:
        reason = f"it needs {own / 2**20:.0f} MiB beside {taken / 2**20:.0f} MiB of other models"
        raise CheckpointError(path, f"{reason}, {allowed}")
