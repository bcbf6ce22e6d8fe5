"""Metrics of a checkpoint on its test set: the contents of `metrics.json`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from models.checkpoint import Checkpoint
from models.checkpoint_files import dump_json, write_file
from models.precision import Precision
from models.predictions.prediction import ScoreName
from models.tasks.kind import Flag
from training.evaluation.summaries import Share, Spread


@dataclass(frozen=True)
class SingleMetrics:
    """Metrics of single networks."""

    accuracy_mean: float
    accuracy_std: float
    accuracy_min: float
    accuracy_max: float
    nll: float


@dataclass(frozen=True)
class ProbabilityMetrics:
    """Metrics of class probabilities."""

    nll: float
    brier: float
    ece: float
    """Expected calibration error with 15 bins of equal width."""
    adaptive_ece: float
    """The same with 15 bins of equally many inputs."""


@dataclass(frozen=True)
class EnsembleMetrics:
    """Metrics of ensembles of one size, which average probabilities; means over disjoint ensembles."""

    size: int
    ensembles: int
    accuracy: float
    aurc: float
    """Area under the risk–coverage curve by predictive entropy."""
    plain: ProbabilityMetrics
    temperature: float
    """The temperature calibrated for this size."""
    tempered: ProbabilityMetrics
    augrc: float | None = None
    """Area under the generalised risk–coverage curve by predictive entropy. None in older files, like the next."""
    coverage_at_1_risk: float | None = None
    """Largest share of inputs of which at most 1 % are answered wrongly, accepted by predictive entropy."""


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of the whole ensemble on the test inputs of one class."""

    name: str
    recall: Share | None
    """Share of them that are answered correctly; None if there are no such inputs."""


@dataclass(frozen=True)
class FlagMetrics:
    """Metrics of a flag at one budget of false alarms."""

    flag: Flag
    rate: float
    """The budget."""
    flagged: float
    """Share of test inputs for which it is raised."""


@dataclass(frozen=True)
class GrowthMetrics:
    """Metrics of ensembles that stop growing when an input is settled, at one budget of false alarms."""

    rate: float
    """The budget."""
    networks: float
    """Mean number of networks."""
    quantiles: tuple[float, float]
    """Numbers of networks that half and that 95 % of the inputs need at most."""
    differing: float
    """Share of inputs whose label or a flag differs from that by a whole ensemble of another seed."""
    usually_differing: float
    """Share of inputs for which two whole ensembles of other seeds differ so."""
    accuracy: float
    nll: float
    """At the temperatures of the ensembles' sizes."""
    whole_accuracy: float
    whole_nll: float


@dataclass(frozen=True)
class ForeignGrowthMetrics:
    """Metrics of ensembles that stop growing on outliers, at the default budget."""

    networks: float
    """Mean number of networks."""
    auroc: float
    """By predictive entropy."""
    whole_auroc: float
    flagged: float
    """Share flagged as out of distribution."""


@dataclass(frozen=True)
class WholeMetrics:
    """Metrics of the whole ensemble on the test inputs, in some precision."""

    accuracy: float
    nll: float
    """In nats, at the calibrated temperature."""
    flagged: dict[Flag, float]
    """Share for which each flag is raised, at the default budget."""


@dataclass(frozen=True)
class RoundedOutlierMetrics:
    """Metrics of the whole ensemble on outliers, told from the test inputs, in float32 and in another precision."""

    dataset: str
    exact_auroc: float
    """By predictive entropy."""
    auroc: float
    exact_flagged: float
    """Share flagged as out of distribution, at the default budget."""
    flagged: float


@dataclass(frozen=True)
class RoundingMetrics:
    """What another precision than float32 changes, by the same members of the same seed."""

    precision: Precision
    differing: float
    """Share of test inputs whose label, or a flag at the default budget, is another."""
    mean_change: float
    """Mean absolute change of the predictive entropy, in nats."""
    largest_change: float
    exact: WholeMetrics
    """In float32."""
    rounded: WholeMetrics
    outliers: tuple[RoundedOutlierMetrics, ...]


@dataclass(frozen=True)
class SetMetrics:
    """Metrics of prediction sets at one coverage."""

    coverage: float
    """The nominal coverage."""
    covered: float
    """Share of test inputs whose set holds their label."""
    size: float
    """Mean number of classes."""


@dataclass(frozen=True)
class IntervalMetrics:
    """Metrics of prediction intervals at one coverage."""

    coverage: float
    """The nominal coverage."""
    covered: float
    """Share of test inputs whose intervals hold their numbers."""
    width: float
    """Mean width, in the outputs' own units."""


@dataclass(frozen=True)
class SeparationMetrics:
    """Metrics of how well a score tells outliers from test inputs."""

    auroc: float
    aupr: float
    id_flagged_at_95_ood: float
    """Share of test inputs above the threshold that 95 % of the outliers exceed."""
    ood_missed_at_5_id: float
    """Share of outliers below the threshold that 5 % of the test inputs exceed."""


@dataclass(frozen=True)
class OutlierMetrics:
    """Metrics of a set of outliers, told from the test inputs."""

    dataset: str
    inputs: int
    mutual_information: float
    scores: dict[ScoreName, SeparationMetrics]
    """Separation by each score of the whole ensemble."""
    by_size: dict[int, SeparationMetrics]
    """Separation by predictive entropy, by the number of networks in the ensemble."""
    flagged: dict[Flag, float]
    """Share for which each flag is raised, at the default budget."""
    flagged_by_any: float
    growth: ForeignGrowthMetrics | None = None


@dataclass(frozen=True)
class ClassificationMetrics:
    """Metrics of a classifier. Shares lie in [0, 1], and entropies are in nats."""

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
    """Share of test inputs for which any flag is raised, at the default budget."""
    sets: tuple[SetMetrics, ...]
    layer_norms: dict[str, Spread]
    """2-norm of a layer's weights and biases together, over sampled networks (HyperGAN, Table 1)."""
    outliers: tuple[OutlierMetrics, ...]
    classes: tuple[ClassMetrics, ...] = ()
    """Empty in older files, which lack these metrics; the next two are None there."""
    majority_accuracy: float | None = None
    """Accuracy of always answering the most frequent class of the test set."""
    balanced_accuracy: float | None = None
    """Mean recall of the classes by the whole ensemble."""
    growth: tuple[GrowthMetrics, ...] = ()
    """For each rate with a rule for when ensembles stop growing."""
    rounding: RoundingMetrics | None = None
    """None unless another precision was measured, too."""
    version: str | None = None
    """Version of the checkpoint that was measured; None in older files."""
    kind: Literal["classification"] = "classification"

    @property
    def whole(self) -> EnsembleMetrics:
        """The metrics of the ensemble of all networks."""
        return self.ensembles[-1]


@dataclass(frozen=True)
class BeyondMetrics:
    """Metrics of a regression where there was no data; the whole ensemble tells these inputs from the test inputs."""

    dataset: str
    inputs: int
    deviation: float
    """Root mean square of the members' standard deviations."""
    auroc: float
    flagged: float


@dataclass(frozen=True)
class RegressionMetrics:
    """Metrics of a regression. Errors and deviations are in the outputs' own units."""

    test_inputs: int
    networks: int
    seed: int
    single_error: float
    """Root mean square error of a single network."""
    ensemble_error: float
    """Root mean square error of the mean of all networks."""
    nll: float
    """NLL per test example of the mixture of the members' normal distributions, in nats."""
    covered: float
    """Share of test examples within three standard deviations of the predictive mean."""
    deviation: float
    """Root mean square of the members' standard deviations."""
    flags: tuple[FlagMetrics, ...]
    layer_norms: dict[str, Spread]
    beyond: tuple[BeyondMetrics, ...]
    version: str | None = None
    """Version of the checkpoint that was measured; None in older files."""
    intervals: tuple[IntervalMetrics, ...] = ()
    kind: Literal["regression"] = "regression"


@dataclass(frozen=True)
class PeakMetrics:
    """Metrics of how close sampled points come to one peak of a density."""

    position: tuple[float, float]
    distance: float
    """Distance from the peak to the nearest sampled point."""
    density: float
    """Largest density of a sampled point near the peak, relative to the peak's; 0 if no point is near."""


@dataclass(frozen=True)
class DensityMetrics:
    """Metrics of a sampler that was fitted to a density over weights."""

    networks: int
    seed: int
    density: float
    """Mean density of sampled points."""
    entropy: float
    """Entropy of the points along their one-dimensional curve, in nats."""
    passed: int
    """Number of peaks with a sampled point near them."""
    peaks: tuple[PeakMetrics, ...]
    kind: Literal["density"] = "density"


Metrics = Annotated[ClassificationMetrics | RegressionMetrics | DensityMetrics, Field(discriminator="kind")]
"""The contents of `metrics.json`."""


def keep_sets(metrics: Metrics, earlier: Metrics | None) -> Metrics:
    """Adds earlier metrics on other sets of outliers, if they are of the same version of the checkpoint."""
    match metrics, earlier:
        case ClassificationMetrics(), ClassificationMetrics() if earlier.version in (None, metrics.version):
            outliers = {row.dataset: row for row in (*earlier.outliers, *metrics.outliers)}
            rounding = metrics.rounding or earlier.rounding
            return replace(metrics, outliers=tuple(outliers.values()), rounding=rounding)
        case RegressionMetrics(), RegressionMetrics() if earlier.version in (None, metrics.version):
            beyond = {row.dataset: row for row in (*earlier.beyond, *metrics.beyond)}
            return replace(metrics, beyond=tuple(beyond.values()))
    return metrics


def save_metrics(directory: Path, metrics: Metrics) -> None:
    """Writes metrics.json."""
    write_file(directory / "metrics.json", dump_json(metrics))


def load_metrics(checkpoint: Checkpoint) -> Metrics | None:
    """Reads the metrics that were saved with a checkpoint, if any.

    Raises:
        ValueError: if they have another format.
    """
    if checkpoint.metrics is None:
        return None
    try:
        metrics: Metrics = TypeAdapter(Metrics).validate_python(checkpoint.metrics)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise ValueError(
            f"metrics.json cannot be read ({reason}); delete it, and evaluate the checkpoint again"
        ) from error
    return metrics
