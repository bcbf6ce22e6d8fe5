"""From a request's inputs to the engine's answer, whatever protocol the request came by."""

import asyncio
import time
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from anyio import to_thread
from fastapi import Request
from torch import Tensor

from models.checkpoint import Checkpoint
from models.inputs.pixels import ImageError
from models.inputs.spec import ImageSpec, VectorSpec
from models.noise import MEMBER_LIMIT
from models.tasks.uncertainty import NotFiniteError
from service.decoding.pool import Decoder
from service.engine.batches import Answer
from service.engine.engine import Engine
from service.errors import CLOSING, ServiceError
from service.operation.metrics import Metrics
from service.operation.middleware import Exchange
from service.settings import Settings

MAX_DEVIATIONS = 1e6
"""Numbers may be so many standard deviations from the mean in training; far beyond, float32 overflows in a network."""

FEW_INPUTS = 8
"""Whose answer is judged and written faster than handed to a thread."""

_IMAGE_ERRORS = {
    "too_large": (413, "image_too_large"),
    "unsupported": (422, "unsupported_image"),
    "invalid": (422, "invalid_image"),
}

Result = TypeVar("Result")


@dataclass(frozen=True)
class Deadline:
    """So many seconds from a request's arrival, by when it is to be answered, whatever that takes."""

    seconds: float
    start: float
    """In seconds of `time.perf_counter`."""

    @property
    def remaining(self) -> float:
        """Seconds; 0 once it has passed."""
        return max(0.0, self.start + self.seconds - time.perf_counter())

    @property
    def exceeded(self) -> ServiceError:
        """What is answered then."""
        message, hint = f"There was no answer within {self.seconds:g} s.", "Ask for less, or ask later."
        return ServiceError(504, "deadline_exceeded", message, hint)


def set_deadline(request: Request, asked: float | None, settings: Settings) -> Deadline:
    """The deadline of a request, which may ask for fewer seconds than are usual."""
    return Deadline(min(asked or settings.request_timeout, settings.request_timeout), find_exchange(request).start)


def find_exchange(request: Request) -> Exchange:
    """The request's entry in the accounts."""
    exchange: Exchange = request.scope["hyperdraw.exchange"]
    return exchange


def choose_ensemble_size(checkpoint: Checkpoint, asked: int | None, settings: Settings) -> int:
    """The number of networks that is asked for, or the usual one.

    Raises:
        ServiceError: 422 if there are not so many.
    """
    if asked is None:
        return min(checkpoint.default_size, settings.max_ensemble_size)
    check_count("ensemble_size", asked, settings.max_ensemble_size)
    limit = checkpoint.sampler.limit_networks(asked)
    if asked > limit:
        message = f"{checkpoint.name} has {limit} networks, no {asked}."
        if limit == 1:
            message = f"{checkpoint.name} is a single network, no distribution to draw {asked} from."
        raise ServiceError(422, "invalid_parameter", message, f"ensemble_size may be at most {limit}.")
    return asked


def check_count(name: str, value: int, limit: int) -> None:
    """Whether a number of networks is allowed.

    Raises:
        ServiceError: 422 if not.
    """
    if value > limit:
        raise ServiceError(422, "invalid_parameter", f"{name} is {value}.", f"It may be at most {limit}.")


def check_members(checkpoint: Checkpoint, count: int) -> None:
    """Whether members 0 … count−1 exist.

    Raises:
        ServiceError: 422 if not.
    """
    limit = checkpoint.sampler.limit_networks(MEMBER_LIMIT)
    if count > limit:
        message = f"{checkpoint.name} has no member {count - 1}."
        hint = "It is a single network, member 0." if limit == 1 else f"Its members are 0 to {limit - 1}."
        raise ServiceError(422, "invalid_parameter", message, hint)


def check_calibration(checkpoint: Checkpoint, false_alarm_rate: float | None, coverage: float | None) -> None:
    """Whether the rates that are asked for were calibrated.

    Raises:
        ServiceError: 422 if not.
    """
    calibration = checkpoint.calibration
    if calibration is None:
        if false_alarm_rate is not None or coverage is not None:
            message, hint = f"{checkpoint.name} has no calibration.", "Leave false_alarm_rate and coverage out."
            raise ServiceError(422, "invalid_parameter", message, hint)
        return
    try:
        if false_alarm_rate is not None:
            calibration.find_rate(false_alarm_rate)
        if coverage is not None:
            calibration.find_coverage(coverage)
    except ValueError as error:
        rates = ", ".join(f"{rate:g}" for rate in calibration.rates)
        hint = f"Calibrated are false-alarm rates, and 1 − coverage, of {rates}."
        raise ServiceError(422, "invalid_parameter", f"{checkpoint.name}: {error}.", hint) from error


def check_number(number: int, kind: str, settings: Settings) -> None:
    """Whether a request may have so many inputs.

    Raises:
        ServiceError: 413 if not.
    """
    limit = settings.max_inputs
    if number > limit:
        raise ServiceError(413, f"too_many_{kind}", f"{number} {kind} in one request.", f"Send at most {limit}.")


def check_room(request: Request, engine: Engine, checkpoint: Checkpoint, cost: int) -> None:
    """Whether inputs × networks may wait for an answer; to be asked before the inputs are decoded.

    Raises:
        OverloadedError: if not.
    """
    engine.check_room(checkpoint, cost, find_exchange(request).client)


async def decode_images(request: Request, encoded: dict[str, bytes], spec: ImageSpec, deadline: Deadline) -> Tensor:
    """Images as the model takes them, uint8 [B, C, H, W], from files by their names in messages.

    Raises:
        ServiceError: 413 or 422, as `decode_pixels` finds, 413 for too many pixels together, 504 if it takes longer.
        OverloadedError: if as many pixels wait as may.
    """
    decoder: Decoder = request.app.state.decoder
    settings: Settings = request.app.state.settings
    pixels, most = sum(decoder.count_pixels(encoded)), settings.max_request_pixels
    if pixels > most:
        hint = f"Send at most {most:,} at a time; images are resized to the model's input anyway."
        raise ServiceError(413, "too_many_pixels", f"The images have {pixels:,} pixels together.", hint)
    try:
        return await _wait_for(decoder.decode(encoded, spec.shape, find_exchange(request).client), request, deadline)
    except ImageError as error:
        status, code = _IMAGE_ERRORS[error.kind]
        raise ServiceError(status, code, error.message, error.hint) from error


def convert_vectors(vectors: Tensor, spec: VectorSpec) -> Tensor:
    """Vectors as the model takes them, float32 [B, numbers], from finite ones in double precision.

    Raises:
        ServiceError: 422 for numbers that are out of all proportion.
    """
    if (deviations := spec.normalize(vectors).abs()).max() > MAX_DEVIATIONS:
        row, number = divmod(int(deviations.argmax()), len(spec.names))
        value = f"{spec.names[number]} in row {row} is {vectors[row, number]:g}"
        hint = f"Keep it within {spec.mean[number]:g} ± {MAX_DEVIATIONS * spec.std[number]:g}."
        raise ServiceError(422, "invalid_input", f"{value}, out of all proportion to the training.", hint)
    return vectors.float()


async def infer(
    request: Request,
    engine: Engine,
    checkpoint: Checkpoint,
    inputs: Tensor,
    seed: int | None,
    ensemble_size: int,
    deadline: Deadline,
) -> Answer:
    """What an ensemble says of the inputs of a request that has been read to its end.

    Args:
        request: whose client may leave, upon which the work is dropped.
        engine: that answers.
        checkpoint: of the engine's.
        inputs: [B, …], as the checkpoint's input takes them.
        seed: of the networks, or None for fresh ones.
        ensemble_size: S, from `choose_ensemble_size`.
        deadline: of the answer.

    Raises:
        ServiceError: 500 for outputs that are not finite, 503 if the service ends, 504 if it takes longer.
        OverloadedError: if too much waits.
    """
    client = find_exchange(request).client
    with _explaining_nonsense(checkpoint):
        answer = await _wait_for(engine.predict(checkpoint, inputs, seed, ensemble_size, client), request, deadline)
    metrics: Metrics = request.app.state.metrics
    if len(inputs) <= FEW_INPUTS:
        metrics.count_answer(checkpoint, answer.prediction)
    else:
        await to_thread.run_sync(metrics.count_answer, checkpoint, answer.prediction)
    return answer


async def compute(
    request: Request,
    engine: Engine,
    checkpoint: Checkpoint,
    steps: Generator[None, None, Result],
    cost: int,
    deadline: Deadline,
) -> Result:
    """What a computation of several steps returns, for a request that has been read to its end.

    Args:
        request: whose client may leave, upon which the work is dropped.
        engine: that does it.
        checkpoint: of the engine's, that it computes with.
        steps: the computation.
        cost: of all of it, in inputs × networks.
        deadline: of the result.

    Raises:
        ServiceError, OverloadedError: as `infer` does.
    """
    client = find_exchange(request).client
    with _explaining_nonsense(checkpoint):
        return await _wait_for(engine.compute(checkpoint, steps, cost, client), request, deadline)


@contextmanager
def _explaining_nonsense(checkpoint: Checkpoint) -> Iterator[None]:
    try:
        yield
    except NotFiniteError as error:
        hint = "The model cannot judge one of these inputs. Leave it out, or try another seed."
        raise ServiceError(500, "not_finite", f"{checkpoint.name}: {error}.", hint) from error


async def _wait_for(future: Future[Result], request: Request, deadline: Deadline) -> Result:
    """What is computed elsewhere, unless it takes too long or the client leaves: then the work is dropped."""
    result = asyncio.wrap_future(future)
    leaving = asyncio.create_task(_wait_for_leaving(request))
    try:
        awaited: list[asyncio.Future[Any]] = [result, leaving]
        await asyncio.wait(awaited, timeout=deadline.remaining, return_when=asyncio.FIRST_COMPLETED)
        if future.cancelled():
            raise ServiceError(503, **CLOSING.model_dump())
        if result.done():
            return result.result()
        if leaving.done():
            raise ServiceError(499, "client_left", "The client closed the connection.", "Nobody reads this.")
        raise deadline.exceeded
    finally:
        result.cancel()
        leaving.cancel()


async def _wait_for_leaving(request: Request) -> None:
    """Until the client closes the connection; the request has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
