"""The Open Inference Protocol over gRPC, beside the HTTP server: in its process and its event loop.

A call becomes the request of the REST form that says the same, and the app answers it. Keys, quotas, limits, numbers,
errors, metrics and logs are therefore the same.
"""

import asyncio
import json
import logging
from functools import partial
from typing import Any
from urllib.parse import unquote

import grpc
from anyio import CapacityLimiter, to_thread
from fastapi.security.utils import get_authorization_scheme_param
from grpc import StatusCode
from starlette.types import Message
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from service.api.uploads import SMALL_BODY
from service.errors import CLOSING, ServiceError, shape_error
from service.open_inference.messages import HEADER_LENGTH
from service.open_inference.protobuf import MESSAGES, ROUTES, read_request, write_response
from service.operation.server import Server

Metadata = tuple[tuple[str, str], ...]
SERVICE = "inference.GRPCInferenceService"

REQUEST_HEADERS = {"authorization", "traceparent", "tracestate", "x-forwarded-for", "x-forwarded-proto", "x-request-id"}
ANSWER_HEADERS = {"retry-after", "www-authenticate", "x-request-id"}
"""Headers that are metadata of a call, and trailing metadata of its answer."""

CODES = {
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    409: StatusCode.FAILED_PRECONDITION,
    429: StatusCode.RESOURCE_EXHAUSTED,
    500: StatusCode.INTERNAL,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
}
"""gRPC's codes for statuses of HTTP; INVALID_ARGUMENT for others."""


class RpcServer(Server):
    """Serves HTTP and gRPC, and drains both."""

    async def startup(self, sockets: Any = None) -> None:
        """Listens for HTTP, then for gRPC."""
        await super().startup(sockets)
        settings = self._settings
        options = {
            "grpc.max_receive_message_length": settings.max_body_bytes,
            "grpc.max_allowed_incoming_connections": settings.max_connections,
            "grpc.max_connection_idle_ms": settings.keep_alive * 1000,
            "grpc.keepalive_time_ms": settings.keep_alive * 1000,
            "grpc.so_reuseport": 0,  # or two services could share the port unnoticed
        }
        self._do_alone = partial(to_thread.run_sync, limiter=CapacityLimiter(1))  # what takes much memory for a moment
        self._asked: Any = ProxyHeadersMiddleware(self._app, settings.trusted_proxies)  # type: ignore[arg-type]
        self._rpcs = grpc.aio.server(options=[*options.items()], maximum_concurrent_rpcs=settings.max_connections)
        self._reads = set[asyncio.Timeout]()  # of streams, which end them
        handlers = {name: grpc.stream_stream_rpc_method_handler(partial(self._call, name)) for name in ROUTES}
        self._rpcs.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self.grpc_port = self._rpcs.add_insecure_port(f"{host}:{settings.grpc_port}")
        await self._rpcs.start()
        logging.getLogger(__name__).info("gRPC running on %s:%d", host, self.grpc_port)

    async def shutdown(self, sockets: Any = None) -> None:
        """Accepts no more calls, and ends streams. What is being answered is finished like requests of HTTP."""
        self.should_exit = True
        for read in self._reads:
            if not read.expired():
                read.reschedule(0)
        stopping = asyncio.create_task(self._rpcs.stop(self._settings.drain_timeout + 1))  # when tasks are cancelled
        await super().shutdown(sockets)
        await asyncio.gather(stopping, self._rpcs.stop(1))  # a second to take the last answers

    async def _call(self, procedure: str, _: Any, context: Any) -> None:
        """Answers a call, or the messages of a stream one after the other. What strangers send is not read."""
        headers = tuple((name, value) for name, value in context.invocation_metadata() if name in REQUEST_HEADERS)
        keys, key = self._app.state.keys, get_authorization_scheme_param(dict(headers).get("authorization"))[1]
        known = keys is None or keys.find(key) is not None
        streams = procedure == "ModelStreamInfer" and known
        seconds = self._settings.keep_alive if streams else self._settings.body_timeout
        while not (streams and self.should_exit):
            try:
                async with asyncio.timeout(seconds) as read:
                    if streams:
                        self._reads.add(read)
                    content = await context.read() if known else b""
            except TimeoutError:
                if streams and self.should_exit:
                    break
                await context.abort(StatusCode.DEADLINE_EXCEEDED, f"No message had arrived after {seconds:g} s.")
            finally:
                self._reads.discard(read)
            if content is grpc.aio.EOF:
                return
            status, answer, metadata = await self._answer(procedure, content, headers, context.peer())
            if isinstance(answer, str) and not streams:
                await context.abort(CODES.get(status, StatusCode.INVALID_ARGUMENT), answer, metadata)
            if isinstance(answer, str):
                answer = MESSAGES["ModelStreamInferResponse"](error_message=answer)
            context.set_trailing_metadata(metadata)
            await context.write(answer.SerializeToString())
            if not streams:
                return
        await context.abort(StatusCode.UNAVAILABLE, f"{CLOSING.message} {CLOSING.hint}")

    async def _answer(self, procedure: str, content: bytes, headers: Metadata, peer: str) -> tuple[int, Any, Metadata]:
        """The status of the app's answer, the response or an error's text, and metadata. The app sees clients leave."""
        try:
            read = partial(read_request, procedure, content)
            path, body, length = read() if len(content) <= SMALL_BODY else await self._do_alone(read)
        except ServiceError as error:
            return error.status, shape_error("/v2", error.status, error.detail)[1].model_dump()["error"], ()
        host, _, port = unquote(peer.partition(":")[2]).rpartition(":")
        headers = ("host", "localhost"), (HEADER_LENGTH.lower(), str(length)), *headers
        scope = {
            "type": "http",
            "method": ROUTES[procedure][0],
            "path": path,
            "root_path": "",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers],
            "client": (host.strip("[]"), int(port)),
            "hyperdraw.procedure": f"/{SERVICE}/{procedure}",
        }
        received, sent = asyncio.Queue[Message](), asyncio.Queue[Message]()
        received.put_nowait({"type": "http.request", "body": body})
        task = asyncio.create_task(self._asked(scope, received.get, sent.put))
        self.server_state.tasks.add(task)
        task.add_done_callback(self.server_state.tasks.discard)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            received.put_nowait({"type": "http.disconnect"})
            raise
        start, *parts = (sent.get_nowait() for _ in range(sent.qsize()))
        status, content = start["status"], b"".join(part.get("body", b"") for part in parts)
        given = {name.decode(): value.decode() for name, value in start["headers"]}
        metadata = tuple((name, value) for name, value in given.items() if name in ANSWER_HEADERS)
        if procedure.endswith(("Live", "Ready")) and status in (404, 503):
            return 200, MESSAGES[f"{procedure}Response"](), metadata
        if status != 200:
            return status, json.loads(content)["error"], metadata
        return status, write_response(procedure, content, int(given.get(HEADER_LENGTH.lower(), len(content)))), metadata
