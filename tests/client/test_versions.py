"""What the client and its commands do with two versions of a model."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import hyperdraw
import pytest
from hyperdraw.__main__ import app as command_line
from typer.testing import CliRunner

from models.checkpoint import load_checkpoint
from service.app import create_app
from service.settings import Settings
from tests.checkpoints import copy_with_another
from tests.conftest import serve
from tests.pictures import draw_image, encode
from tests.waiting import wait_until

PICTURE = encode(draw_image(size=(8, 8)))


@pytest.fixture(scope="module")
def folder(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_with_another(checkpoints / "digits", tmp_path_factory.mktemp("versions") / "digits")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[str]:
    with serve(create_app(Settings(checkpoints=folder.parent, decoders=1))) as address:
        yield address


@pytest.fixture
def client(folder: Path, served: str) -> Iterator[hyperdraw.Client]:
    (folder / "versions.json").unlink(missing_ok=True)
    with hyperdraw.Client(served) as client:
        client.reload("digits")
        yield client


def run(address: str, *arguments: str, code: int = 0) -> str:
    """What a command prints."""
    result = CliRunner().invoke(command_line, [*arguments, "--url", address], terminal_width=200)
    assert result.exit_code == code, result.output
    return result.output


def test_a_client_directs_promotes_and_rolls_back(client: hyperdraw.Client, folder: Path) -> None:
    one, two = (load_checkpoint(path).version for path in (folder, folder / "two"))
    alone = client.traffic()
    assert (alone.name, alone.share, alone.shadow, alone.comparison) == ("digits", 0.0, False, None)
    assert alone.versions == {"stable": hyperdraw.Version(".", one)}
    named = client.change_traffic("digits", candidate="two", shadow=True)
    assert named.versions == {"stable": hyperdraw.Version(".", one), "candidate": hyperdraw.Version("two", two)}
    (model,) = client.models().models
    assert (model.version, model.versions) == (one, {"stable": one, "candidate": two})

    for version, answers in (("stable", one), ("candidate", two), (two, two), (None, one)):
        assert client.model(version=version).version == answers
        assert client.predict(PICTURE, version=version, ensemble_size=20).model.version == answers
        many = client.predict([PICTURE] * 300, version=version, ensemble_size=20)  # in several requests
        assert (many.model.version, len(many)) == (answers, 300)
        assert client.certify(PICTURE, version=version, samples=100).model.version == answers
        assert client.sample(version=version, seed=7).version == answers
        assert client.monitor(version=version).model.version == answers
    with pytest.raises(hyperdraw.NotFound, match="Version 'previous' is not served"):
        client.predict(PICTURE, version="previous")

    wait_until(lambda: (client.traffic("digits").comparison or named.comparison) is not None)
    assert client.change_traffic("digits", share=0.25, shadow=False).share == 0.25
    assert client.promote("digits").versions["stable"].version == two
    with pytest.raises(hyperdraw.ServiceError, match="no candidate"):
        client.promote("digits")
    assert client.roll_back("digits").versions["stable"].version == one
    assert "candidate" not in client.change_traffic("digits", candidate="").versions


def test_a_promotion_between_two_requests_ends_a_call_for_one_version(client: hyperdraw.Client) -> None:
    client.change_traffic("digits", candidate="two")

    def promote(index: int, _: object) -> None:
        if index == 0:
            client.promote("digits")

    with pytest.raises(hyperdraw.NotFound, match="served at another version"):
        client.predict_each([PICTURE] * 3, promote, together=1, parallel=1)


def test_an_asynchronous_client_does_the_same(client: hyperdraw.Client, served: str) -> None:
    async def promote() -> list[set[str]]:
        async with hyperdraw.AsyncClient(served) as client:
            steps = [await client.change_traffic("digits", candidate="two"), await client.promote("digits")]
            steps += [await client.roll_back("digits"), await client.traffic("digits")]
            return [set(step.versions) for step in steps]

    both = {"stable", "candidate"}
    assert asyncio.run(promote()) == [both, {"stable", "previous"}, both, both]
    assert client.traffic().share == 0


def test_a_command_tells_that_the_candidate_is_not_loaded(client: hyperdraw.Client, served: str, folder: Path) -> None:
    (folder / "versions.json").write_text(json.dumps({"candidate": "none", "share": 0.2, "shadow": True}))
    with pytest.raises(hyperdraw.ServiceError, match=r"none/config\.json"):
        client.reload("digits")
    text = " ".join(run(served, "traffic", "digits").split())
    assert "The stable version answers all clients, because the candidate is not loaded: none/config.json: No" in text
    assert "20.0%" not in text
    run(served, "traffic", "digits", "--no-candidate")
    assert "--candidate FOLDER" in run(served, "promote", "digits", code=1)


def test_commands_direct_promote_and_roll_back(
    client: hyperdraw.Client, served: str, folder: Path, tmp_path: Path
) -> None:
    one, two = (load_checkpoint(path).version for path in (folder, folder / "two"))
    assert "candidate" not in run(served, "traffic")
    text = run(served, "traffic", "digits", "--candidate", "two", "--share", "0.25", "--shadow")
    assert two[:12] in text
    assert "answers 25.0% of the clients. It shadows" in text
    listed = run(served, "models")
    assert one[:12] in listed
    assert two[:12] in listed
    (tmp_path / "seven.png").write_bytes(PICTURE)
    picture, table = str(tmp_path / "seven.png"), tmp_path / "answers.csv"
    said = json.loads(run(served, "predict", picture, "--version", "candidate", "--json"))
    assert said["model"]["version"] == two
    assert f"digits at version {two}" in run(served, "predict", picture, "--version", "candidate", "--out", str(table))
    assert two in table.read_text()
    client.predict(PICTURE, seed=7)
    wait_until(lambda: client.traffic().comparison is not None and client.traffic().comparison.inputs > 0)  # type: ignore[union-attr]
    assert f"{two[:12]} beside {one[:12]}" in run(served, "traffic", "digits")
    assert "previous" in run(served, "promote", "digits")
    assert json.loads(run(served, "rollback", "digits", "--json"))["versions"]["stable"]["version"] == one
    assert "no previous version" in run(served, "rollback", "digits", code=1)
    assert "candidate" not in run(served, "traffic", "digits", "--no-candidate")
    for wrong in (["traffic", "--share", "0.5"], ["traffic", "digits", "--candidate", "two", "--no-candidate"]):
        assert "Error" in run(served, *wrong, code=2)
