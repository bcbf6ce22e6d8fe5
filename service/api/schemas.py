"""What clients send as parameters and get as answers."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from models.inputs.spec import InputSpec
from models.noise import MEMBER_LIMIT, SEED_LIMIT
from models.predictions.path import PathKind
from models.tasks.classification import Classification
from models.tasks.quantity import Axis, Quantity
from models.tasks.regression import EACH_NUMBER, Regression
from models.tasks.task import Task

Seed = Annotated[
    int | None,
    Field(ge=0, lt=SEED_LIMIT, description="Names the networks; without it, a fresh one is drawn and reported."),
]


class EnsembleParameters(BaseModel):
    """What every request for a prediction may ask for."""

    model_config = ConfigDict(extra="forbid")

    ensemble_size: int | None = Field(
        None,
        ge=1,
        description="How many networks are drawn for the ensemble; if not given, as many as it was evaluated with.",
    )
    seed: Seed = None
    false_alarm_rate: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of inputs like the training data that each flag may be raised for, 0.05 if not given. The "
        "largest calibrated rate that is no larger is used, and named in the answer.",
    )
    coverage: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Answer with a set of classes, too, that holds the true one for this share of inputs like the "
        "training data. The smallest calibrated coverage that is no smaller is used, and named in the answer.",
    )


class PredictParameters(EnsembleParameters):
    """Query parameters of a prediction."""

    members: bool = Field(False, description="Whether to answer with what each member predicts.")
    format: Literal["json", "safetensors"] = Field(
        "json", description="Of the answer: safetensors has the same numbers as tensors, and the rest as metadata."
    )


MOST_ATTACKED, MOST_STEPS, MOST_POINTS = 100, 100, 101
"""Networks that an attack takes gradients of, its steps, and the networks on a path."""


class AttackParameters(EnsembleParameters):
    """Query parameters of an attack."""

    ensemble_size: int | None = Field(
        None,
        ge=1,
        le=MOST_ATTACKED,
        description="How many networks are attacked, and answer; if not given, as many as it was evaluated with.",
    )
    norm: Literal["linf"] = Field("linf", description="In which epsilon is measured: the largest change of a pixel.")
    epsilon: float = Field(
        0.2, ge=0, le=1, description="In units of the pixels' range; rounding leaves ⌊255 ε⌋ of its 255 steps."
    )
    steps: int = Field(20, ge=1, le=MOST_STEPS, description="Of projected gradient descent.")


Member = Annotated[int, Field(ge=0, lt=MEMBER_LIMIT)]


class WalkParameters(BaseModel):
    """Query parameters of a walk from one network to another."""

    model_config = ConfigDict(extra="forbid")

    seed: Seed = None
    first: Member = Field(0, alias="from", description="The network where it begins, among those of the seed.")
    last: Member = Field(1, alias="to", description="The network where it ends.")
    points: int = Field(21, ge=2, le=MOST_POINTS, description="Networks on the way, evenly spaced, the ends included.")


class WeightsParameters(BaseModel):
    """Query parameters of a download of weights."""

    model_config = ConfigDict(extra="forbid")

    seed: Seed = None
    member: int = Field(0, ge=0, lt=MEMBER_LIMIT, description="The network, or the first one, among those of the seed.")
    count: int | None = Field(
        None, ge=1, description="How many networks, stacked on a leading axis; without it, one that is not stacked."
    )
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    version: str | None = Field(
        None, description="The model version that is wanted; another one is refused, so the answer never changes."
    )


class ModelIdentity(BaseModel):
    name: str
    version: str = Field(description="SHA-256 of the checkpoint.")
    method: str


class EnsembleIdentity(BaseModel):
    size: int
    seed: int = Field(description="The same seed and version give the same answer.")
    temperature: float | None = Field(None, description="Of the mean probabilities, if it was calibrated.")


def _declare(quantities: Mapping[str, Quantity], axes: tuple[Axis, ...]) -> Any:
    """A schema with a field for each quantity that has some axes."""
    fields: dict[str, Any] = {
        name: (float, Field(description=quantity.description))
        for name, quantity in quantities.items()
        if quantity.axes == axes
    }
    return create_model("Quantities", **fields)


class UncertaintyAnswer(_declare(Classification.quantities, ("inputs",))):  # type: ignore[misc]
    """Of the members' probabilities, before any temperature. In nats, but for variation ratio and max-probability."""


class NumberAnswer(_declare(Regression.quantities, EACH_NUMBER)):  # type: ignore[misc]
    """The predictive distribution of one number, in its own units."""


class FlagAnswer(BaseModel):
    """A score against its calibrated threshold."""

    flagged: bool
    score: float
    threshold: float
    score_name: str
    false_alarm_rate: float = Field(description="Share of inputs like the training data that the threshold flags.")
    calibrated_ensemble_size: int = Field(description="The ensemble size that the threshold was measured with.")
    calibration_inputs: int


class PredictionSetAnswer(BaseModel):
    """Classes, one of which is the true one with some probability."""

    labels: list[str]
    coverage: float = Field(description="Share of inputs like the training data whose set holds the true class.")


class PredictionAnswer(BaseModel):
    label: str
    class_index: int
    probabilities: list[float] = Field(description="The mean of the members', at the calibrated temperature.")
    uncertainty: UncertaintyAnswer
    flags: dict[str, FlagAnswer] = Field(description="Empty if the model has no calibration.")
    prediction_set: PredictionSetAnswer | None = Field(None, description="If a coverage is asked for.")
    member_probabilities: list[list[float]] | None = Field(
        None, description="[ensemble size][classes], if asked for; rounded to 7 decimals."
    )


class RegressionAnswer(BaseModel):
    outputs: dict[str, NumberAnswer] = Field(description="By the number's name.")
    flags: dict[str, FlagAnswer] = Field(description="Empty if the model has no calibration.")
    member_outputs: list[list[float]] | None = Field(None, description="[ensemble size][numbers], if asked for.")


class PredictAnswer(BaseModel):
    model: ModelIdentity
    ensemble: EnsembleIdentity
    predictions: list[PredictionAnswer] | list[RegressionAnswer] = Field(description="One for each input, in order.")


class AttackDescription(BaseModel):
    """How an image was perturbed."""

    norm: Literal["linf"]
    epsilon: float = Field(description="As it was asked for.")
    steps: int
    largest_change: float = Field(description="Of a pixel, in units of the pixels' range, after rounding to 8 bits.")


class AttackAnswer(BaseModel):
    """An image before and after an attack, and what the attacked networks say. That an attack fails proves nothing."""

    model: ModelIdentity
    ensemble: EnsembleIdentity
    attack: AttackDescription
    original: str = Field(description="The image as the model takes it: base64 of a PNG file of the input's size.")
    adversarial: str = Field(description="The perturbed image, likewise.")
    before: PredictionAnswer
    after: PredictionAnswer


class WalkAnswer(BaseModel):
    """What the networks on the way from one to another predict, each by itself."""

    model: ModelIdentity
    seed: int
    members: tuple[int, int] = Field(description="The networks at the ends.")
    outputs: list[str] = Field(description="Names of the classes, or of the numbers.")
    paths: dict[PathKind, list[list[float]]] = Field(
        description="[points][outputs]: on the straight way between the weights, filters brought to one scale before; "
        "and on the way between the latents, where the method has a continuum of them."
    )


class TargetDescription(BaseModel):
    num_weights: int
    parameters: dict[str, list[int]] = Field(description="Shapes of the parameters, by state_dict key.")
    source: str = Field(description="Python source that makes `network`, the module that downloaded weights load into.")


class SamplerDescription(BaseModel):
    """What only some methods can do."""

    fresh_draws: bool = Field(description="Whether a new seed brings networks that nobody has seen before.")
    num_networks: int | None = Field(description="How many networks there are, where draws are not fresh.")
    ensemble_size: int = Field(
        description="How many networks answer a request that names no number, if the service allows so many."
    )
    is_distribution: bool = Field(
        description="Whether there are several networks; a single one cannot disagree, so its mutual information is 0."
    )


class ModelSummary(ModelIdentity):
    sampler: SamplerDescription
    input: InputSpec
    task: Task


class ModelDescription(ModelSummary):
    target: TargetDescription
    training: dict[str, Any]
    calibration: dict[str, Any] | None = Field(description="Thresholds of the flags, and how they were measured.")
    metrics: dict[str, Any] | None = Field(description="Figures of the model card.")


class RefusedModel(BaseModel):
    name: str
    reason: str


class ModelsAnswer(BaseModel):
    default: str
    models: list[ModelSummary] = Field(description="The default first.")
    refused: list[RefusedModel] = Field(description="Checkpoints that could not be loaded.")


class ReloadAnswer(BaseModel):
    model: ModelIdentity = Field(description="As it is served now.")
    changed: bool = Field(description="Whether that is another version than before.")


class HealthAnswer(BaseModel):
    status: Literal["live", "ready"]
    warnings: list[str] | None = Field(default=None, description="What is to be mended, though requests are answered.")
