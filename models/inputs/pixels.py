"""Decoding of untrusted image files."""

import io
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from PIL import AvifImagePlugin, Image, ImageChops, TiffImagePlugin
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile as PillowFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from models.inputs.image_file import FaultKind, FileError, ImageFile, ambiguous, damaged
from models.inputs.image_files import read_image_file
from models.inputs.image_formats import Format

if TYPE_CHECKING:  # a process that decodes images needs no tensors
    from torch import Tensor

    from models.inputs.image import ImageSpec

# Pillow's WebP decoder enforces this process-wide limit. `max_pixels` replaces it, and is checked before Pillow sees a
# file.
Image.MAX_IMAGE_PIXELS = None

# Pillow decodes uncompressed TIFF in a loop in Python, and libtiff in C.
TiffImagePlugin.READ_LIBTIFF = True

# Images are decoded side by side already.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

_DECODERS: dict[Format, Callable[[io.BytesIO], PillowFile]] = {
    "PNG": PngImageFile,
    "JPEG": JpegImageFile,
    "WebP": WebPImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "AVIF": AvifImageFile,
}
"""Decoders, called directly, because `Image.open` emits warnings, which also concern the whole process."""

REDUCTION = 3
"""A JPEG decoded at a half, a quarter or an eighth of its size is at least this many times as large as the model's
input, so that resizing it gives nearly the same as resizing the whole."""

_ROUNDED = [int(difference > 128) for difference in range(256)]
"""Whether a difference of bytes is more than half of 257."""

_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
"""The byte order, as Pillow's raw modes name it, in which the lower byte of 16 bits is taken for the upper one."""

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

    An image of the right size is used unchanged. Others are resized with antialiasing; their aspect ratio may change. A
    JPEG much larger than the input is scaled down as it is decoded. If the model takes grey images, colours become grey
    by luma. Palettes become colours, CMYK becomes RGB, (1 - C)(1 - K) and so on, and 16 bits per channel are divided by
    257 and rounded. Embedded colour profiles are ignored.

    Images that can be read in several ways are refused: an image must be a single opaque picture. It may have an alpha
    channel, or transparent colours, as long as no pixel is transparent. In a camera's JPEG with several pictures, the
    first counts. Metadata, damaged or not, affects only the orientation.

    The result depends only on the arguments, in any thread or process.

    Args:
        content: a file of a format in `models.inputs.image_formats.FORMATS`.
        shape: shape of the model's input: C, H and W.
        max_pixels: limit on the image's cost, as in `read_image_file`, checked before anything is decoded.
        name: the image's name, for messages.

    Returns:
        the pixels, one byte per channel, [H, W, C].

    Raises:
        ImageError: if the image has too many pixels, is damaged, or can be read in several ways.
    """
    try:
        file = read_image_file(content, max_pixels)
        return _fit(_decode(file, shape), file, shape)
    except FileError as error:
        raise ImageError(error.kind, f"{name} {error.reason}.", error.hint) from error


def encode_image(pixels: "Tensor") -> bytes:
    """A PNG file from uint8 [C, H, W] with 1 or 3 channels. `decode_image` returns the same pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).squeeze(-1).numpy()).save(file, "PNG")
    return file.getvalue()


class _CompleteFile(io.BytesIO):
    """A file that a decoder may not read beyond its end, as it does if pixels are missing."""

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        if size is not None and size > 0 and not content:
            raise damaged("it ends before its last pixels")
        return content


def _decode(file: ImageFile, shape: Sequence[int]) -> Image.Image:
    """The image as stored, or smaller, with 8 bits per channel, if it is opaque."""
    halves: tuple[Image.Image, ...] = ()
    try:
        if file.deep:
            mode, upper, lower = _load_halves(file)
            image, halves = _join(mode, upper, lower), (*upper, *lower)
        else:
            image = _load(file, shape)
    except FileError:
        raise
    except Exception as error:  # whatever Pillow raises, the client's bytes are the cause
        raise damaged(f"{error}" or type(error).__name__) from error
    levels = image.histogram() if image.mode in ("L", "P") else []
    if any(levels[file.colours :]):
        raise damaged("it has pixels whose colour its palette lacks")
    if (
        any(levels[number] for number in file.clear if number < len(levels))
        or (image.mode in ("LA", "RGBA") and any(image.getchannel("A").histogram()[:255]))
        or (file.transparent is not None and _has_colour(halves or _split(image), file.transparent))
    ):
        raise ambiguous("has transparent pixels")
    return image


def _open(file: ImageFile) -> PillowFile:
    """An image whose pixels are not decoded yet."""
    image = _DECODERS[file.format](_CompleteFile(file.content))
    if image.size != (file.width, file.height):
        raise damaged("its parts declare different sizes")
    return image


def _load(file: ImageFile, shape: Sequence[int]) -> Image.Image:
    image = _open(file)
    if isinstance(image, JpegImageFile):
        _, height, width = shape
        least = (width, height) if file.orientation < 5 else (height, width)
        image.draft(None, (REDUCTION * least[0], REDUCTION * least[1]))
    image.load()
    return image


def _load_halves(file: ImageFile) -> tuple[str, tuple[Image.Image, ...], tuple[Image.Image, ...]]:
    """The mode of the image in 8 bits, and the upper and lower bytes of all channels, as channels of 8 bits."""
    image = _open(file)
    image.load()
    if not file.grey:  # Pillow takes the upper bytes, or with the other byte order the lower ones
        other = _open(file)
        other.tile = [tile._replace(args=_swap_bytes(tile.args)) for tile in other.tile]
        other.load()
        return image.mode, image.split(), other.split()
    if image.mode in ("LA", "RGBA"):  # the bytes are channels
        return "L" if image.mode == "LA" else "LA", image.split()[::2], image.split()[1::2]
    first, second = Image.frombytes("LA", image.size, image.tobytes()).split()
    return "L", *(((second,), (first,)) if image.mode == "I;16" else ((first,), (second,)))


def _swap_bytes(arguments: Any) -> Any:
    """A decoder's arguments, which are or begin with a raw mode such as RGB;16B, for the other byte order."""
    if isinstance(arguments, tuple):
        return _swap_bytes(arguments[0]), *arguments[1:]
    return arguments[:-1] + _OTHER_BYTE[arguments[-1]]


def _join(mode: str, upper: Sequence[Image.Image], lower: Sequence[Image.Image]) -> Image.Image:
    """Divides 16-bit values by 257, given their bytes: 256 u + l = 257 u + (l - u), so half of 257 decides."""
    joined = []
    for high, low in zip(upper, lower, strict=True):
        up, down = (ImageChops.subtract(*pair).point(_ROUNDED) for pair in ((low, high), (high, low)))
        joined.append(ImageChops.subtract(ImageChops.add(high, up), down))
    return Image.merge(mode, joined)


def _split(image: Image.Image) -> tuple[Image.Image, ...]:
    return (image.convert("L") if image.mode == "1" else image).split()


def _has_colour(channels: Sequence[Image.Image], colour: Sequence[int]) -> bool:
    """Whether a pixel has a colour, given in 8 bits per channel."""
    found = Image.new("L", channels[0].size, 255)
    for channel, value in zip(channels, colour, strict=True):
        found = ImageChops.darker(found, channel.point([255 * (level == value) for level in range(256)]))
    return found.getbbox() is not None


def _fit(image: Image.Image, file: ImageFile, shape: Sequence[int]) -> bytes:
    channels, height, width = shape
    if image.mode == "CMYK":
        image = image.convert("RGB")
    if image.mode != (mode := "L" if channels == 1 else "RGB"):
        image = image.convert(mode)
    if file.inverted:
        image = ImageChops.invert(image)
    if file.orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[file.orientation])
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return image.tobytes()
