"""A training on own images with a backbone, from the command to the served answer."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from models.backbones.backbone import FILE
from models.checkpoint import load_checkpoint
from models.model import Model
from tests.backbones import CHANNELS, write_onnx
from tests.training.data.test_own_images import write_folder
from training.__main__ import app
from training.backbones.source import open_backbone
from training.data.features import FEATURES, CachedBackbone
from training.data.image_folders import load_image_folder
from training.recipes.own_images import Method, own_images
from training.runs.run import TrainingRun
from training.runs.sources import FeatureSource

CLASSES = ("bar", "ring")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    write_folder(place / "shapes", mode="RGB")
    write_onnx(place / "net.onnx")
    (place / "net.json").write_text(json.dumps({"output": "features", "source": "a test", "licence": "CC0"}))
    return place


def run(place: Path, out: str, *arguments: str) -> str:
    cache = place.parent / f"{place.name}-cache"
    command = ["images", str(place / "shapes"), "--out", str(place / out), "--features", str(cache), "--json"]
    command += ["--backbone", str(place / "net.onnx"), "--size", "16", *arguments]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    (place / "stdout").write_text(run(place, "model", "--steps", "30"))
    return place / "model"


def test_the_report_has_a_baseline_on_the_same_features(place: Path, trained: Path) -> None:
    report = json.loads((place / "stdout").read_text())
    assert report == json.loads((trained / "report.json").read_text())
    assert report["baseline"]["accuracy"]["images"] == report["accuracy"]["images"] == 12
    assert report["baseline"]["nll"] > 0
    assert report["plain_network"] is None
    assert set(report["false_alarms"]) == {"out_of_distribution"}


def test_the_checkpoint_is_whole(place: Path, trained: Path) -> None:
    checkpoint = load_checkpoint(trained)
    spec = checkpoint.config.backbone
    assert spec is not None
    assert (spec.source, spec.licence, spec.feature_shape) == ("a test", "CC0", (CHANNELS,))
    assert (trained / FILE).read_bytes() == (place / "net.onnx").read_bytes()
    assert checkpoint.config.input.shape == (3, 16, 16)
    assert f"--backbone {place / 'net.onnx'} --size 16" in checkpoint.config.training.command
    assert "a test" in (trained / "README.md").read_text()
    model = Model(checkpoint)
    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    prediction = model.interpret(model.evaluate(model.draw(0, range(3)), model.prepare(images)))
    assert checkpoint.calibration is not None
    assert set(checkpoint.calibration.judge(prediction)) == {"out_of_distribution"}


def test_it_can_be_calibrated_and_evaluated_again(place: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "other-cache"))
    before = load_checkpoint(trained)
    for command in ("calibrate", "evaluate"):
        result = CliRunner().invoke(app, [command, str(trained), "--data", str(place / "shapes"), "--quiet"])
        assert result.exit_code == 0, result.output
    after = load_checkpoint(trained)
    assert after.version == before.version
    assert after.metrics == before.metrics
    assert list((place / "other-cache").rglob(FEATURES))
    attack = CliRunner().invoke(app, ["attack", str(trained), "--data", str(place / "shapes")])
    assert attack.exit_code == 1
    assert "cannot be attacked: its pretrained backbone gives no gradient" in " ".join(attack.output.split())


def test_an_interrupted_training_goes_on_to_the_same_result(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(place, "whole", "--steps", "12", "--flip")
    finished = TrainingRun.finished

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "finished", property(lambda self: self.steps >= 5 or finished.fget(self)))  # type: ignore[attr-defined]
        patch.setattr("training.runs.session.measure_directory", interrupt)
        with pytest.raises(AssertionError, match="Interrupted"):
            run(place, "halted", "--steps", "12", "--flip")
    run(place, "halted", "--steps", "12", "--flip", "--resume")
    ours, theirs = (load_checkpoint(place / name).sampler.state_dict() for name in ("halted", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def interrupt(*_: object) -> None:
    raise RuntimeError("Interrupted")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--size", "300"], "may be at most 128"),
        (["--output", "map"], "names an output of a --backbone"),
        (["--backbone", "{place}/net.onnx", "--grey"], "the backbone decides"),
        (["--backbone", "{place}/absent.onnx"], r"absent\.onnx: No such file"),
        (["--backbone", "{place}/net.json"], "is not an ONNX file"),
    ],
)
def test_what_does_not_go_together_is_refused(place: Path, arguments: list[str], reason: str) -> None:
    given = [argument.format(place=place) for argument in arguments]
    result = CliRunner().invoke(app, ["images", str(place / "shapes"), "--out", str(place / "never"), *given])
    assert result.exit_code in (1, 2)
    assert re.search(reason, " ".join(result.output.replace("│", " ").split()))
    assert not (place / "never").exists()


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("shape", [(CHANNELS,), (CHANNELS, 5, 5)])
def test_every_method_makes_a_head(method: Method, shape: tuple[int, ...]) -> None:
    recipe = own_images("x@1", (3, 12, 12), 3, 100, method, features=shape)
    assert recipe.target.input_shape == shape
    sampler = recipe.method.build(recipe.target).eval()
    assert recipe.target.forward(sampler.sample(0, range(2)), torch.randn(4, *shape)).shape == (2, 4, 3)


def test_training_sees_views_of_an_image_and_validation_the_image(place: Path, tmp_path: Path) -> None:
    spec, backbone = open_backbone(place / "net.onnx", 16)
    folder = load_image_folder(place / "shapes", 16, grey=False).see_through(spec, CachedBackbone(backbone, tmp_path))
    dataset = folder.dataset
    recipe = own_images("x@1", spec.shape, 2, len(dataset.train), features=(CHANNELS,))
    assert recipe.outliers is not None
    recipe = replace(recipe, views=3, outliers=replace(recipe.outliers, count=7))
    source = FeatureSource(recipe, dataset, 0, torch.device("cpu"))
    first = torch.zeros(200, dtype=torch.int64)
    views = source.take(first, 0).unique(dim=0)
    assert len(views) == 4
    plain = dataset.view.prepare(dataset.train.inputs)
    torch.testing.assert_close(source.take_all(), plain)
    assert (views == plain[0]).all(1).any()
    assert torch.equal(source.take(first, 3), source.take(first, 3))
    assert source.take_outliers(torch.arange(7)).unique(dim=0).shape == (7, CHANNELS)
    plainly = FeatureSource(replace(recipe, augmentation=None), dataset, 0, torch.device("cpu"))
    torch.testing.assert_close(plainly.take(torch.arange(5), 0), plain[:5])
