"""Rotation prediction: networks also tell by how many quarter turns an image was turned.

Hendrycks, Mazeika, Kadavath & Song, "Using Self-Supervised Learning Can Improve Model Robustness and Uncertainty",
NeurIPS 2019. To tell turns, features must hold more of an image than what tells its class.

The outputs that tell turns are further rows of the last layer. They belong to the training, not to the sampler, so the
networks that are sampled afterwards are plain ones. A turned image is asked for no class, so nothing is said about a 6
that becomes a 9. Where turned images look like upright ones, as a 0 or an 8 does, the turn cannot be told, and the loss
only asks for an even guess.

Deviation from the paper: each image is shown turned once, by a number of quarter turns that goes around, and not by all
four, which would take more than twice as long.

Shapes: S sampled networks, B inputs each, D numbers that the last layer reads.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.targets.layers import Linear
from models.targets.target import TargetNetwork, Weights

TURNS = 4


@dataclass(frozen=True)
class Rotation:
    """Settings of the task."""

    weight: float = 0.5
    learning_rate: float = 1e-3
    """Of the rows that tell turns."""


class TurnHead(nn.Module):
    """Rows of the last layer that tell turns, for each of the S networks of a step."""

    def __init__(self, target: TargetNetwork, networks: int) -> None:
        super().__init__()
        self.layer = target.weighted_layers[-1]
        _, size = target.parameter_shapes[f"{self.layer}.weight"]
        self.target = replace(target, layers=(*target.layers[:-1], Linear(target.num_outputs + TURNS)))
        """The target whose last outputs tell turns."""
        self.weight = nn.Parameter(torch.zeros(networks, TURNS, size))
        self.bias = nn.Parameter(torch.zeros(networks, TURNS))

    def extend(self, weights: Weights) -> Weights:
        """Weights of S networks of `self.target`, from those of the plain target."""
        own = {f"{self.layer}.weight": self.weight, f"{self.layer}.bias": self.bias}
        return {name: torch.cat([tensor, own[name]], 1) if name in own else tensor for name, tensor in weights.items()}


def turn_images(images: Tensor) -> Tensor:
    """Images [S, B, C, H, H], of each network the first as it is, the next turned by 90°, and so on."""
    turned = images.clone()
    for turns in range(1, TURNS):
        turned[:, turns::TURNS] = images[:, turns::TURNS].rot90(turns, (-2, -1))
    return turned


def rotation_loss(outputs: Tensor, rotation: Rotation) -> Tensor:
    """Weighted cross-entropy of the turns of `turn_images`, from outputs [S, B, 4]."""
    turns = torch.arange(outputs.shape[1], device=outputs.device) % TURNS
    return rotation.weight * F.cross_entropy(outputs.flatten(0, 1), turns.repeat(len(outputs)))
