"""What the service can be asked. `Client` and `AsyncClient` have each of these functions as a method."""

import json
import secrets
from collections.abc import Callable
from contextlib import nullcontext
from errno import ESPIPE
from os import SEEK_CUR, PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import quote

from numpy.typing import NDArray

from hyperdraw.answers import (
    Download,
    ModelDescription,
    ModelList,
    Prediction,
    Reload,
    Sample,
    explain_answers,
    read_model,
    read_model_list,
    read_prediction,
    read_reload,
    read_sample,
)
from hyperdraw.errors import HyperdrawError, InvalidRequest, ServiceError, Unauthorized
from hyperdraw.exchange import Call, Connection, Deadline, Exchange, Parameters, Progress, Request, Sink
from hyperdraw.files import replace_file
from hyperdraw.inputs import ROWS, Inputs, encode_inputs
from hyperdraw.tensors import DType, TensorFile

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

_ORIGIN = ("X-Hyperdraw-Seed", "X-Hyperdraw-Version")
"""Headers of networks."""

SEED_LIMIT = 2**63
"""Seeds lie in [0, SEED_LIMIT)."""


def ready(client: Connection, *, timeout: float | None = None) -> Call[bool]:
    """Whether the service is there and ready to answer; asked once, without retries.

    False for whatever else answers there, too: a gateway that does not reach the service, or another server.

    Raises:
        Unauthorized: if an API key is missing or wrong, as waiting would not help.
    """
    text = _Text()
    exchange = Exchange(Request("GET", "/readyz"), text, client, _set_deadline(client, timeout), retries=0)
    try:
        yield from exchange.attempts()
        return bool(json.loads(text.content)["status"] == "ready")
    except Unauthorized:
        raise
    except (HyperdrawError, ValueError, LookupError, TypeError):
        return False


def models(client: Connection, *, timeout: float | None = None) -> Call[ModelList]:
    """The models that are served, the default first."""
    return (yield from _list_models(client, _set_deadline(client, timeout)))


def model(client: Connection, name: str | None = None, *, timeout: float | None = None) -> Call[ModelDescription]:
    """All that is known of a model, by its name, or of the default one.

    Raises:
        NotFound: if there is none of that name.
    """
    deadline = _set_deadline(client, timeout)
    _, content = yield from _ask_model(
        client, name, deadline, lambda name: _ask(client, Request("GET", _path(name)), deadline)
    )
    return read_model(content)


def reload(client: Connection, model: str, *, timeout: float | None = None) -> Call[Reload]:
    """Has the service load a model's checkpoint again, in place of the one that it serves.

    Raises:
        Unauthorized: if the API key does not allow it.
        NotFound: if there is no model of that name.
    """
    request = Request("POST", f"{_path(model)}:reload", repeatable=False)
    return read_reload((yield from _ask(client, request, _set_deadline(client, timeout))))


def predict(
    client: Connection,
    inputs: Inputs,
    *,
    model: str | None = None,
    ensemble_size: int | None = None,
    seed: int | None = None,
    false_alarm_rate: float | None = None,
    coverage: float | None = None,
    members: bool = False,
    timeout: float | None = None,
) -> Call[Prediction]:
    """Predictions of an ensemble of sampled networks, in one request.

    Args:
        client: that asks.
        inputs: a picture or several: paths, bytes of PNG, JPEG or WebP files, open files, or pixels, uint8 [H, W] or
            [H, W, C], C being 1 or 3; or rows of numbers, [B, numbers], for a model of vectors. A service takes 256
            at once, if it is not set otherwise.
        model: its name; without it the service's default, which is asked for once.
        ensemble_size: how many networks are drawn, S; if not given, as many as the model was evaluated with.
        seed: of the networks; without it the service chooses one, and the answer names it.
        false_alarm_rate: share of inputs like the training data that each flag may be raised for; 0.05 if not given.
        coverage: with what probability a set of classes is to hold the true one; without it there are no sets.
        members: whether to answer with what each network predicts, too.
        timeout: seconds that all of it may take, retries included; the service drops what it cannot answer in time.

    Raises:
        ValueError: for inputs that are neither pictures nor rows of finite numbers.
        OSError: for a file that cannot be read.
        InvalidRequest: for inputs or parameters that the model does not take.
        HyperdrawError: for any other failure, see `hyperdraw.errors`.
    """
    deadline = _set_deadline(client, timeout)
    content, content_type = encode_inputs(inputs)
    parameters = {
        "ensemble_size": ensemble_size,
        "seed": seed,
        "false_alarm_rate": false_alarm_rate,
        "coverage": coverage,
        "members": members or None,
        "format": "safetensors",
    }
    file = TensorFile()

    def ask(name: str) -> Call[None]:
        request = Request("POST", f"{_path(name)}/predict", parameters, content, content_type)
        try:
            yield from Exchange(request, file, client, deadline).attempts()
        except InvalidRequest as error:
            raise (yield from _explain_inputs(client, name, content_type == ROWS, deadline, error)) from error

    yield from _ask_model(client, model, deadline, ask)
    return read_prediction(file)


def sample(
    client: Connection,
    model: str | None = None,
    *,
    seed: int | None = None,
    member: int = 0,
    count: int | None = None,
    dtype: DType = "float32",
    version: str | None = None,
    timeout: float | None = None,
) -> Call[Sample[NDArray[Any]]]:
    """Sampled networks as numpy arrays, filled while they arrive.

    A connection that breaks is taken up where it broke.

    Args:
        client: that asks.
        model: its name; without it the service's default.
        seed: of the networks; without it a fresh one is chosen here.
        member: the network, or the first one, among those of the seed.
        count: how many networks, stacked on a leading axis; without it, one that is not stacked.
        dtype: of what is sent. numpy has no bfloat16: it becomes float32, without any rounding.
        version: of the model; another one is refused.
        timeout: seconds that may pass without anything arriving.

    Raises:
        NotFound: if there is no such model or version.
        InvalidRequest: if there are no such networks.
        HyperdrawError: for any other failure, see `hyperdraw.errors`.
    """
    file, networks = TensorFile(), _name_networks(seed, member, count, dtype, version)
    yield from _fetch(client, file, model, networks, timeout)
    return read_sample(file.arrays(), file.metadata)


def sample_tensors(
    client: Connection,
    model: str | None = None,
    *,
    seed: int | None = None,
    member: int = 0,
    count: int | None = None,
    dtype: DType = "float32",
    version: str | None = None,
    timeout: float | None = None,
) -> "Call[Sample[torch.Tensor]]":
    """Sampled networks as tensors of PyTorch, which must be installed, on the CPU; otherwise as `sample`.

    They are filled while they arrive, without a further copy, and are of the `dtype` that is asked for, bfloat16 too.
    """
    file, networks = TensorFile(), _name_networks(seed, member, count, dtype, version)
    yield from _fetch(client, file, model, networks, timeout)
    return read_sample(file.tensors(), file.metadata)


def download(
    client: Connection,
    path: str | PathLike[str] | BinaryIO,
    model: str | None = None,
    *,
    seed: int | None = None,
    member: int = 0,
    count: int | None = None,
    dtype: DType = "float32",
    version: str | None = None,
    timeout: float | None = None,
    progress: Progress | None = None,
) -> Call[Download]:
    """Sampled networks as a safetensors file, which is there whole or not at all.

    Args:
        client: that asks.
        path: of the file; one that is there already is replaced, at the end of a link, and keeps its permissions.
            Devices and pipes are written into as the networks arrive, and so is a binary file that is open.
        model: as for `sample`, as is all that follows up to `timeout`.
        seed: likewise.
        member: likewise.
        count: likewise.
        dtype: likewise.
        version: likewise.
        timeout: likewise.
        progress: is told the bytes that have arrived, and how many there will be.

    Raises:
        OSError: if the file cannot be written.
        HyperdrawError: as `sample` does.
    """
    networks = _name_networks(seed, member, count, dtype, version)
    opened = replace_file(Path(path)) if isinstance(path, str | PathLike) else nullcontext(path)
    with opened as file:
        sink = _File(file)
        name, exchange = yield from _fetch(client, sink, model, networks, timeout, progress)
        with explain_answers():  # before anything is replaced
            drawn = int(exchange.headers["X-Hyperdraw-Seed"])
    version = exchange.headers["X-Hyperdraw-Version"]
    place = Path(path) if isinstance(path, str | PathLike) else None
    return Download(place, sink.size, name, version, drawn, range(member, member + (count or 1)))


class _Text:
    """An answer that is read as a whole."""

    def start(self, size: int | None) -> None:
        self.content = bytearray()

    def write(self, content: bytes) -> None:
        self.content += content

    def finish(self) -> None:
        pass


class _File:
    """An answer that goes to a file, from where that stands."""

    def __init__(self, file: BinaryIO) -> None:
        self.size = 0
        """Bytes that were written."""
        self._file = file

    def start(self, size: int | None) -> None:
        if not self.size:
            return
        try:
            self._file.seek(-self.size, SEEK_CUR)
            self._file.truncate()
        except OSError as error:
            message = "The download had to begin again, but what was written cannot be taken back"
            raise OSError(error.errno or ESPIPE, message) from error
        self.size = 0

    def write(self, content: bytes) -> None:
        self.size += len(content)
        rest = memoryview(content)
        while rest:
            written = self._file.write(rest)
            rest = rest[len(rest) if written is None else written :]  # less, if it has no buffer

    def finish(self) -> None:
        self._file.flush()


def _set_deadline(client: Connection, timeout: float | None) -> Deadline:
    return Deadline(client.timeout if timeout is None else timeout)


def _path(model: str) -> str:
    return f"/v1/models/{quote(model, safe='')}"


def _ask(client: Connection, request: Request, deadline: Deadline) -> Call[bytes]:
    text = _Text()
    yield from Exchange(request, text, client, deadline).attempts()
    return bytes(text.content)


def _list_models(client: Connection, deadline: Deadline) -> Call[ModelList]:
    return read_model_list((yield from _ask(client, Request("GET", "/v1/models"), deadline)))


def _find_default(client: Connection, deadline: Deadline) -> Call[str]:
    if client.default_model is None:
        client.default_model = (yield from _list_models(client, deadline)).default
    return client.default_model


def _ask_model(
    client: Connection, name: str | None, deadline: Deadline, ask: Callable[[str], Call[T]]
) -> Call[tuple[str, T]]:
    """Asks about a model, or about the default one, which is looked up anew if it is not served any more.

    Returns:
        the model's name, and the answer.
    """
    if name:
        return name, (yield from ask(name))
    known = client.default_model
    name = yield from _find_default(client, deadline)
    try:
        return name, (yield from ask(name))
    except ServiceError as error:
        if error.code not in ("unknown_model", "model_refused"):
            raise
        client.default_model = None
        if known is None:  # it was looked up just now
            raise
    name = yield from _find_default(client, deadline)
    return name, (yield from ask(name))


def _explain_inputs(
    client: Connection, name: str, rows: bool, deadline: Deadline, refusal: InvalidRequest
) -> Call[InvalidRequest]:
    """The refusal of a prediction, with the reason if the model takes another kind of inputs."""
    try:
        description = read_model((yield from _ask(client, Request("GET", _path(name)), deadline)))
        takes = description.input["kind"]
    except (HyperdrawError, LookupError):
        return refusal
    if rows and takes == "image":
        hint = f"{name} takes pictures, not rows of numbers: files, or pixels as arrays of uint8."
    elif not rows and takes == "vector":
        hint = f"{name} takes rows of numbers, not pictures: {', '.join(description.input['names'])}."
    else:
        return refusal
    return InvalidRequest(refusal.status, refusal.code, refusal.message, hint, refusal.retry_after)


def _name_networks(seed: int | None, member: int, count: int | None, dtype: DType, version: str | None) -> Parameters:
    """The parameters of a download; the seed is chosen here, as only what has one can be resumed."""
    seed = secrets.randbelow(SEED_LIMIT) if seed is None else seed
    return {"seed": seed, "member": member, "count": count, "dtype": dtype, "version": version}


def _fetch(
    client: Connection,
    sink: Sink,
    model: str | None,
    networks: Parameters,
    timeout: float | None,
    progress: Progress | None = None,
) -> Call[tuple[str, Exchange]]:
    """Downloads networks; returns the model's name, and the exchange."""
    deadline = _set_deadline(client, timeout)

    def ask(name: str) -> Call[Exchange]:
        request = Request("GET", f"{_path(name)}/weights", networks, expected=_ORIGIN)
        exchange = Exchange(request, sink, client, deadline, progress, renewing=True)
        yield from exchange.attempts()
        return exchange

    return (yield from _ask_model(client, model, deadline, ask))
