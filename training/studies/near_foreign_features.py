"""The study of near-foreign photographs: what outliers among features do for networks on a backbone's features.

Some hundred photographs of five classes of CIFAR-10 train, and those of the other five are foreign. The networks read
features as a backbone's head does (`own_images`), or as vectors (`own_vectors`).
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from models.checkpoint import load_checkpoint
from models.checkpoint_files import dump_json, write_file
from models.inputs.image import ImageSpec
from models.inputs.vector import VectorSpec
from training.backbones.source import open_backbone, place_backbone
from training.data.dataset import Dataset, Examples
from training.data.datasets import load_cifar_5
from training.data.features import CachedBackbone
from training.data.outlier_sets import load_outliers
from training.data.table import Table
from training.evaluation.evidence import load_evidence
from training.recipes.own_images import own_images
from training.recipes.own_table import own_vectors
from training.recipes.recipe import OutlierExposure, Recipe
from training.runs.checkpoints import measure_directory
from training.runs.session import Session, train
from training.studies.comparison import compare, format_comparison

SIZES = {"train": 300, "validation": 60, "calibration": 80, "test": 200}
"""Images of each class."""

FOREIGN = 800
"""Images of each set of outliers that the networks are judged on."""

STEPS, LARGEST_ENSEMBLE = 800, 16
EXPOSURE = OutlierExposure(inputs_per_step=16, group_size=4, count=2_000)
OUTLIERS: Mapping[str, OutlierExposure | None] = {
    "no-outliers": None,
    "mixes": replace(EXPOSURE, mixes=(0.3, 0.7)),
    "beyond": replace(EXPOSURE, mixes=(1.3, 2.0)),
    "images": EXPOSURE,
}


def study_features(file: Path, size: int, features: Path, out: Path, data: Path) -> None:
    """Compares outliers, with three seeds each, on the features of a backbone; writes to `out`/linear and /vectors.

    Args:
        file: ONNX file of the backbone.
        size: width and height that images are enlarged to, in pixels.
        features: folder in which features are kept.
        out: folder of the trainings and tables.
        data: folder of the datasets.
    """
    spec, plain = open_backbone(file, size)
    backbone = CachedBackbone(plain, features)
    images, foreign = _load_photographs(data, spec, backbone)
    linear = own_images("linear", spec.shape, 5, len(images.train), flip=True, features=backbone.spec.feature_shape)
    _compare(replace(linear, name="linear"), OUTLIERS, images, foreign, out / "linear", data, file)
    vectors, foreign_vectors = _see(images), {name: images.view.prepare(one) for name, one in foreign.items()}
    perceptron = own_vectors(Table("file:inputs:labels@0", "labels", vectors, {}, 0))
    exposures = {name: exposure for name, exposure in OUTLIERS.items() if name != "images"}
    _compare(replace(perceptron, name="vectors"), exposures, vectors, foreign_vectors, out / "vectors", data, file)


def _load_photographs(data: Path, spec: ImageSpec, backbone: CachedBackbone) -> tuple[Dataset, Mapping[str, Tensor]]:
    five, splits = load_cifar_5(data), []
    for name, each in SIZES.items():
        split: Examples = getattr(five, name)
        index = torch.cat([(split.labels == label).nonzero()[:each, 0] for label in range(5)])
        splits.append(Examples(_enlarge(split.inputs[index], spec.height), split.labels[index]))
    outliers = {
        name: _enlarge(some[:FOREIGN], spec.height) for name, some in load_outliers("cifar-5-brief", data).items()
    }
    return Dataset(spec, five.task, *splits, backbone=backbone), outliers


def _enlarge(images: Tensor, size: int) -> Tensor:
    parts = [F.interpolate(part.float(), size=(size, size), mode="bilinear") for part in images.split(500)]
    return torch.cat([part.round().byte() for part in parts])


def _see(images: Dataset) -> Dataset:
    """The features of photographs, as vectors."""
    train, *others = (
        Examples(images.view.prepare(split.inputs), split.labels)
        for split in (images.train, images.validation, images.calibration, images.test)
    )
    mean, std = train.inputs.double().mean(0), train.inputs.double().std(0).clamp(min=1e-6)
    spec = VectorSpec(tuple(map(str, range(len(mean)))), tuple(mean.tolist()), tuple(std.tolist()))
    return Dataset(spec, images.task, train, *others)


def _compare(
    recipe: Recipe,
    exposures: Mapping[str, OutlierExposure | None],
    dataset: Dataset,
    outliers: Mapping[str, Tensor],
    out: Path,
    data: Path,
    file: Path,
) -> None:
    evidences, device = [], torch.device("cpu")
    for seed in range(3):
        for name, exposure in exposures.items():
            own = replace(recipe, dataset=recipe.name, outliers=exposure, largest_ensemble=LARGEST_ENSEMBLE)
            own, place = replace(own, options=f" {name}"), out / name / str(seed)
            if not (place / "metrics.json").exists():
                if dataset.backbone is not None:
                    place_backbone(file, dataset.backbone.spec, place)
                train(Session(own, place, data, device, seed, STEPS, None, False), dataset)
                checkpoint = replace(load_checkpoint(place), backbone=dataset.backbone)
                measure_directory(place, checkpoint, dataset, outliers)
            if (evidence := load_evidence(place)) is not None:
                evidences.append(evidence)
    comparison = compare(evidences, {}, recipe.name, dataset, list(outliers))
    write_file(out / "comparison.json", dump_json(comparison))
    write_file(out / "README.md", format_comparison(comparison).encode())
