"""Fitting: a run that descends the gradient of a sum of objectives through the sampled networks."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.noise import standard_normal
from models.samplers.hypergan import CodeDiscriminator
from models.samplers.sampler import Hypernetwork, VariationalSampler
from models.targets.target import Weights
from training.objectives.objectives import adversarial_loss, discriminator_loss, moment_distance
from training.runs.loop import StepReport
from training.runs.run import TrainingRun
from training.runs.schedule import find_rate_factor
from training.runs.state import TrainingError

PRIOR_STREAM = 2


@dataclass(frozen=True)
class SampledStep:
    """The networks of a step."""

    weights: Weights
    losses: dict[str, Tensor]
    """Losses of the draw itself, which do not depend on data."""
    codes: Tensor | None = None
    """Joint codes of a hypernetwork; there are more codes than networks."""


class FittingRun(TrainingRun):
    """Adam with a warm-up and a cosine schedule."""

    def _build_helpers(self) -> dict[str, nn.Module]:
        if not isinstance(self.sampler, Hypernetwork):
            return {}
        return {"discriminator": CodeDiscriminator(self.sampler.joint_code_size, self.recipe.discriminator_hidden_size)}

    def _build_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        groups = [
            {
                "params": parameters,
                "lr": self.recipe.learning_rates[group],
                "initial_lr": self.recipe.learning_rates[group],
                "weight_decay": self.recipe.weight_decays.get(group, 0.0),
            }
            for group, parameters in self.sampler.parameter_groups().items()
            if parameters
        ]
        optimizers: dict[str, torch.optim.Optimizer] = {"optimizer": torch.optim.Adam(groups, fused=True)}
        if "discriminator" in self._modules:
            optimizers["discriminator_optimizer"] = torch.optim.Adam(
                self._modules["discriminator"].parameters(), lr=self.recipe.discriminator_learning_rate, fused=True
            )
        return optimizers

    def step(self) -> StepReport:
        """Makes one step of the sampler, then one of the discriminator on the same codes, without gradient."""
        recipe = self.recipe
        self.sampler.train()
        draw = self._draw_networks()
        fit = self.problem.fit(recipe.target, draw.weights, self.steps)
        losses = {**fit.losses, **draw.losses}
        if recipe.diversity is not None:
            try:
                losses["diversity"] = recipe.diversity.measure_loss(
                    recipe.target, draw.weights, self.sampler.latent_size, self.progress
                )
            except ValueError as error:
                raise TrainingError(f"step {self.steps}: {error}") from error
        loss = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(loss):
            raise TrainingError(f"the loss is {loss.item()} at step {self.steps}")

        optimizer = self._optimizers["optimizer"]
        factor = find_rate_factor(
            self.steps, self.planned_steps, recipe.warmup_steps, recipe.final_learning_rate_fraction
        )
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.sampler.parameters(), recipe.gradient_norm_limit)
        if not torch.isfinite(norm):
            raise TrainingError(f"the norm of the gradient is {norm.item()} at step {self.steps}")
        self._keep_good()
        optimizer.step()
        if draw.codes is not None and recipe.adversarial_weight:
            losses["discriminator"] = self._step_discriminator(draw.codes.detach())
        self.steps += 1
        return StepReport(
            losses={name: value.detach() for name, value in losses.items()},
            metrics={fit.metric_name: fit.metric},
            weights={name: tensor.detach() for name, tensor in draw.weights.items()},
        )

    def _draw_networks(self) -> SampledStep:
        recipe, sampler = self.recipe, self.sampler
        if isinstance(sampler, Hypernetwork):
            codes = sampler.mix(self._draw_latents(recipe.codes_per_step))
            losses = {}
            if recipe.moment_matching_weight:
                losses["moments"] = recipe.moment_matching_weight * moment_distance(codes)
            if recipe.adversarial_weight:
                logits = self._modules["discriminator"](codes)
                losses["adversarial"] = recipe.adversarial_weight * adversarial_loss(logits)
            return SampledStep(sampler.generate_from_codes(codes[: recipe.networks_per_step]), losses, codes)
        latents = self._draw_latents(recipe.networks_per_step)
        if isinstance(sampler, VariationalSampler):
            weights, divergences = sampler.generate_with_divergence(latents)
            return SampledStep(weights, {"divergence": divergences.mean() / self.problem.num_examples})
        return SampledStep(sampler.generate(latents), {})

    def _draw_latents(self, count: int) -> Tensor:
        return self.sampler.draw_training_latents(self.seed, self.steps, count)

    def _step_discriminator(self, codes: Tensor) -> Tensor:
        discriminator, optimizer = self._modules["discriminator"], self._optimizers["discriminator_optimizer"]
        draws = range(self.steps * len(codes), (self.steps + 1) * len(codes))
        prior = standard_normal(self.seed, draws, codes.shape[1], PRIOR_STREAM).to(self.device)
        loss = discriminator_loss(discriminator(prior), discriminator(codes))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss
