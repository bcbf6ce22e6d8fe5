"""Gauge fixing: of all weights that make the same function, one representative (Deutsch 2018, section 3.2).

A network of convolutions, linear layers, leaky ReLUs and max-pooling computes the same function when

* scaling: a hidden filter, bias included, is divided by s > 0 and the weights that read its output are multiplied by s,
  for all these activations are positively homogeneous;
* permutation: hidden filters of a layer change places, and with them the weights that read them;
* logit bias: all last biases grow by the same number, to the softmax of the logits, though not to the logits.

Distances between networks mean little before these are fixed. The paper fixes the first and the last; permutations are
the step that it leaves out. Sorting gives equivalent networks the same representative, but neighbours may get distant
ones, as filters of nearly equal means change places.

Shapes: S networks.
"""

from collections.abc import Collection
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from models.target import TargetNetwork, Weights

GaugeStep = Literal["scaling", "permutation", "logit_bias"]


def fix_gauge(
    target: TargetNetwork, weights: Weights, steps: Collection[GaugeStep] = ("scaling", "logit_bias")
) -> Weights:
    """The representatives of S networks, differentiably; the given weights are left as they are.

    Scaling gives each hidden filter, with its bias, the root mean square 1, layer after layer. Permutation sorts the
    filters of each hidden layer by the mean of their weights and bias. Logit bias makes the mean of the last biases 0;
    it is for classifiers alone.

    Args:
        target: the network that the weights belong to.
        weights: S networks.
        steps: which symmetries to fix.

    Returns:
        S networks with the same outputs, to rounding and, with `logit_bias`, to a constant of all logits of an image.
    """
    fixed = dict(weights)
    for layer, following in pairwise(target.weighted_layers):
        if "scaling" in steps:
            _scale(fixed, layer, following)
        if "permutation" in steps:
            order = filter_vectors(fixed, layer).mean(2).argsort(dim=1, stable=True)
            permute_filters(fixed, layer, following, order)
    if "logit_bias" in steps:
        name = f"{target.weighted_layers[-1]}.bias"
        fixed[name] = fixed[name] - fixed[name].mean(1, keepdim=True)
    return fixed


def filter_vectors(weights: Weights, layer: str) -> Tensor:
    """Filters of a layer with their biases: [S, filters, fan-in + 1]."""
    return torch.cat([weights[f"{layer}.weight"].flatten(2), weights[f"{layer}.bias"][..., None]], dim=2)


def permute_filters(weights: Weights, layer: str, following: str, order: Tensor) -> None:
    """Puts filters order[s, 0], order[s, 1], … of a layer of network s first, second, …, and so what reads them.

    The dictionary gets new tensors; the old ones stay as they are. The networks' outputs do not change.
    """
    for name in (f"{layer}.weight", f"{layer}.bias"):
        weights[name] = weights[name].take_along_dim(_align(order, weights[name]), dim=1)
    inputs = _split_inputs(weights[f"{following}.weight"], order.shape[1])
    weights[f"{following}.weight"] = inputs.take_along_dim(order[:, None, :, None], dim=2).view_as(
        weights[f"{following}.weight"]
    )


def _scale(weights: Weights, layer: str, following: str) -> None:
    power = filter_vectors(weights, layer).square().mean(2)
    scale = torch.where(power > 0, power, 1).sqrt()  # a filter of zeros has no scale
    weights[f"{layer}.weight"] = weights[f"{layer}.weight"] / _align(scale, weights[f"{layer}.weight"])
    weights[f"{layer}.bias"] = weights[f"{layer}.bias"] / scale
    inputs = _split_inputs(weights[f"{following}.weight"], scale.shape[1])
    weights[f"{following}.weight"] = (inputs * scale[:, None, :, None]).view_as(weights[f"{following}.weight"])


def _split_inputs(weight: Tensor, filters: int) -> Tensor:
    """[S, outputs, filters of the layer before, weights that read one of them], also across a flattening."""
    return weight.reshape(len(weight), weight.shape[1], filters, -1)


def _align(values: Tensor, tensor: Tensor) -> Tensor:
    """[S, filters] with as many dimensions as a parameter [S, filters, …]."""
    return values.view(*values.shape, *[1] * (tensor.dim() - 2))
