"""The gate refuses requests before any route: those that can be read in two ways, and those from other sites' pages.

A browser sends whatever a page tells it to, even to this machine. A service without keys therefore answers only to its
own names, because another site may let its name resolve to this machine (DNS rebinding). It accepts requests only from
its own pages, and from origins that CORS allows.
"""

import ipaddress
import re
import socket
from collections import Counter
from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import ErrorDetail, respond
from service.settings import Settings

MOST_PARAMETERS = 100
"""Most parameters in a query."""

SINGLE = (
    "Authorization",
    "Content-Encoding",
    "Content-Type",
    "If-Range",
    "Inference-Header-Content-Length",
    "Origin",
    "Range",
    "Sec-Fetch-Site",
    "X-Request-ID",
    "X-Request-Timeout",
)
"""Headers that may appear only once. A second one would have to be ignored, or would change the request."""

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?", re.IGNORECASE)


class Gate:
    """Lets unambiguous and allowed requests pass."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        own = {"localhost", socket.gethostname(), settings.host, settings.published_host or ""}
        self._names = {name.lower() for name in own} | set(settings.hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._find_refusal(scope, Headers(scope=scope)) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            status, detail = refusal
            await respond(scope, status, detail)(scope, receive, send)

    def _find_refusal(self, scope: Scope, headers: Headers) -> tuple[int, ErrorDetail] | None:
        hosts = headers.getlist("host")
        host = _HOST.fullmatch(hosts[0].strip()) if len(hosts) == 1 else None
        if host is None and (hosts or scope["http_version"] != "1.0"):
            message = "The Host header is not a host name."
            if len(hosts) != 1:
                message = f"The request has {len(hosts)} Host headers."
            return _refuse(400, "invalid_host", message, "Send one Host header, such as example.org:8000.")
        if doubled := [name for name in SINGLE if len(headers.getlist(name)) > 1]:
            return _refuse(400, "repeated_header", f"The header {doubled[0]} is given more than once.", "Give it once.")
        if refusal := _check_query(scope["query_string"]):
            return refusal
        if self._settings.keys is not None:
            return None
        if host is not None and not self._is_own(host["name"].lower()):
            hint = "Call it by this machine's name or address, or start it with --hosts to allow others."
            return _refuse(403, "unknown_host", f"This service does not answer to {host['name'][:100]!r}.", hint)
        if self._is_of_another_site(scope, headers, hosts):
            hint = "Start the service with --cors-origins to allow that page's origin, or with --keys."
            return _refuse(403, "cross_site", "A page of another site made this request.", hint)
        return None

    def _is_own(self, name: str) -> bool:
        """Whether a host name is one of this machine's. An IP address is, because no other page has one as its name."""
        if name in self._names or name.endswith(".localhost") or "*" in self._names:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    def _is_of_another_site(self, scope: Scope, headers: Headers, hosts: list[str]) -> bool:
        """Whether a page of another origin made the request, as far as browsers tell. Links may be on any page."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is not None and ("*" in self._settings.cors_origins or origin.lower() in self._settings.cors_origins):
            return False
        if site is not None:
            followed = headers.get("sec-fetch-mode") == "navigate" and scope["method"] in ("GET", "HEAD")
            return site not in ("same-origin", "none") and not followed
        return origin is not None and [origin.lower().partition("://")[2]] != [host.lower() for host in hosts]


def _check_query(query: bytes) -> tuple[int, ErrorDetail] | None:
    hint = "Give each parameter once."
    try:
        text = query.decode("latin-1")
        names = [name for name, _ in parse_qsl(text, keep_blank_values=True, max_num_fields=MOST_PARAMETERS)]
    except ValueError:
        return _refuse(400, "invalid_query", f"The query has more than {MOST_PARAMETERS} parameters.", hint)
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        message = f"The parameter {repeated[0][:100]!r} is given more than once."
        return _refuse(400, "repeated_parameter", message, hint)
    return None


def _refuse(status: int, code: str, message: str, hint: str) -> tuple[int, ErrorDetail]:
    return status, ErrorDetail(code=code, message=message, hint=hint)
