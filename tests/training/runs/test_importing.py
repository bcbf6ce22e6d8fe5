"""Networks that were trained elsewhere become checkpoints like any other."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import load, load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from models.checkpoint import DENSITY_FILE, load_checkpoint
from models.examples import load_examples
from models.inputs.image import ImageSpec
from models.inputs.pixels import decode_image
from models.predictions.detection import apply_temperature
from models.predictions.prediction import evaluate
from service.app import create_app
from service.settings import Settings
from tests.conftest import serve
from tests.pictures import draw_image, encode
from tests.training.data.test_own_images import draw_class, write_folder
from training.__main__ import app
from training.evaluation.evidence import name_method

NET = """
import torch
from torch import nn

from widths import WIDTH


def network():
    layers = [nn.Conv2d(1, WIDTH, 3, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Dropout(), nn.Linear(25 * WIDTH, 2))


odd = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GELU(), nn.Flatten(), nn.Linear(200, 2))
flat = nn.Sequential(nn.Flatten(), nn.Linear(144, 2))
number = 7


def broken():
    raise RuntimeError("no weights")
"""
CLASSES = "ring,bar"  # not in the order of their names


@dataclass(frozen=True)
class Workshop:
    """What a user has: a file with a network, its state dicts, and images."""

    path: Path

    @property
    def states(self) -> list[Path]:
        return [self.path / f"{number}.safetensors" for number in range(3)]

    def make_module(self, state: Path) -> nn.Module:
        """The module of net.py, with a state dict."""
        module = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
        module.extend([nn.Flatten(), nn.Dropout(), nn.Linear(100, 2)])
        module.load_state_dict(load_file(state))
        return module.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    path = tmp_path_factory.mktemp("workshop")
    (path / "net.py").write_text(NET)
    (path / "widths.py").write_text("WIDTH = 4\n")
    write_folder(path / "held", 30)
    write_folder(path / "seen-before", 20)
    shop = Workshop(path)
    for number, state in enumerate(shop.states):
        save_file(make_state(number), state)
    return shop


def make_state(seed: int) -> dict[str, Tensor]:
    """Of the network in net.py, with statistics as after a training."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"0.weight": (4, 1, 3, 3), "6.weight": (2, 100), "6.bias": (2,), "1.weight": (4,), "1.bias": (4,)}
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    state |= {"1.running_mean": torch.randn(4, generator=generator), "1.running_var": torch.rand(4) + 0.5}
    return state | {"1.num_batches_tracked": torch.tensor(100)}


def run_import(workshop: Workshop, out: Path, states: list[Path], **options: str) -> Result:
    """Imports networks; an option replaces what is usual, and one without a value is left out."""
    usual = {"target": f"{workshop.path / 'net.py'}:network", "classes": CLASSES, "mean": "0.2", "std": "0.3"}
    chosen = usual | {"calibrate": str(workshop.path / "held"), "out": str(out)} | options
    words = [word for name, value in chosen.items() if value for word in (f"--{name}", value)]
    return CliRunner().invoke(app, ["import", *map(str, states), *words])


@pytest.fixture(scope="module")
def ensemble(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("imported") / "deep" / "three"
    result = run_import(workshop, out, workshop.states)
    assert result.exit_code == 0, result.output
    return out, result


def test_the_ensemble_answers_as_the_modules_do(workshop: Workshop, ensemble: tuple[Path, Result]) -> None:
    checkpoint = load_checkpoint(ensemble[0])
    config = checkpoint.config
    assert config.method.method == "deep_ensemble"
    assert isinstance(config.input, ImageSpec)
    images = torch.stack([decode_image(draw_class("ring", n), config.input, 10**6, "x") for n in range(20)])
    outputs = evaluate(checkpoint.sampler, config.input, config.task, images, 5, 3).plain
    prepared = (images / 255 - 0.2) / 0.3
    expected = torch.stack([workshop.make_module(state)(prepared) for state in workshop.states])
    order = [int((outputs[:, 0] - logits[0]).abs().sum(1).argmin()) for logits in expected]
    assert sorted(order) == [0, 1, 2]
    torch.testing.assert_close(outputs[order], expected, atol=1e-4, rtol=1e-4)


def test_the_service_serves_it(workshop: Workshop, ensemble: tuple[Path, Result]) -> None:
    out, _ = ensemble
    checkpoint, picture = load_checkpoint(out), draw_class("bar", 77)
    spec = checkpoint.config.input
    assert checkpoint.calibration is not None
    assert isinstance(spec, ImageSpec)
    with serve(create_app(Settings(checkpoints=out))) as address, httpx.Client(base_url=address, timeout=60) as client:
        answer = client.post("/v1/models/three/predict?seed=1", files={"images": picture}).json()
        weights = load(client.get("/v1/models/three/weights?seed=1&member=2").content)
    image = (decode_image(picture, spec, 10**6, "x")[None] / 255 - 0.2) / 0.3
    logits = torch.cat([workshop.make_module(state)(image) for state in workshop.states])
    temperature = checkpoint.calibration.sizes[-1].classes
    assert temperature is not None
    tempered = apply_temperature(logits.double().softmax(1).mean(0).log()[None], temperature.temperature).exp()[0]
    prediction = answer["predictions"][0]
    found = prediction["probabilities"]
    torch.testing.assert_close(torch.tensor(found).double(), tempered, atol=1e-4, rtol=1e-3)
    assert set(prediction["flags"]) == {"out_of_distribution", "suspect_adversarial"}
    module = checkpoint.config.target.module().requires_grad_(False)
    module.load_state_dict(weights)
    assert min(float((module(image) - own).abs().max()) for own in logits) < 1e-4


def test_the_checkpoint_is_whole(workshop: Workshop, ensemble: tuple[Path, Result]) -> None:
    out, result = ensemble
    checkpoint = load_checkpoint(out)
    assert checkpoint.metrics is not None
    report = json.loads((out / "report.json").read_text())
    assert report["images"]["ring"] == {"train": 0, "validation": 8, "calibration": 11, "test": 11}
    assert list(report["images"]) == ["ring", "bar"]
    assert "folded batch normalisations into the layers before them: 1" in result.stderr
    assert f"hyperdraw-serve --checkpoints {out}" in result.stdout
    card = (out / "README.md").read_text()
    assert "# three\n" in card
    assert "imported by `hyperdraw-train import --target net.py:network 0.safetensors 1.safetensors 2" in card
    assert "--classes ring,bar --calibrate held --mean 0.2 --std 0.3 --out DIR`" in card
    assert str(workshop.path) not in card
    names = "0.safetensors 1.safetensors 2.safetensors"
    assert name_method(checkpoint.config.training) == f"import --target net.py:network {names}"
    assert sorted(out.parent.parent.iterdir()) == [out.parent]
    captions = [example.entry.caption for example in load_examples(out, checkpoint.config.input)]
    assert captions == ["a test image of ring", "a test image of bar"]


def test_it_is_evaluated_again_on_the_same_images(workshop: Workshop, ensemble: tuple[Path, Result]) -> None:
    out, _ = ensemble
    before = (out / "metrics.json").read_text()
    for command in ("calibrate", "evaluate"):
        result = CliRunner().invoke(app, [command, str(out), "--data", str(workshop.path / "held")])
        assert result.exit_code == 0, result.output
    assert (out / "metrics.json").read_text() == before
    result = CliRunner().invoke(app, ["evaluate", str(out), "--data", str(workshop.path / "seen-before")])
    assert result.exit_code == 1
    assert "is not the folder held that the model was trained on" in result.stderr


@pytest.mark.parametrize("count", [1, 3])
def test_training_images_tell_what_is_far(workshop: Workshop, tmp_path: Path, count: int) -> None:
    """Another calibration has no training images, and keeps what is known of them."""
    out = tmp_path / "near"
    result = run_import(workshop, out, workshop.states[:count], fit=str(workshop.path / "seen-before"))
    assert result.exit_code == 0, result.output
    checkpoint = load_checkpoint(out)
    density, spec = checkpoint.density, checkpoint.config.input
    assert density is not None
    assert isinstance(spec, ImageSpec)
    held = torch.stack([decode_image(draw_class("ring", 100 + n), spec, 10**6, "x") for n in range(50)])
    noise = torch.randint(256, held.shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    usual = density.measure_distance(spec.prepare(held))
    assert (density.measure_distance(spec.prepare(noise)) > usual.quantile(0.95)).all()
    kept = (out / DENSITY_FILE).read_bytes()
    result = CliRunner().invoke(app, ["calibrate", str(out), "--data", str(workshop.path / "held")])
    assert result.exit_code == 0, result.output
    assert load_checkpoint(out).version == checkpoint.version
    assert (out / DENSITY_FILE).read_bytes() == kept
    (out / "calibration.json").unlink()
    result = CliRunner().invoke(app, ["calibrate", str(out), "--data", str(workshop.path / "held")])
    assert result.exit_code == 1
    assert "calibration.json: does not name the density.safetensors beside it" in " ".join(result.stderr.split())


def test_without_maps_there_is_no_distance(workshop: Workshop, tmp_path: Path) -> None:
    generator, state, out = torch.Generator().manual_seed(0), tmp_path / "flat.safetensors", tmp_path / "flat"
    save_file({"1.weight": torch.randn(2, 144, generator=generator), "1.bias": torch.zeros(2)}, state)
    target = f"{workshop.path / 'net.py'}:flat"
    result = run_import(workshop, out, [state], fit=str(workshop.path / "seen-before"), target=target)
    assert result.exit_code == 0, result.output
    assert "Warning: the distance from the training images is measured on maps of convolutions" in result.stderr
    assert load_checkpoint(out).density is None


def test_a_single_network_becomes_a_distribution(workshop: Workshop, tmp_path: Path) -> None:
    out = tmp_path / "one"
    words = [workshop.states[0], Path("--no-examples")]
    result = run_import(workshop, out, words, fit=str(workshop.path / "seen-before"))
    assert result.exit_code == 0, result.output
    assert "fitted last-layer Laplace to 40 images; a prior precision of " in result.stderr
    checkpoint = load_checkpoint(out)
    assert checkpoint.config.method.method == "laplace"
    assert not (out / "examples").exists()
    assert checkpoint.config.training.command.endswith(" --no-examples --out DIR")
    assert checkpoint.sampler.num_networks is None
    assert checkpoint.calibration is not None
    assert checkpoint.metrics is not None
    assert checkpoint.metrics["networks"] == 100
    image = torch.rand(1, 1, 12, 12)
    state = checkpoint.sampler.state_dict()
    mean = {name.removeprefix("network."): tensor for name, tensor in state.items() if name.startswith("network.")}
    logits = checkpoint.config.target.forward(mean, image)[0]
    torch.testing.assert_close(logits, workshop.make_module(workshop.states[0])(image), atol=1e-4, rtol=1e-4)


# Refusals: each names what is wrong, and leaves nothing behind

Prepare = Callable[[Workshop, Path], dict[str, str]]


def change_state(change: Callable[[dict[str, Tensor]], object], name: str = "changed.safetensors") -> Prepare:
    """Takes another state dict beside the others."""

    def prepare(_: Workshop, place: Path) -> dict[str, str]:
        state = make_state(9)
        change(state)
        save_file(state, place / name)
        return {"state": str(place / name)}

    return prepare


def write_state(name: str, content: bytes) -> Prepare:
    def prepare(_: Workshop, place: Path) -> dict[str, str]:
        (place / name).write_bytes(content)
        return {"state": str(place / name)}

    return prepare


def name_network(text: str) -> Prepare:
    return lambda shop, _: {"target": text.replace("net.py", str(shop.path / "net.py"))}


def take_folder(option: str, *classes: str, count: int = 30, part: str = "") -> Prepare:
    """Another folder of images for an option."""

    def prepare(_: Workshop, place: Path) -> dict[str, str]:
        write_folder(place / "own" / part, count, classes)
        return {option: str(place / "own")}

    return prepare


def take_two_sizes(_: Workshop, place: Path) -> dict[str, str]:
    folder = write_folder(place / "own")
    (folder / "bar" / "large.png").write_bytes(encode(draw_image("L", (90, 50))))
    return {"calibrate": str(folder)}


def fit_to_what_calibrates(shop: Workshop, _: Path) -> dict[str, str]:
    return {"alone": "yes", "fit": str(shop.path / "held")}


def use_directory(_: Workshop, place: Path) -> dict[str, str]:
    (place / "out").mkdir()
    (place / "out" / "notes.txt").write_text("mine")
    return {}


REFUSALS: dict[str, tuple[Prepare, str]] = {
    "no name": (name_network("net.py"), "--target must be FILE.py:NAME, such as net.py:network, not "),
    "no file": (name_network("gone.py:network"), "gone.py does not exist"),
    "unknown name": (name_network("net.py:net"), "net.py defines no net; its modules are odd"),
    "no module": (name_network("net.py:number"), "net.py:number gives int, not a PyTorch module"),
    "failing function": (name_network("net.py:broken"), "net.py: broken() fails: RuntimeError: no weights"),
    "unsupported layer": (name_network("net.py:odd"), "the layer 1, GELU(approximate='none'), has no counterpart"),
    "shape": (
        change_state(lambda state: state.update({"6.weight": torch.zeros(3, 100)})),
        "changed.safetensors: 6.weight has shape (3, 100), but the network's has shape (2, 100)",
    ),
    "missing tensor": (
        change_state(lambda state: state.pop("1.running_var")),
        "changed.safetensors lacks the tensor 1.running_var of shape (4,)",
    ),
    "unknown tensor": (
        change_state(lambda state: state.update({"7.bias": torch.zeros(5)})),
        "changed.safetensors holds the tensor 7.bias of shape (5,), which the network lacks",
    ),
    "type": (
        change_state(lambda state: state.update({"6.bias": torch.tensor([1, 2])})),
        "changed.safetensors: 6.bias has the type I64, which is not one of F64, F32, F16, BF16",
    ),
    "not finite": (
        change_state(lambda state: state["6.bias"].fill_(torch.nan)),
        "changed.safetensors: 6.bias holds numbers that are not finite",
    ),
    "pickle": (
        write_state("net.pt", b"\x80\x02."),
        "net.pt is a pickle, which can run code when it is read. Only safetensors files are read. To convert it:\n"
        "  from safetensors.torch import save_file; from torch import load\n",
    ),
    "damaged": (write_state("cut.safetensors", b"\x10\0\0"), "cut.safetensors cannot be read as a safetensors file"),
    "no state": (lambda *_: {"state": "gone.safetensors"}, "gone.safetensors cannot be read as a safetensors file"),
    "twice the same": (lambda shop, _: {"state": str(shop.states[0])}, "0.safetensors hold the same network"),
    "one alone": (lambda *_: {"alone": "yes"}, "a single state dict is one network, which cannot disagree with itself"),
    "fitting several without maps": (
        lambda shop, _: name_network("net.py:flat")(shop, _) | {"fit": str(shop.path / "seen-before")},
        "--fit would change nothing: the distance from the training images is measured on maps",
    ),
    "fitting and calibrating": (fit_to_what_calibrates, "Calibration needs images that the network was not trained on"),
    "fitting several and calibrating": (
        lambda shop, _: {"fit": str(shop.path / "held")},
        "Calibration needs images that the network was not trained on",
    ),
    "number of classes": (lambda *_: {"classes": "a,b,c"}, "--classes names 3 classes, but the network has 2 outputs"),
    "class without folder": (lambda *_: {"classes": "ring,star"}, "held has no folder star, only bar, ring"),
    "folder without class": (take_folder("calibrate", "bar", "ring", "star"), "own/star is not one of the classes"),
    "few images": (take_folder("calibrate", "bar", "ring", count=10), "10 usable images; with 2 classes it needs 17"),
    "divided": (
        take_folder("calibrate", "bar", "ring", part="train"),
        "own is divided into train; pass one of these folders instead",
    ),
    "sizes": (take_two_sizes, "own have 12 × 12, 90 × 50 pixels. Pass --size"),
    "another size": (lambda *_: {"size": "16"}, "but images of 16 × 16 pixels need (2, 196). Pass the --size"),
    "means": (lambda *_: {"mean": "0.1,0.2,0.3"}, "--mean has 3 numbers, but the network takes grey images"),
    "used directory": (use_directory, "out is not empty. Choose another --out."),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(workshop: Workshop, tmp_path: Path, case: str) -> None:
    prepare, message = REFUSALS[case]
    options = prepare(workshop, tmp_path)
    states = workshop.states[:1] + ([] if options.pop("alone", None) else [workshop.states[1]])
    states[1:] += [Path(options.pop("state"))] if "state" in options else []
    before = sorted(tmp_path.rglob("*"))
    result = run_import(workshop, tmp_path / "out", states, **options)
    assert result.exit_code == 1, result.output
    assert message in result.stderr.partition("Error: ")[2]
    assert not result.stdout
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("option", "value"),
    [("classes", "a"), ("classes", "a,a"), ("classes", "a,,b"), ("mean", "x"), ("mean", "nan"), ("std", "0.3,0")],
)
def test_options_that_cannot_be_meant_are_refused(workshop: Workshop, tmp_path: Path, option: str, value: str) -> None:
    result = run_import(workshop, tmp_path / "out", workshop.states, **{option: value})
    assert result.exit_code == 2
    assert f"--{option}" in result.stderr
    assert not (tmp_path / "out").exists()
