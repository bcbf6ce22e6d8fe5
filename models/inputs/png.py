"""PNG files: a signature, then chunks, each with a checksum.

Source: "Portable Network Graphics (PNG) Specification", W3C.
"""

import struct
import zlib
from collections.abc import Iterator

from models.inputs.image_file import (
    DEEP_WEIGHT,
    MAX_PARTS,
    ImageFile,
    Size,
    ambiguous,
    check_size,
    damaged,
    excessive,
    read_orientation,
)

SIGNATURE = b"\x89PNG\r\n\x1a\n"

MAX_TEXT_BYTES = 2**20
"""Largest decompressed size of a text that may hold an orientation, in bytes."""

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PALETTE = 3
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_INFLATED = 2**14
"""Number of compressed bytes inflated at a time, to at most 1,032 times as many."""


def read_png(content: bytes, max_pixels: int) -> ImageFile:
    """Reads a file's structure: `models.inputs.image_files.read_image_file`."""
    header, palette, data, transparency, last = b"", b"", list[memoryview](), b"", b""
    texts: dict[bytes, bytes] = {}
    for kind, body in _walk_png(content):
        if not header and kind != b"IHDR":
            raise damaged("it does not begin with a header")
        match kind:
            case b"IHDR":
                if header:
                    raise damaged("it has two headers")
                header = _check_header(bytes(body), max_pixels)
            case b"IDAT":
                if data and last != b"IDAT":
                    raise damaged("other chunks come between those with its pixels")
                data.append(body)
            case b"PLTE":
                palette = palette or bytes(body)
            case b"tRNS":
                transparency = transparency or bytes(body)
            case b"fdAT":
                raise ambiguous("is animated")
            case b"acTL" if int.from_bytes(body[:4], "big") > 1:
                raise ambiguous("is animated")
            case b"eXIf":
                texts.setdefault(b"eXIf", bytes(body))
            case b"tEXt" | b"zTXt" | b"iTXt":
                for key in (b"Raw profile type exif", b"XML:com.adobe.xmp"):
                    if key not in texts and body[: len(key) + 1] == key + b"\0":
                        texts[key] = _read_text(kind, bytes(body[len(key) + 1 :]))
            case _ if kind[:1].isupper() and kind != b"IEND":
                raise damaged(f"it has an unknown critical chunk {kind.decode('ascii')}")
        last = kind
    if not data:
        raise damaged("it has no pixels")
    width, height, depth, colour, interlaced = (*struct.unpack(">IIBB", header[:10]), header[12])
    pixels = b"".join(data)
    _check_inflation(pixels, _count_bytes(width, height, depth * _CHANNELS[colour], bool(interlaced)))
    transparent, clear = _read_transparency(depth, colour, transparency)
    grey, colours = colour in (0, 4), 256
    chunks = [(b"IDAT", pixels), (b"IEND", b"")]
    if colour == _PALETTE:
        grey, colours = palette[::3] == palette[1::3] == palette[2::3], len(palette) // 3
        if not palette or len(palette) % 3 or colours > 2**depth:
            raise damaged("its palette is missing or has the wrong length")
        chunks.insert(0, (b"PLTE", palette))
    elif depth == 16 and grey:  # the bytes of these channels are channels of 8 bits, with the same filters
        header = header[:8] + bytes([8, 4 if colour == 0 else 6]) + header[10:]
    exif = texts.get(b"eXIf") or _parse_profile(texts.get(b"Raw profile type exif", b""))
    return ImageFile(
        "PNG",
        width,
        height,
        grey,
        b"".join([SIGNATURE, *(_write_chunk(*chunk) for chunk in [(b"IHDR", header), *chunks])]),
        read_orientation(exif, texts.get(b"XML:com.adobe.xmp", b"")),
        deep=depth == 16,
        colours=colours,
        transparent=transparent,
        clear=clear,
    )


def read_png_size(content: bytes) -> Size:
    """The size from the header; 0 where it is cut short."""
    width, height, depth = struct.unpack(">IIB", content[16:25].ljust(9, b"\0"))
    return Size(width, height, DEEP_WEIGHT if depth == 16 else 1.0)


def _walk_png(content: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kinds and bodies of the chunks, up to the last, or to the first incomplete one."""
    view, position = memoryview(content), len(SIGNATURE)
    for _ in range(MAX_PARTS):
        length, kind = int.from_bytes(view[position : position + 4], "big"), content[position + 4 : position + 8]
        start, end = position + 8, position + 8 + length
        position = end + 4
        if position > len(content) or not (kind.isascii() and kind.isalpha()):
            return
        intact = zlib.crc32(view[position - length - 8 : end]) == int.from_bytes(view[end:position], "big")
        if not intact and kind in (b"IHDR", b"PLTE", b"IDAT", b"tRNS"):
            raise damaged(f"the checksum of a chunk {kind.decode('ascii')} is wrong")
        if intact:
            yield kind, view[start:end]
        if kind == b"IEND":
            return
    raise excessive(f"has more than {MAX_PARTS:,} chunks")


def _check_header(header: bytes, max_pixels: int) -> bytes:
    if len(header) != 13:
        raise damaged("its header is not 13 bytes long")
    width, height, depth, colour, compression, filtering, interlaced = struct.unpack(">IIBBBBB", header)
    check_size(Size(width, height, DEEP_WEIGHT if depth == 16 else 1.0), max_pixels)
    if depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlaced > 1:
        raise damaged("its header has values that no PNG may have")
    return header


def _read_transparency(depth: int, colour: int, body: bytes) -> tuple[tuple[int, ...] | None, frozenset[int]]:
    """The transparent colour, and the numbers of a palette's colours that are not opaque."""
    if colour == _PALETTE:
        return None, frozenset(number for number, alpha in enumerate(body) if alpha < 255)
    if not body or colour in (4, 6):
        return None, frozenset()  # an alpha channel counts instead
    channels = _CHANNELS[colour]
    if len(body) != 2 * channels:
        raise damaged("its transparent colour has a different number of channels")
    if depth == 16:
        return (*body[::2], *body[1::2]), frozenset()
    most = 2**depth - 1
    return tuple((value & most) * 255 // most for value in struct.unpack(f">{channels}H", body)), frozenset()


def _read_text(kind: bytes, body: bytes) -> bytes:
    """The text after its key, cut at `MAX_TEXT_BYTES` if compressed; empty if it is damaged."""
    compressed = kind == b"zTXt"
    if kind == b"zTXt":
        body = body[1:]
    elif kind == b"iTXt":
        compressed = body[:1] == b"\1"
        body = body[2:].split(b"\0", 2)[-1]
    try:
        return zlib.decompressobj().decompress(body, MAX_TEXT_BYTES) if compressed else body
    except zlib.error:
        return b""


def _parse_profile(text: bytes) -> bytes:
    """EXIF from a PNG's text, where ImageMagick writes it in hexadecimal after three lines."""
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""


def _count_bytes(width: int, height: int, bits: int, interlaced: bool) -> int:
    """Number of bytes in a PNG's rows, each with a byte for its filter."""
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = ((-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes)
    return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0 and rows > 0)


def _check_inflation(compressed: bytes, expected: int) -> None:
    """Checks that there is data for all pixels; a decoder may be set to accept less."""
    stream, inflated = zlib.decompressobj(), 0
    try:
        for start in range(0, len(compressed), _INFLATED):
            inflated += len(stream.decompress(compressed[start : start + _INFLATED]))
            if inflated >= expected:
                return
    except zlib.error as error:
        raise damaged("its pixels are not compressed as PNG requires") from error
    raise damaged("it ends before its last pixels")


def _write_chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(body, zlib.crc32(kind))
    return b"".join([len(body).to_bytes(4, "big"), kind, body, checksum.to_bytes(4, "big")])
