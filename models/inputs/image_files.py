"""Image files before they are decoded: what they say of themselves, and which of their bytes the pixels depend on.

PNG, JPEG and WebP files are sequences of parts that name their kind and length. They are walked here, in a time that
the file's size bounds, so that whatever an image would cost is known before memory is taken for it. The decoder is
given the parts that hold pixels, and no others: what stands in the rest, damaged or hostile, cannot matter to it.
"""

from models.inputs import jpeg, png
from models.inputs.image_file import ImageFile, damaged
from models.inputs.jpeg import read_jpeg, read_jpeg_size
from models.inputs.png import read_png, read_png_size
from models.inputs.webp import is_webp, read_webp, read_webp_size


def read_image_file(content: bytes, max_pixels: int) -> ImageFile:
    """Reads a file's structure.

    Args:
        content: of a PNG, JPEG or WebP file. Of several pictures in a JPEG, as cameras write them, the first counts.
        max_pixels: limit on width × height; three quarters of it for WebP.

    Raises:
        FileError: for another format, too many pixels, damage that concerns them, more parts or scans than an encoder
            writes, and what could be read in several ways.
    """
    if content.startswith(png.SIGNATURE):
        return read_png(content, max_pixels)
    if content.startswith(jpeg.SIGNATURE):
        return read_jpeg(content, max_pixels)
    if is_webp(content):
        return read_webp(content, max_pixels)
    raise damaged("it is not a PNG, JPEG or WebP file")


def read_size(content: bytes) -> tuple[int, int] | None:
    """Width and height as `read_image_file` finds them, from a file's first parts; None if these do not tell."""
    if content.startswith(png.SIGNATURE):
        return read_png_size(content)
    if content.startswith(jpeg.SIGNATURE):
        return read_jpeg_size(content)
    return read_webp_size(content) if is_webp(content) else None
