"""A study of a distribution over networks: what the papers' figures show, computed for `training.figures` to draw.

Shapes: N sampled networks, B inputs, K classes, D weights.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from sklearn.decomposition import PCA
from torch import Tensor

from models.checkpoint import Checkpoint
from models.gauge import GaugeStep, fix_gauge
from models.noise import uniform
from models.prediction import evaluate_members
from models.target import Weights
from models.uncertainty import measure_uncertainty
from training.datasets import Dataset
from training.evaluation import Spread, measure_layer_norms

SEED = 0
ENSEMBLE_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
ENSEMBLES = 20
"""Random subsets of the sampled networks for each size."""
PATHS, POINTS = 10, 40
FILTERS_OF = 25
"""Networks whose filters are shown."""
UNCERTAINTY_OF = 100
"""Networks that uncertainty is measured with."""
SUBSET_STREAM = 5

FUSIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean probability": lambda logits: logits.softmax(-1).mean(0),
    "mean logit": lambda logits: logits.mean(0),
    "majority vote": lambda logits: torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float().mean(0),
}
"""Scores [B, K] of an ensemble from its members' logits [S, B, K]; a tie of votes goes to the lowest class."""

GAUGES: dict[str, tuple[GaugeStep, ...]] = {
    "direct": ("scaling", "logit_bias"),
    "direct, filters sorted": ("scaling", "permutation", "logit_bias"),
}
"""How the ends of straight paths through weight space are gauged: as in Deutsch's paper, and with permutations too."""


@dataclass(frozen=True)
class EnsembleAccuracy:
    """Accuracy of ensembles of one size that fuse their members in one way."""

    size: int
    fusion: str
    ensembles: int
    mean: float
    std: float


@dataclass(frozen=True)
class PathAccuracy:
    """Accuracy along paths between sampled networks, [paths][points]."""

    kind: str
    accuracies: list[list[float]]

    @property
    def dip(self) -> float:
        """How far the worst point of a path lies below the mean of its two ends, averaged over paths."""
        dips = [(path[0] + path[-1]) / 2 - min(path) for path in self.accuracies]
        return sum(dips) / len(dips)


@dataclass(frozen=True)
class Summary:
    """What `study.json` holds."""

    version: str
    """Of the checkpoint."""
    networks: int
    seed: int
    test_images: int
    path_images: int
    """Of the validation split."""
    accuracy: Spread
    """Of single networks: mean and standard deviation."""
    ensembles: list[EnsembleAccuracy]
    layer_norms: dict[str, Spread]
    explained: dict[str, list[float]]
    """Share of a layer's variance in each of its first principal components."""
    paths: list[PathAccuracy]
    dips: dict[str, float]
    disagreement: Spread
    """Share of test images on which two networks differ: mean and standard deviation over pairs."""


@dataclass(frozen=True, config=ConfigDict(arbitrary_types_allowed=True))
class Study:
    """The summary, and the numbers behind it that only figures need."""

    summary: Summary
    accuracies: Tensor
    """[N], of single networks."""
    components: Mapping[str, Tensor]
    """By layer, [N, 2]."""
    filters: Tensor | None
    """[networks, filters, height, width] of the first layer, gauged, if it is a convolution of one channel."""
    disagreements: Tensor
    """[pairs]."""
    uncertainties: Mapping[str, Mapping[str, Tensor]]
    """By dataset and measure, [B], in nats."""


def study(
    checkpoint: Checkpoint,
    dataset: Dataset,
    outliers: tuple[str, Tensor] | None,
    networks: int,
    report: Callable[[str], None],
) -> Study:
    """Studies the distribution of a classifier's networks.

    Args:
        checkpoint: as it is served.
        dataset: that it was trained on; the test split is used, and the validation split along paths.
        outliers: name and inputs [B, …] of something else, if there is something.
        networks: N, at least as many as uncertainty is measured with.
        report: is told what is being computed.

    Raises:
        ValueError: if there are too few networks.
    """
    if networks < UNCERTAINTY_OF:
        raise ValueError(f"a study takes at least {UNCERTAINTY_OF} networks, not {networks}")
    config, sampler = checkpoint.config, checkpoint.sampler
    inputs, labels = config.input.normalize(dataset.test.inputs), dataset.test.labels

    report(f"{networks} networks on {len(labels):,} test inputs")
    logits = evaluate_members(sampler, inputs, SEED, networks)
    votes = logits.argmax(-1)
    accuracies = (votes == labels).double().mean(1)

    report("ensembles")
    ensembles = list(_measure_ensembles(logits, labels))
    pairs = [(a, b) for a in range(UNCERTAINTY_OF) for b in range(a)]
    disagreements = torch.stack([(votes[a] != votes[b]).double().mean() for a, b in pairs])
    test_uncertainty = measure_uncertainty(logits[:UNCERTAINTY_OF].softmax(-1))
    uncertainties = {config.training.dataset: test_uncertainty}
    del logits
    if outliers is not None:
        report(f"{UNCERTAINTY_OF} networks on {outliers[0]}")
        others = evaluate_members(sampler, config.input.normalize(outliers[1]), SEED, UNCERTAINTY_OF)
        uncertainties[outliers[0]] = measure_uncertainty(others.softmax(-1))

    report("weights")
    weights = {name: tensor.cpu() for name, tensor in sampler.sample(SEED, range(networks)).items()}
    gauged = fix_gauge(config.target, weights)
    components, explained = _find_components(gauged)

    report(f"{PATHS} paths of {POINTS} points on {len(dataset.validation):,} validation inputs")
    paths = _follow_paths(checkpoint, dataset)
    return Study(
        summary=Summary(
            version=checkpoint.version,
            networks=networks,
            seed=SEED,
            test_images=len(labels),
            path_images=len(dataset.validation),
            accuracy=_summarize(accuracies),
            ensembles=ensembles,
            layer_norms=measure_layer_norms(weights),
            explained=explained,
            paths=paths,
            dips={path.kind: path.dip for path in paths},
            disagreement=_summarize(disagreements),
        ),
        accuracies=accuracies,
        components=components,
        filters=_find_filters(checkpoint, gauged),
        disagreements=disagreements,
        uncertainties={
            name: {
                "predictive entropy": uncertainty.predictive_entropy,
                "mutual information": uncertainty.mutual_information,
            }
            for name, uncertainty in uncertainties.items()
        },
    )


def _measure_ensembles(logits: Tensor, labels: Tensor) -> Iterator[EnsembleAccuracy]:
    """Accuracies of random subsets of the networks; subsets of one size may overlap, so their spread is understated."""
    order = uniform(SEED, range(ENSEMBLES), len(logits), SUBSET_STREAM).argsort(dim=1)
    for size in [s for s in ENSEMBLE_SIZES if s <= len(logits)]:
        subsets = order[:1, :size] if size == len(logits) else order[:, :size]
        for fusion, fuse in FUSIONS.items():
            hits = [(fuse(logits[subset]).argmax(-1) == labels).double().mean() for subset in subsets]
            summary = _summarize(torch.stack(hits))
            yield EnsembleAccuracy(size, fusion, len(subsets), summary.mean, summary.std)


def _find_components(weights: Weights) -> tuple[dict[str, Tensor], dict[str, list[float]]]:
    components: dict[str, Tensor] = {}
    explained: dict[str, list[float]] = {}
    for layer in dict.fromkeys(name.split(".")[0] for name in weights):
        vectors = torch.cat([weights[f"{layer}.{p}"].flatten(1) for p in ("weight", "bias")], dim=1)
        analysis = PCA(n_components=2, svd_solver="randomized", random_state=0)
        components[layer] = torch.from_numpy(analysis.fit_transform(vectors.numpy()))
        explained[layer] = analysis.explained_variance_ratio_.tolist()
    return components, explained


def _find_filters(checkpoint: Checkpoint, gauged: Weights) -> Tensor | None:
    weight = next(iter(gauged.values()))[:FILTERS_OF]
    return weight[:, :, 0] if weight.dim() == 5 and weight.shape[2] == 1 else None


@torch.inference_mode()
def _follow_paths(checkpoint: Checkpoint, dataset: Dataset) -> list[PathAccuracy]:
    sampler, target = checkpoint.sampler, checkpoint.config.target
    inputs = checkpoint.config.input.normalize(dataset.validation.inputs).to(sampler.device)
    labels = dataset.validation.labels.to(sampler.device)

    def measure(weights: Weights) -> list[float]:
        return (target.forward(weights, inputs).argmax(-1) == labels).double().mean(1).tolist()

    latents = sampler.draw_latents(SEED, range(2 * PATHS))
    ends = list(zip(latents[::2], latents[1::2], strict=True))
    interpolated = [measure(sampler.generate(sampler.interpolate_latents(a, b, POINTS))) for a, b in ends]
    paths = [PathAccuracy("interpolated", interpolated)]
    for kind, gauge in GAUGES.items():
        straight = []
        for a, b in ends:
            gauged = fix_gauge(target, sampler.generate(torch.stack([a, b])), gauge)
            share = torch.linspace(0, 1, POINTS, device=sampler.device)
            straight.append(
                measure({name: torch.stack([t[0].lerp(t[1], s) for s in share]) for name, t in gauged.items()})
            )
        paths.append(PathAccuracy(kind, straight))
    return paths


def _summarize(values: Tensor) -> Spread:
    return Spread(float(values.mean()), float(values.std()) if len(values) > 1 else 0.0)
