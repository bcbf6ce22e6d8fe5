"""Requests that are evaluated together, because the same networks answer them.

Shapes: S sampled networks, B inputs, K outputs.
"""

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.checkpoint import Checkpoint
from models.predictions.prediction import (
    Draw,
    Outputs,
    Prediction,
    count_networks_per_block,
    evaluate_draw,
    interpret,
    join_outputs,
)
from models.tasks.uncertainty import NotFiniteError
from service.admission import Reservation
from service.engine.ensembles import Ensemble
from service.engine.observer import Observer, Origin


@dataclass(frozen=True)
class Answer:
    """What an ensemble says, and the seed that brings it back."""

    seed: int
    prediction: Prediction


@dataclass(eq=False)
class Request:
    """For what members 0 … size−1 of a seed, or of a fresh one, say of inputs."""

    checkpoint: Checkpoint
    inputs: Tensor
    """[B, …], as the checkpoint's input takes them."""
    seed: int | None
    size: int
    """S."""
    origin: Origin = field(default_factory=Origin)
    future: Future[Answer] = field(default_factory=Future)
    reservation: Reservation | None = None
    """Of its cost, which shrinks as networks have been asked."""
    outputs: list[Outputs] = field(default_factory=list)
    """Of the first members, so far."""

    @property
    def cost(self) -> int:
        """Inputs × networks."""
        return len(self.inputs) * self.size


class Batch:
    """Requests that one ensemble answers. What it says of an input does not depend on the others, to rounding."""

    def __init__(self, ensemble: Ensemble, requests: Sequence[Request], large: bool, observer: Observer) -> None:
        self.ensemble = ensemble
        self.large = large
        """Whether it is one request that others should not wait for."""
        self._requests = list(requests)
        self._observer = observer
        self._networks: Draw | None = None
        self._start = 0
        """The first member that has not been asked."""
        self._most_networks = count_networks_per_block(ensemble.checkpoint.config.target)
        self._rest: deque[Tensor] = deque()
        """Inputs that the networks have not seen."""
        self._parts: list[Outputs] = []
        """What they said of the others."""

    @property
    def finished(self) -> bool:
        """Whether all requests are answered, or cancelled."""
        return all(request.future.done() for request in self._requests)

    def step(self, most_cost: int) -> int:
        """Asks some networks about some inputs, and answers the requests that need no more.

        Args:
            most_cost: inputs × networks, if it is to be no single network or input.

        Returns:
            the cost.
        """
        if self._networks is None:
            self._begin(most_cost)
        networks, config = self._networks, self.ensemble.checkpoint.config
        assert networks is not None
        part, start = self._rest[0], time.perf_counter()
        self._parts.append(evaluate_draw(networks, config.target, config.input, part))
        self._rest.popleft()
        cost = len(part) * len(networks.members)
        self._observer.evaluate(self.ensemble.checkpoint.name, cost, start, self._origins)
        if not self._rest:
            self._deliver(networks)
        return cost

    def relieve(self) -> bool:
        """Makes the next step smaller than the last one, for which memory did not suffice; whether that can be done."""
        self.ensemble.drop()
        if self._networks is None:
            self._most_networks //= 2
            return self._most_networks > 0
        inputs, networks = len(self._rest[0]), len(self._networks.members)
        if inputs >= networks and inputs > 1:
            self._rest = deque(half for part in self._rest for half in part.split((inputs + 1) // 2))
        elif networks > 1:
            self._networks = self._networks.prefix(networks // 2)
            self._parts = [part.prefix(networks // 2) for part in self._parts]
        return inputs > 1 or networks > 1

    def fail(self, error: Exception) -> None:
        """Answers what is still open with an error."""
        for request in self._requests:
            answer(request, error)

    def _begin(self, most_cost: int) -> None:
        """Turns to the next networks, for the requests that are open yet."""
        self._requests = [request for request in self._requests if not request.future.done()]
        inputs = torch.cat([request.inputs for request in self._requests])
        stop = min(max(request.size for request in self._requests), self._start + self._most_networks)
        start, lacking = time.perf_counter(), self._start >= self.ensemble.count
        self._networks = self.ensemble.draw(self._start, stop)
        if lacking:
            drawn = len(self._networks.members)
            self._observer.draw(self.ensemble.checkpoint.name, drawn, start, self._origins)
        self._rest.extend(inputs.split(max(1, most_cost // len(self._networks.members))))

    @property
    def _origins(self) -> list[Origin]:
        return [request.origin for request in self._requests]

    def _deliver(self, networks: Draw) -> None:
        """Gives each request what some networks said of its inputs, and its answer if it needs no more."""
        outputs = join_outputs(self._parts, dim=1)
        position, start, stop = 0, networks.members.start, networks.members.stop
        for request in self._requests:
            own = slice(position, position + len(request.inputs))
            position = own.stop
            request.outputs.append(outputs.of_inputs(own).prefix(request.size - start))
            if request.reservation:
                request.reservation.shrink(len(request.inputs) * (min(request.size, stop) - start))
            if request.size <= stop:
                try:
                    prediction = interpret(self.ensemble.checkpoint.config.task, join_outputs(request.outputs, dim=0))
                    answer(request, Answer(self.ensemble.seed, prediction))
                except NotFiniteError as error:
                    answer(request, error)
        self._networks, self._start, self._parts = None, stop, []


def answer(request: Request, outcome: Answer | Exception) -> None:
    """Unless it was answered, or its client has cancelled it, be it in this very moment."""
    if request.future.done() or not request.future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, Exception):
        request.future.set_exception(outcome)
    else:
        request.future.set_result(outcome)
