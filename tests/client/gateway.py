"""A gateway before the service that can go wrong, and answers for it to give."""

import json
import re
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx

from tests.pictures import draw_image, encode

Ask = Callable[..., Any]

Environment = Callable[..., None]


PICTURE = encode(draw_image(size=(8, 8)))


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


MODELS = b'{"default": "digits", "models": [], "refused": []}'


def respond(status: int, *headers: str, body: bytes = b"") -> bytes:
    """A whole answer, as it is sent."""
    lines = [f"HTTP/1.1 {status} Phrase", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def refuse(status: int, code: str = "some_code", *headers: str) -> bytes:
    error = {"error": {"code": code, "message": "It was so.", "hint": "Do otherwise."}}
    return respond(status, *headers, body=json.dumps(error).encode())


def find_header(head: str, name: str) -> str | None:
    match = re.search(rf"^{name}: (.*?)\r$", head, re.MULTILINE | re.IGNORECASE)
    return match[1] if match else None


Step = bytes | int | None


class Gateway(socketserver.ThreadingTCPServer):
    """Stands before the service, gives the answers of a script first, and then the service's own.

    Bytes are sent as they are; of a number, that many bytes of the body of the service's answer arrive before the
    connection is cut; None keeps silent. Of several, one follows the other.
    """

    daemon_threads = True

    def __init__(self, service: httpx.Client, *script: Step | tuple[Step, ...]) -> None:
        super().__init__(("127.0.0.1", 0), _Passage)
        self.service = service
        self.script = list(script)
        self.requests: list[str] = []
        """Their heads."""
        self.closed = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def header(self, name: str) -> list[str | None]:
        """A header of each request."""
        return [find_header(head, name) for head in self.requests]


class _Passage(socketserver.StreamRequestHandler):
    server: Gateway

    def handle(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            if not (line := self.rfile.readline()):
                return
            head += line
        self.server.requests.append(head.decode())
        length = find_header(head.decode(), "content-length")
        self.answer(head.decode(), self.rfile.read(int(length or 0)))

    def answer(self, head: str, body: bytes) -> None:
        steps = self.server.script.pop(0) if self.server.script else sys.maxsize
        for step in steps if isinstance(steps, tuple) else (steps,):
            self.carry_out(step, head, body)

    def carry_out(self, step: Step, head: str, body: bytes) -> None:
        if step is None:
            self.server.closed.wait(20)
        elif isinstance(step, bytes):
            self.wfile.write(step)
        else:
            method, path, headers = _read_head(head)
            answer = self.server.service.request(method, path, headers=headers, content=body)
            self.wfile.write(_write_head(answer))
            self.wfile.write(answer.content[:step])


def _read_head(head: str) -> tuple[str, str, dict[str, str]]:
    """The method, the path and the headers of a request."""
    first, *lines = head.split("\r\n")[:-2]
    method, path, _ = first.split(" ", 2)
    return method, path, dict(line.split(": ", 1) for line in lines)


def _write_head(answer: httpx.Response, *left_out: str) -> bytes:
    """The head of an answer after which the connection is closed."""
    kept = [f"{name}: {value}" for name, value in answer.headers.items() if name not in ("connection", *left_out)]
    return "\r\n".join([f"HTTP/1.1 {answer.status_code} X", *kept, "Connection: close", "", ""]).encode()


class BufferingProxy(Gateway):
    """Holds an answer back until it is complete, as nginx does, unless it has the header X-Accel-Buffering: no."""

    def __init__(self, service: httpx.Client, *, obeys: bool = True) -> None:
        super().__init__(service)
        self.RequestHandlerClass = _Buffer
        self.obeys = obeys
        """Whether the header counts."""
        self.pieces = 0
        """Pieces in which answers were sent on."""


class _Buffer(_Passage):
    server: BufferingProxy

    def answer(self, head: str, body: bytes) -> None:
        method, path, headers = _read_head(head)
        with self.server.service.stream(method, path, headers=headers, content=body) as answer:
            passes = self.server.obeys and answer.headers.get("x-accel-buffering") == "no"
            held = _write_head(answer, "transfer-encoding")
            for part in answer.iter_raw():
                held += part
                if passes:
                    held = self._send(held)
            self._send(held)

    def _send(self, held: bytes) -> bytes:
        self.server.pieces += bool(held)
        self.wfile.write(held)
        return b""


@contextmanager
def stand_before(service: httpx.Client, *script: Step | tuple[Step, ...]) -> Iterator[Gateway]:
    with run_gateway(Gateway(service, *script)) as gateway:
        yield gateway


AnyGateway = TypeVar("AnyGateway", bound=Gateway)


@contextmanager
def run_gateway(gateway: AnyGateway) -> Iterator[AnyGateway]:
    with gateway:
        thread = threading.Thread(target=gateway.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield gateway
        finally:
            gateway.closed.set()
            gateway.shutdown()
            thread.join()
