"""Proxies and certificates on the way from the client to the service."""

import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import certifi
import httpx
import hyperdraw
import pytest
from hyperdraw.route import find_route

from tests.client.gateway import MODELS, Ask, Environment, Gateway, respond, stand_before

CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgkB4brY1dKbRLCUQ7
gIhBTNzzLKUWnmUQic5QVl1TXp2hRANCAARImx3oPDw6j/dytrlRDYs7XExYweVu
7qfvDkeePP6EYAL0Ce736Ga0y4fFwLdBRPw9vX5y917/y97Brqll2qdN
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBmzCCAUCgAwIBAgIUbHMFG7I5+mp54ZKWq7W/7b7Kj7kwCgYIKoZIzj0EAwIw
GTEXMBUGA1UEAwwOaHlwZXJkcmF3IHRlc3QwIBcNMjYxMTI4MTc1MjE0WhgPMjEy
NjExMDQxNzUyMTRaMBkxFzAVBgNVBAMMDmh5cGVyZHJhdyB0ZXN0MFkwEwYHKoZI
zj0CAQYIKoZIzj0DAQcDQgAESJsd6Dw8Oo/3cra5UQ2LO1xMWMHlbu6n7w5Hnjz+
hGAC9Anu9+hmtMuHxcC3QUT8Pb1+cvde/8vewa6pZdqnTaNkMGIwHQYDVR0OBBYE
FCieZbvO7mLNVVrCF345LhtEsWyjMB8GA1UdIwQYMBaAFCieZbvO7mLNVVrCF345
LhtEsWyjMA8GA1UdEwEB/wQFMAMBAf8wDwYDVR0RBAgwBocEfwAAATAKBggqhkjO
PQQDAgNJADBGAiEAu05RBFndAcHVjjE8kq72C53USThdJfseqzWJQmCE4cwCIQCY
mVGj71XJLg31O7BZiqLJR57afCVia/vt/3LhaiWKDw==
-----END CERTIFICATE-----
"""
"""Of 127.0.0.1, signed by itself, and its key, which is good for nothing else."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    path.write_text(CERTIFICATE)
    return path


@pytest.fixture(scope="module")
def nowhere() -> str:
    """An address where nobody listens."""
    with Gateway(httpx.Client()) as gateway:
        gateway.service.close()
        return gateway.address


@contextmanager
def speak_tls(client: httpx.Client, certificate: Path) -> Iterator[str]:
    """A gateway that speaks TLS; its address."""
    with stand_before(client) as gateway:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        gateway.socket = context.wrap_socket(gateway.socket, server_side=True, do_handshake_on_connect=False)
        yield gateway.address.replace("http://", "https://")


class TestProxy:
    """The variables `…_PROXY`; the service, or its name, is never blamed for them."""

    def test_it_is_asked(self, ask: Ask, client: httpx.Client, environment: Environment) -> None:
        with stand_before(client, *[respond(200, body=MODELS)] * 2) as proxy:
            for variables in ({"HTTP_PROXY": proxy.address}, {"ALL_PROXY": proxy.address.removeprefix("http://")}):
                environment(**variables)
                assert ask("http://service.test", "models").default == "digits"
        assert [head.split(" ")[1] for head in proxy.requests] == ["http://service.test/v1/models"] * 2

    @pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
    def test_one_that_is_dead(self, ask: Ask, environment: Environment, nowhere: str, variable: str) -> None:
        environment(**{variable: nowhere.replace("http://", "http://user:secret@")})
        with pytest.raises(hyperdraw.ConnectionFailed) as caught:
            ask("http://service.test", "models", options={"retries": 1})
        assert caught.value.message.startswith(f"The proxy {nowhere} (set in {variable}) does not answer: ")
        assert caught.value.hint == f"Correct or unset {variable}, or set NO_PROXY=service.test to bypass it."
        assert "secret" not in str(caught.value)
        assert ask("http://service.test", "ready") is False

    def test_one_that_is_silent(self, ask: Ask, client: httpx.Client, environment: Environment) -> None:
        with stand_before(client, None) as proxy:
            environment(HTTP_PROXY=proxy.address)
            with pytest.raises(hyperdraw.DeadlineExceeded, match="HTTP_PROXY"):
                ask("http://service.test", "models", timeout=0.2)

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_one_that_refuses(self, ask: Ask, client: httpx.Client, environment: Environment, scheme: str) -> None:
        with stand_before(client, *[respond(407)] * 2) as proxy:
            environment(ALL_PROXY=proxy.address)
            with pytest.raises(hyperdraw.HyperdrawError, match=rf"proxy {proxy.address} \(set in ALL_PROXY\).*407"):
                ask(f"{scheme}://service.test", "models", options={"retries": 0})

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            ("socks5://127.0.0.1:1080", "SOCKS.*pip install 'httpx.socks.'"),
            ("socks5h://127.0.0.1:1080", "SOCKS.*pip install 'httpx.socks.'"),
            ("socks4://127.0.0.1:1080", "socks5h://"),
            ("ftp://proxy", "begins with http://"),
            ("http://", "not a URL"),
            ("http://user:secret@proxy:port", "not a URL"),
            ("proxy:99999", "between 1 and 65535"),
        ],
    )
    @pytest.mark.parametrize("kind", [hyperdraw.Client, hyperdraw.AsyncClient])
    def test_what_is_none(
        self, monkeypatch: pytest.MonkeyPatch, environment: Environment, kind: type, value: str, reason: str
    ) -> None:
        monkeypatch.setitem(sys.modules, "socksio", None)
        environment(ALL_PROXY=value)
        with pytest.raises(ValueError, match=f"ALL_PROXY .*{reason}.*NO_PROXY=service.test") as caught:
            kind("http://service.test")
        assert "secret" not in str(caught.value)
        environment(NO_PROXY="service.test")
        assert find_route("http://service.test", None).proxy is None
        environment(NO_PROXY="", HTTP_PROXY="http://proxy:3128")
        assert find_route("http://service.test", None).proxy is not None, "ALL_PROXY is not used then"

    @pytest.mark.parametrize(
        ("exempt", "address", "direct"),
        [
            ("[::1]", "http://[::1]:8000", True),
            ("::1", "http://[::1]:8000", True),
            ("[::1]", "http://[::2]:8000", False),
            ("[::1], localhost", "http://localhost:8000", True),
            ("127.0.0.0/8", "http://127.0.0.1:8000", True),
            ("10.0.0.0/8,fd00::/8", "http://[fd00::1]", True),
            ("10.0.0.0/8,fd00::/8", "http://11.0.0.1", False),
            ("example.org", "https://example.org", True),
            (".example.org", "https://a.example.org:8443", True),
            ("example.org", "https://notexample.org", False),
            ("example.org:8443", "https://example.org:8443", True),
            ("example.org:443", "https://example.org", True),
            ("example.org:8443", "https://example.org", False),
            ("*", "http://anything", True),
            ("[::1", "http://anything", False),
            ("", "http://anything", False),
        ],
    )
    def test_some_are_reached_without(self, environment: Environment, exempt: str, address: str, direct: bool) -> None:
        environment(ALL_PROXY="http://proxy:3128", NO_PROXY=exempt)
        with hyperdraw.Client(address):
            assert (find_route(address, None).proxy is None) == direct


class TestCertificates:
    """The variables `SSL_CERT_…`."""

    def test_those_of_the_environment_are_trusted(
        self, ask: Ask, client: httpx.Client, environment: Environment, certificate: Path
    ) -> None:
        with speak_tls(client, certificate) as address:
            environment(SSL_CERT_FILE=str(certificate))
            assert ask(address, "models").default == "digits"

    @pytest.mark.parametrize("variable", ["", "SSL_CERT_FILE", "SSL_CERT_DIR"])
    def test_another_is_not(
        self,
        ask: Ask,
        client: httpx.Client,
        environment: Environment,
        certificate: Path,
        tmp_path: Path,
        variable: str,
    ) -> None:
        if variable:
            environment(**{variable: str(tmp_path) if variable == "SSL_CERT_DIR" else certifi.where()})
        with (
            speak_tls(client, certificate) as address,
            pytest.raises(hyperdraw.ConnectionFailed, match=f"{address} is not trusted") as caught,
        ):
            ask(address, "models")
        assert (variable or "set SSL_CERT_FILE") in caught.value.hint

    @pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"])
    @pytest.mark.parametrize("kind", [hyperdraw.Client, hyperdraw.AsyncClient])
    def test_there_are_none(self, environment: Environment, kind: type, variable: str) -> None:
        environment(**{variable: "/nowhere/certificates"})
        with pytest.raises(ValueError, match=f"{variable}=/nowhere/certificates cannot be used: No such file"):
            kind("https://127.0.0.1:9")
        kind("http://127.0.0.1:9")  # for which they do not matter

    def test_a_file_of_none(self, environment: Environment, tmp_path: Path) -> None:
        (tmp_path / "empty").write_bytes(b"")
        environment(SSL_CERT_FILE=str(tmp_path / "empty"))
        with pytest.raises(ValueError, match=r"SSL_CERT_FILE=.*empty cannot be used"):
            hyperdraw.Client("https://127.0.0.1:9")

    def test_a_service_without(self, ask: Ask, client: httpx.Client) -> None:
        with pytest.raises(hyperdraw.ConnectionFailed, match=r"does not speak TLS.*http:// rather than"):
            ask(str(client.base_url).replace("http://", "https://"), "models")


class TestCommandLine:
    """`hyperdraw` names the variable, without a traceback."""

    @pytest.mark.parametrize(
        ("arguments", "variables", "code"),
        [
            (["--url", "http://service.test"], {"ALL_PROXY": "socks4://127.0.0.1:9"}, 2),
            (["--url", "http://service.test"], {"HTTP_PROXY": "http://127.0.0.1:9"}, 1),
            (["--url", "https://service.test"], {"SSL_CERT_FILE": "/nowhere"}, 2),
            (["--url", "https://service.test"], {"SSL_CERT_DIR": "/nowhere"}, 2),
            (["--timeout", "nan"], {"--timeout": ""}, 2),
        ],
    )
    def test_mistakes(self, arguments: list[str], variables: dict[str, Any], code: int) -> None:
        command = [sys.executable, "-m", "hyperdraw", "models", *arguments]
        ended = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
        assert ended.returncode == code
        assert next(iter(variables)) in ended.stderr
        assert "Traceback" not in ended.stderr
