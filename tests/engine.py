"""Engines and decoders that do what a test wants, when it wants it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from models.model import Model
from service.decoding.pool import Decoder
from service.engine.engine import Engine
from tests.waiting import wait_until


@contextmanager
def hold(engine: Engine) -> Iterator[None]:
    """Keeps the device busy."""
    busy, release = threading.Event(), threading.Event()

    def wait() -> None:
        busy.set()
        release.wait()

    engine._call(wait)
    busy.wait()
    try:
        yield
    finally:
        release.set()


def await_idle(engine: Engine | Decoder) -> None:
    """Returns once nothing waits for the engine; results are there a moment before."""
    wait_until(lambda: engine.admission.amount == 0)


def draw_images(model: Model, count: int, seed: int = 0) -> Tensor:
    """Inputs of noise."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, *model.input.shape), generator=generator, dtype=torch.uint8)


@contextmanager
def stop_processes(decoder: Decoder) -> Iterator[None]:
    """Lets the processes that decode images, all of which have started, do nothing; those that take their place do."""

    def work() -> bool:
        decoder.warm_up()
        return all(worker._works for worker in decoder._workers)

    wait_until(work)
    processes = [worker._process for worker in decoder._workers]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)  # unless it has ended
