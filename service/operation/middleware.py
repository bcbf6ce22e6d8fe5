"""Middleware for every request, whatever its route: the request gets an id, and is accounted for when it ends."""

import ipaddress
import logging
import re
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import lru_cache

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from service.admission import Admission, Reservation
from service.catalog import Catalog
from service.operation.access import KEY
from service.operation.metrics import ServiceMetrics

logger = logging.getLogger(__name__)

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass
class Exchange:
    """A request and its answer so far."""

    scope: Scope
    method: str
    """Method of the request; routes see GET for HEAD."""
    request_id: str
    """The valid X-Request-ID of the request, or a new one."""
    start: float = field(default_factory=time.perf_counter)
    """Time when the request's head had been read."""
    status: int = 500
    """Status of the answer; 500 is what the server sends if the app does not answer."""
    bytes_in: int = 0
    """Bytes of the request's body read so far."""
    bytes_out: int = 0
    """Bytes of the answer's body sent so far."""
    ended: bool = False
    """Whether the answer was sent or failed."""
    closing: ExitStack = field(default_factory=ExitStack)
    """What is done when the exchange has ended."""

    @property
    def headers(self) -> Headers:
        """Headers of the request."""
        return Headers(scope=self.scope)

    @property
    def route(self) -> str:
        """The path with parameters' names instead of values, or "unmatched". It is known after the app was called."""
        if "hyperdraw.procedure" in self.scope:  # a call by gRPC
            return str(self.scope["hyperdraw.procedure"])
        if "endpoint" not in self.scope:
            return "unmatched"
        route = self.scope.get("route")
        if route is not None:
            return str(route.path)
        root: str = self.scope["root_path"]  # of mounted files, which have no route
        return root.removeprefix(self.scope.get("app_root_path", ""))

    @property
    def client(self) -> str:
        """Name of the client, for its share of queues: its key's, or else its address."""
        if (key := self.scope.get("hyperdraw.key")) is not None:
            return f"{KEY}{key}"
        return _name_host(self.scope["client"][0] if self.scope.get("client") else "")

    @property
    def key(self) -> str:
        """Name of the request's key. It is empty if no key is required, when clients cannot be told apart for sure."""
        return self.scope.get("hyperdraw.key") or ""

    @property
    def client_left(self) -> bool:
        """Whether the client left before it had its answer."""
        return self.status == 499 or not self.ended

    @property
    def seconds(self) -> float:
        """Seconds since the request's head was read."""
        return time.perf_counter() - self.start


Follow = Callable[[Exchange], AbstractContextManager[None]]
"""Opens a context that ends with the exchange, such as a span."""


class Accounting:
    """Gives each request an id, or keeps that of its X-Request-ID, and records it in log, metrics and trace.

    It limits the total size of request bodies in memory. It lets GET routes answer HEAD, and the server then sends only
    the head. It is pure ASGI, so that routes notice when clients leave, and the outermost middleware, so that every
    answer has an id.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: ServiceMetrics,
        catalog: Catalog,
        follow: Follow,
        bodies: Admission,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._catalog = catalog
        self._follow = follow
        self._bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        scope = {**scope, "method": "GET" if method == "HEAD" else method}
        request_id = Headers(scope=scope).get("x-request-id", "")
        if not REQUEST_ID.fullmatch(request_id):
            request_id = secrets.token_hex(16)
        known = method if method in METHODS else "other"
        exchange = scope["hyperdraw.exchange"] = Exchange(scope, known, request_id)
        held: Reservation | None = None

        async def count_in() -> Message:
            nonlocal held
            message = await receive()
            size = len(message.get("body", b""))
            exchange.bytes_in += size
            if size:
                held = held or self._bodies.reserve(exchange.client, 0)
                held.grow(size)
            return message

        async def count_out(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)
            if message["type"] == "http.response.body":
                exchange.bytes_out += len(message.get("body", b"")) if method != "HEAD" else 0
                exchange.ended = not message.get("more_body", False)

        active = self._metrics.active_requests.track_inprogress()
        with active, bound_contextvars(request_id=request_id), self._follow(exchange):
            try:
                await self._app(scope, count_in, count_out)
            except Exception:
                exchange.ended = True
                raise
            finally:
                if held:
                    held.release()
                exchange.closing.close()
                self._record(exchange)

    def _record(self, exchange: Exchange) -> None:
        scope, seconds, left = exchange.scope, exchange.seconds, exchange.client_left
        if exchange.key:
            self._metrics.count_key(exchange.key)
        self._metrics.count_request(exchange.route, exchange.method, exchange.status, seconds, left)
        if not logger.isEnabledFor(logging.INFO):
            return
        client, model = scope.get("client"), scope.get("path_params", {}).get("model")
        entry = {
            "method": exchange.method,
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


@lru_cache(maxsize=4096)
def _name_host(host: str) -> str:
    """The name of a client without a key."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 6:  # a client usually has a whole network of addresses
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
