"""The engine owns the device and the thread that computes. It knows nothing of HTTP.

The scheduler decides what to do next; a job decides what a step does.

Shapes: S sampled networks, B inputs.
"""

import atexit
import logging
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from models.checkpoint import load_checkpoint
from models.device import works
from models.examples import load_examples
from models.model import Model
from models.precision import Precision, limit_precision
from models.predictions.stopping import StoppingRule
from models.sequences.checkpoint import load_sequence_checkpoint
from models.sequences.frozen import Outlook
from models.sequences.live import LiveSequence
from models.sequences.model import SequenceModel
from service.admission import Admission, OverloadedError, Reservation, Weigh, weigh_equally
from service.engine.batches import Answer, Batch, PredictionRequest
from service.engine.ensembles import DrawAhead, Ensemble, Ensembles, Freshness
from service.engine.idle import IdlePredictions
from service.engine.jobs import Computation, do_at_once
from service.engine.moving import move
from service.engine.observer import GuardedObserver, Observer
from service.engine.scheduler import STEP_SECONDS, Scheduler, Step
from service.engine.streams import Stream, StreamLimits, Streams

logger = logging.getLogger(__name__)

QUEUE_COST = 500_000
"""Most inputs × networks that may wait."""

STALL_SECONDS = 30.0
"""Seconds after which a step counts as stalled. No normal step takes so long on any device."""

CLOSE_SECONDS = 5.0
"""Seconds that the engine waits for a step when it is closed."""

WARM_UP_ELEMENTS = 3
"""Elements that a model for sequences writes before it is served."""

Result = TypeVar("Result")

ServedModel = Model | SequenceModel
"""A model of any kind."""


class Engine:
    """Runs loading, sampling and evaluation on one device.

    All work happens in one thread. OpenMP keeps a pool of workers for each computing thread. With more workers than
    processors, the workers sleep between steps, which made a forward pass four times slower.

    If anything but `close` ends the thread, that is a `fault`. In both cases, all waiting work is cancelled.
    """

    def __init__(
        self,
        device: torch.device,
        freshness: Freshness | None = None,
        queue_cost: int = QUEUE_COST,
        observers: Sequence[Observer] = (),
        clock: Callable[[], float] = time.perf_counter,
        stream_limits: StreamLimits = StreamLimits(),  # noqa: B008  # it is frozen
        precision: Precision = "float32",
        weigh: Weigh = weigh_equally,
    ) -> None:
        self.device = device
        self.precision: Precision = precision
        """Precision of the networks that answer for images, and of their products."""
        self.admission = Admission(queue_cost, weigh)
        """The limit on waiting inputs × networks."""
        self._observer = GuardedObserver(*observers)
        self._ensembles = Ensembles(freshness or Freshness(), self._observer)
        self._idle = IdlePredictions()
        self._clock = clock
        self._scheduler: Scheduler[PredictionRequest] = Scheduler(
            self._begin,
            (DrawAhead(self._ensembles), self._idle),
            free_memory=self._ensembles.drop,
            check_device=self._check_device,
            weigh=weigh,
            clock=clock,
        )
        self.streams = Streams(self._scheduler.live, self._observer, lambda: self._scheduler.others_wait, stream_limits)
        self._changed = threading.Condition()
        """The lock on the scheduler's queues, which also announces new work."""
        self._closing = False
        self._open: set[Future[Any]] = set()
        """All futures that are not done, whatever happened to their jobs."""
        self._step_start: float | None = None
        """Start of the current step, by the clock."""
        self._fault: str | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def predict(
        self,
        model: Model,
        inputs: Tensor,
        seed: int | None,
        ensemble_size: int,
        client: str = "",
        rule: StoppingRule | None = None,
    ) -> Future[Answer]:
        """Predicts with members 0 … ensemble_size−1, or with as many of the first as a rule finds enough.

        Up to rounding, the answer for an input does not depend on other work. Cancelling the future ends the work.

        Args:
            model: a model from this engine's `load`.
            inputs: raw inputs [B, …], on the CPU.
            seed: seed of the members; if None, the engine's freshness policy chooses an ensemble.
            ensemble_size: S.
            client: name of the client, for its share of the queue and of the device's time.
            rule: a rule of the model, whose largest ensembles have S networks.

        Raises:
            OverloadedError: if the queue has no room.
        """
        alone = seed is None and self._ensembles.freshness.policy == "request"
        key = None if alone else (model.version, seed)
        request = PredictionRequest(model, inputs, seed, ensemble_size, key, rule, client)
        request.reservation = self._reserve(model, request.cost, client, request.future)
        self._submit(request.future, lambda: self._scheduler.wait(request))
        return request.future

    def predict_when_idle(
        self, model: Model, inputs: Tensor, seed: int, ensemble_size: int, rule: StoppingRule | None = None
    ) -> Future[Answer]:
        """Predicts as `predict` does, while there is nothing else to do: a request that arrives meanwhile waits for a
        step. Observers are not told. The future is cancelled if too much waits, or the model is unloaded.
        """
        request = PredictionRequest(model, inputs, seed, ensemble_size, rule=rule)
        self._submit(request.future, lambda: self._idle.add(request))
        return request.future

    def compute(
        self, model: Model, steps: Generator[None, None, Result], cost: int, client: str = ""
    ) -> Future[Result]:
        """Runs a generator; the future gets its return value. Its steps should be about as long as the engine's own.

        Cancelling the future ends the work.

        Args:
            model: the model that it uses.
            steps: the computation, which yields to give others their turn.
            cost: total cost, in inputs × networks.
            client: name of the client, for its share of the queue.

        Raises:
            OverloadedError: if the queue has no room.
        """
        computation = Computation(steps)
        self._reserve(model, cost, client, computation.future)
        return self._add(computation)

    def write(self, model: SequenceModel, sequence: LiveSequence, client: str = "", *, patient: bool = False) -> Stream:
        """Goes on with a sequence until it ends. Cancelling the stream's future ends the work.

        Args:
            model: the model that opened the sequence.
            sequence: the sequence.
            client: name of the client, for its share of what may be live.
            patient: whether the sequence pauses while its consumer is slow.

        Raises:
            OverloadedError: if too many sequences are live.
        """
        stream = self._prepare_stream(model, sequence, patient)
        with self._counting_refusals(model):
            self.streams.open(stream, client)
        return self._begin_stream(stream)

    def look_ahead(self, model: SequenceModel, sequence: LiveSequence) -> Future[Outlook]:
        """What the networks of a sequence that has ended, and keeps its state, say of what would come next."""
        return self._call(lambda: model.live.look_ahead(sequence))

    def _prepare_stream(self, model: SequenceModel, sequence: LiveSequence, patient: bool = False) -> Stream:
        stream = Stream(model, sequence, patient, resume=lambda: self._begin_stream(stream))
        return stream

    def _begin_stream(self, stream: Stream) -> Stream:
        self._submit(stream.future, lambda: self._join(stream))
        return stream

    def _join(self, stream: Stream) -> None:
        if self.streams.join(stream):
            self._scheduler.add(do_at_once(self.streams.admit))

    def check_room(self, model: Model, cost: int, client: str = "") -> None:
        """Checks that the queue has room for a client's inputs × networks. An empty queue has room for any request.

        Raises:
            OverloadedError: if the queue has no room.
        """
        with self._counting_refusals(model):
            self.admission.check(client, cost)

    def _reserve(self, model: Model, cost: int, client: str, future: Future[Any]) -> Reservation:
        """Counts a cost as waiting until a future is done.

        Raises:
            OverloadedError: if the queue has no room.
        """
        with self._counting_refusals(model):
            reservation = self.admission.reserve(client, cost, STEP_SECONDS / self._scheduler.find_budget(model))
        future.add_done_callback(lambda _: reservation.release())
        return reservation

    @contextmanager
    def _counting_refusals(self, model: ServedModel) -> Iterator[None]:
        try:
            yield
        except OverloadedError:
            self._observer.refuse(model.name)
            raise

    def sample(
        self,
        model: ServedModel,
        seed: int,
        members: Sequence[int],
        names: Collection[str],
        dtype: torch.dtype = torch.float32,
    ) -> Future[Mapping[str, Tensor]]:
        """Samples the named parameters of some members of a seed, on the CPU, contiguous in memory."""
        return self._call(lambda: model.sample(seed, members, names, dtype))

    def load(self, directory: Path, most_bytes: int | None = None) -> Model:
        """Loads a checkpoint onto this device, with its examples. The calling thread reads and checks them.

        Raises:
            CheckpointError: if the checkpoint cannot be loaded.
        """
        checkpoint = load_checkpoint(directory, most_bytes=most_bytes)
        examples = load_examples(directory, checkpoint.config.input)
        self._add(Computation(move(checkpoint.sampler, self.device))).result()
        return Model(checkpoint, examples, limit_precision(self.precision, checkpoint.config.target))

    def load_sequences(self, directory: Path, most_bytes: int | None = None) -> SequenceModel:
        """Loads a checkpoint for sequences, as `load` does others."""
        checkpoint = load_sequence_checkpoint(directory, most_bytes=most_bytes)
        self._add(Computation(move(checkpoint.sampler, self.device))).result()
        return SequenceModel(checkpoint)

    def unload(self, model: Model) -> None:
        """Frees what is kept for a model that is no longer served. Requests that still wait for it are answered, but
        those of `predict_when_idle` are cancelled."""

        def forget() -> None:
            self._ensembles.forget(model)
            self._idle.forget(model)

        self._call(forget).result()

    def warm_up(self, model: ServedModel) -> None:
        """Runs a real forward pass, so that the first request finds everything in place. It ignores the queue's limit.

        Raises:
            NotFiniteError: if the model's networks give outputs that are not finite.
        """
        if isinstance(model, SequenceModel):
            sequence = model.open(0, range(model.default_size), [], more=WARM_UP_ELEMENTS, changes=True)
            self._begin_stream(self._prepare_stream(model, sequence)).future.result()
            return
        inputs = torch.zeros(1, *model.input.shape, dtype=model.input.dtype)
        request = PredictionRequest(model, inputs, seed=0, size=model.default_size, key=(model.version, 0))
        self._submit(request.future, lambda: self._scheduler.wait(request))
        request.future.result()
        self._call(lambda: self._ensembles.expect(model)).result()

    @property
    def fault(self) -> str | None:
        """Reason why nothing can be computed any more, if so. Only a new process can help."""
        if self._fault is None and not self._closing and not self._thread.is_alive():
            return "the engine's thread has ended"
        return self._fault

    @property
    def step_seconds(self) -> float:
        """Seconds that the current step has run; 0 if there is none."""
        start = self._step_start
        return 0.0 if start is None else self._clock() - start

    @property
    def stall(self) -> str | None:
        """Reason why nothing is computed at the moment, if so. This may be temporary."""
        seconds = self.step_seconds
        return f"a step of the engine has run for {seconds:.0f} s" if seconds > STALL_SECONDS else None

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Cancels unfinished work, and waits a limited time for the current step."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        atexit.unregister(self.close)
        if threading.current_thread() is self._thread:
            return
        self._thread.join(seconds)
        if self._thread.is_alive():
            logger.error("a step of the engine did not end within %g s; the engine closes without it", seconds)
            self._cancel_open()

    def _call(self, function: Callable[[], Result]) -> Future[Result]:
        return self._add(do_at_once(function))

    def _add(self, computation: Computation[Result]) -> Future[Result]:
        self._submit(computation.future, lambda: self._scheduler.add(computation))
        return computation.future

    def _submit(self, future: Future[Any], queue: Callable[[], None]) -> None:
        """Queues the work behind a future, or cancels the future if the engine is closing."""
        with self._changed:
            taken = not self._closing
            if taken:
                self._open.add(future)
                queue()
                self._changed.notify()
        if taken:
            future.add_done_callback(self._open.discard)
        else:
            future.cancel()

    def _run(self) -> None:
        """Runs steps for the life of the thread."""
        try:
            while (step := self._await_step()) is not None:
                self._step_start = self._clock()
                step()
                self._step_start = None
        except BaseException as error:
            self._break(f"the engine's thread was ended by {type(error).__name__}", error)
        finally:
            self._step_start = None
            self._closing = True
            self._cancel_open()

    def _await_step(self) -> Step | None:
        """Waits for the next step; None means the end."""
        with self._changed:
            while not self._closing:
                if (step := self._scheduler.choose()) is not None:
                    return step
                self._changed.wait()
        return None

    def _break(self, fault: str, error: BaseException | None = None) -> None:
        """Ends the engine."""
        self._fault = fault  # first, as anything else may fail too
        self._closing = True
        logger.critical("%s; the process must end", fault, exc_info=error)

    def _cancel_open(self) -> None:
        with self._changed:
            futures = list(self._open)
        for future in futures:
            if not future.cancel() and not future.done():  # the thread ended in the middle of an answer
                future.set_exception(CancelledError())

    def _begin(self, requests: Sequence[PredictionRequest]) -> Batch:
        """Makes a batch of requests that share a key."""
        model, seed = requests[0].model, requests[0].seed
        if seed is not None:
            ensemble = Ensemble(model, seed, keeps=False)
        else:
            ensemble = self._ensembles.take(model, sum(len(request.inputs) for request in requests))
        batch = Batch(ensemble, requests, self._observer)
        self._observer.begin(model.name, [request.origin for request in requests])
        return batch

    def _check_device(self) -> bool:
        """Whether the device still computes. If not, the engine closes itself."""
        if not works(self.device):
            self._break(f"the device {self.device} stopped responding")
        return self._fault is None
