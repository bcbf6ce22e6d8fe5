"""What the service answers, as dataclasses of numpy arrays.

Shapes: S networks, B inputs, K classes or numbers. The axis of inputs comes first, but for members; an answer that was
indexed, `answer[i]`, or iterated over is for one input, and lacks it.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from hyperdraw.errors import InvalidAnswer
from hyperdraw.tensors import TensorFile

Array = TypeVar("Array")
Known = TypeVar("Known")
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ModelIdentity:
    """Which model it is."""

    name: str
    version: str
    """SHA-256 of the checkpoint."""
    method: str


@dataclass(frozen=True)
class ModelSummary(ModelIdentity):
    """What one must know of a model to use it."""

    sampler: Mapping[str, Any]
    """`fresh_draws`: whether a new seed brings networks that nobody has seen; else `num_networks` there are."""
    input: Mapping[str, Any]
    """`kind` image, with `channels`, `height` and `width`, or vector, with `names`; `mean` and `std`."""
    task: Mapping[str, Any]
    """`kind` classification, with `classes`, or regression, with `names`."""


@dataclass(frozen=True)
class ModelDescription(ModelSummary):
    """All that is known of a model."""

    target: Mapping[str, Any]
    """`num_weights`, `parameters` (shapes by name) and `source`, Python that makes the `network` they load into."""
    training: Mapping[str, Any]
    calibration: Mapping[str, Any] | None
    metrics: Mapping[str, Any] | None


@dataclass(frozen=True)
class ModelList:
    """The models of a service."""

    default: str
    models: tuple[ModelSummary, ...]
    """The default first."""
    refused: Mapping[str, str]
    """Why checkpoints could not be loaded, by name."""


@dataclass(frozen=True)
class Reload:
    """What came of asking for a reload."""

    model: ModelIdentity
    changed: bool
    """Whether it is another version now."""


@dataclass(frozen=True, eq=False)
class Flag:
    """Scores against a calibrated threshold."""

    flagged: NDArray[np.bool_]
    """[B]."""
    scores: Floats
    """[B]."""
    threshold: float
    score_name: str
    false_alarm_rate: float
    """Share of inputs like the training data that the threshold flags."""
    calibrated_ensemble_size: int
    calibration_inputs: int


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Of the networks' probabilities, before any temperature; each [B], in nats but for the ratio and the maximum."""

    predictive_entropy: Floats
    """Of the mean probabilities: all uncertainty."""
    expected_entropy: Floats
    """Mean of the networks' entropies: ambiguity that they agree on, the aleatoric part."""
    mutual_information: Floats
    """The difference: their disagreement, the epistemic part."""
    variation_ratio: Floats
    """Share of networks that do not vote for the most chosen class."""
    max_probability: Floats
    """1 − the largest mean probability."""
    energy: Floats
    """−ln Σ exp of the mean logits."""


@dataclass(frozen=True, eq=False, kw_only=True)
class _Answer:
    """What both kinds of prediction have."""

    model: ModelIdentity
    seed: int
    """The same seed and version give the same answer."""
    ensemble_size: int
    """S."""
    flags: Mapping[str, Flag]
    """`out_of_distribution` and `suspect_adversarial`; none if the model has no calibration."""
    members: Floats | None
    """[S, B, K], what each network predicts, if asked for."""

    def __len__(self) -> int:
        mean = self._mean
        if mean.ndim == 1:
            raise TypeError("an answer for one input has no length")
        return len(mean)

    def __getitem__(self, chosen: int | slice) -> Self:
        len(self)
        values = {name: _pick(value, chosen) for name, value in vars(self).items() if name != "members"}
        return type(self)(**values, members=None if self.members is None else self.members[:, chosen])

    def __iter__(self) -> Iterator[Self]:
        return (self[i] for i in range(len(self)))

    @property
    def _mean(self) -> Floats:
        """[B, K]; each kind of answer has its own."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False, kw_only=True)
class Classification(_Answer):
    """Class probabilities, and what they are worth."""

    classes: tuple[str, ...]
    """K names."""
    probabilities: Floats
    """[B, K], the mean of the networks', at the calibrated temperature."""
    temperature: float | None
    """None if the model has no calibration."""
    uncertainty: Uncertainty
    prediction_sets: NDArray[np.bool_] | None
    """[B, K], which classes are in the set that holds the true one with probability `coverage`, if asked for."""
    coverage: float | None

    @property
    def class_indices(self) -> NDArray[np.intp]:
        """[B], the most probable classes."""
        indices: NDArray[np.intp] = self.probabilities.argmax(-1)
        return indices

    @property
    def labels(self) -> NDArray[np.str_]:
        """[B], their names."""
        labels: NDArray[np.str_] = np.array(self.classes)[self.class_indices]
        return labels

    @property
    def _mean(self) -> Floats:
        return self.probabilities


@dataclass(frozen=True, eq=False, kw_only=True)
class Regression(_Answer):
    """The predictive distribution of K numbers, in their own units."""

    names: tuple[str, ...]
    """K."""
    mean: Floats
    """[B, K]."""
    standard_deviation: Floats
    """[B, K], root of the variance."""
    variance: Floats
    """[B, K], all uncertainty: the sum of the two below."""
    noise_variance: Floats
    """[B, K], of observations around their expectation, the aleatoric part."""
    epistemic_variance: Floats
    """[B, K], of the networks' expectations: their disagreement."""
    relative_deviation: Floats
    """[B], the root of the epistemic variance in units of the numbers' variance in training, averaged over them."""

    @property
    def _mean(self) -> Floats:
        return self.mean


Prediction = Classification | Regression


@dataclass(frozen=True, eq=False)
class Sample(Generic[Array]):
    """Sampled networks, and where they come from."""

    weights: dict[str, Array]
    """By the target's `state_dict` keys; with a leading axis of networks if a `count` was asked for."""
    model: str
    version: str
    seed: int
    members: range
    """Which networks of the seed."""
    metadata: Mapping[str, str]
    """The file's: also `target` (Python source of `network`), `input` and `task` (JSON)."""


@dataclass(frozen=True)
class Download:
    """A file of sampled networks, and where they come from."""

    path: Path | None
    """None of a file that was open."""
    size: int
    """Bytes."""
    model: str
    version: str
    seed: int
    members: range


@contextmanager
def explain_answers() -> Iterator[None]:
    """Turns what comes of reading an answer that is not as it should be into `InvalidAnswer`."""
    try:
        yield
    except (ValueError, LookupError, TypeError) as error:
        message = f"The answer is not as expected: {type(error).__name__} {error}."
        raise InvalidAnswer(message, "Is the address right, and is the service of the client's version?") from error


def read_model_list(content: bytes) -> ModelList:
    """From the service's JSON."""
    with explain_answers():
        answer = json.loads(content)
        models = tuple(_read(ModelSummary, model) for model in answer["models"])
        return ModelList(answer["default"], models, {each["name"]: each["reason"] for each in answer["refused"]})


def read_model(content: bytes) -> ModelDescription:
    """From the service's JSON."""
    with explain_answers():
        return _read(ModelDescription, json.loads(content))


def read_reload(content: bytes) -> Reload:
    """From the service's JSON."""
    with explain_answers():
        answer = json.loads(content)
        return Reload(_read(ModelIdentity, answer["model"]), answer["changed"])


def read_prediction(file: TensorFile) -> Prediction:
    """From the service's tensors."""
    with explain_answers():
        arrays: dict[str, Any] = file.arrays()
        metadata = file.metadata
        ensemble, task = json.loads(metadata["ensemble"]), json.loads(metadata["task"])
        flags = {
            flag: _read(
                Flag, details | {"flagged": arrays[f"flags.{flag}.flagged"], "scores": arrays[f"flags.{flag}.score"]}
            )
            for flag, details in json.loads(metadata["flags"]).items()
        }
        content = arrays | {
            "model": _read(ModelIdentity, json.loads(metadata["model"])),
            "seed": ensemble["seed"],
            "ensemble_size": ensemble["size"],
            "flags": flags,
            "members": arrays.get("members"),
        }
        if task["kind"] == "regression":
            return _read(Regression, content | {"names": tuple(task["names"])})
        content |= {
            "classes": tuple(task["classes"]),
            "temperature": ensemble.get("temperature"),
            "prediction_sets": arrays.get("prediction_set"),
            "coverage": float(metadata["coverage"]) if "coverage" in metadata else None,
            "uncertainty": _read(Uncertainty, arrays),
        }
        return _read(Classification, content)


def read_sample(weights: dict[str, Array], metadata: Mapping[str, str]) -> Sample[Array]:
    """From a file's parts."""
    with explain_answers():
        first, _, last = metadata["members"].partition("-")
        members, seed = range(int(first), int(last) + 1), int(metadata["seed"])
        return Sample(weights, metadata["checkpoint"], metadata["version"], seed, members, metadata)


def _read(kind: type[Known], content: Mapping[str, Any]) -> Known:
    """A dataclass from its fields' values; what a later service adds to them is left out."""
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]  # it is a dataclass
    return kind(**{name: content[name] for name in names})


def _pick(value: Any, chosen: int | slice) -> Any:
    """The part of an answer that is about some inputs."""
    if isinstance(value, np.ndarray):
        return value[chosen]
    if isinstance(value, Flag | Uncertainty):
        return type(value)(**{name: _pick(part, chosen) for name, part in vars(value).items()})
    if isinstance(value, dict):
        return {name: _pick(part, chosen) for name, part in value.items()}
    return value
