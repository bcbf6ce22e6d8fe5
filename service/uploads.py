"""Request bodies with images: multipart parts, one raw file, or JSON with base64."""

import base64
import binascii
from collections.abc import AsyncGenerator

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.errors import ServiceError
from service.settings import Settings

_BODY_HINT = (
    "Send PNG, JPEG or WebP files: in multipart/form-data as file parts named images (curl -F images=@FILE), one alone "
    'with Content-Type: image/*, or as application/json {"images": ["<base64 of a file>", …]}. '
    "Parameters such as seed belong in the query string."
)


class ImagesBody(BaseModel):
    """The JSON form of a request."""

    model_config = ConfigDict(extra="forbid")

    images: list[str] = Field(min_length=1)
    """Base64 of a PNG, JPEG or WebP file each."""


async def read_images(request: Request, settings: Settings) -> dict[str, bytes]:
    """The encoded images of a request, in order, by a name for messages.

    Raises:
        ServiceError: 413 for too much, 415 for another kind of body, 422 for a body that does not hold images.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await _read_body(request, settings.max_body_bytes)
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
    if len(images) > settings.max_images:
        raise ServiceError(
            413, "too_many_images", f"{len(images)} images in one request.", f"Send at most {settings.max_images}."
        )
    if empty := [name for name, content in images.items() if not content]:
        raise ServiceError(422, "invalid_image", f"{empty[0]} is empty.", _BODY_HINT)
    return images


async def _read_body(request: Request, limit: int) -> bytes:
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
        max_files=settings.max_images + 1,
        max_fields=settings.max_images + 1,  # each is refused below, by its name
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
    try:
        encoded = ImagesBody.model_validate_json(body).images
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise ServiceError(422, "invalid_json", f"{where}: {first['msg']}.", _BODY_HINT) from error
    images: dict[str, bytes] = {}
    for index, text in enumerate(encoded):
        try:
            images[f"image {index}"] = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            hint = "Send standard base64 of the file's bytes, without a data: prefix and without line breaks."
            raise ServiceError(422, "invalid_base64", f"image {index} is not base64: {error}.", hint) from error
    return images
