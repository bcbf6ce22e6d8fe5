"""Decoding of image files that strangers made."""

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from PIL import Image, ImageChops
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from models.inputs.image_file import FileError, Format, ImageFile, Kind, ambiguous, damaged
from models.inputs.image_files import read_image_file

if TYPE_CHECKING:  # as a process that decodes images needs no tensors
    from torch import Tensor

    from models.inputs.image import ImageSpec

# Pillow's decoder of WebP refuses what exceeds this limit of the whole process. `max_pixels` holds in its place, and it
# is kept before Pillow sees a file.
Image.MAX_IMAGE_PIXELS = None

_DECODERS: dict[Format, Callable[[io.BytesIO], Image.Image]] = {
    "PNG": PngImageFile,
    "JPEG": JpegImageFile,
    "WEBP": WebPImageFile,
}
"""Called directly, as `Image.open` warns, which is a matter of the whole process, too."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its orientation."""


class ImageError(Exception):
    """An image that cannot be taken; the message says why."""

    def __init__(self, kind: Kind, message: str, hint: str) -> None:
        super().__init__(kind, message, hint)  # all that it takes, for copies
        self.kind = kind
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}"


def decode_image(content: bytes, spec: "ImageSpec", max_pixels: int, name: str) -> "Tensor":
    """As `decode_pixels`, for a model's input, as uint8 [C, H, W]."""
    import torch

    channels, height, width = spec.shape
    pixels = bytearray(decode_pixels(content, spec.shape, max_pixels, name))
    return torch.frombuffer(pixels, dtype=torch.uint8).view(height, width, channels).permute(2, 0, 1).contiguous()


def decode_pixels(content: bytes, shape: Sequence[int], max_pixels: int, name: str) -> bytes:
    """Decodes one image and fits it to a model's input.

    An image of the right size is taken as it is; another one is resized, antialiased, without regard to its aspect.
    Colours become grey by luma where the model wants grey. What could be read in several ways is refused: an image is
    a single picture in grey or RGB, opaque, of 8 bits a channel (in grey also of 1, 2 or 4), and without a palette. A
    channel, or a colour, for transparency may be there as long as no pixel is transparent. Of the pictures in a
    camera's JPEG the first counts. Metadata, damaged or not, decides nothing but what is up.

    The verdict depends on the arguments alone, in any thread or process.

    Args:
        content: a PNG, JPEG or WebP file.
        shape: of the model's input, C, H and W.
        max_pixels: limit on width × height, checked on the header before anything is decoded; three quarters of it
            for WebP.
        name: of the image, for messages.

    Returns:
        the pixels, a byte for each of their channels, [H, W, C].

    Raises:
        ImageError: for too many pixels, and for anything that is no plain 8-bit image.
    """
    try:
        file = read_image_file(content, max_pixels)
        return _fit(_decode(file), file, shape)
    except FileError as error:
        raise ImageError(error.kind, f"{name} {error.reason}.", error.hint) from error


def encode_image(pixels: "Tensor") -> bytes:
    """A PNG file from uint8 [C, H, W] with 1 or 3 channels; `decode_image` gives the same pixels back."""
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).squeeze(-1).numpy()).save(file, "PNG")
    return file.getvalue()


def _decode(file: ImageFile) -> Image.Image:
    """The image as it is stored, opaque."""
    try:
        image = _DECODERS[file.format](io.BytesIO(file.content))
        if image.size != (file.width, file.height):
            raise damaged("its parts contradict each other about its size")
        image.load()
    except FileError:
        raise
    except Exception as error:  # whatever Pillow raises, it is for the bytes that somebody sent
        raise damaged(f"{error}" or type(error).__name__) from error
    if image.mode in ("LA", "RGBA") and any(image.getchannel("A").histogram()[:255]):
        raise ambiguous("has transparent pixels")
    if file.transparent is not None and _has_colour(image, file.transparent):
        raise ambiguous("has transparent pixels")
    return image


def _has_colour(image: Image.Image, colour: tuple[int, ...]) -> bool:
    """Whether some pixel of a greyscale or RGB image has a colour of 8 bits a channel."""
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
