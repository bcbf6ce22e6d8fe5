"""Sets of outliers: inputs unlike those of a dataset.

Shapes: B inputs.
"""

from collections.abc import Callable, Collection
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from models.inputs.image import ImageSpec
from models.inputs.image_formats import SUFFIXES
from models.inputs.pixels import ImageError, decode_image
from models.inputs.spec import InputSpec
from training.data.cubic import load_cubic_beyond
from training.data.dataset import DatasetError, Examples
from training.data.datasets import EIGHT_DIGITS, load_cifar_10, load_dataset, load_digits, load_mnist
from training.data.image_folders import MAX_IMAGE_PIXELS
from training.data.image_tree import search, show
from training.data.published import FASHION_MNIST, NOTMNIST, read_idx


def load_outliers(
    dataset: str, data: Path, folders: Collection[Path] = (), spec: InputSpec | None = None
) -> dict[str, Tensor]:
    """Loads inputs unlike those of a dataset, by name: the dataset's usual outliers, and folders of images.

    Args:
        dataset: name of the dataset.
        data: folder that holds the datasets' files or receives them.
        folders: folders of images, which are resized to the dataset's.
        spec: describes the dataset's inputs; if not given, the dataset is loaded when there are folders.

    Raises:
        DatasetError: as `load_dataset`, or if a folder holds no images.
    """
    sets = {name: load(data) for name, load in _OUTLIERS.get(dataset, {}).items()}
    if folders:
        spec = spec or load_dataset(dataset, data).input
        if not isinstance(spec, ImageSpec):
            raise DatasetError(f"{dataset} has no images, so folders of images cannot be its outliers")
        for folder in folders:
            if folder.name in sets:
                raise DatasetError(f"two sets of outliers are named {folder.name!r}; rename {folder}")
            sets[folder.name] = load_folder(folder, spec)
    return sets


def load_folder(folder: Path, spec: ImageSpec) -> Tensor:
    """Loads all images below a folder, resized to a target's input, [B, C, H, W].

    Raises:
        DatasetError: if there are no images, or if one cannot be read.
    """
    if not folder.is_dir():
        raise DatasetError(f"{show(folder)} is not a folder")
    try:
        paths = search(folder).images
        images = [decode_image(path.read_bytes(), spec, MAX_IMAGE_PIXELS, show(path)) for path in paths]
    except (ImageError, OSError) as error:
        raise DatasetError(f"a file in {show(folder)} cannot be used. {error}") from error
    if not images:
        raise DatasetError(f"{show(folder)} holds no images; their names must end in {', '.join(SUFFIXES)}")
    return torch.stack(images)


def load_cifar_5_others(data: Path) -> Tensor:
    """CIFAR-10's test images of the five classes that CIFAR-5 leaves out."""
    test = load_cifar_10(data).test
    return test.inputs[test.labels >= 5]


def load_mnist_3_and_7(data: Path) -> Tensor:
    """MNIST's test images of the two digits that `mnist-8` leaves out."""
    return _take_3_and_7(load_mnist(data).test)


def load_digits_3_and_7(data: Path) -> Tensor:
    """The digits of scikit-learn that `digits-8` leaves out, of all splits, because those of one are few."""
    digits = load_digits(data)
    splits = digits.train, digits.validation, digits.calibration, digits.test
    return torch.cat([_take_3_and_7(split) for split in splits])


def _take_3_and_7(examples: Examples) -> Tensor:
    return examples.inputs[~torch.isin(examples.labels, torch.tensor(EIGHT_DIGITS))]


def load_fashion_mnist(data: Path) -> Tensor:
    """Fashion-MNIST (Xiao, Rasul & Vollgraf, 2017): the 10,000 test images, of clothes."""
    return torch.tensor(read_idx(FASHION_MNIST.locate(data)[0]))[:, None]


def load_notmnist(data: Path) -> Tensor:
    """notMNIST (Bulatov, 2011): 10,000 glyphs of the letters A to J."""
    images, _ = map(read_idx, NOTMNIST.locate(data))
    return torch.tensor(images)[:, None]


def _fit_cifar(images: Tensor) -> Tensor:
    """Makes colour images of 32 × 32 pixels of grey ones of 28 × 28, with a black border."""
    return F.pad(images, (2, 2, 2, 2)).expand(-1, 3, -1, -1)


_Sets = dict[str, Callable[[Path], Tensor]]
_OUTLIERS_OF_MNIST: _Sets = {"notmnist": load_notmnist, "fashion-mnist": load_fashion_mnist}

_OUTLIERS_OF_CIFAR: _Sets = {
    "notmnist": lambda data: _fit_cifar(load_notmnist(data)),
    "fashion-mnist": lambda data: _fit_cifar(load_fashion_mnist(data)),
}

_OUTLIERS: dict[str, _Sets] = {
    "mnist": _OUTLIERS_OF_MNIST,
    "mnist-5000": _OUTLIERS_OF_MNIST,
    "mnist-8": {"mnist-3-and-7": load_mnist_3_and_7, "notmnist": lambda data: load_notmnist(data)[:2_000]},
    "cifar-10": _OUTLIERS_OF_CIFAR,
    "cifar-10-5000": _OUTLIERS_OF_CIFAR,
    "cifar-5": {"cifar-5-others": load_cifar_5_others},
    "cifar-5-brief": {
        "cifar-5-others": lambda data: load_cifar_5_others(data)[:2_000],
        "notmnist": lambda data: _fit_cifar(load_notmnist(data)[:2_000]),
    },
    "digits-8": {"digits-3-and-7": load_digits_3_and_7},
    "cubic": {"cubic-beyond": load_cubic_beyond},
}
"""Each dataset's usual outliers, by name."""
