"""GIF files: a screen, then blocks of extensions and pictures.

Source: "Graphics Interchange Format, Version 89a", CompuServe.
"""

import struct

from models.inputs.image_file import MAX_PARTS, ImageFile, Size, ambiguous, check_size, damaged, excessive

_EXTENSION, _PICTURE, _TRAILER = b"!", b",", b";"
_GRAPHIC_CONTROL = 0xF9


def read_gif(content: bytes, max_pixels: int) -> ImageFile:
    """Reads a file's structure: `models.inputs.image_files.read_image_file`."""
    palette, position = _read_palette(content, 10, 13)
    check_size(size := read_gif_size(content), max_pixels)
    screen, picture, control = content[:position], b"", b""
    while (kind := content[position : position + 1]) in (_EXTENSION, _PICTURE):
        if kind == _EXTENSION:
            start, position = position + 2, _skip_blocks(content, position + 2)
            if content[start - 1 : start] == bytes([_GRAPHIC_CONTROL]) and not picture:
                control = content[start + 1 : position]
            continue
        if picture:
            raise ambiguous("is animated")
        start, place = position, content[position + 1 : position + 9]
        own, position = _read_palette(content, position + 9, position + 10)
        palette, position = own or palette, _skip_blocks(content, position + 1)
        if place != struct.pack("<HHHH", 0, 0, size.width, size.height):
            raise ambiguous("has a picture that does not cover all of it")
        picture = content[start:position]
    if not picture:
        raise damaged("it has no pixels" if kind == _TRAILER else "it ends before its last pixels")
    if not palette:
        raise damaged("it has no palette")
    return ImageFile(
        "GIF",
        size.width,
        size.height,
        palette[::3] == palette[1::3] == palette[2::3],
        screen + picture + _TRAILER,
        colours=len(palette) // 3,
        clear=frozenset(control[3:4] if control[:1] and control[0] & 1 else b""),
    )


def read_gif_size(content: bytes) -> Size:
    """The size of the screen; 0 where it is cut short."""
    return Size(*struct.unpack("<HH", content[6:10].ljust(4, b"\0")))


def _read_palette(content: bytes, flags: int, start: int) -> tuple[bytes, int]:
    """The palette that the flags announce, empty if there is none, and the position behind it."""
    if len(content) < start:
        raise damaged("it ends before its last pixels")
    end = start + (6 << (content[flags] & 7) if content[flags] & 128 else 0)
    return content[start:end], end


def _skip_blocks(content: bytes, position: int) -> int:
    """The position behind a row of blocks, which begin with their length and end with an empty one."""
    for _ in range(MAX_PARTS):
        if position >= len(content):
            raise damaged("it ends before its last pixels")
        length = content[position]
        position += 1 + length
        if not length:
            return position
    raise excessive(f"has more than {MAX_PARTS:,} blocks")
