"""A study of a distribution over networks: the numbers behind the papers' figures, which `figures` draws.

Shapes: N sampled networks, B inputs, K classes, D weights.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from models.checkpoint import Checkpoint
from models.noise import uniform
from models.predictions.path import go_straight
from models.predictions.prediction import evaluate_members
from models.targets.gauge import filter_vectors, find_couplings, fix_gauge, permute_filters
from models.targets.target import TargetNetwork, Weights
from models.tasks.classification import measure_uncertainty
from training.data.dataset import Dataset
from training.evaluation.diversity import measure_layer_norms
from training.evaluation.evaluation import INPUTS_PER_PART, SEED
from training.evaluation.summaries import Spread, summarize
from training.progress import announce, track

ENSEMBLE_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
ENSEMBLES = 20
"""Number of random subsets of networks for each size. Subsets may overlap, so their spread is understated."""
PATHS, POINTS = 10, 40
FILTERS_OF = 25
"""Number of networks whose filters are shown."""
UNCERTAINTY_OF = 100
"""Number of first networks that uncertainty and disagreement are measured with."""
SUBSET_STREAM = 5

FUSIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean probability": lambda logits: logits.softmax(-1),
    "mean logit": lambda logits: logits,
    "majority vote": lambda logits: torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1),
}
"""Scores from logits [N, B, K]. An ensemble averages them over its members, and the lowest class wins a tie."""


@dataclass(frozen=True)
class EnsembleAccuracy:
    """Accuracy of ensembles of one size that fuse their members in one way."""

    size: int
    fusion: str
    ensembles: int
    mean: float
    std: float | None
    """Standard deviation over ensembles, if there are several."""


@dataclass(frozen=True)
class PathAccuracy:
    """Accuracy along paths between sampled networks, [paths][points]."""

    kind: str
    accuracies: list[list[float]]

    @property
    def dip(self) -> float:
        """The mean of a path's two ends minus its lowest point, averaged over paths."""
        dips = [(path[0] + path[-1]) / 2 - min(path) for path in self.accuracies]
        return sum(dips) / len(dips)


@dataclass(frozen=True)
class Summary:
    """The contents of `study.json`."""

    version: str
    """Version of the checkpoint."""
    networks: int
    seed: int
    test_images: int
    path_images: int
    """Number of validation images along paths."""
    accuracy: Spread
    """Accuracy of single networks."""
    ensembles: list[EnsembleAccuracy]
    layer_norms: dict[str, Spread]
    explained: dict[str, list[float]]
    """Share of a layer's variance in each of its first two principal components."""
    paths: list[PathAccuracy]
    dips: dict[str, float]
    uncertainty_networks: int
    """Number of first networks that disagreement and uncertainty are measured with."""
    disagreement: Spread
    """Share of test images on which two networks differ, over pairs."""


@dataclass(frozen=True, config=ConfigDict(arbitrary_types_allowed=True))
class Study:
    """The summary, and further numbers that only figures need."""

    summary: Summary
    accuracies: Tensor
    """Accuracies of single networks, [N]."""
    components: Mapping[str, Tensor]
    """Principal components by layer, [N, 2]."""
    filters: Tensor | None
    """Gauge-fixed filters of the first layer, [networks, filters, height, width], if it convolves one channel."""
    disagreements: Tensor
    """Disagreement of each pair, [pairs]."""
    uncertainties: Mapping[str, Mapping[str, Tensor]]
    """Uncertainty by dataset and measure, [B], in nats."""


def study_networks(
    checkpoint: Checkpoint,
    dataset: Dataset,
    outliers: Mapping[str, Tensor],
    networks: int,
) -> Study:
    """Studies the distribution of a classifier's networks.

    Args:
        checkpoint: the checkpoint of a classifier.
        dataset: the dataset that it was trained on. Paths use the validation split, the rest the test split.
        outliers: sets of outliers [B, …], by name.
        networks: N, at least 100.

    Raises:
        ValueError: if there are too few networks, or no validation images.
    """
    if not len(dataset.validation):
        raise ValueError("was trained in folds, which leave no validation images for paths between networks")
    config, sampler = checkpoint.config, checkpoint.sampler
    networks = sampler.limit_networks(networks)
    if networks < UNCERTAINTY_OF:
        raise ValueError(f"a study needs at least {UNCERTAINTY_OF} networks; there are only {networks}")
    inputs, labels = checkpoint.input.prepare(dataset.test.inputs), dataset.test.labels

    announce(f"{networks} networks on {len(labels):,} test inputs")
    # In parts, so that progress is shown.
    parts = track(inputs.split(INPUTS_PER_PART), "evaluating", "part")
    logits = torch.cat([evaluate_members(sampler, part, SEED, networks) for part in parts], dim=1)
    votes = logits.argmax(-1)
    accuracies = (votes == labels).double().mean(1)

    announce("ensembles")
    ensembles = list(_measure_ensembles(logits, labels))
    pairs = [(a, b) for a in range(UNCERTAINTY_OF) for b in range(a)]
    disagreements = torch.stack([(votes[a] != votes[b]).double().mean() for a, b in pairs])
    test_uncertainty = measure_uncertainty(logits[:UNCERTAINTY_OF])
    uncertainties = {config.training.dataset: test_uncertainty}
    del logits
    for name, images in outliers.items():
        announce(f"{UNCERTAINTY_OF} networks on {name}")
        others = evaluate_members(sampler, checkpoint.input.prepare(images), SEED, UNCERTAINTY_OF)
        uncertainties[name] = measure_uncertainty(others)

    announce("weights")
    weights = {name: tensor.cpu() for name, tensor in sampler.sample(SEED, range(networks)).items()}
    gauged = fix_gauge(config.target, weights)
    components, explained = _find_components(config.target, gauged)

    announce(f"{PATHS} paths of {POINTS} points on {len(dataset.validation):,} validation inputs")
    paths = _follow_paths(checkpoint, dataset)
    return Study(
        summary=Summary(
            version=checkpoint.version,
            networks=networks,
            seed=SEED,
            test_images=len(labels),
            path_images=len(dataset.validation),
            accuracy=summarize(accuracies),
            ensembles=ensembles,
            layer_norms=measure_layer_norms(config.target, weights),
            explained=explained,
            paths=paths,
            dips={path.kind: path.dip for path in paths},
            uncertainty_networks=UNCERTAINTY_OF,
            disagreement=summarize(disagreements),
        ),
        accuracies=accuracies,
        components=components,
        filters=_find_filters(config.target, gauged),
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
    order = uniform(SEED, range(ENSEMBLES), len(logits), SUBSET_STREAM).argsort(dim=1)
    for fusion, score in FUSIONS.items():
        scores = score(logits)
        for size in track([s for s in ENSEMBLE_SIZES if s <= len(logits)], fusion, "size"):
            subsets = order[:1, :size] if size == len(logits) else order[:, :size]
            means = [scores[subset].mean(0) for subset in subsets]
            accuracies = torch.stack([(mean.argmax(-1) == labels).double().mean() for mean in means])
            std = float(accuracies.std()) if len(subsets) > 1 else None
            yield EnsembleAccuracy(size, fusion, len(subsets), float(accuracies.mean()), std)


def _find_components(target: TargetNetwork, weights: Weights) -> tuple[dict[str, Tensor], dict[str, list[float]]]:
    from sklearn.decomposition import PCA  # takes long to import

    components: dict[str, Tensor] = {}
    explained: dict[str, list[float]] = {}
    for layer, vectors in target.layer_vectors(weights).items():
        analysis = PCA(n_components=2, svd_solver="randomized", random_state=0)
        components[layer] = torch.from_numpy(analysis.fit_transform(vectors.numpy()))
        explained[layer] = analysis.explained_variance_ratio_.tolist()
    return components, explained


def _find_filters(target: TargetNetwork, weights: Weights) -> Tensor | None:
    weight = weights[f"{target.weighted_layers[0]}.weight"][:FILTERS_OF]
    return weight[:, :, 0] if weight.dim() == 5 and weight.shape[2] == 1 else None


@torch.inference_mode()
def _follow_paths(checkpoint: Checkpoint, dataset: Dataset) -> list[PathAccuracy]:
    sampler, target = checkpoint.sampler, checkpoint.config.target
    inputs = checkpoint.input.prepare(dataset.validation.inputs).to(sampler.device)
    labels = dataset.validation.labels.to(sampler.device)

    def measure(weights: Weights) -> list[float]:
        return (target.forward(weights, inputs).argmax(-1) == labels).double().mean(1).tolist()

    latents, shares = sampler.draw_latents(SEED, range(2 * PATHS)), torch.linspace(0, 1, POINTS)
    ends = list(zip(latents[::2], latents[1::2], strict=True))
    networks = [fix_gauge(target, sampler.generate(torch.stack(pair))) for pair in ends]
    shown = "following", "path"
    return [
        PathAccuracy(
            "interpolated",
            [measure(sampler.generate(sampler.interpolate_latents(a, b, POINTS))) for a, b in track(ends, *shown)],
        ),
        PathAccuracy("direct", [measure(go_straight(pair, shares)) for pair in track(networks, *shown)]),
        PathAccuracy(
            "direct, filters matched",
            [measure(go_straight(match_filters(target, p), shares)) for p in track(networks, *shown)],
        ),
    ]


def match_filters(target: TargetNetwork, pair: Weights) -> Weights:
    """Permutes the hidden filters of the second of two networks to resemble the first's, layer after layer.

    The permutation of a layer maximises the sum of inner products of filters. This is the first pass of weight matching
    (Ainsworth, Hayase & Srinivasa, "Git Re-Basin", ICLR 2023), using only incoming weights.
    """
    from scipy.optimize import linear_sum_assignment  # takes long to import

    matched = dict(pair)
    for coupling in find_couplings(target):
        if not coupling.permutable:
            continue
        first, second = filter_vectors(matched, coupling.layer)
        order = torch.from_numpy(linear_sum_assignment((first @ second.T).cpu().numpy(), maximize=True)[1])
        kept = torch.arange(len(order))
        permute_filters(matched, coupling, torch.stack([kept, order]).to(first.device))
    return matched
