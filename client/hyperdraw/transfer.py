"""One request and its answer, over as many attempts as it takes. This module does no input or output itself.

A client carries out each attempt that `Transfer.attempts` yields: it sleeps for `pause` seconds, sends `next_request`
and hands over what arrives, all within `attempt`, which keeps the failure.
"""

import random
import ssl
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx

from hyperdraw.answers import RequestLimits
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
"""Called with the number of bytes that have arrived, and the total if it is known."""

Parameters = Mapping[str, str | int | float | bool | None]
"""Query parameters. Those that are None are left out."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_CONNECT_TIMEOUT = 10.0
_LONGEST_TIMEOUT = 86400.0
"""Most seconds that the service accepts as X-Request-Timeout, and that an attempt may be silent."""
CHECK_SERVICE = "Check the address, and whether the service has the client's version."


class Sink(Protocol):
    """Where an answer goes."""

    def start(self, size: int | None) -> None:
        """Begins, or begins again, with an answer of `size` bytes, if that is known."""

    def write(self, content: bytes) -> None:
        """Takes the next bytes."""

    def finish(self) -> None:
        """Checks the complete answer."""


class TimeLimit:
    """Seconds that a call may take, counted from now."""

    def __init__(self, seconds: float) -> None:
        if not seconds >= 0:  # nor is NaN
            raise ValueError(f"the timeout is {seconds}; it must be a number of seconds, or infinite")
        self.seconds = seconds
        self.restart()

    def restart(self) -> None:
        """Counts from now on."""
        self._end = time.monotonic() + self.seconds

    @property
    def left(self) -> float:
        """Seconds that are left; negative afterwards."""
        return self._end - time.monotonic()


@dataclass(frozen=True)
class RequestSpec:
    """What to ask the service."""

    method: str
    path: str
    parameters: Parameters = field(default_factory=dict)
    content: bytes | None = None
    content_type: str = ""
    repeatable: bool = True
    """Whether the request may be sent again when it is unknown if it arrived."""
    expected: tuple[str, ...] = ()
    """Headers that the answer must have."""


@dataclass
class Connection:
    """What a client knows about its service."""

    route: Route
    timeout: float
    """Seconds that a call may take unless it says otherwise."""
    retries: int
    default_model: str | None = None
    """Name of the default model, once it is known and while it is served."""
    limits: RequestLimits | None = None
    """What a request may hold, once it is known."""

    def __post_init__(self) -> None:
        TimeLimit(self.timeout)


class Transfer:
    """A request, its attempts, and its answer.

    An answer with an entity tag is resumed where it broke off. Any other answer begins again.
    """

    def __init__(
        self,
        request: RequestSpec,
        sink: Sink,
        client: Connection,
        limit: TimeLimit,
        progress: Progress | None = None,
        *,
        restarting: bool = False,
        live: bool = False,
        retries: int | None = None,
    ) -> None:
        """Prepares the first attempt.

        Args:
            request: what to ask.
            sink: where the answer goes.
            client: the client that asks.
            limit: time that all attempts may take.
            progress: told about the bytes that arrive.
            restarting: whether the limit restarts whenever something arrives.
            live: whether the answer is used while it arrives. No attempt then follows one whose answer has begun, and
                once it has, the limit is for the time without anything new.
            retries: attempts after the first; by default those of the client.
        """
        self.headers = httpx.Headers()
        """Headers of the answer."""
        self.pause = 0.0
        """Seconds to wait before the next attempt."""
        self._failure: httpx.TransportError | HyperdrawError | OSError | None = None
        self._request = request
        self._sink = sink
        self._route = client.route
        self._limit = limit
        self._retries = client.retries if retries is None else retries
        self._progress = progress
        self._restarting = restarting
        self._live = live
        self._failures = 0
        self._received = self._furthest = 0
        self._size: int | None = None
        self._refusal: bytearray | None = None
        self._redirection: str | None = None
        self._status = 0
        self._gateway_failed = False

    def attempts(self) -> Generator["Transfer", None, None]:
        """Yields the transfer for each attempt.

        Raises:
            HyperdrawError: if the last attempt failed.
            OSError: if the answer cannot be written.
        """
        while True:
            self._failure = None
            yield self
            if self._failure is None:
                return
            if isinstance(self._failure, OSError):  # raised here, so that whoever opened the file can name it
                raise self._failure
            self.pause = self._choose_pause(self._failure)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Surrounds one attempt, and keeps its failure for `attempts` to judge."""
        try:
            yield
            self._finish()
        except (httpx.TransportError, HyperdrawError, OSError) as error:
            self._failure = error

    def next_request(self) -> dict[str, Any]:
        """The arguments of `httpx.Client.stream` for the next attempt."""
        seconds = self._limit.seconds if self._live else self._limit.left
        left = min(max(seconds, 0.001), _LONGEST_TIMEOUT)
        headers = {} if self._restarting or self._live else {"X-Request-Timeout": f"{left:.3f}"}
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
        """Takes the status and headers of an answer.

        Raises:
            InvalidAnswer: if it does not answer the request.
        """
        self._status, self._refusal, self._redirection = response.status_code, None, None
        self._gateway_failed = False
        if response.status_code == 206 and self._resumable:
            begin, found = f"bytes {self._received}-", response.headers.get("Content-Range", "")
            if response.headers.get("ETag") != self.headers["ETag"] or not found.startswith(begin):
                message = "The answer is not the requested part of the download."
                raise InvalidAnswer(message, "A proxy in between may cause this.")
        elif response.status_code == 200:
            if missing := [name for name in self._request.expected if name not in response.headers]:
                raise InvalidAnswer(f"The answer lacks the header {missing[0]}.", CHECK_SERVICE)
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
        if self._limit.left < 0 and not self._live:  # whoever uses a live answer may take time over it
            raise self._give_up()
        if self._refusal is not None:
            self._refusal += content
            return
        self._sink.write(content)
        self._received += len(content)
        if self._restarting:
            self._limit.restart()
        if self._progress:
            self._progress(self._received, self._size)

    def _finish(self) -> None:
        """Checks that the answer is complete.

        Raises:
            HyperdrawError: if it is a refusal, or does not come from a hyperdraw service.
            httpx.TransportError: if a part is missing.
        """
        if self._redirection is not None:
            raise self._explain_redirection(self._redirection)
        if self._refusal is not None:
            raise self._explain_refusal(bytes(self._refusal))
        if self._size not in (None, self._received):
            raise httpx.RemoteProtocolError(f"the answer ended after {self._received} of {self._size} bytes")
        self._sink.finish()

    def _choose_pause(self, failure: httpx.TransportError | HyperdrawError) -> float:
        """Seconds until the next attempt. Raises what callers are to see if there is none."""
        if self._received > self._furthest:  # a download that makes progress ends, however often it breaks
            self._furthest, self._failures = self._received, 0
        self._failures += 1
        longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._failures - 1, 10))
        pause = random.uniform(0.5, 1) * longest  # noqa: S311 — not a secret; many clients must not come at once
        if isinstance(failure, ServiceError):
            pause += failure.retry_after or 0
        in_time = pause < min(self._limit.left, _LONGEST_TIMEOUT)
        if self._may_repeat(failure) and self._failures <= self._retries and in_time:
            return pause
        if isinstance(failure, HyperdrawError):
            raise failure
        if isinstance(failure, httpx.TimeoutException) and (self._in_use or not in_time):
            raise self._give_up() from failure
        raise self._explain_failure(failure) from failure

    @property
    def _resumable(self) -> bool:
        return self._received > 0 and "ETag" in self.headers

    @property
    def _in_use(self) -> bool:
        """Whether a part of the answer may already have been used."""
        return self._live and self._status == 200

    def _may_repeat(self, failure: httpx.TransportError | HyperdrawError) -> bool:
        if self._in_use:
            return False
        if isinstance(failure, HyperdrawError):
            return isinstance(failure, Overloaded) or (self._gateway_failed and self._request.repeatable)
        if isinstance(failure, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
            return False
        if _find_tls_error(failure) is not None:
            return False
        return self._request.repeatable or isinstance(failure, httpx.ConnectError | httpx.ConnectTimeout)

    def _give_up(self) -> DeadlineExceeded:
        silence = "sent nothing for" if self._in_use else "did not answer within"
        message = f"{self._peer} {silence} {self._limit.seconds:g} s."
        return DeadlineExceeded(message, "Ask for less, try later, or allow a longer timeout.")

    @property
    def _peer(self) -> str:
        """The service, and the proxy on the way to it."""
        way = f" through the {self._route.proxy}" if self._route.proxy else ""
        return f"{self._route.address}{way}"

    def _explain_failure(self, failure: httpx.TransportError) -> ConnectionFailed:
        """What callers see of a connection that failed or broke."""
        reason = str(failure) or type(failure).__name__
        if self._in_use:
            hint = "Ask again. With the same seed, the answer begins in the same way."
            return ConnectionFailed(f"The answer of {self._peer} broke off: {reason}.", hint)
        proxy = self._route.proxy
        tls = _find_tls_error(failure)
        if isinstance(tls, ssl.SSLCertVerificationError):
            return ConnectionFailed(f"{self._peer} is not trusted: {reason}.", explain_certificate())
        if tls is not None:
            hint = "The address may have to begin with http:// rather than https://."
            return ConnectionFailed(f"{self._peer} does not speak TLS as expected: {reason}.", hint)
        if proxy and isinstance(failure, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
            says = "refuses" if isinstance(failure, httpx.ProxyError) else "does not answer"
            hint = f"Correct or unset {proxy.variable}, or set NO_PROXY={self._route.url.host} to bypass it."
            return ConnectionFailed(f"The {proxy} {says}: {reason}.", hint)
        hint = "Check that a hyperdraw service runs there. `hyperdraw-serve` starts one."
        return ConnectionFailed(f"{self._peer} does not answer: {reason}.", hint)

    def _explain_refusal(self, content: bytes) -> HyperdrawError:
        """What callers see of an answer other than success."""
        detail = read_detail(content)
        self._gateway_failed = detail is None and self._status in (502, 504)
        if detail is None:  # from a proxy, say
            phrase = httpx.codes.get_reason_phrase(self._status)
            message = f"{self._peer} answered {self._status} {phrase}".rstrip() + "."
            hint = "The answer has no explanation, so it may not come from a hyperdraw service."
            detail = ErrorDetail(phrase.lower().replace(" ", "_"), message, hint)
        return make_error(self._status, self._refusal_headers, detail)

    def _explain_redirection(self, target: str) -> InvalidAnswer:
        base, found, _ = target.partition(self._request.path)
        hint = f"If that is the service, give {base} as its address." if found else "Check the address."
        return InvalidAnswer(f"{self._peer} redirects to {target}.", hint)


def _find_tls_error(failure: httpx.TransportError) -> ssl.SSLError | None:
    """The failure of TLS behind a failure to connect, if it would be the same next time."""
    cause: BaseException | None = failure if isinstance(failure, httpx.ConnectError) else None
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    return None if isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError) else cause
