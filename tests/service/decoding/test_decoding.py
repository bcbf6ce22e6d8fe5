"""The pool of processes that decode images."""

import struct
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import pytest
import torch
from PIL import Image

import service.decoding.pool
from models.inputs.image import ImageSpec
from models.inputs.image_file import Size
from models.inputs.image_files import read_size
from models.inputs.pixels import ImageError, decode_image
from models.inputs.tiff import MAX_DIRECTORIES, MAX_ENTRIES
from service.admission import OverloadedError
from service.decoding.pool import Decoder, DecoderError
from service.decoding.process import read_message
from tests.costs import find_slowness
from tests.engine import await_idle, stop_processes
from tests.pictures import draw_image, encode, write_webp
from tests.waiting import PATIENCE, wait_until

GREY = ImageSpec(1, 8, 8, (0.0,), (1.0,))
COLOUR = ImageSpec(3, 9, 7, (0.0,) * 3, (1.0,) * 3)
SMALL = encode(draw_image("RGB", size=(20, 10)), "JPEG")
LARGE = encode(Image.new("RGB", (5000, 5000)), "PNG")


@contextmanager
def start_decoder(processes: int = 1, queue_pixels: int = 10**9) -> Iterator[Decoder]:
    decoder = Decoder(processes, max_pixels=25_000_000, queue_pixels=queue_pixels, seconds=PATIENCE)
    yield decoder
    decoder.close()


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    with start_decoder(processes=2) as decoder:
        yield decoder


def name(*files: bytes) -> dict[str, bytes]:
    return {f"image {index}": file for index, file in enumerate(files)}


@pytest.mark.parametrize("spec", [GREY, COLOUR])
def test_pixels_are_those_of_the_file(decoder: Decoder, spec: ImageSpec) -> None:
    files = [
        encode(draw_image(mode, size=(n, 12)), kind)
        for mode, n, kind in (
            ("L", 8, "PNG"),
            ("RGB", 30, "JPEG"),
            ("RGB", 9, "WEBP"),
            ("L", 500, "PNG"),
            ("P", 9, "GIF"),
        )
    ]
    expected = torch.stack([decode_image(file, spec, 10**6, "") for file in files])
    assert torch.equal(decoder.decode(name(*files), spec.shape).result(PATIENCE), expected)
    many = decoder.decode(name(*files * 20), spec.shape).result(PATIENCE)
    assert torch.equal(many, expected.repeat(20, 1, 1, 1))
    await_idle(decoder)


def test_the_first_image_that_cannot_be_taken_is_named(decoder: Decoder) -> None:
    files = name(*[SMALL] * 5, b"no image", *[SMALL] * 5, b"nor this")
    for _ in range(5):
        with pytest.raises(ImageError, match=r"^image 5 cannot be decoded"):
            decoder.decode(files, GREY.shape).result(PATIENCE)
    await_idle(decoder)


def test_what_takes_too_long_is_stopped() -> None:
    with start_decoder() as decoder, stop_processes(decoder):
        decoder._seconds = 0.05
        with pytest.raises(ImageError, match=r"image 0 cannot be decoded: it takes longer than 0.05 s"):
            decoder.decode(name(SMALL), COLOUR.shape).result(PATIENCE)
        decoder._seconds = PATIENCE  # the next ones have a process again
        assert decoder.decode(name(SMALL, LARGE), GREY.shape).result(PATIENCE).shape == (2, 1, 8, 8)


def test_a_process_that_dies_costs_one_image(decoder: Decoder) -> None:
    with stop_processes(decoder):
        waiting = decoder.decode(name(*[SMALL] * 2), GREY.shape)
        wait_until(lambda: all(worker._job for worker in decoder._workers))
        for worker in decoder._workers:
            worker._process.kill()
        with pytest.raises(ImageError, match="image 0 cannot be decoded: the decoder crashed"):
            waiting.result(PATIENCE)
        assert decoder.decode(name(SMALL), GREY.shape).result(PATIENCE).shape == (1, 1, 8, 8)


def test_a_process_that_dies_between_images_costs_none() -> None:
    with start_decoder() as decoder:
        decoder.warm_up()
        process = decoder._workers[0]._process
        process.kill()
        process.wait()
        assert decoder.decode(name(SMALL), GREY.shape).result(PATIENCE).shape == (1, 1, 8, 8)


def test_a_process_that_is_killed_as_it_answers_costs_no_other_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed for an image that nobody waits for any more, which it has just finished."""
    with start_decoder() as decoder:
        decoder.warm_up()
        worker = decoder._workers[0]

        def read_and_kill(stream: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
            answer = read_message(stream)
            worker.look(0)
            return answer

        monkeypatch.setattr(service.decoding.pool, "read_message", read_and_kill)
        decoder.decode(name(SMALL), GREY.shape).result(PATIENCE)
        monkeypatch.undo()
        assert decoder.decode(name(SMALL), GREY.shape).result(PATIENCE).shape == (1, 1, 8, 8)


def test_processes_that_do_not_start_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with start_decoder() as decoder, pytest.raises(DecoderError, match="did not start"):
        decoder.warm_up()


def test_work_that_nobody_waits_for_ends(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the processes that it would keep."""
    monkeypatch.setattr(service.decoding.pool, "RESTART_SECONDS", 0.0)
    with stop_processes(decoder):
        left = decoder.decode(name(*[SMALL] * 50), GREY.shape)
        wait_until(lambda: all(worker._job for worker in decoder._workers))
        assert left.cancel()
        await_idle(decoder)
        decoder.decode(name(*[SMALL] * 4), GREY.shape).result(PATIENCE)
    assert not decoder._jobs


def test_memory_is_that_of_an_image(decoder: Decoder) -> None:
    """Whose tables want more than its pixels may is refused, and costs no process; the largest files are taken."""
    with pytest.raises(ImageError, match="image 0 cannot be decoded"):
        decoder.decode(name(make_table_bomb()), GREY.shape).result(PATIENCE)
    for kind, mode, size, options in (
        ("PNG", "RGB", (5000, 5000), {}),
        ("JPEG", "RGB", (7000, 7000), {"progressive": True, "subsampling": 0}),
        ("WEBP", "RGB", (5000, 3750), {"lossless": True}),
        ("WEBP", "RGB", (3750, 5000), {"method": 0}),
        ("GIF", "P", (5000, 5000), {}),
        ("TIFF", "RGB", (5000, 5000), {"compression": "tiff_lzw"}),
        ("AVIF", "RGB", (5000, 3750), {"speed": 10, "subsampling": "4:4:4"}),
    ):
        file = encode(Image.new(mode, size), kind, **options)
        assert decoder.decode(name(file), (3, 3000, 3000)).result(PATIENCE).shape == (1, 3, 3000, 3000)


def make_table_bomb(groups: int = 2**14, side: int = 512) -> bytes:
    """A lossless WebP that names a code of its own, five tables, for each of its blocks of 4 × 4 pixels."""
    bits: list[int] = []

    def put(value: int, count: int) -> None:
        bits.extend(value >> position & 1 for position in range(count))

    def put_empty_code() -> None:
        put(0b0001, 4)  # of a single symbol, 0

    def put_byte_code(alphabet: int) -> None:
        """Of 8 bits for each of 256 symbols."""
        put(0, 1)
        put(8, 4)
        for symbol in (17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8):
            put(int(symbol in (0, 8)), 3)
        put(0, 1)
        for symbol in range(alphabet):
            put(int(symbol < 256), 1)

    put(side - 1, 14)
    put(side - 1, 14)
    put(0, 1 + 3 + 1 + 1)  # no alpha, version 0, no transform, no cache
    put(1, 1)
    put(0, 3 + 1)  # blocks of 4 × 4, whose image of codes has no cache
    put_byte_code(280)
    put_byte_code(256)
    for _ in range(3):
        put_empty_code()
    reverse = [int(f"{value:08b}"[::-1], 2) for value in range(256)]
    for block in range((side // 4) ** 2):
        put(reverse[block % groups & 255], 8)
        put(reverse[block % groups >> 8], 8)
    for _ in range(5 * groups):
        put_empty_code()
    put(0, 64)
    number = int("".join(map(str, reversed(bits))), 2)
    return write_webp((b"VP8L", b"\x2f" + number.to_bytes(len(bits) // 8 + 1, "little")))


def test_requests_take_turns() -> None:
    """One image does not wait for all of another's."""
    order: list[str] = []
    with start_decoder() as decoder:
        with stop_processes(decoder):
            many, one = (decoder.decode(name(*[SMALL] * count), GREY.shape) for count in (5, 1))
            many.add_done_callback(lambda _: order.append("many"))
            one.add_done_callback(lambda _: order.append("one"))
        many.result(PATIENCE)
        wait_until(lambda: len(order) == 2)
    assert order == ["one", "many"]


def test_closing_cancels_what_is_not_done() -> None:
    with start_decoder() as decoder, stop_processes(decoder):
        left = decoder.decode(name(*[SMALL] * 2), GREY.shape)
        decoder.close()
        with pytest.raises(CancelledError):
            left.result(PATIENCE)
        assert decoder.decode(name(SMALL), GREY.shape).cancelled()


def test_pixels_that_wait_are_bounded() -> None:
    with start_decoder(queue_pixels=150_000_000) as decoder:
        with stop_processes(decoder):
            waiting = decoder.decode(name(*[LARGE] * 5), GREY.shape, "a")
            with pytest.raises(OverloadedError) as caught:
                decoder.decode(name(*[LARGE] * 5), GREY.shape, "a")
            assert caught.value.seconds > 0
            small = decoder.decode(name(SMALL), GREY.shape, "b")
        small.result(PATIENCE)
        waiting.cancel()
        decoder.decode(name(*[LARGE] * 2), GREY.shape, "a").result(PATIENCE)


def test_a_file_is_believed_no_further_than_it_was_counted(decoder: Decoder) -> None:
    """Two headers do not make one image cheap for the budget and dear for the processor."""
    dear = encode(Image.new("L", (3000, 3000)), "JPEG")
    cheap = dear[:2] + encode(Image.new("L", (1, 1)), "JPEG")[2:-2] + dear[2:]
    assert read_size(cheap) == Size(1, 1, 0.5)
    assert decoder.count_pixels({"a": cheap}) == [1]
    with pytest.raises(ImageError):
        decoder.decode({"a": cheap}, GREY.shape).result(PATIENCE)
    assert decoder.count_pixels(name(b"", b"hello", LARGE, SMALL)) == [25_000_000] * 3 + [100]


WEIGHTS = {"PNG": 1.0, "JPEG": 0.5, "WEBP": 4 / 3, "GIF": 1.0, "BMP": 1.0, "TIFF": 1.0, "AVIF": 4 / 3}


@pytest.mark.parametrize("size", [(1, 1), (300, 2), (1, 5000)])
@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize(
    "options", [{}, {"lossless": True}, {"progressive": True, "exif": b"Exif\0\0II*\0\x08\0\0\0" + bytes(60_000)}]
)
def test_sizes_are_read_off_the_first_bytes(size: tuple[int, int], kind: str, options: dict[str, object]) -> None:
    content = encode(Image.new("RGB", size), kind, **options)
    assert read_size(content) == Size(*size, WEIGHTS[kind])
    for end in range(min(len(content), 400)):
        read_size(content[:end])


def test_pixels_of_jpeg_count_half_and_others_once(decoder: Decoder) -> None:
    deep = encode(Image.fromarray(np.zeros((30, 40), np.uint16)))
    others = [encode(Image.new("CMYK", (40, 30)), "JPEG"), encode(Image.new("RGB", (40, 30)), "WEBP")]
    jpeg = encode(Image.new("L", (40, 30)), "JPEG")
    assert decoder.count_pixels(name(deep, *others, jpeg)) == [1200, 1200, 1200, 600]
    assert [size.cost for size in map(read_size, [deep, *others, jpeg]) if size] == [2400, 1200, 1600, 600]


def test_sizes_of_hostile_files_are_read_at_once(decoder: Decoder) -> None:
    """On the event loop: of files that name as many parts as may be, and of chains of parts that lead nowhere."""
    entries = b"".join(struct.pack("<HHII", 0x8000 + number, 3, 1, 0) for number in range(MAX_ENTRIES))
    starts = [8 + (6 + len(entries)) * number for number in range(MAX_DIRECTORIES + 1)]
    directories = [struct.pack("<H", MAX_ENTRIES) + entries + struct.pack("<I", start) for start in starts[1:]]
    tiff = b"II*\0" + struct.pack("<I", 8) + b"".join(directories)
    empty = struct.pack(">I4s", 8, b"free")
    avif = encode(draw_image("RGB"), "AVIF")
    boxes = avif[:32] + empty * 100_000 + avif[32:]
    files = {f"{index}": content for index, content in enumerate([tiff, boxes] * 128)}
    start = time.process_time()
    decoder.count_pixels(files)
    assert time.process_time() - start < 0.5 * find_slowness()
