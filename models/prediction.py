"""Predictions of sampled networks."""

import torch
from torch import Tensor

from models.sampler import WeightSampler


@torch.inference_mode()
def evaluate_members(sampler: WeightSampler, inputs: Tensor, seed: int, size: int) -> Tensor:
    """Outputs of members 0 … size−1 of a seed; a task says what they mean.

    Networks are drawn, evaluated and dropped in blocks, so memory beside the result does not grow with `size`.

    Args:
        sampler: in evaluation mode.
        inputs: [B, *input shape], normalised, on any device.
        seed: of the draw.
        size: S.

    Returns:
        float32 [S, B, K], on the CPU.
    """
    inputs = inputs.to(sampler.device)
    networks_per_block = max(1, 4_000_000 // sampler.target.num_weights)  # 16 MB of weights
    blocks = []
    for start in range(0, size, networks_per_block):
        weights = sampler.sample(seed, range(start, min(start + networks_per_block, size)))
        blocks.append(sampler.target.forward(weights, inputs).cpu())
    return torch.cat(blocks)
