"""Feedback: answers are kept until their labels arrive. One thread writes them, so that no request waits for that."""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal, TypeVar

from models.feedback.answers import RequestAnswers, describe_answering, keep_part
from models.feedback.labels import FeedbackError, GivenLabel, Outcome
from models.feedback.measures import Measures, measure
from models.model import Model
from service.engine.batches import Answer

if TYPE_CHECKING:
    from models.feedback.store import Store

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

THREADS, MOST_CALLS = 4, 64
"""Threads that label and measure for clients, and most clients that they work for or that wait for them."""

MOST_WAITING = 10_000
"""Most answers that wait to be written. Further ones are dropped."""

PER_TRANSACTION = 1000
"""Most answers that are written in one transaction, if the requests have no more inputs."""

MEASURE_SECONDS, TRIM_SECONDS = 10.0, 60.0
"""Seconds between two times that new labels are measured, and old answers are dropped."""

WRITE_SECONDS = 5.0
"""Seconds that labels wait for the answers before them to be written, and that a shutdown does."""

Loss = Literal["queue", "store", "space"]
"""Why answers are dropped: too many wait to be written, the store fails, or it holds as many as it may."""


class Feedback:
    """Keeps answers in a store, labels them, and measures what the labels say."""

    def __init__(self, store: "Store", most_answers: int, days: float) -> None:
        """Begins to write.

        Args:
            store: the store, which belongs to this object from now on.
            most_answers: number of answers that the store keeps.
            days: days that it keeps them.
        """
        self.kept: Counter[str] = Counter()
        """Number of answers that were written, by the model's name."""
        self.dropped: Counter[Loss] = Counter()
        """Number of answers that were not, or are not any more."""
        self.fault: str | None = None
        """Reason why the store cannot be used, if so."""
        self.measures: dict[tuple[str, str], Measures] = {}
        """What was measured last, by names and versions of models."""
        self._store = store
        self._most_answers, self._days = most_answers, days
        self._changed = threading.Condition()
        self._waiting: deque[RequestAnswers] = deque()
        self._count = self._submitted = self._settled = 0
        """Answers that wait, and requests whose answers ever waited, and do not any more."""
        self._closing = False
        self._calls = ThreadPoolExecutor(THREADS, "feedback calls")
        self._open_calls = 0
        self._labels: dict[int, int] = {}
        """Number of labels when a version was measured, by its id in the store."""
        self._next_measure = self._next_trim = 0.0
        self._thread = threading.Thread(target=self._run, name="feedback", daemon=True)
        self._thread.start()

    def keep(self, client: str, request_id: str, model: Model, answer: Answer) -> None:
        """Keeps the answer to a request, soon.

        Args:
            client: name of the client.
            request_id: id of the request.
            model: the model that answered.
            answer: its answer.
        """
        calibration = model.find_calibration(answer.rule)
        parts = [keep_part(part, calibration, grew=answer.rule is not None) for part in answer.parts]
        described = describe_answering(model.name, model.version, model.task, model.calibration)
        kept = RequestAnswers(client, request_id, described, answer.seed, time.time(), parts)
        with self._changed:
            if self._count + len(kept) > MOST_WAITING:
                self.dropped["queue"] += len(kept)
                return
            self._waiting.append(kept)
            self._count += len(kept)
            self._submitted += 1
            self._changed.notify_all()

    def label(self, client: str, labels: Sequence[GivenLabel]) -> Future[list[tuple[Outcome, str]]]:
        """Labels a client's answers, those included that wait to be written: `Store.label`.

        Raises:
            FeedbackError: if too many clients wait; the future's, if the store cannot be used.
        """
        return self._call(lambda: self._label(client, labels))

    def measure(self, name: str, version: str) -> Future[Measures]:
        """Measures a version of a model now.

        Raises:
            FeedbackError: if too many clients wait; the future's, if the store cannot be used.
            LookupError: the future's, if no answer of this version was ever kept.
        """
        return self._call(lambda: self._measure(name, version))

    def close(self) -> None:
        """Writes what waits, for a limited time, and closes the store."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(WRITE_SECONDS)
        self._calls.shutdown(wait=False, cancel_futures=True)
        self._store.close()

    def _call(self, call: Callable[[], Result]) -> Future[Result]:
        """Uses the store in a thread that nothing else needs."""
        with self._changed:
            if self._open_calls >= MOST_CALLS:
                raise FeedbackError("too many clients wait for the feedback store")
            self._open_calls += 1
        future = self._calls.submit(self._try, call)
        future.add_done_callback(self._end_call)
        return future

    def _try(self, call: Callable[[], Result]) -> Result:
        """Calls, and notes if the store fails."""
        try:
            return call()
        except FeedbackError as error:
            self._note_fault(str(error))
            raise

    def _end_call(self, _: object) -> None:
        with self._changed:
            self._open_calls -= 1

    def _label(self, client: str, labels: Sequence[GivenLabel]) -> list[tuple[Outcome, str]]:
        with self._changed:
            submitted = self._submitted
            self._changed.wait_for(lambda: self._settled >= submitted, WRITE_SECONDS)
        return self._store.label(client, labels)

    def _measure(self, name: str, version: str) -> Measures:
        for stored in self._store.list_models():
            if (stored.model.name, stored.model.version) == (name, version):
                return measure(stored.model, self._store.read(stored))
        raise LookupError(f"no answer of {name} at this version was kept")

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing, MEASURE_SECONDS)
                batch, closing = self._take(), self._closing
            if batch:
                self._write(batch)
            if closing and not batch:
                return
            self._look_after()

    def _take(self) -> list[RequestAnswers]:
        """The next answers to write. A request's answers stay together."""
        batch, count = list[RequestAnswers](), 0
        while self._waiting and (not batch or count + len(self._waiting[0]) <= PER_TRANSACTION):
            batch.append(self._waiting.popleft())
            count += len(batch[-1])
        self._count -= count
        return batch

    def _write(self, batch: Sequence[RequestAnswers]) -> None:
        try:
            self._store.add(batch)
            self._note_fault(None)
            for request in batch:
                self.kept[request.model.name] += len(request)
        except FeedbackError as error:
            self._note_fault(str(error))
            self.dropped["store"] += sum(map(len, batch))
        with self._changed:
            self._settled += len(batch)
            self._changed.notify_all()

    def _look_after(self) -> None:
        """Measures new labels, and drops what is old or too much, from time to time."""
        start = time.monotonic()
        try:
            if start >= self._next_trim:
                self.dropped["space"] += self._store.trim(self._most_answers, self._days)
                self._next_trim = time.monotonic() + TRIM_SECONDS
            if start >= self._next_measure:
                self._measure_changes()
                self._next_measure = time.monotonic() + max(MEASURE_SECONDS, 20 * (time.monotonic() - start))
        except FeedbackError as error:
            self._note_fault(str(error))
            self._next_measure = self._next_trim = time.monotonic() + MEASURE_SECONDS

    def _measure_changes(self) -> None:
        """Measures the versions that have new labels, and forgets those that have none."""
        measures: dict[tuple[str, str], Measures] = {}
        for stored in self._store.list_models():
            if not stored.labels:
                continue
            key = name, version = stored.model.name, stored.model.version
            before = now = self.measures.get(key)
            if now is None or stored.labels != self._labels.get(stored.id):
                now = measure(stored.model, self._store.read(stored))
            self._labels[stored.id] = stored.labels
            measures[key] = now
            if now.alarm and not (before and before.alarm):
                logger.warning("%s, version %s, covers fewer labels than its sets or intervals promise", name, version)
        self.measures = measures
        self._note_fault(None)

    def _note_fault(self, fault: str | None) -> None:
        """Logs a fault when it is new, and when it is over."""
        if fault is not None and fault != self.fault:
            logger.error("%s; answers are not kept", fault)
        if fault is None and self.fault is not None:
            logger.info("the feedback store can be used again")
            self._labels.clear()  # it may be another store
        self.fault = fault
