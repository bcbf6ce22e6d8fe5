"""Streams: sequences that a model goes on with, all live ones together, and the way of each to its consumer."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from models.sequences.live import Element, FinishReason, LiveSequence
from models.sequences.model import SequenceModel
from service.admission import Admission, OverloadedError, Reservation
from service.engine.jobs import Job, settle
from service.engine.observer import Observer, RequestOrigin
from service.engine.scheduler import STEP_SECONDS

logger = logging.getLogger(__name__)

HAND_SECONDS = 0.02
"""Seconds between two times that consumers get what is new, but for the first element and the last."""

HAND_SECONDS_EACH = 0.001
"""The same for each stream, if there are many: each of these times costs a consumer more than many elements do."""

TURN_SECONDS = STEP_SECONDS / 2
"""Longest turn of a model's live sequences."""

SHORT_TURN_SECONDS = STEP_SECONDS / 5
"""Length of a turn after which it ends if other work waits."""

MOST_HELD = 512
"""Elements of a stream that wait for its consumer, above which its sequence pauses."""

MOST_LIVE_NETWORKS = 1_024
"""Most live sequences × networks of a model."""

MOST_LIVE_ELEMENTS = 1_000_000
"""Most elements × networks that are not yet handed over."""


@dataclass(frozen=True)
class StreamLimits:
    """What may be live at a time."""

    networks: int = MOST_LIVE_NETWORKS
    """Most live sequences × networks of a model."""
    elements: int = MOST_LIVE_ELEMENTS
    """Most elements × networks that are not yet handed over."""


@dataclass(eq=False)
class Stream:
    """A sequence and its consumer. The engine's thread fills it; one other thread empties it."""

    model: SequenceModel
    sequence: LiveSequence
    patient: bool
    """Whether the sequence pauses while its consumer is slow. Otherwise all of it is held."""
    resume: Callable[[], object]
    """Lets the sequence go on after a pause."""
    origin: RequestOrigin = field(default_factory=RequestOrigin)
    future: Future[FinishReason] = field(default_factory=Future)
    """Done when everything has been handed over. Cancelling it ends the work."""
    reservation: Reservation | None = None
    """Its room for elements × networks, which shrinks as they are handed over."""
    handed: float | None = None
    """Time when the consumer last got something, in seconds of `time.perf_counter`."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _held: list[Element] = field(default_factory=list)
    _paused: bool = False
    _listener: Callable[[], None] | None = None

    def listen(self, listener: Callable[[], None]) -> None:
        """Calls a function, from any thread, whenever there is something new or the future is done."""
        self._listener = listener
        self.future.add_done_callback(lambda _: listener())

    def take(self) -> list[Element]:
        """What the consumer has not got yet, in order."""
        with self._lock:
            taken, self._held = self._held, []
            resumes, self._paused = self._paused, False
        if resumes:
            self.resume()
        return taken

    def hand_over(self) -> bool:
        """Gives the consumer what is new. Returns whether the sequence must pause."""
        fresh, self.sequence.fresh = self.sequence.fresh, []
        if not fresh:
            return False
        if self.reservation:
            self.reservation.shrink(len(fresh) * len(self.sequence.networks))
        with self._lock:
            self._held += fresh
            self._paused = self.patient and len(self._held) >= MOST_HELD and not self.sequence.finished
            paused = self._paused
        if self._listener:
            self._listener()
        return paused


class Streams:
    """The streams of an engine. Those of a model go on together."""

    def __init__(
        self, live: deque[Job], observer: Observer, others_wait: Callable[[], bool], limits: StreamLimits
    ) -> None:
        """Begins without any.

        Args:
            live: the scheduler's jobs that sequences may join.
            observer: is told what was handed over.
            others_wait: whether other work waits, while sequences have their turn.
            limits: of what may be live.
        """
        self.admission = Admission(limits.elements)
        """The limit on elements × networks that are not yet handed over."""
        self.observer = observer
        self.others_wait = others_wait
        self._live = live
        self._most_networks = limits.networks
        self._networks: WeakKeyDictionary[SequenceModel, Admission] = WeakKeyDictionary()
        """The limits on live sequences × networks of each model."""
        self._lock = threading.Lock()
        self._joining: list[Stream] = []
        self._turn: LiveStreams | None = None
        """The job that has its turn, which is not among the scheduler's."""

    def open(self, stream: Stream, client: str) -> None:
        """Reserves room for a stream until its future is done.

        Raises:
            OverloadedError: if there is none.
        """
        model, sequence = stream.model, stream.sequence
        live = self._networks.setdefault(model, Admission(self._most_networks))
        seconds = model.live.seconds_per_row
        networks = live.reserve(client, len(sequence.networks), seconds * sequence.length)
        stream.future.add_done_callback(lambda _: networks.release())
        try:
            elements = self.admission.reserve(client, sequence.length * len(sequence.networks), seconds)
        except OverloadedError:
            stream.future.cancel()
            raise
        stream.future.add_done_callback(lambda _: elements.release())
        stream.reservation = elements

    def join(self, stream: Stream) -> bool:
        """Lets a sequence go on from the next step, or go on again. Returns whether `admit` must be called for that."""
        with self._lock:
            self._joining.append(stream)
            return len(self._joining) == 1

    @property
    def joining(self) -> bool:
        """Whether sequences wait to go on."""
        return bool(self._joining)

    def admit(self) -> None:
        """Gives all sequences that join to the jobs of their models. Only a step may call this."""
        with self._lock:
            joining, self._joining = self._joining, []
        for stream in joining:
            jobs = [*self._live, *([self._turn] if self._turn else [])]
            job = next((job for job in jobs if isinstance(job, LiveStreams) and job.writer is stream.model), None)
            if job is None:
                job = LiveStreams(stream.model, self)
                self._live.append(job)
            job.add(stream)

    @contextmanager
    def turn_of(self, job: "LiveStreams") -> Iterator[None]:
        """The turn of a job."""
        self._turn = job
        try:
            yield
        finally:
            self._turn = None

    def count(self) -> dict[str, int]:
        """Numbers of live sequences × networks by the model's name."""
        counts: dict[str, int] = {}
        for model, admission in list(self._networks.items()):
            counts[model.name] = counts.get(model.name, 0) + admission.amount
        return counts


class LiveStreams(Job):
    """The live sequences of a model. A turn makes several steps."""

    def __init__(self, model: SequenceModel, owner: Streams) -> None:
        """Begins without any."""
        self.writer = model
        self._live = model.live
        self._owner = owner
        self._streams: list[Stream] = []
        self._handed = 0.0
        """Time when all consumers last got what was new, in seconds of `time.perf_counter`."""
        self._most: int | None = None
        """Most sequences of a step, after one ran out of memory."""

    def add(self, stream: Stream) -> None:
        """Lets a sequence join, or join again."""
        self._streams.append(stream)

    @property
    def finished(self) -> bool:
        return all(stream.future.done() for stream in self._streams)

    def step(self, budget: int) -> int:  # a turn is measured in seconds
        with self._owner.turn_of(self):
            self._take_turn()
        return 0

    def _take_turn(self) -> None:
        start = time.perf_counter()
        self._arrange()
        while self._running:
            if self._owner.joining:
                self._owner.admit()
                self._arrange()
            notable, now = self._live.advance(), time.perf_counter()
            if now - self._handed >= max(HAND_SECONDS, HAND_SECONDS_EACH * len(self._running)):
                self._hand_over(self._streams)
                self._handed = now
            elif notable:
                self._hand_over([each for each in self._running if each.handed is None or each.sequence.finished])
            if now - start >= (SHORT_TURN_SECONDS if self._owner.others_wait() else TURN_SECONDS):
                break
        if self._owner.others_wait():  # and the next turn may be late
            self._hand_over(self._streams)

    def relieve(self) -> bool:
        running = len(self._running)
        self._most = running // 2
        if self._most:
            logger.warning("a step of %s ran out of memory; %d sequences wait", self.writer.name, running // 2)
        return self._most > 0

    def fail(self, error: Exception) -> None:
        logger.error("the live sequences of %s failed", self.writer.name, exc_info=error)
        self._live.arrange([])
        for stream in self._streams:
            settle(stream.future, error)
        self._streams.clear()

    @property
    def _running(self) -> list[Stream]:
        """The streams whose sequences go on; those after them wait until memory allows it."""
        return self._streams[: self._most]

    def _arrange(self) -> None:
        self._streams = [stream for stream in self._streams if not stream.future.done()]
        self._live.arrange([stream.sequence for stream in self._running])
        if not self._streams:
            self._most = None

    def _hand_over(self, streams: list[Stream]) -> None:
        """Gives consumers what is new, and lets sequences leave that have ended, pause or are not wanted."""
        leaving = False
        for stream in streams:
            sequence = stream.sequence
            count = len(sequence.fresh)
            paused = stream.hand_over()
            if count:
                self._owner.observer.hand_over(self.writer.name, count, stream.handed, stream.origin)
                stream.handed = time.perf_counter()
            if sequence.finished:
                settle(stream.future, sequence.error or sequence.ended or "length")
                self._owner.observer.finish(self.writer.name, stream.origin)
            leaving |= paused or stream.future.done()
            if paused:
                self._streams = [each for each in self._streams if each is not stream]
        if leaving:
            self._arrange()
