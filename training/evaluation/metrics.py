"""What `metrics.json` holds: how good a checkpoint is on its test set."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from models.checkpoint import Checkpoint, dump_json, write_file
from models.predictions.prediction import ScoreName
from models.tasks.kind import Flag
from training.evaluation.summaries import Share, Spread


@dataclass(frozen=True)
class SingleMetrics:
    """Single networks, one by one."""

    accuracy_mean: float
    accuracy_std: float
    accuracy_min: float
    accuracy_max: float
    nll: float


@dataclass(frozen=True)
class ProbabilityMetrics:
    """Of class probabilities."""

    nll: float
    brier: float
    ece: float
    """Expected calibration error, 15 bins of equal width."""
    adaptive_ece: float
    """The same, 15 bins of equally many inputs."""


@dataclass(frozen=True)
class EnsembleMetrics:
    """Ensembles of one size that average probabilities; means over disjoint ensembles."""

    size: int
    ensembles: int
    accuracy: float
    aurc: float
    """Area under the risk–coverage curve, by predictive entropy."""
    plain: ProbabilityMetrics
    temperature: float
    """That was calibrated for this size."""
    tempered: ProbabilityMetrics


@dataclass(frozen=True)
class ClassMetrics:
    """The test inputs of one class, by the whole ensemble."""

    name: str
    recall: Share | None
    """Of them that are answered rightly; none where there are no such inputs."""


@dataclass(frozen=True)
class FlagMetrics:
    """A flag at one budget of false alarms."""

    flag: Flag
    rate: float
    """The budget."""
    flagged: float
    """Share of the test inputs for which it is raised."""


@dataclass(frozen=True)
class SetMetrics:
    """Prediction sets at one coverage."""

    coverage: float
    """That was asked for."""
    covered: float
    """Share of the test inputs whose set holds their label."""
    size: float
    """Mean number of classes."""


@dataclass(frozen=True)
class SeparationMetrics:
    """How well a score tells outliers from test inputs."""

    auroc: float
    aupr: float
    id_flagged_at_95_ood: float
    """Share of test inputs above the threshold that 95 % of the outliers exceed."""
    ood_missed_at_5_id: float
    """Share of outliers below the threshold that 5 % of the test inputs exceed."""


@dataclass(frozen=True)
class OutlierMetrics:
    """Inputs of another kind, told apart from the test inputs."""

    dataset: str
    inputs: int
    mutual_information: float
    scores: dict[ScoreName, SeparationMetrics]
    """By the whole ensemble."""
    by_size: dict[int, SeparationMetrics]
    """By the predictive entropy of the first networks alone."""
    flagged: dict[Flag, float]
    """Share for which a flag is raised, at the default budget."""
    flagged_by_any: float


@dataclass(frozen=True)
class ClassificationMetrics:
    """Shares lie in [0, 1], entropies are in nats."""

    test_inputs: int
    networks: int
    seed: int
    single: SingleMetrics
    ensembles: tuple[EnsembleMetrics, ...]
    disagreement: float
    """Share of test inputs on which two sampled networks differ."""
    mutual_information: float
    flags: tuple[FlagMetrics, ...]
    flagged_by_any: float
    """Share of test inputs for which some flag is raised, at the default budget."""
    sets: tuple[SetMetrics, ...]
    layer_norms: dict[str, Spread]
    """2-norm of a layer's weights and biases together, over sampled networks (HyperGAN, Table 1)."""
    outliers: tuple[OutlierMetrics, ...]
    classes: tuple[ClassMetrics, ...] = ()
    """None where the metrics are older than these figures; so are the next."""
    majority_accuracy: float | None = None
    """Of always answering the class that most test inputs are of."""
    balanced_accuracy: float | None = None
    """Mean recall of the classes, by the whole ensemble."""
    version: str | None = None
    """The checkpoint's, when it was measured; files of earlier versions of this program do not say it."""
    kind: Literal["classification"] = "classification"

    @property
    def whole(self) -> EnsembleMetrics:
        """The ensemble of all networks."""
        return self.ensembles[-1]


@dataclass(frozen=True)
class BeyondMetrics:
    """Inputs of a regression from where there was no data, told apart from the test inputs by the whole ensemble."""

    dataset: str
    inputs: int
    deviation: float
    """Root mean square of the members' standard deviation."""
    auroc: float
    flagged: float


@dataclass(frozen=True)
class RegressionMetrics:
    """Errors and deviations are in the outputs' own units."""

    test_inputs: int
    networks: int
    seed: int
    single_error: float
    """Root mean square error of a single network."""
    ensemble_error: float
    """Root mean square error of the mean of all networks."""
    nll: float
    """Of the mixture of the members' normal distributions, a test example, in nats."""
    covered: float
    """Share of test examples within three standard deviations of the predictive mean."""
    deviation: float
    """Root mean square of the members' standard deviation."""
    flags: tuple[FlagMetrics, ...]
    layer_norms: dict[str, Spread]
    beyond: tuple[BeyondMetrics, ...]
    version: str | None = None
    """The checkpoint's, when it was measured; files of earlier versions of this program do not say it."""
    kind: Literal["regression"] = "regression"


@dataclass(frozen=True)
class PeakMetrics:
    """How close sampled points come to one peak of a density."""

    position: tuple[float, float]
    distance: float
    """From the peak to the sampled point that is nearest."""
    density: float
    """The largest density of a sampled point near the peak, or 0, relative to the peak's own."""


@dataclass(frozen=True)
class DensityMetrics:
    """Of a sampler that was fitted to a density over weights."""

    networks: int
    seed: int
    density: float
    """Mean over sampled points."""
    entropy: float
    """Of the points along their one-dimensional curve, in nats."""
    passed: int
    """Peaks with a sampled point near them."""
    peaks: tuple[PeakMetrics, ...]
    kind: Literal["density"] = "density"


Metrics = Annotated[ClassificationMetrics | RegressionMetrics | DensityMetrics, Field(discriminator="kind")]
"""What `metrics.json` holds."""


def keep_sets(metrics: Metrics, earlier: Metrics | None) -> Metrics:
    """Metrics with those of foreign sets that were measured earlier on this version of a checkpoint, and not anew."""
    match metrics, earlier:
        case ClassificationMetrics(), ClassificationMetrics() if earlier.version in (None, metrics.version):
            outliers = {row.dataset: row for row in (*earlier.outliers, *metrics.outliers)}
            return replace(metrics, outliers=tuple(outliers.values()))
        case RegressionMetrics(), RegressionMetrics() if earlier.version in (None, metrics.version):
            beyond = {row.dataset: row for row in (*earlier.beyond, *metrics.beyond)}
            return replace(metrics, beyond=tuple(beyond.values()))
    return metrics


def save_metrics(directory: Path, metrics: Metrics) -> None:
    """Writes metrics.json."""
    write_file(directory / "metrics.json", dump_json(metrics))


def load_metrics(checkpoint: Checkpoint) -> Metrics | None:
    """The metrics that were saved with a checkpoint, if any.

    Raises:
        ValueError: if they have another form.
    """
    if checkpoint.metrics is None:
        return None
    try:
        metrics: Metrics = TypeAdapter(Metrics).validate_python(checkpoint.metrics)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise ValueError(f"metrics.json cannot be read ({reason}); delete it, and measure anew") from error
    return metrics
