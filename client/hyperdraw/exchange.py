"""A request until its answer is there, over as many attempts as that takes; without any input or output itself.

A client carries out each attempt that `Exchange.attempts` yields: it sleeps for `pause` seconds, sends `next_request`,
hands over what arrives, and leaves what went wrong in `failure`.
"""

import random
import ssl
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import httpx

from hyperdraw.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    ErrorDetail,
    HyperdrawError,
    InvalidAnswer,
    Overloaded,
    ServiceError,
    make_error,
    read_detail,
)
from hyperdraw.route import Route, explain_certificate, hide_credentials

Progress = Callable[[int, int | None], None]
"""Is told the bytes that have arrived, and how many there will be, if that is known."""

Parameters = Mapping[str, str | int | float | bool | None]
"""Of a query; what is None is left out."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_CONNECT_TIMEOUT = 10.0
_LONGEST_TIMEOUT = 86400.0
"""Seconds that the service accepts as X-Request-Timeout, and that an attempt may be silent."""


class Sink(Protocol):
    """Where an answer goes."""

    def start(self, size: int | None) -> None:
        """Begins, or begins again, with an answer of `size` bytes, if that is known."""

    def write(self, content: bytes) -> None:
        """Takes the next bytes."""

    def finish(self) -> None:
        """Checks the answer, now that it is complete."""


class Deadline:
    """The moment up to which an answer is of use."""

    def __init__(self, seconds: float) -> None:
        if not seconds >= 0:  # nor is NaN
            raise ValueError(f"the timeout is {seconds}; it must be a number of seconds, or infinite")
        self.seconds = seconds
        self.renew()

    def renew(self) -> None:
        """Puts it off to the full time from now."""
        self._end = time.monotonic() + self.seconds

    @property
    def left(self) -> float:
        """Seconds."""
        return self._end - time.monotonic()


@dataclass(frozen=True)
class Request:
    """What is asked."""

    method: str
    path: str
    parameters: Parameters = field(default_factory=dict)
    content: bytes | None = None
    content_type: str = ""
    repeatable: bool = True
    """Whether it may be sent again when nobody knows if it arrived."""
    expected: tuple[str, ...] = ()
    """Headers without which an answer is not taken."""


@dataclass
class Connection:
    """What a client knows of its service."""

    route: Route
    timeout: float
    """Seconds that a call may take, if it does not say."""
    retries: int
    default_model: str | None = None
    """Once it has been asked for, and for as long as it is served."""

    def __post_init__(self) -> None:
        Deadline(self.timeout)


class Exchange:
    """A request, its attempts, and its answer.

    An answer with an entity tag is resumed where it broke off; another one begins again.
    """

    def __init__(
        self,
        request: Request,
        sink: Sink,
        client: Connection,
        deadline: Deadline,
        progress: Progress | None = None,
        *,
        renewing: bool = False,
        retries: int | None = None,
    ) -> None:
        """`renewing` puts the deadline off whenever something arrives; `retries` are the client's unless given."""
        self.headers = httpx.Headers()
        """Of the answer."""
        self.pause = 0.0
        """Seconds before the next attempt."""
        self.failure: httpx.TransportError | HyperdrawError | None = None
        """Of the attempt."""
        self._request = request
        self._sink = sink
        self._route = client.route
        self._deadline = deadline
        self._retries = client.retries if retries is None else retries
        self._progress = progress
        self._renewing = renewing
        self._failures = 0
        self._received = self._furthest = 0
        self._size: int | None = None
        self._refusal: bytearray | None = None
        self._redirection: str | None = None
        self._status = 0
        self._gateway_failed = False

    def attempts(self) -> "Call[None]":
        """Yields the exchange for each attempt that is to be carried out.

        Raises:
            HyperdrawError: if the last one has failed.
        """
        while True:
            self.failure = None
            yield self
            if self.failure is None:
                return
            self.pause = self._choose_pause(self.failure)

    def next_request(self) -> dict[str, Any]:
        """The arguments of `httpx.Client.stream` for the next attempt."""
        left = min(max(self._deadline.left, 0.001), _LONGEST_TIMEOUT)
        headers = {} if self._renewing else {"X-Request-Timeout": f"{left:.3f}"}
        if self._request.content is not None:
            headers["Content-Type"] = self._request.content_type
        if self._resumable:
            headers |= {"Range": f"bytes={self._received}-", "If-Range": self.headers["ETag"]}
        return {
            "method": self._request.method,
            "url": self._request.path,
            "params": {name: value for name, value in self._request.parameters.items() if value is not None},
            "content": self._request.content,
            "headers": headers,
            "timeout": httpx.Timeout(left, connect=min(left, _CONNECT_TIMEOUT)),
        }

    def start(self, response: httpx.Response) -> None:
        """Takes the head of an answer.

        Raises:
            InvalidAnswer: if it is not one to the request.
        """
        self._status, self._refusal, self._redirection = response.status_code, None, None
        self._gateway_failed = False
        if response.status_code == 206 and self._resumable:
            begin, found = f"bytes {self._received}-", response.headers.get("Content-Range", "")
            if response.headers.get("ETag") != self.headers["ETag"] or not found.startswith(begin):
                raise InvalidAnswer("The answer is another part than was asked for.", "Is a proxy in between?")
        elif response.status_code == 200:
            if missing := [name for name in self._request.expected if name not in response.headers]:
                message = f"The answer has no header {missing[0]}."
                raise InvalidAnswer(message, "Is the address right, and is the service of the client's version?")
            self.headers = response.headers
            length = response.headers.get("Content-Length", "")
            self._received, self._size = 0, int(length) if length.isdecimal() else None
            self._sink.start(self._size)
        else:
            self._refusal = bytearray()
            self._refusal_headers = response.headers
            self._redirection = hide_credentials(response.next_request.url) if response.next_request else None

    def receive(self, content: bytes) -> None:
        """Takes the next bytes of an answer.

        Raises:
            DeadlineExceeded: if they come too late.
        """
        if self._deadline.left < 0:
            raise self._give_up()
        if self._refusal is not None:
            self._refusal += content
            return
        self._sink.write(content)
        self._received += len(content)
        if self._renewing:
            self._deadline.renew()
        if self._progress:
            self._progress(self._received, self._size)

    def finish(self) -> None:
        """Checks that the answer is complete.

        Raises:
            HyperdrawError: if it is a refusal, or no answer of this service.
            httpx.TransportError: if something is missing.
        """
        if self._redirection is not None:
            raise self._explain_redirection(self._redirection)
        if self._refusal is not None:
            raise self._explain_refusal(bytes(self._refusal))
        if self._size not in (None, self._received):
            raise httpx.RemoteProtocolError(f"the answer ended after {self._received} of {self._size} bytes")
        self._sink.finish()

    def _choose_pause(self, failure: httpx.TransportError | HyperdrawError) -> float:
        """Seconds until the next attempt; raises what callers are to see of the failure if there is to be none."""
        if self._received > self._furthest:  # so that what gets on, however often it breaks, comes to its end
            self._furthest, self._failures = self._received, 0
        self._failures += 1
        longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._failures - 1, 10))
        pause = random.uniform(0.5, 1) * longest  # noqa: S311 — no secret; it keeps many clients from coming at once
        if isinstance(failure, ServiceError):
            pause += failure.retry_after or 0
        in_time = pause < min(self._deadline.left, _LONGEST_TIMEOUT)
        if self._may_repeat(failure) and self._failures <= self._retries and in_time:
            return pause
        if isinstance(failure, HyperdrawError):
            raise failure
        if isinstance(failure, httpx.TimeoutException) and not in_time:
            raise self._give_up() from failure
        raise self._explain_failure(failure) from failure

    @property
    def _resumable(self) -> bool:
        return self._received > 0 and "ETag" in self.headers

    def _may_repeat(self, failure: httpx.TransportError | HyperdrawError) -> bool:
        if isinstance(failure, HyperdrawError):
            return isinstance(failure, Overloaded) or (self._gateway_failed and self._request.repeatable)
        if isinstance(failure, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
            return False
        if _find_tls_error(failure) is not None:
            return False
        return self._request.repeatable or isinstance(failure, httpx.ConnectError | httpx.ConnectTimeout)

    def _give_up(self) -> DeadlineExceeded:
        message = f"{self._peer} gave no answer within {self._deadline.seconds:g} s."
        return DeadlineExceeded(message, "Ask for less, ask later, or allow a longer timeout.")

    @property
    def _peer(self) -> str:
        """Who is asked."""
        way = f", by way of the {self._route.proxy}," if self._route.proxy else ""
        return f"{self._route.address}{way}"

    def _explain_failure(self, failure: httpx.TransportError) -> ConnectionFailed:
        """What callers see of a connection that was not made, or broke."""
        reason = str(failure) or type(failure).__name__
        proxy = self._route.proxy
        tls = _find_tls_error(failure)
        if isinstance(tls, ssl.SSLCertVerificationError):
            return ConnectionFailed(f"{self._peer} is not trusted: {reason}.", explain_certificate())
        if tls is not None:
            hint = "Is it http:// rather than https://?"
            return ConnectionFailed(f"{self._peer} does not speak TLS as expected: {reason}.", hint)
        if proxy and isinstance(failure, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
            says = "refuses" if isinstance(failure, httpx.ProxyError) else "does not answer"
            hint = f"Correct or unset {proxy.variable}, or set NO_PROXY={self._route.url.host} to do without."
            return ConnectionFailed(f"The {proxy}, {says}: {reason}.", hint)
        hint = "Is a hyperdraw service running there? `hyperdraw-serve` starts one."
        return ConnectionFailed(f"{self._peer} does not answer: {reason}.", hint)

    def _explain_refusal(self, content: bytes) -> HyperdrawError:
        """What callers see of an answer other than success."""
        detail = read_detail(content)
        self._gateway_failed = detail is None and self._status in (502, 504)
        if detail is None:  # of a proxy, say
            phrase = httpx.codes.get_reason_phrase(self._status)
            message = f"{self._peer} answered {self._status} {phrase}".rstrip() + "."
            hint = "It has no explanation, so it may not come from a hyperdraw service."
            detail = ErrorDetail(phrase.lower().replace(" ", "_"), message, hint)
        return make_error(self._status, self._refusal_headers, detail)

    def _explain_redirection(self, target: str) -> InvalidAnswer:
        base, found, _ = target.partition(self._request.path)
        hint = f"If that is the service, give {base} as its address." if found else "Is the address right?"
        return InvalidAnswer(f"{self._peer} redirects to {target}.", hint)


def _find_tls_error(failure: httpx.TransportError) -> ssl.SSLError | None:
    """The failure of TLS that one to connect comes from, if it is the same the next time."""
    cause: BaseException | None = failure if isinstance(failure, httpx.ConnectError) else None
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    return None if isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError) else cause


T = TypeVar("T")

Call = Generator[Exchange, None, T]
"""A call of the service: it yields attempts to be carried out, one after the other, and returns what comes of them."""
