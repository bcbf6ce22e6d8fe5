"""Answers that are streamed."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.errors import ServiceError
from service.parts import Parts

BINARY = "application/octet-stream"
"""Safetensors files have no type of their own."""
BINARY_SCHEMA = {"schema": {"type": "string", "format": "binary"}}

logger = logging.getLogger(__name__)


class Download(StreamingResponse):
    """A streamed answer. Only so many may be open at a time."""

    def __init__(
        self,
        content: AsyncIterator[memoryview],
        status: int,
        headers: Mapping[str, str],
        parts: Parts,
        seconds: float | None,
    ) -> None:
        """As its base class, and:

        Args:
            content: what is sent.
            status: of the answer.
            headers: of the answer.
            parts: of the service, whose `streams` counts the open ones.
            seconds: after which it is broken off, if not None.
        """
        super().__init__(content, status, headers)
        self._parts = parts
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["hyperdraw.exchange"].method == "HEAD":
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body"})
            return
        if self._parts.streams >= (most := self._parts.settings.max_streams):
            message, hint = f"All {most} download slots are in use.", "Try again later."
            raise ServiceError(429, "too_many_downloads", message, hint, {"Retry-After": "1"})
        self._parts.streams += 1
        try:
            async with asyncio.timeout(self._seconds):
                await super().__call__(scope, receive, send)
        except TimeoutError:  # upon which the server closes the connection, as the answer is not whole
            logger.info("a download was not done within the %g s that its client gave it", self._seconds)
        finally:
            self._parts.streams -= 1
