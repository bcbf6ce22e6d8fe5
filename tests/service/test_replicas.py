"""Several services that clients see as one: below a path, on Unix sockets, behind nginx."""

import asyncio
import gc
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urljoin

import httpx
import hyperdraw
import numpy as np
import pytest

from service.__main__ import check_socket
from service.app import create_app
from service.catalog import ConfigurationError
from service.operation.access import create_key
from service.settings import Settings, read_settings
from tests.conftest import serve
from tests.nginx import serve_nginx
from tests.pictures import draw_image, encode
from tests.waiting import wait_until

BELOW = "/ml/hyperdraw"
PICTURE = encode(draw_image(size=(8, 8)))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder whose path is short, as those of sockets must be."""
    with TemporaryDirectory(prefix="hd") as path:
        yield Path(path)


@pytest.fixture(scope="module")
def sockets(folder: Path, checkpoints: Path) -> Iterator[list[Path]]:
    """The sockets of two replicas."""
    with ExitStack() as stack:
        paths = [folder / "one", folder / "two"]
        for path in paths:
            settings = Settings(checkpoints=checkpoints, socket=path, root_path=BELOW, decoders=1)
            assert stack.enter_context(serve(create_app(settings))) == f"unix:{path}"
        yield paths


@pytest.fixture(scope="module")
def address(folder: Path, sockets: list[Path]) -> Iterator[str]:
    """The address of both, behind nginx."""
    (folder / "nginx").mkdir()
    with serve_nginx(folder / "nginx", sockets, BELOW) as address:
        yield address


def find_links(page: str) -> list[str]:
    return re.findall(r"""(?:href|src|url)(?:=|: )["']([^"'#]+)["']""", page)


@pytest.mark.needs("nginx")
@pytest.mark.parametrize("page", ["", "docs"])
def test_pages_find_what_they_need_below_a_path(address: str, page: str) -> None:
    url = f"{address}/{page}"
    links = find_links(httpx.get(url).raise_for_status().text)
    assert len(links) > 2
    for link in links:
        found = urljoin(url, link)
        assert found.startswith(f"{address}/")
        assert httpx.get(found).status_code == 200, link


@pytest.mark.needs("nginx")
def test_scripts_use_no_absolute_paths(address: str) -> None:
    for link in find_links(httpx.get(f"{address}/").text):
        if link.endswith(".js"):
            assert not re.search(r"""["'`]/[a-z]""", httpx.get(f"{address}/{link}").text), link


@pytest.mark.needs("nginx")
def test_the_description_names_the_path(address: str) -> None:
    described = httpx.get(f"{address}/openapi.json").json()
    assert described["servers"] == [{"url": BELOW}]
    assert "/v1/models" in described["paths"]


@pytest.mark.needs("nginx")
def test_a_seed_names_the_same_networks_on_all_replicas(address: str, sockets: list[Path]) -> None:
    found = []
    for place in (address, *(f"unix:{path}" for path in sockets)):
        with hyperdraw.Client(place) as client:
            answer, sample = client.predict(PICTURE, seed=7, ensemble_size=5), client.sample(seed=7, count=3)
            assert isinstance(answer, hyperdraw.Classification)
            found.append([answer.probabilities, *sample.weights.values()])
    for other in found[1:]:
        np.testing.assert_allclose(found[0][0], other[0], rtol=1e-4, atol=1e-6)
        for array, same in zip(found[0][1:], other[1:], strict=True):
            np.testing.assert_array_equal(array, same)


@pytest.mark.needs("nginx")
def test_a_fresh_download_can_be_had_again(address: str) -> None:
    first = httpx.get(f"{address}/v1/models/digits/weights")
    again = httpx.get(urljoin(address, first.headers["Content-Location"])).raise_for_status()
    assert again.content == first.content


@pytest.mark.needs("nginx")
@pytest.mark.parametrize(("path", "status"), [("/v2/models/none", 404), ("/v1/completions", 400), ("/v1/none", 404)])
def test_errors_keep_the_shape_of_their_path(address: str, client: httpx.Client, path: str, status: int) -> None:
    method = "POST" if "completions" in path else "GET"
    there, here = httpx.request(method, address + path, content=b"{}"), client.request(method, path, content=b"{}")
    assert there.status_code == here.status_code == status
    assert list(there.json()) == list(here.json())


@pytest.mark.needs("nginx")
def test_routes_and_clients_are_known_behind_a_proxy(address: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "service.operation.middleware"):
        for path in ("/v1/models", "/static/icon.svg"):
            httpx.get(address + path, headers={"X-Forwarded-For": "192.0.2.1", "X-Request-ID": "mine"})
        wait_until(lambda: len(caplog.records) == 2)
    records = [vars(record) for record in caplog.records]
    assert [(record["route"], record["path"]) for record in records] == [
        ("/v1/models", f"{BELOW}/v1/models"),
        ("/static", f"{BELOW}/static/icon.svg"),
    ]
    assert {record["client"] for record in records} == {"127.0.0.1"}


@pytest.mark.needs("nginx")
def test_no_request_is_lost_when_a_replica_ends(folder: Path, checkpoints: Path, address: str) -> None:
    (folder / "other").mkdir()
    settings = Settings(checkpoints=checkpoints, socket=folder / "three", root_path=BELOW, decoders=1)
    with ExitStack() as stack:
        lasting = serve_nginx(folder / "other", [folder / "one", folder / "three"], BELOW)
        third = stack.enter_context(ExitStack())
        third.enter_context(serve(create_app(settings)))
        place = stack.enter_context(lasting)
        client = stack.enter_context(httpx.Client(base_url=place))

        def predict() -> int:
            return client.post("/v1/models/digits/predict?ensemble_size=2", files={"images": PICTURE}).status_code

        answers = [predict() for _ in range(5)]
        third.close()
        answers += [predict() for _ in range(10)]
    assert set(answers) == {200}


@pytest.mark.needs("nginx")
def test_who_is_refused_takes_nothing_from_others(folder: Path, checkpoints: Path) -> None:
    """A replica that answers 429 is not out of order, and the other one is not asked for the same."""
    made = {name: create_key(name, ["predict"]) for name in ("alice", "bob")}
    (folder / "keys.toml").write_text(f'{made["alice"][1]}requests = "1/hour"\n\n{made["bob"][1]}')
    (folder / "keyed").mkdir()
    sockets = [folder / "four", folder / "five"]
    with ExitStack() as stack:
        for path in sockets:
            settings = Settings(
                checkpoints=checkpoints, socket=path, root_path=BELOW, decoders=1, keys=folder / "keys.toml"
            )
            stack.enter_context(serve(create_app(settings)))
        place = stack.enter_context(serve_nginx(folder / "keyed", sockets, BELOW))
        alice, bob = (
            stack.enter_context(httpx.Client(base_url=place, headers={"Authorization": f"Bearer {key}"}))
            for key, _ in made.values()
        )

        def predict(client: httpx.Client) -> int:
            return client.post("/v1/models/digits/predict?ensemble_size=2", files={"images": PICTURE}).status_code

        asked = [(predict(alice), predict(bob)) for _ in range(10)]
    assert {status for _, status in asked} == {200}
    statuses = [status for status, _ in asked]
    assert sorted(set(statuses)) == [200, 429]
    assert statuses.count(200) <= 2  # one at each, as they share no store


def test_a_client_may_call_a_socket(sockets: list[Path]) -> None:
    async def list_models() -> list[str]:
        async with hyperdraw.AsyncClient(f"unix:{sockets[0]}") as client:
            return [model.name for model in (await client.models()).models]

    assert asyncio.run(list_models()) == ["digits"]


def test_errors_name_the_socket(folder: Path) -> None:
    client = hyperdraw.Client(f"unix:{folder}/none", retries=0)
    with client, pytest.raises(hyperdraw.ConnectionFailed, match=f"unix:{folder}/none"):
        client.models()
    with warnings.catch_warnings(action="ignore"):
        gc.collect()  # the socket, which httpcore leaves open
    with pytest.raises(ValueError, match="followed by the path"):
        hyperdraw.Client("unix:")


def test_a_socket_that_cannot_be_used_is_told_before_models_are_loaded(folder: Path, sockets: list[Path]) -> None:
    (folder / "file").touch()
    for path in (sockets[0], folder / "file"):
        with pytest.raises(ConfigurationError, match="is in use"):
            check_socket(path)
    for path in (folder / "none" / "socket", folder / ("long" * 50)):
        with pytest.raises(ConfigurationError, match="cannot listen on"):
            check_socket(path)
    check_socket(folder / "free")


@pytest.mark.parametrize("path", ["ml", "/ml//x", "/ml/../x", "/", "/a b", "https://example.org/ml"])
def test_what_is_no_path(path: str) -> None:
    with pytest.raises(ValueError, match="a path must be like /ml/hyperdraw"):
        read_settings({"root_path": path})
    assert read_settings({"root_path": "/ml/"}).root_path == "/ml"


def test_a_socket_needs_no_keys_unless_it_is_published(folder: Path) -> None:
    Settings(socket=folder / "s", host="0.0.0.0").check_exposure()
    with pytest.raises(ConfigurationError, match="other machines can reach"):
        Settings(socket=folder / "s", published_host="192.0.2.1").check_exposure()
