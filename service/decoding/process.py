"""The process that decodes images: it is told one at a time, answers with its pixels, and may be ended at any moment.

Whatever a file does to the libraries that decode it, it does here. The process imports no more than these take.

A request is a line of JSON, and the file; an answer a line of JSON, and the pixels.
"""

import json
import math
import sys
from pathlib import Path
from typing import IO, Any

from models.inputs.image_files import read_size
from models.inputs.pixels import ImageError, decode_pixels

BYTES_PER_PIXEL, COPIES, SPARE_BYTES = 20, 4, 2**25
"""That decoding may take: for each pixel, for each byte of the file and of the model's input, and besides.

Decoders take up to 16 for a pixel. Files can be made whose tables take hundreds of megabytes, whatever their pixels.
"""


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
    """Decodes until there is nothing more to read."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    write_message(answers, {})  # that it is there
    while (message := read_message(requests)) is not None:
        head, content = message
        width, height = read_size(content) or (0, 0)
        pixels, copied = min(width * height, head["max_pixels"]), len(content) + math.prod(head["shape"])
        _limit_memory(BYTES_PER_PIXEL * pixels + COPIES * copied + SPARE_BYTES)
        try:
            decoded = decode_pixels(content, head["shape"], head["max_pixels"], head["name"])
        except ImageError as error:
            write_message(answers, {"error": [error.kind, error.message, error.hint]})
        else:
            write_message(answers, {}, decoded)


def _limit_memory(size: int) -> None:
    """Lets the process take so many bytes more than it has, where the system can limit that."""
    if sys.platform == "linux":
        import resource

        has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (has + size, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
