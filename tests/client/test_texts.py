"""Texts that both clients let the service write and score, also over connections that break."""

import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import hyperdraw
import pytest
from fastapi import FastAPI
from hyperdraw import texts

from tests.client.gateway import Ask, Gateway, refuse, respond, stand_before
from tests.waiting import wait_until

Write = Callable[..., tuple[list[hyperdraw.Symbol], Any]]

ASKED: dict[str, Any] = {"max_tokens": 30, "seed": 7, "temperature": 1.5, "top_k": 5, "top_p": 0.99}

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


@pytest.fixture(params=["Client", "AsyncClient"])
def write(request: pytest.FixtureRequest) -> Write:
    """Lets a model write: `write(address, model, …, most=number of symbols to take)` returns them and the stream.

    Exceptions have what arrived before as `symbols`.
    """

    def write_waiting(address: str, *arguments: Any, most: int = 10**9, **parameters: Any) -> Any:
        taken: list[hyperdraw.Symbol] = []
        with hyperdraw.Client(address) as client, client.generate(*arguments, **parameters) as stream, keep(taken):
            taken.extend(symbol for _, symbol in zip(range(most), stream, strict=False))
        return taken, stream

    async def write_asynchronously(address: str, *arguments: Any, most: int = 10**9, **parameters: Any) -> Any:
        taken: list[hyperdraw.Symbol] = []
        async with (
            hyperdraw.AsyncClient(address) as client,
            await client.generate(*arguments, **parameters) as stream,
        ):
            with keep(taken):
                async for symbol in stream:
                    taken.append(symbol)
                    if len(taken) == most:
                        break
        return taken, stream

    if request.param == "Client":
        return write_waiting
    return lambda *arguments, **parameters: asyncio.run(write_asynchronously(*arguments, **parameters))


@contextmanager
def keep(taken: list[hyperdraw.Symbol]) -> Iterator[None]:
    try:
        yield
    except hyperdraw.HyperdrawError as error:
        error.symbols = taken  # type: ignore[attr-defined]
        raise


@pytest.fixture(scope="module")
def service(text_address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=text_address, timeout=60) as service:
        yield service


@pytest.fixture(scope="module")
def events(service: httpx.Client) -> bytes:
    """The events of a text."""
    return service.post("/v1/models/hyper/generate", json=ASKED | {"prompt": "abba", "stream": True}).content


def test_symbols_are_those_of_the_service(write: Write, text_address: str, service: httpx.Client) -> None:
    expected = service.post("/v1/models/hyper/generate", json=ASKED | {"prompt": "aébba", "changes": True}).json()
    symbols, stream = write(text_address, "hyper", "aébba", changes=True, **ASKED)
    assert [dataclasses.asdict(symbol) for symbol in symbols] == [
        {**token, "unknown": False} for token in expected["tokens"]
    ]
    for name in ("model", "version", "seed", "members", "prompt_tokens", "unknown", "finish_reason"):
        assert getattr(stream, name) == expected[name]
    assert (stream.members, stream.unknown, stream.prompt_tokens, len(symbols)) == ([0, 1], ["é"], 5, 30)
    assert all(symbol.changes is not None and len(symbol.changes) == 4 for symbol in symbols)
    plain, _ = write(text_address, "hyper", "aébba", member=1, **ASKED)
    assert plain[0].changes is None
    assert plain[0].probability != symbols[0].probability


def test_the_whole_text_is_read(text_address: str, service: httpx.Client) -> None:
    whole = service.post("/v1/models/lstm/generate", json=ASKED).json()["text"]
    stop = whole[10:13]
    expected = whole[: whole.index(stop)]

    async def read() -> tuple[str, str | None, str]:
        async with hyperdraw.AsyncClient(text_address) as client:
            stream = await client.generate("lstm", stop=stop, **ASKED)
            first = await anext(stream)
            return first.text, stream.finish_reason, await stream.read()

    assert asyncio.run(read()) == (whole[0], None, expected)
    with hyperdraw.Client(text_address) as client:
        stream = client.generate("lstm", stop=[stop, "never written"], **ASKED)
        assert (next(stream).text, stream.finish_reason) == (whole[0], None)
        assert (stream.read(), stream.finish_reason) == (expected, "stop")
        assert (list(stream), stream.read()) == ([], expected)
        assert client.generate("lstm", **ASKED).read() == whole


def test_whoever_leaves_ends_the_work(write: Write, text_address: str, text_app: FastAPI) -> None:
    symbols, stream = write(text_address, "hyper", max_tokens=10_000, most=3)
    assert (len(symbols), stream.finish_reason) == (3, None)
    wait_until(lambda: text_app.state.engine.streams.count()["hyper"] == 0)


def test_whoever_is_slow_is_waited_for(text_address: str, text_app: FastAPI) -> None:
    with hyperdraw.Client(text_address) as client:
        stream = client.generate("hyper", max_tokens=40, timeout=0.3)
        next(stream)
        time.sleep(0.5)
        assert len(stream.read()) == 40


@pytest.mark.parametrize(
    ("model", "prompt", "parameters", "kind", "message"),
    [
        ("nobody", "", {}, hyperdraw.NotFound, "no model 'nobody'"),
        ("hyper", "", {"temperature": -1.0}, hyperdraw.InvalidRequest, "temperature"),
        ("hyper", "", {"temperature": float("nan")}, hyperdraw.InvalidRequest, "temperature"),
        ("hyper", "", {"max_tokens": 10**9}, hyperdraw.InvalidRequest, "max_tokens"),
        ("hyper", "", {"stop": ["a"] * 10_000}, hyperdraw.InvalidRequest, "stop"),
        ("hyper", "", {"member": 7}, hyperdraw.InvalidRequest, r"no member 7\. Its members are 0 to 1"),
        ("lstm", "", {"changes": True}, hyperdraw.InvalidRequest, "do not change"),
        ("hyper", "a" * 20_001, {}, hyperdraw.InvalidRequest, "prompt"),
        ("hyper", "\udcff", {}, ValueError, "surrogates"),
    ],
)
def test_what_is_refused_is_explained(
    write: Write, text_address: str, model: str, prompt: str, parameters: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        write(text_address, model, prompt, **parameters)


@pytest.mark.parametrize("call", ["generate", "score"])
def test_models_of_other_kinds_say_so(ask: Ask, text_address: str, call: str) -> None:
    with pytest.raises(hyperdraw.InvalidRequest, match="people is not a model of sequences"):
        ask(text_address, call, "people", "a")


def test_a_text_that_has_not_begun_is_asked_for_again(write: Write, service: httpx.Client, events: bytes) -> None:
    with stand_before(service, b"", refuse(429), refuse(503), respond(200, body=events)) as gateway:
        symbols, _ = write(gateway.address, "hyper", "abba", **ASKED)
    assert (len(symbols), len(gateway.requests)) == (30, 4)
    assert gateway.header("X-Request-Timeout") == [None] * 4


@contextmanager
def answer_once(service: httpx.Client, *steps: bytes | None) -> Iterator[Gateway]:
    """A gateway that answers in a given way, and is not asked again."""
    with stand_before(service, steps) as gateway:
        yield gateway
    assert len(gateway.requests) == 1


@pytest.mark.parametrize("chunked", [False, True])
def test_a_text_that_breaks_off_is_not_begun_again(
    write: Write, service: httpx.Client, events: bytes, chunked: bool
) -> None:
    parts = events.split(b"\n\n")
    for kept in (b"\n\n".join([*parts[:5], parts[5][:9]]), events.partition(b"data: [DONE]")[0]):
        body = b"%x\r\n%b\r\n" % (len(kept), kept) if chunked else kept
        head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" if chunked else HEAD + b"\r\n"
        with (
            answer_once(service, head + body) as gateway,
            pytest.raises(hyperdraw.ConnectionFailed, match=r"broke off: .* same seed") as caught,
        ):
            write(gateway.address, "hyper")
        assert len(caught.value.symbols) == min(30, kept.count(b'"index"'))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("code", "kind", "status"),
    [
        ("closing", hyperdraw.Overloaded, 503),
        ("deadline_exceeded", hyperdraw.DeadlineExceeded, None),
        ("not_finite", hyperdraw.ServiceError, 500),
    ],
)
def test_an_error_may_end_a_text(
    write: Write, service: httpx.Client, events: bytes, code: str, kind: type[Exception], status: int | None
) -> None:
    begun, error = b"\n\n".join(events.split(b"\n\n")[:4]), refuse(500, code).partition(b"\r\n\r\n")[2]
    with (
        answer_once(service, respond(200, body=begun + b"\n\ndata: " + error + b"\n\n")) as gateway,
        pytest.raises(kind, match=r"It was so\. Do otherwise\.") as caught,
    ):
        write(gateway.address, "hyper")
    assert len(caught.value.symbols) == 3  # type: ignore[attr-defined]
    assert getattr(caught.value, "status", None) == status


def test_silence_within_a_text_ends_it(write: Write, service: httpx.Client, events: bytes) -> None:
    begun = b"\n\n".join(events.split(b"\n\n")[:4]) + b"\n\n"
    with (
        answer_once(service, HEAD + b"\r\n" + begun, None) as gateway,
        pytest.raises(hyperdraw.DeadlineExceeded, match=r"sent nothing for 0\.2 s") as caught,
    ):
        write(gateway.address, "hyper", timeout=0.2)
    assert len(caught.value.symbols) == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("body", [b"", b"<html></html>\n\n", b"data: [1]\n\n", b'data: {"model": "hyper"}\n\n'])
def test_what_is_no_text_is_said(write: Write, service: httpx.Client, body: bytes) -> None:
    with answer_once(service, respond(200, body=body)) as gateway, pytest.raises(hyperdraw.InvalidAnswer):
        write(gateway.address, "hyper")


@pytest.mark.parametrize("size", [1, 7, 10**6])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_events_arrive_in_any_pieces(service: httpx.Client, events: bytes, size: int, end: bytes) -> None:
    content = b": still here\n\n" + events.replace(b"\n\n", b"\n\n: still here\n\n", 5).replace(b"\n", end)
    pieces = [content[i : i + size] for i in range(0, len(content), size)]
    with stand_before(service, (HEAD + b"\r\n", *pieces)) as gateway, hyperdraw.Client(gateway.address) as client:
        stream = client.generate("hyper")
        text = stream.read()
    known = [json.loads(line[6:]) for line in events.splitlines() if line.startswith(b"data: {")]
    assert text == "".join(event["text"] for event in known if "index" in event)
    assert stream.finish_reason == "length"


def test_async_iteration_is_lazy(text_address: str) -> None:
    async def write() -> list[str]:
        async with hyperdraw.AsyncClient(text_address) as client:
            stream: AsyncIterator[hyperdraw.Symbol] = await client.generate("lstm", max_tokens=5)
            return [symbol.text async for symbol in stream]

    assert len(asyncio.run(write())) == 5


def test_scores_are_those_of_the_service(ask: Ask, text_address: str, service: httpx.Client) -> None:
    said = service.post("/v1/models/hyper/score", json={"text": "aéb" * 7, "seed": 7, "changes": True}).json()
    score = ask(text_address, "score", "hyper", "aéb" * 7, seed=7, changes=True)
    tokens = [{"unknown": False, **token} for token in said["tokens"]]
    del said["symbols"]
    assert dataclasses.asdict(score) == {**said, "tokens": tokens}
    assert [token.unknown for token in score.tokens] == [False, True, False] * 7
    assert [passage.start for passage in score.foreign.passages] == [0, 10]
    assert ask(text_address, "score", "hyper", "aéb" * 7, member=1).foreign is None
    with pytest.raises(hyperdraw.InvalidRequest, match="text"):
        ask(text_address, "score", "hyper", "")


def test_long_texts_are_scored_in_parts(ask: Ask, text_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "ab cé\n" * 10 + "x"
    whole = ask(text_address, "score", "hyper", text, seed=7)
    monkeypatch.setattr(texts, "MOST_CHARACTERS", 30)
    monkeypatch.setattr(texts, "CONTEXT", 10)
    score = ask(text_address, "score", "hyper", text, seed=7)
    assert "".join(token.text for token in score.tokens) == text
    assert (score.version, score.seed, score.members) == (whole.version, 7, [0, 1])
    assert score.unknown == ["é", "x"]
    third = ask(text_address, "score", "hyper", text[30:60], seed=7)
    assert list_bits(score)[:20] == pytest.approx(list_bits(whole)[:20], rel=1e-4)
    assert list_bits(score)[40:60] == pytest.approx(list_bits(third)[10:], rel=1e-4)
    for name, mean in (("bits", score.bits_per_character), ("entropy", score.entropy)):
        assert mean == pytest.approx(sum(getattr(token, name) for token in score.tokens) / len(text))
    assert score.bits == pytest.approx(whole.bits, rel=0.02)
    assert score.foreign.threshold == whole.foreign.threshold
    assert [passage.start for passage in score.foreign.passages] == list(range(0, 60, 10))
    assert [passage.value for passage in score.foreign.passages[4:6]] == pytest.approx(
        [passage.value for passage in third.foreign.passages[1:]], rel=1e-4
    )
    other = dataclasses.replace(third, version="other")
    with pytest.raises(hyperdraw.NotFound, match="at another version: other"):
        texts._join([third, other])
    fresh = ask(text_address, "score", "hyper", text)
    again = ask(text_address, "score", "hyper", text, seed=fresh.seed)
    assert list_bits(fresh) == pytest.approx(list_bits(again), rel=1e-4)
    assert fresh.seed != score.seed


def list_bits(score: hyperdraw.Score) -> list[float]:
    return [token.bits for token in score.tokens]
