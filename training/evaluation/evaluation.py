"""What a checkpoint is worth: figures on the test set, for the model card.

Shapes: S sampled networks, B inputs, K outputs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor

from models.checkpoint import Checkpoint, dump_json, write_file
from models.predictions.detection import Calibration, Flag, list_sizes
from models.predictions.prediction import Outputs, Prediction, ScoreName, evaluate, interpret, join_outputs
from models.targets.target import TargetNetwork, Weights
from models.tasks.task import Classification, Regression
from models.tasks.uncertainty import RegressionUncertainty, average_logits, measure_uncertainty
from training.data.datasets import Dataset, Examples, Mixture
from training.evaluation.metrics import (
    id_flagged_at_95_ood,
    measure_accuracy,
    measure_aupr,
    measure_aurc,
    measure_auroc,
    measure_brier,
    measure_ece,
    measure_nll,
    ood_missed_at_5_id,
)
from training.evaluation.shares import Share, measure_share
from training.objectives.objectives import entropy
from training.progress import open_bar, track

SEED = 0
PROMISE_SEEDS = range(2 * 10**15, 2 * 10**15 + 100)
"""Draws, each for a hundredth of the test inputs, that flags and prediction sets are judged with: what was promised is
promised on average over seeds, and the luck of a few would make a difference."""

INPUTS_PER_PART = 1024
"""That are evaluated between two looks at the clock."""

NEAR_PEAK = 1.0
"""Distance from the peak of a density; the mixture's Gaussians have a σ just above."""

SCORES: tuple[ScoreName, ...] = (
    "predictive_entropy",
    "mutual_information",
    "energy",
    "max_probability",
    "variation_ratio",
)
"""Uncertainties by which outliers are told apart."""


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
class Spread:
    """Mean and standard deviation."""

    mean: float
    std: float


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


def measure_disagreement(member_probabilities: Tensor) -> float:
    """Share of images on which two distinct members, drawn at random, choose different classes; from [S, B, K].

    0 of a single member, which nobody contradicts.
    """
    size, _, classes = member_probabilities.shape
    if size == 1:
        return 0.0
    counts = torch.nn.functional.one_hot(member_probabilities.argmax(-1), classes).sum(0).double()
    agreeing = (counts * (counts - 1)).sum(-1) / (size * (size - 1))
    return float(1 - agreeing.mean())


def measure_spread(weights: Weights) -> float:
    """Standard deviation of a weight over networks relative to the weights' root mean square, averaged over layers."""
    matrices = [tensor for name, tensor in weights.items() if name.endswith(".weight")]
    return _mean([(m.var(0).mean() / m.square().mean()).sqrt() for m in matrices])


def measure_ensembles(logits: Tensor, labels: Tensor, size: int, calibration: Calibration) -> EnsembleMetrics:
    """Metrics of the S // size disjoint ensembles among the members, [S, B, K], on labels [B]."""
    parts = [measure_uncertainty(part) for part in logits.split(size) if len(part) == size]
    logs = [average_logits(part.double()) for part in logits.split(size) if len(part) == size]
    wrong = [part.probabilities.argmax(-1) != labels for part in parts]
    return EnsembleMetrics(
        size=size,
        ensembles=len(parts),
        accuracy=_mean([measure_accuracy(part.probabilities, labels) for part in parts]),
        aurc=_mean([measure_aurc(p.predictive_entropy, w) for p, w in zip(parts, wrong, strict=True)]),
        plain=_measure_probabilities(logs, labels),
        temperature=calibration.temperature_for(size),
        tempered=_measure_probabilities([calibration.temper(part, size) for part in logs], labels),
    )


def measure_separation(inside: Tensor, outside: Tensor) -> SeparationMetrics:
    """How well scores tell m outliers, [m], from n inputs, [n]."""
    return SeparationMetrics(
        auroc=measure_auroc(inside, outside),
        aupr=measure_aupr(inside, outside),
        id_flagged_at_95_ood=id_flagged_at_95_ood(inside, outside),
        ood_missed_at_5_id=ood_missed_at_5_id(inside, outside),
    )


def evaluate_sets(
    checkpoint: Checkpoint, dataset: Dataset | Mixture, outliers: Mapping[str, Tensor]
) -> dict[str, Outputs]:
    """Outputs of the largest ensemble on each set, the test set's under `test`; none where a density was fitted.

    Args:
        checkpoint: to evaluate, as it is served.
        dataset: that it was trained on.
        outliers: inputs [B, …] of something else, by name.

    Raises:
        ValueError: if the checkpoint was made for inputs or for a task that are not the dataset's.
    """
    config = checkpoint.config
    if config.task != dataset.task:
        raise ValueError(f"a checkpoint for {config.task} cannot be evaluated on a dataset for {dataset.task}")
    if config.input.shape != dataset.input.shape:
        raise ValueError(f"a checkpoint for inputs {config.input.shape} cannot be evaluated on {dataset.input.shape}")
    if isinstance(dataset, Mixture):
        return {}
    sets = {"test": dataset.test.inputs, **outliers}
    outputs = {}
    with open_bar("evaluating", "input", sum(map(len, sets.values()))) as bar:
        for name, inputs in sets.items():
            parts = []
            for part in inputs.split(INPUTS_PER_PART):
                parts.append(evaluate_split(checkpoint, part))
                bar.update(len(part))
            outputs[name] = join_outputs(parts, dim=1)
    return outputs


def measure_checkpoint(checkpoint: Checkpoint, dataset: Dataset | Mixture, outputs: Mapping[str, Outputs]) -> Metrics:
    """Metrics of a checkpoint by what it was trained for.

    Args:
        checkpoint: calibrated, unless it was trained on a density.
        dataset: that it was trained on.
        outputs: by set, of `evaluate_sets`.
    """
    if isinstance(dataset, Mixture):
        return _measure_density(checkpoint, dataset)
    if isinstance(dataset.task, Classification):
        return _measure_classification(checkpoint, dataset.test, outputs)
    return _measure_regression(checkpoint, dataset.test, outputs)


def evaluate_split(checkpoint: Checkpoint, inputs: Tensor, seed: int = SEED) -> Outputs:
    """Outputs of the largest ensemble that is evaluated on inputs [B, …]."""
    config, sampler = checkpoint.config, checkpoint.sampler
    networks = sampler.limit_networks(config.training.largest_ensemble)
    return evaluate(sampler, config.input, config.task, inputs, seed, networks)


def evaluate_parts(checkpoint: Checkpoint, inputs: Tensor, seeds: Sequence[int], what: str = "evaluating") -> Outputs:
    """As `evaluate_split`, of inputs in equal parts, each with a draw of its own; fewer inputs take fewer draws."""
    shares = inputs.tensor_split(min(len(seeds), len(inputs)))
    parts = [
        evaluate_split(checkpoint, part, seed)
        for part, seed in track(list(zip(shares, seeds, strict=False)), what, "draw")
    ]
    return join_outputs(parts, dim=1)


def _measure_classification(
    checkpoint: Checkpoint, test: Examples, outputs: Mapping[str, Outputs]
) -> ClassificationMetrics:
    task, calibration, target = checkpoint.config.task, checkpoint.calibration, checkpoint.config.target
    assert isinstance(task, Classification)
    assert calibration is not None
    inside = outputs["test"]
    prediction = interpret(task, inside)
    networks = len(prediction.members)
    accuracies = (prediction.members.argmax(-1) == test.labels).double().mean(1)
    answers = interpret(task, evaluate_parts(checkpoint, test.inputs, PROMISE_SEEDS))
    classes = measure_classes(task.classes, prediction.probabilities.argmax(-1), test.labels)
    return ClassificationMetrics(
        test_inputs=len(test),
        networks=networks,
        seed=SEED,
        single=SingleMetrics(
            accuracy_mean=float(accuracies.mean()),
            accuracy_std=summarize(accuracies).std,
            accuracy_min=float(accuracies.min()),
            accuracy_max=float(accuracies.max()),
            nll=_mean([measure_nll(logits.double().log_softmax(-1), test.labels) for logits in inside.plain]),
        ),
        ensembles=tuple(
            measure_ensembles(inside.plain, test.labels, size, calibration) for size in list_sizes(networks)
        ),
        disagreement=measure_disagreement(prediction.members),
        mutual_information=float(prediction.score("mutual_information").mean()),
        flags=_measure_flags(calibration, answers),
        flagged_by_any=_share(_judge_any(calibration, answers)),
        sets=tuple(_measure_sets(calibration, answers, test.labels, 1 - rate) for rate in calibration.rates),
        layer_norms=measure_layer_norms(target, checkpoint.sampler.sample(SEED, range(networks))),
        outliers=tuple(
            _measure_outliers(calibration, task, name, inside, outside)
            for name, outside in outputs.items()
            if outside is not inside
        ),
        classes=classes,
        majority_accuracy=int(test.labels.bincount().max()) / len(test),
        balanced_accuracy=_mean([c.recall.share for c in classes if c.recall]),
        version=checkpoint.version,
    )


def measure_classes(classes: Sequence[str], answers: Tensor, labels: Tensor) -> tuple[ClassMetrics, ...]:
    """Recall of each class, from the class that is answered, [B], and labels [B]."""
    found = []
    for number, name in enumerate(classes):
        right = answers[labels == number] == number
        found.append(ClassMetrics(name, measure_share(_share(right), len(right)) if len(right) else None))
    return tuple(found)


def _measure_flags(calibration: Calibration, prediction: Prediction) -> tuple[FlagMetrics, ...]:
    return tuple(
        FlagMetrics(flag, rate, _share(judgement.flagged))
        for rate in calibration.rates
        for flag, judgement in calibration.judge(prediction, rate).items()
    )


def _measure_outliers(
    calibration: Calibration, task: Classification, name: str, inside: Outputs, outside: Outputs
) -> OutlierMetrics:
    networks = len(inside.plain)
    test, other = interpret(task, inside), interpret(task, outside)
    pairs = {
        size: [interpret(task, outputs.prefix(size)).score("predictive_entropy") for outputs in (inside, outside)]
        for size in list_sizes(networks)
    }
    return OutlierMetrics(
        dataset=name,
        inputs=outside.plain.shape[1],
        mutual_information=float(other.score("mutual_information").mean()),
        scores={score: measure_separation(test.score(score), other.score(score)) for score in SCORES},
        by_size={size: measure_separation(*pair) for size, pair in pairs.items()},
        flagged={flag: _share(judgement.flagged) for flag, judgement in calibration.judge(other).items()},
        flagged_by_any=_share(_judge_any(calibration, other)),
    )


def _measure_sets(calibration: Calibration, prediction: Prediction, labels: Tensor, coverage: float) -> SetMetrics:
    sets = calibration.choose_sets(prediction, coverage)
    covered = sets.members.gather(1, labels[:, None])
    return SetMetrics(sets.coverage, _share(covered), float(sets.members.double().sum(1).mean()))


def _measure_probabilities(logs: list[Tensor], labels: Tensor) -> ProbabilityMetrics:
    """Means over ensembles, each of which gives ln p, [B, K]."""
    ensembles = [part.exp() for part in logs]
    return ProbabilityMetrics(
        nll=_mean([measure_nll(part, labels) for part in logs]),
        brier=_mean([measure_brier(probabilities, labels) for probabilities in ensembles]),
        ece=_mean([measure_ece(probabilities, labels) for probabilities in ensembles]),
        adaptive_ece=_mean([measure_ece(probabilities, labels, adaptive=True) for probabilities in ensembles]),
    )


def _judge_any(calibration: Calibration, prediction: Prediction) -> Tensor:
    return torch.stack([judgement.flagged for judgement in calibration.judge(prediction).values()]).any(0)


def _share(flagged: Tensor) -> float:
    return float(flagged.double().mean())


def _measure_regression(checkpoint: Checkpoint, test: Examples, outputs: Mapping[str, Outputs]) -> RegressionMetrics:
    task, calibration, target = checkpoint.config.task, checkpoint.calibration, checkpoint.config.target
    assert isinstance(task, Regression)
    assert calibration is not None
    predictions = {name: interpret(task, o) for name, o in outputs.items()}
    prediction = predictions.pop("test")
    uncertainty, members = prediction.uncertainty, prediction.members.double()
    assert isinstance(uncertainty, RegressionUncertainty)
    errors = (members - test.labels).square()
    noise = uncertainty.noise_variance
    log_likelihoods = -(errors / noise + (2 * math.pi * noise).log()).sum(-1) / 2
    mixture = log_likelihoods.logsumexp(0) - math.log(len(members))
    misses = (uncertainty.mean - test.labels).abs()
    answers = interpret(task, evaluate_parts(checkpoint, test.inputs, PROMISE_SEEDS))
    return RegressionMetrics(
        test_inputs=len(test),
        networks=len(members),
        seed=SEED,
        single_error=float(errors.mean().sqrt()),
        ensemble_error=float(misses.square().mean().sqrt()),
        nll=float(-mixture.mean()),
        covered=_share(misses <= 3 * uncertainty.variance.sqrt()),
        deviation=_deviation(prediction),
        flags=_measure_flags(calibration, answers),
        layer_norms=measure_layer_norms(target, checkpoint.sampler.sample(SEED, range(len(members)))),
        beyond=tuple(
            BeyondMetrics(
                dataset=name,
                inputs=other.members.shape[1],
                deviation=_deviation(other),
                auroc=measure_auroc(prediction.score("relative_deviation"), other.score("relative_deviation")),
                flagged=_share(_judge_any(calibration, other)),
            )
            for name, other in predictions.items()
        ),
        version=checkpoint.version,
    )


def _deviation(prediction: Prediction) -> float:
    """Root mean square of the members' standard deviation."""
    assert isinstance(prediction.uncertainty, RegressionUncertainty)
    return float(prediction.uncertainty.epistemic_variance.mean().sqrt())


def _measure_density(checkpoint: Checkpoint, mixture: Mixture, networks: int = 1000) -> DensityMetrics:
    points = checkpoint.config.target.flatten_weights(checkpoint.sampler.sample(SEED, range(networks))).cpu()
    densities = mixture.measure_density(points)
    peaks = []
    for peak in mixture.find_peaks():
        distances = (points - peak).norm(dim=1)
        near = densities[distances <= NEAR_PEAK] / mixture.measure_density(peak)
        peaks.append(
            PeakMetrics(
                position=(float(peak[0]), float(peak[1])),
                distance=float(distances.min()),
                density=float(near.max()) if len(near) else 0.0,
            )
        )
    return DensityMetrics(
        networks=networks,
        seed=SEED,
        density=float(densities.mean()),
        entropy=float(entropy(points, dimension=1)),
        passed=sum(peak.density > 0 for peak in peaks),
        peaks=tuple(peaks),
    )


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


def measure_layer_norms(target: TargetNetwork, weights: Weights) -> dict[str, Spread]:
    """2-norms of each layer's weights and biases together, over S networks."""
    return {layer: summarize(vectors.norm(dim=1)) for layer, vectors in target.layer_vectors(weights).items()}


def summarize(values: Tensor) -> Spread:
    """Of values [n]; a single one has no deviation."""
    return Spread(float(values.mean()), float(values.std(correction=min(1, len(values) - 1))))


def _mean(values: list[Tensor] | list[float]) -> float:
    return sum(map(float, values)) / len(values)
