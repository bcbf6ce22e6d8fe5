"""Request bodies: images as multipart parts, as one raw file or as base64 in JSON; vectors of numbers as JSON."""

import asyncio
import base64
import binascii
import zlib
from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, TypeVar

import torch
from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from torch import Tensor

from models.input import VectorSpec
from service.errors import ServiceError
from service.inference import check_number, convert_vectors
from service.settings import Settings

_BODY_HINT = (
    "Send PNG, JPEG or WebP files: in multipart/form-data as file parts named images (curl -F images=@FILE), one alone "
    'with Content-Type: image/*, or as application/json {"images": ["<base64 of a file>", …]}. '
    "Parameters such as seed belong in the query string."
)

_WINDOW_BITS = {"gzip": 31, "deflate": 15}
"""That zlib tells the formats by; deflate is zlib's own, by RFC 9110."""

Body = TypeVar("Body", bound=BaseModel)


class ImagesBody(BaseModel):
    """The JSON form of a request."""

    model_config = ConfigDict(extra="forbid")

    images: list[str] = Field(min_length=1)
    """Base64 of a PNG, JPEG or WebP file each."""


class VectorsBody(BaseModel):
    """The request for a model that takes vectors of numbers."""

    model_config = ConfigDict(extra="forbid", strict=True)

    inputs: list[list[Annotated[float, Field(allow_inf_nan=False)]]] = Field(min_length=1)
    """One row for each vector, with the model's input numbers in order."""


async def read_vectors(request: Request, settings: Settings, spec: VectorSpec) -> Tensor:
    """The vectors of a request, float32 [B, numbers].

    Raises:
        ServiceError: 408 for a slow body, 413 for too much, 415 for another kind, 422 for one that does not hold
            such vectors.
    """
    names = ", ".join(spec.names)
    hint = f'Send application/json {{"inputs": [[{names}], …]}}, each row with {len(spec.names)} number(s).'
    content_type = _read_content_type(request)
    if content_type not in ("application/json", ""):
        message = f"A body of type {content_type!r} is not understood by this model, which takes numbers."
        raise ServiceError(415, "unsupported_media_type", message, hint)
    rows = validate_json(await _read_plain_body(request, settings), VectorsBody, hint).inputs
    check_number(len(rows), "vectors", settings)
    if wrong := [index for index, row in enumerate(rows) if len(row) != len(spec.names)]:
        raise ServiceError(422, "invalid_input", f"Row {wrong[0]} has {len(rows[wrong[0]])} number(s).", hint)
    return convert_vectors(torch.tensor(rows, dtype=torch.float64), spec)


async def read_images(request: Request, settings: Settings) -> dict[str, bytes]:
    """The encoded images of a request, in order, by a name for messages.

    Raises:
        ServiceError: 408 for a slow body, 413 for too much, 415 for another kind, 422 for one that does not hold
            images.
    """
    content_type = _read_content_type(request)
    body = await _read_plain_body(request, settings)
    if content_type == "multipart/form-data":
        images = await _parse_multipart(request, body, settings)
    elif content_type == "application/json":
        images = _parse_json(body)
    elif content_type.startswith("image/") or content_type in ("application/octet-stream", ""):
        images = {"the body": body}
    else:
        raise ServiceError(
            415, "unsupported_media_type", f"A body of type {content_type!r} is not understood.", _BODY_HINT
        )
    check_number(len(images), "images", settings)
    if empty := [name for name, content in images.items() if not content]:
        raise ServiceError(422, "invalid_image", f"{empty[0]} is empty.", _BODY_HINT)
    return images


def _read_content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request, settings: Settings) -> bytes:
    """The body as it arrives, compressed or not.

    Raises:
        ServiceError: 408 for a slow one, 413 for a large one.
    """
    try:
        async with asyncio.timeout(settings.body_timeout):
            return await _read_limited(request, settings.max_body_bytes)
    except TimeoutError as error:
        message = f"The body had not arrived after {settings.body_timeout:g} s."
        raise ServiceError(408, "body_too_slow", message, "Send it faster, or in parts.") from error


def decompress(body: bytes, encoding: str, settings: Settings) -> bytes:
    """A body without its Content-Encoding, gzip or deflate.

    Raises:
        ServiceError: 400 if it is damaged, 413 if it is large, 415 for another encoding.
    """
    if encoding == "identity":
        return body
    if encoding not in _WINDOW_BITS:
        message = f"A body with Content-Encoding {encoding!r} is not understood."
        raise ServiceError(415, "unsupported_encoding", message, "Send it uncompressed, or as gzip or deflate.")
    limit = settings.max_decompressed_bytes
    stream = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        content = stream.decompress(body, limit + 1)
    except zlib.error as error:
        hint = f"Send one complete {encoding} stream."
        raise ServiceError(400, "invalid_encoding", f"The body is not {encoding}: {error}.", hint) from error
    if len(content) > limit:
        raise ServiceError(413, "body_too_large", "The body is too large.", f"Decompressed it may have {limit} bytes.")
    if not stream.eof or stream.unused_data:
        what = "has bytes after its end" if stream.eof else "is not complete"
        message, hint = f"The {encoding} stream of the body {what}.", f"Send one complete {encoding} stream."
        raise ServiceError(400, "invalid_encoding", message, hint)
    return content


def read_encoding(request: Request) -> str:
    """The Content-Encoding of a request's body; identity where there is none."""
    return request.headers.get("content-encoding", "identity").strip().lower()


async def _read_plain_body(request: Request, settings: Settings) -> bytes:
    if (encoding := read_encoding(request)) != "identity":
        message, hint = f"A body with Content-Encoding {encoding!r} is not understood.", "Send it uncompressed."
        raise ServiceError(415, "unsupported_encoding", message, hint)
    return await read_body(request, settings)


async def _read_limited(request: Request, limit: int) -> bytes:
    error = ServiceError(413, "body_too_large", "The body is too large.", f"Send at most {limit} bytes.")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit:
        raise error
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise error
    return bytes(body)


async def _parse_multipart(request: Request, body: bytes, settings: Settings) -> dict[str, bytes]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(
        request.headers,
        stream(),
        max_files=settings.max_inputs + 1,
        max_fields=settings.max_inputs + 1,  # each is refused below, by its name
        max_part_size=settings.max_body_bytes,
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:
        reason = error.message if isinstance(error, MultiPartException) else "it names no boundary"
        raise ServiceError(
            422, "invalid_multipart", f"The multipart body is not valid: {reason}", _BODY_HINT
        ) from error
    images: dict[str, bytes] = {}
    try:
        for index, (name, part) in enumerate(form.multi_items()):
            if not isinstance(part, UploadFile):
                raise ServiceError(422, "unknown_part", f"Part {index}, {name!r}, is text and no file.", _BODY_HINT)
            if name != "images":
                raise ServiceError(422, "unknown_part", f"Part {index} is named {name!r}.", _BODY_HINT)
            images[f"image {index} ({part.filename})"] = await part.read()
    finally:
        await form.close()
    if not images:
        raise ServiceError(422, "no_images", "The multipart body holds no images.", _BODY_HINT)
    return images


def _parse_json(body: bytes) -> dict[str, bytes]:
    return decode_base64(validate_json(body, ImagesBody, _BODY_HINT).images)


def decode_base64(encoded: Sequence[str | bytes]) -> dict[str, bytes]:
    """Files by a name for messages, from base64 of each.

    Raises:
        ServiceError: 422 for what is no base64.
    """
    images: dict[str, bytes] = {}
    for index, text in enumerate(encoded):
        try:
            images[f"image {index}"] = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            hint = "Send standard base64 of the file's bytes, without a data: prefix and without line breaks."
            raise ServiceError(422, "invalid_base64", f"image {index} is not base64: {error}.", hint) from error
    return images


def validate_json(body: bytes, schema: type[Body], hint: str) -> Body:
    """JSON that a schema describes.

    Raises:
        ServiceError: 422 for other JSON, or none.
    """
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise ServiceError(422, "invalid_json", f"{where}: {first['msg']}.", hint) from error
