"""Image files before they are decoded: what they declare, and which of their bytes the pixels depend on.

PNG, JPEG and WebP files are sequences of parts that name their kind and length. This code walks through the parts, in
time proportional to the file's size, so the cost of an image is known before memory is allocated. The decoder gets only
the parts that hold pixels. Damaged or hostile content elsewhere cannot reach it.
"""

from models.inputs import jpeg, png
from models.inputs.image_file import ImageFile, damaged
from models.inputs.jpeg import read_jpeg, read_jpeg_size
from models.inputs.png import read_png, read_png_size
from models.inputs.webp import is_webp, read_webp, read_webp_size


def read_image_file(content: bytes, max_pixels: int) -> ImageFile:
    """Reads a file's structure.

    Args:
        content: a PNG, JPEG or WebP file. If a JPEG holds several pictures, as cameras write them, the first counts.
        max_pixels: limit on width × height; three quarters of it for WebP.

    Raises:
        FileError: if the file has another format, too many pixels, damage that affects the pixels, more parts or scans
            than encoders write, or can be read in several ways.
    """
    if content.startswith(png.SIGNATURE):
        return read_png(content, max_pixels)
    if content.startswith(jpeg.SIGNATURE):
        return read_jpeg(content, max_pixels)
    if is_webp(content):
        return read_webp(content, max_pixels)
    raise damaged("it is not a PNG, JPEG or WebP file")


def read_size(content: bytes) -> tuple[int, int] | None:
    """Width and height as `read_image_file` finds them, from a file's first parts; None if they are not there."""
    if content.startswith(png.SIGNATURE):
        return read_png_size(content)
    if content.startswith(jpeg.SIGNATURE):
        return read_jpeg_size(content)
    return read_webp_size(content) if is_webp(content) else None
