"""A training run: what all kinds of training share, above all their state on disk."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.predictions.prediction import evaluate_members
from models.samplers.sampler import NetworkStack, WeightSampler
from training.data.dataset import Dataset
from training.data.mixture import Mixture
from training.evaluation.calibration import fit_member_temperature
from training.recipes.recipe import Recipe
from training.recipes.variation import ADDABLE
from training.runs.loop import StepReport
from training.runs.problems import Density, Problem, Supervised
from training.runs.ranks import ALONE, Ranks
from training.runs.state import TrainingError, load_state, read_identity, save_state

RECALIBRATION_STREAM = 3
RECALIBRATION_DRAWS = 2048

KEEP_EVERY = 50
"""Steps between copies of the parameters, which are kept in memory in case the run fails."""


PROCESSES = "processes"
"""Key of the number of processes in the identity of a run; without it there is one."""


Judged = tuple[Tensor, Tensor]
"""Logits [S, n, K] and labels [n] of inputs that their networks were not trained on."""


class TrainingRun(ABC):
    """A training run depends on recipe, dataset, seed, planned steps and device, and on nothing else.

    All noise and every batch is keyed by (seed, step), so a run that was saved and loaded continues unchanged. Several
    processes make the same steps, up to rounding, and each of them has the whole run.

    Raises:
        TrainingError: if the recipe does not fit the dataset, or several processes cannot divide its steps.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset | Mixture,
        seed: int,
        planned_steps: int,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        self.recipe = recipe
        if recipe.plain_pixels and isinstance(dataset, Dataset):
            dataset = dataset.with_plain_pixels()
        self.dataset = dataset
        self.seed = seed
        self.planned_steps = planned_steps
        self.device = device
        self.ranks = ranks
        self.steps = 0
        self._good: tuple[int, dict[str, Tensor]] | None = None
        self.problem = _pose_problem(recipe, dataset, seed, device, ranks)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # the CPU's alone: `torch.manual_seed` seeds every device's
            self.sampler: WeightSampler = recipe.method.build(recipe.target)
            self._modules = {"sampler": self.sampler, **self._build_helpers()}
        if recipe.logitnorm is not None and not _list_stacks(self.sampler):
            raise TrainingError(
                f"{recipe.name}: logitnorm leaves the scale of logits open, which can be set afterwards only where "
                "whole networks are stored, as by hyperdraw, deep ensembles and MC dropout"
            )
        for module in self._modules.values():
            module.to(device)
        self._optimizers = self._build_optimizers()

    @abstractmethod
    def _build_helpers(self) -> dict[str, nn.Module]:
        """Modules that are trained beside the sampler or belong to the run's state, by name."""

    @abstractmethod
    def _build_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Optimizers, by the name that their state is saved under."""

    @abstractmethod
    def step(self) -> StepReport:
        """Makes one step.

        Raises:
            TrainingError: if something is not finite, or if networks are equal. The parameters may have been bad since
                an earlier step; `return_to_good` restores those of a step that is known to be good.
        """

    @property
    def finished(self) -> bool:
        return self.steps >= self.planned_steps

    @property
    def progress(self) -> float:
        """Share of the run that is done."""
        return self.steps / self.planned_steps

    def return_to_good(self) -> bool:
        """Restores the sampler of a recent step whose loss and gradient were finite.

        Returns:
            Whether there is such a step after the first; if not, nothing changes.
        """
        if self._good is None:
            return False
        self.steps, state = self._good
        self.sampler.load_state_dict(state)
        return True

    def validate(self, networks: int = 16) -> dict[str, float]:
        """Metrics of sampled networks on the validation split, or of all networks if there are fewer.

        They are empty if it is too early for them, or if the data is in folds.
        """
        self.sampler.eval()
        return self.problem.validate(self.sampler, self.sampler.limit_networks(networks))

    def recalibrate(self, judged: Sequence[Judged] | None = None) -> None:
        """Prepares the sampler for use outside this run: sets batch normalisation from one large batch of draws, and
        sharpens networks whose scale the loss did not fit to the labels.

        Args:
            judged: what to sharpen by, if not by the validation split.
        """
        if any(isinstance(module, nn.BatchNorm1d) for module in self.sampler.modules()):
            draws = range(RECALIBRATION_DRAWS)
            self.sampler.recalibrate(self.sampler.draw_latents(self.seed, draws, RECALIBRATION_STREAM))
        sharpen(self.sampler, self.judge_validation() if judged is None else judged)

    def judge_validation(self) -> list[Judged]:
        """What to sharpen the networks by; nothing if their loss was a plain one, or if nothing is held out."""
        shifted = self.recipe.outliers is not None or self.recipe.logitnorm is not None
        learned = shifted and _list_stacks(self.sampler)
        if not learned or not isinstance(self.dataset, Dataset) or not len(self.dataset.validation):
            return []
        validation = self.dataset.validation
        inputs = self.dataset.view.prepare(validation.inputs)
        networks = self.sampler.limit_networks(self.recipe.largest_ensemble)
        return [(evaluate_members(self.sampler.eval(), inputs, self.seed, networks), validation.labels)]

    def save(self, path: Path) -> None:
        """Writes everything that `load` needs, atomically."""
        save_state(path, self._modules, self._optimizers, self._identity(), {"steps": str(self.steps)})

    def load(self, path: Path) -> None:
        """Restores what `save` wrote.

        Raises:
            TrainingError: if the file cannot be read or belongs to another run, or to another number of processes.
        """
        processes = read_identity(path).get(PROCESSES, 1)
        if processes != self.ranks.count:
            start = "without torchrun" if processes == 1 else f"with torchrun --nproc-per-node {processes}"
            raise TrainingError(
                f"{path} holds the state of a training whose number of processes is {processes}, not "
                f"{self.ranks.count}, so sums round differently. Continue it {start}, or choose another --out."
            )
        counters, _ = load_state(path, self._modules, self._optimizers, self._identity())
        self.steps = int(counters["steps"])

    def _keep_good(self) -> None:
        """Copies the parameters if it is time to; called when they are known to be good, before they change."""
        if self.steps and (self._good is None or self.steps % KEEP_EVERY == 0):
            self._good = self.steps, {name: t.clone() for name, t in self.sampler.state_dict().items()}

    def _identity(self) -> dict[str, Any]:
        recipe = {field.name: repr(getattr(self.recipe, field.name)) for field in fields(self.recipe)}
        identity = {"seed": self.seed, "planned_steps": self.planned_steps, **recipe}
        if self.ranks.count > 1:
            identity[PROCESSES] = self.ranks.count
        if isinstance(self.dataset, Dataset) and self.dataset.backbone is not None:
            identity["backbone"] = self.dataset.backbone.spec.sha256
        return identity


def sharpen(sampler: WeightSampler, judged: Sequence[Judged]) -> None:
    """Divides the outputs of stored networks by the temperature at which they fit the labels of judged inputs best.

    Networks that learned to be uncertain on outliers are too uncertain on all inputs, and those that learned from
    normalised logits have logits of any scale.
    """
    if not judged:
        return
    logits, labels = zip(*judged, strict=True)
    temperature = fit_member_temperature(torch.cat(logits, 1), torch.cat(labels))
    for stack in _list_stacks(sampler):
        stack.divide_outputs(temperature)


def _list_stacks(sampler: WeightSampler) -> list[NetworkStack]:
    return [module for module in sampler.modules() if isinstance(module, NetworkStack)]


def _pose_problem(recipe: Recipe, dataset: Dataset | Mixture, seed: int, device: torch.device, ranks: Ranks) -> Problem:
    extras = [part for part in ADDABLE if getattr(recipe, part) is not None]
    of_images = dataset.input.perturbable and dataset.task.has_classes
    if extras and not of_images:
        raise TrainingError(
            f"{recipe.name}: {', '.join(extras)} can only be used to classify images, not with {recipe.dataset}"
        )
    if isinstance(dataset, Mixture):
        if ranks.count > 1:
            raise TrainingError(f"{recipe.name} has no inputs that processes could divide. Train it without torchrun.")
        return Density(dataset, device)
    try:
        return Supervised(recipe, dataset, seed, device, ranks)
    except ValueError as error:
        raise TrainingError(f"{recipe.name}: {error}") from error
