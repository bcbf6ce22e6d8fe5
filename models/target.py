"""Target networks: the networks whose weights are sampled.

A target network is data, an ordered list of layers. From it come the names and shapes of its parameters, a plain
`nn.Module` with the same `state_dict` keys, and one batched forward for many sampled networks at once.

On the CPU, what rules that forward is not arithmetic but memory and the libraries' overhead, so it has two ways. A few
inputs go through each layer of many networks at once. More of them go through one network after the other, with the
channels last in memory. Either way, a block's activations fit into the processor's cache, each thread has networks of
its own, and pooling, by maxima of strided slices, comes before the bias and the activation that it commutes with.

Shapes: S sampled networks, B inputs, K outputs.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from itertools import repeat
from typing import Annotated, Any

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.layers import STRICT, Activation, Bias, Convolution, Layer, Linear, MaxPooling, Shape, Size, Weighted, numel
from models.threads import count_threads, run_in_threads

Weights = dict[str, Tensor]
"""S sampled networks: keys are exactly the target's parameter names, each [S, *shape]."""

FEW_CHANNELS = 4
"""For which libraries of convolutions are slow on the CPU."""

FEW_INPUTS = 4
"""For which one network's layers are too little work."""

NUMBERS_IN_CACHE = 600_000
"""Activations of a block on the CPU: about 2.4 MB, 32 images of the paper's MNIST target."""

NUMBERS_ON_DEVICE = 64_000_000
"""Likewise elsewhere."""

PRODUCTS_WORTH_A_THREAD = 1_000_000
"""Multiplications that take longer than it takes to hand them to a thread."""


@dataclass(frozen=True, config=STRICT)
class TargetNetwork:
    """A feed-forward network: images [B, C, H, W] or vectors [B, numbers] → outputs [B, K].

    Raises:
        ValueError: if a layer does not fit the shape that reaches it, or the last one is not linear.
    """

    input_shape: tuple[Size, Size, Size] | tuple[Size]
    layers: Annotated[tuple[Layer, ...], Field(min_length=1, max_length=1000)]

    def __post_init__(self) -> None:
        shape: Shape = self.input_shape
        for name, layer in self.named_layers.items():
            rank = {"conv": 3, "pool": 3, "flatten": 3, "linear": 1}.get(layer.kind, len(shape))
            if len(shape) != rank:
                raise ValueError(f"layer {name} takes {rank} dimensions but gets shape {shape}")
            shape = layer.output_shape(shape)
            if min(shape) < 1:
                raise ValueError(f"layer {name} leaves nothing of its input: its output has shape {shape}")
        if not isinstance(self.layers[-1], Linear):
            raise ValueError(f"the last layer must be linear, to give outputs, not {self.layers[-1].kind}")

    @cached_property
    def named_layers(self) -> dict[str, Layer]:
        """Layers by name: kind and running number, as in conv1, act1, pool1, conv2, …"""
        counts: dict[str, int] = {}
        named: dict[str, Layer] = {}
        for layer in self.layers:
            counts[layer.kind] = counts.get(layer.kind, 0) + 1
            named[f"{layer.kind}{counts[layer.kind]}"] = layer
        return named

    @cached_property
    def parameter_shapes(self) -> dict[str, Shape]:
        """Name and shape of every parameter, in the order of the `state_dict`."""
        with torch.device("meta"):
            return {name: tuple(p.shape) for name, p in self.module().named_parameters()}

    @property
    def weighted_layers(self) -> list[str]:
        """Names of the layers that have parameters, in order."""
        return [name for name, layer in self.named_layers.items() if isinstance(layer, Weighted)]

    def layer_vectors(self, weights: Weights) -> dict[str, Tensor]:
        """Weights and biases of each layer of S networks as vectors, [S, numbers of the layer]."""
        return {
            layer: torch.cat([weights[f"{layer}.{p}"].flatten(1) for p in ("weight", "bias")], dim=1)
            for layer in self.weighted_layers
        }

    def flatten_weights(self, weights: Weights) -> Tensor:
        """S networks as vectors, [S, weights of one], layer after layer."""
        return torch.cat(list(self.layer_vectors(weights).values()), dim=1)

    def split_weights(self, vectors: Tensor, names: Collection[str] | None = None) -> Weights:
        """The inverse of `flatten_weights`, from [S, weights of one]; of the networks the named parameters."""
        parts = vectors.split([numel(shape) for shape in self.parameter_shapes.values()], dim=1)
        return {
            name: part.reshape(-1, *shape)
            for (name, shape), part in zip(self.parameter_shapes.items(), parts, strict=True)
            if names is None or name in names
        }

    @property
    def num_weights(self) -> int:
        """Number of weights of one network, biases included."""
        return sum(map(numel, self.parameter_shapes.values()))

    @property
    def num_outputs(self) -> int:
        """K."""
        return self.parameter_shapes[f"{self.weighted_layers[-1]}.bias"][0]

    def module(self) -> nn.Sequential:
        """A plain PyTorch module, freshly initialised, whose `state_dict` keys are the parameter names."""
        modules: OrderedDict[str, nn.Module] = OrderedDict()
        shape: Shape = self.input_shape
        for name, layer in self.named_layers.items():
            modules[name] = layer.module(shape)
            shape = layer.output_shape(shape)
        return nn.Sequential(modules)

    @cached_property
    def source(self) -> str:
        """Python source of `module()`; it needs `OrderedDict` and `torch.nn` alone, so a client can paste it."""
        with torch.device("meta"):
            lines = "".join(f"    {name}=nn.{module!r},\n" for name, module in self.module().named_children())
        return f"nn.Sequential(OrderedDict(\n{lines}))"

    def forward(self, weights: Weights, inputs: Tensor) -> Tensor:
        """Outputs of S sampled networks at once.

        Memory beside the result is bounded whatever S and B: activations live for a block of networks and inputs at a
        time.

        Args:
            weights: S sampled networks.
            inputs: [B, *input shape], the same for all networks, or [S, B, *input shape].

        Returns:
            [S, B, K].
        """
        names, tensors = list(weights), list(weights.values())
        size = self._choose_share(len(tensors[0]), inputs)
        if size >= len(tensors[0]):
            return self._forward_part(weights, inputs)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (inputs, *tensors)):
            # PyTorch leaves `apply` untyped, and mypy excuses calls to torch's own classes alone.
            outputs: Tensor = _ForwardInThreads.apply(self, size, names, inputs, *tensors)  # type: ignore[no-untyped-call]
            return outputs

        def forward_part(part: tuple[Tensor, ...]) -> Tensor:
            return self._forward_part(dict(zip(names, part[1:], strict=True)), part[0])

        return torch.cat(run_in_threads(forward_part, self._divide(inputs, tensors, size)))

    def _choose_share(self, networks: int, inputs: Tensor) -> int:
        """How many networks a thread takes; all of them where threads are of no use."""
        products = networks * self._count_inputs(inputs) * self._products
        divided = inputs.device.type == "cpu" and products >= PRODUCTS_WORTH_A_THREAD
        return -(-networks // count_threads()) if divided else networks

    def _count_inputs(self, inputs: Tensor) -> int:
        """B."""
        return inputs.shape[-len(self.input_shape) - 1]

    def _shares(self, inputs: Tensor) -> bool:
        """Whether the inputs are the same for all networks."""
        return inputs.dim() == len(self.input_shape) + 1

    def _divide(self, inputs: Tensor, tensors: Sequence[Tensor], size: int) -> Iterator[tuple[Tensor, ...]]:
        """Inputs and weights of `size` networks at a time."""
        own = repeat(inputs) if self._shares(inputs) else inputs.split(size)
        return zip(own, *(tensor.split(size) for tensor in tensors), strict=False)

    def _forward_part(self, weights: Weights, inputs: Tensor) -> Tensor:
        """As `forward`, in this thread."""
        on_cpu = inputs.device.type == "cpu"
        each = on_cpu and len(self.input_shape) == 3 and self._count_inputs(inputs) > FEW_INPUTS
        most = NUMBERS_IN_CACHE if on_cpu else NUMBERS_ON_DEVICE
        most //= self._largest_activation if each else self._largest_patches
        tensors = list(weights.values())
        outputs = []
        for block in inputs.split(max(1, most), dim=-len(self.input_shape) - 1):
            size = len(tensors[0]) if each else max(1, most // self._count_inputs(block))
            parts = ((dict(zip(weights, w, strict=True)), x) for x, *w in self._divide(block, tensors, size))
            forward = self._forward_each if each else self._forward_stacked
            outputs.append(_join([forward(*part) for part in parts], dim=0))
        return _join(outputs, dim=1)

    def _forward_each(self, weights: Weights, inputs: Tensor) -> Tensor:
        """As `forward`, one network after the other."""
        networks = [dict(zip(weights, tensors, strict=True)) for tensors in zip(*weights.values(), strict=True)]
        first = self._unfolding
        prepare: Callable[[Tensor], Tensor] = first.unfold if first else lambda block: block
        own = repeat(prepare(inputs), len(networks)) if self._shares(inputs) else map(prepare, inputs.unbind())
        return torch.stack([self._forward_one(w, x, first) for w, x in zip(networks, own, strict=True)])

    def _forward_one(self, weights: dict[str, Tensor], x: Tensor, unfolded: Convolution | None) -> Tensor:
        """Outputs of one network, from inputs or from what the first layer unfolded of them, if it did."""
        for layer, names in self._steps:
            forward, unfolded = (unfolded.forward_patches if unfolded else layer.forward), None
            x = forward(x, *(weights[name] for name in names))
        return x

    def _forward_stacked(self, weights: Weights, x: Tensor) -> Tensor:
        """As `forward`, each layer of all networks at once."""
        if len(self.input_shape) == 3:
            x = x.movedim(-3, -1)
        for layer, names in self._steps:
            x = layer.forward_stacked(x, *(weights[name] for name in names))
        return x

    @cached_property
    def _unfolding(self) -> Convolution | None:
        """The first layer, if it is a convolution of few channels.

        On the CPU that is fastest as one product of matrices, with or without gradients, and networks that see the
        same inputs share the patches. It leaves the channels last, as the other layers like them best.
        """
        first = self.layers[0]
        return first if isinstance(first, Convolution) and self.input_shape[0] <= FEW_CHANNELS else None

    @cached_property
    def _steps(self) -> list[tuple[Layer | Bias, list[str]]]:
        """Layers in the order of execution, with the names of the parameters that each takes.

        Pooling comes before the bias and the activation that precede it, which never decrease, so that they commute
        with a maximum, exactly; they then have a quarter of the work.
        """
        steps: list[tuple[Layer | Bias, list[str]]] = []
        for name, layer in self.named_layers.items():
            parameters = [f"{name}.weight", f"{name}.bias"] if isinstance(layer, Weighted) else []
            steps.append((layer, parameters))
            if isinstance(layer, MaxPooling):
                pooling, overtaken = steps.pop(), []
                if steps and isinstance(steps[-1][0], Activation):
                    overtaken.append(steps.pop())
                if steps and isinstance(steps[-1][0], Convolution):
                    convolution, (weight, bias) = steps.pop()
                    steps.append((convolution, [weight]))
                    overtaken.append((Bias(), [bias]))
                steps += [pooling, *reversed(overtaken)]
        return steps

    @cached_property
    def _input_shapes(self) -> list[Shape]:
        """Of each layer."""
        shapes: list[Shape] = [self.input_shape]
        for layer in self.layers[:-1]:
            shapes.append(layer.output_shape(shapes[-1]))
        return shapes

    @cached_property
    def _largest_activation(self) -> int:
        """Numbers of one network for one input."""
        return max(map(numel, self._input_shapes))

    @cached_property
    def _largest_patches(self) -> int:
        """Likewise, where convolutions unfold what they see."""
        layers = zip(self.layers, self._input_shapes, strict=True)
        patches = [layer.count_patches(shape) for layer, shape in layers if isinstance(layer, Convolution)]
        return max([self._largest_activation, *patches])

    @cached_property
    def _products(self) -> int:
        """Multiplications of one network for one input."""
        layers = zip(self.layers, self._input_shapes, strict=True)
        return sum(layer.count_products(shape) for layer, shape in layers if isinstance(layer, Weighted))


class _ForwardInThreads(torch.autograd.Function):
    """`TargetNetwork.forward` of networks that are divided among threads, which differentiate them, too."""

    @staticmethod
    def forward(ctx: Any, target: TargetNetwork, size: int, names: list[str], *tensors: Tensor) -> Tensor:
        needed = ctx.needs_input_grad[3:]

        def forward_part(part: tuple[Tensor, ...]) -> tuple[list[Tensor], Tensor]:
            leaves = [t.detach().requires_grad_(wanted) for t, wanted in zip(part, needed, strict=True)]
            with torch.enable_grad():
                return leaves, target._forward_part(dict(zip(names, leaves[1:], strict=True)), leaves[0])

        ctx.parts = run_in_threads(forward_part, target._divide(tensors[0], tensors[1:], size))
        ctx.shared = target._shares(tensors[0])
        return torch.cat([outputs.detach() for _, outputs in ctx.parts])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        parts, ctx.parts = ctx.parts, None

        def differentiate(part: tuple[tuple[list[Tensor], Tensor], Tensor]) -> list[Tensor]:
            (leaves, outputs), own = part
            return list(torch.autograd.grad(outputs, [leaf for leaf in leaves if leaf.requires_grad], own))

        gradients = gradient.split([len(outputs) for _, outputs in parts])
        found = zip(*run_in_threads(differentiate, zip(parts, gradients, strict=True)), strict=True)
        by_input: list[Tensor | None] = []
        for i, needed in enumerate(ctx.needs_input_grad[3:]):
            own = next(found) if needed else None
            by_input.append(None if own is None else sum(own) if i == 0 and ctx.shared else torch.cat(own))
        return None, None, None, *by_input


def _join(tensors: list[Tensor], dim: int) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)
