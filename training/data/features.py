"""Features of images, computed once by a backbone and kept.

Shapes: B images, C channels, H rows, W columns.
"""

import dataclasses
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.backbones.backbone import Backbone
from models.checkpoint import Checkpoint
from models.targets.layers import numel
from training.data.published import default_data_folder

if sys.platform != "win32":
    import fcntl

FEATURES, DIGESTS, LOCK = "features.float32", "digests.sha256", "lock"
"""Files of a cache. The first two have one entry for each image, in the same order."""

DIGEST_BYTES = 32


def default_feature_folder() -> Path:
    """The folder in which features are kept."""
    return default_data_folder() / "features"


class CachedBackbone(Backbone):
    """A backbone that keeps the features of each image that it has seen, in a folder.

    An image is known by the SHA-256 of its normalised pixels, so features are found again whatever set, size or view
    it comes from. Several processes may use the same folder. Features are mapped into memory, not read.
    """

    def __init__(self, backbone: Backbone, folder: Path) -> None:
        """Opens the cache in a folder of caches, or starts one.

        Args:
            backbone: computes what is missing.
            folder: holds a folder for each backbone and output.
        """
        super().__init__(backbone.spec, backbone.session, backbone.nbytes)
        spec = backbone.spec
        identity = f"{spec.sha256} {spec.output} {spec.feature_shape}"
        self._folder = folder / hashlib.sha256(identity.encode()).hexdigest()[:32]
        self._folder.mkdir(parents=True, exist_ok=True)
        self._entry_bytes = 4 * numel(spec.feature_shape)
        self._rows: dict[bytes, int] = {}
        self._features = np.empty((0, *spec.feature_shape), np.float32)
        with self._lock():
            self._refresh()

    def extract(self, pixels: Tensor) -> Tensor:
        return self.read(self.locate(pixels))

    def locate(self, pixels: Tensor) -> Tensor:
        """Rows of the features of normalised pixels [B, C, H, W], which are computed if missing: int64 [B]."""
        digests = [hashlib.sha256(image.numpy()).digest() for image in pixels.float().contiguous().cpu()]
        if any(digest not in self._rows for digest in digests):
            with self._lock():
                self._refresh()  # another process may have computed them
                missing = {digest: i for i, digest in enumerate(digests) if digest not in self._rows}
                if missing:
                    self._append(list(missing), self.run(pixels[list(missing.values())]))
        return torch.tensor([self._rows[digest] for digest in digests], dtype=torch.int64)

    def read(self, rows: Tensor) -> Tensor:
        """The features at rows [...]: float32 [..., *feature shape]."""
        return self.normalise(torch.from_numpy(np.asarray(self._features[rows.numpy()])))

    def _append(self, digests: Sequence[bytes], features: Tensor) -> None:
        """Writes features before their digests, so that a digest always has its features."""
        for name, content in ((FEATURES, features.numpy().tobytes()), (DIGESTS, b"".join(digests))):
            with (self._folder / name).open("ab") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        self._refresh()

    def _refresh(self) -> None:
        """Maps what is on disk. What a process that was killed has written in part is cut off."""
        paths = self._folder / FEATURES, self._folder / DIGESTS
        sizes = self._entry_bytes, DIGEST_BYTES
        counts = [path.stat().st_size // size if path.exists() else 0 for path, size in zip(paths, sizes, strict=True)]
        count = min(counts)
        for path, size in zip(paths, sizes, strict=True):
            if path.exists() and path.stat().st_size > count * size:
                os.truncate(path, count * size)
        if count > len(self._rows):
            known = len(self._rows)
            with paths[1].open("rb") as file:
                file.seek(known * DIGEST_BYTES)
                found = file.read()
            for row in range(known, count):
                start = (row - known) * DIGEST_BYTES
                self._rows[found[start : start + DIGEST_BYTES]] = row
            shape = count, *self.spec.feature_shape
            self._features = np.memmap(paths[0], np.float32, mode="r", shape=shape)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self._folder / LOCK).open("wb") as file:
            if sys.platform != "win32":
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def cache_features(checkpoint: Checkpoint, folder: Path | None = None) -> Checkpoint:
    """The same checkpoint with features that are kept, if it has a backbone."""
    if checkpoint.backbone is None:
        return checkpoint
    cached = CachedBackbone(checkpoint.backbone, folder or default_feature_folder())
    return dataclasses.replace(checkpoint, backbone=cached)
