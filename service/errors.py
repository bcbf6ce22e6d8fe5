"""Errors that clients see, all in one JSON shape: {"error": {"code", "message", "hint"}}.

Under /v2, the shape is the Open Inference Protocol's: {"error": "<message> <hint>"}. At /v1/completions it is OpenAI's:
{"error": {"message", "type", "param", "code"}}.
"""

import asyncio
import logging
import math
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.admission import OverloadedError
from service.names import find_path

logger = logging.getLogger(__name__)


class ErrorDetail(BaseModel):
    code: str
    message: str
    """What was wrong."""
    hint: str
    """What would be right."""


class ErrorResponse(BaseModel):
    error: ErrorDetail


class InferenceErrorResponse(BaseModel):
    """An error in the Open Inference Protocol's shape."""

    error: str = Field(description="What was wrong, and what would be right.")


class CompletionErrorDetail(BaseModel):
    message: str = Field(description="What was wrong, and what would be right.")
    type: str
    param: str | None = Field(description="The parameter that was wrong, if one was.")
    code: str


class CompletionErrorResponse(BaseModel):
    """An error in OpenAI's shape."""

    error: CompletionErrorDetail


class ServiceError(Exception):
    """An error answer."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        hint: str,
        headers: dict[str, str] | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(status, code, message, hint, headers, param)  # all arguments, so that it can be copied
        self.status = status
        self.headers = headers
        self.param = param
        """The parameter that was wrong, if it is known."""
        self.detail = ErrorDetail(code=code, message=message, hint=hint)

    def __str__(self) -> str:
        return self.detail.message


CLOSING = ErrorDetail(
    code="closing", message="The service is shutting down.", hint="Ask another instance, or try again later."
)


def add_error_handlers(app: FastAPI) -> None:
    """Gives every error of the app, expected or not, the same shape."""
    app.add_exception_handler(ServiceError, _answer_service_error)
    app.add_exception_handler(OverloadedError, _answer_overloaded)
    app.add_exception_handler(RequestValidationError, _answer_invalid_request)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_exception_handler(ClientDisconnect, _answer_client_disconnect)
    app.add_middleware(_UnexpectedErrors)


MOST_PROBLEMS = 5
"""Most problems with a request's parameters that are reported at once."""


_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""OpenAI's names of kinds of errors, by the status."""


def shape_error(path: str, status: int, detail: ErrorDetail, param: str | None = None) -> tuple[int, BaseModel]:
    """The status and the body of an error, in the shape for a path.

    Args:
        path: the request's path.
        status: the status in this service's own shape.
        detail: the error.
        param: the parameter that was wrong, if it is known.
    """
    foreign_status = 400 if status == 422 else status
    message = f"{detail.message.removesuffix('.')}. {detail.hint}"
    if f"{path}/".startswith("/v2/"):
        return foreign_status, InferenceErrorResponse(error=message)
    if path == "/v1/completions":
        kind = _OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        answer = CompletionErrorDetail(message=message, type=kind, param=param, code=detail.code)
        return foreign_status, CompletionErrorResponse(error=answer)
    return status, ErrorResponse(error=detail)


def respond(
    scope: Scope, status: int, detail: ErrorDetail, headers: dict[str, str] | None = None, param: str | None = None
) -> JSONResponse:
    """An answer with an error, in the shape for its path."""
    status, answer = shape_error(find_path(scope), status, detail, param)
    return JSONResponse(answer.model_dump(), status, headers)


async def _answer_service_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError)
    return respond(request.scope, error.status, error.detail, error.headers, error.param)


async def _answer_overloaded(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OverloadedError)
    seconds = math.ceil(error.seconds)
    hint = f"Try again in {seconds} s, or ask for less."
    detail = ErrorDetail(code="overloaded", message="The request queue is full.", hint=hint)
    return respond(request.scope, 429, detail, {"Retry-After": str(seconds)})


async def _answer_invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = [
        f"{str(problem['loc'][-1])[:50]}: {problem['msg'].removeprefix('Value error, ')} "
        f"(got {str(problem['input'])[:50]!r})"
        for problem in error.errors()[:MOST_PROBLEMS]
    ]
    hint = f"See /docs for the parameters of {request.method} {request.url.path}."
    detail = ErrorDetail(code="invalid_parameter", message="; ".join(problems), hint=hint)
    return respond(request.scope, 422, detail)


async def _answer_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    message = f"{request.method} {request.url.path}: {error.detail}"
    detail = ErrorDetail(code=code, message=message, hint="See /docs for the paths and methods.")
    return respond(request.scope, error.status_code, detail, dict(error.headers or {}))


async def _answer_client_disconnect(request: Request, error: Exception) -> JSONResponse:
    """Answers a client that left while sending its body, only for the log."""
    detail = ErrorDetail(code="client_left", message="The client closed the connection.", hint="")
    return respond(request.scope, 499, detail)


class _UnexpectedErrors:
    """Logs uncaught exceptions and answers them with 500. Requests that the server's shutdown cancels get 503.

    Starlette's own handler raises exceptions again after its answer. Uvicorn then cuts the connection, which breaks the
    client's next request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watch_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watch_start)
        except asyncio.CancelledError:  # the time to drain is over; answers that have begun are cut off
            if scope["type"] == "http" and not started:
                await respond(scope, 503, CLOSING)(scope, receive, send)
        except Exception:
            if started or scope["type"] != "http":
                raise
            logger.exception("%s %s failed", scope["method"], scope["path"])
            detail = ErrorDetail(
                code="internal_error", message="The service failed.", hint="See the server's log for details."
            )
            await respond(scope, 500, detail)(scope, receive, send)
