"""Decoding of untrusted image files."""

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from PIL import Image, ImageChops
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from models.inputs.image_file import FaultKind, FileError, Format, ImageFile, ambiguous, damaged
from models.inputs.image_files import read_image_file

if TYPE_CHECKING:  # a process that decodes images needs no tensors
    from torch import Tensor

    from models.inputs.image import ImageSpec

# Pillow's WebP decoder enforces this process-wide limit. `max_pixels` replaces it, and is checked before Pillow sees a
# file.
Image.MAX_IMAGE_PIXELS = None

_DECODERS: dict[Format, Callable[[io.BytesIO], Image.Image]] = {
    "PNG": PngImageFile,
    "JPEG": JpegImageFile,
    "WEBP": WebPImageFile,
}
"""Decoders, called directly, because `Image.open` emits warnings, which also concern the whole process."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that turns an image upright, by orientation."""


class ImageError(Exception):
    """An image that is refused; the message says why."""

    def __init__(self, kind: FaultKind, message: str, hint: str) -> None:
        super().__init__(kind, message, hint)  # all arguments, so that it can be copied
        self.kind = kind
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}"


def decode_image(content: bytes, spec: "ImageSpec", max_pixels: int, name: str) -> "Tensor":
    """Decodes one image like `decode_pixels`, to uint8 [C, H, W]."""
    import torch

    channels, height, width = spec.shape
    pixels = bytearray(decode_pixels(content, spec.shape, max_pixels, name))
    return torch.frombuffer(pixels, dtype=torch.uint8).view(height, width, channels).permute(2, 0, 1).contiguous()


def decode_pixels(content: bytes, shape: Sequence[int], max_pixels: int, name: str) -> bytes:
    """Decodes one image and fits it to a model's input.

    An image of the right size is used unchanged. Others are resized with antialiasing; their aspect ratio may change.
    If the model takes grey images, colours become grey by luma. Images that can be read in several ways are refused: an
    image must be a single opaque picture in grey or RGB, with 8 bits per channel (grey also 1, 2 or 4) and no palette.
    It may have an alpha channel, or a transparent colour, as long as no pixel is transparent. In a camera's JPEG with
    several pictures, the first counts. Metadata, damaged or not, affects only the orientation.

    The result depends only on the arguments, in any thread or process.

    Args:
        content: a PNG, JPEG or WebP file.
        shape: shape of the model's input: C, H and W.
        max_pixels: limit on width × height, checked before anything is decoded; three quarters of it for WebP.
        name: the image's name, for messages.

    Returns:
        the pixels, one byte per channel, [H, W, C].

    Raises:
        ImageError: if the image has too many pixels, or is not a plain 8-bit image.
    """
    try:
        file = read_image_file(content, max_pixels)
        return _fit(_decode(file), file, shape)
    except FileError as error:
        raise ImageError(error.kind, f"{name} {error.reason}.", error.hint) from error


def encode_image(pixels: "Tensor") -> bytes:
    """A PNG file from uint8 [C, H, W] with 1 or 3 channels. `decode_image` returns the same pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).squeeze(-1).numpy()).save(file, "PNG")
    return file.getvalue()


def _decode(file: ImageFile) -> Image.Image:
    """The image as stored, if it is opaque."""
    try:
        image = _DECODERS[file.format](io.BytesIO(file.content))
        if image.size != (file.width, file.height):
            raise damaged("its parts declare different sizes")
        image.load()
    except FileError:
        raise
    except Exception as error:  # whatever Pillow raises, the client's bytes are the cause
        raise damaged(f"{error}" or type(error).__name__) from error
    if image.mode in ("LA", "RGBA") and any(image.getchannel("A").histogram()[:255]):
        raise ambiguous("has transparent pixels")
    if file.transparent is not None and _has_colour(image, file.transparent):
        raise ambiguous("has transparent pixels")
    return image


def _has_colour(image: Image.Image, colour: tuple[int, ...]) -> bool:
    """Whether a greyscale or RGB image has a pixel of a colour, given in 8 bits per channel."""
    channels = (image.convert("L") if image.mode == "1" else image).split()
    found = Image.new("L", image.size, 255)
    for channel, value in zip(channels, colour, strict=True):
        found = ImageChops.darker(found, channel.point([255 * (level == value) for level in range(256)]))
    return found.getbbox() is not None


def _fit(image: Image.Image, file: ImageFile, shape: Sequence[int]) -> bytes:
    channels, height, width = shape
    if image.mode != (mode := "L" if channels == 1 else "RGB"):
        image = image.convert(mode)
    if file.orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[file.orientation])
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return image.tobytes()
