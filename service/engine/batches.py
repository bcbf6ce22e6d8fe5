"""Batches: requests that are evaluated together, because the same networks answer them.

Shapes: S sampled networks, B inputs, K outputs.
"""

import logging
import time
from collections import deque
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from models.backbones.backbone import IMAGES_PER_RUN
from models.model import Model
from models.predictions.prediction import Draw, Inputs, Outputs, Part, Prediction, join_inputs, join_outputs
from models.predictions.stopping import StoppingRule
from models.tasks.probabilities import NotFiniteError
from service.admission import Reservation
from service.engine.ensembles import Ensemble
from service.engine.jobs import Job, settle
from service.engine.observer import Observer, RequestOrigin

LEAST_COST = 32
"""Inputs × networks of a step that takes little longer than a smaller one."""

FEW_NETWORKS = 20
"""Most networks after which others are asked step by step. An input that needs more mostly needs many more."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """The predictions for all inputs of a request, and the seed that reproduces them."""

    seed: int
    parts: Sequence[Part]
    """One for each size of an ensemble."""
    rule: StoppingRule | None = None
    """The rule by which ensembles stopped growing, if any."""

    @property
    def prediction(self) -> Prediction:
        """The prediction for all inputs, by ensembles of the same size."""
        (part,) = self.parts
        return part.prediction


@dataclass(eq=False)
class PredictionRequest:
    """A request for the prediction of members 0 … size−1 of a seed, or of a fresh seed."""

    model: Model
    inputs: Tensor
    """Raw inputs, [B, …]."""
    seed: int | None
    size: int
    """S."""
    key: Hashable | None = None
    """Requests of the same key may share a batch."""
    rule: StoppingRule | None = None
    """Tells which inputs need no more networks. Without a rule, all have S."""
    client: str = ""
    """Name of the client, which has its part of the device's time."""
    origin: RequestOrigin = field(default_factory=RequestOrigin)
    future: Future[Answer] = field(default_factory=Future)
    reservation: Reservation | None = None
    """Its room in the queue, which shrinks as networks are evaluated."""
    prepared: list[Inputs] = field(default_factory=list)
    """What a backbone made of the first inputs, if the model has one."""
    parts: list[Part] = field(default_factory=list)
    """Predictions for inputs that need no more networks."""
    open: Tensor = field(init=False)
    """Numbers of the other inputs."""

    def __post_init__(self) -> None:
        self.open = torch.arange(len(self.inputs))

    @property
    def cost(self) -> int:
        """Inputs × networks."""
        return len(self.inputs) * self.size

    @property
    def finished(self) -> bool:
        return self.future.done()

    @property
    def unprepared(self) -> Tensor:
        """Raw inputs that no backbone has seen."""
        return self.inputs[sum(map(len, self.prepared)) :]

    def list_stops(self, start: int) -> list[int]:
        """Numbers of networks after which inputs may need no more, if `start` are evaluated."""
        if self.rule is None:
            return [self.size]
        return [each.ensemble_size for each in self.rule.rounds if each.ensemble_size > start]

    def take(self, part: Part, own: slice, settled: Tensor, seed: int) -> None:
        """Takes the prediction for the open inputs by the first networks.

        Args:
            part: the prediction for inputs of several requests.
            own: where the open inputs of this one are among them.
            settled: which of these need no more, bool [b].
            seed: seed of the networks.
        """
        if not settled.any():
            return
        if settled.all():
            self.parts.append(part.of_inputs(own, self.open))
            self.leave()
            settle(self.future, Answer(seed, self.parts, self.rule))
            return
        chosen = settled.nonzero()[:, 0]
        self.parts.append(part.of_inputs(own.start + chosen, self.open[chosen]))
        self.open = self.open[~settled]
        if self.reservation:
            self.reservation.shrink(len(chosen) * (self.size - part.prediction.size))

    def leave(self) -> None:
        """Has no open inputs any more."""
        self.open = self.open[:0]

    def fail(self, error: Exception) -> None:
        self.leave()
        settle(self.future, error)


class Batch(Job):
    """Requests that one ensemble answers. Up to rounding, the answer for an input does not depend on the others."""

    def __init__(self, ensemble: Ensemble, requests: Sequence[PredictionRequest], observer: Observer) -> None:
        self.model: Model = ensemble.model
        self.ensemble = ensemble
        self._requests = list(requests)
        self._observer = observer
        self._inputs: Inputs | None = None
        """The open inputs of all requests in turn, once they are prepared."""
        self._outputs: list[Outputs] = []
        """Outputs of successive networks for these."""
        self._networks: Draw | None = None
        self._start = 0
        """The first member that is not yet evaluated."""
        self._most_networks = self.model.networks_per_block
        self._rest: deque[Inputs] = deque()
        """Inputs that the current networks have not seen."""
        self._parts: list[Outputs] = []
        """Outputs of the current networks for the other inputs."""

    @property
    def finished(self) -> bool:
        return all(request.finished for request in self._requests)

    def step(self, budget: int) -> int:
        """Evaluates some networks on some inputs, and answers the requests that are then complete.

        A backbone sees the inputs before, in steps of their own.
        """
        if self._networks is None:
            if self._run_backbone():
                return 0
            self._begin(budget)
        networks = self._networks
        assert networks is not None
        part, start = self._rest[0], time.perf_counter()
        self._parts.append(self.model.evaluate(networks, part))
        self._rest.popleft()
        cost = len(part) * len(networks.members)
        self._observer.evaluate(self.model.name, cost, start, self._origins)
        if not self._rest:
            self._deliver(networks)
        return cost

    def relieve(self) -> bool:
        self.ensemble.drop()
        if self._networks is None:
            self._most_networks //= 2
            return self._most_networks > 0
        inputs, networks = len(self._rest[0]), len(self._networks.members)
        if inputs >= networks and inputs > 1:
            self._rest = deque(half for part in self._rest for half in part.split((inputs + 1) // 2))
        elif networks > 1:
            self._networks = self._networks[: networks // 2]
            self._parts = [part.prefix(networks // 2) for part in self._parts]
        relieved = inputs > 1 or networks > 1
        if relieved:
            logger.warning("a step of %s ran out of memory; it is retried in smaller steps", self.model.name)
        return relieved

    def fail(self, error: Exception) -> None:
        logger.error("a batch of %s failed", self.model.name, exc_info=error)
        for request in self._requests:
            request.fail(error)

    def _begin(self, budget: int) -> None:
        """Takes the next networks, for the requests that are still open."""
        self._leave_out_finished()
        inputs = self._inputs = self._prepare() if self._inputs is None else self._inputs
        stop = min(self._start + self._most_networks, self._choose_stop(len(inputs)))
        start, lacking = time.perf_counter(), self._start >= self.ensemble.count
        self._networks = self.ensemble.draw(self._start, stop)
        if lacking:
            self._observer.draw(self.model.name, len(self._networks.members), start, self._origins)
        self._rest.extend(inputs.split(max(1, budget // len(self._networks.members))))

    def _prepare(self) -> Inputs:
        """Prepares the inputs of all requests, once for all networks."""
        if self.model.backbone:
            return join_inputs([part for request in self._requests for part in request.prepared])
        return self.model.prepare(torch.cat([request.inputs for request in self._requests]))

    def _leave_out_finished(self) -> None:
        """Leaves out requests that nobody waits for any more."""
        if not any(request.finished for request in self._requests):
            return
        wanted = torch.ones(sum(len(request.open) for request in self._requests), dtype=torch.bool)
        for request, own in _share_inputs(self._requests):
            if request.finished:
                wanted[own] = False
                request.leave()
        self._keep(wanted)

    def _keep(self, kept: Tensor) -> None:
        """Keeps some of the open inputs of all requests, bool [B]."""
        if kept.all():
            return
        rows = kept.nonzero()[:, 0]
        self._requests = [request for request in self._requests if len(request.open)]
        self._inputs = self._inputs and self._inputs[rows]
        self._outputs = [outputs.of_inputs(rows) for outputs in self._outputs]

    def _choose_stop(self, inputs: int) -> int:
        """The last member for the next step, and some before, if memory allows."""
        growing = [request.list_stops(self._start) for request in self._requests if request.rule]
        if not growing:
            return max(request.size for request in self._requests)
        stops = min(growing)
        if self._start >= FEW_NETWORKS:
            return stops[-1]
        cheap = [stop for stop in stops if (stop - self._start) * inputs <= LEAST_COST]
        return cheap[-1] if cheap else stops[0]

    def _run_backbone(self) -> bool:
        """Runs the backbone, if any, on the next inputs that it has not seen. Returns whether there were any."""
        waiting = (request for request in self._requests if not request.finished and len(request.unprepared))
        if self.model.backbone is None or (request := next(waiting, None)) is None:
            return False
        start = time.perf_counter()
        request.prepared.append(self.model.prepare(request.unprepared[:IMAGES_PER_RUN]))
        self._observer.extract(self.model.name, start, [request.origin])
        return True

    @property
    def _origins(self) -> list[RequestOrigin]:
        return [request.origin for request in self._requests]

    def _deliver(self, networks: Draw) -> None:
        """Answers for the inputs that need no more networks than have been evaluated."""
        start, stop = networks.members.start, networks.members.stop
        self._outputs.append(join_outputs(self._parts, dim=1))
        self._networks, self._start, self._parts = None, stop, []
        self._leave_out_finished()
        for request in self._requests:
            if request.reservation:
                request.reservation.shrink(len(request.open) * (min(request.size, stop) - start))
        for size in sorted({size for request in self._requests for size in request.list_stops(start) if size <= stop}):
            self._outputs = [join_outputs(self._outputs, dim=0)]
            self._answer(size)

    def _answer(self, size: int) -> None:
        """Answers for the inputs that need no more than the first networks."""
        (outputs,) = self._outputs
        by_rule: dict[int, list[tuple[PredictionRequest, slice]]] = {}
        for request, own in _share_inputs(self._requests):
            if size in request.list_stops(0):
                by_rule.setdefault(id(request.rule), []).append((request, own))
        kept = torch.ones(outputs.plain.shape[1], dtype=torch.bool)
        for shares in by_rule.values():
            rows = torch.cat([torch.arange(own.start, own.stop) for _, own in shares])
            chosen = outputs if len(rows) == len(kept) else outputs.of_inputs(rows)
            kept[rows] = ~self._interpret([request for request, _ in shares], chosen.prefix(size))
        self._keep(kept)

    def _interpret(self, requests: Sequence[PredictionRequest], outputs: Outputs) -> Tensor:
        """Interprets outputs for the open inputs of requests with one rule, and gives each its answers.

        Returns:
            Which inputs need no more networks, bool [B].
        """
        rule, shares = requests[0].rule, _share_inputs(requests)
        try:
            prediction = self.model.interpret(outputs)
        except NotFiniteError as error:
            if len(requests) > 1:
                return torch.cat([self._interpret([request], outputs.of_inputs(own)) for request, own in shares])
            requests[0].fail(error)
            return torch.ones(outputs.plain.shape[1], dtype=torch.bool)
        calibration = self.model.find_calibration(rule)
        scores = calibration.measure(prediction) if calibration else {}
        numbers = torch.arange(outputs.plain.shape[1])
        settled = rule.settle(prediction, scores) if rule else torch.ones_like(numbers, dtype=torch.bool)
        part = Part(numbers, prediction, scores)
        counted = torch.ones_like(settled)
        for request, own in shares:
            if request.reservation is None:  # a warm-up
                counted[own] = False
        if prediction.size == requests[0].list_stops(0)[0] and counted.any():
            self._observer.measure(self.model, _choose(part, counted), self.ensemble.seed)
        if (answered := settled & counted).any():
            self._observer.answer(self.model, _choose(part, answered), calibration)
        for request, own in shares:
            request.take(part, own, settled[own], self.ensemble.seed)
        return settled


def _choose(part: Part, chosen: Tensor) -> Part:
    """The prediction for some of a part's inputs, bool [b]."""
    return part if chosen.all() else part.of_inputs(rows := chosen.nonzero()[:, 0], rows)


def _share_inputs(requests: Sequence[PredictionRequest]) -> list[tuple[PredictionRequest, slice]]:
    """Where the open inputs of each request are among those of all."""
    stops = list(accumulate(len(request.open) for request in requests))
    return [(request, slice(stop - len(request.open), stop)) for request, stop in zip(requests, stops, strict=True)]
