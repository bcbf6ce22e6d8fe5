"""Gauge fixing: one representative of all weights that compute the same function (Deutsch 2018, section 3.2).

A network of convolutions, linear layers, leaky ReLUs and max-pooling computes the same function under these changes:

* scaling: a hidden filter, with its bias, is divided by s > 0, and the weights that read its output are multiplied by
  s, because all these activations are positively homogeneous. If a normalisation reads the filter, all filters of its
  group are divided by s, and no other weight changes (up to the normalisation's ε).
* permutation: hidden filters of a layer change places, together with the weights that read them.
* logit bias: all biases of the last layer grow by the same number. The logits change, but not their softmax.

Gains and biases of a normalisation count as filters that read one channel. The input of a residual block has no scale
and no order of its own, so filters that write to it or to the block's output are left unchanged.

Distances between networks mean little before these symmetries are fixed. The paper fixes the first and the last, and
leaves out permutations. Sorting gives equivalent networks the same representative, but may move neighbours far apart,
because filters of nearly equal means change places.

Shapes: S networks.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.targets.layers import Layer, Normalization, Residual, Weighted, name_layers
from models.targets.target import TargetNetwork, Weights

GaugeStep = Literal["scaling", "permutation", "logit_bias"]


def fix_gauge(
    target: TargetNetwork, weights: Weights, steps: Collection[GaugeStep] = ("scaling", "logit_bias")
) -> Weights:
    """Computes the representatives of S networks, differentiably; the given weights stay unchanged.

    Scaling gives each hidden filter, with its bias, a root mean square of 1, layer by layer. Permutation sorts the
    filters of each hidden layer by the mean of their weights and bias. Logit bias shifts the mean of the last biases to
    0; it is for classifiers only.

    Args:
        target: the network that the weights belong to.
        weights: S networks.
        steps: which symmetries to fix.

    Returns:
        S networks with the same outputs, up to rounding and, with `logit_bias`, a constant for all logits of an image.
    """
    fixed = dict(weights)
    for coupling in find_couplings(target):
        if "scaling" in steps:
            _scale(fixed, coupling)
        if "permutation" in steps and coupling.permutable:
            order = filter_vectors(fixed, coupling.layer).mean(2).argsort(dim=1, stable=True)
            permute_filters(fixed, coupling, order)
    if "logit_bias" in steps:
        name = f"{target.weighted_layers[-1]}.bias"
        fixed[name] = fixed[name] - fixed[name].mean(1, keepdim=True)
    return fixed


@dataclass(frozen=True)
class Coupling:
    """A hidden layer, and the only layer that reads its output."""

    layer: str
    following: str
    groups: int | None
    """Number of groups of filters, if `following` is a normalisation."""
    permutable: bool
    """Whether filters can change places."""


def find_couplings(target: TargetNetwork) -> list[Coupling]:
    """Hidden layers that only one layer reads, with only homogeneous functions in between, in order."""
    return _find_couplings(target.layers, "")


def _find_couplings(layers: Iterable[Layer], prefix: str) -> list[Coupling]:
    couplings: list[Coupling] = []
    previous: tuple[str, Layer] | None = None
    for name, layer in name_layers(layers).items():
        if isinstance(layer, Residual):
            couplings += _find_couplings(layer.layers, f"{prefix}{name}.")
            previous = None
        elif isinstance(layer, Weighted):
            if previous is not None:
                groups = layer.groups if isinstance(layer, Normalization) else None
                permutable = groups is None and not isinstance(previous[1], Normalization)
                couplings.append(Coupling(previous[0], prefix + name, groups, permutable))
            previous = prefix + name, layer
    return couplings


def filter_vectors(weights: Weights, layer: str) -> Tensor:
    """Filters of a layer with their biases: [S, filters, fan-in + 1]."""
    weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
    return torch.cat([weight.reshape(*weight.shape[:2], -1), bias[..., None]], dim=2)


def permute_filters(weights: Weights, coupling: Coupling, order: Tensor) -> None:
    """Reorders the filters of a layer in network s to order[s, 0], order[s, 1], …, and the weights that read them.

    The dictionary gets new tensors; the old ones stay unchanged. The networks' outputs do not change.
    """
    for name in (f"{coupling.layer}.weight", f"{coupling.layer}.bias"):
        weights[name] = weights[name].take_along_dim(_align(order, weights[name]), dim=1)
    reader = f"{coupling.following}.weight"
    inputs = _split_inputs(weights[reader], order.shape[1])
    weights[reader] = inputs.take_along_dim(order[:, None, :, None], dim=2).view_as(weights[reader])


def _scale(weights: Weights, coupling: Coupling) -> None:
    layer, following = coupling.layer, coupling.following
    power = filter_vectors(weights, layer).square().mean(2)
    if coupling.groups is not None:
        size = power.shape[1] // coupling.groups
        power = power.unflatten(1, (-1, size)).mean(2).repeat_interleave(size, dim=1)
    scale = torch.where(power > 0, power, 1).sqrt()  # a filter of zeros has no scale
    weights[f"{layer}.weight"] = weights[f"{layer}.weight"] / _align(scale, weights[f"{layer}.weight"])
    weights[f"{layer}.bias"] = weights[f"{layer}.bias"] / scale
    if coupling.groups is not None:
        return
    inputs = _split_inputs(weights[f"{following}.weight"], scale.shape[1])
    weights[f"{following}.weight"] = (inputs * scale[:, None, :, None]).view_as(weights[f"{following}.weight"])


def _split_inputs(weight: Tensor, filters: int) -> Tensor:
    """[S, outputs, filters of the previous layer, weights that read one of them], even across a flattening."""
    return weight.reshape(len(weight), weight.shape[1], filters, -1)


def _align(values: Tensor, tensor: Tensor) -> Tensor:
    """Gives values [S, filters] as many dimensions as a parameter [S, filters, …]."""
    return values.view(*values.shape, *[1] * (tensor.dim() - 2))
