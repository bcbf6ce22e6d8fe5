"""Exceptions. Each says what was wrong and what would be right.

    HyperdrawError
    ├── ConnectionFailed    nobody answers at the address, or the connection broke
    ├── DeadlineExceeded    no answer arrived in time, by the client's, the service's or a gateway's clock
    ├── InvalidAnswer       the answer does not come from a hyperdraw service
    └── ServiceError        the service refused the request
        ├── InvalidRequest  change the request
        ├── Unauthorized    use another API key
        ├── NotFound        use another model or version
        └── Overloaded      try again later

Arguments that are wrong for any service raise ValueError. Files that cannot be read or written raise OSError.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx


class HyperdrawError(Exception):
    """Any failure of a call."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.message = message
        """What was wrong."""
        self.hint = hint
        """What would be right."""

    def __str__(self) -> str:
        return f"{self.message.rstrip('.')}. {self.hint}"


class ConnectionFailed(HyperdrawError):  # noqa: N818 — reads as what happened
    """Nobody answers at the address, or the connection broke and all retries failed."""


class DeadlineExceeded(HyperdrawError):  # noqa: N818
    """No answer arrived within the timeout of the client, the service or a gateway."""


class InvalidAnswer(HyperdrawError):  # noqa: N818
    """The answer does not come from a hyperdraw service."""


class ServiceError(HyperdrawError):
    """The service refused the request. Refusals without a class of their own have this one."""

    def __init__(self, status: int, code: str, message: str, hint: str, retry_after: float | None = None) -> None:
        super().__init__(message, hint)
        self.args = (status, code, message, hint, retry_after)  # all arguments, so that copies and pickles work
        self.status = status
        """Status code of HTTP."""
        self.code = code
        """Kind of refusal, for programs: `invalid_parameter`, `unknown_model`, …"""
        self.retry_after = retry_after
        """Seconds after which the service asks to try again, if it says so."""


class InvalidRequest(ServiceError):  # noqa: N818
    """The service does not understand or does not allow the request."""


class Unauthorized(ServiceError):  # noqa: N818
    """The API key is missing, unknown, or does not allow this."""


class NotFound(ServiceError):  # noqa: N818
    """The service has no such model, version or path."""


class Overloaded(ServiceError):  # noqa: N818
    """The service is too busy, starting or shutting down: 429, or a 503 that passes without anybody's help."""


_KINDS = {401: Unauthorized, 403: Unauthorized, 404: NotFound, 429: Overloaded, 503: Overloaded}
_LASTING = ("model_refused", "device_fault")
"""Codes of a 503 that does not pass: somebody must fix the checkpoint or restart the service."""


@dataclass(frozen=True)
class ErrorDetail:
    """Content of a refusal."""

    code: str
    message: str
    hint: str


def read_detail(content: bytes) -> ErrorDetail | None:
    """Content of an answer other than success, or None if it does not come from a hyperdraw service."""
    try:
        detail = json.loads(content)["error"]
        return ErrorDetail(*(str(detail[key]) for key in ("code", "message", "hint")))
    except (ValueError, LookupError, TypeError):
        return None


def make_error(status: int, headers: httpx.Headers, detail: ErrorDetail) -> HyperdrawError:
    """The exception for an answer other than success."""
    if status == httpx.codes.GATEWAY_TIMEOUT:
        return DeadlineExceeded(detail.message, detail.hint)
    kind = _KINDS.get(status, InvalidRequest if 400 <= status < 500 else ServiceError)
    if detail.code in _LASTING:
        kind = ServiceError
    return kind(status, detail.code, detail.message, detail.hint, _read_retry_after(headers.get("Retry-After")))


def _read_retry_after(header: str | None) -> float | None:
    """Seconds from now, from a header that holds seconds or a date (RFC 9110, section 10.2.3)."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
