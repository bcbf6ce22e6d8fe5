"""The scheduler decides whose turn it is, and how much a turn may do. It knows jobs and a clock, not threads or device.

It is work-conserving: if there is something to do, something is done. Requests that arrive meanwhile form the next
batch.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

from models.device import is_out_of_memory
from models.model import Model
from service.admission import Weigh, weigh_equally
from service.engine import fair_queue
from service.engine.fair_queue import FairQueue
from service.engine.jobs import Job

logger = logging.getLogger(__name__)

STEP_SECONDS = 0.1
"""Longest desired time of a step. A request waits about that long for its first step if no other waits."""

BATCH_STEPS = 3
"""Most steps for a batch of several requests. Larger batches are faster, but delay the next one."""

INITIAL_BUDGET = 3_200
"""Budget of a model's first steps, in inputs × networks."""


class Waiting(fair_queue.Waiting, Protocol):
    """A request that waits for a batch."""

    @property
    def model(self) -> Model: ...

    def fail(self, error: Exception) -> None:
        """Answers it with an error."""


QueuedRequest = TypeVar("QueuedRequest", bound=Waiting)
Step = Callable[[], None]


class Scheduler(Generic[QueuedRequest]):
    """Decides what the device does next. Computations, new batches, short and large ones, and live jobs take turns."""

    def __init__(
        self,
        begin: Callable[[Sequence[QueuedRequest]], Job],
        idle: Sequence[Job],
        *,
        free_memory: Callable[[], None],
        check_device: Callable[[], bool],
        weigh: Weigh = weigh_equally,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Args:
        begin: makes a batch of requests that share a key.
        idle: jobs for when there is nothing else to do, the first one first; they may resume after they have finished.
        free_memory: called when a step ran out of memory.
        check_device: called when a step failed; returns whether the device still works. If not, nothing is answered.
        weigh: gives the weights of clients.
        clock: seconds, from any start.
        """
        self._begin = begin
        self._idle = idle
        self._free_memory = free_memory
        self._check_device = check_device
        self._clock = clock
        self._budgets: WeakKeyDictionary[Model, int] = WeakKeyDictionary()
        self._computations: deque[Job] = deque()
        self._waiting: FairQueue[QueuedRequest] = FairQueue(weigh)
        self._short: deque[Job] = deque()
        self._large: deque[Job] = deque()
        """Batches that have begun. Short ones get every other step, however many large ones there are."""
        self._busy: dict[str, Job] = {}
        """The large batch of each client that has one."""
        self.live: deque[Job] = deque()
        """Jobs that more work may join while they run. Only steps of other jobs may change it."""
        self._turns: deque[Callable[[], Step | None]] = deque(
            [
                partial(self._take, self._computations),
                self._take_waiting,
                partial(self._take, self._short),
                partial(self._take, self._large),
                partial(self._take, self.live),
            ]
        )

    def add(self, job: Job) -> None:
        """Adds a job, which takes turns with all others."""
        self._computations.append(job)

    def wait(self, request: QueuedRequest) -> None:
        """Queues a request for a batch."""
        self._waiting.add(request)

    def choose(self) -> Step | None:
        """The next step; None if there is nothing to do."""
        for _ in range(len(self._turns)):
            self._turns.rotate(-1)
            if (step := self._turns[0]()) is not None:
                return step
        job = next((job for job in self._idle if not job.finished), None)
        return None if job is None else partial(self._advance, job, None)

    @property
    def others_wait(self) -> bool:
        """Whether other work waits, while a job has its turn."""
        return any((self._computations, self._waiting, self._short, self._large, self.live))

    def find_budget(self, model: Model | None) -> int:
        """Inputs × networks of a step that takes about `STEP_SECONDS`."""
        return INITIAL_BUDGET if model is None else self._budgets.get(model, INITIAL_BUDGET)

    def _take(self, lane: deque[Job]) -> Step | None:
        return partial(self._advance, lane.popleft(), lane) if lane else None

    def _take_waiting(self) -> Step | None:
        """Starts a batch of the most urgent request and others with its key, up to a batch's limit.

        While such a batch runs, other requests wait, and form the next one. A single large request takes turns with
        other batches instead, one of each client at a time.
        """
        if self._short:
            return None
        self._busy = {client: job for client, job in self._busy.items() if not job.finished}
        requests = self._waiting.take(self._find_limit, self._busy)
        if not requests:
            return None
        large = sum(request.cost for request in requests) > self._find_limit(requests[0])
        return partial(self._start, requests, self._large if large else self._short)

    def _find_limit(self, request: QueuedRequest) -> int:
        """The largest cost of a batch that shares the requests' model."""
        return BATCH_STEPS * self.find_budget(request.model)

    def _start(self, requests: Sequence[QueuedRequest], lane: deque[Job]) -> None:
        """Begins a batch of the requests that are still wanted."""
        requests = [request for request in requests if not request.finished]
        if not requests:
            return
        try:
            job = self._begin(requests)
        except Exception as error:
            logger.exception("a batch of %s could not begin", requests[0].model.name)
            if self._check_device():
                for request in requests:
                    request.fail(error)
            return
        if lane is self._large:
            self._busy[requests[0].client] = job
        self._advance(job, lane)

    def _advance(self, job: Job, lane: deque[Job] | None) -> None:
        """Does a step of a job that is still wanted, and puts the job back unless it is finished."""
        if job.finished:
            return
        budget = self.find_budget(job.model)
        start = self._clock()
        try:
            cost = job.step(budget)
        except Exception as error:
            if not self._relieve(job, error):
                if self._check_device():
                    job.fail(error)
                return
        else:
            self._learn(job.model, budget, cost, self._clock() - start)
        if lane is not None and not job.finished:
            lane.append(job)

    def _relieve(self, job: Job, error: Exception) -> bool:
        """Handles a step that ran out of memory. Returns whether to retry it as a smaller one."""
        if not is_out_of_memory(error):
            return False
        self._free_memory()
        relieved = job.relieve()
        if relieved and job.model is not None:
            self._budgets[job.model] = max(1, self.find_budget(job.model) // 2)
        return relieved

    def _learn(self, model: Model | None, budget: int, cost: int, seconds: float) -> None:
        """Adapts a model's budget to the time of a step."""
        if model is None:
            return
        estimate = min(cost * STEP_SECONDS / seconds, 4 * budget) if seconds > 0 else 4 * budget
        # A cheap step takes longer for its cost than others do, so it may say that more is possible, but not less.
        if estimate > budget or seconds > STEP_SECONDS or cost > budget / 2:
            budget = max(1, int((budget * estimate) ** 0.5))  # the geometric mean, as some steps are slow by chance
        self._budgets[model] = budget
