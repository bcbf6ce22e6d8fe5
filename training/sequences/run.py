"""A training run on sequences."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from models.precision import Precision, multiply_in
from models.sequences.network import SequenceTarget
from models.sequences.sampler import SequenceSampler, SequenceSamplerConfig
from training.runs.loop import StepReport
from training.runs.noise import fork_noise
from training.runs.schedule import find_rate_factor
from training.runs.state import TrainingError, load_state, save_state
from training.sequences.problem import SequenceProblem
from training.sequences.recipe import SequenceRecipe


class SequenceRun:
    """A run depends on recipe, data, seed, planned updates, precision and device, and on nothing else.

    All noise and every batch is keyed by (seed, step), and the state that sequences carry is saved, so a run that was
    saved and loaded continues unchanged.
    """

    def __init__(
        self,
        recipe: SequenceRecipe,
        problem: SequenceProblem,
        seed: int,
        planned_steps: int,
        device: torch.device,
        precision: Precision,
    ) -> None:
        self.recipe = recipe
        self.problem = problem
        self.seed = seed
        self.planned_steps = planned_steps
        self.device = device
        self.precision = precision
        self.steps = 0
        self.symbols = 0
        """Symbols or points that this process has learned from."""
        self._state: tuple[torch.Tensor, torch.Tensor] | None = None
        target = SequenceTarget(recipe.size, problem.spec.num_inputs, problem.spec.num_outputs)
        config = SequenceSamplerConfig(target, recipe.modes, recipe.latent_size)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # the CPU's alone: `torch.manual_seed` seeds every device's
            self.sampler: SequenceSampler = config.build(recipe.dropout).to(device)
        self._optimizer = torch.optim.Adam(self.sampler.parameters(), lr=recipe.learning_rate)

    @property
    def finished(self) -> bool:
        return self.steps >= self.planned_steps

    def step(self) -> StepReport:
        """Makes one update.

        Raises:
            TrainingError: if the loss or its gradient is not finite.
        """
        recipe, sampler = self.recipe, self.sampler.train()
        latents = sampler.draw_training_latents(self.seed, self.steps)
        batch = self.problem.make_batch(
            self.seed, self.steps, len(latents), recipe.batch // len(latents), recipe.window
        )
        with (
            fork_noise((self.seed << 32) + self.steps & (1 << 64) - 1, self.device),
            multiply_in(self.precision, self.device),
        ):
            outputs, state = sampler(batch.inputs, latents, self._state if batch.carries else None)
        loss = self.problem.measure_loss(outputs.float(), batch)
        self._optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(sampler.parameters(), recipe.gradient_norm_limit)
        if not torch.isfinite(norm):
            raise TrainingError(f"the gradient is not finite at step {self.steps + 1}; try a lower learning rate")
        for group in self._optimizer.param_groups:
            group["lr"] = recipe.learning_rate * self._schedule()
        self._optimizer.step()
        self._state = state[0].detach(), state[1].detach()
        self.steps += 1
        self.symbols += batch.num_symbols
        return StepReport({"loss": loss.detach()}, {"gradient norm": norm})

    def validate(self) -> dict[str, float]:
        """Quality on a part of the validation split."""
        sampler = self.sampler.eval()
        return self.problem.validate(sampler, sampler.draw_latents(self.seed, range(self.recipe.modes)))

    def save(self, path: Path) -> None:
        """Writes everything that `load` needs, atomically."""
        carried = {"h": self._state[0], "c": self._state[1]} if self._state else {}
        save_state(path, self._modules, self._optimizers, self.identity, {"steps": str(self.steps)}, carried)

    def load(self, path: Path) -> None:
        """Restores what `save` wrote.

        Raises:
            TrainingError: if the file cannot be read or belongs to another run.
        """
        counters, carried = load_state(path, self._modules, self._optimizers, self.identity)
        self.steps = int(counters["steps"])
        if carried:
            self._state = carried["h"].to(self.device), carried["c"].to(self.device)

    @property
    def identity(self) -> dict[str, Any]:
        """What the run depends on, as plain data."""
        recipe = {field.name: repr(getattr(self.recipe, field.name)) for field in fields(self.recipe)}
        return {"seed": self.seed, "planned_steps": self.planned_steps, "precision": self.precision, **recipe}

    @property
    def _modules(self) -> dict[str, torch.nn.Module]:
        return {"sampler": self.sampler}

    @property
    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"optimizer": self._optimizer}

    def _schedule(self) -> float:
        """Factor of the learning rate at this step. Short trainings rise in a tenth of their steps."""
        warmup = min(self.recipe.warmup_updates, 1 + self.planned_steps // 10)
        return find_rate_factor(self.steps, self.planned_steps, warmup, self.recipe.final_learning_rate_fraction)
