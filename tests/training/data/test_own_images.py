import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from pydantic import TypeAdapter
from typer.testing import CliRunner

from models.checkpoint import load_checkpoint
from models.examples import load_examples
from models.inputs.image import ImageSpec
from models.inputs.pixels import decode_image
from models.targets.layers import Normalization
from models.tasks.classification import Classification
from service.app import create_app
from service.settings import Settings
from tests.conftest import serve
from tests.pictures import draw_image, encode
from training.__main__ import app
from training.data.augmentation import Augmentation, distort
from training.data.dataset import DatasetError
from training.data.foreign import KINDS
from training.data.image_folders import LEAST_CALIBRATION, SHARES, Split, divide, load_image_folder
from training.evaluation.summaries import estimate_share
from training.recipes.own_images import Method, choose_target, own_images, plain_network
from training.report.own_images import LEAST_DISPUTE, Confusion, ImagesReport, describe_report
from training.runs.examples import write_examples
from training.runs.fitting import FittingRun
from training.runs.loop import StepReport

CLASSES = ("bar", "ring")
ARGUMENTS = ["--steps", "30", "--seed", "3"]


def draw_class(label: str, number: int, mode: str = "L", size: int = 12) -> bytes:
    """A bar or a ring, somewhere, with noise: every number is another image."""
    random = np.random.default_rng([number, len(label)])
    image = Image.fromarray(random.integers(0, 40, (size, size), dtype=np.uint8))
    x, y = random.integers(0, 3, 2).tolist()
    pen = ImageDraw.Draw(image)
    if label == "ring":
        pen.ellipse((x + 1, y + 1, x + 8, y + 8), outline=255)
    else:
        pen.line((x + 4, y + 1, x + 4, y + 9), fill=255, width=2)
    return encode(image.convert(mode))


def write_folder(folder: Path, count: int = 40, classes: tuple[str, ...] = CLASSES, mode: str = "L") -> Path:
    for label in classes:
        (folder / label).mkdir(parents=True)
        for number in range(count):
            (folder / label / f"{number}.png").write_bytes(draw_class(label, number + 1000 * len(folder.name), mode))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 bars and 40 rings, a damaged file, a copy, and what is hidden."""
    folder = write_folder(tmp_path_factory.mktemp("own") / "shapes")
    (folder / "ring" / "broken.png").write_bytes(draw_class("ring", 0)[:60])
    (folder / "ring" / "copy.png").write_bytes((folder / "ring" / "7.png").read_bytes())
    (folder / "ring" / ".hidden.png").write_bytes(b"nothing")
    (folder / ".cache").mkdir()
    (folder / "notes.txt").write_text("loose files are no class")
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """The checkpoint's directory, and what the command wrote to stdout and stderr."""
    out = tmp_path_factory.mktemp("trained") / "shapes-model"
    result = CliRunner().invoke(app, ["images", str(folder), "--out", str(out), "--json", *ARGUMENTS])
    assert result.exit_code == 0, result.output
    return out, result.stdout, result.stderr


def test_training_ends_with_a_report(folder: Path, trained: tuple[Path, str, str]) -> None:
    out, stdout, stderr = trained
    report = json.loads(stdout)
    checkpoint = load_checkpoint(out)
    assert report["version"] == checkpoint.version
    assert report["images"]["bar"] == {"train": 20, "validation": 4, "calibration": 10, "test": 6}
    assert report["accuracy"]["low"] <= report["accuracy"]["share"] <= report["accuracy"]["high"]
    assert set(report["false_alarms"]) == {"out_of_distribution", "suspect_adversarial"}
    recalls = {c["name"]: c["recall"] for c in report["classes"]}
    assert {name: recall["images"] for name, recall in recalls.items()} == {"bar": 6, "ring": 6}
    assert report["balanced_accuracy"] == pytest.approx(sum(recall["share"] for recall in recalls.values()) / 2)
    assert report["balanced_accuracy"] == pytest.approx(report["accuracy"]["share"])  # of classes of equal size
    assert report["majority_accuracy"] == 0.5
    assert report["accuracy"]["images"] == 12
    assert "The accuracy was measured on only 12 images; its 95 % confidence interval is" in report["cautions"][0]
    assert report["baseline"] is None
    assert report["plain_network"]["accuracy"]["images"] == 12
    assert report["plain_network"]["nll"] > 0
    assert 0 < report["plain_network"]["processor_seconds"] < 60
    assert list(report["foreign"]) == list(KINDS)
    assert all(share["images"] == 100 for share in report["foreign"].values())
    missed = [kind for kind, share in report["foreign"].items() if share["share"] < 0.5]
    assert [caution.split(" are not flagged")[0] for caution in report["cautions"][1:]] == [f"Most {k}" for k in missed]
    assert list(report["unreadable"]) == ["ring/broken.png"]
    assert report["left_out"] == {
        "hidden files and folders": [".cache", "ring/.hidden.png"],
        ".txt files": ["notes.txt"],
    }
    assert report["copies"] == {"ring/copy.png": "ring/7.png"}
    information = [image["mutual_information"] for image in report["disputed"]]
    assert information == sorted(information, reverse=True)
    assert all(nats > LEAST_DISPUTE for nats in information)
    assert len(information) <= 5
    assert all(Path(image["path"]).is_file() for image in report["disputed"])
    assert json.loads((out / "report.json").read_text()) == report
    assert report["commands"][0] == f"hyperdraw-serve --checkpoints {out}"
    assert "Warning: left out unusable images (1): ring/broken.png cannot be decoded" in stderr
    assert "Warning: left out copies (1): ring/copy.png equals ring/7.png." in stderr
    assert "step 30: validation" in stderr


def test_the_checkpoint_is_whole(trained: tuple[Path, str, str]) -> None:
    checkpoint = load_checkpoint(trained[0])
    assert checkpoint.calibration is not None
    assert checkpoint.metrics is not None
    assert checkpoint.calibration.default_rate == 0.05
    card = (trained[0] / "README.md").read_text()
    assert "`hyperdraw-train images shapes --out DIR --seed 3 --steps 30`: 30 steps on shapes@" in card
    assert "Classes: bar, ring" in card
    assert "measured on 12 images" in card
    assert "Always answering the most frequent class would have an accuracy of 50.0%. The balanced accuracy" in card
    assert "| ring | 6 |" in card


def test_a_test_image_of_each_class_is_an_example(folder: Path, trained: tuple[Path, str, str]) -> None:
    out, _, stderr = trained
    spec = load_checkpoint(out).config.input
    assert isinstance(spec, ImageSpec)
    examples = load_examples(out, spec)
    said = [(example.entry.caption, example.entry.source, example.entry.licence) for example in examples]
    assert said == [
        (f"a test image of {name}", "the folder shapes", "that of the folder's images") for name in ("bar", "ring")
    ]
    test = load_image_folder(folder).dataset.test
    for label, example in enumerate(examples):
        pixels = decode_image(example.content, spec, 10**4, "an example")
        assert any(torch.equal(pixels, image) for image in test.inputs[test.labels == label])
    assert "put 2 test images into the checkpoint" in stderr


def test_examples_are_of_six_classes_and_of_any_name(tmp_path: Path) -> None:
    images = load_image_folder(write_folder(tmp_path / "line\nbreak", 60))
    classes = ("a\nb", "c" * 400, *"defghi")
    labels = torch.arange(len(images.dataset.test)) % 8
    test = replace(images.dataset.test, labels=labels)
    images = replace(images, dataset=replace(images.dataset, task=Classification(classes), test=test))
    write_examples(tmp_path, images)
    examples = load_examples(tmp_path, images.dataset.input)
    assert [example.entry.file for example in examples] == [f"{number}.png" for number in range(6)]
    assert examples[0].entry.caption == "a test image of a b"
    assert len(examples[1].entry.caption) == 300
    assert examples[0].entry.source == "the folder line break"


def test_a_class_named_by_a_number_is_not_taken_for_one(trained: tuple[Path, str, str]) -> None:
    report = TypeAdapter(ImagesReport).validate_json((trained[0] / "report.json").read_bytes())
    confused = describe_report(replace(report, confusions=(Confusion(label="3", answer="9", images=2),)))
    assert "Most frequent mistakes:\n  3, mistaken for 9: 2\n" in confused


def test_the_service_answers_with_the_folders_names(folder: Path, trained: tuple[Path, str, str]) -> None:
    app = create_app(Settings(checkpoints=trained[0]))
    with serve(app) as address, httpx.Client(base_url=address, timeout=60) as client:
        model = client.get("/v1/models/shapes-model").json()
        answer = client.post(
            "/v1/models/shapes-model/predict?ensemble_size=10", files={"images": draw_class("ring", 99)}
        ).json()
    assert model["task"]["classes"] == ["bar", "ring"]
    assert answer["predictions"][0]["label"] == "ring"
    assert set(answer["predictions"][0]["flags"]) == {"out_of_distribution", "suspect_adversarial"}


def test_interrupted_and_resumed_it_trains_the_same_model(
    folder: Path, trained: tuple[Path, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = FittingRun.step

    def interrupt_at_step_17(run: FittingRun) -> StepReport:
        if run.steps == 17:
            os.kill(os.getpid(), signal.SIGINT)
        return step(run)

    monkeypatch.setattr(FittingRun, "step", interrupt_at_step_17)
    out = tmp_path / "halted"
    arguments = ["images", str(folder), "--out", str(out), "--quiet"]
    halted = CliRunner().invoke(app, [*arguments, "--json", *ARGUMENTS])
    assert (halted.exit_code, halted.stdout) == (0, "null\n")
    assert "Warning: the training was interrupted, so it was not evaluated on the test set" in halted.stderr
    monkeypatch.undo()
    result = CliRunner().invoke(app, [*arguments, "--resume"])
    assert result.exit_code == 0, result.output
    for name in ("model.safetensors", "config.json", "calibration.json", "metrics.json"):
        assert (out / name).read_bytes() == (trained[0] / name).read_bytes(), name
    assert "On 12 test images" in result.stdout
    assert "Recall of each class" in result.stdout
    assert "Caution:\n  " in result.stdout
    assert f"hyperdraw-serve --checkpoints {out}" in result.stdout
    assert "hyperdraw reload halted" in result.stdout
    assert result.stderr.splitlines() == [line for line in result.stderr.splitlines() if line.startswith("Warning: ")]


@pytest.mark.parametrize("method", ["deep-ensemble", "mc-dropout"])
def test_other_methods_and_options(folder: Path, tmp_path: Path, method: str) -> None:
    options = [
        "--method",
        method,
        "--size",
        "8",
        "--colour",
        "--flip",
        "--balance",
        "--no-examples",
        "--without",
        "outliers",
    ]
    result = CliRunner().invoke(
        app, ["images", str(folder), "--out", str(tmp_path / "out"), "--steps", "5", "--quiet", *options]
    )
    assert result.exit_code == 0, result.output
    config = load_checkpoint(tmp_path / "out").config
    assert config.method.method == method.replace("-", "_")
    assert config.input.shape == (3, 8, 8)
    assert not (tmp_path / "out" / "examples").exists()
    assert config.training.command == f"hyperdraw-train images shapes --out DIR {' '.join(options)} --steps 5"


def test_evaluate_finds_the_folder_again_or_says_that_it_changed(
    folder: Path, trained: tuple[Path, str, str], tmp_path: Path
) -> None:
    copy, data = tmp_path / "model", tmp_path / "elsewhere"
    shutil.copytree(trained[0], copy)
    shutil.copytree(folder, data)
    result = CliRunner().invoke(app, ["evaluate", str(copy), "--data", str(data), "--json", "--quiet"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads((trained[0] / "metrics.json").read_bytes())
    (data / "bar" / "new.png").write_bytes(draw_class("bar", 5000))
    result = CliRunner().invoke(app, ["evaluate", str(copy), "--data", str(data)])
    assert result.exit_code == 1
    assert "images were added, changed or removed" in result.output
    result = CliRunner().invoke(app, ["evaluate", str(copy), "--data", str(tmp_path / "nowhere")])
    assert "was trained on the folder shapes; pass it with --data" in " ".join(result.output.split())
    result = CliRunner().invoke(app, ["evaluate", str(copy)])
    assert "was trained on your own data, shapes; pass it with --data" in " ".join(result.output.split())


@pytest.mark.parametrize(
    "command", ["images", "digits-hypergan", "calibrate", "evaluate", "attack", "compare", "ablate"]
)
def test_every_command_that_ends_with_numbers_can_be_quiet_and_give_json(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
    assert "--quiet" in shown
    assert "--json" in shown


def test_splits_are_disjoint_stratified_and_the_same_again(folder: Path) -> None:
    images, again = load_image_folder(folder), load_image_folder(folder)
    paths = [path for split in SHARES for path in images.paths[split]]
    assert len(paths) == len(set(paths)) == 80
    assert images.name == again.name
    assert images.paths == again.paths
    spec = images.dataset.input
    assert isinstance(spec, ImageSpec)
    for split in SHARES:
        examples = getattr(images.dataset, split)
        assert len(examples) == len(images.paths[split])
        assert [path.parts[0] for path in images.paths[split]] == [CLASSES[label] for label in examples.labels]
        assert examples.labels.double().mean() == 0.5
        for path, found in zip(images.paths[split], examples.inputs, strict=True):
            assert torch.equal(found, decode_image((folder / path).read_bytes(), spec, 10**6, path.name))
    assert spec.shape == (1, 12, 12)
    normal = images.dataset.input.prepare(images.dataset.train.inputs)
    assert abs(float(normal.mean())) < 1e-3
    assert abs(float(normal.std()) - 1) < 1e-3


@pytest.mark.parametrize(
    "splits", [tuple(SHARES), ("train", "validation", "calibration"), ("validation", "calibration")]
)
@pytest.mark.parametrize(("classes", "least"), [(2, 37), (5, 15), (20, 7)])
def test_every_image_is_in_one_split_and_enough_calibrate(classes: int, least: int, splits: tuple[Split, ...]) -> None:
    """From some number of images on, whatever their number."""
    found = {count: sizes for count in range(500) if (sizes := divide(count, classes, splits))}
    assert list(found) == list(range(min(found), 500))
    assert min(found) < least
    for count, sizes in found.items():
        assert tuple(sizes) == splits
        assert sum(sizes.values()) == count
        assert min(sizes.values()) >= 1
        assert 2 * sizes.get("train", count) >= count
        assert sizes["calibration"] * classes >= LEAST_CALIBRATION


def test_divided_folders_stay_divided(tmp_path: Path) -> None:
    for part, count in (("train", 50), ("valid", 12), ("test", 9)):
        write_folder(tmp_path / part, count)
    parts: dict[Split, str] = {"train": "train", "validation": "valid", "calibration": "valid", "test": "test"}
    images = load_image_folder(tmp_path)
    for split, part in parts.items():
        assert {path.parts[0] for path in images.paths[split]} == {part}
    shutil.rmtree(tmp_path / "test")
    images = load_image_folder(tmp_path)
    assert {path.parts[0] for path in images.paths["test"]} == {"valid"}
    assert {path.parts[0] for path in images.paths["calibration"]} == {"train"}


def test_size_and_colour_are_chosen_by_the_images(tmp_path: Path) -> None:
    write_folder(tmp_path / "colour", mode="RGB")
    assert load_image_folder(tmp_path / "colour").dataset.input.shape == (3, 12, 12)
    assert load_image_folder(tmp_path / "colour", size=16, grey=True).dataset.input.shape == (1, 16, 16)
    (tmp_path / "colour" / "bar" / "large.png").write_bytes(encode(draw_image("L", (90, 50))))
    assert load_image_folder(tmp_path / "colour").dataset.input.shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda _: None, "is not a folder"),
        (lambda folder: folder.mkdir(), "holds no folders; it needs one for each class"),
        (lambda folder: (folder / "cat").mkdir(parents=True), "holds no images"),
        (lambda folder: write_folder(folder, classes=("ring",)), "holds only one class, ring; at least two are needed"),
        (
            lambda folder: write_folder(folder, 20),
            "bar holds 20 usable images; with 2 classes it needs 36: 18 to train on, 3 to validate, "
            "10 to calibrate (false alarms of 5% need 19 over all classes), 5 to test",
        ),
        (
            lambda folder: [path.write_bytes(b"GIF89a") for path in sorted(write_folder(folder).rglob("*.png"))[:9]],
            "9 of 80 files in .* cannot be used as images. bar/0.png cannot be decoded: it ends before its last pixels",
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_explained(
    tmp_path: Path, prepare: Callable[[Path], object], message: str
) -> None:
    prepare(tmp_path / "own")
    with pytest.raises(DatasetError, match=message.replace("(", r"\(").replace(")", r"\)")):
        load_image_folder(tmp_path / "own")
    result = CliRunner().invoke(app, ["images", str(tmp_path / "own"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "Error: " in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("shape", "weighted"),
    [((1, 8, 8), 5), ((1, 28, 28), 7), ((3, 32, 32), 9), ((3, 64, 64), 9), ((3, 20, 64), 7), ((3, 128, 128), 9)],
)
def test_targets_grow_with_the_images(shape: tuple[int, int, int], weighted: int) -> None:
    target = choose_target(shape, 7)
    assert len(target.weighted_layers) == weighted
    assert target.num_outputs == 7
    assert target.num_weights < 250_000
    weights = {name: tensor[None] for name, tensor in target.module().state_dict().items()}
    assert target.forward(weights, torch.zeros(2, *shape)).shape == (1, 2, 7)


def test_large_images_cost_at_most_a_few_times_as_much_as_small_ones() -> None:
    small, middle, large = (choose_target((3, side, side), 7).num_multiplications for side in (32, 64, 128))
    assert middle < 1.5 * small
    assert large < 5 * small


def test_dropout_has_a_target_without_normalisation() -> None:
    recipes = [own_images("dots@1", (3, 32, 32), 4, 100, method) for method in Method]
    normalised = [any(isinstance(layer, Normalization) for layer in recipe.target.layers) for recipe in recipes]
    assert normalised == [method is not Method.MC_DROPOUT for method in Method]
    for recipe in recipes:
        recipe.method.build(recipe.target)


def test_more_images_are_trained_on_for_longer_within_bounds() -> None:
    steps = [own_images("dots@1", (3, 32, 32), 4, count).steps for count in (100, 1_000, 32_000, 10**7)]
    assert steps == [1_300, 1_300, 10_000, 20_000]


def test_the_plain_network_has_the_same_layers_and_steps_and_learns_alone() -> None:
    recipe = own_images("dots@1", (3, 32, 32), 4, 100, flip=True)
    plain = plain_network(recipe)
    assert (plain.target, plain.steps, plain.augmentation) == (recipe.target, recipe.steps, recipe.augmentation)
    assert plain.inputs_per_network == recipe.inputs_per_network
    assert plain.networks_per_step == 1
    assert plain.outliers is None
    # The loss is a mean over networks, so the decay of one alone must be larger by their number.
    assert plain.weight_decays["all"] == pytest.approx(recipe.weight_decays["modes"] * recipe.networks_per_step)


def test_flips_mirror() -> None:
    images = torch.arange(2 * 16).view(2, 1, 4, 4).float()
    numbers = torch.zeros(2, 7)
    numbers[:, 6] = torch.tensor([0.5, -0.5])
    flipped = distort(images, Augmentation(flip=True), numbers)
    torch.testing.assert_close(flipped[0], images[0])
    torch.testing.assert_close(flipped[1], images[1].flip(-1))


def test_what_lies_beyond_the_border_can_be_like_it() -> None:
    numbers = torch.rand(8, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
    white = torch.full((8, 1, 12, 12), 255.0)
    torch.testing.assert_close(distort(white, Augmentation(beyond="border"), numbers), white)
    assert distort(white, Augmentation(), numbers).min() < 100


def test_intervals_of_shares_are_wilsons() -> None:
    """Against the numbers of Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for hits, count, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        interval = estimate_share(hits / count, count)
        assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)


@pytest.mark.parametrize("out", ["own", "own/model", "."])
def test_the_model_does_not_go_among_the_images(folder: Path, tmp_path: Path, out: str) -> None:
    shutil.copytree(folder, tmp_path / "own")
    before = sorted(tmp_path.rglob("*"))
    result = CliRunner().invoke(app, ["images", str(tmp_path / "own"), "--out", str(tmp_path / out)])
    assert result.exit_code == 2
    assert "must not contain each other" in " ".join(result.stderr.replace("│", "").split())
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("out", ["file/model", "file"])
def test_an_output_that_cannot_be_written_is_refused_at_once(folder: Path, tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("no folder")
    result = CliRunner().invoke(app, ["images", str(folder), "--out", str(tmp_path / out)])
    assert result.exit_code == 1
    assert (
        result.stderr == f"Error: {tmp_path / 'file'} is not a folder that can be written to. Choose another --out.\n"
    )


def test_copies_that_a_class_lacks_are_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "ring", tmp_path / "own" / "ring")
    shutil.copytree(folder / "ring", tmp_path / "own" / "copied")
    with pytest.raises(
        DatasetError, match=r"copied holds 0 usable images.* 41 equal other files, as copied/0.png equals ring/0.png"
    ):
        load_image_folder(tmp_path / "own")


def test_a_class_without_a_folder_to_train_on_is_missing(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_folder(tmp_path / "own" / part)
    (tmp_path / "own" / "test" / "star").mkdir()
    for number in range(8):
        (tmp_path / "own" / "test" / "star" / f"{number}.png").write_bytes(draw_class("bar", 500 + number))
    with pytest.raises(DatasetError, match="is missing; with 3 classes it needs"):
        load_image_folder(tmp_path / "own")
