"""Threads among which the networks of an ensemble are divided on the CPU.

A network is small: divided among threads, its operations leave these waiting for each other most of the time. Each
thread therefore has networks of its own, and computes alone.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_here = threading.local()
_starting = threading.Lock()


def count_threads() -> int:
    """How many items of `run_in_threads` are worked on at a time; PyTorch's number of threads, as it was at first."""
    return 1 if getattr(_here, "works", False) else _start()[0]


def run_in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Results of a function, in order; it runs in the caller's modes of gradients."""
    _, pool = _start()
    inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def run(item: Item) -> Result:
        with torch.inference_mode(inference), torch.set_grad_enabled(grad):
            return function(item)

    return list(pool.map(run, items))


@cache
def _start() -> tuple[int, ThreadPoolExecutor]:
    with _starting:
        threads = torch.get_num_threads()
        arrived = threading.Barrier(threads + 1)

        def begin() -> None:
            _here.works = True
            torch.set_num_threads(1)  # this sets the process's default, too, ...
            torch.get_num_threads()  # ... which a thread takes over when it asks for the first time
            arrived.wait()

        pool = ThreadPoolExecutor(threads, thread_name_prefix="network", initializer=begin)
        for _ in range(threads):
            pool.submit(int)
        arrived.wait()
        torch.set_num_threads(threads)
        return threads, pool
