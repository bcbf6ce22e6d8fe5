"""Answers that are streamed."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.errors import ServiceError

logger = logging.getLogger(__name__)


class Download(StreamingResponse):
    """A stream of which only so many may be open at a time."""

    def __init__(
        self,
        content: AsyncIterator[memoryview],
        status: int,
        headers: Mapping[str, str],
        state: Any,
        most: int,
        seconds: float | None,
    ) -> None:
        """As its base class, and:

        Args:
            content: the parts.
            status: of the answer.
            headers: of the answer.
            state: of the app, whose `streams` counts the open ones.
            most: that may be open.
            seconds: after which it is broken off, if not None.
        """
        super().__init__(content, status, headers)
        self._state = state
        self._most = most
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["hyperdraw.exchange"].method == "HEAD":
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body"})
            return
        if self._state.streams >= self._most:
            message, hint = f"{self._most} downloads run, as many as may.", "Ask again in a while."
            raise ServiceError(429, "too_many_downloads", message, hint, {"Retry-After": "1"})
        self._state.streams += 1
        try:
            async with asyncio.timeout(self._seconds):
                await super().__call__(scope, receive, send)
        except TimeoutError:  # upon which the server closes the connection, as the answer is not whole
            logger.info("a download was not done within the %g s that its client gave it", self._seconds)
        finally:
            self._state.streams -= 1
