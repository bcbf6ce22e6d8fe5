"""What labels are worth that are asked for where the networks disagree most, beside labels of random images.

A sampler learns from few labelled images. It is asked about a pool of others, like the inputs in a service's log: some
classes are rare, and in a mixed pool some images belong to no class. A strategy chooses some of the pool, somebody
labels them, and a sampler learns anew from all labelled images. That an image belongs to no class is also an answer. It
costs as much as a label, and nothing is learned from it.

The strategies are those of `hyperdraw review`. Ranking by mutual information is BALD (Houlsby, Huszár, Ghahramani &
Lengyel, "Bayesian Active Learning for Classification and Preference Learning", 2011).

Shapes: N images in the pool, C channels, H rows, W columns.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as validated
from torch import Tensor

from models.checkpoint_files import dump_json, write_file
from models.predictions.anchor import Anchor
from models.predictions.density import fit_density
from models.predictions.detection import apply_temperature
from models.predictions.prediction import Prediction, evaluate, interpret
from models.samplers.sampler import WeightSampler
from training.data.dataset import Dataset, DatasetError, Examples
from training.data.datasets import load_dataset
from training.data.foreign import make_foreign_images
from training.data.outlier_sets import load_outliers
from training.denormals import flush_denormals
from training.evaluation.calibration import fit_temperature
from training.evaluation.measures import measure_accuracy, measure_nll
from training.progress import announce, track
from training.recipes.own_images import own_images
from training.runs.session import start_run

NETWORKS, NETWORKS_SEED = 20, 4 * 10**15
"""Number of networks that are asked, and their seed, which no training uses."""

LABELLED, ADDED, POOL, VALIDATION, TEST = 50, 50, 2_000, 50, 2_000
"""Numbers of images: labelled at first, labelled then, in the pool, for the temperature, and to measure the result. The
last three may be fewer."""

RARE_CLASSES, RARITY = 0.5, 0.1
"""Share of the classes that are rare, and how often their images come by default, compared with those of others."""

FOREIGN = 0.2
"""Share of a mixed pool that belongs to no class."""

USUAL = 0.95
"""Share of validation images that count as usual by their distance from the labelled ones."""

APART = 0.2
"""Least root mean square difference of two chosen images, as a share of the pixels' range."""

FILE = "labelling.json"


@validated(frozen=True)
class Outcome:
    """What a sampler is worth that learned from the labels of a strategy."""

    pool: str
    strategy: str
    accuracy: float
    """On test images, whose classes are as frequent as in the dataset."""
    nll: float
    """At the temperature that fits the validation images."""
    rare: int
    """Chosen images of rare classes."""
    foreign: int
    """Chosen images of no class."""


@validated(frozen=True)
class Labelling:
    """The contents of `labelling.json`."""

    dataset: str
    labelled: int
    added: int
    steps: int
    rarity: float
    """How often images of rare classes come, compared with those of others."""
    trials: tuple[tuple[Outcome, ...], ...]
    """The outcomes of each seed. The first is without further labels."""


@dataclass(frozen=True)
class Pool:
    """Images that wait for a label, and what is known about them."""

    inputs: Tensor
    """uint8 [N, C, H, W]."""
    labels: Tensor
    """What somebody would say: a class, or −1 for none, int64 [N]."""
    prediction: Prediction
    usual: Tensor
    """Whether their features are as near to those of the labelled images as usual, bool [N]."""
    order: Tensor
    """A random order, int64 [N]."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def information(self) -> Tensor:
        """Mutual information of prediction and network, [N]."""
        found: Tensor = self.prediction.uncertainty.mutual_information  # type: ignore[union-attr]  # of a classifier
        return found

    def __getitem__(self, chosen: Tensor) -> "Pool":
        """Some of the images, by their numbers."""
        places = torch.full((len(self),), -1)
        places[chosen] = torch.arange(len(chosen))
        order = places[self.order]
        inputs, labels, prediction = self.inputs[chosen], self.labels[chosen], self.prediction.of_inputs(chosen)
        return Pool(inputs, labels, prediction, self.usual[chosen], order[order >= 0])


def choose_randomly(pool: Pool, count: int) -> Tensor:
    """Random images."""
    return pool.order[:count]


def choose_most_uncertain(pool: Pool, count: int) -> Tensor:
    """The images with the largest mutual information."""
    return pool.information.argsort(descending=True, stable=True)[:count]


def choose_apart(pool: Pool, count: int) -> Tensor:
    """As `choose_most_uncertain`, without images that differ by less than `APART` from one chosen before."""
    images = pool.inputs.flatten(1).float() / 255
    chosen: list[int] = []
    for candidate in choose_most_uncertain(pool, len(pool)).tolist():
        if len(chosen) == count:
            break
        differences = (images[chosen] - images[candidate]).square().mean(1).sqrt()
        if (differences >= APART).all():
            chosen.append(candidate)
    return torch.tensor(chosen)


def choose_usual(pool: Pool, count: int) -> Tensor:
    """As `choose_apart`, among the usual images only."""
    (usual,) = pool.usual.nonzero(as_tuple=True)
    return usual[choose_apart(pool[usual], count)]


Strategy = Callable[[Pool, int], Tensor]
"""Chooses a number of images of a pool, by their numbers."""

STRATEGIES: Mapping[str, Strategy] = {
    "random": choose_randomly,
    "mutual information": choose_most_uncertain,
    "mutual information, apart": choose_apart,
    "mutual information, usual and apart": choose_usual,
}


def study_labelling(
    name: str, data: Path, out: Path, seeds: Sequence[int], steps: int | None = None, rarity: float = RARITY
) -> Labelling:
    """Compares the strategies with several seeds, and writes a table of the results.

    Finished seeds are kept, so the same call continues after an interrupt.

    Args:
        name: name of a dataset of images.
        data: folder that holds its files or receives them.
        out: folder of the table and of each seed's outcomes.
        seeds: seeds of the trainings, of the rare classes and of the pool.
        steps: steps of each training, if not the recipe's.
        rarity: how often images of rare classes come, compared with those of others.

    Raises:
        DatasetError: if the dataset is missing or damaged, or not one of classes of images.
        TrainingError: if a training fails.
    """
    dataset = load_dataset(name, data)
    if not isinstance(dataset, Dataset) or not (dataset.input.perturbable and dataset.task.has_classes):
        raise DatasetError(f"{name} is not a dataset of classes of images, which this study needs")
    dataset = replace(dataset, validation=dataset.validation[:VALIDATION], test=dataset.test[:TEST])
    out.mkdir(parents=True, exist_ok=True)
    parts: list[Labelling] = []
    for seed in track(seeds, "labelling", "seed"):
        trial = _Trial(name, data, dataset, seed, steps, rarity)
        file = out / f"{name}-{trial.recipe.steps}-steps-rarity-{rarity:g}-seed-{seed}.json"
        if not file.exists():
            write_file(file, dump_json(trial.run()))
        parts.append(TypeAdapter(Labelling).validate_json(file.read_bytes()))
    study = replace(parts[0], trials=tuple(trial for part in parts for trial in part.trials))
    write_file(out / FILE, dump_json(study))
    write_file(out / "README.md", describe_labelling(study).encode())
    return study


class _Trial:
    """All strategies with one seed."""

    def __init__(self, name: str, data: Path, dataset: Dataset, seed: int, steps: int | None, rarity: float) -> None:
        self._name = name
        self._data = data
        self._dataset = dataset
        self._seed = seed
        self._rarity = rarity
        classes = len(dataset.task.outputs)
        recipe = own_images(name, dataset.input.shape, classes, LABELLED)
        self.recipe = replace(recipe, steps=steps or recipe.steps)
        self._generator = torch.Generator().manual_seed(seed)
        self._rare = torch.randperm(classes, generator=self._generator)[: round(RARE_CLASSES * classes)]

    def run(self) -> Labelling:
        """The outcomes of all strategies."""
        train = self._dataset.train
        shares = torch.where(torch.isin(train.labels, self._rare), self._rarity, 1.0)
        (kept,) = (torch.rand(len(train), generator=self._generator) < shares).nonzero(as_tuple=True)
        kept = kept[torch.randperm(len(kept), generator=self._generator)]
        labelled, waiting = train[kept[:LABELLED]], train[kept[LABELLED : LABELLED + POOL]]
        sampler = self._train(labelled)
        outcomes = [self._judge(sampler, "", "no further labels", waiting.labels[:0])]
        mixed = self._make_pool(sampler, labelled, waiting)
        pools = {"usual images": mixed[(mixed.labels >= 0).nonzero()[:, 0]], "with foreign images": mixed}
        for title, pool in pools.items():
            for strategy, choose in STRATEGIES.items():
                announce(f"seed {self._seed}: {title}, {strategy}")
                chosen = choose(pool, ADDED)
                labels = pool.labels[chosen]
                added = pool.inputs[chosen[labels >= 0]], labels[labels >= 0]
                both = Examples(
                    *(torch.cat(pair) for pair in zip((labelled.inputs, labelled.labels), added, strict=True))
                )
                outcomes.append(self._judge(self._train(both), title, strategy, labels))
        return Labelling(self._name, LABELLED, ADDED, self.recipe.steps, self._rarity, (tuple(outcomes),))

    def _make_pool(self, sampler: WeightSampler, labelled: Examples, waiting: Examples) -> Pool:
        """A mixed pool, with what the networks say about it."""
        count = round(len(waiting) * FOREIGN / (1 - FOREIGN))
        foreign = self._find_foreign(waiting.inputs, count)
        inputs = torch.cat([waiting.inputs, foreign])
        labels = torch.cat([waiting.labels, torch.full((len(foreign),), -1)])
        prepare, anchor = self._dataset.input.prepare, Anchor(sampler)
        density = replace(fit_density(anchor.describe(prepare(labelled.inputs))), anchor=anchor)
        limit = density.measure_distance(prepare(self._dataset.validation.inputs)).quantile(USUAL)
        usual = density.measure_distance(prepare(inputs)) <= limit
        order = torch.randperm(len(inputs), generator=self._generator)
        return Pool(inputs, labels, self._ask(sampler, inputs), usual, order)

    def _find_foreign(self, images: Tensor, count: int) -> Tensor:
        """Images of no class: the first of the dataset's usual outliers, or made-up ones if it has none."""
        known = next(iter(load_outliers(self._name, self._data).values()), None)
        if known is None:
            return make_foreign_images(images, count, self._seed)
        return known[torch.randperm(len(known), generator=self._generator)[:count]]

    @flush_denormals()
    def _train(self, examples: Examples) -> WeightSampler:
        dataset = replace(self._dataset, train=examples)
        run = start_run(self.recipe, dataset, self._seed, self.recipe.steps, torch.device("cpu"))
        while not run.finished:
            run.step()
        run.recalibrate()
        return run.sampler.eval().requires_grad_(False)

    def _ask(self, sampler: WeightSampler, inputs: Tensor) -> Prediction:
        dataset = self._dataset
        networks = sampler.limit_networks(NETWORKS)
        return interpret(dataset.task, evaluate(sampler, dataset.input, dataset.task, inputs, NETWORKS_SEED, networks))

    def _judge(self, sampler: WeightSampler, pool: str, strategy: str, chosen: Tensor) -> Outcome:
        """The outcome of a strategy, whose images somebody gave these labels."""
        validation, test = self._dataset.validation, self._dataset.test
        usual = self._ask(sampler, validation.inputs).log_probabilities
        temperature = fit_temperature(usual, validation.labels)
        found = apply_temperature(self._ask(sampler, test.inputs).log_probabilities, temperature)
        rare, foreign = int(torch.isin(chosen, self._rare).sum()), int((chosen < 0).sum())
        accuracy, nll = measure_accuracy(found, test.labels), measure_nll(found, test.labels)
        return Outcome(pool, strategy, accuracy, nll, rare, foreign)


def describe_labelling(study: Labelling) -> str:
    """A table of the strategies in Markdown: means over seeds ± their standard deviation, and differences from the
    random choice of the same seed ± their standard error."""
    lines = [
        f"# {study.dataset}: {study.added} further labels",
        "",
        f"Trained on {study.labelled} labelled images for {study.steps:,} steps, and then on {study.added} more, with "
        f"{len(study.trials)} seeds. Half of the classes have {study.rarity:g} times as many images as the others, "
        "except in the test set. Made by `hyperdraw-train labelling`.",
        "",
        "| pool | labels by | accuracy | NLL | points more than random | better | rare | foreign |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for outcomes in zip(*study.trials, strict=True):
        first = outcomes[0]
        randoms = [_find(trial, first.pool) for trial in study.trials] if first.pool else list(outcomes)
        differences = [own.accuracy - other.accuracy for own, other in zip(outcomes, randoms, strict=True)]
        cells = [first.pool, first.strategy]
        cells.append(_summarize([own.accuracy for own in outcomes], "{:.1%}"))
        cells.append(_summarize([own.nll for own in outcomes], "{:.3f}"))
        cells += _compare(differences) if first.strategy in STRATEGIES and first.strategy != "random" else ["", ""]
        cells += [f"{statistics.mean(getattr(own, name) for own in outcomes):.1f}" for name in ("rare", "foreign")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _find(trial: Sequence[Outcome], pool: str) -> Outcome:
    """The outcome of a random choice."""
    return next(own for own in trial if own.pool == pool and own.strategy == "random")


def _compare(differences: Sequence[float]) -> list[str]:
    """The mean difference of accuracies, and how often it is positive."""
    error = ""
    if len(differences) > 1:
        error = f" ± {100 * statistics.stdev(differences) / math.sqrt(len(differences)):.1f}"
    better = sum(difference > 0 for difference in differences)
    return [f"{100 * statistics.mean(differences):+.1f}{error}", f"{better} of {len(differences)}"]


def _summarize(values: Sequence[float], pattern: str) -> str:
    deviation = f" ± {pattern.format(statistics.stdev(values))}" if len(values) > 1 else ""
    return pattern.format(statistics.mean(values)) + deviation
