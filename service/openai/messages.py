"""Messages of OpenAI's completions, and how choices are written.

Source: OpenAI's API reference of `POST /v1/completions`. A token is a character here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from models.noise import SEED_LIMIT
from models.sequences.live import Element
from service.api.sequence_schemas import (
    MOST_SYMBOLS,
    MOST_TOKENS,
    NetworkParameters,
    SamplingParameters,
    list_text,
)

MOST_PROMPTS = 16
MOST_ALTERNATIVES = 16
"""Most choices for each prompt."""

MOST_LIKELY = 5
"""Most of the most probable characters that are reported."""

Prompt = Annotated[str, Field(max_length=MOST_SYMBOLS)]


def _only(neutral: Any) -> AfterValidator:
    """Lets the value pass that changes nothing."""

    def check(value: Any) -> Any:
        if value != neutral:
            raise ValueError(f"only {neutral!r} is supported")
        return value

    return AfterValidator(check)


class StreamOptions(BaseModel):
    """What the events of a stream contain."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = Field(False, description="Whether the last event has the numbers of characters.")
    include_obfuscation: bool = Field(False, description="No effect.")


class CompletionBody(NetworkParameters, SamplingParameters):
    """The body of a request. A parameter that is null counts as left out."""

    model: str = Field(description="Name of a model of text.")
    prompt: Annotated[
        list[Prompt],
        Field(min_length=1, max_length=MOST_PROMPTS),
        BeforeValidator(list_text, json_schema_input_type=Prompt | list[Prompt]),
    ] = Field(
        default_factory=lambda: [""],
        description="The text to go on with, or several texts; by default a new text begins.",
    )
    max_tokens: int = Field(
        16, ge=0, le=MOST_TOKENS, description="Most characters to write. It may be 0 only with echo."
    )
    n: int = Field(
        1,
        ge=1,
        le=MOST_ALTERNATIVES,
        description="Number of choices for each prompt. Their seeds follow one another from `seed`.",
    )
    echo: bool = Field(False, description="Whether to return the prompt before what is written.")
    logprobs: int | None = Field(
        None,
        ge=0,
        le=MOST_LIKELY,
        description="Return the logarithm of each character's probability at temperature 1, in nats, and of this many "
        "most probable ones.",
    )
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="No effect.")
    best_of: int | None = Field(None, description="1 or `n`, and no effect.")
    presence_penalty: Annotated[float, _only(0)] = Field(0, description="Only 0.")
    frequency_penalty: Annotated[float, _only(0)] = Field(0, description="Only 0.")
    logit_bias: Annotated[dict[str, float], _only({})] = Field({}, description="Only an empty one.")
    suffix: Annotated[str, _only("")] = Field("", description="Only an empty one.")

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nulls(cls, body: Any) -> Any:
        return {name: value for name, value in body.items() if value is not None} if isinstance(body, dict) else body

    @model_validator(mode="after")
    def _check_together(self) -> "CompletionBody":
        if not self.max_tokens and not self.echo:
            raise ValueError("max_tokens may be 0 only with echo")
        if not self.max_tokens and "" in self.prompt:
            raise ValueError("a prompt must not be empty if max_tokens is 0")
        if self.best_of not in (None, 1, self.n):
            raise ValueError(f"best_of is not supported; it may only be 1 or n, which is {self.n}")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream")
        if self.seed is not None and self.seed + self.n > SEED_LIMIT:
            raise ValueError(f"seed + n must not exceed {SEED_LIMIT}")
        return self


class Logprobs(BaseModel):
    """Logarithms of probabilities at temperature 1, in nats, of each character of a text."""

    tokens: list[str] = Field(description="The characters.")
    token_logprobs: list[float] = Field(description="Logarithms of their probabilities.")
    top_logprobs: list[dict[str, float]] = Field(
        description="Of the most probable characters, and of the one that was chosen or given."
    )
    text_offset: list[int] = Field(description="Positions of the characters, counted from the beginning of the prompt.")


class CompletionChoice(BaseModel):
    """A text, or a piece of one in a stream."""

    index: int
    text: str
    seed: int = Field(description="Seed of the networks and of the draws. It is not among OpenAI's fields.")
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"] | None = Field(
        description="Whether a stop string ended the text, or it has as many characters as requested; null until then."
    )


class Usage(BaseModel):
    """Numbers of characters."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    """An answer, or an event of one."""

    id: str
    object: Literal["text_completion"]
    created: int = Field(description="Seconds since 1970.")
    model: str
    system_fingerprint: str = Field(description="First 12 digits of the model's version.")
    choices: list[CompletionChoice]
    usage: Usage | None = None


@dataclass
class ChoiceWriter:
    """Writes the elements of a choice."""

    index: int
    seed: int
    symbols: tuple[str, ...]
    prompt: str
    echo: bool
    scores: bool
    """Whether logarithms of probabilities are written."""
    count: int = 0
    """Number of characters written so far, after the prompt."""
    _position: int = field(init=False)
    """Position of the next element."""
    _echoed: str = field(init=False)
    """What precedes the first element."""

    def __post_init__(self) -> None:
        self._position = self.first
        self._echoed = self.prompt[: self.first] if self.echo else ""

    @property
    def first(self) -> int:
        """Position of the first element that is written. The prompt's are needed only if they are scored."""
        return 0 if self.echo and self.scores else len(self.prompt)

    def write(self, elements: Sequence[Element], finish_reason: str | None = None) -> dict[str, Any]:
        """The next elements as a `CompletionChoice`."""
        start, self._position = self._position, self._position + len(elements)
        given = self.prompt[start : self._position]
        tokens = [*given, *(self.symbols[element.value] for element in elements[len(given) :])]
        self.count += len(elements) - len(given)
        text, self._echoed = self._echoed + "".join(tokens), ""
        return {
            "index": self.index,
            "text": text,
            "seed": self.seed,
            "logprobs": self._score(elements, tokens, start) if self.scores else None,
            "finish_reason": finish_reason,
        }

    def _score(self, elements: Sequence[Element], tokens: list[str], start: int) -> dict[str, list[Any]]:
        """The elements as `Logprobs`."""
        chosen = [0.0 - element.measures[1] * math.log(2) for element in elements]
        likely = [
            {self.symbols[number]: logarithm for number, logarithm in element.likely or []} | {token: own}
            for element, token, own in zip(elements, tokens, chosen, strict=True)
        ]
        return {
            "tokens": tokens,
            "token_logprobs": chosen,
            "top_logprobs": likely,
            "text_offset": list(range(start, start + len(tokens))),
        }


def join_pieces(pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """The pieces of a choice, of which there is at least one, as one `CompletionChoice`."""
    whole = {**pieces[-1], "text": "".join(piece["text"] for piece in pieces)}
    if whole["logprobs"] is not None:
        names = whole["logprobs"]
        whole["logprobs"] = {name: [each for piece in pieces for each in piece["logprobs"][name]] for name in names}
    return whole
