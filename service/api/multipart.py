"""Bodies of several parts, multipart/form-data (RFC 7578). They are split in memory, where their size is limited.

Libraries that read such bodies from a stream inspect each byte, spool to disk, and decode with any character set that
the client names.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser

LONGEST_BOUNDARY = 70
"""Most characters of a boundary, by RFC 2046, section 5.1.1."""

MOST_HEADER_BYTES = 2**13
"""Most bytes of a part's headers."""


class MultipartError(ValueError):
    """A body that is not valid multipart; the message says why."""


@dataclass(frozen=True)
class BodyPart:
    """A part of a body."""

    name: str
    filename: str | None
    """Name of the file; None for parts that are not files."""
    content: bytes


def read_boundary(content_type: str) -> bytes:
    """The boundary that separates the parts, from the Content-Type.

    Raises:
        MultipartError: if it is missing, or not allowed by RFC 2046.
    """
    message = Message()
    try:
        message["Content-Type"] = content_type
        boundary = (message.get_boundary() or "").encode("ascii")
    except (ValueError, LookupError) as error:
        raise MultipartError("its Content-Type cannot be read") from error
    if not boundary:
        raise MultipartError("its Content-Type names no boundary")
    if len(boundary) > LONGEST_BOUNDARY:
        raise MultipartError(f"its boundary is longer than {LONGEST_BOUNDARY} characters")
    return boundary


def count_parts(body: bytes, boundary: bytes) -> int:
    """An upper bound on the number of parts."""
    return max(0, body.count(b"--" + boundary) - 1)


def split_parts(body: bytes, boundary: bytes) -> Iterator[BodyPart]:
    """The parts in order.

    Raises:
        MultipartError: where the body is malformed.
    """
    delimiter = b"\r\n--" + boundary
    if not body.startswith(delimiter[2:]):
        raise MultipartError("it does not begin with its boundary")
    position = len(delimiter) - 2
    while not body.startswith(b"--", position):
        begin = body.find(b"\r\n", position)
        if begin < 0 or body[position:begin].strip(b" \t"):
            raise MultipartError("a boundary is not followed by the end of its line")
        head_end = body.find(b"\r\n\r\n", begin, begin + MOST_HEADER_BYTES)
        if head_end < 0:
            raise MultipartError("the headers of a part do not end with an empty line, or are too long")
        end = body.find(delimiter, head_end + 2)
        if end < 0:
            raise MultipartError("it does not end with its boundary")
        yield _read_part(body[begin + 2 : head_end], body[head_end + 4 : end])
        position = end + len(delimiter)


def _read_part(head: bytes, content: bytes) -> BodyPart:
    headers = HeaderParser().parsestr(head.decode(errors="replace"))
    try:
        name, filename = headers.get_param("name", header="Content-Disposition"), headers.get_filename()
    except (ValueError, LookupError) as error:
        raise MultipartError("the Content-Disposition of a part cannot be read") from error
    if not isinstance(name, str):
        raise MultipartError("a part has no name in its Content-Disposition")
    return BodyPart(name, filename, content)
