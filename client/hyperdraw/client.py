"""The clients: both carry out the same calls, one waiting for each, the other asynchronously."""

import functools
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import anyio
import httpx
from anyio.lowlevel import RunVar

from hyperdraw import calls
from hyperdraw.errors import HyperdrawError
from hyperdraw.exchange import Call, Connection
from hyperdraw.route import find_route

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

        Proxies and certificates are those of the environment: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY,
        SSL_CERT_FILE and SSL_CERT_DIR.

        Raises:
            ValueError: if the address is no URL of http or https, the key holds what no key does, the timeout is no
                number of seconds, or a variable of the environment is wrong.
        """
        super().__init__(find_route(base_url, api_key), timeout, retries)
        self._http = httpx.Client(**self.route.make_options())

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


@dataclass(frozen=True)
class _Opened:
    """Connections, and what closes them."""

    http: httpx.AsyncClient
    holder: AsyncGenerator[httpx.AsyncClient, None]


class AsyncClient(Connection):
    """The asynchronous client, for asyncio and trio: the methods of `Client`, to be awaited.

    Event loops may follow one another, as with several `asyncio.run`. Each has connections of its own, which are closed
    at its end if nobody has closed them before.
    """

    def __init__(
        self, base_url: str, *, api_key: str | None = None, timeout: float = TIMEOUT, retries: int = RETRIES
    ) -> None:
        """As for `Client`."""
        super().__init__(find_route(base_url, api_key), timeout, retries)
        self._options = self.route.make_options()
        self._opened: RunVar[_Opened] = RunVar("opened")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections of this event loop."""
        if opened := self._opened.get(None):
            await opened.holder.aclose()

    ready = _awaited(calls.ready)
    models = _awaited(calls.models)
    model = _awaited(calls.model)
    predict = _awaited(calls.predict)
    sample = _awaited(calls.sample)
    sample_tensors = _awaited(calls.sample_tensors)
    download = _awaited(calls.download)
    reload = _awaited(calls.reload)

    async def _open(self) -> httpx.AsyncClient:
        """The connections of this event loop, where they must stay."""
        opened = self._opened.get(None)
        if opened is None:
            holder = self._hold()  # event loops close such generators at their end
            opened = _Opened(await anext(holder), holder)
            self._opened.set(opened)
        return opened.http

    async def _hold(self) -> AsyncGenerator[httpx.AsyncClient, None]:
        async with httpx.AsyncClient(**self._options) as http:
            yield http

    async def _carry_out(self, attempts: Call[T]) -> T:
        http = await self._open()
        try:
            while True:
                exchange = next(attempts)
                await anyio.sleep(exchange.pause)
                try:
                    async with http.stream(**exchange.next_request()) as response:
                        exchange.start(response)
                        async for content in response.aiter_raw():
                            exchange.receive(content)
                    exchange.finish()
                except (httpx.TransportError, HyperdrawError) as error:
                    exchange.failure = error
        except StopIteration as end:
            result: T = end.value
            return result
