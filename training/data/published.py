"""Published files of datasets: where they are, how they are verified, and how they are read."""

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pooch
import torch
from numpy.typing import NDArray

from training.data.dataset import DatasetError, Examples
from training.progress import Bar


@dataclass(frozen=True)
class PublishedFile:
    """A published file."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Publication:
    """Files that are published together. They are kept in their own folder below the data folder."""

    folder: str
    url: str
    files: tuple[PublishedFile, ...]
    archive: PublishedFile | None = None
    """A tar file that holds the folder with the files, unless they are published one by one."""

    def locate(self, data: Path) -> list[Path]:
        """Paths of all files. Missing files are downloaded, and all checksums are verified.

        Raises:
            DatasetError: if a file is damaged, or missing and not available.
        """
        return [self._locate(data / self.folder, file) for file in self.files]

    def _locate(self, folder: Path, file: PublishedFile) -> Path:
        path = folder / file.name
        if not path.exists():
            self._download(path, file)
        if pooch.file_hash(str(path)) != file.sha256:
            raise DatasetError(
                f"{path} is damaged: its SHA-256 is not {file.sha256}. Delete it, and it is downloaded again, "
                f"or replace it with a good copy of {self._name_source(file)}."
            )
        return path

    def _download(self, path: Path, file: PublishedFile) -> None:
        fetched = self.archive or file
        folder = path.parent.parent if self.archive else path.parent
        unpack = pooch.Untar(members=[f"{self.folder}/{each.name}" for each in self.files], extract_dir=".")
        try:
            with Bar(f"downloading {fetched.name}", "byte", 0) as bar:
                pooch.retrieve(
                    self.url + fetched.name,
                    fetched.sha256,
                    fname=fetched.name,
                    path=folder,
                    processor=unpack if self.archive else None,
                    progressbar=bar,
                )
        except (OSError, ValueError) as error:
            path.unlink(missing_ok=True)
            raise DatasetError(
                f"{path} is missing and could not be downloaded ({error}). Put {self._name_source(file)} there, "
                f"or pass --data with a folder that holds {self.folder}/{file.name}."
            ) from error
        finally:
            if self.archive:
                (folder / self.archive.name).unlink(missing_ok=True)

    def _name_source(self, file: PublishedFile) -> str:
        """The file's address, or its name within the archive's."""
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
    """The user's cache folder of this project."""
    return Path(pooch.os_cache("hyperdraw"))


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Reads an array from a gzipped IDX file of bytes.

    Raises:
        DatasetError: if the file has another format.
    """
    try:
        content = gzip.decompress(path.read_bytes())
        zeros, kind, rank = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{rank}I", content, 4)
        if (zeros, kind) != (0, 0x08):
            raise ValueError("wrong magic number")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise DatasetError(f"{path} is not a gzipped IDX file of bytes: {error}") from error


def read_cifar(path: Path) -> Examples:
    """Reads examples from a file of CIFAR-10's binary version.

    An example is a label, followed by red, green and blue of 32 × 32 pixels.

    Raises:
        DatasetError: if the file has another format.
    """
    try:
        rows = torch.from_numpy(np.fromfile(path, np.uint8).reshape(-1, 1 + 3 * 32 * 32))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} is not a file of CIFAR-10's binary version: {error}") from error
    return Examples(rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0].long())
