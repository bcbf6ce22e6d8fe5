"""The commands of the client, within the process."""

import json
import re
from pathlib import Path
from typing import Any, ClassVar

import httpx
import hyperdraw
import numpy as np
import pytest
from hyperdraw.__main__ import app as command_line
from typer.testing import CliRunner

from tests.client.gateway import PICTURE
from tests.pictures import EXAMPLES


class TestCommandLine:
    """`hyperdraw`."""

    PICTURE: ClassVar[str] = str(EXAMPLES / "seven.png")

    def run(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """What it prints."""
        result = CliRunner().invoke(command_line, arguments, env={"HYPERDRAW_URL": None, **environment})
        assert result.exit_code == code, result.output
        assert code or not result.stderr
        return result.stderr if code else result.stdout

    def test_predict_draws_uncertainty(self, address: str) -> None:
        arguments = ["--url", address, "--seed", "7", "--ensemble-size", "20", "--coverage", "0.8"]
        text = self.run("predict", self.PICTURE, str(EXAMPLES / "house.png"), *arguments)
        first, second, legend = text.split("\n\n")
        with hyperdraw.Client(address) as client:
            answer = client.predict([self.PICTURE, EXAMPLES / "house.png"], seed=7, ensemble_size=20, members=True)
        assert isinstance(answer, hyperdraw.Classification)
        for shown, part in zip((first, second), answer, strict=True):
            assert part.members is not None
            lines = shown.splitlines()
            assert lines[0].endswith(f"→  {part.labels}")
            rows = lines[2:12]
            votes = np.bincount(part.members.argmax(-1), minlength=10)
            low, high = np.quantile(part.members, (0.05, 0.95), axis=0)
            for k, row in enumerate(rows):
                *_, share, band, count = row.split()
                assert row.startswith(str(k))
                assert (share, int(count)) == (f"{part.probabilities[k]:.1%}", votes[k])
                assert band == f"{low[k]:.1%}–{high[k]:.1%}"
                filled = sum(row.count(character) for character in "█▓")
                assert filled == round(float(part.probabilities[k]) * 32)
            assert f"{part.uncertainty.mutual_information:.3g} epistemic" in shown
            assert "prediction set (coverage 0.8): " in shown
            flag = part.flags["out_of_distribution"]
            assert ("not out of distribution" in shown) != flag.flagged
            assert f"{flag.scores:.3g} {'>' if flag.flagged else '≤'} {flag.threshold:.3g}" in shown
        assert "20 networks of digits, seed 7" in legend
        assert "quantile, before the temperature" in legend
        assert "\x1b" not in text  # is no terminal
        assert max(map(len, text.splitlines())) <= 80

    def test_one_network_shows_no_disagreement(self, address: str) -> None:
        text = self.run("predict", self.PICTURE, "--url", address, "--seed", "7", "--ensemble-size", "1")
        shown, legend = text.split("\n\n")
        assert shown.splitlines()[1].split() == ["probability"]
        assert "░" not in shown.partition("uncertainty")[0]
        assert "1 network of digits, seed 7" in legend
        assert "cannot disagree with others" in legend

    def test_json_is_for_machines(self, address: str) -> None:
        house = str(EXAMPLES / "house.png")
        arguments = ["predict", self.PICTURE, house, "--json", "--seed", "7", "--coverage", "0.8"]
        shown = json.loads(self.run(*arguments, HYPERDRAW_URL=address))
        with hyperdraw.Client(address) as client:
            answer = client.predict([self.PICTURE, house], seed=7, coverage=0.8)
        assert isinstance(answer, hyperdraw.Classification)
        assert answer.prediction_sets is not None
        assert (shown["inputs"], shown["seed"]) == ([self.PICTURE, house], 7)
        assert (shown["labels"], shown["class_indices"]) == (answer.labels.tolist(), answer.class_indices.tolist())
        np.testing.assert_allclose(shown["probabilities"], answer.probabilities, rtol=1e-4, atol=1e-6)
        assert shown["prediction_sets"] == answer.prediction_sets.tolist()
        flag = shown["flags"]["out_of_distribution"]
        assert flag["flagged"] == answer.flags["out_of_distribution"].flagged.tolist()

    def test_sample_writes_a_file(self, address: str, client: httpx.Client, tmp_path: Path) -> None:
        out = str(tmp_path / "net.safetensors")
        result = CliRunner().invoke(
            command_line,
            [
                "sample",
                "--url",
                address,
                "--out",
                out,
                "--seed",
                "7",
                "--member",
                "2",
                "--count",
                "3",
                "--dtype",
                "float16",
            ],
        )
        parameters: dict[str, Any] = {"seed": 7, "member": 2, "count": 3, "dtype": "float16"}
        assert Path(out).read_bytes() == client.get("/v1/models/digits/weights", params=parameters).content
        assert f"Wrote {out}: members 2 to 4 of seed 7, digits at version" in result.stdout

    @pytest.mark.parametrize("width", ["80", "20"])
    def test_names_of_models_are_never_cut(self, address: str, width: str) -> None:
        assert re.search(r"^digits +", self.run("models", "--url", address, COLUMNS=width), re.M)

    def test_models_are_listed(self, address: str) -> None:
        assert re.search(r"digits +hypergan +fresh draws +1 × 8 × 8 +10 classes", self.run("models", "--url", address))

    def test_reload_says_whether_it_changed(self, address: str) -> None:
        assert "digits is still at version" in self.run("reload", "digits", "--url", address)

    def test_numbers_are_listed_and_models_of_them_refuse_pictures(self, line_address: str) -> None:
        assert re.search(r"line +deep_ensemble +3 +a, b +y", self.run("models", "--url", line_address))
        assert "takes rows of numbers" in self.run("predict", self.PICTURE, "--url", line_address, code=1)

    def test_numbers_are_predicted_from_numbers(self, line_address: str) -> None:
        with hyperdraw.Client(line_address) as client:
            answer = client.predict([[0.5, -1.0], [-2.0, 3.0]], seed=7)
        assert isinstance(answer, hyperdraw.Regression)
        arguments = ["predict", "--numbers", "0.5,-1", "--numbers", "-2,3", "--seed", "7", "--url", line_address]
        first, second, legend = self.run(*arguments).split("\n\n")
        for shown, name, part in zip((first, second), ("0.5,-1", "-2,3"), answer, strict=True):
            lines = shown.splitlines()
            assert lines[:2] == [name, f"y = {part.mean[0]:.4g} ± {part.standard_deviation[0]:.4g}"]
            assert f"{part.noise_variance[0]:.3g} aleatoric" in lines[2]
            assert f"{part.epistemic_variance[0]:.3g} epistemic" in lines[2]
        assert "3 networks of line, seed 7" in legend
        shown = json.loads(self.run(*arguments, "--json"))
        np.testing.assert_allclose(shown["standard_deviation"], answer.standard_deviation, rtol=1e-4)

    def test_the_terminal_is_not_steered_by_names(
        self, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)  # a long path is broken over lines
        path = Path("\x1b[31m[bold]x.png")
        path.write_bytes(PICTURE)
        assert "�[31m[bold]x.png" in self.run("predict", str(path), "--url", address)

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (["predict", "nowhere.png"], 1, "No such file or directory: 'nowhere.png'"),
            (["predict", PICTURE, "--ensemble-size", "5000"], 1, "ensemble_size is 5000. It may be at most 1000."),
            (["predict", PICTURE, "--model", "other"], 1, "no model 'other'"),
            (["predict", PICTURE, "--url", "http://127.0.0.1:9"], 1, "http://127.0.0.1:9 does not answer"),
            (["sample", "--out", "nowhere/net"], 1, "No such file or directory"),
            (["sample", "--out", "net", "--edition", "0"], 2, "No such option"),
            (["sample", "--out", "net", "--version", "0"], 1, "Version '0' is not served"),
            (["predict", PICTURE, "--url", "ftp://host"], 2, "ftp://host is not a URL"),
            (["predict", PICTURE, "--seed", "-1"], 2, "--seed"),
            (["predict"], 2, "either files or --numbers"),
            (["predict", PICTURE, "--numbers", "1,2"], 2, "either files or --numbers"),
            (["predict", "--numbers", "1,x"], 2, "not a row of numbers"),
            (["predict", "--numbers", "nan"], 2, "finite numbers"),
            (["predict", "--numbers", "1", "--numbers", "1,2"], 2, "must all be pictures"),
            (["predict", "--numbers", "1,2"], 1, "images: Field required"),
            (["predict", PICTURE, "--api-key", "secret "], 2, "API key must be"),
            (["paint"], 2, "No such command"),
        ],
    )
    def test_mistakes_are_explained(self, address: str, arguments: list[str], code: int, message: str) -> None:
        text = self.run(*arguments, code=code, HYPERDRAW_URL=address)
        assert message in text
        assert "Traceback" not in text
        if code == 1:
            assert text.startswith("Error: ")
            assert text.count("\n") == 1
        if "does not answer" in message:
            assert "hyperdraw-serve" in text
