"""Image files before they are decoded: what they say of themselves, and which of their bytes the pixels depend on.

PNG, JPEG and WebP files are sequences of parts that name their kind and length. They are walked here, in a time that
the file's size bounds, so that whatever an image would cost is known before memory is taken for it. The decoder is
given the parts that hold pixels, and no others: what stands in the rest, damaged or hostile, cannot matter to it.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

Format = Literal["PNG", "JPEG", "WEBP"]
Kind = Literal["too_large", "unsupported", "invalid"]

MAX_SIDE = 65_500
"""Pixels, as libjpeg has it."""

WEBP_SHARE = 0.75
"""Of the pixels that other files may have: the decoder of WebP takes 16 bytes for each, that of JPEG at most 10."""

MAX_PARTS = 100_000
"""Chunks or segments of a file. 100 million pixels in PNG's usual chunks of 8 KiB are 37,000."""

FIRST_PARTS = 100
"""That a size is looked for in, such as metadata of 64 kB each."""

MAX_SCANS = 50
"""Of a JPEG; encoders write 10 to 20. Each costs as much as a look at all pixels, for 31 bytes."""

MAX_TEXT_BYTES = 2**20
"""Of a PNG's text that may hold an orientation, decompressed."""

ORIENTATION = 0x0112
"""EXIF's tag for how the camera was held, from 1, upright, to 8."""

_PNG, _PNG_CHANNELS = b"\x89PNG\r\n\x1a\n", {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_INFLATED = 2**14
"""Compressed bytes that are inflated at a time, to 1,032 times as many at most."""

_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
"""Of a JPEG's segment; within a scan, 0xff is followed by 0, or restarts it (0xd0 to 0xd7)."""
_SOI, _EOI, _SOS, _TEM, _COM = 0xD8, 0xD9, 0xDA, 0x01, 0xFE
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_APP = range(0xE0, 0xF0)
_COLOURS = {0xE0: b"JFIF\0", 0xEE: b"Adobe"}
"""The two application segments that say what a JPEG's channels mean."""

_XMP_ORIENTATION = re.compile(rb"""tiff:Orientation(?:\s*=\s*["']|>)\s*([1-8])""")


class FileError(Exception):
    """A file that cannot be taken; the reason completes a sentence that begins with the file's name."""

    def __init__(self, kind: Kind, reason: str, hint: str) -> None:
        super().__init__(f"{reason}. {hint}")
        self.kind = kind
        self.reason = reason
        self.hint = hint


@dataclass(frozen=True)
class ImageFile:
    """A file that holds one picture, of 8 bits a channel or fewer, grey or in colours, without a palette."""

    format: Format
    width: int
    height: int
    """As they are stored, before the image is turned upright."""
    grey: bool
    """Whether it is stored without colours."""
    content: bytes
    """The file without its metadata."""
    orientation: int = 1
    """By EXIF, or else XMP; upright if neither says so that it can be read."""
    transparent: tuple[int, ...] | None = None
    """The colour that a PNG without an alpha channel declares transparent, by channels of 8 bits."""

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height as the image is seen."""
        return (self.width, self.height) if self.orientation < 5 else (self.height, self.width)


def read_image_file(content: bytes, max_pixels: int) -> ImageFile:
    """Reads a file's structure.

    Args:
        content: of a PNG, JPEG or WebP file. Of several pictures in a JPEG, as cameras write them, the first counts.
        max_pixels: limit on width × height; three quarters of it for WebP.

    Raises:
        FileError: for another format, too many pixels, damage that concerns them, more parts or scans than an encoder
            writes, and what could be read in several ways.
    """
    if content.startswith(_PNG):
        return _read_png(content, max_pixels)
    if content.startswith(b"\xff\xd8\xff"):
        return _read_jpeg(content, max_pixels)
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return _read_webp(content, int(WEBP_SHARE * max_pixels))
    raise damaged("it is no PNG, JPEG or WebP file")


def read_size(content: bytes) -> tuple[int, int] | None:
    """Width and height as `read_image_file` finds them, off a file's first parts; None if these do not tell."""
    parts = islice(_walk_jpeg(content) if content.startswith(b"\xff\xd8\xff") else (), FIRST_PARTS)
    if content.startswith(_PNG):
        width, height = struct.unpack(">II", content[16:24].ljust(8, b"\0"))
        return width, height
    try:
        if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
            chunks = islice(_walk_webp(content), FIRST_PARTS)
            return next((size for kind, _, body in chunks if (size := _read_webp_size(kind, body))), None)
        height, width = next(struct.unpack(">HH", body[1:5]) for marker, _, body in parts if marker in _FRAMES)
    except (FileError, StopIteration, struct.error):
        return None
    return width, height


def damaged(reason: str) -> FileError:
    """The error for what is no image, or not all of one."""
    return FileError("invalid", f"cannot be decoded: {reason}", "Send a complete PNG, JPEG or WebP file.")


def ambiguous(reason: str) -> FileError:
    """The error for an image that could be read in several ways."""
    hint = "Convert it to a single opaque 8-bit greyscale or RGB image, so that no pixel is open to interpretation."
    return FileError("unsupported", reason, hint)


def _excessive(reason: str) -> FileError:
    return FileError("unsupported", reason, "Save it again with an ordinary encoder.")


def _check_size(width: int, height: int, max_pixels: int) -> None:
    size = f"{width:,} × {height:,} pixels"
    if not width or not height:
        raise damaged(f"it has {size}")
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        limits = f"{max_pixels:,} pixels, and {MAX_SIDE:,} a side"
        hint = f"Send images of at most {limits}; they are resized to the model's input anyway."
        raise FileError("too_large", f"is too large: {size}", hint)


def _read_png(content: bytes, max_pixels: int) -> ImageFile:
    header, data, transparent, last = b"", list[memoryview](), None, b""
    texts: dict[bytes, bytes] = {}
    for kind, body in _walk_png(content):
        if not header and kind != b"IHDR":
            raise damaged("it does not begin with a header")
        match kind:
            case b"IHDR":
                if header:
                    raise damaged("it has two headers")
                header = _check_png_header(bytes(body), max_pixels)
            case b"IDAT":
                if data and last != b"IDAT":
                    raise damaged("other chunks stand between those of its pixels")
                data.append(body)
            case b"tRNS" if transparent is None:
                transparent = _read_transparency(header, bytes(body))
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
            case _ if kind[:1].isupper() and kind not in (b"PLTE", b"IEND"):
                raise damaged(f"it has a critical chunk {kind.decode('ascii')} that nobody knows")
        last = kind
    if not data:
        raise damaged("it has no pixels")
    width, height, depth, colour, interlaced = (*struct.unpack(">IIBB", header[:10]), header[12])
    pixels = b"".join(data)
    channels = _PNG_CHANNELS[colour]
    _check_inflation(pixels, _count_bytes(width, height, depth * channels, bool(interlaced)))
    chunks = [_write_chunk(*chunk) for chunk in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))]
    exif = texts.get(b"eXIf") or _parse_profile(texts.get(b"Raw profile type exif", b""))
    orientation = _read_orientation(exif, texts.get(b"XML:com.adobe.xmp", b""))
    return ImageFile("PNG", width, height, channels < 3, b"".join([_PNG, *chunks]), orientation, transparent)


def _walk_png(content: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kinds and bodies of the chunks up to the last, or to the first that is not whole."""
    view, position = memoryview(content), len(_PNG)
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
    raise _excessive(f"has more than {MAX_PARTS:,} chunks")


def _check_png_header(header: bytes, max_pixels: int) -> bytes:
    if len(header) != 13:
        raise damaged("its header is not 13 bytes long")
    width, height, depth, colour, compression, filtering, interlaced = struct.unpack(">IIBBBBB", header)
    _check_size(width, height, max_pixels)
    if depth not in _PNG_DEPTHS.get(colour, ()) or compression or filtering or interlaced > 1:
        raise damaged("its header says what no PNG has")
    if colour == 3:
        raise ambiguous("has a palette")
    if depth == 16:
        raise ambiguous("has 16 bits a channel")
    return header


def _read_transparency(header: bytes, body: bytes) -> tuple[int, ...] | None:
    depth, colour = header[8:10]
    if colour in (4, 6):
        return None  # it has a channel for that, which counts
    channels = _PNG_CHANNELS[colour]
    if len(body) != 2 * channels:
        raise damaged("its transparent colour has another number of channels")
    most = 2**depth - 1
    return tuple((value & most) * 255 // most for value in struct.unpack(f">{channels}H", body))


def _read_text(kind: bytes, body: bytes) -> bytes:
    """A text after its key, or nothing if it is damaged, or longer than any that matters."""
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
    """EXIF as ImageMagick writes it into a PNG's text: in hexadecimal, after three lines."""
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""


def _count_bytes(width: int, height: int, bits: int, interlaced: bool) -> int:
    """Of a PNG's rows, each with a byte for its filter."""
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = ((-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes)
    return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0 and rows > 0)


def _check_inflation(compressed: bytes, expected: int) -> None:
    """Whether there is enough for all pixels; a decoder may have been told to go on without."""
    stream, inflated = zlib.decompressobj(), 0
    try:
        for start in range(0, len(compressed), _INFLATED):
            inflated += len(stream.decompress(compressed[start : start + _INFLATED]))
            if inflated >= expected:
                return
    except zlib.error as error:
        raise damaged("its pixels are not compressed as PNG has it") from error
    raise damaged("it ends before its last pixels")


def _write_chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(body, zlib.crc32(kind))
    return b"".join([len(body).to_bytes(4, "big"), kind, body, checksum.to_bytes(4, "big")])


def _read_jpeg(content: bytes, max_pixels: int) -> ImageFile:
    kept, frame, scans, exif, xmp = [b"\xff\xd8"], b"", 0, b"", b""
    for marker, segment, body in _walk_jpeg(content):
        if marker in _APP or marker == _COM:
            if marker in _COLOURS and body.startswith(_COLOURS[marker]):
                kept.append(segment)
            elif marker == 0xE1 and body.startswith(b"Exif\0\0"):
                exif = exif or body
            elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
                xmp = xmp or body
            continue
        if marker in _FRAMES:
            if frame:
                raise damaged("it has two frames")
            frame = _check_frame(body, max_pixels)
        elif marker == _SOS:
            scans += 1
            if scans > MAX_SCANS:
                raise _excessive(f"has more than {MAX_SCANS} scans")
            if not frame:
                raise damaged("its pixels come before its size")
        kept.append(segment)
    if not scans:
        raise damaged("it has no pixels")
    height, width, channels = struct.unpack(">HHB", frame[1:6])
    clean = b"".join([*kept, b"\xff\xd9"])
    return ImageFile("JPEG", width, height, channels == 1, clean, _read_orientation(exif, xmp))


def _walk_jpeg(content: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Markers, segments and their bodies, up to the end of the first picture; the data of a scan belong to its
    segment, not to its body."""
    position = 2
    for _ in range(MAX_PARTS):
        found = _MARKER.search(content, position)
        if found is None:
            raise damaged("it ends before its last pixels")
        marker, start, position = found[1][0], found.start(), found.end()
        if marker == _EOI:
            return
        if marker == _SOI:
            raise damaged("another picture begins within it")
        if marker == _TEM:
            continue
        body = position + 2
        end = position = position + max(2, int.from_bytes(content[position:body], "big"))
        if marker == _SOS and (following := _MARKER.search(content, end)):
            position = following.start()
        if position > len(content):
            raise damaged("it ends before its last pixels")
        yield marker, content[start:position], content[body:end]
    raise _excessive(f"has more than {MAX_PARTS:,} segments")


def _check_frame(frame: bytes, max_pixels: int) -> bytes:
    if len(frame) < 6:
        raise damaged("its header is too short")
    bits, height, width, channels = struct.unpack(">BHHB", frame[:6])
    _check_size(width, height, max_pixels)
    if bits != 8:
        raise ambiguous(f"has {bits} bits a channel")
    if channels == 4:
        raise ambiguous("is CMYK")
    if channels not in (1, 3):
        raise damaged(f"it has {channels} channels")
    return frame


def _read_webp(content: bytes, max_pixels: int) -> ImageFile:
    kept, size, frames, exif, xmp = list[bytes](), None, 0, b"", b""
    for kind, length, body in _walk_webp(content):
        if kind == b"EXIF":
            exif = exif or body
        elif kind == b"XMP ":
            xmp = xmp or body
        elif kind in (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"):
            if len(body) < length:
                raise damaged("it ends before its last pixels")
            if size is None and (size := _read_webp_size(kind, body)):
                _check_size(*size, max_pixels)
            frames += kind == b"ANMF"
            kept += [kind, length.to_bytes(4, "little"), body, bytes(length % 2)]
    if frames > 1:
        raise ambiguous("is animated")
    if size is None:
        raise damaged("it has no pixels")
    chunks = b"".join([b"WEBP", *kept])
    clean = b"RIFF" + len(chunks).to_bytes(4, "little") + chunks
    return ImageFile("WEBP", *size, False, clean, _read_orientation(exif, xmp))


def _walk_webp(content: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """Kinds, lengths and bodies of the chunks; the last may be cut short."""
    position, end = 12, min(len(content), 8 + int.from_bytes(content[4:8], "little"))
    for _ in range(MAX_PARTS):
        start = position + 8
        if start > end:
            return
        kind, length = content[position : position + 4], int.from_bytes(content[position + 4 : start], "little")
        yield kind, length, content[start : min(start + length, end)]
        position = start + length + length % 2
    raise _excessive(f"has more than {MAX_PARTS:,} chunks")


def _read_webp_size(kind: bytes, body: bytes) -> tuple[int, int] | None:
    """Width and height that a chunk says, if it does."""
    if kind == b"VP8X" and len(body) >= 10:
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a" and len(body) >= 10:
        width, height = struct.unpack("<HH", body[6:10])
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and body[:1] == b"\x2f" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return None


def _read_orientation(exif: bytes, xmp: bytes) -> int:
    """From 1 to 8; 1, as everywhere else, where there is none that can be read."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    try:
        if order is not None:
            (offset,) = struct.unpack_from(f"{order}I", exif, 4)
            (entries,) = struct.unpack_from(f"{order}H", exif, offset)
            for position in range(offset + 2, offset + 2 + 12 * entries, 12):
                tag, kind, count = struct.unpack_from(f"{order}HHI", exif, position)
                if tag == ORIENTATION:
                    code = {1: "B", 3: "H", 4: "I"}.get(kind)
                    value = struct.unpack_from(order + code, exif, position + 8)[0] if code and count == 1 else 1
                    return value if 1 <= value <= 8 else 1
    except struct.error:
        pass  # it ends before that
    found = _XMP_ORIENTATION.search(xmp)
    return int(found[1]) if found else 1
