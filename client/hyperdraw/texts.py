"""The calls for models of text: writing on, and scoring."""

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from hyperdraw.answers import explain_answers, read_fields
from hyperdraw.asking import ask, choose_seed, make_request, set_limit
from hyperdraw.attempts import Attempts, Together
from hyperdraw.errors import InvalidAnswer, NotFound, make_error, read_detail
from hyperdraw.transfer import CHECK_SERVICE, Connection, RequestSpec, TimeLimit, Transfer

TOKENS = 200
"""Characters that are written unless the call says otherwise."""

MOST_CHARACTERS = 6_000
"""Most characters to score in a request. The service takes 20,000, but scores several parts at the same time faster."""

CONTEXT = 1_000
"""Characters before a part of a longer text that the networks read first."""

PARALLEL = 4
"""Requests at the same time."""

_STATUSES = {"deadline_exceeded": 504, "closing": 503}
"""Statuses of errors within a stream, by their codes; that of any other is 500."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """A character, and what the networks said of it before they knew it."""

    text: str
    probability: float
    """Its probability under the mean of the networks, at temperature 1."""
    bits: float
    """Its surprisal: −log2 of that probability."""
    entropy: float
    """Entropy of the mean in bits: how uncertain the networks were together."""
    disagreement: float
    """The part of the entropy on which the networks disagree, in bits."""
    changes: Sequence[float] | None = None
    """How much the weights of the input, forget and output gates and of the candidate changed, if requested."""
    unknown: bool = False
    """Whether a scored character is one that the model does not know."""


@dataclass(frozen=True)
class TextHead:
    """What is known of a text before it is written."""

    model: str
    version: str
    """SHA-256 of the checkpoint."""
    seed: int
    """The same seed, version and parameters give the same text."""
    members: Sequence[int]
    """The networks that write together, among those of the seed."""
    prompt_tokens: int
    """Number of the prompt's characters."""
    unknown: Sequence[str]
    """Characters of the prompt that the model does not know."""


@dataclass(frozen=True)
class Passage:
    """A passage of a scored text, and whether it is unlike the text that the model was trained on."""

    start: int
    """Position of its first character."""
    value: float
    """Mean of the score over its characters, in bits."""
    foreign: bool
    """Whether the value exceeds the threshold."""


@dataclass(frozen=True)
class Foreign:
    """Which passages of a text are foreign. What is left at the end is not judged."""

    score: str
    """What is compared with the threshold: `surprisal` or `disagreement`."""
    threshold: float
    """In bits."""
    false_alarm_rate: float
    """Share of usual passages that may be flagged."""
    passage: int
    """Characters of a passage."""
    passages: Sequence[Passage]


@dataclass(frozen=True)
class Score:
    """How surprising a text is to a model."""

    model: str
    version: str
    """SHA-256 of the checkpoint."""
    seed: int
    """The same seed, version and parameters give the same score."""
    members: Sequence[int]
    """The networks that scored it together, among those of the seed."""
    bits: float
    """Surprisal of the whole text."""
    bits_per_character: float
    entropy: float
    """Mean entropy of a character, in bits."""
    disagreement: float
    """Mean disagreement on a character, in bits."""
    unknown: Sequence[str]
    """Characters of the text that the model does not know."""
    tokens: Sequence[Symbol]
    """The characters."""
    foreign: Foreign | None = None
    """Foreign passages; None if the model is not calibrated for ensembles of this size."""


class TextEvents:
    """The server-sent events of a text that a model writes."""

    def __init__(self, request: RequestSpec, client: Connection, limit: TimeLimit) -> None:
        self.finish_reason: str | None = None
        """Why the text has ended, once it has."""
        self._transfer = Transfer(request, self, client, limit, live=True)
        self._rest = b""
        self._events: list[bytes] = []
        self._headed = self._complete = False

    def attempts(self) -> Iterator[Transfer]:
        """The attempts to carry out. Each time that something arrives, `take` has what is new."""
        return self._transfer.attempts()

    def start(self, size: int | None) -> None:
        pass  # nothing has arrived before, because a text is not begun twice

    def write(self, content: bytes) -> None:
        *events, self._rest = re.split(rb"\r?\n\r?\n", self._rest + content)
        for event in events:
            lines = [line[5:] for line in event.splitlines() if line.startswith(b"data:")]
            if lines:  # others are comments
                self._events.append(b"\n".join(lines))

    def take(self) -> Iterator[TextHead | Symbol]:
        """What has arrived and was not taken yet: first the head, then symbols.

        Raises:
            HyperdrawError: if an event is an error.
            InvalidAnswer: if one is not as expected.
        """
        while self._events:
            event = self._events.pop(0).strip()
            if event == b"[DONE]":
                self._complete = True
                continue
            if (detail := read_detail(event)) is not None:
                raise make_error(_STATUSES.get(detail.code, 500), httpx.Headers(), detail)
            with explain_answers():
                content = json.loads(event)
                if not self._headed:
                    known: TextHead | Symbol = read_fields(TextHead, content)
                    self._headed = True
                elif "finish_reason" in content:
                    self.finish_reason = content["finish_reason"]
                    continue
                else:
                    known = read_fields(Symbol, content)
            yield known

    def finish(self) -> None:
        if not self._headed:
            raise InvalidAnswer("The answer has no server-sent events of a text.", CHECK_SERVICE)
        if not self._complete:
            raise httpx.RemoteProtocolError("the events ended before the text")


def generate(
    client: Connection,
    model: str,
    prompt: str = "",
    *,
    max_tokens: int = TOKENS,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] = (),
    member: int | None = None,
    ensemble_size: int | None = None,
    changes: bool = False,
    timeout: float | None = None,
) -> TextEvents:
    """Writes on from a prompt, or begins a new text.

    The result is an iterator of symbols, each of which arrives when it is written. It is also a context manager that
    ends the work of the service when it is left early. It names the model's `version`, the `seed`, the `members` that
    write, and more. At the end, `finish_reason` says why the text ends. `read` returns the whole text.

    A refused request is repeated as others are. A text that breaks off once it has begun is not.

    Args:
        client: the client that asks.
        model: name of the model.
        prompt: the text to go on with; by default none, so that a new text begins.
        max_tokens: most characters to write.
        temperature: divides the logarithms of the probabilities; at 0, the most probable character is chosen.
        top_k: number of the most probable characters to draw from.
        top_p: draws from the most probable characters that together have at least this probability.
        seed: seed of the networks and of the draws; by default a fresh one.
        stop: strings that end the text, which does not contain them.
        member: number of the one network to ask, among those of the seed.
        ensemble_size: number of networks that write together; by default one of each mode of the model, up to 8.
        changes: whether each symbol says how much the networks' weights changed.
        timeout: seconds until the service begins, retries included, and then seconds without anything new.

    Raises:
        ValueError: if the prompt cannot be encoded as UTF-8.
        InvalidRequest: if the model does not take this prompt or these parameters.
        NotFound: if there is no such model.
        HyperdrawError: for any other failure, also in the middle of a text; `hyperdraw.errors` lists them.
    """
    content = {
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
        "stop": stop,
        "member": member,
        "ensemble_size": ensemble_size,
        "changes": changes,
        "stream": True,
    }
    return TextEvents(make_request(model, "generate", content), client, set_limit(client, timeout))


def score(
    client: Connection,
    model: str,
    text: str,
    *,
    seed: int | None = None,
    member: int | None = None,
    ensemble_size: int | None = None,
    changes: bool = False,
    false_alarm_rate: float | None = None,
    timeout: float | None = None,
) -> Attempts[Score]:
    """Says how surprising each character of a text is, how uncertain the networks were about it, and which passages are
    foreign.

    Each character is scored given all before it. A text of more than 6,000 characters is sent in parts, several at the
    same time. The networks read the last 1,000 characters before each part first.

    Args:
        client: the client that asks.
        model: name of the model.
        text: the text; at least one character.
        seed: seed of the networks; by default a fresh one.
        member: number of the one network to ask, among those of the seed.
        ensemble_size: number of networks that score together; by default one of each mode of the model, up to 8.
        changes: whether each character says how much the networks' weights changed.
        false_alarm_rate: share of usual passages that may be flagged as foreign; by default the calibration's.
        timeout: seconds that the call may take, retries included; if it needs several requests, that each may take.

    Raises:
        ValueError: if the text cannot be encoded as UTF-8.
        InvalidRequest: if the model does not take this text or these parameters.
        NotFound: if there is no such model, or another version of it is loaded meanwhile.
        HyperdrawError: for any other failure; `hyperdraw.errors` lists them.
    """
    asked = {
        "member": member,
        "ensemble_size": ensemble_size,
        "changes": changes,
        "false_alarm_rate": false_alarm_rate,
    }
    if len(text) <= MOST_CHARACTERS:
        return (yield from _score(client, model, asked | {"seed": seed, "text": text}, set_limit(client, timeout)))
    asked |= {"seed": choose_seed(seed)}
    parts: dict[int, Score] = {}

    def score_part(begin: int) -> Attempts[None]:
        part = text[max(0, begin - CONTEXT) : begin + MOST_CHARACTERS - CONTEXT]
        parts[begin] = yield from _score(client, model, asked | {"text": part}, set_limit(client, timeout))

    yield Together(map(score_part, range(0, len(text), MOST_CHARACTERS - CONTEXT)), PARALLEL)
    return _join([parts[begin] for begin in sorted(parts)])


def _score(client: Connection, model: str, content: Mapping[str, Any], limit: TimeLimit) -> Attempts[Score]:
    """Scores a text in one request."""
    answer = yield from ask(client, make_request(model, "score", content), limit)
    with explain_answers():
        known = json.loads(answer)
        known["tokens"] = [read_fields(Symbol, token) for token in known["tokens"]]
        if found := known.get("foreign"):
            found["passages"] = [read_fields(Passage, passage) for passage in found["passages"]]
            known["foreign"] = read_fields(Foreign, found)
        return read_fields(Score, known)


def _join(parts: Sequence[Score]) -> Score:
    """The score of a text from those of its parts. All but the first begin with `CONTEXT`."""
    first = parts[0]
    if other := next((part.version for part in parts if part.version != first.version), None):
        message = f"{first.model} is served at another version: {other}, not {first.version}."
        raise NotFound(404, "unknown_version", message, "Score the text again.")
    tokens = [*first.tokens, *(token for part in parts[1:] for token in part.tokens[CONTEXT:])]
    bits, entropy, disagreement = (
        math.fsum(getattr(token, name) for token in tokens) for name in ("bits", "entropy", "disagreement")
    )
    return dataclasses.replace(
        first,
        foreign=_join_foreign(parts),
        bits=bits,
        bits_per_character=bits / len(tokens),
        entropy=entropy / len(tokens),
        disagreement=disagreement / len(tokens),
        unknown=list(dict.fromkeys(character for part in parts for character in part.unknown)),
        tokens=tokens,
    )


def _join_foreign(parts: Sequence[Score]) -> Foreign | None:
    """The foreign passages of a text from those of its parts."""
    passages: list[Passage] = []
    begin = 0
    for part in parts:
        if part.foreign is None:
            return None
        judged = [dataclasses.replace(passage, start=begin + passage.start) for passage in part.foreign.passages]
        judged_before = passages[-1].start + part.foreign.passage if passages else 0
        passages += [passage for passage in judged if passage.start >= judged_before]
        begin += len(part.tokens) - CONTEXT
    assert parts[0].foreign is not None
    return dataclasses.replace(parts[0].foreign, passages=passages)
