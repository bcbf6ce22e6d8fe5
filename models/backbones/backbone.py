"""Pretrained backbones, run by onnxruntime.

Shapes: B images, C channels, H rows, W columns.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from models.backbones.onnx_file import OnnxError, check_onnx
from models.foreign_files import read_file
from models.inputs.image import ImageSpec
from models.inputs.kind import InputKind, TensorSignature
from models.schema import STRICT, Shape, Size

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FILE = "backbone.onnx"
"""The backbone's file in the directory of a checkpoint that has it to itself."""

FOLDER = "backbones"
"""Folder of backbones that several checkpoints share, beside or above theirs. It holds files named <SHA-256>.onnx."""

MAX_BYTES = 2**31 - 1
"""Largest file; Protocol Buffers allows no more."""

NO_GRADIENT = "its pretrained backbone gives no gradient of the image"
"""The reason why images cannot be attacked through a backbone."""

IMAGES_PER_RUN = 16
"""Most images that the backbone sees at a time. More are not faster on a CPU, and need more memory."""

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
"""What runs a backbone, if onnxruntime has it; the first that works. The package onnxruntime-gpu has the first."""

Text = Annotated[str, Field(max_length=1_000)]


class BackboneError(Exception):
    """A backbone that is refused. The reason completes a sentence that begins with the file's name."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, config=STRICT)
class BackboneSpec:
    """A pretrained network between a model's image and its target network, as the checkpoint names it.

    It takes pixels [B, C, H, W], normalised as the model's input says.
    """

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the ONNX file, in hexadecimal."""
    output: Annotated[str, Field(min_length=1, max_length=1_000)]
    """Name of the output that is read."""
    feature_shape: tuple[Size, Size, Size] | tuple[Size]
    """Shape of one image's features: (channels, rows, columns) of a map, or the length of a vector."""
    normalised: bool = False
    """Whether each vector of features is given mean 0 and variance 1 (Ba et al., "Layer Normalization", 2016), so that
    networks learn equally well from features of any scale."""
    source: Text = ""
    """Where the network comes from."""
    licence: Text = ""
    """Licence of its weights."""

    def find_file(self, directory: Path) -> Path:
        """The file for the checkpoint in a directory: its own, or one that is shared.

        Raises:
            BackboneError: if there is none.
        """
        shared = [folder / f"{self.sha256}.onnx" for folder in list_shared_folders(directory)]
        own = directory / FILE
        if (found := next((path for path in (own, *shared) if path.exists()), None)) is None:
            place = f"no folder named {FOLDER} beside or above the checkpoint has {shared[0].name}"
            raise BackboneError(own, f"is missing, and {place}")
        return found


class Backbone:
    """A loaded backbone. Its features depend on the image alone, up to rounding."""

    def __init__(self, spec: BackboneSpec, session: "InferenceSession", nbytes: int) -> None:
        self.spec = spec
        self.nbytes = nbytes
        """Size of its file, and about that of its weights in memory."""
        self.session = session

    def extract(self, pixels: Tensor) -> Tensor:
        """Features of normalised pixels [B, C, H, W], on the CPU: float32 [B, *feature shape]."""
        return self.normalise(self.run(pixels))

    def normalise(self, features: Tensor) -> Tensor:
        """Features [..., *feature shape], normalised if the spec says so."""
        return F.layer_norm(features, self.spec.feature_shape) if self.spec.normalised else features

    def run(self, pixels: Tensor) -> Tensor:
        """The output of the network for pixels [B, C, H, W], on the CPU: float32 [B, *feature shape]."""
        features = torch.empty(len(pixels), *self.spec.feature_shape)
        name = self.session.get_inputs()[0].name
        for block, found in zip(pixels.split(IMAGES_PER_RUN), features.split(IMAGES_PER_RUN), strict=True):
            (values,) = self.session.run([self.spec.output], {name: block.float().contiguous().cpu().numpy()})
            found.numpy()[...] = values
        return features


class BackboneInput(InputKind):
    """Images seen through a backbone: what the target network takes are features.

    No gradient leads back through a backbone, and its features of noisy images take as long as those of the images. So
    these inputs cannot be perturbed.
    """

    form: ClassVar = "files"
    noun: ClassVar = ImageSpec.noun
    dtype: ClassVar = ImageSpec.dtype

    def __init__(self, images: ImageSpec, backbone: Backbone) -> None:
        self.images = images
        self.backbone = backbone

    @property
    def shape(self) -> Shape:
        return self.images.shape

    @property
    def prepared_shape(self) -> Shape:
        return self.backbone.spec.feature_shape

    @property
    def signature(self) -> tuple[TensorSignature, ...]:
        return self.images.signature

    def prepare(self, raw: Tensor) -> Tensor:
        """Features of pixels from 0 to 255, [..., C, H, W]: float32 [..., *feature shape]."""
        images = raw.reshape(-1, *self.images.shape)
        features = torch.empty(len(images), *self.prepared_shape)  # before the large pixels, which leave gaps behind
        for block, found in zip(images.split(IMAGES_PER_RUN), features.split(IMAGES_PER_RUN), strict=True):
            found[...] = self.backbone.extract(self.images.prepare(block))
        return features.view(*raw.shape[:-3], *self.prepared_shape)


def list_shared_folders(directory: Path) -> list[Path]:
    """Folders in which the backbone of the checkpoint in a directory may be, whether or not they exist."""
    return [parent / FOLDER for parent in directory.absolute().parents[:2]]


def look_through(spec: InputKind, backbone: Backbone | None) -> InputKind:
    """An input as the target sees it: unchanged, or through a backbone, which takes images only."""
    if backbone is None:
        return spec
    assert isinstance(spec, ImageSpec)
    return BackboneInput(spec, backbone)


def load_backbone(path: Path, images: ImageSpec, spec: BackboneSpec, most_bytes: int = MAX_BYTES) -> Backbone:
    """Loads the backbone that a checkpoint names, and tries it on images of zeros.

    Args:
        path: path of the ONNX file.
        images: the images that it takes.
        spec: what the file must be.
        most_bytes: largest size of the file.

    Raises:
        BackboneError: if the file is missing, damaged, foreign, too large, or not such a backbone.
    """
    content = read_backbone(path, most_bytes)
    if digest_backbone(content) != spec.sha256:
        raise BackboneError(path, "its SHA-256 is not the one in config.json: damaged, cut short or foreign")
    session = open_session(path, content, images)
    if spec.output not in [output.name for output in session.get_outputs()]:
        raise BackboneError(path, f"has no output {spec.output!r}; it has {list_outputs(session)}")
    shape = probe(path, session, images, spec.output)
    if shape != spec.feature_shape:
        raise BackboneError(path, f"has features of shape {shape} at {images.shape}, not {spec.feature_shape}")
    return Backbone(spec, session, len(content))


def read_backbone(path: Path, most_bytes: int = MAX_BYTES) -> bytes:
    """Reads an ONNX file.

    Raises:
        BackboneError: if it cannot be read or is too large.
    """
    try:
        return read_file(path, min(most_bytes, MAX_BYTES))
    except OSError as error:
        raise BackboneError(path, error.strerror or str(error)) from error


def digest_backbone(content: bytes) -> str:
    """The name of a backbone: SHA-256 of its file, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def open_session(path: Path, content: bytes, images: ImageSpec) -> "InferenceSession":
    """Checks the bytes of an ONNX file, and opens it.

    Its threads sleep between runs. If they waited actively, they would take the processors from PyTorch's.

    Raises:
        BackboneError: if onnxruntime is missing, or if the file is not a network that takes such images.
    """
    try:
        check_onnx(content)
    except OnnxError as error:
        raise BackboneError(path, str(error)) from error
    try:
        import onnxruntime
    except ImportError as error:
        reason = "needs onnxruntime, which is not installed: pip install 'hyperdraw-server[backbone]'"
        raise BackboneError(path, reason) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.load_model_format", "ONNX")  # its other format was not checked
    available = onnxruntime.get_available_providers()
    providers = [provider for provider in PROVIDERS if provider in available]
    try:
        session = onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:  # onnxruntime's errors have no common type
        raise BackboneError(path, f"cannot be run by onnxruntime: {_shorten(error)}") from error
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise BackboneError(path, f"has {len(inputs)} inputs, not the one for images")
    shape = inputs[0].shape
    fits = inputs[0].type == "tensor(float)" and len(shape) == 4 and not isinstance(shape[0], int)
    if not fits or any(isinstance(n, int) and n != own for n, own in zip(shape[1:], images.shape, strict=True)):
        raise BackboneError(
            path,
            f"takes {inputs[0].type} of shape {_show(shape)}, not float images of shape (any number, "
            f"{', '.join(map(str, images.shape))})",
        )
    return session


def list_outputs(session: "InferenceSession") -> str:
    """The names of a session's outputs, for messages."""
    return ", ".join(repr(output.name[:100]) for output in session.get_outputs())


def probe(path: Path, session: "InferenceSession", images: ImageSpec, output: str) -> Shape:
    """Shape of one image's features, tried on two black images.

    Raises:
        BackboneError: if the features are not finite float32 numbers in a vector or a map for each image.
    """
    pixels = images.prepare(torch.zeros(2, *images.shape, dtype=images.dtype)).numpy()
    try:
        (found,) = session.run([output], {session.get_inputs()[0].name: pixels})
    except Exception as error:
        raise BackboneError(path, f"fails on images of shape {images.shape}: {_shorten(error)}") from error
    if not isinstance(found, np.ndarray) or found.dtype != np.float32:
        kind = found.dtype if isinstance(found, np.ndarray) else type(found).__name__
        raise BackboneError(path, f"its output {output!r} is {kind}, not float32")
    if found.ndim not in (2, 4) or len(found) != 2:
        reason = "not a vector or a map (channels, rows, columns) for each"
        raise BackboneError(path, f"its output {output!r} has shape {found.shape} for 2 images, {reason}")
    if not np.isfinite(found).all():
        raise BackboneError(path, f"its output {output!r} is not finite for a black image")
    shape: Shape = found.shape[1:]
    return shape


def _show(shape: list[int | str | None]) -> str:
    return f"({', '.join(str(number)[:20] for number in shape)})"


def _shorten(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
