"""Streamed answers."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.errors import ServiceError
from service.parts import Parts

BINARY = "application/octet-stream"
"""Media type of safetensors files, which have none of their own."""
BINARY_SCHEMA = {"schema": {"type": "string", "format": "binary"}}

logger = logging.getLogger(__name__)


class DownloadResponse(StreamingResponse):
    """A streamed answer. The number of open ones is limited."""

    def __init__(
        self,
        content: AsyncIterator[bytes],
        status: int,
        headers: Mapping[str, str],
        parts: Parts,
        seconds: float | None,
    ) -> None:
        """Prepares the answer.

        Args:
            content: the body.
            status: status of the answer.
            headers: headers of the answer.
            parts: the parts of the service; `streams` counts the open downloads.
            seconds: time limit after which the download is broken off, if not None.
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
        except TimeoutError:  # the answer is incomplete, so the server closes the connection
            logger.info("a download exceeded the time limit of %g s set by its client", self._seconds)
        finally:
            self._parts.streams -= 1
