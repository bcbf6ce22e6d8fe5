"""Datasets, from their publishers or from a folder that holds their files."""

import gzip
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pooch
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.inputs.pixels import ImageError, decode_image
from models.inputs.spec import ImageSpec, InputSpec, VectorSpec
from models.noise import standard_normal, uniform
from models.tasks.task import Classification, Regression, Task
from training.data.image_tree import USUAL_SUFFIXES, search, show

DIGITS = tuple("0123456789")
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CUBIC_SEED, CUBIC_NOISE = 4, 3.0
MIXTURE_SEED = 0
MAX_IMAGE_PIXELS = 100_000_000


class DatasetError(Exception):
    """A dataset's file that is missing and cannot be had, or is damaged; the message says which and what to do."""


@dataclass(frozen=True)
class Examples:
    """N inputs, as their `InputSpec` takes them, with labels: classes, int64 [N], or numbers, float32 [N, K]."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> "Examples":
        return Examples(self.inputs[index], self.labels[index])


@dataclass(frozen=True)
class Dataset:
    """A dataset in splits with one use each, the same in every run.

    `train` fits weights, `validation` chooses hyper-parameters, `calibration` sets thresholds and nothing else,
    `test` is touched once, at the end.
    """

    input: InputSpec
    task: Task
    train: Examples
    validation: Examples
    calibration: Examples
    test: Examples

    def with_plain_pixels(self) -> "Dataset":
        """The same images, with pixels that stay in [0, 1]."""
        assert isinstance(self.input, ImageSpec)
        zeros, ones = (0.0,) * self.input.channels, (1.0,) * self.input.channels
        return replace(self, input=replace(self.input, mean=zeros, std=ones))


@dataclass(frozen=True)
class Mixture:
    """A density over the weights of a network, in place of data: Gaussians in the plane, D of them.

    The network is a line, and a point of the plane is its slope and its intercept.
    """

    centers: Tensor
    """float32 [D, 2]."""
    deviations: Tensor
    """[D], σ."""
    shares: Tensor
    """[D], p."""
    decay: float = 0.05

    input = VectorSpec(names=("x",), mean=(0.0,), std=(1.0,))
    task = Regression(names=("y",), mean=(0.0,), std=(1.0,), noise_std=(0.0,))

    def measure_density(self, points: Tensor) -> Tensor:
        """f = Σ p · exp(−r² / 2σ²) at points [..., 2]: peaks of height p, not of integral p."""
        squares = (points[..., None, :] - self.centers).square().sum(-1)
        return (self.shares * (-squares / (2 * self.deviations.square())).exp()).sum(-1)

    def find_peaks(self) -> Tensor:
        """The density's local maxima, [peaks, 2]: fewer than Gaussians, as close ones share a peak.

        Found by mean shift from every centre (Carreira-Perpiñán, "Mode-finding for mixtures of Gaussian distributions",
        2000); every maximum of these is reached from one.
        """
        points = self.centers.double()
        precisions = self.deviations.double() ** -2
        for _ in range(10_000):
            squares = (points[:, None] - self.centers).square().sum(-1)
            pulls = self.shares * precisions * (-squares * precisions / 2).exp()
            points = pulls @ self.centers.double() / pulls.sum(1, keepdim=True)
        peaks: list[Tensor] = []
        for point in points:
            if all((point - peak).norm() > 1e-3 for peak in peaks):
                peaks.append(point)
        return torch.stack(peaks).float()

    def measure_energy(self, points: Tensor) -> Tensor:
        """−f + 0.05 ‖y‖², what a sampler minimises against its entropy, at points [..., 2]."""
        return self.decay * points.square().sum(-1) - self.measure_density(points)

    def to(self, device: torch.device) -> "Mixture":
        return Mixture(self.centers.to(device), self.deviations.to(device), self.shares.to(device), self.decay)


@dataclass(frozen=True)
class PublishedFile:
    """A file as its publisher offers it."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Publication:
    """Files that are published together, kept in a folder of their own below the data folder."""

    folder: str
    url: str
    files: tuple[PublishedFile, ...]
    archive: PublishedFile | None = None
    """A tar file that holds the folder with the files, where they are not published one by one."""

    def locate(self, data: Path) -> list[Path]:
        """Paths of all files, downloaded if they are not there yet, checksums verified.

        Raises:
            DatasetError: if a file is damaged, or missing and not to be had.
        """
        return [self._locate(data / self.folder, file) for file in self.files]

    def _locate(self, folder: Path, file: PublishedFile) -> Path:
        path = folder / file.name
        if not path.exists():
            self._download(path, file)
        if pooch.file_hash(str(path)) != file.sha256:
            raise DatasetError(
                f"{path} is damaged: its SHA-256 is not {file.sha256}. Delete it to have it downloaded again, "
                f"or put a good copy of {self._describe_source(file)} there."
            )
        return path

    def _download(self, path: Path, file: PublishedFile) -> None:
        fetched = self.archive or file
        folder = path.parent.parent if self.archive else path.parent
        unpack = pooch.Untar(members=[f"{self.folder}/{each.name}" for each in self.files], extract_dir=".")
        try:
            pooch.retrieve(
                self.url + fetched.name,
                fetched.sha256,
                fname=fetched.name,
                path=folder,
                processor=unpack if self.archive else None,
                progressbar=True,
            )
        except (OSError, ValueError) as error:
            path.unlink(missing_ok=True)
            raise DatasetError(
                f"{path} is missing and could not be downloaded ({error}). Get {self._describe_source(file)} and put "
                f"it there, or pass --data with a folder that holds {self.folder}/{file.name}."
            ) from error
        finally:
            if self.archive:
                (folder / self.archive.name).unlink(missing_ok=True)

    def _describe_source(self, file: PublishedFile) -> str:
        """Where a file comes from."""
        return f"{file.name} of {self.url}{self.archive.name}" if self.archive else self.url + file.name


MNIST = Publication(
    folder="mnist",
    url="https://ossci-datasets.s3.amazonaws.com/mnist/",
    files=(
        PublishedFile("train-images-idx3-ubyte.gz", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        PublishedFile("train-labels-idx1-ubyte.gz", "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        PublishedFile("t10k-images-idx3-ubyte.gz", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        PublishedFile("t10k-labels-idx1-ubyte.gz", "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    ),
)

NOTMNIST = Publication(
    folder="notmnist",
    url="https://raw.githubusercontent.com/davidflanagan/notMNIST-to-MNIST/17823f4d4a3acd8317c07866702d2eb2ac79c7a0/",
    files=(
        PublishedFile("t10k-images-idx3-ubyte.gz", "70ae9e06201f2827e5b0a3781a3169d735dd2efc69996b9eeaee7f10ed4044d7"),
        PublishedFile("t10k-labels-idx1-ubyte.gz", "1fa03836e01c862542f8eb83463bb951bebec6fcb3efa28dad748c6b38a9021b"),
    ),
)

FASHION_MNIST = Publication(
    folder="fashion-mnist",
    url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    files=(
        PublishedFile("t10k-images-idx3-ubyte.gz", "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
    ),
)

CIFAR_10 = Publication(
    folder="cifar-10-batches-bin",
    url="https://www.cs.toronto.edu/~kriz/",
    files=(
        PublishedFile("data_batch_1.bin", "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
        PublishedFile("data_batch_2.bin", "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
        PublishedFile("data_batch_3.bin", "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
        PublishedFile("data_batch_4.bin", "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
        PublishedFile("data_batch_5.bin", "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
        PublishedFile("test_batch.bin", "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
    ),
    archive=PublishedFile("cifar-10-binary.tar.gz", "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),
)


def default_data_folder() -> Path:
    """The user's cache folder for this project."""
    return Path(pooch.os_cache("hyperdraw"))


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An array from a gzipped IDX file of bytes.

    Raises:
        DatasetError: if the file is not one.
    """
    try:
        content = gzip.decompress(path.read_bytes())
        zeros, kind, rank = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{rank}I", content, 4)
        if (zeros, kind) != (0, 0x08):
            raise ValueError("wrong magic number")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise DatasetError(f"{path} is no gzipped IDX file of bytes: {error}") from error


def read_cifar(path: Path) -> Examples:
    """Examples from a file of CIFAR-10's binary version: of each a label, then red, green and blue of 32 × 32 pixels.

    Raises:
        DatasetError: if the file is not one.
    """
    try:
        rows = torch.from_numpy(np.fromfile(path, np.uint8).reshape(-1, 1 + 3 * 32 * 32))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} is no file of CIFAR-10's binary version: {error}") from error
    return Examples(rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0].long())


def load_dataset(name: str, data: Path) -> Dataset | Mixture:
    """A dataset by name; `data` is the folder with, or for, its files.

    Raises:
        DatasetError: if there is no such dataset, or a file of it is damaged or not to be had.
    """
    if name not in _DATASETS:
        raise DatasetError(f"there is no dataset {name!r}, only {', '.join(_DATASETS)}")
    return _DATASETS[name](data)


def load_outliers(
    dataset: str, data: Path, folders: Collection[Path] = (), spec: InputSpec | None = None
) -> dict[str, Tensor]:
    """Inputs unlike those of a dataset, by name: what belongs to the dataset, and folders of images.

    Args:
        dataset: name of the dataset.
        data: folder with, or for, its files.
        folders: of images, which are fitted to the dataset's.
        spec: of the dataset's inputs; without it, the dataset is loaded where there are folders.

    Raises:
        DatasetError: as for `load_dataset`, or if a folder holds no images.
    """
    sets = {name: load(data) for name, load in _OUTLIERS.get(dataset, {}).items()}
    if folders:
        spec = spec or load_dataset(dataset, data).input
        if not isinstance(spec, ImageSpec):
            raise DatasetError(f"{dataset} has no images; a folder of images cannot be told apart from it")
        for folder in folders:
            if folder.name in sets:
                raise DatasetError(f"there are two sets of outliers by the name {folder.name!r}; rename {folder}")
            sets[folder.name] = load_folder(folder, spec)
    return sets


def load_folder(folder: Path, spec: ImageSpec) -> Tensor:
    """All PNG, JPEG and WebP images in a folder and the folders in it, fitted to a target's input, [B, C, H, W].

    Raises:
        DatasetError: if there are none, or one cannot be read.
    """
    if not folder.is_dir():
        raise DatasetError(f"{show(folder)} is no folder")
    try:
        paths = search(folder).images
        images = [decode_image(path.read_bytes(), spec, MAX_IMAGE_PIXELS, show(path)) for path in paths]
    except (ImageError, OSError) as error:
        raise DatasetError(f"a file in {show(folder)} is no image that can be taken. {error}") from error
    if not images:
        raise DatasetError(f"{show(folder)} holds no images; they must end in {', '.join(USUAL_SUFFIXES)}")
    return torch.stack(images)


def load_mnist(data: Path) -> Dataset:
    """MNIST (LeCun, Cortes & Burges): 55,000 to train, 2,500 to validate, 2,500 to calibrate, 10,000 to test."""
    train_images, train_labels, test_images, test_labels = map(read_idx, MNIST.locate(data))
    train, validation, calibration = _split(_labelled(train_images, train_labels), (55_000, 2_500, 2_500))
    test = _labelled(test_images, test_labels)
    spec = ImageSpec(channels=1, height=28, width=28, mean=(0.1307,), std=(0.3081,))
    return Dataset(spec, Classification(DIGITS), train, validation, calibration, test)


def load_mnist_5000(data: Path) -> Dataset:
    """MNIST with 5,000 random images to train on; the other splits are those of MNIST (HyperGAN, section 4.1)."""
    mnist = load_mnist(data)
    return replace(mnist, train=mnist.train[:5_000])


def load_cifar_10(data: Path) -> Dataset:
    """CIFAR-10 (Krizhevsky, 2009): 46,000 to train, 2,000 to validate, 2,000 to calibrate, 10,000 to test."""
    *batches, test = map(read_cifar, CIFAR_10.locate(data))
    images, labels = (torch.cat(parts) for parts in zip(*((part.inputs, part.labels) for part in batches), strict=True))
    spec = ImageSpec(channels=3, height=32, width=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
    train, validation, calibration = _split(Examples(images, labels), (46_000, 2_000, 2_000))
    return Dataset(spec, Classification(CIFAR_CLASSES), train, validation, calibration, test)


def load_cifar_10_5000(data: Path) -> Dataset:
    """CIFAR-10 with 5,000 random images to train on; the other splits are those of CIFAR-10 (HyperGAN, section 4.1)."""
    cifar = load_cifar_10(data)
    return replace(cifar, train=cifar.train[:5_000])


def load_cifar_5(data: Path) -> Dataset:
    """The first five classes of CIFAR-10, of all its splits (HyperGAN, section 4.1)."""
    cifar = load_cifar_10(data)
    known = [split[split.labels < 5] for split in (cifar.train, cifar.validation, cifar.calibration, cifar.test)]
    return Dataset(cifar.input, Classification(CIFAR_CLASSES[:5]), *known)


def load_cifar_5_others(data: Path) -> Tensor:
    """The test images of the five classes that CIFAR-5 leaves out."""
    test = load_cifar_10(data).test
    return test.inputs[test.labels >= 5]


def load_digits(data: Path) -> Dataset:
    """The 1,797 digits of 8 × 8 pixels that scikit-learn carries: 1,097, 200, 200 and 300 of them."""
    from sklearn.datasets import load_digits as load_from_sklearn  # only this dataset needs it

    bunch = load_from_sklearn()
    pixels = (bunch.images * (255 / 16)).round().astype(np.uint8)
    splits = _split(_labelled(pixels, bunch.target), (1_097, 200, 200, 300))
    spec = ImageSpec(channels=1, height=8, width=8, mean=(0.3053,), std=(0.3764,))
    return Dataset(spec, Classification(DIGITS), *splits)


def load_cubic(data: Path) -> Dataset:
    """y = x³ + N(0, 3²) with x uniform on (−4, 4): 20 points to train on (HyperGAN, section 4.2), more to measure."""
    input_spec = VectorSpec(names=("x",), mean=(0.0,), std=(2.3,))
    task = Regression(names=("y",), mean=(0.0,), std=(24.0,), noise_std=(CUBIC_NOISE,))
    sizes = 20, 100, 200, 400
    splits = [_draw_cubic(size, stream) for stream, size in enumerate(sizes)]
    return Dataset(input_spec, task, *splits)


def load_cubic_beyond(data: Path) -> Tensor:
    """400 inputs on (−6, −4) and (4, 6), where the cubic has no data."""
    x = uniform(CUBIC_SEED, range(400), 1, stream=4)
    return x.sign() * 4 + x * 2


def load_mixture(data: Path) -> Mixture:
    """Ten Gaussians: centres uniform in (−5, 5)², σ in (1, 1.1), weights in (1, 3) (Deutsch 2018, section 4.1)."""
    x, y, deviation, share = uniform(MIXTURE_SEED, range(10), 4).T
    return Mixture(5 * torch.stack([x, y], dim=1), 1.05 + 0.05 * deviation, 2 + share)


def load_fashion_mnist(data: Path) -> Tensor:
    """Fashion-MNIST (Xiao, Rasul & Vollgraf, 2017): the 10,000 test images, of clothes."""
    return torch.tensor(read_idx(FASHION_MNIST.locate(data)[0]))[:, None]


def load_notmnist(data: Path) -> Tensor:
    """notMNIST (Bulatov, 2011): 10,000 glyphs of the letters A to J."""
    images, _ = map(read_idx, NOTMNIST.locate(data))
    return torch.tensor(images)[:, None]


_DATASETS: dict[str, Callable[[Path], Dataset | Mixture]] = {
    "mnist": load_mnist,
    "mnist-5000": load_mnist_5000,
    "cifar-10": load_cifar_10,
    "cifar-10-5000": load_cifar_10_5000,
    "cifar-5": load_cifar_5,
    "digits": load_digits,
    "cubic": load_cubic,
    "mixture": load_mixture,
}


def _fit_cifar(images: Tensor) -> Tensor:
    """Grey images of 28 × 28 pixels as colours of 32 × 32, with a black border."""
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
    "cifar-10": _OUTLIERS_OF_CIFAR,
    "cifar-10-5000": _OUTLIERS_OF_CIFAR,
    "cifar-5": {"cifar-5-others": load_cifar_5_others},
    "cubic": {"cubic-beyond": load_cubic_beyond},
}
"""Of each dataset, by name."""


def _draw_cubic(size: int, stream: int) -> Examples:
    x = 4 * uniform(CUBIC_SEED, range(size), 1, stream)
    return Examples(x, x**3 + CUBIC_NOISE * standard_normal(CUBIC_SEED, range(size), 2, stream)[:, 1:])


def _labelled(images: NDArray[np.uint8], labels: NDArray[np.generic]) -> Examples:
    return Examples(torch.tensor(images)[:, None], torch.tensor(labels.astype(np.int64)))


def _split(data: Examples, sizes: tuple[int, ...]) -> list[Examples]:
    """Random parts that are the same in every run, whatever its seed."""
    assert sum(sizes) == len(data)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    return [data[part] for part in order.split(list(sizes))]
