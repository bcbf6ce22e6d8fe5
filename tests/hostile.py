"""Requests that somebody would write to do harm: small, and meant to cost much at one of the stages that they pass.

All of it is drawn from a generator that the caller seeds.
"""

import base64
import json
import random
import struct
import zlib
from collections.abc import Callable
from functools import cache

from PIL import Image

from tests.pictures import chunk, draw_image, encode, repeat_scan

MOST_BYTES = 2**20
"""Of a request."""

KINDS_OF_IMAGES = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
PICTURES = [encode(draw_image("RGB", size=(40, 30)), kind) for kind in KINDS_OF_IMAGES]


@cache
def draw_large() -> list[bytes]:
    """A few kilobytes each, and as many pixels as may be."""
    return [
        encode(Image.new("RGB", (5000, 5000)), "PNG"),
        encode(Image.new("L", (7000, 7000)), "JPEG"),
        encode(Image.new("RGB", (7000, 7000)), "JPEG", progressive=True),
        encode(Image.new("RGB", (4300, 4300)), "WEBP", lossless=True),
        encode(Image.new("P", (5000, 5000)), "GIF"),
        encode(Image.new("1", (5000, 5000)), "TIFF", compression="group4"),
        encode(Image.new("RGB", (4300, 4300)), "AVIF", speed=10),
    ]


def make_request(generator: random.Random, model: str, most_bytes: int = MOST_BYTES) -> bytes:
    """A hostile request to a model of images, as it goes over the wire; the server is asked to close the connection."""
    predict, infer = f"/v1/models/{model}/predict", f"/v2/models/{model}/infer"
    kind = generator.choice(KINDS)
    size = int(most_bytes ** generator.uniform(0.3, 1))
    return kind(generator, predict, infer, size)


def _write(path: str, body: bytes, *headers: str, method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode("latin-1") + body


def _repeat(generator: random.Random, parts: list[bytes], size: int) -> bytes:
    """Some of the parts over and over."""
    unit = b"".join(generator.choices(parts, k=generator.randint(1, 4)))
    return unit * max(1, size // len(unit))


def _headers(generator: random.Random, predict: str, infer: str, size: int) -> bytes:
    lines = _repeat(
        generator, [b"a: b\r\n", b"Host: a\r\n", b"Range: bytes=0-\r\n", b"Cookie: " + bytes([97]) * 99], size
    )
    return b"GET / HTTP/1.1\r\nHost: localhost\r\n" + lines + b"\r\n\r\n"


def _chunks(generator: random.Random, predict: str, infer: str, size: int) -> bytes:
    parts = [b"1\r\na\r\n", b"0\r\n", b"a: b\r\n", b"1;x=y\r\na\r\n", b"ffffffffffffffff\r\n", b"\r\n"]
    head = f"POST {predict} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head.encode() + _repeat(generator, parts, size)


def _query(generator: random.Random, predict: str, infer: str, size: int) -> bytes:
    parts = [b"seed=1&", b"%00=%ff&", b"a&", b"seed=" + b"9" * 99 + b"&", b"ensemble_size=-1&"]
    return _write(f"{predict}?{_repeat(generator, parts, min(size, 60_000)).decode()}", b"", method="GET")


def _json(generator: random.Random, predict: str, infer: str, size: int) -> bytes:
    parts = [
        b"1,",
        b'"",',
        b"[",
        b"{",
        b'{"a":1},',
        b"[],",
        b"null,",
        b'"a":1,',
        b"9" * 500 + b",",
        b"1e999,",
        b"\\u0041",
    ]
    before, after = generator.choice(
        [
            (b'{"images": [', b"1]}"),
            (b'{"images": ["', b'"]}'),
            (b'{"inputs": [', b"1]}"),
            (b'{"inputs": [{"name":"images","datatype":"UINT8","shape":[', b"1]}]}"),
            (b'{"inputs": [{"name":"images","datatype":"UINT8","shape":[1,1,8,8],"data":[', b"1]}]}"),
            (b'{"inputs": [], "parameters": {', b'"a":1}}'),
            (b'{"inputs": [], "outputs": [', b"1]}"),
            (b"", b""),
        ]
    )
    path = generator.choice([predict, infer, "/v2/repository/index"])
    return _write(path, before + _repeat(generator, parts, size) + after, "Content-Type: application/json")


def _multipart(generator: random.Random, predict: str, infer: str, size: int) -> bytes:
    part = b"\r\n--BBB\r\nContent-Disposition: form-data; name=images; filename=a\r\n\r\n"
    parts = [b"\r\n--BBBx", b"\r\n--BB", b"\r\n--BBB\r\n", part, b"\r", b"a: b\r\n", generator.choice(PICTURES)]
    body = (part[2:] if generator.random() < 0.7 else b"") + _repeat(generator, parts, size) + b"\r\n--BBB--"
    boundary = generator.choice(["boundary=BBB", "boundary*=undefined''BBB", "charset=undefined; boundary=BBB", ""])
    return _write(predict, body, f"Content-Type: multipart/form-data; {boundary}")


def _tensors(generator: random.Random, predict: str, infer: str, size: int) -> bytes:
    name, datatype = generator.choice([("images", "UINT8"), ("encoded_images", "BYTES"), ("inputs", "FP32")])
    numbers = [0, 1, 8, 256, 2**31, 2**63, 10**100]
    shape = [generator.choice(numbers) for _ in range(generator.randint(0, 5))]
    content = struct.pack("<I", generator.choice([0, 1, 2**32 - 1])) * (size // 4)
    parameters = {"binary_data_size": generator.choice([len(content), 0, 2**63])}
    tensor = {"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}
    message = json.dumps({"inputs": [tensor]}).encode()
    length = generator.choice([len(message), 0, len(message) + len(content), 10**18])
    body, headers = message + content, [f"Inference-Header-Content-Length: {length}"]
    if generator.random() < 0.3:
        body, headers = zlib.compress(bytes(2**27 if size > 2**17 else size)), [*headers, "Content-Encoding: deflate"]
    return _write(infer, body, *headers)


def _images(generator: random.Random, predict: str, infer: str, size: int) -> bytes:
    image = generator.choice([_damage, _bomb, _metadata, lambda *_: generator.choice(draw_large())])(generator, size)
    count = generator.choice([1, 1, 2, 8])
    encoded = [base64.b64encode(image).decode()] * min(count, max(1, MOST_BYTES // (2 * len(image))))
    body = json.dumps({"images": encoded}).encode()
    timeout = generator.choice(["0.05", "1", "86400"])
    size_of_ensemble = generator.choice(["1", "2", "5"])
    headers = "Content-Type: application/json", f"X-Request-Timeout: {timeout}"
    return _write(f"{predict}?ensemble_size={size_of_ensemble}", body, *headers)


def _damage(generator: random.Random, size: int) -> bytes:
    content = bytearray(generator.choice(PICTURES + draw_large()))
    for _ in range(generator.randint(1, 5)):
        position = generator.randrange(len(content))
        content[position : position + generator.randint(0, 8)] = generator.randbytes(generator.randint(0, 8))
    return bytes(content[: generator.randint(1, len(content))])


def _bomb(generator: random.Random, size: int) -> bytes:
    if generator.random() < 0.3:
        return repeat_scan(min(size, 2**17) // 31 + 1)
    width, height = generator.choice([(5000, 5000), (65_000, 65_000), (2**31 - 1, 1), (1, 25_000_000), (0, 0)])
    depth, colour = generator.choice([(8, 0), (8, 2), (8, 6), (16, 2), (1, 0), (8, 3)])
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, generator.randint(0, 1)))
    pixels = chunk(b"IDAT", zlib.compress(bytes(min(64_000_000, 200 * size)), 9))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


def _metadata(generator: random.Random, size: int) -> bytes:
    text = zlib.compress(bytes(min(100_000_000, 500 * size)), 9)
    parts = {
        b"zTXt": b"XML:com.adobe.xmp\0\0" + text,
        b"iTXt": b"XML:com.adobe.xmp\0\1\0\0\0" + text,
        b"iCCP": b"a\0\0" + text,
        b"eXIf": b"MM\0*" + generator.randbytes(min(size, 60_000)),
        b"tEXt": b"",
    }
    kind = generator.choice(list(parts))
    copies = max(1, min(size, 2**19) // (len(parts[kind]) + 12))
    return PICTURES[0][:33] + chunk(kind, parts[kind]) * copies + PICTURES[0][33:]


KINDS: list[Callable[[random.Random, str, str, int], bytes]] = [
    _headers,
    _chunks,
    _query,
    _json,
    _multipart,
    _tensors,
    _images,
    _images,
]
