"""The way from the client to the service: addresses, timeouts, gateways, event loops."""

import asyncio
import base64
import threading
from pathlib import Path

import httpx
import hyperdraw
import pytest
import trio

from tests.client.gateway import MODELS, PICTURE, Ask, refuse, respond, stand_before

HTML = b"<html>Bad Gateway"


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
        with pytest.raises(ValueError, match=r"is not (a URL|the address of a service)"):
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
