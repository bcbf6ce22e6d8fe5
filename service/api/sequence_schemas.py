"""Bodies of requests to models of sequences, and answers."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from models.noise import MEMBER_LIMIT, SEED_LIMIT
from models.sequences.calibration import PassageScore

MOST_SYMBOLS = 20_000
"""Most characters of a prompt, or of a text to be scored."""

MOST_TEXTS = 16
MOST_TOKENS = 10_000
MOST_NETWORKS = 64
MOST_STOPS, MOST_STOP_SYMBOLS = 16, 100

Stop = Annotated[str, Field(min_length=1, max_length=MOST_STOP_SYMBOLS)]


Changes = Annotated[
    list[float] | None,
    Field(
        min_length=4,
        max_length=4,
        description="How much the recurrent weights of the first layer changed at this step, if requested: the norm of "
        "the change for the input, forget and output gates and the candidate, the mean of the networks.",
    ),
]
"""What an answer says of a step's weights."""


def list_text(value: Any) -> Any:
    """One string as a list, and anything else as it is."""
    return [value] if isinstance(value, str) else value


class NetworkParameters(BaseModel):
    """Which networks of a model of sequences are asked."""

    model_config = ConfigDict(extra="forbid", strict=True)

    seed: int | None = Field(
        None,
        ge=0,
        lt=SEED_LIMIT,
        description="Seed of the networks and of the draws; by default a fresh one, which the answer names.",
    )
    member: int | None = Field(
        None, ge=0, lt=MEMBER_LIMIT, description="Number of the one network to ask, among those of the seed."
    )
    ensemble_size: int | None = Field(
        None,
        ge=1,
        le=MOST_NETWORKS,
        description="Number of networks that answer together: members 0 to this number − 1 of the seed; by default one "
        "of each mode of the model, up to 8.",
    )

    @model_validator(mode="after")
    def _check_networks(self) -> "NetworkParameters":
        if self.member is not None and self.ensemble_size is not None:
            raise ValueError("member and ensemble_size exclude each other")
        return self


class TextsBody(BaseModel):
    """The JSON body of a prediction by a model of text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    inputs: list[Annotated[str, Field(max_length=MOST_SYMBOLS)]] = Field(
        min_length=1,
        max_length=MOST_TEXTS,
        description="Texts, for each of which the next character is predicted. After an empty one, that is the first "
        "character of a text.",
    )


class SequenceParameters(NetworkParameters):
    """What every request to one model of sequences may say."""

    changes: bool = Field(
        False,
        description="Whether to return how much the weights of the input, forget and output gates and of the candidate "
        "changed at each step.",
    )


class SamplingParameters(BaseModel):
    """How text is written."""

    temperature: float = Field(
        1.0,
        ge=0,
        le=10,
        allow_inf_nan=False,
        description="Divides the logarithms of the probabilities; at 0, the most probable character is chosen.",
    )
    top_k: int | None = Field(None, ge=1, description="Number of the most probable characters to draw from.")
    top_p: float | None = Field(
        None,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Draws from the most probable characters that together have at least this probability.",
    )
    stop: Annotated[
        list[Stop], Field(max_length=MOST_STOPS), BeforeValidator(list_text, json_schema_input_type=Stop | list[Stop])
    ] = Field(
        default_factory=list, description="Strings that end the text; by default none. It is returned without them."
    )
    stream: bool = Field(False, description="Whether to send the text in server-sent events, as it is written.")


class GenerateBody(SequenceParameters, SamplingParameters):
    """The body of a request to write text."""

    prompt: str = Field(
        "", max_length=MOST_SYMBOLS, description="The text to go on with; by default none: a new text begins."
    )
    max_tokens: int = Field(200, ge=1, le=MOST_TOKENS, description="Most characters to write.")


class ScoreBody(SequenceParameters):
    """The body of a request to score a text."""

    text: str = Field(min_length=1, max_length=MOST_SYMBOLS, description="The text.")
    false_alarm_rate: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of usual passages that may be flagged as foreign; by default the calibration's.",
    )


class SymbolAnswer(BaseModel):
    """A character, and what the networks said of it before they knew it."""

    text: str
    probability: float = Field(description="Its probability under the mean of the networks, at temperature 1.")
    bits: float = Field(description="Its surprisal: −log2 of that probability.")
    entropy: float = Field(description="Entropy of the mean in bits: how uncertain the networks were together.")
    disagreement: float = Field(
        description="The part of the entropy on which the networks disagree, in bits: the mutual information of "
        "character and network."
    )
    changes: Changes = None


class ScoredSymbolAnswer(SymbolAnswer):
    """A character of a text that was scored."""

    unknown: Literal[True] | None = Field(
        None, description="Whether the model does not know the character, and read its symbol for all others."
    )


class SequenceIdentity(BaseModel):
    """The networks that answered."""

    model: str
    version: str = Field(description="SHA-256 of the checkpoint.")
    seed: int = Field(description="The same seed, version and parameters give the same answer.")
    members: list[int] = Field(description="The networks that answered, among those of the seed.")


class GenerateAnswer(SequenceIdentity):
    """A text that was written."""

    prompt_tokens: int = Field(description="Number of the prompt's characters.")
    unknown: list[str] = Field(description="Characters of the prompt that the model does not know.")
    text: str
    finish_reason: Literal["stop", "length"] = Field(
        description="Whether a stop string ended the text, or it has as many characters as requested."
    )
    tokens: list[SymbolAnswer]


class PassageAnswer(BaseModel):
    """A passage of a text, judged by its networks."""

    start: int = Field(description="Position of its first character.")
    value: float = Field(description="Mean of the score over its characters, in bits.")
    foreign: bool = Field(description="Whether the value exceeds the threshold.")


class ForeignAnswer(BaseModel):
    """Which passages of a text are unlike the text that the model was trained on."""

    score: PassageScore
    threshold: float = Field(description="In bits.")
    false_alarm_rate: float = Field(description="Share of usual passages that may be flagged.")
    passage: int = Field(description="Characters of a passage. What is left at the end is not judged.")
    passages: list[PassageAnswer]


class ScoreAnswer(SequenceIdentity):
    """A text that was scored."""

    tokens: list[ScoredSymbolAnswer]
    symbols: int = Field(description="Number of characters.")
    bits: float = Field(description="Surprisal of the whole text.")
    bits_per_character: float
    entropy: float = Field(description="Mean entropy of a character, in bits.")
    disagreement: float = Field(description="Mean disagreement on a character, in bits.")
    unknown: list[str] = Field(description="Characters of the text that the model does not know.")
    foreign: ForeignAnswer | None = Field(
        None, description="Foreign passages, if the model is calibrated for ensembles of this size."
    )
