"""What can go wrong, as exceptions: each says what was wrong and what would be right.

    HyperdrawError
    ├── ConnectionFailed    nobody answers at the address, or the connection broke
    ├── DeadlineExceeded    no answer in time, by the clock of this side, the service or a gateway
    ├── InvalidAnswer       what answers is no hyperdraw service
    └── ServiceError        the service refused
        ├── InvalidRequest  ask for something else
        ├── Unauthorized    bring another API key
        ├── NotFound        ask for another model, or version
        └── Overloaded      ask again later

Arguments that are wrong whatever the service says raise ValueError, files that cannot be read or written OSError.
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
    """Nobody answers at the address, or the connection broke more often than was to be tried."""


class DeadlineExceeded(HyperdrawError):  # noqa: N818
    """There was no answer within the timeout, or within that of a gateway."""


class InvalidAnswer(HyperdrawError):  # noqa: N818
    """An answer that no hyperdraw service gives."""


class ServiceError(HyperdrawError):
    """The service refused; further kinds of refusal than those below are of this class itself."""

    def __init__(self, status: int, code: str, message: str, hint: str, retry_after: float | None = None) -> None:
        super().__init__(message, hint)
        self.args = (status, code, message, hint, retry_after)  # all that it takes, for copies
        self.status = status
        """Of HTTP."""
        self.code = code
        """Which refusal it is, for programs: `invalid_parameter`, `unknown_model`, …"""
        self.retry_after = retry_after
        """Seconds after which the service wants to be asked again, if it says so."""


class InvalidRequest(ServiceError):  # noqa: N818
    """The service does not understand the request, or allows no such one."""


class Unauthorized(ServiceError):  # noqa: N818
    """The API key is missing, unknown, or does not allow this."""


class NotFound(ServiceError):  # noqa: N818
    """There is no such model, version or path."""


class Overloaded(ServiceError):  # noqa: N818
    """The service has too much to do, or is about to start or to end (429, 503 but for what only people can mend)."""


_KINDS = {401: Unauthorized, 403: Unauthorized, 404: NotFound, 429: Overloaded, 503: Overloaded}
_LASTING = ("model_refused", "device_fault")
"""Codes of 503 that waiting does not help: somebody must mend the checkpoint, or start the service anew."""


@dataclass(frozen=True)
class ErrorDetail:
    """What a refusal says."""

    code: str
    message: str
    hint: str


def read_detail(content: bytes) -> ErrorDetail | None:
    """What an answer other than success says, if it comes from a hyperdraw service."""
    try:
        detail = json.loads(content)["error"]
        return ErrorDetail(*(str(detail[key]) for key in ("code", "message", "hint")))
    except (ValueError, LookupError, TypeError):
        return None


def make_error(status: int, headers: httpx.Headers, detail: ErrorDetail) -> HyperdrawError:
    """The exception that an answer other than success amounts to."""
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
