"""What image files that somebody would write to do harm cost."""

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image

from models.inputs.image_file import MAX_PARTS
from models.inputs.jpeg import MAX_SCANS
from tests.pictures import chunk, draw_black, draw_image, encode, pad_jpeg, repeat_scan, write_png

JPEG = encode(draw_image(), "JPEG")


def write_hostile(folder: Path) -> None:
    """Files of at most 1 MB that cost as much as can be, under the service's limit of pixels."""
    brown, large = (Image.new("RGB", size, "brown") for size in ((4300, 4300), (5000, 5000)))
    files = {
        "scans.jpg": repeat_scan(MAX_SCANS - 10, (7000, 7000)),
        "clear.png": write_png(5000, 5000, (b"\4" + bytes(15_000)) * 5000, 8, 2, chunk(b"tRNS", bytes([0, 1] * 3))),
        "deep.png": write_png(3500, 3500, (b"\4" + bytes(21_000)) * 3500, 16, 2, chunk(b"tRNS", bytes([0, 1] * 3))),
        "wide.png": write_png(65_500, 381, bytes(381 * 65_501), 8, 0),
        "bomb.png": write_png(1, 1, bytes(10**8)),
        "texts.png": draw_black(*[chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(2**24)))] * 50),
        "chunks.png": draw_black(*[chunk(b"IDAT", b"")] * 80_000),
        "exif.png": draw_black(chunk(b"eXIf", b"II*\0" + struct.pack("<IH", 8, 65_535) + bytes(12 * 65_535))),
        "fill.jpg": JPEG[:-2] + b"\xff" * 900_000 + b"\0" + JPEG[-2:],
        "segments.jpg": pad_jpeg(MAX_PARTS - 100),
        "lossless.webp": encode(brown, "WEBP", lossless=True, quality=0, method=0),
        "lossy.webp": encode(brown, "WEBP", method=0),
        "still.avif": encode(brown, "AVIF", speed=10),
        "still.gif": encode(Image.new("P", (5000, 5000), "brown"), "GIF"),
        "blocks.gif": JUNK_GIF,
        "lzw.tif": encode(large, "TIFF", compression="tiff_lzw"),
        "strips.tif": encode(Image.new("L", (2, 65_500)), "TIFF", strip_size=2),
        "fax.tif": encode(Image.new("1", (5000, 5000)), "TIFF", compression="group4"),
    }
    for name, content in files.items():
        assert len(content) <= 1_000_000, name
        (folder / name).write_bytes(content)


JUNK_GIF = encode(Image.new("P", (9, 9)), "GIF").replace(b",", b"!\xfe" + b"\1a" * (MAX_PARTS - 100) + b"\0,", 1)

MEASURE = """
import io, json, re, sys, time
from pathlib import Path
import numpy as np
from PIL import Image
from models.inputs.pixels import ImageError, decode_image
from models.inputs.image import ImageSpec
spec = ImageSpec(channels=3, height=28, width=28, mean=(0.0,) * 3, std=(1.0,) * 3)
def read_peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
def measure(content, name):
    start = time.process_time()
    try:
        decode_image(content, spec, 25_000_000, name)
    except ImageError as error:
        assert error.kind != "invalid", error
    return time.process_time() - start
picture, tenth = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8), io.BytesIO()
Image.fromarray(picture).resize((1600, 1600)).save(tenth, "PNG")
before = read_peak()
usual = 10 * max(measure(tenth.getvalue(), "tenth") for _ in range(2))
seconds = {path.name: measure(path.read_bytes(), path.name) for path in sorted(Path(sys.argv[1]).iterdir())}
print(json.dumps([seconds, usual, read_peak() - before]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux tells it")
def test_no_file_of_a_megabyte_is_dear(tmp_path: Path) -> None:
    """Compared with a usual PNG of as many pixels as the service takes."""
    write_hostile(tmp_path)
    ran = subprocess.run([sys.executable, "-c", MEASURE, tmp_path], capture_output=True, text=True, check=True)
    seconds, usual, megabytes = json.loads(ran.stdout)
    assert max(seconds.values()) < 2 * usual, (seconds, usual)
    assert megabytes < 320
