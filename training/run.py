"""A training run: one step function and its state on disk."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize_tensors
from torch import Tensor, nn

from models.checkpoint import write_file
from models.hypergan import CodeDiscriminator
from models.noise import standard_normal
from models.sampler import Hypernetwork
from models.target import Weights
from training.datasets import Dataset, Mixture
from training.objectives import adversarial_loss, discriminator_loss, moment_distance
from training.problems import Density, Problem, Supervised
from training.recipes import Recipe

LATENT_STREAM, PRIOR_STREAM, RECALIBRATION_STREAM = 1, 2, 3
"""Streams of training noise, beside that of the problem; serving draws from stream 0."""

RECALIBRATION_DRAWS = 2048

KEEP_EVERY = 50
"""Steps between copies of the parameters, kept in memory in case that the run fails."""


class TrainingError(Exception):
    """A run that cannot go on; the message says why."""


@dataclass(frozen=True)
class StepReport:
    """What one step measured: scalars, left on the device so that reading them is the caller's choice."""

    losses: Mapping[str, Tensor]
    figures: Mapping[str, Tensor]
    """Of the sampled networks on the step's batch."""
    weights: Weights
    """The sampled networks."""


class TrainingRun:
    """Training of a hypernetwork: a function of recipe, dataset, seed, planned steps and device, and of nothing else.

    All noise and every batch is keyed by (seed, step), so a run that was saved and loaded goes on as it would have.

    Raises:
        TrainingError: if the recipe does not fit the dataset.
    """

    def __init__(
        self, recipe: Recipe, dataset: Dataset | Mixture, seed: int, planned_steps: int, device: torch.device
    ) -> None:
        self.recipe = recipe
        if recipe.plain_pixels and isinstance(dataset, Dataset):
            dataset = dataset.with_plain_pixels()
        self.dataset = dataset
        self.seed = seed
        self.planned_steps = planned_steps
        self.device = device
        self.steps = 0
        self._good: tuple[int, dict[str, Tensor]] | None = None
        self.problem = _pose_problem(recipe, dataset, seed, device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.sampler: Hypernetwork = recipe.method.build(recipe.target)
            self.discriminator = CodeDiscriminator(self.sampler.joint_code_size, recipe.discriminator_hidden_size)
        self.sampler.to(device)
        self.discriminator.to(device)
        self._optimizers = {
            "optimizer": torch.optim.Adam(
                [
                    {
                        "params": parameters,
                        "lr": recipe.learning_rates[group],
                        "weight_decay": recipe.weight_decays.get(group, 0.0),
                    }
                    for group, parameters in self.sampler.parameter_groups().items()
                    if parameters
                ],
                fused=True,
            ),
            "discriminator_optimizer": torch.optim.Adam(
                self.discriminator.parameters(), lr=recipe.discriminator_learning_rate, fused=True
            ),
        }
        self._learning_rates = [group["lr"] for group in self._optimizers["optimizer"].param_groups]

    @property
    def finished(self) -> bool:
        return self.steps >= self.planned_steps

    def step(self) -> StepReport:
        """One step of the hypernetwork, then one of the discriminator, on the same codes without gradient.

        Raises:
            TrainingError: if loss or gradient is not finite, or networks are the same. Then the parameters may have
                been bad since an earlier step; `return_to_good` has those of a step that is known to be good.
        """
        recipe = self.recipe
        self.sampler.train()
        codes = self.sampler.mix(self._draw_latents())
        weights = self.sampler.generate_from_codes(codes[: recipe.networks_per_step])
        fit = self.problem.fit(recipe.target, weights, self.steps)
        losses = {"fit": fit.loss}
        if recipe.diversity is not None:
            try:
                losses["diversity"] = recipe.diversity.measure_loss(
                    recipe.target, weights, self.sampler.latent_size, self.steps / self.planned_steps
                )
            except ValueError as error:
                raise TrainingError(f"step {self.steps}: {error}") from error
        if recipe.moment_matching_weight:
            losses["moments"] = recipe.moment_matching_weight * moment_distance(codes)
        if recipe.adversarial_weight:
            losses["adversarial"] = recipe.adversarial_weight * adversarial_loss(self.discriminator(codes))
        loss = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(loss):
            raise TrainingError(f"the loss is {loss.item()} at step {self.steps}")

        optimizer = self._optimizers["optimizer"]
        for group, rate in zip(optimizer.param_groups, self._learning_rates, strict=True):
            group["lr"] = rate * self._schedule()
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.sampler.parameters(), recipe.gradient_norm_limit)
        if not torch.isfinite(norm):
            raise TrainingError(f"the norm of the gradient is {norm.item()} at step {self.steps}")
        if self.steps and (self._good is None or self.steps % KEEP_EVERY == 0):
            self._good = self.steps, {name: t.clone() for name, t in self.sampler.state_dict().items()}
        optimizer.step()
        if recipe.adversarial_weight:
            losses["discriminator"] = self._step_discriminator(codes.detach())
        self.steps += 1
        return StepReport(
            losses={name: value.detach() for name, value in losses.items()},
            figures={fit.figure_name: fit.figure},
            weights={name: tensor.detach() for name, tensor in weights.items()},
        )

    def return_to_good(self) -> bool:
        """Makes the sampler what it was at a recent step whose loss and gradient were finite.

        Returns:
            whether there is one, later than the untrained network; else nothing changes.
        """
        if self._good is None:
            return False
        self.steps, state = self._good
        self.sampler.load_state_dict(state)
        return True

    def validate(self, networks: int = 16) -> dict[str, float]:
        """Figures of sampled networks on the validation split."""
        self.sampler.eval()
        return self.problem.validate(self.sampler, networks)

    def recalibrate(self) -> None:
        """Sets batch normalisation from one large batch of draws, for the sampler's use outside this run."""
        draws = range(RECALIBRATION_DRAWS)
        self.sampler.recalibrate(self.sampler.draw_latents(self.seed, draws, RECALIBRATION_STREAM))

    def save(self, path: Path) -> None:
        """Writes all that `load` needs, atomically."""
        tensors = {f"sampler.{name}": tensor for name, tensor in self.sampler.state_dict().items()}
        tensors |= {f"discriminator.{name}": tensor for name, tensor in self.discriminator.state_dict().items()}
        for prefix, optimizer in self._optimizers.items():
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {f"{prefix}.{index}.{name}": tensor for name, tensor in state.items()}
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        metadata = {"run": json.dumps(self._identity()), "steps": str(self.steps)}
        write_file(path, serialize_tensors(tensors, metadata))

    def load(self, path: Path) -> None:
        """Restores what `save` wrote.

        Raises:
            TrainingError: if the file cannot be read or belongs to another run.
        """
        saved, ours = read_identity(path), self._identity()
        if differing := [f"{key} {saved.get(key)}" for key in ours if saved.get(key) != ours[key]]:
            raise TrainingError(f"{path} is the state of another run, with {', '.join(differing)}")
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
            self.steps = int(file.metadata()["steps"])
        self.sampler.load_state_dict(_below("sampler", tensors))
        self.discriminator.load_state_dict(_below("discriminator", tensors))
        for prefix, optimizer in self._optimizers.items():
            states: dict[int, dict[str, Tensor]] = {}
            for name, tensor in _below(prefix, tensors).items():
                index, key = name.split(".")
                states.setdefault(int(index), {})[key] = tensor
            optimizer.load_state_dict({**optimizer.state_dict(), "state": states})

    def _identity(self) -> dict[str, Any]:
        return {"seed": self.seed, "planned_steps": self.planned_steps, "recipe": repr(self.recipe)}

    def _schedule(self) -> float:
        """The share of the learning rates that this step uses: a linear rise, and half a cosine down."""
        final = self.recipe.final_learning_rate_fraction
        cosine = final + (1 - final) * (1 + math.cos(math.pi * self.steps / self.planned_steps)) / 2
        return cosine * min(1.0, (self.steps + 1) / self.recipe.warmup_steps)

    def _draw_latents(self) -> Tensor:
        return self.sampler.draw_latents(self.seed, self._draws, LATENT_STREAM)

    @property
    def _draws(self) -> range:
        """The members of this step's noise."""
        draws = self.recipe.codes_per_step
        return range(self.steps * draws, (self.steps + 1) * draws)

    def _step_discriminator(self, codes: Tensor) -> Tensor:
        prior = standard_normal(self.seed, self._draws, codes.shape[1], PRIOR_STREAM).to(self.device)
        loss = discriminator_loss(self.discriminator(prior), self.discriminator(codes))
        optimizer = self._optimizers["discriminator_optimizer"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss


def read_identity(path: Path) -> dict[str, Any]:
    """What the run saved at `path` is a function of: its recipe, seed and planned steps.

    Raises:
        TrainingError: if the file is no saved run.
    """
    try:
        with safe_open(path, "pt") as file:
            identity: dict[str, Any] = json.loads(file.metadata()["run"])
            return identity
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{path} is no saved training run: {error}") from error


def _pose_problem(recipe: Recipe, dataset: Dataset | Mixture, seed: int, device: torch.device) -> Problem:
    if isinstance(dataset, Mixture):
        return Density(dataset, device)
    try:
        return Supervised(dataset, seed, recipe.networks_per_step, recipe.inputs_per_network, device)
    except ValueError as error:
        raise TrainingError(f"{recipe.name}: {error}") from error


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}
