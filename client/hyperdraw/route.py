"""The way to a service: its address, and the proxies and certificates of the environment.

httpx can read the same variables. They are read here so that an error can name the variable that is to blame, and only
if they matter: a proxy that is not used may be wrong.
"""

import os
import re
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, TypeVar
from urllib.request import getproxies, proxy_bypass

import httpx

_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""Variables. The first one that is set counts."""


Transport = TypeVar("Transport", httpx.HTTPTransport, httpx.AsyncHTTPTransport)


@dataclass(frozen=True)
class Proxy:
    """A proxy between the client and its service."""

    url: httpx.URL
    variable: str
    """Variable that names the proxy."""

    def __str__(self) -> str:
        return f"proxy {hide_credentials(self.url)} (set in {self.variable})"


@dataclass(frozen=True)
class Route:
    """How to reach a service."""

    url: httpx.URL
    """Address of the service. It may contain a user and a password."""
    proxy: Proxy | None
    headers: dict[str, str] = field(repr=False)
    """Headers of each request, among them a key."""
    socket: str | None = None
    """Path of the Unix socket on which the service listens, if it does."""

    @property
    def address(self) -> str:
        """Address of the service, for messages."""
        return f"unix:{self.socket}" if self.socket else hide_credentials(self.url)

    def make_options(self) -> dict[str, Any]:
        """The arguments of `httpx.Client`, besides its transport.

        Raises:
            ValueError: if the certificates that the environment names cannot be loaded.
        """
        proxy, schemes = None, [self.url.scheme]
        if self.proxy:
            proxy = httpx.Proxy(self.proxy.url)
            schemes.append(self.proxy.url.scheme)
        certificates = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody, and is not used
        if "https" in schemes:
            certificates = _load_certificates()
        if proxy and proxy.url.scheme == "https":
            proxy.ssl_context = certificates
        return {
            "base_url": self.url,
            "headers": self.headers,
            "proxy": proxy,
            "verify": certificates,
            "trust_env": False,
        }

    def open_socket(self, transport: type[Transport]) -> Transport | None:
        """A transport of a class of httpx to the service's Unix socket, if it listens on one."""
        return transport(uds=self.socket) if self.socket else None


def find_route(base_url: str, api_key: str | None) -> Route:
    """Finds the way to a service, with the proxy that the environment names for it.

    Args:
        base_url: its address, or `unix:` and the path of the Unix socket on which it listens.
        api_key: the key, if any.

    Raises:
        ValueError: if the address, the key or the proxy cannot be right.
    """
    socket = base_url.removeprefix("unix:") if base_url.startswith("unix:") else None
    if socket == "":
        raise ValueError("unix: must be followed by the path of a socket")
    url = _read_url("http://localhost" if socket else base_url, ("http", "https"))
    if not socket and ("?" in base_url or "#" in base_url):
        raise ValueError(f"{hide_credentials(url)} is not the address of a service: it may have a path, but no query")
    headers = {
        "Accept-Encoding": "identity",  # so that bytes are counted as they are sent
        "User-Agent": f"hyperdraw/{version('hyperdraw')}",
    }
    if api_key is not None:
        if not api_key.isascii() or not api_key.isprintable() or " " in api_key or not api_key:
            raise ValueError(
                "the API key must be printable ASCII without spaces; it may end with a line break by mistake"
            )
        if url.userinfo:
            raise ValueError("give either an API key or a user in the address, not both")
        headers["Authorization"] = f"Bearer {api_key}"
    return Route(url, None if socket else _find_proxy(url), headers, socket)


def explain_certificate() -> str:
    """What to do if a service's certificate is not trusted."""
    for variable in _CERTIFICATES:
        if value := os.environ.get(variable):
            return f"{variable}={value} says which certificates are trusted. Correct or unset it."
    return "If this is the right service, set SSL_CERT_FILE to its authority's certificate, in PEM."


def hide_credentials(url: httpx.URL) -> str:
    """The address without user, password and final slash."""
    return str(url.copy_with(userinfo=b"")).removesuffix("/")


def _read_url(text: str, schemes: tuple[str, ...]) -> httpx.URL:
    """Reads a URL that one can connect to."""
    shown = re.sub(r"(?<=//)[^/]*@", "", text)  # without a password
    try:
        url = httpx.URL(text)
        url.raw_host.decode().encode("idna")  # as the resolver will
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError(f"{shown} is not a URL: {error}") from error
    if url.scheme not in schemes or not url.host:
        expected = " or ".join(f"{scheme}://" for scheme in schemes)
        raise ValueError(f"{shown} is not a URL that begins with {expected}")
    if url.port is not None and not 0 < url.port < 65536:
        raise ValueError(f"{shown} is not a URL: a port lies between 1 and 65535")
    return url


def _find_proxy(url: httpx.URL) -> Proxy | None:
    found = getproxies()
    kind = next((kind for kind in (url.scheme, "all") if found.get(kind)), None)
    if kind is None or _is_exempt(url, found.get("no", "")):
        return None
    text = found[kind]
    names = [name for name, value in os.environ.items() if name.lower() == f"{kind}_proxy" and value == text]
    variable = names[0] if names else "the system settings"
    advice = f"correct or unset it, or set NO_PROXY={url.host} to bypass it"
    try:
        proxy = _read_url(text if "://" in text else f"http://{text}", ("http", "https", "socks5", "socks5h"))
    except ValueError as error:
        raise ValueError(f"{variable} does not name a proxy: {error}; {advice}") from error
    if proxy.scheme.startswith("socks") and find_spec("socksio") is None:
        message = f"{variable} names a SOCKS proxy, which needs the package socksio"
        raise ValueError(f"{message}: pip install 'httpx[socks]', or {advice}")
    return Proxy(proxy, variable)


def _is_exempt(url: httpx.URL, exempt: str) -> bool:
    """Whether NO_PROXY exempts a URL: by name or subdomain, address or network, or *."""
    host = f"[{url.host}]" if ":" in url.host else url.host
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    if proxy_bypass(f"{host}:{port}") or proxy_bypass(url.host):
        return True
    with suppress(ValueError):
        address = ip_address(url.host)
        for entry in exempt.split(","):
            with suppress(ValueError):
                if address in ip_network(entry.strip(), strict=False):
                    return True
    return False


def _load_certificates() -> ssl.SSLContext:
    variable = next((name for name in _CERTIFICATES if os.environ.get(name)), None)
    try:
        if variable == "SSL_CERT_DIR":
            next(Path(os.environ[variable]).iterdir(), None)
        return httpx.create_ssl_context()
    except OSError as error:  # ssl.SSLError is one
        if error.filename and error.filename == os.environ.get("SSLKEYLOGFILE"):
            variable = "SSLKEYLOGFILE"
        if variable is None:
            raise
        reason = error.strerror or str(error)
        raise ValueError(f"{variable}={os.environ[variable]} cannot be used: {reason}; correct or unset it") from error
