"""TIFF files: a chain of directories, one for each page, whose entries say where the pixels are and what they mean.

Source: "TIFF, Revision 6.0", Adobe, and its technical notes.
"""

import struct
from typing import NamedTuple

from models.inputs.image_file import (
    DEEP_WEIGHT,
    MAX_PARTS,
    ORIENTATION,
    FileError,
    ImageFile,
    Size,
    ambiguous,
    check_size,
    damaged,
    excessive,
)

MAX_DIRECTORIES, MAX_ENTRIES = 16, 200
"""Most directories of a file, and entries of a directory. Cameras write 5 directories with 60 entries."""

MAX_LEVELS = 3 * 2**8
"""Most numbers in a palette."""

FEW = 8
"""Most numbers of an entry that describes the channels."""

MIN_TILE = 16
"""Width and height of tiles are multiples of it."""

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_CHANNELS, _PLANES, _COLOR_MAP, _TILE_WIDTH, _TILE_HEIGHT = 277, 284, 320, 322, 323
_PLACES, _LENGTHS = (273, 324), (279, 325)
"""Of strips, or of tiles."""
_INKS, _EXTRA, _FORMAT, _RAW = 332, 338, 339, 50706
_CODING = (266, 278, 292, 293, 317, 347, 529, 530, 531, 532)
"""Tags that say how pixels are coded."""
_KEPT = {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _CHANNELS, _PLANES, _COLOR_MAP, _EXTRA}
_KEPT |= {_TILE_WIDTH, _TILE_HEIGHT, *_PLACES, *_LENGTHS, *_CODING}
_CODES = {1: "B", 3: "H", 4: "I"}
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}
"""Number of channels by their meaning: white is 0, black is 0, RGB, palette, CMYK, YCbCr."""
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _PALETTE, _CMYK, _YCBCR = 0, 1, 3, 5, 6
_ALPHA = 2
"""An alpha channel that does not scale the others. Where it is opaque, the other kind, 1, means the same."""
_JPEG = 7
_COMPRESSIONS = {1, 2, 3, 4, 5, _JPEG, 8, 32773, 32946}
"""None, CCITT's three, LZW, JPEG, Deflate, PackBits, and Deflate by its old number."""


class _Page(NamedTuple):
    order: str
    """Byte order, as `struct` names it."""
    entries: dict[int, bytes]
    """Entries by their tags: kind, count, and the values or their place."""
    content: bytes

    def read(self, tag: int, default: tuple[int, ...] = (), most: int = FEW) -> tuple[int, ...]:
        """The numbers of an entry; the default if there is none.

        Raises:
            FileError: if they are not whole numbers, are too many, or lie outside the file.
        """
        entry = self.entries.get(tag)
        if entry is None:
            return default
        kind, count = struct.unpack_from(f"{self.order}HI", entry)
        code = _CODES.get(kind)
        if code is None or not 0 < count <= most:
            raise damaged(f"its tag {tag} does not hold 1 to {most:,} whole numbers")
        layout = f"{self.order}{count}{code}"
        if struct.calcsize(layout) <= 4:
            return struct.unpack_from(layout, entry, 6)
        (offset,) = struct.unpack_from(f"{self.order}I", entry, 6)
        if offset + struct.calcsize(layout) > len(self.content):
            raise damaged(f"its tag {tag} lies outside the file")
        return struct.unpack_from(layout, self.content, offset)

    def read_number(self, tag: int, default: int = 0) -> int:
        """The first number of an entry."""
        return self.read(tag, (default,))[0]

    @property
    def size(self) -> Size:
        """Width, height and weight."""
        deep = max(self.read(_BITS, (1,))) > 8
        return Size(self.read_number(_WIDTH), self.read_number(_HEIGHT), DEEP_WEIGHT if deep else 1.0)


def read_tiff(content: bytes, max_pixels: int) -> ImageFile:
    """Reads a file's structure: `models.inputs.image_files.read_image_file`."""
    page = _find_page(content)
    check_size(size := page.size, max_pixels)
    for tag in (_TILE_WIDTH, _TILE_HEIGHT):
        if page.read_number(tag, MIN_TILE) % MIN_TILE:
            raise damaged("the sizes of its tiles are no multiples of 16")
    check_size(Size(page.read_number(_TILE_WIDTH, 1), page.read_number(_TILE_HEIGHT, 1), size.weight), max_pixels)
    _check_kind(page)
    _check_places(page)
    meaning, bits = page.read_number(_PHOTOMETRIC), page.read_number(_BITS, 1)
    grey, inverted, colours = meaning in (_WHITE_IS_ZERO, _BLACK_IS_ZERO), meaning == _WHITE_IS_ZERO, 256
    if meaning == _PALETTE:
        levels, colours = page.read(_COLOR_MAP, most=MAX_LEVELS), 2**bits
        if len(levels) != 3 * colours:
            raise damaged("its palette is missing or has the wrong length")
        grey = levels[:colours] == levels[colours : 2 * colours] == levels[2 * colours :]
    return ImageFile(
        "TIFF",
        size.width,
        size.height,
        grey,
        _write_page(page, {_PHOTOMETRIC: _BLACK_IS_ZERO if inverted else meaning, _EXTRA: _ALPHA}),
        orientation if 1 <= (orientation := page.read_number(ORIENTATION, 1)) <= 8 else 1,
        deep=bits == 16,
        inverted=inverted,
        colours=colours,
    )


def read_tiff_size(content: bytes) -> Size | None:
    """The size from the page's directory; None if it cannot be read."""
    try:
        return _find_page(content).size
    except FileError:
        return None


def _find_page(content: bytes) -> _Page:
    """The only page; smaller copies of it, as cameras write them, and masks do not count."""
    order = "<" if content[:2] == b"II" else ">"
    pages, position, seen = list[_Page](), 4, set[int]()
    try:
        while (start := struct.unpack_from(f"{order}I", content, position)[0]) and start not in seen:
            seen.add(start)
            (count,) = struct.unpack_from(f"{order}H", content, start)
            if len(seen) > MAX_DIRECTORIES or count > MAX_ENTRIES:
                raise excessive(f"has more than {MAX_DIRECTORIES} directories or {MAX_ENTRIES} entries in one")
            position = start + 2 + 12 * count
            entries = struct.iter_unpack(f"{order}H10s", content[start + 2 : position])
            page = _Page(order, dict(entries), content)
            if not page.read_number(_SUBFILE) & ~2:
                pages.append(page)
    except struct.error as error:
        raise damaged("it ends within a directory") from error
    if not pages:
        raise damaged("it holds no page, or only previews of pictures")
    if len(pages) > 1:
        raise ambiguous("has several pages")
    return pages[0]


def _check_kind(page: _Page) -> None:
    """Checks that the pixels are of a kind that can be decoded, and mean one thing.

    Raises:
        FileError: if they are not.
    """
    if _RAW in page.entries:
        raise FileError("unsupported", "is a camera's raw file", "Save the developed photograph as JPEG or TIFF.")
    meaning, compression = page.read_number(_PHOTOMETRIC, -1), page.read_number(_COMPRESSION, 1)
    bits, extra = page.read(_BITS, (1,)), page.read(_EXTRA)
    hint = "Save it as 8-bit or 16-bit greyscale or RGB, uncompressed or with LZW, Deflate or JPEG."
    if compression not in _COMPRESSIONS:
        raise FileError("unsupported", f"is a TIFF file with the compression {compression}", hint)
    if meaning not in _COLOURS or (meaning == _YCBCR) > (compression == _JPEG) or page.read_number(_INKS, 1) != 1:
        raise FileError("unsupported", f"is a TIFF file with the kind of colours {meaning}", hint)
    if set(page.read(_FORMAT, (1,))) != {1}:
        raise FileError("unsupported", "is a TIFF file with negative or fractional pixels", hint)
    channels = page.read_number(_CHANNELS, 1)
    if channels != _COLOURS[meaning] + len(extra) or len(extra) > 1 or not {*extra} <= {1, _ALPHA}:
        raise ambiguous("has channels whose meaning it does not say")
    depths = (1, 2, 4, 8, 16) if channels == 1 else (8, 16) if meaning in (2, _CMYK) else (8,)
    if len({*bits}) > 1 or bits[0] not in depths or (extra and meaning not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, 2)):
        raise FileError("unsupported", f"is a TIFF file with {channels} channels of {bits[0]} bits", hint)
    if bits[0] == 16 and channels > 1 and page.read_number(_PLANES, 1) != 1:
        raise FileError("unsupported", "is a TIFF file with 16 bits in a plane for each channel", hint)


def _check_places(page: _Page) -> None:
    """Checks that all strips or tiles lie within the file.

    Raises:
        FileError: if they do not.
    """
    starts, lengths = (
        page.read(tags[0], most=MAX_PARTS) or page.read(tags[1], most=MAX_PARTS) for tags in (_PLACES, _LENGTHS)
    )
    if not starts or len(starts) != len(lengths):
        raise damaged("it does not say where its pixels are")
    if max(map(sum, zip(starts, lengths, strict=True))) > len(page.content):
        raise damaged("it ends before its last pixels")


def _write_page(page: _Page, changes: dict[int, int]) -> bytes:
    """The file with a directory of its own at its end, which names nothing but the pixels."""
    order, kept = page.order, {tag: entry for tag, entry in sorted(page.entries.items()) if tag in _KEPT}
    for tag in kept:
        (count,) = struct.unpack_from(f"{order}I", kept[tag], 2)
        if count > MAX_PARTS:
            raise excessive(f"has more than {MAX_PARTS:,} strips or tiles")
        if tag in changes:
            kept[tag] = struct.pack(f"{order}HIHxx", 3, 1, changes[tag])
    content = page.content + bytes(len(page.content) % 2)
    directory = [
        struct.pack(f"{order}H", len(kept)),
        *(struct.pack(f"{order}H", tag) + entry for tag, entry in kept.items()),
        bytes(4),
    ]
    return b"".join([content[:4], struct.pack(f"{order}I", len(content)), content[8:], *directory])
