"""Predictions that no client waits for. They are computed while the device has nothing else to do."""

import threading
from collections import deque

from models.model import Model
from service.engine.batches import Batch, PredictionRequest
from service.engine.ensembles import Ensemble
from service.engine.jobs import Job
from service.engine.observer import Observer

MOST_BYTES = 2**26
"""Most bytes of inputs that wait: 64 MiB."""


class IdlePredictions(Job):
    """A job that answers requests with seeds, one after the other. No observer is told of them."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        """Begins without any.

        Args:
            most_bytes: most bytes of inputs that wait.
        """
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._waiting: deque[PredictionRequest] = deque()
        self._bytes = 0
        self._batch: Batch | None = None
        """The batch of the first request, once it has begun."""

    def add(self, request: PredictionRequest) -> None:
        """Queues a request, from any thread, or cancels it if there is no room for its inputs."""
        with self._lock:
            fits = self._bytes + request.inputs.nbytes <= self._most_bytes
            if fits:
                self._waiting.append(request)
                self._bytes += request.inputs.nbytes
        if not fits:
            request.future.cancel()

    def forget(self, model: Model) -> None:
        """Cancels all requests for a model, so that nothing holds it. Only a step of another job may call this."""
        with self._lock:
            dropped = [request for request in self._waiting if request.model is model]
        for request in dropped:
            request.future.cancel()
            self._remove(request)

    @property
    def finished(self) -> bool:
        return not self._waiting

    def step(self, budget: int) -> int:
        request, cost = self._waiting[0], 0
        if not request.finished:
            if self._batch is None:
                assert request.seed is not None
                self._batch = Batch(Ensemble(request.model, request.seed, keeps=False), [request], Observer())
                self.model = request.model
            cost = self._batch.step(budget)
        if request.finished:
            self._remove(request)
        return cost

    def relieve(self) -> bool:
        return self._batch is not None and self._batch.relieve()

    def fail(self, error: Exception) -> None:
        request = self._waiting[0]
        request.fail(error)
        self._remove(request)

    def _remove(self, request: PredictionRequest) -> None:
        with self._lock:
            if request is self._waiting[0]:
                self._batch = self.model = None
            self._waiting.remove(request)
            self._bytes -= request.inputs.nbytes
