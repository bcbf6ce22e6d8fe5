"""The calls of the service. `Client` and `AsyncClient` have each of these functions as a method."""

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
from hyperdraw.files import replace_file
from hyperdraw.inputs import ROWS, Inputs, encode_inputs
from hyperdraw.tensors import DType, TensorFile
from hyperdraw.transfer import Attempts, Connection, Parameters, Progress, RequestSpec, Sink, TimeLimit, Transfer

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

_ORIGIN = ("X-Hyperdraw-Seed", "X-Hyperdraw-Version")
"""Headers of an answer with networks."""

SEED_LIMIT = 2**63
"""Seeds are at least 0 and less than this."""


def ready(client: Connection, *, timeout: float | None = None) -> Attempts[bool]:
    """Whether the service is ready to answer. Asks once, without retries.

    The result is also False if something else answers, such as another server, or a gateway that does not reach the
    service.

    Raises:
        Unauthorized: if an API key is missing or wrong, because waiting would not help.
    """
    text = _Text()
    transfer = Transfer(RequestSpec("GET", "/readyz"), text, client, _set_limit(client, timeout), retries=0)
    try:
        yield from transfer.attempts()
        return bool(json.loads(text.content)["status"] == "ready")
    except Unauthorized:
        raise
    except (HyperdrawError, ValueError, LookupError, TypeError):
        return False


def models(client: Connection, *, timeout: float | None = None) -> Attempts[ModelList]:
    """Lists the models of the service, the default first."""
    return (yield from _list_models(client, _set_limit(client, timeout)))


def model(client: Connection, name: str | None = None, *, timeout: float | None = None) -> Attempts[ModelDescription]:
    """Describes a model by its name, or the default model.

    Raises:
        NotFound: if the service has no model of that name.
    """
    limit = _set_limit(client, timeout)
    _, content = yield from _ask_model(
        client, name, limit, lambda name: _ask(client, RequestSpec("GET", _path(name)), limit)
    )
    return read_model(content)


def reload(client: Connection, model: str, *, timeout: float | None = None) -> Attempts[Reload]:
    """Makes the service load a model's checkpoint again and replace the one that it serves.

    Raises:
        Unauthorized: if the API key does not allow it.
        NotFound: if the service has no model of that name.
    """
    request = RequestSpec("POST", f"{_path(model)}:reload", repeatable=False)
    return read_reload((yield from _ask(client, request, _set_limit(client, timeout))))


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
) -> Attempts[Prediction]:
    """Predicts with an ensemble of sampled networks, in one request.

    Args:
        client: the client that asks.
        inputs: one picture or several: paths, bytes of PNG, JPEG or WebP files, open files, or pixels, uint8 [H, W] or
            [H, W, C] with C = 1 or 3. For a model of vectors, rows of numbers, [B, numbers]. A service takes up to 256
            inputs at once by default.
        model: name of the model; by default the service's default model, which is looked up once.
        ensemble_size: number of networks, S; by default as many as the model was evaluated with.
        seed: seed of the networks; by default the service chooses one, and the answer names it.
        false_alarm_rate: share of inputs like the training data for which each flag may be raised; by default 0.05.
        coverage: probability with which a set of classes contains the true one, or an interval the number; by default
            there are none.
        members: whether the answer also has the prediction of each network.
        timeout: seconds that the call may take, retries included. The service drops what it cannot answer in time.

    Raises:
        ValueError: if inputs are neither pictures nor rows of finite numbers.
        OSError: if a file cannot be read.
        InvalidRequest: if the model does not take these inputs or parameters.
        HyperdrawError: for any other failure; `hyperdraw.errors` lists them.
    """
    limit = _set_limit(client, timeout)
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

    def ask(name: str) -> Attempts[None]:
        request = RequestSpec("POST", f"{_path(name)}/predict", parameters, content, content_type)
        try:
            yield from Transfer(request, file, client, limit).attempts()
        except InvalidRequest as error:
            raise (yield from _explain_inputs(client, name, content_type == ROWS, limit, error)) from error

    yield from _ask_model(client, model, limit, ask)
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
) -> Attempts[Sample[NDArray[Any]]]:
    """Downloads sampled networks as numpy arrays. The arrays are filled while the networks arrive.

    A broken download is resumed where it broke.

    Args:
        client: the client that asks.
        model: name of the model; by default the service's default model.
        seed: seed of the networks; by default a fresh one.
        member: number of the network, or of the first one, among those of the seed.
        count: number of networks, stacked on a leading axis; by default one network, not stacked.
        dtype: type of the numbers that are sent. numpy lacks bfloat16, which becomes float32 without rounding.
        version: version of the model; the service refuses to send another one.
        timeout: seconds that may pass without anything arriving.

    Raises:
        NotFound: if the service has no such model or version.
        InvalidRequest: if the model has no such networks.
        HyperdrawError: for any other failure; `hyperdraw.errors` lists them.
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
) -> "Attempts[Sample[torch.Tensor]]":
    """Downloads sampled networks as PyTorch tensors on the CPU. PyTorch must be installed.

    The arguments are those of `sample`. The tensors have the requested `dtype`, bfloat16 included, and are filled while
    the networks arrive, without another copy.
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
) -> Attempts[Download]:
    """Downloads sampled networks into a safetensors file, which is written whole or not at all.

    The arguments that are not described are those of `sample`.

    Args:
        client: the client that asks.
        path: path of the file. An existing file is replaced and keeps its permissions; a link stays a link. Devices,
            pipes and open binary files are written into while the networks arrive.
        model: name of the model.
        seed: seed of the networks.
        member: number of the first network.
        count: number of networks.
        dtype: type of the numbers.
        version: version of the model.
        timeout: seconds that may pass without anything arriving.
        progress: called with the number of bytes that have arrived, and the total.

    Raises:
        OSError: if the file cannot be written.
        HyperdrawError: for any failure that `sample` has, too.
    """
    networks = _name_networks(seed, member, count, dtype, version)
    opened = replace_file(Path(path)) if isinstance(path, str | PathLike) else nullcontext(path)
    with opened as file:
        sink = _File(file)
        name, transfer = yield from _fetch(client, sink, model, networks, timeout, progress)
        with explain_answers():  # before anything is replaced
            drawn = int(transfer.headers["X-Hyperdraw-Seed"])
    version = transfer.headers["X-Hyperdraw-Version"]
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
    """An answer that goes to a file, from its current position."""

    def __init__(self, file: BinaryIO) -> None:
        self.size = 0
        """Bytes written."""
        self._file = file

    def start(self, size: int | None) -> None:
        if not self.size:
            return
        try:
            self._file.seek(-self.size, SEEK_CUR)
            self._file.truncate()
        except OSError as error:
            message = "The download had to begin again, but what was already written cannot be removed"
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


def _set_limit(client: Connection, timeout: float | None) -> TimeLimit:
    return TimeLimit(client.timeout if timeout is None else timeout)


def _path(model: str) -> str:
    return f"/v1/models/{quote(model, safe='')}"


def _ask(client: Connection, request: RequestSpec, limit: TimeLimit) -> Attempts[bytes]:
    text = _Text()
    yield from Transfer(request, text, client, limit).attempts()
    return bytes(text.content)


def _list_models(client: Connection, limit: TimeLimit) -> Attempts[ModelList]:
    return read_model_list((yield from _ask(client, RequestSpec("GET", "/v1/models"), limit)))


def _find_default(client: Connection, limit: TimeLimit) -> Attempts[str]:
    if client.default_model is None:
        client.default_model = (yield from _list_models(client, limit)).default
    return client.default_model


def _ask_model(
    client: Connection, name: str | None, limit: TimeLimit, ask: Callable[[str], Attempts[T]]
) -> Attempts[tuple[str, T]]:
    """Asks about a model, or about the default model, which is looked up again if it is no longer served.

    Returns:
        The model's name, and the answer.
    """
    if name:
        return name, (yield from ask(name))
    known = client.default_model
    name = yield from _find_default(client, limit)
    try:
        return name, (yield from ask(name))
    except ServiceError as error:
        if error.code not in ("unknown_model", "model_refused"):
            raise
        client.default_model = None
        if known is None:  # it was looked up just now
            raise
    name = yield from _find_default(client, limit)
    return name, (yield from ask(name))


def _explain_inputs(
    client: Connection, name: str, rows: bool, limit: TimeLimit, refusal: InvalidRequest
) -> Attempts[InvalidRequest]:
    """The refusal of a prediction, with a better hint if the model takes another kind of inputs."""
    try:
        description = read_model((yield from _ask(client, RequestSpec("GET", _path(name)), limit)))
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
    """The parameters of a download. The seed is chosen here, because only a download with a seed can be resumed."""
    seed = secrets.randbelow(SEED_LIMIT) if seed is None else seed
    return {"seed": seed, "member": member, "count": count, "dtype": dtype, "version": version}


def _fetch(
    client: Connection,
    sink: Sink,
    model: str | None,
    networks: Parameters,
    timeout: float | None,
    progress: Progress | None = None,
) -> Attempts[tuple[str, Transfer]]:
    """Downloads networks. Returns the model's name, and the finished transfer."""
    limit = _set_limit(client, timeout)

    def ask(name: str) -> Attempts[Transfer]:
        request = RequestSpec("GET", f"{_path(name)}/weights", networks, expected=_ORIGIN)
        transfer = Transfer(request, sink, client, limit, progress, restarting=True)
        yield from transfer.attempts()
        return transfer

    return (yield from _ask_model(client, model, limit, ask))
