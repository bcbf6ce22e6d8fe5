"""One import of networks that were trained elsewhere: they become a sampler, which is calibrated and evaluated."""

import hashlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from models.backbones.backbone import FILE
from models.checkpoint import CheckpointConfig, Training, load_checkpoint, save_checkpoint
from models.checkpoint_files import CheckpointError, dump_json, write_file
from models.inputs.image import ImageSpec
from models.predictions.anchor import find_maps
from models.samplers.deep_ensemble import DeepEnsemble, DeepEnsembleConfig
from models.samplers.laplace import Laplace
from models.targets.target import TargetNetwork
from models.tasks.classification import Classification
from models.tasks.probabilities import NotFiniteError
from training.data.dataset import DatasetError, Examples
from training.data.datasets import IMPORTED
from training.data.features import CachedBackbone, default_feature_folder
from training.data.image_folders import HELD_OUT, ImageFolder, find_common_size, load_named_folder
from training.data.image_tree import show
from training.denormals import flush_denormals
from training.evaluation.metrics import ClassificationMetrics
from training.imports.conversion import convert
from training.imports.members import build_selector, join_members, read_member
from training.imports.network import NetworkError, check_distinct, load_network
from training.imports.states import load_state
from training.progress import announce, warn
from training.report.own_images import FILE as REPORT_FILE
from training.report.own_images import ImagesReport, describe_images, describe_omissions, make_report
from training.runs.checkpoints import MOST_DESCRIBED, calibrate_checkpoint, measure_directory
from training.runs.examples import write_examples
from training.runs.laplace import fit_laplace
from training.runs.output import check_output
from training.runs.state import TrainingError

NEEDS_IMAGES = (
    "a single state dict is one network, which cannot disagree with itself. Pass --fit DIR, a folder of the images "
    "that it was trained on, so that last-layer Laplace makes a distribution of it; or pass several state dicts"
)

NO_MAPS = (
    "the distance from the training images is measured on maps of convolutions that an activation follows, and the "
    "network has none"
)

NEEDS_MEMBERS = (
    "a single ONNX file is one network, which cannot disagree with itself. Pass several; or train networks on the "
    "features of this one with `hyperdraw-train images --backbone`"
)


@dataclass(frozen=True)
class Import:
    """One import: what the user asked for."""

    target: str | None
    """`FILE.py:NAME`, which the state dicts belong to; nothing for ONNX files."""
    states: Sequence[Path]
    """Safetensors files, or ONNX files."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of the networks' outputs."""
    calibrate: Path
    fit: Path | None
    size: int | None
    mean: tuple[float, ...]
    """Of each channel, or one number for all of them; pixels are from 0 to 1. So are the deviations."""
    std: tuple[float, ...]
    examples: bool
    """Whether the checkpoint gets test images as examples."""
    out: Path
    device: torch.device
    command: str
    """The command that repeats it."""


@flush_denormals()
def import_networks(wanted: Import) -> ImagesReport:
    """Makes a checkpoint of networks, calibrates and evaluates it. It appears in `out` when it is complete.

    Raises:
        NetworkError: if the networks cannot be imported.
        DatasetError: if images are missing or damaged, or if the networks have seen some that they must not have seen.
        TrainingError: if the checkpoint cannot be written.
    """
    _check_output(wanted.out)
    if wanted.target is None:
        return _import_members(wanted)
    if len(wanted.states) == 1 and wanted.fit is None:
        raise NetworkError(NEEDS_IMAGES)
    network = load_network(wanted.target)
    size = (wanted.size, wanted.size) if wanted.size else find_common_size(wanted.calibrate)
    conversion = convert(network, size)
    target = conversion.target
    if len(wanted.classes) != (outputs := target.num_outputs):
        raise NetworkError(f"--classes names {len(wanted.classes)} classes, but the network has {outputs} outputs")
    if wanted.fit is not None and not find_maps(target):
        if len(wanted.states) > 1:
            raise NetworkError(f"--fit would change nothing: {NO_MAPS}. Leave it out")
        warn(f"{NO_MAPS}, so flags do not know it")
    networks = []
    for path in wanted.states:
        load_state(path, network)
        networks.append(conversion.read_weights())
    check_distinct(wanted.states, [_digest(weights.values()) for weights in networks])
    if conversion.folded:
        announce(f"folded batch normalisations into the layers before them: {', '.join(conversion.folded)}")
    images = _load_images(wanted, _make_spec(wanted, target.input_shape[0], size))
    train = _load_training_images(wanted, images)
    if len(networks) > 1:
        return _write(wanted, _build_ensemble(target, networks), images, train)
    return _write(wanted, _fit(target, networks[0], images, train.inputs), images, train)


def _import_members(wanted: Import) -> ImagesReport:
    """Makes a checkpoint of classifiers in ONNX files, which onnxruntime evaluates."""
    if len(wanted.states) == 1:
        raise NetworkError(NEEDS_MEMBERS)
    members = [read_member(path) for path in wanted.states]
    size = (wanted.size, wanted.size) if wanted.size else members[0].size or find_common_size(wanted.calibrate)
    spec = _make_spec(wanted, members[0].channels, size)
    content, backbone = join_members(members, spec, len(wanted.classes), with_features=wanted.fit is not None)
    cached = CachedBackbone(backbone, default_feature_folder())
    images = _load_images(wanted, spec).see_through(spec, cached)
    train = _load_training_images(wanted, images)
    return _write(wanted, build_selector(len(members), len(wanted.classes), backbone.spec), images, train, content)


def _load_images(wanted: Import, spec: ImageSpec) -> ImageFolder:
    images = load_named_folder(wanted.calibrate, wanted.classes, spec, HELD_OUT)
    for text in describe_omissions(images):
        warn(text)
    announce(describe_images(images))
    return images


def _check_output(out: Path) -> None:
    check_output(out, resume=False)
    if out.exists() and any(out.iterdir()):
        raise TrainingError(f"{out} is not empty. Choose another --out.")


def _digest(tensors: Iterable[Tensor]) -> bytes:
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).digest()


def _make_spec(wanted: Import, channels: int, size: tuple[int, int]) -> ImageSpec:
    colours = "grey" if channels == 1 else "colour"
    for name, numbers in (("--mean", wanted.mean), ("--std", wanted.std)):
        if len(numbers) not in (1, channels):
            raise NetworkError(f"{name} has {len(numbers)} numbers, but the network takes {colours} images")
    mean, std = (numbers * (channels // len(numbers)) for numbers in (wanted.mean, wanted.std))
    return ImageSpec(channels=1 if channels == 1 else 3, height=size[0], width=size[1], mean=mean, std=std)


def _build_ensemble(target: TargetNetwork, networks: Sequence[Mapping[str, Tensor]]) -> DeepEnsemble:
    sampler = DeepEnsembleConfig(len(networks)).build(target)
    sampler.networks.load_state_dict({name: torch.stack([n[name] for n in networks]) for name in networks[0]})
    return sampler


def _load_training_images(wanted: Import, images: ImageFolder) -> Examples:
    """The images that the networks were trained on, none of which is among `images`; none if they are not given."""
    if wanted.fit is None:
        return images.dataset.train
    spec = images.dataset.input
    assert isinstance(spec, ImageSpec)
    fitted = load_named_folder(wanted.fit, wanted.classes, spec, ("train",))
    for text in describe_omissions(fitted):
        warn(text)
    _check_unseen(wanted, images, fitted)
    return fitted.dataset.train


def _fit(target: TargetNetwork, network: Mapping[str, Tensor], images: ImageFolder, train: Tensor) -> Laplace:
    validation = images.dataset.validation
    fit = fit_laplace(target, network, images.dataset.input, train, validation)
    announce(
        f"fitted last-layer Laplace to {len(train):,} images; a prior precision of "
        f"{fit.sampler.config.prior_precision:.3g} has the least NLL on {len(validation):,} validation images: "
        f"{fit.misfit:.4f}, where the network alone has {fit.misfit_alone:.4f}"
    )
    return fit.sampler


def _check_unseen(wanted: Import, images: ImageFolder, fitted: ImageFolder) -> None:
    """Checks that no image is for both fitting and calibration."""
    assert wanted.fit is not None
    seen = {_digest([image]): index for index, image in enumerate(fitted.dataset.train.inputs)}
    for split in HELD_OUT:
        for path, image in zip(images.paths[split], getattr(images.dataset, split).inputs, strict=True):
            if (index := seen.get(_digest([image]))) is not None:
                same = show(wanted.fit / fitted.paths["train"][index])
                raise DatasetError(
                    f"{show(wanted.calibrate / path)} equals {same}. Calibration needs images that the network was not "
                    "trained on"
                )


def _write(
    wanted: Import,
    sampler: DeepEnsemble | Laplace,
    images: ImageFolder,
    train: Examples,
    content: bytes | None = None,
) -> ImagesReport:
    """Writes, calibrates and evaluates a checkpoint beside `out`, and puts it there when it is complete.

    Distances are those from `train`. `content` is the ONNX file of the images' backbone, if they have one.
    """
    backbone = images.dataset.backbone
    config = CheckpointConfig(
        method=sampler.config,
        target=sampler.target,
        input=images.dataset.input,
        task=Classification(wanted.classes),
        backbone=backbone.spec if backbone else None,
        training=Training(
            recipe=IMPORTED, command=wanted.command, dataset=images.name, steps=0, planned_steps=0, seed=0
        ),
    )
    out = wanted.out.resolve()
    above = next(folder for folder in out.parents if folder.exists())
    with tempfile.TemporaryDirectory(prefix=".import-", dir=above) as folder:
        directory = Path(folder) / wanted.out.absolute().name
        save_checkpoint(directory, config, sampler, "float32")
        if content is not None:
            write_file(directory / FILE, content)
        checkpoint = replace(load_checkpoint(directory, wanted.device), backbone=backbone)
        try:
            described = replace(images.dataset, train=train[:MOST_DESCRIBED])
            checkpoint = calibrate_checkpoint(checkpoint, directory, described)
            metrics = measure_directory(directory, checkpoint, images.dataset, {})
        except (CheckpointError, NotFiniteError) as error:
            reason = error.reason if isinstance(error, CheckpointError) else str(error)
            raise NetworkError(f"the images in {show(wanted.calibrate)} cannot be used: {reason}") from error
        assert isinstance(metrics, ClassificationMetrics)
        report = make_report(wanted.out, wanted.calibrate, images, checkpoint, metrics)
        write_file(directory / REPORT_FILE, dump_json(report))
        if wanted.examples:
            write_examples(directory, images)
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.exists():
            out.rmdir()  # it is empty
        directory.replace(out)
    return report
