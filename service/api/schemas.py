"""Parameters that clients send, and answers that they get."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from models.backbones.backbone import BackboneSpec
from models.inputs.spec import InputSpec
from models.noise import MEMBER_LIMIT, SEED_LIMIT
from models.precision import Precision
from models.predictions.path import PathKind
from models.sequences.checkpoint import SequenceInput
from models.sequences.network import CellSize
from models.tasks.classification import Classification
from models.tasks.quantity import Axis, Quantity
from models.tasks.regression import EACH_NUMBER, Regression
from models.tasks.task import Task
from service.api.growing import SIZE_DESCRIPTION, GrowingSize, GrownEnsemble
from service.api.sequence_schemas import MOST_SYMBOLS

Seed = Annotated[
    int | None,
    Field(ge=0, lt=SEED_LIMIT, description="Seed of the networks; by default a fresh one, which the answer names."),
]

Version = Annotated[
    str | None,
    Field(
        max_length=100,
        description="Version of the model: its digest, or at least the first 12 characters of it, or stable, candidate "
        "or previous. By default the stable one; a candidate may answer predictions that name no seed.",
    ),
]

IN_FOLDS = "approximately, if the model was calibrated in folds"
"""A reservation about what is promised."""


class ModelParameters(BaseModel):
    """Parameters of every request that a version of a model answers."""

    model_config = ConfigDict(extra="forbid")

    version: Version = None


class EnsembleParameters(ModelParameters):
    """Parameters of every request for a prediction."""

    ensemble_size: int | None = Field(
        None,
        ge=1,
        description="Number of networks in the ensemble; by default as many as the model was evaluated with.",
    )
    seed: Seed = None
    false_alarm_rate: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Highest acceptable rate of false alarms of each flag, for inputs like those of the calibration; "
        "by default 0.05. The largest calibrated rate that does not exceed it is used, and named in the answer.",
    )
    coverage: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Also return a set of classes that contains the true one with at least this probability, or an "
        "interval for each number, for inputs like those of the calibration. The smallest calibrated coverage that is "
        "at least this is used, and named in the answer.",
    )


class PredictParameters(EnsembleParameters):
    """Query parameters of a prediction."""

    ensemble_size: GrowingSize | None = Field(None, description=SIZE_DESCRIPTION)  # type: ignore[assignment]
    members: bool = Field(False, description="Whether to return the prediction of each member, too.")
    format: Literal["json", "safetensors"] = Field(
        "json", description="Format of the answer. Safetensors has the numbers as tensors, and the rest as metadata."
    )


MOST_ATTACKED, MOST_STEPS, MOST_POINTS = 100, 100, 101
"""Most networks and steps of an attack, and most networks on a path."""


class AttackParameters(EnsembleParameters):
    """Query parameters of an attack."""

    ensemble_size: int | None = Field(
        None,
        ge=1,
        le=MOST_ATTACKED,
        description="Number of networks that are attacked and answer; by default as many as the model was evaluated "
        f"with, but at most {MOST_ATTACKED}.",
    )
    norm: Literal["linf"] = Field("linf", description="Norm of epsilon: the largest change of a pixel.")
    epsilon: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Largest change, in units of the pixels' range. Rounding reduces it to ⌊255 ε⌋ / 255.",
    )
    steps: int = Field(20, ge=1, le=MOST_STEPS, description="Number of steps of projected gradient descent.")


Member = Annotated[int, Field(ge=0, lt=MEMBER_LIMIT)]


class WalkParameters(ModelParameters):
    """Query parameters of a walk from one network to another."""

    seed: Seed = None
    first: Member = Field(0, alias="from", description="Number of the first network, among those of the seed.")
    last: Member = Field(1, alias="to", description="Number of the last network.")
    points: int = Field(
        21, ge=2, le=MOST_POINTS, description="Number of networks on each path, evenly spaced, ends included."
    )


class WeightsParameters(ModelParameters):
    """Query parameters of a download of weights. If `version` is a digest, the answer never changes."""

    prompt: str | None = Field(
        None,
        max_length=MOST_SYMBOLS,
        description="For a model whose weights change at each step: what the network reads first. A model that draws "
        "takes points as JSON.",
    )
    step: int | None = Field(
        None,
        ge=0,
        description="How many elements of the prompt it reads; by default all. The weights are those of the step that "
        "predicts the next one, in the form of an LSTM's.",
    )

    seed: Seed = None
    member: int = Field(
        0, ge=0, lt=MEMBER_LIMIT, description="Number of the network, or of the first one, among those of the seed."
    )
    count: int | None = Field(
        None, ge=1, description="Number of networks, stacked on a leading axis; by default one that is not stacked."
    )
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"


VersionDigests = Annotated[
    dict[str, str], Field(description="Digests of the versions that are served, by their names.")
]


class ModelIdentity(BaseModel):
    name: str
    version: str = Field(description="SHA-256 of the checkpoint.")
    method: str


class EnsembleIdentity(BaseModel):
    size: int = Field(description="Number of networks; with ensemble_size=auto, the most that an input was asked of.")
    seed: int = Field(description="Seed of the networks. The same seed and version give the same answer.")
    precision: Precision = Field(description="Precision of the networks and their products.")
    temperature: float | None = Field(None, description="Temperature of the mean probabilities, if calibrated.")


def _declare(quantities: Mapping[str, Quantity], axes: tuple[Axis, ...]) -> Any:
    """A schema with a field for each quantity that has the given axes."""
    fields: dict[str, Any] = {
        name: (float, Field(description=quantity.description))
        for name, quantity in quantities.items()
        if quantity.axes == axes
    }
    return create_model("Quantities", **fields)


class UncertaintyAnswer(_declare(Classification.quantities, ("inputs",))):  # type: ignore[misc]
    """Uncertainty of the members' probabilities, before any temperature. In nats, except variation_ratio and
    max_probability."""


class IntervalAnswer(BaseModel):
    """An interval that contains a number with a given probability."""

    lower: float
    upper: float
    coverage: float = Field(
        description="At least this share of intervals contains the number, for inputs like those of the calibration; "
        f"{IN_FOLDS}."
    )


class NumberAnswer(_declare(Regression.quantities, EACH_NUMBER)):  # type: ignore[misc]
    """The predictive distribution of one number, in its own units."""

    interval: IntervalAnswer | None = Field(None, description="Prediction interval, if a coverage is requested.")


class FlagAnswer(BaseModel):
    """A score and its calibrated threshold."""

    flagged: bool
    score: float
    threshold: float
    score_name: str
    false_alarm_rate: float = Field(
        description=f"At most this share of inputs like those of the calibration is flagged; {IN_FOLDS}."
    )
    calibrated_ensemble_size: int = Field(description="Ensemble size for which the threshold was measured.")
    calibration_inputs: int


class PredictionSetAnswer(BaseModel):
    """A set of classes that contains the true one with a given probability."""

    labels: list[str]
    coverage: float = Field(
        description="At least this share of sets contains the true class, for inputs like those of the calibration; "
        f"{IN_FOLDS}."
    )


class PredictionAnswer(BaseModel):
    label: str
    class_index: int
    probabilities: list[float] = Field(description="Mean probabilities of the members, at the calibrated temperature.")
    uncertainty: UncertaintyAnswer
    flags: dict[str, FlagAnswer] = Field(description="Flags by name. Empty if the model has no calibration.")
    prediction_set: PredictionSetAnswer | None = Field(None, description="Set of classes, if a coverage is requested.")
    member_probabilities: list[list[float]] | None = Field(
        None, description="Probabilities of each member, [ensemble size][classes], if requested; to 7 decimals."
    )
    ensemble: GrownEnsemble | None = Field(None, description="This input's ensemble, with ensemble_size=auto.")


class RegressionAnswer(BaseModel):
    outputs: dict[str, NumberAnswer] = Field(description="Distributions by the number's name.")
    flags: dict[str, FlagAnswer] = Field(description="Flags by name. Empty if the model has no calibration.")
    member_outputs: list[list[float]] | None = Field(
        None, description="Prediction of each member, [ensemble size][numbers], if requested."
    )
    ensemble: GrownEnsemble | None = Field(None, description="This input's ensemble, with ensemble_size=auto.")


class PredictAnswer(BaseModel):
    model: ModelIdentity
    ensemble: EnsembleIdentity
    predictions: Sequence[PredictionAnswer | RegressionAnswer] = Field(description="One for each input, in order.")


class AttackDescription(BaseModel):
    """How an image was perturbed."""

    norm: Literal["linf"]
    epsilon: float = Field(description="Requested epsilon.")
    steps: int
    largest_change: float = Field(
        description="Largest change of a pixel, in units of the pixels' range, after rounding to 8 bits."
    )


class AttackAnswer(BaseModel):
    """An image before and after an attack, and the attacked networks' predictions. A failed attack proves nothing."""

    model: ModelIdentity
    ensemble: EnsembleIdentity
    attack: AttackDescription
    original: str = Field(description="The image at the size of the model's input: a PNG file in base64.")
    adversarial: str = Field(description="The perturbed image: a PNG file in base64.")
    before: PredictionAnswer
    after: PredictionAnswer


class WalkAnswer(BaseModel):
    """Predictions of each network on the paths between two networks."""

    model: ModelIdentity
    seed: int
    members: tuple[int, int] = Field(description="The networks at the ends.")
    outputs: list[str] = Field(description="Names of the classes, or of the numbers.")
    paths: dict[PathKind, list[list[float]]] = Field(
        description="Predictions, [points][outputs]. straight: on the straight path between the weights, after their "
        "filters are brought to one scale. latent: on the path between the latents, if the method has a continuum."
    )


class TargetDescription(BaseModel):
    num_weights: int
    parameters: dict[str, list[int]] = Field(description="Shapes of the parameters, by state_dict key.")
    source: str = Field(description="Python source that creates `network`, the module for downloaded weights.")


class SamplerDescription(BaseModel):
    """Properties that depend on the method."""

    fresh_draws: bool = Field(description="Whether a new seed gives new networks.")
    num_networks: int | None = Field(description="Number of networks, if a new seed gives no new ones.")
    ensemble_size: int = Field(description="Default number of networks in an ensemble, if the service allows it.")
    is_distribution: bool = Field(
        description="Whether there are several networks. A single one cannot disagree: its mutual information is 0."
    )


class ExampleDescription(BaseModel):
    """An example input, which `/v1/models/{model}/examples/{file}` returns."""

    file: str
    media_type: str
    caption: str = Field(description="What the image shows.")
    source: str = Field(description="Where the image comes from.")
    licence: str


class ModelSummary(ModelIdentity):
    versions: VersionDigests
    sampler: SamplerDescription
    input: InputSpec
    backbone: BackboneSpec | None = Field(
        description="The pretrained network whose features the target network takes instead of images, if any."
    )
    task: Task


class ModelDescription(ModelSummary):
    target: TargetDescription
    training: dict[str, Any]
    calibration: dict[str, Any] | None = Field(
        description="Thresholds of the flags, and how they were measured. With `folds`, by networks that were trained "
        "without a fold each; what flags, sets and intervals promise then holds approximately."
    )
    metrics: dict[str, Any] | None = Field(description="Measurements from the model card.")
    examples: list[ExampleDescription] = Field(description="Example inputs that the checkpoint contains, in order.")


class SequenceTask(BaseModel):
    """What a model of sequences does: it says what comes next, writes on, and scores."""

    kind: Literal["sequence"] = "sequence"
    names: list[str] = Field(description="What it predicts at each step.")


class SequenceModelSummary(ModelIdentity):
    """A model of sequences, which `generate` and `score` ask."""

    versions: VersionDigests
    sampler: SamplerDescription
    input: SequenceInput
    backbone: None = None
    task: SequenceTask


class SequenceTargetDescription(BaseModel):
    num_weights: int
    size: CellSize = Field(description="Sizes of the recurrent network.")
    source: str = Field(description="Python source that creates the network.")
    parameters: dict[str, list[int]] = Field(description="Shapes of the parameters, by state_dict key.")


class SequenceModelDescription(SequenceModelSummary):
    target: SequenceTargetDescription
    training: dict[str, Any]
    calibration: dict[str, Any] | None = Field(description="Thresholds for foreign passages, and their measurement.")
    metrics: dict[str, Any] | None = Field(description="Measurements from the model card.")
    examples: list[ExampleDescription] = []


class RefusedModel(BaseModel):
    name: str
    reason: str


class RequestLimits(BaseModel):
    """What a request may hold at most."""

    max_inputs: int = Field(description="Most inputs in a request.")
    max_body_bytes: int = Field(description="Most bytes of a request's body.")
    max_image_pixels: int = Field(description="Most pixels of an image; a JPEG may have twice as many.")
    max_request_pixels: int = Field(description="Most pixels of all images in a request; those of a JPEG count half.")


class ModelsAnswer(BaseModel):
    default: str
    limits: RequestLimits
    models: list[ModelSummary | SequenceModelSummary] = Field(
        description="Served models, the default first. Those of sequences have a task of kind `sequence`."
    )
    refused: list[RefusedModel] = Field(description="Checkpoints that could not be loaded.")


class ReloadAnswer(BaseModel):
    model: ModelIdentity = Field(description="The version that is served now.")
    changed: bool = Field(description="Whether the version differs from the previous one.")


class HealthAnswer(BaseModel):
    status: Literal["live", "ready"]
    warnings: list[str] | None = Field(default=None, description="Problems to fix, although requests are answered.")
