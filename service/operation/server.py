"""The HTTP server: uvicorn, with limits on clients before a request is complete, and with draining."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from types import FrameType
from typing import Any

import httptools
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import ErrorDetail, ErrorResponse
from service.settings import Settings

logger = logging.getLogger(__name__)

MAX_HEADER_BYTES = 2**16
"""Most bytes of a request's first line and headers, and of the trailers after a chunked body."""


class Server(uvicorn.Server):
    """Runs an app until SIGTERM or SIGINT, or until its engine's device stops responding.

    On SIGTERM, the app is no longer ready. It still serves for `drain_delay`, so that load balancers notice, and asks
    clients to close their connections. Then it accepts no new ones, finishes open requests within `drain_timeout`, and
    returns. SIGINT has no delay.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            uds=None if settings.socket is None else str(settings.socket),
            root_path=settings.root_path,
            http=Protocol,
            ws="none",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=bool(settings.trusted_proxies or settings.socket),
            forwarded_allow_ips="*" if settings.socket else settings.trusted_proxies,
            timeout_keep_alive=settings.keep_alive,
            timeout_graceful_shutdown=settings.drain_timeout,
        )
        super().__init__(config)
        self._app = app
        self._settings = settings
        self._end: float | None = None
        """End of the delay, on the monotonic clock."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins to drain at the first SIGTERM."""
        self._app.state.draining = True
        if sig == signal.SIGTERM and self._end is None and self._settings.drain_delay:
            logger.info("draining: not ready, and stops in %g s", self._settings.drain_delay)
            self._end = time.monotonic() + self._settings.drain_delay
            self._captured_signals.append(sig)
            self._ask_to_close()
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Returns whether to stop. It is called ten times a second."""
        if await super().on_tick(counter) or self._app.state.engine.fault:
            return True
        if self._end is None:
            return False
        self._ask_to_close()  # again, as each second begins with headers of its own
        return time.monotonic() >= self._end

    def _ask_to_close(self) -> None:
        """Lets all answers ask clients to close their connections."""
        close = (b"connection", b"close")
        if close not in self.server_state.default_headers:
            self.server_state.default_headers = [*self.server_state.default_headers, close]


class _Timer:
    """Calls a function after some seconds, unless it is stopped."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, function: Callable[[], None]) -> None:
        self._start = partial(loop.call_later, seconds, function)
        self._handle: asyncio.TimerHandle | None = None

    @property
    def runs(self) -> bool:
        return self._handle is not None

    def start(self) -> None:
        self.stop()
        self._handle = self._start()

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class Protocol(HttpToolsProtocol):
    """Closes excess connections, and those whose headers are too slow or too large, that do not read their answer, or
    that keep sending a body that nobody reads. Clients get an error in the service's shape if that is still possible.
    """

    def connection_made(self, transport: Any) -> None:
        """Handles a new connection."""
        super().connection_made(transport)
        settings: Settings = self.config.app.state.settings  # type: ignore[union-attr]  # an app, never its name
        self._header_seconds = settings.header_timeout
        self._header_bytes = 0
        """Bytes of headers or trailers since the last body, or since the connection was made."""
        self._receives_body = False
        self._headers = _Timer(self.loop, settings.header_timeout, self._end_waiting)
        self._stall = _Timer(self.loop, settings.stall_timeout, transport.abort)
        self._rest = _Timer(self.loop, settings.body_timeout, transport.abort)
        """Limits the rest of a body that nobody reads. A client that is cut off at once would not see the error."""
        if len(self.connections) > settings.max_connections:
            self._refuse(503, "too_many_connections", "Too many open connections.", "Try again later.")
        else:
            self._headers.start()

    def connection_lost(self, exc: Exception | None) -> None:
        """Handles the end of the connection."""
        self._headers.stop()
        self._stall.stop()
        self._rest.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Handles bytes of one or more requests. Headers beyond the limit are not parsed."""
        rest = memoryview(data)
        while rest and not self.transport.is_closing():
            part = rest[: MAX_HEADER_BYTES + 1 - self._header_bytes]
            rest = rest[len(part) :]
            self._header_bytes += len(part)
            if not self._receives_body and self._answered and not self._headers.runs:
                self._headers.start()
            self._parse(bytes(part))
            if self._header_bytes > MAX_HEADER_BYTES:
                hint = f"Send at most {MAX_HEADER_BYTES} bytes."
                self._refuse(431, "headers_too_large", "The request's headers are too large.", hint)

    def _parse(self, data: bytes) -> None:
        """Parses bytes as uvicorn does, but goes on with HTTP/1.1 if a request offers another protocol.

        To offer HTTP/2 is the default of Java's client. RFC 9110, section 7.8: "A server MAY ignore a received Upgrade
        header field". The parser would take the body for the other protocol's, so the head is parsed anew without it.
        """
        self._unset_keepalive_if_required()
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                if not self._offers_protocol:
                    return self._unsupported_upgrade_warning()
                data = self._write_head() + data[offer.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
            except httptools.HttpParserError:
                return self.send_400_response("Invalid HTTP request received.")
            else:
                return None
        return None

    @property
    def _offers_protocol(self) -> bool:
        """Whether the head that was parsed is to be parsed again. CONNECT offers nothing: it asks for a tunnel."""
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def _write_head(self) -> bytes:
        """The head of the request that was parsed, without its offer of another protocol."""
        version = self.parser.get_http_version().encode()
        first = b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)
        headers = (b"%b: %b" % header for header in self.headers if header[0] != b"upgrade")
        return b"\r\n".join([first, *headers, b"", b""])

    def on_header(self, name: bytes, value: bytes) -> None:
        """Handles a header. Trailers are ignored."""
        if not self._receives_body:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Handles a part of a body."""
        self._header_bytes = 0
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """Handles the end of the headers."""
        if self._offers_protocol:
            return
        self._headers.stop()
        self._header_bytes = 0
        self._receives_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Handles the end of a request, which may already be answered."""
        if self._offers_protocol:
            return
        self._receives_body = False
        self._header_bytes = 0
        self._rest.stop()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Handles the end of an answer, whose request may not have arrived completely."""
        super().on_response_complete()
        if self._receives_body:
            self._rest.start()

    def pause_writing(self) -> None:
        """Handles a client that reads too slowly."""
        super().pause_writing()
        self._stall.start()

    def resume_writing(self) -> None:
        """Handles a client that has read again."""
        self._stall.stop()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuses bytes that are not HTTP."""
        self._refuse(400, "invalid_http", msg, "Send HTTP/1.1.")

    @property
    def _answered(self) -> bool:
        """Whether no request waits for its answer or the rest of it."""
        return self.cycle is None or self.cycle.response_complete

    def _end_waiting(self) -> None:
        if self._header_bytes:
            message = f"The request's headers had not arrived after {self._header_seconds:g} s."
            self._refuse(408, "headers_too_slow", message, "Send them without delay.")
        else:
            self.transport.close()

    def _refuse(self, status: int, code: str, message: str, hint: str) -> None:
        """Answers instead of the app, and closes the connection."""
        self._headers.stop()
        if not self._answered and self.cycle.response_started:  # an error cannot interrupt an answer
            self.transport.abort()
        if self.transport.is_closing():
            return
        body = ErrorResponse(error=ErrorDetail(code=code, message=message, hint=hint)).model_dump_json().encode()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
