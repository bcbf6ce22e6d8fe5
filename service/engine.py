"""The engine: owns the device and runs one job at a time on it. It knows nothing of HTTP.

Shapes: S sampled networks, B inputs, K outputs.
"""

from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from models.checkpoint import Checkpoint, load_checkpoint
from models.prediction import Prediction, evaluate, interpret
from models.target import Weights

DEFAULT_ENSEMBLE_SIZE = 100


class Engine:
    """Runs loading, sampling and evaluation on one device, in the order in which they are submitted.

    All of it happens in one thread. OpenMP keeps a pool of workers for each thread that computes, and with more
    workers than processors every one of them sleeps between two steps, which made a forward pass four times slower.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")

    def predict(self, checkpoint: Checkpoint, inputs: Tensor, seed: int, ensemble_size: int) -> Future[Prediction]:
        """What members 0 … ensemble_size−1 of a seed say of inputs [B, …], as the checkpoint's input takes them.

        An input's answer does not depend on the inputs beside it (to rounding).
        """
        return self._worker.submit(_predict, checkpoint, inputs, seed, ensemble_size)

    def sample(
        self, checkpoint: Checkpoint, seed: int, members: Sequence[int], names: Collection[str]
    ) -> Future[Weights]:
        """The named parameters of some members of a seed, on the CPU."""
        return self._worker.submit(_sample, checkpoint, seed, members, names)

    def load(self, directory: Path) -> Checkpoint:
        """A checkpoint from its directory, on this device.

        Raises:
            CheckpointError: as `load_checkpoint` does.
        """
        return self._worker.submit(load_checkpoint, directory, self.device).result()

    def warm_up(self, checkpoint: Checkpoint) -> None:
        """A real forward pass, so that the first request finds everything in place.

        Raises:
            NotFiniteError: if the checkpoint's networks give outputs that are not finite.
        """
        spec = checkpoint.config.input
        inputs = torch.zeros(1, *spec.shape, dtype=spec.dtype)
        size = checkpoint.sampler.limit_networks(DEFAULT_ENSEMBLE_SIZE)
        self.predict(checkpoint, inputs, seed=0, ensemble_size=size).result()

    def close(self) -> None:
        """Drops the jobs that have not begun and waits for the one that has."""
        self._worker.shutdown(cancel_futures=True)


def _predict(checkpoint: Checkpoint, inputs: Tensor, seed: int, ensemble_size: int) -> Prediction:
    config = checkpoint.config
    outputs = evaluate(checkpoint.sampler, config.input, config.task, inputs, seed, ensemble_size)
    return interpret(config.task, outputs)


def _sample(checkpoint: Checkpoint, seed: int, members: Sequence[int], names: Collection[str]) -> Weights:
    weights = checkpoint.sampler.sample(seed, members, names)
    return {name: tensor.cpu() for name, tensor in weights.items()}
