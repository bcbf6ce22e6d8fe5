"""The way from the client to the service: addresses, proxies, certificates, gateways, event loops."""

import asyncio
import base64
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import certifi
import httpx
import hyperdraw
import pytest
import trio
from hyperdraw.route import find_route

from tests.client.test_client import MODELS, PICTURE, Ask, Gateway, ask, refuse, respond, stand_before

__all__ = ["ask"]  # a fixture

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
HTML = b"<html>Bad Gateway"
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")

Environment = Callable[..., None]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperdraw.exchange._FIRST_PAUSE", 0.01)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Environment:
    """Sets variables; none is set before."""
    for name in list(os.environ):
        if name.upper() in VARIABLES:
            monkeypatch.delenv(name)

    def set_variables(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_variables


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


class TestAddress:
    """What may be an address, and what becomes of it."""

    @pytest.mark.parametrize(
        "address",
        [
            "http://host:0",
            "http://host:99999",
            "http://host:http",
            "http://a..b",
            f"http://{'a' * 64}",
            "http://[::1",
            "http://host\n",
            "http://host?",
            "http://host/path?model=digits",
            "http://host#models",
        ],
    )
    @pytest.mark.parametrize("kind", [hyperdraw.Client, hyperdraw.AsyncClient])
    def test_what_is_none(self, kind: type, address: str) -> None:
        with pytest.raises(ValueError, match=r"is no (URL|address of a service)"):
            kind(address)

    @pytest.mark.parametrize("end", ["", "/"])
    def test_a_path_goes_before_all_others(self, ask: Ask, client: httpx.Client, end: str) -> None:
        with stand_before(client, respond(200, body=MODELS)) as gateway:
            assert ask(f"{gateway.address}/tools/hyperdraw{end}", "models").default == "digits"
        assert gateway.requests[0].startswith("GET /tools/hyperdraw/v1/models HTTP/1.1")

    def test_a_user_is_sent_and_not_shown(self, ask: Ask, client: httpx.Client) -> None:
        with stand_before(client, respond(401)) as gateway:
            address = gateway.address.replace("http://", "http://user:secret@")
            with pytest.raises(hyperdraw.Unauthorized) as caught:
                ask(address, "models")
        assert gateway.header("Authorization") == [f"Basic {base64.b64encode(b'user:secret').decode()}"]
        assert gateway.address in str(caught.value)
        assert "secret" not in str(caught.value)
        with pytest.raises(hyperdraw.ConnectionFailed) as failed:
            ask(address, "models", options={"retries": 0})
        assert "secret" not in str(failed.value)
        with pytest.raises(ValueError, match="either an API key or a user"):
            ask(address, "models", options={"api_key": "key"})
        with pytest.raises(ValueError, match="port") as refused:
            ask("http://user:secret@host:0", "models")
        assert "secret" not in str(refused.value)

    def test_keys_and_passwords_are_not_shown_to_those_who_print_a_client(self) -> None:
        with hyperdraw.Client("http://user:secret@host") as one, hyperdraw.Client("http://h", api_key="secret") as two:
            assert "secret" not in f"{one!r} {two!r}"


class TestTimeout:
    """Seconds, or none at all."""

    @pytest.mark.parametrize("timeout", [float("nan"), -1, float("-inf")])
    def test_what_is_none(self, ask: Ask, timeout: float) -> None:
        with pytest.raises(ValueError, match=f"timeout is {timeout}; it must be"):
            ask("http://127.0.0.1:9", "models", timeout=timeout)
        with pytest.raises(ValueError, match=f"timeout is {timeout}; it must be"):
            ask("http://127.0.0.1:9", "models", options={"timeout": timeout})

    @pytest.mark.parametrize("timeout", [float("inf"), 1e300, 1e9])
    def test_there_may_be_no_limit(self, ask: Ask, client: httpx.Client, timeout: float, tmp_path: Path) -> None:
        with stand_before(client, refuse(503), 10) as gateway:
            assert len(ask(gateway.address, "predict", PICTURE, model="digits", timeout=timeout)) == 1
            assert ask(gateway.address, "ready", options={"timeout": timeout})
            ask(gateway.address, "download", tmp_path / "net", options={"timeout": timeout})
        assert gateway.header("X-Request-Timeout")[:3] == ["86400.000"] * 3

    def test_nobody_waits_for_a_service_that_comes_back_next_year(self, ask: Ask, client: httpx.Client) -> None:
        answer = refuse(429, "overloaded", f"Retry-After: {10**12}")
        with stand_before(client, answer) as gateway, pytest.raises(hyperdraw.Overloaded):
            ask(gateway.address, "models", timeout=float("inf"))


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
        assert caught.value.message.startswith(f"The proxy {nowhere}, which {variable} names, does not answer: ")
        assert caught.value.hint == f"Correct or unset {variable}, or set NO_PROXY=service.test to do without."
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
            with pytest.raises(hyperdraw.HyperdrawError, match=f"proxy {proxy.address}, which ALL_PROXY names.*407"):
                ask(f"{scheme}://service.test", "models", options={"retries": 0})

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            ("socks5://127.0.0.1:1080", "SOCKS.*pip install 'httpx.socks.'"),
            ("socks5h://127.0.0.1:1080", "SOCKS.*pip install 'httpx.socks.'"),
            ("socks4://127.0.0.1:1080", "socks5h://"),
            ("ftp://proxy", "begins with http://"),
            ("http://", "no URL"),
            ("http://user:secret@proxy:port", "no URL"),
            ("proxy:99999", "between 1 and 65535"),
        ],
    )
    @pytest.mark.parametrize("kind", [hyperdraw.Client, hyperdraw.AsyncClient])
    def test_what_is_none(
        self, monkeypatch: pytest.MonkeyPatch, environment: Environment, kind: type, value: str, reason: str
    ) -> None:
        monkeypatch.setitem(sys.modules, "socksio", None)
        environment(ALL_PROXY=value)
        with pytest.raises(ValueError, match=f"ALL_PROXY names .*{reason}.*NO_PROXY=service.test") as caught:
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


class TestGateway:
    """What stands before the service."""

    @pytest.mark.parametrize("status", [502, 504])
    def test_it_is_asked_again_where_that_is_safe(self, ask: Ask, client: httpx.Client, status: int) -> None:
        with stand_before(client, *[respond(status, body=HTML)] * 2) as gateway:
            assert len(ask(gateway.address, "predict", PICTURE, model="digits")) == 1
        assert len(gateway.requests) == 3
        with (
            stand_before(client, respond(status, body=HTML)) as gateway,
            pytest.raises(hyperdraw.HyperdrawError, match=f"{gateway.address} answered {status}"),
        ):
            ask(gateway.address, "reload", "digits")
        assert len(gateway.requests) == 1

    @pytest.mark.parametrize(("status", "kind"), [(502, hyperdraw.ServiceError), (504, hyperdraw.DeadlineExceeded)])
    def test_not_for_ever(
        self, ask: Ask, client: httpx.Client, status: int, kind: type[hyperdraw.HyperdrawError]
    ) -> None:
        with stand_before(client, *[respond(status, body=HTML)] * 9) as gateway, pytest.raises(kind) as caught:
            ask(gateway.address, "models", options={"retries": 2})
        assert len(gateway.requests) == 3
        assert type(caught.value) is kind

    def test_what_comes_after_a_failure_of_its_is_no_failure_of_its(self, ask: Ask, client: httpx.Client) -> None:
        script = respond(502, body=HTML), respond(200, body=b"<html>")
        with stand_before(client, *script) as gateway, pytest.raises(hyperdraw.InvalidAnswer):
            ask(gateway.address, "sample", "digits")
        assert len(gateway.requests) == 2

    @pytest.mark.parametrize(
        "answer",
        [
            *(respond(status, body=HTML) for status in (404, 500, 502, 503, 504)),
            respond(200, body=HTML),
            respond(200, body=b'{"status": "live"}'),
            respond(200, body=b'["ready"]'),
            respond(200),
            respond(302, "Location: https://elsewhere.test/login"),
            refuse(503, "device_fault"),
            refuse(503, "draining"),
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"",
        ],
    )
    def test_whatever_answers_is_ready_or_not(self, ask: Ask, client: httpx.Client, answer: bytes) -> None:
        with stand_before(client, answer) as gateway:
            assert ask(gateway.address, "ready") is False
            assert ask(gateway.address, "ready") is True
        assert len(gateway.requests) == 2

    def test_waiting_for_a_key_does_not_help(self, ask: Ask, client: httpx.Client) -> None:
        with stand_before(client, refuse(401)) as gateway, pytest.raises(hyperdraw.Unauthorized):
            ask(gateway.address, "ready")

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_a_redirection_is_named(self, ask: Ask, client: httpx.Client, status: int) -> None:
        answer = respond(status, "Location: https://user:secret@service.test/api/v1/models/digits")
        with stand_before(client, answer) as gateway, pytest.raises(hyperdraw.InvalidAnswer) as caught:
            ask(gateway.address, "model", "digits")
        target = "https://service.test/api/v1/models/digits"
        assert caught.value.message == f"{gateway.address} redirects to {target}."
        assert caught.value.hint == "If that is the service, give https://service.test/api as its address."
        assert len(gateway.requests) == 1

    @pytest.mark.parametrize(
        ("location", "target"),
        [("/login?next=%2F", "{address}/login?next=%2F"), ("//elsewhere", "http://elsewhere")],
    )
    def test_a_redirection_elsewhere(self, ask: Ask, client: httpx.Client, location: str, target: str) -> None:
        with (
            stand_before(client, respond(302, f"Location: {location}")) as gateway,
            pytest.raises(hyperdraw.InvalidAnswer) as caught,
        ):
            ask(gateway.address, "models")
        assert caught.value.message == f"{gateway.address} redirects to {target.format(address=gateway.address)}."


class TestEventLoops:
    """One `AsyncClient` in several."""

    def test_one_after_the_other(self, client: httpx.Client) -> None:
        asking = hyperdraw.AsyncClient(str(client.base_url))

        async def ask_twice() -> list[str]:
            answers = await asyncio.gather(asking.models(), asking.models())
            return [answer.default for answer in answers]

        async def ask_and_close() -> list[str]:
            async with asking:
                return await ask_twice()

        for _ in range(2):
            assert asyncio.run(ask_twice()) == ["digits", "digits"]  # a connection that stays open would be a warning
        assert asyncio.run(ask_and_close()) == ["digits", "digits"]
        assert asyncio.run(ask_twice()) == ["digits", "digits"]

        async def ask_once() -> str:
            return (await asking.models()).default

        assert trio.run(ask_once) == "digits"

    def test_one_beside_the_other(self, client: httpx.Client) -> None:
        asking, found = hyperdraw.AsyncClient(str(client.base_url)), []

        async def ask_often() -> None:
            found.extend([(await asking.models()).default for _ in range(10)])

        threads = [threading.Thread(target=lambda: asyncio.run(ask_often())) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == ["digits"] * 30

    def test_what_is_closed_stays_so(self, client: httpx.Client) -> None:
        async def ask() -> None:
            async with hyperdraw.AsyncClient(str(client.base_url)) as asking:
                await asking.models()
            with pytest.raises(RuntimeError, match="closed"):
                await asking.models()

        asyncio.run(ask())


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
