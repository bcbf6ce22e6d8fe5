"""The LSTM that a HyperLSTM is for one step: its weights as they are then, in the form of an LSTM's.

A step scales the rows of W_h and W_x and sets the biases. With these in place, an LSTM makes the same step: it has the
same outputs, and its cells go the same way.

Shapes: S networks, H units, K outputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from models.sequences.hyper_lstm import HyperLSTMCell
from models.sequences.network import HyperLSTMSize, LSTMSize, SequenceNetwork, SequenceTarget


@dataclass(frozen=True)
class Outlook:
    """What the networks of a sequence say at its end."""

    outputs: Tensor
    """Of the S networks, about what comes next: [S, K], in double precision."""
    weights: Mapping[str, Tensor] | None
    """The parameters of the first network at this step, by their names in `find_frozen_target`; None for an LSTM."""


def find_frozen_target(target: SequenceTarget) -> SequenceTarget:
    """The target of the LSTMs that a HyperLSTM is at its steps.

    Raises:
        ValueError: if the weights of the target do not change.
    """
    size = target.size
    if not isinstance(size, HyperLSTMSize):
        raise ValueError("the weights of an LSTM do not change")
    frozen = LSTMSize(size.hidden_size, size.num_layers, size.layer_norm)
    return SequenceTarget(frozen, target.input_size, target.num_outputs)


def freeze(network: SequenceNetwork, scales: Sequence[Tensor]) -> dict[str, Tensor]:
    """Parameters of the LSTM that the first of S networks is at a step, by their names in `find_frozen_target`.

    Args:
        network: HyperLSTMs.
        scales: for each layer, factors of the rows of W_h and W_x, and biases of the first network's step, [3, 4, H].
    """
    frozen = dict[str, Tensor]()
    for number, (cell, (of_h, of_x, bias)) in enumerate(zip(network.cells, scales, strict=True)):
        assert isinstance(cell, HyperLSTMCell)
        own = {
            "weight_x": cell.weight_x * of_x.flatten()[:, None],
            "weight_h": cell.weight_h * of_h.flatten()[:, None],
            "bias": bias.flatten(),
            **{f"update.{name}": parameter for name, parameter in cell.update.named_parameters()},
        }
        frozen |= {f"recurrent.layers.{number}.{name}": tensor.detach() for name, tensor in own.items()}
    weight, bias = network.output.weight, network.output.bias
    first = (weight, bias) if weight.dim() == 2 else (weight[0], bias[0])
    return frozen | {f"output.{name}": part.detach() for name, part in zip(("weight", "bias"), first, strict=True)}
