"""Request bodies: images as multipart parts, as one raw file or as base64 in JSON; vectors of numbers as JSON."""

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator
from typing import Annotated, TypeVar

import torch
from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from torch import Tensor

from models.input import VectorSpec
from service.errors import ServiceError
from service.settings import Settings

_BODY_HINT = (
    "Send PNG, JPEG or WebP files: in multipart/form-data as file parts named images (curl -F images=@FILE), one alone "
    'with Content-Type: image/*, or as application/json {"images": ["<base64 of a file>", …]}. '
    "Parameters such as seed belong in the query string."
)


MAX_DEVIATIONS = 1e6
"""Numbers may be so many standard deviations from the mean in training; far beyond, float32 overflows in a network."""

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
    rows = _validate_json(await _read_body(request, settings), VectorsBody, hint).inputs
    _check_number(len(rows), "vectors", settings)
    if wrong := [index for index, row in enumerate(rows) if len(row) != len(spec.names)]:
        raise ServiceError(422, "invalid_input", f"Row {wrong[0]} has {len(rows[wrong[0]])} number(s).", hint)
    vectors = torch.tensor(rows, dtype=torch.float64)
    if (deviations := spec.normalize(vectors).abs()).max() > MAX_DEVIATIONS:
        row, number = divmod(int(deviations.argmax()), len(spec.names))
        message = f"{spec.names[number]} in row {row} is {rows[row][number]:g}, out of all proportion to the training."
        mean, limit = spec.mean[number], MAX_DEVIATIONS * spec.std[number]
        raise ServiceError(422, "invalid_input", message, f"Keep it within {mean:g} ± {limit:g}.")
    return vectors.float()


async def read_images(request: Request, settings: Settings) -> dict[str, bytes]:
    """The encoded images of a request, in order, by a name for messages.

    Raises:
        ServiceError: 408 for a slow body, 413 for too much, 415 for another kind, 422 for one that does not hold
            images.
    """
    content_type = _read_content_type(request)
    body = await _read_body(request, settings)
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
    _check_number(len(images), "images", settings)
    if empty := [name for name, content in images.items() if not content]:
        raise ServiceError(422, "invalid_image", f"{empty[0]} is empty.", _BODY_HINT)
    return images


def _read_content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _check_number(number: int, kind: str, settings: Settings) -> None:
    limit = settings.max_inputs
    if number > limit:
        raise ServiceError(413, f"too_many_{kind}", f"{number} {kind} in one request.", f"Send at most {limit}.")


async def _read_body(request: Request, settings: Settings) -> bytes:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        message, hint = f"A body with Content-Encoding {encoding!r} is not understood.", "Send it uncompressed."
        raise ServiceError(415, "unsupported_encoding", message, hint)
    try:
        async with asyncio.timeout(settings.body_timeout):
            return await _read_limited(request, settings.max_body_bytes)
    except TimeoutError as error:
        message = f"The body had not arrived after {settings.body_timeout:g} s."
        raise ServiceError(408, "body_too_slow", message, "Send it faster, or in parts.") from error


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
    encoded = _validate_json(body, ImagesBody, _BODY_HINT).images
    images: dict[str, bytes] = {}
    for index, text in enumerate(encoded):
        try:
            images[f"image {index}"] = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            hint = "Send standard base64 of the file's bytes, without a data: prefix and without line breaks."
            raise ServiceError(422, "invalid_base64", f"image {index} is not base64: {error}.", hint) from error
    return images


def _validate_json(body: bytes, schema: type[Body], hint: str) -> Body:
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise ServiceError(422, "invalid_json", f"{where}: {first['msg']}.", hint) from error
