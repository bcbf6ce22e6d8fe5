"""Answers of the service, as dataclasses of numpy arrays.

Shapes: S networks, B inputs, K classes or numbers. The axis of inputs comes first, except in `members`. An answer for
one input, from `answer[i]` or from iteration, lacks this axis.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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
    """Name and version of a model."""

    name: str
    version: str
    """SHA-256 of the checkpoint."""
    method: str


@dataclass(frozen=True)
class ModelSummary(ModelIdentity):
    """What a user of a model needs to know."""

    sampler: Mapping[str, Any]
    """`fresh_draws` says whether each seed gives new networks. Otherwise there are only `num_networks`."""
    input: Mapping[str, Any]
    """`kind`, image with `channels`, `height` and `width`, or vector with `names`, both with `mean` and `std`; or table
    with `columns`."""
    backbone: Mapping[str, Any] | None
    """The pretrained network whose features the networks take instead of images, if any: `source` and more."""
    task: Mapping[str, Any]
    """`kind`, classification with `classes`, or regression with `names`."""
    versions: Mapping[str, str] | None = field(default=None, kw_only=True)
    """Versions that are served, by their names: `stable`, `candidate` and `previous`. None from an older service."""


@dataclass(frozen=True)
class ModelDescription(ModelSummary):
    """Everything that the service says about a model."""

    target: Mapping[str, Any]
    """`num_weights`, `parameters` (shapes by name) and `source` (Python code of the `network` to load them into)."""
    training: Mapping[str, Any]
    calibration: Mapping[str, Any] | None
    metrics: Mapping[str, Any] | None
    examples: Sequence[Mapping[str, Any]] = ()
    """Images to try: `file`, which `Client.example` downloads, `media_type`, `caption`, `source` and `licence`."""


@dataclass(frozen=True)
class RequestLimits:
    """What a request may hold at most."""

    max_inputs: int
    max_body_bytes: int
    max_image_pixels: int
    max_request_pixels: int
    """Most pixels of all images together."""


@dataclass(frozen=True)
class ModelList:
    """The models of a service."""

    default: str
    models: tuple[ModelSummary, ...]
    """The models; the default comes first."""
    refused: Mapping[str, str]
    """Reasons why checkpoints could not be loaded, by name."""
    limits: RequestLimits | None
    """None if the service is older than its limits' publication."""


@dataclass(frozen=True)
class Reload:
    """Result of a reload."""

    model: ModelIdentity
    changed: bool
    """Whether the version changed."""


@dataclass(frozen=True, eq=False)
class Flag:
    """Scores and their calibrated threshold."""

    flagged: NDArray[np.bool_]
    """[B]."""
    scores: Floats
    """[B]."""
    threshold: float | Floats
    """[B] where ensembles grew."""
    score_name: str
    false_alarm_rate: float
    """Share of inputs like the training data that the threshold flags."""
    calibrated_ensemble_size: int | NDArray[np.int64]
    """[B] where ensembles grew."""
    calibration_inputs: int


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Uncertainty of the networks' probabilities before the temperature, each [B].

    All are in nats, except `variation_ratio` and `max_probability`.
    """

    predictive_entropy: Floats
    """Entropy of the mean probabilities: all uncertainty."""
    expected_entropy: Floats
    """Mean of the networks' entropies: the ambiguity that they agree on, the aleatoric part."""
    mutual_information: Floats
    """Difference of the two: the disagreement of the networks, the epistemic part."""
    variation_ratio: Floats
    """Share of networks that do not vote for the most frequent class."""
    max_probability: Floats
    """1 − the largest mean probability."""
    energy: Floats
    """−ln Σ exp of the mean logits."""


@dataclass(frozen=True, eq=False, kw_only=True)
class _Answer:
    """Common parts of both kinds of prediction."""

    model: ModelIdentity
    seed: int
    """The same seed and version give the same answer."""
    ensemble_size: int | NDArray[np.int64]
    """S, or with `ensemble_size="auto"` the number of networks that each input was asked of, [B]."""
    precision: str | None
    """Precision of the networks and their products: float32 or bfloat16; None if the service is older."""
    flags: Mapping[str, Flag]
    """`out_of_distribution` and `suspect_adversarial`; empty if the model is not calibrated."""
    members: Floats | None
    """[S, B, K], prediction of each network, if requested."""
    request_ids: NDArray[np.str_] | None = None
    """[B], ids of the requests that were answered, which `Client.label` takes; None if a proxy removed them."""
    request_indices: NDArray[np.int64] | None = None
    """[B], number of each input in its request."""

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
        """[B, K]; each kind of prediction has its own."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False, kw_only=True)
class Classification(_Answer):
    """Class probabilities, and how uncertain they are."""

    classes: tuple[str, ...]
    """K names."""
    probabilities: Floats
    """[B, K], mean over the networks, at the calibrated temperature."""
    temperature: float | None
    """None if the model is not calibrated, or if ensembles grew: then each size has its own."""
    uncertainty: Uncertainty
    prediction_sets: NDArray[np.bool_] | None
    """[B, K], classes in the set that contains the true class with probability `coverage`, if requested."""
    coverage: float | None

    @property
    def class_indices(self) -> NDArray[np.intp]:
        """[B], indices of the most probable classes."""
        indices: NDArray[np.intp] = self.probabilities.argmax(-1)
        return indices

    @property
    def labels(self) -> NDArray[np.str_]:
        """[B], names of the most probable classes."""
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
    """[B, K], square root of the variance."""
    variance: Floats
    """[B, K], all uncertainty: the sum of the two variances below."""
    noise_variance: Floats
    """[B, K], variance of observations around their expectation, the aleatoric part."""
    epistemic_variance: Floats
    """[B, K], variance of the networks' expectations, the epistemic part."""
    relative_deviation: Floats
    """[B], square root of the mean over the K numbers of epistemic variance / variance in the training data."""
    interval_lower: Floats | None
    interval_upper: Floats | None
    """[B, K], ends of the interval that contains the number with probability `coverage`, if requested."""
    coverage: float | None

    @property
    def _mean(self) -> Floats:
        return self.mean


Prediction = Classification | Regression


@dataclass(frozen=True, eq=False)
class Sample(Generic[Array]):
    """Sampled networks, and their origin."""

    weights: dict[str, Array]
    """Arrays by the target's `state_dict` keys, with a leading axis of networks if a `count` was given."""
    model: str
    version: str
    seed: int
    members: range
    """Numbers of the networks among those of the seed."""
    metadata: Mapping[str, str]
    """Metadata of the file, among them `target` (Python source of `network`), `input` and `task` (JSON)."""


@dataclass(frozen=True)
class Download:
    """A file of sampled networks, and their origin."""

    path: Path | None
    """None if an open file was given."""
    size: int
    """Number of bytes."""
    model: str
    version: str
    seed: int
    members: range


@contextmanager
def explain_answers() -> Iterator[None]:
    """Turns errors from reading a malformed answer into `InvalidAnswer`."""
    try:
        yield
    except (ValueError, LookupError, TypeError) as error:
        message = f"The answer is not as expected: {type(error).__name__} {error}."
        hint = "Check the address, and whether the service has the client's version."
        raise InvalidAnswer(message, hint) from error


def read_model_list(content: bytes) -> ModelList:
    """Reads the list of models from the service's JSON."""
    with explain_answers():
        answer = json.loads(content)
        models = tuple(read_fields(ModelSummary, model) for model in answer["models"])
        refused = {each["name"]: each["reason"] for each in answer["refused"]}
        limits = read_fields(RequestLimits, answer["limits"]) if "limits" in answer else None
        return ModelList(answer["default"], models, refused, limits)


def read_model(content: bytes) -> ModelDescription:
    """Reads a description from the service's JSON."""
    with explain_answers():
        return read_fields(ModelDescription, json.loads(content))


def read_reload(content: bytes) -> Reload:
    """Reads the result of a reload from the service's JSON."""
    with explain_answers():
        answer = json.loads(content)
        return Reload(read_fields(ModelIdentity, answer["model"]), answer["changed"])


def read_prediction(file: TensorFile, request_id: str | None) -> Prediction:
    """Reads a prediction from the service's tensors, which answer a request."""
    with explain_answers():
        arrays: dict[str, Any] = file.arrays()
        metadata = file.metadata
        ensemble, task = json.loads(metadata["ensemble"]), json.loads(metadata["task"])
        flags = {
            flag: read_fields(Flag, details | _read_flag(flag, arrays))
            for flag, details in json.loads(metadata["flags"]).items()
        }
        content = arrays | {
            "model": read_fields(ModelIdentity, json.loads(metadata["model"])),
            "seed": ensemble["seed"],
            "ensemble_size": arrays.get("ensemble_size", ensemble["size"]),
            "precision": ensemble.get("precision"),
            "flags": flags,
            "members": arrays.get("members"),
        }
        content["coverage"] = float(metadata["coverage"]) if "coverage" in metadata else None
        if request_id is not None:
            inputs = len(next(array for name, array in arrays.items() if name != "members"))
            content |= {"request_ids": np.full(inputs, request_id), "request_indices": np.arange(inputs)}
        if task["kind"] == "regression":
            ends = {f"interval_{end}": arrays.get(f"interval.{end}") for end in ("lower", "upper")}
            return read_fields(Regression, content | ends | {"names": tuple(task["names"])})
        content |= {
            "classes": tuple(task["classes"]),
            "temperature": ensemble.get("temperature"),
            "prediction_sets": arrays.get("prediction_set"),
            "uncertainty": read_fields(Uncertainty, arrays),
        }
        return read_fields(Classification, content)


def _read_flag(flag: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """What the tensors say of a flag: all that differs from input to input."""
    found = {"flagged": arrays[f"flags.{flag}.flagged"], "scores": arrays[f"flags.{flag}.score"]}
    if (threshold := arrays.get(f"flags.{flag}.threshold")) is not None:
        found |= {"threshold": threshold, "calibrated_ensemble_size": arrays["ensemble_size"]}
    return found


def join_predictions(parts: Sequence[Prediction]) -> Prediction:
    """One answer from several of the same networks of a model, whose inputs follow one another."""
    first = parts[0]
    values = {name: _join([getattr(part, name) for part in parts]) for name in vars(first) if name != "members"}
    members = None if first.members is None else np.concatenate([part.members for part in parts], axis=1)
    return dataclasses.replace(first, **values, members=members)


def read_sample(weights: dict[str, Array], metadata: Mapping[str, str]) -> Sample[Array]:
    """Reads a sample from the parts of a file."""
    with explain_answers():
        first, _, last = metadata["members"].partition("-")
        members, seed = range(int(first), int(last) + 1), int(metadata["seed"])
        return Sample(weights, metadata["checkpoint"], metadata["version"], seed, members, metadata)


def read_fields(kind: type[Known], content: Mapping[str, Any]) -> Known:
    """A dataclass from the values of its fields. Other values, which a later service may add, are left out. An earlier
    service may lack those of fields with a default."""
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]  # it is a dataclass
    names = [f.name for f in fields if f.name in content or f.default is dataclasses.MISSING]
    return kind(**{name: content[name] for name in names})


def _pick(value: Any, chosen: int | slice) -> Any:
    """The part of an answer that belongs to some inputs."""
    if isinstance(value, np.ndarray):
        return value[chosen]
    if isinstance(value, Flag | Uncertainty):
        return type(value)(**{name: _pick(part, chosen) for name, part in vars(value).items()})
    if isinstance(value, dict):
        return {name: _pick(part, chosen) for name, part in value.items()}
    return value


def _join(values: Sequence[Any]) -> Any:
    """The value of all inputs, from those of successive ones."""
    first = values[0]
    if isinstance(first, np.ndarray):
        return np.concatenate(values)
    if isinstance(first, Flag | Uncertainty):
        return type(first)(**{name: _join([getattr(value, name) for value in values]) for name in vars(first)})
    if isinstance(first, dict):
        return {name: _join([value[name] for value in values]) for name in first}
    return first
