"""The clients: both carry out the same calls, one waiting for each, the other asynchronously."""

import functools
import time
from collections.abc import Callable, Coroutine
from contextlib import closing
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import anyio
import httpx

from hyperdraw import calls
from hyperdraw.calls import Connection
from hyperdraw.errors import HyperdrawError
from hyperdraw.exchange import Call

P = ParamSpec("P")
T = TypeVar("T")

TIMEOUT, RETRIES = 60.0, 4


def _blocking(call: Callable[Concatenate[Connection, P], Call[T]]) -> Callable[Concatenate["Client", P], T]:
    """A call as a method that waits for what it returns."""

    @functools.wraps(call)
    def method(client: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        with closing(call(client, *args, **kwargs)) as attempts:
            return client._carry_out(attempts)

    return method


def _awaited(
    call: Callable[Concatenate[Connection, P], Call[T]],
) -> Callable[Concatenate["AsyncClient", P], Coroutine[Any, Any, T]]:
    """A call as a coroutine."""

    @functools.wraps(call)
    async def method(client: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        with closing(call(client, *args, **kwargs)) as attempts:
            return await client._carry_out(attempts)

    return method


class Client(Connection):
    """A client of a hyperdraw service; a context manager, which closes its connections. Threads may share it.

    What a call gives and raises is said at `hyperdraw.errors` and at each method.
    """

    def __init__(
        self, base_url: str, *, api_key: str | None = None, timeout: float = TIMEOUT, retries: int = RETRIES
    ) -> None:
        """Makes no connection yet.

        Args:
            base_url: of the service, such as http://127.0.0.1:8000.
            api_key: that the service wants, if it wants one.
            timeout: seconds that a call may take, retries included, if the call does not say; of downloads, seconds
                that may pass without anything arriving.
            retries: how often a request is sent again that met no service, or one with too much to do. The pause
                before is what the service asks for, or doubles from a tenth of a second.

        Raises:
            ValueError: if the address is no URL of http or https, or the key holds what no key does.
        """
        super().__init__(_check_address(base_url), timeout, retries)
        self._http = httpx.Client(base_url=base_url, headers=_make_headers(api_key))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    ready = _blocking(calls.ready)
    models = _blocking(calls.models)
    model = _blocking(calls.model)
    predict = _blocking(calls.predict)
    sample = _blocking(calls.sample)
    sample_tensors = _blocking(calls.sample_tensors)
    download = _blocking(calls.download)
    reload = _blocking(calls.reload)

    def _carry_out(self, attempts: Call[T]) -> T:
        try:
            while True:
                exchange = next(attempts)
                time.sleep(exchange.pause)
                try:
                    with self._http.stream(**exchange.next_request()) as response:
                        exchange.start(response)
                        for content in response.iter_raw():
                            exchange.receive(content)
                    exchange.finish()
                except (httpx.TransportError, HyperdrawError) as error:
                    exchange.failure = error
        except StopIteration as end:
            result: T = end.value
            return result


class AsyncClient(Connection):
    """The asynchronous client, for asyncio and trio: the methods of `Client`, to be awaited."""

    def __init__(
        self, base_url: str, *, api_key: str | None = None, timeout: float = TIMEOUT, retries: int = RETRIES
    ) -> None:
        """As for `Client`."""
        super().__init__(_check_address(base_url), timeout, retries)
        self._http = httpx.AsyncClient(base_url=base_url, headers=_make_headers(api_key))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    ready = _awaited(calls.ready)
    models = _awaited(calls.models)
    model = _awaited(calls.model)
    predict = _awaited(calls.predict)
    sample = _awaited(calls.sample)
    sample_tensors = _awaited(calls.sample_tensors)
    download = _awaited(calls.download)
    reload = _awaited(calls.reload)

    async def _carry_out(self, attempts: Call[T]) -> T:
        try:
            while True:
                exchange = next(attempts)
                await anyio.sleep(exchange.pause)
                try:
                    async with self._http.stream(**exchange.next_request()) as response:
                        exchange.start(response)
                        async for content in response.aiter_raw():
                            exchange.receive(content)
                    exchange.finish()
                except (httpx.TransportError, HyperdrawError) as error:
                    exchange.failure = error
        except StopIteration as end:
            result: T = end.value
            return result


def _check_address(base_url: str) -> str:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{base_url} is no URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"{base_url} is no URL that begins with http:// or https://")
    return base_url


def _make_headers(api_key: str | None) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity"}  # so that bytes are counted as they are sent
    if api_key is None:
        return headers
    if not api_key.isascii() or not api_key.isprintable() or " " in api_key or not api_key:
        raise ValueError("the API key must be printable ASCII without spaces; a line's end may have come with it")
    return {**headers, "Authorization": f"Bearer {api_key}"}
