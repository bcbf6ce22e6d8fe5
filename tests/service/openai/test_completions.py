"""OpenAI's completions, asked for by OpenAI's own client."""

import asyncio
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from models.noise import SEED_LIMIT
from models.sequences.checkpoint import load_sequence_checkpoint
from service.app import create_app
from service.openai.messages import Completion
from service.settings import Settings
from tests.checkpoints import save_curve
from tests.client.gateway import BufferingProxy, run_gateway
from tests.conftest import serve
from tests.keys import write_keys
from tests.sequences import SPEC, save_writer
from tests.waiting import wait_until

openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("writers")
    save_writer(directory / "writer")
    save_curve(directory / "curve")
    shutil.copytree(directory / "writer", directory / "broken")
    (directory / "broken" / "config.json").write_text("{}")
    return directory


@pytest.fixture(scope="module")
def app(writers: Path) -> FastAPI:
    return create_app(Settings(checkpoints=writers))


@pytest.fixture(scope="module")
def service(app: FastAPI) -> Iterator[httpx.Client]:
    with serve(app) as address, httpx.Client(base_url=address) as client:
        yield client


@pytest.fixture(scope="module")
def client(service: httpx.Client) -> Iterator[Any]:
    with connect(str(service.base_url)) as client:
        yield client


def connect(address: str, key: str = "none") -> Any:
    return openai.OpenAI(base_url=f"{address.rstrip('/')}/v1", api_key=key, max_retries=0)


def complete(client: Any, prompt: Any = "ab", **options: Any) -> Any:
    return client.completions.create(model="writer", prompt=prompt, **options)


def post(service: httpx.Client, path: str, body: object) -> dict[str, Any]:
    content: dict[str, Any] = service.post(f"/v1/models/writer/{path}", json=body).raise_for_status().json()
    return content


def await_idle(app: FastAPI) -> None:
    wait_until(lambda: not any(app.state.engine.streams.count().values()))


def count_symbols(service: httpx.Client) -> float:
    """Symbols written so far."""
    found = re.search(r'^hyperdraw_symbols_total\{model="writer"\} (.*)$', service.get("/metrics").text, re.M)
    return float(found[1]) if found else 0


class TestAnswers:
    def test_an_answer(self, client: Any, service: httpx.Client, writers: Path) -> None:
        answer = complete(client, "ab\n", seed=3, user="somebody", n=1, best_of=1, logit_bias={}, suffix=None)
        assert answer.id.startswith("cmpl-")
        assert (answer.object, answer.model) == ("text_completion", "writer")
        assert answer.system_fingerprint == load_sequence_checkpoint(writers / "writer").version[:12]
        (choice,) = answer.choices
        assert choice.text == post(service, "generate", {"prompt": "ab\n", "max_tokens": 16, "seed": 3})["text"]
        assert (choice.index, choice.finish_reason, choice.logprobs, choice.seed) == (0, "length", None, 3)
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 16, 19)

    @pytest.mark.parametrize("options", [{"ensemble_size": 2}, {"member": 1}, {"top_k": 2}])
    def test_parameters_are_those_of_our_own_route(
        self, client: Any, service: httpx.Client, options: dict[str, int]
    ) -> None:
        asked: dict[str, Any] = {"max_tokens": 30, "temperature": 1.5, "top_p": 0.9, "seed": 6}
        expected = post(service, "generate", {"prompt": "ab", **asked, **options})["text"]
        assert complete(client, **asked, extra_body=options).choices[0].text == expected

    @pytest.mark.parametrize("options", [{}, {"echo": True}, {"logprobs": 2}, {"echo": True, "logprobs": 0}])
    def test_a_stream_brings_the_same(self, client: Any, options: dict[str, Any]) -> None:
        asked = {"prompt": ["abé", "d"], "max_tokens": 25, "seed": 5, "n": 2, "stop": ["cca", "aad"], **options}
        whole = complete(client, **asked)
        assert {choice.finish_reason for choice in whole.choices} == {"length", "stop"}
        *events, end = complete(client, **asked, stream=True, stream_options={"include_usage": True})
        assert end.choices == []
        assert end.usage == whole.usage
        for choice in whole.choices:
            pieces = [event.choices[0] for event in events if event.choices[0].index == choice.index]
            assert "".join(piece.text for piece in pieces) == choice.text
            assert [piece.finish_reason for piece in pieces if piece.finish_reason] == [choice.finish_reason]
            assert pieces[-1].finish_reason
            for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset") if choice.logprobs else ():
                joined = [each for piece in pieces for each in getattr(piece.logprobs, name)]
                for one, other in zip(joined, getattr(choice.logprobs, name), strict=True):
                    assert one == (other if isinstance(other, str) else pytest.approx(other, rel=1e-5))
        assert all(event.usage is None for event in events)
        assert len({event.id for event in events}) == 1

    def test_choices(self, client: Any) -> None:
        """Each is that of a request of its own, whose seed is its place after that of the request."""
        answer = complete(client, ["ab", "", "é"], seed=4, n=3)
        assert [choice.index for choice in answer.choices] == list(range(9))
        assert [choice.seed for choice in answer.choices] == [4, 5, 6] * 3
        alone = [complete(client, prompt, seed=seed) for prompt in ("ab", "", "é") for seed in (4, 5, 6)]
        assert [choice.text for choice in answer.choices] == [each.choices[0].text for each in alone]

    def test_without_a_seed_each_choice_is_another(self, client: Any) -> None:
        answer = complete(client, ["ab"] * 2, n=2, max_tokens=60)
        assert len({choice.text for choice in answer.choices}) == 4
        first = answer.choices[0]
        assert complete(client, seed=first.seed, max_tokens=60).choices[0].text == first.text

    def test_stop_strings(self, client: Any) -> None:
        whole = complete(client, seed=2, max_tokens=60).choices[0].text
        stop = whole[20:22]
        answer = complete(client, seed=2, max_tokens=60, stop=stop, echo=True, logprobs=0)
        (choice,) = answer.choices
        assert choice.text == "ab" + whole[: whole.index(stop)] == "".join(choice.logprobs.tokens)
        assert choice.finish_reason == "stop"
        assert answer.usage.completion_tokens == whole.index(stop)


class TestScores:
    def test_scores_are_those_of_our_own_route(self, client: Any, service: httpx.Client) -> None:
        text = "abba é\n"
        (choice,) = complete(client, text, seed=4, echo=True, logprobs=0, max_tokens=0).choices
        scored = post(service, "score", {"text": text, "seed": 4})["tokens"]
        expected = [-token["bits"] * math.log(2) for token in scored]
        assert choice.logprobs.token_logprobs == pytest.approx(expected, rel=1e-5)
        assert "".join(choice.logprobs.tokens) == choice.text == text
        assert choice.logprobs.text_offset == list(range(len(text)))
        own = zip(choice.logprobs.tokens, choice.logprobs.token_logprobs, strict=True)
        assert choice.logprobs.top_logprobs == [{token: logarithm} for token, logarithm in own]

    def test_the_most_probable_characters(self, client: Any) -> None:
        """They are those that would have been scored best, and the one that was chosen."""
        texts = ["ab" + symbol for symbol in SPEC.symbols]
        choices = complete(client, texts, seed=1, echo=True, logprobs=3, max_tokens=0).choices
        every = {choice.logprobs.tokens[2]: choice.logprobs.token_logprobs[2] for choice in choices}
        assert sum(map(math.exp, every.values())) == pytest.approx(1)
        best = sorted(every, key=every.__getitem__)[-3:]
        for choice in choices:
            expected = {symbol: every[symbol] for symbol in {*best, choice.logprobs.tokens[2]}}
            assert choice.logprobs.top_logprobs[2] == pytest.approx(expected, rel=1e-5)

    def test_what_is_written_is_scored_alike(self, client: Any) -> None:
        written = complete(client, "ab", seed=7, logprobs=5, temperature=0.5).choices[0]
        assert written.logprobs.text_offset == list(range(2, 18))
        again = complete(client, f"ab{written.text}", seed=7, logprobs=5, echo=True, max_tokens=0).choices[0]
        assert again.logprobs.token_logprobs[2:] == pytest.approx(written.logprobs.token_logprobs, rel=1e-4)

    def test_an_echo_alone(self, client: Any) -> None:
        answer = complete(client, ["abé", "d"], echo=True, max_tokens=0)
        assert [choice.text for choice in answer.choices] == ["abé", "d"]
        assert answer.usage.completion_tokens == 0


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "param", "message"),
        [
            ({"prompt": []}, "prompt", "prompt: List should have at least 1 item"),
            ({"prompt": ["a"] * 17}, "prompt", "prompt: List should have at most 16 items"),
            ({"prompt": [1, 2]}, "prompt.0", "prompt.0: Input should be a valid string"),
            ({"max_tokens": 10**9}, "max_tokens", "max_tokens: Input should be less than or equal to 10000"),
            ({"max_tokens": 0}, None, "max_tokens may be 0 only with echo"),
            ({"max_tokens": 0, "echo": True, "prompt": ""}, None, "a prompt must not be empty if max_tokens is 0"),
            ({"n": 17}, "n", "n: Input should be less than or equal to 16"),
            ({"logprobs": 6}, "logprobs", "logprobs: Input should be less than or equal to 5"),
            ({"temperature": -1}, "temperature", "temperature: Input should be greater than or equal to 0"),
            ({"stop": ["a"] * 17}, "stop", "stop: List should have at most 16 items"),
            ({"seed": -1}, "seed", "seed: Input should be greater than or equal to 0"),
            ({"seed": SEED_LIMIT - 1, "n": 2}, None, "seed + n must not exceed 9223372036854775808"),
            ({"presence_penalty": 0.5}, "presence_penalty", "presence_penalty: only 0 is supported"),
            ({"frequency_penalty": -1}, "frequency_penalty", "frequency_penalty: only 0 is supported"),
            ({"logit_bias": {"50256": -100}}, "logit_bias", "logit_bias: only {} is supported"),
            ({"suffix": "a"}, "suffix", "suffix: only '' is supported"),
            ({"best_of": 3}, None, "best_of is not supported; it may only be 1 or n, which is 1"),
            ({"stream_options": {"include_usage": True}}, None, "stream_options needs stream"),
            ({"extra_body": {"min_p": 0.1}}, "min_p", "min_p: Extra inputs are not permitted"),
            ({"extra_body": {"member": 3}}, "member", "writer has no member 3"),
            ({"extra_body": {"ensemble_size": 4}}, "ensemble_size", "writer has only 3 networks"),
            ({"model": "curve"}, "model", "curve is not a model of sequences"),
        ],
    )
    def test_bad_requests(self, client: Any, options: dict[str, Any], param: str | None, message: str) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(**{"model": "writer", "prompt": "ab", **options})
        assert message in str(caught.value)
        assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")

    def test_models_that_cannot_answer(self, client: Any) -> None:
        with pytest.raises(openai.NotFoundError, match="no model 'nobody'") as caught:
            client.completions.create(model="nobody", prompt="a")
        assert (caught.value.code, caught.value.param) == ("unknown_model", "model")
        with pytest.raises(openai.InternalServerError) as refused:
            client.completions.create(model="broken", prompt="a")
        assert (refused.value.status_code, refused.value.code) == (503, "model_refused")
        assert refused.value.type == "server_error"

    def test_everything_at_this_path_has_openais_shape(self, service: httpx.Client) -> None:
        answers = [
            service.get("/v1/completions"),
            service.post("/v1/completions", content="a", headers={"Content-Type": "text/plain"}),
            service.post("/v1/completions", json={}, headers={"X-Request-Timeout": "never"}),
            service.post("/v1/completions", json={}, headers={"Origin": "http://elsewhere.example"}),
        ]
        assert [answer.status_code for answer in answers] == [405, 415, 400, 403]
        assert all(set(answer.json()["error"]) == {"message", "type", "param", "code"} for answer in answers)


def test_keys_and_limits(writers: Path, tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.toml", writer=["predict"], reader=["weights"])
    app = create_app(Settings(checkpoints=writers, keys=tmp_path / "keys.toml", max_live_networks=8))
    with serve(app) as address:
        with connect(address, "unknown") as stranger, pytest.raises(openai.AuthenticationError) as unknown:
            complete(stranger)
        assert unknown.value.type == "authentication_error"
        with (
            connect(address, keys["reader"]) as reader,
            pytest.raises(openai.PermissionDeniedError, match="needs predict"),
        ):
            complete(reader)
        with connect(address, keys["writer"]) as client:
            with pytest.raises(openai.BadRequestError, match=r"asks for 6 choices × networks\. It may ask for 4"):
                complete(client, n=2)
            assert len(complete(client, n=2, extra_body={"ensemble_size": 2}).choices) == 2
            with complete(client, max_tokens=10_000, stream=True), complete(client, max_tokens=10_000, stream=True):
                with pytest.raises(openai.RateLimitError) as caught:
                    complete(client)
                assert int(caught.value.response.headers["retry-after"]) >= 1
                assert (caught.value.type, caught.value.code) == ("rate_limit_error", "overloaded")
                with pytest.raises(openai.RateLimitError):
                    complete(client, n=4, max_tokens=10_000, extra_body={"member": 0})  # of which two find room
                assert app.state.engine.streams.count()["writer"] == 6
            await_idle(app)


class TestEndsOfWork:
    def test_timeouts(self, app: FastAPI, service: httpx.Client, client: Any) -> None:
        before = count_symbols(service)
        with pytest.raises(openai.APITimeoutError):
            complete(client, n=2, max_tokens=10_000, timeout=0.1)
        await_idle(app)
        limited = {"max_tokens": 10_000, "n": 2, "extra_headers": {"X-Request-Timeout": "0.1"}}
        with pytest.raises(openai.InternalServerError) as caught:
            complete(client, **limited)
        assert (caught.value.status_code, caught.value.code) == (504, "deadline_exceeded")
        with pytest.raises(openai.APIError) as in_stream:
            list(complete(client, **limited, stream=True))
        assert (in_stream.value.code, in_stream.value.type) == ("deadline_exceeded", "server_error")
        await_idle(app)
        assert count_symbols(service) - before < 20_000  # of 60,000

    def test_work_ends_when_an_asynchronous_client_closes_the_stream(self, app: FastAPI, service: httpx.Client) -> None:
        async def read_some() -> None:
            async with openai.AsyncOpenAI(base_url=f"{service.base_url}/v1", api_key="none") as client:
                stream = await complete(client, n=2, max_tokens=10_000, stream=True)
                async for event in stream:
                    assert event.choices[0].text
                    break
                assert app.state.engine.streams.count()["writer"] == 6
                await stream.close()
                await asyncio.to_thread(await_idle, app)

        before = count_symbols(service)
        asyncio.run(read_some())
        assert 0 < count_symbols(service) - before < 20_000


@pytest.mark.parametrize("obeys", [True, False])
def test_a_proxy_that_buffers_sends_pieces_on(client: Any, service: httpx.Client, obeys: bool) -> None:
    expected = complete(client, seed=1, max_tokens=100).choices[0].text
    with run_gateway(BufferingProxy(service, obeys=obeys)) as proxy, connect(proxy.address) as behind:
        events = list(complete(behind, seed=1, max_tokens=100, stream=True))
        assert "".join(event.choices[0].text for event in events) == expected
        assert (proxy.pieces > 1) == obeys


def test_openapi_describes_the_route(service: httpx.Client) -> None:
    operation = service.get("/openapi.json").json()["paths"]["/v1/completions"]["post"]
    content = operation["requestBody"]["content"]["application/json"]
    assert content["schema"] == {"$ref": "#/components/schemas/CompletionBody"}
    assert service.post("/v1/completions", json=content["example"] | {"prompt": "ab"}).status_code == 200
    errors = [answer for status, answer in operation["responses"].items() if status != "200"]
    assert {answer["content"]["application/json"]["schema"]["$ref"] for answer in errors} == {
        "#/components/schemas/CompletionErrorResponse"
    }


def test_answers_are_as_described(service: httpx.Client) -> None:
    asked = {"model": "writer", "prompt": ["ab", "c"], "logprobs": 1, "seed": 1}
    answer = service.post("/v1/completions", json=asked).json()
    assert Completion.model_validate(answer, strict=True).model_dump() == answer


def test_the_list_of_models_is_our_own(client: Any) -> None:
    """It has no `data`, so OpenAI's client sees an empty page, with our fields."""
    page = client.models.list()
    assert list(page) == []
    assert [model["name"] for model in page.models] == ["curve", "writer"]
    assert client.models.retrieve("writer").name == "writer"
