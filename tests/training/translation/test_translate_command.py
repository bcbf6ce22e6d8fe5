"""The commands `translate` and `translate-text`."""

import json
import os
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import training.translation.session
from tests.training.translation.networks import write_pairs
from training.__main__ import app
from training.translation.run import TranslationRun

pytest.importorskip("sacrebleu")
pytest.importorskip("tokenizers")
SMALL = ["--level", "characters", "--hidden", "8", "--hyper", "4", "--symbol", "4", "--batch", "600"]


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "numbers.tsv")


def test_a_translator_is_trained_measured_and_used(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = invoke("translate", pairs, "--out", out, *SMALL, "--updates", "10", "--json")
    assert result.exit_code == 0, result.output
    files = {path.name for path in out.iterdir() if path.is_file()}
    assert files == {"README.md", "config.json", "metrics.json", "model.safetensors", "translations.tsv"}
    assert not list((out / "training").iterdir())
    metrics = json.loads((out / "metrics.json").read_text())
    assert json.loads(result.stdout) == metrics
    assert metrics["pairs"]["test"] == 100 == len((out / "translations.tsv").read_text().splitlines())
    assert 0 <= metrics["chrf"]["value"] <= 100
    assert "nrefs:1" in metrics["bleu"]["signature"]
    assert [validation["update"] for validation in metrics["validations"]] == list(range(1, 11))
    assert metrics["validation_nats"] == min(validation["nats"] for validation in metrics["validations"])
    config = json.loads((out / "config.json").read_text())
    assert config["translator"]["source"]["characters"] == "0123456789"
    card = (out / "README.md").read_text()
    assert config["training"]["command"] in card
    assert len([line for line in card.split("## Translations")[1].splitlines() if line.startswith("| ")]) == 12

    repeated = tmp_path / "repeated"
    command = config["training"]["command"].split()[2:]
    command = [{"numbers.tsv": str(pairs), "DIR": str(repeated)}.get(word, word) for word in command]
    assert invoke("translate", *command).exit_code == 0
    assert (repeated / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()

    source, _, translation = (out / "translations.tsv").read_text().splitlines()[0].split("\t")
    result = invoke("translate-text", out, source, "77")
    assert result.stdout.splitlines()[0].split() == translation.split()
    assert len(result.stdout.splitlines()) == 2


def test_an_interrupted_training_is_resumed(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = [*SMALL, "--level", "bytepairs", "--merges", "20"]
    assert invoke("translate", pairs, "--out", whole, *options, "--updates", "6", "--seed", "3").exit_code == 0
    step = TranslationRun.step

    def interrupt(run: TranslationRun) -> float:
        if run.updates == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step(run)

    with monkeypatch.context() as patch:
        patch.setattr(TranslationRun, "step", interrupt)
        result = invoke("translate", pairs, "--out", parts, *options, "--updates", "6", "--seed", "3", "--json")
    assert (result.exit_code, result.stdout) == (0, "null\n")
    assert "interrupted after 4 of 6 updates" in (parts / "README.md").read_text()
    assert invoke("translate-text", parts, "12").exit_code == 0
    assert "--resume" in invoke("translate", pairs, "--out", parts, *options).stderr
    assert invoke("translate", pairs, "--out", parts, *options, "--resume").exit_code == 0  # keeps updates and seed
    for name in ("model.safetensors", "config.json", "translations.tsv"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes(), name


def test_minutes_choose_the_updates(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.translation.session, "TIMED_UPDATES", 2)
    assert invoke("translate", pairs, "--out", tmp_path / "out", *SMALL, "--minutes", "0.01").exit_code == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert 0.1 < metrics["seconds"] < 6  # about 0.6, on a machine that does other things


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--updates", "5", "--minutes", "1"], "use --updates or --minutes, not both"),
        (["--minutes", "1", "--resume"], "keeps its planned steps"),
        (["--resume"], "there is nothing to resume"),
        (["--cell", "gru"], "'gru' is not one of"),
        (["--beam", "0"], "should be greater than or equal to 1"),
        (["--longest", "1"], "has 9 pairs with sources of at most 1 characters, which are too few"),
    ],
)
def test_wrong_options_are_explained(pairs: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    result = invoke("translate", pairs, "--out", tmp_path / "out", *arguments)
    assert result.exit_code != 0
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert not (tmp_path / "out" / "config.json").exists()


def test_a_missing_package_is_named(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.translation.vocabulary.find_spec", lambda _: None)
    result = invoke("translate", pairs, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "sacrebleu is needed: pip install 'hyperdraw-server[translation]'" in result.stderr


def test_directories_that_are_no_translators_are_refused(tmp_path: Path) -> None:
    result = invoke("translate-text", tmp_path, "text")
    assert result.exit_code == 1
    assert "config.json: No such file" in result.stderr
    (tmp_path / "config.json").write_text("{}")
    assert "translator: Field required" in invoke("translate-text", tmp_path, "text").stderr
