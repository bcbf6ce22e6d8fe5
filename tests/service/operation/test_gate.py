"""Requests that can be read in two ways, or that another site's page makes."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from models.checkpoint import load_checkpoint
from service.app import create_app
from service.operation.gate import MOST_PARAMETERS
from service.settings import Settings
from tests.conftest import serve
from tests.connections import exchange, read_error
from tests.keys import write_keys

EVIL = "https://evil.example"


@pytest.fixture(scope="module")
def allowing(checkpoints: Path) -> Iterator[httpx.Client]:
    """A service that answers to a further name, and to one origin's pages."""
    settings = Settings(checkpoints=checkpoints, hosts=["hyperdraw.example"], cors_origins=["https://friend.example"])
    with serve(create_app(settings)) as address, httpx.Client(base_url=address) as client:
        yield client


@pytest.fixture(scope="module")
def guarded(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    key = write_keys(path, alice=["admin"])["alice"]
    headers = {"Authorization": f"Bearer {key}"}
    with (
        serve(create_app(Settings(checkpoints=checkpoints, keys=path))) as address,
        httpx.Client(base_url=address, headers=headers) as client,
    ):
        yield client


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"] if response.is_error else ""


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "a.localhost", "127.0.0.1:8000", "[::1]:8000", "192.0.2.7"]
)
def test_own_names_and_addresses_are_answered_to(client: httpx.Client, host: str) -> None:
    assert client.get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.nip.io"])
def test_other_names_are_not(client: httpx.Client, allowing: httpx.Client, guarded: httpx.Client, host: str) -> None:
    """A page whose name was resolved to this machine reads nothing and changes nothing; with keys it has none."""
    for service in (client, allowing):
        for path in ("/v1/models", "/healthz", "/", "/static/app.js", "/metrics"):
            assert code(service.get(path, headers={"Host": host})) == (403, "unknown_host")
        assert code(service.post("/v1/models/digits:reload", headers={"Host": host})) == (403, "unknown_host")
    assert guarded.get("/v1/models", headers={"Host": host}).status_code == 200
    refusal = client.get("/v2", headers={"Host": host})
    assert "does not answer to" in refusal.json()["error"]


def test_further_names_may_be_allowed(allowing: httpx.Client, checkpoints: Path) -> None:
    assert allowing.get("/v1/models", headers={"Host": "Hyperdraw.example:80"}).status_code == 200
    with serve(create_app(Settings(checkpoints=checkpoints, hosts=["*"]))) as address:
        assert httpx.get(f"{address}/v1/models", headers={"Host": "evil.example"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": EVIL},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Origin": "https://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"},
        {"Sec-Fetch-Site": "cross-site", "Origin": EVIL, "Sec-Fetch-Mode": "cors"},
        {"Sec-Fetch-Site": "cross-site", "Origin": EVIL, "Sec-Fetch-Mode": "navigate"},  # a form
    ],
)
def test_pages_of_other_sites_may_ask_for_nothing(
    client: httpx.Client, allowing: httpx.Client, guarded: httpx.Client, headers: dict[str, str]
) -> None:
    for service in (client, allowing):
        assert code(service.post("/v1/models/digits:reload", headers=headers)) == (403, "cross_site")
        assert code(service.post("/v1/models/digits/predict", headers=headers)) == (403, "cross_site")
    assert guarded.post("/v1/models/digits:reload", headers=headers).status_code == 200


def test_own_pages_links_and_allowed_origins_may(client: httpx.Client, allowing: httpx.Client) -> None:
    own = str(client.base_url)
    for headers in (
        {"Origin": own},
        {"Sec-Fetch-Site": "same-origin", "Origin": own},
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://proxy.example"},  # a proxy that puts its own Host
        {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"},
    ):
        assert client.post("/v1/models/digits:reload", headers=headers).status_code == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.get("/", headers=link).status_code == 200
    friend = {"Origin": "https://friend.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
    assert allowing.post("/v1/models/digits:reload", headers=friend).status_code == 200
    assert code(client.post("/v1/models/digits:reload", headers=friend)) == (403, "cross_site")
    preflight = {**friend, "Access-Control-Request-Method": "POST"}
    assert allowing.options("/v1/models/digits:reload", headers=preflight).status_code == 200


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["Host: localhost", "Host: localhost"], (400, "invalid_host")),
        ([], (400, "invalid_host")),
        (["Host: "], (400, "invalid_host")),
        (["Host: localhost/path"], (400, "invalid_host")),
        (["Host: a@localhost"], (400, "invalid_host")),
        (["Host: localhost", "Authorization: Bearer a", "Authorization: Bearer b"], (400, "repeated_header")),
        (["Host: localhost", "Range: bytes=0-1", "range: bytes=2-3"], (400, "repeated_header")),
        (["Host: localhost", "X-Request-Timeout: 1", "X-Request-Timeout: 9"], (400, "repeated_header")),
    ],
)
def test_headers_that_say_two_things(client: httpx.Client, lines: list[str], expected: tuple[int, str]) -> None:
    message = "\r\n".join(["GET /v1/models HTTP/1.1", *lines, "Connection: close", "", ""]).encode()
    assert client.base_url.port is not None
    assert read_error(exchange((client.base_url.host, client.base_url.port), message)) == expected


def test_http_1_0_needs_no_host(client: httpx.Client) -> None:
    assert client.base_url.port is not None
    answer = exchange((client.base_url.host, client.base_url.port), b"GET /healthz HTTP/1.0\r\n\r\n")
    assert b" 200 " in answer.splitlines()[0]


def test_parameters_that_are_given_twice(client: httpx.Client) -> None:
    for path in ("/v1/models/digits/weights?seed=1&seed=2", "/v1/models/digits/weights?seed=1&s%65ed=1", "/?a=&a="):
        assert code(client.get(path)) == (400, "repeated_parameter")
    many = "&".join(f"a{number}=1" for number in range(MOST_PARAMETERS + 1))
    assert code(client.get(f"/v1/models/digits/weights?{many}")) == (400, "invalid_query")
    assert client.get("/v1/models/digits/weights?seed=%ed%a0%80").status_code == 422  # once, but no text
    assert "given more than once" in client.get("/v2/models/digits?a=1&a=2").json()["error"]


def test_a_key_comes_before_any_word_about_models(guarded: httpx.Client, checkpoints: Path) -> None:
    """Not even which models and versions there are."""
    version = load_checkpoint(checkpoints / "digits").version
    with httpx.Client(base_url=guarded.base_url) as stranger:
        paths = [path for path in stranger.get("/openapi.json").json()["paths"] if "{model}" in path]
        assert len(paths) > 10
        for template in paths:
            for model in ("digits", "nothing"):
                for method in ("GET", "POST", "HEAD"):
                    path = template.replace("{model}", model).replace("{version}", "0")
                    response = stranger.request(method, path)
                    assert response.status_code in (401, 405), (method, path, response.text)
                    assert version not in response.text
                    assert "available models" not in response.text
