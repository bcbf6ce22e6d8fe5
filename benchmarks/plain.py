"""PyTorch's own ways to evaluate many networks; they need PyTorch alone."""

import torch
from torch import Tensor

from models.targets.target import TargetNetwork, Weights


def forward_vmap(target: TargetNetwork, weights: Weights, inputs: Tensor) -> Tensor:
    """PyTorch's own module, vectorised over networks."""
    module = target.module()
    call = torch.func.functional_call
    outputs: Tensor = torch.vmap(lambda own: call(module, own, (inputs,)))(weights)
    return outputs


def forward_loop(target: TargetNetwork, weights: Weights, inputs: Tensor) -> Tensor:
    """PyTorch's own module, network after network."""
    module, count = target.module(), len(next(iter(weights.values())))
    networks = ({name: tensor[i] for name, tensor in weights.items()} for i in range(count))
    return torch.stack([torch.func.functional_call(module, own, (inputs,)) for own in networks])
