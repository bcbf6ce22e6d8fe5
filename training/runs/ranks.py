"""Ranks: the processes that torchrun starts, which train one model together. All of `torch.distributed` is here.

What takes most of a step is divided: the evaluation of the sampled networks. Everything else, every process does by
itself: it draws all networks of a step with all of their inputs, and has the whole sampler and its optimizers. The
outputs of all networks are collected, so each process computes all losses, also those that compare networks. The
gradient at the networks' weights is summed, so each process has that of all networks, and makes the same step.

These are the conjugate operators f and g of tensor parallelism (Shoeybi et al., "Megatron-LM: Training Multi-Billion
Parameter Language Models Using Model Parallelism", 2019, section 3).

Shapes: S sampled networks, B inputs of each.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from time import sleep

import torch
import torch.distributed as dist
from torch import Tensor

from models.device import choose_device
from models.targets.target import Weights
from training.progress import be_silent
from training.runs.state import TrainingError

PATIENCE = timedelta(days=1)
"""How long processes wait for one another, as the first downloads and validates alone. One that has ended is noticed
at once, by torchrun."""

SECONDS_TO_SPEAK = 20.0
"""How long others wait before they report an error, which the first process will have reported if it is the same."""


@dataclass(frozen=True)
class Ranks:
    """The processes, as one of them sees them. By default there is one, which divides nothing."""

    number: int = 0
    """This process; the first is 0."""
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the first process, which alone writes files, shows progress and evaluates."""
        return self.number == 0

    def can_divide(self, networks: int, inputs: int) -> bool:
        """Whether each process gets a part of the networks, or of the inputs of each network."""
        return networks % self.count == 0 or inputs >= self.count

    def divide(self, evaluate: Callable[..., list[Tensor]], weights: Weights, *inputs: Tensor) -> list[Tensor]:
        """Results of `evaluate(weights, *inputs)`, of which each process computes a part.

        All processes evaluate the networks of the first, so nothing depends on whether others round as it does. What is
        too small to be divided, each process computes by itself.

        Args:
            evaluate: returns tensors [S, B, …], in which the row of a network and an input depends on nothing else.
            weights: S networks. Their gradient is the sum of the processes' parts.
            inputs: tensors [S, B, …], the same in all processes.
        """
        networks, each = inputs[0].shape[:2]
        if self.count == 1 or not self.can_divide(networks, each):
            return evaluate(weights, *inputs)
        axis = 0 if networks % self.count == 0 else 1
        size = inputs[0].shape[axis]
        start, end = (size * number // self.count for number in (self.number, self.number + 1))
        networks_here = slice(start, end) if axis == 0 else slice(None)
        own = {name: tensor[networks_here] for name, tensor in _copy_first(weights).items()}
        parts = evaluate(own, *(tensor.narrow(axis, start, end - start) for tensor in inputs))
        return [_collect(part, axis, start, size) for part in parts]

    def unite(self, condition: bool) -> bool:
        """Whether a condition holds in any process."""
        return condition if self.count == 1 else bool(_sum(torch.tensor(int(condition))))

    def agree(self, number: int) -> int:
        """The number that the first process has."""
        return number if self.count == 1 else int(_sum(torch.tensor(number if self.leads else 0)))

    @contextmanager
    def take_turns(self) -> Iterator[None]:
        """Lets the first process do something before the others, which then find the files that it made."""
        if not self.leads:
            self.unite(False)
        try:
            yield
        finally:
            if self.leads:
                self.unite(False)

    def dismiss(self) -> None:
        """Ends all processes but the first, which goes on alone.

        Raises:
            SystemExit: in the others.
        """
        if self.count > 1:
            dist.destroy_process_group()
            if not self.leads:
                raise SystemExit


ALONE = Ranks()


def is_one_of_several() -> bool:
    """Whether torchrun started this process together with others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1


def join_ranks(device: str) -> tuple[Ranks, torch.device]:
    """Joins the other processes, if there are any, and silences all but the first.

    Args:
        device: name of the device; under torchrun `cuda` means a GPU for each process.

    Returns:
        The processes, and this one's device.

    Raises:
        DeviceError: if there is no such device, or no GPU for this process.
        TrainingError: if the processes would share one GPU.
    """
    if not is_one_of_several():
        return ALONE, choose_device(device)
    if device not in ("auto", "cpu", "cuda"):
        raise TrainingError(
            f"several processes cannot share {device}. Leave out --device, so that each has a GPU, or use --device cpu."
        )
    own = device != "cpu" and torch.cuda.is_available()
    chosen = choose_device(f"cuda:{os.environ['LOCAL_RANK']}" if own else device)
    dist.init_process_group("gloo" if chosen.type == "cpu" else "cpu:gloo,cuda:nccl", timeout=PATIENCE)
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    if not ranks.leads:
        be_silent()
    return ranks, chosen


def let_first_speak() -> None:
    """Waits before another process than the first reports an error. If the first has it, too, it reports it and ends,
    and torchrun ends the others."""
    if is_one_of_several() and int(os.environ["RANK"]):
        sleep(SECONDS_TO_SPEAK)


def _copy_first(weights: Weights) -> Weights:
    """Megatron's f: the weights that the first process has. Their gradient is the sum of all processes' gradients."""
    vectors = torch.cat([tensor.flatten(1) for tensor in weights.values()], dim=1)
    dist.broadcast(vectors.detach(), 0)  # changes the numbers, unseen by autograd
    if vectors.requires_grad:
        vectors.register_hook(lambda gradient: _sum(gradient.clone(memory_format=torch.contiguous_format)))
    columns = vectors.split([tensor[0].numel() for tensor in weights.values()], dim=1)
    return {
        name: part.unflatten(1, tensor.shape[1:]) for (name, tensor), part in zip(weights.items(), columns, strict=True)
    }


def _collect(part: Tensor, axis: int, start: int, size: int) -> Tensor:
    """Megatron's g: the parts of all processes, one after the other along an axis. The gradient is that of each part.

    Args:
        part: this process's, which may have another size than others.
        axis: the axis.
        start: where this part begins.
        size: of all parts together.
    """
    whole = part.new_zeros(*part.shape[:axis], size, *part.shape[axis + 1 :])
    whole.narrow(axis, start, part.shape[axis]).copy_(part)
    _sum(whole.detach())  # as in `_copy_first`
    return whole


def _sum(tensor: Tensor) -> Tensor:
    """Sums a tensor over all processes, in place."""
    dist.all_reduce(tensor)
    return tensor
