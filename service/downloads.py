"""Answers that are streamed."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.errors import ServiceError


class Download(StreamingResponse):
    """A stream of which only so many may be open at a time."""

    def __init__(
        self, content: AsyncIterator[memoryview], status: int, headers: Mapping[str, str], state: Any, most: int
    ) -> None:
        """As its base class, and:

        Args:
            content: the parts.
            status: of the answer.
            headers: of the answer.
            state: of the app, whose `streams` counts the open ones.
            most: that may be open.
        """
        super().__init__(content, status, headers)
        self._state = state
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._state.streams >= self._most:
            message, hint = f"{self._most} downloads run, as many as may.", "Ask again in a while."
            raise ServiceError(429, "too_many_downloads", message, hint, {"Retry-After": "1"})
        self._state.streams += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._state.streams -= 1
