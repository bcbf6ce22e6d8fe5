"""Connections to the service, byte by byte, for what no HTTP client would send."""

import contextlib
import json
import select
import socket
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from tests.waiting import PATIENCE, wait_until

Address = tuple[str, int]


def find_address(url: str) -> Address:
    """The host and the port of an HTTP URL."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def exchange(address: Address, *parts: bytes, trickle: Iterable[bytes] = ()) -> bytes:
    """Sends bytes, and returns the server's answer once it has closed the connection.

    A trickle follows, a part every 10 ms, until the server answers or closes the connection.
    """
    with socket.create_connection(address, PATIENCE) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for part in parts:
                connection.sendall(part)
            for part in trickle:
                if select.select([connection], [], [], 0.01)[0]:
                    break
                connection.sendall(part)
        return receive_all(connection)


def receive_all(connection: socket.socket) -> bytes:
    """What the server sends until it closes the connection."""
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(2**16):
            answer += part
    return answer


def read_error(answer: bytes) -> tuple[int, str]:
    """The status and the code of an error in the one shape."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/json" in head
    return int(head.split()[1]), json.loads(body)["error"]["code"]


def ask_and_leave(url: str, path: str, image: bytes, arrived: Callable[[], object]) -> None:
    """Posts an image, and closes the connection once the request has arrived, before there is an answer."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: {len(image)}\r\n\r\n"
    with socket.create_connection(find_address(url), PATIENCE) as connection:
        connection.sendall(head.encode() + image)
        wait_until(arrived)
