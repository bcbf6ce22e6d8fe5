"""From a request's inputs to the engine's answer, for every protocol."""

import asyncio
import time
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

from anyio import to_thread
from fastapi import Request
from torch import Tensor

from models.inputs.kind import InputError
from models.inputs.pixels import ImageError
from models.model import Model
from models.predictions.stopping import StoppingRule
from models.tasks.probabilities import NotFiniteError
from service.engine.batches import Answer
from service.engine.engine import ServedModel
from service.errors import CLOSING, ServiceError
from service.operation.access import charge
from service.operation.middleware import Exchange
from service.parts import Parts

FEW_INPUTS = 8
"""Most inputs whose answer is processed at once, because handing it to a thread would take longer."""

_IMAGE_ERRORS = {
    "too_large": (413, "image_too_large"),
    "unsupported": (422, "unsupported_image"),
    "invalid": (422, "invalid_image"),
}

Result = TypeVar("Result")


@dataclass(frozen=True)
class Deadline:
    """The time by which a request must be answered, in seconds from its arrival."""

    seconds: float
    start: float
    """Arrival of the request, in seconds of `time.perf_counter`."""

    @property
    def remaining(self) -> float:
        """Remaining seconds; 0 after the deadline."""
        return max(0.0, self.start + self.seconds - time.perf_counter())

    @property
    def exceeded(self) -> ServiceError:
        """The error after the deadline."""
        message, hint = f"There was no answer within {self.seconds:g} s.", "Ask for less, or try again later."
        return ServiceError(504, "deadline_exceeded", message, hint)


class Asking:
    """A request to a model."""

    def __init__(self, request: Request, parts: Parts, model: Model, timeout: float | None = None) -> None:
        """Begins when the request's head has arrived.

        Args:
            request: the request. If its client leaves, the work is dropped.
            parts: the parts of the service.
            model: the model.
            timeout: seconds from the request's arrival, if fewer than the limit.
        """
        self.request = request
        self.parts = parts
        self.model = model
        self.timeout = timeout
        self.deadline = set_deadline(request, timeout, parts)

    def to(self, model: Model) -> "Asking":
        """The same request to another version of the model."""
        other = copy(self)
        other.model = model
        return other

    def limit_time(self, timeout: float | None) -> None:
        """Sets the deadline again, from the request's body."""
        self.deadline = set_deadline(self.request, timeout, self.parts)

    def choose_size(self, asked: int | None) -> int:
        """The requested number of networks, or the default.

        Raises:
            ServiceError: 422 if there are fewer, or so few were not calibrated.
        """
        size = choose_size(self.model, asked, self.parts.settings.max_ensemble_size)
        if self.model.calibration and size < (least := self.model.calibration.least_size):
            message = f"{self.model.name} was calibrated with answers of {least} networks; {size} are too few."
            raise ServiceError(422, "invalid_parameter", message, f"ensemble_size must be at least {least}.")
        return size

    def choose_ensemble(
        self, asked: int | Literal["auto"] | None, rate: float | None, *, members: bool
    ) -> tuple[int, StoppingRule | None]:
        """The number of networks of a whole ensemble, and when ensembles stop growing before they are whole, if they
        may: if no rule kept its promise at this rate of false alarms, they do not.

        Args:
            asked: the requested number of networks, auto, or None for the service's default.
            rate: the requested rate of false alarms.
            members: whether the answer of each network is requested.

        Raises:
            ServiceError: 422 if there are fewer networks, or ensembles of this model cannot grow.
        """
        model, settings = self.model, self.parts.settings
        stopping = model.calibration.stopping if model.calibration else None
        may_grow = stopping is not None and not members and model.default_size <= settings.max_ensemble_size
        if asked is None and settings.default_ensemble_size == "auto" and may_grow:
            asked = "auto"
        if asked != "auto":
            return self.choose_size(asked), None
        if members:
            hint = "Leave out members, or give ensemble_size a number."
            raise ServiceError(422, "invalid_parameter", "Ensembles that grow have different members.", hint)
        if model.calibration is None or stopping is None:
            message = f"It was not calibrated when ensembles of {model.name} may stop growing."
            hint = "Leave out ensemble_size, or give a number."
            raise ServiceError(422, "invalid_parameter", message, hint)
        rule = model.calibration.find_rule(rate)
        size = rule.rounds[-1].ensemble_size if rule else model.default_size
        check_count("ensemble_size", size, settings.max_ensemble_size)
        return size, rule

    def check_members(self, count: int) -> None:
        """Checks that members 0 … count−1 exist.

        Raises:
            ServiceError: 422 if not.
        """
        check_members(self.model, count)

    def check_rates(self, false_alarm_rate: float | None, coverage: float | None) -> None:
        """Checks that the requested rates were calibrated.

        Raises:
            ServiceError: 422 if not.
        """
        name, calibration = self.model.name, self.model.calibration
        if calibration is None:
            if false_alarm_rate is not None or coverage is not None:
                message, hint = f"{name} has no calibration.", "Leave out false_alarm_rate and coverage."
                raise ServiceError(422, "invalid_parameter", message, hint)
            return
        try:
            if false_alarm_rate is not None:
                calibration.find_rate(false_alarm_rate)
            if coverage is not None:
                calibration.find_coverage(coverage)
        except ValueError as error:
            rates = ", ".join(f"{rate:g}" for rate in calibration.rates)
            coverages = ", ".join(f"{1 - rate:g}" for rate in reversed(calibration.rates))
            hint = f"The calibrated false-alarm rates are {rates}. The calibrated coverages are {coverages}."
            raise ServiceError(422, "invalid_parameter", f"{name}: {error}.", hint) from error

    def check_room(self, cost: int) -> None:
        """Checks that the queue has room for inputs × networks, before the inputs are decoded.

        Raises:
            OverloadedError: if it has no room.
        """
        self.parts.engine.check_room(self.model, cost, self._client)

    async def decode_files(self, files: dict[str, bytes]) -> Tensor:
        """Decodes image files, by their names in messages, to raw inputs.

        Raises:
            ServiceError: 413 or 422 if an image is refused, 413 for too many pixels in all, 504 after the deadline.
            OverloadedError: if the queue of pixels is full.
        """
        decoder, most = self.parts.decoder, self.parts.settings.max_request_pixels
        if (pixels := sum(decoder.count_pixels(files))) > most:
            hint = f"Send at most {most:,} in one request; images are resized to the model's input anyway."
            raise ServiceError(413, "too_many_pixels", f"The images count as {pixels:,} pixels in all.", hint)
        try:
            return await self._wait_for(decoder.decode(files, self.model.input.shape, self._client))
        except ImageError as error:
            status, code = _IMAGE_ERRORS[error.kind]
            raise ServiceError(status, code, error.message, error.hint) from error

    async def predict(self, inputs: Tensor, seed: int | None, size: int, rule: StoppingRule | None = None) -> Answer:
        """Predicts the inputs of a request that has been read completely.

        Args:
            inputs: raw inputs, [B, …].
            seed: seed of the networks, or None for fresh ones.
            size: S, from `choose_size`.
            rule: when ensembles stop growing before they have S networks, from `choose_ensemble`.

        Raises:
            ServiceError: 500 for outputs that are not finite, 503 if the service is shutting down, 504 after the
                deadline.
            OverloadedError: if the queue is full.
        """
        await charge(self.request, len(inputs) * size)
        with self._explaining_nonsense():
            future = self.parts.engine.predict(self.model, inputs, seed, size, self._client, rule)
            return await self._wait_for(future)

    async def keep(self, answer: Answer) -> None:
        """Keeps the answer until its labels arrive, if the service collects feedback."""
        feedback, exchange = self.parts.feedback, find_exchange(self.request)
        if feedback is None:
            return
        keep = partial(feedback.keep, exchange.key, exchange.request_id, self.model, answer)
        few = sum(len(part.positions) for part in answer.parts) <= FEW_INPUTS
        keep() if few else await to_thread.run_sync(keep)

    async def compute(self, steps: Generator[None, None, Result], cost: int) -> Result:
        """Runs a computation for a request that has been read completely, and returns its result.

        Args:
            steps: the computation.
            cost: total cost, in inputs × networks.

        Raises:
            ServiceError, OverloadedError: as in `predict`.
        """
        await charge(self.request, cost)
        with self._explaining_nonsense():
            return await self._wait_for(self.parts.engine.compute(self.model, steps, cost, self._client))

    @property
    def _client(self) -> str:
        return find_exchange(self.request).client

    @contextmanager
    def _explaining_nonsense(self) -> Iterator[None]:
        try:
            yield
        except NotFiniteError as error:
            hint = "The model cannot handle one of these inputs. Leave it out, or try another seed."
            raise ServiceError(500, "not_finite", f"{self.model.name}: {error}.", hint) from error

    async def _wait_for(self, future: Future[Result]) -> Result:
        """Waits for a result. After the deadline, or if the client leaves, the work is dropped."""
        return await wait_for(asyncio.wrap_future(future), self.request, self.deadline)


async def wait_for(result: asyncio.Future[Result], request: Request, deadline: Deadline) -> Result:
    """Waits for a result for a request that has been read completely, and cancels it if it is not wanted any more.

    Raises:
        ServiceError: 499 if the client leaves, 503 if the service is shutting down, 504 after the deadline.
    """
    leaving = asyncio.create_task(_wait_for_leaving(request))
    try:
        awaited: list[asyncio.Future[Any]] = [result, leaving]
        await asyncio.wait(awaited, timeout=deadline.remaining, return_when=asyncio.FIRST_COMPLETED)
        if result.cancelled():
            raise ServiceError(503, **CLOSING.model_dump())
        if result.done():
            return result.result()
        if leaving.done():
            raise ServiceError(499, "client_left", "The client closed the connection.", "Nobody reads this.")
        raise deadline.exceeded
    finally:
        result.cancel()
        leaving.cancel()


@contextmanager
def explain_inputs() -> Iterator[None]:
    """Turns the refusal of inputs into an answer.

    Raises:
        ServiceError: 422 if the model does not accept them.
    """
    try:
        yield
    except InputError as error:
        raise ServiceError(422, "invalid_input", error.message, error.hint) from error


def set_deadline(request: Request, asked: float | None, parts: Parts) -> Deadline:
    """The deadline of a request, which may ask for fewer seconds than the limit."""
    usual = parts.settings.request_timeout
    return Deadline(min(asked or usual, usual), find_exchange(request).start)


def find_exchange(request: Request) -> Exchange:
    """The exchange that accounts for a request."""
    exchange: Exchange = request.scope["hyperdraw.exchange"]
    return exchange


def choose_size(model: ServedModel, asked: int | None, allowed: int) -> int:
    """The requested number of networks, or the default.

    Raises:
        ServiceError: 422 if there are fewer, or more than allowed are requested.
    """
    if asked is None:
        return min(model.default_size, allowed)
    check_count("ensemble_size", asked, allowed)
    if asked > (limit := model.largest_ensemble):
        message = f"{model.name} has only {limit} networks; {asked} were requested."
        if limit == 1:
            message = f"{model.name} is a single network, not a distribution; {asked} networks were requested."
        raise ServiceError(422, "invalid_parameter", message, f"ensemble_size may be at most {limit}.")
    return asked


def check_members(model: ServedModel, count: int) -> None:
    """Checks that members 0 … count−1 exist.

    Raises:
        ServiceError: 422 if not.
    """
    if count > (limit := model.largest_ensemble):
        message = f"{model.name} has no member {count - 1}."
        hint = "It is a single network: member 0." if limit == 1 else f"Its members are 0 to {limit - 1}."
        raise ServiceError(422, "invalid_parameter", message, hint)


def check_count(name: str, value: int, limit: int) -> None:
    """Checks that a number of networks is allowed.

    Raises:
        ServiceError: 422 if not.
    """
    if value > limit:
        raise ServiceError(422, "invalid_parameter", f"{name} is {value}.", f"It may be at most {limit}.")


def check_number(number: int, noun: str, limit: int) -> None:
    """Checks that a request has no more inputs than allowed.

    Raises:
        ServiceError: 413 if it has more.
    """
    if number > limit:
        raise ServiceError(413, f"too_many_{noun}", f"The request has {number} {noun}.", f"Send at most {limit}.")


async def _wait_for_leaving(request: Request) -> None:
    """Waits until the client closes the connection. The request must have been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
