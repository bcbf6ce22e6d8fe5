"""An anchor: one network of a sampler, always the same one, whose maps say what an image looks like.

The mean of each channel is taken of the last rectified map at each resolution. Early maps tell textures and edges, late
ones parts of things. The last features, which the classes are read from, tell foreign images less well, because the
network drops from them what does not tell its classes apart.

Shapes: B images, C channels, H rows, W columns, D features.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from models.samplers.sampler import WeightSampler
from models.targets.layers import Activation, GlobalPooling, Residual, trace_shapes
from models.targets.target import TargetNetwork

ANCHOR_SEED = 3 * 10**15
"""Seed of the anchor, which no request and no calibration uses."""

IMAGES_PER_BLOCK = 64


class Anchor:
    """The first network of `ANCHOR_SEED`, on the CPU. Everybody who loads the checkpoint has the same one."""

    def __init__(self, sampler: WeightSampler) -> None:
        self._channels = find_maps(sampler.target)
        weights = sampler.sample(ANCHOR_SEED, range(1))
        self._layers = sampler.target.module().requires_grad_(False).eval()
        self._layers.load_state_dict({name: tensor[0].float().cpu() for name, tensor in weights.items()})
        self.num_features = sum(self._channels.values())
        """D."""
        self.nbytes: int = sum(parameter.nbytes for parameter in self._layers.parameters())

    def describe(self, prepared: Tensor) -> Tensor:
        """Features of prepared images [B, C, H, W]: float32 [B, D], on the CPU."""
        return torch.cat([self._describe(block) for block in prepared.float().cpu().split(IMAGES_PER_BLOCK)])

    def _describe(self, x: Tensor) -> Tensor:
        features = []
        for name, layer in self._layers.named_children():
            x = layer(x)
            if name in self._channels:
                features.append(x.mean((2, 3)))
                if len(features) == len(self._channels):
                    break
        return torch.cat(features, dim=1)


def find_maps(target: TargetNetwork) -> Mapping[str, int]:
    """Number of channels of each map that is looked at, by the name of the layer that makes it; none for vectors.

    These are the last maps of an activation or a residual block before the resolution halves or positions are lost.
    """
    maps: dict[int, tuple[str, int]] = {}
    stage = 0
    for (name, given, made), layer in zip(trace_shapes(target.layers, target.input_shape), target.layers, strict=True):
        if len(made) != 3 or isinstance(layer, GlobalPooling):
            break
        stage += 2 * made[1] <= given[1]
        if isinstance(layer, Activation | Residual):
            maps[stage] = name, made[0]
    return dict(maps.values())
