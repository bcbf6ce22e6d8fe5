"""What happens to every request, whatever its route: it gets a name, and is accounted for when it ends."""

import logging
import re
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from service.catalog import Catalog
from service.metrics import Metrics

logger = logging.getLogger(__name__)

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass
class Exchange:
    """A request and what has been answered so far."""

    scope: Scope
    start: float = field(default_factory=time.perf_counter)
    status: int = 500
    """As the server answers for an app that does not."""
    bytes_in: int = 0
    """Of the body, so far as it was read."""
    bytes_out: int = 0
    """Of the body."""
    ended: bool = False
    """Whether the answer has been sent, or has failed."""

    @property
    def headers(self) -> Headers:
        """Of the request."""
        return Headers(scope=self.scope)

    @property
    def method(self) -> str:
        """One of those that are known, or "other"."""
        method: str = self.scope["method"]
        return method if method in METHODS else "other"

    @property
    def route(self) -> str:
        """The path with parameters' names for their values, or "unmatched"; known once the app has been called.

        A route does not know the prefix that its router is included with, so its own template would not do.
        """
        if "endpoint" not in self.scope:
            return "unmatched"
        path: str = self.scope["root_path"] or self.scope["path"]  # the first where files are mounted
        names = {str(value): f"{{{name}}}" for name, value in self.scope["path_params"].items()}
        names |= {f"{value}:reload": f"{name}:reload" for value, name in names.items()}
        return "/".join(names.get(segment, segment) for segment in path.split("/"))

    @property
    def client_left(self) -> bool:
        """Before it had its answer."""
        return self.status == 499 or not self.ended

    @property
    def seconds(self) -> float:
        """Since the request's head was read."""
        return time.perf_counter() - self.start


Follow = Callable[[Exchange], AbstractContextManager[None]]
"""Opens what ends with the exchange, such as a span."""


class Accounting:
    """Gives each request an id, or keeps that of its X-Request-ID, and puts the request into log, metrics and trace.

    It is pure ASGI, so that routes hear when clients leave, and the outermost, so that no answer goes without an id.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        catalog: Catalog,
        follow: Follow,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._catalog = catalog
        self._follow = follow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope)
        request_id = exchange.headers.get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = secrets.token_hex(16)

        async def count_in() -> Message:
            message = await receive()
            exchange.bytes_in += len(message.get("body", b""))
            return message

        async def count_out(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)
            if message["type"] == "http.response.body":
                exchange.bytes_out += len(message.get("body", b""))
                exchange.ended = not message.get("more_body", False)

        active = self._metrics.active_requests.track_inprogress()
        with active, bound_contextvars(request_id=request_id), self._follow(exchange):
            try:
                await self._app(scope, count_in, count_out)
            except Exception:
                exchange.ended = True
                raise
            finally:
                self._record(exchange)

    def _record(self, exchange: Exchange) -> None:
        scope, seconds, left = exchange.scope, exchange.seconds, exchange.client_left
        self._metrics.count_request(exchange.route, exchange.method, exchange.status, seconds, left)
        if not logger.isEnabledFor(logging.INFO):
            return
        client, model = scope.get("client"), scope.get("path_params", {}).get("model")
        entry = {
            "method": scope["method"],
            "route": exchange.route,
            "path": scope["path"],
            "status": exchange.status,
            "seconds": round(seconds, 6),
            "bytes_in": exchange.bytes_in,
            "bytes_out": exchange.bytes_out,
            "client_left": left,
            "model": model if any(model == known.name for known in self._catalog) else None,
            "client": client[0] if client else None,
            "key": scope.get("hyperdraw.key"),
        }
        logger.info("request", extra=entry)
