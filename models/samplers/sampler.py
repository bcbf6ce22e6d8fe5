"""The weight sampler: the base of every method, hypernetwork or baseline."""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from models.noise import standard_normal, uniform
from models.targets.target import TargetNetwork, Weights

TRAINING_STREAM = 1
"""Stream of the latents used in training; those that are served come from stream 0."""


class WeightSampler(nn.Module, ABC):
    """A distribution over the weights of a target network.

    Every sampled network has an address: checkpoint, seed, member. Its weights depend on nothing else: member 3 of
    seed 7 is the same network alone, among 4 or among 1000 (up to the rounding of the device's matrix products).

    Shapes: S sampled networks, Z latent numbers.
    """

    latent_prior: Literal["normal", "uniform"] = "normal"
    """Distribution of each latent number: N(0, 1), or uniform on (−1, 1)."""

    num_networks: int | None = None
    """Number of networks, which are drawn without replacement; None if every draw gives new ones."""

    multiplies: bool = False
    """Whether a draw consists of matrix products, which a coarser precision makes faster."""

    def __init__(self, target: TargetNetwork, latent_size: int) -> None:
        super().__init__()
        self.target = target
        self.latent_size = latent_size

    @abstractmethod
    def generate(self, latents: Tensor, names: Collection[str] | None = None) -> Weights:
        """Maps latents to weights, differentiably.

        Args:
            latents: [S, Z], on the sampler's device.
            names: the parameters to generate, if not all; methods skip the work for the others where they can.

        Returns:
            the weights of S networks, in the order of the target's parameters.
        """

    def draw_latents(self, seed: int, members: Sequence[int], stream: int = 0) -> Tensor:
        """Latents of some members of a seed, [S, Z], on the sampler's device; streams as in `models.noise`.

        Raises:
            ValueError: if there are fewer networks.
        """
        draw = standard_normal if self.latent_prior == "normal" else uniform
        return draw(seed, members, self.latent_size, stream).to(self.device)

    def draw_training_latents(self, seed: int, step: int, count: int) -> Tensor:
        """Latents for a training step, [count, Z]: new ones, or what suits the method better."""
        return self.draw_latents(seed, range(step * count, (step + 1) * count), TRAINING_STREAM)

    def limit_networks(self, count: int) -> int:
        """A number of networks, limited to those that exist."""
        return count if self.num_networks is None else min(count, self.num_networks)

    def interpolate_latents(self, first: Tensor, last: Tensor, points: int) -> Tensor:
        """Latents on a path between two latents [Z], evenly spaced, ends included: [points, Z].

        For a uniform prior the path is straight, as in Deutsch's paper, though its middle is shorter than draws from
        the prior. For a normal prior it is an arc, cos θ · first + sin θ · last, and every point has the prior's
        distribution.
        """
        share = torch.linspace(0, 1, points, device=first.device)[:, None]
        if self.latent_prior == "uniform":
            return (1 - share) * first + share * last
        angle = share * math.pi / 2
        return angle.cos() * first + angle.sin() * last

    @torch.inference_mode()
    def sample(self, seed: int, members: Sequence[int], names: Collection[str] | None = None) -> Weights:
        """Draws the networks at (seed, member) for each of `members`. The result is that of `generate`."""
        return self.generate(self.draw_latents(seed, members), names)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by the name of their learning rate."""
        return {"all": list(self.parameters())}

    @torch.no_grad()
    def recalibrate(self, latents: Tensor) -> None:
        """Replaces the running statistics of batch normalisation by those of one large batch of latents [S, Z].

        The averages from training lag behind the weights, and come from batches of few networks.
        """
        norms = [module for module in self.modules() if isinstance(module, nn.BatchNorm1d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average, here of one batch
            norm.train()
        self.generate(latents)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


class Hypernetwork(WeightSampler):
    """A sampler that is itself a network, in two parts: latents → joint codes → weights.

    The codes of all layers of a draw form one vector, on which regularisers can act in training.

    Shapes: C numbers in a joint code.
    """

    joint_code_size: int
    """C."""

    multiplies = True

    @abstractmethod
    def mix(self, latents: Tensor) -> Tensor:
        """Joint codes from latents: [S, Z] → [S, C]."""

    @abstractmethod
    def generate_from_codes(self, codes: Tensor, names: Collection[str] | None = None) -> Weights:
        """Maps joint codes [S, C] to weights; arguments and result are otherwise those of `generate`."""

    def generate(self, latents: Tensor, names: Collection[str] | None = None) -> Weights:
        return self.generate_from_codes(self.mix(latents), names)


class VariationalSampler(WeightSampler):
    """A sampler that is trained as an approximate posterior, and can estimate its divergence from the weight prior."""

    @abstractmethod
    def generate_with_divergence(self, latents: Tensor) -> tuple[Weights, Tensor]:
        """The weights of `generate`, and an estimate of KL(sampler ‖ prior) in nats from each draw, [S]."""


class NetworkStack(nn.Module):
    """M networks of a target as parameters, each with PyTorch's initialisation."""

    def __init__(self, target: TargetNetwork, networks: int, without: Collection[str] = ()) -> None:
        """Holds all of the target's parameters except the names in `without`."""
        super().__init__()
        abstract = torch.get_default_device().type == "meta"  # its tensors have shapes but no numbers
        states = [target.module().state_dict() for _ in range(0 if abstract else networks)]
        for name, shape in target.parameter_shapes.items():
            if name not in without:
                path, _, leaf = name.rpartition(".")
                stack = torch.empty(networks, *shape) if abstract else torch.stack([state[name] for state in states])
                parameter = nn.Parameter(stack)
                self._find_module(path).register_parameter(leaf, parameter)

    def _find_module(self, path: str) -> nn.Module:
        """The module at a dotted path, created if missing."""
        module: nn.Module = self
        for part in path.split("."):
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        return module

    def select(self, index: Tensor, names: Collection[str] | None = None) -> Weights:
        """Selects networks index[0], index[1], …, [S], differentiably. If names are given, only these parameters."""
        return {name: p.index_select(0, index) for name, p in self.named_parameters() if names is None or name in names}

    @torch.no_grad()
    def divide_outputs(self, divisor: float) -> None:
        """Divides the outputs of all networks by a number, through the last layer's weights and biases."""
        *_, last = self.children()
        for parameter in last.parameters():
            parameter.div_(divisor)
