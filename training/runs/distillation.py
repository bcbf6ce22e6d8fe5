"""Adversarial distillation: Langevin dynamics visits networks, then a GAN learns to generate networks like them.

Wang, Vicol, Lucas, Gu, Grosse & Zemel, "Adversarial Distillation of Bayesian Neural Network Posteriors", ICML 2018.

Shapes: n collected networks, D weights of one, Z latent numbers of the generator.
"""

import math

import torch
from torch import Tensor, nn

from models.noise import standard_normal, uniform
from models.samplers.apd import APD, make_perceptron
from models.samplers.sampler import NetworkStack
from training.recipes.recipe import Distillation
from training.runs.loop import StepReport
from training.runs.run import TrainingRun
from training.runs.state import TrainingError

LANGEVIN_STREAM, BATCH_STREAM, MIX_STREAM = 6, 7, 8


class DistillationRun(TrainingRun):
    """A run in two phases: first Langevin dynamics, with one gradient a step; then a GAN.

    Each step of the second phase trains the critic several times and the generator once.
    """

    sampler: APD

    @property
    def distillation(self) -> Distillation:
        assert self.recipe.distillation is not None
        return self.recipe.distillation

    @property
    def langevin_steps(self) -> int:
        return math.ceil(self.distillation.langevin_share * self.planned_steps)

    def _build_helpers(self) -> dict[str, nn.Module]:
        plan = self.distillation
        collected = (self.langevin_steps - plan.burn_in) // plan.interval
        if collected < 2 or self.langevin_steps == self.planned_steps:
            raise TrainingError(
                f"{self.planned_steps} steps are too few: {plan.langevin_share:.0%} run Langevin dynamics, which "
                f"burns in for {plan.burn_in} steps and then visits at least two networks, {plan.interval} steps apart"
            )
        self._chain = NetworkStack(self.recipe.target, 1)
        self._collection = Collection(collected, self.recipe.target.num_weights)
        self._critic = make_perceptron(self.recipe.target.num_weights, self.sampler.config.hidden_size, 1)
        return {"chain": self._chain, "collection": self._collection, "critic": self._critic}

    def _build_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        rate = self.recipe.learning_rates["all"]
        return {
            f"{name}_optimizer": torch.optim.Adam(module.parameters(), lr=rate, betas=(0.5, 0.9), fused=True)
            for name, module in (("generator", self.sampler.layers), ("critic", self._critic))
        }

    def validate(self, networks: int = 16) -> dict[str, float]:
        """Metrics as of other runs, but none during Langevin dynamics, before the generator is trained."""
        return super().validate(networks) if self.steps > self.langevin_steps else {}

    def step(self) -> StepReport:
        """Makes one step of Langevin dynamics, or several of the critic and one of the generator."""
        report = self._step_chain() if self.steps < self.langevin_steps else self._step_generator()
        for name, loss in report.losses.items():
            if not torch.isfinite(loss):
                raise TrainingError(f"the loss ({name}) is {loss.item()} at step {self.steps}")
        self._keep_good()
        self.steps += 1
        return report

    def _step_chain(self) -> StepReport:
        """θ ← θ − ε/2 · (∇ loss + decay · θ) + N(0, ε / N), the loss being the mean over N examples."""
        plan = self.distillation
        weights = self._chain.select(torch.zeros(1, dtype=torch.int64, device=self.device))
        fit = self.problem.fit(self.recipe.target, weights, self.steps)
        loss = torch.stack(list(fit.losses.values())).sum()
        gradients = torch.autograd.grad(loss, list(self._chain.parameters()))
        noise = standard_normal(self.seed, [self.steps], self.recipe.target.num_weights, LANGEVIN_STREAM)
        scale = math.sqrt(plan.langevin_rate / self.problem.num_examples)
        with torch.no_grad():
            parts = noise.to(self.device)[0].split([p.numel() for p in self._chain.parameters()])
            for parameter, gradient, part in zip(self._chain.parameters(), gradients, parts, strict=True):
                drift = gradient + plan.langevin_decay * parameter
                parameter.add_(scale * part.view_as(parameter) - plan.langevin_rate / 2 * drift)
            since = self.steps + 1 - plan.burn_in
            if since > 0 and since % plan.interval == 0:
                vector = self.recipe.target.flatten_weights(weights)[0]
                self._collection.add(since // plan.interval - 1, vector)
        return StepReport(
            losses={name: value.detach() for name, value in fit.losses.items()},
            metrics={fit.metric_name: fit.metric},
            weights={name: tensor.detach() for name, tensor in weights.items()},
        )

    def _step_generator(self) -> StepReport:
        """Trains critic and generator by WGAN-GP (Gulrajani et al., NeurIPS 2017)."""
        plan, generator, critic = self.distillation, self.sampler, self._critic
        if self.steps == self.langevin_steps:
            with torch.no_grad():
                generator.mean.copy_(self._collection.vectors.mean(0))
                generator.deviation.copy_(self._collection.vectors.std(0))
        samples = (self._collection.vectors - generator.mean) / generator.deviation
        generator.train()
        for repeat in range(plan.critic_steps):
            number = self.steps * (plan.critic_steps + 1) + repeat
            chosen = uniform(self.seed, [number], plan.batch_size, BATCH_STREAM)[0]
            real = samples[((chosen + 1) / 2 * len(samples)).long().clamp(max=len(samples) - 1).to(self.device)]
            with torch.no_grad():
                fake = generator.generate_standardized(self._draw_latents(number))
            share = uniform(self.seed, [number], len(real), MIX_STREAM)[0].to(self.device)[:, None] / 2 + 0.5
            penalty = measure_gradient_penalty(critic, real.lerp(fake, share))
            critic_loss = (critic(fake) - critic(real)).mean() + plan.gradient_penalty * penalty
            self._descend("critic", critic_loss)
        latents = self._draw_latents(self.steps * (plan.critic_steps + 1) + plan.critic_steps)
        vectors = generator.generate_standardized(latents)
        generator_loss = -critic(vectors).mean()
        self._descend("generator", generator_loss)
        weights = self.recipe.target.split_weights(generator.mean + generator.deviation * vectors.detach())
        return StepReport(
            losses={"critic": critic_loss.detach(), "generator": generator_loss.detach()}, metrics={}, weights=weights
        )

    def _draw_latents(self, number: int) -> Tensor:
        return self.sampler.draw_training_latents(self.seed, number, self.distillation.batch_size)

    def _descend(self, name: str, loss: Tensor) -> None:
        optimizer = self._optimizers[f"{name}_optimizer"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


class Collection(nn.Module):
    """Networks that Langevin dynamics visited, as vectors."""

    vectors: Tensor
    """The networks, [n, D]."""

    def __init__(self, size: int, num_weights: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(size, num_weights))

    def add(self, index: int, vector: Tensor) -> None:
        if index < len(self.vectors):
            self.vectors[index] = vector


def measure_gradient_penalty(critic: nn.Module, points: Tensor) -> Tensor:
    """Mean squared difference from 1 of the norm of the critic's gradient at points [n, D]."""
    points = points.detach().requires_grad_()
    (gradients,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    penalty: Tensor = (gradients.norm(dim=1) - 1).square().mean()
    return penalty
