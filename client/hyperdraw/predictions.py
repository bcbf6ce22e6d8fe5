"""The calls for predictions, in as many requests as the inputs need."""

import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import chain
from typing import Any, Literal, TypeVar

from hyperdraw.answers import ModelSummary, Prediction, RequestLimits, join_predictions, read_prediction
from hyperdraw.asking import ask_model, choose_seed, describe_model, find_path, list_models, set_limit
from hyperdraw.attempts import Attempts, Together
from hyperdraw.errors import HyperdrawError, InvalidRequest, NotFound, ServiceError
from hyperdraw.inputs import Columns, Inputs, Item, Picture, Row, encode_body, encode_input, list_inputs
from hyperdraw.tensors import TensorFile
from hyperdraw.transfer import Connection, Parameters, RequestSpec, TimeLimit, Transfer

Refusal = TypeVar("Refusal", bound=ServiceError)

Failure = HyperdrawError | ValueError | OSError
"""What is wrong with an input."""

PARALLEL = 4
"""Requests at the same time."""
MOST_TOGETHER = 64
"""Inputs in a request of `predict_each`, so that answers arrive all the time."""

_PART_BYTES = 1200
"""Most bytes of a picture's part in a request, besides its file. Names have at most 255 bytes, and may be escaped."""
_ROW_BYTES = 20
"""More than what separates rows."""


def predict(
    client: Connection,
    inputs: Inputs,
    *,
    model: str | None = None,
    version: str | None = None,
    ensemble_size: int | Literal["auto"] | None = None,
    seed: int | None = None,
    false_alarm_rate: float | None = None,
    coverage: float | None = None,
    members: bool = False,
    parallel: int = PARALLEL,
    timeout: float | None = None,
) -> Attempts[Prediction]:
    """Predicts with an ensemble of sampled networks.

    More inputs than the service takes in a request are sent in several, and their answers are joined. The same networks
    of the same version answer all of them. Photographs with more pixels than the service takes are made smaller before
    they are sent, if Pillow is installed.

    Args:
        client: the client that asks.
        inputs: one picture or several: paths, bytes of files, open files, images of Pillow, or pixels, which are arrays
            of numpy or tensors of PyTorch. Pixels are whole numbers from 0 to 255 or floating-point numbers from 0 to
            1, [H, W], [H, W, C] or [C, H, W] with C = 1 or 3; [B, H, W, C] and [B, C, H, W] are several pictures. For a
            model of numbers or of a table, rows: [B, numbers], lists of values in the order of the model's columns,
            mappings by their names, or a frame of pandas. Mappings and frames may have more columns.
        model: name of the model; by default the service's default model, which is looked up once.
        version: version of the model: a digest or its beginning, `stable`, `candidate` or `previous`. By default the
            stable one answers, but a candidate may answer a single request without a seed.
        ensemble_size: number of networks, S; by default as many as the model was evaluated with. With `"auto"`, each
            input is asked of as many of those as it needs: until more would not change its label or a flag.
        seed: seed of the networks; by default a fresh one, and the answer names it.
        false_alarm_rate: share of inputs like the training data for which each flag may be raised; by default 0.05.
        coverage: probability with which a set of classes contains the true one, or an interval the number; by default
            there are none.
        members: whether the answer also has the prediction of each network; not with `"auto"`.
        parallel: most requests at the same time.
        timeout: seconds that the call may take, retries included; if it needs several requests, that each may take. The
            service drops what it cannot answer in time.

    Raises:
        ValueError: if inputs are neither pictures nor rows, or can be read in two ways.
        OSError: if a file cannot be read.
        InvalidRequest: if the model does not take these inputs or parameters.
        NotFound: if there is no such model, or another version of it is loaded meanwhile.
        HyperdrawError: for any other failure; `hyperdraw.errors` lists them.
    """
    limit, values = set_limit(client, timeout), list_inputs(inputs)
    columns = None
    if isinstance(values[0], Mapping):
        _, described = yield from ask_model(client, model, limit, lambda name: describe_model(client, name, limit))
        columns = _read_columns(described)
    if client.limits is None and len(values) > 1:
        yield from list_models(client, limit)
    parameters = {
        "version": version,
        "ensemble_size": ensemble_size,
        "seed": seed,
        "false_alarm_rate": false_alarm_rate,
        "coverage": coverage,
        "members": members or None,
    }
    batches = _make_batches(_encode_all(values, columns), client.limits)
    first, second = next(batches), next(batches, None)
    if second is None:
        try:
            _, answer = yield from ask_model(
                client, model, limit, lambda name: _ask_at_once(client, name, parameters, first, limit)
            )
            return answer
        except ServiceError as error:
            if error.status != 413:
                raise
            listed = yield from list_models(client, limit)
            batches = iter(_divide(first, error, listed.limits))
            if (second := next(batches, None)) is None:
                raise _advise(error) from error
            first, second = second, next(batches, None)
    else:
        listed = yield from list_models(client, limit)
    name = model or listed.default
    answers: dict[int, Prediction] = {}

    def keep(batch: list[Item], answer: Prediction) -> None:
        answers[batch[0].index] = answer

    def refuse(index: int, error: Failure) -> None:
        raise error

    run = _Run(client, name, parameters | {"seed": choose_seed(seed)}, timeout, keep, refuse)
    rest = chain([first], [second] if second else [], batches)
    yield Together((run.answer(batch) for batch in rest), _check_positive("parallel", parallel))
    return join_predictions([answers[index] for index in sorted(answers)])


def predict_each(
    client: Connection,
    inputs: Iterable[Picture | Row],
    answered: Callable[[int, Prediction | Failure], None],
    *,
    model: str | None = None,
    version: str | None = None,
    ensemble_size: int | None = None,
    seed: int | None = None,
    false_alarm_rate: float | None = None,
    coverage: float | None = None,
    members: bool = False,
    together: int = MOST_TOGETHER,
    parallel: int = PARALLEL,
    timeout: float | None = None,
) -> Attempts[None]:
    """Predicts any number of inputs, and hands over each answer as it arrives.

    An input that is refused does not end the call. The same networks of the same version answer all others. The
    arguments that are not described are those of `predict`.

    Args:
        client: the client that asks.
        inputs: pictures or rows. They are taken when their turn comes, so that they need not be in memory at once.
        answered: called with the number of an input and its answer, or the reason why there is none: `ServiceError` if
            the service refuses it, `ValueError` or `OSError` if it cannot be sent. The order is that of the answers. No
            two threads call it at the same time.
        model: name of the model.
        version: version of the model, as for `predict`; the answer of another one ends the call.
        ensemble_size: number of networks.
        seed: seed of the networks.
        false_alarm_rate: share of false alarms.
        coverage: probability of the sets of classes.
        members: whether the answers have the prediction of each network.
        together: most inputs in a request, if the service takes as many.
        parallel: most requests at the same time.
        timeout: seconds that each request may take, retries included. Within them, a service that is too busy or starts
            again is asked as often as it takes, unless the client has no retries.

    Raises:
        NotFound: if there is no such model or version, or another version is loaded meanwhile.
        HyperdrawError: for any other failure that is not an input's; `hyperdraw.errors` lists them.
    """
    together, parallel = _check_positive("together", together), _check_positive("parallel", parallel)
    listed = yield from list_models(client, set_limit(client, timeout))
    name = model or listed.default
    described = next((described for described in listed.models if described.name == name), None)

    def hand_over(batch: list[Item], answer: Prediction) -> None:
        parts: list[Prediction] = list(answer)
        for item, part in zip(batch, parts, strict=True):
            answered(item.index, part)

    def refuse(index: int, error: Failure) -> None:
        answered(index, error)

    parameters = {
        "version": version,
        "ensemble_size": ensemble_size,
        "seed": choose_seed(seed),
        "false_alarm_rate": false_alarm_rate,
        "coverage": coverage,
        "members": members or None,
    }
    run = _Run(client, name, parameters, timeout, hand_over, refuse)
    batches = _make_batches(run.encode_each(inputs, described), listed.limits, together)
    yield Together((run.answer(batch) for batch in batches), parallel)


@dataclass
class _Run:
    """A prediction in several requests."""

    client: Connection
    model: str
    parameters: Parameters
    timeout: float | None
    accept: Callable[[list[Item], Prediction], None]
    """Takes the answer for some inputs."""
    refuse: Callable[[int, Failure], None]
    """Takes the number of an input and what is wrong with it. It may raise that."""
    version: str | None = None
    """Version of the model that gave the first answer."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def encode_each(self, inputs: Iterable[Any], described: ModelSummary | None) -> Iterator[Item]:
        """The inputs as they are sent, without those that cannot be."""
        for index, value in enumerate(inputs):
            try:
                (single,) = list_inputs([value])
                columns = _read_columns(described) if described and isinstance(single, Mapping) else None
                item = encode_input(index, single, columns)
                if described and (hint := _find_mistake(described, item.name is None)):
                    raise ValueError(hint)
            except (ValueError, OSError) as error:
                with self._lock:
                    self.refuse(index, error)
            else:
                yield item

    def answer(self, batch: list[Item]) -> Attempts[None]:
        """Asks about some inputs, and again in smaller parts if the service refuses them."""
        try:
            limit = set_limit(self.client, self.timeout)
            retries = sys.maxsize if self.client.retries else 0  # in time, because a long run outlives a restart
            answer = yield from _ask(self.client, self.model, self.parameters, batch, limit, retries)
        except ServiceError as error:
            if not _concerns_inputs(error):
                raise
            if smaller := _divide(batch, error, self.client.limits):
                for part in smaller:
                    yield from self.answer(part)
                return
            with self._lock:
                self.refuse(batch[0].index, _advise(_name_input(error, batch[0])))
            return
        with self._lock:
            self.version = self.version or answer.model.version
            if answer.model.version != self.version:
                message = f"{self.model} is served at another version: {answer.model.version}, not {self.version}."
                raise NotFound(404, "unknown_version", message, "Ask again for all inputs.")
            self.accept(batch, answer)


def _ask(
    client: Connection,
    name: str,
    parameters: Parameters,
    batch: list[Item],
    limit: TimeLimit,
    retries: int | None = None,
) -> Attempts[Prediction]:
    """Asks about some inputs in one request."""
    file = TensorFile()
    content, content_type = encode_body(batch)
    asked = {**parameters, "format": "safetensors"}
    request = RequestSpec("POST", f"{find_path(name)}/predict", asked, content, content_type)
    transfer = Transfer(request, file, client, limit, retries=retries)
    yield from transfer.attempts()
    return read_prediction(file, transfer.headers.get("X-Request-ID"))


def _ask_at_once(
    client: Connection, name: str, parameters: Parameters, batch: list[Item], limit: TimeLimit
) -> Attempts[Prediction]:
    """Asks about all inputs of a call. The refusal has a better hint if the model takes another kind of inputs."""
    try:
        return (yield from _ask(client, name, parameters, batch, limit))
    except InvalidRequest as error:
        if error.status == 413:  # too large, of whatever kind
            raise
        try:
            described = yield from describe_model(client, name, limit)
        except HyperdrawError:
            raise error from None
        if (hint := _find_mistake(described, batch[0].name is None)) is None:
            raise
        raise _reword(error, error.message, hint) from error


def _encode_all(values: list[Any], columns: Columns | None) -> Iterator[Item]:
    """The inputs of a call as they are sent."""
    for index, value in enumerate(values):
        try:
            yield encode_input(index, value, columns)
        except ValueError as error:
            raise ValueError(f"input {index}: {error}" if len(values) > 1 else str(error)) from error


def _make_batches(
    items: Iterable[Item], limits: RequestLimits | None, together: int | None = None
) -> Iterator[list[Item]]:
    """Divides inputs into requests. Photographs that are too large become smaller, if possible.

    Without limits, from an older service, only `together` counts.
    """
    batch: list[Item] = []
    content = pixels = 0
    for given in items:
        item = given
        if limits and item.pixels > limits.max_image_pixels:
            item = item.shrink(limits.max_image_pixels) or item
        size = len(item.content) + (_ROW_BYTES if item.name is None else _PART_BYTES)
        most = min(limits.max_inputs if limits else len(batch) + 1, together or len(batch) + 1)
        if batch and (
            len(batch) >= most
            or (batch[0].name is None) != (item.name is None)
            or (limits and content + size > limits.max_body_bytes)
            or (limits and pixels + item.pixels > limits.max_request_pixels)
        ):
            yield batch
            batch, content, pixels = [], 0, 0
        batch.append(item)
        content, pixels = content + size, pixels + item.pixels
    if batch:
        yield batch


def _concerns_inputs(error: ServiceError) -> bool:
    """Whether a refusal may be due to one of the inputs, or to their number."""
    return error.code == "not_finite" or (error.status in (413, 422) and error.code != "invalid_parameter")


def _divide(batch: list[Item], error: ServiceError, limits: RequestLimits | None) -> list[list[Item]]:
    """Smaller requests in the place of one that is refused; none if it cannot be divided."""
    if len(batch) > 1:
        middle = len(batch) // 2
        return [batch[:middle], batch[middle:]]
    smaller = batch[0].shrink(limits.max_image_pixels) if limits and error.code == "image_too_large" else None
    return [[smaller]] if smaller else []


def _name_input(error: ServiceError, item: Item) -> ServiceError:
    """The refusal of a request with one input, with the input's number among all."""
    message = re.sub(r"\b(image|row) 0\b", rf"\g<1> {item.index}", error.message, count=1, flags=re.IGNORECASE)
    return _reword(error, message, error.hint)


def _advise(error: ServiceError) -> ServiceError:
    """The refusal of an input, with a better hint if the client could have made it smaller."""
    if error.code != "image_too_large" or find_spec("PIL"):
        return error
    advice = "With Pillow (pip install pillow), the client makes photographs smaller."
    return _reword(error, error.message, f"{error.hint} {advice}")


def _reword(error: Refusal, message: str, hint: str) -> Refusal:
    return type(error)(error.status, error.code, message, hint, error.retry_after)


def _read_columns(described: ModelSummary) -> Columns:
    """A model's columns.

    Raises:
        ValueError: if it takes pictures.
    """
    if mistake := _find_mistake(described, rows=True):
        raise ValueError(mistake)
    if described.input["kind"] == "table":
        return {column["name"]: True for column in described.input["columns"]}
    return dict.fromkeys(described.input["names"], False)


def _find_mistake(described: ModelSummary, rows: bool) -> str | None:
    """What to say if a model takes pictures rather than rows, or the reverse."""
    takes, name = described.input.get("kind"), described.name
    if rows and takes == "image":
        return f"{name} takes pictures, not rows: files, or pixels as arrays."
    if not rows and takes == "vector":
        return f"{name} takes rows of numbers, not pictures: {', '.join(described.input['names'])}."
    if not rows and takes == "table":
        return f"{name} takes rows, not pictures: {', '.join(column['name'] for column in described.input['columns'])}."
    return None


def _check_positive(name: str, number: int) -> int:
    if number < 1:
        raise ValueError(f"{name} is {number}; it must be at least 1")
    return number
