"""The engine: owns the device and decides what it does next. It knows nothing of HTTP.

It conserves work: a free device never waits, and requests that arrive while it is busy form the next batch. What takes
long is done in steps of about a tenth of a second, which take turns with what is short.

Shapes: S sampled networks, B inputs, K outputs.
"""

import atexit
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from models.checkpoint import Checkpoint, load_checkpoint
from models.device import is_out_of_memory, works
from models.targets.target import Weights
from service.admission import Admission, OverloadedError, Reservation
from service.engine.batches import Answer, Batch, Request, answer
from service.engine.ensembles import Ensemble, Ensembles, Freshness
from service.engine.observer import GuardedObserver, Observer

logger = logging.getLogger(__name__)

STEP_SECONDS = 0.1
"""That a step may take; so long, about, a request waits before its first step if nobody else waits."""

BATCH_STEPS = 3
"""That a batch of several requests may take. The larger a batch, the faster, but none begins before it ends."""

INITIAL_COST = 3_200
"""Inputs × networks of a model's first steps."""

QUEUE_COST = 500_000
"""Inputs × networks that may wait."""

STALL_SECONDS = 30.0
"""That no step takes, on whatever device: one that runs for longer does not end."""

CLOSE_SECONDS = 5.0
"""That the end waits for a step."""

NUMBERS_PER_COPY = 2**23
"""Of weights that are moved to a device."""

Result = TypeVar("Result")


@dataclass
class Call(Generic[Result]):
    """A computation where the device may be used, in steps between which others have their turn."""

    steps: Generator[None, None, Result]
    future: Future[Result] = field(default_factory=Future)

    def run(self) -> bool:
        """Does the next step, unless it was cancelled; whether there are more."""
        if self.future.done():
            return False
        try:
            next(self.steps)
            return True
        except StopIteration as end:
            deliver = partial(self.future.set_result, end.value)
        except Exception as error:
            deliver = partial(self.future.set_exception, error)
        if self.future.set_running_or_notify_cancel():
            deliver()
        return False


def _do_at_once(function: Callable[[], Result]) -> Generator[None, None, Result]:
    """A function as steps, of which there is one."""
    return function()
    yield


def _move(module: nn.Module, device: torch.device) -> Generator[None, None, None]:
    """Puts a module on a device."""
    start = time.monotonic()
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type == device.type == "cpu":
            continue
        moved = torch.empty_like(tensor, device=device)
        for source, target in zip(*(t.data.view(-1).split(NUMBERS_PER_COPY) for t in (tensor, moved)), strict=True):
            if time.monotonic() - start > STEP_SECONDS / 2:
                yield
                start = time.monotonic()
            target.copy_(source)
        tensor.data = moved


Job = TypeVar("Job", Call[Any], Request)


class Engine:
    """Runs loading, sampling and evaluation on one device.

    All of it happens in one thread. OpenMP keeps a pool of workers for each thread that computes, and with more
    workers than processors every one of them sleeps between two steps, which made a forward pass four times slower.

    Whatever ends the thread before `close` does is a `fault`. Then, as after `close`, all that waits is cancelled.
    """

    def __init__(
        self,
        device: torch.device,
        freshness: Freshness | None = None,
        queue_cost: int = QUEUE_COST,
        observer: Observer | None = None,
    ) -> None:
        self.device = device
        self.admission = Admission(queue_cost)
        """Of inputs × networks that are still to be asked."""
        self._observer = GuardedObserver(observer or Observer())
        self._ensembles = Ensembles(freshness or Freshness(), self._observer)
        self._most_costs: WeakKeyDictionary[Checkpoint, int] = WeakKeyDictionary()
        """Inputs × networks of a step."""
        self._changed = threading.Condition()
        self._calls: deque[Call[Any]] = deque()
        self._waiting: deque[Request] = deque()
        self._short: deque[Batch] = deque()
        self._large: deque[Batch] = deque()
        """Batches that have begun; however many large ones there are, every other step is a short one's."""
        self._turns = deque([self._take_call, self._take_waiting, self._take_short, self._take_large])
        self._lacking = False
        """Whether networks may be drawn ahead."""
        self._closing = False
        self._open: set[Future[Any]] = set()
        """All that were promised and are not done, whatever has become of their jobs."""
        self._step_start: float | None = None
        """Of the step that is being done, on the monotonic clock."""
        self._fault: str | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def predict(
        self, checkpoint: Checkpoint, inputs: Tensor, seed: int | None, ensemble_size: int, client: str = ""
    ) -> Future[Answer]:
        """What members 0 … ensemble_size−1 say of inputs [B, …], as the checkpoint's input takes them.

        An input's answer does not depend on what else runs (to rounding). To cancel the future ends the work.

        Args:
            checkpoint: from this engine's `load`.
            inputs: on the CPU.
            seed: of the members; if None, that of an ensemble as fresh as the engine's policy has it.
            ensemble_size: S.
            client: that asks, for its share of what may wait.

        Raises:
            OverloadedError: as `check_room` does.
        """
        request = Request(checkpoint, inputs, seed, ensemble_size)
        request.reservation = self._reserve(checkpoint, request.cost, client, request.future)
        self._submit(self._waiting, request)
        return request.future

    def compute(
        self, checkpoint: Checkpoint, steps: Generator[None, None, Result], cost: int, client: str = ""
    ) -> Future[Result]:
        """What a generator returns. Each of its steps should take about as long as the engine's own.

        To cancel the future ends the work.

        Args:
            checkpoint: that it computes with.
            steps: the computation, which yields to let others have their turn.
            cost: of all of it, in inputs × networks.
            client: that asks, for its share of what may wait.

        Raises:
            OverloadedError: as `check_room` does.
        """
        call = Call(steps)
        self._reserve(checkpoint, cost, client, call.future)
        return self._submit_call(call)

    def check_room(self, checkpoint: Checkpoint, cost: int, client: str = "") -> None:
        """Whether a client's inputs × networks may wait for an answer; the largest request may, if nothing else does.

        Raises:
            OverloadedError: if not.
        """
        with self._counting_refusals(checkpoint):
            self.admission.check(client, cost)

    def _reserve(self, checkpoint: Checkpoint, cost: int, client: str, future: Future[Any]) -> Reservation:
        """Counts a cost as waiting until a future is done.

        Raises:
            OverloadedError: as `check_room` does.
        """
        with self._counting_refusals(checkpoint):
            reservation = self.admission.reserve(client, cost, STEP_SECONDS / self._limit_cost(checkpoint))
        future.add_done_callback(lambda _: reservation.release())
        return reservation

    @contextmanager
    def _counting_refusals(self, checkpoint: Checkpoint) -> Iterator[None]:
        try:
            yield
        except OverloadedError:
            self._observer.refuse(checkpoint.name)
            raise

    def sample(
        self,
        checkpoint: Checkpoint,
        seed: int,
        members: Sequence[int],
        names: Collection[str],
        dtype: torch.dtype = torch.float32,
    ) -> Future[Weights]:
        """The named parameters of some members of a seed, on the CPU, without holes in memory."""

        def draw() -> Weights:
            weights = checkpoint.sampler.sample(seed, members, names)
            return {name: tensor.to(dtype).cpu().contiguous() for name, tensor in weights.items()}

        return self._call(draw)

    def load(self, directory: Path, most_bytes: int | None = None) -> Checkpoint:
        """A checkpoint from its directory, on this device. It is read and checked in the thread that calls.

        Raises:
            CheckpointError: as `load_checkpoint` does.
        """
        checkpoint = load_checkpoint(directory, most_bytes=most_bytes)
        self._submit_call(Call(_move(checkpoint.sampler, self.device))).result()
        return checkpoint

    def unload(self, checkpoint: Checkpoint) -> None:
        """Frees what is kept for a checkpoint that is to be served no more. Requests that it has yet are answered."""
        self._call(lambda: self._ensembles.forget(checkpoint)).result()

    def warm_up(self, checkpoint: Checkpoint) -> None:
        """A real forward pass, so that the first request finds everything in place. However much waits, it may, too.

        Raises:
            NotFiniteError: if the checkpoint's networks give outputs that are not finite.
        """
        spec = checkpoint.config.input
        inputs = torch.zeros(1, *spec.shape, dtype=spec.dtype)
        request = Request(checkpoint, inputs, seed=0, size=checkpoint.default_size)
        self._submit(self._waiting, request)
        request.future.result()
        self._call(lambda: self._expect(checkpoint)).result()

    @property
    def fault(self) -> str | None:
        """Why nothing can be computed any more; then only a new process can help."""
        if self._fault is None and not self._closing and not self._thread.is_alive():
            return "the engine's thread has ended"
        return self._fault

    @property
    def step_seconds(self) -> float:
        """For which the current step has run; 0 if there is none."""
        start = self._step_start
        return 0.0 if start is None else time.monotonic() - start

    @property
    def stall(self) -> str | None:
        """Why nothing is computed now, though it may be again."""
        seconds = self.step_seconds
        return f"a step of the engine has run for {seconds:.0f} s" if seconds > STALL_SECONDS else None

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Cancels what is not done, and waits for the step that is being done, but not for one that does not end."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        atexit.unregister(self.close)
        if threading.current_thread() is self._thread:
            return
        self._thread.join(seconds)
        if self._thread.is_alive():
            logger.error("a step of the engine has not ended within %g s, and is not waited for", seconds)
            self._cancel_open()

    def _call(self, function: Callable[[], Result]) -> Future[Result]:
        return self._submit_call(Call(_do_at_once(function)))

    def _submit_call(self, call: Call[Result]) -> Future[Result]:
        self._submit(self._calls, call)
        return call.future

    def _submit(self, queue: deque[Job], job: Job) -> None:
        with self._changed:
            taken = not self._closing
            if taken:
                self._open.add(job.future)
                queue.append(job)
                self._changed.notify()
        if taken:
            job.future.add_done_callback(self._open.discard)
        else:
            job.future.cancel()

    def _run(self) -> None:
        """All of the thread's life."""
        try:
            while (step := self._choose()) is not None:
                self._step_start = time.monotonic()
                step()
                self._step_start = None
        except BaseException as error:
            self._break(f"the engine's thread was ended by {type(error).__name__}", error)
        finally:
            self._step_start = None
            self._closing = True
            self._cancel_open()

    def _break(self, fault: str, error: BaseException | None = None) -> None:
        """Ends the engine."""
        self._fault = fault  # before anything that may fail as well
        self._closing = True
        logger.critical("%s; the process must end", fault, exc_info=error)

    def _cancel_open(self) -> None:
        with self._changed:
            futures = list(self._open)
        for future in futures:
            if not future.cancel() and not future.done():  # what ended the thread did so amid an answer
                future.set_exception(CancelledError())

    def _choose(self) -> Callable[[], None] | None:
        """What to do next: calls, batches to begin, short batches and large ones take turns; None to end."""
        with self._changed:
            while not self._closing:
                for _ in range(len(self._turns)):
                    self._turns.rotate(-1)
                    if (step := self._turns[0]()) is not None:
                        return step
                if self._lacking:
                    return self._draw_ahead
                self._changed.wait()
        return None

    def _take_call(self) -> Callable[[], None] | None:
        return partial(self._answer, self._calls.popleft()) if self._calls else None

    def _take_short(self) -> Callable[[], None] | None:
        return partial(self._advance, self._short.popleft()) if self._short else None

    def _take_large(self) -> Callable[[], None] | None:
        return partial(self._advance, self._large.popleft()) if self._large else None

    def _take_waiting(self) -> Callable[[], None] | None:
        """The request that has waited longest, with others that its networks can answer, up to a batch's limit.

        While such a batch runs, others wait, and so form the next one. One that is a single large request they need not
        wait for: it takes turns with them.
        """
        while self._waiting and self._waiting[0].future.done():
            self._waiting.popleft()
        if not self._waiting or self._short:
            return None
        first = self._waiting.popleft()
        requests, cost = [first], first.cost
        limit = BATCH_STEPS * self._limit_cost(first.checkpoint)
        if first.seed is not None or self._ensembles.freshness.policy != "request":
            for request in [request for request in self._waiting if not request.future.done()]:
                same = (request.checkpoint.version, request.seed) == (first.checkpoint.version, first.seed)
                if same and cost + request.cost <= limit:
                    self._waiting.remove(request)
                    requests.append(request)
                    cost += request.cost
        return lambda: self._begin(requests, large=cost > limit)

    def _begin(self, requests: list[Request], large: bool) -> None:
        """Starts a batch of what is not cancelled by now."""
        requests = [request for request in requests if not request.future.done()]
        if not requests:
            return
        try:
            batch = Batch(self._choose_ensemble(requests), requests, large, self._observer)
            self._observer.begin(batch.ensemble.checkpoint.name, [request.origin for request in requests])
        except Exception as error:
            logger.exception("a batch of %s could not begin", requests[0].checkpoint.name)
            if self._check_device():
                for request in requests:
                    answer(request, error)
            return
        self._advance(batch)

    def _choose_ensemble(self, requests: list[Request]) -> Ensemble:
        """That answers a batch."""
        checkpoint, seed = requests[0].checkpoint, requests[0].seed
        if seed is not None:
            return Ensemble(checkpoint, seed, keeps=False)
        ensemble = self._ensembles.take(checkpoint, sum(len(request.inputs) for request in requests))
        self._lacking = True
        return ensemble

    def _advance(self, batch: Batch) -> None:
        """Does a step of a batch, if anybody still wants it, and puts it back if it is not the last."""
        if batch.finished:
            return
        checkpoint = batch.ensemble.checkpoint
        most_cost = self._limit_cost(checkpoint)
        start = time.perf_counter()
        try:
            cost = batch.step(most_cost)
        except Exception as error:
            self._recover(batch, error)
            return
        seconds = time.perf_counter() - start
        if seconds > STEP_SECONDS or cost > most_cost / 2:  # a short step of little cost says nothing of larger ones
            estimate = min(cost * STEP_SECONDS / seconds, 4 * most_cost)
            most_cost = max(1, int((most_cost * estimate) ** 0.5))  # their mean, as some steps are slow by chance
        self._most_costs[checkpoint] = most_cost
        if not batch.finished:
            self._put_back(batch)

    def _put_back(self, batch: Batch) -> None:
        with self._changed:
            (self._large if batch.large else self._short).append(batch)

    def _answer(self, call: Call[Any]) -> None:
        if call.run():
            with self._changed:
                self._calls.append(call)
        elif not call.future.cancelled() and call.future.exception() is not None:
            self._check_device()

    def _recover(self, batch: Batch, error: Exception) -> None:
        """After a step that failed: tries a smaller one if memory ran out, or else answers with the error."""
        checkpoint = batch.ensemble.checkpoint
        if is_out_of_memory(error):
            self._ensembles.drop()
            self._lacking = False
            if batch.relieve():
                logger.warning("memory ran out for a step of %s; it is tried in smaller ones", checkpoint.name)
                self._most_costs[checkpoint] = max(1, self._limit_cost(checkpoint) // 2)
                self._put_back(batch)
                return
        logger.error("a batch of %s failed", checkpoint.name, exc_info=error)
        if self._check_device():
            batch.fail(error)

    def _check_device(self) -> bool:
        """Whether the device still computes. If not, the engine closes itself."""
        if not works(self.device):
            self._break(f"the device {self.device} computes no more")
        return self._fault is None

    def _limit_cost(self, checkpoint: Checkpoint) -> int:
        """Inputs × networks of a step."""
        return self._most_costs.get(checkpoint, INITIAL_COST)

    def _expect(self, checkpoint: Checkpoint) -> None:
        self._ensembles.expect(checkpoint)
        self._lacking = True

    def _draw_ahead(self) -> None:
        try:
            self._lacking = self._ensembles.draw_ahead()
        except Exception:
            logger.exception("networks could not be drawn ahead")
            self._ensembles.drop()
            self._lacking = False
            self._check_device()
