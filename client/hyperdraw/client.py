"""The clients. Both carry out the same calls: `Client` waits for each, and `AsyncClient` awaits it."""

import functools
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import anyio
import httpx
from anyio.lowlevel import RunVar

from hyperdraw import calls, certificates, drawings, feedback, monitoring, predictions, texts, versions
from hyperdraw.attempts import Attempts, Outcome, Together
from hyperdraw.route import find_route
from hyperdraw.text_streams import AsyncTextStream, TextStream
from hyperdraw.texts import Symbol, TextEvents, TextHead
from hyperdraw.transfer import Connection

P = ParamSpec("P")
T = TypeVar("T")

TIMEOUT, RETRIES = 60.0, 4


def _blocking(call: Callable[Concatenate[Connection, P], Attempts[T]]) -> Callable[Concatenate["Client", P], T]:
    """A call as a method that waits for the result."""

    @functools.wraps(call)
    def method(client: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return client._carry_out(call(client, *args, **kwargs), threading.Event())

    return method


def _awaited(
    call: Callable[Concatenate[Connection, P], Attempts[T]],
) -> Callable[Concatenate["AsyncClient", P], Coroutine[Any, Any, T]]:
    """A call as a coroutine."""

    @functools.wraps(call)
    async def method(client: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await client._carry_out(call(client, *args, **kwargs))

    return method


def _streamed(
    call: Callable[Concatenate[Connection, P], TextEvents],
) -> Callable[Concatenate["Client", P], TextStream]:
    """A call for a text as a method that waits for its beginning."""

    @functools.wraps(call)
    def method(client: "Client", /, *args: P.args, **kwargs: P.kwargs) -> TextStream:
        events = call(client, *args, **kwargs)
        return TextStream(events, client._follow(events))

    return method


def _streamed_asynchronously(
    call: Callable[Concatenate[Connection, P], TextEvents],
) -> Callable[Concatenate["AsyncClient", P], Coroutine[Any, Any, AsyncTextStream]]:
    """A call for a text as a coroutine that awaits its beginning."""

    @functools.wraps(call)
    async def method(client: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> AsyncTextStream:
        events = call(client, *args, **kwargs)
        return await AsyncTextStream.open(events, client._follow(events))

    return method


class Client(Connection):
    """A client of a hyperdraw service, and a context manager that closes its connections. Threads may share it.

    Each method says what it returns and raises. `hyperdraw.errors` lists all exceptions.
    """

    def __init__(
        self, base_url: str, *, api_key: str | None = None, timeout: float = TIMEOUT, retries: int = RETRIES
    ) -> None:
        """Prepares the client. The first call connects.

        Args:
            base_url: address of the service, such as http://127.0.0.1:8000, or of its Unix socket, such as
                unix:/run/hyperdraw.sock.
            api_key: key, if the service requires one.
            timeout: seconds that a call may take, retries included, unless the call says otherwise. For downloads and
                texts, seconds that may pass without anything arriving.
            retries: how often a request is sent again if the service could not be reached or is too busy. The pause
                before is what the service asks for; without that it doubles from a tenth of a second.

        Proxies and certificates come from the environment: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY,
        SSL_CERT_FILE and SSL_CERT_DIR.

        Raises:
            ValueError: if the address is not a URL of http or https, the key has characters that no key has, the
                timeout is not a number of seconds, or a variable of the environment is wrong.
        """
        super().__init__(find_route(base_url, api_key), timeout, retries)
        self._http = httpx.Client(**self.route.make_options(), transport=self.route.open_socket(httpx.HTTPTransport))

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
    example = _blocking(calls.example)
    predict = _blocking(predictions.predict)
    predict_each = _blocking(predictions.predict_each)
    certify = _blocking(certificates.certify)
    sample = _blocking(calls.sample)
    sample_tensors = _blocking(calls.sample_tensors)
    download = _blocking(calls.download)
    reload = _blocking(calls.reload)
    traffic = _blocking(versions.traffic)
    change_traffic = _blocking(versions.change_traffic)
    promote = _blocking(versions.promote)
    roll_back = _blocking(versions.roll_back)
    monitor = _blocking(monitoring.monitor)
    reset_monitor = _blocking(monitoring.reset_monitor)
    generate = _streamed(texts.generate)
    score = _blocking(texts.score)
    draw = _blocking(drawings.draw)
    draw_svg = _blocking(drawings.draw_svg)
    score_drawing = _blocking(drawings.score_drawing)
    label = _blocking(feedback.label)
    feedback = _blocking(feedback.feedback)

    def _carry_out(self, call: Attempts[T], stopped: threading.Event) -> T:
        """Carries out a call, unless it is stopped between two attempts."""
        with closing(Outcome(call)) as outcome:
            for step in outcome:
                if isinstance(step, Together):
                    self._carry_out_together(step)
                    continue
                if stopped.wait(step.pause):
                    raise _Stopped
                with step.attempt(), self._http.stream(**step.next_request()) as response:
                    step.start(response)
                    for content in response.iter_raw():
                        step.receive(content)
                if stopped.is_set():
                    raise _Stopped
            return outcome.result

    def _follow(self, events: TextEvents) -> Generator[TextHead | Symbol]:
        """Carries out a call for a text, and yields what arrives. Closing it closes the connection."""
        for step in events.attempts():
            time.sleep(step.pause)
            with step.attempt(), self._http.stream(**step.next_request()) as response:
                step.start(response)
                for content in response.iter_raw():
                    step.receive(content)
                    yield from events.take()

    def _carry_out_together(self, together: Together) -> None:
        """Carries out calls in threads. An interrupt does not wait for them; each ends with its request."""
        stopped, taking, failures = threading.Event(), threading.Lock(), list[Exception]()

        def work() -> None:
            try:
                while not stopped.is_set():
                    with taking:
                        call = next(together.calls, None)
                    if call is None:
                        return
                    self._carry_out(call, stopped)
            except Exception as error:
                failures.append(error)
                stopped.set()

        threads = [threading.Thread(target=work, daemon=True) for _ in range(together.most)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            stopped.set()
        if failures:
            raise failures[0]


class _Stopped(Exception):  # noqa: N818
    """Another of the calls that are carried out together has failed, or all are interrupted."""


@dataclass(frozen=True)
class _Opened:
    """Connections, and the generator that closes them."""

    http: httpx.AsyncClient
    holder: AsyncGenerator[httpx.AsyncClient, None]


class AsyncClient(Connection):
    """The asynchronous client, for asyncio and trio. It has the methods of `Client`, to be awaited.

    Event loops may follow one another, as with several `asyncio.run`. Each has its own connections, which are closed
    with it if nobody has closed them before.
    """

    def __init__(
        self, base_url: str, *, api_key: str | None = None, timeout: float = TIMEOUT, retries: int = RETRIES
    ) -> None:
        """Takes the arguments of `Client`."""
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
    example = _awaited(calls.example)
    predict = _awaited(predictions.predict)
    predict_each = _awaited(predictions.predict_each)
    certify = _awaited(certificates.certify)
    sample = _awaited(calls.sample)
    sample_tensors = _awaited(calls.sample_tensors)
    download = _awaited(calls.download)
    reload = _awaited(calls.reload)
    traffic = _awaited(versions.traffic)
    change_traffic = _awaited(versions.change_traffic)
    promote = _awaited(versions.promote)
    roll_back = _awaited(versions.roll_back)
    monitor = _awaited(monitoring.monitor)
    reset_monitor = _awaited(monitoring.reset_monitor)
    generate = _streamed_asynchronously(texts.generate)
    score = _awaited(texts.score)
    draw = _awaited(drawings.draw)
    draw_svg = _awaited(drawings.draw_svg)
    score_drawing = _awaited(drawings.score_drawing)
    label = _awaited(feedback.label)
    feedback = _awaited(feedback.feedback)

    async def _carry_out(self, call: Attempts[T]) -> T:
        http = await self._open()
        with closing(Outcome(call)) as outcome:
            for step in outcome:
                if isinstance(step, Together):
                    await self._carry_out_together(step)
                    continue
                await anyio.sleep(step.pause)
                with step.attempt():
                    async with http.stream(**step.next_request()) as response:
                        step.start(response)
                        async for content in response.aiter_raw():
                            step.receive(content)
            return outcome.result

    async def _follow(self, events: TextEvents) -> AsyncGenerator[TextHead | Symbol]:
        http = await self._open()
        for step in events.attempts():
            await anyio.sleep(step.pause)
            with step.attempt():
                async with http.stream(**step.next_request()) as response:
                    step.start(response)
                    async for content in response.aiter_raw():
                        step.receive(content)
                        for known in events.take():
                            yield known

    async def _carry_out_together(self, together: Together) -> None:
        failures: list[Exception] = []

        async def work() -> None:
            try:
                for call in together.calls:
                    await self._carry_out(call)
            except Exception as error:
                failures.append(error)
                tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            for _ in range(together.most):
                tasks.start_soon(work)
        if failures:
            raise failures[0]

    async def _open(self) -> httpx.AsyncClient:
        """The connections of this event loop."""
        opened = self._opened.get(None)
        if opened is None:
            holder = self._hold()  # an event loop closes such generators when it ends
            opened = _Opened(await anext(holder), holder)
            self._opened.set(opened)
        return opened.http

    async def _hold(self) -> AsyncGenerator[httpx.AsyncClient, None]:
        transport = self.route.open_socket(httpx.AsyncHTTPTransport)
        async with httpx.AsyncClient(**self._options, transport=transport) as http:
            yield http
