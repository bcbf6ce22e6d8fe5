"""Paths between two sampled networks, and the predictions of the networks on them.

Shapes: P points of a path, B inputs, K outputs.
"""

from collections.abc import Generator
from typing import Literal

import torch
from torch import Tensor

from models.inputs.kind import InputKind
from models.predictions.prediction import split_members
from models.samplers.sampler import WeightSampler
from models.targets.gauge import fix_gauge
from models.targets.target import Weights
from models.tasks.probabilities import NotFiniteError
from models.tasks.task import Task

PathKind = Literal["straight", "latent"]


def follow_paths(
    sampler: WeightSampler, spec: InputKind, task: Task, inputs: Tensor, seed: int, ends: tuple[int, int], points: int
) -> Generator[None, None, dict[PathKind, Tensor]]:
    """Predicts with the networks on paths between two members of a seed, evenly spaced, ends included.

    The straight path joins their weights. The scales of their filters are fixed first (`models.targets.gauge`), because
    distances mean little otherwise; filters are not permuted to match. The latent path joins their latents, and
    generates a network from each point. Samplers with a fixed set of networks have no latent path.

    Args:
        sampler: a sampler in evaluation mode.
        spec: the target's input.
        task: the meaning of the target's outputs.
        inputs: raw inputs, [B, …].
        seed: seed of the members.
        ends: the two members.
        points: P, at least 2.

    Yields:
        after each block of networks, so that other work can run in between.

    Returns:
        predictions of each network, class probabilities or numbers, by path: float32 [P, B, K].

    Raises:
        NotFiniteError: if an output is not finite.
    """
    target, normalized = sampler.target, spec.prepare(inputs).to(sampler.device)
    outputs: dict[PathKind, list[Tensor]] = {"straight": []}
    if sampler.num_networks is None:
        outputs["latent"] = []
    shares = torch.linspace(0, 1, points)
    for block in split_members(target, points):
        for kind, parts in outputs.items():
            with torch.inference_mode():
                latents = sampler.draw_latents(seed, ends)
                if kind == "straight":
                    pair = fix_gauge(target, sampler.generate(latents), ["scaling"])
                    weights = go_straight(pair, shares[block.start : block.stop])
                else:
                    path = sampler.interpolate_latents(latents[0], latents[1], points)
                    weights = sampler.generate(path[block.start : block.stop])
                parts.append(target.forward(weights, normalized).cpu())
            yield
    joined = {kind: torch.cat(parts) for kind, parts in outputs.items()}
    if not all(torch.isfinite(found).all() for found in joined.values()):
        raise NotFiniteError("a network on the path gave outputs that are not finite")
    return {kind: task.predict(found) for kind, found in joined.items()}


def go_straight(pair: Weights, shares: Tensor) -> Weights:
    """The networks at shares [P] of the straight path from the first network of a pair to the second."""
    return {
        name: torch.stack([tensor[0].lerp(tensor[1], share) for share in shares.tolist()])
        for name, tensor in pair.items()
    }
