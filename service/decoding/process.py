"""The process that decodes images. It gets one image at a time, answers with the pixels, and may be killed at any time.

If a file harms a library that decodes it, only this process suffers. It imports no more than decoding needs.

A request is a line of JSON and the file; an answer is a line of JSON and the pixels.
"""

import json
import math
import sys
from pathlib import Path
from typing import IO, Any

from models.inputs.image_files import read_size
from models.inputs.pixels import ImageError, decode_pixels

BYTES_PER_PIXEL, COPIES, SPARE_BYTES = 20, 4, 2**25
"""Most memory for decoding, in bytes: per pixel, per byte of the file and of the model's input, and in addition.

Pixels count as dear as their format is. Decoders take up to 16 bytes for each, also 10 for a JPEG's, which counts half.
Malicious files can have tables of hundreds of megabytes, with any size.
"""


def write_message(stream: IO[bytes], head: dict[str, Any], content: bytes = b"") -> None:
    """Writes a line of JSON, and content after it."""
    stream.write(json.dumps({**head, "bytes": len(content)}).encode() + b"\n")
    stream.write(content)
    stream.flush()


def read_message(stream: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """Reads what `write_message` wrote; None at the end of the stream."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    head: dict[str, Any] = json.loads(line)
    content = stream.read(head["bytes"])
    return (head, content) if len(content) == head["bytes"] else None


def main() -> None:
    """Decodes images until the end of the input."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    write_message(answers, {})  # reports that it works
    while (message := read_message(requests)) is not None:
        head, content = message
        size, copied = read_size(content), len(content) + math.prod(head["shape"])
        pixels = head["max_pixels"] if size is None else min(size.cost, head["max_pixels"])
        _limit_memory(BYTES_PER_PIXEL * pixels + COPIES * copied + SPARE_BYTES)
        try:
            decoded = decode_pixels(content, head["shape"], head["max_pixels"], head["name"])
        except ImageError as error:
            write_message(answers, {"error": [error.kind, error.message, error.hint]})
        else:
            write_message(answers, {}, decoded)


def _limit_memory(size: int) -> None:
    """Limits the further memory of the process, in bytes, if the system can do that."""
    if sys.platform == "linux":
        import resource

        has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (has + size, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
