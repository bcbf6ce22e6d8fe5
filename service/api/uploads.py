"""Request bodies: images as multipart parts, as one raw file or as base64 in JSON; rows of values as JSON.

Sizes that grow with a body are checked before anything is built. Parsing runs in a thread unless the body is small.
"""

import asyncio
import base64
import binascii
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from anyio import to_thread
from fastapi import Request
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError
from torch import Tensor

from models.inputs.image_formats import FORMATS, NAMES
from models.inputs.rows import list_names
from service.api.asking import Asking, Deadline, check_number, explain_inputs
from service.api.description import describe_schema
from service.api.multipart import MultipartError, count_parts, read_boundary, split_parts
from service.api.sequence_schemas import TextsBody
from service.errors import ServiceError
from service.settings import Settings

EXAMPLE_IMAGE = Path(__file__).parents[1] / "static" / "examples" / "seven.png"

_BODY_HINT = (
    f"Send {NAMES} files as multipart/form-data with file parts named images (curl -F images=@FILE), one file "
    'with Content-Type: image/*, or application/json {"images": ["<base64 of a file>", …]}. '
    "Send parameters such as seed in the query string."
)

_WINDOW_BITS = {"gzip": 31, "deflate": 15}
"""The argument that tells zlib the format. By RFC 9110, deflate means zlib's own format."""

SMALL_BODY = 2**16
"""Size of a body, in bytes, up to which parsing is faster than handing it to a thread."""

OTHER_VALUES = 1_000
"""Most values in JSON beside the inputs, and most fields."""

Body = TypeVar("Body", bound=BaseModel)
Result = TypeVar("Result")


class ImagesBody(BaseModel):
    """The JSON body for a model of images."""

    model_config = ConfigDict(extra="forbid")

    images: Annotated[list[str], FailFast()] = Field(
        min_length=1, description=f"{NAMES} files, each in base64, without a data: prefix."
    )


class RowsBody(BaseModel):
    """The JSON body for a model of vectors or of a table's rows."""

    model_config = ConfigDict(extra="forbid", strict=True)

    inputs: Annotated[list[list[Any] | dict[str, Any]], FailFast(), Field(min_length=1)]
    """Rows of values, each in the order of the model's columns or by their names. A missing value is null."""


async def read_inputs(asking: Asking, networks: int, most_inputs: int | None = None) -> Tensor:
    """Reads the raw inputs of a request, [B, …], if the queue has room for them.

    Args:
        asking: the request.
        networks: number of networks that will see each input.
        most_inputs: most inputs, if fewer than the service's limit.

    Raises:
        ServiceError: 408 for a slow body, 413 for too much, 415 for a wrong content type, 422 for a body without
            valid inputs, 504 after the deadline.
        OverloadedError: if the queue is full.
    """
    most = most_inputs or asking.parts.settings.max_inputs
    if asking.model.input.form == "rows":
        return await _read_rows(asking, most)
    files = await _read_files(asking, most)
    asking.check_room(len(files) * networks)
    with asking.parts.metrics.time("decode", asking.model.name):
        return await asking.decode_files(files)


async def _read_rows(asking: Asking, most: int) -> Tensor:
    spec = asking.model.input
    names = list_names(spec.column_names)
    hint = f'Send application/json {{"inputs": [[{names}], …]}}, or each row as an object with these names.'
    _check_json(asking.request, "this model takes rows", hint)
    body = await _read_plain_body(asking.request, asking.parts.settings, asking.deadline)

    def parse() -> Tensor:
        most_values = 2 * most * len(spec.column_names) + OTHER_VALUES
        rows = validate_json(body, RowsBody, hint, most_values, most_values).inputs
        check_number(len(rows), spec.noun, most)
        with explain_inputs():
            return spec.read_rows(rows)

    return await _do(body, parse)


async def _read_files(asking: Asking, most: int) -> dict[str, bytes]:
    """Reads encoded files in order, by their names in messages."""
    content_type = _read_content_type(asking.request)
    body = await _read_plain_body(asking.request, asking.parts.settings, asking.deadline)
    if content_type == "multipart/form-data":
        files = await _do(body, partial(_parse_multipart, asking.request.headers["content-type"], body, most))
    elif content_type == "application/json":
        files = await _do(body, partial(_parse_json, body, most))
    elif content_type.startswith("image/") or content_type in ("application/octet-stream", ""):
        files = {"the body": body}
    else:
        message = f"The body has type {content_type!r}, which is not supported."
        raise ServiceError(415, "unsupported_media_type", message, _BODY_HINT)
    check_number(len(files), asking.model.input.noun, most)
    if empty := [name for name, content in files.items() if not content]:
        raise ServiceError(422, "invalid_image", f"{empty[0]} is empty.", _BODY_HINT)
    return files


async def _do(body: bytes, parse: Callable[[], Result]) -> Result:
    """Parses a body, in a thread if it is large."""
    return parse() if len(body) <= SMALL_BODY else await to_thread.run_sync(parse)


def _read_content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request, settings: Settings, deadline: Deadline) -> bytes:
    """Reads the body as sent, compressed or not.

    Raises:
        ServiceError: 408 for a slow body, 413 for a large one, 504 if the deadline passes before it arrives.
    """
    left = deadline.remaining
    try:
        async with asyncio.timeout(min(settings.body_timeout, left)):
            return await _read_limited(request, settings.max_body_bytes)
    except TimeoutError as error:
        if left < settings.body_timeout:
            raise deadline.exceeded from error
        message = f"The body had not arrived after {settings.body_timeout:g} s."
        raise ServiceError(408, "body_too_slow", message, "Send it faster, or split the request.") from error


def decompress(body: bytes, encoding: str, settings: Settings) -> bytes:
    """Decompresses a body from its Content-Encoding, gzip or deflate.

    Raises:
        ServiceError: 400 for a damaged body, 413 for a large one, 415 for another encoding.
    """
    if encoding == "identity":
        return body
    if encoding not in _WINDOW_BITS:
        message = f"The body has Content-Encoding {encoding!r}, which is not supported."
        raise ServiceError(415, "unsupported_encoding", message, "Send it uncompressed, or as gzip or deflate.")
    limit = settings.max_decompressed_bytes
    stream = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        content = stream.decompress(body, limit + 1)
    except zlib.error as error:
        hint = f"Send one complete {encoding} stream."
        raise ServiceError(400, "invalid_encoding", f"The body is not {encoding}: {error}.", hint) from error
    if len(content) > limit:
        hint = f"Decompressed, it may have at most {limit} bytes."
        raise ServiceError(413, "body_too_large", "The body is too large.", hint)
    if not stream.eof or stream.unused_data:
        what = "has bytes after its end" if stream.eof else "is not complete"
        message, hint = f"The body's {encoding} stream {what}.", f"Send one complete {encoding} stream."
        raise ServiceError(400, "invalid_encoding", message, hint)
    return content


def read_encoding(request: Request) -> str:
    """The Content-Encoding of a request's body; identity if there is none."""
    return request.headers.get("content-encoding", "identity").strip().lower()


async def read_json(
    request: Request, settings: Settings, deadline: Deadline, schema: type[Body], what: str, hint: str
) -> Body:
    """Reads a body of JSON by a schema.

    Args:
        request: the request.
        settings: the service's limits.
        deadline: the request's deadline.
        schema: the body's schema.
        what: what takes such a body, in a message.
        hint: advice for the client.

    Raises:
        ServiceError: 408 for a slow body, 413 for a large one, 415 for another type, 422 for JSON that is invalid or
            does not match the schema, 504 after the deadline.
    """
    _check_json(request, what, hint)
    body = await _read_plain_body(request, settings, deadline)
    return await _do(body, lambda: validate_json(body, schema, hint, len(body), len(body)))


def _check_json(request: Request, what: str, hint: str) -> None:
    content_type = _read_content_type(request)
    if content_type not in ("application/json", ""):
        message = f"The body has type {content_type!r}, but {what} as JSON."
        raise ServiceError(415, "unsupported_media_type", message, hint)


async def _read_plain_body(request: Request, settings: Settings, deadline: Deadline) -> bytes:
    if (encoding := read_encoding(request)) != "identity":
        message = f"The body has Content-Encoding {encoding!r}, which is not supported."
        raise ServiceError(415, "unsupported_encoding", message, "Send it uncompressed.")
    return await read_body(request, settings, deadline)


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


def _parse_multipart(content_type: str, body: bytes, most: int) -> dict[str, bytes]:
    images: dict[str, bytes] = {}
    try:
        boundary = read_boundary(content_type)
        check_number(count_parts(body, boundary), "images", most)
        for index, part in enumerate(split_parts(body, boundary)):
            if part.filename is None:
                message = f"Part {index}, {part.name[:100]!r}, is text, not a file."
                raise ServiceError(422, "unknown_part", message, _BODY_HINT)
            if part.name != "images":
                raise ServiceError(
                    422,
                    "unknown_part",
                    f"Part {index} is named {part.name[:100]!r}; it must be named 'images'.",
                    _BODY_HINT,
                )
            images[f"image {index} ({part.filename[:100]})"] = part.content
    except MultipartError as error:
        message = f"The multipart body is not valid: {error}."
        raise ServiceError(422, "invalid_multipart", message, _BODY_HINT) from error
    if not images:
        raise ServiceError(422, "no_images", "The multipart body contains no images.", _BODY_HINT)
    return images


def _parse_json(body: bytes, most: int) -> dict[str, bytes]:
    return decode_base64(validate_json(body, ImagesBody, _BODY_HINT, 2 * most + OTHER_VALUES).images)


def decode_base64(encoded: Sequence[str | bytes]) -> dict[str, bytes]:
    """Decodes files from base64, by their names in messages.

    Raises:
        ServiceError: 422 for text that is not base64.
    """
    images: dict[str, bytes] = {}
    for index, text in enumerate(encoded):
        try:
            images[f"image {index}"] = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            hint = "Send the file's bytes in standard base64, without a data: prefix or line breaks."
            raise ServiceError(422, "invalid_base64", f"image {index} is not base64: {error}.", hint) from error
    return images


def validate_json(
    body: bytes, schema: type[Body], hint: str, most_values: int, most_fields: int = OTHER_VALUES
) -> Body:
    """Parses JSON by a schema.

    Args:
        body: the text.
        schema: its schema, whose lists fail fast, because each wrong element's error would take two kilobytes.
        hint: advice for the client.
        most_values: most values in the JSON. A value in memory may take forty times its text.
        most_fields: most fields of objects in the JSON.

    Raises:
        ServiceError: 413 for too many values, 422 for JSON that is invalid or does not match the schema.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > most_values or body.count(b":") > most_fields:
        message = f"The JSON has more than {most_values} values, or more than {most_fields} fields."
        raise ServiceError(413, "too_many_values", message, "Send fewer inputs, or send them as files or in binary.")
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))[:100]
        message = f"{where or 'the body'}: {first['msg'].removeprefix('Value error, ')}."
        raise ServiceError(422, "invalid_json", message, hint, param=where or None) from error


def describe_upload() -> dict[str, Any]:
    """The OpenAPI description of the bodies that `read_inputs` accepts."""
    example = base64.b64encode(EXAMPLE_IMAGE.read_bytes()).decode()
    file = {"type": "string", "format": "binary"}
    images = {
        "title": "ImagesForm",
        "type": "object",
        "required": ["images"],
        "properties": {"images": {"type": "array", "items": file}},
    }
    content: dict[str, Any] = {
        "application/json": {
            "schema": {"anyOf": [describe_schema(schema) for schema in (ImagesBody, RowsBody, TextsBody)]},
            "examples": {
                "images": {"summary": "For a model of images", "value": {"images": [example]}},
                "vectors": {"summary": "For a model of vectors", "value": {"inputs": [[-1.5], [3]]}},
                "rows": {"summary": "For a table", "value": {"inputs": [{"age": 59, "sex": "f"}]}},
                "texts": {"summary": "For a model of text", "value": {"inputs": ["To be, or not to b"]}},
            },
        },
        "multipart/form-data": {"schema": images},
    }
    content |= {known.media_type: {"schema": file} for known in FORMATS}
    return {"requestBody": {"required": True, "content": content}}
