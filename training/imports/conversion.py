"""Plain PyTorch modules as target networks, and their parameters as weights.

Shapes: C channels, H rows and W columns of an image, K outputs.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from models.targets.layers import (
    Activation,
    Convolution,
    Flatten,
    GlobalPooling,
    Layer,
    Linear,
    MaxPooling,
    Normalization,
    Residual,
)
from models.targets.target import TargetNetwork
from training.imports.network import NetworkError

SUPPORTED = (
    "Conv2d with square kernels and without groups or dilation, Linear, ReLU, LeakyReLU, MaxPool2d without overlap, "
    "AdaptiveAvgPool2d(1), GroupNorm, BatchNorm directly after Conv2d or Linear, Flatten, Dropout, Identity, "
    "Sequential, and the ResidualBlock of weights downloads"
)
RESIDUAL = "ResidualBlock"
"""The class of residual blocks in the source of `TargetNetwork.source`."""

TOLERANCE = 1e-4
"""Largest difference of the outputs of module and target, in units of the largest output if that is more than 1."""

COMPARED_INPUTS = 8


@dataclass
class _Source:
    """The modules that become a layer with parameters: their paths in the network, which begin names of parameters."""

    path: str
    module: nn.Module
    norms: dict[str, nn.Module] = field(default_factory=dict)
    """Batch normalisations that are folded into it, in order."""


@dataclass(frozen=True)
class Conversion:
    """A module as a target network."""

    target: TargetNetwork
    network: nn.Module
    sources: tuple[_Source, ...]
    """Where the parameters of each of the target's weighted layers come from, in order."""

    @property
    def folded(self) -> list[str]:
        """Paths of the batch normalisations that are folded into the layers before them."""
        return [path for source in self.sources for path in source.norms]

    def read_weights(self) -> dict[str, Tensor]:
        """The network's current parameters as those of the target: one network, without the axis of networks.

        Raises:
            NetworkError: if module and target give different outputs.
        """
        weights: dict[str, Tensor] = {}
        for layer, source in zip(self.target.weighted_layers, self.sources, strict=True):
            weights[f"{layer}.weight"], weights[f"{layer}.bias"] = _fold(source)
        self._compare(weights)
        return weights

    @torch.inference_mode()
    def _compare(self, weights: dict[str, Tensor]) -> None:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(COMPARED_INPUTS, *self.target.input_shape, generator=generator)
        try:
            expected = self.network(inputs)
        except Exception as error:  # whatever a user's own code raises
            raise NetworkError(f"the module fails on images {self.target.input_shape}: {error}") from error
        found = self.target.forward({name: tensor[None] for name, tensor in weights.items()}, inputs)[0]
        if not isinstance(expected, Tensor) or expected.shape != found.shape:
            got = tuple(expected.shape) if isinstance(expected, Tensor) else type(expected).__name__
            raise NetworkError(
                f"the module gives {got} for {COMPARED_INPUTS} images, but {tuple(found.shape)} is needed"
            )
        difference = float((expected - found).abs().max())
        if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
            raise NetworkError(
                f"the module's outputs differ by {difference:.3g} from those of its layers in a row. A forward method "
                "or a hook of its own cannot be converted"
            )


def convert(network: nn.Module, size: tuple[int, int]) -> Conversion:
    """Converts a module for images of some height and width. Its channels are those that its first layer reads.

    Raises:
        NetworkError: if a layer has no counterpart, or does not fit what reaches it.
    """
    sources: list[_Source] = []
    try:
        layers = tuple(_convert(_list_modules("", network), sources))
        if not sources:
            raise NetworkError(f"the network has no layers with parameters. Supported are {SUPPORTED}")
        target = TargetNetwork((_find_channels(sources[0], size), *size), layers)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise NetworkError(f"the network does not fit images of {size[1]} × {size[0]} pixels: {reason}") from error
    for layer, source in zip(target.weighted_layers, sources, strict=True):
        has, needs = tuple(_read_weight(source).shape), target.parameter_shapes[f"{layer}.weight"]
        if has != needs:
            raise NetworkError(
                f"{source.path}.weight has shape {has}, but images of {size[1]} × {size[0]} pixels need {needs}. "
                "Pass the --size that the network was trained with"
            )
    return Conversion(target, network, tuple(sources))


def _list_modules(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a network in a row, by path; a module may come more than once."""
    if type(module) is not nn.Sequential:
        yield path, module
        return
    for name, child in zip(module._modules, module, strict=True):
        yield from _list_modules(f"{path}.{name}" if path else name, child)


def _convert(modules: Iterator[tuple[str, nn.Module]], sources: list[_Source], flat: bool = False) -> Iterator[Layer]:
    """Layers of modules in a row. The sources of those with parameters are appended."""
    before: nn.Module | None = None
    for path, module in modules:
        match module:
            case nn.Identity() | nn.Dropout() | nn.Dropout1d() | nn.Dropout2d() | nn.AlphaDropout():
                continue
            case LazyModuleMixin():
                _refuse(path, module, "has no sizes yet")
            case nn.Conv2d():
                yield _convert_convolution(path, module)
                sources.append(_Source(path, module))
            case nn.Linear():
                yield Linear(module.out_features)
                sources.append(_Source(path, module))
            case nn.BatchNorm1d() | nn.BatchNorm2d() if module.running_var is not None:
                if not isinstance(before, nn.Conv2d | nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d):
                    _refuse(path, module, "is not directly after a convolution or linear layer, so it cannot be folded")
                sources[-1].norms[path] = module
            case nn.GroupNorm() if module.affine and module.eps == nn.GroupNorm(1, 1).eps:
                yield Normalization(module.num_groups)
                sources.append(_Source(path, module))
            case nn.ReLU():
                yield Activation(0.0)
            case nn.LeakyReLU() if 0 <= module.negative_slope < 1:
                yield Activation(module.negative_slope)
            case nn.MaxPool2d() if _pools_apart(module):
                yield MaxPooling(_square(module.kernel_size))
            case nn.AdaptiveAvgPool2d() if _square(module.output_size) == 1:
                yield GlobalPooling()
            case nn.Flatten() if (module.start_dim, module.end_dim) in ((1, -1), (1, 3)):
                if not flat:
                    yield Flatten()
                flat = True
            case nn.Sequential() if type(module).__name__ == RESIDUAL:
                inner = _list_modules(path, nn.Sequential(OrderedDict(zip(module._modules, module, strict=True))))
                yield Residual(tuple(_convert(inner, sources, flat)))
            case _:
                _refuse(path, module, "has no counterpart")
        before = module


def _convert_convolution(path: str, module: nn.Conv2d) -> Convolution:
    size, stride = _square(module.kernel_size), _square(module.stride)
    match module.padding:
        case "valid":
            padding = 0
        case "same":
            padding = size // 2 if size % 2 and stride == 1 else -1
        case numbers:
            padding = _square(numbers)
    plain = module.groups == 1 and _square(module.dilation) == 1 and module.padding_mode == "zeros"
    if min(size, stride) < 1 or padding < 0 or not plain:
        _refuse(path, module, "has no counterpart")
    return Convolution(module.out_channels, size, padding, stride)


def _pools_apart(module: nn.MaxPool2d) -> bool:
    """Whether windows are square and apart, and incomplete ones are dropped."""
    size = _square(module.kernel_size)
    apart = size == _square(module.stride) and not _square(module.padding) and _square(module.dilation) == 1
    return size > 0 and apart and not module.ceil_mode and not module.return_indices


def _square(size: object) -> int:
    """A size that is the same in both directions; −1 if it is not."""
    match size:
        case int(both) | (int(both),):
            return both
        case int(height), int(width) if height == width:
            return height
    return -1


def _find_channels(first: _Source, size: tuple[int, int]) -> int:
    """Channels of images that the first layer with parameters reads."""
    height, width = size
    shape = _read_weight(first).shape
    read = shape[min(1, len(shape) - 1)]
    channels, rest = divmod(read, height * width) if isinstance(first.module, nn.Linear) else (read, 0)
    if rest:
        raise NetworkError(
            f"{first.path} reads {read} numbers, but images of {width} × {height} pixels have {height * width} in each "
            "channel. Pass the --size that the network was trained with"
        )
    if channels not in (1, 3):
        raise NetworkError(f"{first.path} reads {channels} channels; images have 1 (grey) or 3 (colour)")
    return channels


def _read_weight(source: _Source) -> Tensor:
    """The weight of a module, also where it is computed from other parameters, as by weight normalisation."""
    weight = source.module.weight
    assert isinstance(weight, Tensor)
    return weight


@torch.no_grad()
def _fold(source: _Source) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer, and of the batch normalisations after it."""
    weight = _read_weight(source).double()
    bias = getattr(source.module, "bias", None)
    bias = weight.new_zeros(len(weight)) if bias is None else bias.double()
    for norm in source.norms.values():
        state = {name: tensor.double() for name, tensor in norm.state_dict().items()}
        gain = state.get("weight", torch.ones_like(bias)) / (state["running_var"] + norm.eps).sqrt()
        weight = weight * gain.view(-1, *[1] * (weight.dim() - 1))
        bias = (bias - state["running_mean"]) * gain + state.get("bias", torch.zeros_like(bias))
    return weight.float(), bias.float()


def _refuse(path: str, module: nn.Module, reason: str) -> NoReturn:
    where = f"the layer {path}, {module!r}," if path else f"the network, {type(module).__name__},"
    raise NetworkError(f"{where} {reason}. Supported are {SUPPORTED}; write the network as nn.Sequential of these")
