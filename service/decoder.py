"""The process that decodes images: it is told one at a time, answers with its pixels, and may be ended at any moment.

Whatever a file does to the libraries that decode it, it does here. The process imports no more than these take.

A request is a line of JSON, and the file; an answer a line of JSON, and the pixels.
"""

import json
import sys
from typing import IO, Any

from models.images import ImageError, decode_pixels

BYTES_PER_PIXEL = 32
"""Of the largest image, in copies that libraries make of it."""

OWN_BYTES = 2**29
"""That the process takes beside images, most of it address space alone."""


def write_message(stream: IO[bytes], head: dict[str, Any], content: bytes = b"") -> None:
    """Writes a line of JSON, and what follows it."""
    stream.write(json.dumps({**head, "bytes": len(content)}).encode() + b"\n")
    stream.write(content)
    stream.flush()


def read_message(stream: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """What `write_message` wrote; None where the stream ends."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    head: dict[str, Any] = json.loads(line)
    content = stream.read(head["bytes"])
    return (head, content) if len(content) == head["bytes"] else None


def main() -> None:
    """Decodes until there is nothing more to read; the argument is the number of pixels of the largest image."""
    _limit_memory(OWN_BYTES + BYTES_PER_PIXEL * int(sys.argv[1]))
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    write_message(answers, {})  # that it is there
    while (message := read_message(requests)) is not None:
        head, content = message
        try:
            pixels = decode_pixels(content, tuple(head["shape"]), head["max_pixels"], head["name"])
        except ImageError as error:
            write_message(answers, {"error": [error.kind, error.message, error.hint]})
        else:
            write_message(answers, {}, pixels)


def _limit_memory(size: int) -> None:
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (size, size))


if __name__ == "__main__":
    main()
