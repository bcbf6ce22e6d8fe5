"""Decoding of image files that strangers made."""

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from PIL import Image, ImageOps, UnidentifiedImageError

if TYPE_CHECKING:
    from torch import Tensor

    from models.input import ImageSpec

FORMATS = ("PNG", "JPEG", "WEBP")
_REFUSED_MODES = {
    "P": "has a palette",
    "PA": "has a palette",
    "CMYK": "is CMYK",
    "I": "has 16 or 32 bits a channel",
    "I;16": "has 16 bits a channel",
    "I;16B": "has 16 bits a channel",
    "F": "has floating-point pixels",
}


class ImageError(Exception):
    """An image that cannot be taken; the message says why."""

    def __init__(self, kind: Literal["too_large", "unsupported", "invalid"], message: str, hint: str) -> None:
        super().__init__(kind, message, hint)  # all that it takes, for copies
        self.kind = kind
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}"


def decode_image(content: bytes, spec: "ImageSpec", max_pixels: int, name: str) -> "Tensor":
    """As `decode_pixels`, as uint8 [C, H, W]."""
    import torch

    pixels = bytearray(decode_pixels(content, spec.shape, max_pixels, name))
    channels, height, width = spec.shape
    return torch.frombuffer(pixels, dtype=torch.uint8).view(height, width, channels).permute(2, 0, 1).contiguous()


def decode_pixels(content: bytes, shape: Sequence[int], max_pixels: int, name: str) -> bytes:
    """Decodes one image and fits it to a model's input.

    An image of the right size is taken as it is; another one is resized, antialiased, without regard to its aspect.
    Colours become grey by luma where the model wants grey. What could be read in several ways is refused.

    Args:
        content: a PNG, JPEG or WebP file.
        shape: of the model's input, C, H and W.
        max_pixels: limit on width × height, checked on the header before anything is decoded.
        name: of the image, for messages.

    Returns:
        the pixels' bytes, [H, W, C].

    Raises:
        ImageError: for too many pixels, and for anything that is no plain 8-bit image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow only warns of decompression bombs and of damaged metadata
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                _check_header(image, max_pixels, name)
                image.load()
                return _fit(image, shape, name)
    except Image.DecompressionBombWarning as error:
        raise _too_large(name, str(error), max_pixels) from error
    except Image.DecompressionBombError as error:
        raise _too_large(name, str(error), max_pixels) from error
    except UnidentifiedImageError as error:
        raise _undecodable(name, "it is no PNG, JPEG or WebP file") from error
    except (OSError, ValueError, SyntaxError, EOFError, Warning) as error:
        raise _undecodable(name, str(error)) from error


def encode_image(pixels: "Tensor") -> bytes:
    """A PNG file from uint8 [C, H, W] with 1 or 3 channels; `decode_image` gives the same pixels back."""
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).squeeze(-1).numpy()).save(file, "PNG")
    return file.getvalue()


def _check_header(image: Image.Image, max_pixels: int, name: str) -> None:
    if image.width * image.height > max_pixels:
        raise _too_large(name, f"{image.width:,} × {image.height:,} pixels", max_pixels)
    if getattr(image, "n_frames", 1) > 1:
        raise _ambiguous(name, "is animated")
    if image.mode in _REFUSED_MODES:
        raise _ambiguous(name, _REFUSED_MODES[image.mode])


def _fit(image: Image.Image, shape: Sequence[int], name: str) -> bytes:
    channels, height, width = shape
    image = ImageOps.exif_transpose(image)
    if image.mode in ("LA", "RGBA") and image.getchannel("A").getextrema() != (255, 255):
        raise _ambiguous(name, "has transparent pixels")
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return image.tobytes()


def _too_large(name: str, size: str, max_pixels: int) -> ImageError:
    hint = f"Send images of at most {max_pixels:,} pixels; they are resized to the model's input anyway."
    return ImageError("too_large", f"{name} is too large: {size}.", hint)


def _ambiguous(name: str, reason: str) -> ImageError:
    hint = "Convert it to a single opaque 8-bit greyscale or RGB image, so that no pixel is open to interpretation."
    return ImageError("unsupported", f"{name} {reason}.", hint)


def _undecodable(name: str, reason: str) -> ImageError:
    return ImageError("invalid", f"{name} cannot be decoded: {reason}.", "Send a complete PNG, JPEG or WebP file.")
