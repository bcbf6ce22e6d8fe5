"""A pool of processes that decode images. If an image takes too long or is no longer wanted, its process is killed.

Shapes: B images of C channels, H × W pixels.
"""

import atexit
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.inputs.image_files import read_size
from models.inputs.image_formats import NAMES
from models.inputs.pixels import ImageError, encode_image
from models.schema import Shape
from service.admission import Admission, Reservation
from service.decoding.process import read_message, write_message

PIXEL_SECONDS = 2e-8
"""Expected time of a pixel, before any is measured."""

MEASURED_PIXELS = 100_000
"""Smallest image, in pixels, that measures the speed of decoding."""

LOOK_SECONDS = 0.05
"""Time between two checks of the images being decoded."""

RESTART_SECONDS = 0.2
"""Approximate time that a process takes to start. Killing one that has run for less does not pay."""


class DecoderError(Exception):
    """Processes that cannot decode images; the message says why."""


@dataclass(eq=False)
class _Job:
    """The images of a request."""

    files: list[tuple[str, bytes]]
    """Names for messages, and contents."""
    sizes: list[int]
    """Number of pixels that count of each image, from its header."""
    shape: Shape
    reservation: Reservation
    future: Future[Tensor] = field(default_factory=Future)
    begun: int = 0
    """Number of images handed out."""
    decoded: dict[int, bytes] = field(default_factory=dict)
    failure: tuple[int, Exception] | None = None
    """Index and error of the first image that is refused. Those after it need not be decoded."""

    @property
    def wanted(self) -> int:
        """Number of images, from the first on, on which the answer depends."""
        return len(self.files) if self.failure is None else self.failure[0]

    @property
    def complete(self) -> bool:
        return all(index in self.decoded for index in range(self.wanted))


class Decoder:
    """A pool of processes that decode images. Requests take turns, one image at a time."""

    def __init__(self, processes: int, max_pixels: int, queue_pixels: int, seconds: float) -> None:
        """Starts the processes.

        Args:
            processes: number of processes.
            max_pixels: highest cost of an image, in pixels.
            queue_pixels: most pixels that may wait.
            seconds: time limit for an image.
        """
        self.admission = Admission(queue_pixels)
        """The limit on pixels that wait to be decoded."""
        self._max_pixels = max_pixels
        self._seconds = seconds
        self._pace = PIXEL_SECONDS
        self._changed = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._closing = False
        self._workers = [_Worker() for _ in range(processes)]
        self._threads = [threading.Thread(target=self._work, args=[worker], daemon=True) for worker in self._workers]
        self._threads.append(threading.Thread(target=self._watch, name="decoding", daemon=True))
        for thread in self._threads:
            thread.start()
        atexit.register(self.close)

    def warm_up(self) -> None:
        """Decodes an image, so that the first request finds everything in place.

        Raises:
            DecoderError: if the processes cannot decode it.
        """
        self.decode({"an image": encode_image(torch.zeros(1, 1, 1, dtype=torch.uint8))}, (1, 1, 1)).result()

    def count_pixels(self, files: Mapping[str, bytes]) -> list[int]:
        """Number of pixels of each image, from its first bytes. If they do not tell, the most allowed are assumed.

        Those of a JPEG count half, as `Size.share` says.
        """
        sizes = (read_size(content) for content in files.values())
        return [self._max_pixels if size is None else min(size.share, self._max_pixels) for size in sizes]

    def decode(self, files: Mapping[str, bytes], shape: Shape, client: str = "") -> Future[Tensor]:
        """Decodes images for a model: uint8 [B, C, H, W]. Cancelling the future ends the work.

        Args:
            files: contents by their names in messages.
            shape: C, H and W.
            client: name of the client, for its share of the queue.

        Raises:
            OverloadedError: if the queue is full. The future raises `ImageError` for the first image that is refused.
        """
        sizes = self.count_pixels(files)
        reservation = self.admission.reserve(client, sum(sizes), self._pace / len(self._workers))
        job = _Job(list(files.items()), sizes, shape, reservation)
        job.future.add_done_callback(lambda _: reservation.release())
        with self._changed:
            if self._closing:
                job.future.cancel()
            else:
                self._jobs.append(job)
                self._changed.notify()
        return job.future

    def close(self) -> None:
        """Cancels all work, and ends all threads and processes."""
        with self._changed:
            self._closing = True
            for job in self._jobs:
                job.future.cancel()
            self._changed.notify_all()
        for worker in self._workers:
            worker.end()
        for thread in self._threads:
            thread.join()
        for worker in self._workers:
            worker.close()
        atexit.unregister(self.close)

    def _take(self) -> tuple[_Job, int] | None:
        """Waits for the next image of the request whose turn it is; None means the end."""
        with self._changed:
            while not self._closing:
                while self._jobs:
                    job = self._jobs.popleft()
                    if job.future.done() or job.begun >= job.wanted:
                        continue
                    job.begun += 1
                    if job.begun < job.wanted:
                        self._jobs.append(job)
                        self._changed.notify()
                    return job, job.begun - 1
                self._changed.wait()
        return None

    def _work(self, worker: "_Worker") -> None:
        while (task := self._take()) is not None:
            job, index = task
            name, content = job.files[index]
            request = {"name": name, "shape": job.shape, "max_pixels": self._max_pixels}
            start = time.perf_counter()
            try:
                outcome: bytes | Exception = worker.decode(job, request, content)
            except Exception as error:
                outcome = error
            self._finish(job, index, outcome, time.perf_counter() - start)

    def _finish(self, job: _Job, index: int, outcome: bytes | Exception, seconds: float) -> None:
        pixels = job.sizes[index]
        job.reservation.shrink(pixels)
        with self._changed:
            if pixels >= MEASURED_PIXELS:
                self._pace += 0.1 * (seconds / pixels - self._pace)
            if isinstance(outcome, bytes):
                job.decoded[index] = outcome
            elif index < job.wanted:
                job.failure = index, outcome
            if not job.complete or job.future.done() or not job.future.set_running_or_notify_cancel():
                return
        if job.failure:
            job.future.set_exception(job.failure[1])
        else:
            job.future.set_result(_join(job))

    def _watch(self) -> None:
        while not self._closing:
            time.sleep(LOOK_SECONDS)
            for worker in self._workers:
                worker.look(self._seconds)


class _Worker:
    """A process that decodes images, restarted when it has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._job: _Job | None = None
        self._since = 0.0
        self._reason = ""
        """Reason why its process was killed."""
        self._ended = False
        self._works = False
        """Whether the process has reported that it works."""
        self._start()

    def decode(self, job: _Job, request: dict[str, Any], content: bytes) -> bytes:
        """Decodes an image to its pixels.

        Raises:
            ImageError: if the image is refused, or takes too long.
            DecoderError: if the process does not work.
        """
        if self._process.poll() is not None:  # it ended while it had nothing to do
            self._start()
        if not self._works:
            if read_message(self._answers) is None:
                self._start()
                raise DecoderError("the process that decodes images did not start")
            self._works = True
        with self._lock:
            self._job, self._since, self._reason = job, time.monotonic(), ""
        try:
            write_message(self._requests, request, content)
            answer = read_message(self._answers)
        except OSError:  # the process has ended meanwhile
            answer = None
        with self._lock:
            self._job = None
        if answer is None or self._reason:  # killed, perhaps after it had answered
            self._start()
        if answer is None:
            reason = self._reason or "the decoder crashed"
            hint = f"Send a complete {NAMES} file from an ordinary encoder, or a smaller one."
            raise ImageError("invalid", f"{request['name']} cannot be decoded: {reason}.", hint)
        head, pixels = answer
        if "error" in head:
            raise ImageError(*head["error"])
        return pixels

    def look(self, seconds: float) -> None:
        """Kills the process if it takes too long, or nobody waits for it any more."""
        with self._lock:
            if self._job is None:
                return
            taken = time.monotonic() - self._since
            if taken > seconds:
                self._reason = f"it takes longer than {seconds:g} s"
            elif taken > RESTART_SECONDS and self._job.future.done():
                self._reason = "nobody waits for it"
            if self._reason:
                self._process.kill()

    def end(self) -> None:
        """Kills the process for good."""
        with self._lock:
            self._ended = True
            self._process.kill()

    def close(self) -> None:
        """Frees the resources of the process."""
        self._process.kill()
        for stream in (self._requests, self._answers):
            with suppress(BrokenPipeError):
                stream.close()
        self._process.wait()

    def _start(self) -> None:
        """Starts the process, or restarts it."""
        with self._lock:
            if self._ended:
                return
            if hasattr(self, "_process"):
                self.close()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service.decoding.process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # libraries write warnings about files there
                cwd=Path(__file__).parents[2],
                start_new_session=True,  # so that Ctrl-C does not end it before its work
            )
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._requests, self._answers = self._process.stdin, self._process.stdout
            self._works = False


def _join(job: _Job) -> Tensor:
    """Pixels of all images. NumPy copies them, because PyTorch would keep a thread pool for this thread."""
    channels, height, width = job.shape
    pixels = np.frombuffer(b"".join(job.decoded[index] for index in range(len(job.files))), np.uint8)
    return torch.from_numpy(np.array(pixels.reshape(-1, height, width, channels).transpose(0, 3, 1, 2), order="C"))
