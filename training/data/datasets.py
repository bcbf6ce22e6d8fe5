"""Datasets by name, and the one that a checkpoint was trained on."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.checkpoint import CheckpointConfig
from models.inputs.image import ImageSpec
from models.inputs.vector import VectorSpec
from models.tasks.classification import Classification
from training.data.cubic import load_cubic
from training.data.dataset import Dataset, DatasetError, Examples, split_randomly
from training.data.image_folders import load_folder_again
from training.data.mixture import Mixture, load_mixture
from training.data.published import CIFAR_10, MNIST, default_data_folder, read_cifar, read_idx
from training.data.table import load_table_again
from training.data.vectors import load_vectors_again

DIGITS = tuple("0123456789")
EIGHT_DIGITS = (0, 1, 2, 4, 5, 6, 8, 9)
"""The digits that some datasets keep. The other two are then foreign, and near: a 3 is like a 2, 5 or 8, a 7 like a 1,
2, 4 or 9."""
IMPORTED = "import"
"""Name for a recipe's, if networks were trained elsewhere. Their dataset holds images that they have not seen."""

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def load_mnist(data: Path) -> Dataset:
    """MNIST (LeCun, Cortes & Burges): 55,000 to train, 2,500 to validate, 2,500 to calibrate, 10,000 to test."""
    train_images, train_labels, test_images, test_labels = map(read_idx, MNIST.locate(data))
    train, validation, calibration = split_randomly(label_images(train_images, train_labels), (55_000, 2_500, 2_500))
    test = label_images(test_images, test_labels)
    spec = ImageSpec(channels=1, height=28, width=28, mean=(0.1307,), std=(0.3081,))
    return Dataset(spec, Classification(DIGITS), train, validation, calibration, test)


def load_mnist_5000(data: Path) -> Dataset:
    """MNIST with only 5,000 random training images and the same other splits (HyperGAN, section 4.1)."""
    mnist = load_mnist(data)
    return replace(mnist, train=mnist.train[:5_000])


def load_cifar_10(data: Path) -> Dataset:
    """CIFAR-10 (Krizhevsky, 2009): 46,000 to train, 2,000 to validate, 2,000 to calibrate, 10,000 to test."""
    *batches, test = map(read_cifar, CIFAR_10.locate(data))
    images, labels = (torch.cat(parts) for parts in zip(*((part.inputs, part.labels) for part in batches), strict=True))
    spec = ImageSpec(channels=3, height=32, width=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
    train, validation, calibration = split_randomly(Examples(images, labels), (46_000, 2_000, 2_000))
    return Dataset(spec, Classification(CIFAR_CLASSES), train, validation, calibration, test)


def load_cifar_10_5000(data: Path) -> Dataset:
    """CIFAR-10 with only 5,000 random training images and the same other splits (HyperGAN, section 4.1)."""
    cifar = load_cifar_10(data)
    return replace(cifar, train=cifar.train[:5_000])


def load_cifar_5(data: Path) -> Dataset:
    """The first five classes of CIFAR-10 in all splits (HyperGAN, section 4.1)."""
    return keep_classes(load_cifar_10(data), range(5))


def load_cifar_5_brief(data: Path) -> Dataset:
    """CIFAR-5, of which the splits that do not train have 500, 500 and 2,000 images, which are judged soon."""
    return _hold_out_fewer(load_cifar_5(data), 500, 500, 2_000)


def load_mnist_8(data: Path) -> Dataset:
    """MNIST without 3 and 7 in all splits, of which those that do not train have 500, 500 and 4,000 images."""
    return _hold_out_fewer(keep_classes(load_mnist(data), EIGHT_DIGITS), 500, 500, 4_000)


def load_digits(data: Path) -> Dataset:
    """The 1,797 digits of 8 × 8 pixels in scikit-learn: 1,097 to train, 200, 200 and 300 for the other splits."""
    splits = split_randomly(_read_digits(), (1_097, 200, 200, 300))
    spec = ImageSpec(channels=1, height=8, width=8, mean=(0.3053,), std=(0.3764,))
    return Dataset(spec, Classification(DIGITS), *splits)


def load_digits_8(data: Path) -> Dataset:
    """The digits of scikit-learn without 3 and 7 in all splits."""
    return keep_classes(load_digits(data), EIGHT_DIGITS)


def keep_classes(dataset: Dataset, known: Sequence[int]) -> Dataset:
    """The same splits with the examples of some classes, which are numbered in this order, and without all others."""
    assert isinstance(dataset.task, Classification)
    numbers = torch.full((len(dataset.task.classes),), -1)
    numbers[list(known)] = torch.arange(len(known))
    splits = []
    for split in (dataset.train, dataset.validation, dataset.calibration, dataset.test):
        labels = numbers[split.labels]
        splits.append(Examples(split.inputs[labels >= 0], labels[labels >= 0]))
    return Dataset(dataset.input, Classification(tuple(dataset.task.classes[number] for number in known)), *splits)


def _hold_out_fewer(dataset: Dataset, validation: int, calibration: int, test: int) -> Dataset:
    return replace(
        dataset,
        validation=dataset.validation[:validation],
        calibration=dataset.calibration[:calibration],
        test=dataset.test[:test],
    )


@cache
def _read_digits() -> Examples:
    """Reads the file of scikit-learn, which takes a second to import."""
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    rows = np.loadtxt(str(file), delimiter=",")
    images = rows[:, :64].reshape(-1, 8, 8)  # of 0 to 16
    return label_images((images * (255 / 16)).round().astype(np.uint8), rows[:, 64])


def label_images(images: NDArray[np.uint8], labels: NDArray[np.generic]) -> Examples:
    """Makes examples of grey images, uint8 [N, H, W], and their classes, [N]."""
    return Examples(torch.tensor(images)[:, None], torch.tensor(labels.astype(np.int64)))


_DATASETS: dict[str, Callable[[Path], Dataset | Mixture]] = {
    "mnist": load_mnist,
    "mnist-5000": load_mnist_5000,
    "mnist-8": load_mnist_8,
    "cifar-10": load_cifar_10,
    "cifar-10-5000": load_cifar_10_5000,
    "cifar-5": load_cifar_5,
    "cifar-5-brief": load_cifar_5_brief,
    "digits": load_digits,
    "digits-8": load_digits_8,
    "cubic": load_cubic,
    "mixture": load_mixture,
}


def load_dataset(name: str, data: Path) -> Dataset | Mixture:
    """Loads a dataset by name; `data` is the folder that holds its files or receives them.

    Raises:
        DatasetError: if there is no such dataset, or if a file is damaged or not available.
    """
    if name not in _DATASETS:
        raise DatasetError(f"there is no dataset {name!r}; choose one of {', '.join(_DATASETS)}")
    return _DATASETS[name](data)


def load_training_data(config: CheckpointConfig, data: Path) -> Dataset | Mixture:
    """Loads the dataset that a checkpoint was trained on; `data` holds its files, or is the user's own folder or table.

    It is in folds if the checkpoint was calibrated in folds.

    Raises:
        DatasetError: as `load_dataset`, or if the user's data is not what it was.
    """
    dataset = _load_training_splits(config, data)
    return dataset.in_folds(config.training.folds) if isinstance(dataset, Dataset) else dataset


def _load_training_splits(config: CheckpointConfig, data: Path) -> Dataset | Mixture:
    name, spec, task = config.training.dataset, config.input, config.task
    if "@" not in name:
        return load_dataset(name, data)
    if data == default_data_folder():
        columns = 0 if isinstance(spec, ImageSpec) else 2 if isinstance(spec, VectorSpec) else 1
        original = name.rsplit("@", 1)[0].rsplit(":", columns)[0]
        raise DatasetError(f"the model was trained on your own data, {original}; pass it with --data")
    if isinstance(spec, ImageSpec):
        return load_folder_again(name, data, spec, task.outputs if config.training.recipe == IMPORTED else None)
    load_again = load_vectors_again if isinstance(spec, VectorSpec) else load_table_again
    return load_again(name, data, spec, task)
