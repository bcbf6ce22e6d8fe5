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
from models.hypergan import CodeDiscriminator, HyperGAN
from models.noise import standard_normal
from models.prediction import predict_members
from models.target import Weights
from training.datasets import Dataset
from training.evaluation import measure_disagreement
from training.objectives import adversarial_loss, cross_entropy, discriminator_loss, moment_distance
from training.recipes import Recipe

LATENT_STREAM, PRIOR_STREAM, RECALIBRATION_STREAM, ORDER_STREAM = 1, 2, 3, 4
"""Streams of training noise; serving draws from stream 0."""

RECALIBRATION_DRAWS = 4096


class TrainingError(Exception):
    """A run that cannot go on; the message says why."""


@dataclass(frozen=True)
class StepReport:
    """What one step measured: scalars, left on the device so that reading them is the caller's choice."""

    losses: Mapping[str, Tensor]
    accuracy: Tensor
    """Of the sampled networks on the step's images."""
    weights: Weights
    """The sampled networks."""


class TrainingRun:
    """Training of a HyperGAN: a function of recipe, dataset, seed, planned steps and device, and of nothing else.

    All noise and every batch is keyed by (seed, step), so a run that was saved and loaded goes on as it would have.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset, seed: int, planned_steps: int, device: torch.device) -> None:
        self.recipe = recipe
        self.dataset = dataset
        self.seed = seed
        self.planned_steps = planned_steps
        self.device = device
        self.steps = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.sampler: HyperGAN = recipe.method.build(recipe.target)
            joint_code_size = len(recipe.target.weighted_layers) * recipe.method.code_size
            self.discriminator = CodeDiscriminator(joint_code_size, recipe.method.hidden_size)
        self.sampler.to(device)
        self.discriminator.to(device)
        self._optimizers = {
            "optimizer": torch.optim.Adam(
                [
                    {
                        "params": parameters,
                        "lr": recipe.learning_rates[group],
                        "weight_decay": recipe.mean_weight_decay if group == "mean" else 0.0,
                    }
                    for group, parameters in self.sampler.parameter_groups().items()
                ],
                fused=True,
            ),
            "discriminator_optimizer": torch.optim.Adam(
                self.discriminator.parameters(), lr=recipe.discriminator_learning_rate, fused=True
            ),
        }
        self._learning_rates = [group["lr"] for group in self._optimizers["optimizer"].param_groups]
        self._train_images = dataset.train.images.to(device)
        self._train_labels = dataset.train.labels.to(device)
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    @property
    def finished(self) -> bool:
        return self.steps >= self.planned_steps

    def step(self) -> StepReport:
        """One step of mixer and generators, then one of the discriminator, on the same codes without gradient.

        Raises:
            TrainingError: if the loss is not finite; nothing has changed then.
        """
        recipe = self.recipe
        images, labels = self._draw_batch()
        self.sampler.train()
        codes = self.sampler.mix(self._draw_noise(self.sampler.latent_size, LATENT_STREAM))
        weights = self.sampler.generate_from_codes(codes[: recipe.networks_per_step])
        logits = recipe.target.forward(weights, images)

        losses = {"cross_entropy": cross_entropy(logits, labels)}
        loss = losses["cross_entropy"]
        if recipe.moment_matching_weight:
            losses["moments"] = moment_distance(codes)
            loss = loss + recipe.moment_matching_weight * losses["moments"]
        if recipe.adversarial_weight:
            losses["adversarial"] = adversarial_loss(self.discriminator(codes))
            loss = loss + recipe.adversarial_weight * losses["adversarial"]
        if not torch.isfinite(loss):
            raise TrainingError(f"the loss is {loss.item()} at step {self.steps}")

        optimizer = self._optimizers["optimizer"]
        for group, rate in zip(optimizer.param_groups, self._learning_rates, strict=True):
            group["lr"] = rate * self._schedule()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.sampler.parameters(), recipe.gradient_norm_limit)
        optimizer.step()
        if recipe.adversarial_weight:
            losses["discriminator"] = self._step_discriminator(codes.detach())
        self.steps += 1
        return StepReport(
            losses={name: value.detach() for name, value in losses.items()},
            accuracy=(logits.detach().argmax(-1) == labels).float().mean(),
            weights={name: tensor.detach() for name, tensor in weights.items()},
        )

    def validate(self, networks: int = 16) -> dict[str, float]:
        """Accuracy of single networks and of their ensemble, and their disagreement, on the validation split."""
        self.sampler.eval()
        validation = self.dataset.validation
        members = predict_members(self.sampler, self.dataset.input.normalize(validation.images), seed=0, size=networks)
        return {
            "single_accuracy": (members.argmax(-1) == validation.labels).double().mean().item(),
            "ensemble_accuracy": (members.mean(0).argmax(-1) == validation.labels).double().mean().item(),
            "disagreement": measure_disagreement(members),
        }

    def recalibrate(self) -> None:
        """Sets batch normalisation from one large batch of draws, for the sampler's use outside this run."""
        latents = standard_normal(self.seed, range(RECALIBRATION_DRAWS), self.sampler.latent_size, RECALIBRATION_STREAM)
        self.sampler.recalibrate(latents.to(self.device))

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

    def _draw_noise(self, size: int, stream: int) -> Tensor:
        draws = self.recipe.codes_per_step
        members = range(self.steps * draws, (self.steps + 1) * draws)
        return standard_normal(self.seed, members, size, stream).to(self.device)

    def _draw_batch(self) -> tuple[Tensor, Tensor]:
        """Normalised images [S, B, C, H, W] and labels [S, B], distinct within an epoch."""
        shape = self.recipe.networks_per_step, self.recipe.images_per_network
        batch = shape[0] * shape[1]
        steps_per_epoch = len(self._train_labels) // batch
        epoch, position = divmod(self.steps, steps_per_epoch)
        if epoch != self._epoch:
            noise = standard_normal(self.seed, [epoch], len(self._train_labels), ORDER_STREAM)
            self._epoch, self._order = epoch, noise[0].argsort(stable=True)
        index = self._order[position * batch : (position + 1) * batch].to(self.device)
        images = self.dataset.input.normalize(self._train_images[index])
        return images.unflatten(0, shape), self._train_labels[index].unflatten(0, shape)

    def _step_discriminator(self, codes: Tensor) -> Tensor:
        prior = self._draw_noise(codes.shape[1], PRIOR_STREAM)
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


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}
