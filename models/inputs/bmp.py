"""BMP files: a header with the place of the pixels, a header with their kind, perhaps a palette, and the pixels.

Source: "Bitmap Storage", Windows App Development.
"""

import struct

from models.inputs.image_file import FileError, ImageFile, Size, ambiguous, check_size, damaged

_DEPTHS = (1, 4, 8, 16, 24, 32)
_PLAIN, _MASKS = 0, 3
_RUN_LENGTHS = (1, 2)


def read_bmp(content: bytes, max_pixels: int) -> ImageFile:
    """Reads a file's structure: `models.inputs.image_files.read_image_file`."""
    start, length = struct.unpack_from("<II", content, 10)
    if len(content) < 14 + length:
        raise damaged("it ends before its last pixels")
    check_size(size := read_bmp_size(content), max_pixels)
    if length == 12:
        depth, compression, declared, bytes_per_colour = *struct.unpack_from("<H", content, 24), _PLAIN, 0, 3
    else:
        depth, compression, declared = struct.unpack_from("<HI12xI", content, 28)
        bytes_per_colour = 4
    if compression in _RUN_LENGTHS:
        raise FileError("unsupported", "is a BMP file with compressed pixels", "Save it without compression.")
    if depth not in _DEPTHS or compression not in (_PLAIN, _MASKS) or (compression == _MASKS and depth < 16):
        raise damaged("its header has values that no BMP may have")
    stride = (size.width * depth + 31) // 32 * 4
    if len(content) < (end := start + stride * size.height):
        raise damaged("it ends before its last pixels")
    unused = content[start + 3 : end : 4] if depth == 32 and compression == _PLAIN else b""
    if unused.count(unused[:1]) < len(unused):
        raise ambiguous("may have transparent pixels: its unused bytes are not all the same")
    if depth > 8:
        if 14 + length > start:
            raise damaged("its pixels begin within its header")
        return ImageFile("BMP", size.width, size.height, False, content[:end])
    colours = declared or 2**depth
    palette = content[14 + length : 14 + length + bytes_per_colour * colours]
    if colours > 2**depth or 14 + length + len(palette) > start:
        raise damaged("its palette has the wrong length")
    channels = [palette[channel::bytes_per_colour] for channel in range(3)]
    width, height = struct.unpack_from("<HH" if length == 12 else "<Ii", content, 18)
    clean = _write_bmp(width, height, depth, channels, content[start:end])
    return ImageFile("BMP", size.width, size.height, channels[0] == channels[1] == channels[2], clean, colours=colours)


def read_bmp_size(content: bytes) -> Size:
    """The size from the header; 0 where it is cut short. With a negative height, the first row is the upper one."""
    if content[14:18] == b"\x0c\0\0\0":
        return Size(*struct.unpack("<HH", content[18:22].ljust(4, b"\0")))
    width, height = struct.unpack("<Ii", content[18:26].ljust(8, b"\0"))
    return Size(width, abs(height))


def _write_bmp(width: int, height: int, depth: int, channels: list[bytes], rows: bytes) -> bytes:
    """A file with one more colour than can occur, which is not grey.

    Without it, Pillow takes some palettes of greys for levels of grey, and the pixels for those of another depth.
    """
    colours = min(2**depth + 1, 256)
    padded = [channel + bytes([number]) * (colours - len(channel)) for number, channel in enumerate(channels)]
    palette = bytes(value for colour in zip(*padded, bytes(colours), strict=True) for value in colour)
    start = 54 + len(palette)
    file_header = struct.pack("<2sIII", b"BM", start + len(rows), 0, start)
    header = struct.pack("<IIiHHIIIIII", 40, width, height, 1, depth, _PLAIN, len(rows), 0, 0, colours, 0)
    return b"".join([file_header, header, palette, rows])
