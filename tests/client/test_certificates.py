"""The client's certificates."""

import json
from pathlib import Path

import anyio
import httpx
import hyperdraw
import pytest
from hyperdraw.__main__ import app as command_line
from hyperdraw.certificates import TOGETHER
from typer.testing import CliRunner

from models.inputs.pixels import encode_image
from service.api.certificates import MOST_CERTIFIED
from training.data.datasets import load_digits

DIGITS = [encode_image(image) for image in load_digits(Path()).test.inputs[: TOGETHER + 2]]


def test_certificates_are_the_services(address: str) -> None:
    """More pictures than a request takes go in several, with one seed."""
    assert TOGETHER == MOST_CERTIFIED
    with hyperdraw.Client(address) as client:
        answer = client.certify(DIGITS, sigma=0.1, samples=100, seed=7)
    files = [("images", (f"{i}.png", picture)) for i, picture in enumerate(DIGITS[TOGETHER:])]
    told = httpx.post(
        f"{address}/v1/models/digits/certify", files=files, params={"sigma": 0.1, "samples": 100, "seed": 7}
    ).json()
    assert len(answer.certificates) == TOGETHER + 2
    assert [vars(own) for own in answer.certificates[TOGETHER:]] == told["certificates"]
    assert (answer.model.name, answer.seed, answer.ensemble_size, answer.networks) == ("digits", 7, 1, None)
    assert (answer.sigma, answer.alpha) == (0.1, 0.001)

    async def ask() -> hyperdraw.Certification:
        async with hyperdraw.AsyncClient(address) as client:
            return await client.certify(DIGITS[0], sigma=0.1, samples=100, seed=7)

    assert anyio.run(ask).certificates == answer.certificates[:1]


def test_rows_and_wrong_parameters_are_refused(address: str) -> None:
    with hyperdraw.Client(address) as client:
        with pytest.raises(ValueError, match="only pictures can be certified"):
            client.certify([[1.0, 2.0]])
        with pytest.raises(hyperdraw.InvalidRequest, match="samples: Input should be greater than or equal to 100"):
            client.certify(DIGITS[0], samples=1)


def test_the_command_shows_certificates(address: str, tmp_path: Path) -> None:
    for i, picture in enumerate(DIGITS[:3]):
        (tmp_path / f"{i}.png").write_bytes(picture)
    (tmp_path / "noise.png").write_bytes(encode_image(load_digits(Path()).test.inputs[0] * 0 + 128))
    asked = ["certify", str(tmp_path), "--url", address, "--sigma", "0.1", "--samples", "100", "--seed", "7"]
    shown = CliRunner().invoke(command_line, asked)
    assert shown.exit_code == 0, shown.output
    said = json.loads(CliRunner().invoke(command_line, [*asked, "--json"]).output)
    lines = shown.output.splitlines()
    assert len(said["inputs"]) == 4
    for name, own in zip(said["inputs"], said["certificates"], strict=True):
        (line,) = [line for line in lines if line.startswith(name)]
        assert (own["label"] or "undecided") in line
        assert f"{own['radius']:.3f}" in line
        assert f"{own['votes']} of {own['samples']}" in line
    assert "digits, seed 7: certificates for fresh networks, one for each noisy copy, σ = 0.1" in shown.output
