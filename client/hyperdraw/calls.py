"""The calls of the service. `Client` and `AsyncClient` have each of these functions as a method."""

import json
from contextlib import nullcontext
from errno import ESPIPE
from os import SEEK_CUR, PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote

from numpy.typing import NDArray

from hyperdraw.answers import (
    Download,
    ModelDescription,
    ModelList,
    Reload,
    Sample,
    explain_answers,
    read_reload,
    read_sample,
)
from hyperdraw.asking import (
    ORIGIN,
    Text,
    ask,
    ask_model,
    choose_seed,
    describe_model,
    find_path,
    list_models,
    set_limit,
)
from hyperdraw.attempts import Attempts
from hyperdraw.errors import HyperdrawError, Unauthorized
from hyperdraw.files import replace_file
from hyperdraw.tensors import DType, TensorFile
from hyperdraw.transfer import Connection, Parameters, Progress, RequestSpec, Sink, Transfer

if TYPE_CHECKING:
    import torch


def ready(client: Connection, *, timeout: float | None = None) -> Attempts[bool]:
    """Whether the service is ready to answer. Asks once, without retries.

    The result is also False if something else answers, such as another server, or a gateway that does not reach the
    service.

    Raises:
        Unauthorized: if an API key is missing or wrong, because waiting would not help.
    """
    text = Text()
    transfer = Transfer(RequestSpec("GET", "/readyz"), text, client, set_limit(client, timeout), retries=0)
    try:
        yield from transfer.attempts()
        return bool(json.loads(text.content)["status"] == "ready")
    except Unauthorized:
        raise
    except (HyperdrawError, ValueError, LookupError, TypeError):
        return False


def models(client: Connection, *, timeout: float | None = None) -> Attempts[ModelList]:
    """Lists the models of the service, the default first."""
    return (yield from list_models(client, set_limit(client, timeout)))


def model(
    client: Connection, name: str | None = None, *, version: str | None = None, timeout: float | None = None
) -> Attempts[ModelDescription]:
    """Describes a model by its name, or the default model; its stable version, unless another one is named.

    Raises:
        NotFound: if the service has no model of that name, or no such version of it.
    """
    limit = set_limit(client, timeout)
    _, description = yield from ask_model(
        client, name, limit, lambda name: describe_model(client, name, limit, version)
    )
    return description


def example(
    client: Connection, file: str, model: str | None = None, *, timeout: float | None = None
) -> Attempts[bytes]:
    """Downloads an example image of a model, which `predict` takes. The model's description lists them as `examples`.

    Raises:
        NotFound: if the model has no example of that name.
    """
    limit, path = set_limit(client, timeout), quote(file, safe="")
    _, content = yield from ask_model(
        client, model, limit, lambda name: ask(client, RequestSpec("GET", f"{find_path(name)}/examples/{path}"), limit)
    )
    return content


def reload(client: Connection, model: str, *, timeout: float | None = None) -> Attempts[Reload]:
    """Makes the service load a model's checkpoint again and replace the one that it serves.

    Raises:
        Unauthorized: if the API key does not allow it.
        NotFound: if the service has no model of that name.
    """
    request = RequestSpec("POST", f"{find_path(model)}:reload", repeatable=False)
    return read_reload((yield from ask(client, request, set_limit(client, timeout))))


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
        version: version of the model: a digest or its beginning, `stable`, `candidate` or `previous`.
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


def _name_networks(seed: int | None, member: int, count: int | None, dtype: DType, version: str | None) -> Parameters:
    """The parameters of a download. The seed is chosen here, because only a download with a seed can be resumed."""
    return {"seed": choose_seed(seed), "member": member, "count": count, "dtype": dtype, "version": version}


def _fetch(
    client: Connection,
    sink: Sink,
    model: str | None,
    networks: Parameters,
    timeout: float | None,
    progress: Progress | None = None,
) -> Attempts[tuple[str, Transfer]]:
    """Downloads networks. Returns the model's name, and the finished transfer."""
    limit = set_limit(client, timeout)

    def fetch(name: str) -> Attempts[Transfer]:
        request = RequestSpec("GET", f"{find_path(name)}/weights", networks, expected=ORIGIN)
        transfer = Transfer(request, sink, client, limit, progress, restarting=True)
        yield from transfer.attempts()
        return transfer

    return (yield from ask_model(client, model, limit, fetch))
